package haproxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

func TestFirstRouteThatFitsDecides(t *testing.T) {
	api := echo(t, "api")
	deep := echo(t, "deep")
	_, _, front := serve(t, func(d *weir.Proxy) {
		for name, s := range map[string]weir.Server{"api": api, "deep": deep} {
			b := d.Backends[0]
			b.Name, b.Servers = name, []weir.Server{s}
			b.Check.Port = int(s.Addr.Port())
			d.Backends = append(d.Backends, b)
		}
		route := func(backend string, r weir.Route) weir.FrontRoute { return weir.FrontRoute{Route: r, Backend: backend} }
		var hosts []string
		for i := range 20 {
			hosts = append(hosts, fmt.Sprintf("%s%d.%s.example", strings.Repeat("a", 60), i, strings.Repeat(strings.Repeat("b", 60)+".", 2)+"c"))
		}
		d.Frontends[0].Routes = []weir.FrontRoute{
			route("deep", weir.Route{Hosts: []string{"*.shop.example"}}),
			route("api", weir.Route{Hosts: []string{"Shop.Example", "other.example"}, Path: "/api/v1.0",
				Rewrite: &weir.Rewrite{Host: "api.internal", Prefix: "/v2/"},
				Headers: weir.Headers{SetRequest: map[string]string{"X-Way": `100% "api"`}, RemoveRequest: []string{"X-Secret"},
					SetResponse: map[string]string{"X-Way": "%[src]"}, RemoveResponse: []string{"X-Debug-Info"}}}),
			route("api", weir.Route{Path: "/api/"}),
			route("web", weir.Route{Path: "/root", Rewrite: &weir.Rewrite{Prefix: "/"}}),
			route("web", weir.Route{Path: "/fixed", Rewrite: &weir.Rewrite{Path: "/index.html"}}),
			route("web", weir.Route{Hosts: []string{"pre.example"}, Rewrite: &weir.Rewrite{Prefix: "/pre"}}),
			route("deep", weir.Route{Hosts: hosts}),
			route("api", weir.Route{Hosts: []string{"shop.example"}, Path: "/api/v1.0"}), // comes too late
		}
	})
	long := fmt.Sprintf("%s19.%s.example", strings.Repeat("a", 60), strings.Repeat(strings.Repeat("b", 60)+".", 2)+"c")
	for _, c := range []struct{ host, target, app, path, as string }{
		{"shop.example", "/", "web", "/", "shop.example"},
		{"a.shop.example", "/api", "deep", "/api", "a.shop.example"},
		{"a.b.SHOP.example.:80", "/", "deep", "/", "a.b.SHOP.example.:80"},
		{"ashop.example", "/", "web", "/", "ashop.example"},
		{"shop.example.evil", "/api/v1.0", "api", "/api/v1.0", "shop.example.evil"},
		{"shop.example", "/api/v1.0", "api", "/v2", "api.internal"},
		{"SHOP.EXAMPLE.:8080", "/api/v1.0/users?a=/api/v1.0/&b", "api", "/v2/users?a=/api/v1.0/&b", "api.internal"},
		{"other.example", "/api/v1.0?x", "api", "/v2?x", "api.internal"},
		{"other.example", "http://other.example/api/v1.0/y", "api", "/v2/y", "api.internal"},
		{"shop.example", "/api/v1x0", "api", "/api/v1x0", "shop.example"},
		{"shop.example", "/api/v1.0x", "api", "/api/v1.0x", "shop.example"},
		{"shop.example", "/api", "api", "/api", "shop.example"},
		{"shop.example", "/apis", "web", "/apis", "shop.example"},
		{"shop.example", "/API", "web", "/API", "shop.example"},
		{"shop.example", "/%61pi", "web", "/%61pi", "shop.example"},
		{"shop.example", "/x/../api", "web", "/x/../api", "shop.example"},
		{"shop.example", "/?/api", "web", "/?/api", "shop.example"},
		{"shop.example", "/root", "web", "/", "shop.example"},
		{"shop.example", "/root?q=/root/", "web", "/?q=/root/", "shop.example"},
		{"shop.example", "/root/x", "web", "/x", "shop.example"},
		{"shop.example", "/rooted", "web", "/rooted", "shop.example"},
		{"shop.example", "/fixed/x?q", "web", "/index.html?q", "shop.example"},
		{"pre.example", "/", "web", "/pre/", "pre.example"},
		{"pre.example", "/x?y", "web", "/pre/x?y", "pre.example"},
		{long, "/", "deep", "/", long},
		{"", "/", "web", "/", ""},
		{"[::1]:80", "/", "web", "/", "[::1]:80"},
	} {
		got := get(t, front, "", c.target, "Host: "+c.host, "X-Secret: 1", "X-Way: mine")
		path := strings.TrimPrefix(got.header.Get("X-Path"), "http://"+got.header.Get("X-Host"))
		if got.header.Get("App") != c.app || path != c.path || got.header.Get("X-Host") != c.as {
			t.Errorf("%s at %s went to %q as %q at %q (%d), want %s as %s at %s", c.target, c.host,
				got.header.Get("App"), got.header.Get("X-Path"), got.header.Get("X-Host"), got.status, c.app, c.path, c.as)
		}
		routed := c.as == "api.internal"
		if strings.Contains(got.body, "X-Secret") == routed || strings.Contains(got.body, "X-Way: 100% \"api\"\r\n") != routed ||
			(got.header.Get("X-Way") == "%[src]") != routed || (got.header.Get("X-Debug-Info") == "") != routed {
			t.Errorf("%s at %s: headers are of another route:\n%s\n%v", c.target, c.host, got.body, got.header)
		}
	}
}

func TestRedirectsKeepWhatTheyDoNotReplace(t *testing.T) {
	redirect := func(path string, to weir.Redirect) weir.FrontRoute {
		return weir.FrontRoute{Route: weir.Route{Path: path, Redirect: &to,
			Headers: weir.Headers{SetResponse: map[string]string{"X-Way": "there"}}}}
	}
	routes := []weir.FrontRoute{
		redirect("/secure", weir.Redirect{Scheme: "https"}),
		redirect("/host", weir.Redirect{Host: "new.example", Status: 301}),
		redirect("/port", weir.Redirect{Port: 8443, Status: 303}),
		redirect("/plain", weir.Redirect{Scheme: "http", Port: 80, Status: 307}),
		redirect("/path", weir.Redirect{Path: "/there", Status: 308}),
		redirect("/pre.fix", weir.Redirect{Prefix: "/new"}),
		redirect("/root", weir.Redirect{Prefix: "/"}),
		redirect("/all", weir.Redirect{Scheme: "https", Host: "new.example", Port: 444, Prefix: "/a/b"}),
		redirect("", weir.Redirect{Prefix: "/v2", Host: "last.example"}),
	}
	_, _, front := serve(t, func(d *weir.Proxy) { d.Frontends[0].Routes = routes })
	for _, c := range []struct {
		host, target string
		status       int
		to           string
	}{
		{"Shop.example:81", "/secure/x?q=1", 302, "https://shop.example/secure/x?q=1"},
		{"shop.example:81", "/host?", 301, "http://new.example/host?"},
		{"shop.example:81", "/port", 303, "http://shop.example:8443/port"},
		{"shop.example:81", "/plain", 307, "http://shop.example/plain"},
		{"shop.example:81", "/path/x?q=%0d%0aX:1", 308, "http://shop.example:81/there?q=%0d%0aX:1"},
		{"shop.example:81", "/pre.fix/x?y=/pre.fix", 302, "http://shop.example:81/new/x?y=/pre.fix"},
		{"shop.example", "/pre.fix", 302, "http://shop.example/new"},
		{"shop.example", "/prexfix", 302, "http://last.example/v2/prexfix"},
		{"shop.example", "/root", 302, "http://shop.example/"},
		{"shop.example", "/root?a", 302, "http://shop.example/?a"},
		{"shop.example", "/root//evil.example/x", 302, "http://shop.example//evil.example/x"},
		{"shop.example", "/all/x", 302, "https://new.example:444/a/b/x"},
		{"[::1]:80", "/path", 308, "http://[::1]:80/there"},
		{"[::1]", "/port", 303, "http://[::1]:8443/port"},
		{"evil/@shop.example", "/path", 400, ""},
		{"shop.example@evil", "/secure", 400, ""},
		{"shop.example, evil", "/path", 400, ""},
		{"a b", "/path", 400, ""},
		{"a\x01b", "/path", 400, ""},
		{"evil?", "/path", 400, ""},
		{"evil#", "/port", 400, ""},
		{"shop.example:port", "/path", 400, ""},
		{"", "/path", 400, ""},
		{"evil/@shop.example", "/host", 301, "http://new.example/host"},
	} {
		got := get(t, front, "", c.target, "Host: "+c.host)
		if got.status != c.status || got.header.Get("Location") != c.to || len(got.header.Values("Location")) > 1 {
			t.Errorf("%s at %s: %d to %q, want %d to %q", c.target, c.host, got.status, got.header.Get("Location"), c.status, c.to)
		}
		if c.to != "" && got.header.Get("X-Way") != "there" {
			t.Errorf("%s at %s: %v, want the route's headers", c.target, c.host, got.header)
		}
	}
}

// Whether a thousand names of a hundred routes fit, HAProxy decides.
func TestHundredRoutesFit(t *testing.T) {
	_, _, front := serve(t, func(d *weir.Proxy) {
		for i := range 100 {
			r := weir.FrontRoute{Backend: "web", Route: weir.Route{Path: "/" + strings.Repeat("p", 255), Headers: weir.Headers{SetRequest: map[string]string{}}}}
			for j := range 20 {
				host := fmt.Sprintf("%s%d-%d.example", strings.Repeat(strings.Repeat("h", 50)+".", 4), i, j)
				if j%2 == 1 {
					host = "*." + host
				}
				r.Hosts = append(r.Hosts, host)
			}
			for j := range 32 {
				r.Headers.SetRequest[fmt.Sprintf("X-%s-%d", strings.Repeat("n", 55), j)] = strings.Repeat("v", 20)
			}
			if i == 99 {
				r.Path, r.Headers = "", weir.Headers{SetRequest: map[string]string{"X-Last": strings.Repeat("%", 1024)}}
			}
			d.Frontends[0].Routes = append(d.Frontends[0].Routes, r)
		}
	})
	got := get(t, front, "", "/", fmt.Sprintf("Host: x.%s99-19.example", strings.Repeat(strings.Repeat("h", 50)+".", 4)))
	if got.status != 200 || !strings.Contains(got.body, "X-Last: "+strings.Repeat("%", 1024)+"\r\n") {
		t.Errorf("the last route's header is missing: %d\n%s", got.status, got.body)
	}
}

// The order in which requests are handled is what protects: who is under maintenance is not asked to log in, and who has not
// logged in is not redirected by a route.
func TestHandlingComesBeforeRoutes(t *testing.T) {
	login := &weir.Login{Salt: []byte("salt")}
	login.Users = []weir.User{{Name: "al", Hash: login.Hash("al", "pw")}}
	p, d, front := serve(t, func(d *weir.Proxy) {
		d.Thumbprint = "thumb"
		d.Handling.Login = login
		d.Handling.Maintenance = &weir.Maintenance{On: true}
		d.Frontends = append(d.Frontends, weir.Frontend{Name: "to", Bind: freeAddr(t), Mode: weir.HTTP, Idle: time.Minute, Redirect: 443})
		d.Frontends[0].Routes = []weir.FrontRoute{{Route: weir.Route{Redirect: &weir.Redirect{Host: "new.example"}}}}
	})
	status := func(at netip.AddrPort, path string, want int) {
		t.Helper()
		if got := get(t, at, "", path); got.status != want {
			t.Errorf("%s is answered %d, want %d", path, got.status, want)
		}
	}
	for _, at := range []netip.AddrPort{front, d.Frontends[1].Bind} {
		status(at, "/", 503)
		status(at, "/.well-known/acme-challenge/abc", 200)
	}
	d.Handling.Maintenance = nil
	set(t, p, d)
	status(front, "/", 401)
	status(d.Frontends[1].Bind, "/", 307)
	d.Handling.Login = nil
	set(t, p, d)
	status(front, "/", 302)
	status(front, "/.well-known/acme-challenge/abc", 200)
	d.Handling.Rate = &weir.RateLimit{Requests: 1, Period: time.Hour}
	set(t, p, d)
	status(front, "/", 302)
	status(front, "/.well-known/acme-challenge/abc", 429)
}
