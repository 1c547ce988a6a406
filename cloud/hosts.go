package cloud

import (
	"fmt"

	"weir/weir"
)

// Host is one of several hosts, as who makes a machine looks at it.
type Host struct {
	Apart int   // how many machines it has that the new one should be apart from
	Room  int64 // how much it has left; nothing if it cannot take the new one
}

// PickHost returns on which of hosts a machine should be made: of those that can take it one with the fewest that it should be
// apart from, of these one with the most room, and of these the first. If none can, it is -1.
func PickHost(hosts []Host) int {
	best := -1
	for i, h := range hosts {
		if h.Room <= 0 {
			continue
		}
		if best < 0 || h.Apart < hosts[best].Apart || h.Apart == hosts[best].Apart && h.Room > hosts[best].Room {
			best = i
		}
	}
	return best
}

// HostName returns the name of the n-th of several hosts, from 0, in a cloud that gives them names of its own.
func HostName(n int) string { return fmt.Sprintf("host-%d", n+1) }

// HostNamed returns which of n hosts has a name of [HostName], or weir.NotFound. One host alone has none.
func HostNamed(n int, name string) (int, error) {
	if n < 2 {
		return 0, weir.Errorf(weir.NotFound, "there is no host %q: this cloud has one host, without a name", name)
	}
	for i := range n {
		if HostName(i) == name {
			return i, nil
		}
	}
	return 0, weir.Errorf(weir.NotFound, "there is no host %q, want one of %s to %s", name, HostName(0), HostName(n-1))
}
