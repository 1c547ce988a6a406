package api

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"

	"weir/weir"
)

const requestID = "X-Request-Id"

// guard gives each request its ID, and turns a panic into a 500 and a line in the log.
func (a *api) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := uuid.NewString()
		w.Header().Set(requestID, id)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		a.tellUnused(w)
		defer func() {
			why := recover()
			if why == nil {
				return
			}
			if why == http.ErrAbortHandler {
				panic(why)
			}
			a.Log.Error("request panicked", "request", id, "method", r.Method, "path", r.URL.Path,
				"err", why, "stack", string(debug.Stack()))
			a.refuse(w, http.StatusInternalServerError, "Weir could not do this, and its log has the reason beside the request_id of this answer")
		}()
		next.ServeHTTP(w, r)
	})
}

// route finds the handler of a request. It does itself what http.ServeMux would answer
// with plain text or a redirect, which no client of this API understands.
func (a *api) route(w http.ResponseWriter, r *http.Request) {
	mux := a.muxOf(r.URL.Path)
	h, pattern := mux.Handler(r)
	if pattern != "" && path.Clean(r.URL.Path) == r.URL.Path {
		mux.ServeHTTP(w, r)
		return
	}
	a.told("none", a.answer(func(w http.ResponseWriter, r *http.Request) error {
		asked := probe{header: http.Header{}}
		h.ServeHTTP(&asked, r)
		if asked.status != http.StatusMethodNotAllowed {
			return &statusError{http.StatusNotFound, fmt.Sprintf(textNoRoute, r.URL.Path)}
		}
		allow := asked.header.Get("Allow")
		w.Header().Set("Allow", allow)
		return &statusError{http.StatusMethodNotAllowed, "the method " + r.Method + " is not for this resource, want one of " + allow}
	}))(w, r)
}

// probe is told what a handler would answer.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) WriteHeader(status int)      { p.status = status }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }

// answer has h answer those who may call, and answers for it if it returns an error.
func (a *api) answer(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r, err := a.letIn(w, r)
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			a.record(w, r, func(w http.ResponseWriter, r *http.Request) { a.respond(w, r, h, err) })
			return
		}
		a.respond(w, r, h, err)
	}
}

// respond has h answer, or answers itself because of err.
func (a *api) respond(w http.ResponseWriter, r *http.Request, h handler, err error) {
	if err == nil {
		err = h(w, r)
	}
	if forbidden, ok := errors.AsType[*lackError](err); ok {
		a.forbid(w, forbidden.scope)
		return
	}
	if err != nil {
		status, text := statusOf(err)
		if status >= http.StatusInternalServerError && r.Context().Err() == nil {
			a.Log.Error("request failed", "request", w.Header().Get(requestID), "method", r.Method, "path", r.URL.Path,
				"status", status, "err", err)
		}
		a.refuse(w, status, text)
	}
}

// letIn returns a request with its caller, or why it is not answered.
func (a *api) letIn(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	r, err := a.admit(r)
	if errors.Is(err, weir.Denied) {
		err = &statusError{http.StatusUnauthorized, textUnauthorized}
	}
	if err == nil {
		err = a.limit(w, r)
	}
	if err == nil {
		err = a.permit(r)
	}
	if err == nil {
		err = checkQuery(r)
	}
	return r, err
}

// checkQuery returns why the query of a request cannot be read. What cannot would be left out where it is
// read, and a list without its filter is of all.
func checkQuery(r *http.Request) error {
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return &statusError{http.StatusBadRequest, "the query cannot be read: " + err.Error()}
	}
	return nil
}

// page serves next to callers on this machine, and to others with a token, who see what it
// is for.
func (a *api) page(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var err error
		if !local(r) {
			r, err = a.letIn(w, r)
		}
		a.respond(w, r, func(w http.ResponseWriter, r *http.Request) error {
			next.ServeHTTP(w, r)
			return nil
		}, err)
	}
}

// told serves next, and tells the metrics of what it answers on a route.
func (a *api) told(route string, next http.HandlerFunc) http.HandlerFunc {
	if a.Metrics == nil {
		return next
	}
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		heard := &listener{ResponseWriter: w, status: http.StatusOK}
		done := false
		defer func() {
			if !done { // it panics, which guard answers
				heard.status = http.StatusInternalServerError
			}
			a.Metrics.Answered(route, heard.status, time.Since(began))
		}()
		next(heard, r)
		done = true
	}
}

// listener hears what a handler answers.
type listener struct {
	http.ResponseWriter
	status int
}

func (l *listener) WriteHeader(status int) {
	l.status = status
	l.ResponseWriter.WriteHeader(status)
}

func (l *listener) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// admit returns a request that has a token which is good, with its caller, and a weir.Denied for
// one that has none.
func (a *api) admit(r *http.Request) (*http.Request, error) {
	token, ok := bearer(r)
	if !ok {
		return r, weir.Errorf(weir.Denied, "there is no token")
	}
	caller, err := a.Users.Authorize(r.Context(), token)
	if err != nil {
		return r, err
	}
	caller.From = from(r)
	return r.WithContext(weir.WithCaller(r.Context(), caller)), nil
}

// bearer returns the token that a request has.
func bearer(r *http.Request) (token string, ok bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), strings.EqualFold(scheme, "Bearer")
}

// from returns the address that a request came from.
func from(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap()
}

// local reports whether a request was made on this machine by somebody who meant this
// machine: a page elsewhere whose name was made to point here is neither.
func local(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return false
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	meant, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && meant.IsLoopback()
}

// refuse answers with an error.
func (a *api) refuse(w http.ResponseWriter, status int, text string) {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	reply(w, status, errorBody{ID: slugs[status], Message: text, RequestID: w.Header().Get(requestID)})
}

// permit returns a lackError if the token of r's caller is not for its route.
func (a *api) permit(r *http.Request) error {
	if r.Pattern == "" {
		return nil // it is for everybody to learn that this is no route
	}
	if lacks := a.Users.Lacks(weir.CallerOf(r.Context()), r.Pattern); lacks != "" {
		return &lackError{lacks}
	}
	return nil
}

// forbid answers a caller whose token lacks a scope. Clients compare the sentence, so that the
// scope is beside it, and in the header where OAuth 2 has it (RFC 6750).
func (a *api) forbid(w http.ResponseWriter, lacks weir.Scope) {
	w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="`+string(lacks)+`"`)
	reply(w, http.StatusForbidden, errorBody{ID: slugs[http.StatusForbidden], Message: textForbidden,
		RequestID: w.Header().Get(requestID), Weir: &errorWeir{lacks}})
}
