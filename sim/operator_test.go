package sim

import (
	"context"
	"errors"
	"slices"
	"time"

	"weir/control"
	"weir/weir"
)

var errFits = errors.New("there is room for all")

// operate is an operator who deletes what a small cloud has no room for.
func (w *world) operate(machines, addresses int) {
	r := w.random("operator")
	for {
		s, err := w.look()
		if err != nil {
			w.never("what there is cannot be read: %v", err)
			return
		}
		gone := s.tooMuch(machines, addresses)
		err = w.ask(w.ctx, r, time.Minute, func(ctx context.Context, c *control.Control) error {
			switch {
			case gone.balancer != "":
				w.tell("operator: deletes load balancer %s", gone.balancer)
				w.known.learn(exists("load balancer", gone.balancer), false, nil)
				return c.DeleteLoadBalancer(ctx, gone.balancer)
			case gone.pool != "":
				w.tell("operator: deletes autoscale pool %s", gone.pool)
				w.known.learn(exists("pool", gone.pool), false, nil)
				return c.DeleteAutoscalePool(ctx, gone.pool, true)
			case gone.machine != "":
				w.tell("operator: deletes machine %s", gone.machine)
				w.known.learn(exists("machine", gone.machine), false, nil)
				return c.DeleteMachine(ctx, gone.machine)
			case gone.something:
				return weir.Errorf(weir.Unavailable, "what is too much is not there yet")
			}
			return errFits
		})
		if errors.Is(err, errFits) {
			return
		}
		if err != nil {
			w.tell("operator: %v", err)
			time.Sleep(time.Second)
		}
	}
}

// excess is one thing that there is no room for, or something that has no row yet.
type excess struct {
	balancer, pool, machine weir.ID
	something               bool
}

// tooMuch returns what to delete next in a cloud with room for so much.
func (s *snapshot) tooMuch(room, addresses int) excess {
	var balancers []weir.ID
	instances, servers := 0, 0
	for _, lb := range s.lbs {
		if lb.Deleting.IsZero() && lb.Mode == weir.InCloud {
			balancers = append(balancers, lb.ID)
			instances += lb.WantInstances()
		}
	}
	for _, a := range s.addresses {
		ofBalancer := slices.ContainsFunc(s.lbs, func(lb weir.LoadBalancer) bool { return lb.ID == a.Owner })
		if !ofBalancer && a.Deleting.IsZero() && a.Mode == weir.InCloud {
			addresses--
		}
	}
	var pool, last weir.ID
	for _, p := range s.pools {
		servers += p.Count
		if p.Autoscale != nil && p.Deleting.IsZero() {
			pool = p.ID
			servers++ // while it replaces its machines
		}
	}
	for _, m := range s.machines {
		if m.LoadBalancer != "" || m.Own || !m.Deleting.IsZero() {
			continue
		}
		last = m.ID
		if m.Pool == "" {
			servers++
		}
	}
	switch {
	case len(balancers) > max(0, addresses) || instances > room:
		return excess{balancer: balancers[len(balancers)-1]}
	case instances+servers > room && pool != "": // it would replace a machine that is deleted
		return excess{pool: pool}
	case instances+servers > room:
		return excess{machine: last, something: true}
	}
	return excess{}
}
