package digitalocean

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/digitalocean/godo"

	"weir/cloud"
	"weir/weir"
)

const (
	assignTime = 30 * time.Second

	// spareTime is for how long an address of the project that is nobody's is kept: who reserves one takes it, and it costs
	// money.
	spareTime = 10 * time.Minute

	// countTime is for how long one that was released may count.
	countTime = 10 * time.Second
)

// address is a reserved IP of the project, as it was seen.
type address struct {
	addr    netip.Addr
	owner   weir.ID // nobody if empty
	droplet *godo.Droplet
}

// ownerTag is the name of the tag that says whose an address is.
func (c *Cloud) ownerTag(addr netip.Addr, owner weir.ID) string {
	return c.tag() + ":address:" + strings.ReplaceAll(addr.String(), ".", "-") + ":" + string(owner)
}

// ownerIn returns what the name of a tag says of whose an address is, if it is about that.
func (c *Cloud) ownerIn(tag string) (addr netip.Addr, owner weir.ID, ok bool) {
	rest, ok := strings.CutPrefix(tag, c.tag()+":address:")
	text, of, cut := strings.Cut(rest, ":")
	addr, err := netip.ParseAddr(strings.ReplaceAll(text, "-", "."))
	return addr, weir.ID(of), ok && cut && err == nil && ownerForm.MatchString(of)
}

// projectName is that of the project that the reserved IPs are in. What is in it is this Weir's.
func (c *Cloud) projectName() string { return "weir " + c.Name }

// projectID returns the ID of the project. If there is none, it is made, or is "" without create.
func (c *Cloud) projectID(ctx context.Context, create bool) (string, error) {
	if id := c.project.Load(); id != nil {
		return *id, nil
	}
	all, err := pages(ctx, c.do.Projects.List)
	if err != nil {
		return "", fmt.Errorf("list projects: %w", c.fault(err))
	}
	for _, p := range all {
		if p.Name == c.projectName() {
			c.project.Store(&p.ID)
			return p.ID, nil
		}
	}
	if !create {
		return "", nil
	}
	p, _, err := c.do.Projects.Create(ctx, &godo.CreateProjectRequest{Name: c.projectName(), Purpose: "Service or API",
		Description: "What is in here belongs to a Weir, which deletes what it does not need."})
	if err != nil {
		return "", fmt.Errorf("create project %s: %w", c.projectName(), c.fault(err))
	}
	c.project.Store(&p.ID)
	return p.ID, nil
}

// holding returns the reserved IPs of the project, by address. One is its owner's only if it is there: a tag about another, which
// was released, is removed.
func (c *Cloud) holding(ctx context.Context) ([]address, error) {
	return c.held.get(ctx, func(ctx context.Context) ([]address, error) {
		project, err := c.projectID(ctx, false)
		if err != nil || project == "" {
			return nil, err
		}
		ips, err := pages(ctx, c.do.ReservedIPs.List)
		if err != nil {
			return nil, fmt.Errorf("list reserved IPs: %w", c.fault(err))
		}
		tags, err := pages(ctx, c.do.Tags.List)
		if err != nil {
			return nil, fmt.Errorf("list tags: %w", c.fault(err))
		}
		owners := map[netip.Addr]weir.ID{}
		for _, tag := range tags {
			if addr, owner, ok := c.ownerIn(tag.Name); ok {
				owners[addr] = owner
			}
		}
		var all []address
		for _, ip := range ips {
			addr, err := netip.ParseAddr(ip.IP)
			if err != nil || ip.ProjectID != project || ip.Region == nil || ip.Region.Slug != c.Region {
				continue
			}
			all = append(all, address{addr, owners[addr], ip.Droplet})
			delete(owners, addr)
		}
		slices.SortFunc(all, func(a, b address) int {
			// Of two of one owner the one that is somewhere is kept.
			return cmp.Or(boolean(b.droplet != nil)-boolean(a.droplet != nil), a.addr.Compare(b.addr))
		})
		for addr, owner := range owners {
			if _, err := c.do.Tags.Delete(ctx, c.ownerTag(addr, owner)); err != nil && !gone(err) {
				return nil, fmt.Errorf("remove the tag about %s, which is gone: %w", addr, c.fault(err))
			}
		}
		return c.oneOwned(ctx, all)
	})
}

// oneOwned has each owner have one address: a second one, which two processes have reserved at once, is nobody's.
func (c *Cloud) oneOwned(ctx context.Context, all []address) ([]address, error) {
	has := map[weir.ID]bool{}
	for i, a := range all {
		if a.owner == "" {
			continue
		}
		if has[a.owner] {
			if _, err := c.do.Tags.Delete(ctx, c.ownerTag(a.addr, a.owner)); err != nil && !gone(err) {
				return nil, fmt.Errorf("remove the tag about %s, of which %s has another: %w", a.addr, a.owner, c.fault(err))
			}
			all[i].owner = ""
			continue
		}
		has[a.owner] = true
	}
	slices.SortFunc(all, func(a, b address) int { return a.addr.Compare(b.addr) })
	return all, nil
}

// Addresses keeps the promise of [cloud.Addresses]. What the project has and nobody owns is not among them: its reservation
// is not done, or was cut short. If nobody takes it in ten minutes, it is released.
func (c *Cloud) Addresses(ctx context.Context) ([]cloud.Address, error) {
	release, err := c.locks.take(ctx, "addresses")
	if err != nil {
		return nil, err
	}
	defer release()
	held, err := c.holding(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.releaseSpare(ctx, held); err != nil {
		return nil, err
	}
	var all []cloud.Address
	for _, a := range held {
		if a.owner == "" {
			continue
		}
		shown := cloud.Address{Addr: a.addr, Owner: a.owner}
		if a.droplet != nil {
			if id := c.machineAt(a.droplet); id != "" {
				shown.Machines = []weir.ID{id}
			}
		}
		all = append(all, shown)
	}
	return all, nil
}

// machineAt returns the machine that a droplet of a reserved IP is. It may be told with its ID alone.
func (c *Cloud) machineAt(d *godo.Droplet) weir.ID {
	if id, ours := c.machineOf(d); ours {
		return id
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, droplet := range c.known {
		if droplet == d.ID {
			return id
		}
	}
	return ""
}

// releaseSpare gives those addresses back that nobody has owned for long.
func (c *Cloud) releaseSpare(ctx context.Context, held []address) error {
	was, now := c.spare, time.Now()
	c.spare = map[netip.Addr]time.Time{}
	for _, a := range held {
		if a.owner != "" || a.droplet != nil {
			continue
		}
		since, ok := was[a.addr]
		if !ok {
			since = now
		}
		if now.Sub(since) < spareTime {
			c.spare[a.addr] = since
			continue
		}
		c.Log.Warn("reserved IP is nobody's and is released", "addr", a.addr)
		if _, err := c.do.ReservedIPs.Delete(ctx, a.addr.String()); err != nil && !gone(err) {
			return fmt.Errorf("release %s, which is nobody's: %w", a.addr, c.fault(err))
		}
		c.held.changed()
	}
	return nil
}

// Reserve keeps the promise of [cloud.Addresses]. The address is in the project at once, and has its owner by a second
// request: one that is cut short in between is taken by the next who asks.
func (c *Cloud) Reserve(ctx context.Context, owner weir.ID, family weir.Family) (netip.Addr, error) {
	if family == weir.IPv6 {
		return netip.Addr{}, errNoIPv6
	}
	if !ownerForm.MatchString(string(owner)) {
		return netip.Addr{}, weir.Errorf(weir.Invalid, "the owner is %.40q, want letters, digits, - and _", owner)
	}
	release, err := c.locks.take(ctx, "addresses")
	if err != nil {
		return netip.Addr{}, err
	}
	defer release()
	addr, err := c.reserve(ctx, owner)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("reserve an address for %s: %w", owner, err)
	}
	return addr, nil
}

func (c *Cloud) reserve(ctx context.Context, owner weir.ID) (addr netip.Addr, err error) {
	c.held.changed() // by another process, perhaps
	held, err := c.holding(ctx)
	if err != nil {
		return addr, err
	}
	if i := slices.IndexFunc(held, func(a address) bool { return a.owner == owner }); i >= 0 {
		return held[i].addr, nil
	}
	defer c.held.changed()
	if i := slices.IndexFunc(held, func(a address) bool { return a.owner == "" && a.droplet == nil }); i >= 0 {
		return held[i].addr, c.own(ctx, held[i].addr, owner)
	}
	project, err := c.projectID(ctx, true)
	if err != nil {
		return addr, err
	}
	ip, err := c.another(ctx, project)
	if err != nil {
		return addr, err
	}
	if addr, err = netip.ParseAddr(ip.IP); err != nil {
		return addr, weir.Errorf(weir.Unavailable, "DigitalOcean reserved %q, which is no address", ip.IP)
	}
	return addr, c.own(ctx, addr, owner)
}

// another reserves one more. One that was just released may count for a moment yet.
func (c *Cloud) another(ctx context.Context, project string) (ip *godo.ReservedIP, err error) {
	err = until(ctx, countTime, "there is an address to reserve", func() (bool, error) {
		var err error
		ip, _, err = c.do.ReservedIPs.Create(ctx, &godo.ReservedIPCreateRequest{Region: c.Region, ProjectID: project})
		if err = c.fault(err); errors.Is(err, weir.Exhausted) && time.Since(c.released) < countTime {
			return false, nil
		}
		return err == nil, err
	})
	return ip, err
}

// own notes whose an address is.
func (c *Cloud) own(ctx context.Context, addr netip.Addr, owner weir.ID) error {
	_, _, err := c.do.Tags.Create(ctx, &godo.TagCreateRequest{Name: c.ownerTag(addr, owner)})
	if err != nil {
		return fmt.Errorf("note by a tag that %s is its address: %w", addr, c.fault(err))
	}
	return nil
}

// PrivateNetwork is none.
func (c *Cloud) PrivateNetwork() netip.Prefix { return netip.Prefix{} }

// ReservePrivate is weir.Invalid.
func (c *Cloud) ReservePrivate(context.Context, weir.ID) (netip.Addr, error) {
	return netip.Addr{}, weir.Errorf(weir.Invalid, "DigitalOcean reserves no addresses of a private network")
}

// Spread is 1.
func (c *Cloud) Spread() int { return 1 }

// holds returns the reserved IP addr if it is somebody's of this Weir's, or weir.NotFound.
func (c *Cloud) holds(ctx context.Context, addr netip.Addr) (address, error) {
	held, err := c.holding(ctx)
	if err != nil {
		return address{}, err
	}
	if i := slices.IndexFunc(held, func(a address) bool { return a.addr == addr && a.owner != "" }); i >= 0 {
		return held[i], nil
	}
	return address{}, weir.Errorf(weir.NotFound, "there is no reserved IP %s of this Weir", addr)
}

// Assign keeps the promise of [cloud.Addresses].
func (c *Cloud) Assign(ctx context.Context, addr netip.Addr, machines ...weir.ID) error {
	release, err := c.locks.take(ctx, "address "+addr.String())
	if err != nil {
		return err
	}
	defer release()
	if err := c.assign(ctx, addr, machines); err != nil {
		return fmt.Errorf("assign %s to machines %q: %w", addr, machines, err)
	}
	return nil
}

func (c *Cloud) assign(ctx context.Context, addr netip.Addr, machines []weir.ID) error {
	held, err := c.holds(ctx, addr)
	if err != nil {
		return err
	}
	if len(machines) > 1 {
		return weir.Errorf(weir.Invalid, "a reserved IP of DigitalOcean is at one machine at a time, want %d", len(machines))
	}
	defer c.held.changed()
	var act *godo.Action
	if len(machines) == 0 {
		if held.droplet == nil {
			return nil
		}
		act, _, err = c.do.ReservedIPActions.Unassign(ctx, addr.String())
	} else {
		var d *godo.Droplet
		if d, err = c.droplet(ctx, machines[0]); err != nil {
			return err
		}
		if held.droplet != nil && held.droplet.ID == d.ID {
			return nil
		}
		act, _, err = c.do.ReservedIPActions.Assign(ctx, addr.String(), d.ID)
	}
	if err != nil {
		return c.fault(err)
	}
	return until(ctx, assignTime, "the address has moved", func() (bool, error) {
		if act.Status == godo.ActionInProgress {
			now, _, err := c.do.ReservedIPActions.Get(ctx, addr.String(), act.ID)
			if err != nil {
				return false, c.fault(err)
			}
			act = now
		}
		if act.Status == "errored" {
			return false, weir.Errorf(weir.Unavailable, "DigitalOcean could not do it")
		}
		return act.Status == godo.ActionCompleted, nil
	})
}

// Release keeps the promise of [cloud.Addresses].
func (c *Cloud) Release(ctx context.Context, addr netip.Addr) error {
	for _, key := range []string{"addresses", "address " + addr.String()} {
		release, err := c.locks.take(ctx, key)
		if err != nil {
			return err
		}
		defer release()
	}
	held, err := c.holds(ctx, addr)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.held.changed()
	if _, err := c.do.ReservedIPs.Delete(ctx, addr.String()); err != nil && !gone(err) {
		return fmt.Errorf("release %s: %w", addr, c.fault(err))
	}
	c.released = time.Now()
	_, err = c.do.Tags.Delete(ctx, c.ownerTag(addr, held.owner))
	return c.unless(err)
}
