package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"weir/weir"
)

// autoscaleRequest is the body that creates an autoscale pool, or replaces what one says.
type autoscaleRequest struct {
	Name     string            `json:"name"`
	Config   AutoscaleConfig   `json:"config"`
	Template autoscaleTemplate `json:"droplet_template"`
}

// UnmarshalJSON refuses a field of weir that there is none of: what is left out is not done, so that a slip in the name of
// max_hourly_cost would cost money. All else that is unknown is ignored, as DigitalOcean does.
func (q *autoscaleRequest) UnmarshalJSON(data []byte) error {
	type plain autoscaleRequest
	if err := json.Unmarshal(data, (*plain)(q)); err != nil {
		return err
	}
	var given struct {
		Config struct {
			Weir json.RawMessage `json:"weir"`
		} `json:"config"`
	}
	if json.Unmarshal(data, &given) != nil || q.Config.Weir == nil {
		return nil
	}
	if name := stranger(given.Config.Weir, new(AutoscaleMore)); name != "" {
		return invalid("config.weir has %.80s in it, which is no field of what a pool does", name)
	}
	return nil
}

// AutoscaleConfig is either target_number_instances or the rest. It is read back as it was
// written: what is left out has a default, and stays out.
type AutoscaleConfig struct {
	Fixed    int            `json:"target_number_instances,omitempty"`   // how many machines, whatever their load
	Min      int            `json:"min_instances,omitempty"`             // the fewest machines, 1 to 500
	Max      int            `json:"max_instances,omitempty"`             // the most machines, 1 to 1000
	CPU      float64        `json:"target_cpu_utilization,omitempty"`    // the share of their CPU that machines should use, 0.05 to 1
	Memory   float64        `json:"target_memory_utilization,omitempty"` // the share of their memory that machines should use, 0.05 to 1
	Cooldown int            `json:"cooldown_minutes,omitempty"`          // for how long it does not shrink after it has grown, 5 to 20; 10 if left out
	Weir     *AutoscaleMore `json:"weir,omitempty"`
}

// AutoscaleMore is what of an AutoscaleConfig DigitalOcean has no word for.
type AutoscaleMore struct {
	Requests      float64             `json:"target_requests_per_second,omitempty"`      // of each machine
	Concurrent    float64             `json:"target_concurrent_requests,omitempty"`      // of each machine
	Response      float64             `json:"target_response_time_ms,omitempty"`         // in the mean, or at a percentile
	Percentile    int                 `json:"target_response_time_percentile,omitempty"` // 50 to 99: of requests in the load balancers' access logs; the mean if left out
	Cooldown      float64             `json:"cooldown_seconds,omitempty"`                // instead of cooldown_minutes
	Stabilisation float64             `json:"stabilization_seconds,omitempty"`           // what was needed in the last so long is kept; 180 if left out
	Budget        float64             `json:"max_hourly_cost,omitempty"`                 // that all machines together may cost
	Price         float64             `json:"machine_hourly_cost,omitempty"`             // of one machine
	Schedules     []AutoscaleSchedule `json:"schedules,omitempty"`                       // when there are more machines than the load needs

	PoolMore
}

// PoolMore is what a pool may say of its machines. It goes with target_number_instances too.
type PoolMore struct {
	Sizes   []PoolSize   `json:"sizes,omitempty"`             // that machines may have, the template's first; that alone if left out
	Rolling *PoolRolling `json:"rolling,omitempty"`           // how machines are replaced when the template has changed
	Heal    *bool        `json:"replace_unhealthy,omitempty"` // whether machines are replaced that load balancers find down; if it follows its load

	Exporter *PoolExporter `json:"exporter,omitempty"` // where machines tell their CPU and memory; their cloud does if left out
}

// PoolExporter is where each machine of a pool tells what it uses, at its private address, as a Prometheus node_exporter
// does. Nobody but the control plane is let in there.
type PoolExporter struct {
	Port int    `json:"port"`           // of TCP; a node_exporter's is 9100
	Path string `json:"path,omitempty"` // /metrics if left out
}

// PoolSize is a size that the machines of a pool may have. The pool's size is counted in machines of the first.
type PoolSize struct {
	Size   string  `json:"size"`
	Region string  `json:"region,omitempty"`      // the pool's
	Price  float64 `json:"hourly_cost,omitempty"` // of one machine; the next machine is of the size that costs least for its weight
	Weight float64 `json:"weight,omitempty"`      // how many machines of the first size it is worth; as many as it has times their vCPUs
	Share  float64 `json:"share,omitempty"`       // how many machines have it beside those of other sizes, whatever they cost
	Max    int     `json:"max,omitempty"`         // the most machines of it
}

// PoolRolling says by how many machines a pool may be smaller and larger while its machines are replaced.
type PoolRolling struct {
	Unavailable int  `json:"max_unavailable,omitempty"` // so many fewer may serve
	Surge       *int `json:"max_surge,omitempty"`       // so many more there may be; a tenth of the pool, at least 1
}

// set sets what m says on a pool.
func (m *PoolMore) set(p *weir.Pool) {
	p.Heal = m.Heal
	for _, s := range m.Sizes {
		p.Sizes = append(p.Sizes, weir.Offer(s))
	}
	if m.Exporter != nil {
		p.Exporter = &weir.Exporter{Port: m.Exporter.Port, Path: m.Exporter.Path}
	}
	if m.Rolling != nil {
		p.Rolling = &weir.Rolling{Unavailable: m.Rolling.Unavailable, Surge: m.Rolling.Surge}
	}
}

// moreOf puts what a pool says of its machines in words.
func moreOf(p *weir.Pool) (m PoolMore) {
	m.Heal = p.Heal
	for _, o := range p.Sizes {
		m.Sizes = append(m.Sizes, PoolSize(o))
	}
	if p.Exporter != nil {
		m.Exporter = &PoolExporter{p.Exporter.Port, p.Exporter.Path}
	}
	if p.Rolling != nil {
		m.Rolling = &PoolRolling{p.Rolling.Unavailable, p.Rolling.Surge}
	}
	return m
}

// AutoscaleSchedule is when a pool has more machines than its load needs.
type AutoscaleSchedule struct {
	Name    string  `json:"name,omitempty"`
	Cron    string  `json:"cron"`               // when it begins: minute, hour, day, month, weekday
	Zone    string  `json:"timezone,omitempty"` // UTC
	Minutes float64 `json:"minutes"`            // that it lasts
	Min     int     `json:"min_instances"`      // the fewest machines then
}

// autoscaleTemplate is read back as it was written too.
type autoscaleTemplate struct {
	Name             string   `json:"name"`
	Size             string   `json:"size"`
	Region           string   `json:"region"`
	Image            word     `json:"image"`
	Tags             []string `json:"tags"`
	SSHKeys          []word   `json:"ssh_keys"`
	VPCUUID          string   `json:"vpc_uuid"`
	WithDropletAgent bool     `json:"with_droplet_agent"`
	ProjectID        string   `json:"project_id"`
	IPv6             bool     `json:"ipv6"`
	UserData         string   `json:"user_data"`
	PublicNetworking *bool    `json:"public_networking"`
}

// pool returns what q asks for, without the SSH keys. A Weir measures machines from outside: the
// agent that is to do it on DigitalOcean may be asked for, and is not needed.
func (q *autoscaleRequest) pool(regions []string) (weir.Pool, error) {
	t := &q.Template
	p := weir.Pool{Name: q.Name, Prefix: cmp.Or(t.Name, q.Name), Count: q.Config.Fixed, Autoscale: &weir.Autoscale{
		Written: weir.Written{Name: t.Name, Image: string(t.Image), VPC: t.VPCUUID, Project: weir.ID(t.ProjectID), Agent: t.WithDropletAgent}}}
	for _, key := range t.SSHKeys {
		p.Autoscale.Written.SSHKeys = append(p.Autoscale.Written.SSHKeys, string(key))
	}
	droplet := dropletRequest{Region: t.Region, Size: t.Size, Image: t.Image, UserData: t.UserData, Tags: t.Tags,
		PublicNetworking: t.PublicNetworking, IPv6: t.IPv6, VPCUUID: t.VPCUUID}
	var err error
	if p.Template, err = droplet.template(regions); err != nil {
		return p, fmt.Errorf("droplet_template: %w", err)
	}
	if q.Config.Weir != nil {
		q.Config.Weir.PoolMore.set(&p)
	}
	p.Scale, err = q.Config.scale()
	return p, err
}

// scale returns how a pool is to scale, or nil if it has a fixed size.
func (c *AutoscaleConfig) scale() (*weir.Scale, error) {
	dynamic := *c
	dynamic.Fixed = 0
	if c.Weir != nil {
		more := *c.Weir
		if more.PoolMore = (PoolMore{}); reflect.DeepEqual(more, AutoscaleMore{}) {
			dynamic.Weir = nil
		}
	}
	switch {
	case dynamic == AutoscaleConfig{} && c.Fixed == 0:
		return nil, invalid("config says nothing, want target_number_instances, or min_instances, max_instances and a target")
	case c.Fixed != 0 && dynamic != AutoscaleConfig{}:
		return nil, invalid("config has target_number_instances, which is for a pool of a fixed size, and also what is for one that scales: leave one of them out")
	case c.Fixed != 0:
		return nil, nil
	}
	s := &weir.Scale{Min: c.Min, Max: c.Max, CPU: c.CPU, Memory: c.Memory, Cooldown: time.Duration(c.Cooldown) * time.Minute}
	if m := c.Weir; m != nil {
		s.Requests, s.Concurrent, s.Response, s.Percentile = m.Requests, m.Concurrent, lasting(m.Response, time.Millisecond), m.Percentile
		s.Pause, s.Stabilisation = lasting(m.Cooldown, time.Second), lasting(m.Stabilisation, time.Second)
		s.Budget, s.Price = m.Budget, m.Price
		for _, d := range m.Schedules {
			s.Schedules = append(s.Schedules, weir.Schedule{Name: d.Name, Cron: d.Cron, Zone: d.Zone, For: lasting(d.Minutes, time.Minute), Min: d.Min})
		}
	}
	return s, nil
}

// lasting returns how long n of a unit are, at most a year.
func lasting(n float64, unit time.Duration) time.Duration {
	const year = 365 * 24 * time.Hour
	return time.Duration(min(max(n*float64(unit), -float64(year)), float64(year)))
}

// ConfigOf puts how a pool scales in words, nil if it does not.
func ConfigOf(s *weir.Scale) *AutoscaleConfig {
	if s == nil {
		return nil
	}
	c := &AutoscaleConfig{Min: s.Min, Max: s.Max, CPU: s.CPU, Memory: s.Memory, Cooldown: int(s.Cooldown / time.Minute)}
	m := AutoscaleMore{Requests: s.Requests, Concurrent: s.Concurrent, Response: float64(s.Response) / float64(time.Millisecond), Percentile: s.Percentile,
		Cooldown: s.Pause.Seconds(), Stabilisation: s.Stabilisation.Seconds(), Budget: s.Budget, Price: s.Price}
	for _, d := range s.Schedules {
		m.Schedules = append(m.Schedules, AutoscaleSchedule{d.Name, d.Cron, d.Zone, d.For.Minutes(), d.Min})
	}
	if !reflect.DeepEqual(m, AutoscaleMore{}) {
		c.Weir = &m
	}
	return c
}

type autoscaleWire struct {
	ID       weir.ID           `json:"id"`
	Name     string            `json:"name"`
	Config   AutoscaleConfig   `json:"config"`
	Template autoscaleTemplate `json:"droplet_template"`
	Created  string            `json:"created_at"`
	Updated  string            `json:"updated_at"`
	Status   string            `json:"status"`
	Active   int               `json:"active_resources_count"`
	Use      *utilization      `json:"current_utilization,omitempty"` // nil while nothing is known of it

	Weir autoscaleWeir `json:"weir,omitzero"`
}

// utilization is what the machines of a pool use, as a share of what they have.
type utilization struct {
	Memory float64 `json:"memory"`
	CPU    float64 `json:"cpu"`
}

// autoscaleWeir is what DigitalOcean has no word for.
type autoscaleWeir struct {
	Err string `json:"error,omitempty"` // why its status is error
}

// autoscaleWords puts an autoscale pool in DigitalOcean's words. Its utilization is left out, as
// DigitalOcean does, for as long as nothing was measured.
func autoscaleWords(p weir.Pool, load weir.PoolLoad) autoscaleWire {
	a, t := p.Autoscale, p.Template
	public := true
	w := autoscaleWire{ID: p.ID, Name: p.Name, Created: timeWire(p.Created), Updated: timeWire(a.Updated), Status: "active", Active: p.Status.Active,
		Template: autoscaleTemplate{Name: a.Written.Name, Size: t.Size, Region: t.Region, Image: word(a.Written.Image), Tags: some(t.Tags), SSHKeys: []word{},
			VPCUUID: a.Written.VPC, WithDropletAgent: a.Written.Agent, ProjectID: string(a.Written.Project), IPv6: t.IPv6, UserData: t.UserData, PublicNetworking: &public},
		Weir: autoscaleWeir{cmp.Or(p.Status.Err, p.Status.Stuck)}}
	for _, key := range a.Written.SSHKeys {
		w.Template.SSHKeys = append(w.Template.SSHKeys, word(key))
	}
	w.Config = AutoscaleConfig{Fixed: p.Count}
	if p.Scale != nil {
		w.Config = *ConfigOf(p.Scale)
	}
	if more := moreOf(&p); !reflect.DeepEqual(more, PoolMore{}) {
		if w.Config.Weir == nil {
			w.Config.Weir = &AutoscaleMore{}
		}
		w.Config.Weir.PoolMore = more
	}
	if load.CPU != nil && load.Memory != nil {
		w.Use = &utilization{*load.Memory, *load.CPU}
	}
	if w.Weir.Err != "" {
		w.Status = "error"
	}
	return w
}

type memberWire struct {
	DropletID int64  `json:"droplet_id"`
	Created   string `json:"created_at"`
	Updated   string `json:"updated_at"`
	Health    string `json:"health_status"`
	Why       string `json:"unhealthy_reason,omitempty"`
	Status    string `json:"status"`
}

// memberWords puts a member of an autoscale pool in DigitalOcean's words.
func memberWords(m weir.Member) memberWire {
	w := memberWire{DropletID: number(m.ID), Created: timeWire(m.Created), Health: "healthy", Why: m.Unwell, Status: "provisioning"}
	changed := m.Created
	for _, t := range []time.Time{m.Changed, m.Deleting} {
		if t.After(changed) {
			changed = t
		}
	}
	w.Updated = timeWire(changed)
	if w.Why != "" {
		w.Health = "unhealthy"
	}
	switch {
	case !m.Deleting.IsZero():
		w.Status = "deleting"
	case m.Status.Phase == weir.MachineActive, m.Status.Phase == weir.MachineOff:
		w.Status = string(m.Status.Phase) // these are DigitalOcean's words too
	}
	return w
}

type scalingWire struct {
	ID      weir.ID            `json:"history_event_id"`
	Have    int                `json:"current_instance_count"`
	Want    int                `json:"desired_instance_count"`
	Reason  weir.ScalingReason `json:"reason"`
	Status  weir.ScalingState  `json:"status"`
	Err     string             `json:"error_reason,omitempty"`
	Created string             `json:"created_at"`
	Updated string             `json:"updated_at"`

	Weir scalingWeir `json:"weir,omitzero"`
}

// scalingWeir is what DigitalOcean has no word for.
type scalingWeir struct {
	Why string `json:"why,omitempty"` // the numbers that it was decided by
}

// scalingWords puts an entry of a pool's history in DigitalOcean's words.
func scalingWords(s weir.Scaling) scalingWire {
	return scalingWire{s.ID, s.Have, s.Want, s.Reason, s.State(), s.Err, timeWire(s.Began), timeWire(s.Updated), scalingWeir{s.Why}}
}

// ScaleOf returns how a pool scales by what its state says.
func ScaleOf(c *AutoscaleConfig) (*weir.Scale, error) { return c.scale() }
