package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

// tokens are the verbs about the tokens of an API.
type tokens struct {
	user    *user
	format  format
	team    string
	owner   string
	scopes  []string
	expires string
}

func tokenCommand(u *user) *cobra.Command {
	create, list := tokens{user: u}, tokens{user: u}
	created := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token, and print it",
		Long: `Make a token for the API, and print it: nobody can print it again.

Its scopes say what it is for: read or write (who may write may read) for all that its team
has, the same for one kind of thing such as droplet:read or load_balancer:write, or admin for
everything, with nodes, faults, tokens and the status of all teams. What one team makes no
other sees; a team is there as soon as it has a token.`,
		Example: `  weir token create ci --scope write --expires 30d >ci.token
  weir token create watch --scope read --user anna
  weir token create shop --team shop --scope load_balancer:write,droplet:write`,
		Args: arguments(1, 1, "the name of one token"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return create.create(cmd.Context(), args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := created.Flags()
	f.StringSliceVar(&create.scopes, "scope", nil, "`scopes` that it is for, separated by commas")
	f.StringVar(&create.team, "team", "", "`name` of the team that it acts for; the one that is there from the start if left out")
	f.StringVar(&create.owner, "user", "", "`name` of who has it")
	f.StringVar(&create.expires, "expires", "", "when it ends: after a `time` such as 30d or 12h, or at one such as 2027-01-31T12:00:00Z; never if left out")
	create.format.flags(created)
	listed := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the tokens of all teams",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return list.list(cmd.Context(), cmd.OutOrStdout())
		},
	}
	list.format.flags(listed)
	revoked := &cobra.Command{
		Use:   "revoke TOKEN...",
		Short: "Make tokens worthless",
		Long: `Make tokens, given by name or ID, worthless on all members of the control plane at once.
The one that lies in a control plane's data directory comes back when that starts, with
another secret if its file is deleted before.`,
		Example: `  weir token revoke ci`,
		Args:    arguments(1, -1, "the names of tokens"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return revokeTokens(cmd.Context(), u, args)
		},
	}
	return noun("token", "Make tokens for the API, list and revoke them", created, listed, revoked)
}

func (t *tokens) create(ctx context.Context, name string, stdout, stderr io.Writer) error {
	expires, err := expiry(t.expires, time.Now())
	if err != nil {
		return err
	}
	if len(t.scopes) == 0 {
		return usageErrorf("--scope is missing, want what the token is for, such as read, write or droplet:read; see weir token create --help")
	}
	asked := api.NewToken{Name: name, Team: t.team, User: t.owner, Expires: expires}
	for _, s := range t.scopes {
		scope := weir.Scope(s)
		if err := scope.Check(); err != nil {
			return usageErrorf("--scope: %w", err)
		}
		asked.Scopes = append(asked.Scopes, scope)
	}
	c, err := t.user.connect()
	if err != nil {
		return err
	}
	var made struct {
		Token api.Token `json:"token"`
	}
	if _, err := c.do(ctx, http.MethodPost, "/v2/weir/tokens", asked, &made); err != nil {
		return err
	}
	if made.Token.Secret == "" {
		return c.stranger()
	}
	if t.format.json {
		return writeJSON(stdout, made.Token)
	}
	if _, err := fmt.Fprintln(stdout, made.Token.Secret); err != nil {
		return err
	}
	fmt.Fprintln(stderr, "keep it: nobody can print it again")
	return nil
}

// expiry returns the time that a user has said, after now or by itself, as in RFC 3339.
func expiry(said string, now time.Time) (string, error) {
	if said == "" {
		return "", nil
	}
	at, err := time.Parse(time.RFC3339, said)
	if err != nil {
		after, err := time.ParseDuration(said)
		if days, ok := strings.CutSuffix(said, "d"); ok {
			var n int
			n, err = strconv.Atoi(days)
			n = min(max(n, -1), 36500) // nobody means more, and a duration has no room for it
			after = time.Duration(n) * 24 * time.Hour
		}
		if err != nil {
			return "", usageErrorf("--expires is %.40q, want a time from now such as 30d or 12h, or one such as 2027-01-31T12:00:00Z", said)
		}
		at = now.Add(after)
	}
	if !at.After(now) {
		return "", usageErrorf("--expires is %.40q, want a time to come", said)
	}
	return at.UTC().Format(time.RFC3339), nil
}

func (t *tokens) list(ctx context.Context, stdout io.Writer) error {
	c, err := t.user.connect()
	if err != nil {
		return err
	}
	all, err := c.tokens(ctx)
	if err != nil {
		return err
	}
	if t.format.json {
		return writeJSON(stdout, append([]api.Token{}, all...))
	}
	rows := [][]string{{"NAME", "TEAM", "USER", "SCOPES", "EXPIRES", "LAST USED", "ID"}}
	for _, token := range all {
		expires := day(token.Expires, "never")
		if token.Expired {
			expires = "expired"
		}
		var scopes []string
		for _, s := range token.Scopes {
			scopes = append(scopes, string(s))
		}
		rows = append(rows, []string{token.Name, token.Team, cmp.Or(token.User, "-"), strings.Join(scopes, ","),
			expires, day(token.Used, "never"), string(token.ID)})
	}
	return writeTable(stdout, "", rows)
}

// day returns a time to the minute, or none for no time.
func day(at time.Time, none string) string {
	if at.IsZero() {
		return none
	}
	return at.Local().Format("2006-01-02 15:04")
}

func revokeTokens(ctx context.Context, u *user, names []string) error {
	c, err := u.connect()
	if err != nil {
		return err
	}
	all, err := c.tokens(ctx)
	if err != nil {
		return err
	}
	var ids []weir.ID
	for _, name := range names {
		i := slices.IndexFunc(all, func(t api.Token) bool { return string(t.ID) == name })
		if i < 0 {
			i = slices.IndexFunc(all, func(t api.Token) bool { return t.Name == name })
		}
		if i < 0 {
			return fmt.Errorf("there is no token %q; weir token list shows all", name)
		}
		ids = append(ids, all[i].ID)
	}
	for _, id := range ids {
		_, err := c.do(ctx, http.MethodDelete, "/v2/weir/tokens/"+url.PathEscape(string(id)), nil, nil)
		if err != nil && weir.KindOf(err) != weir.NotFound { // somebody else was faster
			return err
		}
	}
	return nil
}

// tokens returns all tokens, the oldest first.
func (c *client) tokens(ctx context.Context) ([]api.Token, error) {
	return everyPage[api.Token](ctx, c, "tokens")
}
