package haproxy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

// Host is what a configuration takes from the machine that it is for. The zero value
// stands for any machine: the usual directory, and limits left to HAProxy.
type Host struct {
	Dir     string // of sockets and state, DefaultDir if empty
	Certs   string // of certificates, "certs" in Dir if empty
	User    string // whom the worker runs as, and a group of that name; whoever starts it if empty
	Threads int    // cores to use, HAProxy's choice if 0
	Files   int    // descriptors that the process may have (the hard limit), HAProxy's choice if 0
	Access  string // the abstract name of the socket that takes lines of the access log, "weir-access" if empty

	generation int // raised where nothing else tells that another configuration is to be loaded
}

// DefaultDir is where a node's HAProxy has its files unless told otherwise.
const DefaultDir = "/run/weir/haproxy"

func (h Host) path(name string) string {
	return filepath.Join(cmp.Or(h.Dir, DefaultDir), name)
}

func (h Host) certs() string { return cmp.Or(h.Certs, h.path(certsDir)) }

// The files in a HAProxy's directory.
const (
	configFile    = "haproxy.cfg"
	candidateFile = "haproxy.cfg.new"
	workerSocket  = "worker.sock"
	masterSocket  = "master.sock"
	heldSocket    = "held.sock"
	stateFile     = "servers.state"
	pidFile       = "haproxy.pid"
	logFile       = "haproxy.log"
	certsDir      = "certs"

	candidateCerts = "certs.new"
)

// defaultDrain bounds a drain that a document leaves open.
const defaultDrain = time.Minute

// drainOf returns how long a server that leaves may finish its requests. HAProxy's name of it is its machine's ID.
func drainOf(p *weir.Proxy, server string) time.Duration {
	if drain, ok := p.Drains[weir.ID(server)]; ok {
		return drain
	}
	if p.Drain > 0 {
		return p.Drain
	}
	return defaultDrain
}

// Render returns the configuration that makes HAProxy do what p says. It is the same bytes
// for the same arguments, and no string in p can end a line or add a word: names keep
// only the characters that names may have, and everything else is typed or quoted.
func Render(v Version, revision int64, p weir.Proxy, on Host) []byte {
	size := 2048
	for i := range p.Backends {
		size += 512 + 160*len(p.Backends[i].Servers)
	}
	w := &writer{buf: make([]byte, 0, size)}
	w.comment("# Load balancer ", p.Name, " (", string(p.LoadBalancer), "), revision ")
	w.int(revision).line("")
	w.line("# Weir writes this file; what is changed here by hand is lost at the next change.")
	if v.Full != "" {
		w.comment("# Written for HAProxy ", v.Full)
		w.line("")
	}
	w.line("")
	w.line("global")
	w.line("    # By these the running process tells what it has loaded.")
	w.word("    setenv WEIR_REVISION ").int(revision).line("")
	w.word("    setenv WEIR_SHAPE ").line(shapeOf(&p, on))
	w.global(&p, on)
	w.sections(&p, on, true)
	return w.buf
}

// shapeOf names everything about p's configuration but its servers. As long as it stays the
// same, the change from one document to the next is one of servers alone, and needs no reload.
func shapeOf(p *weir.Proxy, on Host) string {
	w := &writer{buf: make([]byte, 0, 4096)}
	w.int(p.Reload)
	if on.generation > 0 {
		w.word(" ").int(int64(on.generation))
	}
	for i := range p.Frontends {
		if tls := p.Frontends[i].TLS; tls != nil {
			w.word(" ").int(int64(len(tls.Certificates))) // what is in their files is no part of the shape
		}
	}
	if challenged(p) {
		w.word(" ").int(int64(len(p.Challenges)))
	}
	files := map[string][]byte{}
	handlingFiles(p, files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.word(" ").word(name).word(" ").word(string(files[name]))
	}
	w.global(p, on)
	w.sections(p, on, false)
	sum := sha256.Sum256(w.buf)
	return hex.EncodeToString(sum[:8])
}

// global writes what follows the setenv lines, and the defaults.
func (w *writer) global(p *weir.Proxy, on Host) {
	if on.User != "" {
		w.word("    user ").name(on.User).line("")
		w.word("    group ").name(on.User).line("")
	}
	if on.Threads > 0 {
		w.word("    nbthread ").int(int64(on.Threads)).line("")
	}
	if on.Files > 0 {
		w.word("    maxconn ").int(int64(maxConn(on.Files, p))).line("")
	}
	// No close-spread-time: within it HAProxy closes idle connections at random moments, some
	// of them just as the client's next request arrives. Without it each connection ends
	// with its next answer, or here.
	w.line("    # After a reload the old worker finishes what it has, for this long.")
	w.word("    hard-stop-after ").time(hardStop).line("")
	w.word("    mworker-max-reloads ").int(maxOld).line("")
	w.line("    # A new server's first check is due at once; later ones drift apart.")
	w.line("    max-spread-checks 1ms")
	w.line("    spread-checks 10")
	if slices.ContainsFunc(p.Frontends, func(f weir.Frontend) bool { return f.TLS != nil }) {
		w.word("    crt-base ").quote(on.certs()).line("")
	}
	w.jailLine(p, on)
	w.word("    stats socket ").quote(on.path(workerSocket)).line(" mode 600 level admin expose-fd listeners")
	if limited(p) {
		w.word("    localpeer ").line(localPeer)
	}
	w.word("    server-state-file ").quote(on.path(stateFile)).line("")
	w.snippet(p.Snippets.Global)
	w.line("")
	w.line("defaults")
	w.line("    load-server-state-from-file global")
	w.line("    timeout connect 5s")
	w.line("    timeout http-request 30s")
	w.line("    retries 3")
	w.line("    option redispatch 1")
	w.snippet(p.Snippets.Defaults)
}

// perServer is how many descriptors HAProxy counts for each server that is checked.
const perServer = 2

// maxConn returns how many connections to accept so that with a socket to a server for each,
// and the checks, the process stays within files: HAProxy does not start otherwise. What is
// reserved for checks grows by large pieces, so that it seldom changes with the servers,
// because a change is a reload.
func maxConn(files int, p *weir.Proxy) int {
	// Of its own HAProxy has some, and some for each of at most 64 threads.
	need := len(p.Frontends) + 128
	for i := range p.Backends {
		need += perServer * len(p.Backends[i].Servers)
	}
	piece := max(min(files/3, 8192), 64)
	reserve := (need + piece - 1) / piece * piece
	// 50,000 take about 2 GiB when all are busy.
	return min(max((files-reserve)/2, 10), 50_000)
}

func (w *writer) sections(p *weir.Proxy, on Host, servers bool) {
	w.handled(p, on)
	for i := range p.Frontends {
		w.frontend(&p.Frontends[i], p, on)
	}
	w.hellos(p, on)
	w.health(p)
	for i := range p.Backends {
		b := &p.Backends[i]
		w.backend(b)
		if !servers {
			// The check is repeated on every server's line: it is part of the shape.
			w.word(optionsOf(b))
			continue
		}
		options := optionsOf(b)
		ids := serverIDs(b.Servers)
		for j := range b.Servers {
			s := &b.Servers[j]
			w.word("    server ").server(s, ids[j], options)
			w.comment("  # ", string(s.ID), " ", s.Name)
			w.line("")
		}
	}
}

func (w *writer) frontend(f *weir.Frontend, p *weir.Proxy, on Host) {
	w.line("")
	w.word("frontend ").name(f.Name).line("")
	end := new(writer)
	if f.TLS != nil {
		end.word(" ssl crt-list ").quote(filepath.Join(on.certs(), certList(f))).word(" alpn ")
		if f.TLS.H2 {
			end.word("h2,")
		}
		end.word("http/1.1 ssl-min-ver TLSv1.2 ciphers ")
		if f.TLS.Strong {
			end.word(strongCiphers)
		} else {
			end.word(strongCiphers + ":" + otherCiphers)
		}
		if c := p.Handling.ClientCerts; c != nil {
			end.word(" ca-file ").quote(filepath.Join(on.certs(), clientsFile)).word(" verify ")
			if c.Optional {
				end.word("optional")
			} else {
				end.word("required")
			}
		}
	}
	w.binds(f, p, on, string(end.buf))
	w.mode(f.Mode)
	w.clients("denied", "if ", p.Denied)
	if takesHanded(f) {
		w.clients("welcome", "if { src -m found } !", p.Clients)
	} else {
		w.clients("welcome", "unless ", p.Clients)
	}
	w.limits(f, p)
	w.word("    timeout client ").time(f.Idle).line("")
	w.access(f, p, on) // of what is refused, too
	w.lengths(f)
	w.busy(f, p, on)
	w.snippet(snippetOf(&p.Snippets, f.Name))
	if f.Mode == weir.HTTP && f.TLS == nil {
		w.challenges(p.Thumbprint)
	}
	if f.Mode == weir.HTTP {
		w.word("    timeout http-keep-alive ").time(f.Idle).line("")
		w.line("    option idle-close-on-response")
		w.line("    option forwardfor")
		if f.TLS != nil {
			w.line("    http-request set-header X-Forwarded-Proto https")
		} else {
			w.line("    http-request set-header X-Forwarded-Proto http")
		}
		w.word("    http-request set-header X-Forwarded-Port ").int(int64(f.Bind.Port())).line("")
		w.handling(f, p, on)
	}
	if f.Redirect != 0 {
		w.word("    http-request deny deny_status 400 unless { req.fhdr(host),lower -m reg ").word(hostPattern).line(" }")
		w.word("    http-request redirect code 307 location https://%[req.fhdr(host),regsub(:[0-9]*$,)]")
		if f.Redirect != httpsPort {
			w.word(":").int(int64(f.Redirect))
		}
		w.line("%[pathq]")
		return
	}
	if f.Mode == weir.HTTP {
		w.routes(f)
	}
	if f.Backend == "" && f.Mode == weir.HTTP {
		w.word("    http-request deny deny_status 404")
		if len(f.Routes) > 0 {
			w.word(" unless routed")
		}
		w.line("")
		w.uses(f)
		return
	}
	if f.Mode == weir.HTTP {
		w.uses(f)
	}
	w.word("    default_backend ").name(f.Backend).line("")
}

// challenges writes how an authority's question whether somebody has a name (ACME's HTTP-01) is answered. The answer is made
// of the question and the account, so that every instance knows it; and of no character but those that a token has.
func (w *writer) challenges(thumbprint string) {
	if thumbprint == "" || strings.Trim(thumbprint, base64url) != "" {
		return
	}
	w.word(`    http-request return status 200 content-type text/plain lf-string "%[path,field(-1,/)].`).word(thumbprint)
	w.line(`" if { path_reg '^/[.]well-known/acme-challenge/[A-Za-z0-9_-]+$' }`)
}

// base64url are the characters of tokens and thumbprints.
const base64url = letters + "0123456789-_"

// httpsPort needs no word in a URL.
const httpsPort = 443

// The ciphers of TLS 1.2: those with forward secrecy and authenticated encryption, as Mozilla's guidelines for
// intermediate compatibility have them, but for DHE; and others that are still safe, for older clients. TLS 1.3 has its own.
const (
	strongCiphers = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:" +
		"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
	otherCiphers = "ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:AES128-GCM-SHA256:AES256-GCM-SHA384"
)

// aclAddrs is how many addresses are on a line, which may have 64 words.
const aclAddrs = 50

// clients writes which connections are not accepted: of those whose address is (if) or is not (unless) one of these. What
// is handed on by another frontend comes from no address, and was let in there.
func (w *writer) clients(name, when string, addrs []netip.Prefix) {
	if len(addrs) == 0 {
		return
	}
	w.addrs(name, addrs)
	w.word("    tcp-request connection reject ").word(when).line(name)
}

// addrs writes an ACL of clients' addresses.
func (w *writer) addrs(name string, addrs []netip.Prefix) {
	for chunk := range slices.Chunk(addrs, aclAddrs) {
		w.word("    acl ").word(name).word(" src")
		for _, p := range chunk {
			w.word(" ").word(p.Masked().String())
		}
		w.line("")
	}
}

// healthBinds returns where HAProxy answers that it lives.
func healthBinds(p *weir.Proxy) (binds []netip.AddrPort) {
	if !p.Health {
		return nil
	}
	binds = append(binds, netip.AddrPortFrom(netip.IPv4Unspecified(), weir.HealthPort))
	if p.Floating.Is6() {
		binds = append(binds, netip.AddrPortFrom(netip.IPv6Unspecified(), weir.HealthPort))
	}
	return binds
}

// healthFrontend is what it is called; no rule's frontend is.
const healthFrontend = own + "health"

// health writes the frontend by which others see that HAProxy lives, whatever its servers do.
func (w *writer) health(p *weir.Proxy) {
	if !p.Health {
		return
	}
	w.line("")
	w.word("frontend ").line(healthFrontend)
	for _, bind := range healthBinds(p) {
		w.word("    bind ").addr(bind)
		if bind.Addr().Is6() {
			w.word(" v6only")
		}
		w.line("")
	}
	w.line("    mode http")
	w.line("    timeout client 5s")
	w.line("    http-request return status 200 content-type text/plain string alive")
}

func (w *writer) backend(b *weir.Backend) {
	w.line("")
	w.word("backend ").name(b.Name).line("")
	w.mode(b.Mode)
	if b.Balance == weir.LeastConnections {
		w.line("    balance leastconn")
	} else {
		w.line("    balance roundrobin")
	}
	if b.Mode == weir.HTTP {
		if b.Shared {
			w.line("    http-reuse always")
		} else {
			w.line("    http-reuse safe")
		}
	}
	if b.Mode == weir.HTTP && b.Sticky != nil {
		// Cookies are made from servers' addresses and the key, so that those of all instances are the same, and
		// stay so when HAProxy reloads.
		w.word("    dynamic-cookie-key ").name(b.Key).line("")
		w.word("    cookie ").name(b.Sticky.Cookie).word(" insert indirect nocache httponly dynamic attr ")
		w.word("Max-Age=").int(int64(b.Sticky.TTL / time.Second)).line("")
	}
	w.word("    timeout server ").time(b.Idle).line("")
	w.word("    timeout tunnel ").time(b.Idle).line("")
	w.word("    timeout check ").time(b.Check.Timeout).line("")
	if b.Check.Protocol != weir.TCP {
		w.line("    option httpchk")
		// Frameworks that refuse unknown hosts let this one in.
		w.word("    http-check send meth GET uri ").quote(cmp.Or(b.Check.Path, "/")).line(" ver HTTP/1.1 hdr Host localhost hdr User-Agent Weir")
	}
}

func (w *writer) mode(m weir.Protocol) {
	if m == weir.HTTP {
		w.line("    mode http")
	} else {
		w.line("    mode tcp")
	}
}

// optionsOf returns the end of each server's line: what it speaks, and how it is checked.
func optionsOf(b *weir.Backend) string {
	w, c := new(writer), &b.Check
	switch b.Secure {
	case weir.HTTPS:
		w.word(" ssl verify none sni req.hdr(host),field(1,:) alpn http/1.1")
	case weir.HTTP2:
		w.word(" ssl verify none sni req.hdr(host),field(1,:) alpn h2")
	}
	if b.Proxy {
		w.word(" send-proxy")
	}
	if c.Protocol == weir.HTTPS {
		w.word(" check-ssl check-alpn http/1.1")
		if b.Secure == "" {
			w.word(" verify none")
		}
	}
	if c.Proxy {
		w.word(" check-send-proxy")
	}
	w.word(" check port ").int(int64(c.Port))
	w.word(" inter ").time(c.Interval)
	// One check that fails is followed by others soon, so that thresholds are reached soon; and
	// one that is down is asked more often, so that it is back, or joins, soon.
	w.word(" fastinter ").time(min(c.Interval, time.Second))
	w.word(" downinter ").time(min(c.Interval, time.Second))
	w.word(" fall ").int(int64(max(c.Unhealthy, 1)))
	w.word(" rise ").int(int64(max(c.Healthy, 1)))
	if b.SlowStart > 0 {
		w.word(" slowstart ").time(b.SlowStart)
	}
	return string(w.buf)
}

// server writes a server as both the file and the runtime command "add server" take it,
// which inherits nothing from the backend.
func (w *writer) server(s *weir.Server, id int, options string) *writer {
	w.name(serverName(s.ID)).word(" ").addr(s.Addr)
	w.word(" id ").int(int64(id))
	w.word(" weight ").int(int64(weightOf(s)))
	return w.word(options)
}

func weightOf(s *weir.Server) int { return min(max(s.Weight, 0), 256) }

// serverName is HAProxy's name of a machine.
func serverName(id weir.ID) string { return sanitize(string(id)) }

// serverIDs returns HAProxy's number for each server: its machine's ID, where that is a
// number that HAProxy can have (31 bits), and a hash of it otherwise. Two that hash alike
// get different ones.
func serverIDs(servers []weir.Server) []int {
	ids := make([]int, len(servers))
	hashed := false
	for i := range servers {
		id := string(servers[i].ID)
		n, err := strconv.ParseInt(id, 10, 32)
		if err == nil && n > 0 && id[0] != '0' && id[0] != '+' {
			ids[i] = int(n)
			continue
		}
		h := fnv.New32a()
		h.Write([]byte(id))
		ids[i], hashed = max(int(h.Sum32()&0x7fffffff), 1), true
	}
	if !hashed {
		return ids
	}
	taken := make(map[int]bool, len(servers))
	for i, id := range ids {
		for taken[id] {
			id = id%0x7fffffff + 1
		}
		taken[id] = true
		ids[i] = id
	}
	return ids
}

// writer appends to a configuration. Only name, addr, time, int, quote and comment take
// what a document says; word and line take constants.
type writer struct{ buf []byte }

func (w *writer) word(s string) *writer {
	w.buf = append(w.buf, s...)
	return w
}

func (w *writer) line(s string) {
	w.buf = append(append(w.buf, s...), '\n')
}

func (w *writer) int(n int64) *writer {
	w.buf = strconv.AppendInt(w.buf, n, 10)
	return w
}

// time writes d in the range that HAProxy has, 1 ms to 24 days.
func (w *writer) time(d time.Duration) *writer {
	ms := min(max(d.Milliseconds(), 1), (24 * 24 * time.Hour).Milliseconds())
	if ms%1000 == 0 {
		return w.int(ms / 1000).word("s")
	}
	return w.int(ms).word("ms")
}

// addr writes an address without its zone, which is free text.
func (w *writer) addr(a netip.AddrPort) *writer {
	if !a.IsValid() {
		return w.word("0.0.0.0:0")
	}
	w.buf = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).AppendTo(w.buf)
	return w
}

func (w *writer) name(s string) *writer { return w.word(sanitize(s)) }

// sanitize returns s with only the characters that HAProxy's names may have.
func sanitize(s string) string {
	if s == "" {
		return "_"
	}
	s = s[:min(len(s), 255)]
	for i := range len(s) {
		if !nameChars[s[i]] {
			return strings.Map(func(r rune) rune {
				if r > 0x7f || !nameChars[r] {
					return '_'
				}
				return r
			}, s)
		}
	}
	return s
}

var nameChars = func() (is [256]bool) {
	for _, c := range []byte("-_.:0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		is[c] = true
	}
	return is
}()

// comment writes texts of which none can end the line; HAProxy reads at most 2,048 bytes
// of one.
func (w *writer) comment(texts ...string) {
	for _, s := range texts {
		from := len(w.buf)
		w.buf = append(w.buf, s[:min(len(s), 255)]...)
		for i, c := range w.buf[from:] {
			if c < ' ' || c == 0x7f {
				w.buf[from+i] = '_'
			}
		}
	}
}

// safe are characters that mean themselves.
const safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:=&?,"

// quote writes s as one word, whatever is in it. Control characters, which no path on the
// wire has, become underscores: HAProxy has no way to write a line feed within a line.
func (w *writer) quote(s string) *writer {
	if s != "" && strings.Trim(s, safe) == "" {
		return w.word(s)
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, s)
	// Either kind of quotes will do; the shorter keeps within HAProxy's longest line.
	single := "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	double := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(s) + `"`
	if len(single) <= len(double) {
		return w.word(single)
	}
	return w.word(double)
}
