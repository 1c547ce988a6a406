package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Servers that compress each answer are busy with CPU, and hand it out slowly: they have as many requests at once as there are
// clients, however much CPU the host has to give.
const (
	busyConfig = `
name: web
user_data: user-data.sh
count:
  min: 1
  max: 3
  targets: {cpu: 0.5, concurrent_requests: 2}
  cooldown_seconds: 20
  stabilization_seconds: 20
load_balancer:
  health_check: {check_interval_seconds: 3, response_timeout_seconds: 3, healthy_threshold: 2}
`
	busyData = `#!/bin/sh
set -eu
mkdir -p /srv/www
seq 10000 > /srv/www/index.html
rm -f /etc/nginx/sites-enabled/*
cat >/etc/nginx/conf.d/www.conf <<'EOF_SITE'
server {
	listen 80 default_server;
	root /srv/www;
	types { }
	default_type text/plain;
	limit_rate 10k;
	gzip on;
	gzip_comp_level 9;
	gzip_types text/plain;
}
EOF_SITE
nginx -t
systemctl restart nginx
curl -s --fail --retry 5 --retry-connrefused http://127.0.0.1/ -o /dev/null
`
)

// clients has some clients send a request after the other, with a pause between them, until stop, which returns how
// many they sent and how many failed.
func (r *region) clients(n int, compressed bool, pause time.Duration) (stop func() (sent, failed int64)) {
	var all, bad atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: !compressed}}
			for ctx.Err() == nil {
				all.Add(1)
				resp, err := client.Get("http://" + r.front + "/")
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				if err != nil || resp.StatusCode != http.StatusOK {
					bad.Add(1)
				}
				time.Sleep(pause)
			}
		})
	}
	return func() (int64, int64) { cancel(); wg.Wait(); return all.Load(), bad.Load() }
}

// pool is what weir pool show says of the region's pool.
func (r *region) pool() (p struct {
	Count    int
	Machines int
	Load     struct{ Serving int }
	Verdict  struct{ Why string }
}) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.must("pool", "show", "web", "-o", "json")), &p); err != nil {
		r.t.Fatal(err)
	}
	return p
}

func TestPoolOfBusyServersGrowsUnderLoadAndShrinksAfterwards(t *testing.T) {
	r := newRegion(t)
	dir := writeFiles(t, map[string]string{"weir.yaml": busyConfig, "user-data.sh": busyData})
	r.start("--config", filepath.Join(dir, "weir.yaml"))
	slow := r.clients(1, false, 200*time.Millisecond)
	busy := r.clients(6, true, 0)
	r.within(4*time.Minute, func() string {
		if p := r.pool(); p.Count < 2 || p.Load.Serving < 2 {
			return fmt.Sprintf("under load it has %+v, want 2 machines that serve", p)
		}
		return ""
	})
	sent, failed := busy()
	if failed > 0 || sent < 10 {
		t.Errorf("%d of %d requests failed while it grew, want none of at least 10", failed, sent)
	}
	r.within(5*time.Minute, func() string {
		if p := r.pool(); p.Count != 1 || p.Machines != 1 {
			return fmt.Sprintf("without load it has %+v, want 1 machine", p)
		}
		return ""
	})
	if sent, failed := slow(); failed > 0 {
		t.Errorf("%d of %d requests failed while it grew and shrank, want none", failed, sent)
	}
	history := r.must("pool", "history", "web")
	if !strings.Contains(history, "1 → ") || !strings.Contains(history, "that needs") || !strings.Contains(history, "→ 1") {
		t.Errorf("its history is\n%swant that it grew and shrank, with the numbers", history)
	}
	if t.Failed() {
		t.Log(history)
	}
}
