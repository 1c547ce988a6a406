package agent

import (
	"context"
	"slices"
	"time"

	"weir/heartbeat"
	"weir/weir"
)

// observe sends what the node does to statuses, at once when that changes and at each
// heartbeat, until ctx ends. What it sees of its peers is more urgent than all else, and
// waits for nothing: not for a HAProxy that is busy, nor for the last report.
func (a *agent) observe(ctx context.Context, statuses chan<- weir.NodeStatus) {
	last := a.status(ctx)
	beat := time.NewTimer(0)
	defer beat.Stop()
	for {
		if !send(ctx, statuses, last) {
			return
		}
		every := statusBeat
		if a.holding() {
			every = holderBeat
		}
		beat.Reset(every)
		gap := time.After(reportGap)
		var changed <-chan struct{} // not before the gap is over
		var news <-chan struct{}
		var due <-chan time.Time
	wait:
		for {
			select {
			case <-ctx.Done():
				return
			case <-a.beats.Changed():
				a.urgent(&last)
				break wait
			case <-a.urgently:
				a.urgent(&last)
				break wait
			case <-gap:
				changed, news, due = a.proxy.Changed(), a.news, beat.C
			case <-changed:
				last = a.status(ctx)
				break wait
			case <-news:
				last = a.status(ctx)
				break wait
			case <-due:
				last = a.status(ctx)
				break wait
			}
		}
	}
}

func send(ctx context.Context, statuses chan<- weir.NodeStatus, s weir.NodeStatus) bool {
	select {
	case statuses <- s:
		return true
	case <-ctx.Done():
		return false
	}
}

// status returns what the node does.
func (a *agent) status(ctx context.Context) weir.NodeStatus {
	haproxy, servers, err := a.proxy.Status(ctx)
	if haproxy.Counts != nil {
		haproxy.Counts.Access = a.access.Counts()
	}
	a.mu.Lock()
	s := weir.NodeStatus{Node: a.identity.Load().node, Revision: a.live, Tried: a.tried, Agent: weir.Version,
		HAProxy: haproxy, Servers: servers, Host: a.host()}
	switch {
	case a.err != nil:
		s.Err = a.err.Error()
	case err != nil && a.live != 0: // without a NodeConfig there is no HAProxy yet
		s.Err = err.Error()
	}
	a.mu.Unlock()
	a.urgent(&s)
	a.answer(s)
	return s
}

// urgent brings what is known of peers, links and the held address into s.
func (a *agent) urgent(s *weir.NodeStatus) {
	s.Peers = peerStatuses(a.beats.Peers())
	s.Held = a.held()
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Down = slices.Clone(a.down)
	a.answerHolder(s.Held)
}

// answer has heartbeats be answered with what s says.
func (a *agent) answer(s weir.NodeStatus) {
	up := 0
	for _, server := range s.Servers {
		if server.State == weir.ServerUp {
			up++
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said.Serving, a.said.Up = s.Revision != 0 && s.HAProxy.Err == "", up
	a.answerHolder(s.Held)
}

// answerHolder has heartbeats be answered with what a peer needs to know that holds the address by
// itself, or is about to: which NodeConfig we know, and what we hold. The caller holds a.mu.
func (a *agent) answerHolder(held *weir.HeldStatus) {
	a.said.Holding, a.said.Revision = held != nil, a.newest.Revision
	a.beats.Answer(a.said)
}

func peerStatuses(peers []heartbeat.PeerStatus) (all []weir.PeerStatus) {
	for _, p := range peers {
		s := weir.PeerStatus{Node: p.Node}
		for _, path := range p.Paths {
			path.Since = path.Since.UTC()
			s.Paths = append(s.Paths, path.PathStatus)
		}
		all = append(all, s)
	}
	return all
}
