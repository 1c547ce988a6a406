package api_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"
	"github.com/google/go-cmp/cmp"

	"weir/cloud"
	"weir/weir"
)

// fixed asks for an autoscale pool of a fixed size.
func fixed(name string, count uint64) *godo.DropletAutoscalePoolRequest {
	return &godo.DropletAutoscalePoolRequest{Name: name, Config: &godo.DropletAutoscaleConfiguration{TargetNumberInstances: count},
		DropletTemplate: &godo.DropletAutoscaleResourceTemplate{Size: "s-1vcpu-1gb", Region: "lab", Image: "debian-12-x64", Tags: []string{"web", "blue"}, SSHKeys: []string{}}}
}

// dynamic asks for one that scales by its load.
func dynamic(name string, low, high uint64) *godo.DropletAutoscalePoolRequest {
	q := fixed(name, 0)
	q.Config = &godo.DropletAutoscaleConfiguration{MinInstances: low, MaxInstances: high, TargetCPUUtilization: 0.5, TargetMemoryUtilization: 0.75, CooldownMinutes: 5}
	return q
}

// pool creates an autoscale pool, and returns it once so many of its droplets are active.
func (r *region) pool(q *godo.DropletAutoscalePoolRequest, active int) *godo.DropletAutoscalePool {
	r.t.Helper()
	p, resp, err := r.do.DropletAutoscale.Create(r.t.Context(), q)
	if err != nil || resp.StatusCode != http.StatusAccepted {
		r.t.Fatalf("%+v (%v), want 202", p, err)
	}
	r.poolHas(p.ID, active)
	return p
}

// poolHas waits until a pool has so many droplets, all of them active and healthy.
func (r *region) poolHas(id string, active int) []*godo.DropletAutoscaleResource {
	r.t.Helper()
	var members []*godo.DropletAutoscaleResource
	r.eventually("the pool has "+strconv.Itoa(active)+" active droplets", func() bool {
		var err error
		if members, _, err = r.do.DropletAutoscale.ListMembers(r.t.Context(), id, nil); err != nil {
			r.t.Fatal(err)
		}
		for _, m := range members {
			if m.Status != "active" || m.HealthStatus != "healthy" || m.DropletID == 0 || m.CreatedAt.IsZero() || m.UpdatedAt.Before(m.CreatedAt) {
				return false
			}
		}
		return len(members) == active
	})
	r.eventually("its history says so", func() bool {
		history, _, err := r.do.DropletAutoscale.ListHistory(r.t.Context(), id, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		return len(history) > 0 && history[0].Status != "in_progress"
	})
	return members
}

func TestAutoscalePoolIsReadBackAsItWasWritten(t *testing.T) {
	r := lab(t)
	key, _, err := r.do.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "anna", PublicKey: keyA})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	q := dynamic("web", 2, 4)
	q.DropletTemplate.SSHKeys = []string{strconv.Itoa(key.ID), key.Fingerprint}
	q.DropletTemplate.WithDropletAgent = true
	q.DropletTemplate.UserData = "\n#cloud-config\nruncmd:\n- touch /made\n"
	image, _, err := r.do.Images.GetBySlug(t.Context(), "debian-12-x64")
	if err != nil {
		t.Fatal(err)
	}
	q.DropletTemplate.Image = strconv.Itoa(image.ID)
	p := r.pool(q, 2)
	got, _, err := r.do.DropletAutoscale.Get(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	q.DropletTemplate.PublicNetworking = &yes // null is true
	want := &godo.DropletAutoscalePool{ID: p.ID, Name: "web", Config: q.Config, DropletTemplate: q.DropletTemplate, CreatedAt: p.CreatedAt, UpdatedAt: p.CreatedAt, Status: "active",
		CurrentUtilization: got.CurrentUtilization} // as soon as its machines were measured
	if diff := cmp.Diff(want, got); diff != "" || len(p.ID) != 36 || p.CreatedAt.IsZero() {
		t.Errorf("pool (-want +got):\n%s", diff)
	}
	for _, m := range r.poolHas(p.ID, 2) {
		d, _, err := r.do.Droplets.Get(t.Context(), int(m.DropletID))
		if err != nil || !strings.HasPrefix(d.Name, "web-") || d.Image.Slug != "debian-12-x64" || strings.Join(d.Tags, " ") != "web blue" {
			t.Errorf("%+v (%v), want a droplet named web-…, with the template's tags and image", d, err)
		}
		if spec, _ := r.cloud.Spec(weir.ID(strconv.FormatUint(m.DropletID, 10))); strings.Join(spec.SSHKeys, "\n") != keyA+"\n"+keyA || spec.UserData != q.DropletTemplate.UserData {
			t.Errorf("it was made with %q and %q, want the keys and the user-data", spec.SSHKeys, spec.UserData)
		}
		if m.CurrentUtilization != nil {
			t.Errorf("its utilization is %+v, and nobody has measured it", m.CurrentUtilization)
		}
	}
	a := r.ask("GET", "/v2/droplets/autoscale/"+p.ID, "")
	if a.body["autoscale_pool"].(map[string]any)["active_resources_count"] != 2.0 {
		t.Errorf("%s, want 2 active resources", a.text)
	}

	// What is left out stays out: Terraform would find it changed.
	plain := fixed("plain", 1)
	plain.DropletTemplate.Tags = nil
	a = r.ask("PUT", "/v2/droplets/autoscale/"+r.pool(plain, 1).ID, `{"name": "plain", "config": {"min_instances": 1, "max_instances": 2, "target_cpu_utilization": 0.5},
		"droplet_template": {"name": "node", "region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "ssh_keys": null, "tags": null, "vpc_uuid": null, "monitoring": true}}`)
	if a.status != 200 || !strings.Contains(a.text, `"config":{"min_instances":1,"max_instances":2,"target_cpu_utilization":0.5},"droplet_template":{"name":"node",`) ||
		!strings.Contains(a.text, `"tags":[],"ssh_keys":[],"vpc_uuid":""`) {
		t.Errorf("%d %s, want the config without a cooldown, and no null", a.status, a.text)
	}
}

func TestAutoscalePoolsAreListedAndFoundByName(t *testing.T) {
	r := lab(t)
	for _, name := range []string{"web", "api", "web2"} {
		r.pool(fixed(name, 1), 1)
	}
	all, resp, err := r.do.DropletAutoscale.List(t.Context(), &godo.ListOptions{PerPage: 2})
	if err != nil || len(all) != 2 || all[0].Name != "web" || all[1].Name != "api" || resp.Meta.Total != 3 || resp.Links.IsLastPage() {
		t.Errorf("%+v (%v), want the first two of three", all, err)
	}
	if a := r.ask("GET", "/v2/droplets/autoscale?name=web", ""); a.status != 200 || len(a.body["autoscale_pools"].([]any)) != 1 || a.body["meta"].(map[string]any)["total"] != 1.0 {
		t.Errorf("by name: %s, want web alone", a.text)
	}
	if a := r.ask("GET", "/v2/droplets/autoscale?name=none", ""); !strings.Contains(a.text, `"autoscale_pools":[]`) {
		t.Errorf("by a name that nobody has: %s, want none", a.text)
	}
	// A weir.yaml's pool is none of them, and all are seen as pools of the region.
	call[any](r, "PUT", "app", map[string]any{"name": "shop"})
	status, _, err := call[struct{ Status weir.RegionStatus }](r, "GET", "status", nil)
	if err != nil || len(status.Status.Pools) != 4 {
		t.Errorf("the status has the pools %+v (%v), want all four", status.Status.Pools, err)
	}
	if all, _, err := r.do.DropletAutoscale.List(t.Context(), nil); err != nil || len(all) != 3 {
		t.Errorf("%+v (%v), want three", all, err)
	}
	if _, resp, err := call[any](r, "PUT", "app", map[string]any{"name": "api"}); resp.StatusCode != http.StatusConflict {
		t.Errorf("a weir.yaml with the name of an autoscale pool: %v, want 409", err)
	}
}

func TestAutoscalePoolIsUpdatedAndItsDropletsFollow(t *testing.T) {
	r := lab(t)
	p := r.pool(fixed("web", 3), 3)
	p, resp, err := r.do.DropletAutoscale.Update(t.Context(), p.ID, fixed("web", 1))
	if err != nil || resp.StatusCode != http.StatusOK || p.Config.TargetNumberInstances != 1 {
		t.Fatalf("%+v (%v), want 200 and a size of 1", p, err)
	}
	first := r.poolHas(p.ID, 1)[0].DropletID
	larger := dynamic("www", 2, 4)
	larger.DropletTemplate.Size = "s-2vcpu-2gb"
	if p, _, err = r.do.DropletAutoscale.Update(t.Context(), p.ID, larger); err != nil || p.Name != "www" || p.Config.MinInstances != 2 || p.Config.TargetNumberInstances != 0 {
		t.Fatalf("%+v (%v), want another name and the bounds", p, err)
	}
	r.eventually("its droplets are of the new size", func() bool {
		members := r.poolHas(p.ID, 2)
		for _, m := range members {
			d, _, err := r.do.Droplets.Get(t.Context(), int(m.DropletID))
			if m.DropletID == first || err != nil || d.SizeSlug != "s-2vcpu-2gb" {
				return false
			}
		}
		return true
	})
	var history []*godo.DropletAutoscaleHistoryEvent
	r.eventually("its history has ended", func() bool {
		if history, resp, err = r.do.DropletAutoscale.ListHistory(t.Context(), p.ID, nil); err != nil {
			t.Fatal(err)
		}
		return history[0].Status == "success"
	})
	if len(history) != 3 || resp.Meta.Total != 3 {
		t.Fatalf("%d entries, want the creation and two changes", len(history))
	}
	for i, want := range []uint64{2, 1, 3} {
		h := history[i]
		if h.Reason != "CONFIGURATION_CHANGE" || h.DesiredInstanceCount != want || h.CurrentInstanceCount != want || h.Status != "success" || h.HistoryEventID == "" || h.CreatedAt.IsZero() || h.UpdatedAt.Before(h.CreatedAt) {
			t.Errorf("entry %d is %+v, want a change to %d that has succeeded", i, h, want)
		}
	}

	// A droplet that is deleted is replaced, and that is told too.
	if _, err := r.do.Droplets.Delete(t.Context(), int(r.poolHas(p.ID, 2)[0].DropletID)); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is replaced", func() bool {
		history, _, err := r.do.DropletAutoscale.ListHistory(t.Context(), p.ID, nil)
		return err == nil && len(history) == 4 && history[0].Reason == "SCALE_UP" && history[0].Status == "success"
	})
	r.poolHas(p.ID, 2)
}

func TestPoolIsDeletedWithItsDropletsOrWithoutThem(t *testing.T) {
	r := lab(t)
	kept, gone := r.pool(fixed("kept", 2), 2), r.pool(fixed("gone", 2), 2)
	for _, header := range []string{"", "false", "maybe"} {
		req, err := http.NewRequest("DELETE", r.url+"/v2/droplets/autoscale/"+gone.ID+"/dangerous", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if header != "" {
			req.Header.Set("X-Dangerous", header)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("X-Dangerous %q: %d, want 422", header, resp.StatusCode)
		}
	}
	r.poolHas(gone.ID, 2)

	if a := r.ask("DELETE", "/v2/droplets/autoscale/"+kept.ID, ""); a.status != http.StatusAccepted || a.text != "" {
		t.Errorf("%d %q, want 202 and nothing else", a.status, a.text)
	}
	if resp, err := r.do.DropletAutoscale.DeleteDangerous(t.Context(), gone.ID); err != nil || resp.StatusCode != http.StatusAccepted {
		t.Errorf("%v, want 202", err)
	}
	// Terraform takes any other status than that it is gone for a failure.
	for _, p := range []*godo.DropletAutoscalePool{kept, gone} {
		if _, _, err := r.do.DropletAutoscale.Get(t.Context(), p.ID); err == nil || !strings.Contains(err.Error(), "autoscale group with id "+p.ID+" not found") {
			t.Errorf("%s once it is deleted: %v, want that it is not found", p.Name, err)
		}
		if resp, err := r.do.DropletAutoscale.Delete(t.Context(), p.ID); err == nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s deleted again: %v, want 404", p.Name, err)
		}
	}
	r.eventually("the droplets of one are gone, and those of the other there", func() bool {
		all, _, err := r.do.Droplets.List(t.Context(), nil)
		return err == nil && len(all) == 2 && strings.HasPrefix(all[0].Name, "kept-")
	})
	r.pool(fixed("kept", 1), 1) // the name is free
}

func TestAutoscalePoolGrowsByWeirsOwnVerbToo(t *testing.T) {
	r := lab(t)
	p := r.pool(fixed("web", 1), 1)
	if _, _, err := call[any](r, "POST", "pools/web/machines", map[string]int{"count": 2}); err != nil {
		t.Fatal(err)
	}
	if p, _, err := r.do.DropletAutoscale.Get(t.Context(), p.ID); err != nil || p.Config.TargetNumberInstances != 3 {
		t.Errorf("%+v (%v), want a size of 3", p.Config, err)
	}
	r.poolHas(p.ID, 3)
}

func TestMemberSaysWhatIsWrongWithIt(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{Boots: func(s cloud.Spec) (time.Duration, weir.Boot) {
		if strings.Contains(s.UserData, "exit 3") {
			return 0, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3"}
		}
		return 0, weir.Boot{State: weir.BootDone}
	}}, nil)
	q := fixed("web", 1)
	q.DropletTemplate.UserData = "#!/bin/sh\nexit 3\n"
	p, _, err := r.do.DropletAutoscale.Create(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("its droplet is unhealthy", func() bool {
		m, _, err := r.do.DropletAutoscale.ListMembers(t.Context(), p.ID, nil)
		return err == nil && m[0].HealthStatus == "unhealthy" && m[0].UnhealthyReason == "user-data exited with 3" && m[0].Status == "active"
	})
	q.DropletTemplate.UserData = ""
	if _, _, err := r.do.DropletAutoscale.Update(t.Context(), p.ID, q); err != nil {
		t.Fatal(err)
	}
	m := r.poolHas(p.ID, 1)[0]
	if _, _, err := r.do.DropletActions.PowerOff(t.Context(), int(m.DropletID)); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is off", func() bool {
		m, _, err := r.do.DropletAutoscale.ListMembers(t.Context(), p.ID, nil)
		return err == nil && m[0].Status == "off" && m[0].HealthStatus == "unhealthy"
	})
}

func TestAutoscalePoolThatCannotBeIsRefused(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{Machines: 5}, nil)
	p := r.pool(fixed("web", 1), 1)
	const template = `"droplet_template": {"region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "ssh_keys": []}`
	with := func(field string) string { return strings.Replace(template, `"ssh_keys": []`, field, 1) }
	for body, want := range map[string]string{
		`{}`: `droplet_template: size "" is not offered`,
		`{"config": {"target_number_instances": 1}, ` + template + `}`:                                                                                  `pool: name ""`,
		`{"name": "a_b", "config": {"target_number_instances": 1}, ` + template + `}`:                                                                   `pool: name "a_b"`,
		`{"name": "web", "config": {"target_number_instances": 1}, ` + template + `}`:                                                                   `name "web" is taken by another pool`,
		`{"name": "a", ` + template + `}`:                                                                                                               `config says nothing, want target_number_instances`,
		`{"name": "a", "config": {"target_number_instances": 0}, ` + template + `}`:                                                                     `config says nothing, want target_number_instances`,
		`{"name": "a", "config": {"target_number_instances": -1}, ` + template + `}`:                                                                    `pool "a": target_number_instances is -1, want 1 to 1000`,
		`{"name": "a", "config": {"target_number_instances": 1001}, ` + template + `}`:                                                                  `pool "a": target_number_instances is 1001, want 1 to 1000`,
		`{"name": "a", "config": {"target_number_instances": 1.5}, ` + template + `}`:                                                                   `config.target_number_instances is a number 1.5, want an integer`,
		`{"name": "a", "config": {"target_number_instances": 1, "max_instances": 2}, ` + template + `}`:                                                 `config has target_number_instances, which is for`,
		`{"name": "a", "config": {"target_number_instances": 1, "cooldown_minutes": 5}, ` + template + `}`:                                              `config has target_number_instances, which is for`,
		`{"name": "a", "config": {"max_instances": 2, "target_cpu_utilization": 0.5}, ` + template + `}`:                                                `pool "a": min_instances is 0, want 1 to 500`,
		`{"name": "a", "config": {"min_instances": 501, "max_instances": 600, "target_cpu_utilization": 0.5}, ` + template + `}`:                        `pool "a": min_instances is 501, want 1 to 500`,
		`{"name": "a", "config": {"min_instances": 1, "max_instances": 1001, "target_cpu_utilization": 0.5}, ` + template + `}`:                         `pool "a": max_instances is 1001, want 1 to 1000`,
		`{"name": "a", "config": {"min_instances": 3, "max_instances": 2, "target_cpu_utilization": 0.5}, ` + template + `}`:                            `pool "a": max_instances is 2, want at least min_instances, which is 3`,
		`{"name": "a", "config": {"min_instances": 1, "max_instances": 2}, ` + template + `}`:                                                           `pool "a": target_cpu_utilization and target_memory_utilization are missing`,
		`{"name": "a", "config": {"min_instances": 1, "max_instances": 2, "target_cpu_utilization": 0.04}, ` + template + `}`:                           `pool "a": target_cpu_utilization is 0.04, want 0.05 to 1`,
		`{"name": "a", "config": {"min_instances": 1, "max_instances": 2, "target_memory_utilization": 60}, ` + template + `}`:                          `pool "a": target_memory_utilization is 60, want 0.05 to 1`,
		`{"name": "a", "config": {"min_instances": 1, "max_instances": 2, "target_memory_utilization": "0.6"}, ` + template + `}`:                       `config.target_memory_utilization is a string, want a number`,
		`{"name": "a", "config": {"min_instances": 1, "max_instances": 2, "target_memory_utilization": 0.6, "cooldown_minutes": 4}, ` + template + `}`:  `pool "a": cooldown_minutes is 4, want 5 to 20`,
		`{"name": "a", "config": {"min_instances": 1, "max_instances": 2, "target_memory_utilization": 0.6, "cooldown_minutes": 21}, ` + template + `}`: `pool "a": cooldown_minutes is 21, want 5 to 20`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"name": "x_y"`) + `}`:                                                        `pool "a": droplet_template.name: name "x_y"`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"name": "`+strings.Repeat("x", 60)+`"`) + `}`:                                `pool "a": droplet_template.name "`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"region": "nyc3"`) + `}`:                                                     `droplet_template: region "nyc3": this Weir runs region "lab"`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"size": "c-2"`) + `}`:                                                        `droplet_template: size "c-2" is not offered`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"image": "fedora-40-x64"`) + `}`:                                             `droplet_template: image "fedora-40-x64" is not offered`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"tags": ["x y"]`) + `}`:                                                      `droplet_template: tag "x y"`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"ssh_keys": ["7"]`) + `}`:                                                    `droplet_template: ssh_keys[0] is "7"`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"vpc_uuid": "760e09ef-dc84-11e8-981e-3cfdfeaae000"`) + `}`:                   `droplet_template: vpc_uuid is "760e09ef`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"project_id": "746c6152-2fa2-11ed-92d3-27aaa54e4988"`) + `}`:                 `droplet_template: project_id is "746c6152`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"public_networking": false`) + `}`:                                           `droplet_template: public_networking is false`,
		`{"name": "a", "config": {"target_number_instances": 1}, ` + with(`"user_data": "echo hello"`) + `}`:                                            `droplet_template: user_data begins with "echo hello"`,
		`{"name": "a", "config": {"target_number_instances": 5}, ` + template + `}`:                                                                     `pool "a": ask for room for 5 machines: there is room for 4 more machines`,
		`{"name": "a", "config": {"min_instances": 5, "max_instances": 9, "target_cpu_utilization": 1}, ` + template + `}`:                              `pool "a": ask for room for 5 machines: there is room for 4 more machines`,
		`{"name": "a", "config": {"target_number_instances": 1, "weir": {"rollling": {}}}, ` + template + `}`:                                           `config.weir has "rollling" in it, which is no field of what a pool does`,
		`{"name": "a", "config": {"min_instances": 1, "max_instances": 2, "weir": {"sizes": [{"prize": 1}]}}, ` + template + `}`:                        `config.weir has "prize" in it, which is no field`,
		`{"name": "a", "config": {"target_number_instances": 1, "weir": 7}, ` + template + `}`:                                                          `config.weir is a number, want an object`,
		`{"name": 7}`: `name is a number, want a string`,
	} {
		a := r.ask("POST", "/v2/droplets/autoscale", body)
		if message, _ := a.body["message"].(string); a.status != 422 || !strings.HasPrefix(message, want) {
			t.Errorf("%s: %d %s\nwant 422 %s", body, a.status, a.text, want)
		}
		if strings.Contains(body, `"web"`) || strings.Contains(want, "room for 5") {
			continue // it is that pool's own name, and it has one of the five already
		}
		if a := r.ask("PUT", "/v2/droplets/autoscale/"+p.ID, body); a.status != 422 {
			t.Errorf("PUT %s: %d %s, want 422", body, a.status, a.text)
		}
	}
	other := r.pool(fixed("other", 1), 1)
	for want, q := range map[string]*godo.DropletAutoscalePoolRequest{"taken by another pool": fixed("web", 1), "there is room for 3 more": fixed("other", 9)} {
		_, _, err := r.do.DropletAutoscale.Update(t.Context(), other.ID, q)
		if status, text := refusal(err); status != 422 || !strings.Contains(text, want) {
			t.Errorf("%d %s, want 422 with %q", status, text, want)
		}
	}
}

func TestAutoscalePoolThatIsNotThereIsNotFoundInClientsWords(t *testing.T) {
	r := lab(t)
	call[any](r, "PUT", "app", web(1))
	pools, _, err := call[struct{ Pools []struct{ ID string } }](r, "GET", "pools", nil)
	if err != nil || len(pools.Pools) != 1 {
		t.Fatalf("%+v (%v), want one pool", pools, err)
	}
	body := `{"name": "a", "config": {"target_number_instances": 1}, "droplet_template": {"region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64"}}`
	for _, id := range []string{"0d3db13e-a604-4944-9827-7ec2642d32ac", "none", "1", "actions", "x_y", pools.Pools[0].ID} {
		for _, call := range [][2]string{{"GET", ""}, {"PUT", ""}, {"DELETE", ""}, {"GET", "/members"}, {"GET", "/history"}} {
			a := r.ask(call[0], "/v2/droplets/autoscale/"+id+call[1], body)
			if a.status != 404 || a.body["message"] != "autoscale group with id "+id+" not found" || a.body["id"] != "not_found" {
				t.Errorf("%s %s%s: %d %s, want 404 in the words that clients match", call[0], id, call[1], a.status, a.text)
			}
		}
		if resp, err := r.do.DropletAutoscale.DeleteDangerous(t.Context(), id); err == nil || resp.StatusCode != 404 {
			t.Errorf("%s destroyed: %v, want 404", id, err)
		}
	}
	for path, want := range map[string]int{"/v2/droplets/autoscale/1/none": 404, "/v2/droplets/autoscale/": 404, "/v2/droplets/autoscale/1/members/2": 404} {
		if a := r.ask("GET", path, ""); a.status != want {
			t.Errorf("GET %s: %d %s, want %d", path, a.status, a.text, want)
		}
	}
	for _, path := range []string{"/v2/droplets/autoscale", "/v2/droplets/autoscale/1/members"} {
		if a := r.ask("PATCH", path, ""); a.status != 405 || a.header.Get("Allow") == "" {
			t.Errorf("PATCH %s: %d %s, want 405 and what is allowed", path, a.status, a.text)
		}
	}
	if a := r.askWith("GET", "/v2/droplets/autoscale", "", ""); a.status != 401 {
		t.Errorf("without a token: %d, want 401", a.status)
	}
}

func TestWhatAPoolDoesBeyondDigitalOceansStaysWhereAClientSaysNothingOfIt(t *testing.T) {
	r := lab(t)
	body := func(config string) string {
		return `{"name": "a", "config": {` + config + `}, "droplet_template": {"region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "ssh_keys": []}}`
	}
	const scaled = `"min_instances": 1, "max_instances": 2, "target_cpu_utilization": 0.5`
	made := r.ask("POST", "/v2/droplets/autoscale", body(scaled+`, "weir": {"max_hourly_cost": 0.05, "machine_hourly_cost": 0.01, "rolling": {"max_surge": 1}}`))
	pool, _ := made.body["autoscale_pool"].(map[string]any)
	id, _ := pool["id"].(string)
	if made.status != 202 || id == "" {
		t.Fatalf("POST: %d %s, want 202", made.status, made.text)
	}
	for _, step := range []struct {
		config string
		has    []string
		lacks  []string
	}{
		{scaled, []string{`"max_hourly_cost":0.05`, `"max_surge":1`}, nil},
		{`"target_number_instances": 1`, []string{`"max_surge":1`}, []string{"max_hourly_cost"}}, // a fixed size has no budget
		{scaled + `, "weir": {"max_hourly_cost": 0.03, "machine_hourly_cost": 0.01}`, []string{`"max_hourly_cost":0.03`}, []string{"max_surge"}},
		{scaled + `, "weir": {}`, nil, []string{"max_hourly_cost"}},
	} {
		a := r.ask("PUT", "/v2/droplets/autoscale/"+id, body(step.config))
		text := strings.ReplaceAll(a.text, " ", "")
		if a.status != 200 {
			t.Fatalf("PUT %s: %d %s, want 200", step.config, a.status, a.text)
		}
		for _, want := range step.has {
			if !strings.Contains(text, want) {
				t.Errorf("after PUT of %s the pool has no %s: %s", step.config, want, text)
			}
		}
		for _, not := range step.lacks {
			if strings.Contains(text, not) {
				t.Errorf("after PUT of %s the pool still has %s: %s", step.config, not, text)
			}
		}
	}
}
