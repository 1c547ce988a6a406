package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/nodeapi"
	"weir/pki"
	"weir/weir"
)

const (
	node        weir.ID = "17"
	fakeVersion         = "2.6.12"
)

// world is one node and its control plane, on a network in memory.
type world struct {
	*nodeapi.Fake
	t       *testing.T
	control *control
	ca      *pki.CA
	config  Config // of the agent
	proxy   *fakeHAProxy
	log     *logBuffer
	net     *nodeapi.FakeNetwork
}

// newWorld makes a world in which nothing runs yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.Open(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	fake := new(nodeapi.Fake)
	fake.Admit(node, "secret")
	w := &world{Fake: fake, t: t, control: &control{Fake: fake}, ca: ca, proxy: newFakeHAProxy(), log: new(logBuffer), net: new(nodeapi.FakeNetwork)}
	w.config = Config{
		URLs:      []string{"https://127.0.0.1"},
		TokenFile: filepath.Join(dir, "token"),
		CAFile:    filepath.Join(dir, "authority.pem"),
		Dir:       filepath.Join(dir, "node"),
		Log:       slog.New(slog.NewTextHandler(w.log, nil)),
		dial:      w.net.Dial,
	}
	if err := os.WriteFile(w.config.TokenFile, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.config.CAFile, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// startControl lets the control plane answer until stop is called, or the test ends.
func (w *world) startControl() (stop func()) {
	ln := w.net.Listen()
	return w.start(func(ctx context.Context) error {
		return nodeapi.Serve(ctx, ln, w.control, w.ca, []string{"127.0.0.1"}, w.config.Log)
	})
}

// startAgent runs the node's agent until stop is called, or the test ends.
func (w *world) startAgent() (stop func()) {
	config, proxy := w.config, w.proxy
	return w.start(func(ctx context.Context) error { return run(ctx, config, around(proxy)) })
}

func (w *world) start(do func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := do(ctx); err != nil {
			w.t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	w.t.Cleanup(stop)
	return stop
}

// serves checks which revision HAProxy has.
func (w *world) serves(revision int64) {
	w.t.Helper()
	w.proxy.mu.Lock()
	defer w.proxy.mu.Unlock()
	if w.proxy.revision != revision {
		w.t.Fatalf("HAProxy serves revision %d, want %d\n%s", w.proxy.revision, revision, w.log)
	}
}

// reported checks the last status that the control plane has.
func (w *world) reported(what string, is func(weir.NodeStatus) bool) {
	w.t.Helper()
	statuses, _ := w.Statuses(node)
	if len(statuses) == 0 {
		w.t.Fatalf("no report, want %s\n%s", what, w.log)
	}
	if last := statuses[len(statuses)-1]; !is(last) {
		w.t.Fatalf("the last report is %+v, want %s\n%s", last, what, w.log)
	}
}

// control is a nodeapi.Fake whose answers can be lost.
type control struct {
	*nodeapi.Fake
	loseAnswers atomic.Bool
	enrolments  atomic.Int32
}

func (c *control) Enrol(ctx context.Context, token string, key []byte) (weir.ID, error) {
	node, err := c.Fake.Enrol(ctx, token, key)
	if err == nil {
		c.enrolments.Add(1)
	}
	if c.loseAnswers.Load() {
		return "", weir.Errorf(weir.Unavailable, "the answer is lost")
	}
	return node, err
}

// fakeHAProxy is HAProxy, with what drives it, in memory. It outlives agents.
type fakeHAProxy struct {
	changed chan struct{}
	broken  error // it can never run
	hangs   atomic.Bool

	mu       sync.Mutex
	running  bool
	revision int64
	live     weir.Proxy
	states   map[weir.ID]weir.ServerState
	sets     []int64
	failure  error
	duration time.Duration
}

func newFakeHAProxy() *fakeHAProxy {
	return &fakeHAProxy{changed: make(chan struct{}, 1), states: map[weir.ID]weir.ServerState{}}
}

func (p *fakeHAProxy) Run(ctx context.Context) error {
	if p.broken != nil {
		return p.broken
	}
	<-ctx.Done()
	return nil
}

func (p *fakeHAProxy) Set(ctx context.Context, revision int64, want weir.Proxy) error {
	p.mu.Lock()
	duration := p.duration
	p.sets = append(p.sets, revision)
	p.mu.Unlock()
	select {
	case <-time.After(duration):
	case <-ctx.Done():
		return ctx.Err()
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure != nil {
		return p.failure
	}
	binds := map[netip.AddrPort]bool{}
	for _, f := range want.Frontends {
		if binds[f.Bind] {
			return weir.Errorf(weir.Invalid, "haproxy rejects configuration %d: %s is bound twice", revision, f.Bind)
		}
		binds[f.Bind] = true
	}
	p.running, p.revision, p.live = true, revision, want
	return nil
}

func (p *fakeHAProxy) Status(ctx context.Context) (weir.HAProxyStatus, []weir.ServerStatus, error) {
	if p.hangs.Load() {
		<-ctx.Done()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running {
		return weir.HAProxyStatus{Version: fakeVersion}, nil, errors.New("haproxy does not run")
	}
	var servers []weir.ServerStatus
	for _, b := range p.live.Backends {
		for _, s := range b.Servers {
			servers = append(servers, weir.ServerStatus{Backend: b.Name, ID: s.ID,
				State: cmp.Or(p.states[s.ID], weir.ServerUp)})
		}
	}
	return weir.HAProxyStatus{Version: fakeVersion, PID: 4242}, servers, nil
}

func (p *fakeHAProxy) Changed() <-chan struct{} { return p.changed }

// mark is a health check's verdict.
func (p *fakeHAProxy) mark(server weir.ID, state weir.ServerState) {
	p.mu.Lock()
	p.states[server] = state
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// fail makes each Set from now on fail with err; nil makes them work.
func (p *fakeHAProxy) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = err
}

// slow makes each Set from now on take d.
func (p *fakeHAProxy) slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.duration = d
}

// given returns the revisions that Set was called with.
func (p *fakeHAProxy) given() []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sets)
}

func newConfig(revision int64) weir.NodeConfig {
	servers := make([]weir.Server, 3)
	for i := range servers {
		servers[i] = weir.Server{ID: weir.ID(fmt.Sprint(i + 1)), Name: fmt.Sprintf("web-%d", i+1), Weight: 1,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}), 80)}
	}
	return weir.NodeConfig{Node: node, Revision: revision, Proxy: weir.Proxy{
		LoadBalancer: "lb", Name: "shop", Drain: 10 * time.Second,
		Frontends: []weir.Frontend{{Name: "http-80", Mode: weir.HTTP, Idle: time.Minute, Backend: "web",
			Bind: netip.MustParseAddrPort("127.0.0.1:80")}},
		Backends: []weir.Backend{{Name: "web", Mode: weir.HTTP, Balance: weir.RoundRobin, Idle: time.Minute,
			Check: weir.DefaultCheck(), Servers: servers}},
	}}
}

// badConfig returns one that no HAProxy accepts: two frontends with one address.
func badConfig(revision int64) weir.NodeConfig {
	cfg := newConfig(revision)
	twin := cfg.Proxy.Frontends[0]
	twin.Name = "twin"
	cfg.Proxy.Frontends = append(cfg.Proxy.Frontends, twin)
	return cfg
}

// logBuffer is a log that a test can read.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
