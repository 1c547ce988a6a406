package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

type balancers struct {
	user   *user
	format format
	to     string // the name or ID of the instance that is to be active
}

func lbCommand(u *user) *cobra.Command {
	list, show, failover := balancers{user: u}, balancers{user: u}, balancers{user: u}
	listed := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the load balancers",
		Example: `  weir lb list
  weir lb list -o json`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return list.list(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	list.format.flags(listed)
	shown := &cobra.Command{
		Use:   "show [LOAD-BALANCER]",
		Short: "Show all there is about a load balancer",
		Long: `Show a load balancer: its instances with their health, the paths by which they hear one
another, its last failover, what is still to be done, and its servers.

The load balancer is given by name or ID, and need not be if there is only one.`,
		Example: `  weir lb show front
  weir lb show front -o json`,
		Args: arguments(0, 1, "one load balancer at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show.show(cmd.Context(), args, cmd.OutOrStdout())
		},
		ValidArgsFunction: u.balancers,
	}
	show.format.flags(shown)
	handed := &cobra.Command{
		Use:   "failover [LOAD-BALANCER]",
		Short: "Hand a load balancer over to another instance",
		Long: `Hand a load balancer over from its active instance to one that stands by, and wait until
its address has moved. No request is lost. It can be done again and again, in both
directions.

The load balancer is given by name or ID, and need not be if there is only one.`,
		Example: `  weir lb failover
  weir lb failover front --to front-lb-2`,
		Args: arguments(0, 1, "one load balancer at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return failover.failover(cmd.Context(), args, cmd.OutOrStdout())
		},
		ValidArgsFunction: u.balancers,
	}
	handed.Flags().StringVar(&failover.to, "to", "", "the `instance` that is to take over, by name or ID; the best one if left out")
	handed.RegisterFlagCompletionFunc("to", func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return failover.standbys(cmd.Context(), args), cobra.ShellCompDirectiveNoFileComp
	})
	return noun("lb", "Show load balancers, and what they do with requests and servers", listed, shown, handed,
		lbSplitCommand(u), lbMaintenanceCommand(u), lbDrainCommand(u), lbUndrainCommand(u))
}

// noun returns a command that only has others below it.
func noun(name, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usageErrorf("there is no command %q of weir %s%s", args[0], name, meant(cmd, args[0]))
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

func (b *balancers) list(ctx context.Context, stdout, stderr io.Writer) error {
	c, err := b.user.connect()
	if err != nil {
		return err
	}
	s, err := c.ownStatus(ctx)
	if err != nil {
		return err
	}
	if b.format.json {
		return writeJSON(stdout, append([]weir.LoadBalancerOverview{}, s.LoadBalancers...))
	}
	if len(s.LoadBalancers) == 0 {
		fmt.Fprintln(stderr, "there is no load balancer; weir apply -f weir.yaml makes one")
		return nil
	}
	rows := [][]string{{"NAME", "STATUS", "ADDRESS", "ACTIVE", "SINCE", "STANDBY", "SERVERS"}}
	for _, lb := range s.LoadBalancers {
		var active, standby []string
		for _, in := range lb.Instances {
			switch name := nameOf(&s, in.Machine); {
			case in.Active:
				active = append(active, name)
			case in.Health.State == weir.InstanceWell:
				standby = append(standby, name)
			}
		}
		up, all := serversUp(&lb)
		rows = append(rows, []string{lb.Name, phaseOf(&lb), addressesOf(&lb), cmp.Or(strings.Join(active, ","), "-"), age(s.Taken, lb.Since),
			cmp.Or(strings.Join(standby, ","), "none"), fmt.Sprintf("%d of %d up", up, all)})
	}
	return writeTable(stdout, "", rows)
}

// phaseOf says in a word how far a load balancer is.
func phaseOf(lb *weir.LoadBalancerOverview) string {
	if lb.Deleting {
		return "deleting"
	}
	return string(cmp.Or(lb.Phase, weir.LoadBalancerNew))
}

// serversUp counts lb's servers, and those that are up, as its active instances see them.
func serversUp(lb *weir.LoadBalancerOverview) (up, all int) {
	seen := map[weir.ID]bool{}
	for _, server := range lb.Servers() {
		if seen[server.ID] {
			continue
		}
		seen[server.ID] = true
		all++
		if worst, _ := serverOf(lb, server.ID); worst.State == weir.ServerUp {
			up++
		}
	}
	return up, all
}

func (b *balancers) show(ctx context.Context, args []string, stdout io.Writer) error {
	c, err := b.user.connect()
	if err != nil {
		return err
	}
	s, err := c.ownStatus(ctx)
	if err != nil {
		return err
	}
	lb, err := chooseBalancer(&s, args)
	if err != nil {
		return err
	}
	if b.format.json {
		return writeJSON(stdout, lb)
	}
	p := &page{w: stdout, width: widthOf(stdout)}
	p.balancer(&s, lb, true)
	return p.err
}

func (b *balancers) failover(ctx context.Context, args []string, stdout io.Writer) error {
	c, lb, err := b.user.chosen(ctx, args)
	if err != nil {
		return err
	}
	done, err := c.failover(ctx, lb.ID, b.to)
	if ctx.Err() != nil {
		return interruptedf("%s may still be handed over; weir lb show %s shows which instance is active", lb.Name, lb.Name)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s: %s\n", lb.Name, moved(done))
	return err
}

// standbys returns the names of the instances that may be handed over to.
func (b *balancers) standbys(ctx context.Context, args []string) (names []string) {
	c, err := b.user.connect()
	if err != nil {
		return nil
	}
	s, err := c.ownStatus(ctx)
	if err != nil {
		return nil
	}
	lb, err := chooseBalancer(&s, args)
	if err != nil {
		return nil
	}
	for _, in := range lb.Instances {
		if !in.Active {
			names = append(names, nameOf(&s, in.Machine))
		}
	}
	return names
}

// failover hands a load balancer over and returns when its address has moved. An empty to
// is the best instance that stands by.
func (c *client) failover(ctx context.Context, lb weir.ID, to string) (weir.Failover, error) {
	var answer struct {
		Failover *weir.Failover `json:"failover"`
	}
	_, err := c.do(ctx, http.MethodPost, verbOf(lb, "failover"), api.Handover{To: to}, &answer)
	switch {
	case err != nil:
		return weir.Failover{}, err
	case answer.Failover == nil:
		return weir.Failover{}, c.stranger()
	}
	return *answer.Failover, nil
}

// moved says what a failover did: "web-lb-1 → web-lb-2 in 12 ms".
func moved(f weir.Failover) string {
	from := cmp.Or(f.FromName, string(f.From), "nobody")
	if f.Took == 0 {
		return fmt.Sprintf("%s → %s, under way", from, f.ToName)
	}
	return fmt.Sprintf("%s → %s in %s", from, f.ToName, brief(f.Took))
}

// brief writes how long something took that takes milliseconds: "3.2 ms", "118 ms", "2.1 s".
func brief(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case ms < 9.95:
		return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	case ms < 999.5:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	default:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64) + " s"
	}
}

// span writes a time that passed in at most two units: "12s", "3m20s", "2h5m", "3d4h".
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	const day = 24 * time.Hour
	of := func(big, small time.Duration, bigUnit, smallUnit string) string {
		s := fmt.Sprintf("%d%s", d/big, bigUnit)
		if rest := d % big / small; rest > 0 {
			s += fmt.Sprintf("%d%s", rest, smallUnit)
		}
		return s
	}
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return of(time.Minute, time.Second, "m", "s")
	case d < day:
		return of(time.Hour, time.Minute, "h", "m")
	}
	return of(day, time.Hour, "d", "h")
}

// age writes for how long something has been so, or "-" if it is not known.
func age(now, since time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return span(now.Sub(since))
}

// orNotThere gives an error of the API that something is not there the words of who asked.
func orNotThere(err error, format string, args ...any) error {
	if errors.Is(err, weir.NotFound) {
		return fmt.Errorf(format, args...)
	}
	return err
}

// balancers completes the name of a load balancer.
func (u *user) balancers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return u.completeBalancer(cmd.Context(), args), cobra.ShellCompDirectiveNoFileComp
}

// sinceOf returns when an instance became what it is: active, or of its present health.
func sinceOf(lb *weir.LoadBalancerOverview, in *weir.InstanceOverview) time.Time {
	if in.Active && len(lb.Actives()) == 1 {
		return lb.Since
	}
	return in.Health.Since
}

// roleOf says in a word what an instance is for.
func roleOf(in *weir.InstanceOverview, m weir.MachineOverview) string {
	switch {
	case in.Active:
		return "active"
	case m.Deleting:
		return "leaving"
	}
	return "standby"
}
