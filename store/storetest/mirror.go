package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"weir/store"
	"weir/weir"
)

// testMirror has many write at random and read what they have just written from a mirror, page by page.
func testMirror(t *testing.T, s *store.Store) {
	const workers, each, keys = 4, 60, 30
	ctx, table := limited(t), store.NewTable[thing]("mirrored")
	before := func(a, b *thing) int { return cmp.Or(cmp.Compare(a.Count, b.Count), cmp.Compare(a.Name, b.Name)) }
	parity := func(a *thing) string { return []string{"even", "odd"}[a.Count%2] }
	m := store.NewMirror(s, table, func(a, b *thing) bool { return before(a, b) < 0 },
		func(a *thing) []string { return []string{"all", parity(a)} })
	put(t, ctx, s, table, "early", thing{Name: "early", Count: 7})
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	running.Go(func() { m.Run(t.Context(), slog.New(slog.DiscardHandler)) })

	all := func(list string) (all []thing) {
		for {
			page, total, err := m.Page(ctx, list, len(all), 7)
			if err != nil {
				t.Errorf("page: %v", err)
				return nil
			}
			if all = append(all, page...); len(page) == 0 || len(all) >= total {
				return all
			}
		}
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(w)))
			for range each {
				name := fmt.Sprintf("%d-%d", w, random.IntN(keys)) // a worker's own
				row, there := thing{Name: name, Count: random.IntN(100)}, random.IntN(4) > 0
				err := s.Update(ctx, func(tx *store.Tx) error {
					if table.Delete(tx, weir.ID(name)); there {
						table.Put(tx, weir.ID(name), row)
						table.Put(tx, weir.ID(name+"-twin"), thing{Name: name + "-twin", Count: row.Count})
					}
					return nil
				})
				if err != nil {
					t.Errorf("update: %v", err)
				}
				page, _, err := m.Page(ctx, "all", 0, 10*workers*keys)
				if err != nil {
					t.Errorf("page: %v", err)
				}
				if slices.Contains(page, row) != there {
					t.Errorf("what was just written, %+v (%v), is not what the mirror has", row, there)
				}
				got, err := m.Get(ctx, weir.ID(name))
				if there && (err != nil || got != row) || !there && !errors.Is(err, weir.NotFound) {
					t.Errorf("the mirror has %+v, %v at %s; just written: %+v (%v)", got, err, name, row, there)
				}
				if there && !slices.Contains(page, thing{Name: name + "-twin", Count: row.Count}) {
					t.Errorf("half of the commit of %s is not there", name)
				}
			}
		})
	}
	wg.Wait()
	want, err := table.All(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(want, func(a, b thing) int { return before(&a, &b) })
	if got := all("all"); !slices.Equal(got, want) {
		t.Errorf("the mirror has %v, want %v", got, want)
	}
	odd := slices.DeleteFunc(slices.Clone(want), func(a thing) bool { return parity(&a) != "odd" })
	if got := all("odd"); !slices.Equal(got, odd) {
		t.Errorf("its list has %v, want %v", got, odd)
	}
	if page, total, err := m.Page(ctx, "none", 0, 1); len(page) > 0 || total > 0 || err != nil {
		t.Errorf("a list that nothing is in has %v of %d, %v", page, total, err)
	}
}
