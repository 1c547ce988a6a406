package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"weir/store"
	"weir/weir"
)

// instanceImage is what a load balancer's instances run.
const instanceImage = "debian-12-x64"

// balancerView is all that planBalancer judges by.
type balancerView struct {
	lb       weir.LoadBalancer
	all      []weir.LoadBalancer // lb among them
	machines []weir.Machine      // all, by ID
	address  *weir.Address       // lb's own; nil if there is no row
	configs  map[weir.ID]weir.NodeConfig
	statuses map[weir.ID]weir.NodeStatus
	drain    time.Duration
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

// balancerStep is one thing to do about a load balancer: a change of rows.
type balancerStep interface {
	fmt.Stringer
	do(ctx context.Context, t *term, tx *store.Tx, lb *weir.LoadBalancer) error
}

type (
	addInstance    struct{}
	dropInstance   struct{ machine weir.Machine }
	reserveAddress struct{}
	releaseAddress struct{ addr netip.Addr }
	pointAddress   struct{ to weir.Machine }
	guard          struct {
		machine  weir.Machine
		firewall *weir.Firewall
	}
	configure struct {
		node  weir.Machine
		proxy weir.Proxy
	}
	forget struct{}
)

func (addInstance) String() string      { return "create an instance" }
func (s dropInstance) String() string   { return "delete instance " + s.machine.Name }
func (reserveAddress) String() string   { return "reserve an address" }
func (s releaseAddress) String() string { return fmt.Sprintf("release address %s", s.addr) }
func (s pointAddress) String() string   { return "point the address to " + s.to.Name }
func (s guard) String() string          { return "change the firewall of " + s.machine.Name }
func (s configure) String() string      { return "configure " + s.node.Name }
func (forget) String() string           { return "forget the load balancer" }

// planBalancer returns the steps that bring a load balancer to its row.
func planBalancer(v balancerView) (steps []balancerStep) {
	walls := firewalls(v.all, v.machines)
	for _, m := range v.machines {
		if want := walls[m.ID]; m.Deleting.IsZero() && !reflect.DeepEqual(m.Firewall, want) {
			steps = append(steps, guard{m, want})
		}
	}
	instances := v.instances()
	if !v.lb.Deleting.IsZero() {
		for _, m := range instances {
			steps = append(steps, dropInstance{m})
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
	if v.address == nil {
		steps = append(steps, reserveAddress{})
	}
	for range v.lb.Instances - len(instances) {
		steps = append(steps, addInstance{})
	}
	for _, m := range instances[min(len(instances), v.lb.Instances):] {
		steps = append(steps, dropInstance{m})
	}
	for _, m := range instances {
		if !m.Status.Anchor.IsValid() {
			continue // it is not there yet
		}
		proxy := proxyOf(v.lb, v.machines, m.Status.Anchor, v.drain)
		if c, ok := v.configs[m.ID]; !ok || !reflect.DeepEqual(c.Proxy, proxy) {
			steps = append(steps, configure{m, proxy})
		}
	}
	if v.address != nil && !slices.ContainsFunc(instances, func(m weir.Machine) bool { return m.ID == v.address.Machine }) {
		for _, m := range instances {
			if v.live(m.ID) {
				steps = append(steps, pointAddress{m})
				break
			}
		}
	}
	return steps
}

// firewalls returns what may reach each machine: servers answer the instances of
// their load balancers alone, instances what their rules take in, and machines that no
// load balancer concerns have none.
func firewalls(lbs []weir.LoadBalancer, all []weir.Machine) map[weir.ID]*weir.Firewall {
	walls := map[weir.ID]*weir.Firewall{}
	open := func(m weir.Machine, ports []int, from []netip.Prefix) {
		f := walls[m.ID]
		if f == nil {
			f = &weir.Firewall{}
			walls[m.ID] = f
		}
		for _, port := range ports {
			i := slices.IndexFunc(f.Openings, func(o weir.Opening) bool { return o.Port == port && !o.UDP })
			if i < 0 {
				i = len(f.Openings)
				f.Openings = append(f.Openings, weir.Opening{Port: port})
			}
			o := &f.Openings[i]
			o.From = append(o.From, from...)
			slices.SortFunc(o.From, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
			o.From = slices.Compact(o.From)
		}
		slices.SortFunc(f.Openings, weir.Opening.Compare)
	}
	for _, lb := range lbs {
		if !lb.Deleting.IsZero() {
			continue
		}
		var entries, targets []int
		for _, r := range lb.Rules {
			entries = append(entries, r.EntryPort)
			targets = append(targets, r.TargetPort)
		}
		targets = append(targets, lb.Health.Port)
		var sources []netip.Prefix
		for _, m := range all {
			if m.LoadBalancer == lb.ID {
				open(m, entries, []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)})
				if a := m.Status.Private; a.IsValid() {
					sources = append(sources, netip.PrefixFrom(a, a.BitLen()))
				}
			}
		}
		if len(sources) == 0 {
			targets = nil // closed until there is somebody to open for
		}
		for _, m := range all {
			if lb.Targets(&m) {
				open(m, targets, sources)
			}
		}
	}
	return walls
}

// proxyOf returns what HAProxy should do on an instance of lb with that anchor address.
func proxyOf(lb weir.LoadBalancer, all []weir.Machine, anchor netip.Addr, drain time.Duration) weir.Proxy {
	p := weir.Proxy{LoadBalancer: lb.ID, Name: lb.Name, Drain: drain, Reload: lb.Reload}
	for _, r := range lb.Rules {
		backend := fmt.Sprintf("servers-%s-%d", r.Target, r.TargetPort)
		p.Frontends = append(p.Frontends, weir.Frontend{
			Name: fmt.Sprintf("%s-%d", r.Entry, r.EntryPort), Bind: netip.AddrPortFrom(anchor, uint16(r.EntryPort)),
			Mode: r.Entry, Idle: lb.Idle, Backend: backend,
		})
		if slices.ContainsFunc(p.Backends, func(b weir.Backend) bool { return b.Name == backend }) {
			continue
		}
		b := weir.Backend{Name: backend, Mode: r.Target, Balance: lb.Algorithm, Idle: lb.Idle, Check: lb.Health}
		for _, m := range all {
			if lb.Targets(&m) && m.Serves() {
				b.Servers = append(b.Servers, weir.Server{ID: m.ID, Name: m.Name,
					Addr: netip.AddrPortFrom(m.Status.Private, uint16(r.TargetPort)), Weight: 1})
			}
		}
		p.Backends = append(p.Backends, b)
	}
	return p
}

// statusOf returns what users are shown of a load balancer, given the steps that are
// being taken.
func statusOf(v balancerView, steps []balancerStep) weir.LoadBalancerStatus {
	s := weir.LoadBalancerStatus{Phase: v.lb.Status.Phase}
	for _, step := range steps {
		s.Plan = append(s.Plan, step.String())
	}
	if v.address != nil {
		s.Address = v.address.Addr
		s.Err = v.address.Err
	}
	serving := false
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
		case v.address != nil && v.address.Assigned == m.ID:
			serving = true
		}
	}
	switch {
	case s.Err != "":
		s.Phase = weir.LoadBalancerErrored
	case serving:
		s.Phase = weir.LoadBalancerActive
	case s.Phase == weir.LoadBalancerErrored:
		s.Phase = weir.LoadBalancerNew
	}
	return s
}

// reconcileLoadBalancer brings one load balancer to its row. It looks and writes in
// one transaction, so that what it gives a node to do was so at that moment: a server
// that is being deleted may be destroyed as soon as no node is to send it requests.
// Machines and addresses follow by their own controllers.
func (t *term) reconcileLoadBalancer(ctx context.Context, id weir.ID) (again time.Duration, err error) {
	gone := false
	err = t.db.Update(ctx, func(tx *store.Tx) error {
		v := balancerView{drain: t.Drain, configs: map[weir.ID]weir.NodeConfig{}, statuses: map[weir.ID]weir.NodeStatus{}}
		err := v.read(ctx, tx, id)
		if gone = errors.Is(err, weir.NotFound); gone {
			return nil
		}
		if err != nil {
			return err
		}
		steps := planBalancer(v)
		lb := v.lb
		lb.Status = statusOf(v, steps)
		for _, step := range steps {
			if err := step.do(ctx, t, tx, &lb); err != nil {
				return fmt.Errorf("load balancer %s: %s: %w", lb.Name, step, err)
			}
		}
		if !slices.Contains(steps, balancerStep(forget{})) {
			loadBalancers.Put(tx, id, lb)
		}
		return nil
	})
	if gone {
		t.balancers.Delete(id) // no change concerns it any more
	}
	return 0, err
}

// read fills v from one snapshot.
func (v *balancerView) read(ctx context.Context, tx *store.Tx, id weir.ID) (err error) {
	if v.lb, err = loadBalancers.Get(ctx, tx, id); err != nil {
		return err
	}
	if v.all, err = loadBalancers.All(ctx, tx); err != nil {
		return err
	}
	if v.machines, err = allMachines(ctx, tx); err != nil {
		return err
	}
	if a, err := addresses.Get(ctx, tx, id); err == nil {
		v.address = &a
	} else if !errors.Is(err, weir.NotFound) {
		return err
	}
	for _, m := range v.machines {
		if m.LoadBalancer != id {
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

func (addInstance) do(ctx context.Context, t *term, tx *store.Tx, lb *weir.LoadBalancer) error {
	lb.Serial++
	m, _, err := newMachine(ctx, tx, weir.Machine{
		Name:         fmt.Sprintf("%s-lb-%d", lb.Name, lb.Serial),
		LoadBalancer: lb.ID,
		Template:     weir.Template{Region: lb.Region, Size: lb.Size, Image: instanceImage},
	})
	if err != nil {
		return err
	}
	m.UserData = t.userDataOf(newEnrolment(tx, m.ID))
	machines.Put(tx, m.ID, stored(tx, m))
	return nil
}

func (s dropInstance) do(ctx context.Context, _ *term, tx *store.Tx, _ *weir.LoadBalancer) error {
	return changeMachine(ctx, tx, s.machine.ID, func(m *weir.Machine) { m.Deleting = time.Now().UTC() })
}

func (reserveAddress) do(_ context.Context, _ *term, tx *store.Tx, lb *weir.LoadBalancer) error {
	addresses.Put(tx, lb.ID, weir.Address{Owner: lb.ID, Created: time.Now().UTC()})
	return nil
}

func (releaseAddress) do(ctx context.Context, _ *term, tx *store.Tx, lb *weir.LoadBalancer) error {
	return changeAddress(ctx, tx, lb.ID, func(a *weir.Address) { a.Deleting = time.Now().UTC() })
}

func (s pointAddress) do(ctx context.Context, _ *term, tx *store.Tx, lb *weir.LoadBalancer) error {
	return changeAddress(ctx, tx, lb.ID, func(a *weir.Address) { a.Machine = s.to.ID })
}

func (s guard) do(ctx context.Context, _ *term, tx *store.Tx, _ *weir.LoadBalancer) error {
	return changeMachine(ctx, tx, s.machine.ID, func(m *weir.Machine) { m.Firewall = s.firewall })
}

func (s configure) do(ctx context.Context, _ *term, tx *store.Tx, _ *weir.LoadBalancer) error {
	was, err := nodeConfigs.Get(ctx, tx, s.node.ID)
	if err != nil && !errors.Is(err, weir.NotFound) {
		return err
	}
	nodeConfigs.Put(tx, s.node.ID, weir.NodeConfig{Node: s.node.ID, Revision: was.Revision + 1, Proxy: s.proxy})
	return nil
}

func (forget) do(_ context.Context, _ *term, tx *store.Tx, lb *weir.LoadBalancer) error {
	loadBalancers.Delete(tx, lb.ID)
	return nil
}

// changeMachine changes a machine's row, if it is still there.
func changeMachine(ctx context.Context, tx *store.Tx, id weir.ID, change func(*weir.Machine)) error {
	m, err := machines.Get(ctx, tx, id)
	if errors.Is(err, weir.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	change(&m)
	machines.Put(tx, id, m)
	return nil
}

// changeAddress changes an address's row, if it is still there.
func changeAddress(ctx context.Context, tx *store.Tx, owner weir.ID, change func(*weir.Address)) error {
	a, err := addresses.Get(ctx, tx, owner)
	if errors.Is(err, weir.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	change(&a)
	addresses.Put(tx, owner, a)
	return nil
}

func (t *term) loadBalancerFailed(ctx context.Context, id weir.ID, why string) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		lb, err := loadBalancers.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		lb.Status.Err = why
		loadBalancers.Put(tx, id, lb)
		return nil
	})
}
