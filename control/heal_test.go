package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// checkers are nodes that report each second that all their servers are up but for those that are sick.
type checkers struct {
	mu   sync.Mutex
	sick map[weir.ID]time.Time // since when a server is, as all nodes see it
	by   map[weir.ID]weir.ID   // the server of which a node says that it is up all the same
}

// runCheckers has all instances of load balancers report until the test ends.
func runCheckers(t *testing.T, c *Control) *checkers {
	a := &checkers{sick: map[weir.ID]time.Time{}, by: map[weir.ID]weir.ID{}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(time.Second)
			all, _ := machines.All(ctx, c.Store)
			for _, m := range all {
				if m.LoadBalancer == "" || m.Status.Phase != weir.MachineActive {
					continue
				}
				if config, err := nodeConfigs.Get(ctx, c.Store, m.ID); err == nil {
					c.Report(ctx, a.status(config))
				}
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return a
}

func (a *checkers) status(config weir.NodeConfig) weir.NodeStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := weir.NodeStatus{Node: config.Node, Revision: config.Revision, Tried: config.Revision, Agent: "test",
		HAProxy: weir.HAProxyStatus{PID: 1, Started: time.Now().Add(-time.Hour)}}
	for _, b := range config.Proxy.Backends {
		for _, server := range b.Servers {
			is := weir.ServerStatus{Backend: b.Name, ID: server.ID, State: weir.ServerUp}
			if since, sick := a.sick[server.ID]; sick && a.by[config.Node] != server.ID {
				is.State, is.Why, is.Down = weir.ServerDown, "L4CON: Connection refused", int64(time.Since(since).Seconds())
				if since.IsZero() {
					is = weir.ServerStatus{Backend: b.Name, ID: server.ID, State: weir.ServerChecking}
				}
			}
			s.Servers = append(s.Servers, is)
		}
	}
	return s
}

// ail has servers be sick from now on, and all others well.
func (a *checkers) ail(ids ...weir.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.sick)
	for _, id := range ids {
		a.sick[id] = time.Now()
	}
}

// front makes a load balancer in front of the machines with the tag web, and waits until it serves. It returns its instances, the
// active one first.
func front(t *testing.T, c *Control) (nodes []weir.ID) {
	t.Helper()
	lb := balancer()
	lb.Region, lb.Instances, lb.ID = "lab", 2, ""
	made := must(c.CreateLoadBalancer(t.Context(), lb))(t)
	for range 120 {
		time.Sleep(time.Second)
		if is := must(c.LoadBalancer(t.Context(), made.ID))(t); is.Status.Phase == weir.LoadBalancerActive {
			nodes = is.Status.Actives()
			break
		}
	}
	if len(nodes) == 0 {
		t.Fatalf("the load balancer does not serve: %+v", must(c.LoadBalancer(t.Context(), made.ID))(t).Status)
	}
	for _, m := range must(machines.All(t.Context(), c.Store))(t) {
		if m.LoadBalancer == made.ID && !slices.Contains(nodes, m.ID) {
			nodes = append(nodes, m.ID)
		}
	}
	return nodes
}

// healing is a pool of a fixed size whose servers are replaced.
func healing(count int) weir.Pool {
	p, yes := webPool(count), true
	p.Heal = &yes
	return p
}

func TestServerThatItsLoadBalancersFindDownIsReplaced(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		a := runCheckers(t, c)
		p := must(c.CreateAutoscalePool(t.Context(), healing(3)))(t)
		nodes := front(t, c)
		time.Sleep(6 * time.Minute)
		all := must(c.PoolMembers(t.Context(), p.ID))(t)
		a.ail(all[1].ID)
		time.Sleep(110 * time.Second)
		alike(t, "before it was down for two minutes", namesOf(t, c, p.ID), "web-1", "web-2", "web-3")
		for range 120 {
			time.Sleep(time.Second)
			if _, serving, _ := fleet(t, c, p.ID, ""); serving < 3 {
				t.Fatalf("%d machines, want a new one before the one goes that is down", serving)
			}
		}
		alike(t, "afterwards", namesOf(t, c, p.ID), "web-1", "web-3", "web-4")
		events := happened(t, c, "web")
		if !slices.ContainsFunc(events, func(e string) bool {
			return strings.HasPrefix(e, "replaces web-2: load balancer web finds it down: L4CON: Connection refused, for 2m")
		}) {
			t.Errorf("events are %q, want why it was replaced", events)
		}
		history := must(c.PoolHistory(t.Context(), p.ID))(t)
		if s := history[0]; !strings.HasPrefix(s.Why, "web-2 is replaced: load balancer web finds it down") || s.State() != weir.ScalingDone {
			t.Errorf("the last of its history is %+v, want the replacement", s)
		}

		// A second one waits until it is old enough not to be the template's fault; while instances disagree, nothing is done.
		time.Sleep(6 * time.Minute)
		a.mu.Lock()
		a.by[nodes[1]] = all[0].ID
		a.mu.Unlock()
		a.ail(all[0].ID)
		time.Sleep(10 * time.Minute)
		alike(t, "while one that stands by finds it up", namesOf(t, c, p.ID), "web-1", "web-3", "web-4")
	})
}

func TestServersAreKeptThatAreUpAgainOrMostOfWhichAreDown(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		a := runCheckers(t, c)
		p := must(c.CreateAutoscalePool(t.Context(), healing(3)))(t)
		front(t, c)
		time.Sleep(6 * time.Minute)
		all := must(c.PoolMembers(t.Context(), p.ID))(t)
		a.ail(all[0].ID, all[1].ID)
		time.Sleep(15 * time.Minute)
		alike(t, "while two of three are down", namesOf(t, c, p.ID), "web-1", "web-2", "web-3")
		a.ail()
		time.Sleep(time.Minute)
		a.ail(all[0].ID)
		time.Sleep(140 * time.Second) // one is being made in its place
		a.ail()
		time.Sleep(10 * time.Minute)
		alike(t, "once it was up again before the other", namesOf(t, c, p.ID), "web-1", "web-2", "web-3")
		if all := strings.Join(happened(t, c, "web"), "\n"); !strings.Contains(all, "keeps web-1, which is up again") {
			t.Errorf("events are\n%s\nwant that it is kept", all)
		}

		off := webPool(3) // and who does not ask for it has none replaced
		must(c.UpdateAutoscalePool(t.Context(), p.ID, off))(t)
		a.ail(all[0].ID)
		time.Sleep(15 * time.Minute)
		alike(t, "without being asked to replace any", namesOf(t, c, p.ID), "web-1", "web-2", "web-3")
	})
}

func TestTwoServersThatAreDownAreReplacedOneByOne(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		a := runCheckers(t, c)
		p := must(c.CreateAutoscalePool(t.Context(), healing(4)))(t)
		front(t, c)
		time.Sleep(6 * time.Minute)
		all := must(c.PoolMembers(t.Context(), p.ID))(t)
		a.ail(all[0].ID, all[1].ID)
		most := 0
		for range 60 * 30 {
			time.Sleep(time.Second)
			n, _, _ := fleet(t, c, p.ID, "")
			most = max(most, n)
		}
		alike(t, "with two of four down", namesOf(t, c, p.ID), "web-3", "web-4", "web-5", "web-6")
		if most != 5 {
			t.Errorf("there were %d machines at most, want 5: one is replaced at a time", most)
		}
	})
}

func TestServerThatIsNeverUpIsReplaced(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		a := runCheckers(t, c)
		p := must(c.CreateAutoscalePool(t.Context(), healing(3)))(t)
		front(t, c)
		all := must(c.PoolMembers(t.Context(), p.ID))(t)
		a.mu.Lock()
		a.sick[all[2].ID] = time.Time{} // it waits for its first check to pass
		a.mu.Unlock()
		time.Sleep(9 * time.Minute)
		alike(t, "for some time", namesOf(t, c, p.ID), "web-1", "web-2", "web-3")
		time.Sleep(4 * time.Minute)
		alike(t, "then", namesOf(t, c, p.ID), "web-1", "web-2", "web-4")
	})
}

func TestNewTemplateWhoseServersAreNeverUpIsRolledBack(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		a := runCheckers(t, c)
		p := must(c.CreateAutoscalePool(t.Context(), webPool(2)))(t)
		front(t, c)
		a.mu.Lock()
		for n := range 20 { // whatever is made from now on
			a.sick[weir.ID(fmt.Sprint(firstMachine+4+n))] = time.Time{}
		}
		a.mu.Unlock()
		broken := webPool(2)
		broken.Template.UserData = "#!/bin/sh\n"
		must(c.UpdateAutoscalePool(t.Context(), p.ID, broken))(t)
		time.Sleep(30 * time.Minute)
		alike(t, "half an hour later", namesOf(t, c, p.ID), "web-1", "web-2")
		if all := strings.Join(happened(t, c, "web"), "\n"); !strings.Contains(all, "goes back to its former template: web-4: no load balancer has found it up in 10m0s, after web-3: ") {
			t.Errorf("events are\n%s\nwant why it went back", all)
		}
	})
}
