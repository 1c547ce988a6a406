package control

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

// judged returns a pair that is well: instance 2 is active, instance 3 stands by.
func judged() balancerView {
	v := balancerView{lb: balancer(), machines: []weir.Machine{server(1), instance(2), instance(3)},
		address: &weir.Address{Owner: "lb", Addr: netip.MustParseAddr("198.51.100.1"), Machine: "100002", Assigned: "100002"},
		configs: map[weir.ID]weir.NodeConfig{}, statuses: map[weir.ID]weir.NodeStatus{},
		seen: evidence{now: testNow, heard: map[weir.ID]weir.NodeStatus{}, asked: map[weir.ID]asked{}}}
	v.lb.Status.Active = "100002"
	for _, id := range []weir.ID{"100002", "100003"} {
		v.says(id, func(*weir.NodeStatus) {})
		v.lb.Status.Health = append(v.lb.Status.Health, weir.Health{Machine: id, State: weir.InstanceWell, Since: testNow.Add(-time.Hour)})
	}
	v.all = []weir.LoadBalancer{v.lb}
	return v
}

// other returns the other instance of the pair.
func other(id weir.ID) weir.ID {
	if id == "100002" {
		return "100003"
	}
	return "100002"
}

// says has an instance report what change makes of a report in which all is well.
func (v *balancerView) says(id weir.ID, change func(*weir.NodeStatus)) {
	s := weir.NodeStatus{Node: id, Revision: 7, Seen: testNow,
		Servers: []weir.ServerStatus{{ID: "100001", State: weir.ServerUp}},
		Peers: []weir.PeerStatus{{Node: other(id), Paths: []weir.PathStatus{
			{Addr: netip.MustParseAddr("10.110.0.9"), State: weir.PathUp}, {Addr: netip.MustParseAddr("203.0.113.9"), State: weir.PathUp}}}}}
	change(&s)
	v.statuses[id], v.seen.heard[id] = s, s
}

// loses has an instance no longer hear the other on those paths.
func (v *balancerView) loses(id weir.ID, paths ...int) {
	v.says(id, func(s *weir.NodeStatus) {
		for _, i := range paths {
			s.Peers[0].Paths[i].State = weir.PathSilent
		}
	})
}

// asks has the control plane have asked an instance, with that result since so long.
func (v *balancerView) asks(id weir.ID, f Finding, since time.Duration) {
	v.seen.asked[id] = asked{}.after(f, testNow.Add(-since))
}

func TestInstanceIsJudgedByWhatIsSeenOfIt(t *testing.T) {
	nothing, mute, headless := Finding{}, Finding{Alive: true, Agent: true}, Finding{Alive: true, Serves: true}
	all, outside := Finding{Alive: true, Agent: true, Serves: true}, Finding{Alive: true, Agent: true, Serves: true, Outside: true}
	const active = weir.ID("100002")
	for _, test := range []struct {
		name string
		see  func(v *balancerView)
		want weir.HealthState
		why  string
	}{
		{"one that all hear is well", func(*balancerView) {}, weir.InstanceWell, ""},
		{"its cloud has the first word", func(v *balancerView) { v.machines[1].Status.Phase = weir.MachineOff }, weir.InstanceGone, "its cloud says"},
		{"one that has not served yet boots", func(v *balancerView) { v.says(active, func(s *weir.NodeStatus) { s.Revision = 0 }) }, weir.InstanceBoots, ""},
		{"its peer alone is not believed", func(v *balancerView) { v.loses("100003", 0, 1) }, weir.InstanceWell, ""},
		{"nor is the control plane, at once", func(v *balancerView) { v.asks(active, nothing, 0) }, weir.InstanceWell, ""},
		{"both are", func(v *balancerView) { v.loses("100003", 0, 1); v.asks(active, nothing, 0) }, weir.InstanceSilent, "it is silent to web-lb-3"},
		{"also of the link of its clients alone", func(v *balancerView) { v.loses("100003", 1); v.asks(active, nothing, 0) }, weir.InstanceSilent, "where clients reach it"},
		{"and not of the private one", func(v *balancerView) { v.loses("100003", 0); v.asks(active, nothing, 0) }, weir.InstanceWell, ""},
		{"a report that is old tells nothing", func(v *balancerView) {
			v.says("100003", func(s *weir.NodeStatus) {
				s.Seen = testNow.Add(-time.Minute)
				s.Peers[0].Paths[0].State, s.Peers[0].Paths[1].State = weir.PathSilent, weir.PathSilent
			})
			v.asks(active, nothing, 0)
		}, weir.InstanceWell, ""},
		{"who is deaf for long is silent", func(v *balancerView) { v.asks(active, nothing, 2*time.Second) }, weir.InstanceSilent, "does not answer the control plane"},
		{"unless another one hears it, which answers", func(v *balancerView) {
			v.asks(active, nothing, time.Minute)
			v.asks("100003", all, 0)
		}, weir.InstanceWell, ""},
		{"a kernel that answers for two that do not may be busy", func(v *balancerView) {
			v.loses("100003", 0, 1)
			v.asks(active, Finding{Alive: true}, 300*time.Millisecond)
		}, weir.InstanceWell, ""},
		{"but after a second it is no sign of life", func(v *balancerView) {
			v.loses("100003", 0, 1)
			v.asks(active, Finding{Alive: true}, time.Second)
		}, weir.InstanceUnwell, "neither its agent nor its HAProxy"},
		{"its agent lives, and nobody reaches it where clients do", func(v *balancerView) {
			v.loses("100003", 1)
			v.asks(active, mute, 0)
		}, weir.InstanceUnwell, "where clients reach it, and its HAProxy does not answer there"},
		{"HAProxy may take a moment", func(v *balancerView) { v.asks(active, mute, 300*time.Millisecond) }, weir.InstanceWell, ""},
		{"but no longer", func(v *balancerView) { v.asks(active, mute, 400*time.Millisecond) }, weir.InstanceUnwell, "its HAProxy does not answer"},
		{"and longer on a machine that is too busy", func(v *balancerView) {
			v.says(active, func(s *weir.NodeStatus) { s.HAProxy.Starved = true })
			v.asks(active, mute, 4*time.Second)
		}, weir.InstanceWell, ""},
		{"but not for ever", func(v *balancerView) {
			v.says(active, func(s *weir.NodeStatus) { s.HAProxy.Starved = true })
			v.asks(active, mute, 5*time.Second)
		}, weir.InstanceUnwell, "its HAProxy does not answer"},
		{"and longer while its agent has told nothing", func(v *balancerView) {
			delete(v.seen.heard, active)
			v.asks(active, mute, 2*time.Second)
		}, weir.InstanceWell, ""},
		{"until it should have", func(v *balancerView) {
			delete(v.seen.heard, active)
			v.asks(active, mute, 3*time.Second)
		}, weir.InstanceUnwell, "its HAProxy does not answer"},
		{"one that has just told that it boots", func(v *balancerView) {
			v.asks(active, mute, 2*time.Second)
			v.seen.heard[active] = weir.NodeStatus{Node: active, Seen: testNow}
		}, weir.InstanceBoots, ""},
		{"an agent may be on its way back", func(v *balancerView) { v.asks(active, headless, 2*time.Second) }, weir.InstanceWell, ""},
		{"until it is not", func(v *balancerView) { v.asks(active, headless, 3*time.Second) }, weir.InstanceUnwell, "its agent does not answer"},
		{"it says itself that HAProxy hangs", func(v *balancerView) {
			v.says(active, func(s *weir.NodeStatus) { s.HAProxy.Err = "HAProxy does not answer" })
		}, weir.InstanceUnwell, "HAProxy does not answer"},
		{"and that its link is down", func(v *balancerView) { v.says(active, func(s *weir.NodeStatus) { s.Down = []string{"eth0"} }) }, weir.InstanceUnwell, "its link eth0 is down"},
		{"it reaches no server: its peer may be about to notice as well", func(v *balancerView) {
			v.says(active, func(s *weir.NodeStatus) { s.Servers[0].State = weir.ServerDown })
			v.seen.cut = map[weir.ID]time.Time{active: testNow.Add(-v.cutLong() + 1)}
		}, weir.InstanceWell, ""},
		{"it reaches no server, and its peer still does", func(v *balancerView) {
			v.says(active, func(s *weir.NodeStatus) { s.Servers[0].State = weir.ServerDown })
			v.seen.cut = map[weir.ID]time.Time{active: testNow.Add(-v.cutLong())}
		}, weir.InstanceUnwell, "it reaches none of its servers, and web-lb-3 reaches 1"},
		{"where nobody reaches any, it is not the instance", func(v *balancerView) {
			for _, id := range []weir.ID{active, "100003"} {
				v.says(id, func(s *weir.NodeStatus) { s.Servers[0].State = weir.ServerDown })
			}
		}, weir.InstanceWell, ""},
		{"while it checks them it may be that they are up", func(v *balancerView) {
			v.says(active, func(s *weir.NodeStatus) { s.Servers[0].State = weir.ServerChecking })
		}, weir.InstanceWell, ""},
		{"its peer and the control plane hear it on its clients' link alone", func(v *balancerView) {
			v.loses("100003", 0)
			v.asks(active, outside, 0)
		}, weir.InstanceUnwell, "cut off from the private network"},
		{"its peer may be the one that is cut off", func(v *balancerView) { v.loses("100003", 0); v.asks(active, all, 0) }, weir.InstanceWell, ""},
		{"and so may the control plane", func(v *balancerView) { v.asks(active, outside, 0) }, weir.InstanceWell, ""},
		{"it refuses what its peer runs", func(v *balancerView) {
			v.says(active, func(s *weir.NodeStatus) { s.Revision, s.Err = 6, "haproxy rejects configuration 7" })
		}, weir.InstanceUnwell, "haproxy rejects configuration 7"},
		{"an operator keeps it from serving", func(v *balancerView) { v.machines[1].Drained = true }, weir.InstanceDrained, "an operator"},
	} {
		v := judged()
		test.see(&v)
		if state, why := v.state(v.machine(active)); state != test.want || !strings.Contains(why, test.why) {
			t.Errorf("%s: %s, %q, want %s, %q", test.name, state, why, test.want, test.why)
		}
	}
}

func TestAddressMovesOnlyToWhoCanServe(t *testing.T) {
	die := func(v *balancerView) { v.machines[1].Status.Phase = weir.MachineOff }
	for _, test := range []struct {
		name string
		see  func(v *balancerView)
		to   weir.ID
		plan bool
	}{
		{"it stays with one that is well", func(*balancerView) {}, "", false},
		{"the standby takes over from one that is gone", die, "100003", false},
		{"not one that runs an older configuration", func(v *balancerView) {
			die(v)
			v.says("100003", func(s *weir.NodeStatus) { s.Revision = 6 })
		}, "", false},
		{"not one that does not serve when it is asked", func(v *balancerView) {
			die(v)
			v.asks("100003", Finding{Alive: true, Agent: true}, 100*time.Millisecond)
		}, "", false},
		{"not one of which is known only what is stored", func(v *balancerView) { die(v); delete(v.seen.heard, "100003") }, "", false},
		{"nor if its last report is old", func(v *balancerView) {
			die(v)
			v.says("100003", func(s *weir.NodeStatus) { s.Seen = testNow.Add(-time.Minute) })
		}, "", false},
		{"not one that is drained", func(v *balancerView) { die(v); v.machines[2].Drained = true }, "", false},
		{"it leaves one that is drained, who serves until then", func(v *balancerView) { v.machines[1].Drained = true }, "100003", true},
		{"it stays with one whose agent starts again", func(v *balancerView) {
			v.says("100002", func(s *weir.NodeStatus) { s.Revision = 0 })
			v.lb.Status.Health[0] = weir.Health{Machine: "100002", State: weir.InstanceBoots, Since: testNow.Add(-time.Second)}
		}, "", false},
		{"and leaves it when that does not come to serve", func(v *balancerView) {
			v.says("100002", func(s *weir.NodeStatus) { s.Revision = 0 })
			v.lb.Status.Health[0] = weir.Health{Machine: "100002", State: weir.InstanceBoots, Since: testNow.Add(-agentGrace)}
		}, "100003", false},
		{"it leaves one that does not reach its servers", func(v *balancerView) {
			v.loses("100003", 0)
			v.asks("100002", Finding{Alive: true, Agent: true, Serves: true, Outside: true}, 0)
		}, "100003", false},
		{"it leaves one whose agent is dead", func(v *balancerView) { v.asks("100002", Finding{Alive: true, Serves: true}, time.Minute) }, "100003", true},
		{"a user may ask for it", func(v *balancerView) { v.lb.Wanted = "100003" }, "100003", true},
		{"but not a minute ago", func(v *balancerView) { v.lb.Wanted, v.lb.WantedAt = "100003", testNow.Add(-time.Minute) }, "", false},
		{"but not for one that is not well", func(v *balancerView) { v.lb.Wanted = "100003"; v.machines[2].Status.Phase = weir.MachineOff }, "", false},
		{"after it moved often, the next one must have been well for some time", func(v *balancerView) {
			die(v)
			v.lb.Status.Moves = []time.Time{testNow.Add(-time.Second), testNow}
			v.lb.Status.Health[1].Since = testNow.Add(-3 * time.Second)
		}, "", false},
		{"and then gets it", func(v *balancerView) {
			die(v)
			v.lb.Status.Moves = []time.Time{testNow.Add(-time.Second), testNow}
			v.lb.Status.Health[1].Since = testNow.Add(-4 * time.Second)
		}, "100003", false},
		{"clients are kept waiting for no longer than that", func(v *balancerView) {
			die(v)
			for range 9 {
				v.lb.Status.Moves = append(v.lb.Status.Moves, testNow)
			}
			v.lb.Status.Health[0] = weir.Health{Machine: "100002", State: weir.InstanceGone, Since: testNow.Add(-holdAtMost)}
			v.lb.Status.Health[1].Since = testNow.Add(-time.Second)
		}, "100003", false},
		{"an address that nobody has goes to the one that has been well for longest", func(v *balancerView) {
			v.address.Machine = ""
			v.lb.Status.Health[0].Since = testNow
		}, "100003", false},
		{"on a segment, one that the holder was told of", func(v *balancerView) {
			v.lb.Mode = weir.OnSegment
			v.loses("100003", 0, 1)
			v.asks("100002", Finding{}, time.Second)
			v.machines[2].Joined = 7
		}, "100003", false},
		{"and no other", func(v *balancerView) {
			v.lb.Mode = weir.OnSegment
			v.loses("100003", 0, 1)
			v.asks("100002", Finding{}, time.Second)
			v.machines[2].Joined = 8
		}, "", false},
	} {
		v := judged()
		test.see(&v)
		m, _ := v.planMove(v.judge())
		switch {
		case m == nil && test.to != "":
			t.Errorf("%s: it stays, want it to go to %s", test.name, test.to)
		case m != nil && (m.to.ID != test.to || m.planned != test.plan):
			t.Errorf("%s: it goes to %s (planned: %v, %s), want %q (%v)", test.name, m.to.ID, m.planned, m.why, test.to, test.plan)
		}
	}
	v := judged()
	v.lb.Wanted, v.lb.WantedAt = "100003", testNow.Add(-wantedLasts)
	if _, givenUp := v.planMove(v.judge()); !strings.Contains(givenUp, "within a minute") {
		t.Errorf("a wish of a minute ago is given up because %q, want the reason to name the minute", givenUp)
	}
}

func TestOnlyWhatCannotServeIsReplaced(t *testing.T) {
	for _, test := range []struct {
		name string
		see  func(v *balancerView)
		want []weir.ID
	}{
		{"nobody while all are well", func(*balancerView) {}, nil},
		{"a standby that is gone", func(v *balancerView) { v.machines[2].Status.Phase = weir.MachineOff }, []weir.ID{"100003"}},
		{"a standby that is silent for a while", func(v *balancerView) {
			v.loses("100002", 0, 1)
			v.asks("100003", Finding{}, time.Second)
			v.lb.Status.Health[1] = weir.Health{Machine: "100003", State: weir.InstanceSilent, Since: testNow.Add(-fenceSilent)}
		}, []weir.ID{"100003"}},
		{"not by a leader that has not seen yet whether the active one serves", func(v *balancerView) {
			v.seen.asks = true
			v.loses("100002", 0, 1)
			v.asks("100003", Finding{}, time.Second)
			v.lb.Status.Health[1] = weir.Health{Machine: "100003", State: weir.InstanceSilent, Since: testNow.Add(-fenceSilent)}
		}, nil},
		{"by one to which the load balancer's address answered", func(v *balancerView) {
			v.seen.asks, v.seen.service = true, asked{Finding: Finding{Alive: true, Serves: true}}
			v.loses("100002", 0, 1)
			v.asks("100003", Finding{}, time.Second)
			v.lb.Status.Health[1] = weir.Health{Machine: "100003", State: weir.InstanceSilent, Since: testNow.Add(-fenceSilent)}
		}, []weir.ID{"100003"}},
		{"one that has not come up for long", func(v *balancerView) {
			v.says("100003", func(s *weir.NodeStatus) { s.Revision = 0 })
			v.lb.Status.Health[1] = weir.Health{Machine: "100003", State: weir.InstanceBoots, Since: testNow.Add(-fenceBoots)}
		}, []weir.ID{"100003"}},
		{"not one of which a leader knows no more than another left behind", func(v *balancerView) {
			v.seen.asks, v.seen.service = true, asked{Finding: Finding{Alive: true, Serves: true}}
			v.says("100003", func(s *weir.NodeStatus) { s.HAProxy.Err = "HAProxy does not answer" })
			delete(v.seen.heard, "100003")
			v.lb.Status.Health[1] = weir.Health{Machine: "100003", State: weir.InstanceUnwell, Since: testNow.Add(-time.Minute)}
		}, nil},
		{"not while the address has not got to the active one", func(v *balancerView) {
			v.address.Assigned = "100003"
			v.loses("100002", 0, 1)
			v.asks("100003", Finding{}, time.Second)
			v.lb.Status.Health[1] = weir.Health{Machine: "100003", State: weir.InstanceSilent, Since: testNow.Add(-fenceSilent)}
		}, nil},
		{"not yet one that has just fallen silent", func(v *balancerView) {
			v.loses("100002", 0, 1)
			v.asks("100003", Finding{}, 0)
		}, nil},
		{"nobody, where the active one is no better", func(v *balancerView) {
			for i, id := range []weir.ID{"100002", "100003"} {
				v.asks(id, Finding{}, time.Minute)
				v.lb.Status.Health[i] = weir.Health{Machine: id, State: weir.InstanceSilent, Since: testNow.Add(-time.Minute)}
			}
		}, nil},
		{"never the one that has the address, until it has moved", func(v *balancerView) {
			v.asks("100002", Finding{}, time.Minute)
			v.lb.Status.Health[0] = weir.Health{Machine: "100002", State: weir.InstanceSilent, Since: testNow.Add(-time.Minute)}
		}, nil},
		{"no machine of one's own", func(v *balancerView) {
			v.machines[2].Own = true
			v.machines[2].Status.Phase = weir.MachineOff
		}, nil},
	} {
		v := judged()
		test.see(&v)
		var got []weir.ID
		for _, h := range v.planFences(v.judge()) {
			got = append(got, h.Machine)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v go, want %v", test.name, got, test.want)
		}
	}
}

func TestAddressWaitsLongerTheMoreOftenItMoved(t *testing.T) {
	last := time.Duration(-1)
	for moves := range 100 {
		d := holdDown(moves)
		if d < last || d > 5*time.Minute {
			t.Errorf("after %d moves it waits %v, and %v after one less, want no less and 5m at the most", moves, d, last)
		}
		last = d
	}
	if holdDown(0) != 0 || holdDown(1) != 2*time.Second {
		t.Errorf("it waits %v at first and %v after one move, want 0s and 2s", holdDown(0), holdDown(1))
	}
	v := judged()
	v.lb.Status.Moves = []time.Time{testNow.Add(-movesCount), testNow.Add(-movesCount + 1), testNow}
	if n := v.flaps(); n != 2 {
		t.Errorf("%d moves count, want the 2 of the last %v", n, movesCount)
	}
}

func TestAnotherInstanceIsMadeWhenAllAreSilent(t *testing.T) {
	v := judged()
	for i, id := range []weir.ID{"100002", "100003"} {
		v.asks(id, Finding{}, time.Minute)
		v.lb.Status.Health[i] = weir.Health{Machine: id, State: weir.InstanceSilent, Since: testNow.Add(-surgeAfter)}
	}
	if got := fmt.Sprint(v.planInstances(v.judge())); got != "[create an instance]" {
		t.Errorf("steps %s, want one more instance and none ended", got)
	}
	v.lb.Status.Health[1].Since = testNow
	if got := v.planInstances(v.judge()); len(got) > 0 {
		t.Errorf("steps %v, want none before all have been silent for %v", got, surgeAfter)
	}
}

func TestOneTooManyGoesOnceTheAddressIsServed(t *testing.T) {
	third := func() balancerView {
		v := judged()
		v.machines = append(v.machines, instance(4))
		v.says("100004", func(s *weir.NodeStatus) { s.Peers = nil })
		v.lb.Status.Health = append(v.lb.Status.Health, weir.Health{Machine: "100004", State: weir.InstanceWell, Since: testNow.Add(-time.Minute)})
		return v
	}
	for _, test := range []struct {
		name string
		see  func(v *balancerView)
		want string
	}{
		{"the youngest, where all are well", func(*balancerView) {}, "[delete instance web-lb-4: there is one too many]"},
		{"the one that is not well", func(v *balancerView) { v.says("100003", func(s *weir.NodeStatus) { s.HAProxy.Err = "it hangs" }) },
			"[delete instance web-lb-3: there is one too many]"},
		{"the one that boots", func(v *balancerView) { v.says("100003", func(s *weir.NodeStatus) { s.Revision = 0 }) },
			"[delete instance web-lb-3: there is one too many]"},
		{"never the active one", func(v *balancerView) { v.address.Machine, v.address.Assigned = "100004", "100004" },
			"[delete instance web-lb-3: there is one too many]"},
		{"nor the one that a user wants to become it", func(v *balancerView) { v.lb.Wanted = "100004" },
			"[delete instance web-lb-3: there is one too many]"},
		{"nobody while the active one is not well", func(v *balancerView) { v.says("100002", func(s *weir.NodeStatus) { s.HAProxy.Err = "it hangs" }) }, "[]"},
		{"nobody while the address is on its way", func(v *balancerView) { v.address.Assigned = "100003" }, "[]"},
		{"nobody before the active one was seen to serve", func(v *balancerView) { v.seen.asks = true }, "[]"},
	} {
		v := third()
		test.see(&v)
		if got := fmt.Sprint(v.planInstances(v.judge())); got != test.want {
			t.Errorf("%s: steps %s, want %s", test.name, got, test.want)
		}
	}
}

func TestMachinesOfOnesOwnAreClaimedAsTheyJoin(t *testing.T) {
	v := judged()
	v.lb.Mode = weir.OnSegment
	v.machines[2].LoadBalancer = ""
	for i := range v.machines[1:] {
		v.machines[i+1].Own = true
	}
	if got := fmt.Sprint(v.planInstances(v.judge())); got != "[make web-lb-3 an instance]" {
		t.Errorf("steps %s, want the one that is free to become an instance", got)
	}
}

// Whatever is seen, the address goes to nobody who is not well or runs an older configuration,
// and the active instance is not ended before it has gone.
func TestNoEvidenceMakesAMoveThatCannotBe(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		v := judged()
		for i := range v.machines[1:] {
			m := &v.machines[i+1]
			if r.IntN(5) == 0 {
				m.Status.Phase = weir.MachineOff
			}
			m.Drained = r.IntN(8) == 0
			if r.IntN(2) == 0 {
				v.asks(m.ID, Finding{Alive: r.IntN(2) == 0, Agent: r.IntN(2) == 0, Serves: r.IntN(2) == 0, Outside: r.IntN(4) == 0}, time.Duration(r.IntN(5000))*time.Millisecond)
			}
			v.says(m.ID, func(s *weir.NodeStatus) {
				s.Revision = int64(r.IntN(3)) + 5
				for i := range s.Peers[0].Paths {
					s.Peers[0].Paths[i].State = []weir.PathState{weir.PathUp, weir.PathLate, weir.PathSilent, weir.PathRefused}[r.IntN(4)]
				}
			})
			v.lb.Status.Health[i].Since = testNow.Add(-time.Duration(r.IntN(60)) * time.Second)
			if r.IntN(6) == 0 {
				v.lb.Wanted = m.ID
			}
			if r.IntN(6) == 0 {
				delete(v.seen.heard, m.ID)
			}
		}
		v.seen.asks = r.IntN(4) > 0
		v.seen.service.Serves = r.IntN(2) == 0
		health := v.judge()
		if m, _ := v.planMove(health); m != nil {
			h := health[slices.IndexFunc(health, func(h weir.Health) bool { return h.Machine == m.to.ID })]
			if h.State != weir.InstanceWell || v.statuses[m.to.ID].Revision < v.newest() || m.to.ID == v.address.Machine {
				t.Fatalf("the address goes to %s, which is %s at revision %d of %d", m.to.ID, h.State, v.statuses[m.to.ID].Revision, v.newest())
			}
		}
		for _, h := range v.planFences(health) {
			if h.Machine == v.address.Machine && h.State != weir.InstanceGone {
				t.Fatalf("the active instance is ended, which is %s", h.State)
			}
			a, wasAsked := v.seen.asked[v.address.Machine]
			if h.State != weir.InstanceGone && v.seen.asks && !a.Serves && (wasAsked || !v.seen.service.Serves) {
				t.Fatalf("%s is ended, which is %s, and nobody has seen the active one serve", h.Machine, h.State)
			}
		}
	}
}

func TestHandOverIsRefusedWithWhy(t *testing.T) {
	v := judged()
	v.configs["100003"] = weir.NodeConfig{Node: "100003", Revision: 7}
	if m, err := v.target(""); err != nil || m.ID != "100003" {
		t.Errorf("target %s, %v, want the standby", m.ID, err)
	}
	for _, test := range []struct {
		name string
		to   weir.ID
		see  func(v *balancerView)
		want string
	}{
		{"the active one", "100002", func(*balancerView) {}, "is its active instance already"},
		{"none of its instances", "100001", func(*balancerView) {}, "has no instance 100001"},
		{"one that is silent", "", func(v *balancerView) {
			v.lb.Status.Health[1] = weir.Health{Machine: "100003", State: weir.InstanceSilent, Why: "nobody hears it"}
		}, "web-lb-3 is silent: nobody hears it"},
	} {
		v := judged()
		for _, id := range []weir.ID{"100002", "100003"} {
			v.configs[id] = weir.NodeConfig{Node: id, Revision: 7}
		}
		test.see(&v)
		if _, err := v.target(test.to); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
	}
}
