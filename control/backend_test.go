package control

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// splitView returns a view of a load balancer with so many own targets and so many of each group, of which some share.
func splitView(own int, groups map[string]int, split weir.Split) *balancerView {
	v := &balancerView{lb: weir.LoadBalancer{Name: "web", Tag: "own", Policy: weir.Policy{Split: split}}}
	add := func(tag string, n int) {
		for range n {
			id := len(v.machines) + 1
			v.machines = append(v.machines, weir.Machine{ID: weir.ID(strconv.Itoa(id)), Name: fmt.Sprintf("%s-%d", tag, id), Template: weir.Template{Tags: []string{tag}},
				Status: weir.MachineStatus{Phase: weir.MachineActive, Private: netip.AddrFrom4([4]byte{10, 0, byte(id >> 8), byte(id)}), Boot: weir.Boot{State: weir.BootDone}}})
		}
	}
	add("own", own)
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		v.lb.Policy.Groups = append(v.lb.Policy.Groups, weir.TargetGroup{Name: name, Tag: name})
		add(name, groups[name])
	}
	return v
}

// shares returns the percentage of requests that each tag gets by weights.
func (v *balancerView) shares(weights map[weir.ID]int) map[string]float64 {
	sum, by := 0, map[string]int{}
	for _, m := range v.machines {
		sum += weights[m.ID]
		by[m.Tags[0]] += weights[m.ID]
	}
	shares := map[string]float64{}
	for tag, weight := range by {
		shares[tag] = 100 * float64(weight) / float64(max(sum, 1))
	}
	return shares
}

func TestEachPartOfASplitHasItsShareHoweverManyServersItHas(t *testing.T) {
	for _, n := range [][2]int{{1, 1}, {3, 1}, {19, 1}, {40, 3}, {1, 40}, {2, 300}, {300, 2}, {500, 500}} {
		for _, percent := range []int{1, 5, 30, 50, 95} {
			v := splitView(n[0], map[string]int{"green": n[1]}, weir.Split{"green": percent})
			got := v.shares(v.weights(weir.TargetGroup{Split: v.lb.Policy.Split}))["green"]
			// A weight is a whole number: that of who has little is off by half of it at most.
			if got < 0.8*float64(percent)-0.2 || got > 1.25*float64(percent)+0.2 {
				t.Errorf("%d own and %d green: green gets %.2f %%, want %d", n[0], n[1], got, percent)
			}
		}
	}
}

func TestASplitOf100LeavesTheOwnTargetsWithoutNewRequests(t *testing.T) {
	v := splitView(3, map[string]int{"green": 2}, weir.Split{"green": 100})
	weights := v.weights(weir.TargetGroup{Split: v.lb.Policy.Split})
	if got := v.shares(weights); got["green"] != 100 || got["own"] != 0 || len(weights) != 5 {
		t.Errorf("shares %v of %d servers, want all of it for green, of 5", got, len(weights))
	}
}

func TestASplitWithNobodyInItIsNoSplit(t *testing.T) {
	v := splitView(3, map[string]int{"green": 0}, weir.Split{"green": 100})
	if got := v.weights(weir.TargetGroup{Split: v.lb.Policy.Split}); len(got) != 3 || got["1"] != 1 {
		t.Errorf("weights %v, want 1 for each of the 3 own targets, since nobody else is there", got)
	}
}

func TestWhoHasNoShareServesIfNobodyIsThereWhoHasOne(t *testing.T) {
	for _, own := range []int{0, 2} {
		v := splitView(own, map[string]int{"amber": 1, "green": 0, "red": 1}, weir.Split{"green": 100, "amber": 0, "red": 0})
		want := map[string]float64{"own": 100, "amber": 0, "red": 0}
		if own == 0 {
			want = map[string]float64{"amber": 100, "red": 0}
		}
		if got := v.shares(v.weights(weir.TargetGroup{Split: v.lb.Policy.Split})); !maps.Equal(got, want) {
			t.Errorf("%d own: shares %v, want %v", own, got, want)
		}
	}
}

func TestADrainedTargetIsNoServerAndHasItsDeadline(t *testing.T) {
	v := splitView(3, nil, nil)
	v.lb.Rules = []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}}
	v.lb.Policy.Drained = map[weir.ID]time.Duration{"2": time.Minute}
	p := v.proxy(time.Second, netip.MustParseAddr("192.0.2.1"))
	if len(p.Backends) != 1 || len(p.Backends[0].Servers) != 2 || p.Serves("2") || p.Drains["2"] != time.Minute {
		t.Errorf("backends %+v, drains %v, want the servers 1 and 3, and a minute for 2", p.Backends, p.Drains)
	}
}

func TestAServerIsAskedAtThePortsOfItsGroupsAlone(t *testing.T) {
	lb := weir.LoadBalancer{Tag: "own", Health: weir.HealthCheck{Port: 80},
		Rules: []weir.Rule{{TargetPort: 8080}, {TargetPort: 8443}},
		Policy: weir.Policy{Split: weir.Split{"canary": 5}, Groups: []weir.TargetGroup{
			{Name: "canary", Tag: "canary"},
			{Name: "api", Tag: "api", Port: 9000, Health: &weir.HealthCheck{Port: 9001}, Split: weir.Split{"next": 10}},
			{Name: "next", Tag: "next", Port: 7000},
		}}}
	for tag, want := range map[string][]int{
		"own":    {8080, 8443, 80},
		"canary": {8080, 8443, 80},
		"api":    {9000, 9001},
		"next":   {9000, 9001, 7000, 80}, // in the place of api's, and as itself
		"other":  nil,
	} {
		if got := targetPorts(&lb, &weir.Machine{Template: weir.Template{Tags: []string{tag}}}); !slices.Equal(got, want) {
			t.Errorf("%s is asked at %v, want %v", tag, got, want)
		}
	}
}

func TestWhatCookiesAreMadeFromIsNotShown(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		lb := weir.LoadBalancer{Name: "web", Region: "lab", Size: weir.DefaultNodeSize, Algorithm: weir.RoundRobin, Sticky: weir.DefaultSticky(), Idle: weir.DefaultIdle,
			Health: weir.DefaultCheck(), Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}}}
		lb = must(c.CreateLoadBalancer(t.Context(), lb))(t)
		time.Sleep(time.Minute)
		text, _, err := c.Generate(t.Context(), lb.ID)
		if err != nil || !strings.Contains(text, "dynamic-cookie-key not-shown") || strings.Contains(text, cookieKey(&lb)) {
			t.Errorf("generated (%v), want the cookie's key not shown:\n%s", err, text)
		}
	})
}
