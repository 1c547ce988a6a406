package storetest

import (
	"context"
	"testing"
	"time"

	"weir/store"
)

func testMembers(t *testing.T, s *store.Store) {
	members, err := s.Members(limited(t))
	if err != nil {
		t.Fatalf("members: %v", err)
	}
	up, self, leads := 0, 0, 0
	for i, m := range members {
		if m.Name == "" || i > 0 && m.Name <= members[i-1].Name {
			t.Errorf("got %+v, want members by name", members)
		}
		if m.Up {
			up++
		}
		if m.Self {
			self++
		}
		if m.Leads {
			leads++
		}
	}
	if 2*up <= len(members) || self > 1 || leads != 1 {
		t.Errorf("got %+v, want most of them up, one to lead, and one at most in this process", members)
	}
}

func testLeader(t *testing.T, s *store.Store) {
	ctx := limited(t)
	want := func(name string) (since time.Time) {
		t.Helper()
		who, since, err := s.Leader(ctx, "weir")
		if err != nil || who != name || since.IsZero() != (name == "") {
			t.Errorf("%q leads since %v (%v), want %q", who, since, err, name)
		}
		return since
	}
	want("")
	began := time.Now()
	err := s.As("first").Lead(ctx, "weir", func(working context.Context, _ *store.Store) error {
		if since := want("first"); since.Before(began) {
			t.Errorf("it leads since %v, before it began to at %v", since, began)
		}
		if err := s.Depose(ctx, "weir"); err != nil {
			t.Errorf("depose: %v", err)
		}
		want("")
		<-working.Done()
		return working.Err()
	})
	if err == nil {
		t.Error("a deposed leader got no error")
	}
	err = s.As("second").Lead(ctx, "weir", func(context.Context, *store.Store) error { want("second"); return nil })
	if err != nil {
		t.Errorf("lead: %v", err)
	}
	want("")
	err = s.Lead(ctx, "weir", func(context.Context, *store.Store) error {
		if who, _, err := s.Leader(ctx, "weir"); err != nil || who == "" {
			t.Errorf("%q leads (%v), want a name without being told one", who, err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("lead: %v", err)
	}
}
