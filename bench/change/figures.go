package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// spread is what several runs of one measurement gave.
type spread struct{ min, median, max time.Duration }

func spreadOf(took []time.Duration) spread {
	s := sorted(took)
	return spread{s[0], s[len(s)/2], s[len(s)-1]}
}

func sorted(took []time.Duration) []time.Duration {
	s := slices.Clone(took)
	slices.Sort(s)
	return s
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

// cpuOf returns the CPU time of a process so far, 0 if there is none.
func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(after)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100 // ticks of USER_HZ
}

// rssOf returns the resident memory of a process in MiB, and how much of it is its own
// rather than pages of its program's file.
func rssOf(pid int) (all, anon float64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "VmRSS:":
			all = kb / 1024
		case "RssAnon:":
			anon = kb / 1024
		}
	}
	return all, anon
}

// countHAProxies returns how many HAProxy processes there are on this machine.
func countHAProxies() (n int) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && string(b) == "haproxy\n" {
			n++
		}
	}
	return n
}
