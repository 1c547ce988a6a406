package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"weir/store"
	"weir/weir"
)

// instanceImage is what a load balancer's instances run.
const instanceImage = "debian-12-x64"

// balancerView is all that planBalancer judges by.
type balancerView struct {
	lb       weir.LoadBalancer
	all      []weir.LoadBalancer          // that have servers of lb's, lb among them
	machines []weir.Machine               // that concern lb, by ID: its instances and servers, and the instances of all
	address  *weir.Address                // lb's own; nil if there is no row
	certs    map[weir.ID]weir.Certificate // that lb's rules name
	account  acmeAccount                  // whose challenges lb answers
	snippets weir.Snippets                // an operator's own lines of HAProxy's configuration
	configs  map[weir.ID]weir.NodeConfig
	statuses map[weir.ID]weir.NodeStatus
	seen     evidence
	drain    time.Duration
	members  []string     // URLs of the control plane, for nodes
	from     []netip.Addr // where the control plane asks instances from
	private  netip.Prefix // the private network
}

// instances returns the machines that run lb and are to stay.
func (v *balancerView) instances() (instances []weir.Machine) {
	for _, m := range v.machines {
		if m.LoadBalancer == v.lb.ID && m.Deleting.IsZero() {
			instances = append(instances, m)
		}
	}
	return instances
}

// live reports whether a node runs its newest configuration.
func (v *balancerView) live(node weir.ID) bool {
	c, ok := v.configs[node]
	return ok && v.statuses[node].Revision == c.Revision
}

// planBalancer returns the steps that bring a load balancer to its row, and what is to be
// thought of its instances.
func planBalancer(v balancerView) (steps []balancerStep, health []weir.Health) {
	walls := firewalls(v.all, v.machines, v.from, v.private)
	for _, m := range v.machines {
		if want := walls[m.ID]; m.Deleting.IsZero() && !m.Own && !reflect.DeepEqual(m.Firewall, want) {
			steps = append(steps, guard{m, want})
		}
	}
	if !v.lb.Deleting.IsZero() {
		return append(steps, v.planEnd()...), nil
	}
	health = v.judge()
	if v.address == nil {
		steps = append(steps, reserveAddress{})
	}
	moving := v.planAddress(health) // before instances: none that is to have the address is one too many
	steps = append(steps, v.planInstances(health)...)
	steps = append(steps, moving...)
	if c := v.planConfigs(); len(c.nodes) > 0 {
		steps = append(steps, c)
	}
	return steps, health
}

// planAddress returns the steps that get the address to where it should be.
func (v *balancerView) planAddress(health []weir.Health) (steps []balancerStep) {
	if v.lb.Mode == weir.OnSegment && v.address != nil {
		if at := v.holder(); at != v.address.Assigned {
			steps = append(steps, sawAddress{at})
		}
	}
	m, givenUp := v.planMove(health)
	if givenUp != "" {
		steps = append(steps, giveUp{givenUp})
	}
	left := weir.ID("")
	if m != nil {
		steps = append(steps, moveAddress{*m})
		left, v.address.Machine = v.address.Machine, m.to.ID // v is a copy, but its address is not
	}
	if s := v.planSharing(health, left); s != nil {
		steps = append(steps, *s)
		v.address.Sharing = s.to
	}
	return steps
}

// planEnd returns the steps of a load balancer that is being deleted.
func (v *balancerView) planEnd() (steps []balancerStep) {
	for _, m := range v.instances() {
		steps = append(steps, dropInstance{m, ""})
	}
	switch {
	case slices.ContainsFunc(v.machines, func(m weir.Machine) bool { return m.LoadBalancer == v.lb.ID }):
	case v.address == nil:
		steps = append(steps, forget{})
	case v.address.Deleting.IsZero():
		steps = append(steps, releaseAddress{v.address.Addr})
	}
	return steps
}

// planInstances returns the steps after which there are as many instances as there should be:
// broken ones go, and for each that went another comes.
func (v *balancerView) planInstances(health []weir.Health) (steps []balancerStep) {
	instances := v.instances()
	want := v.lb.WantInstances()
	fenced := map[weir.ID]bool{}
	for _, h := range v.planFences(health) {
		steps = append(steps, dropInstance{v.machine(h.Machine), h.State.Phrase() + because(h.Why)})
		fenced[h.Machine] = true
	}
	instances = slices.DeleteFunc(instances, func(m weir.Machine) bool { return fenced[m.ID] })
	regroups, _ := v.regroups(health)
	if len(fenced) == 0 && (len(instances) == want && v.surges(health) || regroups) {
		want++
	}
	if v.lb.Mode == weir.OnSegment {
		return append(steps, v.planClaims(health, want)...)
	}
	for range want - len(instances) {
		steps = append(steps, addInstance{})
	}
	if len(instances) > want && v.served(health) {
		// There is no hurry: one too many may yet be needed. The least useful goes first, never one
		// that has the address, nor the one that a user wants to become active; and one that had it goes when the
		// connections that it has had time to end.
		const later = 8
		rank := func(m weir.Machine) int {
			i := slices.IndexFunc(health, func(h weir.Health) bool { return h.Machine == m.ID })
			switch h := health[i]; {
			case v.address.Has(m.ID) || v.lb.Wanted == m.ID:
				return later + 1
			case !h.Left.IsZero() && v.seen.now.Sub(h.Left) < v.drain && v.serves(h):
				return later
			}
			return slices.Index([]weir.HealthState{weir.InstanceGone, weir.InstanceSilent, weir.InstanceUnwell,
				weir.InstanceBoots, weir.InstanceDrained, weir.InstanceWell}, health[i].State)
		}
		on := crowdOf(instances)
		for len(instances) > want {
			first := slices.MinFunc(instances, func(a, b weir.Machine) int {
				return cmp.Or(cmp.Compare(rank(a), rank(b)), on.compare(&a, &b))
			})
			if rank(first) < later {
				steps = append(steps, dropInstance{first, "there is one too many"})
			}
			on.leave(&first)
			instances = slices.DeleteFunc(instances, func(m weir.Machine) bool { return m.ID == first.ID })
		}
	}
	return steps
}

// regroups reports whether there is to be one more instance than there should be, so that not all of them are on one host now that
// another is up again, and whether that is still to be looked at.
func (v *balancerView) regroups(health []weir.Health) (more, still bool) {
	instances := v.instances()
	if !v.lb.Status.Regroup || !v.lb.Deleting.IsZero() || len(health) < len(instances) {
		return false, false
	}
	beyond := len(instances) > v.lb.WantInstances()
	made, boots := true, false
	for i, m := range instances {
		made = made && m.Status.Host != ""
		boots = boots || health[i].State == weir.InstanceBoots
		if m.Status.Short && beyond {
			return false, false // there is no room for it
		}
	}
	switch {
	case !made:
		return beyond, true
	case beyond:
		return boots, boots
	}
	together := len(instances) > 1 && len(crowdOf(instances)) == 1
	return together, together
}

// planClaims makes machines of one's own that joined, and that no load balancer has, instances.
// One that has been silent for long does not count, and keeps its place for when it is back.
func (v *balancerView) planClaims(health []weir.Health, want int) (steps []balancerStep) {
	for _, h := range health {
		if h.State != weir.InstanceSilent || v.seen.now.Sub(h.Since) < surgeAfter {
			want--
		}
	}
	for _, m := range v.machines {
		if want > 0 && m.Own && m.LoadBalancer == "" && m.Deleting.IsZero() && m.Status.Phase == weir.MachineActive {
			steps = append(steps, claimInstance{m})
			want--
		}
	}
	return steps
}

// holder returns the instance that says it holds the address, or nobody. While an address
// moves, two may say so for a moment: the one that should have it counts.
func (v *balancerView) holder() (at weir.ID) {
	for _, m := range v.instances() {
		if held := v.statuses[m.ID].Held; held != nil && held.Addr == v.lb.Addr && (at == "" || m.ID == v.address.Machine) {
			at = m.ID
		}
	}
	return at
}

// planConfigs returns the NodeConfigs that are to be, if one of them is another than what is there. They
// share a revision, so that of two instances it can be told which one runs the older.
func (v *balancerView) planConfigs() (c configure) {
	for _, m := range v.instances() {
		if !m.Own && (!m.Status.Anchor.IsValid() || v.lb.Dual && !m.Status.Anchor6.IsValid()) || m.Own && m.Status.Phase != weir.MachineActive {
			continue // it is not there yet
		}
		config := weir.NodeConfig{Node: m.ID, Revision: v.lb.Revision, Members: v.members, Group: v.groupOf(m)}
		if v.lb.Mode == weir.OnSegment {
			config.Proxy = v.proxy(v.drain, v.lb.Addr.Addr())
			config.Proxy.Floating = v.lb.Addr.Addr()
			config.Hold = &weir.Hold{Addr: v.lb.Addr, Active: v.address != nil && v.address.Machine == m.ID}
		} else {
			at := []netip.Addr{m.Status.Anchor}
			switch {
			case v.lb.Internal:
				at[0] = m.Status.Private
			case v.lb.Dual:
				at = append(at, m.Status.Anchor6)
			}
			config.Proxy = v.proxy(v.drain, at...)
		}
		if was, ok := v.configs[m.ID]; !ok || !reflect.DeepEqual(was, config) {
			c.nodes = append(c.nodes, m)
		}
		c.configs = append(c.configs, config)
	}
	return c
}

// groupOf returns whom an instance watches.
func (v *balancerView) groupOf(m weir.Machine) *weir.Group {
	g := &weir.Group{Key: v.lb.Key}
	for _, other := range v.instances() {
		if addrs := watchedAt(&v.lb, other); other.ID != m.ID && len(addrs) > 0 {
			g.Peers = append(g.Peers, weir.Peer{Node: other.ID, Addrs: addrs})
		}
	}
	return g
}

// watchedAt returns the addresses at which an instance of lb is watched: its private one, and then
// that of the link on which its clients reach it, if that is another.
func watchedAt(lb *weir.LoadBalancer, m weir.Machine) (addrs []netip.Addr) {
	for _, a := range []netip.Addr{m.Status.Private, m.Status.Public} {
		if a.IsValid() && !slices.Contains(addrs, a) && !(lb.Internal && a == m.Status.Public) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// targets returns whom the control plane asks: the address of the load balancer, and each
// instance.
func (v *balancerView) targets() (service Target, instances []Target) {
	if v.address != nil && v.address.Addr.IsValid() && v.address.Assigned != "" {
		service = Target{Health: netip.AddrPortFrom(v.address.Addr, weir.HealthPort)}
	}
	for _, m := range v.instances() {
		// Only one that has served can stop doing so.
		if addrs := watchedAt(&v.lb, m); len(addrs) > 0 && v.statuses[m.ID].Revision != 0 {
			instances = append(instances, Target{Node: m.ID, Key: v.lb.Key, Agent: addrs,
				Health: netip.AddrPortFrom(addrs[len(addrs)-1], weir.HealthPort)})
		}
	}
	return service, instances
}

// firewalls returns what may reach each machine: servers answer the instances of
// their load balancers alone, instances what their rules take in, and machines that no
// load balancer concerns have none.
// Instances also answer each other's heartbeats, and the control plane, which asks from from. Those of an internal
// load balancer have their clients in private, the private network.
func firewalls(lbs []weir.LoadBalancer, all []weir.Machine, from []netip.Addr, private netip.Prefix) map[weir.ID]*weir.Firewall {
	walls := map[weir.ID]*weir.Firewall{}
	open := func(m weir.Machine, o weir.Opening) {
		f := walls[m.ID]
		if f == nil {
			f = &weir.Firewall{}
			walls[m.ID] = f
		}
		f.Openings = weir.Widen(f.Openings, o)
	}
	instances := map[weir.ID][]weir.Machine{} // by load balancer
	servers := map[string][]weir.Machine{}    // by what may choose them: a tag, or their ID behind a slash
	for _, m := range all {
		if m.LoadBalancer != "" {
			instances[m.LoadBalancer] = append(instances[m.LoadBalancer], m)
			continue
		}
		servers["/"+string(m.ID)] = []weir.Machine{m}
		for _, tag := range m.Tags {
			tag = strings.ToLower(tag)
			servers[tag] = append(servers[tag], m)
		}
	}
	for _, lb := range lbs {
		if !lb.Deleting.IsZero() || lb.Mode == weir.OnSegment {
			continue
		}
		var sources []netip.Prefix // of requests to servers
		askers := hosts(from)      // of instances
		for _, m := range instances[lb.ID] {
			if m.Status.Private.IsValid() {
				sources = append(sources, hosts([]netip.Addr{m.Status.Private})...)
			}
			askers = append(askers, hosts(watchedAt(&lb, m))...)
		}
		for _, m := range instances[lb.ID] {
			for _, port := range entryPorts(&lb) {
				open(m, weir.Opening{Port: port, Peers: everybody(lb, private)})
			}
			open(m, weir.Opening{Port: weir.BeatPort, UDP: true, Peers: askers})
			open(m, weir.Opening{Port: weir.HealthPort, Peers: askers})
		}
		var targets []weir.Machine
		for _, tag := range lb.TargetTags() {
			targets = append(targets, servers[strings.ToLower(tag)]...)
		}
		for _, id := range lb.TargetMachines() {
			targets = append(targets, servers["/"+string(id)]...)
		}
		for _, m := range targets {
			if !lb.Targets(&m) {
				continue
			}
			if len(sources) == 0 {
				walls[m.ID] = cmp.Or(walls[m.ID], &weir.Firewall{}) // closed until there is somebody to open for
				continue
			}
			for _, port := range targetPorts(&lb, &m) {
				open(m, weir.Opening{Port: port, Peers: sources})
			}
		}
	}
	return walls
}

// everybody returns the sources of whoever may be a load balancer's client: where that is internal, who is in private.
func everybody(lb weir.LoadBalancer, private netip.Prefix) []netip.Prefix {
	if lb.Internal {
		return []netip.Prefix{private}
	}
	all := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	if lb.Dual {
		all = append(all, netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	return all
}

// hosts returns addresses as sources of a firewall.
func hosts(addrs []netip.Addr) (prefixes []netip.Prefix) {
	for _, a := range addrs {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return prefixes
}

// statusOf returns what users are shown of a load balancer, given the steps that are
// being taken and what is thought of its instances.
func statusOf(v balancerView, steps []balancerStep, health []weir.Health) weir.LoadBalancerStatus {
	s := v.lb.Status
	s.Plan, s.Err, s.Address, s.Addr6, s.Health = nil, "", netip.Addr{}, netip.Addr{}, health
	_, s.Regroup = v.regroups(health)
	for _, step := range steps {
		s.Plan = append(s.Plan, step.String())
	}
	if v.address != nil {
		s.Address, s.Addr6 = v.address.Addr, v.address.Addr6
		s.Err = v.address.Err
	}
	for _, m := range v.instances() {
		status := v.statuses[m.ID]
		switch {
		case m.Status.Err != "":
			s.Err = m.Status.Err
		case m.Status.Boot.State == weir.BootFailed:
			s.Err = fmt.Sprintf("instance %s: %s (its log is %s)", m.Name, m.Status.Boot.Why, m.Status.Boot.Log)
		case status.Err != "":
			s.Err = fmt.Sprintf("instance %s: %s", m.Name, status.Err)
		case !v.live(m.ID):
			s.Plan = append(s.Plan, fmt.Sprintf("wait for %s to run its configuration", m.Name))
		}
	}
	for _, r := range v.lb.Rules {
		if wait := waitFor(v.certs[r.Certificate]); wait != "" && !slices.Contains(s.Plan, wait) {
			s.Plan = append(s.Plan, wait)
		}
	}
	if v.lb.Mode == weir.OnSegment && len(v.instances()) < weir.MinInstances {
		s.Plan = append(s.Plan, "wait for a node to join: weir node token NAME")
	}
	if s.Err == "" {
		s.Err = v.deaf()
	}
	switch {
	case s.Err != "":
		s.Phase = weir.LoadBalancerErrored
	case s.Phase == weir.LoadBalancerActive: // also while an instance is replaced, and servers come and go
	case len(steps) > 0 || !v.whole(health):
		s.Phase = weir.LoadBalancerNew
	case !v.answers():
		s.Phase = weir.LoadBalancerNew
		s.Plan = append(s.Plan, fmt.Sprintf("wait for an answer at %s", s.Address))
	default:
		s.Phase = weir.LoadBalancerActive
	}
	return s
}

// whole reports whether the instance that has the address, and each other that could take over,
// does all that is asked of it.
func (v *balancerView) whole(health []weir.Health) bool {
	serving := false
	for _, m := range v.instances() {
		i := slices.IndexFunc(health, func(h weir.Health) bool { return h.Machine == m.ID })
		if i >= 0 && slices.Contains([]weir.HealthState{weir.InstanceUnwell, weir.InstanceSilent, weir.InstanceGone}, health[i].State) {
			continue // it is about to be replaced
		}
		if !v.live(m.ID) {
			return false
		}
		serving = serving || v.address != nil && v.address.Assigned == m.ID
	}
	return serving && len(v.address.Shared) == v.lb.WantActive()-1 && slices.Equal(v.address.Shared, v.address.Sharing)
}

// answers reports whether a request to the address was answered when this leader last made
// one. Where it can make none, what instances say has to do.
func (v *balancerView) answers() bool { return !v.seen.asks || v.seen.service.Serves }

// deafAfter is how long clients are without any answer until that is an error.
const deafAfter = 15 * time.Second

// deaf returns why clients of a load balancer that was active get no answer any more, or "".
func (v *balancerView) deaf() string {
	if mute := v.seen.service.mute; v.lb.Status.Phase != weir.LoadBalancerNew && !mute.IsZero() && v.seen.now.Sub(mute) >= deafAfter {
		return fmt.Sprintf("nothing has answered at its address since %s", mute.UTC().Format(time.TimeOnly+" MST"))
	}
	return ""
}

// lookAgain is how soon a load balancer is looked at again while something is amiss with one of its
// instances: how long that has been so decides what is done.
const lookAgain = 200 * time.Millisecond

// unsettled reports whether what is to be done about instances, or said of them, depends on what becomes known of
// them with time: one is not well, the address is at none of them, at too few or answers no more, or there is one too many.
func (v *balancerView) unsettled(health []weir.Health) bool {
	well := func(h weir.Health) bool { return h.State == weir.InstanceWell || h.State == weir.InstanceDrained }
	active := func(h weir.Health) bool { return v.address != nil && h.Machine == v.address.Machine }
	return !v.seen.service.mute.IsZero() ||
		slices.ContainsFunc(health, func(h weir.Health) bool { return !well(h) }) ||
		len(health) > 0 && !slices.ContainsFunc(health, active) ||
		v.address != nil && len(v.address.Sharing) < v.lb.WantActive()-1 ||
		v.lb.Mode == weir.InCloud && len(health) > v.lb.WantInstances()
}

// reconcileLoadBalancer brings one load balancer to its row. It looks and writes in
// one transaction, so that what it gives a node to do was so at that moment: a server
// that is being deleted may be destroyed as soon as no node is to send it requests.
// Machines and addresses follow by their own controllers.
func (t *term) reconcileLoadBalancer(ctx context.Context, id weir.ID) (again time.Duration, err error) {
	began := time.Now()
	var v balancerView
	gone, moved := false, false
	err = t.db.Update(ctx, func(tx *store.Tx) error {
		again, moved = 0, false
		v, err = t.readBalancer(ctx, tx, id)
		if gone = errors.Is(err, weir.NotFound); gone {
			return nil
		}
		if err != nil {
			return err
		}
		v.drain, v.from, v.private, v.members = t.Drain, t.From, t.Cloud.PrivateNetwork(), t.NodeURLs()
		t.look(&v)
		lb := v.lb
		steps, health := planBalancer(v)
		lb.Status = statusOf(v, steps, health)
		tellHealth(tx, &v, health)
		noteArrival(tx, &v, &lb)
		for _, step := range steps {
			if err := step.do(ctx, t, tx, &v, &lb); err != nil {
				return fmt.Errorf("load balancer %s: %s: %w", lb.Name, step, err)
			}
			moved = moved || moves(step)
		}
		if n := len(steps); n == 0 || steps[n-1].String() != (forget{}).String() {
			loadBalancers.Put(tx, id, lb)
		}
		if v.unsettled(health) {
			// It may not be all that this member does.
			again = max(lookAgain, 10*time.Since(began))
		}
		return nil
	})
	if err == nil && moved {
		t.addresses.Touch(id) // before the store says so
	}
	return again, err
}

// viewBalancer returns all there is about a load balancer of the caller's team at this moment.
func (c *Control) viewBalancer(ctx context.Context, id weir.ID) (v balancerView, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		if _, err := loadBalancers.Own(ctx, tx, id); err != nil {
			return err
		}
		v, err = c.readBalancer(ctx, tx, id)
		return err
	})
	return v, err
}

// readBalancer returns all there is about a load balancer in one snapshot.
func (c *Control) readBalancer(ctx context.Context, tx *store.Tx, id weir.ID) (v balancerView, err error) {
	v = balancerView{configs: map[weir.ID]weir.NodeConfig{}, statuses: map[weir.ID]weir.NodeStatus{}, certs: map[weir.ID]weir.Certificate{}}
	if v.lb, err = loadBalancers.Get(ctx, tx, id); err != nil {
		return v, err
	}
	if err := c.readParties(ctx, tx, &v); err != nil {
		return v, err
	}
	for _, r := range v.lb.Rules {
		if r.Certificate == "" {
			continue
		}
		v.certs[r.Certificate], err = certificates.Get(ctx, tx, r.Certificate)
		switch {
		case errors.Is(err, weir.NotFound) && !v.lb.Deleting.IsZero(): // nobody needs it any more
		case errors.Is(err, weir.NotFound):
			return v, weir.Errorf(weir.Unavailable, "load balancer %q: certificate %s is not there", v.lb.Name, r.Certificate)
		case err != nil:
			return v, err
		}
	}
	if v.account, err = accountOf(ctx, tx, v.lb.Team); err != nil {
		return v, err
	}
	if v.snippets, err = snippetsOf(ctx, tx, v.lb); err != nil {
		return v, err
	}
	return v, v.readInstances(ctx, tx)
}

// readInstances adds the address to v, and what the instances among v's machines are to do and say that they do.
func (v *balancerView) readInstances(ctx context.Context, tx *store.Tx) error {
	if a, err := addresses.Get(ctx, tx, v.lb.ID); err == nil {
		v.address = &a
	} else if !errors.Is(err, weir.NotFound) {
		return err
	}
	for _, m := range v.machines {
		if m.LoadBalancer != v.lb.ID {
			continue
		}
		if c, err := nodeConfigs.Get(ctx, tx, m.ID); err == nil {
			v.configs[m.ID] = c
		} else if !errors.Is(err, weir.NotFound) {
			return err
		}
		if s, err := nodeStatuses.Get(ctx, tx, m.ID); err == nil {
			v.statuses[m.ID] = s
		} else if !errors.Is(err, weir.NotFound) {
			return err
		}
	}
	return nil
}

func (t *term) loadBalancerFailed(ctx context.Context, id weir.ID, why error) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		lb, err := loadBalancers.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		lb.Status.Err = why.Error()
		loadBalancers.Put(tx, id, lb)
		return nil
	})
}
