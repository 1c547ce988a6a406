package nodeapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"weir/pki"
	"weir/weir"
)

// Serve answers nodes on ln, under the names and IP addresses in hosts, until ctx ends.
// It closes ln. Nodes that wait for a NodeConfig are then told to come back.
func Serve(ctx context.Context, ln net.Listener, c Control, ca *pki.CA, hosts []string, log *slog.Logger) error {
	return serve(ctx, ln, newHandler(c, ca, Life, log), ca, hosts)
}

func serve(ctx context.Context, ln net.Listener, h *handler, ca *pki.CA, hosts []string) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: answerTime,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxRequest,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	wg.Go(func() {
		<-ctx.Done()
		patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if srv.Shutdown(patience) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(tls.NewListener(ln, &tls.Config{
		GetCertificate: ca.GetCertificate(hosts...),
		ClientAuth:     tls.VerifyClientCertIfGiven, // only enrolling goes without
		ClientCAs:      ca.Pool(),
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"http/1.1"},
	}))
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve nodes on %s: %w", ln.Addr(), err)
}

// handler answers the requests of nodes. Its server must speak TLS and must have
// verified client certificates, where there are any, against ca; serve does.
type handler struct {
	control Control
	ca      *pki.CA
	life    time.Duration // of the certificates it signs
	log     *slog.Logger
	mux     *http.ServeMux
	fetches chan struct{} // as many as may have the program at once
}

// fetchTime is how long the program may take, and fetches how many have it at once.
const (
	fetchTime = 5 * time.Minute
	fetches   = 8
)

func newHandler(c Control, ca *pki.CA, life time.Duration, log *slog.Logger) *handler {
	h := &handler{c, ca, life, log, http.NewServeMux(), make(chan struct{}, fetches)}
	h.mux.HandleFunc("GET "+weir.ProgramPath, h.program)
	h.mux.HandleFunc("POST "+enrolPath, h.enrol)
	h.mux.HandleFunc("GET "+configPath, h.known(poll(h, h.config)))
	h.mux.HandleFunc("POST "+statusPath, h.known(h.status))
	h.mux.HandleFunc("GET "+queriesPath, h.known(poll(h, c.LogQueries)))
	h.mux.HandleFunc("POST "+logsPath, h.known(h.logs))
	h.mux.HandleFunc("POST "+renewPath, h.known(h.renew))
	return h
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A deadline of the connection's last request would otherwise end this one.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(pollWait + answerTime)); err != nil {
		h.fail(w, r, err)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// program answers with the program that this process runs, whatever has come in the place of its file since.
func (h *handler) program(w http.ResponseWriter, r *http.Request) {
	select {
	case h.fetches <- struct{}{}:
		defer func() { <-h.fetches }()
	default:
		w.Header().Set("Retry-After", "3")
		h.fail(w, r, weir.Errorf(weir.Unavailable, "%d others have the program sent at this moment", fetches))
		return
	}
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer f.Close()
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(fetchTime)); err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "weir", time.Time{}, f)
}

// known answers only nodes that have a certificate which is still valid.
func (h *handler) known(next func(http.ResponseWriter, *http.Request, weir.ID)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			answer(w, http.StatusUnauthorized, problem{weir.Denied, "no client certificate: enrol first"})
			return
		}
		cert := r.TLS.VerifiedChains[0][0]
		// TLS looked at the handshake; the connection may have lasted since.
		if time.Now().After(cert.NotAfter) {
			answer(w, http.StatusUnauthorized, problem{weir.Denied, "the client certificate has expired: enrol again"})
			return
		}
		node, err := pki.Node(cert)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		next(w, r, node)
	}
}

func (h *handler) enrol(w http.ResponseWriter, r *http.Request) {
	var body enrolment
	if !h.read(w, r, maxRequest, &body) {
		return
	}
	public, err := pki.PublicKey(body.CSR)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	node, err := h.control.Enrol(r.Context(), body.Token, der)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.log.Info("node enrols", "node", node, "from", r.RemoteAddr)
	h.sign(w, r, body.CSR, node)
}

func (h *handler) renew(w http.ResponseWriter, r *http.Request, node weir.ID) {
	var body renewal
	if h.read(w, r, maxRequest, &body) {
		h.sign(w, r, body.CSR, node)
	}
}

func (h *handler) sign(w http.ResponseWriter, r *http.Request, csr []byte, node weir.ID) {
	cert, err := h.ca.Sign(csr, node, h.life)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	answer(w, http.StatusOK, signed{string(cert)})
}

// poll answers with what next returns, once that is another than the one after which the node asks; with 204 if it is not for a while.
func poll[T any](h *handler, next func(ctx context.Context, node weir.ID, after int64) (T, error)) func(http.ResponseWriter, *http.Request, weir.ID) {
	return func(w http.ResponseWriter, r *http.Request, node weir.ID) {
		after, err := strconv.ParseInt(r.FormValue("after"), 10, 64)
		if err != nil {
			h.fail(w, r, weir.Errorf(weir.Invalid, "after is %.20q, want a number", r.FormValue("after")))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), pollWait)
		defer cancel()
		got, err := next(ctx, node, after)
		switch {
		case err == nil:
			answer(w, http.StatusOK, got)
		case r.Context().Err() != nil:
			// The node is gone, and nobody reads this; or Serve is at its end.
			w.Header().Set("Connection", "close")
			h.fail(w, r, weir.Errorf(weir.Unavailable, "the control plane stops"))
		case ctx.Err() != nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			h.fail(w, r, err)
		}
	}
}

// config returns the configuration of the node that asks, and no other's.
func (h *handler) config(ctx context.Context, node weir.ID, after int64) (weir.NodeConfig, error) {
	cfg, err := h.control.NodeConfig(ctx, node, after)
	if err == nil && cfg.Node != node {
		return weir.NodeConfig{}, fmt.Errorf("node %s: there is the configuration of node %s", node, cfg.Node)
	}
	return cfg, err
}

func (h *handler) status(w http.ResponseWriter, r *http.Request, node weir.ID) {
	var status weir.NodeStatus
	if !h.read(w, r, maxDocument, &status) {
		return
	}
	if status.Node != node {
		h.fail(w, r, weir.Errorf(weir.Denied, "node %s reports for node %.40q", node, status.Node))
		return
	}
	status.Seen, status.LoadBalancer = time.Now(), "" // not the node's to say
	revision, err := h.control.Report(r.Context(), status)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	answer(w, http.StatusOK, taken{revision})
}

// read takes in a body that is one JSON value of at most limit bytes. If it is anything
// else, or takes too long, read answers and returns false.
func (h *handler) read(w http.ResponseWriter, r *http.Request, limit int64, into any) bool {
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		h.fail(w, r, err)
		return false
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	err := decoder.Decode(into)
	if err == nil {
		if _, more := decoder.Token(); more != io.EOF {
			err = errors.New("there is more than one value")
		}
	}
	if err == nil {
		err = rc.SetReadDeadline(time.Time{})
	}
	if err == nil {
		return true
	}
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		answer(w, http.StatusRequestEntityTooLarge, problem{weir.Invalid, fmt.Sprintf("the body has more than %d bytes", limit)})
	} else {
		h.fail(w, r, weir.Errorf(weir.Invalid, "the body: %w", err))
	}
	return false
}

// fail answers with an error. A node that is not there has no more rights than one
// that was never there.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	kind := weir.KindOf(err)
	if kind == "" {
		h.log.Error("request of a node", "path", r.URL.Path, "from", r.RemoteAddr, "err", err)
		err = errors.New("an error of the control plane, which has it in its log")
	}
	if kind == weir.NotFound {
		kind = weir.Denied
	}
	answer(w, statusOf(kind), problem{kind, err.Error()})
}

// answer sends a JSON body. If that breaks, the node sees it: there is nobody else to tell.
func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
