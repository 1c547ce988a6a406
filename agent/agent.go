// Package agent brings one node to its NodeConfig, and reports what the node does.
//
// [Run] is the whole of it. The node enrols once, with the token that its user-data
// has; from then on it waits for NodeConfigs, gives each to HAProxy, and reports when
// anything changes, and every few seconds anyway. Only the newest NodeConfig counts.
//
// The data plane does not depend on the control plane. What the node serves is on its
// disk, and HAProxy is started from there before anybody is asked; while the control
// plane is away, or refuses the node, nothing changes. A NodeConfig that HAProxy does
// not accept is reported, and the one before it stays. When Run ends, HAProxy goes on
// and the next Run on the same directory takes it over: an agent can be replaced under
// load.
//
// A node watches the other instances of its load balancer by heartbeats, and its own links,
// and reports what it sees to every member of the control plane at once. Where no cloud
// leads the load balancer's address to it, it holds the address by itself for as long as it may.
//
// Lines of the access log go from HAProxy to package accesslog, and from there to whichever member of the control plane
// asks for them.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"weir/accesslog"
	"weir/haproxy"
	"weir/heartbeat"
	"weir/nodeapi"
	"weir/vip"
	"weir/weir"
)

// Config says whose node this is. All of it is needed but CAFile, HAProxy and Alive.
type Config struct {
	URLs      []string // of members of the control plane: https://HOST:PORT
	TokenFile string   // has the token that the node enrols with
	CAFile    string   // has the certificate, PEM, of the control plane's authority; empty if the token tells it (see [weir.JoinToken])
	Dir       string   // where the node keeps its key, its NodeConfig and HAProxy's files
	HAProxy   string   // the program; "haproxy", from PATH, if empty
	Log       *slog.Logger
	Alive     func() // called every few seconds as long as the agent works: for a watchdog

	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil outside tests
}

// outside is what the agent needs of the world; [Run] makes one, and tests another.
type outside struct {
	proxy  Proxy
	access *accesslog.Log // what HAProxy logs
	beats  func(self weir.ID) Heartbeats
	holder Holder
	links  func(context.Context) iter.Seq2[map[string]bool, error] // as vip.Links
}

// Heartbeats is what the agent needs to watch its peers; [heartbeat.Monitor] is one.
type Heartbeats interface {
	Run(ctx context.Context) error
	Set(weir.Group)
	Answer(heartbeat.Answer)
	Peers() []heartbeat.PeerStatus
	Changed() <-chan struct{}
}

// Holder is what the agent needs to hold an address; [vip.Holder] is one.
type Holder interface {
	Run(ctx context.Context) error
	Set(ctx context.Context, want []netip.Prefix, at time.Time) error
	Renew(at time.Time)
	Status() []vip.Held
	Changed() <-chan struct{}
}

// Proxy is what the agent needs of HAProxy; [haproxy.Proxy] is one.
type Proxy interface {
	// Run keeps HAProxy alive until ctx ends, and leaves it running then. An error
	// says that it can never run here.
	Run(ctx context.Context) error

	// Set makes want what HAProxy does. If it does so already, Set does nothing. After
	// an error HAProxy does what it did before; weir.Invalid says that it never will
	// accept want.
	Set(ctx context.Context, revision int64, want weir.Proxy) error

	// Status returns HAProxy and its servers as they are now.
	Status(ctx context.Context) (weir.HAProxyStatus, []weir.ServerStatus, error)

	// Changed gets a value when a server or HAProxy itself has changed its state.
	Changed() <-chan struct{}
}

type agent struct {
	Config
	outside
	roots *x509.CertPool // nil until it knows the control plane's authority; set before there is an identity
	disk  *disk
	beats Heartbeats // once there is an identity

	identity atomic.Pointer[identity]
	enrolled chan struct{} // closed when there is an identity
	want     chan document // the newest that is not yet worked on
	news     chan struct{} // something to report
	urgently chan struct{} // something to report at once
	moved    chan struct{} // newest names other members, perhaps
	holds    chan struct{} // newest has another Hold, perhaps
	permit   vip.Permit

	mu     sync.Mutex
	newest weir.NodeConfig  // that is known, live or not
	toldAt time.Time        // when the control plane last said so; zero while it is from the disk
	live   int64            // revision that HAProxy has; 0 for none
	tried  int64            // the newest that it was given
	err    error            // why a newer one is not live
	ports  map[string]bool  // the interfaces that lead to peers
	down   []string         // ports that are not
	said   heartbeat.Answer // what heartbeats are answered with
}

// Run is the agent of the node whose state is in c.Dir, until ctx ends; HAProxy goes on
// then. It returns an error if c is unusable, if HAProxy can never run here, or if the
// control plane refuses a node that has nothing to serve yet.
func Run(ctx context.Context, c Config) error {
	access := accesslog.New(accesslog.Options{Dir: filepath.Join(c.Dir, "logs"), Log: c.Log})
	return run(ctx, c, outside{
		access: access,
		proxy: haproxy.New(haproxy.Options{Dir: filepath.Join(c.Dir, "haproxy"), Binary: c.HAProxy, Keep: true, Log: c.Log,
			Access: func(a haproxy.Access) { access.Take(a.Text, a.Response, a.Total) }}),
		beats: func(self weir.ID) Heartbeats {
			return heartbeat.New(heartbeat.Options{Self: self, Port: weir.BeatPort, Log: c.Log, Beat: beatEvery, Late: beatLate, Silent: beatSilent})
		},
		holder: vip.New(vip.Options{Log: c.Log}),
		links:  vip.Links,
	})
}

// The beat of peers: one that falls silent is known after beatSilent, and suspected from
// beatLate on, when the control plane begins to ask it too.
const (
	beatEvery  = 25 * time.Millisecond
	beatLate   = 40 * time.Millisecond
	beatSilent = 80 * time.Millisecond
)

// run is Run in a world of the caller's.
func run(ctx context.Context, c Config, o outside) error {
	for _, url := range c.URLs {
		if _, err := nodeapi.NewClient(nodeapi.Options{URL: url}); err != nil {
			return err
		}
	}
	disk, err := openDisk(c.Dir)
	if err != nil {
		return err
	}
	defer disk.close()
	stored, err := disk.documents()
	if err != nil {
		c.Log.Warn("stored configuration unreadable", "err", err)
	}
	if err := raiseFileLimit(); err != nil {
		c.Log.Warn("file limit stays as it is", "err", err)
	}

	one := func() chan struct{} { return make(chan struct{}, 1) }
	a := &agent{Config: c, outside: o, disk: disk, enrolled: make(chan struct{}),
		want: make(chan document, 1), news: one(), urgently: one(), moved: one(), holds: one()}
	if err := a.knownAuthority(); err != nil {
		return err
	}
	if len(stored) > 0 {
		a.newest = stored[0].NodeConfig
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	part := func(run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				stop(err)
			}
		})
	}
	part(a.proxy.Run)
	part(a.holder.Run)
	part(a.watch)
	wg.Go(func() { a.access.Run(ctx) })
	wg.Go(func() { a.follow(ctx, stored) })
	wg.Go(func() { a.speak(ctx) })
	if c.Alive != nil {
		wg.Go(func() { a.prove(ctx) })
	}
	if err := a.identify(ctx, len(stored) > 0); err != nil {
		return err
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// raiseFileLimit lets HAProxy have as many connections as its machine allows. The Go
// runtime has raised our own limit, but hides that from children unless it is set here.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
