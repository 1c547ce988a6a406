package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/digitalocean/godo"

	"weir/weir"
)

// droplet6 makes a droplet with IPv6 and returns it when it is there.
func (r *region) droplet6(name string) *godo.Droplet {
	r.t.Helper()
	d, _, err := r.do.Droplets.Create(r.t.Context(), &godo.DropletCreateRequest{Name: name, Region: "lab", Size: "s-1vcpu-1gb",
		Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, IPv6: true})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.withIPv6(d.ID)
}

// withIPv6 waits until a droplet has IPv6.
func (r *region) withIPv6(id int) (d *godo.Droplet) {
	r.t.Helper()
	r.eventually("the droplet has IPv6", func() bool {
		var err error
		if d, _, err = r.do.Droplets.Get(r.t.Context(), id); err != nil {
			r.t.Fatal(err)
		}
		return len(d.Networks.V6) > 0
	})
	return d
}

func TestADropletHasIPv6IfThatIsAskedFor(t *testing.T) {
	r := lab(t)
	d := r.droplet6("a")
	if n := d.Networks.V6[0]; len(d.Networks.V6) != 1 || !strings.HasPrefix(n.IPAddress, "2001:db8:0:1:") || n.Netmask != 64 || n.Gateway != "2001:db8:0:1::1" || n.Type != "public" {
		t.Errorf("it has %+v, want a public address of 2001:db8:0:1::/64", d.Networks.V6)
	}
	if got := strings.Join(d.Features, " "); got != "private_networking ipv6" {
		t.Errorf("its features are %q", got)
	}
	without := r.droplets([]string{"b"}, "web")[0]
	if len(without.Networks.V6) != 0 || strings.Contains(strings.Join(without.Features, " "), "ipv6") {
		t.Errorf("a droplet that is to have no IPv6 is %+v", without)
	}
	act, resp, err := r.do.DropletActions.EnableIPv6(t.Context(), without.ID)
	if err != nil || resp.StatusCode != http.StatusCreated || act.Type != "enable_ipv6" {
		t.Fatalf("%v (%v), want 201 with an action enable_ipv6", act, err)
	}
	r.eventually("the action has ended", func() bool {
		now, _, err := r.do.DropletActions.Get(t.Context(), without.ID, act.ID)
		return err == nil && now.Status == godo.ActionCompleted
	})
	if now, _, err := r.do.Droplets.Get(t.Context(), without.ID); err != nil || len(now.Networks.V6) != 1 || now.Status != "active" {
		t.Errorf("%+v (%v), want it on and with IPv6", now, err)
	}
	if acts, _, err := r.do.DropletActions.EnableIPv6ByTag(t.Context(), "web"); err != nil || len(acts) != 1 {
		t.Errorf("by tag: %v (%v), want one", acts, err)
	}
}

func TestAnAutoscalePoolMakesDropletsWithIPv6(t *testing.T) {
	r := lab(t)
	a := r.ask("POST", "/v2/droplets/autoscale", `{"name": "p", "config": {"target_number_instances": 1}, "droplet_template": {"name": "p", "region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "ssh_keys": [], "ipv6": true}}`)
	if a.status != 202 {
		t.Fatalf("%d %s", a.status, a.text)
	}
	pools, _, err := r.do.DropletAutoscale.List(t.Context(), nil)
	if err != nil || len(pools) != 1 || !pools[0].DropletTemplate.IPV6 {
		t.Errorf("%+v (%v), want it with IPv6", pools, err)
	}
	r.eventually("its droplet has IPv6", func() bool {
		all, _, err := r.do.Droplets.List(t.Context(), nil)
		return err == nil && len(all) == 1 && len(all[0].Networks.V6) == 1
	})
}

func TestAReservedIPv6MovesBetweenDropletsThatHaveIPv6(t *testing.T) {
	r := lab(t)
	made := []*godo.Droplet{r.droplet6("a"), r.droplet6("b")}
	four, _, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	ip, resp, err := r.do.ReservedIPV6s.Create(t.Context(), &godo.ReservedIPV6CreateRequest{Region: "lab"})
	if err != nil || resp.StatusCode != http.StatusCreated || ip.Droplet != nil || ip.RegionSlug != "lab" || ip.ReservedAt.IsZero() || !strings.Contains(ip.IP, ":") {
		t.Fatalf("%v (%v), want 201 with an address of nobody", ip, err)
	}
	has := func(want int) func() bool {
		return func() bool {
			now, _, err := r.do.ReservedIPV6s.Get(t.Context(), ip.IP)
			if err != nil {
				t.Fatal(err)
			}
			return now.Droplet == nil && want == 0 || now.Droplet != nil && now.Droplet.ID == want
		}
	}
	for _, d := range made {
		act, resp, err := r.do.ReservedIPV6Actions.Assign(t.Context(), ip.IP, d.ID)
		if err != nil || resp.StatusCode != http.StatusCreated || act.Type != "assign_ip" || act.ResourceType != "reserved_ipv6" {
			t.Fatalf("%v (%v), want 201 with an action assign_ip", act, err)
		}
		r.eventually("the action has ended", func() bool {
			now, _, err := r.do.Actions.Get(t.Context(), act.ID)
			return err == nil && now.Status == godo.ActionCompleted && now.ResourceType == "reserved_ipv6"
		})
		r.eventually(d.Name+" has the address", has(d.ID))
	}
	if _, _, err := r.do.ReservedIPV6Actions.Unassign(t.Context(), ip.IP); err != nil {
		t.Fatal(err)
	}
	r.eventually("nobody has the address", has(0))

	// Each family has a list of its own.
	sixes, _, err := r.do.ReservedIPV6s.List(t.Context(), nil)
	if err != nil || len(sixes) != 1 || sixes[0].IP != ip.IP {
		t.Errorf("%v (%v), want %s alone", sixes, err, ip.IP)
	}
	fours, _, err := r.do.ReservedIPs.List(t.Context(), nil)
	if err != nil || len(fours) != 1 || fours[0].IP != four.IP {
		t.Errorf("%v (%v), want %s alone", fours, err, four.IP)
	}
	urns := r.in("default")
	if !slices.Contains(urns, strings.ToLower(ip.URN())) || !slices.Contains(urns, four.URN()) {
		t.Errorf("the default project has %v, want %s and %s among them", urns, ip.URN(), four.URN())
	}
	if done, _, err := r.do.Projects.AssignResources(t.Context(), "default", *ip); err != nil || done[0].Status != "already_assigned" {
		t.Errorf("%v (%v), want it to be there already", done, err)
	}
	without := r.droplets([]string{"c"})[0]
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v2/reserved_ipv6", `{}`, 422, `region_slug is missing, want "lab"`},
		{"POST", "/v2/reserved_ipv6", `{"region_slug": "nyc3"}`, 422, `region_slug is "nyc3": the reserved IPs of this Weir are in region "lab"`},
		{"GET", "/v2/reserved_ips/" + ip.IP, "", 404, ""},
		{"DELETE", "/v2/floating_ips/" + ip.IP, "", 404, ""},
		{"GET", "/v2/reserved_ipv6/" + four.IP, "", 404, ""},
		{"POST", "/v2/reserved_ipv6/" + four.IP + "/actions", `{"type": "unassign"}`, 404, ""},
		{"POST", "/v2/reserved_ipv6/" + ip.IP + "/actions", `{"type": "assign"}`, 422, "droplet_id is missing"},
		{"POST", "/v2/reserved_ipv6/" + ip.IP + "/actions", `{"type": "assign", "droplet_id": ` + godo.ToURN("x", without.ID)[5:] + `}`, 422,
			"machine c has no IPv6, and can have no address of it: enable it by the action enable_ipv6 first"},
	} {
		a := r.ask(c.method, c.path, c.body)
		if message, _ := a.body["message"].(string); a.status != c.status || !strings.HasPrefix(message, c.want) {
			t.Errorf("%s %s %s: %d %s, want %d %q", c.method, c.path, c.body, a.status, a.text, c.status, c.want)
		}
	}
	if resp, err := r.do.ReservedIPV6s.Delete(t.Context(), ip.IP); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Errorf("%v (%v), want 204", resp, err)
	}
	r.eventually("the address is given back", func() bool {
		held, err := r.cloud.Addresses(t.Context())
		return err == nil && len(held) == 1
	})
}

func TestALoadBalancerIsOfBothFamiliesIfItIsToBe(t *testing.T) {
	r := lab(t)
	q := &godo.LoadBalancerRequest{Name: "both", ForwardingRules: []godo.ForwardingRule{webRule}, NetworkStack: godo.LoadBalancerNetworkStackDualstack}
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if err != nil || lb.NetworkStack != godo.LoadBalancerNetworkStackDualstack {
		t.Fatalf("%+v (%v), want it of both", lb, err)
	}
	r.eventually("it has two addresses", func() bool {
		now, _, err := r.do.LoadBalancers.Get(t.Context(), lb.ID)
		if err != nil {
			t.Fatal(err)
		}
		lb = now
		return now.IP != "" && strings.Contains(now.IPv6, ":")
	})
	held, err := r.cloud.Addresses(t.Context())
	if err != nil || len(held) != 2 || held[0].Owner != weir.ID(lb.ID) || held[1].Owner != weir.ID(lb.ID) {
		t.Errorf("the cloud holds %v (%v), want two of it", held, err)
	}
	if _, _, err := r.do.ReservedIPV6s.Get(t.Context(), lb.IPv6); err == nil {
		t.Error("its address is shown as a reserved IP of the user's")
	}
	for stack, want := range map[string]int{"": 200, "dualstack": 200, "IPV4": 422} {
		q.NetworkStack = stack
		now, resp, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, q)
		if resp.StatusCode != want || want == 200 && (err != nil || now.NetworkStack != godo.LoadBalancerNetworkStackDualstack || now.IPv6 != lb.IPv6) {
			t.Errorf("replaced with %q: %+v (%v), want %d and its families as they were", stack, now, err, want)
		}
	}
	only, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "one", ForwardingRules: []godo.ForwardingRule{webRule}})
	if err != nil || only.NetworkStack != godo.LoadBalancerNetworkStackIPv4 || only.IPv6 != "" {
		t.Errorf("%+v (%v), want it of IPv4", only, err)
	}
	if _, err := r.do.LoadBalancers.Delete(t.Context(), lb.ID); err != nil {
		t.Fatal(err)
	}
	r.eventually("both addresses are given back", func() bool {
		held, err := r.cloud.Addresses(t.Context())
		return err == nil && len(held) < 2
	})
}
