package weir

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Policy is what a load balancer does that DigitalOcean's do not: which requests go to which servers, and how they
// are handled on the way. The zero value is what DigitalOcean's do.
type Policy struct {
	// Split is the percentage of requests that groups get of those that no route takes; the load balancer's own
	// targets have the rest.
	Split    Split         `json:"split,omitempty"`
	Groups   []TargetGroup `json:"groups,omitempty"`
	Routes   []Route       `json:"routes,omitempty"` // the first that fits a request decides
	Handling Handling      `json:"handling,omitzero"`
	Log      *AccessLog    `json:"log,omitempty"` // nil: requests are not logged, and have no IDs

	SlowStart time.Duration `json:"slow_start,omitempty"` // a server that comes up gets its full share after this
	Drain     time.Duration `json:"drain,omitempty"`      // for which a server that leaves may finish its requests; the control plane's choice if 0
	// Drained are targets that get no requests, and for how long they may finish those that they had. They stay
	// targets until a user has them serve again.
	Drained map[ID]time.Duration `json:"drained,omitempty"`
}

// Split says which groups share the requests of others, and the percentage that each gets, from 0 to 100.
type Split map[string]int

// Rest returns the percentage that those have whose requests groups share.
func (s Split) Rest() int {
	rest := 100
	for _, percent := range s {
		rest -= percent
	}
	return rest
}

// String says who shares requests: "blue 5 %, green 10 %", or "none".
func (s Split) String() string {
	if len(s) == 0 {
		return "none"
	}
	var said []string
	for _, name := range slices.Sorted(maps.Keys(s)) {
		said = append(said, fmt.Sprintf("%s %d %%", name, s[name]))
	}
	return strings.Join(said, ", ")
}

// Among says who gets which part of own's requests: "green 5 %, its own machines 95 %".
func (s Split) Among(own string) string {
	if len(s) == 0 {
		return own + " 100 %"
	}
	return fmt.Sprintf("%s, %s %d %%", s, own, s.Rest())
}

// OwnTargets is what a load balancer's own targets are called in such a sentence.
const OwnTargets = "its own machines"

// TargetGroup is servers beside a load balancer's own targets, to which routes and splits send requests. The rules' own ports
// and the load balancer's health check are also a group's, unless it has others.
type TargetGroup struct {
	Name     string       `json:"name"`
	Machines []ID         `json:"machines,omitempty"` // by ID …
	Tag      string       `json:"tag,omitempty"`      // … or by tag
	Port     int          `json:"port,omitempty"`     // where its servers take requests; the rule's target port if 0
	Health   *HealthCheck `json:"health,omitempty"`   // the load balancer's if nil
	Split    Split        `json:"split,omitempty"`    // of the requests that routes send here
}

// Route says what becomes of requests for some hosts and paths.
type Route struct {
	Hosts    []string  `json:"hosts,omitempty"` // names without ports, "*.shop.example" for all below one; any if none
	Path     string    `json:"path,omitempty"`  // what paths begin with, by whole segments: "/api" fits /api and /api/users, not /apis; any if empty
	Group    string    `json:"group,omitempty"` // whose servers get them; the load balancer's own if empty
	Redirect *Redirect `json:"redirect,omitempty"`
	Rewrite  *Rewrite  `json:"rewrite,omitempty"`
	Headers  Headers   `json:"headers,omitzero"` // beside the load balancer's
}

// Redirect answers a request with another URL. What is empty stays as it was asked for.
type Redirect struct {
	Scheme string `json:"scheme,omitempty"` // http or https
	Host   string `json:"host,omitempty"`
	Port   int    `json:"port,omitempty"`   // without it the scheme's, if scheme or host is given
	Path   string `json:"path,omitempty"`   // instead of all of the path …
	Prefix string `json:"prefix,omitempty"` // … or of what the route's path fits
	Status int    `json:"status,omitempty"` // 301, 302, 303, 307 or 308; 302 if 0
}

// Rewrite changes a request before a server gets it. What is empty stays.
type Rewrite struct {
	Host   string `json:"host,omitempty"`
	Path   string `json:"path,omitempty"`   // instead of all of the path …
	Prefix string `json:"prefix,omitempty"` // … or of what the route's path fits
}

// Headers are changes of the headers of requests and of responses. Values are literal.
type Headers struct {
	SetRequest     map[string]string `json:"set_request,omitempty"`
	RemoveRequest  []string          `json:"remove_request,omitempty"`
	SetResponse    map[string]string `json:"set_response,omitempty"`
	RemoveResponse []string          `json:"remove_response,omitempty"`
}

// Handling is how requests are handled, whichever servers get them. An instance's HAProxy is given it as it is.
type Handling struct {
	Headers     Headers             `json:"headers,omitzero"`
	Compress    bool                `json:"compress,omitempty"`    // texts are compressed with gzip for clients that take that
	Pages       map[int]string      `json:"pages,omitempty"`       // HTML, by status: instead of the load balancer's own errors
	Maintenance *Maintenance        `json:"maintenance,omitempty"` // nil, or not On: none
	Rate        *RateLimit          `json:"rate,omitempty"`
	Connections int                 `json:"connections,omitempty"` // that a client's address may have at a time; any number if 0
	Login       *Login              `json:"login,omitempty"`       // basic authentication
	ClientCerts *ClientCertificates `json:"client_certificates,omitempty"`
}

// Maintenance answers every request with 503.
type Maintenance struct {
	On         bool          `json:"on"`
	Page       string        `json:"page,omitempty"` // HTML; a sentence if empty
	RetryAfter time.Duration `json:"retry_after,omitempty"`
	Allow      []string      `json:"allow,omitempty"` // who is served nevertheless, as in Clients
}

// RateLimit bounds the requests of each client address, and where the load balancer speaks no HTTP its connections. All
// addresses of a /64 of IPv6 count as one. Each active instance counts by itself.
type RateLimit struct {
	Requests int           `json:"requests"`
	Period   time.Duration `json:"period"`
}

// Login has clients authenticate by a name and a password (HTTP's basic scheme).
type Login struct {
	Realm string `json:"realm,omitempty"` // "Restricted" if empty
	Salt  []byte `json:"salt"`
	Users []User `json:"users"`
}

// User is who may log in.
type User struct {
	Name string `json:"name"`
	Hash string `json:"hash"` // by [Login.Hash], of the password
}

// Hash returns what is kept of a user's password: HMAC-SHA-256 of "name:password" under the salt, in upper-case
// hexadecimal. HAProxy computes it for each request, so that it is no slow one: passwords had better be long.
func (l *Login) Hash(name, password string) string {
	mac := hmac.New(sha256.New, l.Salt)
	mac.Write([]byte(name + ":" + password))
	return strings.ToUpper(hex.EncodeToString(mac.Sum(nil)))
}

// Keep gives each user of l a password: the one that is said for its name, or else the one that the user of that name has
// in was, which may be nil. The salt is that of was for as long as one of its passwords is still somebody's, so that to
// say the same passwords again changes nothing, and a random one otherwise.
func (l *Login) Keep(was *Login, said map[string]string) {
	kept := map[string]string{}
	l.Salt = nil
	if was != nil {
		for _, u := range was.Users {
			kept[u.Name] = u.Hash
		}
	}
	for _, u := range l.Users {
		password, is := said[u.Name]
		if hash := kept[u.Name]; hash != "" && (!is || was.Hash(u.Name, password) == hash) {
			l.Salt = was.Salt
		}
	}
	if l.Salt == nil {
		l.Salt = make([]byte, saltBytes)
		rand.Read(l.Salt) // never fails
	}
	for i := range l.Users {
		u := &l.Users[i]
		if password, is := said[u.Name]; is {
			u.Hash = l.Hash(u.Name, password)
		} else {
			u.Hash = kept[u.Name]
		}
	}
}

// CheckPassword returns why a user cannot have that password, which its error does not show.
func CheckPassword(password string) error {
	if len(password) < leastPassword || len(password) > mostPassword || !printable(password) {
		return Errorf(Invalid, "the password is not of %d to %d printable characters of ASCII", leastPassword, mostPassword)
	}
	return nil
}

// ClientCertificates has clients show a certificate when they speak TLS.
type ClientCertificates struct {
	CA       string `json:"ca"`                 // PEM: who may have signed them
	Optional bool   `json:"optional,omitempty"` // who shows none is let in, too; servers are told
}

// Limits of a Policy.
const (
	mostGroups    = 32
	mostRoutes    = 100
	mostHosts     = 20
	mostHeaders   = 32
	mostUsers     = 100
	saltBytes     = 16
	leastPassword = 8
	mostPassword  = 128
	mostHeader    = 1024      // bytes of a value
	mostPage      = 12 << 10  // bytes: an answer has to fit into one of HAProxy's buffers
	mostCA        = 64 << 10  // bytes
	mostDrain     = time.Hour // also how long an old worker of HAProxy lives
	mostSlowStart = 10 * time.Minute
	mostRate      = 1_000_000
	mostPeriod    = time.Hour
)

// PageStatuses are the errors for which a load balancer may have a page.
var PageStatuses = [...]int{400, 401, 403, 404, 405, 408, 410, 413, 425, 429, 500, 501, 502, 503, 504}

// Group returns the group of that name, nil if there is none.
func (p *Policy) Group(name string) *TargetGroup {
	if i := slices.IndexFunc(p.Groups, func(g TargetGroup) bool { return g.Name == name }); i >= 0 {
		return &p.Groups[i]
	}
	return nil
}

// check returns what is wrong with p, in the words of the API. Whether its groups' machines exist is not looked at.
func (p *Policy) check() error {
	if len(p.Groups) > mostGroups {
		return Errorf(Invalid, "target_groups has %d groups, want at most %d", len(p.Groups), mostGroups)
	}
	for i := range p.Groups {
		g := &p.Groups[i]
		if err := g.check(); err != nil {
			return Errorf(Invalid, "target_groups[%d].%w", i, err)
		}
		if p.Group(g.Name) != g {
			return Errorf(Invalid, "target_groups[%d].name is %q as that of a group before it, want another", i, g.Name)
		}
		if err := p.checkSplit(g.Split, g.Name); err != nil {
			return Errorf(Invalid, "target_groups[%d].%w", i, err)
		}
	}
	if err := p.checkSplit(p.Split, ""); err != nil {
		return err
	}
	if len(p.Routes) > mostRoutes {
		return Errorf(Invalid, "routes has %d routes, want at most %d", len(p.Routes), mostRoutes)
	}
	for i := range p.Routes {
		r := &p.Routes[i]
		if err := r.check(); err != nil {
			return Errorf(Invalid, "routes[%d].%w", i, err)
		}
		if r.Group != "" && p.Group(r.Group) == nil {
			return Errorf(Invalid, "routes[%d].group is %.60q, and target_groups has no such group", i, r.Group)
		}
	}
	if p.Log != nil {
		if err := p.Log.Check(); err != nil {
			return Errorf(Invalid, "access_log.%w", err)
		}
	}
	switch {
	case p.SlowStart < 0 || p.SlowStart > mostSlowStart:
		return Errorf(Invalid, "slow_start_seconds is %d, want 0 to %d", p.SlowStart/time.Second, mostSlowStart/time.Second)
	case p.Drain < 0 || p.Drain > mostDrain:
		return Errorf(Invalid, "drain_seconds is %d, want 0 to %d", p.Drain/time.Second, mostDrain/time.Second)
	}
	for _, id := range slices.Sorted(maps.Keys(p.Drained)) {
		if d := p.Drained[id]; d < 0 || d > mostDrain {
			return Errorf(Invalid, "drained: droplet %s: %d seconds, want 0 to %d", id, d/time.Second, mostDrain/time.Second)
		}
	}
	return p.Handling.check()
}

// checkSplit returns what is wrong with who shares the requests of a group, or of the load balancer's own targets.
func (p *Policy) checkSplit(s Split, of string) error {
	sum := 0
	for _, name := range slices.Sorted(maps.Keys(s)) {
		switch percent := s[name]; {
		case name == of:
			return Errorf(Invalid, "split: group %q shares with itself, want another group", name)
		case p.Group(name) == nil:
			return Errorf(Invalid, "split: %.60q, and target_groups has no such group", name)
		case percent < 0 || percent > 100:
			return Errorf(Invalid, "split: group %q gets %d %%, want 0 to 100", name, percent)
		default:
			sum += percent
		}
	}
	if sum > 100 {
		return Errorf(Invalid, "split: all groups together get %d %%, want at most 100", sum)
	}
	return nil
}

func (g *TargetGroup) check() error {
	switch {
	case CheckTag(g.Name) != nil || len(g.Name) > 40:
		return Errorf(Invalid, "name is %.60q, want 1 to 40 letters, digits, _, : and -", g.Name)
	case g.Tag != "" && len(g.Machines) > 0:
		return Errorf(Invalid, "group %q has both droplet_ids and a tag, want one of them", g.Name)
	case g.Port < 0 || g.Port > 65535:
		return Errorf(Invalid, "target_port is %d, want 1 to 65535", g.Port)
	}
	if g.Tag != "" {
		if err := CheckTag(g.Tag); err != nil {
			return err
		}
	}
	if g.Health != nil {
		if err := g.Health.check(); err != nil {
			return Errorf(Invalid, "health_check: %w", err)
		}
	}
	return nil
}

func (r *Route) check() error {
	if len(r.Hosts) > mostHosts {
		return Errorf(Invalid, "hosts has %d names, want at most %d", len(r.Hosts), mostHosts)
	}
	for _, host := range r.Hosts {
		if !isHost(strings.TrimPrefix(host, "*.")) {
			return Errorf(Invalid, "hosts has %.80q, want a name such as shop.example or *.shop.example, without a port", host)
		}
	}
	if r.Path != "" && !isPath(r.Path) {
		return Errorf(Invalid, "path is %.80q, want one such as /api, of letters, digits and /-._~", r.Path)
	}
	if r.Redirect != nil {
		if err := r.Redirect.check(); err != nil {
			return Errorf(Invalid, "redirect.%w", err)
		}
		if r.Rewrite != nil || r.Group != "" {
			return Errorf(Invalid, "redirect: the route answers by itself, and has a group or a rewrite too, want one of them")
		}
	}
	if w := r.Rewrite; w != nil {
		if w.Host != "" && !isHost(w.Host) {
			return Errorf(Invalid, "rewrite.host is %.80q, want a name such as shop.example", w.Host)
		}
		if err := checkPaths(w.Path, w.Prefix); err != nil {
			return Errorf(Invalid, "rewrite.%w", err)
		}
	}
	return r.Headers.check()
}

func (r *Redirect) check() error {
	switch {
	case r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https":
		return Errorf(Invalid, "scheme is %.20q, want http or https", r.Scheme)
	case r.Host != "" && !isHost(r.Host):
		return Errorf(Invalid, "host is %.80q, want a name such as shop.example", r.Host)
	case r.Port < 0 || r.Port > 65535:
		return Errorf(Invalid, "port is %d, want 1 to 65535", r.Port)
	case r.Status != 0 && !slices.Contains([]int{301, 302, 303, 307, 308}, r.Status):
		return Errorf(Invalid, "status is %d, want 301, 302, 303, 307 or 308", r.Status)
	case *r == Redirect{Status: r.Status}:
		return Errorf(Invalid, "scheme, host, port, path and path_prefix are all empty, and the URL would stay the same: want one of them")
	}
	return checkPaths(r.Path, r.Prefix)
}

// checkPaths returns what is wrong with what a path, or what it begins with, is replaced by.
func checkPaths(path, prefix string) error {
	switch {
	case path != "" && prefix != "":
		return Errorf(Invalid, "path and path_prefix are both there, want one of them")
	case path != "" && !isPath(path):
		return Errorf(Invalid, "path is %.80q, want one such as /api, of letters, digits and /-._~", path)
	case prefix != "" && !isPath(prefix):
		return Errorf(Invalid, "path_prefix is %.80q, want one such as /api, of letters, digits and /-._~", prefix)
	}
	return nil
}

// ours are the headers that a load balancer and HTTP itself need as they are.
var ours = [...]string{"host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive", "expect",
	"x-forwarded-for", "x-forwarded-proto", "x-forwarded-port", "http2-settings", "proxy-connection"}

func (h *Headers) check() error {
	for _, part := range [...]struct {
		name   string
		set    map[string]string
		remove []string
	}{{"request_headers", h.SetRequest, h.RemoveRequest}, {"response_headers", h.SetResponse, h.RemoveResponse}} {
		names := append(slices.Sorted(maps.Keys(part.set)), part.remove...)
		if len(names) > mostHeaders {
			return Errorf(Invalid, "%s has %d changes, want at most %d", part.name, len(names), mostHeaders)
		}
		for _, name := range names {
			if name == "" || len(name) > 64 || strings.Trim(name, tokenChars) != "" {
				return Errorf(Invalid, "%s: %.80q, want a header's name of 1 to 64 letters, digits, - and _", part.name, name)
			}
			if slices.Contains(ours[:], strings.ToLower(name)) {
				return Errorf(Invalid, "%s: %s is for the load balancer alone to say, want another header", part.name, name)
			}
			if value := part.set[name]; len(value) > mostHeader || !printable(value) {
				return Errorf(Invalid, "%s: the value of %s is %.60q, want at most %d printable characters of ASCII", part.name, name, value, mostHeader)
			}
		}
	}
	return nil
}

func (h *Handling) check() error {
	if err := h.Headers.check(); err != nil {
		return err
	}
	for _, status := range slices.Sorted(maps.Keys(h.Pages)) {
		if !slices.Contains(PageStatuses[:], status) {
			return Errorf(Invalid, "error_pages has %d, want statuses among %v", status, PageStatuses)
		}
		if err := checkPage(h.Pages[status]); err != nil {
			return Errorf(Invalid, "error_pages: the page for %d %w", status, err)
		}
	}
	if m := h.Maintenance; m != nil {
		if err := checkPage(m.Page); err != nil {
			return Errorf(Invalid, "maintenance: page %w", err)
		}
		if m.RetryAfter < 0 || m.RetryAfter > 7*24*time.Hour {
			return Errorf(Invalid, "maintenance: retry_after_seconds is %d, want 0 to %d", m.RetryAfter/time.Second, 7*24*time.Hour/time.Second)
		}
		if len(m.Allow) > mostClients {
			return Errorf(Invalid, "maintenance: allow has %d rules, want at most %d", len(m.Allow), mostClients)
		}
		for _, text := range m.Allow {
			if _, err := ParseClients(text); err != nil {
				return Errorf(Invalid, "maintenance: allow: %w", err)
			}
		}
	}
	if r := h.Rate; r != nil {
		switch {
		case r.Requests < 1 || r.Requests > mostRate:
			return Errorf(Invalid, "rate_limit: requests is %d, want 1 to %d", r.Requests, mostRate)
		case r.Period < time.Second || r.Period > mostPeriod:
			return Errorf(Invalid, "rate_limit: period_seconds is %d, want 1 to %d", r.Period/time.Second, mostPeriod/time.Second)
		}
	}
	if h.Connections < 0 || h.Connections > mostRate {
		return Errorf(Invalid, "connection_limit is %d, want 1 to %d, or 0 for none", h.Connections, mostRate)
	}
	if err := h.Login.check(); err != nil {
		return Errorf(Invalid, "basic_auth: %w", err)
	}
	return h.ClientCerts.check()
}

// checkPage returns what is wrong with a page, behind its name.
func checkPage(html string) error {
	switch {
	case len(html) > mostPage:
		return Errorf(Invalid, "has %d bytes, want at most %d", len(html), mostPage)
	case strings.ContainsRune(html, 0):
		return Errorf(Invalid, "has a zero byte, want text")
	}
	return nil
}

func (l *Login) check() error {
	switch {
	case l == nil:
		return nil
	case len(l.Users) == 0:
		return Errorf(Invalid, "there are no users, want one at least")
	case len(l.Users) > mostUsers:
		return Errorf(Invalid, "there are %d users, want at most %d", len(l.Users), mostUsers)
	case len(l.Realm) > 64 || !printable(l.Realm) || strings.ContainsAny(l.Realm, `"\`):
		return Errorf(Invalid, "realm is %.80q, want at most 64 printable characters of ASCII, without quotes and backslashes", l.Realm)
	}
	seen := map[string]bool{}
	for _, u := range l.Users {
		if u.Name == "" || len(u.Name) > 64 || !plain(u.Name) || strings.Contains(u.Name, ":") {
			return Errorf(Invalid, "user %.80q, want 1 to 64 printable characters of ASCII, without spaces and colons", u.Name)
		}
		if seen[u.Name] {
			return Errorf(Invalid, "user %q is there twice", u.Name)
		}
		if seen[u.Name] = true; u.Hash == "" {
			return Errorf(Invalid, "user %q has no password, want one", u.Name)
		}
	}
	return nil
}

func (c *ClientCertificates) check() error {
	if c == nil {
		return nil
	}
	if len(c.CA) > mostCA {
		return Errorf(Invalid, "client_certificates: ca has %d bytes, want at most %d", len(c.CA), mostCA)
	}
	rest, n := []byte(c.CA), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return Errorf(Invalid, "client_certificates: ca has a block of type %.40q, want certificates alone", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return Errorf(Invalid, "client_certificates: ca: certificate %d: %w", n+1, err)
		}
		n++
	}
	if n == 0 || strings.TrimSpace(string(rest)) != "" {
		return Errorf(Invalid, "client_certificates: ca is not all certificates in PEM, want those of who signs clients' certificates")
	}
	return nil
}

// isHost reports whether s is a name of DNS.
func isHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, tokenChars) != "" {
			return false
		}
	}
	return true
}

// isPath reports whether s is a path of few characters, of which none means anything in a regular expression but the dot.
func isPath(s string) bool {
	return strings.HasPrefix(s, "/") && len(s) <= 256 && strings.Trim(s, tokenChars+"/.~") == ""
}

// printable reports whether s is printable ASCII, spaces included.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// checkPolicy returns what is wrong with lb's policy, by itself and beside its rules.
func (lb *LoadBalancer) checkPolicy() error {
	p := &lb.Policy
	if err := p.check(); err != nil {
		return err
	}
	has := func(fits func(*Rule) bool) bool {
		return slices.ContainsFunc(lb.Rules, func(r Rule) bool { return fits(&r) })
	}
	h := &p.Handling
	for _, part := range [...]struct {
		name string
		said bool
	}{
		{"routes", len(p.Routes) > 0}, {"request_headers", len(h.Headers.SetRequest)+len(h.Headers.RemoveRequest) > 0},
		{"response_headers", len(h.Headers.SetResponse)+len(h.Headers.RemoveResponse) > 0}, {"compression", h.Compress},
		{"error_pages", len(h.Pages) > 0}, {"maintenance", h.Maintenance != nil}, {"basic_auth", h.Login != nil},
	} {
		if part.said && !has(func(r *Rule) bool { return r.Mode() == HTTP }) {
			return Errorf(Invalid, "%s is there, and no forwarding rule has the load balancer speak HTTP, want one or leave it out", part.name)
		}
	}
	if h.ClientCerts != nil && !has(func(r *Rule) bool { return r.Certificate != "" }) {
		return Errorf(Invalid, "client_certificates is there, and no forwarding rule ends TLS with a certificate_id, want one or leave it out")
	}
	if len(lb.Servers) > 0 && len(p.Groups) > 0 {
		return Errorf(Invalid, "target_groups is there beside servers by address, want one of them")
	}
	return nil
}
