package local

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

func TestFirewallLetsInOnlyItsOpenings(t *testing.T) {
	c := open(t, Config{})
	server := create(t, c, spec(1, serve(80)))
	friend := create(t, c, spec(2, ""))
	stranger := create(t, c, spec(3, ""))
	reach := func(id weir.ID, addr netip.Addr) bool {
		_, err := try(c, id, "curl", "-sS", "--max-time", "20", fmt.Sprintf("http://%s/", addr))
		return err == nil
	}
	check := func(when string, addr netip.Addr, wantFriend, wantStranger, wantGateway bool) {
		t.Helper()
		if got := reach(friend.ID, addr); got != wantFriend {
			t.Errorf("%s: the friend reaches %s: %v, want %v", when, addr, got, wantFriend)
		}
		if got := reach(stranger.ID, addr); got != wantStranger {
			t.Errorf("%s: a stranger reaches %s: %v, want %v", when, addr, got, wantStranger)
		}
		if _, err := ask(c, addr, 80); (err == nil) != wantGateway {
			t.Errorf("%s: the gateway reaches %s: %v, want %v", when, addr, err, wantGateway)
		}
	}
	set := func(f *weir.Firewall) {
		t.Helper()
		if err := c.SetFirewall(t.Context(), server.ID, f); err != nil {
			t.Fatal(err)
		}
	}
	only := func(port int, from ...netip.Prefix) *weir.Firewall {
		return &weir.Firewall{Openings: []weir.Opening{{Port: port, Peers: append(from, netip.MustParsePrefix("::/0"))}}}
	}
	friends := []netip.Prefix{netip.PrefixFrom(friend.Public, 32), netip.PrefixFrom(friend.Anchor, 32), netip.PrefixFrom(friend.Private, 32)}
	check("without a firewall", server.Private, true, true, true)
	set(only(80, friends...))
	for _, addr := range []netip.Addr{server.Private, server.Public, server.Anchor} {
		check("open to the friend", addr, true, false, false)
	}
	set(only(81, friends...))
	check("open to the friend on another port", server.Private, false, false, false)
	set(&weir.Firewall{})
	check("closed", server.Private, false, false, false)
	if !reach(server.ID, metadataAddr) {
		t.Error("a machine that is closed does not reach the metadata service")
	}
	if err := errors.Join(c.PowerOff(t.Context(), server.ID), c.PowerOn(t.Context(), server.ID)); err != nil {
		t.Fatal(err)
	}
	in(t, c, server.ID, "sh", "-c", "nginx >/dev/null 2>&1")
	check("closed, after power off and on", server.Private, false, false, false)
	set(only(80, netip.MustParsePrefix("0.0.0.0/0")))
	check("open to all", server.Private, true, true, true)
	set(nil)
	check("without a firewall again", server.Private, true, true, true)
}

func TestReservedIPMovesAndEstablishedFlowsStay(t *testing.T) {
	c := open(t, Config{})
	echo := "printf 'import socket,os\\ns=socket.create_server((\"\",7))\\nwhile True:\\n c,_=s.accept()\\n if os.fork()==0:\\n  while True:\\n   b=c.recv(99)\\n   if not b: os._exit(0)\\n   c.send(os.uname()[1].encode()+b\"\\\\n\")\\n' >/srv/echo.py\nsetsid python3 /srv/echo.py &\n"
	if _, err := exec.LookPath("/usr/bin/python3"); err != nil {
		t.Skip("the echo server of this test needs python3")
	}
	first, second := create(t, c, spec(1, echo)), create(t, c, spec(2, echo))
	client := create(t, c, spec(3, ""))
	addr, err := c.Reserve(t.Context(), "lb", weir.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	assign := func(ids ...weir.ID) {
		t.Helper()
		if err := c.Assign(t.Context(), addr, ids...); err != nil {
			t.Fatal(err)
		}
	}
	say := func(conn net.Conn) (string, error) {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write([]byte("who?")); err != nil {
			return "", err
		}
		answer, err := bufio.NewReader(conn).ReadString('\n')
		return strings.TrimSpace(answer), err
	}
	dial := func() net.Conn {
		t.Helper()
		var conn net.Conn
		eventually(t, "the reserved IP answers", func() (err error) {
			conn, err = c.Dial(t.Context(), "tcp", netip.AddrPortFrom(addr, 7).String())
			return err
		})
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	who := func(conn net.Conn, want string) {
		t.Helper()
		if got, err := say(conn); got != want || err != nil {
			t.Errorf("the reserved IP is answered by %q, %v, want %s", got, err, want)
		}
	}
	if _, err := c.Dial(t.Context(), "tcp", netip.AddrPortFrom(addr, 7).String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a reserved IP that points nowhere: error %v, want that it is refused", err)
	}
	assign(first.ID)
	old := dial()
	who(old, "web-1")
	assign(second.ID)
	who(dial(), "web-2")
	who(old, "web-1")
	assign()
	if _, err := c.Dial(t.Context(), "tcp", netip.AddrPortFrom(addr, 7).String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a reserved IP that was taken away: error %v, want that it is refused", err)
	}
	who(old, "web-1")
	assign(first.ID, second.ID)
	shares := func() map[string]int {
		t.Helper()
		n := map[string]int{}
		for range 100 {
			conn, err := c.Dial(t.Context(), "tcp", netip.AddrPortFrom(addr, 7).String())
			if err != nil {
				t.Fatal(err)
			}
			name, err := say(conn)
			conn.Close()
			if err != nil {
				t.Fatal(err)
			}
			n[name]++
		}
		return n
	}
	if got := shares(); got["web-1"] < 25 || got["web-2"] < 25 {
		t.Errorf("of 100 flows to two machines they have %v, want half each", got)
	}
	who(old, "web-1")
	if err := c.PowerOff(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	if got := shares(); got["web-1"] != 100 {
		t.Errorf("of 100 flows to two machines one of which is off they have %v, want all for the other", got)
	}
	who(old, "web-1")
	assign(first.ID)
	who(dial(), "web-1")

	// What a machine sends from its anchor address comes from the reserved IP.
	in(t, c, client.ID, "sh", "-c", "setsid python3 -c 'import socket\nc,a=socket.create_server((\"\",9)).accept()\nc.send(a[0].encode())' >/dev/null 2>&1 &")
	eventually(t, "the reserved IP is seen as the source", func() error {
		got, err := try(c, first.ID, "python3", "-c", fmt.Sprintf("import socket\nprint(socket.create_connection((%q,9),5,(%q,0)).recv(99).decode())", client.Public, first.Anchor))
		if err != nil || got != addr.String() {
			return fmt.Errorf("source %q, %v, want %s", got, err, addr)
		}
		return nil
	})

	// A machine that is off is not waited for, and its flows are over at once.
	if err := c.PowerOff(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Dial(t.Context(), "tcp", netip.AddrPortFrom(addr, 7).String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a reserved IP whose machine is off: error %v, want that it is refused", err)
	}
}

func TestNothingLeadsOutAndThatIsSaidAtOnce(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, ""))
	for to, want := range map[string]string{
		"192.0.2.1": "Network is unreachable", "8.8.8.8": "Network is unreachable",
		"203.0.113.200": "Connection refused", "10.110.3.3": "Connection refused", "198.51.100.9": "Connection refused",
	} {
		out, err := try(c, m.ID, "timeout", "30", "bash", "-c", "exec 3<>/dev/tcp/"+to+"/80")
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("connecting to %s says %q, %v, want %q", to, out, err, want)
		}
		if _, err := c.Dial(t.Context(), "tcp", to+":80"); !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("dialling %s from the gateway: error %v, want that it is unreachable or refused", to, err)
		}
	}
	if out := in(t, c, m.ID, "sh", "-c", "getent hosts elsewhere.example || echo unknown"); out != "unknown" {
		t.Errorf("a name of the world is known as %q", out)
	}
}

func TestMachineIsNotHeardUnderAnothersAddress(t *testing.T) {
	c := open(t, Config{})
	liar, other := create(t, c, spec(1, "")), create(t, c, spec(2, ""))
	asks := []string{"curl", "-sS", "--max-time", "2", "http://169.254.169.254/metadata/v1/id"}
	if got := in(t, c, liar.ID, asks...); got != string(liar.ID) {
		t.Fatalf("metadata says that the machine is %q, want %s", got, liar.ID)
	}
	for _, addr := range []netip.Addr{other.Public, other.Private} {
		in(t, c, liar.ID, "ip", "address", "add", addr.String()+"/32", "dev", "eth0")
		if got, err := try(c, liar.ID, slices.Concat(asks, []string{"--interface", addr.String()})...); err == nil {
			t.Errorf("asking as %s, another machine, was answered %q", addr, got)
		}
	}
}
