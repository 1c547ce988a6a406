package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// watchdog tells systemd, if it is what started this process, that it is ready and, again
// and again, that it works: a process of which nothing is heard is started anew.
type watchdog struct {
	log   *slog.Logger
	probe atomic.Pointer[func(context.Context) error]
	stop  func()
}

// newWatchdog returns one that says that all is well until it has something to watch.
func newWatchdog(log *slog.Logger) *watchdog {
	w := &watchdog{log: log, stop: func() {}}
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return w // nobody listens
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.run(ctx, every/3) })
	w.stop = func() { cancel(); wg.Wait() }
	return w
}

func (w *watchdog) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if w.well(ctx, every) {
			notify(w.log, daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// well reports whether what is watched works, within patience.
func (w *watchdog) well(ctx context.Context, patience time.Duration) bool {
	probe := w.probe.Load()
	if probe == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := (*probe)(ctx)
	if err != nil {
		w.log.Warn("this process does not answer itself", "err", err)
	}
	return err == nil
}

// watch makes probe what decides whether the process works.
func (w *watchdog) watch(probe func(context.Context) error) { w.probe.Store(&probe) }

// ready says that the process is up, and what it does.
func (w *watchdog) ready(status string) {
	notify(w.log, daemon.SdNotifyReady+"\nSTATUS="+status)
}

// notify tells systemd something, if it listens.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd not told", "state", state, "err", err)
	}
}
