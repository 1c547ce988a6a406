package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"weir/weir"
)

type keyWire struct {
	ID          int64  `json:"id"`
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
	PublicKey   string `json:"public_key"`
}

func keyWords(k weir.SSHKey) keyWire {
	return keyWire{number(k.ID), k.Name, k.Fingerprint, k.PublicKey}
}

func (a *api) listKeys(w http.ResponseWriter, r *http.Request) error {
	all, err := a.Control.SSHKeys(r.Context())
	if err != nil {
		return err
	}
	return list(w, r, "ssh_keys", all, keyWords)
}

// keyNamed returns the key that has that ID or fingerprint, of all.
func keyNamed(all []weir.SSHKey, name string) (weir.SSHKey, bool) {
	i := slices.IndexFunc(all, func(k weir.SSHKey) bool { return string(k.ID) == name || strings.EqualFold(k.Fingerprint, name) })
	if i < 0 {
		return weir.SSHKey{}, false
	}
	return all[i], true
}

// key returns the key that a path names, by its ID or its fingerprint.
func (a *api) key(r *http.Request) (weir.SSHKey, error) {
	all, err := a.Control.SSHKeys(r.Context())
	if err != nil {
		return weir.SSHKey{}, err
	}
	k, ok := keyNamed(all, r.PathValue("id"))
	if !ok {
		return k, errNotFound
	}
	return k, nil
}

func replyKey(w http.ResponseWriter, status int, k weir.SSHKey) error {
	return reply(w, status, map[string]any{"ssh_key": keyWords(k)})
}

func (a *api) getKey(w http.ResponseWriter, r *http.Request) error {
	k, err := a.key(r)
	if err != nil {
		return err
	}
	return replyKey(w, http.StatusOK, k)
}

// keyRequest is the body that adds a key.
type keyRequest struct {
	Name      string `json:"name"`
	PublicKey string `json:"public_key"`
}

func (a *api) createKey(w http.ResponseWriter, r *http.Request) error {
	var q keyRequest
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if err := weir.CheckLabel(q.Name); err != nil {
		return err
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(q.PublicKey))
	switch {
	case strings.Contains(q.PublicKey, "PRIVATE KEY"):
		return invalid("public_key is a private key, want the public one, as in a file whose name ends in .pub")
	case err != nil:
		return invalid("public_key is %.40q, want a line as in a file whose name ends in .pub", q.PublicKey)
	case len(options) > 0 || strings.TrimSpace(string(rest)) != "":
		return invalid("public_key has options before it, or more lines behind it: want one line as in a file whose name ends in .pub")
	}
	k, err := a.Control.AddSSHKey(r.Context(), weir.SSHKey{Name: q.Name,
		Fingerprint: ssh.FingerprintLegacyMD5(key), PublicKey: strings.TrimSpace(q.PublicKey)})
	if err != nil {
		return err
	}
	return replyKey(w, http.StatusCreated, k)
}

// keyName is the body that renames a key.
type keyName struct {
	Name string `json:"name"`
}

func (a *api) renameKey(w http.ResponseWriter, r *http.Request) error {
	k, err := a.key(r)
	if err != nil {
		return err
	}
	var q keyName
	if err := decode(w, r, &q); err != nil {
		return err
	}
	if err := weir.CheckLabel(q.Name); err != nil {
		return err
	}
	if k, err = a.Control.RenameSSHKey(r.Context(), k.ID, q.Name); err != nil {
		return err
	}
	return replyKey(w, http.StatusOK, k)
}

func (a *api) deleteKey(w http.ResponseWriter, r *http.Request) error {
	k, err := a.key(r)
	if err != nil {
		return err
	}
	if err := a.Control.DeleteSSHKey(r.Context(), k.ID); err != nil {
		return err
	}
	return reply(w, http.StatusNoContent, nil)
}

// publicKeys returns the keys that a droplet is to have: each is given by the ID or the fingerprint
// of one that is kept, or is the public key itself.
func (a *api) publicKeys(ctx context.Context, names []word) (keys []string, err error) {
	var kept []weir.SSHKey
	for i, name := range names {
		if strings.Contains(string(name), " ") {
			keys = append(keys, string(name))
			continue
		}
		if kept == nil {
			if kept, err = a.Control.SSHKeys(ctx); err != nil {
				return nil, err
			}
		}
		k, ok := keyNamed(kept, string(name))
		if !ok {
			return nil, invalid("ssh_keys[%d] is %.60q: no key of this account has that ID or fingerprint, add it first or give the public key itself", i, name)
		}
		keys = append(keys, k.PublicKey)
	}
	return keys, nil
}
