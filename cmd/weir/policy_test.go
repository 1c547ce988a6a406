package main_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

// Servers that say who they are, and have one page that they hand out in seconds.
const (
	bluePolicy = `
name: web
user_data: user-data.sh
count: 2
load_balancer:
  health_check: {check_interval_seconds: 3, response_timeout_seconds: 3, healthy_threshold: 2}
  target_groups:
    - {name: green, tag: green}
`
	slowBytes  = 64 << 10
	policyData = `#!/bin/sh
set -eu
mkdir -p /srv/www
hostname > /srv/www/index.html
head -c 65536 /dev/zero > /srv/www/slow
rm -f /etc/nginx/sites-enabled/*
cat >/etc/nginx/conf.d/www.conf <<'EOF_SITE'
server {
	listen 80 default_server;
	root /srv/www;
	add_header X-Server $hostname;
	location = /slow { limit_rate 12k; }
}
EOF_SITE
nginx -t
systemctl restart nginx
curl -s --fail --retry 5 --retry-connrefused http://127.0.0.1/ -o /dev/null
`
)

// colour is the kind of server that has answered: its name up to the dash.
func colour(body string) string {
	kind, _, _ := strings.Cut(body, "-")
	return kind
}

// slowFrom has a server of that name hand out its slow page, and returns how that ends, and how many bytes were got.
func (r *region) slowFrom(name string) (ended <-chan error, got *int64) {
	r.t.Helper()
	done := make(chan error, 1)
	for range 20 {
		client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + r.front + "/slow")
		if err != nil {
			r.t.Fatal(err)
		}
		if resp.Header.Get("X-Server") != name {
			resp.Body.Close()
			continue
		}
		n := new(int64)
		go func() {
			defer resp.Body.Close()
			var err error
			*n, err = io.Copy(io.Discard, resp.Body)
			done <- err
		}()
		return done, n
	}
	r.t.Fatalf("%s has answered none of 20 requests", name)
	return nil, nil
}

// up waits until all instances have just those servers up, and nobody else.
func (r *region) up(names ...string) {
	r.t.Helper()
	r.within(2*time.Minute, func() string {
		p := r.pair()
		for _, in := range p.status.Instances {
			for _, name := range names {
				if id := p.machines[name].ID; id == "" || !in.Node.HasUp(id) {
					return fmt.Sprintf("%s is not up at instance %s: %v", name, in.Machine, in.Node.Servers)
				}
			}
			servers := map[weir.ID]bool{}
			for _, s := range in.Node.Servers {
				servers[s.ID] = true
			}
			if len(servers) != len(names) || in.Node.Revision != in.Wants {
				return fmt.Sprintf("instance %s has %v, want %q", in.Machine, in.Node.Servers, names)
			}
		}
		return ""
	})
}

// A canary gets its share, blue is switched to green in one call without a request that fails, and a server that is drained
// finishes what it has; and HAProxy reloads for none of it.
func TestBlueIsSwitchedToGreenAndServersAreDrained(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	dir := writeFiles(t, map[string]string{"weir.yaml": bluePolicy, "user-data.sh": policyData})
	r.start("--config", filepath.Join(dir, "weir.yaml"))
	body := fmt.Sprintf(`{"names": ["green-1", "green-2"], "region": "local1", "size": "s-1vcpu-512mb-10gb", "image": "debian-12-x64", "tags": ["green"], "user_data": %q}`, policyData)
	if status := r.call(http.MethodPost, "/v2/droplets", body); status != http.StatusAccepted {
		t.Fatalf("POST droplets: status %d, want 202", status)
	}
	r.up("web-1", "web-2")
	if got := r.counted(20, colour); got["web"] != 20 {
		t.Errorf("answers by %v, want blue alone", got)
	}
	reloads := func() (n []int) {
		for _, in := range r.pair().status.Instances {
			n = append(n, in.Node.HAProxy.Reloads)
		}
		return n
	}
	before := reloads()

	stop := r.traffic()
	r.must("lb", "split", "web", "green=5")
	r.up("web-1", "web-2", "green-1", "green-2")
	if got := r.counted(600, colour); got["green"] < 6 || got["green"] > 90 || got["green"]+got["web"] != 600 {
		t.Errorf("with a canary of 5 %% answers by %v of 600, want about 30 by green", got)
	}
	r.must("lb", "split", "web", "green=100")
	r.whole()
	if got := r.counted(50, colour); got["green"] != 50 {
		t.Errorf("after the switch answers by %v, want green alone", got)
	}
	r.must("lb", "split", "web", "--none")
	r.up("web-1", "web-2")
	if got := r.counted(50, colour); got["web"] != 50 {
		t.Errorf("after the switch back answers by %v, want blue alone", got)
	}
	if sent, failed := stop(); failed > 0 || sent == 0 {
		t.Errorf("%d of %d requests failed, want none", failed, sent)
	}

	ended, got := r.slowFrom("web-1")
	r.must("lb", "drain", "web", "web-1", "--deadline", "1m")
	r.whole()
	stop = r.traffic()
	if names := r.answers(30); len(names) != 1 || names[0] != "web-2" {
		t.Errorf("while web-1 is drained answers are from %q, want web-2 alone", names)
	}
	if err := <-ended; err != nil || *got != slowBytes {
		t.Errorf("the request that web-1 had ended after %d bytes of %d: %v", *got, slowBytes, err)
	}
	out := r.must("lb", "drain", "web", "web-1", "--deadline", "1m", "--wait")
	if !strings.Contains(out, "web-1: drained from web, with 1m to finish its requests") {
		t.Errorf("weir lb drain says %q", out)
	}
	r.up("web-2")
	r.must("lb", "undrain", "web", "web-1")
	r.up("web-1", "web-2")
	if sent, failed := stop(); failed > 0 || sent == 0 {
		t.Errorf("%d of %d requests failed while web-1 was drained, want none", failed, sent)
	}
	if after := reloads(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("instances have reloaded %v times, and %v before: want the same", after, before)
	}
}
