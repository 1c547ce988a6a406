package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

const (
	auditEvery = time.Second     // between looks for what was asked for
	pendingFor = 2 * time.Minute // how long a result may take to be known
)

type audit struct {
	user   *user
	format format
	follow bool
	most   int
	since  string
	query  url.Values // the filters
}

func auditCommand(u *user) *cobra.Command {
	a := audit{user: u, query: url.Values{}}
	var token, name, path string
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Tell who asked for which change",
		Long: `Tell who asked for which change, the oldest first: when, the status of the answer, whose
token it was, from where, what, and which resources came of it or why it was refused. A
status of ? is that of a change whose answer was perhaps never sent. What Weir does by
itself is in weir events, and what came of it all that costs money in weir audit costs. Times are local.`,
		Example: `  weir audit
  weir audit --since 24h --path /v2/load_balancers
  weir audit -f -o json | jq .path`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.most < 1 || a.most > api.MaxAudits {
				return usageErrorf("--number/-n is %d, want 1 to %d", a.most, api.MaxAudits)
			}
			if a.since != "" && !cmd.Flags().Changed("number") {
				a.most = 0 // all since then
			}
			for name, value := range map[string]string{"token": token, "user": name, "path": path} {
				if value != "" {
					a.query.Set(name, value)
				}
			}
			return a.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&a.follow, "follow", "f", false, "go on telling what is asked for, until Ctrl-C")
	f.IntVarP(&a.most, "number", "n", 50, "how many to tell at first, the newest; all with --since")
	f.StringVar(&a.since, "since", "", "tell of nothing before this `time`: 90m ago, or 2026-01-31T09:30:00Z, or that day")
	f.StringVar(&token, "token", "", "tell of the token with this `ID` only")
	f.StringVar(&name, "user", "", "tell of the tokens of this `name` only")
	f.StringVar(&path, "path", "", "tell of what is at and below this `path` only, such as /v2/droplets")
	a.format.flags(cmd)
	cmd.AddCommand(auditCostsCommand(u))
	return cmd
}

// sinceTime returns the time that --since says.
func sinceTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageErrorf("--since is %.40q, want a duration such as 90m, or a time such as 2026-01-31 or 2026-01-31T09:30:00Z", text)
}

func (a *audit) run(ctx context.Context, stdout, stderr io.Writer) error {
	since, err := sinceTime(a.since, time.Now())
	if err != nil {
		return err
	}
	c, err := a.user.connect()
	if err != nil {
		return err
	}
	t := trail{client: c, query: a.query, horizon: since, told: map[weir.ID]time.Time{}}
	fresh, err := t.next(ctx, a.most, a.follow)
	if err != nil {
		return err
	}
	told := tale[weir.Audit]{format: a.format, follow: a.follow, every: auditEvery, nothing: "nobody has asked for a change",
		tell: newAuditTeller(stdout, fresh).tell,
		next: func(ctx context.Context) ([]weir.Audit, error) { return t.next(ctx, 0, true) }}
	return told.run(ctx, fresh, stdout, stderr)
}

// trail reads the audit log, each request once.
type trail struct {
	client  *client
	query   url.Values
	horizon time.Time             // what is older has been told, or is not to be
	told    map[weir.ID]time.Time // since then
}

// next returns what has come since the last call, the oldest first, at most most of the newest
// (0: all). With patient, a request whose result is not known yet is left for a later call.
// A request may be recorded after one that is newer, so that the last seconds are asked
// for again.
func (t *trail) next(ctx context.Context, most int, patient bool) (fresh []weir.Audit, err error) {
	all, err := t.client.audits(ctx, t.query, t.horizon, most)
	if err != nil {
		return nil, err
	}
	horizon := t.horizon
	if len(all) > 0 {
		horizon = all[0].At.Add(-lateFor)
	}
	if oldest := len(all) - 1; oldest >= 0 && len(all) == most && horizon.Before(all[oldest].At) {
		horizon = all[oldest].At // what was before is not asked for
	}
	for _, e := range slices.Backward(all) {
		if _, told := t.told[e.ID]; told {
			continue
		}
		if patient && e.Status == 0 && time.Since(e.At) < pendingFor {
			if e.At.Before(horizon) {
				horizon = e.At
			}
			continue
		}
		t.told[e.ID] = e.At
		fresh = append(fresh, e)
	}
	if horizon.After(t.horizon) {
		t.horizon = horizon
	}
	for id, at := range t.told {
		if at.Before(t.horizon) {
			delete(t.told, id)
		}
	}
	return fresh, nil
}

// audits returns who asked for which change since a time (ever, if it is zero), the newest
// first, at most most of them (0: all).
func (c *client) audits(ctx context.Context, filters url.Values, since time.Time, most int) (all []weir.Audit, err error) {
	for before := weir.ID(""); ; before = all[len(all)-1].ID {
		q := url.Values{}
		for name, values := range filters {
			q[name] = values
		}
		limit := api.MaxAudits
		if most > 0 {
			limit = min(limit, most-len(all))
		}
		q.Set("limit", fmt.Sprint(limit))
		if before != "" {
			q.Set("before", string(before))
		}
		if !since.IsZero() {
			q.Set("since", since.UTC().Format(time.RFC3339Nano))
		}
		var answer struct {
			Audit *[]weir.Audit `json:"audit"`
		}
		if _, err := c.do(ctx, http.MethodGet, "/v2/weir/audit?"+q.Encode(), nil, &answer); err != nil {
			return nil, err
		}
		if answer.Audit == nil {
			return nil, c.stranger()
		}
		all = append(all, *answer.Audit...)
		if len(*answer.Audit) < limit || len(all) == most {
			return all, nil
		}
	}
}

// auditTeller writes requests for people, in columns.
type auditTeller struct {
	w      io.Writer
	widths [3]int // of who, from, what
	day    string // of what was told last
}

// newAuditTeller returns a teller whose columns have room for what is told first.
func newAuditTeller(w io.Writer, first []weir.Audit) *auditTeller {
	t := &auditTeller{w: w, day: time.Now().Format(time.DateOnly)}
	for _, e := range first {
		t.fit(auditColumns(e))
	}
	return t
}

// auditColumns returns who asked, from where, and for what.
func auditColumns(e weir.Audit) [3]string {
	who := oneLine(e.User)
	switch {
	case who == "" && e.Name != "":
		who = "token " + oneLine(e.Name)
	case who == "" && e.Token != "":
		who = "token " + string(e.Token)
	case who == "" && e.Status == http.StatusUnauthorized:
		who = "unknown"
	case who == "":
		who = "operator"
	}
	if e.Team != "" {
		who += "@" + string(e.Team)
	}
	from := "-"
	if e.From.IsValid() {
		from = e.From.String()
	}
	return [3]string{cut(who, 30), from, oneLine(e.Method + " " + e.Path)}
}

func (t *auditTeller) fit(columns [3]string) {
	for i, c := range columns {
		t.widths[i] = min(60, max(t.widths[i], utf8.RuneCountInString(c)))
	}
}

// tell writes one request; before it, if it was on another day than the one before, that day.
func (t *auditTeller) tell(e weir.Audit) error {
	at := e.At.Local()
	if day := at.Format(time.DateOnly); day != t.day {
		t.day = day
		if _, err := fmt.Fprintln(t.w, at.Format("Mon 2 Jan 2006")); err != nil {
			return err
		}
	}
	columns := auditColumns(e)
	t.fit(columns)
	status, result := fmt.Sprint(e.Status), oneLine(e.Err)
	if e.Status == 0 {
		status = "?"
	}
	if len(e.Created) > 0 {
		var ids []string
		for _, id := range e.Created {
			ids = append(ids, string(id))
		}
		result = oneLine("made " + strings.Join(ids, " "))
	}
	line := fmt.Sprintf("%s  %-3s  %-*s  %-*s  %-*s  %s", at.Format(clock), status,
		t.widths[0], columns[0], t.widths[1], columns[1], t.widths[2], columns[2], result)
	_, err := fmt.Fprintln(t.w, strings.TrimRight(line, " "))
	return err
}
