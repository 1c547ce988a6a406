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
	rows, err := allMachines(ctx, tx)
	if err != nil {
		return costs, err
	}
	owners, err := addresses.All(ctx, tx)
	if err != nil {
		return costs, err
	}
	of := map[weir.ID]string{}
	price := map[weir.ID]func(size string) float64{}
	ps, err := pools.All(ctx, tx)
	if err != nil {
		return costs, err
	}
	for _, p := range ps {
		of[p.ID] = "pool " + p.Name
		price[p.ID] = func(size string) float64 { o, _ := p.Offer(size); return o.Price }
	}
	lbs, err := loadBalancers.All(ctx, tx)
	if err != nil {
		return costs, err
	}
	for _, lb := range lbs {
		of[lb.ID] = "load balancer " + lb.Name
	}
	machine := map[weir.ID]cloud.Machine{}
	for _, m := range ms {
		machine[m.ID] = m
	}
	for _, m := range rows {
		if m.Own {
			continue
		}
		_, there := machine[m.ID]
		delete(machine, m.ID)
		item := weir.Cost{Kind: "machine", ID: m.ID, Team: m.Team, Name: m.Name, Size: m.Size, Of: of[cmp.Or(m.Pool, m.LoadBalancer)], Since: m.Created, Err: m.Status.Err}
		if p := price[m.Pool]; p != nil {
			item.Price = p(m.Size)
		}
		item.State = costState(!m.Deleting.IsZero(), there || !seen && m.Status.Phase != weir.MachineNew)
		if item.State == weir.CostLeaving {
			item.Since = m.Deleting
		}
		costs.Items = append(costs.Items, item)
	}
	for _, m := range ms {
		if _, unknown := machine[m.ID]; unknown {
			costs.Items = append(costs.Items, weir.Cost{Kind: "machine", ID: m.ID, Name: m.Name, State: weir.CostUnknown})
		}
	}
	address := map[netip.Addr]bool{}
	for _, a := range as {
		address[a.Addr] = true
	}
	slices.SortFunc(owners, func(a, b weir.Address) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Owner, b.Owner)) })
	for _, a := range owners {
		if a.Mode != weir.InCloud {
			continue
		}
		for _, addr := range []netip.Addr{a.Addr, a.Addr6} {
			if addr == a.Addr6 && !addr.IsValid() {
				continue
			}
			item := weir.Cost{Kind: "address", Team: a.Team, Of: of[a.Owner], Since: a.Created, Err: a.Err}
			if addr.IsValid() {
				item.ID = weir.ID(addr.String())
			}
			item.State = costState(!a.Deleting.IsZero(), address[addr] || !seen && addr.IsValid())
			if item.State == weir.CostLeaving {
				item.Since = a.Deleting
			}
			delete(address, addr)
			costs.Items = append(costs.Items, item)
		}
	}
	for _, a := range as {
		if address[a.Addr] {
			costs.Items = append(costs.Items, weir.Cost{Kind: "address", ID: weir.ID(a.Addr.String()), Of: of[a.Owner], State: weir.CostUnknown})
		}
	}
	return costs, nil
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
