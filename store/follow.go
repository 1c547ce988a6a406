package store

import (
	"context"
	"iter"
	"maps"
	"slices"

	"weir/weir"
)

// Change is something that Follow tells of a table: a row that is there or was put,
// a row that was deleted, or that all rows there were have been told of.
type Change[T any] struct {
	Key      weir.ID
	Row      T     // unless Deleted or Synced
	Revision int64 // of the commit that made it; changes of one commit share it
	Deleted  bool  // there is no row at Key any more
	Synced   bool  // comes once, without a Key: now the follower knows all
}

// Follow yields every row that there is, then a change with Synced, then each change
// as it comes, until ctx ends. It yields nothing older than it has yielded of a key,
// and no change that lasts is missed; but a row that changed twice while the store
// could not be reached may come once, with its last content, and a row that came and
// went meanwhile not at all.
//
// While the store cannot be reached, Follow keeps trying. An error is about the row of
// Key, which cannot be decoded, and the next change comes after it; or it is the last,
// if the store can do no more (see Store.Done).
func (t Table[T]) Follow(ctx context.Context, s *Store) iter.Seq2[Change[T], error] {
	return func(yield func(Change[T], error) bool) {
		f := follower[T]{table: t, known: map[weir.ID]int64{}, yield: yield}
		for wait := newWait(); ; {
			all, at, err := readTable(ctx, s.backend, t.name, 0)
			if err == nil {
				if !f.list(all, at) {
					return
				}
				for events, err := range s.backend.Watch(ctx, tableSpan(t.name), at) {
					if err != nil {
						break
					}
					wait = newWait()
					if !f.tell(events) {
						return
					}
				}
			}
			if err := wait.next(ctx, s.backend); err != nil {
				if ctx.Err() == nil {
					yield(Change[T]{}, err)
				}
				return
			}
		}
	}
}

// follower is what Follow has told so far.
type follower[T any] struct {
	table  Table[T]
	known  map[weir.ID]int64 // the rows that it told of, with their revisions
	synced bool
	yield  func(Change[T], error) bool
}

// list tells how all, which is what there is at a revision, differs from what was told.
// Like tell, it reports whether the listener wants more.
func (f *follower[T]) list(all []record, at int64) bool {
	vanished := map[weir.ID]bool{}
	for key := range f.known {
		vanished[key] = true
	}
	for _, r := range all {
		delete(vanished, r.key)
		if f.known[r.key] != r.revision && !f.put(r) {
			return false
		}
	}
	for _, key := range slices.Sorted(maps.Keys(vanished)) {
		if !f.delete(key, at) {
			return false
		}
	}
	if f.synced {
		return true
	}
	f.synced = true
	return f.yield(Change[T]{Synced: true, Revision: at}, nil)
}

// tell tells of events.
func (f *follower[T]) tell(events []Event) bool {
	prefix := tableSpan(f.table.name).Key
	for _, e := range events {
		key := weir.ID(e.Key[len(prefix):])
		if e.Deleted {
			if !f.delete(key, e.Revision) {
				return false
			}
		} else if !f.put(record{key, e.Value, e.Revision}) {
			return false
		}
	}
	return true
}

func (f *follower[T]) put(r record) bool {
	f.known[r.key] = r.revision
	row, err := f.table.decode(r)
	return f.yield(Change[T]{Key: r.key, Row: row, Revision: r.revision}, err)
}

func (f *follower[T]) delete(key weir.ID, revision int64) bool {
	delete(f.known, key)
	return f.yield(Change[T]{Key: key, Revision: revision, Deleted: true}, nil)
}
