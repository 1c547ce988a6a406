package weir

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"time"
)

// Certificate is a certificate for TLS that a user keeps, with its private key.
type Certificate struct {
	ID          ID        `json:"id"`
	Team        ID        `json:"team,omitempty"`
	Name        string    `json:"name"` // unique in a team
	DNSNames    []string  `json:"dns_names,omitempty"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"fingerprint"` // SHA-1 in hexadecimal, as DigitalOcean has it
	Leaf        string    `json:"leaf"`        // PEM
	Chain       string    `json:"chain,omitempty"`
	Sealed      []byte    `json:"sealed"` // the private key (PEM), sealed: see package secrets
	Created     time.Time `json:"created"`
}

// minRSA is how long an RSA key must be, in bits: OpenSSL, which HAProxy uses, takes none that
// is shorter.
const minRSA = 2048

// NewCertificate returns the certificate that a leaf, the chain of its issuers and its private
// key make, all of them PEM, and why they make none. The chain is in order, begins with who issued
// the leaf, and may be empty. No error shows the private key.
func NewCertificate(name, leaf, chain, key string, now time.Time) (Certificate, error) {
	if err := CheckLabel(name); err != nil {
		return Certificate{}, err
	}
	leaves, err := parseCertificates("leaf_certificate", leaf)
	if err != nil {
		return Certificate{}, err
	}
	switch len(leaves) {
	case 0:
		return Certificate{}, Errorf(Invalid, "leaf_certificate is missing, want a certificate in PEM")
	case 1:
	default:
		return Certificate{}, Errorf(Invalid, "leaf_certificate has %d certificates, want one: those of its issuers belong into certificate_chain", len(leaves))
	}
	issuers, err := parseCertificates("certificate_chain", chain)
	if err != nil {
		return Certificate{}, err
	}
	cert := leaves[0]
	if now.After(cert.NotAfter) {
		return Certificate{}, Errorf(Invalid, "leaf_certificate expired at %s, want one that is still valid", cert.NotAfter.UTC().Format(time.RFC3339))
	}
	if err := checkChain(cert, issuers, now); err != nil {
		return Certificate{}, err
	}
	signer, err := parsePrivateKey(key)
	if err != nil {
		return Certificate{}, err
	}
	if public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(cert.PublicKey) {
		return Certificate{}, Errorf(Invalid, "private_key is not the key of leaf_certificate, want the one that the certificate was made for")
	}
	sum := sha1.Sum(cert.Raw)
	return Certificate{Name: name, DNSNames: cert.DNSNames, NotAfter: cert.NotAfter.UTC(), Fingerprint: hex.EncodeToString(sum[:]),
		Leaf: encodeCertificates(leaves), Chain: encodeCertificates(issuers)}, nil
}

// parseCertificates returns the certificates in PEM; text before and between them is ignored, as
// tools write such.
func parseCertificates(field, text string) (certs []*x509.Certificate, err error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, Errorf(Invalid, "%s has a private key in it, want certificates alone: the key belongs into private_key", field)
		case block.Type != "CERTIFICATE":
			return nil, Errorf(Invalid, "%s has a PEM block of the type %.40q, want CERTIFICATE", field, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, Errorf(Invalid, "%s: certificate %d cannot be read: %w", field, len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 && strings.TrimSpace(text) != "" {
		return nil, Errorf(Invalid, "%s is not PEM, want a text that begins with -----BEGIN CERTIFICATE-----", field)
	}
	return certs, nil
}

// checkChain returns why issuers are not the chain of leaf, in order.
func checkChain(leaf *x509.Certificate, issuers []*x509.Certificate, now time.Time) error {
	below := leaf
	for i, issuer := range issuers {
		if i == 0 && issuer.Equal(leaf) {
			return Errorf(Invalid, "certificate_chain begins with the leaf certificate itself, want it to begin with the one that issued it")
		}
		if !bytes.Equal(below.RawIssuer, issuer.RawSubject) {
			return Errorf(Invalid, "certificate_chain: certificate %d is %q, and the one before it was issued by %q: want each to be the issuer of the one before it, the leaf's first",
				i+1, issuer.Subject, below.Issuer)
		}
		if err := below.CheckSignatureFrom(issuer); err != nil {
			return Errorf(Invalid, "certificate_chain: certificate %d (%q) has not signed the one before it: %w", i+1, issuer.Subject, err)
		}
		if now.After(issuer.NotAfter) {
			return Errorf(Invalid, "certificate_chain: certificate %d (%q) expired at %s, want one that is still valid", i+1, issuer.Subject, issuer.NotAfter.UTC().Format(time.RFC3339))
		}
		below = issuer
	}
	return nil
}

// parsePrivateKey returns the one key in PEM. Its errors say nothing of what is in it.
func parsePrivateKey(text string) (crypto.Signer, error) {
	var found *pem.Block
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "EC PARAMETERS" { // which openssl ecparam writes before the key
			continue
		}
		if found != nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return nil, Errorf(Invalid, "private_key has other things than one private key in it, want that alone")
		}
		found = block
	}
	switch {
	case found == nil && strings.TrimSpace(text) == "":
		return nil, Errorf(Invalid, "private_key is missing, want the certificate's key in PEM")
	case found == nil:
		return nil, Errorf(Invalid, "private_key is not PEM, want a text that begins with -----BEGIN PRIVATE KEY-----")
	case found.Type == "ENCRYPTED PRIVATE KEY" || found.Headers["DEK-Info"] != "":
		return nil, Errorf(Invalid, "private_key is encrypted with a passphrase, want it without: openssl pkey -in FILE writes it so")
	}
	key, err := parseKey(found.Bytes)
	if err != nil {
		return nil, Errorf(Invalid, "private_key cannot be read, want a key of RSA, ECDSA or Ed25519 in PKCS #8, PKCS #1 or SEC 1")
	}
	if r, ok := key.(*rsa.PrivateKey); ok && r.N.BitLen() < minRSA {
		return nil, Errorf(Invalid, "private_key is an RSA key of %d bits, want at least %d", r.N.BitLen(), minRSA)
	}
	return key, nil
}

// parseKey returns the private key in DER, whichever way it is written.
func parseKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return x509.ParseECPrivateKey(der)
}

func encodeCertificates(certs []*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Builder takes all
	}
	return b.String()
}
