package weir

import (
	"net/netip"
	"time"
)

// Destruction is the end of a machine, and of reserved IPs with it, as a user has asked for it.
type Destruction struct {
	Machine   ID           `json:"machine"`
	Team      ID           `json:"team,omitempty"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"` // that were given back when it was asked for
	Asked     time.Time    `json:"asked"`
	Gone      time.Time    `json:"gone,omitzero"` // when the machine was destroyed
}
