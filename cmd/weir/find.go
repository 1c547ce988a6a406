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

// A running weir dev or weir serve keeps a record of itself in a directory of the machine,
// so that the verbs find it.

// record is what a control plane says of itself.
type record struct {
	Kind      string `json:"kind"`       // "weir dev" or "weir serve"
	API       string `json:"api"`        // its URL
	CAFile    string `json:"ca_file"`    // who its certificate is from; empty if it has none, or one that all systems trust
	Data      string `json:"data"`       // its directory
	TokenFile string `json:"token_file"` // a token for the API, for those who can read it
	PID       int    `json:"pid"`        // publish sets it …
	Start     string `json:"start"`      // … and this, when the process started: pids are given again
}

// recordRoot has the directories in which records are, one for each kind of process: serve
// need not run as root, and has a directory of its own there. WEIR_RUN_DIR names another.
func recordRoot() string {
	if dir := os.Getenv("WEIR_RUN_DIR"); dir != "" {
		return dir
	}
	return "/run/weir"
}

// publish lets the verbs of this machine find this process by r, until remove is called
// or the process is gone. verb is what it was started by, dev or serve.
func publish(verb string, r record) (remove func(), err error) {
	return publishIn(filepath.Join(recordRoot(), verb), r)
}

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
	files, err := filepath.Glob(filepath.Join(recordRoot(), "*", "*.json"))
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

// readRecord reads a record that root, we ourselves or somebody whom root has given the
// directory wrote. From anybody else it would be a way to have our token sent to them.
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
	if owner := ownerOf(info); owner != 0 && owner != os.Geteuid() && !appointed(owner, filepath.Dir(file)) {
		return r, nil
	}
	if err := json.NewDecoder(f).Decode(&r); err != nil {
		return record{}, nil // not one of ours
	}
	return r, nil
}

// appointed reports whether root made a directory for records and gave it to a user: one
// that root alone can make.
func appointed(user int, dir string) bool {
	info, err := os.Stat(dir)
	if err != nil || ownerOf(info) != user {
		return false
	}
	above, err := os.Stat(filepath.Dir(dir))
	return err == nil && ownerOf(above) == 0 && above.Mode().Perm()&0o022 == 0
}

func ownerOf(info os.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// find returns the control plane that runs on this machine.
func find() (record, error) {
	running, err := published()
	if err != nil {
		return record{}, err
	}
	switch len(running) {
	case 0:
		return record{}, errors.New("neither weir dev nor weir serve runs on this machine: start one with `sudo weir dev`, or say where the API is with --api or WEIR_API")
	case 1:
		return running[0], nil
	}
	var all []string
	for _, r := range running {
		all = append(all, fmt.Sprintf("%s (%s, data in %s)", r.API, r.Kind, r.Data))
	}
	return record{}, fmt.Errorf("%d control planes run on this machine: %s: say which with --api", len(running), strings.Join(all, ", "))
}

// startOf returns when a process started, in words that differ from those of any other
// process with its pid, or "" if there is none.
func startOf(pid int) string {
	_, start, _ := strings.Cut(strings.TrimSpace(processRecord(pid)), " ")
	return start
}
