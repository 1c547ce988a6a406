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

// failedFor is how long after its making a machine whose user-data failed is replaced, so that one template
// that fails now and then costs a machine in that time, and no more.
const failedFor = 5 * time.Minute

// failed returns the oldest of a pool's members that will never serve, since its user-data failed, and that is
// to be replaced now, or when one is to be. None is while no other member shows that the template can make
// machines that serve, or while a new template replaces them all. Only pools that keep their own size by
// themselves replace machines: of others users know each.
func failed(p weir.Pool, members []weir.Machine, now time.Time) (m *weir.Machine, again time.Duration) {
	serves := false
	for i := range members {
		is := &members[i]
		switch {
		case p.Stale(is):
			return nil, 0
		case is.Deleting.IsZero() && is.Serves():
			serves = true
		case is.Deleting.IsZero() && is.Status.Boot.State == weir.BootFailed && (m == nil || is.Created.Before(m.Created)):
			m = is
		}
	}
	if !p.Told() || !p.Deleting.IsZero() || !serves || m == nil {
		return nil, 0
	}
	if age := now.Sub(m.Created); age < failedFor {
		return nil, failedFor - age
	}
	return m, 0
}

// planPool returns how many machines a pool must add, and which of its members must
// go: those that failed first, then the newest. Members that were made from an older
// template go as soon as there are as many that serve without them; those in waits
// do not serve yet.
func planPool(p weir.Pool, members []weir.Machine, waits map[weir.ID]bool) (add int, drop []weir.Machine) {
	want := p.Count
	if !p.Deleting.IsZero() {
		want = 0
	}
	var stale, fresh []weir.Machine
	arrived := 0
	for _, m := range members {
		switch {
		case !m.Deleting.IsZero():
		case p.Stale(&m):
			stale = append(stale, m)
		default:
			fresh = append(fresh, m)
			if m.Serves() && !waits[m.ID] || m.Off || m.Drained { // somebody wants those to be as they are
				arrived++
			}
		}
	}
	worstFirst(stale)
	worstFirst(fresh)
	drop = append(drop, stale[:max(0, len(stale)-max(0, want-arrived))]...)
	drop = append(drop, fresh[:max(0, len(fresh)-want)]...)
	most := want // for the time of a replacement there are some more
	if len(stale) > 0 {
		most += max(1, want/10)
	}
	return max(0, min(want-len(fresh), most-(len(stale)+len(fresh)-len(drop)))), drop
}

// worstFirst sorts members by how little would be lost with them.
func worstFirst(members []weir.Machine) {
	worth := func(m weir.Machine) int {
		switch {
		case m.Status.Boot.State == weir.BootFailed:
			return 0
		case !m.Serves():
			return 1
		default:
			return 2
		}
	}
	slices.SortFunc(members, func(a, b weir.Machine) int {
		return cmp.Or(cmp.Compare(worth(a), worth(b)), cmp.Compare(number(b.ID), number(a.ID)))
	})
}

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
		var waits map[weir.ID]bool
		if slices.ContainsFunc(members, func(m weir.Machine) bool { return p.Stale(&m) }) {
			if waits, err = waitsForBalancer(ctx, tx, members); err != nil {
				return err
			}
			again = time.Second // what nodes say of their servers touches no pool
		}
		add, drop := planPool(p, members, waits)
		if m, later := failed(p, members, time.Now()); m != nil && add == 0 && len(drop) == 0 {
			drop = append(drop, *m)
		} else if later > 0 && again == 0 {
			again = later
		}
		if _, err := addMembers(ctx, tx, &p, add); err != nil {
			return err
		}
		for _, m := range drop {
			if err := t.leave(ctx, tx, m); err != nil {
				return err
			}
		}
		if !p.Deleting.IsZero() && len(members) == 0 {
			forgetPool(tx, id)
			return nil
		}
		p.Status = weir.PoolStatus{}
		if p.Told() && p.Deleting.IsZero() {
			if err := observePool(ctx, tx, &p, members, add); err != nil {
				return err
			}
		}
		for _, m := range members {
			switch {
			case !m.Deleting.IsZero() || slices.ContainsFunc(drop, func(d weir.Machine) bool { return d.ID == m.ID }):
				p.Status.Plan = append(p.Status.Plan, fmt.Sprintf("delete %s", m.Name))
			case p.Stale(&m):
				p.Status.Plan = append(p.Status.Plan, fmt.Sprintf("replace %s, which was made from an older template", m.Name))
			}
		}
		pools.Put(tx, id, p)
		return nil
	})
	return again, err
}

// waitsForBalancer returns which of members a load balancer that serves clients does not send requests
// to yet, since it has not found them to be up.
func waitsForBalancer(ctx context.Context, tx *store.Tx, members []weir.Machine) (waits map[weir.ID]bool, err error) {
	lbs, err := loadBalancers.All(ctx, tx)
	if err != nil {
		return nil, err
	}
	waits = map[weir.ID]bool{}
	for _, lb := range lbs {
		if !lb.Deleting.IsZero() || lb.Status.Phase != weir.LoadBalancerActive {
			continue
		}
		for _, active := range lb.Status.Actives() {
			s, err := nodeStatuses.Get(ctx, tx, active)
			if err != nil && !errors.Is(err, weir.NotFound) {
				return nil, err
			}
			for _, m := range members {
				if lb.Targets(&m) && !s.HasUp(m.ID) {
					waits[m.ID] = true
				}
			}
		}
	}
	return waits, nil
}

// membersOf returns the machines that a pool has, those that are being deleted among them. The pool's row has been read
// in tx: whoever adds a machine changes it too.
func (c *Control) membersOf(ctx context.Context, tx *store.Tx, pool weir.ID) ([]weir.Machine, error) {
	p := c.newParty(tx)
	if err := p.addListed(ctx, poolList(pool)); err != nil {
		return nil, err
	}
	_, all := p.rows()
	return slices.DeleteFunc(all, func(m weir.Machine) bool { return m.Pool != pool }), nil
}

func (t *term) poolFailed(ctx context.Context, id weir.ID, why string) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		p, err := pools.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		p.Status.Err = why
		pools.Put(tx, id, p)
		return nil
	})
}

// addMembers adds n machines to a pool and moves its serial on.
func addMembers(ctx context.Context, tx *store.Tx, p *weir.Pool, n int) (made []weir.Machine, err error) {
	for range n {
		p.Serial++
		m := weir.Machine{Team: p.Team, Name: fmt.Sprintf("%s-%d", p.Prefix, p.Serial), Pool: p.ID, Template: p.Template}
		if p.Autoscale != nil {
			m.Edition = p.Autoscale.Edition
			m.Place.Project, err = stillProject(ctx, tx, p.Team, p.Autoscale.Written.Project)
			if err != nil {
				return nil, err
			}
		}
		m, _, err := newMachine(ctx, tx, m)
		if err != nil {
			return nil, err
		}
		made = append(made, m)
	}
	return made, nil
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
	grown := func(tx *store.Tx) (*weir.Pool, error) {
		p, err := poolNamed(ctx, tx, name)
		if err != nil {
			return nil, err
		}
		if p == nil {
			return nil, weir.Errorf(weir.NotFound, "there is no pool named %q", name)
		}
		p.Count += n
		if p.Scale != nil && p.Count > p.Scale.Top() {
			return nil, weir.Errorf(weir.Invalid, "pool %q: cannot grow to %d machines, its max_instances is %d%s", name, p.Count, p.Scale.Max, afforded(p.Scale))
		}
		return p, p.Check(c.Region())
	}
	var t weir.Template
	if c.cloudless() {
		return nil, c.Cloud.Room(ctx, t, n) // whether or not there could be such a pool
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		p, err := grown(tx)
		if err == nil {
			t = p.Template
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := c.room(ctx, t, n); err != nil {
		return nil, fmt.Errorf("pool %q: %w", name, err)
	}
	err = c.numbered(ctx, func(tx *store.Tx) error {
		p, err := grown(tx)
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
		if made, err = addMembers(ctx, tx, p, n); err != nil {
			return err
		}
		pools.Put(tx, p.ID, *p)
		return nil
	})
	return made, err
}

// afforded says how many machines a budget pays for, if there is one.
func afforded(s *weir.Scale) string {
	if s.Affords() == 0 {
		return ""
	}
	return fmt.Sprintf(", and its max_hourly_cost pays for %d", s.Affords())
}

// forgetPool deletes the rows of a pool.
func forgetPool(tx *store.Tx, id weir.ID) {
	pools.Delete(tx, id)
	forgetScale(tx, id)
}

// forgetScale deletes what is remembered of how a pool's size has changed.
func forgetScale(tx *store.Tx, id weir.ID) {
	scalings.Delete(tx, id)
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
