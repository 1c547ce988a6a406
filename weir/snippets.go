package weir

import (
	"maps"
	"slices"
	"strings"
)

// Snippets are lines that an operator adds to the configuration of a load balancer's HAProxy, in its own words. They are
// no part of a [LoadBalancer], so that nobody can send them by the API.
type Snippets struct {
	Global    []string            `json:"global,omitempty"`    // at the end of the section global
	Defaults  []string            `json:"defaults,omitempty"`  // at the end of the section defaults
	Frontends map[string][]string `json:"frontends,omitempty"` // by name, such as http-80: before what Weir says of requests
}

// Empty reports whether s says nothing.
func (s *Snippets) Empty() bool { return len(s.Global)+len(s.Defaults)+len(s.Frontends) == 0 }

// sections are the words that begin a section of HAProxy's configuration, up to its version 3.2.
var sections = [...]string{"global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "mailers", "userlist", "cache", "program",
	"http-errors", "ring", "fcgi-app", "log-forward", "log-profile", "crt-store", "traces", "acme", ".if", ".elif", ".else", ".endif"}

// mostSnippet is how many bytes a line has at most: HAProxy's own limit is 2,048.
const mostSnippet = 2000

// Check returns why s cannot be put into a configuration. Whether HAProxy understands it is for HAProxy to say.
func (s *Snippets) Check() error {
	if err := checkSnippet("global", s.Global); err != nil {
		return err
	}
	if err := checkSnippet("defaults", s.Defaults); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(s.Frontends)) {
		if err := checkSnippet("frontends: "+name, s.Frontends[name]); err != nil {
			return err
		}
	}
	return nil
}

func checkSnippet(of string, lines []string) error {
	for i, line := range lines {
		words := strings.Fields(line)
		switch {
		case len(line) > mostSnippet:
			return Errorf(Invalid, "haproxy: %s: line %d has %d bytes, want at most %d", of, i+1, len(line), mostSnippet)
		case strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			return Errorf(Invalid, "haproxy: %s: line %d has control characters, want text", of, i+1)
		case strings.HasSuffix(line, `\`):
			return Errorf(Invalid, "haproxy: %s: line %d ends in a backslash, and would go on in a line of Weir's: write it as one line", of, i+1)
		case len(words) > 0 && slices.Contains(sections[:], strings.Trim(words[0], `"'\`)):
			return Errorf(Invalid, "haproxy: %s: line %d begins a section with %s, want lines within %s", of, i+1, words[0], of)
		}
	}
	return nil
}
