package config

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/goccy/go-yaml/ast"

	"weir/cron"
	"weir/weir"
)

// defaultTarget is the share of their CPU that machines should use where a file names no target.
const defaultTarget = 0.6

// setCount sets how many machines there are: a number, or between which sizes the pool follows its load.
func setCount(a *App, v value) error {
	switch v.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		a.Pool.Scale = &weir.Scale{Min: 1, Max: weir.MaxPool, CPU: defaultTarget}
		if err := v.mapping(a, scaleKeys()); err != nil {
			return err
		}
		if !v.has("max") {
			return v.errorf("count has no max, want how many machines there are at most")
		}
		a.Pool.Count, a.Pool.KeepCount = a.Pool.Scale.Min, true
		return nil
	}
	n, err := v.whole(fmt.Sprintf("a whole number from 0 to %d", weir.MaxPool))
	if err != nil {
		return err
	}
	a.Pool.Count, a.Pool.KeepCount = n, false
	return nil
}

// setSizes sets which sizes machines may have; the first is the pool's own.
func setSizes(a *App, v value) error {
	list, err := v.list("a list of sizes")
	if err != nil {
		return err
	}
	for i, v := range list {
		if !v.has("size") {
			return v.errorf("one of the sizes has no size, want one such as %s", defaultSize)
		}
		var o weir.Offer
		if err := v.mapping(a, offerKeys(&o)); err != nil {
			return err
		}
		if i == 0 {
			if was := a.Pool.Template.Size; was != defaultSize && was != o.Size {
				return v.errorf("the first of the sizes is %s, and size is %s: leave size out", o.Size, was)
			}
			a.Pool.Template.Size = o.Size
		}
		a.Pool.Sizes = append(a.Pool.Sizes, o)
		if err := a.check(); err != nil {
			return v.errorf("%w", err)
		}
	}
	return nil
}

// offerKeys returns the keys of a size.
func offerKeys(o *weir.Offer) []key {
	return []key{
		{"size", text(func(_ *App, s string) { o.Size = s })},
		{"region", func(a *App, v value) (err error) {
			if o.Region, err = v.text(); err == nil {
				a.sizes = append(a.sizes, said{o.Region, v.at()}) // In knows which one runs
			}
			return err
		}},
		{"hourly_cost", number(func(_ *App, n float64) { o.Price = n })},
		{"weight", number(func(_ *App, n float64) { o.Weight = n })},
		{"share", number(func(_ *App, n float64) { o.Share = n })},
		{"max", positive("from 1 to 1000", func(_ *App, n int) { o.Max = n })},
	}
}

// setRolling has machines replaced when what they are made from has changed.
func setRolling(a *App, v value) error {
	a.Pool.Rolling = &weir.Rolling{}
	return v.mapping(a, []key{
		{"max_unavailable", whole("of machines", func(a *App, n int) { a.Pool.Rolling.Unavailable = n })},
		{"max_surge", whole("of machines", func(a *App, n int) { a.Pool.Rolling.Surge = &n })},
	})
}

// setExporter has machines tell their CPU and memory themselves: at a port, or at a port and a path.
func setExporter(a *App, v value) error {
	switch v.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		a.Pool.Exporter = &weir.Exporter{Port: weir.DefaultExporterPort}
		return v.mapping(a, []key{
			{"port", whole("from 1 to 65535", func(a *App, n int) { a.Pool.Exporter.Port = n })},
			{"path", text(func(a *App, s string) { a.Pool.Exporter.Path = s })},
		})
	}
	return whole("from 1 to 65535, or port and path", func(a *App, n int) { a.Pool.Exporter = &weir.Exporter{Port: n} })(a, v)
}

func scaleKeys() []key {
	scale := func(a *App) *weir.Scale { return a.Pool.Scale }
	return []key{
		{"max", whole("", func(a *App, n int) { scale(a).Max = n })}, // before min, which is at most that
		{"min", whole("", func(a *App, n int) { scale(a).Min = n })},
		{"targets", func(a *App, v value) error {
			s := scale(a)
			s.CPU = 0
			if err := v.mapping(a, targetKeys()); err != nil {
				return err
			}
			if len(v.entries()) == 0 {
				return v.errorf("targets is empty, want keys such as cpu: …")
			}
			return nil
		}},
		{"cooldown_seconds", positive("of seconds, from 1 to 86400", func(a *App, n int) { scale(a).Pause = time.Duration(n) * time.Second })},
		{"stabilization_seconds", positive("of seconds, from 1 to 600", func(a *App, n int) { scale(a).Stabilisation = time.Duration(n) * time.Second })},
		{"machine_hourly_cost", number(func(a *App, n float64) { scale(a).Price = n })},
		{"max_hourly_cost", number(func(a *App, n float64) { scale(a).Budget = n })},
		{"schedules", setSchedules},
	}
}

// targetKeys are what one machine should bear.
func targetKeys() []key {
	return []key{
		{"cpu", number(func(a *App, n float64) { a.Pool.Scale.CPU = n })},
		{"memory", number(func(a *App, n float64) { a.Pool.Scale.Memory = n })},
		{"requests_per_second", number(func(a *App, n float64) { a.Pool.Scale.Requests = n })},
		{"concurrent_requests", number(func(a *App, n float64) { a.Pool.Scale.Concurrent = n })},
		{"response_time_ms", number(func(a *App, n float64) {
			a.Pool.Scale.Response = time.Duration(min(max(n, -1), 1e9) * float64(time.Millisecond))
		})},
		{"response_time_percentile", positive("from 50 to 99", func(a *App, n int) { a.Pool.Scale.Percentile = n })},
	}
}

func setSchedules(a *App, v value) error {
	list, err := v.list("a list of schedules")
	if err != nil {
		return err
	}
	for _, v := range list {
		a.Pool.Scale.Schedules = append(a.Pool.Scale.Schedules, weir.Schedule{Cron: "0 0 * * *", For: time.Hour, Min: 1})
		if err := v.mapping(a, scheduleKeys()); err != nil {
			return err
		}
		for _, name := range []string{"cron", "minutes", "min"} {
			if !v.has(name) {
				return v.errorf("a schedule has no %s, want cron, minutes and min", name)
			}
		}
	}
	return nil
}

// scheduleKeys returns the keys of the schedule that was appended last.
func scheduleKeys() []key {
	last := func(a *App) *weir.Schedule { return &a.Pool.Scale.Schedules[len(a.Pool.Scale.Schedules)-1] }
	return []key{
		{"name", text(func(a *App, s string) { last(a).Name = s })},
		{"cron", begins(func(a *App, s string) (string, string) { last(a).Cron = s; return s, "" })},
		{"timezone", begins(func(a *App, s string) (string, string) { last(a).Zone = s; return "0 0 * * *", s })},
		{"minutes", whole("", func(a *App, n int) { last(a).For = time.Duration(n) * time.Minute })},
		{"min", whole("", func(a *App, n int) { last(a).Min = n })},
	}
}

// begins is text that says when a schedule begins: set returns the words and the zone of one that has it.
func begins(set func(a *App, s string) (words, zone string)) func(*App, value) error {
	return func(a *App, v value) error {
		s, err := v.text()
		if err != nil {
			return err
		}
		if _, err := cron.Parse(set(a, s)); err != nil {
			return v.errorf("%w", err)
		}
		return nil
	}
}

// positive is whole where 0 cannot be meant: to leave the key out says what is so otherwise.
func positive(limits string, set func(a *App, n int)) func(*App, value) error {
	return func(a *App, v value) error {
		want := "a whole number " + limits
		n, err := v.whole(want)
		if err != nil {
			return err
		}
		if n == 0 {
			return v.errorf("%s is 0, want %s", v.key, want)
		}
		set(a, n)
		return nil
	}
}

func number(set func(a *App, n float64)) func(*App, value) error {
	return func(a *App, v value) error {
		n, err := v.number()
		if err != nil {
			return err
		}
		set(a, n)
		return nil
	}
}

// number returns the number that v is, which is over 0.
func (v value) number() (float64, error) {
	switch n := v.node.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		if f, err := strconv.ParseFloat(n.GetToken().Value, 64); err == nil && f > 0 && !math.IsInf(f, 0) {
			return f, nil
		}
	}
	return 0, v.errorf("%s is %s, want a number over 0 such as 0.6", v.key, v.shown())
}
