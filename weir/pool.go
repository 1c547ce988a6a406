package weir

import "time"

// MaxPool is how many machines a pool may have.
const MaxPool = 1000

// Pool keeps a number of like machines.
type Pool struct {
	ID       ID        `json:"id"`
	Team     ID        `json:"team,omitempty"`
	Name     string    `json:"name"`   // unique in a team
	Prefix   string    `json:"prefix"` // of its machines' names: web makes web-1, web-2, …
	Template Template  `json:"template"`
	Count    int       `json:"count"`
	Serial   int       `json:"serial"` // the last number given to a machine; none is given twice
	Created  time.Time `json:"created"`
	Deleting time.Time `json:"deleting,omitzero"`

	// Autoscale is what it has as a droplet autoscale pool. Nil: it is one of a weir.yaml.
	Autoscale *Autoscale `json:"autoscale,omitempty"`

	// KeepCount says, of a pool that is asked for, that one which is there keeps its own
	// count: Count is for a new one. No row has it.
	KeepCount bool `json:"-"`

	// Scale is how its Count follows its load. Nil: Count is what users say.
	Scale *Scale `json:"scale,omitempty"`

	Status PoolStatus `json:"status"`
}

// PoolStatus is what was last seen of a pool.
type PoolStatus struct {
	Plan []string `json:"plan,omitempty"` // the steps still to be taken
	Err  string   `json:"err,omitempty"`

	// Of a pool that has a history, how many of its machines are powered on and to stay, and why one
	// of them cannot be made at the moment.
	Active int    `json:"active,omitempty"`
	Stuck  string `json:"stuck,omitempty"`
}

// Check returns why p cannot be a pool in a region of that name.
func (p *Pool) Check(region string) error {
	if err := CheckName(p.Name); err != nil {
		return Errorf(Invalid, "pool: %w", err)
	}
	prefix := "hostname_prefix"
	if p.Autoscale != nil {
		prefix = "droplet_template.name"
	}
	if err := CheckName(p.Prefix); err != nil {
		return Errorf(Invalid, "pool %q: %s: %w", p.Name, prefix, err)
	}
	if err := CheckName(p.Prefix + "-1000000"); err != nil {
		return Errorf(Invalid, "pool %q: %s %q is too long: there is no room for a number behind it", p.Name, prefix, p.Prefix)
	}
	if err := p.checkScale(); err != nil {
		return Errorf(Invalid, "pool %q: %w", p.Name, err)
	}
	if p.Count < 0 || p.Count > MaxPool {
		return Errorf(Invalid, "pool %q: count is %d, want 0 to %d", p.Name, p.Count, MaxPool)
	}
	if err := p.Template.Check(region); err != nil {
		return Errorf(Invalid, "pool %q: %w", p.Name, err)
	}
	return nil
}

// Told reports whether p has a history of how its size changed.
func (p *Pool) Told() bool { return p.Autoscale != nil || p.Scale != nil }

// checkScale returns what is wrong with how large a pool may be.
func (p *Pool) checkScale() error {
	switch {
	case p.Scale != nil:
		return p.Scale.check()
	case p.Autoscale == nil:
	case p.Count < 1 || p.Count > MaxPool:
		return Errorf(Invalid, "target_number_instances is %d, want 1 to %d", p.Count, MaxPool)
	}
	return nil
}

// Stale reports whether a member of p was made from an older template than p has, and is to be
// replaced.
func (p *Pool) Stale(m *Machine) bool { return p.Autoscale != nil && m.Edition < p.Autoscale.Edition }
