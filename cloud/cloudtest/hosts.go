package cloudtest

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"weir/cloud"
	"weir/weir"
)

// The clouds that RunHosts tests have Hosts hosts, each with room for HostRoom machines of the smallest size.
const (
	Hosts    = 3
	HostRoom = 2
)

// Hosted is a cloud of several hosts, which can be broken.
type Hosted interface {
	cloud.Cloud
	cloud.HostFaults
}

// RunHosts tests the clouds of several hosts that open returns, as Run tests clouds.
func RunHosts(t *testing.T, open func(t *testing.T) Hosted) {
	for _, test := range []struct {
		name string
		do   func(*testing.T, suite, Hosted)
	}{
		{"machines that should be apart are spread evenly", testApart},
		{"machines that are made at once are spread too", testApartAtOnce},
		{"others do not count", testApartFromOthers},
		{"a machine is on the next best host where there is no room", testApartWithoutRoom},
		{"a machine stays on its host", testStays},
		{"nothing is made when all hosts are full", testHostsFull},
		{"machines of a host that is down are off, and stay so", testHostDown},
		{"nothing is made on a host that is down", testNothingOnHostDown},
		{"what is no host is not found", testNoHost},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := open(t)
			test.do(t, suite{ctx: t.Context(), Cloud: c}, c)
		})
	}
}

// apart makes a machine that should be apart from others with the same word.
func (s suite) apart(t *testing.T, id weir.ID, word string) cloud.Machine {
	t.Helper()
	sp := spec(id)
	sp.Apart = word
	m, err := s.CreateMachine(s.ctx, sp)
	if err != nil {
		t.Fatalf("create machine %s: %v", id, err)
	}
	if m.Host == "" || m.HostDown {
		t.Fatalf("machine %s is on host %q, which is down: %v, want a host that is up", id, m.Host, m.HostDown)
	}
	return m
}

// spread returns how many of some machines each host has, the fewest first.
func (s suite) spread(t *testing.T, ids ...weir.ID) (n []int) {
	t.Helper()
	on := map[string]int{}
	all := s.machines(t)
	for _, id := range ids {
		on[all[id].Host]++
	}
	for _, k := range on {
		n = append(n, k)
	}
	for len(n) < Hosts {
		n = append(n, 0)
	}
	slices.Sort(n)
	return n
}

func numbered(first, n int) (ids []weir.ID) {
	for i := range n {
		ids = append(ids, weir.ID(fmt.Sprint(first+i)))
	}
	return ids
}

func testApart(t *testing.T, s suite, _ Hosted) {
	ids := numbered(100001, 6)
	for i, id := range ids {
		s.apart(t, id, "pool")
		if n := s.spread(t, ids[:i+1]...); n[len(n)-1]-n[0] > 1 {
			t.Errorf("%d machines are spread %v, want evenly", i+1, n)
		}
	}
	// One that goes makes room for the next on its host.
	gone := s.machine(t, ids[2]).Host
	must(t, "delete", s.DeleteMachine(s.ctx, ids[2]))
	if m := s.apart(t, "100007", "pool"); m.Host != gone {
		t.Errorf("the next machine is on %s, want %s, which has one fewer", m.Host, gone)
	}
}

func testApartAtOnce(t *testing.T, s suite, _ Hosted) {
	ids := numbered(100001, 6)
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			sp := spec(id)
			sp.Apart = "pool"
			if _, err := s.CreateMachine(s.ctx, sp); err != nil {
				t.Errorf("create %s: %v", id, err)
			}
		})
	}
	wg.Wait()
	if n := s.spread(t, ids...); n[0] != 2 {
		t.Errorf("they are spread %v, want two on each host", n)
	}
}

func testApartFromOthers(t *testing.T, s suite, _ Hosted) {
	s.apart(t, "100001", "other")
	s.create(t, "100002") // which may be anywhere
	ids := numbered(100003, 3)
	for _, id := range ids {
		s.apart(t, id, "pool")
	}
	if n := s.spread(t, ids...); n[0] != 1 {
		t.Errorf("they are spread %v, want one on each host", n)
	}
}

func testApartWithoutRoom(t *testing.T, s suite, _ Hosted) {
	full := s.apart(t, "100001", "other").Host
	for id := 100002; ; id++ { // until full is, and the others are empty
		m := s.create(t, weir.ID(fmt.Sprint(id)))
		if m.Host == full {
			break
		}
	}
	for id, m := range s.machines(t) {
		if m.Host != full {
			must(t, "delete", s.DeleteMachine(s.ctx, id))
		}
	}
	ids := numbered(100011, 3)
	for _, id := range ids {
		if m := s.apart(t, id, "pool"); m.Host == full {
			t.Errorf("machine %s is on %s, which is full", id, full)
		}
	}
	if n := s.spread(t, ids...); n[0] != 0 || n[1] != 1 || n[2] != 2 {
		t.Errorf("they are spread %v, want one and two on the hosts that have room", n)
	}
}

func testStays(t *testing.T, s suite, _ Hosted) {
	made := s.apart(t, "100001", "pool")
	s.apart(t, "100002", "pool")
	if again := s.apart(t, "100001", "other"); again.Host != made.Host {
		t.Errorf("created again it is on %s, want %s as before", again.Host, made.Host)
	}
	if n := len(s.machines(t)); n != 2 {
		t.Errorf("there are %d machines, want 2", n)
	}
	must(t, "power off", s.PowerOff(s.ctx, "100001"))
	must(t, "power on", s.PowerOn(s.ctx, "100001"))
	same(t, "off and on", s.machine(t, "100001"), made)
}

func testHostsFull(t *testing.T, s suite, _ Hosted) {
	must(t, "ask for room for all", s.Room(s.ctx, spec("1").Template, Hosts*HostRoom))
	want(t, "ask for room for one more", s.Room(s.ctx, spec("1").Template, Hosts*HostRoom+1), weir.Exhausted)
	ids := numbered(100001, Hosts*HostRoom)
	for _, id := range ids {
		s.create(t, id) // which are not to be apart
	}
	if n := s.spread(t, ids...); n[0] != HostRoom {
		t.Errorf("they are spread %v, want as many as there is room for on each host", n)
	}
	_, err := s.CreateMachine(s.ctx, spec("100009"))
	want(t, "create one more", err, weir.Exhausted)
}

func testHostDown(t *testing.T, s suite, hosts Hosted) {
	ids := numbered(100001, 6)
	for _, id := range ids {
		s.apart(t, id, "pool")
	}
	before := s.machines(t)
	down := before[ids[0]].Host
	addr := s.reserve(t, "owner")
	must(t, "assign", s.Assign(s.ctx, addr, ids[0]))
	for range 2 { // the second does nothing
		must(t, "fail host", hosts.FailHost(s.ctx, down))
	}
	var there []weir.ID // on it
	for id, m := range s.machines(t) {
		dead := m.Host == down
		if m.On == dead || m.HostDown != dead {
			t.Errorf("machine %s on %s is on: %v, and its host down: %v, want %s alone to be down", id, m.Host, m.On, m.HostDown, down)
		}
		if !dead {
			same(t, "one of another host", m, before[id])
			continue
		}
		there = append(there, id)
		want(t, "power on", s.PowerOn(s.ctx, id), weir.Unavailable)
		want(t, "delete", s.DeleteMachine(s.ctx, id), weir.Unavailable)
		must(t, "power off", s.PowerOff(s.ctx, id)) // as it is
		again, err := s.CreateMachine(s.ctx, spec(id))
		must(t, "create again", err)
		same(t, "created again", again, m)
	}
	if len(there) != 2 {
		t.Fatalf("%d machines are on %s, want 2", len(there), down)
	}
	s.holds(t, addr, "owner", ids[0])
	other := ids[slices.IndexFunc(ids, func(id weir.ID) bool { return before[id].Host != down })]
	must(t, "assign to another", s.Assign(s.ctx, addr, other))
	must(t, "delete on another host", s.DeleteMachine(s.ctx, other))

	for range 2 {
		must(t, "restore host", hosts.RestoreHost(s.ctx, down))
	}
	for _, id := range there {
		m := s.machine(t, id)
		if m.On || m.HostDown {
			t.Errorf("once its host is up, machine %s is on: %v, and its host down: %v, want that it is off", id, m.On, m.HostDown)
		}
	}
	must(t, "power on", s.PowerOn(s.ctx, there[0]))
	same(t, "on again", s.machine(t, there[0]), before[there[0]])
	must(t, "delete one that is off", s.DeleteMachine(s.ctx, there[1]))
}

func testNothingOnHostDown(t *testing.T, s suite, hosts Hosted) {
	down := s.apart(t, "100001", "pool").Host
	must(t, "fail host", hosts.FailHost(s.ctx, down))
	must(t, "ask for room on the others", s.Room(s.ctx, spec("1").Template, (Hosts-1)*HostRoom))
	want(t, "ask for more room", s.Room(s.ctx, spec("1").Template, (Hosts-1)*HostRoom+1), weir.Exhausted)
	ids := numbered(100002, (Hosts-1)*HostRoom)
	for _, id := range ids {
		if m := s.apart(t, id, "pool"); m.Host == down {
			t.Errorf("machine %s is on %s, which is down", id, down)
		}
	}
	_, err := s.CreateMachine(s.ctx, spec("100009"))
	want(t, "create one more", err, weir.Exhausted)
	must(t, "restore host", hosts.RestoreHost(s.ctx, down))
	if m := s.apart(t, "100009", "pool"); m.Host != down {
		t.Errorf("machine 100009 is on %s, want %s, which is up again and has room", m.Host, down)
	}
}

func testNoHost(t *testing.T, s suite, hosts Hosted) {
	for _, name := range []string{"", "host", "host-0", "elsewhere"} {
		want(t, "fail host "+name, hosts.FailHost(s.ctx, name), weir.NotFound)
		want(t, "restore host "+name, hosts.RestoreHost(s.ctx, name), weir.NotFound)
	}
	if n := len(s.machines(t)); n > 0 {
		t.Errorf("there are %d machines", n)
	}
}
