package api

import "net/http"

// listNone answers for what a droplet of Weir has none of, and never will without a change of Weir:
// kernels to choose from, snapshots, backups.
func (a *api) listNone(root string) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := a.droplet(r); err != nil {
			return err
		}
		return list(w, r, root, nil, func(none struct{}) struct{} { return none })
	}
}

// associatedWire is what could be destroyed with a droplet.
type associatedWire struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Cost string `json:"cost"` // a month, in dollars
}

// associated lists what costs a user something and hangs on a droplet: the reserved IPs that it has.
func (a *api) associated(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	all, err := a.Control.Addresses(r.Context())
	if err != nil {
		return err
	}
	ips := []associatedWire{}
	for _, addr := range all {
		if addr.Machine == m.ID {
			ips = append(ips, associatedWire{addr.Addr.String(), addr.Addr.String(), "0.00"})
		}
	}
	none := []associatedWire{}
	return reply(w, http.StatusOK, map[string][]associatedWire{
		reservedIPs.many: ips, floatingIPs.many: ips, "snapshots": none, "volumes": none, "volume_snapshots": none,
	})
}
