package sim

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"weir/store"
)

// The clocks of members differ, and jump. In a bubble there is one clock, which nobody can set; but what
// another clock is to a process that counts its own time monotonically, as Go's does, is that
// the times which it wrote and reads, and those that others did, are not what it thinks. So
// these are shifted on their way to the store and from it.

// judgedRows are those with times by which members judge instances. Others, by which servers are
// let finish, are left alone: a clock that jumps there does break a promise.
const judgedRows = "weir/row/load_balancers/"

var written = regexp.MustCompile(`"2\d\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"|"1\d\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"`)

// clocks has clocks of members jump until ctx ends. They stay where they got.
func (w *world) clocks(ctx context.Context) {
	r := w.random("clocks")
	for w.jumps && sleep(ctx, upTo(r, 15*time.Second)) {
		m := w.members[r.IntN(len(w.members))]
		far := time.Hour
		if chance(r, 50) {
			far = 5 * time.Second
		}
		ahead := time.Duration(r.Int64N(int64(2*far))) - far
		w.tell("clocks: that of %s is %v ahead", m.name, ahead)
		m.ahead.Store(int64(ahead))
	}
}

// shifted returns a row with its times moved by d.
func shifted(e store.Entry, d time.Duration) []byte {
	if d == 0 || !strings.HasPrefix(e.Key, judgedRows) {
		return e.Value
	}
	return written.ReplaceAllFunc(e.Value, func(quoted []byte) []byte {
		at, err := time.Parse(`"`+time.RFC3339Nano+`"`, string(quoted))
		if err != nil {
			return quoted
		}
		return []byte(at.Add(d).Format(`"` + time.RFC3339Nano + `"`))
	})
}

// asRead returns an entry as it is to the member, by its clock.
func (l *lossy) asRead(e store.Entry) store.Entry {
	e.Value = shifted(e, -time.Duration(l.member.ahead.Load()))
	return e
}

// asWritten returns a commit as the member makes it, by its clock.
func (l *lossy) asWritten(txn store.Txn) store.Txn {
	if ahead := time.Duration(l.member.ahead.Load()); ahead != 0 {
		txn.Puts = slices.Clone(txn.Puts)
		for i, p := range txn.Puts {
			txn.Puts[i].Value = shifted(store.Entry{Key: p.Key, Value: p.Value}, ahead)
		}
	}
	return txn
}
