package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is the master of a running HAProxy, ours by birth or adopted.
type process struct {
	pid   int
	fd    int      // of the process itself: a PID can be given anew, this cannot
	file  *os.File // fd, as the poller knows it
	began time.Time
}

// spawn starts a master that goes on without us.
func spawn(binary string, args []string, output *os.File, note func(pid int) error) (*process, error) {
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = output, output
	// A session of its own: what a terminal sends to us is not meant for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start haproxy: %w", err)
	}
	pid := cmd.Process.Pid
	promote(pid)
	err := note(pid)
	var p *process
	if err == nil {
		p, err = openProcess(pid)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, fmt.Errorf("start haproxy: %w", err)
	}
	cmd.Process.Release()
	return p, nil
}

func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return &process{pid: pid, fd: fd, file: os.NewFile(uintptr(fd), "haproxy"), began: time.Now()}, nil
}

// readPid returns the process that a PID file names, or nil if it is no more. The file has
// the start of the process too: after a reboot another may have its number.
func readPid(path string) (*process, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pid, start, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	n, err := strconv.Atoi(pid)
	if err != nil || n <= 1 || startOf(n) != start {
		return nil, nil
	}
	p, err := openProcess(n)
	if err != nil || startOf(n) != start {
		return nil, nil
	}
	return p, nil
}

func writePid(path string, pid int) error {
	return replace(path, fmt.Appendf(nil, "%d %s\n", pid, startOf(pid)))
}

// startOf returns when a process started, as the kernel tells it: the boot's ID and the
// ticks since. It is empty if there is none.
func startOf(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	// The name of the program, in brackets, may have any character.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 20 {
		return ""
	}
	return strings.TrimSpace(string(boot)) + "+" + f[19]
}

// wait returns when the process has ended, or p is closed.
func (p *process) wait() {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	conn.Read(func(uintptr) bool { return !p.alive() })
}

// alive reports whether the process has not ended.
func (p *process) alive() bool {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n == 0
}

func (p *process) signal(sig unix.Signal) error {
	return unix.PidfdSendSignal(p.fd, sig, nil, 0)
}

// close lets go of the process, which goes on if it has not ended.
func (p *process) close() {
	if !p.alive() {
		unix.Wait4(p.pid, nil, unix.WNOHANG, nil) // if it was our child
	}
	p.file.Close()
}

// end signals the process and waits until it has ended. When ctx ends it has no mercy.
func (p *process) end(ctx context.Context, first unix.Signal) {
	var sent time.Time
	for p.alive() && ctx.Err() == nil {
		// A master that is replacing itself forgets what it is sent.
		if time.Since(sent) > 100*time.Millisecond {
			p.signal(first)
			sent = time.Now()
		}
		pause(ctx, 5*time.Millisecond)
	}
	if p.alive() {
		// With its workers, who would end by themselves, but not if they hang.
		unix.Kill(-p.pid, unix.SIGKILL)
	}
	for p.alive() {
		time.Sleep(time.Millisecond)
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// replace writes a file so that a reader, or a crash of ours, meets the old or the new one
// whole. It does not wait for the disk: all that is written here is written again at
// the next start.
func replace(path string, data []byte) error {
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
