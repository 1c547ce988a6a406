// Package pki is the control plane's own certificate authority, and the keys and
// certificates that it is about.
//
// [Open] keeps an authority in a directory: made once, the same ever after. It signs
// three sorts of certificate, and none can stand in for another: a node's ([CA.Sign]),
// which says which node its holder is and nothing else; the control plane's own
// ([CA.GetCertificate]), which nodes and the command line verify against [CA.PEM], or
// against its [Fingerprint] if that is all they have ([Pin]); and that by which members
// of one control plane know one another ([CA.Member]). A certificate says who somebody is;
// what they may do, and whether they still may, is decided by whoever reads it.
//
// Keys are ECDSA on P-256, which everything that speaks TLS knows.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"weir/weir"
)

const (
	authorityLife = 20 * 365 * 24 * time.Hour
	serverLife    = 24 * time.Hour
	clockSkew     = 5 * time.Minute // how far behind ours a clock may be
)

// CA is a certificate authority. It may be used by several goroutines.
type CA struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// Open returns the authority in dir, making both if they are not there. Its key and
// certificate are one file, which is there whole or not at all, and several processes
// that open dir at once get the same authority. A file that holds anything else is an
// error: to make another authority in its place would lock out every node.
func Open(dir string) (*CA, error) {
	ca, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return ca, nil
}

// Load returns the authority in dir, which must be there: without one it is
// fs.ErrNotExist. Members of one control plane share an authority, so that none of them
// can make it by itself.
func Load(dir string) (*CA, error) {
	path := filepath.Join(dir, "ca.pem")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	ca, err := loadFile(path, data)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return ca, nil
}

func loadFile(path string, data []byte) (*CA, error) {
	ca, err := load(data)
	if err != nil {
		return nil, fmt.Errorf("%s is truncated or not ours: %w; restore it, or remove it and enrol every node anew", path, err)
	}
	return ca, nil
}

func open(dir string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "ca.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}

	path := filepath.Join(dir, "ca.pem")
	data, err := os.ReadFile(path)
	if err == nil {
		return loadFile(path, data)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}

	ca, data, err := create()
	if err != nil {
		return nil, err
	}
	// What a process left that was killed while it wrote; we have the lock.
	torn, err := filepath.Glob(filepath.Join(dir, ".ca.pem*"))
	if err != nil {
		return nil, err
	}
	for _, name := range torn {
		if err := os.Remove(name); err != nil {
			return nil, err
		}
	}
	if err := renameio.WriteFile(path, data, 0o600, renameio.WithTempDir(dir)); err != nil {
		return nil, err
	}
	return ca, syncDir(dir)
}

// syncDir makes the names in dir outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// create makes an authority, and the file it is kept in.
func create() (*CA, []byte, error) {
	key, file, err := weir.NewPrivateKey()
	if err != nil {
		return nil, nil, err
	}
	template, err := newTemplate(authorityLife)
	if err != nil {
		return nil, nil, err
	}
	template.Subject.CommonName = "Weir"
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLenZero = true // it signs leaves alone
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return &CA{key, cert}, append(file, encode(der)...), nil
}

// load is the inverse of create. Its errors are clauses for a sentence about the file.
func load(data []byte) (*CA, error) {
	key, err := ParseKey(data)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(data)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, errors.New("its certificate is not an authority's")
	}
	if public, ok := key.Public().(*ecdsa.PublicKey); !ok || !public.Equal(cert.PublicKey) {
		return nil, errors.New("its key and its certificate do not belong together")
	}
	if time.Now().After(cert.NotAfter) {
		return nil, fmt.Errorf("it expired on %s", cert.NotAfter.Format(time.DateOnly))
	}
	return &CA{key, cert}, nil
}

// Sign returns a certificate, as PEM, by which its holder is node, valid from now for
// life. Of the request (PKCS #10, DER) it takes the public key alone: whatever name that
// asks for, the certificate says node. A request that is garbage, is not signed by its
// own key or has a key of another sort than ECDSA or Ed25519 is weir.Invalid.
func (ca *CA) Sign(request []byte, node weir.ID, life time.Duration) ([]byte, error) {
	if node == "" {
		return nil, weir.Errorf(weir.Invalid, "certificate request: there is no node to sign it for")
	}
	public, err := PublicKey(request)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(life)
	if err != nil {
		return nil, err
	}
	template.Subject = pkix.Name{CommonName: string(node)}
	template.URIs = append(template.URIs, nodeURI(node))
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of node %s: %w", node, err)
	}
	return encode(der), nil
}

// PublicKey returns the key that a certificate request is for, having checked that
// whoever made the request has its private half. Errors are as those of [CA.Sign].
func PublicKey(request []byte) (crypto.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, weir.Errorf(weir.Invalid, "certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, weir.Errorf(weir.Invalid, "certificate request: its signature: %w", err)
	}
	switch csr.PublicKey.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return csr.PublicKey, nil
	}
	return nil, weir.Errorf(weir.Invalid, "certificate request: its key is %s, want ECDSA or Ed25519", csr.PublicKeyAlgorithm)
}

// ServerCertificate returns a certificate of the control plane's own, for the next 24
// hours, under the names and IP addresses given.
func (ca *CA) ServerCertificate(hosts ...string) (tls.Certificate, error) {
	key, _, err := weir.NewPrivateKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	template, err := newTemplate(serverLife)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.Subject = pkix.Name{CommonName: "weir control plane"}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	addHosts(template, hosts)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of the control plane: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	// With the authority's own, for those who know no more of it than its fingerprint.
	return tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// MemberName is the common name in the certificates of the control plane's members. It is
// how they tell one another from nodes, whose certificates are from the same authority
// and name a node.
const MemberName = "weir member"

// MemberLife is how long a certificate of [CA.Member] is valid.
const MemberLife = 30 * 24 * time.Hour

// Member returns a certificate (PEM) of key's public half by which its holder is a member
// of the control plane at the names and IP addresses given, whichever side connects, for
// the next [MemberLife].
func (ca *CA) Member(key crypto.Signer, hosts ...string) ([]byte, error) {
	template, err := newTemplate(MemberLife)
	if err != nil {
		return nil, err
	}
	template.Subject = pkix.Name{CommonName: MemberName}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	addHosts(template, hosts)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of a member: %w", err)
	}
	return encode(der), nil
}

// addHosts makes a certificate valid for names and IP addresses.
func addHosts(template *x509.Certificate, hosts []string) {
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
}

// GetCertificate returns what tls.Config calls GetCertificate: the control plane's own
// certificate, made at the first handshake and replaced as soon as it is [Due].
func (ca *CA) GetCertificate(hosts ...string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var mu sync.Mutex
	var current *tls.Certificate
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if current == nil || time.Now().After(Due(current.Leaf)) {
			cert, err := ca.ServerCertificate(hosts...)
			if err != nil {
				return nil, err
			}
			current = &cert
		}
		return current, nil
	}
}

// Pool returns what verifies certificates of this authority, and no others.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// PEM returns the authority's certificate, without its key, for those who verify.
func (ca *CA) PEM() []byte { return encode(ca.cert.Raw) }

// Fingerprint returns the [Fingerprint] of the authority's certificate.
func (ca *CA) Fingerprint() string { return Fingerprint(ca.cert) }

// Fingerprint returns the SHA-256 of a certificate, in hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Due returns when a certificate should be renewed: when half of its life is over,
// which leaves the other half for trying again.
func Due(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2)
}

// newTemplate returns what all certificates have: a serial number and a life. It begins
// a little early, for clocks that are behind, but never by much of life itself.
func newTemplate(life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-min(clockSkew, life/10)),
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}, nil
}
