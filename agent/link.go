package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"

	"weir/weir"
)

const (
	heartbeat   = 5 * time.Second       // between reports, when nothing happens
	reportGap   = 50 * time.Millisecond // between reports, when much does: they are long
	longestWait = 10 * time.Second      // before trying again
)

// poll waits for NodeConfigs, and leaves the newest to follow, until ctx ends.
func (a *agent) poll(ctx context.Context) {
	if !a.waitEnrolled(ctx) {
		return
	}
	again := a.newRetry("configuration")
	// The first answer is the NodeConfig as it is, whatever we may have: the control
	// plane could have been restored to a revision that we know under other content.
	var after int64
	for {
		who := a.identity.Load()
		cfg, text, err := who.client.NodeConfig(ctx, after)
		if err == nil && text != nil && cfg.Node != who.node {
			err = fmt.Errorf("the control plane sent node %s the configuration of node %q", who.node, cfg.Node)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			again.wait(ctx, err)
			continue
		}
		again.done()
		if text != nil {
			after = cfg.Revision
			select {
			case <-a.want: // nobody needs it any more
			default:
			}
			a.want <- document{cfg, text}
		}
	}
}

// report tells the control plane what the node does, at once when that changes and at
// each heartbeat, until ctx ends.
func (a *agent) report(ctx context.Context) {
	if !a.waitEnrolled(ctx) {
		return
	}
	again := a.newRetry("status")
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		who := a.identity.Load()
		err := who.client.Report(ctx, a.status(ctx, who.node))
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			again.wait(ctx, err)
			continue
		}
		again.done()
		sleep(ctx, reportGap)
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
		case <-a.news:
		case <-a.proxy.Changed():
		}
	}
}

func (a *agent) status(ctx context.Context, node weir.ID) weir.NodeStatus {
	haproxy, servers, err := a.proxy.Status(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	status := weir.NodeStatus{Node: node, Revision: a.live, Tried: a.tried, Agent: weir.Version, HAProxy: haproxy, Servers: servers}
	switch {
	case a.err != nil:
		status.Err = a.err.Error()
	case err != nil && a.live != 0: // without a NodeConfig there is no HAProxy yet
		status.Err = err.Error()
	}
	return status
}

func (a *agent) waitEnrolled(ctx context.Context) bool {
	select {
	case <-a.enrolled:
		return true
	case <-ctx.Done():
		return false
	}
}

// retry is how one conversation with the control plane takes failures: it waits longer
// after each, and the log hears of the first, of another sort, and of the end.
type retry struct {
	log     *slog.Logger
	about   string
	backoff *backoff.ExponentialBackOff
	failure string // the last one's text; empty when all is well
}

func (a *agent) newRetry(about string) *retry {
	return &retry{log: a.Log, about: about, backoff: newBackoff()}
}

func (r *retry) wait(ctx context.Context, err error) {
	if text := err.Error(); text != r.failure && ctx.Err() == nil {
		r.failure = text
		switch weir.KindOf(err) {
		case weir.Denied:
			r.log.Warn("control plane refuses this node, which goes on as it is", "about", r.about, "err", err)
		case weir.Unavailable:
			r.log.Warn("control plane out of reach", "about", r.about, "err", err)
		default:
			r.log.Warn("trying again", "about", r.about, "err", err)
		}
	}
	sleep(ctx, r.backoff.NextBackOff())
}

func (r *retry) done() {
	if r.failure != "" {
		r.log.Info("recovered", "about", r.about)
		r.failure = ""
	}
	r.backoff.Reset()
}

func newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 200 * time.Millisecond
	b.Multiplier = 2
	b.MaxInterval = longestWait
	return b
}

// sleep waits, but not beyond ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
