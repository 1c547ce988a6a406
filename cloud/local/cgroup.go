package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupDirs returns where the kernel shows the cgroup path: in one place with cgroup 2,
// once for each controller with cgroup 1.
func cgroupDirs(path string) ([]string, error) {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, err := filepath.Glob(filepath.Join(pattern, path))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, found...)
	}
	return dirs, nil
}

// thawCgroup lets what is frozen in the cgroup path go on, with cgroup 1 and 2.
func thawCgroup(path string) error {
	dirs, err := cgroupDirs(path)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		for name, state := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString(state)
				f.Close()
			}
			// Most cgroups have one file or none, and one that is being removed has nothing to thaw.
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("thaw: %w", err)
			}
		}
	}
	return nil
}

// removeCgroup kills all that is in the cgroup path and below it, and removes it. A
// process is killed for where it is, so this never reaches one that only has the number
// of a former one.
func removeCgroup(ctx context.Context, path string) error {
	for {
		dirs, err := cgroupDirs(path)
		if err != nil || len(dirs) == 0 {
			return err
		}
		var left error
		for _, dir := range dirs {
			left = errors.Join(left, emptyCgroup(dir))
		}
		if left == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", path, errors.Join(ctx.Err(), left))
		case <-time.After(5 * time.Millisecond): // the killed take a moment to go
		}
	}
}

// emptyCgroup kills what is in dir and below it, and removes those that are empty.
func emptyCgroup(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && e.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(all) // children first
	var left error
	for _, cgroup := range all {
		if err := killCgroup(cgroup); err != nil {
			left = errors.Join(left, err)
		}
		if err := unix.Rmdir(cgroup); err != nil && !errors.Is(err, unix.ENOENT) {
			left = errors.Join(left, fmt.Errorf("remove %s: %w", cgroup, err))
		}
	}
	return left
}

func killCgroup(dir string) error {
	// A frozen process of cgroup 1 does not die; other cgroups have no such file.
	_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
	members, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for field := range bytes.FieldsSeq(members) {
		pid, err := strconv.Atoi(string(field))
		if err != nil || pid == 0 {
			continue // one of another pid namespace
		}
		if err := killIf(pid, func() bool { return isIn(dir, pid) }); err != nil {
			return err
		}
	}
	return nil
}

// isIn reports whether the process is in the cgroup dir at this moment.
func isIn(dir string, pid int) bool {
	members, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	return err == nil && slices.ContainsFunc(bytes.Fields(members), func(f []byte) bool { return string(f) == strconv.Itoa(pid) })
}

// killIf kills the process with that number if it is the one we mean, which is asked once
// we hold it: from then on its number cannot become another's.
func killIf(pid int, meant func() bool) error {
	p, err := openProcess(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	if !meant() {
		return nil
	}
	return p.signal(syscall.SIGKILL)
}
