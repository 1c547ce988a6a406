package weir

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"
)

// RegionStatus is a region at a glance: what a person looks at who wants to know
// whether all is well. It is assembled from one reading of everything, and is plain
// data: weir status and the status page print it as it is.
type RegionStatus struct {
	Region        string                 `json:"region"`
	Taken         time.Time              `json:"taken"` // when everything was read
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
	Name      string             `json:"name"`
	Phase     LoadBalancerPhase  `json:"phase"`
	Address   netip.Addr         `json:"address,omitzero"`
	Algorithm Algorithm          `json:"algorithm"`
	Rules     []Rule             `json:"rules"`
	Tag       string             `json:"tag,omitempty"`      // of its servers, unless they are named one by one
	Since     time.Time          `json:"since,omitzero"`     // when its active instance became that
	Failover  *Failover          `json:"failover,omitempty"` // the last one
	Plan      []string           `json:"plan,omitempty"`
	Err       string             `json:"err,omitempty"`
	Deleting  bool               `json:"deleting,omitempty"`
	Instances []InstanceOverview `json:"instances"` // by ID
}

// InstanceOverview is one machine that runs a load balancer.
type InstanceOverview struct {
	Machine ID         `json:"machine"`
	Active  bool       `json:"active"` // it has the load balancer's address
	Health  Health     `json:"health"`
	Wants   int64      `json:"wants"` // the revision of the newest NodeConfig made for it
	Node    NodeStatus `json:"node"`  // its last report; Seen is zero if there was none
}

// PoolOverview is one pool at a glance.
type PoolOverview struct {
	ID       ID       `json:"id"`
	Name     string   `json:"name"`
	Count    int      `json:"count"` // machines wanted
	Machines int      `json:"machines"`
	Serving  int      `json:"serving"` // of those, how many may get traffic
	Plan     []string `json:"plan,omitempty"`
	Err      string   `json:"err,omitempty"`
}

// MachineOverview is one machine at a glance.
type MachineOverview struct {
	ID           ID           `json:"id"`
	Name         string       `json:"name"`
	Size         string       `json:"size"`
	Pool         ID           `json:"pool,omitempty"`
	LoadBalancer ID           `json:"load_balancer,omitempty"` // it is an instance of this one
	Phase        MachinePhase `json:"phase"`
	Public       netip.Addr   `json:"public,omitzero"`
	Private      netip.Addr   `json:"private,omitzero"`
	Boot         Boot         `json:"boot"`
	Drained      bool         `json:"drained,omitempty"`
	Own          bool         `json:"own,omitempty"` // a machine of one's own, which joined
	Deleting     bool         `json:"deleting,omitempty"`
	Err          string       `json:"err,omitempty"`
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
	return MachineOverview{ID: m.ID, Name: m.Name, Size: m.Size, Pool: m.Pool, LoadBalancer: m.LoadBalancer,
		Phase: m.Status.Phase, Public: m.Status.Public, Private: m.Status.Private, Boot: m.Status.Boot,
		Drained: m.Drained, Own: m.Own, Deleting: !m.Deleting.IsZero(), Err: m.Status.Err}
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

func (lb *LoadBalancerOverview) findProblems(now time.Time, machines map[ID]MachineOverview) (down, broken, odd []string) {
	if lb.Err != "" {
		broken = append(broken, fmt.Sprintf("Load balancer %s: %s.", lb.Name, lb.Err))
	}
	servers, up := 0, 0
	told := map[ID]bool{} // a server that is down is so in each backend of each instance: one sentence is enough
	for _, in := range lb.Instances {
		m := machines[in.Machine]
		of := fmt.Sprintf("Instance %s of load balancer %s", cmp.Or(m.Name, string(in.Machine)), lb.Name)
		booted := m.Phase == MachineActive && m.Boot.State != BootRunning
		switch silent := now.Sub(in.Node.Seen); {
		case in.Node.Seen.IsZero() && lb.Phase == LoadBalancerActive && booted:
			broken = append(broken, of+" has not reported yet.")
		case !in.Node.Seen.IsZero() && silent > NodeLate:
			broken = append(broken, fmt.Sprintf("%s has been silent for %s.", of, silent.Round(time.Second)))
		}
		if in.Node.Err != "" {
			broken = append(broken, fmt.Sprintf("%s stays at revision %d of %d: %s.", of, in.Node.Revision, in.Wants, in.Node.Err))
		}
		for _, server := range in.Node.Servers {
			servers++
			switch server.State {
			case ServerUp:
				up++
			case ServerDown:
				if !told[server.ID] {
					told[server.ID] = true
					odd = append(odd, fmt.Sprintf("Server %s of load balancer %s is down%s.",
						cmp.Or(machines[server.ID].Name, string(server.ID)), lb.Name, because(server.Why)))
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
	return down, broken, odd
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
