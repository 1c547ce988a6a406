package weir

import "time"

// CostState says why something costs money.
type CostState string

// The states of what costs money.
const (
	CostKept    CostState = "kept"    // it is there, and is to stay
	CostComing  CostState = "coming"  // it is asked for, and its cloud does not show it yet
	CostLeaving CostState = "leaving" // it is there, and is to go
	CostUnknown CostState = "unknown" // its cloud has it, and nothing here says that it should
)

// Cost is one thing that costs money: a machine or an address.
type Cost struct {
	Kind  string    `json:"kind"` // machine or address
	ID    ID        `json:"id"`   // of an address, the address
	Team  ID        `json:"team,omitempty"`
	Name  string    `json:"name,omitempty"`
	Size  string    `json:"size,omitempty"`        // of a machine
	Of    string    `json:"of,omitempty"`          // pool web, load balancer front
	Price float64   `json:"hourly_cost,omitempty"` // as its pool says; 0 if nobody has said
	State CostState `json:"state"`                 // kept, coming, leaving, unknown
	Since time.Time `json:"since,omitzero"`        // when it was asked for, or its deletion
	Err   string    `json:"error,omitempty"`       // why it is not as it should be
}

// Costs are all that costs money, machines before addresses.
type Costs struct {
	Items []Cost  `json:"items"`           // by ID
	Price float64 `json:"hourly_cost"`     // of all whose price is known and that are there
	Err   string  `json:"error,omitempty"` // why the cloud could not be asked: then the items are as they were last seen
}
