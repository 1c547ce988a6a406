package haproxy

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/weir"
)

// fuzzed is a document with all that a user writes in the fields of policies.
func fuzzed(host, path, name, value, page, realm string, ca string) weir.Proxy {
	d := testDocument(addr("127.0.0.1:80"), weir.Server{ID: "1", Name: "web-1", Addr: addr("127.0.0.2:80"), Weight: 1})
	d.Backends[0].SlowStart = time.Second
	headers := weir.Headers{SetRequest: map[string]string{name: value}, RemoveRequest: []string{name}, SetResponse: map[string]string{name: value}, RemoveResponse: []string{name}}
	route := func(r weir.Route, backend string) weir.FrontRoute {
		r.Hosts, r.Path, r.Headers = []string{host, "*." + host}, path, headers
		return weir.FrontRoute{Route: r, Backend: backend}
	}
	d.Frontends[0].Routes = []weir.FrontRoute{
		route(weir.Route{Rewrite: &weir.Rewrite{Host: host, Path: path}}, "web"),
		route(weir.Route{Rewrite: &weir.Rewrite{Host: host, Prefix: path}}, "web"),
		route(weir.Route{Redirect: &weir.Redirect{Scheme: name, Host: host, Path: path, Port: len(page), Status: len(value)}}, ""),
		route(weir.Route{Redirect: &weir.Redirect{Prefix: path}}, ""),
		route(weir.Route{Redirect: &weir.Redirect{Scheme: "https"}}, ""),
	}
	login := &weir.Login{Realm: realm, Salt: []byte("s" + realm)}
	login.Users = []weir.User{{Name: name, Hash: login.Hash(name, value)}, {Name: name, Hash: value}}
	d.Handling = weir.Handling{
		Headers:     headers,
		Compress:    true,
		Pages:       map[int]string{503: page, 429: page},
		Maintenance: &weir.Maintenance{On: true, Page: page, RetryAfter: time.Duration(len(value)), Allow: []string{host, "ip:192.0.2.1"}},
		Rate:        &weir.RateLimit{Requests: len(value), Period: time.Duration(len(page))},
		Connections: 1 + len(name),
		Login:       login,
		ClientCerts: &weir.ClientCertificates{CA: ca},
	}
	return d
}

// skeleton is what a configuration says but for what users write: the sections, and each line's first words, those of
// addresses and names in ACLs apart.
func skeleton(text []byte) (sections, lines []string) {
	for l := range strings.Lines(string(text)) {
		words := strings.Fields(l)
		switch {
		case len(words) == 0 || words[0] == "setenv" || words[0][0] == '#':
		case l[0] != ' ':
			sections = append(sections, strings.Join(words, " "))
		case words[0] == "acl":
			lines = append(lines, words[0]+" "+words[1])
		default:
			lines = append(lines, strings.Join(words[:min(len(words), 2)], " "))
		}
	}
	return sections, slices.Compact(lines) // names may take another line
}

func FuzzRenderPolicy(f *testing.F) {
	ca, err := os.ReadFile("testdata/clients.ca")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("shop.example", "/api", "X-Shop", "value", "<h1>page</h1>", "Staff")
	f.Add("a\nglobal", "/a\n    daemon", "a\nb", "v\nlisten x", "\nfrontend x", "r\nbackend x")
	f.Add("a b", "/a b", "a b", "%[env(HOME)] %ci %", "\x00", "\" if TRUE")
	f.Add("", "", "", "", "", "")
	f.Add("-f", "-f /etc/passwd", "-m", "$HOME ${HOME} \\", "%", "%[src] $HOME \\")
	f.Add("*.*.x", "/%[path]{}[],()", "}", "' \" ' }", "é", "' }")
	f.Add("!x", "/)", "#", "#", "\xff", "\xff")
	f.Add(strings.Repeat("h", 400), "/"+strings.Repeat(".", 400), strings.Repeat("n", 400), strings.Repeat(`'"%`, 341), "p", strings.Repeat(`'"`, 40))
	f.Add("x", "x", "x", "\x00\r\v\f\x7f", "x", "\x00\r\v\f\x7f")
	var shown atomic.Int64
	f.Fuzz(func(t *testing.T, host, path, name, value, page, realm string) {
		dir := t.TempDir()
		d := fuzzed(host, path, name, value, page, realm, string(ca))
		text := Render(testVersion, 1, d, Host{Certs: dir})
		sections, lines := skeleton(text)
		want := []string{"global", "defaults", "peers weir", "http-errors weir", "frontend http-80", "backend web"}
		if !slices.Equal(sections, want) {
			t.Fatalf("sections %q, want %q:\n%s", sections, want, text)
		}
		if bytes.ContainsAny(text, "\x00\r\v\f\x7f") {
			t.Errorf("control characters:\n%q", text)
		}
		// The same kinds of lines as with harmless texts in the same places.
		harmless := func(s, as string) string {
			if s == "" {
				return ""
			}
			return as
		}
		tame := fuzzed(harmless(host, "x"), harmless(path, "/x"), "x", "x", harmless(page, "x"), "x", string(ca))
		if segments(path) == "" {
			for i := range tame.Frontends[0].Routes {
				r := &tame.Frontends[0].Routes[i].Route
				r.Path = ""
			}
		}
		_, like := skeleton(Render(testVersion, 1, tame, Host{Certs: dir}))
		if !slices.Equal(lines, like) {
			t.Errorf("lines %q, want %q:\n%s", lines, like, text)
		}
		files, err := filesOf(&d)
		if err != nil {
			t.Fatal(err)
		}
		for name := range files {
			if strings.ContainsAny(name, "/ ") {
				t.Errorf("file %q is somewhere else", name)
			}
		}
		if users := string(files[usersFile]); strings.Trim(users, "0123456789ABCDEF\n") != "" {
			t.Errorf("users %q, want hashes", users)
		}
		if len(value) <= 1024 && len(page) <= mostPage && len(realm) <= 256 && !strings.Contains(page, "\x00") && shown.Add(1) <= checks {
			if _, err := writeCerts(dir, files); err != nil {
				t.Fatal(err)
			}
			accepts(t, text)
		}
	})
}

// What a document has in it must come to HAProxy, also where it is a file.
func TestShapeIsOfHowRequestsAreHandled(t *testing.T) {
	fresh := func() weir.Proxy { return fuzzed("shop.example", "/api", "X-Shop", "value", "page", "Staff", "ca") }
	d := fresh()
	d.Frontends[0].TLS = &weir.TLS{}
	shape := shapeOf(&d, Host{})
	for i, change := range []func(d *weir.Proxy){
		func(d *weir.Proxy) { d.Handling.Pages[503] = "other" },
		func(d *weir.Proxy) { delete(d.Handling.Pages, 503) },
		func(d *weir.Proxy) { d.Handling.Maintenance.Page = "other" },
		func(d *weir.Proxy) { d.Handling.Maintenance.On = false },
		func(d *weir.Proxy) { d.Handling.Maintenance.Allow = nil },
		func(d *weir.Proxy) { d.Handling.Login.Users = d.Handling.Login.Users[1:] },
		func(d *weir.Proxy) { d.Handling.Login.Salt = []byte("other") },
		func(d *weir.Proxy) { d.Handling.ClientCerts.CA = "other" },
		func(d *weir.Proxy) { d.Handling.ClientCerts.Optional = true },
		func(d *weir.Proxy) { d.Handling.Rate.Requests++ },
		func(d *weir.Proxy) { d.Handling.Connections++ },
		func(d *weir.Proxy) { d.Handling.Compress = false },
		func(d *weir.Proxy) { d.Handling.Headers.SetRequest["X-Shop"] = "other" },
		func(d *weir.Proxy) { d.Frontends[0].Routes[0].Hosts[0] = "other" },
		func(d *weir.Proxy) { d.Frontends[0].Routes[0].Backend = "" },
		func(d *weir.Proxy) { d.Backends[0].SlowStart *= 2 },
	} {
		other := fresh()
		other.Frontends[0].TLS = &weir.TLS{}
		change(&other)
		if shapeOf(&other, Host{}) == shape {
			t.Errorf("change %d: the shape is the same, so that it would not be loaded", i)
		}
	}
	drains := fresh()
	drains.Frontends[0].TLS = &weir.TLS{}
	drains.Drains = map[weir.ID]time.Duration{"1": 0}
	if shapeOf(&drains, Host{}) != shape {
		t.Error("the shape is another with a deadline for a server that leaves: it would be a reload")
	}
}
