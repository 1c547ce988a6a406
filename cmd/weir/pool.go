package main

import (
	"context"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

func poolCommand(u *user) *cobra.Command {
	return noun("pool", "Show how pools follow their load, and what they would have done", poolShowCommand(u), poolHistoryCommand(u), poolSimulateCommand(u))
}

// pool returns the pool of a name or an ID.
func (c *client) pool(ctx context.Context, name string) (api.PoolState, error) {
	var answer struct {
		Pool *api.PoolState `json:"pool"`
	}
	_, err := c.do(ctx, http.MethodGet, "/v2/weir/pools/"+url.PathEscape(name), nil, &answer)
	switch {
	case err != nil:
		return api.PoolState{}, orNotThere(err, "there is no pool %q", name)
	case answer.Pool == nil:
		return api.PoolState{}, c.stranger()
	}
	return *answer.Pool, nil
}

// poolHistory returns how a pool has changed, the newest first, at most so many times.
func (c *client) poolHistory(ctx context.Context, name string) ([]weir.Scaling, error) {
	var answer struct {
		History *[]weir.Scaling `json:"history"`
	}
	_, err := c.do(ctx, http.MethodGet, "/v2/weir/pools/"+url.PathEscape(name)+"/history?per_page=200", nil, &answer)
	switch {
	case err != nil:
		return nil, orNotThere(err, "there is no pool %q", name)
	case answer.History == nil:
		return nil, c.stranger()
	}
	return *answer.History, nil
}

// pools completes the name of a pool.
func (u *user) pools(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := u.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, err := c.ownStatus(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, p := range s.Pools {
		names = append(names, p.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
