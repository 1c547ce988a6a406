package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/cloud"
	"weir/control"
	"weir/edge"
	"weir/store"
	"weir/weir"
)

func TestTheFirstTokenIsPrintedOnce(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "")
	ctl := control.New(control.Options{Region: "lab", Store: store.Memory(), Cloud: cloud.None{}})
	defer ctl.Store.Close()
	file := filepath.Join(t.TempDir(), "token")
	said := func() (token, text string) {
		t.Helper()
		made, err := admitFirst(t.Context(), ctl, "weir dev", file)
		if err != nil {
			t.Fatal(err)
		}
		if token, err = edge.ReadToken(file); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		newProgress(&b).token(made, file, "")
		return token, b.String()
	}
	token, text := said()
	if !strings.Contains(text, "The first token, printed this once: "+token+"\n") || !strings.Contains(text, "The token is in "+file+".") {
		t.Errorf("the first start says %q, want the token and its file", text)
	}
	if again, text := said(); again != token || strings.Contains(text, token) {
		t.Errorf("the second start says %q, want the file alone", text)
	}
	first, err := ctl.UseToken(t.Context(), weir.SecretSum(token))
	if err != nil || first.Team != "" || first.Name != "weir dev" || len(first.Scopes) != 1 || first.Scopes[0] != weir.ScopeAdmin {
		t.Errorf("%+v (%v), want the first team's token for everything", first, err)
	}
	t.Setenv("JOURNAL_STREAM", "9:12345")
	var b bytes.Buffer
	if newProgress(&b).token(token, file, ""); strings.Contains(b.String(), token) {
		t.Errorf("into the system's log goes %q, want no token", b.String())
	}
}

func TestATimeToExpireIsFromNowOrByItself(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for said, want := range map[string]string{
		"":                          "",
		"30d":                       "2026-12-28T12:00:00Z",
		"90m":                       "2026-11-28T13:30:00Z",
		"1000000000000d":            "2126-11-04T12:00:00Z",
		"2027-01-31T12:00:00+01:00": "2027-01-31T11:00:00Z",
	} {
		if got, err := expiry(said, now); err != nil || got != want {
			t.Errorf("--expires %q is %q (%v), want %q", said, got, err, want)
		}
	}
	for _, said := range []string{"-1d", "0s", "1.5d", "d", "9999999999999999999999d", "tomorrow", "2026-11-28T12:00:00Z", "2026-12-01"} {
		if got, err := expiry(said, now); err == nil {
			t.Errorf("--expires %q is %q, want an error", said, got)
		}
	}
}
