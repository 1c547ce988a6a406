package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/cloud"
	"weir/weir"
)

func TestMachineSeesNothingOfTheHostsOwn(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hush"), 0o644); err != nil {
		t.Fatal(err)
	}
	apart, err := os.MkdirTemp("/opt", "weir-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(apart) })
	c := open(t, Config{Dir: filepath.Join(apart, "region"), Hide: []string{apart}})
	s := spec(1, "")
	s.SSHKeys = []string{"ssh-ed25519 AAAA me@here"}
	m := create(t, c, s)
	for _, path := range []string{secret, string(c.paths), apart + "/region"} {
		if out, err := try(c, m.ID, "ls", path); err == nil {
			t.Errorf("the machine sees %s: %s", path, out)
		}
	}
	if out := in(t, c, m.ID, "find", "/home", "/tmp", "/var/tmp", "/srv", "/mnt", apart, "-mindepth", "1"); out != "" {
		t.Errorf("the machine sees files of the host: %s", out)
	}
	if out := in(t, c, m.ID, "cat", "/etc/hostname", "/root/.ssh/authorized_keys"); out != "web-1\nssh-ed25519 AAAA me@here" {
		t.Errorf("host name and keys are %q", out)
	}
	if out := in(t, c, m.ID, "sh", "-c", "cut -d: -f2 /etc/shadow | grep -c '[$]' || true"); out != "0" {
		t.Errorf("the machine has %s passwords of the host", out)
	}
	if out, err := try(c, m.ID, "sh", "-c", "echo 1 >/proc/sys/kernel/panic"); err == nil {
		t.Errorf("the machine may change the host's kernel: %s", out)
	}
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		t.Fatal(err)
	}
	node := fmt.Sprintf("mknod /root/disk b %d %d && head -c1 /root/disk", unix.Major(root.Dev), unix.Minor(root.Dev))
	if out, err := try(c, m.ID, "sh", "-c", node); err == nil || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("the machine reads the host's disk: %q, %v", out, err)
	}
	if out, err := try(c, m.ID, "mount", "-t", "tmpfs", "none", "/mnt"); err == nil {
		t.Errorf("the machine may mount: %s", out)
	}
}

func TestSizeIsKeptByCgroups(t *testing.T) {
	c := open(t, Config{})
	s := spec(1, "")
	s.Size = "s-2vcpu-2gb"
	m := create(t, c, s)
	size, _ := weir.SizeOf(s.Size)
	read := func(files ...string) string {
		t.Helper()
		for _, f := range files {
			dirs, err := cgroupDirs(filepath.Join(c.paths.cgroup(), string(m.ID)))
			if err != nil {
				t.Fatal(err)
			}
			for _, dir := range dirs {
				if b, err := os.ReadFile(filepath.Join(dir, f)); err == nil {
					return strings.TrimSpace(string(b))
				}
			}
		}
		t.Fatalf("the machine's cgroup has none of %q", files)
		return ""
	}
	if got := read("memory.max", "memory.limit_in_bytes"); got != strconv.FormatInt(size.Memory, 10) {
		t.Errorf("memory limit is %s, want %d", got, size.Memory)
	}
	if got := read("pids.max"); got != strconv.Itoa(maxProcesses) {
		t.Errorf("process limit is %s, want %d", got, maxProcesses)
	}
	if got := read("cpu.max", "cpu.cfs_quota_us"); got != "200000" && got != "200000 100000" {
		t.Errorf("CPU limit is %s, want 200000 of each 100000 µs", got)
	}
}

func TestRegionRunsOut(t *testing.T) {
	few := netip.MustParsePrefix("203.0.113.0/29") // five machines
	for _, test := range []struct {
		name string
		c    Config
		size string
		says string
	}{
		{"addresses", Config{Public: netip.MustParsePrefix("203.0.113.0/30")}, "", `203\.0\.113\.0/30 has 1 addresses for machines, and 1 are taken`},
		{"memory for a sum", Config{Public: few, Memory: 1 << 30}, "s-1vcpu-1gb", `may have 1024 MiB of memory on this host, and have 512 MiB: there is room for 0 more of size s-1vcpu-1gb, want 1`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := open(t, test.c)
			create(t, c, spec(1, ""))
			s := spec(2, "")
			if test.size != "" {
				s.Size = test.size
			}
			_, err := c.CreateMachine(t.Context(), s)
			if !errors.Is(err, weir.Exhausted) || !regexp.MustCompile(test.says).MatchString(err.Error()) {
				t.Errorf("a machine too many: error %v, want one that is exhausted and says %s", err, test.says)
			}
			if err := c.Room(t.Context(), s.Template, 1); !errors.Is(err, weir.Exhausted) {
				t.Errorf("asked for room: error %v, want that it is exhausted", err)
			}
			if err := c.DeleteMachine(t.Context(), "100001"); err != nil {
				t.Fatal(err)
			}
			create(t, c, s)
		})
	}
	c := open(t, Config{Disk: 1 << 60})
	if _, err := c.CreateMachine(t.Context(), spec(1, "")); !errors.Is(err, weir.Exhausted) {
		t.Errorf("a machine on a full disk: error %v, want that it is exhausted", err)
	}
	one, _ := weir.SizeOf("s-1vcpu-1gb")
	for _, m := range []memory{{total: 512 << 20, available: 512 << 20}, {total: 8 << 30, available: 100 << 20}} {
		if err := m.room(one, 1, 0, 1<<40); !errors.Is(err, weir.Exhausted) {
			t.Errorf("one machine of 1 GiB on a host with %+v: error %v, want that it is exhausted", m, err)
		}
	}
}

func TestRegionIsOpenOnce(t *testing.T) {
	c := open(t, Config{})
	_, err := Open(t.Context(), Config{Dir: string(c.paths), Region: "lab"})
	if want := fmt.Sprint("process ", os.Getpid()); !errors.Is(err, weir.Conflict) || !strings.Contains(err.Error(), want) {
		t.Errorf("opening a region twice: error %v, want a conflict with %s", err, want)
	}
	if err := Destroy(string(c.paths)); !errors.Is(err, weir.Conflict) {
		t.Errorf("destroying a region that is open: error %v, want a conflict", err)
	}
	create(t, c, spec(1, ""))
}

func TestPowerOffKeepsTheDiskAndAnInitThatDiesIsOff(t *testing.T) {
	c := open(t, Config{})
	m := create(t, c, spec(1, "echo kept >/root/file"))
	if err := c.PowerOff(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	if look(t, c, m.ID).On {
		t.Error("the machine is on after it was powered off")
	}
	if err := c.PowerOn(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	again := booted(t, c, m.ID)
	if !reflect.DeepEqual(again, m) {
		t.Errorf("after power off and on the machine is %+v, want %+v", again, m)
	}
	if got := in(t, c, m.ID, "cat", "/root/file"); got != "kept" {
		t.Errorf("the disk has %q, want what was written", got)
	}
	in(t, c, m.ID, "poweroff")
	eventually(t, "a machine that powers itself off is off", func() error {
		if look(t, c, m.ID).On {
			return errors.New("it is on")
		}
		return nil
	})
	if err := c.PowerOn(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	booted(t, c, m.ID)
	c.mu.Lock()
	pid := c.machines[m.ID].run.init.pid
	c.mu.Unlock()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a machine whose init was killed is off", func() error {
		if look(t, c, m.ID).On {
			return errors.New("it is on")
		}
		return nil
	})
	if err := c.PowerOn(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	booted(t, c, m.ID)
}

func TestManyMachinesAtOnce(t *testing.T) {
	c := open(t, Config{})
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			if _, err := c.CreateMachine(t.Context(), spec(n, "")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	seen := map[netip.Addr]bool{}
	for n := range 20 {
		m := booted(t, c, spec(n, "").ID)
		seen[m.Private] = true
	}
	if len(seen) != 20 {
		t.Errorf("20 machines have %d private addresses", len(seen))
	}
	for n := range 20 {
		all.Go(func() {
			if err := c.DeleteMachine(t.Context(), spec(n, "").ID); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left, _ := filepath.Glob(filepath.Join(string(c.paths), "*", "1*")); len(left) > 0 {
		t.Errorf("deleted machines left %v", left)
	}
}

// kernel lists what there is in the kernel, by what would show a leftover.
func kernel(t *testing.T) map[string][]string {
	t.Helper()
	read := func(pattern string) []string {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "weir") {
			ours = append(ours, line)
		}
	}
	return map[string][]string{"cgroups": append(read("/sys/fs/cgroup/weir-*"), read("/sys/fs/cgroup/*/weir-*")...),
		"namespaces": read("/run/netns/*"), "mounts": ours}
}

// tagged returns what of a region's is in the kernel, and its processes.
func tagged(t *testing.T, p paths) (left []string) {
	t.Helper()
	for kind, all := range kernel(t) {
		for _, one := range all {
			if strings.Contains(one, p.tag()) || strings.Contains(one, string(p)) {
				left = append(left, kind+": "+one)
			}
		}
	}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range all {
		groups, _ := os.ReadFile(filepath.Join(proc, "cgroup"))
		line, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		if len(line) == 0 {
			continue // a zombie, whose parent is not in a hurry
		}
		if strings.Contains(string(groups), p.tag()) || strings.Contains(string(line), string(p)+"/runc") {
			left = append(left, fmt.Sprintf("process %s: %q", proc, line))
		}
	}
	return left
}

func TestCloseLeavesNothingAndOpenBringsTheRegionBack(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	m := create(t, c, spec(1, "echo kept >/root/file"))
	off := create(t, c, spec(2, ""))
	if err := c.PowerOff(t.Context(), off.ID); err != nil {
		t.Fatal(err)
	}
	if len(tagged(t, c.paths)) == 0 {
		t.Fatal("nothing of an open region is found in the kernel: this test looks in the wrong place")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if left := tagged(t, c.paths); len(left) > 0 {
		t.Errorf("Close left %s", strings.Join(left, "\n"))
	}
	if _, err := c.CreateMachine(t.Context(), spec(3, "")); !errors.Is(err, weir.Unavailable) {
		t.Errorf("a machine in a region that is closed: error %v, want that it is unavailable", err)
	}
	c = open(t, Config{Dir: dir})
	if got := booted(t, c, m.ID); !reflect.DeepEqual(got, m) {
		t.Errorf("the machine is %+v, want %+v as it was", got, m)
	}
	if look(t, c, off.ID).On {
		t.Error("a machine that was off is on after Open")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Destroy(dir); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("Destroy left %v, %v", left, err)
		}
	}
}

// The process of this test, run again with these variables, is the one that is killed: the
// directory of its region, and the life that it leads there.
const (
	victim = "WEIR_TEST_REGION"
	leads  = "WEIR_TEST_LIFE"
)

func TestMain(m *testing.M) {
	if port := os.Getenv(echoes); port != "" {
		die(echo(port))
	}
	if dir := os.Getenv(victim); dir != "" {
		ctx := context.Background()
		c, err := Open(ctx, Config{Dir: dir, Region: "lab"})
		die(err)
		map[string]func(context.Context, *Cloud){"busy": busy, "watchful": watchful, "broken": broken}[os.Getenv(leads)](ctx, c)
	}
	os.Exit(m.Run())
}

// die ends a victim before its time, if there is a reason.
func die(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// begin runs a victim in a region until it says that it is ready to be killed. The region
// is destroyed at the end of the test, however it ends.
func begin(t *testing.T, dir, life string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	cmd := exec.CommandContext(ctx, os.Args[0])
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
		if err := Destroy(dir); err != nil {
			t.Error(err)
		}
	})
	cmd.Env = append(os.Environ(), victim+"="+dir, leads+"="+life)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		kill(t, cmd)
		t.Fatalf("the region says %q, %v", line, err)
	}
	return cmd
}

// kill kills a victim.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	cmd.Wait()
}

// busy always has something half done.
func busy(ctx context.Context, c *Cloud) {
	for n := 1; n <= 2; n++ {
		_, err := c.CreateMachine(ctx, spec(n, serve(80)))
		die(err)
	}
	addr, err := c.Reserve(ctx, "lb", weir.IPv4)
	die(err)
	die(c.Assign(ctx, addr, "100001"))
	die(c.SetFirewall(ctx, "100002", &weir.Firewall{}))
	for {
		all, err := c.Machines(ctx)
		die(err)
		if !slices.ContainsFunc(all, func(m cloud.Machine) bool { return m.Boot.State != weir.BootDone }) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("ready")
	for n := 10; ; n++ { // so that the kill meets something half done
		_, err := c.CreateMachine(ctx, spec(n, ""))
		die(err)
		if n > 12 {
			die(c.DeleteMachine(ctx, spec(n-2, "").ID))
		}
	}
}

func TestKilledRegionServesOnAndComesBackTheSame(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for round := range 3 {
		p, err := newPaths(dir)
		if err != nil {
			t.Fatal(err)
		}
		cmd := begin(t, dir, "busy")
		time.Sleep(time.Duration(round) * 170 * time.Millisecond) // anywhere in the middle of something
		kill(t, cmd)

		// Nobody is in charge, and requests still pass.
		ns, err := os.Open(filepath.Join(namespaces, p.gateway()))
		if err != nil {
			t.Fatal(err)
		}
		orphan := &Cloud{gateway: &gateway{ns: ns}}
		if got, err := ask(orphan, netip.MustParseAddr("198.51.100.1"), 80); got != "web-1" || err != nil {
			t.Errorf("after the kill the reserved IP answers %q, %v, want web-1", got, err)
		}
		ns.Close()
		before := tagged(t, p)

		c := open(t, Config{Dir: dir})
		for _, n := range []int{1, 2} {
			m := booted(t, c, spec(n, "").ID)
			if want := netip.AddrFrom4([4]byte{203, 0, 113, byte(n + 1)}); m.Public != want {
				t.Errorf("machine %d has the public address %s, want %s", n, m.Public, want)
			}
			in(t, c, m.ID, "sh", "-c", "nginx >/dev/null 2>&1") // started by hand the first time
		}
		if got, err := ask(c, netip.MustParseAddr("198.51.100.1"), 80); got != "web-1" || err != nil {
			t.Errorf("the reserved IP answers %q, %v, want web-1", got, err)
		}
		if _, err := ask(c, netip.MustParseAddr("203.0.113.3"), 80); err == nil {
			t.Error("the firewall of the second machine is gone")
		}
		all, err := c.Machines(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if !m.On {
				t.Errorf("machine %s is off", m.ID)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if left := tagged(t, p); len(left) > 0 {
			t.Errorf("left of\n%s\nis\n%s", strings.Join(before, "\n"), strings.Join(left, "\n"))
		}
		if err := Destroy(dir); err != nil {
			t.Fatal(err)
		}
	}
}
