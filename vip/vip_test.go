package vip

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// short is a Life that tests can wait for.
const short = time.Second

func holdsOne(s []Held) bool { return len(s) == 1 }
func none(s []Held) bool     { return len(s) == 0 }
func shared(s []Held) bool   { return len(s) == 1 && s[0].Duplicate != nil }
func alone(s []Held) bool    { return len(s) == 1 && s[0].Duplicate == nil }

func TestClientFollowsTheAddressFromALiveHolder(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		s := newSegment(t)
		a, b, client := s.node("a"), s.node("b"), s.node("client")
		a.serve()
		b.serve()
		ha, hb := a.hold(DefaultLife), b.hold(DefaultLife)
		// Back and forth: each time the client's table has the other, which has said all that
		// it has to say for now.
		for range 3 {
			for _, h := range []*holder{ha, hb} {
				time.Sleep(1500 * time.Millisecond)
				h.set(vip)
				if got := client.ask(vip.Addr()); got != h.n.name {
					t.Errorf("after %s took the address, %q answers", h.n.name, got)
				}
			}
		}
		// The one that gives up does not take the clients along.
		ha.set()
		if a.has(vip.Addr()) {
			t.Errorf("a has the address after it was told to hold nothing")
		}
		if got := client.ask(vip.Addr()); got != "b" {
			t.Errorf("after a gave up what b holds, %q answers", got)
		}
	})
}

func TestClientFollowsTheAddressFromADeadHolder(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		s := newSegment(t)
		a, b, client := s.node("a"), s.node("b"), s.node("client")
		a.serve()
		b.serve()
		ha, hb := a.hold(DefaultLife), b.hold(DefaultLife)
		ha.set(vip)
		if got := client.ask(vip.Addr()); got != "a" {
			t.Fatalf("%q answers, want a", got)
		}
		a.cable(1, false)
		ha.signal(syscall.SIGKILL)
		hb.set(vip)
		if got := client.ask(vip.Addr()); got != "b" {
			t.Errorf("after b took the address of a dead node, %q answers", got)
		}
	})
}

func TestAddressEndsWhenItsProcessIsStoppedOrKilled(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			families(t, func(t *testing.T, vip netip.Prefix) {
				n := newSegment(t).node("a")
				h := n.hold(DefaultLife)
				h.set(vip)
				time.Sleep(2 * DefaultLife)
				if !n.has(vip.Addr()) {
					t.Fatal("the address is gone although it is renewed")
				}
				h.signal(signal)
				n.wait("the address to end", func() bool { return !n.has(vip.Addr()) })
				if signal == syscall.SIGSTOP {
					// It wakes up after its permission, renews with a new one, and has to be told again
					// what to hold. The kernel may be early: wait for the end of the permission.
					time.Sleep(DefaultLife)
					h.signal(syscall.SIGCONT)
					h.until("it to have been held", holdsOne)
					h.until("its status to be empty", none)
					time.Sleep(200 * time.Millisecond)
					if n.has(vip.Addr()) {
						t.Error("the address came back by itself")
					}
					h.set(vip)
				}
			})
		})
	}
}

func TestAddressEndsWithoutPermission(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		n := newSegment(t).node("a")
		h := n.hold(short)
		h.set(vip)
		h.until("it to be held", holdsOne)
		if _, err := h.do("rest"); err != nil {
			t.Fatal(err)
		}
		h.until("it to end", none)
		if n.has(vip.Addr()) {
			t.Error("the status says that the address is gone, and it is there")
		}
		h.do("renew")
		time.Sleep(200 * time.Millisecond)
		if n.has(vip.Addr()) {
			t.Error("a late renewal brought the address back, want only Set to do so")
		}
	})
}

func TestAddressOfAProcessThatEndedIsAdopted(t *testing.T) {
	for how, end := range map[string]func(*holder){
		"in peace": (*holder).stop,
		"killed":   func(p *holder) { p.signal(syscall.SIGKILL); <-p.exited },
	} {
		t.Run(how, func(t *testing.T) {
			families(t, func(t *testing.T, vip netip.Prefix) {
				n := newSegment(t).node("a")
				first := n.hold(DefaultLife)
				first.set(vip)
				end(first)
				if !n.has(vip.Addr()) {
					t.Skip("the address ended before it could be adopted: the machine is too slow")
				}
				second := n.hold(DefaultLife)
				second.set(vip)
				time.Sleep(DefaultLife + 2*time.Second)
				if !n.has(vip.Addr()) {
					t.Error("the adopted address ended with the first process's lifetime")
				}
			})
		})
	}
}

func TestAddressThatNobodyAdoptsEnds(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		n := newSegment(t).node("a")
		first := n.hold(short)
		first.set(vip)
		first.stop()
		n.wait("the address to end with its lifetime", func() bool { return !n.has(vip.Addr()) })
	})
}

func TestAnAdministratorsAddressIsNotTouched(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		n := newSegment(t).node("a")
		for life, want := range map[int]string{0: "for good", 1000: "not ours"} {
			n.in(func() error { return n.add(vip.String(), life) })
			h := n.hold(short)
			if _, err := h.do("set " + vip.String()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one that says %q", err, want)
			}
			h.stop()
			if !n.has(vip.Addr()) {
				t.Error("the address is gone")
			}
			n.remove(vip)
		}
	})
}

func TestAnAddressRemovedByHandIsPutBack(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		s := newSegment(t)
		n, client := s.node("a"), s.node("client")
		n.serve()
		h := n.hold(DefaultLife)
		h.set(vip)
		h.until("it to be held", holdsOne)
		n.remove(netip.PrefixFrom(vip.Addr(), vip.Addr().BitLen()))
		n.wait("the address to be back", func() bool { return n.has(vip.Addr()) })
		if got := client.ask(vip.Addr()); got != "a" {
			t.Errorf("%q answers, want a", got)
		}
	})
}

// remove takes an address off n by hand.
func (n *node) remove(p netip.Prefix) {
	n.t.Helper()
	n.in(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(p.String())
		if err != nil {
			return err
		}
		return netlink.AddrDel(l, a)
	})
}

func TestTwoHoldersKnowOfEachOther(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		s := newSegment(t)
		a, b := s.node("a"), s.node("b")
		ha, hb := a.hold(DefaultLife), b.hold(DefaultLife)
		ha.set(vip)
		ha.until("it to be held", alone)
		hb.set(vip)
		ha.until("a duplicate", shared)
		hb.until("a duplicate", shared)
		if got := ha.last[0].Duplicate.MAC; !bytes.Equal(got, b.mac) {
			t.Errorf("a's duplicate is at %s, want b's %s", got, b.mac)
		}
		if got := hb.last[0].Duplicate.MAC; !bytes.Equal(got, a.mac) {
			t.Errorf("b's duplicate is at %s, want a's %s", got, a.mac)
		}
		hb.set()
		ha.until("the duplicate to be over", alone)
	})
}

func TestAQuietDuplicateIsFoundByAsking(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		s := newSegment(t)
		a, b := s.node("a"), s.node("b")
		b.in(func() error { return b.add(vip.String(), 0) })
		ha := a.hold(DefaultLife)
		ha.set(vip)
		ha.until("a duplicate", shared)
		if got := ha.last[0].Duplicate.MAC; !bytes.Equal(got, b.mac) {
			t.Errorf("the duplicate is at %s, want b's %s", got, b.mac)
		}
	})
}

func TestClientComesBackWhenTheOtherHolderIsGone(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		s := newSegment(t)
		a, b, client := s.node("a"), s.node("b"), s.node("client")
		a.serve()
		ha, hb := a.hold(DefaultLife), b.hold(DefaultLife)
		ha.set(vip)
		hb.set(vip) // takes the client with it
		ha.until("a duplicate", shared)
		hb.set()
		ha.until("the duplicate to be over", alone)
		if got := client.ask(vip.Addr()); got != "a" {
			t.Errorf("%q answers, want a, which alone has the address", got)
		}
	})
}

func TestAnnouncementsAreRepeated(t *testing.T) {
	families(t, func(t *testing.T, vip netip.Prefix) {
		s := newSegment(t)
		a, client := s.node("a"), s.node("client")
		heard := client.listen(vip.Addr())
		h := a.hold(DefaultLife)
		h.set(vip)
		want := 3
		if vip.Addr().Is4() {
			want *= 2 // each in two forms
		}
		await := func(want int) {
			t.Helper()
			end := time.After(20 * time.Second)
			for i := range want {
				select {
				case mac := <-heard:
					if !bytes.Equal(mac, a.mac) {
						t.Errorf("the address is announced for %s, want %s", mac, a.mac)
					}
				case <-end:
					t.Fatalf("heard %d announcements, want %d", i, want)
				}
			}
		}
		await(want)
		// A link that comes back has them again.
		a.cable(1, false)
		time.Sleep(50 * time.Millisecond)
		a.cable(1, true)
		await(want)
		if testing.Short() {
			return
		}
		await(want / 3) // the next, after ten seconds
	})
}

// listen returns the hardware addresses that are announced for addr on the segment.
func (n *node) listen(addr netip.Addr) <-chan net.HardwareAddr {
	n.t.Helper()
	heard := make(chan net.HardwareAddr, 1000)
	n.in(func() error {
		l, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		p, err := openPort(l, addr)
		if err != nil {
			return err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.listen(func(a netip.Addr, mac net.HardwareAddr) {
				if a == addr {
					heard <- bytes.Clone(mac)
				}
			})
		}()
		n.t.Cleanup(func() { p.close(); <-done })
		return nil
	})
	return heard
}

func TestWhatCannotBeHeldIsSaid(t *testing.T) {
	t.Parallel()
	n := newSegment(t).node("a")
	h := n.hold(short)
	for want, says := range map[string]string{
		"198.51.100.1/24": "no interface has an address in a subnet with it",
		"192.0.2.0/24":    "the subnet itself",
		"224.0.0.1/4":     "that others on the segment can reach",
		"127.0.0.1/8":     "that others on the segment can reach",
	} {
		if _, err := h.do("set " + want); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("set %s: error %v, want one that says %q", want, err, says)
		}
	}
	n.cable(1, false)
	n.wait("the carrier to go", func() bool {
		_, err := h.do("set 192.0.2.100/24")
		return err != nil && strings.Contains(err.Error(), "interface eth0 is down: it has no carrier")
	})
	// What could not be taken is, once it can be.
	n.cable(1, true)
	n.wait("the address", func() bool { return n.has(netip.MustParseAddr("192.0.2.100")) })
}

func TestOneBadAddressDoesNotKeepTheOthers(t *testing.T) {
	t.Parallel()
	n := newSegment(t).node("a")
	h := n.hold(short)
	if _, err := h.do("set 198.51.100.1/24 192.0.2.100/24 192.0.2.101/24"); err == nil {
		t.Error("no error for an address without a subnet")
	}
	for _, a := range []string{"192.0.2.100", "192.0.2.101"} {
		if !n.has(netip.MustParseAddr(a)) {
			t.Errorf("%s is not held", a)
		}
	}
}

func TestAnOldPermissionHoldsNothing(t *testing.T) {
	t.Parallel()
	n := newSegment(t).node("a")
	n.in(func() error {
		h := New(Options{Life: short})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// Run speaks with the kernel on this thread.
		go func() {
			defer cancel()
			err := h.Set(ctx, []netip.Prefix{netip.MustParsePrefix("192.0.2.100/24")}, time.Now().Add(-short))
			if err == nil || !strings.Contains(err.Error(), "permission ended") {
				t.Errorf("error %v, want one that says that permission ended", err)
			}
			if got := h.Status(); len(got) > 0 {
				t.Errorf("held %v by an old permission", got)
			}
		}()
		return h.Run(ctx)
	})
	if n.has(netip.MustParseAddr("192.0.2.100")) {
		t.Error("the address is there")
	}
}

func TestTheLossOfACarrierIsNoticed(t *testing.T) {
	t.Parallel()
	n := newSegment(t).node("a")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	n.in(func() error {
		var seen []bool
		for up, err := range Links(ctx) {
			if err != nil {
				return err
			}
			if !up["lo"] {
				t.Error("lo is down")
			}
			if n := len(seen); n > 0 && seen[n-1] == up["eth0"] {
				continue
			}
			seen = append(seen, up["eth0"])
			if len(seen) == 3 {
				break
			}
			go n.cable(1, !up["eth0"])
		}
		if want := []bool{true, false, true}; len(seen) != 3 || seen[0] != want[0] || seen[1] != want[1] {
			t.Errorf("eth0 was up: %v, want %v", seen, want)
		}
		return nil
	})
}
