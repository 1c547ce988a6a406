package weir

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// maxOffers is how many sizes the machines of a pool may have.
const maxOffers = 10

// Placement is where a machine is, and of which size.
type Placement struct{ Region, Size string }

// String is as in "s-1vcpu-1gb in nyc3".
func (p Placement) String() string { return p.Size + " in " + p.Region }

// Placement returns that of the machines that t makes.
func (t *Template) Placement() Placement { return Placement{t.Region, t.Size} }

// Offer is a size that the machines of a pool may have, and where they may have it.
type Offer struct {
	Size   string  `json:"size"`
	Region string  `json:"region,omitempty"` // that of the pool's template if empty
	Price  float64 `json:"price,omitempty"`  // of one machine an hour; 0 if nobody has said
	Weight float64 `json:"weight,omitempty"` // how many machines of the first size it is worth; 0: by their vCPUs
	Share  float64 `json:"share,omitempty"`  // how many of the pool's machines are of it, beside the shares of the others
	Max    int     `json:"max,omitempty"`    // how many machines may be of it; 0 for any number
}

// Placement returns that of machines of o, which is one of those of [Pool.Offers].
func (o *Offer) Placement() Placement { return Placement{o.Region, o.Size} }

// Offers returns what the machines of p may be of, with a Region and a Weight each. The first is what p's size is
// counted in.
func (p *Pool) Offers() []Offer {
	if len(p.Sizes) == 0 {
		only := Offer{Size: p.Template.Size, Region: p.Template.Region, Weight: 1}
		if p.Scale != nil {
			only.Price = p.Scale.Price
		}
		return []Offer{only}
	}
	all := slices.Clone(p.Sizes)
	first, _ := SizeOf(all[0].Size)
	for i := range all {
		all[i].Region = cmp.Or(all[i].Region, p.Template.Region)
		if size, _ := SizeOf(all[i].Size); all[i].Weight == 0 {
			all[i].Weight = float64(max(1, size.CPUs)) / float64(max(1, first.CPUs))
		}
	}
	return all
}

// Spans reports whether the machines of p may be in several regions.
func (p *Pool) Spans() bool {
	return slices.ContainsFunc(p.Sizes, func(o Offer) bool { return cmp.Or(o.Region, p.Template.Region) != p.Template.Region })
}

// Called returns what users of p know a placement by: its size, and where it is if there are several regions.
func (p *Pool) Called(at Placement) string {
	if p.Spans() {
		return at.String()
	}
	return at.Size
}

// Offer returns what p says of machines there, if it may have any.
func (p *Pool) Offer(at Placement) (o Offer, ok bool) {
	for _, o := range p.Offers() {
		if o.Placement() == at {
			return o, true
		}
	}
	return Offer{}, false
}

// checkSizes returns what is wrong with the sizes that a pool may have where these are the regions.
func (p *Pool) checkSizes(regions []string) error {
	if len(p.Sizes) > maxOffers {
		return Errorf(Invalid, "there are %d sizes, at most %d are allowed", len(p.Sizes), maxOffers)
	}
	for i, o := range p.Sizes {
		if err := o.check(regions); err != nil {
			return Errorf(Invalid, "sizes[%d]: %w", i, err)
		}
		in := cmp.Or(o.Region, p.Template.Region)
		same := func(other Offer) bool { return other.Size == o.Size && cmp.Or(other.Region, p.Template.Region) == in }
		switch first := p.Sizes[0]; {
		case slices.ContainsFunc(p.Sizes[:i], same):
			return Errorf(Invalid, "sizes[%d]: size %q is there twice%s", i, o.Size, where(o.Region))
		case i == 0 && in != p.Template.Region:
			return Errorf(Invalid, "sizes[0]: region is %q, want %q, which the pool's machines are in otherwise", o.Region, p.Template.Region)
		case i == 0 && o.Size != p.Template.Size:
			return Errorf(Invalid, "sizes[0]: size is %q, want %q, which the pool's machines have otherwise: its size is counted in the first", o.Size, p.Template.Size)
		case i == 0 && o.Weight != 0 && o.Weight != 1:
			return Errorf(Invalid, "sizes[0]: weight is %v, want 1: the others are compared with the first", o.Weight)
		case (o.Price == 0) != (first.Price == 0):
			return Errorf(Invalid, "sizes[%d]: hourly_cost is there for some sizes alone, want it for all or for none", i)
		case (o.Share == 0) != (first.Share == 0):
			return Errorf(Invalid, "sizes[%d]: share is there for some sizes alone, want it for all or for none", i)
		}
	}
	if len(p.Sizes) > 0 && p.Scale != nil && p.Scale.Price != 0 {
		return Errorf(Invalid, "machine_hourly_cost is there beside sizes, which say what their machines cost: leave it out")
	}
	return nil
}

// where says in which region, if one is named.
func where(region string) string {
	if region == "" {
		return ""
	}
	return " for region " + region
}

func (o *Offer) check(regions []string) error {
	if o.Region != "" {
		if err := checkRegion(o.Region, regions); err != nil {
			return err
		}
	}
	if _, ok := SizeOf(o.Size); !ok {
		return Errorf(Invalid, "size %q is not offered, want one of %s", o.Size, strings.Join(sizeSlugs(), ", "))
	}
	for _, f := range []struct {
		name        string
		value       float64
		least, most float64
	}{
		{"hourly_cost", o.Price, 0.0001, 1e6}, {"weight", o.Weight, 0.1, 100}, {"share", o.Share, 0.01, 1000}, {"max", float64(o.Max), 1, MaxPool},
	} {
		if f.value != 0 && !(f.value >= f.least && f.value <= f.most) {
			return Errorf(Invalid, "%s is %v, want %v to %v", f.name, f.value, f.least, f.most)
		}
	}
	return nil
}

// Mix is how many machines of each offer a pool has, and decides which comes next and which goes first.
//
// Without shares the next is of the size that costs least for what it is worth, or of the first in the list where there
// are no prices; with shares of the offer that lags behind its share the most. Of regions that are as good as each other it is in the one with the
// fewest machines, so that the pool is spread over them. An offer that its cloud has no
// room for, whose max is reached, that the budget does not pay for, or with which the pool would be
// larger than it may be is passed over.
type Mix struct {
	offers []Offer
	have   []int
	short  func(Placement) bool
	budget float64 // 0 for any
	top    float64 // what the pool may be worth

	Units float64 // what its machines are worth, in machines of the first size
	Cost  float64 // what they cost an hour, as far as that is known
}

// closeTo is how far two sums may differ that are meant to be the same.
const closeTo = 1e-9

// Mix returns the mix of some machines of p. Offers of which short says so are passed over.
func (p *Pool) Mix(of []Machine, short func(Placement) bool) *Mix {
	x := &Mix{offers: p.Offers(), short: short, top: float64(p.Count)}
	x.have = make([]int, len(x.offers))
	if p.Scale != nil {
		x.budget, x.top = p.Scale.Budget, max(x.top, float64(p.Scale.Max))
	}
	for i := range of {
		x.add(of[i].Placement(), of[i].Capacity(), 1)
	}
	return x
}

func (x *Mix) add(at Placement, worth float64, n int) {
	x.Units += worth * float64(n)
	if i := x.at(at); i >= 0 {
		x.have[i] += n
		x.Cost += x.offers[i].Price * float64(n)
	}
}

func (x *Mix) at(p Placement) int {
	return slices.IndexFunc(x.offers, func(o Offer) bool { return o.Placement() == p })
}

// Add adds a machine of an offer.
func (x *Mix) Add(o Offer) { x.add(o.Placement(), o.Weight, 1) }

// Remove takes a machine away.
func (x *Mix) Remove(m *Machine) { x.add(m.Placement(), m.Capacity(), -1) }

// Has reports whether the mix is worth so many machines of the first size.
func (x *Mix) Has(units float64) bool { return x.Units >= units-closeTo }

// Spares reports whether the mix is worth so many without m.
func (x *Mix) Spares(m *Machine, units float64) bool { return x.Units-m.Capacity() >= units-closeTo }

// Next returns what the next machine should be of. If none can be, it says why.
func (x *Mix) Next() (o Offer, why string) {
	best, why := -1, "no size has room"
	fits := false
	for i, o := range x.offers {
		switch {
		case x.short != nil && x.short(o.Placement()):
			continue
		case o.Max > 0 && x.have[i] >= o.Max:
			why = "its sizes have as many machines as their max says"
			continue
		case x.budget > 0 && x.Cost+o.Price > x.budget+closeTo:
			why = "max_hourly_cost pays for no more"
			continue
		}
		// One that makes the pool too large is better than none.
		fit := x.Units+o.Weight <= x.top+closeTo
		if best < 0 || fit && !fits || fit == fits && x.comesBefore(i, best, fit) {
			best, fits = i, fit
		}
	}
	if best < 0 {
		return Offer{}, why
	}
	return x.offers[best], ""
}

// Grow adds machines to the mix until it is worth units, and returns of which sizes. If it cannot be worth that much, it says why.
func (x *Mix) Grow(units float64) (more []Offer, why string) {
	for !x.Has(units) {
		o, why := x.Next()
		if why != "" {
			return more, why
		}
		x.Add(o)
		more = append(more, o)
	}
	return more, ""
}

// comesBefore reports whether the next machine should rather be of the offer i than j. Where none fits, the smaller.
func (x *Mix) comesBefore(i, j int, fit bool) bool {
	a, b := x.rank(i, 1), x.rank(j, 1)
	if !fit {
		a, b = x.offers[i].Weight, x.offers[j].Weight
	}
	if math.Abs(a-b) > closeTo {
		return a < b
	}
	return x.offers[i].Size == x.offers[j].Size && x.have[i] < x.have[j]
}

// rank says how dear offer i is, or how far it is beyond its share with some machines more.
func (x *Mix) rank(i, more int) float64 {
	if o := x.offers[i]; o.Share > 0 {
		return float64(x.have[i]+more) / o.Share
	} else if o.Price > 0 {
		return o.Price / o.Weight
	}
	return float64(slices.IndexFunc(x.offers, func(o Offer) bool { return o.Size == x.offers[i].Size }))
}

// compare says which of two machines of the mix should go sooner: what is not among the pool's offers any more, then what costs most
// for its worth or is most beyond its share, then who has the most beside it in its region.
func (x *Mix) compare(a, b *Machine) int {
	rank := func(m *Machine) (rank float64, beside int) {
		if i := x.at(m.Placement()); i >= 0 {
			return x.rank(i, 0), x.have[i]
		}
		return math.Inf(1), 0
	}
	first, besideFirst := rank(a)
	second, besideSecond := rank(b)
	return cmp.Or(cmp.Compare(second, first), cmp.Compare(besideSecond, besideFirst))
}

// Spare returns which of all, the machines that make up the mix, goes first because it is to be worth no more than units, or -1 if none
// does: the one with which least is lost, then one of the offer that goes the soonest, then as alike says of two that are equal in
// that. None of those that serve, as far as serves says, goes for one that does not serve yet.
func (x *Mix) Spare(all []Machine, units float64, serves func(*Machine) bool, alike func(a, b *Machine) int) int {
	arrived := 0.0
	for i := range all {
		if serves(&all[i]) {
			arrived += all[i].Capacity()
		}
	}
	best := -1
	for i := range all {
		m := &all[i]
		if !x.Spares(m, units) || serves(m) && arrived-m.Capacity() < units-closeTo {
			continue
		}
		if best < 0 || cmp.Or(cmp.Compare(m.Lost(), all[best].Lost()), x.compare(m, &all[best]), alike(m, &all[best])) < 0 {
			best = i
		}
	}
	return best
}

// Shrink takes from the mix those of all that [Mix.Spare] names until it names none, the newer of two that are equal, and returns them.
func (x *Mix) Shrink(all []Machine, units float64) (drop []Machine) {
	for all = slices.Clone(all); ; {
		i := x.Spare(all, units, (*Machine).Serves, Newer)
		if i < 0 {
			return drop
		}
		x.Remove(&all[i])
		drop = append(drop, all[i])
		all = slices.Delete(all, i, i+1)
	}
}

// Lost says how much would be lost with m, in order: a machine that will never serve, one that does not, one that does.
func (m *Machine) Lost() int {
	switch {
	case m.Status.Boot.State == BootFailed:
		return 0
	case !m.Serves():
		return 1
	default:
		return 2
	}
}

// Newer compares machines by their IDs, which are decimal numbers that rise: the newest come first.
func Newer(a, b *Machine) int {
	return cmp.Or(cmp.Compare(len(b.ID), len(a.ID)), cmp.Compare(b.ID, a.ID))
}

// Affords returns how many machines of the first size what the budget pays for is worth, 0 for any number.
func (p *Pool) Affords() int {
	if p.Scale == nil || p.Scale.Budget == 0 {
		return 0
	}
	x := p.Mix(nil, nil)
	x.top = MaxPool
	for x.Units < MaxPool {
		o, _ := x.Next()
		if o.Price == 0 {
			break
		}
		x.Add(o)
	}
	return int(x.Units + closeTo)
}

// Top returns how large a pool that follows its load may be, by its maximum and its budget.
func (p *Pool) Top() int {
	if n := p.Affords(); n > 0 {
		return min(n, p.Scale.Max)
	}
	return p.Scale.Max
}

// Clamp returns the size nearest to count that a pool may have which follows its load.
func (p *Pool) Clamp(count int) int { return min(max(count, p.Scale.Min), p.Top()) }

// Mixed reports whether the machines of p may be of several sizes.
func (p *Pool) Mixed() bool { return len(p.Sizes) > 1 }

// Capacity returns how many machines of its pool's first size m is worth.
func (m *Machine) Capacity() float64 { return cmp.Or(m.Worth, 1) }
