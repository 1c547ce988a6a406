package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

type remove struct {
	user     *user
	patience patience
	pool     string // its name, if a pool is to go
	balancer string // a name or ID, if a load balancer is
}

func deleteCommand(u *user) *cobra.Command {
	r := remove{user: u}
	cmd := &cobra.Command{
		Use:     "delete LINE|NAME|ID... | --pool NAME | --lb NAME",
		Aliases: []string{"rm"},
		Short:   "Drain and destroy machines, a pool or a load balancer",
		Long: `Drain machines, take them out of the load balancer and destroy them. Their pool
shrinks by as many; one that was made as an autoscale pool makes others instead.

Lines are those that weir print shows as the command begins: delete 1 2 deletes the
first two. A number that is no line is an ID. If anything is not right about one of
the arguments, nothing is deleted.

With --pool, a pool goes, with all its machines; its load balancer stays. With --lb, a
load balancer goes, with its instances and its address; its servers stay.`,
		Example: `  weir delete 3
  weir delete web-1 web-2
  weir delete 1 2 --no-wait
  weir delete --pool web
  weir delete --lb web`,
		Args: func(cmd *cobra.Command, args []string) error {
			for _, name := range []string{"pool", "lb"} {
				if f := cmd.Flags().Lookup(name); f.Changed && f.Value.String() == "" {
					return usageErrorf("--%s is empty, want a name", name)
				}
			}
			if r.pool != "" && r.balancer != "" {
				return usageErrorf("delete takes one of --pool and --lb; see %s --help", cmd.CommandPath())
			}
			if r.pool != "" || r.balancer != "" {
				return arguments(0, 0, "no machines beside --pool or --lb")(cmd, args)
			}
			return arguments(1, -1, "the machines to delete: lines, names or IDs")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := u.connect()
			if err != nil {
				return err
			}
			switch {
			case r.pool != "":
				return r.deletePool(cmd.Context(), client, cmd.ErrOrStderr())
			case r.balancer != "":
				return r.deleteBalancer(cmd.Context(), client, cmd.ErrOrStderr())
			}
			return r.deleteMachines(cmd.Context(), client, args, cmd.ErrOrStderr())
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return u.completeMachines(cmd.Context(), args, func(m api.InventoryMachine) bool { return !isInstance(m) }), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringVar(&r.pool, "pool", "", "delete the pool of this `name`, and its machines")
	cmd.Flags().StringVar(&r.balancer, "lb", "", "delete the load balancer of this `name` or ID")
	r.patience.flags(cmd)
	return cmd
}

func (r *remove) deleteMachines(ctx context.Context, client *client, args []string, stderr io.Writer) error {
	all, err := client.machines(ctx)
	if err != nil {
		return err
	}
	chosen, err := choose(all, args)
	if err != nil {
		return err
	}
	b := newBoard(stderr)
	for i, m := range chosen {
		_, err := client.do(ctx, http.MethodDelete, "/v2/droplets/"+idText(m), nil, nil)
		switch {
		case ctx.Err() != nil:
			return interruptedf("%d of %s may be going; weir print shows what is there", i+1, count(len(chosen), "machine"))
		case errors.Is(err, weir.NotFound): // somebody was faster
		case err != nil && i > 0:
			return fmt.Errorf("%s: %w; those before it in the arguments are being deleted", m.Name, err)
		case err != nil:
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		b.set(idText(m), m.Name, "deleting")
	}
	b.paint()
	if r.patience.not {
		return nil
	}
	goesOn := fmt.Sprintf("%s on being deleted; weir print shows what is left", goOrGoes(len(chosen), "machine"))
	return r.patience.wait(ctx, client, b, goesOn, func(s weir.RegionStatus) (bool, error) {
		left := 0
		for _, m := range chosen {
			said, gone := howGone(&s, weir.ID(idText(m)))
			b.set(idText(m), m.Name, said)
			if !gone {
				left++
			}
		}
		return left == 0, nil
	})
}

// howGone says how far a machine is on its way out.
func howGone(s *weir.RegionStatus, id weir.ID) (said string, gone bool) {
	i := slices.IndexFunc(s.Machines, func(m weir.MachineOverview) bool { return m.ID == id })
	if i < 0 {
		return "destroyed", true
	}
	if why := s.Machines[i].Err; why != "" {
		return "deleting, but it cannot be yet: " + why, false
	}
	if s.Machines[i].Buried() {
		return fmt.Sprintf("deleting, but not before its host %s is up again", s.Machines[i].OnHost), false
	}
	sessions, listed := 0, false
	for _, lb := range s.LoadBalancers {
		for _, in := range lb.Instances {
			for _, server := range in.Node.Servers {
				if server.ID == id {
					listed = true
					sessions += server.Sessions
				}
			}
		}
	}
	switch {
	case sessions > 0:
		return "draining, " + count(sessions, "session") + " left", false
	case listed:
		return "leaving the load balancer", false
	}
	return "out of the load balancer, being destroyed", false
}

// choose returns the machines that args mean, each once.
func choose(all []api.InventoryMachine, args []string) (chosen []api.InventoryMachine, err error) {
	for _, arg := range args {
		m, err := chooseOne(all, arg)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(chosen, func(c api.InventoryMachine) bool { return c.ID == m.ID }) {
			chosen = append(chosen, m)
		}
	}
	return chosen, nil
}

// chooseOne returns the machine that arg means and that a user may delete: no instance of a
// load balancer.
func chooseOne(all []api.InventoryMachine, arg string) (api.InventoryMachine, error) {
	m, err := findOne(all, arg)
	if err == nil && isInstance(m) {
		return m, fmt.Errorf("%s is an instance of a load balancer, which makes and deletes its own", m.Name)
	}
	return m, err
}

// findOne returns the machine of a line, an ID or a name, in this order: a number may
// be any of them, and lines are what people see.
func findOne(all []api.InventoryMachine, arg string) (m api.InventoryMachine, err error) {
	if arg == "" {
		return m, usageErrorf("one of the arguments is empty, want a line, a name or an ID")
	}
	n, err := strconv.ParseUint(arg, 10, 63)
	number := err == nil
	lines := 0
	for _, m := range all {
		lines = max(lines, m.Line)
		if number && m.Line > 0 && uint64(m.Line) == n {
			return m, nil
		}
	}
	var named []api.InventoryMachine
	for _, m := range all {
		if idText(m) == arg {
			return m, nil
		}
		if m.Name == arg {
			named = append(named, m)
		}
	}
	switch {
	case len(named) == 1:
		return named[0], nil
	case len(named) > 1:
		var ids []string
		for _, m := range named {
			ids = append(ids, idText(m))
		}
		return m, fmt.Errorf("%d machines are named %s: say which by its ID, %s", len(named), arg, strings.Join(ids, " or "))
	case len(all) == 0, number && lines == 0:
		return m, fmt.Errorf("no machine %s: there are none", arg)
	case number && lines == 1:
		return m, fmt.Errorf("no machine %s: there is 1 machine, in line 1", arg)
	case number:
		return m, fmt.Errorf("no machine %s: there are %d machines; lines are 1 to %d", arg, lines, lines)
	}
	if near := nearNames(all, arg); len(near) > 0 {
		return m, fmt.Errorf("no machine is named %s, did you mean %s?", arg, strings.Join(near, " or "))
	}
	return m, fmt.Errorf("no machine is named %s; weir print shows those that are there", arg)
}

// completeMachines returns the names that may come after args, and the IDs where names are
// not enough, of the machines that are wanted.
func (u *user) completeMachines(ctx context.Context, args []string, wanted func(api.InventoryMachine) bool) (words []string) {
	client, err := u.connect()
	if err != nil {
		return nil
	}
	all, err := client.machines(ctx)
	if err != nil {
		return nil
	}
	for _, m := range all {
		if !wanted(m) {
			continue
		}
		word := m.Name
		if _, err := findOne(all, word); err != nil {
			word = idText(m)
		}
		if !slices.Contains(args, word) {
			words = append(words, word)
		}
	}
	return words
}

func idText(m api.InventoryMachine) string { return strconv.FormatInt(m.ID, 10) }
