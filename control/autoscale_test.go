package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// inLab has f use a control plane that runs over a cloud like o, in a bubble of time.
func inLab(t *testing.T, o cloud.FakeOptions, f func(t *testing.T, c *Control)) { inLabs(t, o, nil, f) }

// inLabs is inLab with further regions.
func inLabs(t *testing.T, o cloud.FakeOptions, further map[string]cloud.Region, f func(t *testing.T, c *Control)) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Region: "lab", Store: store.Memory(), Cloud: cloud.NewFake(o), Further: further, Drain: time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { c.Run(ctx) })
		defer func() {
			cancel()
			wg.Wait()
			c.Store.Close()
		}()
		f(t, c)
	})
}

// webPool is an autoscale pool of a fixed size.
func webPool(count int) weir.Pool {
	return weir.Pool{Name: "web", Prefix: "web", Count: count, Autoscale: &weir.Autoscale{Written: weir.Written{Image: "debian-12-x64"}},
		Template: weir.Template{Region: "lab", Size: "s-1vcpu-1gb", Image: "debian-12-x64", Tags: []string{"web"}}}
}

// scaled is the same with another size by its load.
func scaled(low, high int) weir.Pool {
	p := webPool(0)
	p.Scale = &weir.Scale{Min: low, Max: high, CPU: 0.6}
	return p
}

// must fails the test for an error.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// namesOf returns the names of a pool's members that are to stay.
func namesOf(t *testing.T, c *Control, pool weir.ID) (names []string) {
	t.Helper()
	for _, m := range must(c.PoolMembers(t.Context(), pool))(t) {
		if m.Deleting.IsZero() {
			names = append(names, m.Name)
		}
	}
	return names
}

// told returns a pool's history, a sentence each, the newest first.
func told(t *testing.T, c *Control, pool weir.ID) (said []string) {
	t.Helper()
	for _, s := range must(c.PoolHistory(t.Context(), pool))(t) {
		line := fmt.Sprintf("%s %d of %d %s", s.Reason, s.Have, s.Want, s.State())
		if s.Err != "" {
			line += ": " + s.Err
		}
		said = append(said, line)
	}
	return said
}

func alike(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n\t%s\nwant:\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestAutoscalePoolMakesAnotherMachineForEachThatGoes(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, webPool(3)))(t)
		alike(t, "at once", namesOf(t, c, p.ID), "web-1", "web-2", "web-3")
		time.Sleep(time.Minute)
		all := must(c.PoolMembers(ctx, p.ID))(t)
		if err := c.DeleteMachine(ctx, all[1].ID); err != nil {
			t.Fatal(err)
		}
		c.Cloud.(*cloud.Fake).Kill(all[0].ID)
		time.Sleep(time.Minute)
		alike(t, "after web-2 was deleted and web-1 died", namesOf(t, c, p.ID), "web-1", "web-3", "web-4")
		for _, m := range must(c.PoolMembers(ctx, p.ID))(t) {
			if !m.Serves() || !m.HasTag("web") {
				t.Errorf("%s serves: %v, has the tags %v, want it to serve, with web", m.Name, m.Serves(), m.Tags)
			}
		}
		if p := must(c.AutoscalePool(ctx, p.ID))(t); p.Count != 3 || p.Status.Active != 3 {
			t.Errorf("it is to have %d and has %d, want 3", p.Count, p.Status.Active)
		}
		alike(t, "history", told(t, c, p.ID), "SCALE_UP 3 of 3 success", "CONFIGURATION_CHANGE 3 of 3 success")
	})
}

// slow boots take half a minute; user-data that says so fails.
func slow(s cloud.Spec) (time.Duration, weir.Boot) {
	if strings.Contains(s.UserData, "exit 3") {
		return 30 * time.Second, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3"}
	}
	return 30 * time.Second, weir.Boot{State: weir.BootDone}
}

// fleet is what a pool has at one moment.
func fleet(t *testing.T, c *Control, pool weir.ID, size string) (all, serving, ofSize int) {
	t.Helper()
	for _, m := range must(c.PoolMembers(t.Context(), pool))(t) {
		if m.Deleting.IsZero() {
			all++
		}
		if m.Serves() {
			serving++
		}
		if m.Size == size {
			ofSize++
		}
	}
	return all, serving, ofSize
}

func TestNewTemplateReplacesMachinesAndNeverServesByFewer(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(4)))(t)
		time.Sleep(time.Minute)
		larger := webPool(4)
		larger.Template.Size = "s-2vcpu-4gb"
		p = must(c.UpdateAutoscalePool(t.Context(), p.ID, larger))(t)
		alike(t, "when it was asked for", told(t, c, p.ID), "CONFIGURATION_CHANGE 4 of 4 in_progress", "CONFIGURATION_CHANGE 4 of 4 success")
		for range 300 {
			time.Sleep(time.Second)
			if all, serving, _ := fleet(t, c, p.ID, ""); all > 5 || serving < 4 {
				t.Fatalf("%d machines, %d of them serve, want at most 5, and 4 that do", all, serving)
			}
		}
		if all, _, larger := fleet(t, c, p.ID, "s-2vcpu-4gb"); all != 4 || larger != 4 {
			t.Errorf("in the end %d of %d machines are of the new size, want 4 of 4", larger, all)
		}
		alike(t, "in the end", told(t, c, p.ID), "CONFIGURATION_CHANGE 4 of 4 success", "CONFIGURATION_CHANGE 4 of 4 success")
		if p := must(c.AutoscalePool(t.Context(), p.ID))(t); len(p.Status.Plan) > 0 {
			t.Errorf("it still plans %q", p.Status.Plan)
		}
	})
}

func TestNewTemplateThatFailsIsRolledBack(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(3)))(t)
		time.Sleep(time.Minute)
		broken := webPool(3)
		broken.Template.UserData = "#!/bin/sh\nexit 3\n"
		p = must(c.UpdateAutoscalePool(t.Context(), p.ID, broken))(t)
		time.Sleep(45 * time.Second)
		is := must(c.AutoscalePool(t.Context(), p.ID))(t)
		if want := "replacing its machines is paused: web-4: user-data exited with 3"; is.Status.Stuck != want {
			t.Errorf("after the first has failed it says %q, want %q", is.Status.Stuck, want)
		}
		alike(t, "it tries one more", namesOf(t, c, p.ID), "web-1", "web-2", "web-3", "web-5")
		time.Sleep(time.Hour)
		alike(t, "after an hour", namesOf(t, c, p.ID), "web-1", "web-2", "web-3")
		is = must(c.AutoscalePool(t.Context(), p.ID))(t)
		if is.Template.UserData != "" || is.Former != nil || is.Status.Stuck != "" || !is.Autoscale.Updated.After(p.Autoscale.Updated) {
			t.Errorf("it is %+v, want its former template and nothing more to do", is)
		}
		why := "web-5: user-data exited with 3, after web-4: user-data exited with 3"
		alike(t, "history", told(t, c, p.ID), "CONFIGURATION_CHANGE 3 of 3 success", "CONFIGURATION_CHANGE 4 of 3 error: went back to the former template: "+why, "CONFIGURATION_CHANGE 3 of 3 success")
		alike(t, "events", happened(t, c, "web"), "pauses replacing its machines, and tries one more: web-4: user-data exited with 3", "goes back to its former template: "+why)

		mended := webPool(3)
		mended.Template.UserData = "#!/bin/sh\n"
		p = must(c.UpdateAutoscalePool(t.Context(), p.ID, mended))(t)
		time.Sleep(time.Hour)
		alike(t, "once it is mended", namesOf(t, c, p.ID), "web-6", "web-7", "web-8")
	})
}

func TestAutoscalePoolStaysWithinItsBounds(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, scaled(2, 5)))(t)
		size := func(of weir.Pool, want int) {
			t.Helper()
			must(c.UpdateAutoscalePool(ctx, p.ID, of))(t)
			time.Sleep(time.Minute)
			if all, serving, _ := fleet(t, c, p.ID, ""); all != want || serving != want {
				t.Errorf("%+v: %d machines of which %d serve, want %d", of.Scale, all, serving, want)
			}
		}
		size(scaled(2, 5), 2)
		size(scaled(4, 6), 4)
		size(scaled(1, 6), 4)
		must(c.Grow(ctx, "web", 2))(t)
		if _, err := c.Grow(ctx, "web", 1); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "max_instances is 6") {
			t.Errorf("grown beyond its bounds: %v, want that max_instances is 6", err)
		}
		size(scaled(1, 6), 6)
		size(scaled(1, 3), 3)
		size(webPool(1), 1)
		alike(t, "history", told(t, c, p.ID), "CONFIGURATION_CHANGE 1 of 1 success", "CONFIGURATION_CHANGE 3 of 3 success", "SCALE_UP 6 of 6 success",
			"CONFIGURATION_CHANGE 4 of 4 success", "CONFIGURATION_CHANGE 2 of 2 success")
	})
}

func TestWhatChangesNothingLeavesNoTrace(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		asked := scaled(2, 5)
		asked.Template.Tags, asked.Template.SSHKeys = []string{}, []string{}
		p := must(c.CreateAutoscalePool(t.Context(), asked))(t)
		time.Sleep(time.Minute)
		updated := must(c.UpdateAutoscalePool(t.Context(), p.ID, asked))(t).Autoscale.Updated
		if !updated.Equal(p.Autoscale.Updated) {
			t.Errorf("asked for again as it is, it was updated at %s, want still %s", updated, p.Autoscale.Updated)
		}
		other := scaled(2, 5)
		other.Template.Tags, other.Scale.CPU, other.Name = nil, 0.7, "www"
		p = must(c.UpdateAutoscalePool(t.Context(), p.ID, other))(t)
		if p.Edition != 0 || p.Scale.CPU != 0.7 || p.Name != "www" || p.Autoscale.Updated.Equal(updated) {
			t.Errorf("%+v %+v, want another name and target, and the same machines", p, p.Autoscale)
		}
		alike(t, "history", told(t, c, p.ID), "CONFIGURATION_CHANGE 2 of 2 success")
	})
}

func TestAutoscalePoolTellsWhyItIsNotAsLargeAsItShouldBe(t *testing.T) {
	var mu sync.Mutex
	full := true
	o := cloud.FakeOptions{Fault: func(_ context.Context, call string) (before, after error) {
		mu.Lock()
		defer mu.Unlock()
		if full && strings.HasPrefix(call, "create machine 100002") {
			return weir.Errorf(weir.Exhausted, "no memory left"), nil
		}
		return nil, nil
	}}
	inLab(t, o, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(2)))(t)
		alike(t, "at once", told(t, c, p.ID), "CONFIGURATION_CHANGE 0 of 2 in_progress")
		time.Sleep(time.Minute)
		history := told(t, c, p.ID)
		if len(history) != 1 || !strings.HasPrefix(history[0], "CONFIGURATION_CHANGE 1 of 2 error: web-2: ") || !strings.HasSuffix(history[0], "no memory left") {
			t.Errorf("history %q, want the error of web-2", history)
		}
		if p := must(c.AutoscalePool(t.Context(), p.ID))(t); !strings.HasSuffix(p.Status.Stuck, "no memory left") || p.Status.Active != 1 {
			t.Errorf("status %+v, want one active and the error", p.Status)
		}
		mu.Lock()
		full = false
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		alike(t, "once there is room", told(t, c, p.ID), "CONFIGURATION_CHANGE 2 of 2 success")
		if p := must(c.AutoscalePool(t.Context(), p.ID))(t); p.Status.Stuck != "" || p.Status.Active != 2 {
			t.Errorf("status %+v, want two active and no error", p.Status)
		}
	})
}

func TestHistoryOfAPoolIsBounded(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(1)))(t)
		for i := range keptScalings + 20 {
			must(c.UpdateAutoscalePool(t.Context(), p.ID, webPool(2+i%2)))(t)
		}
		time.Sleep(time.Minute)
		history := must(c.PoolHistory(t.Context(), p.ID))(t)
		if len(history) != keptScalings || history[0].State() != weir.ScalingDone || history[0].Want != 3 || !history[0].Began.After(history[keptScalings-1].Began.Add(-time.Nanosecond)) {
			t.Errorf("%d entries, the first is %+v, want %d, with the last change first", len(history), history[0], keptScalings)
		}
	})
}

func TestMachinesOutliveAPoolThatIsDeletedAlone(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, webPool(2)))(t)
		time.Sleep(time.Minute)
		if err := c.DeleteAutoscalePool(ctx, p.ID, false); err != nil {
			t.Fatal(err)
		}
		second := must(c.CreateAutoscalePool(ctx, webPool(2)))(t)
		time.Sleep(time.Minute)
		all := must(c.Machines(ctx))(t)
		if len(all) != 4 || all[0].Pool != "" || all[1].Pool != "" || !all[0].Serves() || all[2].Pool != second.ID {
			t.Fatalf("machines %+v, want two of no pool that serve, and two of the new one", all)
		}
		if err := c.DeleteAutoscalePool(ctx, second.ID, true); err != nil {
			t.Fatal(err)
		}
		if _, err := c.AutoscalePool(ctx, second.ID); !errors.Is(err, weir.NotFound) {
			t.Errorf("a pool that is being deleted: %v, want that it is not there", err)
		}
		time.Sleep(time.Minute)
		if all := must(c.Machines(ctx))(t); len(all) != 2 || all[0].Name != "web-1" {
			t.Errorf("machines %+v, want those of the first pool alone", all)
		}
		if left := must(scalings.All(ctx, c.Store))(t); len(left) != 0 {
			t.Errorf("%d histories are left of pools that are gone", len(left))
		}
	})
}

func TestAutoscalePoolIsItsTeamsAlone(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		ours := weir.WithCaller(t.Context(), weir.Caller{Team: "ours"})
		theirs := weir.WithCaller(t.Context(), weir.Caller{Team: "theirs"})
		p := must(c.CreateAutoscalePool(ours, webPool(1)))(t)
		if all := must(c.AutoscalePools(ours))(t); len(all) != 1 || all[0].Team != "ours" {
			t.Errorf("pools %+v, want the team's one", all)
		}
		if all := must(c.AutoscalePools(theirs))(t); len(all) != 0 {
			t.Errorf("another team sees %+v", all)
		}
		_, get := c.AutoscalePool(theirs, p.ID)
		_, put := c.UpdateAutoscalePool(theirs, p.ID, webPool(2))
		_, members := c.PoolMembers(theirs, p.ID)
		_, history := c.PoolHistory(theirs, p.ID)
		for what, err := range map[string]error{"get": get, "update": put, "members": members, "history": history, "delete": c.DeleteAutoscalePool(theirs, p.ID, true)} {
			if !errors.Is(err, weir.NotFound) {
				t.Errorf("%s by another team: %v, want that it is not there", what, err)
			}
		}
	})
}

func TestNoWeirYAMLChangesAnAutoscalePool(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(2)))(t)
		app := webPool(5)
		app.Autoscale = nil
		lb := weir.LoadBalancer{Name: "web", Region: "lab", Size: weir.DefaultNodeSize, Instances: 2, Algorithm: weir.RoundRobin, Tag: "web",
			Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}}, Health: weir.DefaultCheck(), Idle: weir.DefaultIdle}
		for _, dry := range []bool{true, false} {
			if _, err := c.Apply(t.Context(), &app, lb, dry); !errors.Is(err, weir.Conflict) || !strings.Contains(err.Error(), string(p.ID)) {
				t.Errorf("applied, dry %v: %v, want a conflict that names the pool's ID", dry, err)
			}
		}
		if p := must(c.AutoscalePool(t.Context(), p.ID))(t); p.Count != 2 {
			t.Errorf("it is to have %d machines, want still 2", p.Count)
		}
	})
}

func TestMemberIsAsItsLoadBalancersFindIt(t *testing.T) {
	members := []weir.Machine{{ID: "100001"}, {ID: "100002"}, {ID: "100003"}, {ID: "100004"}, {ID: "100005"}}
	for i := range members {
		members[i].Tags = []string{"web"}
	}
	members[4].Tags = nil // nobody asks for this one
	balancer := func(id, active weir.ID, phase weir.LoadBalancerPhase) weir.LoadBalancer {
		return weir.LoadBalancer{ID: id, Name: string(id), Tag: "web", Status: weir.LoadBalancerStatus{Phase: phase, Active: active}}
	}
	server := func(backend string, id weir.ID, state weir.ServerState) weir.ServerStatus {
		return weir.ServerStatus{Backend: backend, ID: id, State: state}
	}
	stands := weir.NodeStatus{Servers: []weir.ServerStatus{server("http", "100004", weir.ServerUp)}}
	says := map[weir.ID]telling{"100012": {stands, stands}, "100011": {stored: weir.NodeStatus{Servers: []weir.ServerStatus{
		server("http", "100001", weir.ServerUp), server("tcp", "100001", weir.ServerUp),
		server("http", "100002", weir.ServerUp), server("tcp", "100002", weir.ServerChecking),
		{Backend: "http", ID: "100003", State: weir.ServerDown, Why: "L4CON: Connection refused"},
	}}}}
	lbs := []weir.LoadBalancer{balancer("front", "100011", weir.LoadBalancerActive), balancer("silent", "", weir.LoadBalancerNew)}
	found := findings(lbs, map[weir.ID][]weir.ID{"front": {"100011", "100012"}}, says, members, time.Now())
	var got []string
	for id, f := range found {
		if f.waits {
			got = append(got, string(id))
		}
	}
	slices.Sort(got)
	alike(t, "those that wait", got, "100002", "100003", "100004")

	got = nil
	judged := []weir.Member{{Machine: members[0]}, {Machine: members[1]}, {Machine: members[2]}, {Machine: members[3], Unwell: "it is powered off"}}
	judgeMembers(judged, found)
	for _, m := range judged {
		got = append(got, m.Unwell)
	}
	alike(t, "what is wrong with them", got, "", "", "load balancer front finds it down: L4CON: Connection refused", "it is powered off")
}

func TestAllThatNamesAMachineForgetsItWhenItsPoolShrinks(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, webPool(3)))(t)
		time.Sleep(time.Minute)
		named := func() (ids []weir.ID) {
			for _, m := range must(c.PoolMembers(ctx, p.ID))(t) {
				ids = append(ids, m.ID)
			}
			return ids
		}
		front := balancer()
		front.Region, front.Tag, front.Machines = "lab", "", named()
		lb := must(c.CreateLoadBalancer(ctx, front))(t)
		f := must(c.CreateFirewall(ctx, weir.CloudFirewall{Name: "web", Machines: named(), Inbound: []weir.FirewallRule{
			tcp(22, weir.Peers{Machines: named()}), tcp(25, weir.Peers{Machines: named()[2:]})}}))(t)

		if _, err := c.UpdateAutoscalePool(ctx, p.ID, webPool(1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		stays := named()
		if len(stays) != 1 {
			t.Fatalf("the pool has %v, want one machine", stays)
		}
		if got := must(c.LoadBalancer(ctx, lb.ID))(t).Machines; !slices.Equal(got, stays) {
			t.Errorf("the load balancer has %v, want %v", got, stays)
		}
		f = must(c.Firewall(ctx, f.ID))(t)
		if !slices.Equal(f.Machines, stays) || len(f.Inbound) != 1 || !slices.Equal(f.Inbound[0].Peers.Machines, stays) {
			t.Errorf("the firewall is for %v and lets in %+v, want %v for both", f.Machines, f.Inbound, stays)
		}
	})
}
