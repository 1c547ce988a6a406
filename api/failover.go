package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

// failoverTimeout is how long a hand-over may take before its caller is told that it is not
// done yet.
const failoverTimeout = 30 * time.Second

// someEvents is how many events are answered with unless the caller says otherwise.
const someEvents = 100

// failover hands a load balancer over, and answers when its address has moved.
func (a *api) failover(w http.ResponseWriter, r *http.Request) error {
	lb, err := a.loadBalancer(r)
	if err != nil {
		return err
	}
	var q Handover
	if r.ContentLength != 0 {
		if err := decode(w, r, &q); err != nil {
			return err
		}
	}
	to, err := a.instance(r.Context(), lb, q.To)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), failoverTimeout)
	defer cancel()
	done, err := a.Control.Failover(ctx, lb.ID, to)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"failover": done})
}

// instance returns the ID of the instance of lb that has that name or ID; none for "".
func (a *api) instance(ctx context.Context, lb weir.LoadBalancer, name string) (weir.ID, error) {
	if name == "" {
		return "", nil
	}
	all, err := a.Control.Machines(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, m := range all {
		if m.LoadBalancer != lb.ID {
			continue
		}
		if m.Name == name || string(m.ID) == name {
			return m.ID, nil
		}
		names = append(names, m.Name)
	}
	if len(names) == 0 {
		return "", invalid("to is %.80q, and load balancer %q has no instances yet", name, lb.Name)
	}
	return "", invalid("to is %.80q, want an instance of load balancer %q: %s", name, lb.Name, strings.Join(names, ", "))
}

// drain keeps a machine from serving, or lets it serve again.
func (a *api) drain(w http.ResponseWriter, r *http.Request) error {
	id, err := numericID(r, "id")
	if err != nil {
		return err
	}
	var q Draining
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if q.Drained == nil {
		return invalid("drained is missing, want true or false")
	}
	if err := a.Control.DrainMachine(r.Context(), id, *q.Drained); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// events answers with what happened, the oldest first: the newest of all, or of what came
// after an event that the caller has already.
func (a *api) events(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit := someEvents
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > MaxEvents {
			return invalid("limit is %.40q, want 1 to %d", text, MaxEvents)
		}
		limit = n
	}
	after := q.Get("after")
	if after != "" && !opaque.MatchString(after) {
		return invalid("after is %.40q, want the ID of an event", after)
	}
	lb, err := a.balancerOf(r.Context(), q.Get("load_balancer"))
	if err != nil {
		return err
	}
	all, err := a.Control.Events(r.Context(), lb, weir.ID(after), limit)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"events": some(all)})
}

// balancerOf returns the ID of the load balancer of that ID or name, which may be one that
// only events know any more; none for "".
func (a *api) balancerOf(ctx context.Context, name string) (weir.ID, error) {
	if name == "" {
		return "", nil
	}
	lb, err := a.findBalancer(ctx, name)
	if err == nil {
		return lb.ID, nil
	}
	all, listed := a.Control.Events(ctx, "", "", 0)
	if listed != nil {
		return "", listed
	}
	for _, e := range slices.Backward(all) {
		if e.LoadBalancer != "" && (e.Name == name || string(e.LoadBalancer) == name) {
			return e.LoadBalancer, nil
		}
	}
	return "", err
}
