package storetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"weir/store"
	"weir/weir"
)

func testLead(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	var leading, led atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				err := s.Lead(ctx, "weir", func(ctx context.Context, s *store.Store) error {
					if n := leading.Add(1); n != 1 {
						t.Errorf("%d lead at once", n)
					}
					defer leading.Add(-1)
					led.Add(1)
					return s.Update(ctx, func(tx *store.Tx) error {
						row, err := things.Get(ctx, tx, "a")
						if err != nil && !errors.Is(err, weir.NotFound) {
							return err
						}
						row.Count++
						things.Put(tx, "a", row)
						return nil
					})
				})
				if err != nil {
					t.Errorf("lead: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if row, err := things.Get(ctx, s, "a"); err != nil || row.Count != 12 || led.Load() != 12 {
		t.Errorf("%d led and %d wrote (%v), want 12", led.Load(), row.Count, err)
	}
}

func testLeadPasses(t *testing.T, s *store.Store) {
	ctx := limited(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	first, end, second := make(chan struct{}), make(chan struct{}), make(chan struct{})
	mine := errors.New("mine")
	wg.Go(func() {
		err := s.Lead(ctx, "weir", func(context.Context, *store.Store) error {
			close(first)
			<-end
			return mine
		})
		if err != mine {
			t.Errorf("got error %v, want that of the work", err)
		}
	})
	<-first
	wg.Go(func() {
		err := s.Lead(ctx, "weir", func(context.Context, *store.Store) error {
			select {
			case <-end:
			default:
				t.Error("the second leads while the first does")
			}
			close(second)
			return nil
		})
		if err != nil {
			t.Errorf("the second: %v", err)
		}
	})
	close(end)
	<-second
}

func testDeposed(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	err := s.Lead(ctx, "weir", func(working context.Context, old *store.Store) error {
		put(t, ctx, old, things, "a", thing{Name: "while leading"})
		if err := s.Depose(ctx, "weir"); err != nil {
			t.Errorf("depose: %v", err)
		}
		write := func() {
			t.Helper()
			err := old.Update(ctx, func(tx *store.Tx) error { things.Put(tx, "a", thing{Name: "after"}); return nil })
			wantKind(t, err, weir.Denied)
		}
		write()
		err := s.Lead(ctx, "weir", func(_ context.Context, led *store.Store) error {
			write()
			put(t, ctx, led, things, "b", thing{Name: "by the next"})
			return nil
		})
		if err != nil {
			t.Errorf("the next leader: %v", err)
		}
		write()
		<-working.Done()
		return nil
	})
	wantKind(t, err, weir.Denied)
	if got, want := names(t, ctx, s, things), "[while leading by the next]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func testDeposedEnds(t *testing.T, s *store.Store) {
	ctx := limited(t)
	err := s.Lead(ctx, "weir", func(working context.Context, led *store.Store) error {
		if err := s.Depose(ctx, "weir"); err != nil {
			t.Errorf("depose: %v", err)
		}
		select {
		case <-working.Done():
		case <-ctx.Done():
			t.Error("the context of the work has not ended")
		}
		return working.Err()
	})
	wantKind(t, err, weir.Denied)
	if err := s.Depose(ctx, "weir"); err != nil {
		t.Errorf("depose where nobody leads: %v", err)
	}
}

func testLeadContext(t *testing.T, s *store.Store) {
	ctx := limited(t)
	err := s.Lead(ctx, "weir", func(working context.Context, _ *store.Store) error {
		waiting, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			err := s.Lead(waiting, "weir", func(context.Context, *store.Store) error {
				t.Error("two lead")
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v, want that of its context", err)
			}
		})
		cancel()
		return nil
	})
	if err != nil {
		t.Errorf("lead: %v", err)
	}

	ending, cancel := context.WithCancel(ctx)
	err = s.Lead(ending, "weir", func(working context.Context, _ *store.Store) error {
		cancel()
		<-working.Done()
		return working.Err()
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, weir.Denied) {
		t.Errorf("got error %v, want that of its context", err)
	}
	if err := s.Lead(ctx, "weir", func(context.Context, *store.Store) error { return nil }); err != nil {
		t.Errorf("lead after the context of the last leader ended: %v", err)
	}
}

func testLeadNames(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	err := s.Lead(ctx, "weir", func(_ context.Context, outer *store.Store) error {
		return outer.Lead(ctx, "weir2", func(working context.Context, both *store.Store) error {
			put(t, ctx, both, things, "a", thing{Name: "with both"})
			if err := s.Depose(ctx, "weir2"); err != nil {
				t.Errorf("depose: %v", err)
			}
			put(t, ctx, outer, things, "b", thing{Name: "with one"})
			err := both.Update(ctx, func(tx *store.Tx) error { things.Put(tx, "c", thing{}); return nil })
			wantKind(t, err, weir.Denied)
			<-working.Done()
			return nil
		})
	})
	wantKind(t, err, weir.Denied)
	if got, want := names(t, ctx, s, things), "[with both with one]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
