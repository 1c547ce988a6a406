package haproxy

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

func TestSlowResponseOutlivesAReloadByMoreThanDrain(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	stays, leaves := f.start(t), f.start(t)
	front := freeAddr(t)
	d := testDocument(front, stays.server(), leaves.server())
	d.Drain = 2 * time.Second
	set(t, p, d)
	waitState(t, p, weir.ServerUp, stays.server(), leaves.server())
	answers := map[string]chan error{"1": make(chan error, 1), "2": make(chan error, 1)}
	for range 2 {
		go func() {
			app, _, err := ask(front, "/slow")
			if err != nil {
				app = "2" // the one that is cut off
			}
			answers[app] <- err
		}()
	}
	eventually(t, func() string {
		if stays.requests.Load()+leaves.requests.Load() < 2 {
			return "the slow requests did not arrive"
		}
		return ""
	})
	reloaded := time.Now()
	d.Reload++
	set(t, p, d)
	if _, s := status(t, p); s["1"].Sessions != 1 || s["2"].Sessions != 1 {
		t.Errorf("%+v, want the sessions that the old worker has", s)
	}

	// Only the old worker knows of what a server that leaves now still has to finish.
	left := time.Now()
	set(t, p, withServers(d, stays.server()))
	eventually(t, func() string {
		servers, err := p.socket().servers(t.Context())
		if err != nil || len(servers) != 1 {
			return fmt.Sprintf("the new worker still has %d servers (%v)", len(servers), err)
		}
		return ""
	})
	if _, s := status(t, p); s["2"].State != weir.ServerDraining || s["2"].Sessions != 1 {
		t.Errorf("%+v, want 1 session draining in the old worker", s["2"])
	}
	waitState(t, p, weir.ServerUp, stays.server())
	if took := time.Since(left); took < d.Drain {
		t.Errorf("the server that left is gone after %s, want it to have %s", took, d.Drain)
	}
	if err := <-answers["2"]; err == nil {
		t.Error("a request outlived its server")
	}
	eventually(t, func() string {
		if time.Since(reloaded) < 2*d.Drain {
			return "the slow response is not slow yet"
		}
		return ""
	})
	if _, s := status(t, p); s["1"].Sessions != 1 {
		t.Errorf("%+v, want the slow request still with its server", s["1"])
	}
	close(stays.slow)
	if err := <-answers["1"]; err != nil {
		t.Errorf("the response that took longer than Drain: %v", err)
	}
	eventually(t, func() string {
		m, err := p.idleMaster(t.Context())
		if err != nil || len(m.old) > 0 {
			return fmt.Sprintf("old workers %v are there still (%v)", m.old, err)
		}
		return ""
	})
}

// HAProxy 2.6.12 may crash while it ends, after its last connection (its issue 2114): what
// an old worker dies of is not to touch the one that serves.
func TestCrashOfAnOldWorkerHurtsNobodyElse(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	d := testDocument(front, a.server())
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	old, _ := status(t, p)
	failed := make(chan error, 1)
	go func() {
		_, _, err := ask(front, "/slow")
		failed <- err
	}()
	eventually(t, func() string {
		if a.requests.Load() == 0 {
			return "the slow request did not arrive"
		}
		return ""
	})
	d.Reload++
	set(t, p, d)
	before, _ := status(t, p)
	l, stop := startLoad(t, front, 8)
	if err := unix.Kill(old.PID, unix.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the request was answered, so that nothing has crashed")
	}
	sent := l.sent.Load()
	eventually(t, func() string {
		if l.sent.Load() < sent+100 {
			return "no load"
		}
		return ""
	})
	stop()
	l.check(t, 0)
	if h, s := status(t, p); h.PID != before.PID || h.Reloads != 1 || s["1"].Sessions != 0 {
		t.Errorf("worker %d with %d reloads and %+v, want worker %d with 1 and no sessions", h.PID, h.Reloads, s["1"], before.PID)
	}
}
