package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

// targetDrain is both weir lb drain and its opposite.
type targetDrain struct {
	user     *user
	format   format
	verb     string
	deadline time.Duration
	wait     bool
}

func lbDrainCommand(u *user) *cobra.Command {
	d := targetDrain{user: u, verb: "drain"}
	cmd := d.command(&cobra.Command{
		Use:   "drain [LOAD-BALANCER] MACHINE",
		Short: "Keep a server from getting requests of a load balancer",
		Long: `Keep a server from getting new requests of a load balancer, until weir lb undrain. It
finishes those that it has; after the deadline their connections are cut. It stays one of the
load balancer's servers, and serves other load balancers as before. Nothing is reloaded.

The server is given by its line, name or ID, and the load balancer by name or ID, which
need not be if there is only one.`,
		Example: `  weir lb drain web web-1
  weir lb drain web web-1 --deadline 5m --wait`,
	})
	cmd.Flags().DurationVar(&d.deadline, "deadline", 0, "how long it may finish its requests; what the load balancer says if left out")
	cmd.Flags().BoolVar(&d.wait, "wait", false, "return when it has no requests any more")
	return cmd
}

func lbUndrainCommand(u *user) *cobra.Command {
	return (&targetDrain{user: u, verb: "undrain"}).command(&cobra.Command{
		Use:     "undrain [LOAD-BALANCER] MACHINE",
		Short:   "Let a drained server get requests again",
		Example: `  weir lb undrain web web-1`,
	})
}

func (d *targetDrain) command(cmd *cobra.Command) *cobra.Command {
	cmd.Args = arguments(1, 2, "a machine: its line, name or ID, behind one load balancer at most")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return d.run(cmd.Context(), args, cmd.Flags().Changed, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return d.complete(cmd.Context(), args), cobra.ShellCompDirectiveNoFileComp
	}
	d.format.flags(cmd)
	return cmd
}

func (d *targetDrain) run(ctx context.Context, args []string, said func(flag string) bool, stdout, stderr io.Writer) error {
	var q api.TargetDrain
	if d.verb == "drain" && said("deadline") {
		var err error
		if q.Seconds, err = wholeSeconds("deadline", d.deadline); err != nil {
			return err
		}
	}
	c, lb, err := d.user.chosen(ctx, args[:len(args)-1])
	if err != nil {
		return err
	}
	all, err := c.machines(ctx)
	if err != nil {
		return err
	}
	m, err := chooseOne(all, args[len(args)-1])
	if err != nil {
		return err
	}
	q.DropletID = m.ID
	is, alone, err := c.policy(ctx, http.MethodPost, verbOf(lb.ID, d.verb), q)
	if ctx.Err() != nil {
		return interruptedf("%s may be %sed nevertheless; weir lb show %s shows it", m.Name, d.verb, lb.Name)
	}
	if err != nil {
		return err
	}
	finish := time.Duration(0)
	for _, drained := range is.Drained {
		if drained.DropletID == m.ID {
			finish = time.Duration(drained.Seconds) * time.Second
		}
	}
	if !d.format.json {
		text := fmt.Sprintf("%s: serves %s again", m.Name, lb.Name)
		if d.verb == "drain" {
			text = fmt.Sprintf("%s: drained from %s, with %s to finish its requests", m.Name, lb.Name, span(finish))
		}
		if _, err := fmt.Fprintln(stdout, text); err != nil {
			return err
		}
	}
	if alone {
		fmt.Fprintf(stderr, "nothing else serves in its stead: weir lb undrain %s %s lets it serve again\n", lb.Name, m.Name)
	}
	if d.wait {
		left := departure{lb: lb.ID, machine: m, board: newBoard(stderr)}
		p := patience{timeout: finish + time.Minute}
		if err := p.wait(ctx, c, left.board, m.Name+" goes on to be drained", left.see); err != nil {
			return err
		}
	}
	if d.format.json {
		return writeJSON(stdout, is)
	}
	return nil
}

// wholeSeconds returns the time that a flag says, in seconds.
func wholeSeconds(flag string, d time.Duration) (*int64, error) {
	if d%time.Second != 0 {
		return nil, usageErrorf("--%s is %s, want whole seconds", flag, d)
	}
	seconds := int64(d / time.Second)
	return &seconds, nil
}

// departure is a server on its way out of a load balancer.
type departure struct {
	lb      weir.ID
	machine api.InventoryMachine
	board   *board
}

// see reports whether no instance has the server any more.
func (l *departure) see(s weir.RegionStatus) (done bool, err error) {
	id := weir.ID(idText(l.machine))
	done = true
	sessions := 0
	for _, lb := range s.LoadBalancers {
		if lb.ID != l.lb {
			continue
		}
		for _, in := range lb.Instances {
			done = done && !in.Node.Has(id)
			for _, server := range in.Node.Servers {
				if server.ID == id {
					sessions += server.Sessions
				}
			}
		}
	}
	text := "has no requests left"
	if !done {
		text = "drains, " + count(sessions, "connection") + " left"
	}
	l.board.set(string(id), l.machine.Name, text)
	return done, nil
}

// complete returns the names of load balancers, and behind one those of its servers, or of those that are drained.
func (d *targetDrain) complete(ctx context.Context, args []string) (names []string) {
	if len(args) == 0 {
		return d.user.completeBalancer(ctx, args)
	}
	c, lb, err := d.user.chosen(ctx, args[:1])
	if err != nil {
		return nil
	}
	all, err := c.machines(ctx)
	if err != nil {
		return nil
	}
	for _, m := range all {
		id := weir.ID(idText(m))
		_, fits := serverOf(&lb, id)
		if d.verb == "undrain" {
			fits = slices.Contains(lb.Drained, id)
		}
		if fits {
			names = append(names, m.Name)
		}
	}
	return slices.Compact(names)
}
