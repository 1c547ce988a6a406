package weir

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Firewall lets new flows in to one machine only by its openings and, if the machine is
// confined, out of it only by its exits. Flows that were let through before go on.
type Firewall struct {
	Openings []Opening `json:"openings,omitempty"` // in the order of Opening.Compare
	Confined bool      `json:"confined,omitempty"` // it needs an exit; otherwise all may leave
	Exits    []Opening `json:"exits,omitempty"`    // likewise in order
}

// Opening lets new flows pass to ports of TCP, or of UDP, or all of ICMP.
type Opening struct {
	Port  int            `json:"port"`           // none for ICMP
	Last  int            `json:"last,omitempty"` // the last of a range that begins at Port; 0 for that port alone
	UDP   bool           `json:"udp,omitempty"`  // of UDP …
	ICMP  bool           `json:"icmp,omitempty"` // … or of ICMP; otherwise of TCP
	Peers []netip.Prefix `json:"from"`           // the sources that may; of an exit, the destinations; in order
}

// Check returns why f can be no machine's. No firewall, a nil f, can be.
func (f *Firewall) Check() error {
	if f == nil {
		return nil
	}
	for _, o := range slices.Concat(f.Openings, f.Exits) {
		switch {
		case o.ICMP && (o.UDP || o.Port != 0 || o.Last != 0):
			return Errorf(Invalid, "ICMP has no ports, and is not UDP")
		case o.ICMP:
		case o.Port < 1 || o.Port > 65535:
			return Errorf(Invalid, "port is %d, want 1 to 65535", o.Port)
		case o.Last != 0 && (o.Last < o.Port || o.Last > 65535):
			return Errorf(Invalid, "last port is %d, want %d to 65535", o.Last, o.Port)
		}
	}
	if !f.Confined && len(f.Exits) > 0 {
		return Errorf(Invalid, "it has exits, and is not confined to them")
	}
	return nil
}

// Clone returns a copy of f that shares nothing with it.
func (f *Firewall) Clone() *Firewall {
	if f == nil {
		return nil
	}
	of := func(openings []Opening) []Opening {
		openings = slices.Clone(openings)
		for i := range openings {
			openings[i].Peers = slices.Clone(openings[i].Peers)
		}
		return openings
	}
	return &Firewall{Openings: of(f.Openings), Confined: f.Confined, Exits: of(f.Exits)}
}

// Digest names f by what it says: two that say the same have the same. That of none is empty.
func (f *Firewall) Digest() string {
	if f == nil {
		return ""
	}
	text, err := json.Marshal(f)
	if err != nil {
		return "invalid" // a prefix that is none: no cloud has such a firewall
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:12])
}

// Compare orders openings by port, TCP before UDP, ICMP before either. Those of the same
// ports and protocol are equal.
func (o Opening) Compare(other Opening) int {
	number := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(o.Port, other.Port), number(o.UDP)-number(other.UDP),
		number(o.ICMP)-number(other.ICMP), cmp.Compare(o.Last, other.Last))
}

// Widen returns openings that let through what o does, besides what they did. Peers that lie
// within another are left out.
func Widen(openings []Opening, o Opening) []Opening {
	i := slices.IndexFunc(openings, func(there Opening) bool { return there.Compare(o) == 0 })
	if i < 0 {
		i = len(openings)
		openings = append(openings, o)
		openings[i].Peers = nil
	}
	peers := slices.Concat(openings[i].Peers, o.Peers)
	slices.SortFunc(peers, netip.Prefix.Compare)
	var kept []netip.Prefix
	for _, p := range peers { // what holds others comes before them
		if n := len(kept); n == 0 || !kept[n-1].Contains(p.Addr()) {
			kept = append(kept, p)
		}
	}
	openings[i].Peers = kept
	slices.SortFunc(openings, Opening.Compare)
	return openings
}

// Rules are what the firewalls of users come to for one machine.
type Rules struct {
	Of       []ID     `json:"of"` // the firewalls, in order
	Firewall Firewall `json:"firewall"`
}

// By returns the firewalls that r are of; none for nil.
func (r *Rules) By() []ID {
	if r == nil {
		return nil
	}
	return r.Of
}

// Wall returns the firewall that m should have: what its load balancers need and what its
// users' firewalls allow, together. A load balancer thus reaches its servers whatever its
// users' firewalls say. It is nil for a machine that is open. One that is metered lets in who asks its exporter too, and
// without load balancers and firewalls all others everywhere else.
func (m *Machine) Wall() *Firewall {
	if m.Metered != nil {
		return m.Metered.guard(m.wall())
	}
	return m.wall()
}

// wall is Wall without regard to an exporter.
func (m *Machine) wall() *Firewall {
	if m.Rules == nil {
		return m.Firewall
	}
	wall := m.Rules.Firewall.Clone()
	if m.Firewall != nil {
		for _, o := range m.Firewall.Openings {
			wall.Openings = Widen(wall.Openings, o)
		}
	}
	return wall
}

// CloudFirewall is a firewall as users have it: rules for the machines that it names, and for
// those with its tags. All else that is new is refused, in and out; what several of them say of
// one machine adds up.
type CloudFirewall struct {
	ID       ID             `json:"id"`
	Team     ID             `json:"team,omitempty"`
	Name     string         `json:"name"` // unique in a team
	Inbound  []FirewallRule `json:"inbound,omitempty"`
	Outbound []FirewallRule `json:"outbound,omitempty"`
	Machines []ID           `json:"machines,omitempty"`
	Tags     []string       `json:"tags,omitempty"`
	Created  time.Time      `json:"created"`

	Status CloudFirewallStatus `json:"status,omitzero"` // made when it is read, and not stored
}

// FirewallRule lets new flows pass between a firewall's machines and the peers of the rule.
type FirewallRule struct {
	Transport Transport `json:"transport"`
	Ports     Ports     `json:"ports,omitzero"`
	Peers     Peers     `json:"peers"`
}

// Transport is what a firewall's rule is about.
type Transport string

// The transports, in DigitalOcean's words.
const (
	OverTCP  Transport = "tcp"
	OverUDP  Transport = "udp"
	OverICMP Transport = "icmp"
)

// Ports are the ports of a rule: all if zero.
type Ports struct {
	First int `json:"first"`
	Last  int `json:"last,omitempty"` // 0 for First alone
}

// String returns p as DigitalOcean writes it: "22", "8000-9000", and "0" for all.
func (p Ports) String() string {
	if p.Last == 0 {
		return strconv.Itoa(p.First)
	}
	return strconv.Itoa(p.First) + "-" + strconv.Itoa(p.Last)
}

// ParsePorts reads what String writes, and "all".
func ParsePorts(text string) (Ports, error) {
	if text == "0" || text == "all" {
		return Ports{}, nil
	}
	first, last, isRange := strings.Cut(text, "-")
	var p Ports
	var err error
	if p.First, err = port(first); err == nil && isRange {
		p.Last, err = port(last)
	}
	if err != nil || isRange && p.Last < p.First {
		return Ports{}, Errorf(Invalid, "ports is %.40q, want a port such as 22, a range such as 8000-9000, or 0 for all", text)
	}
	return p, nil
}

func port(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && (n == 0 || text[0] == '0') {
		err = Errorf(Invalid, "%q is no port", text)
	}
	return int(n), err
}

// Peers are the other ends of a rule's flows: sources inbound, destinations outbound.
type Peers struct {
	Addresses     []string `json:"addresses,omitempty"` // IPs and CIDRs as users wrote them, by which clients compare
	Machines      []ID     `json:"machines,omitempty"`
	Tags          []string `json:"tags,omitempty"`
	LoadBalancers []ID     `json:"load_balancers,omitempty"`
}

// None reports whether p is nobody.
func (p *Peers) None() bool {
	return len(p.Addresses)+len(p.Machines)+len(p.Tags)+len(p.LoadBalancers) == 0
}

// ParsePeer reads an IP or a CIDR, of IPv4 or IPv6. Bits behind the prefix do not count.
func ParsePeer(text string) (netip.Prefix, error) {
	var p netip.Prefix
	addr, err := netip.ParseAddr(text)
	if err == nil {
		p, err = addr.Prefix(addr.BitLen())
	} else {
		p, err = netip.ParsePrefix(text)
	}
	if err != nil || addr.Zone() != "" || p.Addr().Is4In6() {
		return netip.Prefix{}, Errorf(Invalid, "%.60q is not an address, want an IP such as 192.0.2.7, or a CIDR such as 10.0.0.0/8 or ::/0", text)
	}
	return p.Masked(), nil
}

// Same reports whether r and other say the same, in whatever order.
func (r FirewallRule) Same(other FirewallRule) bool {
	return reflect.DeepEqual(r.ordered(), other.ordered())
}

func (r FirewallRule) ordered() FirewallRule {
	r.Peers = Peers{ordered(r.Peers.Addresses), ordered(r.Peers.Machines), ordered(r.Peers.Tags), ordered(r.Peers.LoadBalancers)}
	return r
}

// ordered returns s sorted, each once, and nil for nothing.
func ordered[T cmp.Ordered](s []T) []T {
	return append([]T(nil), slices.Compact(slices.Sorted(slices.Values(s)))...)
}

// Opening returns what r lets pass, to or from peers.
func (r FirewallRule) Opening(peers []netip.Prefix) Opening {
	o := Opening{Port: r.Ports.First, Last: r.Ports.Last, UDP: r.Transport == OverUDP, ICMP: r.Transport == OverICMP, Peers: peers}
	if !o.ICMP && r.Ports == (Ports{}) {
		o.Port, o.Last = 1, 65535
	}
	return o
}

// Covers reports whether f is for m, of the same team: its ID is named, or one of its tags is.
func (f *CloudFirewall) Covers(m *Machine) bool {
	return m.Team == f.Team && m.LoadBalancer == "" && !m.Own &&
		(slices.Contains(f.Machines, m.ID) || slices.ContainsFunc(f.Tags, m.HasTag))
}

// What a firewall has at most: each new flow is compared with all of it.
const (
	maxFirewallRules     = 200
	maxFirewallAddresses = 2000
)

var firewallName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9.-]{0,254}$`)

// Check returns why f cannot be a firewall.
func (f *CloudFirewall) Check() error {
	if !firewallName.MatchString(f.Name) {
		return Errorf(Invalid, "name is %.60q, want 1 to 255 letters, digits, . and -, of which the first is a letter or digit", f.Name)
	}
	for i, tag := range f.Tags {
		if err := CheckTag(tag); err != nil {
			return Errorf(Invalid, "tags[%d]: %w", i, err)
		}
	}
	if n := len(f.Inbound) + len(f.Outbound); n > maxFirewallRules {
		return Errorf(Invalid, "inbound_rules and outbound_rules have %d rules, at most %d are allowed: use ranges of ports, or another firewall", n, maxFirewallRules)
	}
	addresses := 0
	return f.EachRule(func(field, peers string, r *FirewallRule) error {
		if addresses += len(r.Peers.Addresses); addresses > maxFirewallAddresses {
			return Errorf(Invalid, "%s.%s.addresses: the firewall has more than %d addresses: use CIDRs, or another firewall", field, peers, maxFirewallAddresses)
		}
		if err := r.check(peers); err != nil {
			return Errorf(Invalid, "%s.%w", field, err)
		}
		return nil
	})
}

// EachRule calls do for each rule, with what it and its peers are called, until there is an error.
func (f *CloudFirewall) EachRule(do func(field, peers string, r *FirewallRule) error) error {
	for i := range f.Inbound {
		if err := do(fmt.Sprintf("inbound_rules[%d]", i), "sources", &f.Inbound[i]); err != nil {
			return err
		}
	}
	for i := range f.Outbound {
		if err := do(fmt.Sprintf("outbound_rules[%d]", i), "destinations", &f.Outbound[i]); err != nil {
			return err
		}
	}
	return nil
}

// check returns what is wrong with a rule, beginning with the name of the field.
func (r *FirewallRule) check(peers string) error {
	switch r.Transport {
	case OverTCP, OverUDP:
	case OverICMP:
		if r.Ports != (Ports{}) {
			return Errorf(Invalid, "ports is %q: ICMP has no ports, leave it out or use 0", r.Ports)
		}
	default:
		return Errorf(Invalid, "protocol is %.40q, want tcp, udp or icmp", r.Transport)
	}
	for i, text := range r.Peers.Addresses {
		if _, err := ParsePeer(text); err != nil {
			return Errorf(Invalid, "%s.addresses[%d]: %w", peers, i, err)
		}
	}
	for i, tag := range r.Peers.Tags {
		if err := CheckTag(tag); err != nil {
			return Errorf(Invalid, "%s.tags[%d]: %w", peers, i, err)
		}
	}
	return nil
}

// CloudFirewallPhase says whether a firewall is live.
type CloudFirewallPhase string

// The phases of a firewall, in DigitalOcean's words.
const (
	FirewallWaiting   CloudFirewallPhase = "waiting"
	FirewallSucceeded CloudFirewallPhase = "succeeded" // every machine that it is for has its rules, and no other
	FirewallFailed    CloudFirewallPhase = "failed"    // a machine cannot be given them yet; Err says why
)

// CloudFirewallStatus is how far a firewall is.
type CloudFirewallStatus struct {
	Phase   CloudFirewallPhase `json:"phase"`
	Err     string             `json:"err,omitempty"`
	Changes []FirewallChange   `json:"changes,omitempty"` // what is still to be done, by machine
}

// FirewallChange is a machine that does not have a firewall's rules yet, or still has them.
type FirewallChange struct {
	Machine  ID                 `json:"machine"`
	Removing bool               `json:"removing,omitempty"`
	Phase    CloudFirewallPhase `json:"phase"` // waiting or failed
}
