package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/api"
	"weir/config"
	"weir/weir"
)

// runWeir runs a command line against an API, and returns what a user gets.
func runWeir(ctx context.Context, t *testing.T, url string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	t.Setenv("WEIR_API", url)
	t.Setenv("WEIR_TOKEN", testToken)
	t.Setenv("WEIR_RUN_DIR", t.TempDir())
	var out, errs bytes.Buffer
	status = run(ctx, args, &out, &errs)
	return out.String(), errs.String(), status
}

// answering starts an API of one answer.
func answering(t *testing.T, status int, kind, body string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestExitStatusTellsUsageFromFailure(t *testing.T) {
	url := answering(t, http.StatusOK, "application/json", `{"machines": [], "meta": {"total": 0}}`)
	for _, test := range []struct {
		args string
		want int
	}{
		{"print", 0},
		{"version", 0},
		{"delete 1", 1},
		{"apply -f missing.yaml", 1},
		{"delete", 2},
		{"print extra", 2},
		{"print --colour", 2},
		{"print -o xml", 2},
		{"create -n 0", 2},
		{"create -n x", 2},
		{"delete --lb web --pool web", 2},
		{"dev foo", 2},
		{"version foo", 2},
		{"machine", 0},
		{"machine frob", 2},
		{"machine kill", 2},
		{"machine kill 1", 1},
		{"machine freeze 1 --for 0s", 2},
		{"machine partition 1 --link eth0", 2},
		{"frobnicate", 2},
		{"--api nowhere print", 2},
	} {
		stdout, stderr, got := runWeir(t.Context(), t, url, strings.Fields(test.args)...)
		if got != test.want {
			t.Errorf("weir %s: exit status %d, want %d; stderr %q", test.args, got, test.want, stderr)
		}
		if got != 0 && (!strings.HasPrefix(stderr, "weir: ") || strings.Count(stderr, "\n") != 1 || stdout != "") {
			t.Errorf("weir %s: stdout %q and stderr %q, want nothing and one line", test.args, stdout, stderr)
		}
	}
}

func TestInterruptedVerbExitsWith130(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	url := newLab(t.Context(), t.Cleanup).url
	if _, stderr, status := runWeir(ctx, t, url, "apply", "-f", writeApp(t, "#!/bin/sh\nsleep infinity\n"), "--no-wait"); status != 0 {
		t.Fatalf("apply: %s", stderr)
	}
	time.AfterFunc(300*time.Millisecond, cancel)
	_, stderr, status := runWeir(ctx, t, url, "create")
	want := "weir: interrupted: the machine goes on being made; weir print shows how far\n"
	if status != 130 || !strings.HasSuffix(stderr, want) {
		t.Errorf("exit status %d and stderr %q, want 130 and %q at its end", status, stderr, want)
	}
}

func TestInterruptedFreezeThawsTheMachine(t *testing.T) {
	lab := newLab(t.Context(), t.Cleanup)
	if _, stderr, status := runWeir(t.Context(), t, lab.url, "apply", "-f", writeApp(t, "#!/bin/sh\n")); status != 0 {
		t.Fatalf("apply: %s", stderr)
	}
	for _, test := range []struct{ args, says, undone string }{
		{"machine freeze web-lb-1 --for 1h", "web-lb-1 is frozen for 1h0m0s\n", "web-lb-1 is thawed"},
		{"machine partition web-1 --for 1h --direction out", "web-1 is cut off for 1h0m0s: what it sends by its public and its private link is lost\n", "web-1 is healed: its network is whole"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		name := strings.Fields(test.args)[2]
		go func() { // Ctrl-C as soon as it is broken
			defer cancel()
			for ctx.Err() == nil {
				if wrong, err := lab.wrong(ctx, name); err != nil || wrong != "" {
					time.Sleep(100 * time.Millisecond)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		stdout, stderr, status := runWeir(ctx, t, lab.url, strings.Fields(test.args)...)
		cancel()
		if want := "weir: interrupted: " + test.undone + "\n"; status != 130 || stdout != test.says || stderr != want {
			t.Errorf("weir %s: exit status %d, stdout %q, stderr %q, want 130, %q and %q", test.args, status, stdout, stderr, test.says, want)
		}
		if wrong, err := lab.wrong(t.Context(), name); wrong != "" || err != nil {
			t.Errorf("weir %s: what is wrong afterwards is %q, %v, want nothing", test.args, wrong, err)
		}
	}
}

func writeApp(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"weir.yaml": "name: web\nuser_data: script\n", "script": script} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "weir.yaml")
}

func TestErrorOfTheAPIIsItsSentence(t *testing.T) {
	const kind = "application/json; charset=utf-8"
	for _, test := range []struct {
		name, url, want string
	}{
		{"refused", answering(t, 422, kind, `{"id": "unprocessable_entity", "message": "there is room for 2 more", "request_id": "r1"}`),
			"there is room for 2 more"},
		{"a fault of ours", answering(t, 500, kind, `{"id": "server_error", "message": "Weir could not do this", "request_id": "r1"}`),
			"Weir could not do this (request_id r1)"},
		{"several lines and colours", answering(t, 409, kind, `{"message": "one\ntwo \u001b[31mred"}`), "one two [31mred"},
		{"another server's refusal", answering(t, 404, "text/html", "<html>nginx</html>"),
			"what answers at URL is not Weir's API: it says 404 Not Found"},
		{"another server's page", answering(t, 200, "text/html", "<html>nginx</html>"), "what answers at URL is not Weir's API"},
		{"another server's JSON", answering(t, 200, kind, `{"hello": "world"}`), "what answers at URL is not Weir's API"},
		{"JSON of another shape", answering(t, 200, kind, `[1, 2]`), "what answers at URL is not Weir's API"},
		{"nothing", answering(t, 200, kind, ""), "what answers at URL is not Weir's API"},
	} {
		for _, verb := range []string{"print", "status"} {
			_, stderr, status := runWeir(t.Context(), t, test.url, verb)
			want := "weir: " + strings.ReplaceAll(test.want, "URL", test.url) + "\n"
			if status != 1 || stderr != want {
				t.Errorf("%s: weir %s: exit status %d and %q, want 1 and %q", test.name, verb, status, stderr, want)
			}
		}
	}
}

func TestTokenDoesNotFollowARedirection(t *testing.T) {
	var got string
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
	}))
	defer thief.Close()
	s := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer s.Close()
	if _, stderr, status := runWeir(t.Context(), t, s.URL, "print"); status != 1 || !strings.Contains(stderr, "is not Weir's API") {
		t.Errorf("exit status %d, stderr %q, want 1 and that this is not Weir's API", status, stderr)
	}
	if got != "" {
		t.Errorf("the redirection's target was sent %q, want nothing", got)
	}
}

func TestWaitingOutlivesARestartOfTheControlPlane(t *testing.T) {
	lab := newLab(t.Context(), t.Cleanup)
	away := 3 // requests that meet no API
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/status") && away < 3 {
			away++
			panic(http.ErrAbortHandler)
		}
		if r.Method == http.MethodPost {
			away = 0
		}
		forwardTo(w, r, lab.url)
	}))
	defer proxy.Close()
	if _, stderr, status := runWeir(t.Context(), t, proxy.URL, "apply", "-f", writeApp(t, "#!/bin/sh\n")); status != 0 {
		t.Fatalf("apply: %s", stderr)
	}
	_, stderr, status := runWeir(t.Context(), t, proxy.URL, "create")
	if status != 0 || !strings.Contains(stderr, "web-2  in the load balancer") || away != 3 {
		t.Errorf("exit status %d after %d requests without an answer, stderr %q, want 0 and a machine", status, away, stderr)
	}
}

func TestFollowedLogHasNoOlderLinesAfterARestartOfTheControlPlane(t *testing.T) {
	lab := newLab(t.Context(), t.Cleanup)
	asked := 0
	const before, shown, long, missed = `{"time":"2020-01-02T10:00:00Z","path":"/before","total_ms":900}`, `{"time":"2020-01-02T10:00:01Z","path":"/shown"}`,
		`{"time":"2020-01-02T10:00:00Z","path":"/long","total_ms":5000}`, `{"time":"2020-01-02T10:00:02Z","path":"/missed"}`
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/logs") {
			forwardTo(w, r, lab.url)
			return
		}
		if asked++; asked == 1 {
			fmt.Fprintln(w, shown)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintln(w, strings.Join([]string{before, long, shown, missed}, "\n"))
	}))
	defer proxy.Close()
	if _, stderr, status := runWeir(t.Context(), t, proxy.URL, "apply", "-f", writeApp(t, "#!/bin/sh\n")); status != 0 {
		t.Fatalf("apply: %s", stderr)
	}
	stdout, stderr, _ := runWeir(t.Context(), t, proxy.URL, "logs", "-f", "-n", "1", "-o", "json")
	if want := strings.Join([]string{shown, long, missed}, "\n") + "\n"; stdout != want || asked != 2 {
		t.Errorf("asked %d times for\n%swant twice and\n%sstderr %q", asked, stdout, want, stderr)
	}
}

func forwardTo(w http.ResponseWriter, r *http.Request, url string) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, url+r.URL.RequestURI(), r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	req.Header = r.Header.Clone()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
	w.WriteHeader(res.StatusCode)
	var b bytes.Buffer
	b.ReadFrom(res.Body)
	w.Write(b.Bytes())
}

func TestInventoryOfManyPagesIsWhole(t *testing.T) {
	const machines = 450
	var calls int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		total := machines
		if calls == 1 {
			total++ // one goes between the first page and the second
		}
		var page, size int
		fmt.Sscan(r.URL.Query().Get("page"), &page)
		fmt.Sscan(r.URL.Query().Get("per_page"), &size)
		all := []api.InventoryMachine{}
		for i := (page - 1) * size; i < min(page*size, total); i++ {
			all = append(all, api.InventoryMachine{Line: i + 1 + machines - total, ID: int64(100_000 + i + machines - total), Name: fmt.Sprint("web-", i)})
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"machines": all, "meta": map[string]int{"total": total}})
	}))
	defer s.Close()
	stdout, stderr, status := runWeir(t.Context(), t, s.URL, "print", "-o", "json")
	var all []api.InventoryMachine
	if err := json.Unmarshal([]byte(stdout), &all); err != nil || status != 0 {
		t.Fatalf("exit status %d, %v, stderr %q", status, err, stderr)
	}
	if len(all) != machines {
		t.Fatalf("%d machines, want %d", len(all), machines)
	}
	for i, m := range all {
		if m.Line != i+1 {
			t.Fatalf("machine %d is in line %d, want %d", i, m.Line, i+1)
		}
	}
}

func TestFailedMachinesAreListedInTheOrderOfTheInventory(t *testing.T) {
	asked := 0 // for the status
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprint(w, `{"droplets": [{"id": 99999, "name": "bad-2"}, {"id": 100000, "name": "bad-3"}]}`)
			return
		}
		if r.Method == http.MethodPut {
			fmt.Fprint(w, `{"changes": []}`)
			return
		}
		asked++
		status := weir.RegionStatus{Region: "local1", Pools: []weir.PoolOverview{{ID: "p", Name: "web", Count: 2, Machines: 2}}}
		for i, id := range []weir.ID{"99999", "100000"} {
			m := weir.MachineOverview{ID: id, Name: fmt.Sprint("bad-", i+2), Pool: "p", Phase: weir.MachineActive, Boot: weir.Boot{State: weir.BootRunning}}
			if i == 1 || asked > 2 { // the last fails first
				m.Boot = weir.Boot{State: weir.BootFailed, Why: "exited with 3"}
			}
			status.Machines = append(status.Machines, m)
		}
		json.NewEncoder(w).Encode(map[string]any{"status": status})
	}))
	defer s.Close()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "-n", "2"}, "weir: 2 of 2 machines failed: bad-2, bad-3\n"},
		{[]string{"apply", "-f", writeApp(t, "#!/bin/sh\n")}, "weir: 2 machines failed: bad-2, bad-3\n"},
	} {
		asked = 0
		if _, stderr, status := runWeir(t.Context(), t, s.URL, test.args...); status != 1 || !strings.HasSuffix(stderr, test.want) || asked < 3 {
			t.Errorf("weir %s: exit status %d after %d looks and stderr\n%s\nwant 1 and %q at its end", test.args, status, asked, stderr, test.want)
		}
	}
}

func TestHowFarAMachineIs(t *testing.T) {
	const id = "100007"
	server := func(states ...weir.ServerState) []weir.ServerStatus {
		var all []weir.ServerStatus
		for _, s := range states {
			all = append(all, weir.ServerStatus{ID: id, State: s, Why: "L4TOUT"})
		}
		return all
	}
	active := weir.MachineOverview{ID: id, Phase: weir.MachineActive, Boot: weir.Boot{State: weir.BootDone}}
	for _, test := range []struct {
		name    string
		machine weir.MachineOverview
		servers []weir.ServerStatus
		tags    []string
		standby bool // the report is that of an instance without the address
		want    far
	}{
		{"asked for", weir.MachineOverview{ID: id}, nil, nil, false, far{said: "created"}},
		{"no room for it", weir.MachineOverview{ID: id, Phase: weir.MachineNew, Err: "no room"}, nil, nil, false,
			far{said: "created, but not there yet: no room", stuck: "no room"}},
		{"its user-data runs", weir.MachineOverview{ID: id, Phase: weir.MachineActive, Boot: weir.Boot{State: weir.BootRunning}}, nil, nil, false,
			far{said: "booting"}},
		{"its user-data failed", weir.MachineOverview{ID: id, Phase: weir.MachineActive, Boot: weir.Boot{State: weir.BootFailed, Why: "exited with 3"}}, nil, nil, false,
			far{said: "failed: exited with 3", failed: true}},
		{"off", weir.MachineOverview{ID: id, Phase: weir.MachineOff}, nil, nil, false,
			far{said: "off: somebody has powered it off", failed: true}},
		{"its host is down", weir.MachineOverview{ID: id, Phase: weir.MachineOff, OnHost: "host-2", HostDown: true}, nil, nil, false,
			far{said: "off: its host host-2 is down", stuck: "host host-2 is down"}},
		{"somebody deletes it", weir.MachineOverview{ID: id, Phase: weir.MachineActive, Deleting: true}, nil, nil, false,
			far{said: "deleting: somebody has asked for that", failed: true}},
		{"somebody has deleted it", weir.MachineOverview{ID: "1"}, nil, nil, false,
			far{said: "gone: somebody has deleted it", failed: true}},
		{"no load balancer wants it", active, nil, []string{"blue"}, false, far{said: "active", done: true}},
		{"not yet known to its load balancer", active, nil, []string{"WEB"}, false, far{said: "active"}},
		{"its first check", active, server(weir.ServerChecking), []string{"web"}, false, far{said: "active, its health check is under way"}},
		{"its check fails", active, server(weir.ServerDown), []string{"web"}, false, far{said: "active, but its health check fails: L4TOUT"}},
		{"up in one of two backends", active, server(weir.ServerUp, weir.ServerDown), []string{"web"}, false,
			far{said: "active, but its health check fails: L4TOUT"}},
		{"up", active, server(weir.ServerUp, weir.ServerUp), []string{"web"}, false, far{said: "in the load balancer", done: true}},
		{"up, and chosen by its ID", active, server(weir.ServerUp), nil, false, far{said: "in the load balancer", done: true}},
		{"up on a standby alone", active, server(weir.ServerUp), []string{"web"}, true, far{said: "active"}},
	} {
		s := weir.RegionStatus{Machines: []weir.MachineOverview{test.machine},
			LoadBalancers: []weir.LoadBalancerOverview{{Name: "web", Tag: "web", Phase: weir.LoadBalancerActive,
				Instances: []weir.InstanceOverview{{Active: !test.standby, Node: weir.NodeStatus{Servers: test.servers}}}}}}
		if got := howFar(&s, id, test.tags); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestApplyWaitsForNoMachineThatItsHostKeeps(t *testing.T) {
	s := weir.RegionStatus{
		Pools: []weir.PoolOverview{{ID: "p", Name: "web", Count: 1, Machines: 1, Serving: 1}},
		Machines: []weir.MachineOverview{{ID: "100001", Name: "web-1", Pool: "p", OnHost: "host-1", HostDown: true, Deleting: true},
			{ID: "100002", Name: "web-2", Pool: "p", OnHost: "host-2", Phase: weir.MachineActive}}}
	to := settling{app: &config.App{Pool: &weir.Pool{Name: "web"}}, board: newBoard(io.Discard), had: map[weir.ID]string{}}
	to.remember(&s)
	if !to.pool(&s, s.Pools[0]) {
		t.Error("it waits for a machine that cannot be destroyed before its host is up again")
	}
	if said, gone := howGone(&s, "100001"); gone || said != "deleting, but not before its host host-1 is up again" {
		t.Errorf("of the machine is said %q, gone %v", said, gone)
	}
	s.Machines[0].HostDown = false
	if to.pool(&s, s.Pools[0]) {
		t.Error("it does not wait for a machine that is being destroyed")
	}
}

func TestStatusFitsInEightyColumns(t *testing.T) {
	now := time.Now()
	s := weir.RegionStatus{Region: "local1", Taken: now, Versions: weir.Versions{Weir: "v0.1.0-12-gabcdef0", HAProxy: "2.6.12", Etcd: "3.7.3"},
		Counts:   weir.MachineCounts{New: 2, Active: 998, Failed: 2, Off: 3, Deleting: 4},
		Problems: []string{"Server web-2 of load balancer web is down: L7STS: HTTP status 503, and it goes on for much longer than a line has room for."},
		LoadBalancers: []weir.LoadBalancerOverview{{ID: "x", Name: "front-of-the-shop", Algorithm: weir.RoundRobin, Plan: []string{"a", "b", "c", "d", "e", "f", "g"},
			Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 8080}, {Entry: weir.TCP, EntryPort: 5432, Target: weir.TCP, TargetPort: 5432}},
			Instances: []weir.InstanceOverview{{Machine: "100001", Active: true, Wants: 12345, Node: weir.NodeStatus{Revision: 12344, Agent: "v0.1.0-12-gabcdef0", Seen: now.Add(-3 * time.Second),
				HAProxy: weir.HAProxyStatus{Version: "2.6.12", PID: 1234567, Reloads: 12},
				Servers: []weir.ServerStatus{{Backend: "servers-http-8080-of-something-long", ID: "100002", State: weir.ServerDown, Why: "L7STS: HTTP status 503\n\x1b[31m", Sessions: 12, Requests: 1234567}}}}}}},
		Pools:    []weir.PoolOverview{{Name: "shop", Count: 3, Machines: 2, Serving: 1, Plan: []string{"create a machine"}}},
		Machines: []weir.MachineOverview{{ID: "100001", Name: "front-of-the-shop-lb-1"}, {ID: "100002", Name: strings.Repeat("shop-", 20) + "1"}},
	}
	var b bytes.Buffer
	if err := writeStatus(&b, &s, 80); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 || strings.ContainsAny(line, "\x1b\t") || strings.HasSuffix(line, " \n") {
			t.Errorf("line of %d characters: %q", n, line)
		}
	}
	for _, want := range []string{"! Server web-2", "998 active, 2 failed", "since HAProxy's last reload", "12344 of 12345", "3s ago", "next: create a machine", "and 2 more steps", "no address yet", "down"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("status has no %q:\n%s", want, b.String())
		}
	}
}

func TestTerminalIsRepaintedInPlace(t *testing.T) {
	var b bytes.Buffer
	board := newBoard(&b)
	board.size = func() (int, int) { return 24, 5 }
	for i := range 5 {
		board.set(fmt.Sprint(i), fmt.Sprint("web-", i), "created, and much more is to be said")
	}
	board.paint()
	want := "web-0  created, and muc…\n"
	if got := b.String(); !strings.HasPrefix(got, want[:len(want)-5]) || strings.Count(got, "\n") != 3 || !strings.Contains(got, "… and 3 more\n") {
		t.Errorf("painted %q, want three lines that fit, the last one counting the rest", got)
	}
	b.Reset()
	board.set("0", "web-0", "active")
	board.paint()
	if got := b.String(); !strings.HasPrefix(got, "\x1b[3A\x1b[J") || !strings.Contains(got, "web-0  active\n") {
		t.Errorf("painted %q, want the three lines replaced", got)
	}
	b.Reset()
	board.say("web-1 failed\x1b[2J")
	if got := b.String(); !strings.HasPrefix(got, "\x1b[3A\x1b[Jweb-1 failed[2J\n") || strings.Count(got, "\n") != 4 {
		t.Errorf("said %q, want the sentence above the lines", got)
	}
}

func TestRecordOfAnotherUserIsIgnored(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to write a file of another user")
	}
	root := t.TempDir()
	dir := filepath.Join(root, "dev")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, "stale.json")
	if err := os.WriteFile(stale, []byte(`{"api": "http://127.0.0.1:9", "pid": 1, "start": "1"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	remove, err := publishIn(dir, record{API: "http://127.0.0.1:7070", Data: "/data", TokenFile: "/data/token"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("WEIR_RUN_DIR", root)
	if r, err := find(); err != nil || r.API != "http://127.0.0.1:7070" {
		t.Fatalf("found %+v, %v, want our own record", r, err)
	}
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Errorf("the record of a process that is gone is still there: %v", err)
	}
	ours := filepath.Join(dir, fmt.Sprintf("%d.json", os.Getpid()))
	b, err := os.ReadFile(ours)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.json")
	if err := os.WriteFile(other, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := find(); err == nil || !strings.Contains(err.Error(), "2 control planes run on this machine") || !strings.Contains(err.Error(), "--api") {
		t.Errorf("with two records: %v, want both listed and --api asked for", err)
	}
	if err := os.Chown(other, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if _, err := find(); err != nil {
		t.Errorf("with a record of user 1234: %v, want it ignored", err)
	}
	remove()
	if _, err := find(); err == nil || !strings.Contains(err.Error(), "neither weir dev nor weir serve runs") {
		t.Errorf("once removed: %v, want that none runs", err)
	}
}

func TestRecordOfWhomRootHasGivenTheDirectoryCounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give a directory away")
	}
	const nobody = 65534
	root := t.TempDir()
	dir := filepath.Join(root, "serve")
	if _, err := publishIn(dir, record{Kind: "weir serve", API: "http://127.0.0.1:7070"}); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(dir, fmt.Sprintf("%d.json", os.Getpid()))
	t.Setenv("WEIR_RUN_DIR", root)
	for _, step := range []struct {
		what  string
		do    func() error
		found bool
	}{
		{"the record is another user's", func() error { return os.Chown(record, nobody, nobody) }, false},
		{"root gave them the directory", func() error { return os.Chown(dir, nobody, nobody) }, true},
		{"anybody can make such a directory", func() error { return os.Chmod(root, 0o777) }, false},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if r, err := find(); (err == nil) != step.found {
			t.Errorf("%s: found %+v, %v, want found %v", step.what, r, err, step.found)
		}
	}
}

func TestShownPoolSaysHowOldItsReasonIs(t *testing.T) {
	for since, want := range map[time.Duration]string{time.Second: "\n  why: CPU at 10 %", 150 * time.Second: " ago): CPU at 10 %"} {
		at := time.Now().Add(-since).UTC().Format(time.RFC3339Nano)
		url := answering(t, 200, "application/json", `{"pool": {"name": "web", "count": 2, "scale": {"min_instances": 1, "max_instances": 4, "target_cpu_utilization": 0.6},
			"verdict": {"at": "`+at+`", "size": 2, "why": "CPU at 10 % of 2"}}}`)
		if stdout, stderr, status := runWeir(t.Context(), t, url, "pool", "show", "web"); status != 0 || !strings.Contains(stdout, want) {
			t.Errorf("after %s: exit status %d and\n%s%s\nwant %q in it", since, status, stdout, stderr, want)
		}
	}
}

func TestSimulatedAutoscalePoolCoolsDownAsItDoes(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace.csv")
	lines := "2026-11-23T06:00:00Z,100\n2026-11-23T06:20:00Z,100\n2026-11-23T06:20:30Z,200\n2026-11-23T06:22:00Z,200\n2026-11-23T06:22:30Z,100\n2026-11-23T07:00:00Z,100\n"
	if err := os.WriteFile(trace, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	for autoscale, cooldown := range map[bool]time.Duration{false: 5 * time.Minute, true: 10 * time.Minute} {
		url := answering(t, 200, "application/json", fmt.Sprintf(`{"pool": {"name": "web", "size": "s-1vcpu-1gb", "autoscale": %t, "count": 2,
			"scale": {"min_instances": 1, "max_instances": 9, "target_cpu_utilization": 0.6}}}`, autoscale))
		stdout, stderr, status := runWeir(t.Context(), t, url, "pool", "simulate", "web", "--trace", trace, "--capacity", "100", "-o", "json")
		var said struct {
			Changes []struct {
				At       time.Time
				From, To int
			}
		}
		if err := json.Unmarshal([]byte(stdout), &said); status != 0 || err != nil {
			t.Fatalf("exit status %d: %s%s", status, stdout, stderr)
		}
		var grown time.Time
		shrinks := 0
		for _, c := range said.Changes {
			if c.To > c.From {
				grown = c.At
			} else if after := c.At.Sub(grown); !grown.IsZero() {
				if after < cooldown || after > cooldown+2*time.Minute {
					t.Errorf("autoscale %t: it shrinks %s after it has grown, want that it waits %s", autoscale, after, cooldown)
				}
				grown = time.Time{}
				shrinks++
			}
		}
		if shrinks == 0 {
			t.Errorf("autoscale %t: it never grows and shrinks: %s", autoscale, stdout)
		}
	}
}
