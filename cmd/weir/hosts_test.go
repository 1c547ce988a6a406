package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/weir"
)

// laid returns how many machines of the pool that are to stay each host has, "host-1 2, host-2 2", and how many machines there are in
// all, those that are to go among them.
func (r *region) laid() (pool string, all int) {
	r.t.Helper()
	s := r.status()
	on := map[string]int{}
	for _, m := range s.Machines {
		if m.Pool != "" && !m.Deleting {
			on[m.OnHost]++
		}
	}
	var said []string
	for _, host := range slices.Sorted(maps.Keys(on)) {
		said = append(said, fmt.Sprintf("%s %d", host, on[host]))
	}
	return strings.Join(said, ", "), len(s.Machines)
}

// apart fails the test unless the instances of a pair are on two hosts.
func (r *region) apart(when string, p pair) {
	r.t.Helper()
	if a, s := p.machines[p.active].OnHost, p.machines[p.standby].OnHost; a == s || a == "" || s == "" {
		r.t.Errorf("%s the active instance is on %q and the standby on %q, want two hosts", when, a, s)
	}
}

// A host goes down with the active instance and a third of the pool, and comes back.
func TestRegionOutlivesOneOfItsHosts(t *testing.T) {
	r := newRegion(t)
	r.start("--hosts", "3")
	r.must("create", "-n", "3")
	const even = "host-1 2, host-2 2, host-3 2"
	if pool, _ := r.laid(); pool != even {
		t.Errorf("the pool's machines are on %q, want %q", pool, even)
	}
	before := r.whole()
	r.apart("at first", before)
	down := before.machines[before.active].OnHost

	stop := r.traffic()
	r.must("host", "fail", down)
	after := before
	r.within(time.Minute, func() string {
		if after = r.pair(); after.active != before.standby {
			return fmt.Sprintf("%q is active, want %s, which stood by on another host", after.active, before.standby)
		}
		return after.well()
	})
	r.apart("with a host down", after)
	if host := after.machines[after.standby].OnHost; host == down {
		t.Errorf("the new standby is on %s, which is down", host)
	}
	var whole []string
	for _, host := range []string{"host-1", "host-2", "host-3"} {
		if host != down {
			whole = append(whole, host+" 3")
		}
	}
	want := strings.Join(whole, ", ")
	r.within(2*time.Minute, func() string {
		s := r.status()
		pool, _ := r.laid()
		switch p := s.Pools[0]; {
		case pool != want:
			return fmt.Sprintf("the pool's machines are on %q, want %q", pool, want)
		case !p.Settled():
			return fmt.Sprintf("of its pool %d machines are there and %d serve, want 6: %q", p.Machines, p.Serving, p.Plan)
		}
		return ""
	})
	r.within(time.Minute, func() string {
		if up := serversUp(r.pair()); up != 6 {
			return fmt.Sprintf("%d servers are up, want 6", up)
		}
		return ""
	})
	r.answers(50) // each must be answered
	sent, failed := stop()
	t.Logf("%d of %d requests failed from when the host failed until all was whole", failed, sent)

	if _, n := r.laid(); n != 11 {
		t.Errorf("there are %d machines, want the 8 that serve, and 3 that wait for their host to be destroyed", n)
	}
	var costs weir.Costs
	if err := json.Unmarshal([]byte(r.must("audit", "costs", "-o", "json")), &costs); err != nil {
		t.Fatal(err)
	}
	waiting := 0
	for _, item := range costs.Items {
		if item.State == weir.CostLeaving && strings.HasPrefix(item.Err, "its host "+down+" is down") {
			waiting++
		}
	}
	if waiting != 3 {
		t.Errorf("weir audit costs has %d machines that wait for %s, want 3: %+v", waiting, down, costs.Items)
	}
	if said := r.must("status"); !strings.Contains(said, "! Host "+down+" is down, with all that is on it (machines: 3).") {
		t.Errorf("weir status does not say that %s is down:\n%s", down, said)
	}

	stop = r.traffic()
	r.must("host", "restore", down)
	r.within(time.Minute, func() string {
		if _, n := r.laid(); n != 8 {
			return fmt.Sprintf("there are %d machines, want 8: those that waited for their host are to go", n)
		}
		return ""
	})
	r.answers(50)
	if _, failed := stop(); failed > 0 {
		t.Errorf("%d requests failed while the host came back, want none", failed)
	}
	if pool, _ := r.laid(); pool != want {
		t.Errorf("once the host is back the pool's machines are on %q, want %q: nobody moves what serves", pool, want)
	}
	r.apart("once the host is back", r.whole())
	r.must("create", "-n", "3")
	if pool, _ := r.laid(); pool != "host-1 3, host-2 3, host-3 3" {
		t.Errorf("when it has grown the pool's machines are on %q, want three on each host", pool)
	}

	// Which host a machine is on is on record.
	were := r.hosts()
	r.stop(syscall.SIGTERM)
	r.start("--hosts", "3")
	if is := r.hosts(); !maps.Equal(is, were) {
		t.Errorf("after a restart machines are on %v, want %v as before", is, were)
	}
}

// hosts returns the host of each machine, by name.
func (r *region) hosts() map[string]string {
	r.t.Helper()
	on := map[string]string{}
	for _, m := range r.status().Machines {
		on[m.Name] = m.OnHost
	}
	return on
}

// serversUp returns how many servers the active instance finds up.
func serversUp(p pair) (n int) {
	for _, s := range p.status.Servers() {
		if s.State == weir.ServerUp {
			n++
		}
	}
	return n
}
