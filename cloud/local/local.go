// Package local is a small cloud on one Linux machine, faithful enough that software
// written for a droplet runs in it.
//
// A machine is an OCI container, made by runc, with an overlay of the host's root file
// system for its disk: the host's packages are there, and what the machine writes is its own.
// Its eth0 has a public and an anchor address, of IPv6 too if that is asked for, its eth1 a private one. Its user-data
// runs at its first boot. At 169.254.169.254 it learns what it is. Its size is kept by a
// cgroup.
//
// All traffic of a region crosses its gateway, a network namespace that routes, leads
// reserved IPs to machines, and keeps the firewalls, by nftables. Nothing of it is routed
// into the host, and nothing leads out. Who wants to speak with machines opens a socket
// in the gateway, by [Cloud.Listen] and [Cloud.Dial].
//
// A region is a directory. [Open] brings it to life, all of it as it was, after [Cloud.Close]
// and after a crash: machines outlive a process that is killed, and are cleared away and
// booted again by the next Open. All names in the kernel (cgroup, namespace) begin with
// weir- and a tag that is made from the directory, so that several regions live side by side
// and leftovers are known.
//
// The package needs Linux, root, and runc.
package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"weir/cloud"
	"weir/weir"
)

// Config says what a region is to be. What it leaves open has a default.
type Config struct {
	Dir    string // all of the region: machines' disks, records, locks
	Region string // its name
	Log    *slog.Logger

	// Hide are directories of the host that no machine may see, besides Dir and those
	// that none ever sees, such as /root, /home and /var/lib/weir.
	Hide []string

	// The ranges that addresses come from; the first of each, except of reserved ones, is the
	// gateway's. An existing region keeps the addresses that are given.
	Public   netip.Prefix // 203.0.113.0/24
	Reserved netip.Prefix // 198.51.100.0/24
	Private  netip.Prefix // 10.110.0.0/20
	Anchor   netip.Prefix // 10.17.0.0/20

	// Those of IPv6, if the host has it.
	Public6   netip.Prefix // 2001:db8:0:1::/64
	Reserved6 netip.Prefix // 2001:db8:0:2::/64
	Anchor6   netip.Prefix // fd00:0:0:11::/64

	// Hosts is how many hosts the region's machines are spread over, host-1 and so on; one without a name if it is under 2. All of them
	// are this computer, of which each has an equal share: they are there to see what comes of one that fails.
	Hosts int

	// Peers are the private networks of other regions on this machine: once [Link] has joined them, machines of both reach each
	// other by their private addresses.
	Peers []netip.Prefix

	Memory int64 // what the sizes of all machines may sum to, in bytes; four times the host's
	Disk   int64 // what must be free on Dir's disk for a new machine, in bytes; 512 MiB
}

// Cloud is a region on this machine. It keeps the promises of [cloud.Cloud] and [cloud.Meter].
type Cloud struct {
	region       string
	log          *slog.Logger
	paths        paths
	networks     networks
	peers        []netip.Prefix
	hide         []string
	memory, disk int64
	hosts        int // at least 1

	lock       *os.File
	gateway    *gateway
	containers *container

	operations sync.WaitGroup  // calls from outside
	operating  context.Context // until Close begins
	stopCalls  context.CancelFunc
	work       sync.WaitGroup  // what goes on between calls
	watching   context.Context // until Close ends
	stopWork   context.CancelFunc

	starts    chan struct{} // a token for each machine that is being started, so that they are few
	pointing  sync.Mutex    // see point
	reserving sync.Mutex    // held while reserved changes, first on disk and then here

	mu       sync.Mutex
	closed   bool
	machines map[weir.ID]*machine
	down     map[string]bool // hosts that are; on no record
	reserved []cloud.Address // the one that was assigned last comes first
	promised netip.Addr      // is about to be in it: of the private network, whose addresses machines have too

	unpointed atomic.Bool // the gateway has not been told of reserved as it is
}

var (
	_ cloud.Cloud = (*Cloud)(nil)
	_ cloud.Meter = (*Cloud)(nil)
)

// Open brings the region in c.Dir to life: it clears away what a killed predecessor
// left in the kernel, and powers on each machine that should be on, with the ID, the
// addresses and the disk that it had. User-data that the predecessor did not see to its end
// runs again from its beginning, unless it was done. A machine that does not come up is
// logged and shown as off. A directory that another process has open is weir.Conflict.
func Open(ctx context.Context, c Config) (_ *Cloud, err error) {
	if err := checkRights(); err != nil {
		return nil, fmt.Errorf("local cloud: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("local cloud in %s: %w", c.Dir, err)
		}
	}()
	if err := checkRunc(ctx); err != nil {
		return nil, err
	}
	l := &Cloud{region: c.Region, log: c.Log, memory: c.Memory, disk: cmp.Or(c.Disk, 512<<20),
		hosts: max(1, c.Hosts), down: map[string]bool{},
		machines: map[weir.ID]*machine{}, starts: make(chan struct{}, 4*runtime.NumCPU())}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.networks, err = c.addresses(); err != nil {
		return nil, err
	}
	l.peers = c.Peers
	for _, p := range c.Peers {
		if p.Overlaps(l.networks.Private) || p.Overlaps(l.networks.Public) || p.Overlaps(l.networks.Anchor) {
			return nil, weir.Errorf(weir.Invalid, "private network %s of another region overlaps with this one's", p)
		}
	}
	if l.paths, err = newPaths(c.Dir); err != nil {
		return nil, err
	}
	if l.lock, err = l.paths.lock(); err != nil {
		return nil, err
	}
	l.operating, l.stopCalls = context.WithCancel(context.Background())
	l.watching, l.stopWork = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	l.hide = append(l.hide, string(l.paths))
	for _, dir := range c.Hide {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return nil, err
		}
		l.hide = append(l.hide, real)
	}
	slices.Sort(l.hide) // a directory before those in it
	if err := l.clean(ctx); err != nil {
		return nil, err
	}
	if err := l.paths.begin(); err != nil {
		return nil, err
	}
	if err := l.paths.probe(); err != nil {
		return nil, err
	}
	if err := l.load(); err != nil {
		return nil, err
	}
	if err := l.begins(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// clean clears away what a predecessor left.
func (c *Cloud) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.paths.clean(ctx)
}

// begins makes the gateway and powers on what should be on.
func (c *Cloud) begins(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c.containers = &container{root: c.paths.runc(), cgroup: c.paths.cgroup(), self: self}
	if c.gateway, err = newGateway(c.paths.name("gw"), c.networks, c.peers); err != nil {
		return err
	}
	for _, m := range c.machines {
		if err := c.gateway.setFirewall(&m.record, m.record.Firewall); err != nil {
			return err
		}
		c.doubt(m)
	}
	if err := c.serveMetadata(); err != nil {
		return err
	}
	var boots errgroup.Group
	for _, m := range c.machines {
		if !m.record.On {
			continue
		}
		boots.Go(func() error {
			if err := c.start(ctx, m); err != nil && ctx.Err() == nil {
				c.log.Error("machine did not come up", "machine", m.record.ID, "err", err)
			}
			return ctx.Err()
		})
	}
	return boots.Wait()
}

// load reads what is on record.
func (c *Cloud) load() error {
	if err := readJSON(c.paths.reserved(), &c.reserved); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(c.paths.machines())
	if err != nil {
		return err
	}
	for _, e := range entries {
		m := &machine{busy: make(chan struct{}, 1)}
		if err := readJSON(filepath.Join(c.paths.machines(), e.Name(), "machine.json"), &m.record); err != nil {
			return err
		}
		r := &m.record
		n := c.networks
		if !n.Public.Contains(r.Public) || !n.Anchor.Contains(r.Anchor) || !n.Private.Contains(r.Private) {
			return weir.Errorf(weir.Conflict, "machine %s has the addresses %s, %s and %s, which are not in the ranges %s, %s and %s",
				r.ID, r.Public, r.Anchor, r.Private, n.Public, n.Anchor, n.Private)
		}
		if r.Public6.IsValid() && (!n.Public6.Contains(r.Public6) || !n.Anchor6.Contains(r.Anchor6)) {
			return weir.Errorf(weir.Conflict, "machine %s has the addresses %s and %s, which are not in the ranges %s and %s",
				r.ID, r.Public6, r.Anchor6, n.Public6, n.Anchor6)
		}
		c.machines[r.ID] = m
	}
	if err := c.settle(); err != nil {
		return err
	}
	for i, a := range c.reserved {
		from := c.networks.Reserved
		switch {
		case a.Private:
			from = c.networks.Private
		case a.Addr.Is6():
			from = c.networks.Reserved6
		}
		if !from.Contains(a.Addr) {
			return weir.Errorf(weir.Conflict, "reserved IP %s is not in the range %s", a.Addr, from)
		}
		// Of some the deletion was cut short.
		c.reserved[i].Machines = slices.DeleteFunc(a.Machines, func(m weir.ID) bool { return c.machines[m] == nil })
	}
	return nil
}

// serveMetadata answers the machines' questions until Close.
func (c *Cloud) serveMetadata() error {
	at, err := c.Listen("tcp", netip.AddrPortFrom(metadataAddr, 80).String())
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           metadata(c.guest),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       30 * time.Second,
		ErrorLog:          slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
	}
	c.work.Go(func() {
		if err := server.Serve(at); !errors.Is(err, http.ErrServerClosed) {
			c.log.Error("metadata service ended", "err", err)
		}
	})
	c.work.Go(func() {
		<-c.watching.Done()
		server.Close()
	})
	return nil
}

// guest finds the machine that has addr.
func (c *Cloud) guest(addr netip.Addr) (guest, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.machines {
		if !m.record.has(addr) {
			continue
		}
		g := guest{record: m.record, Region: c.region, Networks: c.networks}
		for _, a := range c.reserved {
			if !a.Private && slices.Contains(a.Machines, m.record.ID) {
				g.Reserved = append(g.Reserved, a.Addr)
			}
		}
		return g, true
	}
	return guest{}, false
}

// begin starts a call from outside; done ends it. The call's context also ends when the
// region closes.
func (c *Cloud) begin(ctx context.Context) (_ context.Context, done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, weir.Errorf(weir.Unavailable, "the region is closed")
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	c.operations.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.operating, cancel)
	return ctx, func() { stop(); cancel(); c.operations.Done() }, nil
}

// Close powers every machine off and takes all that the region has in the kernel away.
// Disks and records stay; a machine that was on is on again after the next Open.
func (c *Cloud) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	machines := c.machines
	c.mu.Unlock()
	c.stopCalls()
	c.operations.Wait()

	ctx, cancel := context.WithTimeout(context.Background(), initGrace+patience)
	defer cancel()
	var stops errgroup.Group
	for _, m := range machines {
		stops.Go(func() error { return c.stop(ctx, m, unix.SIGTERM, initGrace) })
	}
	err := stops.Wait()
	c.stopWork()
	c.work.Wait()
	if c.gateway != nil {
		c.gateway.close()
	}
	err = errors.Join(err, c.paths.clean(ctx), c.lock.Close())
	if err != nil {
		return fmt.Errorf("close %s: %w", c.paths, err)
	}
	return nil
}

// Destroy removes the region in dir: what there is of it in the kernel, also if dir itself
// is gone, and all that Open and its machines wrote in dir. If there is none, it does
// nothing. A region that a process has open is weir.Conflict.
func Destroy(dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("destroy %s: %w", dir, err)
		}
	}()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		defer os.Remove(dir) // which is made for as long as this takes
	}
	p, err := newPaths(dir)
	if err != nil {
		return err
	}
	lock, err := p.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.clean(ctx); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(p.machines()), os.RemoveAll(p.reserved()), os.RemoveAll(lock.Name()))
}

// Listen opens a listening socket in the gateway, on one of its own addresses: Gateway(),
// 169.254.169.254, or 127.0.0.1. It stays open after Close.
func (c *Cloud) Listen(network, addr string) (net.Listener, error) {
	var l net.Listener
	err := inNamespace(c.gateway.ns, func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return l, nil
}

// Dial connects from the gateway to an address of the region, which is not a name.
func (c *Cloud) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, weir.Errorf(weir.Invalid, "gateway: dial %s: want an address and a port", addr)
	}
	var conn net.Conn
	err := inNamespace(c.gateway.ns, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return conn, nil
}

// Gateway returns the gateway's private address, where machines reach what listens there.
func (c *Cloud) Gateway() netip.Addr { return gatewayOf(c.networks.Private) }

// Doors returns the gateway's own addresses, which all that it dials comes from.
func (c *Cloud) Doors() []netip.Addr {
	return c.networks.doors()
}

// Networks returns the ranges of machines' public and private addresses, and of reserved IPs.
func (c *Cloud) Networks() (public, private, reserved netip.Prefix) {
	return c.networks.Public, c.networks.Private, c.networks.Reserved
}

// PublicIPv6 returns the range of machines' public addresses of IPv6, an invalid one if the host has no IPv6.
func (c *Cloud) PublicIPv6() netip.Prefix { return c.networks.Public6 }

// GatewayNamespace returns the file that is the gateway's network namespace. Its last
// element is the name that `ip netns exec` knows it by. Close and the next Open end what
// still runs in it.
func (c *Cloud) GatewayNamespace() string { return c.gateway.path() }

// Log returns the file with the output of a machine's user-data.
func (c *Cloud) Log(id weir.ID) string { return c.paths.log(id) }

// checkRights returns why this process cannot make namespaces.
func checkRights() error {
	if os.Geteuid() != 0 {
		return weir.Errorf(weir.Denied, "only root can make network namespaces and containers: run it with sudo")
	}
	err := onLostThread(func() error { return unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS) })
	if err != nil {
		return weir.Errorf(weir.Denied, "this process may not make network and mount namespaces (%w): run it on the machine itself, or in a container that is privileged", err)
	}
	return nil
}
