package control

import (
	"context"
	"errors"
	"time"

	"weir/store"
	"weir/weir"
)

// userToken is the right of a user's programs to call. The token itself is nowhere but with
// its bearer.
type userToken struct {
	Hash    weir.ID   `json:"hash"` // SHA-256 of the token, in hexadecimal, and the row's key
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// SetToken makes the token with that SHA-256, in hexadecimal, the one of that name, on
// every member of the control plane. One that had the name before is worthless from then on.
func (c *Control) SetToken(ctx context.Context, name, hash string) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		all, err := tokens.All(ctx, tx)
		if err != nil {
			return err
		}
		for _, t := range all {
			if t.Name == name && t.Hash == weir.ID(hash) {
				return nil
			}
			if t.Name == name {
				tokens.Delete(tx, t.Hash)
			}
		}
		tokens.Put(tx, weir.ID(hash), userToken{Hash: weir.ID(hash), Name: name, Created: time.Now().UTC()})
		return nil
	})
}

// HasToken reports whether there is a token with that SHA-256, in hexadecimal. What this
// member has seen of them is enough for a yes, so that users come in while the store has no
// quorum; a no is asked of the store.
func (c *Control) HasToken(ctx context.Context, hash string) (bool, error) {
	if _, ok := c.tokens.Load(weir.ID(hash)); ok {
		return true, nil
	}
	_, err := tokens.Get(ctx, c.Store, weir.ID(hash))
	if errors.Is(err, weir.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// followTokens keeps c.tokens as they are in the store until ctx ends.
func (c *Control) followTokens(ctx context.Context) {
	for change, err := range tokens.Follow(ctx, c.Store) {
		switch {
		case err != nil:
			if ctx.Err() == nil {
				c.Log.Warn("watch broken", "err", err) // Follow itself lists anew
			}
		case change.Synced:
		case change.Deleted:
			c.tokens.Delete(change.Key)
		default:
			c.tokens.Store(change.Key, nil)
		}
	}
}
