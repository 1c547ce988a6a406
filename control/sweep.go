package control

import (
	"context"
	"time"

	"weir/store"
	"weir/weir"
)

// What is done is remembered this long, and this often.
const (
	keptFor  = 30 * 24 * time.Hour
	keptMost = 10_000
)

// sweep deletes, at the beginning of a term and every hour until ctx ends, what nobody
// needs any more, and seals anew what was not sealed with the first key.
func (t *term) sweep(ctx context.Context) {
	for {
		for _, sweep := range []func(context.Context, *store.Tx) error{sweepBlobs, sweepActions, sweepEvents, sweepTokens, sweepDestructions} {
			err := t.db.Update(ctx, func(tx *store.Tx) error { return sweep(ctx, tx) })
			if err != nil && ctx.Err() == nil {
				t.Log.Warn("not swept", "err", err)
			}
		}
		for _, sweep := range []func(context.Context, *store.Store) error{sweepAudits, sweepQuotas} {
			if err := sweep(ctx, t.db); err != nil && ctx.Err() == nil {
				t.Log.Warn("not swept", "err", err)
			}
		}
		t.reseal(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Hour):
		}
	}
}

// sweepBlobs deletes the user-data that no machine has.
func sweepBlobs(ctx context.Context, tx *store.Tx) error {
	used := map[weir.ID]bool{}
	all, err := machines.All(ctx, tx)
	if err != nil {
		return err
	}
	for _, m := range all {
		used[m.Blob] = true
	}
	texts, err := blobs.All(ctx, tx)
	for _, text := range texts {
		if key := weir.ID(hash([]byte(text))); !used[key] {
			blobs.Delete(tx, key)
		}
	}
	return err
}

// sweepActions deletes what was completed long ago, and the oldest of too many.
func sweepActions(ctx context.Context, tx *store.Tx) error {
	all, err := actions.All(ctx, tx)
	if err != nil {
		return err
	}
	byNumber(all, func(a weir.Action) weir.ID { return a.ID })
	long := time.Now().Add(-keptFor)
	for i, a := range all {
		if !a.Completed.IsZero() && (a.Completed.Before(long) || i < len(all)-keptMost) {
			actions.Delete(tx, a.ID)
		}
	}
	return nil
}
