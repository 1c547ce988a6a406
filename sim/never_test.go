package sim

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"weir/store"
	"weir/weir"
)

// The rows that commits are looked through for.
const (
	addressRows = "weir/row/addresses/"
	machineRows = "weir/row/machines/"
)

// commit makes what a member commits, and looks at what it decided.
func (w *world) commit(ctx context.Context, l *lossy, txn store.Txn) (int64, bool, error) {
	revision, ok, err := w.memory.Commit(ctx, txn)
	if err != nil || !ok {
		return revision, ok, err
	}
	for _, p := range txn.Puts {
		if owner, ok := strings.CutPrefix(p.Key, addressRows); ok {
			w.addressPut(l, weir.ID(owner), p.Value, revision)
		} else if strings.HasPrefix(p.Key, machineRows) {
			w.machinePut(p.Key, p.Value, revision)
		}
	}
	return revision, ok, err
}

// decided is a load balancer with all that a commit may have been decided by.
type decided struct {
	lb        weir.LoadBalancer
	address   weir.Address
	instances []weir.Machine // those that are to stay
	statuses  map[weir.ID]weir.NodeStatus
}

// rowAt returns one row as it was at a revision.
func rowAt[T any](w *world, key string, revision int64) (row T, ok bool) {
	entries, _, err := w.memory.Read(context.WithoutCancel(w.ctx), store.Span{Key: key}, revision)
	if err != nil || len(entries) == 0 {
		return row, false
	}
	if err := json.Unmarshal(entries[0].Value, &row); err != nil {
		w.never("row %s cannot be read: %v", key, err)
		return row, false
	}
	return row, true
}

// decidedAt returns a load balancer as it was at a revision.
func (w *world) decidedAt(id weir.ID, revision int64) (d decided, ok bool) {
	if d.lb, ok = rowAt[weir.LoadBalancer](w, "weir/row/load_balancers/"+string(id), revision); !ok {
		return d, false
	}
	d.address, _ = rowAt[weir.Address](w, addressRows+string(id), revision)
	entries, _, err := w.memory.Read(context.WithoutCancel(w.ctx), store.Span{Key: machineRows, Prefix: true}, revision)
	if err != nil {
		return d, false
	}
	d.statuses = map[weir.ID]weir.NodeStatus{}
	for _, e := range entries {
		var m weir.Machine
		if err := json.Unmarshal(e.Value, &m); err != nil || m.LoadBalancer != id || !m.Deleting.IsZero() {
			continue
		}
		d.instances = append(d.instances, m)
		if s, ok := rowAt[weir.NodeStatus](w, "weir/row/node_statuses/"+string(m.ID), revision); ok {
			d.statuses[m.ID] = s
		}
	}
	return d, true
}

// addressPut looks at the row of an address that was put.
func (w *world) addressPut(l *lossy, owner weir.ID, value []byte, revision int64) {
	was, _ := rowAt[weir.Address](w, addressRows+string(owner), revision-1)
	var is weir.Address
	if err := json.Unmarshal(value, &is); err != nil || is.Machine == "" {
		return
	}
	var gets []weir.ID
	if is.Machine != was.Machine {
		gets = append(gets, is.Machine)
	}
	for _, id := range is.Sharing {
		if id != was.Machine && !slices.Contains(was.Sharing, id) {
			gets = append(gets, id)
		}
	}
	if len(gets) == 0 {
		return
	}
	before, ok := w.decidedAt(owner, revision-1)
	after, still := w.decidedAt(owner, revision)
	if !ok || !still {
		return // it is a user's
	}
	for _, to := range gets {
		runs := before.statuses[to].Revision
		for id, s := range before.statuses {
			if s.Revision > runs {
				w.never("node %s gets the address of %s, and runs revision %d, while node %s runs %d", to, before.lb.Name, runs, id, s.Revision)
			}
		}
	}
	if len(is.Sharing) > 0 {
		w.tally.spread.Add(1)
	}
	if was.Machine == "" || is.Machine == was.Machine {
		return
	}
	w.tell("%s: the address of %s moves from %s to %s", l.name, before.lb.Name, was.Machine, is.Machine)
	f := after.lb.Status.Failover
	switch {
	case f == nil || f.To != is.Machine:
		w.never("the address of %s moves to node %s, and its row does not say so", before.lb.Name, is.Machine)
		return
	case f.Planned:
		w.tally.planned.Add(1)
	default:
		w.tally.moves.Add(1)
		w.flapped(before, after)
	}
	if before.lb.Mode == weir.OnSegment {
		w.tally.segments.Add(1)
	}
	if w.trouble.Load() && chance(w.roll("assassin"), 15) {
		w.tally.killed.Add(1)
		w.tell("chaos: kills %s in the middle of it", l.name)
		l.crash()
	}
}

// flapped looks at a move that nobody asked for: an address does not come back to where it has
// just left from.
func (w *world) flapped(before, after decided) {
	was, is := before.lb.Status.Failover, after.lb.Status.Failover
	if was == nil || was.Planned || was.From != is.To || w.jumps {
		return // by a clock that has jumped it may have been long ago
	}
	if !slices.ContainsFunc(before.instances, func(m weir.Machine) bool { return m.ID == is.From }) {
		return // there is nowhere to stay
	}
	recent := 0
	for _, at := range before.lb.Status.Moves {
		if is.At.Sub(at) < 10*time.Minute {
			recent++
		}
	}
	want := min(time.Second<<recent, 15*time.Second)
	if recent == 0 {
		want = 0
	}
	if gap := is.At.Sub(was.At); gap < want {
		w.never("the address of %s is back at node %s after %v and %d moves, want at least %v", before.lb.Name, is.To, gap, recent, want)
	}
}

// machinePut looks at the row of a machine that was put.
func (w *world) machinePut(key string, value []byte, revision int64) {
	var is weir.Machine
	if err := json.Unmarshal(value, &is); err != nil || is.Own {
		return
	}
	was, there := rowAt[weir.Machine](w, key, revision-1)
	switch {
	case is.LoadBalancer == "":
		if was.Condemned == "" && is.Condemned != "" {
			w.condemned(is, revision)
		}
		if was.Deleting.IsZero() && !is.Deleting.IsZero() {
			w.known.leaves(is)
		}
	case !there:
		d, ok := w.decidedAt(is.LoadBalancer, revision)
		if want := d.lb.WantInstances(); ok && len(d.instances) > want+1 {
			w.never("load balancer %s is given instance %s, and has %d then, want %d", d.lb.Name, is.ID, len(d.instances), want)
		}
	case was.Deleting.IsZero() && !is.Deleting.IsZero():
		w.ended(was, revision)
	}
}

// condemned notes that a pool replaces machines.
func (w *world) condemned(m weir.Machine, revision int64) {
	p, ok := rowAt[weir.Pool](w, "weir/row/pools/"+string(m.Pool), revision)
	k := &w.known
	k.mu.Lock()
	defer k.mu.Unlock()
	k.replacing = append(k.replacing, m.Pool)
	if ok && p.Name == "batch" {
		k.most++ // one is made in its place, unless its host is up again before
	}
}

// leaves has nobody count on a machine of a pool that replaced any: if a host is up again before another serves, either may go.
func (k *knowledge) leaves(m weir.Machine) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.Contains(k.replacing, m.Pool) {
		k.replaced = append(k.replaced, m.ID)
	}
}

// unaware is how long after an instance stopped serving the control plane may still count on it.
const unaware = 5 * time.Second

// ended looks at an instance that is to be destroyed: if it could serve, another does.
func (w *world) ended(m weir.Machine, revision int64) {
	d, ok := w.decidedAt(m.LoadBalancer, revision)
	if !ok || !d.lb.Deleting.IsZero() {
		return
	}
	w.tally.fences.Add(1)
	n := w.at(m.ID)
	if n == nil || n.live().Revision == 0 || !w.works(n) {
		return
	}
	w.tally.serving.Add(1)
	has := d.address.Assigned // and perhaps it moves on, from an instance that is well
	other := w.at(has)
	switch {
	case !slices.ContainsFunc(d.instances, func(other weir.Machine) bool { return other.ID == has && has != m.ID }):
		w.never("instance %s of %s serves and is destroyed, and no other has the address, but %q", m.ID, d.lb.Name, has)
	case d.address.Machine == m.ID || slices.Contains(d.address.Sharing, m.ID) || slices.Contains(d.address.Shared, m.ID):
		w.never("instance %s of %s is destroyed, and has the address, or is to have it", m.ID, d.lb.Name)
	case other == nil || !w.works(other) && time.Since(time.Unix(0, other.worked.Load())) > unaware:
		w.never("instance %s of %s serves and is destroyed, and %s, which has the address, does not serve", m.ID, d.lb.Name, has)
	}
}
