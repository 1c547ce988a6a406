package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"weir/weir"
)

// tagged is all that can have a tag.
type tagged struct {
	droplets []weir.Machine
	lbs      []weir.LoadBalancer
}

// tagged returns all that can have a tag.
func (a *api) tagged(ctx context.Context) (all tagged, err error) {
	if all.droplets, err = a.droplets(ctx); err != nil {
		return all, err
	}
	all.lbs, err = a.Control.LoadBalancers(ctx)
	return all, err
}

// tagWords puts a tag in DigitalOcean's words, with what has it. DigitalOcean has no count of load
// balancers of its own: they are in that of all resources.
func (a *api) tagWords(r *http.Request, name string, all tagged) tagWire {
	t := tagWire{Name: name}
	for _, m := range all.droplets {
		if m.HasTag(name) {
			t.Resources.Droplets.Count++
			t.Resources.Droplets.Last = address(r, "/v2/droplets/"+string(m.ID), nil)
		}
	}
	t.Resources.taggedWire = t.Resources.Droplets
	for _, lb := range all.lbs {
		if lb.HasTag(name) {
			t.Resources.Count++
			t.Resources.Last = address(r, "/v2/load_balancers/"+string(lb.ID), nil)
		}
	}
	return t
}

func (a *api) listTags(w http.ResponseWriter, r *http.Request) error {
	names, err := a.Control.Tags(r.Context())
	if err != nil {
		return err
	}
	all, err := a.tagged(r.Context())
	if err != nil {
		return err
	}
	return list(w, r, "tags", names, func(name string) tagWire { return a.tagWords(r, name, all) })
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
	all, err := a.tagged(r.Context())
	if err != nil {
		return err
	}
	return reply(w, status, map[string]any{"tag": a.tagWords(r, name, all)})
}

func (a *api) getTag(w http.ResponseWriter, r *http.Request) error {
	name, err := a.tag(r)
	if err != nil {
		return err
	}
	return a.replyTag(w, r, http.StatusOK, name)
}

// tagRequest is the body that makes a tag.
type tagRequest struct {
	Name string `json:"name"`
}

func (a *api) createTag(w http.ResponseWriter, r *http.Request) error {
	var q tagRequest
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

// taggingRequest is the body that names what gets a tag, or loses it.
type taggingRequest struct {
	Resources []taggingResource `json:"resources"`
}

type taggingResource struct {
	ID   word   `json:"resource_id"`
	Type string `json:"resource_type"`
}

// resourcesIn returns the droplets and the load balancers that a body names as resources.
func resourcesIn(w http.ResponseWriter, r *http.Request) (droplets, lbs []weir.ID, err error) {
	var q taggingRequest
	if err := decode(w, r, &q); err != nil {
		return nil, nil, err
	}
	if len(q.Resources) == 0 {
		return nil, nil, invalid("resources is empty, want at least one resource")
	}
	for i, resource := range q.Resources {
		switch {
		case resource.Type == "droplet" && decimal.MatchString(string(resource.ID)):
			droplets = append(droplets, weir.ID(resource.ID))
		case resource.Type == "droplet":
			return nil, nil, invalid("resources[%d].resource_id is %.40q, want the ID of a droplet", i, resource.ID)
		case resource.Type == "load_balancer" && opaque.MatchString(string(resource.ID)):
			lbs = append(lbs, weir.ID(resource.ID))
		case resource.Type == "load_balancer":
			return nil, nil, invalid("resources[%d].resource_id is %.40q, want the ID of a load balancer", i, resource.ID)
		default:
			return nil, nil, invalid("resources[%d].resource_type is %.40q: Weir has no such resources to tag, want droplet or load_balancer", i, resource.Type)
		}
	}
	return join(nil, droplets), join(nil, lbs), nil
}

func (a *api) tagResources(w http.ResponseWriter, r *http.Request) error {
	name, err := a.tag(r)
	if err != nil {
		return err
	}
	droplets, lbs, err := resourcesIn(w, r)
	if err != nil {
		return err
	}
	if err := a.Control.Tag(r.Context(), name, droplets, lbs); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

func (a *api) untagResources(w http.ResponseWriter, r *http.Request) error {
	name, err := a.tag(r)
	if err != nil {
		return err
	}
	droplets, lbs, err := resourcesIn(w, r)
	if err != nil {
		return err
	}
	if err := a.Control.Untag(r.Context(), name, droplets, lbs); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}
