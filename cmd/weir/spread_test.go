package main_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

// size makes the region's load balancer one of so many active instances.
func (r *region) size(units int) {
	r.t.Helper()
	lb := r.status().LoadBalancers[0]
	body := fmt.Sprintf(`{"name": %q, "tag": %q, "size_unit": %d, "forwarding_rules":
		[{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}]}`, lb.Name, lb.Tag, units)
	if status := r.call(http.MethodPut, "/v2/load_balancers/"+string(lb.ID), body); status != http.StatusOK {
		r.t.Fatalf("PUT size_unit %d: status %d, want 200", units, status)
	}
}

// actives waits until a load balancer has so many active instances, all well, and one that stands by, and returns the
// names of the active ones.
func (r *region) actives(n int) (names []string) {
	r.t.Helper()
	r.within(2*time.Minute, func() string {
		s := r.status()
		lb := s.LoadBalancers[0]
		names = nil
		for _, in := range lb.Instances {
			if in.Health.State != weir.InstanceWell || in.Node.Revision != in.Wants {
				return fmt.Sprintf("instance %s is %s, at revision %d of %d", in.Machine, in.Health.State, in.Node.Revision, in.Wants)
			}
			if in.Active {
				i := slices.IndexFunc(s.Machines, func(m weir.MachineOverview) bool { return m.ID == in.Machine })
				names = append(names, s.Machines[i].Name)
			}
		}
		if len(names) != n || len(lb.Instances) != n+1 || lb.Phase != weir.LoadBalancerActive {
			return fmt.Sprintf("%d of %d instances are active, want %d of %d; the load balancer is %s: %s", len(names), len(lb.Instances), n, n+1, lb.Phase, strings.Join(lb.Plan, ", "))
		}
		return ""
	})
	return names
}

// requests returns how many requests each active instance has sent to servers.
func (r *region) requests() map[weir.ID]int64 {
	r.t.Helper()
	n := map[weir.ID]int64{}
	for _, in := range r.status().LoadBalancers[0].Actives() {
		for _, s := range in.Node.Servers {
			n[in.Machine] += s.Requests
		}
	}
	return n
}

// A size_unit is an active instance: all of them get requests, one that breaks is replaced, and one that is not
// needed any more goes, without a request that fails.
func TestSizeIsTheNumberOfActiveInstances(t *testing.T) {
	r := newRegion(t)
	r.start()
	r.actives(1)
	stop := r.traffic()
	r.size(2)
	was := r.actives(2)
	if _, failed := stop(); failed > 0 {
		t.Errorf("%d requests failed while it grew, want none", failed)
	}
	r.within(time.Minute, func() string {
		r.answers(20)
		for id, n := range r.requests() {
			if n < 20 {
				return fmt.Sprintf("instance %s has sent %d requests to servers, want at least 20", id, n)
			}
		}
		return ""
	})

	r.must("machine", "kill", was[1])
	r.within(time.Minute, func() string {
		if slices.ContainsFunc(r.status().Machines, func(m weir.MachineOverview) bool { return m.Name == was[1] }) {
			return was[1] + " is still there"
		}
		return ""
	})
	is := r.actives(2)
	if !slices.Contains(is, was[0]) {
		t.Errorf("%v are active, want %s among them still: nothing needed to move from it", is, was[0])
	}

	stop = r.traffic()
	to := r.standby()
	r.must("lb", "failover", "--to", to)
	r.size(1)
	left := r.actives(1)
	if _, failed := stop(); failed > 0 {
		t.Errorf("%d requests failed while it was handed over and shrank, want none", failed)
	}
	if left[0] != to {
		t.Errorf("%s is active, want %s, to which a user handed over", left[0], to)
	}
}

// standby returns the name of an instance that is not active.
func (r *region) standby() string {
	r.t.Helper()
	s := r.status()
	for _, in := range s.LoadBalancers[0].Instances {
		if i := slices.IndexFunc(s.Machines, func(m weir.MachineOverview) bool { return m.ID == in.Machine }); !in.Active && i >= 0 {
			return s.Machines[i].Name
		}
	}
	r.t.Fatal("all instances are active")
	return ""
}
