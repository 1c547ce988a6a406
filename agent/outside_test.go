package agent

import (
	"context"
	"iter"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"weir/accesslog"
	"weir/heartbeat"
	"weir/vip"
	"weir/weir"
)

// around returns a world around HAProxy in which nothing happens by itself.
func around(p Proxy) outside {
	return surroundings(p, newFakeBeats(), &fakeHolder{}, make(chan map[string]bool))
}

func surroundings(p Proxy, beats *fakeBeats, holder *fakeHolder, links chan map[string]bool) outside {
	return outside{proxy: p, access: accesslog.New(accesslog.Options{Log: slog.New(slog.DiscardHandler)}), holder: holder,
		beats: func(weir.ID) Heartbeats { return beats },
		links: func(ctx context.Context) iter.Seq2[map[string]bool, error] {
			return func(yield func(map[string]bool, error) bool) {
				for {
					select {
					case <-ctx.Done():
						return
					case up := <-links:
						if !yield(up, nil) {
							return
						}
					}
				}
			}
		}}
}

// fakeBeats are heartbeats whose peers do what a test says.
type fakeBeats struct {
	changed chan struct{}

	mu     sync.Mutex
	group  weir.Group
	answer heartbeat.Answer
	peers  []heartbeat.PeerStatus
}

func newFakeBeats() *fakeBeats { return &fakeBeats{changed: make(chan struct{}, 1)} }

func (b *fakeBeats) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (b *fakeBeats) Set(g weir.Group) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.group = g
}

func (b *fakeBeats) Answer(a heartbeat.Answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = a
}

func (b *fakeBeats) Peers() []heartbeat.PeerStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peers
}

func (b *fakeBeats) Changed() <-chan struct{} { return b.changed }

// see makes peers what there is to be seen.
func (b *fakeBeats) see(peers ...heartbeat.PeerStatus) {
	b.mu.Lock()
	b.peers = peers
	b.mu.Unlock()
	wake(b.changed)
}

// fakeHolder holds addresses as package vip's does, in memory.
type fakeHolder struct {
	mu   sync.Mutex
	want []netip.Prefix
	at   time.Time
}

func (h *fakeHolder) Run(ctx context.Context) error {
	<-ctx.Done()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want = nil
	return nil
}

func (h *fakeHolder) Set(_ context.Context, want []netip.Prefix, at time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want, h.at = want, later(h.at, at)
	return nil
}

func (h *fakeHolder) Renew(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = later(h.at, at)
}

func (h *fakeHolder) Status() (held []vip.Held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) >= vip.DefaultLife {
		return nil
	}
	for _, p := range h.want {
		held = append(held, vip.Held{Prefix: p})
	}
	return held
}

func (h *fakeHolder) Changed() <-chan struct{} { return nil }
