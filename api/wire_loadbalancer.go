package api

import (
	"cmp"
	"encoding/json"
	"math"
	"strings"
	"time"

	"weir/weir"
)

// ForwardingRule is a load balancer's rule in DigitalOcean's words.
type ForwardingRule struct {
	EntryProtocol  string `json:"entry_protocol"`
	EntryPort      int    `json:"entry_port"`
	TargetProtocol string `json:"target_protocol"`
	TargetPort     int    `json:"target_port"`
	CertificateID  string `json:"certificate_id"`
	TLSPassthrough bool   `json:"tls_passthrough"`
}

// HealthCheck is a load balancer's health check in DigitalOcean's words. A zero field
// has DigitalOcean's default.
type HealthCheck struct {
	Protocol               string `json:"protocol"`
	Port                   int    `json:"port"`
	Path                   string `json:"path"`
	CheckIntervalSeconds   int64  `json:"check_interval_seconds"`
	ResponseTimeoutSeconds int64  `json:"response_timeout_seconds"`
	UnhealthyThreshold     int    `json:"unhealthy_threshold"`
	HealthyThreshold       int    `json:"healthy_threshold"`
	ProxyProtocol          *bool  `json:"proxy_protocol,omitempty"` // of a target group: the load balancer's if left out; always answered
}

type loadBalancerWire struct {
	ID                           weir.ID          `json:"id"`
	Name                         string           `json:"name"`
	IP                           string           `json:"ip"`
	IPv6                         string           `json:"ipv6"`
	SizeUnit                     int              `json:"size_unit"`
	Type                         string           `json:"type"`
	Algorithm                    string           `json:"algorithm"`
	Status                       string           `json:"status"`
	Created                      string           `json:"created_at"`
	ForwardingRules              []ForwardingRule `json:"forwarding_rules"`
	HealthCheck                  HealthCheck      `json:"health_check"`
	StickySessions               StickySessions   `json:"sticky_sessions"`
	Region                       regionWire       `json:"region"`
	Tag                          string           `json:"tag"`
	Tags                         []string         `json:"tags"`
	DropletIDs                   []int64          `json:"droplet_ids"`
	RedirectHTTPToHTTPS          bool             `json:"redirect_http_to_https"`
	EnableProxyProtocol          bool             `json:"enable_proxy_protocol"`
	EnableBackendKeepalive       bool             `json:"enable_backend_keepalive"`
	HTTPIdleTimeoutSeconds       int64            `json:"http_idle_timeout_seconds"`
	VPCUUID                      weir.ID          `json:"vpc_uuid"`
	DisableLetsEncryptDNSRecords bool             `json:"disable_lets_encrypt_dns_records"`
	ProjectID                    weir.ID          `json:"project_id"`
	Firewall                     Firewall         `json:"firewall"`
	Network                      string           `json:"network"`
	NetworkStack                 string           `json:"network_stack"`
	TLSCipherPolicy              string           `json:"tls_cipher_policy"`

	Weir LoadBalancerWeir `json:"weir,omitzero"`
}

// LoadBalancerWeir is what DigitalOcean has no word for: what the load balancer does, and how it is.
type LoadBalancerWeir struct {
	BalancerPolicy

	Drained  []Drained `json:"drained,omitempty"`  // droplets that get no requests, until they are undrained
	Plan     []string  `json:"plan,omitempty"`     // the steps still to be taken
	Err      string    `json:"error,omitempty"`    // why it cannot be as asked
	Deleting bool      `json:"deleting,omitempty"` // it goes away by itself
}

// loadBalancerWords puts a load balancer in DigitalOcean's words. One that goes by a tag
// shows the droplets of all that it now means.
func (a *api) loadBalancerWords(lb weir.LoadBalancer, all []weir.Machine) loadBalancerWire {
	w := loadBalancerWire{ID: lb.ID, Name: lb.Name, SizeUnit: lb.WantActive(), Type: "REGIONAL", Algorithm: string(lb.Algorithm),
		Status: string(lb.Status.Phase), Created: timeWire(lb.Created), ForwardingRules: ruleWords(lb.Rules),
		StickySessions: stickyWords(lb.Sticky), Region: a.catalog.region, Tag: lb.Tag, Tags: some(lb.Tags), DropletIDs: []int64{},
		DisableLetsEncryptDNSRecords: lb.NoRecords,
		RedirectHTTPToHTTPS:          lb.Redirect, EnableProxyProtocol: lb.Proxy, EnableBackendKeepalive: lb.KeepAlive,
		HTTPIdleTimeoutSeconds: int64(lb.Idle / time.Second), Firewall: Firewall{some(lb.Clients.Deny), some(lb.Clients.Allow)},
		Network: networkOf(&lb), NetworkStack: stackOf(&lb), TLSCipherPolicy: string(cmp.Or(lb.Ciphers, weir.DefaultCiphers)),
		HealthCheck: healthWords(lb.Health), VPCUUID: a.vpcID(), ProjectID: lb.Place.Project,
		Weir: LoadBalancerWeir{policyWords(&lb.Policy), drainedWords(&lb.Policy), lb.Status.Plan, lb.Status.Err, !lb.Deleting.IsZero()}}
	if w.Status == "" {
		w.Status = string(weir.LoadBalancerNew)
	}
	if lb.Status.Address.IsValid() {
		w.IP = lb.Status.Address.String()
	}
	if lb.Status.Addr6.IsValid() {
		w.IPv6 = lb.Status.Addr6.String()
	}
	if lb.Tag == "" {
		w.DropletIDs = make([]int64, 0, len(lb.Machines))
		for _, id := range lb.Machines {
			w.DropletIDs = append(w.DropletIDs, number(id))
		}
		return w
	}
	for _, m := range all {
		if lb.TargetsIn("", &m) && m.Deleting.IsZero() {
			w.DropletIDs = append(w.DropletIDs, number(m.ID))
		}
	}
	return w
}

func ruleWords(rules []weir.Rule) []ForwardingRule {
	words := make([]ForwardingRule, len(rules))
	for i, r := range rules {
		words[i] = ForwardingRule{EntryProtocol: string(r.Entry), EntryPort: r.EntryPort, TargetProtocol: string(r.Target), TargetPort: r.TargetPort,
			CertificateID: string(r.Certificate), TLSPassthrough: r.Passthrough}
	}
	return words
}

func stickyWords(s *weir.Sticky) StickySessions {
	if s == nil {
		return StickySessions{Type: "none"}
	}
	return StickySessions{"cookies", s.Cookie, int64(s.TTL / time.Second)}
}

func healthWords(h weir.HealthCheck) HealthCheck {
	return HealthCheck{Protocol: string(h.Protocol), Port: h.Port, Path: h.Path,
		CheckIntervalSeconds: int64(h.Interval / time.Second), ResponseTimeoutSeconds: int64(h.Timeout / time.Second),
		UnhealthyThreshold: h.Unhealthy, HealthyThreshold: h.Healthy, ProxyProtocol: &h.Proxy}
}

// BalancerOptions are what a load balancer does beyond forwarding, in DigitalOcean's words.
type BalancerOptions struct {
	RedirectHTTPToHTTPS    bool            `json:"redirect_http_to_https,omitempty"`   // by 307; at port 80 too if no rule has it
	TLSCipherPolicy        string          `json:"tls_cipher_policy,omitempty"`        // DEFAULT
	StickySessions         *StickySessions `json:"sticky_sessions,omitempty"`          // none
	EnableProxyProtocol    bool            `json:"enable_proxy_protocol,omitempty"`    // droplets are told who a client is by a PROXY header (version 1)
	EnableBackendKeepalive bool            `json:"enable_backend_keepalive,omitempty"` // all clients share connections to droplets
	Firewall               *Firewall       `json:"firewall,omitempty"`                 // everybody is let in
}

// StickySessions says whether clients stay with a server, in DigitalOcean's words.
type StickySessions struct {
	Type             string `json:"type"`                         // none or cookies
	CookieName       string `json:"cookie_name,omitempty"`        // DO-LB
	CookieTTLSeconds int64  `json:"cookie_ttl_seconds,omitempty"` // 300
}

// Firewall says who is let in, in DigitalOcean's words.
type Firewall struct {
	Deny  []string `json:"deny"`  // never let in: "ip:1.2.3.4", "cidr:1.2.0.0/16"
	Allow []string `json:"allow"` // if there are any, nobody else is let in
}

// set makes lb do what o says, and returns why it cannot.
func (o *BalancerOptions) set(lb *weir.LoadBalancer) (err error) {
	if lb.Sticky, err = stickyOf(o.StickySessions); err != nil {
		return err
	}
	lb.Redirect, lb.Proxy, lb.KeepAlive = o.RedirectHTTPToHTTPS, o.EnableProxyProtocol, o.EnableBackendKeepalive
	lb.Clients = weir.Clients{}
	if o.Firewall != nil {
		lb.Clients = weir.Clients{Allow: o.Firewall.Allow, Deny: o.Firewall.Deny}
	}
	// Terraform's provider takes these words in any case.
	lb.Ciphers = weir.CipherPolicy(strings.ToUpper(o.TLSCipherPolicy))
	if lb.Ciphers == weir.DefaultCiphers {
		lb.Ciphers = ""
	}
	return nil
}

// optionsOf returns what lb does beyond forwarding.
func optionsOf(lb *weir.LoadBalancer) BalancerOptions {
	o := BalancerOptions{RedirectHTTPToHTTPS: lb.Redirect, TLSCipherPolicy: string(lb.Ciphers), EnableProxyProtocol: lb.Proxy, EnableBackendKeepalive: lb.KeepAlive}
	if lb.Sticky != nil {
		sticky := stickyWords(lb.Sticky)
		o.StickySessions = &sticky
	}
	if len(lb.Clients.Allow)+len(lb.Clients.Deny) > 0 {
		o.Firewall = &Firewall{some(lb.Clients.Deny), some(lb.Clients.Allow)}
	}
	return o
}

// loadBalancerRequest is the body that creates or replaces a load balancer.
type loadBalancerRequest struct {
	Name                   string           `json:"name"`
	Region                 string           `json:"region"`
	Algorithm              string           `json:"algorithm"`
	ForwardingRules        []ForwardingRule `json:"forwarding_rules"`
	HealthCheck            *HealthCheck     `json:"health_check"`
	DropletIDs             []int64          `json:"droplet_ids"`
	Tag                    string           `json:"tag"`
	Tags                   []string         `json:"tags"` // nil leaves them as they are
	HTTPIdleTimeoutSeconds int64            `json:"http_idle_timeout_seconds"`
	ValidateOnly           bool             `json:"validate_only"`

	Network      string `json:"network"`       // when creating, EXTERNAL if left out, or INTERNAL; later it may be said again
	NetworkStack string `json:"network_stack"` // when creating; later it may be said again

	DisableLetsEncryptDNSRecords bool `json:"disable_lets_encrypt_dns_records"` // Weir makes none

	BalancerOptions

	Weir *BalancerPolicy `json:"weir"` // nil leaves it as it is

	// Weir has but one word for most of these: see refuse.
	Size                  string   `json:"size"`
	SizeUnit              int64    `json:"size_unit"`
	Type                  string   `json:"type"`
	VPCUUID               string   `json:"vpc_uuid"`
	SubnetUUID            string   `json:"subnet_uuid"`
	ProjectID             string   `json:"project_id"`
	Domains               anything `json:"domains"`
	GLBSettings           anything `json:"glb_settings"`
	TargetLoadBalancerIDs anything `json:"target_load_balancer_ids"`
	IP                    string   `json:"ip"` // when creating
}

// UnmarshalJSON refuses a field of weir that there is none of: what is left out is not done, so that a slip in the name of
// basic_auth would open the door. All else that is unknown is ignored, as DigitalOcean does.
func (q *loadBalancerRequest) UnmarshalJSON(data []byte) error {
	type plain loadBalancerRequest
	if err := json.Unmarshal(data, (*plain)(q)); err != nil {
		return err
	}
	var given struct {
		Weir json.RawMessage `json:"weir"`
	}
	if json.Unmarshal(data, &given) != nil || q.Weir == nil {
		return nil
	}
	// What is answered beside the policy may be put back with it.
	if name := stranger(given.Weir, new(LoadBalancerWeir)); name != "" {
		return invalid("weir has %.80s in it, which is no field of what a load balancer does", name)
	}
	return nil
}

// The words for the families that a load balancer is reached by.
const (
	stackIPv4 = "IPV4"
	stackDual = "DUALSTACK"
)

// The words for where a load balancer is reached from.
const (
	networkExternal = "EXTERNAL"
	networkInternal = "INTERNAL"
)

func networkOf(lb *weir.LoadBalancer) string {
	if lb.Internal {
		return networkInternal
	}
	return networkExternal
}

func stackOf(lb *weir.LoadBalancer) string {
	if lb.Dual {
		return stackDual
	}
	return stackIPv4
}

// refuse returns why Weir cannot honour q, if it asks for what Weir does not have.
func (q *loadBalancerRequest) refuse() error {
	// Terraform's provider takes these words in any case.
	is := func(word, want string) bool { return word == "" || strings.EqualFold(word, want) }
	switch {
	case strings.EqualFold(q.Type, "REGIONAL_NETWORK"):
		return invalid("type is %q: Weir does not pass packets through yet, use REGIONAL with rules of the protocol tcp", q.Type)
	case strings.EqualFold(q.Type, "GLOBAL"):
		return invalid("type is %q: this Weir is one region, use REGIONAL here and name its address in your DNS", q.Type)
	case !is(q.Type, "REGIONAL"):
		return invalid("type is %.40q, want REGIONAL", q.Type)
	case !is(q.Network, networkExternal) && !is(q.Network, networkInternal):
		return invalid("network is %.40q, want EXTERNAL or INTERNAL", q.Network)
	case !is(q.NetworkStack, stackIPv4) && !is(q.NetworkStack, stackDual):
		return invalid("network_stack is %.40q, want IPV4 or DUALSTACK", q.NetworkStack)
	case q.SubnetUUID != "":
		return invalid("subnet_uuid is %.40q: a region of Weir has one private network without subnets, leave it out", q.SubnetUUID)
	case bool(q.Domains):
		return invalid("domains is not empty: it is for global load balancers, and this Weir is one region; leave it out")
	case bool(q.GLBSettings):
		return invalid("glb_settings is not empty: it is for global load balancers, and this Weir is one region; leave it out")
	case bool(q.TargetLoadBalancerIDs):
		return invalid("target_load_balancer_ids is not empty: it is for global load balancers, and this Weir is one region; leave it out")
	}
	return nil
}

// sizes are how many nodes a size stands for, as DigitalOcean says.
var sizes = map[string]int64{"lb-small": 1, "lb-medium": 3, "lb-large": 6}

// actives returns how many active instances q asks for, 1 if it does not say, or why there cannot be so many.
func (q *loadBalancerRequest) actives() (int, error) {
	n, known := sizes[q.Size]
	switch {
	case q.Size != "" && !known:
		return 0, invalid("size is %.40q, want lb-small, lb-medium or lb-large, or leave it out", q.Size)
	case q.Size != "" && q.SizeUnit != 0 && q.SizeUnit != n:
		return 0, invalid("size is %q, which is a size_unit of %d, and size_unit is %d: leave size out", q.Size, n, q.SizeUnit)
	case q.SizeUnit < 0 || q.SizeUnit > 200:
		return 0, invalid("size_unit is %d, want 1 to 200", q.SizeUnit)
	}
	return int(max(n, q.SizeUnit, 1)), nil
}

// set makes lb what q asks for, and returns why it cannot be. What q leaves out gets its
// default: q replaces.
func (q *loadBalancerRequest) set(lb *weir.LoadBalancer, region string) error {
	if err := q.refuse(); err != nil {
		return err
	}
	rules, err := rulesOf(q.ForwardingRules)
	if err != nil {
		return err
	}
	health := healthOf(q.HealthCheck)
	machines, err := machineIDs(q.DropletIDs)
	if err != nil {
		return err
	}
	if lb.Actives, err = q.actives(); err != nil {
		return err
	}
	switch {
	case lb.ID == "":
		lb.Dual, lb.Internal = strings.EqualFold(q.NetworkStack, stackDual), strings.EqualFold(q.Network, networkInternal)
	case q.Network != "" && !strings.EqualFold(q.Network, networkOf(lb)):
		return invalid("network is %q, and load balancer %q has %s, which stays as it was created: leave it out, or create another load balancer", q.Network, lb.Name, networkOf(lb))
	case q.NetworkStack != "" && !strings.EqualFold(q.NetworkStack, stackOf(lb)):
		return invalid("network_stack is %q, and load balancer %q has %s, which stays as it was created: leave it out, or create another load balancer", q.NetworkStack, lb.Name, stackOf(lb))
	}
	lb.Name, lb.Region = q.Name, regionOf(q.Region, region)
	lb.Algorithm = algorithmOf(q.Algorithm)
	lb.Rules, lb.Health, lb.Machines, lb.Tag = rules, health, machines, q.Tag
	lb.NoRecords = q.DisableLetsEncryptDNSRecords
	if err := q.BalancerOptions.set(lb); err != nil {
		return err
	}
	if q.Weir != nil {
		if err := q.Weir.set(lb, lb.Policy.Handling.Login); err != nil {
			return err
		}
	}
	if q.Tags != nil {
		lb.Tags = join(nil, q.Tags)
	}
	lb.Idle = seconds(q.HTTPIdleTimeoutSeconds, weir.DefaultIdle)
	if project := weir.ID(q.ProjectID); project != "" && project != lb.Place.Project {
		lb.Place = weir.Place{Project: project, Since: time.Now().UTC()}
	}
	return lb.Check(region)
}

func algorithmOf(name string) weir.Algorithm {
	return cmp.Or(weir.Algorithm(name), weir.RoundRobin)
}

func rulesOf(wire []ForwardingRule) ([]weir.Rule, error) {
	var rules []weir.Rule
	for i, r := range wire {
		entry, target := strings.ToLower(r.EntryProtocol), strings.ToLower(r.TargetProtocol)
		switch {
		case entry == "http3" || target == "http3":
			return nil, invalid("forwarding_rules[%d].entry_protocol is %q: the HAProxy of Weir's instances is built without QUIC, use http2", i, r.EntryProtocol)
		case entry == "udp" || target == "udp":
			return nil, invalid("forwarding_rules[%d].entry_protocol is %q: Weir does not balance UDP yet, use tcp or http", i, r.EntryProtocol)
		}
		rules = append(rules, weir.Rule{Entry: weir.Protocol(entry), EntryPort: r.EntryPort,
			Target: weir.Protocol(target), TargetPort: r.TargetPort, Certificate: weir.ID(r.CertificateID), Passthrough: r.TLSPassthrough})
	}
	return rules, nil
}

// stickyOf returns how clients stay with a server, nil if they do not. Cookies have DigitalOcean's name and life unless they
// are given others.
func stickyOf(w *StickySessions) (*weir.Sticky, error) {
	if w == nil {
		return nil, nil
	}
	switch strings.ToLower(w.Type) {
	case "", "none":
		return nil, nil
	case "cookies":
		s := weir.DefaultSticky()
		s.Cookie, s.TTL = cmp.Or(w.CookieName, s.Cookie), seconds(w.CookieTTLSeconds, s.TTL)
		return s, nil
	}
	return nil, invalid("sticky_sessions.type is %.40q, want none or cookies", w.Type)
}

// healthOf fills what a health check leaves out. A tcp check has no path.
func healthOf(w *HealthCheck) weir.HealthCheck {
	if w == nil {
		return weir.DefaultCheck()
	}
	return w.over(weir.DefaultCheck(), 0)
}

// seconds returns n seconds, or other for none. A number too large for a time becomes
// the largest, which no rule allows.
func seconds(n int64, other time.Duration) time.Duration {
	const most = math.MaxInt64 / int64(time.Second)
	if n == 0 {
		return other
	}
	return time.Duration(min(max(n, -most), most)) * time.Second
}
