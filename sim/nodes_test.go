package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync"
	"time"

	"weir/cloud"
	"weir/control"
	"weir/weir"
)

// nodes are the machines that run an agent, by ID.
type nodes struct {
	mu  sync.Mutex
	all map[weir.ID]*node
}

// node is an agent with its HAProxy. What it knows is on its disk, and outlives a
// power-off; a machine that is made anew has a new disk.
type node struct {
	w     *world
	id    weir.ID
	token string
	key   string

	mu      sync.Mutex
	on      bool
	config  weir.NodeConfig       // live
	err     string                // why a newer one is not
	checked map[weir.ID]time.Time // when a server's first checks pass
	leaving map[weir.ID]time.Time // until when a server that left finishes its requests
	peers   []weir.PeerStatus     // as it hears them
	skew    time.Duration         // of its clock
	news    chan struct{}         // something to report
}

// serving returns the nodes that send requests to a machine, or let it finish some.
func (w *world) serving(machine weir.ID) (ids []weir.ID) {
	all, err := w.cloud.Machines(direct(w.ctx))
	if err != nil {
		return nil // the history is over
	}
	for _, m := range all {
		if n := w.nodes.get(m.ID); m.On && n != nil && n.serves(machine) {
			ids = append(ids, n.id)
		}
	}
	return ids
}

func (n *node) serves(machine weir.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.on && (n.config.Proxy.Serves(machine) || time.Now().Before(n.leaving[machine]))
}

// get returns a node, or nil.
func (ns *nodes) get(id weir.ID) *node {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.all[id]
}

// live returns what n does.
func (n *node) live() weir.NodeConfig {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.config
}

var tokenIn = regexp.MustCompile(`[A-Z2-7]{26}`)

// boot runs an agent on each machine of the cloud that is an instance of a load
// balancer, is on and has booted.
func (w *world) boot() {
	var wg sync.WaitGroup
	defer wg.Wait()
	stops := map[weir.ID]context.CancelFunc{}
	for sleep(w.ctx, 200*time.Millisecond) {
		all, err := w.cloud.Machines(direct(w.ctx))
		if err != nil {
			continue
		}
		up := map[weir.ID]bool{}
		there := map[weir.ID]bool{}
		for _, m := range all {
			there[m.ID] = true
			up[m.ID] = m.On && m.Boot.State == weir.BootDone
		}
		for id, stop := range stops {
			if !up[id] {
				stop()
				delete(stops, id)
			}
		}
		w.nodes.forget(there)
		for _, m := range all {
			if n := w.node(m); n != nil && up[m.ID] && stops[m.ID] == nil {
				ctx, stop := context.WithCancel(w.ctx)
				stops[m.ID] = stop
				wg.Go(func() { n.run(ctx) })
			}
		}
	}
	for _, stop := range stops {
		stop()
	}
}

func (ns *nodes) forget(there map[weir.ID]bool) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	maps.DeleteFunc(ns.all, func(id weir.ID, _ *node) bool { return !there[id] })
}

// node returns the node that m is, or nil if it is no load balancer's instance.
func (w *world) node(m cloud.Machine) *node {
	w.nodes.mu.Lock()
	defer w.nodes.mu.Unlock()
	if n := w.nodes.all[m.ID]; n != nil {
		return n
	}
	token, ok := w.isNode(m.ID)
	if !ok {
		return nil
	}
	n := &node{w: w, id: m.ID, token: token, key: fmt.Sprint("key ", w.cloud.Made(m.ID)), news: make(chan struct{}, 1),
		checked: map[weir.ID]time.Time{}, leaving: map[weir.ID]time.Time{}}
	n.skew = upTo(w.random("clock "+string(m.ID)), 2*time.Hour) - time.Hour
	w.nodes.all[m.ID] = n
	return n
}

// isNode reports whether a machine of the cloud is to become a node, and its token.
func (w *world) isNode(id weir.ID) (token string, ok bool) {
	spec, ok := w.cloud.Spec(id)
	token = tokenIn.FindString(spec.UserData)
	return token, ok && token != ""
}

// run is n while its machine is on.
func (n *node) run(ctx context.Context) {
	n.set(true)
	defer n.set(false)
	r := n.w.roll("node " + string(n.id))
	for !n.enrol(ctx, r) {
		if !sleep(ctx, time.Second) {
			return
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	reports := n.w.roll("reports of node " + string(n.id))
	wg.Go(func() { n.report(ctx, reports) })
	wg.Go(func() { n.listen(ctx) })
	for ctx.Err() == nil {
		n.pull(ctx, r)
	}
}

func (n *node) set(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.on, n.peers = on, nil
	clear(n.leaving) // nothing is left of them when the machine has been off
	n.w.ether.touch()
}

// ask calls the control plane, as far as it can be reached.
func (n *node) ask(ctx context.Context, r *rand.Rand, patience time.Duration, do func(context.Context, *control.Control) error) error {
	n.await(ctx)
	if h := n.w.ether.of(n.id); h.in[private] || h.out[private] {
		sleep(ctx, upTo(r, time.Second))
		return weir.Errorf(weir.Unavailable, "the control plane cannot be reached")
	}
	trouble := n.w.trouble.Load()
	if trouble {
		sleep(ctx, upTo(r, 500*time.Millisecond))
		if chance(r, 3) {
			return weir.Errorf(weir.Unavailable, "the control plane cannot be reached")
		}
	}
	err := n.w.ask(ctx, r, patience, do)
	if trouble && chance(r, 3) {
		return weir.Errorf(weir.Unavailable, "the control plane's answer was lost")
	}
	return err
}

func (n *node) enrol(ctx context.Context, r *rand.Rand) bool {
	err := n.ask(ctx, r, 10*time.Second, func(ctx context.Context, c *control.Control) error {
		id, err := c.Enrol(ctx, n.token, []byte(n.key))
		if err == nil && id != n.id {
			n.w.never("the token of node %s made it node %s", n.id, id)
		}
		return err
	})
	return err == nil
}

// pull waits for a NodeConfig and does what it says.
func (n *node) pull(ctx context.Context, r *rand.Rand) {
	live := n.live().Revision
	var config weir.NodeConfig
	err := n.ask(ctx, r, 30*time.Second, func(ctx context.Context, c *control.Control) (err error) {
		config, err = c.NodeConfig(ctx, n.id, live)
		return err
	})
	if err != nil || config.Revision <= live { // a member that restarted may be behind
		sleep(ctx, 500*time.Millisecond)
		return
	}
	if n.w.trouble.Load() {
		sleep(ctx, upTo(r, 3*time.Second))
		if chance(r, 5) {
			n.refuse("haproxy rejects the configuration, this time")
			return
		}
	}
	if ctx.Err() == nil {
		n.apply(config, r)
	}
}

func (n *node) refuse(why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = why
	n.tell()
}

func (n *node) tell() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// apply makes config live: servers that it no longer has finish their requests.
func (n *node) apply(config weir.NodeConfig, r *rand.Rand) {
	if config.Node != n.id {
		n.w.never("node %s got the configuration of node %s", n.id, config.Node)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for id := range serversOf(n.config.Proxy) {
		if !config.Proxy.Serves(id) {
			n.leaving[id] = now.Add(upTo(r, config.Proxy.Drain))
			delete(n.checked, id)
		}
	}
	for id := range serversOf(config.Proxy) {
		if boot, ok := n.w.bootOf(id); ok && boot.State == weir.BootFailed {
			n.w.never("node %s sends requests to machine %s, whose user-data failed", n.id, id)
		}
		delete(n.leaving, id)
		if _, ok := n.checked[id]; !ok {
			n.checked[id] = now.Add(upTo(r, 3*time.Second))
		}
	}
	n.config, n.err = config, ""
	n.w.ether.touch()
	n.w.tell("node %s: runs revision %d: servers %v", n.id, config.Revision, slices.Sorted(maps.Keys(serversOf(config.Proxy))))
	n.tell()
}

// bootOf returns what becomes of a machine's boot, if it is there.
func (w *world) bootOf(id weir.ID) (weir.Boot, bool) {
	spec, ok := w.cloud.Spec(id)
	_, boot := w.boots(spec)
	return boot, ok
}

// serversOf returns the machines that p sends requests to.
func serversOf(p weir.Proxy) map[weir.ID]bool {
	ids := map[weir.ID]bool{}
	for _, b := range p.Backends {
		for _, s := range b.Servers {
			ids[s.ID] = true
		}
	}
	return ids
}

// report says what n does, now and then and whenever something changes.
func (n *node) report(ctx context.Context, r *rand.Rand) {
	for {
		n.ask(ctx, r, 10*time.Second, func(ctx context.Context, c *control.Control) error {
			_, err := c.Report(ctx, n.status())
			return err
		})
		if !sleep(ctx, 5*time.Millisecond) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-n.news:
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (n *node) status() weir.NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	s := weir.NodeStatus{Node: n.id, Revision: n.config.Revision, Err: n.err, Agent: weir.Version,
		HAProxy: weir.HAProxyStatus{Version: "2.6.12", PID: 100}, Peers: n.peers}
	h := n.w.ether.of(n.id)
	if h.wedged {
		s.HAProxy.Err = "HAProxy does not answer"
	}
	for _, b := range n.config.Proxy.Backends {
		for _, server := range b.Servers {
			state := weir.ServerUp
			if now.Before(n.checked[server.ID]) {
				state = weir.ServerChecking
			}
			if h.stray {
				state = weir.ServerDown
			}
			s.Servers = append(s.Servers, weir.ServerStatus{Backend: b.Name, ID: server.ID, State: state})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.leaving)) {
		if now.After(n.leaving[id]) {
			delete(n.leaving, id)
			continue
		}
		s.Servers = append(s.Servers, weir.ServerStatus{Backend: "leaving", ID: id, State: weir.ServerDraining})
	}
	return s
}
