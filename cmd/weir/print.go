package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"weir/weir"
)

// inventory is a region's machines as users count them.
type inventory struct {
	lines     []weir.MachineOverview // line 1 first: the order is that of their making
	instances []weir.MachineOverview // of load balancers, which come and go with those
	balancers map[weir.ID]string     // names
}

func inventoryOf(s *weir.RegionStatus) inventory {
	inv := inventory{balancers: map[weir.ID]string{}}
	for _, m := range s.Machines {
		if m.LoadBalancer == "" {
			inv.lines = append(inv.lines, m)
		} else {
			inv.instances = append(inv.instances, m)
		}
	}
	for _, lb := range s.LoadBalancers {
		inv.balancers[lb.ID] = lb.Name
	}
	return inv
}

// stateOf returns a machine's state in a word.
func stateOf(m weir.MachineOverview) string {
	switch {
	case m.Deleting:
		return "deleting"
	case m.Boot.State == weir.BootFailed:
		return "failed"
	case m.Phase == weir.MachineActive && m.Boot.State == weir.BootRunning:
		return "booting"
	case m.Phase == "":
		return string(weir.MachineNew)
	}
	return string(m.Phase)
}

// printed is a machine as print -o json shows it.
type printed struct {
	Line int `json:"line"` // 0 for a load balancer's instance
	weir.MachineOverview
}

type print struct {
	user   *user
	format format
	all    bool
}

func printCommand(u *user) *cobra.Command {
	p := print{user: u}
	cmd := &cobra.Command{
		Use:     "print",
		Aliases: []string{"ls", "inventory"},
		Short:   "List the machines",
		Long: `List the machines: their line, name, private IP, status and ID. weir delete takes any
of line, name and ID.`,
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

func (p *print) run(ctx context.Context, stdout, stderr io.Writer) error {
	c, err := p.user.connect()
	if err != nil {
		return err
	}
	s, err := c.status(ctx)
	if err != nil {
		return err
	}
	inv := inventoryOf(&s)
	if p.format.json {
		all := []printed{}
		for i, m := range inv.lines {
			all = append(all, printed{i + 1, m})
		}
		for _, m := range inv.instances {
			if p.all {
				all = append(all, printed{0, m})
			}
		}
		return writeJSON(stdout, all)
	}
	rows := [][]string{{"LINE", "NAME", "PRIVATE IP", "STATUS", "ID"}}
	for i, m := range inv.lines {
		rows = append(rows, machineRow(strconv.Itoa(i+1), m))
	}
	if p.all {
		for _, m := range inv.instances {
			rows = append(rows, machineRow("-", m))
		}
	}
	if len(rows) == 1 {
		fmt.Fprintln(stderr, "there are no machines; weir create makes one")
		return nil
	}
	return writeTable(stdout, "", rows)
}

func machineRow(line string, m weir.MachineOverview) []string {
	return []string{line, m.Name, addressOf(m.Private), stateOf(m), string(m.ID)}
}
