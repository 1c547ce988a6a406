// Package replay answers what a policy would have done with a pool under a given load, and what that
// would have cost. It is a discrete simulation: machines boot, serve, and leave, and load divides
// itself among those that serve, by what they are worth. Which sizes machines have, and which of them go, is decided
// as the control plane does, by [weir.Mix]. weir pool simulate and make bench-scale are both of it.
package replay

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"weir/scale"
	"weir/weir"
)

// Point is a load at a moment.
type Point struct {
	At   time.Time
	Load float64
}

// Trace is a load over time, by time. Between its points it is on the line from one to the next.
type Trace []Point

// Machines are what a pool is made of. What is counted in machines, or is what they are worth, is counted in those of
// the pool's first size.
type Machines struct {
	Pool     weir.Pool     // says of which sizes they are and what those cost; the zero value has all alike, and at no price
	Capacity float64       // the load at which one of the first size has no CPU left
	Boot     time.Duration // until one serves
	Drain    time.Duration // that one is paid for after it has left
	Good     float64       // the share of Capacity up to which one serves well
}

// View is what a policy is told, every [scale.Every].
type View struct {
	Now             time.Time
	Wanted          int            // what it said last, or as much of it as there is room for
	Serving, Booted float64        // what the machines that serve are worth, and those that there are with those that boot
	Samples         []scale.Sample // the oldest first, of [scale.Recall] at least
	Boots           []time.Duration
}

// Policy says how large a pool should be.
type Policy interface {
	Size(v *View) (size int, why string)
}

// Change is a change of a pool's size.
type Change struct {
	At       time.Time
	From, To int
	Why      string
}

// Minute is what was so in a minute.
type Minute struct {
	At      time.Time
	Load    float64 // the highest
	Needed  float64 // how many machines serve the highest load well; a whole number if there is one size alone
	Serving float64 // what those that served were worth, at the least
	Wanted  int     // the last
}

// Used is what was used of one of the pool's offers.
type Used struct {
	weir.Placement
	Machine time.Duration // that its machines together were paid for
	Cost    float64
	Most    int // at the same time, without those that leave
}

// Result is what a policy did.
type Result struct {
	Bad     time.Duration // with fewer machines than the load needed
	Machine time.Duration // that all machines together were paid for
	Cost    float64       // of that, by the prices of their sizes
	Most    int           // machines at the same time, without those that leave
	Sizes   []Used        // each of the pool's
	Changes []Change
	Minutes []Minute
}

const tick = 5 * time.Second

// Run has a policy follow a trace, at first with as many machines as serve its first load well, if the pool may have so many. What
// comes before from is for the policy to learn from, and not in the result.
func Run(t Trace, from time.Time, m Machines, p Policy) Result {
	if len(t) == 0 {
		return Result{}
	}
	r := run{trace: t, Machines: m, policy: p, offers: m.Pool.Offers()}
	r.have = make([]int, len(r.offers))
	for _, o := range r.offers {
		r.Sizes = append(r.Sizes, Used{Placement: o.Placement()})
	}
	first := int(max(1, min(math.Ceil(r.needed(t[0].Load)-1e-9), 1e6)))
	if r.Pool.Scale != nil {
		first = r.Pool.Clamp(first)
	}
	r.Pool.Count = first
	r.settle(t[0].At.Add(-m.Boot))
	r.view = View{Wanted: first, Boots: []time.Duration{m.Boot}}
	for now := t[0].At; now.Before(t[len(t)-1].At); now = now.Add(tick) {
		r.tick(now, !now.Before(from))
	}
	for i, o := range r.offers {
		r.Sizes[i].Cost = r.Sizes[i].Machine.Hours() * o.Price
		r.Cost += r.Sizes[i].Cost
	}
	return r.Result
}

type run struct {
	Result
	Machines
	offers  []weir.Offer
	trace   Trace
	at      int // the point of the trace that was passed last
	policy  Policy
	view    View
	members []weir.Machine // those that serve or boot, the oldest first
	coming  int            // how many of them boot
	serving float64        // what the others are worth
	have    []int          // how many of them are of each size
	serial  int
	leaving []leaving
	cpu     float64 // since the last sample
	asked   float64
	ticks   int
}

// leaving is a machine that has left and is still paid for.
type leaving struct {
	size  int
	until time.Time
}

// load returns the trace's load at a time that is not before the last one.
func (r *run) load(now time.Time) float64 {
	for r.at+1 < len(r.trace) && !r.trace[r.at+1].At.After(now) {
		r.at++
	}
	a := r.trace[r.at]
	if r.at+1 == len(r.trace) {
		return a.Load
	}
	b := r.trace[r.at+1]
	part := now.Sub(a.At).Seconds() / b.At.Sub(a.At).Seconds()
	return a.Load + (b.Load-a.Load)*part
}

// needed returns how many machines serve a load well.
func (r *run) needed(load float64) float64 {
	n := load / (r.Capacity * cmp.Or(r.Good, 1))
	if r.Pool.Mixed() {
		return n
	}
	return math.Ceil(n - closeTo)
}

// closeTo is how far two sums may differ that are meant to be the same.
const closeTo = 1e-9

func (r *run) tick(now time.Time, counts bool) {
	if r.coming > 0 {
		r.arrive(now)
	}
	r.leaving = slices.DeleteFunc(r.leaving, func(l leaving) bool { return !l.until.After(now) })
	load := r.load(now)
	if counts {
		r.count(now, load)
	}
	r.cpu += min(r.serving, load/r.Capacity)
	r.asked += load
	r.ticks++
	if now.Sub(r.trace[0].At)%scale.Every != 0 {
		return
	}
	s := scale.NewSample(now, r.serving)
	s.Load[scale.CPU], s.Load[scale.Requests] = r.cpu/float64(r.ticks), r.asked/float64(r.ticks)
	r.cpu, r.asked, r.ticks = 0, 0, 0
	v := &r.view
	v.Now, v.Serving, v.Booted = now, r.serving, r.worth()
	if len(v.Samples) > 1000 {
		v.Samples = slices.Delete(v.Samples, 0, 500)
	}
	v.Samples = append(v.Samples, s)
	size, why := r.roomFor(r.policy.Size(v))
	if size == v.Wanted {
		return
	}
	if counts {
		r.Changes = append(r.Changes, Change{now, v.Wanted, size, why})
	}
	v.Wanted, r.Pool.Count = size, size
	r.settle(now)
}

// worth returns what all machines are worth.
func (r *run) worth() (units float64) {
	for i, n := range r.have {
		units += float64(n) * r.offers[i].Weight
	}
	return units
}

// roomFor returns a size by which a pool grows by no more than its sizes have room for.
func (r *run) roomFor(size int, why string) (int, string) {
	if size <= r.view.Wanted {
		return size, why
	}
	p := r.Pool
	p.Count = size
	x := p.Mix(r.members, nil)
	if _, short := x.Grow(float64(size)); short != "" {
		why = fmt.Sprintf("there is no room for %d machines (%s)", size, short)
		size = max(r.view.Wanted, int(x.Units+closeTo))
	}
	return size, why
}

// settle gives the pool the machines that it is to have.
func (r *run) settle(now time.Time) {
	x := r.Pool.Mix(r.members, nil)
	for _, m := range x.Shrink(r.members, float64(r.Pool.Count)) {
		if m.Serves() {
			r.serving -= m.Capacity()
		} else {
			r.coming--
		}
		size := r.sizeOf(&m)
		r.have[size]--
		r.leaving = append(r.leaving, leaving{size, now.Add(r.Drain)})
		r.members = slices.DeleteFunc(r.members, func(is weir.Machine) bool { return is.ID == m.ID })
	}
	more, _ := x.Grow(float64(r.Pool.Count))
	for _, o := range more {
		r.serial++
		m := weir.Machine{ID: weir.ID(strconv.Itoa(r.serial)), Created: now, Worth: o.Weight}
		m.Size, m.Region = o.Size, o.Region
		r.have[r.sizeOf(&m)]++
		r.members = append(r.members, m)
		r.coming++
	}
}

func (r *run) sizeOf(m *weir.Machine) int {
	return slices.IndexFunc(r.offers, func(o weir.Offer) bool { return o.Placement() == m.Placement() })
}

// arrive has machines serve that have booted. With them others may go that are not needed any more.
func (r *run) arrive(now time.Time) {
	coming := r.coming
	for i := range r.members {
		m := &r.members[i]
		if !m.Serves() && !m.Created.Add(r.Boot).After(now) {
			m.Status.Phase, m.Status.Private = weir.MachineActive, netip.IPv4Unspecified()
			r.serving += m.Capacity()
			r.coming--
		}
	}
	if r.coming != coming {
		r.settle(now)
	}
}

func (r *run) count(now time.Time, load float64) {
	needed := r.needed(load)
	if needed > r.serving+closeTo {
		r.Bad += tick
	}
	r.Machine += time.Duration(len(r.members)+len(r.leaving)) * tick
	r.Most = max(r.Most, len(r.members))
	for i, n := range r.have {
		r.Sizes[i].Machine += time.Duration(n) * tick
		r.Sizes[i].Most = max(r.Sizes[i].Most, n)
	}
	for _, l := range r.leaving {
		r.Sizes[l.size].Machine += tick
	}
	at := now.Truncate(time.Minute)
	if n := len(r.Minutes); n == 0 || r.Minutes[n-1].At != at {
		r.Minutes = append(r.Minutes, Minute{At: at, Serving: r.serving})
	}
	m := &r.Minutes[len(r.Minutes)-1]
	m.Load, m.Needed = max(m.Load, load), max(m.Needed, needed)
	m.Serving, m.Wanted = min(m.Serving, r.serving), r.view.Wanted
}

// Weir is Weir's policy: scale.Decide by rules, with what it learns.
type Weir struct {
	Rules scale.Rules

	// Demands returns the times around now in which schedules ask for a size; nil for none.
	Demands func(now time.Time) []scale.Demand

	pool  scale.Pool
	past  scale.Past
	needs float64 // since the last step of the past
	n     int
}

// Size keeps the promise of [Policy].
func (w *Weir) Size(v *View) (int, string) {
	first := len(v.Samples)
	for first > 0 && v.Now.Sub(v.Samples[first-1].At) <= scale.Recall {
		first--
	}
	rules := w.Rules
	if w.Demands != nil {
		rules.Demands = w.Demands(v.Now)
	}
	lately := w.pool.Lately
	w.pool = scale.Pool{Rules: rules, Size: v.Wanted, Lately: lately, Boots: v.Boots, Recent: v.Samples[first:], Past: &w.past}
	d := scale.Decide(&w.pool, v.Now)
	if d.Size != v.Wanted {
		w.pool.Lately = append(lately, scale.Change{At: v.Now, From: v.Wanted, To: d.Size})
		w.pool.Lately = w.pool.Lately[max(0, len(w.pool.Lately)-100):]
	}
	if need, ok := scale.Need(&w.pool); ok {
		w.needs += need
		w.n++
	}
	if v.Now.Truncate(scale.Step) == v.Now && w.n > 0 {
		w.past.Note(v.Now, w.needs/float64(w.n))
		w.needs, w.n = 0, 0
	}
	return d.Size, d.Why
}
