package sim

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"weir/cloud"
	"weir/control"
	"weir/weir"
)

// prober asks nodes as one member of the control plane does, over the network of the world.
type prober struct {
	w    *world
	from string // the member
}

// How long control's own prober waits.
const (
	lifePatience  = 40 * time.Millisecond
	servePatience = 250 * time.Millisecond
)

func (p prober) Probe(ctx context.Context, t control.Target) (f control.Finding) {
	r := p.w.roll("probe from " + p.from)
	began := time.Now()
	answers := time.Millisecond + upTo(r, 20*time.Millisecond) // after so long
	if p.w.trouble.Load() && chance(r, 2) {
		answers += upTo(r, 200*time.Millisecond)
	}
	for at := answers; ; at = min(at+servePatience/5, servePatience) {
		if at > lifePatience && time.Since(began) < lifePatience {
			if !sleep(ctx, lifePatience-time.Since(began)) {
				return f
			}
			if !f.Alive || f.Serves {
				return f
			}
		}
		if !sleep(ctx, at-time.Since(began)) {
			return f
		}
		if f = p.look(t); f.Serves && (f.Agent || at > lifePatience || len(t.Agent) == 0) || at >= servePatience {
			return f
		}
	}
}

// look returns what would answer now.
func (p prober) look(t control.Target) (f control.Finding) {
	id := t.Node
	if id == "" {
		id = p.w.whoHas(t.Health.Addr())
	}
	n := p.w.at(id)
	if n == nil || !n.on.Load() {
		return f
	}
	both := func(path string) bool { return p.w.net.both(p.from, string(id), path) }
	f.Alive = both(public) && n.proxies.Load()
	f.Serves = both(public) && n.serves()
	for i := range t.Agent {
		if both(pathOf(i, len(t.Agent))) && n.runs.Load() && !n.frozen.is() {
			f.Outside = i > 0 && !f.Agent
			f.Alive, f.Agent = true, true
		}
	}
	return f
}

// pathOf returns the path of the i-th of n addresses at which an instance is watched.
func pathOf(i, n int) string {
	if i == 0 && n > 1 {
		return private
	}
	return public
}

// whoHas returns the machine that traffic to an address gets to, if it is a load balancer's: of several that have it
// another at each moment.
func (w *world) whoHas(addr netip.Addr) (id weir.ID) {
	if addr == segment.Addr() {
		var since time.Time
		for _, n := range w.nodes.list() {
			if at, ok := n.holds(); ok && at.After(since) {
				id, since = n.id, at // who announced it last
			}
		}
		return id
	}
	all, err := w.cloud.Addresses(direct(w.ctx))
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(all, func(a cloud.Address) bool { return a.Addr == addr })
	if i < 0 || len(all[i].Machines) == 0 {
		return ""
	}
	has := all[i].Machines
	return has[time.Now().UnixMilli()%int64(len(has))]
}
