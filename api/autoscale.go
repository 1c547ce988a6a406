package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"weir/weir"
)

// autoscalePath is where autoscale pools are. For http.ServeMux a path below it could be a
// droplet's as well (/v2/droplets/autoscale/actions), so they have a mux of their own.
const autoscalePath = "/v2/droplets/autoscale"

// muxOf returns the mux that serves a path.
func (a *api) muxOf(path string) *http.ServeMux {
	if path == autoscalePath || strings.HasPrefix(path, autoscalePath+"/") {
		return a.autoscale
	}
	return a.mux
}

// aboutPool has h answer about the autoscale pool that a path names. That there is none, it says in
// the words by which clients know it.
func aboutPool(h func(w http.ResponseWriter, r *http.Request, id weir.ID) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		id, err := opaqueID(r, "id")
		if err == nil {
			err = h(w, r, id)
		}
		if errors.Is(err, errNotFound) || errors.Is(err, weir.NotFound) {
			return &statusError{http.StatusNotFound, fmt.Sprintf("autoscale group with id %s not found", r.PathValue("id"))}
		}
		return err
	}
}

func (a *api) listAutoscalePools(w http.ResponseWriter, r *http.Request) error {
	all, err := a.Control.AutoscalePools(r.Context())
	if err != nil {
		return err
	}
	if name := r.URL.Query().Get("name"); name != "" {
		all = slices.DeleteFunc(all, func(p weir.Pool) bool { return p.Name != name })
	}
	loads, err := a.Control.PoolLoads(r.Context(), all)
	if err != nil {
		return err
	}
	return list(w, r, "autoscale_pools", all, func(p weir.Pool) autoscaleWire { return autoscaleWords(p, loads[p.ID]) })
}

func replyAutoscalePool(w http.ResponseWriter, status int, p weir.Pool, load weir.PoolLoad) error {
	return reply(w, status, map[string]any{"autoscale_pool": autoscaleWords(p, load)})
}

// readAutoscalePool returns the pool that a body asks for, in place of was if that is there: a client that knows nothing of
// what DigitalOcean has no word for, such as a budget, leaves that as it is.
func (a *api) readAutoscalePool(w http.ResponseWriter, r *http.Request, was *weir.Pool) (weir.Pool, error) {
	var q autoscaleRequest
	if err := decode(w, r, &q); err != nil {
		return weir.Pool{}, err
	}
	if was != nil && q.Config.Weir == nil {
		q.Config.Weir = autoscaleWords(*was, weir.PoolLoad{}).Config.Weir
		if q.Config.Weir != nil && q.Config.Fixed != 0 {
			q.Config.Weir = &AutoscaleMore{PoolMore: q.Config.Weir.PoolMore}
		}
	}
	if err := a.inVPC(q.Template.VPCUUID); err != nil {
		return weir.Pool{}, fmt.Errorf("droplet_template: %w", err)
	}
	p, err := q.pool(a.Control.Regions())
	if err != nil {
		return p, err
	}
	if p.Template.SSHKeys, err = a.publicKeys(r.Context(), q.Template.SSHKeys); err != nil {
		return p, fmt.Errorf("droplet_template: %w", err)
	}
	return p, p.Check(a.Control.Regions()...)
}

func (a *api) createAutoscalePool(w http.ResponseWriter, r *http.Request) error {
	p, err := a.readAutoscalePool(w, r, nil)
	if err != nil {
		return err
	}
	if p, err = a.Control.CreateAutoscalePool(r.Context(), p); err != nil {
		return err
	}
	return replyAutoscalePool(w, http.StatusAccepted, p, weir.PoolLoad{})
}

func (a *api) getAutoscalePool(w http.ResponseWriter, r *http.Request, id weir.ID) error {
	p, err := a.Control.AutoscalePool(r.Context(), id)
	if err != nil {
		return err
	}
	loads, err := a.Control.PoolLoads(r.Context(), []weir.Pool{p})
	if err != nil {
		return err
	}
	return replyAutoscalePool(w, http.StatusOK, p, loads[p.ID])
}

// replaceAutoscalePool makes an autoscale pool what the body says: all of it but for config.weir, where that is left out.
func (a *api) replaceAutoscalePool(w http.ResponseWriter, r *http.Request, id weir.ID) error {
	was, err := a.Control.AutoscalePool(r.Context(), id)
	if err != nil {
		return err
	}
	p, err := a.readAutoscalePool(w, r, &was)
	if err != nil {
		return err
	}
	if p, err = a.Control.UpdateAutoscalePool(r.Context(), id, p); err != nil {
		return err
	}
	loads, err := a.Control.PoolLoads(r.Context(), []weir.Pool{p})
	if err != nil {
		return err
	}
	return replyAutoscalePool(w, http.StatusOK, p, loads[p.ID])
}

// deleteAutoscalePool deletes a pool; its droplets stay.
func (a *api) deleteAutoscalePool(w http.ResponseWriter, r *http.Request, id weir.ID) error {
	if err := a.Control.DeleteAutoscalePool(r.Context(), id, false); err != nil {
		return err
	}
	return reply(w, http.StatusAccepted, nil)
}

// destroyAutoscalePool deletes a pool with its droplets.
func (a *api) destroyAutoscalePool(w http.ResponseWriter, r *http.Request, id weir.ID) error {
	if sure, err := strconv.ParseBool(r.Header.Get("X-Dangerous")); err != nil || !sure {
		return invalid("the header X-Dangerous is %.40q, want true: the droplets of the pool are destroyed too, which DELETE %s/%s does not do", r.Header.Get("X-Dangerous"), autoscalePath, id)
	}
	if err := a.Control.DeleteAutoscalePool(r.Context(), id, true); err != nil {
		return err
	}
	return reply(w, http.StatusAccepted, nil)
}

func (a *api) listPoolMembers(w http.ResponseWriter, r *http.Request, id weir.ID) error {
	all, err := a.Control.PoolMembers(r.Context(), id)
	if err != nil {
		return err
	}
	return list(w, r, "droplets", all, memberWords)
}

func (a *api) listPoolHistory(w http.ResponseWriter, r *http.Request, id weir.ID) error {
	all, err := a.Control.PoolHistory(r.Context(), id)
	if err != nil {
		return err
	}
	return list(w, r, "history", all, scalingWords)
}
