// Package nodeapi is the wire between nodes and the control plane, both of its ends.
//
// The control plane gives [Serve] its [Control]; a node speaks through a [Client]. All
// of it is HTTPS with JSON bodies of bounded size, under a path that has a version:
//
//	POST /node/v1/enrol            a single-use token and a certificate request, for a certificate
//	GET  /node/v1/config?after=N   a NodeConfig, as soon as there is one of another revision than N; 204 if there is none for a while
//	POST /node/v1/status           a NodeStatus, for the revision of the newest NodeConfig
//	GET  /node/v1/queries?after=N  what is asked of the node's access log, as soon as that is another version than N; 204 if it is not for a while
//	POST /node/v1/logs?query=ID    lines of the access log, for as long as that is asked
//	POST /node/v1/renew            a certificate request, for a new certificate
//
// A node knows the control plane by the authority that its user-data has, or comes by
// that with [Authority] if its token has no more than the fingerprint, and the control plane knows a node by the certificate that it got when it enrolled: no path
// or body names a node, so that none can ask or speak for another. A certificate says
// who a node is. Whether that node may still do anything is asked of Control each time.
//
// An error travels with its kind, so that a [Client] returns the kind that [Control]
// returned; what has no kind is logged by the server and is weir.Unavailable to the node.
package nodeapi

import (
	"context"
	"io"
	"net/http"
	"time"

	"weir/weir"
)

// Control is what the control plane does for nodes.
type Control interface {
	// Enrol returns which node a token was made for. The first use of a token binds it
	// to publicKey (PKIX, DER). With that key it may be used again for as long as the
	// node exists: by a node that crashed before it had the answer, and by one that was
	// off until its certificate had expired. With another key, and for a token or a node
	// that is not there, it is weir.Denied.
	Enrol(ctx context.Context, token string, publicKey []byte) (weir.ID, error)

	// NodeConfig returns the NodeConfig of a node as soon as its revision is another than
	// after, waiting for it until ctx ends, which is ctx.Err(). A lower revision counts:
	// the control plane was restored from a backup. A node that is not there any more
	// is weir.Denied or weir.NotFound.
	NodeConfig(ctx context.Context, node weir.ID, after int64) (weir.NodeConfig, error)

	// Report takes in what a node does; Node and Seen are right. It returns the revision of
	// the node's NodeConfig at that moment, 0 if there is none, as a quorum of the control
	// plane knows it: what the node has got by then may be older. A node that is not
	// there any more is weir.Denied or weir.NotFound.
	Report(ctx context.Context, status weir.NodeStatus) (revision int64, err error)

	// LogQueries returns what is asked of the access log of a node's load balancer, as soon as its version is another
	// than after, waiting for it until ctx ends, which is ctx.Err(). A node that is not there any more is
	// weir.Denied or weir.NotFound.
	LogQueries(ctx context.Context, node weir.ID, after int64) (weir.LogQueries, error)

	// TakeLog takes in lines of a node's access log that a query asks for, until there are no more, or nobody asks, which
	// is no error. It reads no faster than who asks. Closing lines ends a Read. A query that is not of the node's load
	// balancer is weir.NotFound.
	TakeLog(ctx context.Context, node, query weir.ID, lines io.ReadCloser) error
}

// Life is how long a node's certificate is valid.
const Life = 7 * 24 * time.Hour

const (
	enrolPath  = "/node/v1/enrol"
	configPath = "/node/v1/config"
	statusPath = "/node/v1/status"
	renewPath  = "/node/v1/renew"

	queriesPath = "/node/v1/queries"
	logsPath    = "/node/v1/logs"
)

const (
	pollWait    = 50 * time.Second // an idle answer comes before middleboxes forget the connection
	answerTime  = 15 * time.Second // for anything that does not wait
	maxRequest  = 16 << 10         // bytes, of a body from somebody we may not know
	maxDocument = 16 << 20         // bytes, of a NodeConfig or NodeStatus; 10,000 servers are 2 MB
)

// The bodies, beside weir.NodeConfig and weir.NodeStatus.
type (
	enrolment struct {
		Token string `json:"token"`
		CSR   []byte `json:"csr"` // PKCS #10, DER
	}
	renewal struct {
		CSR []byte `json:"csr"`
	}
	taken struct {
		Revision int64 `json:"revision"` // of the node's NodeConfig
	}
	signed struct {
		Certificate string `json:"certificate"` // PEM
	}
	problem struct {
		Kind    weir.Kind `json:"kind,omitempty"`
		Message string    `json:"message"`
	}
)

// statusOf returns the HTTP status of a kind of error.
func statusOf(kind weir.Kind) int {
	switch kind {
	case weir.NotFound:
		return http.StatusNotFound
	case weir.Invalid:
		return http.StatusBadRequest
	case weir.Conflict:
		return http.StatusConflict
	case weir.Exhausted:
		return http.StatusTooManyRequests
	case weir.Unavailable:
		return http.StatusServiceUnavailable
	case weir.Denied:
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}
