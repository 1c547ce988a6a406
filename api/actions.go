package api

import (
	"net/http"
	"slices"

	"weir/weir"
)

// acts are what can be done to a droplet.
var acts = []string{"power_on", "power_off", "shutdown", "reboot", "power_cycle"}

// actIn returns what a body asks to have done to a droplet.
func actIn(w http.ResponseWriter, r *http.Request) (kind string, err error) {
	var q struct {
		Type string `json:"type"`
	}
	if err := decode(w, r, &q); err != nil {
		return "", err
	}
	if !slices.Contains(acts, q.Type) {
		return "", invalid("type is %.40q: Weir's droplets know power_on, power_off, shutdown, reboot and power_cycle", q.Type)
	}
	return q.Type, nil
}

func (a *api) actOnDroplet(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	kind, err := actIn(w, r)
	if err != nil {
		return err
	}
	done, err := a.Control.Act(r.Context(), m.ID, kind)
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, map[string]any{"action": a.actionWords(done)})
}

// actOnDroplets does something to every droplet that has a tag. One that is as it
// should be already is left out.
func (a *api) actOnDroplets(w http.ResponseWriter, r *http.Request) error {
	tag, err := tagFilter(r)
	if err != nil {
		return err
	}
	kind, err := actIn(w, r)
	if err != nil {
		return err
	}
	all, err := a.droplets(r.Context())
	if err != nil {
		return err
	}
	begun := []actionWire{}
	for _, m := range all {
		off := kind == "power_off" || kind == "shutdown"
		if !m.HasTag(tag) || !m.Deleting.IsZero() || m.Off && off {
			continue
		}
		done, err := a.Control.Act(r.Context(), m.ID, kind)
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
	return a.replyActions(w, r, func(act weir.Action) bool { return act.Resource == weir.OnMachine && act.On == m.ID })
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
	return a.replyActions(w, r, func(weir.Action) bool { return true })
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

// replyActions answers with the actions that are wanted, the newest first.
func (a *api) replyActions(w http.ResponseWriter, r *http.Request, wanted func(weir.Action) bool) error {
	all, err := a.Control.Actions(r.Context())
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(act weir.Action) bool { return !wanted(act) })
	slices.Reverse(all)
	return list(w, r, "actions", all, a.actionWords)
}
