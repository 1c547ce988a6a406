// Package cloudtest holds each driver of a cloud to the promises of package cloud.
//
// A driver's test calls [Run] with a function that opens an empty cloud. The suite
// makes a few small machines at a time, and waits for what takes time; it looks at a
// cloud only through its interface, so that a driver tests for itself what traffic meets.
package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// Region is the region of the machines that the suite makes.
const Region = "lab"

// The suite gives up on a machine's first boot after bootTime, and on running a cloud
// out of addresses after manyAddresses.
const (
	bootTime      = time.Minute
	manyAddresses = 300
)

// Allowances say what a cloud cannot do for all its driver's pains, so that it is asked for that much less. What a cloud may lack by
// the interfaces themselves (a private network, boots, spreading, IPv6) needs no allowance.
type Allowances struct {
	// NoAnchor is that the cloud does not tell anchor addresses: every machine's is unspecified.
	NoAnchor bool

	// FewFigures is that loads are of CPU and memory alone, and that counters may go on where they were when a machine was off.
	FewFigures bool

	// Within runs each test, for clouds that live in a bubble of time; it may call do at once, and does if it is nil.
	Within func(t *testing.T, do func(t *testing.T))
}

// Run tests the clouds that open returns: each is of Region, empty, with room for
// four machines, and closed by t.Cleanup with all that is in it.
func Run(t *testing.T, open func(t *testing.T) cloud.Cloud) { RunWith(t, Allowances{}, open) }

// RunWith is Run for a cloud that cannot do everything.
func RunWith(t *testing.T, a Allowances, open func(t *testing.T) cloud.Cloud) {
	if a.Within == nil {
		a.Within = func(t *testing.T, do func(*testing.T)) { do(t) }
	}
	for _, test := range []struct {
		name string
		do   func(*testing.T, suite)
	}{
		{"a new cloud is empty", testEmpty},
		{"a machine is on and has addresses of its own", testCreate},
		{"creating a machine again returns the first", testCreateAgain},
		{"a machine created by many at once is one", testCreateAtOnce},
		{"machines created at once are listed by ID", testCreateMany},
		{"what can make no machine is refused as invalid", testCreateInvalid},
		{"there is room for a few machines and not for all", testRoom},
		{"user-data runs once", testBoot},
		{"user-data that fails says why", testBootFails},
		{"a machine that was off is the same", testPower},
		{"a deleted machine leaves nothing", testDelete},
		{"an owner has one reserved IP", testReserve},
		{"a reserved IP moves", testAssign},
		{"a reserved IP is spread over machines", testSpread},
		{"a released address is gone", testRelease},
		{"an owner has an address of the private network beside a reserved IP", testReservePrivate},
		{"too few addresses are exhausted", testAddressesExhausted},
		{"a machine has IPv6 if that is asked for", testIPv6},
		{"an owner has a reserved IP of each family", testReserveIPv6},
		{"a firewall is what was last set", testFirewall},
		{"loads are of machines that are on", testLoads},
		{"what is not there is not found", testNotFound},
		{"a call that was cut short can be repeated", testCutShort},
	} {
		t.Run(test.name, func(t *testing.T) {
			a.Within(t, func(t *testing.T) { test.do(t, suite{t.Context(), a, open(t)}) })
		})
	}
}

// suite is a cloud under test.
type suite struct {
	ctx context.Context
	Allowances
	cloud.Cloud
}

func spec(id weir.ID) cloud.Spec {
	return cloud.Spec{ID: id, Name: "web-" + string(id), Template: weir.Template{
		Region: Region, Size: weir.Sizes()[0].Slug, Image: "debian-12-x64", UserData: "#!/bin/sh\ntrue\n"}}
}

func (s suite) create(t *testing.T, id weir.ID) cloud.Machine {
	t.Helper()
	m, err := s.CreateMachine(s.ctx, spec(id))
	if err != nil {
		t.Fatalf("create machine %s: %v", id, err)
	}
	return m
}

// machines returns what is listed, by ID.
func (s suite) machines(t *testing.T) map[weir.ID]cloud.Machine {
	t.Helper()
	all, err := s.Machines(s.ctx)
	if err != nil {
		t.Fatalf("list machines: %v", err)
	}
	byID := map[weir.ID]cloud.Machine{}
	for _, m := range all {
		if _, twice := byID[m.ID]; twice {
			t.Errorf("machine %s is listed twice", m.ID)
		}
		byID[m.ID] = m
	}
	if len(all) > 0 && !slices.IsSortedFunc(all, func(a, b cloud.Machine) int { return compareIDs(a.ID, b.ID) }) {
		t.Errorf("machines are not listed by ID: %v", all)
	}
	return byID
}

// machine returns the one machine that should be there.
func (s suite) machine(t *testing.T, id weir.ID) cloud.Machine {
	t.Helper()
	m, ok := s.machines(t)[id]
	if !ok {
		t.Fatalf("machine %s is not listed", id)
	}
	return m
}

// addresses returns what is held, by address.
func (s suite) addresses(t *testing.T) map[netip.Addr]cloud.Address {
	t.Helper()
	all, err := s.Addresses(s.ctx)
	if err != nil {
		t.Fatalf("list addresses: %v", err)
	}
	byAddr := map[netip.Addr]cloud.Address{}
	for _, a := range all {
		if _, twice := byAddr[a.Addr]; twice {
			t.Errorf("address %s is listed twice", a.Addr)
		}
		byAddr[a.Addr] = a
	}
	return byAddr
}

func (s suite) reserve(t *testing.T, owner weir.ID) netip.Addr {
	t.Helper()
	addr, err := s.Reserve(s.ctx, owner, weir.IPv4)
	if err != nil {
		t.Fatalf("reserve an address for %s: %v", owner, err)
	}
	if !addr.IsValid() {
		t.Fatalf("reserved the address %v for %s", addr, owner)
	}
	return addr
}

// holds fails the test unless addr is held by owner and points to machines.
func (s suite) holds(t *testing.T, addr netip.Addr, owner weir.ID, machines ...weir.ID) {
	t.Helper()
	got := s.addresses(t)[addr]
	if got.Addr != addr || got.Owner != owner || !slices.Equal(got.Machines, machines) {
		t.Errorf("address is %+v, want %s of %s at %q", got, addr, owner, machines)
	}
}

// compareIDs compares decimal IDs without leading zeros.
func compareIDs(a, b weir.ID) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return slices.Compare([]byte(a), []byte(b))
}

// must fails the test if what was asked was refused.
func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// want fails the test unless err is of a kind.
func want(t *testing.T, what string, err error, kind weir.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: error %v, want one that is %q", what, err, kind)
	}
}

// same fails the test unless two views of a machine differ at most in how far its boot is.
func same(t *testing.T, what string, got, want cloud.Machine) {
	t.Helper()
	got.Boot, want.Boot = weir.Boot{}, weir.Boot{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: machine is\n%+v, want\n%+v", what, got, want)
	}
}

func testEmpty(t *testing.T, s suite) {
	if ms, as := s.machines(t), s.addresses(t); len(ms)+len(as) > 0 {
		t.Errorf("a new cloud has machines %v and addresses %v", ms, as)
	}
}

func testCreate(t *testing.T, s suite) {
	made := s.create(t, "100001")
	if made.ID != "100001" || made.Name != "web-100001" || !made.On || made.Firewall != nil {
		t.Errorf("created %+v, want 100001 named web-100001, on and without a firewall", made)
	}
	same(t, "as listed", s.machine(t, "100001"), made)

	owner := map[netip.Addr]weir.ID{}
	for _, m := range []cloud.Machine{made, s.create(t, "100002")} {
		if m.Anchor.IsUnspecified() != s.NoAnchor {
			t.Errorf("machine %s has the anchor address %s; that this cloud tells none is %v", m.ID, m.Anchor, s.NoAnchor)
		}
		for _, addr := range []netip.Addr{m.Public, m.Anchor, m.Private} {
			if !addr.IsValid() {
				t.Errorf("machine %s lacks an address: %+v", m.ID, m)
			}
			if addr.IsUnspecified() && addr == m.Anchor {
				continue
			}
			if other, taken := owner[addr]; taken {
				t.Errorf("%s is an address of %s and again of %s", addr, other, m.ID)
			}
			owner[addr] = m.ID
		}
	}
}

func testCreateAgain(t *testing.T, s suite) {
	first := s.create(t, "100001")
	other := spec("100001")
	other.Name, other.Size = "other", weir.Sizes()[1].Slug
	again, err := s.CreateMachine(s.ctx, other)
	must(t, "create again", err)
	same(t, "created again", again, first)

	must(t, "power off", s.PowerOff(s.ctx, "100001"))
	off := s.create(t, "100001")
	if off.On || s.machine(t, "100001").On {
		t.Error("creating a machine that is there and off powered it on")
	}
	if got := len(s.machines(t)); got != 1 {
		t.Errorf("%d machines, want 1", got)
	}
}

func testCreateAtOnce(t *testing.T, s suite) {
	var made [4]cloud.Machine
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() {
			var err error
			if made[i], err = s.CreateMachine(s.ctx, spec("100001")); err != nil {
				t.Errorf("create: %v", err)
			}
		})
	}
	wg.Wait()
	for _, m := range made {
		same(t, "created by another", m, made[0])
	}
	if got := len(s.machines(t)); got != 1 {
		t.Errorf("%d machines, want 1", got)
	}
}

func testCreateMany(t *testing.T, s suite) {
	ids := []weir.ID{"100004", "100001", "100003", "100002"}
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			if _, err := s.CreateMachine(s.ctx, spec(id)); err != nil {
				t.Errorf("create %s: %v", id, err)
			}
		})
	}
	wg.Wait()
	listed := s.machines(t) // which looks at their order
	private := map[netip.Addr]bool{}
	for _, id := range ids {
		private[listed[id].Private] = true
	}
	if len(listed) != len(ids) || len(private) != len(ids) {
		t.Errorf("%d machines with %d private addresses, want %d of each", len(listed), len(private), len(ids))
	}
}

func testCreateInvalid(t *testing.T, s suite) {
	for what, change := range map[string]func(*cloud.Spec){
		"a size that is not offered": func(s *cloud.Spec) { s.Size = "s-1000vcpu" },
		"another region":             func(s *cloud.Spec) { s.Region = "elsewhere" },
		"no image":                   func(s *cloud.Spec) { s.Image = "" },
		"a name of two lines":        func(s *cloud.Spec) { s.Name = "web\nroot" },
		"no name":                    func(s *cloud.Spec) { s.Name = "" },
	} {
		sp := spec("100001")
		change(&sp)
		_, err := s.CreateMachine(s.ctx, sp)
		want(t, "create a machine with "+what, err, weir.Invalid)
		if !reflect.DeepEqual(sp.Template, spec("100001").Template) { // and not the name alone
			want(t, "ask for room for machines with "+what, s.Room(s.ctx, sp.Template, 1), weir.Invalid)
		}
	}
	if got := s.machines(t); len(got) > 0 {
		t.Errorf("there are machines that were refused: %v", got)
	}
}

func testRoom(t *testing.T, s suite) {
	template := spec("100001").Template
	for _, n := range []int{0, 1, 4} {
		must(t, fmt.Sprintf("ask for room for %d machines", n), s.Room(s.ctx, template, n))
	}
	want(t, "ask for room for a million machines", s.Room(s.ctx, template, 1_000_000), weir.Exhausted)
	if got := s.machines(t); len(got) > 0 {
		t.Errorf("asking for room made %v", got)
	}
}

// booted waits for a machine's first boot to end.
func (s suite) booted(t *testing.T, id weir.ID) weir.Boot {
	t.Helper()
	for deadline := time.Now().Add(bootTime); ; time.Sleep(20 * time.Millisecond) {
		m := s.machine(t, id)
		if m.Boot.State != weir.BootRunning {
			return m.Boot
		}
		if time.Now().After(deadline) {
			t.Fatalf("machine %s still boots after %v", id, bootTime)
		}
	}
}

func testBoot(t *testing.T, s suite) {
	once := spec("100001")
	once.UserData = "#!/bin/sh\nset -e\ntest ! -e /root/ran\ntouch /root/ran\n" // fails if it runs again on this disk
	_, err := s.CreateMachine(s.ctx, once)
	must(t, "create", err)
	boot := s.booted(t, "100001")
	if boot.State == weir.BootUnknown {
		t.Skip("this cloud cannot look inside its machines")
	}
	if boot.State != weir.BootDone {
		t.Fatalf("the boot is %+v, want done", boot)
	}
	must(t, "power off", s.PowerOff(s.ctx, "100001"))
	if boot := s.machine(t, "100001").Boot; boot.State != weir.BootDone {
		t.Errorf("the first boot is %+v after a power-off, want done as it was", boot)
	}
	must(t, "power on", s.PowerOn(s.ctx, "100001"))
	if boot := s.booted(t, "100001"); boot.State != weir.BootDone {
		t.Errorf("the first boot is %+v after a second one, want done as it was", boot)
	}

	none := spec("100002")
	none.UserData = ""
	_, err = s.CreateMachine(s.ctx, none)
	must(t, "create", err)
	if boot := s.booted(t, "100002"); boot.State != weir.BootDone {
		t.Errorf("the boot without user-data is %+v, want done", boot)
	}
}

func testBootFails(t *testing.T, s suite) {
	bad := spec("100001")
	bad.UserData = "#!/bin/sh\necho no such package >&2\nexit 3\n"
	_, err := s.CreateMachine(s.ctx, bad)
	must(t, "create", err)
	boot := s.booted(t, "100001")
	if boot.State == weir.BootUnknown {
		t.Skip("this cloud cannot look inside its machines")
	}
	if boot.State != weir.BootFailed || boot.Why == "" {
		t.Errorf("the boot is %+v, want failed, and why", boot)
	}
	if !s.machine(t, "100001").On {
		t.Error("the machine is off: a failed script does not end its machine")
	}
}

func testPower(t *testing.T, s suite) {
	made := s.create(t, "100001")
	firewall := openings(80)
	must(t, "set firewall", s.SetFirewall(s.ctx, "100001", firewall))
	made.Firewall = openings(80)
	addr := s.reserve(t, "owner")
	must(t, "assign", s.Assign(s.ctx, addr, "100001"))

	for range 2 { // the second does nothing
		must(t, "power on", s.PowerOn(s.ctx, "100001"))
		same(t, "on", s.machine(t, "100001"), made)
	}
	made.On = false
	for range 2 {
		must(t, "power off", s.PowerOff(s.ctx, "100001"))
		same(t, "off", s.machine(t, "100001"), made)
	}
	must(t, "create another meanwhile", errorOf(s.CreateMachine(s.ctx, spec("100002"))))
	made.On = true
	for range 2 {
		must(t, "power on", s.PowerOn(s.ctx, "100001"))
		same(t, "on again", s.machine(t, "100001"), made)
	}
	s.holds(t, addr, "owner", "100001")
}

func errorOf[T any](_ T, err error) error { return err }

func testDelete(t *testing.T, s suite) {
	must(t, "delete what is not there", s.DeleteMachine(s.ctx, "100009"))
	s.create(t, "100001")
	kept := s.create(t, "100002")
	must(t, "set firewall", s.SetFirewall(s.ctx, "100001", openings(80)))
	addr, other := s.reserve(t, "owner"), s.reserve(t, "other")
	must(t, "assign", s.Assign(s.ctx, addr, "100001"))
	must(t, "assign", s.Assign(s.ctx, other, "100002"))

	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := s.DeleteMachine(s.ctx, "100001"); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
	wg.Wait()
	must(t, "delete again", s.DeleteMachine(s.ctx, "100001"))
	if got := s.machines(t); len(got) != 1 {
		t.Errorf("machines %v, want 100002 alone", got)
	}
	same(t, "the other", s.machine(t, "100002"), kept)
	s.holds(t, addr, "owner")
	s.holds(t, other, "other", "100002")

	off := s.create(t, "100003") // which may have the addresses of the first
	if off.Firewall != nil {
		t.Errorf("a new machine has the firewall %v", off.Firewall)
	}
	s.holds(t, addr, "owner")
	must(t, "power off", s.PowerOff(s.ctx, "100003"))
	must(t, "delete a machine that is off", s.DeleteMachine(s.ctx, "100003"))
	if got := s.machines(t); len(got) != 1 {
		t.Errorf("machines %v, want 100002 alone", got)
	}
}

func testLoads(t *testing.T, s suite) {
	meter, ok := s.Cloud.(cloud.Meter)
	if !ok {
		t.Skip("this cloud does not tell loads")
	}
	loads := func(want ...weir.ID) map[weir.ID]cloud.Load {
		t.Helper()
		began := time.Now()
		// Figures that come every so often are waited for: as old as they may be, and a step more of the cloud's own.
		patience, old := 4*meter.Every(), func(l cloud.Load) bool { return !l.Taken.After(began) }
		all, err := meter.Loads(s.ctx)
		for ; err == nil && time.Since(began) < patience && (len(all) < len(want) || slices.ContainsFunc(all, old)); all, err = meter.Loads(s.ctx) {
			time.Sleep(patience / 100)
		}
		if err != nil {
			t.Fatalf("list loads: %v", err)
		}
		var ids []weir.ID
		byID := map[weir.ID]cloud.Load{}
		for _, l := range all {
			ids = append(ids, l.Machine)
			byID[l.Machine] = l
			size := weir.Sizes()[0]
			m, used := l.Memory, l.User+l.System
			if l.Since.IsZero() || l.Since.After(l.Taken) || l.CPUs != size.CPUs || m.Total != size.Memory {
				t.Errorf("machine %s has %d CPUs and %d bytes since %v until %v, want size %s, since it is on", l.Machine, l.CPUs, m.Total, l.Since, l.Taken, size.Slug)
			}
			// It may have more in a moment, by what it did not use in the one before.
			if used < 0 || used > time.Duration(l.CPUs)*l.Taken.Sub(l.Since)+time.Second {
				t.Errorf("machine %s has used %v in %v", l.Machine, used, l.Taken.Sub(l.Since))
			}
			if m.Free < 0 || m.Available < m.Free || m.Available > m.Total || m.Cached < 0 || l.Disk.Free < 0 || l.Disk.Free > l.Disk.Size || l.Disk.Mount != "/" && !s.FewFigures {
				t.Errorf("machine %s has the memory %+v and the disk %+v", l.Machine, m, l.Disk)
			}
			for _, x := range []cloud.Traffic{l.Public, l.Private} {
				if x.In < 0 || x.Out < 0 {
					t.Errorf("machine %s has the traffic %+v", l.Machine, x)
				}
			}
		}
		if !slices.Equal(ids, want) {
			t.Fatalf("loads of %v, want %v", ids, want)
		}
		return byID
	}
	loads()
	s.create(t, "7")
	s.create(t, "8")
	before := loads("7", "8")
	after := loads("7", "8")
	for id, b := range before {
		if a := after[id]; !a.Since.Equal(b.Since) || a.User < b.User || a.System < b.System || a.Public.Out < b.Public.Out {
			t.Errorf("machine %s: %+v, and then %+v: want counters that do not fall", id, b, a)
		}
	}
	if err := s.PowerOff(s.ctx, "7"); err != nil {
		t.Fatal(err)
	}
	loads("8")
	if err := s.PowerOn(s.ctx, "7"); err != nil {
		t.Fatal(err)
	}
	if again := loads("7", "8")["7"]; !s.FewFigures && !again.Since.After(after["7"].Taken) {
		t.Errorf("machine 7 counts since %v, want since it is on again, after %v", again.Since, after["7"].Taken)
	}
	if err := s.DeleteMachine(s.ctx, "8"); err != nil {
		t.Fatal(err)
	}
	loads("7")
}

func testNotFound(t *testing.T, s suite) {
	want(t, "power on", s.PowerOn(s.ctx, "100009"), weir.NotFound)
	want(t, "power off", s.PowerOff(s.ctx, "100009"), weir.NotFound)
	want(t, "set firewall", s.SetFirewall(s.ctx, "100009", openings(80)), weir.NotFound)
	want(t, "set no firewall", s.SetFirewall(s.ctx, "100009", nil), weir.NotFound)
	addr := s.reserve(t, "owner")
	want(t, "assign", s.Assign(s.ctx, addr, "100009"), weir.NotFound)
	must(t, "release", s.Release(s.ctx, addr))
	want(t, "assign what we do not hold", s.Assign(s.ctx, addr), weir.NotFound)
	must(t, "release what we do not hold", s.Release(s.ctx, addr))
	must(t, "delete what is not there", s.DeleteMachine(s.ctx, "100009"))
}

// A call may be cut short at any moment: done again, it leaves what one would have.
func testCutShort(t *testing.T, s suite) {
	ended, end := context.WithCancel(s.ctx)
	end()
	if _, err := s.CreateMachine(ended, spec("100001")); !errors.Is(err, context.Canceled) {
		t.Errorf("create with a context that has ended: error %v, want that it was canceled", err)
	}
	addr := s.reserve(t, "owner")
	for _, after := range []time.Duration{time.Millisecond, 30 * time.Millisecond, 150 * time.Millisecond} {
		short := func() context.Context {
			ctx, cancel := context.WithTimeout(s.ctx, after)
			t.Cleanup(cancel)
			return ctx
		}
		s.CreateMachine(short(), spec("100001")) // error or not
		made := s.create(t, "100001")
		same(t, "created again", s.machine(t, "100001"), made)
		if !made.On {
			t.Errorf("a machine whose creation was cut short after %v is off", after)
		}
		must(t, "assign", s.Assign(s.ctx, addr, "100001"))

		s.PowerOff(short(), "100001")
		must(t, "power off", s.PowerOff(s.ctx, "100001"))
		s.PowerOn(short(), "100001")
		must(t, "power on", s.PowerOn(s.ctx, "100001"))
		same(t, "off and on", s.machine(t, "100001"), made)

		s.DeleteMachine(short(), "100001")
		must(t, "delete", s.DeleteMachine(s.ctx, "100001"))
		if got := s.machines(t); len(got) > 0 {
			t.Errorf("machines %v, want none", got)
		}
		s.holds(t, addr, "owner")
	}
}
