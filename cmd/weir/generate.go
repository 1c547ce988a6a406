package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"weir/weir"
)

type generate struct{ user *user }

func generateCommand(u *user) *cobra.Command {
	g := generate{u}
	return &cobra.Command{
		Use:   "generate [LOAD-BALANCER]",
		Short: "Print the HAProxy configuration",
		Long: `Print the HAProxy configuration of a load balancer: the one that is live, or, while
that is on its way, the one that it will be, with a note on standard error.

The load balancer is given by name or ID, and need not be if there is only one.`,
		Example: `  weir generate
  weir generate web >haproxy.cfg`,
		Args: arguments(0, 1, "one load balancer at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.run(cmd.Context(), args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
		ValidArgsFunction: u.balancers,
	}
}

func (g *generate) run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, lb, err := g.user.chosen(ctx, args)
	if err != nil {
		return err
	}
	text, live, err := c.config(ctx, lb.ID)
	if err != nil {
		return err
	}
	if !live {
		fmt.Fprintf(stderr, "note: load balancer %s does not run this yet; weir status says why\n", lb.Name)
	}
	_, err = stdout.Write(text)
	return err
}

// chosen returns a client and the load balancer that is meant.
func (u *user) chosen(ctx context.Context, args []string) (*client, weir.LoadBalancerOverview, error) {
	c, err := u.connect()
	if err != nil {
		return nil, weir.LoadBalancerOverview{}, err
	}
	s, err := c.ownStatus(ctx)
	if err != nil {
		return nil, weir.LoadBalancerOverview{}, err
	}
	lb, err := chooseBalancer(&s, args)
	return c, lb, err
}

// chooseBalancer returns the load balancer that args name, or the only one. One that is
// being deleted is none.
func chooseBalancer(s *weir.RegionStatus, args []string) (lb weir.LoadBalancerOverview, err error) {
	var names []string
	kept := slices.DeleteFunc(slices.Clone(s.LoadBalancers), func(lb weir.LoadBalancerOverview) bool { return lb.Deleting })
	for _, lb := range kept {
		if len(args) > 0 && (args[0] == lb.Name || args[0] == string(lb.ID)) {
			return lb, nil
		}
		names = append(names, lb.Name)
	}
	switch {
	case len(names) == 0:
		return lb, fmt.Errorf("there is no load balancer: weir apply -f weir.yaml makes one")
	case len(args) > 0:
		return lb, fmt.Errorf("there is no load balancer %q: there %s", args[0], listed(names))
	case len(names) > 1:
		return lb, usageErrorf("there %s: say which load balancer", listed(names))
	}
	return kept[0], nil
}

// completeBalancer returns the names of load balancers for a verb that takes one.
func (u *user) completeBalancer(ctx context.Context, args []string) (names []string) {
	c, err := u.connect()
	if err != nil || len(args) > 0 {
		return nil
	}
	s, err := c.ownStatus(ctx)
	if err != nil {
		return nil
	}
	for _, lb := range s.LoadBalancers {
		names = append(names, lb.Name)
	}
	return names
}
