package control

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"time"

	"weir/store"
	"weir/weir"
)

// audits are who asked for which change, by ID, which sorts the newest first.
var audits = store.NewTable[weir.Audit]("audits")

// What was asked for is remembered this long, and this often; what strangers asked for, who had
// no token that is known, only this often.
const (
	auditFor       = 90 * 24 * time.Hour
	auditMost      = 100_000
	auditStrangers = 1_000
)

// newAuditID returns the ID of what happens at a time.
func newAuditID(at time.Time) weir.ID {
	return weir.ID(fmt.Sprintf("%016x%08x", math.MaxInt64-at.UnixNano(), rand.Uint32()))
}

// BeginAudit returns a with an ID and its time. In a context that has it (see weir.WithAudit)
// it is written in the transaction of each change, still without a result: a change without a
// record cannot be.
func (c *Control) BeginAudit(a weir.Audit) weir.Audit {
	a.At = time.Now().UTC()
	a.ID = newAuditID(a.At)
	return a
}

// EndAudit writes a with its result.
func (c *Control) EndAudit(ctx context.Context, a weir.Audit) error {
	ctx = weir.WithAudit(ctx, a) // for the witness, which might write it as it was
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		audits.Put(tx, a.ID, a)
		return nil
	})
}

// witness writes who asked for the change of tx, if anybody did.
func witness(ctx context.Context, tx *store.Tx) {
	if a, ok := weir.AuditOf(ctx); ok {
		audits.Put(tx, a.ID, a)
	}
}

// Audits returns what f means of what was asked for before the request with that ID (of all
// for ""), at most limit of the newest, the newest first.
func (c *Control) Audits(ctx context.Context, f weir.AuditFilter, before weir.ID, limit int) (found []weir.Audit, err error) {
	for {
		keys, rows, err := audits.Page(ctx, c.Store, before, pageOf)
		if err != nil {
			return nil, err
		}
		for _, a := range rows {
			switch {
			case a.At.Before(f.Since) || len(found) == limit:
				return found, nil
			case f.Fits(a):
				found = append(found, a)
			}
		}
		if len(keys) < pageOf {
			return found, nil
		}
		before = keys[len(keys)-1]
	}
}

// sweepAudits deletes what was asked for long ago, and the oldest of too many.
func sweepAudits(ctx context.Context, db *store.Store) error {
	long := time.Now().Add(-auditFor)
	all, strangers := 0, 0
	return sweepRows(ctx, db, audits, func(a weir.Audit) bool {
		all++
		if a.Status == http.StatusUnauthorized {
			strangers++
			if strangers > auditStrangers {
				return true
			}
		}
		return all > auditMost || a.At.Before(long)
	})
}
