package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The front leads from a port of the host into the region. It is a process of its own
// that lives in the region's gateway namespace and was handed the host's listening
// socket, so that requests still pass while weir dev is gone, kill -9 included. The next
// weir dev on the same data directory ends it.

// frontCommand is that process. Its listening socket is descriptor 3. Where to forward
// to comes on standard input, an address a line; the last one holds when input ends.
func frontCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "front",
		Short:  "forward connections from descriptor 3 to the address last read (started by weir dev)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			ln, err := net.FileListener(os.NewFile(3, "front"))
			if err != nil {
				return fmt.Errorf("front: descriptor 3 is not a listening socket (weir dev starts this command): %w", err)
			}
			return forward(ctx, ln, os.Stdin)
		},
	}
}

// forward connects each connection that ln accepts to the address that was last read
// from targets, until ctx ends. It waits for the connections that are open.
func forward(ctx context.Context, ln net.Listener, targets io.Reader) error {
	lines := bufio.NewScanner(targets)
	var target atomic.Pointer[string]
	next := func() bool {
		more := lines.Scan()
		if more {
			line := lines.Text()
			target.Store(&line)
		}
		return more
	}
	next()      // until it knows where to, connections wait
	go func() { // ends with the process: reading standard input cannot be interrupted
		for next() {
		}
	}()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: the next may find one
			continue
		}
		to := target.Load()
		if to == nil || *to == "" {
			conn.Close()
			continue
		}
		wg.Go(func() { join(ctx, conn.(*net.TCPConn), *to) })
	}
}

// join connects client to the address to, and copies both ways until both are done or
// ctx ends. A side that has said all it has to say may still listen.
func join(ctx context.Context, client *net.TCPConn, to string) {
	defer client.Close()
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", to)
	if err != nil {
		client.SetLinger(0) // a reset says that nobody answered
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()

	var wg sync.WaitGroup
	defer wg.Wait()
	pipe := func(to, from *net.TCPConn) {
		io.Copy(to, from)
		to.CloseWrite()
	}
	wg.Go(func() { pipe(server, client) })
	pipe(client, server)
}

// front is the front process as weir dev sees it.
type front struct {
	namespace string
	record    string   // the file with its pid, for endFront
	socket    *os.File // the listening socket, so that connections wait while there is no process

	mu      sync.Mutex
	cmd     *exec.Cmd
	targets io.Writer
	last    string        // where it forwards to
	ended   chan struct{} // closed when the process has
}

// startFront starts the front in a network namespace, with the listening socket ln,
// which it takes over. Its pid goes to a record under dir.
func startFront(dir, namespace string, ln *net.TCPListener) (*front, error) {
	socket, err := ln.File()
	if err != nil {
		return nil, err
	}
	ln.Close() // the file has a descriptor of its own
	f := &front{namespace: namespace, record: filepath.Join(dir, "front.pid"), socket: socket}
	if err := f.start(); err != nil {
		socket.Close()
		return nil, err
	}
	return f, nil
}

func (f *front) start() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "front")
	cmd.ExtraFiles = []*os.File{f.socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's Ctrl-C is for weir dev alone
	targets, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := startIn(f.namespace, cmd); err != nil {
		return fmt.Errorf("front: %w", err)
	}
	ended := make(chan struct{})
	go func() { // until stop; or, if the front is to outlive this process, with it
		cmd.Wait() // its state tells more than the error
		close(ended)
	}()
	f.mu.Lock()
	f.cmd, f.targets, f.ended = cmd, targets, ended
	fmt.Fprintln(targets, f.last) // a process that has ended is started again by watch
	f.mu.Unlock()
	if err := renameio.WriteFile(f.record, []byte(processRecord(cmd.Process.Pid)), 0o600); err != nil {
		f.stop()
		return err
	}
	return nil
}

// point forwards new connections to addr from now on.
func (f *front) point(addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if addr != f.last {
		f.last = addr
		fmt.Fprintln(f.targets, addr)
	}
}

// watch starts the front again when it ends, until ctx does.
func (f *front) watch(ctx context.Context, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.ended:
		}
		log.Warn("front ended, and is started again", "was", f.cmd.ProcessState.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond): // not to spin if it cannot live
		}
		if err := f.start(); err != nil {
			return err
		}
	}
}

// stop ends the front and waits for it.
func (f *front) stop() {
	f.cmd.Process.Signal(syscall.SIGTERM)
	<-f.ended
	f.socket.Close()
	os.Remove(f.record) // one that stays is of a process that is gone
}

// startIn starts cmd in a network namespace. A child is born in the namespace of the
// thread that forks it.
func startIn(namespace string, cmd *exec.Cmd) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		ns, err := netns.GetFromPath(namespace)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- cmd.Start()
	}()
	return <-done
}

// endFront ends the front that a killed weir dev left behind, if it still runs.
func endFront(dir string) error {
	path := filepath.Join(dir, "front.pid")
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, _ := strconv.Atoi(strings.Fields(string(b) + " 0")[0])
	if pid > 0 && processRecord(pid) == string(b) {
		fd, err := unix.PidfdOpen(pid, 0)
		if err == nil {
			defer unix.Close(fd)
			unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000) // until it is gone
		}
	}
	return os.Remove(path)
}

// processRecord is a pid with the time at which its process started and the boot since
// which that time counts, so that another process that got the pid later is not taken for it.
func processRecord(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat), ") ") // the name before may contain anything
	fields := strings.Fields(after)
	if len(fields) < 20 {
		return ""
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d %s %s", pid, fields[19], boot)
}
