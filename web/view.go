package web

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

// view is what is on the page, in words.
type view struct {
	Known         bool // the region's status could be read
	Refresh       int
	Region        string
	Taken         string
	Versions      []string
	Problems      []string
	Verdict       string // how many problems there are
	Quorum        state  // of the control plane
	Members       []member
	LoadBalancers []balancer
	Pools         []pool
	Counts        string
	Machines      []machine
	Events        []event // the newest first
}

type member struct {
	Name, Role, Address string
	State               state
}

type event struct {
	Day, Time, Of, Text string // Day is empty if it is that of the page
	Kind                state
}

type balancer struct {
	Name, Address, Algorithm, Targets string
	State                             state
	Rules                             []string
	Plan                              []string
	Err                               string
	Failover                          string   // the last one
	Notes                             []string // what its users have had it do for a while
	Instances                         []instance
	Servers                           []server
}

type instance struct {
	Name, Role, Since, Revision, HAProxy, Seen, Why string
	State                                           state
}

type server struct {
	Name, Address, Why, Sessions, Requests string
	State                                  state
}

type pool struct {
	Name, Size string
	State      state
	Plan       []string
	Err        string
}

type machine struct {
	ID, Name, Size, For, Public, Private, Why string
	State                                     state
}

// state is a word and its tone: good, busy (it changes by itself), bad, or quiet.
type state struct {
	Word, Tone string
}

// newView puts a region in words.
func newView(s weir.RegionStatus, events []weir.Event) view {
	v := view{Known: true, Refresh: refresh, Region: s.Region, Taken: s.Taken.UTC().Format("15:04:05 UTC"),
		Versions: versions(s.Versions), Problems: s.Problems,
		Verdict: count(len(s.Problems), "problem"), Counts: counts(s.Counts)}
	machines := map[weir.ID]weir.MachineOverview{}
	for _, m := range s.Machines {
		machines[m.ID] = m
	}
	owners := map[weir.ID]string{"": ""}
	for _, p := range s.Pools {
		owners[p.ID] = "pool " + p.Name
		v.Pools = append(v.Pools, newPool(p))
	}
	for _, lb := range s.LoadBalancers {
		owners[lb.ID] = "load balancer " + lb.Name
		v.LoadBalancers = append(v.LoadBalancers, newBalancer(&s, lb, machines))
	}
	for _, m := range s.Machines {
		v.Machines = append(v.Machines, machine{ID: string(m.ID), Name: m.Name, Size: m.Size,
			For: cmp.Or(owners[m.LoadBalancer], owners[m.Pool]), Public: address(m.Public), Private: address(m.Private),
			Why: cmp.Or(m.Err, bootWhy(m.Boot)), State: machineState(m)})
	}
	for _, m := range s.Members {
		if len(s.Members) == 1 && s.Quorum {
			break // it is the one that shows this page
		}
		v.Members = append(v.Members, newMember(m, s.Taken))
	}
	v.Quorum = state{"quorum", "good"}
	if !s.Quorum {
		v.Quorum = state{"no quorum: nothing is decided", "bad"}
	}
	for _, e := range slices.Backward(events) {
		v.Events = append(v.Events, newEvent(e, s.Taken))
	}
	return v
}

func newMember(m weir.MemberOverview, now time.Time) member {
	v := member{Name: m.Name, Role: "follows", Address: m.Addr, State: state{"up", "good"}}
	switch {
	case !m.Up:
		v.State, v.Role = state{"does not answer", "bad"}, ""
	case m.Leads && !m.Since.IsZero():
		v.Role = "leads for " + span(now.Sub(m.Since))
	case m.Leads:
		v.Role = "leads"
	}
	return v
}

func newEvent(e weir.Event, now time.Time) event {
	at := e.At.UTC()
	v := event{Time: at.Format("15:04:05.000"), Of: e.Name, Text: e.Text, Kind: state{string(e.Kind), "quiet"}}
	if day := at.Format("2 Jan"); day != now.UTC().Format("2 Jan") {
		v.Day = day
	}
	switch e.Kind {
	case weir.EventDecision:
		v.Kind.Tone = "busy"
	case weir.EventStep:
		v.Kind.Tone = "good"
	}
	return v
}

func newBalancer(s *weir.RegionStatus, lb weir.LoadBalancerOverview, machines map[weir.ID]weir.MachineOverview) balancer {
	now := s.Taken
	b := balancer{Name: lb.Name, Address: strings.TrimSpace(address(lb.Address) + " " + address(lb.Addr6)), Algorithm: strings.ReplaceAll(string(lb.Algorithm), "_", " "),
		Targets: "machines named one by one", State: balancerState(lb), Plan: lb.Plan, Err: lb.Err}
	if lb.Tag != "" {
		b.Targets = "machines tagged " + lb.Tag
	}
	for _, r := range lb.Rules {
		b.Rules = append(b.Rules, fmt.Sprintf("%s:%d → %s:%d", r.Entry, r.EntryPort, r.Target, r.TargetPort))
	}
	if f := lb.Failover; f != nil {
		b.Failover = failedOver(f, now)
	}
	for _, note := range s.Notes(&lb) {
		b.Notes = append(b.Notes, strings.ToUpper(note[:1])+note[1:])
	}
	for _, in := range lb.Instances {
		b.Instances = append(b.Instances, newInstance(lb, in, machines[in.Machine], now))
	}
	b.Servers = newServers(lb.Instances, machines)
	return b
}

// failedOver says what the last failover was.
func failedOver(f *weir.Failover, now time.Time) string {
	kind, took := "Last failover", "under way"
	if f.Planned {
		kind = "Last hand-over"
	}
	if f.Took > 0 {
		took = "in " + brief(f.Took)
	}
	return fmt.Sprintf("%s %s ago: %s → %s %s, because %s", kind, span(now.Sub(f.At)), cmp.Or(f.FromName, "nobody"), f.ToName, took, f.Why)
}

func newInstance(lb weir.LoadBalancerOverview, in weir.InstanceOverview, m weir.MachineOverview, now time.Time) instance {
	v := instance{Name: cmp.Or(m.Name, string(in.Machine)), Role: "standby", HAProxy: in.Node.HAProxy.Version,
		Revision: strconv.FormatInt(in.Node.Revision, 10), Seen: "never"}
	since := in.Health.Since
	switch {
	case in.Active:
		v.Role, since = "active", lb.Since
	case m.Deleting:
		v.Role = "leaving"
	}
	if !since.IsZero() {
		v.Since = span(now.Sub(since))
	}
	if in.Node.Revision != in.Wants {
		v.Revision = fmt.Sprintf("%d, wants %d", in.Node.Revision, in.Wants)
	}
	if !in.Node.Seen.IsZero() {
		v.Seen = ago(now.Sub(in.Node.Seen))
	}
	v.State, v.Why = instanceState(in, now)
	return v
}

// instanceState says how an instance is, and why it is not well.
func instanceState(in weir.InstanceOverview, now time.Time) (s state, why string) {
	h := in.Health
	switch {
	case h.State == weir.InstanceSilent || h.State == weir.InstanceGone:
		return state{string(h.State), "bad"}, h.Why
	case in.Node.Err != "":
		return state{"refuses its configuration", "bad"}, in.Node.Err
	case h.State == weir.InstanceUnwell:
		return state{string(h.State), "bad"}, h.Why
	case in.Node.HAProxy.Err != "":
		return state{"serves nobody", "bad"}, in.Node.HAProxy.Err
	case h.State == weir.InstanceDrained:
		return state{string(h.State), "quiet"}, ""
	case in.Node.Seen.IsZero() && in.Node.Revision == 0, h.State == weir.InstanceBoots:
		return state{"starting", "busy"}, ""
	case !in.Node.Seen.IsZero() && now.Sub(in.Node.Seen) > weir.NodeLate:
		return state{"silent", "bad"}, ""
	case in.Node.Revision != in.Wants:
		return state{"catching up", "busy"}, ""
	}
	return state{"well", "good"}, ""
}

// newServers returns each server once, by ID: in its worst state in any backend, as the
// instance sees it that clients reach, or if there is none as any does.
func newServers(instances []weir.InstanceOverview, machines map[weir.ID]weir.MachineOverview) []server {
	type sum struct {
		weir.ServerStatus
		rank int
	}
	rank := map[weir.ServerState]int{weir.ServerUp: 0, weir.ServerDraining: 1, weir.ServerChecking: 2, weir.ServerDown: 3}
	sums := map[weir.ID]*sum{}
	var order []weir.ID
	active := slices.ContainsFunc(instances, func(in weir.InstanceOverview) bool { return in.Active })
	for _, in := range instances {
		if active && !in.Active {
			continue
		}
		for _, s := range in.Node.Servers {
			of := sums[s.ID]
			if of == nil {
				of = &sum{weir.ServerStatus{State: s.State}, -1}
				sums[s.ID] = of
				order = append(order, s.ID)
			}
			of.Sessions += s.Sessions
			of.Requests += s.Requests
			if rank[s.State] > of.rank {
				of.State, of.Why, of.rank = s.State, s.Why, rank[s.State]
			}
		}
	}
	slices.SortFunc(order, func(a, b weir.ID) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }) // decimal
	var servers []server
	for _, id := range order {
		of, m := sums[id], machines[id]
		v := server{Name: cmp.Or(m.Name, string(id)), Address: address(m.Private), Sessions: thousands(int64(of.Sessions)), Requests: thousands(of.Requests), State: serverState(of.State)}
		if of.State != weir.ServerUp {
			v.Why = of.Why
		}
		servers = append(servers, v)
	}
	return servers
}

func newPool(p weir.PoolOverview) pool {
	v := pool{Name: p.Name, Plan: p.Plan, Err: p.Err,
		Size:  fmt.Sprintf("%d of %s serving", p.Serving, count(p.Count, "machine")),
		State: state{"as wanted", "good"}}
	switch {
	case p.Err != "":
		v.State = state{"stuck", "bad"}
	case !p.Settled() || len(p.Plan) > 0:
		v.State = state{"changing", "busy"}
	}
	return v
}

func balancerState(lb weir.LoadBalancerOverview) state {
	switch {
	case lb.Deleting:
		return state{"being deleted", "busy"}
	case lb.Phase == weir.LoadBalancerActive:
		return state{"active", "good"}
	case lb.Phase == weir.LoadBalancerErrored:
		return state{"errored", "bad"}
	}
	return state{"new", "busy"}
}

func serverState(s weir.ServerState) state {
	switch s {
	case weir.ServerUp:
		return state{"up", "good"}
	case weir.ServerDown:
		return state{"down", "bad"}
	}
	return state{string(s), "busy"}
}

func machineState(m weir.MachineOverview) state {
	switch {
	case m.Deleting:
		return state{"being deleted", "busy"}
	case m.Boot.State == weir.BootFailed:
		return state{"boot failed", "bad"}
	case m.Phase == weir.MachineActive && m.Boot.State == weir.BootRunning:
		return state{"booting", "busy"}
	case m.Phase == weir.MachineActive && m.Drained:
		return state{"drained", "quiet"}
	case m.Phase == weir.MachineActive:
		return state{"active", "good"}
	case m.Phase == weir.MachineOff:
		return state{"off", "quiet"}
	}
	return state{"new", "busy"}
}

func bootWhy(b weir.Boot) string {
	if b.State != weir.BootFailed {
		return ""
	}
	return fmt.Sprintf("%s; its log is %s", b.Why, b.Log)
}

func versions(v weir.Versions) (said []string) {
	for _, part := range [][2]string{{"weir", v.Weir}, {"HAProxy", v.HAProxy}, {"etcd", v.Etcd}} {
		if part[1] != "" {
			said = append(said, part[0]+" "+part[1])
		}
	}
	return said
}

// counts says "3 active, 1 new": what there is none of is left out.
func counts(c weir.MachineCounts) string {
	var said []string
	for _, part := range []struct {
		n    int
		what string
	}{{c.Active, "active"}, {c.Failed, "failed"}, {c.New, "new"}, {c.Off, "off"}, {c.Deleting, "being deleted"}} {
		if part.n > 0 {
			said = append(said, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return cmp.Or(strings.Join(said, ", "), "none")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// address writes an address, or nothing for none.
func address(a interface {
	IsValid() bool
	String() string
}) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func ago(d time.Duration) string {
	if d < 2*time.Second {
		return "now"
	}
	return span(d) + " ago"
}

// span writes a time that passed in at most two units: "12 s", "3 min 20 s", "2 h 5 min".
func span(d time.Duration) string {
	const day = 24 * time.Hour
	d = max(d, 0).Round(time.Second)
	for _, unit := range []struct {
		big, small       time.Duration
		bigName, subName string
	}{{day, time.Hour, "d", "h"}, {time.Hour, time.Minute, "h", "min"}, {time.Minute, time.Second, "min", "s"}} {
		if d < unit.big {
			continue
		}
		said := fmt.Sprintf("%d %s", d/unit.big, unit.bigName)
		if rest := d % unit.big / unit.small; rest > 0 {
			said += fmt.Sprintf(" %d %s", rest, unit.subName)
		}
		return said
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// brief writes how long something took that takes milliseconds: "3.2 ms", "118 ms", "2.1 s".
func brief(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case ms < 9.95:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 999.5:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// thousands writes 1234567 as 1 234 567, with spaces that do not break.
func thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}
