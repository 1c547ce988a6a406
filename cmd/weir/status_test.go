package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)

// shopStatus returns a region with a pair that has failed over once, n seconds after noon: its
// active instance serves 10 and 20 requests per second.
func shopStatus(n int) weir.RegionStatus {
	now := noon.Add(time.Duration(n) * time.Second)
	instance := func(id weir.ID, active bool) weir.InstanceOverview {
		in := weir.InstanceOverview{Machine: id, Active: active, Wants: 12,
			Health: weir.Health{Machine: id, State: weir.InstanceWell, Since: noon.Add(-2 * time.Hour)},
			Node: weir.NodeStatus{Node: id, Revision: 12, Seen: now, Agent: "v0.2.0",
				HAProxy: weir.HAProxyStatus{Version: "2.6.12-1+deb12u4", PID: 51},
				Servers: []weir.ServerStatus{{Backend: "http", ID: "100003", State: weir.ServerUp}, {Backend: "http", ID: "100004", State: weir.ServerUp}}}}
		if active {
			for i := range in.Node.Servers {
				in.Node.Servers[i].Sessions = 3 + i
				in.Node.Servers[i].Requests = int64(1000 + 10*(i+1)*n)
			}
		}
		return in
	}
	machine := func(id weir.ID, name string, lb weir.ID) weir.MachineOverview {
		return weir.MachineOverview{ID: id, Name: name, LoadBalancer: lb, Pool: "p", Phase: weir.MachineActive, Private: netip.MustParseAddr("10.10.0.4")}
	}
	s := weir.RegionStatus{Region: "local1", Taken: now, Quorum: true, Versions: weir.Versions{Weir: "v0.2.0", HAProxy: "2.6.12-1+deb12u4"},
		Members: []weir.MemberOverview{{Name: "cp-1", Up: true}, {Name: "cp-2", Up: true, Leads: true, Since: noon.Add(-2 * time.Hour)}, {Name: "cp-3", Up: true}},
		LoadBalancers: []weir.LoadBalancerOverview{{ID: "f00d", Name: "front", Phase: weir.LoadBalancerActive, Address: netip.MustParseAddr("203.0.113.7"), Tag: "web",
			Algorithm: weir.RoundRobin, Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 8080}},
			Since: noon.Add(-200 * time.Second),
			Failover: &weir.Failover{At: noon.Add(-200 * time.Second), From: "100001", FromName: "front-lb-1", To: "100002", ToName: "front-lb-2",
				Why: "front-lb-1 is silent: it is silent to front-lb-2, and does not answer the control plane", Took: 42 * time.Millisecond},
			Instances: []weir.InstanceOverview{instance("100002", true), instance("100005", false)}}},
		Pools: []weir.PoolOverview{{ID: "p", Name: "web", Count: 2, Machines: 2, Serving: 2}},
		Machines: []weir.MachineOverview{machine("100002", "front-lb-2", "f00d"), machine("100003", "web-1", ""),
			machine("100004", "web-2", ""), machine("100005", "front-lb-3", "f00d")},
	}
	s.CountMachines()
	return s
}

func TestStatusShowsPairs(t *testing.T) {
	s := shopStatus(5)
	lb := &s.LoadBalancers[0]
	lb.Failover.Planned, lb.Plan = true, []string{"configure front-lb-3"}
	lb.Instances[1].Wants, lb.Instances[1].Health.State, lb.Instances[1].Health.Why = 13, weir.InstanceUnwell, "its HAProxy does not answer"
	lb.Instances[0].Node.Peers = []weir.PeerStatus{{Node: "100005", Paths: []weir.PathStatus{
		{Addr: netip.MustParseAddr("10.10.0.5"), State: weir.PathUp, Since: noon}, {Addr: netip.MustParseAddr("198.18.0.5"), State: weir.PathLate, Since: noon}}}}
	lb.Instances[0].Node.Held = &weir.HeldStatus{Addr: netip.MustParsePrefix("203.0.113.7/24"), Since: noon}
	s.Machines[2].Drained = true
	s.Problems = s.FindProblems()
	var b strings.Builder
	if err := writeStatus(&b, &s, 80); err != nil {
		t.Fatal(err)
	}
	want := `Region local1: machines: 4 active; weir v0.2.0, HAProxy 2.6.12-1+deb12u4
Control plane: 3 members, quorum; cp-2 leads for 2h
  ! Load balancer front has no standby that could take over: front-lb-3 is
    unwell: its HAProxy does not answer.

Load balancer front: active, 203.0.113.7, round_robin, http:80 to http:8080
  last failover: planned, 3m25s ago, front-lb-1 → front-lb-2 in 42 ms:
  front-lb-1 is silent: it is silent to front-lb-2, and does not answer the
  control plane
  next: configure front-lb-3
  INSTANCE    ROLE     SINCE  HEALTH  REVISION  SEEN    HAPROXY  PID  RELOADS
  front-lb-2  active   3m25s  well    12        0s ago  2.6.12   51   0
  front-lb-3  standby  2h     unwell  12 of 13  0s ago  2.6.12   51   0
  SERVER  PRIVATE IP  STATE  SESSIONS  REQUESTS  BACKEND
  web-1   10.10.0.4   up     3         1050      http
  web-2   10.10.0.4   up     4         1100      http
  requests are those since HAProxy's last reload

Pool web: 2 machines wanted, 2 there, 2 ready to serve
  drained by an operator: web-2
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}

	b.Reset()
	p := &page{w: &b, width: 80}
	p.balancer(&s, *lb, true)
	for _, want := range []string{
		"  front-lb-3       front-lb-2  10.10.0.5   up    5s\n  front-lb-3       front-lb-2  198.18.0.5  late  5s\n",
		"  front-lb-3 is unwell: its HAProxy does not answer\n", "  front-lb-2 holds 203.0.113.7/24 for 5s\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lb show has no %q:\n%s", want, b.String())
		}
	}
}

func TestTheControlPlaneInWords(t *testing.T) {
	for _, test := range []struct {
		members []weir.MemberOverview
		quorum  bool
		want    string
	}{
		{nil, false, ""},
		{[]weir.MemberOverview{{Name: "a", Up: true, Leads: true, Since: noon}}, true, "1 member; a leads for 1m5s"},
		{[]weir.MemberOverview{{Name: "a", Up: true}, {Name: "b", Up: true}, {Name: "c"}}, true, "2 of 3 members answer, quorum; nobody leads"},
		{[]weir.MemberOverview{{Name: "a", Up: true}, {Name: "b"}, {Name: "c"}}, false, "1 of 3 members answers, no quorum: nothing is decided"},
	} {
		s := weir.RegionStatus{Taken: noon.Add(65 * time.Second), Members: test.members, Quorum: test.quorum}
		if got := membersOf(&s); got != test.want {
			t.Errorf("%+v: %q, want %q", test.members, got, test.want)
		}
	}
}

func TestTimesThatPassedAreBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 400 * time.Millisecond: "0s", 59 * time.Second: "59s", 59*time.Second + 600*time.Millisecond: "1m",
		200 * time.Second: "3m20s", time.Hour: "1h", 125 * time.Minute: "2h5m", 76 * time.Hour: "3d4h", 48 * time.Hour: "2d"} {
		if got := span(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{700 * time.Microsecond: "0.7 ms", 9949 * time.Microsecond: "9.9 ms", 9960 * time.Microsecond: "10 ms", 118400 * time.Microsecond: "118 ms",
		999600 * time.Microsecond: "1.0 s", 2100 * time.Millisecond: "2.1 s"} {
		if got := brief(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestEventsAreTold(t *testing.T) {
	yesterday := weir.Event{At: time.Now().AddDate(0, 0, -1), Kind: weir.EventEvidence, Name: "a", Text: "something that is long enough to be wrapped"}
	today := weir.Event{At: time.Now(), Kind: weir.EventStep, Name: "longer-than-the-first", Text: "done\x1b[31m\nat once"}
	var b strings.Builder
	tell := newTeller(&b, []weir.Event{yesterday})
	tell.width = 50
	for _, e := range []weir.Event{yesterday, today} {
		if err := tell.tell(e); err != nil {
			t.Fatal(err)
		}
	}
	at := func(e weir.Event) string { return e.At.Format("15:04:05.000") }
	want := yesterday.At.Format("Mon 2 Jan 2006") + "\n" +
		at(yesterday) + "  a  evidence  something that is long\n" + strings.Repeat(" ", 27) + "enough to be wrapped\n" +
		today.At.Format("Mon 2 Jan 2006") + "\n" +
		at(today) + "  longer-than-the-f…  step      done[31m\n" + strings.Repeat(" ", 44) + "at\n" + strings.Repeat(" ", 44) + "once\n"
	if got := b.String(); got != want {
		t.Errorf("told\n%s\nwant\n%s", got, want)
	}
}
