package local

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"weir/cloud"
	"weir/weir"
)

// Every keeps the promise of [cloud.Meter]: loads are measured when they are asked for.
func (c *Cloud) Every() time.Duration { return 0 }

// Loads keeps the promise of [cloud.Meter]. A machine's disk is in the host's file system, and as large
// as that.
func (c *Cloud) Loads(ctx context.Context) ([]cloud.Load, error) {
	all, err := c.loads(ctx)
	if err != nil {
		return nil, fmt.Errorf("list loads: %w", err)
	}
	return all, nil
}

func (c *Cloud) loads(ctx context.Context) (all []cloud.Load, err error) {
	_, done, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	type running struct {
		record
		since time.Time
	}
	var on []running
	c.mu.Lock()
	for _, m := range c.machines {
		if m.on() {
			on = append(on, running{m.record, m.run.since})
		}
	}
	c.mu.Unlock()
	var disk unix.Statfs_t
	if err := unix.Statfs(string(c.paths), &disk); err != nil {
		return nil, fmt.Errorf("ask how full the disk is: %w", err)
	}
	traffic, err := c.gateway.traffic()
	if err != nil {
		return nil, err
	}
	for _, m := range on {
		dirs, err := cgroupDirs(filepath.Join(c.paths.cgroup(), string(m.ID)))
		if err != nil {
			return nil, err
		}
		size, _ := weir.SizeOf(m.Size)
		l := cloud.Load{Machine: m.ID, Since: m.since, CPUs: size.CPUs,
			Public: traffic[m.Public.String()], Private: traffic[m.Private.String()],
			Disk: cloud.Disk{Device: "overlay", Type: "overlay", Mount: "/", Size: int64(disk.Blocks) * disk.Bsize, Free: int64(disk.Bavail) * disk.Bsize}}
		if l.User, l.System, err = cpuUsed(dirs); err == nil {
			l.Memory, err = memoryUsed(dirs, size.Memory)
		}
		l.Taken = time.Now()
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // it went off just now
		}
		if err != nil {
			return nil, fmt.Errorf("machine %s: %w", m.ID, err)
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b cloud.Load) int {
		return cmp.Or(len(a.Machine)-len(b.Machine), cmp.Compare(a.Machine, b.Machine))
	})
	return all, nil
}

// traffic returns what went through each cable, by the name of the gateway's end. What goes into the
// machine comes out of there.
func (g *gateway) traffic() (map[string]cloud.Traffic, error) {
	links, err := g.links.LinkList()
	if err != nil {
		return nil, fmt.Errorf("gateway: list links: %w", err)
	}
	all := make(map[string]cloud.Traffic, len(links))
	for _, l := range links {
		if s := l.Attrs().Statistics; s != nil {
			all[l.Attrs().Name] = cloud.Traffic{In: int64(s.TxBytes), Out: int64(s.RxBytes)}
		}
	}
	return all, nil
}

// cpuUsed returns the CPU time that a cgroup has used: of cgroup 1 where the host has its controller,
// otherwise of cgroup 2. Dirs are where the kernel shows the cgroup.
func cpuUsed(dirs []string) (user, system time.Duration, err error) {
	for _, dir := range dirs {
		u, err := readNumber(filepath.Join(dir, "cpuacct.usage_user"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		s, err := readNumber(filepath.Join(dir, "cpuacct.usage_sys"))
		return time.Duration(u), time.Duration(s), err
	}
	for _, dir := range dirs {
		stat, err := readNumbers(filepath.Join(dir, "cpu.stat"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, 0, err
		}
		if u, ok := stat["user_usec"]; ok { // that of cgroup 1 has none
			return time.Duration(u) * time.Microsecond, time.Duration(stat["system_usec"]) * time.Microsecond, nil
		}
	}
	return 0, 0, fmt.Errorf("CPU time of its cgroup: %w", fs.ErrNotExist)
}

// memoryUsed returns the memory of a cgroup that may have total bytes.
func memoryUsed(dirs []string, total int64) (cloud.Memory, error) {
	for _, dir := range dirs {
		for _, names := range []struct{ used, cached, inactive, active string }{
			{"memory.usage_in_bytes", "total_cache", "total_inactive_file", "total_active_file"}, // cgroup 1
			{"memory.current", "file", "inactive_file", "active_file"},
		} {
			used, err := readNumber(filepath.Join(dir, names.used))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return cloud.Memory{}, err
			}
			stat, err := readNumbers(filepath.Join(dir, "memory.stat"))
			if err != nil {
				return cloud.Memory{}, err
			}
			m := cloud.Memory{Total: total, Free: max(total-used, 0), Cached: stat[names.cached]}
			// The files are read one after the other, and what they count moves meanwhile.
			m.Available = min(m.Free+stat[names.inactive]+stat[names.active], total)
			return m, nil
		}
	}
	return cloud.Memory{}, fmt.Errorf("memory of its cgroup: %w", fs.ErrNotExist)
}

func readNumber(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s has %.20q, want a number", path, text)
	}
	return n, nil
}

// readNumbers reads lines of a name and a number.
func readNumbers(path string) (map[string]int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := map[string]int64{}
	for line := range bytes.Lines(text) {
		name, number, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if n, err := strconv.ParseInt(string(number), 10, 64); err == nil {
			all[string(name)] = n
		}
	}
	return all, nil
}
