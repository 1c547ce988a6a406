package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// fates returns what befalls the machines of a region that is killed.
func fates() (interrupted, failed, done cloud.Spec) {
	// At its first run this asks for metadata until nobody answers, and fails of that.
	interrupted = spec(1, `echo run >>/runs
[ "$(wc -l </runs)" = 1 ] || exec curl -sf -o /dev/null http://169.254.169.254/metadata/v1/id
while curl -sf -m 5 -o /dev/null http://169.254.169.254/metadata/v1/id; do sleep 0.05; done
exit 7
`)
	return interrupted, spec(2, "echo run >>/runs; exit 3"), spec(3, "echo run >>/runs")
}

// watchful lives until one machine's user-data has failed before its eyes, another's is
// done, and a third's has begun.
func watchful(ctx context.Context, c *Cloud) {
	interrupted, failed, done := fates()
	for _, s := range []cloud.Spec{interrupted, failed, done} {
		_, err := c.CreateMachine(ctx, s)
		die(err)
	}
	for {
		var seen record
		die(readJSON(c.paths.machine(failed.ID)+"/machine.json", &seen))
		_, err := try(c, interrupted.ID, "test", "-s", "/runs")
		if err == nil && seen.Failed && readBoot(c.paths.bootOf(done.ID)).State == weir.BootDone {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("ready")
	select {}
}

func TestUserDataThatFailedWhileItsRegionWasDeadRunsAgain(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	kill(t, begin(t, dir, "watchful"))
	interrupted, failed, done := fates()
	p, err := newPaths(dir)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "user-data fails of its region's death", func() error {
		if b := readBoot(p.bootOf(interrupted.ID)); b.State != weir.BootFailed {
			return fmt.Errorf("it is %+v", b)
		}
		return nil
	})

	c := open(t, Config{Dir: dir})
	booted(t, c, interrupted.ID)
	for _, want := range []struct {
		spec  cloud.Spec
		state weir.BootState
		runs  string
	}{
		{interrupted, weir.BootDone, "run\nrun"}, {failed, weir.BootFailed, "run"}, {done, weir.BootDone, "run"},
	} {
		sh(t, c, want.spec.ID, "cloud-init status --wait || true")
		if b := look(t, c, want.spec.ID).Boot; b.State != want.state {
			t.Errorf("%q: boot is %+v, want %s", want.spec.UserData, b, want.state)
		}
		if got := sh(t, c, want.spec.ID, "cat /runs"); got != want.runs {
			t.Errorf("%q: it has run %q, want %q", want.spec.UserData, got, want.runs)
		}
	}
}

func TestUserDataThatFailedStaysFailed(t *testing.T) {
	dir := t.TempDir()
	s := spec(1, "echo run >>/runs; exit 3")
	c := open(t, Config{Dir: dir})
	if _, err := c.CreateMachine(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	ended(t, c, s.ID)
	// A machine that dies at once leaves its failure to be seen.
	c.mu.Lock()
	pid := c.machines[s.ID].run.init.pid
	c.mu.Unlock()
	if err := errors.Join(syscall.Kill(pid, syscall.SIGKILL), c.Close()); err != nil {
		t.Fatal(err)
	}
	c = open(t, Config{Dir: dir})
	sh(t, c, s.ID, "cloud-init status --wait || true")
	if got, runs := look(t, c, s.ID).Boot, sh(t, c, s.ID, "cat /runs"); got.State != weir.BootFailed || runs != "run" {
		t.Errorf("after its region was closed and opened the boot is %+v, and has run %q, want it failed and to have run once", got, runs)
	}
}

func TestMachineIgnoresNoSignalBecauseItsRegionDoes(t *testing.T) {
	needRoot(t)
	// As nohup does, and a script's &. It is runc that lets go of them.
	ignored := []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM}
	signal.Ignore(ignored...)
	if mask, err := exec.Command("sed", "-n", `s/SigIgn:[[:space:]]*//p`, "/proc/self/status").Output(); err != nil || none(string(mask)) {
		t.Fatalf("a process that we start ignores %q, %v: this test ignores nothing", mask, err)
	}
	t.Cleanup(func() { // Reset would leave them ignored
		heard := make(chan os.Signal, 1)
		signal.Notify(heard, ignored...)
		signal.Stop(heard)
	})
	c := open(t, Config{})
	m := create(t, c, spec(1, "grep SigIgn /proc/self/status >/ignores; touch /run/before"))
	if got := sh(t, c, m.ID, "sed 's/.*[[:space:]]//' /ignores"); !none(got) {
		t.Errorf("its user-data ignores signals: %s", got)
	}
	if got := sh(t, c, m.ID, "sed -n 's/SigIgn:[[:space:]]*//p' /proc/1/status"); !none(got) {
		t.Errorf("its init ignores signals: %s", got)
	}
	_, _ = try(c, m.ID, "reboot") // by INT; the machine may go before it can answer
	eventually(t, "it reboots", func() error {
		if _, err := try(c, m.ID, "test", "-e", "/run/before"); err == nil {
			return errors.New("it has not")
		}
		return nil
	})
	if err := c.PowerOff(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
}

// none reports whether a mask of signals, as /proc has it, is empty but for the C library's
// own, 32 and 33: what was inherited of them nobody can restore.
func none(mask string) bool {
	var set uint64
	n, err := fmt.Sscanf(strings.TrimSpace(mask), "%x", &set)
	return n == 1 && err == nil && set&^(3<<31) == 0
}

func TestRoomRefusesWhatCanNeverBeMade(t *testing.T) {
	c := open(t, Config{})
	for userData, why := range map[string]string{
		"echo hello":                             `begins with "echo hello"`,
		"#cloud-config\nruncmd: [ls]\nruncmd: 1": `line 3: mapping key "runcmd" already defined`,
	} {
		for n := range 2 {
			err := c.Room(t.Context(), droplet(1, userData).Template, n)
			if !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), why) {
				t.Errorf("room for %d machines with user-data %q: error %v, want one that is invalid and says %q", n, userData, err, why)
			}
		}
	}
	if err := c.Room(t.Context(), droplet(1, "#cloud-config\nruncmd: [ls]\n").Template, 1); err != nil {
		t.Errorf("room for a machine with a cloud-config: %v", err)
	}
}
