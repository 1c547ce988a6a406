package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/digitalocean/godo"

	"weir/cloud"
	"weir/weir"
)

func TestAReservedIPMovesBetweenDroplets(t *testing.T) {
	r := lab(t)
	made := r.droplets([]string{"a", "b"})
	ip, resp, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "lab"})
	if err != nil || resp.StatusCode != http.StatusAccepted || ip.Droplet != nil || ip.Region.Slug != "lab" || ip.Locked {
		t.Fatalf("%v (%v), want 202 with an address of nobody", ip, err)
	}
	has := func(want int) func() bool {
		return func() bool {
			now, _, err := r.do.ReservedIPs.Get(t.Context(), ip.IP)
			if err != nil {
				t.Fatal(err)
			}
			return !now.Locked && (now.Droplet == nil && want == 0 || now.Droplet != nil && now.Droplet.ID == want)
		}
	}
	ended := func(id int) func() bool {
		return func() bool {
			act, _, err := r.do.ReservedIPActions.Get(t.Context(), ip.IP, id)
			if err != nil {
				t.Fatal(err)
			}
			return act.Status == godo.ActionCompleted
		}
	}
	for _, d := range made {
		act, resp, err := r.do.ReservedIPActions.Assign(t.Context(), ip.IP, d.ID)
		if err != nil || resp.StatusCode != http.StatusCreated || act.Type != "assign_ip" || act.ResourceType != "reserved_ip" || act.ResourceID == 0 {
			t.Fatalf("%v (%v), want 201 with an action assign_ip", act, err)
		}
		r.eventually("the action has ended", ended(act.ID))
		r.eventually(d.Name+" has the address", has(d.ID))
	}
	act, _, err := r.do.FloatingIPActions.Unassign(t.Context(), ip.IP)
	if err != nil || act.Type != "unassign_ip" || act.ResourceType != "floating_ip" {
		t.Fatalf("%v (%v), want an action by the other name", act, err)
	}
	r.eventually("nobody has the address", has(0))
	acts, _, err := r.do.FloatingIPActions.List(t.Context(), ip.IP, nil)
	if err != nil || len(acts) != 3 || acts[0].ID != act.ID {
		t.Errorf("%d actions (%v), want 3 with the newest first", len(acts), err)
	}
	if got, _, err := r.do.FloatingIPActions.Get(t.Context(), ip.IP, act.ID); err != nil || got.ID != act.ID {
		t.Errorf("action %+v (%v), want %d", got, err, act.ID)
	}
	floating, _, err := r.do.FloatingIPs.List(t.Context(), nil)
	if err != nil || len(floating) != 1 || floating[0].IP != ip.IP {
		t.Errorf("floating IPs %v (%v), want the reserved one by its other name", floating, err)
	}
	if resp, err := r.do.FloatingIPs.Delete(t.Context(), ip.IP); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Errorf("%v (%v), want 204", resp, err)
	}
	r.eventually("the address is given back", func() bool {
		held, err := r.cloud.Addresses(t.Context())
		return err == nil && len(held) == 0
	})
	if _, _, err := r.do.ReservedIPs.Get(t.Context(), ip.IP); err == nil {
		t.Error("it is still there, want 404")
	}
}

func TestAReservedIPCanBeMadeForADroplet(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"a"})[0]
	ip, resp, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{DropletID: d.ID})
	if err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatalf("%v (%v), want 202", resp, err)
	}
	r.eventually("the droplet has it", func() bool {
		now, _, err := r.do.ReservedIPs.Get(t.Context(), ip.IP)
		return err == nil && now.Droplet != nil && now.Droplet.ID == d.ID && now.Droplet.Networks != nil
	})
	if resp.Links == nil || len(resp.Links.Actions) != 1 || resp.Links.Actions[0].Rel != "assign_ip" {
		t.Fatalf("links %+v, want one to the action that assigns it", resp.Links)
	}
	r.eventually("the action is done", func() bool {
		act, _, err := r.do.ReservedIPActions.Get(t.Context(), ip.IP, resp.Links.Actions[0].ID)
		return err == nil && act.Status == godo.ActionCompleted && act.Type == "assign_ip"
	})
}

func TestReservedIPsThatCannotBeAreRefused(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{Addresses: 1}, nil)
	ip, _, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	const gone = "The resource you were accessing could not be found."
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v2/reserved_ips", `{}`, 422, "region and droplet_id are missing, want one of them"},
		{"POST", "/v2/reserved_ips", `{"region": "nyc3"}`, 422, `region is "nyc3": the reserved IPs of this Weir are in region "lab"`},
		{"POST", "/v2/reserved_ips", `{"droplet_id": -1}`, 422, "droplet_id is -1"},
		{"POST", "/v2/reserved_ips", `{"droplet_id": "1"}`, 422, "droplet_id is a string, want an integer"},
		{"POST", "/v2/reserved_ips", `{"droplet_id": 7}`, 422, "there is no droplet 7"},
		{"POST", "/v2/reserved_ips", `{"region": "lab"}`, 422, ""}, // the cloud has but one
		{"GET", "/v2/reserved_ips/192.0.2.1", "", 404, gone},
		{"GET", "/v2/reserved_ips/me", "", 404, gone},
		{"DELETE", "/v2/reserved_ips/192.0.2.1", "", 404, gone},
		{"POST", "/v2/reserved_ips/192.0.2.1/actions", `{"type": "unassign"}`, 404, gone},
		{"POST", "/v2/reserved_ips/" + ip.IP + "/actions", `{"type": "assign"}`, 422, "droplet_id is missing"},
		{"POST", "/v2/reserved_ips/" + ip.IP + "/actions", `{"type": "assign", "droplet_id": 7}`, 422, "there is no droplet 7"},
		{"POST", "/v2/reserved_ips/" + ip.IP + "/actions", `{"type": "eat"}`, 422, `type is "eat", want assign or unassign`},
		{"GET", "/v2/reserved_ips/" + ip.IP + "/actions/9", "", 404, gone},
	} {
		a := r.ask(c.method, c.path, c.body)
		if message, _ := a.body["message"].(string); a.status != c.status || !strings.HasPrefix(message, c.want) {
			t.Errorf("%s %s %s: %d %s, want %d %q", c.method, c.path, c.body, a.status, a.text, c.status, c.want)
		}
	}
}

func TestALoadBalancersAddressIsNotForUsers(t *testing.T) {
	r := lab(t)
	r.serve()
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}})
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("it has an address", func() bool {
		lb, _, err = r.do.LoadBalancers.Get(t.Context(), lb.ID)
		return err == nil && lb.IP != ""
	})
	for _, c := range [][3]string{
		{"GET", "/v2/reserved_ips/" + lb.IP, ""}, {"DELETE", "/v2/reserved_ips/" + lb.IP, ""},
		{"POST", "/v2/floating_ips/" + lb.IP + "/actions", `{"type": "unassign"}`},
	} {
		if a := r.ask(c[0], c[1], c[2]); a.status != 404 {
			t.Errorf("%s %s: %d %s, want 404", c[0], c[1], a.status, a.text)
		}
	}
	all, err := r.control.Machines(t.Context())
	if err != nil || len(all) != weir.MinInstances {
		t.Fatalf("%v (%v), want its two instances", all, err)
	}
	instance := "/v2/droplets/" + string(all[0].ID)
	for _, c := range [][3]string{{"GET", instance, ""}, {"DELETE", instance, ""}, {"POST", instance + "/actions", `{"type": "power_off"}`}} {
		if a := r.ask(c[0], c[1], c[2]); a.status != 404 {
			t.Errorf("%s %s: %d %s, want 404: it is the load balancer's", c[0], c[1], a.status, a.text)
		}
	}
}
