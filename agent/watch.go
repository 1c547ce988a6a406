package agent

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"weir/weir"
)

// watch watches the node's peers and its own links until ctx ends.
func (a *agent) watch(ctx context.Context) error {
	if !a.waitEnrolled(ctx) {
		return nil
	}
	a.mu.Lock()
	a.watchPeers() // as the disk has them, until the control plane says more
	a.answerHolder(nil)
	a.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { a.watchLinks(ctx) })
	wg.Go(func() { a.keepAddress(ctx) })
	return a.beats.Run(ctx)
}

// watchPeers has those peers be watched that newest names. The caller holds a.mu.
func (a *agent) watchPeers() {
	var g weir.Group
	if a.newest.Group != nil {
		g = *a.newest.Group
	}
	a.beats.Set(g)
	a.findPorts(g)
}

// findPorts notes by which interfaces peers are reached: a link that is down elsewhere does
// not matter. An interface stays one that matters when its route is gone with its link.
func (a *agent) findPorts(g weir.Group) {
	if a.ports == nil {
		a.ports = map[string]bool{}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return // a link that goes down is then seen by those who no longer hear us
	}
	for _, p := range g.Peers {
		for _, addr := range p.Addrs {
			if name := portTo(addr, interfaces); name != "" {
				a.ports[name] = true
			}
		}
	}
}

// portTo returns the name of the interface by which addr is reached, or "".
func portTo(addr netip.Addr, interfaces []net.Interface) string {
	conn, err := net.Dial("udp", netip.AddrPortFrom(addr, weir.BeatPort).String()) // sends nothing
	if err != nil {
		return ""
	}
	defer conn.Close()
	from := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		for _, on := range addrs {
			if p, err := netip.ParsePrefix(on.String()); err == nil && p.Addr() == from {
				return i.Name
			}
		}
	}
	return ""
}

// watchLinks notes which of the ports are down, until ctx ends.
func (a *agent) watchLinks(ctx context.Context) {
	for links, err := range a.outside.links(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				a.Log.Warn("links are not watched any more", "err", err)
			}
			return
		}
		a.mu.Lock()
		if a.newest.Group != nil {
			a.watchPeers() // by a link that is new, perhaps
		}
		var down []string
		for name, up := range links {
			if !up && a.ports[name] {
				down = append(down, name)
			}
		}
		slices.Sort(down)
		changed := !slices.Equal(down, a.down)
		a.down = down
		a.mu.Unlock()
		if changed {
			a.Log.Warn("links changed", "down", down)
			wake(a.urgently)
		}
	}
}

// host returns the machine as it sees itself. The caller holds a.mu.
func (a *agent) host() *weir.HostStatus {
	name, err := os.Hostname()
	if err != nil {
		name = ""
	}
	h := &weir.HostStatus{Name: name}
	interfaces, err := net.Interfaces()
	if err != nil {
		return h
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		for _, on := range addrs {
			p, err := netip.ParsePrefix(on.String())
			if err != nil || !p.Addr().IsGlobalUnicast() || a.newest.Hold != nil && p.Addr() == a.newest.Hold.Addr.Addr() {
				continue
			}
			h.Addrs = append(h.Addrs, p)
		}
	}
	return h
}
