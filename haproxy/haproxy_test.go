package haproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

// An app is an application server on a loopback address.
type app struct {
	id   int
	addr netip.AddrPort

	sick     atomic.Bool   // its check answers 503
	checks   atomic.Int64  // of its health
	requests atomic.Int64  // all others
	slow     chan struct{} // a request for /slow ends when it is closed
}

// A farm has apps, each on an address of its own and all on one port.
type farm struct {
	port uint16
	apps int
}

func (f *farm) start(t testing.TB) *app {
	t.Helper()
	f.apps++
	ip := netip.AddrFrom4([4]byte{127, 1, byte(f.apps >> 8), byte(f.apps)})
	l, err := net.Listen("tcp", netip.AddrPortFrom(ip, f.port).String())
	if err != nil {
		t.Fatal(err)
	}
	a := &app{id: f.apps, addr: l.Addr().(*net.TCPAddr).AddrPort(), slow: make(chan struct{})}
	f.port = a.addr.Port()
	s := &http.Server{Handler: a}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return a
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("App", strconv.Itoa(a.id))
	switch r.URL.Path {
	case "/health":
		a.checks.Add(1)
		if a.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	case "/slow":
		a.requests.Add(1)
		select {
		case <-a.slow:
		case <-r.Context().Done():
		}
	default:
		a.requests.Add(1)
	}
	fmt.Fprintln(w, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Port"))
}

func (a *app) server() weir.Server {
	return weir.Server{ID: weir.ID(strconv.Itoa(a.id)), Name: fmt.Sprintf("app-%d", a.id), Addr: a.addr, Weight: 1}
}

// freeAddr returns an address on which nobody listens.
func freeAddr(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// document has one frontend and one backend with those servers. The apps' health is asked
// for every minute at most, so that whatever happens sooner is not HAProxy's thresholds.
func testDocument(front netip.AddrPort, servers ...weir.Server) weir.Proxy {
	check := weir.DefaultCheck()
	check.Path = "/health"
	check.Interval = time.Minute
	d := weir.Proxy{
		LoadBalancer: "4de7ac8b-495b-4884-9a69-1050c6793cd6",
		Name:         "shop",
		Frontends:    []weir.Frontend{{Name: "http-80", Bind: front, Mode: weir.HTTP, Idle: time.Minute, Backend: "web"}},
		Backends: []weir.Backend{{Name: "web", Mode: weir.HTTP, Balance: weir.RoundRobin, Idle: time.Minute,
			Check: check, Servers: servers}},
		Drain: 20 * time.Second,
	}
	if len(servers) > 0 {
		d.Backends[0].Check.Port = int(servers[0].Addr.Port())
	}
	return d
}

// startProxy runs a Proxy until the test ends, or the function that it returns is called.
func startProxy(t testing.TB, o Options) (*Proxy, context.CancelFunc) {
	t.Helper()
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "weir-haproxy")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				b, _ := os.ReadFile(dir + "/haproxy.log")
				t.Logf("%s", b)
			}
			os.RemoveAll(dir)
		})
		o.Dir = dir
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	p := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	end := func() { cancel(); wg.Wait() }
	t.Cleanup(end)
	return p, end
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func set(t testing.TB, p *Proxy, d weir.Proxy) {
	t.Helper()
	if err := p.Set(t.Context(), time.Now().Unix(), d); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok returns an empty string.
func eventually(t testing.TB, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		why := ok()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(why)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func status(t testing.TB, p *Proxy) (weir.HAProxyStatus, map[weir.ID]weir.ServerStatus) {
	t.Helper()
	h, servers, err := p.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := map[weir.ID]weir.ServerStatus{}
	for _, s := range servers {
		m[s.ID] = s
	}
	return h, m
}

// waitState waits until those servers, and no others, are there, all in that state.
func waitState(t testing.TB, p *Proxy, want weir.ServerState, servers ...weir.Server) {
	t.Helper()
	eventually(t, func() string {
		_, got, err := p.Status(t.Context())
		if err != nil {
			return err.Error()
		}
		if len(got) != len(servers) {
			return fmt.Sprintf("%d servers, want %d: %+v", len(got), len(servers), got[:min(len(got), 10)])
		}
		for _, s := range servers {
			if i := slices.IndexFunc(got, func(g weir.ServerStatus) bool { return g.ID == s.ID }); i < 0 || got[i].State != want {
				return fmt.Sprintf("server %s is not %s: %+v", s.ID, want, got[:min(len(got), 10)])
			}
		}
		return ""
	})
}

// ask makes one request on a connection of its own and returns the app that answered.
func ask(addr netip.AddrPort, path string) (app string, body string, err error) {
	c, err := net.DialTimeout("tcp", addr.String(), 5*time.Second)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	app, body, err = askOn(c, bufio.NewReader(c), path, "Connection: close\r\n")
	if err == errClosed {
		err = nil
	}
	return app, body, err
}

func askOn(c net.Conn, r *bufio.Reader, path, headers string) (app, body string, err error) {
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: shop.example\r\n%s\r\n", path, headers); err != nil {
		return "", "", err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("status %d: %.80s", resp.StatusCode, b)
	}
	if resp.Close {
		err = errClosed
	}
	return resp.Header.Get("App"), string(b), err
}

// errClosed says that the answer came, and that the connection ends with it.
var errClosed = errors.New("closed")

// load sends requests steadily, half of them on connections that are kept and half on new
// ones, never repeating any, until the function that it returns is called.
type load struct {
	sent, failed atomic.Int64
	first        atomic.Pointer[string]
}

func startLoad(t testing.TB, addr netip.AddrPort, clients int) (l *load, stop func()) {
	t.Helper()
	l = &load{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			var c net.Conn
			var r *bufio.Reader
			defer func() {
				if c != nil {
					c.Close()
				}
			}()
			for n := 0; ctx.Err() == nil; n++ {
				var err error
				if i%2 == 0 {
					_, _, err = ask(addr, "/")
				} else {
					if c == nil {
						if c, err = net.DialTimeout("tcp", addr.String(), 5*time.Second); err == nil {
							r = bufio.NewReader(c)
						}
					}
					if err == nil {
						_, _, err = askOn(c, r, "/", "")
					}
					if err != nil && c != nil {
						c.Close()
						c = nil
					}
				}
				l.sent.Add(1)
				if err != nil && err != errClosed {
					l.failed.Add(1)
					why := err.Error()
					l.first.CompareAndSwap(nil, &why)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	t.Cleanup(stop)
	return l, stop
}

// check fails the test if a request failed, other than up to allowed.
func (l *load) check(t testing.TB, allowed int64) {
	t.Helper()
	t.Logf("%d requests, %d failed", l.sent.Load(), l.failed.Load())
	if l.failed.Load() > allowed {
		t.Errorf("%d of %d requests failed, want at most %d; the first: %s", l.failed.Load(), l.sent.Load(), allowed, *l.first.Load())
	}
	if l.sent.Load() < 20 {
		t.Errorf("only %d requests were sent", l.sent.Load())
	}
}

// withServers returns d with other servers.
func withServers(d weir.Proxy, servers ...weir.Server) weir.Proxy {
	d.Backends = slices.Clone(d.Backends)
	d.Backends[0].Servers = servers
	return d
}

func serversOf(apps []*app) (s []weir.Server) {
	for _, a := range apps {
		s = append(s, a.server())
	}
	return s
}

func TestServersComeAndGoWithoutAFailedRequestOrAReload(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	apps := []*app{f.start(t), f.start(t)}
	front := freeAddr(t)
	d := testDocument(front, serversOf(apps)...)
	set(t, p, d)
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	before, _ := status(t, p)

	l, stop := startLoad(t, front, 8)
	for i := range 30 {
		if i%3 == 2 {
			apps = slices.Delete(apps, 0, 1)
		} else {
			apps = append(apps, f.start(t))
		}
		s := serversOf(apps)
		s[0].Weight = 1 + i%5
		set(t, p, withServers(d, s...))
		waitState(t, p, weir.ServerUp, s...)
	}
	// One machine gets another address.
	moved := f.start(t)
	s := serversOf(apps)
	s[0].Addr = moved.addr
	set(t, p, withServers(d, s...))
	eventually(t, func() string {
		if moved.requests.Load() == 0 {
			return "the server gets no requests where it has moved to"
		}
		return ""
	})
	stop()
	l.check(t, 0)
	after, _ := status(t, p)
	if after.PID != before.PID || after.Reloads != 0 {
		t.Errorf("worker %d with %d reloads, want worker %d with none", after.PID, after.Reloads, before.PID)
	}
	for _, a := range apps[1:] {
		if a.requests.Load() == 0 {
			t.Errorf("app %d got no request", a.id)
		}
	}
}

func TestStructureChangesByOneReloadWithoutAFailedRequest(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	apps := []*app{f.start(t), f.start(t)}
	front := freeAddr(t)
	d := testDocument(front, serversOf(apps)...)
	set(t, p, d)
	waitState(t, p, weir.ServerUp, serversOf(apps)...)

	l, stop := startLoad(t, front, 16)
	other := freeAddr(t)
	for i, change := range []func(){
		func() { d.Backends[0].Balance = weir.LeastConnections },
		func() {
			d.Frontends = append(d.Frontends, weir.Frontend{Name: "tcp-81", Bind: other, Mode: weir.TCP, Idle: time.Minute, Backend: "web"})
			d.Backends = slices.Clone(d.Backends)
			d.Backends = append(d.Backends, d.Backends[0])
			d.Backends[1].Name, d.Backends[1].Mode = "tcp", weir.TCP
			d.Frontends[1].Backend = "tcp"
		},
		func() { d.Backends[0].Check.Unhealthy++ },
		func() { d.Reload++ },
		func() { d.Frontends, d.Backends = d.Frontends[:1], d.Backends[:1] },
	} {
		d = withServers(d, d.Backends[0].Servers...)
		change()
		if i == 2 {
			// A change of servers rides along.
			apps = append(apps, f.start(t))
			d = withServers(d, serversOf(apps)...)
		}
		set(t, p, d)
		if h, _ := status(t, p); h.Reloads != i+1 {
			t.Errorf("%d reloads after change %d, want %d", h.Reloads, i, i+1)
		}
		if i == 1 {
			eventually(t, func() string {
				if _, _, err := ask(other, "/"); err != nil {
					return fmt.Sprintf("the new frontend does not answer: %v", err)
				}
				return ""
			})
		}
	}
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	stop()
	l.check(t, 0)
	if _, _, err := ask(other, "/"); err == nil {
		t.Error("the frontend that was taken away still answers")
	}
}

func TestRejectedDocumentChangesNothing(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	d := testDocument(front, a.server())
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	before, _ := status(t, p)
	file, err := os.ReadFile(p.path(configFile))
	if err != nil {
		t.Fatal(err)
	}

	mixed := withServers(d, a.server())
	mixed.Backends[0].Mode = weir.TCP
	taken, err := net.Listen("tcp", "127.0.0.4:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := withServers(d, a.server())
	busy.Frontends = slices.Clone(busy.Frontends)
	busy.Frontends[0].Bind = taken.Addr().(*net.TCPAddr).AddrPort()
	nowhere := withServers(d, weir.Server{ID: "7", Weight: 1})

	for _, c := range []struct {
		name string
		d    weir.Proxy
		kind weir.Kind
		want string
	}{
		{"a frontend and a backend of different modes", mixed, weir.Invalid, "haproxy rejects configuration 812: http frontend 'http-80' (line 29) tries to use incompatible tcp backend 'web' (line 40)"},
		{"a server without an address", nowhere, weir.Invalid, "configuration 812: backend web: server 7 has no address and port"},
		{"an address that is taken", busy, weir.Unavailable, "configuration 812: haproxy cannot load it: "},
	} {
		err := p.Set(t.Context(), 812, c.d)
		if err == nil || weir.KindOf(err) != c.kind || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v (%s), want %s: %s…", c.name, err, weir.KindOf(err), c.kind, c.want)
		}
		if strings.Contains(fmt.Sprint(err), p.dir) {
			t.Errorf("%s: %v: the path of our file tells nothing to a user", c.name, err)
		}
		if _, _, err := ask(front, "/"); err != nil {
			t.Errorf("%s: the old configuration does not serve: %v", c.name, err)
		}
		if got, _ := os.ReadFile(p.path(configFile)); string(got) != string(file) {
			t.Errorf("%s: the file on disk is another", c.name)
		}
		if h, _ := status(t, p); h.PID != before.PID || h.Reloads != 0 {
			t.Errorf("%s: worker %d with %d reloads, want worker %d with none", c.name, h.PID, h.Reloads, before.PID)
		}
	}
	// And the next good one is taken as if nothing had been.
	d.Reload++
	set(t, p, d)
	if h, _ := status(t, p); h.Reloads != 1 {
		t.Errorf("%d reloads, want 1", h.Reloads)
	}
}

func TestHAProxyIsBackWhenItIsKilled(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	apps := []*app{f.start(t), f.start(t)}
	front := freeAddr(t)
	set(t, p, testDocument(front, serversOf(apps)...))
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	late := f.start(t)
	apps = append(apps, late)
	set(t, p, testDocument(front, serversOf(apps)...))
	waitState(t, p, weir.ServerUp, serversOf(apps)...)

	for _, who := range []string{"worker", "master"} {
		l, stop := startLoad(t, front, 8)
		eventually(t, func() string {
			if l.sent.Load() < 100 {
				return "no load"
			}
			return ""
		})
		before, _ := status(t, p)
		victim := before.PID
		if who == "master" {
			victim = masterOf(t, p)
		}
		if err := unix.Kill(victim, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() string {
			if h, _, err := p.Status(t.Context()); err != nil || h.PID == 0 || h.PID == before.PID {
				return "HAProxy is not back after its " + who + " was killed"
			}
			return ""
		})
		sent := l.sent.Load()
		eventually(t, func() string {
			if l.sent.Load() < sent+100 {
				return "no load"
			}
			return ""
		})
		stop()
		// What the dead one had in its hands is lost: at most one request of each client.
		l.check(t, 8)
		waitState(t, p, weir.ServerUp, serversOf(apps)...)
	}
}

func masterOf(t testing.TB, p *Proxy) int {
	t.Helper()
	b, err := os.ReadFile(p.path(pidFile))
	if err != nil {
		t.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(b), " ")
	return atoi(pid)
}

func TestNextProxyGoesOnWithTheHAProxyThatWasKept(t *testing.T) {
	dir, err := os.MkdirTemp("", "weir-haproxy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var f farm
	apps := []*app{f.start(t), f.start(t)}
	apps[1].sick.Store(true)
	front := freeAddr(t)
	d := testDocument(front, apps[0].server())

	p, end := startProxy(t, Options{Dir: dir, Keep: true})
	set(t, p, d)
	waitState(t, p, weir.ServerUp, apps[0].server())
	set(t, p, withServers(d, serversOf(apps)...))
	before, _ := status(t, p)
	l, stop := startLoad(t, front, 8)
	end()

	// Alone, it serves, and the new server has still no request.
	eventually(t, func() string {
		if l.sent.Load() < 100 {
			return "no load"
		}
		return ""
	})
	p, _ = startProxy(t, Options{Dir: dir})
	eventually(t, func() string {
		h, _, err := p.Status(t.Context())
		if err != nil || h.PID != before.PID {
			return fmt.Sprintf("worker %d, want %d adopted (%v)", h.PID, before.PID, err)
		}
		return ""
	})
	set(t, p, withServers(d, serversOf(apps)...))
	if _, s := status(t, p); s["2"].State != weir.ServerChecking {
		t.Errorf("server 2 is %s, want checking still", s["2"].State)
	}
	if got := apps[1].requests.Load(); got != 0 {
		t.Errorf("%d requests went to a server that never passed its check", got)
	}
	apps[1].sick.Store(false)
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	stop()
	l.check(t, 0)
	if h, _ := status(t, p); h.PID != before.PID || h.Reloads != 0 {
		t.Errorf("worker %d with %d reloads, want worker %d with none", h.PID, h.Reloads, before.PID)
	}
}

func TestServerGetsNoRequestBeforeItsFirstCheckPasses(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	well, sick := f.start(t), f.start(t)
	sick.sick.Store(true)
	front := freeAddr(t)
	d := testDocument(front, serversOf([]*app{well, sick})...)
	both := []weir.Server{well.server(), sick.server()}
	l, stop := startLoad(t, front, 16)

	unused := func(when string) {
		t.Helper()
		checks := sick.checks.Load()
		eventually(t, func() string {
			if _, s, err := p.Status(t.Context()); err != nil || len(s) != 2 || sick.checks.Load() == checks {
				return fmt.Sprintf("%s: the sick server is not checked: %+v, %v", when, s, err)
			}
			return ""
		})
		if _, s := status(t, p); s["2"].State != weir.ServerChecking || !strings.HasPrefix(s["2"].Why, "L7STS") {
			t.Errorf("%s: %+v, want a server that is checking, and why", when, s["2"])
		}
		if got := sick.requests.Load(); got != 0 {
			t.Fatalf("%s: %d requests went to a server that never passed its check", when, got)
		}
	}
	set(t, p, d)
	unused("at the first start")
	d.Reload++
	set(t, p, d)
	unused("after a reload")
	before, _ := status(t, p)
	if err := unix.Kill(before.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if h, _, err := p.Status(t.Context()); err != nil || h.PID == 0 || h.PID == before.PID {
			return "HAProxy is not back"
		}
		return ""
	})
	unused("after a crash")
	for range 20 {
		set(t, p, withServers(d, well.server()))
		waitState(t, p, weir.ServerUp, well.server())
		set(t, p, withServers(d, both...))
	}
	unused("added to a running HAProxy")

	sick.sick.Store(false)
	waitState(t, p, weir.ServerUp, both...)
	eventually(t, func() string {
		if sick.requests.Load() == 0 {
			return "the server gets no request though its check passes"
		}
		return ""
	})
	stop()
	t.Logf("%d requests", l.sent.Load())
}

func TestLeavingServerFinishesItsRequests(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	stays, leaves := f.start(t), f.start(t)
	front := freeAddr(t)
	d := testDocument(front, stays.server(), leaves.server())
	set(t, p, d)
	waitState(t, p, weir.ServerUp, stays.server(), leaves.server())

	type answer struct {
		app string
		err error
	}
	answers := make(chan answer, 8)
	for range cap(answers) {
		go func() {
			app, _, err := ask(front, "/slow")
			answers <- answer{app, err}
		}()
	}
	eventually(t, func() string {
		if stays.requests.Load()+leaves.requests.Load() < 8 {
			return "the slow requests did not arrive"
		}
		return ""
	})
	set(t, p, withServers(d, stays.server()))
	if _, s := status(t, p); s["2"].State != weir.ServerDraining || s["2"].Sessions != 4 {
		t.Errorf("%+v, want 4 sessions draining", s["2"])
	}
	for range 20 {
		if app, _, err := ask(front, "/"); err != nil || app != "1" {
			t.Fatalf("server %q answered a new request (%v), want 1", app, err)
		}
	}
	close(leaves.slow)
	waitState(t, p, weir.ServerUp, stays.server())
	close(stays.slow)
	for range cap(answers) {
		if a := <-answers; a.err != nil {
			t.Errorf("a request in flight failed: %v", a.err)
		}
	}
}

func TestLeavingServerIsCutOffWhenItsTimeIsOver(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	stays, hangs := f.start(t), f.start(t)
	front := freeAddr(t)
	d := testDocument(front, hangs.server())
	d.Drain = time.Second
	set(t, p, d)
	waitState(t, p, weir.ServerUp, hangs.server())
	failed := make(chan error, 1)
	go func() {
		_, _, err := ask(front, "/slow")
		failed <- err
	}()
	eventually(t, func() string {
		if hangs.requests.Load() == 0 {
			return "the slow request did not arrive"
		}
		return ""
	})
	set(t, p, withServers(d, stays.server()))
	waitState(t, p, weir.ServerUp, stays.server())
	if err := <-failed; err == nil {
		t.Error("a request outlived its server")
	}
	if h, _ := status(t, p); h.Reloads != 0 {
		t.Errorf("%d reloads, want none", h.Reloads)
	}
}

func TestThousandServersComeAndGoAtOnce(t *testing.T) {
	p, _ := startProxy(t, Options{})
	front := freeAddr(t)
	many := crowd(1001, listenEverywhere(t))
	first := many[0]
	d := testDocument(front, first)
	set(t, p, d)
	waitState(t, p, weir.ServerUp, first)
	l, stop := startLoad(t, front, 4)
	set(t, p, withServers(d, many...))
	waitState(t, p, weir.ServerUp, many...)
	set(t, p, d)
	waitState(t, p, weir.ServerUp, first)
	stop()
	l.check(t, 0)
	if h, _ := status(t, p); h.Reloads != 0 {
		t.Errorf("%d reloads, want none", h.Reloads)
	}
}

// listenEverywhere answers anything on all of 127.0.0.0/8 on the port that it returns, with
// little effort: what is measured is not to be this.
func listenEverywhere(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := loopbackOnly{l}.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				var request [4 << 10]byte
				c.SetDeadline(time.Now().Add(10 * time.Second))
				if n, _ := c.Read(request[:]); n > 0 {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// loopbackOnly hangs up on whoever is not of this machine.
type loopbackOnly struct{ net.Listener }

func (l loopbackOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || c.RemoteAddr().(*net.TCPAddr).IP.IsLoopback() {
			return c, err
		}
		c.Close()
	}
}

// crowd returns n servers in 127.2.0.0/16.
func crowd(n int, port uint16) (servers []weir.Server) {
	for i := range n {
		ip := netip.AddrFrom4([4]byte{127, 2, byte(i >> 8), byte(i)})
		servers = append(servers, weir.Server{
			ID:     weir.ID(strconv.Itoa(3164494 + i)),
			Name:   fmt.Sprintf("web-%d", i+1),
			Addr:   netip.AddrPortFrom(ip, port),
			Weight: 1,
		})
	}
	return servers
}
