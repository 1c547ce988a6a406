package control

import (
	"context"
	"errors"
	"time"

	"weir/store"
	"weir/weir"
)

// quotas are who holds what of each token's rate limits, by the token's ID.
var quotas = store.NewTable[weir.Quota]("quotas")

// ChangeQuota makes the quota of a token what change makes of it, in one transaction.
// change may run several times.
func (c *Control) ChangeQuota(ctx context.Context, token weir.ID, change func(weir.Quota) weir.Quota) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		q, err := quotas.Get(ctx, tx, token)
		if err != nil && !errors.Is(err, weir.NotFound) {
			return err
		}
		if q = change(q); len(q.Holders) == 0 {
			quotas.Delete(tx, token)
			return nil
		}
		quotas.Put(tx, token, q)
		return nil
	})
}

// quotaFor is how long nobody may have held anything of a quota that is deleted. It is more
// than the longest window.
const quotaFor = 2 * time.Hour

// spent reports whether nobody has held anything of q for a long time.
func spent(q weir.Quota) bool {
	for _, h := range q.Holders {
		if time.Since(h.Until) < quotaFor {
			return false
		}
	}
	return true
}

// sweepQuotas deletes the quotas of those who call no more.
func sweepQuotas(ctx context.Context, db *store.Store) error {
	return sweepRows(ctx, db, quotas, spent)
}
