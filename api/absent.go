package api

import (
	"maps"
	"net/http"
	"slices"

	"weir/weir"
)

// Of what Weir does not have there is nothing, which is an answer: clients that work on load
// balancers and droplets list such things by the way.

// none lists nothing below the key root.
func (a *api) none(root string) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		return list(w, r, root, nil, func(v any) any { return v })
	}
}

// noneOf is none for a droplet that must be there.
func (a *api) noneOf(root string) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := a.droplet(r); err != nil {
			return err
		}
		return a.none(root)(w, r)
	}
}

// backupPolicy says of a droplet that it has no backups.
func (a *api) backupPolicy(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"policy": map[string]any{
		"droplet_id": number(m.ID), "backup_enabled": false, "next_backup_window": nil}})
}

func (a *api) backupPolicies(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, map[string]any{"policies": map[string]any{}, "links": links{}, "meta": meta{}})
}

func (a *api) supportedBackupPolicies(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, map[string]any{"supported_policies": []any{}})
}

func (a *api) createVolume(http.ResponseWriter, *http.Request) error {
	return invalid("Weir has no volumes: a droplet has the disk of its size, so create one of a larger size")
}

func (a *api) createImage(http.ResponseWriter, *http.Request) error {
	return invalid("Weir takes no images of one's own: create droplets from one that GET /v2/images lists, and have user_data set them up")
}

// neighbors lists the droplets that share a host with one: all others, where there is one host alone.
func (a *api) neighbors(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	beside := []dropletWire{}
	if a.OneHost {
		all, err := a.droplets(r.Context())
		if err != nil {
			return err
		}
		for _, other := range all {
			if other.ID != m.ID && other.Status.Host == m.Status.Host {
				beside = append(beside, a.dropletWords(other))
			}
		}
	}
	return reply(w, http.StatusOK, map[string]any{"droplets": beside, "links": links{}, "meta": meta{len(beside)}})
}

// allNeighbors lists the groups of droplets that share a host.
func (a *api) allNeighbors(w http.ResponseWriter, r *http.Request) error {
	groups := [][]int64{}
	if a.OneHost {
		all, err := a.droplets(r.Context())
		if err != nil {
			return err
		}
		on := map[string][]int64{}
		for _, m := range all {
			on[m.Status.Host] = append(on[m.Status.Host], number(m.ID))
		}
		for _, host := range slices.SortedFunc(maps.Keys(on), weir.CompareHosts) {
			if together := on[host]; len(together) > 1 {
				groups = append(groups, together)
			}
		}
	}
	return reply(w, http.StatusOK, map[string]any{"neighbor_ids": groups})
}
