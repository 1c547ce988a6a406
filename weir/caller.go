package weir

import (
	"context"
	"net/netip"
	"slices"
)

// Caller is who asks something of the control plane: whose token it is, and from where.
//
// Everything that users make belongs to a team, and is there for the callers of that team alone.
// The zero Caller is Weir itself, and belongs to the team that every Weir has from the start.
type Caller struct {
	Team  ID         // "" for the first one
	User  string     // a person or a program, as whoever made the token has named them
	Token ID         // by which the token is listed; never the token itself
	Name  string     // of that token
	From  netip.Addr // where the request came from

	Scopes []Scope // what the token is for
}

// May reports whether c has a scope that gives need. Weir itself may do everything.
func (c Caller) May(need Scope) bool {
	return c.Token == "" || slices.ContainsFunc(c.Scopes, func(s Scope) bool { return s.Gives(need) })
}

type callerKey struct{}

// WithCaller returns a context in which c asks.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns who asks in ctx.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}
