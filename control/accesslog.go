package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"weir/store"
	"weir/weir"
)

const (
	mostAsks   = 4                // questions about one load balancer's access log at a time, at each member
	gatherTime = 3 * time.Second  // for instances to tell their last lines
	askAgain   = 15 * time.Second // between looks whether the load balancer still has a log, and signs of life
	logLine    = 128 << 10        // bytes of a line at most
)

// asks are the questions about access logs that this member has, for nodes to answer. Lines are in no store.
type asks struct {
	mu    sync.Mutex
	last  int64 // the newest version of any
	base  int64 // the version of no questions
	of    map[weir.ID]*balancerAsks
	moved chan struct{} // closed, and replaced, when last rises
}

// balancerAsks are those about one load balancer.
type balancerAsks struct {
	version int64
	asks    map[weir.ID]*ask
}

// ask is one question.
type ask struct {
	query  weir.LogQuery
	chunks chan chunk
	over   chan struct{} // closed when nobody asks any more
}

// chunk is what one node has told.
type chunk struct {
	node   weir.ID
	lines  [][]byte // with their line feeds
	recent bool     // all so far were there before
	left   int64    // so many lines were left out
}

func newAsks() *asks {
	now := time.Now().UnixNano() // nodes have versions of a member that was here before
	return &asks{last: now, base: now, of: map[weir.ID]*balancerAsks{}, moved: make(chan struct{})}
}

// begin makes a question known to the nodes of a load balancer. The caller calls end.
func (a *asks) begin(lb weir.ID, q weir.LogQuery) (*ask, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.of[lb]
	if of == nil {
		of = &balancerAsks{asks: map[weir.ID]*ask{}}
		a.of[lb] = of
	}
	if len(of.asks) >= mostAsks {
		return nil, weir.Errorf(weir.Exhausted, "%d others read this access log at the moment: more are not served at a time", len(of.asks))
	}
	q.ID = weir.ID(uuid.NewString())
	asked := &ask{q, make(chan chunk), make(chan struct{})}
	of.asks[q.ID] = asked
	a.changed(of)
	return asked, nil
}

func (a *asks) end(lb weir.ID, asked *ask) {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(asked.over)
	of := a.of[lb]
	delete(of.asks, asked.query.ID)
	a.changed(of)
	if len(of.asks) == 0 {
		delete(a.of, lb)
	}
}

// changed needs a.mu.
func (a *asks) changed(of *balancerAsks) {
	a.last++
	of.version = a.last
	close(a.moved)
	a.moved = make(chan struct{})
}

// queries returns what is asked about a load balancer, and what is closed when anything that is asked changes.
func (a *asks) queries(lb weir.ID) (weir.LogQueries, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := weir.LogQueries{Version: a.base}
	if of := a.of[lb]; of != nil {
		all.Version = of.version
		for _, asked := range of.asks {
			all.Queries = append(all.Queries, asked.query)
		}
	}
	return all, a.moved
}

func (a *asks) find(lb, query weir.ID) *ask {
	a.mu.Lock()
	defer a.mu.Unlock()
	if of := a.of[lb]; of != nil {
		return of.asks[query]
	}
	return nil
}

// balancerOf returns the load balancer that a node is an instance of.
func (c *Control) balancerOf(node weir.ID) (weir.ID, error) {
	config, ok, _ := c.nodes.config(node)
	if !ok {
		return "", weir.Errorf(weir.NotFound, "node %s has no configuration", node)
	}
	return config.Proxy.LoadBalancer, nil
}

// LogQueries returns what is asked of the access log of a node's load balancer at this member, as soon as its version is
// not after, or ctx's error.
func (c *Control) LogQueries(ctx context.Context, node weir.ID, after int64) (weir.LogQueries, error) {
	lb, err := c.balancerOf(node)
	if err != nil {
		return weir.LogQueries{}, err
	}
	for {
		q, moved := c.asks.queries(lb)
		if q.Version != after {
			return q, nil
		}
		select {
		case <-ctx.Done():
			return q, ctx.Err()
		case <-moved:
		}
	}
}

// TakeLog takes in lines of a node's access log until there are no more, or nobody asks for them any more. It reads no faster
// than who asks.
func (c *Control) TakeLog(ctx context.Context, node, query weir.ID, lines io.ReadCloser) error {
	lb, err := c.balancerOf(node)
	if err != nil {
		return err
	}
	asked := c.asks.find(lb, query)
	if asked == nil {
		return weir.Errorf(weir.NotFound, "node %s: query %.40q is not asked of it", node, query)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	defer close(done)
	wg.Go(func() { // a node that has nothing to say would not hear of it
		select {
		case <-asked.over:
			lines.Close()
		case <-ctx.Done():
			lines.Close()
		case <-done:
		}
	})
	err = readChunks(lines, func(got chunk) error {
		got.node = node
		select {
		case asked.chunks <- got:
			return nil
		case <-asked.over:
			return errOver
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if errors.Is(err, errOver) || ctx.Err() != nil {
		return nil
	}
	return err
}

var errOver = errors.New("nobody asks any more")

// readChunks divides what a node sends.
func readChunks(lines io.Reader, take func(chunk) error) error {
	r := bufio.NewReaderSize(lines, logLine)
	for {
		var got chunk
		for {
			line, err := r.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				return weir.Errorf(weir.Invalid, "a line has more than %d bytes", logLine)
			}
			if err != nil { // the node has no more, or is gone
				if len(got.lines) > 0 || got.left > 0 {
					return take(got)
				}
				return nil
			}
			var mark weir.LogMark
			switch {
			case len(line) == 1:
			case bytes.HasPrefix(line, []byte(`{"time":`)):
				got.lines = append(got.lines, bytes.Clone(line))
			case json.Unmarshal(line, &mark) != nil:
				return weir.Errorf(weir.Invalid, "what is no line of an access log: %.60q", line)
			default:
				got.recent = got.recent || mark.Recent
				got.left += mark.LeftOut
			}
			if got.recent || r.Buffered() == 0 || len(got.lines) >= 1000 {
				break
			}
		}
		if err := take(got); err != nil {
			return err
		}
	}
}

// AccessLog gives tell what q asks of the access log of a load balancer: the last lines of all instances in order of time,
// and if it is to follow, those that come, also of instances that come; as [weir.AccessLine] in JSON, each with a line feed, and
// a [weir.LogMark] where lines were left out. Now and then tell gets an empty line. It ends when the load balancer has
// no access log any more, ctx ends, or tell fails.
func (c *Control) AccessLog(ctx context.Context, id weir.ID, q weir.LogQuery, tell func(lines []byte) error) error {
	lb, err := c.LoadBalancer(ctx, id)
	if err != nil {
		return err
	}
	if lb.Policy.Log == nil {
		return weir.Errorf(weir.Invalid, "load balancer %q has no access log: `access_log: {}` under load_balancer in its weir.yaml turns it on, or a PUT of it with \"weir\": {\"access_log\": {}}", lb.Name)
	}
	asked, err := c.asks.begin(id, q)
	if err != nil {
		return err
	}
	defer c.asks.end(id, asked)
	if err := c.gather(ctx, id, asked, tell); err != nil || !q.Follow {
		return err
	}
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		var out []byte
		select {
		case <-ctx.Done():
			return ctx.Err()
		case got := <-asked.chunks:
			if got.recent { // of an instance that is new
				slices.SortStableFunc(got.lines, byTime)
			}
			out = got.text(nil)
		case <-tick.C:
			if lb, err := c.LoadBalancer(ctx, id); err != nil || lb.Policy.Log == nil {
				return err
			}
			out = []byte("\n")
		}
		if err := tell(out); err != nil {
			return err
		}
	}
}

// gather tells the last lines of all instances that are heard of, in order.
func (c *Control) gather(ctx context.Context, lb weir.ID, asked *ask, tell func([]byte) error) error {
	missing := c.nodes.heardOf(lb)
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	var before [][]byte
	var out []byte // what came since
wait:
	for len(missing) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			break wait
		case got := <-asked.chunks:
			if !missing[got.node] { // it has told its last lines
				out = got.text(out)
				continue
			}
			before = append(before, got.lines...)
			if got.recent {
				delete(missing, got.node)
			}
		}
	}
	slices.SortStableFunc(before, byTime)
	before = before[max(0, len(before)-asked.query.Recent):]
	if out = append(bytes.Join(before, nil), out...); len(out) == 0 {
		out = []byte("\n") // so that who asks hears that it is asked
	}
	return tell(out)
}

// heardOf returns the nodes of a load balancer that have said something lately.
func (n *nodes) heardOf(lb weir.ID) map[weir.ID]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[weir.ID]bool{}
	for id, config := range n.configs {
		if config.Proxy.LoadBalancer == lb && time.Since(n.reported[id].Seen) < stale {
			all[id] = true
		}
	}
	return all
}

// text appends a chunk to lines.
func (got *chunk) text(lines []byte) []byte {
	for _, line := range got.lines {
		lines = append(lines, line...)
	}
	if got.left > 0 {
		lines = fmt.Appendf(lines, "{\"left_out\":%d}\n", got.left)
	}
	return lines
}

// byTime compares lines, which begin with their time, always of the same length.
func byTime(a, b []byte) int {
	const length = len(`{"time":"2026-11-28T19:30:00.123Z"`)
	return strings.Compare(string(a[:min(length, len(a))]), string(b[:min(length, len(b))]))
}

// checkShipped returns why who calls may not have the access log sent where lb says: instances would send packets to
// anywhere for a tenant. Who leaves a destination as it is may change all else.
func checkShipped(ctx context.Context, tx *store.Tx, lb *weir.LoadBalancer) error {
	if lb.Policy.Log == nil || lb.Policy.Log.Syslog == "" || weir.CallerOf(ctx).May(weir.ScopeAdmin) {
		return nil
	}
	was, err := loadBalancers.Get(ctx, tx, lb.ID)
	if err != nil && !errors.Is(err, weir.NotFound) {
		return err
	}
	if was.Policy.Log != nil && was.Policy.Log.Syslog == lb.Policy.Log.Syslog {
		return nil
	}
	return weir.Errorf(weir.Invalid, "load balancer %q: access_log.syslog is %q, and where instances send packets is the operator's to say, with a token that has the scope admin: leave it out, and follow the log with `weir logs`", lb.Name, lb.Policy.Log.Syslog)
}
