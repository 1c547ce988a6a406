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

// planPool returns how many machines a pool must add, and which of its members must
// go: those that failed first, then the newest.
func planPool(p weir.Pool, members []weir.Machine) (add int, drop []weir.Machine) {
	want := p.Count
	if !p.Deleting.IsZero() {
		want = 0
	}
	stay := slices.DeleteFunc(slices.Clone(members), func(m weir.Machine) bool { return !m.Deleting.IsZero() })
	if len(stay) <= want {
		return want - len(stay), nil
	}
	slices.SortFunc(stay, func(a, b weir.Machine) int {
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
		return cmp.Or(cmp.Compare(worth(a), worth(b)), cmp.Compare(number(b.ID), number(a.ID)))
	})
	return 0, stay[:len(stay)-want]
}

// reconcilePool gives a pool as many machines as it should have.
func (t *term) reconcilePool(ctx context.Context, id weir.ID) (again time.Duration, err error) {
	return 0, t.db.Update(ctx, func(tx *store.Tx) error {
		p, err := pools.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		all, err := machines.All(ctx, tx)
		if err != nil {
			return err
		}
		members := slices.DeleteFunc(all, func(m weir.Machine) bool { return m.Pool != id })
		add, drop := planPool(p, members)
		if _, err := addMembers(ctx, tx, &p, add); err != nil {
			return err
		}
		for _, m := range drop {
			m.Deleting = time.Now().UTC()
			machines.Put(tx, m.ID, m)
		}
		if !p.Deleting.IsZero() && len(members) == 0 {
			pools.Delete(tx, id)
			return nil
		}
		p.Status = weir.PoolStatus{}
		for _, m := range members {
			if !m.Deleting.IsZero() || slices.ContainsFunc(drop, func(d weir.Machine) bool { return d.ID == m.ID }) {
				p.Status.Plan = append(p.Status.Plan, fmt.Sprintf("delete %s", m.Name))
			}
		}
		pools.Put(tx, id, p)
		return nil
	})
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
		m := weir.Machine{Name: fmt.Sprintf("%s-%d", p.Prefix, p.Serial), Pool: p.ID, Template: p.Template}
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
		a, err = newAction(ctx, tx, weir.Action{Type: "create", Resource: weir.OnMachine, On: m.ID, Region: m.Region})
		if err != nil {
			return m, a, err
		}
		m.Actions = []weir.ID{a.ID}
		if err := settle(ctx, tx, weir.CallerOf(ctx).Team, &m.Place); err != nil {
			return m, a, err
		}
	}
	for _, name := range m.Tags {
		if err := addTag(ctx, tx, name); err != nil {
			return m, a, err
		}
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
	all, err := pools.All(ctx, c.Store)
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
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		p, err := grown(tx)
		if err != nil {
			return err
		}
		if made, err = addMembers(ctx, tx, p, n); err != nil {
			return err
		}
		pools.Put(tx, p.ID, *p)
		return nil
	})
	return made, err
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
		p.Deleting, p.Count = time.Now().UTC(), 0
		pools.Put(tx, p.ID, *p)
		return nil
	})
}

// poolNamed returns the pool of that name that is to stay, or nil.
func poolNamed(ctx context.Context, tx *store.Tx, name string) (*weir.Pool, error) {
	all, err := pools.All(ctx, tx)
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
