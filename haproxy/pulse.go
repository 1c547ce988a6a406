package haproxy

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How HAProxy's pulse is felt. It answers in microseconds when it is well, in tens of
// milliseconds where its cores are fought for, and in seconds where they are fought for by many. Then it is
// not wedged, but waits for its turn, which the kernel counts; to end it would make that worse.
const (
	pulseEvery = 100 * time.Millisecond
	pulseMiss  = 500 * time.Millisecond // without an answer it counts as not serving
	pulseEnd   = 2 * time.Second        // and then as wedged: it is ended, and another is started
	pulseAtAll = 30 * time.Second       // likewise if it waits for its turn meanwhile
)

// pulse is what is known of HAProxy's life from one moment to the next, beside whatever else is
// being done with it: a Set may be waiting for a HAProxy that will never answer.
type pulse struct {
	mu      sync.Mutex
	pid     int       // of the master that should live; 0 before the first
	loading bool      // it starts or reloads, and need not answer
	felt    time.Time // when it last answered, or began to load
	err     string    // why it serves nobody

	hunger hunger
	had    time.Duration // what it had waited for a CPU when it was last felt
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

// isStarved reports whether HAProxy lacks CPU.
func (u *pulse) isStarved() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.hunger.bad
}

// feel feels HAProxy's pulse until ctx ends. A HAProxy that does not answer for pulseEnd, and does
// not want for CPU, is killed, with all its workers, so that Run starts another.
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
		if p.felt(err == nil, pid, usageOf(pid)) && held != nil && held.alive() {
			p.log.Warn("haproxy does not answer, ending it", "pid", pid)
			unix.Kill(-pid, unix.SIGKILL) // with its workers, who may be what hangs
		}
	}
}

// felt notes whether HAProxy has answered, and what CPU it had by then, and reports
// whether it is to be ended.
func (p *Proxy) felt(answered bool, pid int, used usage) (end bool) {
	u := &p.pulse
	u.mu.Lock()
	defer u.mu.Unlock()
	was, wasBad := u.err, u.hunger.bad
	u.hunger.feel(pid, time.Now(), used)
	waits := u.hunger.waits
	silent := time.Since(u.felt)
	queues := silent < pulseAtAll && float64(waits-u.had) >= starved*float64(silent)
	switch {
	case answered:
		u.felt, u.had, u.err = time.Now(), waits, ""
	case u.loading && silent < loadTime:
		u.had = waits
	case silent >= pulseMiss && !queues:
		u.err = "HAProxy does not answer"
	}
	if (u.err == "") != (was == "") || u.hunger.bad != wasBad {
		signal(p.changed)
	}
	return u.err != "" && silent >= pulseEnd && !queues
}
