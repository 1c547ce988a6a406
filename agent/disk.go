package agent

import (
	"crypto"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"weir/pki"
	"weir/weir"
)

// disk is what a node knows after a restart. Each file is replaced as a whole.
//
//	key.pem          made before the node enrols, and kept for its life
//	ca.pem           the authority of the control plane, if the node learned it from its token
//	certificate.pem  the newest that the control plane gave for it
//	config.json      the NodeConfig that was last live
//	config.next      one that was being made live; or half of it
type disk struct {
	dir  string
	lock *os.File
}

// openDisk makes dir ours. It is an error if another agent works in it.
func openDisk(dir string) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		lock.Close()
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, weir.Errorf(weir.Conflict, "another agent works in %s", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	d := &disk{dir, lock}
	if err := d.sweep(); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

// sweep removes what writes left that a kill cut short.
func (d *disk) sweep() error {
	torn, err := filepath.Glob(d.path(".*.pem*"))
	if err != nil {
		return err
	}
	for _, name := range torn {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) close() { d.lock.Close() }

func (d *disk) path(name string) string { return filepath.Join(d.dir, name) }

// key returns the node's key, making it if there is none.
func (d *disk) key() (crypto.Signer, error) {
	data, err := os.ReadFile(d.path("key.pem"))
	if err == nil {
		key, err := pki.ParseKey(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.path("key.pem"), err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, data, err := weir.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	// A token is bound to the key it was first used with: had we not kept that, we
	// could never enrol again.
	return key, d.write("key.pem", data)
}

// certificate returns key with its certificate. It is fs.ErrNotExist if there is none.
func (d *disk) certificate(key crypto.Signer) (tls.Certificate, error) {
	data, err := os.ReadFile(d.path("certificate.pem"))
	if err != nil {
		return tls.Certificate{}, err
	}
	return pki.Identity(key, data)
}

// document is a NodeConfig with the text that it came as.
type document struct {
	weir.NodeConfig
	text []byte
}

// documents returns the NodeConfigs that may be live, newest first, and why others
// could not be read.
func (d *disk) documents() (docs []document, err error) {
	next, err := d.document("config.next")
	if err == nil {
		docs = append(docs, next) // half of one is no more than what its name says
	}
	live, err := d.document("config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return docs, nil
	}
	if err != nil {
		return docs, err
	}
	return append(docs, live), nil
}

func (d *disk) document(name string) (doc document, err error) {
	if doc.text, err = os.ReadFile(d.path(name)); err != nil {
		return doc, err
	}
	if err := json.Unmarshal(doc.text, &doc.NodeConfig); err != nil {
		return doc, fmt.Errorf("%s: %w", d.path(name), err)
	}
	return doc, nil
}

// stage stores a document that HAProxy is about to be given, so that an agent killed
// meanwhile goes on with it. It is not synced, which can take longer than all the rest
// of a change: a machine that loses power here boots with the document before it.
func (d *disk) stage(doc document) error {
	return os.WriteFile(d.path("config.next"), doc.text, 0o600)
}

// keep makes the staged document the one to start with, whatever happens.
func (d *disk) keep() error {
	f, err := os.Open(d.path("config.next"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.path("config.json")); err != nil {
		return err
	}
	return d.sync()
}

// drop forgets the staged document.
func (d *disk) drop() error {
	if err := os.Remove(d.path("config.next")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d *disk) write(name string, data []byte) error {
	if err := renameio.WriteFile(d.path(name), data, 0o600, renameio.WithTempDir(d.dir)); err != nil {
		return err
	}
	return d.sync()
}

// sync makes the names of files outlive a power cut.
func (d *disk) sync() error {
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
