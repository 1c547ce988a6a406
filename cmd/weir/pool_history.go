package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"weir/weir"
)

type poolHistory struct {
	user   *user
	format format
}

func poolHistoryCommand(u *user) *cobra.Command {
	h := poolHistory{user: u}
	cmd := &cobra.Command{
		Use:   "history POOL",
		Short: "Tell how the size of a pool has changed, and why",
		Long: `Tell how the size of a pool has changed, the newest first, with the numbers that it was
decided by. The last 100 changes are remembered. Times are local.`,
		Example: `  weir pool history web
  weir pool history web -o json`,
		Args: arguments(1, 1, "one pool"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.run(cmd.Context(), args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
		ValidArgsFunction: u.pools,
	}
	h.format.flags(cmd)
	return cmd
}

func (h *poolHistory) run(ctx context.Context, name string, stdout, stderr io.Writer) error {
	c, err := h.user.connect()
	if err != nil {
		return err
	}
	all, err := c.poolHistory(ctx, name)
	if err != nil {
		return err
	}
	if h.format.json {
		return writeJSON(stdout, append([]weir.Scaling{}, all...))
	}
	if len(all) == 0 {
		fmt.Fprintf(stderr, "the size of pool %s is what users say; a count with min and max in weir.yaml has it follow its load\n", name)
		return nil
	}
	rows := [][]string{{"WHEN", "MACHINES", "STATUS", "WHY"}}
	for i, s := range all {
		from := s.Have
		if i+1 < len(all) {
			from = all[i+1].Want
		}
		why := cmp.Or(s.Why, strings.ToLower(strings.ReplaceAll(string(s.Reason), "_", " ")))
		if s.Err != "" {
			why += "; " + s.Err
		}
		rows = append(rows, []string{s.Began.Local().Format("Jan 2 15:04:05"), fmt.Sprintf("%d → %d", from, s.Want), strings.ReplaceAll(string(s.State()), "_", " "), why})
	}
	return writeTable(stdout, "", rows)
}
