package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
)

// A running weir dev keeps a record of itself in one directory of the machine, so that
// the verbs find it.

// record is what a weir dev says of itself.
type record struct {
	API       string `json:"api"`        // its URL
	Data      string `json:"data"`       // its directory
	TokenFile string `json:"token_file"` // a token for the API, for those who can read it
	PID       int    `json:"pid"`        // publish sets it …
	Start     string `json:"start"`      // … and this, when the process started: pids are given again
}

// recordDir is where records are. WEIR_RUN_DIR names another place.
func recordDir() string {
	if dir := os.Getenv("WEIR_RUN_DIR"); dir != "" {
		return dir
	}
	return "/run/weir/dev"
}

// publish lets the verbs of this machine find this process by r, until remove is called
// or the process is gone.
func publish(r record) (remove func(), err error) { return publishIn(recordDir(), r) }

func publishIn(dir string, r record) (remove func(), err error) {
	r.PID = os.Getpid()
	r.Start = startOf(r.PID)
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("publish where the API is: %w", err)
	}
	forgetDead(dir)
	file := filepath.Join(dir, fmt.Sprintf("%d.json", r.PID))
	if err := renameio.WriteFile(file, b, 0o644); err != nil {
		return nil, fmt.Errorf("publish where the API is: %w", err)
	}
	return func() { os.Remove(file) }, nil // what stays is found to be stale
}

// forgetDead removes the records that killed processes have left.
func forgetDead(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	for _, file := range files {
		if r, err := readRecord(file); err == nil && !r.runs() {
			os.Remove(file) // if it cannot be, it is still found to be stale
		}
	}
}

// runs reports whether the process that wrote r is alive.
func (r *record) runs() bool { return r.PID > 0 && r.Start != "" && startOf(r.PID) == r.Start }

// published returns the records of all that run.
func published() ([]record, error) {
	files, err := filepath.Glob(filepath.Join(recordDir(), "*.json"))
	if err != nil {
		return nil, err
	}
	var running []record
	for _, file := range files {
		r, err := readRecord(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has just ended
		}
		if err != nil {
			return nil, err
		}
		if r.runs() {
			running = append(running, r)
		}
	}
	return running, nil
}

// readRecord reads a record that root or we ourselves wrote. From anybody else it
// would be a way to have our token sent to them.
func readRecord(file string) (r record, err error) {
	f, err := os.Open(file)
	if err != nil {
		return r, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return r, err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 && int(owner) != os.Geteuid() {
		return r, nil
	}
	if err := json.NewDecoder(f).Decode(&r); err != nil {
		return record{}, nil // not one of ours
	}
	return r, nil
}

// find returns the weir dev that runs on this machine.
func find() (record, error) {
	running, err := published()
	if err != nil {
		return record{}, err
	}
	switch len(running) {
	case 0:
		return record{}, errors.New("no weir dev runs on this machine: start one with `sudo weir dev`, or say where the API is with --api or WEIR_API")
	case 1:
		return running[0], nil
	}
	var all []string
	for _, r := range running {
		all = append(all, fmt.Sprintf("%s (data in %s)", r.API, r.Data))
	}
	return record{}, fmt.Errorf("%d of weir dev run on this machine: %s: say which with --api", len(running), strings.Join(all, ", "))
}

// startOf returns when a process started, in words that differ from those of any other
// process with its pid, or "" if there is none.
func startOf(pid int) string {
	_, start, _ := strings.Cut(strings.TrimSpace(processRecord(pid)), " ")
	return start
}
