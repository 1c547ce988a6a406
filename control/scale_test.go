package control

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/scale"
	"weir/store"
	"weir/weir"
)

// burden has the machines of a cloud share work, in machines, until the test ends. It returns how much that is.
func burden(t *testing.T, c *Control) *atomic.Value {
	var work atomic.Value
	work.Store(0.0)
	fake := c.Cloud.(*cloud.Fake)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		time.Sleep(time.Second / 2) // never in the moment in which loads are looked at
		for ctx.Err() == nil {
			time.Sleep(time.Second)
			var serving []weir.ID
			all, _ := machines.All(ctx, c.Store)
			for _, m := range all {
				if m.Serves() && m.Pool != "" {
					serving = append(serving, m.ID)
				}
			}
			each := min(work.Load().(float64)/float64(max(1, len(serving))), 1)
			for _, id := range serving {
				fake.Work(id, func(l *cloud.Load) { l.User += time.Duration(each * float64(l.CPUs) * float64(time.Second)) })
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return &work
}

// happened returns the texts of all events about a pool.
func happened(t *testing.T, c *Control, name string) (texts []string) {
	t.Helper()
	for _, e := range must(c.Events(t.Context(), "", "", 0))(t) {
		if e.Name == name {
			texts = append(texts, e.Text)
		}
	}
	return texts
}

func TestPoolGrowsUnderLoadAndShrinksAfterwards(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, scaled(2, 8)))(t)
		work := burden(t, c)
		size := func() int { return must(c.AutoscalePool(ctx, p.ID))(t).Count }
		work.Store(1.2) // what two machines should bear
		time.Sleep(20 * time.Minute)
		if size() != 2 {
			t.Errorf("%d machines under what two should bear", size())
		}
		work.Store(3.0)
		time.Sleep(3 * time.Minute)
		if n := size(); n < 5 || n > 7 {
			t.Errorf("%d machines three minutes later, want 5 or a few more", n)
		}
		r := must(c.PoolReport(ctx, "web"))(t)
		if r.Load.CPU == nil || *r.Load.CPU < 0.4 || *r.Load.CPU > 0.65 || r.Load.Serving != size() {
			t.Errorf("it reports %+v, want a CPU of 3/%d", r.Load, size())
		}
		if r.Verdict == nil || r.Verdict.Size != size() || !strings.Contains(r.Verdict.Why, "with a target of 60 %") {
			t.Errorf("the verdict is %+v, want why there are %d", r.Verdict, size())
		}
		work.Store(0.3)
		time.Sleep(6 * time.Minute)
		if n := size(); n < 5 {
			t.Errorf("%d machines within the cooldown, want no fewer than before", n)
		}
		time.Sleep(12 * time.Minute)
		if size() != 2 {
			t.Errorf("%d machines at last, want the minimum", size())
		}
		if _, serving, _ := fleet(t, c, p.ID, ""); serving != 2 {
			t.Errorf("%d serve, want 2", serving)
		}
		history := must(c.PoolHistory(ctx, p.ID))(t)
		if last := history[0]; last.Reason != weir.ScaledDown || last.Want != 2 || !strings.Contains(last.Why, "CPU at") {
			t.Errorf("the last of its history is %+v, want a shrinking with its numbers", last)
		}
		if all := happened(t, c, "web"); len(all) < 2 || !strings.HasPrefix(all[0], "2 machines → ") || !strings.Contains(all[0], "as busy as can be") {
			t.Errorf("events are %q, want each decision with its numbers", all)
		}
	})
}

// A provider has figures each minute, and those are a minute or two old.
func TestPoolFollowsFiguresThatComeEachMinute(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow, Every: time.Minute}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, scaled(2, 20)))(t)
		work := burden(t, c)
		most := 0
		size := func() int { return must(c.AutoscalePool(ctx, p.ID))(t).Count }
		work.Store(0.9) // what two machines bear
		time.Sleep(20 * time.Minute)
		if size() > 3 {
			t.Errorf("%d machines under what two bear", size())
		}
		work.Store(3.0) // what five should
		for range 30 {
			time.Sleep(time.Minute)
			most = max(most, size())
		}
		if n := size(); n < 5 || most > 9 {
			t.Errorf("%d machines half an hour later, and %d at most, want 5 or a few more", n, most)
		}
		work.Store(0.3)
		time.Sleep(30 * time.Minute)
		if size() != 2 {
			t.Errorf("%d machines at last, want the minimum", size())
		}
	})
}

func TestPoolDoesNotShrinkWhileLoadsAreNotKnown(t *testing.T) {
	var blind atomic.Bool
	o := cloud.FakeOptions{Fault: func(_ context.Context, call string) (before, after error) {
		if blind.Load() && call == "list loads" {
			return weir.Errorf(weir.Unavailable, "no loads"), nil
		}
		return nil, nil
	}}
	inLab(t, o, func(t *testing.T, c *Control) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, scaled(1, 8)))(t)
		must(c.Grow(ctx, "web", 5))(t)
		blind.Store(true)
		time.Sleep(2 * time.Hour)
		if n := must(c.AutoscalePool(ctx, p.ID))(t).Count; n != 6 {
			t.Errorf("%d machines after two hours without loads, want still 6", n)
		}
		if v := must(c.PoolReport(ctx, "web"))(t).Verdict; v == nil || v.Why != "no signal of its targets is known" {
			t.Errorf("the verdict is %+v, want that nothing is known", v)
		}
		blind.Store(false)
		time.Sleep(5 * time.Minute)
		if n := must(c.AutoscalePool(ctx, p.ID))(t).Count; n != 1 {
			t.Errorf("%d machines five minutes after loads are known again, want 1", n)
		}
	})
}

func TestSchedulesAndBudgetBoundAPool(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		want := scaled(1, 8)
		want.Scale.Schedules = []weir.Schedule{{Name: "hour", Cron: "0 * * * *", For: 30 * time.Minute, Min: 4}}
		want.Scale.Price, want.Scale.Budget = 0.01, 0.05
		p := must(c.CreateAutoscalePool(ctx, want))(t)
		size := func() int { return must(c.AutoscalePool(ctx, p.ID))(t).Count }
		time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour)))
		if _, serving, _ := fleet(t, c, p.ID, ""); serving != 4 {
			t.Errorf("%d machines serve when the schedule begins, want 4", serving)
		}
		burden(t, c).Store(7.0)
		time.Sleep(20 * time.Minute)
		if size() != 5 {
			t.Errorf("%d machines under a load for 12, want the 5 that the budget pays for", size())
		}
		if _, err := c.Grow(ctx, "web", 1); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "pays for 5") {
			t.Errorf("grown beyond the budget: %v, want that it pays for 5", err)
		}
	})
	for what, change := range map[string]func(*weir.Scale){
		"five fields": func(s *weir.Scale) { s.Schedules = []weir.Schedule{{Cron: "0 8 * *", For: time.Hour, Min: 2}} },
		"timezone": func(s *weir.Scale) {
			s.Schedules = []weir.Schedule{{Cron: "0 8 * * *", Zone: "X", For: time.Hour, Min: 2}}
		},
		"which is 8":     func(s *weir.Scale) { s.Schedules = []weir.Schedule{{Cron: "0 8 * * *", For: time.Hour, Min: 9}} },
		"pays for 0":     func(s *weir.Scale) { s.Price, s.Budget = 1, 0.5 },
		"one machine":    func(s *weir.Scale) { s.Budget = 1 },
		"per_second is ": func(s *weir.Scale) { s.Requests = -1 },
	} {
		p := scaled(1, 8)
		change(p.Scale)
		c := New(Options{Region: "lab"})
		if err := c.checkScaled(&p); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want an error about %s", err, what)
		}
	}
}

func TestPoolOfAFileFollowsItsLoad(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		pool := func(s *weir.Scale) *weir.Pool {
			p := webPool(1)
			p.Autoscale, p.Scale, p.KeepCount = nil, s, true
			return &p
		}
		lb := weir.LoadBalancer{Name: "web", Region: "lab", Size: weir.DefaultNodeSize, Instances: 2, Algorithm: weir.RoundRobin, Tag: "web", Idle: time.Minute,
			Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}}, Health: weir.DefaultCheck()}
		changes := must(c.Apply(ctx, pool(&weir.Scale{Min: 2, Max: 6, CPU: 0.6, Pause: time.Minute}), lb, false))(t)
		if len(changes) != 2 || !strings.Contains(changes[0], "count 2 of 2 to 6") {
			t.Errorf("changes %q, want a pool of 2 to 6", changes)
		}
		work := burden(t, c)
		work.Store(3.0)
		time.Sleep(3 * time.Minute)
		if r := must(c.PoolReport(ctx, "web"))(t); r.Pool.Count < 5 {
			t.Errorf("%d machines under load, want 5 or 6", r.Pool.Count)
		}
		if again := must(c.Apply(ctx, pool(&weir.Scale{Min: 2, Max: 6, CPU: 0.6, Pause: time.Minute}), lb, false))(t); len(again) != 0 {
			t.Errorf("applied again it changes %q, want nothing", again)
		}
		if all := must(c.PoolTold(ctx, "web"))(t); len(all) < 2 || all[0].Reason != weir.ScaledUp {
			t.Errorf("its history is %+v", all)
		}
		must(c.Apply(ctx, pool(nil), lb, false))(t)
		work.Store(0.0)
		time.Sleep(10 * time.Minute)
		if r := must(c.PoolReport(ctx, "web"))(t); r.Pool.Count < 5 || r.Verdict != nil {
			t.Errorf("%d machines, and %+v, of a pool that does not follow its load any more", r.Pool.Count, r.Verdict)
		}
		if all := must(c.PoolTold(ctx, "web"))(t); len(all) != 0 {
			t.Errorf("its history is %+v, want none", all)
		}
	})
}

func TestMachineThatFailedToBootIsReplacedWhereOthersServe(t *testing.T) {
	var fails atomic.Bool
	boots := func(cloud.Spec) (time.Duration, weir.Boot) {
		if fails.Load() {
			return time.Second, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 3"}
		}
		return time.Second, weir.Boot{State: weir.BootDone}
	}
	inLab(t, cloud.FakeOptions{Boots: boots}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(2)))(t)
		time.Sleep(time.Minute)
		fails.Store(true)
		must(c.UpdateAutoscalePool(t.Context(), p.ID, webPool(3)))(t)
		time.Sleep(4 * time.Minute)
		alike(t, "for a while", namesOf(t, c, p.ID), "web-1", "web-2", "web-3")
		time.Sleep(20 * time.Minute)
		if serial := must(c.AutoscalePool(t.Context(), p.ID))(t).Serial; serial < 6 || serial > 8 {
			t.Errorf("%d machines were made in 24 minutes, want one each 5 minutes", serial)
		}
		fails.Store(false)
		time.Sleep(6 * time.Minute)
		if all, serving, _ := fleet(t, c, p.ID, ""); all != 3 || serving != 3 {
			t.Errorf("%d of %d machines serve, want 3 of 3", serving, all)
		}
	})
}

func TestPastIsStoredInTwoBytesAStep(t *testing.T) {
	nan := float32(math.NaN())
	need := []float32{0, 1, nan, 2.5, 1000, 5000}
	got := unpacked(packed(need))
	if !slices.EqualFunc(got, []float32{0, 1, nan, 2.5, 1000, float32(notKnown-1) / perMachine}, func(a, b float32) bool { return a == b || a != a && b != b }) {
		t.Errorf("%v came back as %v", need, got)
	}
}

func TestSizeThatWasUsualComesBeforeItsTime(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		synctest.Wait() // who leads has looked at all pools, and does so again later
		p := must(c.CreateAutoscalePool(t.Context(), scaled(2, 10)))(t)
		now := time.Now().UTC().Truncate(scale.Step)
		var usual scale.Past
		for at := now.AddDate(0, 0, -5); !at.After(now); at = at.Add(scale.Step) {
			need := 2.0
			if at.Hour() >= 1 {
				need = 8
			}
			usual.Note(at, need)
		}
		err := c.Store.Update(t.Context(), func(tx *store.Tx) error {
			pasts.Put(tx, p.ID, past{Of: measured(&p), Until: usual.Until, Need: packed(usual.Need)})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		burden(t, c).Store(1.2)
		time.Sleep(75 * time.Minute)
		all := happened(t, c, "web")
		if len(all) == 0 || !strings.Contains(all[0], "at this time of former days") {
			t.Errorf("events are %q, want that it grew because of former days", all)
		}
		row := must(pasts.Get(t.Context(), c.Store, p.ID))(t)
		if n := len(row.Need) / 2; n < len(usual.Need)+4 || len(row.Boots) == 0 || row.Boots[0] < 30*time.Second || row.Boots[0] > time.Minute {
			t.Errorf("it remembers %d steps, and boots of %v, want 4 steps or more beside %d", n, row.Boots, len(usual.Need))
		}
	})
}
