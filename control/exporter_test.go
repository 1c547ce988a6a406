package control

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/exporter"
	"weir/store"
	"weir/weir"
)

// exporters are those of all machines of a cloud.
type exporters struct {
	cloud *cloud.Fake
	text  string // what a node_exporter says beside what machines differ in
	wg    sync.WaitGroup

	mu    sync.Mutex
	work  float64             // that machines share, in machines
	fault map[weir.ID]string  // what is wrong with a machine's
	state map[weir.ID]*kernel // of each machine
	asked map[weir.ID]int
	at    map[netip.Addr]weir.ID // machines that are on …
	seen  time.Time              // … at that moment
}

// kernel is what a machine counts.
type kernel struct {
	boot, counted time.Time
	busy          float64 // CPU seconds
}

// inMeteredLab is inLab with exporters on the machines, and what was logged.
func inMeteredLab(t *testing.T, o cloud.FakeOptions, f func(t *testing.T, c *Control, x *exporters, logged func() string)) {
	text, err := os.ReadFile("../exporter/testdata/node_exporter.txt")
	if err != nil {
		t.Fatal(err)
	}
	others := slices.DeleteFunc(strings.SplitAfter(string(text), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "node_cpu_seconds") || strings.HasPrefix(line, "node_memory_MemA") || strings.HasPrefix(line, "node_boot") || strings.HasPrefix(line, "node_time_s")
	})
	synctest.Test(t, func(t *testing.T) {
		fake := cloud.NewFake(o)
		x := &exporters{cloud: fake, text: strings.Join(others, ""), fault: map[weir.ID]string{}, state: map[weir.ID]*kernel{}, asked: map[weir.ID]int{}, at: map[netip.Addr]weir.ID{}}
		var log logBook
		c := New(Options{Region: "lab", Store: store.Memory(), Cloud: fake, Drain: time.Second, Dial: x.dial, From: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
			Log: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { c.Run(ctx) })
		defer func() {
			cancel()
			wg.Wait()
			x.wg.Wait()
			c.Store.Close()
		}()
		f(t, c, x, log.String)
	})
}

// logBook is a log that can be read while it is written.
type logBook struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// set changes what exporters say.
func (x *exporters) set(change func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change()
}

// restart has a machine begin to count anew.
func (x *exporters) restart(id weir.ID) {
	x.set(func() { x.state[id] = &kernel{boot: time.Now(), counted: time.Now()} })
}

// dial reaches a machine's exporter, as long as the machine is on.
func (x *exporters) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	at := netip.MustParseAddrPort(addr)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.seen != time.Now() {
		x.seen = time.Now()
		clear(x.at)
		all, err := x.cloud.Machines(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range all {
			if m.On {
				x.at[m.Private] = m.ID
			}
		}
	}
	id := x.at[at.Addr()]
	if id == "" || at.Port() != 9100 || x.fault[id] == "refused" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	x.asked[id]++
	ours, theirs := net.Pipe()
	fault, text := x.fault[id], x.says(id, len(x.at))
	x.wg.Go(func() { x.answer(theirs, fault, text) })
	return ours, nil
}

// says returns what a machine's exporter says at this moment, on one of so many machines.
func (x *exporters) says(id weir.ID, machines int) string {
	now := time.Now()
	k := x.state[id]
	if k == nil {
		k = &kernel{boot: now, counted: now}
		x.state[id] = k
	}
	k.busy += min(x.work/float64(machines), 1) * now.Sub(k.counted).Seconds()
	k.counted = now
	return x.text + fmt.Sprintf("node_cpu_seconds_total{cpu=\"0\",mode=\"user\"} %v\nnode_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} %v\nnode_cpu_seconds_total{cpu=\"0\",mode=\"iowait\"} 5\n"+
		"node_memory_MemAvailable_bytes %v\nnode_boot_time_seconds %v\nnode_time_seconds %v\n",
		k.busy, now.Sub(k.boot).Seconds()-k.busy, 25276510208/2, float64(k.boot.UnixMilli())/1000, float64(now.UnixMilli())/1000)
}

func (x *exporters) answer(conn net.Conn, fault, text string) {
	defer conn.Close()
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	switch fault {
	case "slow": // it drips
		for {
			if _, err := io.WriteString(conn, "HTTP"); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	case "rubbish":
		text = "<html>It works!</html>\n"
	case "too much":
		text = strings.Repeat("go_threads 9\n", 400_000)
	}
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"+text)
}

// metered is scaled of machines that have exporters.
func metered(low, high int) weir.Pool {
	p := scaled(low, high)
	p.Exporter = &weir.Exporter{Port: 9100}
	return p
}

func TestPoolFollowsWhatExportersTell(t *testing.T) {
	inMeteredLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control, x *exporters, logged func() string) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, metered(2, 8)))(t)
		size := func() int { return must(c.AutoscalePool(ctx, p.ID))(t).Count }
		x.set(func() { x.work = 1.2 })
		time.Sleep(20 * time.Minute)
		if size() != 2 {
			t.Errorf("%d machines under what two should bear", size())
		}
		x.set(func() { x.work = 3 }) // of which its cloud sees nothing
		time.Sleep(6 * time.Minute)
		if n := size(); n < 5 || n > 7 {
			t.Errorf("%d machines six minutes later, want 5 or a few more", n)
		}
		r := must(c.PoolReport(ctx, "web"))(t)
		if r.Load.CPU == nil || math.Abs(*r.Load.CPU-3/float64(size())) > 0.02 || r.Load.Memory == nil || math.Abs(*r.Load.Memory-0.5) > 0.01 || r.Load.Unknown != "" {
			t.Errorf("it reports %+v, want a CPU of 3/%d and half of the memory", r.Load, size())
		}
		first := must(c.PoolMembers(ctx, p.ID))(t)[0].ID
		for figure, want := range map[weir.Figure]float64{"memory_total": 25276510208, "memory_available": 25276510208 / 2, "filesystem_size": 25 << 30} {
			all := must(c.MachineFigure(ctx, first, figure, time.Now().Add(-10*time.Minute), time.Now()))(t)
			if len(all) != 1 || len(all[0].Points) < 5 || math.Abs(all[0].Points[3].Value/want-1) > 0.01 {
				t.Errorf("%s of a machine is %+v, want %v", figure, all, want)
			}
		}
		x.set(func() { x.work = 0.3 })
		time.Sleep(25 * time.Minute)
		if size() != 2 {
			t.Errorf("%d machines at last, want the minimum", size())
		}
		if strings.Contains(logged(), "exporters") {
			t.Errorf("it logs\n%s, want nothing of exporters: all were heard", logged())
		}
	})
}

func TestPoolDoesNotShrinkWhileAnExporterIsNotHeard(t *testing.T) {
	for fault, why := range map[string]string{"refused": "connection refused", "slow": "no answer in time", "too much": "it answers more than 4 MiB", "rubbish": "it does not tell node_cpu_seconds_total"} {
		t.Run(fault, func(t *testing.T) {
			inMeteredLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control, x *exporters, logged func() string) {
				ctx := t.Context()
				p := must(c.CreateAutoscalePool(ctx, metered(1, 9)))(t)
				must(c.Grow(ctx, "web", 4))(t)
				size := func() int { return must(c.AutoscalePool(ctx, p.ID))(t).Count }
				time.Sleep(time.Minute)
				third := must(c.PoolMembers(ctx, p.ID))(t)[2]
				x.set(func() { x.fault[third.ID] = fault })
				time.Sleep(20 * time.Minute)
				if size() != 5 {
					t.Errorf("%d machines after 20 minutes in which one was not heard, want still 5", size())
				}
				r := must(c.PoolReport(ctx, "web"))(t)
				if want := fmt.Sprintf("CPU and memory unknown of 1 of 5 machines: web-3's exporter at %s:9100: %s", third.Status.Private, why); r.Load.Unknown != want {
					t.Errorf("it says %q, want %q", r.Load.Unknown, want)
				}
				if r.Verdict == nil || r.Verdict.Next != nil && r.Verdict.Next.Size < 5 {
					t.Errorf("the verdict is %+v, want none that it will shrink", r.Verdict)
				}
				x.set(func() { x.work = 3.6 })
				time.Sleep(4 * time.Minute)
				if size() < 6 {
					t.Errorf("%d machines under a load for six, want that those which are heard let it grow", size())
				}
				x.set(func() { x.work, x.fault[third.ID] = 0, "" })
				time.Sleep(30 * time.Minute)
				if size() != 1 {
					t.Errorf("%d machines half an hour after it is heard again, want 1", size())
				}
				if begun, ended := strings.Count(logged(), "exporters not heard"), strings.Count(logged(), "exporters heard again"); begun != 1 || ended != 1 {
					t.Errorf("it logs\n%s\nwant one line when it begins and one when it ends", logged())
				}
			})
		})
	}
}

func TestPoolKnowsNothingWhenMostExportersAreNotHeard(t *testing.T) {
	inMeteredLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control, x *exporters, _ func() string) {
		ctx := t.Context()
		want := metered(1, 9)
		want.Exporter.Port = 9101 // where nobody is
		p := must(c.CreateAutoscalePool(ctx, want))(t)
		must(c.Grow(ctx, "web", 3))(t)
		time.Sleep(time.Hour)
		r := must(c.PoolReport(ctx, "web"))(t)
		if r.Pool.Count != 4 || r.Load.CPU != nil || !strings.HasPrefix(r.Load.Unknown, "CPU and memory unknown of 4 of 4 machines: web-1's exporter at ") {
			t.Errorf("%d machines, and %+v, want 4 of which nothing is known", r.Pool.Count, r.Load)
		}
		// What its cloud tells counts as soon as it has no exporters any more.
		want.Exporter = nil
		must(c.UpdateAutoscalePool(ctx, p.ID, want))(t)
		time.Sleep(10 * time.Minute)
		if r := must(c.PoolReport(ctx, "web"))(t); r.Pool.Count != 1 || r.Load.CPU == nil || r.Load.Unknown != "" {
			t.Errorf("without exporters %d machines, and %+v, want 1 by what its cloud tells", r.Pool.Count, r.Load)
		}
	})
}

func TestExportersThatDoNotAnswerKeepNobodyElseWaiting(t *testing.T) {
	inMeteredLab(t, cloud.FakeOptions{Machines: 2000}, func(t *testing.T, c *Control, x *exporters, _ func() string) {
		ctx := t.Context()
		bad := metered(1, 1000)
		bad.Scale, bad.Count, bad.Name = nil, 700, "bad" // of which more than are asked in one round
		p := must(c.CreateAutoscalePool(ctx, bad))(t)
		x.set(func() {
			for _, m := range must(c.PoolMembers(ctx, p.ID))(t) {
				x.fault[m.ID] = "slow"
			}
		})
		must(c.CreateAutoscalePool(ctx, metered(3, 9)))(t)
		time.Sleep(2 * time.Minute)
		for range 12 {
			time.Sleep(7 * time.Second)
			if r := must(c.PoolReport(ctx, "web"))(t); r.Load.CPU == nil || r.Load.Unknown != "" {
				t.Fatalf("beside hundreds that do not answer it says %+v, want its CPU", r.Load)
			}
		}
		x.set(func() {
			least, most := math.MaxInt, 0
			for id := range x.fault {
				least, most = min(least, x.asked[id]), max(most, x.asked[id])
			}
			if most > 2*least {
				t.Errorf("those that do not answer were asked %d to %d times, want each in its turn", least, most)
			}
		})
	})
}

func TestMachineInThePlaceOfAnotherIsMeasuredByItself(t *testing.T) {
	inMeteredLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control, x *exporters, _ func() string) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, metered(2, 4)))(t)
		x.set(func() { x.work = 0.8 })
		time.Sleep(10 * time.Minute)
		was := must(c.PoolMembers(ctx, p.ID))(t)[0]
		if c.Cloud.(*cloud.Fake).Kill(was.ID); must(c.Machine(ctx, was.ID))(t).Pool != p.ID {
			t.Fatal("a machine that died is in no pool any more")
		}
		x.restart(was.ID) // it is powered on again
		time.Sleep(5 * time.Minute)
		if r := must(c.PoolReport(ctx, "web"))(t); r.Load.CPU == nil || math.Abs(*r.Load.CPU-0.4) > 0.02 {
			t.Errorf("after the restart of a machine it says %+v, want 0.4 of each CPU", r.Load)
		}
		if err := c.DeleteMachine(ctx, was.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		must(c.Grow(ctx, "web", 1))(t)
		time.Sleep(5 * time.Minute)
		all := must(c.PoolMembers(ctx, p.ID))(t)
		if !slices.ContainsFunc(all, func(m weir.Member) bool { return m.ID != was.ID && m.Status.Private == was.Status.Private }) {
			t.Fatalf("%+v, want a machine that has the address of the one which is gone", all)
		}
		r := must(c.PoolReport(ctx, "web"))(t)
		if r.Load.CPU == nil || math.Abs(*r.Load.CPU*float64(r.Load.Serving)-0.8) > 0.02 || r.Load.Unknown != "" {
			t.Errorf("it says %+v, want 0.8 of a CPU in all", r.Load)
		}
		c.figures.mu.Lock()
		defer c.figures.mu.Unlock()
		if c.figures.told[was.ID] != nil || len(c.figures.told) != len(all) {
			t.Errorf("%d machines are remembered, want the %d that there are", len(c.figures.told), len(all))
		}
	})
}

func TestRestartOfAMachineIsSeenByHowLongItHasRun(t *testing.T) {
	f := newFigures()
	at := noon
	r := exporter.Reading{Up: time.Hour, CPUs: 2, User: 1000 * time.Second, System: 100 * time.Second, Memory: exporter.Memory{Total: 1000, Available: 250}}
	step := func(after, user, system time.Duration) float64 {
		at = at.Add(after)
		r.Taken, r.Up, r.User, r.System = at, r.Up+after, r.User+user, r.System+system
		f.tell("7", r, nil, at)
		return f.told["7"].busy
	}
	if busy := step(0, 0, 0); !math.IsNaN(busy) {
		t.Errorf("asked once it is busy by %v, want that it is not known", busy)
	}
	const s = time.Second
	for i := range 8 {
		// Its clock is corrected now and then, so that it says another time of its boot; its exporter begins anew, and says the same.
		r.Up += []time.Duration{0, 400 * time.Millisecond, -400 * time.Millisecond, 3 * s}[i%4]
		if busy := step(15*s, 12*s, 6*s); math.Abs(busy-0.6) > 1e-9 {
			t.Errorf("it is busy by %v, want 0.6", busy)
		}
	}
	since := f.told["7"].last.Since

	// It was started 10 s ago, and has been busy since.
	r.Up, r.User, r.System = 0, 0, 0
	at = at.Add(20 * s)
	if busy := step(10*s, 4*s, 1*s); math.Abs(busy-0.25) > 1e-9 || !f.told["7"].last.Since.After(since) {
		t.Errorf("after its start it is busy by %v, want 0.25", busy)
	}
	// It was started when it had hardly run, so that it has counted more than before.
	r.Up, r.User, r.System = 0, 0, 0
	at = at.Add(2 * s)
	if busy := step(20*s, 5*s, 5*s); math.Abs(busy-0.25) > 1e-9 {
		t.Errorf("after another start it is busy by %v, want 0.25", busy)
	}
	if busy := step(15*s, 3*s, 0); math.Abs(busy-0.1) > 1e-9 {
		t.Errorf("then it is busy by %v, want 0.1", busy)
	}
	total := f.told["7"].window.Total(ofUser)
	if want := (1000 + 8*12 + 4 + 5 + 3); math.Abs(total-float64(want)) > 1e-6 {
		t.Errorf("%v s of its programs in all, want %d: what counted before counts on", total, want)
	}

	// A CPU is taken out, with what it has counted.
	r.CPUs, r.User = 1, 2*s
	if busy := step(15*s, 0, 0); !math.IsNaN(busy) {
		t.Errorf("with a CPU less it is busy by %v, want that it is not known", busy)
	}
	if busy := step(15*s, 3*s, 0); math.Abs(busy-0.2) > 1e-9 {
		t.Errorf("then it is busy by %v, want 0.2 of one CPU", busy)
	}
	if got := f.told["7"].window.Total(ofUser); math.Abs(got-total-3) > 1e-6 {
		t.Errorf("%v s of its programs in all, want %v", got, total+3)
	}
}

func TestExporterIsOpenToTheControlPlaneAlone(t *testing.T) {
	inMeteredLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control, x *exporters, _ func() string) {
		ctx := t.Context()
		wall := func() string {
			time.Sleep(time.Minute)
			var said []string
			for _, m := range must(c.Cloud.Machines(ctx))(t) {
				if strings.HasPrefix(m.Name, "web-") && !strings.Contains(m.Name, "lb") {
					said = append(said, wallOf(m.Firewall))
				}
			}
			return strings.Join(slices.Compact(said), "; ")
		}
		want := metered(2, 2)
		p := must(c.CreateAutoscalePool(ctx, want))(t)
		if got, want := wall(), "icmp from 0.0.0.0/0 ::/0, tcp 1-9099 from 0.0.0.0/0 ::/0, udp 1-65535 from 0.0.0.0/0 ::/0, tcp 9100 from 10.0.0.1/32, tcp 9101-65535 from 0.0.0.0/0 ::/0"; got != want {
			t.Errorf("without a load balancer its machines are open to\n\t%s, want\n\t%s", got, want)
		}
		fw := must(c.CreateFirewall(ctx, weir.CloudFirewall{Name: "ssh", Tags: []string{"web"},
			Inbound: []weir.FirewallRule{{Transport: weir.OverTCP, Ports: weir.Ports{First: 22}, Peers: weir.Peers{Addresses: []string{"192.0.2.0/24"}}}}}))(t)
		if got, want := wall(), "tcp 22 from 192.0.2.0/24, tcp 9100 from 10.0.0.1/32"; got != want {
			t.Errorf("with a user's firewall they are open to %s, want %s", got, want)
		}
		if fw := must(c.Firewall(ctx, fw.ID))(t); fw.Status.Phase != weir.FirewallSucceeded {
			t.Errorf("the firewall is %+v, want that it has succeeded", fw.Status)
		}
		if err := c.DeleteFirewall(ctx, fw.ID); err != nil {
			t.Fatal(err)
		}
		lb := balancer()
		lb.Region, lb.Tag = "lab", "web"
		lb = must(c.CreateLoadBalancer(ctx, lb))(t)
		if got := wall(); strings.Contains(got, "0.0.0.0/0") || !strings.HasPrefix(got, "tcp 80 from ") || !strings.HasSuffix(got, ", tcp 9100 from 10.0.0.1/32") {
			t.Errorf("with a load balancer they are open to %s, want that at port 80, and the control plane at 9100", got)
		}
		want.Exporter = &weir.Exporter{Port: 80, Path: "/stats"}
		must(c.UpdateAutoscalePool(ctx, p.ID, want))(t)
		if got := wall(); strings.Contains(got, "9100") || !strings.Contains(got, "tcp 80 from 10.0.0.1/32 ") {
			t.Errorf("with another port they are open to %s, want none for 9100", got)
		}
		if err := c.DeleteLoadBalancer(ctx, lb.ID); err != nil {
			t.Fatal(err)
		}
		if err := c.DeleteAutoscalePool(ctx, p.ID, false); err != nil {
			t.Fatal(err)
		}
		if got := wall(); got != "all" {
			t.Errorf("machines that are in no pool any more are open to %s, want all", got)
		}
	})
}

// wallOf puts what a firewall lets in in words.
func wallOf(w *weir.Firewall) string {
	if w == nil {
		return "all"
	}
	var said []string
	for _, o := range w.Openings {
		words := "tcp"
		switch {
		case o.ICMP:
			words = "icmp"
		case o.UDP:
			words = "udp"
		}
		if o.Port != 0 {
			words += fmt.Sprintf(" %d", o.Port)
		}
		if o.Last != 0 {
			words += fmt.Sprintf("-%d", o.Last)
		}
		words += " from"
		for _, p := range o.Peers {
			words += " " + p.String()
		}
		said = append(said, words)
	}
	return strings.Join(said, ", ")
}

func TestExporterIsReadBackAndChangesNoMachine(t *testing.T) {
	inMeteredLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control, x *exporters, _ func() string) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, webPool(2)))(t)
		time.Sleep(time.Minute)
		with := webPool(2)
		with.Exporter = &weir.Exporter{Port: 9100, Path: "/metrics?collect[]=cpu"}
		p = must(c.UpdateAutoscalePool(ctx, p.ID, with))(t)
		time.Sleep(5 * time.Minute)
		if !reflect.DeepEqual(p.Exporter, with.Exporter) {
			t.Errorf("its exporter is %v, want %v", p.Exporter, with.Exporter)
		}
		alike(t, "machines", namesOf(t, c, p.ID), "web-1", "web-2")
		if r := must(c.PoolReport(ctx, "web"))(t); r.Load.Memory == nil || math.Abs(*r.Load.Memory-0.5) > 0.01 {
			t.Errorf("a pool of a fixed size bears %+v, want half of the memory", r.Load)
		}
	})
}
