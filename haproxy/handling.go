package haproxy

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

// The files of a document that tell how requests are handled. Frontends' certificates have other endings.
const (
	usersFile       = "users.acl"
	clientsFile     = "clients.ca"
	maintenanceFile = "maintenance.html"
	busyFile        = "busy.html"
)

// pageFile is the file of a whole answer.
func pageFile(status int) string { return "page-" + strconv.Itoa(status) + ".http" }

// handlingFiles adds to files those that tell how requests are handled. HAProxy reads them when it loads a configuration, so
// that what is in them is part of its shape.
func handlingFiles(p *weir.Proxy, files map[string][]byte) {
	h := &p.Handling
	for status, html := range h.Pages {
		files[pageFile(status)] = fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nCache-Control: no-cache\r\nContent-Length: %d\r\n\r\n%s",
			status, http.StatusText(status), htmlType, len(html), html)
	}
	if page := h.Pages[http.StatusTooManyRequests]; page != "" && limited(p) {
		files[busyFile] = []byte(page)
	}
	if m := h.Maintenance; m != nil && m.On && m.Page != "" {
		files[maintenanceFile] = []byte(m.Page)
	}
	if h.Login != nil {
		var users strings.Builder
		for _, u := range h.Login.Users {
			if isHash(u.Hash) {
				users.WriteString(u.Hash + "\n")
			}
		}
		files[usersFile] = []byte(users.String())
	}
	if h.ClientCerts != nil && slices.ContainsFunc(p.Frontends, func(f weir.Frontend) bool { return f.TLS != nil }) {
		files[clientsFile] = []byte(h.ClientCerts.CA)
	}
}

// isHash reports whether s is what [weir.Login.Hash] returns.
func isHash(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789ABCDEF") == ""
}

// htmlType is the type of pages.
const htmlType = "text/html; charset=utf-8"

// The pages of who has none.
const (
	busyPage        = "<!DOCTYPE html><html><title>Too many requests</title><p>Too many requests. Please try again later.</p></html>"
	maintenancePage = "<!DOCTYPE html><html><title>Maintenance</title><p>This site is under maintenance. Please try again later.</p></html>"
)

// limited reports whether clients are counted.
func limited(p *weir.Proxy) bool {
	return p.Handling.Rate != nil || p.Handling.Connections > 0
}

// localPeer is HAProxy's name of itself, and of the section that has its table of clients.
const localPeer = "weir"

// clientsTable is the table of clients.
const clientsTable = localPeer + "/clients"

// tableSize is how many clients are counted at a time, in about 20 MB; those that were not seen for longest give way.
const tableSize = 100_000

// handled writes the sections that frontends refer to.
func (w *writer) handled(p *weir.Proxy, on Host) {
	h := &p.Handling
	if limited(p) {
		// A new worker gets the counts of the one before over a socket without a file, since
		// workers have no right to open any in the directory.
		sum := sha256.Sum256([]byte(on.path("")))
		w.line("")
		w.word("peers ").line(localPeer)
		w.word("    peer ").word(localPeer).word(" abns@weir-").line(hex.EncodeToString(sum[:8]))
		w.word("    table clients type ipv6 size ").int(tableSize).word(" expire ")
		period := time.Minute
		if h.Rate != nil {
			period = max(h.Rate.Period, time.Second)
		}
		w.time(period).word(" store conn_cur")
		if h.Rate != nil {
			w.word(",http_req_rate(").time(period).word("),gpc0_rate(").time(period).word(")")
		}
		w.line("")
	}
	if len(h.Pages) > 0 {
		w.line("")
		w.line("http-errors weir")
		for _, status := range slices.Sorted(maps.Keys(h.Pages)) {
			w.word("    errorfile ").int(int64(status)).word(" ").quote(filepath.Join(on.certs(), pageFile(status))).line("")
		}
	}
}

// limits writes how clients are counted, and which connections are refused where no HTTP is spoken: see busy. Who is refused
// counts, too.
func (w *writer) limits(f *weir.Frontend, p *weir.Proxy) {
	h := &p.Handling
	if f.Mode == weir.HTTP && len(h.Pages) > 0 {
		w.line("    errorfiles weir")
	}
	if !limited(p) {
		return
	}
	// Of a connection that is handed on it is known only once it is a session who the client is.
	of := "connection"
	if takesHanded(f) {
		of = "session"
	}
	w.word("    tcp-request ").word(of).word(" track-sc0 src,ipmask(32,64) table ").line(clientsTable)
	if f.Mode != weir.HTTP {
		if h.Rate != nil {
			w.line("    tcp-request connection sc-inc-gpc0(0)")
			w.word("    tcp-request connection reject if { sc_gpc0_rate(0) gt ").int(int64(h.Rate.Requests)).line(" }")
		}
		if h.Connections > 0 {
			w.word("    tcp-request connection reject if { sc_conn_cur(0) gt ").int(int64(h.Connections)).line(" }")
		}
		return
	}
	if h.Connections > 0 {
		// Those that were there before go on.
		w.word("    tcp-request ").word(of).word(" set-var(sess.over) bool(true) if { sc_conn_cur(0) gt ").int(int64(h.Connections)).line(" }")
	}
}

// busy writes what a client is answered that is beyond its limits.
func (w *writer) busy(f *weir.Frontend, p *weir.Proxy, on Host) {
	h := &p.Handling
	if f.Mode != weir.HTTP {
		return
	}
	answer := func(after time.Duration) *writer {
		return w.word("    http-request return status 429 content-type '"+htmlType+"' ").page(h.Pages[http.StatusTooManyRequests], busyFile, busyPage, on).
			word(" hdr Cache-Control no-cache hdr Retry-After ").seconds(after)
	}
	if h.Connections > 0 {
		answer(time.Second).line(" hdr Connection close if { var(sess.over) -m bool }")
	}
	if h.Rate != nil {
		answer(h.Rate.Period).word(" if { sc_http_req_rate(0) gt ").int(int64(h.Rate.Requests)).line(" }")
	}
}

// lengths has requests refused whose Content-Length HAProxy 2.6 may read as another: it notices most numbers above 64 bits, takes
// 18446744073709551617 for 1, and passes the header on as it is to servers, for which what follows may be the body.
func (w *writer) lengths(f *weir.Frontend) {
	if f.Mode == weir.HTTP {
		w.line("    http-request reject if { req.fhdr(content-length) -m len gt 18 }")
	}
}

// page writes what an answer has in it: the page of the document, from its file, or one of ours.
func (w *writer) page(given, file, ours string, on Host) *writer {
	if given == "" {
		return w.word("string ").quote(ours)
	}
	return w.word("file ").quote(filepath.Join(on.certs(), file))
}

// seconds writes d in whole seconds, at least one.
func (w *writer) seconds(d time.Duration) *writer {
	return w.int(max(int64((d+time.Second-1)/time.Second), 1))
}

// handling writes what precedes the choice of a backend in a frontend that speaks HTTP.
func (w *writer) handling(f *weir.Frontend, p *weir.Proxy, on Host) {
	h := &p.Handling
	if m := h.Maintenance; m != nil && m.On {
		var exempt []netip.Prefix
		for _, text := range m.Allow {
			if a, err := weir.ParseClients(text); err == nil {
				exempt = append(exempt, a)
			}
		}
		w.addrs("exempt", exempt)
		w.word("    http-request return status 503 content-type '"+htmlType+"' ").page(m.Page, maintenanceFile, maintenancePage, on).word(" hdr Cache-Control no-cache")
		if m.RetryAfter > 0 {
			w.word(" hdr Retry-After ").seconds(m.RetryAfter)
		}
		if len(exempt) > 0 {
			w.word(" unless exempt")
		}
		w.line("")
	}
	w.responseHeaders(&h.Headers, "")
	if f.Redirect != 0 {
		return
	}
	if h.Compress {
		w.line("    compression algo gzip")
		w.line("    compression type " + compressed)
	}
	if h.ClientCerts != nil {
		// Also as servers may see the names that make no difference between - and _.
		w.line("    http-request del-header ^x[-_]client[-_](verify|subject|fingerprint)$ -m reg")
		w.line("    http-request set-header X-Client-Verify NONE")
		if f.TLS != nil {
			w.line("    acl shown ssl_c_used")
			w.line("    acl shown-good ssl_c_verify 0")
			w.line("    http-request set-header X-Client-Verify SUCCESS if shown shown-good")
			w.line("    http-request set-header X-Client-Subject %[ssl_c_s_dn(,0,rfc2253)] if shown shown-good")
			w.line("    http-request set-header X-Client-Fingerprint %[ssl_c_der,sha2(256),hex,lower] if shown shown-good")
		}
	}
	if l := h.Login; l != nil {
		w.word("    http-request auth realm ").quote(realm(l)).word(" unless { req.fhdr_cnt(authorization) 1 }").
			word(" { req.fhdr(authorization) -m reg -i '^basic +[a-z0-9+/]+=*$' }").
			word(" { req.fhdr(authorization),word(2,' '),b64dec,hmac(sha256,").word(base64.StdEncoding.EncodeToString(l.Salt)).word("),hex -m str -f ").
			quote(filepath.Join(on.certs(), usersFile)).line(" }")
	}
	w.requestHeaders(&h.Headers, "")
}

// compressed are the types of texts. HAProxy compares what types begin with.
const compressed = "text/html text/plain text/css text/xml text/csv text/javascript text/markdown application/javascript application/json " +
	"application/ld+json application/manifest+json application/xml application/xhtml+xml application/rss+xml application/atom+xml " +
	"image/svg+xml"

// realm returns what clients are told that they log in to; it is quoted for them without a way to have quotes in it.
func realm(l *weir.Login) string {
	if l.Realm == "" {
		return "Restricted"
	}
	return strings.NewReplacer(`"`, "_", `\`, "_").Replace(l.Realm)
}

// requestHeaders writes how the headers of requests are changed on a condition, always if it is empty.
func (w *writer) requestHeaders(h *weir.Headers, condition string) {
	w.headers("    http-request ", h.SetRequest, h.RemoveRequest, condition)
}

// responseHeaders does so for answers, also those that HAProxy gives itself.
func (w *writer) responseHeaders(h *weir.Headers, condition string) {
	w.headers("    http-after-response ", h.SetResponse, h.RemoveResponse, condition)
}

func (w *writer) headers(rule string, set map[string]string, remove []string, condition string) {
	for _, name := range remove {
		w.word(rule).word("del-header ").word(headerName(name)).line(condition)
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		w.word(rule).word("set-header ").word(headerName(name)).word(" ").literal(set[name]).line(condition)
	}
}

// literal writes text where HAProxy expects a format.
func (w *writer) literal(text string) *writer {
	if text == "" {
		return w.word("%[str()]")
	}
	return w.quote(strings.ReplaceAll(text, "%", "%%"))
}

// headerName returns s with only the characters that weir.Headers allows in a name.
func headerName(s string) string {
	return only(s, headerChars, 64)
}

const headerChars = letters + "0123456789-_"

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// only returns the first bytes of s, with underscores for all that is not among chars.
func only(s, chars string, most int) string {
	if s == "" {
		return "_"
	}
	b := []byte(s[:min(len(s), most)])
	for i, c := range b {
		if strings.IndexByte(chars, c) < 0 {
			b[i] = '_'
		}
	}
	return string(b)
}

// checkHandling returns why p's Handling cannot be rendered as it is.
func checkHandling(p *weir.Proxy) error {
	h := &p.Handling
	if err := checkHeaders(&h.Headers); err != nil {
		return err
	}
	for status, html := range h.Pages {
		if !slices.Contains(weir.PageStatuses[:], status) {
			return fmt.Errorf("page for status %d: haproxy has no such error", status)
		}
		if len(html) > mostPage {
			return fmt.Errorf("page for status %d: %d bytes do not fit a buffer", status, len(html))
		}
	}
	if m := h.Maintenance; m != nil {
		if len(m.Page) > mostPage {
			return fmt.Errorf("page for maintenance: %d bytes do not fit a buffer", len(m.Page))
		}
		for _, text := range m.Allow {
			if _, err := weir.ParseClients(text); err != nil {
				return fmt.Errorf("maintenance: %w", err)
			}
		}
	}
	if r := h.Rate; r != nil && (r.Requests < 1 || r.Period < time.Second) {
		return fmt.Errorf("rate limit of %d requests in %s: want one and a second at least", r.Requests, r.Period)
	}
	if l := h.Login; l != nil {
		if len(l.Salt) == 0 {
			return fmt.Errorf("login has no salt")
		}
		for _, u := range l.Users {
			if !isHash(u.Hash) {
				return fmt.Errorf("login: user %.60q has no hash of a password", u.Name)
			}
		}
	}
	return nil
}

// mostPage is what an answer may have in it to fit HAProxy's buffers of 16 KiB, with headers and what HAProxy reserves.
const mostPage = 13 << 10

func checkHeaders(h *weir.Headers) error {
	for _, name := range slices.Concat(slices.Collect(maps.Keys(h.SetRequest)), h.RemoveRequest, slices.Collect(maps.Keys(h.SetResponse)), h.RemoveResponse) {
		if headerName(name) != name {
			return fmt.Errorf("header %.80q: it cannot be a name", name)
		}
	}
	return nil
}
