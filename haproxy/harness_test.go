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
	return startLoadBy(t, func() (net.Conn, error) { return net.DialTimeout("tcp", addr.String(), 5*time.Second) }, clients, "")
}

// startLoadBy is startLoad on connections that dial makes. A request fails too if it is answered other than by want, where
// that is not empty.
func startLoadBy(t testing.TB, dial func() (net.Conn, error), clients int, want string) (l *load, stop func()) {
	t.Helper()
	l = &load{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			var c net.Conn
			var r *bufio.Reader
			hangUp := func() {
				if c != nil {
					c.Close()
				}
				c = nil
			}
			defer hangUp()
			headers := ""
			if i%2 == 0 {
				headers = "Connection: close\r\n"
			}
			for ctx.Err() == nil {
				var err error
				if c == nil {
					if c, err = dial(); err == nil {
						r = bufio.NewReader(c)
					} else {
						c = nil
					}
				}
				if err == nil {
					var body string
					_, body, err = askOn(c, r, "/", headers)
					if (err == nil || err == errClosed) && want != "" && strings.TrimSpace(body) != want {
						err = fmt.Errorf("answered %q, want %q", body, want)
					}
				}
				if err != nil {
					hangUp()
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
