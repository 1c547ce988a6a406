package nodeapi

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"sync"

	"weir/weir"
)

// Fake is a [Control] in memory that keeps its promises, for tests of either end. The
// zero value has no nodes.
type Fake struct {
	mu       sync.Mutex
	tokens   map[string]*token
	configs  map[weir.ID]weir.NodeConfig
	statuses map[weir.ID][]weir.NodeStatus
	queries  weir.LogQueries
	logs     map[weir.ID]string // by query
	changed  chan struct{}      // closed at the next change
}

type token struct {
	node weir.ID
	key  []byte // that it is bound to; nil before its first use
}

// Admit makes a node that may enrol with a secret. It has no NodeConfig yet.
func (f *Fake) Admit(node weir.ID, secret string) {
	f.change(func() { f.tokens[secret] = &token{node: node} })
}

// Revoke makes a node unknown.
func (f *Fake) Revoke(node weir.ID) {
	f.change(func() {
		maps.DeleteFunc(f.tokens, func(_ string, t *token) bool { return t.node == node })
		delete(f.configs, node)
	})
}

// Put makes cfg what its node should do.
func (f *Fake) Put(cfg weir.NodeConfig) {
	f.change(func() { f.configs[cfg.Node] = cfg })
}

// Statuses returns all that a node has reported, oldest first, and a channel that is
// closed at the next change of anything.
func (f *Fake) Statuses(node weir.ID) ([]weir.NodeStatus, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready()
	return slices.Clone(f.statuses[node]), f.changed
}

// Enrol is [Control.Enrol].
func (f *Fake) Enrol(_ context.Context, secret string, publicKey []byte) (weir.ID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tokens[secret]
	if t == nil {
		return "", weir.Errorf(weir.Denied, "the token is not known")
	}
	if t.key == nil {
		t.key = bytes.Clone(publicKey)
	}
	if !bytes.Equal(t.key, publicKey) {
		return "", weir.Errorf(weir.Denied, "the token of node %s was used with another key", t.node)
	}
	return t.node, nil
}

// NodeConfig is [Control.NodeConfig].
func (f *Fake) NodeConfig(ctx context.Context, node weir.ID, after int64) (weir.NodeConfig, error) {
	return await(ctx, f, node, func() (weir.NodeConfig, bool) {
		cfg, there := f.configs[node]
		return cfg, there && cfg.Revision != after
	})
}

// await returns what look returns, which needs f.mu, as soon as that is news for the node.
func await[T any](ctx context.Context, f *Fake, node weir.ID, look func() (got T, news bool)) (T, error) {
	var none T
	for {
		f.mu.Lock()
		f.ready()
		known, changed := f.knows(node), f.changed
		got, news := look()
		f.mu.Unlock()
		if !known {
			return none, weir.Errorf(weir.Denied, "node %s is not known", node)
		}
		if news {
			return got, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
}

// Report is [Control.Report].
func (f *Fake) Report(_ context.Context, status weir.NodeStatus) (revision int64, err error) {
	err = weir.Errorf(weir.NotFound, "node %s is not known", status.Node)
	f.change(func() {
		if f.knows(status.Node) {
			f.statuses[status.Node] = append(f.statuses[status.Node], status)
			revision, err = f.configs[status.Node].Revision, nil
		}
	})
	return revision, err
}

// Ask makes queries what is asked of the access logs of all nodes.
func (f *Fake) Ask(queries ...weir.LogQuery) {
	f.change(func() { f.queries = weir.LogQueries{Version: f.queries.Version + 1, Queries: queries} })
}

// Logged returns what a query has been told.
func (f *Fake) Logged(query weir.ID) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.logs[query]
}

// LogQueries is [Control.LogQueries].
func (f *Fake) LogQueries(ctx context.Context, node weir.ID, after int64) (weir.LogQueries, error) {
	return await(ctx, f, node, func() (weir.LogQueries, bool) { return f.queries, f.queries.Version != after })
}

// TakeLog is [Control.TakeLog].
func (f *Fake) TakeLog(ctx context.Context, node, query weir.ID, lines io.ReadCloser) error {
	asked := func() (bool, <-chan struct{}) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ready()
		return f.knows(node) && slices.ContainsFunc(f.queries.Queries, func(q weir.LogQuery) bool { return q.ID == query }), f.changed
	}
	if is, _ := asked(); !is {
		return weir.Errorf(weir.NotFound, "there is no query %.40q", query)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		for is, changed := asked(); is; is, changed = asked() {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
		lines.Close()
	})
	r := bufio.NewReader(lines)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil // the node has no more, or is gone, or nobody asks
		}
		if line != "\n" {
			f.change(func() { f.logs[query] += line })
		}
	}
}

// knows needs f.mu.
func (f *Fake) knows(node weir.ID) bool {
	for _, t := range f.tokens {
		if t.node == node {
			return true
		}
	}
	return false
}

func (f *Fake) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready()
	do()
	close(f.changed)
	f.changed = make(chan struct{})
}

// ready needs f.mu.
func (f *Fake) ready() {
	if f.changed == nil {
		f.tokens = map[string]*token{}
		f.configs = map[weir.ID]weir.NodeConfig{}
		f.statuses = map[weir.ID][]weir.NodeStatus{}
		f.logs = map[weir.ID]string{}
		f.changed = make(chan struct{})
	}
}
