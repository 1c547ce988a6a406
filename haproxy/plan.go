package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weir/weir"
)

// target names one server in HAProxy.
type target struct {
	backend, name string
	id            int
}

// key is t without its number, which a server that left may have had too.
func (t target) key() target { return target{backend: t.backend, name: t.name} }

func (t target) String() string { return t.backend + "/" + t.name }

// verb is what a step does to a server.
type verb string

const (
	add    verb = "add"
	drain  verb = "drain"
	weigh  verb = "weigh"
	admit  verb = "admit"  // let it have requests: its check has passed
	remove verb = "remove" // it has no sessions
	cut    verb = "cut"    // end its sessions: its time to drain is over
	renew  verb = "renew"  // take it out and add it again, unused
	rekey  verb = "rekey"  // make the cookies of a backend anew, as HAProxy makes none when it adds a server
)

// step is one change of the running worker, by its socket.
type step struct {
	verb verb
	target
	line   string // what describes a server to add; of rekey, the key
	addr   netip.AddrPort
	weight int
}

func (s step) String() string { return string(s.verb) + " " + s.target.String() }

// commands returns what the socket is told.
func (s step) commands() []string {
	set := "set server " + s.target.String() + " "
	// It starts in maintenance, where nothing is sent to it but checks, once they are
	// enabled: right now, for the first is due in a millisecond.
	adding := []string{"add server " + s.backend + "/" + s.line, "enable health " + s.target.String()}
	removing := []string{set + "state maint", "del server " + s.target.String()}
	switch s.verb {
	case add:
		return adding
	case drain:
		return []string{set + "state drain"}
	case weigh:
		return []string{set + fmt.Sprintf("weight %d", s.weight)}
	case admit:
		// It leaves maintenance one failed check from being down, and so the second.
		return []string{set + "state ready", set + "health up"}
	case remove:
		return removing
	case cut:
		return append([]string{"shutdown sessions server " + s.target.String()}, removing...)
	case renew:
		return append(removing, adding...)
	case rekey:
		return []string{"set dynamic-cookie-key backend " + s.backend + " " + s.line}
	}
	return nil
}

// waiting is a server that is neither in rotation nor gone: it waits for its first check
// to pass, or leaves.
type waiting struct {
	target
	leaving bool
	line    string // of one that waits for its check
	since   time.Time
}

// plan returns what brings the worker's servers to what is wanted, and those that wait then.
//
// A wanted server waits for its first check while it is drained, or in maintenance with its
// checks on: it is HAProxy who has these marks, so that they outlive us. A server at another
// address is another server: the one that is there leaves, and then the new one is added.
func plan(want *weir.Proxy, have []server, now time.Time) (steps []step, wait []waiting) {
	type wanted struct {
		b       *weir.Backend
		s       *weir.Server
		id      int
		options string
		here    bool
	}
	index := make(map[target]*wanted, len(have)+8)
	all := make([]wanted, 0, len(have)+8)
	for i := range want.Backends {
		b := &want.Backends[i]
		options := optionsOf(b)
		for j, id := range serverIDs(b.Servers) {
			all = append(all, wanted{b: b, s: &b.Servers[j], id: id, options: options})
		}
	}
	for i := range all {
		w := &all[i]
		index[target{backend: sanitize(w.b.Name), name: serverName(w.s.ID)}] = w
	}
	line := func(w *wanted) string {
		return string(new(writer).server(w.s, w.id, w.options).buf)
	}

	for i := range have {
		h := &have[i]
		w := index[h.key()]
		if w != nil {
			w.here = true
		}
		switch {
		case w == nil || !same(h.addr, w.s.Addr) || h.maint && !h.checked:
			if !h.drain && !h.maint {
				steps = append(steps, step{verb: drain, target: h.target})
				h.changed = 0
			}
			wait = append(wait, waiting{target: h.target, leaving: true, since: now.Add(-h.changed)})
		default:
			if h.weight != weightOf(w.s) {
				steps = append(steps, step{verb: weigh, target: h.target, weight: weightOf(w.s)})
			}
			if h.drain || h.maint {
				wait = append(wait, waiting{target: h.target, line: line(w), since: now.Add(-h.changed)})
			}
		}
	}
	for i := range all {
		w := &all[i]
		if w.here {
			continue
		}
		t := target{sanitize(w.b.Name), serverName(w.s.ID), w.id}
		l := line(w)
		steps = append(steps, step{verb: add, target: t, line: l, addr: w.s.Addr, weight: weightOf(w.s)})
		wait = append(wait, waiting{target: t, line: l, since: now})
	}
	return withKeys(want, steps), wait
}

// withKeys returns steps with those behind them by which servers that are added get their cookies.
func withKeys(want *weir.Proxy, steps []step) []step {
	added := map[string]bool{}
	for _, s := range steps {
		if s.verb == add || s.verb == renew {
			added[s.backend] = true
		}
	}
	for i := range want.Backends {
		b := &want.Backends[i]
		if name := sanitize(b.Name); added[name] && b.Mode == weir.HTTP && b.Sticky != nil {
			steps = append(steps, step{verb: rekey, target: target{backend: name}, line: sanitize(b.Key)})
		}
	}
	return steps
}

func same(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().Unmap().WithZone("") == b.Addr().Unmap().WithZone("")
}

// after returns what there is when steps have been taken from have.
func after(have []server, steps []step) []server {
	if len(steps) == 0 {
		return have
	}
	index := make(map[target]int, len(have))
	for i := range have {
		index[have[i].key()] = i
	}
	gone := false
	for _, s := range steps {
		i, ok := index[s.key()]
		switch {
		case s.verb == add:
			index[s.key()] = len(have)
			have = append(have, server{target: s.target, addr: s.addr, weight: s.weight, maint: true, checked: true})
		case !ok:
		case s.verb == drain:
			have[i].drain, have[i].changed = true, 0
		case s.verb == weigh:
			have[i].weight = s.weight
		case s.verb == admit:
			have[i].drain, have[i].maint, have[i].running = false, false, true
		case s.verb == remove, s.verb == cut:
			have[i].target, gone = target{}, true
		}
	}
	if gone {
		have = slices.DeleteFunc(have, func(h server) bool { return h.target == target{} })
	}
	return have
}

// HAProxy has begun the first check of a new server within this time, and so much for each
// other new one.
const (
	firstCheck     = 50 * time.Millisecond
	firstCheckEach = time.Millisecond
)

// planWaiting returns what can now be done for servers that wait, and which still do
// afterwards: those that leave do until they are seen gone, and for as long as drainFor says.
func planWaiting(wait []waiting, seen []glance, drainFor func(server string) time.Duration, now time.Time) (steps []step, still []waiting) {
	index := make(map[target]*glance, len(seen))
	for i := range seen {
		index[seen[i].key()] = &seen[i]
	}
	for _, w := range wait {
		s := index[w.key()]
		if s == nil {
			continue
		}
		next := step{target: w.target, line: w.line}
		switch {
		case w.leaving && s.sessions == 0:
			next.verb = remove
		case w.leaving && now.Sub(w.since) >= drainFor(w.name):
			next.verb = cut
		case !w.leaving && s.passed:
			next.verb = admit
			steps = append(steps, next)
			continue
		case !w.leaving && s.unasked && now.Sub(w.since) > firstCheck+time.Duration(len(wait))*firstCheckEach:
			// HAProxy was too busy to enable its check in time, and will look again
			// only after a whole interval.
			next.verb = renew
			w.since = now
		}
		if next.verb != "" {
			steps = append(steps, next)
		}
		still = append(still, w)
	}
	return steps, still
}
