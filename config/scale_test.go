package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/weir"
)

func TestCountMayFollowTheLoad(t *testing.T) {
	for file, want := range map[string]weir.Scale{
		"name: web\ncount: {min: 2, max: 10}\n": {Min: 2, Max: 10, CPU: 0.6},
		"name: web\ncount: {max: 10}\n":         {Min: 1, Max: 10, CPU: 0.6},
		`
name: web
count:
  min: 2
  max: 10
  targets: {memory: 1, requests_per_second: 50, concurrent_requests: 2.5, response_time_ms: 200, response_time_percentile: 95}
  cooldown_seconds: 30
  stabilization_seconds: 60
  machine_hourly_cost: 0.01
  max_hourly_cost: 0.08
  schedules:
    - {name: office, cron: "0 8 * * 1-5", timezone: Europe/Berlin, minutes: 600, min: 4}
`: {Min: 2, Max: 10, Memory: 1, Requests: 50, Concurrent: 2.5, Response: 200 * time.Millisecond, Percentile: 95, Pause: 30 * time.Second, Stabilisation: time.Minute,
			Price: 0.01, Budget: 0.08, Schedules: []weir.Schedule{{Name: "office", Cron: "0 8 * * 1-5", Zone: "Europe/Berlin", For: 10 * time.Hour, Min: 4}}},
	} {
		a, err := Parse("weir.yaml", []byte(file), ".")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, a.Pool.Scale); diff != "" || !a.Pool.KeepCount || a.Pool.Count != want.Min {
			t.Errorf("%s: count %d, kept %v, scale (-want +got):\n%s", file, a.Pool.Count, a.Pool.KeepCount, diff)
		}
	}
}

func TestCountThatCannotBeFollowedSaysWhere(t *testing.T) {
	for file, want := range map[string]string{
		"name: web\ncount: {min: 2}\n":                                                               `weir.yaml:2: count has no max, want how many machines there are at most`,
		"name: web\ncount:\n  max: 3\n  min: 4\n":                                                    `weir.yaml:4: max is 3, want at least min, which is 4`,
		"name: web\ncount:\n  min: 0\n  max: 3\n":                                                    `weir.yaml:3: min is 0, want 1 to 500`,
		"name: web\ncount:\n  max: 3\n  targets: {}\n":                                               `weir.yaml:4: targets is empty, want keys such as cpu: …`,
		"name: web\ncount:\n  max: 3\n  targets: {cpu: 60}\n":                                        `weir.yaml:4: targets.cpu is 60, want 0.05 to 1`,
		"name: web\ncount:\n  max: 3\n  targets: {cpu: -1}\n":                                        `weir.yaml:4: cpu is "-1", want a number over 0 such as 0.6`,
		"name: web\ncount:\n  max: 3\n  targets:\n    disk: 1\n":                                     `weir.yaml:5: unknown key "disk" in targets, want one of cpu, memory, requests_per_second, concurrent_requests, response_time_ms, response_time_percentile`,
		"name: web\ncount:\n  max: 3\n  targets: {cpu: 0.5, response_time_percentile: 95}\n":         `weir.yaml:4: targets.response_time_percentile is there without targets.response_time_ms, want how long answers may take`,
		"name: web\ncount:\n  max: 3\n  max_hourly_cost: 1\n":                                        `weir.yaml:4: max_hourly_cost is there without machine_hourly_cost, want what one machine costs`,
		"name: web\ncount:\n  max: 3\n  schedules:\n    - cron: 0 8 * *\n":                           `weir.yaml:5: cron is "0 8 * *", want five fields such as 0 8 * * 1-5: expected exactly 5 fields, found 4: [0 8 * *]`,
		"name: web\ncount:\n  max: 3\n  schedules:\n    - cron: 0 8 31 2 *\n":                        `weir.yaml:5: cron is "0 8 31 2 *", which never comes`,
		"name: web\ncount:\n  max: 3\n  schedules:\n    - cron: 0 8 * * *\n      timezone: Berlin\n": `weir.yaml:6: timezone is "Berlin", want a name such as Europe/Berlin`,
		"name: web\ncount:\n  max: 3\n  schedules:\n    - {cron: 0 8 * * *, min: 2}\n":               `weir.yaml:5: a schedule has no minutes, want cron, minutes and min`,
		"name: web\ncount:\n  max: 3\n  schedules:\n    - {cron: 0 8 * * *, minutes: 60, min: 4}\n":  `weir.yaml:5: schedule "0 8 * * *": min is 4, want 1 to the most that the pool may have, which is 3`,
		"name: web\ncount:\n  max: 3\n  cooldown_seconds: 0\n":                                       `weir.yaml:4: cooldown_seconds is 0, want a whole number of seconds, from 1 to 86400`,
		"name: web\nsizes:\n  - {size: s-1vcpu-1gb, max: 0}\n":                                       `weir.yaml:3: max is 0, want a whole number from 1 to 1000`,
		"name: web\ncount:\n  max: 3\nservers: [192.0.2.21]\n":                                       `weir.yaml:2: count is about machines that Weir makes, and servers says that there are others: leave one of them out`,
	} {
		if _, err := Parse("weir.yaml", []byte(file), "."); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", file, err, want)
		}
	}
}

func TestPoolMayHaveSeveralSizes(t *testing.T) {
	a, err := Parse("weir.yaml", []byte(`
name: web
sizes:
  - {size: s-2vcpu-2gb, hourly_cost: 0.02}
  - {size: s-4vcpu-8gb, hourly_cost: 0.05, weight: 1.9, max: 3}
count: {max: 10, max_hourly_cost: 0.2}
rolling: {max_unavailable: 1, max_surge: 0}
replace_unhealthy: false
exporter: {path: /stats}
`), ".")
	if err != nil {
		t.Fatal(err)
	}
	none, no := 0, false
	want := &weir.Pool{Sizes: []weir.Offer{{Size: "s-2vcpu-2gb", Price: 0.02}, {Size: "s-4vcpu-8gb", Price: 0.05, Weight: 1.9, Max: 3}},
		Rolling: &weir.Rolling{Unavailable: 1, Surge: &none}, Heal: &no, Exporter: &weir.Exporter{Port: 9100, Path: "/stats"}}
	got := &weir.Pool{Sizes: a.Pool.Sizes, Rolling: a.Pool.Rolling, Heal: a.Pool.Heal, Exporter: a.Pool.Exporter}
	if diff := cmp.Diff(want, got); diff != "" || a.Pool.Template.Size != "s-2vcpu-2gb" {
		t.Errorf("the pool's size is %s, the rest (-want +got):\n%s", a.Pool.Template.Size, diff)
	}
	for file, want := range map[string]string{
		"name: web\nsizes: s-1vcpu-1gb\n":                                                      `weir.yaml:2: sizes is "s-1vcpu-1gb", want a list of sizes`,
		"name: web\nsizes:\n  - {max: 2}\n":                                                    `weir.yaml:3: one of the sizes has no size, want one such as s-1vcpu-1gb`,
		"name: web\nsizes:\n  - {size: huge}\n":                                                `weir.yaml:3: sizes[0]: size "huge" is not offered, want one of s-1vcpu-512mb-10gb, s-1vcpu-1gb, s-1vcpu-2gb, s-2vcpu-2gb, s-2vcpu-4gb, s-4vcpu-8gb, s-8vcpu-16gb`,
		"name: web\nsizes:\n  - {size: s-1vcpu-1gb}\n  - {size: s-2vcpu-2gb, share: 2}\n":      `weir.yaml:4: sizes[1]: share is there for some sizes alone, want it for all or for none`,
		"name: web\nsize: s-4vcpu-8gb\nsizes:\n  - {size: s-1vcpu-1gb}\n":                      `weir.yaml:4: the first of the sizes is s-1vcpu-1gb, and size is s-4vcpu-8gb: leave size out`,
		"name: web\nrolling: {max_surge: 0}\n":                                                 `weir.yaml:2: max_unavailable and max_surge are both 0, with which nothing can be replaced: want one of them over 0`,
		"name: web\nrolling: {max_unavailable: x}\n":                                           `weir.yaml:2: max_unavailable is "x", want a whole number of machines`,
		"name: web\nexporter: no\n":                                                            `weir.yaml:2: exporter is "no", want a whole number from 1 to 65535, or port and path`,
		"name: web\nexporter: 70000\n":                                                         `weir.yaml:2: exporter.port is 70000, want 1 to 65535, such as node_exporter's 9100`,
		"name: web\nexporter: {prot: 1}\n":                                                     `weir.yaml:2: unknown key "prot" in exporter, want one of port, path`,
		"name: web\nexporter:\n  path: metrics\n":                                              `weir.yaml:3: exporter.path is "metrics", want one such as /metrics, of at most 200 letters without spaces`,
		"name: web\nexporter: 9100\nservers: [192.0.2.21]\n":                                   `weir.yaml:2: exporter is about machines that Weir makes, and servers says that there are others: leave one of them out`,
		"name: web\nreplace_unhealthy: 1\n":                                                    `weir.yaml:2: replace_unhealthy is "1", want true or false`,
		"name: web\nsizes:\n  - {size: s-1vcpu-1gb}\nservers: [192.0.2.21]\n":                  `weir.yaml:2: sizes is about machines that Weir makes, and servers says that there are others: leave one of them out`,
		"name: web\nsizes:\n  - {size: s-1vcpu-1gb}\ncount:\n  max: 3\n  max_hourly_cost: 1\n": `weir.yaml:6: max_hourly_cost is there without the hourly_cost of its sizes, want what one machine of each costs`,
	} {
		if _, err := Parse("weir.yaml", []byte(file), "."); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", file, err, want)
		}
	}
}
