package api

import (
	"net/http"

	"weir/weir"
)

// showPool answers with all that there is about the pool of a name or an ID.
func (a *api) showPool(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if weir.CheckName(name) != nil {
		return errNotFound
	}
	s, err := a.Control.PoolReport(r.Context(), name)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"pool": PoolState{Pool: poolWords(&s.Pool), Autoscale: s.Pool.Autoscale != nil, Machines: s.Machines, Hosts: s.Hosts,
		Scale: ConfigOf(s.Pool.Scale), Load: s.Load, Verdict: s.Verdict, Capacity: s.Units, Back: s.Pool.Back, PoolMore: moreOf(&s.Pool)}})
}

// tellPool lists how the size of a pool has changed.
func (a *api) tellPool(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if weir.CheckName(name) != nil {
		return errNotFound
	}
	all, err := a.Control.PoolTold(r.Context(), name)
	if err != nil {
		return err
	}
	return list(w, r, "history", all, func(s weir.Scaling) weir.Scaling { return s })
}
