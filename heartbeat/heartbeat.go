// Package heartbeat tells within tens of milliseconds whether another instance is alive.
//
// The instances of one load balancer each run a [Monitor]. Each asks the others a
// question, a beat, over every path to them and answers theirs; a path is one address of
// one peer and has a state of its own. The control plane asks an instance with [Ask].
//
// What counts as a sign of life is an answer to a beat of ours, nothing else: a path is
// Up if a beat that we sent less than Late ago was answered. So both directions are
// needed. If one is cut, both ends see Silence, since the questions or the answers of
// each travel that way.
//
// Only holders of the key are heard: each datagram ends with an HMAC, an answer names the
// one beat that it belongs to, and each beat takes one answer. What does not verify, comes
// again or comes too late is dropped and counted (see [Counts]). Neither are the kernel's
// errors believed unless they quote a beat that we have on its way, so that whoever cannot
// read our packets cannot forge a Refused or an Unreachable either.
//
// We are not fooled by our own slowness. Silence is counted in the time that we spent
// waiting for an answer and would have heard it: not while this process was stopped,
// waited for a processor, or could not send; and whatever has arrived is read before
// anything is judged. The price is that a monitor short of CPU detects later. What it
// cannot know is that the other end is short of CPU: that is what Silent must cover.
//
// The package only observes. What to make of a silent peer is for others: a path can be
// silent because of us, and our peer can be alive and cut off from us alone.
package heartbeat

import (
	"cmp"
	"net/netip"
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

// State is what we know of a path. It is itself an error, which [Ask] returns, so that
// errors.Is(err, heartbeat.Refused) asks for it.
type State string

// The states of a path.
const (
	Unknown State = "unknown" // never heard
	Up      State = "up"      // answers
	Late    State = "late"    // has not answered for Options.Late
	Silent  State = "silent"  // has not answered for Options.Silent

	// Refused: the machine is alive, and nothing listens on the port. A firewall that
	// rejects with "port unreachable" looks the same. Kernels send such errors once a
	// second and no more, so a machine that dies while it refuses is Refused for up to 4 s
	// before it is Silent.
	Refused State = "refused"

	// Unreachable: a router or our own kernel said of two beats in a row that they cannot
	// get there. It counts as silence, and also ends after 4 s without such an error.
	Unreachable State = "unreachable"
)

func (s State) Error() string { return string(s) }

// preference orders the states of several paths to one peer: the best one tells most of it.
var preference = [...]State{Up, Late, Refused, Silent, Unreachable, Unknown}

// Group is who shares one key.
type Group struct {
	// Key is the secret of the group, 32 random bytes. Without one, nothing is sent or
	// answered. When it changes, ends that have different keys do not hear each other.
	Key   []byte
	Peers []Peer
}

// Peer is another instance.
type Peer struct {
	ID    weir.ID
	Addrs []netip.Addr // each a path; no link-local ones
}

// PeerStatus is what is known of a peer.
type PeerStatus struct {
	ID     weir.ID
	Paths  []PathStatus
	Answer Answer // the last, over whichever path; the zero Answer if there was none
}

// State returns the best state of p's paths: Up if one is up; Refused rather than Silent,
// since it says that the machine lives.
func (p *PeerStatus) State() State {
	states := make([]State, len(p.Paths))
	for i := range p.Paths {
		states[i] = p.Paths[i].State
	}
	for _, s := range preference {
		if slices.Contains(states, s) {
			return s
		}
	}
	return Unknown
}

// PathStatus is what is known of one path.
type PathStatus struct {
	Addr  netip.Addr
	State State
	Since time.Time     // when it got into State
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

func sortedPeers(peers []PeerStatus) []PeerStatus {
	slices.SortFunc(peers, func(a, b PeerStatus) int { return cmp.Compare(a.ID, b.ID) })
	for _, p := range peers {
		slices.SortFunc(p.Paths, func(a, b PathStatus) int { return a.Addr.Compare(b.Addr) })
	}
	return peers
}
