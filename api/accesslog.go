package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

const (
	usualLogLines = 100
	mostFilter    = 2048             // bytes of a part of a filter
	knownFor      = 30 * time.Second // a token that was revoked reads a log for so long at most
	tellTime      = 30 * time.Second // for lines to be taken by who asked for them
)

// accessLog answers with lines of the access log of a load balancer, one JSON object each, as they come.
func (a *api) accessLog(w http.ResponseWriter, r *http.Request) error {
	q, err := logQuery(r.URL.Query())
	if err != nil {
		return err
	}
	lb, err := a.loadBalancer(r)
	if err != nil {
		return err
	}
	rc := http.NewResponseController(w)
	// The server's limit is for requests, and this one is over.
	if err := rc.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	token, _ := bearer(r)
	known, begun := time.Now(), false
	err = a.Control.AccessLog(r.Context(), lb.ID, q, func(lines []byte) error {
		if time.Since(known) > knownFor {
			if _, err := a.Users.Authorize(r.Context(), token); errors.Is(err, weir.Denied) {
				return err
			}
			known = time.Now()
		}
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			begun = true
		}
		// A caller who does not read is no reason to wait for ever.
		if err := rc.SetWriteDeadline(time.Now().Add(tellTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if !q.Follow {
			lines = bytes.TrimLeft(lines, "\n")
		}
		if _, err := w.Write(lines); err != nil {
			return err
		}
		if err := rc.Flush(); !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		return nil
	})
	if err != nil && begun {
		// What was to be answered is under way: whoever reads it sees that it ends. That it was cut off, and not
		// just over, is seen by the way it ends.
		if r.Context().Err() == nil && !errors.Is(err, context.Canceled) {
			panic(http.ErrAbortHandler)
		}
		return nil
	}
	if err == nil && !begun {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
	}
	return err
}

// logQuery returns what the query of a URL asks of an access log.
func logQuery(v url.Values) (q weir.LogQuery, err error) {
	for _, name := range [...]string{"follow", "lines", "status", "method", "host", "path", "client", "server", "slower_than_ms", "request_id"} {
		if text := v.Get(name); len(text) > mostFilter {
			return q, invalid("%s has %d bytes, want at most %d", name, len(text), mostFilter)
		}
	}
	q.Recent = usualLogLines
	if text := v.Get("lines"); text != "" {
		if q.Recent, err = strconv.Atoi(text); err != nil || q.Recent < 0 || q.Recent > weir.MaxLogLines {
			return q, invalid("lines is %.40q, want 0 to %d", text, weir.MaxLogLines)
		}
	}
	switch text := v.Get("follow"); text {
	case "", "false":
	case "true":
		q.Follow = true
	default:
		return q, invalid("follow is %.40q, want true or false", text)
	}
	if text := v.Get("status"); text != "" {
		if q.From, q.To, err = weir.ParseStatuses(text); err != nil {
			return q, err
		}
	}
	q.Method, q.Host, q.Path = v.Get("method"), v.Get("host"), v.Get("path")
	q.Server, q.RequestID = v.Get("server"), v.Get("request_id")
	if q.Path != "" && !strings.HasPrefix(q.Path, "/") {
		return q, invalid("path is %.60q, want what paths begin with, such as /api", q.Path)
	}
	if text := v.Get("client"); text != "" {
		if q.Client, err = clientPrefix(text); err != nil {
			return q, err
		}
	}
	if text := v.Get("slower_than_ms"); text != "" {
		const most = int(24 * time.Hour / time.Millisecond)
		ms, err := strconv.Atoi(text)
		if err != nil || ms < 0 || ms > most {
			return q, invalid("slower_than_ms is %.40q, want 0 to %d", text, most)
		}
		q.Slower = time.Duration(ms) * time.Millisecond
	}
	return q, nil
}

// clientPrefix returns which addresses a text means.
func clientPrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	return netip.Prefix{}, invalid("client is %.60q, want an address or a network, such as 192.0.2.7 or 192.0.2.0/24", text)
}
