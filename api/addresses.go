package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strconv"

	"weir/weir"
)

// addressNames are the words of one of the names under which reserved IPs go: those of IPv4 have two.
type addressNames struct {
	one, many string
	family    weir.Family
}

var (
	reservedIPs  = addressNames{"reserved_ip", "reserved_ips", weir.IPv4}
	floatingIPs  = addressNames{"floating_ip", "floating_ips", weir.IPv4}
	reservedIPv6 = addressNames{"reserved_ipv6", "reserved_ipv6s", weir.IPv6}
)

// addressWords puts a reserved IP in DigitalOcean's words, which are others for each family; has is the droplet that
// it is seen to point to, if any.
func (a *api) addressWords(addr weir.Address, has *weir.Machine) any {
	if addr.Family == weir.IPv6 {
		w := address6Wire{IP: addr.Addr.String(), Reserved: timeWire(addr.Created), Region: a.Control.Region()}
		if has != nil {
			droplet := a.dropletWords(*has)
			w.Droplet = &droplet
		}
		return w
	}
	w := addressWire{IP: addr.Addr.String(), Region: a.catalog.region, Locked: addr.Machine != addr.Assigned, ProjectID: addr.Place.Project}
	if has != nil {
		droplet := a.dropletWords(*has)
		w.Droplet = &droplet
	}
	return w
}

// assigned returns the machine that a reserved IP is seen to point to, or nil if it is there no more or never was.
func (a *api) assigned(ctx context.Context, addr weir.Address) (*weir.Machine, error) {
	if addr.Assigned == "" {
		return nil, nil
	}
	m, err := a.Control.Machine(ctx, addr.Assigned)
	if errors.Is(err, weir.NotFound) {
		return nil, nil
	}
	return &m, err
}

func (a *api) listAddresses(names addressNames) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		all, err := a.Control.Addresses(r.Context())
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(addr weir.Address) bool { return addr.Family != names.family })
		return pageWith(w, r, names.many, cut(all), func(addr weir.Address) (any, error) {
			has, err := a.assigned(r.Context(), addr)
			return a.addressWords(addr, has), err
		})
	}
}

// address returns the reserved IP that a path names.
func (a *api) address(r *http.Request, names addressNames) (weir.Address, error) {
	ip, err := netip.ParseAddr(r.PathValue("ip"))
	if err != nil || weir.FamilyOf(ip) != names.family {
		return weir.Address{}, errNotFound
	}
	return a.Control.Address(r.Context(), ip)
}

func (a *api) getAddress(names addressNames) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		addr, err := a.address(r, names)
		if err != nil {
			return err
		}
		has, err := a.assigned(r.Context(), addr)
		if err != nil {
			return err
		}
		return reply(w, http.StatusOK, map[string]any{names.one: a.addressWords(addr, has)})
	}
}

// dropletIn returns the ID of a droplet in a body, or "" for none.
func dropletIn(n int64) (weir.ID, error) {
	if n < 0 {
		return "", invalid("droplet_id is %d, want the ID of a droplet", n)
	}
	if n == 0 {
		return "", nil
	}
	return weir.ID(strconv.FormatInt(n, 10)), nil
}

// addressRequest is the body that reserves an address.
type addressRequest struct {
	Region    string `json:"region"`
	DropletID int64  `json:"droplet_id"`
	ProjectID string `json:"project_id"`
}

func (a *api) reserveAddress(names addressNames) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		var q addressRequest
		if err := decode(w, r, &q); err != nil {
			return err
		}
		machine, err := dropletIn(q.DropletID)
		switch {
		case err != nil:
			return err
		case machine == "" && q.Region == "":
			return invalid("region and droplet_id are missing, want one of them")
		case regionOf(q.Region, a.Control.Region()) != a.Control.Region():
			return invalid("region is %.40q: the reserved IPs of this Weir are in region %q", q.Region, a.Control.Region())
		}
		addr, err := a.Control.ReserveAddress(r.Context(), weir.IPv4, machine, weir.ID(q.ProjectID))
		if err != nil {
			return err
		}
		var begun links
		if machine != "" {
			begun.Droplets = []actionLink{{number(machine), "droplet", address(r, "/v2/droplets/"+string(machine), nil)}}
		}
		for _, id := range addr.Actions {
			begun.Actions = append(begun.Actions, linkTo(r, number(id), addressAction("assign")))
		}
		return reply(w, http.StatusAccepted, map[string]any{names.one: a.addressWords(addr, nil), "links": begun})
	}
}

// address6Request is the body that reserves an address of IPv6.
type address6Request struct {
	Region string `json:"region_slug"`
}

func (a *api) reserveIPv6(w http.ResponseWriter, r *http.Request) error {
	var q address6Request
	if err := decode(w, r, &q); err != nil {
		return err
	}
	switch {
	case q.Region == "":
		return invalid("region_slug is missing, want %q", a.Control.Region())
	case regionOf(q.Region, a.Control.Region()) != a.Control.Region():
		return invalid("region_slug is %.40q: the reserved IPs of this Weir are in region %q", q.Region, a.Control.Region())
	}
	addr, err := a.Control.ReserveAddress(r.Context(), weir.IPv6, "", "")
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, map[string]any{reservedIPv6.one: a.addressWords(addr, nil)})
}

// isOf reports whether an action is a reserved IP's.
func isOf(act weir.Action, addr netip.Addr) bool {
	return act.Resource == weir.OnAddress && act.On == weir.ID(addr.String())
}

func (a *api) releaseAddress(names addressNames) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		addr, err := a.address(r, names)
		if err != nil {
			return err
		}
		if err := a.Control.ReleaseAddress(r.Context(), addr.Addr); err != nil {
			return err
		}
		return reply(w, http.StatusNoContent, nil)
	}
}

// addressActRequest is the body that has something done to a reserved IP.
type addressActRequest struct {
	Type      string `json:"type"`
	DropletID int64  `json:"droplet_id"`
}

func (a *api) actOnAddress(names addressNames) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		addr, err := a.address(r, names)
		if err != nil {
			return err
		}
		var q addressActRequest
		if err := decode(w, r, &q); err != nil {
			return err
		}
		machine, err := dropletIn(q.DropletID)
		switch {
		case err != nil:
			return err
		case q.Type != "assign" && q.Type != "unassign":
			return invalid("type is %.40q, want assign or unassign", q.Type)
		case q.Type == "assign" && machine == "":
			return invalid("droplet_id is missing: it says which droplet gets the address")
		case q.Type == "unassign":
			machine = ""
		}
		act, err := a.Control.AssignAddress(r.Context(), addr.Addr, machine)
		if err != nil {
			return err
		}
		return reply(w, http.StatusCreated, map[string]any{"action": a.addressActionWords(names, act)})
	}
}

// addressActionWords is actionWords by the name under which the address was asked for.
func (a *api) addressActionWords(names addressNames, act weir.Action) actionWire {
	w := a.actionWords(act)
	w.ResourceType = names.one
	return w
}

func (a *api) listAddressActions(names addressNames) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		addr, err := a.address(r, names)
		if err != nil {
			return err
		}
		return pageOf(w, r, "actions", func(from, n int) ([]weir.Action, int, error) {
			return a.Control.ActionPageOf(r.Context(), weir.OnAddress, weir.ID(addr.Addr.String()), from, n)
		}, func(act weir.Action) actionWire { return a.addressActionWords(names, act) })
	}
}

func (a *api) getAddressAction(names addressNames) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		addr, err := a.address(r, names)
		if err != nil {
			return err
		}
		act, err := a.action(r, "action")
		if err != nil {
			return err
		}
		if !isOf(act, addr.Addr) {
			return errNotFound
		}
		return reply(w, http.StatusOK, map[string]any{"action": a.addressActionWords(names, act)})
	}
}
