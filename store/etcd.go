package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"weir/weir"
)

// A leader that has vanished still counts as one for as long as its lease: two seconds,
// and up to two more if etcd has to elect a leader of its own first, which then gives
// all leases their full time again. etcd grants no less than one and a half elections,
// in whole seconds: one second with the settings of a cluster of ours, two with etcd's.
// One would leave a process that gets no CPU for half of it no second attempt.
const (
	leaseSeconds = 2
	renewEvery   = 500 * time.Millisecond // a lease
	renewTimeout = 500 * time.Millisecond // an attempt, which may be stuck where it can get no answer
	renewPause   = 50 * time.Millisecond  // after one that failed
)

// etcd is a Backend in etcd, by way of a client.
type etcd struct {
	client *clientv3.Client
	alone  bool         // its only member is in this process: no other could know better
	head   func() int64 // of a member that is alone, its revision
	close  func() error // closes client and what stands behind it, once

	// Where a member of a cluster is in this process: quorum waits, for a moment, until
	// there is one, and what elected returns is closed when etcd has a new leader.
	quorum  func(ctx context.Context) error
	elected func() <-chan struct{}

	members func(ctx context.Context) ([]Member, error)

	once sync.Once
	done chan struct{}
	err  error // why done is closed; set before it is
}

// Dial returns a store in the etcd cluster at endpoints ("host:port", or URLs). It
// waits until the cluster answers; ctx bounds the wait. With a nil config it speaks
// without TLS.
//
// The cluster should allow many operations in a transaction (--max-txn-ops=4096), and
// compact its history (--auto-compaction-retention=1h).
func Dial(ctx context.Context, endpoints []string, config *tls.Config) (*Store, error) {
	name := strings.Join(endpoints, ",")
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		TLS:                  config,
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		PermitWithoutStream:  true,
		Logger:               zap.NewNop(), // what it could say comes back as errors
		DialOptions:          []grpc.DialOption{grpc.WithChainStreamInterceptor(waitForConnection)},
	})
	if err != nil {
		return nil, weir.Errorf(weir.Invalid, "etcd at %s: %w", name, err)
	}
	b := newEtcd(client)
	b.members = b.remoteMembers
	if _, _, err := b.Read(ctx, Span{Key: marks}, 0); err != nil {
		b.Close()
		return nil, fmt.Errorf("etcd at %s does not answer: %w", name, err)
	}
	return New(b), nil
}

// waitForConnection has a stream wait for a connection rather than fail at once: where
// that is an answer, etcd's client asks for a lease again without a pause.
func waitForConnection(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return streamer(ctx, desc, cc, method, append(opts, grpc.WaitForReady(true))...)
}

func newEtcd(client *clientv3.Client) *etcd {
	return &etcd{client: client, close: sync.OnceValue(client.Close), done: make(chan struct{})}
}

func (e *etcd) Done() <-chan struct{} { return e.done }

func (e *etcd) Err() error {
	select {
	case <-e.done:
		return e.err
	default:
		return nil
	}
}

// fail ends e, because of err.
func (e *etcd) fail(err error) {
	e.once.Do(func() {
		e.err = err
		close(e.done)
	})
}

func (e *etcd) Close() error {
	e.fail(errClosed())
	return e.close()
}

// call makes one call of etcd. It returns when ctx or e ends, whatever the call does: a
// member of our own that has stopped in the middle of something never answers.
func call[T any](ctx context.Context, e *etcd, f func(context.Context) (T, error)) (T, error) {
	return callUntil(ctx, e, nil, f)
}

// propose is call for what changes something. What was under way when etcd's leader
// vanished is lost, as a rule, and etcd says so only after its timeout of several
// seconds: propose does as soon as there is another leader.
func propose[T any](ctx context.Context, e *etcd, f func(context.Context) (T, error)) (T, error) {
	return callUntil(ctx, e, e.elected, f)
}

// callUntil is call that also returns when what elected returns is closed.
func callUntil[T any](ctx context.Context, e *etcd, elected func() <-chan struct{}, f func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	if err := e.Err(); err != nil {
		return none, err
	}
	if e.quorum != nil {
		if err := e.quorum(ctx); err != nil {
			return none, err
		}
	}
	var another <-chan struct{}
	if elected != nil {
		another = elected()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, 1)
	go func() {
		value, err := f(ctx)
		answers <- answer{value, err}
	}()
	select {
	case a := <-answers:
		if a.err != nil {
			return none, e.explain(ctx, a.err)
		}
		return a.value, nil
	case <-another:
		return none, weir.Errorf(weir.Unavailable, "etcd: another leader was elected meanwhile")
	case <-ctx.Done():
		return none, ctx.Err()
	case <-e.done:
		return none, e.err
	}
}

// explain gives an error of etcd's a kind, and words that fit.
func (e *etcd) explain(ctx context.Context, err error) error {
	switch {
	case e.Err() != nil:
		return e.Err()
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, rpctypes.ErrCompacted):
		return ErrCompacted
	case errors.Is(err, rpctypes.ErrNoSpace):
		return weir.Errorf(weir.Exhausted, "the store has reached its quota, and only deletes: %w", err)
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return weir.Errorf(weir.Invalid, "the transaction reads and writes more rows than etcd allows (its --max-txn-ops): %w", err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return weir.Errorf(weir.Invalid, "the transaction is larger than etcd allows (its --max-request-bytes): %w", err)
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserEmpty):
		return weir.Errorf(weir.Denied, "etcd: %w", err)
	default:
		return weir.Errorf(weir.Unavailable, "etcd: %w", err)
	}
}

func (e *etcd) Read(ctx context.Context, span Span, revision int64) ([]Entry, int64, error) {
	if span == (Span{}) {
		if e.alone {
			at, err := call(ctx, e, func(context.Context) (int64, error) { return e.head(), nil })
			return nil, at, err
		}
		span.Key = nothing
	}
	opts := []clientv3.OpOption{clientv3.WithRev(revision)}
	from := span.Key
	switch {
	case span.Prefix && span.After != "":
		from = max(from, span.After+"\x00")
		opts = append(opts, clientv3.WithRange(clientv3.GetPrefixRangeEnd(span.Key)), clientv3.WithLimit(int64(span.Limit)))
	case span.Prefix:
		opts = append(opts, clientv3.WithPrefix(), clientv3.WithLimit(int64(span.Limit)))
	}
	get := func(opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
		return call(ctx, e, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return e.client.Get(ctx, from, opts...)
		})
	}
	// What was at a revision is the same for ever: a member that has come so far need
	// not ask the others. So a transaction asks them once.
	mine := e.alone || revision != 0
	var got *clientv3.GetResponse
	var err error
	if mine {
		got, err = get(append(opts, clientv3.WithSerializable())...)
	}
	if !mine || !e.alone && errors.Is(err, rpctypes.ErrFutureRev) {
		got, err = get(opts...)
	}
	if err != nil {
		return nil, 0, err
	}
	if revision == 0 {
		revision = got.Header.Revision
	}
	entries := make([]Entry, len(got.Kvs))
	for i, kv := range got.Kvs {
		entries[i] = entryOf(kv)
	}
	return entries, revision, nil
}

// nothing is a key that there never is.
const nothing = "weir/nothing"

func entryOf(kv *mvccpb.KeyValue) Entry {
	return Entry{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}
}

func (e *etcd) Commit(ctx context.Context, txn Txn) (int64, bool, error) {
	conditions := make([]clientv3.Cmp, len(txn.If))
	for i, c := range txn.If {
		if c.Prefix {
			conditions[i] = clientv3.Compare(clientv3.ModRevision(c.Key).WithPrefix(), "<", c.Revision+1)
		} else {
			conditions[i] = clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Revision)
		}
	}
	var ops []clientv3.Op
	for _, p := range txn.Puts {
		ops = append(ops, clientv3.OpPut(p.Key, string(p.Value), clientv3.WithLease(clientv3.LeaseID(p.Lease))))
	}
	for _, key := range txn.Deletes {
		ops = append(ops, clientv3.OpDelete(key))
	}
	done, err := propose(ctx, e, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return e.client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	})
	if err != nil {
		return 0, false, err
	}
	return done.Header.Revision, done.Succeeded, nil
}

func (e *etcd) Watch(ctx context.Context, span Span, after int64) iter.Seq2[[]Event, error] {
	return func(yield func([]Event, error) bool) {
		watching, cancel := context.WithCancel(ctx)
		defer cancel()
		opts := []clientv3.OpOption{clientv3.WithRev(after + 1)}
		if span.Prefix {
			opts = append(opts, clientv3.WithPrefix())
		}
		// A member that lost its cluster ends the watch, where it would be silent.
		answers, err := call(ctx, e, func(context.Context) (clientv3.WatchChan, error) {
			return e.client.Watch(clientv3.WithRequireLeader(watching), span.Key, opts...), nil
		})
		for err == nil {
			var answer clientv3.WatchResponse
			var open bool
			select {
			case answer, open = <-answers:
			case <-ctx.Done():
				return
			case <-e.done:
			}
			switch {
			case answer.Err() != nil:
				err = e.explain(ctx, answer.Err())
			case !open:
				err = e.explain(ctx, errors.New("the watch ended"))
			case len(answer.Events) > 0:
				events := eventsOf(answer.Events)
				if err = e.awaitReadable(ctx, events[len(events)-1].Revision); err == nil && !yield(events, nil) {
					return
				}
			}
		}
		if ctx.Err() == nil {
			yield(nil, err)
		}
	}
}

// awaitReadable returns once what was written at a revision can be read. etcd tells of
// a write before it is: whoever looked at once, and found nothing, would not be told again.
// Only a member that is alone can be looked at so soon: see Read.
func (e *etcd) awaitReadable(ctx context.Context, revision int64) error {
	for e.alone {
		_, _, err := e.Read(ctx, Span{Key: leaders}, revision)
		if !errors.Is(err, rpctypes.ErrFutureRev) {
			if errors.Is(err, ErrCompacted) {
				err = nil // it was read, and more
			}
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Microsecond):
		}
	}
	return nil
}

func eventsOf(got []*clientv3.Event) []Event {
	events := make([]Event, len(got))
	for i, g := range got {
		events[i] = Event{entryOf(g.Kv), g.Type == clientv3.EventTypeDelete}
	}
	return events
}

func (e *etcd) Members(ctx context.Context) ([]Member, error) {
	if err := e.Err(); err != nil {
		return nil, err
	}
	members, err := e.members(ctx)
	if err != nil {
		return nil, fmt.Errorf("members of the store: %w", err)
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return members, nil
}

// remoteMembers asks a cluster of which no member is in this process.
func (e *etcd) remoteMembers(ctx context.Context) ([]Member, error) {
	list, err := call(ctx, e, func(ctx context.Context) (*clientv3.MemberListResponse, error) { return e.client.MemberList(ctx) })
	if err != nil {
		return nil, err
	}
	members := make([]Member, len(list.Members))
	var wg sync.WaitGroup
	for i, m := range list.Members {
		members[i] = Member{Name: m.Name}
		if len(m.PeerURLs) > 0 {
			members[i].Address = hostOf(m.PeerURLs[0])
		}
		if len(m.ClientURLs) == 0 {
			continue // it has not started yet
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			status, err := call(ctx, e, func(ctx context.Context) (*clientv3.StatusResponse, error) {
				return e.client.Status(ctx, m.ClientURLs[0])
			})
			members[i].Up = err == nil
			members[i].Leads = err == nil && status.Leader == m.ID
		})
	}
	wg.Wait()
	return members, nil
}

func (e *etcd) Grant(ctx context.Context) (Lease, error) {
	began := time.Now()
	granted, err := propose(ctx, e, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return e.client.Grant(ctx, leaseSeconds)
	})
	if err != nil {
		return Lease{}, err
	}
	life := time.Duration(granted.TTL) * time.Second
	renewing, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.renew(renewing, granted.ID, life, began.Add(life))
	}()
	return Lease{ID: int64(granted.ID), Done: done, End: func(ctx context.Context) error {
		cancel()
		<-done
		_, err := call(ctx, e, func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
			got, err := e.client.Revoke(ctx, granted.ID)
			if errors.Is(err, rpctypes.ErrLeaseNotFound) {
				err = nil
			}
			return got, err
		})
		return err
	}}, nil
}

// useful returns an error while what is stored cannot be read through our member. One whose disk stalls
// passes renewals on to etcd's leader and can do nothing else: whoever leads through it must not stay.
func (e *etcd) useful(ctx context.Context) error {
	if e.alone {
		return nil // then nobody else could lead
	}
	_, _, err := e.Read(ctx, Span{Key: leaders}, 0)
	return err
}

// renew keeps a lease alive until it has ended, or may have, or ctx or e ends. It asks
// each time anew, where etcd's own client has one stream for all: that hangs for
// seconds where the request went to a leader of etcd's that has just vanished.
func (e *etcd) renew(ctx context.Context, id clientv3.LeaseID, life time.Duration, until time.Time) {
	for pause := renewEvery; ; {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		case <-e.done:
			return
		}
		began := time.Now()
		if !began.Before(until) {
			return
		}
		attempt, cancel := context.WithDeadline(ctx, earlier(until, began.Add(renewTimeout)))
		err := e.useful(attempt)
		if err == nil {
			_, err = call(attempt, e, func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
				return e.client.KeepAliveOnce(ctx, id)
			})
		}
		cancel()
		switch {
		case err == nil:
			pause, until = renewEvery, began.Add(life)
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return
		default:
			pause = renewPause
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
