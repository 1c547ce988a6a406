package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weir/heartbeat"
	"weir/vip"
	"weir/weir"
)

// reported notes that a report, which was sent at that moment, was taken in, when revision was that of
// the node's newest NodeConfig.
func (a *agent) reported(at time.Time, revision int64) {
	a.mu.Lock()
	newest := a.newest.Revision
	a.mu.Unlock()
	if revision == newest {
		a.permit.Reported(at)
	}
}

// keepAddress has the node hold the address that it should hold, for as long as it may,
// until ctx ends.
func (a *agent) keepAddress(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	relief := time.NewTimer(0)
	defer relief.Stop()
	var set []netip.Prefix
	var failed string     // why it could not be held, when that was last tried
	var leaving time.Time // since when another node is to have what this one holds
	for {
		a.mu.Lock()
		newest, toldAt := a.newest, a.toldAt
		a.mu.Unlock()
		var want []netip.Prefix
		if newest.Hold != nil && newest.Hold.Active {
			want = []netip.Prefix{newest.Hold.Addr}
		}
		at := a.permit.At(a.memberURLs(), words(a.beats.Peers()), newest.Revision, !toldAt.IsZero())
		if len(want) > 0 || len(set) == 0 || newest.Hold == nil {
			leaving = time.Time{}
		} else if leaving.IsZero() {
			leaving = time.Now()
			relief.Reset(relieved)
		}
		lost := len(want) > 0 && slices.Equal(set, want) && a.held() == nil // for want of permission, or somebody took it
		switch {
		case slices.Equal(set, want) && !lost:
			a.holder.Renew(at)
		case len(want) > 0 && time.Since(later(at, toldAt)) > permitLasts:
			// It may not be ours to take.
		case !leaving.IsZero() && time.Since(leaving) < relieved && !a.taken():
			// Whoever comes is served here until the other one has it.
		default:
			err := a.holder.Set(ctx, want, later(at, toldAt))
			if why := fmt.Sprint(err); why != failed && ctx.Err() == nil {
				if failed = why; err != nil {
					a.Log.Warn("address not held", "want", want, "err", err)
				}
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
		case <-relief.C:
		case <-tick.C:
		}
	}
}

// relieved is how long a node holds an address that another one is about to take, if it does
// not see it taken before.
const relieved = 300 * time.Millisecond

// taken reports whether another node says that it has the address that we hold too.
func (a *agent) taken() bool {
	return slices.ContainsFunc(a.holder.Status(), func(h vip.Held) bool { return h.Duplicate != nil })
}

// words returns what each peer last said of the address.
func words(peers []heartbeat.PeerStatus) (all []vip.Word) {
	for _, p := range peers {
		w := vip.Word{Holding: p.Answer.Holding, Revision: p.Answer.Revision}
		for _, path := range p.Paths {
			w.Heard = later(w.Heard, path.Heard)
		}
		all = append(all, w)
	}
	return all
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
