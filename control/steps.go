package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weir/store"
	"weir/weir"
)

// balancerStep is one thing to do about a load balancer: a change of rows.
type balancerStep interface {
	fmt.Stringer
	do(ctx context.Context, t *term, tx *store.Tx, v *balancerView, lb *weir.LoadBalancer) error
}

type (
	addInstance   struct{}
	claimInstance struct{ machine weir.Machine } // of one's own
	dropInstance  struct {
		machine weir.Machine
		why     string
	}
	reserveAddress struct{}
	releaseAddress struct{ addr netip.Addr }
	moveAddress    struct{ move }
	spreadAddress  struct { // over these, beside the active one
		to   []weir.ID
		got  []weir.Machine // have a share now
		lost []weir.Health  // have none any more
	}
	sawAddress struct{ at weir.ID } // a node holds it by itself
	giveUp     struct{ why string }
	guard      struct {
		machine  weir.Machine
		firewall *weir.Firewall
	}
	configure struct {
		nodes   []weir.Machine // whose configuration is another than before
		configs []weir.NodeConfig
	}
	forget struct{}
)

func (addInstance) String() string      { return "create an instance" }
func (s claimInstance) String() string  { return "make " + s.machine.Name + " an instance" }
func (s dropInstance) String() string   { return "delete instance " + s.machine.Name + because(s.why) }
func (reserveAddress) String() string   { return "reserve an address" }
func (s releaseAddress) String() string { return fmt.Sprintf("release address %s", s.addr) }
func (s moveAddress) String() string    { return "point the address to " + s.to.Name }
func (s spreadAddress) String() string {
	return fmt.Sprintf("spread the address over %d instances", len(s.to)+1)
}
func (s sawAddress) String() string { return fmt.Sprintf("note that %s has the address", s.at) }
func (s giveUp) String() string     { return "give up handing over: " + s.why }
func (s guard) String() string      { return "change the firewall of " + s.machine.Name }
func (forget) String() string       { return "forget the load balancer" }

func (s configure) String() string {
	var names []string
	for _, m := range s.nodes {
		names = append(names, m.Name)
	}
	return "configure " + strings.Join(names, ", ")
}

func (addInstance) do(ctx context.Context, t *term, tx *store.Tx, _ *balancerView, lb *weir.LoadBalancer) error {
	lb.Serial++
	m, _, err := newMachine(ctx, tx, weir.Machine{
		Team:         lb.Team,
		Name:         fmt.Sprintf("%s-lb-%d", lb.Name, lb.Serial),
		LoadBalancer: lb.ID,
		Template:     weir.Template{Region: lb.Region, Size: lb.Size, Image: instanceImage, IPv6: lb.Dual},
	})
	if err != nil {
		return err
	}
	m.UserData = t.userDataOf(newEnrolment(tx, m.ID))
	machines.Put(tx, m.ID, stored(tx, m))
	tellOf(tx, lb, m, weir.EventStep, "creates instance "+m.Name)
	return nil
}

func (s claimInstance) do(ctx context.Context, _ *term, tx *store.Tx, _ *balancerView, lb *weir.LoadBalancer) error {
	tellOf(tx, lb, s.machine, weir.EventStep, "makes "+s.machine.Name+" its instance")
	return changeMachine(ctx, tx, s.machine.ID, func(m *weir.Machine) { m.LoadBalancer, m.Team = lb.ID, lb.Team })
}

func (s dropInstance) do(ctx context.Context, _ *term, tx *store.Tx, v *balancerView, lb *weir.LoadBalancer) error {
	if s.machine.Own {
		nodeConfigs.Delete(tx, s.machine.ID)
		return changeMachine(ctx, tx, s.machine.ID, func(m *weir.Machine) { m.LoadBalancer, m.Team = "", "" })
	}
	if s.why != "" {
		tellOf(tx, lb, s.machine, weir.EventDecision, fmt.Sprintf("destroys %s, which %s", s.machine.Name, s.why))
	}
	// It was no flapping signal that had the address moved away from it.
	if f := lb.Status.Failover; f != nil && f.From == s.machine.ID && len(lb.Status.Moves) > 0 {
		lb.Status.Moves = slices.DeleteFunc(slices.Clone(lb.Status.Moves), f.At.Equal)
	}
	return changeMachine(ctx, tx, s.machine.ID, func(m *weir.Machine) { m.Deleting = time.Now().UTC() })
}

func (reserveAddress) do(_ context.Context, _ *term, tx *store.Tx, _ *balancerView, lb *weir.LoadBalancer) error {
	addresses.Put(tx, lb.ID, weir.Address{Team: lb.Team, Owner: lb.ID, Created: time.Now().UTC(), Mode: lb.Mode, Addr: lb.Addr.Addr(), Dual: lb.Dual, Private: lb.Internal})
	return nil
}

func (releaseAddress) do(ctx context.Context, _ *term, tx *store.Tx, _ *balancerView, lb *weir.LoadBalancer) error {
	return changeAddress(ctx, tx, lb.ID, func(a *weir.Address) { a.Deleting = time.Now().UTC() })
}

func (s moveAddress) do(ctx context.Context, t *term, tx *store.Tx, v *balancerView, lb *weir.LoadBalancer) error {
	now := time.Now().UTC()
	from := lb.Status.Active
	lb.Status.Active, lb.Status.Since, lb.Wanted, lb.WantedAt = s.to.ID, now, "", time.Time{}
	if from != "" {
		was := v.machine(from)
		lb.Status.Failover = &weir.Failover{At: now, From: from, FromName: was.Name, To: s.to.ID, ToName: s.to.Name, Planned: s.planned, Why: s.why}
		if !s.planned {
			lb.Status.Moves = withMove(lb.Status.Moves, now)
		}
		tellOf(tx, lb, s.to, weir.EventDecision, fmt.Sprintf("moves the address from %s to %s: %s", was.Name, s.to.Name, s.why))
	} else {
		tellOf(tx, lb, s.to, weir.EventDecision, fmt.Sprintf("gives the address to %s", s.to.Name))
	}
	return changeAddress(ctx, tx, lb.ID, func(a *weir.Address) { a.Machine = s.to.ID })
}

func (s spreadAddress) do(ctx context.Context, _ *term, tx *store.Tx, v *balancerView, lb *weir.LoadBalancer) error {
	lb.Status.Sharing = s.to
	for _, m := range s.got {
		tellOf(tx, lb, m, weir.EventDecision, "gives a share of the address to "+m.Name)
	}
	for _, h := range s.lost {
		m, why := v.machine(h.Machine), ""
		if !v.stays(h) {
			why = fmt.Sprintf(", which %s%s", h.State.Phrase(), because(h.Why))
		}
		tellOf(tx, lb, m, weir.EventDecision, "takes its share of the address from "+m.Name+why)
		if !v.stays(h) && h.State != weir.InstanceDrained {
			lb.Status.Moves = withMove(lb.Status.Moves, time.Now().UTC())
		}
	}
	return changeAddress(ctx, tx, lb.ID, func(a *weir.Address) { a.Sharing = s.to })
}

// withMove returns moves with another one at now, and without those that count no more.
func withMove(moves []time.Time, now time.Time) []time.Time {
	return slices.DeleteFunc(append(slices.Clone(moves), now), func(at time.Time) bool { return now.Sub(at) >= movesCount })
}

// moves reports whether a step has the address lead elsewhere.
func moves(step balancerStep) bool {
	switch step.(type) {
	case moveAddress, spreadAddress:
		return true
	}
	return false
}

func (s sawAddress) do(ctx context.Context, _ *term, tx *store.Tx, _ *balancerView, lb *weir.LoadBalancer) error {
	return changeAddress(ctx, tx, lb.ID, func(a *weir.Address) { a.Assigned = s.at })
}

func (s giveUp) do(_ context.Context, _ *term, tx *store.Tx, v *balancerView, lb *weir.LoadBalancer) error {
	to := v.machine(lb.Wanted)
	lb.Wanted, lb.WantedAt = "", time.Time{}
	tellOf(tx, lb, to, weir.EventDecision, fmt.Sprintf("does not hand over to %s: %s", to.Name, s.why))
	return nil
}

func (s guard) do(ctx context.Context, _ *term, tx *store.Tx, _ *balancerView, _ *weir.LoadBalancer) error {
	return changeMachine(ctx, tx, s.machine.ID, func(m *weir.Machine) { m.Firewall = s.firewall })
}

func (s configure) do(ctx context.Context, _ *term, tx *store.Tx, v *balancerView, lb *weir.LoadBalancer) error {
	lb.Revision++
	for _, c := range s.configs {
		if _, had := v.configs[c.Node]; !had {
			err := changeMachine(ctx, tx, c.Node, func(m *weir.Machine) { m.Joined = lb.Revision })
			if err != nil {
				return err
			}
		}
		c.Revision = lb.Revision
		nodeConfigs.Put(tx, c.Node, c)
	}
	return nil
}

func (forget) do(ctx context.Context, _ *term, tx *store.Tx, _ *balancerView, lb *weir.LoadBalancer) error {
	loadBalancers.Delete(tx, lb.ID)
	return freeName(ctx, tx, *lb)
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
