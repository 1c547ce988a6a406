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
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"weir/haproxy"
	"weir/nodeapi"
	"weir/pki"
	"weir/weir"
)

// Config says whose node this is. All of it is needed but HAProxy.
type Config struct {
	URL       string // of the control plane: https://HOST:PORT
	TokenFile string // has the token that the node enrols with
	CAFile    string // has the certificate, PEM, of the control plane's authority
	Dir       string // where the node keeps its key, its NodeConfig and HAProxy's files
	HAProxy   string // the program; "haproxy", from PATH, if empty
	Log       *slog.Logger

	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil outside tests
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
	proxy Proxy
	roots *x509.CertPool
	disk  *disk

	identity atomic.Pointer[identity]
	enrolled chan struct{} // closed when there is an identity
	want     chan document // the newest that is not yet worked on
	news     chan struct{} // something to report

	mu    sync.Mutex
	live  int64 // revision that HAProxy has; 0 for none
	tried int64 // the newest that it was given
	err   error // why a newer one is not live
}

// Run is the agent of the node whose state is in c.Dir, until ctx ends; HAProxy goes on
// then. It returns an error if c is unusable, if HAProxy can never run here, or if the
// control plane refuses a node that has nothing to serve yet.
func Run(ctx context.Context, c Config) error {
	return run(ctx, c, haproxy.New(haproxy.Options{
		Dir: filepath.Join(c.Dir, "haproxy"), Binary: c.HAProxy, Keep: true, Log: c.Log}))
}

// run is Run with a Proxy of the caller's.
func run(ctx context.Context, c Config, proxy Proxy) error {
	data, err := os.ReadFile(c.CAFile)
	if err != nil {
		return fmt.Errorf("certificate of the control plane's authority: %w", err)
	}
	roots, err := pki.Roots(data)
	if err != nil {
		return fmt.Errorf("certificate of the control plane's authority: %s: %w", c.CAFile, err)
	}
	if _, err := nodeapi.NewClient(nodeapi.Options{URL: c.URL}); err != nil {
		return err
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

	a := &agent{Config: c, proxy: proxy, roots: roots, disk: disk,
		enrolled: make(chan struct{}), want: make(chan document, 1), news: make(chan struct{}, 1)}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	wg.Go(func() {
		if err := proxy.Run(ctx); err != nil {
			stop(err)
		}
	})
	wg.Go(func() { a.follow(ctx, stored) })
	wg.Go(func() { a.poll(ctx) })
	wg.Go(func() { a.report(ctx) })
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
