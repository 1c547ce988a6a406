package agent

import (
	"context"
	"time"
)

// proofEvery is how often the agent shows that it works.
const proofEvery = 5 * time.Second

// prove calls Alive every few seconds until ctx ends, each time after what all of the agent
// needs: its lock, and an answer about HAProxy. If either hangs, so does prove, and whoever
// listens to Alive knows that this process had better be replaced.
func (a *agent) prove(ctx context.Context) {
	tick := time.NewTicker(proofEvery)
	defer tick.Stop()
	for {
		// That HAProxy is down is no fault of the agent's, whose work it is to say so.
		_, _, _ = a.proxy.Status(ctx)
		a.memberURLs() // takes the lock
		if ctx.Err() != nil {
			return
		}
		a.Alive()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
