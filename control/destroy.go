package control

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"weir/store"
	"weir/weir"
)

// destructions are the machines that were destroyed together with something, by machine.
var destructions = newTeamed("destructions", func(d weir.Destruction) weir.ID { return d.Team })

// DestroyMachine has a machine drained and destroyed, and gives reserved IPs that point to it
// back. One that does not is weir.Invalid.
func (c *Control) DestroyMachine(ctx context.Context, id weir.ID, with []netip.Addr) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		m, err := machines.Own(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := c.deleteMachine(ctx, tx, m); err != nil {
			return err
		}
		d, err := destructions.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			d, err = weir.Destruction{Machine: id, Team: weir.CallerOf(ctx).Team, Name: m.Name, Asked: time.Now().UTC()}, nil
		}
		if err != nil {
			return err
		}
		for _, addr := range with {
			row, err := freeAddress(ctx, tx, addr)
			if errors.Is(err, weir.NotFound) || err == nil && row.Machine != id {
				return weir.Errorf(weir.Invalid, "reserved IP %s is not assigned to droplet %s", addr, id)
			}
			if err != nil {
				return err
			}
			row.Deleting = time.Now().UTC()
			addresses.Put(tx, row.Owner, row)
			d.Addresses = append(d.Addresses, addr)
		}
		destructions.Put(tx, id, d)
		return nil
	})
}

// Destruction returns how far the end of a machine is that DestroyMachine was asked for, or
// weir.NotFound.
func (c *Control) Destruction(ctx context.Context, id weir.ID) (weir.Destruction, error) {
	return destructions.Own(ctx, c.Store, id)
}

// noteGone notes that a machine is destroyed, if it was one for DestroyMachine.
func noteGone(ctx context.Context, tx *store.Tx, machine weir.ID) error {
	d, err := destructions.Get(ctx, tx, machine)
	if errors.Is(err, weir.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	d.Gone = time.Now().UTC()
	destructions.Put(tx, machine, d)
	return nil
}

// sweepDestructions deletes what was destroyed long ago.
func sweepDestructions(ctx context.Context, tx *store.Tx) error {
	all, err := destructions.All(ctx, tx)
	long := time.Now().Add(-keptFor)
	for _, d := range all {
		if !d.Gone.IsZero() && d.Gone.Before(long) {
			destructions.Delete(tx, d.Machine)
		}
	}
	return err
}
