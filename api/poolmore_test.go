package api_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mixedConfig is what a pool says of its machines.
const mixedConfig = `"sizes": [{"size": "s-1vcpu-1gb", "hourly_cost": 0.01}, {"size": "s-2vcpu-4gb", "hourly_cost": 0.015, "weight": 1.9, "max": 2}],
	"rolling": {"max_unavailable": 1, "max_surge": 0}, "replace_unhealthy": true, "exporter": {"port": 9100, "path": "/stats"}`

func TestSizesAndReplacementsAreReadBackAsTheyWereWritten(t *testing.T) {
	r := lab(t)
	want := map[string]any{
		"sizes":   []any{map[string]any{"size": "s-1vcpu-1gb", "hourly_cost": 0.01}, map[string]any{"size": "s-2vcpu-4gb", "hourly_cost": 0.015, "weight": 1.9, "max": 2.0}},
		"rolling": map[string]any{"max_unavailable": 1.0, "max_surge": 0.0}, "replace_unhealthy": true,
		"exporter": map[string]any{"port": 9100.0, "path": "/stats"}}
	for name, config := range map[string]string{
		"fixed":   `"target_number_instances": 3, "weir": {` + mixedConfig + `}`,
		"dynamic": `"min_instances": 3, "max_instances": 5, "target_cpu_utilization": 0.6, "weir": {` + mixedConfig + `}`,
	} {
		a := r.ask("POST", "/v2/droplets/autoscale", `{"name": "`+name+`", "config": {`+config+`},
			"droplet_template": {"size": "s-1vcpu-1gb", "region": "lab", "image": "debian-12-x64", "ssh_keys": []}}`)
		if a.status != 202 {
			t.Fatal(a.text)
		}
		got := a.body["autoscale_pool"].(map[string]any)["config"].(map[string]any)
		if diff := cmp.Diff(any(want), got["weir"]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		r.eventually("it has machines of both sizes", func() bool {
			pool := r.ask("GET", "/v2/weir/pools/"+name, "").body["pool"].(map[string]any)
			return pool["capacity"].(float64) > 2.8 && cmp.Equal(want["sizes"], pool["sizes"]) && cmp.Equal(want["rolling"], pool["rolling"])
		})
	}

	// The same of a weir.yaml.
	a := r.ask("PUT", "/v2/weir/app", `{"name": "shop", "count": 4, `+mixedConfig+`}`)
	if a.status != 200 || !strings.Contains(a.text, "pool shop: created") {
		t.Fatal(a.text)
	}
	a = r.ask("PUT", "/v2/weir/app", `{"name": "shop", "count": 4, `+mixedConfig+`}`)
	if !strings.Contains(a.text, `"changes":[]`) {
		t.Errorf("applied again: %s, want no changes", a.text)
	}
	a = r.ask("PUT", "/v2/weir/app?dry_run=true", `{"name": "shop", "count": 4, "user_data": "#!/bin/sh", "rolling": {}}`)
	for _, says := range []string{"sizes: [], was [s-1vcpu-1gb hourly cost 0.01 s-2vcpu-4gb hourly cost 0.015 weight 1.9 max 2]",
		"rolling: 0 fewer, a tenth more, was 1 fewer, 0 more", "replace_unhealthy: false, was true", "exporter: none, was 9100/stats", "user_data is another; those that are there are replaced"} {
		if !strings.Contains(a.text, says) {
			t.Errorf("changes %s, want %q among them", a.text, says)
		}
	}
	for body, says := range map[string]string{
		`{"name": "a", "sizes": [{"size": "s-1vcpu-1gb", "region": "nyc3"}]}`:                                                                `sizes[0]: region \"nyc3\": this Weir runs region \"lab\"`,
		`{"name": "a", "size": "s-2vcpu-2gb", "sizes": [{"size": "s-1vcpu-1gb"}]}`:                                                           `sizes[0]: size is \"s-1vcpu-1gb\", want \"s-2vcpu-2gb\"`,
		`{"name": "a", "scale": {"min_instances": 1, "max_instances": 2, "target_cpu_utilization": 1, "weir": {"replace_unhealthy": true}}}`: `which are said beside scale`,
		`{"name": "a", "servers": ["192.0.2.1"], "rolling": {}}`:                                                                             `rolling is about machines that Weir makes`,
		`{"name": "a", "exporter": {"path": "/metrics"}}`:                                                                                    `pool \"a\": exporter.port is 0, want 1 to 65535, such as node_exporter's 9100`,
		`{"name": "a", "exporter": {"port": 1, "path": "/x y"}}`:                                                                             `exporter.path is \"/x y\", want one such as /metrics, of at most 200 letters without spaces`,
		`{"name": "a", "servers": ["192.0.2.1"], "exporter": {"port": 9100}}`:                                                                `exporter is about machines that Weir makes`,
		`{"name": "a", "rolling": {"max_surge": 0}}`:                                                                                         `max_unavailable and max_surge are both 0`,
	} {
		if a := r.ask("PUT", "/v2/weir/app", body); a.status != 422 || !strings.Contains(a.text, says) {
			t.Errorf("%s: %d %s, want 422 with %s", body, a.status, a.text, says)
		}
	}
}
