// Package heartbeat tells within tens of milliseconds whether another instance is alive.
//
// The instances of one load balancer each run a [Monitor]. Each asks the others a
// question, a beat, over every path to them and answers theirs; a path is one address of
// one peer and has a state of its own. The control plane asks an instance with [Ask].
//
// What counts as a sign of life is an answer to a beat of ours, nothing else: a path is
// up if a beat that we sent less than Late ago was answered. So both directions are
// needed. If one is cut, both ends see silence, since the questions or the answers of
// each travel that way.
//
// Only holders of the key are heard: each datagram ends with an HMAC, an answer names the
// one beat that it belongs to, and each beat takes one answer. What does not verify, comes
// again or comes too late is dropped and counted (see [Counts]). Neither are the kernel's
// errors believed unless they quote a beat that we have on its way, so that whoever cannot
// read our packets cannot forge a refused or an unreachable path either.
//
// We are not fooled by our own slowness. Silence is counted in the time that we spent
// waiting for an answer and would have heard it: not while this process was stopped,
// waited for a processor, or could not send; and whatever has arrived is read before
// anything is judged. The price is that a monitor short of CPU detects later. What it
// cannot know is that the other end is short of CPU: that is what Silent must cover, and
// [Prioritize] is for.
//
// The package only observes. What to make of a silent peer is for others: a path can be
// silent because of us, and our peer can be alive and cut off from us alone.
package heartbeat

import (
	"slices"
	"time"

	"weir/weir"
)

// Answer is what an instance says of itself in each answer.
type Answer struct {
	Serving  bool  // its HAProxy takes connections
	Holding  bool  // it has the address of the load balancer
	Revision int64 // of the NodeConfig that is live
	Up       int   // servers whose health check passes
}

// Lost is why [Ask] got no answer, as an error: errors.Is(err, heartbeat.Refused).
//
// As states of a path they mean the same, and two of them want care. Refused: the machine
// is alive, and nothing listens on the port; a firewall that rejects with "port
// unreachable" looks the same. Unreachable: a router or our own kernel said of two beats
// in a row that they cannot get there; it counts as silence. Kernels send such errors once
// a second and no more, so each is believed for 4 s: a machine that dies while it refuses
// is silent only then.
type Lost weir.PathState

// Why there was no answer.
const (
	Silent      = Lost(weir.PathSilent)
	Refused     = Lost(weir.PathRefused)
	Unreachable = Lost(weir.PathUnreachable)
)

func (l Lost) Error() string { return string(l) }

// preference orders the states of several paths to one peer: the best one tells most of it.
var preference = [...]weir.PathState{
	weir.PathUp, weir.PathLate, weir.PathRefused, weir.PathSilent, weir.PathUnreachable, weir.PathUnknown,
}

// PeerStatus is what is known of a peer.
type PeerStatus struct {
	Node   weir.ID
	Paths  []PathStatus // in the order of weir.Peer.Addrs
	Answer Answer       // the last, over whichever path; the zero Answer if there was none
}

// State returns the best state of p's paths: up if one is up; refused rather than silent,
// since it says that the machine lives.
func (p *PeerStatus) State() weir.PathState {
	for _, s := range preference {
		if slices.ContainsFunc(p.Paths, func(w PathStatus) bool { return w.State == s }) {
			return s
		}
	}
	return weir.PathUnknown
}

// PathStatus is what is known of one path.
type PathStatus struct {
	weir.PathStatus
	Heard time.Time     // when the newest beat that was answered had been sent; zero if never
	RTT   time.Duration // of that beat
}

// Counts is what a Monitor did since it was made.
type Counts struct {
	Sent     uint64 // beats
	Unsent   uint64 // beats that the kernel did not take, for want of memory or of a route
	Heard    uint64 // answers to them, each the first to its beat and in time
	Answered uint64 // beats of others

	// Dropped:
	Forged   uint64 // no datagram of ours, or made with another key
	Repeated uint64 // seen before
	Stale    uint64 // answers too late, or to no beat that we remember
	Foreign  uint64 // with the right key, but from our own ID, or answers by another than whom we asked

	Disbelieved uint64 // errors of the kernel that quote no beat that we have on its way
	Pauses      uint64 // times that we were held up for longer than Options.Late
}
