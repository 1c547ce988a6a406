package weir

import (
	"net/netip"
	"slices"
	"time"
)

// NodeConfig is all that one node should do. The control plane writes it, the agent
// brings its node to it; neither knows more of the other than this and NodeStatus.
type NodeConfig struct {
	Node     ID    `json:"node"`     // the machine that it is for
	Revision int64 `json:"revision"` // rises with each change
	Proxy    Proxy `json:"proxy"`
}

// Proxy is what HAProxy should do on one node. It is typed throughout: a string that
// a user wrote gets into HAProxy's configuration only by way of a field that package
// haproxy quotes or that Check has restricted.
type Proxy struct {
	LoadBalancer ID            `json:"load_balancer"`
	Name         string        `json:"name"` // of the load balancer
	Frontends    []Frontend    `json:"frontends"`
	Backends     []Backend     `json:"backends"`
	Drain        time.Duration `json:"drain"`            // how long a server that leaves may finish its requests
	Reload       int64         `json:"reload,omitempty"` // when it changes, HAProxy reloads whatever else is the same
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
	Backend string         `json:"backend"` // the name of the backend that serves it
}

// Backend is a set of servers.
type Backend struct {
	Name    string        `json:"name"`
	Mode    Protocol      `json:"mode"`
	Balance Algorithm     `json:"balance"`
	Idle    time.Duration `json:"idle"`
	Check   HealthCheck   `json:"check"`
	Servers []Server      `json:"servers"` // by ID
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

	// The control plane adds these.
	LoadBalancer ID        `json:"load_balancer,omitempty"`
	Seen         time.Time `json:"seen,omitzero"` // when it got this
}

// Has reports whether machine is among s's servers, those that are leaving included.
func (s *NodeStatus) Has(machine ID) bool {
	return slices.ContainsFunc(s.Servers, func(s ServerStatus) bool { return s.ID == machine })
}

// HAProxyStatus is the HAProxy process of a node.
type HAProxyStatus struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`     // of the worker that has the listening sockets
	Started time.Time `json:"started"` // when that worker did
	Reloads int       `json:"reloads"` // since the agent started
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
	Why      string      `json:"why,omitempty"` // the last check's result: "L4CON: Connection refused"
	Sessions int         `json:"sessions"`      // at this moment
	Requests int64       `json:"requests"`      // since this worker started
}
