package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"weir/weir"
)

// MaxAudits is how many requests GET /v2/weir/audit answers with at most.
const MaxAudits = 1000

// What the audit log has of a request is bounded, whatever the request is.
const (
	someAudits    = 100
	auditText     = 512 // bytes of a path, of a sentence, of an ID
	auditCreated  = 100 // things of one request
	auditPatience = 2 * time.Second
)

// newSparse returns how many requests are recorded of those that anybody can make without end: ten
// at once, and one a minute.
func newSparse() *rate.Limiter { return rate.NewLimiter(rate.Every(time.Minute), 10) }

// record has next answer a request for a change, and records the request before the answer is sent.
// What is changed is changed together with a record that has no result yet, so that
// none is missing if this process dies in between.
func (a *api) record(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	caller := weir.CallerOf(r.Context())
	entry := a.Control.BeginAudit(weir.Audit{Team: caller.Team, User: caller.User, Token: caller.Token, Name: caller.Name, From: from(r),
		Method: bounded(r.Method), Path: auditPath(r.URL), Resource: resource(r), Request: weir.ID(w.Header().Get(requestID))})
	held := &heldAnswer{header: w.Header()}
	returned := false
	defer func() {
		if !returned { // it has panicked, and guard answers
			entry.Status, entry.Err = http.StatusInternalServerError, "the request panicked"
			a.keep(r.Context(), entry)
		}
	}()
	next(held, r.WithContext(weir.WithAudit(r.Context(), entry)))
	returned = true
	held.WriteHeader(http.StatusOK) // unless it has answered otherwise
	entry.Status = held.status
	if entry.Status >= http.StatusBadRequest {
		entry.Err = held.sentence()
	} else if r.Method == http.MethodPost && entry.Status != http.StatusOK { // which is that of a dry run
		entry.Created = held.created()
	}
	a.keep(r.Context(), entry)
	w.WriteHeader(held.status)
	w.Write(held.body.Bytes()) // fails if the client has left: there is nobody to tell
}

// keep writes a record.
func (a *api) keep(ctx context.Context, entry weir.Audit) {
	switch {
	case entry.Status == http.StatusUnauthorized && !a.strangers.Allow(), entry.Status == http.StatusTooManyRequests && !a.hasty.Allow():
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditPatience) // whether or not the caller has left
	defer cancel()
	if err := a.Control.EndAudit(ctx, entry); err != nil {
		a.Log.Error("request not in the audit log", "request", entry.Request, "method", entry.Method, "path", entry.Path, "status", entry.Status,
			"team", entry.Team, "user", entry.User, "token", entry.Token, "from", entry.From, "err", err)
	}
}

// heldAnswer keeps an answer until it is sent.
type heldAnswer struct {
	header http.Header
	status int // 0: there is none yet
	body   bytes.Buffer
}

func (h *heldAnswer) Header() http.Header { return h.header }

func (h *heldAnswer) WriteHeader(status int) { h.status = cmp.Or(h.status, status) }

func (h *heldAnswer) Write(b []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(b)
}

// sentence returns why the answer is a refusal.
func (h *heldAnswer) sentence() string {
	var e errorBody
	json.Unmarshal(h.body.Bytes(), &e) // refuse has written it
	return bounded(e.Message)
}

// created returns the IDs of what the answer shows: of the one thing that it is about, or of all
// in its one list. Of those that have no ID it is their address or their name.
func (h *heldAnswer) created() (ids []weir.ID) {
	type thing struct {
		ID   any    `json:"id"`
		UUID string `json:"uuid"`
		IP   string `json:"ip"`
		Name string `json:"name"`
	}
	add := func(t thing) {
		id := t.UUID
		switch v := t.ID.(type) {
		case string:
			id = v
		case float64:
			id = strconv.FormatFloat(v, 'f', -1, 64)
		}
		if id = bounded(cmp.Or(id, t.IP, t.Name)); id != "" && len(ids) < auditCreated {
			ids = append(ids, weir.ID(id))
		}
	}
	var whole thing
	if json.Unmarshal(h.body.Bytes(), &whole) == nil && whole.ID != nil {
		add(whole)
		return ids
	}
	var roots map[string]json.RawMessage
	if json.Unmarshal(h.body.Bytes(), &roots) != nil {
		return nil
	}
	delete(roots, "links")
	delete(roots, "meta")
	if len(roots) != 1 {
		return nil
	}
	for _, root := range roots {
		var one thing
		var many []thing
		if json.Unmarshal(root, &one) == nil {
			add(one)
		} else if json.Unmarshal(root, &many) == nil {
			for _, t := range many {
				add(t)
			}
		}
	}
	return ids
}

// resource returns what the path of a request names.
func resource(r *http.Request) weir.ID {
	for _, name := range []string{"id", "name", "ip"} {
		if value := r.PathValue(name); value != "" {
			return weir.ID(bounded(value))
		}
	}
	return ""
}

// auditPath returns the path of a request, with what of its query says what is to be changed.
func auditPath(u *url.URL) string {
	q := u.Query()
	said := url.Values{}
	for _, name := range []string{"tag_name", "dry_run"} {
		if q.Has(name) {
			said.Set(name, q.Get(name))
		}
	}
	path := u.Path
	if len(said) > 0 {
		path += "?" + said.Encode()
	}
	return bounded(path)
}

// bounded returns s, which may be anything, as text of no more than auditText bytes.
func bounded(s string) string {
	const cut = "…"
	if len(s) > auditText {
		n := auditText - len(cut)
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + cut
	}
	return s
}

// audit answers with who asked for which change, the newest first.
func (a *api) audit(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit := someAudits
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > MaxAudits {
			return invalid("limit is %.40q, want 1 to %d", text, MaxAudits)
		}
		limit = n
	}
	before := q.Get("before")
	if before != "" && !opaque.MatchString(before) {
		return invalid("before is %.40q, want the ID of a request in the audit log", before)
	}
	f := weir.AuditFilter{Token: weir.ID(q.Get("token")), User: q.Get("user"), Path: q.Get("path")}
	if text := q.Get("since"); text != "" {
		var err error
		if f.Since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return invalid("since is %.40q, want a time such as 2026-01-31T09:30:00Z", text)
		}
	}
	all, err := a.Control.Audits(r.Context(), f, weir.ID(before), limit)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"audit": some(all)})
}

// costs answers with all that costs money.
func (a *api) costs(w http.ResponseWriter, r *http.Request) error {
	costs, err := a.Control.Costs(r.Context())
	if err != nil {
		return err
	}
	costs.Items = some(costs.Items)
	return reply(w, http.StatusOK, map[string]any{"costs": costs})
}
