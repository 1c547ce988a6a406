package control

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"weir/store"
	"weir/weir"
)

// events are what happened, by ID, which sorts them by time.
var events = newTeamed("events", func(e weir.Event) weir.ID { return e.Team })

// tellEvent writes an event in the transaction that it tells of, so that both are made or
// neither. Its ID is its time and a random word: a number in sequence would have all
// decisions, of which there are many when much breaks, wait for one another.
func tellEvent(tx *store.Tx, e weir.Event) {
	e.At = time.Now().UTC()
	e.ID = weir.ID(fmt.Sprintf("%016x%08x", e.At.UnixNano(), rand.Uint32()))
	events.Put(tx, e.ID, e)
}

// tellOf tells of a load balancer and one of its instances.
func tellOf(tx *store.Tx, lb *weir.LoadBalancer, m weir.Machine, kind weir.EventKind, text string) {
	tellEvent(tx, weir.Event{Team: lb.Team, Kind: kind, LoadBalancer: lb.ID, Name: lb.Name, Machine: m.ID, Text: text})
}

// tellHealth tells which instances are not what they were thought to be before, if there are any.
func tellHealth(tx *store.Tx, v *balancerView, health []weir.Health) (told bool) {
	for _, h := range health {
		if was := v.health(h.Machine); was.State != h.State {
			m := v.machine(h.Machine)
			tellOf(tx, &v.lb, m, weir.EventEvidence, fmt.Sprintf("%s %s%s", m.Name, h.State.Phrase(), because(h.Why)))
			told = true
		}
	}
	return told
}

// noteArrival notes that an address has got to where it was to move.
func noteArrival(tx *store.Tx, v *balancerView, lb *weir.LoadBalancer) {
	f := lb.Status.Failover
	if f == nil || f.Took > 0 || v.address == nil || v.address.Assigned != f.To {
		return
	}
	arrived := *f
	arrived.Took = max(time.Since(f.At), time.Microsecond)
	lb.Status.Failover = &arrived
	tellOf(tx, lb, v.machine(f.To), weir.EventStep, fmt.Sprintf("the address is at %s, %.1f ms after the decision", f.ToName, float64(arrived.Took)/float64(time.Millisecond)))
}

// Events returns what happened after the event with that ID, at most limit (0: all that is
// remembered) of the newest, the oldest of them first. With lb it returns what concerns that load
// balancer alone. Who operates the region is told of all teams. Events that happened at different members within the difference of
// their clocks may be in either order.
func (c *Control) Events(ctx context.Context, lb, after weir.ID, limit int) ([]weir.Event, error) {
	all, err := events.AllSeen(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(e weir.Event) bool {
		return e.ID <= after || lb != "" && e.LoadBalancer != lb
	})
	slices.SortFunc(all, func(a, b weir.Event) int { return cmp.Compare(a.ID, b.ID) })
	if limit > 0 && len(all) > limit {
		all = all[len(all)-limit:]
	}
	return all, nil
}

// sweepEvents deletes what happened long ago, and the oldest of too many.
func sweepEvents(ctx context.Context, tx *store.Tx) error {
	all, err := events.All(ctx, tx)
	if err != nil {
		return err
	}
	long := time.Now().Add(-keptFor)
	for i, e := range all {
		if e.At.Before(long) || i < len(all)-keptMost {
			events.Delete(tx, e.ID)
		}
	}
	return nil
}
