package control

import (
	"context"
	"errors"
	"maps"
	"slices"

	"weir/cloud"
	"weir/weir"
)

// Regions returns the names of the regions that machines can be in: first the one that load balancers and addresses are in.
func (c *Control) Regions() []string {
	return append([]string{c.Region()}, slices.Sorted(maps.Keys(c.Further))...)
}

// in returns the region of that name. One that this Weir was started without may have machines of ours nevertheless.
func (c *Control) in(region string) (cloud.Region, error) {
	if region == c.Region() {
		return c.Cloud, nil
	}
	if r, ok := c.Further[region]; ok {
		return r, nil
	}
	return nil, weir.Errorf(weir.Unavailable, "region %q: this Weir was started without it", region)
}

// machinesIn returns what the cloud has of ours in a region.
func (c *Control) machinesIn(ctx context.Context, region string) ([]cloud.Machine, error) {
	in, err := c.in(region)
	if err != nil {
		return nil, err
	}
	return in.Machines(ctx)
}

// findMachine returns how the cloud shows a machine, nil if it does not, and the region that it is, or is to be, in. One of which there is
// no row any more is looked for in all regions: that it is nowhere only all of them together can say.
func (c *Control) findMachine(ctx context.Context, id weir.ID) (seen *cloud.Machine, region string, err error) {
	regions := c.Regions()
	row, err := machines.Get(ctx, c.Store, id)
	if err == nil {
		regions = []string{row.Region}
	} else if !errors.Is(err, weir.NotFound) {
		return nil, "", err
	}
	var unseen error
	for _, region = range regions {
		all, err := c.machinesIn(ctx, region)
		unseen = errors.Join(unseen, err)
		if i := slices.IndexFunc(all, func(m cloud.Machine) bool { return m.ID == id }); i >= 0 {
			return &all[i], region, nil
		}
	}
	return nil, region, unseen
}

// checkHome returns why a machine can have no address.
func (c *Control) checkHome(m *weir.Machine) error {
	if m.Region != c.Region() {
		return weir.Errorf(weir.Invalid, "machine %s is in region %s, and can have no reserved IP: those are of region %s", m.Name, m.Region, c.Region())
	}
	return nil
}
