package control

import (
	"context"
	"errors"
	"reflect"

	"weir/store"
	"weir/weir"
)

// pageOf is how many rows are read at once, or deleted, of a table that may have very many.
const pageOf = 500

// sweepRows deletes the rows of a table that are over. It asks once of each, by key, a page at
// a time, so that the rows that come meanwhile do not keep it from ending. A row that has
// changed since it was asked about stays.
func sweepRows[T any](ctx context.Context, db *store.Store, table store.Table[T], over func(T) bool) error {
	for after := weir.ID(""); ; {
		keys, rows, err := table.Page(ctx, db, after, pageOf)
		if err != nil || len(keys) == 0 {
			return err
		}
		after = keys[len(keys)-1]
		dead := map[weir.ID]T{}
		for i, row := range rows {
			if over(row) {
				dead[keys[i]] = row
			}
		}
		err = db.Update(ctx, func(tx *store.Tx) error {
			for key, was := range dead {
				row, err := table.Get(ctx, tx, key)
				switch {
				case errors.Is(err, weir.NotFound):
				case err != nil:
					return err
				case reflect.DeepEqual(row, was):
					table.Delete(tx, key)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}
