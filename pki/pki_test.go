package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/weir"
)

func TestAuthorityIsTheSameAtEachOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first := newCA(t, dir)
	second := newCA(t, dir)
	if first.Fingerprint() != second.Fingerprint() {
		t.Errorf("fingerprint %s, then %s, want the same", first.Fingerprint(), second.Fingerprint())
	}
	info, err := os.Stat(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("its key is readable as %v, want by its owner alone", info.Mode().Perm())
	}
	// What one has signed, the other verifies.
	verify(t, sign(t, first, newRequest(t, newKey(t)), "17", time.Hour), second.Pool(), x509.ExtKeyUsageClientAuth)
}

func TestProcessesThatOpenAtOnceGetOneAuthority(t *testing.T) {
	dir := t.TempDir()
	// A process was killed while it wrote.
	torn := filepath.Join(dir, ".ca.pem1234")
	if err := os.WriteFile(torn, []byte("-----BEGIN PRIV"), 0o600); err != nil {
		t.Fatal(err)
	}
	prints := make([]string, 8)
	var wg sync.WaitGroup
	for i := range prints {
		wg.Go(func() {
			ca, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			prints[i] = ca.Fingerprint()
		})
	}
	wg.Wait()
	for _, p := range prints {
		if p != prints[0] {
			t.Fatalf("fingerprints %q, want one authority", prints)
		}
	}
	if _, err := os.Stat(torn); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the torn file is still there (%v), want it removed", err)
	}
}

func TestFileThatIsNotAnAuthorityIsNotReplaced(t *testing.T) {
	whole := func(t *testing.T) string {
		dir := t.TempDir()
		newCA(t, dir)
		data, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	one, other := whole(t), whole(t)
	certificate := func(s string) string { return s[strings.Index(s, "-----BEGIN CERTIFICATE"):] }
	key := strings.TrimSuffix(one, certificate(one))
	leaf := sign(t, newCA(t, t.TempDir()), newRequest(t, newKey(t)), "17", time.Hour)

	for name, c := range map[string]struct{ file, want string }{
		"empty":               {"", "it has no private key"},
		"foreign":             {"hello\n", "it has no private key"},
		"cut in its key":      {one[:40], "it has no private key"},
		"cut after its key":   {key, "it has no certificate"},
		"key of another":      {key + certificate(other), "do not belong together"},
		"not an authority's":  {key + string(leaf), "is not an authority's"},
		"certificate garbled": {key + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "its certificate: x509"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "ca.pem")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir)
			if err == nil {
				t.Fatal("opened")
			}
			for _, part := range []string{path, c.want, "restore it"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q, want %q in it", err, part)
				}
			}
			if data, _ := os.ReadFile(path); string(data) != c.file {
				t.Errorf("the file became %q", data)
			}
		})
	}
}

func TestCertificateSaysTheNodeWhateverTheRequestSays(t *testing.T) {
	ca := newCA(t, t.TempDir())
	key := newKey(t)
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "99"},
		DNSNames:    []string{"control.example"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
		URIs:        []*url.URL{nodeURI("99")},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	cert := verify(t, sign(t, ca, request, "17", time.Hour), ca.Pool(), x509.ExtKeyUsageClientAuth)
	node, err := Node(cert)
	if err != nil {
		t.Fatal(err)
	}
	if node != "17" || cert.Subject.CommonName != "17" {
		t.Errorf("the certificate says node %q and name %q, want 17", node, cert.Subject.CommonName)
	}
	if len(cert.DNSNames)+len(cert.IPAddresses) > 0 {
		t.Errorf("the certificate has the names %v %v, want none", cert.DNSNames, cert.IPAddresses)
	}
	if cert.IsCA {
		t.Error("the certificate can sign others")
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a node's certificate passes for the control plane's")
	}
}

func TestUnfitRequestsAreRefused(t *testing.T) {
	ca := newCA(t, t.TempDir())
	garbled := newRequest(t, newKey(t))
	garbled[len(garbled)-1] ^= 1
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, request := range map[string][]byte{
		"empty":            nil,
		"garbage":          []byte("-----BEGIN"),
		"broken signature": garbled,
		"RSA":              newRequest(t, rsaKey),
	} {
		if _, err := ca.Sign(request, "17", time.Hour); !errors.Is(err, weir.Invalid) {
			t.Errorf("%s: %v, want a weir.Invalid error", name, err)
		}
	}
	if _, err := ca.Sign(newRequest(t, newKey(t)), "", time.Hour); !errors.Is(err, weir.Invalid) {
		t.Errorf("no node: %v, want a weir.Invalid error", err)
	}
}

func TestOnlyNodesHaveANodesCertificate(t *testing.T) {
	ca := newCA(t, t.TempDir())
	server, err := ca.ServerCertificate("17")
	if err != nil {
		t.Fatal(err)
	}
	if node, err := Node(server.Leaf); !errors.Is(err, weir.Denied) {
		t.Errorf("the control plane's certificate is node %q (%v), want a weir.Denied error", node, err)
	}
	if _, err := server.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the control plane's certificate passes for a node's")
	}
}

func TestServerCertificateIsRenewedBeforeItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t, t.TempDir())
		get := ca.GetCertificate("control.example", "10.0.0.1", "::1")
		seen := map[*tls.Certificate]bool{}
		for range 4 * 24 {
			cert, err := get(nil)
			if err != nil {
				t.Fatal(err)
			}
			seen[cert] = true
			for _, host := range []string{"control.example", "10.0.0.1", "::1"} {
				if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: host}); err != nil {
					t.Fatalf("%s: %v", host, err)
				}
			}
			time.Sleep(time.Hour)
		}
		if len(seen) < 4 || len(seen) > 10 {
			t.Errorf("%d certificates in four days, want about two a day", len(seen))
		}
	})
}

func TestKeyAndCertificateJoinOnlyIfTheyBelongTogether(t *testing.T) {
	ca := newCA(t, t.TempDir())
	key, file, err := weir.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKey(file)
	if err != nil {
		t.Fatal(err)
	}
	if !key.Public().(*ecdsa.PublicKey).Equal(again.Public()) {
		t.Error("the key read is not the key written")
	}
	cert := sign(t, ca, newRequest(t, key), "17", time.Hour)
	identity, err := Identity(again, cert)
	if err != nil {
		t.Fatal(err)
	}
	if node, err := Node(identity.Leaf); node != "17" {
		t.Errorf("identity of node %q (%v), want 17", node, err)
	}
	if _, err := Identity(newKey(t), cert); err == nil {
		t.Error("another key joined with the certificate")
	}
}

func TestRootsAreTheAuthorityAlone(t *testing.T) {
	ca := newCA(t, t.TempDir())
	pool, err := Roots(ca.PEM())
	if err != nil {
		t.Fatal(err)
	}
	if !pool.Equal(ca.Pool()) {
		t.Error("the roots read are not the authority")
	}
	if strings.Contains(string(ca.PEM()), "PRIVATE") {
		t.Error("the authority's key is in what is given to those who verify")
	}
	if _, err := Roots([]byte("hello")); err == nil {
		t.Error("a file without a certificate was accepted")
	}
}

func newCA(t *testing.T, dir string) *CA {
	t.Helper()
	ca, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, _, err := weir.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRequest(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	request, err := Request(key)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

func sign(t *testing.T, ca *CA, request []byte, node weir.ID, life time.Duration) []byte {
	t.Helper()
	cert, err := ca.Sign(request, node, life)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func verify(t *testing.T, data []byte, roots *x509.CertPool, usage x509.ExtKeyUsage) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestFingerprintIsEnoughToKnowTheControlPlane(t *testing.T) {
	ca, other := newCA(t, t.TempDir()), newCA(t, t.TempDir())
	handshake := func(server *CA, host string) (authority []byte, err error) {
		ours, theirs := net.Pipe()
		var wg sync.WaitGroup
		defer wg.Wait()
		defer theirs.Close()
		defer ours.Close()
		conf := &tls.Config{GetCertificate: server.GetCertificate(host)}
		wg.Go(func() { tls.Server(theirs, conf).Handshake() }) // what it thinks of it, nobody asks
		err = tls.Client(ours, Pin(ca.Fingerprint(), "192.0.2.7", func(pem []byte) { authority = pem })).Handshake()
		return authority, err
	}
	authority, err := handshake(ca, "192.0.2.7")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(authority, ca.PEM()) {
		t.Errorf("it was told the authority\n%s\nwant\n%s", authority, ca.PEM())
	}
	for what, try := range map[string]func() ([]byte, error){
		"of another authority": func() ([]byte, error) { return handshake(other, "192.0.2.7") },
		"at another address":   func() ([]byte, error) { return handshake(ca, "192.0.2.8") },
	} {
		if authority, err := try(); !errors.Is(err, weir.Denied) || authority != nil {
			t.Errorf("a control plane %s: %v, want a weir.Denied error and nothing learned", what, err)
		}
	}
}

func TestMembersKnowOneAnotherAndAreNoNodes(t *testing.T) {
	ca := newCA(t, t.TempDir())
	key := newKey(t)
	member, err := ca.Member(key, "192.0.2.11")
	if err != nil {
		t.Fatal(err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		cert := verify(t, member, ca.Pool(), usage)
		if cert.Subject.CommonName != MemberName || cert.VerifyHostname("192.0.2.11") != nil {
			t.Errorf("it is of %q for %v, want %q for 192.0.2.11", cert.Subject.CommonName, cert.IPAddresses, MemberName)
		}
		if _, err := Node(cert); !errors.Is(err, weir.Denied) {
			t.Errorf("a member passes as a node: %v", err)
		}
	}
	node := verify(t, sign(t, ca, newRequest(t, newKey(t)), MemberName, time.Hour), ca.Pool(), x509.ExtKeyUsageClientAuth)
	if len(node.IPAddresses) > 0 {
		t.Errorf("a node has addresses %v in its certificate", node.IPAddresses)
	}
}

func TestAuthorityThatMustBeThereIsNotMade(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want fs.ErrNotExist", err)
	}
	made := newCA(t, dir)
	loaded, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Fingerprint() != made.Fingerprint() {
		t.Error("it is another authority than that which was made")
	}
}
