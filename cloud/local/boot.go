package local

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"weir/weir"
)

const (
	endLines = 15      // how much of a failed boot's log is shown
	endBytes = 8 << 10 // and at most
)

// readBoot returns what a machine's init says of its first boot in dir. What is in dir is
// the machine's to write, and is not to be trusted.
func readBoot(dir string) weir.Boot {
	boot := weir.Boot{State: weir.BootRunning, Log: filepath.Join(dir, "log")}
	status, err := readEnd(filepath.Join(dir, "status"), 1024)
	if errors.Is(err, fs.ErrNotExist) {
		return boot // init is not that far
	}
	if err != nil {
		return weir.Boot{State: weir.BootFailed, Why: "its status cannot be read", Log: boot.Log}
	}
	line, _, _ := strings.Cut(string(status), "\n")
	state, why, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch weir.BootState(state) {
	case weir.BootRunning:
	case weir.BootDone:
		boot.State = weir.BootDone
	default:
		boot.State, boot.Why = weir.BootFailed, printable(why)
		if state != string(weir.BootFailed) {
			boot.Why = "its status is not one"
		}
		end, _ := readEnd(boot.Log, endBytes) // no log is an empty one
		boot.End = lastLines(printable(string(end)), endLines)
	}
	return boot
}

// glance is how often a machine that boots for the first time is looked at.
const glance = 200 * time.Millisecond

// witness looks at m's first boot until it has come to its end.
//
// A failure counts if a living region saw it, and is on record then. User-data that
// outlives a region which was killed fails as often as not because of that: nobody answers
// for the metadata or behind the gateway. So the next Open doubts what none saw.
func (c *Cloud) witness(m *machine, r *run) {
	for !c.judge(m) {
		select {
		case <-time.After(glance):
		case <-r.ended:
			return
		case <-c.watching.Done():
			return
		}
	}
}

// judge puts it on record if m's first boot has failed, and reports whether there is
// nothing left to wait for.
func (c *Cloud) judge(m *machine) bool {
	c.mu.Lock()
	id, known := m.record.ID, m.record.Failed
	c.mu.Unlock()
	if known {
		return true
	}
	switch readBoot(c.paths.bootOf(id)).State {
	case weir.BootRunning:
		return false
	case weir.BootFailed:
		err := c.change(m, func(r *record) { r.Failed = true }, nil)
		if err != nil && !errors.Is(err, weir.NotFound) {
			c.log.Warn("failed boot not on record, its user-data may run again", "machine", id, "err", err)
		}
	}
	return true
}

// doubt has init run the user-data of m again if it failed and no region saw that. Nothing
// of m runs.
func (c *Cloud) doubt(m *machine) {
	dir := c.paths.bootOf(m.record.ID)
	if m.record.Failed || readBoot(dir).State != weir.BootFailed {
		return
	}
	err := renameio.WriteFile(filepath.Join(dir, "status"), []byte(weir.BootRunning+"\n"), 0o644)
	if err != nil {
		c.log.Warn("user-data whose end nobody saw cannot run again", "machine", m.record.ID, "err", err)
	}
}

// readEnd returns the last bytes of a file, up to limit. It follows no link, and waits for
// nothing: the name may be anything by now.
func readEnd(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("it is not a regular file")}
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-limit), limit))
}

// lastLines returns the last n lines of text, without what follows the last of them.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// printable returns text without what would move a terminal's cursor or change its colours.
func printable(text string) string {
	return string(bytes.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return -1
		}
		return r
	}, bytes.ToValidUTF8([]byte(text), []byte("?"))))
}
