package control

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"weir/cloud"
	"weir/series"
	"weir/weir"
)

// figures are what this member has heard of traffic and load, in memory alone: nothing of it is stored,
// and a member that starts begins with none. Agents report to every member, and every member
// asks the cloud itself, so that each of them can answer.
//
// What it takes: of a load balancer 2 KiB, and 1 KiB for each of 25 figures that is not always
// 0, as about 15 are with HTTP; of each of its servers 1 KiB, and 0.7 KiB more if it has
// connections; of an access log 9 KiB, and 1 KiB for each of the times that there are, 30 perhaps; of a machine that the cloud
// tells the load of 7 KiB.
type figures struct {
	mu        sync.Mutex
	balancers map[weir.ID]*balancerFigures
	machines  map[weir.ID]*machineFigures
	told      map[weir.ID]*toldFigures // of machines that have an exporter
	every     time.Duration            // how far apart those of machines are; 0 if they are of when they were asked for
}

func newFigures() *figures {
	return &figures{balancers: map[weir.ID]*balancerFigures{}, machines: map[weir.ID]*machineFigures{}, told: map[weir.ID]*toldFigures{}}
}

// remembered is for how long figures are.
const remembered = 6 * time.Hour

// How long steps are. DigitalOcean's are of two minutes.
var (
	balancerSpans = []series.Span{{Every: 15 * time.Second, Count: 60}, {Every: 2 * time.Minute, Count: 180}}
	serverSpans   = []series.Span{{Every: 2 * time.Minute, Count: 180}}
	machineSpans  = []series.Span{{Every: time.Minute, Count: 30}, {Every: 5 * time.Minute, Count: 72}}
)

// The counters of a load balancer, and then its gauges.
const (
	ofRequests     = iota
	ofResponses                                              // one for each class
	ofAnswers      = ofResponses + len(weir.ResponseClasses) // of servers, likewise
	ofHTTPBytes    = ofAnswers + len(weir.ResponseClasses)
	ofTCPBytes     = ofHTTPBytes + 1
	ofTLS          = ofTCPBytes + 1
	ofResponseTime = ofTLS + 1          // seconds, of all servers' answers
	ofSessionTime  = ofResponseTime + 1 // likewise
	ofBusy         = ofSessionTime + 1  // CPU seconds of instances that clients came to
	ofBusyCores    = ofBusy + 1         // that they could have used
	ofIdle         = ofBusyCores + 1    // of the other instances
	ofIdleCores    = ofIdle + 1
	counters       = ofIdleCores + 1

	atConnections = counters
	atLimit       = atConnections + 1
	atQueue       = atLimit + 1
	gauges        = atQueue + 1 - counters
)

// The gauges of a server.
const (
	atSessions = iota
	atSick     // 1 if it is
	atDown     // for how many seconds
	serverGauges
)

// balancerFigures are those of one load balancer.
type balancerFigures struct {
	mu      sync.Mutex
	window  *series.Window
	nodes   map[weir.ID]*nodeFigures
	servers map[weir.ID]*serverFigures

	durations *series.Window // of the access log; nil if there never was one
}

// nodeFigures are what one instance said last.
type nodeFigures struct {
	heard   time.Time // by our clock
	taken   time.Time // by its own
	workers map[int]*workerFigures
	counts  *weir.Counts
	servers map[weir.ID]serverSaid

	durations series.Source // of the access log
}

// workerFigures follow what one worker of HAProxy counts.
type workerFigures struct {
	cpu                 series.Source
	frontends, backends map[string]*series.Source
}

// serverSaid is what an instance says of a server, of all backends that it is in.
type serverSaid struct {
	name     string
	sessions int
	sick     bool
	down     int64
}

// serverFigures are those of one server of a load balancer.
type serverFigures struct {
	name   string
	window *series.Window
}

// balancer returns the figures of a load balancer, nil if there are none and none are made.
func (f *figures) balancer(id weir.ID, create bool) *balancerFigures {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.balancers[id]
	if b == nil && create {
		b = &balancerFigures{window: series.New(counters, gauges, balancerSpans...), nodes: map[weir.ID]*nodeFigures{}, servers: map[weir.ID]*serverFigures{}}
		f.balancers[id] = b
	}
	return b
}

// stale is how long what an instance said last of the moment is taken for what is so: some reports.
const stale = 20 * time.Second

// hear takes in what a node reports. The first report of a node only tells from where its counters
// go on.
func (f *figures) hear(s *weir.NodeStatus, config *weir.NodeConfig) {
	if s.HAProxy.Counts == nil || s.LoadBalancer == "" {
		return
	}
	b := f.balancer(s.LoadBalancer, true)
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.nodes[s.Node]
	first := n == nil
	if first {
		n = &nodeFigures{workers: map[int]*workerFigures{}}
		b.nodes[s.Node] = n
	}
	counts := s.HAProxy.Counts
	if !first && (counts.Taken.Equal(n.taken) || !s.Seen.After(n.heard)) {
		return // something else was news
	}
	rose := n.rose(counts, s.Seen.Sub(n.heard))
	if !first {
		b.window.Known(n.heard, s.Seen)
		for i, by := range rose {
			b.window.Rise(i, n.heard, s.Seen, by)
		}
	}
	b.hearDurations(n, first, counts.Access, n.heard, s.Seen)
	n.heard, n.taken, n.counts, n.servers = s.Seen, counts.Taken, counts, serversSaid(s, config)
	b.note(s.Seen)
}

// rose returns by how much each counter of the load balancer rose by what a node has counted
// since the last time.
func (n *nodeFigures) rose(counts *weir.Counts, took time.Duration) (rose [counters]float64) {
	workers := make(map[int]*workerFigures, len(counts.Workers))
	served, busy := 0.0, 0.0
	for _, w := range counts.Workers {
		of := n.workers[w.PID]
		if of == nil {
			of = &workerFigures{frontends: map[string]*series.Source{}, backends: map[string]*series.Source{}}
		}
		workers[w.PID] = of
		busy += of.cpu.Rose(0, []float64{w.CPU.Seconds()})[0]
		for i := range w.Frontends {
			served += of.frontend(&w.Frontends[i], &rose)
		}
		for i := range w.Backends {
			of.backend(&w.Backends[i], &rose)
		}
	}
	n.workers = workers
	cores := float64(counts.Threads) * took.Seconds()
	if served > 0 {
		rose[ofBusy], rose[ofBusyCores] = busy, cores
	} else {
		rose[ofIdle], rose[ofIdleCores] = busy, cores
	}
	return rose
}

func source(of map[string]*series.Source, name string) *series.Source {
	if of[name] == nil {
		of[name] = new(series.Source)
	}
	return of[name]
}

// frontend adds what a frontend counted, and returns how many bytes that were.
func (w *workerFigures) frontend(f *weir.FrontendCounts, rose *[counters]float64) (bytes float64) {
	counted := []float64{float64(f.In + f.Out), float64(f.TLS), float64(f.Requests)}
	for _, n := range f.Responses {
		counted = append(counted, float64(n))
	}
	by := source(w.frontends, f.Name).Rose(0, counted)
	if f.Mode == weir.TCP {
		rose[ofTCPBytes] += by[0]
	} else {
		rose[ofHTTPBytes] += by[0]
	}
	rose[ofTLS] += by[1]
	rose[ofRequests] += by[2]
	for i := range f.Responses {
		rose[ofResponses+i] += by[3+i]
	}
	return by[0]
}

// backend adds what a backend counted. HAProxy has means of times alone: each stands for the answers
// since the last look.
func (w *workerFigures) backend(b *weir.BackendCounts, rose *[counters]float64) {
	var counted []float64
	for _, n := range b.Responses {
		counted = append(counted, float64(n))
	}
	answers := 0.0
	for i, by := range source(w.backends, b.Name).Rose(0, counted) {
		rose[ofAnswers+i] += by
		answers += by
	}
	rose[ofResponseTime] += answers * b.Response.Seconds()
	rose[ofSessionTime] += answers * b.Session.Seconds()
}

// serversSaid returns what a node says of its servers.
func serversSaid(s *weir.NodeStatus, config *weir.NodeConfig) map[weir.ID]serverSaid {
	all := map[weir.ID]serverSaid{}
	for _, b := range config.Proxy.Backends {
		for _, server := range b.Servers {
			all[server.ID] = serverSaid{name: server.Name}
		}
	}
	for _, server := range s.Servers {
		said, ok := all[server.ID]
		if !ok {
			continue // it leaves
		}
		said.sessions += server.Sessions
		said.sick = said.sick || server.State != weir.ServerUp
		said.down = max(said.down, server.Down)
		all[server.ID] = said
	}
	return all
}

// note notes what is so at this moment, by what all instances said last. A server is as well as
// the instance says that thinks best of it: another one may itself be cut off.
func (b *balancerFigures) note(now time.Time) {
	var sessions, queue, limit int64
	servers := map[weir.ID]serverSaid{}
	for _, n := range b.nodes {
		if now.Sub(n.heard) > stale {
			continue
		}
		sessions += n.counts.Sessions()
		limit = max(limit, n.counts.Limit)
		for _, w := range n.counts.Workers {
			for _, backend := range w.Backends {
				queue += backend.Queue
			}
		}
		for id, said := range n.servers {
			if other, ok := servers[id]; ok {
				said.sessions += other.sessions
				said.sick = said.sick && other.sick
				said.down = min(said.down, other.down)
			}
			servers[id] = said
		}
	}
	b.window.Set(atConnections, now, float64(sessions))
	b.window.Set(atLimit, now, float64(limit))
	b.window.Set(atQueue, now, float64(queue))
	for id, said := range servers {
		s := b.servers[id]
		if s == nil {
			s = &serverFigures{window: series.New(0, serverGauges, serverSpans...)}
			b.servers[id] = s
		}
		s.name = said.name
		upto := s.window.Upto()
		if now.Sub(upto) > stale {
			upto = now.Add(-time.Second) // it has been away
		}
		s.window.Known(upto, now)
		s.window.Set(atSessions, now, float64(said.sessions))
		s.window.Set(atDown, now, float64(said.down))
		if said.sick {
			s.window.Set(atSick, now, 1)
		} else {
			s.window.Set(atSick, now, 0)
		}
	}
}

// The counters of a machine, and then its gauges.
const (
	ofUser = iota
	ofSystem
	ofNoWork
	ofPublicIn
	ofPublicOut
	ofPrivateIn
	ofPrivateOut
	machineCounters

	atTotal = iota - 1
	atFree
	atCached
	atAvailable
	atDiskSize
	atDiskFree
	machineFiguresAll
)

// machineFigures are those of one machine.
type machineFigures struct {
	window *series.Window
	source series.Source
	last   cloud.Load
	busy   float64 // the share of its CPUs between the last two looks; NaN if it is not known
}

func newMachineFigures() *machineFigures {
	return &machineFigures{window: series.New(machineCounters, machineFiguresAll-machineCounters, machineSpans...)}
}

// meter asks the cloud what its machines use, and forgets figures that are old, until ctx ends.
func (c *Control) meter(ctx context.Context) {
	failed := map[string]bool{}
	tick := time.NewTicker(c.Look)
	defer tick.Stop()
	for {
		for _, region := range c.Regions() {
			in, err := c.in(region)
			if err != nil {
				continue
			}
			if meter, ok := in.(cloud.Meter); ok {
				loads, err := meter.Loads(ctx)
				if err != nil && ctx.Err() == nil && !failed[region] {
					c.Log.Warn("loads of machines not seen", "region", region, "err", err)
				}
				failed[region] = err != nil
				c.figures.measure(loads, meter.Every())
			}
		}
		c.figures.forget(time.Now().Add(-remembered))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// measure takes in what machines use, of which there is something new every so often.
func (f *figures) measure(loads []cloud.Load, every time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.every = max(f.every, every) // of several clouds the one that takes longest
	for _, l := range loads {
		m := f.machines[l.Machine]
		if m == nil {
			m = newMachineFigures()
			f.machines[l.Machine] = m
		}
		m.measure(l)
	}
}

// longAgo is when a machine was powered on whose use since then tells nothing of now.
const longAgo = time.Minute

// counted returns the counters of a machine.
func counted(l *cloud.Load) []float64 {
	return []float64{l.User.Seconds(), l.System.Seconds(), 0,
		float64(l.Public.In), float64(l.Public.Out), float64(l.Private.In), float64(l.Private.Out)}
}

func (m *machineFigures) measure(l cloud.Load) {
	from, again := m.last.Taken, m.last.Since.Equal(l.Since)
	if !again {
		from = l.Since // it was off until then
	}
	if !from.Before(l.Taken) {
		return
	}
	w := m.window
	rose := m.source.Rose(l.Since.UnixNano(), counted(&l))
	rose[ofNoWork] = max(0, float64(l.CPUs)*l.Taken.Sub(from).Seconds()-rose[ofUser]-rose[ofSystem])
	to := l.Taken
	m.busy = min((rose[ofUser]+rose[ofSystem])/(float64(max(1, l.CPUs))*to.Sub(from).Seconds()), 1)
	if m.last.Taken.IsZero() && to.Sub(from) > longAgo {
		m.busy = math.NaN()
		to = from // what it did before we first saw it is in the totals, and in no time that is known
	} else {
		w.Known(from, to)
	}
	for i, by := range rose {
		w.Rise(i, from, to, by)
	}
	for i, v := range []int64{l.Memory.Total, l.Memory.Free, l.Memory.Cached, l.Memory.Available, l.Disk.Size, l.Disk.Free} {
		w.Set(atTotal+i, l.Taken, float64(v))
	}
	m.last = l
}

// forget forgets what nothing was heard of since then.
func (f *figures) forget(then time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.told, func(_ weir.ID, m *toldFigures) bool { return m.asked.Before(then) })
	maps.DeleteFunc(f.machines, func(_ weir.ID, m *machineFigures) bool { return m.last.Taken.Before(then) })
	maps.DeleteFunc(f.balancers, func(_ weir.ID, b *balancerFigures) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		maps.DeleteFunc(b.nodes, func(_ weir.ID, n *nodeFigures) bool { return n.heard.Before(then) })
		maps.DeleteFunc(b.servers, func(_ weir.ID, s *serverFigures) bool { return s.window.Upto().Before(then) })
		return len(b.nodes) == 0
	})
}

// reading turns a step into a point's value, if it has one.
type reading func(series.Step) (value float64, ok bool)

func rate(counter int) reading {
	return func(s series.Step) (float64, bool) { return s.Rate(counter), true }
}

func gauge(gauge int) reading {
	return func(s series.Step) (float64, bool) { return s.Gauge(gauge), true }
}

func total(counter int) reading {
	return func(s series.Step) (float64, bool) { return s.Total(counter), true }
}

// mean is how long an answer took, if there was one.
func mean(seconds int) reading {
	return func(s series.Step) (float64, bool) {
		answers := 0.0
		for class := range weir.ResponseClasses {
			answers += s.Rose(ofAnswers + class)
		}
		return s.Rose(seconds) / answers, answers > 0
	}
}

// cpuPercent is of the instances that clients came to, or of all if they came to none.
func cpuPercent(s series.Step) (float64, bool) {
	used, cores := s.Rose(ofBusy), s.Rose(ofBusyCores)
	if cores == 0 {
		used, cores = s.Rose(ofIdle), s.Rose(ofIdleCores)
	}
	return min(100*used/cores, 100), cores > 0
}

func points(w *series.Window, start, end time.Time, read reading) (all []weir.Point) {
	for s := range w.Steps(start, end) {
		if v, ok := read(s); ok {
			all = append(all, weir.Point{At: s.At, Value: v})
		}
	}
	return all
}

// balancerFigure is how a figure of a load balancer is had. One without anything is one that Weir
// cannot know: it has no series.
type balancerFigure struct {
	read   reading
	codes  int     // where the counters begin, for one series for each class of responses; 0 for none
	server reading // for one series for each server
	log    reading // of the access log: without one there is no series
}

var balancerReadings = map[weir.Figure]balancerFigure{
	"frontend_connections_current":      {read: gauge(atConnections)},
	"frontend_connections_limit":        {read: gauge(atLimit)},
	"frontend_cpu_utilization":          {read: cpuPercent},
	"frontend_http_requests_per_second": {read: rate(ofRequests)},
	"frontend_http_responses":           {codes: ofResponses},
	"frontend_network_throughput_http":  {read: rate(ofHTTPBytes)},
	"frontend_network_throughput_tcp":   {read: rate(ofTCPBytes)},
	"frontend_tls_connections_current":  {read: rate(ofTLS)},

	"droplets_connections":               {server: gauge(atSessions)},
	"droplets_downtime":                  {server: gauge(atDown)},
	"droplets_health_checks":             {server: func(s series.Step) (float64, bool) { return 100 * (1 - s.Gauge(atSick)), true }},
	"droplets_http_responses":            {codes: ofAnswers},
	"droplets_http_response_time_avg":    {read: mean(ofResponseTime)},
	"droplets_http_session_duration_avg": {read: mean(ofSessionTime)},
	"droplets_queue_size":                {read: gauge(atQueue)},

	// HAProxy keeps means of times, and no distribution; its log has each of them.
	"droplets_http_response_time_50p":    {log: percentile(ofAnswered, .50)},
	"droplets_http_response_time_90p":    {log: percentile(ofAnswered, .90)},
	"droplets_http_response_time_95p":    {log: percentile(ofAnswered, .95)},
	"droplets_http_response_time_99p":    {log: percentile(ofAnswered, .99)},
	"droplets_http_session_duration_50p": {log: percentile(ofEnded, .50)},
	"droplets_http_session_duration_95p": {log: percentile(ofEnded, .95)},
	// There is no limit to handshakes, no UDP, no network load balancer, and firewalls do not count.
	"frontend_tls_connections_limit":                {},
	"frontend_tls_connections_exceeding_rate_limit": {},
	"frontend_network_throughput_udp":               {},
	"frontend_nlb_tcp_network_throughput":           {},
	"frontend_nlb_udp_network_throughput":           {},
	"frontend_firewall_dropped_bytes":               {},
	"frontend_firewall_dropped_packets":             {},
}

// LoadBalancerFigure returns a figure of a load balancer after start and until end, as far as this
// member of the control plane remembers it.
func (c *Control) LoadBalancerFigure(ctx context.Context, lb weir.ID, figure weir.Figure, start, end time.Time) ([]weir.Series, error) {
	how, ok := balancerReadings[figure]
	if !ok {
		return nil, weir.Errorf(weir.NotFound, "load balancers have no figure %q", figure)
	}
	if _, err := c.LoadBalancer(ctx, lb); err != nil {
		return nil, err
	}
	b := c.figures.balancer(lb, false)
	if b == nil {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []weir.Series
	add := func(w *series.Window, read reading, label, value string) {
		s := weir.Series{Points: points(w, start, end, read)}
		if label != "" {
			s.Labels = map[string]string{label: value}
		}
		if len(s.Points) > 0 {
			all = append(all, s)
		}
	}
	switch {
	case how.read != nil:
		add(b.window, how.read, "", "")
	case how.log != nil:
		if b.durations != nil {
			add(b.durations, how.log, "", "")
		}
	case how.codes > 0:
		for i, class := range weir.ResponseClasses {
			if b.window.Total(how.codes+i) > 0 {
				add(b.window, rate(how.codes+i), "code", class)
			}
		}
	case how.server != nil:
		ids := slices.SortedFunc(maps.Keys(b.servers), func(x, y weir.ID) int { return cmp.Or(cmp.Compare(number(x), number(y)), cmp.Compare(x, y)) })
		for _, id := range ids {
			add(b.servers[id].window, how.server, "server", b.servers[id].name)
		}
	}
	return all, nil
}

// Traffic returns what has gone through all load balancers, by ID.
func (c *Control) Traffic(ctx context.Context) ([]weir.Traffic, error) {
	lbs, err := loadBalancers.All(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	var all []weir.Traffic
	for _, lb := range lbs {
		if b := c.figures.balancer(lb.ID, false); b != nil {
			all = append(all, b.traffic(lb, time.Now()))
		}
	}
	return all, nil
}

func (b *balancerFigures) traffic(lb weir.LoadBalancer, now time.Time) weir.Traffic {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := weir.Traffic{LoadBalancer: lb.ID, Name: lb.Name, Requests: b.window.Total(ofRequests),
		HTTPBytes: b.window.Total(ofHTTPBytes), TCPBytes: b.window.Total(ofTCPBytes), TLS: b.window.Total(ofTLS)}
	t.Answered, t.Ended = b.durationsOf(0), b.durationsOf(1)
	for i := range t.Responses {
		t.Responses[i] = b.window.Total(ofResponses + i)
	}
	well := map[weir.ID]bool{}
	for _, n := range b.nodes {
		if now.Sub(n.heard) > stale {
			continue
		}
		t.Connections += float64(n.counts.Sessions())
		for _, w := range n.counts.Workers {
			for _, backend := range w.Backends {
				t.Queue += float64(backend.Queue)
			}
		}
		for id, said := range n.servers {
			well[id] = well[id] || !said.sick
		}
	}
	for _, is := range well {
		t.Servers++
		if is {
			t.ServersUp++
		}
	}
	return t
}

// machineReading is how one series of a figure of a machine is had.
type machineReading struct {
	labels map[string]string
	read   reading
}

func megabits(counter int) reading {
	return func(s series.Step) (float64, bool) { return s.Rate(counter) * 8 / 1e6, true }
}

func mode(name string) map[string]string { return map[string]string{"mode": name} }

func through(link, direction string) map[string]string {
	return map[string]string{"interface": link, "direction": direction}
}

// machineReadings are all figures of machines. There are none of load_1, load_5 and load_15: a cloud
// knows from outside what a machine has used, and not how many of its programs wait.
var machineReadings = map[weir.Figure][]machineReading{
	"bandwidth": {
		{through("public", "inbound"), megabits(ofPublicIn)}, {through("public", "outbound"), megabits(ofPublicOut)},
		{through("private", "inbound"), megabits(ofPrivateIn)}, {through("private", "outbound"), megabits(ofPrivateOut)},
	},
	"cpu":              {{mode("idle"), total(ofNoWork)}, {mode("system"), total(ofSystem)}, {mode("user"), total(ofUser)}},
	"filesystem_free":  {{nil, gauge(atDiskFree)}},
	"filesystem_size":  {{nil, gauge(atDiskSize)}},
	"memory_available": {{nil, gauge(atAvailable)}},
	"memory_cached":    {{nil, gauge(atCached)}},
	"memory_free":      {{nil, gauge(atFree)}},
	"memory_total":     {{nil, gauge(atTotal)}},
	"load_1":           {},
	"load_5":           {},
	"load_15":          {},
}

// tells reports whether the cloud tells a figure of a machine: one has a memory that is not all in use and a disk, and each has received
// something since it was powered on.
func (m *machineFigures) tells(figure weir.Figure) bool {
	switch l := &m.last; figure {
	case "bandwidth":
		return m.window.Total(ofPublicIn)+m.window.Total(ofPublicOut)+m.window.Total(ofPrivateIn)+m.window.Total(ofPrivateOut) > 0
	case "memory_free", "memory_cached":
		return l.Memory.Free != 0
	case "filesystem_free", "filesystem_size":
		return l.Disk.Mount != ""
	}
	return true
}

// MachineFigure returns a figure of a machine after start and until end, as far as the cloud tells it
// and this member of the control plane remembers it.
func (c *Control) MachineFigure(ctx context.Context, machine weir.ID, figure weir.Figure, start, end time.Time) ([]weir.Series, error) {
	readings, ok := machineReadings[figure]
	if !ok {
		return nil, weir.Errorf(weir.NotFound, "machines have no figure %q", figure)
	}
	if _, err := c.Machine(ctx, machine); err != nil {
		return nil, err
	}
	c.figures.mu.Lock()
	defer c.figures.mu.Unlock()
	m := c.figures.machines[machine]
	if told := c.figures.told[machine]; told != nil && toldReadings[figure] {
		m = &told.machineFigures
	}
	if m == nil || !m.tells(figure) {
		return nil, nil
	}
	var all []weir.Series
	for _, r := range readings {
		s := weir.Series{Labels: r.labels, Points: points(m.window, start, end, r.read)}
		if figure == "filesystem_free" || figure == "filesystem_size" {
			s.Labels = map[string]string{"device": m.last.Disk.Device, "fstype": m.last.Disk.Type, "mountpoint": m.last.Disk.Mount}
		}
		if len(s.Points) > 0 {
			all = append(all, s)
		}
	}
	return all, nil
}
