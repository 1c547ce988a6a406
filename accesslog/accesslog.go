// Package accesslog does with the lines of an access log what its owner wants: it remembers the last ones, for whoever asks;
// keeps them in a file that it rotates, sends them to a syslog server, and counts how long requests took.
//
// [Log.Take] takes a line, and never waits. All who want lines read them from the same memory, each at their own pace;
// one that is too slow for what comes misses lines, and knows how many. Memory is bounded, whatever is in the lines.
package accesslog

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"weir/weir"
)

const (
	mostLines = 8192    // that are remembered
	mostBytes = 8 << 20 // likewise
	roomy     = 2 << 10 // bytes: a place that had a longer line is not kept for the next one
)

// Options say where a Log works.
type Options struct {
	Dir string // where its files are
	Log *slog.Logger

	// Dial opens connections; nil is the network's usual way.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Log is the access log of one instance. It remembers nothing of a former one.
type Log struct {
	Options
	changed chan struct{} // to Run: want is another, perhaps

	mu      sync.Mutex
	want    *weir.AccessLog // nil: there is to be none
	who     weir.ID         // the instance
	lines   [][]byte        // a ring: that of number n is at n modulo its length
	first   uint64          // the number of the oldest line that is there
	next    uint64          // that of the line that comes next
	bytes   int             // of all lines
	readers map[*reader]struct{}
	counts  weir.AccessCounts
	failing map[string]time.Time // what went wrong lately, and was said when
}

// New returns a Log that remembers lines. [Log.Run] does the rest.
func New(o Options) *Log {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	return &Log{Options: o, changed: make(chan struct{}, 1), lines: make([][]byte, mostLines), readers: map[*reader]struct{}{},
		counts: weir.AccessCounts{Since: time.Now().UTC()}, failing: map[string]time.Time{}}
}

// Set says what becomes of lines from now on, and which machine they are of. Want is nil if there is to be no log.
func (l *Log) Set(want *weir.AccessLog, instance weir.ID) {
	l.mu.Lock()
	l.want, l.who = want, instance
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Wanted reports whether there is to be an access log.
func (l *Log) Wanted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.want != nil
}

// Counts returns what was counted, nil if there is to be no log.
func (l *Log) Counts() *weir.AccessCounts {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.want == nil {
		return nil
	}
	c := l.counts
	c.Response.Counts = append([]int64(nil), c.Response.Counts...)
	c.Total.Counts = append([]int64(nil), c.Total.Counts...)
	return &c
}

// Take takes a line, an object of JSON without a line feed, which is copied; and how long its request took until the
// answer began, and in all, each negative if it did not come so far. It never waits for anybody.
func (l *Log) Take(text []byte, response, total time.Duration) {
	good := whole(text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !good {
		l.counts.Malformed++
		return
	}
	if response >= 0 {
		l.counts.Response.Add(response)
	}
	if total >= 0 {
		l.counts.Total.Add(total)
	}
	l.counts.Lines++
	if l.next-l.first == mostLines {
		l.forget()
	}
	at := &l.lines[l.next%mostLines]
	line := append((*at)[:0], text[:len(text)-1]...)
	line = append(line, `,"instance":"`...)
	for _, c := range []byte(l.who) {
		if c >= ' ' && c != '"' && c != '\\' && c < 0x7f { // as all characters of IDs are
			line = append(line, c)
		}
	}
	*at = append(line, "\"}\n"...)
	l.bytes += len(*at)
	l.next++
	for l.bytes > mostBytes {
		l.forget()
	}
	for r := range l.readers {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// whole reports whether a line is an object that was not cut off, with all its strings closed and nothing in it that could end the
// line. To read all of it as JSON takes ten times as long, for each request there is.
func whole(line []byte) bool {
	if len(line) < 2 || line[0] != '{' || line[len(line)-1] != '}' {
		return false
	}
	inString := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c < ' ':
			return false
		case c == '"':
			inString = !inString
		case c == '\\' && inString:
			i++ // whatever is escaped
		}
	}
	return !inString
}

// forget forgets the oldest line. The caller holds l.mu.
func (l *Log) forget() {
	at := &l.lines[l.first%mostLines]
	l.bytes -= len(*at)
	if cap(*at) > roomy {
		*at = nil
	}
	*at = (*at)[:0]
	l.first++
}

// reader reads lines one after the other.
type reader struct {
	log  *Log
	next uint64
	wake chan struct{} // there are more
}

// read begins to read, recent lines back from now. The caller calls close.
func (l *Log) read(recent int) *reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &reader{l, max(l.next, uint64(recent)) - uint64(recent), make(chan struct{}, 1)}
	r.next = max(r.next, l.first)
	l.readers[r] = struct{}{}
	return r
}

func (r *reader) close() {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	delete(r.log.readers, r)
}

// take appends lines to buf, at most as many and about as many bytes, each with its line feed; and returns how many those
// are, and how many it missed before.
func (r *reader) take(buf []byte, most, bytes int) (_ []byte, lines int, missed uint64) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.next < l.first {
		missed, r.next = l.first-r.next, l.first
	}
	for ; r.next < l.next && lines < most && len(buf) < bytes; r.next++ {
		buf = append(buf, l.lines[r.next%mostLines]...)
		lines++
	}
	return buf, lines, missed
}

// wait waits until there are lines, or ctx ends.
func (r *reader) wait(ctx context.Context) error {
	select {
	case <-r.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run keeps files and sends lines to syslog as it is told to, until ctx ends.
func (l *Log) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := func() {}
	defer func() { stop() }()
	var is weir.AccessLog
	for {
		l.mu.Lock()
		var want weir.AccessLog
		if l.want != nil {
			want = *l.want
		}
		l.mu.Unlock()
		if want.File != is.File || want.Syslog != is.Syslog {
			stop()
			wg.Wait()
			its, cancel := context.WithCancel(ctx)
			is, stop = want, cancel
			if want.File {
				wg.Go(func() { l.keep(its) })
			}
			if want.Syslog != "" {
				wg.Go(func() { l.ship(its, want) })
			}
		}
		select {
		case <-l.changed:
		case <-ctx.Done():
			return
		}
	}
}

// fileName is that of the newest file.
func (l *Log) fileName() string { return filepath.Join(l.Dir, "access.log") }

// trouble says what went wrong, once a minute for each thing.
func (l *Log) trouble(what string, err error, more ...any) {
	l.mu.Lock()
	quiet := time.Since(l.failing[what]) < time.Minute
	if !quiet {
		l.failing[what] = time.Now()
	}
	l.mu.Unlock()
	if !quiet {
		l.Options.Log.Warn(what, append([]any{"err", err}, more...)...)
	}
}
