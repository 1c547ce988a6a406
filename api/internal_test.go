package api_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/digitalocean/godo"

	"weir/api"
	"weir/weir"
)

func TestALoadBalancerIsInternalIfItIsToBe(t *testing.T) {
	r := lab(t)
	r.serve()
	r.droplets([]string{"a"})
	q := &godo.LoadBalancerRequest{Name: "inside", ForwardingRules: []godo.ForwardingRule{webRule}, Network: godo.LoadBalancerNetworkTypeInternal, SizeUnit: 2}
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if err != nil || lb.Network != godo.LoadBalancerNetworkTypeInternal || lb.NetworkStack != godo.LoadBalancerNetworkStackIPv4 {
		t.Fatalf("%+v (%v), want it internal, and of IPv4", lb, err)
	}
	r.eventually("it is active", func() bool {
		now, _, err := r.do.LoadBalancers.Get(t.Context(), lb.ID)
		if err != nil {
			t.Fatal(err)
		}
		lb = now
		return lb.Status == "active"
	})
	if addr, err := netip.ParseAddr(lb.IP); err != nil || !r.cloud.PrivateNetwork().Contains(addr) || lb.IPv6 != "" {
		t.Errorf("active with the addresses %q and %q, want one of %s alone", lb.IP, lb.IPv6, r.cloud.PrivateNetwork())
	}
	held, err := r.cloud.Addresses(t.Context())
	if err != nil || len(held) != 1 || !held[0].Private || len(held[0].Machines) != 2 {
		t.Errorf("the cloud holds %+v (%v), want one of the private network, at two machines", held, err)
	}
	if ips, _, err := r.do.ReservedIPs.List(t.Context(), nil); err != nil || len(ips) > 0 {
		t.Errorf("reserved IPs %v (%v), want none: its own is not among them", ips, err)
	}
	for _, path := range []string{"/v2/reserved_ips/", "/v2/floating_ips/"} {
		if a := r.ask("GET", path+lb.IP, ""); a.status != http.StatusNotFound {
			t.Errorf("GET %s%s: %d %s, want 404", path, lb.IP, a.status, a.text)
		}
	}
	for network, want := range map[string]int{"": 200, "internal": 200, "INTERNAL": 200, "EXTERNAL": 422} {
		q.Network = network
		now, resp, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, q)
		if resp.StatusCode != want || want == 200 && (err != nil || now.Network != godo.LoadBalancerNetworkTypeInternal || now.IP != lb.IP || now.Status != "active") {
			t.Errorf("replaced with %q: %+v (%v), want %d and all as it was", network, now, err, want)
		}
		if says := `network is "EXTERNAL", and load balancer "inside" has INTERNAL, which stays as it was created: leave it out, or create another load balancer`; want == 422 && !strings.Contains(err.Error(), says) {
			t.Errorf("made external: %v, want %s", err, says)
		}
	}
	q.Network, q.NetworkStack = "", godo.LoadBalancerNetworkStackDualstack
	if _, resp, _ := r.do.LoadBalancers.Update(t.Context(), lb.ID, q); resp.StatusCode != 422 {
		t.Errorf("made one of both families: %d, want 422", resp.StatusCode)
	}
	outside, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "outside", ForwardingRules: []godo.ForwardingRule{webRule}})
	if err != nil || outside.Network != godo.LoadBalancerNetworkTypeExternal {
		t.Fatalf("%+v (%v), want it external", outside, err)
	}
	if _, resp, err := r.do.LoadBalancers.Update(t.Context(), outside.ID, &godo.LoadBalancerRequest{Name: "outside", ForwardingRules: []godo.ForwardingRule{webRule}, Network: "INTERNAL"}); resp.StatusCode != 422 || !strings.Contains(err.Error(), `network is "INTERNAL", and load balancer "outside" has EXTERNAL`) {
		t.Errorf("made internal: %v, want that it stays as it was created", err)
	}
	if _, err := r.do.LoadBalancers.Delete(t.Context(), lb.ID); err != nil {
		t.Fatal(err)
	}
	r.eventually("its address is given back", func() bool {
		held, err := r.cloud.Addresses(t.Context())
		return err == nil && len(held) < 2 && (len(held) == 0 || !held[0].Private)
	})
}

func TestAnAppsLoadBalancerIsInternalIfItIsToBe(t *testing.T) {
	r := lab(t)
	app := web(1)
	app.LoadBalancer.Network = "inner"
	if _, _, err := call[api.Applied](r, "PUT", "app", app); err == nil || !strings.Contains(err.Error(), `load_balancer.network is "inner", want internal or external`) {
		t.Errorf("network inner: %v, want that it is refused", err)
	}
	app.LoadBalancer.Network = "internal"
	for _, path := range []string{"app", "app?dry_run=true"} {
		if did, _, err := call[api.Applied](r, "PUT", path, app); err != nil || path != "app" && len(did.Changes) > 0 {
			t.Errorf("%s: %+v (%v), want it as it is asked for", path, did, err)
		}
	}
	lbs, _, err := r.do.LoadBalancers.List(t.Context(), nil)
	if err != nil || len(lbs) != 1 || lbs[0].Network != "INTERNAL" {
		t.Errorf("load balancers %+v (%v), want one that is internal", lbs, err)
	}
	app.LoadBalancer.Network = ""
	if _, _, err := call[api.Applied](r, "PUT", "app", app); err == nil || !strings.Contains(err.Error(), `network is external, and it has internal, which stays as it was created: say so, or give this one another name`) {
		t.Errorf("made external: %v, want that it stays as it was created", err)
	}
	lb := weir.LoadBalancer{Name: "front", Internal: true}
	if got := api.AppOf(nil, lb, nil).LoadBalancer.Network; got != "internal" {
		t.Errorf("the App of an internal load balancer says %q, want internal", got)
	}
}
