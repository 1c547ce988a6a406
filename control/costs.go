package control

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// Costs returns all that costs money: what the cloud has, whether or not there is a row of it, and what it is still to
// make. If the cloud cannot be asked, it is what was last seen.
func (c *Control) Costs(ctx context.Context) (costs weir.Costs, err error) {
	ms, as, seenErr := c.owned(ctx)
	err = c.Store.View(ctx, func(tx *store.Tx) (err error) {
		costs, err = c.costs(ctx, tx, ms, as, seenErr == nil)
		return err
	})
	if seenErr != nil {
		costs.Err = seenErr.Error()
	}
	for _, item := range costs.Items {
		if item.State != weir.CostComing {
			costs.Price += item.Price
		}
	}
	return costs, err
}

// owned returns what the cloud has of ours.
func (c *Control) owned(ctx context.Context) ([]cloud.Machine, []cloud.Address, error) {
	ms, err := c.Cloud.Machines(ctx)
	if err != nil {
		return nil, nil, err
	}
	as, err := c.Cloud.Addresses(ctx)
	return ms, as, err
}

// costs returns what rows and the cloud have; without seen the cloud could not be asked.
func (c *Control) costs(ctx context.Context, tx *store.Tx, ms []cloud.Machine, as []cloud.Address, seen bool) (costs weir.Costs, err error) {
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
	owned, err := addresses.All(ctx, tx)
	if err != nil {
		return costs, err
	}
	costs.Items = append(machineCosts(rows, ms, ps, of, seen), addressCosts(owned, as, of, seen)...)
	return costs, nil
}

// machineCosts returns the machines that there are rows of, and then those that the cloud alone has.
func machineCosts(rows []weir.Machine, ms []cloud.Machine, ps []weir.Pool, of map[weir.ID]string, seen bool) (items []weir.Cost) {
	pool := map[weir.ID]*weir.Pool{}
	for i := range ps {
		pool[ps[i].ID] = &ps[i]
	}
	unknown := map[weir.ID]bool{}
	for _, m := range ms {
		unknown[m.ID] = true
	}
	for _, m := range rows {
		if m.Own {
			continue
		}
		item := weir.Cost{Kind: "machine", ID: m.ID, Team: m.Team, Name: m.Name, Size: m.Size, Of: of[cmp.Or(m.Pool, m.LoadBalancer)], Since: m.Created, Err: cmp.Or(m.Status.Err, m.HostTrouble())}
		if p := pool[m.Pool]; p != nil {
			o, _ := p.Offer(m.Size)
			item.Price = o.Price
		}
		item.State = costState(!m.Deleting.IsZero(), unknown[m.ID] || !seen && m.Status.Phase != weir.MachineNew)
		if item.State == weir.CostLeaving {
			item.Since = m.Deleting
		}
		delete(unknown, m.ID)
		items = append(items, item)
	}
	for _, m := range ms {
		if unknown[m.ID] {
			items = append(items, weir.Cost{Kind: "machine", ID: m.ID, Name: m.Name, State: weir.CostUnknown})
		}
	}
	return items
}

// addressCosts returns the addresses of the cloud that there are rows of, and then those that it alone has.
func addressCosts(rows []weir.Address, as []cloud.Address, of map[weir.ID]string, seen bool) (items []weir.Cost) {
	unknown := map[netip.Addr]bool{}
	for _, a := range as {
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
			item.State = costState(!a.Deleting.IsZero(), unknown[addr] || !seen && addr.IsValid())
			if item.State == weir.CostLeaving {
				item.Since = a.Deleting
			}
			delete(unknown, addr)
			items = append(items, item)
		}
	}
	for _, a := range as {
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
