package sim

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
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
	stories   = flag.String("stories", "", "the directory for the whole stories of failures, and of -seed; empty prints ends of failures")
)

const (
	troubled = 40 * time.Second
	settles  = 5 * time.Minute  // how long after the trouble all must be well
	checks   = 10 * time.Second // by when servers have passed their health checks
	restful  = 2 * time.Minute  // for how long then nothing may happen
	lastPart = 60               // lines of a story that are printed
)

func TestSim(t *testing.T) {
	first, last := uint64(1), *histories
	if *only != 0 {
		first, last = *only, *only
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { history(t, seed) })
		})
	}
}

// history lives one history through, and tells it if it ends badly.
func history(t *testing.T, seed uint64) {
	ctx, end := context.WithCancel(t.Context())
	w := &world{ctx: ctx, seed: seed, begin: time.Now(), memory: store.NewMemory(), ether: newEther(), rolls: map[string]uint64{}}
	w.truth = store.New(w.memory)
	o := cloud.FakeOptions{Region: region, Boots: w.boots, Fault: w.fault}
	if chance(w.random("cloud"), 25) {
		o.Machines, o.Addresses = 12, 4 // which users soon need more of
	}
	w.cloud = cloud.NewFake(o)
	w.nodes.all = map[weir.ID]*node{}
	w.known.facts, w.known.going = map[fact]bool{}, map[weir.ID]bool{}
	defer w.wg.Wait()
	defer end()

	for _, name := range []string{"anna", "bert"} {
		m := &member{name: name}
		w.members = append(w.members, m)
		w.wg.Go(func() { w.live(m) })
	}
	w.wg.Go(w.boot)
	synctest.Wait()

	w.begins(t)
	w.trouble.Store(true)
	w.someTrouble(ctx)
	w.trouble.Store(false)
	w.ether.healAll()
	w.tell("the trouble is over")
	if o.Machines > 0 {
		w.operate(o.Machines, o.Addresses)
	}
	w.calms(t)
	if t.Failed() || *only != 0 && *stories != "" {
		w.print(t)
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
}

// someTrouble has users and chaos at work for a while.
func (w *world) someTrouble(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, end := context.WithTimeout(ctx, troubled)
	defer end()
	names := []string{"uma", "vic", "wes"}
	for n, name := range names {
		u := &user{w: w, name: name, n: n, of: len(names), r: w.random(name)}
		wg.Go(func() { u.want(ctx) })
	}
	wg.Go(func() { w.chaos(ctx) })
	wg.Go(func() { w.breaks(ctx) })
	<-ctx.Done()
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
