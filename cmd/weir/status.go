package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"weir/weir"
)

type status struct {
	user   *user
	format format
}

func statusCommand(u *user) *cobra.Command {
	s := status{user: u}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the region at a glance",
		Long: `Show the region at a glance: what is wrong, each load balancer with its instances and
servers, each pool, and what is still to be done.`,
		Example: `  weir status
  weir status -o json`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	s.format.flags(cmd)
	return cmd
}

func (s *status) run(ctx context.Context, stdout io.Writer) error {
	c, err := s.user.connect()
	if err != nil {
		return err
	}
	region, err := c.status(ctx)
	if err != nil {
		return err
	}
	if s.format.json {
		return writeJSON(stdout, region)
	}
	width := 80
	if f, ok := stdout.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > width {
			width = w
		}
	}
	return writeStatus(stdout, &region, width)
}

// writeStatus writes s for people, in lines of at most width characters.
func writeStatus(w io.Writer, s *weir.RegionStatus, width int) error {
	p := &page{w: w, width: width}
	versions := []string{"weir " + s.Versions.Weir}
	if s.Versions.HAProxy != "" {
		versions = append(versions, "HAProxy "+s.Versions.HAProxy)
	}
	if s.Versions.Etcd != "" {
		versions = append(versions, "etcd "+s.Versions.Etcd)
	}
	p.text("", "Region %s: %s; %s", s.Region, machineCounts(s.Counts), strings.Join(versions, ", "))
	for _, problem := range s.Problems {
		p.text("  ! ", "%s", problem)
	}
	names := map[weir.ID]weir.MachineOverview{}
	for _, m := range s.Machines {
		names[m.ID] = m
	}
	for _, lb := range s.LoadBalancers {
		p.balancer(lb, s.Taken, names)
	}
	for _, pool := range s.Pools {
		p.text("", "")
		p.text("", "Pool %s: %s wanted, %d there, %d ready to serve", pool.Name, count(pool.Count, "machine"), pool.Machines, pool.Serving)
		p.plan(pool.Plan)
	}
	p.ownMachines(s.Machines)
	return p.err
}

// page is what is written line by line; after an error it writes no more.
type page struct {
	w     io.Writer
	width int
	err   error
}

func (p *page) text(indent, format string, args ...any) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, wrap(fmt.Sprintf(format, args...), p.width, indent, strings.Repeat(" ", max(len(indent), 2))))
	}
}

// table writes rows; the last column is cut where the line ends.
func (p *page) table(indent string, rows [][]string) {
	if p.err != nil {
		return
	}
	var b strings.Builder
	p.err = writeTable(&b, indent, rows)
	for line := range strings.Lines(b.String()) {
		if p.err == nil {
			_, p.err = fmt.Fprintln(p.w, cut(strings.TrimRight(line, "\n"), p.width))
		}
	}
}

func (p *page) plan(steps []string) {
	const most = 5
	for i, step := range steps {
		if i == most {
			p.text("  ", "… and %d more steps", len(steps)-most)
			return
		}
		p.text("  next: ", "%s", step)
	}
}

func (p *page) balancer(lb weir.LoadBalancerOverview, now time.Time, machines map[weir.ID]weir.MachineOverview) {
	phase := cmp.Or(lb.Phase, weir.LoadBalancerNew)
	if lb.Deleting {
		phase = "deleting"
	}
	address := "no address yet"
	if lb.Address.IsValid() {
		address = lb.Address.String()
	}
	var rules []string
	for _, r := range lb.Rules {
		rules = append(rules, fmt.Sprintf("%s:%d to %s:%d", r.Entry, r.EntryPort, r.Target, r.TargetPort))
	}
	p.text("", "")
	p.text("", "Load balancer %s: %s, %s, %s, %s", lb.Name, phase, address, lb.Algorithm, strings.Join(rules, ", "))
	p.plan(lb.Plan)

	rows := [][]string{{"INSTANCE", "ROLE", "REVISION", "SEEN", "HAPROXY", "PID", "RELOADS", "AGENT"}}
	for _, in := range lb.Instances {
		role, seen := "standby", "never"
		if in.Active {
			role = "active"
		}
		if !in.Node.Seen.IsZero() {
			seen = max(now.Sub(in.Node.Seen), 0).Round(time.Second).String() + " ago"
		}
		revision := strconv.FormatInt(in.Node.Revision, 10)
		if in.Node.Revision != in.Wants {
			revision += fmt.Sprintf(" of %d", in.Wants)
		}
		h := in.Node.HAProxy
		rows = append(rows, []string{short(cmp.Or(machines[in.Machine].Name, string(in.Machine))), role, revision, seen,
			cmp.Or(h.Version, "-"), strconv.Itoa(h.PID), strconv.Itoa(h.Reloads), cmp.Or(in.Node.Agent, "-")})
	}
	if len(lb.Instances) > 0 {
		p.table("  ", rows)
	}
	p.servers(lb, machines)
}

// servers writes the servers of a load balancer as its active instance sees them.
func (p *page) servers(lb weir.LoadBalancerOverview, machines map[weir.ID]weir.MachineOverview) {
	in := activeOf(&lb)
	if in == nil || len(in.Node.Servers) == 0 {
		return
	}
	rows := [][]string{{"SERVER", "PRIVATE IP", "STATE", "SESSIONS", "REQUESTS", "BACKEND"}}
	for _, server := range in.Node.Servers { // why one is down is among the problems
		m := machines[server.ID]
		rows = append(rows, []string{short(cmp.Or(m.Name, string(server.ID))), addressOf(m.Private), string(server.State),
			strconv.Itoa(server.Sessions), strconv.FormatInt(server.Requests, 10), server.Backend})
	}
	p.table("  ", rows)
	p.text("  ", "requests are those since HAProxy's last reload")
}

// machineCounts says how many machines there are, load balancers' instances included.
func machineCounts(c weir.MachineCounts) string {
	var parts []string
	for _, part := range []struct {
		n    int
		word string
	}{{c.Active, "active"}, {c.Failed, "failed"}, {c.New, "new"}, {c.Off, "off"}, {c.Deleting, "being deleted"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.word))
		}
	}
	if len(parts) == 0 {
		return "no machines"
	}
	return "machines: " + strings.Join(parts, ", ")
}

func addressOf(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// short cuts a name so that a table stays in its width.
func short(name string) string { return cut(name, 18) }
