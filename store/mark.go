package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"weir/weir"
)

// A mark tells, after an error, whether a commit was made. Each commit writes a random
// word to one of a few thousand keys, on condition that nobody has written there since
// the commit's transaction began to read. So whoever writes there afterwards both
// prevents the commit, should it still be under way, and finds its word, if it was made.
type mark struct {
	key   string
	word  string
	since int64 // the revision that the transaction read at
}

func newMark(since int64) mark {
	// All keys have one length, so that each is the only one that begins with itself.
	return mark{fmt.Sprintf("%s%03x", marks, rand.N(4096)), newWord(), since}
}

func newWord() string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) }

// addTo has txn write the mark.
func (m mark) addTo(txn *Txn) {
	txn.If = append(txn.If, Condition{Span{Key: m.key, Prefix: true}, m.since})
	txn.Puts = append(txn.Puts, Put{Key: m.key, Value: []byte(m.word)})
}

// settle finds out whether the commit that carried m and ended with cause was made, and
// prevents it if it was not.
func (m mark) settle(ctx context.Context, b Backend, cause error) (made bool, err error) {
	if errors.Is(cause, weir.Invalid) || errors.Is(cause, weir.Denied) {
		return false, cause
	}
	for wait := newWait(); ; {
		made, err := m.prevent(ctx, b)
		if err == nil && !made && errors.Is(cause, weir.Exhausted) {
			return false, cause
		}
		if err == nil {
			return made, nil
		}
		if !errors.Is(err, ErrCompacted) {
			err = wait.next(ctx, b)
		}
		if b.Err() != nil {
			return false, b.Err()
		}
		if err != nil {
			return false, weir.Errorf(weir.Unavailable, "commit: whether it was made is not known: %w (%w)", cause, err)
		}
	}
}

// prevent prevents the commit that carried m, unless it was made already.
func (m mark) prevent(ctx context.Context, b Backend) (made bool, err error) {
	revision, _, err := b.Commit(ctx, Txn{Puts: []Put{{Key: m.key, Value: []byte(newWord())}}})
	switch {
	case err == nil:
		return m.find(ctx, b, revision-1)
	case errors.Is(err, weir.Exhausted):
		return m.find(ctx, b, 0) // what is over its quota makes no late commit either
	default:
		return false, err
	}
}

// find looks for m's word in all that was written to its key after m.since, up to and
// with a revision (0: now).
func (m mark) find(ctx context.Context, b Backend, revision int64) (bool, error) {
	for {
		entries, _, err := b.Read(ctx, Span{Key: m.key}, revision)
		if err != nil {
			return false, err
		}
		if len(entries) == 0 || entries[0].Revision <= m.since {
			return false, nil
		}
		if string(entries[0].Value) == m.word {
			return true, nil
		}
		revision = entries[0].Revision - 1
	}
}
