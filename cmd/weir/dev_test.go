package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// buildWeir returns the binary that users get: the one that WEIR_BINARY names, or one
// that it builds.
var buildWeir = sync.OnceValues(func() (string, error) {
	if binary := os.Getenv("WEIR_BINARY"); binary != "" {
		return binary, nil
	}
	dir, err := os.MkdirTemp("", "weir-e2e-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "weir")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return binary, nil
})

// region is a weir dev that a test started.
type region struct {
	t      *testing.T
	binary string
	data   string
	api    string
	front  string
	cmd    *exec.Cmd
	ended  chan error
	out    *os.File // what weir dev says

	mu    sync.Mutex
	later []string // of it, once it was up
}

// newRegion prepares a region of its own; start starts it.
func newRegion(t *testing.T) *region {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("weir dev needs root")
	}
	binary, err := buildWeir()
	if err != nil {
		t.Fatal(err)
	}
	r := &region{t: t, binary: binary, data: t.TempDir(), api: freeAddr(t), front: freeAddr(t)}
	t.Cleanup(func() {
		if r.cmd != nil && r.cmd.ProcessState == nil {
			r.stop(syscall.SIGTERM)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.Failed() {
			t.Logf("once it was up, weir dev said:\n%s", strings.Join(r.later, "\n"))
		}
	})
	return r
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// start starts weir dev and waits until it says where the load balancer is.
func (r *region) start(args ...string) {
	r.t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	r.cmd = exec.Command(r.binary, append([]string{"dev", "--data", r.data, "--api", r.api, "--front", r.front}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = in, in
	err = r.cmd.Start()
	in.Close()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd, ended := r.cmd, make(chan error, 1)
	r.ended, r.out = ended, out
	go func() {
		ended <- cmd.Wait()
	}()
	said := make(chan string)
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			said <- lines.Text()
		}
	}()
	var all []string
	late := time.After(2 * time.Minute)
	for {
		select {
		case line, more := <-said:
			if !more {
				r.t.Fatalf("weir dev ended: %v\n%s", <-ended, strings.Join(all, "\n"))
			}
			all = append(all, line)
			if strings.HasPrefix(line, "http://"+r.front+"/") {
				go func() {
					for line := range said {
						r.mu.Lock()
						r.later = append(r.later, line)
						r.mu.Unlock()
					}
				}()
				return
			}
		case <-late:
			r.t.Fatalf("weir dev is not up within 2 minutes:\n%s", strings.Join(all, "\n"))
		}
	}
}

// stop ends weir dev by a signal and waits for its end.
func (r *region) stop(sig syscall.Signal) {
	r.t.Helper()
	r.cmd.Process.Signal(sig)
	select {
	case <-r.ended:
	case <-time.After(time.Minute):
		r.cmd.Process.Kill()
		r.t.Errorf("weir dev still runs a minute after %s", sig)
	}
}

// weir runs a verb and returns what it printed.
func (r *region) weir(args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.binary, args...)
	token, err := os.ReadFile(filepath.Join(r.data, "token"))
	if err != nil {
		r.t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "WEIR_API=http://"+r.api, "WEIR_TOKEN="+strings.TrimSpace(string(token)))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs a verb that must do well, and returns its standard output.
func (r *region) must(args ...string) string {
	r.t.Helper()
	out, errs, code := r.weir(args...)
	if code != 0 {
		r.t.Fatalf("weir %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// call calls the API, and returns the status of its answer, 0 if there is none.
func (r *region) call(method, path, body string) int { return r.ask(method, path, body, nil) }

// ask is call with an answer to read, if into is not nil.
func (r *region) ask(method, path, body string, into any) int {
	token, err := os.ReadFile(filepath.Join(r.data, "token"))
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://"+r.api+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if into != nil {
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			r.t.Fatal(err)
		}
	}
	return resp.StatusCode
}

// inventory is what weir print shows, by name.
func (r *region) inventory() map[string]string {
	r.t.Helper()
	var machines []struct {
		Name    string `json:"name"`
		Private string `json:"private_ip"`
		ID      int    `json:"id"`
	}
	if err := json.Unmarshal([]byte(r.must("print", "-o", "json")), &machines); err != nil {
		r.t.Fatal(err)
	}
	all := map[string]string{}
	for _, m := range machines {
		all[m.Name] = fmt.Sprintf("%d %s", m.ID, m.Private)
	}
	return all
}

var hostnameIn = regexp.MustCompile(`web-\d+`)

// answers sends n requests to the front and returns the names of those that answered.
func (r *region) answers(n int) (names []string) {
	r.t.Helper()
	return slices.Sorted(maps.Keys(r.counted(n, func(body string) string { return hostnameIn.FindString(body) })))
}

// counted sends n requests to the front and returns how many answers there are of each kind.
func (r *region) counted(n int, kind func(body string) string) map[string]int {
	r.t.Helper()
	count := map[string]int{}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range n {
		resp, err := client.Get("http://" + r.front + "/")
		if err != nil {
			r.t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			r.t.Fatalf("status %s, %v, want 200", resp.Status, err)
		}
		count[kind(string(body))]++
	}
	return count
}

// leave has a client of the API leave in the middle of an answer.
func (r *region) leave() {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.api)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close() // with what was not read: a reset
	client := conn.(*net.TCPConn)
	// More answers than a connection holds.
	if _, err := client.Write(bytes.Repeat([]byte("GET /openapi.yaml HTTP/1.1\r\nHost: weir\r\n\r\n"), 100)); err != nil {
		r.t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != nil {
		r.t.Fatal(err)
	}
	client.CloseWrite()
	time.Sleep(50 * time.Millisecond)
}

// traffic sends requests all the time until stop, which returns how many it sent and
// how many failed.
func (r *region) traffic() (stop func() (sent, failed int64)) {
	var n, bad atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		for ctx.Err() == nil {
			resp, err := client.Get("http://" + r.front + "/")
			n.Add(1)
			if err != nil {
				bad.Add(1)
			} else {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					bad.Add(1)
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return func() (int64, int64) {
		cancel()
		<-done
		return n.Load(), bad.Load()
	}
}

// leftovers returns what the kernel has of a region: processes, namespaces and mounts
// that speak of its data directory or its tag.
func leftovers(data string) (left []string) {
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil && strings.Contains(string(b), data) {
		left = append(left, "a mount below "+data)
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), data) {
			left = append(left, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return left
}

// gateway returns the name of the region's gateway namespace, which its front lives in.
func (r *region) gateway() string {
	r.t.Helper()
	pid, err := os.ReadFile(filepath.Join(r.data, "front.pid"))
	if err != nil {
		r.t.Fatal(err)
	}
	own, err := os.Stat("/proc/" + strings.Fields(string(pid))[0] + "/ns/net")
	if err != nil {
		r.t.Fatal(err)
	}
	names, _ := filepath.Glob("/run/netns/weir-*-gw")
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && os.SameFile(info, own) {
			return filepath.Base(name)
		}
	}
	r.t.Fatalf("the front is in none of %q", names)
	return ""
}

// kernel returns what the kernel has by the name of a region's gateway: namespaces and cgroups.
func kernel(gateway string) (all []string) {
	tag := strings.TrimSuffix(gateway, "-gw")
	for _, pattern := range []string{"/run/netns/" + tag + "-*", "/sys/fs/cgroup/" + tag, "/sys/fs/cgroup/*/" + tag} {
		found, _ := filepath.Glob(pattern)
		all = append(all, found...)
	}
	return all
}

func TestRegionServesGrowsShrinksAndComesBack(t *testing.T) {
	r := newRegion(t)
	r.start()
	gateway := r.gateway()
	if got := kernel(gateway); len(got) < 2 {
		t.Fatalf("a running region has %q, want its gateway and a cgroup", got)
	}
	if got, want := r.answers(30), []string{"web-1", "web-2", "web-3"}; !slices.Equal(got, want) {
		t.Fatalf("answers from %q, want %q", got, want)
	}

	stop := r.traffic()
	r.must("create", "-n", "2")
	if got := r.answers(30); len(got) != 5 {
		t.Errorf("answers from %q, want all five", got)
	}
	r.must("delete", "web-1", "2") // line 2 of the inventory is web-2
	if got, want := r.answers(30), []string{"web-3", "web-4", "web-5"}; !slices.Equal(got, want) {
		t.Errorf("answers from %q, want %q", got, want)
	}
	r.must("reload")
	if sent, failed := stop(); failed > 0 {
		t.Errorf("%d of %d requests failed while machines came and went, want none", failed, sent)
	}
	if config := r.must("generate"); !strings.Contains(config, "web-5") || strings.Contains(config, "web-1 ") {
		t.Errorf("the configuration is not that of the inventory:\n%s", config)
	}

	had := r.inventory()
	r.stop(syscall.SIGKILL)
	if got := r.answers(9); len(got) != 3 {
		t.Errorf("without its control plane the load balancer answers from %q, want three servers", got)
	}
	r.start()
	if got := r.inventory(); fmt.Sprint(got) != fmt.Sprint(had) {
		t.Errorf("inventory after kill -9 is %v, want %v", got, had)
	}
	if got := r.answers(30); len(got) != 3 {
		t.Errorf("answers after kill -9 from %q, want three servers", got)
	}

	r.stop(syscall.SIGTERM)
	if left := leftovers(r.data); len(left) > 0 {
		t.Errorf("after a clean stop there is %q", left)
	}
	if left := kernel(gateway); len(left) > 0 {
		t.Errorf("after a clean stop there are namespaces or cgroups %q", left)
	}
	r.start()
	if got := r.inventory(); fmt.Sprint(got) != fmt.Sprint(had) {
		t.Errorf("inventory after a stop is %v, want %v", got, had)
	}

	// Nobody reads what it says any more, as when Ctrl-C also ends the tee behind it; nor what it answers.
	gateway = r.gateway()
	r.out.Close()
	for range 10 {
		r.leave()
	}
	if got := r.inventory(); fmt.Sprint(got) != fmt.Sprint(had) {
		t.Errorf("inventory after clients have left is %v, want %v", got, had)
	}
	r.stop(syscall.SIGTERM)
	if left := append(leftovers(r.data), kernel(gateway)...); len(left) > 0 {
		t.Errorf("after a stop that nobody heard of there is %q", left)
	}
	if signal.Ignored(syscall.SIGHUP) {
		return
	}
	r.start()
	gateway = r.gateway()
	r.stop(syscall.SIGHUP)
	if left := append(leftovers(r.data), kernel(gateway)...); len(left) > 0 {
		t.Errorf("after its terminal was closed there is %q", left)
	}
}

func TestServerThatWasBrokenOnPurposeServesAgain(t *testing.T) {
	r := newRegion(t)
	r.start()
	for _, args := range [][]string{{"freeze", "web-1", "--for", "500ms"}, {"partition", "web-2", "--down", "--for", "500ms"},
		{"freeze", "web-3"}, {"reboot", "web-3"}} {
		r.must(append([]string{"machine"}, args...)...)
	}
	var got []string
	for deadline := time.Now().Add(time.Minute); len(got) < 3; got = r.answers(30) {
		if time.Now().After(deadline) {
			t.Fatalf("answers from %q a minute after all was mended, want three servers", got)
		}
	}
	r.must("machine", "freeze", "web-1") // which is no reason not to end
	gateway := r.gateway()
	r.stop(syscall.SIGTERM)
	if left := kernel(gateway); len(left) > 0 {
		t.Errorf("after a clean stop there are namespaces or cgroups %q", left)
	}
}

func TestTwoCreatesAtOnceBothGetTheirs(t *testing.T) {
	r := newRegion(t)
	r.start("--config", writeFile(t, "weir.yaml", "name: web\nsize: s-1vcpu-512mb-10gb\ncount: 0\n"))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { r.weir("create", "-n", "2", "--no-wait") })
	}
	wg.Wait()
	if got := r.inventory(); len(got) != 6 {
		t.Errorf("inventory has %d machines, want 6: %v", len(got), got)
	}
}

func TestMachineWhoseUserDataFailsGetsNoRequest(t *testing.T) {
	r := newRegion(t)
	dir := t.TempDir()
	script := "#!/bin/sh\nservice nginx start\necho the disk is on fire\nexit 3\n"
	if err := os.WriteFile(filepath.Join(dir, "bad.sh"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	r.start()
	yaml := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(yaml, []byte("name: web\ncount: 3\nuser_data: bad.sh\nsize: s-1vcpu-512mb-10gb\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.must("apply", "-f", yaml)
	_, errs, code := r.weir("create")
	if code == 0 || !strings.Contains(errs, "exited with 3") || !strings.Contains(errs, "the disk is on fire") {
		t.Errorf("weir create: exit %d, want a failure that shows the end of the log:\n%s", code, errs)
	}
	if got, want := r.answers(30), []string{"web-1", "web-2", "web-3"}; !slices.Equal(got, want) {
		t.Errorf("answers from %q, want %q: the failed machine is no server", got, want)
	}
}

func TestFullDiskStopsNoRequestAndLosesNothing(t *testing.T) {
	r := newRegion(t)
	if err := syscall.Mount("weir-test", r.data, "tmpfs", 0, "size=1200m"); err != nil {
		t.Skipf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(r.data, syscall.MNT_DETACH) })
	r.start()
	had := r.inventory()

	filler := filepath.Join(r.data, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(f, io.LimitReader(zeros{}, 2<<30)) // until there is no space left
	f.Close()
	stop := r.traffic()
	for n := 0; ; n++ {
		select {
		case <-r.ended: // the store could not be written to
		default:
			if n < 1_000_000 { // small rows fit into what etcd has set aside
				r.call(http.MethodPost, "/v2/tags", fmt.Sprintf(`{"name": "%d-%s"}`, n, strings.Repeat("x", 200)))
				continue
			}
			t.Fatal("weir dev does not mind a full disk")
		}
		break
	}
	if r.cmd.ProcessState.Success() {
		t.Error("weir dev ended well on a full disk, want an error")
	}
	r.answers(30)
	if sent, failed := stop(); failed > 0 {
		t.Errorf("%d of %d requests failed, want none", failed, sent)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.start()
	if got := r.inventory(); fmt.Sprint(got) != fmt.Sprint(had) {
		t.Errorf("inventory after the disk was full is %v, want %v", got, had)
	}
	r.stop(syscall.SIGTERM)
}

// zeros reads as zeros for ever.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestBadStartIsOneSentence(t *testing.T) {
	r := newRegion(t)
	r.start("--config", writeFile(t, "weir.yaml", "name: web\ncount: 0\n"))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	other := t.TempDir()
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"a second on the same data", []string{"--data", r.data}, "another weir (pid"},
		{"a port that is taken", []string{"--data", other, "--api", taken.Addr().String()}, "another process has this address"},
		{"an address that others reach", []string{"--data", other, "--api", "0.0.0.0:0"}, "loopback"},
		{"no data directory", []string{"--data", ""}, "want a directory"},
		{"no host", []string{"--data", other, "--hosts", "0"}, "--hosts is 0, want 1 to 16"},
		{"a directory with other things", []string{"--data", filepath.Dir(writeFile(t, "thesis.txt", "long\n"))}, "has other things in it (thesis.txt)"},
		{"a file that is not there", []string{"--data", other, "--config", "no-such.yaml"}, "no-such.yaml"},
		{"an unknown key", []string{"--data", other, "--config", writeFile(t, "bad.yaml", "name: web\ncuont: 3\n")}, "bad.yaml:2"},
		{"a snippet that HAProxy refuses", []string{"--data", other, "--config", writeFile(t, "bad.yaml", "name: web\nhaproxy:\n  global: tune.bogus 3\n")}, `refuses it: "tune.bogus 3"`},
		{"a snippet with a section", []string{"--data", other, "--config", writeFile(t, "bad.yaml", "name: web\nhaproxy:\n  defaults: |\n    backend x\n")}, "bad.yaml:3: defaults: line 1"},
		{"no token of DigitalOcean's", []string{"--data", other, "--acme-directory", "https://ca.example/directory", "--acme-digitalocean-token", writeFile(t, "token", "")}, "it has no token of DigitalOcean"},
		{"a size that is not offered", []string{"--data", other, "--config", writeFile(t, "bad.yaml", "name: web\nsize: huge\n")}, "bad.yaml:2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(r.binary, append([]string{"dev", "--api", "127.0.0.1:0", "--front", "127.0.0.1:0"}, test.args...)...)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), test.want) || strings.Count(string(out), "\n") != 1 {
				t.Errorf("%v, want a failure in one line with %q:\n%s", err, test.want, out)
			}
		})
	}
}

func TestStartWithoutRootIsOneSentence(t *testing.T) {
	r := newRegion(t)
	binary := filepath.Join(t.TempDir(), "weir") // where nobody can run it
	for dir := filepath.Dir(binary); dir != os.TempDir(); dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	content, err := os.ReadFile(r.binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, content, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "dev", "--data", r.data)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "needs root") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("%v, want a failure in one line that asks for root:\n%s", err, out)
	}
}

func TestOldHAProxyIsOneSentence(t *testing.T) {
	r := newRegion(t)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "haproxy"), []byte("#!/bin/sh\necho 'HAProxy version 2.2.9-2 2021/02/06'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(r.binary, "dev", "--data", r.data, "--api", r.api, "--front", r.front)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "haproxy 2.2.9-2 is too old, want 2.6 or newer") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("%v, want a failure in one line that says which version is wanted:\n%s", err, out)
	}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	return filepath.Join(writeFiles(t, map[string]string{name: text}), name)
}

// writeFiles returns a new directory with those files in it.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
