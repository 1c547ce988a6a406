package api

import (
	"net/http"
	"slices"
	"strings"

	"weir/weir"
)

// tagWords puts a tag in DigitalOcean's words, with the droplets that have it.
func (a *api) tagWords(r *http.Request, name string, droplets []weir.Machine) tagWire {
	t := tagWire{Name: name}
	for _, m := range droplets {
		if m.HasTag(name) {
			t.Resources.Droplets.Count++
			t.Resources.Droplets.Last = address(r, "/v2/droplets/"+string(m.ID), nil)
		}
	}
	t.Resources.taggedWire = t.Resources.Droplets
	return t
}

func (a *api) listTags(w http.ResponseWriter, r *http.Request) error {
	names, err := a.Control.Tags(r.Context())
	if err != nil {
		return err
	}
	droplets, err := a.droplets(r.Context())
	if err != nil {
		return err
	}
	return list(w, r, "tags", names, func(name string) tagWire { return a.tagWords(r, name, droplets) })
}

// tag returns the tag that a path names, as it was first written.
func (a *api) tag(r *http.Request) (string, error) {
	name := r.PathValue("name")
	if weir.CheckTag(name) != nil {
		return "", errNotFound
	}
	names, err := a.Control.Tags(r.Context())
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
	if i < 0 {
		return "", errNotFound
	}
	return names[i], nil
}

func (a *api) replyTag(w http.ResponseWriter, r *http.Request, status int, name string) error {
	droplets, err := a.droplets(r.Context())
	if err != nil {
		return err
	}
	return reply(w, status, map[string]any{"tag": a.tagWords(r, name, droplets)})
}

func (a *api) getTag(w http.ResponseWriter, r *http.Request) error {
	name, err := a.tag(r)
	if err != nil {
		return err
	}
	return a.replyTag(w, r, http.StatusOK, name)
}

func (a *api) createTag(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Name string `json:"name"`
	}
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if err := weir.CheckTag(q.Name); err != nil {
		return err
	}
	if err := a.Control.CreateTag(r.Context(), q.Name); err != nil {
		return err
	}
	return a.replyTag(w, r, http.StatusCreated, q.Name)
}

func (a *api) deleteTag(w http.ResponseWriter, r *http.Request) error {
	name, err := a.tag(r)
	if err != nil {
		return err
	}
	if err := a.Control.DeleteTag(r.Context(), name); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// resourcesIn returns the droplets that a body names as resources.
func resourcesIn(w http.ResponseWriter, r *http.Request) ([]weir.ID, error) {
	var q struct {
		Resources []struct {
			ID   word   `json:"resource_id"`
			Type string `json:"resource_type"`
		} `json:"resources"`
	}
	if err := decode(w, r, &q); err != nil {
		return nil, err
	}
	if len(q.Resources) == 0 {
		return nil, invalid("resources is empty, want at least one resource")
	}
	var ids []weir.ID
	for i, resource := range q.Resources {
		if resource.Type != "droplet" {
			return nil, invalid("resources[%d].resource_type is %.40q: Weir tags droplets, want droplet", i, resource.Type)
		}
		if !decimal.MatchString(string(resource.ID)) {
			return nil, invalid("resources[%d].resource_id is %.40q, want the ID of a droplet", i, resource.ID)
		}
		ids = append(ids, weir.ID(resource.ID))
	}
	return join(nil, ids), nil
}

func (a *api) tagResources(w http.ResponseWriter, r *http.Request) error {
	name, err := a.tag(r)
	if err != nil {
		return err
	}
	ids, err := resourcesIn(w, r)
	if err != nil {
		return err
	}
	if err := a.Control.Tag(r.Context(), name, ids); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

func (a *api) untagResources(w http.ResponseWriter, r *http.Request) error {
	name, err := a.tag(r)
	if err != nil {
		return err
	}
	ids, err := resourcesIn(w, r)
	if err != nil {
		return err
	}
	if err := a.Control.Untag(r.Context(), name, ids); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}
