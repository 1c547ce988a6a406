package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"weir/control"
	"weir/weir"
)

// knowledge is what users may count on, since they were told so: "machine 100001 is
// there" is true or false. What they were not told for certain is not in it.
type knowledge struct {
	mu    sync.Mutex
	facts map[fact]bool
	going map[weir.ID]bool // the machines that somebody asked to delete

	// How many machines the pool "batch" has to have, at least and at most: it is
	// only ever grown, and some of its machines are deleted.
	least, most int

	replacing []weir.ID // pools that replaced machines whose host was down, …
	replaced  []weir.ID // … and which of their machines have gone since
}

// learn takes in that a user asked for something to become so, and what came of it.
func (k *knowledge) learn(f fact, so bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err == nil:
		k.facts[f] = so
	case !refused(err):
		delete(k.facts, f)
	}
}

// created learns that machines were made, unless somebody was faster to delete one than
// the answer came.
func (k *knowledge) created(made []weir.Machine, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range made {
		if err == nil && !k.going[m.ID] {
			k.facts[exists("machine", m.ID)] = true
		}
	}
}

// deletes has nobody count on a machine from now on.
func (k *knowledge) deletes(machine weir.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.going[machine] = true
	delete(k.facts, exists("machine", machine))
}

// refused reports whether what failed so has certainly not been done.
func refused(err error) bool {
	for _, kind := range []weir.Kind{weir.NotFound, weir.Invalid, weir.Conflict, weir.Exhausted, weir.Denied} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// fact is something that is so or not. What is said of a machine ends with it.
type fact struct {
	what string
	of   weir.ID // the machine; empty if it outlives every machine
}

func exists(what string, id weir.ID) fact {
	return fact{what: fmt.Sprintf("%s %s is there", what, id)}
}

func isOff(id weir.ID) fact { return fact{fmt.Sprintf("machine %s is off", id), id} }

func isTagged(id weir.ID, tag string) fact {
	return fact{fmt.Sprintf("machine %s has tag %s", id, tag), id}
}

func pointsTo(addr netip.Addr, machine weir.ID) fact {
	return fact{fmt.Sprintf("address %s points to %q", addr, machine), machine}
}

// user is somebody who wants things. Tags, load balancers and addresses are a user's
// own, and so is whether a machine is on; all delete each other's machines.
type user struct {
	w     *world
	name  string
	n     int // of how many there are
	of    int
	r     *rand.Rand
	lbs   []weir.ID
	pools []weir.ID // autoscale pools: its own, and one that others change too
	addrs []netip.Addr
	made  int
}

func server(tags ...string) weir.Template {
	return weir.Template{Region: region, Size: "s-1vcpu-1gb", Image: "debian-12-x64", UserData: serverScript, Tags: tags}
}

func balancer(name, tag string) weir.LoadBalancer {
	return weir.LoadBalancer{Name: name, Region: region, Size: weir.DefaultNodeSize, Instances: 1, Algorithm: weir.RoundRobin,
		Rules:  []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}},
		Health: weir.DefaultCheck(), Idle: weir.DefaultIdle, Tag: tag}
}

func pool(name, tag string, count int) weir.Pool {
	return weir.Pool{Name: name, Prefix: name, Template: server(tag), Count: count}
}

// want has the user want things until ctx ends.
func (u *user) want(ctx context.Context) {
	for sleep(ctx, upTo(u.r, 10*time.Second)) {
		patience := 20 * time.Second
		if chance(u.r, 10) {
			patience = upTo(u.r, time.Second) // and then Ctrl-C
		}
		var what string
		err := u.w.ask(u.w.ctx, u.r, patience, func(ctx context.Context, c *control.Control) (err error) {
			what, err = u.wish(ctx, c)
			return err
		})
		switch {
		case what == "":
		case err == nil:
			u.w.tell("%s: %s", u.name, what)
		case refused(err):
			u.w.tell("%s: %s: refused: %v", u.name, what, err)
		default:
			// It may be done yet: who goes on before that cannot know what comes of it.
			u.w.tell("%s: %s: unknown: %v", u.name, what, err)
			if !sleep(u.w.ctx, 2*late) {
				return
			}
		}
	}
}

// wish asks for one thing, and says what and how it went; "" if there was nothing to
// ask for.
func (u *user) wish(ctx context.Context, c *control.Control) (what string, err error) {
	switch dice := u.r.IntN(100); {
	case dice < 12:
		return u.grow(ctx, c)
	case dice < 22:
		return u.apply(ctx, c)
	case dice < 34:
		return u.deleteMachine(ctx, c)
	case dice < 44:
		return u.createMachines(ctx, c)
	case dice < 52:
		return u.createBalancer(ctx, c)
	case dice < 58:
		return u.changeBalancer(ctx, c)
	case dice < 62:
		return u.deleteBalancer(ctx, c)
	case dice < 72:
		return u.tag(ctx, c)
	case dice < 82:
		return u.power(ctx, c)
	case dice < 86:
		return u.address(ctx, c)
	case dice < 90:
		return u.firewall(ctx, c)
	case dice < 94:
		return u.autoscale(ctx, c)
	case dice < 97:
		return u.reload(ctx, c)
	default:
		return u.failover(ctx, c)
	}
}

// firewall makes a firewall for a tag, changes it, or deletes it.
func (u *user) firewall(ctx context.Context, c *control.Control) (string, error) {
	tags := []string{"web", "batch", u.name}
	f := weir.CloudFirewall{Name: u.name, Tags: []string{tags[u.r.IntN(3)]},
		Inbound: []weir.FirewallRule{{Transport: weir.OverTCP, Ports: weir.Ports{First: simSSH}, Peers: weir.Peers{Tags: []string{tags[u.r.IntN(3)]}}}}}
	if m, ok := u.some(ctx, c); ok && chance(u.r, 50) {
		f.Outbound = []weir.FirewallRule{{Transport: weir.OverUDP, Ports: weir.Ports{First: simDNS}, Peers: weir.Peers{Machines: []weir.ID{m.ID}}}}
	}
	all, err := c.Firewalls(ctx)
	if err != nil {
		return "", nil
	}
	i := slices.IndexFunc(all, func(there weir.CloudFirewall) bool { return there.Name == u.name })
	switch {
	case i < 0:
		_, err = c.CreateFirewall(ctx, f)
		return "creates a firewall", err
	case chance(u.r, 40):
		return "deletes its firewall", c.DeleteFirewall(ctx, all[i].ID)
	}
	_, err = c.UpdateFirewall(ctx, all[i].ID, func(there *weir.CloudFirewall) error {
		there.Tags, there.Inbound, there.Outbound = f.Tags, f.Inbound, f.Outbound
		return nil
	})
	return "changes its firewall", err
}

// The ports that users' firewalls are about. No load balancer needs them.
const (
	simSSH = 22
	simDNS = 53
)

// failover hands a load balancer over.
func (u *user) failover(ctx context.Context, c *control.Control) (string, error) {
	all, err := c.LoadBalancers(ctx)
	if err != nil || len(all) == 0 {
		return "", nil
	}
	lb := all[u.r.IntN(len(all))]
	done, err := c.Failover(ctx, lb.ID, "")
	return fmt.Sprintf("hands %s over to %s", lb.Name, done.ToName), err
}

func (u *user) grow(ctx context.Context, c *control.Control) (string, error) {
	n := 1 + u.r.IntN(3)
	if chance(u.r, 50) {
		_, err := c.Grow(ctx, "web", n)
		return fmt.Sprintf("grows web by %d", n), err
	}
	made, err := c.Grow(ctx, "batch", n)
	k := &u.w.known
	k.mu.Lock()
	switch {
	case err == nil:
		k.least, k.most = k.least+n, k.most+n
	case !refused(err):
		k.most += n
	}
	k.mu.Unlock()
	if err == nil && len(made) != n {
		u.w.never("growing batch by %d made %d machines", n, len(made))
	}
	k.created(made, err)
	return fmt.Sprintf("grows batch by %d: %v", n, idsOf(made)), err
}

func idsOf(ms []weir.Machine) (ids []weir.ID) {
	for _, m := range ms {
		ids = append(ids, m.ID)
	}
	return ids
}

// apply changes how many machines web has, and what its load balancer does.
func (u *user) apply(ctx context.Context, c *control.Control) (string, error) {
	lb := balancer("web", "web")
	lb.Instances = 1 + u.r.IntN(3)
	if chance(u.r, 50) {
		lb.Rules = append(lb.Rules, weir.Rule{Entry: weir.TCP, EntryPort: 5432, Target: weir.TCP, TargetPort: 5000 + u.r.IntN(2)})
	}
	p := pool("web", "web", u.r.IntN(6))
	if p.Count > 0 && chance(u.r, 20) {
		p.Prefix = "www"
	}
	_, err := c.Apply(ctx, &p, lb, false)
	return fmt.Sprintf("applies web with %d machines and %d instances", p.Count, lb.Instances), err
}

// scaled is an autoscale pool of one of two sizes of machines, and of a fixed size or not.
func (u *user) scaled(name string) weir.Pool {
	p := pool(name, u.name, 1+u.r.IntN(3))
	p.Autoscale = &weir.Autoscale{}
	if chance(u.r, 50) {
		p.Scale = &weir.Scale{Min: 1 + u.r.IntN(2), Max: 2 + u.r.IntN(3), CPU: 0.5}
	}
	if chance(u.r, 30) {
		p.Template.Size = "s-2vcpu-2gb"
	}
	if chance(u.r, 30) {
		p.Sizes = []weir.Offer{{Size: p.Template.Size, Price: 0.02}, {Size: "s-4vcpu-8gb", Price: 0.03, Max: 1}}
	}
	if chance(u.r, 30) {
		p.Rolling = &weir.Rolling{Unavailable: 1}
	}
	return p
}

// autoscale makes an autoscale pool, or changes or deletes one.
func (u *user) autoscale(ctx context.Context, c *control.Control) (string, error) {
	if len(u.pools) == 0 || chance(u.r, 20) {
		u.made++
		p, err := c.CreateAutoscalePool(ctx, u.scaled(fmt.Sprintf("%s-auto%d", u.name, u.made)))
		u.w.known.learn(exists("pool", p.ID), true, err)
		if err == nil || !refused(err) {
			u.pools = append(u.pools, p.ID)
		}
		return fmt.Sprintf("creates autoscale pool %s, %s", p.Name, p.ID), err
	}
	i := u.r.IntN(len(u.pools))
	id := u.pools[i]
	if chance(u.r, 20) {
		u.pools = slices.Delete(u.pools, i, i+1)
		all := chance(u.r, 50)
		err := c.DeleteAutoscalePool(ctx, id, all)
		u.w.known.learn(exists("pool", id), false, err)
		return fmt.Sprintf("deletes autoscale pool %s, its machines too: %v", id, all), err
	}
	p, err := c.AutoscalePool(ctx, id)
	if err != nil {
		return "", nil
	}
	want := u.scaled(p.Name)
	p, err = c.UpdateAutoscalePool(ctx, id, want)
	return fmt.Sprintf("changes autoscale pool %s to %d machines of size %s", want.Name, p.Count, want.Template.Size), err
}

// some returns a random machine that may be a user's.
func (u *user) some(ctx context.Context, c *control.Control) (weir.Machine, bool) {
	all, err := c.Machines(ctx)
	all = slices.DeleteFunc(all, func(m weir.Machine) bool { return m.Own || m.LoadBalancer != "" && !chance(u.r, 5) })
	if err != nil || len(all) == 0 {
		return weir.Machine{}, false
	}
	return all[u.r.IntN(len(all))], true
}

func (u *user) deleteMachine(ctx context.Context, c *control.Control) (string, error) {
	m, ok := u.some(ctx, c)
	if !ok {
		return "", nil
	}
	u.w.known.deletes(m.ID)
	err := c.DeleteMachine(ctx, m.ID)
	if err == nil || errors.Is(err, weir.NotFound) {
		u.w.known.learn(exists("machine", m.ID), false, nil)
	}
	return "deletes machine " + string(m.ID), err
}

func (u *user) createMachines(ctx context.Context, c *control.Control) (string, error) {
	var names []string
	for range 1 + u.r.IntN(3) {
		u.made++
		names = append(names, fmt.Sprintf("%s-%d", u.name, u.made))
	}
	template := server(u.name)
	template.IPv6 = chance(u.r, 30)
	made, _, err := c.CreateMachines(ctx, names, template)
	u.w.known.created(made, err)
	for _, m := range made {
		u.w.known.learn(isTagged(m.ID, u.name), true, err)
	}
	return fmt.Sprintf("creates %s: %v", strings.Join(names, " "), idsOf(made)), err
}

func (u *user) createBalancer(ctx context.Context, c *control.Control) (string, error) {
	u.made++
	lb := balancer(fmt.Sprintf("%s-%d", u.name, u.made), []string{"web", "batch", u.name}[u.r.IntN(3)])
	if m, ok := u.some(ctx, c); ok && chance(u.r, 30) {
		lb.Tag, lb.Machines = "", []weir.ID{m.ID}
	}
	lb.Actives, lb.Dual = u.r.IntN(4), chance(u.r, 40)
	lb.Internal = !lb.Dual && chance(u.r, 40)
	lb, err := c.CreateLoadBalancer(ctx, lb)
	u.w.known.learn(exists("load balancer", lb.ID), true, err)
	if err == nil || !refused(err) {
		u.lbs = append(u.lbs, lb.ID)
	}
	return fmt.Sprintf("creates load balancer %s, %s", lb.Name, lb.ID), err
}

// own takes a random load balancer of the user's.
func (u *user) own() (weir.ID, bool) {
	if len(u.lbs) == 0 {
		return "", false
	}
	return u.lbs[u.r.IntN(len(u.lbs))], true
}

func (u *user) changeBalancer(ctx context.Context, c *control.Control) (string, error) {
	id, ok := u.own()
	if !ok {
		return "", nil
	}
	rules := []weir.Rule{{Entry: weir.HTTP, EntryPort: 8000 + u.r.IntN(3), Target: weir.HTTP, TargetPort: 80}}
	instances, actives := 1+u.r.IntN(3), u.r.IntN(4)
	tag := []string{"web", "batch", u.name}[u.r.IntN(3)]
	_, err := c.UpdateLoadBalancer(ctx, id, func(lb *weir.LoadBalancer) error {
		lb.Rules, lb.Instances, lb.Actives, lb.Tag, lb.Machines = rules, instances, actives, tag, nil
		return nil
	})
	return fmt.Sprintf("changes load balancer %s: %d active", id, actives), err
}

func (u *user) deleteBalancer(ctx context.Context, c *control.Control) (string, error) {
	id, ok := u.own()
	if !ok {
		return "", nil
	}
	err := c.DeleteLoadBalancer(ctx, id)
	u.w.known.learn(exists("load balancer", id), false, err)
	return fmt.Sprintf("deletes load balancer %s", id), err
}

func (u *user) tag(ctx context.Context, c *control.Control) (string, error) {
	m, ok := u.some(ctx, c)
	if !ok {
		return "", nil
	}
	if chance(u.r, 50) {
		err := c.Untag(ctx, u.name, []weir.ID{m.ID}, nil)
		u.w.known.learn(isTagged(m.ID, u.name), false, err)
		return "untags machine " + string(m.ID), err
	}
	err := c.CreateTag(ctx, u.name)
	if err == nil {
		err = c.Tag(ctx, u.name, []weir.ID{m.ID}, nil)
		u.w.known.learn(isTagged(m.ID, u.name), true, err)
	}
	return "tags machine " + string(m.ID), err
}

func (u *user) power(ctx context.Context, c *control.Control) (string, error) {
	m, ok := u.some(ctx, c)
	if !ok || m.LoadBalancer != "" || int(m.ID[len(m.ID)-1])%u.of != u.n {
		return "", nil
	}
	kind := []string{"power_on", "power_off", "reboot", "enable_ipv6"}[u.r.IntN(4)]
	_, err := c.Act(ctx, m.ID, kind)
	if strings.HasPrefix(kind, "power") {
		u.w.known.learn(isOff(m.ID), kind == "power_off", err)
	}
	return fmt.Sprintf("%s machine %s", kind, m.ID), err
}

func (u *user) address(ctx context.Context, c *control.Control) (string, error) {
	if len(u.addrs) == 0 || chance(u.r, 10) {
		a, err := c.ReserveAddress(ctx, []weir.Family{weir.IPv4, weir.IPv6}[u.r.IntN(2)], "", "")
		if err == nil {
			u.w.known.learn(exists("address", weir.ID(a.Addr.String())), true, err)
			u.addrs = append(u.addrs, a.Addr)
		}
		return "reserves an address: " + a.Addr.String(), err
	}
	i := u.r.IntN(len(u.addrs))
	addr := u.addrs[i]
	if chance(u.r, 15) {
		// Once released it may be somebody else's: whatever comes of it, it is not ours to use.
		u.addrs = slices.Delete(u.addrs, i, i+1)
		u.w.known.forget(addr)
		return "releases " + addr.String(), c.ReleaseAddress(ctx, addr)
	}
	m, ok := u.some(ctx, c)
	if !ok || chance(u.r, 20) {
		m.ID = ""
	}
	_, err := c.AssignAddress(ctx, addr, m.ID)
	if err == nil || !refused(err) {
		u.w.known.points(addr)
	}
	u.w.known.learn(pointsTo(addr, m.ID), true, err)
	return fmt.Sprintf("assigns %s to %q", addr, m.ID), err
}

// points forgets where addr points.
func (k *knowledge) points(addr netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.facts, func(f fact, _ bool) bool {
		return strings.HasPrefix(f.what, fmt.Sprintf("address %s points", addr))
	})
}

// forget forgets all about addr.
func (k *knowledge) forget(addr netip.Addr) {
	k.points(addr)
	k.learn(exists("address", weir.ID(addr.String())), false, context.Canceled)
}

func (u *user) reload(ctx context.Context, c *control.Control) (string, error) {
	id, ok := u.own()
	if !ok {
		return "", nil
	}
	return fmt.Sprintf("reloads load balancer %s", id), c.Reload(ctx, id)
}
