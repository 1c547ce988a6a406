package haproxy

import (
	"context"
	"strings"
	"testing"

	"weir/weir"
)

func TestSnippetsAreCheckedByHAProxyAndItsSentenceQuotesTheLine(t *testing.T) {
	good := weir.Snippets{Global: []string{"tune.ssl.cachesize 50000"}, Defaults: []string{"timeout queue 7s"},
		Frontends: map[string][]string{"http-80": {`http-request deny if { path -m beg "/private" }`}, "tcp-25": {"tcp-request connection reject if { src 192.0.2.1 }"}}}
	if err := CheckSnippets(context.Background(), "", good); err != nil {
		t.Errorf("good snippets: %v", err)
	}
	for name, s := range map[string]weir.Snippets{
		"tune.bogus 1":            {Global: []string{"tune.ssl.cachesize 50000", "tune.bogus 1"}},
		"timeout elsewhen 7s":     {Defaults: []string{"timeout elsewhen 7s"}},
		"http-request frobnicate": {Frontends: map[string][]string{"http-80": {"http-request frobnicate"}}},
	} {
		err := CheckSnippets(context.Background(), "", s)
		if weir.KindOf(err) != weir.Invalid || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want an error of kind invalid that quotes the line", name, err)
		}
	}
}

func TestSnippetsStayWithinTheirSections(t *testing.T) {
	for _, line := range []string{"backend other", `  "frontend" x`, "lis\ttcp\x00", "server a 1.2.3.4:80 \\", strings.Repeat("x", 3000), ".if 1", "global\r"} {
		s := weir.Snippets{Defaults: []string{line}}
		if err := s.Check(); weir.KindOf(err) != weir.Invalid {
			t.Errorf("%.40q: %v, want it refused", line, err)
		}
	}
}
