package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// outage is a region whose cloud does not say what it has.
type outage struct {
	Region string    `json:"region"`
	Since  time.Time `json:"since"`
	Why    string    `json:"why"`
}

// outages are those that there are, by region. All members are to know of them, and only the leader asks the clouds.
var outages = store.NewTable[outage]("outages")

// outageAfter is how long a cloud that answers nothing is taken for one that hiccups.
const outageAfter = 10 * time.Second

// silence is since when the clouds of regions have not said what they have.
type silence map[string]time.Time

// noteOutages notes which regions cannot be asked, and tells when that begins and ends: unseen are those that could not be just now, and
// why. Pools say it of theirs.
func (t *term) noteOutages(ctx context.Context, silent silence, unseen map[string]error) error {
	now := time.Now().UTC()
	maps.DeleteFunc(silent, func(region string, _ time.Time) bool { return unseen[region] == nil })
	for region, err := range unseen {
		if _, ok := silent[region]; !ok && weir.WaitOf(err) == 0 { // one that says when to ask again is there
			silent[region] = now
		}
	}
	known, err := outages.All(ctx, t.db)
	if err != nil {
		return err
	}
	var begun []outage
	ended := slices.DeleteFunc(slices.Clone(known), func(o outage) bool { return unseen[o.Region] != nil })
	for _, region := range slices.Sorted(maps.Keys(unseen)) {
		since, ok := silent[region]
		if ok && now.Sub(since) >= outageAfter && !slices.ContainsFunc(known, func(o outage) bool { return o.Region == region }) {
			begun = append(begun, outage{region, since, unseen[region].Error()})
		}
	}
	if len(begun)+len(ended) == 0 {
		return nil
	}
	err = t.db.Update(ctx, func(tx *store.Tx) error {
		for _, o := range begun {
			outages.Put(tx, weir.ID(o.Region), o)
			tellEvent(tx, weir.Event{Kind: weir.EventEvidence, Name: o.Region, Text: fmt.Sprintf("does not say what it has: %s; its machines are kept", o.Why)})
		}
		for _, o := range ended {
			outages.Delete(tx, weir.ID(o.Region))
			tellEvent(tx, weir.Event{Kind: weir.EventEvidence, Name: o.Region, Text: fmt.Sprintf("says again what it has, after %s", now.Sub(o.Since).Round(time.Second))})
		}
		return nil
	})
	if err != nil {
		return err
	}
	all, err := pools.All(ctx, t.db)
	for _, p := range all {
		t.pools.Touch(p.ID)
	}
	return err
}

// cutOff says which regions that a pool has machines in cannot be asked, or "".
func cutOff(ctx context.Context, tx *store.Tx, members []weir.Machine) (said string, err error) {
	all, err := outages.All(ctx, tx)
	for _, o := range all {
		n := 0
		for i := range members {
			if members[i].Region == o.Region {
				n++
			}
		}
		if n > 0 && said == "" {
			said = fmt.Sprintf("region %s, where it has %d of its machines, cannot be asked since %s: %s", o.Region, n, o.Since.Format(time.DateTime), o.Why)
		}
	}
	return said, err
}

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
