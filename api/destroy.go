package api

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"weir/weir"
)

// What can be destroyed together with a droplet is the reserved IPs that it has. They
// are called floating IPs too.

type associatedWire struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Cost string `json:"cost"`
}

// destroyedWire is one thing that was to be destroyed.
type destroyedWire struct {
	ID        string  `json:"id"`
	Name      string  `json:"name"`
	Destroyed *string `json:"destroyed_at"` // null until it is
	Err       string  `json:"error_message"`
}

// beside returns resources of a droplet with all keys that there are, where only reserved
// IPs can be something.
func beside[T any](ips []T) map[string]any {
	return map[string]any{"reserved_ips": ips, "floating_ips": ips, "snapshots": []T{}, "volumes": []T{}, "volume_snapshots": []T{}}
}

// addressesOf returns the reserved IPs of a droplet.
func (a *api) addressesOf(r *http.Request, m weir.Machine) (of []netip.Addr, err error) {
	all, err := a.Control.Addresses(r.Context())
	for _, addr := range all {
		if addr.Machine == m.ID {
			of = append(of, addr.Addr)
		}
	}
	return of, err
}

func (a *api) listAssociated(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	addrs, err := a.addressesOf(r, m)
	if err != nil {
		return err
	}
	ips := []associatedWire{}
	for _, addr := range addrs {
		ips = append(ips, associatedWire{addr.String(), addr.String(), "0.00"})
	}
	return reply(w, http.StatusOK, beside(ips))
}

// destroyRequest is the body that says what is destroyed together with a droplet.
type destroyRequest struct {
	ReservedIPs     []word `json:"reserved_ips"`
	FloatingIPs     []word `json:"floating_ips"`
	Snapshots       []word `json:"snapshots"`
	Volumes         []word `json:"volumes"`
	VolumeSnapshots []word `json:"volume_snapshots"`
}

// destroySelected destroys a droplet together with what the body names.
func (a *api) destroySelected(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	var q destroyRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		has  []word
	}{{"snapshots", q.Snapshots}, {"volumes", q.Volumes}, {"volume_snapshots", q.VolumeSnapshots}} {
		if len(f.has) > 0 {
			return invalid("%s[0] is %.40q: a droplet of Weir has no %s, leave it out", f.name, f.has[0], f.name)
		}
	}
	var with []netip.Addr
	for _, text := range slices.Concat(q.ReservedIPs, q.FloatingIPs) {
		addr, err := netip.ParseAddr(string(text))
		if err != nil {
			return invalid("reserved_ips has %.40q, want addresses as GET /v2/droplets/%s/destroy_with_associated_resources lists them", text, m.ID)
		}
		if !slices.Contains(with, addr) {
			with = append(with, addr)
		}
	}
	return a.destroy(w, r, m, with)
}

// destroyAll destroys a droplet together with all that it has.
func (a *api) destroyAll(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	if r.Header.Get("X-Dangerous") != "true" {
		return invalid("the header X-Dangerous is %.40q: this destroys a droplet with all its reserved IPs, want true if that is meant", r.Header.Get("X-Dangerous"))
	}
	with, err := a.addressesOf(r, m)
	if err != nil {
		return err
	}
	return a.destroy(w, r, m, with)
}

func (a *api) destroy(w http.ResponseWriter, r *http.Request, m weir.Machine, with []netip.Addr) error {
	if err := a.Control.DestroyMachine(r.Context(), m.ID, with); err != nil {
		return err
	}
	return reply(w, http.StatusAccepted, struct{}{})
}

// destruction returns how far the destruction of a droplet is, and why it is not further, if
// there is a reason.
func (a *api) destruction(r *http.Request) (d weir.Destruction, why string, err error) {
	id, err := numericID(r, "id")
	if err != nil {
		return d, "", err
	}
	if d, err = a.Control.Destruction(r.Context(), id); err != nil || !d.Gone.IsZero() {
		return d, "", err
	}
	m, err := a.Control.Machine(r.Context(), id)
	if errors.Is(err, weir.NotFound) {
		return d, "", nil // it went between the two looks
	}
	return d, m.Status.Err, err
}

func (a *api) getDestruction(w http.ResponseWriter, r *http.Request) error {
	d, why, err := a.destruction(r)
	if err != nil {
		return err
	}
	at := func(t time.Time) *string {
		if t.IsZero() {
			return nil
		}
		text := timeWire(t)
		return &text
	}
	ips := []destroyedWire{}
	for _, addr := range d.Addresses {
		ips = append(ips, destroyedWire{ID: addr.String(), Name: addr.String(), Destroyed: at(d.Asked)})
	}
	failures := 0
	if why != "" {
		failures = 1
	}
	return reply(w, http.StatusOK, map[string]any{
		"droplet":      destroyedWire{string(d.Machine), d.Name, at(d.Gone), why},
		"resources":    beside(ips),
		"completed_at": at(d.Gone),
		"failures":     failures,
	})
}

// retryDestruction has nothing to do: Weir tries again by itself, until it is done.
func (a *api) retryDestruction(w http.ResponseWriter, r *http.Request) error {
	d, _, err := a.destruction(r)
	if err != nil {
		return err
	}
	if d.Gone.IsZero() {
		return weir.Errorf(weir.Conflict, "droplet %s is being destroyed, and Weir tries again by itself until it is", d.Machine)
	}
	return reply(w, http.StatusAccepted, struct{}{})
}
