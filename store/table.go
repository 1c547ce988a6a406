package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"weir/weir"
)

var tableName = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

// Table is a table of rows of one type, each under its key. It is a name and no more:
// the same table can be in many stores.
type Table[T any] struct{ name string }

// NewTable returns the table of that name: lower-case letters, digits, _ and -, such
// as machines. Any other name is a mistake in the program, and panics.
func NewTable[T any](name string) Table[T] {
	if !tableName.MatchString(name) {
		panic(fmt.Sprintf("store: %q cannot be the name of a table", name))
	}
	return Table[T]{name}
}

// Get returns the row at key. If there is none, the error is weir.NotFound.
func (t Table[T]) Get(ctx context.Context, r Reader, key weir.ID) (T, error) {
	got, err := r.row(ctx, t.name, key)
	if err != nil {
		var none T
		return none, fmt.Errorf("read %q in %s: %w", key, t.name, err)
	}
	if got.value == nil {
		var none T
		return none, weir.Errorf(weir.NotFound, "there is no %q in %s", key, t.name)
	}
	return t.decode(got)
}

// All returns all rows, by key (in the order of bytes: "10" is before "9").
func (t Table[T]) All(ctx context.Context, r Reader) ([]T, error) {
	got, err := r.table(ctx, t.name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.name, err)
	}
	all := make([]T, len(got))
	for i, g := range got {
		if all[i], err = t.decode(g); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Page returns the first rows, at most limit, of those whose keys follow a key (all for ""), and
// their keys. It reads no others, however many there are.
func (t Table[T]) Page(ctx context.Context, s *Store, after weir.ID, limit int) (keys []weir.ID, rows []T, err error) {
	span := tableSpan(t.name)
	span.Limit = limit
	if after != "" {
		span.After = span.Key + string(after)
	}
	got, _, err := readSpan(ctx, s.backend, span, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", t.name, err)
	}
	keys, rows = make([]weir.ID, len(got)), make([]T, len(got))
	for i, g := range got {
		keys[i] = g.key
		if rows[i], err = t.decode(g); err != nil {
			return nil, nil, err
		}
	}
	return keys, rows, nil
}

// Put sets the row at key. A row that cannot be JSON fails the transaction.
func (t Table[T]) Put(tx *Tx, key weir.ID, row T) {
	tx.write(t.name, key, tx.encode(t.name, key, row))
}

// Delete deletes the row at key, if there is one.
func (t Table[T]) Delete(tx *Tx, key weir.ID) { tx.write(t.name, key, nil) }

func (t Table[T]) decode(r record) (row T, err error) {
	if err := json.Unmarshal(r.value, &row); err != nil {
		return row, fmt.Errorf("read %q in %s: %w", r.key, t.name, err)
	}
	return row, nil
}

var sequences = NewTable[int64]("sequences")

// Next hands out the next number of the sequence of that name: first, then one more
// each time. A number is taken if tx is committed, and then by nobody else.
func Next(ctx context.Context, tx *Tx, name string, first int64) (int64, error) {
	last, err := Last(ctx, tx, name)
	if err != nil {
		return 0, err
	}
	next := max(first, last+1)
	sequences.Put(tx, weir.ID(name), next)
	return next, nil
}

// Last returns the number of the sequence of that name that was handed out last, or 0
// if none was.
func Last(ctx context.Context, r Reader, name string) (int64, error) {
	last, err := sequences.Get(ctx, r, weir.ID(name))
	if errors.Is(err, weir.NotFound) {
		return 0, nil
	}
	return last, err
}
