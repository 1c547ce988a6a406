// Package metrics is Weir's door for Prometheus: what a member of the control plane counts, and
// what goes through its load balancers, as text.
//
// [New] returns the handler. It also has what Go and etcd, which is in the same process where a
// member keeps its own store, count of themselves. All members hear of all load
// balancers: whoever reads several of them takes the figures of one. Who may read is the
// business of whoever serves it.
package metrics

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weir/weir"
)

// Region says what there is to tell. Package control has one.
type Region interface {
	// Traffic returns what has gone through all load balancers.
	Traffic(ctx context.Context) ([]weir.Traffic, error)
	// Work returns what the controllers do, nothing if this member does not lead.
	Work() []weir.Work
}

// patience is how long a reader waits for the store.
const patience = 5 * time.Second

// Metrics answers Prometheus.
type Metrics struct {
	http.Handler
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
}

// New returns the metrics of a region.
func New(region Region, log *slog.Logger) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_api_requests_total",
			Help: "Requests that the API has answered."}, []string{"route", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "weir_api_request_seconds",
			Help: "How long the API took to answer.", Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}}, []string{"route"}),
	}
	own := prometheus.NewRegistry()
	own.MustRegister(m.requests, m.took, &collector{region})
	m.Handler = promhttp.HandlerFor(prometheus.Gatherers{own, prometheus.DefaultGatherer},
		promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError})
	return m
}

// Answered tells of one answer of the API. A route is a pattern, of which there are few.
func (m *Metrics) Answered(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.took.WithLabelValues(route).Observe(took.Seconds())
}

// collector asks the region each time that somebody reads.
type collector struct{ region Region }

func balancer(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("weir_load_balancer_"+name, help, append([]string{"id", "name"}, labels...), nil)
}

func controller(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("weir_controller_"+name, help, []string{"kind"}, nil)
}

var (
	requests    = balancer("requests_total", "HTTP requests of clients.")
	responses   = balancer("responses_total", "HTTP responses to clients.", "code")
	bytes       = balancer("bytes_total", "Bytes from and to clients.", "protocol")
	handshakes  = balancer("tls_handshakes_total", "TLS connections of clients.")
	connections = balancer("connections", "Clients that are connected.")
	queue       = balancer("queue", "Requests that wait for a server.")
	servers     = balancer("servers", "Servers that get requests (up), and those that do not.", "state")

	answered = balancer("response_seconds", "How long servers took to begin to answer, of the requests in the access log.")
	ended    = balancer("request_seconds", "How long requests took from their first byte to the last of their answer, of those in the access log.")

	waiting  = controller("waiting", "Things that are to be looked at, some of them later.")
	running  = controller("running", "Things that are being looked at.")
	runs     = controller("runs_total", "How often a thing was looked at, since this member leads.")
	failures = controller("failures_total", "How often that failed.")
)

// Describe keeps the promise of prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requests, responses, bytes, handshakes, connections, queue, servers, answered, ended, waiting, running, runs, failures} {
		to <- d
	}
}

// Collect keeps the promise of prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	for _, w := range c.region.Work() {
		tell(waiting, gauge, float64(w.Waiting), w.Kind)
		tell(running, gauge, float64(w.Running), w.Kind)
		tell(runs, counter, float64(w.Runs), w.Kind)
		tell(failures, counter, float64(w.Failures), w.Kind)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all, err := c.region.Traffic(ctx)
	if err != nil {
		to <- prometheus.NewInvalidMetric(requests, err)
		return
	}
	for _, t := range all {
		id := string(t.LoadBalancer)
		tell(requests, counter, t.Requests, id, t.Name)
		for i, n := range t.Responses {
			tell(responses, counter, n, id, t.Name, weir.ResponseClasses[i])
		}
		tell(bytes, counter, t.HTTPBytes, id, t.Name, "http")
		tell(bytes, counter, t.TCPBytes, id, t.Name, "tcp")
		tell(handshakes, counter, t.TLS, id, t.Name)
		tell(connections, gauge, t.Connections, id, t.Name)
		tell(queue, gauge, t.Queue, id, t.Name)
		tell(servers, gauge, float64(t.ServersUp), id, t.Name, "up")
		tell(servers, gauge, float64(t.Servers-t.ServersUp), id, t.Name, "down")
		for _, h := range []struct {
			desc *prometheus.Desc
			of   weir.TrafficDurations
		}{{answered, t.Answered}, {ended, t.Ended}} {
			if h.of.Counts != nil {
				count, buckets := histogram(h.of.Counts)
				to <- prometheus.MustNewConstHistogram(h.desc, count, h.of.Seconds, buckets, id, t.Name)
			}
		}
	}
}

// histogram returns what is counted of times in larger steps, each about twice the one before, as Prometheus counts: what took no
// longer.
func histogram(counts []float64) (all uint64, buckets map[float64]uint64) {
	buckets = map[float64]uint64{}
	sum, last := 0.0, time.Duration(0)
	for i, n := range counts {
		sum += n
		if bound := weir.DurationBounds[i]; bound >= time.Millisecond && bound >= last*19/10 {
			buckets[bound.Seconds()] = uint64(math.Round(sum))
			last = bound
		}
	}
	return uint64(math.Round(sum)), buckets
}
