package api

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/http"
	"slices"

	"weir/weir"
)

func (a *api) listLoadBalancers(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	names, uuids := q["names"], q["uuids"]
	var read reader[weir.LoadBalancer] = func(from, n int) ([]weir.LoadBalancer, int, error) {
		return a.Control.LoadBalancerPage(r.Context(), weir.Filter{}, from, n)
	}
	if names != nil || uuids != nil {
		chosen, err := a.chosenBalancers(r.Context(), names, uuids)
		if err != nil {
			return err
		}
		read = cut(chosen)
	}
	return pageWith(w, r, "load_balancers", read, func(lb weir.LoadBalancer) (loadBalancerWire, error) {
		machines, err := a.servers(r.Context(), lb)
		return a.loadBalancerWords(lb, machines), err
	})
}

// chosenBalancers returns the load balancers that have one of the names, and one of the IDs; nil stands for any.
func (a *api) chosenBalancers(ctx context.Context, names, uuids []string) (chosen []weir.LoadBalancer, err error) {
	seen := map[weir.ID]bool{}
	add := func(lb weir.LoadBalancer) {
		fits := (names == nil || slices.Contains(names, lb.Name)) && (uuids == nil || slices.Contains(uuids, string(lb.ID)))
		if fits && !seen[lb.ID] {
			seen[lb.ID] = true
			chosen = append(chosen, lb)
		}
	}
	for _, name := range names {
		named, _, err := a.Control.LoadBalancerPage(ctx, weir.Filter{Name: name}, 0, math.MaxInt)
		if err != nil {
			return nil, err
		}
		for _, lb := range named {
			add(lb)
		}
	}
	for _, id := range uuids {
		lb, err := a.Control.LoadBalancer(ctx, weir.ID(id))
		if err != nil && !errors.Is(err, weir.NotFound) {
			return nil, err
		}
		if err == nil {
			add(lb)
		}
	}
	slices.SortFunc(chosen, func(a, b weir.LoadBalancer) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return chosen, nil
}

// servers returns the machines that a load balancer's tag means; none if it goes by IDs.
func (a *api) servers(ctx context.Context, lb weir.LoadBalancer) ([]weir.Machine, error) {
	if lb.Tag == "" {
		return nil, nil
	}
	return a.tagged(ctx, lb.Tag)
}

// replyLoadBalancer answers with one load balancer.
func (a *api) replyLoadBalancer(w http.ResponseWriter, r *http.Request, status int, lb weir.LoadBalancer) error {
	machines, err := a.servers(r.Context(), lb)
	if err != nil {
		return err
	}
	return reply(w, status, map[string]any{"load_balancer": a.loadBalancerWords(lb, machines)})
}

func (a *api) getLoadBalancer(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	lb, err := a.Control.LoadBalancer(r.Context(), id)
	if err != nil {
		return err
	}
	return a.replyLoadBalancer(w, r, http.StatusOK, lb)
}

func (a *api) createLoadBalancer(w http.ResponseWriter, r *http.Request) error {
	var q loadBalancerRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if q.IP != "" {
		return invalid("ip is %.40q: Weir reserves a load balancer's address itself, leave it out", q.IP)
	}
	lb := weir.LoadBalancer{Team: weir.CallerOf(r.Context()).Team, Size: weir.DefaultNodeSize, Instances: weir.MinInstances}
	if err := a.inVPC(q.VPCUUID); err != nil {
		return err
	}
	if err := q.set(&lb, a.Control.Region()); err != nil {
		return err
	}
	status, create := http.StatusAccepted, a.Control.CreateLoadBalancer
	if q.ValidateOnly {
		status, create = http.StatusOK, a.Control.CheckLoadBalancer
	}
	lb, err := create(r.Context(), lb)
	if err != nil {
		return err
	}
	return a.replyLoadBalancer(w, r, status, lb)
}

// replaceLoadBalancer makes a load balancer what the body says, all of it.
func (a *api) replaceLoadBalancer(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	var q loadBalancerRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if err := a.inVPC(q.VPCUUID); err != nil {
		return err
	}
	if err := a.forgetEcho(r, &q); err != nil {
		return err
	}
	change := func(lb *weir.LoadBalancer) error { return q.set(lb, a.Control.Region()) }
	var lb weir.LoadBalancer
	if q.ValidateOnly {
		if lb, err = a.Control.LoadBalancer(r.Context(), id); err == nil {
			err = change(&lb)
		}
		if err == nil {
			lb, err = a.Control.CheckLoadBalancer(r.Context(), lb)
		}
	} else {
		lb, err = a.Control.UpdateLoadBalancer(r.Context(), id, change)
	}
	if err != nil {
		return err
	}
	return a.replyLoadBalancer(w, r, http.StatusOK, lb)
}

// forgetEcho drops the droplets of a body that has a tag too, if all of them have the
// tag: they are what reading the load balancer said, and clients write back what they
// have read. Any other droplet beside a tag is refused as it is in a new one.
func (a *api) forgetEcho(r *http.Request, q *loadBalancerRequest) error {
	if q.Tag == "" || len(q.DropletIDs) == 0 {
		return nil
	}
	all, err := a.tagged(r.Context(), q.Tag)
	if err != nil {
		return err
	}
	tagged := map[int64]bool{}
	for _, m := range all {
		tagged[number(m.ID)] = true
	}
	if !slices.ContainsFunc(q.DropletIDs, func(id int64) bool { return !tagged[id] }) {
		q.DropletIDs = nil
	}
	return nil
}

func (a *api) deleteLoadBalancer(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	if err := a.Control.DeleteLoadBalancer(r.Context(), id); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// purgeCache says why there is no cache to purge.
func (a *api) purgeCache(w http.ResponseWriter, r *http.Request) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	lb, err := a.Control.LoadBalancer(r.Context(), id)
	if err != nil {
		return err
	}
	return invalid("load balancer %q is REGIONAL, and only a GLOBAL one has a cache: there is nothing to purge", lb.Name)
}

// changeLoadBalancer changes what a path names, and answers that it is done.
func (a *api) changeLoadBalancer(w http.ResponseWriter, r *http.Request, change func(*weir.LoadBalancer) error) error {
	id, err := opaqueID(r, "id")
	if err != nil {
		return err
	}
	_, err = a.Control.UpdateLoadBalancer(r.Context(), id, func(lb *weir.LoadBalancer) error {
		if err := change(lb); err != nil {
			return err
		}
		return lb.Check(a.Control.Region())
	})
	if err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// dropletIDs is the body that names droplets.
type dropletIDs struct {
	DropletIDs []int64 `json:"droplet_ids"`
}

// dropletsIn returns the droplets that a body names.
func dropletsIn(w http.ResponseWriter, r *http.Request) ([]weir.ID, error) {
	var q dropletIDs
	if err := decode(w, r, &q); err != nil {
		return nil, err
	}
	if len(q.DropletIDs) == 0 {
		return nil, invalid("droplet_ids is empty, want the IDs of droplets")
	}
	return machineIDs(q.DropletIDs)
}

func (a *api) addDroplets(w http.ResponseWriter, r *http.Request) error {
	ids, err := dropletsIn(w, r)
	if err != nil {
		return err
	}
	return a.changeLoadBalancer(w, r, func(lb *weir.LoadBalancer) error {
		if lb.Tag != "" {
			return byTag(lb)
		}
		lb.Machines = join(lb.Machines, ids)
		return nil
	})
}

func (a *api) removeDroplets(w http.ResponseWriter, r *http.Request) error {
	ids, err := dropletsIn(w, r)
	if err != nil {
		return err
	}
	return a.changeLoadBalancer(w, r, func(lb *weir.LoadBalancer) error {
		if lb.Tag != "" {
			return byTag(lb)
		}
		lb.Machines = without(lb.Machines, ids)
		return nil
	})
}

func byTag(lb *weir.LoadBalancer) error {
	return invalid("load balancer %q has the droplets with the tag %q: tag or untag droplets instead", lb.Name, lb.Tag)
}

// forwardingRules is the body that names rules.
type forwardingRules struct {
	Rules []ForwardingRule `json:"forwarding_rules"`
}

// rulesIn returns the forwarding rules that a body has.
func rulesIn(w http.ResponseWriter, r *http.Request) ([]weir.Rule, error) {
	var q forwardingRules
	if err := decode(w, r, &q); err != nil {
		return nil, err
	}
	if len(q.Rules) == 0 {
		return nil, invalid("forwarding_rules is empty, want at least one rule")
	}
	return rulesOf(q.Rules)
}

func (a *api) addRules(w http.ResponseWriter, r *http.Request) error {
	rules, err := rulesIn(w, r)
	if err != nil {
		return err
	}
	return a.changeLoadBalancer(w, r, func(lb *weir.LoadBalancer) error {
		lb.Rules = join(lb.Rules, rules)
		return nil
	})
}

func (a *api) removeRules(w http.ResponseWriter, r *http.Request) error {
	rules, err := rulesIn(w, r)
	if err != nil {
		return err
	}
	return a.changeLoadBalancer(w, r, func(lb *weir.LoadBalancer) error {
		lb.Rules = without(lb.Rules, rules)
		return nil
	})
}

// join returns have with those of more that it has not, in a new slice.
func join[T comparable](have, more []T) []T {
	out := slices.Clone(have)
	for _, e := range more {
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// without returns have without what is in less, in a new slice.
func without[T comparable](have, less []T) []T {
	return slices.DeleteFunc(slices.Clone(have), func(e T) bool { return slices.Contains(less, e) })
}
