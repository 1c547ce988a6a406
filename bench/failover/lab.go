package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Addresses are of 198.18.0.0/15, which is set aside for benchmarks (RFC 2544). There is
// no way out of the lab.
var (
	network     = netip.MustParsePrefix("198.18.0.0/24")
	clientAddr  = netip.MustParseAddr("198.18.0.2")
	balancerIPs = [2]netip.Addr{netip.MustParseAddr("198.18.0.11"), netip.MustParseAddr("198.18.0.12")}
	serverIPs   = [2]netip.Addr{netip.MustParseAddr("198.18.0.21"), netip.MustParseAddr("198.18.0.22")}
	serviceAddr = netip.MustParseAddr("198.18.0.100") // the one that clients know, which fails over
)

// lab is one switch with two balancers, two application servers and the client, which is
// this process.
type lab struct {
	dir       string // for logs, on a tmpfs that goes with us
	bridge    *host
	links     *netlink.Handle // on the switch
	segment   *netlink.Bridge
	balancers [2]*host
	servers   [2]*host

	// arrivals is how often a balancer got the service address that it did not have.
	arrivals atomic.Int64
}

// newLab boots everything; on the balancers nothing runs yet.
func newLab() (l *lab, err error) {
	l = &lab{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("lab: %w", err)
			l.close()
		}
	}()
	if l.dir, err = os.MkdirTemp("/run", "weir-bench-"); err != nil {
		return l, err
	}
	if l.bridge, err = boot(l.dir, hostRole, "switch"); err != nil {
		return l, err
	}
	ns, err := l.bridge.netns()
	if err != nil {
		return l, err
	}
	defer ns.Close()
	if l.links, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		return l, err
	}
	snooping := false // VRRP is multicast; a switch without a querier passes it to all
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "segment"
	l.segment = &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := errors.Join(l.links.LinkAdd(l.segment), l.links.LinkSetUp(l.segment)); err != nil {
		return l, err
	}
	if _, err := l.connect("client", os.Getpid(), clientAddr); err != nil {
		return l, err
	}
	for i, addr := range serverIPs {
		if l.servers[i], err = l.plug(serverRole, fmt.Sprintf("app-%d", i+1), addr); err != nil {
			return l, err
		}
	}
	for i := range balancerIPs {
		if err := l.bootBalancer(i); err != nil {
			return l, err
		}
	}
	return l, nil
}

// close ends all that newLab began.
func (l *lab) close() {
	for _, h := range []*host{l.balancers[0], l.balancers[1], l.servers[0], l.servers[1], l.bridge} {
		if h != nil {
			h.halt()
		}
	}
	if l.links != nil {
		if port, err := l.links.LinkByName("client"); err == nil {
			l.links.LinkDel(port) // our end goes at once, so that the next lab can have its name
		}
		l.links.Close()
	}
	os.RemoveAll(l.dir)
}

// bootBalancer boots the balancer of that index, again if its power was cut.
func (l *lab) bootBalancer(i int) error {
	h, err := l.plug(hostRole, fmt.Sprintf("lb-%d", i+1), balancerIPs[i])
	if err != nil {
		return err
	}
	l.balancers[i] = h
	return l.watch(h)
}

// plug boots a host and connects it.
func (l *lab) plug(role, name string, addr netip.Addr) (*host, error) {
	h, err := boot(l.dir, role, name)
	if err != nil {
		return nil, err
	}
	if h.port, err = l.connect(name, h.init.Process.Pid, addr); err != nil {
		h.halt()
		return nil, err
	}
	return h, nil
}

// connect lays a cable from a port of the switch, called name, to eth0 in the network of
// process pid, and gives that its address. A host's MAC address follows from that, so that it
// keeps it when it is booted again.
func (l *lab) connect(name string, pid int, addr netip.Addr) (netlink.Link, error) {
	fail := func(err error) (netlink.Link, error) { return nil, fmt.Errorf("connect %s: %w", name, err) }
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, l.segment.Index
	cable := netlink.NewVeth(attrs)
	cable.PeerName, cable.PeerNamespace = "eth0", netlink.NsPid(pid)
	ip := addr.As4()
	cable.PeerHardwareAddr = net.HardwareAddr{0x02, 0x00, ip[0], ip[1], ip[2], ip[3]}
	if err := l.links.LinkAdd(cable); err != nil {
		return fail(err)
	}
	port, err := l.links.LinkByName(name)
	if err != nil {
		return fail(err)
	}
	if err := l.links.LinkSetUp(port); err != nil {
		return fail(err)
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fail(err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fail(err)
	}
	defer inside.Close()
	for name, addrs := range map[string][]netip.Addr{"lo": nil, "eth0": {addr}} {
		link, err := inside.LinkByName(name)
		if err != nil {
			return fail(err)
		}
		if err := inside.LinkSetUp(link); err != nil {
			return fail(err)
		}
		for _, a := range addrs {
			n := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(network.Bits(), 32)}
			if err := inside.AddrAdd(link, &netlink.Addr{IPNet: n}); err != nil {
				return fail(err)
			}
		}
	}
	return port, nil
}

// watch keeps h.has and l.arrivals, until the host is halted.
func (l *lab) watch(h *host) error {
	ns, err := h.netns()
	if err != nil {
		return err
	}
	defer ns.Close()
	updates := make(chan netlink.AddrUpdate)
	if err := netlink.AddrSubscribeAt(ns, updates, h.done); err != nil {
		return fmt.Errorf("watch %s: %w", h.name, err)
	}
	h.wg.Go(func() {
		for u := range updates { // closed after h.done is
			if !u.LinkAddress.IP.Equal(serviceAddr.AsSlice()) {
				continue
			}
			// An address whose lifetime is renewed is told of as new each time.
			if had := h.has.Swap(u.NewAddr); u.NewAddr && !had {
				l.arrivals.Add(1)
			}
		}
	})
	return nil
}

// holder returns the index of the balancer that has the service address. It is an error if
// none has it, or both.
func (l *lab) holder() (int, error) {
	switch a, b := l.balancers[0].has.Load(), l.balancers[1].has.Load(); {
	case a && b:
		return 0, errors.New("both balancers have the address")
	case a:
		return 0, nil
	case b:
		return 1, nil
	}
	return 0, errors.New("no balancer has the address")
}

// cutPower takes everything from a balancer in one instant. Its port goes first: what its
// kernel still says while processes end (a reset for each connection) reaches nobody.
func (l *lab) cutPower(i int) error {
	h := l.balancers[i]
	if err := l.cutLink(i); err != nil {
		return err
	}
	h.kill()
	l.links.LinkDel(h.port) // it may have gone with the host's network
	h.halt()
	h.has.Store(false)
	return nil
}

// cutLink takes a balancer's port out of the switch: nothing passes in either direction, and
// the balancer's interface still has carrier.
func (l *lab) cutLink(i int) error {
	if err := l.links.LinkSetNoMaster(l.balancers[i].port); err != nil {
		return fmt.Errorf("cut the link of %s: %w", l.balancers[i].name, err)
	}
	return nil
}

// mendLink undoes cutLink.
func (l *lab) mendLink(i int) error { return l.links.LinkSetMaster(l.balancers[i].port, l.segment) }

// killHAProxy kills HAProxy's master and worker, as the kernel does when memory ends.
func (l *lab) killHAProxy(i int) error {
	pids := l.balancers[i].pids("haproxy")
	if len(pids) == 0 {
		return fmt.Errorf("%s: no haproxy to kill", l.balancers[i].name)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("%s: kill haproxy: %w", l.balancers[i].name, err)
		}
	}
	return nil
}

const haproxyFile = "/etc/haproxy/weir-bench.cfg"

// haproxyConfig is the same on every balancer of every contender.
var haproxyConfig = fmt.Sprintf(`global
    maxconn 4000
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
frontend web
    bind :80
    default_backend app
backend app
    balance roundrobin
    option httpchk GET /
    server app-1 %s:80 check inter 1s
    server app-2 %s:80 check inter 1s
`, serverIPs[0], serverIPs[1])

// startHAProxy starts HAProxy on a balancer, which does not have it yet.
func (l *lab) startHAProxy(i int) error {
	h := l.balancers[i]
	if err := h.write(haproxyFile, haproxyConfig, 0o644); err != nil {
		return err
	}
	return h.start("haproxy", "-W", "-f", haproxyFile)
}

// untilServed waits until the service address, and all those that balancers have alone, have answered
// 20 requests in a row each, and ready is content. It gives up after a minute and a half.
func (l *lab) untilServed(ctx context.Context, alone []netip.Addr, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	check := func() error {
		if err := ready(ctx); err != nil {
			return err
		}
		for _, addr := range append([]netip.Addr{serviceAddr}, alone...) {
			for range 20 {
				if err := ask(ctx, dialerOf(addr), time.Now().Add(time.Second)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := until(ctx, check); err != nil {
		return fmt.Errorf("not healthy: %w\n%s", err, l.logs())
	}
	return nil
}

// logs returns the end of what the balancers have logged.
func (l *lab) logs() string {
	var b bytes.Buffer
	for _, h := range l.balancers {
		log, err := os.ReadFile(filepath.Join(l.dir, h.name+".log"))
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "--- %s\n%s\n", h.name, log[max(0, len(log)-2000):])
	}
	return b.String()
}

// loopbackUp sets this process's loopback up, which a lab does by itself.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// pairTrial is a contender that runs on the two balancers of a lab.
type pairTrial struct {
	lab    *lab
	pair   pair
	active int // when all was well
}

// pair is a contender that does.
type pair interface {
	// up starts it and HAProxy on both balancers.
	up(ctx context.Context, l *lab) error

	// alone returns the addresses, beside the service's, at which HAProxy answers.
	alone() []netip.Addr

	// ready says whether one balancer is active and the other ready to take over, and
	// which is active.
	ready(ctx context.Context) (active int, err error)

	// handOver asks for a planned change of the active balancer, as its documentation says.
	handOver(ctx context.Context, active int) error

	// heal undoes a fault on a balancer, after which ready must come true. The lab has
	// done its own part: the link is mended, the balancer is booted again with nothing
	// running on it.
	heal(ctx context.Context, f fault, i int) error

	// down ends what up began outside the balancers.
	down()
}

// openPair starts p in a new lab.
func openPair(ctx context.Context, p pair) (trial, error) {
	l, err := newLab()
	if err != nil {
		return nil, err
	}
	if err := p.up(ctx, l); err != nil {
		l.close()
		return nil, err
	}
	return &pairTrial{lab: l, pair: p}, nil
}

func (t *pairTrial) close() {
	t.pair.down()
	t.lab.close()
}

func (t *pairTrial) dial(ctx context.Context, deadline time.Time) (net.Conn, error) {
	return dial(ctx, serviceAddr, deadline)
}

func (t *pairTrial) untilWell(ctx context.Context) error {
	return t.lab.untilServed(ctx, t.pair.alone(), func(ctx context.Context) (err error) {
		t.active, err = t.pair.ready(ctx)
		return err
	})
}

func (t *pairTrial) cause(ctx context.Context, f fault) error {
	switch f {
	case dies:
		return t.lab.cutPower(t.active)
	case cut:
		return t.lab.cutLink(t.active)
	case killed:
		return t.lab.killHAProxy(t.active)
	case planned:
		return t.pair.handOver(ctx, t.active)
	case restarts:
		if err := t.lab.killHAProxy(t.active); err != nil {
			return err
		}
		if err := pause(ctx, systemdRestart); err != nil {
			return err
		}
		return t.lab.startHAProxy(t.active)
	}
	return fmt.Errorf("no fault %q", f)
}

func (t *pairTrial) over() bool { return !t.lab.balancers[t.active].has.Load() }

func (t *pairTrial) heal(ctx context.Context, f fault) error {
	var err error
	switch f {
	case dies:
		err = t.lab.bootBalancer(t.active)
	case cut:
		err = t.lab.mendLink(t.active)
	}
	if err != nil {
		return err
	}
	if err := t.pair.heal(ctx, f, t.active); err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	return nil
}

func (t *pairTrial) moves() (int64, error) { return t.lab.arrivals.Load(), nil }
