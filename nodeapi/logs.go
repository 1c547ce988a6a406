package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"weir/weir"
)

// Lines of an access log come in one request for as long as somebody asks for them.
const (
	quietTime = 20 * time.Second // between signs of life of who sends them: an empty line, if there is no other
	deafTime  = 3 * quietTime    // after which who sends them is thought to be gone
)

// logs takes in lines of the node's access log, until there are no more, or nobody asks for them.
func (h *handler) logs(w http.ResponseWriter, r *http.Request, node weir.ID) {
	rc := http.NewResponseController(w)
	lines := &deadlined{body: r.Body, rc: rc}
	// What is answered comes whenever it comes.
	if err := errors.Join(rc.SetWriteDeadline(time.Time{}), rc.EnableFullDuplex()); err != nil {
		h.fail(w, r, err)
		return
	}
	err := h.control.TakeLog(r.Context(), node, weir.ID(r.FormValue("query")), lines)
	w.Header().Set("Connection", "close") // nobody reads the rest
	if rc.SetWriteDeadline(time.Now().Add(answerTime)) != nil {
		return
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// deadlined is a body of whose sender something is to be heard now and then.
type deadlined struct {
	body io.Reader
	rc   *http.ResponseController

	mu     sync.Mutex
	closed bool
}

func (d *deadlined) Read(b []byte) (int, error) {
	if err := d.await(); err != nil {
		return 0, err
	}
	return d.body.Read(b)
}

func (d *deadlined) await() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	return d.rc.SetReadDeadline(time.Now().Add(deafTime))
}

// Close ends a Read, and all later ones.
func (d *deadlined) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.rc.SetReadDeadline(time.Now())
}

// LogQueries waits up to a minute until another version than after is asked of the access log of the node's load balancer.
// Without ok nothing is new.
func (c *Client) LogQueries(ctx context.Context, after int64) (q weir.LogQueries, ok bool, err error) {
	text, err := c.poll(ctx, queriesPath, after)
	if err != nil || text == nil {
		return q, false, err
	}
	return q, true, c.decode(text, &q)
}

// SendLog sends what write writes, lines of the access log that a query asks for, until write returns, whose error it
// returns; or until nobody asks any more, which is no error. Each Write is of whole lines, and write is to end when
// its context does, or a Write fails.
func (c *Client) SendLog(ctx context.Context, query weir.ID, write func(context.Context, io.Writer) error) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, lines := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.base.Host+logsPath+"?query="+url.QueryEscape(string(query)), body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	var written error
	wg.Go(func() {
		written = write(ctx, lines)
		lines.CloseWithError(written) // nil is the end of the body
	})
	wg.Go(func() {
		tick := time.NewTicker(quietTime)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if _, err := io.WriteString(lines, "\n"); err != nil {
					return
				}
			}
		}
	})
	_, err = c.roundTrip(req)
	cancel()
	body.CloseWithError(errNobodyAsks)
	wg.Wait()
	switch {
	case err == nil && (errors.Is(written, errNobodyAsks) || errors.Is(written, context.Canceled)):
		return nil
	case err == nil:
		return written
	}
	return fmt.Errorf("control plane %s: %w", c.base.Host, err)
}

// errNobodyAsks is what a Write fails with once a query is over.
var errNobodyAsks = errors.New("nobody asks for these lines any more")
