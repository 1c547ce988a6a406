package haproxy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

// An authority that asks by ACME's TLS-ALPN-01 (RFC 8737) wants to be shown a certificate for the challenge, at a port where
// everybody else is shown another. HAProxy 2.6 chooses certificates by name alone. So, as long as there are challenges,
// another frontend takes the port, looks at the first message of each connection without ending TLS, and hands the
// connection on: to the frontend of challenges if the authority's protocol is offered, and to the usual one otherwise.
// It does so by a socket within the machine, with the client's address in front (PROXY), so that the usual one sees no
// difference.
//
// A worker that a reload has replaced hands on what it had accepted when it was replaced. That is why the usual frontend has the
// socket beside its port also while there are no challenges: the worker that comes after takes the socket over.

// own begins the names of frontends and backends that are HAProxy's own business, and in no document.
const own = "weir-"

// The names of what there is for challenges.
const (
	challengeFrontend = own + "challenges"
	helloFrontend     = own + "hello-" // and the name of the frontend whose port it has
	handBackend       = own + "hand-"  // and the name of the frontend that it leads to
)

// jailDir has the sockets by which connections are handed on. Workers see nothing else of the file system: they are
// somebody else than who made the directories above it, and are not let through those.
const jailDir = "jail"

// challengeSocket is where the frontend of challenges takes connections.
const challengeSocket = "c.sock"

// helloTime is how long a connection may take to say what it wants. One that says nothing is handed on all the same.
const helloTime = 5 * time.Second

// handedSlack is how much longer than the usual frontend, whose timeouts count, the one before it waits.
const handedSlack = time.Minute

// handSocket is where a frontend takes connections that are handed on.
func handSocket(f *weir.Frontend) string {
	if f.Bind.Addr().Unmap().Is4() {
		return "4.sock"
	}
	return "6.sock"
}

// takesHanded reports whether a frontend takes connections that are handed on to it.
func takesHanded(f *weir.Frontend) bool { return f.TLS != nil && f.TLS.Challenged }

// jailed reports whether p has sockets by which connections are handed on.
func jailed(p *weir.Proxy) bool {
	return slices.ContainsFunc(p.Frontends, func(f weir.Frontend) bool { return takesHanded(&f) })
}

// challenged reports whether another frontend has the ports of those that take what is handed on.
func challenged(p *weir.Proxy) bool { return len(p.Challenges) > 0 && jailed(p) }

// jail makes the directory of the sockets if p needs it.
func (p *Proxy) jail(want *weir.Proxy) error {
	if !jailed(want) {
		return nil
	}
	if err := os.MkdirAll(p.path(jailDir), 0o711); err != nil {
		return err
	}
	return os.Chmod(p.path(jailDir), 0o711) // whatever the mask
}

// checkChallenges returns why p's challenges cannot be answered as it is.
func checkChallenges(p *weir.Proxy) error {
	taken := map[string]string{}
	for i := range p.Frontends {
		f := &p.Frontends[i]
		if strings.HasPrefix(f.Name, own) {
			return fmt.Errorf("frontend %s: names that begin with %s are HAProxy's own", f.Name, own)
		}
		if !takesHanded(f) {
			continue
		}
		if other := taken[handSocket(f)]; other != "" {
			return fmt.Errorf("frontends %s and %s both answer challenges, want one for IPv4 and one for IPv6", other, f.Name)
		}
		taken[handSocket(f)] = f.Name
	}
	for i := range p.Backends {
		if strings.HasPrefix(p.Backends[i].Name, own) {
			return fmt.Errorf("backend %s: names that begin with %s are HAProxy's own", p.Backends[i].Name, own)
		}
	}
	return nil
}

// challengeFiles adds the certificates of challenges to the files that p needs.
func challengeFiles(p *weir.Proxy, files map[string][]byte) error {
	if !challenged(p) {
		return nil
	}
	var list bytes.Buffer
	for n, c := range p.Challenges {
		text := p.PEM[c.ID]
		if text == "" {
			return fmt.Errorf("the certificate of challenge %s is missing", c.ID)
		}
		file := challengeFrontend + "." + strconv.Itoa(n) + ".pem"
		files[file] = []byte(text)
		fmt.Fprintln(&list, file)
	}
	files[challengeFrontend+".list"] = list.Bytes()
	return nil
}

// jailLine has workers see nothing but the sockets by which connections are handed on.
func (w *writer) jailLine(p *weir.Proxy, on Host) {
	if on.User != "" && jailed(p) {
		w.word("    chroot ").quote(on.path(jailDir)).line("")
	}
}

// binds writes where a frontend takes connections, each with the end of its line, which says how TLS is ended.
func (w *writer) binds(f *weir.Frontend, p *weir.Proxy, on Host, end string) {
	if !takesHanded(f) || !challenged(p) {
		w.port(f, p)
		w.line(end)
	}
	if takesHanded(f) {
		w.inside(handSocket(f), on)
		w.word(" accept-proxy").line(end)
	}
}

// port writes the beginning of the line that binds a frontend to its address and port.
func (w *writer) port(f *weir.Frontend, p *weir.Proxy) {
	w.word("    bind ").addr(f.Bind)
	if p.Floating.IsValid() && f.Bind.Addr() == p.Floating {
		w.word(" transparent") // also while this machine does not have the address
	}
}

// inside writes the beginning of the line that binds a frontend to a socket within the machine.
func (w *writer) inside(socket string, on Host) {
	w.word("    bind unix@").quote(filepath.Join(on.path(jailDir), socket)).word(" mode 600")
	if on.User != "" {
		w.word(" user ").name(on.User)
	}
}

// hand writes a server that is another frontend of this HAProxy.
func (w *writer) hand(socket string, on Host) *writer {
	path := filepath.Join(on.path(jailDir), socket)
	if on.User != "" {
		path = "/" + socket // where workers see it
	}
	return w.word("    server here unix@").quote(path)
}

// hellos writes what takes the ports while there are challenges, and answers these.
func (w *writer) hellos(p *weir.Proxy, on Host) {
	if !challenged(p) {
		return
	}
	n := 0
	for i := range p.Frontends {
		if takesHanded(&p.Frontends[i]) {
			n++
		}
	}
	for i := range p.Frontends {
		f := &p.Frontends[i]
		if !takesHanded(f) {
			continue
		}
		w.line("")
		w.line("# While an authority asks by TLS-ALPN-01.")
		w.word("frontend " + helloFrontend).name(f.Name).line("")
		w.port(f, p)
		w.line("")
		w.line("    mode tcp")
		if on.Files > 0 {
			// Each connection that is handed on counts twice: with all that there are here, none could arrive.
			w.word("    maxconn ").int(int64(max(maxConn(on.Files, p)/(2*n), 1))).line("")
		}
		w.clients("denied", "if ", p.Denied)
		w.clients("welcome", "unless ", p.Clients)
		w.word("    timeout client ").time(f.Idle + handedSlack).line("")
		w.word("    tcp-request inspect-delay ").time(helloTime).line("")
		w.line("    tcp-request content accept if { req.ssl_hello_type 1 }")
		// Each protocol that is offered is compared. The authority offers no other.
		w.line("    use_backend " + challengeFrontend + " if { req.ssl_alpn acme-tls/1 } !{ req.ssl_alpn h2 http/1.1 }")
		w.word("    default_backend " + handBackend).name(f.Name).line("")
		w.line("")
		w.word("backend " + handBackend).name(f.Name).line("")
		w.line("    mode tcp")
		w.word("    timeout server ").time(f.Idle + handedSlack).line("")
		w.hand(handSocket(f), on).line(" send-proxy-v2")
	}
	w.line("")
	w.line("frontend " + challengeFrontend)
	w.inside(challengeSocket, on)
	w.word(" ssl crt-list ").quote(filepath.Join(on.certs(), challengeFrontend+".list")).line(" strict-sni alpn acme-tls/1 ssl-min-ver TLSv1.2")
	w.line("    mode tcp")
	w.word("    timeout client ").time(helloTime).line("")
	w.line("    # The handshake was the answer.")
	w.line("    tcp-request session reject")
	w.line("")
	w.line("backend " + challengeFrontend)
	w.line("    mode tcp")
	w.word("    timeout server ").time(helloTime).line("")
	w.hand(challengeSocket, on).line("")
}
