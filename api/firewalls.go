package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"weir/weir"
)

// firewallRequest is the body that makes a firewall, or replaces one. Two of its fields are
// all that one of rules has, which is read as a firewallRequest too.
type firewallRequest struct {
	Name     string             `json:"name"`
	Inbound  []firewallRuleWire `json:"inbound_rules"`
	Outbound []firewallRuleWire `json:"outbound_rules"`
	Droplets []int64            `json:"droplet_ids"`
	Tags     []string           `json:"tags"`
}

// firewallRuleWire is a rule: an inbound one has sources, an outbound one destinations.
type firewallRuleWire struct {
	Protocol     string     `json:"protocol"`
	Ports        word       `json:"ports"`
	Action       string     `json:"action,omitempty"` // allow, or nothing
	Sources      *peersWire `json:"sources,omitempty"`
	Destinations *peersWire `json:"destinations,omitempty"`
}

// peersWire has only what is not empty, as at DigitalOcean: clients compare.
type peersWire struct {
	Addresses     []string `json:"addresses,omitempty"`
	Droplets      []int64  `json:"droplet_ids,omitempty"`
	LoadBalancers []string `json:"load_balancer_uids,omitempty"`
	Kubernetes    []string `json:"kubernetes_ids,omitempty"`
	Tags          []string `json:"tags,omitempty"`
}

type cloudFirewallWire struct {
	ID       string               `json:"id"`
	Name     string               `json:"name"`
	Status   string               `json:"status"`
	Inbound  []firewallRuleWire   `json:"inbound_rules"`
	Outbound []firewallRuleWire   `json:"outbound_rules"`
	Droplets []int64              `json:"droplet_ids"`
	Tags     []string             `json:"tags"`
	Created  string               `json:"created_at"`
	Pending  []firewallChangeWire `json:"pending_changes"`

	Weir firewallWeir `json:"weir,omitzero"`
}

type firewallChangeWire struct {
	Droplet  int64  `json:"droplet_id"`
	Removing bool   `json:"removing"`
	Status   string `json:"status"`
}

// firewallWeir is what DigitalOcean has no word for.
type firewallWeir struct {
	Err string `json:"error,omitempty"` // why it is failed
}

// cloudFirewallWords puts a firewall in DigitalOcean's words.
func cloudFirewallWords(f weir.CloudFirewall) cloudFirewallWire {
	w := cloudFirewallWire{ID: string(f.ID), Name: f.Name, Status: string(f.Status.Phase), Inbound: []firewallRuleWire{}, Outbound: []firewallRuleWire{},
		Droplets: some(numbers(f.Machines)), Tags: some(f.Tags), Created: timeWire(f.Created), Pending: []firewallChangeWire{}, Weir: firewallWeir{f.Status.Err}}
	for _, r := range f.Inbound {
		w.Inbound = append(w.Inbound, firewallRuleWire{Protocol: string(r.Transport), Ports: word(r.Ports.String()), Sources: peersWords(r.Peers)})
	}
	for _, r := range f.Outbound {
		w.Outbound = append(w.Outbound, firewallRuleWire{Protocol: string(r.Transport), Ports: word(r.Ports.String()), Destinations: peersWords(r.Peers)})
	}
	for _, c := range f.Status.Changes {
		w.Pending = append(w.Pending, firewallChangeWire{number(c.Machine), c.Removing, string(c.Phase)})
	}
	return w
}

func peersWords(p weir.Peers) *peersWire {
	w := &peersWire{Addresses: p.Addresses, Droplets: numbers(p.Machines), Tags: p.Tags}
	for _, id := range p.LoadBalancers {
		w.LoadBalancers = append(w.LoadBalancers, string(id))
	}
	return w
}

// numbers returns the IDs of machines as clients have them.
func numbers(ids []weir.ID) (ns []int64) {
	for _, id := range ids {
		ns = append(ns, number(id))
	}
	return ns
}

// set makes f what q says, all of it.
func (q *firewallRequest) set(f *weir.CloudFirewall) (err error) {
	f.Name, f.Tags = q.Name, join(nil, q.Tags)
	if f.Machines, err = machineIDs(q.Droplets); err != nil {
		return err
	}
	if len(q.Inbound)+len(q.Outbound) == 0 {
		return invalid("inbound_rules and outbound_rules are empty, and such a firewall lets nothing in or out: want at least one rule")
	}
	f.Inbound, f.Outbound, err = q.rules()
	if err != nil {
		return err
	}
	return f.Check()
}

// rules returns the rules that q has.
func (q *firewallRequest) rules() (inbound, outbound []weir.FirewallRule, err error) {
	for i, w := range q.Inbound {
		r, err := w.rule(w.Sources, "sources")
		if err != nil {
			return nil, nil, fmt.Errorf("inbound_rules[%d].%w", i, err)
		}
		inbound = joinRules(inbound, r)
	}
	for i, w := range q.Outbound {
		r, err := w.rule(w.Destinations, "destinations")
		if err != nil {
			return nil, nil, fmt.Errorf("outbound_rules[%d].%w", i, err)
		}
		outbound = joinRules(outbound, r)
	}
	return inbound, outbound, nil
}

// rule returns a rule whose peers are called name. What is wrong with it begins with the name
// of the field.
func (w *firewallRuleWire) rule(peers *peersWire, name string) (r weir.FirewallRule, err error) {
	if peers == nil {
		peers = &peersWire{}
	}
	r.Transport = weir.Transport(w.Protocol)
	switch {
	case w.Action != "" && w.Action != "allow":
		return r, invalid("action is %.40q: Weir's firewalls allow, and refuse all else, so leave it out or use allow", w.Action)
	case len(peers.Kubernetes) > 0:
		return r, invalid("%s.kubernetes_ids is not empty: Weir has no Kubernetes clusters, name the droplets, their tag or their addresses instead", name)
	case r.Transport == weir.OverICMP && (w.Ports == "" || w.Ports == "1-65535"): // what clients send for all of it
	case w.Ports == "":
		return r, invalid("ports is missing, want a port such as 22, a range such as 8000-9000, or 0 for all")
	default:
		if r.Ports, err = weir.ParsePorts(string(w.Ports)); err != nil {
			return r, err
		}
	}
	r.Peers = weir.Peers{Addresses: join(nil, peers.Addresses), Tags: join(nil, peers.Tags)}
	if r.Peers.Machines, err = machineIDs(peers.Droplets); err != nil {
		return r, fmt.Errorf("%s.%w", name, err)
	}
	for _, uid := range join(nil, peers.LoadBalancers) {
		if !opaque.MatchString(uid) {
			return r, invalid("%s.load_balancer_uids: there is no load balancer %.60q", name, uid)
		}
		r.Peers.LoadBalancers = append(r.Peers.LoadBalancers, weir.ID(uid))
	}
	if r.Peers.None() {
		return r, invalid("%s is empty: such a rule lets nobody through, want addresses, droplet_ids, load_balancer_uids or tags (0.0.0.0/0 and ::/0 are everybody)", name)
	}
	return r, nil
}

// joinRules returns rules with those of more that they do not have.
func joinRules(rules []weir.FirewallRule, more ...weir.FirewallRule) []weir.FirewallRule {
	rules = slices.Clone(rules)
	for _, r := range more {
		if !slices.ContainsFunc(rules, r.Same) {
			rules = append(rules, r)
		}
	}
	return rules
}

// withoutRules returns rules without those that say the same as one of less.
func withoutRules(rules, less []weir.FirewallRule) []weir.FirewallRule {
	return slices.DeleteFunc(slices.Clone(rules), func(r weir.FirewallRule) bool { return slices.ContainsFunc(less, r.Same) })
}

func (a *api) listFirewalls(w http.ResponseWriter, r *http.Request) error {
	all, err := a.Control.Firewalls(r.Context())
	if err != nil {
		return err
	}
	return list(w, r, "firewalls", all, cloudFirewallWords)
}

// listDropletFirewalls answers with the firewalls that are for a droplet.
func (a *api) listDropletFirewalls(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	all, err := a.Control.Firewalls(r.Context())
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(f weir.CloudFirewall) bool { return !f.Covers(&m) })
	return list(w, r, "firewalls", all, cloudFirewallWords)
}

func (a *api) getFirewall(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	f, err := a.Control.Firewall(r.Context(), id)
	return replyFirewall(w, http.StatusOK, f, err)
}

// replyFirewall answers with a firewall, unless there is an error.
func replyFirewall(w http.ResponseWriter, status int, f weir.CloudFirewall, err error) error {
	if err != nil {
		return err
	}
	return reply(w, status, map[string]any{"firewall": cloudFirewallWords(f)})
}

func (a *api) createFirewall(w http.ResponseWriter, r *http.Request) error {
	var q firewallRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	var f weir.CloudFirewall
	if err := q.set(&f); err != nil {
		return err
	}
	f, err := a.Control.CreateFirewall(r.Context(), f)
	return replyFirewall(w, http.StatusAccepted, f, err)
}

// replaceFirewall makes a firewall what the body says, all of it.
func (a *api) replaceFirewall(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	var q firewallRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	f, err := a.Control.UpdateFirewall(r.Context(), id, q.set)
	return replyFirewall(w, http.StatusOK, f, err)
}

func (a *api) deleteFirewall(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	if err := a.Control.DeleteFirewall(r.Context(), id); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// firewallPart is a part of a firewall that clients add to and take away from: what of a body
// it is, and how a firewall changes with it.
type firewallPart func(q *firewallRequest) (change func(*weir.CloudFirewall) error, err error)

// changeFirewall answers that a part of a firewall was changed.
func (a *api) changeFirewall(part firewallPart) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		id, err := opaqueID(r, "id")
		if err != nil {
			return err
		}
		var q firewallRequest
		if err := decode(w, r, &q); err != nil {
			return err
		}
		change, err := part(&q)
		if err != nil {
			return err
		}
		if _, err := a.Control.UpdateFirewall(r.Context(), id, change); err != nil {
			return err
		}
		return reply(w, http.StatusNoContent, nil)
	}
}

func (q *firewallRequest) machines() ([]weir.ID, error) {
	if len(q.Droplets) == 0 {
		return nil, invalid("droplet_ids is empty, want the IDs of droplets")
	}
	return machineIDs(q.Droplets)
}

func addFirewallDroplets(q *firewallRequest) (func(*weir.CloudFirewall) error, error) {
	ids, err := q.machines()
	return func(f *weir.CloudFirewall) error {
		f.Machines = join(f.Machines, ids)
		return nil
	}, err
}

func removeFirewallDroplets(q *firewallRequest) (func(*weir.CloudFirewall) error, error) {
	ids, err := q.machines()
	return func(f *weir.CloudFirewall) error {
		f.Machines = without(f.Machines, ids)
		return nil
	}, err
}

func (q *firewallRequest) tagNames() ([]string, error) {
	if len(q.Tags) == 0 {
		return nil, invalid("tags is empty, want the names of tags")
	}
	return q.Tags, nil
}

func addFirewallTags(q *firewallRequest) (func(*weir.CloudFirewall) error, error) {
	names, err := q.tagNames()
	return func(f *weir.CloudFirewall) error {
		f.Tags = join(f.Tags, names)
		return nil
	}, err
}

func removeFirewallTags(q *firewallRequest) (func(*weir.CloudFirewall) error, error) {
	names, err := q.tagNames()
	return func(f *weir.CloudFirewall) error {
		has := func(tag string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, tag) })
		}
		f.Tags = slices.DeleteFunc(slices.Clone(f.Tags), has)
		return nil
	}, err
}

func (q *firewallRequest) someRules() (inbound, outbound []weir.FirewallRule, err error) {
	if len(q.Inbound)+len(q.Outbound) == 0 {
		return nil, nil, invalid("inbound_rules and outbound_rules are empty, want at least one rule")
	}
	return q.rules()
}

func addFirewallRules(q *firewallRequest) (func(*weir.CloudFirewall) error, error) {
	inbound, outbound, err := q.someRules()
	return func(f *weir.CloudFirewall) error {
		f.Inbound, f.Outbound = joinRules(f.Inbound, inbound...), joinRules(f.Outbound, outbound...)
		return nil
	}, err
}

func removeFirewallRules(q *firewallRequest) (func(*weir.CloudFirewall) error, error) {
	inbound, outbound, err := q.someRules()
	return func(f *weir.CloudFirewall) error {
		f.Inbound, f.Outbound = withoutRules(f.Inbound, inbound), withoutRules(f.Outbound, outbound)
		return nil
	}, err
}
