package cloud

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weir/weir"
)

// FakeOptions make a Fake. The zero value is a cloud without faults, whose machines
// boot at once.
type FakeOptions struct {
	Region    string // the only one that it takes machines in; "lab" if empty
	Machines  int    // how many machines it has room for; 1000 if 0
	Addresses int    // how many reserved IPs it has of each family, and of the private network; 100 if 0
	Spread    int    // how many machines can have one; 8 if 0

	// Hosts is how many hosts there are, host-1 and so on, which machines are spread over; one that has no name if it is under 2.
	// Each has room for HostRoom machines, for any number if that is 0.
	Hosts, HostRoom int

	// Full says of which sizes there is no room for another machine, whatever there is of others. Of none if nil.
	Full func(size string) bool

	// Boots says how long a new machine's user-data runs and what becomes of it. If
	// nil, it is done at once.
	Boots func(Spec) (time.Duration, weir.Boot)

	// Fault is called at the beginning of each call, "create machine 100001" or
	// "list machines", and may sleep. If before is not nil, the call returns it and does
	// nothing; if after is not nil, the call returns it once it has taken effect. It is
	// called by many goroutines at once.
	Fault func(ctx context.Context, call string) (before, after error)

	// Every is how far apart the figures of machines are, of which Loads returns the last but one, as a provider's
	// monitoring does. It measures when it is called if 0.
	Every time.Duration
}

// Fake is a [Cloud] in memory, for tests. It keeps the promises of the interfaces,
// and takes time only where Boots and Fault do, so that it may live in a synctest
// bubble. Addresses that were given back are given out again, lowest first, as a small
// cloud does.
type Fake struct {
	o FakeOptions

	mu        sync.Mutex
	machines  map[weir.ID]*fakeMachine
	addresses map[netip.Addr]*Address
	made      map[weir.ID]int
	down      map[string]bool // hosts that are
}

type fakeMachine struct {
	Machine
	spec Spec
	slot int           // its addresses are the slot-th of each network
	left time.Duration // what remained of the boot when it was last powered on
	on   time.Time     // when that was
	load Load          // since then

	told, next Load // of a cloud whose figures come every so often: what Loads says, and what it says then
}

var (
	_ Cloud      = (*Fake)(nil)
	_ Meter      = (*Fake)(nil)
	_ HostFaults = (*Fake)(nil)
)

// Where the networks of a Fake begin.
var (
	fakePublic   = netip.MustParseAddr("198.18.0.0")
	fakeAnchor   = netip.MustParseAddr("10.19.0.0")
	fakePrivate  = netip.MustParseAddr("10.10.0.0")
	fakeReserved = netip.MustParseAddr("203.0.113.0")

	fakePublic6   = netip.MustParseAddr("2001:db8:0:1::")
	fakeAnchor6   = netip.MustParseAddr("fd00:0:0:19::")
	fakeReserved6 = netip.MustParseAddr("2001:db8:0:2::")

	fakeNetwork = netip.MustParsePrefix("10.10.0.0/15") // the private one; machines have its first half
	fakeInside  = netip.MustParseAddr("10.11.0.0")      // and what is reserved there the second
)

// NewFake returns a cloud with nothing in it.
func NewFake(o FakeOptions) *Fake {
	o.Region = cmp.Or(o.Region, "lab")
	o.Machines = cmp.Or(o.Machines, 1000)
	o.Addresses = cmp.Or(o.Addresses, 100)
	o.Spread = cmp.Or(o.Spread, 8)
	if o.Boots == nil {
		o.Boots = func(Spec) (time.Duration, weir.Boot) { return 0, weir.Boot{State: weir.BootDone} }
	}
	if o.Fault == nil {
		o.Fault = func(context.Context, string) (before, after error) { return nil, nil }
	}
	return &Fake{o: o, machines: map[weir.ID]*fakeMachine{},
		addresses: map[netip.Addr]*Address{}, made: map[weir.ID]int{}, down: map[string]bool{}}
}

// Kill has a machine die by itself: it is off. It reports whether it was on.
func (f *Fake) Kill(id weir.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[id]
	if m == nil || !m.On {
		return false
	}
	m.off()
	return true
}

// FailHost keeps the promise of [HostFaults].
func (f *Fake) FailHost(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := HostNamed(f.o.Hosts, name); err != nil {
		return err
	}
	f.down[name] = true
	for _, m := range f.machines {
		if m.Host == name && m.On {
			m.off()
		}
	}
	return nil
}

// RestoreHost keeps the promise of [HostFaults].
func (f *Fake) RestoreHost(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := HostNamed(f.o.Hosts, name)
	delete(f.down, name)
	return err
}

// hosts returns what there is on each host, as one looks at it that makes a machine to be apart from others.
func (f *Fake) hosts(apart string) []Host {
	all := make([]Host, max(1, f.o.Hosts))
	for i := range all {
		all[i].Room = int64(cmp.Or(f.o.HostRoom, f.o.Machines))
	}
	for _, m := range f.machines {
		i, err := HostNamed(f.o.Hosts, m.Host)
		if err != nil {
			i = 0 // the only one
		}
		all[i].Room--
		if apart != "" && m.spec.Apart == apart {
			all[i].Apart++
		}
	}
	for i := range all {
		if f.down[HostName(i)] {
			all[i].Room = 0
		}
	}
	return all
}

// up returns why nothing can be done to a machine, if its host is down.
func (f *Fake) up(m *fakeMachine) error {
	if f.down[m.Host] {
		return weir.Errorf(weir.Unavailable, "its host %s is down", m.Host)
	}
	return nil
}

// Spec returns what a machine was made from, if it is there.
func (f *Fake) Spec(id weir.ID) (Spec, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[id]
	if m == nil {
		return Spec{}, false
	}
	return m.spec, true
}

// Made returns how often a machine with that ID was made: more than once if it was
// asked for again after its deletion.
func (f *Fake) Made(id weir.ID) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.made[id]
}

// Work has a machine that is on use what work says: it gets the machine's load, and may let it grow.
// It reports whether there is one.
func (f *Fake) Work(id weir.ID, work func(*Load)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[id]
	if m == nil || !m.On {
		return false
	}
	work(&m.load)
	return true
}

// Loads keeps the promise of [Meter]. Machines use nothing unless Work says so.
func (f *Fake) Loads(ctx context.Context) ([]Load, error) {
	var all []Load
	err := f.call(ctx, func() error {
		for _, id := range slices.Sorted(maps.Keys(f.machines)) {
			if m := f.machines[id]; m.On {
				if l, known := m.loads(f.o.Every); known {
					all = append(all, l)
				}
			}
		}
		return nil
	}, "list loads")
	if err != nil {
		return nil, err
	}
	return all, nil
}

// loads returns what Loads says of a machine that is on, if there is something yet.
func (m *fakeMachine) loads(every time.Duration) (Load, bool) {
	m.load.Taken = time.Now()
	switch {
	case every == 0:
		return m.load, true
	case !m.next.Since.Equal(m.load.Since):
		m.told, m.next = Load{}, m.load
	case m.load.Taken.Sub(m.next.Taken) >= every:
		m.told, m.next = m.next, m.load
	}
	return m.told, !m.told.Taken.IsZero()
}

// Every keeps the promise of [Meter].
func (f *Fake) Every() time.Duration { return f.o.Every }

// call does what one call of the interfaces does, with the faults that it is to have.
func (f *Fake) call(ctx context.Context, do func() error, format string, args ...any) error {
	name := fmt.Sprintf(format, args...)
	before, after := f.o.Fault(ctx, name)
	if before == nil {
		before = ctx.Err()
	}
	if before != nil {
		return fmt.Errorf("%s: %w", name, before)
	}
	f.mu.Lock()
	err := do()
	f.mu.Unlock()
	if err == nil {
		err = after
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Machines keeps the promise of [Machines].
func (f *Fake) Machines(ctx context.Context) ([]Machine, error) {
	var all []Machine
	err := f.call(ctx, func() error {
		for _, id := range slices.Sorted(maps.Keys(f.machines)) {
			all = append(all, f.show(f.machines[id]))
		}
		return nil
	}, "list machines")
	if err != nil {
		return nil, err
	}
	return all, nil
}

// CreateMachine keeps the promise of [Machines].
func (f *Fake) CreateMachine(ctx context.Context, spec Spec) (Machine, error) {
	var made Machine
	err := f.call(ctx, func() error {
		m := f.machines[spec.ID]
		if m == nil {
			var err error
			if m, err = f.create(spec); err != nil {
				return err
			}
		}
		made = f.show(m)
		return nil
	}, "create machine %s", spec.ID)
	if err != nil {
		return Machine{}, err
	}
	return made, nil
}

func (f *Fake) create(spec Spec) (*fakeMachine, error) {
	if spec.ID == "" {
		return nil, weir.Errorf(weir.Invalid, "it has no ID")
	}
	if err := weir.CheckName(spec.Name); err != nil {
		return nil, err
	}
	if err := spec.Check(f.o.Region); err != nil {
		return nil, err
	}
	if err := f.room(spec.Size, 1); err != nil {
		return nil, err
	}
	host := ""
	if f.o.Hosts > 1 {
		host = HostName(PickHost(f.hosts(spec.Apart))) // there is one, as room says
	}
	slot := f.slot()
	takes, boot := f.o.Boots(spec)
	m := &fakeMachine{spec: spec, slot: slot, left: takes, Machine: Machine{
		ID: spec.ID, Name: spec.Name, Host: host, Boot: boot,
		Public:  nth(fakePublic, slot),
		Anchor:  nth(fakeAnchor, slot),
		Private: nth(fakePrivate, slot),
	}}
	if spec.IPv6 {
		m.enableIPv6()
	}
	m.start()
	f.machines[spec.ID] = m
	f.made[spec.ID]++
	return m, nil
}

// enableIPv6 gives a machine its addresses of IPv6.
func (m *fakeMachine) enableIPv6() {
	m.Public6, m.Anchor6 = nth(fakePublic6, m.slot), nth(fakeAnchor6, m.slot)
}

// EnableIPv6 keeps the promise of [Machines].
func (f *Fake) EnableIPv6(ctx context.Context, id weir.ID) error {
	return f.call(ctx, func() error {
		m, err := f.machine(id)
		if err == nil {
			m.enableIPv6()
		}
		return err
	}, "enable IPv6 of machine %s", id)
}

// Room keeps the promise of [Machines].
func (f *Fake) Room(ctx context.Context, t weir.Template, n int) error {
	return f.call(ctx, func() error {
		if err := t.Check(f.o.Region); err != nil {
			return err
		}
		return f.room(t.Size, n)
	}, "ask for room for %d machines", n)
}

func (f *Fake) room(size string, n int) error {
	if n > 0 && f.o.Full != nil && f.o.Full(size) {
		return weir.Errorf(weir.Exhausted, "there is no room for more machines of size %s", size)
	}
	if free := f.o.Machines - len(f.machines); n > free {
		return weir.Errorf(weir.Exhausted, "there is room for %d more machines of %d, want %d", free, f.o.Machines, n)
	}
	free := int64(0)
	for _, h := range f.hosts("") {
		free += max(0, h.Room)
	}
	if int64(n) > free {
		return weir.Errorf(weir.Exhausted, "its hosts have room for %d more machines, want %d", free, n)
	}
	return nil
}

// slot returns the lowest number that no machine has.
func (f *Fake) slot() int {
	taken := map[int]bool{}
	for _, m := range f.machines {
		taken[m.slot] = true
	}
	n := 1
	for taken[n] {
		n++
	}
	return n
}

// DeleteMachine keeps the promise of [Machines].
func (f *Fake) DeleteMachine(ctx context.Context, id weir.ID) error {
	return f.call(ctx, func() error {
		if m := f.machines[id]; m != nil {
			if err := f.up(m); err != nil {
				return err
			}
		}
		delete(f.machines, id)
		for _, a := range f.addresses {
			a.Machines = slices.DeleteFunc(a.Machines, func(m weir.ID) bool { return m == id })
		}
		return nil
	}, "delete machine %s", id)
}

// PowerOn keeps the promise of [Machines].
func (f *Fake) PowerOn(ctx context.Context, id weir.ID) error {
	return f.call(ctx, func() error {
		m, err := f.machine(id)
		if err == nil {
			err = f.up(m)
		}
		if err == nil && !m.On {
			m.start()
		}
		return err
	}, "power on machine %s", id)
}

// PowerOff keeps the promise of [Machines].
func (f *Fake) PowerOff(ctx context.Context, id weir.ID) error {
	return f.call(ctx, func() error {
		m, err := f.machine(id)
		if err == nil && m.On {
			m.off()
		}
		return err
	}, "power off machine %s", id)
}

// Addresses keeps the promise of [Addresses].
func (f *Fake) Addresses(ctx context.Context) ([]Address, error) {
	var all []Address
	err := f.call(ctx, func() error {
		for _, addr := range slices.SortedFunc(maps.Keys(f.addresses), netip.Addr.Compare) {
			a := *f.addresses[addr]
			a.Machines = slices.Clone(a.Machines)
			all = append(all, a)
		}
		return nil
	}, "list addresses")
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Reserve keeps the promise of [Addresses].
func (f *Fake) Reserve(ctx context.Context, owner weir.ID, family weir.Family) (netip.Addr, error) {
	base := fakeReserved
	if family == weir.IPv6 {
		base = fakeReserved6
	}
	var got netip.Addr
	err := f.call(ctx, func() (err error) {
		got, err = f.reserve(Address{Owner: owner}, base)
		return err
	}, "reserve an address of %s for %s", family, owner)
	return got, err
}

// PrivateNetwork keeps the promise of [Addresses].
func (f *Fake) PrivateNetwork() netip.Prefix { return fakeNetwork }

// ReservePrivate keeps the promise of [Addresses].
func (f *Fake) ReservePrivate(ctx context.Context, owner weir.ID) (netip.Addr, error) {
	var got netip.Addr
	err := f.call(ctx, func() (err error) {
		got, err = f.reserve(Address{Owner: owner, Private: true}, fakeInside)
		return err
	}, "reserve a private address for %s", owner)
	return got, err
}

// reserve returns an owner's address of the range that begins at base, where it gets want if it has none.
func (f *Fake) reserve(want Address, base netip.Addr) (netip.Addr, error) {
	taken := 0
	for _, a := range f.addresses {
		if a.Private != want.Private || a.Addr.Is4() != base.Is4() {
			continue
		}
		if a.Owner == want.Owner {
			return a.Addr, nil
		}
		taken++
	}
	if taken >= f.o.Addresses {
		return netip.Addr{}, weir.Errorf(weir.Exhausted, "there are %d addresses, and all are taken", f.o.Addresses)
	}
	for n := 1; ; n++ {
		if addr := nth(base, n); f.addresses[addr] == nil {
			want.Addr = addr
			f.addresses[addr] = &want
			return addr, nil
		}
	}
}

// Spread keeps the promise of [Addresses].
func (f *Fake) Spread() int { return f.o.Spread }

// Assign keeps the promise of [Addresses].
func (f *Fake) Assign(ctx context.Context, addr netip.Addr, machines ...weir.ID) error {
	return f.call(ctx, func() error {
		a := f.addresses[addr]
		if a == nil {
			return weir.Errorf(weir.NotFound, "there is no such address")
		}
		if len(machines) > f.o.Spread {
			return weir.Errorf(weir.Invalid, "it can be spread over %d machines, want %d", f.o.Spread, len(machines))
		}
		for _, m := range machines {
			there, err := f.machine(m)
			if err != nil {
				return err
			}
			if addr.Is6() && !there.Public6.IsValid() {
				return weir.Errorf(weir.Invalid, "machine %s has no IPv6", m)
			}
		}
		a.Machines = slices.Clone(machines)
		return nil
	}, "assign %s to machines %q", addr, machines)
}

// Release keeps the promise of [Addresses].
func (f *Fake) Release(ctx context.Context, addr netip.Addr) error {
	return f.call(ctx, func() error {
		delete(f.addresses, addr)
		return nil
	}, "release %s", addr)
}

// SetFirewall keeps the promise of [Firewalls].
func (f *Fake) SetFirewall(ctx context.Context, machine weir.ID, w *weir.Firewall) error {
	return f.call(ctx, func() error {
		if err := w.Check(); err != nil {
			return err
		}
		m, err := f.machine(machine)
		if err == nil {
			m.Firewall = w.Clone()
		}
		return err
	}, "set the firewall of machine %s", machine)
}

func (f *Fake) machine(id weir.ID) (*fakeMachine, error) {
	if m := f.machines[id]; m != nil {
		return m, nil
	}
	return nil, weir.Errorf(weir.NotFound, "there is no machine %s", id)
}

func (m *fakeMachine) start() {
	m.On, m.on = true, time.Now()
	size, _ := weir.SizeOf(m.spec.Size)
	m.load = Load{Machine: m.ID, Since: m.on, CPUs: size.CPUs,
		Memory: Memory{Total: size.Memory, Free: size.Memory, Available: size.Memory},
		Disk:   Disk{Device: "/dev/vda1", Type: "ext4", Mount: "/", Size: size.Disk, Free: size.Disk}}
}

// off interrupts a boot that is still running; it goes on when the machine does.
func (m *fakeMachine) off() {
	m.left = max(0, m.left-time.Since(m.on))
	m.On = false
}

// show returns m as it is at this moment, sharing nothing with it.
func (f *Fake) show(m *fakeMachine) Machine {
	shown := m.Machine
	shown.HostDown = f.down[m.Host]
	left := m.left
	if m.On {
		left -= time.Since(m.on)
	}
	if left > 0 {
		shown.Boot = weir.Boot{State: weir.BootRunning}
	}
	shown.Firewall = m.Firewall.Clone()
	return shown
}

// nth returns the n-th address after base.
func nth(base netip.Addr, n int) netip.Addr {
	b := base.AsSlice()
	end := b[len(b)-4:]
	binary.BigEndian.PutUint32(end, binary.BigEndian.Uint32(end)+uint32(n))
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
