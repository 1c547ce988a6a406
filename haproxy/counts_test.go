package haproxy

import (
	"fmt"
	"net"
	"testing"
	"time"

	"weir/weir"
)

// sum is what all workers have counted.
type sum struct {
	requests, in, out, sessions int64
	frontend, backend           weir.Responses
	cpu                         time.Duration
	workers, ended              int
}

func counts(t *testing.T, p *Proxy) (s sum) {
	t.Helper()
	h, _ := status(t, p)
	if h.Counts == nil {
		t.Fatal("there are no counts")
	}
	if h.Counts.Limit < 10 || h.Counts.Threads < 1 || h.Counts.Taken.IsZero() {
		t.Errorf("a limit of %d connections and %d threads at %v, want what HAProxy has", h.Counts.Limit, h.Counts.Threads, h.Counts.Taken)
	}
	for _, w := range h.Counts.Workers {
		s.cpu += w.CPU
		if w.Ended {
			s.ended++
		} else {
			s.workers++
		}
		for _, f := range w.Frontends {
			s.requests, s.in, s.out, s.sessions = s.requests+f.Requests, s.in+f.In, s.out+f.Out, s.sessions+f.Sessions
			for i, n := range f.Responses {
				s.frontend[i] += n
			}
		}
		for _, b := range w.Backends {
			for i, n := range b.Responses {
				s.backend[i] += n
			}
		}
	}
	return s
}

func TestEveryRequestIsCountedOnceAlsoOverReloads(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	d := testDocument(front, a.server())
	d.Health = false
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	request := func() {
		t.Helper()
		if _, _, err := ask(front, "/"); err != nil {
			t.Fatal(err)
		}
	}
	for range 7 {
		request()
	}
	if s := counts(t, p); s.requests != 7 || s.frontend != (weir.Responses{1: 7}) || s.backend != s.frontend || s.in < 7*40 || s.out < 7*100 || s.workers != 1 {
		t.Errorf("%+v after 7 requests, want 7 of 2xx, and their bytes", s)
	}

	// Nobody looks between these requests and the reload.
	for range 5 {
		request()
	}
	d.Reload++
	set(t, p, d)
	for range 3 {
		request()
	}
	eventually(t, func() string {
		s := counts(t, p)
		if s.requests != 15 || s.frontend[1] != 15 || s.backend[1] != 15 || s.workers+s.ended != 2 {
			t.Fatalf("%+v after 15 requests and a reload, want 15 in two workers", s)
		}
		if s.ended != 1 {
			return "the old worker has not ended"
		}
		return ""
	})
}

func TestOldWorkersCountOn(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	d := testDocument(front, a.server())
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	answered := make(chan error, 1)
	go func() {
		_, _, err := ask(front, "/slow")
		answered <- err
	}()
	eventually(t, func() string {
		if a.requests.Load() == 0 {
			return "the slow request did not arrive"
		}
		return ""
	})
	d.Reload++
	set(t, p, d)
	if s := counts(t, p); s.workers != 2 || s.sessions != 1 || s.frontend[1] != 0 {
		t.Errorf("%+v, want two workers, and one client at the old one that has no answer yet", s)
	}
	close(a.slow)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if s := counts(t, p); s.sessions != 0 || s.ended != 1 {
			return fmt.Sprintf("%+v, want the old worker's client gone, and the worker ended", s)
		}
		return ""
	})
}

func TestCountsTellOfErrorsTimesAndTCP(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front, tcp := freeAddr(t), freeAddr(t)
	d := testDocument(front, a.server())
	d.Frontends = append(d.Frontends, weir.Frontend{Name: "tcp-81", Bind: tcp, Mode: weir.TCP, Idle: time.Minute, Backend: "tcp"})
	d.Backends = append(d.Backends, d.Backends[0])
	d.Backends[1].Name, d.Backends[1].Mode = "tcp", weir.TCP
	set(t, p, d)
	eventually(t, func() string {
		if _, servers, err := p.Status(t.Context()); err != nil || len(servers) != 2 || servers[0].State != weir.ServerUp || servers[1].State != weir.ServerUp {
			return fmt.Sprintf("%+v, %v: not both servers are up", servers, err)
		}
		return ""
	})
	c, err := net.Dial("tcp", front.String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "nonsense\r\n\r\n")
	c.Read(make([]byte, 100)) // HAProxy's own 400
	c.Close()
	if _, _, err := ask(tcp, "/"); err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		close(a.slow)
	}()
	if _, _, err := ask(front, "/slow"); err != nil {
		t.Fatal(err)
	}
	h, _ := status(t, p)
	w := h.Counts.Workers[0]
	if len(w.Frontends) != 2 || len(w.Backends) != 2 {
		t.Fatalf("%+v, want the two frontends and backends, and not what HAProxy answers health checks with", w)
	}
	for _, f := range w.Frontends {
		switch {
		case f.Mode == weir.HTTP && (f.Responses[1] != 1 || f.Responses[3] != 1 || f.Requests != 2):
			t.Errorf("%+v, want two requests, with one answer of 2xx and one of 4xx", f)
		case f.Mode == weir.TCP && (f.Requests != 0 || f.Responses != weir.Responses{} || f.In < 40 || f.Out < 100):
			t.Errorf("%+v, want bytes and no requests", f)
		}
	}
	for _, b := range w.Backends {
		if b.Mode == weir.HTTP && (b.Responses != weir.Responses{1: 1} || b.Response < 40*time.Millisecond || b.Session < b.Response) {
			t.Errorf("%+v, want one answer of a server, after 50 ms", b)
		}
	}
}

func TestServerTellsForHowLongItIsDown(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	d := testDocument(freeAddr(t), a.server())
	d.Backends[0].Check.Interval = 20 * time.Millisecond
	d.Backends[0].Check.Unhealthy = 2
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	if _, s := status(t, p); s["1"].Down != 0 {
		t.Errorf("%+v, want a server that is up not to be down for any time", s["1"])
	}
	a.sick.Store(true)
	waitState(t, p, weir.ServerDown, a.server())
	eventually(t, func() string {
		if _, s := status(t, p); s["1"].Down < 1 {
			return fmt.Sprintf("%+v, want it down for a second", s["1"])
		}
		return ""
	})
}
