package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"weir/weir"
)

// Where things are. Names of tables hold no slash, so that all keys of a table, and
// no others, begin with its prefix.
const (
	rows    = "weir/row/"     // + table / key: a row
	touched = "weir/touched/" // + table /: put whenever a row of the table is put or deleted
	marks   = "weir/mark/"    // + number: see mark
	leaders = "weir/lead/"    // + name: who leads
)

// Reader is where rows are read: a *Store shows each as it is at that moment, a *Tx
// all as they were at one.
type Reader interface {
	row(ctx context.Context, table string, key weir.ID) (record, error)
	table(ctx context.Context, table string) ([]record, error)
}

// record is a row as it is stored.
type record struct {
	key      weir.ID
	value    []byte // nil if there is none
	revision int64  // 0 if there is none
}

func tableSpan(table string) Span            { return Span{Key: rows + table + "/", Prefix: true} }
func touchedSpan(table string) Span          { return Span{Key: touched + table + "/", Prefix: true} }
func rowSpan(table string, key weir.ID) Span { return Span{Key: rows + table + "/" + string(key)} }

// readRow reads one row at a revision (0: now).
func readRow(ctx context.Context, b Backend, table string, key weir.ID, revision int64) (record, int64, error) {
	entries, at, err := b.Read(ctx, rowSpan(table, key), revision)
	if err != nil || len(entries) == 0 {
		return record{key: key}, at, err
	}
	return record{key, entries[0].Value, entries[0].Revision}, at, nil
}

// readTable reads all rows of a table at a revision (0: now).
func readTable(ctx context.Context, b Backend, table string, revision int64) ([]record, int64, error) {
	return readSpan(ctx, b, tableSpan(table), revision)
}

// readSpan reads the rows in a span of a table.
func readSpan(ctx context.Context, b Backend, span Span, revision int64) ([]record, int64, error) {
	entries, at, err := b.Read(ctx, span, revision)
	if err != nil {
		return nil, at, err
	}
	records := make([]record, len(entries))
	for i, e := range entries {
		records[i] = record{weir.ID(e.Key[len(span.Key):]), e.Value, e.Revision}
	}
	return records, at, nil
}

func (s *Store) row(ctx context.Context, table string, key weir.ID) (record, error) {
	r, _, err := readRow(ctx, s.backend, table, key, 0)
	return r, err
}

func (s *Store) table(ctx context.Context, table string) ([]record, error) {
	records, _, err := readTable(ctx, s.backend, table, 0)
	return records, err
}

// Tx is a transaction: it shows the store as it was when it first read, with its own
// writes on top. It is good for the call that it was given to, and for one goroutine.
type Tx struct {
	backend  Backend
	view     bool
	revision int64 // that it reads at; 0 until it has read
	tables   map[string]*txTable
	stale    bool  // its revision is forgotten
	err      error // why it cannot be committed
}

// txTable is what a transaction knows of one table.
type txTable struct {
	whole  bool               // all rows were read
	read   map[weir.ID]record // what was read; if whole, all there is
	writes map[weir.ID][]byte // nil deletes
}

func (tx *Tx) at(table string) *txTable {
	t := tx.tables[table]
	if t == nil {
		t = &txTable{read: map[weir.ID]record{}, writes: map[weir.ID][]byte{}}
		if tx.tables == nil {
			tx.tables = map[string]*txTable{}
		}
		tx.tables[table] = t
	}
	return t
}

func (tx *Tx) row(ctx context.Context, table string, key weir.ID) (record, error) {
	if value, ok := tx.at(table).writes[key]; ok {
		return record{key: key, value: value}, nil
	}
	return tx.stored(ctx, table, key)
}

// stored returns a row as it is without tx's own writes.
func (tx *Tx) stored(ctx context.Context, table string, key weir.ID) (record, error) {
	t := tx.at(table)
	if r, ok := t.read[key]; ok || t.whole {
		return r, nil
	}
	r, at, err := readRow(ctx, tx.backend, table, key, tx.revision)
	if err != nil {
		return r, tx.failed(err)
	}
	tx.revision = at
	t.read[key] = r
	return r, nil
}

func (tx *Tx) table(ctx context.Context, table string) ([]record, error) {
	t := tx.at(table)
	if !t.whole {
		all, at, err := readTable(ctx, tx.backend, table, tx.revision)
		if err != nil {
			return nil, tx.failed(err)
		}
		tx.revision = at
		t.whole = true
		clear(t.read)
		for _, r := range all {
			t.read[r.key] = r
		}
	}
	all := maps.Clone(t.read)
	for key, value := range t.writes {
		all[key] = record{key: key, value: value}
	}
	maps.DeleteFunc(all, func(_ weir.ID, r record) bool { return r.value == nil })
	return slices.SortedFunc(maps.Values(all), func(a, b record) int { return cmp.Compare(a.key, b.key) }), nil
}

// failed notes whether err means that tx should begin anew.
func (tx *Tx) failed(err error) error {
	if errors.Is(err, ErrCompacted) {
		tx.stale = true
	}
	return err
}

// write sets a row, or deletes it if value is nil.
func (tx *Tx) write(table string, key weir.ID, value []byte) {
	switch {
	case tx.err != nil:
	case tx.view:
		tx.err = weir.Errorf(weir.Invalid, "write %q in %s: this is a view", key, table)
	case key == "":
		tx.err = weir.Errorf(weir.Invalid, "write in %s: the key is empty", table)
	default:
		tx.at(table).writes[key] = value
	}
}

// encode is json.Marshal for a row; an error fails the transaction.
func (tx *Tx) encode(table string, key weir.ID, row any) []byte {
	value, err := json.Marshal(row)
	if err != nil && tx.err == nil {
		tx.err = weir.Errorf(weir.Invalid, "write %q in %s: %w", key, table, err)
	}
	return value
}

// txn returns what tx is to change, on condition that nothing that it read or wrote
// has changed since.
func (tx *Tx) txn(ctx context.Context) (Txn, error) {
	var txn Txn
	for _, name := range slices.Sorted(maps.Keys(tx.tables)) {
		t := tx.tables[name]
		changed := len(txn.Puts) + len(txn.Deletes)
		for _, key := range slices.Sorted(maps.Keys(t.writes)) {
			value := t.writes[key]
			// What is written is a condition too, so that a write that is left out
			// because it would change nothing still would not when the rest is made.
			was, err := tx.stored(ctx, name, key)
			if err != nil {
				return Txn{}, err
			}
			switch {
			case bytes.Equal(value, was.value): // nil and empty cannot meet: JSON is never empty
			case value == nil:
				txn.Deletes = append(txn.Deletes, rowSpan(name, key).Key)
			default:
				txn.Puts = append(txn.Puts, Put{Key: rowSpan(name, key).Key, Value: value})
			}
		}
		if len(txn.Puts)+len(txn.Deletes) > changed {
			txn.Puts = append(txn.Puts, Put{Key: touchedSpan(name).Key})
		}
		txn.If = append(txn.If, t.unchanged(name, tx.revision)...)
	}
	return txn, nil
}

// unchanged holds as long as nothing that was read of t has changed since revision.
func (t *txTable) unchanged(name string, revision int64) []Condition {
	if t.whole {
		return []Condition{{touchedSpan(name), revision}}
	}
	var conditions []Condition
	for _, key := range slices.Sorted(maps.Keys(t.read)) {
		conditions = append(conditions, Condition{rowSpan(name, key), t.read[key].revision})
	}
	return conditions
}
