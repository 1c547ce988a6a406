package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"weir/cloud"
	"weir/control"
	"weir/vip"
	"weir/weir"
)

// nodes are the machines that run an agent, by ID.
type nodes struct {
	mu  sync.Mutex
	all map[weir.ID]*node
}

// node is a machine with an agent and its HAProxy. What the agent knows of its NodeConfig is
// on its disk, and outlives a power-off; a machine that is made anew has a new disk.
type node struct {
	w     *world
	id    weir.ID
	own   bool       // a machine of one's own
	addr  netip.Addr // of such a one
	token string
	key   string
	skew  time.Duration // of its clock

	// What befalls it.
	frozen    fault // neither its agent nor its HAProxy does anything, while its kernel answers
	wedged    fault // its HAProxy does nothing
	killed    fault // its agent is dead
	severed   fault // it reaches none of its servers
	unplugged fault // a machine of one's own is off

	// What others meet, and may look at while it is at work.
	on      atomic.Bool  // its machine is
	runs    atomic.Bool  // its agent does
	proxies atomic.Bool  // its HAProxy does
	holding atomic.Bool  // its agent says that it has the address
	newest  atomic.Int64 // the revision that its agent knows
	worked  atomic.Int64 // when it was last seen to serve, in nanoseconds since 1970

	mu      sync.Mutex
	config  weir.NodeConfig       // live
	known   weir.NodeConfig       // the newest, live or not
	toldAt  time.Time             // when this agent was last told so; zero while that is from the disk
	err     string                // why a newer one is not live
	checked map[weir.ID]time.Time // when a server's first checks pass
	leaving map[weir.ID]time.Time // until when a server that left finishes its requests
	paths   map[way]*path         // to its peers: from is unused
	due     map[string]chan struct{}
	work    chan struct{} // known has changed
	permit  *vip.Permit
	holder  holder
}

// fault is something that may befall a node several times at once.
type fault struct{ n atomic.Int32 }

func (f *fault) is() bool { return f.n.Load() > 0 }

// hold returns what has f befall n, and that returns what ends it.
func (n *node) hold(f *fault) func() func() {
	return func() func() {
		f.n.Add(1)
		n.w.net.poke()
		return func() {
			f.n.Add(-1)
			n.w.net.poke()
		}
	}
}

// path is what the heartbeats to one address of a peer show.
type path struct {
	state  weir.PathState
	since  time.Time
	broken time.Time // since when nothing was heard; zero if it is
	word   vip.Word
}

// holder is an address on an interface, as package vip has it there.
type holder struct {
	on    bool
	since time.Time
	until time.Time // the end of permission
	left  time.Time // until when the kernel keeps what an agent that died has left
}

// The beats of an agent.
const (
	beatLate   = 40 * time.Millisecond
	beatSilent = 80 * time.Millisecond
	statusBeat = 5 * time.Second
	holderBeat = time.Second
	answerTime = 15 * time.Second
	pollWait   = 50 * time.Second
)

// serving returns the nodes that send requests to a machine, or let it finish some.
func (w *world) serving(machine weir.ID) (ids []weir.ID) {
	for _, n := range w.nodes.list() {
		if n.sends(machine) && w.isOn(n) {
			ids = append(ids, n.id)
		}
	}
	return ids
}

// isOn reports whether the machine of n is on at this moment. The node itself may not have
// seen yet that it is off.
func (w *world) isOn(n *node) bool {
	if n.own || !n.on.Load() {
		return n.on.Load()
	}
	all, err := w.cloud.Machines(direct(context.WithoutCancel(w.ctx)))
	return err == nil && slices.ContainsFunc(all, func(m cloud.Machine) bool { return m.ID == n.id && m.On })
}

func (n *node) sends(machine weir.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proxies.Load() && (n.config.Proxy.Serves(machine) || time.Now().Before(n.leaving[machine]))
}

// serves reports whether the HAProxy of n answers.
func (n *node) serves() bool {
	return n.on.Load() && n.proxies.Load() && !n.frozen.is() && !n.wedged.is()
}

// get returns a node, or nil.
func (ns *nodes) get(id weir.ID) *node {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.all[id]
}

// list returns all nodes, by ID.
func (ns *nodes) list() (all []*node) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(ns.all)) {
		all = append(all, ns.all[id])
	}
	return all
}

// live returns what n does.
func (n *node) live() weir.NodeConfig {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.config
}

var tokenIn = regexp.MustCompile(`[A-Z2-7]{26}`)

// process is an agent that runs.
type process struct {
	stop context.CancelFunc
	done chan struct{}
}

// boot runs an agent on each machine that is an instance of a load balancer or one of our own, is on
// and has booted.
func (w *world) boot() {
	running := map[weir.ID]process{}
	defer func() {
		for _, p := range running {
			p.stop()
			<-p.done
		}
	}()
	for w.ctx.Err() == nil {
		changes := w.net.changes()
		up := w.machinesOn()
		for id, p := range running {
			if n := w.nodes.get(id); !up[id] || n.killed.is() {
				p.stop()
				<-p.done
				delete(running, id)
			}
		}
		poke := false
		for _, n := range w.nodes.list() {
			switch {
			case n.on.Load() && !up[n.id]:
				n.turnedOff()
				poke = true
			case !n.on.Load() && up[n.id]:
				n.on.Store(true)
				poke = true
			}
			if _, ok := running[n.id]; up[n.id] && !ok && !n.killed.is() {
				ctx, stop := context.WithCancel(w.ctx)
				p := process{stop, make(chan struct{})}
				running[n.id] = p
				go func() {
					defer close(p.done)
					n.run(ctx)
				}()
			}
			if w.works(n) {
				n.worked.Store(time.Now().UnixNano())
			}
		}
		if poke {
			w.net.poke()
			continue
		}
		select {
		case <-w.ctx.Done():
		case <-changes:
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// machinesOn returns which machines are on and have booted, and sees to it that each that is to be a
// node is one, and none else.
func (w *world) machinesOn() map[weir.ID]bool {
	up := map[weir.ID]bool{}
	all, err := w.cloud.Machines(direct(w.ctx))
	if err != nil {
		return up // the history is over
	}
	there := map[weir.ID]bool{}
	for _, m := range all {
		there[m.ID] = true
		up[m.ID] = m.On && m.Boot.State == weir.BootDone
		w.node(m)
	}
	for _, n := range w.nodes.list() {
		if n.own {
			there[n.id], up[n.id] = true, !n.unplugged.is()
		}
		if !there[n.id] && n.on.Load() {
			n.turnedOff()
			w.net.poke()
		}
	}
	w.nodes.forget(there)
	return up
}

func (ns *nodes) forget(there map[weir.ID]bool) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	maps.DeleteFunc(ns.all, func(id weir.ID, n *node) bool { return !there[id] && !n.runs.Load() })
}

// node makes m a node if it is a load balancer's instance.
func (w *world) node(m cloud.Machine) {
	w.nodes.mu.Lock()
	defer w.nodes.mu.Unlock()
	key := fmt.Sprint("key ", w.cloud.Made(m.ID))
	if n := w.nodes.all[m.ID]; n != nil && n.key == key {
		return
	}
	if token, ok := w.isNode(m.ID); ok {
		w.nodes.all[m.ID] = w.newNode(m.ID, token, key)
	}
}

func (w *world) newNode(id weir.ID, token, key string) *node {
	n := &node{w: w, id: id, token: token, key: key, permit: &vip.Permit{}, work: make(chan struct{}, 1),
		checked: map[weir.ID]time.Time{}, leaving: map[weir.ID]time.Time{}, paths: map[way]*path{}, due: map[string]chan struct{}{}}
	for _, m := range w.members {
		n.due[m.name] = make(chan struct{}, 1)
	}
	n.skew = time.Duration(w.random("clock of "+string(id)).IntN(7200)-3600) * time.Second
	return n
}

// isNode reports whether a machine of the cloud is to become a node, and its token.
func (w *world) isNode(id weir.ID) (token string, ok bool) {
	spec, ok := w.cloud.Spec(id)
	token = tokenIn.FindString(spec.UserData)
	return token, ok && token != ""
}

// turnedOff has n's machine go off.
func (n *node) turnedOff() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.on.Store(false)
	n.proxies.Store(false)
	n.holding.Store(false)
	n.holder = holder{}
	clear(n.leaving)
}

// run is the agent of n until its machine is off, or it is killed.
func (n *node) run(ctx context.Context) {
	r := n.w.roll("node " + string(n.id))
	n.mu.Lock()
	n.permit, n.toldAt, n.err = &vip.Permit{}, time.Time{}, ""
	clear(n.paths)
	n.newest.Store(n.known.Revision)
	n.mu.Unlock()
	defer n.died()
	n.runs.Store(true)
	n.w.net.poke()
	if n.live().Revision != 0 && !n.proxies.Load() && sleep(ctx, upTo(r, 300*time.Millisecond)) {
		n.proxies.Store(true) // from the disk
	}
	for !n.enrol(ctx, r) {
		if !sleep(ctx, time.Second) {
			return
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, m := range n.w.members {
		wg.Go(func() { n.poll(ctx, m) })
		wg.Go(func() { n.report(ctx, m) })
	}
	wg.Go(func() { n.watch(ctx) })
	if n.own {
		wg.Go(func() { n.keep(ctx) })
	}
	n.follow(ctx, r)
}

// died leaves what an agent leaves that is killed.
func (n *node) died() {
	n.runs.Store(false)
	n.holding.Store(false)
	n.mu.Lock()
	if n.holder.on {
		n.holder = holder{left: n.holder.until.Add(vip.Bound(vip.DefaultLife) - vip.DefaultLife), since: n.holder.since}
	}
	n.mu.Unlock()
	n.w.net.poke()
}

// awake waits until n is not frozen, or returns false if ctx ends before.
func (n *node) awake(ctx context.Context) bool {
	for n.frozen.is() && ctx.Err() == nil {
		changes := n.w.net.changes()
		if !n.frozen.is() {
			break
		}
		select {
		case <-ctx.Done():
		case <-changes:
		}
	}
	return ctx.Err() == nil
}

var errTimeout = weir.Errorf(weir.Unavailable, "i/o timeout")

// call calls one member of the control plane over the network, and waits for its answer.
func (n *node) call(ctx context.Context, r *rand.Rand, m *member, patience time.Duration, do func(context.Context, *control.Control) error) error {
	if !n.awake(ctx) {
		return ctx.Err()
	}
	trouble := n.w.trouble.Load()
	if trouble && chance(r, 20) {
		sleep(ctx, upTo(r, 500*time.Millisecond))
	}
	if !n.w.net.both(string(n.id), m.name, public) {
		if !n.await(ctx, answerTime, string(n.id), m.name) {
			return errTimeout
		}
	}
	up := m.get()
	switch {
	case up == nil:
		return weir.Errorf(weir.Unavailable, "%w", syscall.ECONNREFUSED)
	case trouble && chance(r, 3):
		return weir.Errorf(weir.Unavailable, "the control plane cannot be reached")
	case trouble && patience < pollWait && chance(r, 2): // it is late, when we have given up
		after := upTo(r, 5*time.Second)
		n.w.wg.Go(func() {
			if sleep(up.ctx, after) {
				do(up.ctx, up.Control)
			}
		})
		return errTimeout
	}
	its, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer context.AfterFunc(up.ctx, cancel)()
	err := do(its, up.Control)
	if trouble && err == nil && patience < pollWait && chance(r, 3) {
		err = do(its, up.Control) // what was sent is repeated
	}
	if !n.w.net.reaches(m.name, string(n.id), public) && !n.await(ctx, answerTime, m.name, string(n.id)) {
		return errTimeout
	}
	if !n.awake(ctx) {
		return ctx.Err()
	}
	if trouble && chance(r, 3) {
		return weir.Errorf(weir.Unavailable, "the control plane's answer was lost")
	}
	if up.ctx.Err() != nil {
		return weir.Errorf(weir.Unavailable, "the connection was reset")
	}
	return err
}

// await waits until from reaches to, as packets that are sent again do, or for patience.
func (n *node) await(ctx context.Context, patience time.Duration, from, to string) bool {
	end := time.After(patience)
	for ctx.Err() == nil {
		changes := n.w.net.changes()
		if n.w.net.reaches(from, to, public) && n.w.net.reaches(to, from, public) {
			return true
		}
		select {
		case <-ctx.Done():
		case <-changes:
		case <-end:
			return false
		}
	}
	return false
}

func (n *node) enrol(ctx context.Context, r *rand.Rand) bool {
	for _, m := range n.w.members {
		err := n.call(ctx, r, m, answerTime, func(ctx context.Context, c *control.Control) error {
			id, err := c.Enrol(ctx, n.token, []byte(n.key))
			if err == nil && id != n.id {
				n.w.never("the token of node %s made it node %s", n.id, id)
			}
			return err
		})
		if err == nil {
			return true
		}
	}
	return false
}

// retry is how long an agent waits after failures in a row.
type retry struct{ d time.Duration }

func (b *retry) wait(ctx context.Context, r *rand.Rand) {
	b.d = min(max(2*b.d, 200*time.Millisecond), 10*time.Second)
	sleep(ctx, b.d/2+time.Duration(r.Int64N(int64(b.d))))
}

// poll waits for NodeConfigs of one member.
func (n *node) poll(ctx context.Context, m *member) {
	r := n.w.roll("poll of node " + string(n.id) + " at " + m.name)
	var again retry
	var after int64
	for ctx.Err() == nil {
		var config weir.NodeConfig
		nothing := false
		err := n.call(ctx, r, m, pollWait, func(ctx context.Context, c *control.Control) (err error) {
			began := time.Now()
			config, err = c.NodeConfig(ctx, n.id, after)
			if nothing = err != nil && time.Since(began) >= pollWait; nothing {
				return nil
			}
			return err
		})
		switch {
		case ctx.Err() != nil:
		case err != nil:
			n.permitOf().Failed(m.name, err)
			again.wait(ctx, r)
		default:
			again = retry{}
			if !nothing {
				n.take(config, after)
				after = config.Revision
			}
		}
	}
}

func (n *node) permitOf() *vip.Permit {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.permit
}

// take takes a NodeConfig in, as package agent does.
func (n *node) take(config weir.NodeConfig, after int64) {
	if config.Node != n.id {
		n.w.never("node %s got the configuration of node %s", n.id, config.Node)
	}
	n.mu.Lock()
	if told := !n.toldAt.IsZero(); told && config.Revision < n.known.Revision && after != n.known.Revision {
		n.mu.Unlock()
		return
	}
	n.known, n.toldAt = config, time.Now()
	n.newest.Store(config.Revision)
	n.mu.Unlock()
	n.w.net.poke() // its answers to heartbeats are others now
	select {
	case n.work <- struct{}{}:
	default:
	}
}

// follow makes the newest NodeConfig live.
func (n *node) follow(ctx context.Context, r *rand.Rand) {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.work:
		case <-again:
		}
		again = nil
		if n.w.trouble.Load() {
			sleep(ctx, upTo(r, 3*time.Second))
		}
		if !n.awake(ctx) {
			return
		}
		if n.w.trouble.Load() && chance(r, 5) {
			n.mu.Lock()
			n.err = "haproxy rejects the configuration, this time"
			n.mu.Unlock()
			again = time.After(time.Second)
		} else {
			n.apply(r)
		}
		n.tell()
	}
}

// apply makes what is known live: servers that it no longer has finish their requests.
func (n *node) apply(r *rand.Rand) {
	n.mu.Lock()
	defer n.mu.Unlock()
	config := n.known
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
	if n.config.Revision != config.Revision {
		n.w.tell("node %s: runs revision %d: servers %v", n.id, config.Revision, slices.Sorted(maps.Keys(serversOf(config.Proxy))))
	}
	n.config, n.err = config, ""
	n.proxies.Store(true)
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

// tell has all members be told at once how n is.
func (n *node) tell() {
	for _, due := range n.due {
		select {
		case due <- struct{}{}:
		default:
		}
	}
}

// report says to one member how n is, now and then and whenever something changes.
func (n *node) report(ctx context.Context, m *member) {
	r := n.w.roll("reports of node " + string(n.id) + " to " + m.name)
	var again retry
	for ctx.Err() == nil {
		if !n.awake(ctx) {
			return
		}
		began := time.Now()
		var revision int64
		s := n.status()
		err := n.call(ctx, r, m, answerTime, func(ctx context.Context, c *control.Control) error {
			at, err := c.Report(ctx, s)
			revision = at
			return err
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			n.permitOf().Failed(m.name, err)
			again.wait(ctx, r)
			continue
		}
		again = retry{}
		if revision == n.newest.Load() {
			n.permitOf().Reported(began)
		}
		every := statusBeat
		if n.holding.Load() {
			every = holderBeat
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return
		}
		select {
		case <-ctx.Done():
		case <-n.due[m.name]:
		case <-time.After(every):
		}
	}
}

func (n *node) status() weir.NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	s := weir.NodeStatus{Node: n.id, Revision: n.config.Revision, Err: n.err, Agent: weir.Version,
		HAProxy: weir.HAProxyStatus{Version: "2.6.12", PID: 100}}
	if n.wedged.is() {
		s.HAProxy.Err = "it does not answer"
	}
	for _, b := range n.config.Proxy.Backends {
		for _, server := range b.Servers {
			state := weir.ServerUp
			switch {
			case now.Before(n.checked[server.ID]):
				state = weir.ServerChecking
			case n.severed.is():
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
	if n.known.Group != nil {
		for _, peer := range n.known.Group.Peers {
			all := weir.PeerStatus{Node: peer.Node}
			for i, addr := range peer.Addrs {
				on := weir.PathStatus{Addr: addr, State: weir.PathUnknown}
				if p := n.paths[way{to: string(peer.Node), path: pathOf(i, len(peer.Addrs))}]; p != nil {
					on.State, on.Since = p.state, p.since.Add(n.skew).UTC()
				}
				all.Paths = append(all.Paths, on)
			}
			s.Peers = append(s.Peers, all)
		}
	}
	if n.own {
		s.Host = &weir.HostStatus{Name: "host", Addrs: []netip.Prefix{netip.PrefixFrom(n.addr, segment.Bits())}}
		if n.holding.Load() {
			s.Held = &weir.HeldStatus{Addr: segment, Since: n.holder.since.Add(n.skew).UTC()}
		}
	}
	return s
}

// watch follows what n hears of its peers, as heartbeats would show it.
func (n *node) watch(ctx context.Context) {
	slow := n.w.roll("beats of node " + string(n.id))
	wedged, severed := false, false
	for ctx.Err() == nil {
		changes := n.w.net.changes()
		if n.frozen.is() {
			n.awake(ctx)
			n.forgive()
			continue
		}
		changed, next := n.look()
		if is := n.wedged.is(); is != wedged { // the agent sees it a moment later
			wedged, changed = is, true
		}
		if is := n.severed.is(); is != severed {
			severed, changed = is, true
		}
		if changed {
			sleep(ctx, upTo(slow, 5*time.Millisecond))
			n.tell()
		}
		select {
		case <-ctx.Done():
		case <-changes:
		case <-time.After(next):
		}
	}
}

// forgive has peers that were not heard while n itself stood still be heard anew.
func (n *node) forgive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.paths {
		if !p.broken.IsZero() {
			p.broken = time.Now()
		}
	}
}

// look brings what n knows of its peers to this moment, and returns whether a state has changed,
// and after how long one may by itself.
func (n *node) look() (changed bool, next time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	next = time.Hour
	if n.known.Group == nil {
		return false, next
	}
	there := map[way]bool{}
	for _, peer := range n.known.Group.Peers {
		other := n.w.at(peer.Node)
		for i := range peer.Addrs {
			key := way{to: string(peer.Node), path: pathOf(i, len(peer.Addrs))}
			there[key] = true
			p := n.paths[key]
			if p == nil {
				p = &path{state: weir.PathUnknown, since: now, broken: now}
				n.paths[key] = p
			}
			was := p.state
			answers, refused := n.w.hears(n, other, key.path)
			if answers {
				p.state, p.broken = weir.PathUp, time.Time{}
				p.word = vip.Word{Heard: now, Holding: other.holding.Load(), Revision: other.newest.Load()}
			} else {
				if p.broken.IsZero() {
					p.broken = now
					p.word.Heard = now // until this moment it was heard
				}
				silent := now.Sub(p.broken)
				switch {
				case refused:
					p.state = weir.PathRefused
				case was == weir.PathUnknown:
				case silent >= beatSilent:
					p.state = weir.PathSilent
				case silent >= beatLate:
					p.state, next = weir.PathLate, min(next, beatSilent-silent)
				default:
					next = min(next, beatLate-silent)
				}
			}
			if p.state != was {
				p.since, changed = now, true
			}
		}
	}
	maps.DeleteFunc(n.paths, func(w way, _ *path) bool { return !there[w] })
	return changed, next
}

// words returns what the peers of n last said.
func (n *node) words() (all []vip.Word) {
	n.look()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known.Group == nil {
		return nil
	}
	for _, peer := range n.known.Group.Peers {
		var last vip.Word
		for i := range peer.Addrs {
			if p := n.paths[way{to: string(peer.Node), path: pathOf(i, len(peer.Addrs))}]; p != nil && p.word.Heard.After(last.Heard) {
				last = p.word
			}
		}
		all = append(all, last)
	}
	return all
}
