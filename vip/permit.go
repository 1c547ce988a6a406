package vip

import (
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Permit is what a node knows that allows it to go on holding an address by itself: what it
// gives to [Holder.Renew]. The zero Permit allows nothing; its methods may be called at the
// same time. What allows it is always that nobody can have given the address to another node
// without our hearing of it:
//
//   - a member of the control plane took in our report, which it can do only with a quorum, and
//     said that there was no newer configuration for us;
//   - each of our peers answered that it does not hold the address, and knows no newer
//     configuration than we do. One of several is not enough: another may have been
//     given the address, and the one that answers not been told of it either;
//   - most members' hosts refused a connection: nothing runs there, so there is no quorum
//     that could give anything away. That says nothing of what was given away before, so it
//     only prolongs what has not ended yet, and not against the word of a peer.
//
// Each is as good as its moment, and the address goes DefaultLife after the last one. A node
// that is cut off from its peers and from the control plane gives up the address, as it must:
// it may have been given to another.
type Permit struct {
	mu       sync.Mutex
	accepted time.Time            // when the last report that was taken in was sent
	refused  map[string]time.Time // when a member's host last refused a connection, by URL
	last     time.Time            // the newest moment that At has returned
}

// Word is what one peer last answered.
type Word struct {
	Heard    time.Time // when the question was put; zero if it never answered
	Holding  bool      // it has the address
	Revision int64     // of the newest configuration that it knows
}

// Reported notes that a report which was sent at that moment was taken in, by a member that
// knew of no newer configuration than ours.
func (p *Permit) Reported(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.After(p.accepted) {
		p.accepted = at
	}
	clear(p.refused)
}

// Failed notes what a failure to reach the member at url says.
func (p *Permit) Failed(url string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused == nil {
		p.refused = map[string]time.Time{}
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		p.refused[url] = time.Now()
	} else {
		delete(p.refused, url)
	}
}

// At returns the last moment at which the node was allowed to hold its address, by a
// configuration of that revision, of the members of the control plane at those URLs and of all
// its peers. A configuration that the node was not told yet is from its disk: since it was
// written, the address may have been given to another node before now.
func (p *Permit) At(urls []string, peers []Word, revision int64, told bool) (at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if told {
		at = p.accepted
	}
	contradicts := func(w Word) bool { return w.Holding || w.Revision > revision }
	if contradicted := slices.ContainsFunc(peers, contradicts); !contradicted {
		if len(peers) > 0 {
			first := slices.MinFunc(peers, func(a, b Word) int { return a.Heard.Compare(b.Heard) }).Heard
			at = later(at, first)
		}
		before := later(at, p.last)
		if moment := p.mostRefused(urls); moment.Sub(before) < DefaultLife {
			at = later(at, moment)
		}
	}
	p.last = later(p.last, at)
	return at
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// mostRefused returns the last moment since which more than half of the members have refused.
func (p *Permit) mostRefused(urls []string) (at time.Time) {
	need := len(urls)/2 + 1
	for _, since := range p.refused {
		n := 0
		for _, url := range urls {
			if t, ok := p.refused[url]; ok && !t.Before(since) {
				n++
			}
		}
		if n >= need && since.After(at) {
			at = since
		}
	}
	return at
}
