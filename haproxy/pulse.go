package haproxy

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How HAProxy's pulse is felt. It answers in microseconds when it is well, and in tens of
// milliseconds where its cores are fought for.
const (
	pulseEvery = 100 * time.Millisecond
	pulseMiss  = 500 * time.Millisecond // without an answer it counts as not serving
	pulseEnd   = 2 * time.Second        // and then as wedged: it is ended, and another is started
)

// pulse is what is known of HAProxy's life from one moment to the next, beside whatever else is
// being done with it: a Set may be waiting for a HAProxy that will never answer.
type pulse struct {
	mu      sync.Mutex
	pid     int       // of the master that should live; 0 before the first
	loading bool      // it starts or reloads, and need not answer
	felt    time.Time // when it last answered, or began to load
	err     string    // why it serves nobody
}

// begins notes that a process is to be felt from now on.
func (u *pulse) begins(pid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pid, u.felt = pid, time.Now()
}

// loads notes that HAProxy begins to load something, and returns what to call when it has.
func (u *pulse) loads() (done func()) {
	set := func(loading bool) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.loading, u.felt = loading, time.Now()
	}
	set(true)
	return func() { set(false) }
}

// why returns why HAProxy serves nobody at this moment, or "".
func (u *pulse) why() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// feel feels HAProxy's pulse until ctx ends. A HAProxy that does not answer for pulseEnd is
// killed, with all its workers, so that Run starts another.
func (p *Proxy) feel(ctx context.Context) {
	var held *process
	defer func() {
		if held != nil {
			held.file.Close()
		}
	}()
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.pulse.mu.Lock()
		pid := p.pulse.pid
		p.pulse.mu.Unlock()
		if pid == 0 {
			continue
		}
		if held == nil || held.pid != pid {
			if held != nil {
				held.file.Close()
			}
			var err error
			if held, err = openProcess(pid); err != nil {
				held = nil // it has ended already
			}
		}
		asking, cancel := context.WithTimeout(ctx, pulseMiss)
		_, err := exchange(asking, p.path(workerSocket), askShape)
		cancel()
		if p.felt(err == nil) && held != nil && held.alive() {
			p.log.Warn("haproxy does not answer, ending it", "pid", pid)
			unix.Kill(-pid, unix.SIGKILL) // with its workers, who may be what hangs
		}
	}
}

// felt notes whether HAProxy has answered, and reports whether it is to be ended.
func (p *Proxy) felt(answered bool) (end bool) {
	u := &p.pulse
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.err
	silent := time.Since(u.felt)
	switch {
	case answered:
		u.felt, u.err = time.Now(), ""
	case u.loading && silent < loadTime:
	case silent >= pulseMiss:
		u.err = "HAProxy does not answer"
	}
	if (u.err == "") != (was == "") {
		signal(p.changed)
	}
	return u.err != "" && silent >= pulseEnd
}
