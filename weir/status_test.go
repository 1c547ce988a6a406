package weir

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// healthy returns a region in which nothing needs a person.
func healthy(now time.Time) RegionStatus {
	instance := func(id ID) InstanceOverview {
		return InstanceOverview{Machine: id, Wants: 7, Health: Health{Machine: id, State: InstanceWell, Since: now.Add(-time.Hour)},
			Node: NodeStatus{Revision: 7, Seen: now, Servers: []ServerStatus{{ID: "2", State: ServerUp}, {ID: "3", State: ServerUp}}}}
	}
	s := RegionStatus{Taken: now, Quorum: true, Members: []MemberOverview{{Name: "cp-1", Up: true}, {Name: "cp-2", Up: true, Leads: true}, {Name: "cp-3", Up: true}},
		LoadBalancers: []LoadBalancerOverview{{Name: "front", Phase: LoadBalancerActive, Since: now.Add(-time.Hour), Instances: []InstanceOverview{instance("1"), instance("7")}}},
		Pools:         []PoolOverview{{Name: "web", Count: 2}},
		Machines: []MachineOverview{{ID: "1", Name: "front-1", Phase: MachineActive, Boot: Boot{State: BootDone}},
			{ID: "2", Name: "web-1", Phase: MachineActive}, {ID: "3", Name: "web-2", Phase: MachineActive},
			{ID: "7", Name: "front-2", Phase: MachineActive, Boot: Boot{State: BootDone}}},
	}
	s.LoadBalancers[0].Instances[0].Active = true
	return s
}

func TestProblemsAreWhatNeedsAPerson(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		set  func(s *RegionStatus, lb *LoadBalancerOverview, in *InstanceOverview)
		want []string
	}{
		{"all is well", func(*RegionStatus, *LoadBalancerOverview, *InstanceOverview) {}, nil},
		{"a configuration on its way", func(_ *RegionStatus, lb *LoadBalancerOverview, in *InstanceOverview) {
			in.Wants, lb.Plan = 8, []string{"configure front-1"}
		}, nil},
		{"a server that waits for its first check, or leaves", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Node.Servers = append(in.Node.Servers, ServerStatus{ID: "4", State: ServerChecking}, ServerStatus{ID: "5", State: ServerDraining})
		}, nil},
		{"a machine that boots, and one that is off", func(s *RegionStatus, _ *LoadBalancerOverview, _ *InstanceOverview) {
			s.Machines = append(s.Machines, MachineOverview{ID: "4", Name: "web-3", Phase: MachineNew}, MachineOverview{ID: "5", Name: "web-4", Phase: MachineOff})
		}, nil},
		{"an instance that boots", func(s *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Instances = append(lb.Instances, InstanceOverview{Machine: "4", Wants: 7, Health: Health{State: InstanceBoots}})
			s.Machines = append(s.Machines, MachineOverview{ID: "4", Name: "front-3", Phase: MachineActive, Boot: Boot{State: BootRunning}})
		}, nil},
		{"a load balancer that is going", func(_ *RegionStatus, lb *LoadBalancerOverview, in *InstanceOverview) {
			lb.Deleting, in.Node.Servers = true, nil
		}, nil},
		{"a load balancer that is new", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Phase, lb.Instances, lb.Since = LoadBalancerNew, nil, time.Time{}
		}, nil},
		{"an instance that has booted and says nothing", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Node, in.Health.State = NodeStatus{}, InstanceBoots
		}, []string{"Load balancer front has no servers: its clients get errors.", "Active instance front-1 of load balancer front has not reported yet."}},
		{"an instance that has fallen silent", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Node.Seen = now.Add(-time.Minute)
		}, []string{"Active instance front-1 of load balancer front has been silent for 1m0s."}},
		{"an instance that refuses its configuration", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Wants, in.Node.Err = 8, "haproxy rejects configuration 8"
		}, []string{"Active instance front-1 of load balancer front stays at revision 7 of 8: haproxy rejects configuration 8."}},
		{"a server that is down, in two backends", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			down := ServerStatus{ID: "2", State: ServerDown, Why: "L4TOUT"}
			in.Node.Servers = []ServerStatus{down, down, {ID: "3", State: ServerUp}}
		}, []string{"Server web-1 of load balancer front is down: L4TOUT."}},
		{"a server that only the standby finds down", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Instances[1].Node.Servers = []ServerStatus{{ID: "2", State: ServerDown, Why: "L4TOUT"}, {ID: "3", State: ServerUp}}
		}, []string{"Server web-1 of load balancer front is down for front-2: L4TOUT."}},
		{"all servers down for clients, and up for the standby", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Node.Servers = []ServerStatus{{ID: "2", State: ServerDown}}
		}, []string{"Load balancer front has no server that is up: its clients get errors.", "Server web-1 of load balancer front is down."}},
		{"a standby that is cut off from all servers: one cause, one sentence", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			standby := &lb.Instances[1]
			standby.Health.State, standby.Health.Why = InstanceUnwell, "it reaches none of its servers, and front-1 reaches 2"
			standby.Node.Servers = []ServerStatus{{ID: "2", State: ServerDown}, {ID: "3", State: ServerDown}}
		}, []string{"Load balancer front has no standby that could take over: front-2 is unwell: it reaches none of its servers, and front-1 reaches 2."}},
		{"a standby that is silent", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			standby := &lb.Instances[1]
			standby.Health.State, standby.Health.Why, standby.Node.Seen = InstanceSilent, "it is silent to front-1", now.Add(-time.Hour)
		}, []string{"Load balancer front has no standby that could take over: front-2 is silent: it is silent to front-1."}},
		{"a standby that is silent, and another that is well", func(s *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Instances = append(lb.Instances, lb.Instances[1])
			lb.Instances[2].Machine = "10"
			lb.Instances[1].Health.State = InstanceSilent
		}, []string{"Instance front-2 of load balancer front is silent."}},
		{"a standby that an operator has drained", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Instances[1].Health.State = InstanceDrained
		}, []string{"Load balancer front has no standby that could take over: front-2 is drained."}},
		{"a standby that refuses its configuration", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Instances[1].Wants, lb.Instances[1].Node.Err = 8, "haproxy rejects configuration 8"
			lb.Instances[1].Health.State, lb.Instances[1].Health.Why = InstanceUnwell, "haproxy rejects configuration 8"
			lb.Err = "instance front-2: haproxy rejects configuration 8"
		}, []string{"Load balancer front has no standby that could take over: front-2 stays at revision 7 of 8: haproxy rejects configuration 8."}},
		{"no other instance", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Instances = lb.Instances[:1]
		}, []string{"Load balancer front has no standby that could take over: it has no other instance."}},
		{"a first pair whose standby boots", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Since, lb.Instances[1].Health.State = now.Add(-time.Second), InstanceBoots
		}, nil},
		{"a replacement that boots after a failover", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Since, lb.Failover, lb.Instances[1].Health.State = now.Add(-time.Second), &Failover{}, InstanceBoots
		}, []string{"Load balancer front has no standby that could take over: front-2 boots."}},
		{"an instance that is being deleted, whatever it is like", func(s *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Instances = append(lb.Instances, InstanceOverview{Machine: "4", Health: Health{State: InstanceGone}})
			s.Machines = append(s.Machines, MachineOverview{ID: "4", Name: "front-3", Deleting: true})
		}, nil},
		{"an active instance that is not well", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Health.State, in.Health.Why, in.Node.HAProxy.Err = InstanceUnwell, "its HAProxy does not answer", "it does not answer"
		}, []string{"Active instance front-1 of load balancer front is unwell: its HAProxy does not answer."}},
		{"an address that somebody else claims", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Node.Held = &HeldStatus{Addr: netip.MustParsePrefix("192.0.2.10/24"), Duplicate: "02:00:00:00:00:07"}
		}, []string{"Address 192.0.2.10 of load balancer front is claimed by somebody else too, 02:00:00:00:00:07, as front-1 sees."}},
		{"a member that is down", func(s *RegionStatus, _ *LoadBalancerOverview, _ *InstanceOverview) {
			s.Members[0].Up = false
		}, []string{"Member cp-1 of the control plane does not answer."}},
		{"no quorum", func(s *RegionStatus, _ *LoadBalancerOverview, _ *InstanceOverview) {
			s.Members[0].Up, s.Members[2].Up, s.Quorum = false, false, false
		}, []string{"The control plane has no quorum: of 3 members, cp-1 and cp-3 do not answer. Traffic goes on, and nothing is decided."}},
		{"members that are not known", func(s *RegionStatus, _ *LoadBalancerOverview, _ *InstanceOverview) {
			s.Members, s.Quorum = nil, false
		}, nil},
		{"all servers down", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Node.Servers = []ServerStatus{{ID: "2", State: ServerDown}, {ID: "9", State: ServerDown}}
		}, []string{"Load balancer front has no server that is up: its clients get errors.",
			"Server web-1 of load balancer front is down.", "Server 9 of load balancer front is down."}},
		{"what is stuck", func(s *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Phase, lb.Err, s.Pools[0].Err = LoadBalancerErrored, "no address left", "no memory left"
			s.Machines[1].Err, s.Machines[2].Err, s.Machines[2].Deleting = "the disk is full", "the cloud is away", true
		}, []string{"Load balancer front: no address left.", "Pool web: no memory left.", "Machine web-1: the disk is full.", "Machine web-2 cannot be deleted yet: the cloud is away."}},
		{"a first boot that failed", func(s *RegionStatus, _ *LoadBalancerOverview, _ *InstanceOverview) {
			s.Machines[1].Boot = Boot{State: BootFailed, Why: "user-data exited with 3", Log: "/data/2.log"}
		}, []string{"Machine web-1 gets no traffic, for its first boot failed: user-data exited with 3; its log is /data/2.log."}},
	} {
		s := healthy(now)
		c.set(&s, &s.LoadBalancers[0], &s.LoadBalancers[0].Instances[0])
		if got := s.FindProblems(); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

func TestAMachineCountsOnce(t *testing.T) {
	failed := Boot{State: BootFailed}
	s := RegionStatus{Machines: []MachineOverview{{Phase: MachineActive}, {Phase: MachineActive, Deleting: true}, {Phase: MachineOff}, {Phase: MachineNew}, {},
		{Phase: MachineActive, Boot: failed}, {Phase: MachineOff, Boot: failed}, {Phase: MachineActive, Boot: failed, Deleting: true}}}
	s.CountMachines()
	if want := (MachineCounts{New: 2, Active: 1, Failed: 2, Off: 1, Deleting: 2}); s.Counts != want {
		t.Errorf("counts %+v, want %+v", s.Counts, want)
	}
}
