package api

import (
	"net/http"

	"weir/weir"
)

// tagWords puts a tag in DigitalOcean's words, with what has it. DigitalOcean has no count of load
// balancers of its own: they are in that of all resources.
func tagWords(r *http.Request, t weir.Tag) tagWire {
	w := tagWire{Name: t.Name}
	if w.Resources.Droplets.Count = t.Machines; t.Machines > 0 {
		w.Resources.Droplets.Last = address(r, "/v2/droplets/"+string(t.LastMachine), nil)
	}
	w.Resources.taggedWire = w.Resources.Droplets
	if w.Resources.Count += t.LoadBalancers; t.LoadBalancers > 0 {
		w.Resources.Last = address(r, "/v2/load_balancers/"+string(t.LastLoadBalancer), nil)
	}
	return w
}

func (a *api) listTags(w http.ResponseWriter, r *http.Request) error {
	return pageOf(w, r, "tags", func(from, n int) ([]weir.Tag, int, error) {
		return a.Control.TagPage(r.Context(), from, n)
	}, func(t weir.Tag) tagWire { return tagWords(r, t) })
}

// tag returns the tag that a path names.
func (a *api) tag(r *http.Request) (weir.Tag, error) {
	name := r.PathValue("name")
	if weir.CheckTag(name) != nil {
		return weir.Tag{}, errNotFound
	}
	return a.Control.TagNamed(r.Context(), name)
}

func (a *api) getTag(w http.ResponseWriter, r *http.Request) error {
	t, err := a.tag(r)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"tag": tagWords(r, t)})
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
	t, err := a.Control.TagNamed(r.Context(), q.Name)
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, map[string]any{"tag": tagWords(r, t)})
}

func (a *api) deleteTag(w http.ResponseWriter, r *http.Request) error {
	t, err := a.tag(r)
	if err != nil {
		return err
	}
	if err := a.Control.DeleteTag(r.Context(), t.Name); err != nil {
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
	t, err := a.tag(r)
	if err != nil {
		return err
	}
	droplets, lbs, err := resourcesIn(w, r)
	if err != nil {
		return err
	}
	if err := a.Control.Tag(r.Context(), t.Name, droplets, lbs); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

func (a *api) untagResources(w http.ResponseWriter, r *http.Request) error {
	t, err := a.tag(r)
	if err != nil {
		return err
	}
	droplets, lbs, err := resourcesIn(w, r)
	if err != nil {
		return err
	}
	if err := a.Control.Untag(r.Context(), t.Name, droplets, lbs); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}
