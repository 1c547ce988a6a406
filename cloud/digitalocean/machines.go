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
	"golang.org/x/crypto/ssh"

	"weir/cloud"
	"weir/weir"
)

// How long things are waited for that DigitalOcean does after it has answered.
const (
	bootTime   = 5 * time.Minute // until a new droplet is active
	powerTime  = time.Minute
	deleteTime = 2 * time.Minute
)

// tag is what all droplets of this Weir have.
func (c *Cloud) tag() string { return "weir:" + c.Name }

// tagOf is what the droplet of one machine has.
func (c *Cloud) tagOf(id weir.ID) string { return c.tag() + ":" + string(id) }

// machineOf returns the machine that a droplet is, if it is one of ours: it is in our region, has our tag, and one of a
// machine's.
func (c *Cloud) machineOf(d *godo.Droplet) (id weir.ID, ours bool) {
	if d.Region == nil || d.Region.Slug != c.Region || d.Status == "archive" || !slices.Contains(d.Tags, c.tag()) {
		return "", false
	}
	for _, tag := range d.Tags {
		text, has := strings.CutPrefix(tag, c.tag()+":")
		if !has || !machineForm.MatchString(text) {
			continue
		}
		if ours {
			return "", false // one of the two is a lie
		}
		id, ours = weir.ID(text), true
	}
	return id, ours
}

// listed returns the droplets of this Weir's machines, one for each.
func (c *Cloud) listed(ctx context.Context) ([]godo.Droplet, error) {
	return c.droplets.get(ctx, func(ctx context.Context) ([]godo.Droplet, error) {
		began := time.Now()
		all, err := c.tagged(ctx, c.tag())
		if err != nil {
			return nil, fmt.Errorf("list the droplets with the tag %s: %w", c.tag(), err)
		}
		return c.completed(ctx, c.oneEach(ctx, all), began)
	})
}

// tagged returns the droplets that have a tag and are ours.
func (c *Cloud) tagged(ctx context.Context, tag string) ([]godo.Droplet, error) {
	all, err := c.anybodys(ctx, tag)
	return slices.DeleteFunc(all, func(d godo.Droplet) bool { _, ours := c.machineOf(&d); return !ours }), err
}

// anybodys returns the droplets that have a tag.
func (c *Cloud) anybodys(ctx context.Context, tag string) ([]godo.Droplet, error) {
	all, err := pages(ctx, func(ctx context.Context, o *godo.ListOptions) ([]godo.Droplet, *godo.Response, error) {
		return c.do.Droplets.ListByTag(ctx, tag, o)
	})
	return all, c.fault(err)
}

// completed adds the droplets to a list that were made so lately that it may lack them, and notes which there are.
func (c *Cloud) completed(ctx context.Context, all []godo.Droplet, began time.Time) ([]godo.Droplet, error) {
	c.mu.Lock()
	missing := map[weir.ID]int{}
	for id, at := range c.made {
		if began.Sub(at) < lag {
			missing[id] = c.known[id]
		} else {
			delete(c.made, id)
		}
	}
	for i := range all {
		id, _ := c.machineOf(&all[i])
		c.known[id] = all[i].ID
		delete(missing, id)
	}
	c.mu.Unlock()
	for _, droplet := range missing {
		d, _, err := c.do.Droplets.Get(ctx, droplet)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at droplet %d: %w", droplet, c.fault(err))
		}
		if _, ours := c.machineOf(d); ours {
			all = append(all, *d)
		}
	}
	slices.SortFunc(all, func(a, b godo.Droplet) int {
		x, _ := c.machineOf(&a)
		y, _ := c.machineOf(&b)
		return cmp.Or(len(x)-len(y), cmp.Compare(x, y))
	})
	return all, nil
}

// twins is how much later than another a droplet may have been made to be the same machine made twice.
const twins = time.Hour

// oneEach returns one droplet for each machine. Of one that was made twice it is that which we know, or else the older; the
// other is destroyed, for it was made because the answer to the first creation was lost. A droplet that only has the
// tags of another, by somebody's hand, is left alone.
func (c *Cloud) oneEach(ctx context.Context, all []godo.Droplet) (one []godo.Droplet) {
	of := map[weir.ID]int{} // where in one
	slices.SortFunc(all, func(a, b godo.Droplet) int {
		return cmp.Or(boolean(c.knows(&b))-boolean(c.knows(&a)), cmp.Compare(a.ID, b.ID))
	})
	for i := range all {
		id, _ := c.machineOf(&all[i])
		at, twice := of[id]
		if !twice {
			of[id] = len(one)
			one = append(one, all[i])
			continue
		}
		if a, b := created(&one[at]), created(&all[i]); one[at].Name != all[i].Name || a.Sub(b).Abs() > twins {
			c.Log.Warn("droplet has the tags of another one, left alone", "droplet", all[i].ID, "machine", id)
			continue
		}
		_, err := c.do.Droplets.Delete(ctx, all[i].ID)
		c.Log.Warn("machine was made twice, the second droplet is destroyed", "machine", id, "droplet", all[i].ID, "kept", one[at].ID, "err", c.unless(err))
	}
	return one
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// knows reports whether a droplet is what we last knew its machine as.
func (c *Cloud) knows(d *godo.Droplet) bool {
	id, _ := c.machineOf(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[id] == d.ID
}

func created(d *godo.Droplet) time.Time {
	at, _ := time.Parse(time.RFC3339, d.Created) // of one that does not say: long ago
	return at
}

// Machines keeps the promise of [cloud.Machines]. A droplet that is being made counts as on.
func (c *Cloud) Machines(ctx context.Context) ([]cloud.Machine, error) {
	droplets, err := c.listed(ctx)
	if err != nil {
		return nil, err
	}
	walls, err := c.wallsSeen(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]cloud.Machine, len(droplets))
	for i := range droplets {
		all[i] = c.words(&droplets[i], walls)
	}
	return all, nil
}

// words returns a droplet as a machine.
func (c *Cloud) words(d *godo.Droplet, walls map[weir.ID]godo.Firewall) cloud.Machine {
	id, _ := c.machineOf(d)
	m := cloud.Machine{ID: id, Name: d.Name, On: d.Status != "off", Public: address4(d, "public"), Private: address4(d, "private")}
	if m.Public.IsValid() {
		m.Anchor = netip.IPv4Unspecified()
	}
	if f, ok := walls[id]; ok {
		m.Firewall = c.wall(id, d.ID, &f)
	}
	return m
}

// address4 returns a droplet's address of a network, if it has one yet.
func address4(d *godo.Droplet, network string) netip.Addr {
	if d.Networks != nil {
		for _, n := range d.Networks.V4 {
			if addr, err := netip.ParseAddr(n.IPAddress); err == nil && n.Type == network {
				return addr
			}
		}
	}
	return netip.Addr{}
}

// droplet returns the droplet of a machine as it is at this moment, or weir.NotFound.
func (c *Cloud) droplet(ctx context.Context, id weir.ID) (*godo.Droplet, error) {
	c.mu.Lock()
	known := c.known[id]
	c.mu.Unlock()
	if known != 0 {
		d, _, err := c.do.Droplets.Get(ctx, known)
		switch {
		case err == nil:
			if of, ours := c.machineOf(d); ours && of == id {
				return d, nil
			}
		case !gone(err):
			return nil, fmt.Errorf("look at droplet %d: %w", known, c.fault(err))
		}
		c.forget(id)
	}
	all, err := c.listed(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if of, _ := c.machineOf(&all[i]); of == id {
			return &all[i], nil
		}
	}
	return nil, weir.Errorf(weir.NotFound, "there is no droplet of machine %s", id)
}

// forget forgets which droplet a machine is.
func (c *Cloud) forget(id weir.ID) {
	c.mu.Lock()
	delete(c.known, id)
	delete(c.made, id)
	delete(c.loads, id)
	c.mu.Unlock()
	c.droplets.changed()
}

// CreateMachine keeps the promise of [cloud.Machines]. It waits until the droplet is active. Tags of the template are
// not given to it: firewalls and load balancers of the account may go by them.
func (c *Cloud) CreateMachine(ctx context.Context, spec cloud.Spec) (cloud.Machine, error) {
	m, err := c.create(ctx, spec)
	if err != nil {
		return m, fmt.Errorf("create droplet for machine %s: %w", spec.ID, err)
	}
	return m, nil
}

func (c *Cloud) create(ctx context.Context, spec cloud.Spec) (m cloud.Machine, err error) {
	if !machineForm.MatchString(string(spec.ID)) {
		return m, weir.Errorf(weir.Invalid, "its ID is %.40q, want a number", spec.ID)
	}
	if err := ctx.Err(); err != nil {
		return m, err
	}
	release, err := c.locks.take(ctx, "machine "+string(spec.ID))
	if err != nil {
		return m, err
	}
	defer release()
	d, err := c.find(ctx, spec.ID)
	if err == nil && d == nil {
		d, err = c.make(ctx, spec)
	}
	if err != nil {
		return m, err
	}
	err = until(ctx, bootTime, fmt.Sprintf("droplet %d is active", d.ID), func() (bool, error) {
		if d.Status != "new" && address4(d, "public").IsValid() && address4(d, "private").IsValid() {
			return true, nil
		}
		now, _, err := c.do.Droplets.Get(ctx, d.ID)
		if err != nil {
			return false, c.fault(err)
		}
		d = now
		return false, nil
	})
	c.droplets.changed()
	if err != nil {
		return m, err
	}
	walls, err := c.wallsSeen(ctx)
	if err != nil {
		return m, err
	}
	return c.words(d, walls), nil
}

// find returns the droplet of a machine, or nil if there is none. If one was asked for and the answer was lost, it may not
// be listed yet: find waits for as long as lists lag.
func (c *Cloud) find(ctx context.Context, id weir.ID) (found *godo.Droplet, err error) {
	look := func() (bool, error) {
		all, err := c.tagged(ctx, c.tagOf(id))
		if err != nil {
			return false, fmt.Errorf("look for a droplet with the tag %s: %w", c.tagOf(id), err)
		}
		all = slices.DeleteFunc(all, func(d godo.Droplet) bool { of, _ := c.machineOf(&d); return of != id })
		if all = c.oneEach(ctx, all); len(all) == 0 {
			return false, nil
		}
		found = &all[0]
		return true, nil
	}
	c.mu.Lock()
	known, doubt := c.known[id], c.doubts[id]
	c.mu.Unlock()
	if known != 0 {
		d, err := c.droplet(ctx, id)
		if err == nil || !gone(err) {
			return d, err
		}
	}
	if _, err := look(); err != nil || found != nil {
		c.sure(id, found)
		return found, err
	}
	if left := lag - time.Since(doubt); left > 0 {
		err := until(ctx, left, "a droplet is seen whose creation was not answered", look)
		if err != nil && !errors.Is(err, errNotYet) {
			return nil, err
		}
	}
	c.sure(id, found)
	return found, nil
}

// sure notes that it is known what became of a machine's creation: this droplet, or none if that is nil.
func (c *Cloud) sure(id weir.ID, d *godo.Droplet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d != nil {
		c.known[id] = d.ID
		delete(c.doubts, id)
	}
}

// make makes the droplet of a machine that has none.
func (c *Cloud) make(ctx context.Context, spec cloud.Spec) (*godo.Droplet, error) {
	if err := weir.CheckName(spec.Name); err != nil {
		return nil, err
	}
	if err := c.able(&spec.Template); err != nil {
		return nil, err
	}
	q := &godo.DropletCreateRequest{Name: spec.Name, Region: c.Region, Size: spec.Size, Image: godo.DropletCreateImage{Slug: spec.Image},
		UserData: spec.UserData, Monitoring: true, VPCUUID: c.VPC, Tags: []string{c.tag(), c.tagOf(spec.ID)}}
	for _, line := range spec.SSHKeys {
		fingerprint, err := c.key(ctx, line)
		if err != nil {
			return nil, err
		}
		q.SSHKeys = append(q.SSHKeys, godo.DropletCreateSSHKey{Fingerprint: fingerprint})
	}
	d, _, err := c.do.Droplets.Create(ctx, q)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.known[spec.ID], c.made[spec.ID] = d.ID, time.Now()
		delete(c.doubts, spec.ID)
	case lost(err):
		c.doubts[spec.ID] = time.Now()
	}
	return d, c.fault(err)
}

// able returns why no droplet can ever be made from a template.
func (c *Cloud) able(t *weir.Template) error {
	if err := t.Check(c.Region); err != nil {
		return err
	}
	if t.IPv6 {
		return errNoIPv6
	}
	return nil
}

var errNoIPv6 = weir.Errorf(weir.Invalid, "Weir has no IPv6 at DigitalOcean: a reserved address of it must be configured within the droplet")

// key has the account have a public key, and returns its fingerprint.
func (c *Cloud) key(ctx context.Context, line string) (fingerprint string, err error) {
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", weir.Errorf(weir.Invalid, "ssh key %.40q is not a public key, want a line as in authorized_keys", line)
	}
	fingerprint = ssh.FingerprintLegacyMD5(public)
	release, err := c.locks.take(ctx, "key "+fingerprint)
	if err != nil {
		return "", err
	}
	defer release()
	_, _, err = c.do.Keys.GetByFingerprint(ctx, fingerprint)
	if gone(err) {
		_, _, err = c.do.Keys.Create(ctx, &godo.KeyCreateRequest{Name: "weir " + c.Name, PublicKey: line})
	}
	if err != nil {
		return "", fmt.Errorf("ssh key %s: %w", fingerprint, c.fault(err))
	}
	return fingerprint, nil
}

// Room keeps the promise of [cloud.Machines], by the account's limit and by the sizes that the region has at present. Whether
// there is a host for a droplet only its creation tells.
func (c *Cloud) Room(ctx context.Context, t weir.Template, n int) error {
	if err := c.able(&t); err != nil {
		return err
	}
	if n < 1 {
		return nil
	}
	sizes, err := c.sizes.get(ctx, func(ctx context.Context) ([]godo.Size, error) { return pages(ctx, c.do.Sizes.List) })
	if err != nil {
		return fmt.Errorf("list DigitalOcean's sizes: %w", c.fault(err))
	}
	if !slices.ContainsFunc(sizes, func(s godo.Size) bool { return s.Slug == t.Size && s.Available && slices.Contains(s.Regions, c.Region) }) {
		return weir.Errorf(weir.Exhausted, "DigitalOcean makes no droplets of size %s in %s at present", t.Size, c.Region)
	}
	account, _, err := c.do.Account.Get(ctx)
	if err != nil {
		return fmt.Errorf("look at the account's limits: %w", c.fault(err))
	}
	_, resp, err := c.do.Droplets.List(ctx, &godo.ListOptions{Page: 1, PerPage: 1})
	if err != nil {
		return fmt.Errorf("count the account's droplets: %w", c.fault(err))
	}
	if resp.Meta == nil || account.DropletLimit == 0 {
		return nil // it does not say
	}
	if free := max(0, account.DropletLimit-resp.Meta.Total); n > free {
		return weir.Errorf(weir.Exhausted, "the account may have %d droplets and has %d, want %d more", account.DropletLimit, resp.Meta.Total, n)
	}
	return nil
}

// EnableIPv6 is weir.Invalid.
func (c *Cloud) EnableIPv6(ctx context.Context, id weir.ID) error {
	if _, err := c.droplet(ctx, id); err != nil {
		return err
	}
	return errNoIPv6
}

// DeleteMachine keeps the promise of [cloud.Machines]. The droplet goes first, then its firewall, then its tag, by which all
// three are found if it fails in between.
func (c *Cloud) DeleteMachine(ctx context.Context, id weir.ID) error {
	if !machineForm.MatchString(string(id)) {
		return nil // none of ours has such an ID
	}
	release, err := c.locks.take(ctx, "machine "+string(id))
	if err != nil {
		return err
	}
	defer release()
	if err := c.destroy(ctx, id); err != nil {
		return fmt.Errorf("delete machine %s: %w", id, err)
	}
	return nil
}

func (c *Cloud) destroy(ctx context.Context, id weir.ID) error {
	all, err := c.anybodys(ctx, c.tagOf(id))
	if err != nil {
		return err
	}
	doomed, shared := map[int]bool{}, false
	for i := range all {
		if of, ours := c.machineOf(&all[i]); ours && of == id {
			doomed[all[i].ID] = true
		} else {
			shared = true
		}
	}
	if d, err := c.droplet(ctx, id); err == nil {
		doomed[d.ID] = true
	} else if !gone(err) {
		return err
	}
	for droplet := range doomed {
		if _, err := c.do.Droplets.Delete(ctx, droplet); err != nil && !gone(err) {
			return fmt.Errorf("droplet %d: %w", droplet, c.fault(err))
		}
	}
	for droplet := range doomed {
		err := until(ctx, deleteTime, fmt.Sprintf("droplet %d is gone", droplet), func() (bool, error) {
			d, _, err := c.do.Droplets.Get(ctx, droplet)
			return gone(err) || err == nil && d.Status == "archive", c.unless(err)
		})
		if err != nil {
			return err
		}
	}
	c.forget(id)
	c.held.changed() // its reserved IPs are nobody's now
	if err := c.removeWall(ctx, id); err != nil {
		return err
	}
	if shared {
		return nil // somebody else's droplet has the tag, and is not to lose it: without, it could look like another machine of ours
	}
	_, err = c.do.Tags.Delete(ctx, c.tagOf(id))
	return c.unless(err)
}

// PowerOn keeps the promise of [cloud.Machines].
func (c *Cloud) PowerOn(ctx context.Context, id weir.ID) error {
	return c.power(ctx, id, "active", c.do.DropletActions.PowerOn)
}

// PowerOff keeps the promise of [cloud.Machines]. It takes the power away, for it also is how an instance that may still
// serve is fenced.
func (c *Cloud) PowerOff(ctx context.Context, id weir.ID) error {
	return c.power(ctx, id, "off", c.do.DropletActions.PowerOff)
}

// power has a droplet come to a status by an action.
func (c *Cloud) power(ctx context.Context, id weir.ID, status string, act func(context.Context, int) (*godo.Action, *godo.Response, error)) error {
	release, err := c.locks.take(ctx, "machine "+string(id))
	if err != nil {
		return err
	}
	defer release()
	d, err := c.droplet(ctx, id)
	if err != nil {
		return err
	}
	defer c.droplets.changed()
	if d.Status == status {
		return nil
	}
	if !(d.Status == "new" && status == "active") {
		if _, _, err := act(ctx, d.ID); err != nil {
			return fmt.Errorf("have machine %s be %s: %w", id, status, c.fault(err))
		}
	}
	return until(ctx, powerTime, fmt.Sprintf("machine %s is %s", id, status), func() (bool, error) {
		d, _, err := c.do.Droplets.Get(ctx, d.ID)
		return err == nil && d.Status == status, c.fault(err)
	})
}
