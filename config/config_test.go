package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weir/weir"
)

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHzJq0ye0y7Yv5v1r5mW2rNfVbXcV0mDgOQq7m0Zk3aB ann@desk"

// files are what the test's weir.yaml names.
var files = fstest.MapFS{
	"user-data.sh":   {Data: []byte("#!/bin/sh\necho hello\n")},
	"user-data.gz":   {Data: []byte("\x1f\x8b\x08\x00")},
	"large.sh":       {Data: []byte(strings.Repeat("#", weir.MaxUserData+1))},
	"dir/inside":     {Data: []byte("x")},
	"id.pub":         {Data: []byte(publicKey + "\n")},
	"authorized":     {Data: []byte("# ann\n" + publicKey + "\r\n\n" + publicKey + "2\n")},
	"id":             {Data: []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n")},
	"not-a-key":      {Data: []byte("hello\n")},
	"sorry.html":     {Data: []byte("<h1>later</h1>\n")},
	"long.html":      {Data: []byte(strings.Repeat("x", 13<<10))},
	"ann.secret":     {Data: []byte("correct horse\n")},
	"short.secret":   {Data: []byte("secret\n")},
	"ca.pem":         {Data: []byte(testCA)},
	"etc/weir.yaml":  {Data: []byte("name: web\nuser_data: start.sh\n")},
	"etc/start.sh":   {Data: []byte("#!/bin/sh\n")},
	"etc/bom.yaml":   {Data: []byte("\ufeffname: web\n")},
	"etc/large.yaml": {Data: []byte("name: web\n" + strings.Repeat("#\n", maxFile))},
}

func parseText(text string) (*App, error) {
	return parse("weir.yaml", []byte(text), func(name string, most int) ([]byte, error) {
		return readFile(files, name, most)
	})
}

func TestANameIsEnough(t *testing.T) {
	got, err := parseText("name: web\n")
	if err != nil {
		t.Fatal(err)
	}
	want := &App{
		Pool: &weir.Pool{Name: "web", Prefix: "web", Count: 1, KeepCount: true, Template: weir.Template{
			Size: "s-1vcpu-1gb", Image: "debian-12-x64", Tags: []string{"web"}}},
		LoadBalancer: weir.LoadBalancer{Name: "web", Size: weir.DefaultNodeSize, Instances: weir.MinInstances,
			Algorithm: weir.RoundRobin, Rules: []weir.Rule{{Entry: "http", EntryPort: 80, Target: "http", TargetPort: 80}},
			Health: weir.DefaultCheck(), Idle: weir.DefaultIdle, Tag: "web"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(App{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("app (-want +got):\n%s", diff)
	}
}

func TestEveryKeyIsHeard(t *testing.T) {
	got, err := parseText(`---
load_balancer:
  name: shop-front
  algorithm: least_connections
  size: s-2vcpu-2gb
  http_idle_timeout_seconds: 90
  health_check:
    protocol: http
    port: 9000
    path: /health?deep=1
    check_interval_seconds: 5
    response_timeout_seconds: 3
    unhealthy_threshold: 2
    healthy_threshold: 4
  forwarding_rules:
    - entry_protocol: http
      entry_port: 80
      target_protocol: http
      target_port: 8080
    - {entry_protocol: tcp, entry_port: 5432}
name: shop
region: local1
size: s-2vcpu-4gb
image: ubuntu-24-04-x64
user_data: user-data.sh
hostname_prefix: shop-app
ssh_keys:
  - id.pub
  - authorized
  - ` + publicKey + `3
count: 0
tags: [blue, SHOP, "env:test"]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &App{
		Pool: &weir.Pool{Name: "shop", Prefix: "shop-app", Count: 0, Template: weir.Template{
			Region: "local1", Size: "s-2vcpu-4gb", Image: "ubuntu-24-04-x64", UserData: "#!/bin/sh\necho hello\n",
			SSHKeys: []string{publicKey, publicKey, publicKey + "2", publicKey + "3"},
			Tags:    []string{"shop", "blue", "env:test"}}},
		LoadBalancer: weir.LoadBalancer{Name: "shop-front", Region: "local1", Size: "s-2vcpu-2gb", Instances: weir.MinInstances,
			Algorithm: weir.LeastConnections,
			Rules: []weir.Rule{
				{Entry: "http", EntryPort: 80, Target: "http", TargetPort: 8080},
				{Entry: "tcp", EntryPort: 5432, Target: "tcp", TargetPort: 5432}},
			Health: weir.HealthCheck{Protocol: "http", Port: 9000, Path: "/health?deep=1", Interval: 5 * time.Second,
				Timeout: 3 * time.Second, Unhealthy: 2, Healthy: 4},
			Idle: 90 * time.Second, Tag: "shop"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(App{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("app (-want +got):\n%s", diff)
	}
}

func TestHealthCheckFollowsTheFirstRule(t *testing.T) {
	for text, want := range map[string]weir.HealthCheck{
		"[{entry_protocol: http, entry_port: 80, target_port: 8080}]": {Protocol: "http", Port: 8080, Path: "/"},
		"[{entry_protocol: tcp, entry_port: 5432}]":                   {Protocol: "tcp", Port: 5432},
		"[{entry_port: 81}, {entry_port: 80}]":                        {Protocol: "http", Port: 81, Path: "/"},
		"[{entry_port: 1}, {entry_port: 2}, {entry_port: 3}]":         {Protocol: "http", Port: 1, Path: "/"},
	} {
		app, err := parseText("name: a\nload_balancer:\n  forwarding_rules: " + text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := app.LoadBalancer.Health
		if got.Protocol != want.Protocol || got.Port != want.Port || got.Path != want.Path {
			t.Errorf("%s: health check asks %s port %d path %q, want %s port %d path %q",
				text, got.Protocol, got.Port, got.Path, want.Protocol, want.Port, want.Path)
		}
	}
	app, err := parseText("name: a\nload_balancer:\n  forwarding_rules: [{entry_protocol: tcp, entry_port: 25}]\n  health_check: {protocol: http, port: 81}")
	if err != nil {
		t.Fatal(err)
	}
	if got := app.LoadBalancer.Health; got.Path != "/" || got.Port != 81 {
		t.Errorf("HTTP check of a TCP rule asks port %d path %q, want 81 and /", got.Port, got.Path)
	}
}

func TestBadFileIsOneSentenceWithItsLine(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		// The file as a whole.
		{"", `weir.yaml: it is empty, want at least a name`},
		{"# nothing\n\n", `weir.yaml: it is empty, want at least a name`},
		{"---\n---\n", `weir.yaml: it is empty, want at least a name`},
		{"count: 3\n", `weir.yaml:1: name is missing`},
		{"- name: web\n", `weir.yaml:1: the file is a list, want keys such as name: …`},
		{"name", `weir.yaml:1: the file is "name", want keys such as name: …`},
		{"name: web\n---\nname: shop\n", `weir.yaml:3: a second document begins, want one in a file`},
		{"name: web\n\xff\xfe\n", `weir.yaml:2: it is not text in UTF-8`},
		{"name: web\n\x00", `weir.yaml:2: it is not text in UTF-8`},
		{"name: web\n#" + strings.Repeat("x", maxFile), `weir.yaml: it has more than 65536 bytes`},
		{strings.Repeat("[", 20_000), `weir.yaml: it has more than 10000 words`},

		// YAML.
		{"name: web\nload_balancer:\n\tname: x\n", `weir.yaml:3: a tab indents the line, want spaces`},
		{"name: web\ncount: 1\nname: shop\n", `weir.yaml:3: name is said twice, first in line 1`},
		{"name: web\nload_balancer: {size: a, size: b}\n", `weir.yaml:2: size is said twice, first in line 2`},
		{"name: web\ncount: &n 3\n", `weir.yaml:2: count is an anchor or alias, want a whole number from 0 to 1000`},
		{"name: &n web\n", `weir.yaml:1: name is an anchor or alias, want a text`},
		{"name: web\nimage: *n\n", `weir.yaml:2: image is an anchor or alias, want a text`},
		{"name: web\n<<: {count: 3}\n", `weir.yaml:2: unknown key "<<", want one of name, region, size, sizes, image, hostname_prefix, count, rolling, replace_unhealthy, exporter, user_data, ssh_keys, tags, servers, load_balancer, haproxy`},
		{"name: web\ncount: !!int 3\n", `weir.yaml:2: count is a tagged value, want a whole number from 0 to 1000`},
		{"name: web\ntags: [a, b\n", `weir.yaml:2: not YAML: sequence end token ']' not found`},
		{"name: web\nimage: 'x\n", `weir.yaml:2: not YAML: could not find end character of single-quoted text`},
		{"name: web\nimage: a: b\n", `weir.yaml:2: not YAML: mapping value is not allowed in this context`},

		// Keys.
		{"name: web\n\ncuont: 3\n", `weir.yaml:3: unknown key "cuont", want one of name, region, size, sizes, image, hostname_prefix, count, rolling, replace_unhealthy, exporter, user_data, ssh_keys, tags, servers, load_balancer, haproxy`},
		{"name: web\nload_balancer:\n  rules: []\n", `weir.yaml:3: unknown key "rules" in load_balancer, want one of name, size, address, network, algorithm, forwarding_rules, redirect_http_to_https, tls_cipher_policy, sticky_sessions, enable_proxy_protocol, enable_backend_keepalive, firewall, health_check, access_log, http_idle_timeout_seconds, target_groups, split, routes, request_headers, response_headers, compression, error_pages, maintenance, rate_limit, connection_limit, basic_auth, client_certificates, slow_start_seconds, drain_seconds`},
		{"name: web\nload_balancer:\n  health_check:\n    interval: 3\n", `weir.yaml:4: unknown key "interval" in health_check, want one of protocol, port, path, check_interval_seconds, response_timeout_seconds, unhealthy_threshold, healthy_threshold, proxy_protocol`},
		{"name: web\nload_balancer:\n  forwarding_rules:\n    - entry_port: 80\n      port: 80\n", `weir.yaml:5: unknown key "port" in forwarding_rules, want one of certificate_id, tls_passthrough, entry_protocol, target_protocol, target_port, entry_port`},
		{"name: web\n3: x\n", `weir.yaml:2: unknown key "3", want one of name, region, size, sizes, image, hostname_prefix, count, rolling, replace_unhealthy, exporter, user_data, ssh_keys, tags, servers, load_balancer, haproxy`},

		// Types.
		{"name: 2026\n", `weir.yaml:1: name is "2026", want a text: put it in quotes`},
		{"name: true\n", `weir.yaml:1: name is "true", want a text: put it in quotes`},
		{"name:\n", `weir.yaml:1: name is empty, want a text`},
		{"name: ''\n", `weir.yaml:1: name is "" in quotes, want a text`},
		{"name: {a: b}\n", `weir.yaml:1: name is a mapping, want a text`},
		{"name: [a]\n", `weir.yaml:1: name is a list, want a text`},
		{"name: web\nregion: local1\nsize: s-1vcpu-1gb\n\n\n\ncount: three\n", `weir.yaml:7: count is "three", want a whole number from 0 to 1000`},
		{"name: web\ncount: 3.5\n", `weir.yaml:2: count is "3.5", want a whole number from 0 to 1000`},
		{"name: web\ncount: \"3\"\n", `weir.yaml:2: count is "3" in quotes, want a whole number from 0 to 1000`},
		{"name: web\ncount: 017\n", `weir.yaml:2: count is "017", want a whole number from 0 to 1000`},
		{"name: web\ncount: 0x1f\n", `weir.yaml:2: count is "0x1f", want a whole number from 0 to 1000`},
		{"name: web\ncount: 99999999999999999999999\n", `weir.yaml:2: count is "99999999999999999999999", want a whole number from 0 to 1000`},
		{"name: web\ncount:\n", `weir.yaml:2: count is empty, want a whole number from 0 to 1000`},
		{"name: web\nssh_keys: id.pub\n", `weir.yaml:2: ssh_keys is "id.pub", want a list of files or public keys`},
		{"name: web\ntags: blue\n", `weir.yaml:2: tags is "blue", want a list of tags`},
		{"name: web\nload_balancer: front\n", `weir.yaml:2: load_balancer is "front", want keys such as name: …`},
		{"name: web\nload_balancer:\n  forwarding_rules: {entry_port: 80}\n", `weir.yaml:3: forwarding_rules is a mapping, want a list of rules`},
		{"name: web\nload_balancer:\n  forwarding_rules:\n    - 80\n", `weir.yaml:4: forwarding_rules is "80", want keys such as certificate_id: …`},
		{"name: web\nload_balancer:\n  health_check:\n    check_interval_seconds: 10s\n", `weir.yaml:4: check_interval_seconds is "10s", want a whole number of seconds`},
		{"name: web\nuser_data: |\n  #!/bin/sh\n  echo\n", `weir.yaml:2: user_data has several lines, want the name of a file`},

		// Values.
		{"name: web_1\n", `weir.yaml:1: name is "web_1", want letters, digits and -, beginning and ending with a letter or digit`},
		{"name: shop.example\n", `weir.yaml:1: name is "shop.example", want letters, digits and -, beginning and ending with a letter or digit`},
		{"name: web\nsize: huge\n", `weir.yaml:2: size "huge" is not offered, want one of s-1vcpu-512mb-10gb, s-1vcpu-1gb, s-1vcpu-2gb, s-2vcpu-2gb, s-2vcpu-4gb, s-4vcpu-8gb, s-8vcpu-16gb`},
		{"name: web\nhostname_prefix: web_\n", `weir.yaml:2: hostname_prefix: name "web_": only letters, digits, . and - are allowed, and it begins and ends with a letter or digit`},
		{"name: web\ncount: 1001\n", `weir.yaml:2: count is 1001, want 0 to 1000`},
		{"count: -1\nname: web\n", `weir.yaml:1: count is -1, want 0 to 1000`},
		{"name: web\ntags:\n  - a\n  - b c\n", `weir.yaml:4: tag "b c": 1 to 255 letters, digits, _, : and - are allowed`},
		{"name: web\nload_balancer:\n  algorithm: random\n", `weir.yaml:3: algorithm is "random", want round_robin or least_connections`},
		{"name: web\nload_balancer:\n  size: tiny\n", `weir.yaml:3: instance size "tiny" is not offered`},
		{"name: web\nload_balancer:\n  name: a b\n", `weir.yaml:3: load balancer: name "a b": only letters, digits, . and - are allowed, and it begins and ends with a letter or digit`},
		{"name: web\nload_balancer:\n  http_idle_timeout_seconds: 5\n", `weir.yaml:3: http_idle_timeout_seconds is 5, want 30 to 600`},
		{"name: web\nload_balancer:\n  forwarding_rules: []\n", `weir.yaml:3: forwarding_rules is empty, want at least one rule`},
		{"name: web\nload_balancer:\n  forwarding_rules:\n    - entry_protocol: http\n", `weir.yaml:4: a forwarding rule has no entry_port, want 1 to 65535`},
		{"name: web\nload_balancer:\n  forwarding_rules:\n    - entry_port: 80\n    - entry_port: 81\n      target_port: 70000\n", `weir.yaml:6: forwarding_rules[1].target_port is 70000, want 1 to 65535`},
		{"name: web\nload_balancer:\n  forwarding_rules:\n    - entry_port: 80\n    - entry_port: 80\n", `weir.yaml:5: forwarding_rules[1].entry_port is 80 as in a rule before it, want another`},
		{"name: web\nload_balancer:\n  forwarding_rules:\n    - entry_port: 80\n      target_protocol: tcp\n", `weir.yaml:5: forwarding_rules[0].target_protocol is "tcp" where entry_protocol is "http", want http, https or http2`},
		{"name: web\nload_balancer:\n  forwarding_rules:\n    - {entry_protocol: udp, entry_port: 53}\n", `weir.yaml:4: forwarding_rules[0].entry_protocol is "udp", want http, https, http2 or tcp`},
		{"name: web\nload_balancer:\n  health_check:\n    path: health\n", `weir.yaml:4: health_check: path is "health", want a path such as /health, with neither spaces nor control characters`},
		{"name: web\nload_balancer:\n  health_check:\n    path: \"/a\\n  bind :81\"\n", `weir.yaml:4: health_check: path is "/a\n  bind :81", want a path such as /health, with neither spaces nor control characters`},
		{"name: web\nload_balancer:\n  health_check:\n    path: /x\n    protocol: tcp\n", `weir.yaml:4: path is only for a health_check with protocol http or https`},
		{"name: web\nload_balancer:\n  health_check:\n    healthy_threshold: 1\n", `weir.yaml:4: health_check: healthy_threshold is 1, want 2 to 10`},

		// Files that it names.
		{"name: web\nuser_data: missing.sh\n", `weir.yaml:2: user_data missing.sh: file does not exist`},
		{"name: web\nuser_data: dir\n", `weir.yaml:2: user_data dir: it is a directory, want a file`},
		{"name: web\n\nuser_data: not-a-key\n", `weir.yaml:3: user_data begins with "hello\n", want a script that begins with #!, a #cloud-config, or a MIME multipart of these, plain or gzipped`},
		{"name: web\nimage: fedora-40-x64\n", `weir.yaml:2: image "fedora-40-x64" is not offered, want a slug of Debian or Ubuntu such as debian-12-x64`},
		{"name: web\nuser_data: user-data.gz\n", `weir.yaml:2: user_data user-data.gz: it is gzipped, which does not survive JSON: want it plain`},
		{"name: web\nuser_data: large.sh\n", `weir.yaml:2: user_data large.sh: it has more than 65536 bytes`},
		{"name: web\nssh_keys:\n  - id.pub\n  - missing.pub\n", `weir.yaml:4: ssh_keys: missing.pub: file does not exist`},
		{"name: web\nssh_keys:\n  - id\n", `weir.yaml:3: ssh_keys: id is a private key, want the public one, as in a file whose name ends in .pub`},
		{"name: web\nssh_keys:\n  - not-a-key\n", `weir.yaml:3: ssh_keys: ssh key "hello" is not a public key, want a line as in authorized_keys`},
	} {
		app, err := parseText(test.text)
		if err == nil {
			t.Errorf("%.60q: got %+v, want %s", test.text, app, test.want)
			continue
		}
		if err.Error() != test.want {
			t.Errorf("%.60q:\n got %s\nwant %s", test.text, err, test.want)
		}
		if !errors.Is(err, weir.Invalid) {
			t.Errorf("%.60q: error %v is not of kind invalid", test.text, err)
		}
	}
}

func TestCommentedOutListSaysNothing(t *testing.T) {
	app, err := parseText("name: web\nssh_keys:\n#  - id.pub\nload_balancer:\n#  name: x\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(app.Pool.Template.SSHKeys) != 0 || app.LoadBalancer.Name != "web" {
		t.Errorf("got keys %v and load balancer %q, want none and web", app.Pool.Template.SSHKeys, app.LoadBalancer.Name)
	}
}

func TestFilesAreRelativeToTheirYAML(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, files); err != nil {
		t.Fatal(err)
	}
	for from, load := range map[string]func() (*App, error){
		"disk":    func() (*App, error) { return Load(filepath.Join(dir, "etc/weir.yaml")) },
		"a FS":    func() (*App, error) { return LoadFS(files, "etc/weir.yaml") },
		"nowhere": func() (*App, error) { return Parse("-", []byte("name: web\nuser_data: etc/start.sh"), dir) },
		"an absolute path": func() (*App, error) {
			return Parse("-", []byte("name: web\nuser_data: "+dir+"/etc/start.sh"), "/nowhere")
		},
		"the home directory": func() (*App, error) {
			t.Setenv("HOME", dir)
			return Parse("-", []byte("name: web\nuser_data: ~/etc/start.sh"), "/nowhere")
		},
	} {
		app, err := load()
		if err != nil {
			t.Errorf("from %s: %v", from, err)
			continue
		}
		if got := app.Pool.Template.UserData; got != "#!/bin/sh\n" {
			t.Errorf("from %s: user-data %q, want that of etc/start.sh", from, got)
		}
	}
	if app, err := Load(filepath.Join(dir, "etc/bom.yaml")); err != nil || app.Pool.Name != "web" {
		t.Errorf("file with a byte order mark: %v, want app web", err)
	}
	for file, want := range map[string]string{
		"missing.yaml":   "no such file or directory",
		"etc":            "it is a directory, want a file",
		"etc/large.yaml": "it has more than 65536 bytes",
	} {
		file := filepath.Join(dir, file)
		if _, err := Load(file); err == nil || err.Error() != file+": "+want {
			t.Errorf("load: %v, want %s: %s", err, file, want)
		}
	}
}

func TestRegionIsTheRunningOneUnlessSaid(t *testing.T) {
	app, err := parseText("name: web\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := app.In("local1"); err != nil || app.Pool.Template.Region != "local1" || app.LoadBalancer.Region != "local1" {
		t.Errorf("regions %q and %q, %v, want local1", app.Pool.Template.Region, app.LoadBalancer.Region, err)
	}
	if app, err = parseText("name: web\nregion: nyc3\n"); err != nil {
		t.Fatal(err)
	}
	want := `weir.yaml:2: region is "nyc3", this Weir runs region "local1"`
	if err := app.In("local1"); err == nil || err.Error() != want {
		t.Errorf("in local1: %v, want %s", err, want)
	}
	if err := app.In("nyc3"); err != nil {
		t.Errorf("in nyc3: %v", err)
	}
	want = `weir.yaml:2: region is "nyc3", and load balancers are in region "local1": machines alone can be there, by the region of each of their sizes`
	if err := app.In("local1", "nyc3"); err == nil || err.Error() != want {
		t.Errorf("in local1, beside nyc3: %v, want %s", err, want)
	}
	if app, err = parseText("name: web\nsizes:\n  - size: s-1vcpu-1gb\n    region: local1\n  - size: s-2vcpu-2gb\n    region: nyc3\n"); err != nil {
		t.Fatal(err)
	}
	want = `weir.yaml:6: region is "nyc3", this Weir runs local1`
	if err := app.In("local1"); err == nil || err.Error() != want {
		t.Errorf("sizes in local1: %v, want %s", err, want)
	}
	if err := app.In("local1", "nyc3"); err != nil {
		t.Errorf("sizes in both regions: %v", err)
	}
}

// Whatever the bytes are, there is an app that could be created, or one line.
func FuzzParse(f *testing.F) {
	f.Add([]byte("name: web\ncount: 3\nload_balancer:\n  forwarding_rules:\n    - {entry_port: 80}\n"))
	f.Add([]byte("? [a]\n: - b\n  - !!x c\n<<: *d\n"))
	f.Add([]byte("name: \"a\\x00\"\ntags: [b, 'c', |\n d\n]\n"))
	f.Add([]byte("%YAML 1.2\n---\nname: >-\n  a\n...\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		app, err := parseText(string(data))
		if err == nil {
			if err := app.In("local1"); err == nil {
				if err := app.check(); err != nil {
					t.Errorf("%q was let through: %v", data, err)
				}
			}
			return
		}
		line := err.Error()
		if !errors.Is(err, weir.Invalid) || !strings.HasPrefix(line, "weir.yaml:") || strings.ContainsAny(line, "\n\r\x1b") {
			t.Errorf("%q: error %q, want one line of kind invalid that begins with the file", data, line)
		}
	})
}

func TestServersByAddressNeedNoMachines(t *testing.T) {
	app, err := Parse("weir.yaml", []byte(`
name: web
servers:
  - 192.0.2.21
  - 192.0.2.22
load_balancer:
  address: 192.0.2.10/24
`), ".")
	if err != nil {
		t.Fatal(err)
	}
	lb := app.LoadBalancer
	if app.Pool != nil || lb.Tag != "" || lb.Mode != weir.OnSegment || lb.Addr.String() != "192.0.2.10/24" || len(lb.Servers) != 2 {
		t.Errorf("pool %v and load balancer %+v, want no pool, the address and two servers", app.Pool, lb)
	}
	if err := app.In("own1"); err != nil || app.LoadBalancer.Region != "own1" {
		t.Errorf("region %q, %v, want own1", app.LoadBalancer.Region, err)
	}
	for text, want := range map[string]string{
		"name: web\ncount: 2\nservers: [192.0.2.21]\n":                                 `weir.yaml:2: count is about machines that Weir makes, and servers says that there are others: leave one of them out`,
		"name: web\nservers: [app-1]\n":                                                `weir.yaml:2: servers has "app-1", want addresses such as 192.0.2.21`,
		"name: web\nservers: []\n":                                                     `weir.yaml:2: servers is empty, want addresses such as 192.0.2.21`,
		"name: web\nservers:\n- 192.0.2.21\n- 192.0.2.21\n":                            `weir.yaml:4: server 192.0.2.21 is there twice`,
		"name: web\nload_balancer:\n  address: 192.0.2.10\n":                           `weir.yaml:3: address is "192.0.2.10", want one with the length of its network's prefix, such as 192.0.2.10/24`,
		"name: web\nload_balancer:\n  network: inner\n":                                `weir.yaml:3: network is "inner", want internal or external`,
		"name: web\nload_balancer:\n  address: 192.0.2.10/24\n  network: internal\n":   `weir.yaml:4: network is internal and it has the address 192.0.2.10/24 of one's own network: that says where it is reached, leave network out`,
		"name: web\nload_balancer:\n  address: 192.0.2.10/32\n":                        `weir.yaml:3: address is "192.0.2.10/32", want one with the length of its network's prefix, such as 192.0.2.10/24`,
		"name: web\nservers: [192.0.2.10]\nload_balancer:\n  address: 192.0.2.10/24\n": `weir.yaml:4: server 192.0.2.10 is the load balancer's own address`,
	} {
		if _, err := Parse("weir.yaml", []byte(text), "."); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestLoadBalancersOptionsAreDigitalOceans(t *testing.T) {
	app, err := parseText(`name: web
load_balancer:
  forwarding_rules:
    - entry_port: 80
    - {entry_port: 443, target_port: 80, certificate_id: shop, entry_protocol: http2}
    - {entry_port: 443, target_port: 80, certificate_id: mail, entry_protocol: http2}
    - {entry_port: 8443, tls_passthrough: true}
  redirect_http_to_https: true
  tls_cipher_policy: STRONG
  sticky_sessions: {cookie_name: SHOP, cookie_ttl_seconds: 600}
  enable_proxy_protocol: true
  enable_backend_keepalive: true
  firewall: {allow: ["ip:192.0.2.1"], deny: ["cidr:198.51.100.0/24"]}
  health_check: {proxy_protocol: true}
  access_log: {file: true, syslog: "tcp://192.0.2.9:514", sample: 10}
`)
	if err != nil {
		t.Fatal(err)
	}
	lb := app.LoadBalancer
	want := named("web").LoadBalancer
	want.Rules = []weir.Rule{
		{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80},
		{Entry: weir.HTTP2, EntryPort: 443, Target: weir.HTTP, TargetPort: 80, Certificate: "shop"},
		{Entry: weir.HTTP2, EntryPort: 443, Target: weir.HTTP, TargetPort: 80, Certificate: "mail"},
		{Entry: weir.HTTPS, EntryPort: 8443, Target: weir.HTTPS, TargetPort: 8443, Passthrough: true},
	}
	want.Redirect, want.Ciphers, want.Proxy, want.KeepAlive = true, weir.StrongCiphers, true, true
	want.Sticky = &weir.Sticky{Cookie: "SHOP", TTL: 10 * time.Minute}
	want.Clients = weir.Clients{Allow: []string{"ip:192.0.2.1"}, Deny: []string{"cidr:198.51.100.0/24"}}
	want.Health.Proxy = true
	want.Policy.Log = &weir.AccessLog{File: true, Syslog: "tcp://192.0.2.9:514", Sample: 10}
	if diff := cmp.Diff(want, lb, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("load balancer (-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{
		"    - {entry_port: 443, entry_protocol: https}\n":                   `weir.yaml:4: forwarding_rules[0].entry_protocol is "https" and there is no certificate_id`,
		"    - {entry_port: 443, tls_passthrough: yes}\n":                    `weir.yaml:4: tls_passthrough is "yes", want true or false`,
		"    - {entry_port: 80}\n  redirect_http_to_https: true\n":           `weir.yaml:5: redirect_http_to_https is true, and no forwarding rule has https or http2`,
		"    - {entry_port: 80}\n  sticky_sessions:\n    cookie_name: a b\n": `weir.yaml:6: sticky_sessions: cookie_name is "a b"`,
		"    - {entry_port: 80}\n  access_log:\n    syslog: logs:514\n":      `weir.yaml:6: access_log.syslog is "logs:514", want udp://HOST:PORT or tcp://HOST:PORT`,
		"    - {entry_port: 80}\n  access_log:\n    sample: 0.1\n":           `weir.yaml:6: sample is "0.1", want a whole number from 1 to 10000`,
		"    - {entry_port: 80}\n  access_log: true\n":                       `weir.yaml:5: access_log is "true", want keys such as file`,
		"    - {entry_port: 80}\n  firewall:\n    allow: [192.0.2.1]\n":      `weir.yaml:6: firewall: allow: "192.0.2.1", want an address or a network`,
	} {
		if _, err := parseText("name: web\nload_balancer:\n  forwarding_rules:\n" + text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
}

func TestAccessLogIsOnWithoutAWord(t *testing.T) {
	for text, on := range map[string]bool{"": false, "  access_log: {}\n": true, "  access_log:\n": false, "  access_log: {sample: 1}\n": true} {
		app, err := parseText("name: web\nload_balancer:\n  algorithm: round_robin\n" + text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := app.LoadBalancer.Policy.Log != nil; got != on {
			t.Errorf("%q: access log %t, want %t", text, got, on)
		}
	}
}
