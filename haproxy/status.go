package haproxy

import (
	"context"
	"fmt"
	"time"

	"weir/weir"
)

// Status returns what HAProxy and its servers do at this moment; servers that leave are among
// them until they are gone, also from workers that reloads have replaced. If no HAProxy runs, its PID is 0 and there are no servers.
func (p *Proxy) Status(ctx context.Context) (weir.HAProxyStatus, []weir.ServerStatus, error) {
	if err := p.acquire(ctx); err != nil {
		return weir.HAProxyStatus{}, nil, fmt.Errorf("status of haproxy: %w", err)
	}
	defer p.release()
	status := weir.HAProxyStatus{Version: p.version.Full, Reloads: p.reloads, Err: p.pulse.why(), Starved: p.pulse.isStarved()}
	if status.Err != "" {
		return status, nil, nil // it would not say more, and this is not to wait for it
	}
	if p.proc == nil || !p.proc.alive() {
		return status, nil, nil
	}
	w, stats, err := p.worker(ctx)
	if err != nil {
		return status, nil, fmt.Errorf("status of haproxy: %w", err)
	}
	status.PID, status.Version, status.Started = w.pid, w.version, w.started
	wait := make(map[target]bool, len(p.wait)) // whether it leaves
	for _, w := range p.wait {
		wait[w.key()] = w.leaving
	}
	servers := make([]weir.ServerStatus, 0, len(stats))
	for i := range stats {
		s := &stats[i]
		is := weir.ServerStatus{
			Backend:  s.backend,
			ID:       weir.ID(s.name),
			State:    s.state(),
			Sessions: s.sessions,
			Requests: s.requests,
		}
		if leaves, waits := wait[target{backend: s.backend, name: s.name}]; leaves {
			is.State = weir.ServerDraining
		} else if waits {
			is.State = weir.ServerChecking
		} else if is.State == weir.ServerDown {
			is.Down = s.changed
		}
		if !s.passed() && s.check != "INI" {
			is.Why = s.check
			if s.why != "" {
				is.Why += ": " + s.why
			}
		}
		servers = append(servers, is)
	}
	old, oldCounts, err := p.lingering(ctx)
	if err != nil {
		return status, nil, fmt.Errorf("status of haproxy: %w", err)
	}
	status.Counts = &weir.Counts{Taken: time.Now(), Limit: w.limit, Threads: w.threads,
		Workers: p.withEnded(append([]weir.WorkerCounts{w.counts}, oldCounts...))}
	return status, withOld(servers, old), nil
}
