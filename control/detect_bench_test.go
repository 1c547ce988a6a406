package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// BenchmarkDetection measures what it costs one leader to watch so many load balancers, each with
// two instances that report every 5 s and whose addresses are asked over TCP, HAProxy answering; and how
// long it takes from the first sign that an active instance is dead, which is its peer's report,
// to the decision. The store is in memory, and reports come by a call.
//
//	cpu-%      of one core, while all is well; reports included
//	ms/median  from sign to decision, of 20 one after the other
//	ms/max     the longest of them
//
//	go test -run xxx -bench Detection -benchtime 1x ./control
func BenchmarkDetection(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for range b.N {
				measureDetection(b, n)
			}
		})
	}
}

// populace is many load balancers, and the network that their instances are on.
type populace struct {
	n      int
	db     *store.Store
	health string // where a HAProxy answers for all
	mu     sync.Mutex
	dead   map[netip.Addr]bool
}

// Instances of load balancer i are at 127.1.x.y and 127.2.x.y; its address is 127.3.x.y.
func (p *populace) addr(kind byte, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, kind, byte(i >> 8), byte(i)})
}

func (p *populace) lb(i int) weir.ID { return weir.ID(fmt.Sprintf("lb-%05d", i)) }
func (p *populace) instance(kind byte, i int) weir.ID {
	return weir.ID(fmt.Sprint(int(kind)*100_000 + i))
}

// dial leads to HAProxy whoever is asked, unless that one is dead.
func (p *populace) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if p.isDead(to.Addr()) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return (&net.Dialer{}).DialContext(ctx, network, p.health)
}

// agents answer wherever HAProxy does, without being asked: they are when something is amiss alone.
type agents struct{ Prober }

func (a agents) Probe(ctx context.Context, t Target) Finding {
	t.Agent = nil
	f := a.Prober.Probe(ctx, t)
	f.Agent = f.Alive
	return f
}

// report is what an instance says of itself, and that it hears its peer, or does not.
func (p *populace) report(kind byte, i int, peer weir.PathState) weir.NodeStatus {
	other := 3 - kind
	path := weir.PathStatus{Addr: p.addr(other, i), State: peer}
	return weir.NodeStatus{Node: p.instance(kind, i), Revision: 1, LoadBalancer: p.lb(i),
		Peers: []weir.PeerStatus{{Node: p.instance(other, i), Paths: []weir.PathStatus{path}}}}
}

// settle writes the rows of load balancers that are all up, some at a time.
func (p *populace) settle(ctx context.Context) error {
	const chunk = 100
	for first := 0; first < p.n; first += chunk {
		err := p.db.Update(ctx, func(tx *store.Tx) error {
			for i := first; i < min(first+chunk, p.n); i++ {
				if err := p.put(ctx, tx, i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// put writes the rows of one load balancer: instance 1 is active.
func (p *populace) put(ctx context.Context, tx *store.Tx, i int) error {
	id, now := p.lb(i), time.Now().UTC()
	lb := balancer()
	lb.ID, lb.Name, lb.Revision, lb.Key = id, string(id), 1, newKey()
	lb.Status = weir.LoadBalancerStatus{Phase: weir.LoadBalancerActive, Address: p.addr(3, i), Active: p.instance(1, i), Since: now}
	for kind := byte(1); kind <= 2; kind++ {
		m := instance(i)
		m.ID, m.Name, m.LoadBalancer = p.instance(kind, i), fmt.Sprintf("%s-%d", id, kind), id
		m.Status.Private = p.addr(kind, i)
		machines.Put(tx, m.ID, m)
		nodeConfigs.Put(tx, m.ID, weir.NodeConfig{Node: m.ID, Revision: 1, Proxy: weir.Proxy{LoadBalancer: id}})
		nodeStatuses.Put(tx, m.ID, p.report(kind, i, weir.PathUp))
		lb.Status.Health = append(lb.Status.Health, weir.Health{Machine: m.ID, State: weir.InstanceWell, Since: now})
	}
	addresses.Put(tx, id, weir.Address{Owner: id, Created: now, Addr: p.addr(3, i), Machine: p.instance(1, i), Assigned: p.instance(1, i)})
	loadBalancers.Put(tx, id, lb)
	return nil
}

// startHAProxy starts a HAProxy that answers as all instances do, and returns where.
func startHAProxy(b *testing.B) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	file := filepath.Join(b.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf("defaults\n mode http\n timeout client 5s\n timeout connect 5s\n timeout server 5s\n"+
		"frontend health\n bind %s backlog 4096\n http-request return status 200\n", addr)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("haproxy", "-db", "-f", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		b.Skipf("HAProxy cannot be started (scripts/deps installs it): %v", err)
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return addr
}

func measureDetection(b *testing.B, n int) {
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	p := &populace{n: n, db: store.New(store.NewMemory()), health: startHAProxy(b), dead: map[netip.Addr]bool{}}
	if err := p.settle(ctx); err != nil {
		b.Fatal(err)
	}
	c := New(Options{Region: "local1", Store: p.db, Cloud: cloud.None{}, Prober: agents{NewProber(p.dial)}})
	t := newTerm(c, p.db)
	t.nodes.heardBy(t.hear)
	wg.Go(func() { c.nodes.follow(ctx, p.db, c.Log) })
	wg.Go(func() { t.pairs.Run(ctx) })
	wg.Go(func() { t.watches.Run(ctx) })
	for i := range n {
		t.pairs.Touch(p.lb(i))
	}
	report := func(s weir.NodeStatus) {
		if _, err := c.Report(ctx, s); err != nil && !errors.Is(err, context.Canceled) {
			b.Error(err)
		}
	}
	wg.Go(func() { // each instance in its turn, all in 5 s
		began := time.Now()
		for sent := 0; ctx.Err() == nil; {
			due := int(time.Since(began) * time.Duration(2*n) / (5 * time.Second))
			for ; sent < due && ctx.Err() == nil; sent++ {
				i, kind := sent/2%n, byte(sent%2+1)
				if !p.isDead(p.addr(kind, i)) && !p.isDead(p.addr(3-kind, i)) {
					report(p.report(kind, i, weir.PathUp))
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	time.Sleep(10 * time.Second) // all are asked, and report, in their turn

	const calm = 10 * time.Second
	before := used(b)
	time.Sleep(calm)
	b.ReportMetric(100*float64(used(b)-before)/float64(calm), "cpu-%")

	var took []time.Duration
	for k := range min(20, n) {
		i := k * (n / min(20, n))
		p.kill(p.addr(1, i), p.addr(3, i))
		began := time.Now()
		report(p.report(2, i, weir.PathSilent))
		for {
			a, err := addresses.Get(ctx, p.db, p.lb(i))
			if err != nil {
				b.Fatal(err)
			}
			if a.Machine == p.instance(2, i) {
				break
			}
			if time.Since(began) > 30*time.Second {
				lb, err := loadBalancers.Get(ctx, p.db, p.lb(i))
				b.Fatalf("load balancer %d of %d has not failed over after 30 s: %+v, %v", i, n, lb.Status, err)
			}
			time.Sleep(200 * time.Microsecond)
		}
		took = append(took, time.Since(began))
		p.revive(p.addr(3, i))
	}
	slices.Sort(took)
	b.ReportMetric(milliseconds(took[len(took)/2]), "ms/median")
	b.ReportMetric(milliseconds(took[len(took)-1]), "ms/max")
	b.ReportMetric(0, "ns/op")
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (p *populace) isDead(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead[a]
}

func (p *populace) kill(addrs ...netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range addrs {
		p.dead[a] = true
	}
}

func (p *populace) revive(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.dead, a)
}

// used returns the CPU time that this process has used.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
