package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// Machines of one's own are hosts that no cloud made: each gets a row before it is there,
// with a token by which its agent joins. Their reports say what a cloud would: that they
// are there, and at which addresses. No controller creates, powers or destroys them.

// AddNode lets a machine of one's own join under a name: it adds its row and returns the
// token for its agent, which nobody can read again. A machine that has not joined yet gets
// another token, and the one before is void; a name of one that has is weir.Conflict.
func (c *Control) AddNode(ctx context.Context, name string) (m weir.Machine, token string, err error) {
	if err := weir.CheckName(name); err != nil {
		return m, "", err
	}
	fingerprint, err := c.fingerprint()
	if err != nil {
		return m, "", err
	}
	err = c.numbered(ctx, func(tx *store.Tx) error {
		was, err := ownNamed(ctx, tx, name)
		switch {
		case errors.Is(err, weir.NotFound):
			m, _, err = newMachine(ctx, tx, weir.Machine{Name: name, Own: true, Template: weir.Template{Region: c.Region()}})
			if err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			m = was
			joined, err := enrolled(ctx, tx, m.ID)
			if err != nil {
				return err
			}
			if joined {
				return weir.Errorf(weir.Conflict, "node %s: it has joined already; remove it first to have another machine join under its name", name)
			}
			if err := deleteEnrolments(ctx, tx, m.ID); err != nil {
				return err
			}
		}
		token = weir.JoinToken(rand.Text(), fingerprint)
		putEnrolment(tx, m.ID, token)
		return nil
	})
	return m, token, err
}

// fingerprint returns the fingerprint of the authority by which nodes know us.
func (c *Control) fingerprint() (string, error) {
	block, _ := pem.Decode(c.NodeCA)
	if block == nil {
		return "", errors.New("the control plane has no authority by which nodes would know it")
	}
	return hash(block.Bytes), nil
}

// RemoveNode forgets the machine of one's own of that name: its token and its certificate
// open nothing any more. The machine itself is not touched, and serves what it last served
// for as long as its agent runs. One that is the active instance of a load balancer is
// weir.Conflict.
func (c *Control) RemoveNode(ctx context.Context, name string) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		m, err := ownNamed(ctx, tx, name)
		if err != nil {
			return err
		}
		lbs, err := loadBalancers.All(ctx, tx)
		if err != nil {
			return err
		}
		for _, lb := range lbs {
			if lb.Status.Active == m.ID && lb.ID == m.LoadBalancer && lb.Deleting.IsZero() {
				return weir.Errorf(weir.Conflict, "node %s is the active instance of load balancer %q: hand over first, with `weir lb failover %s`", name, lb.Name, lb.Name)
			}
		}
		if err := unassign(ctx, tx, m.ID); err != nil {
			return err
		}
		machines.Delete(tx, m.ID)
		nodeConfigs.Delete(tx, m.ID)
		nodeStatuses.Delete(tx, m.ID)
		return deleteEnrolments(ctx, tx, m.ID)
	})
}

// Nodes returns the machines of one's own, by name.
func (c *Control) Nodes(ctx context.Context) (nodes []weir.NodeOverview, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		nodes = nil
		all, err := machines.All(ctx, tx)
		if err != nil {
			return err
		}
		for _, m := range all {
			if !m.Own {
				continue
			}
			in, err := c.instance(ctx, tx, m.ID)
			if err != nil {
				return err
			}
			joined, err := enrolled(ctx, tx, m.ID)
			if err != nil {
				return err
			}
			n := weir.NodeOverview{MachineOverview: m.Overview(), Joined: joined, Created: m.Created,
				Agent: in.Node.Agent, HAProxy: in.Node.HAProxy.Version, Seen: in.Node.Seen}
			if in.Node.Host != nil {
				n.Host = *in.Node.Host
			}
			lb, err := loadBalancers.Get(ctx, tx, m.LoadBalancer)
			if err != nil && !errors.Is(err, weir.NotFound) {
				return err
			}
			n.Active = err == nil && lb.Status.Active == m.ID
			nodes = append(nodes, n)
		}
		return nil
	})
	slices.SortFunc(nodes, func(a, b weir.NodeOverview) int { return cmp.Compare(a.Name, b.Name) })
	return nodes, err
}

// ownNamed returns the machine of one's own of that name, or weir.NotFound.
func ownNamed(ctx context.Context, tx *store.Tx, name string) (weir.Machine, error) {
	all, err := machines.All(ctx, tx)
	if err != nil {
		return weir.Machine{}, err
	}
	for _, m := range all {
		if m.Own && strings.EqualFold(m.Name, name) {
			return m, nil
		}
	}
	return weir.Machine{}, weir.Errorf(weir.NotFound, "there is no node named %q", name)
}

// observeHost brings into its row what a machine of one's own says of itself.
func observeHost(ctx context.Context, tx *store.Tx, m weir.Machine, host *weir.HostStatus) error {
	if !m.Own || host == nil {
		return nil
	}
	lb, err := loadBalancers.Get(ctx, tx, m.LoadBalancer)
	if err != nil && !errors.Is(err, weir.NotFound) {
		return err
	}
	addr := addressOn(host.Addrs, lb.Addr)
	status := weir.MachineStatus{Phase: weir.MachineActive, Public: addr, Private: addr}
	if !addr.IsValid() {
		status.Err = "it has no address but those that are for itself"
	}
	if !reflect.DeepEqual(m.Status, status) {
		m.Status = status
		machines.Put(tx, m.ID, m)
	}
	return nil
}

// addressOn returns the first address on the network segment that segment is of, or the
// first at all. A machine's only address on another segment may be one that other machines
// have too, as each host has that of its own containers' bridge.
func addressOn(addrs []netip.Prefix, segment netip.Prefix) netip.Addr {
	for _, a := range addrs {
		if segment.IsValid() && segment.Masked() == a.Masked() {
			return a.Addr()
		}
	}
	for _, a := range addrs {
		return a.Addr()
	}
	return netip.Addr{}
}

// cloudless reports whether there is no cloud, so that machines and addresses are one's own.
func (c *Control) cloudless() bool {
	_, none := c.Cloud.(cloud.None)
	return none
}

// checkPlace returns why lb can have no address here.
func (c *Control) checkPlace(lb weir.LoadBalancer) error {
	const more = "for more, make several load balancers and have your DNS name their addresses"
	switch n := lb.WantActive(); {
	case lb.Mode == weir.OnSegment && n > 1:
		return weir.Errorf(weir.Invalid, "load balancer %q: size_unit is %d, want 1: an address of one's own network is at one machine at a time; %s", lb.Name, n, more)
	case lb.Mode == weir.OnSegment && lb.Dual:
		return weir.Errorf(weir.Invalid, "load balancer %q: network_stack is DUALSTACK, want IPV4: of one's own network it has one address, of either family; make another load balancer for the other", lb.Name)
	case lb.Mode == weir.InCloud && !c.cloudless() && n > c.Cloud.Spread():
		return weir.Errorf(weir.Invalid, "load balancer %q: size_unit is %d, want at most %d: so many machines can have a reserved IP of this cloud at a time; %s", lb.Name, n, c.Cloud.Spread(), more)
	case lb.Internal && !c.cloudless() && !c.Cloud.PrivateNetwork().IsValid():
		return weir.Errorf(weir.Invalid, "load balancer %q: network is INTERNAL: this cloud reserves no addresses of its private network, want EXTERNAL", lb.Name)
	case c.cloudless() && lb.Mode == weir.InCloud:
		return weir.Errorf(weir.Invalid, "load balancer %q: this Weir has no cloud to reserve an address for it: give it one of your own network in a weir.yaml, as load_balancer: {address: 192.0.2.10/24}", lb.Name)
	}
	return nil
}
