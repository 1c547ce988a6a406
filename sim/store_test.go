package sim

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"weir/store"
	"weir/weir"
)

// lossy is how one member of the control plane reaches the store.
type lossy struct {
	store.Backend
	w      *world
	life   context.Context // ends when the member crashes: it reaches nothing then
	crash  context.CancelFunc
	member *member
	name   string // of this life of the member
}

var (
	errCrashed = weir.Errorf(weir.Unavailable, "this member has crashed")
	errQuorum  = weir.Errorf(weir.Unavailable, "most members of the store cannot be reached")
	errNetwork = weir.Errorf(weir.Unavailable, "the connection was reset")
)

const quorumTick = 100 * time.Millisecond // between looks whether there is a quorum again

// travel takes the time of one way, and reports why nothing arrives.
func (l *lossy) travel(ctx context.Context, what string) error {
	if l.life.Err() != nil {
		return errCrashed
	}
	for waited := time.Duration(0); !l.w.quorum(l.member.name); waited += quorumTick {
		if waited >= time.Second {
			return fmt.Errorf("%s: %w", what, errQuorum)
		}
		if !sleep(ctx, quorumTick) {
			return ctx.Err()
		}
		if l.life.Err() != nil {
			return errCrashed
		}
	}
	if !l.w.trouble.Load() {
		return ctx.Err()
	}
	r := l.w.roll(l.name + what)
	if chance(r, 10) {
		sleep(ctx, upTo(r, time.Second))
	}
	if l.life.Err() != nil {
		return errCrashed
	}
	if ctx.Err() == nil && chance(r, 3) {
		return fmt.Errorf("%s: %w", what, errNetwork)
	}
	return ctx.Err()
}

func (l *lossy) Read(ctx context.Context, span store.Span, revision int64) ([]store.Entry, int64, error) {
	if err := l.travel(ctx, "read "+span.Key); err != nil {
		return nil, 0, err
	}
	entries, at, err := l.Backend.Read(ctx, span, revision)
	for i := range entries {
		entries[i] = l.asRead(entries[i])
	}
	return entries, at, err
}

// Commit may be made although it fails, and as late as is promised that it may be.
func (l *lossy) Commit(ctx context.Context, txn store.Txn) (int64, bool, error) {
	what := "commit"
	txn = l.asWritten(txn)
	if len(txn.Puts) > 0 {
		what += " " + txn.Puts[0].Key
	}
	if err := l.travel(ctx, what); err != nil {
		if r := l.w.roll(l.name + "late " + what); l.w.trouble.Load() && chance(r, 50) {
			l.w.wg.Go(func() {
				if sleep(l.w.ctx, upTo(r, late)) && l.w.quorum(l.member.name) {
					l.w.commit(context.WithoutCancel(ctx), l, txn)
				}
			})
		}
		return 0, false, err
	}
	revision, ok, err := l.w.commit(ctx, l, txn)
	if lost := l.travel(ctx, "answer to "+what); err == nil && lost != nil {
		return 0, false, lost
	}
	return revision, ok, err
}

func (l *lossy) Watch(ctx context.Context, span store.Span, after int64) iter.Seq2[[]store.Event, error] {
	return func(yield func([]store.Event, error) bool) {
		for events, err := range l.Backend.Watch(ctx, span, after) {
			if lost := l.travel(ctx, "watch "+span.Key); lost != nil {
				if ctx.Err() != nil {
					return
				}
				if chance(l.w.roll(l.name+"compacted "+span.Key), 20) {
					lost = store.ErrCompacted
				}
				yield(nil, lost)
				return
			}
			for i := range events {
				events[i].Entry = l.asRead(events[i].Entry)
			}
			if !yield(events, err) {
				return
			}
		}
	}
}

// Grant returns a lease that may end at any moment; its owner hears of it later, or
// too late. A crashed member's lease ends by itself.
func (l *lossy) Grant(ctx context.Context) (store.Lease, error) {
	if err := l.travel(ctx, "grant"); err != nil {
		return store.Lease{}, err
	}
	lease, err := l.Backend.Grant(ctx)
	if err != nil {
		return store.Lease{}, err
	}
	r := l.w.roll(l.name + "lease")
	heard := make(chan struct{})
	hear := sync.OnceFunc(func() { close(heard) })
	l.w.wg.Go(func() {
		defer hear()
		select {
		case <-lease.Done: // its owner ended it
			return
		case <-l.life.Done():
			sleep(l.w.ctx, 2*time.Second+upTo(r, late))
		case <-l.w.ctx.Done():
		case <-l.lapses(5*time.Second + upTo(r, 2*time.Minute)):
			l.w.tell("%s: its lease ends", l.name)
		}
		lease.End(context.WithoutCancel(ctx))
		sleep(l.life, upTo(r, late))
	})
	return store.Lease{ID: lease.ID, Done: heard, End: func(ctx context.Context) error {
		if err := l.travel(ctx, "end of the lease"); err != nil {
			// Nobody keeps it alive any more.
			l.w.wg.Go(func() {
				sleep(l.w.ctx, 2*time.Second+late)
				lease.End(context.WithoutCancel(ctx))
			})
			return err
		}
		return lease.End(ctx)
	}}, nil
}

// lapses returns what is closed when a lease ends that is not ended: after so long in trouble,
// or when there has been no quorum for as long as leases last.
func (l *lossy) lapses(after time.Duration) <-chan struct{} {
	ends := make(chan struct{})
	l.w.wg.Go(func() {
		const look, lasts = 500 * time.Millisecond, 3 * time.Second
		alone := time.Duration(0)
		for age := time.Duration(0); sleep(l.life, look); age += look {
			if alone += look; l.w.quorum(l.member.name) {
				alone = 0
			}
			if l.w.trouble.Load() && age >= after || alone >= lasts {
				close(ends)
				return
			}
			if !l.w.trouble.Load() && alone == 0 {
				sleep(l.life, time.Minute)
			}
		}
	})
	return ends
}

// Close does nothing: the store outlives its members.
func (l *lossy) Close() error { return nil }
