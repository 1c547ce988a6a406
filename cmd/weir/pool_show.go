package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

type poolShow struct {
	user   *user
	format format
}

func poolShowCommand(u *user) *cobra.Command {
	s := poolShow{user: u}
	cmd := &cobra.Command{
		Use:   "show POOL",
		Short: "Show how large a pool is, why, and what comes next",
		Long: `Show a pool, given by name or ID: how many machines it has, what they bear, what each
should bear, why it is as large as it is, and what comes next and when. Times are local.`,
		Example: `  weir pool show web
  weir pool show web -o json`,
		Args: arguments(1, 1, "one pool"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd.Context(), args[0], cmd.OutOrStdout())
		},
		ValidArgsFunction: u.pools,
	}
	s.format.flags(cmd)
	return cmd
}

func (s *poolShow) run(ctx context.Context, name string, stdout io.Writer) error {
	c, err := s.user.connect()
	if err != nil {
		return err
	}
	pool, err := c.pool(ctx, name)
	if err != nil {
		return err
	}
	if s.format.json {
		return writeJSON(stdout, pool)
	}
	p := &page{w: stdout, width: widthOf(stdout)}
	p.pool(&pool)
	return p.err
}

// pool writes all there is about a pool.
func (p *page) pool(s *api.PoolState) {
	between := ""
	if s.Scale != nil {
		between = fmt.Sprintf(" of %d to %d", s.Scale.Min, s.Scale.Max)
	}
	if len(s.Sizes) > 1 {
		p.text("", "Pool %s: as much as %d %s%s, %s there, which are worth %v, %d ready to serve", s.Name, s.Count, s.Size, between, count(s.Machines, "machine"), s.Capacity, s.Load.Serving)
	} else {
		p.text("", "Pool %s: %s%s, %d there, %d ready to serve", s.Name, count(s.Count, "machine"), between, s.Machines, s.Load.Serving)
	}
	if len(s.Hosts) > 0 {
		p.text("  ", "hosts: %s", hostWords(s.Hosts))
	}
	if said := loadWords(&s.Load); said != "" {
		p.text("  ", "load: %s", said)
	}
	if s.Scale == nil {
		p.text("  ", "its size is what users say")
	} else {
		p.text("  ", "targets: %s", targetWords(s.Scale))
	}
	if s.Exporter != nil {
		e := weir.Exporter{Port: s.Exporter.Port, Path: s.Exporter.Path}
		p.text("  ", "CPU and memory: as exporters at port %d tell them, at %s", e.Port, e.At())
	}
	if len(s.Sizes) > 0 {
		p.text("  ", "sizes: %s", sizeWords(s.Sizes))
	}
	if v := s.Verdict; v != nil {
		now, when := time.Now(), ""
		if now.Sub(v.At) >= time.Minute { // what says the same but for the numbers is not told each time
			when = fmt.Sprintf(" (%s ago)", age(now, v.At))
		}
		p.text("  ", "why%s: %s", when, v.Why)
		if v.Next != nil {
			p.text("  ", "next: %s", nextWords(v.Next, now))
		}
	}
	if s.Load.Unknown != "" {
		p.text("  ! ", "%s", s.Load.Unknown)
	}
	p.plan(s.Plan)
	if s.Back != "" {
		p.text("  ! ", "it went back to its former template: %s", s.Back)
	}
	if s.Err != "" {
		p.text("  ! ", "%s", s.Err)
	}
}

// hostWords says how many machines each host has.
func hostWords(on map[string]int) string {
	var said []string
	for _, host := range slices.SortedFunc(maps.Keys(on), weir.CompareHosts) {
		said = append(said, fmt.Sprintf("%s %d", host, on[host]))
	}
	return strings.Join(said, ", ")
}

// sizeWords says which sizes machines may have, and where if that is said.
func sizeWords(sizes []api.PoolSize) string {
	var said []string
	for _, s := range sizes {
		words := s.Size
		if s.Region != "" {
			words = weir.Placement{Region: s.Region, Size: s.Size}.String()
		}
		for _, part := range []struct {
			format string
			value  float64
		}{{" at %v an hour", s.Price}, {" worth %v", s.Weight}, {" with a share of %v", s.Share}, {" at most %v", float64(s.Max)}} {
			if part.value != 0 {
				words += fmt.Sprintf(part.format, part.value)
			}
		}
		said = append(said, words)
	}
	return strings.Join(said, ", ")
}

// nextWords says what comes next.
func nextWords(n *weir.NextSize, now time.Time) string {
	layout := "15:04:05"
	if n.At.Sub(now) > 12*time.Hour {
		layout = "Mon 15:04"
	}
	return fmt.Sprintf("%s from %s: %s", count(n.Size, "machine"), n.At.Local().Format(layout), n.Why)
}

// loadWords says what a pool bears, as far as that is known.
func loadWords(l *weir.PoolLoad) string {
	var said []string
	add := func(format string, v *float64, times float64) {
		if v != nil {
			said = append(said, fmt.Sprintf(format, *v*times))
		}
	}
	add("CPU %.0f %%", l.CPU, 100)
	add("memory %.0f %%", l.Memory, 100)
	add("%.1f requests/s", l.Requests, 1)
	add("%.0f at a time", l.Concurrent, 1)
	add("answers take %.0f ms", l.Response, 1000)
	return strings.Join(said, ", ")
}

// targetWords says what one machine should bear.
func targetWords(c *api.AutoscaleConfig) string {
	m := api.AutoscaleMore{}
	if c.Weir != nil {
		m = *c.Weir
	}
	var said []string
	add := func(format string, v, times float64) {
		if v != 0 {
			said = append(said, fmt.Sprintf(format, v*times))
		}
	}
	add("CPU %.0f %%", c.CPU, 100)
	add("memory %.0f %%", c.Memory, 100)
	add("%v requests/s", m.Requests, 1)
	add("%v requests at a time", m.Concurrent, 1)
	add("answers in %v ms", m.Response, 1)
	add("for %v %% of requests", float64(m.Percentile), 1)
	add("at most %v an hour", m.Budget, 1)
	for _, s := range m.Schedules {
		name := s.Name
		if name == "" {
			name = s.Cron
		}
		said = append(said, fmt.Sprintf("%s at least %d", name, s.Min))
	}
	return strings.Join(said, ", ")
}
