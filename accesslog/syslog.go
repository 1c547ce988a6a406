package accesslog

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"weir/weir"
)

const (
	sendTime    = 10 * time.Second // for some lines to be sent
	longestWait = 30 * time.Second // before trying again
	begin       = "<134>1 "        // local0, info; version 1
	udpLength   = 8 << 10          // bytes of a message by UDP: what is longer few take, and is cut off
)

// ship sends lines to a syslog server until ctx ends.
func (l *Log) ship(ctx context.Context, want weir.AccessLog) {
	network, addr, err := want.Destination()
	if err != nil {
		l.trouble("access log not sent", err)
		return
	}
	r := l.read(0)
	defer r.close()
	again := backoff.NewExponentialBackOff()
	again.InitialInterval, again.MaxInterval = 200*time.Millisecond, longestWait
	for ctx.Err() == nil {
		err := l.shipOn(ctx, r, network, addr, again.Reset)
		if ctx.Err() != nil {
			return
		}
		l.trouble("access log not sent", err, "to", want.Syslog)
		select {
		case <-time.After(again.NextBackOff()):
		case <-ctx.Done():
		}
	}
}

// shipOn sends lines on one connection until it breaks. What is in its buffers by then is lost, for syslog has no
// confirmations.
func (l *Log) shipOn(ctx context.Context, r *reader, network, addr string, works func()) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	c, err := l.Dial(ctx, network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if network == "tcp" {
		wg.Go(func() { hangs(c, cancel) })
	}
	head := header()
	var buf, out []byte
	for {
		var lines int
		var missed uint64
		buf, lines, missed = r.take(buf[:0], 256, batch)
		l.unsent(missed)
		if lines == 0 {
			if r.wait(ctx) != nil {
				return context.Cause(ctx)
			}
			continue
		}
		if err := c.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
			return err
		}
		out = out[:0]
		for line := range bytes.Lines(buf) {
			line = line[:len(line)-1]
			if network == "tcp" {
				out = appendFramed(out, head, line)
				continue
			}
			message := appendMessage(out[:0], head, line)
			if _, err := c.Write(message[:min(len(message), udpLength)]); err != nil {
				l.unsent(1)
				if errors.Is(err, syscall.ECONNREFUSED) {
					l.trouble("access log not taken", err, "to", addr)
					continue // nobody was there a moment ago; there may be now
				}
				return err
			}
		}
		if len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				l.unsent(uint64(lines))
				return err
			}
		}
		works()
	}
}

// hangs waits until the other side ends a connection: it has nothing else to say.
func hangs(c net.Conn, cancel context.CancelCauseFunc) {
	var b [512]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			cancel(errors.New("the server has closed the connection"))
			return
		}
	}
}

func (l *Log) unsent(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Unsent += int64(n)
}

// header returns what is between the time and the line of a message of RFC 5424.
func header() []byte {
	host, err := os.Hostname()
	if err != nil || host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' }) {
		host = "-"
	}
	return []byte(" " + host + " weir - access - ")
}

// timeOf returns the time of a line as it has it, which is as RFC 5424 wants it.
func timeOf(line []byte) []byte {
	rest, ok := bytes.CutPrefix(line, []byte(`{"time":"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 1 || end > 40 {
		return []byte("-")
	}
	return rest[:end]
}

func appendMessage(out, head, line []byte) []byte {
	out = append(out, begin...)
	out = append(out, timeOf(line)...)
	out = append(out, head...)
	return append(out, line...)
}

// appendFramed appends a message with its length before it (RFC 6587), as streams have it.
func appendFramed(out, head, line []byte) []byte {
	out = strconv.AppendInt(out, int64(len(begin)+len(timeOf(line))+len(head)+len(line)), 10)
	out = append(out, ' ')
	return appendMessage(out, head, line)
}
