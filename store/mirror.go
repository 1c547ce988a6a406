package store

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/tidwall/btree"

	"weir/weir"
)

// Mirror is a table in the memory of this process, sorted and with indexes, for those who want a few
// rows of many: a page of a list costs the same among a hundred rows as among a million.
//
// It lags behind the store by a moment, and who reads it waits for that: what [Mirror.Page] returns is
// no older than the call, so that a caller finds what it has just written, by whichever member.
type Mirror[T any] struct {
	store *Store
	table Table[T]
	less  func(a, b *T) bool
	lists func(*T) []string

	mu      sync.RWMutex
	rows    map[weir.ID]*T
	sorted  map[string]listed[T] // by list
	at      int64                // the revision up to which all is here; 0 before the first time
	changed chan struct{}        // closed, and replaced, when at rises
}

// listed is a list in order. Very many have one row: a name's, for one.
type listed[T any] struct {
	one  *T // if it is the only one
	many *btree.BTreeG[*T]
}

func (l listed[T]) len() int {
	switch {
	case l.many != nil:
		return l.many.Len()
	case l.one != nil:
		return 1
	}
	return 0
}

// NewMirror returns a mirror of a table of s, which is empty until it runs. Of two rows less tells which is
// before the other; no two may be equal. A row is in each list that lists names for it.
func NewMirror[T any](s *Store, t Table[T], less func(a, b *T) bool, lists func(*T) []string) *Mirror[T] {
	return &Mirror[T]{store: s, table: t, less: less, lists: lists, rows: map[weir.ID]*T{},
		sorted: map[string]listed[T]{}, changed: make(chan struct{})}
}

// Run keeps the mirror as the table is until ctx ends.
func (m *Mirror[T]) Run(ctx context.Context, log *slog.Logger) {
	for told, err := range m.table.follow(ctx, m.store) {
		if err != nil {
			log.Warn("table no longer mirrored", "table", m.table.name, "err", err)
			return
		}
		m.mu.Lock()
		for _, c := range told.changes {
			switch {
			case c.err != nil:
				log.Warn("row not mirrored", "table", m.table.name, "key", c.Key, "err", c.err)
			case c.Synced:
			default:
				m.drop(c.Key)
				if !c.Deleted {
					row := c.Row // by itself: c is more
					m.put(c.Key, &row)
				}
			}
		}
		m.at = told.at
		close(m.changed)
		m.changed = make(chan struct{})
		m.mu.Unlock()
	}
}

func (m *Mirror[T]) put(key weir.ID, row *T) {
	m.rows[key] = row
	for _, list := range m.lists(row) {
		switch l := m.sorted[list]; {
		case l.many != nil:
			l.many.Set(row)
		case l.one == nil:
			m.sorted[list] = listed[T]{one: row}
		default:
			many := btree.NewBTreeGOptions(m.less, btree.Options{NoLocks: true})
			many.Set(l.one)
			many.Set(row)
			m.sorted[list] = listed[T]{many: many}
		}
	}
}

func (m *Mirror[T]) drop(key weir.ID) {
	row, ok := m.rows[key]
	if !ok {
		return
	}
	delete(m.rows, key)
	for _, list := range m.lists(row) {
		switch l := m.sorted[list]; {
		case l.one == row:
			delete(m.sorted, list)
		case l.many != nil:
			if l.many.Delete(row); l.many.Len() == 0 {
				delete(m.sorted, list)
			}
		}
	}
}

// Pages is a mirror at one moment. Rows that it returns are not to be changed.
type Pages[T any] interface {
	// Page returns at most n rows of a list, those after its first from, and how many the list has. A
	// from below 0 counts from the end.
	Page(list string, from, n int) (page []T, total int)

	// Each calls do for those rows instead, and copies none.
	Each(list string, from, n int, do func(*T)) (total int)
}

// View gives f the mirror as it is at one moment after the call. While the store cannot be reached it waits,
// until ctx ends. f must not wait for anything.
func (m *Mirror[T]) View(ctx context.Context, f func(Pages[T])) error {
	if err := m.await(ctx); err != nil {
		return fmt.Errorf("read %s: %w", m.table.name, err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	f((*moment[T])(m))
	return nil
}

// Page is that of [Pages], at a moment after the call.
func (m *Mirror[T]) Page(ctx context.Context, list string, from, n int) (page []T, total int, err error) {
	err = m.View(ctx, func(p Pages[T]) { page, total = p.Page(list, from, n) })
	return page, total, err
}

// moment is a mirror while it is locked.
type moment[T any] Mirror[T]

func (m *moment[T]) Page(list string, from, n int) (page []T, total int) {
	begin, end := PageOf(m.sorted[list].len(), from, n)
	page = make([]T, 0, end-begin)
	total = m.Each(list, from, n, func(row *T) { page = append(page, *row) })
	return page, total
}

func (m *moment[T]) Each(list string, from, n int, do func(*T)) (total int) {
	l := m.sorted[list]
	total = l.len()
	for i, end := PageOf(total, from, n); i < end; i++ {
		row := l.one
		if l.many != nil {
			row, _ = l.many.GetAt(i)
		}
		do(row)
	}
	return total
}

// PageOf returns which of total rows are on a page as [Pages] has it: those from begin to before end.
func PageOf(total, from, n int) (begin, end int) {
	if from < 0 {
		from += total
	}
	begin = min(max(from, 0), total)
	return begin, begin + min(max(n, 0), total-begin)
}

// Get returns the row at key as it is at a moment after the call. If there is none, the error is weir.NotFound.
func (m *Mirror[T]) Get(ctx context.Context, key weir.ID) (row T, err error) {
	if err := m.await(ctx); err != nil {
		return row, fmt.Errorf("read %q in %s: %w", key, m.table.name, err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if there := m.rows[key]; there != nil {
		return *there, nil
	}
	return row, weir.Errorf(weir.NotFound, "there is no %q in %s", key, m.table.name)
}

// await returns once all is here that was stored when it was called.
func (m *Mirror[T]) await(ctx context.Context) error {
	last, err := m.store.Touched(ctx, m.table.name)
	if err != nil {
		return err
	}
	for {
		m.mu.RLock()
		at, changed := m.at, m.changed
		m.mu.RUnlock()
		if at > 0 && at >= last {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.store.Done():
			return m.store.Err()
		}
	}
}
