package scale

import (
	"math"
	"slices"
	"time"
)

// Past is what a pool has needed in former days, in machines, for steps of [Step] the last of which
// ended at Until. NaN is what is not known.
type Past struct {
	Until time.Time
	Need  []float32
}

// Step is how long the steps of a past are, and Remembered how many there are at most: four weeks.
const (
	Step       = 15 * time.Minute
	Remembered = 28 * perDay
	perDay     = int(24 * time.Hour / Step)
	perWeek    = 7 * perDay
)

// Note notes what was needed in the step that ends at until, a multiple of Step. Steps between
// are unknown; one that is not after all others changes nothing.
func (p *Past) Note(until time.Time, need float64) {
	if len(p.Need) > 0 {
		missed := int(until.Sub(p.Until)/Step) - 1
		if missed < 0 {
			return
		}
		for range min(missed, Remembered) {
			p.Need = append(p.Need, float32(math.NaN()))
		}
	}
	p.Need, p.Until = append(p.Need, float32(need)), until
	p.Need = p.Need[max(0, len(p.Need)-Remembered):]
}

// at returns what was needed at a time, between the middles of two steps.
func (p *Past) at(t time.Time) float64 {
	steps := float64(len(p.Need)) - p.Until.Sub(t).Seconds()/Step.Seconds() - 0.5
	i := int(math.Floor(steps))
	if i < 0 || i+1 >= len(p.Need) {
		return math.NaN()
	}
	part := steps - float64(i)
	return (1-part)*float64(p.Need[i]) + part*float64(p.Need[i+1])
}

// usual returns what is usual at a time: the median of the same time on the same days of former weeks, if
// two of them are known, otherwise of former days, if three are.
func (p *Past) usual(t time.Time) float64 {
	var days [Remembered / perDay]float64
	same := func(every, least int) float64 {
		known := days[:0]
		for back := every; back <= Remembered/perDay; back += every {
			if v := p.at(t.AddDate(0, 0, -back)); !math.IsNaN(v) && len(known) < 7 {
				known = append(known, v)
			}
		}
		if len(known) < least {
			return math.NaN()
		}
		slices.Sort(known)
		return known[(len(known)-1)/2]
	}
	if v := same(7, 2); !math.IsNaN(v) {
		return v
	}
	return same(1, 3)
}

// How far a day may be from what is usual, so that it still says what comes.
const (
	leastAlike = 0.5
	mostAlike  = 1.2
)

// expect returns what will be needed from now until a machine serves that is asked for now, if what
// is usual comes, on the level of now; 0 if that is not known.
func (p *Past) expect(now time.Time, lead time.Duration, need float64) (most float64) {
	if p == nil || len(p.Need) < 3*perDay {
		return 0
	}
	usual := p.usual(now)
	if math.IsNaN(usual) || usual <= 0 {
		return 0
	}
	alike := need / usual
	if alike < leastAlike {
		return 0 // today is another day
	}
	alike = min(alike, mostAlike)
	if v := p.usual(now.Add(lead)); v > usual {
		most = v * alike
	}
	return most
}
