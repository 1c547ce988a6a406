// Package scale says how large a pool should be: [Decide] is a pure function of the load that was
// seen, of the pool's rules and of the time.
//
// It follows targets. A load is measured in machines: three machines whose CPUs are 80 % busy use 2.4
// machines' CPU, and with a target of 60 % that needs 4. The largest of a pool's needs counts.
//
//   - Growth is eager: what the last minute needs, what it needs where it goes on rising until a new
//     machine can serve, and what the same time of former days needed. How long a machine takes to
//     serve is learnt from those that were made before.
//   - Machines that are as busy as can be do not show how much there is to do. Then the requests do,
//     by what a request has cost while they were not.
//   - Shrinking is patient: down to the most that was needed in all of [Rules.Stabilisation], which must
//     be known without a gap, and not within [Rules.Cooldown] of a growth; longer for a pool that has
//     gone up and down again and again.
//   - A need within [Rules.Tolerance] above the size changes nothing, and neither does what noise explains: how much of it there
//     is shows in each minute against those around it, and a minute, a sample or a slope counts only as far as it is beyond that.
//   - A target whose signal is missing or stale may let a pool grow by the others, and never shrink.
//   - Whatever the load, a pool is never larger than its maximum and what its budget pays for, and
//     never smaller than its minimum and what is demanded for the time, as far as the budget goes.
//
// The package measures nothing and keeps nothing.
package scale

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Signal is what load is measured by.
type Signal int

// The signals. All but Response are of the pool as a whole, so that they do not depend on its size.
const (
	CPU        Signal = iota // how many machines' CPUs are busy
	Memory                   // how many machines' memory is used
	Requests                 // a second
	Concurrent               // requests that are being served, or wait
	Response                 // seconds that an answer takes
	Signals
)

// String returns what a signal is called in a sentence.
func (s Signal) String() string {
	return [...]string{"CPU", "memory", "requests/s", "concurrent requests", "response time"}[s]
}

// Sample is what was seen at one moment.
type Sample struct {
	At      time.Time
	Serving float64          // machines that served; of a pool with several sizes, what they are worth
	Load    [Signals]float64 // NaN for what is not known
}

// NewSample returns a sample of which no signal is known.
func NewSample(at time.Time, serving float64) Sample {
	s := Sample{At: at, Serving: serving}
	for i := range s.Load {
		s.Load[i] = math.NaN()
	}
	return s
}

// Rules say what a pool should be.
type Rules struct {
	Min, Max int

	// Targets are what one machine should bear; 0 for a signal that does not count. Those of CPU
	// and Memory are shares of it.
	Targets [Signals]float64

	// Percentile is of how many in a hundred requests response times are, 0 for the mean: to tell of it.
	Percentile int

	Most    int      // machines that the budget pays for; 0 for any number
	Demands []Demand // what schedules ask for

	// Otherwise the defaults.
	Tolerance     float64
	Cooldown      time.Duration // after a growth nothing shrinks so long
	Stabilisation time.Duration // what was needed in the last so long stays
	Boot          time.Duration // how long a machine takes to serve, while it is not learnt
}

// What counts where rules say nothing.
const (
	DefaultTolerance     = 0.1
	DefaultCooldown      = 5 * time.Minute
	DefaultStabilisation = 3 * time.Minute
	DefaultBoot          = time.Minute
)

// Demand is a time in which a pool has at least Min machines.
type Demand struct {
	Name        string
	From, Until time.Time
	Min         int
}

// Pool is a pool, and what was seen of it.
type Pool struct {
	Rules
	Size   int             // how many machines it is to have now
	Lately []Change        // how its size has changed by itself, the oldest first
	Boots  []time.Duration // how long the last machines took to serve
	Recent []Sample        // of the last minutes, the oldest first, Every apart
	Past   *Past           // nil if nothing is known of former days
}

// Change is a change of a pool's size.
type Change struct {
	At       time.Time
	From, To int
}

// Every is how often a pool should be looked at.
const Every = 15 * time.Second

const (
	fresh = time.Minute // a signal that is older is stale
	gap   = time.Minute // samples that are further apart leave something unknown
	short = time.Minute // over which load is averaged
	long  = 5 * time.Minute
)

// Recall is how long samples are of use: what a request costs is learnt from them.
const Recall = 15 * time.Minute

// Decision is how large a pool should be.
type Decision struct {
	Size  int
	Why   string    // a sentence with the numbers
	Again time.Time // when to decide again, at the latest

	// Next is how large it becomes at At if its load stays as it is; zero if nothing is coming.
	Next Next
}

// Next is a change that is coming.
type Next struct {
	Size int
	At   time.Time
	Why  string
}

// Decide returns how large a pool should be now.
func Decide(p *Pool, now time.Time) Decision {
	j := judge{Pool: p, now: now}
	j.defaults()
	d := j.decide()
	d.Again = now.Add(Every)
	return d
}

// judge is one decision in the making.
type judge struct {
	*Pool
	Rules
	now  time.Time
	lead time.Duration // until a machine serves that is asked for now

	moments []moment // of which something is known, the newest first
}

func (j *judge) defaults() {
	j.Rules = j.Pool.Rules
	j.Tolerance = cmp.Or(j.Tolerance, DefaultTolerance)
	j.Cooldown = cmp.Or(j.Cooldown, DefaultCooldown)
	j.Stabilisation = cmp.Or(j.Stabilisation, DefaultStabilisation)
	j.lead = j.boot() + Every
}

// boot returns how long a machine takes to serve: three of four were not slower.
func (j *judge) boot() time.Duration {
	if len(j.Boots) == 0 {
		return cmp.Or(j.Boot, DefaultBoot)
	}
	sorted := slices.Sorted(slices.Values(j.Boots))
	return min(max(sorted[len(sorted)*3/4], time.Second), 15*time.Minute)
}

func (j *judge) decide() Decision {
	bounds := j.bounds()
	n := j.need()
	d := Decision{Size: j.Size, Why: n.why}
	up := j.fit(n.most)
	switch {
	case n.most > float64(j.Size)*(1+j.Tolerance) && up > j.Size:
		d.Size = up
	case n.known:
		d.Size, d.Next = j.shrink(n)
		if d.Size == j.Size && d.Next.Size == 0 {
			d.Why += fmt.Sprintf(", which %d can bear", j.Size)
		}
	case n.missing != "" && up < j.Size:
		d.Why += fmt.Sprintf("; it does not shrink while nothing is known of its %s", n.missing)
	}
	return bounds.apply(j, d)
}

// fit returns how few machines bear what is needed.
func (j *judge) fit(need float64) int {
	return int(math.Ceil(min(need, 1e6)/(1+j.Tolerance/2) - 1e-9))
}

// need is how many machines a load needs, as far as it is known.
type need struct {
	most    float64 // of all that follows
	known   bool    // all targets have fresh signals
	missing string  // the signal that is not known, if others are
	held    float64 // without what may yet come: the most that was needed lately
	whole   bool    // held is of all of the stabilisation
	when    time.Time
	why     string
}

// moment is what one sample needs.
type moment struct {
	ago    time.Duration
	need   float64
	signal Signal
	known  bool // all targets have a signal
	any    bool // at least one has
	full   bool // its machines were as busy as can be
}

// busy is when machines do not show any more how much there is to do.
const busy = 0.9

// measure returns what a sample needs.
func (j *judge) measure(s *Sample, cost float64) moment {
	m := moment{ago: j.now.Sub(s.At), known: true}
	for signal, target := range j.Targets {
		if target <= 0 {
			continue
		}
		load := s.Load[signal]
		if math.IsNaN(load) || load < 0 {
			m.known = false
			continue
		}
		need := load / target
		switch Signal(signal) {
		case CPU:
			if s.Serving > 0 && load >= busy*s.Serving {
				m.full = true
				if requests := s.Load[Requests]; cost > 0 && requests >= 0 {
					need = max(need, requests*cost/target)
				} else {
					need *= 1.5
				}
			}
		case Response:
			need = s.Serving * strain(load/target)
		}
		if need >= m.need || !m.any {
			m.need, m.signal, m.any = max(need, m.need), Signal(signal), true
		}
	}
	return m
}

// strain returns how many times as many machines a response time asks for. It does not follow it all the
// way: one that is within its target says little of how many machines would do.
func strain(ratio float64) float64 {
	switch {
	case ratio > 1:
		return min(ratio, 2)
	case ratio > 0.7:
		return 1
	}
	return ratio / 0.7
}

// cost returns how much of a machine's CPU a request of each second has taken while there was CPU to
// spare, or 0 if that is not known. What was seen last does not count: it is what is judged.
func (j *judge) cost() float64 {
	var all []float64
	for i := range j.Recent[:max(0, len(j.Recent)-1)] {
		s := &j.Recent[i]
		cpu, requests := s.Load[CPU], s.Load[Requests]
		if requests > 0 && cpu >= 0 && cpu < busy*s.Serving {
			all = append(all, cpu/requests)
		}
	}
	if len(all) < 4 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (j *judge) need() (n need) {
	last := len(j.Recent) - 1
	for last >= 0 && j.Recent[last].At.After(j.now) {
		last--
	}
	if last < 0 || j.now.Sub(j.Recent[last].At) > fresh {
		n.why = "no load is known" + j.since(last)
		return n
	}
	cost := 0.0
	if s := &j.Recent[last]; j.Targets[CPU] > 0 && s.Load[Requests] > 0 {
		cost = j.cost()
	}
	newest := j.measure(&j.Recent[last], cost)
	if !newest.any {
		n.why = "no signal of its targets is known"
		return n
	}
	n.known = newest.known
	for signal, target := range j.Targets {
		if load := j.Recent[last].Load[signal]; target > 0 && n.missing == "" && !(load >= 0) {
			n.missing = Signal(signal).String()
		}
	}
	j.moments = make([]moment, 0, last+1)
	for i := last; i >= 0 && j.now.Sub(j.Recent[i].At) <= Recall; i-- {
		m := newest
		if i < last {
			m = j.measure(&j.Recent[i], cost)
		}
		if m.any {
			j.moments = append(j.moments, m)
		}
	}
	n.whole = n.known && j.whole()
	noise := j.noise()
	near := j.over(0, short)
	lasting := max(j.over(0, Recall), j.over(0, long)/(1+noise)) // which counts if it is still so
	// Two sigmas of each: a sample has up to twice a minute's.
	now := max(min(lasting, near), near/(1+2*noise), newest.need/(1+4*noise))
	n.most, n.why = now, j.tell(newest, &j.Recent[last], now)
	n.held = j.held() * (1 + 2.5*noise)
	if far := j.over(short, 2*short+short); far > 0 {
		// Noise is taken from the slope itself, not from what comes of it: the longer a machine boots, the more that would be. And
		// not all that may come is ordered at once: a rise that goes on is seen again at the next look, one that has ended is paid for.
		slope := min((near-far-5*noise*now)/(2*short).Seconds(), (j.over(0, short/2)-j.over(short/2, short))/(short/2).Seconds())
		if add := min(slope*j.lead.Seconds(), now/7); add > 0 {
			n.most = now + add
			n.why += fmt.Sprintf(", and %s by when a new one serves", figure(n.most))
		}
	}
	if expected := j.Past.expect(j.now, j.lead, now); expected > n.most {
		n.most = expected
		n.why = fmt.Sprintf("at this time of former days %s were needed, now it is %s", figure(expected), figure(now))
	}
	return n
}

// over returns the mean of what was needed from so long ago until so long ago, 0 if nothing is known of it.
func (j *judge) over(from, until time.Duration) float64 {
	var all mean
	for i := range j.moments {
		m := &j.moments[i]
		if m.ago >= until {
			break
		}
		if m.ago >= from {
			all.add(m.need)
		}
	}
	return all.of()
}

// held returns the most that was needed at any time of the stabilisation, each time over what came before it.
func (j *judge) held() (most float64) {
	span := min(3*short, max(j.Stabilisation, short/2))
	for ago := time.Duration(0); ago <= j.Stabilisation; ago += min(short, span) {
		most = max(most, j.over(ago, ago+span))
	}
	return most
}

// whole reports whether all of the stabilisation is known.
func (j *judge) whole() bool {
	at := time.Duration(0)
	for _, m := range j.moments {
		if m.ago-at > gap || !m.known {
			return false
		}
		if at = m.ago; at >= j.Stabilisation {
			return true
		}
	}
	return false
}

// What noise is taken to be, if it is less or not known, and at most.
const (
	someNoise = 0.03
	mostNoise = 0.1
)

// noise returns by how much of itself the load of a minute differs from what it is about, without the
// last minute, which is what is judged. It sees neither slopes nor steps.
func (j *judge) noise() float64 {
	var minutes, bends []float64
	for i := 4; i+4 <= len(j.moments); i++ {
		sum := 0.0
		for _, m := range j.moments[i : i+4] {
			sum += m.need
		}
		minutes = append(minutes, sum/4)
	}
	for i := 4; i+4 < len(minutes); i++ {
		bends = append(bends, math.Abs(minutes[i-4]-2*minutes[i]+minutes[i+4]))
	}
	if len(bends) < 20 {
		return someNoise
	}
	slices.Sort(bends)
	slices.Sort(minutes)
	about := minutes[len(minutes)/2]
	if about <= 0 {
		return someNoise
	}
	// Of normal noise the bends have the root of 6 of its size, and half of them are within 0.67 of that.
	return min(max(bends[len(bends)/2]/(0.6745*math.Sqrt(6))/about, someNoise), mostNoise)
}

// mean is one of several numbers.
type mean struct {
	sum float64
	n   int
}

func (m *mean) add(v float64) { m.sum += v; m.n++ }

func (m *mean) of() float64 {
	if m.n == 0 {
		return 0
	}
	return m.sum / float64(m.n)
}

// since says since when something is not known.
func (j *judge) since(last int) string {
	if last < 0 {
		return ""
	}
	return fmt.Sprintf(" of the last %s", j.now.Sub(j.Recent[last].At).Round(time.Second))
}

// tell says what a load needs.
func (j *judge) tell(m moment, s *Sample, needed float64) string {
	target, load := j.Targets[m.signal], s.Load[m.signal]
	switch m.signal {
	case CPU, Memory:
		full := ""
		if m.full {
			full = ", as busy as can be"
		}
		return fmt.Sprintf("%s at %.0f %% of %.4g%s, with a target of %.0f %% that needs %s", m.signal, 100*load/cmp.Or(s.Serving, 1), s.Serving, full, 100*target, figure(needed))
	case Response:
		of := ""
		if j.Percentile != 0 {
			of = fmt.Sprintf(" (p%d)", j.Percentile)
		}
		return fmt.Sprintf("response time%s %.0f ms of %.4g, with a target of %.0f ms that needs %s", of, 1000*load, s.Serving, 1000*target, figure(needed))
	}
	return fmt.Sprintf("%s %s, with a target of %s a machine that needs %s", figure(load), m.signal, figure(target), figure(needed))
}

func figure(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// shrink returns how small a pool may be whose load is known and does not make it grow, or what it waits for.
func (j *judge) shrink(n need) (int, Next) {
	held := max(n.held, n.most)
	to := j.fit(held)
	if to >= j.Size {
		to = j.Size // what is less than now may still go
		if now := j.fit(n.most); now < j.Size && now >= j.Min {
			return j.Size, Next{Size: now, At: j.now.Add(j.Stabilisation), Why: "if its load stays as it is"}
		}
		return to, Next{}
	}
	if to < j.Min {
		to = j.Min
	}
	if to >= j.Size {
		return j.Size, Next{}
	}
	if float64(j.Size-to) < j.Tolerance/2*float64(j.Size) {
		return j.Size, Next{} // not for so little
	}
	if grown, cooled := j.cooled(); j.now.Before(cooled) {
		return j.Size, Next{Size: to, At: cooled, Why: fmt.Sprintf("it grew %s ago and cools down", j.now.Sub(grown).Round(time.Second))}
	}
	if !n.whole {
		return j.Size, Next{Size: to, At: j.now.Add(j.Stabilisation), Why: fmt.Sprintf("the load of the last %s is not all known", j.Stabilisation)}
	}
	return to, Next{}
}

// remembered is for how long a pool that goes up and down is held to be one that does.
const remembered = 2 * time.Hour

// cooled returns when a pool last grew, and when it may shrink after that: after the cooldown, or twice, four
// times, … up to sixteen times that, if it has turned from one to the other again and again.
func (j *judge) cooled() (grown, cooled time.Time) {
	turns, up := 0, false
	for i, c := range j.Lately {
		if j.now.Sub(c.At) <= remembered && i > 0 && up != (c.To > c.From) {
			turns++
		}
		if up = c.To > c.From; up {
			grown = c.At
		}
	}
	if grown.IsZero() {
		return grown, grown
	}
	return grown, grown.Add(j.Cooldown << min(max(turns-1, 0), 4))
}

// bounds are what a pool's size is kept within.
type bounds struct {
	low, high       int
	lowWhy, highWhy string
	next            *Demand // the next that will need more
	ends            *Demand // the one that low is of, nil if it is the minimum
	after           int     // what low is when that has ended
}

func (j *judge) bounds() bounds {
	b := bounds{low: j.Min, high: j.Max, lowWhy: fmt.Sprintf("its minimum is %d", j.Min), highWhy: fmt.Sprintf("its maximum is %d", j.Max)}
	for i := range j.Demands {
		d := &j.Demands[i]
		from := d.From.Add(-j.lead)
		switch {
		case !d.Until.After(j.now):
		case j.now.Before(from):
			if b.next == nil || d.From.Before(b.next.From) {
				b.next = d
			}
		case d.Min > b.low:
			b.low, b.lowWhy = d.Min, fmt.Sprintf("%s wants at least %d until %s", d.Name, d.Min, d.Until.Format("15:04 MST"))
			b.ends = d
		}
	}
	if b.ends != nil {
		b.after = j.Min
		for _, d := range j.Demands {
			if !d.From.Add(-j.lead).After(b.ends.Until) && d.Until.After(b.ends.Until) {
				b.after = max(b.after, d.Min)
			}
		}
	}
	if j.Most > 0 && j.Most < b.high {
		b.high, b.highWhy = j.Most, fmt.Sprintf("its budget pays for %d", j.Most)
	}
	return b
}

// apply returns d within b.
func (b *bounds) apply(j *judge, d Decision) Decision {
	falls := b.falls(d)
	if d.Size < b.low {
		d.Size, d.Why, d.Next = b.low, b.lowWhy+"; "+d.Why, Next{}
	}
	if d.Size > b.high {
		d.Size, d.Why, d.Next = b.high, b.highWhy+"; "+d.Why, Next{}
	}
	if d.Next.Size != 0 {
		d.Next.Size = min(max(d.Next.Size, b.low), b.high)
		if d.Next.Size == d.Size {
			d.Next = Next{}
		}
	}
	if d.Next.Size == 0 && falls.Size != 0 && falls.Size < d.Size {
		d.Next = falls
	}
	if b.next != nil && min(b.next.Min, b.high) > d.Size && (d.Next.Size == 0 || b.next.From.Add(-j.lead).Before(d.Next.At)) {
		d.Next = Next{Size: min(b.next.Min, b.high), At: b.next.From.Add(-j.lead), Why: b.next.Name + " wants that many from " + b.next.From.Format("15:04 MST")}
	}
	return d
}

// falls returns what comes of d when the demand ends that keeps a pool larger than its load needs.
func (b *bounds) falls(d Decision) (n Next) {
	if b.ends == nil {
		return n
	}
	n = Next{Size: d.Size, At: b.ends.Until, Why: b.ends.Name + " ends"}
	if to := d.Next; to.Size != 0 && to.Size < d.Size {
		n.Size = to.Size
		if to.At.After(n.At) {
			n.At, n.Why = to.At, to.Why
		}
	}
	if n.Size = max(n.Size, b.after); n.Size >= b.low {
		return Next{}
	}
	return n
}

// Need returns how many machines the newest sample of a pool needs by its targets, as a [Past] notes it, if
// any of their signals is known.
func Need(p *Pool) (need float64, known bool) {
	if len(p.Recent) == 0 {
		return 0, false
	}
	j := judge{Pool: p, Rules: p.Rules}
	m := j.measure(&p.Recent[len(p.Recent)-1], j.cost())
	return m.need, m.any
}
