package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"weir/control"
	"weir/store"
)

// member is one member of the control plane, which crashes and is started again.
type member struct {
	name string

	mu      sync.Mutex
	control *control.Control // nil while it is down
}

func (m *member) set(c *control.Control) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.control = c
}

func (m *member) get() *control.Control {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.control
}

// live runs m until the history ends. A crash ends all that it does at once: what it
// asked the store and the cloud may or may not happen.
func (w *world) live(m *member) {
	r := w.random(m.name)
	for start := 1; w.ctx.Err() == nil; start++ {
		life, crash := context.WithCancel(w.ctx)
		name := fmt.Sprintf("%s.%d", m.name, start)
		c := control.New(control.Options{
			Region:  region,
			Store:   store.New(&lossy{w.memory, w, life, name}),
			Cloud:   tardy{w.cloud, w},
			Log:     w.log(name),
			NodeURL: "https://control.example:7443",
			NodeCA:  []byte("authority\n"),
			Drain:   drain,
		})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := c.Run(life); err != nil {
				w.never("%s: Run returned %v", name, err)
			}
		}()
		m.set(c)
		w.tell("%s: starts", name)
		for sleep(life, upTo(r, time.Minute)) && !w.trouble.Load() {
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

// reach returns a member that is up, or nil.
func (w *world) reach(r *rand.Rand) *control.Control {
	first := r.IntN(len(w.members))
	for i := range w.members {
		if c := w.members[(first+i)%len(w.members)].get(); c != nil {
			return c
		}
	}
	return nil
}
