package vip

import (
	"context"
	"fmt"
	"iter"
	"maps"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links tells which interfaces can carry traffic: by name, true if the interface is
// switched on and has a carrier. It yields once at the beginning and then after each
// change, each time all of them in a map of its own, until ctx ends. An error is the last
// thing that it yields.
//
// The kernel tells of the first loss of a carrier at once, and then of at most one change in
// a second for an interface of hardware; for virtual ones always at once.
func Links(ctx context.Context) iter.Seq2[map[string]bool, error] {
	return func(yield func(map[string]bool, error) bool) {
		updates, stop, err := followLinks()
		if err != nil {
			yield(nil, err)
			return
		}
		defer stop()
		// The list comes after the subscription, so that no change falls between the two.
		list, err := dump(netlink.LinkList)
		if err != nil {
			yield(nil, fmt.Errorf("list interfaces: %w", err))
			return
		}
		links := map[int32]netlink.Link{} // by index: names change
		for _, l := range list {
			links[int32(l.Attrs().Index)] = l
		}
		var told map[string]bool
		for {
			up := map[string]bool{}
			for _, l := range links {
				up[l.Attrs().Name] = isUp(l.Attrs().RawFlags)
			}
			if !maps.Equal(up, told) {
				told = maps.Clone(up)
				if !yield(up, nil) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case u, ok := <-updates:
				switch {
				case !ok:
					yield(nil, fmt.Errorf("follow interfaces: the kernel has more to tell than is read"))
					return
				case u.Family == unix.AF_BRIDGE:
					// It is about the port of a bridge, and deleted means that it left the bridge.
				case u.Header.Type == unix.RTM_DELLINK:
					delete(links, u.Index)
				default:
					links[u.Index] = u.Link
				}
			}
		}
	}
}

// isUp reports whether an interface with these flags can carry traffic.
func isUp(flags uint32) bool {
	return flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0
}

// followLinks returns the changes of interfaces. The channel is closed when the kernel has
// more to say than we read: follow anew, then look. stop ends it, and has to be called.
func followLinks() (updates <-chan netlink.LinkUpdate, stop func(), err error) {
	ch, done := make(chan netlink.LinkUpdate), make(chan struct{})
	if err := netlink.LinkSubscribe(ch, done); err != nil {
		return nil, nil, fmt.Errorf("follow interfaces: %w", err)
	}
	return ch, func() { end(ch, done) }, nil
}

// followAddresses does the same for addresses.
func followAddresses() (updates <-chan netlink.AddrUpdate, stop func(), err error) {
	ch, done := make(chan netlink.AddrUpdate), make(chan struct{})
	if err := netlink.AddrSubscribe(ch, done); err != nil {
		return nil, nil, fmt.Errorf("follow addresses: %w", err)
	}
	return ch, func() { end(ch, done) }, nil
}

// end ends a subscription and waits for the goroutine that fills ch.
func end[T any](ch <-chan T, done chan<- struct{}) {
	close(done)
	for range ch {
	}
}
