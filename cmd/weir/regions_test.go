package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const regionalConfig = `
name: web
user_data: user-data.sh
sizes:
  - {size: s-1vcpu-512mb-10gb}
  - {size: s-1vcpu-512mb-10gb, region: local2}
count: %d
load_balancer:
  health_check: {check_interval_seconds: 3, response_timeout_seconds: 3, healthy_threshold: 2}
`

// regionsOf returns how many of the machines that are shown are in each of two regions.
func regionsOf(r *region) string {
	var all []struct{ Region, Status string }
	if err := json.Unmarshal([]byte(r.must("print", "-o", "json")), &all); err != nil {
		r.t.Fatal(err)
	}
	n := map[string]int{}
	for _, m := range all {
		if m.Status == "active" {
			n[m.Region]++
		}
	}
	return fmt.Sprintf("%d + %d", n["local1"], n["local2"])
}

func TestPoolServesFromTwoRegions(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "weir.yaml")
	write := func(count int) {
		const serves = "#!/bin/sh\nset -eu\napt-get install -y nginx\nmkdir -p /srv/www\nhostname > /srv/www/index.html\nrm -f /etc/nginx/sites-enabled/*\n" +
			"printf 'server { listen 80 default_server; root /srv/www; }\\n' >/etc/nginx/conf.d/www.conf\nsystemctl restart nginx\n"
		for name, text := range map[string]string{"weir.yaml": fmt.Sprintf(regionalConfig, count), "user-data.sh": serves} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(4)
	r.start("--further", "local2", "--config", file)
	both := func(want string) {
		t.Helper()
		r.within(2*time.Minute, func() string {
			if got := regionsOf(r); got != want {
				return fmt.Sprintf("there are %s, want %s", got, want)
			}
			return ""
		})
	}
	both("2 + 2")
	// asked returns who answers requests, of those that are answered.
	asked := func() map[string]bool {
		names := map[string]bool{}
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		for range 40 {
			resp, err := client.Get("http://" + r.front + "/")
			if err != nil {
				continue
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				names[strings.TrimSpace(string(body))] = true
			}
		}
		return names
	}
	r.within(time.Minute, func() string {
		if names := asked(); len(names) != 4 {
			return fmt.Sprintf("requests are answered by %v, want all four machines", names)
		}
		return ""
	})
	stop := r.clients(2, false, 20*time.Millisecond)
	write(2)
	r.must("apply", "-f", file)
	both("1 + 1")
	r.within(time.Minute, func() string {
		if out := r.must("print"); strings.Count(out, "local2") != 1 || !strings.Contains(out, "REGION") {
			return "the machines are\n" + out + "want the region of each"
		}
		return ""
	})
	if sent, failed := stop(); failed > 0 || sent < 20 {
		t.Errorf("%d of %d requests failed while it shrank, want none of 20 or more", failed, sent)
	}
	// Without the other region its machines stay on record, and are there again when it is.
	r.stop(syscall.SIGKILL)
	r.start()
	if costs := r.must("audit", "costs"); !strings.Contains(costs, `region "local2": this Weir was started without it`) || strings.Count(costs, " pool web ") != 2 {
		t.Errorf("without the other region what costs money is\n%s", costs)
	}
	r.stop(syscall.SIGTERM)
	r.start("--further", "local2")
	both("1 + 1")
	r.within(time.Minute, func() string {
		if names := asked(); len(names) != 2 {
			return fmt.Sprintf("requests are answered by %v, want both machines", names)
		}
		return ""
	})
}
