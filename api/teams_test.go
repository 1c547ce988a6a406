package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/digitalocean/godo"

	"weir/cloud"
	"weir/weir"
)

// tenant is a team in a region, with a token to write.
type tenant struct {
	*region
	secret string
}

// tenant lets a team in.
func (r *region) tenant(team string) *tenant {
	r.t.Helper()
	secret := r.newToken("of "+team, team, weir.ScopeWrite).Secret
	own := *r
	own.do = own.client(secret)
	return &tenant{&own, secret}
}

func (x *tenant) ask(method, path, body string) answer {
	x.t.Helper()
	return x.askWith(method, path, body, "Bearer "+x.secret)
}

// has returns which of words are in what a tenant, or the first team, reads below a path.
func has(r interface {
	ask(method, path, body string) answer
}, path string, words ...string) (found []string) {
	text := r.ask("GET", path, "").text
	for _, w := range words {
		if strings.Contains(text, w) {
			found = append(found, w)
		}
	}
	return found
}

// refused fails unless a call was answered with a status.
func refused(t *testing.T, what string, want int, resp *godo.Response, err error) {
	t.Helper()
	if resp == nil || resp.StatusCode != want || err == nil {
		t.Errorf("%s: %v, want %d", what, err, want)
	}
}

// TestNothingOfOneTeamIsThereForAnother has two teams make one of each thing, under the same
// names, and then has the one try everything on what the other has.
func TestNothingOfOneTeamIsThereForAnother(t *testing.T) {
	r := lab(t)
	r.serve()
	first, blue, green := r.tenant("default"), r.tenant("blue"), r.tenant("green")
	ctx := t.Context()

	// The same names, tags and keys are each team's own.
	type things struct {
		droplets []godo.Droplet
		key      *godo.Key
		lb       *godo.LoadBalancer
		ip       string
		act      int
	}
	var made []things
	const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHjEXKBwzYmgdvYPzUdfhnU2Nm2ULTsnRlhHJQ5TuSJD anna"
	for _, x := range []*tenant{blue, green} {
		var m things
		var err error
		m.droplets = x.droplets([]string{"web-1", "web-2"}, "web")
		if m.key, _, err = x.do.Keys.Create(ctx, &godo.KeyCreateRequest{Name: "anna", PublicKey: publicKey}); err != nil {
			t.Fatal(err)
		}
		m.lb, _, err = x.do.LoadBalancers.Create(ctx, &godo.LoadBalancerRequest{Name: "shop", Tag: "web", Tags: []string{"web"}, ForwardingRules: []godo.ForwardingRule{webRule}})
		if err != nil {
			t.Fatal(err)
		}
		ip, _, err := x.do.ReservedIPs.Create(ctx, &godo.ReservedIPCreateRequest{Region: "lab"})
		if err != nil {
			t.Fatal(err)
		}
		m.ip = ip.IP
		act, _, err := x.do.ReservedIPActions.Assign(ctx, m.ip, m.droplets[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		m.act = act.ID
		if a := x.ask("PUT", "/v2/weir/app", `{"name": "app", "count": 1}`); a.status != 200 {
			t.Fatalf("app: %d %s", a.status, a.text)
		}
		made = append(made, m)
	}
	mine, theirs := made[0], made[1]
	for i, x := range []*tenant{blue, green} {
		x.eventually("its load balancers are active", func() bool {
			all, _, err := x.do.LoadBalancers.List(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, lb := range all {
				if lb.Name == "shop" {
					made[i].lb = &lb
				}
			}
			return len(all) == 2 && all[0].Status == "active" && all[1].Status == "active"
		})
	}
	mine, theirs = made[0], made[1]
	their := theirs.droplets[0]
	id := strconv.Itoa(their.ID)

	// Lists have what is the team's, and nothing else.
	droplets, _, err := blue.do.Droplets.List(ctx, nil)
	if err != nil || len(droplets) != 3 { // web-1, web-2, app-1
		t.Errorf("blue has %d droplets (%v), want 3", len(droplets), err)
	}
	for _, d := range droplets {
		if slices.ContainsFunc(theirs.droplets, func(other godo.Droplet) bool { return other.ID == d.ID }) {
			t.Errorf("blue sees droplet %d of green", d.ID)
		}
	}
	secretOfGreen := []string{`"` + theirs.lb.ID + `"`, theirs.ip, theirs.lb.IP, `:` + id + `,`, fmt.Sprintf(`:%d,`, theirs.droplets[1].ID),
		fmt.Sprintf(`"id":%d,`, theirs.key.ID), fmt.Sprintf(`"id":%d,`, theirs.act), `"` + id + `"`, "droplets/" + id}
	for _, path := range []string{"droplets", "droplets?tag_name=web", "droplets?name=web-1", "load_balancers", "tags", "tags/web", "reserved_ips", "floating_ips",
		"actions", "account/keys", "weir/pools", "weir/machines", "weir/status", "weir/events", "weir/events?load_balancer=shop"} {
		path += map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")] + "per_page=200"
		if got := has(blue, "/v2/"+path, secretOfGreen...); len(got) > 0 {
			t.Errorf("blue reads %v of green in %s", got, path)
		}
		if got := has(first, "/v2/"+path, secretOfGreen...); len(got) > 0 {
			t.Errorf("the first team reads %v of green in %s", got, path)
		}
	}
	if got := has(green, "/v2/droplets?per_page=200", secretOfGreen[3:5]...); len(got) != 2 {
		t.Errorf("green reads only %v of its droplets: the test proves nothing", got)
	}
	tags, _, err := blue.do.Tags.List(ctx, nil)
	if err != nil || len(tags) != 2 || tags[1].Name != "web" || tags[1].Resources.Droplets.Count != 2 {
		t.Errorf("blue has the tags %v (%v), want app, and web of 2 droplets", tags, err)
	}
	if len(mine.lb.DropletIDs) != 2 || slices.Contains(mine.lb.DropletIDs, their.ID) {
		t.Errorf("blue's load balancer has the droplets %v, want blue's two", mine.lb.DropletIDs)
	}

	// Who operates the region sees all teams.
	if got := has(r, "/v2/weir/status", theirs.lb.ID, mine.lb.ID, `"team":"blue"`, `"team":"green"`); len(got) != 4 {
		t.Errorf("the status of all has %v, want both teams'", got)
	}
	if got := has(r, "/v2/weir/events?limit=1000", theirs.lb.ID, mine.lb.ID); len(got) != 2 {
		t.Errorf("the events of all have %v, want both teams'", got)
	}
	if a := blue.ask("GET", "/v2/weir/status", ""); a.status != 200 || strings.Contains(a.text, `"leads"`) {
		t.Errorf("%d %s, want the status without the members of the control plane", a.status, a.text)
	}

	// By ID, as whoever guesses one would try.
	_, resp, err := blue.do.Droplets.Get(ctx, their.ID)
	refused(t, "get a droplet", 404, resp, err)
	resp, err = blue.do.Droplets.Delete(ctx, their.ID)
	refused(t, "delete a droplet", 404, resp, err)
	_, resp, err = blue.do.DropletActions.PowerOff(ctx, their.ID)
	refused(t, "power a droplet off", 404, resp, err)
	_, resp, err = blue.do.Droplets.Actions(ctx, their.ID, nil)
	refused(t, "a droplet's actions", 404, resp, err)
	_, resp, err = blue.do.Actions.Get(ctx, theirs.act)
	refused(t, "get an action", 404, resp, err)
	_, resp, err = blue.do.Keys.GetByID(ctx, theirs.key.ID)
	refused(t, "get a key", 404, resp, err)
	_, resp, err = blue.do.Keys.UpdateByID(ctx, theirs.key.ID, &godo.KeyUpdateRequest{Name: "mine"})
	refused(t, "rename a key", 404, resp, err)
	resp, err = blue.do.Keys.DeleteByID(ctx, theirs.key.ID)
	refused(t, "delete a key", 404, resp, err)
	_, resp, err = blue.do.Droplets.Create(ctx, &godo.DropletCreateRequest{Name: "x", Region: "lab", Size: "s-1vcpu-1gb",
		Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, SSHKeys: []godo.DropletCreateSSHKey{{ID: theirs.key.ID}}})
	refused(t, "a droplet with a key", 422, resp, err)
	_, resp, err = blue.do.ReservedIPs.Get(ctx, theirs.ip)
	refused(t, "get an address", 404, resp, err)
	_, resp, err = blue.do.ReservedIPActions.Assign(ctx, theirs.ip, mine.droplets[0].ID)
	refused(t, "take an address", 404, resp, err)
	_, resp, err = blue.do.ReservedIPActions.Unassign(ctx, theirs.ip)
	refused(t, "unassign an address", 404, resp, err)
	_, resp, err = blue.do.ReservedIPActions.Get(ctx, mine.ip, theirs.act)
	refused(t, "an address's action", 404, resp, err)
	resp, err = blue.do.ReservedIPs.Delete(ctx, theirs.ip)
	refused(t, "release an address", 404, resp, err)
	_, resp, err = blue.do.ReservedIPActions.Assign(ctx, mine.ip, their.ID)
	refused(t, "assign an address to a droplet", 422, resp, err)
	_, resp, err = blue.do.ReservedIPs.Create(ctx, &godo.ReservedIPCreateRequest{DropletID: their.ID})
	refused(t, "reserve an address for a droplet", 422, resp, err)
	_, resp, err = blue.do.LoadBalancers.Get(ctx, theirs.lb.ID)
	refused(t, "get a load balancer", 404, resp, err)
	_, resp, err = blue.do.LoadBalancers.Update(ctx, theirs.lb.ID, &godo.LoadBalancerRequest{Name: "mine", ForwardingRules: []godo.ForwardingRule{webRule}})
	refused(t, "replace a load balancer", 404, resp, err)
	resp, err = blue.do.LoadBalancers.Delete(ctx, theirs.lb.ID)
	refused(t, "delete a load balancer", 404, resp, err)
	resp, err = blue.do.LoadBalancers.AddDroplets(ctx, theirs.lb.ID, mine.droplets[0].ID)
	refused(t, "add droplets to a load balancer", 404, resp, err)
	resp, err = blue.do.LoadBalancers.RemoveForwardingRules(ctx, theirs.lb.ID, webRule)
	refused(t, "remove a load balancer's rules", 404, resp, err)
	_, resp, err = blue.do.LoadBalancers.Create(ctx, &godo.LoadBalancerRequest{Name: "thief", DropletIDs: []int{their.ID}, ForwardingRules: []godo.ForwardingRule{webRule}})
	refused(t, "a load balancer over droplets", 422, resp, err)
	resp, err = blue.do.Tags.TagResources(ctx, "web", &godo.TagResourcesRequest{Resources: []godo.Resource{{ID: id, Type: godo.DropletResourceType}}})
	refused(t, "tag a droplet", 422, resp, err)
	resp, err = blue.do.Tags.UntagResources(ctx, "web", &godo.UntagResourcesRequest{Resources: []godo.Resource{{ID: id, Type: godo.DropletResourceType}}})
	refused(t, "untag a droplet", 422, resp, err)

	// Below /v2/weir, instances of load balancers included.
	instance := ""
	s, err := r.control.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Machines {
		if m.Team == "green" && m.LoadBalancer != "" {
			instance = string(m.ID)
		}
	}
	for _, call := range []string{
		"GET load_balancers/" + theirs.lb.ID + "/config", "POST load_balancers/" + theirs.lb.ID + "/reload", "POST load_balancers/" + theirs.lb.ID + "/failover",
		"GET droplets/" + id + "/boot", "GET droplets/" + instance + "/boot", "POST machines/" + id + "/drain", "POST machines/" + instance + "/drain",
		"GET events?load_balancer=" + theirs.lb.ID,
	} {
		method, path, _ := strings.Cut(call, " ")
		if a := blue.ask(method, "/v2/weir/"+path, map[bool]string{true: `{"drained": true}`}[strings.HasSuffix(path, "drain")]); a.status != 404 {
			t.Errorf("%s: %d %s, want 404", call, a.status, a.text)
		}
	}
	config := blue.ask("GET", "/v2/weir/load_balancers/shop/config", "").text
	if own, other := privateOf(t, mine.droplets[0]), privateOf(t, their); !strings.Contains(config, own+":") || strings.Contains(config, other+":") {
		t.Errorf("blue's load balancer does not send requests to blue's droplets alone:\n%s", config)
	}

	// Tags, bulk deletes and pools by name reach no further than the team.
	if a := blue.ask("POST", "/v2/droplets/actions?tag_name=web", `{"type": "power_off"}`); a.status != 201 || len(a.body["actions"].([]any)) != 2 {
		t.Errorf("power off by tag: %d %s, want 201 with 2 actions", a.status, a.text)
	}
	if a := blue.ask("POST", "/v2/weir/pools/app/machines", `{"count": 2}`); a.status != 202 {
		t.Errorf("grow: %d %s, want 202", a.status, a.text)
	}
	if _, err := blue.do.Droplets.DeleteByTag(ctx, "web"); err != nil {
		t.Error(err)
	}
	if _, err := blue.do.Tags.Delete(ctx, "web"); err != nil {
		t.Error(err)
	}
	if lb, _, err := green.do.LoadBalancers.Get(ctx, theirs.lb.ID); err != nil || !slices.Contains(lb.Tags, "web") {
		t.Errorf("green's load balancer has the tags %v (%v) after blue has deleted its tag, want web still", lb.Tags, err)
	}
	if a := blue.ask("DELETE", "/v2/weir/pools/app", ""); a.status != 204 {
		t.Errorf("delete a pool: %d %s, want 204", a.status, a.text)
	}
	if _, err := blue.do.LoadBalancers.Delete(ctx, mine.lb.ID); err != nil {
		t.Error(err)
	}
	blue.eventually("blue has no droplets left", func() bool {
		left, _, err := blue.do.Droplets.List(ctx, nil)
		return err == nil && len(left) == 0
	})

	// All that green has is as it was.
	left, _, err := green.do.Droplets.List(ctx, nil)
	if err != nil || len(left) != 3 {
		t.Errorf("green has %d droplets (%v), want its 3", len(left), err)
	}
	for _, d := range left {
		if d.Status != "active" || d.Locked || len(d.Tags) != 1 {
			t.Errorf("green's droplet %s is %s, locked %v, with the tags %v: want it untouched", d.Name, d.Status, d.Locked, d.Tags)
		}
	}
	lb, _, err := green.do.LoadBalancers.Get(ctx, theirs.lb.ID)
	if err != nil || lb.Name != "shop" || lb.Status != "active" || len(lb.DropletIDs) != 2 {
		t.Errorf("green's load balancer is %+v (%v), want it untouched", lb, err)
	}
	key, _, err := green.do.Keys.GetByID(ctx, theirs.key.ID)
	if err != nil || key.Name != "anna" {
		t.Errorf("green's key is %v (%v), want it untouched", key, err)
	}
	green.eventually("green's address is at its droplet", func() bool {
		ip, _, err := green.do.ReservedIPs.Get(ctx, theirs.ip)
		return err == nil && ip.Droplet != nil && ip.Droplet.ID == their.ID
	})
}

func privateOf(t *testing.T, d godo.Droplet) string {
	t.Helper()
	ip, err := d.PrivateIPv4()
	if err != nil {
		t.Fatal(err)
	}
	return ip
}

func TestNamesAreUniqueInATeam(t *testing.T) {
	r := lab(t)
	blue, green := r.tenant("blue"), r.tenant("green")
	q := &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}}
	for _, x := range []*godo.Client{r.do, blue.do, green.do} {
		if _, _, err := x.LoadBalancers.Create(t.Context(), q); err != nil {
			t.Errorf("the first of its name in a team: %v", err)
		}
		_, resp, err := x.LoadBalancers.Create(t.Context(), q)
		refused(t, "the second of its name in a team", http.StatusUnprocessableEntity, resp, err)
	}
	// A preview with a tag shows the team's own droplets.
	made := blue.droplets([]string{"a"}, "web")
	green.droplets([]string{"b"}, "web")
	q = &godo.LoadBalancerRequest{Name: "other", Tag: "web", ForwardingRules: []godo.ForwardingRule{webRule}, ValidateOnly: true}
	lb, _, err := blue.do.LoadBalancers.Create(t.Context(), q)
	if err != nil || !slices.Equal(lb.DropletIDs, []int{made[0].ID}) {
		t.Errorf("%v (%v), want that it would have blue's droplet alone", lb, err)
	}
}

func TestWhoOperatesTheRegionBreaksMachinesOfAllTeams(t *testing.T) {
	r, b := breakable(t)
	blue := r.tenant("blue")
	d := blue.droplets([]string{"a"})[0]
	path := fmt.Sprintf("/v2/weir/machines/%d/faults", d.ID)
	if a := blue.ask("POST", path, `{"type": "freeze"}`); a.status != 403 {
		t.Errorf("by its own team: %d %s, want 403", a.status, a.text)
	}
	if a := r.ask("POST", path, `{"type": "freeze"}`); a.status != 204 {
		t.Errorf("by the operator: %d %s, want 204", a.status, a.text)
	}
	if got := b.state(weir.ID(strconv.Itoa(d.ID))); !strings.HasPrefix(got, "frozen true") {
		t.Errorf("the machine is %s, want it frozen", got)
	}
	if a := r.ask("POST", "/v2/weir/machines/1/faults", `{"type": "freeze"}`); a.status != 404 {
		t.Errorf("one that nobody has: %d %s, want 404", a.status, a.text)
	}
}

// What the first team makes has no team in its row, as no row had when there was one team alone.
func TestTheFirstTeamIsTheOneThatWasThereFromTheStart(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{}, nil)
	r.droplets([]string{"a"}, "web")
	again := r.tenant("default")
	if got := has(again, "/v2/weir/machines", `"name":"a"`); len(got) != 1 {
		t.Error("another token of the first team does not see its machine")
	}
	s, _, err := call[struct{ Status weir.RegionStatus }](r, "GET", "status", nil)
	if err != nil || len(s.Status.Machines) != 1 || s.Status.Machines[0].Team != "" {
		t.Errorf("status %+v (%v), want a machine of no other team", s.Status.Machines, err)
	}
}
