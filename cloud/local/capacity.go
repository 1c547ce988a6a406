package local

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

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
	var taken int64
	for _, m := range c.machines {
		s, _ := weir.SizeOf(m.record.Size)
		taken += s.Memory
	}
	if err := host.room(size, n, taken, cmp.Or(c.memory, overcommit*host.total)); err != nil {
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
