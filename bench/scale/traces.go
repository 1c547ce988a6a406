package main

import (
	"math"
	"math/rand/v2"
	"time"

	"weir/replay"
)

// scene is a trace, and since when what happens in it counts.
type scene struct {
	trace replay.Trace
	from  time.Time
}

// kinds are the traces, in the order of the table.
var kinds = []struct {
	name, says string
	make       func(r *rand.Rand) scene
}{
	{"day", "a day with two peaks, after a week of such days", day},
	{"flash", "ten times the load within a minute, for half an hour, and away within ten minutes", flash},
	{"ramp", "five times the load in six hours, an hour of it, and back in six hours", ramp},
	{"noise", "six hours of a load that is what the machines should bear, and noise of 10 %", noise},
}

const (
	step     = 15 * time.Second
	capacity = 100.0 // requests a second of one machine
	target   = 0.6
)

var epoch = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// wobble is noise that lasts: what was more a moment ago is still more.
type wobble struct {
	r    *rand.Rand
	size float64
	v    float64
}

// next returns a factor around 1. Half of what it was is gone after 30 s.
func (w *wobble) next() float64 {
	const keep = 0.7
	w.v = keep*w.v + math.Sqrt(1-keep*keep)*w.r.NormFloat64()
	return math.Max(0, 1+w.size*w.v)
}

// between returns a number from low to high.
func between(r *rand.Rand, low, high float64) float64 { return low + r.Float64()*(high-low) }

// build makes a trace of a load that is a function of the hours since it began.
func build(r *rand.Rand, hours, noise float64, load func(hour float64) float64) replay.Trace {
	w := wobble{r: r, size: noise}
	var t replay.Trace
	for at := time.Duration(0); at.Hours() <= hours; at += step {
		t = append(t, replay.Point{At: epoch.Add(at), Load: load(at.Hours()) * w.next()})
	}
	return t
}

// hill is a peak of height 1 at an hour, some hours wide.
func hill(hour, at, wide float64) float64 {
	d := (hour - at) / wide
	return math.Exp(-d * d / 2)
}

func day(r *rand.Rand) scene {
	base, morning, evening := between(r, 150, 350), between(r, 900, 1600), between(r, 1200, 2200)
	first, second := between(r, 9, 11), between(r, 18, 21)
	wide, wider := between(r, 1.0, 1.6), between(r, 1.2, 2.0)
	const days = 8
	var level, shift [days]float64 // no day is like another
	for d := range days {
		level[d], shift[d] = between(r, 0.85, 1.15), between(r, -0.25, 0.25)
	}
	t := build(r, 24*days, 0.04, func(hour float64) float64 {
		d := min(int(hour/24), days-1)
		h := hour - 24*float64(d) - shift[d]
		return level[d] * (base + morning*hill(h, first, wide) + evening*hill(h, second, wider))
	})
	return scene{t, epoch.Add(24 * (days - 1) * time.Hour)}
}

func flash(r *rand.Rand) scene {
	base, begin, lasts, fades := between(r, 180, 300), between(r, 0.9, 1.1), between(r, 0.4, 0.6), between(r, 0.1, 0.25)
	t := build(r, 4, 0.04, func(hour float64) float64 {
		since := hour - begin
		rise := min(max(since*60, 0), 1)
		fall := min(max((since-lasts)/fades, 0), 1)
		return base * (1 + 9*rise*(1-fall))
	})
	return scene{t, epoch.Add(30 * time.Minute)}
}

func ramp(r *rand.Rand) scene {
	base, times, hours := between(r, 200, 400), between(r, 4.5, 5.5), between(r, 5.5, 6.5)
	t := build(r, 2*hours+2, 0.04, func(hour float64) float64 {
		up := min(max((hour-0.5)/hours, 0), 1)
		down := min(max((hour-1.5-hours)/hours, 0), 1)
		return base * (1 + (times-1)*(up-down))
	})
	return scene{t, epoch.Add(15 * time.Minute)}
}

func noise(r *rand.Rand) scene {
	load := capacity * target * float64(6+r.IntN(10))
	t := build(r, 6.5, 0.1, func(float64) float64 { return load })
	return scene{t, epoch.Add(30 * time.Minute)}
}
