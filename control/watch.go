package control

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"weir/weir"
)

// How often a load balancer is asked: seldom while all is well, and again and again while something is
// amiss with it. To ask once costs a tenth of a millisecond of CPU, so that with thousands of load balancers
// there is a limit to how much is asked: a leader that has too much to do finds fault with everybody.
const (
	askCalm      = time.Second
	askAlarmed   = 20 * time.Millisecond  // and then less and less often, if nothing changes
	calmsAfter   = 2 * time.Second        // all have served for so long
	calmShare    = time.Millisecond       // from one calm question to the next, whichever load balancer it is to
	alarmedShare = 500 * time.Microsecond // likewise from one that is alarmed
)

// watched is one load balancer as a leader watches it.
type watched struct {
	service   Target // its address, whoever has it; zero until it has one
	instances []Target

	fresh   bool // it was not looked at yet
	alarmed bool // when it was last looked at
	asked   map[weir.ID]asked
	cut     map[weir.ID]time.Time
	answers asked     // of the service
	amiss   time.Time // when something last was
	changed time.Time // when an answer was last another than before
}

// watch is what a leader knows of instances by itself: in memory alone, for it is only good
// for a moment.
type watch struct {
	mu      sync.Mutex
	all     map[weir.ID]*watched // by load balancer
	alarmed int                  // how many of them are
}

func newWatch() *watch { return &watch{all: map[weir.ID]*watched{}} }

// set says whom to ask for a load balancer; without instances nobody. It reports whether
// that are others than before.
func (w *watch) set(lb weir.ID, service Target, instances []Target) (others bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.all[lb]
	switch {
	case len(instances) == 0:
		w.alarm(x, false)
		delete(w.all, lb)
		return false
	case x == nil:
		x = &watched{fresh: true, asked: map[weir.ID]asked{}}
		w.all[lb] = x
	case reflect.DeepEqual(x.service, service) && reflect.DeepEqual(x.instances, instances):
		return false
	}
	x.service, x.instances = service, instances
	there := func(id weir.ID) bool {
		return slices.ContainsFunc(instances, func(t Target) bool { return t.Node == id })
	}
	maps.DeleteFunc(x.asked, func(id weir.ID, _ asked) bool { return !there(id) })
	return true
}

// alarm notes whether something is amiss with one of w's load balancers.
func (w *watch) alarm(x *watched, alarmed bool) {
	if x == nil || x.alarmed == alarmed {
		return
	}
	x.alarmed = alarmed
	if alarmed {
		w.alarmed++
	} else {
		w.alarmed--
	}
}

// calm returns how long to wait between two questions to a load balancer with which all is well.
func (w *watch) calm() time.Duration { return max(askCalm, time.Duration(len(w.all))*calmShare) }

// evidence returns what is known about a load balancer at this moment. Who judges by it has read
// the rows before: what is older than they are could undo what was decided by what is newer.
func (t *term) evidence(lb weir.ID) evidence {
	e := evidence{now: time.Now(), heard: map[weir.ID]weir.NodeStatus{}, asks: t.Prober != nil}
	t.watching.mu.Lock()
	x := t.watching.all[lb]
	if x == nil {
		t.watching.mu.Unlock()
		return e
	}
	e.asked, e.service = maps.Clone(x.asked), x.answers
	instances := x.instances
	t.watching.mu.Unlock()
	t.nodes.mu.Lock()
	defer t.nodes.mu.Unlock()
	for _, target := range instances {
		if s, ok := t.nodes.reported[target.Node]; ok {
			e.heard[target.Node] = s
		}
	}
	return e
}

// look gives v what is known at this moment: see evidence. It notes which instances are cut off.
func (t *term) look(v *balancerView) {
	v.seen = t.evidence(v.lb.ID)
	t.watching.mu.Lock()
	defer t.watching.mu.Unlock()
	x := t.watching.all[v.lb.ID]
	if x == nil {
		return
	}
	cut := map[weir.ID]time.Time{}
	for _, m := range v.instances() {
		if v.cutOff(m.ID) != "" {
			if cut[m.ID] = x.cut[m.ID]; cut[m.ID].IsZero() {
				cut[m.ID] = v.seen.now
			}
		}
	}
	x.cut, v.seen.cut = cut, cut
}

// worries reports whether a node says something that calls for asking at once.
func worries(s weir.NodeStatus) bool {
	if s.HAProxy.Err != "" || len(s.Down) > 0 {
		return true
	}
	return slices.ContainsFunc(s.Peers, func(p weir.PeerStatus) bool {
		return slices.ContainsFunc(p.Paths, func(p weir.PathStatus) bool {
			return p.State != weir.PathUp && p.State != weir.PathUnknown
		})
	})
}

// hear takes in what a node has just reported, before it is stored: time counts when an
// instance has fallen silent.
func (t *term) hear(was, s weir.NodeStatus) {
	if s.LoadBalancer == "" {
		return
	}
	if worries(s) {
		t.watches.Touch(s.LoadBalancer)
	}
	if !reflect.DeepEqual(pathStates(s), pathStates(was)) || s.HAProxy.Err != was.HAProxy.Err || !slices.Equal(s.Down, was.Down) {
		t.pairs.Touch(s.LoadBalancer)
	}
}

// pathStates returns what is of consequence in what a node says of its peers.
func pathStates(s weir.NodeStatus) map[netip.Addr]bool {
	states := map[netip.Addr]bool{}
	for _, p := range s.Peers {
		for _, path := range p.Paths {
			states[path.Addr] = path.State.Lost()
		}
	}
	return states
}

// reconcileWatch asks the address of a load balancer, and while anything is amiss all its
// instances, and has the load balancer looked at when an answer is another than before.
func (t *term) reconcileWatch(ctx context.Context, lb weir.ID) (again time.Duration, err error) {
	t.watching.mu.Lock()
	x := t.watching.all[lb]
	if x == nil || t.Prober == nil {
		t.watching.mu.Unlock()
		return 0, nil
	}
	service, instances := x.service, x.instances
	alarmed := time.Since(x.amiss) < calmsAfter || t.worried(instances)
	t.watching.alarm(x, alarmed)
	fresh, calm := x.fresh, t.watching.calm()
	x.fresh = false
	t.watching.mu.Unlock()
	if fresh && !alarmed {
		return rand.N(calm), nil // not all at once
	}

	began := time.Now()
	var answers Finding
	found := make([]Finding, len(instances))
	var wg sync.WaitGroup
	if service.Health.IsValid() {
		wg.Go(func() { answers = t.Prober.Probe(ctx, service) })
	}
	if alarmed {
		for i, target := range instances {
			wg.Go(func() { found[i] = t.Prober.Probe(ctx, target) })
		}
	}
	wg.Wait()
	if ctx.Err() != nil {
		return 0, nil
	}

	t.watching.mu.Lock()
	defer t.watching.mu.Unlock()
	if t.watching.all[lb] != x {
		return askAlarmed, nil
	}
	changed := false
	if service.Health.IsValid() {
		changed = answers != x.answers.Finding
		x.answers = x.answers.after(answers, began)
		if !answers.Serves {
			x.amiss = time.Now()
		}
	}
	if alarmed {
		for i, target := range instances {
			changed = changed || found[i] != x.asked[target.Node].Finding
			x.asked[target.Node] = x.asked[target.Node].after(found[i], began)
			if !found[i].Serves || !found[i].Agent {
				x.amiss = time.Now()
			}
		}
	}
	if changed {
		x.changed = began
		t.pairs.Touch(lb)
	}
	if alarmed || service.Health.IsValid() && !answers.Serves {
		least := max(askAlarmed, time.Duration(t.watching.alarmed)*alarmedShare)
		return max(least, min(time.Since(x.changed)/8, calm)), nil
	}
	clear(x.asked) // of old answers nobody knows whether they still hold
	return calm*9/10 + rand.N(calm/5), nil
}

// worried reports whether the last report of an instance calls for asking.
func (t *term) worried(instances []Target) bool {
	t.nodes.mu.Lock()
	defer t.nodes.mu.Unlock()
	return slices.ContainsFunc(instances, func(target Target) bool { return worries(t.nodes.reported[target.Node]) })
}
