package haproxy

import (
	"bufio"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/weir"
)

// handledDocument has all of Handling but limits, at a frontend with TLS, one without, and one that redirects.
func handledDocument(t testing.TB) weir.Proxy {
	d := withTLS(testDocument(addr("10.10.0.2:443"),
		weir.Server{ID: "3164494", Name: "web-1", Addr: addr("10.10.0.11:8080"), Weight: 1}), certificate(t, 1, "shop.example"))
	d.Frontends = append(d.Frontends,
		weir.Frontend{Name: "http-80", Bind: addr("10.10.0.2:80"), Mode: weir.HTTP, Idle: time.Minute, Redirect: 443},
		weir.Frontend{Name: "http-81", Bind: addr("10.10.0.2:81"), Mode: weir.HTTP, Idle: time.Minute, Backend: "web"})
	d.Thumbprint = "udI34RjXhKADS3Zv2x0-RlXuonuFzKGEWtFnlf86eWM"
	d.Backends[0].SlowStart = 30 * time.Second
	login := &weir.Login{Realm: "Staff's only", Salt: []byte("salt\x00\xff")}
	login.Users = []weir.User{{Name: "al", Hash: login.Hash("al", "correct horse")}}
	ca, err := os.ReadFile("testdata/clients.ca") // always the same, as it is part of the shape
	if err != nil {
		t.Fatal(err)
	}
	d.Handling = weir.Handling{
		Headers: weir.Headers{
			SetRequest:     map[string]string{"X-Shop": `it's 100% "ours", \ $HOME %[src] #1`, "X-Empty": ""},
			RemoveRequest:  []string{"X-Debug"},
			SetResponse:    map[string]string{"Strict-Transport-Security": "max-age=31536000"},
			RemoveResponse: []string{"Server"},
		},
		Compress:    true,
		Pages:       map[int]string{502: "<h1>bad</h1>", 503: "<h1>none</h1>"},
		Maintenance: &weir.Maintenance{On: true, Page: "<h1>soon</h1>", RetryAfter: 90 * time.Second, Allow: []string{"ip:192.0.2.7", "cidr:2001:db8::/32"}},
		Login:       login,
		ClientCerts: &weir.ClientCertificates{CA: string(ca), Optional: true},
	}
	return d
}

func limitedDocument() weir.Proxy {
	d := testDocument(addr("10.10.0.2:80"), weir.Server{ID: "3164494", Name: "web-1", Addr: addr("10.10.0.11:8080"), Weight: 1})
	d.Frontends = append(d.Frontends, weir.Frontend{Name: "tcp-25", Bind: addr("10.10.0.2:25"), Mode: weir.TCP, Idle: time.Minute, Backend: "mail"})
	mail := d.Backends[0]
	mail.Name, mail.Mode = "mail", weir.TCP
	d.Backends = append(d.Backends, mail)
	d.Denied = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	d.Handling = weir.Handling{Rate: &weir.RateLimit{Requests: 100, Period: time.Minute}, Connections: 20, Pages: map[int]string{429: "<h1>slow</h1>"}}
	d.Frontends = slices.Clone(d.Frontends)
	return d
}

func routedDocument() weir.Proxy {
	d := testDocument(addr("10.10.0.2:80"), weir.Server{ID: "3164494", Name: "web-1", Addr: addr("10.10.0.11:8080"), Weight: 1})
	api := d.Backends[0]
	api.Name = "web-api"
	d.Backends = append(d.Backends, api)
	route := func(backend string, r weir.Route) weir.FrontRoute { return weir.FrontRoute{Route: r, Backend: backend} }
	d.Frontends[0].Routes = []weir.FrontRoute{
		route("web-api", weir.Route{Hosts: []string{"Shop.example", "*.shop.example"}, Path: "/api/",
			Rewrite: &weir.Rewrite{Host: "api.internal", Prefix: "/"},
			Headers: weir.Headers{SetRequest: map[string]string{"X-Route": "api"}, SetResponse: map[string]string{"X-Route": "100%"}}}),
		route("", weir.Route{Hosts: []string{"old.example"}, Redirect: &weir.Redirect{Host: "shop.example", Status: 308}}),
		route("", weir.Route{Path: "/old", Redirect: &weir.Redirect{Prefix: "/new.er"}}),
		route("", weir.Route{Path: "/secure", Redirect: &weir.Redirect{Scheme: "https", Port: 8443, Path: "/login"}}),
		route("web-api", weir.Route{Path: "/v1.0", Rewrite: &weir.Rewrite{Prefix: "/v2"}}),
		route("web-api", weir.Route{Path: "/fixed", Rewrite: &weir.Rewrite{Path: "/index.html"}}),
		route("web", weir.Route{Path: "/"}),
	}
	return d
}

// echo is a server that answers with what it was asked, under a name.
func echo(t testing.TB, name string) weir.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.1.4.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("App", name)
		w.Header().Set("X-Path", r.RequestURI)
		w.Header().Set("X-Host", r.Host)
		w.Header().Set("X-Debug-Info", "internal")
		switch r.URL.Path {
		case "/text":
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, strings.Repeat("text ", 1000))
			return
		case "/image":
			w.Header().Set("Content-Type", "image/png")
			io.WriteString(w, strings.Repeat("image", 1000))
			return
		case "/encoded":
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Encoding", "br")
			io.WriteString(w, strings.Repeat("coded", 1000))
			return
		}
		r.Header.Write(w)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return weir.Server{ID: "7", Name: name, Addr: l.Addr().(*net.TCPAddr).AddrPort(), Weight: 1}
}

// answer is what came of a request.
type answer struct {
	status int
	header http.Header
	body   string
}

// get makes a request by hand, as "method target" with headers, on a connection of its own from an address.
func get(t testing.TB, front netip.AddrPort, from, target string, headers ...string) answer {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("tcp", front.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return getOn(t, c, target, headers...)
}

func getOn(t testing.TB, c net.Conn, target string, headers ...string) answer {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if !slices.ContainsFunc(headers, func(h string) bool { return strings.HasPrefix(h, "Host:") }) {
		headers = append(headers, "Host: shop.example")
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\n%s\r\n\r\n", target, strings.Join(headers, "\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("GET %s: %v", target, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", target, err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// serve has a HAProxy with a document that change makes of one with a server that echoes.
func serve(t testing.TB, change func(d *weir.Proxy)) (p *Proxy, d weir.Proxy, front netip.AddrPort) {
	t.Helper()
	p, _ = startProxy(t, Options{})
	front = freeAddr(t)
	d = testDocument(front, echo(t, "web"))
	d.Backends[0].Check.Protocol = weir.TCP
	change(&d)
	set(t, p, d)
	ready(t, p)
	return p, d, front
}

// ready waits until all servers are up.
func ready(t testing.TB, p *Proxy) {
	t.Helper()
	eventually(t, func() string {
		_, servers, err := p.Status(t.Context())
		if err != nil {
			return err.Error()
		}
		for _, s := range servers {
			if s.State != weir.ServerUp {
				return fmt.Sprintf("%s/%s is %s", s.Backend, s.ID, s.State)
			}
		}
		return ""
	})
}

func TestHeadersArriveByteForByte(t *testing.T) {
	var all strings.Builder
	for c := byte(' '); c <= '~'; c++ {
		all.WriteByte(c)
	}
	values := map[string]string{
		"X-All": "!" + all.String() + "!", "X-Format": "%[src] %% %ci %", "X-End": `a\`, "X-Quotes": `'"'"`, "X-Home": `$HOME ${HOME} "$HOME"`,
		"X-Hash": "# a", "X-Long": strings.Repeat(`'"%\`, 256), "X-Empty": "",
	}
	_, _, front := serve(t, func(d *weir.Proxy) {
		d.Handling.Headers = weir.Headers{SetRequest: values, RemoveRequest: []string{"x-secret"}, SetResponse: values, RemoveResponse: []string{"X-Debug-Info"}}
	})
	got := get(t, front, "", "/", "X-All: mine", "X-All: too", "x-all: again", "X-Secret: 1", "X-Secret: 2", "X-Kept: 3")
	for name, value := range values {
		if v := got.header.Values(name); len(v) != 1 || v[0] != value {
			t.Errorf("the answer's %s is %q, want %q", name, v, value)
		}
		if strings.Count(got.body, "\r\n"+name+": ") != 1 && !strings.HasPrefix(got.body, name+": ") || !strings.Contains(got.body, name+": "+value+"\r\n") {
			t.Errorf("the server did not see %s once as %q:\n%s", name, value, got.body)
		}
	}
	if strings.Contains(got.body, "X-Secret") || !strings.Contains(got.body, "X-Kept: 3") || got.header.Get("X-Debug-Info") != "" {
		t.Errorf("the server was sent\n%s\nand the client %v, want neither X-Secret nor X-Debug-Info", got.body, got.header)
	}
}

func TestTextsAreCompressedForWhoTakesThat(t *testing.T) {
	_, _, front := serve(t, func(d *weir.Proxy) { d.Handling.Compress = true })
	for _, c := range []struct{ path, accept, want string }{
		{"/text", "gzip", "gzip"}, {"/text", "br, gzip;q=0.5", "gzip"}, {"/text", "identity", ""}, {"/image", "gzip", ""}, {"/encoded", "gzip", "br"},
	} {
		got := get(t, front, "", c.path, "Accept-Encoding: "+c.accept)
		if coding := got.header.Get("Content-Encoding"); coding != c.want {
			t.Errorf("%s for who takes %s is encoded by %q, want %q", c.path, c.accept, coding, c.want)
		}
		if c.want == "gzip" {
			r, err := gzip.NewReader(strings.NewReader(got.body))
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(r); err != nil || string(text) != strings.Repeat("text ", 1000) {
				t.Errorf("%s unpacks to %.40q (%v)", c.path, text, err)
			}
		}
	}
}

func TestPagesAreAnswersOfTheLoadBalancer(t *testing.T) {
	long := "<h1>gone</h1>" + strings.Repeat("é", (12<<10-13)/2)
	p, d, front := serve(t, func(d *weir.Proxy) {
		d.Handling.Pages = map[int]string{}
		for _, status := range weir.PageStatuses {
			d.Handling.Pages[status] = fmt.Sprintf("<h1>%d</h1>", status)
		}
		d.Handling.Pages[503] = long
	})
	if got := get(t, front, "", "/"); got.status != 200 {
		t.Errorf("status %d with a server, want 200", got.status)
	}
	l, err := net.Listen("tcp", "127.1.4.2:0") // takes connections and ends them
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	broken := withServers(d, weir.Server{ID: "8", Name: "broken", Addr: l.Addr().(*net.TCPAddr).AddrPort(), Weight: 1})
	broken.Backends[0].Check.Port = l.Addr().(*net.TCPAddr).Port
	for status, doc := range map[int]weir.Proxy{503: withServers(d), 502: broken} {
		set(t, p, doc)
		eventually(t, func() string {
			got := get(t, front, "", "/")
			if got.status != status || got.body != d.Handling.Pages[status] || got.header.Get("Content-Type") != "text/html; charset=utf-8" ||
				got.header.Get("Cache-Control") != "no-cache" || got.header.Get("Content-Length") != fmt.Sprint(len(got.body)) {
				return fmt.Sprintf("%d %v %.60q, want %d with the page", got.status, got.header, got.body, status)
			}
			return ""
		})
	}
	// Another page is live at once, and none is none.
	h := d.Handling
	h.Pages = map[int]string{503: "<h1>other</h1>"}
	none := withServers(d)
	none.Handling = h
	set(t, p, none)
	if got := get(t, front, "", "/"); got.body != "<h1>other</h1>" {
		t.Errorf("after a change of the page %.60q, want the other one", got.body)
	}
	none.Handling.Pages = nil
	set(t, p, none)
	if got := get(t, front, "", "/"); got.status != 503 || strings.Contains(got.body, "other") {
		t.Errorf("without a page %d %.60q, want HAProxy's", got.status, got.body)
	}
	if left, err := os.ReadDir(p.path(certsDir)); err == nil && len(left) > 0 {
		t.Errorf("%v is left, want no files of pages", left)
	}
}

func TestMaintenanceIsForAllButSome(t *testing.T) {
	for _, page := range []string{"", "<h1>soon</h1>"} {
		m := &weir.Maintenance{On: true, Page: page, RetryAfter: 90 * time.Second, Allow: []string{"cidr:127.5.0.0/16", "ip:127.6.0.1"}}
		p, d, front := serve(t, func(d *weir.Proxy) { d.Handling.Maintenance, d.Thumbprint = m, "thumb" })
		got := get(t, front, "127.0.0.1", "/")
		if got.status != 503 || got.header.Get("Retry-After") != "90" || got.header.Get("Content-Type") != "text/html; charset=utf-8" ||
			page != "" && got.body != page || page == "" && got.body != maintenancePage || got.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%d %v %q, want 503 with a page", got.status, got.header, got.body)
		}
		for _, from := range []string{"127.5.9.9", "127.6.0.1"} {
			if got := get(t, front, from, "/"); got.status != 200 {
				t.Errorf("%s is answered %d, want that it is let in", from, got.status)
			}
		}
		if got := get(t, front, "127.0.0.1", "/.well-known/acme-challenge/abc"); got.body != "abc.thumb" {
			t.Errorf("a challenge is answered %d %q, want the token", got.status, got.body)
		}
		off := *m
		off.On = false
		d.Handling.Maintenance = &off
		set(t, p, d)
		if got := get(t, front, "127.0.0.1", "/"); got.status != 200 {
			t.Errorf("after maintenance %d, want 200", got.status)
		}
	}
}

func TestRequestsOfAClientAreLimited(t *testing.T) {
	p, d, front := serve(t, func(d *weir.Proxy) {
		d.Handling.Rate = &weir.RateLimit{Requests: 5, Period: time.Hour}
		d.Handling.Pages = map[int]string{429: "<h1>slow down</h1>"}
		mail := d.Backends[0]
		mail.Name, mail.Mode = "mail", weir.TCP
		d.Backends = append(d.Backends, mail)
		d.Frontends = append(d.Frontends, weir.Frontend{Name: "tcp", Bind: freeAddr(t), Mode: weir.TCP, Idle: time.Minute, Backend: "mail"},
			weir.Frontend{Name: "http-2", Bind: freeAddr(t), Mode: weir.HTTP, Idle: time.Minute, Backend: "web"})
	})
	other := d.Frontends[2].Bind
	for i := range 5 {
		at := front
		if i%2 == 1 {
			at = other
		}
		if got := get(t, at, "127.7.0.1", "/"); got.status != 200 {
			t.Errorf("request %d is answered %d, want 200", i, got.status)
		}
	}
	limited := func(at netip.AddrPort) {
		t.Helper()
		got := get(t, at, "127.7.0.1", "/")
		if got.status != 429 || got.header.Get("Retry-After") != "3600" || got.body != "<h1>slow down</h1>" || got.header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("the sixth request is answered %d %v %q, want 429", got.status, got.header, got.body)
		}
	}
	limited(front)
	limited(other)
	if got := get(t, front, "127.7.0.2", "/"); got.status != 200 {
		t.Errorf("another client is answered %d, want 200", got.status)
	}
	// Counts outlive reloads.
	d.Reload++
	set(t, p, d)
	eventually(t, func() string {
		if got := get(t, front, "127.7.0.1", "/"); got.status != 429 {
			return fmt.Sprintf("after a reload the client is answered %d, want 429", got.status)
		}
		return ""
	})
	// Connections where no HTTP is spoken are another count.
	refused := 0
	for range 8 {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.7.0.1")}, Timeout: 5 * time.Second}).Dial("tcp", d.Frontends[1].Bind.String())
		if err != nil {
			refused++
			continue
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
		if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			refused++
		}
		c.Close()
	}
	if refused != 3 {
		t.Errorf("%d of 8 connections were refused, want 3", refused)
	}
}

func TestConnectionsOfAClientAreLimited(t *testing.T) {
	_, d, front := serve(t, func(d *weir.Proxy) {
		d.Handling.Connections = 3
		mail := d.Backends[0]
		mail.Name, mail.Mode = "mail", weir.TCP
		d.Backends = append(d.Backends, mail)
		d.Frontends = append(d.Frontends, weir.Frontend{Name: "tcp", Bind: freeAddr(t), Mode: weir.TCP, Idle: time.Minute, Backend: "mail"})
	})
	dial := func(at netip.AddrPort, from string) net.Conn {
		t.Helper()
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}).Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var open []net.Conn
	for range 3 {
		c := dial(front, "127.7.0.1")
		if got := getOn(t, c, "/"); got.status != 200 {
			t.Errorf("a connection within the limit is answered %d, want 200", got.status)
		}
		open = append(open, c)
	}
	over := dial(front, "127.7.0.1")
	if got := getOn(t, over, "/"); got.status != 429 || got.header.Get("Retry-After") != "1" {
		t.Errorf("one more is answered %d %v, want 429", got.status, got.header)
	}
	if _, err := over.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one more is not closed: %v", err)
	}
	// It may be closed so soon that not even dialling is seen to succeed.
	tcp, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.7.0.1")}, Timeout: 5 * time.Second}).Dial("tcp", d.Frontends[1].Bind.String())
	if err == nil {
		defer tcp.Close()
		tcp.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = tcp.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more where no HTTP is spoken: %v, want that it is closed", err)
	}
	if got := getOn(t, open[0], "/"); got.status != 200 {
		t.Errorf("a connection from before is answered %d, want 200 still", got.status)
	}
	if got := get(t, front, "127.7.0.2", "/"); got.status != 200 {
		t.Errorf("another client is answered %d, want 200", got.status)
	}
	open[1].Close()
	eventually(t, func() string {
		if got := get(t, front, "127.7.0.1", "/"); got.status != 200 {
			return fmt.Sprintf("with one less a new one is answered %d, want 200", got.status)
		}
		return ""
	})
}

func TestOnlyUsersLogIn(t *testing.T) {
	login := &weir.Login{Realm: "Staff's %only", Salt: []byte("salt\x00\xff")}
	for name, password := range map[string]string{"al": "correct horse", "bea": "a:b é\"'", "empty": ""} {
		login.Users = append(login.Users, weir.User{Name: name, Hash: login.Hash(name, password)})
	}
	p, d, front := serve(t, func(d *weir.Proxy) { d.Handling.Login, d.Thumbprint = login, "thumb" })
	basic := func(text string) string {
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(text))
	}
	al := basic("al:correct horse")
	for _, c := range []struct {
		name    string
		headers []string
		in      bool
	}{
		{"right", []string{al}, true},
		{"another", []string{basic("bea:a:b é\"'")}, true},
		{"an empty password", []string{basic("empty:")}, true},
		{"another case of the scheme", []string{strings.Replace(al, "Basic", "bASIC", 1)}, true},
		{"nothing", nil, false},
		{"wrong", []string{basic("al:wrong")}, false},
		{"another's password", []string{basic("bea:correct horse")}, false},
		{"another case of the name", []string{basic("AL:correct horse")}, false},
		{"nobody", []string{basic("")}, false},
		{"a colon", []string{basic(":")}, false},
		{"a zero byte behind it", []string{basic("al:correct horse\x00")}, false},
		{"the hash", []string{"Authorization: Basic " + login.Users[0].Hash}, false},
		{"no base64", []string{"Authorization: Basic ****"}, false},
		{"half of it", []string{al[:len(al)-5]}, false},
		{"another scheme", []string{strings.Replace(al, "Basic", "Bearer", 1)}, false},
		{"no scheme", []string{strings.Replace(al, "Basic ", "", 1)}, false},
		{"a scheme alone", []string{"Authorization: Basic"}, false},
		{"more behind it", []string{al + " more"}, false},
		{"twice", []string{al, al}, false},
		{"wrong, then right", []string{basic("al:wrong"), al}, false},
		{"right, then wrong", []string{al, basic("al:wrong")}, false},
		{"a list", []string{al + ", " + basic("al:wrong")[15:]}, false},
		{"a very long one", []string{basic("al:" + strings.Repeat("x", 6000))}, false},
	} {
		got := get(t, front, "", "/", c.headers...)
		if c.in && got.status != 200 {
			t.Errorf("%s: %d, want 200", c.name, got.status)
		}
		if !c.in && (got.status != 401 || got.header.Get("WWW-Authenticate") != `Basic realm="Staff's %only"`) {
			t.Errorf("%s: %d %v, want 401", c.name, got.status, got.header)
		}
	}
	if got := get(t, front, "", "/.well-known/acme-challenge/abc"); got.body != "abc.thumb" {
		t.Errorf("a challenge is answered %d %q, want the token", got.status, got.body)
	}
	if text := Render(testVersion, 1, d, Host{}); strings.Contains(string(text), login.Users[0].Hash) {
		t.Error("the configuration has a hash of a password in it")
	}
	if info, err := os.Stat(filepath.Join(p.path(certsDir), usersFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file of users: %v, %v, want that only its owner reads it", info.Mode(), err)
	}
	other := *login
	other.Users = []weir.User{{Name: "al", Hash: login.Hash("al", "new")}}
	d.Handling.Login = &other
	set(t, p, d)
	if old, young := get(t, front, "", "/", al), get(t, front, "", "/", basic("al:new")); old.status != 401 || young.status != 200 {
		t.Errorf("with another password the old one is answered %d and the new one %d, want 401 and 200", old.status, young.status)
	}
}

// signer signs certificates of clients.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	text string
}

func newSigner(t testing.TB, name string) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (s *signer) sign(t testing.TB, subject pkix.Name) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(2), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, s.cert, key.Public(), s.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestServersAreToldOfClientsCertificates(t *testing.T) {
	ours, others := newSigner(t, "ours"), newSigner(t, "others")
	subject := pkix.Name{CommonName: "al, \"x\"\r\nX-Admin: yes +é", Organization: []string{"Shop"}}
	mine, strange := ours.sign(t, subject), others.sign(t, subject)
	sum := sha256.Sum256(mine.Certificate[0])
	forged := []string{"X-Client-Verify: SUCCESS", "x-client-subject: CN=root", "X-Client-Fingerprint: 00", "X_Client_Verify: SUCCESS", "X-Client_Subject: CN=root"}
	for _, optional := range []bool{false, true} {
		plain := freeAddr(t)
		_, _, front := serve(t, func(d *weir.Proxy) {
			*d = withTLS(*d, certificate(t, 1, "shop.example"))
			d.Frontends = append(d.Frontends, weir.Frontend{Name: "plain", Bind: plain, Mode: weir.HTTP, Idle: time.Minute, Backend: "web"})
			d.Handling.ClientCerts = &weir.ClientCertificates{CA: ours.text, Optional: optional}
		})
		cache := tls.NewLRUClientSessionCache(8)
		ask := func(cert *tls.Certificate, version uint16) (a answer, resumed bool, err error) {
			config := &tls.Config{InsecureSkipVerify: true, MaxVersion: version, ClientSessionCache: cache, ServerName: "shop.example",
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if cert == nil {
						return &tls.Certificate{}, nil
					}
					return cert, nil
				}}
			c, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: config}).Dial("tcp", front.String())
			if err != nil {
				return answer{}, false, err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: shop.example\r\n%s\r\n\r\n", strings.Join(forged, "\r\n"))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				return answer{}, false, err // with TLS 1.3 the refusal comes after the handshake
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return answer{resp.StatusCode, resp.Header, string(body)}, c.(*tls.Conn).ConnectionState().DidResume, err
		}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cache = tls.NewLRUClientSessionCache(8)
			for i := range 2 {
				got, resumed, err := ask(mine, version)
				if err != nil || resumed != (i == 1) {
					t.Fatalf("with a certificate: %v, resumed %v", err, resumed)
				}
				for name, want := range map[string]string{"X-Client-Verify": "SUCCESS", "X-Client-Fingerprint": hex.EncodeToString(sum[:]),
					"X-Client-Subject": `CN=al\, \"x\"\0D\0AX-Admin: yes \+\C3\A9,O=Shop`} {
					if strings.Count(strings.ToLower(got.body), strings.ToLower(name)+": ") != 1 || !strings.Contains(got.body, name+": "+want+"\r\n") {
						t.Errorf("optional %v: want %s as %s alone:\n%s", optional, name, want, got.body)
					}
				}
				if strings.Contains(got.body, "_") || strings.Contains(got.body, "\nX-Admin") {
					t.Errorf("forged headers came through:\n%s", got.body)
				}
			}
			cache = tls.NewLRUClientSessionCache(8)
			if got, _, err := ask(strange, version); err == nil {
				t.Errorf("optional %v: a certificate that others signed is let in: %d", optional, got.status)
			}
			got, _, err := ask(nil, version)
			if !optional && err == nil {
				t.Errorf("who shows none is let in: %d", got.status)
			}
			if optional && (err != nil || !strings.Contains(got.body, "X-Client-Verify: NONE\r\n") || strings.Contains(got.body, "Subject") || strings.Contains(got.body, "Fingerprint") || strings.Contains(got.body, "SUCCESS")) {
				t.Errorf("who shows none, which is optional: %v\n%s", err, got.body)
			}
		}
		got := get(t, plain, "", "/", forged...)
		if !strings.Contains(got.body, "X-Client-Verify: NONE\r\n") || strings.Contains(got.body, "SUCCESS") || strings.Contains(got.body, "root") || strings.Contains(got.body, "Fingerprint") {
			t.Errorf("without TLS forged headers came through:\n%s", got.body)
		}
	}
}

// shares returns the weights that servers have at this moment, and whether HAProxy says that they are starting.
func shares(t testing.TB, p *Proxy) (weights map[string]int) {
	t.Helper()
	out, err := exchange(t.Context(), p.path(workerSocket), "show stat -1 4 -1")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(strings.TrimSpace(string(out)), "# "))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	weights = map[string]int{}
	throttle := slices.Index(rows[0], "throttle")
	for _, row := range rows[1:] {
		weights[row[1]] = 100
		if row[throttle] != "" {
			weights[row[1]] = atoi(row[throttle])
		}
	}
	return weights
}

func TestServersThatComeUpStartSlowly(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a, b := f.start(t), f.start(t)
	front := freeAddr(t)
	d := testDocument(front, a.server())
	d.Backends[0].SlowStart = 10 * time.Minute
	d.Backends[0].Check.Interval = 100 * time.Millisecond
	d.Backends[0].Check.Unhealthy, d.Backends[0].Check.Healthy = 2, 2
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	d = withServers(d, a.server(), b.server())
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server(), b.server())
	if got := shares(t, p); got["2"] >= 100 {
		t.Errorf("a server that has come has %d %% of its share, want less", got["2"])
	}
	b.sick.Store(true)
	eventually(t, func() string {
		if _, servers := status(t, p); servers["2"].State != weir.ServerDown {
			return fmt.Sprintf("server 2 is %s, want down", servers["2"].State)
		}
		return ""
	})
	b.sick.Store(false)
	waitState(t, p, weir.ServerUp, a.server(), b.server())
	if got := shares(t, p); got["2"] >= 100 {
		t.Errorf("a server that is back has %d %% of its share, want less", got["2"])
	}
	d.Reload++
	set(t, p, d)
	if got := shares(t, p); got["1"] != 100 || got["2"] != 100 {
		t.Errorf("after a reload servers have %v %% of their shares, want all of it", got)
	}
}

func TestServersLeaveByDeadlinesOfTheirOwn(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	apps := []*app{f.start(t), f.start(t), f.start(t)}
	front := freeAddr(t)
	d := testDocument(front, serversOf(apps)...)
	d.Drain = time.Hour
	set(t, p, d)
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	ended := make(chan string, 3)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			app, _, err := ask(front, "/slow")
			if err != nil {
				app = "cut"
			}
			ended <- app
		})
	}
	eventually(t, func() string {
		for _, a := range apps {
			if a.requests.Load() != 1 {
				return fmt.Sprintf("app %d has %d requests, want 1", a.id, a.requests.Load())
			}
		}
		return ""
	})
	d = withServers(d, apps[0].server())
	d.Drains = map[weir.ID]time.Duration{"2": 0}
	set(t, p, d)
	if got := <-ended; got != "cut" {
		t.Errorf("%q has ended, want that the request of who may not finish is cut", got)
	}
	waitStates := func(want string) {
		t.Helper()
		eventually(t, func() string {
			_, servers := status(t, p)
			if got := fmt.Sprint(slices.Sorted(maps.Keys(servers))); got != want {
				return fmt.Sprintf("servers %s, want %s", got, want)
			}
			return ""
		})
	}
	waitStates("[1 3]")
	select {
	case got := <-ended:
		t.Errorf("%q has ended, want that the others go on", got)
	default:
	}
	d.Drains = map[weir.ID]time.Duration{"3": time.Millisecond}
	set(t, p, d)
	if got := <-ended; got != "cut" {
		t.Errorf("%q has ended, want the request whose deadline has come", got)
	}
	waitStates("[1]")
	close(apps[0].slow)
	if got := <-ended; got != "1" {
		t.Errorf("%q has ended, want the one of who stays", got)
	}
	wg.Wait()
}

func TestWhatCannotBeRenderedIsRefused(t *testing.T) {
	p := New(Options{Dir: t.TempDir()})
	for want, change := range map[string]func(*weir.Proxy){
		`frontend http-80: route 0: there is no backend "nobody" that speaks HTTP`: func(d *weir.Proxy) {
			d.Frontends[0].Routes = []weir.FrontRoute{{Backend: "nobody"}}
		},
		`frontend http-80: route 0: host "a b": it cannot be one`: func(d *weir.Proxy) {
			d.Frontends[0].Routes = []weir.FrontRoute{{Backend: "web", Route: weir.Route{Hosts: []string{"a b"}}}}
		},
		`frontend http-80: route 0: path "/\n": it cannot be one`: func(d *weir.Proxy) {
			d.Frontends[0].Routes = []weir.FrontRoute{{Backend: "web", Route: weir.Route{Path: "/\n"}}}
		},
		`header "a: b": it cannot be a name`: func(d *weir.Proxy) { d.Handling.Headers.RemoveRequest = []string{"a: b"} },
		`page for status 418: haproxy has no such error`: func(d *weir.Proxy) {
			d.Handling.Pages = map[int]string{418: "tea"}
		},
		`login has no salt`: func(d *weir.Proxy) { d.Handling.Login = &weir.Login{} },
		`login: user "al" has no hash of a password`: func(d *weir.Proxy) {
			d.Handling.Login = &weir.Login{Salt: []byte("a"), Users: []weir.User{{Name: "al", Hash: "pw"}}}
		},
	} {
		d := testDocument(freeAddr(t))
		change(&d)
		if err := p.Set(t.Context(), 7, d); weir.KindOf(err) != weir.Invalid || err.Error() != "configuration 7: "+want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestStreamsOfHTTP2AreRequests(t *testing.T) {
	_, _, front := serve(t, func(d *weir.Proxy) {
		*d = withTLS(*d, certificate(t, 1, "shop.example"))
		d.Handling.Rate = &weir.RateLimit{Requests: 3, Period: time.Hour}
	})
	c := client(true) // one connection
	var statuses []int
	for range 5 {
		resp, err := c.Get(fmt.Sprintf("https://%s/", front))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 {
			t.Errorf("%s is spoken, want HTTP/2", resp.Proto)
		}
		statuses = append(statuses, resp.StatusCode)
	}
	if want := []int{200, 200, 200, 429, 429}; !slices.Equal(statuses, want) {
		t.Errorf("answered %v, want %v", statuses, want)
	}
}
