package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mixedConfig is a pool of two sizes whose machines are replaced when what they are made from has changed.
const mixedConfig = `
name: web
user_data: user-data.sh
sizes:
  - {size: s-1vcpu-512mb-10gb, share: 1}
  - {size: s-2vcpu-2gb, share: 1}
count: 3
rolling: {max_surge: 1}
load_balancer:
  health_check: {check_interval_seconds: 3, response_timeout_seconds: 3, healthy_threshold: 2}
`

func TestPoolOfTwoSizesServesByTheirWorthAndRollsBackWhatFails(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const serves = `#!/bin/sh
set -eu
mkdir -p /srv/www
hostname > /srv/www/index.html
rm -f /etc/nginx/sites-enabled/*
printf 'server { listen 80 default_server; root /srv/www; }\n' >/etc/nginx/conf.d/www.conf
systemctl restart nginx
`
	write("weir.yaml", mixedConfig)
	write("user-data.sh", serves)
	file := filepath.Join(dir, "weir.yaml")
	r.start("--config", file)
	r.within(2*time.Minute, func() string {
		config := r.must("generate", "web")
		if strings.Count(config, " weight 1 ")+strings.Count(config, " weight 1\n") != 1 || strings.Count(config, " weight 2") != 1 {
			return "HAProxy runs\n" + config + "want two servers, one with twice the weight of the other"
		}
		return ""
	})
	want := fmt.Sprint(r.inventory())
	if show := strings.Join(strings.Fields(r.must("pool", "show", "web")), " "); !strings.Contains(show, "as much as 3 s-1vcpu-512mb-10gb, 2 machines there, which are worth 3, 2 ready to serve") {
		t.Errorf("the pool is\n%s", show)
	}

	stop := r.clients(2, false, 20*time.Millisecond)
	write("user-data.sh", serves+"exit 3\n")
	r.must("apply", "--no-wait", "-f", file)
	r.within(3*time.Minute, func() string {
		if history := r.must("pool", "history", "web"); !strings.Contains(history, "back to the former template") {
			return "the history is\n" + history + "want that it went back"
		}
		return ""
	})
	r.within(time.Minute, func() string {
		if got := fmt.Sprint(r.inventory()); got != want {
			return fmt.Sprintf("it has %s, want %s", got, want)
		}
		return ""
	})
	if sent, failed := stop(); failed > 0 || sent < 100 {
		t.Errorf("%d of %d requests failed while a template failed, want none of 100 or more", failed, sent)
	}
	if costs := r.must("audit", "costs"); strings.Count(costs, " pool web ") != 2 || !strings.Contains(costs, "load balancer web") {
		t.Errorf("what costs money is\n%s\nwant two machines, and the load balancer's", costs)
	}
}
