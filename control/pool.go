package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"weir/store"
	"weir/weir"
)

// reconcilePool gives a pool as many machines as it should have.
func (t *term) reconcilePool(ctx context.Context, id weir.ID) (again time.Duration, err error) {
	err = t.db.Update(ctx, func(tx *store.Tx) error {
		again = 0
		p, err := pools.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		members, err := t.membersOf(ctx, tx, id)
		if err != nil {
			return err
		}
		if !p.Deleting.IsZero() && len(members) == 0 {
			forgetPool(tx, id)
			return nil
		}
		again, err = t.keepPool(ctx, tx, &p, members, time.Now())
		return err
	})
	return again, err
}

// keepPool gives p, whose machines are members, as many as it should have, and writes its row.
func (t *term) keepPool(ctx context.Context, tx *store.Tx, p *weir.Pool, members []weir.Machine, now time.Time) (again time.Duration, err error) {
	soonest := func(d time.Duration) {
		if d > 0 && (again == 0 || d < again) {
			again = d
		}
	}
	weighMembers(tx, p, members)
	later, err := strand(ctx, tx, p, members, now)
	if err != nil {
		return 0, err
	}
	soonest(later)
	t.meterMembers(tx, p, members)
	var found map[weir.ID]finding
	replaces := p.Former != nil || slices.ContainsFunc(members, func(m weir.Machine) bool { return p.Leaves(&m) })
	if p.Deleting.IsZero() && (replaces || p.Heals()) {
		if found, err = t.find(ctx, tx, members, now); err != nil {
			return 0, err
		}
		if replaces {
			soonest(time.Second) // what nodes say of their servers touches no pool
		}
	}
	drop, err := t.roll(ctx, tx, p, members, found, now)
	if err != nil {
		return 0, err
	}
	if err := heal(ctx, tx, p, members, found, now); err != nil {
		return 0, err
	}
	instead := noteShort(p, members, now)
	tellShort(tx, p, instead)
	drop = append(drop, instead...)
	for _, until := range p.Status.Short {
		soonest(until.Sub(now) + time.Second)
	}
	for i := range members {
		if waitsInVain(p, &members[i]) {
			soonest(lostFor - now.Sub(members[i].Created)) // then its placement is passed over
		}
	}
	plan := planPool(*p, members, found, now)
	drop = append(drop, plan.drop...)
	if m, later := failed(*p, members, now); m != nil && len(plan.add) == 0 && len(drop) == 0 {
		drop = append(drop, *m)
	} else {
		soonest(later)
	}
	if _, err := t.addMembers(ctx, tx, p, plan.add); err != nil {
		return 0, err
	}
	gone := map[weir.ID]bool{}
	for _, m := range drop {
		if !gone[m.ID] {
			gone[m.ID] = true
			if err := t.leave(ctx, tx, m); err != nil {
				return 0, err
			}
		}
	}
	p.Status = weir.PoolStatus{Short: p.Status.Short, Stuck: plan.why}
	if p.Former != nil && !p.Former.Paused.IsZero() {
		p.Status.Stuck = "replacing its machines is paused: " + p.Former.Why
	}
	cut, err := cutOff(ctx, tx, members)
	if err != nil {
		return 0, err
	}
	if p.Told() && p.Deleting.IsZero() {
		if err := observePool(ctx, tx, p, members, len(plan.add), len(drop), cut); err != nil {
			return 0, err
		}
	}
	p.Status.Stuck = cmp.Or(cut, p.Status.Stuck)
	p.Status.Plan = stepsFor(p, members, gone)
	pools.Put(tx, p.ID, *p)
	return again, nil
}

// stepsFor returns what is still to be done about a pool's members, of which some were just told to go.
func stepsFor(p *weir.Pool, members []weir.Machine, gone map[weir.ID]bool) (plan []string) {
	for _, m := range members {
		switch {
		case m.Buried():
			plan = append(plan, fmt.Sprintf("delete %s once its host %s is up again", m.Name, m.Status.Host))
		case !m.Deleting.IsZero() || gone[m.ID]:
			plan = append(plan, "delete "+m.Name)
		case m.Condemned != "":
			plan = append(plan, fmt.Sprintf("replace %s: %s", m.Name, m.Condemned))
		case p.Stale(&m):
			plan = append(plan, fmt.Sprintf("replace %s, which was made from an older template", m.Name))
		}
	}
	return plan
}

// weighMembers has members be worth what their pool says of their sizes.
func weighMembers(tx *store.Tx, p *weir.Pool, members []weir.Machine) {
	for i := range members {
		m := &members[i]
		if o, ok := p.Offer(m.Placement()); ok && m.Deleting.IsZero() && m.Worth != worthOf(o) {
			m.Worth = worthOf(o)
			machines.Put(tx, m.ID, *m)
		}
	}
}

// worthOf returns what the row of a machine says of its worth.
func worthOf(o weir.Offer) float64 {
	if o.Weight == 1 {
		return 0
	}
	return o.Weight
}

// membersOf returns the machines that a pool has, those that are being deleted among them. The pool's row has been read
// in tx, if it is to be changed: whoever adds a machine changes it too.
func (c *Control) membersOf(ctx context.Context, tx *store.Tx, pool weir.ID) ([]weir.Machine, error) {
	p := c.newParty(tx)
	if err := p.addListed(ctx, poolList(pool)); err != nil {
		return nil, err
	}
	_, all := p.rows()
	return slices.DeleteFunc(all, func(m weir.Machine) bool { return m.Pool != pool }), nil
}

func (t *term) poolFailed(ctx context.Context, id weir.ID, why error) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		p, err := pools.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		p.Status.Err = why.Error()
		pools.Put(tx, id, p)
		return nil
	})
}

// addMembers adds a machine of each of those sizes to a pool and moves its serial on.
func (c *Control) addMembers(ctx context.Context, tx *store.Tx, p *weir.Pool, sizes []weir.Offer) (made []weir.Machine, err error) {
	for _, o := range sizes {
		p.Serial++
		m := weir.Machine{Team: p.Team, Name: fmt.Sprintf("%s-%d", p.Prefix, p.Serial), Pool: p.ID, Template: p.Template, Edition: p.Edition, Worth: worthOf(o), Metered: c.metered(p)}
		m.Size, m.Region = o.Size, o.Region
		if p.Autoscale != nil {
			m.Place.Project, err = stillProject(ctx, tx, p.Team, p.Autoscale.Written.Project)
			if err != nil {
				return nil, err
			}
		}
		m, _, err := newMachine(ctx, tx, m)
		if err != nil {
			return nil, err
		}
		if p.Mixed() {
			tellPool(tx, p, m.ID, weir.EventStep, fmt.Sprintf("creates %s of size %s%s", m.Name, p.Called(o.Placement()), priced(o)))
		}
		made = append(made, m)
	}
	return made, nil
}

// priced says what a machine is worth and costs.
func priced(o weir.Offer) string {
	said := fmt.Sprintf(", worth %v", o.Weight)
	if o.Price > 0 {
		said += fmt.Sprintf(", for %v an hour", o.Price)
	}
	return said
}

// newMachine adds a row for a machine that does not exist yet, and the action of its
// creation, unless it is a load balancer's instance or of one's own.
func newMachine(ctx context.Context, tx *store.Tx, m weir.Machine) (weir.Machine, weir.Action, error) {
	n, err := store.Next(ctx, tx, "machines", firstMachine)
	if err != nil {
		return m, weir.Action{}, err
	}
	m.ID = weir.ID(strconv.FormatInt(n, 10))
	m.Created = time.Now().UTC()
	m.Status.Phase = weir.MachineNew
	var a weir.Action
	if m.LoadBalancer == "" && !m.Own { // nobody asked for an instance
		a, err = newAction(ctx, tx, weir.Action{Team: m.Team, Type: "create", Resource: weir.OnMachine, On: m.ID, Region: m.Region})
		if err != nil {
			return m, a, err
		}
		m.Actions = []weir.ID{a.ID}
		if err := settle(ctx, tx, m.Team, &m.Place); err != nil {
			return m, a, err
		}
	}
	for _, name := range m.Tags {
		if err := addTag(ctx, tx, m.Team, name); err != nil {
			return m, a, err
		}
	}
	if m.Rules, err = rulesOf(ctx, tx, m); err != nil {
		return m, a, err
	}
	machines.Put(tx, m.ID, stored(tx, m))
	return m, a, nil
}

// stored returns m as its row is, with its user-data put aside.
func stored(tx *store.Tx, m weir.Machine) weir.Machine {
	if m.UserData != "" {
		m.Blob = weir.ID(hash([]byte(m.UserData)))
		blobs.Put(tx, m.Blob, m.UserData)
		m.UserData = ""
	}
	return m
}

// Pools returns all pools, by name.
func (c *Control) Pools(ctx context.Context) ([]weir.Pool, error) {
	all, err := pools.AllOwn(ctx, c.Store)
	slices.SortFunc(all, func(a, b weir.Pool) int { return cmp.Compare(a.Name, b.Name) })
	return all, err
}

// Grow adds n machines to the pool of that name, and returns them.
func (c *Control) Grow(ctx context.Context, name string, n int) (made []weir.Machine, err error) {
	if n < 1 {
		return nil, weir.Errorf(weir.Invalid, "pool %q: cannot grow by %d machines, want at least 1", name, n)
	}
	var members []weir.Machine
	grown := func(tx *store.Tx) (*weir.Pool, []weir.Offer, error) {
		p, err := poolNamed(ctx, tx, name)
		if err != nil {
			return nil, nil, err
		}
		if p == nil {
			return nil, nil, weir.Errorf(weir.NotFound, "there is no pool named %q", name)
		}
		if members, err = c.membersOf(ctx, tx, p.ID); err != nil {
			return nil, nil, err
		}
		more, err := grow(p, members, n)
		if err != nil {
			return nil, nil, err
		}
		return p, more, p.Check(c.Regions()...)
	}
	if c.cloudless() {
		return nil, c.Cloud.Room(ctx, weir.Template{}, n) // whether or not there could be such a pool
	}
	var want weir.Pool
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		p, _, err := grown(tx)
		if err == nil {
			want = *p
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := c.admit(ctx, &want, members); err != nil {
		return nil, fmt.Errorf("pool %q: %w", name, err)
	}
	err = c.numbered(ctx, func(tx *store.Tx) error {
		p, more, err := grown(tx)
		if err != nil {
			return err
		}
		if p.Autoscale != nil {
			p.Autoscale.Updated = time.Now().UTC()
		}
		if p.Told() {
			reason := weir.ScaledByUser
			if p.Scale != nil {
				reason = weir.ScaledUp
			}
			if err := beginScaling(ctx, tx, *p, reason, "a user asked for it"); err != nil {
				return err
			}
		}
		if made, err = c.addMembers(ctx, tx, p, more); err != nil {
			return err
		}
		pools.Put(tx, p.ID, *p)
		return nil
	})
	return made, err
}

// grow has p have n machines more than it has, and returns of which sizes.
func grow(p *weir.Pool, members []weir.Machine, n int) (more []weir.Offer, err error) {
	was := p.Count
	p.Count += n
	x := p.Mix(slices.DeleteFunc(slices.Clone(members), func(m weir.Machine) bool { return !m.Deleting.IsZero() || p.Leaves(&m) }), passedOver(p, time.Now()))
	units := 0.0
	for range n {
		o, why := x.Next()
		if why != "" && p.Mixed() {
			return nil, weir.Errorf(weir.Exhausted, "pool %q: cannot grow by %d machines: %s", p.Name, n, why)
		}
		if why != "" {
			o = p.Offers()[0] // what is wrong with that is said below
		}
		x.Add(o)
		more, units = append(more, o), units+o.Weight
	}
	if p.Mixed() {
		p.Count = was + max(1, int(units))
	}
	if p.Scale != nil && p.Count > p.Top() {
		return nil, weir.Errorf(weir.Invalid, "pool %q: cannot grow to %d machines, its max_instances is %d%s", p.Name, p.Count, p.Scale.Max, afforded(p))
	}
	return more, nil
}

// afforded says how many machines a budget pays for, if there is one.
func afforded(p *weir.Pool) string {
	if p.Affords() == 0 {
		return ""
	}
	return fmt.Sprintf(", and its max_hourly_cost pays for %d", p.Affords())
}

// forgetPool deletes the rows of a pool.
func forgetPool(tx *store.Tx, id weir.ID) {
	pools.Delete(tx, id)
	forgetScale(tx, id)
}

// forgetScale deletes what is remembered of how a pool's size has changed.
func forgetScale(tx *store.Tx, id weir.ID) {
	scalings.Delete(tx, id)
	forgetVerdicts(tx, id)
}

// forgetVerdicts deletes what is remembered of the load of a pool.
func forgetVerdicts(tx *store.Tx, id weir.ID) {
	verdicts.Delete(tx, id)
	pasts.Delete(tx, id)
}

// DeletePool has the pool of that name deleted, with its machines, which are drained.
// What sends them traffic stays.
func (c *Control) DeletePool(ctx context.Context, name string) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		p, err := poolNamed(ctx, tx, name)
		if err != nil {
			return err
		}
		if p == nil {
			return weir.Errorf(weir.NotFound, "there is no pool named %q", name)
		}
		deletePool(tx, *p)
		return nil
	})
}

// deletePool has a pool deleted with its machines.
func deletePool(tx *store.Tx, p weir.Pool) {
	p.Deleting, p.Count = time.Now().UTC(), 0
	pools.Put(tx, p.ID, p)
}

// poolNamed returns the caller's pool of that name that is to stay, or nil.
func poolNamed(ctx context.Context, tx *store.Tx, name string) (*weir.Pool, error) {
	all, err := pools.AllOwn(ctx, tx)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if p.Name == name && p.Deleting.IsZero() {
			return &p, nil
		}
	}
	return nil, nil
}
