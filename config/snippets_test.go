package config

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/weir"
)

func TestTheOperatorsOwnLinesAreBesideTheLoadBalancer(t *testing.T) {
	app, err := parseText(`name: web
haproxy:
  global: tune.ssl.cachesize 50000
  defaults: |
    timeout queue 7s

    option abortonclose
  frontends:
    http-80: |
      acl scanner req.hdr(User-Agent) -m sub -i sqlmap
      http-request deny if scanner
    tcp-25: tcp-request connection reject if { src 192.0.2.1 }
`)
	if err != nil {
		t.Fatal(err)
	}
	want := weir.Snippets{Global: []string{"tune.ssl.cachesize 50000"}, Defaults: []string{"timeout queue 7s", "option abortonclose"},
		Frontends: map[string][]string{"http-80": {"acl scanner req.hdr(User-Agent) -m sub -i sqlmap", "http-request deny if scanner"},
			"tcp-25": {"tcp-request connection reject if { src 192.0.2.1 }"}}}
	if diff := cmp.Diff(want, app.Snippets); diff != "" {
		t.Error(diff)
	}
	if want := named("web").LoadBalancer; !reflect.DeepEqual(want, app.LoadBalancer) {
		t.Errorf("the load balancer is another by them: %+v, want %+v", app.LoadBalancer, want)
	}
}

func TestLinesThatCannotBeWithinASectionSayWhere(t *testing.T) {
	for text, want := range map[string]string{
		"haproxy:\n  global: \"frontend x\"\n":                       `weir.yaml:3: global: line 1 begins a section with frontend, want lines within global`,
		"haproxy:\n  frontends:\n    http-80: |\n      mode tcp\\\n": `weir.yaml:4: frontends: http-80: line 1 ends in a backslash, and would go on in a line of Weir's: write it as one line`,
		"haproxy:\n  frontends: x\n":                                 `weir.yaml:3: frontends is "x", want names such as http-80, each with lines`,
		"haproxy:\n  backends: x\n":                                  `weir.yaml:3: unknown key "backends" in haproxy, want one of global, defaults, frontends`,
	} {
		if _, err := parseText("name: web\n" + text); err == nil || err.Error() != want {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}
