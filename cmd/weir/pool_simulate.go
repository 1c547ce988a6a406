package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/config"
	"weir/cron"
	"weir/replay"
	"weir/scale"
	"weir/weir"
)

type poolSimulate struct {
	user     *user
	format   format
	trace    string
	file     string
	svg      string
	capacity float64
	boot     time.Duration
	price    float64
	min, max int
	target   float64
}

func poolSimulateCommand(u *user) *cobra.Command {
	s := poolSimulate{user: u}
	cmd := &cobra.Command{
		Use:   "simulate [POOL] --trace FILE --capacity LOAD",
		Short: "Tell what a pool would have done under a load, and what it would have cost",
		Long: `Tell what a pool would have done under the load that a CSV file has: a time and a load, such
as requests a second, in each line. Times are as in RFC 3339, or seconds since 1970, and rise.

The pool is one that is there, given by name or ID, or one of a weir.yaml (-f), or follows its
CPU between --min and --max; these and --target may be given with all of them. Of its targets CPU and
requests a second are simulated: a machine's CPU is busy by its share of the load as a part of
--capacity, and it serves well up to 80 % of that. What was so before the trace is not known: give it
some days more to see what is learnt of them. All machines of a pool with several sizes are taken to be of
the first.`,
		Example: `  weir pool simulate web --trace week.csv --capacity 120
  weir pool simulate --min 2 --max 20 --trace week.csv --capacity 120 --svg week.svg
  weir pool simulate -f weir.yaml --trace week.csv --capacity 120 -o json | jq .cost`,
		Args: arguments(0, 1, "one pool at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd.Context(), args, cmd.Flags().Changed, cmd.OutOrStdout())
		},
		ValidArgsFunction: u.pools,
	}
	f := cmd.Flags()
	f.StringVar(&s.trace, "trace", "", "`file` with a time and a load in each line; - is standard input")
	f.Float64Var(&s.capacity, "capacity", 0, "the `load` at which one machine has no CPU left")
	f.StringVarP(&s.file, "filename", "f", "", "a weir.yaml whose pool is meant, as a `file`")
	f.IntVar(&s.min, "min", 1, "the fewest machines")
	f.IntVar(&s.max, "max", 100, "the most machines")
	f.Float64Var(&s.target, "target", 0.6, "the share of its CPU that each machine should use")
	f.DurationVar(&s.boot, "boot", time.Minute, "how long a machine takes until it serves")
	f.Float64Var(&s.price, "price", 0, "of one machine an hour; the pool's machine_hourly_cost if left out")
	f.StringVar(&s.svg, "svg", "", "draw it into this `file` too")
	s.format.flags(cmd)
	return cmd
}

// simulated is what is said of a simulation.
type simulated struct {
	From         time.Time       `json:"from"`
	Until        time.Time       `json:"until"`
	BadMinutes   float64         `json:"bad_minutes"` // with fewer machines than would have served well
	MachineHours float64         `json:"machine_hours"`
	Cost         float64         `json:"cost,omitempty"`
	Most         int             `json:"most"` // machines at the same time
	Changes      []simulatedStep `json:"changes"`
}

// simulatedStep is a change of the size.
type simulatedStep struct {
	At   time.Time `json:"at"`
	From int       `json:"from"`
	To   int       `json:"to"`
	Why  string    `json:"why"`
}

func (s *poolSimulate) run(ctx context.Context, args []string, changed func(string) bool, stdout io.Writer) error {
	if s.trace == "" {
		return usageErrorf("--trace is missing, want a file with a time and a load in each line; see weir pool simulate --help")
	}
	if !(s.capacity > 0) {
		return usageErrorf("--capacity is %v, want the load at which one machine has no CPU left", s.capacity)
	}
	if s.boot < 0 || s.boot > 24*time.Hour {
		return usageErrorf("--boot is %s, want 0s to 24h", s.boot)
	}
	pool, err := s.pool(ctx, args, changed)
	if err != nil {
		return err
	}
	trace, err := readTrace(s.trace)
	if err != nil {
		return err
	}
	policy, err := policyOf(pool)
	if err != nil {
		return err
	}
	first, last := trace[0].At, trace[len(trace)-1].At
	result := replay.Run(trace, first, replay.Machines{Capacity: s.capacity, Boot: s.boot, Drain: 30 * time.Second, Good: good}, policy)
	said := simulated{From: first, Until: last, BadMinutes: result.Bad.Minutes(), MachineHours: result.Machine.Hours(), Changes: []simulatedStep{}}
	for _, change := range result.Changes {
		said.Changes = append(said.Changes, simulatedStep(change))
	}
	for _, m := range result.Minutes {
		said.Most = max(said.Most, m.Wanted)
	}
	said.Cost = said.MachineHours * pool.Offers()[0].Price
	if s.svg != "" {
		if err := writeFile(s.svg, func(w io.Writer) error { return drawSVG(w, result.Minutes) }); err != nil {
			return err
		}
	}
	if s.format.json {
		return writeJSON(stdout, said)
	}
	if err := drawText(stdout, result.Minutes, widthOf(stdout)); err != nil {
		return err
	}
	cost := ""
	if said.Cost > 0 {
		cost = fmt.Sprintf(", which cost %.2f", said.Cost)
	}
	_, err = fmt.Fprintf(stdout, "%s: %.1f machine-hours%s; %s; at most %s; too few machines for %.1f minutes\n",
		span(last.Sub(first)), said.MachineHours, cost, count(len(said.Changes), "change"), count(said.Most, "machine"), said.BadMinutes)
	return err
}

// good is the share of its CPU up to which a machine is taken to serve well.
const good = 0.8

// pool returns the pool that is meant, as far as its size goes.
func (s *poolSimulate) pool(ctx context.Context, args []string, changed func(string) bool) (*weir.Pool, error) {
	c := &weir.Scale{Min: s.min, Max: s.max, CPU: s.target}
	sim := &weir.Pool{Name: "simulated", Prefix: "simulated", Template: weir.Template{Size: weir.DefaultNodeSize, Image: weir.DefaultImage}}
	switch {
	case len(args) > 0 && s.file != "":
		return nil, usageErrorf("there are a pool and -f, want one of them")
	case len(args) > 0:
		client, err := s.user.connect()
		if err != nil {
			return nil, err
		}
		p, err := client.pool(ctx, args[0])
		if err != nil {
			return nil, err
		}
		if p.Scale == nil && !changed("max") {
			return nil, fmt.Errorf("pool %q does not follow its load: say --min and --max", p.Name)
		}
		if p.Scale != nil {
			if c, err = api.ScaleOf(p.Scale); err != nil {
				return nil, err
			}
			for _, o := range p.Sizes {
				sim.Sizes = append(sim.Sizes, weir.Offer(o))
			}
			sim.Template.Size = p.Size
		}
	case s.file != "":
		app, err := config.Load(s.file)
		if err != nil {
			return nil, err
		}
		if app.Pool == nil || app.Pool.Scale == nil {
			return nil, fmt.Errorf("%s: its count does not follow the load, want one with min and max", s.file)
		}
		c, sim.Sizes, sim.Template.Size = app.Pool.Scale, app.Pool.Sizes, app.Pool.Template.Size
	}
	for flag, set := range map[string]func(){"min": func() { c.Min = s.min }, "max": func() { c.Max = s.max },
		"target": func() { c.CPU = s.target }, "price": func() { c.Price, sim.Sizes = s.price, nil }} {
		if changed(flag) {
			set()
		}
	}
	c.Memory, c.Concurrent, c.Response = 0, 0, 0
	if c.CPU == 0 && c.Requests == 0 {
		return nil, errors.New("the pool has no target of CPU or requests a second, and others are not simulated: say --target")
	}
	sim.Scale = c
	if err := sim.Check(""); err != nil {
		return nil, err
	}
	return sim, nil
}

// policyOf returns the policy of a pool.
func policyOf(p *weir.Pool) (*replay.Weir, error) {
	c := p.Scale
	w := &replay.Weir{Rules: scale.Rules{Min: c.Min, Max: c.Max, Most: p.Affords(), Cooldown: c.Cooldown, Stabilisation: c.Stabilisation}}
	if c.Pause != 0 {
		w.Rules.Cooldown = c.Pause
	}
	w.Rules.Targets[scale.CPU], w.Rules.Targets[scale.Requests] = c.CPU, c.Requests
	begins := make([]cron.Schedule, len(c.Schedules))
	for i, s := range c.Schedules {
		var err error
		if begins[i], err = cron.Parse(s.Cron, s.Zone); err != nil {
			return nil, fmt.Errorf("schedule %q: %w", s.Called(), err)
		}
	}
	w.Demands = func(now time.Time) (demands []scale.Demand) {
		for i, s := range c.Schedules {
			for _, from := range begins[i].Around(now, s.For) {
				demands = append(demands, scale.Demand{Name: s.Called(), From: from, Until: from.Add(s.For), Min: s.Min})
			}
		}
		return demands
	}
	return w, nil
}

// How long a trace may be, and how many lines it may have.
const (
	longestTrace = 400 * 24 * time.Hour
	mostLines    = 2_000_000
)

// readTrace reads a file with a time and a load in each line. Its first line may be a heading.
func readTrace(file string) (replay.Trace, error) {
	in := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("--trace: %w", err)
		}
		defer f.Close()
		in = f
	}
	r := csv.NewReader(in)
	r.FieldsPerRecord, r.TrimLeadingSpace, r.Comment = -1, true, '#'
	var t replay.Trace
	for n := 1; ; n++ {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		line, _ := r.FieldPos(0)
		p, err := readPoint(row)
		switch {
		case err != nil && n == 1 && len(row) >= 2 && !strings.ContainsAny(row[1], "0123456789"):
			continue // the heading
		case err != nil:
			return nil, fmt.Errorf("%s:%d: %w", file, line, err)
		case len(t) > 0 && !p.At.After(t[len(t)-1].At):
			return nil, fmt.Errorf("%s:%d: its time is not after that of the line before", file, line)
		case len(t) > 0 && p.At.Sub(t[0].At) > longestTrace, len(t) == mostLines:
			return nil, fmt.Errorf("%s:%d: the trace is too long, want at most 400 days and %d lines", file, line, mostLines)
		}
		t = append(t, p)
	}
	if len(t) < 2 {
		return nil, fmt.Errorf("%s: it has %s, want at least two, each a time and a load", file, count(len(t), "line"))
	}
	return t, nil
}

func readPoint(row []string) (p replay.Point, err error) {
	if len(row) < 2 {
		return p, errors.New("want a time and a load, with a comma between")
	}
	if p.At, err = readTime(strings.TrimSpace(row[0])); err != nil {
		return p, err
	}
	p.Load, err = strconv.ParseFloat(strings.TrimSpace(row[1]), 64)
	if err != nil || !(p.Load >= 0 && p.Load < 1e12) {
		return p, fmt.Errorf("the load is %.40q, want a number such as 120.5", row[1])
	}
	return p, nil
}

func readTime(s string) (time.Time, error) {
	if n, err := strconv.ParseFloat(s, 64); err == nil && n >= 0 && n < 1e11 {
		return time.UnixMilli(int64(n * 1000)).UTC(), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, "2006-01-02 15:04"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("the time is %.40q, want one such as 2026-11-28T16:00:00Z, or seconds since 1970", s)
}

// writeFile has write make a file.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
