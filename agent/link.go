package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"weir/weir"
)

const (
	statusBeat  = 5 * time.Second       // between reports, when nothing happens
	holderBeat  = time.Second           // likewise, of a node that holds an address by itself: see vip.Permit
	reportGap   = 50 * time.Millisecond // between reports, when much does: they are long
	longestWait = 10 * time.Second      // before trying again
)

// member is one member of the control plane, as this node speaks to it. The node speaks to all
// of them at once: which of them decides it does not know, and the one that it would wait
// for may be the one that has just died.
type member struct {
	url    string
	status chan weir.NodeStatus // the newest that it has not got
	stop   context.CancelFunc
}

// speak speaks to all members of the control plane until ctx ends: those that the node was
// told of when it joined, and later those that its NodeConfig names.
func (a *agent) speak(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if !a.waitEnrolled(ctx) {
		return
	}
	var members []*member
	statuses := make(chan weir.NodeStatus)
	wg.Go(func() { a.observe(ctx, statuses) })
	for urls := a.memberURLs(); ; {
		members = slices.DeleteFunc(members, func(m *member) bool {
			gone := !slices.Contains(urls, m.url)
			if gone {
				m.stop()
			}
			return gone
		})
		for _, url := range urls {
			if slices.ContainsFunc(members, func(m *member) bool { return m.url == url }) {
				continue
			}
			its, stop := context.WithCancel(ctx)
			m := &member{url, make(chan weir.NodeStatus, 1), stop}
			members = append(members, m)
			wg.Go(func() { a.poll(its, m) })
			wg.Go(func() { a.report(its, m) })
			wg.Go(func() { a.tellLogs(its, m) })
		}
		select {
		case <-ctx.Done():
			return
		case <-a.moved:
			urls = a.memberURLs()
		case s := <-statuses:
			for _, m := range members {
				select {
				case <-m.status: // it gets a newer one
				default:
				}
				m.status <- s
			}
		}
	}
}

// memberURLs returns where the members of the control plane are.
func (a *agent) memberURLs() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.newest.Members) > 0 {
		return a.newest.Members
	}
	return a.URLs
}

// poll waits for NodeConfigs of one member, and takes them in, until ctx ends.
func (a *agent) poll(ctx context.Context, m *member) {
	again := a.newRetry(m.url, "configuration")
	// The first answer is the NodeConfig as it is, whatever we may have: the control
	// plane could have been restored to a revision that we know under other content.
	var after int64
	for {
		who := a.identity.Load()
		var cfg weir.NodeConfig
		var text []byte
		client, err := who.client(a, m.url)
		if err == nil {
			cfg, text, err = client.NodeConfig(ctx, after)
		}
		if err == nil && text != nil && cfg.Node != who.node {
			err = fmt.Errorf("the control plane sent node %s the configuration of node %q", who.node, cfg.Node)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.permit.Failed(m.url, err)
			again.wait(ctx, err)
			continue
		}
		again.done()
		if text != nil {
			a.take(document{cfg, text}, after)
			after = cfg.Revision
		}
	}
}

// take takes in a NodeConfig of a member that had given the revision after before, 0 for none. An older
// one than we have is of a member that lags behind the others, unless that member itself
// gave us the newer one: then the control plane was restored.
func (a *agent) take(doc document, after int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := !a.toldAt.IsZero()
	if told && doc.Revision < a.newest.Revision && after != a.newest.Revision {
		return
	}
	same := told && doc.Revision == a.newest.Revision
	a.newest, a.toldAt = doc.NodeConfig, time.Now()
	a.answerHolder(a.held()) // before we take what it may give us: the peer that had it must not renew any more
	wake(a.moved)
	wake(a.holds)
	a.watchPeers()
	if same {
		return // another member gave it already
	}
	select {
	case <-a.want: // nobody needs it any more
	default:
	}
	a.want <- doc
}

// report sends one member each status that there is, until ctx ends.
func (a *agent) report(ctx context.Context, m *member) {
	again := a.newRetry(m.url, "status")
	for {
		var s weir.NodeStatus
		select {
		case <-ctx.Done():
			return
		case s = <-m.status:
		}
		for {
			began := time.Now()
			var revision int64
			client, err := a.identity.Load().client(a, m.url)
			if err == nil {
				revision, err = client.Report(ctx, s)
			}
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				again.done()
				a.reported(began, revision)
				break
			}
			a.permit.Failed(m.url, err)
			again.wait(ctx, err)
			select {
			case s = <-m.status:
			default:
			}
		}
	}
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
	backoff *backoff.ExponentialBackOff
	failure string // the last one's text; empty when all is well
}

func (a *agent) newRetry(url, about string) *retry {
	return &retry{log: a.Log.With("control", url, "about", about), backoff: newBackoff()}
}

func (r *retry) wait(ctx context.Context, err error) {
	if text := err.Error(); text != r.failure && ctx.Err() == nil {
		r.failure = text
		switch weir.KindOf(err) {
		case weir.Denied:
			r.log.Warn("control plane refuses this node, which goes on as it is", "err", err)
		case weir.Unavailable:
			r.log.Warn("control plane out of reach", "err", err)
		default:
			r.log.Warn("trying again", "err", err)
		}
	}
	sleep(ctx, r.backoff.NextBackOff())
}

func (r *retry) done() {
	if r.failure != "" {
		r.log.Info("recovered")
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

// wake lets whoever waits on c look, now or when it comes to that.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is already to look
	}
}
