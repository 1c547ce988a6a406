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
	Whole    bool  // with this the follower knows all that happened to the table up to Revision
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
			for i, c := range told.changes {
				c.Whole = told.at > 0 && i == len(told.changes)-1
				if !yield(c.Change, c.err) {
					return
				}
			}
		}
	}
}

// news is what happened to a table by whole commits, up to a revision. Of the rows that there are when a follower
// begins there are many news; all but the last of them have no revision.
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
			at, more, err := f.list(ctx, s.backend, func(n news[T]) bool { return yield(n, nil) })
			if !more {
				return
			}
			if err == nil {
				for events, err := range s.backend.Watch(ctx, tableSpan(t.name), at) {
					if err != nil {
						break
					}
					wait = newWait()
					if !yield(f.tell(events), nil) {
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

// atOnce is how many rows a follower reads at once: a large table is never in memory as it is stored. With each part
// etcd counts what is left of the table, so that parts should be few.
const atOnce = 20_000

// list tells how what there is at one moment differs from what was told, and returns that moment's revision, and
// whether to go on. The first time it tells of some rows at a time, and later all at once.
func (f *follower[T]) list(ctx context.Context, b Backend, tell func(news[T]) bool) (at int64, more bool, err error) {
	vanished := map[weir.ID]bool{}
	for key := range f.known {
		vanished[key] = true
	}
	var changes []decoded[T]
	for span, rest := (Span{Key: tableSpan(f.table.name).Key, Prefix: true, Limit: atOnce}), true; rest; {
		page, revision, err := readSpan(ctx, b, span, at)
		if err != nil {
			return 0, true, err // known is what was told
		}
		at, rest = revision, len(page) == atOnce
		for _, r := range page {
			delete(vanished, r.key)
			if f.known[r.key] != r.revision {
				changes = append(changes, f.decode(r))
			}
		}
		if !rest {
			break
		}
		span.After = span.Key + string(page[len(page)-1].key)
		if !f.synced {
			f.note(changes)
			if !tell(news[T]{changes: changes}) {
				return 0, false, nil
			}
			changes = nil
		}
	}
	for _, key := range slices.Sorted(maps.Keys(vanished)) {
		changes = append(changes, decoded[T]{Change: Change[T]{Key: key, Revision: at, Deleted: true}})
	}
	f.note(changes)
	if !f.synced {
		f.synced = true
		changes = append(changes, decoded[T]{Change: Change[T]{Synced: true, Revision: at}})
	}
	return at, tell(news[T]{changes, at}), nil
}

// note remembers what is about to be told.
func (f *follower[T]) note(changes []decoded[T]) {
	for _, c := range changes {
		if c.Deleted {
			delete(f.known, c.Key)
		} else {
			f.known[c.Key] = c.Revision
		}
	}
}

// tell returns the news that events are.
func (f *follower[T]) tell(events []Event) news[T] {
	prefix := tableSpan(f.table.name).Key
	var changes []decoded[T]
	for _, e := range events {
		key := weir.ID(e.Key[len(prefix):])
		if e.Deleted {
			changes = append(changes, decoded[T]{Change: Change[T]{Key: key, Revision: e.Revision, Deleted: true}})
		} else {
			changes = append(changes, f.decode(record{key, e.Value, e.Revision}))
		}
	}
	f.note(changes)
	return news[T]{changes, events[len(events)-1].Revision}
}

func (f *follower[T]) decode(r record) decoded[T] {
	row, err := f.table.decode(r)
	return decoded[T]{Change[T]{Key: r.key, Row: row, Revision: r.revision}, err}
}
