package main

import (
	"math"
	"time"

	"weir/replay"
)

// clairvoyant is the bound: it knows the trace, and at each moment has as many machines as serve the load well and no more. It
// orders one as late as it may, so that it serves when it is needed, and keeps one that is not needed for a while if letting it go
// and booting another one would be paid for as long. Nobody who always serves the load well has fewer machine-hours.
type clairvoyant struct {
	trace  replay.Trace
	share  float64 // of its capacity that each machine bears
	needed []int   // each moment of the trace
}

// moment is how often the load is looked at, as package replay does.
const moment = 5 * time.Second

func (c *clairvoyant) Size(v *replay.View) (int, string) {
	if c.needed == nil {
		c.foresee()
	}
	ordered := c.within(v.Now, machines.Boot+step-moment)
	if ordered >= v.Wanted {
		return ordered, ""
	}
	return min(v.Wanted, c.within(v.Now, machines.Boot+machines.Drain-moment)), ""
}

// foresee works out how many machines each moment needs.
func (c *clairvoyant) foresee() {
	for i := 0; i+1 < len(c.trace); i++ {
		a, b := c.trace[i], c.trace[i+1]
		for at := a.At; at.Before(b.At); at = at.Add(moment) {
			load := a.Load + (b.Load-a.Load)*at.Sub(a.At).Seconds()/b.At.Sub(a.At).Seconds()
			c.needed = append(c.needed, within(int(math.Ceil(load/(capacity*c.share)-1e-9))))
		}
	}
}

// within returns the most machines that are needed after a time, until so long after it.
func (c *clairvoyant) within(now time.Time, ahead time.Duration) int {
	n := least
	from := int(now.Sub(c.trace[0].At)/moment) + 1
	for i := from; i < min(from+int(ahead/moment), len(c.needed)); i++ {
		n = max(n, c.needed[i])
	}
	return n
}
