package weir

import (
	"fmt"
	"net/netip"
	"strings"
)

// Exporter is where a machine tells what it uses, at its private address: in Prometheus's format, by the names of its
// node_exporter.
type Exporter struct {
	Port int    `json:"port"`
	Path string `json:"path,omitempty"` // DefaultExporterPath if empty
}

// Where a node_exporter answers, unless it is told otherwise.
const (
	DefaultExporterPort = 9100
	DefaultExporterPath = "/metrics"
)

// check returns why no machine can tell anything there.
func (e *Exporter) check() error {
	switch {
	case e == nil:
		return nil
	case e.Port < 1 || e.Port > 65535:
		return Errorf(Invalid, "exporter.port is %d, want 1 to 65535, such as node_exporter's %d", e.Port, DefaultExporterPort)
	case e.Path != "" && !strings.HasPrefix(e.Path, "/") || len(e.Path) > 200 || strings.ContainsFunc(e.Path, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }):
		return Errorf(Invalid, "exporter.path is %.40q, want one such as %s, of at most 200 letters without spaces", e.Path, DefaultExporterPath)
	}
	return nil
}

// String says where it answers: 9100/metrics.
func (e *Exporter) String() string {
	if e == nil {
		return "none"
	}
	return fmt.Sprintf("%d%s", e.Port, e.At())
}

// At returns the path at which it answers.
func (e *Exporter) At() string {
	if e.Path == "" {
		return DefaultExporterPath
	}
	return e.Path
}

// Metered is a machine's exporter, and who asks it: nobody else is let in there by Weir.
type Metered struct {
	Exporter
	By []netip.Addr `json:"by,omitempty"`
}

// guard returns a wall that lets in at the exporter those who ask it, beside what wall does. If there was none, all else
// stays open, and the exporter is closed to others.
func (m *Metered) guard(wall *Firewall) *Firewall {
	if wall = wall.Clone(); wall == nil {
		wall = openBut(m.Port)
	}
	var by []netip.Prefix
	for _, a := range m.By {
		by = append(by, netip.PrefixFrom(a, a.BitLen()))
	}
	if len(by) > 0 {
		wall.Openings = Widen(wall.Openings, Opening{Port: m.Port, Peers: by})
	}
	return wall
}

// openBut returns a firewall that lets all in but at one port of TCP.
func openBut(port int) *Firewall {
	all := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	f := &Firewall{Openings: Widen(nil, Opening{ICMP: true, Peers: all})}
	f.Openings = Widen(f.Openings, Opening{Port: 1, Last: 65535, UDP: true, Peers: all})
	for _, ports := range [][2]int{{1, port - 1}, {port + 1, 65535}} {
		if ports[0] <= ports[1] {
			f.Openings = Widen(f.Openings, Opening{Port: ports[0], Last: ports[1], Peers: all})
		}
	}
	return f
}
