package api

import (
	"errors"
	"net/http"

	"weir/weir"
)

type projectWire struct {
	ID          weir.ID `json:"id"`
	OwnerUUID   string  `json:"owner_uuid"`
	OwnerID     int64   `json:"owner_id"` // Weir has no numbers for owners
	Name        string  `json:"name"`
	Description string  `json:"description"`
	Purpose     string  `json:"purpose"`
	Environment string  `json:"environment"`
	IsDefault   bool    `json:"is_default"`
	Created     string  `json:"created_at"`
	Updated     string  `json:"updated_at"`
}

func (a *api) projectWords(p weir.Project) projectWire {
	return projectWire{ID: p.ID, OwnerUUID: a.accountID(p.Team), Name: p.Name, Description: p.Description, Purpose: p.Purpose, Environment: p.Environment,
		IsDefault: p.Default, Created: timeWire(p.Created), Updated: timeWire(p.Updated)}
}

func (a *api) replyProject(w http.ResponseWriter, status int, p weir.Project) error {
	return reply(w, status, map[string]any{"project": a.projectWords(p)})
}

// projectID returns the ID of the project that a path names: none for the default one.
func projectID(r *http.Request) (weir.ID, error) {
	id, err := opaqueID(r, "id")
	if id == "default" {
		return "", err
	}
	return id, err
}

func (a *api) listProjects(w http.ResponseWriter, r *http.Request) error {
	all, err := a.Control.Projects(r.Context())
	if err != nil {
		return err
	}
	return list(w, r, "projects", all, a.projectWords)
}

func (a *api) getProject(w http.ResponseWriter, r *http.Request) error {
	id, err := projectID(r)
	if err != nil {
		return err
	}
	p, err := a.Control.Project(r.Context(), id)
	if err != nil {
		return err
	}
	return a.replyProject(w, http.StatusOK, p)
}

// projectRequest is the body that creates or changes a project.
type projectRequest struct {
	Name        *string `json:"name"`
	Description *string `json:"description"`
	Purpose     *string `json:"purpose"`
	Environment *string `json:"environment"`
	IsDefault   *bool   `json:"is_default"`
}

// set brings into p what q has.
func (q *projectRequest) set(p *weir.Project) {
	for _, f := range []struct {
		to   *string
		from *string
	}{{&p.Name, q.Name}, {&p.Description, q.Description}, {&p.Purpose, q.Purpose}, {&p.Environment, q.Environment}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if q.IsDefault != nil {
		p.Default = *q.IsDefault
	}
}

func (a *api) createProject(w http.ResponseWriter, r *http.Request) error {
	var q projectRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if q.IsDefault != nil && *q.IsDefault {
		return invalid("is_default is true: a new project is not the default, make it the default once it is there")
	}
	var p weir.Project
	q.set(&p)
	p, err := a.Control.CreateProject(r.Context(), p)
	if err != nil {
		return err
	}
	return a.replyProject(w, http.StatusCreated, p)
}

// changeProject makes a project what the body says: with replace, what it leaves out becomes
// empty, but whether it is the default.
func (a *api) changeProject(replace bool) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		id, err := projectID(r)
		if err != nil {
			return err
		}
		var q projectRequest
		if err := decode(w, r, &q); err != nil {
			return err
		}
		p, err := a.Control.UpdateProject(r.Context(), id, func(p *weir.Project) error {
			if replace {
				p.Name, p.Description, p.Purpose, p.Environment = "", "", "", ""
			}
			q.set(p)
			return nil
		})
		if err != nil {
			return err
		}
		return a.replyProject(w, http.StatusOK, p)
	}
}

func (a *api) deleteProject(w http.ResponseWriter, r *http.Request) error {
	id, err := projectID(r)
	if err != nil {
		return err
	}
	err = a.Control.DeleteProject(r.Context(), id)
	if errors.Is(err, weir.Conflict) { // for which clients wait by this status
		return &statusError{http.StatusPreconditionFailed, err.Error()}
	}
	if err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

type projectResourceWire struct {
	URN        string              `json:"urn"`
	AssignedAt string              `json:"assigned_at"` // empty for what is not there
	Links      selfWire            `json:"links"`
	Status     weir.ResourceStatus `json:"status"`
}

type selfWire struct {
	Self string `json:"self"`
}

// paths say where each kind of resource is found.
var paths = map[string]string{
	weir.URNMachine:      "/v2/droplets/",
	weir.URNLoadBalancer: "/v2/load_balancers/",
	weir.URNReservedIP:   "/v2/reserved_ips/",
	weir.URNReservedIPv6: "/v2/reserved_ipv6/",
	weir.URNFloatingIP:   "/v2/floating_ips/",
}

func projectResourceWords(r *http.Request, res weir.Resource) projectResourceWire {
	w := projectResourceWire{URN: res.URN.String(), Status: res.Status}
	if !res.At.IsZero() {
		w.AssignedAt = timeWire(res.At)
	}
	if path, ok := paths[res.URN.Kind]; ok {
		w.Links.Self = address(r, path+string(res.URN.ID), nil)
	}
	return w
}

func (a *api) listProjectResources(w http.ResponseWriter, r *http.Request) error {
	id, err := projectID(r)
	if err != nil {
		return err
	}
	all, err := a.Control.ProjectResources(r.Context(), id)
	if err != nil {
		return err
	}
	return list(w, r, "resources", all, func(res weir.Resource) projectResourceWire { return projectResourceWords(r, res) })
}

// projectResources is the body that puts things into a project.
type projectResources struct {
	Resources []string `json:"resources"`
}

func (a *api) assignResources(w http.ResponseWriter, r *http.Request) error {
	id, err := projectID(r)
	if err != nil {
		return err
	}
	var q projectResources
	if err := decode(w, r, &q); err != nil {
		return err
	}
	urns := make([]weir.URN, len(q.Resources))
	for i, text := range q.Resources {
		if urns[i], err = weir.ParseURN(text); err != nil {
			return invalid("resources[%d]: %w", i, err)
		}
	}
	done, err := a.Control.AssignResources(r.Context(), id, urns)
	if err != nil {
		return err
	}
	words := make([]projectResourceWire, len(done))
	for i, res := range done {
		words[i] = projectResourceWords(r, res)
	}
	return reply(w, http.StatusOK, map[string]any{"resources": words, "links": links{}, "meta": meta{len(words)}})
}
