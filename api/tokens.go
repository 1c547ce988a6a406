package api

import (
	"net/http"
	"slices"
	"time"

	"weir/weir"
)

func tokenWords(t weir.Token) Token {
	return Token{ID: t.ID, Name: t.Name, Team: weir.TeamName(t.Team), User: t.User, Scopes: some(t.Scopes),
		Expired: t.Expired(time.Now()), Created: t.Created, Expires: t.Expires, Used: t.Used}
}

func (a *api) listTokens(w http.ResponseWriter, r *http.Request) error {
	all, err := a.Control.Tokens(r.Context())
	if err != nil {
		return err
	}
	return list(w, r, "tokens", all, tokenWords)
}

// createToken answers with a token and its secret.
func (a *api) createToken(w http.ResponseWriter, r *http.Request) error {
	var q NewToken
	if err := decode(w, r, &q); err != nil {
		return err
	}
	team, err := weir.TeamNamed(q.Team)
	if err != nil {
		return err
	}
	var expires time.Time
	if q.Expires != "" {
		expires, err = time.Parse(time.RFC3339, q.Expires)
		if err != nil || !expires.After(time.Now()) {
			return invalid("expires_at is %.40q, want a time to come such as %s", q.Expires, time.Now().AddDate(0, 0, 30).UTC().Format(time.RFC3339))
		}
	}
	t, secret, err := a.Control.CreateToken(r.Context(), weir.Token{Name: q.Name, Team: team, User: q.User,
		Scopes: slices.Compact(slices.Sorted(slices.Values(q.Scopes))), Expires: expires.UTC()})
	if err != nil {
		return err
	}
	made := tokenWords(t)
	made.Secret = secret
	w.Header().Set("Cache-Control", "no-store")
	return reply(w, http.StatusCreated, map[string]any{"token": made})
}

func (a *api) revokeToken(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	if err := a.Control.RevokeToken(r.Context(), id); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}
