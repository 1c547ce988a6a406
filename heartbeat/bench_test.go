package heartbeat

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

func BenchmarkBeatAndAnswer(b *testing.B) {
	s := newSeal(testKey)
	var buf [maxSize]byte
	b.ReportAllocs()
	for b.Loop() {
		d := s.append(buf[:0], kindBeat, 7, Answer{}, "0b5e3b9e-9f3f-4e0e-8f0a-3c6a1d4a6f11")
		if _, ok := s.open(d); !ok {
			b.Fatal("it does not open")
		}
	}
}

// BenchmarkPaths measures what a path costs at a beat of 25 ms: one operation is one
// second of it. Both ends are in this process, so each path is paid for twice.
func BenchmarkPaths(b *testing.B) {
	for _, n := range []int{1, 2, 10, 100} {
		b.Run(fmt.Sprintf("paths=%d", n), func(b *testing.B) {
			port := freePort(b)
			hub := newMonitor(b, port, "127.1.0.1")
			var peers []string
			for i := range n {
				addr := netip.AddrFrom4([4]byte{127, 2, byte(i / 250), byte(i%250 + 1)}).String()
				peers = append(peers, addr)
				m := newMonitor(b, port, addr)
				m.Set(group("127.1.0.1"))
				run(b, m)
			}
			hub.Set(group(peers...))
			run(b, hub)
			for _, p := range hub.Peers() {
				eventually(b, "all up", func() string { return fmt.Sprintf("%+v", p) }, func() bool {
					return !slices.ContainsFunc(hub.Peers(), func(p PeerStatus) bool { return p.State() != weir.PathUp })
				})
			}
			used, began := cpu(), time.Now()
			for b.Loop() {
				time.Sleep(time.Second)
			}
			took := time.Since(began)
			b.ReportMetric(float64(cpu()-used)/float64(took)/float64(2*n)*100, "%core/path")
		})
	}
}

// cpu returns the time that this process has spent.
func cpu() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkKill measures how long after a peer is stopped (SIGSTOP: nothing refuses) it
// is Silent.
func BenchmarkKill(b *testing.B) {
	port := freePort(b)
	a := newMonitor(b, port, "127.0.0.1")
	a.Self = "a"
	g := group("127.0.0.2")
	g.Peers[0].Node = "b"
	a.Set(g)
	run(b, a)
	peer := start(b, "", "b", strconv.Itoa(port), "127.0.0.2", "a", "127.0.0.1")
	var took []time.Duration
	for b.Loop() {
		waitState(b, a, weir.PathUp)
		time.Sleep(time.Duration(time.Now().UnixNano()%25) * ms)
		began := time.Now()
		peer.signal(unix.SIGSTOP)
		for a.Peers()[0].State() != weir.PathSilent {
			<-a.Changed()
		}
		took = append(took, time.Since(began))
		peer.signal(unix.SIGCONT)
	}
	slices.Sort(took)
	at := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() * 1000 }
	b.ReportMetric(at(0), "ms-min")
	b.ReportMetric(at(0.5), "ms-p50")
	b.ReportMetric(at(0.99), "ms-p99")
	b.ReportMetric(at(1), "ms-max")
}

var loadBeats = [...]time.Duration{10 * ms, 15 * ms, 20 * ms, 25 * ms, 50 * ms}

// BenchmarkBusy counts false alarms between two processes while four others keep the
// machine busy. HEARTBEAT_BUSY says for how long (10m); run it with -benchtime=1x.
func BenchmarkBusy(b *testing.B) {
	span := os.Getenv("HEARTBEAT_BUSY")
	if span == "" {
		b.Skip("HEARTBEAT_BUSY is not set")
	}
	for _, priority := range []string{"prioritized", "ordinary"} {
		b.Run(priority, func(b *testing.B) {
			for b.Loop() {
				busy(b, priority, span)
			}
		})
	}
}

func busy(b *testing.B, priority, span string) {
	spawn := func(role string, args ...string) *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "HEARTBEAT_TEST="+role, "HEARTBEAT_TEST_ARGS="+strings.Join(args, " "))
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		return c
	}
	for range 4 {
		hog := spawn("hog")
		defer hog.Wait()
		defer hog.Process.Kill()
	}
	ends := []*exec.Cmd{
		spawn("busy", "127.0.0.1", "127.0.0.2", span, priority),
		spawn("busy", "127.0.0.2", "127.0.0.1", span, priority),
	}
	for _, c := range ends {
		if err := c.Wait(); err != nil {
			b.Error(err)
		}
	}
}

// busyEnd runs one end: a monitor for each of several beats.
func busyEnd(args []string) {
	self, peer, priority := args[0], args[1], args[3]
	span, err := time.ParseDuration(args[2])
	if err != nil {
		panic(err)
	}
	if priority == "prioritized" {
		if err := Prioritize(); err != nil {
			panic(err)
		}
	}
	ctx, stop := context.WithTimeout(context.Background(), span)
	defer stop()
	var wg sync.WaitGroup
	for i, beat := range []time.Duration{10 * ms, 15 * ms, 20 * ms, 25 * ms, 50 * ms} {
		m := New(Options{Self: weir.ID("node " + self), Port: 47000 + i, Beat: beat, sources: []netip.Addr{netip.MustParseAddr(self)}})
		m.Set(group(peer))
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				panic(err)
			}
		})
		wg.Go(func() { countAlarms(ctx, m, priority) })
	}
	wg.Wait()
}

func countAlarms(ctx context.Context, m *Monitor, priority string) {
	alarms := make(map[weir.PathState]int)
	was := weir.PathUnknown
	for ctx.Err() == nil {
		select {
		case <-m.Changed():
		case <-ctx.Done():
		}
		if is := m.Peers()[0].State(); is != was {
			alarms[is]++
			was = is
		}
	}
	fmt.Printf("%s, late after %v, silent after %v, %s: late %d times, silent %d; %+v\n",
		priority, m.Late, m.Silent, m.Self, alarms[weir.PathLate], alarms[weir.PathSilent], m.Counts())
}
