package control

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"weir/weir"
)

// How long something must be so before it counts.
const (
	deafLong    = time.Second            // nobody but the control plane asks an instance, and it does not answer
	muteLong    = 400 * time.Millisecond // its HAProxy does not answer, while its agent does
	frozenLong  = time.Second            // neither does its agent, and only its kernel lives
	starvedLong = 5 * time.Second        // likewise where its machine is too busy
	agentGrace  = 3 * time.Second        // an agent is away while its HAProxy serves: it may be on its way back
	reportsLate = 8 * time.Second        // a node reports each 5 s at the least
	fenceSilent = time.Second            // a silent instance that is not active is replaced
	fenceUnwell = 10 * time.Second       // likewise one that is not well
	fenceBoots  = 10 * time.Minute       // likewise one that has not come up
	surgeAfter  = 30 * time.Second       // all instances are silent: another one is made
	wantedLasts = time.Minute            // a user's wish to hand over
)

// evidence is what a leader knows of the instances of one load balancer beside what is
// stored: their last reports to it, and what came of asking them.
type evidence struct {
	now     time.Time
	heard   map[weir.ID]weir.NodeStatus
	asked   map[weir.ID]asked
	service asked // of the load balancer's address
	asks    bool  // instances can be asked at all

	cut map[weir.ID]time.Time // since when an instance reaches none of its servers, while another does
}

// asked is what came of asking the same instance, or address, again and again.
type asked struct {
	Finding
	deaf time.Time // since when it has shown no sign of life; zero if the last time it did
	mute time.Time // since when it has not served; zero if the last time it did
	away time.Time // since when its agent has not answered; zero if the last time it did
}

// after returns what is known after another answer, to a question put at that time.
func (a asked) after(f Finding, put time.Time) asked {
	since := func(ok bool, was time.Time) time.Time {
		switch {
		case ok:
			return time.Time{}
		case was.IsZero():
			return put
		}
		return was
	}
	return asked{f, since(f.Alive, a.deaf), since(f.Serves, a.mute), since(f.Agent, a.away)}
}

// pending returns how soon to look again: what was seen counts only once it has lasted. It is 0 if
// there is nothing of that kind.
func (e *evidence) pending() (again time.Duration) {
	for _, s := range e.heard {
		if worries(s) {
			again = lookAgain
		}
	}
	for _, a := range e.asked {
		for began, long := range map[time.Time]time.Duration{a.deaf: deafLong, a.mute: muteLong, a.away: agentGrace} {
			if began.IsZero() {
				continue
			}
			again = lookAgain
			if left := long - e.now.Sub(began); left > 0 {
				again = min(again, left)
			}
		}
	}
	if len(e.cut) > 0 {
		again = min(cmp.Or(again, lookAgain), lookAgain)
	}
	return again
}

// since reports whether something has been so for at least d.
func (e *evidence) since(began time.Time, d time.Duration) bool {
	return !began.IsZero() && e.now.Sub(began) >= d
}

// judge returns what is to be thought of each instance, in the order of their IDs.
func (v *balancerView) judge() (all []weir.Health) {
	for _, m := range v.instances() {
		h := weir.Health{Machine: m.ID, Since: v.seen.now.UTC()}
		h.State, h.Why = v.state(m)
		// A clock that was set back must not make an instance wait for its own past.
		if was := v.health(m.ID); was.State == h.State && !was.Since.IsZero() && !was.Since.After(v.seen.now) {
			h.Since = was.Since
		}
		switch was := v.health(m.ID); {
		case v.address != nil && v.address.Has(m.ID):
			h.Has = true
		case was.Has:
			h.Left = v.seen.now.UTC()
		default:
			h.Left = was.Left
		}
		all = append(all, h)
	}
	return all
}

// state judges one instance. What the cloud says comes first, then whether anybody
// hears of it, then what it says of itself.
func (v *balancerView) state(m weir.Machine) (weir.HealthState, string) {
	e := v.seen
	said := v.told(m.ID)
	asked := e.asked[m.ID]
	lost := v.lost(m.ID)
	switch {
	case m.Status.HostDown:
		return weir.InstanceGone, m.HostTrouble()
	case m.Status.Phase == weir.MachineOff:
		return weir.InstanceGone, "its cloud says that it is off"
	case v.statuses[m.ID].Revision == 0 || said.Revision == 0:
		return weir.InstanceBoots, ""
	case lost != "" && !asked.deaf.IsZero():
		return weir.InstanceSilent, lost + ", and does not answer the control plane"
	case e.since(asked.deaf, deafLong) && !v.heard(m.ID):
		return weir.InstanceSilent, "it does not answer the control plane"
	case lost != "" && !asked.mute.IsZero() && asked.away.IsZero() && !said.HAProxy.Starved:
		return weir.InstanceUnwell, lost + ", and its HAProxy does not answer there"
	case lost != "" && e.since(asked.mute, frozenLong):
		return weir.InstanceUnwell, "neither its agent nor its HAProxy answers"
	case e.since(asked.mute, v.muteLong(m.ID)) && asked.deaf.IsZero():
		return weir.InstanceUnwell, "its HAProxy does not answer"
	case said.HAProxy.Err != "":
		return weir.InstanceUnwell, said.HAProxy.Err
	case len(said.Down) > 0:
		return weir.InstanceUnwell, fmt.Sprintf("its link %s is down", said.Down[0])
	case v.severed(m.ID):
		return weir.InstanceUnwell, "it is cut off from the private network, where its servers are"
	case e.since(asked.away, agentGrace) && !v.heard(m.ID):
		return weir.InstanceUnwell, "its agent does not answer"
	case said.Err != "" && v.lags(m.ID):
		return weir.InstanceUnwell, said.Err
	}
	if why := v.cutOff(m.ID); why != "" && e.since(e.cut[m.ID], v.cutLong()) {
		return weir.InstanceUnwell, why
	}
	if m.Drained {
		return weir.InstanceDrained, "an operator keeps it from serving"
	}
	return weir.InstanceWell, ""
}

// muteLong is how long the HAProxy of an instance does not answer before that counts. One whose agent this leader
// has not heard may have been started a moment ago: after a power cut that is all of them. One that waits
// for a CPU is slow, and not dead.
func (v *balancerView) muteLong(id weir.ID) time.Duration {
	said, ok := v.seen.heard[id]
	switch {
	case !ok:
		return agentGrace
	case said.HAProxy.Starved:
		return starvedLong
	}
	return muteLong
}

// told returns the last report of a node: to this member, or else what is stored.
func (v *balancerView) told(id weir.ID) weir.NodeStatus {
	if s, ok := v.seen.heard[id]; ok {
		return s
	}
	return v.statuses[id]
}

// lost returns how the other instances have stopped hearing one: on every path to it, or at the
// last one, where clients reach it. It is empty if one of them hears it, or none has reported
// lately.
func (v *balancerView) lost(id weir.ID) (how string) {
	for _, m := range v.instances() {
		said, ok := v.seen.heard[m.ID]
		i := slices.IndexFunc(said.Peers, func(p weir.PeerStatus) bool { return p.Node == id })
		if !ok || m.ID == id || i < 0 || m.Status.Phase == weir.MachineOff || v.seen.now.Sub(said.Seen) > weir.NodeLate {
			continue
		}
		all := said.Peers[i].Paths
		switch {
		case len(all) == 0:
		case !slices.ContainsFunc(all, func(p weir.PathStatus) bool { return !p.State.Lost() }):
			how = "it is silent to " + m.Name
		case all[len(all)-1].State.Lost():
			how = fmt.Sprintf("it is silent to %s at %s, where clients reach it", m.Name, all[len(all)-1].Addr)
		default:
			return ""
		}
	}
	return how
}

// heard reports whether another instance, which itself answers when it is asked, has said lately that it hears
// one: then what the control plane misses is lost on its own way there.
func (v *balancerView) heard(id weir.ID) bool {
	for _, m := range v.instances() {
		said, ok := v.seen.heard[m.ID]
		i := slices.IndexFunc(said.Peers, func(p weir.PeerStatus) bool { return p.Node == id })
		if !ok || m.ID == id || i < 0 || v.seen.now.Sub(said.Seen) > reportsLate || !v.seen.asked[m.ID].Agent {
			continue
		}
		if slices.ContainsFunc(said.Peers[i].Paths, func(p weir.PathStatus) bool { return p.State == weir.PathUp }) {
			return true
		}
	}
	return false
}

// severed reports whether an instance is heard on its clients' link alone, by another one and by
// the control plane: nobody hears it on the private network, where its servers are.
func (v *balancerView) severed(id weir.ID) bool {
	if !v.seen.asked[id].Outside {
		return false
	}
	for _, m := range v.instances() {
		said, ok := v.seen.heard[m.ID]
		i := slices.IndexFunc(said.Peers, func(p weir.PeerStatus) bool { return p.Node == id })
		if !ok || m.ID == id || i < 0 || v.seen.now.Sub(said.Seen) > weir.NodeLate {
			continue
		}
		if paths := said.Peers[i].Paths; len(paths) > 1 && paths[0].State.Lost() && !paths[len(paths)-1].State.Lost() {
			return true
		}
	}
	return false
}

// lags reports whether an instance runs an older configuration than another.
func (v *balancerView) lags(id weir.ID) bool { return v.statuses[id].Revision < v.newest() }

// newest returns the newest revision that an instance is known to run.
func (v *balancerView) newest() (revision int64) {
	for _, m := range v.instances() {
		revision = max(revision, v.statuses[m.ID].Revision)
	}
	return revision
}

// cutOff returns why an instance reaches none of its servers, if another of the same
// revision reaches some.
func (v *balancerView) cutOff(id weir.ID) string {
	up, all := reached(v.told(id))
	if up > 0 || all == 0 {
		return ""
	}
	for _, m := range v.instances() {
		said := v.told(m.ID)
		if m.ID == id || said.Revision != v.told(id).Revision {
			continue
		}
		if n, _ := reached(said); n > 0 {
			return fmt.Sprintf("it reaches none of its servers, and %s reaches %d", m.Name, n)
		}
	}
	return ""
}

// cutLong is how long an instance reaches none of its servers, while another one does, before that
// counts: their health checks take turns, so that of servers that fail one always notices first.
func (v *balancerView) cutLong() time.Duration { return v.lb.Health.Interval + v.lb.Health.Timeout }

// reached counts the servers of a node that are up, and all whose checks have come to a result.
func reached(s weir.NodeStatus) (up, judged int) {
	ups, downs := map[weir.ID]bool{}, map[weir.ID]bool{}
	for _, server := range s.Servers {
		switch server.State {
		case weir.ServerUp:
			ups[server.ID] = true
		case weir.ServerDown:
			downs[server.ID] = true
		case weir.ServerChecking, weir.ServerDraining:
			return 1, 1 // not the time to compare
		}
	}
	return len(ups), len(ups) + len(downs)
}

// holdDown returns how long an instance has to be well before the address moves to it, given how often
// the address moved, unasked, from instances that were well again afterwards. It grows with each such
// move, so that a signal that flaps does not have the address flap.
func holdDown(moves int) time.Duration {
	if moves == 0 {
		return 0
	}
	return min(time.Second<<min(moves, 10), 5*time.Minute)
}

const (
	movesCount = 10 * time.Minute // for which a move counts in holdDown
	holdAtMost = 15 * time.Second // that clients are left without service by it
)

// move is the address going to another instance.
type move struct {
	to      weir.Machine
	planned bool // the one that has it still serves
	why     string
}

// planMove returns where the address is to go, or nil if it is to stay where it is, and what a
// user asked for that cannot be: then Wanted is forgotten.
//
// It goes to an instance that is well, and that runs no older configuration than any other:
// the one that has been well for longest. A user's wish counts first; otherwise
// it stays with an instance that is well, or if no other is.
func (v *balancerView) planMove(health []weir.Health) (m *move, givenUp string) {
	if v.address == nil || !v.address.Addr.IsValid() {
		return nil, ""
	}
	active := v.address.Machine
	i := slices.IndexFunc(health, func(h weir.Health) bool { return h.Machine == active })
	if i < 0 {
		to := v.best(health, active, 0)
		if to == nil {
			return nil, ""
		}
		return &move{to: *to, why: "no other instance has it"}, ""
	}
	is := health[i]
	if v.lb.Wanted != "" && v.lb.Wanted != active {
		j := slices.IndexFunc(health, func(h weir.Health) bool { return h.Machine == v.lb.Wanted })
		switch {
		case j < 0:
			givenUp = "it is gone"
		case health[j].State != weir.InstanceWell:
			givenUp = fmt.Sprintf("it %s%s", health[j].State.Phrase(), because(health[j].Why))
		case v.seen.since(v.lb.WantedAt, wantedLasts):
			givenUp = "it was not ready for that within a minute"
		case v.statuses[v.lb.Wanted].Revision >= v.newest() && v.ready(v.lb.Wanted) && v.knows(active, v.lb.Wanted) && v.proven(health[j]):
			to := v.machine(v.lb.Wanted)
			return &move{to: to, planned: true, why: "a user asked for it"}, ""
		}
	}
	if v.stays(is) {
		return nil, givenUp
	}
	hold := holdDown(v.flaps())
	if down := v.seen.now.Sub(is.Since); !v.serves(is) {
		// Nobody is served: after some time, a flapping address is the lesser evil.
		if down >= holdAtMost {
			hold = 0
		}
	}
	to := v.best(health, active, hold)
	if to == nil {
		return nil, givenUp
	}
	return &move{to: *to, planned: v.serves(is), why: fmt.Sprintf("%s %s%s", v.machine(active).Name, is.State.Phrase(), because(is.Why))}, givenUp
}

// ready reports whether an instance has found out which of its servers are up: before, it would
// refuse clients.
func (v *balancerView) ready(id weir.ID) bool {
	return !slices.ContainsFunc(v.told(id).Servers, func(s weir.ServerStatus) bool { return s.State == weir.ServerChecking })
}

// serves reports whether clients of an instance in that state are served nevertheless.
func (v *balancerView) serves(h weir.Health) bool {
	return h.State == weir.InstanceWell || h.State == weir.InstanceDrained ||
		h.State == weir.InstanceUnwell && v.seen.asked[h.Machine].Serves && len(v.told(h.Machine).Down) == 0 && !v.severed(h.Machine) && v.cutOff(h.Machine) == ""
}

// flaps counts the moves that holdDown counts.
func (v *balancerView) flaps() (n int) {
	for _, at := range v.lb.Status.Moves {
		if v.seen.now.Sub(at) < movesCount {
			n++
		}
	}
	return n
}

// best returns the instance that may take over from active, the first of those that are fit, or nil. Before the first
// one ever is active, one that is live will do.
func (v *balancerView) best(health []weir.Health, active weir.ID, hold time.Duration) *weir.Machine {
	fit := v.fit(health, active, hold)
	if len(fit) == 0 {
		return nil
	}
	m := v.machine(fit[0].Machine)
	return &m
}

// fit returns the instances that may take over from active, or serve beside it: the one that has been well for longest
// first.
func (v *balancerView) fit(health []weir.Health, active weir.ID, hold time.Duration) (fit []weir.Health) {
	for _, h := range health {
		if h.Machine == active || h.State != weir.InstanceWell || v.statuses[h.Machine].Revision < v.newest() {
			continue
		}
		has := v.address != nil && slices.Contains(v.address.Sharing, h.Machine) // it serves clients as it is
		if v.seen.now.Sub(h.Since) < hold && !has || !v.proven(h) || !v.knows(active, h.Machine) {
			continue
		}
		fit = append(fit, h)
	}
	slices.SortStableFunc(fit, func(a, b weir.Health) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(number(a.Machine), number(b.Machine)))
	})
	return fit
}

// planSharing returns among which instances the address is to be spread beside the one that is to be active, or nil if
// that is as it is. One that has a share keeps it for as long as it is well; others get one as they would get the address,
// and last of all left, from which that has just moved. Where those are too few, one that still serves keeps its share.
func (v *balancerView) planSharing(health []weir.Health, left weir.ID) *spreadAddress {
	if v.address == nil || !v.address.Addr.IsValid() || v.address.Machine == "" {
		return nil
	}
	had, want := v.address.Sharing, v.lb.WantActive()-1
	var to []weir.ID
	share := func(id weir.ID) {
		if len(to) < want && id != v.address.Machine && !slices.Contains(to, id) {
			to = append(to, id)
		}
	}
	for _, h := range health {
		if slices.Contains(had, h.Machine) && v.stays(h) {
			share(h.Machine)
		}
	}
	fit := slices.DeleteFunc(v.fit(health, v.address.Machine, holdDown(v.flaps())), func(h weir.Health) bool { return !v.ready(h.Machine) })
	for _, last := range []bool{false, true} {
		for _, h := range fit {
			if (h.Machine == left) == last {
				share(h.Machine)
			}
		}
	}
	for _, h := range health {
		if slices.Contains(had, h.Machine) && v.serves(h) {
			share(h.Machine)
		}
	}
	slices.SortFunc(to, func(a, b weir.ID) int { return cmp.Compare(number(a), number(b)) })
	if slices.Equal(to, had) {
		return nil
	}
	s := &spreadAddress{to: to}
	for _, id := range had {
		i := slices.IndexFunc(health, func(h weir.Health) bool { return h.Machine == id })
		if i >= 0 && !slices.Contains(to, id) && id != v.address.Machine {
			s.lost = append(s.lost, health[i])
		}
	}
	for _, id := range to {
		if !slices.Contains(had, id) {
			s.got = append(s.got, v.machine(id))
		}
	}
	return s
}

// stays reports whether an instance keeps the address: it is well, or was well once and boots.
func (v *balancerView) stays(h weir.Health) bool {
	return h.State == weir.InstanceWell || h.State == weir.InstanceBoots && !v.seen.since(h.Since, agentGrace)
}

// knows reports whether the instance that holds an address by itself has the other among its peers:
// it may go on holding while it hears that none of those has the address. One that joined while
// it could not be told of has to wait until it is removed, or back.
func (v *balancerView) knows(active, other weir.ID) bool {
	return v.lb.Mode != weir.OnSegment || !slices.ContainsFunc(v.instances(), func(m weir.Machine) bool { return m.ID == active }) ||
		max(v.statuses[active].Revision, v.statuses[active].Tried) >= v.machine(other).Joined
}

// proven reports whether an instance that seems well would serve, as far as this leader knows by
// itself, and not from what was once stored: it did when it was last asked; or it reported
// lately, and nobody had reason to ask.
func (v *balancerView) proven(h weir.Health) bool {
	if a, ok := v.seen.asked[h.Machine]; ok {
		return a.Serves
	}
	said, ok := v.seen.heard[h.Machine]
	return ok && v.seen.now.Sub(said.Seen) <= weir.NodeLate
}

// served reports whether clients are served by the instance that has the address, as this
// leader has seen by itself: it, or whoever has the address, answered when last asked. Where
// nobody can be asked, its report has to do.
func (v *balancerView) served(health []weir.Health) bool {
	if v.address == nil || v.address.Machine == "" || v.address.Assigned != v.address.Machine {
		return false
	}
	i := slices.IndexFunc(health, func(h weir.Health) bool { return h.Machine == v.address.Machine })
	if i < 0 || health[i].State != weir.InstanceWell {
		return false
	}
	a, wasAsked := v.seen.asked[v.address.Machine]
	switch {
	case wasAsked:
		return a.Serves
	case v.seen.asks:
		return v.seen.service.Serves
	}
	return v.proven(health[i])
}

func (v *balancerView) machine(id weir.ID) weir.Machine {
	i := slices.IndexFunc(v.machines, func(m weir.Machine) bool { return m.ID == id })
	if i < 0 {
		return weir.Machine{ID: id, Name: string(id)}
	}
	return v.machines[i]
}

// planFences returns the instances that are to be destroyed, so that others are made in
// their place, each with why. What is gone is no loss. What might yet serve is replaced
// only while another instance has the address and was just seen to serve: never is the last one
// ended, nor any by a leader that knows no more yet than what another left behind.
func (v *balancerView) planFences(health []weir.Health) (fences []weir.Health) {
	if v.address == nil {
		return nil
	}
	served := v.served(health)
	for _, h := range health {
		long := v.seen.now.Sub(h.Since)
		switch {
		case v.machine(h.Machine).Own: // there is no other in its place, and it may come back
		case h.State == weir.InstanceGone:
			fences = append(fences, h)
		case !served || v.address.Has(h.Machine):
		case h.State == weir.InstanceBoots && long >= fenceBoots:
			fences = append(fences, h)
		case !v.known(h.Machine):
		case h.State == weir.InstanceSilent && long >= fenceSilent, h.State == weir.InstanceUnwell && long >= fenceUnwell:
			fences = append(fences, h)
		}
	}
	return fences
}

// known reports whether this leader has itself heard or asked an instance.
func (v *balancerView) known(id weir.ID) bool {
	_, heard := v.seen.heard[id]
	_, asked := v.seen.asked[id]
	return heard || asked
}

// surges reports whether another instance is made beside those that are there, of which nobody
// hears anything: they may serve or not, so none of them is ended.
func (v *balancerView) surges(health []weir.Health) bool {
	return len(health) > 0 && !slices.ContainsFunc(health, func(h weir.Health) bool {
		return h.State != weir.InstanceSilent || v.seen.now.Sub(h.Since) < surgeAfter
	})
}
