package haproxy

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// niceness is that of HAProxy: it goes before whatever else its machine does.
const niceness = -10

// start is cmd.Start for what does the work of HAProxy. It has our niceness, where we may give it,
// and no real-time priority, which the agent may have: a process that serves everybody must not keep
// the rest of its machine from running.
func start(cmd *exec.Cmd) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with us, and nobody inherits what it is
		for _, nice := range []int32{niceness, 0} {
			if unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: nice}, 0) == nil {
				break
			}
		}
		done <- cmd.Start()
	}()
	return <-done
}

// promote has the kernel's automatic groups, where they are in use, prefer the session of a process as
// its niceness says, which is otherwise heeded among the processes of one session alone.
func promote(pid int) {
	os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), []byte(strconv.Itoa(niceness)), 0) // where it may be
}

// usage is what the threads of a master and its workers have had so far, all together.
type usage struct {
	ran    time.Duration
	waited time.Duration // for a CPU, as the kernel counts it: once the wait is over
	queued bool          // one of them could run at this moment, or does
}

// usageOf returns the usage of a master and its workers. It is zero where the kernel does not say: see
// proc_pid_schedstat and proc_pid_stat in its documentation.
func usageOf(master int) (u usage) {
	for _, pid := range append(children(master), master) {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue // it has just ended
		}
		for _, t := range threads {
			dir := fmt.Sprintf("/proc/%d/task/%s/", pid, t.Name())
			if text, err := os.ReadFile(dir + "schedstat"); err == nil {
				if f := strings.Fields(string(text)); len(f) == 3 {
					u.ran += time.Duration(atoi(f[0]))
					u.waited += time.Duration(atoi(f[1]))
				}
			}
			if text, err := os.ReadFile(dir + "stat"); err == nil {
				u.queued = u.queued || strings.HasPrefix(string(text[strings.LastIndexByte(string(text), ')')+1:]), " R")
			}
		}
	}
	return u
}

func children(pid int) (pids []int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	for _, word := range strings.Fields(string(text)) {
		pids = append(pids, atoi(word))
	}
	return pids
}

// hunger is how much HAProxy lacks CPU.
type hunger struct {
	pid   int
	at    time.Time
	usage usage         // then
	owed  time.Duration // of waiting that the kernel had not counted then
	waits time.Duration // for a CPU until then, with that
	share float64       // of the time, lately
	bad   bool
}

// What share of its time HAProxy waits for a CPU before it counts as starved, and when no longer. Where
// there is enough it is less than a hundredth.
const (
	starved = 0.1
	fed     = 0.02
)

// feel takes another look, some time after the last one.
func (h *hunger) feel(pid int, at time.Time, u usage) {
	owed := time.Duration(0)
	if h.pid == pid && u.waited >= h.usage.waited && at.After(h.at) { // otherwise a worker has ended, with what it had waited
		const memory = 2 * time.Second
		gap := at.Sub(h.at)
		owed = max(0, h.owed-(u.waited-h.usage.waited))
		if u.queued && u.ran-h.usage.ran < gap/2 {
			owed = max(owed, h.owed+gap-(u.waited-h.usage.waited)) // one of them waits still
		}
		waits := u.waited + owed
		weight := min(1, float64(gap)/float64(memory))
		h.share += weight * (float64(max(waits-h.waits, 0))/float64(gap) - h.share)
		h.bad = h.share >= starved || h.bad && h.share >= fed
	}
	h.pid, h.at, h.usage, h.owed, h.waits = pid, at, u, owed, u.waited+owed
}
