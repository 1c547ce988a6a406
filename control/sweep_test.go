package control

import (
	"fmt"
	"testing"
	"time"

	"weir/store"
	"weir/weir"
)

func TestOnlyWhatIsDoneAndOldIsForgotten(t *testing.T) {
	ctx := t.Context()
	db := store.Memory()
	defer db.Close()
	now := time.Now()
	err := db.Update(ctx, func(tx *store.Tx) error {
		machines.Put(tx, "100001", stored(tx, weir.Machine{ID: "100001", Template: weir.Template{UserData: "#!/bin/sh\ntrue\n"}}))
		stored(tx, weir.Machine{Template: weir.Template{UserData: "#!/bin/sh\nfalse\n"}}) // of a machine that is gone
		for id, done := range map[weir.ID]time.Time{"1": {}, "2": now.Add(-31 * 24 * time.Hour), "3": now} {
			actions.Put(tx, id, weir.Action{ID: id, Completed: done})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(ctx, func(tx *store.Tx) error {
		if err := sweepBlobs(ctx, tx); err != nil {
			return err
		}
		return sweepActions(ctx, tx)
	})
	if err != nil {
		t.Fatal(err)
	}
	texts, err := blobs.All(ctx, db)
	if err != nil || fmt.Sprint(texts) != "[#!/bin/sh\ntrue\n]" {
		t.Errorf("user-data %q, %v, want only what the machine has", texts, err)
	}
	left, err := actions.All(ctx, db)
	if err != nil || len(left) != 2 || left[0].ID != "1" || left[1].ID != "3" {
		t.Errorf("actions %v, %v, want 1, which is in progress, and 3, which is young", left, err)
	}
}
