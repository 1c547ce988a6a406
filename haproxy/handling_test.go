package haproxy

import (
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"weir/weir"
)

// handledDocument has all of Handling but limits, at a frontend with TLS, one without, and one that redirects.
func handledDocument(t testing.TB) weir.Proxy {
	d := withTLS(testDocument(addr("10.10.0.2:443"),
		weir.Server{ID: "3164494", Name: "web-1", Addr: addr("10.10.0.11:8080"), Weight: 1}), certificate(t, 1, "shop.example"))
	d.Frontends = append(d.Frontends,
		weir.Frontend{Name: "http-80", Bind: addr("10.10.0.2:80"), Mode: weir.HTTP, Idle: time.Minute, Redirect: 443},
		weir.Frontend{Name: "http-81", Bind: addr("10.10.0.2:81"), Mode: weir.HTTP, Idle: time.Minute, Backend: "web"})
	d.Thumbprint = "udI34RjXhKADS3Zv2x0-RlXuonuFzKGEWtFnlf86eWM"
	d.Backends[0].SlowStart = 30 * time.Second
	login := &weir.Login{Realm: "Staff's only", Salt: []byte("salt\x00\xff")}
	login.Users = []weir.User{{Name: "al", Hash: login.Hash("al", "correct horse")}}
	ca, err := os.ReadFile("testdata/clients.ca") // always the same, as it is part of the shape
	if err != nil {
		t.Fatal(err)
	}
	d.Handling = weir.Handling{
		Headers: weir.Headers{
			SetRequest:     map[string]string{"X-Shop": `it's 100% "ours", \ $HOME %[src] #1`, "X-Empty": ""},
			RemoveRequest:  []string{"X-Debug"},
			SetResponse:    map[string]string{"Strict-Transport-Security": "max-age=31536000"},
			RemoveResponse: []string{"Server"},
		},
		Compress:    true,
		Pages:       map[int]string{502: "<h1>bad</h1>", 503: "<h1>none</h1>"},
		Maintenance: &weir.Maintenance{On: true, Page: "<h1>soon</h1>", RetryAfter: 90 * time.Second, Allow: []string{"ip:192.0.2.7", "cidr:2001:db8::/32"}},
		Login:       login,
		ClientCerts: &weir.ClientCertificates{CA: string(ca), Optional: true},
	}
	return d
}

func limitedDocument() weir.Proxy {
	d := testDocument(addr("10.10.0.2:80"), weir.Server{ID: "3164494", Name: "web-1", Addr: addr("10.10.0.11:8080"), Weight: 1})
	d.Frontends = append(d.Frontends, weir.Frontend{Name: "tcp-25", Bind: addr("10.10.0.2:25"), Mode: weir.TCP, Idle: time.Minute, Backend: "mail"})
	mail := d.Backends[0]
	mail.Name, mail.Mode = "mail", weir.TCP
	d.Backends = append(d.Backends, mail)
	d.Denied = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	d.Handling = weir.Handling{Rate: &weir.RateLimit{Requests: 100, Period: time.Minute}, Connections: 20, Pages: map[int]string{429: "<h1>slow</h1>"}}
	d.Frontends = slices.Clone(d.Frontends)
	return d
}

func routedDocument() weir.Proxy {
	d := testDocument(addr("10.10.0.2:80"), weir.Server{ID: "3164494", Name: "web-1", Addr: addr("10.10.0.11:8080"), Weight: 1})
	api := d.Backends[0]
	api.Name = "web-api"
	d.Backends = append(d.Backends, api)
	route := func(backend string, r weir.Route) weir.FrontRoute { return weir.FrontRoute{Route: r, Backend: backend} }
	d.Frontends[0].Routes = []weir.FrontRoute{
		route("web-api", weir.Route{Hosts: []string{"Shop.example", "*.shop.example"}, Path: "/api/",
			Rewrite: &weir.Rewrite{Host: "api.internal", Prefix: "/"},
			Headers: weir.Headers{SetRequest: map[string]string{"X-Route": "api"}, SetResponse: map[string]string{"X-Route": "100%"}}}),
		route("", weir.Route{Hosts: []string{"old.example"}, Redirect: &weir.Redirect{Host: "shop.example", Status: 308}}),
		route("", weir.Route{Path: "/old", Redirect: &weir.Redirect{Prefix: "/new.er"}}),
		route("", weir.Route{Path: "/secure", Redirect: &weir.Redirect{Scheme: "https", Port: 8443, Path: "/login"}}),
		route("web-api", weir.Route{Path: "/v1.0", Rewrite: &weir.Rewrite{Prefix: "/v2"}}),
		route("web-api", weir.Route{Path: "/fixed", Rewrite: &weir.Rewrite{Path: "/index.html"}}),
		route("web", weir.Route{Path: "/"}),
	}
	return d
}
