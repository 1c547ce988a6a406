package main_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/vip"
	"weir/weir"
)

// ownAddress is the address of the load balancer.
const ownAddress = "192.0.2.10"

// The hosts of a site, by the last number of their addresses.
var (
	ownControls = []int{11, 12, 13}
	ownServers  = []int{21, 22}
	ownNodes    = []int{31, 32}
)

// ownClient is on the segment and no part of the load balancer.
const ownClient = 99

// site is a load balancer on machines of one's own, which serves a client.
type site struct {
	*segment
	running   map[int]*process // the weir serve or weir node of each host, until it is ended on purpose
	stalled   int              // a member that does not answer, but runs
	authority string           // that the members share
}

// link sets the segment's end of a host's cable up or down, which the host sees.
func (s *site) link(n int, state string) {
	s.t.Helper()
	s.bridge("ip", "link", "set", fmt.Sprintf("port%d", n), state)
}

// cut has the segment lose all that a host sends and is sent, which nobody is told.
func (s *site) cut(n int)  { s.port(n, "disabled") }
func (s *site) heal(n int) { s.port(n, "forwarding") }

func (s *site) port(n int, state string) {
	s.t.Helper()
	s.bridge("bridge", "link", "set", "dev", fmt.Sprintf("port%d", n), "state", map[string]string{"disabled": "0", "forwarding": "3"}[state])
}

// bridge runs a command where the hosts' cables meet.
func (s *site) bridge(command ...string) {
	s.t.Helper()
	if out, err := exec.Command("ip", append([]string{"netns", "exec", s.namespace}, command...)...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
}

// off is a node's loss of power, and on its return.
func (s *site) off(n int) {
	s.t.Helper()
	s.link(n, "down")
	s.end(n)
}

func (s *site) on(n int) {
	s.t.Helper()
	s.link(n, "up")
	s.startNode(n)
}

// end ends all that runs on a host.
func (s *site) end(n int) {
	s.hosts[n].crash()
	delete(s.running, n)
}

// holds reports whether a node has the load balancer's address.
func (s *site) holds(n int) bool {
	s.t.Helper()
	out, err := s.hosts[n].command("ip", "-4", "-o", "addr", "show", "dev", "eth0").CombinedOutput()
	if err != nil {
		s.t.Fatalf("addresses of %d: %v\n%s", n, err, out)
	}
	return strings.Contains(string(out), " "+ownAddress+"/")
}

// within waits until amiss has nothing to say.
func (s *site) within(d time.Duration, amiss func() string) {
	s.t.Helper()
	for deadline := time.Now().Add(d); ; time.Sleep(50 * time.Millisecond) {
		why := amiss()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("after %v: %s\n%s", d, why, s.story())
		}
	}
}

// story tells what happened, for a failure.
func (s *site) story() string {
	var b strings.Builder
	if c := s.member(); c != nil {
		for _, verb := range []string{"status", "events"} {
			out, errs, _ := c.weir(verb)
			fmt.Fprintf(&b, "weir %s:\n%s%s\n", verb, out, errs)
		}
	}
	for n, p := range s.running {
		lines := strings.Split(strings.TrimSpace(p.out.String()), "\n")
		fmt.Fprintf(&b, "%d says:\n%s\n", n, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
	return b.String()
}

// member returns a host on which a member of the control plane runs, or nil.
func (s *site) member() *host {
	for _, n := range ownControls {
		if s.running[n] != nil && n != s.stalled {
			return s.hosts[n]
		}
	}
	return nil
}

func (s *site) startControl(numbers ...int) {
	s.t.Helper()
	for _, n := range numbers {
		h := s.hosts[n]
		s.running[n] = h.start("serve", "--data", filepath.Join(h.dir, "serve"), "--pki", s.authority, "--cluster", "192.0.2.11,192.0.2.12,192.0.2.13", "--listen", ":7070")
	}
}

func (s *site) startNode(n int) {
	s.t.Helper()
	h := s.hosts[n]
	s.running[n] = h.start("node", "--join", "https://192.0.2.11:7071,https://192.0.2.12:7071,https://192.0.2.13:7071",
		"--token", filepath.Join(h.dir, "token"), "--data", filepath.Join(h.dir, "node"))
}

// ownPair is the load balancer with its two nodes; 0 stands for none.
type ownPair struct {
	active, standby int
	status          weir.RegionStatus
}

// read returns the pair as it is, or why that cannot be told.
func (s *site) read() (p ownPair, why string) {
	out, errs, err := s.member().weir("status", "-o", "json")
	if err != nil {
		return p, errs
	}
	if err := json.Unmarshal([]byte(out), &p.status); err != nil {
		return p, err.Error()
	}
	if len(p.status.LoadBalancers) == 0 {
		return p, "there is no load balancer"
	}
	for _, in := range p.status.LoadBalancers[0].Instances {
		i := slices.IndexFunc(p.status.Machines, func(m weir.MachineOverview) bool { return m.ID == in.Machine })
		number := 0
		if _, err := fmt.Sscanf(p.status.Machines[i].Name, "lb-%d", &number); err != nil {
			return p, err.Error()
		}
		if in.Active {
			p.active = number
		} else if in.Health.State == weir.InstanceWell {
			p.standby = number
		}
	}
	return p, ""
}

// whole waits until the pair is as it should be: two that are well, and the address on the one that
// should have it alone.
func (s *site) whole() (p ownPair) {
	s.t.Helper()
	s.within(time.Minute, func() (why string) {
		if p, why = s.read(); why != "" {
			return why
		}
		named := pair{status: p.status.LoadBalancers[0]}
		if p.active != 0 && p.standby != 0 {
			named.active, named.standby = fmt.Sprint(p.active), fmt.Sprint(p.standby)
		}
		return cmp.Or(named.well(), s.held(p.active))
	})
	return p
}

// held returns why the address is not on that node alone, or if it is 0, why on any.
func (s *site) held(want int) string {
	holder := 0
	for _, n := range ownNodes {
		if s.holds(n) {
			if holder != 0 {
				return "both nodes have the address"
			}
			holder = n
		}
	}
	if holder != want {
		return fmt.Sprintf("node %d has the address, want %d (0 is none)", holder, want)
	}
	return ""
}

// served waits until the client is.
func (s *site) served(d time.Duration) {
	s.t.Helper()
	s.within(d, func() string {
		if answer, err := s.hosts[ownClient].get("http://" + ownAddress + "/"); err != nil {
			return fmt.Sprintf("%s, %v", answer, err)
		}
		return ""
	})
}

// serves checks that the client is served, again and again for that long.
func (s *site) serves(d time.Duration) {
	s.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if answer, err := s.hosts[ownClient].get("http://" + ownAddress + "/"); err != nil {
			s.t.Fatalf("%s, %v; want every request answered\n%s", answer, err, s.story())
		}
	}
}

// failsOver is how long it may take: an address that has moved often of late waits for a node that
// stays well, for up to 15 seconds.
const failsOver = 40 * time.Second

// failover waits until another than before is active, and its client served.
func (s *site) failover(before ownPair) {
	s.t.Helper()
	s.served(failsOver)
	s.within(failsOver, func() string {
		p, why := s.read()
		if why == "" && p.active != before.standby {
			why = fmt.Sprintf("%d is active, want %d", p.active, before.standby)
		}
		return why
	})
}

// leader returns the host of the member that leads.
func (s *site) leader(p ownPair) (n int) {
	s.t.Helper()
	for _, m := range p.status.Members {
		if m.Leads {
			fmt.Sscanf(m.Name, "192.0.2.%d", &n)
		}
	}
	if s.running[n] == nil {
		s.t.Fatalf("no member leads: %+v", p.status.Members)
	}
	return n
}

// servedBy waits until the client is, by that node, whatever the control plane says of it.
func (s *site) servedBy(n int) {
	s.t.Helper()
	s.within(failsOver, func() string { return s.held(n) })
	s.served(5 * time.Second)
}

// killHAProxy kills all processes of a node's HAProxy at once.
func (s *site) killHAProxy(n int) {
	s.t.Helper()
	out, err := s.hosts[n].command("pkill", "--signal", "KILL", "--ns", strconv.Itoa(s.running[n].cmd.Process.Pid), "--nslist", "net", "--exact", "haproxy").CombinedOutput()
	if err != nil {
		s.t.Fatalf("kill HAProxy of %d: %v\n%s", n, err, out)
	}
}

// neverRefused does something while the client connects again and again: it may wait, or lose what is
// under way, and is never refused.
func (s *site) neverRefused(do func()) {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	asked, refused := 0, 0
	wg.Go(func() {
		for ctx.Err() == nil {
			asked++
			err := s.hosts[ownClient].command("curl", "--silent", "--output", "/dev/null", "--max-time", "5", "http://"+ownAddress+"/").Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.ExitCode() == curlRefused {
				refused++
			}
		}
	})
	do()
	stop()
	wg.Wait()
	if asked < 10 || refused > 0 {
		s.t.Errorf("%d of %d connections were refused, want none, of some", refused, asked)
	}
}

// curlRefused is curl's exit status for a connection that could not be made.
const curlRefused = 7

// stallDisk has nothing that a member writes reach its disk, until thaw. It is nil if the member has
// no disk of its own.
func (s *site) stallDisk(n int) (thaw func()) {
	s.t.Helper()
	dir, pid := filepath.Join(s.hosts[n].dir, "serve", "store"), strconv.Itoa(s.running[n].cmd.Process.Pid)
	// Who freezes it thaws it, also when we die: nobody could write there ever again.
	freezer := exec.Command("nsenter", "--mount", "--target", pid, "sh", "-c",
		`mountpoint -q "$0" || exit 3; fsfreeze --freeze "$0" || exit 4; echo frozen; cat >/dev/null; fsfreeze --unfreeze "$0"`, dir)
	in, err := freezer.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := freezer.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := freezer.Start(); err != nil {
		s.t.Fatal(err)
	}
	said, _ := bufio.NewReader(out).ReadString('\n')
	s.stalled = n
	thaw = sync.OnceFunc(func() {
		s.stalled = 0
		in.Close()
		if err := freezer.Wait(); err != nil && said != "" {
			s.t.Errorf("the disk of %d does not thaw: %v", n, err)
		}
	})
	s.t.Cleanup(thaw)
	if said == "" {
		s.t.Logf("the disk of %d cannot be stalled here", n)
		return nil
	}
	return thaw
}

// ownDisk gives a host a disk of its own for the store of weir serve, if that can be had here.
func (h *host) ownDisk() {
	h.t.Helper()
	image, dir := filepath.Join(h.dir, "disk"), filepath.Join(h.dir, "serve", "store")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 512<<20), os.MkdirAll(dir, 0o700),
		os.Mkdir(filepath.Join(filepath.Dir(dir), "lost+found"), 0o700)); err != nil {
		h.t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		h.t.Logf("%s has no disk of its own: %v\n%s", h.name, err, out)
		return
	}
	h.disk = image
}

// newSite makes a site as docs/bare-metal.md tells.
func newSite(t *testing.T) *site {
	s := &site{newSegment(t, slices.Concat(ownControls, ownServers, ownNodes, []int{ownClient})...), map[int]*process{}, 0, filepath.Join(t.TempDir(), "pki")}
	for _, n := range ownServers {
		s.hosts[n].serveHTTP()
	}
	first := s.hosts[ownControls[0]]
	first.must("pki", "create", "--pki", s.authority)
	for _, n := range ownControls {
		s.hosts[n].ownDisk()
	}
	s.startControl(ownControls...)
	for _, n := range ownControls {
		s.running[n].says("API https://")
	}
	for _, n := range ownNodes {
		s.hosts[n].write("token", first.must("node", "token", fmt.Sprintf("lb-%d", n)))
		s.startNode(n)
	}
	first.must("apply", "-f", first.write("weir.yaml", `name: web
servers: [192.0.2.21, 192.0.2.22]
load_balancer:
  address: `+ownAddress+`/24
  health_check: {check_interval_seconds: 3, response_timeout_seconds: 3, unhealthy_threshold: 2, healthy_threshold: 2}
`))
	s.whole()
	return s
}

// What breaks is repaired before the next thing breaks.
func TestMachinesOfOnesOwnServeWhateverBreaks(t *testing.T) {
	s := newSite(t)
	bound := vip.Bound(vip.DefaultLife)
	stays := func(before ownPair) {
		t.Helper()
		after := s.whole()
		if after.active == before.active {
			return
		}
		// A machine that is busy with other tests may leave HAProxy without an answer for long
		// enough, and that is a reason to move.
		f := after.status.LoadBalancers[0].Failover
		if f == nil || !strings.HasSuffix(f.Why, "its HAProxy does not answer") {
			t.Errorf("%d is active, want %d still: %+v", after.active, before.active, f)
		}
	}

	t.Log("the active node loses power")
	before := s.whole()
	s.off(before.active)
	s.failover(before)
	if events, want := s.member().must("events"), fmt.Sprintf("moves the address from lb-%d to lb-%d", before.active, before.standby); !strings.Contains(events, want) {
		t.Errorf("the events do not say that it %s:\n%s", want, events)
	}
	s.on(before.active)
	stays(ownPair{active: before.standby})

	t.Log("the active node's link is cut silently, both ways")
	before = s.whole()
	s.cut(before.active)
	s.failover(before)
	s.within(bound, func() string { return s.held(before.standby) })
	s.heal(before.active)
	s.within(bound, func() string { return s.held(before.standby) })
	stays(ownPair{active: before.standby})

	t.Log("a user hands over, to and fro")
	before = s.whole()
	for range 2 {
		s.within(20*time.Second, func() string { // a machine that is busy beyond measure can look unwell for a moment
			if _, errs, err := s.member().weir("lb", "failover", "web"); err != nil {
				return errs
			}
			return ""
		})
		s.served(5 * time.Second)
		s.whole()
	}
	stays(before)

	t.Log("the member of the control plane that leads dies, then the active node")
	before = s.whole()
	leader := s.leader(before)
	s.end(leader)
	s.serves(2 * time.Second)
	for _, n := range ownControls {
		if n != leader {
			s.within(20*time.Second, func() string {
				if _, errs, err := s.hosts[n].weir("lb", "show", "web"); err != nil {
					return fmt.Sprintf("%d: %s", n, errs)
				}
				return ""
			})
		}
	}
	s.off(before.active)
	s.failover(before)
	s.on(before.active)
	s.startControl(leader)
	s.running[leader].says("API https://")
	s.whole()

	t.Log("the active node loses power, and the member that leads dies in the middle of the failover")
	for _, after := range []time.Duration{0, 90 * time.Millisecond} {
		before = s.whole()
		leader = s.leader(before)
		s.off(before.active)
		time.Sleep(after) // the decision takes about a tenth of a second
		s.end(leader)
		s.failover(before)
		s.on(before.active)
		s.startControl(leader)
		s.running[leader].says("API https://")
	}
	s.whole()

	t.Log("the disk of the member that leads stalls, then the active node loses power")
	before = s.whole()
	leader = s.leader(before)
	if thaw := s.stallDisk(leader); thaw != nil {
		s.serves(2 * time.Second)
		s.off(before.active)
		s.servedBy(before.standby)
		thaw()
		s.failover(before)
		s.on(before.active)
		s.whole()
	}

	t.Log("HAProxy is killed: who connects meanwhile waits")
	before = s.whole()
	s.neverRefused(func() {
		for range 3 {
			s.killHAProxy(before.active)
			time.Sleep(500 * time.Millisecond)
		}
	})
	stays(before)

	t.Log("two of three members die, then the active node")
	before = s.whole()
	s.end(ownControls[1])
	s.end(ownControls[2])
	s.serves(2 * bound) // for longer than a permission of before lasts
	s.off(before.active)
	time.Sleep(bound)
	if why := s.held(0); why != "" {
		t.Errorf("%s: nobody can have decided that", why)
	}
	s.startControl(ownControls[1])
	s.failover(before)
	s.on(before.active)
	s.startControl(ownControls[2])
	s.whole()

	t.Log("all members die, and the agents start again")
	before = s.whole()
	for _, n := range ownControls {
		s.end(n)
	}
	s.serves(2 * bound)
	for _, n := range ownNodes {
		s.running[n].stop(syscall.SIGKILL)
		s.startNode(n)
		s.serves(bound)
	}
	s.startControl(ownControls...)
	s.serves(bound)
	stays(before)

	t.Log("the active node's agent dies, and starts again")
	before = s.whole()
	s.running[before.active].stop(syscall.SIGKILL)
	s.serves(500 * time.Millisecond)
	s.startNode(before.active)
	s.serves(bound)
	stays(before)
}
