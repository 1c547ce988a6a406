package main_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"weir/vip"
	"weir/weir"
)

// ownAddress is the address of the load balancer.
const ownAddress = "192.0.2.10"

// site is a network segment with hosts on it: machines of one's own. Each is a network namespace
// with eth0 on one bridge, directories of its own, and real processes. No route leads out.
type site struct {
	t      *testing.T
	binary string
	dir    string
	prefix string // of the namespaces' names
	hosts  map[string]*box
}

// box is one machine of a site.
type box struct {
	site  *site
	name  string // also of its port on the bridge
	ns    string
	addr  string
	dir   string
	token string       // a node's
	procs []*ownerless // that the test started
}

// ownerless is a process without systemd, which nobody starts again.
type ownerless struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func newSite(t *testing.T) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	binary, err := buildWeir()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, binary: binary, dir: t.TempDir(), prefix: "weir-test-" + strings.ToLower(rand.Text()[:6]), hosts: map[string]*box{}}
	s.do("ip", "netns", "add", s.lan())
	t.Cleanup(func() { s.do("ip", "netns", "del", s.lan()) })
	s.do("ip", "-n", s.lan(), "link", "add", "br0", "type", "bridge")
	s.do("ip", "-n", s.lan(), "link", "set", "br0", "up")
	return s
}

func (s *site) lan() string { return s.prefix + "-lan" }

// do runs a command that must do well.
func (s *site) do(command ...string) string {
	s.t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
	return string(out)
}

// host puts a machine on the segment.
func (s *site) host(name, addr string) *box {
	s.t.Helper()
	h := &box{site: s, name: name, ns: s.prefix + "-" + name, addr: addr, dir: filepath.Join(s.dir, name)}
	s.hosts[name] = h
	s.do("ip", "netns", "add", h.ns)
	s.t.Cleanup(func() {
		h.kill()
		s.do("ip", "netns", "del", h.ns)
	})
	s.do("ip", "-n", s.lan(), "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", h.ns)
	s.do("ip", "-n", s.lan(), "link", "set", name, "master", "br0", "up")
	s.do("ip", "-n", h.ns, "link", "set", "lo", "up")
	s.do("ip", "-n", h.ns, "link", "set", "eth0", "up")
	s.do("ip", "-n", h.ns, "addr", "add", addr+"/24", "dev", "eth0")
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return h
}

// unitCapabilities are those that the units of weir install leave to each service.
var unitCapabilities = map[string]string{
	"serve": "-all",
	"node":  "-all,+net_admin,+net_raw,+net_bind_service,+setuid,+setgid,+kill",
}

// start starts a verb of weir on h, with no more privileges than its unit gives it, that goes
// on until it is killed.
func (h *box) start(args ...string) *ownerless {
	h.site.t.Helper()
	log, err := os.OpenFile(filepath.Join(h.dir, args[0]+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.site.t.Fatal(err)
	}
	defer log.Close()
	p := &ownerless{h.command("setpriv", append([]string{"--no-new-privs", "--bounding-set", unitCapabilities[args[0]], h.site.binary}, args...)...), make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		h.site.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.cmd.Wait()
	}()
	h.procs = append(h.procs, p)
	return p
}

// command returns a command on h. It becomes the program itself: its pid is that one's.
func (h *box) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.ns, name}, args...)...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "WEIR_") }),
		"WEIR_RUN_DIR="+filepath.Join(h.dir, "run"))
	return cmd
}

// weir runs a verb on h and returns what it printed.
func (h *box) weir(args ...string) (stdout, stderr string, code int) {
	cmd := h.command(h.site.binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs a verb that must do well, and returns its standard output.
func (h *box) must(args ...string) string {
	h.site.t.Helper()
	out, errs, code := h.weir(args...)
	if code != 0 {
		h.site.t.Fatalf("on %s: weir %s: exit %d\n%s%s", h.name, strings.Join(args, " "), code, out, errs)
	}
	return out
}

// kill ends all that runs on h, as the loss of power does.
func (h *box) kill() {
	for again := true; again; time.Sleep(10 * time.Millisecond) {
		again = false
		out, _ := exec.Command("ip", "netns", "pids", h.ns).Output()
		for _, word := range strings.Fields(string(out)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 1 && pid != os.Getpid() {
				syscall.Kill(pid, syscall.SIGKILL)
				again = true
			}
		}
	}
	for _, p := range h.procs {
		<-p.ended
	}
	h.procs = nil
}

// end kills a process alone, and not what it started.
func (p *ownerless) end() {
	p.cmd.Process.Kill()
	<-p.ended
}

// link sets the segment's end of h's cable up or down, which h sees.
func (h *box) link(state string) {
	h.site.t.Helper()
	h.site.do("ip", "-n", h.site.lan(), "link", "set", h.name, state)
}

// cut has the switch lose all that h sends and is sent, which nobody is told.
func (h *box) cut()  { h.port("0") }
func (h *box) heal() { h.port("3") }

func (h *box) port(state string) {
	h.site.t.Helper()
	h.site.do("ip", "netns", "exec", h.site.lan(), "bridge", "link", "set", "dev", h.name, "state", state)
}

// holds reports whether h has the load balancer's address.
func (h *box) holds() bool {
	h.site.t.Helper()
	return strings.Contains(h.site.do("ip", "-n", h.ns, "-4", "-o", "addr", "show", "dev", "eth0"), " "+ownAddress+"/")
}

// in calls do on a thread in h's network.
func (h *box) in(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		ns, err := netns.GetFromName(h.ns)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = do()
		}
		result <- err
	}()
	return <-result
}

// application answers requests on port 80 with h's name.
func (h *box) application() {
	h.site.t.Helper()
	var ln net.Listener
	err := h.in(func() (err error) {
		ln, err = net.Listen("tcp", net.JoinHostPort(h.addr, "80"))
		return err
	})
	if err != nil {
		h.site.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, h.name) })}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(ln)
	}()
	h.site.t.Cleanup(func() {
		server.Close()
		<-done
	})
}

// get sends one request from h to the load balancer.
func (h *box) get() (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = h.in(func() (err error) {
				conn, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		}}}
	resp, err := client.Get("http://" + ownAddress + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
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
	if c := s.anyControl(); c != nil {
		for _, verb := range []string{"status", "events"} {
			out, errs, _ := c.weir(verb)
			fmt.Fprintf(&b, "weir %s:\n%s%s\n", verb, out, errs)
		}
	}
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*", "*.log"))
	for _, file := range logs {
		text, _ := os.ReadFile(file)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "%s:\n%s\n", file, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
	return b.String()
}

var (
	ownControls = []string{"ctl-a", "ctl-b", "ctl-c"}
	ownNodes    = []string{"lb-a", "lb-b"}
)

// anyControl returns a host on which a member of the control plane runs, or nil.
func (s *site) anyControl() *box {
	for _, name := range ownControls {
		if h := s.hosts[name]; h != nil && len(h.procs) > 0 {
			return h
		}
	}
	return nil
}

func (s *site) cluster() string {
	var addrs []string
	for _, name := range ownControls {
		addrs = append(addrs, s.hosts[name].addr)
	}
	return strings.Join(addrs, ",")
}

func (s *site) startControl(names ...string) {
	s.t.Helper()
	for _, name := range names {
		h := s.hosts[name]
		h.start("serve", "--data", filepath.Join(h.dir, "serve"), "--cluster", s.cluster(), "--listen", ":7070")
	}
}

func (s *site) startNode(h *box) *ownerless {
	s.t.Helper()
	var urls []string
	for _, name := range ownControls {
		urls = append(urls, "https://"+s.hosts[name].addr+":7071")
	}
	return h.start("node", "--join", strings.Join(urls, ","), "--token", h.token, "--data", filepath.Join(h.dir, "node"))
}

// ownPair is the load balancer with its two nodes.
type ownPair struct {
	active, standby *box
	status          weir.RegionStatus
	pair
}

func (s *site) read() (p ownPair, why string) {
	c := s.anyControl()
	out, errs, code := c.weir("status", "-o", "json")
	if code != 0 {
		return p, errs
	}
	if err := json.Unmarshal([]byte(out), &p.status); err != nil {
		return p, err.Error()
	}
	if len(p.status.LoadBalancers) == 0 {
		return p, "there is no load balancer"
	}
	names := map[weir.ID]string{}
	for _, m := range p.status.Machines {
		names[m.ID] = m.Name
	}
	p.pair.status = p.status.LoadBalancers[0]
	for _, in := range p.pair.status.Instances {
		if in.Active {
			p.pair.active = names[in.Machine]
		} else if in.Health.State == weir.InstanceWell {
			p.pair.standby = names[in.Machine]
		}
	}
	p.active, p.standby = s.hosts[p.pair.active], s.hosts[p.pair.standby]
	return p, ""
}

// amiss returns why the pair is not whole: two that are well, and the address on the one that should
// have it alone.
func (s *site) amiss() (p ownPair, why string) {
	if p, why = s.read(); why != "" {
		return p, why
	}
	if why = p.pair.well(); why == "" {
		why = s.held(p.pair.active)
	}
	return p, why
}

func (s *site) whole() (p ownPair) {
	s.t.Helper()
	s.within(time.Minute, func() (why string) {
		p, why = s.amiss()
		return why
	})
	return p
}

// held returns why the address is not on that node alone; on none if it is empty.
func (s *site) held(name string) string {
	var holders []string
	for _, n := range ownNodes {
		if s.hosts[n].holds() {
			holders = append(holders, n)
		}
	}
	if got := strings.Join(holders, " and "); got != name {
		return fmt.Sprintf("%s has the address, want %s", cmp.Or(got, "nobody"), cmp.Or(name, "nobody"))
	}
	return ""
}

// served waits until the client is.
func (s *site) served(d time.Duration) {
	s.t.Helper()
	s.within(d, func() string {
		if _, err := s.hosts["client"].get(); err != nil {
			return err.Error()
		}
		return ""
	})
}

// serves checks that the client is served, again and again for that long.
func (s *site) serves(d time.Duration) {
	s.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := s.hosts["client"].get(); err != nil {
			s.t.Fatalf("%v; want every request answered\n%s", err, s.story())
		}
	}
}

// failover waits until another than before is active, and its client served.
func (s *site) failover(before ownPair) {
	s.t.Helper()
	s.served(20 * time.Second)
	s.within(20*time.Second, func() string {
		p, why := s.read()
		if why == "" && p.pair.active != before.pair.standby {
			why = fmt.Sprintf("%q is active, want %s", p.pair.active, before.pair.standby)
		}
		return why
	})
}

// newOwnSite returns a site as docs/bare-metal.md tells how to make one.
func newOwnSite(t *testing.T) *site {
	s := newSite(t)
	for i, name := range ownControls {
		s.host(name, fmt.Sprintf("192.0.2.%d", 11+i))
	}
	for i, name := range ownNodes {
		s.host(name, fmt.Sprintf("192.0.2.%d", 21+i))
	}
	for i := range 2 {
		s.host(fmt.Sprintf("app-%d", i+1), fmt.Sprintf("192.0.2.%d", 31+i)).application()
	}
	s.host("client", "192.0.2.99")

	first := s.hosts[ownControls[0]]
	first.must("pki", "create", "--pki", filepath.Join(first.dir, "serve", "pki"))
	for _, name := range ownControls[1:] {
		h := s.hosts[name]
		if err := os.MkdirAll(filepath.Join(h.dir, "serve"), 0o700); err != nil {
			t.Fatal(err)
		}
		s.do("cp", "-a", filepath.Join(first.dir, "serve", "pki"), filepath.Join(h.dir, "serve", "pki"))
	}
	s.startControl(ownControls...)
	for _, name := range ownControls {
		s.within(time.Minute, func() string {
			_, errs, code := s.hosts[name].weir("node", "list")
			if code != 0 {
				return name + ": " + errs
			}
			return ""
		})
	}
	for _, name := range ownNodes {
		h := s.hosts[name]
		h.token = writeFile(t, "token", s.hosts[ownControls[1]].must("node", "token", name))
		s.startNode(h)
	}
	s.within(time.Minute, func() string {
		list := s.hosts[ownControls[2]].must("node", "list")
		if strings.Count(list, " joined ") != len(ownNodes) {
			return list
		}
		return ""
	})
	file := writeFile(t, "weir.yaml", `name: web
servers: [192.0.2.31, 192.0.2.32]
load_balancer:
  address: `+ownAddress+`/24
  health_check:
    check_interval_seconds: 3
    response_timeout_seconds: 3
    healthy_threshold: 2
`)
	first.must("apply", "-f", file)
	s.whole()
	return s
}

func TestMachinesOfOnesOwnServeWhateverBreaks(t *testing.T) {
	s := newOwnSite(t)
	stage := func(name string, do func(before ownPair)) {
		t.Helper()
		ok := t.Run(name, func(t *testing.T) {
			s.t = t
			do(s.whole())
		})
		s.t = t
		if !ok {
			t.FailNow() // what follows begins with a whole pair
		}
	}

	stage("both servers answer at the address", func(ownPair) {
		var names []string
		for range 10 {
			name, err := s.hosts["client"].get()
			if err != nil {
				s.t.Fatal(err)
			}
			names = append(names, name)
		}
		slices.Sort(names)
		if got := strings.Join(slices.Compact(names), " "); got != "app-1 app-2" {
			s.t.Errorf("%s answer, want app-1 app-2", got)
		}
	})

	stage("the active node loses power", func(before ownPair) {
		before.active.link("down")
		before.active.kill()
		s.failover(before)
		if events := s.anyControl().must("events"); !strings.Contains(events, "moves the address from "+before.active.name+" to "+before.standby.name) {
			s.t.Errorf("the events do not tell of it:\n%s", events)
		}
		before.active.link("up")
		s.startNode(before.active)
		after := s.whole()
		if after.active != before.standby {
			s.t.Errorf("%s is active now that %s is back, want nothing moved", after.active.name, before.active.name)
		}
	})

	stage("the active node's link is cut silently", func(before ownPair) {
		before.active.cut()
		s.failover(before)
		// By the time that it may be back, the address has left it.
		s.within(vip.Bound(vip.DefaultLife), func() string { return s.held(before.standby.name) })
		before.active.heal()
		s.within(vip.Bound(vip.DefaultLife), func() string { return s.held(before.standby.name) })
		s.served(5 * time.Second)
		s.whole()
	})

	stage("a hand-over, to and fro", func(before ownPair) {
		for range 2 {
			s.within(20*time.Second, func() string { // a machine that is busy beyond measure can look unwell for a moment
				_, errs, _ := s.anyControl().weir("lb", "failover", "web")
				return errs
			})
			s.served(5 * time.Second)
			s.whole()
		}
		if after := s.whole(); after.active != before.active {
			s.t.Errorf("%s is active, want %s again", after.active.name, before.active.name)
		}
	})

	stage("the leading member of the control plane dies", func(before ownPair) {
		var leader string
		for _, m := range before.status.Members {
			if m.Leads {
				leader = m.Name
			}
		}
		var dead *box
		for _, name := range ownControls {
			if h := s.hosts[name]; h.addr == leader {
				dead = h
			}
		}
		if dead == nil {
			s.t.Fatalf("no member leads: %+v", before.status.Members)
		}
		dead.kill()
		s.serves(2 * time.Second)
		s.within(20*time.Second, func() string {
			for _, name := range ownControls {
				if h := s.hosts[name]; h != dead {
					if _, errs, code := h.weir("lb", "show", "web"); code != 0 {
						return name + ": " + errs
					}
				}
			}
			return ""
		})
		before.active.link("down")
		before.active.kill()
		s.failover(before)
		before.active.link("up")
		s.startNode(before.active)
		s.whole()
		s.startControl(dead.name)
		s.within(time.Minute, func() string {
			_, errs, _ := dead.weir("node", "list")
			return errs
		})
	})

	stage("two of three members of the control plane die, and then the active node", func(before ownPair) {
		s.hosts["ctl-b"].kill()
		s.hosts["ctl-c"].kill()
		s.serves(2 * vip.Bound(vip.DefaultLife)) // for longer than any permission of before lasts
		before.active.link("down")
		before.active.kill()
		time.Sleep(vip.Bound(vip.DefaultLife))
		if why := s.held(""); why != "" {
			s.t.Errorf("%s: nobody can have decided that", why)
		}
		s.startControl("ctl-b")
		s.failover(before)
		before.active.link("up")
		s.startNode(before.active)
		s.startControl("ctl-c")
		s.whole()
	})

	stage("all members of the control plane die, and the agents start again", func(before ownPair) {
		for _, name := range ownControls {
			s.hosts[name].kill()
		}
		s.serves(2 * vip.Bound(vip.DefaultLife))
		for _, name := range ownNodes {
			h := s.hosts[name]
			h.procs[len(h.procs)-1].end()
			s.startNode(h)
			s.serves(vip.Bound(vip.DefaultLife))
		}
		s.startControl(ownControls...)
		s.serves(vip.Bound(vip.DefaultLife))
		after := s.whole()
		if after.active != before.active {
			s.t.Errorf("%s is active, want %s still", after.active.name, before.active.name)
		}
	})

	stage("the active node's agent dies and starts again", func(before ownPair) {
		before.active.procs[len(before.active.procs)-1].end()
		s.serves(500 * time.Millisecond)
		s.startNode(before.active)
		s.serves(vip.Bound(vip.DefaultLife))
		if after := s.whole(); after.active != before.active {
			s.t.Errorf("%s is active, want %s still", after.active.name, before.active.name)
		}
	})
}
