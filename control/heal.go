package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weir/store"
	"weir/weir"
)

// downFor is how long load balancers find a server down until its pool replaces it, at least.
const downFor = 2 * time.Minute

// hostDownFor is how long a host is down until the members of pools that are there are replaced: one that is reset may be
// back before others have booted.
const hostDownFor = 10 * time.Second

// finding is what the load balancers that have a machine as a server find of it.
type finding struct {
	waits bool          // an instance that clients reach does not send it requests yet
	down  string        // who finds it down, and why; empty if nobody does
	up    bool          // an instance finds it up
	sure  bool          // all instances that clients reach have spoken of it lately, …
	since time.Duration // … and find it down for as long; 0 if one does not
	bound time.Duration // after which it is to be replaced
}

// lasts reports whether all find the machine down, for so long that it is to be replaced.
func (f finding) lasts() bool { return f.sure && !f.up && f.bound > 0 && f.since >= f.bound }

// telling is what an instance of a load balancer says: what is stored of it, and what it told last.
type telling struct{ stored, told weir.NodeStatus }

// find returns what load balancers find of a pool's members.
func (c *Control) find(ctx context.Context, tx *store.Tx, members []weir.Machine, now time.Time) (map[weir.ID]finding, error) {
	parties := c.newParty(tx)
	for _, m := range members {
		parties.machines[m.ID] = m
	}
	if err := parties.addBalancers(ctx); err != nil {
		return nil, err
	}
	lbs, all := parties.rows()
	instances := map[weir.ID][]weir.ID{}
	says := map[weir.ID]telling{}
	for _, m := range all {
		if m.LoadBalancer == "" {
			continue
		}
		stored, err := nodeStatuses.Get(ctx, tx, m.ID)
		if err != nil && !errors.Is(err, weir.NotFound) {
			return nil, err
		}
		c.nodes.mu.Lock()
		told := c.nodes.reported[m.ID]
		c.nodes.mu.Unlock()
		instances[m.LoadBalancer] = append(instances[m.LoadBalancer], m.ID)
		says[m.ID] = telling{stored, told}
	}
	return findings(lbs, instances, says, members, now), nil
}

// findings is find for load balancers with these instances, which say this.
func findings(lbs []weir.LoadBalancer, instances map[weir.ID][]weir.ID, says map[weir.ID]telling, members []weir.Machine, now time.Time) map[weir.ID]finding {
	all := map[weir.ID]finding{}
	for _, lb := range lbs {
		actives := lb.Status.Actives()
		if !lb.Deleting.IsZero() || len(actives) == 0 {
			continue
		}
		for i := range members {
			m := &members[i]
			if !lb.Targets(m) {
				continue
			}
			f, known := all[m.ID]
			for _, id := range actives {
				s := says[id].stored
				f.waits = f.waits || lb.Status.Phase == weir.LoadBalancerActive && !s.HasUp(m.ID)
				if at := slices.IndexFunc(s.Servers, func(s weir.ServerStatus) bool { return s.ID == m.ID && s.State == weir.ServerDown }); at >= 0 && f.down == "" {
					f.down = fmt.Sprintf("load balancer %s finds it down%s", lb.Name, because(s.Servers[at].Why))
				}
			}
			sure, up, since := hears(&lb, actives, instances[lb.ID], says, m.ID, now)
			f.up = f.up || up
			if !known {
				f.sure, f.since = sure, since
			} else {
				f.sure, f.since = f.sure && sure, min(f.since, since)
			}
			f.bound = max(f.bound, downFor, time.Duration(lb.Health.Healthy)*lb.Health.Interval)
			all[m.ID] = f
		}
	}
	return all
}

// hears returns whether all instances of lb that clients reach have told of a server lately, whether any instance finds it up, and for how
// long all find it down. Those that stand by count too, if they have told anything lately.
func hears(lb *weir.LoadBalancer, actives, instances []weir.ID, says map[weir.ID]telling, server weir.ID, now time.Time) (sure, up bool, since time.Duration) {
	sure = lb.Status.Phase == weir.LoadBalancerActive
	first := true
	for _, id := range instances {
		s := says[id].told
		if now.Sub(s.Seen) > stale || s.HAProxy.Err != "" || !s.Has(server) {
			sure = sure && !slices.Contains(actives, id)
			continue
		}
		down := time.Duration(0)
		for _, is := range s.Servers {
			if is.ID == server && is.State == weir.ServerDown {
				down = max(down, time.Duration(is.Down)*time.Second+now.Sub(s.Seen))
			}
		}
		up = up || s.HasUp(server)
		if first || down < since {
			since, first = down, false
		}
	}
	return sure && !first, up, since
}

// judgeMembers has those of members unwell whose health check fails, as the load balancers see it
// that clients reach.
func judgeMembers(members []weir.Member, found map[weir.ID]finding) {
	for i := range members {
		if m := &members[i]; m.Unwell == "" {
			m.Unwell = found[m.ID].down
		}
	}
}

// heal condemns a member of a pool that its load balancers find down, if others serve and nothing else is being
// replaced, and pardons one that is up again before another serves in its place.
//
// While more than half are down, none is: what is down then is something else.
func heal(ctx context.Context, tx *store.Tx, p *weir.Pool, members []weir.Machine, found map[weir.ID]finding, now time.Time) error {
	for i := range members {
		m := &members[i]
		if f := found[m.ID]; m.Condemned != "" && m.Deleting.IsZero() && !m.Stranded() && serves(p, m, f) {
			m.Condemned = ""
			machines.Put(tx, m.ID, *m)
			tellPool(tx, p, m.ID, weir.EventDecision, fmt.Sprintf("keeps %s, which is up again", m.Name))
		}
	}
	m, why := ill(p, members, found, now)
	if m == nil {
		return nil
	}
	m.Condemned = why
	machines.Put(tx, m.ID, *m)
	tellPool(tx, p, m.ID, weir.EventDecision, fmt.Sprintf("replaces %s: %s", m.Name, why))
	return beginScaling(ctx, tx, *p, weir.ScaledUp, fmt.Sprintf("%s is replaced: %s", m.Name, why))
}

// serves reports whether a condemned member is as it should be again, as far as anybody can tell.
func serves(p *weir.Pool, m *weir.Machine, f finding) bool {
	return f.up && !f.waits || !p.Heals() || f.bound == 0 && m.Serves()
}

// strand condemns those members of a pool whose host is down, all at once, and returns when it is to be called again. Nobody waits
// for anything else in their place: they serve nobody.
func strand(ctx context.Context, tx *store.Tx, p *weir.Pool, members []weir.Machine, now time.Time) (again time.Duration, err error) {
	if !p.Deleting.IsZero() || p.Heal != nil && !*p.Heal {
		return 0, nil
	}
	long := map[string]bool{} // the hosts that are down for long
	for i := range members {
		m := &members[i]
		switch left := m.Changed.Add(hostDownFor).Sub(now); {
		case !m.Stranded() || m.Drained || m.Condemned != "":
		case left <= 0:
			long[m.Status.Host] = true
		case again == 0 || left < again:
			again = left
		}
	}
	for _, host := range slices.Sorted(maps.Keys(long)) {
		why := fmt.Sprintf("host %s is down", host)
		var names []string
		for i := range members {
			m := &members[i]
			if m.Status.Host == host && m.Stranded() && !m.Drained && m.Condemned == "" {
				m.Condemned = why
				machines.Put(tx, m.ID, *m)
				names = append(names, m.Name)
			}
		}
		text := fmt.Sprintf("replaces %s: %s", strings.Join(names, ", "), why)
		tellPool(tx, p, "", weir.EventDecision, text)
		if p.Told() {
			if err := beginScaling(ctx, tx, *p, weir.ScaledUp, text); err != nil {
				return 0, err
			}
		}
	}
	return again, nil
}

// ill returns the member of a pool that is to be replaced because it does not serve, and why.
func ill(p *weir.Pool, members []weir.Machine, found map[weir.ID]finding, now time.Time) (m *weir.Machine, why string) {
	if !p.Heals() || !p.Deleting.IsZero() || p.Former != nil {
		return nil, ""
	}
	serve, down := 0, 0
	for i := range members {
		is := &members[i]
		switch f := found[is.ID]; {
		case is.Buried():
		case !is.Deleting.IsZero() && is.Status.Err != "":
			// Another serves in its place, and its cloud, which may be down, does not destroy it yet.
		case !is.Deleting.IsZero() || p.Leaves(is):
			return nil, "" // one at a time
		case is.Off || is.Drained:
		case !is.Serves():
			return nil, "" // one that is still to come may be what is missing
		default:
			serve++
			if !f.up && f.bound > 0 {
				down++
			}
			if now.Sub(is.Created) < failedFor || f.up || !f.sure {
				continue
			}
			switch {
			case f.since >= f.bound && (m == nil || f.since > found[m.ID].since):
				m, why = is, fmt.Sprintf("%s, for %s", f.down, f.since.Round(time.Second))
			case f.since == 0 && m == nil && now.Sub(is.Created) > joinFor:
				m, why = is, fmt.Sprintf("no load balancer has found it up in %s", joinFor)
			}
		}
	}
	if m == nil || 2*down > serve {
		return nil, ""
	}
	return m, why
}

// tend has the pools looked at in which an instance of a load balancer does not find a member up.
func (f *follower) tend(all []weir.Pool, members map[weir.ID][]weir.Machine) {
	sick := map[weir.ID]bool{}
	f.nodes.mu.Lock()
	for _, s := range f.nodes.reported {
		for _, is := range s.Servers {
			if is.State != weir.ServerUp {
				sick[is.ID] = true
			}
		}
	}
	f.nodes.mu.Unlock()
	for _, p := range all {
		if p.Heals() && slices.ContainsFunc(members[p.ID], func(m weir.Machine) bool { return sick[m.ID] }) {
			f.term.pools.Touch(p.ID)
		}
	}
}
