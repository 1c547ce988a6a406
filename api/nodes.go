package api

import (
	"net/http"

	"weir/weir"
)

func (a *api) listNodes(w http.ResponseWriter, r *http.Request) error {
	all, err := a.Control.Nodes(r.Context())
	if err != nil {
		return err
	}
	return list(w, r, "nodes", all, func(n weir.NodeOverview) weir.NodeOverview {
		n.Host.Addrs = some(n.Host.Addrs)
		return n
	})
}

// addNode answers with the token by which a machine of one's own may join.
func (a *api) addNode(w http.ResponseWriter, r *http.Request) error {
	var q NewNode
	if err := decode(w, r, &q); err != nil {
		return err
	}
	m, token, err := a.Control.AddNode(r.Context(), q.Name)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return reply(w, http.StatusCreated, NodeToken{number(m.ID), m.Name, token, some(a.Control.NodeURLs())})
}

func (a *api) removeNode(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if weir.CheckName(name) != nil {
		return errNotFound
	}
	if err := a.Control.RemoveNode(r.Context(), name); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}
