package api

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strings"

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
	h, pattern := a.mux.Handler(r)
	if pattern != "" && path.Clean(r.URL.Path) == r.URL.Path {
		a.mux.ServeHTTP(w, r)
		return
	}
	a.answer(func(w http.ResponseWriter, r *http.Request) error {
		asked := probe{header: http.Header{}}
		h.ServeHTTP(&asked, r)
		if asked.status != http.StatusMethodNotAllowed {
			return errNotFound
		}
		allow := asked.header.Get("Allow")
		w.Header().Set("Allow", allow)
		return &statusError{http.StatusMethodNotAllowed, "the method " + r.Method + " is not for this resource, want one of " + allow}
	})(w, r)
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
		r, err := a.admit(r)
		if errors.Is(err, weir.Denied) {
			err = &statusError{http.StatusUnauthorized, textUnauthorized}
		}
		if err == nil {
			err = a.limit(w, r)
		}
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
	if err != nil {
		status, text := statusOf(err)
		if status >= http.StatusInternalServerError && r.Context().Err() == nil {
			a.Log.Error("request failed", "request", w.Header().Get(requestID), "method", r.Method, "path", r.URL.Path,
				"status", status, "err", err)
		}
		a.refuse(w, status, text)
	}
}

// page serves next to callers on this machine, and to others with a token.
func (a *api) page(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !local(r) {
			r, err := a.admit(r)
			if err != nil {
				a.refuse(w, http.StatusUnauthorized, textUnauthorized)
				return
			}
			if err := a.limit(w, r); err != nil {
				status, text := statusOf(err)
				a.refuse(w, status, text)
				return
			}
		}
		next.ServeHTTP(w, r)
	}
}

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
	reply(w, status, errorBody{slugs[status], text, w.Header().Get(requestID)})
}
