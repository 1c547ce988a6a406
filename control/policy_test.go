package control

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// inShop gives a lab with the machines a and b, and the load balancer "shop" that has a as its own and b in two groups.
func inShop(t *testing.T, f func(t *testing.T, c *Control, a, b weir.Machine, lb weir.LoadBalancer)) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		template := weir.Template{Region: "lab", Size: "s-1vcpu-1gb", Image: "debian-12-x64"}
		ms, _, err := c.CreateMachines(t.Context(), []string{"a", "b"}, template)
		if err != nil {
			t.Fatal(err)
		}
		lb := balancer()
		lb.Name, lb.Region, lb.Tag, lb.Machines = "shop", "lab", "", []weir.ID{ms[0].ID}
		lb.Policy.Groups = []weir.TargetGroup{{Name: "green", Machines: []weir.ID{ms[1].ID}}, {Name: "api", Machines: []weir.ID{ms[1].ID}}}
		lb = must(c.CreateLoadBalancer(t.Context(), lb))(t)
		synctest.Wait()
		time.Sleep(5 * time.Second)
		f(t, c, ms[0], ms[1], lb)
	})
}

// requested returns what a load balancer's events say that users have asked for, sorted: here all happens at one moment.
func requested(t *testing.T, c *Control, lb weir.ID) (texts []string) {
	t.Helper()
	for _, e := range must(c.Events(t.Context(), lb, "", 0))(t) {
		if e.Kind == weir.EventRequest {
			texts = append(texts, e.Text)
		}
	}
	slices.Sort(texts)
	return texts
}

// weighed returns the weights of a load balancer's servers, by backend and name.
func weighed(t *testing.T, c *Control, lb weir.ID) map[string]int {
	t.Helper()
	v := must(c.viewBalancer(t.Context(), lb))(t)
	all := map[string]int{}
	p := v.proxy(time.Second, v.machines[0].Status.Private)
	for _, b := range p.Backends {
		for _, s := range b.Servers {
			all[b.Name+" "+s.Name] = s.Weight
		}
	}
	return all
}

func TestASplitChangesWeightsAndIsToldOfOnce(t *testing.T) {
	inShop(t, func(t *testing.T, c *Control, a, b weir.Machine, lb weir.LoadBalancer) {
		ctx := t.Context()
		for range 2 { // the second time it is so already
			must(c.Split(ctx, lb.ID, "", weir.Split{"green": 20}))(t)
		}
		if diff := cmp.Diff(map[string]int{"servers-http-8080 a": 256, "servers-http-8080 b": 64}, weighed(t, c, lb.ID)); diff != "" {
			t.Errorf("weights (-want +got):\n%s", diff)
		}
		must(c.Split(ctx, lb.ID, "", weir.Split{"green": 100}))(t)
		if got := weighed(t, c, lb.ID); got["servers-http-8080 a"] != 0 || got["servers-http-8080 b"] == 0 {
			t.Errorf("weights %v, want none but b's", got)
		}
		must(c.Split(ctx, lb.ID, "", weir.Split{}))(t)
		if lb := must(c.LoadBalancer(ctx, lb.ID))(t); lb.Policy.Split != nil {
			t.Errorf("split %v, want none", lb.Policy.Split)
		}
		must(c.Split(ctx, lb.ID, "api", weir.Split{"green": 5}))(t)
		want := []string{"splits requests: green 20 %, its own machines 80 %", "splits requests: green 100 %, its own machines 0 %", "splits requests: its own machines 100 %",
			"splits requests of group api: green 5 %, api 95 %"}
		slices.Sort(want)
		if got := requested(t, c, lb.ID); !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
		if _, err := c.Split(ctx, lb.ID, "red", nil); !errors.Is(err, weir.Invalid) {
			t.Errorf("split of a group that is not there: %v, want it refused", err)
		}
		if _, err := c.Split(weir.WithCaller(ctx, weir.Caller{Team: "red"}), lb.ID, "", nil); !errors.Is(err, weir.NotFound) {
			t.Errorf("split of another team's: %v, want that it is not there", err)
		}
	})
}

func TestADrainedTargetStaysATargetUntilItIsUndrainedOrDeleted(t *testing.T) {
	inShop(t, func(t *testing.T, c *Control, a, b weir.Machine, lb weir.LoadBalancer) {
		ctx := t.Context()
		is, alone, err := c.DrainTarget(ctx, lb.ID, a.ID, nil)
		if err != nil || !alone || is.Policy.Drained[a.ID] != c.Drain || !slices.Equal(is.Machines, []weir.ID{a.ID}) {
			t.Fatalf("drained %v of targets %v, alone %v (%v), want a for %s, and nobody beside it", is.Policy.Drained, is.Machines, alone, err, c.Drain)
		}
		if got := weighed(t, c, lb.ID); len(got) != 0 {
			t.Errorf("servers %v, want none", got)
		}
		must(c.UpdateLoadBalancer(ctx, lb.ID, func(lb *weir.LoadBalancer) error { lb.Policy.Drain = time.Minute; return nil }))(t)
		must(c.Split(ctx, lb.ID, "", weir.Split{"green": 1}))(t)
		if _, alone, err := c.DrainTarget(ctx, lb.ID, a.ID, nil); err != nil || alone {
			t.Errorf("alone %v (%v), want that b serves in its stead", alone, err)
		}
		at := 5 * time.Second
		if is, alone, err := c.DrainTarget(ctx, lb.ID, b.ID, &at); err != nil || !alone || !reflect.DeepEqual(is.Policy.Drained, map[weir.ID]time.Duration{a.ID: time.Minute, b.ID: at}) {
			t.Errorf("drained %v, alone %v (%v), want a for a minute and b for 5 s, and nobody left", is.Policy.Drained, alone, err)
		}
		v := must(c.viewBalancer(ctx, lb.ID))(t)
		if p := v.proxy(c.Drain, a.Status.Private); !reflect.DeepEqual(p.Drains, v.lb.Policy.Drained) || p.Drain != time.Minute {
			t.Errorf("nodes let servers finish for %v, others for %s, want as it was asked for", p.Drains, p.Drain)
		}
		lbOf := func() weir.LoadBalancer { return must(c.LoadBalancer(ctx, lb.ID))(t) }
		must(c.UndrainTarget(ctx, lb.ID, a.ID))(t)
		must(c.UndrainTarget(ctx, lb.ID, a.ID))(t)
		if _, still := lbOf().Policy.Drained[a.ID]; still {
			t.Error("a is drained, want that it serves again")
		}
		if err := c.DeleteMachine(ctx, b.ID); err != nil {
			t.Fatal(err)
		}
		if p := lbOf().Policy; len(p.Drained)+len(p.Groups[0].Machines)+len(p.Groups[1].Machines) != 0 {
			t.Errorf("policy %+v, want nothing of a machine that was deleted", p)
		}
		want := []string{"drains a: no new requests, and 1s to finish those that it has", "splits requests: green 1 %, its own machines 99 %",
			"drains a: no new requests, and 1m0s to finish those that it has", "drains b: no new requests, and 5s to finish those that it has", "lets a serve again"}
		slices.Sort(want)
		if got := requested(t, c, lb.ID); !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
		if _, _, err := c.DrainTarget(ctx, lb.ID, "77", nil); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "none of its targets") {
			t.Errorf("drain of no target: %v, want it refused", err)
		}
	})
}

func TestMaintenanceKeepsWhatIsNotSaid(t *testing.T) {
	inShop(t, func(t *testing.T, c *Control, _, _ weir.Machine, lb weir.LoadBalancer) {
		ctx := t.Context()
		must(c.Maintain(ctx, lb.ID, func(m *weir.Maintenance) { m.On, m.Page = true, "<h1>closed</h1>" }))(t)
		is := must(c.Maintain(ctx, lb.ID, func(m *weir.Maintenance) { m.On = false }))(t)
		if want := (weir.Maintenance{Page: "<h1>closed</h1>"}); !reflect.DeepEqual(*is.Policy.Handling.Maintenance, want) {
			t.Errorf("maintenance %+v, want %+v", *is.Policy.Handling.Maintenance, want)
		}
		if got, want := requested(t, c, lb.ID), []string{"is in maintenance: requests are answered with 503", "is no longer in maintenance"}; !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	})
}

func TestAnApplySaysWhatItChangesOfAPolicyAndNoSecrets(t *testing.T) {
	was := balancer()
	want := balancer()
	was.Policy.Drained = map[weir.ID]time.Duration{"7": time.Second}
	was.Policy.Handling.Login = &weir.Login{Users: []weir.User{{Name: "ann"}, {Name: "bob"}}}
	was.Policy.Handling.Login.Keep(nil, map[string]string{"ann": "correct horse", "bob": "battery staple"})
	was.Policy.Handling.Headers.SetRequest = map[string]string{"X-Key": "sesame"}
	was.Policy.Handling.Pages = map[int]string{503: "<h1>later</h1>"}
	want.Policy = was.Policy
	want.Policy.Drained = nil
	want.Policy.Handling.Login = &weir.Login{Users: []weir.User{{Name: "ann"}, {Name: "bob"}}}
	want.Policy.Handling.Login.Keep(was.Policy.Handling.Login, map[string]string{"ann": "correct horse", "bob": "battery staple"})
	if lb, changes := mergeBalancer(&was, want); len(changes) != 0 || !reflect.DeepEqual(lb, was) {
		t.Errorf("the same again changes %q, want nothing, and who is drained stays so", changes)
	}
	want.Policy.Split = weir.Split{"green": 5}
	want.Policy.Groups = []weir.TargetGroup{{Name: "green", Tag: "green", Port: 8080}}
	want.Policy.Routes = []weir.Route{{Hosts: []string{"api.example"}, Path: "/v1", Group: "green"}, {Redirect: &weir.Redirect{Scheme: "https"}}}
	want.Policy.Drain = time.Minute
	h := &want.Policy.Handling
	h.Headers.SetRequest = map[string]string{"X-Key": "open"}
	h.Headers.RemoveResponse = []string{"Server"}
	h.Compress, h.Connections = true, 20
	h.Pages = map[int]string{503: "<h1>soon</h1>"}
	h.Maintenance = &weir.Maintenance{On: true, Page: "x"}
	h.Rate = &weir.RateLimit{Requests: 100, Period: time.Minute}
	h.ClientCerts = &weir.ClientCertificates{CA: "…", Optional: true}
	h.Login.Keep(was.Policy.Handling.Login, map[string]string{"bob": "another one"})
	lb, changes := mergeBalancer(&was, want)
	for i, c := range changes {
		changes[i] = strings.TrimPrefix(c, "load balancer web: ")
	}
	said := []string{"split: green 5 %, was none", "target_groups: green by the tag green at port 8080, was none", "routes: api.example/v1 to group green, all redirected, was none",
		"response_headers: remove Server, was none", "compression: true, was false", "maintenance: on, was none", "rate_limit: 100 requests in 1m0s, was none",
		"connection_limit: 20, was 0", "client_certificates: asked for, was none", "drain_seconds: 60, was 0",
		"request_headers: what it says is another", "error_pages: what it says is another", "basic_auth: another password of bob"}
	if diff := cmp.Diff(said, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if len(lb.Policy.Drained) != 1 {
		t.Error("who was drained is not any more, want that an apply leaves that as it is")
	}
}

func TestAServerIsKeptForAsLongAsItsLoadBalancerLetsItFinish(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		put := func(servers ...weir.Server) {
			t.Helper()
			config := weir.NodeConfig{Node: "n1", Proxy: weir.Proxy{Drain: 10 * time.Minute, Backends: []weir.Backend{{Name: "servers-http-80", Servers: servers}}}}
			err := c.Store.Update(t.Context(), func(tx *store.Tx) error {
				nodeConfigs.Put(tx, "n1", config)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		put(weir.Server{ID: "s1"})
		time.Sleep(15 * time.Minute)
		put()
		for _, at := range []struct {
			after time.Duration
			want  []weir.ID
		}{{5 * time.Minute, []weir.ID{"n1"}}, {10 * time.Minute, nil}} {
			time.Sleep(at.after)
			put(weir.Server{ID: weir.ID(at.after.String())}) // old drops are forgotten with the next change
			ids, all, err := c.nodes.mayServe(t.Context(), c.Store, "s1")
			if err != nil || !all || !slices.Equal(ids, at.want) {
				t.Errorf("%s later it may be served by %v, all %v (%v), want %v", at.after, ids, all, err, at.want)
			}
		}
	})
}
