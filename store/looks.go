package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// looks tells when tables were last changed. Those who ask at once share an answer, and as long as nothing at all is
// written an answer stays true: then a thousand who ask at once cost the store one question for its revision.
type looks struct {
	asking chan struct{} // full while somebody asks the store
	seen   atomic.Pointer[look]

	queue sync.Mutex
	next  *question // the one that is not put yet; nil if nobody waits for one
}

// look is when each table was last changed, as of a revision.
type look struct {
	at   int64
	last map[string]int64 // by the table's key in touched
}

// question is one whose answer many wait for.
type question struct {
	done chan struct{} // closed when the answer is there
	look *look
	err  error
}

func newLooks() *looks { return &looks{asking: make(chan struct{}, 1)} }

// Touched returns the revision of the last change of the table of that name, as of a moment after the call; 0 if it
// never had a row. Many may ask often.
func (s *Store) Touched(ctx context.Context, table string) (revision int64, err error) {
	got, err := s.looks.look(ctx, s.backend)
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", table, err)
	}
	return got.last[touchedSpan(table).Key], nil
}

// look returns a look that begins after the call.
func (l *looks) look(ctx context.Context, b Backend) (*look, error) {
	for {
		l.queue.Lock()
		q, mine := l.next, l.next == nil
		if mine {
			q = &question{done: make(chan struct{})}
			l.next = q
		}
		l.queue.Unlock()
		if mine {
			l.ask(ctx, b, q)
			return q.look, q.err
		}
		select {
		case <-q.done:
			if ctx.Err() == nil && (errors.Is(q.err, context.Canceled) || errors.Is(q.err, context.DeadlineExceeded)) {
				continue // who asked has gone away
			}
			return q.look, q.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ask answers q, which is next, once it is its turn.
func (l *looks) ask(ctx context.Context, b Backend, q *question) {
	defer close(q.done)
	begin := func() {
		l.queue.Lock()
		defer l.queue.Unlock()
		l.next = nil
	}
	select {
	case l.asking <- struct{}{}:
	case <-ctx.Done():
		begin()
		q.err = ctx.Err()
		return
	}
	defer func() { <-l.asking }()
	begin()
	q.look, q.err = l.read(ctx, b)
}

// read asks the store.
func (l *looks) read(ctx context.Context, b Backend) (*look, error) {
	for {
		_, at, err := b.Read(ctx, Span{}, 0)
		if err != nil {
			return nil, err
		}
		if seen := l.seen.Load(); seen != nil && seen.at == at {
			return seen, nil
		}
		// At a revision that is known a member of a cluster need not ask the others again.
		entries, _, err := b.Read(ctx, Span{Key: touched, Prefix: true}, at)
		if errors.Is(err, ErrCompacted) {
			continue
		}
		if err != nil {
			return nil, err
		}
		seen := &look{at, make(map[string]int64, len(entries))}
		for _, e := range entries {
			seen.last[e.Key] = e.Revision
		}
		l.seen.Store(seen)
		return seen, nil
	}
}
