package heartbeat

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"weir/weir"
)

const (
	askEvery = 15 * time.Millisecond
	askGrace = time.Millisecond // to read what has arrived when we were late
	askTwice = 2                // one stray error proves nothing, nor one lost packet
)

// Ask asks the instance at the other end of conn, a connected UDP socket, until it answers
// or ctx ends, and returns who answered what. Answers must be made with key; self is who
// asks.
//
// The error is a weir.Unavailable, and tells what was seen: Refused or Unreachable as soon
// as two questions in a row have got that error, and Silent if two or more had their time
// and none was answered when ctx's deadline came. If ctx ends before two questions had
// their 15 ms, by our own slowness too, the error says nothing of the other end and wraps
// ctx's. Ask leaves conn without a deadline, and does not close it.
func Ask(ctx context.Context, conn net.Conn, key []byte, self weir.ID) (weir.ID, Answer, error) {
	q := question{conn: conn, seal: newSeal(key), self: self, asked: make(map[uint64]bool)}
	defer conn.SetDeadline(time.Time{})
	rand.Read(q.start[:])
	who, answer, err := q.ask(ctx)
	if err != nil {
		return "", Answer{}, weir.Errorf(weir.Unavailable, "ask %s: %w", conn.RemoteAddr(), err)
	}
	return who, answer, nil
}

type question struct {
	conn  net.Conn
	seal  *seal
	self  weir.ID
	start [8]byte
	asked map[uint64]bool
	buf   [maxSize + 1]byte
}

func (q *question) ask(ctx context.Context) (weir.ID, Answer, error) {
	end, timed := ctx.Deadline()
	seq := binary.NativeEndian.Uint64(q.start[:])
	var faults, silences int
	var last weir.PathState
	for ctx.Err() == nil {
		seq++
		q.asked[seq] = true
		next := time.Now().Add(askEvery)
		if timed && end.Before(next) {
			next = end
		}
		_, err := q.conn.Write(q.seal.append(q.buf[:0], kindBeat, seq, Answer{}, q.self))
		whole := time.Until(next) > askEvery/2
		var who weir.ID
		var answer Answer
		if err == nil {
			who, answer, err = q.read(next)
		}
		state := fault(err)
		switch {
		case err == nil:
			return who, answer, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			faults = 0
			if whole {
				silences++
			}
			continue
		case state == "":
			return "", Answer{}, err
		case state != last:
			faults = 0
		}
		last = state
		if faults++; faults >= askTwice {
			return "", Answer{}, fmt.Errorf("%w: %w", Lost(state), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(next)):
		}
	}
	if silences >= askTwice && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return "", Answer{}, Silent
	}
	return "", Answer{}, context.Cause(ctx)
}

// read waits for the answer until end. If we wake late it still reads what has arrived.
func (q *question) read(end time.Time) (weir.ID, Answer, error) {
	q.conn.SetReadDeadline(end)
	for graced := false; ; {
		n, err := q.conn.Read(q.buf[:])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !graced:
			graced = true
			q.conn.SetReadDeadline(time.Now().Add(askGrace))
			continue
		case err != nil:
			return "", Answer{}, err
		}
		if m, ok := q.seal.open(q.buf[:n]); ok && m.kind == kindAnswer && q.asked[m.seq] {
			return weir.ID(m.id), m.answer, nil
		}
	}
}
