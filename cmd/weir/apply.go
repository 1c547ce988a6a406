package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
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
		Long: `Make a pool and its load balancer what a weir.yaml says, or a load balancer alone whose
servers it names by address, print what that changes, a line each, and wait until it is
so. A file that was applied already changes nothing, and a file that says no count leaves
the pool as large as it is.

A new template is for new machines: those that are there stay as they are, unless the file
says rolling: then they are replaced (docs/pools.md), which is waited for too. It fails if the
pool goes back to its former template.`,
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
	s, err := c.ownStatus(ctx)
	if err != nil {
		return err
	}
	if err := app.In(s.Region, s.Further...); err != nil {
		return err
	}
	path := "/v2/weir/app"
	if a.dry {
		path += "?dry_run=true"
	}
	var applied api.Applied
	_, err = c.do(ctx, http.MethodPut, path, api.AppOf(app.Pool, app.LoadBalancer, app.Passwords), &applied)
	if ctx.Err() != nil {
		return interruptedf("it may have been applied; weir status shows what is there")
	}
	if err != nil {
		return err
	}
	if !app.Snippets.Empty() {
		fmt.Fprintln(stderr, "haproxy: left as it is, the control plane reads it from its own --config")
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
	to := settling{app: app, board: newBoard(stderr), had: map[weir.ID]string{}}
	to.remember(&s)
	if p := to.overview(&s); p != nil {
		to.back = p.Back
	}
	return a.patience.wait(ctx, c, to.board, "it goes on by itself; weir status shows how far", to.see)
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

// settling is what runs on its way to what app says.
type settling struct {
	app    *config.App
	board  *board
	had    map[weir.ID]string     // names of the pool's machines, those that have gone too
	back   string                 // why the pool had gone back to its former template before
	failed []weir.MachineOverview // machines that will not get further, by ID
}

// see reports whether all is as the app says, so far as it can become so. A machine
// that has failed is an error once there is nothing else to wait for.
func (to *settling) see(s weir.RegionStatus) (done bool, err error) {
	done = true
	to.remember(&s)
	for _, lb := range s.LoadBalancers {
		if lb.Name == to.app.LoadBalancer.Name && !lb.Deleting {
			done = to.balancer(&s, lb)
		}
	}
	p := to.overview(&s)
	if p != nil {
		done = to.pool(&s, *p) && done
	}
	if !done {
		return false, nil
	}
	if p != nil && p.Back != "" && p.Back != to.back {
		return true, fmt.Errorf("pool %s went back to its former template: %s", p.Name, oneLine(p.Back))
	}
	to.failed = slices.DeleteFunc(to.failed, func(f weir.MachineOverview) bool { // others have taken the place of those that are gone
		return f.Pool != "" && !slices.ContainsFunc(s.Machines, func(m weir.MachineOverview) bool { return m.ID == f.ID && !m.Deleting })
	})
	if len(to.failed) > 0 {
		var names []string
		for _, m := range to.failed {
			names = append(names, m.Name)
		}
		return true, fmt.Errorf("%s failed: %s", count(len(names), "machine"), strings.Join(names, ", "))
	}
	return true, nil
}

// overview returns the app's pool, or nil.
func (to *settling) overview(s *weir.RegionStatus) *weir.PoolOverview {
	if to.app.Pool == nil {
		return nil
	}
	i := slices.IndexFunc(s.Pools, func(p weir.PoolOverview) bool { return p.Name == to.app.Pool.Name })
	if i < 0 {
		return nil
	}
	return &s.Pools[i]
}

func (to *settling) balancer(s *weir.RegionStatus, lb weir.LoadBalancerOverview) (done bool) {
	said := string(cmp.Or(lb.Phase, weir.LoadBalancerNew))
	switch {
	case lb.Err != "":
		said += ": " + lb.Err
	case len(lb.Plan) > 0:
		said += ", next: " + lb.Plan[0]
	}
	to.board.set(string(lb.ID), "load balancer "+lb.Name, said)
	for _, m := range s.Machines {
		if m.LoadBalancer == lb.ID && !m.Deleting && m.Boot.State == weir.BootFailed {
			to.board.set(string(m.ID), m.Name, "failed: "+m.Boot.Why)
			to.fail(s, m)
			return true
		}
	}
	return lb.Phase == weir.LoadBalancerActive && len(lb.Plan) == 0
}

func (to *settling) pool(s *weir.RegionStatus, p weir.PoolOverview) (done bool) {
	done = p.Sized() && !p.Replacing
	if p.Err != "" {
		to.board.set(string(p.ID), "pool "+p.Name, p.Err)
	}
	for _, m := range s.Machines {
		if m.Pool != p.ID || m.Deleting {
			continue
		}
		far := howFar(s, m.ID, to.app.Pool.Template.Tags)
		to.board.set(string(m.ID), m.Name, far.said)
		if far.failed {
			to.fail(s, m)
		}
		done = done && (far.done || far.failed)
	}
	for id, name := range to.had {
		if i := slices.IndexFunc(s.Machines, func(m weir.MachineOverview) bool { return m.ID == id }); i < 0 || s.Machines[i].Deleting {
			said, gone := howGone(s, id)
			to.board.set(string(id), name, said)
			done = done && (gone || s.Machines[i].Buried()) // which counts in no pool any more
		}
	}
	return done
}

// remember notes the machines that the pool has, so that those that go are missed.
func (to *settling) remember(s *weir.RegionStatus) {
	if to.app.Pool == nil {
		return
	}
	for _, p := range s.Pools {
		for _, m := range s.Machines {
			if p.Name == to.app.Pool.Name && m.Pool == p.ID {
				to.had[m.ID] = m.Name
			}
		}
	}
}

// fail tells of a machine that has failed, once.
func (to *settling) fail(s *weir.RegionStatus, m weir.MachineOverview) {
	if slices.ContainsFunc(to.failed, func(f weir.MachineOverview) bool { return f.ID == m.ID }) {
		return
	}
	to.failed = append(to.failed, m)
	slices.SortFunc(to.failed, func(a, b weir.MachineOverview) int {
		return cmp.Or(cmp.Compare(len(a.ID), len(b.ID)), cmp.Compare(a.ID, b.ID)) // decimal
	})
	if log := endOfLog(s, m.ID); log != "" {
		to.board.say(log)
	}
}
