package api

import (
	"cmp"
	"fmt"
	"time"

	"weir/weir"
)

// autoscaleRequest is the body that creates an autoscale pool, or replaces what one says.
type autoscaleRequest struct {
	Name     string            `json:"name"`
	Config   autoscaleConfig   `json:"config"`
	Template autoscaleTemplate `json:"droplet_template"`
}

// autoscaleConfig is either target_number_instances or the rest. It is read back as it was
// written: what is left out has a default, and stays out.
type autoscaleConfig struct {
	Fixed    int     `json:"target_number_instances,omitempty"`
	Min      int     `json:"min_instances,omitempty"`
	Max      int     `json:"max_instances,omitempty"`
	CPU      float64 `json:"target_cpu_utilization,omitempty"`
	Memory   float64 `json:"target_memory_utilization,omitempty"`
	Cooldown int     `json:"cooldown_minutes,omitempty"`
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
func (q *autoscaleRequest) pool(region string) (weir.Pool, error) {
	t := &q.Template
	p := weir.Pool{Name: q.Name, Prefix: cmp.Or(t.Name, q.Name), Count: q.Config.Fixed, Autoscale: &weir.Autoscale{
		Written: weir.Written{Name: t.Name, Image: string(t.Image), VPC: t.VPCUUID, Project: weir.ID(t.ProjectID), Agent: t.WithDropletAgent}}}
	for _, key := range t.SSHKeys {
		p.Autoscale.Written.SSHKeys = append(p.Autoscale.Written.SSHKeys, string(key))
	}
	droplet := dropletRequest{Region: t.Region, Size: t.Size, Image: t.Image, UserData: t.UserData, Tags: t.Tags,
		PublicNetworking: t.PublicNetworking, IPv6: t.IPv6, VPCUUID: t.VPCUUID}
	var err error
	if p.Template, err = droplet.template(region); err != nil {
		return p, fmt.Errorf("droplet_template: %w", err)
	}
	p.Autoscale.Scale, err = q.Config.scale()
	return p, err
}

// scale returns how a pool is to scale, or nil if it has a fixed size.
func (c *autoscaleConfig) scale() (*weir.Scale, error) {
	dynamic := *c
	dynamic.Fixed = 0
	switch {
	case *c == autoscaleConfig{}:
		return nil, invalid("config says nothing, want target_number_instances, or min_instances, max_instances and a target")
	case c.Fixed != 0 && dynamic != autoscaleConfig{}:
		return nil, invalid("config has target_number_instances, which is for a pool of a fixed size, and also what is for one that scales: leave one of them out")
	case c.Fixed != 0:
		return nil, nil
	}
	return &weir.Scale{Min: c.Min, Max: c.Max, CPU: c.CPU, Memory: c.Memory, Cooldown: time.Duration(c.Cooldown) * time.Minute}, nil
}

type autoscaleWire struct {
	ID       weir.ID           `json:"id"`
	Name     string            `json:"name"`
	Config   autoscaleConfig   `json:"config"`
	Template autoscaleTemplate `json:"droplet_template"`
	Created  string            `json:"created_at"`
	Updated  string            `json:"updated_at"`
	Status   string            `json:"status"`
	Active   int               `json:"active_resources_count"`

	Weir autoscaleWeir `json:"weir,omitzero"`
}

// autoscaleWeir is what DigitalOcean has no word for.
type autoscaleWeir struct {
	Err string `json:"error,omitempty"` // why its status is error
}

// autoscaleWords puts an autoscale pool in DigitalOcean's words. Its utilization is left out, as
// DigitalOcean does for as long as nothing was measured.
func autoscaleWords(p weir.Pool) autoscaleWire {
	a, t := p.Autoscale, p.Template
	public := true
	w := autoscaleWire{ID: p.ID, Name: p.Name, Created: timeWire(p.Created), Updated: timeWire(a.Updated), Status: "active", Active: p.Status.Active,
		Template: autoscaleTemplate{Name: a.Written.Name, Size: t.Size, Region: t.Region, Image: word(a.Written.Image), Tags: some(t.Tags), SSHKeys: []word{},
			VPCUUID: a.Written.VPC, WithDropletAgent: a.Written.Agent, ProjectID: string(a.Written.Project), IPv6: t.IPv6, UserData: t.UserData, PublicNetworking: &public},
		Weir: autoscaleWeir{cmp.Or(p.Status.Err, p.Status.Stuck)}}
	for _, key := range a.Written.SSHKeys {
		w.Template.SSHKeys = append(w.Template.SSHKeys, word(key))
	}
	if s := a.Scale; s != nil {
		w.Config = autoscaleConfig{Min: s.Min, Max: s.Max, CPU: s.CPU, Memory: s.Memory, Cooldown: int(s.Cooldown / time.Minute)}
	} else {
		w.Config = autoscaleConfig{Fixed: p.Count}
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
}

// scalingWords puts an entry of a pool's history in DigitalOcean's words.
func scalingWords(s weir.Scaling) scalingWire {
	return scalingWire{s.ID, s.Have, s.Want, s.Reason, s.State(), s.Err, timeWire(s.Began), timeWire(s.Updated)}
}
