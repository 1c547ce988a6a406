package main_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

// named returns a load balancer of the region's as it is now, as pair does.
func (r *region) named(name string) (p pair) {
	r.t.Helper()
	s := r.status()
	i := slices.IndexFunc(s.LoadBalancers, func(lb weir.LoadBalancerOverview) bool { return lb.Name == name })
	if i < 0 {
		r.t.Fatalf("there is no load balancer %s", name)
	}
	return pairOf(s, s.LoadBalancers[i])
}

// asked returns what a machine gets by a request to an address, or why it gets nothing.
func (r *region) asked(from weir.ID, addr string, args ...string) string {
	command := append([]string{"--root", filepath.Join(r.data, "cloud", "runc"), "exec", string(from), "curl", "-sS", "--max-time", "3"}, args...)
	out, err := exec.Command("runc", append(command, "http://"+addr+"/")...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("error: %s", out)
	}
	return string(out)
}

// A machine asks an internal load balancer, which nothing from outside reaches, and goes on being answered when an
// instance fails, and when its address is handed over or has two active ones.
func TestAnInternalLoadBalancerIsReachedFromThePrivateNetworkAloneAndFailsOver(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.start()
	outside := r.whole()
	tag := outside.status.Tag
	ask := func(method, path string, network string, units, want int) {
		t.Helper()
		body := fmt.Sprintf(`{"name": "inside", "tag": %q, "network": %q, "size_unit": %d, "forwarding_rules":
			[{"entry_protocol": "http", "entry_port": 8000, "target_protocol": "http", "target_port": 80}]}`, tag, network, units)
		if status := r.call(method, path, body); status != want {
			t.Fatalf("%s %s: status %d, want %d", method, path, status, want)
		}
	}
	ask(http.MethodPost, "/v2/load_balancers", "INTERNAL", 1, http.StatusAccepted)
	whole := func() (p pair) {
		t.Helper()
		r.within(2*time.Minute, func() string { p = r.named("inside"); return p.well() })
		return p
	}
	p := whole()
	addr := p.status.Address.String()
	at := net.JoinHostPort(addr, "8000")
	if !strings.HasPrefix(addr, "10.110.") {
		t.Errorf("its address is %s, want one of the private network", addr)
	}
	if out := r.must("lb", "show", "inside"); !strings.Contains(out, addr) {
		t.Errorf("weir lb show says %s, want the address %s", out, addr)
	}

	// All servers answer, to machines and to each other.
	client := p.machines["web-1"].ID
	answered := func(when string) {
		t.Helper()
		got := map[string]bool{}
		r.within(time.Minute, func() string {
			if out := r.asked(client, at); !strings.HasPrefix(out, "error") {
				got[out] = true
			} else {
				return fmt.Sprintf("%s: %s", when, out)
			}
			if len(got) < 3 {
				return fmt.Sprintf("%s: only %v answer, want all three servers", when, got)
			}
			return ""
		})
	}
	answered("as it was made")
	if out := r.asked(client, net.JoinHostPort(outside.status.Address.String(), "80")); strings.HasPrefix(out, "error") {
		t.Errorf("the public load balancer: %s", out)
	}

	// Nobody from outside does: not by its instances' public addresses, nor by the door that leads to the region.
	instance := p.machines[p.active]
	for _, to := range []string{instance.Public.String(), outside.status.Address.String()} {
		if out := r.asked(client, net.JoinHostPort(to, "8000")); !strings.HasPrefix(out, "error") {
			t.Errorf("at %s it answers %q, want nothing", to, out)
		}
	}
	if out := r.asked(client, at, "--interface", p.machines["web-1"].Public.String()); !strings.HasPrefix(out, "error") {
		t.Errorf("a request from a public address is answered %q, want nothing", out)
	}
	r.answers(6) // the front leads to the public one, as before
	if ips := r.must("print"); strings.Contains(ips, addr) {
		t.Errorf("weir print shows its address %s:\n%s", addr, ips)
	}

	// It stays internal, and what is asked again is there already.
	path := "/v2/load_balancers/" + string(p.status.ID)
	ask(http.MethodPut, path, "EXTERNAL", 1, http.StatusUnprocessableEntity)
	ask(http.MethodPut, path, "", 1, http.StatusOK)
	if now := r.named("inside"); now.status.Phase != weir.LoadBalancerActive {
		t.Errorf("after the same was asked again it is %s, want active still", now.status.Phase)
	}

	for _, fault := range []struct {
		name string
		args []string
	}{{"a power cut", []string{"machine", "kill"}}, {"a cut of its private link", []string{"machine", "partition", "--link", "private"}}} {
		was := whole()
		r.must(append(slices.Clone(fault.args), was.active)...)
		r.within(time.Minute, func() string {
			if now := r.named("inside"); now.active == was.active || now.active == "" {
				return fmt.Sprintf("%s: %s is still the active one", fault.name, was.active)
			}
			return ""
		})
		answered("after " + fault.name)
		if now := whole(); now.status.Address != was.status.Address {
			t.Errorf("after %s its address is %s, want %s still", fault.name, now.status.Address, was.status.Address)
		}
	}
	// Its public link is nothing to it.
	was := whole()
	r.must("machine", "partition", "--link", "public", was.active)
	answered("without its public link")
	if now := whole(); now.active != was.active {
		t.Errorf("without its public link %s is not active any more, and %s is", was.active, now.active)
	}
	r.must("lb", "failover", "inside")
	answered("handed over")
	if now := whole(); now.active == was.active {
		t.Errorf("%s is active still, want the other one", now.active)
	}
	ask(http.MethodPut, path, "INTERNAL", 2, http.StatusOK)
	r.within(2*time.Minute, func() string {
		if lb := r.named("inside").status; len(lb.Actives()) != 2 || lb.Phase != weir.LoadBalancerActive {
			return fmt.Sprintf("%d instances are active, it is %s, want 2 and active", len(lb.Actives()), lb.Phase)
		}
		return ""
	})
	answered("with two active instances")
}

// A region whose only load balancer is internal has nothing behind its front.
func TestARegionMayHaveAnInternalLoadBalancerAlone(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	data, err := os.ReadFile("../../examples/user-data.sh")
	if err != nil {
		t.Fatal(err)
	}
	config := "name: web\nuser_data: user-data.sh\ncount: 1\nload_balancer:\n  network: internal\n  health_check: {check_interval_seconds: 3, healthy_threshold: 2}\n"
	dir := writeFiles(t, map[string]string{"weir.yaml": config, "external.yaml": strings.Replace(config, "internal", "external", 1), "user-data.sh": string(data)})
	r.start("--config", filepath.Join(dir, "weir.yaml"))
	p := r.whole()
	r.within(time.Minute, func() string {
		if out := r.asked(p.machines["web-1"].ID, p.status.Address.String()); strings.HasPrefix(out, "error") {
			return out
		}
		return ""
	})
	if resp, err := http.Get("http://" + r.front + "/"); err == nil {
		t.Errorf("the front answers %s, want that it leads nowhere", resp.Status)
		resp.Body.Close()
	}
	if out := r.must("apply", "-f", filepath.Join(dir, "weir.yaml")); strings.Contains(out, "network") || strings.Contains(out, "load balancer") {
		t.Errorf("what is there already, applied, says %q, want no change", out)
	}
	if out, errs, code := r.weir("apply", "-f", filepath.Join(dir, "external.yaml")); code == 0 || !strings.Contains(errs, "network is external, and it has internal, which stays as it was created") {
		t.Errorf("made external: %d %s%s, want that it stays as it was created", code, out, errs)
	}
}
