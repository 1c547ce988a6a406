package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netns"

	"weir/weir"
)

// weirCloud is Weir in a region of its own, as weir dev runs one: a cloud that leads a reserved
// IP to the active instance. It brings its own balancers, servers and network; the client asks
// the reserved IP from the region's gateway.
type weirCloud struct {
	dir     string
	cmd     *exec.Cmd
	addr    netip.Addr
	gateway string

	mu     sync.Mutex
	joined []time.Duration // from each fault until another instance stood by
}

func newWeirCloud() *weirCloud { return &weirCloud{} }

func (*weirCloud) String() string { return "weir" }

func (*weirCloud) missing() string {
	if _, err := exec.LookPath("runc"); err != nil {
		return "runc is not installed"
	}
	if _, err := os.Stat(weirBinary()); err != nil {
		return "bin/weir is not built (make build)"
	}
	return ""
}

// weirBinary is the weir that is measured.
func weirBinary() string {
	if named := os.Getenv("WEIR_BINARY"); named != "" {
		return named
	}
	return "bin/weir"
}

// period is between two looks of the control plane at an address. Instances look at each
// other far more often.
func (*weirCloud) period() time.Duration { return time.Second }

const (
	weirAPI   = "127.0.0.1:7070"
	weirFront = "127.0.0.1:8080"
)

func (w *weirCloud) up(ctx context.Context, l *lab) (err error) {
	if w.dir, err = os.MkdirTemp("", "weir-bench-"); err != nil {
		return err
	}
	w.cmd = exec.Command(weirBinary(), "dev", "--data", filepath.Join(w.dir, "data"), "--api", weirAPI, "--front", weirFront)
	w.cmd.Env = append(os.Environ(), "WEIR_RUN_DIR="+filepath.Join(w.dir, "run"))
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(w.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	w.cmd.Stdout, w.cmd.Stderr = log, log
	runtime.LockOSThread() // Pdeathsig is sent when the thread ends
	if err := w.cmd.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err = w.ready(ctx); err == nil {
			break
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("weir dev is not up: %w\n%s", err, said)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	names, err := filepath.Glob("/run/netns/weir-*-gw")
	if err != nil || len(names) != 1 {
		return fmt.Errorf("the region's gateway: %v, %w", names, err)
	}
	w.gateway = names[0]
	l.services = []dial{w.dial}
	return nil
}

// dial connects from the region's gateway to the reserved IP.
func (w *weirCloud) dial(ctx context.Context, d *net.Dialer) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		var ns netns.NsHandle
		if ns, err = netns.GetFromPath(w.gateway); err != nil {
			return
		}
		defer ns.Close()
		if err = netns.Set(ns); err != nil {
			return
		}
		conn, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(w.addr, 80).String())
	}()
	<-done
	return conn, err
}

// verb runs a verb of weir's and returns what it printed.
func (w *weirCloud) verb(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, weirBinary(), args...)
	cmd.Env = append(os.Environ(), "WEIR_RUN_DIR="+filepath.Join(w.dir, "run"))
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("weir %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// look returns the load balancer and the names of its instances, the active one first.
func (w *weirCloud) look(ctx context.Context) (lb weir.LoadBalancerOverview, names []string, err error) {
	out, err := w.verb(ctx, "status", "-o", "json")
	if err != nil {
		return lb, nil, err
	}
	var s weir.RegionStatus
	if err := json.Unmarshal(out, &s); err != nil {
		return lb, nil, err
	}
	if len(s.LoadBalancers) != 1 {
		return lb, nil, fmt.Errorf("%d load balancers", len(s.LoadBalancers))
	}
	lb = s.LoadBalancers[0]
	w.addr = lb.Address
	for _, in := range lb.Instances {
		if in.Health.State != weir.InstanceWell || in.Node.Revision != in.Wants {
			return lb, nil, fmt.Errorf("instance %s is %s", in.Machine, in.Health.State)
		}
		for _, m := range s.Machines {
			switch {
			case m.ID != in.Machine:
			case in.Active:
				names = append([]string{m.Name}, names...)
			default:
				names = append(names, m.Name)
			}
		}
	}
	if len(names) != 2 || lb.Phase != weir.LoadBalancerActive {
		return lb, names, fmt.Errorf("%d instances, %s", len(names), lb.Phase)
	}
	for _, m := range s.Machines {
		if m.LoadBalancer == "" && !s.Up(m.ID) {
			return lb, names, fmt.Errorf("server %s is not up", m.Name)
		}
	}
	return lb, names, nil
}

func (w *weirCloud) ready(ctx context.Context) (active int, err error) {
	_, _, err = w.look(ctx)
	return 0, err
}

func (w *weirCloud) handOver(ctx context.Context, _ int) error {
	_, err := w.verb(ctx, "lb", "failover")
	return err
}

// cause makes a fault on the active instance, which is none of the lab's, and returns when.
func (w *weirCloud) cause(ctx context.Context, f fault) (at time.Time, err error) {
	lb, names, err := w.look(ctx)
	if err != nil {
		return at, err
	}
	at = time.Now()
	switch f {
	case dies:
		_, err = w.verb(ctx, "machine", "kill", names[0])
	case cut:
		_, err = w.verb(ctx, "machine", "partition", names[0])
	case killed:
		for _, in := range lb.Instances {
			if in.Active {
				err = exec.CommandContext(ctx, "runc", "--root", filepath.Join(w.dir, "data/cloud/runc"), "exec", string(in.Machine), "pkill", "-9", "haproxy").Run()
			}
		}
	case planned:
		err = w.handOver(ctx, 0)
	}
	if err == nil && (f == dies || f == cut) {
		w.await(ctx, at)
	}
	return at, err
}

// moves counts what the control plane decided.
func (w *weirCloud) moves(ctx context.Context) (n int64, err error) {
	out, err := w.verb(ctx, "events", "-n", "1000", "-o", "json")
	if err != nil {
		return 0, err
	}
	var all []weir.Event
	if err := json.Unmarshal(out, &all); err != nil {
		return 0, err
	}
	for _, e := range all {
		if e.Kind == weir.EventDecision && strings.HasPrefix(e.Text, "moves the address") {
			n++
		}
	}
	return n, nil
}

// await notes when there are two instances again.
func (w *weirCloud) await(ctx context.Context, since time.Time) {
	for pause(ctx, 20*time.Millisecond) == nil && time.Since(since) < time.Minute {
		if _, _, err := w.look(ctx); err == nil && time.Since(since) > 200*time.Millisecond {
			w.mu.Lock()
			w.joined = append(w.joined, time.Since(since))
			w.mu.Unlock()
			return
		}
	}
}

// heal has nothing to do: what broke is replaced.
func (w *weirCloud) heal(context.Context, fault, int) error { return nil }

func (w *weirCloud) down() {
	if w.cmd != nil && w.cmd.Process != nil {
		w.cmd.Process.Signal(syscall.SIGTERM)
		w.cmd.Wait()
		w.cmd = nil
	}
	os.RemoveAll(w.dir)
}

// said prints what there is to say beside the tables.
func (w *weirCloud) said(out io.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.joined) == 0 {
		return
	}
	var values []float64
	for _, d := range w.joined {
		values = append(values, d.Seconds())
	}
	fmt.Fprintf(out, "\nWeir: another instance stood by, and all was as before, %.1f s after the fault (median of %d).\n", median(values), len(values))
}
