package api

import (
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"weir/weir"
)

// tellUnused gives an answer the headers of somebody whose requests are not counted: until it is
// known who asks, that is everybody.
func (a *api) tellUnused(w http.ResponseWriter) {
	if a.Limits != nil {
		tellAllowance(w, a.Limits.Unused())
	}
}

// tellAllowance gives an answer the headers that say how often its caller may call.
func tellAllowance(w http.ResponseWriter, s weir.Allowance) {
	if s.Limit == 0 {
		return
	}
	h := w.Header()
	h.Set("RateLimit-Limit", strconv.Itoa(s.Limit))
	h.Set("RateLimit-Remaining", strconv.Itoa(s.Remaining))
	h.Set("RateLimit-Reset", strconv.FormatInt(s.Reset.Unix(), 10))
}

// here reports whether a request was made on this machine: to loopback, or to another address of
// this machine and from the same one, which the kernel believes of nobody else. A proxy on this
// machine, which asks for others, is known by the host that they meant.
func here(r *http.Request) bool {
	own, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || local(r) {
		return local(r)
	}
	to, err := netip.ParseAddrPort(own.String())
	return err == nil && !to.Addr().Unmap().IsLoopback() && to.Addr().Unmap() == from(r)
}

// limit counts a request whose caller is known, and returns the error of one too many.
func (a *api) limit(w http.ResponseWriter, r *http.Request) error {
	if a.Limits == nil {
		return nil
	}
	token, _ := bearer(r)
	s, err := a.Limits.Take(r.Context(), token, weir.CallerOf(r.Context()), here(r))
	if err != nil {
		return err
	}
	tellAllowance(w, s)
	if s.Wait == 0 {
		return nil
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(float64(s.Wait)/float64(time.Second)))))
	return &statusError{http.StatusTooManyRequests, textTooMany}
}
