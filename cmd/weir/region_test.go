package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"time"

	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/edge"
	"weir/store"
	"weir/weir"
)

// testToken is the token for a lab's API.
const testToken = "lab-token"

// lab is a region without machines: the real API and control plane, on a store and a
// cloud in memory. What a machine does follows from words in its user-data: "exit 3"
// fails, "sleep infinity" boots for ever, "no server" boots and answers nothing.
type lab struct {
	url     string
	control *control.Control
	cloud   *cloud.Fake
	breaker *breaker

	mu      sync.Mutex
	running map[weir.ID]bool // the nodes
}

func newLab(ctx context.Context, cleanup func(func())) *lab { return newHostedLab(ctx, cleanup, 1) }

// newHostedLab is newLab over a cloud of so many hosts.
func newHostedLab(ctx context.Context, cleanup func(func()), hosts int) *lab {
	l := &lab{running: map[weir.ID]bool{}}
	l.cloud = cloud.NewFake(cloud.FakeOptions{Region: "local1", Machines: 20, Boots: boots, Hosts: hosts})
	db := store.Memory()
	l.control = control.New(control.Options{Region: "local1", Store: db, Cloud: l.cloud,
		NodeURL: "https://node.test", Drain: 50 * time.Millisecond, Poll: 20 * time.Millisecond, Look: 50 * time.Millisecond})
	if err := l.control.SetToken(ctx, "weir dev", weir.SecretSum(testToken)); err != nil {
		panic(err) // the store is in memory
	}
	l.breaker = &breaker{cloud: l.cloud, frozen: map[weir.ID]bool{}, cuts: map[weir.ID][]weir.Cut{}, boots: map[weir.ID]int{}}
	server := httptest.NewServer(api.New(api.Options{Control: l.control, Users: edge.NewTokens(l.control), Faults: l.breaker,
		Log:    slog.New(slog.DiscardHandler),
		Public: netip.MustParsePrefix("198.18.0.0/16"), Private: netip.MustParsePrefix("10.10.0.0/16")}))
	l.url = server.URL

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.control.Run(ctx) })
	wg.Go(func() { l.nodes(ctx) })
	cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		cancel()
		wg.Wait()
		db.Close()
	})
	return l
}

func boots(s cloud.Spec) (time.Duration, weir.Boot) {
	switch {
	case strings.Contains(s.UserData, "exit 3"):
		return 0, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3", Log: "/lab/" + s.Name + "/log",
			End: "+ mkfs /dev/sda\nthe disk is on \x1b[31mfire\n"}
	case strings.Contains(s.UserData, "sleep infinity"):
		return time.Hour, weir.Boot{State: weir.BootDone}
	}
	return 0, weir.Boot{State: weir.BootDone}
}

// nodes plays the agents of all load balancers' instances until ctx ends.
func (l *lab) nodes(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for ctx.Err() == nil {
		s, err := l.control.Status(ctx) // of all teams
		if err == nil {
			for _, m := range s.Machines {
				if m.LoadBalancer != "" && m.Phase == weir.MachineActive && !l.running[m.ID] {
					l.running[m.ID] = true
					wg.Go(func() { l.node(ctx, m.ID) })
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// node reports each configuration as live as soon as it has it, and again and again.
func (l *lab) node(ctx context.Context, id weir.ID) {
	pid, reload := 4000, int64(0)
	started := time.Now()
	var c weir.NodeConfig
	for ctx.Err() == nil {
		beat, cancel := context.WithTimeout(ctx, 5*time.Second)
		newer, err := l.control.NodeConfig(beat, id, c.Revision)
		cancel()
		if err == nil {
			c = newer
		} else if c.Revision == 0 {
			continue
		}
		if c.Proxy.Reload != reload {
			reload = c.Proxy.Reload
			pid += 7
		}
		status := weir.NodeStatus{Node: id, Revision: c.Revision, Agent: "dev",
			HAProxy: weir.HAProxyStatus{Version: "2.6.12", PID: pid, Started: started, Reloads: (pid - 4000) / 7}}
		for _, b := range c.Proxy.Backends {
			for _, server := range b.Servers {
				s := weir.ServerStatus{Backend: b.Name, ID: server.ID, State: weir.ServerUp, Requests: 12}
				if spec, ok := l.cloud.Spec(server.ID); ok && strings.Contains(spec.UserData, "no server") {
					s.State, s.Why = weir.ServerDown, "L4CON: Connection refused"
				}
				status.Servers = append(status.Servers, s)
			}
		}
		if _, err := l.control.Report(ctx, status); errors.Is(err, weir.Denied) {
			return // its machine is gone
		}
	}
}

// waitForBooting waits until n machines whose names begin with prefix are booting, and
// a moment longer for those who look at them.
func (l *lab) waitForBooting(ctx context.Context, n int, prefix string) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := l.control.Status(ctx)
		booting := 0
		for _, m := range s.Machines {
			if strings.HasPrefix(m.Name, prefix) && m.LoadBalancer == "" && m.Boot.State == weir.BootRunning {
				booting++
			}
		}
		if booting == n {
			time.Sleep(4 * askEvery)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d machines %s… are booting after 20 seconds, want %d (%v)", booting, prefix, n, err)
		}
	}
}

// waitForHealth waits until the instance of that name, or all two of a load balancer, are
// judged so.
func (l *lab) waitForHealth(ctx context.Context, name string, want weir.HealthState) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := l.control.Status(ctx)
		n, wanted := 0, 1
		for _, lb := range s.LoadBalancers {
			if lb.Name == name {
				wanted = weir.MinInstances
			}
			for _, in := range lb.Instances {
				if (lb.Name == name || nameOf(&s, in.Machine) == name) && in.Health.State == want && in.Node.Revision == in.Wants {
					n++
				}
			}
		}
		if n == wanted {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not %s after 20 seconds (%v)", name, want, err)
		}
	}
}

// handOver makes an instance the active one, and leaves those who follow the events some time.
func (l *lab) handOver(ctx context.Context, to string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := l.control.Status(ctx)
	if err != nil {
		return err
	}
	for _, lb := range s.LoadBalancers {
		for _, in := range lb.Instances {
			if nameOf(&s, in.Machine) == to {
				if in.Active {
					return nil
				}
				_, err := l.control.Failover(ctx, lb.ID, in.Machine)
				time.Sleep(6 * followEvery)
				return err
			}
		}
	}
	return fmt.Errorf("there is no instance %s", to)
}

// twins makes two machines of one name, which the pools' verbs do not.
func (l *lab) twins(ctx context.Context) error {
	_, _, err := l.control.CreateMachines(ctx, []string{"twin", "twin"},
		weir.Template{Region: "local1", Size: "s-1vcpu-1gb", Image: "debian-12-x64"})
	return err
}

// breaker breaks a lab's machines, and keeps what is wrong with each.
type breaker struct {
	cloud *cloud.Fake

	mu     sync.Mutex
	frozen map[weir.ID]bool
	cuts   map[weir.ID][]weir.Cut
	boots  map[weir.ID]int // by Reboot
}

func (b *breaker) change(id weir.ID, do func()) error {
	if _, there := b.cloud.Spec(id); !there {
		return weir.Errorf(weir.NotFound, "there is no machine %s", id)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
	return nil
}

func (b *breaker) Kill(_ context.Context, id weir.ID) error {
	return b.change(id, func() { b.cloud.Kill(id) })
}

func (b *breaker) Reboot(_ context.Context, id weir.ID) error {
	return b.change(id, func() { b.boots[id]++ })
}

func (b *breaker) Freeze(_ context.Context, id weir.ID) error {
	return b.change(id, func() { b.frozen[id] = true })
}

func (b *breaker) Thaw(_ context.Context, id weir.ID) error {
	return b.change(id, func() { delete(b.frozen, id) })
}

func (b *breaker) Partition(_ context.Context, id weir.ID, cut weir.Cut) error {
	return b.change(id, func() { b.cuts[id] = append(b.cuts[id], cut) })
}

func (b *breaker) FailHost(ctx context.Context, name string) error {
	return b.cloud.FailHost(ctx, name)
}

func (b *breaker) RestoreHost(ctx context.Context, name string) error {
	return b.cloud.RestoreHost(ctx, name)
}

func (b *breaker) Heal(_ context.Context, id weir.ID) error {
	return b.change(id, func() { delete(b.cuts, id) })
}

// wrong says what is wrong with the machine of that name.
func (l *lab) wrong(ctx context.Context, name string) (string, error) {
	all, err := l.control.Machines(ctx)
	if err != nil {
		return "", err
	}
	b := l.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range all {
		if m.Name == name {
			var said []string
			if b.frozen[m.ID] {
				said = append(said, "frozen")
			}
			for _, cut := range b.cuts[m.ID] {
				said = append(said, fmt.Sprintf("cut:%s:%s:%v", cut.Link, cut.Direction, cut.Down))
			}
			if n := b.boots[m.ID]; n > 0 {
				said = append(said, fmt.Sprint("rebooted:", n))
			}
			return strings.Join(said, " "), nil
		}
	}
	return "", fmt.Errorf("there is no machine %s", name)
}
