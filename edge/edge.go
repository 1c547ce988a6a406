// Package edge says who a caller is, and how often they may call.
//
// [Token] admits the bearer of the one token that lies in a file: that of a region
// on a single machine. [OpenToken] makes the file if there is none; a client on the
// same machine gets the token from it with [ReadToken]. In memory there is only the
// token's hash.
//
// [Tokens] admits the bearer of any token that is in a store: that of a control plane
// with several members. The store has hashes alone.
//
// [Limits] counts what the bearer of each token asks, for all members together.
package edge

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"weir/weir"
)

// Token admits whoever knows one token.
type Token struct {
	sum [sha256.Size]byte
}

// Sum returns the SHA-256 of the token that t admits, in hexadecimal.
func (t *Token) Sum() string { return hex.EncodeToString(t.sum[:]) }

// NewToken returns a Token that admits the bearer of token.
func NewToken(token string) *Token {
	return &Token{sha256.Sum256([]byte(token))}
}

// OpenToken returns a Token that admits the bearer of what file contains. If there is
// no such file it makes one, with a new token, that its owner alone can read.
func OpenToken(file string) (*Token, error) {
	token, err := ReadToken(file)
	if errors.Is(err, fs.ErrNotExist) {
		token = "weir_v1_" + rand.Text() + rand.Text()
		err = renameio.WriteFile(file, []byte(token+"\n"), 0o600)
	}
	if err != nil {
		return nil, err
	}
	return NewToken(token), nil
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

// Authorize returns the caller for the right token, and a weir.Denied for any other. How
// long it takes does not tell how much of a token is right.
func (t *Token) Authorize(_ context.Context, token string) (c weir.Caller, err error) {
	sum := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(sum[:], t.sum[:]) != 1 {
		return c, weir.Errorf(weir.Denied, "the token is not known")
	}
	return c, nil
}

// Store knows tokens by the SHA-256 of each, in hexadecimal.
type Store interface {
	// HasToken reports whether there is a token with that sum.
	HasToken(ctx context.Context, sum string) (bool, error)
}

// Tokens admits whoever knows a token that is in a store.
type Tokens struct{ store Store }

// NewTokens returns what admits the bearers of the tokens in s.
func NewTokens(s Store) *Tokens { return &Tokens{s} }

// storePatience is how long a caller waits to hear whether a token is known. A store
// without a quorum cannot say.
const storePatience = 5 * time.Second

// Authorize returns the caller for a token that is in the store, a weir.Denied for any other, and
// a weir.Unavailable if the store cannot say. Tokens are compared by their sums, so that
// how long it takes does not tell how much of a token is right.
func (t *Tokens) Authorize(ctx context.Context, token string) (c weir.Caller, err error) {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	known, err := t.store.HasToken(ctx, NewToken(token).Sum())
	if err != nil {
		return c, weir.Errorf(weir.Unavailable, "it cannot be told whether the token is good: %w", err)
	}
	if !known {
		return c, weir.Errorf(weir.Denied, "the token is not known")
	}
	return c, nil
}
