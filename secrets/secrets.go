// Package secrets seals what the store must not show: the private keys of certificates.
//
// [Open] reads the keys of a file, and makes the file if it is not there; [Load] wants it
// there, for members of one control plane, which must all have the same. What [Keys.Seal]
// returns is opened by whoever has the key that sealed it, and by nobody else, for the purpose
// that it was sealed for. A copy of the store, or of a backup of it, is worth nothing without
// the file.
//
// The file has one key a line, 32 bytes in base64; lines that begin with # are comments. The
// first key seals, and all of them open. So a key is replaced in three steps, each on all
// members, with a restart of each: add the new one as the last line; make it the first line, and
// the control plane seals anew what the old one had sealed; remove the old one's line once it says
// that it has. AES-256 in GCM, with a random nonce.
package secrets

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"weir/weir"
)

// FileName is what the file is called in the directory where it is kept unless a user says
// otherwise.
const FileName = "secrets.key"

const (
	keySize = 32 // bytes: AES-256
	idSize  = 8  // bytes of a key's sum, by which what it has sealed says so
)

// Keys seal and open. They may be used by several goroutines.
type Keys struct {
	keys []key // the first one seals
}

type key struct {
	id   [idSize]byte
	aead cipher.AEAD
}

// Open returns the keys in file. If there is no such file it makes one, with a new key, that
// its owner alone can read; several processes that open it at once get the same key.
func Open(file string) (*Keys, error) {
	if keys, err := Load(file); !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("key for secrets: %w", err)
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("key for secrets: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("key for secrets: lock %s: %w", lock.Name(), err)
	}
	keys, err := Load(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	if err := renameio.WriteFile(file, []byte(NewKey()+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("key for secrets: %w", err)
	}
	return Load(file)
}

// Load returns the keys in file, which must be there: without it is fs.ErrNotExist. A file that
// others than its owner can read is refused.
func Load(file string) (*Keys, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("key for secrets: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, weir.Errorf(weir.Denied, "key for secrets: %s has mode %#o and others can read it, want 0600", file, mode)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("key for secrets: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	keys, err := New(lines...)
	if err != nil {
		return nil, fmt.Errorf("key for secrets: %s: %w; restore the file: what it has sealed is lost without it", file, err)
	}
	return keys, nil
}

// NewKey makes a key, as it is written in a file.
func NewKey() string {
	b := make([]byte, keySize)
	rand.Read(b)
	return base64.StdEncoding.EncodeToString(b)
}

// New returns what seals with the first of some keys, and opens with all of them. An error
// does not show them.
func New(texts ...string) (*Keys, error) {
	if len(texts) == 0 {
		return nil, weir.Errorf(weir.Invalid, "it has no key")
	}
	k := &Keys{}
	for i, text := range texts {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != keySize {
			return nil, weir.Errorf(weir.Invalid, "key %d is not %d bytes in base64", i+1, keySize)
		}
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(append([]byte("weir secrets "), raw...))
		k.keys = append(k.keys, key{[idSize]byte(sum[:]), aead})
	}
	return k, nil
}

// Seal returns secret so that only these keys open it again, and only for the same purpose: a
// text that says whose secret it is, so that none can be put in another's place.
func (k *Keys) Seal(secret []byte, purpose string) []byte {
	first := k.keys[0]
	return first.aead.Seal(first.id[:], nil, secret, []byte(purpose))
}

// Open returns what was sealed for a purpose.
func (k *Keys) Open(sealed []byte, purpose string) ([]byte, error) {
	for _, key := range k.keys {
		if !bytes.HasPrefix(sealed, key.id[:]) {
			continue
		}
		secret, err := key.aead.Open(nil, nil, sealed[idSize:], []byte(purpose))
		if err != nil {
			return nil, fmt.Errorf("%s: it was altered, or sealed for something else", purpose)
		}
		return secret, nil
	}
	return nil, fmt.Errorf("%s: it was sealed with a key (%x…) that is not in the file of keys for secrets", purpose, sealed[:min(len(sealed), idSize)])
}

// Stale reports whether something was sealed by another key than the first.
func (k *Keys) Stale(sealed []byte) bool { return !bytes.HasPrefix(sealed, k.keys[0].id[:]) }
