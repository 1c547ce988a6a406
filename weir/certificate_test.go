package weir

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue makes a certificate for a name that ends then, by another or by itself; an authority unless
// it has names.
func issue(t *testing.T, by *issued, key crypto.Signer, subject string, end time.Time, names ...string) *issued {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: subject}, DNSNames: names,
		NotBefore: end.Add(-90 * 24 * time.Hour), NotAfter: end, BasicConstraintsValid: true, IsCA: len(names) == 0,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	if by == nil {
		by = &issued{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{cert, key}
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func inPEM(certs ...*issued) (text string) {
	for _, c := range certs {
		text += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
	}
	return text
}

func keyPEM(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", der)
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestCertificateIsKeptWithItsChainInOrder(t *testing.T) {
	now := time.Now()
	root := issue(t, nil, ecKey(t), "Root", now.Add(time.Hour))
	middle := issue(t, root, ecKey(t), "Middle", now.Add(time.Hour))
	leaf := issue(t, middle, ecKey(t), "shop", now.Add(time.Hour), "shop.example", "*.shop.example")
	for name, chain := range map[string]string{"none": "", "the issuer": inPEM(middle), "up to the root": inPEM(middle, root),
		"with a tool's text": "subject=CN = Middle\n" + inPEM(middle) + "\nsubject=CN = Root\n" + inPEM(root)} {
		c, err := NewCertificate("shop", inPEM(leaf), chain, keyPEM(t, leaf.key), now)
		if err != nil {
			t.Errorf("with the chain %s: %v", name, err)
			continue
		}
		if !slices.Equal(c.DNSNames, []string{"shop.example", "*.shop.example"}) || !c.NotAfter.Equal(leaf.cert.NotAfter) || len(c.Fingerprint) != 40 ||
			c.Leaf != inPEM(leaf) || strings.Contains(c.Chain, "subject") || len(c.Sealed) != 0 {
			t.Errorf("with the chain %s: %+v, want the leaf's names, end and fingerprint, and PEM alone", name, c)
		}
	}
	own := issue(t, nil, ecKey(t), "shop", now.Add(time.Hour), "shop.example")
	if _, err := NewCertificate("shop", inPEM(own), "", keyPEM(t, own.key), now); err != nil {
		t.Errorf("one that signed itself: %v, want none", err)
	}
}

func TestPrivateKeysAreReadHoweverTheyAreWritten(t *testing.T) {
	now := time.Now()
	ec := ecKey(t)
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key  crypto.Signer
		text string
	}{
		"ECDSA in PKCS #8":   {ec, keyPEM(t, ec)},
		"ECDSA in SEC 1":     {ec, block("EC PRIVATE KEY", sec1)},
		"with EC PARAMETERS": {ec, block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}) + block("EC PRIVATE KEY", sec1)},
		"RSA in PKCS #8":     {r, keyPEM(t, r)},
		"RSA in PKCS #1":     {r, block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r))},
		"Ed25519":            {ed, keyPEM(t, ed)},
	} {
		leaf := issue(t, nil, c.key, "shop", now.Add(time.Hour), "shop.example")
		if _, err := NewCertificate("shop", inPEM(leaf), "", c.text, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatMakesNoCertificateIsRefusedAndNoKeyIsShown(t *testing.T) {
	now := time.Now()
	root := issue(t, nil, ecKey(t), "Root", now.Add(time.Hour))
	middle := issue(t, root, ecKey(t), "Middle", now.Add(time.Hour))
	namesake := issue(t, root, ecKey(t), "Middle", now.Add(time.Hour))
	leaf := issue(t, middle, ecKey(t), "shop", now.Add(time.Hour), "shop.example")
	late := issue(t, root, ecKey(t), "Late", now.Add(-time.Hour))
	under := issue(t, late, ecKey(t), "shop", now.Add(time.Hour), "shop.example")
	over := issue(t, middle, leaf.key, "shop", now.Add(-time.Hour), "shop.example")
	child := issue(t, leaf, ecKey(t), "child", now.Add(time.Hour), "child.example")
	r, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	short := issue(t, nil, r, "short", now.Add(time.Hour), "short.example")
	key, chain := keyPEM(t, leaf.key), inPEM(middle, root)
	for _, c := range []struct{ name, leaf, chain, key, want string }{
		{" ", inPEM(leaf), chain, key, `name is " ", want 1 to 255 characters`},
		{"x", "", chain, key, "leaf_certificate is missing, want a certificate in PEM"},
		{"x", "hello", chain, key, "leaf_certificate is not PEM, want a text that begins with -----BEGIN CERTIFICATE-----"},
		{"x", block("CERTIFICATE", []byte("hello")), chain, key, "leaf_certificate: certificate 1 cannot be read: "},
		{"x", block("CERTIFICATE REQUEST", []byte("hello")), chain, key, `leaf_certificate has a PEM block of the type "CERTIFICATE REQUEST", want CERTIFICATE`},
		{"x", inPEM(leaf) + key, chain, key, "leaf_certificate has a private key in it, want certificates alone: the key belongs into private_key"},
		{"x", inPEM(leaf, middle), "", key, "leaf_certificate has 2 certificates, want one: those of its issuers belong into certificate_chain"},
		{"x", inPEM(over), chain, key, "leaf_certificate expired at "},
		{"x", inPEM(leaf), "hello", key, "certificate_chain is not PEM, "},
		{"x", inPEM(leaf), inPEM(leaf, middle), key, "certificate_chain begins with the leaf certificate itself, "},
		{"x", inPEM(leaf), inPEM(root, middle), key, `certificate_chain: certificate 1 is "CN=Root", and the one before it was issued by "CN=Middle"`},
		{"x", inPEM(leaf), inPEM(middle, middle), key, `certificate_chain: certificate 2 is "CN=Middle", and the one before it was issued by "CN=Root"`},
		{"x", inPEM(leaf), inPEM(namesake), key, `certificate_chain: certificate 1 ("CN=Middle") has not signed the one before it: `},
		{"x", inPEM(under), inPEM(late), keyPEM(t, under.key), `certificate_chain: certificate 1 ("CN=Late") expired at `},
		{"x", inPEM(child), inPEM(leaf), keyPEM(t, child.key), `certificate_chain: certificate 1 ("CN=shop") has not signed the one before it: `},
		{"x", inPEM(leaf), chain, "", "private_key is missing, want the certificate's key in PEM"},
		{"x", inPEM(leaf), chain, "sesame", "private_key is not PEM, "},
		{"x", inPEM(leaf), chain, block("PRIVATE KEY", []byte("sesame")), "private_key cannot be read, want a key of RSA, ECDSA or Ed25519 in PKCS #8, PKCS #1 or SEC 1"},
		{"x", inPEM(leaf), chain, block("ENCRYPTED PRIVATE KEY", []byte("sesame")), "private_key is encrypted with a passphrase, "},
		{"x", inPEM(leaf), chain, key + key, "private_key has other things than one private key in it, want that alone"},
		{"x", inPEM(leaf), chain, inPEM(leaf), "private_key has other things than one private key in it, want that alone"},
		{"x", inPEM(leaf), chain, keyPEM(t, middle.key), "private_key is not the key of leaf_certificate, "},
		{"x", inPEM(short), "", keyPEM(t, short.key), "private_key is an RSA key of 1024 bits, want at least 2048"},
	} {
		_, err := NewCertificate(c.name, c.leaf, c.chain, c.key, now)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || KindOf(err) != Invalid {
			t.Errorf("got %v\nwant an Invalid %s", err, c.want)
			continue
		}
		if strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "PRIVATE KEY-----\nM") {
			t.Errorf("the key is in the sentence: %v", err)
		}
	}
}
