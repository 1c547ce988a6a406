package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
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
		Long: `Show the region at a glance: who decides, what is wrong, each load balancer with its
instances and servers, each pool, and what is still to be done.

SINCE is for how long an instance has been active, or a standby of its present health.
REVISION is that of the configuration that it runs, "12 of 13" while a newer one is on
its way.`,
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
	return writeStatus(stdout, &region, widthOf(stdout))
}

// widthOf returns how wide a line for people may be on w: as wide as the terminal, and where
// there is none, or a very narrow one, 80 characters.
func widthOf(w io.Writer) int { return max(terminalWidth(w), 80) }

// terminalWidth returns how wide the terminal w is, or 0 if it is none.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			return width
		}
	}
	return 0
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
	if said := membersOf(s); said != "" {
		p.text("", "Control plane: %s", said)
	}
	for _, problem := range s.Problems {
		p.text("  ! ", "%s", problem)
	}
	for _, lb := range s.LoadBalancers {
		p.text("", "")
		p.balancer(s, lb, false)
	}
	for _, pool := range s.Pools {
		p.text("", "")
		p.text("", "Pool %s: %s wanted, %d there, %d ready to serve", ofTeam(pool.Name, pool.Team), count(pool.Count, "machine"), pool.Machines, pool.Serving)
		if on := hostsOf(s, pool.ID); len(on) > 0 {
			p.text("  ", "hosts: %s", hostWords(on))
		}
		if drained := drainedOf(s, pool.ID); len(drained) > 0 {
			p.text("  ", "drained by an operator: %s", strings.Join(drained, ", "))
		}
		p.plan(pool.Plan)
	}
	p.ownMachines(s.Machines)
	return p.err
}

// membersOf says who the control plane is: "3 members, quorum; cp-2 leads for 2h5m". It is
// empty if that is not known.
func membersOf(s *weir.RegionStatus) string {
	up, leads := 0, "nobody leads"
	for _, m := range s.Members {
		if m.Up {
			up++
		}
		if m.Leads {
			leads = m.Name + " leads"
			if !m.Since.IsZero() {
				leads += " for " + age(s.Taken, m.Since)
			}
		}
	}
	n := len(s.Members)
	if n == 0 {
		return ""
	}
	said := count(n, "member")
	switch {
	case up == 1 && n > 1:
		said = fmt.Sprintf("1 of %d members answers", n)
	case up < n:
		said = fmt.Sprintf("%d of %d members answer", up, n)
	}
	if !s.Quorum {
		return said + ", no quorum: nothing is decided"
	}
	if n > 1 {
		said += ", quorum"
	}
	return said + "; " + leads
}

// hostsOf returns how many of a pool's machines that are to stay each host has.
func hostsOf(s *weir.RegionStatus, pool weir.ID) map[string]int {
	on := map[string]int{}
	for _, m := range s.Machines {
		if m.Pool == pool && m.OnHost != "" && !m.Deleting {
			on[m.OnHost]++
		}
	}
	return on
}

// drainedOf returns the names of a pool's machines that an operator has drained.
func drainedOf(s *weir.RegionStatus, pool weir.ID) (names []string) {
	for _, m := range s.Machines {
		if m.Pool == pool && m.Drained && !m.Deleting {
			names = append(names, m.Name)
		}
	}
	return names
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

// ofTeam returns the name of a thing, with its team if that is not the first one.
func ofTeam(name string, team weir.ID) string {
	if team == "" {
		return name
	}
	return fmt.Sprintf("%s (team %s)", name, weir.TeamName(team))
}

// balancer writes a load balancer; in whole, with all that its instances say.
func (p *page) balancer(s *weir.RegionStatus, lb weir.LoadBalancerOverview, whole bool) {
	machines := map[weir.ID]weir.MachineOverview{}
	for _, m := range s.Machines {
		machines[m.ID] = m
	}
	address := "no address yet"
	if lb.Address.IsValid() {
		address = addressesOf(&lb)
	}
	var rules []string
	for _, r := range lb.Rules {
		rules = append(rules, fmt.Sprintf("%s:%d to %s:%d", r.Entry, r.EntryPort, r.Target, r.TargetPort))
	}
	p.text("", "Load balancer %s: %s, %s, %s, %s", ofTeam(lb.Name, lb.Team), phaseOf(&lb), address, lb.Algorithm, strings.Join(rules, ", "))
	if f := lb.Failover; f != nil {
		p.text("  ", "%s", failedOver(s.Taken, f))
	}
	for _, note := range s.Notes(&lb) {
		p.text("  ", "%s", note)
	}
	p.plan(lb.Plan)
	p.instances(s, &lb, machines)
	if whole {
		p.evidence(s, &lb, machines)
	}
	p.servers(s, lb, machines)
}

// failedOver says what the last failover was, and how long ago.
func failedOver(now time.Time, f *weir.Failover) string {
	planned := ""
	if f.Planned {
		planned = "planned, "
	}
	return fmt.Sprintf("last failover: %s%s ago, %s: %s", planned, age(now, f.At), moved(*f), f.Why)
}

// instances writes what each instance is, and since when; which version of the agent it has
// only if that is not the control plane's, and its host only if there are several.
func (p *page) instances(s *weir.RegionStatus, lb *weir.LoadBalancerOverview, machines map[weir.ID]weir.MachineOverview) {
	if len(lb.Instances) == 0 {
		return
	}
	rows := [][]string{{"INSTANCE", "ROLE", "SINCE", "HEALTH", "REVISION", "SEEN", "HAPROXY", "PID", "RELOADS", "AGENT"}}
	odd := false
	for _, in := range lb.Instances {
		m := machines[in.Machine]
		seen := "never"
		if !in.Node.Seen.IsZero() {
			seen = age(s.Taken, in.Node.Seen) + " ago"
		}
		odd = odd || in.Node.Agent != "" && in.Node.Agent != s.Versions.Weir
		h := in.Node.HAProxy
		rows = append(rows, []string{short(cmp.Or(m.Name, string(in.Machine))), roleOf(&in, m), age(s.Taken, sinceOf(lb, &in)),
			cmp.Or(string(in.Health.State), "-"), revisionOf(&in), seen,
			cmp.Or(versionOf(h.Version), "-"), strconv.Itoa(h.PID), strconv.Itoa(h.Reloads), cmp.Or(in.Node.Agent, "-")})
	}
	if !odd {
		for i, row := range rows {
			rows[i] = row[:len(row)-1]
		}
	}
	if len(s.Hosts()) > 0 {
		rows[0] = slices.Insert(rows[0], 1, "HOST")
		for i, in := range lb.Instances {
			rows[i+1] = slices.Insert(rows[i+1], 1, cmp.Or(machines[in.Machine].OnHost, "-"))
		}
	}
	p.table("  ", rows)
}

// versionOf returns a version without what its distributor has added.
func versionOf(full string) string {
	short, _, _ := strings.Cut(full, "-")
	return short
}

// revisionOf says which revision an instance runs, and which it should: "12 of 13".
func revisionOf(in *weir.InstanceOverview) string {
	revision := strconv.FormatInt(in.Node.Revision, 10)
	if in.Node.Revision != in.Wants {
		revision += fmt.Sprintf(" of %d", in.Wants)
	}
	return revision
}

// evidence writes what the instances of a load balancer are judged by.
func (p *page) evidence(s *weir.RegionStatus, lb *weir.LoadBalancerOverview, machines map[weir.ID]weir.MachineOverview) {
	named := func(id weir.ID) string { return short(cmp.Or(machines[id].Name, string(id))) }
	rows := [][]string{{"HEARTBEATS FROM", "TO", "ADDRESS", "PATH", "SINCE"}}
	for _, in := range lb.Instances {
		for _, peer := range in.Node.Peers {
			for _, path := range peer.Paths {
				rows = append(rows, []string{named(peer.Node), named(in.Machine), addressOf(path.Addr), string(path.State), age(s.Taken, path.Since)})
			}
		}
	}
	if len(rows) > 1 {
		p.table("  ", rows)
	}
	for _, in := range lb.Instances {
		if in.Health.Why != "" {
			p.text("  ", "%s %s: %s", named(in.Machine), in.Health.State.Phrase(), in.Health.Why)
		}
		if in.Node.HAProxy.Err != "" {
			p.text("  ", "%s serves nobody: %s", named(in.Machine), in.Node.HAProxy.Err)
		}
		if in.Node.Err != "" {
			p.text("  ", "%s stays at revision %s: %s", named(in.Machine), revisionOf(&in), in.Node.Err)
		}
		if len(in.Node.Down) > 0 {
			p.text("  ", "%s has a link that is down: %s", named(in.Machine), strings.Join(in.Node.Down, ", "))
		}
		if held := in.Node.Held; held != nil {
			p.text("  ", "%s holds %s for %s", named(in.Machine), held.Addr, age(s.Taken, held.Since))
		}
	}
}

// servers writes the servers of a load balancer as its active instances see them.
func (p *page) servers(s *weir.RegionStatus, lb weir.LoadBalancerOverview, machines map[weir.ID]weir.MachineOverview) {
	servers := lb.Servers()
	if len(servers) == 0 {
		return
	}
	rows := [][]string{{"SERVER", "PRIVATE IP", "STATE", "SESSIONS", "REQUESTS", "BACKEND"}}
	for _, server := range servers { // why one is down is among the problems
		m := machines[server.ID]
		rows = append(rows, []string{short(cmp.Or(m.Name, string(server.ID))), addressOf(m.Private), string(server.State),
			strconv.Itoa(server.Sessions), strconv.FormatInt(server.Requests, 10), server.Backend})
	}
	if len(s.Hosts()) > 0 {
		rows[0] = slices.Insert(rows[0], 2, "HOST")
		for i, server := range servers {
			rows[i+1] = slices.Insert(rows[i+1], 2, cmp.Or(machines[server.ID].OnHost, "-"))
		}
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

// addressesOf returns where a load balancer is reached.
func addressesOf(lb *weir.LoadBalancerOverview) string {
	if lb.Addr6.IsValid() {
		return addressOf(lb.Address) + ", " + lb.Addr6.String()
	}
	return addressOf(lb.Address)
}

// short cuts a name so that a table stays in its width.
func short(name string) string { return cut(name, 18) }
