package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// snapshot is all that there is at one moment.
type snapshot struct {
	machines  []weir.Machine
	pools     []weir.Pool
	histories [][]weir.Scaling
	lbs       []weir.LoadBalancer
	addresses []weir.Address
	actions   []weir.Action
	firewalls []weir.CloudFirewall
	configs   []weir.NodeConfig
	statuses  []weir.NodeStatus
	enrolled  []struct{ Node weir.ID }

	seen  []cloud.Machine
	holds []cloud.Address
}

func (w *world) look() (s snapshot, err error) {
	err = w.truth.View(w.ctx, func(tx *store.Tx) error {
		var errs [10]error
		s.machines, errs[0] = machines.All(w.ctx, tx)
		s.pools, errs[1] = pools.All(w.ctx, tx)
		s.lbs, errs[2] = loadBalancers.All(w.ctx, tx)
		s.addresses, errs[3] = addresses.All(w.ctx, tx)
		s.actions, errs[4] = actions.All(w.ctx, tx)
		s.configs, errs[5] = nodeConfigs.All(w.ctx, tx)
		s.statuses, errs[6] = nodeStatuses.All(w.ctx, tx)
		s.enrolled, errs[7] = enrolments.All(w.ctx, tx)
		s.firewalls, errs[8] = firewalls.All(w.ctx, tx)
		s.histories, errs[9] = scalings.All(w.ctx, tx)
		return errors.Join(errs[:]...)
	})
	var merr, aerr error
	s.seen, merr = w.cloud.Machines(direct(w.ctx))
	s.holds, aerr = w.cloud.Addresses(direct(w.ctx))
	return s, errors.Join(err, merr, aerr)
}

// machine returns a row, if there is one.
func (s *snapshot) machine(id weir.ID) (weir.Machine, bool) {
	i := slices.IndexFunc(s.machines, func(m weir.Machine) bool { return m.ID == id })
	if i < 0 {
		return weir.Machine{}, false
	}
	return s.machines[i], true
}

// report collects what is not as it should be.
type report []string

func (r *report) want(ok bool, format string, args ...any) {
	if !ok {
		*r = append(*r, fmt.Sprintf(format, args...))
	}
}

// amiss returns, a sentence each, how what runs is not what was asked.
func (w *world) amiss() report {
	s, err := w.look()
	if err != nil {
		return report{err.Error()}
	}
	var r report
	w.amissMachines(&s, &r)
	w.amissPools(&s, &r)
	w.amissAddresses(&s, &r)
	w.amissBalancers(&s, &r)
	w.amissKnown(&s, &r)
	w.amissFirewalls(&s, &r)
	for _, a := range s.actions {
		r.want(!a.Completed.IsZero(), "action %s, %s of %s, is still in progress", a.ID, a.Type, a.On)
	}
	return r
}

// amissMachines compares rows with the cloud.
func (w *world) amissMachines(s *snapshot, r *report) {
	names := map[string]weir.ID{}
	for _, m := range s.seen {
		_, ok := s.machine(m.ID)
		r.want(ok, "machine %s runs and has no row", m.ID)
	}
	for _, m := range s.machines {
		r.want(m.Deleting.IsZero(), "machine %s is still being deleted: %s", m.ID, m.Status.Err)
		if m.Own {
			continue
		}
		i := slices.IndexFunc(s.seen, func(seen cloud.Machine) bool { return seen.ID == m.ID })
		if i < 0 {
			r.want(false, "machine %s does not run: %s", m.ID, m.Status.Err)
			continue
		}
		seen := s.seen[i]
		phase := weir.MachineActive
		if !seen.On {
			phase = weir.MachineOff
		}
		want := weir.MachineStatus{Phase: phase, Public: seen.Public, Anchor: seen.Anchor, Private: seen.Private, Public6: seen.Public6, Anchor6: seen.Anchor6, Boot: seen.Boot, Wall: seen.Firewall.Digest(), Host: seen.Host, HostDown: seen.HostDown}
		r.want(m.Status == want, "machine %s has the status %+v, want %+v", m.ID, m.Status, want)
		r.want(!seen.On || seen.Boot.State != weir.BootRunning, "machine %s still boots", m.ID)
		r.want(seen.Public6.IsValid() == m.IPv6, "machine %s has the address %s, should have IPv6: %v", m.ID, seen.Public6, m.IPv6)
		r.want(seen.Name == m.Name, "machine %s is named %s, want %s", m.ID, seen.Name, m.Name)
		r.want(seen.On != m.Off, "machine %s is on: %v, should be off: %v", m.ID, seen.On, m.Off)
		r.want(len(m.Actions) == 0, "machine %s has actions %v in progress", m.ID, m.Actions)
		wall := w.wall(s, m)
		r.want(reflect.DeepEqual(seen.Firewall, wall), "machine %s has the firewall %v, want %v", m.ID, seen.Firewall, wall)
		r.want(names[m.Name] == "", "machines %s and %s are both named %s", names[m.Name], m.ID, m.Name)
		names[m.Name] = m.ID
	}
}

// wall returns the firewall that m should have: servers answer their load balancers
// alone, and whom their users' firewalls allow; instances answer everybody, and each other and
// the control plane on ports for that; what has nothing to do with either is open. What a
// firewall is for leaves only as it says.
func (w *world) wall(s *snapshot, m weir.Machine) *weir.Firewall {
	type port struct {
		n   int
		udp bool
	}
	from := map[port]map[netip.Prefix]bool{}
	concerned := false
	open := func(p port, source netip.Prefix) {
		if from[p] == nil {
			from[p] = map[netip.Prefix]bool{}
		}
		from[p][source] = true
	}
	for _, lb := range s.lbs {
		if lb.Mode == weir.OnSegment {
			continue
		}
		if m.LoadBalancer == lb.ID {
			concerned = true
			clients := netip.MustParsePrefix("0.0.0.0/0")
			if lb.Internal {
				clients = w.cloud.PrivateNetwork()
			}
			for _, rule := range lb.Rules {
				open(port{rule.EntryPort, false}, clients)
				if lb.Dual {
					open(port{rule.EntryPort, false}, netip.MustParsePrefix("::/0"))
				}
			}
			var askers []netip.Addr
			for _, member := range w.members {
				askers = append(askers, member.addr)
			}
			for _, other := range s.machines {
				if other.LoadBalancer == lb.ID {
					askers = append(askers, other.Status.Private)
					if !lb.Internal {
						askers = append(askers, other.Status.Public)
					}
				}
			}
			for _, a := range askers {
				open(port{weir.BeatPort, true}, netip.PrefixFrom(a, 32))
				open(port{weir.HealthPort, false}, netip.PrefixFrom(a, 32))
			}
		}
		if !lb.Targets(&m) {
			continue
		}
		concerned = true
		for _, instance := range s.machines {
			if instance.LoadBalancer != lb.ID {
				continue
			}
			source := netip.PrefixFrom(instance.Status.Private, 32)
			open(port{lb.Health.Port, false}, source)
			for _, rule := range lb.Rules {
				open(port{rule.TargetPort, false}, source)
			}
		}
	}
	out := map[port]map[netip.Prefix]bool{}
	confined := false
	for _, f := range s.firewalls {
		if m.LoadBalancer != "" || m.Own || !slices.ContainsFunc(f.Tags, m.HasTag) {
			continue
		}
		confined = true
		for _, other := range s.machines {
			if other.LoadBalancer != "" || other.Own {
				continue
			}
			for _, a := range []netip.Addr{other.Status.Public, other.Status.Anchor, other.Status.Private, other.Status.Public6, other.Status.Anchor6} {
				if !a.IsValid() {
					continue
				}
				host := netip.PrefixFrom(a, a.BitLen())
				for _, r := range f.Inbound {
					if slices.ContainsFunc(r.Peers.Tags, other.HasTag) {
						open(port{simSSH, false}, host)
					}
				}
				for _, r := range f.Outbound {
					if slices.Contains(r.Peers.Machines, other.ID) {
						p := port{simDNS, true}
						if out[p] == nil {
							out[p] = map[netip.Prefix]bool{}
						}
						out[p][host] = true
					}
				}
			}
		}
	}
	if !concerned && !confined {
		return nil
	}
	openings := func(of map[port]map[netip.Prefix]bool) (openings []weir.Opening) {
		for p, peers := range of {
			o := weir.Opening{Port: p.n, UDP: p.udp, Peers: slices.SortedFunc(maps.Keys(peers), netip.Prefix.Compare)}
			openings = append(openings, o)
		}
		slices.SortFunc(openings, weir.Opening.Compare)
		return openings
	}
	return &weir.Firewall{Openings: openings(from), Confined: confined, Exits: openings(out)}
}

// amissFirewalls looks at what firewalls name, and at what they say of themselves.
func (w *world) amissFirewalls(s *snapshot, r *report) {
	for _, f := range s.firewalls {
		for _, rule := range f.Outbound {
			for _, id := range rule.Peers.Machines {
				_, ok := s.machine(id)
				r.want(ok, "firewall %s names machine %s, which is gone", f.Name, id)
			}
		}
	}
	for _, m := range w.members {
		up := m.get()
		if up == nil {
			continue
		}
		shown, err := up.Firewalls(w.ctx)
		r.want(err == nil && len(shown) == len(s.firewalls), "%s shows %d firewalls (%v), want %d", m.name, len(shown), err, len(s.firewalls))
		for _, f := range shown {
			r.want(f.Status.Phase == weir.FirewallSucceeded && len(f.Status.Changes) == 0, "firewall %s is %+v, want that it succeeded", f.Name, f.Status)
		}
	}
}

func (w *world) amissPools(s *snapshot, r *report) {
	autoscale := 0
	for _, p := range s.pools {
		var members []weir.Machine
		stale := 0
		for _, m := range s.machines {
			if m.Pool != p.ID {
				continue
			}
			members = append(members, m)
			if p.Stale(&m) {
				stale++
			}
		}
		if p.Autoscale != nil {
			autoscale++
			if b := p.Scale; b != nil {
				r.want(p.Count >= b.Min && p.Count <= b.Max, "pool %s is to have %d machines, want %d to %d", p.Name, p.Count, b.Min, b.Max)
			}
		}
		r.want(stale == 0, "pool %s has %d machines from an older template", p.Name, stale)
		r.want(p.Former == nil, "pool %s may still go back to its former template", p.Name)
		x := p.Mix(members, nil)
		r.want(x.Has(float64(p.Count)), "pool %s has machines worth %v, want %d", p.Name, x.Units, p.Count)
		for _, m := range members {
			r.want(!x.Spares(&m, float64(p.Count)), "pool %s has machines worth %v, and %s, worth %v, which it could spare for %d", p.Name, x.Units, m.Name, m.Capacity(), p.Count)
		}
		r.want(len(p.Status.Plan) == 0, "pool %s still plans %v", p.Name, p.Status.Plan)
		history, err := scalings.Get(w.ctx, w.truth, p.ID)
		if p.Autoscale == nil {
			r.want(errors.Is(err, weir.NotFound), "pool %s has a history, and is no autoscale pool", p.Name)
			continue
		}
		r.want(err == nil && history[len(history)-1].State() == weir.ScalingDone, "the history of pool %s is %+v (%v), want that the last has ended well", p.Name, history, err)
	}
	r.want(len(s.histories) == autoscale, "there are %d histories, want one for each of %d autoscale pools", len(s.histories), autoscale)
	for _, m := range s.machines {
		ok := m.Pool == "" || slices.ContainsFunc(s.pools, func(p weir.Pool) bool { return p.ID == m.Pool })
		r.want(ok, "machine %s is in pool %s, which is gone", m.ID, m.Pool)
	}
}

// amissAddresses compares rows with the cloud.
func (w *world) amissAddresses(s *snapshot, r *report) {
	for _, a := range s.holds {
		ok := slices.ContainsFunc(s.addresses, func(row weir.Address) bool { return row.Owner == a.Owner })
		r.want(ok, "address %s is held for %s and has no row", a.Addr, a.Owner)
	}
	for _, row := range s.addresses {
		r.want(row.Deleting.IsZero(), "address %s is still being released: %s", row.Addr, row.Err)
		r.want(len(row.Actions) == 0, "address %s has actions %v in progress", row.Addr, row.Actions)
		if row.Mode == weir.OnSegment {
			continue
		}
		r.want(row.Err == "", "address %s of %s: %s", row.Addr, row.Owner, row.Err)
		var target []weir.ID
		for _, id := range append([]weir.ID{row.Machine}, row.Sharing...) {
			if _, ok := s.machine(id); ok { // and was not deleted
				target = append(target, id)
			}
		}
		var shown []weir.ID
		if row.Assigned != "" {
			shown = append([]weir.ID{row.Assigned}, row.Shared...)
		}
		var has []netip.Addr
		for _, held := range s.holds {
			if held.Owner != row.Owner {
				continue
			}
			has = append(has, held.Addr)
			r.want(held.Private == row.Private, "address %s is of the private network: %v, its row has %v", held.Addr, held.Private, row.Private)
			r.want(slices.Equal(held.Machines, target), "address %s points to %q, want %q", held.Addr, held.Machines, target)
			r.want(slices.Equal(held.Machines, shown), "address %s points to %q, its row shows %q", held.Addr, held.Machines, shown)
		}
		want := []netip.Addr{row.Addr}
		if row.Dual {
			want = append(want, row.Addr6)
		}
		r.want(slices.Equal(has, want), "%s has the addresses %s, its row has %s: %s", row.Owner, has, want, row.Err)
	}
}

// amissBalancers compares load balancers with what their nodes do.
func (w *world) amissBalancers(s *snapshot, r *report) {
	instances := map[weir.ID]bool{}
	for _, lb := range s.lbs {
		r.want(lb.Deleting.IsZero(), "load balancer %s is still being deleted: %v", lb.Name, lb.Status.Plan)
		n := 0
		var active weir.ID
		var sharing []weir.ID
		for _, a := range s.addresses {
			if a.Owner == lb.ID {
				active, sharing = a.Machine, a.Sharing
				r.want(a.Private == lb.Internal, "load balancer %s is internal: %v, the row of its address has %v", lb.Name, lb.Internal, a.Private)
				r.want(a.Dual == lb.Dual && a.Addr6 == lb.Status.Addr6 && a.Addr6.IsValid() == lb.Dual, "load balancer %s shows the address %s, want %s", lb.Name, lb.Status.Addr6, a.Addr6)
				r.want(a.Addr == lb.Status.Address, "load balancer %s shows the address %s, want %s", lb.Name, lb.Status.Address, a.Addr)
			}
		}
		for _, m := range s.machines {
			if m.LoadBalancer != lb.ID {
				continue
			}
			n++
			instances[m.ID] = true
			w.amissNode(s, r, lb, m)
		}
		want := lb.WantInstances()
		r.want(n == want || lb.Mode == weir.OnSegment && n > want, "load balancer %s has %d instances, want %d", lb.Name, n, want)
		for _, h := range lb.Status.Health {
			r.want(h.State == weir.InstanceWell, "instance %s of load balancer %s %s: %s", h.Machine, lb.Name, h.State.Phrase(), h.Why)
		}
		r.want(lb.Wanted == "", "load balancer %s is still to be handed over to %s", lb.Name, lb.Wanted)
		if n := w.at(active); lb.Mode == weir.OnSegment && n != nil {
			_, holds := n.holds()
			r.want(holds, "node %s does not hold the address of load balancer %s", active, lb.Name)
		}
		r.want(len(sharing) == lb.WantActive()-1, "load balancer %s has %d active instances, want %d", lb.Name, len(sharing)+1, lb.WantActive())
		for _, id := range append([]weir.ID{active}, sharing...) {
			r.want(instances[id], "load balancer %s points to %q, which is no instance of it", lb.Name, id)
		}
		r.want(lb.Status.Phase == weir.LoadBalancerActive && lb.Status.Err == "" && len(lb.Status.Plan) == 0,
			"load balancer %s is %+v, want active", lb.Name, lb.Status)
	}
	for _, m := range s.machines {
		r.want(m.LoadBalancer == "" || instances[m.ID], "machine %s is an instance of %s, which is gone", m.ID, m.LoadBalancer)
	}
	for _, c := range s.configs {
		r.want(instances[c.Node], "there is a configuration for node %s, which is gone", c.Node)
		if n := w.nodes.get(c.Node); n != nil {
			r.want(n.live().Revision == c.Revision, "node %s runs revision %d, want %d", c.Node, n.live().Revision, c.Revision)
		}
	}
	for _, status := range s.statuses {
		r.want(instances[status.Node] || s.isOwn(status.Node), "there is a status of node %s, which is gone", status.Node)
	}
	for _, e := range s.enrolled {
		r.want(instances[e.Node] || s.isOwn(e.Node), "there is a token for node %s, which is gone", e.Node)
	}
}

// isOwn reports whether a machine is one of our own.
func (s *snapshot) isOwn(id weir.ID) bool {
	m, ok := s.machine(id)
	return ok && m.Own
}

// amissNode compares what one node does with the rules and targets of its load balancer.
func (w *world) amissNode(s *snapshot, r *report, lb weir.LoadBalancer, m weir.Machine) {
	n := w.nodes.get(m.ID)
	if n == nil {
		r.want(false, "node %s has no agent", m.ID)
		return
	}
	does := n.live().Proxy
	at := []netip.Addr{m.Status.Anchor}
	if lb.Mode == weir.OnSegment {
		at = []netip.Addr{lb.Addr.Addr()}
	}
	if lb.Dual {
		at = append(at, m.Status.Anchor6)
	}
	if lb.Internal {
		at[0] = m.Status.Private
	}
	r.want(len(does.Frontends) == len(at)*len(lb.Rules), "node %s has %d listening sockets, want %d", m.ID, len(does.Frontends), len(at)*len(lb.Rules))
	r.want(does.Reload == lb.Reload, "node %s has reload %d, want %d", m.ID, does.Reload, lb.Reload)
	for _, rule := range lb.Rules {
		var want []string
		for _, target := range s.machines {
			if lb.Targets(&target) && target.Serves() {
				want = append(want, fmt.Sprintf("%s %s", target.ID, netip.AddrPortFrom(target.Status.Private, uint16(rule.TargetPort))))
			}
		}
		for _, addr := range lb.Servers {
			want = append(want, fmt.Sprintf("%s %s", addr, netip.AddrPortFrom(addr, uint16(rule.TargetPort))))
		}
		slices.Sort(want)
		for _, addr := range at {
			bind := netip.AddrPortFrom(addr, uint16(rule.EntryPort))
			var got []string
			for _, f := range does.Frontends {
				if f.Bind != bind {
					continue
				}
				for _, b := range does.Backends {
					if b.Name == f.Backend && b.Mode == rule.Target {
						for _, server := range b.Servers {
							got = append(got, fmt.Sprintf("%s %s", server.ID, server.Addr))
						}
					}
				}
			}
			slices.Sort(got)
			r.want(slices.Equal(got, want), "node %s sends %s to %v, want %v", m.ID, bind, got, want)
		}
	}
}

// amissKnown compares what there is with what users were told.
func (w *world) amissKnown(s *snapshot, r *report) {
	is := map[fact]bool{}
	for _, m := range s.machines {
		is[exists("machine", m.ID)] = true
		is[isOff(m.ID)] = m.Off
		for _, tag := range m.Tags {
			is[isTagged(m.ID, tag)] = true
		}
	}
	for _, lb := range s.lbs {
		is[exists("load balancer", lb.ID)] = true
	}
	for _, p := range s.pools {
		is[exists("pool", p.ID)] = true
	}
	for _, a := range s.addresses {
		is[exists("address", weir.ID(a.Addr.String()))] = true
		is[pointsTo(a.Addr, a.Machine)] = true
	}
	k := &w.known
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range k.replaced {
		delete(k.facts, exists("machine", id))
	}
	for f, so := range k.facts {
		if f.of == "" || is[exists("machine", f.of)] {
			r.want(is[f] == so, "that %s is %v, and a user was told %v", f.what, is[f], so)
		}
	}
	for _, p := range s.pools {
		if p.Name == "batch" {
			r.want(p.Serial >= k.least && p.Serial <= k.most, "pool batch made %d machines, want %d to %d", p.Serial, k.least, k.most)
		}
	}
	slices.Sort(*r)
}

// shown returns how what users are shown of the region is not what there is.
func (w *world) shown() report {
	var r report
	s, err := w.look()
	r.want(err == nil, "%v", err)
	troubled := false
	for _, m := range s.machines {
		troubled = troubled || m.Status.Boot.State == weir.BootFailed
	}
	for _, lb := range s.lbs {
		serves := func(m weir.Machine) bool { return lb.Targets(&m) && m.Serves() }
		troubled = troubled || len(lb.Servers) == 0 && !slices.ContainsFunc(s.machines, serves)
	}
	for _, m := range w.members {
		up := m.get()
		if up == nil {
			continue
		}
		status, err := up.Status(w.ctx)
		r.want(err == nil, "%s: status: %v", m.name, err)
		r.want(len(status.Machines) == len(s.machines), "%s shows %d machines, want %d", m.name, len(status.Machines), len(s.machines))
		r.want(troubled == (len(status.Problems) > 0), "%s shows the problems %q, want some: %v", m.name, status.Problems, troubled)
	}
	return r
}

// still reports how often the cloud was changed and the store written, which quiet ends.
func (w *world) still(ctx context.Context) (calls, revision int64, err error) {
	_, revision, err = w.memory.Read(ctx, store.Span{Key: "", Prefix: true}, 0)
	return w.changes.Load(), revision, err
}
