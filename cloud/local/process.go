package local

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process that need not be our child. It is held by a pidfd: a signal
// never reaches another process that has got the same number since.
type process struct {
	pid int
	fd  *os.File
}

// openProcess takes hold of the process with that number.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// close lets go of the process.
func (p *process) close() { p.fd.Close() }

// signal sends sig; a process that has ended, and was let go of since, is no error.
func (p *process) signal(sig syscall.Signal) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }) != nil {
		return nil // closed
	}
	if sent != nil && sent != unix.ESRCH {
		return fmt.Errorf("send %s to process %d: %w", sig, p.pid, sent)
	}
	return nil
}

// network opens the network namespace of the process, which must not have ended.
func (p *process) network() (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid))
	if err != nil {
		return nil, err
	}
	// Whatever has the number of a process that has ended is another one.
	raw, err := p.fd.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), 0, nil, 0) })
	}
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("network of process %d: %w", p.pid, err)
	}
	return ns, nil
}

// wait returns nil once the process has ended, or ctx's error, after which it is not
// called again. Only one goroutine may wait at a time.
func (p *process) wait(ctx context.Context) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { p.fd.SetReadDeadline(time.Unix(1, 0)) })()
	err = raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(ready, 0)
		return n > 0
	})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	// Where we are what orphans are given to (pid 1 of a container, a subreaper), nobody
	// else takes the dead away. Anywhere else this is refused, and rightly.
	_ = raw.Control(func(fd uintptr) { _ = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED|unix.WNOHANG, nil) })
	return nil
}
