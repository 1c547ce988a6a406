package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"weir/control"
	"weir/store"
	"weir/weir"
)

// member is one member of the control plane, which crashes and is started again.
type member struct {
	name string

	mu sync.Mutex
	up *life // nil while it is down
}

// life is a member between a start and a crash.
type life struct {
	*control.Control
	ctx context.Context
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
	for start := 1; w.ctx.Err() == nil; start++ {
		ctx, crash := context.WithCancel(w.ctx)
		name := fmt.Sprintf("%s.%d", m.name, start)
		c := control.New(control.Options{
			Region:  region,
			Store:   store.New(&lossy{w.memory, w, ctx, name}),
			Cloud:   tardy{w.cloud, w},
			Log:     w.log(name),
			NodeURL: "https://control.example:7443",
			NodeCA:  []byte("authority\n"),
			Drain:   drain,
			Prober:  prober{w},
		})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := c.Run(ctx); err != nil {
				w.never("%s: Run returned %v", name, err)
			}
		}()
		m.set(&life{c, ctx})
		w.tell("%s: starts", name)
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
