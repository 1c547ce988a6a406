package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"weir/cloud"
	"weir/control"
	"weir/store"
	"weir/weir"
)

// How nodes hear each other, as package heartbeat would tell them.
const (
	lateAfter   = 40 * time.Millisecond
	silentAfter = 80 * time.Millisecond
)

// The links of a machine, and so the paths to it, in the order of weir.Peer.Addrs.
const (
	private = iota
	public
)

// hurt is what is broken of one machine.
type hurt struct {
	in, out  [2]bool // what is lost of each link
	frozen   bool    // nothing runs, and its kernel answers
	wedged   bool    // HAProxy alone stands still
	headless bool    // its agent is dead
	stray    bool    // it reaches none of its servers
}

// ether is what machines hear of each other through.
type ether struct {
	mu      sync.Mutex
	hurts   map[weir.ID]hurt
	changed chan struct{} // closed and replaced when anything changes
}

func newEther() *ether { return &ether{hurts: map[weir.ID]hurt{}, changed: make(chan struct{})} }

func (e *ether) of(id weir.ID) hurt {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hurts[id]
}

// set breaks a machine, or heals it by the zero hurt.
func (e *ether) set(id weir.ID, h hurt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hurts[id] = h
	e.wake()
}

func (e *ether) healAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.hurts)
	e.wake()
}

// wake needs e.mu.
func (e *ether) wake() {
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *ether) touch() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wake()
}

func (e *ether) wait() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// reach reports whether a question of from, or of the control plane if that is empty, gets to a
// machine on a link and the answer back.
func (w *world) reach(from, to weir.ID, link int) bool {
	there := w.nodes.get(to)
	if there == nil || !there.powered() {
		return false
	}
	a, b := w.ether.of(from), w.ether.of(to)
	return !a.out[link] && !a.in[link] && !b.in[link] && !b.out[link]
}

func (n *node) powered() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.on
}

// agentAnswers and proxyAnswers report what of a machine answers a question that gets there.
func (n *node) agentAnswers() bool {
	h := n.w.ether.of(n.id)
	return !h.frozen && !h.headless
}

func (n *node) proxyAnswers() bool {
	h := n.w.ether.of(n.id)
	return !h.frozen && !h.wedged && n.live().Revision > 0
}

// works reports whether clients of an instance would be served.
func (w *world) works(id weir.ID) bool {
	all, err := w.cloud.Machines(direct(context.WithoutCancel(w.ctx)))
	on := slices.ContainsFunc(all, func(m cloud.Machine) bool { return m.ID == id && m.On })
	n := w.nodes.get(id)
	return err == nil && on && n != nil && w.reach("", id, public) && n.proxyAnswers()
}

// listen keeps what n hears of its peers until ctx ends.
func (n *node) listen(ctx context.Context) {
	type key struct {
		peer weir.ID
		link int
	}
	since := map[key]time.Time{} // when a peer was first not heard
	away := false
	for {
		changed := n.w.ether.wait()
		now := time.Now()
		if !n.agentAnswers() {
			away = true
		} else {
			if away {
				clear(since) // the silence was its own
				away = false
			}
			next := time.Second
			var peers []weir.PeerStatus
			if g := n.live().Group; g != nil {
				for _, p := range g.Peers {
					s := weir.PeerStatus{Node: p.Node}
					for link, addr := range p.Addrs {
						state := weir.PathUp
						k := key{p.Node, link}
						peer := n.w.nodes.get(p.Node)
						switch {
						case peer != nil && n.w.reach(n.id, p.Node, link) && peer.agentAnswers():
							delete(since, k)
						case peer != nil && n.w.reach(n.id, p.Node, link) && n.w.ether.of(p.Node).headless:
							delete(since, k)
							state = weir.PathRefused
						case since[k].IsZero():
							since[k] = now
							next = min(next, lateAfter)
						}
						if at, lost := since[k]; lost {
							switch d := now.Sub(at); {
							case d >= silentAfter:
								state = weir.PathSilent
							case d >= lateAfter:
								state = weir.PathLate
								next = min(next, silentAfter-d)
							default:
								next = min(next, lateAfter-d)
							}
						}
						s.Paths = append(s.Paths, weir.PathStatus{Addr: addr, State: state, Since: now.Add(n.skew)})
					}
					peers = append(peers, s)
				}
			}
			n.hear(peers)
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-time.After(next):
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// hear takes in what is heard of the peers, and reports it if it is another than before.
func (n *node) hear(peers []weir.PeerStatus) {
	same := func(a, b weir.PeerStatus) bool {
		return a.Node == b.Node && slices.EqualFunc(a.Paths, b.Paths, func(a, b weir.PathStatus) bool {
			return a.Addr == b.Addr && a.State == b.State
		})
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.EqualFunc(n.peers, peers, same) {
		n.peers = peers
		n.tell()
	}
}

// await waits until n's agent runs, or ctx ends.
func (n *node) await(ctx context.Context) {
	for {
		changed := n.w.ether.wait()
		if n.agentAnswers() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// prober asks instances as a member of the control plane does.
type prober struct{ w *world }

func (p prober) Probe(ctx context.Context, t control.Target) (f control.Finding) {
	r := p.w.roll("probe " + string(t.Node))
	sleep(ctx, upTo(r, 3*time.Millisecond))
	id := t.Node
	if id == "" { // an address, whoever has it
		all, err := p.w.cloud.Addresses(direct(ctx))
		if err != nil {
			return f
		}
		for _, a := range all {
			if a.Addr == t.Health.Addr() {
				id = a.Machine
			}
		}
	}
	n := p.w.nodes.get(id)
	if n == nil || !p.w.reach("", id, public) && !(len(t.Agent) > 0 && p.w.reach("", id, private) && n.agentAnswers()) {
		sleep(ctx, 40*time.Millisecond)
		return f
	}
	f.Alive = true
	f.Agent = len(t.Agent) > 0 && n.agentAnswers()
	f.Serves = p.w.reach("", id, public) && n.proxyAnswers()
	if !f.Serves {
		sleep(ctx, 250*time.Millisecond)
	} else if len(t.Agent) > 0 && !f.Agent {
		sleep(ctx, 40*time.Millisecond)
	}
	return f
}

// breaks breaks an instance now and then, until ctx ends; what it broke it heals.
func (w *world) breaks(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	r := w.random("breaks")
	for sleep(ctx, upTo(r, 8*time.Second)) {
		ids := w.nodes.ids()
		if len(ids) == 0 {
			continue
		}
		id := ids[r.IntN(len(ids))]
		h, what := someHurt(r)
		takes, times := upTo(r, 15*time.Second), 1
		if chance(r, 25) { // it flaps
			takes, times = 50*time.Millisecond+upTo(r, time.Second), 2+r.IntN(8)
		}
		w.tell("breaks: machine %s: %s, %d times for %v", id, what, times, takes)
		wg.Go(func() {
			for range times {
				w.ether.set(id, h)
				sleep(ctx, takes)
				w.ether.set(id, hurt{})
				sleep(ctx, takes)
			}
		})
	}
}

func someHurt(r *rand.Rand) (h hurt, what string) {
	switch r.IntN(8) {
	case 0:
		return hurt{frozen: true}, "frozen"
	case 1:
		return hurt{wedged: true}, "its HAProxy stands still"
	case 2:
		return hurt{headless: true}, "its agent is dead"
	case 3:
		return hurt{stray: true}, "cut off from its servers"
	case 4:
		return hurt{in: [2]bool{true, true}}, "hears nothing"
	case 5:
		return hurt{out: [2]bool{true, true}}, "is not heard"
	case 6:
		link := r.IntN(2)
		h.in[link], h.out[link] = true, true
		return h, fmt.Sprintf("link %d is cut", link)
	default:
		return hurt{in: [2]bool{true, true}, out: [2]bool{true, true}}, "cut off"
	}
}

// ids returns the nodes that there are, in order.
func (ns *nodes) ids() []weir.ID {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return slices.Sorted(maps.Keys(ns.all))
}

// witness looks at a commit that was made at a revision for what may never happen. What it
// compares with is what there was at the revision before, and so what the decision was made on.
func (w *world) witness(txn store.Txn, revision int64) {
	for _, put := range txn.Puts {
		if id, ok := strings.CutPrefix(put.Key, "weir/row/addresses/"); ok {
			w.witnessMove(weir.ID(id), put.Value, revision-1)
		}
		if id, ok := strings.CutPrefix(put.Key, "weir/row/machines/"); ok {
			w.witnessInstance(weir.ID(id), put.Value, revision-1)
		}
	}
}

// rowAt reads a row as it was.
func rowAt[T any](w *world, table string, id weir.ID, revision int64) (row T, ok bool) {
	got, _, err := w.memory.Read(context.WithoutCancel(w.ctx), store.Span{Key: "weir/row/" + table + "/" + string(id)}, revision)
	if err != nil || len(got) == 0 {
		return row, false
	}
	return row, json.Unmarshal(got[0].Value, &row) == nil
}

func rowsAt[T any](w *world, table string, revision int64) (rows []T) {
	got, _, err := w.memory.Read(context.WithoutCancel(w.ctx), store.Span{Key: "weir/row/" + table + "/", Prefix: true}, revision)
	if err != nil {
		return nil
	}
	for _, g := range got {
		var row T
		if json.Unmarshal(g.Value, &row) == nil {
			rows = append(rows, row)
		}
	}
	return rows
}

// witnessMove checks that an address goes to no instance that runs an older configuration than another.
func (w *world) witnessMove(owner weir.ID, value []byte, before int64) {
	var is weir.Address
	if json.Unmarshal(value, &is) != nil {
		return
	}
	was, _ := rowAt[weir.Address](w, "addresses", owner, before)
	lb, balanced := rowAt[weir.LoadBalancer](w, "load_balancers", owner, before)
	if !balanced || is.Machine == "" || is.Machine == was.Machine {
		return
	}
	if was.Machine != "" {
		w.known.moved(owner)
	}
	to, _ := rowAt[weir.NodeStatus](w, "node_statuses", is.Machine, before)
	for _, m := range rowsAt[weir.Machine](w, "machines", before) {
		if m.LoadBalancer != owner || !m.Deleting.IsZero() {
			continue
		}
		if s, ok := rowAt[weir.NodeStatus](w, "node_statuses", m.ID, before); ok && s.Revision > to.Revision {
			w.never("load balancer %s moves to %s at revision %d, and %s runs %d", lb.Name, is.Machine, to.Revision, m.ID, s.Revision)
		}
	}
}

// witnessInstance checks that no instance is ended which has the address and works, and that
// there are never more instances than one too many.
func (w *world) witnessInstance(id weir.ID, value []byte, before int64) {
	var is weir.Machine
	if json.Unmarshal(value, &is) != nil || is.LoadBalancer == "" {
		return
	}
	was, existed := rowAt[weir.Machine](w, "machines", id, before)
	lb, ok := rowAt[weir.LoadBalancer](w, "load_balancers", is.LoadBalancer, before)
	if !ok || !lb.Deleting.IsZero() {
		return
	}
	instances := 0
	for _, m := range rowsAt[weir.Machine](w, "machines", before) {
		if m.LoadBalancer == lb.ID && m.Deleting.IsZero() {
			instances++
		}
	}
	if most := max(lb.Instances, weir.MinInstances); !existed && instances > most {
		w.never("load balancer %s gets an instance beside %d, want at most one more than %d", lb.Name, instances, most)
	}
	if !existed || !was.Deleting.IsZero() || is.Deleting.IsZero() {
		return
	}
	address, _ := rowAt[weir.Address](w, "addresses", lb.ID, before)
	if address.Machine == id && w.works(id) {
		w.never("instance %s of load balancer %s is ended, and it has the address and works", id, lb.Name)
	}
}
