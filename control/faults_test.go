package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// breaker is what becomes of a cloud's calls.
type breaker struct {
	mu    sync.Mutex
	rule  func(call string) (before, after error) // nil: all is well
	calls []time.Time
}

func (b *breaker) set(rule func(call string) (before, after error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rule, b.calls = rule, nil
}

// fault is the Fault of a cloud.
func (b *breaker) fault(_ context.Context, call string) (before, after error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if call != "list loads" { // which is no machine's business
		b.calls = append(b.calls, time.Now())
	}
	if b.rule == nil {
		return nil, nil
	}
	return b.rule(call)
}

// asked returns when the cloud was asked since the last set.
func (b *breaker) asked() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.calls)
}

// fails is a rule by which calls that begin so fail, or take effect and fail then.
func fails(prefix string, before, after error) func(string) (error, error) {
	return func(call string) (error, error) {
		if strings.HasPrefix(call, prefix) {
			return before, after
		}
		return nil, nil
	}
}

// entire fails the test unless a pool has those machines alone, the cloud has the same, each made once, and the pool has
// nothing to complain of.
func entire(t *testing.T, c *Control, when string, pool weir.ID, names ...string) {
	t.Helper()
	alike(t, when, namesOf(t, c, pool), names...)
	fake := c.Cloud.(*cloud.Fake)
	seen := must(fake.Machines(t.Context()))(t)
	if len(seen) != len(names) {
		t.Errorf("%s: the cloud has %d machines, want %d", when, len(seen), len(names))
	}
	for _, m := range seen {
		if n := fake.Made(m.ID); n != 1 {
			t.Errorf("%s: %s was made %d times, want once", when, m.Name, n)
		}
	}
	if p := must(c.AutoscalePool(t.Context(), pool))(t); p.Status.Stuck != "" || p.Status.Err != "" || len(p.Status.Plan) > 0 {
		t.Errorf("%s: its status is %+v, want nothing to complain of", when, p.Status)
	}
}

// says fails the test unless a pool says why it is not as it should be.
func says(t *testing.T, c *Control, when string, pool weir.ID, why string) {
	t.Helper()
	p := must(c.AutoscalePool(t.Context(), pool))(t)
	if !strings.Contains(p.Status.Stuck, why) {
		t.Errorf("%s it says %q, want %q", when, p.Status.Stuck, why)
	}
	if all := must(c.PoolHistory(t.Context(), pool))(t); all[0].Err != p.Status.Stuck || all[0].State() != weir.ScalingFailed {
		t.Errorf("%s its history says %q, want the same", when, all[0].Err)
	}
}

func TestPoolNeitherForgetsNorDoublesAMachineWhateverItsCloudDoes(t *testing.T) {
	down := weir.Errorf(weir.Unavailable, "the region does not answer")
	for _, test := range []struct {
		name  string
		rule  func(call string) (before, after error)
		count int // that is asked for of a pool of 2
		why   string
		while []string // those that it has meanwhile
		then  []string
	}{
		{"a quota", fails("create machine", weir.Errorf(weir.Exhausted, "quota of 2 machines reached"), nil), 3, "web-3: machine web-3: create machine: create machine 100003: quota of 2 machines reached",
			[]string{"web-1", "web-2", "web-3"}, []string{"web-1", "web-2", "web-3"}},
		{"a creation that times out and succeeds", fails("create machine", nil, weir.Errorf(weir.Unavailable, "no answer in time")), 4, "no answer in time",
			[]string{"web-1", "web-2", "web-3", "web-4"}, []string{"web-1", "web-2", "web-3", "web-4"}},
		{"a deletion that fails", fails("delete machine", weir.Errorf(weir.Unavailable, "it is locked"), nil), 1, "web-2 cannot be deleted: ",
			[]string{"web-1"}, []string{"web-1"}},
		{"a deletion that times out and succeeds", fails("delete machine", nil, weir.Errorf(weir.Unavailable, "no answer in time")), 1, "web-2 cannot be deleted: ",
			[]string{"web-1"}, []string{"web-1"}},
		{"too many requests", fails("create machine", weir.Later(90*time.Second, "too many requests"), nil), 3, "too many requests",
			[]string{"web-1", "web-2", "web-3"}, []string{"web-1", "web-2", "web-3"}},
		{"a region that is down", fails("", down, nil), 3, "the region does not answer",
			[]string{"web-1", "web-2", "web-3"}, []string{"web-1", "web-2", "web-3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b breaker
			inLab(t, cloud.FakeOptions{Fault: b.fault}, func(t *testing.T, c *Control) {
				p := must(c.CreateAutoscalePool(t.Context(), webPool(2)))(t)
				time.Sleep(time.Minute)
				rule := test.rule
				b.set(func(call string) (before, after error) {
					if strings.HasPrefix(call, "ask") {
						return nil, nil // the fault comes after the question
					}
					return rule(call)
				})
				must(c.UpdateAutoscalePool(t.Context(), p.ID, webPool(test.count)))(t)
				time.Sleep(20 * time.Minute)
				alike(t, "meanwhile", namesOf(t, c, p.ID), test.while...)
				if test.name != "a creation that times out and succeeds" && test.name != "a deletion that times out and succeeds" {
					says(t, c, "meanwhile", p.ID, test.why)
				}
				b.set(nil)
				time.Sleep(10 * time.Minute)
				entire(t, c, "afterwards", p.ID, test.then...)
				if got := told(t, c, p.ID)[0]; !strings.HasSuffix(got, "success") {
					t.Errorf("the last of its history is %q, want that it has succeeded", got)
				}
			})
		})
	}
}

func TestCloudIsLeftAloneForAsLongAsItSays(t *testing.T) {
	var b breaker
	inLab(t, cloud.FakeOptions{Fault: b.fault}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), webPool(2)))(t)
		time.Sleep(time.Minute)
		b.set(func(call string) (error, error) {
			if strings.HasPrefix(call, "create") || strings.HasPrefix(call, "delete") || call == "list machines" {
				return weir.Later(2*time.Minute, "429 Too Many Requests"), nil
			}
			return nil, nil
		})
		time.Sleep(11 * time.Minute)
		all := b.asked()
		b.set(nil)
		if len(all) < 4 || len(all) > 12 {
			t.Errorf("the cloud was asked %d times in 11 minutes, want about once in two minutes", len(all))
		}
		for i := 1; i < len(all); i++ {
			if gap := all[i].Sub(all[i-1]); gap > 0 && gap < 2*time.Minute {
				t.Errorf("the cloud was asked again after %s, want it left alone for two minutes", gap)
			}
		}
		entire(t, c, "afterwards", p.ID, "web-1", "web-2")
	})
	if w := weir.WaitOf(errors.Join(errors.New("x"), weir.Later(time.Second, "y"))); w != time.Second {
		t.Errorf("a joined error asks to wait for %s, want 1s", w)
	}
}
