package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// servers are application servers: each answers with its own address.
type servers struct {
	addrs []netip.AddrPort
	http  http.Server
	wg    sync.WaitGroup
}

// startServers starts n servers on addresses of their own in 127.0.0.0/8. They are
// where cloud.Fake puts its machines, moved to loopback.
func startServers(ctx context.Context, n int) (*servers, error) {
	s := &servers{}
	s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		io.WriteString(w, local.String())
	})
	var lc net.ListenConfig
	for i := range n {
		ln, err := lc.Listen(ctx, "tcp", serverAddr(i).String())
		if err != nil {
			s.stop()
			return nil, err
		}
		s.addrs = append(s.addrs, serverAddr(i))
		s.wg.Go(func() { s.http.Serve(ln) })
	}
	return s, nil
}

func (s *servers) stop() {
	s.http.Close()
	s.wg.Wait()
}

// serverPort is where all application servers listen.
const serverPort = 18080

// serverAddr returns the address of the server with that index.
func serverAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 10, byte((i + 10) / 256), byte((i + 10) % 256)}), serverPort)
}

// client is one keep-alive connection. It never tries a request twice, as net/http's
// would: what a change breaks is to be seen.
type client struct {
	front string
	conn  net.Conn
	in    *bufio.Reader
}

// get asks for / and returns the body, which is the address of the server that answered.
func (c *client) get(ctx context.Context) (string, error) {
	body, err := c.try(ctx)
	if err != nil {
		c.close()
	}
	return body, err
}

func (c *client) try(ctx context.Context) (string, error) {
	if c.conn == nil {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", c.front)
		if err != nil {
			return "", err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	c.conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c.conn, "GET / HTTP/1.1\r\nHost: bench\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.Close {
		c.close()
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", resp.Status)
	}
	return string(body), nil
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// load sends requests at a steady rate until it is stopped.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	failed int
	took   []time.Duration // of each request
}

// startLoad sends rate requests a second over 8 keep-alive connections.
func startLoad(ctx context.Context, front string, rate int) *load {
	const clients = 8
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel}
	for range clients {
		l.wg.Go(func() {
			c := &client{front: front}
			defer c.close()
			tick := time.NewTicker(time.Second * clients / time.Duration(rate))
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				start := time.Now()
				_, err := c.get(ctx)
				if ctx.Err() != nil {
					return
				}
				l.mu.Lock()
				l.took = append(l.took, time.Since(start))
				if err != nil {
					l.failed++
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

// stop ends the load; it may be called twice.
func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

// limit bounds each wait for a change. HAProxy 2.6 loses a reload that is asked for
// while another is under way, and then it never comes.
const limit = 5 * time.Second

// errLost says that a change did not come within limit.
var errLost = errors.New("the change was lost")

// untilAnswers sends requests, one after the other on each of 4 connections, until
// one is answered by server.
func untilAnswers(ctx context.Context, front string, server netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	seen, done := context.WithCancel(ctx)
	defer done()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := &client{front: front}
			defer c.close()
			for seen.Err() == nil {
				if body, err := c.get(seen); err == nil && body == server.String() {
					done()
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("%w: server %s does not answer within %s", errLost, server, limit)
	}
	return nil
}

// untilGone sends requests until two whole rounds over n servers came without server.
func untilGone(ctx context.Context, front string, server netip.AddrPort, n int) error {
	c := &client{front: front}
	defer c.close()
	for start, without := time.Now(), 0; without < 2*n+2; without++ {
		body, err := c.get(ctx)
		if err != nil || body == server.String() {
			without = 0
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Since(start) > limit {
			return fmt.Errorf("%w: server %s still answers after %s", errLost, server, limit)
		}
	}
	return nil
}

// untilServed waits until every one of all has answered.
func untilServed(ctx context.Context, front string, all []netip.AddrPort) error {
	c := &client{front: front}
	defer c.close()
	left := map[string]bool{}
	for _, a := range all {
		left[a.String()] = true
	}
	for start := time.Now(); len(left) > 0; {
		body, err := c.get(ctx)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
		}
		delete(left, body)
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Since(start) > time.Minute {
			return fmt.Errorf("%d of %d servers do not answer within a minute: %v", len(left), len(all), err)
		}
	}
	return nil
}
