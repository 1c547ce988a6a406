package api_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/digitalocean/godo"

	"weir/cloud"
)

func TestADropletIsRenamed(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"one"})[0]
	act, resp, err := r.do.DropletActions.Rename(t.Context(), d.ID, "uno.example")
	if err != nil || resp.StatusCode != http.StatusCreated || act.Status != godo.ActionCompleted || act.Type != "rename" || act.CompletedAt == nil {
		t.Fatalf("%v (%v), want 201 with an action rename that is completed", act, err)
	}
	if got, _, err := r.do.Droplets.Get(t.Context(), d.ID); err != nil || got.Name != "uno.example" || got.Status != "active" {
		t.Errorf("%v (%v), want it active by its new name", got, err)
	}
	_, _, err = r.do.DropletActions.Rename(t.Context(), d.ID, "u n o")
	if code, text := refusal(err); code != 422 || !strings.Contains(text, `name "u n o"`) {
		t.Errorf("with spaces: %d %q, want 422 that names it", code, text)
	}
	if a := r.ask("POST", "/v2/droplets/actions?tag_name=x", `{"type": "rename", "name": "x"}`); a.status != 422 || !strings.Contains(a.text, "rename each by its ID") {
		t.Errorf("all by tag: %d %s, want 422", a.status, a.text)
	}
}

func TestWhatADropletIsAlreadyIsDoneAtOnce(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"one"}, "web")[0]
	for _, do := range []func(context.Context, int) (*godo.Action, *godo.Response, error){r.do.DropletActions.EnablePrivateNetworking, r.do.DropletActions.DisableBackups} {
		if act, _, err := do(t.Context(), d.ID); err != nil || act.Status != godo.ActionCompleted {
			t.Errorf("%v (%v), want it completed", act, err)
		}
	}
	if acts, _, err := r.do.DropletActions.EnablePrivateNetworkingByTag(t.Context(), "web"); err != nil || len(acts) != 1 || acts[0].Status != godo.ActionCompleted {
		t.Errorf("by tag: %v (%v), want one, completed", acts, err)
	}
}

func TestActionsThatWeirDoesNotDoSayWhatToDoInstead(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"one"}, "web")[0]
	do, ctx := r.do.DropletActions, t.Context()
	for kind, ask := range map[string]func() (*godo.Action, *godo.Response, error){
		"resize":         func() (*godo.Action, *godo.Response, error) { return do.Resize(ctx, d.ID, "s-2vcpu-4gb", true) },
		"rebuild":        func() (*godo.Action, *godo.Response, error) { return do.RebuildByImageSlug(ctx, d.ID, "debian-12-x64") },
		"restore":        func() (*godo.Action, *godo.Response, error) { return do.Restore(ctx, d.ID, 7) },
		"snapshot":       func() (*godo.Action, *godo.Response, error) { return do.Snapshot(ctx, d.ID, "monday") },
		"enable_backups": func() (*godo.Action, *godo.Response, error) { return do.EnableBackups(ctx, d.ID) },
		"change_backup_policy": func() (*godo.Action, *godo.Response, error) {
			return do.ChangeBackupPolicy(ctx, d.ID, &godo.DropletBackupPolicyRequest{Plan: "daily"})
		},
		"password_reset": func() (*godo.Action, *godo.Response, error) { return do.PasswordReset(ctx, d.ID) },
		"change_kernel":  func() (*godo.Action, *godo.Response, error) { return do.ChangeKernel(ctx, d.ID, 7) },
	} {
		_, _, err := ask()
		if code, text := refusal(err); code != 422 || !strings.HasPrefix(text, `type is "`+kind+`": Weir`) {
			t.Errorf("%s: %d %q, want 422 that names it and says what to do", kind, code, text)
		}
		if a := r.ask("POST", "/v2/droplets/actions?tag_name=web", `{"type": "`+kind+`"}`); a.status != 422 {
			t.Errorf("%s by tag: %d %s, want 422", kind, a.status, a.text)
		}
	}
	if a := r.ask("POST", "/v2/droplets/"+godo.ToURN("x", d.ID)[5:]+"/actions", `{"type": "paint"}`); a.status != 422 || !strings.HasPrefix(a.body["message"].(string), `type is "paint": Weir's droplets know power_on`) {
		t.Errorf("%d %s, want 422 with what there is", a.status, a.text)
	}
	if acts, _, err := r.do.Droplets.Actions(ctx, d.ID, nil); err != nil || len(acts) != 1 {
		t.Errorf("actions %v (%v), want its creation alone", acts, err)
	}
}

// held is a cloud that waits before it turns a machine off or assigns an address, until it may.
type held struct {
	mu    sync.Mutex
	on    bool
	may   chan struct{}
	waits int // calls that wait
}

func (h *held) fault(ctx context.Context, call string) (before, after error) {
	h.mu.Lock()
	waits := h.on && (strings.HasPrefix(call, "power o") || strings.HasPrefix(call, "assign"))
	if waits {
		h.waits++
	}
	h.mu.Unlock()
	if waits {
		select {
		case <-h.may:
		case <-ctx.Done():
		}
	}
	return nil, nil
}

func TestAnActionIsInProgressUntilItIsDoneAndFailsIfAnotherComesFirst(t *testing.T) {
	h := &held{may: make(chan struct{})}
	r := newRegion(t, cloud.FakeOptions{Fault: h.fault}, nil)
	made := r.droplets([]string{"a", "b"})
	ip, _, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.on = true
	h.mu.Unlock()

	ask := func(act *godo.Action, _ *godo.Response, err error) int {
		t.Helper()
		if err != nil || act.Status != godo.ActionInProgress || act.CompletedAt != nil {
			t.Fatalf("%v (%v), want an action in progress", act, err)
		}
		return act.ID
	}
	cycle := ask(r.do.DropletActions.PowerCycle(t.Context(), made[0].ID))
	first := ask(r.do.ReservedIPActions.Assign(t.Context(), ip.IP, made[0].ID))
	r.eventually("the first of each is under way in the cloud", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.waits == 2
	})
	off := ask(r.do.DropletActions.PowerOff(t.Context(), made[0].ID))
	on := ask(r.do.DropletActions.PowerOn(t.Context(), made[0].ID))
	second := ask(r.do.ReservedIPActions.Assign(t.Context(), ip.IP, made[1].ID))
	none := ask(r.do.ReservedIPActions.Unassign(t.Context(), ip.IP))
	third := ask(r.do.ReservedIPActions.Assign(t.Context(), ip.IP, made[1].ID))
	for _, id := range []int{cycle, first, off, on, second, none, third} {
		if act, _, err := r.do.Actions.Get(t.Context(), id); err != nil || act.Status != godo.ActionInProgress {
			t.Errorf("%v (%v), want it in progress: the cloud has done nothing yet", act, err)
		}
	}
	close(h.may)
	ended := map[int]string{}
	r.eventually("all actions have ended", func() bool {
		for _, id := range []int{cycle, first, off, on, second, none, third} {
			act, _, err := r.do.Actions.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if act.CompletedAt == nil {
				return false
			}
			ended[id] = act.Status
		}
		return true
	})
	if ended[off] != "errored" || ended[on] != "completed" {
		t.Errorf("power_off ended %s and power_on after it %s, want the first errored: it was never off", ended[off], ended[on])
	}
	if ended[none] != "errored" || ended[third] != "completed" {
		t.Errorf("unassign ended %s and assign after it %s, want the first errored: it was never nobody's", ended[none], ended[third])
	}
	if a := r.ask("GET", "/v2/actions/"+godo.ToURN("x", off)[5:], ""); !strings.Contains(a.text, "something else was asked for before it was done") {
		t.Errorf("%s, want why", a.text)
	}
	r.eventually("droplet a is on, and b has the address", func() bool {
		d, _, err := r.do.Droplets.Get(t.Context(), made[0].ID)
		now, _, err2 := r.do.ReservedIPs.Get(t.Context(), ip.IP)
		return err == nil && err2 == nil && d.Status == "active" && now.Droplet != nil && now.Droplet.ID == made[1].ID
	})
}

func TestADropletHasListsOfWhatWeirDoesNotMake(t *testing.T) {
	r := lab(t)
	d := r.droplets([]string{"a"})[0]
	id := godo.ToURN("x", d.ID)[5:]
	for _, root := range []string{"kernels", "snapshots", "backups"} {
		a := r.ask("GET", "/v2/droplets/"+id+"/"+root, "")
		if list, ok := a.body[root].([]any); a.status != 200 || !ok || len(list) != 0 || a.body["meta"] == nil {
			t.Errorf("%s: %d %s, want an empty list", root, a.status, a.text)
		}
		if a := r.ask("GET", "/v2/droplets/7/"+root, ""); a.status != 404 {
			t.Errorf("%s of none: %d, want 404", root, a.status)
		}
	}
	ip, _, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{DropletID: d.ID})
	if err != nil {
		t.Fatal(err)
	}
	with, _, err := r.do.Droplets.ListAssociatedResourcesForDeletion(t.Context(), d.ID)
	if err != nil || len(with.ReservedIPs) != 1 || with.ReservedIPs[0].ID != ip.IP || len(with.FloatingIPs) != 1 || with.Snapshots == nil || with.Volumes == nil {
		t.Errorf("%v (%v), want its reserved IP", with, err)
	}
}
