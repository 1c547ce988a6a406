package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"weir/weir"
)

// How weir top asks: how often, for how long an answer may take, how many events it keeps.
const (
	topEvery  = time.Second
	topWait   = 5 * time.Second
	topEvents = 100
)

func topCommand(u *user) *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "Watch the region live",
		Long: `Watch the region live: who decides, what is wrong, each load balancer with its instances,
the servers of the one that is selected, and what happens.

  up, down, k, j   select a row
  f                fail over the selected row's load balancer
  d, u             drain, undrain the selected instance or server
  p                pause
  ?                help
  q, Ctrl-C        quit

SINCE is as in weir status. REQ/S is what the last reports of an instance tell.`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runTop(cmd.Context(), u, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func runTop(ctx context.Context, u *user, stdin io.Reader, stdout io.Writer) error {
	for _, end := range []any{stdin, stdout} {
		if f, ok := end.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
			return errors.New("weir top needs a terminal; weir status shows the same once")
		}
	}
	c, err := u.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err = tea.NewProgram(newTop(ctx, c), tea.WithContext(ctx), tea.WithInput(stdin), tea.WithOutput(stdout), tea.WithoutSignalHandler()).Run()
	if ctx.Err() != nil {
		return nil // that is how watching ends
	}
	return err
}

// target is what a row is about: a load balancer, or one of its machines.
type target struct{ balancer, machine weir.ID }

// top is what weir top knows. Update and View touch nothing else: what asks the API are
// the commands that they return.
type top struct {
	ctx    context.Context
	client *client
	story  *story // read by one poll at a time

	width, height int
	status        weir.RegionStatus
	known         bool // status was read at least once
	events        []weir.Event
	rates         rates
	away          string // why the last poll told nothing
	polling       bool
	paused, help  bool

	selected target
	question *action // waits for y or n
	doing    *action // under way
	said     string  // what came of the last one
}

// action is what a key asks for.
type action struct {
	ask   string // "Fail over front?"
	doing string // "handing front over"
	do    func(ctx context.Context) (said string, err error)
}

// What the commands tell.
type (
	tickMsg   struct{}
	polledMsg struct {
		status weir.RegionStatus
		events []weir.Event // since the poll before
		err    error
	}
	doneMsg struct {
		said string
		err  error
	}
)

func newTop(ctx context.Context, c *client) *top {
	return &top{ctx: ctx, client: c, story: &story{client: c}, width: 80, height: 24, rates: rates{}}
}

// Init starts the first poll and the clock.
func (t *top) Init() tea.Cmd { return tea.Batch(t.poll(), topTick()) }

func topTick() tea.Cmd { return tea.Tick(topEvery, func(time.Time) tea.Msg { return tickMsg{} }) }

// poll asks for everything, unless it is being asked for already.
func (t *top) poll() tea.Cmd {
	if t.polling {
		return nil
	}
	t.polling = true
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(t.ctx, topWait)
		defer cancel()
		var m polledMsg
		if m.status, m.err = t.client.status(ctx); m.err == nil {
			m.events, m.err = t.story.next(ctx, topEvents)
		}
		if errors.Is(m.err, context.DeadlineExceeded) {
			m.err = fmt.Errorf("the API at %s has not answered for %s", t.client.api, topWait)
		}
		return m
	}
}

// Update takes in a key, or what a command tells.
func (t *top) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch m := msg.(type) {
	case tea.WindowSizeMsg:
		t.width, t.height = m.Width, m.Height
	case tickMsg:
		if t.paused {
			return t, topTick()
		}
		return t, tea.Batch(t.poll(), topTick())
	case polledMsg:
		t.polled(m)
	case doneMsg:
		t.doing, t.said = nil, m.said
		if m.err != nil {
			t.said = "! " + m.err.Error()
		}
		return t, t.poll()
	case tea.KeyPressMsg:
		return t, t.key(m.String())
	}
	return t, nil
}

func (t *top) polled(m polledMsg) {
	t.polling = false
	t.events = append(t.events, m.events...)
	t.events = t.events[max(len(t.events)-topEvents, 0):]
	if m.err != nil {
		t.away = m.err.Error()
		return
	}
	before := slices.Index(t.targets(), t.selected)
	t.away, t.status, t.known = "", m.status, true
	t.rates.see(&t.status)
	// What was selected may be gone: then its neighbour is.
	if all := t.targets(); len(all) > 0 && !slices.Contains(all, t.selected) {
		t.selected = all[min(max(before, 0), len(all)-1)]
	}
}

func (t *top) key(key string) tea.Cmd {
	if key == "ctrl+c" {
		return tea.Quit
	}
	if q := t.question; q != nil {
		switch key {
		case "y", "Y":
			t.question, t.doing, t.said = nil, q, ""
			return func() tea.Msg {
				said, err := q.do(t.ctx)
				return doneMsg{said, err}
			}
		case "n", "N", "q", "esc":
			t.question = nil
		}
		return nil // any other key was meant for something else
	}
	if t.help {
		t.help = false
		return nil
	}
	t.said = ""
	switch key {
	case "q":
		return tea.Quit
	case "?":
		t.help = true
	case "p":
		t.paused = !t.paused
		if !t.paused {
			return t.poll()
		}
	case "up", "k":
		t.move(-1)
	case "down", "j":
		t.move(1)
	case "f":
		t.ask(t.failover())
	case "d":
		t.ask(t.drain(true))
	case "u":
		t.ask(t.drain(false))
	}
	return nil
}

func (t *top) move(by int) {
	if all := t.targets(); len(all) > 0 {
		t.selected = all[min(max(slices.Index(all, t.selected)+by, 0), len(all)-1)]
	}
}

// ask puts a question, or says why there is none.
func (t *top) ask(a *action, why string) {
	if t.doing != nil {
		a, why = nil, "one thing at a time: "+t.doing.doing
	}
	t.question, t.said = a, why
}

func (t *top) failover() (a *action, why string) {
	lb := t.balancer()
	if lb == nil {
		return nil, "there is no load balancer"
	}
	id, name := lb.ID, oneLine(lb.Name)
	return &action{"Fail over " + name + "?", "handing " + name + " over …", func(ctx context.Context) (string, error) {
		done, err := t.client.failover(ctx, id, "")
		return name + ": " + moved(done), err
	}}, ""
}

func (t *top) drain(drained bool) (a *action, why string) {
	id := t.selected.machine
	if id == "" {
		return nil, "select an instance or a server"
	}
	name := oneLine(nameOf(&t.status, id))
	verb, doing := "Drain ", "draining "
	if !drained {
		verb, doing = "Undrain ", "undraining "
	}
	return &action{verb + name + "?", doing + name + " …", func(ctx context.Context) (string, error) {
		d := draining{drained: drained}
		return name + ": " + d.said(), t.client.drain(ctx, id, drained)
	}}, ""
}

// balancer returns the load balancer of the selected row, or nil.
func (t *top) balancer() *weir.LoadBalancerOverview {
	for i := range t.status.LoadBalancers {
		if t.status.LoadBalancers[i].ID == t.selected.balancer {
			return &t.status.LoadBalancers[i]
		}
	}
	return nil
}

// targets returns what can be selected, from top to bottom.
func (t *top) targets() (all []target) {
	for _, l := range t.lines() {
		if l.target != (target{}) {
			all = append(all, l.target)
		}
	}
	return all
}

// rates holds how many requests each server gets, by the instance that sends them.
type rates map[rateKey]rate

type rateKey struct {
	instance, server weir.ID
	backend          string
}

type rate struct {
	pid      int
	seen     time.Time // when requests were
	requests int64
	each     float64 // a second
	known    bool
}

// see takes in new reports. A worker of HAProxy counts from zero, so that there is no
// rate across a reload; one that is silent has none either.
func (r rates) see(s *weir.RegionStatus) {
	there := map[rateKey]bool{}
	for _, lb := range s.LoadBalancers {
		for _, in := range lb.Instances {
			if s.Taken.Sub(in.Node.Seen) > weir.NodeLate {
				continue
			}
			for _, server := range in.Node.Servers {
				key := rateKey{in.Machine, server.ID, server.Backend}
				there[key] = true
				old, ok := r[key]
				took := in.Node.Seen.Sub(old.seen)
				if ok && took < topEvery && old.pid == in.Node.HAProxy.PID && server.Requests >= old.requests {
					continue // no news, or too short a time to tell: reports come in bursts
				}
				now := rate{pid: in.Node.HAProxy.PID, seen: in.Node.Seen, requests: server.Requests}
				if ok && took > 0 && old.pid == now.pid && now.requests >= old.requests {
					now.each, now.known = float64(now.requests-old.requests)/took.Seconds(), true
				}
				r[key] = now
			}
		}
	}
	for key := range r {
		if !there[key] {
			delete(r, key)
		}
	}
}

// of returns the requests a second that instances send, to one server or, if that is
// empty, to all; "-" if that is not known.
func (r rates) of(instances []weir.InstanceOverview, server weir.ID) string {
	sum, known := 0.0, false
	for key, rate := range r {
		from := slices.ContainsFunc(instances, func(in weir.InstanceOverview) bool { return key.instance == in.Machine })
		if from && (server == "" || key.server == server) && rate.known {
			sum, known = sum+rate.each, true
		}
	}
	if !known {
		return "-"
	}
	return fmt.Sprintf("%.1f", sum)
}
