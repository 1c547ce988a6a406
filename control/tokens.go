package control

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"weir/store"
	"weir/weir"
)

// userToken is a token as it is stored. A row of before tokens had scopes has no ID, and is
// for everything.
type userToken struct {
	Hash weir.ID `json:"hash"` // weir.SecretSum of its secret, and the row's key
	weir.Token
}

// tokenChanges counts the changes of the tokens, so that one number tells whether what a
// member knows of them is still so. That one was used is no change.
const tokenChanges = "tokens"

// usedEvery is how often it is stored that a token is used: to store each use would make each
// read a write.
const usedEvery = time.Hour

// putToken stores a token that is new, or another than before.
func putToken(ctx context.Context, tx *store.Tx, t userToken) error {
	tokens.Put(tx, t.Hash, t)
	_, err := store.Next(ctx, tx, tokenChanges, 1)
	return err
}

// dropToken makes a token worthless.
func dropToken(ctx context.Context, tx *store.Tx, t userToken) error {
	tokens.Delete(tx, t.Hash)
	_, err := store.Next(ctx, tx, tokenChanges, 1)
	return err
}

// SetToken makes the token with that [weir.SecretSum] the one of that name, on every member of
// the control plane. It is the first team's, for everything, and does not expire. One that had
// the name before is worthless from then on.
func (c *Control) SetToken(ctx context.Context, name, sum string) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		all, err := tokens.All(ctx, tx)
		if err != nil {
			return err
		}
		first := userToken{Hash: weir.ID(sum), Token: weir.Token{Name: name, Created: time.Now().UTC()}}
		there := false
		for _, t := range all {
			if t.Name == name && t.Hash != first.Hash {
				if err := dropToken(ctx, tx, t); err != nil {
					return err
				}
				continue
			}
			there = there || t.Name == name
			if t.ID == "" {
				if err := putToken(ctx, tx, operators(t)); err != nil {
					return err
				}
			}
		}
		if there {
			return nil
		}
		return putToken(ctx, tx, operators(first))
	})
}

// operators returns t as a token for everything.
func operators(t userToken) userToken {
	t.ID, t.Scopes = weir.ID(uuid.NewString()), []weir.Scope{weir.ScopeAdmin}
	return t
}

// CreateToken makes a token; its ID and times but Expires are set here. It returns the secret,
// which nobody can read again. A name that is taken is weir.Conflict.
func (c *Control) CreateToken(ctx context.Context, t weir.Token) (made weir.Token, secret string, err error) {
	now := time.Now().UTC()
	if err := t.Check(now); err != nil {
		return t, "", err
	}
	secret = weir.NewSecret()
	t.ID, t.Created, t.Used = weir.ID(uuid.NewString()), now, time.Time{}
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		all, err := tokens.All(ctx, tx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(other userToken) bool { return other.Name == t.Name }) {
			return weir.Errorf(weir.Conflict, "token %q: there is one of that name already: revoke it, or take another name", t.Name)
		}
		return putToken(ctx, tx, userToken{Hash: weir.ID(weir.SecretSum(secret)), Token: t})
	})
	return t, secret, err
}

// Tokens returns all tokens of all teams, the oldest first; those that have expired among them.
func (c *Control) Tokens(ctx context.Context) ([]weir.Token, error) {
	rows, err := tokens.All(ctx, c.Store)
	all := make([]weir.Token, len(rows))
	for i, row := range rows {
		all[i] = row.Token
	}
	slices.SortFunc(all, func(a, b weir.Token) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all, err
}

// RevokeToken makes a token worthless, on every member as soon as this returns.
func (c *Control) RevokeToken(ctx context.Context, id weir.ID) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		all, err := tokens.All(ctx, tx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(t userToken) bool { return t.ID == id })
		if i < 0 || id == "" {
			return weir.Errorf(weir.NotFound, "there is no token %q", id)
		}
		return dropToken(ctx, tx, all[i])
	})
}

// tokenBook is what a member knows of the tokens. Before it says that one is good it looks
// in the store whether it still knows them all: the look begins after the question, so that
// no member admits a token whose revocation was stored before its bearer called.
//
// Without a quorum nobody can look, and what the member knew last counts, so that those who
// operate the region see what is wrong. A token may then be admitted that the other members
// have revoked, by a member that is cut off from them. It opens nothing there: whatever is
// stored is read and written under a quorum alone.
type tokenBook struct {
	mu      sync.Mutex // of those below; who reads the tokens has it
	touched int64      // the revision of the table's last change up to which it is
	changes int64      // the last change that is known
	known   map[weir.ID]userToken
}

// lookPatience is how long a look may take before there seems to be no quorum.
const lookPatience = time.Second

// find returns the token with that sum, and whether it is to be stored that it is used.
func (b *tokenBook) find(ctx context.Context, db *store.Store, sum weir.ID, now time.Time) (t userToken, note bool, err error) {
	looking, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	touched, failed := db.Touched(looking, "tokens")
	b.mu.Lock()
	defer b.mu.Unlock()
	if failed == nil && (b.known == nil || touched > b.touched) {
		if failed = b.read(looking, db); failed == nil {
			b.touched = touched
		}
	}
	if b.known == nil {
		return t, false, failed
	}
	t, ok := b.known[sum]
	if !ok && failed != nil {
		return t, false, failed // it may be a new one
	}
	if !ok || t.Expired(now) {
		return t, false, weir.Errorf(weir.NotFound, "there is no such token")
	}
	if note = failed == nil && now.Sub(t.Used) >= usedEvery; note {
		t.Used = now
		b.known[sum] = t
	}
	return t, note, nil
}

// read brings b to what db has. If there was no change but that tokens were used, it reads one row.
func (b *tokenBook) read(ctx context.Context, db *store.Store) error {
	changes, err := store.Last(ctx, db, tokenChanges)
	if err != nil || b.known != nil && changes == b.changes {
		return err
	}
	return db.View(ctx, func(tx *store.Tx) error {
		changes, err := store.Last(ctx, tx, tokenChanges)
		if err != nil {
			return err
		}
		all, err := tokens.All(ctx, tx)
		if err != nil {
			return err
		}
		b.changes, b.known = changes, make(map[weir.ID]userToken, len(all))
		for _, t := range all {
			b.known[t.Hash] = t
		}
		return nil
	})
}

// UseToken returns the token with that [weir.SecretSum], and notes that it was used. It is
// weir.NotFound if there is none, or it was revoked or has expired. See tokenBook for what
// that means without a quorum.
func (c *Control) UseToken(ctx context.Context, sum string) (weir.Token, error) {
	now := time.Now().UTC()
	t, note, err := c.tokens.find(ctx, c.Store, weir.ID(sum), now)
	if err != nil || !note {
		return t.Token, err
	}
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		row, err := tokens.Get(ctx, tx, t.Hash)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err == nil && now.Sub(row.Used) >= usedEvery { // another member may have noted it
			row.Used = now
			tokens.Put(tx, t.Hash, row)
		}
		return err
	})
	if err != nil {
		c.Log.Warn("use of token not noted", "token", t.ID, "err", err)
	}
	return t.Token, nil
}

// sweepTokens deletes what expired long ago.
func sweepTokens(ctx context.Context, tx *store.Tx) error {
	all, err := tokens.All(ctx, tx)
	if err != nil {
		return err
	}
	for _, t := range all {
		if t.Expired(time.Now().Add(-keptFor)) {
			if err := dropToken(ctx, tx, t); err != nil {
				return err
			}
		}
	}
	return nil
}
