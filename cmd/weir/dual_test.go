package main_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// reaches returns what comes of a request from a server of the region's to each address of its load balancer.
func (r *region) reaches(p pair) (got string) {
	from := p.machines["web-1"].ID
	for _, addr := range []string{p.status.Address.String(), "[" + p.status.Addr6.String() + "]"} {
		out, _ := exec.Command("runc", "--root", filepath.Join(r.data, "cloud", "runc"), "exec", string(from),
			"curl", "-s", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code} ", "http://"+addr+"/").Output()
		got += string(out)
	}
	return got
}

// A load balancer of both families is reached by both, and both addresses move together.
func TestALoadBalancerOfBothFamiliesFailsOverInBoth(t *testing.T) {
	r := newRegion(t)
	r.start()
	was := r.status().LoadBalancers[0]
	if status := r.call(http.MethodDelete, "/v2/load_balancers/"+string(was.ID), ""); status != http.StatusNoContent {
		t.Fatalf("DELETE: status %d, want 204", status)
	}
	r.within(time.Minute, func() string {
		if len(r.status().LoadBalancers) > 0 {
			return "the first load balancer is still there"
		}
		return ""
	})
	body := fmt.Sprintf(`{"name": "both", "tag": %q, "network_stack": "DUALSTACK", "forwarding_rules":
		[{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}]}`, was.Tag)
	if status := r.call(http.MethodPost, "/v2/load_balancers", body); status != http.StatusAccepted {
		t.Fatalf("POST: status %d, want 202", status)
	}
	answers := func(p pair) {
		t.Helper()
		r.within(time.Minute, func() string {
			if got := r.reaches(p); got != "200 200 " {
				return fmt.Sprintf("%s and %s answer %s, want 200 at both", p.status.Address, p.status.Addr6, got)
			}
			return ""
		})
	}
	p := r.whole()
	if status := r.call(http.MethodPost, "/v2/droplets/"+string(p.machines["web-1"].ID)+"/actions", `{"type": "enable_ipv6"}`); status != http.StatusCreated {
		t.Fatalf("enable_ipv6: status %d, want 201", status)
	}
	answers(p)
	r.must("machine", "kill", p.active)
	r.within(time.Minute, func() string {
		if now := r.pair(); now.active == p.active || now.active == "" {
			return p.active + " is still the active one"
		}
		return ""
	})
	answers(r.whole())
	r.must("lb", "failover")
	answers(r.whole())
}
