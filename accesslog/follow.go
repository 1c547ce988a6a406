package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strconv"
	"time"

	"weir/weir"
)

// How much one follower costs: how many lines a second are sent, and how many are looked at. An agent may run before everything
// else on its machine, HAProxy included.
const (
	followRate = 500
	lookRate   = 2500
	slice      = 100 * time.Millisecond // of time, in which a share of both may pass
)

// recentMark ends the lines that were there before.
const recentMark = "{\"recent\":true}\n"

// Follow writes to w what q asks for, lines with their line feeds, and between them a [weir.LogMark] where one is due, until ctx
// or a Write ends it, or everything is written. Each Write is of whole lines. When it begins anew after a Write that
// failed, from says where it was: Follow sets it.
func (l *Log) Follow(ctx context.Context, q weir.LogQuery, from *Place, w io.Writer) error {
	r := l.read(0)
	defer r.close()
	f := follower{r: r, q: q}
	if from.begun {
		r.next = from.next
	} else {
		if _, err := w.Write(append(f.recent(ctx), recentMark...)); err != nil {
			return err
		}
		from.begun = true
	}
	from.next = r.next
	if !q.Follow {
		return nil
	}
	tick := time.NewTicker(slice)
	defer tick.Stop()
	for {
		if out := f.more(); len(out) > 0 {
			if _, err := w.Write(out); err != nil {
				return err
			}
			from.next = r.next
		}
		// One slice at least, so that many lines are one Write.
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
}

// Place is how far a follower has come. The zero value is the beginning.
type Place struct {
	begun bool
	next  uint64
}

type follower struct {
	r       *reader
	q       weir.LogQuery
	buf     []byte
	leftOut uint64 // and not yet said
}

// recent returns the last lines that there are, as many as are wanted of those that match.
func (f *follower) recent(ctx context.Context) []byte {
	now := f.r.next
	f.r.next = 0
	var found [][]byte
	for f.r.next < now {
		f.buf, _, _ = f.r.take(f.buf[:0], int(min(now-f.r.next, 256)), batch)
		if len(f.buf) == 0 {
			break
		}
		for line := range bytes.Lines(f.buf) {
			if f.matches(line) {
				found = append(found, bytes.Clone(line))
			}
		}
		if extra := len(found) - f.q.Recent; extra > 0 {
			found = found[extra:]
		}
		if !f.q.LogFilter.Any() {
			breathe(ctx)
		}
	}
	return bytes.Join(found, nil)
}

// breathe lets others run: to look at all lines takes long.
func breathe(ctx context.Context) {
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// more returns lines that have come, no more than may pass in a slice of time.
func (f *follower) more() []byte {
	const look, pass = int(lookRate * slice / time.Second), int(followRate * slice / time.Second)
	var out []byte
	passed, looked := 0, 0
	for looked < look {
		lines, missed := 0, uint64(0)
		f.buf, lines, missed = f.r.take(f.buf[:0], look-looked, batch)
		f.leftOut += missed
		if lines == 0 {
			break
		}
		looked += lines
		for line := range bytes.Lines(f.buf) {
			switch {
			case !f.matches(line):
			case passed < pass:
				passed++
				out = append(out, line...)
			default:
				f.leftOut++
			}
		}
	}
	if looked >= look { // the rest would be late for ever
		f.leftOut += f.r.skip()
	}
	if f.leftOut > 0 {
		out = append(strconv.AppendUint(append(out, `{"left_out":`...), f.leftOut, 10), "}\n"...)
		f.leftOut = 0
	}
	return out
}

// skip goes on with the lines that come from now on, and returns how many those before are.
func (r *reader) skip() uint64 {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	n := r.log.next - r.next
	r.next = r.log.next
	return n
}

func (f *follower) matches(line []byte) bool {
	if f.q.LogFilter.Any() {
		return true
	}
	if !bytes.Contains(line, []byte(f.q.RequestID)) { // one of millions
		return false
	}
	var l weir.AccessLine
	return json.Unmarshal(line, &l) == nil && f.q.Match(&l)
}
