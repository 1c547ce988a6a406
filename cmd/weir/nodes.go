package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

func nodeTokenCommand(u *user) *cobra.Command {
	return &cobra.Command{
		Use:   "token NAME",
		Short: "Let a machine of your own join, and print the token that it does so with",
		Long: `Let a machine of your own join as NAME, and print its token, which it uses once and nobody
can print again: send it to a file, and bring that to the machine. A token that was lost
before its use is replaced by asking again.`,
		Example: `  weir node token lb-a >lb-a.token`,
		Args:    arguments(1, 1, "the name of one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return nodeToken(cmd.Context(), u, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

func nodeToken(ctx context.Context, u *user, name string, stdout, stderr io.Writer) error {
	c, err := u.connect()
	if err != nil {
		return err
	}
	var made api.NodeToken
	if _, err := c.do(ctx, http.MethodPost, "/v2/weir/nodes", api.NewNode{Name: name}, &made); err != nil {
		return err
	}
	if made.Token == "" {
		return c.stranger()
	}
	if _, err := fmt.Fprintln(stdout, made.Token); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "on that machine, with the token in /etc/weir/node.token:\n  weir install node --join %s --token /etc/weir/node.token\n", oneLine(strings.Join(made.Join, ",")))
	return nil
}

func nodeRemoveCommand(u *user) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Forget a machine of your own",
		Long: `Forget a machine of your own: its certificate opens nothing any more. Stop weir node on it
too, or it serves on what it last served. The active instance of a load balancer is not
removed: hand over first.`,
		Args: arguments(1, 1, "the name of one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := u.connect()
			if err != nil {
				return err
			}
			_, err = c.do(cmd.Context(), http.MethodDelete, "/v2/weir/nodes/"+url.PathEscape(args[0]), nil, nil)
			if weir.KindOf(err) == weir.NotFound {
				return fmt.Errorf("there is no node named %q; weir node list shows all", args[0])
			}
			return err
		},
	}
}

type nodeList struct {
	user   *user
	format format
}

func nodeListCommand(u *user) *cobra.Command {
	l := nodeList{user: u}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the machines of your own",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	l.format.flags(cmd)
	return cmd
}

func (l *nodeList) run(ctx context.Context, stdout, stderr io.Writer) error {
	c, err := l.user.connect()
	if err != nil {
		return err
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	s, err := c.status(ctx)
	if err != nil {
		return err
	}
	if l.format.json {
		return writeJSON(stdout, append([]weir.NodeOverview{}, nodes...))
	}
	if len(nodes) == 0 {
		fmt.Fprintln(stderr, "there are no machines of your own; weir node token lets one join")
		return nil
	}
	balancers := map[weir.ID]string{}
	for _, lb := range s.LoadBalancers {
		balancers[lb.ID] = lb.Name
	}
	rows := [][]string{{"NAME", "ADDRESS", "STATUS", "LOAD BALANCER", "SEEN", "ID"}}
	for _, n := range nodes {
		rows = append(rows, []string{n.Name, addressOf(n.Private), nodeState(n), balancerOf(n, balancers), seenAgo(n.Seen, s.Taken), string(n.ID)})
	}
	return writeTable(stdout, "", rows)
}

// nodeState returns the state of a machine of one's own in a word or two.
func nodeState(n weir.NodeOverview) string {
	switch {
	case !n.Joined:
		return "not joined"
	case n.Drained:
		return "drained"
	case n.Phase == weir.MachineNew:
		return "joining" // and has not reported yet
	}
	return "joined"
}

// balancerOf says which load balancer a machine of one's own is an instance of, and how.
func balancerOf(n weir.NodeOverview, names map[weir.ID]string) string {
	if n.LoadBalancer == "" {
		return "-"
	}
	role := "standby"
	if n.Active {
		role = "active"
	}
	return cmp.Or(names[n.LoadBalancer], string(n.LoadBalancer)) + " (" + role + ")"
}

// seenAgo says how long ago a node reported.
func seenAgo(seen, now time.Time) string {
	if seen.IsZero() {
		return "never"
	}
	return max(now.Sub(seen), 0).Round(time.Second).String() + " ago"
}

// nodes returns the machines of one's own, by name.
func (c *client) nodes(ctx context.Context) ([]weir.NodeOverview, error) {
	return everyPage[weir.NodeOverview](ctx, c, "nodes")
}

// ownMachines writes the machines of one's own that are no load balancer's, whose instances
// have tables of their own.
func (p *page) ownMachines(machines []weir.MachineOverview) {
	rows := [][]string{{"NODE", "ADDRESS", "STATUS"}}
	for _, m := range machines {
		if m.Own && m.LoadBalancer == "" {
			said := "not joined"
			if m.Phase == weir.MachineActive {
				said = "free for a load balancer"
			}
			rows = append(rows, []string{short(m.Name), addressOf(m.Private), said})
		}
	}
	if len(rows) > 1 {
		p.text("", "")
		p.text("", "Nodes of your own that no load balancer has:")
		p.table("  ", rows)
	}
}
