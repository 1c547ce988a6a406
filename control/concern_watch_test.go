package control

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// blinks fails a few reads of the revision.
type blinks struct {
	store.Backend
	fail atomic.Int64
}

func (b *blinks) Read(ctx context.Context, span store.Span, revision int64) ([]store.Entry, int64, error) {
	if span == (store.Span{}) && b.fail.Add(-1) >= 0 {
		return nil, 0, weir.Errorf(weir.Unavailable, "etcd: leader changed")
	}
	return b.Backend.Read(ctx, span, revision)
}

func TestServerThatComesWhileTheStoreIsAwayForAMomentIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &blinks{Backend: store.NewMemory()}
		c := New(Options{Region: "lab", Store: store.New(b), Cloud: cloud.NewFake(cloud.FakeOptions{}), Drain: time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { c.Run(ctx) })
		defer func() { cancel(); wg.Wait(); c.Store.Close() }()
		lb := balancer()
		lb.Name, lb.Region, lb.Tag = "shop", "lab", "web"
		must(c.CreateLoadBalancer(t.Context(), lb))(t)
		ms, _, err := c.CreateMachines(t.Context(), []string{"m1"}, weir.Template{Region: "lab", Size: "s-1vcpu-1gb", Image: "debian-12-x64"})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CreateTag(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			time.Sleep(time.Second)
			all := must(c.Machines(t.Context()))(t)
			for _, m := range all {
				if m.LoadBalancer == "" {
					continue
				}
				cfg, err := nodeConfigs.Get(t.Context(), c.Store, m.ID)
				if err == nil {
					must(c.Report(t.Context(), weir.NodeStatus{Node: m.ID, Revision: cfg.Revision}))(t)
				}
			}
		}
		synctest.Wait()
		b.fail.Store(3) // as many looks fail as follow
		if err := c.Tag(t.Context(), "web", []weir.ID{ms[0].ID}, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		configs := must(nodeConfigs.All(t.Context(), c.Store))(t)
		for _, cfg := range configs {
			if !cfg.Proxy.Serves(ms[0].ID) {
				t.Errorf("node %s has no server 10 minutes after", cfg.Node)
			}
		}
	})
}

// breaks ends the watch of node_configs once, when told.
type breaks struct {
	store.Backend
	cut  chan struct{}
	gate chan struct{}
}

func (b *breaks) Watch(ctx context.Context, span store.Span, after int64) iter.Seq2[[]store.Event, error] {
	return func(yield func([]store.Event, error) bool) {
		select {
		case <-b.cut:
			for e, err := range b.Backend.Watch(ctx, span, after) {
				if !yield(e, err) {
					return
				}
			}
		default:
			in, cancel := context.WithCancel(ctx)
			defer cancel()
			go func() {
				select {
				case <-b.cut:
					cancel()
				case <-in.Done():
				}
			}()
			for e, err := range b.Backend.Watch(in, span, after) {
				if in.Err() != nil {
					break
				}
				if !yield(e, err) {
					return
				}
			}
			if ctx.Err() == nil {
				<-b.gate
				yield(nil, weir.Errorf(weir.Unavailable, "watch lost"))
			}
		}
	}
}

func TestNodesAreKnownAfterAConfigurationCameAndWentUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &breaks{Backend: store.NewMemory(), cut: make(chan struct{}), gate: make(chan struct{})}
		db := store.New(b)
		n := newNodes(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { n.follow(ctx, db, slog.New(slog.DiscardHandler)) })
		defer func() { cancel(); wg.Wait(); db.Close() }()
		put := func(id weir.ID, gone bool) {
			if err := db.Update(ctx, func(tx *store.Tx) error {
				if gone {
					nodeConfigs.Delete(tx, id)
				} else {
					nodeConfigs.Put(tx, id, weir.NodeConfig{Node: id})
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		put("1", false)
		time.Sleep(5 * time.Second)
		ask := func(when string) {
			c, stop := context.WithTimeout(ctx, time.Hour)
			defer stop()
			if _, all, err := n.mayServe(c, db, "9"); err != nil || !all {
				t.Errorf("%s: it knows all: %v (%v), want that it does", when, all, err)
			}
		}
		ask("at first")
		close(b.cut)
		synctest.Wait()
		put("2", false)
		put("2", true)
		close(b.gate)
		time.Sleep(time.Minute)
		ask("after a row came and went while the watch was away")
	})
}
