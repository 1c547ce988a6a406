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

	// KeepCount says, of a pool that is asked for, that one which is there keeps its own
	// count: Count is for a new one. No row has it.
	KeepCount bool `json:"-"`

	Status PoolStatus `json:"status"`
}

// PoolStatus is what was last seen of a pool.
type PoolStatus struct {
	Plan []string `json:"plan,omitempty"` // the steps still to be taken
	Err  string   `json:"err,omitempty"`
}

// Check returns why p cannot be a pool in a region of that name.
func (p *Pool) Check(region string) error {
	if err := CheckName(p.Name); err != nil {
		return Errorf(Invalid, "pool: %w", err)
	}
	if err := CheckName(p.Prefix); err != nil {
		return Errorf(Invalid, "pool %q: hostname_prefix: %w", p.Name, err)
	}
	if err := CheckName(p.Prefix + "-1000000"); err != nil {
		return Errorf(Invalid, "pool %q: hostname_prefix %q is too long: there is no room for a number behind it", p.Name, p.Prefix)
	}
	if p.Count < 0 || p.Count > MaxPool {
		return Errorf(Invalid, "pool %q: count is %d, want 0 to %d", p.Name, p.Count, MaxPool)
	}
	if err := p.Template.Check(region); err != nil {
		return Errorf(Invalid, "pool %q: %w", p.Name, err)
	}
	return nil
}
