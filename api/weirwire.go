package api

import (
	"net/netip"
	"time"

	"weir/weir"
)

// The types below are what /v2/weir/ speaks. A [weir.RegionStatus], a [weir.Failover], a
// [weir.Event] and a [weir.Audit] are answered as they are.

// App is the body of PUT /v2/weir/app: an application as a weir.yaml describes it, its
// servers and the load balancer in front of them. [AppOf] makes one. The servers carry
// Name as a tag, and the load balancer goes by that tag; or they are no machines of Weir's
// and are given by Servers, and then nothing is said of how to make one: Size, Image,
// UserData, HostnamePrefix, SSHKeys, Tags and Count. What is left out has the default named.
type App struct {
	Name           string           `json:"name"`
	Region         string           `json:"region,omitempty"`          // the one that answers
	Size           string           `json:"size,omitempty"`            // weir.DefaultNodeSize
	Image          string           `json:"image,omitempty"`           // weir.DefaultImage
	UserData       string           `json:"user_data,omitempty"`       // none
	HostnamePrefix string           `json:"hostname_prefix,omitempty"` // Name
	SSHKeys        []string         `json:"ssh_keys,omitempty"`        // public keys
	Tags           []string         `json:"tags,omitempty"`            // beside Name
	Count          *int             `json:"count,omitempty"`           // what the pool has, 1 for a new one
	Scale          *AutoscaleConfig `json:"scale,omitempty"`           // instead of Count, without target_number_instances
	Servers        []string         `json:"servers,omitempty"`         // by address
	LoadBalancer   AppLoadBalancer  `json:"load_balancer"`

	PoolMore
}

// AppLoadBalancer is an App's load balancer.
type AppLoadBalancer struct {
	Name                   string           `json:"name,omitempty"`                      // the App's
	Size                   string           `json:"size,omitempty"`                      // of an instance: weir.DefaultNodeSize
	Address                string           `json:"address,omitempty"`                   // with the length of its network's prefix; one that the cloud reserves
	Network                string           `json:"network,omitempty"`                   // external; internal is reached from the private network alone
	Algorithm              string           `json:"algorithm,omitempty"`                 // round_robin
	ForwardingRules        []ForwardingRule `json:"forwarding_rules,omitempty"`          // http:80 to http:80
	HealthCheck            *HealthCheck     `json:"health_check,omitempty"`              // of the first rule's target, otherwise DigitalOcean's
	HTTPIdleTimeoutSeconds int64            `json:"http_idle_timeout_seconds,omitempty"` // 60

	BalancerOptions
	BalancerPolicy
}

// Applied is the answer to PUT /v2/weir/app.
type Applied struct {
	Changes []string `json:"changes"` // a sentence each; none: all was as asked
	DryRun  bool     `json:"dry_run"` // the changes would be made, and were not
}

// Pool is one of the pools of GET /v2/weir/pools.
type Pool struct {
	ID             weir.ID   `json:"id"`
	Name           string    `json:"name"`
	Region         string    `json:"region"`
	Size           string    `json:"size"`
	Image          string    `json:"image"`
	HostnamePrefix string    `json:"hostname_prefix"`
	Tags           []string  `json:"tags"`
	Count          int       `json:"count"`
	Created        time.Time `json:"created_at"`
	Plan           []string  `json:"plan"`  // the steps still to be taken
	Err            string    `json:"error"` // why it is not yet as it should be
}

// PoolState is the pool of GET /v2/weir/pools/{name}.
type PoolState struct {
	Pool
	Autoscale bool             `json:"autoscale"`         // it is a droplet autoscale pool
	Machines  int              `json:"machines"`          // that it has and is to keep
	Hosts     map[string]int   `json:"hosts,omitempty"`   // how many of those each host has; left out if its cloud does not say
	Scale     *AutoscaleConfig `json:"scale,omitempty"`   // nil: it has as many machines as users say
	Load      weir.PoolLoad    `json:"load"`              // at the moment
	Verdict   *weir.Verdict    `json:"verdict,omitempty"` // what was last decided of its size
	Capacity  float64          `json:"capacity"`          // what its machines are worth, in machines of its first size
	Back      string           `json:"back,omitempty"`    // why it went back to its former template, until it has another

	PoolMore
}

// Growth is the body of POST /v2/weir/pools/{name}/machines, which is answered as the
// creation of several droplets.
type Growth struct {
	Count int `json:"count"`
}

// InventoryMachine is one of the machines of GET /v2/weir/machines, which has load
// balancers' instances too.
type InventoryMachine struct {
	Line         int        `json:"line"` // in the inventory, from 1; 0 for a load balancer's instance and for one of one's own
	ID           int64      `json:"id"`
	Name         string     `json:"name"`
	Region       string     `json:"region"`
	Size         string     `json:"size"`
	Status       string     `json:"status"` // new, active, off, deleting
	Public       netip.Addr `json:"public_ip,omitzero"`
	Private      netip.Addr `json:"private_ip,omitzero"`
	Pool         weir.ID    `json:"pool,omitempty"`
	LoadBalancer weir.ID    `json:"load_balancer,omitempty"` // it is an instance of this one
	Own          bool       `json:"own,omitempty"`           // a machine of one's own, which joined
	Tags         []string   `json:"tags"`
	OnHost       string     `json:"on_host,omitempty"`   // left out if its cloud does not say
	HostDown     bool       `json:"host_down,omitempty"` // its host is: it is off, and stays until that is up again
	Drained      bool       `json:"drained,omitempty"`   // an operator keeps it from serving
	Boot         weir.Boot  `json:"boot"`
	Created      time.Time  `json:"created_at"`
	Err          string     `json:"error,omitempty"` // why it is not yet as it should be
}

// NewNode is the body of POST /v2/weir/nodes, by which a machine of one's own may join.
type NewNode struct {
	Name string `json:"name"`
}

// NodeToken is the answer to it. Nobody can read the token again.
type NodeToken struct {
	ID    int64    `json:"id"`
	Name  string   `json:"name"`
	Token string   `json:"token"` // for its agent, once
	Join  []string `json:"join"`  // the URLs at which its agent reaches the control plane
}

// Token is one of the tokens of GET /v2/weir/tokens, and the answer to POST.
type Token struct {
	ID      weir.ID      `json:"id"`
	Name    string       `json:"name"`
	Team    string       `json:"team"`
	User    string       `json:"user"`
	Scopes  []weir.Scope `json:"scopes"`
	Expired bool         `json:"expired"`
	Created time.Time    `json:"created_at"`
	Expires time.Time    `json:"expires_at,omitzero"`   // never if it is not there
	Used    time.Time    `json:"last_used_at,omitzero"` // to within an hour
	Secret  string       `json:"token,omitempty"`       // what its bearer shows; when it is made, and never again
}

// NewToken is the body of POST /v2/weir/tokens.
type NewToken struct {
	Name    string       `json:"name"`
	Team    string       `json:"team,omitempty"` // the first one
	User    string       `json:"user,omitempty"`
	Scopes  []weir.Scope `json:"scopes"`
	Expires string       `json:"expires_at,omitempty"` // as in RFC 3339; never
}

// Handover is the body of POST /v2/weir/load_balancers/{id}/failover, which may be left out.
// It is answered, once the address has moved, with {"failover": …}.
type Handover struct {
	To string `json:"to,omitempty"` // the name or the ID of an instance; the best one that stands by if empty
}

// Draining is the body of POST /v2/weir/machines/{id}/drain.
type Draining struct {
	Drained *bool `json:"drained"` // an operator keeps the machine from serving
}

// MaxEvents is how many events GET /v2/weir/events answers with at most.
const MaxEvents = 1000

// The types of a Fault.
const (
	FaultKill      = "kill"
	FaultFreeze    = "freeze"
	FaultThaw      = "thaw"
	FaultPartition = "partition"
	FaultHeal      = "heal"
	FaultReboot    = "reboot"
)

// Fault is the body of POST /v2/weir/machines/{id}/faults. The answer, once it is done, is
// 204. Link, Direction and Silent say what a partition cuts; see [weir.Cut].
type Fault struct {
	Type      string         `json:"type"`
	Link      weir.Link      `json:"link,omitempty"`      // both
	Direction weir.Direction `json:"direction,omitempty"` // both
	Silent    *bool          `json:"silent,omitempty"`    // true; false takes the link down
}

// The types of a HostFault.
const (
	FaultFail    = "fail"
	FaultRestore = "restore"
)

// HostFault is the body of POST /v2/weir/hosts/{name}/faults. The answer, once it is done, is 204.
type HostFault struct {
	Type string `json:"type"`
}

// LiveHeader is the header of GET /v2/weir/load_balancers/{id}/config that is "true" if
// the configuration is live, and "false" if it would be.
const LiveHeader = "X-Weir-Live"
