package control

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"weir/store"
	"weir/weir"
)

var projects = newTeamed("projects", func(p weir.Project) weir.ID { return p.Team })

// firstProject returns the ID of the project that a team has from the start. What has no
// place, because it is older than projects, is in it.
func firstProject(team weir.ID) weir.ID {
	return weir.ID(uuid.NewSHA1(uuid.NameSpaceURL, []byte("weir:project:"+string(team))).String())
}

// ownProjects returns a team's projects, the oldest first. If the team has none yet, it gets its first.
func ownProjects(ctx context.Context, tx *store.Tx, team weir.ID) ([]weir.Project, error) {
	all, err := projects.AllOf(ctx, tx, team)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		now := time.Now().UTC()
		first := weir.Project{ID: firstProject(team), Team: team, Name: "default", Purpose: "Just trying out DigitalOcean",
			Default: true, Created: now, Updated: now}
		projects.Put(tx, first.ID, first)
		all = append(all, first)
	}
	slices.SortFunc(all, func(a, b weir.Project) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

// ownProject returns one of a team's projects; an empty ID is that of its default.
func ownProject(ctx context.Context, tx *store.Tx, team, id weir.ID) (weir.Project, error) {
	all, err := ownProjects(ctx, tx, team)
	if err != nil {
		return weir.Project{}, err
	}
	i := slices.IndexFunc(all, func(p weir.Project) bool { return p.ID == id || id == "" && p.Default })
	if i < 0 {
		return weir.Project{}, weir.Errorf(weir.NotFound, "there is no project %q", id)
	}
	return all[i], nil
}

// stillProject returns id if it is that of one of a team's projects, and otherwise none: a pool goes on when the
// project that it was made for is deleted.
func stillProject(ctx context.Context, tx *store.Tx, team, id weir.ID) (weir.ID, error) {
	p, err := ownProject(ctx, tx, team, id)
	if errors.Is(err, weir.NotFound) {
		return "", nil
	}
	return p.ID, err
}

// settle has what a team makes be in a project that the team has: in its default, if place names
// none.
func settle(ctx context.Context, tx *store.Tx, team weir.ID, place *weir.Place) error {
	p, err := ownProject(ctx, tx, team, place.Project)
	if errors.Is(err, weir.NotFound) {
		return weir.Errorf(weir.Invalid, "project_id is %.40q: there is no such project, leave it out for the default one", place.Project)
	}
	if err == nil {
		place.Project = p.ID
	}
	return err
}

// Projects returns the caller's projects, the oldest first.
func (c *Control) Projects(ctx context.Context) (all []weir.Project, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error { // which writes if there is none yet
		all, err = ownProjects(ctx, tx, weir.CallerOf(ctx).Team)
		return err
	})
	return all, err
}

// Project returns one of the caller's projects, the default one if id is empty, or weir.NotFound.
func (c *Control) Project(ctx context.Context, id weir.ID) (p weir.Project, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		p, err = ownProject(ctx, tx, weir.CallerOf(ctx).Team, id)
		return err
	})
	return p, err
}

// CreateProject adds a project; its ID and times are set here. A name that is taken is weir.Conflict.
func (c *Control) CreateProject(ctx context.Context, p weir.Project) (weir.Project, error) {
	p.ID, p.Team, p.Default = weir.ID(uuid.NewString()), weir.CallerOf(ctx).Team, false
	p.Created = time.Now().UTC()
	p.Updated = p.Created
	p = p.Normal()
	err := c.Store.Update(ctx, func(tx *store.Tx) error { return putProject(ctx, tx, p) })
	return p, err
}

// putProject checks a project against itself and its team's others, and stores it.
func putProject(ctx context.Context, tx *store.Tx, p weir.Project) error {
	if err := p.Check(); err != nil {
		return err
	}
	all, err := ownProjects(ctx, tx, p.Team)
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.ID != p.ID && other.Name == p.Name {
			return weir.Errorf(weir.Conflict, "project %q: there is one of that name already", p.Name)
		}
	}
	projects.Put(tx, p.ID, p)
	return nil
}

// UpdateProject has change change a project, the default one if id is empty, inside one
// transaction. One that becomes the default takes over from the one that was; the default
// cannot stop being it by itself.
func (c *Control) UpdateProject(ctx context.Context, id weir.ID, change func(*weir.Project) error) (p weir.Project, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		team := weir.CallerOf(ctx).Team
		if p, err = ownProject(ctx, tx, team, id); err != nil {
			return err
		}
		was := p
		if err := change(&p); err != nil {
			return err
		}
		p.ID, p.Team, p.Created = was.ID, was.Team, was.Created
		if p = p.Normal(); p == was {
			return nil
		}
		p.Updated = time.Now().UTC()
		if was.Default && !p.Default {
			return weir.Errorf(weir.Invalid, "is_default is false, and project %q is the default: make another one the default instead", was.Name)
		}
		if p.Default && !was.Default {
			old, err := ownProject(ctx, tx, team, "")
			if err != nil {
				return err
			}
			old.Default, old.Updated = false, p.Updated
			projects.Put(tx, old.ID, old)
		}
		return putProject(ctx, tx, p)
	})
	return p, err
}

// DeleteProject forgets a project. The default one is weir.Denied, and one that has resources is
// weir.Conflict.
func (c *Control) DeleteProject(ctx context.Context, id weir.ID) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		p, err := ownProject(ctx, tx, weir.CallerOf(ctx).Team, id)
		if err != nil {
			return err
		}
		if p.Default {
			return weir.Errorf(weir.Denied, "project %q is the default: make another one the default before deleting it", p.Name)
		}
		things, err := thingsOf(ctx, tx, p.Team)
		if err != nil {
			return err
		}
		for _, r := range things {
			if r.project() == p.ID {
				return weir.Errorf(weir.Conflict, "cannot delete a project with resources. move or remove the resources first") // a text that clients match
			}
		}
		ips, err := addresses.AllOf(ctx, tx, p.Team)
		if err != nil {
			return err
		}
		for _, a := range ips {
			if !a.Addr.IsValid() && a.Deleting.IsZero() && a.Place.Project == p.ID {
				return weir.Errorf(weir.Conflict, "project %q: a reserved IP is about to be in it, try again when it is there", p.Name)
			}
		}
		projects.Delete(tx, p.ID)
		return nil
	})
}

// thing is a row of any table that is in a project.
type thing struct {
	urn   weir.URN
	team  weir.ID
	place weir.Place
	made  time.Time
	put   func(tx *store.Tx, place weir.Place)
}

func (r thing) project() weir.ID { return cmp.Or(r.place.Project, firstProject(r.team)) }

// resource returns r as a project has it.
func (r thing) resource(status weir.ResourceStatus) weir.Resource {
	at := r.place.Since
	if at.IsZero() {
		at = r.made
	}
	return weir.Resource{URN: r.urn, At: at, Status: status}
}

// thingsOf returns all that a team has in projects: its machines, load balancers and reserved IPs.
// What is being deleted is gone from its project.
func thingsOf(ctx context.Context, tx *store.Tx, team weir.ID) (things []thing, err error) {
	all, err := machines.AllOf(ctx, tx, team)
	if err != nil {
		return nil, err
	}
	byNumber(all, func(m weir.Machine) weir.ID { return m.ID })
	for _, m := range all {
		if m.LoadBalancer == "" && !m.Own && m.Deleting.IsZero() {
			things = append(things, thing{weir.URN{Kind: weir.URNMachine, ID: m.ID}, team, m.Place, m.Created,
				func(tx *store.Tx, place weir.Place) { m.Place = place; machines.Put(tx, m.ID, m) }})
		}
	}
	lbs, err := loadBalancers.AllOf(ctx, tx, team)
	if err != nil {
		return nil, err
	}
	balancer := map[weir.ID]bool{}
	for _, lb := range lbs {
		balancer[lb.ID] = true
		if lb.Deleting.IsZero() {
			things = append(things, thing{weir.URN{Kind: weir.URNLoadBalancer, ID: lb.ID}, team, lb.Place, lb.Created,
				func(tx *store.Tx, place weir.Place) { lb.Place = place; loadBalancers.Put(tx, lb.ID, lb) }})
		}
	}
	ips, err := addresses.AllOf(ctx, tx, team)
	if err != nil {
		return nil, err
	}
	for _, a := range ips {
		if balancer[a.Owner] || !a.Addr.IsValid() || !a.Deleting.IsZero() {
			continue // a load balancer's own, or none that its user knows
		}
		kind := weir.URNReservedIP
		switch {
		case a.Family == weir.IPv6:
			kind = weir.URNReservedIPv6
		case a.Place.Floating:
			kind = weir.URNFloatingIP
		}
		things = append(things, thing{weir.URN{Kind: kind, ID: weir.ID(a.Addr.String())}, team, a.Place, a.Created,
			func(tx *store.Tx, place weir.Place) { a.Place = place; addresses.Put(tx, a.Owner, a) }})
	}
	return things, nil
}

// ProjectResources returns what is in one of the caller's projects, the default one if id is empty.
func (c *Control) ProjectResources(ctx context.Context, id weir.ID) (in []weir.Resource, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		in = nil
		p, err := ownProject(ctx, tx, weir.CallerOf(ctx).Team, id)
		if err != nil {
			return err
		}
		things, err := thingsOf(ctx, tx, p.Team)
		for _, r := range things {
			if r.project() == p.ID {
				in = append(in, r.resource(weir.ResourceOK))
			}
		}
		return err
	})
	return in, err
}

// AssignResources puts things in one of the caller's projects, the default one if id is empty, from
// whichever they were in, and says of each what became of it.
func (c *Control) AssignResources(ctx context.Context, id weir.ID, urns []weir.URN) (done []weir.Resource, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		done = nil
		p, err := ownProject(ctx, tx, weir.CallerOf(ctx).Team, id)
		if err != nil {
			return err
		}
		now := time.Now().UTC()
		things, err := thingsOf(ctx, tx, p.Team)
		if err != nil {
			return err
		}
		for _, urn := range urns {
			i := slices.IndexFunc(things, func(r thing) bool { return same(r.urn, urn) })
			if i < 0 {
				done = append(done, weir.Resource{URN: urn, Status: weir.ResourceUnknown})
				continue
			}
			r, status := &things[i], weir.ResourceAlready
			was := r.place
			if r.project() != p.ID {
				status = weir.ResourceOK
				r.place.Project, r.place.Since = p.ID, now
			}
			r.urn, r.place.Floating = urn, urn.Kind == weir.URNFloatingIP
			if r.place != was {
				r.put(tx, r.place)
			}
			done = append(done, r.resource(status))
		}
		return nil
	})
	return done, err
}

// same reports whether two URNs name one thing: a reserved IP is a floating IP.
func same(a, b weir.URN) bool {
	if a.Kind == weir.URNFloatingIP {
		a.Kind = weir.URNReservedIP
	}
	if b.Kind == weir.URNFloatingIP {
		b.Kind = weir.URNReservedIP
	}
	if (a.Kind == weir.URNReservedIP || a.Kind == weir.URNReservedIPv6) && a.Kind == b.Kind {
		x, err := netip.ParseAddr(string(a.ID))
		y, other := netip.ParseAddr(string(b.ID))
		return err == nil && other == nil && x == y
	}
	return a == b
}
