package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/store"
	"weir/weir"
)

func TestStalledDiskStopsItsMemberAlone(t *testing.T) {
	c := child(t.Context(), "stalled disk", t.TempDir())
	c.SysProcAttr.Unshareflags = unix.CLONE_NEWNS // its mounts go with it
	out, err := c.Output()
	if errors.Is(err, unix.EPERM) {
		t.Skipf("mounting is refused: %v", err)
	}
	if strings.HasPrefix(string(out), "skip: ") {
		t.Skip(string(out))
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}

// stalledDisk stalls a file system that it mounts from a file: that of a member of a
// cluster, then that of a member alone.
func stalledDisk(dir string) error {
	image, disk := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 512<<20), os.Mkdir(disk, 0o700)); err != nil {
		return err
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, disk}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("skip: %s: %w: %s", command[0], err, out)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, leader := range []string{"a", "b"} {
		if err := stallOneOfThree(ctx, filepath.Join(dir, leader), disk, leader); err != nil {
			return fmt.Errorf("one of three, while etcd's leader is %s: %w", leader, err)
		}
	}
	if err := stallAlone(ctx, disk); err != nil {
		return fmt.Errorf("a member alone: %w", err)
	}
	return unix.Unmount(disk, 0)
}

// freeze stalls all that writes to a file system until thaw is called.
func freeze(disk string) (thaw func() error, err error) {
	c := child(context.Background(), "freezer", disk)
	c.SysProcAttr = nil // it outlives us, for as long as it takes to thaw
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if said != "frozen\n" {
		return nil, errors.Join(fmt.Errorf("freeze %s: %q: %w", disk, said, err), c.Wait())
	}
	return func() error { return errors.Join(in.Close(), c.Wait()) }, nil
}

// freezer freezes a file system until its standard input ends, as it does when whoever
// started it dies: nobody could write there ever again.
func freezer(disk string) error {
	const fiFreeze, fiThaw = 0xc0045877, 0xc0045878 // FIFREEZE and FITHAW of linux/fs.h
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		return err
	}
	fmt.Println("frozen")
	io.Copy(io.Discard, os.Stdin)
	return unix.IoctlSetInt(int(f.Fd()), fiThaw, 0)
}

// leading leads "work" through s, again and again until ctx ends, and sends when.
func leading(ctx context.Context, s *store.Store) (began <-chan time.Time, ended chan error) {
	begins, ends := make(chan time.Time, 100), make(chan error, 100)
	go func() {
		defer close(ends)
		for ctx.Err() == nil {
			ends <- s.Lead(ctx, "work", func(ctx context.Context, _ *store.Store) error {
				begins <- time.Now()
				<-ctx.Done()
				return ctx.Err()
			})
		}
	}()
	return begins, ends
}

// stallOneOfThree stalls the disk of a, which leads "work", while etcd has that leader.
func stallOneOfThree(ctx context.Context, dir, disk, etcdLeader string) (err error) {
	r, err := newRegion(dir, slog.New(slog.DiscardHandler), "a", "b", "c")
	if err != nil {
		return err
	}
	config := r.members["a"]
	config.Dir = filepath.Join(disk, "member-"+etcdLeader)
	r.members["a"] = config
	s, err := r.start(ctx, "a", "b", "c")
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range s {
			err = errors.Join(err, s.Close())
		}
	}()
	elsewhere := func() error { return errors.New("all members are in this process") }
	if err := makeEtcdLeader(ctx, map[string]*store.Store{"a": s[0], "b": s[1], "c": s[2]}, etcdLeader, elsewhere); err != nil {
		return err
	}
	working, cancel := context.WithCancel(ctx)
	aBegan, aEnded := leading(working, s[0])
	<-aBegan
	bBegan, bEnded := leading(working, s[1])
	defer func() {
		cancel()
		for _, ended := range []<-chan error{aEnded, bEnded} {
			for range ended {
			}
		}
	}()

	thaw, err := freeze(disk)
	if err != nil {
		return err
	}
	frozen := time.Now()
	err = func() error {
		if err := until(ctx, func() error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			return put(ctx, s[1], "1", "by b")
		}); err != nil {
			return fmt.Errorf("an update by another member: %w", err)
		}
		fmt.Printf("a is stalled while %s leads etcd: another member's update is made after %v\n", etcdLeader, time.Since(frozen))
		select {
		case <-bBegan:
		case <-ctx.Done():
			return errors.New("nobody follows the leader that is stalled")
		}
		fmt.Printf("another member leads after %v\n", time.Since(frozen))
		if who, _, err := s[2].Leader(ctx, "work"); err != nil || who != "b" {
			return fmt.Errorf("%q leads (%w), want b", who, err)
		}
		if err := <-aEnded; !errors.Is(err, weir.Denied) {
			return fmt.Errorf("got error %v from leading with a stalled disk, want denied", err)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := put(short, s[0], "2", "by a, stalled"); err == nil {
			return errors.New("the stalled member has made an update")
		}
		return nil
	}()
	if err := errors.Join(err, thaw()); err != nil {
		return err
	}
	if err := until(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return put(ctx, s[0], "3", "by a, thawed")
	}); err != nil {
		return fmt.Errorf("an update by the member that was stalled: %w", err)
	}
	for _, s := range s {
		if row, err := things().Get(ctx, s, "1"); err != nil || row != "by b" {
			return fmt.Errorf("got %q (%w), want what was written meanwhile", row, err)
		}
	}
	return nil
}

func stallAlone(ctx context.Context, disk string) (err error) {
	s, err := store.Embed(ctx, filepath.Join(disk, "alone"), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	working, cancel := context.WithCancel(ctx)
	began, ended := leading(working, s)
	defer func() {
		cancel()
		for range ended {
		}
	}()
	<-began
	if err := put(ctx, s, "1", "before"); err != nil {
		return err
	}

	thaw, err := freeze(disk)
	if err != nil {
		return err
	}
	err = func() error {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := put(short, s, "1", "meanwhile"); !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("got error %v from an update on a stalled disk, want that of its context", err)
		}
		if err := <-ended; !errors.Is(err, weir.Denied) {
			return fmt.Errorf("got error %v from leading on a stalled disk, want denied", err)
		}
		return nil
	}()
	if err := errors.Join(err, thaw()); err != nil {
		return err
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("the store is broken: %w", err)
	}
	if err := put(ctx, s, "1", "after"); err != nil {
		return fmt.Errorf("an update after the disk was stalled: %w", err)
	}
	select {
	case <-began:
		return nil
	case <-ctx.Done():
		return errors.New("nobody leads after the disk was stalled")
	}
}
