package control_test

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/control"
	"weir/store"
	"weir/weir"
)

// listed is all that users see in lists, a page of two at a time.
func listed(t *testing.T, ctx context.Context, c *control.Control) map[string]any {
	t.Helper()
	all := map[string]any{}
	for page := range 3 {
		add := func(name string, rows any, total int, err error) {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all[fmt.Sprint(name, " from ", 2*page)] = fmt.Sprintf("%+v of %d", rows, total)
		}
		for _, f := range []weir.Filter{{}, {Tag: "WEB"}, {Name: "a-1"}, {Name: "A-2"}, {Tag: "none"}} {
			ms, total, err := c.MachinePage(ctx, f, 2*page, 2)
			var ids []weir.ID
			for _, m := range ms {
				ids = append(ids, m.ID)
			}
			add(fmt.Sprintf("machines %+v", f), ids, total, err)
			lbs, total, err := c.LoadBalancerPage(ctx, f, 2*page, 2)
			var names []string
			for _, lb := range lbs {
				names = append(names, lb.Name)
			}
			add(fmt.Sprintf("load balancers %+v", f), names, total, err)
		}
		acts, total, err := c.ActionPageOf(ctx, weir.OnMachine, "100001", 2*page, 2)
		var types []string
		for _, a := range acts {
			types = append(types, a.Type)
		}
		add("actions", types, total, err)
		tags, total, err := c.TagPage(ctx, 2*page, 2)
		add("tags", tags, total, err)
	}
	return all
}

func balancer(name string) weir.LoadBalancer {
	return weir.LoadBalancer{Name: name, Region: "lab", Size: weir.DefaultNodeSize, Instances: weir.MinInstances, Algorithm: weir.RoundRobin,
		Health: weir.DefaultCheck(), Idle: weir.DefaultIdle, Tag: "web", Tags: []string{"Web"},
		Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}}}
}

func TestListsAreTheSameFromMemoryAsFromTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := store.Memory()
		defer db.Close()
		fake := cloud.NewFake(cloud.FakeOptions{})
		idle := control.New(control.Options{Region: "lab", Store: db, Cloud: fake})
		busy := control.New(control.Options{Region: "lab", Store: db, Cloud: fake})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { busy.Run(ctx) })
		defer running.Wait()
		defer cancel()

		other := weir.WithCaller(ctx, weir.Caller{Team: "blue"})
		web := weir.Template{Region: "lab", Size: weir.DefaultNodeSize, Image: "debian-12-x64", Tags: []string{"web", "Web", "db"}}
		check := func(when string) {
			t.Helper()
			for _, ctx := range []context.Context{ctx, other} {
				if got, want := listed(t, ctx, busy), listed(t, ctx, idle); !reflect.DeepEqual(got, want) {
					t.Errorf("%s: from memory %v, from the table %v", when, got, want)
				}
			}
		}
		if _, _, err := busy.CreateMachines(ctx, []string{"a-1", "a-2", "a-1"}, web); err != nil {
			t.Fatal(err)
		}
		if _, _, err := busy.CreateMachines(other, []string{"a-1"}, web); err != nil {
			t.Fatal(err)
		}
		lb, err := busy.CreateLoadBalancer(ctx, balancer("shop"))
		if err != nil {
			t.Fatal(err)
		}
		check("at first")
		time.Sleep(time.Minute) // there are instances now, which are in no list
		check("with instances")
		if _, total, err := busy.MachinePage(ctx, weir.Filter{Tag: "web"}, 0, 1); total != 3 || err != nil {
			t.Errorf("%d machines have the tag (%v), want 3", total, err)
		}
		found, err := busy.TagNamed(ctx, "WEB")
		if want := (weir.Tag{Name: "web", Machines: 3, LastMachine: "100003", LoadBalancers: 1, LastLoadBalancer: lb.ID}); found != want || err != nil {
			t.Errorf("the tag is %+v (%v), want %+v", found, err, want)
		}
		if _, err := busy.Act(ctx, "100001", "power_off"); err != nil {
			t.Fatal(err)
		}
		if err := busy.Untag(ctx, "web", []weir.ID{"100002"}, nil); err != nil {
			t.Fatal(err)
		}
		if err := busy.DeleteLoadBalancer(ctx, lb.ID); err != nil {
			t.Fatal(err)
		}
		check("after changes")
		time.Sleep(time.Minute)
		check("in the end")
	})
}

func TestOfManyWhoWantTheNameOfALoadBalancerOneGetsIt(t *testing.T) {
	db := store.Memory()
	defer db.Close()
	ctx := t.Context()
	members := []*control.Control{
		control.New(control.Options{Region: "lab", Store: db, Cloud: cloud.NewFake(cloud.FakeOptions{})}),
		control.New(control.Options{Region: "lab", Store: db, Cloud: cloud.NewFake(cloud.FakeOptions{})}),
	}
	create := func(want int) (made weir.LoadBalancer) {
		t.Helper()
		var mu sync.Mutex
		var wg sync.WaitGroup
		n := 0
		for i := range 16 {
			wg.Go(func() {
				lb, err := members[i%2].CreateLoadBalancer(ctx, balancer("shop"))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					n++
					made = lb
				}
			})
		}
		wg.Wait()
		if n != want {
			t.Errorf("%d load balancers got the name, want %d", n, want)
		}
		return made
	}
	first := create(1)
	create(0)
	rename := func(lb *weir.LoadBalancer) error { lb.Name = "store"; return nil }
	if _, err := members[0].UpdateLoadBalancer(ctx, first.ID, rename); err != nil {
		t.Fatal(err)
	}
	second := create(1)
	if _, err := members[0].UpdateLoadBalancer(ctx, second.ID, rename); err == nil {
		t.Error("a load balancer got the name of another")
	}
	if err := members[0].DeleteLoadBalancer(ctx, second.ID); err != nil {
		t.Fatal(err)
	}
	create(1)
}
