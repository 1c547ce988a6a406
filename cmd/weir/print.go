package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

// stateOf returns a machine's state in a word.
func stateOf(m api.InventoryMachine) string {
	switch {
	case m.Status == "deleting":
	case m.Boot.State == weir.BootFailed:
		return "failed"
	case m.Status == string(weir.MachineActive) && m.Boot.State == weir.BootRunning:
		return "booting"
	case m.Status == string(weir.MachineActive) && m.Drained:
		return "drained"
	}
	return m.Status
}

type inventory struct {
	user   *user
	format format
	all    bool
}

func printCommand(u *user) *cobra.Command {
	p := inventory{user: u}
	cmd := &cobra.Command{
		Use:     "print",
		Aliases: []string{"ls", "inventory"},
		Short:   "List the machines",
		Long: `List the machines: their line, name, private IP, status and ID, and their region and the
host that they are on if there are several. weir delete takes any of line, name and ID.`,
		Example: `  weir print
  weir print --all               # with the instances of load balancers
  weir print -o json`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	p.format.flags(cmd)
	cmd.Flags().BoolVarP(&p.all, "all", "a", false, "show the instances of load balancers too")
	return cmd
}

func (p *inventory) run(ctx context.Context, stdout, stderr io.Writer) error {
	c, err := p.user.connect()
	if err != nil {
		return err
	}
	all, err := c.machines(ctx)
	if err != nil {
		return err
	}
	if !p.all {
		all = slices.DeleteFunc(all, isInstance)
	}
	if p.format.json {
		return writeJSON(stdout, append([]api.InventoryMachine{}, all...))
	}
	if len(all) == 0 {
		fmt.Fprintln(stderr, "there are no machines; weir create makes one")
		return nil
	}
	several := slices.ContainsFunc(all, func(m api.InventoryMachine) bool { return m.Region != all[0].Region })
	rows := [][]string{{"LINE", "NAME", "PRIVATE IP", "STATUS", "ID"}}
	if several {
		rows[0] = append(rows[0], "REGION")
	}
	hosted := slices.ContainsFunc(all, func(m api.InventoryMachine) bool { return m.OnHost != "" })
	if hosted {
		rows[0] = append(rows[0], "HOST")
	}
	for _, m := range all {
		line := "-"
		if m.Line > 0 {
			line = strconv.Itoa(m.Line)
		}
		row := []string{line, m.Name, addressOf(m.Private), stateOf(m), strconv.FormatInt(m.ID, 10)}
		if several {
			row = append(row, m.Region)
		}
		if hosted {
			row = append(row, cmp.Or(m.OnHost, "-"))
		}
		rows = append(rows, row)
	}
	return writeTable(stdout, "", rows)
}

// isInstance reports whether m is a load balancer's, and not in the inventory's lines.
func isInstance(m api.InventoryMachine) bool { return m.LoadBalancer != "" }
