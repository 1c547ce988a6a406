package haproxy

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

func BenchmarkRender(b *testing.B) {
	d := testDocument(freeAddr(b), crowd(10_000, 80)...)
	v := Version{Major: 2, Minor: 6, Full: "2.6.12"}
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(Render(v, 812, d, Host{}))))
	}
}

// BenchmarkSet measures from the document's arrival until HAProxy has taken it over
// (applied) and until the new servers have passed their check and are in rotation (ready).
// The servers are up already. What one iteration added the next removes, unmeasured.
func BenchmarkSet(b *testing.B) {
	for _, c := range []struct{ present, added int }{{1, 1}, {100, 1}, {1000, 1}, {1, 1000}} {
		b.Run(fmt.Sprintf("present=%d/added=%d", c.present, c.added), func(b *testing.B) {
			p, _ := startProxy(b, Options{Log: slog.New(slog.DiscardHandler)})
			all := crowd(c.present+c.added, listenEverywhere(b))
			d := testDocument(freeAddr(b), all[:c.present]...)
			set(b, p, d)
			waitState(b, p, weir.ServerUp, all[:c.present]...)
			var applied, ready []time.Duration
			var cpu time.Duration
			for b.Loop() {
				began, used := time.Now(), cpuTime()
				set(b, p, withServers(d, all...))
				applied = append(applied, time.Since(began))
				for p.waiting() > 0 {
					time.Sleep(50 * time.Microsecond)
				}
				ready = append(ready, time.Since(began))
				cpu += cpuTime() - used
				b.StopTimer()
				set(b, p, d)
				waitState(b, p, weir.ServerUp, all[:c.present]...)
				b.StartTimer()
			}
			b.ReportMetric(median(applied), "ms-applied")
			b.ReportMetric(median(ready), "ms-ready")
			b.ReportMetric(float64(cpu)/1e6/float64(b.N), "ms-cpu/op")
			b.ReportMetric(float64(resident(b))/(1<<20), "MiB-resident")
			if h, _ := status(b, p); h.Reloads != 0 {
				b.Errorf("%d reloads, want none", h.Reloads)
			}
		})
	}
}

// waiting returns how many servers wait for their check, or leave.
func (p *Proxy) waiting() int {
	p.lock <- struct{}{}
	defer p.release()
	return len(p.wait)
}

func median(d []time.Duration) (ms float64) {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}

// cpuTime returns what this process has used, the servers in it included.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func resident(b *testing.B) (bytes int64) {
	stat, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(stat), &size, &pages); err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
