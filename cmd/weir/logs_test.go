package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"weir/examples"
	"weir/weir"
)

// followed is weir logs -f -o json.
type followed struct {
	mu    sync.Mutex
	lines []weir.AccessLine
	notes bytes.Buffer
}

// followLogs runs weir logs -f with these arguments until the test ends.
func (r *region) followLogs(args ...string) *followed {
	r.t.Helper()
	f := new(followed)
	cmd := exec.Command(r.binary, append([]string{"--api", "http://" + r.api, "--token-file", filepath.Join(r.data, "token"), "logs", "-f", "-o", "json"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd.Stderr = &f.notes
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var l weir.AccessLine
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				r.t.Errorf("weir logs -f: %v: %q", err, lines.Bytes())
				continue
			}
			f.mu.Lock()
			f.lines = append(f.lines, l)
			f.mu.Unlock()
		}
	}()
	r.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGINT)
		<-done
		if err := cmd.Wait(); err != nil {
			r.t.Errorf("weir logs -f, after Ctrl-C: %v\n%s", err, &f.notes)
		}
	})
	return f
}

// has waits until a line with that request ID is there.
func (f *followed) has(r *region, id string) (line weir.AccessLine) {
	r.t.Helper()
	r.within(30*time.Second, func() string {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, l := range f.lines {
			if l.RequestID == id {
				line = l
				return ""
			}
		}
		return fmt.Sprintf("weir logs -f shows %d lines, and none with %s", len(f.lines), id)
	})
	return line
}

// listenInGateway returns a UDP socket inside the region's network, and its address there.
func (r *region) listenInGateway(ip string) net.PacketConn {
	r.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ours, err := netns.Get()
	if err != nil {
		r.t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := netns.GetFromName(r.gateway())
	if err != nil {
		r.t.Fatal(err)
	}
	defer theirs.Close()
	if err := netns.Set(theirs); err != nil {
		r.t.Fatal(err)
	}
	c, err := net.ListenPacket("udp4", ip+":5514")
	if back := netns.Set(ours); back != nil {
		panic(back) // this thread would go on there
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

var savedID = regexp.MustCompile(`(?mi)^(saw|x-request-id): *(\S+)\r?$`)

// request asks the load balancer with curl, and returns the IDs that the server saw and that the client got.
func (r *region) request(url string, args ...string) (saw, got string) {
	r.t.Helper()
	out, err := r.curl(append(args, "-D", "-", "-o", "/dev/null", url)...)
	if err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	for _, m := range savedID.FindAllStringSubmatch(out, -1) {
		if strings.EqualFold(m[1], "saw") {
			saw = m[2]
		} else {
			got = m[2]
		}
	}
	return saw, got
}

// An access log tells of each request, whatever is in it, with the ID that the server and the client have; it can be followed and
// filtered, also over a hand-over, and is kept in files and sent to syslog.
func TestAccessLogIsFollowedKeptAndSent(t *testing.T) {
	r := newRegion(t)
	dir := t.TempDir()
	script, err := examples.FS.ReadFile("user-data.sh")
	if err != nil {
		t.Fatal(err)
	}
	script = bytes.Replace(script, []byte("\troot /srv/www;\n"), []byte("\troot /srv/www;\n\tadd_header Saw $http_x_request_id always;\n"), 1)
	if err := os.WriteFile(filepath.Join(dir, "user-data.sh"), script, 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "weir.yaml")
	yaml := "name: web\ncount: 2\nsize: s-1vcpu-512mb-10gb\nuser_data: user-data.sh\n"
	write := func(log string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(yaml+"load_balancer:\n  health_check: {check_interval_seconds: 3, healthy_threshold: 2}\n"+log), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	r.start("--config", file)
	if _, errs, code := r.weir("logs"); code == 0 || !strings.Contains(errs, "has no access log") || !strings.Contains(errs, "access_log: {}") {
		t.Errorf("weir logs without a log: exit %d, want a sentence that says how to have one:\n%s", code, errs)
	}

	write("  access_log: {}\n")
	if said := r.must("apply", "-f", file); !strings.Contains(said, "access_log") {
		t.Errorf("weir apply says %q, want the access log in it", said)
	}
	p := r.whole()
	address := "http://" + p.status.Address.String()
	all, filtered := r.followLogs(), r.followLogs("--status", "404", "--path", "/none")

	saw, got := r.request(address+"/?a=\"b\"", "-H", "User-Agent: \"}\\,\x01\xff", "-H", "Host: \"quoted\"", "-H", "Referer: ${HOME} %[src]")
	line := all.has(r, got)
	if saw == "" || saw != got || line.UserAgent != "\"}\\,\x01" || line.Host != `"quoted"` || line.Path != `/?a="b"` || line.Referer != "${HOME} %[src]" || line.Status == 0 || line.Instance != p.machines[p.active].ID {
		t.Errorf("the server saw %q, the client got %q, the log has %+v", saw, got, line)
	}
	if saw, got = r.request(address+"/", "-H", "X-Request-ID: mine-1"); saw != "mine-1" || got != "mine-1" {
		t.Errorf("an ID of the client's own: the server saw %q, the client got %q, want mine-1", saw, got)
	}
	if line := all.has(r, "mine-1"); line.Status != 200 || line.ServerName == "" {
		t.Errorf("got %+v, want 200 of a server with a name", line)
	}
	_, missing := r.request(address + "/none/here")
	filtered.has(r, missing)
	filtered.mu.Lock()
	if len(filtered.lines) != 1 {
		t.Errorf("a filter for 404s below /none shows %+v, want one line", filtered.lines)
	}
	filtered.mu.Unlock()

	r.must("lb", "failover")
	p = r.whole()
	_, after := r.request(address + "/after")
	if line := all.has(r, after); line.Instance != p.machines[p.active].ID {
		t.Errorf("after a hand-over the line is of instance %s, want %s", line.Instance, p.machines[p.active].ID)
	}
	var told []string
	for l := range strings.Lines(r.must("logs", "-n", "3")) {
		told = append(told, l)
	}
	if len(told) != 3 || !strings.Contains(told[0], "mine-1") || !strings.Contains(told[1], "/none/here") || !strings.Contains(told[2], "/after") {
		t.Errorf("the last 3 lines of both instances are %q, want mine-1, /none/here and /after", told)
	}

	// Only an operator has them sent anywhere.
	gateway := strings.Fields(r.inside(p, p.active, "ip", "-4", "route", "show", "default"))[2]
	syslog := r.listenInGateway(gateway)
	var made struct{ Token struct{ Token string } }
	if status := r.ask(http.MethodPost, "/v2/weir/tokens", `{"name": "tenant", "scopes": ["read", "write"]}`, &made); status != http.StatusCreated {
		t.Fatalf("a token: status %d", status)
	}
	write("  access_log: {file: true, syslog: \"udp://" + gateway + ":5514\"}\n")
	tenant := writeFile(t, "tenant.token", made.Token.Token+"\n")
	if err := os.Chmod(tenant, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := r.weir("apply", "-f", file, "--token-file", tenant); code == 0 || !strings.Contains(errs, "the operator's to say") {
		t.Errorf("a tenant has lines sent: exit %d:\n%s", code, errs)
	}
	r.must("apply", "-f", file)
	p = r.whole()
	r.within(30*time.Second, func() string {
		_, id := r.request(address + "/kept")
		syslog.SetReadDeadline(time.Now().Add(time.Second))
		b := make([]byte, 64<<10)
		n, _, err := syslog.ReadFrom(b)
		if err != nil {
			return "nothing comes to syslog"
		}
		if message := string(b[:n]); !strings.HasPrefix(message, "<134>1 2") || !strings.Contains(message, ` weir - access - {"time":"`) || !strings.HasSuffix(message, "}") {
			t.Errorf("syslog got %q", message)
		}
		if kept := r.inside(p, p.active, "cat", "/var/lib/weir/node/logs/access.log"); !strings.Contains(kept, id) {
			return fmt.Sprintf("the file has %q, want %s in it", kept, id)
		}
		return ""
	})
	if n := r.status().LoadBalancers[0].Instances[0].Node.HAProxy.Reloads; n != 1 {
		t.Errorf("%d reloads, want 1: files and syslog are the agent's", n)
	}
}
