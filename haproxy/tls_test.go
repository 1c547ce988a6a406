package haproxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"weir/weir"
)

// certificate returns a certificate for a name that it has signed itself, with its key, as a node is given it.
func certificate(t testing.TB, serial int64, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// withTLS returns d with TLS ended at its frontend by certificates, each of which is given by its text.
func withTLS(d weir.Proxy, texts ...string) weir.Proxy {
	d.Frontends = append([]weir.Frontend{}, d.Frontends...)
	f := &d.Frontends[0]
	f.Name, f.TLS, d.PEM = "https-443", &weir.TLS{H2: true}, map[weir.ID]string{}
	for _, text := range texts {
		block, _ := pem.Decode([]byte(text))
		id := weir.ID(fmt.Sprintf("%x", block.Bytes[len(block.Bytes)-8:]))
		f.TLS.Certificates = append(f.TLS.Certificates, weir.CertificateRef{ID: id, Fingerprint: string(id)})
		d.PEM[id] = text
	}
	return d
}

// shake makes a connection and returns what it has agreed on with HAProxy.
func shake(front netip.AddrPort, c *tls.Config) (tls.ConnectionState, error) {
	c.InsecureSkipVerify = true
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: c}
	conn, err := d.Dial("tcp", front.String())
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState(), nil
}

// serial returns the serial number of the certificate that a client who asks for that name is shown.
func serial(t testing.TB, front netip.AddrPort, name string) int64 {
	t.Helper()
	s, err := shake(front, &tls.Config{ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	return s.PeerCertificates[0].SerialNumber.Int64()
}

// client returns a client that takes any certificate, and no redirect.
func client(h2 bool) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2, DisableKeepAlives: true}
	return &http.Client{Timeout: 10 * time.Second, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func TestTLSIsEndedWithTheCertificateForTheName(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	d := withTLS(testDocument(front, a.server()), certificate(t, 1, "shop.example"), certificate(t, 2, "mail.example"))
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	for name, want := range map[string]int64{"shop.example": 1, "mail.example": 2, "other.example": 1, "": 1} {
		if got := serial(t, front, name); got != want {
			t.Errorf("a client that asks for %q is shown certificate %d, want %d", name, got, want)
		}
	}
	for _, test := range []struct {
		h2   bool
		want string
	}{{false, "HTTP/1.1"}, {true, "HTTP/2.0"}} {
		resp, err := client(test.h2).Get(fmt.Sprintf("https://%s/", front))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.Proto != test.want || !strings.Contains(string(body), "https "+fmt.Sprint(front.Port())) {
			t.Errorf("answered by %s, and the server is told %q, want %s and https at port %d", resp.Proto, body, test.want, front.Port())
		}
	}
	if _, err := shake(front, &tls.Config{MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is accepted, want at least 1.2")
	}
	old := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}
	if _, err := shake(front, old); err != nil {
		t.Errorf("a client of TLS 1.2 without authenticated encryption: %v, want that it is served by default", err)
	}
	d.Frontends[0].TLS.Strong = true
	set(t, p, d)
	if _, err := shake(front, old); err == nil {
		t.Error("a client of TLS 1.2 without authenticated encryption is served, want strong ciphers alone")
	}
	// Nobody but the owner reads keys, and none is left that nobody needs.
	set(t, p, testDocument(front, a.server()))
	entries, err := os.ReadDir(p.path(certsDir))
	if err != nil || len(entries) > 0 {
		t.Errorf("without TLS there is %v (%v), want no key left", entries, err)
	}
}

func TestCertificatesRotateWithoutAReloadOrAFailedHandshake(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	d := withTLS(testDocument(front, a.server()), certificate(t, 1, "shop.example"), certificate(t, 2, "mail.example"))
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	before, _ := status(t, p)

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var shakes, failed atomic.Int64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				shakes.Add(1)
				if _, err := shake(front, &tls.Config{ServerName: "shop.example"}); err != nil {
					failed.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	for n := int64(3); n < 20; n++ {
		d = withTLS(d, certificate(t, n, "shop.example"), certificate(t, n+100, "mail.example"))
		set(t, p, d)
		if got, other := serial(t, front, "shop.example"), serial(t, front, "mail.example"); got != n || other != n+100 {
			t.Fatalf("certificates %d and %d are shown, want %d and %d", got, other, n, n+100)
		}
	}
	stop()
	wg.Wait()
	after, _ := status(t, p)
	if failed.Load() > 0 || shakes.Load() < 20 {
		t.Errorf("%d of %d handshakes failed, want none of many", failed.Load(), shakes.Load())
	}
	if after.PID != before.PID || after.Reloads != 0 {
		t.Errorf("worker %d with %d reloads, want worker %d with none", after.PID, after.Reloads, before.PID)
	}

	// A certificate whose key is another's changes nothing, nor does one that is not there.
	good := d.PEM[d.Frontends[0].TLS.Certificates[0].ID]
	cert, _, _ := strings.Cut(certificate(t, 90, "shop.example"), "-----BEGIN PRIVATE")
	_, key, _ := strings.Cut(good, "-----BEGIN PRIVATE")
	for name, bad := range map[string]weir.Proxy{
		"another's key":  withTLS(d, good, cert+"-----BEGIN PRIVATE"+key),
		"no certificate": func() weir.Proxy { d := withTLS(d, good); d.PEM = nil; return d }(),
	} {
		if err := p.Set(t.Context(), 7, bad); weir.KindOf(err) != weir.Invalid {
			t.Errorf("%s: error %v, want one of the kind invalid", name, err)
		}
		if got, other := serial(t, front, "shop.example"), serial(t, front, "mail.example"); got != 19 || other != 119 {
			t.Errorf("%s: certificates %d and %d are shown, want 19 and 119 still", name, got, other)
		}
	}
	// What runs is what a HAProxy that dies starts with.
	set(t, p, d)
	if err := unix.Kill(masterOf(t, p), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if s, err := shake(front, &tls.Config{ServerName: "mail.example"}); err != nil || s.PeerCertificates[0].SerialNumber.Int64() != 119 {
			return fmt.Sprintf("after its death: %v", err)
		}
		return ""
	})
}

func TestClientsStayWithTheirServer(t *testing.T) {
	var f farm
	apps := []*app{f.start(t), f.start(t), f.start(t)}
	sticky := func(front netip.AddrPort, servers ...weir.Server) weir.Proxy {
		d := testDocument(front, servers...)
		d.Backends[0].Sticky, d.Backends[0].Key = &weir.Sticky{Cookie: "DO-LB", TTL: 5 * time.Minute}, "f00d"
		return d
	}
	get := func(front netip.AddrPort, cookie string) (app string, set *http.Cookie) {
		t.Helper()
		req, _ := http.NewRequest("GET", fmt.Sprintf("http://%s/", front), nil)
		if cookie != "" {
			req.Header.Set("Cookie", "DO-LB="+cookie)
		}
		resp, err := client(false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if all := resp.Cookies(); len(all) == 1 {
			set = all[0]
		}
		return resp.Header.Get("App"), set
	}
	front, other := freeAddr(t), freeAddr(t)
	p, _ := startProxy(t, Options{})
	// The third server joins by the socket, and in the second instance all are in the file.
	set(t, p, sticky(front, apps[0].server(), apps[1].server()))
	set(t, p, sticky(front, serversOf(apps)...))
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	cookies := map[string]string{}
	eventually(t, func() string {
		app, c := get(front, "")
		if c == nil || c.Value == "" || c.Name != "DO-LB" || c.MaxAge != 300 || !c.HttpOnly {
			t.Fatalf("app %s sets the cookie %v, want DO-LB for 300 s", app, c)
		}
		cookies[app] = c.Value
		if len(cookies) < 3 {
			return fmt.Sprintf("cookies of %v, want of three", cookies)
		}
		return ""
	})
	stays := func(when string, front netip.AddrPort) {
		t.Helper()
		for want, cookie := range cookies {
			for range 3 {
				if got, again := get(front, cookie); got != want || again != nil {
					t.Fatalf("%s: who has the cookie of app %s gets to %s, and the cookie %v, want the same app and none", when, want, got, again)
				}
			}
		}
	}
	stays("at first", front)
	d := sticky(front, serversOf(apps)...)
	d.Reload++
	set(t, p, d)
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	stays("after a reload", front)
	q, _ := startProxy(t, Options{})
	set(t, q, sticky(other, serversOf(apps)...))
	waitState(t, q, weir.ServerUp, serversOf(apps)...)
	stays("at another instance", other)
	// Whose server is gone gets another one.
	set(t, p, sticky(front, apps[0].server(), apps[1].server()))
	if app, c := get(front, cookies["3"]); app == "3" || c == nil {
		t.Errorf("whose server is gone gets to app %s, and the cookie %v, want another app, and its cookie", app, c)
	}
}

func TestHTTPIsRedirectedToHTTPS(t *testing.T) {
	p, _ := startProxy(t, Options{})
	front := freeAddr(t)
	d := testDocument(front)
	for port, want := range map[int]string{443: "https://shop.example/a/b?c=d&e=%20f", 8443: "https://shop.example:8443/a/b?c=d&e=%20f"} {
		d.Frontends[0].Redirect = port
		set(t, p, d)
		for _, host := range []string{"shop.example", "shop.example:80"} {
			req, _ := http.NewRequest("POST", fmt.Sprintf("http://%s/a/b?c=d&e=%%20f", front), nil)
			req.Host = host
			resp, err := client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusTemporaryRedirect || got != want {
				t.Errorf("host %s: %s to %q, want 307 to %q", host, resp.Status, got, want)
			}
		}
	}
	c, err := net.Dial("tcp", front.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without a host: %v, %v, want 400", resp, err)
	}
}

func TestClientsAreLetInAsListed(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	from := func(ip string) error {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		c, err := d.Dial("tcp", front.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, _, err = askOn(c, bufio.NewReader(c), "/", "")
		return err
	}
	prefixes := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	var many []netip.Prefix
	for i := range 200 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 9, 9, byte(i)}), 32))
	}
	for _, test := range []struct {
		name       string
		allow, den []netip.Prefix
		in, out    []string
	}{
		{"everybody", nil, nil, []string{"127.0.0.1", "127.5.0.1"}, nil},
		{"all but some", nil, prefixes("127.5.0.0/16", "127.6.0.1/32"), []string{"127.0.0.1", "127.6.0.2"}, []string{"127.5.0.1", "127.6.0.1"}},
		{"some alone", prefixes("127.5.0.0/16", "fd00::/8"), nil, []string{"127.5.0.1"}, []string{"127.0.0.1"}},
		{"some of some", prefixes("127.5.0.0/16"), prefixes("127.5.0.1/32"), []string{"127.5.0.2"}, []string{"127.5.0.1", "127.0.0.1"}},
		{"many", many, nil, []string{"127.9.9.0", "127.9.9.199"}, []string{"127.9.9.200"}},
	} {
		d := testDocument(front, a.server())
		d.Clients, d.Denied = test.allow, test.den
		set(t, p, d)
		waitState(t, p, weir.ServerUp, a.server())
		for _, ip := range test.in {
			if err := from(ip); err != nil {
				t.Errorf("%s: %s is refused: %v", test.name, ip, err)
			}
		}
		for _, ip := range test.out {
			if err := from(ip); err == nil {
				t.Errorf("%s: %s is let in", test.name, ip)
			}
		}
	}
}

// startTLS is start for an app that speaks TLS, HTTP/2 too, and says by which protocol it was asked, and for which name.
func (f *farm) startTLS(t testing.TB) *app {
	t.Helper()
	text := []byte(certificate(t, 1, "app"))
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	f.apps++
	l, err := net.Listen("tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, 1, byte(f.apps)}), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	a := &app{id: f.apps, addr: l.Addr().(*net.TCPAddr).AddrPort()}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			a.checks.Add(1)
		}
		fmt.Fprint(w, r.Proto, " ", r.TLS.ServerName)
	})}
	if err := http2.ConfigureServer(s, nil); err != nil {
		t.Fatal(err)
	}
	s.TLSConfig.Certificates = []tls.Certificate{pair}
	var wg sync.WaitGroup
	wg.Go(func() { s.ServeTLS(l, "", "") })
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return a
}

func TestServersAreSpokenToOverTLS(t *testing.T) {
	var f farm
	a := f.startTLS(t)
	for speaks, want := range map[weir.Protocol]string{weir.HTTPS: "HTTP/1.1 shop.example", weir.HTTP2: "HTTP/2.0 shop.example"} {
		t.Run(string(speaks), func(t *testing.T) {
			p, _ := startProxy(t, Options{})
			front := freeAddr(t)
			d := testDocument(front)
			d.Backends[0].Secure, d.Backends[0].Check.Protocol = speaks, weir.HTTPS
			d.Backends[0].Check.Port = int(a.addr.Port())
			set(t, p, d) // and the server joins by the socket
			d = withServers(d, a.server())
			set(t, p, d)
			waitState(t, p, weir.ServerUp, a.server())
			for range 2 {
				if _, body, err := ask(front, "/"); err != nil || body != want {
					t.Errorf("the server is asked by %q (%v), want %q", body, err, want)
				}
				d.Reload++ // and is in the file
				set(t, p, d)
				waitState(t, p, weir.ServerUp, a.server())
			}
			if a.checks.Load() == 0 {
				t.Error("the server was not checked over TLS")
			}
		})
	}
}

func TestServersAreToldOfClientsByPROXY(t *testing.T) {
	l, err := net.Listen("tcp", "127.1.2.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var checks atomic.Int64
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				r := bufio.NewReader(c)
				head, err := r.ReadString('\n')
				if err != nil || !strings.HasPrefix(head, "PROXY ") {
					return
				}
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if req.URL.Path == "/health" {
					checks.Add(1)
				}
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%s", strings.TrimSpace(head))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	server := weir.Server{ID: "7", Name: "app", Addr: l.Addr().(*net.TCPAddr).AddrPort(), Weight: 1}
	p, _ := startProxy(t, Options{})
	front := freeAddr(t)
	d := testDocument(front, server)
	d.Backends[0].Proxy, d.Backends[0].Check.Proxy = true, true
	set(t, p, d)
	waitState(t, p, weir.ServerUp, server)
	_, body, err := ask(front, "/")
	if err != nil || !strings.HasPrefix(body, "PROXY TCP4 127.0.0.1 ") || checks.Load() == 0 {
		t.Errorf("the server is told %q (%v), with %d checks, want PROXY TCP4 and the client's address", body, err, checks.Load())
	}
	if !bytes.Contains(Render(testVersion, 1, d, Host{}), []byte(" send-proxy")) {
		t.Error("the server's line has no send-proxy")
	}
}

func TestCertificatesThatComeOrDoNotFitAreLiveWhenSetReturns(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	shop, mail := certificate(t, 1, "shop.example"), certificate(t, 2, "mail.example")
	one, two := withTLS(testDocument(front, a.server()), shop), withTLS(testDocument(front, a.server()), shop, mail)
	set(t, p, one)
	waitState(t, p, weir.ServerUp, a.server())
	for range 3 {
		set(t, p, two)
		if got := serial(t, front, "mail.example"); got != 2 {
			t.Errorf("one came, and who asks for its name is shown %d, want 2", got)
		}
		set(t, p, one)
		if got := serial(t, front, "mail.example"); got != 1 {
			t.Errorf("one went, and who asks for its name is shown %d, want 1", got)
		}
	}
	// With a chain that is longer than what HAProxy's socket takes.
	for n := int64(3); n < 6; n++ {
		long := certificate(t, n, "shop.example")
		leaf, _, _ := strings.Cut(long, "-----BEGIN PRIVATE KEY")
		set(t, p, withTLS(testDocument(front, a.server()), long+strings.Repeat(leaf, 40)))
		if got := serial(t, front, "shop.example"); got != n {
			t.Errorf("after a certificate with a long chain %d is shown, want %d", got, n)
		}
	}
}

// An agent may die after it has written certificates and before HAProxy has them, or the other way round.
func TestNextProxyFindsOutWhichCertificatesHAProxyHas(t *testing.T) {
	dir := t.TempDir()
	p, end := startProxy(t, Options{Dir: dir, Keep: true})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	set(t, p, withTLS(testDocument(front, a.server()), certificate(t, 1, "shop.example")))
	waitState(t, p, weir.ServerUp, a.server())
	end()
	young := withTLS(testDocument(front, a.server()), certificate(t, 2, "shop.example"))
	files, err := filesOf(&young)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writeCerts(p.path(certsDir), files); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(p.path(candidateCerts), 0o700); err != nil {
		t.Fatal(err)
	}
	q, _ := startProxy(t, Options{Dir: dir})
	set(t, q, young)
	if got := serial(t, front, "shop.example"); got != 2 {
		t.Errorf("certificate %d is shown, want 2", got)
	}
	if h, _ := status(t, q); h.Reloads != 0 {
		t.Errorf("HAProxy has reloaded %d times, want none", h.Reloads)
	}
	if _, err := os.Stat(q.path(candidateCerts)); err == nil {
		t.Error("certificates that were being tried are left")
	}
}
