package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/edge"
	tables "weir/store"
	"weir/weir"
)

type store = tables.Store

// What the rows are made of.
const (
	region   = "lab"
	nodes    = 1000      // that wait for a configuration
	perTag   = 100       // droplets of one tag
	atOnce   = 1000      // rows in a transaction
	firstID  = 100_001   // of droplets
	nodeBase = 9_000_000 // IDs of nodes follow
)

// The control plane's tables: a table is its name.
var (
	machines      = tables.NewTable[weir.Machine]("machines")
	loadBalancers = tables.NewTable[weir.LoadBalancer]("load_balancers")
	tags          = tables.NewTable[map[string]any]("tags")
	sequences     = tables.NewTable[int64]("sequences")
	nodeConfigs   = tables.NewTable[weir.NodeConfig]("node_configs")
)

func openStore(ctx context.Context, dir string) (*store, error) {
	return tables.Embed(ctx, filepath.Join(dir, "store"), slog.New(slog.DiscardHandler))
}

// balancerID returns the ID of the load balancer of a number, and tagOf the tag of a droplet's.
func balancerID(n int) weir.ID  { return weir.ID(fmt.Sprintf("%08x-0000-4000-8000-000000000000", n)) }
func dropletID(n int) weir.ID   { return weir.ID(fmt.Sprint(firstID + n)) }
func balancerName(n int) string { return fmt.Sprintf("shop-%d", n) }
func tagOf(droplet int) string  { return fmt.Sprintf("tag-%d", droplet/perTag) }

// generate makes the load balancers from number had to before n, and each one's droplets.
func generate(ctx context.Context, db *store, had, n, droplets int) error {
	began := time.Now().Add(-time.Hour).UTC()
	err := inBatches(ctx, db, had*droplets, n*droplets, func(tx *tables.Tx, i int) {
		m := machineOf(i, began)
		machines.Put(tx, m.ID, m)
		if i%perTag == 0 {
			tags.Put(tx, weir.ID(tagOf(i)), map[string]any{"name": tagOf(i), "created": began})
		}
	})
	if err != nil {
		return err
	}
	err = inBatches(ctx, db, had, n, func(tx *tables.Tx, i int) {
		lb := balancerOf(i, droplets, began)
		loadBalancers.Put(tx, lb.ID, lb)
	})
	if err != nil {
		return err
	}
	return db.Update(ctx, func(tx *tables.Tx) error {
		last, err := tables.Last(ctx, tx, "machines")
		sequences.Put(tx, "machines", max(last, nodeBase+nodes)) // what is created comes behind all of them
		return err
	})
}

// inBatches has put write the rows of the numbers from begin to before end.
func inBatches(ctx context.Context, db *store, begin, end int, put func(tx *tables.Tx, i int)) error {
	for ; begin < end; begin += atOnce {
		err := db.Update(ctx, func(tx *tables.Tx) error {
			for i := begin; i < min(begin+atOnce, end); i++ {
				put(tx, i)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func machineOf(i int, at time.Time) weir.Machine {
	private := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	return weir.Machine{
		ID: dropletID(i), Name: fmt.Sprintf("web-%d", i), Created: at, Changed: at,
		Template: weir.Template{Region: region, Size: weir.DefaultNodeSize, Image: "debian-12-x64", Tags: []string{tagOf(i)}},
		Firewall: &weir.Firewall{Openings: []weir.Opening{{Port: 80, Peers: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.2/32")}}}},
		Status: weir.MachineStatus{Phase: weir.MachineActive, Public: netip.AddrFrom4([4]byte{198, byte(i >> 16), byte(i >> 8), byte(i)}),
			Private: private, Boot: weir.Boot{State: weir.BootDone}},
	}
}

func balancerOf(i, droplets int, at time.Time) weir.LoadBalancer {
	lb := weir.LoadBalancer{ID: balancerID(i), Name: balancerName(i), Region: region, Size: weir.DefaultNodeSize, Instances: weir.MinInstances,
		Algorithm: weir.RoundRobin, Health: weir.DefaultCheck(), Idle: weir.DefaultIdle, Created: at, Key: make([]byte, 32), Revision: 1,
		Rules:  []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}},
		Status: weir.LoadBalancerStatus{Phase: weir.LoadBalancerActive, Address: netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)})}}
	for d := range droplets {
		lb.Machines = append(lb.Machines, dropletID(i*droplets+d))
	}
	return lb
}

// plane is a control plane that serves the API.
type plane struct {
	db    *store
	ctl   *control.Control
	url   string
	token string
	stop  func()
}

func startPlane(ctx context.Context, db *store) (*plane, error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	p := &plane{db: db, token: weir.NewSecret()}
	p.ctl = control.New(control.Options{Region: region, Store: db, Cloud: cloud.NewFake(cloud.FakeOptions{Machines: 1 << 30})})

	running.Go(func() { p.ctl.Serve(ctx) })
	p.stop = func() { cancel(); running.Wait() }
	if err := p.ctl.SetToken(ctx, "bench", weir.SecretSum(p.token)); err != nil {
		p.stop()
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.stop()
		return nil, err
	}
	p.url = "http://" + l.Addr().String()
	server := &http.Server{Handler: api.New(api.Options{Control: p.ctl, Users: edge.NewTokens(p.ctl), Log: slog.New(slog.DiscardHandler)})}
	running.Go(func() { server.Serve(l) })
	p.stop = func() { server.Close(); cancel(); running.Wait() }
	return p, nil
}

// ready waits until lists are in memory.
func (p *plane) ready(ctx context.Context) error {
	_, _, err := p.ctl.MachinePage(ctx, weir.Filter{}, 0, 1)
	if err == nil {
		_, _, err = p.ctl.LoadBalancerPage(ctx, weir.Filter{}, 0, 1)
	}
	if err == nil {
		_, err = p.ctl.TagNamed(ctx, tagOf(0))
	}
	return err
}

// fanOut has many nodes wait, changes a load balancer that often, and returns how long it took each time, in
// milliseconds, until the last node had what follows from it.
func (p *plane) fanOut(ctx context.Context, many, times int) (took []float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	revision, err := p.configure(ctx, many)
	if err != nil {
		return nil, err
	}
	arrived := make(chan int64, many)
	for i := range many {
		waiting.Go(func() {
			for after := int64(0); ; {
				c, err := p.ctl.NodeConfig(ctx, nodeID(i), after)
				if err != nil {
					return
				}
				after = c.Revision
				select {
				case arrived <- after:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	all := func() error {
		deadline := time.After(time.Minute)
		for n := 0; n < many; {
			select {
			case got := <-arrived:
				if got == revision {
					n++
				}
			case <-ctx.Done():
				return ctx.Err()
			case <-deadline:
				return errors.New("not all nodes have their configuration after a minute")
			}
		}
		return nil
	}
	if err := all(); err != nil {
		return nil, err
	}
	c, err := dial(ctx, p.url, p.token)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for i := range times {
		began := time.Now()
		if status, err := c.do("PUT", "/v2/load_balancers/"+string(balancerID(0)), balancerBody(0, 10, i)); err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("PUT: status %d: %w", status, err)
		}
		if revision, err = p.configure(ctx, many); err != nil {
			return nil, err
		}
		if err := all(); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
	}
	return took, nil
}

func nodeID(i int) weir.ID { return weir.ID(fmt.Sprint(nodeBase + i)) }

// configure stores another configuration for each node, as a load balancer's controller does.
func (p *plane) configure(ctx context.Context, many int) (revision int64, err error) {
	err = p.db.Update(ctx, func(tx *tables.Tx) error {
		var err error
		if revision, err = tables.Next(ctx, tx, "bench_revisions", 1); err != nil {
			return err
		}
		for i := range many {
			c := weir.NodeConfig{Node: nodeID(i), Revision: revision, Proxy: weir.Proxy{LoadBalancer: balancerID(0), Name: balancerName(0), Health: true,
				Frontends: []weir.Frontend{{Name: "http-80", Bind: netip.MustParseAddrPort("10.0.0.1:80"), Mode: weir.HTTP, Idle: weir.DefaultIdle, Backend: "servers-http-80"}},
				Backends:  []weir.Backend{{Name: "servers-http-80", Mode: weir.HTTP, Balance: weir.RoundRobin, Idle: weir.DefaultIdle, Check: weir.DefaultCheck()}}}}
			for s := range 10 {
				c.Proxy.Backends[0].Servers = append(c.Proxy.Backends[0].Servers,
					weir.Server{ID: dropletID(s), Name: fmt.Sprintf("web-%d", s), Addr: netip.MustParseAddrPort("10.0.0.9:80"), Weight: 1})
			}
			nodeConfigs.Put(tx, c.Node, c)
		}
		return nil
	})
	return revision, err
}
