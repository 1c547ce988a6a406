// Package store keeps what Weir knows: tables of typed rows, changed in
// transactions, followed as they change, and written only by whoever leads.
//
//	machines := store.NewTable[weir.Machine]("machines")
//
//	err := s.Update(ctx, func(tx *store.Tx) error {
//		m, err := machines.Get(ctx, tx, id)
//		if err != nil {
//			return err
//		}
//		m.Off = true
//		machines.Put(tx, id, m)
//		return nil
//	})
//
// A store is in memory ([Memory]), in an etcd member of this process's own ([Embed]), in
// a cluster of such members, one in each of several processes ([EmbedCluster]), or in
// an etcd cluster elsewhere ([Dial]); all promise the same, and package storetest holds
// them to it:
//
//   - [Store.Update] is serializable: nothing that its function read, rows that were
//     not there included, has changed by the time that its changes are made, all at
//     once. Whatever the network does, they are made exactly once or not at all; an
//     error of kind weir.Unavailable that says so is the one exception.
//   - What Update returned nil for is there for ever after: for every later reader,
//     and across kill -9 and a full disk.
//   - [Table.Follow] misses no change that lasts, and never shows rows older than it
//     showed before.
//   - A leader that was deposed cannot write through the store that [Store.Lead] gave
//     it, even if it does not know yet.
//
// A cluster goes on for as long as most of its members are up and reach each other; with
// fewer, nothing is decided. A leader that is killed or cut off, or whose disk stalls,
// is followed by another once its lease has ended: that is two seconds, and about two
// more if etcd's own leader goes with it. How long it is on a busy machine is not
// promised, and neither is that a busy leader is not deposed for want of CPU.
//
// Rows are JSON, so that a newer Weir reads what an older one wrote.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Store holds tables. It is safe for concurrent use.
type Store struct {
	backend Backend
	name    string // under which it leads; see As
	seats   []seat // the leaderships under which it commits; see Lead
	looks   *looks
	witness func(ctx context.Context, tx *Tx)
}

// New returns a store on b.
func New(b Backend) *Store { return &Store{backend: b, looks: newLooks()} }

// As returns s under the name of a process that uses it, which is the one that
// [Store.Leader] then gives. Without it that is the name of the cluster's member, or
// else that of the host.
func (s *Store) As(name string) *Store {
	named := *s
	named.name = name
	return &named
}

// Witnessed returns s with a witness: whenever an Update changes anything, what the witness
// writes is part of the same transaction. Like the function of an Update it may run several times.
// It is not there for what the store that Lead gives is used for.
func (s *Store) Witnessed(witness func(ctx context.Context, tx *Tx)) *Store {
	seen := *s
	seen.witness = witness
	return &seen
}

// Memory returns an empty store in memory. It starts no goroutine, makes no system
// call and waits on channels alone: it works in a testing/synctest bubble.
func Memory() *Store { return New(NewMemory()) }

// Done is closed once the store can do no more: it was closed, or is broken, as when
// its disk is full. A process that has a broken store should end, with Err.
func (s *Store) Done() <-chan struct{} { return s.backend.Done() }

// Err says why Done is closed, in a sentence for the operator; nil before.
func (s *Store) Err() error { return s.backend.Err() }

// Close ends everything that waits in the store and gives back what it has. The store
// that Lead gives to its work is not closed by this: it ends with the work.
func (s *Store) Close() error {
	if len(s.seats) > 0 {
		return nil
	}
	return s.backend.Close()
}

// View gives f a consistent view of the store at one moment. f may run more than
// once, and must not write. It returns what f returns.
func (s *Store) View(ctx context.Context, f func(tx *Tx) error) error {
	for wait := newWait(); ; {
		tx := &Tx{backend: s.backend, view: true}
		err := f(tx)
		switch {
		case tx.stale:
		case err != nil:
			return err
		default:
			return tx.err
		}
		if err := wait.next(ctx, s.backend); err != nil {
			return fmt.Errorf("view: %w", err)
		}
	}
}

// Update runs f and makes its changes, all at once, if nothing that f read or wrote
// has changed meanwhile; otherwise it runs f again, on what is there now, until ctx
// ends. An f that returns an error changes nothing, and Update returns that error. If
// f wrote nothing new, nothing is committed, and nobody who follows hears of it.
//
// f must do nothing but read and write tx: what else it does is done at each run. An ID
// or a time that it makes is that of the run that was committed.
//
// An error in committing does not run f again blindly: Update first finds out whether
// the changes were made, and makes sure that they will not be made later. Only if ctx
// ends before it knows does it return an error of kind weir.Unavailable that says so.
func (s *Store) Update(ctx context.Context, f func(tx *Tx) error) error {
	for wait, tries := newWait(), 1; ; tries++ {
		done, err := s.try(ctx, f)
		if done || err != nil {
			return err
		}
		if err := wait.next(ctx, s.backend); err != nil {
			return fmt.Errorf("update was tried %d times in vain: %w", tries, err)
		}
	}
}

// try runs f and makes its changes, and reports whether it did: false means that what f
// read is no longer so.
func (s *Store) try(ctx context.Context, f func(tx *Tx) error) (done bool, err error) {
	tx := &Tx{backend: s.backend}
	err = f(tx)
	switch {
	case tx.stale: // so long in f that the store has forgotten its moment
		return false, nil
	case err != nil:
		return false, err
	case tx.err != nil:
		return false, tx.err
	}
	return s.commit(ctx, tx)
}

// commit makes tx's changes and reports, like try, whether it did.
func (s *Store) commit(ctx context.Context, tx *Tx) (done bool, err error) {
	txn, err := tx.txn(ctx)
	if tx.stale {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(txn.Puts)+len(txn.Deletes) == 0 {
		// A leader may take comfort in what is there only if it led when it looked.
		err := s.leads(ctx, tx.revision)
		if errors.Is(err, ErrCompacted) {
			return false, nil
		}
		return err == nil, err
	}
	if s.witness != nil {
		s.witness(ctx, tx)
		if tx.err != nil {
			return false, tx.err
		}
		if txn, err = tx.txn(ctx); tx.stale {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	for _, seat := range s.seats {
		txn.If = append(txn.If, seat.held())
	}
	m := newMark(tx.revision)
	m.addTo(&txn)

	_, done, err = s.backend.Commit(ctx, txn)
	if err != nil {
		done, err = m.settle(ctx, s.backend, err)
	}
	if done || err != nil {
		return done, err
	}
	return false, s.leads(ctx, 0)
}

// leads returns an error unless s had all its seats at a revision (0: now).
func (s *Store) leads(ctx context.Context, revision int64) error {
	for _, seat := range s.seats {
		if err := seat.check(ctx, s.backend, revision); err != nil {
			return err
		}
	}
	return nil
}

// wait spaces out what is tried again, from a millisecond to a quarter of a second,
// with jitter so that those who collided do not collide again.
type wait struct{ backoff.ExponentialBackOff }

func newWait() *wait {
	return &wait{backoff.ExponentialBackOff{
		InitialInterval: time.Millisecond, MaxInterval: 250 * time.Millisecond,
		Multiplier: 2, RandomizationFactor: 0.9,
	}}
}

// next waits for the next try's time. It returns an error if there is to be none.
func (w *wait) next(ctx context.Context, b Backend) error {
	timer := time.NewTimer(w.NextBackOff())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.Done():
		return b.Err()
	}
}
