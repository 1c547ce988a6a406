package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/weir"
)

// status is what weir status says.
func (r *region) status() (s weir.RegionStatus) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.must("status", "-o", "json")), &s); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// pair is the load balancer of a region with two instances.
type pair struct {
	active, standby string // names
	status          weir.LoadBalancerOverview
	machines        map[string]weir.MachineOverview
}

// pair returns the load balancer as it is now; an instance that is not there has no name.
func (r *region) pair() pair {
	r.t.Helper()
	s := r.status()
	return pairOf(s, s.LoadBalancers[0])
}

// pairOf returns one load balancer of a region's.
func pairOf(s weir.RegionStatus, lb weir.LoadBalancerOverview) (p pair) {
	p.status, p.machines = lb, map[string]weir.MachineOverview{}
	names := map[weir.ID]string{}
	for _, m := range s.Machines {
		p.machines[m.Name] = m
		names[m.ID] = m.Name
	}
	for _, in := range p.status.Instances {
		if in.Active {
			p.active = names[in.Machine]
		} else if in.Health.State == weir.InstanceWell {
			p.standby = names[in.Machine]
		}
	}
	return p
}

// well returns why the pair is not as it should be.
func (p *pair) well() string {
	if p.active == "" || p.standby == "" || len(p.status.Instances) != weir.MinInstances || p.status.Phase != weir.LoadBalancerActive {
		return fmt.Sprintf("active %q, standby %q, %d instances, %s", p.active, p.standby, len(p.status.Instances), p.status.Phase)
	}
	for _, in := range p.status.Instances {
		if in.Health.State != weir.InstanceWell || in.Node.Revision != in.Wants {
			return fmt.Sprintf("instance %s is %s, at revision %d of %d", in.Machine, in.Health.State, in.Node.Revision, in.Wants)
		}
		for _, peer := range in.Node.Peers {
			for _, path := range peer.Paths {
				if path.State != weir.PathUp {
					return fmt.Sprintf("instance %s hears %s at %s: %s", in.Machine, peer.Node, path.Addr, path.State)
				}
			}
		}
	}
	return ""
}

// youngest returns how long the instance has been well that has been so for the shortest time.
func (p *pair) youngest() time.Duration {
	least := time.Hour
	for _, in := range p.status.Instances {
		least = min(least, time.Since(in.Health.Since))
	}
	return least
}

// whole waits until the pair is as it should be.
func (r *region) whole() pair {
	r.t.Helper()
	var p pair
	r.within(time.Minute, func() string { p = r.pair(); return p.well() })
	return p
}

// within waits until amiss has nothing to say.
func (r *region) within(d time.Duration, amiss func() string) {
	r.t.Helper()
	for deadline := time.Now().Add(d); ; time.Sleep(50 * time.Millisecond) {
		why := amiss()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("after %v: %s\n%s", d, why, r.must("events"))
		}
	}
}

// inside runs a command in a machine.
func (r *region) inside(p pair, name string, command ...string) string {
	r.t.Helper()
	args := append([]string{"--root", filepath.Join(r.data, "cloud", "runc"), "exec", string(p.machines[name].ID)}, command...)
	out, err := exec.Command("runc", args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s in %s: %v\n%s", strings.Join(command, " "), name, err, out)
	}
	return string(out)
}

// fault is something that breaks, and what is to come of it.
type fault struct {
	name string
	do   func(r *region, p pair)

	moves    bool // the standby takes over
	back     bool // unless what broke is back before it is missed
	replaced bool // what broke is replaced
	most     int  // how many instances may be made
	harmless bool // no request fails
}

// machine returns a fault that weir machine does to the active instance.
func (r *region) machine(verb string, flags ...string) func(*region, pair) {
	return func(r *region, p pair) { r.must(append([]string{"machine", verb, p.active}, flags...)...) }
}

func faults(r *region) []fault {
	kill := func(which string) func(*region, pair) {
		return func(r *region, p pair) { r.inside(p, p.active, "sh", "-c", which) }
	}
	// The agent and what starts it again.
	const noAgent = `kill -9 "$(cat /run/weir-node.pid)"; pkill -9 -x weir; true`
	return []fault{
		{name: "instance killed", do: r.machine("kill"), moves: true, replaced: true, most: 1},
		{name: "links down", do: r.machine("partition", "--down"), moves: true, replaced: true, most: 1},
		{name: "the link to clients down", do: r.machine("partition", "--down", "--link", "public"), moves: true, replaced: true, most: 1},
		{name: "links cut silently", do: r.machine("partition"), moves: true, replaced: true, most: 1},
		{name: "links cut silently, inward", do: r.machine("partition", "--direction", "in"), moves: true, replaced: true, most: 1},
		{name: "links cut silently, outward", do: r.machine("partition", "--direction", "out"), moves: true, replaced: true, most: 1},
		{name: "the link to clients cut silently", do: r.machine("partition", "--link", "public"), moves: true, replaced: true, most: 1},
		{name: "the link to servers cut silently", do: r.machine("partition", "--link", "private"), moves: true, replaced: true, most: 1},
		{name: "HAProxy killed", do: kill("pkill -9 haproxy")},
		{name: "HAProxy wedged", do: kill("pkill -STOP haproxy"), moves: true},
		{name: "agent killed", do: kill(noAgent), moves: true, replaced: true, most: 1, harmless: true},
		{name: "agent and HAProxy frozen", do: r.machine("freeze"), moves: true, replaced: true, most: 1},
		{name: "machine reset", do: r.machine("reboot"), moves: true, back: true, most: 1},
		{name: "the standby dies, then the active", moves: true, replaced: true, most: 2, do: func(r *region, p pair) {
			r.must("machine", "kill", p.standby)
			r.must("machine", "kill", p.active)
		}},
	}
}

// Every fault is done to a pair that serves a client, one after the other in one region.
func TestPairOutlivesWhatBreaks(t *testing.T) {
	r := newRegion(t)
	r.start()
	for _, f := range faults(r) {
		t.Run(f.name, func(t *testing.T) {
			r.t = t
			before := r.whole()
			for before.youngest() < 3*time.Second { // that has flapped, for all that is known
				time.Sleep(100 * time.Millisecond)
				before = r.whole()
			}
			stop := r.traffic()
			f.do(r, before)
			if f.back {
				time.Sleep(3 * time.Second) // by then it is one or the other
			}
			r.within(time.Minute, func() string {
				p := r.pair()
				_, there := p.machines[before.active]
				switch {
				case f.moves && !f.back && p.active == before.active || p.active == "":
					return fmt.Sprintf("%q is active, want another than %s", p.active, before.active)
				case f.replaced && there:
					return before.active + " is still there"
				}
				return p.well()
			})
			r.answers(50) // each must be answered
			_, failed := stop()
			if f.harmless && failed > 0 {
				t.Errorf("%d requests failed, want none", failed)
			}
			after := r.whole()
			if !f.moves && after.active != before.active {
				t.Errorf("%s is active, want %s still: nothing needed to move", after.active, before.active)
			}
			if made := serial(after) - serial(before); made > f.most {
				t.Errorf("%d instances were made in place of those that broke, want at most %d", made, f.most)
			}
		})
	}
	r.t = t
}

// serial returns the highest number that an instance has.
func serial(p pair) (n int) {
	for name := range p.machines {
		var i int
		if _, err := fmt.Sscanf(name, "web-lb-%d", &i); err == nil {
			n = max(n, i)
		}
	}
	return n
}

func TestHandOverLosesNoRequestAndNoConnection(t *testing.T) {
	r := newRegion(t)
	r.start()
	r.whole()
	stop := r.traffic()
	open := r.connect()
	for range 6 {
		before := r.whole()
		r.must("lb", "failover", "web")
		open.ask()
		if after := r.pair(); after.active != before.standby {
			t.Errorf("%s is active after the hand-over, want %s", after.active, before.standby)
		}
	}
	if sent, failed := stop(); failed > 0 {
		t.Errorf("%d of %d requests failed while the address moved to and fro, want none", failed, sent)
	}
	p := r.whole()
	r.must("machine", "drain", p.standby)
	if _, errs, code := r.weir("lb", "failover", "web"); code == 0 || !strings.Contains(errs, "an operator keeps it from serving") {
		t.Errorf("exit %d, %q: want the hand-over to a drained instance refused, with why", code, errs)
	}
	r.must("machine", "undrain", p.standby)
}

// connection is one of a client's, over which it asks again and again.
type connection struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// connect opens a connection to the load balancer and asks once.
func (r *region) connect() *connection {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.front)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	c := &connection{r.t, conn, bufio.NewReader(conn)}
	c.ask()
	return c
}

// ask asks over the same connection, which must live.
func (c *connection) ask() {
	c.t.Helper()
	c.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		c.t.Fatalf("a connection that was open: %v", err)
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("a connection that was open: %v", err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("over a connection that was open: %s, %v", resp.Status, err)
	}
}

func TestTrafficGoesOnWithoutTheControlPlaneAndNothingMovesWhenItIsBack(t *testing.T) {
	r := newRegion(t)
	r.start()
	before := r.whole()
	r.stop(syscall.SIGKILL)
	time.Sleep(3 * time.Second) // longer than anything holds that needs renewing
	r.answers(100)
	r.start()
	after := r.whole()
	if f := after.status.Failover; f != nil {
		t.Errorf("the address moved to %s: %s; want it to stay, since nothing broke", f.ToName, f.Why)
	}
	if got, want := serial(after), serial(before); got != want {
		t.Errorf("there is an instance %d, want none made anew", got)
	}
}

// An instance that stands still again and again, and never for long, loses the address for good: it is not
// given back and lost anew each time.
func TestFlappingInstanceDoesNotHaveTheAddressFlap(t *testing.T) {
	r := newRegion(t)
	r.start()
	before := r.whole()
	since := r.decisions()
	stop := r.traffic()
	for range 15 {
		if _, errs, code := r.weir("machine", "freeze", before.active); code != 0 {
			t.Log(errs) // it was replaced: that is one way to end it
			break
		}
		time.Sleep(700 * time.Millisecond)
		if _, _, code := r.weir("machine", "thaw", before.active); code != 0 {
			break
		}
		time.Sleep(300 * time.Millisecond)
	}
	r.whole()
	r.answers(50)
	stop()
	if moves := r.decisions() - since; moves > 3 {
		t.Errorf("the address moved %d times, want at most 3:\n%s", moves, r.must("events"))
	}
}

// decisions counts the moves of addresses that were decided.
func (r *region) decisions() int {
	r.t.Helper()
	return strings.Count(r.must("events", "-n", "1000"), "moves the address")
}
