package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

func machineCommand(u *user) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "machine",
		Short: "Drain a machine; break one of weir dev on purpose, and mend it",
		Long: `Keep a machine from serving; or break a machine of weir dev on purpose, and mend it: a
server or an instance of a load balancer, by line, name or ID (weir print --all shows
them). What a restart of weir dev finds broken, it mends.`,
		Example: `  weir machine kill web-lb-1
  weir machine freeze web-lb-1 --for 10s
  weir machine partition web-lb-1 --link private --direction out
  weir machine heal web-lb-1`,
		Args: onlyCommands,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(killCommand(u), freezeCommand(u), thawCommand(u), partitionCommand(u), healCommand(u), rebootCommand(u),
		machineDrainCommand(u), machineUndrainCommand(u))
	return cmd
}

func killCommand(u *user) *cobra.Command {
	return faultCommand(u, cobra.Command{
		Use:   "kill",
		Short: "Take its power away: all that runs in it ends, without a word",
	}, &fault{kind: api.FaultKill, done: "%[1]s was killed, as by a power cut; weir status shows what comes of it"})
}

func rebootCommand(u *user) *cobra.Command {
	return faultCommand(u, cobra.Command{
		Use:   "reboot",
		Short: "Take its power away and give it back",
	}, &fault{kind: api.FaultReboot, done: "%[1]s was reset and boots"})
}

func freezeCommand(u *user) *cobra.Command {
	f := &fault{kind: api.FaultFreeze, undo: api.FaultThaw, undone: "%s is thawed",
		done: "%[1]s is frozen; thaw it with: weir machine thaw %[1]s", doneFor: "%s is frozen for %s"}
	cmd := faultCommand(u, cobra.Command{
		Use:   "freeze",
		Short: "Stop all its processes where they are; its kernel still answers",
		Long: `Stop all processes of a machine where they are. Its kernel still answers pings and
accepts connections, and nobody in it answers them.`,
	}, f)
	f.flags(cmd, "thaw")
	return cmd
}

func thawCommand(u *user) *cobra.Command {
	return faultCommand(u, cobra.Command{
		Use:   "thaw",
		Short: "Let it go on after freeze",
	}, &fault{kind: api.FaultThaw, done: "%s is thawed"})
}

func healCommand(u *user) *cobra.Command {
	return faultCommand(u, cobra.Command{
		Use:   "heal",
		Short: "Undo all that partition did",
	}, &fault{kind: api.FaultHeal, done: "%s is healed: its network is whole"})
}

func partitionCommand(u *user) *cobra.Command {
	f := &fault{kind: api.FaultPartition, undo: api.FaultHeal, undone: "%s is healed: its network is whole"}
	var link, direction string
	var down bool
	cmd := faultCommand(u, cobra.Command{
		Use:   "partition",
		Short: "Cut its network: packets are lost, and nobody is told",
		Long: `Cut a machine's network, for connections that are open as for new ones, and from the
control plane too. Packets are lost, and nobody is told; with --down, the machine sees
its link go down. Directions are as the machine sees them: with --direction in, it can
send and does not hear. Cuts add up until weir machine heal undoes them all.`,
		Example: `  weir machine partition web-lb-1
  weir machine partition web-lb-1 --link private      # from its servers, not its clients
  weir machine partition web-lb-1 --direction out --for 10s
  weir machine partition web-lb-1 --link public --down`,
	}, f)
	f.prepare = func() error {
		cut := weir.Cut{Link: weir.Link(link), Direction: weir.Direction(direction), Down: down}
		if err := cut.Check(); err != nil {
			return usageErrorf("--%w", err)
		}
		silent := !down
		f.link, f.direction, f.silent = cut.Link, cut.Direction, &silent
		f.done = "%[1]s is cut off: " + lost(cut) + "; heal it with: weir machine heal %[1]s"
		f.doneFor = "%s is cut off for %s: " + lost(cut)
		return nil
	}
	flags := cmd.Flags()
	flags.StringVar(&link, "link", string(weir.BothLinks), "`which` link to cut: public, private or both")
	flags.StringVar(&direction, "direction", string(weir.BothWays), "`what` to lose: in, out or both")
	flags.BoolVar(&down, "down", false, "take the link down, instead of losing packets silently")
	f.flags(cmd, "heal")
	return cmd
}

// lost says what a cut loses.
func lost(c weir.Cut) string {
	links := map[weir.Link]string{weir.PublicLink: "its public link", weir.PrivateLink: "its private link", weir.BothLinks: "its public and its private link"}[c.Link]
	switch {
	case c.Down && c.Link == weir.BothLinks:
		return links + " are down"
	case c.Down:
		return links + " is down"
	}
	what := map[weir.Direction]string{weir.Inward: "what is sent to it", weir.Outward: "what it sends", weir.BothWays: "all"}[c.Direction]
	return what + " by " + links + " is lost"
}

// fault does one thing to one machine.
type fault struct {
	kind      string
	link      weir.Link
	direction weir.Direction
	silent    *bool

	last    time.Duration // until it is undone; 0 for nobody waits for that
	undo    string        // the fault that undoes it
	done    string        // what is said then, of the machine's name
	doneFor string        // the same if it is undone later, of the name and last
	undone  string        // what is said once it is undone, of the name

	prepare func() error // reads the flags; nil if there are none
}

// flags gives a command that can be undone its --for.
func (f *fault) flags(cmd *cobra.Command, verb string) {
	cmd.Flags().DurationVar(&f.last, "for", 0, "wait for so `long`, then "+verb+" it again; Ctrl-C does so at once")
}

// faultCommand completes a command that does f.
func faultCommand(u *user, cmd cobra.Command, f *fault) *cobra.Command {
	cmd.Use += " LINE|NAME|ID"
	cmd.Args = arguments(1, 1, "one machine: its line, name or ID")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if flag := cmd.Flags().Lookup("for"); flag != nil && flag.Changed && f.last <= 0 {
			return usageErrorf("--for is %s, want more than nothing, such as 10s", f.last)
		}
		if f.prepare != nil {
			if err := f.prepare(); err != nil {
				return err
			}
		}
		client, err := u.connect()
		if err != nil {
			return err
		}
		return f.run(cmd.Context(), client, args[0], cmd.OutOrStdout())
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return u.completeMachines(cmd.Context(), nil, func(api.InventoryMachine) bool { return true }), cobra.ShellCompDirectiveNoFileComp
	}
	return &cmd
}

func (f *fault) run(ctx context.Context, client *client, arg string, stdout io.Writer) error {
	all, err := client.machines(ctx)
	if err != nil {
		return err
	}
	m, err := findOne(all, arg)
	if err != nil {
		return err
	}
	err = client.fault(ctx, m, api.Fault{Type: f.kind, Link: f.link, Direction: f.direction, Silent: f.silent})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	if f.last == 0 {
		if err != nil {
			return interruptedf("%s may have happened to %s", f.kind, m.Name)
		}
		_, err := fmt.Fprintf(stdout, f.done+"\n", m.Name)
		return err
	}
	if err == nil { // otherwise it may have taken effect all the same
		fmt.Fprintf(stdout, f.doneFor+"\n", m.Name, f.last)
		select {
		case <-time.After(f.last):
		case <-ctx.Done():
		}
	}
	said, err := f.end(ctx, client, m)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return interruptedf("%s", said)
	}
	_, err = fmt.Fprintln(stdout, said)
	return err
}

// end undoes a fault, also after Ctrl-C, and says what became of the machine.
func (f *fault) end(ctx context.Context, client *client, m api.InventoryMachine) (said string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), awayFor)
	defer cancel()
	err = client.fault(ctx, m, api.Fault{Type: f.undo})
	if errors.Is(err, weir.NotFound) {
		return fmt.Sprintf("%s has been deleted meanwhile", m.Name), nil
	}
	if err != nil {
		return "", fmt.Errorf("%s is not mended: %w; try again with: weir machine %s %s", m.Name, err, f.undo, idText(m))
	}
	return fmt.Sprintf(f.undone, m.Name), nil
}

// fault does f to a machine.
func (c *client) fault(ctx context.Context, m api.InventoryMachine, f api.Fault) error {
	_, err := c.do(ctx, http.MethodPost, "/v2/weir/machines/"+idText(m)+"/faults", f, nil)
	return err
}

// nearNames returns the few names of machines that come closest to one that none has.
func nearNames(all []api.InventoryMachine, typed string) []string {
	const few = 3
	for distance := 1; distance <= 2; distance++ {
		names := cobra.Command{SuggestionsMinimumDistance: distance} // it can judge what is near
		for _, m := range all {
			names.AddCommand(&cobra.Command{Use: m.Name, Run: func(*cobra.Command, []string) {}})
		}
		near := names.SuggestionsFor(typed)
		slices.SortFunc(near, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
		if near = slices.Compact(near); len(near) > 0 && len(near) <= few {
			return near
		}
	}
	return nil
}
