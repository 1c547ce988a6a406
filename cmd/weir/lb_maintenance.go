package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weir/api"
)

type maintenance struct {
	user   *user
	format format
	page   string // the name of a file
	after  time.Duration
	allow  []string

	patience patience
}

func lbMaintenanceCommand(u *user) *cobra.Command {
	m := maintenance{user: u}
	cmd := &cobra.Command{
		Use:   "maintenance [LOAD-BALANCER] on|off",
		Short: "Answer every request with 503, or end that",
		Long: `Have a load balancer answer every request with 503, its page, and when to ask again,
whether its servers are up or not. Who is allowed is served nevertheless. What is not said
stays as it was said before. It returns once that is so on all instances.

The load balancer is given by name or ID, and need not be if there is only one.`,
		Example: `  weir lb maintenance web on
  weir lb maintenance web on --page closed.html --retry-after 10m --allow 192.0.2.0/24
  weir lb maintenance web off`,
		Args: arguments(1, 2, "on or off, behind one load balancer at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.run(cmd.Context(), args, cmd.Flags().Changed, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return []string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp
			}
			return append(u.completeBalancer(cmd.Context(), args), "on", "off"), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringVar(&m.page, "page", "", "`file` with the page, HTML; an empty name is for a sentence")
	cmd.Flags().DurationVar(&m.after, "retry-after", 0, "when clients are told to ask again; 0 is never")
	cmd.Flags().StringSliceVar(&m.allow, "allow", nil, "`addresses` that are served nevertheless, such as 192.0.2.7 or 192.0.2.0/24; can be repeated, and empty is nobody")
	m.format.flags(cmd)
	m.patience.flags(cmd)
	return cmd
}

func (m *maintenance) run(ctx context.Context, args []string, said func(flag string) bool, stdout, stderr io.Writer) error {
	word := args[len(args)-1]
	if word != "on" && word != "off" {
		return usageErrorf("%q is neither on nor off", word)
	}
	on := word == "on"
	q := api.Maintaining{On: &on}
	if said("page") {
		page, err := m.read()
		if err != nil {
			return err
		}
		q.Page = &page
	}
	if said("retry-after") {
		var err error
		if q.RetryAfterSeconds, err = wholeSeconds("retry-after", m.after); err != nil {
			return err
		}
	}
	if said("allow") {
		q.Allow = []string{}
		for _, text := range m.allow {
			q.Allow = append(q.Allow, clientRule(text))
		}
	}
	c, lb, err := m.user.chosen(ctx, args[:len(args)-1])
	if err != nil {
		return err
	}
	is, _, err := c.policy(ctx, http.MethodPut, verbOf(lb.ID, "maintenance"), q)
	if ctx.Err() != nil {
		return interruptedf("it may be %s already; weir lb maintenance %s %s can be said again", word, lb.Name, word)
	}
	if err != nil {
		return err
	}
	if err := m.patience.live(ctx, c, lb, stderr); err != nil {
		return err
	}
	if m.format.json {
		return writeJSON(stdout, is)
	}
	state := "in maintenance"
	if !on {
		state = "no longer in maintenance"
	}
	_, err = fmt.Fprintf(stdout, "%s: %s\n", lb.Name, state)
	return err
}

// read returns the page.
func (m *maintenance) read() (string, error) {
	if m.page == "" {
		return "", nil
	}
	page, err := os.ReadFile(m.page)
	if err != nil {
		return "", fmt.Errorf("--page: %w", err)
	}
	return string(page), nil
}

// clientRule returns what a user calls clients in words of the API, which are taken too.
func clientRule(text string) string {
	switch {
	case strings.HasPrefix(text, "ip:"), strings.HasPrefix(text, "cidr:"):
		return text
	case strings.Contains(text, "/"):
		return "cidr:" + text
	}
	return "ip:" + text
}
