package edge

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"weir/weir"
)

func TestATokenFileIsMadeOnceAndForItsOwnerAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	first, made, err := OpenToken(file)
	if err != nil || !made {
		t.Fatalf("made %v, %v, want a new token", made, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode %#o, want 0600", got)
	}
	token, err := ReadToken(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(token) < 40 || token != first {
		t.Errorf("the file has %q, want the token %q, of at least 40 characters", token, first)
	}
	if again, made, err := OpenToken(file); err != nil || made || again != token {
		t.Errorf("opened again: %q, made %v, %v, want the same token", again, made, err)
	}
}

func TestOnlyTheTokenIsAdmitted(t *testing.T) {
	admit := NewToken("sesame")
	c, err := admit.Authorize(t.Context(), "sesame")
	if err != nil {
		t.Fatalf("the right token is refused: %v", err)
	}
	if lacks := admit.Lacks(c, "POST /v2/weir/nodes"); lacks != "" {
		t.Errorf("it lacks %q, want that it may do everything", lacks)
	}
	for _, token := range []string{"", "sesam", "sesame ", "sesame\n", "SESAME", strings.Repeat("sesame", 1000)} {
		if _, err := admit.Authorize(t.Context(), token); !errors.Is(err, weir.Denied) {
			t.Errorf("token %.20q gets %v, want it denied", token, err)
		}
	}
}

func TestATokenFileThatOthersCanReadIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenToken(file); err == nil || !strings.Contains(err.Error(), "mode 0644") {
		t.Errorf("got %v, want an error that names mode 0644", err)
	}
}

func TestAnEmptyTokenFileAdmitsNobody(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenToken(file); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("got %v, want an error that says the file is empty", err)
	}
}

// kept is a store with these tokens, by their sums.
type kept map[string]weir.Token

func (k kept) UseToken(ctx context.Context, sum string) (weir.Token, error) {
	if k == nil { // a store without a quorum
		<-ctx.Done()
		return weir.Token{}, ctx.Err()
	}
	t, ok := k[sum]
	if !ok {
		return t, weir.Errorf(weir.NotFound, "there is no such token")
	}
	return t, nil
}

func TestTokensAreThoseOfTheStore(t *testing.T) {
	users := NewTokens(kept{weir.SecretSum("sesame"): {ID: "7", Team: "blue", User: "anna", Scopes: []weir.Scope{"droplet:read"}}})
	c, err := users.Authorize(t.Context(), "sesame")
	if err != nil {
		t.Fatal(err)
	}
	if c.Token != "7" || c.Team != "blue" || c.User != "anna" {
		t.Errorf("the caller is %+v, want anna of team blue by token 7", c)
	}
	for route, want := range map[string]weir.Scope{"GET /v2/droplets/{id}": "", "DELETE /v2/droplets/{id}": "droplet:write", "GET /v2/tags": "tag:read"} {
		if got := users.Lacks(c, route); got != want {
			t.Errorf("for %s the caller lacks %q, want %q", route, got, want)
		}
	}
	for _, token := range []string{"", "sesam", weir.SecretSum("sesame")} {
		if _, err := users.Authorize(t.Context(), token); !errors.Is(err, weir.Denied) {
			t.Errorf("token %q: %v, want a weir.Denied error", token, err)
		}
	}
}

func TestStoreThatCannotSayKeepsNobodyWaitingForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if _, err := NewTokens(kept(nil)).Authorize(t.Context(), "sesame"); weir.KindOf(err) != weir.Unavailable {
			t.Errorf("%v, want a weir.Unavailable error", err)
		}
	})
}

func TestRouteOfAnUnknownKindIsForTheOperator(t *testing.T) {
	for _, route := range []string{"GET /v2/spaceships", "POST /v2/weir/spaceships/{id}", "GET /v2", "GET /v3/droplets", "GET /", ""} {
		if need, known := Need(route); need != weir.ScopeAdmin || known {
			t.Errorf("%q needs %q, known %v, want admin, and that it is not known", route, need, known)
		}
	}
}

func TestDescriptionOfTheAPIIsForEverybody(t *testing.T) {
	for _, route := range []string{"GET /docs", "GET /openapi.yaml"} {
		if need, known := Need(route); need != "" || !known {
			t.Errorf("%q needs %q, known %v, want that it needs nothing", route, need, known)
		}
		if lacks := NewToken("sesame").Lacks(weir.Caller{}, route); lacks != "" {
			t.Errorf("for %q somebody without a scope lacks %q, want nothing", route, lacks)
		}
	}
}
