package api

import (
	"net/http"
	"time"

	"weir/weir"
)

// split has groups share requests.
func (a *api) split(w http.ResponseWriter, r *http.Request) error {
	lb, err := a.loadBalancer(r)
	if err != nil {
		return err
	}
	var q Splitting
	if err := decodeOwn(w, r, &q); err != nil {
		return err
	}
	if q.Split == nil {
		return invalid("split is missing, want percentages by group, such as {\"green\": 5}, or {} for none")
	}
	if lb, err = a.Control.Split(r.Context(), lb.ID, q.Group, q.Split); err != nil {
		return err
	}
	return a.replyLoadBalancer(w, r, http.StatusOK, lb)
}

// maintain puts a load balancer into maintenance, or ends that.
func (a *api) maintain(w http.ResponseWriter, r *http.Request) error {
	lb, err := a.loadBalancer(r)
	if err != nil {
		return err
	}
	var q Maintaining
	if err := decodeOwn(w, r, &q); err != nil {
		return err
	}
	if q.On == nil {
		return invalid("on is missing, want true or false")
	}
	lb, err = a.Control.Maintain(r.Context(), lb.ID, func(m *weir.Maintenance) {
		m.On = *q.On
		if q.Page != nil {
			m.Page = *q.Page
		}
		if q.RetryAfterSeconds != nil {
			m.RetryAfter = seconds(*q.RetryAfterSeconds, 0)
		}
		if q.Allow != nil {
			m.Allow = none(q.Allow)
		}
	})
	if err != nil {
		return err
	}
	return a.replyLoadBalancer(w, r, http.StatusOK, lb)
}

// target returns the load balancer that a path names, and which of its targets a body means.
func (a *api) target(w http.ResponseWriter, r *http.Request) (lb weir.LoadBalancer, q TargetDrain, machine weir.ID, err error) {
	if lb, err = a.loadBalancer(r); err != nil {
		return lb, q, "", err
	}
	if err := decodeOwn(w, r, &q); err != nil {
		return lb, q, "", err
	}
	if q.DropletID < 1 {
		return lb, q, "", invalid("droplet_id is %d, want the ID of a droplet", q.DropletID)
	}
	ids, err := machineIDs([]int64{q.DropletID})
	if err != nil {
		return lb, q, "", err
	}
	return lb, q, ids[0], nil
}

// drainTarget keeps a target from getting requests of a load balancer.
func (a *api) drainTarget(w http.ResponseWriter, r *http.Request) error {
	lb, q, machine, err := a.target(w, r)
	if err != nil {
		return err
	}
	var finish *time.Duration
	if q.Seconds != nil {
		d := seconds(*q.Seconds, 0)
		finish = &d
	}
	lb, alone, err := a.Control.DrainTarget(r.Context(), lb.ID, machine, finish)
	if err != nil {
		return err
	}
	all, err := a.servers(r.Context(), lb)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"load_balancer": a.loadBalancerWords(lb, all), "alone": alone})
}

// undrainTarget lets a target get requests again.
func (a *api) undrainTarget(w http.ResponseWriter, r *http.Request) error {
	lb, _, machine, err := a.target(w, r)
	if err != nil {
		return err
	}
	if lb, err = a.Control.UndrainTarget(r.Context(), lb.ID, machine); err != nil {
		return err
	}
	return a.replyLoadBalancer(w, r, http.StatusOK, lb)
}
