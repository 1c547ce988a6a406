package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"weir/weir"
)

// nodeURI is a node's name in its certificate. A certificate has it as a URI because
// the common name of any other certificate may look like a node's ID.
func nodeURI(node weir.ID) *url.URL {
	return &url.URL{Scheme: "weir", Host: "node", Path: "/" + string(node)}
}

// Node returns which node a certificate belongs to. It does not verify the certificate:
// a TLS handshake has done that. One that is not a node's is weir.Denied.
func Node(cert *x509.Certificate) (weir.ID, error) {
	if len(cert.URIs) == 1 && cert.URIs[0].Scheme == "weir" && cert.URIs[0].Host == "node" {
		if node := strings.TrimPrefix(cert.URIs[0].Path, "/"); node != "" {
			return weir.ID(node), nil
		}
	}
	return "", weir.Errorf(weir.Denied, "certificate of %q is not a node's", cert.Subject.CommonName)
}

// Request returns a certificate request (PKCS #10, DER) for a key. It asks for no name:
// who its holder is, the signer knows.
func Request(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return der, nil
}

// Identity joins a key and the certificate (PEM) that [CA.Sign] made for it into what
// TLS presents, its Leaf parsed. If they do not belong together it is an error.
func Identity(key crypto.Signer, certificate []byte) (tls.Certificate, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	identity, err := tls.X509KeyPair(certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate: %w", err)
	}
	return identity, nil
}

// ParseKey returns the private key in data, which may hold other things too.
func ParseKey(data []byte) (crypto.Signer, error) {
	block := find(data, "PRIVATE KEY")
	if block == nil {
		return nil, errors.New("it has no private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("its private key cannot sign")
	}
	return signer, nil
}

// Roots returns what verifies certificates against those in data, which is PEM.
func Roots(data []byte) (*x509.CertPool, error) {
	if _, err := parseCertificate(data); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	return pool, nil
}

// Pin returns settings of TLS for a client that knows the fingerprint of an authority and
// has no certificate of it yet. The other side must present a certificate that is from that
// authority and valid for host, and the authority's own beside it, which found gets as PEM.
// Anything else ends the handshake with a weir.Denied.
func Pin(fingerprint, host string, found func(authority []byte)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Instead of the roots of this system, with which nothing would pass, the function
		// below verifies all that they would.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			for _, cert := range state.PeerCertificates {
				if !cert.IsCA || Fingerprint(cert) != fingerprint {
					continue
				}
				roots := x509.NewCertPool()
				roots.AddCert(cert)
				if _, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
					return weir.Errorf(weir.Denied, "its certificate: %w", err)
				}
				found(encode(cert.Raw))
				return nil
			}
			return weir.Errorf(weir.Denied, "it is not from the authority with the fingerprint %.16s…", fingerprint)
		},
	}
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block := find(data, "CERTIFICATE")
	if block == nil {
		return nil, errors.New("it has no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	return cert, nil
}

func find(data []byte, kind string) *pem.Block {
	for data = bytes.TrimSpace(data); ; {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil || block.Type == kind {
			return block
		}
	}
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
