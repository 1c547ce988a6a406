package weir

import (
	"slices"
	"testing"
	"time"
)

// healthy returns a region in which nothing needs a person.
func healthy(now time.Time) RegionStatus {
	return RegionStatus{Taken: now,
		LoadBalancers: []LoadBalancerOverview{{Name: "front", Phase: LoadBalancerActive, Instances: []InstanceOverview{
			{Machine: "1", Active: true, Wants: 7, Node: NodeStatus{Revision: 7, Seen: now, Servers: []ServerStatus{{ID: "2", State: ServerUp}, {ID: "3", State: ServerUp}}}}}}},
		Pools: []PoolOverview{{Name: "web", Count: 2}},
		Machines: []MachineOverview{{ID: "1", Name: "front-1", Phase: MachineActive, Boot: Boot{State: BootDone}},
			{ID: "2", Name: "web-1", Phase: MachineActive}, {ID: "3", Name: "web-2", Phase: MachineActive}},
	}
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
			lb.Instances = append(lb.Instances, InstanceOverview{Machine: "4", Wants: 7})
			s.Machines = append(s.Machines, MachineOverview{ID: "4", Name: "front-2", Phase: MachineActive, Boot: Boot{State: BootRunning}})
		}, nil},
		{"a load balancer that is going", func(_ *RegionStatus, lb *LoadBalancerOverview, in *InstanceOverview) {
			lb.Deleting, in.Node.Servers = true, nil
		}, nil},
		{"a load balancer that is new", func(_ *RegionStatus, lb *LoadBalancerOverview, _ *InstanceOverview) {
			lb.Phase, lb.Instances = LoadBalancerNew, nil
		}, nil},
		{"an instance that has booted and says nothing", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Node = NodeStatus{}
		}, []string{"Load balancer front has no servers: its clients get errors.", "Instance front-1 of load balancer front has not reported yet."}},
		{"an instance that has fallen silent", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Node.Seen = now.Add(-time.Minute)
		}, []string{"Instance front-1 of load balancer front has been silent for 1m0s."}},
		{"an instance that refuses its configuration", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			in.Wants, in.Node.Err = 8, "haproxy rejects configuration 8"
		}, []string{"Instance front-1 of load balancer front stays at revision 7 of 8: haproxy rejects configuration 8."}},
		{"a server that is down, in two backends", func(_ *RegionStatus, _ *LoadBalancerOverview, in *InstanceOverview) {
			down := ServerStatus{ID: "2", State: ServerDown, Why: "L4TOUT"}
			in.Node.Servers = []ServerStatus{down, down, {ID: "3", State: ServerUp}}
		}, []string{"Server web-1 of load balancer front is down: L4TOUT."}},
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
