package metrics_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"weir/metrics"
	"weir/weir"
)

// region tells what it has.
type region struct {
	traffic []weir.Traffic
	err     error
}

func (r *region) Traffic(context.Context) ([]weir.Traffic, error) { return r.traffic, r.err }
func (r *region) Work() []weir.Work {
	return []weir.Work{{Kind: "lb", Waiting: 3, Running: 1, Runs: 40, Failures: 2}}
}

func read(t *testing.T, m http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetricsTellWhatTheRegionTells(t *testing.T) {
	r := &region{traffic: []weir.Traffic{{LoadBalancer: "4de7", Name: `the "shop"`, Requests: 10, Responses: [6]float64{1: 8, 4: 2},
		HTTPBytes: 5000, TCPBytes: 70, TLS: 3, Connections: 4, Queue: 2, Servers: 3, ServersUp: 2,
		Answered: durations(3*time.Millisecond, 3*time.Millisecond, 100*time.Millisecond)}}}
	m := metrics.New(r, slog.New(slog.DiscardHandler))
	m.Answered("GET /v2/droplets/{id}", 200, 3*time.Millisecond)
	m.Answered("GET /v2/droplets/{id}", 404, 3*time.Millisecond)
	text := read(t, m)
	for _, want := range []string{
		`weir_load_balancer_requests_total{id="4de7",name="the \"shop\""} 10`,
		`weir_load_balancer_responses_total{code="2xx",id="4de7",name="the \"shop\""} 8`,
		`weir_load_balancer_responses_total{code="5xx",id="4de7",name="the \"shop\""} 2`,
		`weir_load_balancer_bytes_total{id="4de7",name="the \"shop\"",protocol="http"} 5000`,
		`weir_load_balancer_bytes_total{id="4de7",name="the \"shop\"",protocol="tcp"} 70`,
		`weir_load_balancer_tls_handshakes_total{id="4de7",name="the \"shop\""} 3`,
		`weir_load_balancer_connections{id="4de7",name="the \"shop\""} 4`,
		`weir_load_balancer_queue{id="4de7",name="the \"shop\""} 2`,
		`weir_load_balancer_servers{id="4de7",name="the \"shop\"",state="up"} 2`,
		`weir_load_balancer_servers{id="4de7",name="the \"shop\"",state="down"} 1`,
		`weir_controller_waiting{kind="lb"} 3`,
		`weir_controller_running{kind="lb"} 1`,
		`weir_controller_runs_total{kind="lb"} 40`,
		`weir_controller_failures_total{kind="lb"} 2`,
		`weir_api_requests_total{code="200",route="GET /v2/droplets/{id}"} 1`,
		`weir_api_requests_total{code="404",route="GET /v2/droplets/{id}"} 1`,
		`weir_api_request_seconds_bucket{route="GET /v2/droplets/{id}",le="0.0025"} 0`,
		`weir_api_request_seconds_bucket{route="GET /v2/droplets/{id}",le="0.005"} 2`,
		`weir_load_balancer_response_seconds_bucket{id="4de7",name="the \"shop\"",le="0.002"} 0`,
		`weir_load_balancer_response_seconds_bucket{id="4de7",name="the \"shop\"",le="0.004"} 2`,
		`weir_load_balancer_response_seconds_bucket{id="4de7",name="the \"shop\"",le="+Inf"} 3`,
		`weir_load_balancer_response_seconds_sum{id="4de7",name="the \"shop\""} 0.106`,
		`weir_load_balancer_response_seconds_count{id="4de7",name="the \"shop\""} 3`,
		`go_goroutines `,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "weir_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// durations counts times as an access log does.
func durations(all ...time.Duration) (t weir.TrafficDurations) {
	var d weir.Durations
	for _, took := range all {
		d.Add(took)
	}
	for _, n := range d.Counts {
		t.Counts = append(t.Counts, float64(n))
	}
	t.Seconds = d.Sum.Seconds()
	return t
}

func TestMetricsTellTheRestWhileTheStoreIsAway(t *testing.T) {
	m := metrics.New(&region{err: weir.Errorf(weir.Unavailable, "most members are away")}, slog.New(slog.DiscardHandler))
	text := read(t, m)
	if !strings.Contains(text, `weir_controller_waiting{kind="lb"} 3`) || strings.Contains(text, "weir_load_balancer_") {
		t.Errorf("want controllers and no load balancers:\n%s", text)
	}
}
