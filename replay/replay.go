// Package replay answers what a policy would have done with a pool under a given load, and what that
// would have cost. It is a discrete simulation: machines boot, serve, and leave, and load divides
// itself evenly among those that serve. weir pool simulate and make bench-scale are both of it.
package replay

import (
	"cmp"
	"math"
	"slices"
	"time"

	"weir/scale"
)

// Point is a load at a moment.
type Point struct {
	At   time.Time
	Load float64
}

// Trace is a load over time, by time. Between its points it is on the line from one to the next.
type Trace []Point

// Machines are what a pool is made of.
type Machines struct {
	Capacity float64       // the load at which one has no CPU left
	Boot     time.Duration // until one serves
	Drain    time.Duration // that one is paid for after it has left
	Good     float64       // the share of Capacity up to which one serves well
}

// View is what a policy is told, every [scale.Every].
type View struct {
	Now             time.Time
	Wanted          int            // what it said last
	Serving, Booted int            // machines that serve, and machines that there are with those that boot
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
	Needed  int     // the fewest machines that would serve the highest load well
	Serving int     // the fewest
	Wanted  int     // the last
}

// Result is what a policy did.
type Result struct {
	Bad     time.Duration // with fewer machines than the load needed
	Machine time.Duration // that all machines together were paid for
	Changes []Change
	Minutes []Minute
}

const tick = 5 * time.Second

// Run has a policy follow a trace, with as many machines at first as serve its first load well. What
// comes before from is for the policy to learn from, and not in the result.
func Run(t Trace, from time.Time, m Machines, p Policy) Result {
	if len(t) == 0 {
		return Result{}
	}
	r := run{trace: t, Machines: m, policy: p}
	first := max(1, r.needed(t[0].Load))
	r.ready = make([]time.Time, first)
	r.view = View{Wanted: first, Boots: []time.Duration{m.Boot}}
	for now := t[0].At; now.Before(t[len(t)-1].At); now = now.Add(tick) {
		r.tick(now, !now.Before(from))
	}
	return r.Result
}

type run struct {
	Result
	Machines
	trace   Trace
	at      int // the point of the trace that was passed last
	policy  Policy
	view    View
	ready   []time.Time // of each machine when it serves, or did first, in order
	leaving []time.Time // until when those that left are paid for
	cpu     float64     // since the last sample
	asked   float64
	ticks   int
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

// needed returns how few machines serve a load well.
func (r *run) needed(load float64) int {
	return int(math.Ceil(load/(r.Capacity*cmp.Or(r.Good, 1)) - 1e-9))
}

func (r *run) tick(now time.Time, counts bool) {
	serving := 0
	for serving < len(r.ready) && !r.ready[serving].After(now) {
		serving++
	}
	r.leaving = slices.DeleteFunc(r.leaving, func(t time.Time) bool { return !t.After(now) })
	load := r.load(now)
	if counts {
		r.count(now, load, serving)
	}
	r.cpu += min(float64(serving), load/r.Capacity)
	r.asked += load
	r.ticks++
	if now.Sub(r.trace[0].At)%scale.Every != 0 {
		return
	}
	s := scale.NewSample(now, float64(serving))
	s.Load[scale.CPU], s.Load[scale.Requests] = r.cpu/float64(r.ticks), r.asked/float64(r.ticks)
	r.cpu, r.asked, r.ticks = 0, 0, 0
	v := &r.view
	v.Now, v.Serving, v.Booted = now, serving, len(r.ready)
	if len(v.Samples) > 1000 {
		v.Samples = slices.Delete(v.Samples, 0, 500)
	}
	v.Samples = append(v.Samples, s)
	size, why := r.policy.Size(v)
	if size == v.Wanted {
		return
	}
	if counts {
		r.Changes = append(r.Changes, Change{now, v.Wanted, size, why})
	}
	v.Wanted = size
	for len(r.ready) < size {
		r.ready = append(r.ready, now.Add(r.Boot))
	}
	for range len(r.ready) - size { // the newest, which may not serve yet
		r.ready = r.ready[:len(r.ready)-1]
		r.leaving = append(r.leaving, now.Add(r.Drain))
	}
}

func (r *run) count(now time.Time, load float64, serving int) {
	needed := r.needed(load)
	if needed > serving {
		r.Bad += tick
	}
	r.Machine += time.Duration(len(r.ready)+len(r.leaving)) * tick
	at := now.Truncate(time.Minute)
	if n := len(r.Minutes); n == 0 || r.Minutes[n-1].At != at {
		r.Minutes = append(r.Minutes, Minute{At: at, Serving: serving})
	}
	m := &r.Minutes[len(r.Minutes)-1]
	m.Load, m.Needed = max(m.Load, load), max(m.Needed, needed)
	m.Serving, m.Wanted = min(m.Serving, serving), r.view.Wanted
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
