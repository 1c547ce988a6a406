package api

import (
	"encoding/binary"
	"hash/fnv"
	"net"
	"net/netip"
	"strings"
	"time"

	"weir/weir"
)

// The types below are DigitalOcean's, and this file and wire_loadbalancer.go are where
// they are put in weir's words and weir's in them. Answers have no omitempty where
// clients read a field without looking whether it is there.

type regionWire struct {
	Slug      string   `json:"slug"`
	Name      string   `json:"name"`
	Sizes     []string `json:"sizes"`
	Features  []string `json:"features"`
	Available bool     `json:"available"`

	made string // all of it in JSON
}

func newRegionWire(region string) regionWire {
	w := regionWire{Slug: region, Name: region, Sizes: []string{}, Available: true,
		Features: []string{"private_networking", "metadata", "ipv6"}}
	for _, s := range weir.Sizes() {
		w.Sizes = append(w.Sizes, s.Slug)
	}
	w.made = encoded(w)
	return w
}

type sizeWire struct {
	Slug         string     `json:"slug"`
	Memory       int64      `json:"memory"` // MiB
	CPUs         int        `json:"vcpus"`
	Disk         int64      `json:"disk"`     // GiB
	Transfer     float64    `json:"transfer"` // TB
	PriceMonthly float64    `json:"price_monthly"`
	PriceHourly  float64    `json:"price_hourly"`
	Regions      []string   `json:"regions"`
	Available    bool       `json:"available"`
	Description  string     `json:"description"`
	DiskInfo     []diskWire `json:"disk_info"`

	made struct{ all, disks string } // all of it, and its disks, in JSON
}

type diskWire struct {
	Type string       `json:"type"`
	Size diskSizeWire `json:"size"`
}

type diskSizeWire struct {
	Amount int64  `json:"amount"`
	Unit   string `json:"unit"`
}

func newSizeWire(s weir.Size, regions []string) sizeWire {
	w := sizeWire{Slug: s.Slug, Memory: s.Memory >> 20, CPUs: s.CPUs, Disk: s.Disk >> 30, Regions: regions,
		Available: true, Description: "Basic", DiskInfo: []diskWire{{"local", diskSizeWire{s.Disk >> 30, "gib"}}}}
	w.made.all, w.made.disks = encoded(w), encoded(w.DiskInfo)
	return w
}

type imageWire struct {
	ID            int64    `json:"id"`
	Name          string   `json:"name"`
	Type          string   `json:"type"`
	Distribution  string   `json:"distribution"`
	Slug          string   `json:"slug"`
	Public        bool     `json:"public"`
	Regions       []string `json:"regions"`
	MinDiskSize   int      `json:"min_disk_size"` // GiB
	SizeGigabytes float64  `json:"size_gigabytes"`
	Created       string   `json:"created_at"`
	Description   string   `json:"description"`
	Tags          []string `json:"tags"`
	Status        string   `json:"status"`
	ErrorMessage  string   `json:"error_message"`

	made string // all of it in JSON
}

// imageNumber returns the number of an image. It is made from the slug, so that it is the same for ever and
// everywhere.
func imageNumber(slug string) int64 {
	h := fnv.New32a()
	h.Write([]byte(slug))
	return 1 + int64(h.Sum32())
}

// newImageWire returns an image by its slug.
func newImageWire(slug string, regions []string) imageWire {
	distribution, name := "Unknown", slug
	for _, d := range [][2]string{{"Debian", "debian-"}, {"Ubuntu", "ubuntu-"}} {
		if version, ok := strings.CutPrefix(slug, d[1]); ok {
			distribution, name = d[0], strings.ReplaceAll(strings.Replace(version, "-x64", " x64", 1), "-", ".")
		}
	}
	w := imageWire{ID: imageNumber(slug), Name: name, Type: "base", Distribution: distribution, Slug: slug, Public: true,
		Regions: regions, MinDiskSize: 10, Created: timeWire(time.Time{}), Tags: []string{}, Status: "available",
		Description: "On a region of one machine, each droplet is the system of that machine"}
	w.made = encoded(w)
	return w
}

// catalog is what many answers have in common, which is made once. None of it is to be changed.
type catalog struct {
	region  regionWire // where load balancers and addresses are
	further map[string]regionWire
	sizes   map[string]sizeWire
	images  map[string]imageWire // those that the API lists
	vpc     weir.ID
}

func newCatalog(regions []string) catalog {
	c := catalog{newRegionWire(regions[0]), map[string]regionWire{}, map[string]sizeWire{}, map[string]imageWire{}, weir.NetworkID(regions[0])}
	for _, region := range regions[1:] {
		c.further[region] = newRegionWire(region)
	}
	for _, s := range weir.Sizes() {
		c.sizes[s.Slug] = newSizeWire(s, regions)
	}
	for _, slug := range weir.Images() {
		c.images[slug] = newImageWire(slug, regions)
	}
	return c
}

// regionWords is newRegionWire, for the region that is ours as a rule.
func (a *api) regionWords(region string) regionWire {
	if region == a.catalog.region.Slug {
		return a.catalog.region
	}
	if w, ok := a.catalog.further[region]; ok {
		return w
	}
	return newRegionWire(region)
}

func (a *api) sizeWords(slug string) sizeWire {
	if s, ok := a.catalog.sizes[slug]; ok {
		return s
	}
	return newSizeWire(weir.Size{Slug: slug}, a.Control.Regions())
}

func (a *api) imageWords(slug string) imageWire {
	if i, ok := a.catalog.images[slug]; ok {
		return i
	}
	return newImageWire(slug, a.Control.Regions())
}

type dropletWire struct {
	ID               int64        `json:"id"`
	Name             string       `json:"name"`
	Memory           int64        `json:"memory"` // MiB
	CPUs             int          `json:"vcpus"`
	Disk             int64        `json:"disk"` // GiB
	DiskInfo         []diskWire   `json:"disk_info"`
	Locked           bool         `json:"locked"`
	Status           string       `json:"status"`
	Kernel           *struct{}    `json:"kernel"`
	Created          string       `json:"created_at"`
	Features         []string     `json:"features"`
	BackupIDs        []int64      `json:"backup_ids"`
	NextBackupWindow *struct{}    `json:"next_backup_window"`
	SnapshotIDs      []int64      `json:"snapshot_ids"`
	Image            imageWire    `json:"image"`
	VolumeIDs        []string     `json:"volume_ids"`
	Size             sizeWire     `json:"size"`
	SizeSlug         string       `json:"size_slug"`
	Networks         networksWire `json:"networks"`
	Region           regionWire   `json:"region"`
	Tags             []string     `json:"tags"`
	VPCUUID          weir.ID      `json:"vpc_uuid"`

	Weir dropletWeir `json:"weir,omitzero"`
}

// dropletWeir is what DigitalOcean has no word for.
type dropletWeir struct {
	Pool     weir.ID `json:"pool,omitempty"`
	Boot     string  `json:"boot,omitempty"`
	Deleting bool    `json:"deleting,omitempty"`
	Err      string  `json:"error,omitempty"` // why it is not yet as it should be
}

type networksWire struct {
	V4 []networkWire  `json:"v4"`
	V6 []network6Wire `json:"v6"`
}

type networkWire struct {
	Address string  `json:"ip_address"`
	Netmask string  `json:"netmask"`
	Gateway *string `json:"gateway"` // null for a private network, which has none
	Type    string  `json:"type"`
}

type network6Wire struct {
	Address string `json:"ip_address"`
	Netmask int    `json:"netmask"` // how many bits
	Gateway string `json:"gateway"`
	Type    string `json:"type"` // public: private networks are of IPv4
}

// dropletWords puts a machine in DigitalOcean's words. Its status stays as it was while
// it is being deleted, and it is gone when it is gone: clients that wait for that know
// nothing in between.
func (a *api) dropletWords(m weir.Machine) dropletWire {
	size := a.sizeWords(m.Size)
	d := dropletWire{ID: number(m.ID), Name: m.Name, Memory: size.Memory, CPUs: size.CPUs, Disk: size.Disk,
		DiskInfo: size.DiskInfo, Locked: !m.Deleting.IsZero(), Status: string(m.Status.Phase), Created: timeWire(m.Created),
		Features: []string{"private_networking"}, BackupIDs: []int64{}, SnapshotIDs: []int64{}, VolumeIDs: []string{},
		Image: a.imageWords(m.Image), Size: size, SizeSlug: m.Size,
		Networks: networksWire{[]networkWire{}, []network6Wire{}}, Region: a.regionWords(m.Region), Tags: some(m.Tags), VPCUUID: a.vpcID(),
		Weir: dropletWeir{m.Pool, string(m.Status.Boot.State), !m.Deleting.IsZero(), m.Status.Err}}
	in, further := a.Further[m.Region]
	if !further {
		in = Further{Public: a.Public, Private: a.Private, Public6: a.Public6}
	}
	if m.Monitoring {
		d.Features = append(d.Features, "monitoring")
	}
	if m.IPv6 {
		d.Features = append(d.Features, "ipv6")
	}
	if d.Status == "" {
		d.Status = string(weir.MachineNew)
	}
	if addr := m.Status.Public; addr.IsValid() {
		gateway := firstOf(in.Public)
		d.Networks.V4 = append(d.Networks.V4, networkWire{addr.String(), netmask(in.Public), &gateway, "public"})
	}
	if addr := m.Status.Private; addr.IsValid() {
		d.Networks.V4 = append(d.Networks.V4, networkWire{addr.String(), netmask(in.Private), nil, "private"})
	}
	if addr := m.Status.Public6; addr.IsValid() {
		d.Networks.V6 = append(d.Networks.V6, network6Wire{addr.String(), max(in.Public6.Bits(), 0), firstOf(in.Public6), "public"})
	}
	return d
}

func netmask(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return net.IP(net.CIDRMask(p.Bits(), p.Addr().BitLen())).String()
}

func firstOf(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.Masked().Addr().Next().String()
}

type actionWire struct {
	ID           int64      `json:"id"`
	Status       string     `json:"status"`
	Type         string     `json:"type"`
	Started      string     `json:"started_at"`
	Completed    *string    `json:"completed_at"`
	ResourceID   int64      `json:"resource_id"`
	ResourceType string     `json:"resource_type"`
	Region       regionWire `json:"region"`
	RegionSlug   string     `json:"region_slug"`

	Weir actionWeir `json:"weir,omitzero"`
}

// actionWeir is what DigitalOcean has no word for.
type actionWeir struct {
	Err string `json:"error,omitempty"`
}

// actionWords puts an action in DigitalOcean's words.
func (a *api) actionWords(act weir.Action) actionWire {
	w := actionWire{ID: number(act.ID), Status: "in-progress", Type: act.Type, Started: timeWire(act.Started),
		ResourceID: number(act.On), ResourceType: string(act.Resource), Region: a.regionWords(act.Region), RegionSlug: act.Region,
		Weir: actionWeir{act.Err}}
	if act.Resource == weir.OnAddress {
		w.Type = addressAction(act.Type)
		switch addr, err := netip.ParseAddr(string(act.On)); {
		case err == nil && addr.Is4():
			ip := addr.As4()
			w.ResourceID = int64(binary.BigEndian.Uint32(ip[:]))
		case err == nil:
			w.ResourceType = reservedIPv6.one // for a number it is too long
		}
	}
	if !act.Completed.IsZero() {
		done := timeWire(act.Completed)
		w.Completed, w.Status = &done, "completed"
	}
	if act.Err != "" {
		w.Status = "errored"
	}
	return w
}

// addressAction returns what DigitalOcean calls an address's action once it has been
// asked for by its shorter name.
func addressAction(kind string) string {
	switch kind {
	case "assign", "unassign":
		return kind + "_ip"
	}
	return kind
}

type tagWire struct {
	Name      string        `json:"name"`
	Resources resourcesWire `json:"resources"`
}

type resourcesWire struct {
	taggedWire
	Droplets        taggedWire `json:"droplets"`
	Images          taggedWire `json:"images"`
	Volumes         taggedWire `json:"volumes"`
	VolumeSnapshots taggedWire `json:"volume_snapshots"`
	Databases       taggedWire `json:"databases"`
}

type taggedWire struct {
	Count int    `json:"count"`
	Last  string `json:"last_tagged_uri,omitempty"`
}

type addressWire struct {
	IP        string       `json:"ip"`
	Droplet   *dropletWire `json:"droplet"` // null if it is assigned to none
	Region    regionWire   `json:"region"`
	Locked    bool         `json:"locked"` // an action of it is in progress
	ProjectID weir.ID      `json:"project_id"`
}

// address6Wire is a reserved IP of IPv6.
type address6Wire struct {
	IP       string       `json:"ip"`
	Reserved string       `json:"reserved_at"`
	Region   string       `json:"region_slug"`
	Droplet  *dropletWire `json:"droplet"` // null if it is assigned to none
}

// timeWire writes a time as DigitalOcean does: UTC, to the second.
func timeWire(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// some returns s, or an empty slice for a nil one: lists are never null.
func some[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
