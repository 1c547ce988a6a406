package control

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// cuttable is a store that can be cut off from its quorum.
type cuttable struct {
	store.Backend
	cut   atomic.Bool
	reads atomic.Int64
}

func (b *cuttable) Read(ctx context.Context, span store.Span, revision int64) ([]store.Entry, int64, error) {
	b.reads.Add(1)
	if b.cut.Load() {
		return nil, 0, weir.Errorf(weir.Unavailable, "there is no quorum")
	}
	return b.Backend.Read(ctx, span, revision)
}

// twoMembers returns two members of a control plane, and how the second reaches the store.
func twoMembers(t *testing.T) (one, two *Control, link *cuttable) {
	t.Helper()
	memory := store.NewMemory()
	link = &cuttable{Backend: memory}
	one = New(Options{Region: "lab", Store: store.New(memory), Cloud: cloud.None{}})
	two = New(Options{Region: "lab", Store: store.New(link), Cloud: cloud.None{}})
	t.Cleanup(func() { one.Store.Close() })
	return one, two, link
}

// readToken makes a token to read, by its first member.
func readToken(t *testing.T, c *Control, name string) (made weir.Token, sum string) {
	t.Helper()
	made, secret, err := c.CreateToken(t.Context(), weir.Token{Name: name, Scopes: []weir.Scope{weir.ScopeRead}})
	if err != nil {
		t.Fatal(err)
	}
	return made, weir.SecretSum(secret)
}

func TestRevokedTokenIsWorthlessOnEveryMemberAtOnce(t *testing.T) {
	one, two, _ := twoMembers(t)
	for range 20 {
		made, sum := readToken(t, one, "ci")
		for _, c := range []*Control{one, two} {
			if got, err := c.UseToken(t.Context(), sum); err != nil || got.ID != made.ID {
				t.Fatalf("before: %+v, %v, want the token", got, err)
			}
		}
		if err := one.RevokeToken(t.Context(), made.ID); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*Control{two, one} {
			if _, err := c.UseToken(t.Context(), sum); !errors.Is(err, weir.NotFound) {
				t.Fatalf("afterwards: %v, want a weir.NotFound error", err)
			}
		}
	}
}

func TestMemberThatIsCutOffAdmitsWhomItKnew(t *testing.T) {
	one, two, link := twoMembers(t)
	_, known := readToken(t, one, "known")
	link.cut.Store(true)
	if _, err := two.UseToken(t.Context(), known); weir.KindOf(err) != weir.Unavailable {
		t.Errorf("a member that has seen none yet: %v, want a weir.Unavailable error", err)
	}
	link.cut.Store(false)
	if _, err := two.UseToken(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	link.cut.Store(true)
	_, later := readToken(t, one, "later")
	if _, err := two.UseToken(t.Context(), known); err != nil {
		t.Errorf("a token that it knew: %v, want it admitted", err)
	}
	if _, err := two.UseToken(t.Context(), later); weir.KindOf(err) != weir.Unavailable {
		t.Errorf("one that it does not know: %v, want a weir.Unavailable error", err)
	}
	link.cut.Store(false)
	if _, err := two.UseToken(t.Context(), later); err != nil {
		t.Errorf("once it is back: %v, want it admitted", err)
	}
	if _, err := two.UseToken(t.Context(), "none"); !errors.Is(err, weir.NotFound) {
		t.Errorf("one that was never made: %v, want a weir.NotFound error", err)
	}
}

func TestTokenThatIsUsedAgainCostsOneRead(t *testing.T) {
	_, two, link := twoMembers(t)
	_, sum := readToken(t, two, "ci")
	for range 2 { // the first notes that it is used
		if _, err := two.UseToken(t.Context(), sum); err != nil {
			t.Fatal(err)
		}
	}
	before := link.reads.Load()
	for range 100 {
		if _, err := two.UseToken(t.Context(), sum); err != nil {
			t.Fatal(err)
		}
	}
	if got := link.reads.Load() - before; got != 100 {
		t.Errorf("%d reads for 100 uses, want 100", got)
	}
}

func TestTokenEndsWhenItExpiresAndIsForgottenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two, _ := twoMembers(t)
		_, secret, err := one.CreateToken(t.Context(), weir.Token{Name: "ci", Scopes: []weir.Scope{weir.ScopeRead}, Expires: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		sum := weir.SecretSum(secret)
		for _, step := range []struct {
			after time.Duration
			good  bool
		}{{time.Hour - time.Nanosecond, true}, {time.Nanosecond, false}} {
			time.Sleep(step.after)
			for _, c := range []*Control{one, two} {
				if _, err := c.UseToken(t.Context(), sum); (err == nil) != step.good {
					t.Errorf("%v later: %v, want that it is good: %v", step.after, err, step.good)
				}
			}
		}
		for _, step := range []struct {
			after time.Duration
			left  int
		}{{time.Minute, 1}, {keptFor, 0}} {
			time.Sleep(step.after)
			if err := one.Store.Update(t.Context(), func(tx *store.Tx) error { return sweepTokens(t.Context(), tx) }); err != nil {
				t.Fatal(err)
			}
			if all, err := one.Tokens(t.Context()); err != nil || len(all) != step.left {
				t.Errorf("%v after that: %v (%v), want %d left", step.after, all, err, step.left)
			}
		}
	})
}

func TestUseOfATokenIsNotedOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two, _ := twoMembers(t)
		_, sum := readToken(t, one, "ci")
		began := time.Now()
		for _, step := range []struct {
			after time.Duration
			by    *Control
			want  time.Duration // since the beginning
		}{{time.Minute, one, time.Minute}, {time.Minute, one, time.Minute}, {time.Minute, two, time.Minute}, {time.Hour, two, time.Hour + 3*time.Minute}, {time.Minute, one, time.Hour + 3*time.Minute}} {
			time.Sleep(step.after)
			if _, err := step.by.UseToken(t.Context(), sum); err != nil {
				t.Fatal(err)
			}
			all, err := one.Tokens(t.Context())
			if err != nil || len(all) != 1 || all[0].Used.Sub(began) != step.want {
				t.Errorf("after %v: %+v (%v), want it noted at %v", time.Since(began), all, err, step.want)
			}
		}
	})
}

func TestTokenOfBeforeThereWereScopesIsForEverything(t *testing.T) {
	one, two, _ := twoMembers(t)
	err := one.Store.Update(t.Context(), func(tx *store.Tx) error {
		tokens.Put(tx, "aa", userToken{Hash: "aa", Token: weir.Token{Name: "serve 192.0.2.11"}})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := one.SetToken(t.Context(), "serve 192.0.2.11", "aa"); err != nil {
		t.Fatal(err)
	}
	got, err := two.UseToken(t.Context(), "aa")
	if err != nil || got.ID == "" || len(got.Scopes) != 1 || got.Scopes[0] != weir.ScopeAdmin {
		t.Errorf("%+v, %v, want an ID and the scope admin", got, err)
	}
}
