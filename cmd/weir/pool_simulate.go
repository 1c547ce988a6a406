package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
as requests a second, in each line, the first of which may be a heading. Times are as in RFC 3339, or seconds or
milliseconds since 1970, and rise; one without a zone is of UTC. Between two lines the load goes straight from one to the other.

The pool is one that is there, given by name or ID, or one of a weir.yaml (-f), or follows its
CPU between --min and --max; these and --target may be given with all of them. Of its targets CPU and
requests a second are simulated: a machine's CPU is busy by its share of the load as a part of
--capacity, and it serves well up to 80 % of that. What was so before the trace is not known: give it
some days more to see what is learnt of them.

Of a pool with several sizes machines are added and dropped as the control plane does, by price or share, each bears load by
what it is worth, and costs what its size does. --capacity is of one of the first size, in which the pool's size is counted.`,
		Example: `  weir pool simulate web --trace week.csv --capacity 120
  weir pool simulate --min 2 --max 20 --trace week.csv --capacity 120 --svg week.svg
  weir pool simulate -f weir.yaml --trace week.csv --capacity 120 -o json | jq .cost`,
		Args: arguments(0, 1, "one pool at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd.Context(), args, cmd.Flags().Changed, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
		ValidArgsFunction: u.pools,
	}
	f := cmd.Flags()
	f.StringVar(&s.trace, "trace", "", "`file` with a time and a load in each line; - is standard input")
	f.Float64Var(&s.capacity, "capacity", 0, "the `load` at which one machine (of the first size) has no CPU left")
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
	Most         int             `json:"most"`            // machines at the same time
	Sizes        []simulatedSize `json:"sizes,omitempty"` // of a pool with several
	Changes      []simulatedStep `json:"changes"`
}

// simulatedSize is what was used of one size, in one region if there are several.
type simulatedSize struct {
	Size         string  `json:"size"`
	Region       string  `json:"region,omitempty"`
	MachineHours float64 `json:"machine_hours"`
	Cost         float64 `json:"cost,omitempty"`
	Most         int     `json:"most"`
}

// simulatedStep is a change of the size, which is counted in machines of the pool's first size.
type simulatedStep struct {
	At   time.Time `json:"at"`
	From int       `json:"from"`
	To   int       `json:"to"`
	Why  string    `json:"why"`
}

func (s *poolSimulate) run(ctx context.Context, args []string, changed func(string) bool, stdout, stderr io.Writer) error {
	if s.trace == "" {
		return usageErrorf("--trace is missing, want a file with a time and a load in each line; see weir pool simulate --help")
	}
	if !(s.capacity >= 1e-6 && s.capacity <= mostLoad) {
		return usageErrorf("--capacity is %v, want the load at which one machine has no CPU left, in the trace's unit and over 0", s.capacity)
	}
	if s.boot < 0 || s.boot > 24*time.Hour {
		return usageErrorf("--boot is %s, want 0s to 24h", s.boot)
	}
	pool, err := s.pool(ctx, args, changed)
	if err != nil {
		return err
	}
	policy, err := policyOf(pool)
	if err != nil {
		return err
	}
	trace, err := readTrace(s.trace)
	if err != nil {
		return err
	}
	if why := sparse(trace); why != "" {
		fmt.Fprintln(stderr, "--trace: "+why)
	}
	first, last := trace[0].At, trace[len(trace)-1].At
	result := replay.Run(trace, first, replay.Machines{Pool: *pool, Capacity: s.capacity, Boot: s.boot, Drain: 30 * time.Second, Good: good}, policy)
	if s.svg != "" {
		if err := writeFile(s.svg, func(w io.Writer) error { return drawSVG(w, result.Minutes, counted(pool)) }); err != nil {
			return err
		}
	}
	said := sayResult(result, pool, first, last)
	if s.format.json {
		return writeJSON(stdout, said)
	}
	if err := drawText(stdout, result.Minutes, widthOf(stdout), counted(pool)); err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, said.words())
	return err
}

// counted says what the machines of a pool are counted in.
func counted(p *weir.Pool) string {
	if p.Mixed() {
		return "machines of " + p.Template.Size
	}
	return "machines"
}

// sayResult returns what is said of what a pool did.
func sayResult(r replay.Result, p *weir.Pool, first, last time.Time) simulated {
	s := simulated{From: first, Until: last, BadMinutes: r.Bad.Minutes(), MachineHours: r.Machine.Hours(), Cost: r.Cost, Most: r.Most, Changes: []simulatedStep{}}
	for _, change := range r.Changes {
		s.Changes = append(s.Changes, simulatedStep(change))
	}
	if p.Mixed() {
		for _, size := range r.Sizes {
			is := simulatedSize{Size: size.Size, MachineHours: size.Machine.Hours(), Cost: size.Cost, Most: size.Most}
			if p.Spans() {
				is.Region = size.Region
			}
			s.Sizes = append(s.Sizes, is)
		}
	}
	return s
}

// words says it in a line, and a line for each of several sizes.
func (s *simulated) words() string {
	costs := func(v float64) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(", which cost %.2f", v)
	}
	said := fmt.Sprintf("%s: %.1f machine-hours%s; %s; at most %s; too few machines for %.1f minutes",
		span(s.Until.Sub(s.From)), s.MachineHours, costs(s.Cost), count(len(s.Changes), "change"), count(s.Most, "machine"), s.BadMinutes)
	for _, size := range s.Sizes {
		called := size.Size
		if size.Region != "" {
			called = weir.Placement{Region: size.Region, Size: size.Size}.String()
		}
		if size.Most == 0 {
			said += fmt.Sprintf("\n  %s: none", called)
			continue
		}
		said += fmt.Sprintf("\n  %s: %.1f machine-hours%s; at most %s", called, size.MachineHours, costs(size.Cost), count(size.Most, "machine"))
	}
	return said
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
			if p.Autoscale && c.Cooldown == 0 {
				c.Cooldown = weir.DefaultCooldown
			}
			sim.Template.Size, sim.Template.Region = p.Size, p.Region
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
		if len(sim.Sizes) > 0 {
			sim.Template.Region = sim.Sizes[0].Region
		}
	}
	if changed("price") && len(sim.Sizes) > 1 {
		return nil, usageErrorf("--price is of one machine, and the pool has %d sizes, which say what theirs cost: leave it out", len(sim.Sizes))
	}
	for flag, set := range map[string]func(){"min": func() { c.Min = s.min }, "max": func() { c.Max = s.max },
		"target": func() { c.CPU = s.target }, "price": func() { c.Price, sim.Sizes = s.price, nil }} {
		if changed(flag) {
			set()
		}
	}
	c.Memory, c.Concurrent, c.Response, c.Percentile = 0, 0, 0, 0
	if c.CPU == 0 && c.Requests == 0 {
		return nil, errors.New("the pool has no target of CPU or requests a second, and others are not simulated: say --target")
	}
	sim.Scale = c
	var regions []string
	for _, o := range sim.Offers() {
		regions = append(regions, o.Region)
	}
	if err := sim.Check(regions...); err != nil {
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

// How long a trace may be, how many lines it may have, and how long they may be; and what a load may be.
const (
	longestTrace = 400 * 24 * time.Hour
	mostLines    = 2_000_000
	longestLine  = 64 << 10
	mostLoad     = 1e12
)

// readTrace reads a file with a time and a load in each line. Its first line may be a heading.
func readTrace(file string) (replay.Trace, error) {
	in, name := io.Reader(os.Stdin), "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("--trace: %w", err)
		}
		defer f.Close()
		in, name = f, file
	}
	r := bufio.NewScanner(in)
	r.Buffer(nil, longestLine)
	var t replay.Trace
	line, heading := 0, true
	for r.Scan() {
		line++
		text := strings.TrimSpace(strings.TrimPrefix(r.Text(), "\ufeff")) // which Windows writes first
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if heading {
			if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
				return nil, fmt.Errorf("%s: it is in UTF-16, want UTF-8", name)
			}
			if heading = false; isHeading(text) {
				continue
			}
		}
		p, err := readPoint(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		case len(t) > 0 && !p.At.After(t[len(t)-1].At):
			return nil, fmt.Errorf("%s:%d: its time is not after that of the line before, want times that rise", name, line)
		case len(t) > 0 && p.At.Sub(t[0].At) > longestTrace, len(t) == mostLines:
			return nil, fmt.Errorf("%s:%d: the trace is too long, want at most 400 days and %d lines", name, line, mostLines)
		}
		t = append(t, p)
	}
	switch err := r.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%s:%d: the line is too long, want a time and a load", name, line+1)
	case err != nil:
		return nil, fmt.Errorf("--trace: %w", err)
	case line == 0:
		return nil, fmt.Errorf("%s: it is empty, want at least two lines, each a time and a load", name)
	case len(t) < 2:
		return nil, fmt.Errorf("%s: it has %s with a load, want at least two, each a time and a load", name, count(len(t), "line"))
	}
	return t, nil
}

// fields returns what a line has before its first two commas, or semicolons or tabs, without quotes.
func fields(line string) (fields []string) {
	separator := ","
	if i := strings.IndexAny(line, ",;\t"); i >= 0 {
		separator = line[i : i+1]
	}
	for _, f := range strings.SplitN(line, separator, 3) {
		fields = append(fields, strings.TrimSpace(strings.Trim(strings.TrimSpace(f), `"`)))
	}
	return fields
}

// isHeading reports whether a trace's first line says what the others have.
func isHeading(line string) bool {
	f := fields(line)
	if len(f) < 2 || strings.ContainsAny(f[0][:min(1, len(f[0]))], "-+.0123456789") {
		return false
	}
	_, err := strconv.ParseFloat(f[1], 64)
	return err != nil
}

func readPoint(line string) (p replay.Point, err error) {
	f := fields(line)
	if len(f) < 2 {
		return p, fmt.Errorf("it is %.40q, want a time and a load, with a comma between", line)
	}
	if p.At, err = readTime(f[0]); err != nil {
		return p, err
	}
	p.Load, err = strconv.ParseFloat(f[1], 64)
	switch {
	case f[1] == "":
		return p, errors.New("the load is missing: leave the line out if it is not known")
	case err == nil && p.Load < 0:
		return p, fmt.Errorf("the load is %.40q, want 0 or more", f[1])
	case err != nil || !(p.Load < mostLoad):
		return p, fmt.Errorf("the load is %.40q, want a number such as 120.5", f[1])
	}
	return p, nil
}

// sparse says where a trace has a gap, if it has one: a time without lines that is long, and much longer than is usual in it.
func sparse(t replay.Trace) string {
	gaps := make([]time.Duration, 0, len(t)-1)
	longest := 1
	for i := 1; i < len(t); i++ {
		gaps = append(gaps, t[i].At.Sub(t[i-1].At))
		if gaps[i-1] > gaps[longest-1] {
			longest = i
		}
	}
	gap := gaps[longest-1]
	slices.Sort(gaps)
	if usual := gaps[len(gaps)/2]; gap < 15*time.Minute || gap < 10*usual {
		return ""
	}
	return fmt.Sprintf("there is no line between %s and %s: the load is taken to have gone straight from one to the other",
		t[longest-1].At.Format(time.RFC3339), t[longest].At.Format(time.RFC3339))
}

func readTime(s string) (time.Time, error) {
	switch n, err := strconv.ParseFloat(s, 64); {
	case err != nil:
	case n >= 0 && n < 1e11:
		return time.UnixMilli(int64(n * 1000)).UTC(), nil
	case n >= 1e11 && n < 1e14: // Grafana's
		return time.UnixMilli(int64(n)).UTC(), nil
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
