package store

import (
	"context"
	"errors"
	"iter"
)

// ErrCompacted is what a Backend answers when asked for a revision so old that it
// has forgotten it. Readers begin anew at a later one.
var ErrCompacted = errors.New("revision is compacted")

// Backend is an ordered map of keys to bytes that counts its commits. All that a
// [Store] does, it does by these methods, so that a test can stand between the two
// and inject faults; embed a Backend and override.
//
// An empty one is at revision 1. Each commit that changes anything makes the next
// revision, which all its changes share.
type Backend interface {
	// Read returns the entries of span as they were at a revision (0: as they are now,
	// all that anyone was told is committed included), by key, and that revision.
	// ErrCompacted if it is forgotten. Of the empty span there are no entries: it asks for the
	// revision alone, which is cheap.
	Read(ctx context.Context, span Span, revision int64) (entries []Entry, at int64, err error)

	// Commit makes all changes of txn if all its conditions hold, in one step, and
	// returns the revision at which it decided and whether it made them. After an error
	// of kind weir.Invalid nothing was done; after any other, txn may have been
	// committed, or may be later.
	Commit(ctx context.Context, txn Txn) (revision int64, ok bool, err error)

	// Watch yields what happens in span after a revision, without gaps: the events of
	// whole commits, in order. It ends with ctx, silently, or with an error; the caller
	// then reads anew. ErrCompacted if some of what happened is forgotten.
	Watch(ctx context.Context, span Span, after int64) iter.Seq2[[]Event, error]

	// Grant returns a new lease, and keeps it alive until it is ended.
	Grant(ctx context.Context) (Lease, error)

	// Members returns the members that keep the entries, by name. It needs no quorum of
	// them if one is in this process, and takes a second at most then.
	Members(ctx context.Context) ([]Member, error)

	// Done is closed once the backend can do no more: it was closed or is broken.
	Done() <-chan struct{}

	// Err says why Done is closed; nil before.
	Err() error

	// Close gives back all that the backend has. What waits in it returns.
	Close() error
}

// Span is one key, or with Prefix all keys that begin with it.
type Span struct {
	Key    string
	Prefix bool

	// Of a span with a Prefix, Read returns only what follows the key After, and only the
	// first Limit entries; all for a Limit of 0. Nothing else looks at them.
	After string
	Limit int
}

// Entry is a key with what was last put there.
type Entry struct {
	Key      string
	Value    []byte // not to be changed
	Revision int64  // of the commit that put it; 0 if the key is absent
}

// Event is one change of a key: a put, or with Deleted a deletion (Value is nil).
type Event struct {
	Entry
	Deleted bool
}

// Txn is a commit to be made if all conditions hold. No key is changed twice in it.
type Txn struct {
	If      []Condition
	Puts    []Put
	Deletes []string // what is absent is left so
}

// Condition holds if the key of the span was last put at Revision (0: the key is
// absent); with a Prefix, if no key in the span was put after Revision. A deletion does
// not break a condition of the second kind: count deletions in a key of their own.
type Condition struct {
	Span
	Revision int64
}

// Put is a key's new value. If it has a lease, the key is deleted when the lease ends.
type Put struct {
	Key   string
	Value []byte
	Lease int64 // 0: none
}

// Lease holds keys for as long as its owner lives and can reach the backend.
type Lease struct {
	ID   int64
	Done <-chan struct{} // closed when the lease has ended, or may have

	// End ends the lease, and deletes its keys. If it cannot, they go by themselves
	// after some seconds. It can be repeated.
	End func(ctx context.Context) error
}
