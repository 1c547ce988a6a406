package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"

	"weir/cloud"
	"weir/weir"
)

// addresses fills in which ranges a Config leaves open, and checks them.
func (c *Config) addresses() (networks, error) {
	n := networks{Public: c.Public, Reserved: c.Reserved, Private: c.Private, Anchor: c.Anchor}
	or := Config{}.Numbered(0)
	type span struct {
		name string
		p    *netip.Prefix
		or   netip.Prefix
	}
	ranges := []span{
		{"public", &n.Public, or.Public},
		{"reserved", &n.Reserved, or.Reserved},
		{"private", &n.Private, or.Private},
		{"anchor", &n.Anchor, or.Anchor},
	}
	if hasIPv6() {
		n.Public6, n.Reserved6, n.Anchor6 = c.Public6, c.Reserved6, c.Anchor6
		ranges = append(ranges,
			span{"public IPv6", &n.Public6, or.Public6},
			span{"reserved IPv6", &n.Reserved6, or.Reserved6},
			span{"anchor IPv6", &n.Anchor6, or.Anchor6})
	}
	for i, r := range ranges {
		if !r.p.IsValid() {
			*r.p = r.or
		}
		*r.p = r.p.Masked()
		switch four := r.or.Addr().Is4(); {
		case four && (!r.p.Addr().Is4() || r.p.Bits() > 30 || r.p.Bits() < 8):
			return networks{}, weir.Errorf(weir.Invalid, "range of %s addresses %s: want IPv4 with 8 to 30 bits", r.name, r.p)
		case !four && (!r.p.Addr().Is6() || r.p.Addr().Is4In6() || r.p.Bits() > 96 || r.p.Bits() < 16): // they end with those of IPv4
			return networks{}, weir.Errorf(weir.Invalid, "range of %s addresses %s: want IPv6 with 16 to 96 bits", r.name, r.p)
		}
		if a := r.p.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
			return networks{}, weir.Errorf(weir.Invalid, "range of %s addresses %s: machines cannot have such addresses", r.name, r.p)
		}
		for _, other := range ranges[:i] {
			if r.p.Overlaps(*other.p) {
				return networks{}, weir.Errorf(weir.Invalid, "range of %s addresses %s overlaps the %s ones, %s", r.name, r.p, other.name, other.p)
			}
		}
	}
	return n, nil
}

// hasIPv6 reports whether the host's kernel does.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// vacant returns the lowest address of p, from its first after skipped ones on, that is
// not taken. The last of the range is its broadcast address.
func vacant(p netip.Prefix, skipped int, taken func(netip.Addr) bool) (netip.Addr, error) {
	addr := p.Addr()
	for range skipped {
		addr = addr.Next()
	}
	count := 0
	for addr = addr.Next(); p.Contains(addr.Next()); addr = addr.Next() {
		if !taken(addr) {
			return addr, nil
		}
		count++
	}
	return netip.Addr{}, weir.Errorf(weir.Exhausted, "the region has %d addresses in %s, and all are taken", count, p)
}

// vacantAbove returns the highest address of p that is not taken and that is neither its first two nor its last.
func vacantAbove(p netip.Prefix, taken func(netip.Addr) bool) (netip.Addr, error) {
	last := p.Addr().As4()
	binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])+(1<<(p.Addr().BitLen()-p.Bits())-1))
	count := 0
	for addr := netip.AddrFrom4(last).Prev(); gatewayOf(p).Less(addr); addr = addr.Prev() {
		if !taken(addr) {
			return addr, nil
		}
		count++
	}
	return netip.Addr{}, weir.Errorf(weir.Exhausted, "the region has %d addresses in %s, and all are taken", count, p)
}

// Addresses keeps the promise of [cloud.Addresses].
func (c *Cloud) Addresses(ctx context.Context) ([]cloud.Address, error) {
	_, done, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if c.unpointed.Load() { // what is on record does not hold yet
		if err := c.point(); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := cloned(c.reserved)
	slices.SortFunc(all, func(a, b cloud.Address) int { return a.Addr.Compare(b.Addr) })
	return all, nil
}

// Reserve keeps the promise of [cloud.Addresses].
func (c *Cloud) Reserve(ctx context.Context, owner weir.ID, family weir.Family) (netip.Addr, error) {
	var got netip.Addr
	err := c.changeReserved(ctx, func(all []cloud.Address) ([]cloud.Address, error) {
		i := slices.IndexFunc(all, func(a cloud.Address) bool {
			return a.Owner == owner && !a.Private && weir.FamilyOf(a.Addr) == family
		})
		if i >= 0 {
			got = all[i].Addr
			return all, nil
		}
		from := c.networks.Reserved
		if family == weir.IPv6 {
			if err := c.checkIPv6(); err != nil {
				return nil, err
			}
			from = c.networks.Reserved6
		}
		var err error
		got, err = vacant(from, 0, func(addr netip.Addr) bool { return indexOf(all, addr) >= 0 })
		if err != nil {
			return nil, err
		}
		return append(all, cloud.Address{Addr: got, Owner: owner}), nil
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("reserve an address for %s: %w", owner, err)
	}
	return got, nil
}

// PrivateNetwork keeps the promise of [cloud.Addresses].
func (c *Cloud) PrivateNetwork() netip.Prefix { return c.networks.Private }

// ReservePrivate keeps the promise of [cloud.Addresses]. Machines have the lowest addresses of the network, and what is
// reserved the highest.
func (c *Cloud) ReservePrivate(ctx context.Context, owner weir.ID) (netip.Addr, error) {
	var got netip.Addr
	err := c.changeReserved(ctx, func(all []cloud.Address) ([]cloud.Address, error) {
		if i := slices.IndexFunc(all, func(a cloud.Address) bool { return a.Owner == owner && a.Private }); i >= 0 {
			got = all[i].Addr
			return all, nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		var err error
		if got, err = vacantAbove(c.networks.Private, c.taken); err != nil {
			return nil, err
		}
		c.promised = got // to no machine, before it is in c.reserved
		return append(all, cloud.Address{Addr: got, Private: true, Owner: owner}), nil
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("reserve a private address for %s: %w", owner, err)
	}
	return got, nil
}

// taken reports whether an address is a machine's, or reserved. The caller holds mu.
func (c *Cloud) taken(addr netip.Addr) bool {
	for _, m := range c.machines {
		if m.record.has(addr) {
			return true
		}
	}
	return addr == c.promised || indexOf(c.reserved, addr) >= 0
}

// Spread keeps the promise of [cloud.Addresses].
func (c *Cloud) Spread() int { return spread }

// Assign keeps the promise of [cloud.Addresses].
func (c *Cloud) Assign(ctx context.Context, addr netip.Addr, machines ...weir.ID) error {
	err := c.changeReserved(ctx, func(all []cloud.Address) ([]cloud.Address, error) {
		i := indexOf(all, addr)
		if i < 0 {
			return nil, weir.Errorf(weir.NotFound, "there is no such address")
		}
		if len(machines) > spread {
			return nil, weir.Errorf(weir.Invalid, "it can be spread over %d machines, want %d", spread, len(machines))
		}
		for _, m := range machines {
			there := c.machine(m)
			if there == nil {
				return nil, weir.Errorf(weir.NotFound, "there is no machine %s", m)
			}
			c.mu.Lock()
			reached := addr.Is4() || there.record.IPv6
			c.mu.Unlock()
			if !reached {
				return nil, weir.Errorf(weir.Invalid, "machine %s has no IPv6", m)
			}
		}
		a := all[i]
		if slices.Equal(a.Machines, machines) {
			return all, nil
		}
		a.Machines = slices.Clone(machines)
		return slices.Insert(slices.Delete(all, i, i+1), 0, a), nil // the newest comes first
	})
	if err != nil {
		return fmt.Errorf("assign %s to machines %q: %w", addr, machines, err)
	}
	return nil
}

// Release keeps the promise of [cloud.Addresses].
func (c *Cloud) Release(ctx context.Context, addr netip.Addr) error {
	err := c.changeReserved(ctx, func(all []cloud.Address) ([]cloud.Address, error) {
		return slices.DeleteFunc(all, func(a cloud.Address) bool { return a.Addr == addr }), nil
	})
	if err != nil {
		return fmt.Errorf("release %s: %w", addr, err)
	}
	return nil
}

// changeReserved replaces the reserved IPs by what change makes of them, on disk first,
// then in the gateway. Repeated after an error, it brings the gateway to what is on disk.
func (c *Cloud) changeReserved(ctx context.Context, change func([]cloud.Address) ([]cloud.Address, error)) error {
	_, done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	c.reserving.Lock()
	defer c.reserving.Unlock()
	c.mu.Lock()
	before := cloned(c.reserved)
	c.promised = netip.Addr{}
	c.mu.Unlock()
	after, err := change(cloned(before))
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(before, after) {
		if err := writeJSON(c.paths.reserved(), after); err != nil {
			return err
		}
		c.mu.Lock()
		c.reserved = after
		c.mu.Unlock()
	}
	return c.point()
}

// point has each reserved IP lead to those of its machines that are on.
func (c *Cloud) point() error {
	c.pointing.Lock() // so that what was looked at last is what is set last
	defer c.pointing.Unlock()
	points := map[netip.Addr][]netip.Addr{}
	var order, private []netip.Addr
	c.mu.Lock()
	for _, a := range c.reserved {
		for _, id := range a.Machines {
			if m := c.machines[id]; m != nil && m.on() {
				points[a.Addr] = append(points[a.Addr], m.record.behind(a))
			}
		}
		if a.Private {
			private = append(private, a.Addr) // a machine that has it is seen as itself
		} else {
			order = append(order, a.Addr)
		}
	}
	c.mu.Unlock()
	err := errors.Join(c.gateway.hold(private), c.gateway.pointReserved(points, order))
	c.unpointed.Store(err != nil)
	return err
}

// SetFirewall keeps the promise of [cloud.Firewalls].
func (c *Cloud) SetFirewall(ctx context.Context, id weir.ID, f *weir.Firewall) error {
	if err := c.setFirewall(ctx, id, f); err != nil {
		return fmt.Errorf("set the firewall of machine %s: %w", id, err)
	}
	return nil
}

func (c *Cloud) setFirewall(ctx context.Context, id weir.ID, f *weir.Firewall) error {
	if err := f.Check(); err != nil {
		return err
	}
	_, done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	m := c.machine(id)
	if m == nil {
		return weir.Errorf(weir.NotFound, "there is no machine %s", id)
	}
	return c.change(m, func(r *record) { r.Firewall = f.Clone() }, func(r *record) error { return c.gateway.setFirewall(r, f) })
}

// cloned returns a copy that shares nothing with all.
func cloned(all []cloud.Address) []cloud.Address {
	all = slices.Clone(all)
	for i := range all {
		all[i].Machines = slices.Clone(all[i].Machines)
	}
	return all
}

func indexOf(all []cloud.Address, addr netip.Addr) int {
	return slices.IndexFunc(all, func(a cloud.Address) bool { return a.Addr == addr })
}
