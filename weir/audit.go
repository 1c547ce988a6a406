package weir

import (
	"context"
	"net/netip"
	"strings"
	"time"
)

// Audit is one request for a change: who asked for what, from where, and what came of it.
// What the request said in its body is not part of it.
type Audit struct {
	ID       ID         `json:"id"` // sorts the newest first
	At       time.Time  `json:"at"`
	Team     ID         `json:"team,omitempty"`
	User     string     `json:"user,omitempty"`
	Token    ID         `json:"token,omitempty"`      // by which it is listed
	Name     string     `json:"token_name,omitempty"` // of that token
	From     netip.Addr `json:"from,omitzero"`
	Method   string     `json:"method"`
	Path     string     `json:"path"`
	Resource ID         `json:"resource,omitempty"` // that the path names
	Created  []ID       `json:"created,omitempty"`  // what came of it
	Request  ID         `json:"request_id"`
	Status   int        `json:"status"`          // 0 if it is not known: the change was made, and perhaps nobody was told
	Err      string     `json:"error,omitempty"` // why it was refused
}

type auditKey struct{}

// WithAudit returns a context in which changes are made that a tells of.
func WithAudit(ctx context.Context, a Audit) context.Context {
	return context.WithValue(ctx, auditKey{}, a)
}

// AuditOf returns what tells of the changes that are made in ctx, if anything does.
func AuditOf(ctx context.Context) (a Audit, ok bool) {
	a, ok = ctx.Value(auditKey{}).(Audit)
	return a, ok
}

// AuditFilter says which requests are meant: those that fit all that it says.
type AuditFilter struct {
	Token ID
	User  string
	Path  string // its beginning
	Since time.Time
}

// Fits reports whether f means a.
func (f AuditFilter) Fits(a Audit) bool {
	return (f.Token == "" || f.Token == a.Token) && (f.User == "" || f.User == a.User) &&
		strings.HasPrefix(a.Path, f.Path) && !a.At.Before(f.Since)
}
