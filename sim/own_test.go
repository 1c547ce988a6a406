package sim

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"weir/vip"
	"weir/weir"
)

// segment is the address that machines of one's own hold by themselves.
var segment = netip.MustParsePrefix("192.0.2.10/24")

// joins has machines of one's own join, and makes a load balancer of them.
func (w *world) joins(t *testing.T) {
	c := w.members[0].get().Control
	for i := range 3 {
		m, token, err := c.AddNode(w.ctx, fmt.Sprintf("own-%d", i+1))
		if err != nil {
			t.Fatalf("add node: %v", err)
		}
		n := w.newNode(m.ID, token, "key of "+m.Name)
		n.own, n.addr = true, netip.AddrFrom4([4]byte{192, 0, 2, byte(31 + i)})
		w.nodes.mu.Lock()
		w.nodes.all[m.ID] = n
		w.nodes.mu.Unlock()
	}
	lb := balancer("own", "")
	lb.Mode, lb.Addr = weir.OnSegment, segment
	lb.Servers = []netip.Addr{netip.MustParseAddr("192.0.2.21"), netip.MustParseAddr("192.0.2.22")}
	if _, err := c.CreateLoadBalancer(w.ctx, lb); err != nil {
		t.Fatalf("create load balancer: %v", err)
	}
	w.wg.Go(w.watchHolders)
}

// relieved is how long a node goes on holding an address that another is to have, if it does not
// see that one have it before: as in package agent.
const relieved = 300 * time.Millisecond

// keep holds the address for as long as it may, as package agent does.
func (n *node) keep(ctx context.Context) {
	set := false
	var leaving time.Time
	for n.awake(ctx) {
		changes := n.w.net.changes()
		words := n.words()
		n.mu.Lock()
		known, toldAt, permit := n.known, n.toldAt, n.permit
		n.mu.Unlock()
		want := known.Hold != nil && known.Hold.Active
		at := permit.At(n.w.names(), words, known.Revision, !toldAt.IsZero())
		latest := at
		if toldAt.After(latest) {
			latest = toldAt
		}
		n.lapse()
		lost := want && set && !n.holding.Load()
		switch {
		case want || !set || known.Hold == nil:
			leaving = time.Time{}
		case leaving.IsZero():
			leaving = time.Now()
		}
		switch {
		case set == want && !lost:
			n.renew(at)
		case want && time.Since(latest) > time.Second:
		case !leaving.IsZero() && time.Since(leaving) < relieved && !n.taken():
		default:
			n.setAddress(want, latest)
			set = want
			n.tell()
		}
		n.mu.Lock()
		left := time.Until(n.holder.until)
		n.mu.Unlock()
		if left <= 0 {
			left = time.Hour
		}
		if !leaving.IsZero() && set {
			left = min(left, max(relieved-time.Since(leaving), 0))
		}
		select {
		case <-ctx.Done():
		case <-changes:
		case <-time.After(min(200*time.Millisecond, left)):
		}
	}
}

// taken reports whether another node holds the address too, which n learns by its announcement.
func (n *node) taken() bool {
	for _, other := range n.w.nodes.list() {
		if _, holds := other.holds(); holds && other != n && other.own && n.w.net.reaches(string(other.id), string(n.id), public) {
			return true
		}
	}
	return false
}

// names returns the names of the members, which are their URLs too.
func (w *world) names() (names []string) {
	for _, m := range w.members {
		names = append(names, m.name)
	}
	return names
}

// lapse removes an address whose permission has ended.
func (n *node) lapse() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.holder.on && !time.Now().Before(n.holder.until) {
		n.w.tell("node %s: gives up the address", n.id)
		n.holder = holder{}
		n.holding.Store(false)
		n.tell()
	}
}

// renew holds the address for longer.
func (n *node) renew(at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if until := at.Add(vip.DefaultLife); n.holder.on && until.After(n.holder.until) {
		n.holder.until = until
	}
}

// setAddress takes the address, or gives it up.
func (n *node) setAddress(want bool, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !want {
		if n.holder.on {
			n.w.tell("node %s: gives the address away", n.id)
		}
		n.holder = holder{left: n.holder.left}
		n.holding.Store(false)
		return
	}
	if until := at.Add(vip.DefaultLife); time.Now().Before(until) {
		n.w.tell("node %s: takes the address", n.id)
		n.holder = holder{on: true, since: time.Now(), until: until}
		n.holding.Store(true)
		n.w.net.poke()
	}
}

// holds reports whether the kernel of n has the address, and since when. An agent that cannot
// remove it leaves that to its lifetime.
func (n *node) holds() (since time.Time, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.holder
	until := h.left
	if h.on {
		until = h.until
		if n.frozen.is() || !n.runs.Load() {
			until = until.Add(vip.Bound(vip.DefaultLife) - vip.DefaultLife)
		}
	}
	return h.since, n.on.Load() && time.Now().Before(until)
}

// watchHolders sees to it that no two nodes hold the address for longer than is promised.
func (w *world) watchHolders() {
	const every = 100 * time.Millisecond
	var since time.Time
	for sleep(w.ctx, every) {
		var who []weir.ID
		for _, n := range w.nodes.list() {
			if _, ok := n.holds(); ok && n.own {
				who = append(who, n.id)
			}
		}
		switch {
		case len(who) < 2:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
			w.tally.two.Add(1)
		case time.Since(since) > vip.Bound(vip.DefaultLife)+every:
			w.never("nodes %v have both held the address since %v", who, since.Sub(w.begin))
			since = time.Now().Add(time.Hour)
		}
	}
}
