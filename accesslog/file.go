package accesslog

import (
	"context"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
)

// How large files become, and how many older ones are kept. They are not compressed: an agent may run before everything else
// on its machine, and so much work would keep HAProxy waiting.
const (
	fileMegabytes = 50
	oldFiles      = 5
)

// batch is how many bytes of lines are written at once.
const batch = 64 << 10

// keep writes lines to a file until ctx ends.
func (l *Log) keep(ctx context.Context) {
	file := &lumberjack.Logger{Filename: l.fileName(), MaxSize: fileMegabytes, MaxBackups: oldFiles}
	defer file.Close()
	r := l.read(0)
	defer r.close()
	var buf []byte
	for {
		var lines int
		var missed uint64
		buf, lines, missed = r.take(buf[:0], mostLines, batch)
		l.unfiled(missed)
		if lines == 0 {
			if r.wait(ctx) != nil {
				return
			}
			continue
		}
		if _, err := file.Write(buf); err != nil {
			l.unfiled(uint64(lines))
			l.trouble("access log not written", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
		}
	}
}

func (l *Log) unfiled(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Unfiled += int64(n)
}
