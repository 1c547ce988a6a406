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
  targets: {memory: 1, requests_per_second: 50, concurrent_requests: 2.5, response_time_ms: 200}
  cooldown_seconds: 30
  stabilization_seconds: 60
  machine_hourly_cost: 0.01
  max_hourly_cost: 0.08
  schedules:
    - {name: office, cron: "0 8 * * 1-5", timezone: Europe/Berlin, minutes: 600, min: 4}
`: {Min: 2, Max: 10, Memory: 1, Requests: 50, Concurrent: 2.5, Response: 200 * time.Millisecond, Pause: 30 * time.Second, Stabilisation: time.Minute,
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
		"name: web\ncount: {min: 2}\n":                                                              `weir.yaml:2: count has no max, want how many machines there are at most`,
		"name: web\ncount:\n  max: 3\n  min: 4\n":                                                   `weir.yaml:4: max is 3, want at least min, which is 4`,
		"name: web\ncount:\n  min: 0\n  max: 3\n":                                                   `weir.yaml:3: min is 0, want 1 to 500`,
		"name: web\ncount:\n  max: 3\n  targets: {}\n":                                              `weir.yaml:4: targets is empty, want keys such as cpu: …`,
		"name: web\ncount:\n  max: 3\n  targets: {cpu: 60}\n":                                       `weir.yaml:4: targets.cpu is 60, want 0.05 to 1`,
		"name: web\ncount:\n  max: 3\n  targets: {cpu: -1}\n":                                       `weir.yaml:4: cpu is "-1", want a number over 0 such as 0.6`,
		"name: web\ncount:\n  max: 3\n  targets:\n    disk: 1\n":                                    `weir.yaml:5: unknown key "disk" in targets, want one of cpu, memory, requests_per_second, concurrent_requests, response_time_ms`,
		"name: web\ncount:\n  max: 3\n  max_hourly_cost: 1\n":                                       `weir.yaml:4: max_hourly_cost is there without machine_hourly_cost, want what one machine costs`,
		"name: web\ncount:\n  max: 3\n  schedules:\n    - {cron: 0 8 * * *, min: 2}\n":              `weir.yaml:5: a schedule has no minutes, want cron, minutes and min`,
		"name: web\ncount:\n  max: 3\n  schedules:\n    - {cron: 0 8 * * *, minutes: 60, min: 4}\n": `weir.yaml:5: schedule "0 8 * * *": min is 4, want 1 to the most that the pool may have, which is 3`,
		"name: web\ncount:\n  max: 3\nservers: [192.0.2.21]\n":                                      `weir.yaml:2: count is about machines that Weir makes, and servers says that there are others: leave one of them out`,
	} {
		if _, err := Parse("weir.yaml", []byte(file), "."); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", file, err, want)
		}
	}
}
