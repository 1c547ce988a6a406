// Package edge says who a caller is, what they may, and how often.
//
// [Tokens] admits the bearer of any token that is in a store, which has hashes alone. A
// token has scopes, and [Need] says which one each route needs.
//
// The first token lies in a file in the data directory of a control plane. [OpenToken] makes
// it if there is none; a client on the same machine gets the token from it with [ReadToken].
//
// [Limits] counts what the bearer of each token asks, for all members together.
package edge

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"weir/weir"
)

// OpenToken returns the token in file. If there is no such file it makes one, with a new
// token, that its owner alone can read, and reports that it did.
func OpenToken(file string) (token string, made bool, err error) {
	token, err = ReadToken(file)
	if errors.Is(err, fs.ErrNotExist) {
		token, made = weir.NewSecret(), true
		err = renameio.WriteFile(file, []byte(token+"\n"), 0o600)
	}
	return token, made, err
}

// ReadToken returns the token in file. A file that others than its owner can read is
// refused: whoever could read it may do all that its owner may.
func ReadToken(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", weir.Errorf(weir.Denied, "token file %s has mode %#o and others can read it, want 0600", file, mode)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", weir.Errorf(weir.Invalid, "token file %s is empty, want a token in it, or no file to have one made", file)
	}
	return token, nil
}

// Store knows tokens by their [weir.SecretSum].
type Store interface {
	// UseToken returns the token with that sum, and notes that it was used. If there is none,
	// or it was revoked or has expired, the error is weir.NotFound.
	UseToken(ctx context.Context, sum string) (weir.Token, error)
}

// Tokens admits whoever knows a token that is in a store.
type Tokens struct{ store Store }

// NewTokens returns what admits the bearers of the tokens in s.
func NewTokens(s Store) *Tokens { return &Tokens{s} }

// NewToken returns what admits the bearer of one token, which may do everything: for a
// program that runs a control plane for itself alone.
func NewToken(token string) *Tokens { return NewTokens(one(weir.SecretSum(token))) }

// one is a store with one token, of that sum.
type one string

func (o one) UseToken(_ context.Context, sum string) (t weir.Token, err error) {
	if sum != string(o) {
		return t, weir.Errorf(weir.NotFound, "there is no such token")
	}
	return weir.Token{ID: "only", Scopes: []weir.Scope{weir.ScopeAdmin}}, nil
}

// storePatience is how long a caller waits to hear whether a token is known. A store
// without a quorum cannot say.
const storePatience = 5 * time.Second

// Authorize returns the caller for a token that is in the store, a weir.Denied for any other, and
// a weir.Unavailable if the store cannot say. Tokens are compared by their sums, so that
// how long it takes does not tell how much of a token is right.
func (t *Tokens) Authorize(ctx context.Context, token string) (c weir.Caller, err error) {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	found, err := t.store.UseToken(ctx, weir.SecretSum(token))
	if errors.Is(err, weir.NotFound) {
		return c, weir.Errorf(weir.Denied, "the token is not known")
	}
	if err != nil {
		return c, weir.Errorf(weir.Unavailable, "it cannot be told whether the token is good: %w", err)
	}
	return weir.Caller{Team: found.Team, User: found.User, Token: found.ID, Name: found.Name, Scopes: found.Scopes}, nil
}

// Lacks returns the scope that c would need for a route and lacks, or "" if c may.
func (t *Tokens) Lacks(c weir.Caller, route string) weir.Scope {
	need, _ := Need(route)
	if need == "" || c.May(need) {
		return ""
	}
	return need
}
