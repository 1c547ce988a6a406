package local

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"weir/cloud"
	"weir/weir"
)

// record is what the region keeps of a machine, in machine.json beside its disk.
type record struct {
	ID   weir.ID `json:"id"`
	Name string  `json:"name"`
	weir.Template
	Public   netip.Addr     `json:"public"`
	Anchor   netip.Addr     `json:"anchor"`
	Private  netip.Addr     `json:"private"`
	Public6  netip.Addr     `json:"public6,omitzero"` // this and its anchor are there if IPv6 is
	Anchor6  netip.Addr     `json:"anchor6,omitzero"`
	On       bool           `json:"on"`               // it should be; a machine that died by itself is still to be on
	Failed   bool           `json:"failed,omitempty"` // its first boot failed, and a region that lived saw it: see witness
	Firewall *weir.Firewall `json:"firewall,omitempty"`
	Created  time.Time      `json:"created"`
	Host     string         `json:"host,omitempty"`  // none in a region of one
	Apart    string         `json:"apart,omitempty"` // from machines with the same word: see cloud.Spec
}

// guest is what a machine may know of itself and of where it is: the metadata
// service tells no more.
type guest struct {
	record
	Region   string
	Reserved []netip.Addr // the reserved IPs that point to it, in order; the last one assigned is first
	Networks networks
}

// networks are the region's address ranges. The first address of each belongs to
// the gateway, but for those of reserved IPs.
type networks struct {
	Public   netip.Prefix `json:"public"`
	Reserved netip.Prefix `json:"reserved"`
	Private  netip.Prefix `json:"private"`
	Anchor   netip.Prefix `json:"anchor"`

	// Of IPv6, if the host has it. Private addresses are of IPv4 alone, as DigitalOcean's are.
	Public6   netip.Prefix `json:"public6,omitzero"`
	Reserved6 netip.Prefix `json:"reserved6,omitzero"`
	Anchor6   netip.Prefix `json:"anchor6,omitzero"`
}

func (n *networks) hasIPv6() bool { return n.Public6.IsValid() }

// doors returns the addresses that the gateway has in the ranges.
func (n *networks) doors() []netip.Addr {
	own := []netip.Addr{gatewayOf(n.Public), gatewayOf(n.Private), gatewayOf(n.Anchor)}
	if n.hasIPv6() {
		own = append(own, gatewayOf(n.Public6), gatewayOf(n.Anchor6))
	}
	return own
}

// addresses returns all that a machine has.
func (r *record) addresses() []netip.Addr {
	all := []netip.Addr{r.Public, r.Anchor, r.Private}
	if r.Public6.IsValid() {
		all = append(all, r.Public6, r.Anchor6)
	}
	return all
}

// behind returns the machine's address at which the traffic of a reserved IP arrives.
func (r *record) behind(a cloud.Address) netip.Addr {
	switch {
	case a.Private:
		return r.Private
	case a.Addr.Is6():
		return r.Anchor6
	}
	return r.Anchor
}

// gatewayOf returns the address that the gateway has in a range: its first.
func gatewayOf(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// enableIPv6 gives the machine its addresses of IPv6, if it has none. They end with those that it has of IPv4, and are
// no other machine's for that.
func (r *record) enableIPv6(n networks) {
	r.IPv6 = true
	if !r.Public6.IsValid() {
		r.Public6, r.Anchor6 = ending(n.Public6, r.Public), ending(n.Anchor6, r.Anchor)
	}
}

// ending returns the address of p, which is of IPv6, that ends with one of IPv4.
func ending(p netip.Prefix, with netip.Addr) netip.Addr {
	a, end := p.Addr().As16(), with.As4()
	copy(a[12:], end[:])
	return netip.AddrFrom16(a)
}

// hostname returns the name that the machine's kernel has: a long one without its domain,
// since a kernel takes no more than 64 bytes.
func (r *record) hostname() string {
	if len(r.Name) <= 64 {
		return r.Name
	}
	short, _, _ := strings.Cut(r.Name, ".")
	return short
}

// publicMAC returns the hardware address of the machine's eth0.
func (r *record) publicMAC() net.HardwareAddr { return macOf(0, r.Public) }

// privateMAC returns the hardware address of the machine's eth1.
func (r *record) privateMAC() net.HardwareAddr { return macOf(1, r.Private) }

// macOf returns a locally administered hardware address for the interface that has
// addr, so that it is the same after every boot.
func macOf(n byte, addr netip.Addr) net.HardwareAddr {
	a := addr.As4()
	return net.HardwareAddr{0x02, n, a[0], a[1], a[2], a[3]}
}

// readJSON fills into from the file at path.
func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces the file at path as a whole: after a crash it has either the old
// or the new content. Only its owner may read it, since user-data has secrets.
func writeJSON(path string, from any) error {
	data, err := json.MarshalIndent(from, "", "\t")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
