package local

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"weir/cloud"
	"weir/weir"
)

func TestLinkedRegionsReachEachOtherByPrivateAddresses(t *testing.T) {
	first, second := Config{}.Numbered(0), Config{}.Numbered(1)
	first.Peers, second.Peers = []netip.Prefix{second.Private}, []netip.Prefix{first.Private}
	a, b := open(t, first), open(t, second)
	must(t, Link(a, b))
	must(t, Link(a, b)) // once more is as well
	here, there := create(t, a, spec(1, serve(80))), create(t, b, spec(2, serve(80)))
	curl := func(c *Cloud, from cloud.Machine, to netip.Addr) string {
		out, err := try(c, from.ID, "curl", "-sS", "--max-time", "2", fmt.Sprintf("http://%s/", to))
		if err != nil {
			return "error"
		}
		return out
	}
	for range 2 {
		if got := curl(a, here, there.Private); got != there.Name {
			t.Errorf("a machine asks one of the other region, and is told %q, want %q", got, there.Name)
		}
		if got := curl(b, there, here.Private); got != here.Name {
			t.Errorf("and the other way round %q, want %q", got, here.Name)
		}
		if answer, err := ask(a, there.Private, 80); err != nil || !strings.Contains(answer, there.Name) {
			t.Errorf("the gateway is told %q (%v), want %s", answer, err, there.Name)
		}
		if got := curl(b, there, here.Public); got != "error" {
			t.Errorf("at a public address it is told %q, want nothing: regions are joined by their private networks", got)
		}
		must(t, b.SetFirewall(t.Context(), there.ID, &weir.Firewall{Openings: []weir.Opening{{Port: 80, Peers: []netip.Prefix{netip.PrefixFrom(here.Private, 32), netip.PrefixFrom(a.Gateway(), 32)}}}}))
	}
	must(t, b.SetFirewall(t.Context(), there.ID, &weir.Firewall{}))
	if got := curl(a, here, there.Private); got != "error" {
		t.Errorf("a machine that lets nobody in tells %q", got)
	}
	must(t, b.Close())
	if got := curl(a, here, there.Private); got != "error" {
		t.Errorf("one of a region that has been closed tells %q", got)
	}
	if answer, err := ask(a, here.Private, 80); err != nil || !strings.Contains(answer, here.Name) {
		t.Errorf("with the other region gone, its own machine tells %q (%v), want %s", answer, err, here.Name)
	}
}

func TestRangesOfRegionsDoNotOverlap(t *testing.T) {
	var all []netip.Prefix
	for n := range MaxRegions {
		c := Config{}.Numbered(n)
		is, err := c.addresses()
		must(t, err)
		for _, p := range []netip.Prefix{is.Public, is.Reserved, is.Private, is.Anchor, is.Public6, is.Reserved6, is.Anchor6} {
			for _, other := range all {
				if p.IsValid() && p.Overlaps(other) {
					t.Errorf("%s of region %d overlaps %s", p, n, other)
				}
			}
			all = append(all, p)
		}
	}
}
