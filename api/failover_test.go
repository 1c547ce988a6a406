package api_test

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"weir/api"
	"weir/cloud"
	"weir/weir"
)

// pair starts a region with a load balancer, "shop", whose two instances are well, and returns
// it as its status has it.
func pair(t *testing.T) (*region, weir.LoadBalancerOverview) {
	t.Helper()
	r := lab(t)
	r.serve()
	if _, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}}); err != nil {
		t.Fatal(err)
	}
	var lb weir.LoadBalancerOverview
	r.eventually("both instances are well", func() bool {
		lb = r.balancer()
		return len(lb.Instances) == 2 && active(lb) != "" && !slices.ContainsFunc(lb.Instances, func(in weir.InstanceOverview) bool {
			return in.Health.State != weir.InstanceWell || in.Node.Revision != in.Wants
		})
	})
	return r, lb
}

// balancer returns the only load balancer.
func (r *region) balancer() (lb weir.LoadBalancerOverview) {
	r.t.Helper()
	s, err := r.control.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if len(s.LoadBalancers) > 0 {
		lb = s.LoadBalancers[0]
	}
	return lb
}

func active(lb weir.LoadBalancerOverview) weir.ID {
	for _, in := range lb.Instances {
		if in.Active {
			return in.Machine
		}
	}
	return ""
}

func TestAHandOverIsAnsweredWhenTheAddressHasMoved(t *testing.T) {
	r, before := pair(t)
	from := active(before)
	for _, body := range []any{nil, api.Handover{}, api.Handover{To: string(from)}, api.Handover{To: "shop-lb-1"}, api.Handover{To: "shop-lb-2"}} {
		was := active(r.balancer())
		got, _, err := call[struct{ Failover weir.Failover }](r, "POST", "load_balancers/shop/failover", body)
		if h, ok := body.(api.Handover); ok && h.To != "" && err != nil {
			// It is active already: which instance became that first is not said.
			if status, text := refusal(err); status != http.StatusConflict || !strings.HasSuffix(text, " is its active instance already") {
				t.Errorf("%+v: %v, want 409", body, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%+v: %v", body, err)
		}
		now := r.balancer()
		if f := got.Failover; f.From != was || f.To == was || active(now) != f.To || !f.Planned || f.Took <= 0 || !strings.HasPrefix(f.ToName, "shop-lb-") {
			t.Errorf("%+v: %+v with %s active, want a planned move away from %s", body, f, active(now), was)
		}
		if now.Failover == nil || *now.Failover != got.Failover || now.Since.IsZero() {
			t.Errorf("the status has %+v since %s, want the same failover", now.Failover, now.Since)
		}
	}
}

func TestAHandOverThatCannotBeSaysWhy(t *testing.T) {
	r, lb := pair(t)
	standby := lb.Instances[0].Machine
	if lb.Instances[0].Active {
		standby = lb.Instances[1].Machine
	}
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"nothing/failover", "", 404, "could not be found"},
		{"shop/failover", `{"to": "web-1"}`, 422, `to is \"web-1\", want an instance of load balancer \"shop\": shop-lb-1, shop-lb-2`},
		{"shop/failover", `{"to": 7}`, 422, "to is a number, want a string"},
		{"shop/failover", `{`, 400, "the body ends"},
	} {
		if a := r.ask("POST", "/v2/weir/load_balancers/"+c.path, c.body); a.status != c.status || !strings.Contains(a.text, c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.path, c.body, a.status, a.text, c.status, c.want)
		}
	}
	if a := r.ask("POST", "/v2/weir/machines/"+string(standby)+"/drain", `{"drained": true}`); a.status != http.StatusNoContent {
		t.Fatalf("drain: %d %s, want 204", a.status, a.text)
	}
	r.eventually("the standby is drained", func() bool {
		return slices.ContainsFunc(r.balancer().Instances, func(in weir.InstanceOverview) bool { return in.Health.State == weir.InstanceDrained })
	})
	if a := r.ask("POST", "/v2/weir/load_balancers/shop/failover", ""); a.status != http.StatusConflict || !strings.Contains(a.text, "cannot be handed over: shop-lb-") || !strings.Contains(a.text, "is drained") {
		t.Errorf("%d %s, want 409 and that the standby is drained", a.status, a.text)
	}
}

// slow is a control plane whose addresses do not move.
type slow struct{ api.Control }

func (slow) Failover(ctx context.Context, _, _ weir.ID) (weir.Failover, error) {
	if left, ok := ctx.Deadline(); !ok || time.Until(left) > time.Minute {
		return weir.Failover{}, weir.Errorf(weir.Conflict, "nothing ends the wait")
	}
	return weir.Failover{}, weir.Errorf(weir.Unavailable, "it has not been handed over yet")
}

func TestAHandOverIsNotWaitedForForEver(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{}, func(c api.Control) api.Control { return slow{c} })
	if _, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}}); err != nil {
		t.Fatal(err)
	}
	if a := r.ask("POST", "/v2/weir/load_balancers/shop/failover", ""); a.status != http.StatusServiceUnavailable || !strings.Contains(a.text, "not been handed over yet") {
		t.Errorf("%d %s, want 503 after a wait that ends", a.status, a.text)
	}
}

func TestADrainedMachineDoesNotServe(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"a"})[0]
	path := "/v2/weir/machines/" + strconv.Itoa(d.ID) + "/drain"
	drained := func() bool {
		got, _, err := call[struct{ Machines []api.InventoryMachine }](r, "GET", "machines", nil)
		if err != nil || len(got.Machines) != 1 {
			t.Fatalf("%+v (%v), want one machine", got, err)
		}
		return got.Machines[0].Drained
	}
	for _, want := range []bool{true, true, false, false} {
		body := `{"drained": false}`
		if want {
			body = `{"drained": true}`
		}
		if a := r.ask("POST", path, body); a.status != http.StatusNoContent || drained() != want {
			t.Errorf("%s: %d %s, drained %v", body, a.status, a.text, drained())
		}
	}
	for body, want := range map[string]string{`{}`: "drained is missing, want true or false", `{"drained": "yes"}`: "drained is a string, want true or false"} {
		if a := r.ask("POST", path, body); a.status != 422 || !strings.Contains(a.text, want) {
			t.Errorf("%s: %d %s, want 422 %s", body, a.status, a.text, want)
		}
	}
	for _, id := range []string{"9", "x"} {
		if a := r.ask("POST", "/v2/weir/machines/"+id+"/drain", `{"drained": true}`); a.status != 404 {
			t.Errorf("machine %s: %d %s, want 404", id, a.status, a.text)
		}
	}
	// What was asked for twice has happened once.
	if all := r.events(""); len(all) != 2 || all[0].Kind != weir.EventRequest || all[0].Text != "drains a" || all[1].Name != "a" {
		t.Errorf("events %+v, want that a was drained, and then not", all)
	}
}

// events returns what happened, as a query says.
func (r *region) events(query string) []weir.Event {
	r.t.Helper()
	got, _, err := call[struct{ Events []weir.Event }](r, "GET", "events"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return got.Events
}

func TestEventsTellTheStoryFromWhereItWasLeft(t *testing.T) {
	r, lb := pair(t)
	if _, _, err := call[any](r, "POST", "load_balancers/shop/failover", nil); err != nil {
		t.Fatal(err)
	}
	all := r.events("")
	i := slices.IndexFunc(all, func(e weir.Event) bool { return e.Kind == weir.EventRequest })
	if i < 0 || !strings.Contains(all[i].Text, "hands over to shop-lb-") || all[i].LoadBalancer != lb.ID || all[i].Name != "shop" {
		t.Fatalf("events %+v, want that a user handed shop over", all)
	}
	if !slices.IsSortedFunc(all, func(a, b weir.Event) int { return strings.Compare(string(a.ID), string(b.ID)) }) {
		t.Errorf("events %+v, want the oldest first", all)
	}
	if got := r.events("?after=" + string(all[i].ID)); len(got) < 1 || got[0] != all[i+1] {
		t.Errorf("after %s: %+v, want %+v first", all[i].ID, got, all[i+1])
	}
	if got := r.events("?limit=1"); len(got) != 1 || got[0].At.Before(all[len(all)-1].At) {
		t.Errorf("one event: %+v, want the newest", got)
	}
	for _, of := range []string{"shop", string(lb.ID)} {
		if got := r.events("?load_balancer=" + of); len(got) < len(all) {
			t.Errorf("of %s: %d events, want all %d", of, len(got), len(all))
		}
	}
	// They can still be asked for by its name when it is gone.
	if err := r.control.DeleteLoadBalancer(t.Context(), lb.ID); err != nil {
		t.Fatal(err)
	}
	if got := r.events("?load_balancer=shop"); len(got) < len(all) {
		t.Errorf("of shop, which is being deleted: %d events, want all %d", len(got), len(all))
	}
	for query, want := range map[string]struct {
		status int
		text   string
	}{
		"?limit=0":              {422, "want 1 to 1000"},
		"?limit=many":           {422, "want 1 to 1000"},
		"?after=%2e%2e":         {422, "want the ID of an event"},
		"?load_balancer=nobody": {404, "could not be found"},
	} {
		if a := r.ask("GET", "/v2/weir/events"+query, ""); a.status != want.status || !strings.Contains(a.text, want.text) {
			t.Errorf("%s: %d %s, want %d %s", query, a.status, a.text, want.status, want.text)
		}
	}
	a := lab(t).ask("GET", "/v2/weir/events", "")
	check(t, "events of a new region", a.body, "events[] object")
}
