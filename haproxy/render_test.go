package haproxy

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/weir"
)

var update = flag.Bool("update", false, "write the golden files anew")

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// goldens are documents by the name of the file in testdata that they become.
func goldens(t testing.TB) map[string]struct {
	doc weir.Proxy
	on  Host
} {
	web := testDocument(addr("10.10.0.2:80"),
		weir.Server{ID: "3164494", Name: "web-1", Addr: addr("10.10.0.11:8080"), Weight: 1},
		weir.Server{ID: "3164495", Name: "web-2", Addr: addr("10.10.0.12:8080"), Weight: 1},
	)
	web.Backends[0].Check = weir.DefaultCheck()

	weighted := withServers(web,
		weir.Server{ID: "3164494", Name: "web-1", Addr: addr("10.10.0.11:8080"), Weight: 200},
		weir.Server{ID: "3164495", Name: "web-2", Addr: addr("10.10.0.12:8080"), Weight: 0},
		weir.Server{ID: "5000000000", Name: "web-3", Addr: addr("[fd00::13]:8080"), Weight: 1},
	)
	weighted.Backends[0].Balance = weir.LeastConnections
	weighted.Backends[0].Check.Interval = 3 * time.Second
	weighted.Drain = 5 * time.Minute
	weighted.Reload = 2

	tcp := weir.Proxy{
		LoadBalancer: "9f6b1c7e-94bb-4a6e-8f0e-0ba9a2e2b5f4",
		Name:         "mail",
		Frontends: []weir.Frontend{
			{Name: "tcp-25", Bind: addr("10.10.0.2:25"), Mode: weir.TCP, Idle: 5 * time.Minute, Backend: "tcp-25"},
			{Name: "http-80", Bind: addr("[fd00::2]:80"), Mode: weir.HTTP, Idle: time.Minute, Backend: "http-80"},
		},
		Backends: []weir.Backend{
			{Name: "tcp-25", Mode: weir.TCP, Balance: weir.LeastConnections, Idle: 5 * time.Minute,
				Check:   weir.HealthCheck{Protocol: weir.TCP, Port: 25, Interval: 10 * time.Second, Timeout: 5 * time.Second, Unhealthy: 3, Healthy: 5},
				Servers: []weir.Server{{ID: "3164497", Name: "mail-1", Addr: addr("10.10.0.14:25"), Weight: 1}}},
			{Name: "http-80", Mode: weir.HTTP, Balance: weir.RoundRobin, Idle: time.Minute,
				Check:   weir.HealthCheck{Protocol: weir.TCP, Port: 25, Interval: 10 * time.Second, Timeout: 5 * time.Second, Unhealthy: 3, Healthy: 5},
				Servers: []weir.Server{{ID: "3164497", Name: "mail-1", Addr: addr("10.10.0.14:8080"), Weight: 1}}},
		},
		Drain: 30 * time.Second,
	}

	pair := withServers(web, web.Backends[0].Servers...)
	pair.Health = true
	segment := withServers(pair, web.Backends[0].Servers...)
	segment.Floating = netip.MustParseAddr("2001:db8::10")
	segment.Frontends = slices.Clone(segment.Frontends)
	segment.Frontends[0].Bind = addr("[2001:db8::10]:80")

	hostile := testDocument(addr("10.10.0.2:80"),
		weir.Server{ID: "1\nlisten x", Name: "a\n# b\r\nserver evil 127.0.0.1:1", Addr: addr("[fe80::1%eth0\nserver]:80"), Weight: -7})
	hostile.Name = "shop\nglobal\n    daemon"
	hostile.Frontends[0].Name = "f\n    bind :1"
	hostile.Frontends[0].Backend = "b b"
	hostile.Backends[0].Name = "b b"
	hostile.Backends[0].Check.Path = "/it's\"$HOME\" \\ # here\n    option httplog"

	ended := withTLS(pair, certificate(t, 1, "shop.example"), certificate(t, 2, "mail.example"))
	ended.Frontends[0].Bind = addr("10.10.0.2:443")
	ended.Frontends[0].TLS.Strong = true
	ended.Frontends = append(ended.Frontends, weir.Frontend{Name: "http-80", Bind: addr("10.10.0.2:80"), Mode: weir.HTTP, Idle: time.Minute, Backend: "web", Redirect: 443})
	ended.Clients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	ended.Denied = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	ended.Backends = slices.Clone(ended.Backends)
	ended.Backends[0].Sticky, ended.Backends[0].Key = &weir.Sticky{Cookie: "DO-LB", TTL: 5 * time.Minute}, "0c5e"

	own := withServers(web, web.Backends[0].Servers...)
	own.Snippets = weir.Snippets{Global: []string{"tune.ssl.cachesize 50000"}, Defaults: []string{"  timeout queue 7s"},
		Frontends: map[string][]string{own.Frontends[0].Name: {`http-request deny if { path -m beg "/private" }`}, "http-81": {"not here"}}}

	onward := withTLS(web, certificate(t, 1, "shop.example"))
	onward.Backends = slices.Clone(onward.Backends)
	onward.Backends[0].Secure, onward.Backends[0].Proxy, onward.Backends[0].Shared = weir.HTTP2, true, true
	onward.Backends[0].Check.Protocol, onward.Backends[0].Check.Proxy = weir.HTTPS, true

	challenged := withTLS(web, certificate(t, 1, "shop.example"))
	challenged.Thumbprint = "udI34RjXhKADS3Zv2x0-RlXuonuFzKGEWtFnlf86eWM"
	challenged.Denied = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	challenged.Frontends[0].Bind = addr("10.10.0.2:443")
	challenged.Frontends = append(challenged.Frontends, weir.Frontend{Name: "http-80", Bind: addr("10.10.0.2:80"), Mode: weir.HTTP, Idle: time.Minute, Redirect: 443},
		weir.Frontend{Name: "http-81", Bind: addr("10.10.0.2:81"), Mode: weir.HTTP, Idle: time.Minute})
	handled, limits, routed := handledDocument(t), limitedDocument(), routedDocument()
	hostile.Thumbprint = "x\" if TRUE }\n    daemon"

	asked := withTLS(pair, certificate(t, 1, "shop.example"))
	asked.Frontends[0].Bind, asked.Frontends[0].TLS.Challenged = addr("10.10.0.2:443"), true
	asked.Clients, asked.Denied = ended.Clients, ended.Denied
	asked.Floating = netip.MustParseAddr("2001:db8::10")
	asked.Frontends = append(asked.Frontends, asked.Frontends[0])
	asked.Frontends[1].Name, asked.Frontends[1].Bind = "https-443-ipv6", addr("[2001:db8::10]:443")
	calm := asked
	asked = withChallenges(asked, certificate(t, 2, "shop.example"), certificate(t, 3, "www.shop.example"))
	logged := withTLS(pair, certificate(t, 1, "shop.example"))
	logged.Frontends[0].Bind = addr("10.10.0.2:443")
	logged.Frontends = append(logged.Frontends, weir.Frontend{Name: "http-80", Bind: addr("10.10.0.2:80"), Mode: weir.HTTP, Idle: time.Minute, Redirect: 443}, tcp.Frontends[0])
	logged.Backends = append(slices.Clone(logged.Backends), tcp.Backends[0])
	logged.Clients, logged.Thumbprint = ended.Clients, challenged.Thumbprint
	logged.Log = &weir.AccessLog{Sample: 10}
	hostile.Log = &weir.AccessLog{Syslog: "udp://x\n    daemon"}

	type golden = struct {
		doc weir.Proxy
		on  Host
	}
	node := Host{Dir: "/var/lib/weir/node 3's", User: "haproxy", Threads: 2, Files: 20_000}
	return map[string]golden{
		"empty":    {weir.Proxy{LoadBalancer: "4de7ac8b-495b-4884-9a69-1050c6793cd6", Name: "shop"}, Host{}},
		"http":     {web, Host{}},
		"node":     {web, node},
		"pair":     {pair, Host{}},
		"segment":  {segment, Host{}},
		"weighted": {weighted, Host{}},
		"tcp":      {tcp, Host{}},
		"tls":      {ended, Host{}},
		"onward":   {onward, Host{}},
		"hostile":  {hostile, Host{}},
		"acme":     {challenged, Host{}},
		"snippets": {own, Host{}},
		"asked":    {asked, node},
		"calm":     {calm, Host{}},
		"logged":   {logged, Host{Access: "weir-access-0c5e\n    daemon"}},
		"handling": {handled, Host{}},
		"limits":   {limits, Host{}},
		"routes":   {routed, Host{}},
	}
}

var testVersion = Version{Major: 2, Minor: 6, Full: "2.6.12"}

func TestRenderedConfigurationIsWhatHAProxyAccepts(t *testing.T) {
	for name, g := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			got := Render(testVersion, 812, g.doc, g.on)
			path := filepath.Join("testdata", name+".cfg")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s is another (run with -update if that is right):\n%s", path, diff)
			}
			g.on.Certs = t.TempDir()
			files, err := filesOf(&g.doc)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := writeCerts(g.on.Certs, files); err != nil {
				t.Fatal(err)
			}
			accepts(t, Render(testVersion, 812, g.doc, g.on))
		})
	}
}

// accepts fails the test if the real HAProxy rejects a configuration or warns of it.
func accepts(t testing.TB, text []byte) {
	t.Helper()
	cmd := exec.Command("haproxy", "-c", "-f", "/dev/stdin")
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("parsing [")) {
		t.Errorf("haproxy -c: %v: %s\n%s", err, out, text)
	}
}

// checks is how many inputs of the fuzzer are shown to the real HAProxy, which takes a
// thousand times as long as the rest.
const checks = 200

func FuzzRender(f *testing.F) {
	f.Add("shop", "http-80", "web", "/health", "3164494", "web-1", "eth0")
	f.Add("a\nb", "a b", "#", "'", "\\", "\"", "$HOME")
	f.Add("", "", "", "", "", "", "")
	f.Add("\x00", "\xff", "é", "/\xff\x00 '\"", "0", "\r", "\n")
	f.Add("%[env(HOME)]", "${HOME}", "~", "/%[src]$(id)`id`\\", "-1", "}", ";")
	f.Add("x", "x", "x", strings.Repeat("'", 256)+strings.Repeat("\"", 768), "2147483647", "x", "x")
	var shown atomic.Int64
	lines := func(doc weir.Proxy) int { return bytes.Count(Render(testVersion, 1, doc, Host{}), []byte{'\n'}) }
	f.Fuzz(func(t *testing.T, lb, front, back, path, id, name, zone string) {
		build := func(lb, front, back, path, id, name, zone string) weir.Proxy {
			d := testDocument(addr("127.0.0.1:80"), weir.Server{
				ID: weir.ID(id), Name: name, Weight: 1,
				Addr: netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(zone), 80),
			})
			d.LoadBalancer, d.Name = weir.ID(lb), lb
			d.Frontends[0].Name, d.Frontends[0].Backend = front, back
			d.Backends[0].Name, d.Backends[0].Check.Path = back, path
			d.Backends[0].Sticky, d.Backends[0].Key = &weir.Sticky{Cookie: name, TTL: time.Minute}, id
			d.Thumbprint = zone
			return d
		}
		doc := build(lb, front, back, path, id, name, zone)
		text := Render(testVersion, 1, doc, Host{})
		want := lines(build("x", "x", "x", "/", "1", "x", "x"))
		if zone == "" || strings.Trim(zone, base64url) != "" {
			want-- // challenges of nobody are not answered
		}
		if got := bytes.Count(text, []byte{'\n'}); got != want {
			t.Fatalf("%d lines, want %d:\n%s", got, want, text)
		}
		sections := 0
		for l := range strings.Lines(string(text)) {
			if l != "\n" && l[0] != ' ' && l[0] != '#' {
				sections++
			}
			words := strings.Fields(l)
			if strings.HasPrefix(l, "    server ") && (len(words) < 21 || words[19] != "5" || words[20] != "#") {
				t.Errorf("a server's line of other words: %s", l)
			}
		}
		if sections != 4 {
			t.Errorf("%d sections, want global, defaults, frontend and backend:\n%s", sections, text)
		}
		if bytes.ContainsAny(text, "\x00\r\v\f") {
			t.Errorf("control characters:\n%q", text)
		}
		if len(path) <= 1024 && shown.Add(1) <= checks {
			accepts(t, text)
		}
	})
}

func TestServerHasItsMachinesNumberWhereThatFits(t *testing.T) {
	ids := []weir.ID{"1", "3164494", "2147483647", "2147483648", "5000000000", "007", "web", "", "0"}
	var servers []weir.Server
	for _, id := range ids {
		servers = append(servers, weir.Server{ID: id})
	}
	got := serverIDs(servers)
	seen := map[int]weir.ID{}
	for i, n := range got {
		if n < 1 || n > 0x7fffffff {
			t.Errorf("%q became %d, want 1 to 2147483647", ids[i], n)
		}
		if other, taken := seen[n]; taken {
			t.Errorf("%q and %q both became %d", ids[i], other, n)
		}
		seen[n] = ids[i]
		if i < 3 && fmt.Sprint(n) != string(ids[i]) {
			t.Errorf("%q became %d, want the same number", ids[i], n)
		}
	}
}

func TestShapeIsOfEverythingButServers(t *testing.T) {
	d := testDocument(addr("10.10.0.2:80"), crowd(10, 80)...)
	shape := shapeOf(&d, Host{Files: 20_000})
	same := withServers(d, crowd(1000, 80)...)
	same.Backends[0].Servers[3].Weight = 7
	same.Name = "renamed"
	same.Drain *= 2
	if got := shapeOf(&same, Host{Files: 20_000}); got != shape {
		t.Errorf("shape %s with other servers and another drain, want %s still: it would be a reload", got, shape)
	}
	for name, change := range map[string]func(d *weir.Proxy){
		"reload":  func(d *weir.Proxy) { d.Reload++ },
		"check":   func(d *weir.Proxy) { d.Backends[0].Check.Healthy++ },
		"path":    func(d *weir.Proxy) { d.Backends[0].Check.Path = "/other" },
		"balance": func(d *weir.Proxy) { d.Backends[0].Balance = weir.LeastConnections },
		"bind":    func(d *weir.Proxy) { d.Frontends[0].Bind = addr("10.10.0.2:81") },
		"idle":    func(d *weir.Proxy) { d.Frontends[0].Idle *= 2 },
	} {
		other := withServers(d, d.Backends[0].Servers...)
		other.Frontends = append([]weir.Frontend(nil), d.Frontends...)
		change(&other)
		if shapeOf(&other, Host{Files: 20_000}) == shape {
			t.Errorf("%s: the shape is the same, so that the change would not be loaded", name)
		}
	}
}

func TestConnectionsFitTheDescriptors(t *testing.T) {
	for _, c := range []struct{ files, servers, want int }{
		{1024, 0, 341},
		{1024, 60, 341},
		{1024, 200, 171},
		{20_000, 0, 6667},
		{20_000, 3200, 6667}, // a thousand more or less are no reload
		{20_000, 5000, 3334},
		{20_000, 9000, 10}, // there is no room, and HAProxy says so
		{1 << 20, 5000, 50_000},
	} {
		d := testDocument(addr("127.0.0.1:80"), crowd(c.servers, 80)...)
		if got := maxConn(c.files, &d); got != c.want {
			t.Errorf("%d connections with %d descriptors and %d servers, want %d", got, c.files, c.servers, c.want)
		}
	}
}

// Whether it fits HAProxy decides, at its start.
func TestThousandsOfServersStartWithinTheDescriptors(t *testing.T) {
	const files = 12_000
	limited := filepath.Join(t.TempDir(), "haproxy")
	if err := os.WriteFile(limited, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d && exec haproxy \"$@\"\n", files), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, servers := range []int{0, 1400, 1500, 4400} {
		p, _ := startProxy(t, Options{Binary: limited})
		if err := p.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.host.Files = files
		p.release()
		set(t, p, testDocument(freeAddr(t), crowd(servers, freeAddr(t).Port())...))
		if h, _ := status(t, p); h.PID == 0 {
			t.Errorf("HAProxy does not run with %d servers", servers)
		}
	}
}

func TestOldHAProxyIsRefused(t *testing.T) {
	for _, c := range []struct{ out, version, err string }{
		{"HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n", "2.6.12-1+deb12u4", ""},
		{"HAProxy version 3.2.0-e134140 2025/05/28\n", "3.2.0-e134140", ""},
		{"HA-Proxy version 2.2.9-2+deb11u6 2023/12/12\n", "", "haproxy 2.2.9-2+deb11u6 is too old, want 2.6 or newer: it cannot add checked servers while it runs"},
		{"nginx version: nginx/1.22.1\n", "", `"nginx version: nginx/1.22.1\n" is no version of haproxy`},
	} {
		v, err := parseVersion(c.out)
		if c.err == "" && (err != nil || v.String() != c.version) {
			t.Errorf("%q: %v, %v, want %s", c.out, v, err, c.version)
		}
		if c.err != "" && (weir.KindOf(err) != weir.Invalid || err.Error() != c.err) {
			t.Errorf("%q: %v, want %s", c.out, err, c.err)
		}
	}
	if v, err := Detect(t.Context(), "haproxy"); err != nil || !v.AtLeast(2, 6) {
		t.Errorf("%v, %v of the HAProxy here", v, err)
	}
	if _, err := Detect(t.Context(), "no-such-haproxy"); weir.KindOf(err) != weir.Invalid {
		t.Errorf("%v of a HAProxy that is not there, want an invalid one", err)
	}
}
