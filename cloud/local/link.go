package local

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link joins two regions of this machine by a cable between their gateways, so that the private addresses of each are reached
// from the other, and from its gateway. Each must have been opened with the other's private network among its
// [Config.Peers]. The cable goes when either region does.
func Link(a, b *Cloud) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = b.cableName(), gatewayMAC
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = a.cableName(), gatewayMAC, netlink.NsFd(b.gateway.ns.Fd())
	if err := a.gateway.links.LinkAdd(veth); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("link region %s with %s: %w", a.region, b.region, err)
	}
	if err := errors.Join(a.leadTo(b), b.leadTo(a)); err != nil {
		return fmt.Errorf("link region %s with %s: %w", a.region, b.region, err)
	}
	return nil
}

// cableName is what the cable to a region is called in another one: as all are, by the address that it leads to.
func (c *Cloud) cableName() string { return c.networks.Private.Addr().String() }

// leadTo has the gateway send what is for another region's private network to that one's gateway.
func (c *Cloud) leadTo(other *Cloud) error {
	cable, err := c.gateway.links.LinkByName(other.cableName())
	if err != nil {
		return err
	}
	in, door := cable.Attrs().Index, other.Gateway()
	return errors.Join(
		c.gateway.links.LinkSetUp(cable),
		c.gateway.links.NeighSet(neighbour(in, door, gatewayMAC)),
		c.gateway.links.RouteReplace(&netlink.Route{LinkIndex: in, Dst: ipNet(other.networks.Private), Gw: ip(door), Flags: int(netlink.FLAG_ONLINK), Src: ip(c.Gateway())}),
	)
}

// MaxRegions is how many regions [Config.Numbered] has ranges for.
const MaxRegions = 16

// Numbered returns c with ranges of addresses for one of several regions on this machine, by its number from 0 to below
// [MaxRegions]: they do not overlap. Those of 0 are the defaults.
func (c Config) Numbered(n int) Config {
	i := byte(n)
	four := func(a, b, d byte, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, d, 0}), bits)
	}
	six := func(first [4]byte, net byte) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{first[0], first[1], first[2], first[3], 5: i, 7: net}), 64)
	}
	c.Public, c.Reserved = four(203, 0, 113, 24), four(198, 51, 100, 24) // RFC 5737
	if n > 0 {
		c.Public, c.Reserved = four(198, 18, 16*i, 20), four(198, 19, 16*i, 20) // RFC 2544
	}
	c.Private, c.Anchor = four(10, 110+i, 0, 20), four(10, 17+i, 0, 20)
	documented, local := [4]byte{0x20, 0x01, 0x0d, 0xb8}, [4]byte{0xfd}
	c.Public6, c.Reserved6, c.Anchor6 = six(documented, 1), six(documented, 2), six(local, 17)
	return c
}
