package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"weir/store"
	"weir/weir"
)

// Failover hands a load balancer over to another of its instances, on purpose, and returns
// when the address has moved. An empty to is the best one that stands by. It is a
// weir.Conflict if there is none that could take over, or if to cannot, with why; then the
// instance that is active stays so. If ctx ends first, the error is weir.Unavailable and the move may
// still come, within a minute of the call.
func (c *Control) Failover(ctx context.Context, id, to weir.ID) (done weir.Failover, err error) {
	var asked weir.LoadBalancer
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		if _, err := loadBalancers.Own(ctx, tx, id); err != nil {
			return err
		}
		v, err := c.readBalancer(ctx, tx, id)
		if err != nil {
			return err
		}
		if !v.lb.Deleting.IsZero() {
			return weir.Errorf(weir.NotFound, "load balancer %q is being deleted", v.lb.Name)
		}
		target, err := v.target(to)
		if err != nil {
			return err
		}
		v.lb.Wanted, v.lb.WantedAt = target.ID, time.Now().UTC()
		asked = v.lb
		loadBalancers.Put(tx, id, v.lb)
		tellEvent(tx, weir.Event{Team: v.lb.Team, Kind: weir.EventRequest, LoadBalancer: id, Name: v.lb.Name, Machine: target.ID,
			Text: "a user hands over to " + target.Name})
		return nil
	})
	if err != nil {
		return done, err
	}
	for {
		lb, err := loadBalancers.Get(ctx, c.Store, id)
		if err != nil {
			return done, err
		}
		switch f := lb.Status.Failover; {
		case f != nil && f.To == asked.Wanted && f.Took > 0 && (asked.Status.Failover == nil || !f.At.Equal(asked.Status.Failover.At)):
			return *f, nil
		case lb.Wanted != asked.Wanted && lb.Status.Active != asked.Wanted:
			return done, weir.Errorf(weir.Conflict, "load balancer %q: the hand-over was given up: see its events", lb.Name)
		}
		select {
		case <-ctx.Done():
			return done, weir.Errorf(weir.Unavailable, "load balancer %q: it has not been handed over yet: %s", asked.Name, strings.Join(lb.Status.Plan, ", "))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// target returns the instance that a user may hand over to: the one with that ID, or the best.
func (v *balancerView) target(to weir.ID) (weir.Machine, error) {
	var unfit []string
	// Of two that could, the one that has no share of the address yet.
	instances := v.instances()
	slices.SortStableFunc(instances, func(a, b weir.Machine) int {
		return cmp.Compare(slices.Index(v.lb.Status.Sharing, a.ID), slices.Index(v.lb.Status.Sharing, b.ID)) // -1: none
	})
	for _, m := range instances {
		h := v.health(m.ID)
		switch {
		case m.ID == v.lb.Status.Active:
			if to == m.ID {
				return m, weir.Errorf(weir.Conflict, "load balancer %q: %s is its active instance already", v.lb.Name, m.Name)
			}
		case to != "" && to != m.ID:
		case h.State == weir.InstanceWell && v.live(m.ID):
			return m, nil
		case h.State == weir.InstanceWell:
			unfit = append(unfit, m.Name+" does not run the newest configuration yet")
		default:
			unfit = append(unfit, fmt.Sprintf("%s %s%s", m.Name, h.State.Phrase(), because(h.Why)))
		}
	}
	if to != "" && len(unfit) == 0 {
		return weir.Machine{}, weir.Errorf(weir.NotFound, "load balancer %q has no instance %s", v.lb.Name, to)
	}
	why := "it has no other instance"
	if len(unfit) > 0 {
		why = strings.Join(unfit, ", ")
	}
	return weir.Machine{}, weir.Errorf(weir.Conflict, "load balancer %q cannot be handed over: %s", v.lb.Name, why)
}

// health returns what the leader last judged of an instance.
func (v *balancerView) health(id weir.ID) weir.Health {
	i := slices.IndexFunc(v.lb.Status.Health, func(h weir.Health) bool { return h.Machine == id })
	if i < 0 {
		return weir.Health{Machine: id, State: weir.InstanceBoots}
	}
	return v.lb.Status.Health[i]
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
