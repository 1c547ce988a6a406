package api

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"weir/weir"
)

// acts are what can be done to a droplet, beside rename.
var acts = []string{"power_on", "power_off", "shutdown", "reboot", "power_cycle", "enable_ipv6", "enable_private_networking", "disable_backups"}

// refusedActs are DigitalOcean's other types of actions, each with why Weir does not do it and what to do
// instead.
var refusedActs = map[string]string{
	"resize":               "Weir does not change the size of a droplet, create one of the other size",
	"rebuild":              "Weir does not rebuild a droplet in place, create another one and delete this one",
	"restore":              "Weir makes no backups that could be restored, create another droplet",
	"snapshot":             "Weir makes no snapshots, have user_data set a new droplet up",
	"enable_backups":       "Weir makes no backups, let what runs in the droplet make them",
	"change_backup_policy": "Weir makes no backups, let what runs in the droplet make them",
	"password_reset":       "Weir's droplets have no password to be reset, give ssh_keys when you create one",
	"change_kernel":        "Weir's droplets have the kernel of their image, create one of another image",
}

// actRequest is the body that has something done to a droplet.
type actRequest struct {
	Type string `json:"type"`
	Name string `json:"name"` // of rename
}

// actIn returns what a body asks to have done to a droplet.
func actIn(w http.ResponseWriter, r *http.Request) (q actRequest, err error) {
	if err := decode(w, r, &q); err != nil {
		return q, err
	}
	if why, ok := refusedActs[q.Type]; ok {
		return q, invalid("type is %q: %s", q.Type, why)
	}
	if q.Type != "rename" && !slices.Contains(acts, q.Type) {
		return q, invalid("type is %.40q: Weir's droplets know power_on, power_off, shutdown, reboot, power_cycle, enable_ipv6 and rename", q.Type)
	}
	return q, nil
}

// act does to a droplet what q says.
func (a *api) act(ctx context.Context, droplet weir.ID, q actRequest) (weir.Action, error) {
	if q.Type == "rename" {
		return a.Control.RenameMachine(ctx, droplet, q.Name)
	}
	return a.Control.Act(ctx, droplet, q.Type)
}

func (a *api) actOnDroplet(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	q, err := actIn(w, r)
	if err != nil {
		return err
	}
	done, err := a.act(r.Context(), m.ID, q)
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, map[string]any{"action": a.actionWords(done)})
}

// actOnDroplets does something to every droplet that has a tag. One that is as it
// should be already is left out, and so is one that is being deleted or that is powered off and cannot
// be booted anew.
func (a *api) actOnDroplets(w http.ResponseWriter, r *http.Request) error {
	tag, err := tagFilter(r)
	if err != nil {
		return err
	}
	q, err := actIn(w, r)
	if err != nil {
		return err
	}
	if q.Type == "rename" {
		return invalid("type is \"rename\": a name is for one droplet, rename each by its ID")
	}
	all, err := a.tagged(r.Context(), tag)
	if err != nil {
		return err
	}
	begun := []actionWire{}
	for _, m := range all {
		runs := slices.Contains([]string{"power_off", "shutdown", "reboot", "power_cycle"}, q.Type) // only one that runs can do so
		if !m.Deleting.IsZero() || m.Off && runs {
			continue
		}
		done, err := a.act(r.Context(), m.ID, q)
		if errors.Is(err, weir.NotFound) || errors.Is(err, weir.Conflict) || errors.Is(err, weir.Invalid) {
			continue // it has become so meanwhile
		}
		if err != nil {
			return err
		}
		begun = append(begun, a.actionWords(done))
	}
	return reply(w, http.StatusCreated, map[string]any{"actions": begun, "links": links{}, "meta": meta{len(begun)}})
}

func (a *api) listDropletActions(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	return pageOf(w, r, "actions", func(from, n int) ([]weir.Action, int, error) {
		return a.Control.ActionPageOf(r.Context(), weir.OnMachine, m.ID, from, n)
	}, a.actionWords)
}

func (a *api) getDropletAction(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	act, err := a.action(r, "action")
	if err != nil {
		return err
	}
	if act.Resource != weir.OnMachine || act.On != m.ID {
		return errNotFound
	}
	return reply(w, http.StatusOK, map[string]any{"action": a.actionWords(act)})
}

func (a *api) listActions(w http.ResponseWriter, r *http.Request) error {
	return pageOf(w, r, "actions", func(from, n int) ([]weir.Action, int, error) {
		return a.Control.ActionPage(r.Context(), from, n)
	}, a.actionWords)
}

func (a *api) getAction(w http.ResponseWriter, r *http.Request) error {
	act, err := a.action(r, "id")
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"action": a.actionWords(act)})
}

// action returns the action that a path names.
func (a *api) action(r *http.Request, name string) (weir.Action, error) {
	id, err := numericID(r, name)
	if err != nil {
		return weir.Action{}, err
	}
	return a.Control.Action(r.Context(), id)
}
