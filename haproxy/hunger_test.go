package haproxy

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// A HAProxy whose machine gives it next to no CPU answers late. To end it would only make that worse.
func TestHAProxyThatWaitsForItsTurnIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits := func(share float64) func(time.Duration) usage {
			return func(d time.Duration) usage { return usage{waited: time.Duration(share * float64(d))} }
		}
		for _, test := range []struct {
			what     string
			use      func(time.Duration) usage
			err, end time.Duration
		}{
			{"wedged", waits(0), pulseMiss, pulseEnd},
			{"waits a little", waits(starved / 2), pulseMiss, pulseEnd},
			{"waits for its turn, again and again", waits(2 * starved), pulseAtAll, pulseAtAll},
			{"waits for its turn all the time", func(time.Duration) usage { return usage{queued: true} }, pulseAtAll, pulseAtAll},
			{"runs all the time", func(d time.Duration) usage { return usage{queued: true, ran: d} }, pulseMiss, pulseEnd},
		} {
			p := &Proxy{changed: make(chan struct{}, 1)}
			p.pulse.begins(7)
			began := time.Now()
			var err, end time.Duration
			for end == 0 && time.Since(began) < time.Minute {
				time.Sleep(pulseEvery)
				silent := time.Since(began)
				ended := p.felt(false, 7, test.use(silent))
				if err == 0 && p.pulse.why() != "" {
					err = silent
				}
				if ended {
					end = silent
				}
			}
			if err != test.err || end != test.end {
				t.Errorf("%s: it counts as not serving after %v, and is ended after %v, want %v and %v", test.what, err, end, test.err, test.end)
			}
		}
	})
}

func TestHAProxyThatIsStarvedIsNoticed(t *testing.T) {
	p, _ := startProxy(t, Options{})
	set(t, p, testDocument(freeAddr(t)))
	before, _ := status(t, p)
	all, only := new(unix.CPUSet), new(unix.CPUSet)
	if err := unix.SchedGetaffinity(0, all); err != nil {
		t.Fatal(err)
	}
	first := 0
	for !all.IsSet(first) {
		first++
	}
	only.Set(first)

	put := func(policy uint32, on *unix.CPUSet) {
		t.Helper()
		for _, pid := range []int{masterOf(t, p), before.PID} {
			threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			if err != nil {
				t.Fatal(err)
			}
			for _, thread := range threads {
				id, _ := strconv.Atoi(thread.Name())
				if err := unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}, 0); err != nil {
					t.Fatal(err)
				}
				if err := unix.SchedSetaffinity(id, on); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	put(unix.SCHED_IDLE, only)
	os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", before.PID), []byte("19"), 0)
	busy := exec.Command("taskset", "--cpu-list", strconv.Itoa(first), "nice", "--adjustment", "-20", "sh", "-c", "while :; do :; done")
	busy.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // so that how this test is run does not matter
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { busy.Process.Kill(); busy.Wait() }()
	os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", busy.Process.Pid), []byte("-20"), 0)
	eventually(t, func() string {
		if !p.pulse.isStarved() {
			return "nobody has noticed that HAProxy lacks CPU"
		}
		return ""
	})
	busy.Process.Kill()
	put(unix.SCHED_NORMAL, all)
	if h, _ := status(t, p); h.PID != before.PID || h.Err != "" {
		t.Errorf("worker %d (%q) after a time of want, want %d still", h.PID, h.Err, before.PID)
	}
}

func TestHAProxyGoesBeforeOthers(t *testing.T) {
	p, _ := startProxy(t, Options{})
	set(t, p, testDocument(freeAddr(t)))
	h, _ := status(t, p)
	for _, pid := range []int{masterOf(t, p), h.PID} {
		a, err := unix.SchedGetAttr(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		want := int32(niceness)
		if os.Geteuid() != 0 {
			want = 0
		}
		if a.Policy != unix.SCHED_NORMAL || a.Nice != want {
			t.Errorf("process %d has policy %d and niceness %d, want %d and %d", pid, a.Policy, a.Nice, unix.SCHED_NORMAL, want)
		}
	}
}

func TestHungerIsAShareOfTheTimeLately(t *testing.T) {
	var h hunger
	at, sum := time.Unix(1000, 0), time.Duration(0)
	step := func(n int, waits time.Duration) {
		for range n {
			at, sum = at.Add(100*time.Millisecond), sum+waits
			h.feel(7, at, usage{waited: sum})
		}
	}
	for _, test := range []struct {
		what  string
		n     int
		waits time.Duration
		bad   bool
	}{
		{"at rest", 50, 100 * time.Microsecond, false},
		{"one long wait", 1, 50 * time.Millisecond, false},
		{"waits again and again", 50, 30 * time.Millisecond, true},
		{"and a little less", 50, 4 * time.Millisecond, true},
		{"at rest again", 100, 0, false},
	} {
		step(test.n, test.waits)
		if h.bad != test.bad {
			t.Errorf("%s: starved is %v at a share of %.3f, want %v", test.what, h.bad, h.share, test.bad)
		}
	}
	step(50, 50*time.Millisecond)
	share := h.share
	h.feel(8, at.Add(time.Second), usage{waited: time.Hour}) // another process
	h.feel(8, at.Add(2*time.Second), usage{})                // a worker of it has ended
	if h.share != share {
		t.Errorf("what another process waited counts: %.3f, want %.3f", h.share, share)
	}
}
