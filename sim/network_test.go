package sim

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"weir/weir"
)

// The paths on which a machine is reached.
const (
	private = "private"
	public  = "public" // where clients reach it, and the control plane
)

// clients is where clients are, on the network.
const clients = "clients"

// way is one direction between two who have something to say to each other: machines by their
// IDs, members of the control plane by their names, clients. An empty end or path is any.
type way struct{ from, to, path string }

// network says who reaches whom.
type network struct {
	mu    sync.Mutex
	cuts  map[way]int   // how many faults cut it
	moved chan struct{} // closed, and replaced, when anybody may hear more or less than before
}

func newNetwork() *network { return &network{cuts: map[way]int{}, moved: make(chan struct{})} }

// reaches reports whether what from sends to to arrives.
func (n *network) reaches(from, to, path string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.cuts) == 0 {
		return true
	}
	for _, w := range []way{{from, to, path}, {from, to, ""}, {from, "", path}, {from, "", ""}, {"", to, path}, {"", to, ""}} {
		if n.cuts[w] > 0 {
			return false
		}
	}
	return true
}

// both reports whether a question arrives, and the answer to it.
func (n *network) both(from, to, path string) bool {
	return n.reaches(from, to, path) && n.reaches(to, from, path)
}

// cut cuts ways, and returns what heals them.
func (n *network) cut(ways ...way) (heal func()) {
	n.add(1, ways)
	return func() { n.add(-1, ways) }
}

func (n *network) add(d int, ways []way) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range ways {
		if n.cuts[w] += d; n.cuts[w] == 0 {
			delete(n.cuts, w)
		}
	}
	n.wake()
}

// poke has all look again at whom they reach.
func (n *network) poke() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wake()
}

func (n *network) wake() {
	close(n.moved)
	n.moved = make(chan struct{})
}

// changes returns what is closed when anything changes after this moment.
func (n *network) changes() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.moved
}

// breakage is one fault that lasts a while.
type breakage struct {
	what  string
	on    func() (heal func())
	flaps bool
}

// breaks breaks and heals networks, nodes and their parts until ctx ends; then all is whole.
func (w *world) breaks(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	r := w.random("breaks")
	for sleep(ctx, upTo(r, 8*time.Second)) {
		nodes := w.nodes.list()
		if len(nodes) == 0 {
			continue
		}
		b := w.breakage(r, nodes[r.IntN(len(nodes))], nodes)
		times, lasts, pause := 1, upTo(r, 20*time.Second), time.Duration(0)
		if chance(r, 25) || b.flaps {
			times, lasts, pause = 2+r.IntN(8), upTo(r, 3*time.Second), upTo(r, 3*time.Second)
		}
		w.tell("breaks: %s, %d times for %v", b.what, times, lasts)
		wg.Go(func() {
			for range times {
				heal := b.on()
				sleep(ctx, lasts)
				heal()
				w.tell("heals: %s", b.what)
				if !sleep(ctx, pause) {
					return
				}
			}
		})
	}
}

// breakage returns a random fault that concerns n, or the members of the control plane.
func (w *world) breakage(r *rand.Rand, n *node, nodes []*node) breakage {
	id := string(n.id)
	member := w.members[r.IntN(len(w.members))].name
	path := []string{private, public, ""}[r.IntN(3)]
	directions := func(a, b, path string) ([]way, string) {
		in, out := way{a, b, path}, way{b, a, path}
		return [][]way{{in}, {out}, {in, out}}[r.IntN(3)], "from " + a + " to " + b + " " + path
	}
	cut := func(ways []way, what string) breakage {
		return breakage{"the network " + what, func() func() { return w.net.cut(ways...) }, false}
	}
	switch dice := r.IntN(100); {
	case dice < 14: // a machine, or its network card
		ways, _ := directions(id, "", path)
		return cut(ways, "of node "+id+" "+path)
	case dice < 26:
		other := nodes[r.IntN(len(nodes))]
		ways, what := directions(id, string(other.id), path)
		return cut(ways, what)
	case dice < 36:
		ways, what := directions(id, member, "")
		return cut(ways, what)
	case dice < 42: // all of the control plane
		var ways []way
		for _, m := range w.members {
			ways = append(ways, way{id, m.name, ""}, way{m.name, id, ""})
		}
		return cut(ways, "between node "+id+" and the control plane")
	case dice < 50:
		ways := []way{}
		for _, m := range w.members {
			if m.name != member {
				ways = append(ways, way{member, m.name, ""}, way{m.name, member, ""})
			}
		}
		return cut(ways, "of "+member+" to the other members")
	case dice < 54:
		ways := []way{}
		for _, a := range w.members {
			for _, b := range w.members {
				if a != b {
					ways = append(ways, way{a.name, b.name, ""})
				}
			}
		}
		return cut(ways, "among members")
	case dice < 58: // to and fro
		one, two, turns := n, n.peer(nodes), 0
		return breakage{"nodes " + id + " and " + string(two.id) + " stand still in turn", func() func() {
			turns++
			if turns%2 == 0 {
				return two.hold(&two.frozen)()
			}
			return one.hold(&one.frozen)()
		}, true}
	case dice < 66:
		return breakage{"node " + id + " stands still", n.hold(&n.frozen), false}
	case dice < 76:
		return breakage{"HAProxy of node " + id + " stands still", n.hold(&n.wedged), false}
	case dice < 84:
		return breakage{"the agent of node " + id + " is dead", n.hold(&n.killed), false}
	case dice < 92:
		return breakage{"node " + id + " does not reach its servers", n.hold(&n.severed), false}
	default:
		if !n.own {
			hesitates := upTo(r, 2*beatSilent)
			return breakage{"node " + id + " hesitates for " + hesitates.String(), func() func() {
				heal := n.hold(&n.frozen)()
				time.Sleep(hesitates)
				heal()
				return func() {}
			}, false}
		}
		return breakage{"node " + id + " is off", n.hold(&n.unplugged), false}
	}
}

// works reports whether a node can serve clients, in truth.
func (w *world) works(n *node) bool {
	return n.serves() && w.net.both(clients, string(n.id), public) && w.isOn(n)
}

// hears reports whether the agent of n hears that of another on a path, and whether at least
// its kernel says that no agent is there.
func (w *world) hears(n, other *node, path string) (answers, refused bool) {
	if other == nil || !other.on.Load() || !w.net.both(string(n.id), string(other.id), path) {
		return false, false
	}
	if other.frozen.is() {
		return false, !other.runs.Load()
	}
	return other.runs.Load(), !other.runs.Load()
}

// peer returns another instance of n's load balancer, or n if there is none.
func (n *node) peer(nodes []*node) *node {
	for _, other := range nodes {
		if other != n && other.live().Proxy.LoadBalancer == n.live().Proxy.LoadBalancer {
			return other
		}
	}
	return n
}

// at returns the node with that ID, or nil.
func (w *world) at(id weir.ID) *node { return w.nodes.get(id) }
