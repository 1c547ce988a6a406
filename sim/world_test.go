package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

const (
	region = "lab"
	drain  = 5 * time.Second
	late   = 3 * time.Second // the longest that a call which failed takes effect afterwards
)

// world is one history.
type world struct {
	ctx   context.Context // ends with the history
	seed  uint64
	begin time.Time
	wg    sync.WaitGroup // all that the history started

	small   bool         // the cloud has little room
	jumps   bool         // the members' clocks do
	hosted  bool         // the cloud has several hosts
	trouble atomic.Bool  // faults are on
	changes atomic.Int64 // calls that change the cloud

	memory  store.Backend // what there is in truth
	truth   *store.Store  // the same, without faults
	cloud   *cloud.Fake
	members []*member
	net     *network
	nodes   nodes
	tally   *tally
	known   knowledge
	scaled  weir.ID // an autoscale pool that all users know of

	mu    sync.Mutex
	story []string
	wrong []string // what may never happen, and did
	rolls map[string]uint64
}

// The control plane's tables, as the test reads them.
var (
	machines      = store.NewTable[weir.Machine]("machines")
	pools         = store.NewTable[weir.Pool]("pools")
	scalings      = store.NewTable[[]weir.Scaling]("scalings") // by pool
	loadBalancers = store.NewTable[weir.LoadBalancer]("load_balancers")
	addresses     = store.NewTable[weir.Address]("addresses")
	actions       = store.NewTable[weir.Action]("actions")
	firewalls     = store.NewTable[weir.CloudFirewall]("firewalls")
	nodeConfigs   = store.NewTable[weir.NodeConfig]("node_configs")
	nodeStatuses  = store.NewTable[weir.NodeStatus]("node_statuses")
	enrolments    = store.NewTable[struct{ Node weir.ID }]("enrolments")
)

// random returns the stream of one actor.
func (w *world) random(actor string) *rand.Rand {
	h := fnv.New64a()
	io.WriteString(h, actor)
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

// word is what is another in each run of a seed: an ID, or the key of a store's mark.
var word = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mark/[0-9a-f]+`)

// roll returns a stream for what happens now, which is the same whatever else
// happened before it.
func (w *world) roll(what string) *rand.Rand {
	what = word.ReplaceAllString(what, "*")
	w.mu.Lock()
	w.rolls[what]++
	n := w.rolls[what]
	w.mu.Unlock()
	return w.random(fmt.Sprint(what, " ", n))
}

// tell adds a line to the story.
func (w *world) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.story = append(w.story, fmt.Sprintf("%8.3f  ", time.Since(w.begin).Seconds())+fmt.Sprintf(format, args...))
}

// never records what may not happen at any moment.
func (w *world) never(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.tell("NEVER: %s", what)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf("after %v: %s", time.Since(w.begin), what))
}

// sleep lets d pass, or returns false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// upTo returns a random time, short ones more often.
func upTo(r *rand.Rand, most time.Duration) time.Duration {
	f := r.Float64()
	return time.Duration(f * f * f * float64(most))
}

// chance is true in so many of a hundred cases.
func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

// log returns a logger that writes into the story.
func (w *world) log(who string) *slog.Logger {
	return slog.New(slog.NewTextHandler(teller{w, who}, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

type teller struct {
	w   *world
	who string
}

func (t teller) Write(line []byte) (int, error) {
	t.w.tell("%s: %s", t.who, strings.TrimSpace(string(line)))
	return len(line), nil
}

// chaos ends machines, and has leaders deposed.
func (w *world) chaos(ctx context.Context) {
	r := w.random("chaos")
	for sleep(ctx, upTo(r, 20*time.Second)) {
		switch r.IntN(4) {
		case 0:
			w.tell("chaos: deposes the leader")
			if err := w.truth.Depose(ctx, "control"); err != nil && ctx.Err() == nil {
				w.never("depose: %v", err)
			}
		default:
			all, err := w.cloud.Machines(direct(ctx))
			if err != nil || len(all) == 0 {
				continue
			}
			m := all[r.IntN(len(all))]
			switch {
			case chance(r, 15):
				w.tell("chaos: machine %s vanishes", m.ID)
				w.cloud.DeleteMachine(direct(ctx), m.ID)
			case w.cloud.Kill(m.ID):
				w.tell("chaos: machine %s dies", m.ID)
			}
			w.net.poke()
		}
	}
}

// hostsFail has one host after the other fail for a while, until ctx ends. It is up again then.
func (w *world) hostsFail(ctx context.Context) {
	r := w.random("hosts fail")
	for sleep(ctx, upTo(r, 20*time.Second)) {
		host := cloud.HostName(r.IntN(hosts))
		w.tell("chaos: %s fails", host)
		if err := w.cloud.FailHost(ctx, host); err != nil {
			w.never("%s cannot fail: %v", host, err)
		}
		w.net.poke()
		sleep(ctx, upTo(r, 40*time.Second))
		w.tell("chaos: %s is up again", host)
		if err := w.cloud.RestoreHost(ctx, host); err != nil {
			w.never("%s cannot be restored: %v", host, err)
		}
	}
}
