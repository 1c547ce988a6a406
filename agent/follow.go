package agent

import (
	"context"
	"errors"
	"time"

	"weir/weir"
)

// follow brings HAProxy to a NodeConfig of the disk, and then to each newest from the
// control plane, until ctx ends. What cannot be now is tried again; what never can be,
// is not.
func (a *agent) follow(ctx context.Context, stored []document) {
	candidates := stored
	again := newBackoff()
	for {
		var retry <-chan time.Time
		if err := a.try(ctx, candidates); err != nil && !errors.Is(err, weir.Invalid) {
			retry = time.After(again.NextBackOff())
		}
		if a.live != 0 {
			candidates = candidates[:1] // with one live, its fallbacks have served their purpose
		}
		select {
		case <-ctx.Done():
			return
		case doc := <-a.want:
			candidates = []document{doc}
			if a.live == 0 {
				candidates = append(candidates, stored...) // better than nothing, should doc be refused
			}
			again.Reset()
		case <-retry:
		}
	}
}

// try makes the first of candidates that HAProxy accepts live. It returns why that is
// not the first of all, or not safely on the disk.
func (a *agent) try(ctx context.Context, candidates []document) error {
	var refused error // the first
	for i, doc := range candidates {
		began := time.Now()
		stageErr := a.disk.stage(doc)
		err := a.proxy.Set(ctx, doc.Revision, doc.Proxy)
		if ctx.Err() != nil {
			return ctx.Err() // staged: the next agent goes on with it
		}
		if err == nil {
			a.Log.Info("configuration live", "revision", doc.Revision, "took", time.Since(began))
			a.access.Set(doc.Proxy.Log, doc.Node)
			a.note(doc.Revision, candidates[0].Revision, refused)
			if stageErr == nil {
				stageErr = a.disk.keep()
			}
			if stageErr != nil {
				a.Log.Warn("configuration live but not stored", "revision", doc.Revision, "err", stageErr)
				return stageErr
			}
			return refused
		}
		a.Log.Warn("configuration not live", "revision", doc.Revision, "err", err)
		if i == 0 {
			refused = err
			a.note(a.live, doc.Revision, refused)
		}
		if err := a.disk.drop(); err != nil {
			a.Log.Warn("configuration still on disk", "revision", doc.Revision, "err", err)
		}
	}
	return refused
}

// note says which revision is live, and why tried is not. Only follow's goroutine
// writes these.
func (a *agent) note(live, tried int64, err error) {
	a.mu.Lock()
	a.live, a.tried, a.err = live, tried, err
	a.mu.Unlock()
	select {
	case a.news <- struct{}{}:
	default: // it is already to be told
	}
}
