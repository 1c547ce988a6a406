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

// waited returns how long the threads of a master and its workers have waited for a CPU so far, all
// together. It is 0 where the kernel does not say: see proc_pid_schedstat in its documentation.
func waited(master int) (d time.Duration) {
	for _, pid := range append(children(master), master) {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue // it has just ended
		}
		for _, t := range threads {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
			if f := strings.Fields(string(stat)); err == nil && len(f) == 3 {
				d += time.Duration(atoi(f[1]))
			}
		}
	}
	return d
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
	sum   time.Duration // waited until then
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
func (h *hunger) feel(pid int, at time.Time, sum time.Duration) {
	if h.pid == pid && sum >= h.sum && at.After(h.at) { // otherwise a worker has ended, with what it had waited
		const memory = 2 * time.Second
		gap := at.Sub(h.at)
		weight := min(1, float64(gap)/float64(memory))
		h.share += weight * (float64(sum-h.sum)/float64(gap) - h.share)
		h.bad = h.share >= starved || h.bad && h.share >= fed
	}
	h.pid, h.at, h.sum = pid, at, sum
}
