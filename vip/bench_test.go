package vip

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// BenchmarkSet is how long an address takes from Set to held and announced.
func BenchmarkSet(b *testing.B) {
	for name, vip := range benchFamilies() {
		b.Run(name, func(b *testing.B) {
			h := newSegment(b).node("a").hold(DefaultLife)
			var took []time.Duration
			for range b.N {
				took = append(took, h.set(vip))
				h.set()
			}
			report(b, took)
		})
	}
}

// BenchmarkExpiry is how long an address stays after its process is stopped, which renewed
// permission each 20th of Life until then, as the kernel reports it.
func BenchmarkExpiry(b *testing.B) {
	for name, vip := range benchFamilies() {
		b.Run(name, func(b *testing.B) {
			n := newSegment(b).node("a")
			changes, done := make(chan netlink.AddrUpdate, 1000), make(chan struct{})
			defer end(changes, done)
			if err := netlink.AddrSubscribeAt(n.ns, changes, done); err != nil {
				b.Fatal(err)
			}
			var stayed []time.Duration
			for i := range b.N {
				h := n.hold(DefaultLife)
				h.set(vip)
				// Not always in the same place of the kernel's second and of the renewal's rhythm.
				time.Sleep(time.Second + time.Duration(i*37%100)*10*time.Millisecond)
				h.signal(syscall.SIGSTOP)
				stopped := time.Now()
				for u := range changes {
					if ip, ok := prefixOf(&u.LinkAddress); ok && ip.Addr() == vip.Addr() && !u.NewAddr {
						break
					}
				}
				stayed = append(stayed, time.Since(stopped))
				h.signal(syscall.SIGKILL)
				<-h.exited
			}
			report(b, stayed)
		})
	}
}

func benchFamilies() map[string]netip.Prefix {
	return map[string]netip.Prefix{
		"IPv4": netip.MustParsePrefix("192.0.2.100/24"),
		"IPv6": netip.MustParsePrefix("2001:db8::100/64"),
	}
}

// report gives the distribution of d, in milliseconds.
func report(b *testing.B, d []time.Duration) {
	slices.Sort(d)
	at := func(q float64) float64 {
		return float64(d[int(q*float64(len(d)-1))]) / float64(time.Millisecond)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(at(0), "ms-min")
	b.ReportMetric(at(0.5), "ms-p50")
	b.ReportMetric(at(0.9), "ms-p90")
	b.ReportMetric(at(1), "ms-max")
}
