package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/godo"
	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

type create struct {
	user     *user
	format   format
	patience patience
	count    int
	pool     string
}

func createCommand(u *user) *cobra.Command {
	c := create{user: u}
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make new machines",
		Long: `Make new machines, in parallel, from the template of their pool, and wait until each
is in the load balancer. The pool grows by as many.

A machine whose user-data fails never gets a request: its log is named, and the
exit status is 1.`,
		Example: `  weir create
  weir create -n 3 --pool web
  weir create -n 10 --no-wait`,
		Args: arguments(0, 0, "no arguments (how many is -n)"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().IntVarP(&c.count, "count", "n", 1, "how many")
	cmd.Flags().StringVar(&c.pool, "pool", "", "`name` of the pool; not needed if there is only one")
	c.patience.flags(cmd)
	c.format.flags(cmd)
	return cmd
}

func (c *create) run(ctx context.Context, stdout, stderr io.Writer) error {
	if c.count < 1 || c.count > weir.MaxPool {
		return usageErrorf("--count/-n is %d, want 1 to %d", c.count, weir.MaxPool)
	}
	client, err := c.user.connect()
	if err != nil {
		return err
	}
	s, err := client.ownStatus(ctx)
	if err != nil {
		return err
	}
	pool, err := choosePool(&s, c.pool)
	if err != nil {
		return err
	}
	var answer struct {
		Droplets []godo.Droplet `json:"droplets"`
	}
	_, err = client.do(ctx, http.MethodPost, "/v2/weir/pools/"+url.PathEscape(pool)+"/machines", api.Growth{Count: c.count}, &answer)
	if ctx.Err() != nil {
		return interruptedf("the machines may have been asked for; weir print shows them")
	}
	if err != nil {
		return err
	}
	b := newBoard(stderr)
	for _, d := range answer.Droplets {
		b.set(idOf(d), d.Name, "created")
	}
	b.paint()
	if c.patience.not {
		return c.show(ctx, client, stdout, answer.Droplets)
	}
	started := time.Now()
	failed, err := c.wait(ctx, client, b, answer.Droplets)
	if err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %s failed: %s", len(failed), count(len(answer.Droplets), "machine"), strings.Join(failed, ", "))
	}
	b.say(fmt.Sprintf("%s up after %.1fs", count(len(answer.Droplets), "machine"), time.Since(started).Seconds()))
	return c.show(ctx, client, stdout, answer.Droplets)
}

// wait waits until each of the machines is up or has failed, and returns the names of
// those that have, in the order in which they were made.
func (c *create) wait(ctx context.Context, client *client, b *board, made []godo.Droplet) (failed []string, err error) {
	goesOn := fmt.Sprintf("%s on being made; weir print shows how far", goOrGoes(len(made), "machine"))
	told := map[string]bool{}
	var moved time.Time // when a machine was last seen that was not stuck
	err = c.patience.wait(ctx, client, b, goesOn, func(s weir.RegionStatus) (bool, error) {
		waits, moves, why := false, false, ""
		for _, d := range made {
			id := idOf(d)
			far := howFar(&s, weir.ID(id), d.Tags)
			b.set(id, d.Name, far.said)
			if far.failed && !told[id] {
				told[id] = true
				if log := endOfLog(&s, weir.ID(id)); log != "" {
					b.say(log)
				}
			}
			if far.done || told[id] {
				continue
			}
			waits = true
			if why = cmp.Or(why, far.stuck); far.stuck == "" {
				moves = true
			}
		}
		if moves || moved.IsZero() {
			moved = time.Now()
		}
		if waits && time.Since(moved) > stuckFor {
			return true, fmt.Errorf("%s; this is tried again for as long as the machines are wanted: weir delete takes them back", why)
		}
		return !waits, nil
	})
	for _, d := range made {
		if told[idOf(d)] {
			failed = append(failed, d.Name)
		}
	}
	return failed, err
}

// show prints the machines that were made, for programs.
func (c *create) show(ctx context.Context, client *client, stdout io.Writer, made []godo.Droplet) error {
	if !c.format.json {
		return nil
	}
	all, err := client.machines(ctx)
	if err != nil {
		return err
	}
	return writeJSON(stdout, slices.DeleteFunc(all, func(m api.InventoryMachine) bool {
		return !slices.ContainsFunc(made, func(d godo.Droplet) bool { return int64(d.ID) == m.ID })
	}))
}

// choosePool returns the pool that is meant by name, or the only one.
func choosePool(s *weir.RegionStatus, name string) (string, error) {
	var names []string
	for _, p := range s.Pools {
		names = append(names, p.Name)
	}
	switch {
	case slices.Contains(names, name):
		return name, nil
	case s.Own:
		return "", fmt.Errorf("this Weir has no cloud: it cannot create machines; machines of your own join by `weir node token NAME`")
	case len(names) == 0:
		return "", fmt.Errorf("there is no pool: weir apply -f weir.yaml makes one")
	case name != "":
		return "", fmt.Errorf("there is no pool %q: there %s", name, listed(names))
	case len(names) > 1:
		return "", usageErrorf("there %s: say which pool with --pool", listed(names))
	}
	return names[0], nil
}

// listed returns "is web" or "are blue and web".
func listed(names []string) string {
	names = slices.Sorted(slices.Values(names))
	if len(names) == 1 {
		return "is " + names[0]
	}
	last := len(names) - 1
	return "are " + strings.Join(names[:last], ", ") + " and " + names[last]
}

// endOfLog names the log of a machine whose first boot failed, and shows its end.
func endOfLog(s *weir.RegionStatus, id weir.ID) string {
	for _, m := range s.Machines {
		if m.ID == id && m.Boot.State == weir.BootFailed {
			var b strings.Builder
			fmt.Fprintf(&b, "%s: %s; the end of its log %s:\n", m.Name, m.Boot.Why, m.Boot.Log)
			for line := range strings.Lines(strings.TrimRight(m.Boot.End, "\n")) {
				fmt.Fprintf(&b, "  | %s\n", strings.TrimRight(line, "\n"))
			}
			return b.String()
		}
	}
	return ""
}

// goOrGoes returns "the machine goes" or "the 3 machines go".
func goOrGoes(n int, of string) string {
	if n == 1 {
		return "the " + of + " goes"
	}
	return fmt.Sprintf("the %d %ss go", n, of)
}

func idOf(d godo.Droplet) string { return strconv.Itoa(d.ID) }
