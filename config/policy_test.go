package config

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weir/weir"
)

// testCA signs clients' certificates, for a hundred years.
const testCA = `-----BEGIN CERTIFICATE-----
MIIBfDCCASGgAwIBAgIUFGC8EnZQwMIYKuKs5wgXyjdb1hEwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHY2xpZW50czAgFw0yNjExMjgxOTQyNThaGA8yMTI2MTEwNDE5
NDI1OFowEjEQMA4GA1UEAwwHY2xpZW50czBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABHWgf142K8i3ipZ8igHhV9iaTFhnTQNDQqjom8YF1H4jS0POLtLF6aR5MJdP
yOhCAJqhtYmeHk2ckYbncbIQLGmjUzBRMB0GA1UdDgQWBBT2ZCXmZkVIsos1bydJ
wL8vN8Fq5TAfBgNVHSMEGDAWgBT2ZCXmZkVIsos1bydJwL8vN8Fq5TAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQDrTAwZccqcPpwH6zePL0WN5g2D
rJIUU6YNSCF5sX/MPgIhAN7i/gOeg1nq0XfhMOzVhnoqV96ZVMjfvfPV+ZAMtEoX
-----END CERTIFICATE-----
`

func TestEveryKeyOfAPolicyIsHeard(t *testing.T) {
	app, err := parseText(`name: shop
load_balancer:
  forwarding_rules: [{entry_protocol: http, entry_port: 80}, {entry_port: 443, certificate_id: abc, target_port: 80}]
  split: {green: 5}
  routes:
    - {hosts: [api.shop.example, "*.api.shop.example"], path: /v1, group: api, rewrite: {host: api, path_prefix: /}, request_headers: {set: {X-Api: "1"}}}
    - path: /old
      redirect: {scheme: https, host: shop.example, port: 8443, path_prefix: /new, status: 301}
      response_headers: {remove: [Server]}
    - {path: /same, rewrite: {}}
  target_groups:
    - {name: api, droplet_ids: [7, 9], split: {green: 50}}
    - {name: green, tag: green, target_port: 9090, health_check: {path: /up, check_interval_seconds: 4}}
  request_headers: {set: {X-Shop: "yes"}, remove: [X-Secret]}
  response_headers: {set: {X-Frame-Options: DENY}}
  compression: true
  error_pages: {503: sorry.html, 404: sorry.html}
  maintenance: {on: true, page: sorry.html, retry_after_seconds: 600, allow: ["cidr:192.0.2.0/24"]}
  rate_limit: {requests: 100, period_seconds: 10}
  connection_limit: 20
  basic_auth: {realm: Shop, users: [{name: ann, password_file: ann.secret}]}
  client_certificates: {ca: ca.pem, optional: true}
  slow_start_seconds: 30
  drain_seconds: 90
`)
	if err != nil {
		t.Fatal(err)
	}
	got := app.LoadBalancer.Policy
	health := weir.DefaultCheck()
	health.Port, health.Path, health.Interval = 9090, "/up", 4*time.Second
	page := "<h1>later</h1>\n"
	want := weir.Policy{
		Split: weir.Split{"green": 5},
		Groups: []weir.TargetGroup{
			{Name: "api", Machines: []weir.ID{"7", "9"}, Split: weir.Split{"green": 50}},
			{Name: "green", Tag: "green", Port: 9090, Health: &health}},
		Routes: []weir.Route{
			{Hosts: []string{"api.shop.example", "*.api.shop.example"}, Path: "/v1", Group: "api", Rewrite: &weir.Rewrite{Host: "api", Prefix: "/"},
				Headers: weir.Headers{SetRequest: map[string]string{"X-Api": "1"}}},
			{Path: "/old", Redirect: &weir.Redirect{Scheme: "https", Host: "shop.example", Port: 8443, Prefix: "/new", Status: 301},
				Headers: weir.Headers{RemoveResponse: []string{"Server"}}},
			{Path: "/same"}},
		Handling: weir.Handling{
			Headers:     weir.Headers{SetRequest: map[string]string{"X-Shop": "yes"}, RemoveRequest: []string{"X-Secret"}, SetResponse: map[string]string{"X-Frame-Options": "DENY"}},
			Compress:    true,
			Pages:       map[int]string{503: page, 404: page},
			Maintenance: &weir.Maintenance{On: true, Page: page, RetryAfter: 10 * time.Minute, Allow: []string{"cidr:192.0.2.0/24"}},
			Rate:        &weir.RateLimit{Requests: 100, Period: 10 * time.Second}, Connections: 20,
			Login:       &weir.Login{Realm: "Shop", Users: []weir.User{{Name: "ann"}}},
			ClientCerts: &weir.ClientCertificates{CA: testCA, Optional: true}},
		SlowStart: 30 * time.Second, Drain: 90 * time.Second}
	hashes := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Hash" || p.Last().String() == ".Salt" }, cmp.Ignore())
	if diff := cmp.Diff(want, got, hashes, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"ann": "correct horse"}, app.Passwords); diff != "" {
		t.Errorf("passwords (-want +got):\n%s", diff)
	}
}

func TestABadPolicyIsOneSentenceWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"split: {green: 5}":  `weir.yaml:3: split: "green", and target_groups has no such group`,
		"split: 5":           `weir.yaml:3: split is "5", want percentages such as green: 5`,
		"split: {green: 5%}": `weir.yaml:3: green is "5%", want a percentage from 0 to 100`,
		"target_groups: [{name: green, tag: green, split: {blue: 5}}]":                `weir.yaml:3: target_groups[0].split: "blue", and target_groups has no such group`,
		"target_groups: [{tag: green}]":                                               `weir.yaml:3: a target group has no name`,
		"target_groups:\n  - {name: a}\n  - name: a":                                  `weir.yaml:5: target_groups[1].name is "a" as that of a group before it, want another`,
		"target_groups:\n  - {name: a}\n  - name: b\n    tags: x":                     `weir.yaml:6: unknown key "tags" in target_groups, want one of name, tag, droplet_ids, target_port, health_check, split`,
		"target_groups: [{name: a, droplet_ids: [0]}]":                                `weir.yaml:3: droplet_ids has 0, want the ID of a droplet`,
		"routes: [{path: api}]":                                                       `weir.yaml:3: routes[0].path is "api", want one such as /api, of letters, digits and /-._~`,
		"routes: [{group: api}]":                                                      `weir.yaml:3: routes[0].group is "api", and target_groups has no such group`,
		"routes:\n  - path: /a\n    redirect: {status: 301}":                          `weir.yaml:5: routes[0].redirect.scheme, host, port, path and path_prefix are all empty, and the URL would stay the same: want one of them`,
		"request_headers: {set: {Host: x}}":                                           `weir.yaml:3: request_headers: Host is for the load balancer alone to say, want another header`,
		"request_headers: {set: {X: 7}}":                                              `weir.yaml:3: X is "7", want a text: put it in quotes`,
		"error_pages: {soon: sorry.html}":                                             `weir.yaml:3: error_pages has "soon", want statuses such as 503`,
		"error_pages: {503: sorry.html, 503: sorry.html}":                             `weir.yaml:3: 503 is said twice, first in line 3`,
		"error_pages: {503: none.html}":                                               `weir.yaml:3: 503: none.html: file does not exist`,
		"error_pages: {503: long.html}":                                               `weir.yaml:3: error_pages: the page for 503 has 13312 bytes, want at most 12288`,
		"maintenance: {on: maybe}":                                                    `weir.yaml:3: on is "maybe", want true or false`,
		"rate_limit: {requests: 5}":                                                   `weir.yaml:3: rate_limit has not both requests and period_seconds, want both`,
		"rate_limit: {requests: 0, period_seconds: 1}":                                `weir.yaml:3: rate_limit: requests is 0, want 1 to 1000000`,
		"basic_auth: {realm: x}":                                                      `weir.yaml:3: basic_auth has no users, want one at least`,
		"basic_auth: {users: []}":                                                     `weir.yaml:3: basic_auth: there are no users, want one at least`,
		"basic_auth: {users: [{name: ann}]}":                                          `weir.yaml:3: a user has not both name and password_file, want both`,
		"basic_auth:\n    users:\n      - name: ann\n        password: correct horse": `weir.yaml:6: password is a secret, and a weir.yaml is no place for one: put it into a file of its own, and name that by password_file`,
		"basic_auth: {users: [{name: ann, password_file: short.secret}]}":             `weir.yaml:3: password_file: the password is not of 8 to 128 printable characters of ASCII`,
		"basic_auth: {users: [{name: 'a b', password_file: ann.secret}]}":             `weir.yaml:3: basic_auth: user "a b", want 1 to 64 printable characters of ASCII, without spaces and colons`,
		"client_certificates: {optional: true}":                                       `weir.yaml:3: client_certificates has no ca, want a file with the certificates of who signs those of clients`,
		"client_certificates: {ca: ca.pem}":                                           `weir.yaml:3: client_certificates is there, and no forwarding rule ends TLS with a certificate_id, want one or leave it out`,
		"client_certificates: {ca: sorry.html}":                                       `weir.yaml:3: client_certificates: ca is not all certificates in PEM, want those of who signs clients' certificates`,
		"drain_seconds: 0":                                                            `weir.yaml:3: drain_seconds is 0, want a whole number of seconds, from 1 to 3600`,
		"access_log: {sample: 0}":                                                     `weir.yaml:3: sample is 0, want a whole number from 1 to 10000`,
		"drain_seconds: 3601":                                                         `weir.yaml:3: drain_seconds is 3601, want 0 to 3600`,
		"slow_start_seconds: 601":                                                     `weir.yaml:3: slow_start_seconds is 601, want 0 to 600`,
	} {
		if _, err := parseText("name: web\nload_balancer:\n  " + text + "\n"); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}
