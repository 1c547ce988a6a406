package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// leanMemory trades a little CPU for memory: the agent shares a small machine with the
// HAProxy that needs it. Half of the binary is the control plane's, and starting up
// touches most of it: those pages are given back, and read again if ever they are needed.
func leanMemory() {
	debug.SetGCPercent(50)
	forgetProgram()
}

// forgetProgram gives back the pages of this program's own file that nobody can have
// written to. An error costs memory and nothing else.
func forgetProgram() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		var from, to uintptr
		var access string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &access); n != 3 || !strings.HasSuffix(line, exe) {
			continue
		}
		if access == "r--p" || access == "r-xp" {
			unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
