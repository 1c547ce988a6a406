package secrets_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"weir/secrets"
	"weir/weir"
)

func TestOnlyTheKeyThatSealedOpensAndOnlyForItsPurpose(t *testing.T) {
	mine, err := secrets.New(secrets.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	other, err := secrets.New(secrets.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	sealed := mine.Seal([]byte("the private key"), "certificate 7")
	if bytes.Contains(sealed, []byte("private")) {
		t.Errorf("%q shows what it seals", sealed)
	}
	if again := mine.Seal([]byte("the private key"), "certificate 7"); bytes.Equal(again, sealed) {
		t.Error("the same secret was sealed twice alike")
	}
	if got, err := mine.Open(sealed, "certificate 7"); err != nil || string(got) != "the private key" {
		t.Errorf("%q (%v), want what was sealed", got, err)
	}
	altered := bytes.Clone(sealed)
	altered[len(altered)-1] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another purpose": func() ([]byte, error) { return mine.Open(sealed, "certificate 8") },
		"another key":     func() ([]byte, error) { return other.Open(sealed, "certificate 7") },
		"altered":         func() ([]byte, error) { return mine.Open(altered, "certificate 7") },
		"cut short":       func() ([]byte, error) { return mine.Open(sealed[:9], "certificate 7") },
		"nothing":         func() ([]byte, error) { return mine.Open(nil, "certificate 7") },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened as %q, want an error", name, got)
		}
	}
}

func TestAKeyIsReplacedWhileTheOldOneStillOpens(t *testing.T) {
	first, second := secrets.NewKey(), secrets.NewKey()
	keys := func(texts ...string) *secrets.Keys {
		k, err := secrets.New(texts...)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sealed := keys(first).Seal([]byte("x"), "p")
	both := keys(second, first)
	if !both.Stale(sealed) || keys(first, second).Stale(sealed) {
		t.Error("what the first key sealed is stale exactly when another key comes before it")
	}
	got, err := both.Open(sealed, "p")
	if err != nil || string(got) != "x" {
		t.Fatalf("%q (%v), want what the old key sealed", got, err)
	}
	anew := both.Seal(got, "p")
	if both.Stale(anew) {
		t.Error("what was sealed anew is stale")
	}
	if got, err := keys(second).Open(anew, "p"); err != nil || string(got) != "x" {
		t.Errorf("without the old key: %q (%v), want what was sealed anew", got, err)
	}
}

func TestTheFileIsMadeOnceAndForItsOwnerAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pki", secrets.FileName)
	if _, err := secrets.Load(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want fs.ErrNotExist where there is no file", err)
	}
	var wg sync.WaitGroup
	opened := make([]*secrets.Keys, 8)
	for i := range opened {
		wg.Go(func() {
			k, err := secrets.Open(file)
			if err != nil {
				t.Error(err)
			}
			opened[i] = k
		})
	}
	wg.Wait()
	sealed := opened[0].Seal([]byte("x"), "p")
	for _, k := range opened {
		if _, err := k.Open(sealed, "p"); err != nil {
			t.Errorf("opened at the same time: %v, want the same key", err)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v (%v), want mode 0600", info.Mode(), err)
	}
	if k, err := secrets.Load(file); err != nil {
		t.Error(err)
	} else if _, err := k.Open(sealed, "p"); err != nil {
		t.Error(err)
	}
}

func TestAFileThatIsNoFileOfKeysIsRefusedAndNotShown(t *testing.T) {
	good := secrets.NewKey()
	for text, want := range map[string]string{
		"":                                "it has no key",
		"# nothing\n\n":                   "it has no key",
		"sesame\n":                        "key 1 is not 32 bytes in base64",
		good + "\n" + good[:20] + "\n":    "key 2 is not 32 bytes in base64",
		"# old\n" + good + "\nsesame\r\n": "key 2 is not 32 bytes in base64",
	} {
		file := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, open := range []func(string) (*secrets.Keys, error){secrets.Load, secrets.Open} {
			_, err := open(file)
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), good[:20]) || strings.Contains(err.Error(), "sesame") {
				t.Errorf("%q: %v, want %q and no key in it", text, err, want)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "k")
	if err := os.WriteFile(file, []byte("# mine\n"+good+"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.Load(file); !errors.Is(err, weir.Denied) {
		t.Errorf("a file that others can read: %v, want weir.Denied", err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.Load(file); err != nil {
		t.Error(err)
	}
}
