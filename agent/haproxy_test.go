package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/haproxy"
	"weir/nodeapi"
	"weir/pki"
	"weir/weir"
)

// TestRealHAProxyServesThroughEverything takes one node through its life, with a real
// HAProxy, TCP and TLS, while a client never stops asking.
func TestRealHAProxyServesThroughEverything(t *testing.T) {
	r := newRealNode(t)
	stopControl := r.startControl()
	stopAgent := r.startAgent()

	one, two, three := r.newWebServer(1, "one"), r.newWebServer(2, "two"), r.newWebServer(3, "three")
	r.Put(r.configOf(1, one, two))
	r.eventually("both servers up", func(s weir.NodeStatus) bool {
		return s.Revision == 1 && stateOf(s, "1") == weir.ServerUp && stateOf(s, "2") == weir.ServerUp
	})
	stopClient := r.startClient()

	r.Put(r.configOf(2, one, two, three))
	r.eventually("the third server up", func(s weir.NodeStatus) bool {
		return s.Revision == 2 && stateOf(s, "3") == weir.ServerUp
	})
	r.eventuallyAnswers("three")

	bad := r.configOf(3, one)
	bad.Proxy.Frontends[0].Backend = "nowhere"
	r.Put(bad)
	r.eventually("revision 2, and why not 3", func(s weir.NodeStatus) bool {
		return s.Revision == 2 && strings.Contains(s.Err, "nowhere")
	})
	r.eventuallyAnswers("three")

	// Neither is there, then the agent is but the control plane is not.
	stopControl()
	stopAgent()
	r.eventuallyAnswers("one")
	stopAgent = r.startAgent()
	r.eventuallyAnswers("two")

	stopControl = r.startControl()
	r.Put(r.configOf(4, two, three))
	r.eventually("the first server gone, HAProxy never reloaded", func(s weir.NodeStatus) bool {
		return s.Revision == 4 && s.Err == "" && stateOf(s, "1") == "" && stateOf(s, "2") == weir.ServerUp &&
			s.HAProxy.Reloads == 0 && s.HAProxy.Version != "" && s.HAProxy.PID != 0
	})
	asked, failed := stopClient()
	if len(failed) > 0 || asked == 0 {
		t.Errorf("%d of %d requests failed, the first one: %s", len(failed), asked, failed[0])
	}
	r.eventually("every request counted, also those before the agent started anew", func(s weir.NodeStatus) bool {
		c := s.HAProxy.Counts
		return c != nil && len(c.Workers) == 1 && c.Workers[0].Frontends[0].Requests >= int64(asked) && c.Workers[0].Backends[0].Responses[1] >= int64(asked)
	})

	two.Close()
	r.eventually("the second server down, and why", func(s weir.NodeStatus) bool {
		return stateOf(s, "2") == weir.ServerDown && whyOf(s, "2") != ""
	})
	r.eventuallyAnswers("three")
	stopAgent()
	stopControl()
}

// realNode is one node with a real HAProxy and its control plane.
type realNode struct {
	*nodeapi.Fake
	t      *testing.T
	ca     *pki.CA
	config Config
	listen string // of the control plane
	front  netip.AddrPort
	port   uint16 // of the servers
	log    *logBuffer
}

func newRealNode(t *testing.T) *realNode {
	t.Helper()
	binary, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("haproxy is not installed")
	}
	dir, err := os.MkdirTemp("", "agent") // short, for its sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, err := pki.Open(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	r := &realNode{Fake: new(nodeapi.Fake), t: t, ca: ca, listen: freeAddr(t).String(), front: freeAddr(t), port: freeAddr(t).Port(), log: new(logBuffer)}
	r.config = Config{
		URLs:      []string{"https://" + r.listen},
		TokenFile: filepath.Join(dir, "token"),
		CAFile:    filepath.Join(dir, "authority.pem"),
		Dir:       filepath.Join(dir, "node"),
		HAProxy:   binary,
		Log:       slog.New(slog.NewTextHandler(r.log, nil)),
	}
	r.Admit(node, "secret")
	if err := os.WriteFile(r.config.TokenFile, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.config.CAFile, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	// The last thing of all: HAProxy outlives its agents.
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		p := haproxy.New(haproxy.Options{Dir: filepath.Join(r.config.Dir, "haproxy"), Binary: binary, Log: r.config.Log})
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(r.log)
		}
	})
	return r
}

func (r *realNode) startControl() (stop func()) {
	ln, err := net.Listen("tcp", r.listen)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.start(func(ctx context.Context) error {
		return nodeapi.Serve(ctx, ln, r.Fake, r.ca, []string{"127.0.0.1"}, r.config.Log)
	})
}

func (r *realNode) startAgent() (stop func()) {
	return r.start(func(ctx context.Context) error { return Run(ctx, r.config) })
}

func (r *realNode) start(do func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := do(ctx); err != nil {
			r.t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	r.t.Cleanup(stop)
	return stop
}

// eventually waits until the node has reported what is asked.
func (r *realNode) eventually(what string, is func(weir.NodeStatus) bool) {
	r.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		statuses, changed := r.Statuses(node)
		if len(statuses) > 0 && is(statuses[len(statuses)-1]) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			r.t.Fatalf("the node never reported %s; it reported %+v", what, statuses[max(0, len(statuses)-1):])
		}
	}
}

// eventuallyAnswers waits until a server has answered through HAProxy.
func (r *realNode) eventuallyAnswers(server string) {
	r.t.Helper()
	var last string
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if last, err = r.ask(); err == nil && last == server {
			return
		}
	}
	r.t.Fatalf("server %s never answered; the last answer is %q, %v", server, last, err)
}

func (r *realNode) ask() (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + r.front.String())
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("answer %s", resp.Status)
	}
	return string(body), err
}

// startClient asks until stop is called, which returns what went wrong.
func (r *realNode) startClient() (stop func() (asked int, failed []string)) {
	var asked int
	var failed []string
	wait := r.start(func(ctx context.Context) error {
		for ; ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
			asked++
			if _, err := r.ask(); err != nil {
				failed = append(failed, err.Error())
			}
		}
		return nil
	})
	return func() (int, []string) {
		wait()
		return asked, failed
	}
}

func (r *realNode) configOf(revision int64, servers ...*webServer) weir.NodeConfig {
	cfg := newConfig(revision)
	cfg.Proxy.Frontends[0].Bind = r.front
	cfg.Proxy.Drain = time.Second
	backend := &cfg.Proxy.Backends[0]
	backend.Check.Interval, backend.Check.Timeout = 200*time.Millisecond, 2*time.Second
	backend.Check.Port = int(r.port)
	backend.Servers = nil
	for _, s := range servers {
		backend.Servers = append(backend.Servers, weir.Server{ID: s.id, Name: s.name, Addr: s.addr, Weight: 1})
	}
	return cfg
}

// webServer answers with its name.
type webServer struct {
	*httptest.Server
	id   weir.ID
	name string
	addr netip.AddrPort
}

// newWebServer starts server n. All listen on one port, which health checks go to.
func (r *realNode) newWebServer(n int, name string) *webServer {
	r.t.Helper()
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(n)}), r.port)
	ln, err := net.Listen("tcp", addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) }))
	s.Listener.Close()
	s.Listener = ln
	s.Start()
	r.t.Cleanup(s.Close)
	return &webServer{s, weir.ID(strconv.Itoa(n)), name, addr}
}

func freeAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return netip.MustParseAddrPort(ln.Addr().String())
}

func stateOf(s weir.NodeStatus, server weir.ID) weir.ServerState {
	for _, is := range s.Servers {
		if is.ID == server {
			return is.State
		}
	}
	return ""
}

func whyOf(s weir.NodeStatus, server weir.ID) string {
	for _, is := range s.Servers {
		if is.ID == server {
			return is.Why
		}
	}
	return ""
}
