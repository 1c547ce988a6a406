package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"weir/weir"
)

// hardStop bounds how long an old worker, one that a reload has replaced, finishes what it
// has. It is for downloads and WebSockets that outlast the reload, and has nothing to do with
// Drain, which is for servers that leave. What it costs is the memory of each old worker,
// from 8 MiB up with what it has open, for as long as it has any connection.
const hardStop = time.Hour

// maxOld is how many reloads a worker outlives at the most: many reloads within hardStop
// are not to take a small machine's memory.
const maxOld = 20

// A lingering is a server that an old worker has sessions of.
type lingering struct {
	target
	worker   int
	sessions int
}

// lingering looks at what old workers still do, and at what they have counted. The running worker knows nothing of it.
func (p *Proxy) lingering(ctx context.Context) (all []lingering, counts []weir.WorkerCounts, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		// An old worker may end, and a master that has just reloaded hang up, while we ask.
		if all, counts, err = p.askOld(ctx); err == nil {
			return all, counts, nil
		}
		if ctx.Err() != nil || !p.proc.alive() {
			return nil, nil, fmt.Errorf("ask old workers: %w", err)
		}
		pause(ctx, wait)
	}
}

func (p *Proxy) askOld(ctx context.Context) (all []lingering, counts []weir.WorkerCounts, err error) {
	m, err := p.master(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, pid := range m.old {
		out, err := p.toWorker(ctx, pid, askStats)
		if err != nil {
			return nil, nil, err
		}
		stats, err := parseStats(out)
		if err != nil {
			return nil, nil, err
		}
		servers, c := sumUp(pid, stats)
		counts = append(counts, c)
		for i := range servers {
			if s := &servers[i]; s.sessions > 0 {
				all = append(all, lingering{target{backend: s.backend, name: s.name}, pid, s.sessions})
			}
		}
	}
	return all, counts, nil
}

// toWorker has the master pass a command on to one of its workers.
func (p *Proxy) toWorker(ctx context.Context, pid int, command string) ([]byte, error) {
	out, err := exchange(ctx, p.path(masterSocket), fmt.Sprintf("@!%d %s", pid, command))
	if err == nil && len(bytes.TrimSpace(out)) == 0 {
		err = errors.New("no answer")
	}
	if err != nil {
		return nil, fmt.Errorf("ask worker %d: %w", pid, err)
	}
	return out, nil
}

// tendOld ends what old workers do with servers that are wanted nowhere, once their time to
// drain is over, and tells of those that are done.
func (p *Proxy) tendOld(ctx context.Context) error {
	all, _, err := p.lingering(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 && len(p.lingers) == 0 {
		return nil
	}
	wanted := make(map[string]bool)
	for i := range p.want.proxy.Backends {
		for _, s := range p.want.proxy.Backends[i].Servers {
			wanted[serverName(s.ID)] = true
		}
	}
	now := time.Now()
	since := make(map[target]time.Time)
	late := make(map[int]map[target]bool) // by worker
	for _, l := range all {
		if wanted[l.name] {
			continue // perhaps in another backend: the machine stays
		}
		began, ok := p.lingers[l.target]
		if !ok {
			began = now
		}
		since[l.target] = began
		if now.Sub(began) >= drainOf(&p.want.proxy, l.name) {
			if late[l.worker] == nil {
				late[l.worker] = make(map[target]bool)
			}
			late[l.worker][l.target] = true
		}
	}
	for t := range p.lingers {
		if _, still := since[t]; !still {
			signal(p.changed)
		}
	}
	p.lingers = since
	for pid, servers := range late {
		if err := p.cutOld(ctx, pid, servers); err != nil {
			return err
		}
	}
	return nil
}

// cutOld ends an old worker's sessions of those servers, one by one: its proxies are stopped,
// and it takes no "shutdown sessions server" any more.
func (p *Proxy) cutOld(ctx context.Context, pid int, servers map[target]bool) error {
	out, err := p.toWorker(ctx, pid, "show sess")
	if err != nil {
		return err
	}
	for _, id := range sessionsOf(out, servers) {
		// One that has ended meanwhile is what was wanted.
		if _, err := exchange(ctx, p.path(masterSocket), fmt.Sprintf("@!%d shutdown session %s", pid, id)); err != nil {
			return fmt.Errorf("end a session of worker %d: %w", pid, err)
		}
	}
	return nil
}

// sessionsOf returns the sessions in the answer to "show sess" that are of those servers.
func sessionsOf(out []byte, servers map[target]bool) (ids []string) {
	for l := range bytes.Lines(out) {
		id, about, _ := bytes.Cut(l, []byte(": "))
		var t target
		for f := range bytes.FieldsSeq(about) {
			if s, ok := bytes.CutPrefix(f, []byte("be=")); ok {
				t.backend = string(s)
			} else if s, ok := bytes.CutPrefix(f, []byte("srv=")); ok {
				t.name = string(s)
			}
		}
		if servers[t] {
			ids = append(ids, string(id))
		}
	}
	return ids
}

// withOld adds to servers what old workers have of them, and those that only they have.
func withOld(servers []weir.ServerStatus, old []lingering) []weir.ServerStatus {
	if len(old) == 0 {
		return servers
	}
	index := make(map[target]int, len(servers))
	for i := range servers {
		index[target{backend: servers[i].Backend, name: serverName(servers[i].ID)}] = i
	}
	for _, l := range old {
		i, ok := index[l.target]
		if !ok {
			i = len(servers)
			index[l.target] = i
			servers = append(servers, weir.ServerStatus{Backend: l.backend, ID: weir.ID(l.name), State: weir.ServerDraining})
		}
		servers[i].Sessions += l.sessions
	}
	return servers
}
