package local

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"weir/cloud"
	"weir/weir"
)

const (
	// overcommit is how many times the host's memory the sizes of all machines may sum
	// to, so that fifty of 1 GiB fit a host of 4. Machines seldom use what they may; each is
	// held to its size, and spareMemory watches what is really left.
	overcommit = 16

	// spareMemory is what must be available on the host for one more machine, in bytes.
	spareMemory = 256 << 20
)

// memory is the host's memory, in bytes.
type memory struct{ total, available int64 }

// hostMemory reads what memory the host has.
func hostMemory() (m memory, err error) {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return memory{}, err
	}
	for line := range strings.Lines(string(info)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			m.total = kib << 10
		}
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			m.available = kib << 10
		}
	}
	if m.total == 0 || m.available == 0 {
		return memory{}, fmt.Errorf("/proc/meminfo does not say how much memory there is")
	}
	return m, nil
}

// room returns why there is no room in memory for n more machines of that size beside
// machines that take taken bytes; limit bounds their sum.
func (m memory) room(size weir.Size, n int, taken, limit int64) error {
	switch free := max(0, limit-taken) / size.Memory; {
	case n <= 0:
		return nil
	case size.Memory > m.total:
		return weir.Errorf(weir.Exhausted, "size %s has %s of memory, this host has %s", size.Slug, amount(size.Memory), amount(m.total))
	case int64(n) > free:
		return weir.Errorf(weir.Exhausted, "all machines together may have %s of memory on this host, and have %s: there is room for %d more of size %s, want %d",
			amount(limit), amount(taken), free, size.Slug, n)
	case m.available < spareMemory:
		return weir.Errorf(weir.Exhausted, "this host has %s of memory left, want %s for one more machine", amount(m.available), amount(spareMemory))
	}
	return nil
}

// load is what a host has to bear.
type load struct {
	taken int64 // what the sizes of its machines sum to in memory
	apart int   // how many of them a new one should be apart from
	down  bool
}

// roomOn is room on several hosts, each of which may have limit.
func (m memory) roomOn(hosts []load, size weir.Size, n int, limit int64) error {
	free, down := int64(0), 0
	for _, h := range hosts {
		if h.down {
			down++
			continue
		}
		free += max(0, limit-h.taken) / size.Memory
	}
	switch {
	case n <= 0:
		return nil
	case down == len(hosts):
		return weir.Errorf(weir.Exhausted, "all %d hosts are down", down)
	case size.Memory > limit:
		return weir.Errorf(weir.Exhausted, "size %s has %s of memory, and the machines of one of %d hosts may have %s", size.Slug, amount(size.Memory), len(hosts), amount(limit))
	case int64(n) > free:
		which := fmt.Sprintf("%d hosts", len(hosts))
		if down > 0 {
			which = fmt.Sprintf("%d hosts that are up (of %d)", len(hosts)-down, len(hosts))
		}
		return weir.Errorf(weir.Exhausted, "the machines of each of %s may have %s of memory: there is room for %d more of size %s, want %d",
			which, amount(limit), free, size.Slug, n)
	}
	return m.room(size, n, 0, math.MaxInt64) // that this computer has enough
}

// bears returns what each host has to bear, as one looks at it that makes a machine to be apart from others. The caller holds mu.
func (c *Cloud) bears(apart string) []load {
	all := make([]load, c.hosts)
	for _, m := range c.machines {
		i, err := cloud.HostNamed(c.hosts, m.record.Host)
		if err != nil {
			i = 0 // the only one
		}
		size, _ := weir.SizeOf(m.record.Size)
		all[i].taken += size.Memory
		if apart != "" && m.record.Apart == apart {
			all[i].apart++
		}
	}
	for i := range all {
		all[i].down = c.down[cloud.HostName(i)]
	}
	return all
}

// pick returns the host that a machine of some size goes to, where room has said that one has room. The caller holds mu.
func (c *Cloud) pick(size string, apart string) (host string, err error) {
	if c.hosts == 1 {
		return "", nil
	}
	m, err := hostMemory()
	if err != nil {
		return "", err
	}
	s, _ := weir.SizeOf(size)
	all := c.bears(apart)
	limit := cmp.Or(c.memory, overcommit*m.total) / int64(len(all))
	hosts := make([]cloud.Host, len(all))
	for i, h := range all {
		if left := limit - h.taken; !h.down && left >= s.Memory {
			hosts[i].Room = left
		}
		hosts[i].Apart = h.apart
	}
	i := cloud.PickHost(hosts)
	if i < 0 {
		return "", weir.Errorf(weir.Exhausted, "no host has room for a machine of size %s", size)
	}
	return cloud.HostName(i), nil
}

// settle has each machine on one of the region's hosts: those whose host there is not any more, since the region had another
// number of them, are spread like new ones. They are of one computer, so that nothing moves but a word. The caller is alone.
func (c *Cloud) settle() error {
	homeless := map[weir.ID]*machine{}
	for id, m := range c.machines {
		_, err := cloud.HostNamed(c.hosts, m.record.Host)
		if c.hosts > 1 && err != nil || c.hosts == 1 && m.record.Host != "" {
			homeless[id] = m
			delete(c.machines, id)
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(homeless), compareIDs) {
		m := homeless[id]
		m.record.Host = ""
		if c.hosts > 1 {
			hosts := make([]cloud.Host, c.hosts)
			for i, h := range c.bears(m.record.Apart) {
				hosts[i] = cloud.Host{Apart: h.apart, Room: math.MaxInt64 - h.taken} // it is there, whether or not there is room for a new one
			}
			m.record.Host = cloud.HostName(cloud.PickHost(hosts))
		}
		c.machines[id] = m
		if err := writeJSON(filepath.Join(c.paths.machine(id), "machine.json"), &m.record); err != nil {
			return err
		}
	}
	return nil
}

// Room keeps the promise of [cloud.Machines].
func (c *Cloud) Room(ctx context.Context, t weir.Template, n int) error {
	if err := c.hasRoom(ctx, t, n); err != nil {
		return fmt.Errorf("ask for room for %d machines: %w", n, err)
	}
	return nil
}

func (c *Cloud) hasRoom(ctx context.Context, t weir.Template, n int) error {
	_, done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if _, err := c.script(t); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.room(t, n)
}

// room returns why there is no room for n more machines like t, which script takes. The
// caller holds mu.
func (c *Cloud) room(t weir.Template, n int) error {
	size, _ := weir.SizeOf(t.Size)
	host, err := hostMemory()
	if err != nil {
		return err
	}
	all := c.bears("")
	limit := cmp.Or(c.memory, overcommit*host.total)
	if len(all) == 1 {
		err = host.room(size, n, all[0].taken, limit)
	} else {
		err = host.roomOn(all, size, n, limit/int64(len(all)))
	}
	if err != nil {
		return err
	}
	for _, p := range []netip.Prefix{c.networks.Public, c.networks.Anchor, c.networks.Private} {
		// Not a machine's: the range's own address, the gateway's, and the broadcast address.
		all, taken := 1<<(32-p.Bits())-3, len(c.machines)
		for _, a := range c.reserved {
			if p.Contains(a.Addr) {
				taken++
			}
		}
		if n > all-taken {
			return weir.Errorf(weir.Exhausted, "%s has %d addresses for machines, and %d are taken: there is room for %d more, want %d",
				p, all, taken, all-taken, n)
		}
	}
	if n > 0 {
		return roomOnDisk(string(c.paths), c.disk)
	}
	return nil
}

// roomOnDisk returns why there is no room in the file system of dir, where spare bytes
// must be free.
func roomOnDisk(dir string, spare int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("ask how full the disk is: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < spare {
		return weir.Errorf(weir.Exhausted, "the disk of %s has %s left, want %s for one more machine", dir, amount(free), amount(spare))
	}
	return nil
}

// amount is a number of bytes that prints as a person would write it.
type amount int64

// String returns b in MiB, or in GiB where that is easier to read.
func (b amount) String() string {
	if b >= 4<<30 {
		return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", b>>20)
}
