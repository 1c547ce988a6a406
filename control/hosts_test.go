package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// layout returns how many of a pool's members that are to stay each host has: "host-1 2, host-2 1".
func layout(t *testing.T, c *Control, pool weir.ID) string {
	t.Helper()
	on := map[string]int{}
	for _, m := range must(machines.All(t.Context(), c.Store))(t) {
		if m.Pool == pool && m.Deleting.IsZero() {
			on[m.Status.Host]++
		}
	}
	var said []string
	for _, host := range slices.Sorted(maps.Keys(on)) {
		said = append(said, fmt.Sprintf("%s %d", host, on[host]))
	}
	return strings.Join(said, ", ")
}

// laid fails the test unless a pool's members are on hosts so.
func laid(t *testing.T, c *Control, when string, pool weir.ID, want string) {
	t.Helper()
	if got := layout(t, c, pool); got != want {
		t.Errorf("%s: its machines are on %q, want %q", when, got, want)
	}
}

// fail and restore have a host of the fake cloud go down and be up again.
func fail(t *testing.T, c *Control, host string) {
	t.Helper()
	if err := c.Cloud.(*cloud.Fake).FailHost(t.Context(), host); err != nil {
		t.Fatal(err)
	}
}

func restore(t *testing.T, c *Control, host string) {
	t.Helper()
	if err := c.Cloud.(*cloud.Fake).RestoreHost(t.Context(), host); err != nil {
		t.Fatal(err)
	}
}

// resize asks for a pool of another size and waits until it has that.
func resize(t *testing.T, c *Control, pool weir.ID, count int) {
	t.Helper()
	must(c.UpdateAutoscalePool(t.Context(), pool, webPool(count)))(t)
	time.Sleep(2 * time.Minute)
}

func TestPoolIsSpreadOverHostsAndShrinksWhereItHasMost(t *testing.T) {
	inLab(t, cloud.FakeOptions{Hosts: 3}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(6)))(t)
		other := webPool(1)
		other.Name, other.Prefix = "other", "other"
		must(c.CreateAutoscalePool(t.Context(), other))(t)
		time.Sleep(time.Minute)
		laid(t, c, "at first", p.ID, "host-1 2, host-2 2, host-3 2")
		resize(t, c, p.ID, 5)
		resize(t, c, p.ID, 4)
		resize(t, c, p.ID, 3)
		laid(t, c, "when it has shrunk one by one", p.ID, "host-1 1, host-2 1, host-3 1")
		resize(t, c, p.ID, 9)
		laid(t, c, "when it has grown", p.ID, "host-1 3, host-2 3, host-3 3")
		resize(t, c, p.ID, 3)
		laid(t, c, "when it has shrunk by many", p.ID, "host-1 1, host-2 1, host-3 1")
		fake := c.Cloud.(*cloud.Fake)
		if seen := must(fake.Machines(t.Context()))(t); len(seen) != 4 {
			t.Errorf("the cloud has %d machines, want 3 and the one of the other pool", len(seen))
		}
	})
}

// dead returns which machines are to go once their host is up again, and what is said of that among what costs money.
func dead(t *testing.T, c *Control) (said []string) {
	t.Helper()
	for _, item := range must(c.Costs(t.Context()))(t).Items {
		if item.State == weir.CostLeaving {
			said = append(said, item.Name+": "+item.Err)
		}
	}
	return said
}

func TestMachinesOfAHostThatIsDownAreMadeOnOthersAndNeverDoubled(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("of a weir.yaml: %v", plain), func(t *testing.T) {
			inLab(t, cloud.FakeOptions{Hosts: 3, HostRoom: 4, Boots: slow}, func(t *testing.T, c *Control) {
				ctx := t.Context()
				var id weir.ID
				if plain {
					p := webPool(6)
					p.Autoscale = nil
					lb := balancer()
					lb.Region, lb.Instances, lb.ID = "lab", 2, ""
					if _, err := c.Apply(ctx, &p, lb, false); err != nil {
						t.Fatal(err)
					}
					runCheckers(t, c)
					id = must(c.Pools(ctx))(t)[0].ID
				} else {
					id = must(c.CreateAutoscalePool(ctx, webPool(6)))(t).ID
				}
				time.Sleep(2 * time.Minute)
				laid(t, c, "at first", id, "host-1 2, host-2 2, host-3 2")
				fail(t, c, "host-2")
				time.Sleep(9 * time.Second)
				laid(t, c, "at once", id, "host-1 2, host-2 2, host-3 2")
				time.Sleep(10 * time.Second)
				laid(t, c, "while others boot", id, "host-1 3, host-2 2, host-3 3")
				time.Sleep(time.Minute)
				laid(t, c, "once others serve", id, "host-1 3, host-3 3")
				var names []string
				for _, said := range dead(t, c) {
					name, why, _ := strings.Cut(said, ": ")
					if why != "its host host-2 is down: it is destroyed when that is up again" {
						t.Errorf("of %s is said %q, want that it waits for its host", name, why)
					}
					names = append(names, name)
				}
				if len(names) < 2 {
					t.Errorf("%q are to go when their host is up again, want two of the pool", names)
				}
				s := must(c.Status(ctx))(t)
				if p := s.Pools[0]; !p.Settled() || p.Machines != 6 {
					t.Errorf("its overview is %+v, want 6 machines and nothing to wait for", p)
				}
				time.Sleep(10 * time.Minute)
				laid(t, c, "much later", id, "host-1 3, host-3 3")
				if p := must(c.Pools(ctx))(t)[0]; p.Serial != 8 {
					t.Errorf("%d machines were made, want 8", p.Serial)
				}

				restore(t, c, "host-2")
				time.Sleep(2 * time.Minute)
				laid(t, c, "once the host is back", id, "host-1 3, host-3 3")
				if left := dead(t, c); len(left) > 0 {
					t.Errorf("once the host is back there are %q, want them destroyed", left)
				}
				if !plain {
					entire(t, c, "in the end", id, namesOf(t, c, id)...)
					alike(t, "history", told(t, c, id), "SCALE_UP 6 of 6 success", "CONFIGURATION_CHANGE 6 of 6 success")
					resize(t, c, id, 9)
					laid(t, c, "when it grows", id, "host-1 3, host-2 3, host-3 3")
				}
				fake := c.Cloud.(*cloud.Fake)
				seen := must(fake.Machines(ctx))(t)
				if len(seen) != len(must(machines.All(ctx, c.Store))(t)) {
					t.Errorf("the cloud has %d machines, which are not those that there are rows of", len(seen))
				}
				for _, m := range seen {
					if !m.On || fake.Made(m.ID) != 1 {
						t.Errorf("%s is on: %v, and was made %d times, want once, and on", m.Name, m.On, fake.Made(m.ID))
					}
				}
			})
		})
	}
}

func TestHostThatIsBackSoonKeepsItsMachines(t *testing.T) {
	inLab(t, cloud.FakeOptions{Hosts: 3, Boots: slow}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(3)))(t)
		time.Sleep(time.Minute)
		fail(t, c, "host-1")
		time.Sleep(6 * time.Second)
		restore(t, c, "host-1")
		time.Sleep(time.Minute)
		entire(t, c, "when it was down for 6 s", p.ID, "web-1", "web-2", "web-3")

		fail(t, c, "host-1")
		time.Sleep(20 * time.Second)
		restore(t, c, "host-1") // others are about to boot
		time.Sleep(2 * time.Minute)
		if all, serving, _ := fleet(t, c, p.ID, ""); all != 3 || serving != 3 {
			t.Errorf("when it was down for 20 s there are %d machines of which %d serve, want 3", all, serving)
		}
		laid(t, c, "when it was down for 20 s", p.ID, "host-1 1, host-2 1, host-3 1")
		entire(t, c, "when it was down for 20 s", p.ID, namesOf(t, c, p.ID)...)
	})
}

func TestMachinesStayOnRecordWhereThereIsNoOtherHost(t *testing.T) {
	inLab(t, cloud.FakeOptions{Hosts: 2, HostRoom: 3}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(4)))(t)
		time.Sleep(time.Minute)
		laid(t, c, "at first", p.ID, "host-1 2, host-2 2")
		fail(t, c, "host-1")
		time.Sleep(10 * time.Minute)
		says(t, c, "where there is room for one of two", p.ID, "its hosts have room for 0 more machines, want 1")
		if all, serving, _ := fleet(t, c, p.ID, ""); serving != 3 || all != 5 {
			t.Errorf("%d machines, of which %d serve, want 3 that do, one that waits for room and one that waits for its host", all, serving)
		}
		fail(t, c, "host-2")
		time.Sleep(10 * time.Minute)
		if _, serving, _ := fleet(t, c, p.ID, ""); serving != 0 {
			t.Errorf("%d machines serve while all hosts are down", serving)
		}
		restore(t, c, "host-1")
		restore(t, c, "host-2")
		time.Sleep(10 * time.Minute)
		if all, serving, _ := fleet(t, c, p.ID, ""); all != 4 || serving != 4 {
			t.Errorf("in the end there are %d machines of which %d serve, want 4", all, serving)
		}
		laid(t, c, "in the end", p.ID, "host-1 1, host-2 3") // nobody moves what serves
		resize(t, c, p.ID, 6)
		laid(t, c, "when it grows", p.ID, "host-1 3, host-2 3")
		entire(t, c, "in the end", p.ID, namesOf(t, c, p.ID)...)
	})
}

func TestPoolThatReplacesNothingWaitsForItsHost(t *testing.T) {
	inLab(t, cloud.FakeOptions{Hosts: 2}, func(t *testing.T, c *Control) {
		of, no := webPool(4), false
		of.Heal = &no
		p := must(c.CreateAutoscalePool(t.Context(), of))(t)
		time.Sleep(time.Minute)
		fail(t, c, "host-1")
		time.Sleep(time.Hour)
		if all, serving, _ := fleet(t, c, p.ID, ""); all != 4 || serving != 2 {
			t.Errorf("%d machines of which %d serve, want 4 and 2: it is not to replace any", all, serving)
		}
		restore(t, c, "host-1")
		time.Sleep(time.Minute)
		entire(t, c, "once the host is back", p.ID, "web-1", "web-2", "web-3", "web-4")
	})
}

func TestMachineThatIsNoPoolsComesBackWithItsHost(t *testing.T) {
	inLab(t, cloud.FakeOptions{Hosts: 2}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		made, _, err := c.CreateMachines(ctx, []string{"a", "b"}, webPool(1).Template)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		m := must(c.Machine(ctx, made[0].ID))(t)
		host := m.Status.Host
		fail(t, c, host)
		time.Sleep(time.Minute)
		m = must(c.Machine(ctx, m.ID))(t)
		if m.Status.Phase != weir.MachineOff || !m.Stranded() || m.Status.Err != "" {
			t.Errorf("its status is %+v, want that it is off since its host is down", m.Status)
		}
		if a := must(c.Act(ctx, m.ID, "power_cycle"))(t); !a.Completed.IsZero() {
			t.Errorf("its action is %+v, want that it is in progress", a)
		}
		if err := c.DeleteMachine(ctx, made[1].ID); err != nil { // which is on the other host
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if m := must(c.Machine(ctx, m.ID))(t); len(m.Actions) != 1 {
			t.Errorf("its actions in progress are %v, want one, which waits for its host", m.Actions)
		}
		restore(t, c, host)
		time.Sleep(time.Minute)
		if m := must(c.Machine(ctx, m.ID))(t); m.Status.Phase != weir.MachineActive || len(m.Actions) != 0 {
			t.Errorf("once its host is up its status is %+v, with the actions %v, want it active", m.Status, m.Actions)
		}
	})
}

// hostsOf returns the hosts of a load balancer's instances that are to stay, the active one's first.
func hostsOf(t *testing.T, c *Control) (hosts []string) {
	t.Helper()
	lb := must(c.LoadBalancers(t.Context()))(t)[0]
	actives := lb.Status.Actives()
	all := slices.DeleteFunc(must(machines.All(t.Context(), c.Store))(t), func(m weir.Machine) bool {
		return m.LoadBalancer != lb.ID || !m.Deleting.IsZero()
	})
	slices.SortFunc(all, func(a, b weir.Machine) int {
		if slices.Contains(actives, a.ID) {
			return -1
		}
		return 1
	})
	for _, m := range all {
		hosts = append(hosts, m.Status.Host)
	}
	return hosts
}

func TestPairIsNeverOnOneHostAndOutlivesEither(t *testing.T) {
	inLab(t, cloud.FakeOptions{Hosts: 3, Boots: slow}, func(t *testing.T, c *Control) {
		runCheckers(t, c)
		must(c.CreateAutoscalePool(t.Context(), webPool(3)))(t)
		front(t, c)
		time.Sleep(time.Minute)
		for range 3 {
			was := hostsOf(t, c)
			if len(was) != 2 || was[0] == was[1] {
				t.Fatalf("its instances are on %q, want two hosts", was)
			}
			fail(t, c, was[0])
			time.Sleep(time.Minute)
			is := hostsOf(t, c)
			if len(is) != 2 || is[0] != was[1] || is[1] == was[0] || is[1] == is[0] {
				t.Errorf("with %s down its instances are on %q, want %s, which took over, and the third", was[0], is, was[1])
			}
			if s := must(c.Status(t.Context()))(t); !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.HasPrefix(p, "Host "+was[0]+" is down") }) {
				t.Errorf("problems are %q, want that %s is down", s.Problems, was[0])
			}
			restore(t, c, was[0])
			time.Sleep(2 * time.Minute)
			if left := dead(t, c); len(left) > 0 {
				t.Errorf("once %s is back there are %q, want them destroyed", was[0], left)
			}
		}
	})
}

func TestPairOnOneHostIsOnTwoOnceThereAreTwo(t *testing.T) {
	inLab(t, cloud.FakeOptions{Hosts: 2, HostRoom: 3, Boots: slow}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		runCheckers(t, c)
		p := must(c.CreateAutoscalePool(ctx, webPool(2)))(t)
		front(t, c)
		time.Sleep(time.Minute)
		was := hostsOf(t, c)
		for range 2 {
			must(c.UpdateAutoscalePool(ctx, p.ID, webPool(1)))(t) // so that there is room for the pair on one host
			time.Sleep(time.Minute)
			fail(t, c, was[0])
			time.Sleep(2 * time.Minute)
			if is := hostsOf(t, c); len(is) != 2 || is[0] != was[1] || is[1] != was[1] {
				t.Fatalf("with %s down its instances are on %q, want both on %s", was[0], is, was[1])
			}
			made := serialOf(t, c)
			restore(t, c, was[0])
			time.Sleep(3 * time.Minute)
			is := hostsOf(t, c)
			if len(is) != 2 || is[0] != was[1] || is[1] != was[0] {
				t.Errorf("once %s is back its instances are on %q, want the active one on %s still, and the standby on %s", was[0], is, was[1], was[0])
			}
			time.Sleep(20 * time.Minute)
			if n := serialOf(t, c) - made; n != 1 {
				t.Errorf("%d instances were made to have the pair on two hosts, want 1", n)
			}
			was = is
		}
	})
}

func TestPairStaysOnOneHostWhereTheOtherHasNoRoom(t *testing.T) {
	var full atomic.Bool
	o := cloud.FakeOptions{Hosts: 2, Boots: slow, Full: func(string) bool { return full.Load() }}
	inLab(t, o, func(t *testing.T, c *Control) {
		runCheckers(t, c)
		must(c.CreateAutoscalePool(t.Context(), webPool(2)))(t)
		front(t, c)
		time.Sleep(time.Minute)
		was := hostsOf(t, c)
		fail(t, c, was[0])
		time.Sleep(2 * time.Minute)
		made := serialOf(t, c)
		full.Store(true)
		restore(t, c, was[0])
		time.Sleep(20 * time.Minute)
		if is, n := hostsOf(t, c), serialOf(t, c)-made; len(is) != 2 || is[0] != is[1] || n != 1 {
			t.Errorf("its instances are on %q, and %d were made, want both where they were, after one try", is, n)
		}
		if lb := must(c.LoadBalancers(t.Context()))(t)[0]; lb.Status.Phase != weir.LoadBalancerActive || lb.Status.Err != "" {
			t.Errorf("its status is %+v, want it active", lb.Status)
		}
	})
}

// serialOf returns how many instances a load balancer has had.
func serialOf(t *testing.T, c *Control) int {
	t.Helper()
	return must(c.LoadBalancers(t.Context()))(t)[0].Serial
}
