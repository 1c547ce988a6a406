package local

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"weir/weir"
)

// namespaces is where the names of network namespaces are, as `ip netns` expects them.
const namespaces = "/run/netns"

// metadataAddr is where every machine asks for what it is.
var metadataAddr = netip.AddrFrom4([4]byte{169, 254, 169, 254})

// gatewayMAC is the hardware address of the gateway's end of every cable. The cables
// have nothing in common, so one address does for all.
var gatewayMAC = net.HardwareAddr{0x02, 0xff, 0, 0, 0, 1}

// gateway is the network namespace that all traffic of the region crosses. Each machine
// has two cables to it, named there by the address that they lead to; the gateway
// routes between them, one route for each address, and has no way out. What is not
// there is answered at once: "unreachable" for a machine's address, "refused" for a
// reserved IP, all of which, and those addresses of the private network that are reserved, are the
// gateway's own unless they point to a machine. What is
// cut off is not answered at all.
type gateway struct {
	name     string // of the namespace
	ns       *os.File
	links    *netlink.Handle // in the namespace
	networks networks
	peers    []netip.Prefix // the private networks of other regions, which machines reach by way of us: see Link
	families []*family

	sink    int              // the index of the link that loses all that is sent to it
	filter  sync.Mutex       // one nftables transaction at a time; for what is below
	wounded map[weir.ID]bool // the machines that are cut off, or may be
	holding []netip.Addr     // the addresses of the private network that are reserved: see hold
}

// newGateway makes the gateway and gives its namespace a name.
func newGateway(name string, n networks, peers []netip.Prefix) (_ *gateway, err error) {
	g := &gateway{name: name, networks: n, peers: peers, families: n.families(), wounded: map[weir.ID]bool{}}
	g.ns, err = newNamespace(func() error {
		if err := set(
			setting{"ipv4/ip_forward", "1"},
			// A machine that lies about its source is not heard: metadata trusts it.
			setting{"ipv4/conf/all/rp_filter", "1"},
			setting{"ipv4/conf/all/send_redirects", "0"},
			setting{"ipv4/conf/default/send_redirects", "0"},
			setting{"ipv4/icmp_ratemask", "0"}, // always say that something is unreachable
			setting{"ipv4/ip_local_port_range", "1024 65535"},
			setting{"ipv4/tcp_tw_reuse", "1"},
			setting{"ipv6/conf/all/disable_ipv6", "0"},
			setting{"ipv6/conf/default/disable_ipv6", "0"},
			setting{"ipv6/conf/default/addr_gen_mode", "1"}, // only the addresses that it is given
			setting{"ipv6/conf/all/forwarding", "1"},
			setting{"ipv6/icmp/ratelimit", "0"},
			// The table of flows is the host's. Keep a closed one for as long as its last
			// packets may be on their way, and not for the usual two minutes.
			setting{"netfilter/nf_conntrack_tcp_timeout_time_wait", "10"},
		); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		return nameNamespace(name)
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if g.links, err = netlink.NewHandleAt(netns.NsHandle(g.ns.Fd()), unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if err := g.route(); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if err := g.makeSink(); err != nil {
		return nil, fmt.Errorf("gateway: sink: %w", err)
	}
	if err := g.setTables(); err != nil {
		return nil, fmt.Errorf("gateway: set nftables: %w", err)
	}
	return g, nil
}

// close lets go of the gateway. It is gone when its name is, and all that runs in it.
func (g *gateway) close() {
	if g.links != nil {
		g.links.Close()
	}
	g.ns.Close()
}

func (g *gateway) path() string { return filepath.Join(namespaces, g.name) }

// route gives the gateway its addresses, and its ranges a meaning.
func (g *gateway) route() error {
	lo, err := g.links.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := g.links.LinkSetUp(lo); err != nil {
		return err
	}
	for _, addr := range append(g.networks.doors(), metadataAddr) {
		if err := g.links.AddrReplace(lo, &netlink.Addr{IPNet: host(addr), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("address %s: %w", addr, err)
		}
	}
	for _, f := range g.families {
		for _, p := range f.lost {
			if err := g.links.RouteReplace(&netlink.Route{Dst: ipNet(p), Type: unix.RTN_UNREACHABLE}); err != nil {
				return fmt.Errorf("route %s: %w", p, err)
			}
		}
		// The gateway can dial a reserved IP only if there is a route before it is translated.
		if err := g.links.RouteReplace(own(lo, f.held, gatewayOf(f.lost[0]))); err != nil {
			return fmt.Errorf("route %s: %w", f.held, err)
		}
	}
	return nil
}

// own is a route that makes a range the gateway's own, which it dials from src.
func own(lo netlink.Link, p netip.Prefix, src netip.Addr) *netlink.Route {
	return &netlink.Route{Dst: ipNet(p), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
		Scope: netlink.SCOPE_HOST, LinkIndex: lo.Attrs().Index, Src: ip(src)}
}

// hold makes these addresses of the private network the gateway's own, and no others of it beside its door.
func (g *gateway) hold(private []netip.Addr) error {
	g.filter.Lock()
	defer g.filter.Unlock()
	if slices.Equal(g.holding, private) {
		return nil
	}
	lo, err := g.links.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, addr := range private {
		if err := g.links.RouteReplace(own(lo, netip.PrefixFrom(addr, addr.BitLen()), gatewayOf(g.networks.Private))); err != nil {
			return fmt.Errorf("route %s: %w", addr, err)
		}
	}
	for _, addr := range g.holding {
		if slices.Contains(private, addr) {
			continue
		}
		err := g.links.RouteDel(own(lo, netip.PrefixFrom(addr, addr.BitLen()), gatewayOf(g.networks.Private)))
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("route %s: %w", addr, err)
		}
	}
	g.holding = private
	return nil
}

// plug makes the network of a machine: a namespace with two cables to the gateway.
// Whatever a former boot of the machine left in the gateway is replaced. The namespace
// is gone, and the cables with it, when the last process in it ends.
func (g *gateway) plug(r *record) (*os.File, error) {
	g.detach(r)
	ns, err := newNamespace(func() error {
		return set(
			setting{"ipv6/conf/default/disable_ipv6", "1"}, // lo keeps ::1, and eth0 may get some: see connect
			setting{"ipv6/conf/default/addr_gen_mode", "1"},
			setting{"ipv6/conf/default/accept_ra", "0"},
			setting{"ipv4/ping_group_range", "0 2147483647"},
			setting{"core/somaxconn", "65535"},
			setting{"unix/max_dgram_qlen", "4096"}, // lines of access logs come in bursts; systemd raises it likewise
		)
	})
	if err != nil {
		return nil, err
	}
	if err := g.attach(r, ns); err != nil {
		g.detach(r)
		ns.Close()
		return nil, fmt.Errorf("network: %w", err)
	}
	return ns, nil
}

// cable leads from the gateway to one interface of a machine.
type cable struct {
	link  weir.Link
	name  string           // of the interface
	mac   net.HardwareAddr // likewise
	addrs []address        // likewise
}

// end is the name of the gateway's end.
func (c *cable) end() string { return c.addrs[0].addr.String() }

// address is one address of a machine's interface.
type address struct {
	addr    netip.Addr
	network netip.Prefix
	out     bool           // the default route goes by it
	peers   []netip.Prefix // other networks that are reached from it
}

// cables returns a machine's two.
func (g *gateway) cables(r *record) (public, private cable) {
	n := g.networks
	public = cable{weir.PublicLink, "eth0", r.publicMAC(), []address{{r.Public, n.Public, true, nil}, {r.Anchor, n.Anchor, false, nil}}}
	if r.Public6.IsValid() {
		public.addrs = append(public.addrs, address{r.Public6, n.Public6, true, nil}, address{r.Anchor6, n.Anchor6, false, nil})
	}
	return public, cable{weir.PrivateLink, "eth1", r.privateMAC(), []address{{r.Private, n.Private, false, g.peers}}}
}

// attach lays a machine's cables to its namespace ns.
func (g *gateway) attach(r *record, ns *os.File) error {
	inside, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := inside.LinkSetUp(lo); err != nil {
		return err
	}
	public, private := g.cables(r)
	for _, c := range []*cable{&public, &private} {
		if err := g.connect(inside, ns, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// connect lays a cable from the gateway to the namespace ns, where inside works. Both ends
// know each other's hardware address for ever: the kernel's table of neighbours is one for all
// namespaces, and small.
func (g *gateway) connect(inside *netlink.Handle, ns *os.File, c *cable) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = c.end(), gatewayMAC
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = c.name, c.mac, netlink.NsFd(ns.Fd())
	if err := g.links.LinkAdd(veth); err != nil {
		return err
	}
	here, err := g.links.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	there, err := inside.LinkByName(c.name)
	if err != nil {
		return err
	}
	if err := errors.Join(g.links.LinkSetUp(here), inside.LinkSetUp(there)); err != nil {
		return err
	}
	if err := c.address(inside, ns, there); err != nil {
		return err
	}
	return g.lead(c, here.Attrs().Index)
}

// address gives a machine's end of a cable its addresses, and the machine its ways out. What is there
// already stays.
func (c *cable) address(inside *netlink.Handle, ns *os.File, there netlink.Link) error {
	in := there.Attrs().Index
	for _, a := range c.addrs {
		if a.addr.Is6() {
			if err := inNamespace(ns, func() error { return set(setting{"ipv6/conf/" + c.name + "/disable_ipv6", "0"}) }); err != nil {
				return err
			}
		}
		gw := gatewayOf(a.network)
		// The whole network is reached by way of the gateway, which knows what is there
		// and what is not; no machine needs to ask the others by ARP, nor whether they have its address.
		steps := []error{
			inside.AddrReplace(there, &netlink.Addr{IPNet: &net.IPNet{IP: ip(a.addr), Mask: ipNet(a.network).Mask}, Flags: unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_NODAD}),
			inside.NeighSet(neighbour(in, gw, gatewayMAC)),
			inside.RouteReplace(&netlink.Route{LinkIndex: in, Dst: ipNet(a.network), Gw: ip(gw), Flags: int(netlink.FLAG_ONLINK), Src: ip(a.addr)}),
		}
		for _, p := range a.peers {
			steps = append(steps, inside.RouteReplace(&netlink.Route{LinkIndex: in, Dst: ipNet(p), Gw: ip(gw), Flags: int(netlink.FLAG_ONLINK), Src: ip(a.addr)}))
		}
		if err := errors.Join(steps...); err != nil {
			return fmt.Errorf("address %s: %w", a.addr, err)
		}
		if a.out {
			err := inside.RouteReplace(&netlink.Route{LinkIndex: in, Gw: ip(gw), Flags: int(netlink.FLAG_ONLINK), Src: ip(a.addr)})
			if err != nil {
				return fmt.Errorf("default route: %w", err)
			}
		}
		if err := listening(inside, a.addr); err != nil {
			return fmt.Errorf("address %s: %w", a.addr, err)
		}
	}
	return nil
}

// listening returns once a machine takes what is for one of its addresses: for one of IPv6 the kernel sees to that in its
// own time.
func listening(inside *netlink.Handle, addr netip.Addr) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		routes, err := inside.RouteGet(ip(addr))
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(end) {
			return errors.Join(err, errors.New("the kernel does not take it"))
		}
	}
}

// lead has the gateway send what is for a cable's addresses to the link of that index.
func (g *gateway) lead(c *cable, link int) error {
	for _, a := range c.addrs {
		err := errors.Join(g.links.NeighSet(neighbour(link, a.addr, c.mac)),
			g.links.RouteReplace(&netlink.Route{LinkIndex: link, Dst: host(a.addr), Scope: netlink.SCOPE_LINK, Src: ip(gatewayOf(a.network))}))
		if err != nil {
			return fmt.Errorf("address %s: %w", a.addr, err)
		}
	}
	return nil
}

// extend has the cables of a machine that is on, in the namespace ns, lead to the addresses that its
// record has got since.
func (g *gateway) extend(r *record, ns *os.File) error {
	g.filter.Lock()
	defer g.filter.Unlock()
	inside, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	c, _ := g.cables(r)
	here, err := g.links.LinkByName(c.end())
	if err != nil {
		return err
	}
	there, err := inside.LinkByName(c.name)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if err := c.address(inside, ns, there); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if here.Attrs().Flags&net.FlagUp == 0 {
		return g.lead(&c, g.sink)
	}
	return g.lead(&c, here.Attrs().Index)
}

// unplug takes a machine's cables away, if they are there, and forgets the flows that
// led to it: whoever goes on with one is told at once that it is over.
func (g *gateway) unplug(r *record) {
	g.detach(r)
	// Without the flows forgotten, all works, only some clients wait for their timeout.
	for _, f := range g.families {
		_, _ = g.links.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(familyOf(f.held.Addr())), flowsOf(r.addresses()))
	}
}

// detach takes a machine's cables away, if they are there, with all that was cut of them.
func (g *gateway) detach(r *record) {
	g.filter.Lock()
	defer g.filter.Unlock()
	for _, addr := range []netip.Addr{r.Public, r.Private} {
		link, err := g.links.LinkByName(addr.String())
		if err == nil {
			_ = g.links.LinkDel(link) // gone already is as good
		}
	}
	_ = g.setWounds(r, wounds{}) // as far as it is not done, the machine stays marked
}

// flowsOf selects the flows that begin or end at one of these addresses.
type flowsOf []netip.Addr

// MatchConntrackFlow reports whether flow is one of them.
func (addrs flowsOf) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, a := range addrs {
		if a := ip(a); a.Equal(flow.Forward.SrcIP) || a.Equal(flow.Forward.DstIP) || a.Equal(flow.Reverse.SrcIP) {
			return true
		}
	}
	return false
}

func neighbour(link int, addr netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link, Family: familyOf(addr), State: netlink.NUD_PERMANENT, IP: ip(addr), HardwareAddr: mac}
}

// nameNamespace gives the namespace of the calling thread a name.
func nameNamespace(name string) error {
	path := filepath.Join(namespaces, name)
	if err := os.MkdirAll(namespaces, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("name network namespace %s: %w", name, err)
	}
	return nil
}

// removeNamespace takes a namespace's name away, if it has one.
func removeNamespace(name string) error {
	path := filepath.Join(namespaces, name)
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // nothing is mounted there, or no longer
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// familyOf returns the kernel's number of an address's family.
func familyOf(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func ip(a netip.Addr) net.IP { return net.IP(a.AsSlice()) }

func host(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: ip(p.Masked().Addr()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
