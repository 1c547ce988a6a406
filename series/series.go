// Package series remembers figures over time, in memory that does not grow.
//
// A [Window] has the figures of one thing: counters, of which it keeps by how much they rose, and
// gauges, of which it keeps what they last were. Time is in steps, short ones for the last
// minutes and long ones for the last hours ([Span]). A figure that was never anything but 0 takes
// no memory, any other 4 bytes a step.
//
// A [Source] turns what a source has counted into by how much that rose, also over a beginning
// anew of the source.
package series

import (
	"iter"
	"slices"
	"time"
)

// Span is one length of steps: Count of them are kept.
type Span struct {
	Every time.Duration // a multiple of a second
	Count int
}

// Window has the figures of one thing over the last hours. It is not for several goroutines at once.
type Window struct {
	counters int
	totals   []float64 // of counters, all that was added
	upto     time.Time // till when something is known; zero for nothing
	levels   []level   // the shortest steps first
}

type level struct {
	Span
	newest  int64       // the number of the newest step, counted from 1970; its slot is that modulo Count
	seconds []float32   // of each step, how much of it is known
	columns [][]float32 // of each figure; nil while it was always 0
}

// New returns an empty window for counters, then gauges. Spans are in order, the shortest steps first.
func New(counters, gauges int, spans ...Span) *Window {
	w := &Window{counters: counters, totals: make([]float64, counters)}
	for _, s := range spans {
		w.levels = append(w.levels, level{Span: s, columns: make([][]float32, counters+gauges)})
	}
	return w
}

// Upto returns till when something is known, or the zero time.
func (w *Window) Upto() time.Time { return w.upto }

// Total returns all that a counter has risen by.
func (w *Window) Total(counter int) float64 { return w.totals[counter] }

// Known tells of the time from from to to that what was counted in it is known. Times that overlap
// with former ones count once.
func (w *Window) Known(from, to time.Time) {
	if from.Before(w.upto) {
		from = w.upto
	}
	if !from.Before(to) {
		return
	}
	w.upto = to
	for i := range w.levels {
		l := &w.levels[i]
		l.advance(to)
		l.spread(from, to, func(slot int, part float64) {
			l.seconds[slot] += float32(part * to.Sub(from).Seconds())
		})
	}
}

// Rise tells that a counter rose by n between from and to, evenly as far as is known. What is older
// than the window counts only in the total.
func (w *Window) Rise(counter int, from, to time.Time, n float64) {
	if n == 0 {
		return
	}
	w.totals[counter] += n
	for i := range w.levels {
		l := &w.levels[i]
		l.advance(to)
		column := l.column(counter)
		l.spread(from, to, func(slot int, part float64) { column[slot] += float32(n * part) })
	}
}

// Set tells what a gauge is at a time. The gauges are numbered from the last counter on.
func (w *Window) Set(gauge int, at time.Time, v float64) {
	for i := range w.levels {
		l := &w.levels[i]
		l.advance(at)
		if v == 0 && l.columns[gauge] == nil {
			continue
		}
		if n := l.step(at); n > l.newest-int64(l.Count) {
			l.column(gauge)[l.slot(n)] = float32(v)
		}
	}
}

func (l *level) step(at time.Time) int64 { return at.UnixNano() / int64(l.Every) }
func (l *level) slot(step int64) int     { return int(step % int64(l.Count)) }
func (l *level) begin(step int64) time.Time {
	return time.Unix(0, step*int64(l.Every))
}

// column returns the steps of a figure.
func (l *level) column(figure int) []float32 {
	if l.columns[figure] == nil {
		l.columns[figure] = make([]float32, l.Count)
	}
	return l.columns[figure]
}

// advance makes room for the step of at, where it is newer than all. An instant that ends a step
// begins the next one.
func (l *level) advance(at time.Time) {
	now := l.step(at)
	if l.seconds == nil {
		l.seconds, l.newest = make([]float32, l.Count), now
	}
	for n := max(l.newest, now-int64(l.Count)) + 1; n <= now; n++ {
		slot := l.slot(n)
		l.seconds[slot] = 0
		for _, c := range l.columns {
			if c != nil {
				c[slot] = 0
			}
		}
	}
	l.newest = max(l.newest, now)
}

// spread calls add for each step that is kept and that the time from from to to has a part in.
func (l *level) spread(from, to time.Time, add func(slot int, part float64)) {
	oldest := l.newest - int64(l.Count) + 1
	all := to.Sub(from)
	if all <= 0 {
		if n := l.step(to); n >= oldest {
			add(l.slot(n), 1)
		}
		return
	}
	for n := max(l.step(from), oldest); n <= l.step(to); n++ {
		a, b := l.begin(n), l.begin(n+1)
		if a.Before(from) {
			a = from
		}
		if b.After(to) {
			b = to
		}
		if b.After(a) {
			add(l.slot(n), float64(b.Sub(a))/float64(all))
		}
	}
}

// Step is one step of a window, all of it in the past.
type Step struct {
	At      time.Time // its end
	Seconds float64   // how much of it is known

	level *level
	slot  int
	later []float64 // of each counter, what it rose by after the step and is still in the window
	total []float64
}

// Rose returns by how much a counter rose in s.
func (s Step) Rose(counter int) float64 { return s.at(counter) }

// Rate returns by how much a counter rose a second.
func (s Step) Rate(counter int) float64 { return s.at(counter) / s.Seconds }

// Total returns all that a counter had risen by at the end of s.
func (s Step) Total(counter int) float64 { return s.total[counter] - s.later[counter] }

// Gauge returns what a gauge last was in s.
func (s Step) Gauge(gauge int) float64 { return s.at(gauge) }

func (s Step) at(figure int) float64 {
	if c := s.level.columns[figure]; c != nil {
		return float64(c[s.slot])
	}
	return 0
}

// Steps yields the steps that end after start and not after end, the oldest first, as far as
// they are over and at least half of each is known. They are the shortest of which
// the window goes back to start, or the longest if none does.
func (w *Window) Steps(start, end time.Time) iter.Seq[Step] {
	return func(yield func(Step) bool) {
		if w.upto.IsZero() {
			return
		}
		l := w.level(start)
		last := l.step(w.upto) - 1 // the newest that is over
		later := make([]float64, w.counters)
		var steps []Step
		for n := l.newest; n > l.newest-int64(l.Count) && n >= 0; n-- {
			s := Step{At: l.begin(n + 1), Seconds: float64(l.seconds[l.slot(n)]), level: l, slot: l.slot(n), total: w.totals}
			if n <= last && s.At.After(start) && !s.At.After(end) && s.Seconds >= l.Every.Seconds()/2 {
				s.later = slices.Clone(later)
				steps = append(steps, s)
			}
			for c := range later {
				later[c] += s.at(c)
			}
		}
		for _, s := range slices.Backward(steps) {
			if !yield(s) {
				return
			}
		}
	}
}

// level returns the steps that go back to start.
func (w *Window) level(start time.Time) *level {
	for i := range w.levels {
		l := &w.levels[i]
		if !l.begin(l.newest - int64(l.Count) + 1).After(start) {
			return l
		}
	}
	return &w.levels[len(w.levels)-1]
}

// Source follows what one source has counted. All its counters begin anew together.
type Source struct {
	epoch   int64
	counted []float64
}

// Rose takes what the source has counted in an epoch, and returns by how much that is more than the
// last time. In another epoch than the last one, and whenever a counter is less than it was, the
// source has begun anew from 0. So it is with the first time: what the source had counted
// before that is in the result, for the caller to use or not.
func (s *Source) Rose(epoch int64, counted []float64) []float64 {
	anew := epoch != s.epoch || len(s.counted) != len(counted)
	for i := range counted {
		anew = anew || counted[i] < s.counted[i]
	}
	rose := slices.Clone(counted)
	if !anew {
		for i := range rose {
			rose[i] -= s.counted[i]
		}
	}
	s.epoch, s.counted = epoch, slices.Clone(counted)
	return rose
}
