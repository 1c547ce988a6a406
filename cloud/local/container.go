package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	runc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"weir/weir"
)

// weirPath is where a machine has the binary that runs the cloud: a load balancer's
// instance runs `weir node`.
const weirPath = "/usr/local/bin/weir"

// maxProcesses is how many processes and threads a machine may have.
const maxProcesses = 4096

// container starts and removes the containers of one region.
type container struct {
	root   string // runc's records
	cgroup string // the parent of all, such as /weir-3fa2c1
	self   string // the binary that machines have at weirPath
}

// start makes the container of the machine in dir, in the network namespace net, and
// starts its init, which runs on when we are gone.
func (c *container) start(ctx context.Context, dir string, r *record, net *os.File) (*process, error) {
	// All that is of this start alone; a killed runc left some of the last.
	bundle := filepath.Join(dir, "bundle")
	if err := os.RemoveAll(bundle); err != nil {
		return nil, err
	}
	if err := os.Mkdir(bundle, 0o700); err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(bundle, "config.json"), c.spec(dir, r, net)); err != nil {
		return nil, err
	}
	console, err := os.OpenFile(filepath.Join(dir, "console"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	faults, pidFile := filepath.Join(bundle, "runc.log"), filepath.Join(bundle, "pid")
	err = onLostThread(func() error {
		if err := mountRoot(dir); err != nil {
			return err
		}
		_, err := c.runc(faults).Run(ctx, string(r.ID), bundle, &runc.CreateOpts{
			IO: stdio{console}, PidFile: pidFile, Detach: true, NoNewKeyring: true})
		return err
	})
	if err != nil {
		if why := lastFault(faults); why != "" {
			err = errors.New(why)
		}
		return nil, fmt.Errorf("start its container: %w", err)
	}
	pid, err := runc.ReadPidFile(pidFile)
	if err != nil {
		return nil, fmt.Errorf("start its container: %w", err)
	}
	return openProcess(pid)
}

// remove ends the container, if it has not ended, and removes what the kernel and runc
// have of it.
func (c *container) remove(ctx context.Context, id weir.ID) error {
	state := filepath.Join(c.root, string(id))
	if _, err := os.Stat(state); err == nil {
		if err := c.runc("").Delete(ctx, string(id), &runc.DeleteOpts{Force: true}); err == nil {
			return nil
		}
	}
	// runc did not come far enough, or was killed halfway.
	if err := removeCgroup(ctx, filepath.Join(c.cgroup, string(id))); err != nil {
		return err
	}
	return os.RemoveAll(state)
}

// freeze stops all processes of a container, or none if it fails.
func (c *container) freeze(ctx context.Context, id weir.ID) error {
	if err := c.runc("").Pause(ctx, string(id)); err != nil {
		return errors.Join(fmt.Errorf("freeze its container: %w", err), c.thaw(id))
	}
	return nil
}

// thaw lets all processes of a container go on. It does not need runc, which refuses to
// resume what is not paused, and knows nothing of one that was paused by half.
func (c *container) thaw(id weir.ID) error {
	return thawCgroup(filepath.Join(c.cgroup, string(id)))
}

func (c *container) runc(faults string) *runc.Runc {
	return &runc.Runc{Root: c.root, Log: faults, LogFormat: runc.JSON, Setpgid: true}
}

// stdio has a container write to a file, so that nothing of it depends on us.
type stdio struct{ out *os.File }

func (s stdio) Set(cmd *exec.Cmd) {
	cmd.Stdout, cmd.Stderr = s.out, s.out
	// A runc that is half done must not go on without us. It is started by a thread that
	// waits for it, so this is as good as the life of our process.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
func (s stdio) Stdin() io.WriteCloser { return nil }
func (s stdio) Stdout() io.ReadCloser { return nil }
func (s stdio) Stderr() io.ReadCloser { return nil }
func (s stdio) Close() error          { return nil }

// lastFault returns the last message of runc's log.
func lastFault(path string) string {
	log, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var last struct{ Msg string }
	for line := range bytes.Lines(log) {
		_ = json.Unmarshal(line, &last) // a line cut short leaves the one before
	}
	return last.Msg
}

// capabilities are those of root in a machine, as far as we have them ourselves. None
// reaches beyond the machine's namespaces: not SYS_ADMIN (mounts), SYS_MODULE, SYS_RAWIO,
// SYS_TIME, SYS_BOOT, SYSLOG, BPF, PERFMON, nor DAC_READ_SEARCH, which opens any file of
// the host by its number.
func capabilities() []string {
	wanted := map[string]int{
		"CAP_AUDIT_WRITE": unix.CAP_AUDIT_WRITE, "CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE,
		"CAP_FOWNER": unix.CAP_FOWNER, "CAP_FSETID": unix.CAP_FSETID, "CAP_IPC_LOCK": unix.CAP_IPC_LOCK,
		"CAP_IPC_OWNER": unix.CAP_IPC_OWNER, "CAP_KILL": unix.CAP_KILL, "CAP_LEASE": unix.CAP_LEASE,
		"CAP_MKNOD": unix.CAP_MKNOD, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
		"CAP_NET_BROADCAST": unix.CAP_NET_BROADCAST, "CAP_NET_RAW": unix.CAP_NET_RAW, "CAP_SETFCAP": unix.CAP_SETFCAP,
		"CAP_SETGID": unix.CAP_SETGID, "CAP_SETPCAP": unix.CAP_SETPCAP, "CAP_SETUID": unix.CAP_SETUID,
		"CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT, "CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE,
	}
	var have []string
	for name, number := range wanted {
		if set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0); err == nil && set == 1 {
			have = append(have, name)
		}
	}
	slices.Sort(have)
	return have
}

// spec describes the machine's container to runc.
func (c *container) spec(dir string, r *record, net *os.File) *specs.Spec {
	size, _ := weir.SizeOf(r.Size)
	caps := capabilities()
	var files unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &files) // it cannot fail for ourselves
	limit := min(files.Max, 1<<20)
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: r.hostname(),
		Root:     &specs.Root{Path: filepath.Join(dir, "root")},
		Process: &specs.Process{
			Args: initCommand(),
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"HOME=/root", "USER=root", "SHELL=/bin/bash", "LANG=C.UTF-8", "TERM=linux"},
			Cwd:          "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: limit, Soft: limit}},
			// When the host runs out of memory, a machine goes before what keeps them all.
			OOMScoreAdj: ptr(300),
		},
		Mounts: mounts(c.self, filepath.Join(dir, "boot"), size),
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join(c.cgroup, string(r.ID)),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.CgroupNamespace},
				{Type: specs.NetworkNamespace, Path: "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(net.Fd()))},
			},
			Resources: resources(size),
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

func mounts(self, boot string, size weir.Size) []specs.Mount {
	half := "size=" + strconv.FormatInt(size.Memory/2, 10)
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", half}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755", half}},
		{Destination: "/run/lock", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "noexec", "mode=1777", "size=5120k"}},
		{Destination: bootDir, Type: "bind", Source: boot, Options: []string{"bind", "rw", "nosuid", "nodev"}},
		{Destination: weirPath, Type: "bind", Source: self, Options: []string{"bind", "ro", "nosuid", "nodev"}},
	}
}

// resources are the cgroup's limits for a size.
func resources(size weir.Size) *specs.LinuxResources {
	const period = 100_000 // microseconds
	memory := &specs.LinuxMemory{Limit: ptr(size.Memory)}
	if swapIsCounted() {
		memory.Swap = ptr(size.Memory) // memory and swap together
	}
	return &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Period: ptr(uint64(period)), Quota: ptr(int64(size.CPUs) * period)},
		Memory: memory,
		Pids:   &specs.LinuxPids{Limit: ptr(int64(maxProcesses))},
		Devices: []specs.LinuxDeviceCgroup{ // runc adds the devices that every container has
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Access: "m"}, // overlays and packages make nodes …
			{Allow: true, Type: "b", Access: "m"}, // … but nobody opens them
		},
	}
}

// swapIsCounted reports whether the host has swap that its cgroups can bound: cgroup 2
// can, cgroup 1 if the kernel was told to.
func swapIsCounted() bool {
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil || bytes.Count(swaps, []byte("\n")) < 2 { // the first line is a heading
		return false
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return true
	}
	_, err = os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	return err == nil
}

func ptr[T any](v T) *T { return &v }

// oldest is the oldest runc that does what a machine needs.
const oldest = "1.1"

// checkRunc returns why runc cannot be used.
func checkRunc(ctx context.Context) error {
	if _, err := exec.LookPath(runc.DefaultCommand); err != nil {
		return weir.Errorf(weir.Unavailable, "runc is not installed, and machines are its containers: install it (apt-get install runc)")
	}
	v, err := (&runc.Runc{}).Version(ctx)
	if err != nil {
		return fmt.Errorf("ask runc for its version: %w", err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(v.Runc, "%d.%d", &major, &minor); err != nil || major < 1 || major == 1 && minor < 1 {
		return weir.Errorf(weir.Unavailable, "runc is version %s, want %s or newer: upgrade it", strings.TrimSpace(v.Runc), oldest)
	}
	return nil
}
