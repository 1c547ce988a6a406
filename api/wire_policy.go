package api

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

// BalancerPolicy is what a load balancer does that DigitalOcean's do not: a [weir.Policy] in words of the wire. What is
// left out is not done. It is what clients say, and what they are told, so that it can be read, edited and put back;
// passwords alone are not told.
type BalancerPolicy struct {
	Split              map[string]int      `json:"split,omitempty"`               // percentage of the requests that no route takes, by group; the load balancer's own droplets have the rest
	TargetGroups       []TargetGroup       `json:"target_groups,omitempty"`       // servers beside the load balancer's own droplets
	Routes             []Route             `json:"routes,omitempty"`              // the first that fits a request decides
	RequestHeaders     *HeaderChanges      `json:"request_headers,omitempty"`     // of all requests, before servers get them
	ResponseHeaders    *HeaderChanges      `json:"response_headers,omitempty"`    // of all responses, before clients get them
	Compression        bool                `json:"compression,omitempty"`         // texts are compressed for clients that take that
	ErrorPages         map[string]string   `json:"error_pages,omitempty"`         // HTML, by status: instead of the load balancer's own errors
	Maintenance        *Maintenance        `json:"maintenance,omitempty"`         // nobody is served while it is on
	RateLimit          *RateLimit          `json:"rate_limit,omitempty"`          // how often each client may ask
	ConnectionLimit    int                 `json:"connection_limit,omitempty"`    // how many connections each client may have at a time
	BasicAuth          *BasicAuth          `json:"basic_auth,omitempty"`          // clients log in by a name and a password
	ClientCertificates *ClientCertificates `json:"client_certificates,omitempty"` // clients show certificates
	AccessLog          *AccessLog          `json:"access_log,omitempty"`          // requests are logged, and have IDs
	SlowStartSeconds   int64               `json:"slow_start_seconds,omitempty"`  // a server that comes up gets its full share after this
	DrainSeconds       int64               `json:"drain_seconds,omitempty"`       // for which a server that leaves may finish its requests: 30 if left out
}

// AccessLog says what becomes of the access log. Whatever it says, each instance remembers its last lines, and whoever may
// read the load balancer can follow them.
type AccessLog struct {
	File   bool   `json:"file,omitempty"`   // each instance keeps files of them
	Syslog string `json:"syslog,omitempty"` // where instances send them, as in RFC 5424: udp://HOST:PORT or tcp://HOST:PORT; for an operator to set
	Sample int    `json:"sample,omitempty"` // one request of so many is logged; all if left out
}

// TargetGroup is servers beside a load balancer's own droplets.
type TargetGroup struct {
	Name        string         `json:"name"`                   // by which routes and splits mean it
	Tag         string         `json:"tag,omitempty"`          // its droplets have it …
	DropletIDs  []int64        `json:"droplet_ids,omitempty"`  // … or are named
	TargetPort  int            `json:"target_port,omitempty"`  // where its droplets take requests: the rule's if left out
	HealthCheck *HealthCheck   `json:"health_check,omitempty"` // the load balancer's if left out
	Split       map[string]int `json:"split,omitempty"`        // percentage of the requests that routes send here, by other groups
}

// Route says what becomes of requests for some hosts and paths.
type Route struct {
	Hosts           []string       `json:"hosts,omitempty"`            // names without ports, *.shop.example for all below one; any if left out
	Path            string         `json:"path,omitempty"`             // what paths begin with, by whole segments; any if left out
	Group           string         `json:"group,omitempty"`            // which target group gets them; the load balancer's own droplets if left out
	Redirect        *Redirect      `json:"redirect,omitempty"`         // they are answered with another URL, and no server gets them
	Rewrite         *Rewrite       `json:"rewrite,omitempty"`          // servers are asked for something else
	RequestHeaders  *HeaderChanges `json:"request_headers,omitempty"`  // beside those of the load balancer
	ResponseHeaders *HeaderChanges `json:"response_headers,omitempty"` // beside those of the load balancer
}

// Redirect is the URL that a request is answered with. What is left out stays as it was asked for.
type Redirect struct {
	Scheme     string `json:"scheme,omitempty"`      // http or https
	Host       string `json:"host,omitempty"`        // a name without a port
	Port       int    `json:"port,omitempty"`        // the scheme's if left out
	Path       string `json:"path,omitempty"`        // instead of all of the path …
	PathPrefix string `json:"path_prefix,omitempty"` // … or of what the route's path fits
	Status     int    `json:"status,omitempty"`      // 301, 302, 303, 307 or 308; 302 if left out
}

// Rewrite is what servers are asked for. What is left out stays as clients asked for it.
type Rewrite struct {
	Host       string `json:"host,omitempty"`        // a name without a port
	Path       string `json:"path,omitempty"`        // instead of all of the path …
	PathPrefix string `json:"path_prefix,omitempty"` // … or of what the route's path fits
}

// HeaderChanges are changes of headers.
type HeaderChanges struct {
	Set    map[string]string `json:"set,omitempty"`    // values by name
	Remove []string          `json:"remove,omitempty"` // names
}

// Maintenance answers every request with 503.
type Maintenance struct {
	On                bool     `json:"on"`                            // nobody is served but whom allow has
	Page              string   `json:"page,omitempty"`                // HTML; a sentence if left out
	RetryAfterSeconds int64    `json:"retry_after_seconds,omitempty"` // when clients are told to ask again
	Allow             []string `json:"allow,omitempty"`               // who is served nevertheless: ip:192.0.2.7, cidr:192.0.2.0/24
}

// RateLimit bounds how often each client may ask.
type RateLimit struct {
	Requests      int   `json:"requests"`       // 1 to 1000000
	PeriodSeconds int64 `json:"period_seconds"` // 1 to 3600
}

// BasicAuth has clients log in by HTTP's basic scheme.
type BasicAuth struct {
	Realm string          `json:"realm,omitempty"` // what it is for: Restricted if left out
	Users []BasicAuthUser `json:"users"`           // who may log in
}

// BasicAuthUser is who may log in.
type BasicAuthUser struct {
	Name     string `json:"name"`               // without spaces and colons
	Password string `json:"password,omitempty"` // 8 to 128 printable characters of ASCII; never answered, and the one that a user of this name has if left out
}

// ClientCertificates has clients show a certificate when they speak TLS.
type ClientCertificates struct {
	CA       string `json:"ca"`                 // certificates in PEM, of who signs those of clients
	Optional bool   `json:"optional,omitempty"` // who shows none is served too
}

// Drained is a droplet that gets no requests of a load balancer.
type Drained struct {
	DropletID int64 `json:"droplet_id"` // the ID of the droplet
	Seconds   int64 `json:"seconds"`    // for which it may finish those that it had
}

// Splitting is the body of PUT /v2/weir/load_balancers/{id}/split. This and the next two are answered with the load balancer.
type Splitting struct {
	Split map[string]int `json:"split"`           // percentage of the requests, by group; the rest is its own. {} ends the split
	Group string         `json:"group,omitempty"` // whose requests: those that routes send to it, or if left out those that no route takes
}

// Maintaining is the body of PUT /v2/weir/load_balancers/{id}/maintenance. What is nil stays as it is.
type Maintaining struct {
	On                *bool    `json:"on"`                            // nobody is served but whom allow has
	Page              *string  `json:"page,omitempty"`                // HTML; "" for a sentence
	RetryAfterSeconds *int64   `json:"retry_after_seconds,omitempty"` // when clients are told to ask again; 0 for never
	Allow             []string `json:"allow,omitzero"`                // who is served nevertheless: ip:192.0.2.7, cidr:192.0.2.0/24; [] for nobody
}

// TargetDrain is the body of POST /v2/weir/load_balancers/{id}/drain, and of undrain, which is not interested in seconds.
type TargetDrain struct {
	DropletID int64  `json:"droplet_id"`        // a target of the load balancer
	Seconds   *int64 `json:"seconds,omitempty"` // for which it may finish the requests that it has: the load balancer's drain_seconds if left out
}

// set makes lb's policy what w says. A user without a password keeps the one that was has; droplets stay drained. lb has
// its other parts already.
func (w *BalancerPolicy) set(lb *weir.LoadBalancer, was *weir.Login) error {
	p := weir.Policy{Split: splitOf(w.Split), SlowStart: seconds(w.SlowStartSeconds, 0), Drain: seconds(w.DrainSeconds, 0), Drained: lb.Policy.Drained}
	h := &p.Handling
	var err error
	if p.Groups, err = groupsOf(w.TargetGroups, lb.Health); err != nil {
		return err
	}
	for _, r := range w.Routes {
		p.Routes = append(p.Routes, r.route())
	}
	h.Headers = headersOf(w.RequestHeaders, w.ResponseHeaders)
	h.Compress, h.Connections = w.Compression, w.ConnectionLimit
	for _, text := range slices.Sorted(maps.Keys(w.ErrorPages)) {
		status, err := strconv.Atoi(text)
		if err != nil || strconv.Itoa(status) != text {
			return invalid("error_pages has %.40q, want statuses such as 503", text)
		}
		if h.Pages == nil {
			h.Pages = map[int]string{}
		}
		h.Pages[status] = w.ErrorPages[text]
	}
	if m := w.Maintenance; m != nil && (m.On || m.Page != "" || m.RetryAfterSeconds != 0 || len(m.Allow) > 0) {
		h.Maintenance = &weir.Maintenance{On: m.On, Page: m.Page, RetryAfter: seconds(m.RetryAfterSeconds, 0), Allow: none(m.Allow)}
	}
	if r := w.RateLimit; r != nil {
		h.Rate = &weir.RateLimit{Requests: r.Requests, Period: seconds(r.PeriodSeconds, 0)}
	}
	if h.Login, err = w.BasicAuth.login(was); err != nil {
		return err
	}
	if c := w.ClientCertificates; c != nil {
		h.ClientCerts = &weir.ClientCertificates{CA: c.CA, Optional: c.Optional}
	}
	if l := w.AccessLog; l != nil {
		p.Log = &weir.AccessLog{File: l.File, Syslog: l.Syslog, Sample: l.Sample}
	}
	lb.Policy = p
	return nil
}

// none returns a list, nil if there is nothing in it.
func none[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

func splitOf(w map[string]int) weir.Split {
	if len(w) == 0 {
		return nil
	}
	return w
}

// groupsOf returns the groups of a load balancer that has that health check, which theirs are but for what they say.
func groupsOf(wire []TargetGroup, health weir.HealthCheck) (groups []weir.TargetGroup, err error) {
	for i, w := range wire {
		g := weir.TargetGroup{Name: w.Name, Tag: w.Tag, Port: w.TargetPort, Split: splitOf(w.Split)}
		if g.Machines, err = machineIDs(w.DropletIDs); err != nil {
			return nil, invalid("target_groups[%d].%w", i, err)
		}
		if w.HealthCheck != nil {
			h := w.HealthCheck.over(health, w.TargetPort)
			g.Health = &h
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// over returns a group's check: what w leaves out is as in the load balancer's, and the port is the group's if it has one.
func (w *HealthCheck) over(h weir.HealthCheck, port int) weir.HealthCheck {
	h.Protocol = cmp.Or(weir.Protocol(strings.ToLower(w.Protocol)), h.Protocol)
	h.Port = cmp.Or(w.Port, port, h.Port)
	h.Path = cmp.Or(w.Path, h.Path, "/")
	if h.Protocol == weir.TCP {
		h.Path = ""
	}
	h.Interval = seconds(w.CheckIntervalSeconds, h.Interval)
	h.Timeout = seconds(w.ResponseTimeoutSeconds, h.Timeout)
	h.Unhealthy = cmp.Or(w.UnhealthyThreshold, h.Unhealthy)
	h.Healthy = cmp.Or(w.HealthyThreshold, h.Healthy)
	if w.ProxyProtocol != nil {
		h.Proxy = *w.ProxyProtocol
	}
	return h
}

func (w *Route) route() weir.Route {
	r := weir.Route{Hosts: none(w.Hosts), Path: w.Path, Group: w.Group, Headers: headersOf(w.RequestHeaders, w.ResponseHeaders)}
	if d := w.Redirect; d != nil {
		r.Redirect = &weir.Redirect{Scheme: d.Scheme, Host: d.Host, Port: d.Port, Path: d.Path, Prefix: d.PathPrefix, Status: d.Status}
	}
	if d := w.Rewrite; d != nil && *d != (Rewrite{}) {
		r.Rewrite = &weir.Rewrite{Host: d.Host, Path: d.Path, Prefix: d.PathPrefix}
	}
	return r
}

func headersOf(requests, responses *HeaderChanges) (h weir.Headers) {
	of := func(w *HeaderChanges) (map[string]string, []string) {
		switch {
		case w == nil:
			return nil, nil
		case len(w.Set) == 0:
			return nil, none(w.Remove)
		}
		return w.Set, none(w.Remove)
	}
	h.SetRequest, h.RemoveRequest = of(requests)
	h.SetResponse, h.RemoveResponse = of(responses)
	return h
}

// login returns who may log in. A user without a password has the one of that name in was.
func (w *BasicAuth) login(was *weir.Login) (*weir.Login, error) {
	if w == nil {
		return nil, nil
	}
	login := &weir.Login{Realm: w.Realm}
	passwords := map[string]string{}
	for _, u := range w.Users {
		login.Users = append(login.Users, weir.User{Name: u.Name})
		if u.Password == "" {
			continue
		}
		if err := weir.CheckPassword(u.Password); err != nil {
			return nil, invalid("basic_auth: user %.80q: %w", u.Name, err)
		}
		passwords[u.Name] = u.Password
	}
	login.Keep(was, passwords)
	return login, nil
}

// policyWords puts a policy in words of the wire, without passwords.
func policyWords(p *weir.Policy) BalancerPolicy {
	h := &p.Handling
	w := BalancerPolicy{Split: p.Split, Compression: h.Compress, ConnectionLimit: h.Connections,
		SlowStartSeconds: int64(p.SlowStart / time.Second), DrainSeconds: int64(p.Drain / time.Second)}
	for _, g := range p.Groups {
		group := TargetGroup{Name: g.Name, Tag: g.Tag, TargetPort: g.Port, Split: g.Split}
		for _, id := range g.Machines {
			group.DropletIDs = append(group.DropletIDs, number(id))
		}
		if g.Health != nil {
			health := healthWords(*g.Health)
			group.HealthCheck = &health
		}
		w.TargetGroups = append(w.TargetGroups, group)
	}
	for _, r := range p.Routes {
		route := Route{Hosts: r.Hosts, Path: r.Path, Group: r.Group}
		route.RequestHeaders, route.ResponseHeaders = headerWords(&r.Headers)
		if d := r.Redirect; d != nil {
			route.Redirect = &Redirect{Scheme: d.Scheme, Host: d.Host, Port: d.Port, Path: d.Path, PathPrefix: d.Prefix, Status: d.Status}
		}
		if d := r.Rewrite; d != nil {
			route.Rewrite = &Rewrite{Host: d.Host, Path: d.Path, PathPrefix: d.Prefix}
		}
		w.Routes = append(w.Routes, route)
	}
	if l := p.Log; l != nil {
		w.AccessLog = &AccessLog{File: l.File, Syslog: l.Syslog, Sample: l.Sample}
	}
	w.RequestHeaders, w.ResponseHeaders = headerWords(&h.Headers)
	for status, page := range h.Pages {
		if w.ErrorPages == nil {
			w.ErrorPages = map[string]string{}
		}
		w.ErrorPages[strconv.Itoa(status)] = page
	}
	if m := h.Maintenance; m != nil {
		w.Maintenance = &Maintenance{On: m.On, Page: m.Page, RetryAfterSeconds: int64(m.RetryAfter / time.Second), Allow: m.Allow}
	}
	if r := h.Rate; r != nil {
		w.RateLimit = &RateLimit{Requests: r.Requests, PeriodSeconds: int64(r.Period / time.Second)}
	}
	if l := h.Login; l != nil {
		w.BasicAuth = &BasicAuth{Realm: l.Realm}
		for _, u := range l.Users {
			w.BasicAuth.Users = append(w.BasicAuth.Users, BasicAuthUser{Name: u.Name})
		}
	}
	if c := h.ClientCerts; c != nil {
		w.ClientCertificates = &ClientCertificates{CA: c.CA, Optional: c.Optional}
	}
	return w
}

func headerWords(h *weir.Headers) (requests, responses *HeaderChanges) {
	of := func(set map[string]string, remove []string) *HeaderChanges {
		if len(set)+len(remove) == 0 {
			return nil
		}
		return &HeaderChanges{set, remove}
	}
	return of(h.SetRequest, h.RemoveRequest), of(h.SetResponse, h.RemoveResponse)
}

// drainedWords returns the droplets that a policy keeps from serving, by ID.
func drainedWords(p *weir.Policy) (all []Drained) {
	for id, d := range p.Drained {
		all = append(all, Drained{number(id), int64(d / time.Second)})
	}
	slices.SortFunc(all, func(a, b Drained) int { return cmp.Compare(a.DropletID, b.DropletID) })
	return all
}
