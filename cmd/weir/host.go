package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

func hostCommand(u *user) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "host",
		Short: "List the hosts that machines are spread over; break one of weir dev on purpose",
		Long: `List the hosts that machines are spread over; or break a host of weir dev --hosts on
purpose, and mend it. There all hosts are this one computer: they are there to see what
comes of one that fails. What a restart of weir dev finds broken, it mends.`,
		Example: `  weir host list
  weir host fail host-2 --for 1m
  weir host restore host-2`,
		Args: onlyCommands,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(hostListCommand(u), hostFailCommand(u), hostRestoreCommand(u))
	return cmd
}

type hostList struct {
	user   *user
	format format
}

func hostListCommand(u *user) *cobra.Command {
	l := hostList{user: u}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the hosts that machines are on",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	l.format.flags(cmd)
	return cmd
}

func (l *hostList) run(ctx context.Context, stdout, stderr io.Writer) error {
	c, err := l.user.connect()
	if err != nil {
		return err
	}
	s, err := c.status(ctx)
	if err != nil {
		return err
	}
	all := s.Hosts()
	if l.format.json {
		return writeJSON(stdout, append([]weir.HostOverview{}, all...))
	}
	if len(all) == 0 {
		fmt.Fprintln(stderr, "no machine says which host it is on: the cloud has one host, or does not tell")
		return nil
	}
	rows := [][]string{{"HOST", "STATUS", "MACHINES"}}
	for _, h := range all {
		state := "up"
		if h.Down {
			state = "down"
		}
		rows = append(rows, []string{h.Name, state, strconv.Itoa(h.Machines)})
	}
	return writeTable(stdout, "", rows)
}

func hostFailCommand(u *user) *cobra.Command {
	var last time.Duration
	cmd := &cobra.Command{
		Use:   "fail HOST",
		Short: "Take its power away: all its machines are killed at once",
		Long: `Take the power of a host away: all its machines are killed at once, none of them can be
powered on or destroyed, and none is made there, until weir host restore.`,
		Args: arguments(1, 1, "one host"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("for") && last <= 0 {
				return usageErrorf("--for is %s, want more than nothing, such as 10s", last)
			}
			c, err := u.connect()
			if err != nil {
				return err
			}
			return c.failHost(cmd.Context(), args[0], last, cmd.OutOrStdout())
		},
		ValidArgsFunction: u.hosts,
	}
	cmd.Flags().DurationVar(&last, "for", 0, "wait for so `long`, then restore it again; Ctrl-C does so at once")
	return cmd
}

func hostRestoreCommand(u *user) *cobra.Command {
	return &cobra.Command{
		Use:   "restore HOST",
		Short: "Let it be up again after fail",
		Args:  arguments(1, 1, "one host"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := u.connect()
			if err != nil {
				return err
			}
			if err := c.faultHost(cmd.Context(), args[0], api.FaultRestore); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is up\n", args[0])
			return err
		},
		ValidArgsFunction: u.hosts,
	}
}

// failHost has a host fail, for a while if last is not 0.
func (c *client) failHost(ctx context.Context, host string, last time.Duration, stdout io.Writer) error {
	err := c.faultHost(ctx, host, api.FaultFail)
	if err != nil && ctx.Err() == nil {
		return err
	}
	if last == 0 {
		if err != nil {
			return interruptedf("%s may have failed; restore it with: weir host restore %s", host, host)
		}
		_, err := fmt.Fprintf(stdout, "%s has failed, with all that is on it; restore it with: weir host restore %s\n", host, host)
		return err
	}
	if err == nil { // otherwise it may have taken effect all the same
		fmt.Fprintf(stdout, "%s has failed for %s, with all that is on it\n", host, last)
		select {
		case <-time.After(last):
		case <-ctx.Done():
		}
	}
	mend, cancel := context.WithTimeout(context.WithoutCancel(ctx), awayFor)
	defer cancel()
	if err := c.faultHost(mend, host, api.FaultRestore); err != nil {
		return fmt.Errorf("%s is not restored: %w; try again with: weir host restore %s", host, err, host)
	}
	if ctx.Err() != nil {
		return interruptedf("%s is up", host)
	}
	_, err = fmt.Fprintf(stdout, "%s is up\n", host)
	return err
}

// faultHost breaks or mends a host.
func (c *client) faultHost(ctx context.Context, host, kind string) error {
	_, err := c.do(ctx, http.MethodPost, "/v2/weir/hosts/"+url.PathEscape(host)+"/faults", api.HostFault{Type: kind}, nil)
	return err
}

// hosts completes the names of hosts that machines are on.
func (u *user) hosts(cmd *cobra.Command, args []string, _ string) (words []string, _ cobra.ShellCompDirective) {
	client, err := u.connect()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, err := client.status(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, h := range s.Hosts() {
		words = append(words, h.Name)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
