package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/godo"
	series "github.com/digitalocean/godo/metrics"

	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/edge"
	"weir/metrics"
	"weir/store"
	"weir/weir"
)

// bubble is a region in a bubble of time, which has no network: godo speaks to the handler.
type bubble struct {
	*region
	handler   http.Handler
	instances []weir.ID
	began     time.Time
}

// users are one of the first team, and one of another.
type users struct{}

func (users) Authorize(_ context.Context, given string) (c weir.Caller, err error) {
	switch given {
	case token:
		return c, nil
	case "tenant":
		return weir.Caller{Team: "tenants"}, nil
	}
	return c, weir.Errorf(weir.Denied, "the token is not known")
}

func (users) Lacks(c weir.Caller, route string) weir.Scope {
	if need, _ := edge.Need(route); need == weir.ScopeAdmin && c.Team != "" {
		return need
	}
	return ""
}

func (b *bubble) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	r.Header.Set("Authorization", "Bearer "+token)
	r.RemoteAddr = "192.0.2.1:1000"
	if r.Body == nil {
		r.Body = http.NoBody
	}
	b.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// inBubble runs a test in a region with two droplets.
func inBubble(t *testing.T, test func(b *bubble, droplets []godo.Droplet)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{region: &region{t: t, cloud: cloud.NewFake(cloud.FakeOptions{})}}
		b.control = control.New(control.Options{Region: "lab", Store: store.Memory(), Cloud: b.cloud, Poll: 10 * time.Second, Drain: time.Millisecond})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { b.control.Run(ctx) })
		defer func() {
			cancel()
			wg.Wait()
			b.control.Store.Close()
		}()
		b.handler = contract(t, api.New(api.Options{Control: b.control, Users: users{}, Metrics: metrics.New(b.control, slog.New(slog.DiscardHandler))}))
		do, err := godo.New(&http.Client{Transport: b}, godo.SetBaseURL("http://weir.example/"))
		if err != nil {
			t.Fatal(err)
		}
		b.do = do
		droplets, _, err := do.Droplets.CreateMultiple(ctx, &godo.DropletMultiCreateRequest{Names: []string{"web-1", "web-2"}, Region: "lab",
			Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, Tags: []string{"web"}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		test(b, droplets)
	})
}

// balance makes a load balancer with two instances for the droplets.
func (b *bubble) balance() *godo.LoadBalancer {
	b.t.Helper()
	t, ctx := b.t, b.t.Context()
	lb, _, err := b.do.LoadBalancers.Create(ctx, &godo.LoadBalancerRequest{Name: "shop", Region: "lab", Tag: "web",
		ForwardingRules: []godo.ForwardingRule{
			{EntryProtocol: "http", EntryPort: 80, TargetProtocol: "http", TargetPort: 80},
			{EntryProtocol: "tcp", EntryPort: 81, TargetProtocol: "tcp", TargetPort: 81}}})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
	all, err := b.control.Machines(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.LoadBalancer != "" {
			b.instances = append(b.instances, m.ID)
		}
	}
	if len(b.instances) != 2 {
		t.Fatalf("%d instances, want two", len(b.instances))
	}
	b.began = time.Now()
	return lb
}

// haproxy is what one instance has counted, as its agent tells it.
type haproxy struct {
	pid, requests int64 // each tenth one is of 4xx, each other tenth one of 5xx
	ended         []weir.WorkerCounts
	cpu           time.Duration
	down          int64 // of the second server
}

func (h *haproxy) worker() weir.WorkerCounts {
	n := h.requests
	responses := weir.Responses{1: n - 2*(n/10), 3: n / 10, 4: n / 10}
	return weir.WorkerCounts{PID: int(h.pid), CPU: h.cpu,
		Frontends: []weir.FrontendCounts{
			{Name: "http-80", Mode: weir.HTTP, Sessions: 3, Requests: n, Responses: responses, In: 100 * n, Out: 400 * n},
			{Name: "tcp-81", Mode: weir.TCP, Sessions: 2, In: 7 * n, Out: 3 * n}},
		Backends: []weir.BackendCounts{
			{Name: "servers-http-80", Mode: weir.HTTP, Queue: 2, Responses: responses, Response: 20 * time.Millisecond, Session: 50 * time.Millisecond},
			{Name: "servers-tcp-81", Mode: weir.TCP}}}
}

// reload replaces the worker.
func (h *haproxy) reload() {
	w := h.worker()
	w.Ended, w.Frontends[0].Sessions, w.Frontends[1].Sessions, w.Backends[0].Queue = true, 0, 0, 0
	h.ended = []weir.WorkerCounts{w}
	h.pid++
	h.requests, h.cpu = 0, 0
}

func (b *bubble) report(node weir.ID, h *haproxy) {
	b.t.Helper()
	config, err := b.control.NodeConfig(b.t.Context(), node, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	s := weir.NodeStatus{Node: node, Revision: config.Revision, Agent: "test", HAProxy: weir.HAProxyStatus{Version: "2.6.12", PID: int(h.pid),
		Counts: &weir.Counts{Taken: time.Now(), Limit: 5000, Threads: 2, Workers: append([]weir.WorkerCounts{h.worker()}, h.ended...)}}}
	for _, backend := range config.Proxy.Backends {
		for i, server := range backend.Servers {
			is := weir.ServerStatus{Backend: backend.Name, ID: server.ID, State: weir.ServerUp, Sessions: 4}
			if i == 1 && h.down > 0 {
				is.State, is.Down, is.Sessions = weir.ServerDown, h.down, 0
			}
			s.Servers = append(s.Servers, is)
		}
	}
	if _, err := b.control.Report(b.t.Context(), s); err != nil {
		b.t.Fatal(err)
	}
}

// lives lets time pass in which the first instance has ten requests a second, and uses a quarter of a
// core; the other one stands by.
func (b *bubble) lives(d time.Duration, active, standby *haproxy) {
	for range int(d / (5 * time.Second)) {
		time.Sleep(5 * time.Second)
		active.requests += 50
		active.cpu += 1250 * time.Millisecond
		if active.down > 0 {
			active.down, standby.down = active.down+5, standby.down+5
		}
		b.report(b.instances[0], active)
		b.report(b.instances[1], standby)
	}
}

// balancerMetrics are godo's calls, by DigitalOcean's name of the figure.
func balancerMetrics(m godo.MonitoringService) map[string]func(context.Context, *godo.LoadBalancerMetricsRequest) (*godo.MetricsResponse, *godo.Response, error) {
	return map[string]func(context.Context, *godo.LoadBalancerMetricsRequest) (*godo.MetricsResponse, *godo.Response, error){
		"frontend_http_requests_per_second":             m.GetLoadBalancerFrontendHttpRequestsPerSecond,
		"frontend_connections_current":                  m.GetLoadBalancerFrontendConnectionsCurrent,
		"frontend_connections_limit":                    m.GetLoadBalancerFrontendConnectionsLimit,
		"frontend_cpu_utilization":                      m.GetLoadBalancerFrontendCpuUtilization,
		"frontend_network_throughput_http":              m.GetLoadBalancerFrontendNetworkThroughputHttp,
		"frontend_network_throughput_udp":               m.GetLoadBalancerFrontendNetworkThroughputUdp,
		"frontend_network_throughput_tcp":               m.GetLoadBalancerFrontendNetworkThroughputTcp,
		"frontend_nlb_tcp_network_throughput":           m.GetLoadBalancerFrontendNlbTcpNetworkThroughput,
		"frontend_nlb_udp_network_throughput":           m.GetLoadBalancerFrontendNlbUdpNetworkThroughput,
		"frontend_firewall_dropped_bytes":               m.GetLoadBalancerFrontendFirewallDroppedBytes,
		"frontend_firewall_dropped_packets":             m.GetLoadBalancerFrontendFirewallDroppedPackets,
		"frontend_http_responses":                       m.GetLoadBalancerFrontendHttpResponses,
		"frontend_tls_connections_current":              m.GetLoadBalancerFrontendTlsConnectionsCurrent,
		"frontend_tls_connections_limit":                m.GetLoadBalancerFrontendTlsConnectionsLimit,
		"frontend_tls_connections_exceeding_rate_limit": m.GetLoadBalancerFrontendTlsConnectionsExceedingRateLimit,
		"droplets_http_session_duration_avg":            m.GetLoadBalancerDropletsHttpSessionDurationAvg,
		"droplets_http_session_duration_50p":            m.GetLoadBalancerDropletsHttpSessionDuration50P,
		"droplets_http_session_duration_95p":            m.GetLoadBalancerDropletsHttpSessionDuration95P,
		"droplets_http_response_time_avg":               m.GetLoadBalancerDropletsHttpResponseTimeAvg,
		"droplets_http_response_time_50p":               m.GetLoadBalancerDropletsHttpResponseTime50P,
		"droplets_http_response_time_95p":               m.GetLoadBalancerDropletsHttpResponseTime95P,
		"droplets_http_response_time_99p":               m.GetLoadBalancerDropletsHttpResponseTime99P,
		"droplets_queue_size":                           m.GetLoadBalancerDropletsQueueSize,
		"droplets_http_responses":                       m.GetLoadBalancerDropletsHttpResponses,
		"droplets_connections":                          m.GetLoadBalancerDropletsConnections,
		"droplets_health_checks":                        m.GetLoadBalancerDropletsHealthChecks,
		"droplets_downtime":                             m.GetLoadBalancerDropletsDowntime,
	}
}

// checked returns an answer's series, each by the labels that tell it from the others, after a look at its shape.
func checked(t *testing.T, name string, answer *godo.MetricsResponse, err error, common map[string]string) map[string][]series.SamplePair {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if answer.Status != "success" || answer.Data.ResultType != "matrix" || answer.Data.Result == nil {
		t.Errorf("%s: %+v, want a matrix", name, answer)
	}
	all := map[string][]series.SamplePair{}
	for _, s := range answer.Data.Result {
		var own []string
		for k, v := range s.Metric {
			if _, is := common[string(k)]; !is {
				own = append(own, string(v))
			} else if common[string(k)] != string(v) {
				t.Errorf("%s: label %s is %s, want %s", name, k, v, common[string(k)])
			}
		}
		if len(s.Metric) != len(common)+len(own) || len(s.Values) == 0 {
			t.Errorf("%s: labels %v with %d values, want %v and some values", name, s.Metric, len(s.Values), common)
		}
		slices.Sort(own)
		all[strings.Join(own, " ")] = s.Values
	}
	return all
}

func TestFiguresOfALoadBalancerAreWhatItsHAProxiesCounted(t *testing.T) {
	inBubble(t, func(b *bubble, _ []godo.Droplet) {
		lb := b.balance()
		active, standby := &haproxy{pid: 7}, &haproxy{pid: 9}
		b.lives(15*time.Minute, active, standby)
		active.reload()
		b.lives(3*time.Minute, active, standby)
		active.down, standby.down = 1, 1
		b.lives(5*time.Minute, active, standby)

		want := map[string]map[string]float64{
			"frontend_http_requests_per_second":  {"": 10},
			"frontend_connections_current":       {"": 10},
			"frontend_connections_limit":         {"": 5000},
			"frontend_cpu_utilization":           {"": 12.5},
			"frontend_network_throughput_http":   {"": 5000},
			"frontend_network_throughput_tcp":    {"": 100},
			"frontend_tls_connections_current":   {"": 0},
			"frontend_http_responses":            {"2xx": 8, "4xx": 1, "5xx": 1},
			"droplets_http_responses":            {"2xx": 8, "4xx": 1, "5xx": 1},
			"droplets_http_response_time_avg":    {"": 0.02},
			"droplets_http_session_duration_avg": {"": 0.05},
			"droplets_queue_size":                {"": 4},
			"droplets_connections":               {"web-1": 16, "web-2": 0},
			"droplets_health_checks":             {"web-1": 100, "web-2": 0},
			"droplets_downtime":                  {"web-1": 0, "web-2": 301},
		}
		calls := balancerMetrics(b.do.Monitoring)
		common := map[string]string{"lb_id": lb.ID, "region": "lab"}
		for name, call := range calls {
			answer, _, err := call(b.t.Context(), &godo.LoadBalancerMetricsRequest{LoadBalancerID: lb.ID, Start: time.Now().Add(-10 * time.Minute), End: time.Now()})
			got := checked(t, name, answer, err, common)
			if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want[name]))) {
				t.Errorf("%s: series %v, want %v", name, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want[name])))
			}
			for series, values := range got {
				last := values[len(values)-1]
				near := 0.001
				if name == "droplets_downtime" {
					near = 120 // of the last step of two minutes that is over
				}
				if diff := float64(last.Value) - want[name][series]; diff > near || diff < -near {
					t.Errorf("%s %s: %v at last, want %v", name, series, last.Value, want[name][series])
				}
				every := values[1].Timestamp - values[0].Timestamp
				if server := strings.HasPrefix(series, "web-"); server && every != 120_000 || !server && every != 15_000 {
					t.Errorf("%s %s: a step is %v, want 15 s, of servers 2 min", name, series, every)
				}
				if name == "frontend_http_requests_per_second" {
					for _, v := range values {
						if v.Value < 9.999 || v.Value > 10.001 {
							t.Errorf("%s: %v at %v, want 10 also over the reload", name, v.Value, v.Timestamp)
						}
					}
				}
			}
		}

		// The last hours have longer steps, and the time before there was anything has none.
		answer, _, err := calls["frontend_http_requests_per_second"](b.t.Context(), &godo.LoadBalancerMetricsRequest{LoadBalancerID: lb.ID, Start: b.began.Add(-time.Hour), End: time.Now()})
		values := checked(t, "requests", answer, err, common)[""]
		if n := len(values); n < 10 || n > 12 || values[1].Timestamp-values[0].Timestamp != 120_000 {
			t.Errorf("%d values of the last hour: %v, want one each 2 min of the 23 min that there were", n, values)
		}
		answer, _, err = calls["frontend_http_requests_per_second"](b.t.Context(), &godo.LoadBalancerMetricsRequest{LoadBalancerID: lb.ID, Start: b.began.Add(-2 * time.Hour), End: b.began.Add(-time.Hour)})
		if got := checked(t, "requests", answer, err, common); len(got) != 0 {
			t.Errorf("%v an hour before there was a load balancer", got)
		}
	})
}

func TestFiguresOfALoadBalancerWithoutTrafficAreEmpty(t *testing.T) {
	inBubble(t, func(b *bubble, _ []godo.Droplet) {
		lb := b.balance()
		for name, call := range balancerMetrics(b.do.Monitoring) {
			answer, _, err := call(b.t.Context(), &godo.LoadBalancerMetricsRequest{LoadBalancerID: lb.ID, Start: b.began, End: time.Now()})
			if got := checked(t, name, answer, err, nil); len(got) != 0 {
				t.Errorf("%s: %v of a load balancer nobody has reported on", name, got)
			}
		}
		idle := &haproxy{pid: 7}
		for range 60 {
			time.Sleep(5 * time.Second)
			b.report(b.instances[0], idle)
			b.report(b.instances[1], idle)
		}
		for name, want := range map[string]int{"frontend_http_requests_per_second": 1, "frontend_http_responses": 0, "droplets_http_response_time_avg": 0, "frontend_cpu_utilization": 1} {
			answer, _, err := balancerMetrics(b.do.Monitoring)[name](b.t.Context(), &godo.LoadBalancerMetricsRequest{LoadBalancerID: lb.ID, Start: b.began, End: time.Now()})
			got := checked(t, name, answer, err, map[string]string{"lb_id": lb.ID, "region": "lab"})
			if len(got) != want || want == 1 && got[""][0].Value != 0 {
				t.Errorf("%s: %v without a request, want %d series, of 0", name, got, want)
			}
		}
	})
}

func TestWhatAnInstanceCountedBeforeItWasHeardIsNotOfNow(t *testing.T) {
	inBubble(t, func(b *bubble, _ []godo.Droplet) {
		lb := b.balance()
		h := &haproxy{pid: 7, requests: 1_000_000}
		b.lives(2*time.Minute, h, &haproxy{pid: 9})
		// Its agent starts anew, and knows no more of workers that have ended.
		h.reload()
		b.lives(time.Minute, h, &haproxy{pid: 9})
		h.ended = nil
		b.lives(time.Minute, h, &haproxy{pid: 9})
		answer, _, err := b.do.Monitoring.GetLoadBalancerFrontendHttpRequestsPerSecond(b.t.Context(), &godo.LoadBalancerMetricsRequest{LoadBalancerID: lb.ID, Start: b.began, End: time.Now()})
		values := checked(t, "requests", answer, err, map[string]string{"lb_id": lb.ID, "region": "lab"})[""]
		if len(values) < 10 {
			t.Errorf("%d values of 4 min", len(values))
		}
		for _, v := range values {
			if v.Value < 9.999 || v.Value > 10.001 {
				t.Errorf("%v requests a second at %v, want 10", v.Value, v.Timestamp)
			}
		}
	})
}

func TestFiguresOfADropletAreWhatItsCloudTells(t *testing.T) {
	inBubble(t, func(b *bubble, droplets []godo.Droplet) {
		id := strconv.Itoa(droplets[0].ID)
		const gb = 1 << 30
		for range 20 * 60 {
			time.Sleep(time.Second)
			b.cloud.Work(weir.ID(id), func(l *cloud.Load) {
				l.User += 300 * time.Millisecond
				l.System += 100 * time.Millisecond
				l.Public.In += 125_000 // a megabit a second
				l.Public.Out += 250_000
				l.Private.In += 12_500
				l.Memory.Free, l.Memory.Available, l.Memory.Cached = gb/4, gb/2, gb/8
				l.Disk.Free = 7 * gb
			})
		}
		m := b.do.Monitoring
		r := godo.DropletMetricsRequest{HostID: id, Start: time.Now().Add(-10 * time.Minute), End: time.Now()}
		file := map[string]string{"host_id": id, "device": "/dev/vda1", "fstype": "ext4", "mountpoint": "/"}
		host := map[string]string{"host_id": id}
		for name, c := range map[string]struct {
			ask    func(context.Context, *godo.DropletMetricsRequest) (*godo.MetricsResponse, *godo.Response, error)
			common map[string]string
			want   float64
		}{
			"memory_available": {m.GetDropletAvailableMemory, host, gb / 2},
			"memory_free":      {m.GetDropletFreeMemory, host, gb / 4},
			"memory_cached":    {m.GetDropletCachedMemory, host, gb / 8},
			"memory_total":     {m.GetDropletTotalMemory, host, gb},
			"filesystem_size":  {m.GetDropletFilesystemSize, file, 25 * gb},
			"filesystem_free":  {m.GetDropletFilesystemFree, file, 7 * gb},
		} {
			answer, _, err := c.ask(b.t.Context(), &r)
			got := checked(t, name, answer, err, c.common)
			if len(got) != 1 || len(got[""]) < 8 {
				t.Errorf("%s: %v, want one series of 10 min", name, got)
				continue
			}
			for _, v := range got[""] {
				if float64(v.Value) != c.want {
					t.Errorf("%s: %v, want %v", name, v.Value, c.want)
				}
			}
		}
		for _, link := range []struct {
			name, direction string
			want            float64
		}{{"public", "inbound", 1}, {"public", "outbound", 2}, {"private", "inbound", 0.1}, {"private", "outbound", 0}} {
			answer, _, err := m.GetDropletBandwidth(b.t.Context(), &godo.DropletBandwidthMetricsRequest{DropletMetricsRequest: r, Interface: link.name, Direction: link.direction})
			got := checked(t, "bandwidth", answer, err, map[string]string{"host_id": id, "interface": link.name, "direction": link.direction})
			for _, v := range got[""] {
				// What it did in a second may be seen before or after the second's end.
				if diff := float64(v.Value) - link.want; diff < -0.02*link.want || diff > 0.02*link.want {
					t.Errorf("bandwidth %s %s: %v, want %v", link.name, link.direction, v.Value, link.want)
				}
			}
			if len(got) != 1 {
				t.Errorf("bandwidth %s %s: %v, want one series", link.name, link.direction, got)
			}
		}
		answer, _, err := m.GetDropletCPU(b.t.Context(), &r)
		got := checked(t, "cpu", answer, err, host)
		for mode, want := range map[string]float64{"user": 0.3, "system": 0.1, "idle": 0.6} {
			values := got[mode]
			if len(values) < 8 {
				t.Fatalf("cpu %s: %v, want values of 10 min", mode, values)
			}
			first, last := values[0], values[len(values)-1]
			seconds := float64(last.Timestamp-first.Timestamp) / 1000
			if r := float64(last.Value-first.Value) / seconds; r < want-0.02 || r > want+0.02 {
				t.Errorf("cpu %s: %v to %v in %v s, want %v of each second", mode, first.Value, last.Value, seconds, want)
			}
		}
		for name, ask := range map[string]func(context.Context, *godo.DropletMetricsRequest) (*godo.MetricsResponse, *godo.Response, error){
			"load_1": m.GetDropletLoad1, "load_5": m.GetDropletLoad5, "load_15": m.GetDropletLoad15} {
			answer, _, err := ask(b.t.Context(), &r)
			if got := checked(t, name, answer, err, host); len(got) != 0 {
				t.Errorf("%s: %v, want none: it is not known", name, got)
			}
		}
	})
}

func TestFiguresAreRefusedWithASentence(t *testing.T) {
	r := lab(t)
	made := r.droplets([]string{"web-1"})
	id := strconv.Itoa(made[0].ID)
	const at = "/v2/monitoring/metrics/"
	for path, want := range map[string]string{
		at + "load_balancer/droplets_downtime?start=1&end=2":                                            "422 lb_id is missing, want the ID of a load balancer",
		at + "load_balancer/droplets_downtime?lb_id=4de7ac8b-495b-4884-9a69-1050c6793cd6&start=1":       "422 end is missing, want a time in seconds since 1970",
		at + "load_balancer/droplets_downtime?lb_id=x&start=yesterday&end=2":                            `422 start is "yesterday", want a time in seconds since 1970`,
		at + "load_balancer/droplets_downtime?lb_id=x&start=-1&end=2":                                   `422 start is "-1", want a time in seconds since 1970`,
		at + "load_balancer/droplets_downtime?lb_id=x&start=3&end=2":                                    "422 end is 2 and start is 3, want an end that is not before the start",
		at + "load_balancer/droplets_downtime?lb_id=4de7ac8b-495b-4884-9a69-1050c6793cd6&start=1&end=2": "404",
		at + "load_balancer/droplets_downtime?lb_id=../1&start=1&end=2":                                 "404",
		at + "load_balancer/frontend_coffee?lb_id=x&start=1&end=2":                                      "404",
		at + "droplet/cpu?start=1&end=2":                                                                "422 host_id is missing, want the ID of a droplet",
		at + "droplet/cpu?host_id=99&start=1&end=2":                                                     "404",
		at + "droplet/cpu?host_id=web-1&start=1&end=2":                                                  "404",
		at + "droplet/coffee?host_id=" + id + "&start=1&end=2":                                          "404",
		at + "droplet/bandwidth?host_id=" + id + "&start=1&end=2&interface=eth0&direction=inbound":      `422 interface is "eth0", want public or private`,
		at + "droplet/bandwidth?host_id=" + id + "&start=1&end=2&interface=public":                      `422 direction is "", want inbound or outbound`,
		at + "droplet/cpu?host_id=" + id + "&start=1&end=4294967295":                                    "200",
		at + "apps/cpu_percentage?app_id=x&start=1&end=2":                                               "404",
	} {
		a := r.ask(http.MethodGet, path, "")
		got := strconv.Itoa(a.status)
		if a.status == http.StatusUnprocessableEntity {
			got += " " + fmt.Sprint(a.body["message"])
		}
		if got != want {
			t.Errorf("GET %s: %s, want %s", path, got, want)
		}
	}
}

func TestThereAreNoAlertPolicies(t *testing.T) {
	r := lab(t)
	m, ctx := r.do.Monitoring, t.Context()
	all, resp, err := m.ListAlertPolicies(ctx, nil)
	if err != nil || len(all) != 0 || resp.Meta == nil || resp.Meta.Total != 0 {
		t.Errorf("%v, %+v, %v, want none and a total of 0", all, resp.Meta, err)
	}
	if a := r.ask(http.MethodGet, "/v2/monitoring/alerts", ""); !reflect.DeepEqual(a.body["policies"], []any{}) {
		t.Errorf("policies are %v, want an empty list", a.body["policies"])
	}
	_, _, err = m.CreateAlertPolicy(ctx, &godo.AlertPolicyCreateRequest{Type: godo.DropletCPUUtilizationPercent, Description: "busy", Compare: godo.GreaterThan, Value: 80, Window: "5m"})
	if status, text := refusal(err); status != http.StatusUnprocessableEntity || !strings.Contains(text, "have a Prometheus read /metrics") {
		t.Errorf("create: %d %q, want 422 with what to do instead", status, text)
	}
	_, _, get := m.GetAlertPolicy(ctx, "78b3da62-27e5-49ba-ac70-5db0b5935c64")
	_, _, update := m.UpdateAlertPolicy(ctx, "78b3da62-27e5-49ba-ac70-5db0b5935c64", &godo.AlertPolicyUpdateRequest{})
	_, remove := m.DeleteAlertPolicy(ctx, "78b3da62-27e5-49ba-ac70-5db0b5935c64")
	for what, err := range map[string]error{"get": get, "update": update, "delete": remove} {
		if status, _ := refusal(err); status != http.StatusNotFound {
			t.Errorf("%s: %v, want 404", what, err)
		}
	}
}

func TestMetricsTellWhatTheFiguresTell(t *testing.T) {
	inBubble(t, func(b *bubble, _ []godo.Droplet) {
		lb := b.balance()
		active, standby := &haproxy{pid: 7}, &haproxy{pid: 9}
		b.lives(time.Minute, active, standby)
		active.reload()
		b.lives(time.Minute, active, standby)
		text := b.metrics("127.0.0.1:1000", "localhost", "").Body.String()
		of := fmt.Sprintf("{id=%q,name=%q", lb.ID, lb.Name)
		for _, want := range []string{
			"weir_load_balancer_requests_total" + of + "} 1150\n", // without the first report
			"weir_load_balancer_connections" + of + "} 10\n",
			"weir_load_balancer_servers" + of + `,state="up"} 2` + "\n",
			`weir_api_requests_total{code="202",route="POST /v2/load_balancers"} 1` + "\n",
			`weir_controller_failures_total{kind="lb"} 0` + "\n",
		} {
			if !strings.Contains(text, "\n"+want) {
				t.Errorf("there is no %s in\n%s", want, text)
			}
		}
	})
}

// metrics asks for the metrics.
func (b *bubble) metrics(from, host, token string) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.RemoteAddr, r.Host = from, host
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	b.handler.ServeHTTP(w, r)
	return w
}

func TestMetricsAreForOperators(t *testing.T) {
	inBubble(t, func(b *bubble, _ []godo.Droplet) {
		for _, c := range []struct {
			from, host, token string
			want              int
		}{
			{"127.0.0.1:1000", "localhost:7070", "", 200},
			{"127.0.0.1:1000", "evil.example", "", 401},
			{"192.0.2.1:1000", "weir.example", "", 401},
			{"192.0.2.1:1000", "localhost", "", 401},
			{"192.0.2.1:1000", "weir.example", token, 200},
			{"192.0.2.1:1000", "weir.example", "guess", 401},
			{"192.0.2.1:1000", "weir.example", "tenant", 403},
		} {
			if w := b.metrics(c.from, c.host, c.token); w.Code != c.want {
				t.Errorf("from %s for %s with token %q: %d %s, want %d", c.from, c.host, c.token, w.Code, w.Body, c.want)
			}
		}
	})
}
