package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"weir/weir"
)

// Lead waits until it leads name, which only one at a time does, and then runs work.
// The context of work ends when leadership is lost or ctx ends. What work commits
// through led is made only while it leads: after that, led.Update returns an error of
// kind weir.Denied, and changes nothing, even if work has not noticed yet.
//
// When work returns, Lead gives the leadership back and returns work's error, or, if it
// has noticed by then that leadership was lost, an error of kind weir.Denied that wraps
// it. If ctx ends before Lead leads, it returns ctx's error.
func (s *Store) Lead(ctx context.Context, name string, work func(ctx context.Context, led *Store) error) error {
	seat, lease, err := s.elect(ctx, name)
	if err != nil {
		return fmt.Errorf("lead %s: %w", name, err)
	}
	defer release(ctx, lease)

	working, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { cancel(seat.lost(working, s.backend, lease)) })

	err = work(working, &Store{backend: s.backend, name: s.name, looks: s.looks, seats: append(s.seats[:len(s.seats):len(s.seats)], seat)})
	switch cause := context.Cause(working); {
	case cause == nil || ctx.Err() != nil || errors.Is(err, cause):
		return err
	case err == nil || errors.Is(err, context.Canceled):
		return cause
	default:
		return fmt.Errorf("%w: %w", cause, err)
	}
}

// Depose takes the leadership of name from whoever has it; all who wait for it,
// and the one who lost it, may get it next. If nobody has it, Depose does nothing.
func (s *Store) Depose(ctx context.Context, name string) error {
	if _, _, err := s.backend.Commit(ctx, Txn{Deletes: []string{leaders + name}}); err != nil {
		return fmt.Errorf("depose the leader of %s: %w", name, err)
	}
	return nil
}

// Leader returns who leads name, by the name of its process (see [Store.As]), and since
// when, by that process's clock; "" if nobody does. One that has vanished is still
// named until its lease ends.
func (s *Store) Leader(ctx context.Context, name string) (who string, since time.Time, err error) {
	entries, _, err := s.backend.Read(ctx, seat{name: name}.span(), 0)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("leader of %s: %w", name, err)
	}
	if len(entries) == 0 {
		return "", time.Time{}, nil
	}
	var t term
	if err := json.Unmarshal(entries[0].Value, &t); err != nil {
		return "", time.Time{}, fmt.Errorf("leader of %s: %w", name, err)
	}
	return t.Who, t.Since, nil
}

// term is what the key of a seat says of its holder.
type term struct {
	Who   string    `json:"who"`
	Since time.Time `json:"since"`
}

// begin returns a term of s that begins now, as it is stored.
func (s *Store) begin() []byte {
	who := s.name
	if who == "" {
		who = hostname()
	}
	value, err := json.Marshal(term{who, time.Now().UTC()})
	if err != nil {
		panic(err) // a string and a time of this era can be encoded
	}
	return value
}

// hostname returns the name of this host, or a word that stands for it.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// seat is the leadership of name, as it was won at a revision. Whoever wins it creates
// its key, and nobody puts there again, so that the revision names the winner.
type seat struct {
	name     string
	revision int64
}

func (s seat) span() Span { return Span{Key: leaders + s.name} }

// held holds as long as the seat is held.
func (s seat) held() Condition { return Condition{s.span(), s.revision} }

func (s seat) deposed() error {
	return weir.Errorf(weir.Denied, "leadership of %s was lost", s.name)
}

// check returns an error if the seat was not held at a revision (0: now), or cannot be
// known to have been.
func (s seat) check(ctx context.Context, b Backend, revision int64) error {
	entries, _, err := b.Read(ctx, s.span(), revision)
	if err != nil {
		return fmt.Errorf("lead %s: %w", s.name, err)
	}
	if len(entries) == 0 || entries[0].Revision != s.revision {
		return s.deposed()
	}
	return nil
}

// lost waits until the seat is lost, and returns that as an error, or nil if ctx ends
// before.
func (s seat) lost(ctx context.Context, b Backend, lease Lease) error {
	watching, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-lease.Done:
			cancel()
		case <-watching.Done():
		}
	})
	for wait := newWait(); ctx.Err() == nil; {
		for _, err := range b.Watch(watching, s.span(), s.revision) {
			if err == nil {
				return s.deposed()
			}
		}
		select {
		case <-lease.Done:
			return s.deposed()
		default:
		}
		// The watch broke, which says nothing about the seat.
		if err := s.check(watching, b, 0); errors.Is(err, weir.Denied) {
			return err
		}
		if err := wait.next(watching, b); err != nil && b.Err() != nil {
			return err
		}
	}
	return nil
}

// elect waits until it has won the seat of name, with a lease that it hangs on.
func (s *Store) elect(ctx context.Context, name string) (seat, Lease, error) {
	for wait := newWait(); ; {
		won, lease, err := s.run(ctx, name)
		if err == nil {
			return won, lease, nil
		}
		if err := wait.next(ctx, s.backend); err != nil {
			return seat{}, Lease{}, err
		}
	}
}

// run stands for the seat of name until it wins it or something breaks.
func (s *Store) run(ctx context.Context, name string) (_ seat, _ Lease, err error) {
	lease, err := s.backend.Grant(ctx)
	if err != nil {
		return seat{}, Lease{}, err
	}
	defer func() {
		if err != nil {
			release(ctx, lease) // with the seat, if we won it without hearing of it
		}
	}()
	won := seat{name: name}
	for {
		revision, ok, err := s.backend.Commit(ctx, Txn{
			If:   []Condition{{won.span(), 0}},
			Puts: []Put{{Key: won.span().Key, Value: s.begin(), Lease: lease.ID}},
		})
		if err != nil {
			return seat{}, Lease{}, err
		}
		if ok {
			won.revision = revision
			return won, lease, nil
		}
		if err := vacant(ctx, s.backend, won.span(), revision); err != nil {
			return seat{}, Lease{}, err
		}
	}
}

// vacant waits until the key of a seat that was taken at a revision is deleted.
func vacant(ctx context.Context, b Backend, key Span, taken int64) error {
	for events, err := range b.Watch(ctx, key, taken) {
		if err != nil {
			return err
		}
		if events[len(events)-1].Deleted {
			return nil
		}
	}
	return errors.Join(ctx.Err(), b.Err())
}

// release ends a lease, whether or not ctx has ended.
func release(ctx context.Context, lease Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	// If it cannot be ended now, it ends by itself, later.
	_ = lease.End(ctx)
}
