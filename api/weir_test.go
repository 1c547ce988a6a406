package api_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"
	"github.com/google/go-cmp/cmp"

	"weir/api"
	"weir/cloud"
	"weir/weir"
)

// call speaks to /v2/weir/ as the CLI does.
func call[T any](r *region, method, path string, body any) (out T, resp *godo.Response, err error) {
	r.t.Helper()
	req, err := r.do.NewRequest(r.t.Context(), method, "/v2/weir/"+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err = r.do.Do(r.t.Context(), req, &out)
	return out, resp, err
}

func web(count int) api.App {
	return api.AppOf(
		&weir.Pool{Name: "web", Prefix: "app", Count: count, Template: weir.Template{Region: "lab", Size: "s-1vcpu-2gb", Image: "debian-12-x64", UserData: "#!/bin/sh\n", Tags: []string{"web", "blue"}}},
		weir.LoadBalancer{Name: "front", Region: "lab", Size: weir.DefaultNodeSize, Instances: 1, Algorithm: weir.LeastConnections, Idle: 90 * time.Second, Tag: "web",
			Rules:  []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 8080}},
			Health: weir.HealthCheck{Protocol: weir.HTTP, Port: 8080, Path: "/up", Interval: 4 * time.Second, Timeout: 3 * time.Second, Unhealthy: 2, Healthy: 2}}, nil)
}

func TestAnAppIsAppliedAndAppliedAgainChangesNothing(t *testing.T) {
	r := lab(t)
	would, _, err := call[api.Applied](r, "PUT", "app?dry_run=true", web(2))
	if err != nil || len(would.Changes) != 2 || !would.DryRun {
		t.Fatalf("%+v (%v), want two changes that would be", would, err)
	}
	pools, _, err := call[struct{ Pools []api.Pool }](r, "GET", "pools", nil)
	if err != nil || len(pools.Pools) != 0 {
		t.Fatalf("%+v (%v), want no pool after a dry run", pools, err)
	}
	did, _, err := call[api.Applied](r, "PUT", "app", web(2))
	if err != nil || !slices.Equal(did.Changes, would.Changes) || did.DryRun {
		t.Errorf("%+v (%v), want what the dry run said: %q", did, err, would.Changes)
	}
	pools, _, err = call[struct{ Pools []api.Pool }](r, "GET", "pools", nil)
	if err != nil || len(pools.Pools) != 1 {
		t.Fatalf("%+v (%v), want one pool", pools, err)
	}
	want := api.Pool{Name: "web", Region: "lab", Size: "s-1vcpu-2gb", Image: "debian-12-x64", HostnamePrefix: "app", Tags: []string{"web", "blue"}, Count: 2}
	got := pools.Pools[0]
	got.ID, got.Created, got.Plan = "", time.Time{}, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pool (-want +got):\n%s", diff)
	}
	lbs, _, err := r.do.LoadBalancers.ListByNames(t.Context(), []string{"front"}, nil)
	if err != nil || len(lbs) != 1 || lbs[0].Tag != "web" || lbs[0].Algorithm != "least_connections" || *lbs[0].HTTPIdleTimeoutSeconds != 90 ||
		lbs[0].HealthCheck.Path != "/up" || lbs[0].ForwardingRules[0] != webRule {
		t.Errorf("load balancer %v (%v), want front as it was asked for", lbs, err)
	}
	if same, _, err := call[api.Applied](r, "PUT", "app", web(2)); err != nil || len(same.Changes) != 0 {
		t.Errorf("applied again: %+v (%v), want no change", same, err)
	}
	if more, _, err := call[api.Applied](r, "PUT", "app", web(3)); err != nil || !slices.Equal(more.Changes, []string{"pool web: count: 3, was 2"}) {
		t.Errorf("with one more: %+v (%v), want that change alone", more, err)
	}
	r.eventually("there are three machines", func() bool {
		made, _, err := r.do.Droplets.ListByTag(t.Context(), "web", nil)
		return err == nil && len(made) == 3 && made[0].Name == "app-1" && slices.Contains(made[0].Tags, "blue")
	})
}

func TestAnAppNeedsButAName(t *testing.T) {
	r := lab(t)
	if _, _, err := call[api.Applied](r, "PUT", "app", map[string]any{"name": "shop", "load_balancer": map[string]any{
		"forwarding_rules": []any{map[string]any{"entry_protocol": "tcp", "entry_port": 25, "target_protocol": "tcp", "target_port": 2525}}}}); err != nil {
		t.Fatal(err)
	}
	lbs, _, err := r.do.LoadBalancers.List(t.Context(), nil)
	if err != nil || len(lbs) != 1 || lbs[0].Name != "shop" || lbs[0].Tag != "shop" || lbs[0].HealthCheck.Protocol != "tcp" || lbs[0].HealthCheck.Port != 2525 {
		t.Errorf("%v (%v), want shop, which checks what its first rule goes to", lbs, err)
	}
	for body, want := range map[string]string{
		`{}`:                              `name is "", want letters, digits and -`,
		`{"name": "a.b"}`:                 `name is "a.b", want letters, digits and -`,
		`{"name": "a", "count": 1001}`:    `pool "a": count is 1001, want 0 to 1000`,
		`{"name": "a", "count": "3"}`:     "count is a string, want an integer",
		`{"name": "a", "region": "nyc3"}`: `pool "a": region "nyc3": this Weir runs region "lab"`,
		`{"name": "a", "image": "a/b"}`:   `pool "a": image "a/b" is not offered, want a slug of Debian or Ubuntu such as debian-12-x64`,
		`{"name": "a", "load_balancer": {"health_check": {"port": 70000}}}`:                   `load balancer "a": health_check: port is 70000, want 1 to 65535`,
		`{"name": "a", "load_balancer": {"forwarding_rules": [{"entry_protocol": "https"}]}}`: `load balancer "a": forwarding_rules[0].entry_protocol is "https" and there is no certificate_id`,
		`{"name": "a", "load_balancer": {"size": "lb-small"}}`:                                `load balancer "a": instance size "lb-small" is not offered`,
		`{"name": "a", "load_balancer": {"http_idle_timeout_seconds": -9000000000000000000}}`: `load balancer "a": http_idle_timeout_seconds is -9223372036, want 30 to 600`,
		`{"name": "a", "ssh_keys": ["ssh-ed25519 A\nevil"]}`:                                  `pool "a": ssh key "ssh-ed25519 A\nevil" is not a public key`,
		`{"name": "a", "tags": ["x y"]}`:                                                      `pool "a": tag "x y"`,
		`{"name": "a", "hostname_prefix": "x_y"}`:                                             `pool "a": hostname_prefix: name "x_y"`,
		`{"name": "a", "load_balancer": {"forwarding_rules": [{"entry_port": 1}]}}`:           `load balancer "a": forwarding_rules[0].entry_protocol is ""`,
	} {
		a := r.ask("PUT", "/v2/weir/app", body)
		if message, _ := a.body["message"].(string); a.status != 422 || !strings.HasPrefix(message, want) {
			t.Errorf("%s: %d %s\nwant 422 %s", body, a.status, a.text, want)
		}
	}
	if a := r.ask("PUT", "/v2/weir/app?dry_run=maybe", `{"name": "a"}`); a.status != 422 || !strings.Contains(a.text, "want true or false") {
		t.Errorf("dry_run=maybe: %d %s, want 422", a.status, a.text)
	}
}

func TestAnAppThatSaysNoCountLeavesThePoolAsLargeAsItIs(t *testing.T) {
	r := lab(t)
	silent := web(0)
	silent.Count = nil
	count := func() int {
		t.Helper()
		pools, _, err := call[struct{ Pools []api.Pool }](r, "GET", "pools", nil)
		if err != nil || len(pools.Pools) != 1 {
			t.Fatalf("%+v (%v), want one pool", pools, err)
		}
		return pools.Pools[0].Count
	}
	if did, _, err := call[api.Applied](r, "PUT", "app", silent); err != nil || count() != 1 {
		t.Errorf("a new pool: %+v (%v) and a count of %d, want 1", did, err, count())
	}
	for _, n := range []int{3, 0} {
		if _, _, err := call[api.Applied](r, "PUT", "app", web(n)); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"app?dry_run=true", "app"} {
			if did, _, err := call[api.Applied](r, "PUT", path, silent); err != nil || len(did.Changes) != 0 || count() != n {
				t.Errorf("%s of a pool of %d: %+v (%v) and a count of %d, want no change", path, n, did, err, count())
			}
		}
	}
	if app := api.AppOf(&weir.Pool{Name: "web", Count: 1, KeepCount: true}, weir.LoadBalancer{}, nil); app.Count != nil {
		t.Errorf("the App of a pool that keeps its count says %d, want nothing", *app.Count)
	}
}

func TestAPoolIsDeletedWithItsMachines(t *testing.T) {
	r := lab(t)
	r.serve()
	if _, _, err := call[api.Applied](r, "PUT", "app", web(2)); err != nil {
		t.Fatal(err)
	}
	other := r.droplets([]string{"alone"})[0]
	if _, resp, err := call[any](r, "DELETE", "pools/web", nil); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("%v (%v), want 204", resp, err)
	}
	if _, resp, _ := call[any](r, "POST", "pools/web/machines", api.Growth{Count: 1}); resp.StatusCode != 404 {
		t.Errorf("growth of a pool that is being deleted: %d, want 404", resp.StatusCode)
	}
	r.eventually("pool and machines are gone, and nothing else", func() bool {
		pools, _, err := call[struct{ Pools []api.Pool }](r, "GET", "pools", nil)
		if err != nil {
			t.Fatal(err)
		}
		all, _, err := r.do.Droplets.List(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return len(pools.Pools) == 0 && len(all) == 1 && all[0].ID == other.ID
	})
	if lbs, _, err := r.do.LoadBalancers.List(t.Context(), nil); err != nil || len(lbs) != 1 {
		t.Errorf("load balancers %v (%v), want the one there was", lbs, err)
	}
	for _, name := range []string{"web", "none", "a_b"} {
		if _, resp, _ := call[any](r, "DELETE", "pools/"+name, nil); resp.StatusCode != 404 {
			t.Errorf("pool %s that is not there: %d, want 404", name, resp.StatusCode)
		}
	}
}

func TestAPoolGrowsAndAnswersWithItsNewDroplets(t *testing.T) {
	r := lab(t)
	if _, _, err := call[api.Applied](r, "PUT", "app", web(1)); err != nil {
		t.Fatal(err)
	}
	grown, resp, err := call[struct{ Droplets []godo.Droplet }](r, "POST", "pools/web/machines", api.Growth{Count: 3})
	if err != nil || resp.StatusCode != http.StatusAccepted || len(grown.Droplets) != 3 {
		t.Fatalf("%+v (%v), want 202 with three droplets", grown, err)
	}
	r.eventually("four are active", func() bool {
		all, _, err := r.do.Droplets.List(t.Context(), nil)
		return err == nil && len(all) == 4 && !slices.ContainsFunc(all, func(d godo.Droplet) bool { return d.Status != "active" })
	})
	if pools, _, err := call[struct{ Pools []api.Pool }](r, "GET", "pools", nil); err != nil || pools.Pools[0].Count != 4 {
		t.Errorf("%+v (%v), want a count of 4", pools, err)
	}
	for count, want := range map[int]string{0: "count is 0, want 1 to 1000", -1: "count is -1", 1001: "count is 1001", 1000: `pool "web": count is 1004, want 0 to 1000`} {
		if _, _, err := call[any](r, "POST", "pools/web/machines", api.Growth{Count: count}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("by %d: %v, want %q", count, err, want)
		}
	}
	if _, resp, _ := call[any](r, "POST", "pools/none/machines", api.Growth{Count: 1}); resp.StatusCode != 404 {
		t.Errorf("a pool that is not there: %d, want 404", resp.StatusCode)
	}
}

func TestTheInventoryHasALineForEachMachineOfUsers(t *testing.T) {
	r := lab(t)
	r.serve()
	if _, _, err := call[api.Applied](r, "PUT", "app", web(2)); err != nil {
		t.Fatal(err)
	}
	var all struct{ Machines []api.InventoryMachine }
	r.eventually("all are active", func() bool {
		got, _, err := call[struct{ Machines []api.InventoryMachine }](r, "GET", "machines", nil)
		all = got
		return err == nil && len(all.Machines) == 4 && !slices.ContainsFunc(all.Machines, func(m api.InventoryMachine) bool { return m.Status != "active" })
	})
	line := 0
	for _, m := range all.Machines {
		if m.LoadBalancer != "" {
			if m.Line != 0 {
				t.Errorf("instance %s has line %d, want none", m.Name, m.Line)
			}
			continue
		}
		line++
		if m.Line != line || m.Name != fmt.Sprintf("app-%d", line) || m.Pool == "" || !m.Private.IsValid() || m.Size != "s-1vcpu-2gb" || m.Boot.State != weir.BootDone {
			t.Errorf("machine %+v, want line %d", m, line)
		}
	}
	first := all.Machines[slices.IndexFunc(all.Machines, func(m api.InventoryMachine) bool { return m.Line == 1 })]
	if _, err := r.do.Droplets.Delete(t.Context(), int(first.ID)); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is seen to go, then the rest moves up", func() bool {
		got, _, err := call[struct{ Machines []api.InventoryMachine }](r, "GET", "machines", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range got.Machines {
			if m.ID == first.ID && m.Status != "deleting" {
				t.Errorf("%s is %s, want deleting", m.Name, m.Status)
			}
		}
		return len(got.Machines) == 3
	})
}

func TestABootThatFailedSaysWhereItsLogIs(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{Boots: func(cloud.Spec) (time.Duration, weir.Boot) {
		return 0, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3", Log: "/data/1.log", End: "no such package"}
	}}, nil)
	d := r.droplets([]string{"a"})[0]
	want := weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3", Log: "/data/1.log", End: "no such package"}
	r.eventually("it says so", func() bool {
		got, _, err := call[struct{ Boot weir.Boot }](r, "GET", fmt.Sprintf("droplets/%d/boot", d.ID), nil)
		return err == nil && got.Boot == want
	})
}

func TestTheConfigurationIsTextAndSaysWhetherItIsLive(t *testing.T) {
	r := lab(t)
	r.droplets([]string{"a"}, "web")
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}, Tag: "web"})
	if err != nil {
		t.Fatal(err)
	}
	config := func(of string) (string, string) {
		t.Helper()
		req, err := r.do.NewRequest(t.Context(), "GET", "/v2/weir/load_balancers/"+of+"/config", nil)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		resp, err := r.do.Do(t.Context(), req, &text)
		if err != nil {
			t.Fatal(err)
		}
		if kind := resp.Header.Get("Content-Type"); kind != "text/plain; charset=utf-8" {
			t.Errorf("Content-Type %q, want text", kind)
		}
		return text.String(), resp.Header.Get(api.LiveHeader)
	}
	if text, live := config(lb.ID); live != "false" || !strings.Contains(text, ":8080") {
		t.Errorf("live is %q with\n%s\nwant it as it would be", live, text)
	}
	r.serve()
	r.eventually("it is live", func() bool { _, live := config("shop"); return live == "true" })
}

func TestAReloadEndsWhenEveryInstanceHasDoneIt(t *testing.T) {
	r := lab(t)
	r.serve()
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}})
	if err != nil {
		t.Fatal(err)
	}
	if _, resp, err := call[any](r, "POST", "load_balancers/"+lb.ID+"/reload", nil); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("%v (%v), want 204", resp, err)
	}
	s, err := r.control.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range s.LoadBalancers[0].Instances {
		if in.Node.Revision != in.Wants {
			t.Errorf("instance %s is at revision %d, want %d", in.Machine, in.Node.Revision, in.Wants)
		}
	}
}

// stuck is a control plane whose reloads do not end.
type stuck struct{ api.Control }

func (stuck) Reload(ctx context.Context, _ weir.ID) error {
	<-ctx.Done()
	return weir.Errorf(weir.Unavailable, "reload: still waiting for lb-1")
}

func TestAReloadThatNobodyWaitsForEnds(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{}, func(c api.Control) api.Control { return stuck{c} })
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	req, err := r.do.NewRequest(ctx, "POST", "/v2/weir/load_balancers/"+lb.ID+"/reload", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.do.Do(ctx, req, nil); err == nil {
		t.Error("it ended well, want the caller's own deadline")
	}
	// The server's Close, at the end of the test, waits for the handler.
}

func TestTheStatusIsTheWholeRegion(t *testing.T) {
	r := lab(t)
	r.serve()
	if _, _, err := call[api.Applied](r, "PUT", "app", web(2)); err != nil {
		t.Fatal(err)
	}
	var s weir.RegionStatus
	r.eventually("all is well", func() bool {
		got, _, err := call[struct{ Status weir.RegionStatus }](r, "GET", "status", nil)
		if err != nil {
			t.Fatal(err)
		}
		s = got.Status
		return len(s.LoadBalancers) == 1 && s.LoadBalancers[0].Phase == weir.LoadBalancerActive && len(s.LoadBalancers[0].Instances) == 2 && len(s.LoadBalancers[0].Instances[1].Node.Servers) == 2 && s.Counts.Active == 4
	})
	if s.Region != "lab" || s.Counts.Active != 4 || len(s.Pools) != 1 || s.Pools[0].Serving != 2 || s.Versions.HAProxy != "2.6.12" || len(s.Problems) != 0 || len(s.Machines) != 4 {
		t.Errorf("status %+v, want a region in which all is well", s)
	}
	a := lab(t).ask("GET", "/v2/weir/status", "")
	check(t, "an empty region's status", a.body["status"], "region string", "problems[] string", "load_balancers[] object", "pools[] object", "machines[] object", "counts object", "versions object")
}
