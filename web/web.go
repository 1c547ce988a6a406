// Package web is Weir's door for people: one page that shows a region at a glance, and one
// that tells what the API does.
//
// [New] returns the first. The page is rendered here, whole: it has its style in it,
// needs no script, and asks for itself again every few seconds. It shows what a
// [weir.RegionStatus] has, the problems first, and what happened lately, the newest first.
// Who may see it is the business of whoever serves it.
//
// [NewDocs] returns the second: what an OpenAPI document says, for people.
package web

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"log/slog"
	"net/http"

	"weir/weir"
)

//go:embed status.html style.html docs.html
var sources embed.FS

// refresh is how long a browser waits, in seconds, before it asks for the page again.
const refresh = 5

// lately is how many events are on the page.
const lately = 15

// Region says what is on the page. Package control has one.
type Region interface {
	// Status returns the region at a glance.
	Status(ctx context.Context) (weir.RegionStatus, error)
	// Events returns what happened after the event with that ID, at most limit of the newest,
	// the oldest of them first; of one load balancer unless lb is empty.
	Events(ctx context.Context, lb, after weir.ID, limit int) ([]weir.Event, error)
}

// New returns the page of a region.
func New(region Region, log *slog.Logger) http.Handler {
	page := template.Must(template.ParseFS(sources, "status.html", "style.html"))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, code := view{Refresh: refresh}, http.StatusServiceUnavailable
		s, err := region.Status(r.Context())
		var events []weir.Event
		if err == nil {
			events, err = region.Events(r.Context(), "", "", lately)
		}
		if err == nil {
			v, code = newView(s, events), http.StatusOK
		} else if r.Context().Err() == nil {
			log.Warn("status not read", "err", err)
		}
		var body bytes.Buffer
		if err := page.Execute(&body, v); err != nil {
			log.Error("status page not rendered", "err", err)
			http.Error(w, "the page could not be made: Weir's log has the reason", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		reply(w, code, body.Bytes())
	})
}

// reply answers with a page, which has all it needs in it.
func reply(w http.ResponseWriter, code int, page []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(code)
	w.Write(page) // fails if the browser has left: there is nobody to tell
}
