package web

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"weir/weir"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// shop returns a region in which all is well: a control plane of three, one load balancer with
// a pair of instances, two servers.
func shop() weir.RegionStatus {
	up := func(id weir.ID, sessions int, requests int64) weir.ServerStatus {
		return weir.ServerStatus{Backend: "http-80", ID: id, State: weir.ServerUp, Sessions: sessions, Requests: requests}
	}
	machine := func(id weir.ID, name, private string, pool, lb weir.ID) weir.MachineOverview {
		return weir.MachineOverview{ID: id, Name: name, Size: "s-1vcpu-1gb", Pool: pool, LoadBalancer: lb, Phase: weir.MachineActive,
			Private: netip.MustParseAddr(private), Public: netip.MustParseAddr("198.18.0.9"), Boot: weir.Boot{State: weir.BootDone}}
	}
	s := weir.RegionStatus{
		Region: "local1", Taken: noon, Versions: weir.Versions{Weir: "0.1.0", HAProxy: "2.6.12", Etcd: "3.7.3"},
		Quorum: true, Members: []weir.MemberOverview{{Name: "cp-1", Addr: "10.0.0.1:7074", Up: true, Self: true},
			{Name: "cp-2", Addr: "10.0.0.2:7074", Up: true, Leads: true, Since: noon.Add(-125 * time.Minute)}, {Name: "cp-3", Addr: "10.0.0.3:7074", Up: true}},
		LoadBalancers: []weir.LoadBalancerOverview{{ID: "f00d", Name: "front", Since: noon.Add(-200 * time.Second), Phase: weir.LoadBalancerActive, Address: netip.MustParseAddr("203.0.113.7"),
			Algorithm: weir.RoundRobin, Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 8080}}, Tag: "web",
			Instances: []weir.InstanceOverview{
				{Machine: "100001", Active: true, Wants: 12, Health: weir.Health{Machine: "100001", State: weir.InstanceWell, Since: noon.Add(-time.Hour)},
					Node: weir.NodeStatus{Node: "100001", Revision: 12, Seen: noon.Add(-time.Second),
						HAProxy: weir.HAProxyStatus{Version: "2.6.12"}, Servers: []weir.ServerStatus{up("100010", 3, 1234567), up("100002", 4, 89)}}},
				{Machine: "100003", Wants: 12, Health: weir.Health{Machine: "100003", State: weir.InstanceWell, Since: noon.Add(-76 * time.Hour)},
					Node: weir.NodeStatus{Node: "100003", Revision: 12, Seen: noon.Add(-3 * time.Second),
						HAProxy: weir.HAProxyStatus{Version: "2.6.12"}, Servers: []weir.ServerStatus{up("100010", 0, 0), up("100002", 0, 0)}}}}}},
		Pools: []weir.PoolOverview{{ID: "beef", Name: "web", Count: 2, Machines: 2, Serving: 2}},
		Machines: []weir.MachineOverview{machine("100001", "front-1", "10.10.0.2", "", "f00d"),
			machine("100002", "web-1", "10.10.0.3", "beef", ""), machine("100003", "front-2", "10.10.0.5", "", "f00d"), machine("100010", "web-2", "10.10.0.4", "beef", "")},
	}
	s.CountMachines()
	return s
}

// told is a region that says what it was told to.
type told struct {
	status weir.RegionStatus
	events []weir.Event
	err    error
}

func (r told) Status(context.Context) (weir.RegionStatus, error) { return r.status, r.err }

func (r told) Events(_ context.Context, lb, after weir.ID, limit int) ([]weir.Event, error) {
	return r.events[max(len(r.events)-limit, 0):], r.err
}

// page renders a region, and returns the page's status and what a person reads on it.
func page(t *testing.T, r told) (*httptest.ResponseRecorder, string) {
	t.Helper()
	w := httptest.NewRecorder()
	New(r, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	root, err := html.Parse(bytes.NewReader(w.Body.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for n := range root.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "style" {
			words = append(words, strings.Fields(n.Data)...)
		}
	}
	return w, strings.Join(words, " ")
}

func read(t *testing.T, s weir.RegionStatus, events ...weir.Event) string {
	t.Helper()
	s.Problems = s.FindProblems()
	w, text := page(t, told{status: s, events: events})
	if w.Code != http.StatusOK {
		t.Fatalf("status %d, want 200", w.Code)
	}
	return text
}

func wants(t *testing.T, text string, sentences ...string) {
	t.Helper()
	for _, s := range sentences {
		if !strings.Contains(text, s) {
			t.Errorf("the page does not say %q:\n%s", s, text)
		}
	}
}

func TestThePageShowsTheRegion(t *testing.T) {
	text := read(t, shop())
	wants(t, text, "all well · Weir local1", "Weir · local1", "as of 12:00:00 UTC · weir 0.1.0 · HAProxy 2.6.12 · etcd 3.7.3",
		"Load balancer front active 203.0.113.7 round robin over machines tagged web", "http:80 → http:8080",
		"Control plane quorum", "cp-1 up follows 10.0.0.1:7074 cp-2 up leads for 2 h 5 min 10.0.0.2:7074",
		"front-1 well active 3 min 20 s 12 2.6.12 now front-2 well standby 3 d 4 h 12 2.6.12 3 s ago", "Sessions Requests since reload",
		"web-1 up 10.10.0.3 4 89 web-2 up 10.10.0.4 3 1 234 567",
		"Pool web as wanted 2 of 2 machines serving", "What happened the newest first; weir events tells all nothing yet", "Machines 4 active", "web-2 active pool web 10.10.0.4 198.18.0.9 s-1vcpu-1gb 100010")
}

func TestThePageSaysWhatUsersHaveALoadBalancerDo(t *testing.T) {
	s := shop()
	s.LoadBalancers[0].Maintenance, s.LoadBalancers[0].Drained = true, []weir.ID{"100002", "100077"}
	s.LoadBalancers[0].Split = weir.Split{"green": 5}
	wants(t, read(t, s), "Splits requests: green 5 %, its own machines 95 %.", "In maintenance: requests are answered with 503.", "Drained, until weir lb undrain: web-1, 100077.")
}

func TestProblemsComeFirst(t *testing.T) {
	s := shop()
	s.LoadBalancers[0].Instances[0].Node.Servers[0].State = weir.ServerDown
	s.LoadBalancers[0].Instances[0].Node.Servers[0].Why = "L4CON: Connection refused"
	s.Machines[1].Boot = weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3", Log: "/var/log/web-1"}
	s.CountMachines()
	text := read(t, s)
	wants(t, text, "2 problems · Weir local1",
		"2 problems Machine web-1 gets no traffic, for its first boot failed: user-data exited with 3; its log is /var/log/web-1. Server web-2 of load balancer front is down: L4CON: Connection refused. Control plane",
		"web-2 down L4CON: Connection refused 10.10.0.4", "Machines 3 active, 1 failed", "web-1 boot failed user-data exited with 3; its log is /var/log/web-1 pool web")
}

func TestThePageSaysWhatIsOnItsWay(t *testing.T) {
	s := shop()
	s.LoadBalancers[0].Phase = weir.LoadBalancerNew
	s.LoadBalancers[0].Address = netip.Addr{}
	s.LoadBalancers[0].Plan = []string{"create instance front-2"}
	s.LoadBalancers[0].Instances = []weir.InstanceOverview{
		{Machine: "100001", Wants: 13, Node: weir.NodeStatus{Revision: 12, Seen: noon, Servers: []weir.ServerStatus{{ID: "100002", State: weir.ServerChecking}}}},
		{Machine: "100011"}}
	s.Machines[1].Deleting = true
	s.Machines[3].Boot.State = weir.BootRunning
	s.Pools[0].Serving = 0
	s.CountMachines()
	text := read(t, s)
	wants(t, text, "all well", "Load balancer front new no address yet", "create instance front-2", "front-1 catching up standby 12, wants 13",
		"100011 starting standby", "web-1 checking", "Pool web changing 0 of 2 machines serving", "3 active, 1 being deleted", "web-1 being deleted", "web-2 booting")
}

func TestAnEmptyRegionSaysHowToBegin(t *testing.T) {
	text := read(t, weir.RegionStatus{Region: "local1", Taken: noon})
	wants(t, text, "none yet: weir apply -f weir.yaml makes one", "Machines none")
}

func TestAServerIsAsTheInstanceSeesItThatClientsReach(t *testing.T) {
	s := shop()
	in := s.LoadBalancers[0].Instances
	in[0].Node.Servers = append(in[0].Node.Servers, weir.ServerStatus{Backend: "http-81", ID: "100002", State: weir.ServerDown, Why: "L4TOUT", Sessions: 1, Requests: 11})
	in[1].Node.Servers[0].State = weir.ServerDown
	wants(t, read(t, s), "web-1 down L4TOUT 10.10.0.3 5 100 web-2 up")
}

func TestAPairInTroubleIsSeen(t *testing.T) {
	s := shop()
	s.Members[2].Up, s.Members[0].Up, s.Quorum = false, false, false
	lb := &s.LoadBalancers[0]
	lb.Failover = &weir.Failover{At: noon.Add(-200 * time.Second), From: "100003", FromName: "front-2", To: "100001", ToName: "front-1",
		Why: "front-2 is silent: it is silent to front-1", Took: 118 * time.Millisecond}
	lb.Instances[1].Health.State, lb.Instances[1].Health.Why = weir.InstanceSilent, "it is silent to front-1"
	s.Machines[1].Drained = true
	text := read(t, s)
	wants(t, text, "2 problems", "The control plane has no quorum", "Load balancer front has no standby that could take over: front-2 is silent: it is silent to front-1.",
		"Control plane no quorum: nothing is decided", "cp-3 does not answer 10.0.0.3:7074",
		"Last failover 3 min 20 s ago: front-2 → front-1 in 118 ms, because front-2 is silent: it is silent to front-1.",
		"front-2 silent it is silent to front-1 standby", "web-1 drained pool web")
	lb.Failover.Planned, lb.Failover.Took = true, 0
	lb.Instances[1].Health.State, lb.Instances[1].Node.Err = weir.InstanceUnwell, "line 3: no such keyword"
	wants(t, read(t, s), "Last hand-over 3 min 20 s ago: front-2 → front-1 under way", "front-2 refuses its configuration line 3: no such keyword standby")
}

func TestWhatHappenedIsToldTheNewestFirst(t *testing.T) {
	var all []weir.Event
	for i := range 30 {
		all = append(all, weir.Event{ID: weir.ID(strconv.Itoa(i)), At: noon.Add(time.Duration(i-29) * time.Hour), Kind: weir.EventStep, Name: "front", Text: "step " + strconv.Itoa(i)})
	}
	all[28].Kind, all[28].Text = weir.EventDecision, "moves the address"
	text := read(t, shop(), all...)
	wants(t, text, "12:00:00.000 front step step 29 11:00:00.000 front decision moves the address 10:00:00.000 front step step 27", "20 Nov 22:00:00.000 front step step 15")
	if strings.Contains(text, "step 14 ") {
		t.Errorf("the page tells more than %d events:\n%s", lately, text)
	}
}

func TestWhatUsersWriteIsTextAndNothingElse(t *testing.T) {
	s := shop()
	const evil = `<script>alert(1)</script><img src=x onerror=alert(1)>"'`
	s.Machines[1].Name, s.Machines[1].Err = evil, evil
	s.LoadBalancers[0].Plan, s.Pools[0].Err = []string{evil}, evil
	s.Problems = []string{evil}
	s.LoadBalancers[0].Failover = &weir.Failover{FromName: evil, ToName: evil, Why: evil}
	s.LoadBalancers[0].Instances[1].Node.Err, s.Members[0].Name = evil, evil
	w, _ := page(t, told{status: s, events: []weir.Event{{Name: evil, Text: evil, Kind: evil}}})
	if body := w.Body.String(); strings.Contains(body, "<script") || strings.Contains(body, "<img") {
		t.Errorf("what a user wrote is markup:\n%s", body)
	}
	if policy := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") {
		t.Errorf("Content-Security-Policy %q, want one that lets nothing in", policy)
	}
}

func TestAStoreThatIsAwayIsSaid(t *testing.T) {
	w, text := page(t, told{err: errors.New("the disk at /secret/place is gone")})
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", w.Code)
	}
	wants(t, text, "not reachable", "Load balancers go on without it")
	if strings.Contains(text, "secret") {
		t.Errorf("the page shows what is for the log alone: %s", text)
	}
	if !strings.Contains(w.Body.String(), `http-equiv="refresh"`) {
		t.Error("the page does not ask for itself again")
	}
}
