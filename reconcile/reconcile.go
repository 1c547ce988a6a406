// Package reconcile runs a function for each thing that may have changed, until it
// is as it should be.
//
// A [Loop] is level-triggered: it is told an ID, never an event, and its [Func] looks
// for itself what is to be done. One ID never runs twice at once. However often an ID
// is touched before its turn, it runs once; touched during its run, it runs once more.
// IDs run in the order in which they fell due, so none starves behind a busy one.
//
// What fails runs again, later each time, with jitter: after 100 to 200 ms at first, after
// 15 to 30 s at last. A touch brings it forward, because something has changed, but
// never to less than 100 ms after the failure: two things that touch each other and
// fail would otherwise take a whole core. A success ends the back-off.
//
// The package knows nothing of stores and clouds, and remembers nothing across a
// restart: whoever starts a Loop touches all there is.
package reconcile

import (
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"weir/weir"
)

const (
	firstWait = 200 * time.Millisecond
	lastWait  = 30 * time.Second
	floor     = 100 * time.Millisecond // between a failure and the next run, whatever happens
)

// Func brings the thing with that ID closer to what it should be. If again is
// positive, it runs again after that time at the latest; a touch comes first, and each
// run replaces what the run before it said. After an error again is ignored.
type Func func(ctx context.Context, id weir.ID) (again time.Duration, err error)

// Options of a Loop. The zero value is of use.
type Options struct {
	Workers int                         // how many IDs run at once; 0 means 1
	Log     *slog.Logger                // gets each failure; nil means slog.Default()
	Failed  func(id weir.ID, err error) // called after each failure, by the worker; may be nil
	Rand    *rand.Rand                  // of the jitter, used by this Loop alone; nil means a random one
}

// Loop runs a Func for IDs. Make one with New.
type Loop struct {
	name string
	do   Func
	o    Options
	wake chan struct{} // full when Run should look at waiting

	mu      sync.Mutex
	items   map[weir.ID]*item // all that wait or run
	waiting queue
	seq     int64
	did     weir.Work
}

// item is an ID that waits, or runs.
type item struct {
	id      weir.ID
	running bool
	touched bool          // while it was running
	due     time.Time     // when it runs; it is in waiting unless it is running
	seq     int64         // its place among those due at the same time
	index   int           // in waiting
	wait    time.Duration // the back-off after its last failure; 0 after a success
	failed  time.Time     // when it last failed; zero after a success
}

// New returns a Loop that runs do. Logs name the ID by name: "pool", "lb".
func New(name string, do Func, o Options) *Loop {
	if o.Workers == 0 {
		o.Workers = 1
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return &Loop{name: name, do: do, o: o, wake: make(chan struct{}, 1), items: map[weir.ID]*item{}}
}

// Touch has each of ids run soon. It never waits for a run, and may be called at any
// time: what is touched before Run runs when Run does.
func (l *Loop) Touch(ids ...weir.ID) {
	l.mu.Lock()
	now := time.Now()
	for _, id := range ids {
		it := l.items[id]
		switch {
		case it == nil:
			it = &item{id: id}
			l.items[id] = it
			l.queue(it, now)
		case it.running:
			it.touched = true
		case it.due.After(now):
			heap.Remove(&l.waiting, it.index)
			l.queue(it, it.soonest(now))
		}
	}
	l.mu.Unlock()
	l.look()
}

// Work returns what the Loop does, and has done.
func (l *Loop) Work() weir.Work {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.did
	w.Kind, w.Waiting, w.Running = l.name, len(l.waiting), len(l.items)-len(l.waiting)
	return w
}

// Run runs what is touched until ctx ends, and then waits for the runs under way, whose
// context it is. Run is called once. It returns nil.
func (l *Loop) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, l.o.Workers)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select { // a free worker first: what runs next is decided when it can run
		case <-ctx.Done():
			return nil
		case free <- struct{}{}:
		}
		it := l.next(ctx, timer)
		if it == nil {
			return nil
		}
		wg.Go(func() {
			again, err := l.run(ctx, it.id)
			l.finish(ctx, it, again, err)
			<-free
		})
	}
}

// next waits for the first item to fall due and takes it; nil when ctx ends.
func (l *Loop) next(ctx context.Context, timer *time.Timer) *item {
	for {
		if ctx.Err() != nil {
			return nil
		}
		it, wait := l.take(time.Now())
		if it != nil {
			return it
		}
		var due <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-due:
		}
	}
}

// take takes the item that has been due for longest. If there is none, it says how
// long until there is one, or 0 if nothing waits.
func (l *Loop) take(now time.Time) (*item, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil, 0
	}
	if first := l.waiting[0]; first.due.After(now) {
		return nil, first.due.Sub(now)
	}
	it := heap.Pop(&l.waiting).(*item)
	it.running, it.touched = true, false
	return it, 0
}

// run calls do, and makes a panic an error: one bad row must not stop all others.
func (l *Loop) run(ctx context.Context, id weir.ID) (again time.Duration, err error) {
	defer func() {
		if v := recover(); v != nil {
			again, err = 0, fmt.Errorf("panic: %v", v)
			l.o.Log.Error("reconciling panicked", l.name, id, "err", err, "stack", string(debug.Stack()))
		}
	}()
	return l.do(ctx, id)
}

// finish decides when it runs again, if it does.
func (l *Loop) finish(ctx context.Context, it *item, again time.Duration, err error) {
	if ctx.Err() != nil {
		return // there is no next run, and the error is most likely that
	}
	if err != nil && l.o.Failed != nil {
		l.o.Failed(it.id, err)
	}
	l.mu.Lock()
	now := time.Now()
	it.running = false
	l.did.Runs++
	if err != nil {
		l.did.Failures++
	}
	if err == nil {
		it.wait, it.failed = 0, time.Time{}
	} else {
		it.wait = min(max(2*it.wait, firstWait), lastWait)
		it.failed = now
		again = it.wait/2 + time.Duration(l.o.Rand.Int64N(int64(it.wait/2)))
	}
	switch {
	case it.touched:
		again = it.soonest(now).Sub(now)
		l.queue(it, now.Add(again))
	case again > 0:
		l.queue(it, now.Add(again))
	default:
		delete(l.items, it.id)
	}
	l.mu.Unlock()
	if err != nil {
		l.o.Log.Warn("reconciling failed", l.name, it.id, "err", err, "again", again)
	}
	l.look()
}

// soonest is when a touch may have it run.
func (it *item) soonest(now time.Time) time.Time {
	if least := it.failed.Add(floor); least.After(now) {
		return least
	}
	return now
}

// queue has it run at due, behind those due then already. l.mu is held.
func (l *Loop) queue(it *item, due time.Time) {
	l.seq++
	it.due, it.seq = due, l.seq
	heap.Push(&l.waiting, it)
}

func (l *Loop) look() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// queue is a heap of items, the first due on top.
type queue []*item

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	if !q[i].due.Equal(q[j].due) {
		return q[i].due.Before(q[j].due)
	}
	return q[i].seq < q[j].seq
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	it := x.(*item)
	it.index = len(*q)
	*q = append(*q, it)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	it := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return it
}
