package control

import (
	"math"
	"slices"
	"time"

	"weir/scale"
	"weir/weir"
)

// staleLoad is how long what a machine or a load balancer bears is taken for what it bears now. What a cloud has figures of
// every so often is taken for that for twice as long more: so old they are when the next ones come.
const staleLoad = 45 * time.Second

// loadOf returns what a pool's machines bear, as far as this member knows it, and how many of them that are. Among lbs are
// the load balancers in front of them. A response time is the mean where percentile is 0; otherwise it is of as many
// requests in a hundred, by what access logs have counted, and is not known where no load balancer has one. Unknown says of which
// machines' exporters nothing was heard, and why: what s says of CPU and memory is less than all then.
func (f *figures) loadOf(members []weir.Machine, lbs []weir.LoadBalancer, percentile int, now time.Time) (s scale.Sample, machines int, unknown string) {
	front := map[weir.ID]*frontSaid{}
	for _, lb := range lbs {
		if lb.Deleting.IsZero() && slices.ContainsFunc(members, func(m weir.Machine) bool { return lb.Targets(&m) }) {
			if b := f.balancer(lb.ID, false); b != nil {
				front[lb.ID] = b.said(now)
			}
		}
	}
	var serving []weir.Machine
	for _, m := range members {
		if m.Serves() && !slices.ContainsFunc(lbs, func(lb weir.LoadBalancer) bool {
			return front[lb.ID] != nil && lb.Targets(&m) && !front[lb.ID].up[m.ID]
		}) {
			serving = append(serving, m)
		}
	}
	s = scale.NewSample(now, worth(serving))
	s.Load[scale.CPU], s.Load[scale.Memory], unknown = f.used(serving, now)
	answers, seconds, lasted := 0.0, 0.0, make([]float64, len(weir.DurationBounds))
	for _, lb := range lbs {
		said := front[lb.ID]
		if said == nil {
			continue
		}
		share, sessions := said.shareOf(members)
		add(&s.Load[scale.Requests], said.requests*share)
		add(&s.Load[scale.Concurrent], sessions+said.queue*share)
		answers, seconds = answers+said.answers*share, seconds+said.seconds*share
		for i, n := range said.lasted {
			lasted[i] += n * share
		}
		if percentile == 0 && !math.IsNaN(said.answers) || percentile != 0 && said.lasted != nil {
			add(&s.Load[scale.Response], 0)
		}
	}
	switch {
	case percentile != 0 && !math.IsNaN(s.Load[scale.Response]):
		s.Load[scale.Response] = weir.Percentile(lasted, float64(percentile)/100).Seconds()
	case percentile == 0 && answers > 0:
		s.Load[scale.Response] = seconds / answers
	}
	return s, len(serving), unknown
}

// worth returns how many machines of their pool's first size machines are worth.
func worth(all []weir.Machine) (units float64) {
	for i := range all {
		units += all[i].Capacity()
	}
	return units
}

// add adds v to a sum that is not known while nothing was added.
func add(sum *float64, v float64) {
	if math.IsNaN(*sum) {
		*sum = 0
	}
	*sum += v
}

// used returns how many machines' CPU and memory are in use, each counted as what it is worth. Where those of at least
// half are known, the others are taken to be like them. Those of machines that have an exporter are what that says. Where figures of a
// cloud come every so often, a machine that has come on since has borne nothing of what the others have figures of: else each one that
// a pool grows by would have it grow by more.
func (f *figures) used(serving []weir.Machine, now time.Time) (cpu, memory float64, unknown string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, newcomers, cpus, memories := 0.0, 0.0, 0.0, 0.0
	for _, m := range serving {
		of, every := f.machines[m.ID], f.every
		if m.Metered != nil {
			of, every = f.told[m.ID].figures(), 0
		}
		if (of == nil || math.IsNaN(of.busy)) && every > 0 && now.Sub(m.Changed) < staleLoad+3*every {
			newcomers += m.Capacity()
			continue
		}
		if !of.known(now, every) {
			continue
		}
		known += m.Capacity()
		cpus += of.busy * m.Capacity()
		memories += (1 - float64(of.last.Memory.Available)/float64(of.last.Memory.Total)) * m.Capacity()
	}
	unknown = f.mute(serving, now)
	all := worth(serving) - newcomers
	if known == 0 || 2*known < all {
		return math.NaN(), math.NaN(), unknown
	}
	others := all / known
	return cpus * others, memories * others, unknown
}

// known reports whether m tells of now, if what it tells comes every so often.
func (m *machineFigures) known(now time.Time, every time.Duration) bool {
	return m != nil && now.Sub(m.last.Taken) <= staleLoad+2*every && !math.IsNaN(m.busy) && m.last.Memory.Total != 0
}

// frontSaid is what a load balancer last said of itself; NaN is what is not known.
type frontSaid struct {
	requests, queue  float64
	answers, seconds float64   // in some time: how many, and how long they took together
	lasted           []float64 // of them in an access log, how many took how long, as weir.DurationBounds has it; nil if there is none
	up               map[weir.ID]bool
	sessions         map[weir.ID]float64
}

// said returns what a load balancer bears, or nil if it has said nothing lately.
func (b *balancerFigures) said(now time.Time) *frontSaid {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &frontSaid{requests: math.NaN(), answers: math.NaN(), seconds: math.NaN(), up: map[weir.ID]bool{}, sessions: map[weir.ID]float64{}}
	heard := false
	for _, n := range b.nodes {
		if now.Sub(n.heard) > stale {
			continue
		}
		heard = true
		for _, w := range n.counts.Workers {
			for _, backend := range w.Backends {
				s.queue += float64(backend.Queue)
			}
		}
		for id, said := range n.servers {
			s.up[id] = s.up[id] || !said.sick
			s.sessions[id] += float64(said.sessions)
		}
	}
	if !heard {
		return nil
	}
	for step := range b.window.Steps(now.Add(-staleLoad), now) {
		s.requests = step.Rate(ofRequests)
		s.answers, s.seconds = 0, step.Rose(ofResponseTime)
		for class := range weir.ResponseClasses {
			s.answers += step.Rose(ofAnswers + class)
		}
	}
	if b.durations == nil {
		return s
	}
	for step := range b.durations.Steps(now.Add(-staleLoad), now) {
		s.lasted = make([]float64, len(weir.DurationBounds))
		for i := range s.lasted {
			s.lasted[i] = step.Rose(ofAnswered(i))
		}
	}
	return s
}

// shareOf returns which share of a load balancer's load a pool's members bear, and how many requests they
// have at the moment.
func (s *frontSaid) shareOf(members []weir.Machine) (share, sessions float64) {
	up, ours := 0.0, 0.0
	for _, is := range s.up {
		if is {
			up++
		}
	}
	for _, m := range members { // who is worth more is sent more
		sessions += s.sessions[m.ID]
		if s.up[m.ID] {
			ours += m.Capacity()
			up += m.Capacity() - 1
		}
	}
	if up == 0 {
		return 1, sessions
	}
	return ours / up, sessions
}
