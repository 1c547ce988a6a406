package api

import (
	"cmp"
	"net/http"
	"time"

	"weir/weir"
)

// A region has one private network, which machines and load balancers are in: its VPC. Where the
// machines are one's own there is none that Weir knows.

type vpcWire struct {
	ID          weir.ID `json:"id"`
	URN         string  `json:"urn"`
	Name        string  `json:"name"`
	Description string  `json:"description"`
	Region      string  `json:"region"`
	IPRange     string  `json:"ip_range"`
	Created     string  `json:"created_at"`
	Default     bool    `json:"default"`
}

// vpcID returns the ID of the region's private network, or "" if it has none.
func (a *api) vpcID() weir.ID {
	if !a.Private.IsValid() {
		return ""
	}
	return a.catalog.vpc
}

// inVPC returns why something cannot be in the VPC that a field of a body names.
func (a *api) inVPC(uuid string) error {
	id := a.vpcID()
	switch {
	case uuid == "" || weir.ID(uuid) == id:
		return nil
	case id == "":
		return invalid("vpc_uuid is %.40q: this Weir knows no private network of its own, leave it out", uuid)
	}
	return invalid("vpc_uuid is %.40q: a region of Weir has one private network, leave it out or use %s", uuid, id)
}

func (a *api) vpcWords(n weir.Network) vpcWire {
	id := a.vpcID()
	return vpcWire{ID: id, URN: weir.URN{Kind: weir.URNNetwork, ID: id}.String(), Name: n.Name, Description: n.Description, Region: a.Control.Region(),
		IPRange: a.Private.Masked().String(), Created: timeWire(n.Created), Default: true}
}

func (a *api) listVPCs(w http.ResponseWriter, r *http.Request) error {
	var all []weir.Network
	if a.vpcID() != "" {
		n, err := a.Control.Network(r.Context())
		if err != nil {
			return err
		}
		all = append(all, n)
	}
	return list(w, r, "vpcs", all, a.vpcWords)
}

func (a *api) createVPC(http.ResponseWriter, *http.Request) error {
	return invalid("a region of Weir has one private network, and networks of one's own come later: use the one that GET /v2/vpcs lists")
}

// pathVPC returns a 404 unless a path names the region's private network.
func (a *api) pathVPC(r *http.Request) error {
	if id := r.PathValue("id"); id == "" || weir.ID(id) != a.vpcID() {
		return errNotFound
	}
	return nil
}

func (a *api) getVPC(w http.ResponseWriter, r *http.Request) error {
	return a.replyVPC(w, r, func(*weir.Network) error { return nil })
}

// vpcRequest is the body that changes the network.
type vpcRequest struct {
	Name        *string `json:"name"`
	Description *string `json:"description"`
	Default     *bool   `json:"default"`
}

// changeVPC gives the network another name or description. With replace, a description that
// the body leaves out becomes empty.
func (a *api) changeVPC(replace bool) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := a.pathVPC(r); err != nil {
			return err
		}
		var q vpcRequest
		if err := decode(w, r, &q); err != nil {
			return err
		}
		switch {
		case q.Default != nil && !*q.Default:
			return invalid("default is false: this is the region's one private network, leave it out or use true")
		case replace && q.Name == nil:
			return invalid("name is missing: PUT replaces, and PATCH changes only what it has")
		}
		return a.replyVPC(w, r, func(n *weir.Network) error {
			if replace {
				n.Description = ""
			}
			n.Name, n.Description = *cmp.Or(q.Name, &n.Name), *cmp.Or(q.Description, &n.Description)
			return nil
		})
	}
}

// replyVPC changes the network that a path names, and answers with it.
func (a *api) replyVPC(w http.ResponseWriter, r *http.Request, change func(*weir.Network) error) error {
	if err := a.pathVPC(r); err != nil {
		return err
	}
	n, err := a.Control.UpdateNetwork(r.Context(), change)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"vpc": a.vpcWords(n)})
}

func (a *api) deleteVPC(_ http.ResponseWriter, r *http.Request) error {
	if err := a.pathVPC(r); err != nil {
		return err
	}
	return weir.Errorf(weir.Denied, "the default VPC of a region cannot be deleted: it is the region's one private network")
}

type vpcMemberWire struct {
	URN     string `json:"urn"`
	Name    string `json:"name"`
	Created string `json:"created_at"`
}

func (a *api) listVPCMembers(w http.ResponseWriter, r *http.Request) error {
	if err := a.pathVPC(r); err != nil {
		return err
	}
	kind := r.URL.Query().Get("resource_type")
	var members []vpcMemberWire
	add := func(urn weir.URN, name string, made time.Time) {
		members = append(members, vpcMemberWire{urn.String(), name, timeWire(made)})
	}
	if kind == "" || kind == "droplet" {
		all, err := a.droplets(r.Context())
		if err != nil {
			return err
		}
		for _, m := range all {
			add(weir.URN{Kind: weir.URNMachine, ID: m.ID}, m.Name, m.Created)
		}
	}
	if kind == "" || kind == "load_balancer" || kind == "loadbalancer" {
		all, err := a.Control.LoadBalancers(r.Context())
		if err != nil {
			return err
		}
		for _, lb := range all {
			add(weir.URN{Kind: weir.URNLoadBalancer, ID: lb.ID}, lb.Name, lb.Created)
		}
	}
	return list(w, r, "members", members, func(m vpcMemberWire) vpcMemberWire { return m })
}

func (a *api) listVPCPeerings(w http.ResponseWriter, r *http.Request) error {
	if err := a.pathVPC(r); err != nil {
		return err
	}
	return a.none("peerings")(w, r)
}

func (a *api) createVPCPeering(_ http.ResponseWriter, r *http.Request) error {
	if r.PathValue("id") != "" {
		if err := a.pathVPC(r); err != nil {
			return err
		}
	}
	return invalid("a region of Weir has one private network, and there is none to peer it with: what is in the region reaches each other as it is")
}
