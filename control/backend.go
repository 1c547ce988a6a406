package control

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"

	"weir/weir"
)

// addBackend adds to p the backend of those who get the requests of a rule: a group's servers, or with nil the load
// balancer's own, and those of the groups that share them. It returns the backend's name.
func (v *balancerView) addBackend(p *weir.Proxy, r weir.Rule, g *weir.TargetGroup) string {
	lb, target := &v.lb, r.Target
	if r.Passthrough {
		target = weir.TCP
	}
	own := weir.TargetGroup{Split: lb.Policy.Split}
	name := fmt.Sprintf("servers-%s-%d", target, r.TargetPort)
	if g != nil {
		own = *g
		name += "-" + g.Name
	}
	if slices.ContainsFunc(p.Backends, func(b weir.Backend) bool { return b.Name == name }) {
		return name
	}
	b := weir.Backend{Name: name, Mode: r.Mode(), Balance: lb.Algorithm, Idle: lb.Idle, Check: lb.Health, Proxy: lb.Proxy, SlowStart: lb.Policy.SlowStart}
	port := cmp.Or(own.Port, r.TargetPort)
	if own.Health != nil {
		b.Check = *own.Health
	}
	if b.Mode == weir.HTTP {
		b.Shared = lb.KeepAlive
		if target.Secure() {
			b.Secure = target
		}
		if lb.Sticky != nil {
			b.Sticky, b.Key = lb.Sticky, cookieKey(lb)
		}
	}
	weights := v.weights(own)
	for _, m := range v.machines {
		if weight, in := weights[m.ID]; in {
			b.Servers = append(b.Servers, weir.Server{ID: m.ID, Name: m.Name, Addr: netip.AddrPortFrom(m.Status.Private, uint16(port)), Weight: weight})
		}
	}
	if g == nil {
		for _, a := range lb.Servers {
			b.Servers = append(b.Servers, weir.Server{ID: weir.ID(a.String()), Name: a.String(), Addr: netip.AddrPortFrom(a, uint16(port)), Weight: 1})
		}
	}
	p.Backends = append(p.Backends, b)
	return name
}

// inRotation reports whether m is to get requests of a group, or with "" as one of the load balancer's own targets.
func (v *balancerView) inRotation(group string, m *weir.Machine) bool {
	_, drained := v.lb.Policy.Drained[m.ID]
	return !drained && m.Serves() && v.lb.TargetsIn(group, m)
}

// mostWeight is HAProxy's.
const mostWeight = 256

// part is those of a backend's servers that share a percentage of its requests.
type part struct {
	percent  float64
	machines []*weir.Machine
}

// share is what the lightest and the heaviest of the first n servers of p have of 100, and what one that is worth 1 has.
func (p *part) share(n int) (least, most, each float64) {
	sum, least := 0.0, math.Inf(1)
	for _, m := range p.machines[:n] {
		sum, least, most = sum+m.Capacity(), min(least, m.Capacity()), max(most, m.Capacity())
	}
	each = p.percent / sum
	return least * each, most * each, each
}

// parts returns who shares the requests of a group, its own servers before others. A machine in several parts counts for the
// first, and a part without machines is left out.
func (v *balancerView) parts(g weir.TargetGroup) (parts []part) {
	taken := map[weir.ID]bool{}
	add := func(name string, percent int) {
		p := part{percent: float64(percent)}
		for i := range v.machines {
			if m := &v.machines[i]; !taken[m.ID] && v.inRotation(name, m) {
				taken[m.ID] = true
				p.machines = append(p.machines, m)
			}
		}
		if len(p.machines) > 0 {
			parts = append(parts, p)
		}
	}
	add(g.Name, g.Split.Rest())
	for _, name := range slices.Sorted(maps.Keys(g.Split)) {
		add(name, g.Split[name])
	}
	return parts
}

// weights returns the weight of each machine that gets requests of a group. Without a split they are in proportion to what
// machines are worth. With one, the servers of each part so share its percentage, as exactly as whole numbers up to 256 can
// say: where a part's percentage is too small for so many servers, the last ones of it have weight 0, and wait for others to
// go. If all who were to have something have no machine, those who were to have nothing serve: the group's own before those
// that share.
func (v *balancerView) weights(g weir.TargetGroup) map[weir.ID]int {
	weights := map[weir.ID]int{}
	parts := v.parts(g)
	if len(parts) == 1 {
		for i, weight := range evenWeights(parts[0].machines) {
			weights[parts[0].machines[i].ID] = weight
		}
		return weights
	}
	// The largest share that one server has gets the largest weight.
	most := 0.0
	for _, p := range parts {
		_, large, _ := p.share(len(p.machines))
		most = max(most, large)
		for _, m := range p.machines {
			weights[m.ID] = 0
		}
	}
	if most == 0 && len(parts) > 0 {
		// Whoever was to have a share is not there: the first of those who are has all.
		parts[0].percent = 100
		_, most, _ = parts[0].share(len(parts[0].machines))
	}
	for _, p := range parts {
		if p.percent == 0 {
			continue
		}
		n := len(p.machines)
		for ; n > 1; n-- {
			if least, _, _ := p.share(n); least >= most/mostWeight {
				break
			}
		}
		_, _, each := p.share(n)
		for _, m := range p.machines[:n] {
			weights[m.ID] = min(max(int(math.Round(each*m.Capacity()*mostWeight/most)), 1), mostWeight)
		}
	}
	return weights
}

// targetPorts returns the ports at which m, a server of lb, is asked by its instances.
func targetPorts(lb *weir.LoadBalancer, m *weir.Machine) (ports []int) {
	add := func(port int) {
		if !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	// A machine is asked as a backend's own group is, also where it only shares a group's requests.
	asked := func(port int, check weir.HealthCheck) {
		for _, r := range lb.Rules {
			add(cmp.Or(port, r.TargetPort))
		}
		add(check.Port)
	}
	shares := func(s weir.Split) bool {
		for name := range s {
			if lb.TargetsIn(name, m) {
				return true
			}
		}
		return false
	}
	if lb.TargetsIn("", m) || shares(lb.Policy.Split) {
		asked(0, lb.Health)
	}
	for _, g := range lb.Policy.Groups {
		if !lb.TargetsIn(g.Name, m) && !shares(g.Split) {
			continue
		}
		check := lb.Health
		if g.Health != nil {
			check = *g.Health
		}
		asked(g.Port, check)
	}
	return ports
}
