package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"weir/store"
	"weir/weir"
)

func testIncrements(t *testing.T, s *store.Store) {
	const workers, each = 6, 25
	ctx, things := limited(t), store.NewTable[thing]("things")
	put(t, ctx, s, things, "a", thing{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				err := s.Update(ctx, func(tx *store.Tx) error {
					a, err := things.Get(ctx, tx, "a")
					if err != nil {
						return err
					}
					a.Count++
					things.Put(tx, "a", a)
					return nil
				})
				if err != nil {
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if a, err := things.Get(ctx, s, "a"); err != nil || a.Count != workers*each {
		t.Errorf("got %d and error %v, want %d", a.Count, err, workers*each)
	}
}

// testTransfers moves random amounts between random accounts, opens some and closes
// some, while others add them all up.
func testTransfers(t *testing.T, s *store.Store) {
	const workers, transfers, accounts, each = 4, 40, 5, 100
	ctx, table := limited(t), store.NewTable[int]("accounts")
	update(t, ctx, s, func(tx *store.Tx) {
		for i := range accounts {
			table.Put(tx, account(i), each)
		}
	})
	sum := func(r store.Reader) (sum int) {
		all, err := table.All(ctx, r)
		if err != nil {
			t.Errorf("all: %v", err)
		}
		for _, a := range all {
			sum += a
		}
		return sum
	}

	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for range transfers {
				from, to, amount := account(random.IntN(2*accounts)), account(random.IntN(2*accounts)), 1+random.IntN(30)
				transfer(t, s, table, from, to, amount)
				if w == 0 {
					err := s.View(ctx, func(tx *store.Tx) error {
						if got := sum(tx); got != accounts*each {
							t.Errorf("in a view: the sum is %d, want %d", got, accounts*each)
						}
						return nil
					})
					if err != nil {
						t.Errorf("view: %v", err)
					}
				}
				if got := sum(s); got != accounts*each {
					t.Errorf("the sum is %d, want %d", got, accounts*each)
				}
			}
		})
	}
	wg.Wait()
}

func account(i int) weir.ID { return weir.ID(fmt.Sprintf("account-%d", i)) }

// transfer moves amount, or all that there is. An account without money is closed, and
// one that gets some is opened.
func transfer(t *testing.T, s *store.Store, table store.Table[int], from, to weir.ID, amount int) {
	ctx := limited(t)
	err := s.Update(ctx, func(tx *store.Tx) error {
		have, err := table.Get(ctx, tx, from)
		if err != nil || from == to {
			return err
		}
		amount := min(amount, have)
		if table.Put(tx, from, have-amount); have == amount {
			table.Delete(tx, from)
		}
		has, err := table.Get(ctx, tx, to)
		if err != nil && !errors.Is(err, weir.NotFound) {
			return err
		}
		table.Put(tx, to, has+amount)
		return nil
	})
	if err != nil && !errors.Is(err, weir.NotFound) {
		t.Errorf("transfer: %v", err)
	}
}

// testUniqueNames has many insert the same names under keys of their own, each looking
// through the whole table first, and some give them up again.
func testUniqueNames(t *testing.T, s *store.Store) {
	const workers, inserts = 4, 20
	ctx, things := limited(t), store.NewTable[thing]("things")
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range inserts {
				name, key := fmt.Sprint("name-", i), weir.ID(fmt.Sprintf("%d-%d", w, i))
				err := s.Update(ctx, func(tx *store.Tx) error {
					all, err := things.All(ctx, tx)
					if err != nil {
						return err
					}
					for _, row := range all {
						if row.Name == name {
							return weir.Errorf(weir.Conflict, "%s is taken", name)
						}
					}
					things.Put(tx, key, thing{Name: name})
					return nil
				})
				if err != nil && !errors.Is(err, weir.Conflict) {
					t.Errorf("insert: %v", err)
				}
				if err == nil && i%5 == 0 {
					update(t, ctx, s, func(tx *store.Tx) { things.Delete(tx, key) })
				}
				all, err := things.All(ctx, s)
				if err != nil {
					t.Errorf("all: %v", err)
				}
				seen := map[string]bool{}
				for _, row := range all {
					if seen[row.Name] {
						t.Errorf("%s is there twice", row.Name)
					}
					seen[row.Name] = true
				}
			}
		})
	}
	wg.Wait()
}
