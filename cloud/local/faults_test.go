package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

// echoes, in its environment, has this program return what it is sent on that port, by TCP
// and UDP. Machines have it at weirPath.
const echoes = "WEIR_TEST_ECHO"

// echoing is user-data that has a machine echo.
func echoing(port int) string {
	return fmt.Sprintf("%s=%d setsid %s >/dev/null 2>&1 &\n", echoes, port, weirPath)
}

func echo(port string) error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, a := range addrs { // so that each datagram is answered from where it was sent to
		packets, err := net.ListenPacket("udp", net.JoinHostPort(a.(*net.IPNet).IP.String(), port))
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 2000)
			for {
				n, from, err := packets.ReadFrom(b)
				die(err)
				packets.WriteTo(b[:n], from)
			}
		}()
	}
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}

// soon is how long a test waits for what is not to come.
const soon = 500 * time.Millisecond

// silent reports whether a wait was in vain: nobody has said no.
func silent(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// say sends text on a connection.
func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatalf("send to %s: %v", conn.RemoteAddr(), err)
	}
}

// hear waits for text on a connection.
func hear(conn net.Conn, text string, within time.Duration) error {
	conn.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, len(text))
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != text {
		return fmt.Errorf("heard %q, want %q", b, text)
	}
	return nil
}

// dialled connects from the gateway to a machine that echoes, as soon as it does.
func dialled(t *testing.T, c *Cloud, network string, addr netip.Addr) net.Conn {
	t.Helper()
	var conn net.Conn
	eventually(t, fmt.Sprintf("%s answers by %s", addr, network), func() (err error) {
		conn, err = c.Dial(t.Context(), network, netip.AddrPortFrom(addr, 7).String())
		if err != nil {
			return err
		}
		if _, err = io.WriteString(conn, "hello"); err == nil {
			err = hear(conn, "hello", 5*time.Second)
		}
		if err != nil {
			conn.Close()
		}
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// unheard fails the test unless a new connection from the gateway gets no answer at all.
func unheard(t *testing.T, c *Cloud, addr netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	conn, err := c.Dial(ctx, "tcp", netip.AddrPortFrom(addr, 7).String())
	if err == nil {
		conn.Close()
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("connecting to %s, which is cut off: error %v, want silence", addr, err)
	}
}

// inside calls do in the network of a machine.
func inside(t *testing.T, c *Cloud, id weir.ID, do func() error) error {
	t.Helper()
	ns, err := os.Open(procOf(c, id) + "/ns/net")
	must(t, err)
	defer ns.Close()
	return inNamespace(ns, do)
}

// procOf returns what /proc has of a machine's init.
func procOf(c *Cloud, id weir.ID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprint("/proc/", c.machines[id].run.init.pid)
}

// pings reports whether a machine gets an answer from addr when it asks from its address from.
func pings(t *testing.T, c *Cloud, id weir.ID, from, addr netip.Addr) bool {
	t.Helper()
	network, ask, answer := "ip4:icmp", byte(8), byte(0)
	if addr.Is6() {
		network, ask, answer = "ip6:ipv6-icmp", 128, 129
	}
	var conn *net.IPConn
	must(t, inside(t, c, id, func() (err error) {
		conn, err = net.DialIP(network, &net.IPAddr{IP: ip(from)}, &net.IPAddr{IP: ip(addr)})
		return err
	}))
	defer conn.Close()
	// An echo request, with its checksum, which the kernel makes for IPv6. Another identifier each time makes it a flow of its own.
	flow := rand.N(uint16(0xf7ff))
	request := binary.BigEndian.AppendUint16([]byte{ask, 0}, 0xf7ff-flow)
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(request, flow), 0, 0))
	must(t, err)
	conn.SetReadDeadline(time.Now().Add(soon))
	for b := make([]byte, 100); ; {
		n, _, err := conn.ReadFrom(b) // without the header, which Read leaves
		if err != nil {
			return false
		}
		if n > 0 && b[0] == answer {
			return true
		}
	}
}

// asked returns how many pings have come to a machine.
func asked(t *testing.T, c *Cloud, id weir.ID) int {
	t.Helper()
	snmp, err := os.ReadFile(procOf(c, id) + "/net/snmp")
	must(t, err)
	var names []string
	for line := range strings.Lines(string(snmp)) {
		fields := strings.Fields(line)
		if fields[0] != "Icmp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		n, err := strconv.Atoi(fields[slices.Index(names, "InEchos")])
		must(t, err)
		return n
	}
	t.Fatalf("the machine does not count pings: %s", snmp)
	return 0
}

// must fails the test if a fault could not be done.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKilledMachineIsOffAtOnceAndBootsAgain(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, "echo kept >/root/file\ntrap 'echo gently >/root/file' TERM\n"+echoing(7)))
	conn := dialled(t, c, "tcp", m.Private)
	for range 2 {
		must(t, c.Kill(t.Context(), m.ID))
		if look(t, c, m.ID).On {
			t.Error("the machine is on after it was killed")
		}
	}
	if err := hear(conn, "x", time.Second); !silent(err) {
		t.Errorf("a connection of a machine that was killed: %v, want no word", err)
	}
	must(t, c.PowerOn(t.Context(), m.ID))
	if again := booted(t, c, m.ID); !reflect.DeepEqual(again, m) {
		t.Errorf("after the power came back the machine is %+v, want %+v", again, m)
	}
	if got := in(t, c, m.ID, "cat", "/root/file"); got != "kept" {
		t.Errorf("the disk has %q, want kept: nothing gentle", got)
	}
}

func TestFrozenMachineAnswersAsItsKernelAlone(t *testing.T) {
	c := open(t, Config{})
	m, other := create(t, c, spec(1, echoing(7))), create(t, c, spec(2, ""))
	old := dialled(t, c, "tcp", m.Private)
	for range 2 {
		must(t, c.Freeze(t.Context(), m.ID))
		if !look(t, c, m.ID).On {
			t.Error("a frozen machine is shown as off")
		}
	}
	if !pings(t, c, other.ID, other.Private, m.Private) {
		t.Error("the kernel of a frozen machine answers no ping")
	}
	conn, err := c.Dial(t.Context(), "tcp", netip.AddrPortFrom(m.Private, 7).String())
	must(t, err)
	defer conn.Close()
	for _, conn := range []net.Conn{old, conn} {
		say(t, conn, "awake?")
		if err := hear(conn, "awake?", soon); !silent(err) {
			t.Errorf("a frozen machine: %v, want no word", err)
		}
	}
	for range 2 {
		must(t, c.Thaw(t.Context(), m.ID))
	}
	for _, conn := range []net.Conn{old, conn} {
		if err := hear(conn, "awake?", patient); err != nil {
			t.Errorf("once thawed: %v, want the answer", err)
		}
	}
	must(t, c.PowerOff(t.Context(), m.ID))
	if err := c.Freeze(t.Context(), m.ID); !errors.Is(err, weir.Conflict) {
		t.Errorf("freezing a machine that is off: error %v, want a conflict", err)
	}
	must(t, c.Thaw(t.Context(), m.ID))
}

func TestRebootedMachineIsTheSameOnAFreshKernel(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, ""))
	for _, before := range []struct {
		name string
		do   func(context.Context, weir.ID) error
	}{
		{"on", c.PowerOn}, {"frozen", c.Freeze}, {"killed", c.Kill}, {"off", c.PowerOff},
	} {
		in(t, c, m.ID, "sh", "-c", "echo kept >/root/file; touch /run/marked")
		must(t, before.do(t.Context(), m.ID))
		must(t, c.Reboot(t.Context(), m.ID))
		if again := booted(t, c, m.ID); !reflect.DeepEqual(again, m) {
			t.Errorf("%s, then rebooted, the machine is %+v, want %+v", before.name, again, m)
		}
		if got := in(t, c, m.ID, "sh", "-c", "cat /root/file; ls /run/marked 2>/dev/null || true"); got != "kept" {
			t.Errorf("%s, then rebooted, it has %q, want its disk and nothing of its memory", before.name, got)
		}
	}
}

func TestCutLosesWhatItSaysAndNothingElse(t *testing.T) {
	c := open(t, Config{})
	m, other := create(t, c, spec(1, "")), create(t, c, spec(2, ""))
	links := map[weir.Link][2]netip.Addr{weir.PublicLink: {m.Public, other.Public}, weir.PrivateLink: {m.Private, other.Private}}
	check := func(cut weir.Cut, whole bool) {
		t.Helper()
		for link, at := range links {
			gone := !whole && cut.Of(link)
			losesIn, losesOut := gone && cut.Loses(weir.Inward), gone && cut.Loses(weir.Outward)
			before := asked(t, c, m.ID)
			if got := pings(t, c, other.ID, at[1], at[0]); got == (losesIn || losesOut) {
				t.Errorf("%+v, healed %v: the other pings it by %s: %v", cut, whole, link, got)
			}
			if got := asked(t, c, m.ID) > before; got == losesIn {
				t.Errorf("%+v, healed %v: the other's ping comes to it by %s: %v", cut, whole, link, got)
			}
			before = asked(t, c, other.ID)
			if got := pings(t, c, m.ID, at[0], at[1]); got == (losesIn || losesOut) {
				t.Errorf("%+v, healed %v: it pings the other by %s: %v", cut, whole, link, got)
			}
			if got := asked(t, c, other.ID) > before; got == losesOut {
				t.Errorf("%+v, healed %v: its ping comes to the other by %s: %v", cut, whole, link, got)
			}
		}
	}
	for _, cut := range []weir.Cut{
		{Link: weir.PublicLink, Direction: weir.Inward}, {Link: weir.PublicLink, Direction: weir.Outward},
		{Link: weir.PrivateLink, Direction: weir.Inward}, {Link: weir.PrivateLink, Direction: weir.BothWays},
		{}, {Link: weir.PublicLink, Down: true}, {Link: weir.PrivateLink, Down: true},
	} {
		for range 2 {
			must(t, c.Partition(t.Context(), m.ID, cut))
		}
		if !look(t, c, m.ID).On {
			t.Errorf("%+v: the machine is shown as off", cut)
		}
		check(cut, false)
		for range 2 {
			must(t, c.Heal(t.Context(), m.ID))
		}
		check(cut, true)
	}
	if err := c.Partition(t.Context(), m.ID, weir.Cut{Link: "eth0"}); !errors.Is(err, weir.Invalid) {
		t.Errorf("a cut of no link: error %v, want that it is invalid", err)
	}
}

func TestCutsAddUp(t *testing.T) {
	c := open(t, Config{})
	m, other := create(t, c, spec(1, "")), create(t, c, spec(2, ""))
	must(t, c.Partition(t.Context(), m.ID, weir.Cut{Link: weir.PublicLink, Direction: weir.Inward}))
	must(t, c.Partition(t.Context(), m.ID, weir.Cut{Link: weir.PrivateLink, Down: true}))
	for _, at := range [][2]netip.Addr{{m.Public, other.Public}, {m.Private, other.Private}} {
		if pings(t, c, other.ID, at[1], at[0]) {
			t.Errorf("%s answers after the second cut, want both", at[0])
		}
	}
	before := asked(t, c, other.ID)
	pings(t, c, m.ID, m.Public, other.Public)
	if asked(t, c, other.ID) == before {
		t.Error("what it sends is lost, and was not cut")
	}
}

func TestCutIsSilentForFlowsOldAndNewAndForTheGateway(t *testing.T) {
	for _, cut := range []weir.Cut{{}, {Direction: weir.Inward}, {Direction: weir.Outward}, {Down: true}} {
		t.Run(fmt.Sprintf("%+v", cut), func(t *testing.T) {
			c := open(t, Config{})
			m, other := create(t, c, spec(1, echoing(7))), create(t, c, spec(2, ""))
			asks := []string{"curl", "-sS", "--max-time", "1", "http://169.254.169.254/metadata/v1/id"}
			private := fmt.Sprintf("exec 3<>/dev/tcp/%s/80", m.Private)
			var conns []net.Conn
			for _, network := range []string{"tcp", "udp"} {
				for _, addr := range []netip.Addr{m.Public, m.Anchor, m.Private} {
					conns = append(conns, dialled(t, c, network, addr))
				}
			}
			must(t, c.Partition(t.Context(), m.ID, cut))
			for _, conn := range conns {
				say(t, conn, "there?") // which is not told either
			}
			time.Sleep(soon)
			for _, conn := range conns {
				if err := hear(conn, "there?", time.Millisecond); !silent(err) {
					t.Errorf("%s %s: %v, want no word", conn.RemoteAddr().Network(), conn.RemoteAddr(), err)
				}
			}
			unheard(t, c, m.Anchor)
			unheard(t, c, m.Private)
			if out, err := try(c, other.ID, "timeout", "1", "bash", "-c", private); err == nil || out != "" {
				t.Errorf("another machine that connects: %q, %v, want no word", out, err)
			}
			if out, err := try(c, m.ID, asks...); err == nil || !strings.Contains(out, "timed out") {
				t.Errorf("the metadata service says %q, %v to a machine that is cut off, want silence", out, err)
			}
			must(t, c.Heal(t.Context(), m.ID))
			for _, conn := range conns {
				if conn.RemoteAddr().Network() == "udp" {
					say(t, conn, "there?")
				}
				if err := hear(conn, "there?", patient); err != nil {
					t.Errorf("once healed, %s %s: %v, want the answer", conn.RemoteAddr().Network(), conn.RemoteAddr(), err)
				}
			}
			if got := in(t, c, m.ID, asks...); got != string(m.ID) {
				t.Errorf("once healed, metadata says that the machine is %q, want %s", got, m.ID)
			}
		})
	}
}

func TestMachineSeesItsCarrierLostWhenTheLinkIsDown(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, ""))
	carriers := func(want string) {
		t.Helper()
		eventually(t, "carriers are "+want, func() error {
			if got := strings.Join(strings.Fields(in(t, c, m.ID, "cat", "/sys/class/net/eth0/carrier", "/sys/class/net/eth1/carrier")), " "); got != want {
				return fmt.Errorf("they are %q", got)
			}
			return nil
		})
	}
	carriers("1 1")
	must(t, c.Partition(t.Context(), m.ID, weir.Cut{}))
	carriers("1 1")
	must(t, c.Partition(t.Context(), m.ID, weir.Cut{Link: weir.PublicLink, Down: true}))
	carriers("0 1")
	must(t, c.Partition(t.Context(), m.ID, weir.Cut{Link: weir.PrivateLink, Down: true}))
	carriers("0 0")
	must(t, c.Heal(t.Context(), m.ID))
	carriers("1 1")
}

func TestInstanceIsCutFromItsServersAndNotFromItsClients(t *testing.T) {
	c := open(t, Config{})
	instance, server, client := create(t, c, spec(1, echoing(7))), create(t, c, spec(2, "")), create(t, c, spec(3, ""))
	addr, err := c.Reserve(t.Context(), "lb", weir.IPv4)
	must(t, err)
	must(t, c.Assign(t.Context(), addr, instance.ID))
	must(t, c.Partition(t.Context(), instance.ID, weir.Cut{Link: weir.PrivateLink}))
	if pings(t, c, instance.ID, instance.Private, server.Private) {
		t.Error("the instance reaches its server")
	}
	dialled(t, c, "tcp", addr)
	in(t, c, client.ID, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/7 && echo hello >&3 && head -1 <&3", addr))
}

func TestCutStaysUntilItIsHealed(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, ""))
	for _, cut := range []weir.Cut{{Link: weir.PrivateLink}, {Link: weir.PrivateLink, Down: true}} {
		must(t, c.PowerOff(t.Context(), m.ID))
		must(t, c.Partition(t.Context(), m.ID, cut))
		must(t, c.PowerOn(t.Context(), m.ID))
		unheard(t, c, m.Private)
		must(t, c.Reboot(t.Context(), m.ID))
		unheard(t, c, m.Private)
		must(t, c.PowerOff(t.Context(), m.ID))
		if _, err := ask(c, m.Private, 7); err == nil || silent(err) {
			t.Errorf("a machine that is off: error %v, want that it is said at once", err)
		}
		must(t, c.Heal(t.Context(), m.ID))
		must(t, c.PowerOn(t.Context(), m.ID))
		if !pings(t, c, m.ID, m.Private, c.Gateway()) {
			t.Errorf("%+v, healed while it was off, is still there", cut)
		}
	}
}

func TestMachineGoesAwayWhateverIsWrongWithIt(t *testing.T) {
	c := open(t, Config{})
	faults := map[string]func(weir.ID) error{
		"frozen": func(id weir.ID) error { return c.Freeze(t.Context(), id) },
		"lost":   func(id weir.ID) error { return c.Partition(t.Context(), id, weir.Cut{}) },
		"down":   func(id weir.ID) error { return c.Partition(t.Context(), id, weir.Cut{Down: true}) },
		"both": func(id weir.ID) error {
			return errors.Join(c.Partition(t.Context(), id, weir.Cut{}), c.Freeze(t.Context(), id))
		},
	}
	ends := map[string]func(weir.ID) error{
		"deleted":     func(id weir.ID) error { return c.DeleteMachine(t.Context(), id) },
		"powered off": func(id weir.ID) error { return c.PowerOff(t.Context(), id) },
		"killed":      func(id weir.ID) error { return c.Kill(t.Context(), id) },
	}
	for wrong, fault := range faults {
		for end, do := range ends {
			m := create(t, c, spec(1, echoing(7)))
			must(t, fault(m.ID))
			if err := do(m.ID); err != nil {
				t.Errorf("%s, then %s: %v", wrong, end, err)
			}
			must(t, c.DeleteMachine(t.Context(), m.ID))
			next := create(t, c, spec(2, echoing(7))) // with the same addresses
			if next.Private != m.Private {
				t.Fatalf("the next machine has %s, want %s", next.Private, m.Private)
			}
			dialled(t, c, "tcp", next.Private)
			dialled(t, c, "udp", next.Public)
			must(t, c.DeleteMachine(t.Context(), next.ID))
		}
	}
	for what, do := range map[string]func(context.Context, weir.ID) error{"kill": c.Kill, "freeze": c.Freeze, "thaw": c.Thaw, "reboot": c.Reboot,
		"heal": c.Heal, "partition": func(ctx context.Context, id weir.ID) error { return c.Partition(ctx, id, weir.Cut{}) }} {
		if err := do(t.Context(), "100009"); !errors.Is(err, weir.NotFound) {
			t.Errorf("%s of a machine that is not there: error %v, want not found", what, err)
		}
	}
}

func TestRegionClosesAndComesBackWholeWithMachinesThatAreNot(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	m := create(t, c, spec(1, ""))
	must(t, c.Partition(t.Context(), m.ID, weir.Cut{Link: weir.PrivateLink, Down: true}))
	must(t, c.Freeze(t.Context(), m.ID))
	must(t, c.Close())
	if left := tagged(t, c.paths); len(left) > 0 {
		t.Errorf("Close left %s", strings.Join(left, "\n"))
	}
	c = open(t, Config{Dir: dir})
	booted(t, c, m.ID)
	if !pings(t, c, m.ID, m.Private, c.Gateway()) {
		t.Error("a cut outlives its region")
	}
}

// broken has a machine frozen and another cut off.
func broken(ctx context.Context, c *Cloud) {
	for n := 1; n <= 2; n++ {
		_, err := c.CreateMachine(ctx, spec(n, "sleep infinity &\n"))
		die(err)
	}
	die(c.Freeze(ctx, "100001"))
	die(c.Partition(ctx, "100002", weir.Cut{Down: true}))
	fmt.Println("ready")
	select {}
}

func TestRegionKilledWithAFrozenMachineComesBack(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	kill(t, begin(t, dir, "broken"))
	c := open(t, Config{Dir: dir})
	for _, n := range []int{1, 2} {
		m := booted(t, c, spec(n, "").ID)
		if !pings(t, c, m.ID, m.Private, c.Gateway()) {
			t.Errorf("machine %s is cut off after its region came back", m.ID)
		}
	}
	must(t, c.Close())
	if left := tagged(t, c.paths); len(left) > 0 {
		t.Errorf("left is %s", strings.Join(left, "\n"))
	}

	kill(t, begin(t, dir, "broken"))
	must(t, Destroy(dir))
	if left := tagged(t, c.paths); len(left) > 0 {
		t.Errorf("Destroy left %s", strings.Join(left, "\n"))
	}
}

func TestFirewallOpensPortsOfUDP(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, echoing(7)))
	addr, err := c.Reserve(t.Context(), "lb", weir.IPv4)
	must(t, err)
	must(t, c.Assign(t.Context(), addr, m.ID))
	for _, to := range []netip.Addr{m.Public, m.Private, addr} {
		dialled(t, c, "udp", to)
	}
	old := dialled(t, c, "udp", m.Private)
	all := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	for _, test := range []struct {
		openings []weir.Opening
		tcp, udp bool
	}{
		{nil, false, false},
		{[]weir.Opening{{Port: 7, Peers: all}}, true, false},
		{[]weir.Opening{{Port: 7, UDP: true, Peers: all}}, false, true},
		{[]weir.Opening{{Port: 7, Peers: all}, {Port: 7, UDP: true, Peers: all}}, true, true},
		{[]weir.Opening{{Port: 8, Peers: all}, {Port: 8, UDP: true, Peers: all}}, false, false},
	} {
		must(t, c.SetFirewall(t.Context(), m.ID, &weir.Firewall{Openings: test.openings}))
		for network, want := range map[string]bool{"tcp": test.tcp, "udp": test.udp} {
			for _, to := range []netip.Addr{m.Private, addr} {
				err := hello(c, network, to)
				if (err == nil) != want || silent(err) {
					t.Errorf("%v: the gateway says hello to %s by %s: error %v, want %v", test.openings, to, network, err, want)
				}
			}
		}
		say(t, old, "still?")
		if err := hear(old, "still?", patient); err != nil {
			t.Errorf("%v: a flow that was let in: %v, want that it goes on", test.openings, err)
		}
	}
}

// hello asks a machine once for an echo, and returns at once if the machine refuses.
func hello(c *Cloud, network string, addr netip.Addr) error {
	conn, err := c.Dial(context.Background(), network, netip.AddrPortFrom(addr, 7).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	return hear(conn, "hello", 5*time.Second)
}
