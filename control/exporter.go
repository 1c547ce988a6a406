package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"weir/cloud"
	"weir/exporter"
	"weir/store"
	"weir/weir"
)

// Exporters are asked so many at once, for so long each.
const (
	exportersAtOnce  = 128
	exporterPatience = 3 * time.Second
)

// toldFigures are what a machine itself tells of its CPU and memory, by its exporter.
type toldFigures struct {
	machineFigures
	asked time.Time // when it was last asked
	err   error     // what came of that
}

// toldReadings are the figures of machines that exporters tell. Others are the cloud's also of machines that have one.
var toldReadings = map[weir.Figure]bool{"cpu": true, "memory_available": true, "memory_cached": true, "memory_free": true, "memory_total": true}

// metered returns how members of p are asked what they use, nil if they are not.
func (c *Control) metered(p *weir.Pool) *weir.Metered {
	if p.Exporter == nil || !p.Deleting.IsZero() {
		return nil
	}
	return &weir.Metered{Exporter: *p.Exporter, By: slices.SortedFunc(slices.Values(c.From), netip.Addr.Compare)}
}

// meterMembers has members be asked what they use, and open to that, as their pool says.
func (c *Control) meterMembers(tx *store.Tx, p *weir.Pool, members []weir.Machine) {
	for i := range members {
		m := &members[i]
		if want := c.metered(p); m.Deleting.IsZero() && !reflect.DeepEqual(m.Metered, want) {
			m.Metered = want
			machines.Put(tx, m.ID, *m)
		}
	}
}

// askExporters asks all exporters what their machines use, again and again until ctx ends.
func (c *Control) askExporters(ctx context.Context) {
	mute := map[weir.ID]time.Time{} // the pools that have an exporter which is not heard, and since when
	blind := false
	tick := time.NewTicker(c.Look)
	defer tick.Stop()
	for {
		all, err := c.meteredMachines(ctx)
		if err != nil && ctx.Err() == nil && !blind {
			c.Log.Warn("exporters not asked", "err", err)
		}
		if blind = err != nil; !blind {
			c.figures.keepTold(all)
			serving := slices.DeleteFunc(all, func(m weir.Machine) bool { return !m.Serves() })
			c.askThese(ctx, serving)
			c.logMute(serving, mute)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// meteredMachines returns the machines that have an exporter.
func (c *Control) meteredMachines(ctx context.Context) (all []weir.Machine, err error) {
	err = c.lists.machines.view(ctx, func(p store.Pages[weir.Machine]) {
		p.Each(meteredList, 0, math.MaxInt, func(m *weir.Machine) { all = append(all, *m) })
	})
	return all, err
}

// askThese asks the exporters of machines, many at once, until all have answered or it is time to ask again. Those that did
// not answer last time come last, and of them those first that wait longest: they keep nobody else waiting.
func (c *Control) askThese(ctx context.Context, serving []weir.Machine) {
	c.figures.queue(serving)
	patience := min(exporterPatience, c.Look/4)
	late := time.After(c.Look - patience)
	next := make(chan weir.Machine)
	var wg sync.WaitGroup
	defer wg.Wait()
	for range min(exportersAtOnce, len(serving)) {
		wg.Go(func() {
			for m := range next {
				r, err := c.askExporter(ctx, &m, patience)
				if ctx.Err() == nil {
					c.figures.tell(m.ID, r, err, time.Now())
				}
			}
		})
	}
	defer close(next)
	for _, m := range serving {
		select {
		case next <- m:
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (c *Control) askExporter(ctx context.Context, m *weir.Machine, patience time.Duration) (exporter.Reading, error) {
	if c.Dial == nil {
		return exporter.Reading{}, errors.New("this control plane has no way to machines")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return exporter.Ask(ctx, exporter.Dial(c.Dial), exporterOf(m), m.Metered.At())
}

// exporterOf returns where a machine's exporter is asked.
func exporterOf(m *weir.Machine) netip.AddrPort {
	return netip.AddrPortFrom(m.Status.Private, uint16(m.Metered.Port))
}

// keepTold forgets what machines told that have no exporter any more.
func (f *figures) keepTold(all []weir.Machine) {
	has := make(map[weir.ID]bool, len(all))
	for _, m := range all {
		has[m.ID] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.told, func(id weir.ID, _ *toldFigures) bool { return !has[id] })
}

// queue sorts machines by which is asked first.
func (f *figures) queue(serving []weir.Machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortStableFunc(serving, func(a, b weir.Machine) int {
		x, y := f.told[a.ID], f.told[b.ID]
		switch xs, ys := x != nil && x.err != nil, y != nil && y.err != nil; {
		case xs && ys:
			return x.asked.Compare(y.asked)
		case xs:
			return 1
		case ys:
			return -1
		}
		return 0
	})
}

// tell takes in what came of asking a machine's exporter.
func (f *figures) tell(machine weir.ID, r exporter.Reading, err error, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.told[machine]
	if m == nil {
		m = &toldFigures{machineFigures: *newMachineFigures()}
		f.told[machine] = m
	}
	if m.asked, m.err = now, err; err == nil {
		m.take(machine, r)
	}
}

// take takes in what a machine uses. Its clock may be wrong, or be set while it runs: it tells for how long the machine has
// run, and no more. So one that has run for longer than since it was last asked has not been started meanwhile, whatever it says
// of when it was; an exporter alone that begins anew goes on where the kernel's counters are.
func (m *toldFigures) take(machine weir.ID, r exporter.Reading) {
	l := cloud.Load{Machine: machine, Taken: r.Taken, Since: r.Taken.Add(-r.Up), CPUs: r.CPUs, User: r.User, System: r.System,
		Memory: cloud.Memory{Total: r.Memory.Total, Free: r.Memory.Free, Cached: r.Memory.Cached, Available: r.Memory.Available}}
	if last := m.last; !last.Taken.IsZero() && !l.Since.After(last.Taken) {
		l.Since = last.Since
		if l.User < last.User || l.System < last.System || l.CPUs != last.CPUs {
			// A CPU was taken out or put in, or it is another kernel that counts: what has happened since is not known.
			m.source.Rose(l.Since.UnixNano(), counted(&l))
			m.last, m.busy = l, math.NaN()
			return
		}
	}
	m.measure(l)
}

// figures returns what m says, nil if it says nothing.
func (m *toldFigures) figures() *machineFigures {
	if m == nil {
		return nil
	}
	return &m.machineFigures
}

// mute says of which machines' exporters nothing is known, and why: "" if all are. f is locked.
func (f *figures) mute(serving []weir.Machine, now time.Time) string {
	var first *weir.Machine
	n := 0
	for i := range serving {
		m := &serving[i]
		if m.Metered == nil || f.told[m.ID].figures().known(now, 0) {
			continue
		}
		n++
		// One that was asked and does not answer says more than one that has only begun to.
		if first == nil || !f.told[first.ID].failed() && f.told[m.ID].failed() {
			first = m
		}
	}
	if first == nil {
		return ""
	}
	return fmt.Sprintf("CPU and memory unknown of %d of %d machines: %s's exporter at %s: %s", n, len(serving), first.Name, exporterOf(first), f.told[first.ID].why())
}

// failed reports whether m's exporter did not answer when it was last asked.
func (m *toldFigures) failed() bool { return m != nil && m.err != nil }

// why says why nothing is known of m at the moment.
func (m *toldFigures) why() string {
	switch {
	case m == nil:
		return "not asked yet"
	case m.err != nil:
		return m.err.Error()
	case m.last.Taken.IsZero() || math.IsNaN(m.busy):
		return "its CPU is known once it has answered twice"
	}
	return "not asked lately"
}

// logMute logs when a pool begins to have an exporter that is not heard, and when it has none any more. One that has not been
// asked twice is no trouble yet.
func (c *Control) logMute(serving []weir.Machine, since map[weir.ID]time.Time) {
	pools := map[weir.ID][]weir.Machine{}
	for _, m := range serving {
		pools[m.Pool] = append(pools[m.Pool], m)
	}
	now := time.Now()
	for id, of := range pools {
		c.figures.mu.Lock()
		why := c.figures.mute(of, now)
		failed := slices.ContainsFunc(of, func(m weir.Machine) bool { return c.figures.told[m.ID].failed() })
		c.figures.mu.Unlock()
		was, mute := since[id]
		switch {
		case why != "" && failed && !mute:
			since[id] = now
			c.Log.Warn("exporters not heard", "pool", id, "why", why)
		case why == "" && mute:
			delete(since, id)
			c.Log.Info("exporters heard again", "pool", id, "after", now.Sub(was).Round(time.Second))
		}
	}
	maps.DeleteFunc(since, func(id weir.ID, _ time.Time) bool { return pools[id] == nil })
}
