package heartbeat

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

// TestMain is also another instance: a process of its own, told by its environment what
// to be, that prints each state that it sees.
func TestMain(m *testing.M) {
	switch os.Getenv("HEARTBEAT_TEST") {
	case "instance":
		instance(strings.Fields(os.Getenv("HEARTBEAT_TEST_ARGS")))
	case "hog":
		for { // until we are killed
		}
	case "busy":
		busyEnd(strings.Fields(os.Getenv("HEARTBEAT_TEST_ARGS")))
	default:
		os.Exit(m.Run())
	}
}

// instance runs a monitor: its ID, port, listening address (or "any"), then the peer's ID
// and addresses.
func instance(args []string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	port, err := strconv.Atoi(args[1])
	if err != nil {
		panic(err)
	}
	o := Options{Self: weir.ID(args[0]), Port: port}
	if args[2] != "any" {
		o.sources = []netip.Addr{netip.MustParseAddr(args[2])}
	}
	p := weir.Peer{Node: weir.ID(args[3])}
	for _, a := range args[4:] {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	m := New(o)
	m.Set(weir.Group{Key: testKey, Peers: []weir.Peer{p}})
	m.Answer(Answer{Serving: true, Revision: 7})
	var wg sync.WaitGroup
	wg.Go(func() {
		told := map[netip.Addr]weir.PathState{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-m.Changed():
			}
			for _, p := range m.Peers()[0].Paths {
				if told[p.Addr] != p.State {
					fmt.Println(p.Addr, p.State)
				}
				told[p.Addr] = p.State
			}
		}
	})
	if err := m.Run(ctx); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	wg.Wait()
}

// process is such a process.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	mu    sync.Mutex
	lines []string
}

// start runs an instance, in a network namespace if one is named.
func start(t testing.TB, namespace string, args ...string) *process {
	t.Helper()
	command := []string{os.Args[0]}
	if namespace != "" {
		command = []string{"ip", "netns", "exec", namespace, os.Args[0]}
	}
	p := &process{t: t, cmd: exec.Command(command[0], command[1:]...)}
	p.cmd.Env = append(os.Environ(), "HEARTBEAT_TEST=instance", "HEARTBEAT_TEST_ARGS="+strings.Join(args, " "))
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			p.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		wg.Wait()
		p.cmd.Wait()
	})
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// said returns what p has printed.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, ", ")
}

// wait waits until what p printed last about addr is state.
func (p *process) wait(addr string, state weir.PathState) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%s %s, not only: ", addr, state), p.said, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		last := ""
		for _, l := range p.lines {
			if strings.HasPrefix(l, addr+" ") {
				last = l
			}
		}
		return last == addr+" "+string(state)
	})
}

func eventually(t testing.TB, want string, got func() string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("want %s%s", want, got())
		}
	}
}

// run starts a monitor in this process until the test ends, or what it returns is called.
func run(t testing.TB, m *Monitor) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func newMonitor(t testing.TB, port int, self string) *Monitor {
	t.Helper()
	addr := netip.MustParseAddr(self)
	return New(Options{Self: weir.ID("node " + self), Port: port, Log: slog.New(slog.DiscardHandler), sources: []netip.Addr{addr}})
}

func group(peers ...string) weir.Group {
	g := weir.Group{Key: testKey}
	for _, p := range peers {
		g.Peers = append(g.Peers, weir.Peer{Node: weir.ID("node " + p), Addrs: []netip.Addr{netip.MustParseAddr(p)}})
	}
	return g
}

// freePort returns a UDP port that is free on this machine.
func freePort(t testing.TB) int {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).Port
}

func waitState(t testing.TB, m *Monitor, want weir.PathState) {
	t.Helper()
	eventually(t, fmt.Sprintf("the peer %s, not ", want), func() string { return fmt.Sprintf("%+v, %+v", m.Peers(), m.Counts()) },
		func() bool { p := m.Peers(); return p[0].State() == want })
}

func TestInstancesHearEachOther(t *testing.T) {
	port := freePort(t)
	a, b := newMonitor(t, port, "127.0.0.1"), newMonitor(t, port, "127.0.0.2")
	a.Set(group("127.0.0.2"))
	b.Set(group("127.0.0.1"))
	b.Answer(Answer{Serving: true, Holding: true, Revision: 812, Up: 3})
	run(t, a)
	run(t, b)
	waitState(t, a, weir.PathUp)
	waitState(t, b, weir.PathUp)
	p := a.Peers()[0]
	if want := (Answer{Serving: true, Holding: true, Revision: 812, Up: 3}); p.Answer != want {
		t.Errorf("answer %+v, want %+v", p.Answer, want)
	}
	if path := p.Paths[0]; path.RTT <= 0 || path.Heard.IsZero() || path.Since.IsZero() {
		t.Errorf("path %+v lacks something", path)
	}
}

func TestAChangedAnswerIsTold(t *testing.T) {
	port := freePort(t)
	a, b := newMonitor(t, port, "127.0.0.1"), newMonitor(t, port, "127.0.0.2")
	a.Set(group("127.0.0.2"))
	b.Set(group("127.0.0.1"))
	run(t, a)
	run(t, b)
	waitState(t, a, weir.PathUp)
	for revision := range int64(5) {
		b.Answer(Answer{Revision: revision + 1})
		for a.Peers()[0].Answer.Revision != revision+1 {
			select {
			case <-a.Changed():
			case <-time.After(20 * time.Second):
				t.Fatalf("nobody told of revision %d: %+v", revision+1, a.Peers())
			}
		}
	}
}

func TestAPeerThatIsGoneRefuses(t *testing.T) {
	port := freePort(t)
	a, b := newMonitor(t, port, "127.0.0.1"), newMonitor(t, port, "127.0.0.2")
	a.Set(group("127.0.0.2"))
	b.Set(group("127.0.0.1"))
	run(t, a)
	stop := run(t, b)
	waitState(t, a, weir.PathUp)
	stop()
	waitState(t, a, weir.PathRefused)
	run(t, b)
	waitState(t, a, weir.PathUp)
}

func TestAPeerWithAnotherKeyIsNeverHeard(t *testing.T) {
	port := freePort(t)
	a, b := newMonitor(t, port, "127.0.0.1"), newMonitor(t, port, "127.0.0.2")
	a.Set(group("127.0.0.2"))
	other := group("127.0.0.1")
	other.Key = []byte("another")
	b.Set(other)
	run(t, a)
	run(t, b)
	eventually(t, "20 forged, not ", func() string { return fmt.Sprintf("%+v", a.Counts()) }, func() bool { return a.Counts().Forged >= 20 })
	if c := a.Counts(); c.Heard != 0 || c.Answered != 0 {
		t.Errorf("%+v: want nothing heard and nothing answered", c)
	}
	b.Set(group("127.0.0.1"))
	waitState(t, a, weir.PathUp)
}

func TestAnAnswerByAnotherThanWhomWeAskedIsNotHeard(t *testing.T) {
	port := freePort(t)
	a, b := newMonitor(t, port, "127.0.0.1"), newMonitor(t, port, "127.0.0.2")
	g := group("127.0.0.2")
	g.Peers[0].Node = "someone else"
	a.Set(g)
	b.Set(group("127.0.0.1"))
	run(t, a)
	run(t, b)
	waitState(t, b, weir.PathUp)
	eventually(t, "20 foreign, not ", func() string { return fmt.Sprintf("%+v", a.Counts()) }, func() bool { return a.Counts().Foreign >= 20 })
	if c := a.Counts(); c.Heard != 0 {
		t.Errorf("%+v: want nothing heard", c)
	}
}

func TestPathsThatStayKeepTheirState(t *testing.T) {
	port := freePort(t)
	a, b := newMonitor(t, port, "127.0.0.1"), newMonitor(t, port, "127.0.0.2")
	a.Set(group("127.0.0.2"))
	b.Set(group("127.0.0.1"))
	run(t, a)
	run(t, b)
	waitState(t, a, weir.PathUp)
	was := a.Peers()[0].Paths[0]
	a.Set(group("127.0.0.2", "127.0.0.3"))
	peers := a.Peers()
	if is := peers[0].Paths[0]; is.State != weir.PathUp || is.Since != was.Since {
		t.Errorf("path %+v is %+v after Set, want the same", was, is)
	}
	if s := peers[1].State(); s != weir.PathUnknown {
		t.Errorf("the new peer is %s, want it unknown", s)
	}
	a.Set(group("127.0.0.3"))
	if peers := a.Peers(); len(peers) != 1 || peers[0].Node != "node 127.0.0.3" {
		t.Errorf("%+v, want the one peer that there should be", peers)
	}
}

// A relay between a and b that repeats, delays, reorders and damages what passes.
func TestAMadNetworkDoesNoHarm(t *testing.T) {
	port := freePort(t)
	a := newMonitor(t, port, "127.0.0.1")
	a.Set(group("127.0.0.2"))
	run(t, a)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	s := newSeal(testKey)
	wg.Go(func() {
		var buf [maxSize]byte
		var before []byte
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf[:])
			if err != nil {
				return
			}
			m, ok := s.open(buf[:n])
			if !ok {
				t.Errorf("a sent %x", buf[:n])
				continue
			}
			good := s.append(nil, kindAnswer, m.seq, Answer{Revision: 1}, "node 127.0.0.2")
			forged := newSeal([]byte("x")).append(nil, kindAnswer, m.seq, Answer{Revision: 666}, "node 127.0.0.2")
			early := s.append(nil, kindAnswer, m.seq+100, Answer{Revision: 667}, "node 127.0.0.2")
			for _, d := range [][]byte{forged, early, buf[:n], {}, {1}, good, good, before, good[:20]} {
				if _, err := conn.WriteToUDPAddrPort(d, from); err != nil {
					return
				}
			}
			before = good
		}
	})
	waitState(t, a, weir.PathUp)
	eventually(t, "40 beats, not ", func() string { return fmt.Sprintf("%+v", a.Counts()) }, func() bool { return a.Counts().Heard >= 40 })
	c := a.Counts()
	if c.Heard > c.Sent {
		t.Errorf("%+v: more was heard than sent", c)
	}
	if c.Repeated == 0 || c.Stale == 0 || c.Forged == 0 || c.Foreign != 0 && c.Answered != 0 {
		t.Errorf("%+v: not all that was bad was counted", c)
	}
	if got := a.Peers()[0].Answer; got != (Answer{Revision: 1}) {
		t.Errorf("answer %+v, want the one that was given", got)
	}
}

func TestAStoppedPeerIsSilentUntilItContinues(t *testing.T) {
	port := freePort(t)
	b := start(t, "", "b", strconv.Itoa(port), "127.0.0.2", "a", "127.0.0.1")
	a := newMonitor(t, port, "127.0.0.1")
	a.Self = "a"
	g := group("127.0.0.2")
	g.Peers[0].Node = "b"
	a.Set(g)
	run(t, a)
	waitState(t, a, weir.PathUp)
	b.wait("127.0.0.1", weir.PathUp)
	b.signal(unix.SIGSTOP)
	waitState(t, a, weir.PathSilent)
	time.Sleep(300 * time.Millisecond)
	b.signal(unix.SIGCONT)
	waitState(t, a, weir.PathUp)
	b.signal(os.Kill)
	waitState(t, a, weir.PathRefused)
}

func TestWhoWasStoppedReportsNobodySilent(t *testing.T) {
	port := freePort(t)
	a := newMonitor(t, port, "127.0.0.1")
	a.Self = "a"
	g := group("127.0.0.2")
	g.Peers[0].Node = "b"
	a.Set(g)
	run(t, a)
	b := start(t, "", "b", strconv.Itoa(port), "127.0.0.2", "a", "127.0.0.1")
	b.wait("127.0.0.1", weir.PathUp)
	for _, pause := range []time.Duration{30 * ms, 60 * ms, 120 * ms, 500 * ms, 3 * time.Second} {
		b.signal(unix.SIGSTOP)
		time.Sleep(pause)
		b.signal(unix.SIGCONT)
		time.Sleep(150 * ms)
	}
	if said := b.said(); strings.Contains(said, string(weir.PathSilent)) {
		t.Errorf("who was stopped said: %s; want nobody silent", said)
	}
}

func TestAskTellsAnAnswerFromARefusalAndFromSilence(t *testing.T) {
	port := freePort(t)
	b := newMonitor(t, port, "127.0.0.2")
	b.Set(group("127.0.0.1"))
	b.Answer(Answer{Serving: true, Revision: 5})
	stop := run(t, b)
	ask := func(key []byte) (weir.ID, Answer, error) {
		conn, err := net.Dial("udp4", net.JoinHostPort("127.0.0.2", strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 300*ms)
		defer cancel()
		return Ask(ctx, conn, key, "control")
	}
	var who weir.ID
	var got Answer
	eventually(t, "an answer, not ", func() string { return fmt.Sprint(who, got) }, func() bool {
		var err error
		who, got, err = ask(testKey)
		return err == nil
	})
	if who != "node 127.0.0.2" || got != (Answer{Serving: true, Revision: 5}) {
		t.Errorf("%s answers %+v", who, got)
	}
	if _, _, err := ask([]byte("another")); !errors.Is(err, Silent) || !errors.Is(err, weir.Unavailable) {
		t.Errorf("with another key: %v, want %v", err, Silent)
	}
	stop()
	if _, _, err := ask(testKey); !errors.Is(err, Refused) || errors.Is(err, Silent) {
		t.Errorf("with nobody there: %v, want %v", err, Refused)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	conn, err := net.Dial("udp4", net.JoinHostPort("127.0.0.2", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, _, err := Ask(ctx, conn, testKey, "control"); !errors.Is(err, context.Canceled) || errors.Is(err, Silent) {
		t.Errorf("asked and given up: %v, want that and no word of the peer", err)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for _, o := range []Options{{}, {Self: "a", Beat: 10}, {Self: "a", Late: ms}, {Self: "a", Silent: 40 * ms}, {Self: "a", Silent: time.Hour}} {
		if err := New(o).Run(t.Context()); !errors.Is(err, weir.Invalid) {
			t.Errorf("%+v: %v, want it invalid", o, err)
		}
	}
	port := freePort(t)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := newMonitor(t, port, "127.0.0.1").Run(t.Context()); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("on a port that is taken: %v, want %v", err, unix.EADDRINUSE)
	}
}
