package api_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/digitalocean/godo"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// asTheCloudController returns the body that Kubernetes' cloud controller sends for a service, the
// same at each sync: with every field that it has, and its cluster's tag.
func asTheCloudController(name string, droplets []godo.Droplet) *godo.LoadBalancerRequest {
	q := &godo.LoadBalancerRequest{Name: name, Region: "lab", Algorithm: "round_robin", Type: "REGIONAL", Network: "EXTERNAL",
		Tags: []string{"k8s:0a1b"}, DisableLetsEncryptDNSRecords: godo.PtrTo(false), Firewall: &godo.LBFirewall{},
		ForwardingRules: []godo.ForwardingRule{
			{EntryProtocol: "tcp", EntryPort: 80, TargetProtocol: "tcp", TargetPort: 31080},
			{EntryProtocol: "tcp", EntryPort: 443, TargetProtocol: "tcp", TargetPort: 31443}},
		HealthCheck: &godo.HealthCheck{Protocol: "http", Port: 10256, Path: "/healthz", CheckIntervalSeconds: 3, ResponseTimeoutSeconds: 5,
			UnhealthyThreshold: 3, HealthyThreshold: 5, ProxyProtocol: godo.PtrTo(false)},
		StickySessions: &godo.StickySessions{Type: "none"}}
	for _, d := range droplets {
		q.DropletIDs = append(q.DropletIDs, d.ID)
	}
	return q
}

// written counts what is written to a table of one load balancer's, until another one's row is seen.
func written[T any](ctx context.Context, r *region, table string, of func(T) weir.ID) (count func(mine, other weir.ID) int) {
	var mu sync.Mutex
	var seen []weir.ID
	go func() {
		for change, err := range store.NewTable[T](table).Follow(ctx, r.control.Store) {
			if err != nil || change.Synced || change.Deleted {
				continue
			}
			mu.Lock()
			seen = append(seen, of(change.Row))
			mu.Unlock()
		}
	}()
	return func(mine, other weir.ID) (n int) {
		r.t.Helper()
		r.eventually("the other's row is seen in "+table, func() bool {
			mu.Lock()
			defer mu.Unlock()
			end := slices.Index(seen, other)
			if end < 0 {
				return false
			}
			n = 0
			for _, id := range seen[:end] {
				if id == mine {
					n++
				}
			}
			return true
		})
		return n
	}
}

func TestSyncingTheSameAgainAndAgainWritesNothing(t *testing.T) {
	r := lab(t)
	r.serve()
	made := r.droplets([]string{"n1", "n2", "n3"})
	q := asTheCloudController("svc", made)
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	put := func() *godo.LoadBalancer {
		t.Helper()
		got, resp, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, q)
		if err != nil || resp.StatusCode != http.StatusOK || got.ID != lb.ID {
			t.Fatalf("%v (%v), want 200", resp, err)
		}
		return got
	}
	r.eventually("it is active, and all its instances are well, though the same is sent meanwhile", func() bool {
		put()
		row, err := r.control.LoadBalancer(t.Context(), weir.ID(lb.ID))
		return err == nil && row.Status.Phase == weir.LoadBalancerActive && len(row.Status.Plan) == 0 && len(row.Status.Health) == weir.MinInstances &&
			!slices.ContainsFunc(row.Status.Health, func(h weir.Health) bool { return h.State != weir.InstanceWell })
	})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rows := written(ctx, r, "load_balancers", func(lb weir.LoadBalancer) weir.ID { return lb.ID })
	configs := written(ctx, r, "node_configs", func(c weir.NodeConfig) weir.ID { return c.Proxy.LoadBalancer })
	events := written(ctx, r, "events", func(e weir.Event) weir.ID { return e.LoadBalancer })
	first, err := r.control.LoadBalancer(t.Context(), weir.ID(lb.ID))
	if err != nil {
		t.Fatal(err)
	}
	// What was there is seen too, once.
	told, err := r.control.Events(t.Context(), first.ID, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if i == 10 { // a client's lists are sets, and come in any order
			slices.Reverse(q.DropletIDs)
			slices.Reverse(q.ForwardingRules)
		}
		if got := put(); got.Status != "active" || !slices.Equal(got.Tags, q.Tags) {
			t.Fatalf("the same once more: %s with the tags %v, want it active as it was", got.Status, got.Tags)
		}
	}
	q.Name, q.DropletIDs, q.Tag = "marker", nil, ""
	marker, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	mine, other := weir.ID(lb.ID), weir.ID(marker.ID)
	if n := rows(mine, other); n != 1 {
		t.Errorf("its row was written %d times, want 0", n-1)
	}
	if n := configs(mine, other); n != weir.MinInstances {
		t.Errorf("its instances were given %d configurations, want 0", n-weir.MinInstances)
	}
	if n := events(mine, other); n != len(told) {
		t.Errorf("%d events tell of it, want 0", n-len(told))
	}
	last, err := r.control.LoadBalancer(t.Context(), mine)
	if err != nil || last.Revision != first.Revision {
		t.Errorf("revision %d (%v), want %d still", last.Revision, err, first.Revision)
	}
}

func TestAChangedLoadBalancerIsNewUntilItsInstancesHaveIt(t *testing.T) {
	r := lab(t)
	r.serve()
	q := asTheCloudController("svc", r.droplets([]string{"n1"}))
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	active := func() {
		r.eventually("it is active", func() bool {
			lb, _, err = r.do.LoadBalancers.Get(t.Context(), lb.ID)
			return err == nil && lb.Status == "active"
		})
	}
	active()
	q.ForwardingRules = q.ForwardingRules[:1]
	got, _, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, q)
	if err != nil || got.Status != "new" {
		t.Errorf("%v (%v), want it new: its instances have not heard of it", got, err)
	}
	active()
	all, err := r.control.Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.LoadBalancer == "" {
			continue
		}
		if c, err := r.control.NodeConfig(t.Context(), m.ID, 0); err != nil || len(c.Proxy.Frontends) != 1 {
			t.Errorf("it is active, and %s has %d frontends (%v), want the one that is left", m.Name, len(c.Proxy.Frontends), err)
		}
	}
}

func TestALoadBalancerHasTagsOfItsOwn(t *testing.T) {
	r := lab(t)
	q := asTheCloudController("svc", nil)
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if err != nil || !slices.Equal(lb.Tags, []string{"k8s:0a1b"}) {
		t.Fatalf("%v (%v), want it with its tag", lb, err)
	}
	now := func() []string {
		t.Helper()
		got, _, err := r.do.LoadBalancers.Get(t.Context(), lb.ID)
		if err != nil {
			t.Fatal(err)
		}
		return got.Tags
	}
	resources := []godo.Resource{{ID: lb.ID, Type: godo.LoadBalancerResourceType}}
	// As the cloud controller does: it tags first, and creates the tag if it is told that there is none.
	resp, err := r.do.Tags.TagResources(t.Context(), "k8s:2c3d", &godo.TagResourcesRequest{Resources: resources})
	if err == nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("by a tag that is not there: %v, want 404", err)
	}
	if _, _, err := r.do.Tags.Create(t.Context(), &godo.TagCreateRequest{Name: "k8s:2c3d"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // once more is no harm
		if _, err := r.do.Tags.TagResources(t.Context(), "k8s:2c3d", &godo.TagResourcesRequest{Resources: resources}); err != nil {
			t.Fatal(err)
		}
	}
	if got := now(); !slices.Equal(got, []string{"k8s:0a1b", "k8s:2c3d"}) {
		t.Errorf("tags %v, want both", got)
	}
	tag, _, err := r.do.Tags.Get(t.Context(), "K8S:2c3d")
	if err != nil || tag.Resources.Count != 1 || tag.Resources.Droplets.Count != 0 || tag.Resources.LastTaggedURI != r.url+"/v2/load_balancers/"+lb.ID {
		t.Errorf("%v (%v), want it on one resource, which is no droplet", tag, err)
	}
	// godo's AsRequest leaves tags out: they stay.
	if _, _, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, lb.AsRequest()); err != nil {
		t.Fatal(err)
	}
	if got := now(); len(got) != 2 {
		t.Errorf("after a PUT without tags %v, want both", got)
	}
	if _, err := r.do.Tags.UntagResources(t.Context(), "k8s:0a1b", &godo.UntagResourcesRequest{Resources: resources}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.do.Tags.Delete(t.Context(), "k8s:2c3d"); err != nil {
		t.Fatal(err)
	}
	if got := now(); len(got) != 0 {
		t.Errorf("tags %v, want none: one was taken off and the other deleted", got)
	}
}

func TestALoadBalancerWhoseTagIsDeletedHasNoDropletsUntilOneHasItAgain(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"a"}, "web")[0]
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", Tag: "web", ForwardingRules: []godo.ForwardingRule{webRule}})
	if err != nil || !slices.Equal(lb.DropletIDs, []int{d.ID}) {
		t.Fatalf("%v (%v), want it with the droplet that has its tag", lb, err)
	}
	if _, err := r.do.Tags.Delete(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if lb, _, err = r.do.LoadBalancers.Get(t.Context(), lb.ID); err != nil || lb.Tag != "web" || len(lb.DropletIDs) != 0 {
		t.Errorf("%v (%v), want it to go by its tag still, with no droplets", lb, err)
	}
	again := r.droplets([]string{"b"}, "web")[0]
	if lb, _, err = r.do.LoadBalancers.Get(t.Context(), lb.ID); err != nil || !slices.Equal(lb.DropletIDs, []int{again.ID}) {
		t.Errorf("%v (%v), want it with the droplet that has the tag now", lb, err)
	}
}

func TestARegionalLoadBalancerHasNoCache(t *testing.T) {
	r := lab(t)
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), asTheCloudController("svc", nil))
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.do.LoadBalancers.PurgeCache(t.Context(), lb.ID)
	if code, text := refusal(err); code != 422 || text != `load balancer "svc" is REGIONAL, and only a GLOBAL one has a cache: there is nothing to purge` {
		t.Errorf("%d %q, want 422", code, text)
	}
	_, err = r.do.LoadBalancers.PurgeCache(t.Context(), "none")
	if code, _ := refusal(err); code != 404 {
		t.Errorf("of none: %d, want 404", code)
	}
}

func TestWhatWeirNeverDoesMayBeForbidden(t *testing.T) {
	r := lab(t)
	q := asTheCloudController("svc", nil)
	q.DisableLetsEncryptDNSRecords = godo.PtrTo(true)
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if err != nil || !*lb.DisableLetsEncryptDNSRecords {
		t.Errorf("%v (%v), want it to say that nobody makes DNS records for it", lb, err)
	}
}

func TestADropletThatIsLeavingIsLeftOutOfAPut(t *testing.T) {
	slow := make(chan struct{})
	r := newRegion(t, cloud.FakeOptions{Fault: func(ctx context.Context, call string) (before, after error) {
		if strings.HasPrefix(call, "delete machine") {
			select {
			case <-slow:
			case <-ctx.Done():
			}
		}
		return nil, nil
	}}, nil)
	defer close(slow)
	made := r.droplets([]string{"n1", "n2"})
	q := asTheCloudController("svc", made)
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.do.Droplets.Delete(t.Context(), made[0].ID); err != nil {
		t.Fatal(err)
	}
	got, _, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, q)
	if err != nil || !slices.Equal(got.DropletIDs, []int{made[1].ID}) {
		t.Errorf("%v (%v), want it with the droplet that stays", got, err)
	}
}

// etcd returns a region whose store is a real one.
func etcd(t *testing.T) *region {
	t.Helper()
	return newRegionOn(t, embed(t), cloud.FakeOptions{}, nil)
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	r := etcd(t)
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("n%d", i))
	}
	made := r.droplets(names)
	q := asTheCloudController("svc", nil)

	// Of many who create one name, one does.
	var wg sync.WaitGroup
	var mu sync.Mutex
	var created []string
	for range 8 {
		wg.Go(func() {
			lb, _, err := r.do.LoadBalancers.Create(t.Context(), q)
			code, text := refusal(err)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				created = append(created, lb.ID)
			case code != 422 || !strings.HasPrefix(text, "name is not unique"):
				t.Errorf("%d %q, want one winner, and 422 for the others", code, text)
			}
		})
	}
	wg.Wait()
	if len(created) != 1 {
		t.Fatalf("%d were created by one name, want 1", len(created))
	}
	id := created[0]

	// All that is added by many at once is there.
	mail := func(i int) godo.ForwardingRule {
		return godo.ForwardingRule{EntryProtocol: "tcp", EntryPort: 2000 + i, TargetProtocol: "tcp", TargetPort: 25}
	}
	for i, d := range made {
		wg.Go(func() {
			if _, err := r.do.LoadBalancers.AddDroplets(t.Context(), id, d.ID); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := r.do.LoadBalancers.AddForwardingRules(t.Context(), id, mail(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	lb, _, err := r.do.LoadBalancers.Get(t.Context(), id)
	if err != nil || len(lb.DropletIDs) != len(made) || len(lb.ForwardingRules) != 2+len(made) {
		t.Fatalf("%v (%v), want %d droplets and %d rules", lb, err, len(made), 2+len(made))
	}

	// A PUT is all of one body, never some of two; what was added afterwards is added to it, and
	// what was taken away afterwards is not there.
	body := func(i int) *godo.LoadBalancerRequest {
		q := asTheCloudController("svc", made[:1+i])
		q.HealthCheck.CheckIntervalSeconds = 10 + i
		q.ForwardingRules[0].TargetPort = 30000 + i
		return q
	}
	for i := range 8 {
		wg.Go(func() {
			if _, _, err := r.do.LoadBalancers.Update(t.Context(), id, body(i)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := r.do.LoadBalancers.AddForwardingRules(t.Context(), id, mail(i)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := r.do.LoadBalancers.AddDroplets(t.Context(), id, made[9].ID); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := r.do.LoadBalancers.RemoveDroplets(t.Context(), id, made[0].ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if lb, _, err = r.do.LoadBalancers.Get(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	last := body(lb.HealthCheck.CheckIntervalSeconds - 10)
	for _, rule := range last.ForwardingRules {
		if !slices.Contains(lb.ForwardingRules, rule) {
			t.Errorf("rules %v, want those of the PUT whose health check it has, %v", lb.ForwardingRules, rule)
		}
	}
	for _, d := range last.DropletIDs[1:] {
		if !slices.Contains(lb.DropletIDs, d) {
			t.Errorf("droplets %v, want those of the PUT whose health check it has, %d too", lb.DropletIDs, d)
		}
	}
	for _, d := range lb.DropletIDs {
		if !slices.Contains(last.DropletIDs, d) && d != made[9].ID {
			t.Errorf("droplets %v, and %d is from another PUT than its health check", lb.DropletIDs, d)
		}
	}
}

func TestDeletingTwiceIsNotFoundTheSecondTime(t *testing.T) {
	r := lab(t)
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), asTheCloudController("svc", nil))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[int]int{}
	for range 6 {
		wg.Go(func() {
			resp, err := r.do.LoadBalancers.Delete(t.Context(), lb.ID)
			if resp == nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			codes[resp.StatusCode]++
		})
	}
	wg.Wait()
	if codes[204] != 1 || codes[404] != 5 {
		t.Errorf("six who delete it are told %v, want one 204 and 404 for the others", codes)
	}
	// Its name is free at once.
	if _, _, err := r.do.LoadBalancers.Create(t.Context(), asTheCloudController("svc", nil)); err != nil {
		t.Errorf("another of its name: %v", err)
	}
}
