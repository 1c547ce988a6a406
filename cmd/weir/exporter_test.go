package main_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A node_exporter in a container tells what the whole host uses. That a pool grows by it is shown with exporters that say what they are told.
const (
	meteredConfig = `
name: web
user_data: user-data.sh
exporter: 9100
count:
  min: 2
  max: 3
  targets: {cpu: 0.6}
load_balancer:
  health_check: {check_interval_seconds: 3, response_timeout_seconds: 3, healthy_threshold: 2}
`
	meteredData = `#!/bin/sh
set -eu
rm -f /etc/nginx/sites-enabled/*
printf 'server { listen 80 default_server; return 200 "hello"; }\n' >/etc/nginx/conf.d/www.conf
systemctl restart nginx
systemctl restart prometheus-node-exporter
curl -s --fail --retry 5 --retry-connrefused http://127.0.0.1:9100/metrics -o /dev/null
`
)

// hostMemory returns how large the memory of this host is, and which share of it is used.
func hostMemory(t *testing.T) (total, used float64) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	kilobytes := func(name string) float64 {
		n, err := strconv.ParseFloat(regexp.MustCompile(name + `: +(\d+) kB`).FindStringSubmatch(string(text))[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	total = kilobytes("MemTotal")
	return total * 1024, 1 - kilobytes("MemAvailable")/total
}

func TestPoolGoesByWhatTheNodeExporterOfItsMachinesTells(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	dir := writeFiles(t, map[string]string{"weir.yaml": meteredConfig, "user-data.sh": meteredData})
	r.start("--config", filepath.Join(dir, "weir.yaml"))
	type shown struct {
		Count int
		Load  struct {
			CPU, Memory *float64
			Unknown     string
		}
	}
	show := func() (s shown) {
		t.Helper()
		if err := json.Unmarshal([]byte(r.must("pool", "show", "web", "-o", "json")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	total, used := hostMemory(t)
	r.within(2*time.Minute, func() string {
		if s := show(); s.Load.CPU == nil || s.Load.Memory == nil || math.Abs(*s.Load.Memory-used) > 0.2 || s.Load.Unknown != "" {
			return fmt.Sprintf("it bears %+v, want a CPU, and %.2f of the memory", s.Load, used)
		}
		return ""
	})
	p := r.whole()
	first := p.machines["web-1"]
	r.within(5*time.Minute, func() string {
		var a struct {
			Data struct {
				Result []struct{ Values [][2]any }
			}
		}
		now := time.Now().Unix()
		r.ask("GET", fmt.Sprintf("/v2/monitoring/metrics/droplet/memory_total?host_id=%s&start=%d&end=%d", first.ID, now-1000, now), "", &a)
		if len(a.Data.Result) != 1 || len(a.Data.Result[0].Values) == 0 {
			return "there are no figures of its memory"
		}
		if v, _ := strconv.ParseFloat(fmt.Sprint(a.Data.Result[0].Values[0][1]), 64); math.Abs(v/total-1) > 0.01 {
			return fmt.Sprintf("its memory is of %v bytes, want the host's %v", v, total)
		}
		return ""
	})

	// Nobody but the control plane is let in: not its neighbour, and not its load balancer, which is at port 80.
	at := first.Private.String()
	for _, from := range []string{"web-2", p.active} {
		if got := r.asked(p.machines[from].ID, at+":9100"); !strings.HasPrefix(got, "error: curl: (7)") { // it could not connect
			t.Errorf("%s asks the exporter and gets %.200q, want no answer", from, got)
		}
	}
	if got := r.asked(p.machines[p.active].ID, at+":80"); !strings.Contains(got, "hello") {
		t.Errorf("its load balancer asks it at port 80 and gets %.200q, want an answer", got)
	}

	r.inside(p, "web-2", "systemctl", "stop", "prometheus-node-exporter")
	want := fmt.Sprintf(" machines: web-2's exporter at %s:9100: connection refused", p.machines["web-2"].Private)
	r.within(2*time.Minute, func() string {
		if out := r.must("pool", "show", "web"); !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			return fmt.Sprintf("without an exporter on web-2 it is\n%s\nwant in it %q", out, want)
		}
		return ""
	})
}
