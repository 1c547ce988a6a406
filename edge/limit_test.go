package edge_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/control"
	"weir/edge"
	"weir/store"
	"weir/weir"
)

// far is a backend that each call takes time to reach and to come back from.
type far struct {
	store.Backend
	mu     sync.Mutex
	random *rand.Rand
	least  time.Duration // of one way
	most   time.Duration // beyond that
	away   bool          // nothing arrives
}

func (f *far) travel(ctx context.Context) error {
	f.mu.Lock()
	d, away := f.least, f.away
	if f.most > 0 {
		d += time.Duration(f.random.Int64N(int64(f.most)))
	}
	f.mu.Unlock()
	if away {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(d)
	return nil
}

func (f *far) set(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

func (f *far) slow(least time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.least = least
}

func (f *far) Read(ctx context.Context, span store.Span, revision int64) ([]store.Entry, int64, error) {
	if err := f.travel(ctx); err != nil {
		return nil, 0, err
	}
	entries, at, err := f.Backend.Read(ctx, span, revision)
	return entries, at, cmp.Or(err, f.travel(ctx))
}

func (f *far) Commit(ctx context.Context, txn store.Txn) (int64, bool, error) {
	if err := f.travel(ctx); err != nil {
		return 0, false, err
	}
	at, ok, err := f.Backend.Commit(ctx, txn)
	return at, ok, cmp.Or(err, f.travel(ctx))
}

// member is one member of a control plane, as far as it limits.
type member struct {
	*edge.Limits
	stop func()
}

// fleet is several members on one store, and what they have admitted.
type fleet struct {
	backend *far
	options edge.LimitOptions

	mu       sync.Mutex
	members  []member
	admitted []time.Time
}

func newFleet(t *testing.T, n int, latency time.Duration, seed uint64, o edge.LimitOptions) *fleet {
	f := &fleet{options: o, backend: &far{Backend: store.NewMemory(), random: rand.New(rand.NewPCG(seed, 1)), most: latency}}
	for range n {
		f.members = append(f.members, f.boot())
	}
	t.Cleanup(func() {
		for _, m := range f.members {
			m.stop()
		}
		f.backend.Close()
	})
	return f
}

func (f *fleet) boot() member {
	ctx, cancel := context.WithCancel(context.Background())
	l := edge.NewLimits(control.New(control.Options{Region: "lab", Store: store.New(f.backend)}), f.options)
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(ctx) })
	return member{l, func() { cancel(); wg.Wait() }}
}

// ask asks a member, and reports whether it admits.
func (f *fleet) ask(t *testing.T, i int) (weir.Allowance, bool) {
	f.mu.Lock()
	m := f.members[i]
	f.mu.Unlock()
	got, err := m.Take(t.Context(), "sesame", weir.Caller{}, false)
	if err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got.Wait == 0 {
		f.admitted = append(f.admitted, time.Now())
	}
	return got, got.Wait == 0
}

// within returns how many requests were admitted in the span before a time.
func (f *fleet) within(now time.Time, span time.Duration) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, at := range f.admitted {
		if at.After(now.Add(-span)) && !at.After(now) {
			n++
		}
	}
	return n
}

// check fails if any window had more than the limit.
func (f *fleet) check(t *testing.T, window time.Duration, most int) {
	t.Helper()
	slices.SortFunc(f.admitted, time.Time.Compare)
	from := 0
	for i, at := range f.admitted {
		for !f.admitted[from].After(at.Add(-window)) {
			from++
		}
		if n := i - from + 1; most > 0 && n > most {
			t.Fatalf("%d requests were admitted in the %s before %s, want at most %d", n, window, at, most)
		}
	}
}

// Whatever members are asked, and whatever becomes of them, no window has more requests than
// the limit; and somebody is refused only for what is used up, or is with other members.
func TestNoWindowHasMoreRequestsThanTheLimit(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 7))
				n := 1 + r.IntN(4)
				latency := time.Duration(r.IntN(50)) * time.Millisecond
				var log bytes.Buffer
				o := edge.LimitOptions{PerMinute: 20 + r.IntN(100), PerHour: 300 + r.IntN(2000), Log: slog.New(slog.NewTextHandler(&log, nil))}
				crashes := seed%2 == 1
				f := newFleet(t, n, latency, seed, o)
				// At the end of the run, calls are still under way.
				var calls sync.WaitGroup
				defer calls.Wait()
				wish := 1 + r.IntN(3) // how many times the limit is asked for
				var admitted, refused int
				for began := time.Now(); time.Since(began) < 80*time.Minute; {
					pause := time.Minute / time.Duration(o.PerMinute*wish)
					switch r.IntN(400) {
					case 0: // nobody calls for a while
						time.Sleep(time.Duration(r.IntN(100)) * time.Second)
					case 1: // all at once
						pause = 0
					}
					time.Sleep(time.Duration(r.Int64N(int64(2*pause) + 1)))
					if crashes && r.IntN(3000) == 0 {
						i := r.IntN(n)
						f.mu.Lock()
						f.members[i].stop()
						f.members[i] = f.boot()
						f.mu.Unlock()
					}
					i := r.IntN(n)
					if time.Since(began)/(10*time.Minute)%2 == 1 {
						i = 0 // clients are with one member for a while
					}
					calls.Go(func() {
						_, ok := f.ask(t, i)
						f.mu.Lock()
						defer f.mu.Unlock()
						if ok {
							admitted++
							return
						}
						refused++
					})
					if !crashes && r.IntN(20) == 0 {
						calls.Wait()
						if _, ok := f.ask(t, i); !ok {
							f.fair(t, n, latency)
						}
					}
				}
				calls.Wait()
				f.check(t, time.Minute, o.PerMinute)
				f.check(t, time.Hour, o.PerHour)
				if log.Len() > 0 {
					t.Errorf("the store was too slow for this test: %s", &log)
				}
				if admitted < o.PerHour/2 || refused == 0 {
					t.Errorf("%d requests admitted and %d refused: this run has tried nothing", admitted, refused)
				}
			})
		})
	}
}

// fair fails if a refusal at this moment is for more than what may be with other members: twice a
// fiftieth of the limit each, and what left the window in the last seconds.
func (f *fleet) fair(t *testing.T, n int, latency time.Duration) {
	t.Helper()
	now := time.Now()
	lately := 2*time.Second + 8*latency
	for _, w := range []struct {
		length time.Duration
		most   int
	}{{time.Minute, f.options.PerMinute}, {time.Hour, f.options.PerHour}} {
		with := (n - 1) * 2 * max(1, w.most/50)
		if f.within(now, w.length+lately)+with >= w.most {
			return
		}
	}
	t.Errorf("refused after %d of %d requests in the minute, and %d of %d in the hour, with %d members",
		f.within(now, time.Minute), f.options.PerMinute, f.within(now, time.Hour), f.options.PerHour, n)
}

func TestOneMemberGivesOutTheLimitToTheLastPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, 0, 1, edge.LimitOptions{PerMinute: 250, PerHour: 5000})
		began := time.Now()
		for i := range 250 {
			got, ok := f.ask(t, 0)
			if want := 5000 - i - 1; !ok || got.Limit != 5000 || got.Remaining != want {
				t.Fatalf("request %d: %+v, want it admitted, and %d remaining of 5000", i+1, got, want)
			}
			if reset := began.Add(time.Hour); got.Reset.Sub(reset).Abs() > time.Second {
				t.Fatalf("request %d: the oldest leaves at %s, want %s", i+1, got.Reset, reset)
			}
			time.Sleep(100 * time.Millisecond)
		}
		got, ok := f.ask(t, 0)
		if ok || got.Remaining != 0 {
			t.Fatalf("request 251 within the minute: %+v, want it refused and nothing remaining", got)
		}
		// The first one leaves the window a minute after it was made, and not before.
		time.Sleep(got.Wait - time.Millisecond)
		if _, ok := f.ask(t, 0); ok {
			t.Error("a request is admitted before the oldest has left the window")
		}
		time.Sleep(time.Millisecond)
		if got, ok := f.ask(t, 0); !ok {
			t.Errorf("%+v once the oldest has left the window, want it admitted", got)
		}
		if got, ok := f.ask(t, 0); ok {
			t.Errorf("%+v: one has left the window and two are admitted", got)
		}
	})
}

func TestTheHourIsLimitedBesideTheMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2, time.Millisecond, 1, edge.LimitOptions{PerMinute: 250, PerHour: 300})
		for i := range 300 {
			if got, ok := f.ask(t, 0); !ok {
				t.Fatalf("request %d: %+v, want it admitted", i+1, got)
			}
			time.Sleep(time.Second)
		}
		if got, ok := f.ask(t, 0); ok || got.Wait < 54*time.Minute || got.Wait > 55*time.Minute {
			t.Errorf("request 301 within the hour: %+v, want it refused for as long as the first is within", got)
		}
		if got, ok := f.ask(t, 1); ok {
			t.Errorf("request 301 at another member: %+v, want it refused", got)
		}
	})
}

func TestWhatAMemberDoesNotNeedTheOthersHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3, 0, 1, edge.LimitOptions{PerMinute: 100})
		for range 20 {
			f.ask(t, 1)
			f.ask(t, 2)
		}
		time.Sleep(2 * time.Minute)
		for i := range 100 {
			if got, ok := f.ask(t, 0); !ok {
				t.Fatalf("request %d: %+v, want it admitted: nobody has asked the others for long", i+1, got)
			}
		}
		if _, ok := f.ask(t, 1); ok {
			t.Error("request 101 is admitted by another member")
		}
	})
}

func TestMemberThatDiedHoldsNothingOnceItsRequestsMustHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2, 0, 1, edge.LimitOptions{PerMinute: 100})
		for range 90 {
			f.ask(t, 0)
		}
		f.members[0].stop() // and is asked no more
		time.Sleep(40 * time.Second)
		for range 100 {
			f.ask(t, 1)
		}
		if n := f.within(time.Now(), time.Minute); n > 100 {
			t.Errorf("%d requests in a minute, want at most 100", n)
		}
		time.Sleep(61 * time.Second) // half a minute, a minute and how far clocks may be apart have passed since it died
		for i := range 100 {
			if got, ok := f.ask(t, 1); !ok {
				t.Fatalf("request %d: %+v, want it admitted", i+1, got)
			}
		}
	})
}

func TestWhatAMemberGivesBackItDoesNotUseMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2, 0, 1, edge.LimitOptions{PerMinute: 100})
		for range 60 {
			f.ask(t, 0)
		}
		time.Sleep(time.Minute - time.Millisecond)
		f.backend.slow(400 * time.Millisecond)
		time.Sleep(time.Second) // it has begun to give back what it has of these
		var calls sync.WaitGroup
		for range 60 {
			calls.Go(func() { f.ask(t, 0) })
		}
		calls.Wait()
		for range 100 {
			calls.Go(func() { f.ask(t, 1) })
		}
		calls.Wait()
		f.check(t, time.Minute, 100)
		if n := f.within(time.Now(), time.Minute); n < 96 {
			t.Errorf("%d of 160 requests admitted, want nearly 100", n)
		}
	})
}

func TestMemberThatWasSuspendedUsesNothingThatTheOthersCountAsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2, 0, 1, edge.LimitOptions{PerMinute: 100})
		for range 60 {
			f.ask(t, 0)
		}
		f.members[0].stop() // it does nothing by itself for a while
		time.Sleep(100 * time.Second)
		for range 100 {
			if got, ok := f.ask(t, 1); !ok {
				t.Fatalf("%+v, want the limit of a member that is the only one that is heard of", got)
			}
		}
		for range 60 {
			if _, ok := f.ask(t, 0); ok {
				t.Fatal("the one that was suspended admits what has been given to another")
			}
		}
	})
}

func TestMemberWithoutAQuorumLimitsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, 0, 1, edge.LimitOptions{PerMinute: 100})
		f.ask(t, 0)
		f.backend.set(true)
		began := time.Now()
		for i := range 99 {
			if got, ok := f.ask(t, 0); !ok {
				t.Fatalf("request %d: %+v, want it admitted", i+1, got)
			}
		}
		if _, ok := f.ask(t, 0); ok {
			t.Error("request 101 is admitted")
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the requests took %s, want them to wait once for the store", took)
		}
		f.backend.set(false)
		time.Sleep(2 * time.Minute)
		for i := range 100 {
			if got, ok := f.ask(t, 0); !ok {
				t.Fatalf("request %d: %+v, want it admitted", i+1, got)
			}
		}
		if _, ok := f.ask(t, 0); ok {
			t.Error("request 101 is admitted when the store answers again")
		}
	})
}

func TestWhoLeavesIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, 0, 1, edge.LimitOptions{PerMinute: 100})
		f.backend.set(true)
		var first sync.WaitGroup
		first.Go(func() { f.ask(t, 0) }) // it asks the store, and the next one waits for the answer
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := f.members[0].Take(ctx, "sesame", weir.Caller{}, false)
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 10*time.Millisecond {
			t.Errorf("%v after %s, want the end of the context when it ends", err, took)
		}
		first.Wait()
	})
}

func TestTokensAreLimitedEachByItself(t *testing.T) {
	l := edge.NewLimits(control.New(control.Options{Store: store.Memory()}), edge.LimitOptions{PerMinute: 2, Operator: "mine"})
	take := func(token string, c weir.Caller, here bool) bool {
		got, err := l.Take(t.Context(), token, c, here)
		if err != nil {
			t.Fatal(err)
		}
		return got.Wait == 0
	}
	for _, test := range []struct {
		token string
		id    weir.ID
		here  bool
		want  []bool
	}{
		{"a", "", false, []bool{true, true, false}},
		{"b", "", false, []bool{true, true, false}},
		{"c", "7", false, []bool{true, true, false}},
		{"d", "7", true, []bool{false}}, // the same token, by its ID
		{"mine", "", true, []bool{true, true, true, true}},
		{"mine", "", false, []bool{true, true, false}},
	} {
		for i, want := range test.want {
			if got := take(test.token, weir.Caller{Token: test.id}, test.here); got != want {
				t.Errorf("token %s, request %d: admitted %t, want %t", test.token, i+1, got, want)
			}
		}
	}
}

func TestWithoutLimitsNobodyIsLimited(t *testing.T) {
	l := edge.NewLimits(nil, edge.LimitOptions{})
	for range 10 {
		if got, err := l.Take(t.Context(), "sesame", weir.Caller{}, false); err != nil || got.Wait != 0 || got.Limit != 0 {
			t.Fatalf("%+v, %v, want no limit", got, err)
		}
	}
}

// memoryQuotas keeps quotas without a store.
type memoryQuotas map[weir.ID]weir.Quota

func (m memoryQuotas) ChangeQuota(_ context.Context, token weir.ID, change func(weir.Quota) weir.Quota) error {
	m[token] = change(m[token])
	return nil
}

// One decision costs what it costs to count, as long as there are permits.
func BenchmarkTake(b *testing.B) {
	l := edge.NewLimits(memoryQuotas{}, edge.LimitOptions{PerMinute: 1 << 30})
	for b.Loop() {
		l.Take(b.Context(), "sesame", weir.Caller{Token: "7"}, false)
	}
}

// commits counts those of a backend.
type commits struct {
	store.Backend
	n int
}

func (c *commits) Commit(ctx context.Context, txn store.Txn) (int64, bool, error) {
	c.n++
	return c.Backend.Commit(ctx, txn)
}

// What a token costs in the store whose bearer calls again and again, refused or not.
func BenchmarkHotToken(b *testing.B) {
	counted := &commits{Backend: store.NewMemory()}
	defer counted.Close()
	l := edge.NewLimits(control.New(control.Options{Store: store.New(counted)}), edge.LimitOptions{PerMinute: edge.DefaultPerMinute, PerHour: edge.DefaultPerHour})
	for b.Loop() {
		l.Take(b.Context(), "sesame", weir.Caller{Token: "7"}, false)
	}
	b.ReportMetric(float64(counted.n)/b.Elapsed().Seconds(), "transactions/s")
}

// A client asks for ten times what it may, for ten minutes, at three members by turns.
func TestHotTokenCostsFewTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counted := &commits{Backend: store.NewMemory()}
		defer counted.Close()
		var members []*edge.Limits
		for range 3 {
			c := control.New(control.Options{Store: store.New(counted)})
			members = append(members, edge.NewLimits(c, edge.LimitOptions{PerMinute: edge.DefaultPerMinute, PerHour: edge.DefaultPerHour}))
		}
		asked := 0
		for began := time.Now(); time.Since(began) < 10*time.Minute; asked++ {
			if _, err := members[asked%3].Take(t.Context(), "sesame", weir.Caller{}, false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute / (10 * edge.DefaultPerMinute))
		}
		if counted.n > asked/20 {
			t.Errorf("%d commits for %d requests, want few: blocks are there for it", counted.n, asked)
		}
	})
}
