package local

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"weir/cloud"
	"weir/weir"
)

// needIPv6 skips a test on a host without.
func needIPv6(t *testing.T) {
	t.Helper()
	if !hasIPv6() {
		t.Skip("the kernel has no IPv6")
	}
}

// spec6 is spec of a machine with IPv6.
func spec6(n int, script string) cloud.Spec {
	s := spec(n, script)
	s.IPv6 = true
	return s
}

// serve6 is serve by IPv6 too.
func serve6(port int) string {
	return strings.Replace(serve(port), "listen", fmt.Sprintf("listen [::]:%d; listen", port), 1)
}

func TestMachinesSpeakIPv6IfTheyAreTo(t *testing.T) {
	needIPv6(t)
	c := open(t, Config{})
	m, other, without := create(t, c, spec6(1, echoing(7))), create(t, c, spec6(2, "")), create(t, c, spec(3, "echo kept >/root/file\n"))
	if got := in(t, c, m.ID, "ip", "-brief", "-6", "address", "show", "dev", "eth0"); !strings.Contains(got, m.Public6.String()+"/64") || !strings.Contains(got, m.Anchor6.String()+"/64") {
		t.Errorf("the machine has %q, want %s and %s", got, m.Public6, m.Anchor6)
	}
	if got := in(t, c, without.ID, "ip", "-brief", "-6", "address"); strings.Contains(got, "eth") {
		t.Errorf("a machine that is to have no IPv6 has %q", got)
	}
	for _, addr := range []netip.Addr{m.Public6, m.Anchor6} {
		dialled(t, c, "tcp", addr)
		dialled(t, c, "udp", addr)
	}
	for _, network := range []string{"tcp", "udp", "icmp"} {
		if err := greets(t, c, other.ID, network, m.Public6); err != nil {
			t.Errorf("another machine by %s: %v", network, err)
		}
	}
	if got := in(t, c, m.ID, "curl", "-sS", "http://169.254.169.254/metadata/v1/interfaces/public/0/ipv6/address"); got != m.Public6.String() {
		t.Errorf("metadata says that the machine has %q, want %s", got, m.Public6)
	}
	for to, want := range map[string]string{"2001:db8:0:1::99": "Connection refused", "2001:db8:0:2::99": "Connection refused", "2001:db8:ffff::1": "Network is unreachable"} {
		out, err := try(c, m.ID, "timeout", "30", "bash", "-c", "exec 3<>/dev/tcp/"+to+"/80")
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("connecting to %s says %q, %v, want %q", to, out, err, want)
		}
		if _, err := c.Dial(t.Context(), "tcp", "["+to+"]:80"); !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialling %s from the gateway: error %v, want that it is unreachable or refused", to, err)
		}
	}
	gateway, err := c.Listen("tcp", net.JoinHostPort(gatewayOf(c.networks.Public6).String(), "99"))
	must(t, err)
	defer gateway.Close()
	in(t, c, other.ID, "timeout", "30", "bash", "-c", "exec 3<>/dev/tcp/"+gatewayOf(c.networks.Public6).String()+"/99")

	// One that lies about its source is not heard.
	liar := netip.MustParseAddr("2001:db8:0:1::77")
	in(t, c, other.ID, "ip", "address", "add", liar.String()+"/128", "dev", "eth0", "nodad")
	if pings(t, c, other.ID, liar, m.Public6) {
		t.Errorf("a ping from %s, which is not the machine's, is answered", liar)
	}

	// A machine gets it while it runs, and keeps it.
	must(t, c.EnableIPv6(t.Context(), without.ID))
	with := look(t, c, without.ID)
	if !pings(t, c, other.ID, other.Public6, with.Public6) || !pings(t, c, with.ID, with.Public6, m.Public6) {
		t.Error("a machine that has got IPv6 while it is on does not speak it")
	}
	must(t, errors.Join(c.PowerOff(t.Context(), with.ID), c.PowerOn(t.Context(), with.ID)))
	booted(t, c, with.ID)
	if !pings(t, c, other.ID, other.Public6, with.Public6) {
		t.Error("off and on, it has lost it")
	}
}

func TestReservedIPv6MovesAndIsSpread(t *testing.T) {
	needIPv6(t)
	c := open(t, Config{})
	first, second, client := create(t, c, spec6(1, serve6(80))), create(t, c, spec6(2, serve6(80))), create(t, c, spec6(3, echoing(7)))
	addr, err := c.Reserve(t.Context(), "lb", weir.IPv6)
	must(t, err)
	refused := func(when string) {
		t.Helper()
		if _, err := c.Dial(t.Context(), "tcp", netip.AddrPortFrom(addr, 80).String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: error %v, want that it is refused", when, err)
		}
	}
	answers := func(when string, want ...string) {
		t.Helper()
		shares := map[string]int{}
		for range 50 {
			got, err := ask(c, addr, 80)
			must(t, err)
			shares[got]++
		}
		for _, name := range want {
			if shares[name] < 10 {
				t.Errorf("%s: of 50 requests %v, want some at each of %v", when, shares, want)
			}
			delete(shares, name)
		}
		if len(shares) > 0 {
			t.Errorf("%s: %v answer, want %v", when, shares, want)
		}
	}
	refused("assigned to nobody")
	must(t, c.Assign(t.Context(), addr, first.ID))
	answers("assigned", "web-1")
	if got := in(t, c, client.ID, "curl", "-sS", "--max-time", "20", "http://["+addr.String()+"]/"); got != "web-1" {
		t.Errorf("another machine is answered %q, want web-1", got)
	}
	must(t, c.Assign(t.Context(), addr, second.ID))
	answers("moved", "web-2")
	must(t, c.Assign(t.Context(), addr, first.ID, second.ID))
	answers("spread", "web-1", "web-2")

	// What a machine sends from its anchor address comes from the reserved IP, and firewalls know it as that.
	must(t, c.SetFirewall(t.Context(), client.ID, &weir.Firewall{Openings: []weir.Opening{{ICMP: true, Peers: []netip.Prefix{netip.PrefixFrom(addr, 128)}}}}))
	if !pings(t, c, first.ID, first.Anchor6, client.Public6) || pings(t, c, first.ID, first.Public6, client.Public6) {
		t.Error("a machine that is open to the reserved IP is to answer what comes from its anchor, and nothing else")
	}

	must(t, c.PowerOff(t.Context(), second.ID))
	answers("one of two is off", "web-1")
	must(t, c.PowerOff(t.Context(), first.ID))
	refused("both are off")
}

func TestFirewallFiltersIPv6(t *testing.T) {
	needIPv6(t)
	c := open(t, Config{})
	m, friend, stranger := create(t, c, spec(1, "")), create(t, c, spec6(2, echoing(7))), create(t, c, spec6(3, echoing(7)))
	// It is closed before it has IPv6, and stays so.
	must(t, c.SetFirewall(t.Context(), m.ID, &weir.Firewall{Confined: true}))
	must(t, c.EnableIPv6(t.Context(), m.ID))
	m = look(t, c, m.ID)
	in(t, c, m.ID, "sh", "-c", echoing(7))
	only := []netip.Prefix{netip.PrefixFrom(friend.Public6, 128), netip.MustParsePrefix("0.0.0.0/0")}
	all := []netip.Prefix{netip.MustParsePrefix("::/0")}
	for _, other := range []weir.ID{friend.ID, stranger.ID} {
		eventually(t, "machines echo", func() error { return greets(t, c, stranger.ID, "udp", look(t, c, other).Public6) })
	}
	for _, test := range []struct {
		name string
		f    *weir.Firewall
		want string
	}{
		{"as before", nil, ""},
		{"nothing in or out", &weir.Firewall{Confined: true}, ""},
		{"nothing in", &weir.Firewall{}, "out:friend:tcp out:friend:udp out:friend:icmp out:stranger:tcp out:stranger:udp out:stranger:icmp"},
		{"tcp in from the friend", &weir.Firewall{Confined: true, Openings: []weir.Opening{{Port: 5, Last: 7, Peers: only}}}, "in:friend:tcp"},
		{"udp in from everybody", &weir.Firewall{Confined: true, Openings: []weir.Opening{{Port: 7, UDP: true, Peers: all}}}, "in:friend:udp in:stranger:udp"},
		{"icmp in from the friend", &weir.Firewall{Confined: true, Openings: []weir.Opening{{ICMP: true, Peers: only}}}, "in:friend:icmp"},
		{"tcp and icmp out to the friend", &weir.Firewall{Confined: true, Exits: []weir.Opening{{Port: 7, Peers: only}, {ICMP: true, Peers: only}}}, "out:friend:tcp out:friend:icmp"},
	} {
		if test.f != nil {
			must(t, c.SetFirewall(t.Context(), m.ID, test.f))
		}
		var got []string
		for _, way := range []string{"in", "out"} {
			for _, other := range []struct {
				name string
				cloud.Machine
			}{{"friend", friend}, {"stranger", stranger}} {
				for _, network := range []string{"tcp", "udp", "icmp"} {
					from, addr := other.ID, m.Public6
					if way == "out" {
						from, addr = m.ID, other.Public6
					}
					err := greets(t, c, from, network, addr)
					if err == nil {
						got = append(got, way+":"+other.name+":"+network)
					}
					if silent(err) {
						t.Errorf("%s: %s %s, %s, is lost silently, want that it is refused", test.name, network, way, other.name)
					}
				}
			}
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
	}
	must(t, c.SetFirewall(t.Context(), m.ID, nil))
	eventually(t, "it is open", func() error { return greets(t, c, stranger.ID, "tcp", m.Public6) })
}

func TestCutLosesIPv6Too(t *testing.T) {
	needIPv6(t)
	c := open(t, Config{})
	m, other := create(t, c, spec6(1, echoing(7))), create(t, c, spec6(2, ""))
	conn := dialled(t, c, "tcp", m.Public6)
	for _, cut := range []weir.Cut{{}, {Link: weir.PublicLink, Direction: weir.Inward}, {Link: weir.PublicLink, Direction: weir.Outward}, {Link: weir.PublicLink, Down: true}} {
		must(t, c.Partition(t.Context(), m.ID, cut))
		if pings(t, c, other.ID, other.Public6, m.Public6) {
			t.Errorf("%+v: it answers", cut)
		}
		unheard(t, c, m.Public6)
		must(t, c.Heal(t.Context(), m.ID))
		if !pings(t, c, other.ID, other.Public6, m.Public6) {
			t.Errorf("%+v, healed: it does not answer", cut)
		}
	}
	say(t, conn, "there?")
	if err := hear(conn, "there?", patient); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
}

func TestRegionOfBeforeIPv6Opens(t *testing.T) {
	needIPv6(t)
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	m := create(t, c, spec(1, echoing(7)))
	path := filepath.Join(c.paths.machine(m.ID), "machine.json")
	must(t, c.Close())
	text, err := os.ReadFile(path)
	must(t, err)
	if strings.Contains(string(text), "6\":") {
		t.Errorf("the record of a machine without IPv6 speaks of it: %s", text)
	}
	c = open(t, Config{Dir: dir})
	booted(t, c, m.ID)
	must(t, c.EnableIPv6(t.Context(), m.ID))
	with := look(t, c, m.ID)
	must(t, c.Close())
	c = open(t, Config{Dir: dir})
	if again := booted(t, c, m.ID); again.Public6 != with.Public6 || again.Public != m.Public {
		t.Errorf("the machine is %+v, want %+v", again, with)
	}
}
