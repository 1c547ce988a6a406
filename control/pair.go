package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/store"
	"weir/weir"
)

// reconcilePair is what cannot wait of [term.reconcileLoadBalancer]: it judges the instances of one
// load balancer, moves its address, and says whom to ask. It reads that load balancer's own rows and no others, so
// that it takes no longer among ten thousand than alone. The rest is touched when there is any.
func (t *term) reconcilePair(ctx context.Context, id weir.ID) (again time.Duration, err error) {
	var v balancerView
	var gone, told, moved, answered bool
	err = t.db.Update(ctx, func(tx *store.Tx) error {
		again, told, moved = 0, false, false
		v, err = readPair(ctx, tx, id)
		if gone = errors.Is(err, weir.NotFound) || err == nil && !v.lb.Deleting.IsZero(); gone {
			return nil
		}
		if err != nil {
			return err
		}
		t.look(&v)
		answered = v.lb.Status.Phase != weir.LoadBalancerActive && v.seen.service.Serves
		lb, health := v.lb, v.judge()
		steps := v.planAddress(health)
		lb.Status.Health = health
		told = tellHealth(tx, &v, health)
		noteArrival(tx, &v, &lb)
		for _, step := range steps {
			if !moves(step) {
				continue
			}
			moved = true
			if lb.Mode == weir.OnSegment {
				steps = append(steps, v.reheld())
			}
		}
		for _, step := range steps {
			if err := step.do(ctx, t, tx, &v, &lb); err != nil {
				return fmt.Errorf("load balancer %s: %s: %w", lb.Name, step, err)
			}
		}
		loadBalancers.Put(tx, id, lb)
		if again = v.seen.pending(); again == 0 && lb.Wanted != "" {
			again = lookAgain
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if gone {
		t.watching.set(id, Target{}, nil)
		return 0, nil
	}
	service, instances := v.targets()
	if t.watching.set(id, service, instances) {
		t.watches.Touch(id)
	}
	if moved {
		t.addresses.Touch(id) // before the store says so
	}
	if told || moved || answered {
		t.loadBalancers.Touch(id)
	}
	return again, nil
}

// readPair returns what there is about a load balancer and the instances that were judged
// before. Each that has a NodeConfig was, so that none is missing whose revision counts.
func readPair(ctx context.Context, tx *store.Tx, id weir.ID) (v balancerView, err error) {
	v = balancerView{configs: map[weir.ID]weir.NodeConfig{}, statuses: map[weir.ID]weir.NodeStatus{}}
	if v.lb, err = loadBalancers.Get(ctx, tx, id); err != nil {
		return v, err
	}
	for _, h := range v.lb.Status.Health {
		m, err := machines.Get(ctx, tx, h.Machine)
		if errors.Is(err, weir.NotFound) {
			continue
		}
		if err != nil {
			return v, err
		}
		v.machines = append(v.machines, m)
	}
	return v, v.readInstances(ctx, tx)
}

// reheld returns the NodeConfigs as they are, but for who is to hold the address.
func (v *balancerView) reheld() (c configure) {
	for _, m := range v.instances() {
		if config, ok := v.configs[m.ID]; ok && config.Hold != nil {
			hold := *config.Hold
			hold.Active = v.address.Machine == m.ID
			config.Hold = &hold
			c.nodes = append(c.nodes, m)
			c.configs = append(c.configs, config)
		}
	}
	return c
}
