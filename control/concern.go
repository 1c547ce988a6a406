package control

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"reflect"
	"slices"
	"time"

	"weir/store"
	"weir/weir"
)

// What concerns a load balancer or a machine is found in the lists, and then read in the transaction. The lists are
// looked at once the transaction has its moment, and are no older than that. What comes to concern it
// between that look and the commit is not read: it was not there when it was decided, and the change that brings it has
// the controller look again.

// concerning returns the IDs of the load balancers that any of the machines may be a server of, or is an instance of,
// and of those that may want it as one.
func (c *Control) concerning(ctx context.Context, all ...weir.Machine) (ids []weir.ID, err error) {
	add := func(lb *weir.LoadBalancer) { ids = append(ids, lb.ID) }
	err = c.lists.loadBalancers.view(ctx, func(p store.Pages[weir.LoadBalancer]) {
		for _, m := range all {
			p.Each(namingList(m.ID), 0, math.MaxInt, add)
			for _, tag := range m.Tags {
				p.Each(servedList(m.Team, tag), 0, math.MaxInt, add)
			}
			if m.Own {
				p.Each(segmentList, 0, math.MaxInt, add)
			}
			if m.LoadBalancer != "" {
				ids = append(ids, m.LoadBalancer)
			}
		}
	})
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// party collects, in one transaction, what concerns each other: load balancers and machines, each once.
type party struct {
	*Control
	tx        *store.Tx
	machines  map[weir.ID]weir.Machine
	balancers map[weir.ID]weir.LoadBalancer
}

func (c *Control) newParty(tx *store.Tx) *party {
	return &party{c, tx, map[weir.ID]weir.Machine{}, map[weir.ID]weir.LoadBalancer{}}
}

// manyRows is how many rows are read one by one: of more all are read, since each that is read is a condition of the
// transaction, and etcd takes only so many.
const manyRows = 2000

// addMachines adds machines, those that are there.
func (p *party) addMachines(ctx context.Context, ids []weir.ID) error {
	if len(p.machines)+len(ids) > manyRows {
		if _, err := machines.All(ctx, p.tx); err != nil {
			return err
		}
	}
	return addRows(ctx, p.tx, machines.Table, p.machines, ids)
}

// addListed adds the machines of a list.
func (p *party) addListed(ctx context.Context, list string) error {
	ids, err := p.listed(ctx, list)
	if err != nil {
		return err
	}
	return p.addMachines(ctx, ids)
}

// listed returns the IDs of the machines in a list.
func (c *Control) listed(ctx context.Context, list string) (ids []weir.ID, err error) {
	err = c.lists.machines.view(ctx, func(pages store.Pages[weir.Machine]) {
		pages.Each(list, 0, math.MaxInt, func(m *weir.Machine) { ids = append(ids, m.ID) })
	})
	return ids, err
}

// addBalancers adds the load balancers that the machines which are there now may be servers of, with their instances.
func (p *party) addBalancers(ctx context.Context) error {
	ids, err := p.concerning(ctx, slices.Collect(maps.Values(p.machines))...)
	if err != nil {
		return err
	}
	if err := addRows(ctx, p.tx, loadBalancers.Table, p.balancers, ids); err != nil {
		return err
	}
	var instances []weir.ID
	err = p.lists.machines.view(ctx, func(pages store.Pages[weir.Machine]) {
		for id := range p.balancers {
			pages.Each(instanceList(id), 0, math.MaxInt, func(m *weir.Machine) { instances = append(instances, m.ID) })
		}
	})
	if err != nil {
		return err
	}
	return p.addMachines(ctx, instances)
}

// addRows reads the rows at keys, those that are there and not in rows yet.
func addRows[T any](ctx context.Context, tx *store.Tx, table store.Table[T], rows map[weir.ID]T, keys []weir.ID) error {
	for _, key := range keys {
		if _, ok := rows[key]; ok {
			continue
		}
		row, err := table.Get(ctx, tx, key)
		if errors.Is(err, weir.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		rows[key] = row
	}
	return nil
}

// readParties fills v with the machines and load balancers that concern v.lb: its instances and servers, whatever
// else has those as servers, with its instances, and machines of one's own, if it may run on them.
func (c *Control) readParties(ctx context.Context, tx *store.Tx, v *balancerView) error {
	p := c.newParty(tx)
	p.balancers[v.lb.ID] = v.lb
	lists := []string{instanceList(v.lb.ID)}
	for _, tag := range v.lb.TargetTags() {
		lists = append(lists, tagList(v.lb.Team, tag))
	}
	if v.lb.Mode == weir.OnSegment {
		lists = append(lists, ownList)
	}
	for _, list := range lists {
		if err := p.addListed(ctx, list); err != nil {
			return err
		}
	}
	if err := p.addMachines(ctx, v.lb.TargetMachines()); err != nil {
		return err
	}
	if err := p.addBalancers(ctx); err != nil {
		return err
	}
	v.all, v.machines = p.rows()
	return nil
}

// rows returns all, by ID.
func (p *party) rows() (lbs []weir.LoadBalancer, all []weir.Machine) {
	all = slices.Collect(maps.Values(p.machines))
	byNumber(all, func(m weir.Machine) weir.ID { return m.ID })
	lbs = slices.Collect(maps.Values(p.balancers))
	slices.SortFunc(lbs, func(a, b weir.LoadBalancer) int { return cmp.Compare(a.ID, b.ID) })
	return lbs, all
}

// reguard has a machine's firewall be what its load balancers make of it. They see to that themselves for as long as
// they have it as a server: this is for one that a load balancer has no more.
func (t *term) reguard(ctx context.Context, id weir.ID) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		m, err := machines.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) || err == nil && (m.Own || m.LoadBalancer != "" || !m.Deleting.IsZero() || m.Firewall == nil) {
			return nil
		}
		if err != nil {
			return err
		}
		p := t.newParty(tx)
		p.machines[id] = m
		if err := p.addBalancers(ctx); err != nil {
			return err
		}
		lbs, all := p.rows()
		if want := firewalls(lbs, all, t.From, t.Cloud.PrivateNetwork())[id]; !reflect.DeepEqual(m.Firewall, want) {
			m.Firewall = want
			machines.Put(tx, id, m)
		}
		return nil
	})
}

// touchConcerned touches the load balancers that a machine concerns, or has concerned.
func (t *term) touchConcerned(ctx context.Context, was, is weir.Machine) {
	ids := t.insist(ctx, "load balancers of machine "+string(is.ID), func() ([]weir.ID, error) { return t.concerning(ctx, was, is) })
	for _, id := range ids {
		t.loadBalancers.Touch(id)
	}
}

// insistEvery is how soon a look at the lists that failed is tried again.
const insistEvery = 100 * time.Millisecond

// insist looks until it can, or ctx ends: what is not touched now may never be.
func (t *term) insist(ctx context.Context, at string, look func() ([]weir.ID, error)) []weir.ID {
	for told := false; ; told = true {
		ids, err := look()
		if err == nil || ctx.Err() != nil {
			return ids
		}
		if !told {
			t.Log.Warn("lists cannot be looked at", "for", at, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(insistEvery):
		}
	}
}

// touchBalancers touches the load balancers of a list.
func (t *term) touchBalancers(ctx context.Context, list string) {
	ids := t.insist(ctx, "load balancers of list "+list, func() (ids []weir.ID, err error) {
		err = t.lists.loadBalancers.view(ctx, func(p store.Pages[weir.LoadBalancer]) {
			p.Each(list, 0, math.MaxInt, func(lb *weir.LoadBalancer) { ids = append(ids, lb.ID) })
		})
		return ids, err
	})
	for _, id := range ids {
		t.loadBalancers.Touch(id)
	}
}

// touchDropped touches the machines that are no more servers of a load balancer: their firewalls are to be others.
func (t *term) touchDropped(ctx context.Context, was, is weir.LoadBalancer) {
	named, tags := is.TargetMachines(), is.TargetTags()
	for _, id := range was.TargetMachines() {
		if !slices.Contains(named, id) {
			t.machines.Touch(id)
		}
	}
	for _, tag := range was.TargetTags() {
		if slices.Contains(tags, tag) {
			continue
		}
		ids := t.insist(ctx, "servers of load balancer "+string(was.ID), func() ([]weir.ID, error) { return t.listed(ctx, tagList(was.Team, tag)) })
		for _, id := range ids {
			t.machines.Touch(id)
		}
	}
}
