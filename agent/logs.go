package agent

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"weir/accesslog"
	"weir/weir"
)

// tellLogs tells one member of the control plane the lines of the access log that it asks for, until ctx ends. It waits
// for questions only while there is a log.
func (a *agent) tellLogs(ctx context.Context, m *member) {
	var wg sync.WaitGroup
	defer wg.Wait()
	again := a.newRetry(m.url, "access log")
	asked := map[weir.ID]context.CancelFunc{}
	defer func() {
		for _, stop := range asked {
			stop()
		}
	}()
	for after := int64(0); ctx.Err() == nil; {
		if !a.access.Wanted() {
			sleep(ctx, time.Second)
			continue
		}
		var q weir.LogQueries
		var ok bool
		client, err := a.identity.Load().client(a, m.url)
		if err == nil {
			q, ok, err = client.LogQueries(ctx, after)
		}
		if err != nil {
			again.wait(ctx, err)
			continue
		}
		again.done()
		if !ok {
			continue
		}
		after = q.Version
		for id, stop := range asked {
			if !slices.ContainsFunc(q.Queries, func(q weir.LogQuery) bool { return q.ID == id }) {
				stop()
				delete(asked, id)
			}
		}
		for _, query := range q.Queries {
			if asked[query.ID] == nil {
				its, stop := context.WithCancel(ctx)
				asked[query.ID] = stop
				wg.Go(func() { a.tellLog(its, m, query) })
			}
		}
	}
}

// tellLog answers one question, until it is answered, nobody asks any more, or ctx ends.
func (a *agent) tellLog(ctx context.Context, m *member, q weir.LogQuery) {
	place := new(accesslog.Place)
	again := newBackoff()
	for ctx.Err() == nil {
		client, err := a.identity.Load().client(a, m.url)
		if err == nil {
			err = client.SendLog(ctx, q.ID, func(ctx context.Context, w io.Writer) error { return a.access.Follow(ctx, q, place, w) })
		}
		if err == nil || weir.KindOf(err) == weir.Denied {
			return
		}
		sleep(ctx, again.NextBackOff())
	}
}
