package weir

import (
	"fmt"
	"time"
)

// DefaultCooldown is how long an autoscale pool does not shrink after it has grown, unless a user
// says otherwise.
const DefaultCooldown = 10 * time.Minute

// Limits of pools that scale by their load. Those of sizes, shares and cooldowns are DigitalOcean's.
const (
	maxPoolMin   = 500
	minLoad      = 0.05
	minCooldown  = 5 * time.Minute
	maxCooldown  = 20 * time.Minute
	maxPause     = 24 * time.Hour
	maxSchedules = 20
)

// Scale says how large a pool may be, and how large the load of its machines should be on average. A
// target that is 0 does not count.
type Scale struct {
	Min      int           `json:"min"`
	Max      int           `json:"max"`
	CPU      float64       `json:"cpu,omitempty"`      // the share of their CPUs
	Memory   float64       `json:"memory,omitempty"`   // the share of their memory
	Cooldown time.Duration `json:"cooldown,omitempty"` // after a growth; the default if 0

	// What DigitalOcean has no word for.
	Requests      float64       `json:"requests,omitempty"`      // a second, of each machine
	Concurrent    float64       `json:"concurrent,omitempty"`    // requests at the same time, of each machine
	Response      time.Duration `json:"response,omitempty"`      // that an answer takes …
	Percentile    int           `json:"percentile,omitempty"`    // … of so many in a hundred, the slowest left out; in the mean if 0
	Pause         time.Duration `json:"pause,omitempty"`         // instead of Cooldown, of any length
	Stabilisation time.Duration `json:"stabilisation,omitempty"` // it keeps what it needed so lately; the default if 0
	Schedules     []Schedule    `json:"schedules,omitempty"`
	Budget        float64       `json:"budget,omitempty"` // that all its machines may cost an hour; 0 for any
	Price         float64       `json:"price,omitempty"`  // of one machine an hour
}

// Percentile is of how many in a hundred requests p's response time is, 0 for the mean.
func (p *Pool) Percentile() int {
	if p.Scale == nil {
		return 0
	}
	return p.Scale.Percentile
}

// Schedule is when a pool has more machines than its load needs.
type Schedule struct {
	Name string        `json:"name,omitempty"`
	Cron string        `json:"cron"`           // when it begins: minute, hour, day, month, weekday
	Zone string        `json:"zone,omitempty"` // whose time that is; UTC if empty
	For  time.Duration `json:"for"`
	Min  int           `json:"min"`
}

// check returns why p cannot scale so.
func (s *Scale) check(p *Pool) error {
	switch {
	case s.Min < 1 || s.Min > maxPoolMin:
		return Errorf(Invalid, "min_instances is %d, want 1 to %d", s.Min, maxPoolMin)
	case s.Max < 1 || s.Max > MaxPool:
		return Errorf(Invalid, "max_instances is %d, want 1 to %d", s.Max, MaxPool)
	case s.Max < s.Min:
		return Errorf(Invalid, "max_instances is %d, want at least min_instances, which is %d", s.Max, s.Min)
	case s.CPU == 0 && s.Memory == 0 && s.Requests == 0 && s.Concurrent == 0 && s.Response == 0:
		return Errorf(Invalid, "target_cpu_utilization and target_memory_utilization are missing, want at least one of them, or another target: they say when a pool grows and shrinks")
	case s.CPU != 0 && (s.CPU < minLoad || s.CPU > 1):
		return Errorf(Invalid, "target_cpu_utilization is %v, want %v to 1", s.CPU, minLoad)
	case s.Memory != 0 && (s.Memory < minLoad || s.Memory > 1):
		return Errorf(Invalid, "target_memory_utilization is %v, want %v to 1", s.Memory, minLoad)
	case s.Cooldown != 0 && (s.Cooldown < minCooldown || s.Cooldown > maxCooldown):
		return Errorf(Invalid, "cooldown_minutes is %d, want %d to %d", s.Cooldown/time.Minute, minCooldown/time.Minute, maxCooldown/time.Minute)
	}
	return s.checkMore(p)
}

// checkMore is check of what DigitalOcean has no word for.
func (s *Scale) checkMore(p *Pool) error {
	for _, f := range []struct {
		name  string
		value float64
		least float64
		most  float64
	}{
		{"target_requests_per_second", s.Requests, 0.01, 1e6},
		{"target_concurrent_requests", s.Concurrent, 0.01, 1e6},
		{"target_response_time_ms", float64(s.Response) / float64(time.Millisecond), 1, 60_000},
		{"target_response_time_percentile", float64(s.Percentile), 50, 99},
		{"cooldown_seconds", s.Pause.Seconds(), 1, maxPause.Seconds()},
		{"stabilization_seconds", s.Stabilisation.Seconds(), 1, 600},
		{"max_hourly_cost", s.Budget, 0.0001, 1e6},
		{"machine_hourly_cost", s.Price, 0.0001, 1e6},
	} {
		if f.value != 0 && !(f.value >= f.least && f.value <= f.most) {
			return Errorf(Invalid, "%s is %v, want %v to %v", f.name, f.value, f.least, f.most)
		}
	}
	switch offers := p.Offers(); {
	case s.Percentile != 0 && s.Response == 0:
		return Errorf(Invalid, "target_response_time_percentile is there without target_response_time_ms, want how long answers may take")
	case s.Budget != 0 && offers[0].Price == 0 && len(p.Sizes) > 0:
		return Errorf(Invalid, "max_hourly_cost is there without the hourly_cost of its sizes, want what one machine of each costs")
	case s.Budget != 0 && offers[0].Price == 0:
		return Errorf(Invalid, "max_hourly_cost is there without machine_hourly_cost, want what one machine costs")
	case s.Budget != 0 && p.Affords() < s.Min && p.Mixed():
		return Errorf(Invalid, "max_hourly_cost is %v, which pays for what is worth %d machines of the first size, want at least min_instances, which is %d", s.Budget, p.Affords(), s.Min)
	case s.Budget != 0 && p.Affords() < s.Min:
		return Errorf(Invalid, "max_hourly_cost is %v, which pays for %d machines of %v, want at least min_instances, which is %d", s.Budget, p.Affords(), offers[0].Price, s.Min)
	case len(s.Schedules) > maxSchedules:
		return Errorf(Invalid, "there are %d schedules, at most %d are allowed", len(s.Schedules), maxSchedules)
	}
	for _, d := range s.Schedules {
		if err := d.check(p.Top()); err != nil {
			return fmt.Errorf("schedule %q: %w", d.Called(), err)
		}
	}
	return nil
}

// check returns what is wrong with a schedule but for its Cron and Zone.
func (d *Schedule) check(most int) error {
	switch {
	case d.Cron == "":
		return Errorf(Invalid, "cron is missing, want when it begins, such as 0 8 * * 1-5")
	case len(d.Name) > 100 || len(d.Cron) > 100 || len(d.Zone) > 100:
		return Errorf(Invalid, "its words are too long, want at most 100 characters each")
	case d.For < time.Minute || d.For > 7*24*time.Hour:
		return Errorf(Invalid, "minutes is %v, want 1 to %d", d.For.Minutes(), 7*24*60)
	case d.Min < 1 || d.Min > most:
		return Errorf(Invalid, "min_instances is %d, want 1 to the most that the pool may have, which is %d", d.Min, most)
	}
	return nil
}

// Called returns what a schedule is called.
func (d *Schedule) Called() string {
	if d.Name != "" {
		return d.Name
	}
	return d.Cron
}

// Verdict is what was last decided of a pool's size.
type Verdict struct {
	At   time.Time `json:"at"`
	Size int       `json:"size"`
	Why  string    `json:"why"`
	Next *NextSize `json:"next,omitempty"` // what comes if its load stays as it is
}

// NextSize is a size that a pool will have.
type NextSize struct {
	Size int       `json:"size"`
	At   time.Time `json:"at"`
	Why  string    `json:"why,omitempty"`
}

// PoolLoad is what a pool bears at a moment. What is not known is nil.
type PoolLoad struct {
	Serving    int      `json:"serving"`              // machines that get requests
	CPU        *float64 `json:"cpu,omitempty"`        // the share of their CPUs, in the mean
	Memory     *float64 `json:"memory,omitempty"`     // likewise
	Requests   *float64 `json:"requests,omitempty"`   // a second, of all of them
	Concurrent *float64 `json:"concurrent,omitempty"` // requests that are served or wait
	Response   *float64 `json:"response,omitempty"`   // seconds that an answer takes
	Unknown    string   `json:"unknown,omitempty"`    // of which machines' exporters nothing is known, and why; it does not shrink meanwhile
}

// PoolReport is a pool, what it bears, and what was decided of its size.
type PoolReport struct {
	Pool     Pool
	Load     PoolLoad
	Verdict  *Verdict       // nil if nothing was decided yet, or nothing is to be
	Machines int            // that it has and is to keep
	Hosts    map[string]int // how many of those each host has; nil if its cloud does not say
	Units    float64        // what those are worth, in machines of the pool's first size
}
