package sim

import (
	"context"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"weir/control"
	"weir/store"
	"weir/weir"
)

// member is one member of the control plane, which crashes and is started again. Each keeps a
// copy of the store, and what is stored is so once most of them have it.
type member struct {
	name string
	addr netip.Addr // where it asks instances from

	ahead atomic.Int64 // of the true time, by its clock: a time.Duration

	mu sync.Mutex
	up *life // nil while it is down
}

// life is a member between a start and a crash.
type life struct {
	*control.Control
	ctx context.Context
}

// askers returns where the members ask instances from.
func (w *world) askers() (addrs []netip.Addr) {
	for _, m := range w.members {
		addrs = append(addrs, m.addr)
	}
	return addrs
}

// quorum reports whether most members are up and hear a member, and it hears them.
func (w *world) quorum(name string) bool {
	n := 0
	for _, m := range w.members {
		if m.get() != nil && (m.name == name || w.net.both(name, m.name, private)) {
			n++
		}
	}
	return n > len(w.members)/2
}

func (m *member) set(up *life) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.up = up
}

func (m *member) get() *life {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up
}

// live runs m until the history ends. A crash ends all that it does at once: what it
// asked the store and the cloud may or may not happen.
func (w *world) live(m *member) {
	r := w.random(m.name)
	defer m.set(nil)
	for start := 1; w.ctx.Err() == nil; start++ {
		ctx, crash := context.WithCancel(w.ctx)
		name := fmt.Sprintf("%s.%d", m.name, start)
		c := control.New(control.Options{
			Region:  region,
			Store:   store.New(&lossy{w.memory, w, ctx, crash, m, name}).As(name),
			Cloud:   tardy{w.cloud, w},
			Log:     w.log(name),
			NodeURL: "https://control.example:7443",
			NodeCA:  authority,
			Members: w.names(),
			Prober:  prober{w, m.name},
			From:    w.askers(), // whichever of them leads
			Drain:   drain,
		})
		m.set(&life{c, ctx})
		w.tell("%s: starts", name)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := c.Run(ctx); err != nil {
				w.never("%s: Run returned %v", name, err)
			}
		}()
		for sleep(ctx, upTo(r, time.Minute)) && !w.trouble.Load() {
		}
		if w.ctx.Err() == nil {
			w.tell("%s: crashes", name)
		}
		m.set(nil)
		crash()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			w.never("%s: Run goes on a minute after its context ended", name)
			<-ended
		}
		sleep(w.ctx, upTo(r, 10*time.Second))
	}
}

var authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("authority")})

// ask calls a member that is up, for as long as it stays up and at most for patience.
// The error is weir.Unavailable if there is none.
func (w *world) ask(ctx context.Context, r *rand.Rand, patience time.Duration, do func(context.Context, *control.Control) error) error {
	first := r.IntN(len(w.members))
	for i := range w.members {
		up := w.members[(first+i)%len(w.members)].get()
		if up == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		defer context.AfterFunc(up.ctx, cancel)()
		return do(ctx, up.Control)
	}
	return weir.Errorf(weir.Unavailable, "no member is up")
}
