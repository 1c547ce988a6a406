package heartbeat

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Prioritize has this whole process, and what it starts from now on, run before all that
// is not of real time (SCHED_FIFO). It needs CAP_SYS_NICE, or real time in the limits.
//
// It is for a process that does little else than run a [Monitor]. On a machine whose cores
// are all busy it is what keeps an instance from looking dead, to itself and to others:
// see BenchmarkBusy. A niceness does not do it, and neither does a priority for the one
// thread, since Go's scheduler makes it wait for the others.
func Prioritize() error {
	// Threads that are made while we look inherit the priority of who makes them: look
	// until there is none without.
	done := make(map[int]bool)
	for again := true; again; {
		again = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			id, err := strconv.Atoi(t.Name())
			if err != nil || done[id] {
				continue
			}
			err = unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
			if err != nil && err != unix.ESRCH {
				return os.NewSyscallError("sched_setattr", err)
			}
			done[id], again = true, true
		}
	}
	return nil
}
