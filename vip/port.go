package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// port is an interface as a place to speak and listen about addresses of one family.
type port interface {
	// announce tells the segment that addr is here.
	announce(addr netip.Addr) error

	// probe asks whoever else uses addr to say so.
	probe(addr netip.Addr) error

	// listen calls heard with each use of an address by a hardware address, its own
	// included, until the port is closed or cannot be read.
	listen(heard func(addr netip.Addr, mac net.HardwareAddr)) error

	close() error
}

// openPort opens a port for the family of addr.
func openPort(link *net.Interface, addr netip.Addr) (port, error) {
	if len(link.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %s is no Ethernet: it has no hardware address", link.Name)
	}
	if addr.Is4() {
		conn, err := packet.Listen(link, packet.Datagram, unix.ETH_P_ARP, nil)
		if err != nil {
			return nil, fmt.Errorf("open ARP on %s: %w", link.Name, err)
		}
		return &arpPort{link, conn}, nil
	}
	return openNDP(link)
}

// broadcast reaches every interface on an Ethernet segment.
func broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// arpPort speaks ARP.
type arpPort struct {
	link *net.Interface
	conn *packet.Conn
}

// announce sends both forms of a gratuitous ARP: some systems heed only the one, some only
// the other.
func (p *arpPort) announce(addr netip.Addr) error {
	mac := p.link.HardwareAddr
	return errors.Join(
		p.send(arp.OperationRequest, addr, make(net.HardwareAddr, 6), addr),
		p.send(arp.OperationReply, addr, mac, addr),
	)
}

// probe asks from 0.0.0.0, as RFC 5227 wants it, so that nobody learns anything from it.
func (p *arpPort) probe(addr netip.Addr) error {
	return p.send(arp.OperationRequest, netip.IPv4Unspecified(), make(net.HardwareAddr, 6), addr)
}

func (p *arpPort) send(op arp.Operation, from netip.Addr, mac net.HardwareAddr, to netip.Addr) error {
	m, err := arp.NewPacket(op, p.link.HardwareAddr, from, mac, to)
	if err != nil {
		return fmt.Errorf("ARP for %s on %s: %w", to, p.link.Name, err)
	}
	b, err := m.MarshalBinary()
	if err != nil {
		return fmt.Errorf("ARP for %s on %s: %w", to, p.link.Name, err)
	}
	if _, err := p.conn.WriteTo(b, &packet.Addr{HardwareAddr: broadcast()}); err != nil {
		return fmt.Errorf("ARP for %s on %s: %w", to, p.link.Name, err)
	}
	return nil
}

func (p *arpPort) listen(heard func(netip.Addr, net.HardwareAddr)) error {
	b := make([]byte, 1500)
	for {
		n, _, err := p.conn.ReadFrom(b)
		if errors.Is(err, unix.ENETDOWN) {
			continue // reported once when the interface goes down; it may come up again
		}
		if err != nil {
			return fmt.Errorf("listen on %s: %w", p.link.Name, err)
		}
		var m arp.Packet
		if m.UnmarshalBinary(b[:n]) == nil && m.SenderIP.Is4() {
			heard(m.SenderIP, m.SenderHardwareAddr)
		}
	}
}

func (p *arpPort) close() error { return p.conn.Close() }

// ndpPort speaks neighbour discovery.
type ndpPort struct {
	link *net.Interface
	conn *ndp.Conn
}

func openNDP(link *net.Interface) (_ port, err error) {
	conn, _, err := ndp.Listen(link, ndp.Unspecified)
	if err != nil {
		return nil, fmt.Errorf("open neighbour discovery on %s: %w", link.Name, err)
	}
	defer func() {
		if err != nil {
			conn.Close()
			err = fmt.Errorf("open neighbour discovery on %s: %w", link.Name, err)
		}
	}()
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeNeighborAdvertisement)
	if err := conn.SetICMPFilter(&only); err != nil {
		return nil, err
	}
	// The socket hears of all interfaces; these tell which, and whether it is from the segment.
	if err := conn.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit, true); err != nil {
		return nil, err
	}
	return &ndpPort{link, conn}, nil
}

// announce sends an unsolicited advertisement to all nodes, which overrides what they know.
func (p *ndpPort) announce(addr netip.Addr) error {
	m := &ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: p.link.HardwareAddr}},
	}
	from := &ipv6.ControlMessage{HopLimit: ndp.HopLimit, Src: addr.AsSlice(), IfIndex: p.link.Index}
	if err := p.conn.WriteTo(m, from, netip.IPv6LinkLocalAllNodes()); err != nil {
		return fmt.Errorf("advertise %s on %s: %w", addr, p.link.Name, err)
	}
	return nil
}

// probe asks from the interface's own address: an answer to the one in question would
// stay with whoever else has it. The kernel chooses it: addr is deprecated and of
// another scope than the group that this goes to.
func (p *ndpPort) probe(addr netip.Addr) error {
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return fmt.Errorf("solicit %s on %s: %w", addr, p.link.Name, err)
	}
	m := &ndp.NeighborSolicitation{
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: p.link.HardwareAddr}},
	}
	from := &ipv6.ControlMessage{HopLimit: ndp.HopLimit, IfIndex: p.link.Index}
	if err := p.conn.WriteTo(m, from, group); err != nil {
		return fmt.Errorf("solicit %s on %s: %w", addr, p.link.Name, err)
	}
	return nil
}

func (p *ndpPort) listen(heard func(netip.Addr, net.HardwareAddr)) error {
	for {
		m, cm, _, err := p.conn.ReadFrom()
		if err != nil {
			return fmt.Errorf("listen on %s: %w", p.link.Name, err)
		}
		na, ok := m.(*ndp.NeighborAdvertisement)
		if !ok || cm == nil || cm.IfIndex != p.link.Index || cm.HopLimit != ndp.HopLimit {
			continue
		}
		for _, o := range na.Options {
			if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == ndp.Target {
				heard(na.TargetAddress, l.Addr)
			}
		}
	}
}

func (p *ndpPort) close() error { return p.conn.Close() }
