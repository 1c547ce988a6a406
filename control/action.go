package control

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"time"

	"weir/store"
	"weir/weir"
)

// numbered is an Update that takes numbers, of machines or actions: those of one member do so one after another,
// since of many at once all but one would have to begin anew.
func (c *Control) numbered(ctx context.Context, f func(tx *store.Tx) error) error {
	select {
	case c.numbers <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.numbers }()
	return c.Store.Update(ctx, f)
}

// newAction records that something was asked of a machine or an address. It is of the caller's
// team unless it says of which.
func newAction(ctx context.Context, tx *store.Tx, a weir.Action) (weir.Action, error) {
	n, err := store.Next(ctx, tx, "actions", firstAction)
	if err != nil {
		return a, err
	}
	a.ID = weir.ID(strconv.FormatInt(n, 10))
	a.Started = time.Now().UTC()
	a.Team = cmp.Or(a.Team, weir.CallerOf(ctx).Team)
	actions.Put(tx, a.ID, a)
	return a, nil
}

// doneAction records that something was asked of a machine which is done at once.
func doneAction(ctx context.Context, tx *store.Tx, m weir.Machine, kind string) (weir.Action, error) {
	a, err := newAction(ctx, tx, weir.Action{Type: kind, Resource: weir.OnMachine, On: m.ID, Region: m.Region})
	if err != nil {
		return a, err
	}
	a.Completed = a.Started
	actions.Put(tx, a.ID, a)
	return a, nil
}

// completeAction ends an action: well if why is empty, otherwise failed.
func completeAction(ctx context.Context, tx *store.Tx, id weir.ID, why string) error {
	a, err := actions.Get(ctx, tx, id)
	if errors.Is(err, weir.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if a.Completed.IsZero() {
		a.Completed, a.Err = time.Now().UTC(), why
		actions.Put(tx, id, a)
	}
	return nil
}

// overtaken is why an action failed that something else was asked after, before it was done.
const overtaken = "something else was asked for before it was done"

// Action returns one action, or weir.NotFound.
func (c *Control) Action(ctx context.Context, id weir.ID) (weir.Action, error) {
	a, err := c.lists.actions.get(ctx, id)
	return actions.own(ctx, id, a, err)
}
