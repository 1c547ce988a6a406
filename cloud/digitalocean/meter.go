package digitalocean

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/digitalocean/godo"
	"github.com/digitalocean/godo/metrics"
	"golang.org/x/time/rate"

	"weir/cloud"
	"weir/weir"
)

const (
	// step is how far apart DigitalOcean's figures of a droplet are.
	step = time.Minute

	// figuresPerHour is how many requests may be for figures, of all members together, of the 5,000 that a token has in an
	// hour, and atOnce how many in a moment, of the 250 that it has in a minute. Each look at a droplet takes two.
	figuresPerHour = 3000
	atOnce         = 40
	perLook        = 2

	// window is how far back is asked: the newest points are some minutes old at times.
	window = 10 * time.Minute
)

// measured is what was last heard of a droplet.
type measured struct {
	load  cloud.Load // none yet if it was never taken
	spent map[string]float64
	asked time.Time
	total int64 // of its memory; 0 if it is not known
}

// figuresOf limits how often one of so many members asks for figures.
func figuresOf(members int) *rate.Limiter {
	return rate.NewLimiter(rate.Every(time.Duration(members)*time.Hour/figuresPerHour), atOnce)
}

// Every returns how far apart figures are: a minute, and more from 25 machines on (8, with three members), for whose sake the API
// would be asked too often otherwise.
func (c *Cloud) Every() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(step, time.Duration(len(c.loads)*perLook*c.Members)*time.Hour/figuresPerHour)
}

// Loads keeps the promise of [cloud.Meter]. It asks of each droplet as often as there can be something new, and
// otherwise returns what it last heard. CPU and memory are all that it asks.
func (c *Cloud) Loads(ctx context.Context) ([]cloud.Load, error) {
	release, err := c.locks.take(ctx, "loads")
	if err != nil {
		return nil, err
	}
	defer release()
	droplets, err := c.listed(ctx)
	if err != nil {
		return nil, err
	}
	on := map[weir.ID]bool{}
	c.mu.Lock()
	for i := range droplets {
		id, _ := c.machineOf(&droplets[i])
		if on[id] = droplets[i].Status == "active"; on[id] && c.loads[id] == nil {
			c.loads[id] = &measured{}
		}
	}
	for id := range c.loads {
		if !on[id] {
			delete(c.loads, id)
		}
	}
	c.mu.Unlock()

	every := c.Every()
	order := make([]int, len(droplets)) // who was not asked for longest comes first
	asked := make([]time.Time, len(droplets))
	of := make([]*measured, len(droplets))
	c.mu.Lock()
	for i := range droplets {
		id, _ := c.machineOf(&droplets[i])
		if order[i], of[i] = i, c.loads[id]; of[i] != nil {
			asked[i] = of[i].asked
		}
	}
	c.mu.Unlock()
	slices.SortStableFunc(order, func(x, y int) int { return asked[x].Compare(asked[y]) })
	for _, i := range order {
		now := time.Now()
		if of[i] == nil || now.Sub(of[i].asked) < every || !c.figures.AllowN(now, perLook) {
			continue
		}
		of[i].asked = now
		id, _ := c.machineOf(&droplets[i])
		if err = c.measure(ctx, id, &droplets[i], of[i]); err != nil {
			err = fmt.Errorf("figures of droplet %d: %w", droplets[i].ID, err)
			break // the others would fail likewise
		}
	}
	var all []cloud.Load
	for _, m := range of {
		if m != nil && !m.load.Taken.IsZero() {
			all = append(all, m.load)
		}
	}
	return all, err
}

// measure asks for the figures of a droplet. One that has none yet is measured later.
func (c *Cloud) measure(ctx context.Context, id weir.ID, d *godo.Droplet, m *measured) error {
	q := &godo.DropletMetricsRequest{HostID: strconv.Itoa(d.ID), Start: m.asked.Add(-window), End: m.asked}
	ask := func(of func(context.Context, *godo.DropletMetricsRequest) (*godo.MetricsResponse, *godo.Response, error)) ([]metrics.SampleStream, error) {
		r, _, err := of(ctx, q)
		if err != nil {
			return nil, c.unless(err)
		}
		return r.Data.Result, nil
	}
	cpu, err := ask(c.do.Monitoring.GetDropletCPU)
	if err != nil {
		return err
	}
	memory, err := ask(c.do.Monitoring.GetDropletAvailableMemory)
	if err != nil {
		return err
	}
	if m.total == 0 {
		total, err := ask(c.do.Monitoring.GetDropletTotalMemory)
		if err != nil {
			return err
		}
		_, bytes, _ := newest(total)
		m.total = int64(bytes)
	}
	taken, spent := spent(cpu)
	_, available, known := newest(memory)
	if !taken.After(m.load.Taken) || !known || m.total == 0 {
		return nil
	}
	load := cloud.Load{Machine: id, Taken: taken, CPUs: max(1, d.Vcpus), Memory: cloud.Memory{Total: m.total, Available: min(int64(available), m.total)}}
	all := 0.0
	again := m.spent != nil // since the same moment
	for mode, s := range spent {
		all += s
		again = again && s >= m.spent[mode]
	}
	// When it was powered on is not told; but its counters, all of them together, run as fast as its CPUs do.
	load.Since = taken.Add(-seconds(all / float64(load.CPUs)))
	if again {
		load.Since = m.load.Since
	}
	load.User = seconds(spent["user"] + spent["nice"])
	load.System = seconds(spent["system"] + spent["irq"] + spent["softirq"])
	m.load, m.spent = load, spent
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// spent returns what a droplet's CPUs have spent in each mode, in seconds, at the newest moment for which all modes are known.
func spent(all []metrics.SampleStream) (taken time.Time, spent map[string]float64) {
	at := map[metrics.Time]map[string]float64{}
	for _, s := range all {
		for _, v := range s.Values {
			if at[v.Timestamp] == nil {
				at[v.Timestamp] = map[string]float64{}
			}
			at[v.Timestamp][string(s.Metric["mode"])] += float64(v.Value)
		}
	}
	modes := map[string]bool{}
	for _, s := range all {
		modes[string(s.Metric["mode"])] = true
	}
	for t, s := range at {
		if len(s) == len(modes) && t.Time().After(taken) {
			taken, spent = t.Time(), s
		}
	}
	return taken, spent
}

// newest returns the last value of a figure.
func newest(all []metrics.SampleStream) (taken time.Time, value float64, known bool) {
	for _, s := range all {
		for _, v := range s.Values {
			if t := v.Timestamp.Time(); t.After(taken) {
				taken, value, known = t, float64(v.Value), true
			}
		}
	}
	return taken, value, known
}
