package weir

import (
	"net/netip"
	"slices"
	"time"
)

// The ports that instances of load balancers answer on, beside those of their rules.
const (
	BeatPort   = 7072 // UDP: heartbeats of the other instances and of the control plane
	HealthPort = 7073 // HTTP: HAProxy says that it lives
)

// NodeConfig is all that one node should do. The control plane writes it, the agent
// brings its node to it; neither knows more of the other than this and NodeStatus.
type NodeConfig struct {
	Node     ID       `json:"node"`     // the machine that it is for
	Revision int64    `json:"revision"` // rises with each change, and is the same on all instances of a load balancer
	Proxy    Proxy    `json:"proxy"`
	Group    *Group   `json:"group,omitempty"`   // whom it watches
	Hold     *Hold    `json:"hold,omitempty"`    // the address that nodes hold by themselves; nil where a cloud leads it to them
	Members  []string `json:"members,omitempty"` // URLs of the control plane's members, as nodes reach them
}

// Group is the instances of one load balancer, which watch one another by heartbeats.
type Group struct {
	Key   []byte `json:"key"`             // authenticates heartbeats
	Peers []Peer `json:"peers,omitempty"` // all but the node itself, by ID
}

// Peer is another instance of the same load balancer. It is watched at each of its
// addresses: they are paths that can break one by one.
type Peer struct {
	Node  ID           `json:"node"`
	Addrs []netip.Addr `json:"addrs"` // its private address first, then where clients reach it
}

// Hold is the address of a load balancer that its nodes hold by themselves, by ARP or NDP.
type Hold struct {
	Addr   netip.Prefix `json:"addr"`   // with the length of its network's prefix
	Active bool         `json:"active"` // this node is the one that should have it
}

// Proxy is what HAProxy should do on one node. It is typed throughout: a string that
// a user wrote gets into HAProxy's configuration only by way of a field that package
// haproxy quotes or that Check has restricted.
type Proxy struct {
	LoadBalancer ID             `json:"load_balancer"`
	Name         string         `json:"name"` // of the load balancer
	Frontends    []Frontend     `json:"frontends"`
	Health       bool           `json:"health,omitempty"`  // HAProxy answers at HealthPort, everywhere, that it lives
	Floating     netip.Addr     `json:"floating,omitzero"` // an address that the node may or may not have at any moment
	Backends     []Backend      `json:"backends"`
	Clients      []netip.Prefix `json:"clients,omitempty"` // whom it accepts connections from; everybody if there are none
	Denied       []netip.Prefix `json:"denied,omitempty"`  // whom it does not, whatever Clients says
	Drain        time.Duration  `json:"drain"`             // how long a server that leaves may finish its requests
	// Drains has how long, for servers that leave with a deadline of their own.
	Drains   map[ID]time.Duration `json:"drains,omitempty"`
	Handling Handling             `json:"handling,omitzero"` // of requests, by all frontends of rules
	// PEM has the certificates that frontends name, each with its chain and its private key. It is added on the way to
	// the node, and kept there alone.
	PEM map[ID]string `json:"pem,omitempty"`
	// Thumbprint is of the ACME account whose challenges frontends answer that speak HTTP without TLS; none if empty.
	Thumbprint string `json:"thumbprint,omitempty"`
	// Challenges are certificates that are shown to an authority that asks by ACME's TLS-ALPN-01, where frontends are
	// Challenged. There are some only while an order waits for that.
	Challenges []CertificateRef `json:"challenges,omitempty"`

	Snippets Snippets   `json:"snippets,omitzero"` // an operator's own lines
	Log      *AccessLog `json:"log,omitempty"`     // nil: requests are not logged, and have no IDs

	Reload int64 `json:"reload,omitempty"` // when it changes, HAProxy reloads whatever else is the same
}

// Serves reports whether machine is one of p's servers.
func (p *Proxy) Serves(machine ID) bool {
	return slices.ContainsFunc(p.Backends, func(b Backend) bool {
		return slices.ContainsFunc(b.Servers, func(s Server) bool { return s.ID == machine })
	})
}

// Frontend is one listening socket.
type Frontend struct {
	Name    string         `json:"name"`
	Bind    netip.AddrPort `json:"bind"`
	Mode    Protocol       `json:"mode"`
	Idle    time.Duration  `json:"idle"`
	Backend string         `json:"backend"` // the name of the backend that serves it; empty if nobody does

	TLS      *TLS `json:"tls,omitempty"`      // that is ended here; nil if clients speak none, or speak it to servers
	Redirect int  `json:"redirect,omitempty"` // requests are redirected to HTTPS at this port, and to no backend

	Routes []FrontRoute `json:"routes,omitempty"` // the first that fits decides; all else is Backend's
}

// FrontRoute is a route of a frontend's requests.
type FrontRoute struct {
	Route
	Backend string `json:"backend,omitempty"` // the name of the backend that serves it; empty if it redirects
}

// TLS is what a frontend ends TLS with.
type TLS struct {
	Certificates []CertificateRef `json:"certificates"` // the first one is for clients that ask for no other's name
	H2           bool             `json:"h2,omitempty"` // clients may speak HTTP/2
	Strong       bool             `json:"strong,omitempty"`
	Challenged   bool             `json:"challenged,omitempty"` // an authority may ask here, for one of Proxy.Challenges
}

// CertificateRef names a certificate, of which a node has the text from elsewhere: see Proxy.PEM.
type CertificateRef struct {
	ID          ID     `json:"id"`
	Fingerprint string `json:"fingerprint"` // SHA-1 in hexadecimal, of the leaf
}

// Backend is a set of servers.
type Backend struct {
	Name    string        `json:"name"`
	Mode    Protocol      `json:"mode"`
	Balance Algorithm     `json:"balance"`
	Idle    time.Duration `json:"idle"`
	Check   HealthCheck   `json:"check"`
	Servers []Server      `json:"servers"` // by ID

	Secure Protocol `json:"secure,omitempty"` // servers speak it, over TLS; their certificates are not looked at
	Sticky *Sticky  `json:"sticky,omitempty"`
	Key    string   `json:"key,omitempty"`    // what cookies are made from, the same on all instances
	Proxy  bool     `json:"proxy,omitempty"`  // connections begin with a PROXY header
	Shared bool     `json:"shared,omitempty"` // connections are shared by all clients

	SlowStart time.Duration `json:"slow_start,omitempty"` // a server that comes up gets its full share after this
}

// Server is one machine in a backend.
type Server struct {
	ID     ID             `json:"id"` // of the machine; decimal, and HAProxy's id of the server too
	Name   string         `json:"name"`
	Addr   netip.AddrPort `json:"addr"`
	Weight int            `json:"weight"` // 0 to 256; 1 unless weighted
}

// NodeStatus is what one node does.
type NodeStatus struct {
	Node     ID             `json:"node"`
	Revision int64          `json:"revision"`        // of the NodeConfig that is live
	Tried    int64          `json:"tried,omitempty"` // the newest that was given to HAProxy
	Err      string         `json:"err,omitempty"`   // why that is not live
	Agent    string         `json:"agent"`           // the version of weir
	HAProxy  HAProxyStatus  `json:"haproxy"`
	Servers  []ServerStatus `json:"servers"`
	Peers    []PeerStatus   `json:"peers,omitempty"` // the other instances as heartbeats show them, by ID
	Down     []string       `json:"down,omitempty"`  // network interfaces whose link is down
	Held     *HeldStatus    `json:"held,omitempty"`  // the address that it holds by itself
	Host     *HostStatus    `json:"host,omitempty"`  // of a machine of one's own

	// The control plane adds these.
	LoadBalancer ID        `json:"load_balancer,omitempty"`
	Seen         time.Time `json:"seen,omitzero"` // when it got this
}

// Has reports whether machine is among s's servers, those that are leaving included.
func (s *NodeStatus) Has(machine ID) bool {
	return slices.ContainsFunc(s.Servers, func(s ServerStatus) bool { return s.ID == machine })
}

// HasUp reports whether machine is among s's servers, and up in all of its backends.
func (s *NodeStatus) HasUp(machine ID) bool {
	return s.Has(machine) && !slices.ContainsFunc(s.Servers, func(s ServerStatus) bool { return s.ID == machine && s.State != ServerUp })
}

// HAProxyStatus is the HAProxy process of a node.
type HAProxyStatus struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`               // of the worker that has the listening sockets
	Started time.Time `json:"started"`           // when that worker did
	Reloads int       `json:"reloads"`           // since the agent started
	Err     string    `json:"err,omitempty"`     // why it serves nobody at this moment: it has died, or does not answer
	Starved bool      `json:"starved,omitempty"` // its machine is too busy to have it answer in time
	Counts  *Counts   `json:"counts,omitempty"`
}

// PathState is what heartbeats say of a peer at one of its addresses.
type PathState string

// The states of a path.
const (
	PathUnknown     PathState = "unknown" // nothing was heard yet
	PathUp          PathState = "up"
	PathLate        PathState = "late" // beats are missing, too few to call it silent
	PathSilent      PathState = "silent"
	PathRefused     PathState = "refused"     // the machine lives, and no agent answers there
	PathUnreachable PathState = "unreachable" // the network says that there is no such machine
)

// Lost reports whether nobody can be expected to answer on a path.
func (s PathState) Lost() bool { return s == PathSilent || s == PathUnreachable }

// PeerStatus is another instance as a node's heartbeats show it.
type PeerStatus struct {
	Node  ID           `json:"node"`
	Paths []PathStatus `json:"paths"` // in the order of Peer.Addrs
}

// PathStatus is one address of a peer.
type PathStatus struct {
	Addr  netip.Addr `json:"addr"`
	State PathState  `json:"state"`
	Since time.Time  `json:"since"` // when it got into that state, by the reporting node's clock
}

// HeldStatus is an address that a node holds by ARP or NDP.
type HeldStatus struct {
	Addr      netip.Prefix `json:"addr"`
	Since     time.Time    `json:"since"`
	Duplicate string       `json:"duplicate,omitempty"` // the hardware address of somebody else who claims it
}

// HostStatus is a machine of one's own as its agent sees it.
type HostStatus struct {
	Name  string         `json:"name"`
	Addrs []netip.Prefix `json:"addrs"` // its addresses, without loopback and those that it holds for a load balancer
}

// ServerState is what HAProxy thinks of a server.
type ServerState string

// The states of a server.
const (
	ServerUp       ServerState = "up"
	ServerDown     ServerState = "down"     // its health check fails
	ServerChecking ServerState = "checking" // new: it waits for its first check to pass
	ServerDraining ServerState = "draining" // leaving: it finishes what it has
)

// ServerStatus is one server of a node's HAProxy. Servers that are leaving are
// listed until they are gone.
type ServerStatus struct {
	Backend  string      `json:"backend"`
	ID       ID          `json:"id"`
	State    ServerState `json:"state"`
	Why      string      `json:"why,omitempty"`  // the last check's result: "L4CON: Connection refused"
	Down     int64       `json:"down,omitempty"` // of one that is down, for how many seconds
	Sessions int         `json:"sessions"`       // at this moment
	Requests int64       `json:"requests"`       // since this worker started
}
