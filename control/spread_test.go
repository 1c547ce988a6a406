package control

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/weir"
)

// spread returns a load balancer with three active instances, all well: 2 has the address, 3 and 4 a share of it, and
// 5 stands by.
func spread() balancerView {
	v := judged()
	v.lb.Actives = 3
	for _, n := range []int{4, 5} {
		m := instance(n)
		v.machines = append(v.machines, m)
		v.says(m.ID, func(s *weir.NodeStatus) { s.Peers = nil })
		v.lb.Status.Health = append(v.lb.Status.Health, weir.Health{Machine: m.ID, State: weir.InstanceWell, Since: testNow.Add(-time.Minute)})
	}
	v.address.Sharing = []weir.ID{"100003", "100004"}
	v.address.Shared = v.address.Sharing
	v.lb.Status.Sharing = v.address.Sharing
	v.drain = 30 * time.Second
	return v
}

func TestAddressIsSpreadOverThoseThatAreWell(t *testing.T) {
	off := func(v *balancerView, ids ...weir.ID) {
		for i := range v.machines {
			if slices.Contains(ids, v.machines[i].ID) {
				v.machines[i].Status.Phase = weir.MachineOff
			}
		}
	}
	for _, test := range []struct {
		name string
		see  func(v *balancerView)
		want string
	}{
		{"it stays as it is", func(*balancerView) {}, "100002 [100003 100004]"},
		{"the standby gets the share of one that is gone", func(v *balancerView) { off(v, "100004") }, "100002 [100003 100005]"},
		{"nobody does where nobody stands by", func(v *balancerView) { off(v, "100004", "100005") }, "100002 [100003]"},
		{"one that has a share becomes the active one, and the standby gets its share", func(v *balancerView) { off(v, "100002") }, "100003 [100004 100005]"},
		{"the active one is alone where all others are gone", func(v *balancerView) { off(v, "100003", "100004", "100005") }, "100002 []"},
		{"one that is drained gives its share away", func(v *balancerView) { v.machines[2].Drained = true }, "100002 [100004 100005]"},
		{"and keeps it where nobody takes it", func(v *balancerView) {
			v.machines[2].Drained = true
			off(v, "100005")
		}, "100002 [100003 100004]"},
		{"one that hangs has none", func(v *balancerView) {
			v.says("100003", func(s *weir.NodeStatus) { s.HAProxy.Err = "HAProxy does not answer" })
			off(v, "100005")
		}, "100002 [100004]"},
		{"one whose agent starts again keeps it", func(v *balancerView) {
			v.says("100003", func(s *weir.NodeStatus) { s.Revision = 0 })
			v.lb.Status.Health[1] = weir.Health{Machine: "100003", State: weir.InstanceBoots, Since: testNow.Add(-time.Second)}
		}, "100002 [100003 100004]"},
		{"one that runs an older configuration gets none", func(v *balancerView) {
			off(v, "100004")
			v.says("100005", func(s *weir.NodeStatus) { s.Revision = 6 })
		}, "100002 [100003]"},
		{"nor one that does not know its servers yet", func(v *balancerView) {
			off(v, "100004")
			v.says("100005", func(s *weir.NodeStatus) { s.Servers[0].State = weir.ServerChecking })
		}, "100002 [100003]"},
		{"one that comes back must be well for some time", func(v *balancerView) {
			v.address.Sharing = []weir.ID{"100003"}
			v.lb.Status.Moves = []time.Time{testNow}
			v.lb.Status.Health[2].Since, v.lb.Status.Health[3].Since = testNow, testNow
		}, "100002 [100003]"},
		{"whom a user hands over from gets a share only if there is nobody else", func(v *balancerView) { v.lb.Wanted = "100003" }, "100003 [100004 100005]"},
		{"and then it does", func(v *balancerView) {
			v.lb.Wanted = "100003"
			off(v, "100005")
		}, "100003 [100002 100004]"},
		{"it shrinks", func(v *balancerView) { v.lb.Actives = 2 }, "100002 [100003]"},
		{"it shrinks to one", func(v *balancerView) { v.lb.Actives = 0 }, "100002 []"},
		{"it grows", func(v *balancerView) { v.lb.Actives = 4 }, "100002 [100003 100004 100005]"},
		{"one that is no more is forgotten", func(v *balancerView) { v.machines = v.machines[:4]; v.lb.Actives = 4 }, "100002 [100003 100004]"},
		{"nobody shares what nobody has", func(v *balancerView) {
			off(v, "100002", "100003", "100004", "100005")
			v.address.Machine, v.address.Sharing = "", nil
		}, " []"},
	} {
		v := spread()
		test.see(&v)
		v.planAddress(v.judge())
		if got := fmt.Sprint(v.address.Machine, " ", v.address.Sharing); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// Whatever is seen, only one that is well gets a share, and none that has one is ended.
func TestNoEvidenceSpreadsTheAddressToWhoCannotServe(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		v := spread()
		v.lb.Actives = r.IntN(5)
		for i := range v.machines[1:] {
			m := &v.machines[i+1]
			if r.IntN(4) == 0 {
				m.Status.Phase = weir.MachineOff
			}
			m.Drained = r.IntN(8) == 0
			if r.IntN(2) == 0 {
				v.asks(m.ID, Finding{Alive: r.IntN(2) == 0, Agent: r.IntN(2) == 0, Serves: r.IntN(2) == 0}, time.Duration(r.IntN(5000))*time.Millisecond)
			}
			v.says(m.ID, func(s *weir.NodeStatus) { s.Revision = int64(r.IntN(3)) + 5 })
			v.lb.Status.Health[i].Since = testNow.Add(-time.Duration(r.IntN(60)) * time.Second)
			if r.IntN(6) == 0 {
				v.lb.Wanted = m.ID
			}
		}
		health, had := v.judge(), v.address.Sharing
		fences := v.planFences(health)
		var planned []string
		for _, step := range func() []balancerStep { steps, _ := planBalancer(v); return steps }() {
			if drop, ok := step.(dropInstance); ok && drop.why == "there is one too many" {
				planned = append(planned, string(drop.machine.ID))
			}
		}
		has := v.address.Sharing
		if len(has) > max(v.lb.Actives-1, 0) || slices.Contains(has, v.address.Machine) {
			t.Fatalf("%s has the address and %s a share, want %d active ones", v.address.Machine, has, v.lb.Actives)
		}
		for _, h := range health {
			if slices.Contains(has, h.Machine) && !slices.Contains(had, h.Machine) && h.State != weir.InstanceWell {
				t.Fatalf("%s gets a share, which is %s", h.Machine, h.State)
			}
		}
		for _, id := range planned {
			if v.address.Has(weir.ID(id)) {
				t.Fatalf("%s is one too many, and %s has the address and %s a share", id, v.address.Machine, has)
			}
		}
		for _, h := range fences {
			if slices.Contains(had, h.Machine) && h.State != weir.InstanceGone {
				t.Fatalf("%s is ended, which has a share and is %s", h.Machine, h.State)
			}
		}
	}
}

func TestThereIsOneInstanceMoreThanAreActive(t *testing.T) {
	v := spread()
	if steps := v.planInstances(v.judge()); len(steps) > 0 {
		t.Errorf("steps %s, want none", steps)
	}
	v.lb.Actives = 5
	if got := fmt.Sprint(v.planInstances(v.judge())); got != "[create an instance create an instance]" {
		t.Errorf("steps %s, want two instances more", got)
	}
}

func TestInstanceThatHadTheAddressGoesWhenItsConnectionsHadTime(t *testing.T) {
	v := spread()
	v.lb.Status.Health = v.judge() // in which three have it
	v.lb.Actives = 1
	if got := fmt.Sprint(v.planInstances(v.judge())); got != "[delete instance web-lb-5: there is one too many]" {
		t.Errorf("steps %s while three have the address, want the standby to go alone", got)
	}
	v.address.Sharing, v.address.Shared = nil, nil
	v.lb.Status.Health = v.judge()
	v.machines = v.machines[:4]
	v.seen.now = testNow.Add(v.drain - 1)
	for id := range v.seen.heard {
		v.says(id, func(s *weir.NodeStatus) { s.Seen = v.seen.now })
	}
	if got := v.planInstances(v.judge()); len(got) > 0 {
		t.Errorf("steps %s before its connections had time to end, want none", got)
	}
	v.seen.now = testNow.Add(v.drain)
	if got := fmt.Sprint(v.planInstances(v.judge())); got != "[delete instance web-lb-4: there is one too many]" {
		t.Errorf("steps %s after that, want the last one to go", got)
	}
}

func TestLoadBalancerIsActiveWhenAllThatShouldHaveItsAddress(t *testing.T) {
	v := spread()
	for _, m := range v.instances() {
		v.configs[m.ID] = weir.NodeConfig{Node: m.ID, Revision: 7}
	}
	if !v.whole(v.judge()) {
		t.Error("with three that have the address it is not whole, want that it is")
	}
	v.address.Shared = v.address.Shared[:1]
	if v.whole(v.judge()) {
		t.Error("with two of three that have the address it is whole, want that it is not")
	}
}

// A share that nobody was fit for is given as soon as somebody is, though nothing else happens.
func TestLoadBalancerIsLookedAtUntilAllSharesAreGiven(t *testing.T) {
	v := spread()
	if v.unsettled(v.judge()) {
		t.Error("with all shares given it is unsettled, want that it is not")
	}
	v.address.Sharing = v.address.Sharing[:1]
	if !v.unsettled(v.judge()) {
		t.Error("with a share to give it is settled, want that it is not")
	}
}

// One that has a share serves clients as it is: how often the address moved keeps it from nothing.
func TestOneThatHasAShareGetsTheAddressAtOnce(t *testing.T) {
	v := spread()
	for i := range v.lb.Status.Health {
		v.lb.Status.Health[i].Since = testNow.Add(-10 * time.Second)
	}
	for n := range 4 {
		v.lb.Status.Moves = append(v.lb.Status.Moves, testNow.Add(-time.Duration(n+1)*time.Minute))
	}
	v.says("100002", func(s *weir.NodeStatus) { s.HAProxy.Err = "HAProxy does not answer" })
	v.planAddress(v.judge())
	if v.address.Machine != "100003" {
		t.Errorf("the address is at %s, want 100003, which had a share of it", v.address.Machine)
	}
}
