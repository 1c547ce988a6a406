package weir

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Project is a drawer in which a team keeps machines, load balancers and reserved IPs. Each
// of those is in exactly one.
type Project struct {
	ID          ID        `json:"id"`
	Team        ID        `json:"team,omitempty"`
	Name        string    `json:"name"` // unique in a team
	Description string    `json:"description,omitempty"`
	Purpose     string    `json:"purpose,omitempty"`
	Environment string    `json:"environment,omitempty"` // "", Development, Staging or Production
	Default     bool      `json:"default,omitempty"`     // what is made without a word about a project goes here; one of a team's is it
	Created     time.Time `json:"created"`
	Updated     time.Time `json:"updated"`
}

// Place is the project that something is in.
type Place struct {
	Project  ID        `json:"project,omitempty"`  // "" for its team's first
	Since    time.Time `json:"since,omitzero"`     // since it was made, if zero
	Floating bool      `json:"floating,omitempty"` // of a reserved IP: it was put there as a floating IP, and is listed as that
}

// purposes are DigitalOcean's. Any other is kept as "Other: …", as DigitalOcean does.
var purposes = []string{"Just trying out DigitalOcean", "Class project / Educational purposes", "Website or blog",
	"Web Application", "Service or API", "Mobile Application", "Machine learning / AI / Data processing", "IoT", "Operational / Developer tooling"}

const otherPurpose = "Other: "

// Normal returns p with its purpose and environment as they are kept, whatever their case.
func (p Project) Normal() Project {
	if p.Purpose != "" && !slices.Contains(purposes, p.Purpose) && !strings.HasPrefix(p.Purpose, otherPurpose) {
		p.Purpose = otherPurpose + p.Purpose
	}
	for _, e := range environments {
		if strings.EqualFold(e, p.Environment) {
			p.Environment = e
		}
	}
	return p
}

var environments = []string{"Development", "Staging", "Production"}

// Check returns why p can be no project. It wants p as Normal returns it.
func (p *Project) Check() error {
	switch length := utf8.RuneCountInString; {
	case strings.TrimSpace(p.Name) == "" || length(p.Name) > 175:
		return Errorf(Invalid, "name is %.40q, want 1 to 175 characters", p.Name)
	case length(p.Description) > 255:
		return Errorf(Invalid, "description has %d characters, at most 255 are allowed", length(p.Description))
	case strings.TrimSpace(p.Purpose) == "" || length(strings.TrimPrefix(p.Purpose, otherPurpose)) > 255:
		return Errorf(Invalid, "purpose is %.40q, want 1 to 255 characters, such as %q", p.Purpose, purposes[3])
	case p.Environment != "" && !slices.Contains(environments, p.Environment):
		return Errorf(Invalid, "environment is %.40q, want %s, or leave it out", p.Environment, strings.Join(environments, ", "))
	}
	return nil
}

// Resource is something that a project has, or that was to be put in one.
type Resource struct {
	URN    URN
	At     time.Time      // when it came into the project
	Status ResourceStatus // of being put there
}

// ResourceStatus says what became of putting something in a project.
type ResourceStatus string

// The statuses, in DigitalOcean's words.
const (
	ResourceOK      ResourceStatus = "ok"
	ResourceAlready ResourceStatus = "already_assigned"
	ResourceUnknown ResourceStatus = "not_found"
)

// URN names a resource of any kind: do:droplet:7.
type URN struct {
	Kind string
	ID   ID
}

// The kinds of resources that projects and networks have, in DigitalOcean's words. A
// reserved IP of IPv4 goes by two names.
const (
	URNMachine      = "droplet"
	URNLoadBalancer = "loadbalancer"
	URNReservedIP   = "reservedip"
	URNReservedIPv6 = "reservedipv6"
	URNFloatingIP   = "floatingip"
	URNNetwork      = "vpc"
)

func (u URN) String() string { return "do:" + u.Kind + ":" + string(u.ID) }

// ParseURN returns the URN that text is. One of a kind that is not known here is one too.
func ParseURN(text string) (URN, error) {
	head, rest, _ := strings.Cut(text, ":")
	kind, id, _ := strings.Cut(rest, ":")
	if head != "do" || kind == "" || id == "" || len(text) > 255 || !plain(text) {
		return URN{}, Errorf(Invalid, "%.60q is not a URN, want one such as do:droplet:4126873", text)
	}
	return URN{strings.ToLower(kind), ID(id)}, nil
}
