package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"weir/weir"
)

// leaseSeconds is how long a leader that has vanished still counts as one.
const leaseSeconds = 10

// etcd is a Backend in etcd, by way of a client.
type etcd struct {
	client *clientv3.Client
	alone  bool         // its only member is in this process: no other could know better
	close  func() error // closes client and what stands behind it, once

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
	})
	if err != nil {
		return nil, weir.Errorf(weir.Invalid, "etcd at %s: %w", name, err)
	}
	b := newEtcd(client)
	if _, _, err := b.Read(ctx, Span{Key: marks}, 0); err != nil {
		b.Close()
		return nil, fmt.Errorf("etcd at %s does not answer: %w", name, err)
	}
	return New(b), nil
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
	type answer struct {
		value T
		err   error
	}
	var none T
	if err := e.Err(); err != nil {
		return none, err
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
	opts := []clientv3.OpOption{clientv3.WithRev(revision)}
	if span.Prefix {
		opts = append(opts, clientv3.WithPrefix())
	}
	got, err := call(ctx, e, func(ctx context.Context) (*clientv3.GetResponse, error) {
		if e.alone {
			return e.client.Get(ctx, span.Key, append(opts, clientv3.WithSerializable())...)
		}
		return e.client.Get(ctx, span.Key, opts...)
	})
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
	done, err := call(ctx, e, func(ctx context.Context) (*clientv3.TxnResponse, error) {
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

func (e *etcd) Grant(ctx context.Context) (Lease, error) {
	granted, err := call(ctx, e, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return e.client.Grant(ctx, leaseSeconds)
	})
	if err != nil {
		return Lease{}, err
	}
	session, err := call(ctx, e, func(context.Context) (*concurrency.Session, error) {
		return concurrency.NewSession(e.client, concurrency.WithLease(granted.ID), concurrency.WithTTL(leaseSeconds))
	})
	if err != nil {
		return Lease{}, err
	}
	return Lease{ID: int64(granted.ID), Done: session.Done(), End: func(ctx context.Context) error {
		_, err := call(ctx, e, func(context.Context) (struct{}, error) {
			err := session.Close()
			if errors.Is(err, rpctypes.ErrLeaseNotFound) {
				err = nil
			}
			return struct{}{}, err
		})
		return err
	}}, nil
}
