package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/store"
	"weir/weir"
)

// faulty is a backend behind a network that loses requests, loses answers, and delivers
// requests late, after it has reported an error.
type faulty struct {
	store.Backend
	mu     sync.Mutex
	random *rand.Rand
	late   sync.WaitGroup
}

var errLost = weir.Errorf(weir.Unavailable, "the request timed out")

func newFaulty(b store.Backend, seed uint64) *faulty {
	return &faulty{Backend: b, random: rand.New(rand.NewPCG(seed, 0))}
}

func (f *faulty) dice(sides int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.IntN(sides)
}

func (f *faulty) Commit(ctx context.Context, txn store.Txn) (int64, bool, error) {
	switch f.dice(8) {
	case 0: // the request is lost
		return 0, false, errLost
	case 1: // the answer is lost
		if _, _, err := f.Backend.Commit(ctx, txn); err != nil {
			return 0, false, err
		}
		return 0, false, errLost
	case 2: // the request arrives after its sender has given up
		delay := time.Duration(f.dice(5_000)) * time.Microsecond
		f.late.Go(func() {
			time.Sleep(delay)
			f.Backend.Commit(context.WithoutCancel(ctx), txn)
		})
		return 0, false, errLost
	default:
		return f.Backend.Commit(ctx, txn)
	}
}

// Watch breaks off now and then.
func (f *faulty) Watch(ctx context.Context, span store.Span, after int64) iter.Seq2[[]store.Event, error] {
	return func(yield func([]store.Event, error) bool) {
		left := f.dice(6)
		for events, err := range f.Backend.Watch(ctx, span, after) {
			if left--; left < 0 {
				yield(nil, errLost)
				return
			}
			if !yield(events, err) {
				return
			}
		}
	}
}

func (f *faulty) Grant(ctx context.Context) (store.Lease, error) {
	if f.dice(4) == 0 {
		return store.Lease{}, errLost
	}
	return f.Backend.Grant(ctx)
}

// job is a row whose key comes from a sequence: if its transaction were made twice,
// there would be two of it.
type job struct {
	Worker, Number int
}

// TestEveryUpdateIsMadeOnce has workers insert jobs through the faulty network while a
// follower listens, and counts them.
func TestEveryUpdateIsMadeOnce(t *testing.T) {
	const workers, each = 4, 50
	check := func(t *testing.T, b store.Backend, seed uint64) {
		f := newFaulty(b, seed)
		s, jobs := store.New(f), store.NewTable[job]("jobs")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var working sync.WaitGroup
		for w := range workers {
			working.Go(func() {
				for n := range each {
					err := s.Update(ctx, func(tx *store.Tx) error {
						id, err := store.Next(ctx, tx, "jobs", 1)
						if err != nil {
							return err
						}
						jobs.Put(tx, weir.ID(fmt.Sprint(id)), job{w, n})
						return nil
					})
					if err != nil {
						t.Errorf("worker %d, job %d: %v", w, n, err)
					}
				}
			})
		}
		heard := map[weir.ID]job{}
		for change, err := range jobs.Follow(ctx, s) {
			if err != nil || change.Deleted {
				t.Errorf("follow: got %v and error %v, want rows only", change, err)
			}
			if !change.Synced {
				heard[change.Key] = change.Row
			}
			if len(heard) == workers*each {
				break
			}
		}
		working.Wait()
		f.late.Wait()

		all, err := jobs.All(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		times := map[job]int{}
		for _, j := range all {
			times[j]++
		}
		for j, n := range times {
			if n != 1 {
				t.Errorf("%v is there %d times", j, n)
			}
		}
		if len(times) != workers*each || len(heard) != workers*each {
			t.Errorf("%d jobs are there, and %d were heard of, want %d", len(times), len(heard), workers*each)
		}
	}
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("in memory, seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { check(t, store.NewMemory(), seed) })
		})
	}
	t.Run("on etcd", func(t *testing.T) { check(t, store.BackendOf(embed(t)), 1) })
}

// TestLeadingThroughFaults has leaders that fail, are deposed and time out, and counts
// what they did: nothing may be written by two.
func TestLeadingThroughFaults(t *testing.T) {
	check := func(t *testing.T, b store.Backend, seed uint64) {
		f := newFaulty(b, seed)
		s, counts := store.New(f), store.NewTable[int]("counts")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		total := 0 // only the leader adds to it
		for range 3 {
			wg.Go(func() {
				for range 10 {
					err := s.Lead(ctx, "counting", func(working context.Context, led *store.Store) error {
						// The leader counts without looking again: if another one wrote
						// meanwhile, counts would be lost.
						have, err := counts.Get(working, led, "count")
						if err != nil && !errors.Is(err, weir.NotFound) {
							return err
						}
						for i := range 5 {
							if i == 3 && f.dice(3) == 0 {
								if err := s.Depose(working, "counting"); err != nil {
									return err
								}
							}
							// Under working, it could end before its outcome is known.
							err := led.Update(ctx, func(tx *store.Tx) error {
								counts.Put(tx, "count", have+1)
								return nil
							})
							if err != nil {
								return err
							}
							have++
							total++
						}
						return nil
					})
					if err != nil && weir.KindOf(err) == "" && !errors.Is(err, context.Canceled) {
						t.Errorf("lead: %v", err)
					}
				}
			})
		}
		wg.Wait()
		f.late.Wait()
		if got, err := counts.Get(ctx, s, "count"); err != nil || got != total {
			t.Errorf("the count is %d (%v), want the %d that were counted", got, err, total)
		}
	}
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("in memory, seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { check(t, store.NewMemory(), seed) })
		})
	}
	t.Run("on etcd", func(t *testing.T) { check(t, store.BackendOf(embed(t)), 1) })
}

// silent is a backend that reports an error for every commit.
type silent struct{ store.Backend }

func (s silent) Commit(ctx context.Context, txn store.Txn) (int64, bool, error) {
	s.Backend.Commit(ctx, txn)
	return 0, false, errLost
}

func TestAnUpdateWhoseOutcomeIsNotKnownSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, jobs := store.New(silent{store.NewMemory()}), store.NewTable[job]("jobs")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		runs := 0
		err := s.Update(ctx, func(tx *store.Tx) error {
			runs++
			jobs.Put(tx, "1", job{})
			return nil
		})
		want := "commit: whether it was made is not known: the request timed out (context deadline exceeded)"
		if !errors.Is(err, weir.Unavailable) || !errors.Is(err, context.DeadlineExceeded) || err.Error() != want {
			t.Errorf("got error %q, want %q", err, want)
		}
		if runs != 1 {
			t.Errorf("the function ran %d times, want once", runs)
		}
	})
}

// forgetful is a backend that forgets all history, now and then.
type forgetful struct {
	store.Backend
	reads int
}

func (f *forgetful) Read(ctx context.Context, span store.Span, revision int64) ([]store.Entry, int64, error) {
	if f.reads++; revision != 0 && f.reads%3 == 0 {
		return nil, 0, fmt.Errorf("revision %d: %w", revision, store.ErrCompacted)
	}
	return f.Backend.Read(ctx, span, revision)
}

func TestATransactionWhoseMomentIsForgottenBeginsAnew(t *testing.T) {
	ctx, jobs := t.Context(), store.NewTable[job]("jobs")
	f := &forgetful{Backend: store.NewMemory()}
	s := store.New(f)
	for _, run := range []func(context.Context, func(*store.Tx) error) error{s.Update, s.View} {
		f.reads = 0
		runs := 0
		err := run(ctx, func(tx *store.Tx) error {
			runs++
			for i := range 4 {
				if _, err := jobs.Get(ctx, tx, weir.ID(fmt.Sprint(i, runs))); !errors.Is(err, weir.NotFound) {
					return err
				}
				if runs == 2 {
					break
				}
			}
			return nil
		})
		if err != nil || runs != 2 {
			t.Errorf("it ran %d times, with error %v, want 2 and none", runs, err)
		}
	}
}

// forgetsOnce is a backend that forgets a moment at the third part of a table that is read of it.
type forgetsOnce struct {
	store.Backend
	parts int
}

func (f *forgetsOnce) Read(ctx context.Context, span store.Span, revision int64) ([]store.Entry, int64, error) {
	if span.After != "" {
		if f.parts++; f.parts == 3 {
			return nil, 0, fmt.Errorf("revision %d: %w", revision, store.ErrCompacted)
		}
	}
	return f.Backend.Read(ctx, span, revision)
}

func TestAFollowerOfALargeTableHearsOfEachRowOnceWhateverIsForgotten(t *testing.T) {
	const many = 90_000
	ctx, jobs := t.Context(), store.NewTable[job]("jobs")
	s := store.New(&forgetsOnce{Backend: store.NewMemory()})
	err := s.Update(ctx, func(tx *store.Tx) error {
		for n := range many {
			jobs.Put(tx, weir.ID(fmt.Sprint(n)), job{Number: n})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	heard := map[weir.ID]int{}
	for change, err := range jobs.Follow(ctx, s) {
		if err != nil || change.Deleted {
			t.Fatalf("got %v and error %v, want rows", change, err)
		}
		if change.Synced {
			break
		}
		if heard[change.Key]++; heard[change.Key] > 1 || fmt.Sprint(change.Row.Number) != string(change.Key) {
			t.Fatalf("got %v at %s, for the %d. time", change.Row, change.Key, heard[change.Key])
		}
	}
	if len(heard) != many {
		t.Errorf("heard of %d rows of %d before it knew all", len(heard), many)
	}
}

func TestMemoryForgetsOldHistory(t *testing.T) {
	ctx, jobs := t.Context(), store.NewTable[job]("jobs")
	b := store.NewMemory()
	s := store.New(b)
	for n := range 25_000 {
		err := s.Update(ctx, func(tx *store.Tx) error {
			jobs.Put(tx, weir.ID(fmt.Sprint(n%10)), job{Number: n})
			if n%7 == 0 {
				jobs.Delete(tx, weir.ID(fmt.Sprint(n%10)))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Read(ctx, store.Span{}, 2); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("read at revision 2: got error %v, want compacted", err)
	}
	for _, err := range b.Watch(ctx, store.Span{}, 2) {
		if !errors.Is(err, store.ErrCompacted) {
			t.Errorf("watch from revision 2: got error %v, want compacted", err)
		}
		break
	}
	for n := 24_990; n < 25_000; n++ {
		got, err := jobs.Get(ctx, s, weir.ID(fmt.Sprint(n%10)))
		if n%7 == 0 {
			if !errors.Is(err, weir.NotFound) {
				t.Errorf("got %v and error %v, want %d deleted", got, err, n)
			}
		} else if err != nil || got.Number != n {
			t.Errorf("got %v and error %v, want %d", got, err, n)
		}
	}
}
