package sim

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

var (
	only      = flag.Uint64("seed", 0, "the seed of the only history; 0 for -histories of them")
	histories = flag.Uint64("histories", enough, "how many histories, with seeds from 1")
	calm      = flag.Duration("calm", calmEnough, "how long nothing may happen where nothing is wrong")
	stories   = flag.String("stories", "", "the directory for the whole stories of failures, and of -seed; empty prints ends of failures")
)

const (
	troubled = 40 * time.Second
	settles  = 5 * time.Minute  // how long after the trouble all must be well
	checks   = 10 * time.Second // by when servers have passed their health checks
	restful  = 2 * time.Minute  // for how long then nothing may happen
	lastPart = 60               // lines of a story that are printed

	hosts                     = 3     // of a cloud that has several
	fewMachines, fewAddresses = 14, 4 // of a small cloud, which users soon need more of
)

// tally counts, over all histories, what has to happen for a test to say something.
type tally struct {
	moves    atomic.Int64 // of addresses, from one instance to another, unasked
	planned  atomic.Int64 // asked for
	killed   atomic.Int64 // leaders, between the decision to move an address and its arrival
	fences   atomic.Int64 // instances that were replaced
	serving  atomic.Int64 // of those, how many could still serve
	two      atomic.Int64 // times that two nodes held an address
	segments atomic.Int64 // moves of addresses that nodes hold by themselves
	spread   atomic.Int64 // times that an instance got the address, or a share of it, while several had one
}

func (c *tally) String() string {
	return fmt.Sprintf("%d failovers and %d hand-overs, %d of them on a segment; %d leaders killed in the middle; %d instances replaced, %d of which could still serve; %d times an address was spread; %d times two holders for a moment",
		c.moves.Load(), c.planned.Load(), c.segments.Load(), c.killed.Load(), c.fences.Load(), c.serving.Load(), c.spread.Load(), c.two.Load())
}

func TestSim(t *testing.T) {
	first, last := uint64(1), *histories
	if *only != 0 {
		first, last = *only, *only
	}
	counts := &tally{}
	t.Cleanup(func() {
		t.Log(counts)
		if *histories >= 100 && *only == 0 && (counts.killed.Load() == 0 || counts.segments.Load() == 0 || counts.spread.Load() == 0 || counts.two.Load() == 0) {
			t.Errorf("these histories meet too little: %s", counts)
		}
	})
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { history(t, seed, counts) })
		})
	}
}

// history lives one history through, and tells it if it ends badly.
func history(t *testing.T, seed uint64, counts *tally) {
	w, end := newWorld(t, seed, counts)
	defer end()
	w.begins(t)
	if chance(w.random("segment"), 60) {
		w.joins(t)
	}
	w.trouble.Store(true)
	w.someTrouble(w.ctx)
	w.trouble.Store(false)
	w.tell("the trouble is over")
	if w.small {
		w.operate(fewMachines, fewAddresses)
	}
	w.calms(t)
	if t.Failed() || *only != 0 && *stories != "" {
		w.print(t)
	}
}

// newWorld returns a world in which the control plane runs, and what ends it.
func newWorld(t *testing.T, seed uint64, counts *tally) (w *world, end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	w = &world{ctx: ctx, seed: seed, begin: time.Now(), memory: store.NewMemory(), rolls: map[string]uint64{}, net: newNetwork(), tally: counts}
	w.truth = store.New(w.memory)
	w.small = chance(w.random("cloud"), 25)
	w.jumps = chance(w.random("jumps"), 20)
	w.hosted = chance(w.random("hosts"), 50)
	o := cloud.FakeOptions{Region: region, Boots: w.boots, Fault: w.fault}
	if w.small {
		o.Machines, o.Addresses = fewMachines, fewAddresses
	}
	if w.hosted {
		o.Hosts = hosts
	}
	w.cloud = cloud.NewFake(o)
	w.nodes.all = map[weir.ID]*node{}
	w.known.facts, w.known.going = map[fact]bool{}, map[weir.ID]bool{}
	for i, name := range []string{"anna", "bert", "cleo"} {
		w.members = append(w.members, &member{name: name, addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)})})
	}
	for _, m := range w.members {
		w.wg.Go(func() { w.live(m) })
	}
	w.wg.Go(w.boot)
	synctest.Wait()
	return w, func() {
		cancel()
		w.wg.Wait()
	}
}

// begins makes what all users know of.
func (w *world) begins(t *testing.T) {
	c := w.members[0].get().Control
	for _, name := range []string{"web", "batch"} {
		if _, err := c.Apply(w.ctx, new(pool(name, name, 2)), balancer(name, name), false); err != nil {
			t.Fatalf("apply %s: %v", name, err)
		}
	}
	w.known.least, w.known.most = 2, 2
	p := pool("auto", "auto", 3)
	p.Autoscale = &weir.Autoscale{}
	p, err := c.CreateAutoscalePool(w.ctx, p)
	if err != nil {
		t.Fatalf("create an autoscale pool: %v", err)
	}
	w.scaled = p.ID
}

// someTrouble has users and chaos at work for a while.
func (w *world) someTrouble(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, end := context.WithTimeout(ctx, troubled)
	defer end()
	names := []string{"uma", "vic", "wes"}
	for n, name := range names {
		u := &user{w: w, name: name, n: n, of: len(names), r: w.random(name), pools: []weir.ID{w.scaled}}
		wg.Go(func() { u.want(ctx) })
	}
	wg.Go(func() { w.chaos(ctx) })
	if w.hosted {
		wg.Go(func() { w.hostsFail(ctx) })
	}
	wg.Go(func() { w.breaks(ctx) })
	wg.Go(func() { w.clocks(ctx) })
	<-ctx.Done()
}

// Where nothing breaks nothing moves, although nobody is ever quite on time.
func TestAddressStaysWhereNothingIsWrong(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				counts := &tally{}
				w, end := newWorld(t, seed, counts)
				defer end()
				w.begins(t)
				w.joins(t)
				time.Sleep(time.Minute)
				before := counts.String()
				r := w.random("jitter")
				for began := time.Now(); time.Since(began) < *calm; {
					time.Sleep(upTo(r, 4*time.Second))
					for _, n := range w.nodes.list() {
						if d := upTo(r, beatSilent-time.Millisecond); chance(r, 40) {
							w.wg.Go(func() {
								heal := n.hold(&n.frozen)()
								sleep(w.ctx, d)
								heal()
							})
						}
					}
				}
				if after := counts.String(); after != before || counts.moves.Load()+counts.fences.Load() > 0 {
					t.Errorf("%v in which nothing was wrong saw %s, and before that %s", *calm, after, before)
				}
				if amiss := w.amiss(); len(amiss) > 0 {
					t.Errorf("then:\n\t%s", strings.Join(amiss, "\n\t"))
				}
				if t.Failed() {
					w.print(t)
				}
			})
		})
	}
}

// calms waits until all is as it was asked, and looks whether it stays so.
func (w *world) calms(t *testing.T) {
	over := time.Now()
	for amiss := w.amiss(); len(amiss) > 0; amiss = w.amiss() {
		if time.Since(over) > settles {
			t.Errorf("seed %d: %v after the trouble:\n\t%s", w.seed, settles, strings.Join(amiss, "\n\t"))
			break
		}
		time.Sleep(time.Second)
	}
	w.tell("%v after the trouble", time.Since(over))
	time.Sleep(checks) // the nodes still report their servers up
	calls, revision, err := w.still(w.ctx)
	time.Sleep(restful)
	callsLater, revisionLater, errLater := w.still(w.ctx)
	if err != nil || errLater != nil || callsLater != calls || revisionLater != revision {
		t.Errorf("seed %d: when all was well, %v saw %d more changes of the cloud and %d more commits (%v, %v), want none",
			w.seed, restful, callsLater-calls, revisionLater-revision, err, errLater)
	}
	if amiss := append(w.amiss(), w.shown()...); len(amiss) > 0 && !t.Failed() {
		t.Errorf("seed %d: when all had been well:\n\t%s", w.seed, strings.Join(amiss, "\n\t"))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, what := range w.wrong {
		t.Errorf("seed %d: %s", w.seed, what)
	}
}

// print tells the story.
func (w *world) print(t *testing.T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.story
	if *stories != "" {
		name := fmt.Sprintf("%s/seed-%d", *stories, w.seed)
		if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Error(err)
		}
		t.Logf("seed %d: the story is in %s", w.seed, name)
		return
	}
	if len(lines) > lastPart {
		lines = lines[len(lines)-lastPart:]
	}
	t.Logf("seed %d: the story, or its end (-stories DIR for all of it):\n%s", w.seed, strings.Join(lines, "\n"))
}
