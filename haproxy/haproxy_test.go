package haproxy

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

func TestServersComeAndGoWithoutAFailedRequestOrAReload(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	apps := []*app{f.start(t), f.start(t)}
	front := freeAddr(t)
	d := testDocument(front, serversOf(apps)...)
	set(t, p, d)
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	before, _ := status(t, p)

	l, stop := startLoad(t, front, 8)
	for i := range 30 {
		if i%3 == 2 {
			apps = slices.Delete(apps, 0, 1)
		} else {
			apps = append(apps, f.start(t))
		}
		s := serversOf(apps)
		s[0].Weight = 1 + i%5
		set(t, p, withServers(d, s...))
		waitState(t, p, weir.ServerUp, s...)
	}
	// One machine gets another address.
	moved := f.start(t)
	s := serversOf(apps)
	s[0].Addr = moved.addr
	set(t, p, withServers(d, s...))
	eventually(t, func() string {
		if moved.requests.Load() == 0 {
			return "the server gets no requests where it has moved to"
		}
		return ""
	})
	stop()
	l.check(t, 0)
	after, _ := status(t, p)
	if after.PID != before.PID || after.Reloads != 0 {
		t.Errorf("worker %d with %d reloads, want worker %d with none", after.PID, after.Reloads, before.PID)
	}
	for _, a := range apps[1:] {
		if a.requests.Load() == 0 {
			t.Errorf("app %d got no request", a.id)
		}
	}
}

func TestStructureChangesByOneReloadWithoutAFailedRequest(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	apps := []*app{f.start(t), f.start(t)}
	front := freeAddr(t)
	d := testDocument(front, serversOf(apps)...)
	set(t, p, d)
	waitState(t, p, weir.ServerUp, serversOf(apps)...)

	l, stop := startLoad(t, front, 16)
	other := freeAddr(t)
	for i, change := range []func(){
		func() { d.Backends[0].Balance = weir.LeastConnections },
		func() {
			d.Frontends = append(d.Frontends, weir.Frontend{Name: "tcp-81", Bind: other, Mode: weir.TCP, Idle: time.Minute, Backend: "web"})
			d.Backends = slices.Clone(d.Backends)
			d.Backends = append(d.Backends, d.Backends[0])
			d.Backends[1].Name, d.Backends[1].Mode = "tcp", weir.TCP
			d.Frontends[1].Backend = "tcp"
		},
		func() { d.Backends[0].Check.Unhealthy++ },
		func() { d.Reload++ },
		func() { d.Frontends, d.Backends = d.Frontends[:1], d.Backends[:1] },
	} {
		d = withServers(d, d.Backends[0].Servers...)
		change()
		if i == 2 {
			// A change of servers rides along.
			apps = append(apps, f.start(t))
			d = withServers(d, serversOf(apps)...)
		}
		set(t, p, d)
		if h, _ := status(t, p); h.Reloads != i+1 {
			t.Errorf("%d reloads after change %d, want %d", h.Reloads, i, i+1)
		}
		if i == 1 {
			eventually(t, func() string {
				if _, _, err := ask(other, "/"); err != nil {
					return fmt.Sprintf("the new frontend does not answer: %v", err)
				}
				return ""
			})
		}
	}
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	stop()
	l.check(t, 0)
	if _, _, err := ask(other, "/"); err == nil {
		t.Error("the frontend that was taken away still answers")
	}
}

func TestRejectedDocumentChangesNothing(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	d := testDocument(front, a.server())
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	before, _ := status(t, p)
	file, err := os.ReadFile(p.path(configFile))
	if err != nil {
		t.Fatal(err)
	}

	mixed := withServers(d, a.server())
	mixed.Backends[0].Mode = weir.TCP
	taken, err := net.Listen("tcp", "127.0.0.4:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := withServers(d, a.server())
	busy.Frontends = slices.Clone(busy.Frontends)
	busy.Frontends[0].Bind = taken.Addr().(*net.TCPAddr).AddrPort()
	nowhere := withServers(d, weir.Server{ID: "7", Weight: 1})
	refused := withServers(d, a.server())
	refused.Snippets.Frontends = map[string][]string{"http-80": {"http-request frobnicate"}}

	l, stop := startLoad(t, front, 8)
	for _, c := range []struct {
		name string
		d    weir.Proxy
		kind weir.Kind
		want string
	}{
		{"a frontend and a backend of different modes", mixed, weir.Invalid, "haproxy rejects configuration 812: http frontend 'http-80' (line "},
		{"a line of a frontend", refused, weir.Invalid, "haproxy rejects configuration 812: frontend http-80: line "},
		{"a server without an address", nowhere, weir.Invalid, "configuration 812: backend web: server 7 has no address and port"},
		{"an address that is taken", busy, weir.Unavailable, "configuration 812: frontend http-80: listen at 127.0.0.4:"},
	} {
		err := p.Set(t.Context(), 812, c.d)
		if err == nil || weir.KindOf(err) != c.kind || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v (%s), want %s: %s…", c.name, err, weir.KindOf(err), c.kind, c.want)
		}
		if strings.Contains(fmt.Sprint(err), p.dir) {
			t.Errorf("%s: %v: the path of our file tells nothing to a user", c.name, err)
		}
		if _, _, err := ask(front, "/"); err != nil {
			t.Errorf("%s: the old configuration does not serve: %v", c.name, err)
		}
		if got, _ := os.ReadFile(p.path(configFile)); string(got) != string(file) {
			t.Errorf("%s: the file on disk is another", c.name)
		}
		if h, _ := status(t, p); h.PID != before.PID || h.Reloads != 0 {
			t.Errorf("%s: worker %d with %d reloads, want worker %d with none", c.name, h.PID, h.Reloads, before.PID)
		}
	}
	stop()
	l.check(t, 0)
	// And the next good one is taken as if nothing had been.
	d.Reload++
	set(t, p, d)
	if h, _ := status(t, p); h.Reloads != 1 {
		t.Errorf("%d reloads, want 1", h.Reloads)
	}
}

func TestHAProxyIsBackWhenItIsKilled(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	apps := []*app{f.start(t), f.start(t)}
	front := freeAddr(t)
	set(t, p, testDocument(front, serversOf(apps)...))
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	late := f.start(t)
	apps = append(apps, late)
	set(t, p, testDocument(front, serversOf(apps)...))
	waitState(t, p, weir.ServerUp, serversOf(apps)...)

	for _, who := range []string{"worker", "master"} {
		l, stop := startLoad(t, front, 8)
		eventually(t, func() string {
			if l.sent.Load() < 100 {
				return "no load"
			}
			return ""
		})
		before, _ := status(t, p)
		victim := before.PID
		if who == "master" {
			victim = masterOf(t, p)
		}
		if err := unix.Kill(victim, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() string {
			if h, _, err := p.Status(t.Context()); err != nil || h.PID == 0 || h.PID == before.PID {
				return "HAProxy is not back after its " + who + " was killed"
			}
			return ""
		})
		sent := l.sent.Load()
		eventually(t, func() string {
			if l.sent.Load() < sent+100 {
				return "no load"
			}
			return ""
		})
		stop()
		// What the dead one had in its hands is lost: at most one request of each client.
		l.check(t, 8)
		waitState(t, p, weir.ServerUp, serversOf(apps)...)
	}
}

func masterOf(t testing.TB, p *Proxy) int {
	t.Helper()
	b, err := os.ReadFile(p.path(pidFile))
	if err != nil {
		t.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(b), " ")
	return atoi(pid)
}

func TestNextProxyGoesOnWithTheHAProxyThatWasKept(t *testing.T) {
	dir, err := os.MkdirTemp("", "weir-haproxy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var f farm
	apps := []*app{f.start(t), f.start(t)}
	apps[1].sick.Store(true)
	front := freeAddr(t)
	d := testDocument(front, apps[0].server())

	p, end := startProxy(t, Options{Dir: dir, Keep: true})
	set(t, p, d)
	waitState(t, p, weir.ServerUp, apps[0].server())
	set(t, p, withServers(d, serversOf(apps)...))
	before, _ := status(t, p)
	l, stop := startLoad(t, front, 8)
	end()

	// Alone, it serves, and the new server has still no request.
	eventually(t, func() string {
		if l.sent.Load() < 100 {
			return "no load"
		}
		return ""
	})
	p, _ = startProxy(t, Options{Dir: dir})
	eventually(t, func() string {
		h, _, err := p.Status(t.Context())
		if err != nil || h.PID != before.PID {
			return fmt.Sprintf("worker %d, want %d adopted (%v)", h.PID, before.PID, err)
		}
		return ""
	})
	set(t, p, withServers(d, serversOf(apps)...))
	if _, s := status(t, p); s["2"].State != weir.ServerChecking {
		t.Errorf("server 2 is %s, want checking still", s["2"].State)
	}
	if got := apps[1].requests.Load(); got != 0 {
		t.Errorf("%d requests went to a server that never passed its check", got)
	}
	apps[1].sick.Store(false)
	waitState(t, p, weir.ServerUp, serversOf(apps)...)
	stop()
	l.check(t, 0)
	if h, _ := status(t, p); h.PID != before.PID || h.Reloads != 0 {
		t.Errorf("worker %d with %d reloads, want worker %d with none", h.PID, h.Reloads, before.PID)
	}
}

func TestServerGetsNoRequestBeforeItsFirstCheckPasses(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	well, sick := f.start(t), f.start(t)
	sick.sick.Store(true)
	front := freeAddr(t)
	d := testDocument(front, serversOf([]*app{well, sick})...)
	both := []weir.Server{well.server(), sick.server()}
	l, stop := startLoad(t, front, 16)

	unused := func(when string) {
		t.Helper()
		checks := sick.checks.Load()
		eventually(t, func() string {
			if _, s, err := p.Status(t.Context()); err != nil || len(s) != 2 || sick.checks.Load() == checks {
				return fmt.Sprintf("%s: the sick server is not checked: %+v, %v", when, s, err)
			}
			return ""
		})
		if _, s := status(t, p); s["2"].State != weir.ServerChecking || !strings.HasPrefix(s["2"].Why, "L7STS") {
			t.Errorf("%s: %+v, want a server that is checking, and why", when, s["2"])
		}
		if got := sick.requests.Load(); got != 0 {
			t.Fatalf("%s: %d requests went to a server that never passed its check", when, got)
		}
	}
	set(t, p, d)
	unused("at the first start")
	d.Reload++
	set(t, p, d)
	unused("after a reload")
	before, _ := status(t, p)
	if err := unix.Kill(before.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if h, _, err := p.Status(t.Context()); err != nil || h.PID == 0 || h.PID == before.PID {
			return "HAProxy is not back"
		}
		return ""
	})
	unused("after a crash")
	for range 20 {
		set(t, p, withServers(d, well.server()))
		waitState(t, p, weir.ServerUp, well.server())
		set(t, p, withServers(d, both...))
	}
	unused("added to a running HAProxy")

	sick.sick.Store(false)
	waitState(t, p, weir.ServerUp, both...)
	eventually(t, func() string {
		if sick.requests.Load() == 0 {
			return "the server gets no request though its check passes"
		}
		return ""
	})
	stop()
	t.Logf("%d requests", l.sent.Load())
}

func TestLeavingServerFinishesItsRequests(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	stays, leaves := f.start(t), f.start(t)
	front := freeAddr(t)
	d := testDocument(front, stays.server(), leaves.server())
	set(t, p, d)
	waitState(t, p, weir.ServerUp, stays.server(), leaves.server())

	type answer struct {
		app string
		err error
	}
	answers := make(chan answer, 8)
	for range cap(answers) {
		go func() {
			app, _, err := ask(front, "/slow")
			answers <- answer{app, err}
		}()
	}
	eventually(t, func() string {
		if stays.requests.Load()+leaves.requests.Load() < 8 {
			return "the slow requests did not arrive"
		}
		return ""
	})
	set(t, p, withServers(d, stays.server()))
	if _, s := status(t, p); s["2"].State != weir.ServerDraining || s["2"].Sessions != 4 {
		t.Errorf("%+v, want 4 sessions draining", s["2"])
	}
	for range 20 {
		if app, _, err := ask(front, "/"); err != nil || app != "1" {
			t.Fatalf("server %q answered a new request (%v), want 1", app, err)
		}
	}
	close(leaves.slow)
	waitState(t, p, weir.ServerUp, stays.server())
	close(stays.slow)
	for range cap(answers) {
		if a := <-answers; a.err != nil {
			t.Errorf("a request in flight failed: %v", a.err)
		}
	}
}

func TestLeavingServerIsCutOffWhenItsTimeIsOver(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	stays, hangs := f.start(t), f.start(t)
	front := freeAddr(t)
	d := testDocument(front, hangs.server())
	d.Drain = time.Second
	set(t, p, d)
	waitState(t, p, weir.ServerUp, hangs.server())
	failed := make(chan error, 1)
	go func() {
		_, _, err := ask(front, "/slow")
		failed <- err
	}()
	eventually(t, func() string {
		if hangs.requests.Load() == 0 {
			return "the slow request did not arrive"
		}
		return ""
	})
	set(t, p, withServers(d, stays.server()))
	waitState(t, p, weir.ServerUp, stays.server())
	if err := <-failed; err == nil {
		t.Error("a request outlived its server")
	}
	if h, _ := status(t, p); h.Reloads != 0 {
		t.Errorf("%d reloads, want none", h.Reloads)
	}
}

func TestThousandServersComeAndGoAtOnce(t *testing.T) {
	p, _ := startProxy(t, Options{})
	front := freeAddr(t)
	many := crowd(1001, listenEverywhere(t))
	first := many[0]
	d := testDocument(front, first)
	set(t, p, d)
	waitState(t, p, weir.ServerUp, first)
	l, stop := startLoad(t, front, 4)
	set(t, p, withServers(d, many...))
	waitState(t, p, weir.ServerUp, many...)
	set(t, p, d)
	waitState(t, p, weir.ServerUp, first)
	stop()
	l.check(t, 0)
	if h, _ := status(t, p); h.Reloads != 0 {
		t.Errorf("%d reloads, want none", h.Reloads)
	}
}

func TestStopFinishesWhatIsInFlight(t *testing.T) {
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
	master := masterOf(t, p)
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop(t.Context()) }()
	eventually(t, func() string {
		if _, _, err := ask(front, "/"); err == nil {
			return "new requests are answered still"
		}
		return ""
	})
	close(a.slow)
	if err := <-answered; err != nil {
		t.Errorf("the request in flight failed: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if err := unix.Kill(master, 0); err == nil {
		t.Error("HAProxy is there still")
	}
	// It stays so, until it is told again.
	if h, _ := status(t, p); h.PID != 0 {
		t.Errorf("worker %d runs, want none", h.PID)
	}
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
}

func TestForwardedHeadersAreOurs(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	set(t, p, testDocument(front, a.server()))
	waitState(t, p, weir.ServerUp, a.server())
	c, err := net.Dial("tcp", front.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, body, err := askOn(c, bufio.NewReader(c), "/", "X-Forwarded-Proto: gopher\r\nX-Forwarded-Port: 70\r\n")
	if want := fmt.Sprintf("127.0.0.1 http %d\n", front.Port()); err != nil || body != want {
		t.Errorf("the server got %q (%v), want %q", body, err, want)
	}
}

func TestChangedTellsOfServersThatComeAndGo(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	set(t, p, testDocument(freeAddr(t), a.server()))
	for _, want := range []weir.ServerState{weir.ServerUp, weir.ServerDown} {
		if want == weir.ServerDown {
			if _, err := exchange(t.Context(), p.path(workerSocket), "set server web/1 health down"); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := status(t, p); s["1"].State != want; _, s = status(t, p) {
			select {
			case <-p.Changed():
			case <-time.After(20 * time.Second):
				t.Fatalf("nothing told of a server that is %s", want)
			}
		}
	}
}

func TestFailedReloadLeavesTheOldConfiguration(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	d := testDocument(front, a.server())
	set(t, p, d)
	waitState(t, p, weir.ServerUp, a.server())
	before, _ := status(t, p)
	file, err := os.ReadFile(p.path(configFile))
	if err != nil {
		t.Fatal(err)
	}
	// As if HAProxy had found it good.
	bad := &document{revision: 812, proxy: d, shape: "0", text: []byte("global\n    no-such-word\n")}
	err = func() error {
		p.lock <- struct{}{}
		defer p.release()
		return p.reload(t.Context(), bad)
	}()
	if want := "haproxy cannot load it: line 2: unknown keyword 'no-such-word' in 'global' section"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if _, _, err := ask(front, "/"); err != nil {
		t.Errorf("the old configuration does not serve: %v", err)
	}
	if got, _ := os.ReadFile(p.path(configFile)); string(got) != string(file) {
		t.Errorf("the file on disk is another:\n%s", got)
	}
	d.Reload++
	set(t, p, d)
	if h, _ := status(t, p); h.PID == before.PID || h.Reloads != 1 {
		t.Errorf("worker %d with %d reloads, want another than %d, and 1", h.PID, h.Reloads, before.PID)
	}
}

func TestHAProxyThatHangsIsReplaced(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	set(t, p, testDocument(front, a.server()))
	waitState(t, p, weir.ServerUp, a.server())
	before, _ := status(t, p)
	for _, pid := range []int{masterOf(t, p), before.PID} {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() string {
		if h, _, err := p.Status(t.Context()); err != nil || h.PID == 0 || h.PID == before.PID {
			return fmt.Sprintf("worker %d hangs still (%v)", before.PID, err)
		}
		return ""
	})
	waitState(t, p, weir.ServerUp, a.server())
	if _, _, err := ask(front, "/"); err != nil {
		t.Error(err)
	}
	// It may be left for its new parent to bury.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", before.PID))
	if err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("the worker that hung is there still: %s", stat)
	}
}
