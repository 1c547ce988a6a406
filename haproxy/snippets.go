package haproxy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"weir/weir"
)

// snippet writes lines of an operator's, as they are but for what could end one of them.
func (w *writer) snippet(lines []string) {
	for _, line := range lines {
		if line = strings.TrimSpace(line); line != "" {
			w.word("    ").line(strings.Map(func(r rune) rune {
				if r < ' ' && r != '\t' || r == 0x7f {
					return '_'
				}
				return r
			}, line))
		}
	}
}

// sixth is what the name of a frontend ends in that listens where another does, at the address of IPv6.
const sixth = "-ipv6"

// snippetOf returns an operator's lines for a frontend.
func snippetOf(s *weir.Snippets, frontend string) []string {
	if lines, ok := s.Frontends[frontend]; ok {
		return lines
	}
	return s.Frontends[strings.TrimSuffix(frontend, sixth)]
}

// CheckSnippets has the HAProxy at binary ("haproxy", from PATH, if empty) check snippets by themselves: each frontend
// that they name is there, in the mode that its name says. The error is of kind weir.Invalid if HAProxy refuses one,
// and quotes the line; otherwise HAProxy is not there, or ctx has ended.
func CheckSnippets(ctx context.Context, binary string, s weir.Snippets) error {
	if err := s.Check(); err != nil {
		return err
	}
	binary = cmp.Or(binary, "haproxy")
	version, err := Detect(ctx, binary)
	if err != nil {
		return fmt.Errorf("check snippets: %w", err)
	}
	dir, err := os.MkdirTemp("", "weir-snippets-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p := weir.Proxy{Name: "snippets", Snippets: s, Backends: []weir.Backend{
		{Name: "http", Mode: weir.HTTP, Idle: time.Minute, Check: weir.DefaultCheck()},
		{Name: "tcp", Mode: weir.TCP, Idle: time.Minute, Check: weir.DefaultCheck()}}}
	for i, name := range slices.Sorted(maps.Keys(s.Frontends)) {
		f := weir.Frontend{Name: name, Bind: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(1+i)), Mode: weir.HTTP, Idle: time.Minute, Backend: "http"}
		if strings.HasPrefix(name, "tcp-") {
			f.Mode, f.Backend = weir.TCP, "tcp"
		}
		p.Frontends = append(p.Frontends, f)
	}
	if err := check(&p); err != nil {
		return weir.Errorf(weir.Invalid, "haproxy: %w", err)
	}
	text := Render(version, 0, p, Host{Dir: dir})
	path := filepath.Join(dir, configFile)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	said, err := examine(ctx, binary, path)
	if said == "" {
		return err
	}
	if m := atLine.FindStringSubmatch(said); m != nil {
		if n, lines := atoi(m[1]), strings.Split(string(text), "\n"); n > 0 && n <= len(lines) {
			said = fmt.Sprintf("%q: %s", strings.TrimSpace(lines[n-1]), m[2])
		}
	}
	return weir.Errorf(weir.Invalid, "haproxy %s refuses it: %s", version, said)
}

var atLine = regexp.MustCompile(`^line (\d+): (.*)$`)
