package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"weir/weir"
)

type reload struct{ user *user }

func reloadCommand(u *user) *cobra.Command {
	r := reload{u}
	return &cobra.Command{
		Use:   "reload [LOAD-BALANCER]",
		Short: "Have HAProxy load its configuration anew",
		Long: `Render the configuration of a load balancer, have HAProxy check it and load it,
whether anything changed or not. No connection is cut. It is not needed after weir
create, delete or apply, which do all that there is to do.

The load balancer is given by name or ID, and need not be if there is only one.`,
		Example: `  weir reload`,
		Args:    arguments(0, 1, "one load balancer at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.run(cmd.Context(), args, cmd.OutOrStdout())
		},
		ValidArgsFunction: u.balancers,
	}
}

func (r *reload) run(ctx context.Context, args []string, stdout io.Writer) error {
	c, err := r.user.connect()
	if err != nil {
		return err
	}
	before, err := c.ownStatus(ctx)
	if err != nil {
		return err
	}
	lb, err := chooseBalancer(&before, args)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodPost, verbOf(lb.ID, "reload"), nil, nil)
	if ctx.Err() != nil {
		return interruptedf("the reload may go on; weir status shows what runs")
	}
	if err != nil {
		return err
	}
	after, err := c.ownStatus(ctx)
	if err != nil {
		return err
	}
	lb, err = chooseBalancer(&after, []string{string(lb.ID)})
	if err != nil {
		return err
	}
	for _, in := range lb.Instances {
		if _, err := fmt.Fprintf(stdout, "%s: %s\n", nameOf(&after, in.Machine), reloaded(&before, in)); err != nil {
			return err
		}
	}
	return nil
}

// reloaded says what a reload did to an instance.
func reloaded(before *weir.RegionStatus, now weir.InstanceOverview) string {
	was := ""
	for _, lb := range before.LoadBalancers {
		i := slices.IndexFunc(lb.Instances, func(in weir.InstanceOverview) bool { return in.Machine == now.Machine })
		if i >= 0 {
			if pid := lb.Instances[i].Node.HAProxy.PID; pid != 0 && pid != now.Node.HAProxy.PID {
				was = fmt.Sprintf(", was %d", pid)
			}
		}
	}
	h := now.Node.HAProxy
	return fmt.Sprintf("revision %d, HAProxy %s with pid %d%s, %s since its agent started",
		now.Node.Revision, h.Version, h.PID, was, count(h.Reloads, "reload"))
}

// nameOf returns a machine's name, or its ID if it has just gone.
func nameOf(s *weir.RegionStatus, id weir.ID) string {
	for _, m := range s.Machines {
		if m.ID == id {
			return m.Name
		}
	}
	return string(id)
}
