package weir

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// MaxUserData is how long a machine's user-data may be, in bytes (DigitalOcean's limit).
const MaxUserData = 64 << 10

// DefaultImage is what machines are made from unless a user says otherwise.
const DefaultImage = "debian-12-x64"

// Template is what a new machine is made from.
type Template struct {
	Region   string   `json:"region"`
	Size     string   `json:"size"`
	Image    string   `json:"image"`
	UserData string   `json:"user_data,omitempty"`
	SSHKeys  []string `json:"ssh_keys,omitempty"` // public keys, as in authorized_keys
	Tags     []string `json:"tags,omitempty"`

	// IPv6 is that it has a public address of IPv6 beside that of IPv4.
	IPv6 bool `json:"ipv6,omitempty"`

	// Monitoring is that somebody asked for it; every machine is measured by its cloud anyway.
	Monitoring bool `json:"monitoring,omitempty"`
}

// Machine is one virtual server: an application server or a load balancer's instance.
type Machine struct {
	ID   ID     `json:"id"`
	Team ID     `json:"team,omitempty"` // of an instance, that of its load balancer
	Name string `json:"name"`           // its host name; several machines may have the same
	Template
	Blob         ID        `json:"blob,omitempty"`          // in a row, where its user-data is: one copy serves many machines
	Pool         ID        `json:"pool,omitempty"`          // the pool that it counts in
	Edition      int       `json:"edition,omitempty"`       // of its pool's template, which it was made from
	Worth        float64   `json:"worth,omitempty"`         // in machines of its pool's first size; 1 if 0
	LoadBalancer ID        `json:"load_balancer,omitempty"` // the load balancer that it is an instance of
	Own          bool      `json:"own,omitempty"`           // a machine of one's own, which joined: no cloud made it or can end it
	Created      time.Time `json:"created"`
	Changed      time.Time `json:"changed,omitzero"`    // when it was last seen to be powered on or off
	Off          bool      `json:"off,omitempty"`       // it should be powered off
	Drained      bool      `json:"drained,omitempty"`   // an operator keeps it from serving
	Condemned    string    `json:"condemned,omitempty"` // why its pool replaces it
	Joined       int64     `json:"joined,omitempty"`    // of an instance, the revision since which its peers know it
	Deleting     time.Time `json:"deleting,omitzero"`   // when its deletion was asked for
	Place        Place     `json:"place,omitzero"`      // the project that it is in

	Firewall *Firewall `json:"firewall,omitempty"` // what its load balancers have reach it; nil for anything: see Wall
	Rules    *Rules    `json:"rules,omitempty"`    // what the firewalls of its users say; nil if none is for it
	Metered  *Metered  `json:"metered,omitempty"`  // where it tells what it uses; nil: nobody asks it
	Obeys    []ID      `json:"obeys,omitempty"`    // those of them that its cloud was last seen to keep
	Actions  []ID      `json:"actions,omitempty"`  // those in progress, oldest first

	Status MachineStatus `json:"status"`
}

// MachinePhase says how far a machine is.
type MachinePhase string

// The phases of a machine.
const (
	MachineNew    MachinePhase = "new"    // not there yet
	MachineActive MachinePhase = "active" // powered on
	MachineOff    MachinePhase = "off"    // powered off
)

// MachineStatus is what was last seen of a machine in its cloud.
type MachineStatus struct {
	Phase   MachinePhase `json:"phase"`
	Public  netip.Addr   `json:"public,omitzero"`
	Anchor  netip.Addr   `json:"anchor,omitzero"` // where a reserved IP's traffic arrives
	Private netip.Addr   `json:"private,omitzero"`
	Public6 netip.Addr   `json:"public6,omitzero"` // if it has IPv6
	Anchor6 netip.Addr   `json:"anchor6,omitzero"`
	Boot    Boot         `json:"boot"`
	Host    string       `json:"host,omitempty"`  // that it is on; "" if its cloud does not say
	Wall    string       `json:"wall,omitempty"`  // the digest of the firewall that its cloud keeps
	Err     string       `json:"err,omitempty"`   // why it is not yet as it should be
	Short   bool         `json:"short,omitempty"` // that its cloud has too little of something

	// HostDown is that its host is: until it is up again the machine is off, and cannot be powered on or destroyed.
	HostDown bool `json:"host_down,omitempty"`
}

// BootState says what became of a machine's user-data.
type BootState string

// The states of a first boot. A cloud that cannot look inside its machines leaves it unknown.
const (
	BootUnknown BootState = ""
	BootRunning BootState = "running"
	BootDone    BootState = "done"
	BootFailed  BootState = "failed"
)

// Boot is the first boot of a machine.
type Boot struct {
	State BootState `json:"state,omitempty"`
	Why   string    `json:"why,omitempty"` // of a failure: "user-data exited with 3"
	Log   string    `json:"log,omitempty"` // the file that has its whole output
	End   string    `json:"end,omitempty"` // of a failure: the last lines of Log
}

// Serves reports whether m may get traffic from a load balancer: it is there, is to
// stay, nobody has drained it, and its user-data did not fail and is not still at work.
func (m *Machine) Serves() bool {
	return m.Status.Phase == MachineActive && m.Deleting.IsZero() && !m.Off && !m.Drained &&
		m.Status.Private.IsValid() &&
		(m.Status.Boot.State == BootUnknown || m.Status.Boot.State == BootDone)
}

// Stranded reports whether m should be on and cannot be, since its host is down.
func (m *Machine) Stranded() bool { return m.Status.HostDown && !m.Off && m.Deleting.IsZero() }

// Buried reports whether m is to go and cannot yet, since its host is down. It counts nowhere any more but among what there
// is to pay for.
func (m *Machine) Buried() bool { return m.Status.HostDown && !m.Deleting.IsZero() }

// HostTrouble says that m's host is down and what that means for m; it is empty if the host is up.
func (m *Machine) HostTrouble() string {
	switch {
	case m.Buried():
		return fmt.Sprintf("its host %s is down: it is destroyed when that is up again", m.Status.Host)
	case m.Status.HostDown:
		return fmt.Sprintf("its host %s is down", m.Status.Host)
	}
	return ""
}

// HasTag reports whether m has the tag; tags are compared without case.
func (m *Machine) HasTag(tag string) bool {
	return slices.ContainsFunc(m.Tags, func(t string) bool { return strings.EqualFold(t, tag) })
}

var (
	hostname = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$`)
	tagName  = regexp.MustCompile(`^[a-zA-Z0-9_:-]{1,255}$`)

	// imageSlug is of the two systems that are much alike: user-data for one runs on the
	// other. On a local cloud each machine is the system of its host, whatever the slug
	// says, so that a promise of any other system could not be kept.
	imageSlug = regexp.MustCompile(`^(debian|ubuntu)-[a-z0-9][a-z0-9.-]{0,100}$`)
)

// CheckName returns why name cannot be a machine's name.
func CheckName(name string) error {
	if !hostname.MatchString(name) || strings.Contains(name, "..") {
		return Errorf(Invalid, "name %q: only letters, digits, . and - are allowed, and it begins and ends with a letter or digit", name)
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) > 63 {
			return Errorf(Invalid, "name %q: a label has %d characters, at most 63 are allowed", name, len(label))
		}
	}
	return nil
}

// checkRegion returns why a machine cannot be in a region where those of all are there.
func checkRegion(region string, all []string) error {
	switch {
	case slices.Contains(all, region):
		return nil
	case len(all) == 1:
		return Errorf(Invalid, "region %q: this Weir runs region %q", region, all[0])
	}
	return Errorf(Invalid, "region %q: this Weir runs regions %s", region, strings.Join(all, ", "))
}

// CheckTag returns why name cannot be a tag.
func CheckTag(name string) error {
	if !tagName.MatchString(name) {
		return Errorf(Invalid, "tag %q: 1 to 255 letters, digits, _, : and - are allowed", name)
	}
	return nil
}

// Check returns why t cannot make a machine where these are the regions.
func (t *Template) Check(regions ...string) error {
	if err := checkRegion(t.Region, regions); err != nil {
		return err
	}
	if _, ok := SizeOf(t.Size); !ok {
		return Errorf(Invalid, "size %q is not offered, want one of %s", t.Size, strings.Join(sizeSlugs(), ", "))
	}
	if err := CheckImage(t.Image); err != nil {
		return err
	}
	if len(t.UserData) > MaxUserData {
		return Errorf(Invalid, "user_data has %d bytes, at most %d are allowed", len(t.UserData), MaxUserData)
	}
	if strings.TrimSpace(t.UserData) != "" && !runs(t.UserData) {
		return Errorf(Invalid, "user_data begins with %.40q, want a script that begins with #!, a #cloud-config, or a MIME multipart of these, plain or gzipped", t.UserData)
	}
	for _, tag := range t.Tags {
		if err := CheckTag(tag); err != nil {
			return err
		}
	}
	for _, key := range t.SSHKeys {
		if strings.ContainsAny(key, "\r\n") || len(strings.Fields(key)) < 2 {
			return Errorf(Invalid, "ssh key %.40q is not a public key, want a line as in authorized_keys", key)
		}
	}
	return nil
}

// Images returns the slugs of the images that machines are made from, the default first.
func Images() []string {
	return []string{DefaultImage, "debian-13-x64", "ubuntu-22-04-x64", "ubuntu-24-04-x64"}
}

// CheckImage returns why machines cannot be made from an image. Those of [Images] they can, and
// others of the same systems.
func CheckImage(slug string) error {
	if slug == "" {
		return Errorf(Invalid, "image is missing")
	}
	if !imageSlug.MatchString(slug) {
		return Errorf(Invalid, "image %.40q is not offered, want a slug of Debian or Ubuntu such as %s", slug, DefaultImage)
	}
	return nil
}

// runs reports whether user-data begins as what a machine can run at its first boot does:
// as a script, a cloud-config, a MIME message of these, or any of it gzipped.
func runs(userData string) bool {
	for _, begin := range []string{"#!", "\x1f\x8b"} {
		if strings.HasPrefix(userData, begin) {
			return true
		}
	}
	if strings.HasPrefix(strings.TrimSpace(userData), "#cloud-config") { // cloud-init skips what is empty before it
		return true
	}
	for _, header := range []string{"Content-Type:", "MIME-Version:", "From "} { // in any case
		if len(userData) >= len(header) && strings.EqualFold(userData[:len(header)], header) {
			return true
		}
	}
	return false
}

// Size is what a machine is given of its host.
type Size struct {
	Slug   string
	CPUs   int
	Memory int64 // bytes
	Disk   int64 // bytes
}

// Sizes returns the sizes that machines come in, smallest first. The slugs are
// DigitalOcean's, so that a template works in both clouds.
func Sizes() []Size {
	const mb, gb = 1 << 20, 1 << 30
	return []Size{
		{"s-1vcpu-512mb-10gb", 1, 512 * mb, 10 * gb},
		{"s-1vcpu-1gb", 1, 1 * gb, 25 * gb},
		{"s-1vcpu-2gb", 1, 2 * gb, 50 * gb},
		{"s-2vcpu-2gb", 2, 2 * gb, 60 * gb},
		{"s-2vcpu-4gb", 2, 4 * gb, 80 * gb},
		{"s-4vcpu-8gb", 4, 8 * gb, 160 * gb},
		{"s-8vcpu-16gb", 8, 16 * gb, 320 * gb},
	}
}

// SizeOf returns the size with that slug.
func SizeOf(slug string) (Size, bool) {
	for _, s := range Sizes() {
		if s.Slug == slug {
			return s, true
		}
	}
	return Size{}, false
}

func sizeSlugs() (slugs []string) {
	for _, s := range Sizes() {
		slugs = append(slugs, s.Slug)
	}
	return slugs
}

// Action is something asked of a machine or an address that takes time.
type Action struct {
	ID        ID           `json:"id"`
	Team      ID           `json:"team,omitempty"`
	Type      string       `json:"type"`          // DigitalOcean's word: create, power_off, assign …
	Resource  ResourceKind `json:"resource_kind"` // what it is done to
	On        ID           `json:"on"`            // its ID; an address's is the address
	Region    string       `json:"region"`
	Started   time.Time    `json:"started"`
	Completed time.Time    `json:"completed,omitzero"`
	Err       string       `json:"err,omitempty"`     // why it failed; empty while in progress and when done
	Machine   ID           `json:"machine,omitempty"` // of assign: who gets the address
}

// ResourceKind says what an action is done to.
type ResourceKind string

// What actions are done to, in DigitalOcean's words.
const (
	OnMachine ResourceKind = "droplet"
	OnAddress ResourceKind = "reserved_ip"
)

// Address is a reserved IP: it is ours until released, and points to one machine or none. That of a
// load balancer may be spread over others too, and may be one of the private network.
type Address struct {
	Team     ID          `json:"team,omitempty"`
	Mode     AddressMode `json:"mode,omitempty"`
	Owner    ID          `json:"owner"`            // who asked for it: a load balancer's ID, or one of its own
	Family   Family      `json:"family,omitempty"` // of Addr
	Addr     netip.Addr  `json:"addr,omitzero"`    // as soon as the cloud has given one
	Dual     bool        `json:"dual,omitempty"`   // there is one of IPv6 beside it, which is wherever it is
	Addr6    netip.Addr  `json:"addr6,omitzero"`
	Private  bool        `json:"private,omitempty"` // Addr is of the private network
	Machine  ID          `json:"machine,omitempty"` // where it should point …
	Sharing  []ID        `json:"sharing,omitempty"` // … and to whom else, each with as many of its new flows
	Created  time.Time   `json:"created"`
	Deleting time.Time   `json:"deleting,omitzero"`
	Place    Place       `json:"place,omitzero"`    // the project that it is in
	Actions  []ID        `json:"actions,omitempty"` // those in progress, oldest first

	Assigned ID     `json:"assigned,omitempty"` // where it was last seen to point …
	Shared   []ID   `json:"shared,omitempty"`   // … and to whom else
	Err      string `json:"err,omitempty"`      // why it is not yet as it should be
}

// Families returns those that there is to be an address of.
func (a *Address) Families() []Family {
	if a.Dual {
		return []Family{IPv4, IPv6}
	}
	return []Family{a.Family}
}

// Has reports whether a machine has the address, or should.
func (a *Address) Has(machine ID) bool {
	return a.Machine == machine || a.Assigned == machine || slices.Contains(a.Sharing, machine) || slices.Contains(a.Shared, machine)
}

// Family is IPv4 or IPv6.
type Family string

// The families of addresses. The zero value is IPv4.
const (
	IPv4 Family = ""
	IPv6 Family = "ipv6"
)

// String returns the family's name.
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is6() {
		return IPv6
	}
	return IPv4
}
