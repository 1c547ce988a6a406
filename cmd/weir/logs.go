package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"weir/weir"
)

type logs struct {
	user   *user
	format format
	follow bool
	most   int

	status, method, host, path, client, server, id string
	slower                                         time.Duration
}

func logsCommand(u *user) *cobra.Command {
	l := logs{user: u}
	cmd := &cobra.Command{
		Use:   "logs [LOAD-BALANCER]",
		Short: "Show a load balancer's access log",
		Long: `Show the last requests that went through a load balancer, in the order in which they began; with -f
also those that end from now on, until Ctrl-C, whichever instance serves them. A line has when the request began, its
status, how long it took in all, the client, the server, what was asked for, and the request's ID, which the server was told
and the client, as X-Request-ID. With -o json it is an object with all that is known.

Each instance remembers its last lines, some thousands. Where more come than can be followed, lines are left
out, and their number is told. Traffic never waits for a log.

The load balancer is given by name or ID, and need not be if there is only one. It has to have an access log:
access_log in its weir.yaml, or weir.access_log in the API.`,
		Example: `  weir logs -f
  weir logs front -n 1000 --status 5xx
  weir logs front -f --path /api --slower 500ms -o json | jq .request_id
  weir logs --request-id 381f9566-2a1a-4e17-ae0c-aae5ad952939`,
		Args: arguments(0, 1, "one load balancer at most"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if l.most < 0 || l.most > weir.MaxLogLines {
				return usageErrorf("--number/-n is %d, want 0 to %d", l.most, weir.MaxLogLines)
			}
			if l.slower < 0 {
				return usageErrorf("--slower is %s, want a time such as 500ms", l.slower)
			}
			return l.run(cmd.Context(), args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
		ValidArgsFunction: u.balancers,
	}
	f := cmd.Flags()
	f.BoolVarP(&l.follow, "follow", "f", false, "go on with the requests that come, until Ctrl-C")
	f.IntVarP(&l.most, "number", "n", 100, "how many of the last requests to show at first")
	f.StringVar(&l.status, "status", "", "only those with this `status`: 404, 5xx, >=500, 500-503")
	f.StringVar(&l.method, "method", "", "only those with this `method`")
	f.StringVar(&l.host, "host", "", "only those for this `host`")
	f.StringVar(&l.path, "path", "", "only those whose path begins with this `prefix`")
	f.StringVar(&l.client, "client", "", "only those of this `address` or network")
	f.StringVar(&l.server, "server", "", "only those that the server of this `name` or ID was sent")
	f.DurationVar(&l.slower, "slower", 0, "only those that took at least this `time` in all")
	f.StringVar(&l.id, "request-id", "", "only the one with this `ID`")
	l.format.flags(cmd)
	return cmd
}

// query returns what is asked of the API, with so many of the last lines.
func (l *logs) query(recent int) string {
	q := url.Values{"lines": {strconv.Itoa(recent)}}
	for _, part := range [...]struct{ name, value string }{{"status", l.status}, {"method", l.method}, {"host", l.host}, {"path", l.path},
		{"client", l.client}, {"server", l.server}, {"request_id", l.id}} {
		if part.value != "" {
			q.Set(part.name, part.value)
		}
	}
	if l.slower > 0 {
		q.Set("slower_than_ms", strconv.FormatInt(l.slower.Milliseconds(), 10))
	}
	if l.follow {
		q.Set("follow", "true")
	}
	return q.Encode()
}

// missed is how many of the last lines are asked for again when the API was away.
const missed = 200

func (l *logs) run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, lb, err := l.user.chosen(ctx, args)
	if err != nil {
		return err
	}
	out := &logWriter{w: stdout, notes: stderr, json: l.format.json, first: time.Now()}
	at := verbOf(lb.ID, "logs") + "?"
	_, err = c.do(ctx, http.MethodGet, at+l.query(l.most), nil, out)
	if !l.follow {
		if err == nil && out.lines == 0 {
			fmt.Fprintln(stderr, "no request is remembered that fits")
		}
		return cmp.Or(out.err, err)
	}
	for {
		switch {
		case out.err != nil:
			return out.err
		case ctx.Err() != nil:
			return nil // that is how following ends
		case err != nil && !errors.Is(err, errAway):
			return err
		case err == nil:
			return fmt.Errorf("load balancer %s is deleted, or has no access log any more", lb.Name)
		}
		if !out.away {
			fmt.Fprintf(stderr, "note: %s; trying again\n", oneLine(err.Error()))
			out.away = true
		}
		recent := l.most
		if out.told {
			recent, out.again = missed, true
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
		out.rest = nil
		_, err = c.do(ctx, http.MethodGet, at+l.query(recent), nil, out)
	}
}

// logWriter takes lines as they come, and writes them for whoever reads them.
type logWriter struct {
	w, notes io.Writer
	json     bool
	rest     []byte // of a line that is not here yet
	lines    int
	away     bool      // the API is
	told     bool      // it has answered
	again    bool      // it was away after that, and may tell older lines than it did before
	first    time.Time // when the first of the requests ended that were told before; this command, if none
	err      error
	seen     map[string]bool // what was written last, for lines that come again
	order    []string
	width    struct{ client, server, method int }
}

func (o *logWriter) Write(b []byte) (int, error) {
	if o.away {
		fmt.Fprintln(o.notes, "note: the API answers again")
		o.away = false
	}
	o.told = true
	o.rest = append(o.rest, b...)
	for {
		i := bytes.IndexByte(o.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		line := o.rest[:i]
		if len(line) > 0 {
			if err := o.line(line); err != nil {
				o.err = err
				return 0, err
			}
		}
		o.rest = o.rest[i+1:]
	}
}

// remembered is how many lines are known again.
const remembered = 2 * weir.MaxLogLines

func (o *logWriter) line(text []byte) error {
	var line struct {
		weir.AccessLine
		weir.LogMark
	}
	if err := json.Unmarshal(text, &line); err != nil {
		return fmt.Errorf("what the API says is no access log: %.60q", text)
	}
	if line.LeftOut > 0 {
		if o.json {
			_, err := fmt.Fprintf(o.w, "%s\n", text)
			return err
		}
		_, err := fmt.Fprintf(o.w, "… %s left out\n", count(int(line.LeftOut), "line"))
		return err
	}
	end := line.Time.Add(time.Duration(max(line.Total, 0)) * time.Millisecond)
	switch {
	case o.seen[string(text)], o.again && end.Before(o.first): // written already, or from before what is followed
		return nil
	case end.Before(o.first):
		o.first = end
	}
	if o.seen == nil {
		o.seen = map[string]bool{}
	}
	o.seen[string(text)] = true
	if o.order = append(o.order, string(text)); len(o.order) > remembered {
		delete(o.seen, o.order[0])
		o.order = o.order[1:]
	}
	o.lines++
	if o.json {
		_, err := fmt.Fprintf(o.w, "%s\n", text)
		return err
	}
	_, err := io.WriteString(o.w, o.words(&line.AccessLine))
	return err
}

// words puts a line in words, in columns that grow with what is in them.
func (o *logWriter) words(l *weir.AccessLine) string {
	column := func(width *int, most int, text string) string {
		text = cut(oneLine(text), most)
		*width = max(*width, utf8.RuneCountInString(text))
		return text + strings.Repeat(" ", *width-utf8.RuneCountInString(text))
	}
	status, what := "-", oneLine(l.Host+l.Path)
	if l.Status != 0 {
		status = strconv.Itoa(l.Status)
	}
	if l.Protocol == "TCP" {
		status, what = "tcp", fmt.Sprintf("%s, %d bytes in, %d out", l.Frontend, l.BytesIn, l.BytesOut)
	}
	text := fmt.Sprintf("%s  %3s  %8s  %s  %s  %s  %s", l.Time.Local().Format(clock), status, time.Duration(max(l.Total, 0))*time.Millisecond,
		column(&o.width.client, 39, l.Client), column(&o.width.server, 18, cmp.Or(l.ServerName, l.Server, "-")), column(&o.width.method, 7, cmp.Or(l.Method, "-")), what)
	if l.End != "--" && l.End != "" {
		text += "  " + oneLine(l.End)
	}
	if l.RequestID != "" {
		text += "  " + oneLine(l.RequestID)
	}
	return text + "\n"
}
