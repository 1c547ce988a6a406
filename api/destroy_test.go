package api_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/digitalocean/godo"

	"weir/cloud"
	"weir/weir"
)

// dangerous asks for all that a droplet has to be destroyed with it.
func (r *region) dangerous(droplet int, header string) answer {
	r.t.Helper()
	return r.askHeader("DELETE", fmt.Sprintf("/v2/droplets/%d/destroy_with_associated_resources/dangerous", droplet), "", http.Header{"X-Dangerous": {header}})
}

func TestADropletIsDestroyedTogetherWithItsReservedIPs(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{}, nil)
	made := r.droplets([]string{"a", "b"})
	reserve := func(droplet int) string {
		ip, _, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{DropletID: droplet})
		if err != nil {
			t.Fatal(err)
		}
		return ip.IP
	}
	kept, gone, other := reserve(made[0].ID), reserve(made[0].ID), reserve(made[1].ID)
	base := fmt.Sprintf("/v2/droplets/%d/destroy_with_associated_resources", made[0].ID)

	has, _, err := r.do.Droplets.ListAssociatedResourcesForDeletion(t.Context(), made[0].ID)
	if err != nil || len(has.ReservedIPs) != 2 || len(has.FloatingIPs) != 2 || has.Snapshots == nil || has.Volumes == nil || has.VolumeSnapshots == nil || len(has.Snapshots)+len(has.Volumes)+len(has.VolumeSnapshots) != 0 {
		t.Fatalf("%v (%v), want its two reserved IPs, and nothing else", has, err)
	}
	if ip := has.ReservedIPs[0]; ip.ID != ip.Name || ip.Cost != "0.00" || ip.ID != kept && ip.ID != gone {
		t.Errorf("%+v, want one of its reserved IPs, which costs nothing", ip)
	}
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"reserved_ips": ["` + other + `"]}`, 422, fmt.Sprintf("reserved IP %s is not assigned to droplet %d", other, made[0].ID)},
		{`{"reserved_ips": ["203.0.113.250"]}`, 422, fmt.Sprintf("reserved IP 203.0.113.250 is not assigned to droplet %d", made[0].ID)},
		{`{"reserved_ips": [6186916]}`, 422, `reserved_ips has "6186916", want addresses as GET ` + base + " lists them"},
		{`{"snapshots": ["61486916"]}`, 422, `snapshots[0] is "61486916": a droplet of Weir has no snapshots, leave it out`},
		{`{"volumes": ["x"]}`, 422, `volumes[0] is "x": a droplet of Weir has no volumes, leave it out`},
		{`{"volume_snapshots": ["x"]}`, 422, `volume_snapshots[0] is "x": a droplet of Weir has no volume_snapshots, leave it out`},
		{"", 400, "the body is empty, want a JSON object"},
	} {
		if a := r.ask("DELETE", base+"/selective", c.body); a.status != c.status || a.body["message"] != c.want {
			t.Errorf("%s: %d %s\nwant %d %s", c.body, a.status, a.text, c.status, c.want)
		}
	}
	for _, path := range []string{"/status", "/retry"} {
		method := map[string]string{"/status": "GET", "/retry": "POST"}[path]
		if a := r.ask(method, base+path, ""); a.status != 404 {
			t.Errorf("%s before it was asked for: %d %s, want 404", path, a.status, a.text)
		}
	}
	if d, _, err := r.do.Droplets.Get(t.Context(), made[0].ID); err != nil || d.Locked {
		t.Fatalf("what was refused has begun: %v (%v)", d, err)
	}

	if a := r.ask("DELETE", base+"/selective", `{"reserved_ips": ["`+gone+`"], "floating_ips": ["`+gone+`"], "volumes": null}`); a.status != 202 {
		t.Fatalf("%d %s, want 202", a.status, a.text)
	}
	r.destroyed(made[0].ID, gone)
	if a := r.ask("POST", base+"/retry", ""); a.status != 202 {
		t.Errorf("retry of what is done: %d %s, want 202", a.status, a.text)
	}
	if left, _, err := r.do.ReservedIPs.List(t.Context(), nil); err != nil || !slices.EqualFunc(left, []string{kept, other}, func(ip godo.ReservedIP, want string) bool { return ip.IP == want }) {
		t.Errorf("left are %v (%v), want %s and %s", left, err, kept, other)
	}
	if ip, _, err := r.do.ReservedIPs.Get(t.Context(), kept); err != nil || ip.Droplet != nil {
		t.Errorf("%v (%v), want it kept, and assigned to nobody", ip, err)
	}

	for _, header := range []string{"", "false", "TRUE"} {
		if a := r.dangerous(made[1].ID, header); a.status != 422 || a.body["message"] != fmt.Sprintf("the header X-Dangerous is %q: this destroys a droplet with all its reserved IPs, want true if that is meant", header) {
			t.Errorf("%q: %d %s, want 422", header, a.status, a.text)
		}
	}
	if a := r.dangerous(made[1].ID, "true"); a.status != 202 {
		t.Fatalf("%d %s, want 202", a.status, a.text)
	}
	r.destroyed(made[1].ID, other)
	if left, _, err := r.do.ReservedIPs.List(t.Context(), nil); err != nil || len(left) != 1 {
		t.Errorf("left are %v (%v), want %s", left, err, kept)
	}
	if a := r.dangerous(made[1].ID, "true"); a.status != 404 {
		t.Errorf("once it is gone: %d %s, want 404", a.status, a.text)
	}
}

// destroyed waits until a droplet is, and checks what is said of it and of the reserved IP that went
// with it.
func (r *region) destroyed(droplet int, ip string) {
	r.t.Helper()
	path := fmt.Sprintf("/v2/droplets/%d/destroy_with_associated_resources/status", droplet)
	var a answer
	r.eventually("the droplet is destroyed", func() bool {
		a = r.ask("GET", path, "")
		if a.status != 200 {
			r.t.Fatalf("%d %s", a.status, a.text)
		}
		return a.body["completed_at"] != nil
	})
	check(r.t, "status", a.body, "droplet object", "resources object", "completed_at string", "failures integer")
	check(r.t, "droplet", a.body["droplet"], "id string", "name string", "destroyed_at string", "error_message string")
	check(r.t, "resources", a.body["resources"], "reserved_ips[] object", "floating_ips[] object", "snapshots[] object", "volumes[] object", "volume_snapshots[] object")
	ips := a.body["resources"].(map[string]any)["reserved_ips"].([]any)
	if a.body["droplet"].(map[string]any)["id"] != fmt.Sprint(droplet) || a.body["failures"] != 0.0 || len(ips) != 1 || ips[0].(map[string]any)["id"] != ip || ips[0].(map[string]any)["destroyed_at"] == nil {
		r.t.Errorf("%s, want droplet %d and %s destroyed", a.text, droplet, ip)
	}
	if _, resp, err := r.do.Droplets.Get(r.t.Context(), droplet); err == nil || resp.StatusCode != 404 {
		r.t.Errorf("%v (%v), want 404", resp, err)
	}
}

func TestADestructionThatCannotYetBeSaysWhy(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{Fault: func(_ context.Context, call string) (before, after error) {
		if strings.HasPrefix(call, "delete machine") {
			return weir.Errorf(weir.Unavailable, "the host is busy"), nil
		}
		return nil, nil
	}}, nil)
	d := r.droplets([]string{"a"})[0]
	if a := r.dangerous(d.ID, "true"); a.status != 202 {
		t.Fatalf("%d %s, want 202", a.status, a.text)
	}
	base := fmt.Sprintf("/v2/droplets/%d/destroy_with_associated_resources", d.ID)
	r.eventually("it says why it is not done", func() bool {
		a := r.ask("GET", base+"/status", "")
		return a.status == 200 && a.body["failures"] == 1.0 && a.body["completed_at"] == nil && strings.Contains(fmt.Sprint(a.body["droplet"].(map[string]any)["error_message"]), "the host is busy")
	})
	if a := r.ask("POST", base+"/retry", ""); a.status != 409 || a.body["message"] != fmt.Sprintf("droplet %d is being destroyed, and Weir tries again by itself until it is", d.ID) {
		t.Errorf("%d %s, want 409", a.status, a.text)
	}
}
