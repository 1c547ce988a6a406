package haproxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

func TestPlanBringsTheRunningServersToWhatIsWanted(t *testing.T) {
	now := time.Now()
	one := weir.Server{ID: "1", Addr: addr("10.0.0.1:80"), Weight: 1}
	want := testDocument(addr("127.0.0.1:80"), one)
	in := server{target: target{"web", "1", 1}, addr: one.Addr, weight: 1, running: true, checked: true}
	with := func(change func(*server)) server {
		s := in
		change(&s)
		return s
	}
	for _, c := range []struct {
		name  string
		have  []server
		steps string
		wait  string
	}{
		{"as wanted", []server{in}, "", ""},
		{"down is HAProxy's business", []server{with(func(s *server) { s.running = false })}, "", ""},
		{"nothing there", nil, "add web/1", "web/1"},
		{"another weight", []server{with(func(s *server) { s.weight = 9 })}, "weigh web/1", ""},
		{"another address", []server{with(func(s *server) { s.addr = addr("10.0.0.9:80") })}, "drain web/1", "web/1 leaves"},
		{"another port", []server{with(func(s *server) { s.addr = addr("10.0.0.1:81") })}, "drain web/1", "web/1 leaves"},
		{"drained by a state file", []server{with(func(s *server) { s.drain = true })}, "", "web/1"},
		{"added and not admitted", []server{with(func(s *server) { s.maint = true })}, "", "web/1"},
		{"leaving, and not to be checked", []server{with(func(s *server) { s.maint, s.checked = true, false })}, "", "web/1 leaves"},
		{"one more", []server{in, {target: target{"web", "2", 2}, running: true}}, "drain web/2", "web/2 leaves"},
		{"one more that drains", []server{in, {target: target{"web", "2", 2}, drain: true}}, "", "web/2 leaves"},
		{"the same in a backend that is gone", []server{in, {target: target{"old", "1", 1}}}, "drain old/1", "old/1 leaves"},
	} {
		steps, wait := plan(&want, c.have, now)
		var waits []string
		for _, w := range wait {
			s := w.target.String()
			if w.leaving {
				s += " leaves"
			}
			waits = append(waits, s)
		}
		if got := join(steps); got != c.steps {
			t.Errorf("%s: steps %q, want %q", c.name, got, c.steps)
		}
		if got := strings.Join(waits, ", "); got != c.wait {
			t.Errorf("%s: %q wait, want %q", c.name, got, c.wait)
		}
		// What the steps bring about needs no more of them.
		if more, _ := plan(&want, after(c.have, steps), now); len(more) > 0 {
			t.Errorf("%s: then %q, want nothing more", c.name, join(more))
		}
	}
}

func join(steps []step) string {
	var s []string
	for _, step := range steps {
		s = append(s, step.String())
	}
	return strings.Join(s, ", ")
}

func TestPlanOfServersThatWait(t *testing.T) {
	now := time.Now()
	s := target{"web", "1", 1}
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name  string
		wait  waiting
		seen  []glance
		steps string
		still bool
	}{
		{"its check has passed", waiting{target: s, since: now}, []glance{{target: s, passed: true}}, "admit web/1", false},
		{"its check failed", waiting{target: s, since: ago(time.Hour)}, []glance{{target: s}}, "", true},
		{"its check is not due yet", waiting{target: s, since: now}, []glance{{target: s, unasked: true}}, "", true},
		{"its check was missed", waiting{target: s, since: ago(time.Second)}, []glance{{target: s, unasked: true}}, "renew web/1", true},
		{"it is gone", waiting{target: s, since: now}, nil, "", false},
		{"it leaves with sessions", waiting{target: s, leaving: true, since: ago(time.Second)}, []glance{{target: s, sessions: 3, passed: true}}, "", true},
		{"it leaves with none", waiting{target: s, leaving: true, since: now}, []glance{{target: s, passed: true}}, "remove web/1", true},
		{"its time is over", waiting{target: s, leaving: true, since: ago(time.Hour)}, []glance{{target: s, sessions: 3}}, "cut web/1", true},
		{"it has left", waiting{target: s, leaving: true, since: now}, nil, "", false},
	} {
		steps, still := planWaiting([]waiting{c.wait}, c.seen, func(string) time.Duration { return time.Minute }, now)
		if got := join(steps); got != c.steps || (len(still) == 1) != c.still {
			t.Errorf("%s: steps %q and %d still waiting, want %q and %v", c.name, got, len(still), c.steps, c.still)
		}
	}
}

func TestAnswersOfHAProxyAreRead(t *testing.T) {
	servers, err := parseServers([]byte("1\n# be_id be_name srv_id srv_name srv_addr\n" +
		"3 web 77 77 127.0.0.2 0 1 1 1 12 15 3 1 6 0 0 1 - 9001 - 0 9001 - - 9001\n" +
		"3 web 78 78 fd00::1 2 0 5 1 0 1 0 0 6 0 0 1 - 80 - 0 80 - - 80\n" +
		"3 web 79 79 10.0.0.1 0 1 1 1 0 1 0 0 15 0 0 1 - 80 - 0 80 - - 80\n\n> "))
	want := []server{
		{target: target{"web", "77", 77}, addr: addr("127.0.0.2:9001"), weight: 1, maint: true, checked: true, passed: true, changed: 12 * time.Second},
		{target: target{"web", "78", 78}, addr: addr("[fd00::1]:80"), weight: 5, running: true, checked: true, unasked: true},
		{target: target{"web", "79", 79}, addr: addr("10.0.0.1:80"), weight: 1, maint: true},
	}
	if err != nil || fmt.Sprint(servers) != fmt.Sprint(want) {
		t.Errorf("%+v, %v, want %+v", servers, err, want)
	}
	if _, err := parseServers([]byte("Unknown command\n")); err == nil {
		t.Error("a complaint of HAProxy was taken for servers")
	}
	stats, err := parseStats([]byte("# pxname,svname,scur,stot,status,check_status,last_chk,\n" +
		"web,77,3,41,DOWN 1/2,* L7STS,\"a \"\"quoted\"\", word\",\n\n> # pxname,svname,scur,stot,status,check_status,last_chk,\n" +
		"web,78,0,0,UP,L4OK,,\n\n> "))
	wantStats := []stat{{backend: "web", name: "77", status: "DOWN 1/2", check: "* L7STS", why: `a "quoted", word`, sessions: 3, requests: 41},
		{backend: "web", name: "78", status: "UP", check: "L4OK"}}
	if err != nil || fmt.Sprint(stats) != fmt.Sprint(wantStats) {
		t.Errorf("%+v, %v, want %+v", stats, err, wantStats)
	}
	for out, want := range map[string]string{
		"[NOTICE]   (7) : haproxy version is 2.6.12\n[ALERT]    (7) : config : parsing [/a b/haproxy.cfg.new:14] : unknown keyword 'srvr' in 'backend' section\n": "line 14: unknown keyword 'srvr' in 'backend' section",
		"[ALERT]    (7) : Binding [/a/haproxy.cfg:30] for frontend f: cannot bind socket (Address already in use) for [127.0.0.4:80]\n":                           "line 30: for frontend f: cannot bind socket (Address already in use) for [127.0.0.4:80]",
		"[WARNING]  (7) : nothing\n": "",
	} {
		if got := complaint([]byte(out)); got != want {
			t.Errorf("complaint %q, want %q", got, want)
		}
	}
}

func TestSocketsPassFromOneHolderToTheNext(t *testing.T) {
	var addrs []netip.AddrPort
	var first held
	for range 300 { // more than one message takes
		l, err := net.Listen("tcp", "127.0.0.5:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		l.Close()
		first.fds = append(first.fds, int(f.Fd()))
		addrs = append(addrs, l.Addr().(*net.TCPAddr).AddrPort())
	}
	dir, err := os.MkdirTemp("", "weir-held")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := offer(dir + "/held.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { served <- first.serve(l) }()
	var next held
	defer next.close()
	all, err := next.fetch(context.Background(), dir+"/held.sock", addrs[1:])
	if err != nil || !all || len(next.fds) != 299 {
		t.Fatalf("%d sockets, all %v, %v; want all of 299", len(next.fds), all, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	for i, fd := range next.fds {
		if boundTo(fd) != addrs[i+1] {
			t.Fatalf("socket %d is bound to %s, want %s", i, boundTo(fd), addrs[i+1])
		}
	}
}
