package store

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"weir/weir"
)

// remembered is how many revisions a memory remembers at least; it forgets when it has
// twice as many.
const remembered = 10_000

// memory is a Backend in memory. Its mutex is never held while waiting.
type memory struct {
	mu       sync.Mutex
	keys     []string           // that have versions, in order
	versions map[string][]Event // of each key, oldest first
	log      [][]Event          // of the last commits, oldest first
	forgot   int64              // the last revision before log
	moved    chan struct{}      // closed, and replaced, at each commit
	leases   map[int64]*memoryLease
	granted  int64 // the ID of the last lease
	done     chan struct{}
	err      error
}

type memoryLease struct {
	keys map[string]bool
	done chan struct{}
}

// NewMemory returns the Backend that Memory is made of.
func NewMemory() Backend {
	return &memory{
		versions: map[string][]Event{}, leases: map[int64]*memoryLease{},
		forgot: 1, moved: make(chan struct{}), done: make(chan struct{}),
	}
}

func (m *memory) Done() <-chan struct{} { return m.done }

// Members returns the memory itself, which cannot be away.
func (m *memory) Members(ctx context.Context) ([]Member, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	return []Member{{Name: "memory", Self: true, Up: true, Leads: true}}, nil
}

func (m *memory) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = errClosed()
		close(m.done)
		for id := range m.leases {
			m.drop(id)
		}
	}
	return nil
}

// head is the revision of the last commit.
func (m *memory) head() int64 { return m.forgot + int64(len(m.log)) }

// lock locks m, unless ctx or m has ended.
func (m *memory) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	if m.err != nil {
		m.mu.Unlock()
		return m.err
	}
	return nil
}

func (m *memory) Read(ctx context.Context, span Span, revision int64) ([]Entry, int64, error) {
	if err := m.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer m.mu.Unlock()
	head := m.head()
	if revision == 0 {
		revision = head
	}
	if revision < m.forgot {
		return nil, 0, fmt.Errorf("revision %d: %w", revision, ErrCompacted)
	}
	if revision > head {
		return nil, 0, weir.Errorf(weir.Invalid, "revision %d is not yet made: the last one is %d", revision, head)
	}
	var entries []Entry
	for key := range m.within(span) {
		if last, ok := m.version(key, revision); ok && !last.Deleted {
			entries = append(entries, last.Entry)
			if len(entries) == span.Limit {
				break
			}
		}
	}
	return entries, revision, nil
}

// within yields the keys in span that have versions, in order.
func (m *memory) within(span Span) iter.Seq[string] {
	return func(yield func(string) bool) {
		i, found := slices.BinarySearch(m.keys, span.Key)
		if span.Prefix && span.After >= span.Key {
			if i, found = slices.BinarySearch(m.keys, span.After); found {
				i++
			}
		}
		if !span.Prefix {
			if found {
				yield(span.Key)
			}
			return
		}
		for _, key := range m.keys[i:] {
			if !strings.HasPrefix(key, span.Key) || !yield(key) {
				return
			}
		}
	}
}

// version returns the last version of key up to and with a revision.
func (m *memory) version(key string, revision int64) (Event, bool) {
	versions := m.versions[key]
	after, _ := slices.BinarySearchFunc(versions, revision+1, func(e Event, r int64) int { return cmp.Compare(e.Revision, r) })
	if after == 0 {
		return Event{}, false
	}
	return versions[after-1], true
}

func (m *memory) Commit(ctx context.Context, txn Txn) (int64, bool, error) {
	if err := m.lock(ctx); err != nil {
		return 0, false, err
	}
	defer m.mu.Unlock()
	for _, p := range txn.Puts {
		if p.Lease != 0 && m.leases[p.Lease] == nil {
			return 0, false, weir.Errorf(weir.Invalid, "put %s: there is no lease %d", p.Key, p.Lease)
		}
	}
	for _, c := range txn.If {
		if !m.holds(c) {
			return m.head(), false, nil
		}
	}
	m.make(txn)
	return m.head(), true, nil
}

func (m *memory) holds(c Condition) bool {
	if !c.Prefix {
		last, ok := m.version(c.Key, m.head())
		if !ok || last.Deleted {
			return c.Revision == 0
		}
		return last.Revision == c.Revision
	}
	for key := range m.within(c.Span) {
		if last, ok := m.version(key, m.head()); ok && !last.Deleted && last.Revision > c.Revision {
			return false
		}
	}
	return true
}

// make makes the changes of txn.
func (m *memory) make(txn Txn) {
	revision := m.head() + 1
	var events []Event
	for _, p := range txn.Puts {
		value := p.Value
		if value == nil {
			value = []byte{}
		}
		events = append(events, Event{Entry: Entry{p.Key, slices.Clone(value), revision}})
		for id, lease := range m.leases {
			delete(lease.keys, p.Key)
			if id == p.Lease {
				lease.keys[p.Key] = true
			}
		}
	}
	for _, key := range txn.Deletes {
		if last, ok := m.version(key, revision); ok && !last.Deleted {
			events = append(events, Event{Entry{Key: key, Revision: revision}, true})
		}
	}
	if len(events) == 0 {
		return
	}
	for _, e := range events {
		if i, found := slices.BinarySearch(m.keys, e.Key); !found {
			m.keys = slices.Insert(m.keys, i, e.Key)
		}
		m.versions[e.Key] = append(m.versions[e.Key], e)
	}
	m.log = append(m.log, events)
	if len(m.log) >= 2*remembered {
		m.forget(revision - remembered)
	}
	close(m.moved)
	m.moved = make(chan struct{})
}

// forget forgets what was before a revision.
func (m *memory) forget(revision int64) {
	m.log = slices.Clone(m.log[revision-m.forgot:])
	m.forgot = revision
	m.keys = slices.DeleteFunc(m.keys, func(key string) bool {
		versions := m.versions[key]
		for len(versions) > 1 && versions[1].Revision <= revision {
			versions = versions[1:]
		}
		if last := versions[len(versions)-1]; last.Deleted && last.Revision <= revision {
			delete(m.versions, key)
			return true
		}
		m.versions[key] = slices.Clone(versions)
		return false
	})
}

func (m *memory) Watch(ctx context.Context, span Span, after int64) iter.Seq2[[]Event, error] {
	return func(yield func([]Event, error) bool) {
		for {
			if err := m.lock(ctx); err != nil {
				if ctx.Err() == nil {
					yield(nil, err)
				}
				return
			}
			if after < m.forgot {
				m.mu.Unlock()
				yield(nil, fmt.Errorf("watch from revision %d: %w", after, ErrCompacted))
				return
			}
			var news []Event
			for _, events := range m.log[min(after, m.head())-m.forgot:] {
				for _, e := range events {
					if e.Key == span.Key || span.Prefix && strings.HasPrefix(e.Key, span.Key) {
						news = append(news, e)
					}
				}
			}
			after = max(after, m.head())
			moved := m.moved
			m.mu.Unlock()

			if len(news) > 0 {
				if !yield(news, nil) {
					return
				}
				continue
			}
			select {
			case <-moved:
			case <-m.done:
			case <-ctx.Done():
			}
		}
	}
}

func (m *memory) Grant(ctx context.Context) (Lease, error) {
	if err := m.lock(ctx); err != nil {
		return Lease{}, err
	}
	defer m.mu.Unlock()
	m.granted++
	id := m.granted
	lease := &memoryLease{map[string]bool{}, make(chan struct{})}
	m.leases[id] = lease
	return Lease{ID: id, Done: lease.done, End: func(context.Context) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.err == nil && m.leases[id] != nil {
			m.make(Txn{Deletes: slices.Sorted(maps.Keys(lease.keys))})
			m.drop(id)
		}
		return nil
	}}, nil
}

func (m *memory) drop(id int64) {
	close(m.leases[id].done)
	delete(m.leases, id)
}

// errClosed is why a store that was closed can do no more.
func errClosed() error { return weir.Errorf(weir.Unavailable, "the store is closed") }
