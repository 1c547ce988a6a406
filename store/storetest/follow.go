package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"testing"

	"weir/store"
	"weir/weir"
)

// told is a change as a word: +key=name, -key, or synced.
func told(c store.Change[thing]) string {
	switch {
	case c.Synced:
		return "synced"
	case c.Deleted:
		return "-" + string(c.Key)
	default:
		return fmt.Sprintf("+%s=%s", c.Key, c.Row.Name)
	}
}

// follow returns a function that waits for the next n changes and returns them as words.
func follow(t *testing.T, ctx context.Context, s *store.Store, table store.Table[thing]) func(n int) string {
	next, stop := iter.Pull2(table.Follow(ctx, s))
	t.Cleanup(stop)
	return func(n int) string {
		t.Helper()
		var words []string
		for range n {
			change, err, ok := next()
			if !ok || err != nil {
				t.Fatalf("follow ended with error %v after %v, want %d changes", err, words, n)
			}
			words = append(words, told(change))
		}
		return fmt.Sprint(words)
	}
}

func testFollow(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	put(t, ctx, s, things, "a", thing{Name: "1"})
	put(t, ctx, s, things, "b", thing{Name: "2"})
	put(t, ctx, s, store.NewTable[thing]("things-more"), "x", thing{})
	next := follow(t, ctx, s, things)
	if got, want := next(3), "[+a=1 +b=2 synced]"; got != want {
		t.Errorf("at first: got %s, want %s", got, want)
	}
	put(t, ctx, s, things, "c", thing{Name: "3"})
	put(t, ctx, s, things, "a", thing{Name: "4"})
	if got, want := next(2), "[+c=3 +a=4]"; got != want {
		t.Errorf("after two puts: got %s, want %s", got, want)
	}
	update(t, ctx, s, func(tx *store.Tx) { things.Delete(tx, "a") })
	put(t, ctx, s, things, "a", thing{Name: "5"})
	if got, want := next(2), "[-a +a=5]"; got != want {
		t.Errorf("after a row went and came: got %s, want %s", got, want)
	}

	var revisions []int64
	update(t, ctx, s, func(tx *store.Tx) {
		things.Put(tx, "d", thing{Name: "6"})
		things.Delete(tx, "b")
	})
	for change, err := range things.Follow(ctx, s) {
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, change.Revision)
		if change.Synced {
			break
		}
	}
	if got, want := next(2), "[+d=6 -b]"; got != want {
		t.Errorf("after a transaction: got %s, want %s", got, want)
	}
	if len(revisions) != 4 || revisions[0] <= revisions[1] || revisions[2] <= revisions[0] {
		t.Errorf("got revisions %v of a, c and d, want them by the time of their change: c, a, d", revisions)
	}
}

func testSilence(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	put(t, ctx, s, things, "a", thing{Name: "1"})
	next := follow(t, ctx, s, things)
	next(2)
	put(t, ctx, s, things, "a", thing{Name: "1"})
	update(t, ctx, s, func(tx *store.Tx) { things.Delete(tx, "b") })
	update(t, ctx, s, func(tx *store.Tx) {
		things.Put(tx, "a", thing{Name: "1"})
		things.Put(tx, "c", thing{Name: "2"})
	})
	if got, want := next(1), "[+c=2]"; got != want {
		t.Errorf("got %s, want %s, the first change to anything", got, want)
	}
}

// A follower looks at what it hears of, and is not told again: what is not there yet
// would be missed for ever.
func testFollowedIsReadable(t *testing.T, s *store.Store) {
	ctx, cancel := context.WithCancel(limited(t))
	things := store.NewTable[thing]("things")
	const writers, each = 4, 200
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				err := s.Update(ctx, func(tx *store.Tx) error {
					things.Put(tx, weir.ID(fmt.Sprintf("%d-%d", w, n)), thing{Name: "new"})
					return nil
				})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	heard := 0
	for change, err := range things.Follow(ctx, s) {
		if err != nil {
			t.Fatal(err)
		}
		if change.Synced {
			continue
		}
		if _, err := things.Get(ctx, s, change.Key); err != nil {
			t.Fatalf("row %s was heard of, and then: %v", change.Key, err)
		}
		if heard++; heard == writers*each {
			return
		}
	}
}

func testFollowEnds(t *testing.T, s *store.Store) {
	things := store.NewTable[thing]("things")
	put(t, limited(t), s, things, "a", thing{Name: "1"})

	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	count := 0
	for change, err := range things.Follow(ctx, s) {
		if err != nil {
			t.Errorf("got error %v, want none when the context ends", err)
		}
		if count++; change.Synced {
			cancel()
		}
	}
	if count != 2 {
		t.Errorf("got %d changes, want 2", count)
	}

	var wg sync.WaitGroup
	defer wg.Wait()
	synced := make(chan struct{})
	wg.Go(func() {
		var last error
		for change, err := range things.Follow(limited(t), s) {
			if last = err; change.Synced {
				close(synced)
			}
		}
		wantKind(t, last, weir.Unavailable)
	})
	<-synced
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	<-s.Done()
	wantKind(t, s.Err(), weir.Unavailable)
	_, err := things.Get(limited(t), s, "a")
	wantKind(t, err, weir.Unavailable)
	err = s.Update(limited(t), func(tx *store.Tx) error { things.Put(tx, "b", thing{}); return nil })
	wantKind(t, err, weir.Unavailable)
	err = s.Lead(limited(t), "any", func(context.Context, *store.Store) error { return nil })
	wantKind(t, err, weir.Unavailable)
}

// testFollowBusy has followers begin at all times while others write, and compares
// what each made of what it heard with what there is in the end.
func testFollowBusy(t *testing.T, s *store.Store) {
	const writers, writes, followers = 3, 60, 6
	ctx, things := limited(t), store.NewTable[thing]("things")
	var writing, following sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range writes {
				key := weir.ID(fmt.Sprint(i * (w + 1) % 7))
				update(t, ctx, s, func(tx *store.Tx) {
					if row, err := things.Get(ctx, tx, key); err == nil && row.Count%3 == 2 {
						things.Delete(tx, key)
					} else {
						things.Put(tx, key, thing{Count: row.Count + 1, Name: fmt.Sprint(w, i)})
					}
				})
			}
		})
	}
	views := make([]map[weir.ID]thing, followers)
	for f := range followers {
		following.Go(func() {
			view, last := map[weir.ID]thing{}, int64(0)
			for change, err := range things.Follow(ctx, s) {
				switch {
				case err != nil:
					t.Errorf("follow: %v", err)
				case change.Synced:
					last = change.Revision
				case change.Deleted:
					delete(view, change.Key)
				default:
					view[change.Key] = change.Row
				}
				if last != 0 && change.Revision < last {
					t.Errorf("got revision %d after %d", change.Revision, last)
				}
				if _, end := view["end"]; end && last != 0 {
					break
				}
			}
			views[f] = view
		})
	}
	writing.Wait()
	put(t, ctx, s, things, "end", thing{})
	following.Wait()

	want := map[weir.ID]thing{}
	for i := range 7 {
		key := weir.ID(fmt.Sprint(i))
		if row, err := things.Get(ctx, s, key); err == nil {
			want[key] = row
		} else if !errors.Is(err, weir.NotFound) {
			t.Error(err)
		}
	}
	want["end"] = thing{}
	for f, view := range views {
		if !maps.Equal(view, want) {
			t.Errorf("follower %d has %v, want %v", f, view, want)
		}
	}
}
