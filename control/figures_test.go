package control

import (
	"fmt"
	"math"
	"reflect"
	"runtime"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// said is what an instance says after n requests, each with an answer, in a worker of that PID.
func said(node weir.ID, at time.Time, pid int, n int64, servers ...weir.ServerStatus) *weir.NodeStatus {
	responses := weir.Responses{1: n}
	return &weir.NodeStatus{Node: node, LoadBalancer: "lb", Seen: at, Servers: servers, HAProxy: weir.HAProxyStatus{PID: pid,
		Counts: &weir.Counts{Taken: at, Limit: 1000, Threads: 1, Workers: []weir.WorkerCounts{{PID: pid,
			Frontends: []weir.FrontendCounts{{Name: "http-80", Mode: weir.HTTP, Sessions: 1, Requests: n, Responses: responses, In: n, Out: n, TLS: n}, {Name: "tcp-81", Mode: weir.TCP, In: n}},
			Backends:  []weir.BackendCounts{{Name: "web", Mode: weir.HTTP, Queue: 1, Responses: responses, Response: time.Millisecond, Session: time.Millisecond}}}}}}}
}

// pair is a load balancer with these servers.
func pair(servers ...weir.ID) *weir.NodeConfig {
	b := weir.Backend{Name: "web"}
	for _, id := range servers {
		b.Servers = append(b.Servers, weir.Server{ID: id, Name: "web-" + string(id)})
	}
	return &weir.NodeConfig{Proxy: weir.Proxy{LoadBalancer: "lb", Backends: []weir.Backend{b}}}
}

// noon is when steps of all lengths begin.
var noon = time.Unix(1_800_000_000, 0)

func (f *figures) points(t *testing.T, figure weir.Figure, end time.Time) []weir.Point {
	t.Helper()
	b := f.balancer("lb", false)
	if b == nil {
		t.Fatal("there are no figures")
	}
	return points(b.window, end.Add(-10*time.Minute), end, balancerReadings[figure].read)
}

func TestRequestsAreCountedOnOverAFailover(t *testing.T) {
	f, config := newFigures(), pair()
	var a, b int64
	at := noon
	for i := range 60 { // five minutes; the address moves in the middle
		at = at.Add(5 * time.Second)
		if i < 30 {
			a += 50
		} else {
			b += 50
		}
		if i < 32 { // then it is ended
			f.hear(said("a", at, 7, a), config)
		}
		f.hear(said("b", at, 8, b), config)
	}
	for _, figure := range []weir.Figure{"frontend_http_requests_per_second", "frontend_network_throughput_tcp", "frontend_tls_connections_current"} {
		got := f.points(t, figure, at)
		if len(got) < 18 {
			t.Errorf("%s: %d points of five minutes, want one each 15 s", figure, len(got))
		}
		for _, p := range got {
			if math.Abs(p.Value-10) > 0.001 {
				t.Errorf("%s: %v at %v, want 10 all the time", figure, p.Value, p.At)
			}
		}
	}
	// An instance that is gone has no connections any more.
	if got := f.points(t, "frontend_connections_current", at); got[0].Value != 2 || got[len(got)-1].Value != 1 {
		t.Errorf("connections %v, want 2, and 1 when the first instance is gone", got)
	}
}

func TestReportThatTellsOfTheSameLookIsNoNews(t *testing.T) {
	f, config := newFigures(), pair()
	at := noon
	for i := range int64(40) {
		at = at.Add(5 * time.Second)
		s := said("a", at, 7, 50*i)
		f.hear(s, config)
		urgent := *s // it tells of a peer
		urgent.Seen = at.Add(2 * time.Second)
		f.hear(&urgent, config)
		f.hear(s, config) // and this came late
	}
	for _, p := range f.points(t, "frontend_http_requests_per_second", at) {
		if math.Abs(p.Value-10) > 0.001 {
			t.Errorf("%v requests a second at %v, want 10", p.Value, p.At)
		}
	}
}

func TestServerIsAsWellAsTheInstanceSaysThatThinksBestOfIt(t *testing.T) {
	up, down := weir.ServerStatus{Backend: "web", ID: "1", State: weir.ServerUp, Sessions: 2}, weir.ServerStatus{Backend: "web", ID: "1", State: weir.ServerDown, Down: 40}
	checking := weir.ServerStatus{Backend: "web", ID: "1", State: weir.ServerChecking}
	leaving := weir.ServerStatus{Backend: "web", ID: "2", State: weir.ServerDraining}
	for _, c := range []struct {
		a, b                weir.ServerStatus
		health, down, conns float64
	}{
		{up, up, 100, 0, 4},
		{up, down, 100, 0, 2},
		{down, down, 0, 40, 0},
		{checking, checking, 0, 0, 0},
	} {
		f, config := newFigures(), pair("1")
		at := noon
		for range 50 {
			at = at.Add(5 * time.Second)
			f.hear(said("a", at, 7, 0, c.a, leaving), config)
			f.hear(said("b", at, 8, 0, c.b), config)
		}
		b := f.balancer("lb", false)
		if len(b.servers) != 1 || b.servers["1"].name != "web-1" {
			t.Fatalf("servers %v, want the one that stays, web-1", b.servers)
		}
		for figure, want := range map[weir.Figure]float64{"droplets_health_checks": c.health, "droplets_downtime": c.down, "droplets_connections": c.conns} {
			got := points(b.servers["1"].window, noon, at, balancerReadings[figure].server)
			if len(got) == 0 || got[len(got)-1].Value != want {
				t.Errorf("%s and %s: %s is %v, want %v", c.a.State, c.b.State, figure, got, want)
			}
		}
	}
}

func TestCountersAreNotStored(t *testing.T) {
	c, ctx := newCloudless(t), t.Context()
	m, token, err := c.AddNode(ctx, "lb-a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Enrol(ctx, token, []byte("key")); err != nil {
		t.Fatal(err)
	}
	report := func(n int64) weir.NodeStatus {
		t.Helper()
		if _, err := c.Report(ctx, *said(m.ID, noon, 7, n, weir.ServerStatus{Backend: "web", ID: "1", State: weir.ServerDown, Down: n})); err != nil {
			t.Fatal(err)
		}
		row, err := nodeStatuses.Get(ctx, c.Store, m.ID)
		if err != nil {
			t.Fatal(err)
		}
		return row
	}
	before, after := report(5), report(9)
	if before.HAProxy.Counts != nil || !reflect.DeepEqual(before, after) {
		t.Errorf("stored are %+v and then %+v, want the same without counters", before, after)
	}
}

func TestMemoryOfFiguresIsBounded(t *testing.T) {
	const balancers, each = 10, 4
	f := newFigures()
	var ids []weir.ID
	var servers []weir.ServerStatus
	for i := range each {
		id := weir.ID(fmt.Sprint(i))
		ids, servers = append(ids, id), append(servers, weir.ServerStatus{Backend: "web", ID: id, State: weir.ServerUp, Sessions: 1})
	}
	config := pair(ids...)
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	empty, at, n := heap(), noon, int64(0)
	live := func(d time.Duration) int {
		for range int(d / (20 * time.Second)) {
			at, n = at.Add(20*time.Second), n+1
			for i := range balancers {
				for _, node := range []string{"a", "b"} {
					s := said(weir.ID(fmt.Sprint(node, i)), at, 7, n, servers...)
					s.LoadBalancer = weir.ID(fmt.Sprint("lb", i))
					f.hear(s, config)
				}
			}
		}
		return heap()
	}
	first := live(time.Hour)
	t.Logf("%d bytes for a load balancer with %d servers", (first-empty)/balancers, each)
	if got := (first - empty) / balancers; got > 32<<10 {
		t.Errorf("a load balancer with %d servers takes %d bytes, want at most 32 KiB", each, got)
	}
	if last := live(8 * time.Hour); last-empty > (first-empty)*11/10 {
		t.Errorf("after another eight hours %d bytes, want the %d of the first", last-empty, first-empty)
	}
	f.forget(at.Add(time.Minute))
	if len(f.balancers) != 0 {
		t.Errorf("%d load balancers are remembered of which nothing is heard, want none", len(f.balancers))
	}
}

func TestMachineThatRebootsCountsOn(t *testing.T) {
	f := newFigures()
	l := cloud.Load{Machine: "7", CPUs: 2, Since: noon.Add(-time.Hour), Taken: noon, User: 1000 * time.Second, Public: cloud.Traffic{In: 1e9}}
	f.measure([]cloud.Load{l}, 0)
	for i := range 40 {
		l.Taken = l.Taken.Add(15 * time.Second)
		l.User, l.System, l.Public.In = l.User+15*time.Second, l.System+3*time.Second, l.Public.In+15e6
		if i == 20 {
			l.Since = l.Taken.Add(-15 * time.Second)
			l.User, l.System, l.Public.In = 15*time.Second, 3*time.Second, 15e6
		}
		f.measure([]cloud.Load{l, {Machine: "8", Since: noon, Taken: l.Taken}}, 0)
	}
	w := f.machines["7"].window
	var steps int
	for s := range w.Steps(noon.Add(-2*time.Hour), l.Taken) {
		steps++
		if in := s.Rate(ofPublicIn); math.Abs(in-1e6) > 1 {
			t.Errorf("%v bytes a second at %v, want a million also over the reboot, and nothing of what was before", in, s.At)
		}
		if user, want := s.Total(ofUser), 1000+s.At.Sub(noon).Seconds(); math.Abs(user-want) > 0.01 {
			t.Errorf("%v s of CPU at %v, want %v", user, s.At, want)
		}
		if idle := s.Rate(ofNoWork); math.Abs(idle-0.8) > 0.001 {
			t.Errorf("%v CPUs idle, want 0.8 of two", idle)
		}
	}
	if steps < 2 {
		t.Errorf("%d steps, want those of ten minutes", steps)
	}
}
