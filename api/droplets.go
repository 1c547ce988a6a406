package api

import (
	"context"
	"math"
	"net/http"

	"weir/weir"
)

// dropletRequest is the body that creates one droplet, by name, or several, by names.
type dropletRequest struct {
	Name     string   `json:"name"`
	Names    []string `json:"names"`
	Region   string   `json:"region"`
	Size     string   `json:"size"`
	Image    word     `json:"image"`
	SSHKeys  []word   `json:"ssh_keys"`
	UserData string   `json:"user_data"`
	Tags     []string `json:"tags"`

	IPv6 bool `json:"ipv6"`

	// Weir measures every droplet from outside: that one has asked for it is remembered, and changes nothing.
	Monitoring bool `json:"monitoring"`

	// Weir has only the defaults of these: see template.
	PrivateNetworking bool     `json:"private_networking"` // every droplet has it
	PublicNetworking  *bool    `json:"public_networking"`
	Backups           bool     `json:"backups"`
	BackupPolicy      anything `json:"backup_policy"`
	WithDropletAgent  bool     `json:"with_droplet_agent"`
	Volumes           anything `json:"volumes"`
	VPCUUID           string   `json:"vpc_uuid"`
	SubnetUUID        string   `json:"subnet_uuid"`
	GPUPartitionMode  string   `json:"gpu_partition_mode"`
}

// refuse returns why Weir cannot honour q, if it asks for what Weir does not have.
func (q *dropletRequest) refuse() error {
	switch {
	case q.PublicNetworking != nil && !*q.PublicNetworking:
		return invalid("public_networking is false: every droplet of Weir has a public address, leave it out or use true")
	case q.Backups || bool(q.BackupPolicy):
		return invalid("backups is true: Weir makes no backups, leave it and backup_policy out or use false")
	case q.WithDropletAgent:
		return invalid("with_droplet_agent is true: Weir has no agent for droplets, leave it out or use false")
	case bool(q.Volumes):
		return invalid("volumes is not empty: Weir has no volumes, leave it out")
	case q.SubnetUUID != "":
		return invalid("subnet_uuid is %.40q: a region of Weir has one private network without subnets, leave it out", q.SubnetUUID)
	case q.GPUPartitionMode != "":
		return invalid("gpu_partition_mode is %.40q: Weir has no GPUs, leave it out", q.GPUPartitionMode)
	}
	return nil
}

// template returns what q asks for: in the first of the regions if it names none.
func (q *dropletRequest) template(regions []string) (weir.Template, error) {
	if err := q.refuse(); err != nil {
		return weir.Template{}, err
	}
	t := weir.Template{Region: regionOf(q.Region, regions...), Size: q.Size, Image: imageSlug(string(q.Image)), UserData: q.UserData, Tags: q.Tags, IPv6: q.IPv6, Monitoring: q.Monitoring}
	return t, t.Check(regions...)
}

// names returns the names of the droplets that q asks for.
func (q *dropletRequest) names() ([]string, error) {
	names := q.Names
	switch {
	case q.Name != "" && len(q.Names) > 0:
		return nil, invalid("name and names exclude each other, and both are there")
	case q.Names == nil:
		names = []string{q.Name}
	case len(q.Names) == 0:
		return nil, invalid("names is empty, want 1 to %d names", weir.MaxPool)
	case len(q.Names) > weir.MaxPool:
		return nil, invalid("names has %d names, want 1 to %d", len(q.Names), weir.MaxPool)
	}
	for _, name := range names {
		if err := weir.CheckName(name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

func (a *api) createDroplets(w http.ResponseWriter, r *http.Request) error {
	var q dropletRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	names, err := q.names()
	if err != nil {
		return err
	}
	if err := a.inVPC(q.VPCUUID); err != nil {
		return err
	}
	template, err := q.template(a.Control.Regions())
	if err != nil {
		return err
	}
	if template.SSHKeys, err = a.publicKeys(r.Context(), q.SSHKeys); err != nil {
		return err
	}
	machines, actions, err := a.Control.CreateMachines(r.Context(), names, template)
	if err != nil {
		return err
	}
	var begun links
	for _, act := range actions {
		begun.Actions = append(begun.Actions, linkTo(r, number(act.ID), act.Type))
	}
	if q.Names == nil {
		return reply(w, http.StatusAccepted, map[string]any{"droplet": a.dropletWords(machines[0]), "links": begun})
	}
	return a.replyDroplets(w, machines, begun)
}

// replyDroplets answers that droplets are on their way.
func (a *api) replyDroplets(w http.ResponseWriter, machines []weir.Machine, begun links) error {
	droplets := make([]dropletWire, len(machines))
	for i, m := range machines {
		droplets[i] = a.dropletWords(m)
	}
	return reply(w, http.StatusAccepted, map[string]any{"droplets": droplets, "links": begun, "meta": meta{len(droplets)}})
}

func (a *api) listDroplets(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	name, tag, kind := q.Get("name"), q.Get("tag_name"), q.Get("type")
	if tag != "" && (name != "" || kind != "") {
		return invalid("tag_name cannot be combined with name or type, want one filter")
	}
	if kind != "" && kind != "droplets" && kind != "gpus" {
		return invalid("type is %.40q, want droplets or gpus", kind)
	}
	if kind == "gpus" {
		return list(w, r, "droplets", nil, a.dropletWords)
	}
	return pageOf(w, r, "droplets", func(from, n int) ([]weir.Machine, int, error) {
		return a.Control.MachinePage(r.Context(), weir.Filter{Tag: tag, Name: name}, from, n)
	}, a.dropletWords)
}

// tagged returns the droplets that have a tag.
func (a *api) tagged(ctx context.Context, tag string) ([]weir.Machine, error) {
	all, _, err := a.Control.MachinePage(ctx, weir.Filter{Tag: tag}, 0, math.MaxInt)
	return all, err
}

// droplets returns the machines that users have.
func (a *api) droplets(ctx context.Context) ([]weir.Machine, error) {
	all, _, err := a.Control.MachinePage(ctx, weir.Filter{}, 0, math.MaxInt)
	return all, err
}

// droplet returns the droplet that a path names.
func (a *api) droplet(r *http.Request) (weir.Machine, error) {
	id, err := numericID(r, "id")
	if err != nil {
		return weir.Machine{}, err
	}
	m, err := a.Control.Machine(r.Context(), id)
	if err == nil && !isDroplet(m) {
		return m, errNotFound
	}
	return m, err
}

// isDroplet reports whether m is a machine that a user has made.
func isDroplet(m weir.Machine) bool { return m.LoadBalancer == "" && !m.Own }

func (a *api) getDroplet(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	words := a.dropletWords(m)
	send(w, http.StatusOK, append(words.appendTo(append(make([]byte, 0, 2048), `{"droplet":`...)), '}'))
	return nil
}

func (a *api) deleteDroplet(w http.ResponseWriter, r *http.Request) error {
	m, err := a.droplet(r)
	if err != nil {
		return err
	}
	if err := a.Control.DeleteMachine(r.Context(), m.ID); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

func (a *api) deleteDroplets(w http.ResponseWriter, r *http.Request) error {
	tag, err := tagFilter(r)
	if err != nil {
		return err
	}
	if err := a.Control.DeleteMachinesByTag(r.Context(), tag); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// tagFilter returns the tag that a request for many droplets must name.
func tagFilter(r *http.Request) (string, error) {
	tag := r.URL.Query().Get("tag_name")
	if tag == "" {
		return "", invalid("tag_name is missing: it says which droplets are meant")
	}
	return tag, weir.CheckTag(tag)
}
