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
		for told, err := range t.follow(ctx, s) {
			if err != nil {
				yield(Change[T]{}, err)
				return
			}
			for _, c := range told.changes {
				if !yield(c.Change, c.err) {
					return
				}
			}
		}
	}
}

// news is what happened to a table by whole commits, up to a revision.
type news[T any] struct {
	changes []decoded[T]
	at      int64
}

// decoded is a change, or why its row cannot be decoded.
type decoded[T any] struct {
	Change[T]
	err error
}

// follow is Follow by whole commits. An error is its last.
func (t Table[T]) follow(ctx context.Context, s *Store) iter.Seq2[news[T], error] {
	return func(yield func(news[T], error) bool) {
		f := follower[T]{table: t, known: map[weir.ID]int64{}}
		for wait := newWait(); ; {
			all, at, err := readTable(ctx, s.backend, t.name, 0)
			if err == nil {
				if !yield(news[T]{f.list(all, at), at}, nil) {
					return
				}
				for events, err := range s.backend.Watch(ctx, tableSpan(t.name), at) {
					if err != nil {
						break
					}
					wait = newWait()
					if !yield(news[T]{f.tell(events), events[len(events)-1].Revision}, nil) {
						return
					}
				}
			}
			if err := wait.next(ctx, s.backend); err != nil {
				if ctx.Err() == nil {
					yield(news[T]{}, err)
				}
				return
			}
		}
	}
}

// follower is what follow has told so far.
type follower[T any] struct {
	table  Table[T]
	known  map[weir.ID]int64 // the rows that it told of, with their revisions
	synced bool
}

// list returns how all, which is what there is at a revision, differs from what was told.
func (f *follower[T]) list(all []record, at int64) (changes []decoded[T]) {
	vanished := map[weir.ID]bool{}
	for key := range f.known {
		vanished[key] = true
	}
	for _, r := range all {
		delete(vanished, r.key)
		if f.known[r.key] != r.revision {
			changes = append(changes, f.put(r))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(vanished)) {
		changes = append(changes, f.delete(key, at))
	}
	if !f.synced {
		f.synced = true
		changes = append(changes, decoded[T]{Change: Change[T]{Synced: true, Revision: at}})
	}
	return changes
}

// tell returns the changes that events are.
func (f *follower[T]) tell(events []Event) (changes []decoded[T]) {
	prefix := tableSpan(f.table.name).Key
	for _, e := range events {
		key := weir.ID(e.Key[len(prefix):])
		if e.Deleted {
			changes = append(changes, f.delete(key, e.Revision))
		} else {
			changes = append(changes, f.put(record{key, e.Value, e.Revision}))
		}
	}
	return changes
}

func (f *follower[T]) put(r record) decoded[T] {
	f.known[r.key] = r.revision
	row, err := f.table.decode(r)
	return decoded[T]{Change[T]{Key: r.key, Row: row, Revision: r.revision}, err}
}

func (f *follower[T]) delete(key weir.ID, revision int64) decoded[T] {
	delete(f.known, key)
	return decoded[T]{Change: Change[T]{Key: key, Revision: revision, Deleted: true}}
}
