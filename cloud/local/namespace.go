package local

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespace calls do on a thread of its own whose network is that of namespace
// net. What do opens there (a socket) stays in that network; everything else of the
// process stays where it is.
func inNamespace(net *os.File, do func() error) error {
	result := make(chan error)
	go func() {
		result <- func() error {
			runtime.LockOSThread()
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			defer home.Close()
			if err := unix.Setns(int(net.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace %s: %w", net.Name(), err)
			}
			err = do()
			// A thread that cannot get home stays locked, and ends with this goroutine.
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			return err
		}()
	}()
	return <-result
}

// onLostThread calls do on a thread that ends afterwards, so that do may change what a
// thread cannot change back.
func onLostThread(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The first thread of a process cannot end, and would keep what do changes for
			// ever. While we hold it, another goroutine gets another thread.
			err := onLostThread(do)
			runtime.UnlockOSThread()
			result <- err
			return
		}
		result <- do() // still locked: the thread ends with the goroutine
	}()
	return <-result
}

// newNamespace makes a network namespace, calls setup in it, and returns it. It lasts as
// long as the file is open, a process is in it, or it is mounted somewhere.
func newNamespace(setup func() error) (*os.File, error) {
	var made *os.File
	err := onLostThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		if err := setup(); err != nil {
			f.Close()
			return err
		}
		made = f
		return nil
	})
	return made, err
}

// setting is a value for a file below /proc/sys/net.
type setting struct{ name, value string }

// set writes settings of the network namespace that the calling thread is in.
func set(settings ...setting) error {
	for _, s := range settings {
		err := os.WriteFile("/proc/sys/net/"+s.name, []byte(s.value), 0)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without that feature does not need it
		}
		if err != nil {
			return err
		}
	}
	return nil
}
