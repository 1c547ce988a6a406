package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/digitalocean/godo"
	"github.com/google/go-cmp/cmp"
)

var projectShape = []string{"id string", "owner_uuid string", "owner_id integer", "name string", "description string", "purpose string", "environment string",
	"is_default bool", "created_at string", "updated_at string"}

func TestThereIsAlwaysADefaultProject(t *testing.T) {
	r := lab(t)
	first, _, err := r.do.Projects.GetDefault(t.Context())
	if err != nil || !first.IsDefault || first.ID == "" {
		t.Fatalf("%v (%v), want the default one", first, err)
	}
	if again, _, err := r.do.Projects.Get(t.Context(), first.ID); err != nil || *again != *first {
		t.Errorf("by its ID: %v (%v), want %v", again, err, first)
	}
	if all, resp, err := r.do.Projects.List(t.Context(), nil); err != nil || len(all) != 1 || all[0] != *first || resp.Meta.Total != 1 {
		t.Errorf("%v (%v), want it alone", all, err)
	}
	check(t, "project", r.ask("GET", "/v2/projects/default", "").body["project"], projectShape...)
	_, err = r.do.Projects.Delete(t.Context(), first.ID)
	if code, text := refusal(err); code != 403 || text != `project "default" is the default: make another one the default before deleting it` {
		t.Errorf("%d %q, want 403", code, text)
	}
	_, _, err = r.do.Projects.Update(t.Context(), "default", &godo.UpdateProjectRequest{IsDefault: false})
	if code, text := refusal(err); code != 422 || text != `is_default is false, and project "default" is the default: make another one the default instead` {
		t.Errorf("%d %q, want 422", code, text)
	}
	if got, _, err := r.do.Projects.Update(t.Context(), "default", &godo.UpdateProjectRequest{Name: "all"}); err != nil || got.Name != "all" || got.ID != first.ID || !got.IsDefault {
		t.Errorf("%v (%v), want the default with another name", got, err)
	}
}

func TestAProjectIsMadeChangedAndDeleted(t *testing.T) {
	r := lab(t)
	p, resp, err := r.do.Projects.Create(t.Context(), &godo.CreateProjectRequest{Name: "web", Description: "our shop", Purpose: "Selling cats", Environment: "production"})
	if err != nil || resp.StatusCode != http.StatusCreated || p.Purpose != "Other: Selling cats" || p.Environment != "Production" || p.IsDefault {
		t.Fatalf("%v (%v), want 201 with what DigitalOcean makes of purpose and environment", p, err)
	}
	// Terraform's provider writes back what it has read.
	same, _, err := r.do.Projects.Update(t.Context(), p.ID, &godo.UpdateProjectRequest{Name: p.Name, Description: p.Description, Purpose: "Selling cats", Environment: p.Environment, IsDefault: false})
	if err != nil || *same != *p {
		t.Errorf("%v (%v), want nothing to have changed: %v", same, err, p)
	}
	got, _, err := r.do.Projects.Update(t.Context(), p.ID, &godo.UpdateProjectRequest{Purpose: "IoT", Environment: ""})
	if err != nil || got.Purpose != "IoT" || got.Environment != "" || got.Name != "web" || got.Description != "our shop" || got.CreatedAt != p.CreatedAt {
		t.Errorf("PATCH: %v (%v), want only its purpose and environment changed", got, err)
	}
	if a := r.ask("PUT", "/v2/projects/"+p.ID, `{"name": "shop", "purpose": "Web Application", "is_default": false}`); a.status != 200 || a.body["project"].(map[string]any)["description"] != "" {
		t.Errorf("PUT: %d %s, want the description gone", a.status, a.text)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v2/projects", `{"name": "shop", "purpose": "IoT"}`, 409, `project "shop": there is one of that name already`},
		{"PATCH", "/v2/projects/default", `{"name": "shop"}`, 409, `project "shop": there is one of that name already`},
		{"POST", "/v2/projects", `{"purpose": "IoT"}`, 422, `name is "", want 1 to 175 characters`},
		{"POST", "/v2/projects", `{"name": "x"}`, 422, `purpose is "", want 1 to 255 characters, such as "Web Application"`},
		{"POST", "/v2/projects", `{"name": "x", "purpose": "IoT", "environment": "Moon"}`, 422, `environment is "Moon", want Development, Staging, Production, or leave it out`},
		{"POST", "/v2/projects", `{"name": "x", "purpose": "IoT", "is_default": true}`, 422, "is_default is true: a new project is not the default, make it the default once it is there"},
		{"PUT", "/v2/projects/" + p.ID, `{"description": "x"}`, 422, `name is "", want 1 to 175 characters`},
		{"PATCH", "/v2/projects/" + p.ID, `{"name": 7}`, 422, "name is a number, want a string"},
		{"GET", "/v2/projects/none", "", 404, "The resource you were accessing could not be found."},
		{"PUT", "/v2/projects/none", `{"name": "x", "purpose": "IoT"}`, 404, "The resource you were accessing could not be found."},
		{"PATCH", "/v2/projects/none", `{"name": "x"}`, 404, "The resource you were accessing could not be found."},
		{"DELETE", "/v2/projects/none", "", 404, "The resource you were accessing could not be found."},
		{"GET", "/v2/projects/none/resources", "", 404, "The resource you were accessing could not be found."},
		{"POST", "/v2/projects/none/resources", `{"resources": []}`, 404, "The resource you were accessing could not be found."},
		{"POST", "/v2/projects/default/resources", `{"resources": ["do:droplet:1", "droplet 7"]}`, 422, `resources[1]: "droplet 7" is not a URN, want one such as do:droplet:4126873`},
	} {
		if a := r.ask(c.method, c.path, c.body); a.status != c.status || a.body["message"] != c.want {
			t.Errorf("%s %s %s: %d %s\nwant %d %s", c.method, c.path, c.body, a.status, a.text, c.status, c.want)
		}
	}
	if resp, err := r.do.Projects.Delete(t.Context(), p.ID); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Errorf("%v (%v), want 204", resp, err)
	}
}

// in returns the URNs of what is in a project, sorted.
func (r *region) in(project string) []string {
	r.t.Helper()
	all, _, err := r.do.Projects.ListResources(r.t.Context(), project, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	urns := []string{}
	for _, res := range all {
		if res.Status != "ok" || res.AssignedAt == "" || res.Links == nil || !strings.HasPrefix(res.Links.Self, r.url+"/v2/") {
			r.t.Errorf("%+v, want it ok, with a time and a link", res)
		}
		urns = append(urns, res.URN)
	}
	slices.Sort(urns)
	return urns
}

func TestEachResourceIsInExactlyOneProject(t *testing.T) {
	r := lab(t)
	droplet := r.droplets([]string{"a"})[0]
	web, _, err := r.do.Projects.Create(t.Context(), &godo.CreateProjectRequest{Name: "web", Purpose: "IoT"})
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := r.do.Projects.GetDefault(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}, ProjectID: web.ID})
	if err != nil || lb.ProjectID != web.ID {
		t.Fatalf("%v (%v), want it in its project", lb, err)
	}
	ip, _, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "lab", ProjectID: web.ID})
	if err != nil || ip.ProjectID != web.ID {
		t.Fatalf("%v (%v), want it in its project", ip, err)
	}
	other, _, err := r.do.FloatingIPs.Create(t.Context(), &godo.FloatingIPCreateRequest{Region: "lab"})
	if err != nil || other.ProjectID != first.ID {
		t.Fatalf("%v (%v), want it in the default project", other, err)
	}
	expect := func(project string, want ...string) {
		t.Helper()
		slices.Sort(want)
		if diff := cmp.Diff(append([]string{}, want...), r.in(project)); diff != "" {
			t.Errorf("project %s has not what it should (-want +got):\n%s", project, diff)
		}
	}
	expect("default", droplet.URN(), "do:reservedip:"+other.IP)
	expect(web.ID, lb.URN(), ip.URN())

	done, resp, err := r.do.Projects.AssignResources(t.Context(), web.ID, droplet, other, lb.URN(), "do:droplet:999", "do:space:cats", "do:reservedip:x")
	if err != nil || resp.StatusCode != http.StatusOK || len(done) != 6 {
		t.Fatalf("%v (%v), want 200 and a word about each", done, err)
	}
	for i, want := range []string{"ok", "ok", "already_assigned", "not_found", "not_found", "not_found"} {
		if done[i].Status != want {
			t.Errorf("%s is %s, want %s", done[i].URN, done[i].Status, want)
		}
	}
	expect("default")
	expect(web.ID, droplet.URN(), lb.URN(), ip.URN(), other.URN()) // a floating IP goes by the name it was put there with
	if done, _, err := r.do.Projects.AssignResources(t.Context(), web.ID, "do:reservedip:"+other.IP); err != nil || done[0].Status != "already_assigned" {
		t.Errorf("%v (%v), want it to be there already, by its other name", done, err)
	}
	if got, _, err := r.do.FloatingIPs.Get(t.Context(), other.IP); err != nil || got.ProjectID != web.ID {
		t.Errorf("%v (%v), want its new project", got, err)
	}

	resp, err = r.do.Projects.Delete(t.Context(), web.ID)
	if code, text := refusal(err); code != 412 || text != "cannot delete a project with resources. move or remove the resources first" {
		t.Errorf("%v: %d %q, want 412 in those words", resp, code, text)
	}
	if a := r.ask("DELETE", "/v2/projects/"+web.ID, ""); a.body["id"] != "precondition_failed" {
		t.Errorf("%s, want the id precondition_failed", a.text)
	}

	// A PUT moves a load balancer, and one without a word about projects leaves it where it is.
	q := lb.AsRequest()
	q.ProjectID = first.ID
	if lb, _, err = r.do.LoadBalancers.Update(t.Context(), lb.ID, q); err != nil || lb.ProjectID != first.ID {
		t.Errorf("%v (%v), want it in the default project", lb, err)
	}
	q.ProjectID = ""
	if lb, _, err = r.do.LoadBalancers.Update(t.Context(), lb.ID, q); err != nil || lb.ProjectID != first.ID {
		t.Errorf("%v (%v), want it still there", lb, err)
	}
	q.ProjectID = "none"
	_, _, err = r.do.LoadBalancers.Update(t.Context(), lb.ID, q)
	if code, text := refusal(err); code != 422 || text != `load balancer "shop": project_id is "none": there is no such project, leave it out for the default one` {
		t.Errorf("%d %q, want 422", code, text)
	}
	_, _, err = r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "lab", ProjectID: "none"})
	if code, text := refusal(err); code != 422 || text != `project_id is "none": there is no such project, leave it out for the default one` {
		t.Errorf("%d %q, want 422", code, text)
	}
	expect("default", lb.URN())

	// What is gone is gone from its project.
	if _, err := r.do.LoadBalancers.Delete(t.Context(), lb.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.do.Droplets.Delete(t.Context(), droplet.ID); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{ip.IP, other.IP} {
		if _, err := r.do.ReservedIPs.Delete(t.Context(), addr); err != nil {
			t.Fatal(err)
		}
	}
	expect("default")
	expect(web.ID)
	if _, err := r.do.Projects.Delete(t.Context(), web.ID); err != nil {
		t.Errorf("an empty project: %v", err)
	}
}

func TestANewDefaultProjectTakesOver(t *testing.T) {
	r := lab(t)
	before := r.droplets([]string{"a"})[0]
	first, _, err := r.do.Projects.GetDefault(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	web, _, err := r.do.Projects.Create(t.Context(), &godo.CreateProjectRequest{Name: "web", Purpose: "IoT"})
	if err != nil {
		t.Fatal(err)
	}
	if web, _, err = r.do.Projects.Update(t.Context(), web.ID, &godo.UpdateProjectRequest{IsDefault: true}); err != nil || !web.IsDefault {
		t.Fatalf("%v (%v), want it the default", web, err)
	}
	if now, _, err := r.do.Projects.GetDefault(t.Context()); err != nil || now.ID != web.ID {
		t.Errorf("the default is %v (%v), want %s", now, err, web.ID)
	}
	if was, _, err := r.do.Projects.Get(t.Context(), first.ID); err != nil || was.IsDefault {
		t.Errorf("%v (%v), want it to be the default no more", was, err)
	}
	after := r.droplets([]string{"b"})[0]
	if got := r.in("default"); !slices.Equal(got, []string{after.URN()}) {
		t.Errorf("the new default has %v, want what was made since", got)
	}
	if got := r.in(first.ID); !slices.Equal(got, []string{before.URN()}) {
		t.Errorf("the old one has %v, want what was made before", got)
	}
	if _, _, err := r.do.Projects.AssignResources(t.Context(), "default", before); err != nil {
		t.Fatal(err)
	}
	if _, err := r.do.Projects.Delete(t.Context(), first.ID); err != nil {
		t.Errorf("the first project, empty and the default no more: %v", err)
	}
	if all, _, err := r.do.Projects.List(t.Context(), nil); err != nil || len(all) != 1 || all[0].ID != web.ID {
		t.Errorf("%v (%v), want the new one alone", all, err)
	}
}

func TestResourcesOfAProjectComeInPages(t *testing.T) {
	r := lab(t)
	var names []string
	for i := range 5 {
		names = append(names, fmt.Sprintf("m%d", i))
	}
	r.droplets(names)
	all, resp, err := r.do.Projects.ListResources(t.Context(), "default", &godo.ListOptions{Page: 2, PerPage: 2})
	if err != nil || len(all) != 2 || resp.Meta.Total != 5 || resp.Links.IsLastPage() {
		t.Errorf("%v (%v), want 2 of 5 on the second page", all, err)
	}
	if all, _, err := r.do.Projects.AssignResources(t.Context(), "default"); err != nil || len(all) != 0 {
		t.Errorf("nothing put in it: %v (%v), want nothing said", all, err)
	}
	// The instances of load balancers, and their addresses, are nobody's resources.
	if _, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}}); err != nil {
		t.Fatal(err)
	}
	var hidden string
	r.eventually("the load balancer has instances and an address", func() bool {
		machines, err := r.control.Machines(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := r.control.Addresses(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range machines {
			if m.LoadBalancer != "" && len(addrs) > 0 {
				hidden = string(m.ID)
			}
		}
		return hidden != ""
	})
	if got := r.in("default"); len(got) != 6 {
		t.Errorf("%v, want five droplets and the load balancer", got)
	}
	if _, err := strconv.Atoi(hidden); err != nil {
		t.Fatal(err)
	}
	if done, _, err := r.do.Projects.AssignResources(t.Context(), "default", "do:droplet:"+hidden); err != nil || done[0].Status != "not_found" {
		t.Errorf("an instance of a load balancer: %v (%v), want it not found", done, err)
	}
}
