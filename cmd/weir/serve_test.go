package main_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/weir"
)

// host is a machine of one's own: a network namespace on the segment, or this machine.
type host struct {
	t         *testing.T
	name      string
	namespace string // "" for this machine
	binary    string
	dir       string // for all that it keeps
	disk      string // an image that weir serve has mounted for its store; "" for none
}

// process is a weir that runs on a host.
type process struct {
	host  *host
	cmd   *exec.Cmd
	out   *output
	ended chan struct{}
	err   error // once it has ended
}

// output is what a process has said, and may be read while it says more.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// thisHost returns this machine as a host.
func thisHost(t *testing.T) *host {
	t.Helper()
	binary, err := buildWeir()
	if err != nil {
		t.Fatal(err)
	}
	return &host{t: t, name: "here", binary: binary, dir: t.TempDir()}
}

// command returns a command that runs on the host.
func (h *host) command(name string, args ...string) *exec.Cmd {
	if h.namespace != "" {
		name, args = "ip", append([]string{"netns", "exec", h.namespace, name}, args...)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "WEIR_RUN_DIR="+filepath.Join(h.dir, "run"), "WEIR_API=", "WEIR_TOKEN=", "WEIR_CA=")
	return cmd
}

// unitCapabilities are those that the units of weir install leave to each service.
var unitCapabilities = map[string]string{
	"serve": "-all",
	"node":  "-all,+net_admin,+net_raw,+net_bind_service,+setuid,+setgid,+kill,+sys_nice",
}

// start starts a weir on the host, which is ended with the test. On the segment it has no more
// capabilities than its unit gives it.
func (h *host) start(args ...string) *process {
	h.t.Helper()
	cmd := h.command(h.binary, args...)
	if h.namespace != "" {
		limited := append([]string{"setpriv", "--no-new-privs", "--bounding-set", unitCapabilities[args[0]], h.binary}, args...)
		if h.disk != "" { // in a mount namespace that goes with the process
			mount := fmt.Sprintf(`mount -o loop %s %s; exec "$0" "$@"`, h.disk, filepath.Join(h.dir, "serve", "store"))
			limited = append([]string{"sh", "-c", mount}, limited...)
		}
		cmd = h.command(limited[0], limited[1:]...)
	}
	p := &process{host: h, cmd: cmd, out: new(output), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	h.t.Cleanup(func() { p.stop(syscall.SIGKILL) })
	return p
}

// stop ends the process by a signal and waits for its end.
func (p *process) stop(sig syscall.Signal) {
	p.host.t.Helper()
	p.cmd.Process.Signal(sig)
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		p.cmd.Process.Kill()
		p.host.t.Errorf("%s: weir still runs a minute after %s", p.host.name, sig)
	}
}

// says waits until the process has said text.
func (p *process) says(text string) {
	p.host.t.Helper()
	eventually(p.host.t, fmt.Sprintf("%s says %q", p.host.name, text), func() string {
		select {
		case <-p.ended:
			p.host.t.Fatalf("%s ended: %v\n%s", p.host.name, p.err, p.out)
		default:
		}
		if !strings.Contains(p.out.String(), text) {
			return "so far: " + p.out.String()
		}
		return ""
	})
}

// eventually waits until not, which says what is still missing, returns "".
func eventually(t *testing.T, what string, not func() string) {
	t.Helper()
	missing := ""
	for late := time.Now().Add(time.Minute); time.Now().Before(late); time.Sleep(50 * time.Millisecond) {
		if missing = not(); missing == "" {
			return
		}
	}
	t.Fatalf("after a minute still not so: %s\n%s", what, missing)
}

// weir runs a verb on the host.
func (h *host) weir(args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd := h.command(h.binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// must is weir for a verb that is to succeed.
func (h *host) must(args ...string) string {
	h.t.Helper()
	stdout, stderr, err := h.weir(args...)
	if err != nil {
		h.t.Fatalf("%s: weir %s: %v\n%s%s", h.name, strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// fails runs a verb that is to fail with a sentence.
func (h *host) fails(want string, args ...string) {
	h.t.Helper()
	if stdout, stderr, err := h.weir(args...); err == nil || !strings.Contains(stderr, want) {
		h.t.Errorf("%s: weir %s: %v\n%s%s\nwant it to fail with %q", h.name, strings.Join(args, " "), err, stdout, stderr, want)
	}
}

// write writes a file into the host's directory and returns its path.
func (h *host) write(name, text string) string {
	h.t.Helper()
	file := filepath.Join(h.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return file
}

func TestControlPlaneOfOneHostNeedsNothingButItself(t *testing.T) {
	h := thisHost(t)
	api, nodes, data := freeAddr(t), freeAddr(t), filepath.Join(h.dir, "serve")
	args := []string{"serve", "--data", data, "--listen", api, "--node-listen", nodes, "--advertise", "127.0.0.1"}
	p := h.start(args...)
	p.says("API http://" + api + "/")
	if out := h.must("status"); !strings.Contains(out, "Region own1: no machines") {
		t.Errorf("weir status says %q", out)
	}
	h.fails("this Weir has no cloud: it cannot create machines", "create")
	req, err := http.NewRequest(http.MethodPost, "http://"+api+"/v2/droplets", strings.NewReader(`{"name":"a","size":"s-1vcpu-1gb","image":"debian-12-x64"}`))
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(data, "token"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("POST /v2/droplets: %s, want 422", resp.Status)
	}

	p.says("The first token, printed this once: " + strings.TrimSpace(string(token)))
	ci := []string{"status", "--token-file", h.write("ci.token", h.must("token", "create", "ci", "--scope", "read"))}
	h.must(ci...)
	h.must("token", "revoke", "ci")
	h.fails("does not know this token", ci...)

	join := h.must("node", "token", "lb-a")
	if weir.PinOf(strings.TrimSpace(join)) == "" || strings.Count(join, "\n") != 1 {
		t.Errorf("weir node token prints %q, want the token alone", join)
	}
	if out := h.must("node", "list"); !strings.Contains(out, "lb-a") || !strings.Contains(out, "not joined") {
		t.Errorf("weir node list says %q", out)
	}
	// A token of another control plane, or a control plane that somebody else plays.
	other := h.write("other.token", join[:len(join)-9]+"00000000\n")
	h.fails("it is not from the authority with the fingerprint", "node", "--join", "https://"+nodes, "--token", other, "--data", filepath.Join(h.dir, "node"))

	h.fails("another weir", append(args[:len(args):len(args)], "--listen", freeAddr(t))...)
	p.stop(syscall.SIGTERM)
	if p.err != nil {
		t.Errorf("after SIGTERM it ended with %v, want success\n%s", p.err, p.out)
	}
	h.fails("neither weir dev nor weir serve runs on this machine", "status")

	h.start(args...).says("API http://" + api + "/")
	if out := h.must("node", "list"); !strings.Contains(out, "lb-a") {
		t.Errorf("after another start, weir node list says %q, want lb-a", out)
	}
	h.must("node", "remove", "lb-a")
	h.fails(`there is no node named "lb-a"`, "node", "remove", "lb-a")
}

func TestAPIOnAnyAddressButLoopbackSpeaksTLS(t *testing.T) {
	h := thisHost(t)
	_, port, _ := strings.Cut(freeAddr(t), ":")
	data := filepath.Join(h.dir, "serve")
	p := h.start("serve", "--data", data, "--listen", ":"+port, "--node-listen", freeAddr(t), "--advertise", "127.0.0.1")
	p.says("API https://127.0.0.1:" + port + "/")
	h.must("status") // its record names the authority
	elsewhere := []string{"status", "--api", "https://localhost:" + port, "--token-file", filepath.Join(data, "token")}
	h.fails("its certificate is from nobody known here: --ca names a file", elsewhere...)
	h.must(append(elsewhere, "--ca", filepath.Join(data, "ca.pem"))...)

	// Its fingerprint is printed, and does as well.
	fingerprint := regexp.MustCompile(`\b[0-9a-f]{64}\b`).FindString(p.out.String())
	h.must(append(elsewhere, "--ca", fingerprint)...)
	h.must(append(elsewhere, "--ca", strings.ToUpper(strings.TrimSuffix(regexp.MustCompile("..").ReplaceAllString(fingerprint, "$0:"), ":")))...)
	h.fails("it is not from the authority with the fingerprint 0123456789abcdef…", append(elsewhere, "--ca", strings.Repeat("0123456789abcdef", 4))...)
	h.fails("its certificate: x509: ", "status", "--api", "https://127.0.0.2:"+port, "--token-file", filepath.Join(data, "token"), "--ca", fingerprint)
	if resp, err := http.Get("http://127.0.0.1:" + port + "/v2/weir/status"); err == nil && resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without TLS: %s, want no answer of the API's", resp.Status)
	}
}

func TestServeSaysWhatIsMissing(t *testing.T) {
	h := thisHost(t)
	three := "127.0.0.1,127.0.0.2,127.0.0.3"
	for want, args := range map[string][]string{
		"/pki, and all members must have the same: make it once with `weir pki create --pki": {"--cluster", three, "--advertise", "127.0.0.1"},
		"--advertise 127.0.0.9 is not among the members":                                     {"--cluster", three, "--advertise", "127.0.0.9"},
		`--cluster has "lb-1", want the addresses`:                                           {"--cluster", "lb-1,lb-2,lb-3"},
		"--cluster has 192.0.2.11 twice":                                                     {"--cluster", "192.0.2.11,192.0.2.11,192.0.2.12"},
		"none of --cluster 192.0.2.11":                                                       {"--cluster", "192.0.2.11,192.0.2.12,192.0.2.13"},
		`--advertise is "here"`:                                                              {"--advertise", "here"},
		"--tls-cert and --tls-key belong together":                                           {"--advertise", "127.0.0.1", "--tls-cert", "a.pem"},
		"--tls-cert a.pem, --tls-key b.pem: open a.pem":                                      {"--advertise", "127.0.0.1", "--tls-cert", "a.pem", "--tls-key", "b.pem", "--listen", freeAddr(t), "--node-listen", freeAddr(t)},
		`--node-listen is "7071"`:                                                            {"--advertise", "127.0.0.1", "--node-listen", "7071"},
	} {
		h.fails(want, append([]string{"serve", "--data", t.TempDir()}, args...)...)
	}
	h.must("pki", "create", "--pki", filepath.Join(h.dir, "pki"))
	h.fails("there is an authority in", "pki", "create", "--pki", filepath.Join(h.dir, "pki"))

	// The keys that seal secrets are made with the authority, or later beside it.
	key := filepath.Join(h.dir, "pki", "secrets.key")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	h.fails("serve: there is no "+key+", and all members must have the same", "serve", "--data", t.TempDir(), "--pki", filepath.Join(h.dir, "pki"), "--cluster", three, "--advertise", "127.0.0.1")
	h.must("pki", "create", "--pki", filepath.Join(h.dir, "pki"))
	if err := os.WriteFile(key, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.fails("secrets.key: key 1 is not 32 bytes in base64", "serve", "--data", t.TempDir(), "--pki", filepath.Join(h.dir, "pki"), "--cluster", three, "--advertise", "127.0.0.1")
}

// segment is a network segment with hosts on it, by the last number of their addresses.
type segment struct {
	t         *testing.T
	namespace string // of the bridge, on which a host's port is portN
	hosts     map[int]*host
}

// newSegment makes hosts 192.0.2.N on one segment, which go with the test.
func newSegment(t *testing.T, numbers ...int) *segment {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	here := thisHost(t)
	name := "weir-test-" + strings.ToLower(rand.Text()[:6])
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	add := func(namespace string) {
		ip("netns", "add", namespace)
		t.Cleanup(func() { remove(t, namespace) })
		ip("-n", namespace, "link", "set", "lo", "up")
	}
	add(name)
	ip("-n", name, "link", "add", "br0", "type", "bridge")
	ip("-n", name, "link", "set", "br0", "up")
	s := &segment{t: t, namespace: name, hosts: map[int]*host{}}
	for _, n := range numbers {
		h := &host{t: t, name: fmt.Sprintf("192.0.2.%d", n), namespace: fmt.Sprintf("%s-%d", name, n), binary: here.binary, dir: t.TempDir()}
		add(h.namespace)
		ip("link", "add", "eth0", "netns", h.namespace, "type", "veth", "peer", "name", fmt.Sprintf("port%d", n), "netns", name)
		ip("-n", name, "link", "set", fmt.Sprintf("port%d", n), "master", "br0", "up")
		ip("-n", h.namespace, "addr", "add", h.name+"/24", "dev", "eth0")
		ip("-n", h.namespace, "link", "set", "eth0", "up")
		s.hosts[n] = h
	}
	return s
}

// crash ends all that runs on a host at once, and returns when nothing does.
func (h *host) crash() {
	for pids := pidsIn(h.t, h.namespace); len(pids) > 0; pids = pidsIn(h.t, h.namespace) {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// remove removes a namespace of ours, and ends what an agent's HAProxy left in it.
func remove(t *testing.T, namespace string) {
	for _, pid := range pidsIn(t, namespace) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if out, err := exec.Command("ip", "netns", "del", namespace).CombinedOutput(); err != nil {
		t.Errorf("ip netns del %s: %v\n%s", namespace, err, out)
	}
}

func pidsIn(t *testing.T, namespace string) (pids []int) {
	out, err := exec.Command("ip", "netns", "pids", namespace).Output()
	if err != nil {
		t.Errorf("ip netns pids %s: %v", namespace, err)
	}
	for _, word := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(word); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// serveHTTP has a host answer HTTP with its name.
func (h *host) serveHTTP() {
	h.t.Helper()
	dir := filepath.Join(h.dir, "www")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	h.write("www/index.html", h.name+"\n")
	h.write("nginx.conf", fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 80;
		root %[1]s/www;
	}
}
`, h.dir))
	cmd := h.command("nginx", "-c", filepath.Join(h.dir, "nginx.conf"), "-e", "stderr")
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// get asks a URL from a host.
func (h *host) get(url string) (string, error) {
	out, err := h.command("curl", "--silent", "--show-error", "--fail", "--max-time", "5", url).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// regionStatus is what weir status says on a host.
func (h *host) regionStatus() (s weir.RegionStatus) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.must("status", "-o", "json")), &s); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// The walk-through of docs/bare-metal.md, with network namespaces for hosts.
func TestMachinesOfOnesOwnNeedNoCloud(t *testing.T) {
	s := newSegment(t, 11, 12, 13, 21, 22, 31, 32)
	control, nodes, servers := []int{11, 12, 13}, []int{31, 32}, []int{21, 22}
	for _, n := range servers {
		s.hosts[n].serveHTTP()
	}

	// Three members, which share an authority.
	authority := filepath.Join(t.TempDir(), "pki")
	s.hosts[11].must("pki", "create", "--pki", authority)
	members := map[int]*process{}
	startMember := func(n int) {
		h := s.hosts[n]
		members[n] = h.start("serve", "--data", filepath.Join(h.dir, "serve"), "--pki", authority, "--cluster", "192.0.2.11,192.0.2.12,192.0.2.13", "--listen", ":7070")
	}
	for _, n := range control {
		startMember(n)
	}
	for _, n := range control {
		members[n].says("API https://127.0.0.1:7070/")
	}
	first := filepath.Join(s.hosts[11].dir, "serve")
	for _, n := range control {
		s.hosts[n].must("status")
		s.hosts[21].must("status", "--api", fmt.Sprintf("https://192.0.2.%d:7070", n), "--token-file", filepath.Join(first, "token"), "--ca", filepath.Join(first, "ca.pem"))
	}
	if got := s.hosts[12].regionStatus(); len(got.Members) != 3 || !got.Quorum {
		t.Errorf("members %+v and quorum %v, want three and a quorum", got.Members, got.Quorum)
	}

	// Two nodes join, with a token each and nothing else.
	join := "https://192.0.2.11:7071,https://192.0.2.12:7071,https://192.0.2.13:7071"
	agents := map[int]*process{}
	startNode := func(n int) {
		h := s.hosts[n]
		agents[n] = h.start("node", "--join", join, "--token", filepath.Join(h.dir, "token"), "--data", filepath.Join(h.dir, "node"))
	}
	for i, n := range nodes {
		s.hosts[n].write("token", s.hosts[control[i]].must("node", "token", fmt.Sprintf("lb-%d", n)))
		startNode(n)
	}
	for _, n := range control {
		eventually(t, "both nodes have joined, as member "+s.hosts[n].name+" sees it", func() string {
			out := s.hosts[n].must("node", "list")
			if strings.Count(out, " joined ") != 2 || !strings.Contains(out, "192.0.2.31") || !strings.Contains(out, "192.0.2.32") {
				return "so far: " + out
			}
			return ""
		})
	}
	if out := s.hosts[11].must("status"); !strings.Contains(out, "lb-31") || !strings.Contains(out, "free for a load balancer") {
		t.Errorf("weir status says nothing of the nodes:\n%s", out)
	}

	// A load balancer with an address of the segment.
	file := s.hosts[11].write("weir.yaml", `name: web
servers: [192.0.2.21, 192.0.2.22]
load_balancer:
  address: 192.0.2.10/24
  health_check: {check_interval_seconds: 3, response_timeout_seconds: 3, unhealthy_threshold: 2, healthy_threshold: 2}
`)
	if out := s.hosts[11].must("apply", "-f", file); !strings.Contains(out, "load balancer web: created") {
		t.Errorf("weir apply says %q", out)
	}
	if out := s.hosts[11].must("apply", "-f", file); out != "" {
		t.Errorf("applied again it changes %q, want nothing", out)
	}
	var seen []string
	eventually(t, "both servers answer at the load balancer's address", func() string {
		answer, err := s.hosts[11].get("http://192.0.2.10/")
		if err == nil && !slices.Contains(seen, answer) {
			seen = append(seen, answer)
		}
		if len(seen) < 2 {
			return fmt.Sprintf("%s, %v", answer, err)
		}
		return ""
	})

	// The active one dies; the other has the address.
	activeNode := func() int {
		t.Helper()
		active := 0
		eventually(t, "the load balancer has an active instance, and another that is well", func() string {
			status := s.hosts[12].regionStatus()
			active = 0
			well := 0
			for _, lb := range status.LoadBalancers {
				for _, in := range lb.Instances {
					if in.Health.State == weir.InstanceWell {
						well++
					}
					for _, m := range status.Machines {
						if in.Active && m.ID == in.Machine {
							active, _ = strconv.Atoi(strings.TrimPrefix(m.Name, "lb-"))
						}
					}
				}
			}
			if active == 0 || well < 2 {
				return fmt.Sprintf("%+v", status.LoadBalancers)
			}
			return ""
		})
		return active
	}
	// On a machine that is busy with other tests an instance may not be ready yet, or may have
	// lost the address meanwhile: what counts is that it can be had.
	handOver := func(by int) {
		t.Helper()
		other := nodes[0] + nodes[1] - activeNode()
		eventually(t, fmt.Sprintf("%s hands over to lb-%d", s.hosts[by].name, other), func() string {
			if _, stderr, err := s.hosts[by].weir("lb", "failover", "web", "--to", fmt.Sprintf("lb-%d", other)); err != nil && activeNode() != other {
				return "it says " + stderr
			}
			return ""
		})
	}
	active := activeNode()
	s.hosts[12].fails("is the active instance of load balancer", "node", "remove", fmt.Sprintf("lb-%d", active))
	s.hosts[active].crash()
	serves := func(what string) {
		t.Helper()
		eventually(t, what, func() string {
			if answer, err := s.hosts[11].get("http://192.0.2.10/"); err != nil {
				return fmt.Sprintf("%s, %v", answer, err)
			}
			return ""
		})
	}
	serves("the address answers after its instance has died")

	// It comes back, and takes part again without a new token.
	startNode(active)
	handOver(11)
	serves("the address answers after a hand-over")

	// A member dies; the others decide, and what it said is known to them.
	members[11].stop(syscall.SIGKILL)
	for _, n := range control[1:] {
		eventually(t, s.hosts[n].name+" answers without 192.0.2.11", func() string {
			if _, stderr, err := s.hosts[n].weir("node", "list"); err != nil {
				return "it says " + stderr
			}
			return ""
		})
	}
	handOver(13)
	serves("the address answers without a member")

	// It comes back by itself.
	startMember(11)
	members[11].says("API https://127.0.0.1:7070/")
	if out := s.hosts[11].must("node", "list"); strings.Count(out, " joined ") != 2 {
		t.Errorf("the member that is back says of the nodes\n%s", out)
	}
}
