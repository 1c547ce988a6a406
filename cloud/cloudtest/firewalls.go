package cloudtest

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"weir/weir"
)

// openings returns a firewall with an opening of TCP for each port, and one of UDP for each
// negative one.
func openings(ports ...int) *weir.Firewall {
	f := &weir.Firewall{}
	for _, port := range ports {
		f.Openings = append(f.Openings, weir.Opening{Port: max(port, -port), UDP: port < 0,
			Peers: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/32"), netip.MustParsePrefix("192.0.2.0/24")}})
	}
	return f
}

func testFirewall(t *testing.T, s suite) {
	s.create(t, "100001")
	s.create(t, "100002")
	for _, set := range [][]int{{80}, {80}, {-80}, {80, -80}, {22, -53, 443}, {}} {
		f := openings(set...)
		must(t, "set firewall", s.SetFirewall(s.ctx, "100001", f))
		for i := range f.Openings { // the cloud has its own by now
			f.Openings[i].Port = 9
			f.Openings[i].Peers[0] = netip.Prefix{}
		}
		got := s.machine(t, "100001").Firewall
		if got == nil {
			t.Fatalf("no firewall is shown after one for ports %v was set", set)
		}
		if want := openings(set...); len(got.Openings) != len(set) || len(set) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("firewall is %v, want %v", got, want)
		}
	}
	// Every protocol, ranges, both directions, and addresses of either kind are kept as given.
	whole := func() *weir.Firewall {
		peers := func(texts ...string) (all []netip.Prefix) {
			for _, text := range texts {
				all = append(all, netip.MustParsePrefix(text))
			}
			return all
		}
		return &weir.Firewall{Confined: true,
			Openings: []weir.Opening{{ICMP: true, Peers: peers("0.0.0.0/0", "::/0")}, {Port: 22, Peers: peers("192.0.2.7/32", "2001:db8::/32")}, {Port: 8000, Last: 9000, UDP: true, Peers: peers("10.0.0.0/8")}},
			Exits:    []weir.Opening{{ICMP: true, Peers: peers("::/0")}, {Port: 1, Last: 65535, Peers: peers("0.0.0.0/0")}, {Port: 53, UDP: true, Peers: peers("192.0.2.53/32")}}}
	}
	for _, change := range []func(*weir.Firewall){
		func(*weir.Firewall) {},
		func(f *weir.Firewall) { f.Exits = nil },
		func(f *weir.Firewall) { f.Openings, f.Exits = nil, f.Exits[1:] },
		func(f *weir.Firewall) { f.Confined, f.Exits = false, nil },
		func(*weir.Firewall) {},
	} {
		f, want := whole(), whole()
		change(f)
		change(want)
		must(t, "set firewall", s.SetFirewall(s.ctx, "100001", f))
		for _, o := range slices.Concat(f.Openings, f.Exits) {
			o.Peers[0] = netip.Prefix{} // the cloud has its own by now
		}
		if got := s.machine(t, "100001").Firewall; !reflect.DeepEqual(got, want) {
			t.Errorf("firewall is %+v, want %+v", got, want)
		}
	}
	for what, o := range map[string]weir.Opening{"a range that ends before it begins": {Port: 80, Last: 79}, "a range with no end": {Port: 80, Last: 65536}, "a port of ICMP": {ICMP: true, Port: 8}} {
		want(t, "set a firewall for "+what, s.SetFirewall(s.ctx, "100001", &weir.Firewall{Confined: true, Exits: []weir.Opening{o}}), weir.Invalid)
	}
	for _, port := range []int{0, 65536} {
		bad := &weir.Firewall{Openings: []weir.Opening{{Port: port, UDP: true}}}
		want(t, fmt.Sprintf("set a firewall for port %d", port), s.SetFirewall(s.ctx, "100001", bad), weir.Invalid)
	}
	must(t, "set no firewall", s.SetFirewall(s.ctx, "100001", nil))
	for _, id := range []weir.ID{"100001", "100002"} {
		if got := s.machine(t, id).Firewall; got != nil {
			t.Errorf("the firewall of machine %s is %v, want none", id, got)
		}
	}
	must(t, "power off", s.PowerOff(s.ctx, "100001"))
	must(t, "set the firewall of a machine that is off", s.SetFirewall(s.ctx, "100001", openings(80)))
	must(t, "power on", s.PowerOn(s.ctx, "100001"))
	if got := s.machine(t, "100001").Firewall; !reflect.DeepEqual(got, openings(80)) {
		t.Errorf("firewall set while off is %v, want %v", got, openings(80))
	}
}
