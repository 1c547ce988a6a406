package cloudtest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"weir/weir"
)

func testReserve(t *testing.T, s suite) {
	var got [8]netip.Addr
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = s.Reserve(s.ctx, weir.ID(fmt.Sprint("owner-", i%2)), weir.IPv4); err != nil {
				t.Errorf("reserve: %v", err)
			}
		})
	}
	wg.Wait()
	if got[0] == got[1] {
		t.Errorf("two owners have the address %s", got[0])
	}
	for i, addr := range got {
		if addr != got[i%2] {
			t.Errorf("an owner has the addresses %s and %s", addr, got[i%2])
		}
	}
	if all := s.addresses(t); len(all) != 2 {
		t.Errorf("we hold %v, want two addresses", all)
	}
	s.holds(t, got[0], "owner-0")
	s.holds(t, got[1], "owner-1")
}

func testAssign(t *testing.T, s suite) {
	s.create(t, "100001")
	s.create(t, "100002")
	addr := s.reserve(t, "owner")
	must(t, "take from nobody", s.Assign(s.ctx, addr))
	for _, to := range [][]weir.ID{{"100001"}, {"100001"}, {"100002"}, {"100001"}, nil, nil, {"100002"}} {
		must(t, fmt.Sprintf("assign to %q", to), s.Assign(s.ctx, addr, to...))
		s.holds(t, addr, "owner", to...)
	}
	want(t, "assign to a machine that is not there", s.Assign(s.ctx, addr, "100009"), weir.NotFound)
	s.holds(t, addr, "owner", "100002")

	must(t, "power off", s.PowerOff(s.ctx, "100001"))
	must(t, "assign to a machine that is off", s.Assign(s.ctx, addr, "100001"))
	s.holds(t, addr, "owner", "100001")
}

func testSpread(t *testing.T, s suite) {
	if s.Spread() < 2 {
		t.Skip("this cloud has an address at one machine at a time")
	}
	s.create(t, "100001")
	s.create(t, "100002")
	s.create(t, "100003")
	addr := s.reserve(t, "owner")
	for _, to := range [][]weir.ID{{"100001", "100002"}, {"100002", "100001"}, {"100003"}, {"100003", "100002"}, nil, {"100001", "100003"}} {
		must(t, fmt.Sprintf("assign to %q", to), s.Assign(s.ctx, addr, to...))
		s.holds(t, addr, "owner", to...)
	}
	want(t, "assign to a machine that is not there", s.Assign(s.ctx, addr, "100002", "100009"), weir.NotFound)
	want(t, "assign to more than can be", s.Assign(s.ctx, addr, slices.Repeat([]weir.ID{"100001"}, s.Spread()+1)...), weir.Invalid)
	s.holds(t, addr, "owner", "100001", "100003")
	must(t, "power off", s.PowerOff(s.ctx, "100003"))
	s.holds(t, addr, "owner", "100001", "100003")
	must(t, "delete", s.DeleteMachine(s.ctx, "100001"))
	s.holds(t, addr, "owner", "100003")
	must(t, "delete", s.DeleteMachine(s.ctx, "100003"))
	s.holds(t, addr, "owner")
}

func testRelease(t *testing.T, s suite) {
	s.create(t, "100001")
	addr, other := s.reserve(t, "owner"), s.reserve(t, "other")
	must(t, "assign", s.Assign(s.ctx, addr, "100001"))
	for range 2 {
		must(t, "release", s.Release(s.ctx, addr))
	}
	if all := s.addresses(t); len(all) != 1 {
		t.Errorf("we hold %v, want %s alone", all, other)
	}
	want(t, "assign what was released", s.Assign(s.ctx, addr, "100001"), weir.NotFound)
	s.holds(t, other, "other")
	s.holds(t, s.reserve(t, "owner"), "owner")
}

func testReservePrivate(t *testing.T, s suite) {
	network := s.PrivateNetwork()
	if !network.IsValid() {
		_, err := s.ReservePrivate(s.ctx, "owner")
		want(t, "reserve a private address where there is none", err, weir.Invalid)
		t.Skip("this cloud reserves no address of its private network")
	}
	private := func(owner weir.ID) netip.Addr {
		t.Helper()
		addr, err := s.ReservePrivate(s.ctx, owner)
		must(t, "reserve a private address", err)
		return addr
	}
	s.create(t, "100001")
	public := s.reserve(t, "owner")
	var got [8]netip.Addr
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = s.ReservePrivate(s.ctx, weir.ID(fmt.Sprint("owner-", i%2))); err != nil {
				t.Errorf("reserve a private address: %v", err)
			}
		})
	}
	wg.Wait()
	for i, addr := range got {
		if addr != got[i%2] || !network.Contains(addr) {
			t.Errorf("an owner has the addresses %s and %s, want one of %s", addr, got[i%2], network)
		}
	}
	addr := private("owner")
	s.create(t, "100002")
	machines := map[netip.Addr]bool{}
	for id, m := range s.machines(t) {
		if machines[m.Private] = true; !network.Contains(m.Private) {
			t.Errorf("machine %s has the private address %s, want one of %s", id, m.Private, network)
		}
	}
	for i, a := range []netip.Addr{addr, got[0], got[1]} {
		if machines[a] || slices.Contains([]netip.Addr{addr, got[0], got[1]}[:i], a) {
			t.Errorf("the address %s of an owner is another's, or a machine's", a)
		}
	}
	for _, a := range s.addresses(t) {
		if a.Private != (a.Addr != public) {
			t.Errorf("%s is private: %v", a.Addr, a.Private)
		}
	}

	for _, to := range [][]weir.ID{{"100001"}, {"100001"}, {"100002"}, nil, {"100002"}} {
		must(t, fmt.Sprintf("assign to %q", to), s.Assign(s.ctx, addr, to...))
		s.holds(t, addr, "owner", to...)
		s.holds(t, public, "owner")
	}
	if s.Spread() > 1 {
		must(t, "spread", s.Assign(s.ctx, addr, "100001", "100002"))
		s.holds(t, addr, "owner", "100001", "100002")
	}
	want(t, "assign to a machine that is not there", s.Assign(s.ctx, addr, "100009"), weir.NotFound)
	must(t, "delete", errors.Join(s.DeleteMachine(s.ctx, "100001"), s.DeleteMachine(s.ctx, "100002")))
	s.holds(t, addr, "owner")
	for range 2 {
		must(t, "release", s.Release(s.ctx, addr))
	}
	want(t, "assign what was released", s.Assign(s.ctx, addr), weir.NotFound)
	s.holds(t, public, "owner")
	s.holds(t, private("owner"), "owner")
}

func testAddressesExhausted(t *testing.T, s suite) {
	var held []netip.Addr
	for i := range manyAddresses {
		addr, err := s.Reserve(s.ctx, weir.ID(fmt.Sprint("owner-", i)), weir.IPv4)
		if err == nil {
			held = append(held, addr)
			continue
		}
		want(t, fmt.Sprintf("reserve address %d", i+1), err, weir.Exhausted)
		if i == 0 {
			t.Fatal("there is not even one address")
		}
		must(t, "reserve again for one that has one", errorOf(s.Reserve(s.ctx, "owner-0", weir.IPv4)))
		must(t, "release", s.Release(s.ctx, held[0]))
		s.holds(t, s.reserve(t, "late"), "late")
		return
	}
	t.Skipf("%d addresses do not exhaust this cloud", manyAddresses)
}

// needIPv6 skips a test where the cloud says that it has no IPv6.
func (s suite) needIPv6(t *testing.T) {
	t.Helper()
	with := spec("").Template
	with.IPv6 = true
	if err := s.Room(s.ctx, with, 1); errors.Is(err, weir.Invalid) {
		_, err := s.Reserve(s.ctx, "owner", weir.IPv6)
		want(t, "reserve an address of IPv6 where there is none", err, weir.Invalid)
		t.Skip("this cloud has no IPv6")
	}
}

func testIPv6(t *testing.T, s suite) {
	s.needIPv6(t)
	with := spec("100001")
	with.IPv6 = true
	made, err := s.CreateMachine(s.ctx, with)
	must(t, "create a machine with IPv6", err)
	without := s.create(t, "100002")
	if without.Public6.IsValid() || without.Anchor6.IsValid() {
		t.Errorf("a machine that is to have no IPv6 is %+v", without)
	}
	must(t, "power off", s.PowerOff(s.ctx, "100001"))
	must(t, "power on", s.PowerOn(s.ctx, "100001"))
	same(t, "off and on", s.machine(t, "100001"), made)

	s.create(t, "100003")
	must(t, "power off", s.PowerOff(s.ctx, "100003"))
	for _, id := range []weir.ID{"100001", "100002", "100002", "100003"} {
		must(t, "enable IPv6", s.EnableIPv6(s.ctx, id))
	}
	same(t, "enabled where it is already", s.machine(t, "100001"), made)
	owner := map[netip.Addr]weir.ID{}
	for id, m := range s.machines(t) {
		if on := id != "100003"; m.On != on {
			t.Errorf("machine %s is on: %v, want %v", id, m.On, on)
		}
		for _, addr := range []netip.Addr{m.Public6, m.Anchor6} {
			if !addr.Is6() || owner[addr] != "" {
				t.Errorf("machine %s has the addresses %s and %s, want some of IPv6, and none of %s's", id, m.Public6, m.Anchor6, owner[addr])
			}
			owner[addr] = id
		}
	}
	want(t, "enable IPv6 of what is not there", s.EnableIPv6(s.ctx, "100009"), weir.NotFound)
}

func testReserveIPv6(t *testing.T, s suite) {
	s.needIPv6(t)
	four := s.reserve(t, "owner")
	var six netip.Addr
	for i := range 2 {
		addr, err := s.Reserve(s.ctx, "owner", weir.IPv6)
		must(t, "reserve an address of IPv6", err)
		if !addr.Is6() || i > 0 && addr != six {
			t.Errorf("reserved %s for an owner, and before %s, want one of IPv6", addr, six)
		}
		six = addr
	}
	if again := s.reserve(t, "owner"); again != four {
		t.Errorf("of IPv4 an owner has %s, and before %s", again, four)
	}
	s.create(t, "100001")
	want(t, "assign to a machine without IPv6", s.Assign(s.ctx, six, "100001"), weir.Invalid)
	s.holds(t, six, "owner")
	must(t, "enable IPv6", s.EnableIPv6(s.ctx, "100001"))
	must(t, "assign", s.Assign(s.ctx, six, "100001"))
	s.holds(t, six, "owner", "100001")
	s.holds(t, four, "owner")
	must(t, "release that of IPv4", s.Release(s.ctx, four))
	s.holds(t, six, "owner", "100001")
	must(t, "delete", s.DeleteMachine(s.ctx, "100001"))
	s.holds(t, six, "owner")
	must(t, "release", s.Release(s.ctx, six))
	if all := s.addresses(t); len(all) > 0 {
		t.Errorf("we hold %v, want nothing", all)
	}
}
