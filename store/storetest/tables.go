package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"weir/store"
	"weir/weir"
)

func testPut(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	for _, key := range []weir.ID{"1", "1/2", "ä ö/%2F\x00\n", weir.ID(strings.Repeat("k", 1000))} {
		want := thing{"the first", 1}
		put(t, ctx, s, things, key, want)
		if got, err := things.Get(ctx, s, key); err != nil || got != want {
			t.Errorf("read %q: got %v and error %v, want %v", key, got, err, want)
		}
		want.Count++
		put(t, ctx, s, things, key, want)
		if got, err := things.Get(ctx, s, key); err != nil || got != want {
			t.Errorf("read %q after a change: got %v and error %v, want %v", key, got, err, want)
		}
		update(t, ctx, s, func(tx *store.Tx) { things.Delete(tx, key) })
		if _, err := things.Get(ctx, s, key); !errors.Is(err, weir.NotFound) {
			t.Errorf("read %q after it was deleted: got error %v, want not found", key, err)
		}
	}
}

func testNotFound(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	_, err := things.Get(ctx, s, "17")
	wantKind(t, err, weir.NotFound)
	if got, want := err.Error(), `there is no "17" in things`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func testAll(t *testing.T, s *store.Store) {
	ctx := limited(t)
	things, more := store.NewTable[thing]("things"), store.NewTable[thing]("things-more")
	for _, key := range []weir.ID{"b", "a/2", "c", "a", "a-1"} {
		put(t, ctx, s, things, key, thing{Name: string(key)})
	}
	put(t, ctx, s, more, "x", thing{Name: "x"})
	if got, want := names(t, ctx, s, things), "[a a-1 a/2 b c]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := names(t, ctx, s, more), "[x]"; got != want {
		t.Errorf("in the other table: got %s, want %s", got, want)
	}
	if got, want := names(t, ctx, s, store.NewTable[thing]("thing")), "[]"; got != want {
		t.Errorf("in an empty table: got %s, want %s", got, want)
	}
}

func testPage(t *testing.T, s *store.Store) {
	ctx := limited(t)
	things, more := store.NewTable[thing]("things"), store.NewTable[thing]("things-more")
	for _, key := range []weir.ID{"d", "b", "a", "c", "e"} {
		put(t, ctx, s, things, key, thing{Name: string(key)})
	}
	put(t, ctx, s, more, "a", thing{Name: "other"})
	update(t, ctx, s, func(tx *store.Tx) { things.Delete(tx, "b") })
	for _, test := range []struct {
		after weir.ID
		limit int
		want  string
	}{
		{"", 2, "[a c]"}, {"a", 2, "[c d]"}, {"b", 1, "[c]"}, {"d", 2, "[e]"}, {"e", 2, "[]"}, {"zz", 2, "[]"}, {"", 9, "[a c d e]"}, {"c", 0, "[d e]"},
	} {
		keys, rows, err := things.Page(ctx, s, test.after, test.limit)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, row := range rows {
			names = append(names, row.Name)
		}
		if got := fmt.Sprint(names); got != test.want || fmt.Sprint(keys) != test.want {
			t.Errorf("%d after %q: %s with the keys %v, want %s", test.limit, test.after, got, keys, test.want)
		}
	}
}

func testWitness(t *testing.T, s *store.Store) {
	ctx := limited(t)
	things, seen := store.NewTable[thing]("things"), store.NewTable[thing]("seen")
	s = s.Witnessed(func(_ context.Context, tx *store.Tx) { seen.Put(tx, "x", thing{Name: "x"}) })
	refused := errors.New("no")
	for _, f := range []func(tx *store.Tx) error{
		func(tx *store.Tx) error { things.Put(tx, "a", thing{Name: "a"}); return refused },
		func(tx *store.Tx) error { things.Delete(tx, "a"); return nil },
		func(tx *store.Tx) error { _, err := things.All(ctx, tx); return err },
	} {
		if err := s.Update(ctx, f); err != nil && !errors.Is(err, refused) {
			t.Fatal(err)
		}
	}
	if got := names(t, ctx, s, seen); got != "[]" {
		t.Errorf("nothing was changed, and the witness wrote %s", got)
	}
	put(t, ctx, s, things, "a", thing{Name: "a"})
	if got := names(t, ctx, s, seen); got != "[x]" {
		t.Errorf("the witness of a change wrote %s, want [x]", got)
	}
	put(t, ctx, s, things, "b", thing{Name: "b"}) // it writes what is there already
	if got := names(t, ctx, s, things); got != "[a b]" {
		t.Errorf("got %s, want [a b]", got)
	}
}

func testOwnWrites(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	put(t, ctx, s, things, "a", thing{Name: "a"})
	put(t, ctx, s, things, "b", thing{Name: "b"})
	update(t, ctx, s, func(tx *store.Tx) {
		things.Put(tx, "c", thing{Name: "c"})
		things.Delete(tx, "b")
		things.Put(tx, "a", thing{Name: "A"})
		if got, want := names(t, ctx, tx, things), "[A c]"; got != want {
			t.Errorf("in the transaction: got %s, want %s", got, want)
		}
		if got, err := things.Get(ctx, tx, "a"); err != nil || got.Name != "A" {
			t.Errorf("in the transaction: got %v and error %v, want its own write", got, err)
		}
		if _, err := things.Get(ctx, tx, "b"); !errors.Is(err, weir.NotFound) {
			t.Errorf("in the transaction: got error %v for a row that it deleted, want not found", err)
		}
		if got, want := names(t, ctx, s, things), "[a b]"; got != want {
			t.Errorf("outside of the transaction: got %s, want %s", got, want)
		}
		things.Put(tx, "b", thing{Name: "B"})
	})
	if got, want := names(t, ctx, s, things), "[A B c]"; got != want {
		t.Errorf("after it: got %s, want %s", got, want)
	}
}

func testNoChange(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	put(t, ctx, s, things, "a", thing{Name: "a"})
	no := errors.New("no")
	err := s.Update(ctx, func(tx *store.Tx) error {
		things.Put(tx, "b", thing{Name: "b"})
		things.Delete(tx, "a")
		return no
	})
	if err != no {
		t.Errorf("got error %v, want what the function returned", err)
	}
	if got, want := names(t, ctx, s, things), "[a]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func testEncoding(t *testing.T, s *store.Store) {
	ctx, numbers := limited(t), store.NewTable[float64]("numbers")
	err := s.Update(ctx, func(tx *store.Tx) error {
		numbers.Put(tx, "good", 1)
		numbers.Put(tx, "bad", math.NaN())
		return nil
	})
	wantKind(t, err, weir.Invalid)
	if all, err := numbers.All(ctx, s); err != nil || len(all) != 0 {
		t.Errorf("got %v and error %v, want nothing written", all, err)
	}
	err = s.Update(ctx, func(tx *store.Tx) error { numbers.Put(tx, "", 1); return nil })
	wantKind(t, err, weir.Invalid)
}

// interfere runs a transaction in whose first run somebody else makes a change, between
// its reading and its commit, and returns how often it ran.
func interfere(t *testing.T, ctx context.Context, s *store.Store, other, f func(tx *store.Tx)) int {
	t.Helper()
	runs := 0
	update(t, ctx, s, func(tx *store.Tx) {
		runs++
		f(tx)
		if runs == 1 {
			update(t, ctx, s, other)
		}
	})
	return runs
}

func testConflict(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	put(t, ctx, s, things, "a", thing{Name: "a", Count: 1})
	add := func(tx *store.Tx) {
		a, err := things.Get(ctx, tx, "a")
		if err != nil {
			t.Errorf("in the transaction: %v", err)
		}
		a.Count++
		things.Put(tx, "a", a)
	}
	if runs := interfere(t, ctx, s, add, add); runs != 2 {
		t.Errorf("it ran %d times, want 2", runs)
	}
	if a, err := things.Get(ctx, s, "a"); err != nil || a.Count != 3 {
		t.Errorf("got %v and error %v, want a count of 3", a, err)
	}

	// A row that is not there is read, too.
	insert := func(tx *store.Tx) {
		if _, err := things.Get(ctx, tx, "new"); errors.Is(err, weir.NotFound) {
			things.Put(tx, "count", thing{Count: 1})
		}
	}
	other := func(tx *store.Tx) { things.Put(tx, "new", thing{}) }
	if runs := interfere(t, ctx, s, other, insert); runs != 2 {
		t.Errorf("it ran %d times after a row appeared that it found absent, want 2", runs)
	}
	if _, err := things.Get(ctx, s, "count"); !errors.Is(err, weir.NotFound) {
		t.Errorf("got error %v, want the row of the first run not to be there", err)
	}

	// What nobody read is no reason to run again.
	other = func(tx *store.Tx) { things.Put(tx, "other", thing{}) }
	if runs := interfere(t, ctx, s, other, add); runs != 1 {
		t.Errorf("it ran %d times after a row changed that it did not read, want 1", runs)
	}
}

func testPhantom(t *testing.T, s *store.Store) {
	ctx := limited(t)
	things, sums := store.NewTable[thing]("things"), store.NewTable[int]("sums")
	put(t, ctx, s, things, "a", thing{Count: 1})
	put(t, ctx, s, things, "b", thing{Count: 2})
	sum := func(tx *store.Tx) {
		all, err := things.All(ctx, tx)
		if err != nil {
			t.Errorf("in the transaction: %v", err)
		}
		sum := 0
		for _, row := range all {
			sum += row.Count
		}
		sums.Put(tx, "all", sum)
	}
	for _, c := range []struct {
		what  string
		other func(tx *store.Tx)
		runs  int
		sum   int
	}{
		{"added", func(tx *store.Tx) { things.Put(tx, "c", thing{Count: 4}) }, 2, 7},
		{"changed", func(tx *store.Tx) { things.Put(tx, "a", thing{Count: 9}) }, 2, 15},
		{"deleted", func(tx *store.Tx) { things.Delete(tx, "a") }, 2, 6},
		{"deleted that was not there", func(tx *store.Tx) { things.Delete(tx, "a") }, 1, 6},
		{"put as it was", func(tx *store.Tx) { things.Put(tx, "b", thing{Count: 2}) }, 1, 6},
	} {
		if runs := interfere(t, ctx, s, c.other, sum); runs != c.runs {
			t.Errorf("a row was %s: it ran %d times, want %d", c.what, runs, c.runs)
		}
		if got, err := sums.Get(ctx, s, "all"); err != nil || got != c.sum {
			t.Errorf("a row was %s: the sum is %d (%v), want %d", c.what, got, err, c.sum)
		}
		update(t, ctx, s, func(tx *store.Tx) { sums.Delete(tx, "all") })
	}
}

func testNeighbours(t *testing.T, s *store.Store) {
	ctx := limited(t)
	things, more := store.NewTable[thing]("things"), store.NewTable[thing]("things2")
	put(t, ctx, s, more, "a", thing{})
	read := func(tx *store.Tx) {
		names(t, ctx, tx, things)
		things.Put(tx, "a", thing{})
	}
	if runs := interfere(t, ctx, s, func(tx *store.Tx) { more.Delete(tx, "a") }, read); runs != 1 {
		t.Errorf("it ran %d times after a row of another table was deleted, want 1", runs)
	}
}

func testLarge(t *testing.T, s *store.Store) {
	const rows = 4096
	ctx, things := limited(t), store.NewTable[thing]("things")
	change := func(count int) {
		update(t, ctx, s, func(tx *store.Tx) {
			for i := range rows {
				key := weir.ID(fmt.Sprint(i))
				if _, err := things.Get(ctx, tx, key); err != nil && !errors.Is(err, weir.NotFound) {
					t.Fatalf("in the transaction: %v", err)
				}
				things.Put(tx, key, thing{Count: count})
			}
		})
	}
	change(1)
	change(2)
	all, err := things.All(ctx, s)
	if err != nil || len(all) != rows {
		t.Fatalf("got %d rows and error %v, want %d", len(all), err, rows)
	}
	for _, row := range all {
		if row.Count != 2 {
			t.Fatalf("got %v, want every row changed", row)
		}
	}
}

func testView(t *testing.T, s *store.Store) {
	ctx, things := limited(t), store.NewTable[thing]("things")
	put(t, ctx, s, things, "a", thing{Name: "old"})
	put(t, ctx, s, things, "b", thing{Name: "old"})
	err := s.View(ctx, func(tx *store.Tx) error {
		a, err := things.Get(ctx, tx, "a")
		if err != nil {
			return err
		}
		update(t, ctx, s, func(tx *store.Tx) {
			things.Put(tx, "a", thing{Name: "new"})
			things.Delete(tx, "b")
			things.Put(tx, "c", thing{Name: "new"})
		})
		if got := a.Name + names(t, ctx, tx, things); got != "old[old old]" {
			t.Errorf("got %s in the view, want what was there when it began", got)
		}
		return nil
	})
	if err != nil {
		t.Errorf("view: %v", err)
	}
	if got, want := names(t, ctx, s, things), "[new new]"; got != want {
		t.Errorf("after it: got %s, want %s", got, want)
	}

	err = s.View(ctx, func(tx *store.Tx) error { things.Put(tx, "d", thing{}); return nil })
	wantKind(t, err, weir.Invalid)
	if _, err := things.Get(ctx, s, "d"); !errors.Is(err, weir.NotFound) {
		t.Errorf("got error %v for a row that a view put, want not found", err)
	}
}

func testContext(t *testing.T, s *store.Store) {
	things := store.NewTable[thing]("things")
	ctx, cancel := context.WithCancel(limited(t))
	runs := 0
	err := s.Update(ctx, func(tx *store.Tx) error {
		runs++
		if _, err := things.Get(ctx, tx, "a"); err != nil && !errors.Is(err, weir.NotFound) {
			return err
		}
		if runs == 5 {
			cancel()
		}
		things.Put(tx, "b", thing{})
		put(t, limited(t), s, things, "a", thing{Count: runs}) // a conflict each time
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that of its context", err)
	}
	if _, err := things.Get(limited(t), s, "b"); !errors.Is(err, weir.NotFound) {
		t.Errorf("got error %v, want the row of the cancelled transaction not to be there", err)
	}
}

func testNext(t *testing.T, s *store.Store) {
	ctx := limited(t)
	var mu sync.Mutex
	var wg sync.WaitGroup
	given := map[int64]bool{}
	for range 4 {
		wg.Go(func() {
			last := int64(0)
			for range 10 {
				var n int64
				err := s.Update(ctx, func(tx *store.Tx) (err error) {
					n, err = store.Next(ctx, tx, "machines", 100)
					return err
				})
				if err != nil || n <= last {
					t.Errorf("got %d and error %v after %d, want a higher one", n, err, last)
				}
				last = n
				mu.Lock()
				given[n] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n := int64(100); n < 140; n++ {
		if !given[n] {
			t.Errorf("%d was not handed out, want all from 100 to 139", n)
		}
	}
	update(t, ctx, s, func(tx *store.Tx) {
		if n, err := store.Next(ctx, tx, "actions", 1); err != nil || n != 1 {
			t.Errorf("got %d and error %v from another sequence, want 1", n, err)
		}
	})
}
