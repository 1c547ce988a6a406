package api_test

import (
	"net/http"
	"testing"

	"github.com/digitalocean/godo"

	"weir/weir"
)

func TestTheRegionsNetworkIsItsDefaultVPC(t *testing.T) {
	r := lab(t)
	all, resp, err := r.do.VPCs.List(t.Context(), nil)
	if err != nil || len(all) != 1 || resp.Meta.Total != 1 {
		t.Fatalf("%v (%v), want one", all, err)
	}
	vpc := all[0]
	if vpc.ID != string(weir.NetworkID("lab")) || vpc.URN != "do:vpc:"+vpc.ID || vpc.Name != "default-lab" || vpc.IPRange != "10.10.0.0/16" || vpc.RegionSlug != "lab" || !vpc.Default || vpc.CreatedAt.IsZero() {
		t.Errorf("%+v, want the region's private network", vpc)
	}
	if got, _, err := r.do.VPCs.Get(t.Context(), vpc.ID); err != nil || *got != *vpc {
		t.Errorf("%+v (%v), want %+v", got, err, vpc)
	}
	yes := true
	got, _, err := r.do.VPCs.Update(t.Context(), vpc.ID, &godo.VPCUpdateRequest{Name: "home", Description: "ours", Default: &yes})
	if err != nil || got.Name != "home" || got.Description != "ours" || got.CreatedAt != vpc.CreatedAt {
		t.Errorf("PUT: %+v (%v), want another name and description", got, err)
	}
	got, _, err = r.do.VPCs.Set(t.Context(), vpc.ID, godo.VPCSetName("house"), godo.VPCSetDefault())
	if err != nil || got.Name != "house" || got.Description != "ours" {
		t.Errorf("PATCH: %+v (%v), want the name changed alone", got, err)
	}
	if got, _, err = r.do.VPCs.Update(t.Context(), vpc.ID, &godo.VPCUpdateRequest{Name: "home"}); err != nil || got.Description != "" {
		t.Errorf("PUT without a description: %+v (%v), want none", got, err)
	}
	check(t, "vpc", r.ask("GET", "/v2/vpcs/"+vpc.ID, "").body["vpc"], "id string", "urn string", "name string", "description string", "region string",
		"ip_range string", "created_at string", "default bool")
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v2/vpcs", `{"name": "mine", "region": "lab"}`, 422, "a region of Weir has one private network, and networks of one's own come later: use the one that GET /v2/vpcs lists"},
		{"PUT", "/v2/vpcs/" + vpc.ID, `{"name": "a b"}`, 422, `name is "a b", want 1 to 255 letters, digits, dots and dashes`},
		{"PUT", "/v2/vpcs/" + vpc.ID, `{"description": "x"}`, 422, "name is missing: PUT replaces, and PATCH changes only what it has"},
		{"PATCH", "/v2/vpcs/" + vpc.ID, `{"description": "` + long(256) + `"}`, 422, "description has 256 characters, at most 255 are allowed"},
		{"PATCH", "/v2/vpcs/" + vpc.ID, `{"default": false}`, 422, "default is false: this is the region's one private network, leave it out or use true"},
		{"DELETE", "/v2/vpcs/" + vpc.ID, "", 403, "the default VPC of a region cannot be deleted: it is the region's one private network"},
		{"POST", "/v2/vpc_peerings", `{"name": "x", "vpc_ids": ["a", "b"]}`, 422, "a region of Weir has one private network, and there is none to peer it with: what is in the region reaches each other as it is"},
		{"POST", "/v2/vpcs/" + vpc.ID + "/peerings", `{"name": "x", "vpc_id": "a"}`, 422, "a region of Weir has one private network, and there is none to peer it with: what is in the region reaches each other as it is"},
	} {
		if a := r.ask(c.method, c.path, c.body); a.status != c.status || a.body["message"] != c.want {
			t.Errorf("%s %s %s: %d %s\nwant %d %s", c.method, c.path, c.body, a.status, a.text, c.status, c.want)
		}
	}
	for _, path := range []string{"", "/members", "/peerings"} {
		if a := r.ask("GET", "/v2/vpcs/5a4981aa-9653-4bd1-bef5-d6bff52042e4"+path, ""); a.status != 404 {
			t.Errorf("%s of another VPC: %d %s, want 404", path, a.status, a.text)
		}
	}
	for method, path := range map[string]string{"PUT": "", "PATCH": "", "DELETE": "", "POST": "/peerings"} {
		if a := r.ask(method, "/v2/vpcs/5a4981aa-9653-4bd1-bef5-d6bff52042e4"+path, `{"name": "x"}`); a.status != 404 {
			t.Errorf("%s another VPC: %d %s, want 404", method, a.status, a.text)
		}
	}
	if peerings, resp, err := r.do.VPCs.ListVPCPeerings(t.Context(), nil); err != nil || len(peerings) != 0 || resp.Meta.Total != 0 {
		t.Errorf("%v (%v), want no peerings", peerings, err)
	}
	if peerings, resp, err := r.do.VPCs.ListVPCPeeringsByVPCID(t.Context(), vpc.ID, nil); err != nil || len(peerings) != 0 || resp.Meta.Total != 0 {
		t.Errorf("%v (%v), want no peerings", peerings, err)
	}
}

func TestDropletsAndLoadBalancersAreInTheVPC(t *testing.T) {
	r := lab(t)
	id := string(weir.NetworkID("lab"))
	d, _, err := r.do.Droplets.Create(t.Context(), &godo.DropletCreateRequest{Name: "a", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, VPCUUID: id})
	if err != nil || d.VPCUUID != id {
		t.Fatalf("%v (%v), want it in the VPC", d, err)
	}
	b := r.droplets([]string{"b"})[0]
	if b.VPCUUID != id {
		t.Errorf("without a word about it: VPC %q, want %s", b.VPCUUID, id)
	}
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}, VPCUUID: id})
	if err != nil || lb.VPCUUID != id {
		t.Fatalf("%v (%v), want it in the VPC", lb, err)
	}
	if lb, _, err = r.do.LoadBalancers.Update(t.Context(), lb.ID, lb.AsRequest()); err != nil || lb.VPCUUID != id {
		t.Errorf("written back: %v (%v), want it in the VPC", lb, err)
	}
	q := lb.AsRequest()
	q.VPCUUID = "x"
	_, _, err = r.do.LoadBalancers.Update(t.Context(), lb.ID, q)
	if code, text := refusal(err); code != 422 || text != `vpc_uuid is "x": a region of Weir has one private network, leave it out or use `+id {
		t.Errorf("%d %q, want 422", code, text)
	}

	for kind, want := range map[string][]string{"": {d.URN(), b.URN(), lb.URN()}, "droplet": {d.URN(), b.URN()}, "load_balancer": {lb.URN()}, "dbaas": nil} {
		all, resp, err := r.do.VPCs.ListMembers(t.Context(), id, &godo.VPCListMembersRequest{ResourceType: kind}, nil)
		if err != nil || len(all) != len(want) || resp.Meta.Total != len(want) {
			t.Fatalf("members of the kind %q: %v (%v), want %v", kind, all, err, want)
		}
		for i := range all {
			if all[i].URN != want[i] || all[i].Name == "" || all[i].CreatedAt.IsZero() {
				t.Errorf("members of the kind %q: %+v, want %s", kind, all[i], want[i])
			}
		}
	}
}

func TestWithoutAPrivateNetworkThereIsNoVPC(t *testing.T) {
	r := newOwnRegion(t)
	if a := r.ask("GET", "/v2/vpcs", ""); a.status != http.StatusOK || len(a.body["vpcs"].([]any)) != 0 {
		t.Errorf("%d %s, want an empty list", a.status, a.text)
	}
	if a := r.ask("GET", "/v2/vpcs/"+string(weir.NetworkID("lab")), ""); a.status != http.StatusNotFound {
		t.Errorf("%d %s, want 404", a.status, a.text)
	}
	if a := r.ask("POST", "/v2/load_balancers", `{"name": "x", "vpc_uuid": "x", "forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}]}`); a.status != 422 ||
		a.body["message"] != `vpc_uuid is "x": this Weir knows no private network of its own, leave it out` {
		t.Errorf("%d %s, want 422", a.status, a.text)
	}
}
