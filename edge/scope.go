package edge

import (
	"path"
	"strings"

	"weir/weir"
)

// Whose a route is that is of no one kind of thing.
const (
	ofAll      = ""      // it shows or changes things of several kinds
	ofOperator = "admin" // it is for the one who operates the region
	ofNobody   = "none"  // it says the same to everybody, and shows nothing of a region
)

// kinds says of which kind the things are that are below a path. Of two that fit a route the
// longer counts.
var kinds = map[string]string{
	"/":             ofAll, // the page
	"/metrics":      ofOperator,
	"/docs":         ofNobody,
	"/openapi.yaml": ofNobody,

	"/v2/account":       "account",
	"/v2/account/keys":  "ssh_key",
	"/v2/actions":       "actions",
	"/v2/certificates":  "certificate",
	"/v2/droplets":      "droplet",
	"/v2/firewalls":     "firewall",
	"/v2/floating_ips":  "reserved_ip",
	"/v2/images":        "image",
	"/v2/monitoring":    "monitoring",
	"/v2/projects":      "project",
	"/v2/regions":       "regions",
	"/v2/reports":       "droplet",
	"/v2/reserved_ips":  "reserved_ip",
	"/v2/reserved_ipv6": "reserved_ip",
	"/v2/sizes":         "sizes",
	"/v2/snapshots":     "image",
	"/v2/tags":          "tag",
	"/v2/volumes":       "block_storage",
	"/v2/vpc_peerings":  "vpc",
	"/v2/vpcs":          "vpc",

	"/v2/load_balancers": "load_balancer",

	"/v2/weir/app":                  ofAll,
	"/v2/weir/audit":                ofOperator,
	"/v2/weir/droplets":             "droplet",
	"/v2/weir/events":               ofAll,
	"/v2/weir/hosts":                ofOperator,
	"/v2/weir/load_balancers":       "load_balancer",
	"/v2/weir/machines":             "droplet",
	"/v2/weir/machines/{id}/faults": ofOperator,
	"/v2/weir/nodes":                ofOperator,
	"/v2/weir/pools":                "droplet",
	"/v2/weir/status":               ofAll,
	"/v2/weir/tokens":               ofOperator,
}

// Need returns the scope that a route needs, which is a method and a path such as
// "GET /v2/droplets/{id}". It is "" for a route that needs none, and no token. A route of whose things the kind is not known, which is a mistake
// in the program, is for the operator alone.
func Need(route string) (scope weir.Scope, known bool) {
	method, at, _ := strings.Cut(route, " ")
	right := weir.ScopeWrite
	if method == "GET" || method == "HEAD" {
		right = weir.ScopeRead
	}
	for at = strings.TrimSuffix(at, "{$}"); ; at = path.Dir(at) {
		kind, known := kinds[at]
		switch {
		case known && kind == ofOperator:
			return weir.ScopeAdmin, true
		case known && kind == ofNobody:
			return "", true
		case known && (at != "/" || route == "GET /{$}"):
			return weir.ScopeOf(kind, right), true
		case at == "/" || at == "." || at == "":
			return weir.ScopeAdmin, false
		}
	}
}
