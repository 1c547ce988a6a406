package local

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"weir/weir"
)

// greets has a machine ask another for an echo, on a new flow of tcp, udp or icmp.
func greets(t *testing.T, c *Cloud, from weir.ID, network string, addr netip.Addr) error {
	t.Helper()
	if network == "icmp" {
		m := look(t, c, from)
		by := m.Private
		if addr.Is6() {
			by = m.Public6
		}
		if !pings(t, c, from, by, addr) {
			return errors.New("no answer to a ping")
		}
		return nil
	}
	conn, err := dialFrom(t, c, from, network, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	return hear(conn, "hello", 5*time.Second)
}

// dialFrom opens a flow from a machine to where another echoes.
func dialFrom(t *testing.T, c *Cloud, from weir.ID, network string, addr netip.Addr) (conn net.Conn, err error) {
	t.Helper()
	nerr := inside(t, c, from, func() error {
		conn, err = net.DialTimeout(network, netip.AddrPortFrom(addr, 7).String(), 5*time.Second)
		return nil
	})
	return conn, errors.Join(err, nerr)
}

func TestFirewallFiltersEachProtocolInBothDirections(t *testing.T) {
	c := open(t, Config{})
	m, friend, stranger := create(t, c, spec(1, echoing(7))), create(t, c, spec(2, echoing(7))), create(t, c, spec(3, echoing(7)))
	for _, other := range []weir.ID{friend.ID, stranger.ID} {
		eventually(t, "machines echo", func() error {
			return errors.Join(greets(t, c, m.ID, "tcp", look(t, c, other).Private), greets(t, c, other, "udp", m.Private))
		})
	}
	nets := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	all := nets("0.0.0.0/0", "::/0")
	only := []netip.Prefix{netip.PrefixFrom(friend.Private, 32), netip.MustParsePrefix("2001:db8::/32")}

	// Flows that are there from before go on whatever follows, in both directions.
	type flow struct {
		name string
		net.Conn
	}
	var old []flow
	for _, network := range []string{"tcp", "udp"} {
		in, err := dialFrom(t, c, friend.ID, network, m.Private)
		must(t, err)
		out, err := dialFrom(t, c, m.ID, network, friend.Private)
		must(t, err)
		old = append(old, flow{network + " in", in}, flow{network + " out", out})
	}
	goOn := func(when string) {
		t.Helper()
		for _, f := range old {
			say(t, f, "still?")
			if err := hear(f, "still?", patient); err != nil {
				t.Errorf("%s: a flow of %s that was let through: %v, want that it goes on", when, f.name, err)
			}
		}
	}
	goOn("without a firewall")

	const everything = "in:friend:tcp in:friend:udp in:friend:icmp in:stranger:tcp in:stranger:udp in:stranger:icmp " +
		"out:friend:tcp out:friend:udp out:friend:icmp out:stranger:tcp out:stranger:udp out:stranger:icmp"
	const out = "out:friend:tcp out:friend:udp out:friend:icmp out:stranger:tcp out:stranger:udp out:stranger:icmp"
	for _, test := range []struct {
		name string
		f    *weir.Firewall
		want string
	}{
		{"nothing in or out", &weir.Firewall{Confined: true}, ""},
		{"nothing in", &weir.Firewall{}, out},
		{"tcp in from the friend, of a range", &weir.Firewall{Confined: true, Openings: []weir.Opening{{Port: 5, Last: 7, Peers: only}}}, "in:friend:tcp"},
		{"a range that ends before", &weir.Firewall{Confined: true, Openings: []weir.Opening{{Port: 5, Last: 6, Peers: all}}}, ""},
		{"udp in from everybody", &weir.Firewall{Confined: true, Openings: []weir.Opening{{Port: 7, UDP: true, Peers: all}}}, "in:friend:udp in:stranger:udp"},
		{"icmp in from the friend", &weir.Firewall{Confined: true, Openings: []weir.Opening{{ICMP: true, Peers: only}}}, "in:friend:icmp"},
		{"tcp out to the friend", &weir.Firewall{Confined: true, Exits: []weir.Opening{{Port: 7, Peers: only}}}, "out:friend:tcp"},
		{"udp out to everybody", &weir.Firewall{Confined: true, Exits: []weir.Opening{{Port: 1, Last: 65535, UDP: true, Peers: all}}}, "out:friend:udp out:stranger:udp"},
		{"icmp out to everybody, tcp in", &weir.Firewall{Confined: true, Openings: []weir.Opening{{Port: 7, Peers: all}}, Exits: []weir.Opening{{ICMP: true, Peers: all}}},
			"in:friend:tcp in:stranger:tcp out:friend:icmp out:stranger:icmp"},
		{"addresses of IPv6 alone", &weir.Firewall{Confined: true, Openings: []weir.Opening{{Port: 7, Peers: nets("::/0")}}, Exits: []weir.Opening{{Port: 7, Peers: nets("::/0")}}}, ""},
		{"none", nil, everything},
		{"nothing again", &weir.Firewall{Confined: true}, ""},
	} {
		must(t, c.SetFirewall(t.Context(), m.ID, test.f))
		got := ""
		for _, way := range []string{"in", "out"} {
			for _, other := range []struct {
				name string
				id   weir.ID
				addr netip.Addr
			}{{"friend", friend.ID, friend.Private}, {"stranger", stranger.ID, stranger.Private}} {
				for _, network := range []string{"tcp", "udp", "icmp"} {
					from, addr := other.id, m.Private
					if way == "out" {
						from, addr = m.ID, other.addr
					}
					err := greets(t, c, from, network, addr)
					if err == nil {
						got += fmt.Sprintf(" %s:%s:%s", way, other.name, network)
					}
					if silent(err) {
						t.Errorf("%s: %s %s, %s, is lost silently, want that it is refused", test.name, network, way, other.name)
					}
				}
			}
		}
		if len(got) > 0 {
			got = got[1:]
		}
		if got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
		goOn(test.name)
		if id := in(t, c, m.ID, "curl", "-sS", "--max-time", "20", "http://169.254.169.254/metadata/v1/id"); id != string(m.ID) {
			t.Errorf("%s: the metadata service says %q, want %s", test.name, id, m.ID)
		}
	}

	// A machine that comes later, at the same addresses, is open.
	must(t, c.DeleteMachine(t.Context(), m.ID))
	next := create(t, c, spec(4, echoing(7)))
	if next.Private != m.Private {
		t.Fatalf("the next machine has %s, want %s again", next.Private, m.Private)
	}
	eventually(t, "the next machine is open both ways", func() error {
		return errors.Join(greets(t, c, friend.ID, "tcp", next.Private), greets(t, c, next.ID, "udp", friend.Private))
	})
}

func TestFirewallKnowsReservedIPs(t *testing.T) {
	c := open(t, Config{})
	m, other := create(t, c, spec(1, echoing(7))), create(t, c, spec(2, echoing(7)))
	reserved, err := c.Reserve(t.Context(), "lb", weir.IPv4)
	must(t, err)
	must(t, c.Assign(t.Context(), reserved, other.ID))
	eventually(t, "the reserved IP echoes", func() error { return greets(t, c, m.ID, "tcp", reserved) })
	host := func(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, 32)} }

	// Out of a machine it is what was addressed that counts, and not the anchor behind it.
	for _, test := range []struct {
		to                  []netip.Prefix
		byReserved, private bool
	}{{host(reserved), true, false}, {host(other.Anchor), false, false}, {host(other.Private), false, true}} {
		must(t, c.SetFirewall(t.Context(), m.ID, &weir.Firewall{Confined: true, Exits: []weir.Opening{{Port: 7, Peers: test.to}}}))
		for addr, want := range map[netip.Addr]bool{reserved: test.byReserved, other.Private: test.private} {
			if err := greets(t, c, m.ID, "tcp", addr); (err == nil) != want {
				t.Errorf("with an exit to %s, the machine reaches %s: %v, want %v", test.to, addr, err, want)
			}
		}
	}

	// Into a machine it is the reserved IP that it sees as the source, or the anchor behind it.
	for _, test := range []struct {
		from []netip.Prefix
		want bool
	}{{host(reserved), true}, {[]netip.Prefix{c.networks.Reserved}, true}, {host(other.Anchor), true}, {host(other.Public), false}, {host(reserved.Next()), false}} {
		must(t, c.SetFirewall(t.Context(), m.ID, &weir.Firewall{Openings: []weir.Opening{{ICMP: true, Peers: test.from}}}))
		if got := pings(t, c, other.ID, other.Anchor, m.Public); got != test.want {
			t.Errorf("with an opening for %s, a ping from %s is answered: %v, want %v", test.from, reserved, got, test.want)
		}
	}
}
