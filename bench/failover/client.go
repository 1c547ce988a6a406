package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	interval = 5 * time.Millisecond // from the start of one request to that of the next
	patience = time.Second          // how long the client waits for an answer
)

// request is one request of the client, on a connection of its own.
type request struct {
	start time.Time
	took  time.Duration
	err   error
}

// client asks the service address every interval, whether or not the requests before are
// answered: clients on the Internet do not wait for each other either.
type client struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	underway atomic.Int64 // requests

	mu   sync.Mutex
	done []request // in the order in which they ended
}

// dialFunc connects to a service, from where its clients are.
type dialFunc func(ctx context.Context, deadline time.Time) (net.Conn, error)

// dial connects to port 80 of an address.
func dial(ctx context.Context, addr netip.Addr, deadline time.Time) (net.Conn, error) {
	dialer := net.Dialer{Deadline: deadline, KeepAlive: -1}
	return dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, 80).String())
}

func dialerOf(addr netip.Addr) dialFunc {
	return func(ctx context.Context, deadline time.Time) (net.Conn, error) { return dial(ctx, addr, deadline) }
}

// startClient starts asking. Whoever starts it must stop it.
func startClient(ctx context.Context, dial dialFunc) *client {
	ctx, cancel := context.WithCancel(ctx)
	c := &client{cancel: cancel}
	c.wg.Go(func() {
		for next := time.Now(); ; next = next.Add(interval) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(next)):
			}
			c.wg.Go(func() {
				c.underway.Add(1)
				defer c.underway.Add(-1)
				start := time.Now()
				// Not ended by ctx: a request that was begun counts.
				err := ask(context.WithoutCancel(ctx), dial, start.Add(patience))
				r := request{start, time.Since(start), err}
				c.mu.Lock()
				defer c.mu.Unlock()
				c.done = append(c.done, r)
			})
		}
	})
	return c
}

// stop stops asking, waits for what is under way, and returns all requests in the order
// in which they started. It may be called twice.
func (c *client) stop() []request {
	c.cancel()
	c.wg.Wait()
	return c.requests()
}

// requests returns those that have ended, in the order in which they started.
func (c *client) requests() []request {
	c.mu.Lock()
	all := slices.Clone(c.done)
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b request) int { return a.start.Compare(b.start) })
	return all
}

// calm says whether no request failed that started within d, as far as is known. It is not
// calm when requests pile up, which may yet fail.
func (c *client) calm(d time.Duration) bool {
	const pile = 10 // 50 ms without an answer
	return c.underway.Load() < pile && time.Since(c.lastFailure()) > d
}

// lastFailure returns when the last failed request so far started, the zero time if none failed.
func (c *client) lastFailure() (last time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.done {
		if r.err != nil && r.start.After(last) {
			last = r.start
		}
	}
	return last
}

// ask sends one request on a new connection, and wants the whole of a 200 before the
// deadline.
func ask(ctx context.Context, dial dialFunc, deadline time.Time) error {
	conn, err := dial(ctx, deadline)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %s", conn.RemoteAddr(), resp.Status)
	}
	return nil
}
