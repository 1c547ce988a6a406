package main

import (
	"math"
	"time"

	"weir/replay"
	"weir/scale"
)

// What all policies may do.
const (
	least = 2
	most  = 100
)

func within(n int) int { return min(max(n, least), most) }

// use returns how busy the machines that serve are, by a signal: 1 is all that they can do. CPU
// never says more than 1, requests do.
func use(s *scale.Sample, by scale.Signal) float64 {
	load := s.Load[by]
	if by == scale.Requests {
		load /= capacity
	}
	return load / max(1, s.Serving)
}

// hpa is the Kubernetes HorizontalPodAutoscaler by its documentation and its published algorithm (autoscaling/v2): each 15 s
// ceil(ready × use / target), nothing within 10 % of the target, pods that are not ready taken for idle
// when it grows, at most 4 pods or 100 % more in 15 s, and down to the most it wanted in 5 minutes.
type hpa struct {
	by     scale.Signal
	wanted []wish
}

type wish struct {
	at time.Time
	n  int
}

func (h *hpa) Size(v *replay.View) (int, string) {
	s := &v.Samples[len(v.Samples)-1]
	n := h.desired(v, s)
	h.wanted = append(h.wanted, wish{v.Now, n})
	for v.Now.Sub(h.wanted[0].at) > 5*time.Minute {
		h.wanted = h.wanted[1:]
	}
	if n < v.Wanted {
		for _, w := range h.wanted {
			n = max(n, w.n)
		}
		n = min(n, v.Wanted)
	}
	return within(min(n, max(v.Wanted+4, 2*v.Wanted))), ""
}

func (h *hpa) desired(v *replay.View, s *scale.Sample) int {
	used := use(s, h.by) * s.Serving / target
	current := float64(v.Wanted)
	if h.by == scale.Requests { // an external metric is of all pods, ready or not
		if math.Abs(used/current-1) <= 0.1 {
			return v.Wanted
		}
		return int(math.Ceil(used - 1e-9))
	}
	ratio := used / max(1, s.Serving)
	if booting := v.Booted - v.Serving; booting > 0 && ratio > 1 {
		again := used / v.Booted
		if again <= 1.1 {
			return v.Wanted
		}
		return int(math.Ceil(used - 1e-9))
	}
	if math.Abs(ratio-1) <= 0.1 {
		return v.Wanted
	}
	return int(math.Ceil(used - 1e-9))
}

// mean returns how busy machines were in the last d.
func mean(v *replay.View, by scale.Signal, d time.Duration) float64 {
	sum, n := 0.0, 0
	for i := len(v.Samples) - 1; i >= 0 && v.Now.Sub(v.Samples[i].At) < d; i-- {
		sum += use(&v.Samples[i], by)
		n++
	}
	return sum / float64(n)
}

// steps is step scaling as AWS documents it for EC2 (the example of "Step and simple scaling policies", moved to
// the target): one alarm period of a minute above 70 % of use adds 10 %, above 80 % 30 %; five below
// 50 % take 10 % away, below 40 % 30 %. What boots counts as added already, and nothing shrinks meanwhile.
type steps struct {
	by      scale.Signal
	asked   time.Time
	added   float64 // how much of the last minute's capacity was added and does not serve yet
	low     int     // minutes below in a row
	resized time.Time
}

func (s *steps) Size(v *replay.View) (int, string) {
	if v.Now.Sub(s.asked) < time.Minute {
		return v.Wanted, ""
	}
	s.asked = v.Now
	used := mean(v, s.by, time.Minute)
	step := 0.0
	switch {
	case used >= target+0.2:
		step = 0.3
	case used >= target+0.1:
		step = 0.1
	}
	base := float64(v.Wanted)
	if v.Booted > v.Serving {
		base = v.Serving // a step is of what serves; only a larger one adds to what boots
	}
	if step > 0 {
		s.low = 0
		return within(max(v.Wanted, int(base)+max(1, int(base*step)))), ""
	}
	if used > target-0.1 || v.Booted > v.Serving {
		s.low = 0
		return v.Wanted, ""
	}
	if s.low++; s.low < 5 {
		return v.Wanted, ""
	}
	step = 0.1
	if used <= target-0.2 {
		step = 0.3
	}
	s.low = 0
	return within(v.Wanted - max(1, int(base*step))), ""
}

// digitalOcean is what DigitalOcean documents of its Droplet Autoscale Pools: ceil(current × use / target), and
// then nothing for the cooldown, of which 10 minutes is the default. Over how long it measures is not
// said; a minute is taken.
type digitalOcean struct {
	by       scale.Signal
	cooldown time.Duration
	resized  time.Time
}

func (d *digitalOcean) Size(v *replay.View) (int, string) {
	if v.Now.Sub(d.resized) < d.cooldown {
		return v.Wanted, ""
	}
	n := within(int(math.Ceil(v.Serving*mean(v, d.by, time.Minute)/target - 1e-9)))
	if n != v.Wanted {
		d.resized = v.Now
	}
	return n, ""
}
