package local

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/weir"
)

// sample is a machine as the metadata service is asked for it.
func sample() guest {
	return guest{
		record: record{
			ID: "2756294", Name: "sample-droplet",
			Template: weir.Template{UserData: "#!/bin/sh\necho <hello>\n", SSHKeys: []string{"ssh-ed25519 AAAA a", "ssh-rsa BBBB b"},
				Tags: []string{"web", "env:prod"}},
			Public:  netip.MustParseAddr("203.0.113.7"),
			Anchor:  netip.MustParseAddr("10.17.0.7"),
			Private: netip.MustParseAddr("10.132.0.7"),
		},
		Region:   "lab1",
		Reserved: []netip.Addr{netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("198.51.100.8")},
		Networks: networks{
			Public:   netip.MustParsePrefix("203.0.113.0/24"),
			Reserved: netip.MustParsePrefix("198.51.100.0/24"),
			Private:  netip.MustParsePrefix("10.132.0.0/20"),
			Anchor:   netip.MustParsePrefix("10.17.0.0/20"),
		},
	}
}

// request asks the metadata service as the machine g, from one of its addresses.
func request(g guest, method, path string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr = "10.132.0.7:40000"
	w := httptest.NewRecorder()
	metadata(func(from netip.Addr) (guest, bool) { return g, from == g.Private }).ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMetadataAnswersDigitalOceansPaths(t *testing.T) {
	for path, want := range map[string]string{
		"/metadata/v1/":                                        "id\nhostname\nuser-data\nvendor-data\npublic-keys\nregion\ninterfaces/\ndns/\nfloating_ip/\nreserved_ip/\ntags/\nfeatures/",
		"/metadata/v1/id":                                      "2756294",
		"/metadata/v1/hostname":                                "sample-droplet",
		"/metadata/v1/user-data":                               "#!/bin/sh\necho <hello>\n",
		"/metadata/v1/vendor-data":                             "",
		"/metadata/v1/public-keys":                             "ssh-ed25519 AAAA a\nssh-rsa BBBB b",
		"/metadata/v1/region":                                  "lab1",
		"/metadata/v1/interfaces/":                             "public/\nprivate/",
		"/metadata/v1/tags/":                                   "web\nenv:prod",
		"/metadata/v1/features/":                               "dhcp_enabled",
		"/metadata/v1/dns/":                                    "nameservers",
		"/v1/maintenance_event":                                "",
		"/metadata/v1//hostname":                               "sample-droplet",
		"/metadata/v1/reserved_ip/":                            "ipv4/",
		"/metadata/v1/interfaces/public/":                      "0/",
		"/metadata/v1/interfaces/public/0/":                    "mac\ntype\nipv4/\nanchor_ipv4/",
		"/metadata/v1/interfaces/public/0/mac":                 "02:00:cb:00:71:07",
		"/metadata/v1/interfaces/public/0/type":                "public",
		"/metadata/v1/interfaces/public/0/ipv4/":               "address\nnetmask\ngateway",
		"/metadata/v1/interfaces/public/0/ipv4/address":        "203.0.113.7",
		"/metadata/v1/interfaces/public/0/ipv4/netmask":        "255.255.255.0",
		"/metadata/v1/interfaces/public/0/ipv4/gateway":        "203.0.113.1",
		"/metadata/v1/interfaces/public/0/anchor_ipv4/":        "address\nnetmask\ngateway",
		"/metadata/v1/interfaces/public/0/anchor_ipv4/address": "10.17.0.7",
		"/metadata/v1/interfaces/public/0/anchor_ipv4/netmask": "255.255.240.0",
		"/metadata/v1/interfaces/public/0/anchor_ipv4/gateway": "10.17.0.1",
		"/metadata/v1/interfaces/private/0/":                   "mac\ntype\nipv4/",
		"/metadata/v1/interfaces/private/0/type":               "private",
		"/metadata/v1/interfaces/private/0/ipv4/address":       "10.132.0.7",
		"/metadata/v1/interfaces/private/0/ipv4/netmask":       "255.255.240.0",
		"/metadata/v1/dns/nameservers":                         "10.132.0.1",
		"/metadata/v1/features/dhcp_enabled":                   "false",
		"/metadata/v1/reserved_ip/ipv4/":                       "active\nip_address",
		"/metadata/v1/reserved_ip/ipv4/active":                 "true",
		"/metadata/v1/reserved_ip/ipv4/ip_address":             "198.51.100.9",
		"/metadata/v1/floating_ip/ipv4/active":                 "true",
		"/metadata/v1/floating_ip/ipv4/ip_address":             "198.51.100.9",
	} {
		r := request(sample(), "GET", path)
		if got := body(t, r); r.StatusCode != 200 || got != want {
			t.Errorf("%s: got %d %q, want %q", path, r.StatusCode, got, want)
		}
		if got := r.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
			t.Errorf("%s has type %q, want plain text", path, got)
		}
	}
}

func TestMetadataMovesToADirectorysSlashAndHasNothingElse(t *testing.T) {
	for path, want := range map[string]int{
		"/metadata/v1":                          301,
		"/metadata/v1/tags":                     301,
		"/metadata/v1/interfaces/public/0/ipv4": 301,
		"/metadata/v1/id/":                      404,
		"/metadata/v1/id/x":                     404,
		"/metadata/v1/nothing":                  404,
		"/metadata/v1/tags/web":                 404,
		"/metadata/v1/interfaces/public/1/":     404,
		"/metadata/v1id":                        404,
		"/metadata/v2/":                         404,
		"/metadata/":                            404,
		"/":                                     404,
		"/latest/meta-data/":                    404,
		"/metadata/v1/../../etc/passwd":         404,
	} {
		r := request(sample(), "GET", path)
		if r.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, r.StatusCode, want)
		}
		if got := r.Header.Get("Location"); want == 301 && got != path+"/" {
			t.Errorf("%s moves to %q, want %q", path, got, path+"/")
		}
		if got := body(t, r); want == 404 && got != "404 Not Found\n" {
			t.Errorf("%s: got %q, want DigitalOcean's sentence", path, got)
		}
	}
}

func TestMetadataIsForTheMachineThatAsks(t *testing.T) {
	g := sample()
	g.Private = netip.MustParseAddr("10.132.0.8")
	if r := request(g, "GET", "/metadata/v1/user-data"); r.StatusCode != 404 {
		t.Errorf("an address of no machine is told %d %q, want 404", r.StatusCode, body(t, r))
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		if r := request(sample(), method, "/metadata/v1/id"); r.StatusCode != 405 || r.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: got %d, want 405", method, r.StatusCode)
		}
	}
	if r := request(sample(), "HEAD", "/metadata/v1/id"); r.StatusCode != 200 {
		t.Errorf("HEAD: got %d, want 200", r.StatusCode)
	}
}

func TestMetadataAsJSONIsWhatDigitalOceansClientsRead(t *testing.T) {
	for name, c := range map[string]struct {
		guest func(*guest)
		want  string
	}{
		"with all": {func(*guest) {}, `{
			"droplet_id": 2756294, "hostname": "sample-droplet", "region": "lab1",
			"user_data": "#!/bin/sh\necho <hello>\n", "vendor_data": "",
			"public_keys": ["ssh-ed25519 AAAA a", "ssh-rsa BBBB b"], "tags": ["web", "env:prod"],
			"dns": {"nameservers": ["10.132.0.1"]}, "features": {"dhcp_enabled": false},
			"floating_ip": {"ipv4": {"active": true, "ip_address": "198.51.100.9"}},
			"reserved_ip": {"ipv4": {"active": true, "ip_address": "198.51.100.9"}},
			"interfaces": {
				"public": [{"mac": "02:00:cb:00:71:07", "type": "public",
					"ipv4": {"ip_address": "203.0.113.7", "netmask": "255.255.255.0", "gateway": "203.0.113.1"},
					"anchor_ipv4": {"ip_address": "10.17.0.7", "netmask": "255.255.240.0", "gateway": "10.17.0.1"}}],
				"private": [{"mac": "02:01:0a:84:00:07", "type": "private",
					"ipv4": {"ip_address": "10.132.0.7", "netmask": "255.255.240.0", "gateway": "10.132.0.1"}}]
			}}`},
		"with IPv6": {func(g *guest) {
			g.Networks.Public6, g.Networks.Anchor6 = netip.MustParsePrefix("2001:db8:0:1::/64"), netip.MustParsePrefix("fd00:0:0:11::/64")
			g.enableIPv6(g.Networks)
			g.UserData, g.SSHKeys, g.Tags, g.Reserved = "", nil, nil, []netip.Addr{netip.MustParseAddr("2001:db8:0:2::1")}
		}, `{
			"droplet_id": 2756294, "hostname": "sample-droplet", "region": "lab1",
			"user_data": "", "vendor_data": "", "public_keys": [], "tags": [],
			"dns": {"nameservers": ["10.132.0.1"]}, "features": {"dhcp_enabled": false},
			"floating_ip": {"ipv4": {"active": false}},
			"reserved_ip": {"ipv4": {"active": false}, "ipv6": {"active": true, "ip_address": "2001:db8:0:2::1"}},
			"interfaces": {
				"public": [{"mac": "02:00:cb:00:71:07", "type": "public",
					"ipv4": {"ip_address": "203.0.113.7", "netmask": "255.255.255.0", "gateway": "203.0.113.1"},
					"anchor_ipv4": {"ip_address": "10.17.0.7", "netmask": "255.255.240.0", "gateway": "10.17.0.1"},
					"ipv6": {"ip_address": "2001:db8:0:1::cb00:7107", "cidr": 64, "gateway": "2001:db8:0:1::1"},
					"anchor_ipv6": {"ip_address": "fd00::11:0:0:a11:7", "cidr": 64, "gateway": "fd00:0:0:11::1"}}],
				"private": [{"mac": "02:01:0a:84:00:07", "type": "private",
					"ipv4": {"ip_address": "10.132.0.7", "netmask": "255.255.240.0", "gateway": "10.132.0.1"}}]
			}}`},
		"with neither keys, tags nor a reserved IP": {
			func(g *guest) { g.UserData, g.SSHKeys, g.Tags, g.Reserved = "", nil, nil, nil }, `{
			"droplet_id": 2756294, "hostname": "sample-droplet", "region": "lab1",
			"user_data": "", "vendor_data": "", "public_keys": [], "tags": [],
			"dns": {"nameservers": ["10.132.0.1"]}, "features": {"dhcp_enabled": false},
			"floating_ip": {"ipv4": {"active": false}}, "reserved_ip": {"ipv4": {"active": false}},
			"interfaces": {
				"public": [{"mac": "02:00:cb:00:71:07", "type": "public",
					"ipv4": {"ip_address": "203.0.113.7", "netmask": "255.255.255.0", "gateway": "203.0.113.1"},
					"anchor_ipv4": {"ip_address": "10.17.0.7", "netmask": "255.255.240.0", "gateway": "10.17.0.1"}}],
				"private": [{"mac": "02:01:0a:84:00:07", "type": "private",
					"ipv4": {"ip_address": "10.132.0.7", "netmask": "255.255.240.0", "gateway": "10.132.0.1"}}]
			}}`},
	} {
		g := sample()
		c.guest(&g)
		r := request(g, "GET", "/metadata/v1.json")
		var got, want any
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got := r.Header.Get("Content-Type"); got != "application/json" {
			t.Errorf("%s has type %q", name, got)
		}
	}
	g := sample()
	g.Reserved = nil
	if r := request(g, "GET", "/metadata/v1/reserved_ip/ipv4/ip_address"); r.StatusCode != 200 || body(t, r) != "" {
		t.Errorf("without a reserved IP its address is %d, want 200 and empty", r.StatusCode)
	}
}
