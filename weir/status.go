package weir

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// RegionStatus is a region at a glance: what a person looks at who wants to know
// whether all is well. It is assembled from one reading of everything, and is plain
// data: weir status and the status page print it as it is.
type RegionStatus struct {
	Region        string                 `json:"region"`
	Further       []string               `json:"further,omitempty"` // regions in which machines can be too
	Own           bool                   `json:"own,omitempty"`     // it has no cloud: its machines are its users' own
	Taken         time.Time              `json:"taken"`             // when everything was read
	Versions      Versions               `json:"versions"`
	Members       []MemberOverview       `json:"members"`  // of the control plane, by name
	Quorum        bool                   `json:"quorum"`   // enough of them are there to decide
	Problems      []string               `json:"problems"` // as [RegionStatus.FindProblems] says
	LoadBalancers []LoadBalancerOverview `json:"load_balancers"`
	Pools         []PoolOverview         `json:"pools"`
	Machines      []MachineOverview      `json:"machines"` // all, with load balancers' instances, by ID
	Counts        MachineCounts          `json:"counts"`   // of those
}

// Versions says what runs. A part that is not known is empty.
type Versions struct {
	Weir    string `json:"weir"`              // of the control plane
	HAProxy string `json:"haproxy,omitempty"` // of the instances; several are separated by ", "
	Etcd    string `json:"etcd,omitempty"`
}

// MemberOverview is one member of the control plane.
type MemberOverview struct {
	Name  string    `json:"name"`
	Addr  string    `json:"addr,omitempty"` // where the other members reach it
	Up    bool      `json:"up"`             // it answers
	Leads bool      `json:"leads"`          // it is the one that decides
	Since time.Time `json:"since,omitzero"` // it leads
	Self  bool      `json:"self"`           // it is the one that says all this
}

// LoadBalancerOverview is one load balancer at a glance.
type LoadBalancerOverview struct {
	ID        ID                 `json:"id"`
	Team      ID                 `json:"team,omitempty"`
	Name      string             `json:"name"`
	Phase     LoadBalancerPhase  `json:"phase"`
	Address   netip.Addr         `json:"address,omitzero"`
	Addr6     netip.Addr         `json:"addr6,omitzero"` // its address of IPv6, if it has one
	Algorithm Algorithm          `json:"algorithm"`
	Rules     []Rule             `json:"rules"`
	Tag       string             `json:"tag,omitempty"`      // of its servers, unless they are named one by one
	Since     time.Time          `json:"since,omitzero"`     // when its active instance became that
	Failover  *Failover          `json:"failover,omitempty"` // the last one
	Plan      []string           `json:"plan,omitempty"`
	Err       string             `json:"err,omitempty"`
	Deleting  bool               `json:"deleting,omitempty"`
	Instances []InstanceOverview `json:"instances"` // by ID

	Maintenance bool  `json:"maintenance,omitempty"` // every request is answered with 503, but those of who is allowed
	Drained     []ID  `json:"drained,omitempty"`     // servers that it sends no requests, by ID
	Split       Split `json:"split,omitempty"`       // the percentage of requests that each group gets of those that no route takes
}

// Notes returns what lb's users have it do for a while, a sentence each: "drained, until weir lb undrain: web-1".
func (s *RegionStatus) Notes(lb *LoadBalancerOverview) (notes []string) {
	if lb.Maintenance {
		notes = append(notes, "in maintenance: requests are answered with 503")
	}
	if len(lb.Split) > 0 {
		notes = append(notes, "splits requests: "+lb.Split.Among(OwnTargets))
	}
	if len(lb.Drained) == 0 {
		return notes
	}
	var names []string
	for _, id := range lb.Drained {
		name := string(id)
		if i := slices.IndexFunc(s.Machines, func(m MachineOverview) bool { return m.ID == id }); i >= 0 {
			name = s.Machines[i].Name
		}
		names = append(names, name)
	}
	return append(notes, "drained, until weir lb undrain: "+strings.Join(names, ", "))
}

// Actives returns the instances that have lb's address.
func (lb *LoadBalancerOverview) Actives() (active []InstanceOverview) {
	for _, in := range lb.Instances {
		if in.Active {
			active = append(active, in)
		}
	}
	return active
}

// Servers returns lb's servers as its clients meet them, each once for each backend: in the worst
// state in which an active instance sees it, and with what all of those count together.
func (lb *LoadBalancerOverview) Servers() (all []ServerStatus) {
	for _, in := range lb.Actives() {
		for _, s := range in.Node.Servers {
			i := slices.IndexFunc(all, func(a ServerStatus) bool { return a.ID == s.ID && a.Backend == s.Backend })
			if i < 0 {
				all = append(all, s)
				continue
			}
			s.Sessions += all[i].Sessions
			s.Requests += all[i].Requests
			if all[i].State != ServerUp {
				s.State, s.Why, s.Down = all[i].State, all[i].Why, all[i].Down
			}
			all[i] = s
		}
	}
	return all
}

// InstanceOverview is one machine that runs a load balancer.
type InstanceOverview struct {
	Machine ID         `json:"machine"`
	Active  bool       `json:"active"` // it has the load balancer's address, or a share of it
	Health  Health     `json:"health"`
	Wants   int64      `json:"wants"` // the revision of the newest NodeConfig made for it
	Node    NodeStatus `json:"node"`  // its last report; Seen is zero if there was none
}

// PoolOverview is one pool at a glance.
type PoolOverview struct {
	ID       ID       `json:"id"`
	Team     ID       `json:"team,omitempty"`
	Name     string   `json:"name"`
	Count    int      `json:"count"` // machines wanted
	Machines int      `json:"machines"`
	Serving  int      `json:"serving"`            // of those, how many may get traffic
	Capacity int      `json:"capacity,omitempty"` // of a pool with several sizes, how many of the first its machines are worth
	Spare    int      `json:"spare,omitempty"`    // of such a pool, how many it has beyond what it should and has not yet told to go
	Plan     []string `json:"plan,omitempty"`
	Err      string   `json:"err,omitempty"`

	Replacing bool   `json:"replacing,omitempty"` // its machines are being replaced by those of another template
	Back      string `json:"back,omitempty"`      // why it went back to its former template, until it has another
}

// Has reports whether the pool has all the machines that it should have.
func (p *PoolOverview) Has() bool { return cmp.Or(p.Capacity, p.Machines) >= p.Count }

// Sized reports whether it has what it should have, and no more.
func (p *PoolOverview) Sized() bool {
	if p.Capacity > 0 { // a machine that is worth several may be more than is missing
		return p.Has() && p.Spare == 0
	}
	return p.Machines == p.Count
}

// Settled reports whether it has what it should have, and all of that serves.
func (p *PoolOverview) Settled() bool { return p.Sized() && p.Serving == p.Machines }

// MachineOverview is one machine at a glance.
type MachineOverview struct {
	ID           ID           `json:"id"`
	Team         ID           `json:"team,omitempty"`
	Name         string       `json:"name"`
	Size         string       `json:"size"`
	Pool         ID           `json:"pool,omitempty"`
	LoadBalancer ID           `json:"load_balancer,omitempty"` // it is an instance of this one
	Phase        MachinePhase `json:"phase"`
	Public       netip.Addr   `json:"public,omitzero"`
	Private      netip.Addr   `json:"private,omitzero"`
	Boot         Boot         `json:"boot"`
	Region       string       `json:"region"`
	OnHost       string       `json:"on_host,omitempty"`   // "" if its cloud does not say
	HostDown     bool         `json:"host_down,omitempty"` // its host is: it is off until that is up again
	Drained      bool         `json:"drained,omitempty"`
	Own          bool         `json:"own,omitempty"` // a machine of one's own, which joined
	Deleting     bool         `json:"deleting,omitempty"`
	Err          string       `json:"err,omitempty"`
}

// Buried is as [Machine.Buried].
func (m *MachineOverview) Buried() bool { return m.HostDown && m.Deleting }

// HostOverview is one host of a cloud that has several, as its machines show it.
type HostOverview struct {
	Name     string `json:"name"`
	Down     bool   `json:"down,omitempty"`
	Machines int    `json:"machines"`
}

// MachineCounts says how many machines there are in each phase. One that is being
// deleted counts as that alone, and so does any other whose first boot failed.
type MachineCounts struct {
	New      int `json:"new"`
	Active   int `json:"active"`
	Failed   int `json:"failed"`
	Off      int `json:"off"`
	Deleting int `json:"deleting"`
}

// Up reports whether an instance of a load balancer sends machine requests.
func (s *RegionStatus) Up(machine ID) bool {
	for _, lb := range s.LoadBalancers {
		for _, in := range lb.Instances {
			for _, server := range in.Node.Servers {
				if server.ID == machine && server.State == ServerUp {
					return true
				}
			}
		}
	}
	return false
}

// Overview returns m at a glance.
func (m *Machine) Overview() MachineOverview {
	return MachineOverview{ID: m.ID, Team: m.Team, Name: m.Name, Size: m.Size, Pool: m.Pool, LoadBalancer: m.LoadBalancer,
		Phase: m.Status.Phase, Public: m.Status.Public, Private: m.Status.Private, Boot: m.Status.Boot,
		Region: m.Region, OnHost: m.Status.Host, HostDown: m.Status.HostDown, Drained: m.Drained, Own: m.Own, Deleting: !m.Deleting.IsZero(), Err: m.Status.Err}
}

// CountMachines counts s.Machines into s.Counts.
func (s *RegionStatus) CountMachines() {
	s.Counts = MachineCounts{}
	for _, m := range s.Machines {
		switch {
		case m.Deleting:
			s.Counts.Deleting++
		case m.Boot.State == BootFailed:
			s.Counts.Failed++
		case m.Phase == MachineActive:
			s.Counts.Active++
		case m.Phase == MachineOff:
			s.Counts.Off++
		default:
			s.Counts.New++
		}
	}
}

// NodeLate is how old a node's last report may be before the node counts as silent.
const NodeLate = 15 * time.Second

// FindProblems returns, as sentences and the worst first, what a person should look at.
// What is merely not done yet is no problem: a machine that boots, a configuration
// that is on its way. It sets nothing.
func (s *RegionStatus) FindProblems() []string {
	machines := map[ID]MachineOverview{}
	for _, m := range s.Machines {
		machines[m.ID] = m
	}
	var down, broken, odd []string // clients get errors; something has failed; it is being coped with
	broken = append(s.memberProblems(), s.hostProblems()...)
	for _, lb := range s.LoadBalancers {
		if lb.Deleting {
			continue
		}
		d, b, o := lb.findProblems(s.Taken, machines)
		down, broken, odd = append(down, d...), append(broken, b...), append(odd, o...)
	}
	for _, p := range s.Pools {
		if p.Err != "" {
			broken = append(broken, fmt.Sprintf("Pool %s: %s.", p.Name, p.Err))
		}
	}
	for _, m := range s.Machines {
		switch {
		case m.Err != "" && m.Deleting:
			broken = append(broken, fmt.Sprintf("Machine %s cannot be deleted yet: %s.", m.Name, m.Err))
		case m.Err != "":
			broken = append(broken, fmt.Sprintf("Machine %s: %s.", m.Name, m.Err))
		case m.Boot.State == BootFailed && !m.Deleting:
			broken = append(broken, fmt.Sprintf("Machine %s gets no traffic, for its first boot failed%s; its log is %s.", m.Name, because(m.Boot.Why), m.Boot.Log))
		}
	}
	return append(append(down, broken...), odd...)
}

// Hosts returns the hosts that machines are on, by name. There are none in a cloud that does not say, or has one.
func (s *RegionStatus) Hosts() (all []HostOverview) {
	for _, m := range s.Machines {
		if m.OnHost == "" {
			continue
		}
		i := slices.IndexFunc(all, func(h HostOverview) bool { return h.Name == m.OnHost })
		if i < 0 {
			i = len(all)
			all = append(all, HostOverview{Name: m.OnHost})
		}
		all[i].Machines++
		all[i].Down = all[i].Down || m.HostDown
	}
	slices.SortFunc(all, func(a, b HostOverview) int { return CompareHosts(a.Name, b.Name) })
	return all
}

// CompareHosts compares names of hosts: host-2 comes before host-10.
func CompareHosts(a, b string) int { return cmp.Or(len(a)-len(b), cmp.Compare(a, b)) }

// hostProblems returns which hosts are down.
func (s *RegionStatus) hostProblems() (sentences []string) {
	for _, h := range s.Hosts() {
		if h.Down {
			sentences = append(sentences, fmt.Sprintf("Host %s is down, with all that is on it (machines: %d).", h.Name, h.Machines))
		}
	}
	return sentences
}

// memberProblems returns what is wrong with the control plane itself.
func (s *RegionStatus) memberProblems() (sentences []string) {
	var away []string
	for _, m := range s.Members {
		if !m.Up {
			away = append(away, m.Name)
		}
	}
	if len(s.Members) > 0 && !s.Quorum {
		why := ""
		if len(away) > 0 {
			why = fmt.Sprintf(": of %d members, %s %s not answer", len(s.Members), strings.Join(away, " and "), does(len(away)))
		}
		return []string{fmt.Sprintf("The control plane has no quorum%s. Traffic goes on, and nothing is decided.", why)}
	}
	for _, name := range away {
		sentences = append(sentences, fmt.Sprintf("Member %s of the control plane does not answer.", name))
	}
	return sentences
}

func does(n int) string {
	if n == 1 {
		return "does"
	}
	return "do"
}

// pairTime is how long a load balancer may have an active instance, and none beside it that
// could take over, and still count as one that is being made.
const pairTime = time.Minute

func (lb *LoadBalancerOverview) findProblems(now time.Time, machines map[ID]MachineOverview) (down, broken, odd []string) {
	var causes, unable []string // what instances say by themselves; why those that stand by could not take over
	able := 0
	of := func(in InstanceOverview) string { return cmp.Or(machines[in.Machine].Name, string(in.Machine)) }
	for _, in := range lb.Instances {
		m := machines[in.Machine]
		causes = append(causes, in.Node.Err, m.Err, m.Boot.Why)
		if m.Deleting {
			continue
		}
		if held := in.Node.Held; held != nil && held.Duplicate != "" {
			down = append(down, fmt.Sprintf("Address %s of load balancer %s is claimed by somebody else too, %s, as %s sees.",
				held.Addr.Addr(), lb.Name, held.Duplicate, of(in)))
		}
		ill := in.ill(m, lb.Phase, now)
		switch {
		case in.Active && ill != "":
			broken = append(broken, fmt.Sprintf("Active instance %s of load balancer %s %s.", of(in), lb.Name, ill))
		case in.Active:
		case ill != "":
			unable = append(unable, of(in)+" "+ill)
		case m.Boot.State == BootFailed:
			unable = append(unable, of(in)+" did not boot")
		case in.Health.State == InstanceBoots || in.Health.State == InstanceDrained:
			unable = append(unable, of(in)+" "+in.Health.State.Phrase())
		default:
			able++
		}
	}
	paired := lb.Failover != nil || !lb.Since.IsZero() && now.Sub(lb.Since) > pairTime
	switch {
	case able == 0 && paired && lb.Phase != LoadBalancerNew:
		broken = append(broken, fmt.Sprintf("Load balancer %s has no standby that could take over: %s.",
			lb.Name, cmp.Or(strings.Join(unable, "; "), "it has no other instance")))
	default:
		for _, in := range lb.Instances {
			m := machines[in.Machine]
			if ill := in.ill(m, lb.Phase, now); ill != "" && !in.Active && !m.Deleting {
				broken = append(broken, fmt.Sprintf("Instance %s of load balancer %s %s.", of(in), lb.Name, ill))
			}
		}
	}
	if lb.Err != "" && !slices.ContainsFunc(causes, func(why string) bool { return why != "" && strings.Contains(lb.Err, why) }) {
		broken = append([]string{fmt.Sprintf("Load balancer %s: %s.", lb.Name, lb.Err)}, broken...)
	}
	d, o := lb.serverProblems(now, machines)
	return append(down, d...), broken, append(odd, o...)
}

// ill returns what is wrong with an instance, as what is said of it, or "". The most telling
// comes first, and the rest is likely to follow from it.
func (in *InstanceOverview) ill(m MachineOverview, phase LoadBalancerPhase, now time.Time) string {
	silent := now.Sub(in.Node.Seen)
	booted := m.Phase == MachineActive && m.Boot.State != BootRunning && m.Boot.State != BootFailed
	judged := in.Health.State != "" && in.Health.State != InstanceBoots
	switch {
	case in.Health.State == InstanceSilent || in.Health.State == InstanceGone:
		return in.Health.State.Phrase() + because(in.Health.Why)
	case in.Node.Err != "":
		return fmt.Sprintf("stays at revision %d of %d: %s", in.Node.Revision, in.Wants, in.Node.Err)
	case in.Health.State == InstanceUnwell:
		return in.Health.State.Phrase() + because(in.Health.Why)
	case in.Node.HAProxy.Err != "":
		return "serves nobody: " + in.Node.HAProxy.Err
	case in.Node.Seen.IsZero() && phase == LoadBalancerActive && booted && !judged:
		return "has not reported yet"
	case !in.Node.Seen.IsZero() && silent > NodeLate:
		return fmt.Sprintf("has been silent for %s", silent.Round(time.Second))
	}
	return ""
}

// serverProblems returns what is wrong with lb's servers, as the instance that clients
// reach sees them; and what another sees by itself, unless that one is not well.
func (lb *LoadBalancerOverview) serverProblems(now time.Time, machines map[ID]MachineOverview) (down, odd []string) {
	servers, up := 0, 0
	told := map[ID]bool{} // a server that is down is so in each backend: one sentence is enough
	named := func(id ID) string { return cmp.Or(machines[id].Name, string(id)) }
	some := slices.ContainsFunc(lb.Instances, func(in InstanceOverview) bool { return in.Active })
	for _, clients := range []bool{true, false} {
		for _, in := range lb.Instances {
			if some && in.Active != clients || !some && !clients || !clients && in.ill(machines[in.Machine], lb.Phase, now) != "" {
				continue
			}
			where := ""
			if !clients {
				where = " for " + named(in.Machine)
			}
			for _, server := range in.Node.Servers {
				if clients {
					servers++
				}
				if clients && server.State == ServerUp {
					up++
				}
				if server.State == ServerDown && !told[server.ID] {
					told[server.ID] = true
					odd = append(odd, fmt.Sprintf("Server %s of load balancer %s is down%s%s.", named(server.ID), lb.Name, where, because(server.Why)))
				}
			}
		}
	}
	switch {
	case lb.Phase != LoadBalancerActive || up > 0:
	case servers == 0:
		down = append(down, fmt.Sprintf("Load balancer %s has no servers: its clients get errors.", lb.Name))
	default:
		down = append(down, fmt.Sprintf("Load balancer %s has no server that is up: its clients get errors.", lb.Name))
	}
	return down, odd
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
