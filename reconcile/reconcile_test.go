package reconcile_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/reconcile"
	"weir/weir"
)

var seed = flag.Uint64("seed", 0, "the only seed to test; 0 means a hundred of them")

// start runs a Loop until the test ends.
func start(t *testing.T, do reconcile.Func, o reconcile.Options) *reconcile.Loop {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := reconcile.New("thing", do, o)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return l
}

// sleep lets d pass, and then all that is due happen.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestABurstOfTouchesIsOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		do := func(context.Context, weir.ID) (time.Duration, error) {
			runs.Add(1)
			return 0, nil
		}
		l := reconcile.New("thing", do, reconcile.Options{})
		for range 100 {
			l.Touch("a", "a")
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go l.Run(ctx)
		synctest.Wait()
		if got := runs.Load(); got != 1 {
			t.Errorf("200 touches before Run made %d runs, want 1", got)
		}
		l.Touch("a")
		synctest.Wait()
		if got := runs.Load(); got != 2 {
			t.Errorf("%d runs after one more touch, want 2", got)
		}
	})
}

func TestTouchesDuringARunMakeExactlyOneMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs, now atomic.Int64
		l := start(t, func(context.Context, weir.ID) (time.Duration, error) {
			if now.Add(1) > 1 {
				t.Error("one ID runs twice at once")
			}
			defer now.Add(-1)
			runs.Add(1)
			time.Sleep(time.Second)
			return 0, nil
		}, reconcile.Options{Workers: 8})
		l.Touch("a")
		synctest.Wait()
		for range 50 {
			l.Touch("a")
			time.Sleep(10 * time.Millisecond)
		}
		sleep(time.Minute)
		if got := runs.Load(); got != 2 {
			t.Errorf("%d runs, want 2: the first, and one for all touches during it", got)
		}
	})
}

func TestNoMoreRunAtOnceThanThereAreWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most, runs atomic.Int64
		l := start(t, func(context.Context, weir.ID) (time.Duration, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			runs.Add(1)
			time.Sleep(time.Second)
			return 0, nil
		}, reconcile.Options{Workers: 3})
		for i := range 10 {
			l.Touch(weir.ID(fmt.Sprint(i)))
		}
		sleep(time.Minute)
		if most.Load() != 3 || runs.Load() != 10 {
			t.Errorf("at most %d ran at once and %d in all, want 3 and 10", most.Load(), runs.Load())
		}
	})
}

func TestTheLatestRunSaysWhenToRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var got []time.Duration
		again := []time.Duration{time.Minute, time.Hour, 10 * time.Second, 0}
		l := start(t, func(context.Context, weir.ID) (time.Duration, error) {
			got = append(got, time.Since(begin))
			return again[len(got)-1], nil
		}, reconcile.Options{})
		l.Touch("a")
		sleep(90 * time.Second) // at 0 and 1m, then not for an hour …
		l.Touch("a")            // … but a touch comes first, and asks for 10s
		sleep(24 * time.Hour)
		want := []time.Duration{0, time.Minute, 90 * time.Second, 100 * time.Second}
		if !slices.Equal(got, want) {
			t.Errorf("ran at %v, want %v", got, want)
		}
	})
}

func TestFailuresBackOffAndASuccessEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		var shown []error
		broken := errors.New("broken")
		l := start(t, func(context.Context, weir.ID) (time.Duration, error) {
			at = append(at, time.Now())
			if len(at) == 13 {
				return 10 * time.Hour, nil
			}
			return time.Nanosecond, broken // which is not what it waits
		}, reconcile.Options{Failed: func(id weir.ID, err error) {
			if id != "a" {
				t.Errorf("Failed was told of %s, want a", id)
			}
			shown = append(shown, err)
		}})
		l.Touch("a")
		sleep(time.Hour)
		if len(at) != 13 || len(shown) != 12 {
			t.Fatalf("%d runs and %d failures shown, want 13 and 12: it fails 12 times", len(at), len(shown))
		}
		most := 200 * time.Millisecond
		for i := range 12 {
			if d := at[i+1].Sub(at[i]); d < most/2 || d > most {
				t.Errorf("waited %v after failure %d, want %v to %v", d, i+1, most/2, most)
			}
			most = min(2*most, 30*time.Second)
		}
		l.Touch("a")
		sleep(200 * time.Millisecond)
		if len(at) < 15 {
			t.Errorf("%d runs 200 ms after the first failure since a success, want 15: the back-off begins anew", len(at))
		}
	})
}

func TestATouchEndsTheWaitButKeepsTheFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		l := start(t, func(context.Context, weir.ID) (time.Duration, error) {
			at = append(at, time.Now())
			return 0, errors.New("broken")
		}, reconcile.Options{})
		l.Touch("a")
		sleep(5 * time.Minute) // waits 15 s at least by now
		for time.Since(at[len(at)-1]) < time.Second {
			sleep(time.Second)
		}
		runs := len(at)
		l.Touch("a")
		synctest.Wait()
		if len(at) != runs+1 {
			t.Fatalf("a touch a second after a failure made %d runs at once, want 1", len(at)-runs)
		}
		for range 1000 {
			sleep(time.Millisecond)
			l.Touch("a")
		}
		if got := len(at) - runs - 1; got != 10 {
			t.Errorf("a touch each millisecond for a second made %d runs of what fails, want 10", got)
		}
	})
}

func TestAPanicIsAFailureOfItsIDAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var shown error
		var runs atomic.Int64
		l := start(t, func(_ context.Context, id weir.ID) (time.Duration, error) {
			if id == "bad" && runs.Add(1) == 1 {
				var row *weir.Pool
				row.Count++
			}
			if id == "good" {
				runs.Add(100)
			}
			return 0, nil
		}, reconcile.Options{
			Log:    slog.New(slog.NewTextHandler(&log, nil)),
			Failed: func(_ weir.ID, err error) { shown = err },
		})
		l.Touch("bad", "good")
		sleep(time.Minute)
		if got := runs.Load(); got != 102 {
			t.Errorf("runs %d, want bad twice (1 each) and good once (100)", got)
		}
		if shown == nil || !strings.HasPrefix(shown.Error(), "panic: ") {
			t.Errorf("the failure shown is %v, want a panic", shown)
		}
		if !strings.Contains(log.String(), "reconcile_test.go") || !strings.Contains(log.String(), "thing=bad") {
			t.Errorf("the log has neither stack nor ID:\n%s", log.String())
		}
	})
}

func TestRunWaitsForItsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		done := false
		l := reconcile.New("thing", func(ctx context.Context, _ weir.ID) (time.Duration, error) {
			<-ctx.Done()
			time.Sleep(time.Second)
			done = true
			return 0, ctx.Err()
		}, reconcile.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		l.Touch("a", "b") // b has to wait, and never runs
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if err := l.Run(ctx); err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
		if !done {
			t.Error("Run returned before its worker did")
		}
		if log.Len() > 0 {
			t.Errorf("the end of ctx is logged as a failure:\n%s", log.String())
		}
	})
}

func TestNoIDStarvesBehindABusyOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l *reconcile.Loop
		var order []weir.ID
		l = start(t, func(_ context.Context, id weir.ID) (time.Duration, error) {
			order = append(order, id)
			if id == "busy" {
				l.Touch("busy")
			}
			time.Sleep(time.Millisecond)
			return 0, nil
		}, reconcile.Options{})
		l.Touch("busy")
		sleep(10 * time.Millisecond)
		order = nil
		l.Touch("a", "b", "c")
		sleep(10 * time.Millisecond)
		if i := slices.Index(order, "c"); i < 0 || i > 4 {
			t.Errorf("ran %v, want a, b and c before busy runs again and again", order)
		}
	})
}

func TestTheSameSeedWaitsTheSame(t *testing.T) {
	waits := func() (at []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			l := start(t, func(context.Context, weir.ID) (time.Duration, error) {
				at = append(at, time.Since(begin))
				return 0, errors.New("broken")
			}, reconcile.Options{Rand: rand.New(rand.NewPCG(1, 2))})
			l.Touch("a", "b", "c")
			sleep(time.Minute)
		})
		return at
	}
	if a, b := waits(), waits(); !slices.Equal(a, b) {
		t.Errorf("one seed ran at\n%v\nand at\n%v", a, b)
	}
}

// Whatever is touched at whatever moment, and however runs end: each touch is followed
// by a run, no ID runs twice at once, nothing runs without a reason, and in the end it
// is quiet.
func TestEachTouchIsFollowedByARun(t *testing.T) {
	seeds := []uint64{*seed}
	if *seed == 0 {
		seeds = nil
		for s := range uint64(100) {
			seeds = append(seeds, s+1)
		}
	}
	for _, s := range seeds {
		synctest.Test(t, func(t *testing.T) { randomTouches(t, s) })
	}
}

func randomTouches(t *testing.T, seed uint64) {
	type thing struct {
		running                 bool
		touched, began          time.Time // the last time each
		reasons, runs, failures int       // touches, asked-for repeats and failures: each a reason for one run
	}
	random := rand.New(rand.NewPCG(seed, 0))
	outcomes := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	things := map[weir.ID]*thing{}
	for i := range 1 + random.IntN(10) {
		things[weir.ID(fmt.Sprint(i))] = &thing{}
	}
	trouble := true
	workers := 1 + random.IntN(4)
	l := start(t, func(_ context.Context, id weir.ID) (again time.Duration, err error) {
		mu.Lock()
		th := things[id]
		if th.running {
			t.Errorf("seed %d: %s runs twice at once", seed, id)
		}
		th.running, th.began = true, time.Now()
		th.runs++
		takes := time.Duration(outcomes.IntN(50)) * time.Millisecond
		dice := outcomes.IntN(10)
		mu.Unlock()

		time.Sleep(takes)

		mu.Lock()
		defer mu.Unlock()
		th.running = false
		switch {
		case !trouble:
			return 0, nil
		case dice < 3:
			th.reasons++
			th.failures++
			return 0, errors.New("broken")
		case dice < 4:
			th.reasons++
			th.failures++
			panic("broken")
		case dice < 6:
			th.reasons++
			return time.Duration(1+dice) * time.Second, nil
		}
		return 0, nil
	}, reconcile.Options{Workers: workers, Rand: rand.New(rand.NewPCG(seed, 2))})

	for range 300 {
		id := weir.ID(fmt.Sprint(random.IntN(len(things))))
		mu.Lock()
		things[id].touched = time.Now()
		things[id].reasons++
		mu.Unlock()
		l.Touch(id)
		time.Sleep(time.Duration(random.IntN(30)*random.IntN(30)) * time.Millisecond)
	}
	mu.Lock()
	trouble = false
	mu.Unlock()
	sleep(time.Minute) // the longest back-off, and more
	mu.Lock()
	before := map[weir.ID]int{}
	for id, th := range things {
		before[id] = th.runs
		if th.began.Before(th.touched) {
			t.Errorf("seed %d: %s was touched at %v and last ran at %v", seed, id, th.touched, th.began)
		}
		if th.runs > th.reasons {
			t.Errorf("seed %d: %s ran %d times for %d reasons", seed, id, th.runs, th.reasons)
		}
	}
	mu.Unlock()
	sleep(time.Hour)
	for id, th := range things {
		if th.runs != before[id] {
			t.Errorf("seed %d: %s ran %d times more when all was quiet", seed, id, th.runs-before[id])
		}
	}
}

func TestWorkIsWhatTheLoopDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		do := func(_ context.Context, id weir.ID) (time.Duration, error) {
			switch id {
			case "held":
				<-hold
			case "bad":
				return 0, errors.New("no")
			case "later":
				return time.Hour, nil
			}
			return 0, nil
		}
		l := start(t, do, reconcile.Options{Workers: 4})
		l.Touch("held", "good", "later")
		synctest.Wait()
		if got, want := l.Work(), (weir.Work{Kind: "thing", Waiting: 1, Running: 1, Runs: 2}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		close(hold)
		l.Touch("bad")
		sleep(50 * time.Millisecond)
		if got, want := l.Work(), (weir.Work{Kind: "thing", Waiting: 2, Runs: 4, Failures: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}
