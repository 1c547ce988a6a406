package control

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/weir"
)

var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func tcp(port int, peers weir.Peers) weir.FirewallRule {
	return weir.FirewallRule{Transport: weir.OverTCP, Ports: weir.Ports{First: port}, Peers: peers}
}

func TestRulesOfAMachineAreThoseOfAllItsFirewalls(t *testing.T) {
	balanced := balancer()
	balanced.Status.Address = netip.MustParseAddr("198.51.100.1")
	db, leaving, own := server(2), server(3), server(5)
	db.Tags = []string{"DB"}
	leaving.Deleting = testNow
	own.Own = true
	young := server(6)
	young.Status = weir.MachineStatus{}
	v := firewallView{balancers: []weir.LoadBalancer{balanced}, machines: []weir.Machine{server(1), db, leaving, instance(4), own, young},
		firewalls: []weir.CloudFirewall{
			{ID: "b", Tags: []string{"WEB"}, // server 1, and the young one
				Inbound: []weir.FirewallRule{tcp(22, weir.Peers{Addresses: []string{"192.0.2.1/24"}, Tags: []string{"db"}}), tcp(80, weir.Peers{LoadBalancers: []weir.ID{"lb"}})},
				Outbound: []weir.FirewallRule{tcp(80, weir.Peers{LoadBalancers: []weir.ID{"lb"}}),
					{Transport: weir.OverUDP, Peers: weir.Peers{Machines: []weir.ID{"100002", "100006"}}}}},
			{ID: "a", Machines: []weir.ID{"100001", "100009"}, // which is not there
				Inbound: []weir.FirewallRule{tcp(22, weir.Peers{Addresses: []string{"::/0", "192.0.2.0/25"}}), {Transport: weir.OverICMP, Peers: weir.Peers{Tags: []string{"web"}}}}},
			{ID: "c", Tags: []string{"none"}, Machines: []weir.ID{"100004", "100005"}}, // an instance, and a machine of one's own
		}}
	b := weir.Firewall{Confined: true,
		Openings: []weir.Opening{{Port: 22, Peers: prefixes("10.110.0.2/32", "192.0.2.0/24")}, {Port: 80, Peers: prefixes("10.17.0.4/32", "10.110.0.4/32")}},
		Exits:    []weir.Opening{{Port: 1, Last: 65535, UDP: true, Peers: prefixes("10.110.0.2/32")}, {Port: 80, Peers: prefixes("10.17.0.4/32", "10.110.0.4/32", "198.51.100.1/32")}}}
	both := *b.Clone()
	both.Openings = []weir.Opening{{ICMP: true, Peers: prefixes("10.110.0.1/32", "10.110.0.3/32", "10.110.0.5/32")}, {Port: 22, Peers: prefixes("10.110.0.2/32", "192.0.2.0/24", "::/0")}, b.Openings[1]}
	want := map[weir.ID]*weir.Rules{
		"100001": {Of: []weir.ID{"a", "b"}, Firewall: both},
		"100006": {Of: []weir.ID{"b"}, Firewall: b},
	}
	if diff := cmp.Diff(want, v.planRules(), comparePrefixes); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestFirewallsOfOneTeamDoNotMeetMachinesOfAnother(t *testing.T) {
	mine, theirs := server(1), server(2)
	mine.Team, theirs.Team = "blue", "green"
	v := firewallView{machines: []weir.Machine{mine, theirs}, firewalls: []weir.CloudFirewall{
		{ID: "f", Team: "blue", Tags: []string{"web"}, Machines: []weir.ID{"100001", "100002"},
			Inbound: []weir.FirewallRule{tcp(22, weir.Peers{Tags: []string{"web"}})}}}}
	want := map[weir.ID]*weir.Rules{"100001": {Of: []weir.ID{"f"},
		Firewall: weir.Firewall{Confined: true, Openings: []weir.Opening{{Port: 22, Peers: prefixes("10.110.0.1/32")}}}}}
	if diff := cmp.Diff(want, v.planRules(), comparePrefixes); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestAFirewallIsLiveWhenEveryMachineHasItsRules(t *testing.T) {
	f := weir.CloudFirewall{ID: "f", Machines: []weir.ID{"100001"}, Inbound: []weir.FirewallRule{tcp(22, weir.Peers{Addresses: []string{"0.0.0.0/0"}})}}
	wall := &weir.Firewall{Confined: true, Openings: []weir.Opening{{Port: 22, Peers: prefixes("0.0.0.0/0")}}}
	other := &weir.Firewall{Confined: true}
	guard := &weir.Firewall{Openings: []weir.Opening{{Port: 22, Peers: prefixes("0.0.0.0/0")}}}
	for _, test := range []struct {
		name    string
		n       int // of the machine; the firewall is for number 1
		change  func(*weir.Machine)
		want    weir.CloudFirewallPhase
		removes bool
	}{
		{"one that has it", 1, func(m *weir.Machine) { m.Status.Wall, m.Obeys = wall.Digest(), []weir.ID{"f"} }, weir.FirewallSucceeded, false},
		{"one that is open", 1, func(*weir.Machine) {}, weir.FirewallWaiting, false},
		{"one that has older rules of it", 1, func(m *weir.Machine) { m.Status.Wall, m.Obeys = other.Digest(), []weir.ID{"f"} }, weir.FirewallWaiting, false},
		{"one that has what another firewall says, which is the same", 1, func(m *weir.Machine) { m.Status.Wall, m.Obeys = wall.Digest(), []weir.ID{"g"} }, weir.FirewallWaiting, false},
		{"one whose load balancer is not let in yet", 1, func(m *weir.Machine) {
			m.Firewall = &weir.Firewall{Openings: []weir.Opening{{Port: 80, Peers: prefixes("10.0.0.1/32")}}}
			m.Status.Wall, m.Obeys = wall.Digest(), []weir.ID{"f"}
		}, weir.FirewallWaiting, false},
		{"one whose load balancer needs no more", 1, func(m *weir.Machine) { m.Firewall, m.Status.Wall, m.Obeys = guard, wall.Digest(), []weir.ID{"f"} }, weir.FirewallSucceeded, false},
		{"one that cannot have it", 1, func(m *weir.Machine) { m.Status.Err = "out of order" }, weir.FirewallFailed, false},
		{"one that is being deleted", 1, func(m *weir.Machine) { m.Deleting = testNow }, weir.FirewallSucceeded, false},
		{"one that it is not for", 2, func(*weir.Machine) {}, weir.FirewallSucceeded, false},
		{"one that still has it", 2, func(m *weir.Machine) { m.Status.Wall, m.Obeys = wall.Digest(), []weir.ID{"f"} }, weir.FirewallWaiting, true},
	} {
		m := server(test.n)
		test.change(&m)
		v := firewallView{firewalls: []weir.CloudFirewall{f}, machines: []weir.Machine{m}}
		fs := []weir.CloudFirewall{f}
		v.show(fs)
		got := fs[0].Status
		if got.Phase != test.want || len(got.Changes) > 0 != (test.want != weir.FirewallSucceeded) || (got.Err != "") != (test.want == weir.FirewallFailed) {
			t.Errorf("%s: the firewall is %+v, want %s", test.name, got, test.want)
		}
		for _, c := range got.Changes {
			if c.Machine != m.ID || c.Removing != test.removes {
				t.Errorf("%s: the change is %+v, want removing: %v", test.name, c, test.removes)
			}
		}
	}
}
