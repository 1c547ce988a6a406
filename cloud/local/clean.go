package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// clean removes from the kernel all that is named for the region, whoever made it and
// whenever it was interrupted, and what is on disk of containers and of machines that
// were being deleted. Machines and addresses stay on record.
func (p paths) clean(ctx context.Context) error {
	// First whoever could still be making things, then what was made.
	if err := killRunc(p.runc()); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if err := removeCgroup(ctx, p.cgroup()); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if err := killIn(p.gateway()); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if err := removeNamespace(p.gateway()); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if err := errors.Join(os.RemoveAll(p.runc()), os.RemoveAll(p.trash())); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// killRunc kills the runc processes that work on the records in root.
func killRunc(root string) error {
	return killEach(func(proc string) bool {
		line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		return err == nil && bytes.Contains(line, []byte("\x00--root\x00"+root+"\x00"))
	})
}

// killIn kills the processes whose network is the namespace of that name.
func killIn(name string) error {
	there, err := os.Stat(filepath.Join(namespaces, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return killEach(func(proc string) bool {
		its, err := os.Stat(filepath.Join(proc, "ns/net"))
		return err == nil && os.SameFile(there, its)
	})
}

// killEach kills the processes of which meant says so, given their directory in /proc.
func killEach(meant func(proc string) bool) error {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, proc := range all {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() || !meant(proc) {
			continue
		}
		if err := killIf(pid, func() bool { return meant(proc) }); err != nil {
			return err
		}
	}
	return nil
}
