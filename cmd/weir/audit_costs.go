package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"

	"github.com/spf13/cobra"

	"weir/weir"
)

type auditCosts struct {
	user   *user
	format format
}

func auditCostsCommand(u *user) *cobra.Command {
	a := auditCosts{user: u}
	cmd := &cobra.Command{
		Use:   "costs",
		Short: "List all that costs money",
		Long: `List all that costs money: the machines and the addresses that the cloud has or is still to
make, whose they are, since when, and why one is not as it should be. What is leaving is to go and is
not gone yet; what is unknown the cloud has, and nothing here says that it should. What a machine costs is what
its pool says. Machines of your own are not listed. Times are local.`,
		Example: `  weir audit costs
  weir audit costs -o json | jq .hourly_cost`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	a.format.flags(cmd)
	return cmd
}

func (a *auditCosts) run(ctx context.Context, stdout, stderr io.Writer) error {
	c, err := a.user.connect()
	if err != nil {
		return err
	}
	var answer struct {
		Costs *weir.Costs `json:"costs"`
	}
	if _, err := c.do(ctx, http.MethodGet, "/v2/weir/audit/costs", nil, &answer); err != nil {
		return err
	}
	if answer.Costs == nil {
		return c.stranger()
	}
	costs := answer.Costs
	if a.format.json {
		return writeJSON(stdout, costs)
	}
	if costs.Err != "" {
		fmt.Fprintf(stderr, "the cloud does not say what it has, and this is what was last seen: %s\n", oneLine(costs.Err))
	}
	if len(costs.Items) == 0 {
		fmt.Fprintln(stderr, "nothing costs money")
		return nil
	}
	rows := [][]string{{"KIND", "ID", "NAME", "SIZE", "OF", "AN HOUR", "STATE", "SINCE", ""}}
	for _, item := range costs.Items {
		price, since := "-", "-"
		if item.Price > 0 {
			price = fmt.Sprint(item.Price)
		}
		if !item.Since.IsZero() {
			since = item.Since.Local().Format("Jan 2 15:04")
		}
		rows = append(rows, []string{item.Kind, cmp.Or(string(item.ID), "-"), cmp.Or(item.Name, "-"), cmp.Or(item.Size, "-"), cmp.Or(item.Of, "-"), price, string(item.State), since, item.Err})
	}
	if err := writeTable(stdout, "", rows); err != nil {
		return err
	}
	if costs.Price > 0 {
		_, err = fmt.Fprintf(stdout, "%v an hour, as far as prices are known\n", math.Round(costs.Price*1e4)/1e4)
	}
	return err
}
