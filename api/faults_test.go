package api_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"weir/api"
	"weir/cloud"
	"weir/edge"
	"weir/weir"
)

// breaker breaks the machines of a fake cloud, and keeps what is wrong with each.
type breaker struct {
	cloud *cloud.Fake

	mu     sync.Mutex
	frozen map[weir.ID]bool
	cuts   map[weir.ID][]weir.Cut
	booted map[weir.ID]int
}

func newBreaker(c *cloud.Fake) *breaker {
	return &breaker{cloud: c, frozen: map[weir.ID]bool{}, cuts: map[weir.ID][]weir.Cut{}, booted: map[weir.ID]int{}}
}

func (b *breaker) change(id weir.ID, do func()) error {
	if _, there := b.cloud.Spec(id); !there {
		return weir.Errorf(weir.NotFound, "there is no machine %s", id)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
	return nil
}

func (b *breaker) Kill(_ context.Context, id weir.ID) error {
	return b.change(id, func() { b.cloud.Kill(id); delete(b.frozen, id) })
}

func (b *breaker) Reboot(_ context.Context, id weir.ID) error {
	return b.change(id, func() { b.booted[id]++; delete(b.frozen, id) })
}

func (b *breaker) Freeze(_ context.Context, id weir.ID) error {
	return b.change(id, func() { b.frozen[id] = true })
}

func (b *breaker) Thaw(_ context.Context, id weir.ID) error {
	return b.change(id, func() { delete(b.frozen, id) })
}

func (b *breaker) Partition(_ context.Context, id weir.ID, cut weir.Cut) error {
	return b.change(id, func() { b.cuts[id] = append(b.cuts[id], cut) })
}

func (b *breaker) Heal(_ context.Context, id weir.ID) error {
	return b.change(id, func() { delete(b.cuts, id) })
}

func (b *breaker) FailHost(ctx context.Context, name string) error {
	return b.cloud.FailHost(ctx, name)
}

func (b *breaker) RestoreHost(ctx context.Context, name string) error {
	return b.cloud.RestoreHost(ctx, name)
}

// state says what is wrong with a machine.
func (b *breaker) state(id weir.ID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("frozen %v, cuts %v, %d reboots", b.frozen[id], b.cuts[id], b.booted[id])
}

// breakable starts a region whose machines can be broken. The API that can do it is at url.
func breakable(t *testing.T) (*region, *breaker) {
	t.Helper()
	r := lab(t)
	b := newBreaker(r.cloud)
	server := httptest.NewServer(contract(t, api.New(api.Options{Control: r.control, Users: edge.NewTokens(r.control), Faults: b})))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r, b
}

func TestMachinesAreBrokenAndMendedOnPurpose(t *testing.T) {
	r, b := breakable(t)
	id := weir.ID(fmt.Sprint(r.droplets([]string{"a"})[0].ID))
	for _, step := range []struct{ body, want string }{
		{`{"type": "freeze"}`, "frozen true, cuts [], 0 reboots"},
		{`{"type": "thaw"}`, "frozen false, cuts [], 0 reboots"},
		{`{"type": "partition"}`, "frozen false, cuts [{  false}], 0 reboots"},
		{`{"type": "partition", "link": "private", "direction": "in", "silent": true}`, "frozen false, cuts [{  false} {private in false}], 0 reboots"},
		{`{"type": "heal"}`, "frozen false, cuts [], 0 reboots"},
		{`{"type": "partition", "link": "public", "direction": "both", "silent": false}`, "frozen false, cuts [{public both true}], 0 reboots"},
		{`{"type": "heal", "link": null}`, "frozen false, cuts [], 0 reboots"},
		{`{"type": "reboot"}`, "frozen false, cuts [], 1 reboots"},
	} {
		if a := r.ask("POST", "/v2/weir/machines/"+string(id)+"/faults", step.body); a.status != http.StatusNoContent || a.text != "" {
			t.Errorf("%s: %d %s, want 204", step.body, a.status, a.text)
		}
		if got := b.state(id); got != step.want {
			t.Errorf("%s: %s, want %s", step.body, got, step.want)
		}
	}
	if a := r.ask("POST", "/v2/weir/machines/"+string(id)+"/faults", `{"type": "kill"}`); a.status != http.StatusNoContent {
		t.Errorf("kill: %d %s, want 204", a.status, a.text)
	}
}

func TestALoadBalancersInstanceCanBeBroken(t *testing.T) {
	r, b := breakable(t)
	if _, _, err := call[api.Applied](r, "PUT", "app", web(1)); err != nil {
		t.Fatal(err)
	}
	var id weir.ID
	r.eventually("there is an instance", func() bool {
		all, err := r.control.Machines(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.LoadBalancer != "" && m.Status.Phase == weir.MachineActive {
				id = m.ID
			}
		}
		return id != ""
	})
	if a := r.ask("POST", "/v2/weir/machines/"+string(id)+"/faults", `{"type": "freeze"}`); a.status != http.StatusNoContent || !strings.HasPrefix(b.state(id), "frozen true") {
		t.Errorf("freeze: %d %s, and it is %s, want it frozen", a.status, a.text, b.state(id))
	}
}

func TestAFaultThatCannotBeIsRefused(t *testing.T) {
	r, _ := breakable(t)
	path := fmt.Sprintf("/v2/weir/machines/%d/faults", r.droplets([]string{"a"})[0].ID)
	for body, want := range map[string]string{
		`{}`:                                 `type is "", want kill, freeze, thaw, partition, heal or reboot`,
		`{"type": "explode"}`:                `type is "explode", want kill, freeze, thaw, partition, heal or reboot`,
		`{"type": "partition", "link": "x"}`: `link is "x", want public, private or both`,
		`{"type": "partition", "direction": "x"}`:                   `direction is "x", want in, out or both`,
		`{"type": "partition", "direction": "in", "silent": false}`: `direction is "in", want both: a link that is down`,
		`{"type": "partition", "silent": "yes"}`:                    `silent is a string, want true or false`,
		`{"type": "freeze", "link": "public"}`:                      `link, direction and silent go with the type partition alone, and type is "freeze"`,
	} {
		a := r.ask("POST", path, body)
		if message, _ := a.body["message"].(string); a.status != 422 || !strings.HasPrefix(message, want) {
			t.Errorf("%s: %d %s\nwant 422 %s", body, a.status, a.text, want)
		}
	}
	for _, id := range []string{"999999", "x", "0"} {
		if a := r.ask("POST", "/v2/weir/machines/"+id+"/faults", `{"type": "kill"}`); a.status != 404 {
			t.Errorf("machine %s that is not there: %d %s, want 404", id, a.status, a.text)
		}
	}
	safe := lab(t)
	path = fmt.Sprintf("/v2/weir/machines/%d/faults", safe.droplets([]string{"a"})[0].ID)
	if a := safe.ask("POST", path, `{"type": "kill"}`); a.status != 422 || !strings.Contains(a.text, "only the local cloud of weir dev does") {
		t.Errorf("a cloud that breaks nothing: %d %s, want 422", a.status, a.text)
	}
}

func TestHostsAreBrokenAndMendedOnPurpose(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{Hosts: 2}, nil)
	server := httptest.NewServer(contract(t, api.New(api.Options{Control: r.control, Users: edge.NewTokens(r.control), Faults: newBreaker(r.cloud)})))
	t.Cleanup(server.Close)
	r.url = server.URL
	r.droplets([]string{"a", "b"})
	down := func(host string, want bool) {
		t.Helper()
		r.eventually(fmt.Sprintf("the machines of %s are shown with it down: %v", host, want), func() bool {
			all, _, err := call[struct{ Machines []api.InventoryMachine }](r, "GET", "machines", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range all.Machines {
				if m.OnHost == host {
					return m.HostDown == want && (m.Status == "off") == want && (m.Err == "its host host-2 is down") == want
				}
			}
			return false
		})
	}
	down("host-2", false)
	for _, step := range []struct {
		host, body string
		status     int
		says       string
	}{
		{"host-2", `{}`, 422, `type is \"\", want fail or restore`},
		{"host-2", `{"type": "kill"}`, 422, `type is \"kill\", want fail or restore`},
		{"host-3", `{"type": "fail"}`, 404, `there is no host \"host-3\", want one of host-1 to host-2`},
		{"host-2", `{"type": "fail"}`, 204, ""},
	} {
		if a := r.ask("POST", "/v2/weir/hosts/"+step.host+"/faults", step.body); a.status != step.status || !strings.Contains(a.text, step.says) {
			t.Errorf("%s of %s: %d %s, want %d %s", step.body, step.host, a.status, a.text, step.status, step.says)
		}
	}
	down("host-2", true)
	if a := r.ask("POST", "/v2/weir/hosts/host-2/faults", `{"type": "restore"}`); a.status != 204 {
		t.Errorf("restore: %d %s, want 204", a.status, a.text)
	}
	down("host-2", false)
	if a := lab(t).ask("POST", "/v2/weir/hosts/host-2/faults", `{"type": "fail"}`); a.status != 422 || !strings.Contains(a.text, "only the local cloud of weir dev does") {
		t.Errorf("a cloud that breaks nothing: %d %s, want 422", a.status, a.text)
	}
}
