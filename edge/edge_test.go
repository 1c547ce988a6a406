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
	first, err := OpenToken(file)
	if err != nil {
		t.Fatal(err)
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
	if len(token) < 40 {
		t.Errorf("token %q has %d characters, want at least 40", token, len(token))
	}
	again, err := OpenToken(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, admit := range []*Token{first, again} {
		if _, err := admit.Authorize(t.Context(), token); err != nil {
			t.Errorf("the token in the file is refused: %v", err)
		}
	}
}

func TestOnlyTheTokenIsAdmitted(t *testing.T) {
	admit := NewToken("sesame")
	if _, err := admit.Authorize(t.Context(), "sesame"); err != nil {
		t.Errorf("the right token is refused: %v", err)
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
	if _, err := OpenToken(file); err == nil || !strings.Contains(err.Error(), "mode 0644") {
		t.Errorf("got %v, want an error that names mode 0644", err)
	}
}

func TestAnEmptyTokenFileAdmitsNobody(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenToken(file); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("got %v, want an error that says the file is empty", err)
	}
}

// sums is a store in which there are tokens with these sums.
type sums map[string]bool

func (s sums) HasToken(ctx context.Context, sum string) (bool, error) {
	if s == nil { // a store without a quorum
		<-ctx.Done()
		return false, ctx.Err()
	}
	return s[sum], nil
}

func TestTokensAreThoseOfTheStore(t *testing.T) {
	users := NewTokens(sums{NewToken("sesame").Sum(): true})
	if _, err := users.Authorize(t.Context(), "sesame"); err != nil {
		t.Error(err)
	}
	for _, token := range []string{"", "sesam", NewToken("sesame").Sum()} {
		if _, err := users.Authorize(t.Context(), token); !errors.Is(err, weir.Denied) {
			t.Errorf("token %q: %v, want a weir.Denied error", token, err)
		}
	}
}

func TestStoreThatCannotSayKeepsNobodyWaitingForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if _, err := NewTokens(sums(nil)).Authorize(t.Context(), "sesame"); weir.KindOf(err) != weir.Unavailable {
			t.Errorf("%v, want a weir.Unavailable error", err)
		}
	})
}
