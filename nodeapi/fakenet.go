package nodeapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// FakeNetwork is a network in memory with one address, which every name leads to. It is
// for tests in a synctest bubble, that no real network can be in. Unlike net.Pipe it has
// buffers, without which two ends of TLS that close at once wait for each other.
//
// The zero value has nobody who listens, and refuses connections.
type FakeNetwork struct {
	mu       sync.Mutex
	listener *fakeListener
}

// Listen makes the caller the one who is reached, until the listener is closed.
func (n *FakeNetwork) Listen() net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listener = &fakeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	return n.listener
}

// Dial is for [Options].
func (n *FakeNetwork) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listener
	n.mu.Unlock()
	refused := errors.New("connection refused")
	if l == nil {
		return nil, refused
	}
	there, back := newFlow(), newFlow()
	select {
	case l.conns <- &fakeConn{in: there, out: back}:
		return &fakeConn{in: back, out: there}, nil
	case <-l.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type fakeAddr struct{}

func (fakeAddr) Network() string { return "memory" }
func (fakeAddr) String() string  { return "memory" }

type fakeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *fakeListener) Addr() net.Addr { return fakeAddr{} }

func (l *fakeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *fakeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// fakeConn is one end of a connection.
type fakeConn struct{ in, out *flow }

func (c *fakeConn) Read(p []byte) (int, error)       { return c.in.read(p) }
func (c *fakeConn) Write(p []byte) (int, error)      { return c.out.write(p) }
func (c *fakeConn) LocalAddr() net.Addr              { return fakeAddr{} }
func (c *fakeConn) RemoteAddr() net.Addr             { return fakeAddr{} }
func (c *fakeConn) SetWriteDeadline(time.Time) error { return nil } // writing never waits

func (c *fakeConn) Close() error {
	c.in.abandon()
	c.out.finish()
	return nil
}

func (c *fakeConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *fakeConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(t)
	return nil
}

// flow is what one end has written and the other has not yet read.
type flow struct {
	mu        sync.Mutex
	changed   *sync.Cond
	buf       bytes.Buffer
	finished  bool // by the writer: what is there can still be read
	abandoned bool // by the reader
	deadline  time.Time
	alarm     *time.Timer
}

func newFlow() *flow {
	f := new(flow)
	f.changed = sync.NewCond(&f.mu)
	return f
}

func (f *flow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.abandoned:
			return 0, net.ErrClosed
		case !f.deadline.IsZero() && !time.Now().Before(f.deadline):
			return 0, os.ErrDeadlineExceeded
		case f.buf.Len() > 0:
			return f.buf.Read(p)
		case f.finished:
			return 0, io.EOF
		}
		f.changed.Wait()
	}
}

func (f *flow) write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.finished || f.abandoned {
		return 0, net.ErrClosed
	}
	f.changed.Broadcast()
	return f.buf.Write(p)
}

func (f *flow) finish()  { f.change(func() { f.finished = true }) }
func (f *flow) abandon() { f.change(func() { f.abandoned = true }) }

func (f *flow) setDeadline(t time.Time) {
	f.change(func() {
		if f.alarm != nil {
			f.alarm.Stop()
			f.alarm = nil
		}
		f.deadline = t
		if !t.IsZero() {
			f.alarm = time.AfterFunc(time.Until(t), func() { f.change(func() {}) })
		}
	})
}

func (f *flow) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	f.changed.Broadcast()
}
