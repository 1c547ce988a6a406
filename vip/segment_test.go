package vip

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A segment is a bridge in a network namespace of its own, and nodes on it, each in
// another. The namespaces have no name: they end with the test's process at the latest.
type segment struct {
	t      testing.TB
	bridge netns.NsHandle
	nodes  int
}

// node is a machine on a segment, with the interface eth0.
type node struct {
	t    testing.TB
	name string
	seg  *segment
	ns   netns.NsHandle
	mac  net.HardwareAddr
}

func newSegment(t testing.TB) *segment {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	s := &segment{t: t, bridge: newNamespace(t)}
	in(t, s.bridge, func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(br)
	})
	return s
}

// node puts a machine on the segment: 192.0.2.N/24 and 2001:db8::N/64, N from 1.
func (s *segment) node(name string) *node {
	s.t.Helper()
	s.nodes++
	n := &node{t: s.t, name: name, seg: s, ns: newNamespace(s.t)}
	port := fmt.Sprintf("p%d", s.nodes)
	in(s.t, s.bridge, func() error {
		cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.ns)}
		if err := netlink.LinkAdd(cable); err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		l, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(l, br), netlink.LinkSetUp(l))
	})
	in(s.t, n.ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		n.mac = l.Attrs().HardwareAddr
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		if err := n.add(fmt.Sprintf("192.0.2.%d/24", s.nodes), 0); err != nil {
			return err
		}
		if !hasIPv6() {
			return nil
		}
		return n.add(fmt.Sprintf("2001:db8::%d/64", s.nodes), 0)
	})
	n.wait("its link to be up", func() bool {
		var up bool
		n.in(func() error {
			l, err := netlink.LinkByName("eth0")
			up = err == nil && isUp(l.Attrs().RawFlags)
			return err
		})
		return up
	})
	return n
}

// add configures an address as an administrator would. It is called in n's namespace.
func (n *node) add(prefix string, life int) error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	a.ValidLft, a.PreferedLft = life, life
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrAdd(l, a)
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// families are the addresses that the nodes of a test share, one for each family.
func families(t *testing.T, test func(t *testing.T, vip netip.Prefix)) {
	t.Parallel()
	t.Run("IPv4", func(t *testing.T) { t.Parallel(); test(t, netip.MustParsePrefix("192.0.2.100/24")) })
	t.Run("IPv6", func(t *testing.T) {
		t.Parallel()
		if !hasIPv6() {
			t.Skip("the kernel has no IPv6")
		}
		test(t, netip.MustParsePrefix("2001:db8::100/64"))
	})
}

func newNamespace(t testing.TB) netns.NsHandle {
	t.Helper()
	made := netns.None()
	err := onThread(func() error {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		made = ns
		if hasIPv6() {
			for name, value := range map[string]string{"all/disable_ipv6": "0", "default/disable_ipv6": "0", "default/accept_dad": "0"} {
				if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name, []byte(value), 0); err != nil {
					return err
				}
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { made.Close() })
	return made
}

// onThread calls do on a thread that ends with it, and may be changed by it.
func onThread(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The first thread cannot end. While it is locked here, do gets another.
			err := onThread(do)
			runtime.UnlockOSThread()
			result <- err
			return
		}
		result <- do()
	}()
	return <-result
}

// in calls do on a thread in ns.
func in(t testing.TB, ns netns.NsHandle, do func() error) {
	t.Helper()
	err := onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return do()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (n *node) in(do func() error) {
	n.t.Helper()
	in(n.t, n.ns, do)
}

// has reports whether addr is on n's eth0.
func (n *node) has(addr netip.Addr) bool {
	n.t.Helper()
	found := false
	n.in(func() error {
		k, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer k.Close()
		s, err := look(k)
		if err != nil {
			return err
		}
		for _, a := range s.addresses {
			found = found || a.prefix.Addr() == addr
		}
		return nil
	})
	return found
}

// wait waits for something that has to come.
func (n *node) wait(what string, is func() bool) {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(end) {
			n.t.Fatalf("%s: waited in vain for %s", n.name, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// cable switches the segment's end of n's cable on or off.
func (n *node) cable(number int, on bool) {
	n.t.Helper()
	in(n.t, n.seg.bridge, func() error {
		l, err := netlink.LinkByName(fmt.Sprintf("p%d", number))
		if err != nil {
			return err
		}
		if on {
			return netlink.LinkSetUp(l)
		}
		return netlink.LinkSetDown(l)
	})
}

// serve answers each connection to port 80 of any address with n's name.
func (n *node) serve() {
	n.t.Helper()
	var l net.Listener
	n.in(func() (err error) {
		l, err = net.Listen("tcp", ":80")
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, n.name)
			c.Close()
		}
	}()
	n.t.Cleanup(func() { l.Close(); <-done })
}

// ask returns who answers at addr, or an error. It waits for less than the time after which the
// kernel itself would ask anew who has the address.
func (n *node) ask(addr netip.Addr) string {
	n.t.Helper()
	answer := ""
	n.in(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, 80).String(), 5*time.Second)
		if err != nil {
			answer = err.Error()
			return nil
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		b, err := io.ReadAll(c)
		if answer = string(b); err != nil {
			answer = err.Error()
		}
		return nil
	})
	return answer
}

// holder is a process on a node that has a Holder, as an agent would.
type holder struct {
	t      testing.TB
	n      *node
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	answer chan childAnswer
	status chan []Held
	last   []Held
	exited chan struct{}
}

// childAnswer is a line that the process writes: the answer to a line that it read, or, if
// Do is empty, its status.
type childAnswer struct {
	Do     string
	Err    string
	Took   time.Duration
	Status []Held
}

const childEnv = "WEIR_TEST_VIP_LIFE"

func TestMain(m *testing.M) {
	if life := os.Getenv(childEnv); life != "" {
		child(life)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is the process of a holder: it does what it reads on its standard input, and renews
// unless told not to, until that ends.
func child(life string) {
	ctx, cancel := context.WithCancel(context.Background())
	d, _ := time.ParseDuration(life)
	h := New(Options{Life: d, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()

	lines := make(chan string)
	go func() {
		defer close(lines)
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			lines <- in.Text()
		}
	}()
	out := json.NewEncoder(os.Stdout)
	renewing := true
	tick := time.NewTicker(d / 20)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if renewing {
				h.Renew(time.Now())
			}
		case <-h.Changed():
			out.Encode(childAnswer{Status: h.Status()})
		case line, ok := <-lines:
			if !ok {
				cancel()
				if err := <-ran; err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
				return
			}
			a := childAnswer{Do: line}
			switch verb, rest, _ := strings.Cut(line, " "); verb {
			case "set":
				var want []netip.Prefix
				for _, s := range strings.Fields(rest) {
					want = append(want, netip.MustParsePrefix(s))
				}
				began := time.Now()
				if err := h.Set(ctx, want, began); err != nil {
					a.Err = err.Error()
				}
				a.Took = time.Since(began)
			case "rest":
				renewing = false
			case "renew":
				renewing = true
			}
			out.Encode(a)
		}
	}
}

// hold starts a process on n that has a Holder.
func (n *node) hold(life time.Duration) *holder {
	n.t.Helper()
	h := &holder{t: n.t, n: n, answer: make(chan childAnswer, 100), status: make(chan []Held, 1000), exited: make(chan struct{})}
	h.cmd = exec.Command(os.Args[0])
	h.cmd.Env = append(os.Environ(), childEnv+"="+life.String())
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr := &logWriter{}
	h.cmd.Stderr = stderr
	var stdout io.Reader
	// The process begins in the namespace of the thread that starts it. Its death is not tied
	// to that thread: it ends when its standard input does.
	n.in(func() (err error) {
		if h.stdin, err = h.cmd.StdinPipe(); err != nil {
			return err
		}
		if stdout, err = h.cmd.StdoutPipe(); err != nil {
			return err
		}
		return h.cmd.Start()
	})
	go func() {
		defer close(h.exited)
		out := json.NewDecoder(stdout)
		for {
			var a childAnswer
			if err := out.Decode(&a); err != nil {
				break
			}
			if a.Do == "" {
				h.status <- a.Status
			} else {
				h.answer <- a
			}
		}
		h.cmd.Wait()
	}()
	n.t.Cleanup(func() {
		h.cmd.Process.Kill()
		<-h.exited
		if n.t.Failed() {
			n.t.Logf("log of %s:\n%s", n.name, stderr.b)
		}
	})
	return h
}

type logWriter struct{ b []byte }

func (w *logWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// do has the process do something, and returns how long that took and why not.
func (h *holder) do(line string) (time.Duration, error) {
	h.t.Helper()
	if _, err := fmt.Fprintln(h.stdin, line); err != nil {
		h.t.Fatal(err)
	}
	select {
	case a := <-h.answer:
		if a.Err != "" {
			return a.Took, errors.New(a.Err)
		}
		return a.Took, nil
	case <-time.After(20 * time.Second):
		h.t.Fatalf("%s: no answer to %q", h.n.name, line)
		return 0, nil
	}
}

func (h *holder) set(want ...netip.Prefix) time.Duration {
	h.t.Helper()
	line := "set"
	for _, p := range want {
		line += " " + p.String()
	}
	took, err := h.do(line)
	if err != nil {
		h.t.Fatalf("%s: %s: %v", h.n.name, line, err)
	}
	return took
}

// until waits for a status that is as wanted.
func (h *holder) until(what string, is func([]Held) bool) {
	h.t.Helper()
	end := time.After(20 * time.Second)
	for !is(h.last) {
		select {
		case h.last = <-h.status:
		case <-end:
			h.t.Fatalf("%s: waited in vain for %s; the status is %+v", h.n.name, what, h.last)
		}
	}
}

// signal sends a signal to the process.
func (h *holder) signal(s syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(s); err != nil {
		h.t.Fatal(err)
	}
}

// stop ends the process as an agent ends.
func (h *holder) stop() {
	h.t.Helper()
	h.stdin.Close()
	<-h.exited
}
