package haproxy

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"weir/weir"
)

// hostPattern is of a Host that may be in a URL that others follow: a name or an address, and a port.
const hostPattern = `'^([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$'`

// routes writes which of a frontend's routes takes a request, and what becomes of it then. The route's number is in a variable
// of the transaction, so that what a rewrite changes does not matter to later rules, nor to those for the answer.
func (w *writer) routes(f *weir.Frontend) {
	if len(f.Routes) == 0 {
		return
	}
	w.line("    http-request set-var(txn.host) req.fhdr(host),lower,regsub(:[0-9]*$,),regsub([.]$,)")
	w.line("    acl routed var(txn.route) -m found")
	for i := range f.Routes {
		r, n := &f.Routes[i], strconv.Itoa(i)
		condition := " if !routed"
		if len(r.Hosts) > 0 {
			w.hosts("host-"+n, r.Hosts)
			condition += " host-" + n
		}
		if path := segments(r.Path); path != "" {
			w.word("    acl path-").word(n).word(" path -m str -- ").line(path)
			w.word("    acl path-").word(n).word(" path -m beg -- ").word(path).line("/")
			condition += " path-" + n
		}
		w.word("    http-request set-var(txn.route) int(").word(n).word(")").line(condition)
	}
	if slices.ContainsFunc(f.Routes, func(r weir.FrontRoute) bool { return r.Redirect != nil && r.Redirect.Host == "" }) {
		w.word("    acl named req.fhdr(host),lower -m reg ").line(hostPattern)
	}
	for i := range f.Routes {
		r, n := &f.Routes[i], strconv.Itoa(i)
		on := " if on-" + n
		w.word("    acl on-").word(n).word(" var(txn.route) -m int ").line(n)
		w.responseHeaders(&r.Headers, on)
		if r.Redirect != nil {
			w.redirect(f, r, on)
			continue
		}
		w.requestHeaders(&r.Headers, on)
		if r.Rewrite != nil {
			w.rewrite(r, on)
		}
	}
}

// uses writes the backends of routes, behind all rules for requests.
func (w *writer) uses(f *weir.Frontend) {
	for i := range f.Routes {
		if r := &f.Routes[i]; r.Redirect == nil && r.Backend != "" {
			w.word("    use_backend ").name(r.Backend).word(" if on-").line(strconv.Itoa(i))
		}
	}
}

// aclBytes is about how long a line of names gets; HAProxy reads at most 2,048 bytes of one.
const aclBytes = 1500

// hosts writes an ACL of a request's host, on as many lines as it takes.
func (w *writer) hosts(acl string, hosts []string) {
	var exact, below []string
	for _, h := range hosts {
		h = strings.ToLower(h)
		if rest, ok := strings.CutPrefix(h, "*."); ok {
			below = append(below, "."+only(rest, hostChars, 253))
		} else {
			exact = append(exact, only(h, hostChars, 253))
		}
	}
	for _, kind := range [...]struct {
		match string
		names []string
	}{{"str", exact}, {"end", below}} {
		size := aclBytes
		for i, name := range kind.names {
			if size+len(name) > aclBytes {
				if i > 0 {
					w.line("")
				}
				w.word("    acl ").word(acl).word(" var(txn.host) -m ").word(kind.match).word(" --")
				size = 0
			}
			w.word(" ").word(name)
			size += len(name) + 1
		}
		if len(kind.names) > 0 {
			w.line("")
		}
	}
}

const (
	hostChars = letters + "0123456789-_."
	pathChars = letters + "0123456789-_./~"
)

// cleanPath returns a path of few characters, of which none but the dot means anything in a pattern or a format.
func cleanPath(s string) string {
	if s == "" {
		return ""
	}
	return only(s, pathChars, 256)
}

// segments is a path that others begin with, without the slash behind it: empty if it is all of them.
func segments(path string) string { return strings.TrimRight(cleanPath(path), "/") }

// replaced returns what a path becomes, as a format: instead of all of it, or of what the route's path fits; and behind it
// what follows of whole, which is "path" or "pathq". It is empty if the path stays.
func replaced(r *weir.FrontRoute, path, prefix, whole string) string {
	was, is := segments(r.Path), segments(prefix)
	switch {
	case path != "" && whole == "path":
		return cleanPath(path)
	case path != "":
		return cleanPath(path) + "%[pathq,regsub(^[^?]*,)]"
	case prefix == "":
		return ""
	case was == "":
		return is + "%[" + whole + "]"
	case is == "":
		return "%[" + whole + ",regsub(^" + strings.ReplaceAll(was, ".", "[.]") + "/?,/)]"
	}
	return is + "%[" + whole + ",bytes(" + strconv.Itoa(len(was)) + ")]"
}

func (w *writer) rewrite(r *weir.FrontRoute, on string) {
	if to := r.Rewrite.Host; to != "" {
		w.word("    http-request set-header Host ").word(only(to, hostChars, 253)).line(on)
	}
	if to := replaced(r, r.Rewrite.Path, r.Rewrite.Prefix, "path"); to != "" {
		w.word("    http-request set-path ").word(to).line(on)
	}
}

// redirect writes where a route sends a client: to a whole URL, as a path alone that begins with two slashes would be a host.
func (w *writer) redirect(f *weir.Frontend, r *weir.FrontRoute, on string) {
	to := r.Redirect
	if to.Host == "" {
		w.word("    http-request deny deny_status 400").word(on).line(" !named")
	}
	scheme := "http"
	if to.Scheme == "https" || to.Scheme == "" && f.TLS != nil {
		scheme = "https"
	}
	w.word("    http-request redirect code ").int(int64(redirectStatus(to))).word(" location ").word(scheme).word("://")
	switch {
	case to.Host != "":
		w.word(only(to.Host, hostChars, 253))
	case to.Scheme == "" && to.Port == 0:
		w.word("%[req.fhdr(host),lower]") // with its port
	default:
		w.word("%[var(txn.host)]")
	}
	if to.Port != 0 && to.Port != map[string]int{"http": 80, "https": httpsPort}[scheme] {
		w.word(":").int(int64(to.Port))
	}
	w.word(cmp.Or(replaced(r, to.Path, to.Prefix, "pathq"), "%[pathq]")).line(on)
}

// redirectStatus is one that HAProxy can redirect with.
func redirectStatus(r *weir.Redirect) int {
	switch r.Status {
	case http.StatusMovedPermanently, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return r.Status
	}
	return http.StatusFound
}

// checkRoutes returns why the routes of a frontend cannot be rendered as they are.
func checkRoutes(f *weir.Frontend, modes map[string]weir.Protocol) error {
	if len(f.Routes) > 0 && f.Mode != weir.HTTP {
		return fmt.Errorf("frontend %s has routes, and speaks no HTTP", f.Name)
	}
	for i := range f.Routes {
		r := &f.Routes[i]
		mode, ok := modes[r.Backend]
		if r.Redirect == nil && (!ok || mode != weir.HTTP) {
			return fmt.Errorf("frontend %s: route %d: there is no backend %.60q that speaks HTTP", f.Name, i, r.Backend)
		}
		for _, host := range r.Hosts {
			if name := strings.TrimPrefix(host, "*."); only(name, hostChars, 253) != name {
				return fmt.Errorf("frontend %s: route %d: host %.80q: it cannot be one", f.Name, i, host)
			}
		}
		paths, hosts := []string{r.Path}, []string{}
		if to := r.Redirect; to != nil {
			paths, hosts = append(paths, to.Path, to.Prefix), append(hosts, to.Host)
		}
		if to := r.Rewrite; to != nil {
			paths, hosts = append(paths, to.Path, to.Prefix), append(hosts, to.Host)
		}
		for _, path := range paths {
			if path != "" && (cleanPath(path) != path || path[0] != '/') {
				return fmt.Errorf("frontend %s: route %d: path %.80q: it cannot be one", f.Name, i, path)
			}
		}
		for _, host := range hosts {
			if host != "" && only(host, hostChars, 253) != host {
				return fmt.Errorf("frontend %s: route %d: host %.80q: it cannot be one", f.Name, i, host)
			}
		}
		if err := checkHeaders(&r.Headers); err != nil {
			return fmt.Errorf("frontend %s: route %d: %w", f.Name, i, err)
		}
	}
	return nil
}
