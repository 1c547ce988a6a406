package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/config"
	"weir/weir"
)

type apply struct {
	user     *user
	patience patience
	file     string
	dry      bool
}

func applyCommand(u *user) *cobra.Command {
	a := apply{user: u}
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the region what a weir.yaml says",
		Long: `Make a pool and its load balancer what a weir.yaml says, print what that changes, a
line each, and wait until it is so. A file that was applied already changes nothing.

A new template is for new machines: those that are there stay as they are.`,
		Example: `  weir apply -f weir.yaml
  weir apply -f weir.yaml --dry-run`,
		Args: arguments(0, 0, "no arguments (the file is -f)"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVarP(&a.file, "filename", "f", "weir.yaml", "`file` to apply; - is standard input")
	cmd.Flags().BoolVar(&a.dry, "dry-run", false, "print what would change, and change nothing")
	a.patience.flags(cmd)
	return cmd
}

func (a *apply) run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	app, err := a.load(stdin)
	if err != nil {
		return err
	}
	c, err := a.user.connect()
	if err != nil {
		return err
	}
	s, err := c.status(ctx)
	if err != nil {
		return err
	}
	if err := app.In(s.Region); err != nil {
		return err
	}
	path := "/v2/weir/app"
	if a.dry {
		path += "?dry_run=true"
	}
	var applied api.Applied
	_, err = c.do(ctx, http.MethodPut, path, api.AppOf(app.Pool, app.LoadBalancer), &applied)
	if ctx.Err() != nil {
		return interruptedf("it may have been applied; weir status shows what is there")
	}
	if err != nil {
		return err
	}
	for _, change := range applied.Changes {
		if _, err := fmt.Fprintln(stdout, oneLine(change)); err != nil {
			return err
		}
	}
	if len(applied.Changes) == 0 {
		fmt.Fprintln(stderr, "nothing to change")
	}
	if a.dry || a.patience.not {
		return nil
	}
	return a.wait(ctx, c, app, stderr)
}

func (a *apply) load(stdin io.Reader) (*config.App, error) {
	if a.file != "-" {
		return config.Load(a.file)
	}
	data, err := io.ReadAll(io.LimitReader(stdin, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	return config.Parse("standard input", data, ".")
}

// wait waits until what runs is what app says, or a machine has failed.
func (a *apply) wait(ctx context.Context, c *client, app *config.App, stderr io.Writer) error {
	b := newBoard(stderr)
	told := map[weir.ID]bool{}
	leaving := map[weir.ID]string{} // names
	var failed []string
	return a.patience.wait(ctx, c, b, "it goes on by itself; weir status shows how far", func(s weir.RegionStatus) (bool, error) {
		waits := false
		for _, lb := range s.LoadBalancers {
			if lb.Name == app.LoadBalancer.Name && !lb.Deleting {
				waits = lb.Phase != weir.LoadBalancerActive || len(lb.Plan) > 0
				b.set(string(lb.ID), "load balancer "+lb.Name, phaseOf(lb))
			}
		}
		for _, p := range s.Pools {
			if p.Name != app.Pool.Name {
				continue
			}
			waits = waits || p.Machines != p.Count
			if p.Err != "" {
				b.set(string(p.ID), "pool "+p.Name, p.Err)
			}
			for _, m := range s.Machines {
				if m.Pool != p.ID {
					continue
				}
				if m.Deleting {
					leaving[m.ID] = m.Name
					continue
				}
				far := howFar(&s, m.ID, app.Pool.Template.Tags)
				b.set(string(m.ID), m.Name, far.said)
				if far.failed && !told[m.ID] {
					told[m.ID] = true
					failed = append(failed, m.Name)
					if log := endOfLog(&s, m.ID); log != "" {
						b.say(log)
					}
				}
				waits = waits || !far.done && !told[m.ID]
			}
		}
		for id, name := range leaving {
			said, gone := howGone(&s, id)
			b.set(string(id), name, said)
			waits = waits || !gone
		}
		if !waits && len(failed) > 0 {
			return true, fmt.Errorf("%s failed: %s", count(len(failed), "machine"), strings.Join(failed, ", "))
		}
		return !waits, nil
	})
}

// phaseOf says how far a load balancer is.
func phaseOf(lb weir.LoadBalancerOverview) string {
	said := string(lb.Phase)
	if lb.Err != "" {
		return said + ": " + lb.Err
	}
	if len(lb.Plan) > 0 {
		return said + ", next: " + lb.Plan[0]
	}
	return said
}
