package heartbeat

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// waiter waits for several sockets, a time and an end of it all, whichever comes first.
//
// It is an epoll of its own, for which Go's runtime waits. To wait in a system call would
// be simpler, but has the runtime look every 20 µs for a while whether the call is over,
// which costs more than all else: see BenchmarkPaths.
type waiter struct {
	file   *os.File // the epoll
	raw    syscall.RawConn
	timer  int
	alarm  int
	armed  time.Time // when the timer goes off
	events [4]unix.EpollEvent
	n      int
	err    error
	poll   func(fd uintptr) bool
}

func newWaiter(socks []*socket) (w *waiter, err error) {
	w = &waiter{timer: -1, alarm: -1}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(ep, true); err != nil { // for os.NewFile to give it to the runtime
		unix.Close(ep)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	w.file = os.NewFile(uintptr(ep), "epoll")
	if w.raw, err = w.file.SyscallConn(); err != nil {
		return nil, err
	}
	if w.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("timerfd: %w", err)
	}
	if w.alarm, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	fds := []int{w.timer, w.alarm}
	for _, s := range socks {
		fds = append(fds, s.fd)
	}
	for _, fd := range fds {
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return nil, fmt.Errorf("epoll: %w", err)
		}
	}
	w.poll = func(fd uintptr) bool {
		w.n, w.err = unix.EpollWait(int(fd), w.events[:], 0)
		return w.n > 0 || w.err != nil && !errors.Is(w.err, unix.EINTR)
	}
	return w, nil
}

// wait waits until due, or until a socket has something or ring is called.
func (w *waiter) wait(due time.Time) error {
	if !w.armed.Equal(due) {
		left := unix.NsecToTimespec(int64(max(time.Until(due), 1)))
		if err := unix.TimerfdSettime(w.timer, 0, &unix.ItimerSpec{Value: left}, nil); err != nil {
			return fmt.Errorf("timerfd: %w", err)
		}
		w.armed = due
	}
	if err := w.raw.Read(w.poll); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if w.err != nil {
		return fmt.Errorf("epoll: %w", w.err)
	}
	return nil
}

// of returns what the last wait found at s.
func (w *waiter) of(s *socket) uint32 {
	for _, e := range w.events[:max(w.n, 0)] {
		if int(e.Fd) == s.fd {
			return e.Events
		}
	}
	return 0
}

// ring ends this wait and all that follow.
func (w *waiter) ring() {
	unix.Write(w.alarm, []byte{1, 0, 0, 0, 0, 0, 0, 1}) // any number will do, in either byte order
}

func (w *waiter) close() {
	if w.file != nil {
		w.file.Close()
	}
	for _, fd := range []int{w.timer, w.alarm} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
