package control

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"weir/store"
	"weir/weir"
)

// Status returns the region at a glance, or to who does not operate it what their team has of
// it, from one snapshot of the store, the last report of each node, and what the members of the
// control plane say of each other. Where those are is for the operator alone to know.
func (c *Control) Status(ctx context.Context) (s weir.RegionStatus, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err = c.status(ctx, tx)
		return err
	})
	all := weir.CallerOf(ctx).May(weir.ScopeAdmin)
	if err != nil && (!all || !errors.Is(err, weir.Unavailable)) {
		return s, err
	}
	read := err == nil
	if s.Members, s.Quorum, err = c.members(ctx); err != nil {
		return s, err
	}
	if !read {
		// Most members are away. That is what there is to say.
		s = weir.RegionStatus{Region: c.Region(), Further: c.Regions()[1:], Own: c.cloudless(), Taken: time.Now().UTC(), Versions: weir.Versions{Weir: weir.Version}, Members: s.Members}
	}
	if !all {
		s.Members = nil
	}
	s.Problems = s.FindProblems()
	return s, nil
}

// seat is what the member that decides leads.
const seat = "control"

// members returns the members of the control plane, and whether enough of them are there to decide.
func (c *Control) members(ctx context.Context) (all []weir.MemberOverview, quorum bool, err error) {
	members, err := c.Store.Members(ctx)
	if err != nil {
		return nil, false, err
	}
	who, since, err := c.Store.Leader(ctx, seat)
	if err != nil && !errors.Is(err, weir.Unavailable) {
		return nil, false, err
	}
	up := 0
	for _, m := range members {
		o := weir.MemberOverview{Name: m.Name, Addr: m.Address, Up: m.Up, Self: m.Self}
		if m.Up {
			up++
		}
		if m.Name == who {
			o.Leads, o.Since = true, since
		}
		all = append(all, o)
	}
	return all, up > len(members)/2, nil
}

func (c *Control) status(ctx context.Context, tx *store.Tx) (s weir.RegionStatus, err error) {
	s = weir.RegionStatus{Region: c.Region(), Further: c.Regions()[1:], Own: c.cloudless(), Taken: time.Now().UTC(), Versions: weir.Versions{Weir: weir.Version}}
	ms, err := machines.AllSeen(ctx, tx)
	byNumber(ms, func(m weir.Machine) weir.ID { return m.ID })
	if err != nil {
		return s, err
	}
	ps, err := pools.AllSeen(ctx, tx)
	if err != nil {
		return s, err
	}
	lbs, err := loadBalancers.AllSeen(ctx, tx)
	if err != nil {
		return s, err
	}
	for _, m := range ms {
		s.Machines = append(s.Machines, m.Overview())
	}
	s.CountMachines()
	for _, p := range ps {
		o := weir.PoolOverview{ID: p.ID, Team: p.Team, Name: p.Name, Count: p.Count, Plan: p.Status.Plan, Err: cmp.Or(p.Status.Err, p.Status.Stuck), Replacing: p.Former != nil, Back: p.Back}
		units := 0.0
		var stay []weir.Machine
		for _, m := range ms {
			if m.Pool == p.ID && !m.Buried() {
				if m.Deleting.IsZero() && !p.Leaves(&m) {
					stay = append(stay, m)
				}
				o.Machines++
				units += m.Capacity()
				o.Replacing = o.Replacing || p.Stale(&m)
				if m.Serves() {
					o.Serving++
				}
			}
		}
		if p.Mixed() {
			o.Capacity = int(units + 1e-9)
			o.Spare = len(p.Mix(stay, nil).Shrink(stay, float64(p.Count)))
		}
		s.Pools = append(s.Pools, o)
	}
	var versions []string
	for _, lb := range lbs {
		o := weir.LoadBalancerOverview{ID: lb.ID, Team: lb.Team, Name: lb.Name, Phase: lb.Status.Phase, Address: lb.Status.Address, Addr6: lb.Status.Addr6,
			Algorithm: lb.Algorithm, Rules: lb.Rules, Tag: lb.Tag, Since: lb.Status.Since, Failover: lb.Status.Failover,
			Plan: lb.Status.Plan, Err: lb.Status.Err, Deleting: !lb.Deleting.IsZero(), Drained: slices.SortedFunc(maps.Keys(lb.Policy.Drained), compareNumbers), Split: lb.Policy.Split}
		o.Maintenance = lb.Policy.Handling.Maintenance != nil && lb.Policy.Handling.Maintenance.On
		judged := balancerView{lb: lb}
		owned, err := addresses.Get(ctx, tx, lb.ID)
		if err != nil && !errors.Is(err, weir.NotFound) {
			return s, err
		}
		for _, m := range ms {
			if m.LoadBalancer != lb.ID || m.Buried() {
				continue
			}
			in, err := c.instance(ctx, tx, m.ID)
			if err != nil {
				return s, err
			}
			in.Active, in.Health = owned.Assigned == m.ID || slices.Contains(owned.Shared, m.ID), judged.health(m.ID)
			o.Instances = append(o.Instances, in)
			if v := in.Node.HAProxy.Version; v != "" && !slices.Contains(versions, v) {
				versions = append(versions, v)
			}
		}
		s.LoadBalancers = append(s.LoadBalancers, o)
	}
	s.Versions.HAProxy = strings.Join(versions, ", ")
	return s, nil
}

// instance returns what is known of one node: its last report to this member of the
// control plane, or what is stored of one to another.
func (c *Control) instance(ctx context.Context, tx *store.Tx, id weir.ID) (in weir.InstanceOverview, err error) {
	in.Machine = id
	config, err := nodeConfigs.Get(ctx, tx, id)
	if err != nil && !errors.Is(err, weir.NotFound) {
		return in, err
	}
	in.Wants = config.Revision
	c.nodes.mu.Lock()
	reported, ok := c.nodes.reported[id]
	c.nodes.mu.Unlock()
	if ok {
		in.Node = reported
		in.Node.HAProxy.Counts = nil // much, and what figures are for
		in.Node.Servers = slices.SortedStableFunc(slices.Values(reported.Servers), func(a, b weir.ServerStatus) int {
			return cmp.Or(cmp.Compare(a.Backend, b.Backend), cmp.Compare(number(a.ID), number(b.ID)))
		})
		return in, nil
	}
	in.Node, err = nodeStatuses.Get(ctx, tx, id)
	if errors.Is(err, weir.NotFound) {
		err = nil
	}
	return in, err
}
