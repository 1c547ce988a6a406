package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// result is what one run gave.
type result struct {
	took   []time.Duration // of each request, sorted
	failed int
	long   time.Duration
	cpu    time.Duration // of the proxy
}

func (r *result) rate() float64 { return float64(len(r.took)) / r.long.Seconds() }

// at returns a percentile, in milliseconds.
func (r *result) at(percent int) float64 {
	if len(r.took) == 0 {
		return 0
	}
	return r.took[(len(r.took)-1)*percent/100].Seconds() * 1000
}

// cpuEach returns the proxy's CPU time for each request, in microseconds.
func (r *result) cpuEach() float64 {
	return float64(r.cpu.Microseconds()) / float64(max(len(r.took), 1))
}

var request = []byte("GET /index.html HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")

// ask sends one request and reads the answer, which has a Content-Length.
func ask(c net.Conn, in *bufio.Reader) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	length := -1
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("answered %.60q", line)
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("an answer without a length")
	}
	_, err := in.Discard(length)
	return err
}

// each runs n loops until the time is over, and collects how long each round of one took. A round that fails counts as
// such; its connection is closed.
func each(ctx context.Context, c *contender, n int, long time.Duration, loop func(round func(func() error) bool)) (result, error) {
	var mu sync.Mutex
	var r result
	began, cpu := time.Now(), c.cpu()
	end := began.Add(long)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			var took []time.Duration
			failed := 0
			loop(func(do func() error) (more bool) {
				at := time.Now()
				if at.After(end) || ctx.Err() != nil {
					return false
				}
				if err := do(); err != nil {
					failed++
					return true
				}
				took = append(took, time.Since(at))
				return true
			})
			mu.Lock()
			defer mu.Unlock()
			r.took = append(r.took, took...)
			r.failed += failed
		})
	}
	wg.Wait()
	r.long, r.cpu = time.Since(began), c.cpu()-cpu
	slices.Sort(r.took)
	if len(r.took) == 0 {
		return r, fmt.Errorf("no request was answered")
	}
	return r, nil
}

// dialer gives connections that cannot hang for ever.
func dial(addr string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(time.Minute))
	}
	return c, err
}

var anyone = &tls.Config{InsecureSkipVerify: true, ServerName: "bench.example", NextProtos: []string{"http/1.1"}}

func dialTLS(addr string) (net.Conn, error) {
	c, err := dial(addr)
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, anyone)
	if err := t.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// kept asks on connections that are kept.
func kept(ctx context.Context, c *contender, n int, long time.Duration, open func() (net.Conn, error)) (result, error) {
	return each(ctx, c, n, long, func(round func(func() error) bool) {
		var conn net.Conn
		var in *bufio.Reader
		defer func() {
			if conn != nil {
				conn.Close()
			}
		}()
		for round(func() (err error) {
			if conn == nil {
				if conn, err = open(); err != nil {
					conn = nil
					return err
				}
				in = bufio.NewReaderSize(conn, 4<<10)
			}
			if err = ask(conn, in); err != nil {
				conn.Close()
				conn = nil
			}
			return err
		}) {
		}
	})
}

func askPlain(ctx context.Context, c *contender, n int, long time.Duration) (result, error) {
	return kept(ctx, c, n, long, func() (net.Conn, error) { return dial(c.plain) })
}

func askSecure(ctx context.Context, c *contender, n int, long time.Duration) (result, error) {
	return kept(ctx, c, n, long, func() (net.Conn, error) { return dialTLS(c.secure) })
}

func shake(ctx context.Context, c *contender, n int, long time.Duration) (result, error) {
	return each(ctx, c, n, long, func(round func(func() error) bool) {
		for round(func() error {
			conn, err := dialTLS(c.secure)
			if err != nil {
				return err
			}
			defer conn.Close()
			return ask(conn, bufio.NewReaderSize(conn, 4<<10))
		}) {
		}
	})
}

// answers waits until a contender answers.
func answers(ctx context.Context, c *contender) error {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := ctx.Err()
		for _, open := range []func() (net.Conn, error){func() (net.Conn, error) { return dial(c.plain) }, func() (net.Conn, error) { return dialTLS(c.secure) }} {
			var conn net.Conn
			if conn, err = open(); err != nil {
				break
			}
			err = ask(conn, bufio.NewReader(conn))
			conn.Close()
			if err != nil {
				break
			}
		}
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			if err == io.EOF {
				err = fmt.Errorf("it hangs up")
			}
			return err
		}
	}
}
