package weir

import "time"

// DefaultCooldown is how long a pool that scales by its load stays as large as it is, at least,
// unless a user says otherwise.
const DefaultCooldown = 10 * time.Minute

// Limits of pools that scale by their load, DigitalOcean's.
const (
	maxPoolMin  = 500
	minLoad     = 0.05
	minCooldown = 5 * time.Minute
	maxCooldown = 20 * time.Minute
)

// Autoscale is what a droplet autoscale pool has beside what every pool has.
//
// Such a pool makes another machine for each that is deleted, and replaces those that were made
// from an older template. Its members are what its template says, or are on their way there.
type Autoscale struct {
	Scale   *Scale    `json:"scale,omitempty"` // nil: it has the pool's Count, whatever its load
	Edition int       `json:"edition"`         // of the pool's template: one more with each change of it
	Updated time.Time `json:"updated"`         // when a user last changed it
	Written Written   `json:"written"`
}

// Scale says how large a pool may be, and how large the load of its machines should be on average.
type Scale struct {
	Min      int           `json:"min"`
	Max      int           `json:"max"`
	CPU      float64       `json:"cpu,omitempty"`      // the share of their CPUs; 0 if it does not count
	Memory   float64       `json:"memory,omitempty"`   // the share of their memory; 0 if it does not count
	Cooldown time.Duration `json:"cooldown,omitempty"` // between two changes of its size; DefaultCooldown if 0
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

// Clamp returns the size that a pool may have that is nearest to count.
func (s *Scale) Clamp(count int) int { return min(max(count, s.Min), s.Max) }

// check returns why no pool can scale so.
func (s *Scale) check() error {
	switch {
	case s.Min < 1 || s.Min > maxPoolMin:
		return Errorf(Invalid, "min_instances is %d, want 1 to %d", s.Min, maxPoolMin)
	case s.Max < 1 || s.Max > MaxPool:
		return Errorf(Invalid, "max_instances is %d, want 1 to %d", s.Max, MaxPool)
	case s.Max < s.Min:
		return Errorf(Invalid, "max_instances is %d, want at least min_instances, which is %d", s.Max, s.Min)
	case s.CPU == 0 && s.Memory == 0:
		return Errorf(Invalid, "target_cpu_utilization and target_memory_utilization are missing, want at least one of them: they say when a pool grows and shrinks")
	case s.CPU != 0 && (s.CPU < minLoad || s.CPU > 1):
		return Errorf(Invalid, "target_cpu_utilization is %v, want %v to 1", s.CPU, minLoad)
	case s.Memory != 0 && (s.Memory < minLoad || s.Memory > 1):
		return Errorf(Invalid, "target_memory_utilization is %v, want %v to 1", s.Memory, minLoad)
	case s.Cooldown != 0 && (s.Cooldown < minCooldown || s.Cooldown > maxCooldown):
		return Errorf(Invalid, "cooldown_minutes is %d, want %d to %d", s.Cooldown/time.Minute, minCooldown/time.Minute, maxCooldown/time.Minute)
	}
	return nil
}

// ScalingReason says why a pool was to become larger, smaller, or another, in DigitalOcean's words.
type ScalingReason string

// The reasons.
const (
	ScaledByUser ScalingReason = "CONFIGURATION_CHANGE" // a user changed its size or its template
	ScaledUp     ScalingReason = "SCALE_UP"             // it has fewer machines than it should
	ScaledDown   ScalingReason = "SCALE_DOWN"           // it has more
)

// Scaling is one entry in the history of an autoscale pool.
type Scaling struct {
	ID      ID            `json:"id"`
	Reason  ScalingReason `json:"reason"`
	Want    int           `json:"want"` // how many machines it was to have
	Have    int           `json:"have"` // how many were there when Updated
	Began   time.Time     `json:"began"`
	Updated time.Time     `json:"updated"`
	Ended   time.Time     `json:"ended,omitzero"`
	Err     string        `json:"err,omitempty"` // why it has not come to that, or never will
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
