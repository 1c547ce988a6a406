package local

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"weir/weir"
)

// paths is a region's directory, from which all names follow.
type paths string

// newPaths makes dir and returns its paths.
func newPaths(dir string) (paths, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	// A machine's disk is in it, whose root every user of the machine may enter: only we
	// may come here.
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return "", err
	}
	// What is hidden from machines, and the tag, must not depend on how dir was written.
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", err
	}
	return paths(real), nil
}

// begin makes the directories that are always there.
func (p paths) begin() error {
	return errors.Join(os.MkdirAll(p.machines(), 0o700), os.MkdirAll(p.trash(), 0o700))
}

func (p paths) machines() string          { return filepath.Join(string(p), "machines") }
func (p paths) machine(id weir.ID) string { return filepath.Join(p.machines(), string(id)) }
func (p paths) bootOf(id weir.ID) string  { return filepath.Join(p.machine(id), "boot") }
func (p paths) log(id weir.ID) string     { return filepath.Join(p.bootOf(id), "log") }
func (p paths) trash() string             { return filepath.Join(string(p), "scratch") }
func (p paths) scratch(id weir.ID) string { return filepath.Join(p.trash(), string(id)) }
func (p paths) reserved() string          { return filepath.Join(string(p), "reserved.json") }
func (p paths) runc() string              { return filepath.Join(string(p), "runc") }
func (p paths) name(suffix string) string { return p.tag() + "-" + suffix }
func (p paths) gateway() string           { return p.name("gw") }
func (p paths) cgroup() string            { return "/" + p.tag() }

// tag begins all names that the region has in the kernel.
func (p paths) tag() string {
	sum := sha256.Sum256([]byte(p))
	return fmt.Sprintf("weir-%x", sum[:3])
}

// lock takes the region for this process, until the file is closed or the process ends.
func (p paths) lock() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(string(p), "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder, _ := os.ReadFile(f.Name())
		f.Close()
		return nil, weir.Errorf(weir.Conflict, "another process has it open, %s", strings.TrimSpace(string(holder)))
	}
	if err == nil {
		err = os.WriteFile(f.Name(), []byte("process "+strconv.Itoa(os.Getpid())+"\n"), 0o600)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}

// probe returns why a machine's disk cannot be in the directory.
func (p paths) probe() error {
	for _, dir := range []string{"/etc", "/usr", "/var", "/var/lib"} {
		var info unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, dir, 0, 0, &info)
		if err == nil && info.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return weir.Errorf(weir.Invalid, "%s of this host is a file system of its own, and machines would lack it: they share what is in the root file system", dir)
		}
	}
	dir := p.scratch("probe")
	defer os.RemoveAll(dir)
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	err := unix.Setxattr(filepath.Join(dir, "upper"), "trusted.overlay.opaque", []byte("y"), 0)
	if err == nil {
		err = onLostThread(func() error { return mountRoot(dir) })
	}
	if err != nil {
		return weir.Errorf(weir.Invalid, "its file system cannot hold machines' disks (%w): choose a directory on ext4 or xfs, outside of any container's overlay", err)
	}
	return nil
}
