package local

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weir/weir"
)

// wound is what is cut of one cable.
type wound struct {
	in, out bool // what goes in that direction is lost, as the machine sees directions
	down    bool // the gateway's end is down
}

// wounds are what is cut of a machine's cables.
type wounds struct{ public, private wound }

// of returns what is cut of a link's cable.
func (w *wounds) of(link weir.Link) *wound {
	if link == weir.PublicLink {
		return &w.public
	}
	return &w.private
}

// with returns w with one cut more.
func (w wounds) with(c weir.Cut) wounds {
	for _, link := range []weir.Link{weir.PublicLink, weir.PrivateLink} {
		if !c.Of(link) {
			continue
		}
		on := w.of(link)
		if c.Down {
			on.down = true
			continue
		}
		on.in = on.in || c.Loses(weir.Inward)
		on.out = on.out || c.Loses(weir.Outward)
	}
	return w
}

// makeSink lays a cable whose other end is never up.
func (g *gateway) makeSink() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "sink"
	veth := netlink.NewVeth(attrs)
	veth.PeerName = "sunk"
	if err := g.links.LinkAdd(veth); err != nil {
		return err
	}
	link, err := g.links.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	g.sink = link.Attrs().Index
	return g.links.LinkSetUp(link)
}

// wound has what w says cut of a machine's network, and nothing else. For a machine
// without cables it does nothing.
func (g *gateway) wound(r *record, w wounds) error {
	g.filter.Lock()
	defer g.filter.Unlock()
	if err := g.setWounds(r, w); err != nil {
		return fmt.Errorf("cuts: %w", err)
	}
	return nil
}

// setWounds does what wound does. The caller holds filter.
func (g *gateway) setWounds(r *record, w wounds) error {
	if w == (wounds{}) && !g.wounded[r.ID] {
		return nil
	}
	g.wounded[r.ID] = true
	public, private := g.cables(r)
	var lossy []*nftables.Chain
	for _, c := range []*cable{&public, &private} {
		there, err := g.setDown(c, w.of(c.link).down)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if there {
			lossy = append(lossy, losing(c, w.of(c.link))...)
		}
	}
	// A table of the machine's own, replaced as a whole. Its chains hang at the cables
	// themselves, before and behind all else that the gateway does to a packet, so that flows
	// are lost whatever is known of them, and the gateway's own sockets are told nothing.
	table := &nftables.Table{Name: "cut-" + string(r.ID), Family: nftables.TableFamilyNetdev}
	err := g.transact(func(c *nftables.Conn) error {
		c.AddTable(table) // one that is not there cannot be deleted
		c.DelTable(table)
		if len(lossy) == 0 {
			return nil
		}
		c.AddTable(table)
		for _, chain := range lossy {
			chain.Table = table
			c.AddChain(chain)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if w == (wounds{}) {
		delete(g.wounded, r.ID)
	}
	return nil
}

// losing returns the chains that lose what is cut of a cable.
func losing(c *cable, w *wound) (chains []*nftables.Chain) {
	for _, way := range []struct {
		cut       bool
		direction weir.Direction
		hook      *nftables.ChainHook
	}{{w.in, weir.Inward, nftables.ChainHookEgress}, {w.out, weir.Outward, nftables.ChainHookIngress}} {
		if way.cut {
			drop := nftables.ChainPolicyDrop
			chains = append(chains, &nftables.Chain{Name: string(c.link) + "-" + string(way.direction), Device: c.end(),
				Type: nftables.ChainTypeFilter, Hooknum: way.hook, Priority: nftables.ChainPriorityFilter, Policy: &drop})
		}
	}
	return chains
}

// setDown takes the gateway's end of a cable down, or up again, and reports whether there
// is one. What is sent to a cable that is down is lost in the sink: without a route, the
// gateway would say that there is nobody, as no switch does for a port that is dark.
func (g *gateway) setDown(c *cable, down bool) (there bool, err error) {
	link, err := g.links.LinkByName(c.end())
	var unknown netlink.LinkNotFoundError
	there = !errors.As(err, &unknown)
	switch {
	case there && err != nil:
		return false, err
	case there && down:
		return true, errors.Join(g.lead(c, g.sink), g.links.LinkSetDown(link))
	case there:
		// Going down has taken the routes with it.
		if err := errors.Join(g.links.LinkSetUp(link), g.lead(c, link.Attrs().Index)); err != nil {
			return true, err
		}
	}
	return there, g.drain(c)
}

// drain has nothing of a cable's lead into the sink.
func (g *gateway) drain(c *cable) error {
	for _, a := range c.addrs {
		err := g.links.RouteDel(&netlink.Route{LinkIndex: g.sink, Dst: host(a.addr)})
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("address %s: %w", a.addr, err)
		}
		err = g.links.NeighDel(neighbour(g.sink, a.addr, c.mac))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("address %s: %w", a.addr, err)
		}
	}
	return nil
}
