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

	"github.com/google/uuid"

	"weir/store"
	"weir/weir"
)

// cloudFirewalls are the firewalls that users have.
var cloudFirewalls = newTeamed("firewalls", func(f weir.CloudFirewall) weir.ID { return f.Team })

// Firewalls returns the firewalls of the caller's team, the oldest first.
func (c *Control) Firewalls(ctx context.Context) (mine []weir.CloudFirewall, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		if mine, err = cloudFirewalls.AllOwn(ctx, tx); err != nil {
			return err
		}
		return showFirewalls(ctx, tx, mine)
	})
	slices.SortFunc(mine, func(a, b weir.CloudFirewall) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return mine, err
}

// Firewall returns one firewall, or weir.NotFound.
func (c *Control) Firewall(ctx context.Context, id weir.ID) (weir.CloudFirewall, error) {
	one := make([]weir.CloudFirewall, 1)
	err := c.Store.View(ctx, func(tx *store.Tx) (err error) {
		if one[0], err = cloudFirewalls.Own(ctx, tx, id); err != nil {
			return err
		}
		return showFirewalls(ctx, tx, one)
	})
	return one[0], err
}

// CreateFirewall adds a firewall; its ID, Team and Created are set here.
func (c *Control) CreateFirewall(ctx context.Context, f weir.CloudFirewall) (weir.CloudFirewall, error) {
	f.ID, f.Team, f.Created = weir.ID(uuid.NewString()), weir.CallerOf(ctx).Team, time.Now().UTC()
	err := c.Store.Update(ctx, func(tx *store.Tx) error { return putFirewall(ctx, tx, f) })
	if err != nil {
		return weir.CloudFirewall{}, err
	}
	return c.Firewall(ctx, f.ID)
}

// UpdateFirewall has change change a firewall inside one transaction, so that no other's
// change is lost, and returns the result.
func (c *Control) UpdateFirewall(ctx context.Context, id weir.ID, change func(*weir.CloudFirewall) error) (weir.CloudFirewall, error) {
	err := c.Store.Update(ctx, func(tx *store.Tx) error {
		f, err := cloudFirewalls.Own(ctx, tx, id)
		if err != nil {
			return err
		}
		was := f
		if err := change(&f); err != nil {
			return err
		}
		f.ID, f.Team, f.Created = was.ID, was.Team, was.Created
		return putFirewall(ctx, tx, f)
	})
	if err != nil {
		return weir.CloudFirewall{}, err
	}
	return c.Firewall(ctx, id)
}

// DeleteFirewall forgets a firewall. Machines that no other one is for are open again.
func (c *Control) DeleteFirewall(ctx context.Context, id weir.ID) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		if _, err := cloudFirewalls.Own(ctx, tx, id); err != nil {
			return err
		}
		cloudFirewalls.Delete(tx, id)
		return nil
	})
}

// putFirewall checks a firewall against itself, all others and what it refers to, and stores it.
func putFirewall(ctx context.Context, tx *store.Tx, f weir.CloudFirewall) error {
	wrong := func(err error) error { return fmt.Errorf("firewall %q: %w", f.Name, err) }
	if err := f.Check(); err != nil {
		return wrong(err)
	}
	all, err := cloudFirewalls.AllOwn(ctx, tx)
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.ID != f.ID && other.Name == f.Name {
			return weir.Errorf(weir.Conflict, "firewall %q: there is one of that name already", f.Name)
		}
	}
	if err := checkParties(ctx, tx, f.Team, weir.Peers{Machines: f.Machines, Tags: f.Tags}); err != nil {
		return wrong(err)
	}
	err = f.EachRule(func(field, peers string, r *weir.FirewallRule) error {
		if err := checkParties(ctx, tx, f.Team, r.Peers); err != nil {
			return fmt.Errorf("%s.%s.%w", field, peers, err)
		}
		return nil
	})
	if err != nil {
		return wrong(err)
	}
	f.Status = weir.CloudFirewallStatus{}
	cloudFirewalls.Put(tx, f.ID, f)
	return nil
}

// checkParties returns why what p names is not there for a team, the caller's. Tags are there once they are named.
func checkParties(ctx context.Context, tx *store.Tx, team weir.ID, p weir.Peers) error {
	for _, id := range p.Machines {
		if _, err := referred(ctx, tx, id); err != nil {
			return fmt.Errorf("droplet_ids: %w", err)
		}
	}
	for _, id := range p.LoadBalancers {
		_, err := keptBalancer(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return weir.Errorf(weir.Invalid, "load_balancer_uids: there is no load balancer %q", id)
		}
		if err != nil {
			return err
		}
	}
	for _, tag := range p.Tags {
		if err := addTag(ctx, tx, team, tag); err != nil {
			return err
		}
	}
	return nil
}

// changeFirewalls has change take something that is gone out of every firewall. A rule that is
// left without a peer is taken out too: it lets nobody through.
func changeFirewalls(ctx context.Context, tx *store.Tx, change func(*weir.CloudFirewall)) error {
	all, err := cloudFirewalls.All(ctx, tx)
	for _, f := range all {
		change(&f)
		idle := func(r weir.FirewallRule) bool { return r.Peers.None() }
		f.Inbound, f.Outbound = slices.DeleteFunc(f.Inbound, idle), slices.DeleteFunc(f.Outbound, idle)
		cloudFirewalls.Put(tx, f.ID, f) // which is nothing if nothing was changed
	}
	return err
}

func forgetMachine(f *weir.CloudFirewall, id weir.ID) {
	is := func(other weir.ID) bool { return other == id }
	f.Machines = slices.DeleteFunc(f.Machines, is)
	changePeers(f, func(p *weir.Peers) { p.Machines = slices.DeleteFunc(p.Machines, is) })
}

func forgetTag(f *weir.CloudFirewall, name string) {
	is := func(other string) bool { return strings.EqualFold(other, name) }
	f.Tags = slices.DeleteFunc(f.Tags, is)
	changePeers(f, func(p *weir.Peers) { p.Tags = slices.DeleteFunc(p.Tags, is) })
}

func forgetBalancer(f *weir.CloudFirewall, id weir.ID) {
	is := func(other weir.ID) bool { return other == id }
	changePeers(f, func(p *weir.Peers) { p.LoadBalancers = slices.DeleteFunc(p.LoadBalancers, is) })
}

// changePeers has change change the peers of each rule.
func changePeers(f *weir.CloudFirewall, change func(*weir.Peers)) {
	_ = f.EachRule(func(_, _ string, r *weir.FirewallRule) error { // none of which is an error
		change(&r.Peers)
		return nil
	})
}

// firewallView is all that decides about the firewalls of users.
type firewallView struct {
	firewalls []weir.CloudFirewall
	balancers []weir.LoadBalancer
	machines  []weir.Machine
}

// read fills v from one snapshot; if there is no firewall, it leaves the rest out.
func (v *firewallView) read(ctx context.Context, tx *store.Tx) (err error) {
	if v.firewalls, err = cloudFirewalls.All(ctx, tx); err != nil || len(v.firewalls) == 0 {
		return err
	}
	return v.readParties(ctx, tx)
}

func (v *firewallView) readParties(ctx context.Context, tx *store.Tx) (err error) {
	if v.balancers, err = loadBalancers.All(ctx, tx); err != nil {
		return err
	}
	v.machines, err = allMachines(ctx, tx)
	return err
}

// showFirewalls fills in how far each of fs is.
func showFirewalls(ctx context.Context, tx *store.Tx, fs []weir.CloudFirewall) error {
	var v firewallView
	if err := v.read(ctx, tx); err != nil {
		return err
	}
	v.show(fs)
	return nil
}

// planRules returns what the firewalls come to for each machine that one of them is for. One
// that is being deleted keeps what it has.
func (v *firewallView) planRules() map[weir.ID]*weir.Rules {
	found := v.parties()
	opened := func(team weir.ID, rules []weir.FirewallRule, outward bool) (openings []weir.Opening) {
		for _, r := range rules {
			if peers := found.of(team, r.Peers, outward); len(peers) > 0 {
				openings = append(openings, r.Opening(peers))
			}
		}
		return openings
	}
	firewalls := slices.SortedFunc(slices.Values(v.firewalls), func(a, b weir.CloudFirewall) int { return cmp.Compare(a.ID, b.ID) })
	inward, outward := make([][]weir.Opening, len(firewalls)), make([][]weir.Opening, len(firewalls))
	for i, f := range firewalls {
		inward[i], outward[i] = opened(f.Team, f.Inbound, false), opened(f.Team, f.Outbound, true)
	}
	plan := map[weir.ID]*weir.Rules{}
	known := map[string]*weir.Rules{} // by the firewalls that they are of: many machines have the same
	for _, m := range v.machines {
		if !m.Deleting.IsZero() {
			continue
		}
		var of []int
		for i := range firewalls {
			if firewalls[i].Covers(&m) {
				of = append(of, i)
			}
		}
		if len(of) == 0 {
			continue
		}
		key := fmt.Sprint(of)
		if known[key] == nil {
			rules := &weir.Rules{Firewall: weir.Firewall{Confined: true}}
			for _, i := range of {
				rules.Of = append(rules.Of, firewalls[i].ID)
				for _, o := range inward[i] {
					rules.Firewall.Openings = weir.Widen(rules.Firewall.Openings, o)
				}
				for _, o := range outward[i] {
					rules.Firewall.Exits = weir.Widen(rules.Firewall.Exits, o)
				}
			}
			known[key] = rules
		}
		plan[m.ID] = known[key]
	}
	return plan
}

// parties are the addresses of all that a rule may name.
type parties struct {
	machines  map[weir.ID][]netip.Prefix
	tags      map[weir.ID][]netip.Prefix // by tagKey
	balancers map[weir.ID][]netip.Prefix
	services  map[weir.ID][]netip.Prefix // where load balancers are reached
}

func (v *firewallView) parties() parties {
	p := parties{map[weir.ID][]netip.Prefix{}, map[weir.ID][]netip.Prefix{}, map[weir.ID][]netip.Prefix{}, map[weir.ID][]netip.Prefix{}}
	for _, m := range v.machines {
		var at []netip.Prefix
		for _, a := range []netip.Addr{m.Status.Public, m.Status.Anchor, m.Status.Private, m.Status.Public6, m.Status.Anchor6} {
			if a.IsValid() && !a.IsUnspecified() { // an anchor address may be one that its cloud does not tell
				at = append(at, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		if m.LoadBalancer != "" {
			p.balancers[m.LoadBalancer] = append(p.balancers[m.LoadBalancer], at...)
			continue
		}
		p.machines[m.ID] = at
		for _, tag := range m.Tags {
			key := tagKey(m.Team, tag)
			p.tags[key] = append(p.tags[key], at...)
		}
	}
	for _, lb := range v.balancers {
		for _, a := range []netip.Addr{lb.Status.Address, lb.Status.Addr6} {
			if a.IsValid() {
				p.services[lb.ID] = append(p.services[lb.ID], netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return p
}

// of returns the addresses of a team's peers, as flows come from them or, outward, go to them.
func (p *parties) of(team weir.ID, peers weir.Peers, outward bool) (at []netip.Prefix) {
	for _, text := range peers.Addresses {
		if prefix, err := weir.ParsePeer(text); err == nil { // it was checked when it was stored
			at = append(at, prefix)
		}
	}
	for _, id := range peers.Machines {
		at = append(at, p.machines[id]...)
	}
	for _, tag := range peers.Tags {
		at = append(at, p.tags[tagKey(team, tag)]...)
	}
	for _, id := range peers.LoadBalancers {
		at = append(at, p.balancers[id]...)
		if outward {
			at = append(at, p.services[id]...)
		}
	}
	return at
}

// show fills in how far each of fs is, which v has too.
func (v *firewallView) show(fs []weir.CloudFirewall) {
	plan := v.planRules()
	for i := range fs {
		s := &fs[i].Status
		*s = weir.CloudFirewallStatus{Phase: weir.FirewallSucceeded}
		for _, m := range v.machines {
			wanted, kept := slices.Contains(plan[m.ID].By(), fs[i].ID), slices.Contains(m.Obeys, fs[i].ID)
			m.Rules = plan[m.ID]
			if !m.Deleting.IsZero() || !wanted && !kept || wanted && kept && m.Status.Wall == m.Wall().Digest() {
				continue
			}
			change := weir.FirewallChange{Machine: m.ID, Removing: !wanted, Phase: weir.FirewallWaiting}
			if m.Status.Err != "" {
				change.Phase = weir.FirewallFailed
				s.Err = cmp.Or(s.Err, fmt.Sprintf("droplet %s: %s", m.ID, m.Status.Err))
			}
			if s.Phase != weir.FirewallFailed {
				s.Phase = change.Phase
			}
			s.Changes = append(s.Changes, change)
		}
	}
}

// allRules is the one ID of the controller of rules: what one machine is allowed depends on all.
const allRules weir.ID = "all"

// manyRules is how many machines are given their rules in one transaction.
const manyRules = 500

// reconcileRules gives each machine the rules of the firewalls that are for it. The machines'
// controller brings them to the cloud.
func (t *term) reconcileRules(ctx context.Context, _ weir.ID) (again time.Duration, err error) {
	ruled := false
	t.ruled.Range(func(_, _ any) bool { ruled = true; return false })
	var v firewallView
	err = t.db.View(ctx, func(tx *store.Tx) error {
		err := v.read(ctx, tx)
		if err == nil && len(v.firewalls) == 0 && ruled {
			err = v.readParties(ctx, tx)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	plan := v.planRules()
	var changed []weir.ID
	for _, m := range v.machines {
		if m.Deleting.IsZero() && !reflect.DeepEqual(m.Rules, plan[m.ID]) {
			changed = append(changed, m.ID)
		}
	}
	for ids := range slices.Chunk(changed, manyRules) {
		err := t.db.Update(ctx, func(tx *store.Tx) error {
			for _, id := range ids {
				if err := changeMachine(ctx, tx, id, func(m *weir.Machine) { m.Rules = plan[id] }); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("rules of %d machines: %w", len(ids), err)
		}
	}
	return 0, nil
}

// noteRules touches the controller of rules if what rules say of a machine may be another now.
// A machine that was deleted is as it was.
func (t *term) noteRules(was, is weir.Machine) {
	gone := reflect.DeepEqual(was, is)
	if is.Rules != nil && !gone {
		t.ruled.Store(is.ID, nil)
	} else {
		t.ruled.Delete(is.ID)
	}
	of := func(m weir.Machine) []any {
		return []any{m.ID, m.LoadBalancer, m.Tags, m.Status.Public, m.Status.Anchor, m.Status.Private, m.Status.Public6, m.Rules}
	}
	if gone || !reflect.DeepEqual(of(was), of(is)) {
		t.rules.Touch(allRules)
	}
}

// rulesOf returns the rules of a machine that is to be made, so that it is never without them.
func rulesOf(ctx context.Context, tx *store.Tx, m weir.Machine) (*weir.Rules, error) {
	var v firewallView
	var err error
	if v.firewalls, err = cloudFirewalls.All(ctx, tx); err != nil {
		return nil, err
	}
	v.firewalls = slices.DeleteFunc(v.firewalls, func(f weir.CloudFirewall) bool { return !f.Covers(&m) })
	if len(v.firewalls) == 0 {
		return nil, nil
	}
	if err := v.readParties(ctx, tx); err != nil {
		return nil, err
	}
	v.machines = append(v.machines, m)
	return v.planRules()[m.ID], nil
}
