package local

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weir/weir"
)

// metadata serves DigitalOcean's metadata API to machines: /metadata/v1.json whole, and
// below /metadata/v1/ one value a path. Who asks is told by the address it asks from;
// find returns the machine that has it. An address that no machine has gets 404, as
// does any path that is not there.
func metadata(find func(from netip.Addr) (guest, bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "405 Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			notThere(w)
			return
		}
		g, ok := find(from.Addr().Unmap())
		if !ok {
			notThere(w)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		switch path := r.URL.Path; path {
		case "/metadata/v1.json":
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(about(&g).json()) // who asked is gone
		case "/v1/maintenance_event": // none is planned, ever
			plainText(w, "")
		default:
			inner, ok := strings.CutPrefix(path, "/metadata/v1")
			if !ok || inner != "" && inner[0] != '/' {
				notThere(w)
				return
			}
			serveEntry(w, about(&g), path, inner)
		}
	})
}

// serveEntry answers for the path below root, as the real service does: a directory
// lists its names, and is moved to if its slash is missing; a value has none.
func serveEntry(w http.ResponseWriter, root entry, path, inner string) {
	at, ok := root, true
	for segment := range strings.SplitSeq(strings.Trim(inner, "/"), "/") {
		if segment == "" {
			continue
		}
		if at, ok = at.child(segment); !ok {
			notThere(w)
			return
		}
	}
	switch slash := strings.HasSuffix(inner, "/"); {
	case at.isDirectory() && !slash:
		w.Header().Set("Location", path+"/")
		http.Error(w, "301 Moved Permanently", http.StatusMovedPermanently)
	case !at.isDirectory() && slash:
		notThere(w)
	default:
		plainText(w, at.text())
	}
}

func plainText(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(body)) // who asked may be gone
}

func notThere(w http.ResponseWriter) { http.Error(w, "404 Not Found", http.StatusNotFound) }

// entry is one thing that a machine may know of itself.
type entry struct {
	name string // in a path; that of a directory ends with /
	key  string // in the JSON; what has none is not in it

	// A string, json.Number, bool or []string; in a directory also []entry, or [][]entry
	// for directories that are numbered.
	value any
}

func (e entry) isDirectory() bool { return strings.HasSuffix(e.name, "/") }

func (e entry) children() []entry {
	switch v := e.value.(type) {
	case []entry:
		return v
	case [][]entry:
		numbered := make([]entry, len(v))
		for i, inner := range v {
			numbered[i] = entry{strconv.Itoa(i) + "/", "", inner}
		}
		return numbered
	}
	return nil
}

func (e entry) child(name string) (entry, bool) {
	for _, c := range e.children() {
		if strings.TrimSuffix(c.name, "/") == name {
			return c, true
		}
	}
	return entry{}, false
}

// text is what a path answers; no answer ends with a newline.
func (e entry) text() string {
	switch v := e.value.(type) {
	case string:
		return v
	case []string:
		return strings.Join(v, "\n")
	case []entry, [][]entry:
		var names []string
		for _, c := range e.children() {
			names = append(names, c.name)
		}
		return strings.Join(names, "\n")
	}
	return fmt.Sprint(e.value)
}

// json is the value as encoding/json takes it.
func (e entry) json() any {
	switch v := e.value.(type) {
	case []string:
		return append([]string{}, v...) // none is [], not null
	case []entry:
		object := map[string]any{}
		for _, c := range v {
			if c.key != "" {
				object[c.key] = c.json()
			}
		}
		return object
	case [][]entry:
		array := []any{}
		for _, c := range e.children() {
			array = append(array, c.json())
		}
		return array
	}
	return e.value
}

// about returns all that g may know, for paths and for JSON.
func about(g *guest) entry {
	ipv4 := func(name string, addr netip.Addr, in netip.Prefix) entry {
		return entry{name + "/", name, []entry{
			{"address", "ip_address", addr.String()},
			{"netmask", "netmask", net.IP(net.CIDRMask(in.Bits(), 32)).String()},
			{"gateway", "gateway", gatewayOf(in).String()},
		}}
	}
	eth0 := []entry{
		{"mac", "mac", g.publicMAC().String()},
		{"type", "type", "public"},
		ipv4("ipv4", g.Public, g.Networks.Public),
		ipv4("anchor_ipv4", g.Anchor, g.Networks.Anchor),
	}
	if g.Public6.IsValid() {
		ipv6 := func(name string, addr netip.Addr, in netip.Prefix) entry {
			return entry{name + "/", name, []entry{
				{"address", "ip_address", addr.String()},
				{"cidr", "cidr", json.Number(strconv.Itoa(in.Bits()))},
				{"gateway", "gateway", gatewayOf(in).String()},
			}}
		}
		eth0 = append(eth0, ipv6("ipv6", g.Public6, g.Networks.Public6), ipv6("anchor_ipv6", g.Anchor6, g.Networks.Anchor6))
	}
	eth1 := []entry{
		{"mac", "mac", g.privateMAC().String()},
		{"type", "type", "private"},
		ipv4("ipv4", g.Private, g.Networks.Private),
	}
	reserved := []entry{{"ipv4/", "ipv4", g.held(weir.IPv4)}}
	floating := reserved // those are of IPv4
	if g.Public6.IsValid() {
		reserved = append(slices.Clip(reserved), entry{"ipv6/", "ipv6", g.held(weir.IPv6)})
	}
	return entry{"/", "", []entry{
		{"id", "droplet_id", json.Number(g.ID)},
		{"hostname", "hostname", g.Name},
		{"user-data", "user_data", g.UserData},
		{"vendor-data", "vendor_data", ""},
		{"public-keys", "public_keys", g.SSHKeys},
		{"region", "region", g.Region},
		{"interfaces/", "interfaces", []entry{
			{"public/", "public", [][]entry{eth0}},
			{"private/", "private", [][]entry{eth1}},
		}},
		{"dns/", "dns", []entry{{"nameservers", "nameservers", []string{gatewayOf(g.Networks.Private).String()}}}},
		{"floating_ip/", "floating_ip", floating},
		{"reserved_ip/", "reserved_ip", reserved},
		{"tags/", "tags", g.Tags},
		{"features/", "features", []entry{{"dhcp_enabled", "dhcp_enabled", false}}},
	}}
}

// held tells of the reserved IP of a family. Without one the path is there and empty: a script may ask it first.
func (g *guest) held(family weir.Family) []entry {
	for _, a := range g.Reserved {
		if weir.FamilyOf(a) == family {
			return []entry{{"active", "active", true}, {"ip_address", "ip_address", a.String()}}
		}
	}
	return []entry{{"active", "active", false}, {"ip_address", "", ""}}
}
