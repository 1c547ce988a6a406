package control

import (
	"time"

	"weir/series"
	"weir/weir"
)

// The counters of a load balancer's access log: how many requests took how long, as weir.DurationBounds has them, until
// their server began to answer and in all, and the seconds of all of them.
func ofAnswered(bound int) int { return bound }
func ofEnded(bound int) int    { return len(weir.DurationBounds) + bound }
func ofSeconds(which int) int  { return 2*len(weir.DurationBounds) + which }

// hearDurations takes in how long requests took, of what a node has counted of its access log.
func (b *balancerFigures) hearDurations(n *nodeFigures, first bool, c *weir.AccessCounts, from, to time.Time) {
	if c == nil {
		return
	}
	counted := make([]float64, ofSeconds(2))
	for i, of := range []*weir.Durations{&c.Response, &c.Total} {
		for j, k := range of.Counts[:min(len(of.Counts), len(weir.DurationBounds))] {
			counted[i*len(weir.DurationBounds)+j] = float64(k)
		}
		counted[ofSeconds(i)] = of.Sum.Seconds()
	}
	rose := n.durations.Rose(c.Since.UnixNano(), counted)
	if first {
		return
	}
	if b.durations == nil {
		b.durations = series.New(ofSeconds(2), 0, balancerSpans...)
	}
	b.durations.Known(from, to)
	for i, by := range rose {
		b.durations.Rise(i, from, to, by)
	}
}

// percentile is how long the share of requests took that is shorter, if there was one.
func percentile(of func(bound int) int, share float64) reading {
	return func(s series.Step) (float64, bool) {
		counts := make([]float64, len(weir.DurationBounds))
		any := false
		for i := range counts {
			counts[i] = s.Rose(of(i))
			any = any || counts[i] > 0
		}
		return weir.Percentile(counts, share).Seconds(), any
	}
}

// durationsOf returns all that an access log has counted of one of the two times (0: until the answer began, 1: in all), nothing if there is no log.
func (b *balancerFigures) durationsOf(which int) (t weir.TrafficDurations) {
	if b.durations == nil {
		return t
	}
	t.Counts = make([]float64, len(weir.DurationBounds))
	for i := range t.Counts {
		t.Counts[i] = b.durations.Total(which*len(weir.DurationBounds) + i)
	}
	t.Seconds = b.durations.Total(ofSeconds(which))
	return t
}
