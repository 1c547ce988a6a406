// Package storetest holds every kind of store to what package store promises.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"weir/store"
	"weir/weir"
)

type test struct {
	name string
	run  func(t *testing.T, s *store.Store)
}

func tests() []test {
	return []test{
		{"a row that was put is read by everyone", testPut},
		{"a row that is not there is named in the error", testNotFound},
		{"rows come by key, and tables do not mix", testAll},
		{"a page has the rows after a key, and no more than asked for", testPage},
		{"a witness writes in each transaction that changes something", testWitness},
		{"a transaction sees its own writes", testOwnWrites},
		{"a transaction that returns an error changes nothing", testNoChange},
		{"a row that cannot be encoded fails the transaction", testEncoding},
		{"a transaction runs again if a row that it read changes", testConflict},
		{"a transaction runs again if a row appears, changes or vanishes in a table that it read", testPhantom},
		{"a row that only a deleted table prefix shares does not conflict", testNeighbours},
		{"a transaction of thousands of rows is one commit", testLarge},
		{"a view stays at one moment, and cannot write", testView},
		{"a transaction ends with its context", testContext},
		{"numbers of a sequence are handed out once", testNext},
		{"a follower hears of every row, then that it knows all, then of every change", testFollow},
		{"what changes nothing is not heard of", testSilence},
		{"a follower ends with its context, with its listener, and with the store", testFollowEnds},
		{"a follower misses nothing while others write", testFollowBusy},
		{"what a follower hears of can be read", testFollowedIsReadable},
		{"a mirror shows what was stored before it is asked, and whole commits", testMirror},
		{"increments by many are all counted", testIncrements},
		{"transfers between accounts keep the sum", testTransfers},
		{"names stay unique", testUniqueNames},
		{"one leads at a time", testLead},
		{"leadership passes when it is given back", testLeadPasses},
		{"a leader that was deposed cannot write, even if it does not know", testDeposed},
		{"the work of a deposed leader is told to end", testDeposedEnds},
		{"who waits to lead stops waiting with its context", testLeadContext},
		{"leaderships of two names are apart", testLeadNames},
		{"whoever asks hears who leads, by name and since when", testLeader},
		{"whoever asks hears which members keep the store", testMembers},
	}
}

// Run holds the stores that open returns, each empty and for one test alone, to what
// package store promises.
func Run(t *testing.T, open func(t *testing.T) *store.Store) {
	for _, test := range tests() {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// RunInBubble is Run with each test in a testing/synctest bubble of its own, in which
// open is called.
func RunInBubble(t *testing.T, open func(t *testing.T) *store.Store) {
	for _, test := range tests() {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test.run(t, open(t)) })
		})
	}
}

// thing is a row of the tests' tables.
type thing struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// limited returns a context that ends with the test, or when the test hangs.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// update is s.Update, which must succeed.
func update(t *testing.T, ctx context.Context, s *store.Store, f func(tx *store.Tx)) {
	t.Helper()
	if err := s.Update(ctx, func(tx *store.Tx) error { f(tx); return nil }); err != nil {
		t.Fatalf("update: %v", err)
	}
}

// put puts one row.
func put(t *testing.T, ctx context.Context, s *store.Store, table store.Table[thing], key weir.ID, row thing) {
	t.Helper()
	update(t, ctx, s, func(tx *store.Tx) { table.Put(tx, key, row) })
}

// names returns the names of all rows of a table, as one string.
func names(t *testing.T, ctx context.Context, r store.Reader, table store.Table[thing]) string {
	t.Helper()
	all, err := table.All(ctx, r)
	if err != nil {
		t.Fatalf("all: %v", err)
	}
	var names []string
	for _, row := range all {
		names = append(names, row.Name)
	}
	return fmt.Sprint(names)
}

// wantKind fails the test if err is not of kind.
func wantKind(t *testing.T, err error, kind weir.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got error %q of kind %q, want kind %q", err, weir.KindOf(err), kind)
	}
}
