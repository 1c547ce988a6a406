package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// doors says for each machine at which ports of it whose requests are let in.
func doors(t *testing.T, c *Control, ids ...weir.ID) (open []string) {
	t.Helper()
	synctest.Wait()
	time.Sleep(5 * time.Second)
	all := must(c.Machines(t.Context()))(t)
	owner := map[netip.Addr]weir.ID{}
	for _, m := range all {
		owner[m.Status.Private] = m.LoadBalancer
	}
	for _, m := range all {
		if !slices.Contains(ids, m.ID) {
			continue
		}
		text := m.Name + ":"
		if m.Status.Wall != m.Wall().Digest() {
			text += " (its cloud has another)"
		}
		wall := m.Firewall
		if wall == nil {
			text, wall = text+" open", &weir.Firewall{}
		}
		for _, o := range wall.Openings {
			var names []string
			for _, p := range o.Peers {
				lb := must(c.LoadBalancer(t.Context(), owner[p.Addr()]))(t)
				names = append(names, lb.Name)
			}
			slices.Sort(names)
			text += fmt.Sprintf(" %d%v", o.Port, slices.Compact(names))
		}
		open = append(open, text)
	}
	return open
}

func TestServerIsOpenToTheLoadBalancersThatHaveItAndNoOthers(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		template := weir.Template{Region: "lab", Size: "s-1vcpu-1gb", Image: "debian-12-x64"}
		ms, _, err := c.CreateMachines(t.Context(), []string{"m1", "m2", "m3"}, template)
		if err != nil {
			t.Fatal(err)
		}
		m1, m2, m3 := ms[0].ID, ms[1].ID, ms[2].ID
		shop := balancer()
		shop.Name, shop.Region, shop.Tag, shop.Machines = "shop", "lab", "", []weir.ID{m1, m2}
		shop.Rules[0].TargetPort = 80
		shop = must(c.CreateLoadBalancer(t.Context(), shop))(t)
		blog := balancer()
		blog.Name, blog.Region, blog.Tag, blog.Rules[0].TargetPort, blog.Health.Port = "blog", "lab", "web", 81, 81
		blog = must(c.CreateLoadBalancer(t.Context(), blog))(t)
		if err := c.Tag(t.Context(), "web", []weir.ID{m2}, nil); err != nil {
			t.Fatal(err)
		}
		see := func(when string, want ...string) {
			t.Helper()
			alike(t, when, doors(t, c, m1, m2, m3), want...)
		}
		see("at first", "m1: 80[shop]", "m2: 80[shop] 81[blog]", "m3: open")

		servers := func(ids ...weir.ID) {
			t.Helper()
			must(c.UpdateLoadBalancer(t.Context(), shop.ID, func(lb *weir.LoadBalancer) error { lb.Machines = ids; return nil }))(t)
		}
		servers(m2, m3)
		see("with another server", "m1: open", "m2: 80[shop] 81[blog]", "m3: 80[shop]")
		servers(m3)
		see("with one fewer", "m1: open", "m2: 81[blog]", "m3: 80[shop]")
		if err := c.Tag(t.Context(), "web", []weir.ID{m1, m3}, nil); err != nil {
			t.Fatal(err)
		}
		see("with the tag", "m1: 81[blog]", "m2: 81[blog]", "m3: 80[shop] 81[blog]")
		if err := c.Untag(t.Context(), "web", []weir.ID{m1}, nil); err != nil {
			t.Fatal(err)
		}
		see("without it", "m1: open", "m2: 81[blog]", "m3: 80[shop] 81[blog]")
		must(c.UpdateLoadBalancer(t.Context(), blog.ID, func(lb *weir.LoadBalancer) error { lb.Tag, lb.Machines = "", []weir.ID{m1}; return nil }))(t)
		see("by ID instead", "m1: 81[blog]", "m2: open", "m3: 80[shop]")
		if err := c.DeleteLoadBalancer(t.Context(), shop.ID); err != nil {
			t.Fatal(err)
		}
		see("when a load balancer is gone", "m1: 81[blog]", "m2: open", "m3: open")
	})
}

// A leader may end between the change of a load balancer and what follows from it.
func TestNextLeaderOpensAServerThatALoadBalancerHasNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := store.Memory()
		defer db.Close()
		fake := cloud.NewFake(cloud.FakeOptions{})
		term := func(f func(c *Control)) {
			c := New(Options{Region: "lab", Store: db, Cloud: fake, Drain: time.Second})
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { c.Run(ctx) })
			f(c)
			cancel()
			wg.Wait()
		}
		var m weir.ID
		var shop weir.LoadBalancer
		term(func(c *Control) {
			ms, _, err := c.CreateMachines(t.Context(), []string{"m1"}, weir.Template{Region: "lab", Size: "s-1vcpu-1gb", Image: "debian-12-x64"})
			if err != nil {
				t.Fatal(err)
			}
			m, shop = ms[0].ID, balancer()
			shop.Name, shop.Region, shop.Tag, shop.Machines = "shop", "lab", "", []weir.ID{m}
			shop.Rules[0].TargetPort = 80
			shop = must(c.CreateLoadBalancer(t.Context(), shop))(t)
			alike(t, "at first", doors(t, c, m), "m1: 80[shop]")
		})
		idle := New(Options{Region: "lab", Store: db, Cloud: fake})
		must(idle.UpdateLoadBalancer(t.Context(), shop.ID, func(lb *weir.LoadBalancer) error { lb.Machines = nil; return nil }))(t)
		term(func(c *Control) { alike(t, "after the next leader came", doors(t, c, m), "m1: open") })
	})
}

// BenchmarkAmong measures what controllers and verbs that concern a few rows take among so many machines, ten for each
// load balancer. The store is an embedded etcd.
//
//	go test -run xxx -bench Among -benchtime 20x ./control
func BenchmarkAmong(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkAmong(b, n) })
	}
}

func benchmarkAmong(b *testing.B, n int) {
	db, err := store.Embed(b.Context(), b.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	server := func(i int) weir.ID { return weir.ID(fmt.Sprint(1_000_000 + i)) }
	lb := func(i int) weir.ID { return weir.ID(fmt.Sprint("lb-", i)) }
	private := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	on := weir.MachineStatus{Phase: weir.MachineActive, Boot: weir.Boot{State: weir.BootDone}}
	template := weir.Template{Region: "lab", Size: "s-1vcpu-1gb", Image: "debian-12-x64"}
	for from := 0; from < n; from += 500 {
		err := db.Update(b.Context(), func(tx *store.Tx) error {
			for i := from; i < min(from+500, n); i++ {
				m := weir.Machine{ID: server(i), Name: fmt.Sprint("web-", i), Template: template, Firewall: &weir.Firewall{}, Status: on}
				m.Tags, m.Status.Private = []string{fmt.Sprint("tag-", i/10)}, private(i)
				machines.Put(tx, m.ID, m)
				if i%10 != 0 {
					continue
				}
				row := balancer()
				row.ID, row.Name, row.Region, row.Tag, row.Key = lb(i/10), fmt.Sprint("shop-", i/10), "lab", "", make([]byte, 32)
				for s := range 10 {
					row.Machines = append(row.Machines, server(i+s))
				}
				for s := range 2 {
					in := weir.Machine{ID: weir.ID(fmt.Sprint(5_000_000 + i + s)), LoadBalancer: row.ID, Name: fmt.Sprint(row.Name, "-", s), Template: template, Status: on}
					in.Status.Private, in.Status.Anchor = private(2_000_000+i+s), private(4_000_000+i+s)
					machines.Put(tx, in.ID, in)
					nodeConfigs.Put(tx, in.ID, weir.NodeConfig{Node: in.ID, Revision: 1})
					nodeStatuses.Put(tx, in.ID, weir.NodeStatus{Node: in.ID, Revision: 1, LoadBalancer: row.ID})
				}
				loadBalancers.Put(tx, row.ID, row)
				addresses.Put(tx, row.ID, weir.Address{Owner: row.ID})
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	err = db.Update(b.Context(), func(tx *store.Tx) error { sequences(tx); return nil })
	if err != nil {
		b.Fatal(err)
	}
	c := New(Options{Region: "lab", Store: db, Cloud: cloud.NewFake(cloud.FakeOptions{Machines: 1 << 30})})
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	c.nodes.kept = 0 // as if it had served for long
	wg.Go(func() { c.Serve(ctx) })
	if _, _, err := c.MachinePage(ctx, weir.Filter{}, 0, 1); err != nil {
		b.Fatal(err)
	}
	if _, _, err := c.LoadBalancerPage(ctx, weir.Filter{}, 0, 1); err != nil {
		b.Fatal(err)
	}
	t := newTerm(c, c.Store)
	for _, does := range []struct {
		what string
		do   func(i int) error
	}{
		{"load balancer reconciled", func(i int) error { _, err := t.reconcileLoadBalancer(ctx, lb(i%(n/10))); return err }},
		{"droplet created", func(int) error {
			_, _, err := c.CreateMachines(ctx, []string{"new"}, template)
			return err
		}},
		{"droplet deleted", func(i int) error { return c.DeleteMachine(ctx, server(i)) }},
		{"deleted droplet destroyed", func(i int) error { _, err := t.reconcileMachine(ctx, server(i)); return err }},
		{"tag deleted", func(i int) error {
			if err := c.CreateTag(ctx, fmt.Sprint("tag-", n/10-1-i)); err != nil {
				return err
			}
			return c.DeleteTag(ctx, fmt.Sprint("tag-", n/10-1-i))
		}},
		{"cloud compared", func(int) error { return t.touchMachines(ctx, map[weir.ID]bool{}, silence{}) }},
	} {
		b.Run(does.what, func(b *testing.B) {
			for i := range b.N {
				if err := does.do(i % n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// sequences has new machines come behind those that were generated.
func sequences(tx *store.Tx) {
	store.NewTable[int64]("sequences").Put(tx, "machines", 9_000_000)
}

func TestWhatIsNamedWhileItGoesIsNamedByNobodyInTheEnd(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		names := make([]string, 20)
		for i := range names {
			names[i] = fmt.Sprint("m", i)
		}
		ms, _, err := c.CreateMachines(t.Context(), names, weir.Template{Region: "lab", Size: "s-1vcpu-1gb", Image: "debian-12-x64"})
		if err != nil {
			t.Fatal(err)
		}
		shop := balancer()
		shop.Name, shop.Region, shop.Tag, shop.Machines = "shop", "lab", "", []weir.ID{}
		shop = must(c.CreateLoadBalancer(t.Context(), shop))(t)
		if err := c.CreateTag(t.Context(), "old"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i, m := range ms {
			wg.Go(func() { // whichever is first
				if err := c.Tag(t.Context(), "old", []weir.ID{m.ID}, nil); err != nil {
					t.Log(err)
				}
			})
			wg.Go(func() {
				_, err := c.UpdateLoadBalancer(t.Context(), shop.ID, func(lb *weir.LoadBalancer) error {
					lb.Machines = append(slices.Clone(lb.Machines), m.ID)
					return nil
				})
				if err != nil {
					t.Log(err)
				}
			})
			if i%2 == 0 {
				wg.Go(func() {
					if err := c.DeleteMachine(t.Context(), m.ID); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Go(func() {
			if err := c.DeleteTag(t.Context(), "old"); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		time.Sleep(time.Minute)
		left := must(c.Machines(t.Context()))(t)
		lb := must(c.LoadBalancer(t.Context(), shop.ID))(t)
		for _, id := range lb.Machines {
			if !slices.ContainsFunc(left, func(m weir.Machine) bool { return m.ID == id }) {
				t.Errorf("the load balancer names %s, which is gone", id)
			}
		}
		if len(lb.Machines) != 10 {
			t.Errorf("it has %d servers, want the 10 that stay", len(lb.Machines))
		}
		for _, m := range left {
			if m.HasTag("old") {
				t.Errorf("%s has a tag that is gone", m.Name)
			}
		}
	})
}

func TestServerIsKeptForTheNodesThatHadItUntilLately(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		put := func(node weir.ID, servers ...weir.ID) {
			t.Helper()
			b := weir.Backend{Name: "servers-http-80"}
			for _, id := range servers {
				b.Servers = append(b.Servers, weir.Server{ID: id})
			}
			err := c.Store.Update(t.Context(), func(tx *store.Tx) error {
				if servers == nil {
					nodeConfigs.Delete(tx, node)
					return nil
				}
				nodeConfigs.Put(tx, node, weir.NodeConfig{Node: node, Proxy: weir.Proxy{Backends: []weir.Backend{b, b}}})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		may := func(when string, want ...string) {
			t.Helper()
			ids, all, err := c.nodes.mayServe(t.Context(), c.Store, "s1")
			if err != nil || !all {
				t.Fatalf("%s: all is %v, %v", when, all, err)
			}
			var got []string
			for _, id := range ids {
				got = append(got, string(id))
			}
			slices.Sort(got)
			alike(t, when, got, want...)
		}
		put("n1", "s1", "s2")
		if _, all, err := c.nodes.mayServe(t.Context(), c.Store, "s1"); all || err != nil {
			t.Errorf("a member that has just begun says that it knows all (%v)", err)
		}
		time.Sleep(time.Minute)
		may("at first", "n1")
		put("n2", "s1")
		may("with another", "n1", "n2")
		put("n1", "s2")
		put("n2")
		may("when both have dropped it", "n1", "n2")
		put("n1", "s1")
		put("n2", "s2")
		time.Sleep(time.Minute)
		put("n3", "s3")
		may("later", "n1")
	})
}
