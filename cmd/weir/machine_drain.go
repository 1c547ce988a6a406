package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

// draining is both weir machine drain and its opposite.
type draining struct {
	user    *user
	drained bool
}

func machineDrainCommand(u *user) *cobra.Command {
	return (&draining{u, true}).command(&cobra.Command{
		Use:   "drain LINE|NAME|ID...",
		Short: "Keep machines from serving",
		Long: `Keep machines from serving until weir machine undrain. A server finishes its requests
and gets no new ones. An instance of a load balancer stands by and does not take over;
if it is the active one, another takes over, if there is one that can.`,
		Example: `  weir machine drain web-1
  weir machine drain front-lb-2`,
	})
}

func machineUndrainCommand(u *user) *cobra.Command {
	return (&draining{u, false}).command(&cobra.Command{
		Use:     "undrain LINE|NAME|ID...",
		Short:   "Let drained machines serve again",
		Example: `  weir machine undrain web-1`,
	})
}

func (d *draining) command(cmd *cobra.Command) *cobra.Command {
	cmd.Args = arguments(1, -1, "machines: lines, names or IDs")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return d.run(cmd.Context(), args, cmd.OutOrStdout())
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return d.complete(cmd.Context(), args), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

func (d *draining) run(ctx context.Context, args []string, stdout io.Writer) error {
	c, err := d.user.connect()
	if err != nil {
		return err
	}
	all, err := c.machines(ctx)
	if err != nil {
		return err
	}
	var chosen []api.InventoryMachine
	for _, arg := range args {
		m, err := chooseAny(all, arg)
		if err != nil {
			return err
		}
		chosen = append(chosen, m)
	}
	for _, m := range chosen {
		err := c.drain(ctx, weir.ID(idText(m)), d.drained)
		if ctx.Err() != nil {
			return interruptedf("%s may be %s nevertheless; weir status shows it", m.Name, d.said())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		if _, err := fmt.Fprintf(stdout, "%s: %s\n", m.Name, d.said()); err != nil {
			return err
		}
	}
	return nil
}

func (d *draining) said() string {
	if d.drained {
		return "drained"
	}
	return "no longer drained"
}

// complete returns the names of the machines that are not yet as they are asked to be.
func (d *draining) complete(ctx context.Context, args []string) (names []string) {
	c, err := d.user.connect()
	if err != nil {
		return nil
	}
	all, err := c.machines(ctx)
	if err != nil {
		return nil
	}
	for _, m := range all {
		if m.Drained != d.drained && !slices.Contains(args, m.Name) {
			names = append(names, m.Name)
		}
	}
	return names
}

// drain keeps a machine from serving, or lets it serve again.
func (c *client) drain(ctx context.Context, machine weir.ID, drained bool) error {
	_, err := c.do(ctx, http.MethodPost, "/v2/weir/machines/"+string(machine)+"/drain", api.Draining{Drained: &drained}, nil)
	return err
}

// chooseAny returns the machine of a line, an ID or a name; unlike chooseOne, it may be a
// load balancer's instance, which is in no line.
func chooseAny(all []api.InventoryMachine, arg string) (api.InventoryMachine, error) {
	_, err := strconv.ParseUint(arg, 10, 63)
	for _, m := range all {
		if isInstance(m) && (idText(m) == arg || err != nil && m.Name == arg) {
			return m, nil
		}
	}
	return chooseOne(all, arg)
}
