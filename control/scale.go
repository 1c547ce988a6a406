package control

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"weir/cron"
	"weir/scale"
	"weir/store"
	"weir/weir"
)

// What is remembered of pools that follow their load, by pool. They are rows of their own, since a change
// of a pool's row has its controller look at it.
var (
	verdicts = store.NewTable[weir.Verdict]("verdicts")
	pasts    = store.NewTable[past]("pool_pasts")
)

// past is what a pool has needed in former days, and what was learnt of its machines.
type past struct {
	Of    string          `json:"of"` // what it was measured by: with other targets, all is forgotten
	Until time.Time       `json:"until"`
	Need  []byte          `json:"need"` // as packed has it
	Boots []time.Duration `json:"boots,omitempty"`
}

// keptBoots is how many boots are remembered.
const keptBoots = 8

// follower has pools follow their load for as long as one member leads. What it has seen is in memory: one
// that begins to lead knows of no load at first, and so shrinks nothing.
type follower struct {
	*term
	pools map[weir.ID]*followed
	crons map[weir.Schedule]cron.Schedule
}

// followed is a pool that follows its load.
type followed struct {
	recent  []scale.Sample
	whole   []scale.Sample // the same, in which CPU and memory are not known if an exporter was not heard
	muted   time.Time      // when that was last so
	size    int            // that it was last seen to have
	lately  []scale.Change
	past    scale.Past
	of      string
	boots   []time.Duration
	booting map[weir.ID]bool
	need    float64 // the sum since the past's last step, of so many samples
	needs   int
	told    weir.Verdict
}

// follow decides how large pools are to be, again and again until ctx ends.
func (t *term) follow(ctx context.Context) {
	f := &follower{term: t, pools: map[weir.ID]*followed{}, crons: map[weir.Schedule]cron.Schedule{}}
	tick := time.NewTicker(t.Look)
	defer tick.Stop()
	for {
		if err := f.look(ctx, time.Now()); err != nil && ctx.Err() == nil {
			t.Log.Warn("pools not scaled", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look looks at all pools once.
func (f *follower) look(ctx context.Context, now time.Time) error {
	all, err := pools.All(ctx, f.db)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(p weir.Pool) bool { return p.Scale == nil && !p.Heals() || !p.Deleting.IsZero() })
	if len(all) == 0 {
		clear(f.pools)
		return nil
	}
	ms, err := machines.All(ctx, f.db)
	if err != nil {
		return err
	}
	lbs, err := loadBalancers.All(ctx, f.db)
	if err != nil {
		return err
	}
	members := map[weir.ID][]weir.Machine{}
	for _, m := range ms {
		if m.Pool != "" && m.Deleting.IsZero() {
			members[m.Pool] = append(members[m.Pool], m)
		}
	}
	f.tend(all, members)
	gone := f.pools
	f.pools = make(map[weir.ID]*followed, len(all))
	var errs []error
	for _, p := range all {
		if p.Scale == nil {
			continue
		}
		of := gone[p.ID]
		if of == nil {
			of = &followed{booting: map[weir.ID]bool{}, size: -1}
		}
		f.pools[p.ID] = of
		if err := f.decide(ctx, p, of, members[p.ID], lbs, now); err != nil {
			errs = append(errs, fmt.Errorf("pool %s: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}

// decide decides about one pool, and writes what that changes.
func (f *follower) decide(ctx context.Context, p weir.Pool, of *followed, members []weir.Machine, lbs []weir.LoadBalancer, now time.Time) error {
	if err := of.recall(ctx, f.db, &p); err != nil {
		return err
	}
	of.boot(members, now)
	sample, _, unknown := f.figures.loadOf(members, lbs, p.Percentile(), now)
	of.see(sample, unknown != "", now)
	pool := scale.Pool{Rules: rulesFor(&p), Size: p.Count, Lately: of.lately, Boots: of.boots, Recent: of.recent, Past: &of.past}
	pool.Demands = f.demands(p.Scale.Schedules, now)
	d := scale.Decide(&pool, now)
	if shrinks := min(d.Size, cmp.Or(d.Next.Size, d.Size)) < p.Count; shrinks && now.Sub(of.muted) <= scale.Recall {
		// To grow it is enough to know how busy most machines are; those that are not heard may be busier.
		whole := pool
		whole.Recent = of.whole
		d = scale.Decide(&whole, now)
	}
	if err := f.note(ctx, p.ID, of, &pool, now); err != nil {
		return err
	}
	v := weir.Verdict{At: now.UTC(), Size: d.Size, Why: d.Why}
	if d.Next.Size != 0 {
		v.Next = &weir.NextSize{Size: d.Next.Size, At: d.Next.At.UTC(), Why: d.Next.Why}
	}
	var short []weir.Placement
	if d.Size > p.Count {
		v, short = f.roomFor(ctx, p, members, v)
	}
	if v.Size != p.Count {
		return f.resize(ctx, p, of, v, short)
	}
	if repeats(of.told, v) {
		return nil
	}
	of.told = v
	return f.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := pools.Get(ctx, tx, p.ID); err != nil {
			return ignoreGone(err)
		}
		verdicts.Put(tx, p.ID, v)
		return nil
	})
}

// see takes in what was seen of a pool, and forgets what is old. Mute says that not all of its exporters were heard.
func (of *followed) see(s scale.Sample, mute bool, now time.Time) {
	of.recent = append(of.recent, s)
	if mute {
		of.muted = now
		s.Load[scale.CPU], s.Load[scale.Memory] = math.NaN(), math.NaN()
	}
	of.whole = append(of.whole, s)
	first := slices.IndexFunc(of.recent, func(s scale.Sample) bool { return now.Sub(s.At) <= scale.Recall })
	of.recent, of.whole = of.recent[first:], of.whole[first:]
}

func ignoreGone(err error) error {
	if errors.Is(err, weir.NotFound) {
		return nil
	}
	return err
}

// oldVerdict is how long one stands that says the same as those after it but for the numbers.
const oldVerdict = 5 * time.Minute

// repeats reports whether a verdict need not be told after another one.
func repeats(was, is weir.Verdict) bool {
	next := func(v weir.Verdict) int {
		if v.Next == nil {
			return 0
		}
		return v.Next.Size
	}
	return was.Size == is.Size && next(was) == next(is) && is.At.Sub(was.At) < oldVerdict
}

// roomFor returns a verdict by which a pool grows by no more than its cloud has room for, and which sizes it has no room
// for at all.
func (f *follower) roomFor(ctx context.Context, p weir.Pool, members []weir.Machine, v weir.Verdict) (weir.Verdict, []weir.Placement) {
	was := p.Count
	p.Count = v.Size
	s, err := f.supply(ctx, &p, members, float64(v.Size))
	if err != nil {
		return v, nil // what is wrong with the cloud is seen when the machines are made
	}
	if s.err != nil {
		v.Why = fmt.Sprintf("there is no room for %d machines (%v)", v.Size, s.err)
		v.Size = max(was, int(s.units+1e-9))
	}
	return v, s.short
}

// resize makes a pool as large as was decided, unless it has changed meanwhile.
func (f *follower) resize(ctx context.Context, was weir.Pool, of *followed, v weir.Verdict, short []weir.Placement) error {
	err := f.db.Update(ctx, func(tx *store.Tx) error {
		p, err := pools.Get(ctx, tx, was.ID)
		if err != nil {
			return ignoreGone(err)
		}
		if p.Count != was.Count || !p.Deleting.IsZero() || !reflect.DeepEqual(p.Scale, was.Scale) {
			return nil
		}
		reason := weir.ScaledUp
		if v.Size < p.Count {
			reason = weir.ScaledDown
		}
		counted := " machines"
		if p.Mixed() {
			counted = " " + p.Template.Size
		}
		tellPool(tx, &p, "", weir.EventDecision, fmt.Sprintf("%d%s → %d: %s", p.Count, counted, v.Size, v.Why))
		p.Count = v.Size
		if p.Mixed() {
			for _, at := range short {
				passOver(&p, at, v.At)
				tellPool(tx, &p, "", weir.EventDecision, fmt.Sprintf("has other %ss than %s for now, which its cloud has no room for", another(&p), p.Called(at)))
			}
		}
		pools.Put(tx, p.ID, p)
		verdicts.Put(tx, p.ID, v)
		return beginScaling(ctx, tx, p, reason, v.Why)
	})
	if err != nil {
		return err
	}
	of.told = v
	f.Log.Info("pool resized", "pool", was.ID, "from", was.Count, "to", v.Size, "why", v.Why)
	return nil
}

// rulesFor returns the rules of a pool that scales, without what schedules demand.
func rulesFor(p *weir.Pool) scale.Rules {
	s := p.Scale
	r := scale.Rules{Percentile: s.Percentile, Min: s.Min, Max: s.Max, Most: p.Affords(), Cooldown: s.Cooldown, Stabilisation: s.Stabilisation}
	if s.Cooldown == 0 && p.Autoscale != nil {
		r.Cooldown = weir.DefaultCooldown
	}
	if s.Pause != 0 {
		r.Cooldown = s.Pause
	}
	r.Targets = [scale.Signals]float64{scale.CPU: s.CPU, scale.Memory: s.Memory, scale.Requests: s.Requests,
		scale.Concurrent: s.Concurrent, scale.Response: s.Response.Seconds()}
	return r
}

// checkScaled returns why p cannot be a pool, the times of its schedules included.
func (c *Control) checkScaled(p *weir.Pool) error {
	if err := p.Check(c.Regions()...); err != nil || p.Scale == nil {
		return err
	}
	for _, s := range p.Scale.Schedules {
		if _, err := cron.Parse(s.Cron, s.Zone); err != nil {
			return fmt.Errorf("pool %q: schedule %q: %w", p.Name, s.Called(), err)
		}
	}
	return nil
}

// demands returns what schedules ask for now and next.
func (f *follower) demands(all []weir.Schedule, now time.Time) (demands []scale.Demand) {
	for _, s := range all {
		when, ok := f.crons[s]
		if !ok {
			var err error
			if when, err = cron.Parse(s.Cron, s.Zone); err != nil {
				continue // it was checked before it was stored
			}
			if len(f.crons) > 10_000 {
				clear(f.crons)
			}
			f.crons[s] = when
		}
		for _, from := range when.Around(now, s.For) {
			demands = append(demands, scale.Demand{Name: s.Called(), From: from, Until: from.Add(s.For), Min: s.Min})
		}
	}
	return demands
}

// measured says what a pool's needs are measured by.
func measured(p *weir.Pool) string {
	by := fmt.Sprintf("%s %v", p.Template.Size, rulesFor(p).Targets)
	if p.Exporter != nil {
		by += " of exporters"
	}
	return by
}

// recall reads what is remembered of a pool, when it is first looked at and whenever somebody else has
// changed its size.
func (of *followed) recall(ctx context.Context, r store.Reader, p *weir.Pool) error {
	kind := measured(p)
	if of.of == "" {
		row, err := pasts.Get(ctx, r, p.ID)
		if err := ignoreGone(err); err != nil {
			return err
		}
		of.boots = row.Boots
		if row.Of == kind {
			of.past = scale.Past{Until: row.Until, Need: unpacked(row.Need)}
		}
	} else if of.of != kind {
		of.past, of.recent, of.whole = scale.Past{}, nil, nil
	}
	of.of = kind
	if of.size == p.Count {
		return nil
	}
	history, err := scalings.Get(ctx, r, p.ID)
	if err := ignoreGone(err); err != nil {
		return err
	}
	of.size, of.lately = p.Count, nil
	for i, s := range history {
		if i > 0 && s.Reason != weir.ScaledByUser && s.Want != history[i-1].Want {
			of.lately = append(of.lately, scale.Change{At: s.Began, From: history[i-1].Want, To: s.Want})
		}
	}
	return nil
}

// boot learns how long machines take to serve, from those that were seen before they did.
func (of *followed) boot(members []weir.Machine, now time.Time) {
	was := of.booting
	of.booting = map[weir.ID]bool{}
	for _, m := range members {
		switch {
		case !m.Serves():
			of.booting[m.ID] = true
		case was[m.ID] && !m.Off && !m.Drained:
			of.boots = append(of.boots, now.Sub(m.Created))
		}
	}
	of.boots = of.boots[max(0, len(of.boots)-keptBoots):]
}

// note remembers, at the end of each step, what a pool has needed in it.
func (f *follower) note(ctx context.Context, id weir.ID, of *followed, p *scale.Pool, now time.Time) error {
	if need, ok := scale.Need(p); ok {
		of.need += need
		of.needs++
	}
	until := now.Truncate(scale.Step).UTC()
	if !until.After(of.past.Until) {
		return nil
	}
	if of.past.Until.IsZero() && len(of.past.Need) == 0 {
		of.past.Until = until // of the step that has begun nothing is known
		of.need, of.needs = 0, 0
		return nil
	}
	if of.needs == 0 {
		return nil
	}
	of.past.Note(until, of.need/float64(of.needs))
	of.need, of.needs = 0, 0
	row := past{Of: of.of, Until: of.past.Until, Need: packed(of.past.Need), Boots: of.boots}
	return f.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := pools.Get(ctx, tx, id); err != nil {
			return ignoreGone(err)
		}
		pasts.Put(tx, id, row)
		return nil
	})
}

// A need is stored in two bytes, as a number of sixtieths; the highest stands for what is not known.
const (
	perMachine = 60
	notKnown   = math.MaxUint16
)

func packed(need []float32) []byte {
	b := make([]byte, 0, 2*len(need))
	for _, v := range need {
		n := uint16(notKnown)
		if v == v { // it is a number
			n = uint16(min(max(math.Round(float64(v)*perMachine), 0), notKnown-1))
		}
		b = binary.BigEndian.AppendUint16(b, n)
	}
	return b
}

func unpacked(b []byte) (need []float32) {
	for ; len(b) >= 2; b = b[2:] {
		if n := binary.BigEndian.Uint16(b); n == notKnown {
			need = append(need, float32(math.NaN()))
		} else {
			need = append(need, float32(n)/perMachine)
		}
	}
	return need
}

// poolOf returns the caller's pool of that name or ID that is to stay.
func poolOf(ctx context.Context, tx *store.Tx, name string) (weir.Pool, error) {
	all, err := pools.AllOwn(ctx, tx)
	if err != nil {
		return weir.Pool{}, err
	}
	for _, p := range all {
		if (p.Name == name || string(p.ID) == name) && p.Deleting.IsZero() {
			return p, nil
		}
	}
	return weir.Pool{}, weir.Errorf(weir.NotFound, "there is no pool %q", name)
}

// PoolReport returns the pool of a name or an ID, with what it bears and what was decided of it.
func (c *Control) PoolReport(ctx context.Context, name string) (r weir.PoolReport, err error) {
	var members []weir.Machine
	var lbs []weir.LoadBalancer
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		r = weir.PoolReport{}
		if r.Pool, err = poolOf(ctx, tx, name); err != nil {
			return err
		}
		if members, err = c.membersOf(ctx, tx, r.Pool.ID); err != nil {
			return err
		}
		if lbs, err = loadBalancers.AllOwn(ctx, tx); err != nil {
			return err
		}
		v, err := verdicts.Get(ctx, tx, r.Pool.ID)
		if err == nil && r.Pool.Scale != nil {
			r.Verdict = &v
		}
		return ignoreGone(err)
	})
	members = slices.DeleteFunc(members, func(m weir.Machine) bool { return !m.Deleting.IsZero() })
	r.Machines, r.Units = len(members), worth(members)
	if on := crowdOf(members); len(on) > 0 {
		r.Hosts = on
	}
	r.Load = poolLoad(c.figures.loadOf(members, lbs, r.Pool.Percentile(), time.Now()))
	return r, err
}

// PoolLoads returns what pools bear at the moment, as far as this member knows, by ID.
func (c *Control) PoolLoads(ctx context.Context, all []weir.Pool) (map[weir.ID]weir.PoolLoad, error) {
	if len(all) == 0 {
		return nil, nil
	}
	members := map[weir.ID][]weir.Machine{}
	var lbs []weir.LoadBalancer
	err := c.Store.View(ctx, func(tx *store.Tx) (err error) {
		clear(members)
		for _, p := range all {
			if _, err := pools.Own(ctx, tx, p.ID); err != nil {
				if err = ignoreGone(err); err != nil {
					return err
				}
				continue
			}
			if members[p.ID], err = c.membersOf(ctx, tx, p.ID); err != nil {
				return err
			}
		}
		lbs, err = loadBalancers.AllOwn(ctx, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	loads := map[weir.ID]weir.PoolLoad{}
	for _, p := range all {
		of, there := members[p.ID]
		if !there {
			continue
		}
		of = slices.DeleteFunc(of, func(m weir.Machine) bool { return !m.Deleting.IsZero() })
		loads[p.ID] = poolLoad(c.figures.loadOf(of, lbs, p.Percentile(), time.Now()))
	}
	return loads, nil
}

// poolLoad puts a sample in words.
func poolLoad(s scale.Sample, machines int, unknown string) weir.PoolLoad {
	known := func(v float64) *float64 {
		if math.IsNaN(v) {
			return nil
		}
		return &v
	}
	each := cmp.Or(s.Serving, 1)
	return weir.PoolLoad{Serving: machines, CPU: known(s.Load[scale.CPU] / each), Memory: known(s.Load[scale.Memory] / each),
		Requests: known(s.Load[scale.Requests]), Concurrent: known(s.Load[scale.Concurrent]), Response: known(s.Load[scale.Response]), Unknown: unknown}
}

// PoolTold returns how the pool of a name or an ID has changed, the newest first; nothing of one whose size only
// users change.
func (c *Control) PoolTold(ctx context.Context, name string) (history []weir.Scaling, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		p, err := poolOf(ctx, tx, name)
		if err != nil {
			return err
		}
		history, err = historyOf(ctx, tx, p.ID)
		return err
	})
	slices.Reverse(history)
	return history, err
}
