package haproxy

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"weir/weir"
)

// askStats asks for all that HAProxy counts.
var askStats = fmt.Sprintf("show stat -1 %d -1", allStats)

// keepEnded is how long what a worker had counted is told of after its end.
const keepEnded = time.Minute

// worker is what the running worker says of itself.
type worker struct {
	pid, threads int
	limit        int64 // of connections
	version      string
	started      time.Time
	counts       weir.WorkerCounts
}

// worker asks the running worker what it is, and what it counts, of its servers apart.
func (p *Proxy) worker(ctx context.Context) (w worker, servers []stat, err error) {
	var unlogged int64
	s := socket{path: p.path(workerSocket)}
	err = s.get(ctx, "show info", func(info []byte) error {
		for l := range bytes.Lines(info) {
			key, value, _ := bytes.Cut(bytes.TrimSpace(l), []byte(": "))
			switch string(key) {
			case "Pid":
				w.pid = atoi(string(value))
			case "Nbthread":
				w.threads = atoi(string(value))
			case "Maxconn":
				w.limit = atoi64(string(value))
			case "DroppedLogs":
				unlogged = atoi64(string(value))
			case "Version":
				w.version = string(value)
			case "Start_time_sec":
				w.started = time.Unix(atoi64(string(value)), 0)
			}
		}
		return nil
	})
	if err != nil {
		return w, nil, err
	}
	err = s.get(ctx, askStats, func(out []byte) error {
		stats, err := parseStats(out)
		servers, w.counts = sumUp(w.pid, stats)
		w.counts.Unlogged = unlogged
		return err
	})
	return w, servers, err
}

// sumUp divides what a worker counts into that of servers, and that of the load balancer's
// frontends and backends.
func sumUp(pid int, stats []stat) (servers []stat, c weir.WorkerCounts) {
	c = weir.WorkerCounts{PID: pid, CPU: cpuOf(pid)}
	servers = slices.DeleteFunc(stats, func(s stat) bool {
		if strings.HasPrefix(s.backend, own) {
			return true
		}
		switch s.kind {
		case frontendStat:
			c.Frontends = append(c.Frontends, weir.FrontendCounts{Name: s.backend, Mode: s.mode, Sessions: int64(s.sessions),
				Requests: s.http, Responses: s.responses, In: s.in, Out: s.out, TLS: s.tls})
			return true
		case backendStat:
			c.Backends = append(c.Backends, weir.BackendCounts{Name: s.backend, Mode: s.mode, Queue: s.queue, Responses: s.responses,
				Response: time.Duration(s.response) * time.Millisecond, Session: time.Duration(s.session) * time.Millisecond})
			return true
		}
		return false
	})
	return servers, c
}

// counted is the last that was read of a worker.
type counted struct {
	weir.WorkerCounts
	at time.Time
}

// withEnded returns what the workers that there are have counted, and those that have ended lately:
// between the last look at a worker and its end it has counted on, and what was read just before
// a reload is the most that is known of it.
func (p *Proxy) withEnded(workers []weir.WorkerCounts) []weir.WorkerCounts {
	now := time.Now()
	p.counted = slices.DeleteFunc(p.counted, func(c counted) bool {
		there := slices.ContainsFunc(workers, func(w weir.WorkerCounts) bool { return w.PID == c.PID })
		return there || now.Sub(c.at) > keepEnded
	})
	all := slices.Clone(workers)
	for _, c := range p.counted {
		c.Ended = true
		c.Frontends, c.Backends = slices.Clone(c.Frontends), slices.Clone(c.Backends) // somebody has read them
		for i := range c.Frontends {
			c.Frontends[i].Sessions = 0
		}
		for i := range c.Backends {
			c.Backends[i].Queue = 0
		}
		all = append(all, c.WorkerCounts)
	}
	for _, w := range workers {
		p.counted = append(p.counted, counted{w, now})
	}
	return all
}

// countLast reads what the running worker has counted, which is about to be replaced. Should it
// not answer, then what was read before has to do.
func (p *Proxy) countLast(ctx context.Context) {
	w, _, err := p.worker(ctx)
	if err != nil {
		return
	}
	p.counted = slices.DeleteFunc(p.counted, func(c counted) bool { return c.PID == w.pid })
	p.counted = append(p.counted, counted{w.counts, time.Now()})
}
