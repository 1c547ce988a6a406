package weir

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Protocol is what a forwarding rule or a health check speaks.
type Protocol string

// The protocols that load balancers speak.
const (
	HTTP  Protocol = "http"
	HTTPS Protocol = "https" // HTTP/1.1 over TLS
	HTTP2 Protocol = "http2" // HTTP/2 over TLS, and HTTP/1.1 for who does not speak it
	TCP   Protocol = "tcp"
)

// Secure reports whether p is spoken over TLS.
func (p Protocol) Secure() bool { return p == HTTPS || p == HTTP2 }

// Algorithm says how a load balancer picks a server.
type Algorithm string

// The algorithms, in DigitalOcean's words.
const (
	RoundRobin       Algorithm = "round_robin"
	LeastConnections Algorithm = "least_connections"
)

// Rule forwards what arrives on a port of the load balancer to a port of its servers.
type Rule struct {
	Entry       Protocol `json:"entry"`
	EntryPort   int      `json:"entry_port"`
	Target      Protocol `json:"target"`
	TargetPort  int      `json:"target_port"`
	Certificate ID       `json:"certificate,omitempty"` // that TLS is ended with
	Passthrough bool     `json:"passthrough,omitempty"` // TLS is the servers' to end
}

// besides reports whether r is at the port of other by right: they are the same but for their certificates, of which
// a client is shown the one for the name that it asks for.
func (r *Rule) besides(other Rule) bool {
	same := *r
	same.Certificate = other.Certificate
	return same == other && r.Certificate != other.Certificate && r.Certificate != ""
}

// Mode returns what a load balancer has to understand of what clients send, and of what servers are sent: HTTP, or
// nothing but TCP.
func (r *Rule) Mode() Protocol {
	if r.Entry == TCP || r.Passthrough {
		return TCP
	}
	return HTTP
}

// Sticky has each client stay with a server by a cookie.
type Sticky struct {
	Cookie string        `json:"cookie"`
	TTL    time.Duration `json:"ttl"` // for which a client keeps it
}

// DefaultSticky is what DigitalOcean's load balancers stick clients to servers with unless a user says otherwise.
func DefaultSticky() *Sticky { return &Sticky{Cookie: "DO-LB", TTL: 300 * time.Second} }

// Clients says which clients a load balancer accepts connections from, in DigitalOcean's words: "ip:1.2.3.4",
// "cidr:1.2.0.0/16". Where there is something in Allow, nobody else; and never who is in Deny.
type Clients struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

// CipherPolicy says which ciphers TLS is ended with.
type CipherPolicy string

// The cipher policies, in DigitalOcean's words. The zero value is the default one.
const (
	DefaultCiphers CipherPolicy = "DEFAULT"
	StrongCiphers  CipherPolicy = "STRONG"
)

// HealthCheck decides which servers get traffic.
type HealthCheck struct {
	Protocol  Protocol      `json:"protocol"`
	Port      int           `json:"port"`
	Path      string        `json:"path,omitempty"`  // of HTTP and HTTPS
	Proxy     bool          `json:"proxy,omitempty"` // it begins with a PROXY header
	Interval  time.Duration `json:"interval"`
	Timeout   time.Duration `json:"timeout"`
	Unhealthy int           `json:"unhealthy"` // failures in a row that take a server out
	Healthy   int           `json:"healthy"`   // successes in a row that bring it back
}

// AddressMode says how a load balancer's address gets to its active instance.
type AddressMode string

// The address modes. The zero value is InCloud.
const (
	InCloud   AddressMode = ""    // one that the cloud reserves, and leads to one machine, or spreads over several
	OnSegment AddressMode = "arp" // the active instance holds it on a network segment, by ARP or NDP
)

// MinInstances is how many instances a load balancer has at the least: one that is active
// and one that stands by.
const MinInstances = 2

// LoadBalancer spreads traffic to one address over machines.
type LoadBalancer struct {
	ID        ID            `json:"id"`
	Team      ID            `json:"team,omitempty"`
	Name      string        `json:"name"` // unique in a team
	Region    string        `json:"region"`
	Size      string        `json:"size"`              // of each instance
	Instances int           `json:"instances"`         // how many machines run it; WantInstances is the least
	Actives   int           `json:"actives,omitempty"` // how many of them have its address at the same time; fewer than 1 count as that
	Algorithm Algorithm     `json:"algorithm"`
	Rules     []Rule        `json:"rules"`
	Health    HealthCheck   `json:"health"`
	Sticky    *Sticky       `json:"sticky,omitempty"`
	Redirect  bool          `json:"redirect,omitempty"`   // HTTP is redirected to HTTPS
	Proxy     bool          `json:"proxy,omitempty"`      // servers are told who a client is by a PROXY header
	KeepAlive bool          `json:"keep_alive,omitempty"` // connections to servers are shared by all clients
	Clients   Clients       `json:"clients,omitzero"`
	Ciphers   CipherPolicy  `json:"ciphers,omitempty"`
	ACME      bool          `json:"acme,omitempty"`       // a rule has a certificate that Weir gets by itself, and port 80 is open for who issues it
	Idle      time.Duration `json:"idle"`                 // a connection without traffic is closed after this
	Tags      []string      `json:"tags,omitempty"`       // its own, by which it is found; its servers' is Tag
	NoRecords bool          `json:"no_records,omitempty"` // nobody is to make DNS records for it; Weir makes none
	Machines  []ID          `json:"machines,omitempty"`   // its targets by ID …
	Tag       string        `json:"tag,omitempty"`        // … or by tag …
	Servers   []netip.Addr  `json:"servers,omitempty"`    // … or by address, where they are no machines of Weir's
	Mode      AddressMode   `json:"mode,omitempty"`
	Addr      netip.Prefix  `json:"addr,omitzero"`      // OnSegment: its address, with the length of the segment's prefix
	Serial    int           `json:"serial,omitempty"`   // the last number given to an instance; none is given twice
	Revision  int64         `json:"revision,omitempty"` // of the NodeConfigs last made for its instances
	Key       []byte        `json:"key,omitempty"`      // authenticates the heartbeats of its instances
	Reload    int64         `json:"reload,omitempty"`   // raised to have every instance load its configuration anew
	Wanted    ID            `json:"wanted,omitempty"`   // a user asked for this instance to be the active one …
	WantedAt  time.Time     `json:"wanted_at,omitzero"` // … at that time
	Dual      bool          `json:"dual,omitempty"`     // InCloud: it has an address of IPv6 too
	Internal  bool          `json:"internal,omitempty"` // InCloud: its address is of the private network, and reached from there alone
	Policy    Policy        `json:"policy,omitzero"`    // what DigitalOcean has no word for
	Created   time.Time     `json:"created"`
	Deleting  time.Time     `json:"deleting,omitzero"`
	Place     Place         `json:"place,omitzero"` // the project that it is in

	Status LoadBalancerStatus `json:"status"`
}

// WantActive returns how many instances are to have the address at the same time.
func (lb *LoadBalancer) WantActive() int { return max(lb.Actives, 1) }

// WantInstances returns how many instances there are to be: those that are active, and at least one that stands by.
func (lb *LoadBalancer) WantInstances() int {
	return max(lb.Instances, lb.WantActive()+1, MinInstances)
}

// LoadBalancerPhase says how far a load balancer is.
type LoadBalancerPhase string

// The phases of a load balancer, in DigitalOcean's words.
const (
	LoadBalancerNew     LoadBalancerPhase = "new"     // not yet as it was last asked to be; Plan says what is missing
	LoadBalancerActive  LoadBalancerPhase = "active"  // it was as asked: live on all its instances, and its address answered
	LoadBalancerErrored LoadBalancerPhase = "errored" // it cannot be as asked, or its address answers no more; Err says why
)

// LoadBalancerStatus is what was last seen of a load balancer.
type LoadBalancerStatus struct {
	Phase   LoadBalancerPhase `json:"phase"`
	Address netip.Addr        `json:"address,omitzero"` // its reserved IP, or its address of the private network
	Addr6   netip.Addr        `json:"addr6,omitzero"`   // that of IPv6, if it has one
	Plan    []string          `json:"plan,omitempty"`   // the steps still to be taken
	Err     string            `json:"err,omitempty"`

	Active   ID          `json:"active,omitempty"`   // the instance that was last given the address …
	Sharing  []ID        `json:"sharing,omitempty"`  // … and those that were given a share of it
	Since    time.Time   `json:"since,omitzero"`     // when
	Failover *Failover   `json:"failover,omitempty"` // the last one
	Moves    []time.Time `json:"moves,omitempty"`    // when the address last moved without being asked to, oldest first
	Health   []Health    `json:"health,omitempty"`   // of its instances, by machine

	// Regroup is that a host is up again on which an instance was: if all that there are now are on one host, that is to be changed.
	Regroup bool `json:"regroup,omitempty"`
}

// Actives returns the instances that were last given the address, or a share of it.
func (s *LoadBalancerStatus) Actives() []ID {
	if s.Active == "" {
		return nil
	}
	return append([]ID{s.Active}, s.Sharing...)
}

// Failover is one move of a load balancer's address from one instance to another.
type Failover struct {
	At       time.Time     `json:"at"` // when it was decided
	From     ID            `json:"from,omitempty"`
	FromName string        `json:"from_name,omitempty"` // the machine may be gone
	To       ID            `json:"to"`
	ToName   string        `json:"to_name"`
	Planned  bool          `json:"planned"` // nothing was broken: a user, or a repair, asked for it
	Why      string        `json:"why"`
	Took     time.Duration `json:"took,omitempty"` // from the decision until the address was seen to have moved; 0 until then
}

// HealthState says what the control plane thinks of an instance.
type HealthState string

// The states of an instance.
const (
	InstanceBoots   HealthState = "boots"   // it has not served yet
	InstanceWell    HealthState = "well"    // it serves, or could at once
	InstanceDrained HealthState = "drained" // it is well, and an operator keeps it from serving
	InstanceUnwell  HealthState = "unwell"  // it lives and cannot serve as its peer could
	InstanceSilent  HealthState = "silent"  // nobody who asks it hears of it
	InstanceGone    HealthState = "gone"    // its cloud says that it is off, or not there
)

// Phrase returns s as what is said of an instance: "boots", "is silent".
func (s HealthState) Phrase() string {
	if s == InstanceBoots {
		return string(s)
	}
	return "is " + string(s)
}

// Health is one instance as the control plane judges it.
type Health struct {
	Machine ID          `json:"machine"`
	State   HealthState `json:"state"`
	Why     string      `json:"why,omitempty"` // it is not well
	Since   time.Time   `json:"since"`

	Has  bool      `json:"has,omitempty"` // it has the address, or a share of it
	Left time.Time `json:"left,omitzero"` // when it was seen to have it no more; zero if it has, or never had
}

// DefaultCheck is the health check of DigitalOcean's load balancers.
func DefaultCheck() HealthCheck {
	return HealthCheck{Protocol: HTTP, Port: 80, Path: "/", Interval: 10 * time.Second,
		Timeout: 5 * time.Second, Unhealthy: 3, Healthy: 5}
}

// DefaultIdle is how long a connection may be without traffic unless a user says otherwise.
const DefaultIdle = 60 * time.Second

// DefaultNodeSize is the size of a load balancer's instances unless a user says otherwise.
const DefaultNodeSize = "s-1vcpu-1gb"

// Targets reports whether m is one of lb's servers, its own or a group's, whatever its state. Another team's never is.
func (lb *LoadBalancer) Targets(m *Machine) bool {
	return lb.TargetsIn("", m) || slices.ContainsFunc(lb.Policy.Groups, func(g TargetGroup) bool { return lb.TargetsIn(g.Name, m) })
}

// TargetsIn reports whether m is one of the servers of that group of lb's, or with "" one of its own targets.
func (lb *LoadBalancer) TargetsIn(group string, m *Machine) bool {
	if m.LoadBalancer != "" || m.Team != lb.Team {
		return false
	}
	machines, tag := lb.Machines, lb.Tag
	if group != "" {
		g := lb.Policy.Group(group)
		if g == nil {
			return false
		}
		machines, tag = g.Machines, g.Tag
	}
	if tag != "" {
		return m.HasTag(tag)
	}
	return slices.Contains(machines, m.ID)
}

// TargetTags returns the tags by which lb chooses servers, its own and groups'.
func (lb *LoadBalancer) TargetTags() (tags []string) {
	if lb.Tag != "" {
		tags = append(tags, lb.Tag)
	}
	for _, g := range lb.Policy.Groups {
		if g.Tag != "" && !slices.Contains(tags, g.Tag) {
			tags = append(tags, g.Tag)
		}
	}
	return tags
}

// TargetMachines returns the machines that lb names as servers, its own and groups'.
func (lb *LoadBalancer) TargetMachines() []ID {
	ids := slices.Clone(lb.Machines)
	for _, g := range lb.Policy.Groups {
		for _, id := range g.Machines {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// NamesIn returns which list of machines names that one first, in the words of the API.
func (lb *LoadBalancer) NamesIn(machine ID) string {
	if !slices.Contains(lb.Machines, machine) {
		for i, g := range lb.Policy.Groups {
			if slices.Contains(g.Machines, machine) {
				return fmt.Sprintf("target_groups[%d].droplet_ids", i)
			}
		}
	}
	return "droplet_ids"
}

// Forget takes a machine out of all that lb names.
func (lb *LoadBalancer) Forget(machine ID) {
	is := func(id ID) bool { return id == machine }
	lb.Machines = slices.DeleteFunc(slices.Clone(lb.Machines), is)
	lb.Policy.Groups = slices.Clone(lb.Policy.Groups)
	for i := range lb.Policy.Groups {
		g := &lb.Policy.Groups[i]
		g.Machines = slices.DeleteFunc(slices.Clone(g.Machines), is)
	}
	if _, drained := lb.Policy.Drained[machine]; drained {
		lb.Policy.Drained = maps.Clone(lb.Policy.Drained)
		delete(lb.Policy.Drained, machine)
	}
}

// Uses reports whether a rule of lb has a certificate.
func (lb *LoadBalancer) Uses(certificate ID) bool {
	return slices.ContainsFunc(lb.Rules, func(r Rule) bool { return r.Certificate == certificate })
}

// HasTag reports whether lb itself has the tag; tags are compared without case.
func (lb *LoadBalancer) HasTag(tag string) bool {
	return slices.ContainsFunc(lb.Tags, func(t string) bool { return strings.EqualFold(t, tag) })
}

// Check returns why lb cannot be a load balancer in a region of that name. Limits are DigitalOcean's.
func (lb *LoadBalancer) Check(region string) error {
	bad := func(format string, args ...any) error {
		return Errorf(Invalid, "load balancer %q: "+format, append([]any{lb.Name}, args...)...)
	}
	if err := CheckName(lb.Name); err != nil {
		return Errorf(Invalid, "load balancer: %w", err)
	}
	if err := CheckName(lb.Name + "-lb-1000000"); err != nil {
		return bad("the name is too long: there is no room for the number of an instance behind it")
	}
	if lb.Region != region {
		return bad("region %q: the load balancers of this Weir are in region %q", lb.Region, region)
	}
	if _, ok := SizeOf(lb.Size); !ok {
		return bad("instance size %q is not offered", lb.Size)
	}
	if lb.Algorithm != RoundRobin && lb.Algorithm != LeastConnections {
		return bad("algorithm is %q, want round_robin or least_connections", lb.Algorithm)
	}
	if len(lb.Rules) == 0 {
		return bad("forwarding_rules is empty, want at least one rule")
	}
	for i, r := range lb.Rules {
		if err := r.check(); err != nil {
			return bad("forwarding_rules[%d].%w", i, err)
		}
		if r.EntryPort < 1 || r.EntryPort > 65535 {
			return bad("forwarding_rules[%d].entry_port is %d, want 1 to 65535", i, r.EntryPort)
		}
		if r.TargetPort < 1 || r.TargetPort > 65535 {
			return bad("forwarding_rules[%d].target_port is %d, want 1 to 65535", i, r.TargetPort)
		}
		if r.EntryPort == HealthPort {
			return bad("forwarding_rules[%d].entry_port is %d, where its instances answer health checks, want another", i, r.EntryPort)
		}
		for _, other := range lb.Rules[:i] {
			if other.EntryPort == r.EntryPort && !r.besides(other) {
				return bad("forwarding_rules[%d].entry_port is %d as in a rule before it, want another", i, r.EntryPort)
			}
		}
	}
	if err := lb.checkHTTP(); err != nil {
		return bad("%w", err)
	}
	if lb.Idle < 30*time.Second || lb.Idle > 600*time.Second {
		return bad("http_idle_timeout_seconds is %d, want 30 to 600", int(lb.Idle.Seconds()))
	}
	if lb.Tag != "" && len(lb.Machines) > 0 {
		return bad("it has both droplet_ids and a tag, want one of them")
	}
	if len(lb.Servers) > 0 && (lb.Tag != "" || len(lb.Machines) > 0) {
		return bad("it has servers by address and also by droplet_ids or a tag, want one of them")
	}
	if err := lb.checkAddress(); err != nil {
		return bad("%w", err)
	}
	if lb.Tag != "" {
		if err := CheckTag(lb.Tag); err != nil {
			return bad("%w", err)
		}
	}
	for _, tag := range lb.Tags {
		if err := CheckTag(tag); err != nil {
			return bad("tags: %w", err)
		}
	}
	if err := lb.Health.check(); err != nil {
		return bad("health_check: %w", err)
	}
	if err := lb.checkPolicy(); err != nil {
		return bad("%w", err)
	}
	return nil
}

// check returns what is wrong with what a rule speaks.
func (r *Rule) check() error {
	switch r.Entry {
	case HTTP, HTTPS, HTTP2, TCP:
	default:
		return Errorf(Invalid, "entry_protocol is %q, want http, https, http2 or tcp", r.Entry)
	}
	switch {
	case r.Passthrough && !r.Entry.Secure():
		return Errorf(Invalid, "tls_passthrough is true where entry_protocol is %q, want https or http2", r.Entry)
	case r.Passthrough && r.Target != r.Entry:
		return Errorf(Invalid, "target_protocol is %q where entry_protocol is %q and tls_passthrough is true, want the same", r.Target, r.Entry)
	case r.Passthrough && r.Certificate != "":
		return Errorf(Invalid, "certificate_id is %q where tls_passthrough is true, want one of them: droplets have their own certificates", r.Certificate)
	case r.Entry.Secure() && !r.Passthrough && r.Certificate == "":
		return Errorf(Invalid, "entry_protocol is %q and there is no certificate_id, want one, or tls_passthrough for droplets that have their own", r.Entry)
	case !r.Entry.Secure() && r.Certificate != "":
		return Errorf(Invalid, "certificate_id is %q where entry_protocol is %q, want https or http2", r.Certificate, r.Entry)
	case r.Entry == TCP && r.Target != TCP:
		return Errorf(Invalid, "target_protocol is %q where entry_protocol is \"tcp\", want the same", r.Target)
	case r.Entry != TCP && r.Target != HTTP && !r.Target.Secure():
		return Errorf(Invalid, "target_protocol is %q where entry_protocol is %q, want http, https or http2", r.Target, r.Entry)
	}
	return nil
}

// The limits of cookies, which are DigitalOcean's.
const (
	leastCookie, mostCookie = 2, 40
	mostTTL                 = 34650 * time.Second
)

// checkHTTP returns what is wrong with what lb does beyond forwarding.
func (lb *LoadBalancer) checkHTTP() error {
	has := func(fits func(*Rule) bool) bool {
		return slices.ContainsFunc(lb.Rules, func(r Rule) bool { return fits(&r) })
	}
	if s := lb.Sticky; s != nil {
		switch {
		case len(s.Cookie) < leastCookie || len(s.Cookie) > mostCookie || strings.Trim(s.Cookie, tokenChars) != "":
			return Errorf(Invalid, "sticky_sessions: cookie_name is %.60q, want %d to %d letters, digits, - and _", s.Cookie, leastCookie, mostCookie)
		case s.TTL < time.Second || s.TTL > mostTTL:
			return Errorf(Invalid, "sticky_sessions: cookie_ttl_seconds is %d, want 1 to %d", s.TTL/time.Second, mostTTL/time.Second)
		case !has(func(r *Rule) bool { return r.Mode() == HTTP }):
			return Errorf(Invalid, "sticky_sessions.type is cookies, and no forwarding rule has the load balancer speak HTTP, want type none")
		}
	}
	if lb.Redirect && !has(func(r *Rule) bool { return r.Entry.Secure() }) {
		return Errorf(Invalid, "redirect_http_to_https is true, and no forwarding rule has https or http2, want one")
	}
	if c := lb.Ciphers; c != "" && c != DefaultCiphers && c != StrongCiphers {
		return Errorf(Invalid, "tls_cipher_policy is %.40q, want DEFAULT or STRONG", c)
	}
	for list, texts := range map[string][]string{"allow": lb.Clients.Allow, "deny": lb.Clients.Deny} {
		if len(texts) > mostClients {
			return Errorf(Invalid, "firewall: %s has %d rules, want at most %d", list, len(texts), mostClients)
		}
		for _, text := range texts {
			if _, err := ParseClients(text); err != nil {
				return Errorf(Invalid, "firewall: %s: %w", list, err)
			}
		}
	}
	return nil
}

// mostClients is how many rules a list of clients has at most.
const mostClients = 1000

// tokenChars are what a cookie's name is made of.
const tokenChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// ParseClients returns which addresses a rule of Clients means.
func ParseClients(text string) (netip.Prefix, error) {
	kind, value, _ := strings.Cut(text, ":")
	switch kind {
	case "ip":
		if a, err := netip.ParseAddr(value); err == nil && a.Zone() == "" {
			return netip.PrefixFrom(a, a.BitLen()), nil
		}
	case "cidr":
		if p, err := netip.ParsePrefix(value); err == nil {
			return p.Masked(), nil
		}
	}
	return netip.Prefix{}, Errorf(Invalid, "%.60q, want an address or a network, such as ip:1.2.3.4 or cidr:1.2.0.0/16", text)
}

// checkAddress returns what is wrong with how clients and servers are reached.
func (lb *LoadBalancer) checkAddress() error {
	switch lb.Mode {
	case InCloud:
		if lb.Addr.IsValid() {
			return Errorf(Invalid, "address %s is given, and its cloud gives it one", lb.Addr)
		}
		if lb.Internal && lb.Dual {
			return Errorf(Invalid, "network_stack is DUALSTACK and network INTERNAL: the private network has IPv4 alone, want network_stack IPV4")
		}
	case OnSegment:
		if lb.Internal {
			return Errorf(Invalid, "network is internal and it has the address %s of one's own network: that says where it is reached, leave network out", lb.Addr)
		}
		a := lb.Addr.Addr()
		if !lb.Addr.IsValid() || !a.IsGlobalUnicast() || lb.Addr.IsSingleIP() {
			return Errorf(Invalid, "address is %q, want one with the length of its network's prefix, such as 192.0.2.10/24", lb.Addr)
		}
		if slices.Contains(lb.Servers, a) {
			return Errorf(Invalid, "server %s is the load balancer's own address", a)
		}
	default:
		return Errorf(Invalid, "address mode is %q, want \"arp\" or none", lb.Mode)
	}
	seen := map[netip.Addr]bool{}
	for _, a := range lb.Servers {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return Errorf(Invalid, "server %q is not an address, want one such as 192.0.2.21", a)
		}
		if seen[a] {
			return Errorf(Invalid, "server %s is there twice", a)
		}
		seen[a] = true
	}
	return nil
}

func (c *HealthCheck) check() error {
	seconds := func(d time.Duration) int { return int(d / time.Second) }
	switch {
	case c.Protocol != HTTP && c.Protocol != HTTPS && c.Protocol != TCP:
		return Errorf(Invalid, "protocol is %q, want http, https or tcp", c.Protocol)
	case c.Port < 1 || c.Port > 65535:
		return Errorf(Invalid, "port is %d, want 1 to 65535", c.Port)
	case c.Protocol != TCP && (!strings.HasPrefix(c.Path, "/") || len(c.Path) > 1024 || !plain(c.Path)):
		return Errorf(Invalid, "path is %.60q, want a path such as /health, with neither spaces nor control characters", c.Path)
	case c.Interval < 3*time.Second || c.Interval > 300*time.Second:
		return Errorf(Invalid, "check_interval_seconds is %d, want 3 to 300", seconds(c.Interval))
	case c.Timeout < 3*time.Second || c.Timeout > 300*time.Second:
		return Errorf(Invalid, "response_timeout_seconds is %d, want 3 to 300", seconds(c.Timeout))
	case c.Unhealthy < 2 || c.Unhealthy > 10:
		return Errorf(Invalid, "unhealthy_threshold is %d, want 2 to 10", c.Unhealthy)
	case c.Healthy < 2 || c.Healthy > 10:
		return Errorf(Invalid, "healthy_threshold is %d, want 2 to 10", c.Healthy)
	}
	return nil
}

// plain reports whether s is printable ASCII without spaces, as a path on the wire is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
