package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"weir/heartbeat"
	"weir/weir"
)

// permit is what the agent knows that allows its node to go on holding an address by itself.
// What allows it is always that nobody can have given the address to another node
// without our hearing of it:
//
//   - a member of the control plane took in our report, which it can do only with a quorum, and
//     said that there was no newer NodeConfig for us;
//   - every peer that our newest NodeConfig names answered that it does not hold the address, and
//     knows no newer NodeConfig than we do. Whoever can be given the address is among
//     them: the control plane gives it to nobody of whom the holder has not been told;
//   - most members' hosts refused a connection: nothing runs there, so there is no quorum
//     that could give anything away.
//
// Each is as good as its moment, and the address goes vip.DefaultLife after the last one. A node
// that is cut off from its peers and from the control plane gives up the address, as it must:
// it may have been given to another.
type permit struct {
	mu       sync.Mutex
	accepted time.Time            // when the last report that was taken in was sent
	refused  map[string]time.Time // when a member's host last refused a connection, by URL
}

// reported notes that a report that was sent at that moment was taken in.
func (p *permit) reported(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.After(p.accepted) {
		p.accepted = at
	}
	clear(p.refused)
}

// reported notes that a report, which was sent at that moment, was taken in, when revision was that of
// the node's newest NodeConfig.
func (a *agent) reported(at time.Time, revision int64) {
	a.mu.Lock()
	newest := a.newest.Revision
	a.mu.Unlock()
	if revision == newest {
		a.permit.reported(at)
	}
}

// refuses notes what a failure to reach a member says.
func (p *permit) refuses(url string, err error) {
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

// at returns the last moment at which the node was allowed to hold its address, by a NodeConfig of
// that revision. One that is not told yet is from the node's disk: since it was written, the
// address may have been given to another node before now.
func (p *permit) at(urls []string, peers []heartbeat.PeerStatus, revision int64, told bool) (at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if told {
		at = p.accepted
	}
	if moment := nobodyElse(peers, revision); moment.After(at) {
		at = moment
	}
	if moment := p.mostRefused(urls); moment.After(at) {
		at = moment
	}
	return at
}

// nobodyElse returns the last moment at which all peers together are known to have let
// us hold the address: the oldest of the moments at which each was last heard, since one of
// them may have been given it at any time after that. It is zero if one has not been heard, holds
// it, or knows a newer revision; and without any peer, where there is nobody to say anything.
func nobodyElse(peers []heartbeat.PeerStatus, revision int64) (at time.Time) {
	for _, peer := range peers {
		var heard time.Time
		for _, path := range peer.Paths {
			heard = later(heard, path.Heard)
		}
		if heard.IsZero() || peer.Answer.Holding || peer.Answer.Revision > revision {
			return time.Time{}
		}
		if at.IsZero() || heard.Before(at) {
			at = heard
		}
	}
	return at
}

// mostRefused returns the last moment at which more than half of the members had refused, each
// lately.
func (p *permit) mostRefused(urls []string) (at time.Time) {
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

// keepAddress has the node hold the address that it should hold, for as long as it may,
// until ctx ends.
func (a *agent) keepAddress(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var set []netip.Prefix
	for {
		a.mu.Lock()
		newest, toldAt := a.newest, a.toldAt
		a.mu.Unlock()
		var want []netip.Prefix
		if newest.Hold != nil && newest.Hold.Active {
			want = []netip.Prefix{newest.Hold.Addr}
		}
		at := a.permit.at(a.memberURLs(), a.beats.Peers(), newest.Revision, !toldAt.IsZero())
		lost := len(want) > 0 && slices.Equal(set, want) && a.held() == nil // for want of permission, or somebody took it
		switch {
		case slices.Equal(set, want) && !lost:
			a.holder.Renew(at)
		case len(want) > 0 && time.Since(later(at, toldAt)) > permitLasts:
			// It may not be ours to take.
		default:
			err := a.holder.Set(ctx, want, later(at, toldAt))
			if err != nil && ctx.Err() == nil {
				a.Log.Warn("address not held", "want", want, "err", err)
			}
			set = want
			wake(a.urgently)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.holds:
		case <-a.holder.Changed():
			wake(a.urgently)
		case <-tick.C:
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// permitLasts is how old a permission may be for an address that is not held yet.
const permitLasts = time.Second

// held returns the address that the node holds by itself, or nil.
func (a *agent) held() *weir.HeldStatus {
	for _, h := range a.holder.Status() {
		s := &weir.HeldStatus{Addr: h.Prefix, Since: h.Since.UTC()}
		if h.Duplicate != nil {
			s.Duplicate = h.Duplicate.MAC.String()
		}
		return s
	}
	return nil
}

func (a *agent) holding() bool { return a.held() != nil }
