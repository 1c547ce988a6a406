package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A host is a machine of the lab: an init (this program, as role) with namespaces of its
// own for processes, mounts, network, IPC and its name. When the init is killed, all its
// processes are, with nothing said to anybody, as in a power cut.
//
// A host of role hostRole sees this machine's files. What it writes to /etc, /var, /run,
// /tmp and /dev/shm is its own and gone with it, so two hosts can run programs that
// expect to be alone.
type host struct {
	name string
	port netlink.Link // on the switch, nil if it has none

	init *exec.Cmd
	log  *os.File
	wg   sync.WaitGroup // of the processes' waits and of the watch

	has  atomic.Bool   // the service address
	done chan struct{} // ends the watch
}

// namespaces are those that a host, and the lab as a whole, has to itself.
const namespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// boot starts a host and returns when its files are in place. Its output, and that of all
// it runs, goes to a file of its name in dir.
func boot(dir, role, name string) (*host, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	ready, told, err := os.Pipe()
	if err != nil {
		log.Close()
		return nil, err
	}
	defer ready.Close()
	h := &host{name: name, log: log, done: make(chan struct{})}
	h.init = exec.Command("/proc/self/exe", name)
	h.init.Args[0] = role
	h.init.Stdout, h.init.Stderr = log, log
	h.init.ExtraFiles = []*os.File{told}
	h.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	err = h.init.Start()
	told.Close()
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("boot %s: %w", name, err)
	}
	said, err := io.ReadAll(ready)
	if err == nil && string(said) != saidReady {
		err = errors.New(string(said))
	}
	if err != nil {
		h.halt()
		return nil, fmt.Errorf("boot %s: %w", name, err)
	}
	return h, nil
}

// halt kills all of the host at once. It may be called twice.
func (h *host) halt() {
	h.kill()
	select {
	case <-h.done:
	default:
		close(h.done)
	}
	h.wg.Wait()
	h.init.Wait()
	h.log.Close()
}

// kill kills the init, and so everything, without waiting for the end.
func (h *host) kill() { h.init.Process.Kill() }

func (h *host) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(h.init.Process.Pid), name)
}

// netns opens the host's network. Who leaves it open keeps the network alive.
func (h *host) netns() (netns.NsHandle, error) { return netns.GetFromPid(h.init.Process.Pid) }

// command prepares a command in the host, which is killed when ctx ends.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	in := []string{"--target", strconv.Itoa(h.init.Process.Pid), "--pid", "--mount", "--net", "--ipc", "--uts", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(in, args...)...)
	cmd.Cancel = func() error {
		// Not nsenter itself: what it started would become a child of ours that nobody
		// reaps, and a process namespace does not end before all in it are reaped.
		pid := cmd.Process.Pid
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		for _, child := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(child); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return ctx.Err()
	}
	return cmd
}

// run runs a command in the host and returns what it printed.
func (h *host) run(ctx context.Context, args ...string) ([]byte, error) {
	out, err := h.command(ctx, args...).CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("%s: %s: %w: %s", h.name, args[0], err, bytes.TrimSpace(out))
	}
	return out, nil
}

// start starts a process that lives at most as long as the host.
func (h *host) start(args ...string) error {
	cmd := h.command(context.Background(), args...)
	cmd.Stdout, cmd.Stderr = h.log, h.log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: start %s: %w", h.name, args[0], err)
	}
	h.wg.Go(func() { cmd.Wait() }) // how it ended is seen by what it no longer does
	return nil
}

// write puts a file into the host.
func (h *host) write(name, content string, mode os.FileMode) error {
	path := h.proc(filepath.Join("root", name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	return nil
}

// read returns what is in a file of the host, nothing if it is not there.
func (h *host) read(name string) string {
	b, _ := os.ReadFile(h.proc(filepath.Join("root", name)))
	return string(bytes.TrimSpace(b))
}

// pids returns the host's processes of that name, by the IDs that they have for us.
func (h *host) pids(name string) (pids []int) {
	ours, err := os.Readlink(h.proc("ns/pid"))
	if err != nil {
		return nil
	}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if comm, err := os.ReadFile(filepath.Join(dir, "comm")); err != nil || string(comm) != name+"\n" {
			continue
		}
		if ns, err := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || ns != ours {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// initMain is the life of a host's init: it prepares the files, says so, and reaps.
func initMain(name string) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	tell(prepareFiles(name))
	for range children {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 && !errors.Is(err, syscall.EINTR) {
				break
			}
		}
	}
}

// serverMain is an application server, the only process of its host: it answers every
// request with its name.
func serverMain(name string) {
	tell(nil)
	err := http.ListenAndServe(":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, name)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// saidReady is what a role writes to descriptor 3 when it is.
const saidReady = "ready"

// tell tells boot that the host is ready, or why it is not.
func tell(err error) {
	told := os.NewFile(3, saidReady)
	defer told.Close()
	if err != nil {
		fmt.Fprint(told, err)
		return
	}
	fmt.Fprint(told, saidReady)
}

// prepareFiles gives a host's init a view of this machine's files of its own.
func prepareFiles(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return err
	}
	if err := privateMounts(); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/tmp", "/dev/shm"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=1777"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	for _, dir := range []string{"etc", "var"} {
		upper, work := "/run/weir-bench/"+dir, "/run/weir-bench/"+dir+".work"
		for _, d := range []string{upper, work} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		options := fmt.Sprintf("lowerdir=/%s,upperdir=%s,workdir=%s", dir, upper, work)
		if err := unix.Mount("overlay", "/"+dir, "overlay", 0, options); err != nil {
			return fmt.Errorf("mount /%s: %w", dir, err)
		}
	}
	return os.MkdirAll("/run/lock", 0o755)
}

// privateMounts lets what is mounted from here on stay here, with a /proc of our own processes.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}
