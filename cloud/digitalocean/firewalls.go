package digitalocean

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/godo"

	"weir/weir"
)

// wallTime is how long it may take until a firewall is there that was set.
const wallTime = time.Minute

// everybody are all peers that there can be, and nobody one that there is none of: a firewall must have a rule.
var (
	everybody = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	nobody    = netip.MustParsePrefix("192.0.2.1/32")
)

// open lets all leave.
var open = []weir.Opening{{ICMP: true, Peers: everybody}, {Port: 1, Last: 65535, Peers: everybody}, {Port: 1, Last: 65535, UDP: true, Peers: everybody}}

// wallName is that of a machine's firewall.
func (c *Cloud) wallName(id weir.ID) string { return "weir-" + c.Name + "-" + string(id) }

// wallsSeen returns the firewalls of machines.
func (c *Cloud) wallsSeen(ctx context.Context) (map[weir.ID]godo.Firewall, error) {
	all, err := c.firewalls.get(ctx, func(ctx context.Context) ([]godo.Firewall, error) { return pages(ctx, c.do.Firewalls.List) })
	if err != nil {
		return nil, fmt.Errorf("list firewalls: %w", c.fault(err))
	}
	walls := map[weir.ID]godo.Firewall{}
	for _, f := range all {
		text, has := strings.CutPrefix(f.Name, c.wallName(""))
		if has && machineForm.MatchString(text) {
			walls[weir.ID(text)] = f
		}
	}
	return walls, nil
}

// SetFirewall keeps the promise of [cloud.Firewalls], and waits until DigitalOcean says that the firewall is there.
func (c *Cloud) SetFirewall(ctx context.Context, machine weir.ID, f *weir.Firewall) error {
	if err := f.Check(); err != nil {
		return fmt.Errorf("set the firewall of machine %s: %w", machine, err)
	}
	release, err := c.locks.take(ctx, "machine "+string(machine))
	if err != nil {
		return err
	}
	defer release()
	d, err := c.droplet(ctx, machine)
	if err != nil {
		return err
	}
	if f == nil {
		return c.removeWall(ctx, machine)
	}
	if err := c.setWall(ctx, machine, d.ID, f); err != nil {
		return fmt.Errorf("set the firewall of machine %s: %w", machine, err)
	}
	return nil
}

func (c *Cloud) setWall(ctx context.Context, machine weir.ID, droplet int, f *weir.Firewall) error {
	c.firewalls.changed() // by another process, perhaps
	walls, err := c.wallsSeen(ctx)
	if err != nil {
		return err
	}
	defer c.firewalls.changed()
	q := c.request(machine, droplet, f)
	at, there := walls[machine]
	now := &at
	switch {
	case !there:
		now, _, err = c.do.Firewalls.Create(ctx, q)
	case !maps.Equal(rules(&at), rules(asked(q))) || !slices.Equal(at.DropletIDs, q.DropletIDs):
		now, _, err = c.do.Firewalls.Update(ctx, at.ID, q)
	}
	if err != nil {
		return c.fault(err)
	}
	c.mu.Lock()
	c.walls[machine] = f.Clone()
	c.mu.Unlock()
	id := now.ID
	return until(ctx, wallTime, "the firewall is there", func() (bool, error) {
		if stands(now, droplet) {
			return true, nil
		}
		if now.Status == "failed" {
			return false, weir.Errorf(weir.Unavailable, "DigitalOcean could not do it")
		}
		now, _, err = c.do.Firewalls.Get(ctx, id)
		return false, c.fault(err)
	})
}

// removeWall opens a machine.
func (c *Cloud) removeWall(ctx context.Context, machine weir.ID) error {
	walls, err := c.wallsSeen(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.walls, machine)
	c.mu.Unlock()
	at, there := walls[machine]
	if !there {
		return nil
	}
	defer c.firewalls.changed()
	if _, err := c.do.Firewalls.Delete(ctx, at.ID); err != nil && !gone(err) {
		return fmt.Errorf("remove the firewall of machine %s: %w", machine, c.fault(err))
	}
	return nil
}

// stands reports whether a firewall is there for a droplet.
func stands(f *godo.Firewall, droplet int) bool {
	return f.Status == "succeeded" && slices.Contains(f.DropletIDs, droplet) &&
		!slices.ContainsFunc(f.PendingChanges, func(p godo.PendingChange) bool { return p.DropletID == droplet })
}

// wall returns the firewall that a machine has: as it was set, if it still says that. It is nil while it is not there yet.
func (c *Cloud) wall(machine weir.ID, droplet int, f *godo.Firewall) *weir.Firewall {
	if !stands(f, droplet) {
		return nil
	}
	c.mu.Lock()
	set := c.walls[machine]
	c.mu.Unlock()
	if set != nil && maps.Equal(rules(f), rules(asked(c.request(machine, droplet, set)))) {
		return set.Clone()
	}
	return said(f)
}

// request puts a machine's firewall in DigitalOcean's words.
func (c *Cloud) request(machine weir.ID, droplet int, f *weir.Firewall) *godo.FirewallRequest {
	q := &godo.FirewallRequest{Name: c.wallName(machine), DropletIDs: []int{droplet}, InboundRules: []godo.InboundRule{}, OutboundRules: []godo.OutboundRule{}, Tags: []string{}}
	for _, o := range f.Openings {
		if len(o.Peers) > 0 {
			q.InboundRules = append(q.InboundRules, godo.InboundRule{Protocol: protocol(o), PortRange: ports(o), Sources: &godo.Sources{Addresses: texts(o.Peers)}})
		}
	}
	exits := f.Exits
	if !f.Confined {
		exits = open
	}
	for _, o := range exits {
		if len(o.Peers) > 0 {
			q.OutboundRules = append(q.OutboundRules, godo.OutboundRule{Protocol: protocol(o), PortRange: ports(o), Destinations: &godo.Destinations{Addresses: texts(o.Peers)}})
		}
	}
	if len(q.InboundRules)+len(q.OutboundRules) == 0 {
		q.OutboundRules = []godo.OutboundRule{{Protocol: "icmp", Destinations: &godo.Destinations{Addresses: texts([]netip.Prefix{nobody})}}}
	}
	return q
}

func protocol(o weir.Opening) string {
	switch {
	case o.ICMP:
		return "icmp"
	case o.UDP:
		return "udp"
	}
	return "tcp"
}

func ports(o weir.Opening) string {
	switch {
	case o.ICMP:
		return ""
	case o.Last != 0 && o.Last != o.Port:
		return fmt.Sprintf("%d-%d", o.Port, o.Last)
	}
	return strconv.Itoa(o.Port)
}

func texts(all []netip.Prefix) (texts []string) {
	for _, p := range all {
		texts = append(texts, p.Masked().String())
	}
	return texts
}

// asked is the firewall that a request asks for.
func asked(q *godo.FirewallRequest) *godo.Firewall {
	return &godo.Firewall{InboundRules: q.InboundRules, OutboundRules: q.OutboundRules}
}

// passes is what one rule says of one address.
type passes struct {
	out         bool
	protocol    string
	first, last int
	peer        netip.Prefix
}

// rules returns all that a firewall says, however it is written. What Weir cannot have written is there as an address that is
// none, so that it is not taken to be as it was set.
func rules(f *godo.Firewall) map[passes]bool {
	all := map[passes]bool{}
	add := func(out bool, protocol, ports string, addresses []string, others int) {
		p := passes{out: out, protocol: protocol}
		if protocol != "icmp" {
			p.first, p.last = 1, 65535
			if ports != "" && ports != "0" && ports != "all" {
				first, last, isRange := strings.Cut(ports, "-")
				p.first, _ = strconv.Atoi(first)
				if p.last = p.first; isRange {
					p.last, _ = strconv.Atoi(last)
				}
			}
		}
		if others > 0 {
			all[p] = true
		}
		for _, text := range addresses {
			p.peer = prefix(text)
			all[p] = true
		}
	}
	for _, r := range f.InboundRules {
		if s := r.Sources; s != nil {
			add(false, r.Protocol, r.PortRange, s.Addresses, len(s.Tags)+len(s.DropletIDs)+len(s.LoadBalancerUIDs)+len(s.KubernetesIDs))
		}
	}
	for _, r := range f.OutboundRules {
		if d := r.Destinations; d != nil {
			add(true, r.Protocol, r.PortRange, d.Addresses, len(d.Tags)+len(d.DropletIDs)+len(d.LoadBalancerUIDs)+len(d.KubernetesIDs))
		}
	}
	return all
}

// prefix reads an address or a prefix, and returns none for what is neither.
func prefix(text string) netip.Prefix {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}
	}
	return p.Masked()
}

// said returns what a firewall says as one that a machine may have.
func said(f *godo.Firewall) *weir.Firewall {
	all := rules(f)
	wall := &weir.Firewall{Confined: true}
	opens := true
	for p := range rules(&godo.Firewall{OutboundRules: asked((&Cloud{}).request("", 0, &weir.Firewall{})).OutboundRules}) {
		opens = opens && all[p]
	}
	if opens {
		wall.Confined = false
	}
	for p := range all {
		o := weir.Opening{ICMP: p.protocol == "icmp", UDP: p.protocol == "udp", Peers: []netip.Prefix{p.peer}}
		if !o.ICMP {
			o.Port = p.first
			if p.last != p.first {
				o.Last = p.last
			}
		}
		switch {
		case !p.out:
			wall.Openings = weir.Widen(wall.Openings, o)
		case wall.Confined && p.peer != nobody:
			wall.Exits = weir.Widen(wall.Exits, o)
		}
	}
	return wall
}
