package weir

import "time"

// Autoscale is what a droplet autoscale pool has beside what every pool has.
//
// Such a pool makes another machine for each that is deleted, and replaces those that were made
// from an older template. Its members are what its template says, or are on their way there.
type Autoscale struct {
	Updated time.Time `json:"updated"` // when a user last changed it
	Written Written   `json:"written"`
}

// Written is what the template of an autoscale pool says in its author's words. Clients compare
// with them what they read.
type Written struct {
	Name    string   `json:"name,omitempty"`
	Image   string   `json:"image"`              // a slug, or a number
	SSHKeys []string `json:"ssh_keys,omitempty"` // IDs, fingerprints, or keys
	VPC     string   `json:"vpc,omitempty"`
	Project ID       `json:"project,omitempty"`
	Agent   bool     `json:"agent,omitempty"`
}

// ScalingReason says why a pool was to become larger, smaller, or another, in DigitalOcean's words.
type ScalingReason string

// The reasons.
const (
	ScaledByUser ScalingReason = "CONFIGURATION_CHANGE" // a user changed its size or its template
	ScaledUp     ScalingReason = "SCALE_UP"             // it has fewer machines than it should
	ScaledDown   ScalingReason = "SCALE_DOWN"           // it has more
)

// Scaling is one entry in the history of a pool that is an autoscale pool, or scales by its load.
type Scaling struct {
	ID      ID            `json:"id"`
	Reason  ScalingReason `json:"reason"`  // CONFIGURATION_CHANGE, SCALE_UP or SCALE_DOWN
	Want    int           `json:"want"`    // how many machines it was to have
	Have    int           `json:"have"`    // how many were there when Updated
	Began   time.Time     `json:"began"`   // when it was decided
	Updated time.Time     `json:"updated"` // when it was last seen to go on
	Ended   time.Time     `json:"ended,omitzero"`
	Err     string        `json:"err,omitempty"` // why it has not come to that, or never will
	Why     string        `json:"why,omitempty"` // of what Weir decided: the numbers
}

// ScalingState says how far a scaling is, in DigitalOcean's words.
type ScalingState string

// The states of a scaling.
const (
	ScalingRuns   ScalingState = "in_progress"
	ScalingDone   ScalingState = "success"
	ScalingFailed ScalingState = "error" // one that has not ended is tried on
)

// State returns how far s is.
func (s *Scaling) State() ScalingState {
	switch {
	case s.Err != "":
		return ScalingFailed
	case s.Ended.IsZero():
		return ScalingRuns
	}
	return ScalingDone
}

// Member is a machine of a pool.
type Member struct {
	Machine
	Unwell string // why it cannot do its work; empty if nothing is known that keeps it from that
}

// Trouble returns what is wrong with m as its cloud shows it, or "". One that is still being made
// may have no trouble.
func (m *Machine) Trouble() string {
	switch {
	case m.Status.Err != "":
		return m.Status.Err
	case m.Status.Boot.State == BootFailed:
		return m.Status.Boot.Why
	case m.Status.Phase == MachineOff:
		return "it is powered off"
	}
	return ""
}
