package control

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// addressStep is one thing to do about a reserved IP.
type addressStep string

const (
	stepReserve addressStep = "reserve address"
	stepRelease addressStep = "release address"
	stepAssign  addressStep = "assign address"
)

// planAddress returns the next step that brings a reserved IP to its row, or "".
// seen is nil if the cloud holds none for its owner; to are those machines it
// should point to that are there.
func planAddress(row weir.Address, seen *cloud.Address, to []weir.ID) addressStep {
	switch {
	case !row.Deleting.IsZero():
		return stepRelease
	case seen == nil:
		return stepReserve
	case !slices.Equal(seen.Machines, to) && (len(to) > 0 || row.Machine == ""):
		return stepAssign
	}
	return ""
}

// reconcileAddress brings the reserved IP of one owner to its row.
func (t *term) reconcileAddress(ctx context.Context, owner weir.ID) (again time.Duration, err error) {
	// The cloud is looked at first: what is done to it is done by a row that is no older.
	seen, unseen := t.seenAddresses(ctx, owner)
	row, err := addresses.Get(ctx, t.db, owner)
	if err == nil && row.Mode == weir.OnSegment {
		return 0, t.observeHeld(ctx, row)
	}
	if unseen != nil {
		return 0, unseen
	}
	if errors.Is(err, weir.NotFound) {
		err = nil
		for _, a := range seen {
			err = errors.Join(err, t.Cloud.Release(ctx, a.Addr))
		}
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	// One after the other, without a wait between them: a load balancer's two addresses move together.
	for _, family := range row.Families() {
		if err := t.bring(ctx, row, family, seen[family]); err != nil {
			return 0, err
		}
	}
	if !row.Deleting.IsZero() {
		return 0, t.forgetAddress(ctx, row)
	}
	if seen, err = t.seenAddresses(ctx, owner); err != nil {
		return 0, err
	}
	return 0, t.observeAddress(ctx, row, seen)
}

// bring brings one address of a row to it. In the cloud it is seen, or nil.
func (t *term) bring(ctx context.Context, row weir.Address, family weir.Family, seen *cloud.Address) error {
	var to []weir.ID
	for _, id := range append([]weir.ID{row.Machine}, row.Sharing...) {
		m, err := machines.Get(ctx, t.db, id)
		if err != nil && !errors.Is(err, weir.NotFound) {
			return err
		}
		if err == nil && m.Status.Phase != weir.MachineNew && m.Deleting.IsZero() && (family == weir.IPv4 || m.Status.Public6.IsValid()) {
			to = append(to, id)
		}
	}
	switch planAddress(row, seen, to) {
	case stepRelease:
		if seen != nil {
			return t.Cloud.Release(ctx, seen.Addr)
		}
	case stepReserve:
		var err error
		if row.Private {
			_, err = t.Cloud.ReservePrivate(ctx, row.Owner)
		} else {
			_, err = t.Cloud.Reserve(ctx, row.Owner, family)
		}
		return err
	case stepAssign:
		if err := t.Cloud.Assign(ctx, seen.Addr, to...); err != nil {
			return err
		}
		t.Log.Info("address assigned", "addr", seen.Addr, "from", seen.Machines, "to", to)
	}
	return nil
}

// forgetAddress forgets a row whose addresses were released.
func (t *term) forgetAddress(ctx context.Context, row weir.Address) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		for _, a := range row.Actions {
			if err := completeAction(ctx, tx, a, "the address was released"); err != nil {
				return err
			}
		}
		addresses.Delete(tx, row.Owner)
		return nil
	})
}

// observeHeld forgets an address that no cloud has given once nobody needs it; until then there is
// nothing to do about it, and nothing that could fail.
func (t *term) observeHeld(ctx context.Context, row weir.Address) error {
	if row.Deleting.IsZero() && row.Err == "" {
		return nil
	}
	return t.db.Update(ctx, func(tx *store.Tx) error {
		if !row.Deleting.IsZero() {
			addresses.Delete(tx, row.Owner)
			return nil
		}
		return changeAddress(ctx, tx, row.Owner, func(a *weir.Address) { a.Err = "" })
	})
}

// observeAddress brings what the cloud shows into the row, and completes what was
// asked of the address and is done.
func (t *term) observeAddress(ctx context.Context, acted weir.Address, all map[weir.Family]*cloud.Address) error {
	seen := all[acted.Family]
	if seen == nil {
		return nil
	}
	return t.db.Update(ctx, func(tx *store.Tx) error {
		row, err := addresses.Get(ctx, tx, acted.Owner)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		row.Addr, row.Assigned, row.Shared, row.Err = seen.Addr, "", nil, ""
		if six := all[weir.IPv6]; row.Dual && six != nil {
			row.Addr6 = six.Addr
		}
		if len(seen.Machines) > 0 {
			row.Assigned, row.Shared = seen.Machines[0], seen.Machines[1:]
		}
		if row.Assigned == acted.Machine {
			for _, id := range acted.Actions {
				a, err := actions.Get(ctx, tx, id)
				if err != nil {
					return err
				}
				why := ""
				if a.Machine != acted.Machine {
					why = overtaken
				}
				if err := completeAction(ctx, tx, id, why); err != nil {
					return err
				}
			}
			row.Actions = slices.DeleteFunc(row.Actions, func(a weir.ID) bool { return slices.Contains(acted.Actions, a) })
		}
		addresses.Put(tx, row.Owner, row)
		return nil
	})
}

// seenAddresses returns what the cloud shows that an owner has, by family.
func (t *term) seenAddresses(ctx context.Context, owner weir.ID) (map[weir.Family]*cloud.Address, error) {
	all, err := t.Cloud.Addresses(ctx)
	if err != nil {
		return nil, err
	}
	seen := map[weir.Family]*cloud.Address{}
	for _, a := range all {
		if a.Owner == owner {
			seen[weir.FamilyOf(a.Addr)] = &a
		}
	}
	return seen, nil
}

func (t *term) addressFailed(ctx context.Context, owner weir.ID, why error) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		row, err := addresses.Get(ctx, tx, owner)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		row.Err = why.Error()
		addresses.Put(tx, owner, row)
		return nil
	})
}

// ofBalancers returns the IDs of all load balancers, of those too that are being deleted: what they have
// reserved is not a user's.
func ofBalancers(ctx context.Context, r store.Reader) (map[weir.ID]bool, error) {
	all, err := loadBalancers.All(ctx, r)
	ids := make(map[weir.ID]bool, len(all))
	for _, lb := range all {
		ids[lb.ID] = true
	}
	return ids, err
}

// Addresses returns the reserved IPs of users that the cloud has given us; those of load balancers are
// not among them.
func (c *Control) Addresses(ctx context.Context) (all []weir.Address, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		theirs, err := ofBalancers(ctx, tx)
		if err != nil {
			return err
		}
		all, err = addresses.AllOwn(ctx, tx)
		all = slices.DeleteFunc(all, func(a weir.Address) bool {
			return !a.Addr.IsValid() || !a.Deleting.IsZero() || theirs[a.Owner]
		})
		return err
	})
	slices.SortFunc(all, func(a, b weir.Address) int { return a.Addr.Compare(b.Addr) })
	return all, err
}

// Address returns a user's reserved IP addr, or weir.NotFound.
func (c *Control) Address(ctx context.Context, addr netip.Addr) (a weir.Address, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		if a, err = addressOf(ctx, tx, addr); err != nil {
			return err
		}
		theirs, err := ofBalancers(ctx, tx)
		if err == nil && theirs[a.Owner] {
			return weir.Errorf(weir.NotFound, "reserved IP %s is a load balancer's", addr)
		}
		return err
	})
	return a, err
}

// addressOf returns the reserved IP addr of the caller's team.
func addressOf(ctx context.Context, r store.Reader, addr netip.Addr) (weir.Address, error) {
	all, err := addresses.AllOwn(ctx, r)
	for _, a := range all {
		if a.Addr == addr && a.Deleting.IsZero() {
			return a, err
		}
	}
	if err != nil {
		return weir.Address{}, err
	}
	return weir.Address{}, weir.Errorf(weir.NotFound, "there is no reserved IP %s", addr)
}

// ReserveAddress gets a reserved IP of a family from the cloud, in a project (the default one if that is empty),
// and points it to machine, by an action that is in the row until it is done, or to nobody if that is empty. If ctx ends in between, there may be an address that nobody was
// told of: it is in Addresses, and can be released.
func (c *Control) ReserveAddress(ctx context.Context, family weir.Family, machine, project weir.ID) (weir.Address, error) {
	// The row comes first, so that an address whose row was lost by a crash in
	// between is found by its owner, and used.
	row := weir.Address{Team: weir.CallerOf(ctx).Team, Owner: weir.ID(uuid.NewString()), Family: family, Machine: machine, Created: time.Now().UTC()}
	err := c.Store.Update(ctx, func(tx *store.Tx) error {
		if machine != "" {
			m, err := referred(ctx, tx, machine)
			if err == nil {
				err = c.checkHome(&m)
			}
			if err != nil {
				return err
			}
		}
		row.Place.Project = project
		if err := settle(ctx, tx, weir.CallerOf(ctx).Team, &row.Place); err != nil {
			return err
		}
		addresses.Put(tx, row.Owner, row)
		return nil
	})
	if err != nil {
		return row, err
	}
	addr, failed := c.Cloud.Reserve(ctx, row.Owner, family)
	err = c.numbered(ctx, func(tx *store.Tx) error {
		now, err := addresses.Get(ctx, tx, row.Owner)
		if err != nil {
			return err
		}
		if failed != nil {
			now.Deleting = time.Now().UTC()
		} else {
			now.Addr = addr
		}
		if failed == nil && machine != "" {
			a, err := newAction(ctx, tx, weir.Action{Team: now.Team, Type: "assign", Resource: weir.OnAddress, On: weir.ID(addr.String()), Region: c.Region(), Machine: machine})
			if err != nil {
				return err
			}
			now.Actions = append(now.Actions, a.ID)
		}
		addresses.Put(tx, row.Owner, now)
		row = now
		return nil
	})
	return row, errors.Join(failed, err)
}

// AssignAddress points addr to machine, or to nobody if that is empty.
func (c *Control) AssignAddress(ctx context.Context, addr netip.Addr, machine weir.ID) (a weir.Action, err error) {
	err = c.numbered(ctx, func(tx *store.Tx) error {
		row, err := freeAddress(ctx, tx, addr)
		if err != nil {
			return err
		}
		kind := "assign"
		if machine == "" {
			kind = "unassign"
		} else if m, err := referred(ctx, tx, machine); err != nil {
			return err
		} else if err := c.checkHome(&m); err != nil {
			return err
		} else if row.Family == weir.IPv6 && !m.IPv6 {
			return weir.Errorf(weir.Invalid, "machine %s has no IPv6, and can have no address of it: enable it by the action enable_ipv6 first", m.Name)
		}
		a, err = newAction(ctx, tx, weir.Action{Team: row.Team, Type: kind, Resource: weir.OnAddress, On: weir.ID(addr.String()), Region: c.Region(), Machine: machine})
		if err != nil {
			return err
		}
		row.Machine = machine
		row.Actions = append(row.Actions, a.ID)
		addresses.Put(tx, row.Owner, row)
		return nil
	})
	return a, err
}

// ReleaseAddress gives addr back to the cloud.
func (c *Control) ReleaseAddress(ctx context.Context, addr netip.Addr) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		row, err := freeAddress(ctx, tx, addr)
		if err != nil {
			return err
		}
		row.Deleting = time.Now().UTC()
		addresses.Put(tx, row.Owner, row)
		return nil
	})
}

// unassign lets the reserved IPs that should point to machine point to nobody.
func unassign(ctx context.Context, tx *store.Tx, machine weir.ID) error {
	all, err := addresses.All(ctx, tx)
	for _, a := range all {
		if a.Machine == machine || slices.Contains(a.Sharing, machine) {
			if a.Machine == machine {
				a.Machine = ""
			}
			a.Sharing = slices.DeleteFunc(a.Sharing, func(m weir.ID) bool { return m == machine })
			addresses.Put(tx, a.Owner, a)
		}
	}
	return err
}

// freeAddress returns the row of addr if it is a user's to change: a load balancer's
// own address moves with the load balancer alone.
func freeAddress(ctx context.Context, tx *store.Tx, addr netip.Addr) (weir.Address, error) {
	row, err := addressOf(ctx, tx, addr)
	if err != nil {
		return row, err
	}
	lb, err := loadBalancers.Get(ctx, tx, row.Owner)
	if err == nil {
		return row, weir.Errorf(weir.Conflict, "reserved IP %s belongs to load balancer %q", addr, lb.Name)
	}
	if !errors.Is(err, weir.NotFound) {
		return row, err
	}
	return row, nil
}
