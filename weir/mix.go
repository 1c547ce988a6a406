package weir

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// maxOffers is how many sizes the machines of a pool may have.
const maxOffers = 10

// Offer is a size that the machines of a pool may have.
type Offer struct {
	Size   string  `json:"size"`
	Region string  `json:"region,omitempty"` // the one that the pool is in, if it says any
	Price  float64 `json:"price,omitempty"`  // of one machine an hour; 0 if nobody has said
	Weight float64 `json:"weight,omitempty"` // how many machines of the first size it is worth; 0: by their vCPUs
	Share  float64 `json:"share,omitempty"`  // how many of the pool's machines have it, beside the shares of the others
	Max    int     `json:"max,omitempty"`    // how many machines may have it; 0 for any number
}

// Offers returns the sizes that the machines of p may have, with a Weight each. The first is what p's size is
// counted in.
func (p *Pool) Offers() []Offer {
	if len(p.Sizes) == 0 {
		only := Offer{Size: p.Template.Size, Weight: 1}
		if p.Scale != nil {
			only.Price = p.Scale.Price
		}
		return []Offer{only}
	}
	all := slices.Clone(p.Sizes)
	first, _ := SizeOf(all[0].Size)
	for i := range all {
		if size, _ := SizeOf(all[i].Size); all[i].Weight == 0 {
			all[i].Weight = float64(max(1, size.CPUs)) / float64(max(1, first.CPUs))
		}
	}
	return all
}

// Offer returns what p says of a size, if its machines may have it.
func (p *Pool) Offer(size string) (o Offer, ok bool) {
	for _, o := range p.Offers() {
		if o.Size == size {
			return o, true
		}
	}
	return Offer{}, false
}

// checkSizes returns what is wrong with the sizes that a pool may have in a region of that name.
func (p *Pool) checkSizes(region string) error {
	if len(p.Sizes) > maxOffers {
		return Errorf(Invalid, "there are %d sizes, at most %d are allowed", len(p.Sizes), maxOffers)
	}
	for i, o := range p.Sizes {
		if err := o.check(region); err != nil {
			return Errorf(Invalid, "sizes[%d]: %w", i, err)
		}
		switch first := p.Sizes[0]; {
		case i > 0 && slices.ContainsFunc(p.Sizes[:i], func(other Offer) bool { return other.Size == o.Size }):
			return Errorf(Invalid, "sizes[%d]: size %q is there twice", i, o.Size)
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

func (o *Offer) check(region string) error {
	if region != "" && o.Region != "" && o.Region != region {
		return Errorf(Invalid, "region is %q, this Weir runs region %q: all machines of a pool are in that", o.Region, region)
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

// Mix is how many machines of each size a pool has, and decides which size comes next and which goes first.
//
// Without shares the next is of the size that costs least for what it is worth, or of the first in the list where there
// are no prices; with shares of the one that lags behind its share the most. A size that its cloud has no
// room for, whose max is reached, that the budget does not pay for, or with which the pool would be
// larger than it may be is passed over.
type Mix struct {
	offers []Offer
	have   []int
	short  func(size string) bool
	budget float64 // 0 for any
	top    float64 // what the pool may be worth

	Units float64 // what its machines are worth, in machines of the first size
	Cost  float64 // what they cost an hour, as far as that is known
}

// closeTo is how far two sums may differ that are meant to be the same.
const closeTo = 1e-9

// Mix returns the mix of some machines of p. Sizes of which short says so are passed over.
func (p *Pool) Mix(of []Machine, short func(size string) bool) *Mix {
	x := &Mix{offers: p.Offers(), short: short, top: float64(p.Count)}
	x.have = make([]int, len(x.offers))
	if p.Scale != nil {
		x.budget, x.top = p.Scale.Budget, max(x.top, float64(p.Scale.Max))
	}
	for i := range of {
		x.add(of[i].Size, of[i].Capacity(), 1)
	}
	return x
}

func (x *Mix) add(size string, worth float64, n int) {
	x.Units += worth * float64(n)
	if i := x.at(size); i >= 0 {
		x.have[i] += n
		x.Cost += x.offers[i].Price * float64(n)
	}
}

func (x *Mix) at(size string) int {
	return slices.IndexFunc(x.offers, func(o Offer) bool { return o.Size == size })
}

// Add adds a machine of a size that may be.
func (x *Mix) Add(o Offer) { x.add(o.Size, o.Weight, 1) }

// Remove takes a machine away.
func (x *Mix) Remove(m *Machine) { x.add(m.Size, m.Capacity(), -1) }

// Has reports whether the mix is worth so many machines of the first size.
func (x *Mix) Has(units float64) bool { return x.Units >= units-closeTo }

// Spares reports whether the mix is worth so many without m.
func (x *Mix) Spares(m *Machine, units float64) bool { return x.Units-m.Capacity() >= units-closeTo }

// Next returns the size that the next machine should have. If none can be, it says why.
func (x *Mix) Next() (o Offer, why string) {
	best, why := -1, "no size has room"
	fits := false
	for i, o := range x.offers {
		switch {
		case x.short != nil && x.short(o.Size):
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

// comesBefore reports whether the next machine should rather be of the size i than j. Where none fits, the smaller.
func (x *Mix) comesBefore(i, j int, fit bool) bool {
	if !fit {
		return x.offers[i].Weight < x.offers[j].Weight
	}
	return x.rank(i, 1) < x.rank(j, 1)-closeTo
}

// rank says how dear size i is, or how far it is beyond its share with some machines more.
func (x *Mix) rank(i, more int) float64 {
	if o := x.offers[i]; o.Share > 0 {
		return float64(x.have[i]+more) / o.Share
	} else if o.Price > 0 {
		return o.Price / o.Weight
	}
	return float64(i)
}

// Rank says how soon machines of a size should go, the higher the sooner: what costs most for its worth, or is
// most beyond its share, and before all what is not among the pool's sizes any more.
func (x *Mix) Rank(size string) float64 {
	if i := x.at(size); i >= 0 {
		return x.rank(i, 0)
	}
	return math.Inf(1)
}

// Spare returns which of all, the machines that make up the mix, goes first because it is to be worth no more than units, or -1 if none
// does: the one with which least is lost, then one of the size that goes the soonest, then as alike says of two that are equal in
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
		if best < 0 || cmp.Or(cmp.Compare(m.Lost(), all[best].Lost()), cmp.Compare(x.Rank(all[best].Size), x.Rank(m.Size)), alike(m, &all[best])) < 0 {
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
