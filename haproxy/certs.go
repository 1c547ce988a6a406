package haproxy

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"weir/weir"
)

// Each certificate of a frontend is a file that is named after its place there, and not after the certificate: one that
// comes in the place of another is a new content of the same file, which HAProxy takes over without a reload.

// certList is the file that lists the certificates of a frontend.
func certList(f *weir.Frontend) string { return sanitize(f.Name) + ".list" }

// certFile is the file of a frontend's n-th certificate.
func certFile(f *weir.Frontend, n int) string {
	return sanitize(f.Name) + "." + strconv.Itoa(n) + ".pem"
}

// filesOf returns the files that p needs beside its configuration, by name.
func filesOf(p *weir.Proxy) (map[string][]byte, error) {
	files := map[string][]byte{}
	handlingFiles(p, files)
	for i := range p.Frontends {
		f := &p.Frontends[i]
		if f.TLS == nil {
			continue
		}
		var list bytes.Buffer
		for n, c := range f.TLS.Certificates {
			text := p.PEM[c.ID]
			if text == "" {
				return nil, fmt.Errorf("frontend %s: certificate %s is missing", f.Name, c.ID)
			}
			files[certFile(f, n)] = []byte(text)
			fmt.Fprintln(&list, certFile(f, n))
		}
		files[certList(f)] = list.Bytes()
	}
	return files, challengeFiles(p, files)
}

// writeCerts writes files, of which some have private keys, and returns what puts back what was there before.
func writeCerts(dir string, files map[string][]byte) (undo func() error, err error) {
	if len(files) == 0 {
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	before := map[string][]byte{}
	undo = func() (err error) {
		for name, text := range before {
			err = errors.Join(err, replace(filepath.Join(dir, name), text))
		}
		return err
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		was, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, undo())
		}
		if bytes.Equal(was, text) {
			continue
		}
		if err := replace(path, text); err != nil {
			return nil, errors.Join(err, undo())
		}
		if was != nil {
			before[name] = was
		}
	}
	return undo, nil
}

// sweepCerts removes the files of certificates that are not among files: nobody needs their keys any more.
func (p *Proxy) sweepCerts(files map[string][]byte) error {
	entries, err := os.ReadDir(p.path(certsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if _, wanted := files[e.Name()]; !wanted {
			err = errors.Join(err, os.Remove(filepath.Join(p.path(certsDir), e.Name())))
		}
	}
	return err
}

// errRotation says that HAProxy does not take certificates over while it runs.
var errRotation = errors.New("haproxy takes no certificate over")

// rotate has the worker use the certificates in files, and then writes them: a HAProxy that dies in between starts with
// the ones before, and is told again. Which of them it has is what is written. It is errRotation if the worker refuses
// one, which then goes on with those that it had.
func (p *Proxy) rotate(ctx context.Context, files map[string][]byte) error {
	dir := p.path(certsDir)
	before, changed := map[string][]byte{}, map[string][]byte{}
	for name, text := range files {
		was, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !bytes.Equal(was, text) || !p.sealed && strings.HasSuffix(name, ".pem") && !p.shows(ctx, filepath.Join(dir, name), text) {
			before[name], changed[name] = was, text
		}
	}
	var done []string
	for name, text := range changed {
		if err := p.exchangeCert(ctx, filepath.Join(dir, name), text); err != nil {
			for _, name := range done {
				err = errors.Join(err, p.exchangeCert(ctx, filepath.Join(dir, name), before[name]))
			}
			return err
		}
		done = append(done, name)
	}
	if len(done) > 0 {
		p.log.Info("certificates rotated", "n", len(done))
	}
	_, err := writeCerts(dir, changed)
	p.sealed = err == nil
	return err
}

// shows reports whether the worker has a certificate in the place of that file. Of one that ran before we did nobody
// knows: it may have been told, or not, of what is on disk.
func (p *Proxy) shows(ctx context.Context, file string, text []byte) bool {
	out, err := exchange(ctx, p.path(workerSocket), "show ssl cert "+file)
	block, _ := pem.Decode(text)
	if err != nil || block == nil {
		return false
	}
	sum := sha1.Sum(block.Bytes)
	return bytes.Contains(out, []byte("FingerPrint: "+strings.ToUpper(hex.EncodeToString(sum[:]))))
}

// exchangeCert has the worker use text as the certificate of a file. HAProxy takes one at a time.
func (p *Proxy) exchangeCert(ctx context.Context, file string, text []byte) error {
	// A payload ends at its first empty line.
	set := "set ssl cert " + file + " <<\n" + strings.ReplaceAll(strings.TrimSpace(string(text)), "\n\n", "\n") + "\n"
	out, err := exchange(ctx, p.path(workerSocket), set)
	if err == nil && bytes.HasPrefix(out, []byte("Transaction")) {
		out, err = exchange(ctx, p.path(workerSocket), "commit ssl cert "+file)
		if err == nil && bytes.Contains(out, []byte("Success")) {
			return nil
		}
	}
	if err == nil {
		err = fmt.Errorf("%w: %s", errRotation, strings.Join(strings.Fields(string(out)), " "))
		exchange(ctx, p.path(workerSocket), "abort ssl cert "+file) // if it has begun
	}
	return err
}
