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
	followEvery = 300 * time.Millisecond // between looks for what has happened
	lateFor     = 5 * time.Second        // an event may become known so long after a newer one
)

type events struct {
	user     *user
	format   format
	follow   bool
	balancer string
	most     int
}

func eventsCommand(u *user) *cobra.Command {
	e := events{user: u}
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Tell what has happened",
		Long: `Tell what has happened, the oldest first: what was seen (evidence), what was decided
because of it (decision), what was done (step), and what users asked for (request).
Times are local.`,
		Example: `  weir events
  weir events -f --lb front
  weir events -f -o json | jq .text`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.most < 1 || e.most > api.MaxEvents {
				return usageErrorf("--number/-n is %d, want 1 to %d", e.most, api.MaxEvents)
			}
			return e.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&e.follow, "follow", "f", false, "go on telling what happens, until Ctrl-C")
	f.StringVar(&e.balancer, "lb", "", "tell of the load balancer of this `name` or ID only")
	f.IntVarP(&e.most, "number", "n", 50, "how many to tell at first, the newest")
	e.format.flags(cmd)
	cmd.RegisterFlagCompletionFunc("lb", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return u.completeBalancer(cmd.Context(), nil), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

func (e *events) run(ctx context.Context, stdout, stderr io.Writer) error {
	c, err := e.user.connect()
	if err != nil {
		return err
	}
	s := story{client: c, balancer: e.balancer}
	first, err := s.next(ctx, e.most)
	if err != nil {
		return orNotThere(err, "there is no load balancer %q, and nothing is remembered of one", e.balancer)
	}
	told := tale[weir.Event]{format: e.format, follow: e.follow, every: followEvery, nothing: "nothing has happened yet",
		tell: newTeller(stdout, first).tell,
		next: func(ctx context.Context) ([]weir.Event, error) { return s.next(ctx, api.MaxEvents) }}
	return told.run(ctx, first, stdout, stderr)
}

// story reads what happens, each event once.
type story struct {
	client   *client
	balancer string       // a name or an ID; "" for everything
	recent   []weir.Event // told, and not much older than the newest, by ID
}

// next returns what has become known since the last call, the oldest first, at most most of the
// newest. The clocks of the control plane's members differ: an event may become known
// after one that is newer, so that the last seconds are asked for again.
func (s *story) next(ctx context.Context, most int) (fresh []weir.Event, err error) {
	after := weir.ID("")
	if len(s.recent) > 0 {
		after = s.recent[0].ID
	}
	all, err := s.client.events(ctx, s.balancer, after, most)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if !slices.ContainsFunc(s.recent, func(told weir.Event) bool { return told.ID == e.ID }) {
			fresh = append(fresh, e)
		}
	}
	s.recent = append(s.recent, fresh...)
	slices.SortFunc(s.recent, func(a, b weir.Event) int { return strings.Compare(string(a.ID), string(b.ID)) })
	if n := len(s.recent); n > 0 {
		old := s.recent[n-1].At.Add(-lateFor)
		s.recent = slices.DeleteFunc(s.recent, func(e weir.Event) bool { return e.At.Before(old) })
	}
	return fresh, nil
}

// events returns what happened after an event, at most limit of the newest; of one load
// balancer, given by name or ID, unless that is empty.
func (c *client) events(ctx context.Context, balancer string, after weir.ID, limit int) ([]weir.Event, error) {
	q := url.Values{"limit": {fmt.Sprint(limit)}}
	if balancer != "" {
		q.Set("load_balancer", balancer)
	}
	if after != "" {
		q.Set("after", string(after))
	}
	var answer struct {
		Events *[]weir.Event `json:"events"`
	}
	if _, err := c.do(ctx, http.MethodGet, "/v2/weir/events?"+q.Encode(), nil, &answer); err != nil {
		return nil, err
	}
	if answer.Events == nil {
		return nil, c.stranger()
	}
	return *answer.Events, nil
}

// teller writes events for people, in columns.
type teller struct {
	w     io.Writer
	width int    // of a line; none if w is no terminal
	name  int    // how wide the column of names is
	day   string // of what was told last
}

// newTeller returns a teller whose columns have room for what is told first.
func newTeller(w io.Writer, first []weir.Event) *teller {
	t := &teller{w: w, width: terminalWidth(w), day: time.Now().Format(time.DateOnly)}
	for _, e := range first {
		t.name = max(t.name, utf8.RuneCountInString(short(oneLine(e.Name))))
	}
	return t
}

// tell writes one event; before it, if it was on another day than the one before, that day.
func (t *teller) tell(e weir.Event) error {
	at := e.At.Local()
	if day := at.Format(time.DateOnly); day != t.day {
		t.day = day
		if _, err := fmt.Fprintln(t.w, at.Format("Mon 2 Jan 2006")); err != nil {
			return err
		}
	}
	name := short(oneLine(e.Name))
	t.name = max(t.name, utf8.RuneCountInString(name))
	first := fmt.Sprintf("%s  %-*s  %-8s  ", at.Format(clock), t.name, name, e.Kind)
	width := t.width
	if width <= 0 {
		width = 1 << 30
	}
	_, err := io.WriteString(t.w, wrap(e.Text, width, first, strings.Repeat(" ", utf8.RuneCountInString(first))))
	return err
}

// clock is how the time of an event is written.
const clock = "15:04:05.000"
