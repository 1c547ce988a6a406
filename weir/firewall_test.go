package weir

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func nets(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestPortsAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]Ports{
		"0": {}, "all": {}, "22": {First: 22}, "22-22": {22, 22}, "8000-9000": {8000, 9000}, "1-65535": {1, 65535},
	} {
		got, err := ParsePorts(text)
		if err != nil || got != want {
			t.Errorf("%s is %+v (%v), want %+v", text, got, err, want)
		}
		if back := got.String(); back != text && text != "all" {
			t.Errorf("%s is written as %s", text, back)
		}
	}
	for _, text := range []string{"", "-", "-22", "22-", "+22", " 22", "022", "65536", "0-22", "9000-8000", "22,80", "22-80-90", "ssh", "0x16", "all-"} {
		if got, err := ParsePorts(text); err == nil {
			t.Errorf("%q is taken for the ports %s", text, got)
		}
	}
}

func TestPeersAreAddressesOrNetworks(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "10.1.2.3/8": "10.0.0.0/8", "0.0.0.0/0": "0.0.0.0/0",
		"::/0": "::/0", "2001:DB8::1": "2001:db8::1/128", "2001:db8:1::/48": "2001:db8:1::/48",
	} {
		if got, err := ParsePeer(text); err != nil || got.String() != want {
			t.Errorf("%s is %s (%v), want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "10", "10.0.0.0/33", "10.0.0/8", "::/129", "fe80::1%eth0", "::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "host.example", "10.0.0.1-10.0.0.9"} {
		if got, err := ParsePeer(text); err == nil {
			t.Errorf("%q is taken for %s", text, got)
		}
	}
}

func TestOpeningsOfTheSamePortsBecomeOne(t *testing.T) {
	var got []Opening
	for _, o := range []Opening{
		{Port: 80, Peers: nets("10.0.0.2/32")},
		{ICMP: true, Peers: nets("0.0.0.0/0")},
		{Port: 80, Last: 90, Peers: nets("10.0.0.2/32")},
		{Port: 80, Peers: nets("::1/128", "10.0.0.1/32", "10.0.0.2/32")},
		{Port: 80, UDP: true, Peers: nets("10.0.0.9/32")},
		{Port: 80, Last: 90, Peers: nets("10.0.0.0/8", "10.0.0.3/32", "0.0.0.0/0", "192.0.2.1/32")},
	} {
		got = Widen(got, o)
	}
	want := []Opening{
		{ICMP: true, Peers: nets("0.0.0.0/0")},
		{Port: 80, Peers: nets("10.0.0.1/32", "10.0.0.2/32", "::1/128")},
		{Port: 80, Last: 90, Peers: nets("0.0.0.0/0")},
		{Port: 80, UDP: true, Peers: nets("10.0.0.9/32")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("openings\n%+v, want\n%+v", got, want)
	}
}

func TestAWallIsWhatLoadBalancersNeedAndUsersAllow(t *testing.T) {
	guard := &Firewall{Openings: []Opening{{Port: 80, Peers: nets("10.0.0.2/32")}}}
	rules := &Rules{Of: []ID{"f"}, Firewall: Firewall{Confined: true, Openings: []Opening{{Port: 22, Peers: nets("0.0.0.0/0")}, {Port: 80, Peers: nets("10.0.0.9/32")}},
		Exits: []Opening{{Port: 53, UDP: true, Peers: nets("0.0.0.0/0")}}}}
	both := &Firewall{Confined: true, Openings: []Opening{{Port: 22, Peers: nets("0.0.0.0/0")}, {Port: 80, Peers: nets("10.0.0.2/32", "10.0.0.9/32")}}, Exits: rules.Firewall.Exits}
	for _, test := range []struct {
		m    Machine
		want *Firewall
	}{
		{Machine{}, nil},
		{Machine{Firewall: guard}, guard},
		{Machine{Rules: rules}, &rules.Firewall},
		{Machine{Firewall: guard, Rules: rules}, both},
		{Machine{Firewall: &Firewall{}, Rules: &Rules{Firewall: Firewall{Confined: true}}}, &Firewall{Confined: true}},
	} {
		got := test.m.Wall()
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("the wall is %+v, want %+v", got, test.want)
		}
		// What a row has is read as what was written.
		text, err := json.Marshal(got)
		var read *Firewall
		if err == nil {
			err = json.Unmarshal(text, &read)
		}
		if err != nil || !reflect.DeepEqual(read, got) || read.Digest() != got.Digest() {
			t.Errorf("%s is read as %+v (%v), want %+v", text, read, err, got)
		}
	}
	if len(rules.Firewall.Openings[1].Peers) != 1 || len(guard.Openings[0].Peers) != 1 {
		t.Error("putting walls together changed one of them")
	}
	if (&Firewall{}).Digest() == (&Firewall{Confined: true}).Digest() || (*Firewall)(nil).Digest() != "" {
		t.Error("firewalls that say something else have the same digest")
	}
}

func TestAMachinesFirewallHasPortsThatAre(t *testing.T) {
	for _, f := range []*Firewall{nil, {}, {Confined: true}, {Openings: []Opening{{ICMP: true}, {Port: 1, Last: 65535, UDP: true}, {Port: 7, Last: 7}}},
		{Confined: true, Exits: []Opening{{Port: 65535}}}} {
		if err := f.Check(); err != nil {
			t.Errorf("%+v is refused: %v", f, err)
		}
	}
	for want, o := range map[string]Opening{
		"port is 0, want 1 to 65535":           {},
		"port is 65536, want 1 to 65535":       {Port: 65536, UDP: true},
		"last port is 79, want 80 to 65535":    {Port: 80, Last: 79},
		"last port is 65536, want 80 to 65535": {Port: 80, Last: 65536},
		"ICMP has no ports, and is not UDP":    {ICMP: true, Port: 8},
	} {
		for _, f := range []Firewall{{Openings: []Opening{o}}, {Confined: true, Exits: []Opening{o}}} {
			if err := f.Check(); err == nil || err.Error() != want || KindOf(err) != Invalid {
				t.Errorf("%+v: error %v, want %q", f, err, want)
			}
		}
	}
	if err := (&Firewall{Exits: []Opening{{Port: 80}}}).Check(); err == nil {
		t.Error("a machine that is not confined has exits")
	}
}

func TestAFirewallsNameIsLikeAHosts(t *testing.T) {
	for _, name := range []string{"f", "web-1.front", "1-"} {
		if err := (&CloudFirewall{Name: name}).Check(); err != nil {
			t.Errorf("%q is refused: %v", name, err)
		}
	}
	for _, name := range []string{"", "-f", ".f", "a b", "a_b", "é", "a\nb", strings.Repeat("a", 256)} {
		if err := (&CloudFirewall{Name: name}).Check(); KindOf(err) != Invalid {
			t.Errorf("%q: error %v, want that it is no name", name, err)
		}
	}
}

func TestAFirewallHasBounds(t *testing.T) {
	rules := func(n, addresses int) (all []FirewallRule) {
		for range n {
			r := FirewallRule{Transport: OverICMP}
			for i := range addresses {
				r.Peers.Addresses = append(r.Peers.Addresses, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String())
			}
			all = append(all, r)
		}
		return all
	}
	for _, test := range []struct {
		f    CloudFirewall
		want string
	}{
		{CloudFirewall{Inbound: rules(100, 10), Outbound: rules(100, 10)}, ""},
		{CloudFirewall{Inbound: rules(200, 1), Outbound: rules(1, 1)}, "inbound_rules and outbound_rules have 201 rules, at most 200 are allowed: use ranges of ports, or another firewall"},
		{CloudFirewall{Inbound: rules(1, 1000), Outbound: rules(1, 1001)}, "outbound_rules[0].destinations.addresses: the firewall has more than 2000 addresses: use CIDRs, or another firewall"},
	} {
		test.f.Name = "f"
		err := test.f.Check()
		if got := fmt.Sprint(err); test.want == "" && err != nil || test.want != "" && (got != test.want || KindOf(err) != Invalid) {
			t.Errorf("error %v, want %q", err, test.want)
		}
	}
}
