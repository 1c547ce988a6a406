package control

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// Costs returns all that costs money: what the cloud has, whether or not there is a row of it, and what it is still to
// make. If the cloud cannot be asked, it is what was last seen.
func (c *Control) Costs(ctx context.Context) (costs weir.Costs, err error) {
	has := c.owned(ctx)
	err = c.Store.View(ctx, func(tx *store.Tx) (err error) {
		costs, err = c.costs(ctx, tx, has)
		return err
	})
	if has.err != nil {
		costs.Err = has.err.Error()
	}
	for _, item := range costs.Items {
		if item.State != weir.CostComing {
			costs.Price += item.Price
		}
	}
	return costs, err
}

// owned is what the cloud has of ours.
type owned struct {
	machines  []cloud.Machine
	addresses []cloud.Address
	seen      map[string]bool // the regions whose clouds could be asked for their machines
	addressed bool            // whether that of addresses could
	err       error           // why not
}

// owned asks the cloud what it has of ours.
func (c *Control) owned(ctx context.Context) (has owned) {
	has.seen = map[string]bool{}
	for _, region := range c.Regions() {
		all, err := c.machinesIn(ctx, region)
		has.seen[region], has.err = err == nil, errors.Join(has.err, err)
		has.machines = append(has.machines, all...)
	}
	all, err := c.Cloud.Addresses(ctx)
	has.addresses, has.addressed, has.err = all, err == nil, errors.Join(has.err, err)
	return has
}

// costs returns what rows and the cloud have.
func (c *Control) costs(ctx context.Context, tx *store.Tx, has owned) (costs weir.Costs, err error) {
	of := map[weir.ID]string{} // what pools and load balancers are called
	ps, err := pools.All(ctx, tx)
	if err != nil {
		return costs, err
	}
	for _, p := range ps {
		of[p.ID] = "pool " + p.Name
	}
	lbs, err := loadBalancers.All(ctx, tx)
	if err != nil {
		return costs, err
	}
	for _, lb := range lbs {
		of[lb.ID] = "load balancer " + lb.Name
	}
	rows, err := allMachines(ctx, tx)
	if err != nil {
		return costs, err
	}
	held, err := addresses.All(ctx, tx)
	if err != nil {
		return costs, err
	}
	costs.Items = append(machineCosts(rows, has, ps, of), addressCosts(held, has, of)...)
	return costs, nil
}

// machineCosts returns the machines that there are rows of, and then those that the cloud alone has.
func machineCosts(rows []weir.Machine, has owned, ps []weir.Pool, of map[weir.ID]string) (items []weir.Cost) {
	pool := map[weir.ID]*weir.Pool{}
	for i := range ps {
		pool[ps[i].ID] = &ps[i]
	}
	unknown := map[weir.ID]bool{}
	for _, m := range has.machines {
		unknown[m.ID] = true
	}
	for _, m := range rows {
		if m.Own {
			continue
		}
		item := weir.Cost{Kind: "machine", ID: m.ID, Team: m.Team, Name: m.Name, Size: m.Size, Of: of[cmp.Or(m.Pool, m.LoadBalancer)], Since: m.Created, Err: cmp.Or(m.Status.Err, m.HostTrouble())}
		if p := pool[m.Pool]; p != nil {
			o, _ := p.Offer(m.Placement())
			item.Price = o.Price
		}
		item.State = costState(!m.Deleting.IsZero(), unknown[m.ID] || !has.seen[m.Region] && m.Status.Phase != weir.MachineNew)
		if item.State == weir.CostLeaving {
			item.Since = m.Deleting
		}
		delete(unknown, m.ID)
		items = append(items, item)
	}
	for _, m := range has.machines {
		if unknown[m.ID] {
			items = append(items, weir.Cost{Kind: "machine", ID: m.ID, Name: m.Name, State: weir.CostUnknown})
		}
	}
	return items
}

// addressCosts returns the addresses of the cloud that there are rows of, and then those that it alone has.
func addressCosts(rows []weir.Address, has owned, of map[weir.ID]string) (items []weir.Cost) {
	unknown := map[netip.Addr]bool{}
	for _, a := range has.addresses {
		unknown[a.Addr] = true
	}
	slices.SortFunc(rows, func(a, b weir.Address) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Owner, b.Owner)) })
	for _, a := range rows {
		if a.Mode != weir.InCloud {
			continue
		}
		addrs := []netip.Addr{a.Addr}
		if a.Addr6.IsValid() {
			addrs = append(addrs, a.Addr6)
		}
		for _, addr := range addrs {
			item := weir.Cost{Kind: "address", Team: a.Team, Of: of[a.Owner], Since: a.Created, Err: a.Err}
			if addr.IsValid() {
				item.ID = weir.ID(addr.String())
			}
			item.State = costState(!a.Deleting.IsZero(), unknown[addr] || !has.addressed && addr.IsValid())
			if item.State == weir.CostLeaving {
				item.Since = a.Deleting
			}
			delete(unknown, addr)
			items = append(items, item)
		}
	}
	for _, a := range has.addresses {
		if unknown[a.Addr] {
			items = append(items, weir.Cost{Kind: "address", ID: weir.ID(a.Addr.String()), Of: of[a.Owner], State: weir.CostUnknown})
		}
	}
	return items
}

// costState says how it is with something that is to go or not, and that the cloud has or not.
func costState(goes, there bool) weir.CostState {
	switch {
	case goes:
		return weir.CostLeaving
	case there:
		return weir.CostKept
	}
	return weir.CostComing
}
