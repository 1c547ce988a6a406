package control

import (
	"context"
	"slices"

	"weir/store"
	"weir/weir"
)

// teamed is a table whose rows belong to teams. Controllers read it as a table; what users
// ask for goes by Own and AllOwn, so that what another team has is not there for them.
type teamed[T any] struct {
	store.Table[T]
	team func(T) weir.ID
}

func newTeamed[T any](name string, team func(T) weir.ID) teamed[T] {
	return teamed[T]{store.NewTable[T](name), team}
}

// Own returns the row at key if it is of the caller's team, and otherwise weir.NotFound.
func (t teamed[T]) Own(ctx context.Context, r store.Reader, key weir.ID) (T, error) {
	row, err := t.Get(ctx, r, key)
	return t.own(ctx, key, row, err)
}

// own is Own of a row that was read, or why it was not.
func (t teamed[T]) own(ctx context.Context, key weir.ID, row T, err error) (T, error) {
	if err == nil && t.team(row) != weir.CallerOf(ctx).Team {
		var none T
		return none, weir.Errorf(weir.NotFound, "there is no %q of team %s", key, weir.TeamName(weir.CallerOf(ctx).Team))
	}
	return row, err
}

// AllOwn returns the rows of the caller's team, by key.
func (t teamed[T]) AllOwn(ctx context.Context, r store.Reader) ([]T, error) {
	return t.AllOf(ctx, r, weir.CallerOf(ctx).Team)
}

// AllOf returns the rows of a team, by key.
func (t teamed[T]) AllOf(ctx context.Context, r store.Reader, team weir.ID) ([]T, error) {
	all, err := t.All(ctx, r)
	return slices.DeleteFunc(all, func(row T) bool { return t.team(row) != team }), err
}

// AllSeen is AllOwn, but that who operates the region sees the rows of all teams.
func (t teamed[T]) AllSeen(ctx context.Context, r store.Reader) ([]T, error) {
	if weir.CallerOf(ctx).May(weir.ScopeAdmin) {
		return t.All(ctx, r)
	}
	return t.AllOwn(ctx, r)
}
