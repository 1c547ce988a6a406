package weir

import (
	"encoding/json"
	"time"
)

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

	// Sizes are those that its machines may have, of which the template's is the first; none if they have that alone.
	// Count, and what Scale says, count machines of the first size: one of another is worth as many as its Weight.
	Sizes []Offer `json:"sizes,omitempty"`

	// KeepCount says, of a pool that is asked for, that one which is there keeps its own
	// count: Count is for a new one. No row has it.
	KeepCount bool `json:"-"`

	// Scale is how its Count follows its load. Nil: Count is what users say.
	Scale *Scale `json:"scale,omitempty"`

	// Rolling is how its machines are replaced when its template has changed. Nil: those of an autoscale pool by the
	// defaults, and those of a weir.yaml stay what they are.
	Rolling *Rolling `json:"rolling,omitempty"`

	// Heal is whether machines are replaced that load balancers find down. Nil: if it follows its load.
	Heal *bool `json:"heal,omitempty"`

	// Exporter is where its machines tell what they use. Nil: their cloud tells it.
	Exporter *Exporter `json:"exporter,omitempty"`

	Edition  int     `json:"edition,omitempty"`  // of its template
	Editions int     `json:"editions,omitempty"` // the last that was given to one
	Former   *Former `json:"former,omitempty"`   // what its machines were, while they are being replaced
	Back     string  `json:"back,omitempty"`     // why it went back to its former template, until it has another

	Status PoolStatus `json:"status"`
}

// UnmarshalJSON also reads rows of former versions, which had the edition among what autoscale pools alone have: machines that
// were made from it are to stay.
func (p *Pool) UnmarshalJSON(data []byte) error {
	type row Pool
	if err := json.Unmarshal(data, (*row)(p)); err != nil || p.Autoscale == nil || p.Editions > 0 {
		return err
	}
	var former struct {
		Autoscale struct {
			Edition int `json:"edition"`
		} `json:"autoscale"`
	}
	err := json.Unmarshal(data, &former)
	p.Edition, p.Editions = former.Autoscale.Edition, former.Autoscale.Edition
	return err
}

// Rolling says by how many machines a pool may be smaller and larger while they are replaced.
type Rolling struct {
	Unavailable int  `json:"max_unavailable,omitempty"` // that many fewer may serve
	Surge       *int `json:"max_surge,omitempty"`       // that many more there may be; a tenth of the pool, at least one, if nil
}

// Former is what a pool goes back to if machines of its new template fail.
type Former struct {
	Edition  int       `json:"edition"`
	Template Template  `json:"template"`
	Sizes    []Offer   `json:"sizes,omitempty"`
	Written  *Written  `json:"written,omitempty"` // of an autoscale pool
	Paused   time.Time `json:"paused,omitzero"`   // when the first machine failed, until another serves
	Why      string    `json:"why,omitempty"`     // how it failed
}

// PoolStatus is what was last seen of a pool.
type PoolStatus struct {
	Plan []string `json:"plan,omitempty"` // the steps still to be taken
	Err  string   `json:"err,omitempty"`

	// Of a pool that has a history, how many of its machines are powered on and to stay, and why one
	// of them cannot be made at the moment.
	Active int    `json:"active,omitempty"`
	Units  int    `json:"units,omitempty"` // what those are worth, in machines of the first size
	Stuck  string `json:"stuck,omitempty"`

	// Short are the sizes that its cloud had no room for lately, and until when they are passed over.
	Short map[string]time.Time `json:"short,omitempty"`
}

// Check returns why p cannot be a pool where these are the regions that machines can be in.
func (p *Pool) Check(regions ...string) error {
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
	if err := p.checkSizes(regions); err != nil {
		return Errorf(Invalid, "pool %q: %w", p.Name, err)
	}
	if err := p.checkScale(); err != nil {
		return Errorf(Invalid, "pool %q: %w", p.Name, err)
	}
	if err := p.Rolling.check(); err != nil {
		return Errorf(Invalid, "pool %q: %w", p.Name, err)
	}
	if err := p.Exporter.check(); err != nil {
		return Errorf(Invalid, "pool %q: %w", p.Name, err)
	}
	if p.Count < 0 || p.Count > MaxPool {
		return Errorf(Invalid, "pool %q: count is %d, want 0 to %d", p.Name, p.Count, MaxPool)
	}
	if err := p.Template.Check(regions...); err != nil {
		return Errorf(Invalid, "pool %q: %w", p.Name, err)
	}
	return nil
}

// Told reports whether p has a history of how its size changed.
func (p *Pool) Told() bool {
	return p.Autoscale != nil || p.Scale != nil || p.Rolling != nil || p.Heal != nil
}

// checkScale returns what is wrong with how large a pool may be.
func (p *Pool) checkScale() error {
	switch {
	case p.Scale != nil:
		return p.Scale.check(p)
	case p.Autoscale == nil:
	case p.Count < 1 || p.Count > MaxPool:
		return Errorf(Invalid, "target_number_instances is %d, want 1 to %d", p.Count, MaxPool)
	}
	return nil
}

// Rolls reports whether members of p are replaced when its template has changed.
func (p *Pool) Rolls() bool { return p.Autoscale != nil || p.Rolling != nil }

// Heals reports whether members of p are replaced that load balancers find down.
func (p *Pool) Heals() bool {
	if p.Heal != nil {
		return *p.Heal
	}
	return p.Scale != nil
}

// Stale reports whether a member of p is not what p's template says, and is to be replaced.
func (p *Pool) Stale(m *Machine) bool {
	if !p.Rolls() {
		return false
	}
	_, offered := p.Offer(m.Placement())
	return m.Edition != p.Edition || !offered
}

// Leaves reports whether a member of p is to go once another serves in its place.
func (p *Pool) Leaves(m *Machine) bool { return m.Condemned != "" || p.Stale(m) }

// Surge returns how many machines p may have beside what it should while some are replaced.
func (p *Pool) Surge() int {
	if p.Rolling != nil && p.Rolling.Surge != nil {
		return *p.Rolling.Surge
	}
	return max(1, p.Count/10)
}

// Unavailable returns by how many fewer machines p may serve while some are replaced.
func (p *Pool) Unavailable() int {
	if p.Rolling == nil {
		return 0
	}
	return p.Rolling.Unavailable
}

// check returns why nothing can be replaced so.
func (r *Rolling) check() error {
	switch {
	case r == nil:
		return nil
	case r.Unavailable < 0 || r.Unavailable > MaxPool:
		return Errorf(Invalid, "max_unavailable is %d, want 0 to %d", r.Unavailable, MaxPool)
	case r.Surge != nil && (*r.Surge < 0 || *r.Surge > MaxPool):
		return Errorf(Invalid, "max_surge is %d, want 0 to %d", *r.Surge, MaxPool)
	case r.Surge != nil && *r.Surge == 0 && r.Unavailable == 0:
		return Errorf(Invalid, "max_unavailable and max_surge are both 0, with which nothing can be replaced: want one of them over 0")
	}
	return nil
}
