package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/cloud"
)

// busyPool asks for an autoscale pool with what DigitalOcean has no word for.
const busyPool = `{"name": "web", "config": {"min_instances": 1, "max_instances": 6, "target_cpu_utilization": 0.6, "weir": {"target_requests_per_second": 50,
	"cooldown_seconds": 30, "machine_hourly_cost": 0.01, "max_hourly_cost": 0.05,
	"schedules": [{"name": "office", "cron": "0 8 * * 1-5", "timezone": "Europe/Berlin", "minutes": 600, "min_instances": 4}]}},
	"droplet_template": {"size": "s-1vcpu-1gb", "region": "lab", "image": "debian-12-x64", "tags": ["web"], "ssh_keys": []}}`

func TestWordsThatAreWeirsAreReadBackAsTheyWereWritten(t *testing.T) {
	r := lab(t)
	a := r.ask("POST", "/v2/droplets/autoscale", busyPool)
	if a.status != 202 {
		t.Fatal(a.text)
	}
	want := map[string]any{"min_instances": 1.0, "max_instances": 6.0, "target_cpu_utilization": 0.6, "weir": map[string]any{
		"target_requests_per_second": 50.0, "cooldown_seconds": 30.0, "machine_hourly_cost": 0.01, "max_hourly_cost": 0.05,
		"schedules": []any{map[string]any{"name": "office", "cron": "0 8 * * 1-5", "timezone": "Europe/Berlin", "minutes": 600.0, "min_instances": 4.0}}}}
	if diff := cmp.Diff(any(want), a.body["autoscale_pool"].(map[string]any)["config"]); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	pool := r.ask("GET", "/v2/weir/pools/web", "").body["pool"].(map[string]any)
	if diff := cmp.Diff(any(want), pool["scale"]); diff != "" || pool["autoscale"] != true {
		t.Errorf("pool %v, scale (-want +got):\n%s", pool, diff)
	}
	for change, says := range map[string]string{
		`"cron": "0 8 * *"`:                   "five fields",
		`"timezone": "Middle/Earth"`:          "timezone",
		`"minutes": 0`:                        "minutes is 0",
		`"min_instances": 6`:                  "which is 5",
		`"cooldown_seconds": -1`:              "cooldown_seconds is -1",
		`"target_requests_per_second": 1e300`: "target_requests_per_second",
	} {
		key, _, _ := strings.Cut(change, ":")
		body := busyPool
		at := strings.LastIndex(body, key)
		end := at + strings.IndexAny(body[at:], "}") // of the innermost object
		if comma := strings.Index(body[at:end], ", \""); comma > 0 {
			end = at + comma
		}
		body = strings.Replace(body[:at]+change+body[end:], `"name": "web"`, `"name": "shop"`, 1)
		if a := r.ask("POST", "/v2/droplets/autoscale", body); a.status != 422 || !strings.Contains(a.text, says) {
			t.Errorf("%s: %d %s, want 422 about %s", change, a.status, a.text, says)
		}
	}
}

func TestPoolThatFollowsItsLoadShowsItAndWhy(t *testing.T) {
	r := lab(t)
	more, rest, _ := strings.Cut(strings.Replace(busyPool, `"target_requests_per_second": 50,`, "", 1), `,
	"schedules"`)
	body := more + rest[strings.Index(rest, "]")+1:]
	a := r.ask("POST", "/v2/droplets/autoscale", body)
	if a.status != 202 {
		t.Fatal(a.text)
	}
	id := a.body["autoscale_pool"].(map[string]any)["id"].(string)
	r.eventually("it grows", func() bool {
		all, err := r.cloud.Machines(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			r.cloud.Work(m.ID, func(l *cloud.Load) { l.User += time.Second })
		}
		a = r.ask("GET", "/v2/weir/pools/web", "")
		return a.body["pool"].(map[string]any)["count"].(float64) > 1
	})
	pool := a.body["pool"].(map[string]any)
	if verdict, _ := pool["verdict"].(map[string]any); verdict == nil || !strings.Contains(verdict["why"].(string), "CPU at") {
		t.Errorf("pool %v, want a verdict with the CPU", pool)
	}
	r.eventually("its utilization is shown", func() bool {
		a = r.ask("GET", "/v2/droplets/autoscale/"+id, "")
		use, _ := a.body["autoscale_pool"].(map[string]any)["current_utilization"].(map[string]any)
		return use != nil && use["cpu"].(float64) >= 0 && use["cpu"].(float64) <= 1
	})
	a = r.ask("GET", "/v2/weir/pools/"+id+"/history", "")
	if first := a.body["history"].([]any)[0].(map[string]any); first["reason"] != "SCALE_UP" || first["why"] == nil {
		t.Errorf("%s, want why it grew", a.text)
	}
	if a := r.ask("GET", "/v2/weir/pools/none", ""); a.status != 404 {
		t.Errorf("a pool that is not there: %d", a.status)
	}
}
