package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weir/weir"
)

// scene is what the kernel has: interfaces by index, and every address on them.
type scene struct {
	links     map[int]netlink.Link
	addresses []address
}

// address is one on an interface.
type address struct {
	prefix    netip.Prefix
	link      int
	permanent bool
	left      time.Duration // of its lifetime, unless it is permanent
}

// look returns what the kernel has now.
func look(kernel *netlink.Handle) (*scene, error) {
	links, err := dump(kernel.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addresses, err := dump(func() ([]netlink.Addr, error) { return kernel.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	s := &scene{links: map[int]netlink.Link{}}
	for _, l := range links {
		s.links[l.Attrs().Index] = l
	}
	for _, a := range addresses {
		if prefix, ok := prefixOf(a.IPNet); ok {
			s.addresses = append(s.addresses, address{
				prefix:    prefix,
				link:      a.LinkIndex,
				permanent: a.Flags&unix.IFA_F_PERMANENT != 0,
				left:      time.Duration(a.ValidLft) * time.Second,
			})
		}
	}
	return s, nil
}

// dump calls list again while what it lists changes under it.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range 5 {
		if got, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
	return list()
}

// prefixOf turns the address of an interface into ours.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a.Unmap(), bits), true
}

// place says where want goes and as what: on the interface with that name, or, if name is
// empty, on the one with the narrowest subnet around it.
func (s *scene) place(want netip.Prefix, name string) (netlink.Link, netip.Prefix, error) {
	var link netlink.Link
	put := want
	narrowest := -1
	if name != "" {
		for _, l := range s.links {
			if l.Attrs().Name == name {
				link = l
			}
		}
		if link == nil {
			return nil, put, weir.Errorf(weir.NotFound, "hold %s: there is no interface %s", want.Addr(), name)
		}
	}
	for _, a := range s.addresses {
		l := s.links[a.link]
		if l == nil || name != "" && l != link {
			continue
		}
		if a.prefix.Addr() != want.Addr() && a.prefix.Contains(want.Addr()) && a.prefix.Bits() > narrowest {
			link, narrowest = l, a.prefix.Bits()
			put = netip.PrefixFrom(want.Addr(), want.Addr().BitLen())
		}
	}
	if link == nil {
		return nil, put, weir.Errorf(weir.NotFound, "hold %s: no interface has an address in a subnet with it", want.Addr())
	}
	if err := usable(link); err != nil {
		return nil, put, fmt.Errorf("hold %s: %w", want.Addr(), err)
	}
	return link, put, nil
}

// usable returns why link cannot carry traffic, nil if it can.
func usable(link netlink.Link) error {
	a := link.Attrs()
	switch {
	case isUp(a.RawFlags):
		return nil
	case a.Flags&net.FlagUp == 0:
		return weir.Errorf(weir.Unavailable, "interface %s is down: it is switched off", a.Name)
	default:
		return weir.Errorf(weir.Unavailable, "interface %s is down: it has no carrier", a.Name)
	}
}

// left returns what an earlier process of ours, whose addresses had life at the most, left
// of addr, on whichever interface. It is an error if addr is there as another's.
func (s *scene) left(addr netip.Addr, life time.Duration) ([]address, error) {
	var ours []address
	for _, a := range s.addresses {
		if a.prefix.Addr() != addr {
			continue
		}
		name := "?"
		if l := s.links[a.link]; l != nil {
			name = l.Attrs().Name
		}
		if a.permanent {
			return nil, weir.Errorf(weir.Conflict, "hold %s: interface %s has it for good: somebody configured it there, and must remove it first", addr, name)
		}
		if a.left > seconds(life) {
			return nil, weir.Errorf(weir.Conflict, "hold %s: interface %s has it for another %s, so that it is not ours", addr, name, a.left)
		}
		ours = append(ours, a)
	}
	return ours, nil
}

// put puts prefix on the interface, or extends its lifetime there, to at least until,
// and returns when that ends.
func put(kernel *netlink.Handle, link int, prefix netip.Prefix, until time.Time) (time.Time, error) {
	now := time.Now()
	life := seconds(until.Sub(now))
	a := netAddr(link, prefix)
	a.ValidLft = int(life / time.Second)
	// PreferedLft 0: deprecated, never the source of what the node itself begins.
	if prefix.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
		if prefix.IsSingleIP() {
			a.Flags |= unix.IFA_F_NOPREFIXROUTE
		}
	}
	err := kernel.AddrReplace(nil, a)
	if errors.Is(err, unix.EACCES) && prefix.Addr().Is6() {
		err = weir.Errorf(weir.Unavailable, "IPv6 is disabled on the interface")
	}
	return now.Add(life), err
}

// remove takes prefix off the interface. If it is not there, it does nothing.
func remove(kernel *netlink.Handle, link int, prefix netip.Prefix) error {
	err := kernel.AddrDel(nil, netAddr(link, prefix))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func netAddr(link int, prefix netip.Prefix) *netlink.Addr {
	return &netlink.Addr{
		LinkIndex: link,
		IPNet: &net.IPNet{
			IP:   prefix.Addr().AsSlice(),
			Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
		},
		// A broadcast address would be one more thing of the subnet that is not ours.
		Broadcast: net.IPv4zero,
	}
}
