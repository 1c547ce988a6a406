package control

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"weir/store"
	"weir/weir"
)

// newAudited returns a control plane with n rows in its audit log, a minute apart; the newest
// is of now. edit may change each, by its age in minutes.
func newAudited(t *testing.T, n int, edit func(minutes int, a *weir.Audit)) *Control {
	t.Helper()
	c := New(Options{Store: store.Memory()})
	t.Cleanup(func() { c.Store.Close() })
	now := time.Now().UTC()
	err := c.Store.Update(t.Context(), func(tx *store.Tx) error {
		for i := range n {
			at := now.Add(-time.Duration(i) * time.Minute)
			a := weir.Audit{ID: newAuditID(at), At: at, Method: "POST", Path: "/v2/tags", Request: weir.ID(fmt.Sprint(i)), Status: 201}
			if edit != nil {
				edit(i, &a)
			}
			audits.Put(tx, a.ID, a)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheNewestOfManyRequestsComeFirst(t *testing.T) {
	const n = 2*pageOf + 7
	c := newAudited(t, n, func(i int, a *weir.Audit) {
		if i%100 == 99 {
			a.User = "anna"
		}
	})
	all, err := c.Audits(t.Context(), weir.AuditFilter{}, "", n+1)
	if err != nil || len(all) != n {
		t.Fatalf("%d requests, %v, want %d", len(all), err, n)
	}
	for i, a := range all {
		if string(a.Request) != fmt.Sprint(i) {
			t.Fatalf("request %s is number %d of the newest, want them by age", a.Request, i)
		}
	}
	annas, err := c.Audits(t.Context(), weir.AuditFilter{User: "anna"}, all[99].ID, 3)
	if err != nil || len(annas) != 3 || annas[0].Request != "199" || annas[2].Request != "399" {
		t.Errorf("%v, %v, want anna's requests 199, 299 and 399", annas, err)
	}
	recent, err := c.Audits(t.Context(), weir.AuditFilter{Since: all[2].At}, "", 10)
	if err != nil || len(recent) != 3 {
		t.Errorf("%v, %v, want the three newest", recent, err)
	}
}

func TestOldRequestsAndThoseOfManyStrangersAreForgotten(t *testing.T) {
	const n = auditStrangers + 50
	c := newAudited(t, n, func(i int, a *weir.Audit) {
		a.Status = http.StatusUnauthorized
		switch {
		case i == 5:
			a.At = time.Now().Add(-auditFor - time.Hour)
		case i >= n-3:
			a.Status = http.StatusCreated
		}
	})
	if err := sweepAudits(t.Context(), c.Store); err != nil {
		t.Fatal(err)
	}
	all, err := c.Audits(t.Context(), weir.AuditFilter{}, "", 2*n)
	if err != nil {
		t.Fatal(err)
	}
	strangers := 0
	for _, a := range all {
		if a.Request == "5" {
			t.Error("a request of long ago is remembered")
		}
		if a.Status == http.StatusUnauthorized {
			strangers++
		}
	}
	if strangers != auditStrangers-1 || len(all) != strangers+3 {
		t.Errorf("%d requests of which %d are strangers', want %d of strangers and the three others, however old", len(all), strangers, auditStrangers-1)
	}
}

func TestQuotasOfThoseWhoCallNoMoreAreForgotten(t *testing.T) {
	c := New(Options{Store: store.Memory()})
	defer c.Store.Close()
	held := func(ago time.Duration) weir.Quota {
		return weir.Quota{Holders: []weir.Holder{{Member: "a", Until: time.Now().Add(-ago), Hour: weir.Held{Permits: 7}}}}
	}
	for token, q := range map[weir.ID]weir.Quota{"old": held(3 * time.Hour), "recent": held(time.Minute)} {
		if err := c.ChangeQuota(t.Context(), token, func(weir.Quota) weir.Quota { return q }); err != nil {
			t.Fatal(err)
		}
	}
	if err := sweepQuotas(t.Context(), c.Store); err != nil {
		t.Fatal(err)
	}
	keys, _, err := quotas.Page(t.Context(), c.Store, "", 9)
	if err != nil || fmt.Sprint(keys) != "[recent]" {
		t.Errorf("quotas of %v, %v, want of recent alone", keys, err)
	}
}

func TestARowThatChangesMeanwhileIsNotSwept(t *testing.T) {
	c := New(Options{Store: store.Memory()})
	defer c.Store.Close()
	set := func(permits int) {
		t.Helper()
		err := c.ChangeQuota(t.Context(), "x", func(weir.Quota) weir.Quota {
			return weir.Quota{Holders: []weir.Holder{{Member: "a", Hour: weir.Held{Permits: permits}}}}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	set(1)
	err := sweepRows(t.Context(), c.Store, quotas, func(weir.Quota) bool {
		set(2) // after it was read, before it is deleted
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if keys, _, err := quotas.Page(t.Context(), c.Store, "", 9); err != nil || len(keys) != 1 {
		t.Errorf("%v, %v, want the row that was written after the look", keys, err)
	}
}
