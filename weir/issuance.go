package weir

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Issuance is how far a certificate is that Weir gets from an authority and renews by itself. It is all that is
// needed to go on after a crash: an order is stored before anything else is done with it, and so is the key that it is for.
type Issuance struct {
	Challenge ChallengeType `json:"challenge,omitempty"` // by which alone the authority is shown who has the names; the one that fits if empty

	Authority string    `json:"authority,omitempty"` // the directory of the one that was asked last
	Asked     time.Time `json:"asked,omitzero"`      // an order was to be made then, and it is not known yet which
	Order     string    `json:"order,omitempty"`     // the URL of the one under way
	Sealed    []byte    `json:"sealed,omitempty"`    // the private key that it is for, sealed
	Records   []Record  `json:"records,omitempty"`   // in the DNS, that are there for it or may be
	Set       time.Time `json:"set,omitzero"`        // when they were all there
	Answers   []Answer  `json:"answers,omitempty"`   // to challenges of the order under way, that load balancers show
	Answered  bool      `json:"answered,omitempty"`  // load balancers have shown some, and may have to again

	Issued time.Time `json:"issued,omitzero"` // when the certificate was; zero while there is a placeholder in its place
	Renew  time.Time `json:"renew,omitzero"`  // when to get another one
	From   time.Time `json:"from,omitzero"`   // when the window begins in which the authority suggests that; zero if it suggests none
	Look   time.Time `json:"look,omitzero"`   // when to ask the authority again what it suggests

	Plan   string    `json:"plan,omitempty"`   // what it waits for, be it that a trouble on the way to the authority passes
	Err    string    `json:"err,omitempty"`    // why it was last refused
	Failed int       `json:"failed,omitempty"` // how often it has since it last succeeded
	Next   time.Time `json:"next,omitzero"`    // when it is tried again
}

// Record is a record in the DNS, of the type TXT.
type Record struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Answer is a certificate that shows an authority that asks by TLS-ALPN-01 who has a name.
type Answer struct {
	Name        string `json:"name"`
	Value       string `json:"value"` // of the challenge that it is for
	Leaf        string `json:"leaf"`  // PEM
	Fingerprint string `json:"fingerprint"`
	Sealed      []byte `json:"sealed"` // its private key, sealed

	Made time.Time `json:"made"`
}

// ChallengeType is a way in which an authority is shown who has a name.
type ChallengeType string

// The types of challenges that a user may want. Records in the DNS, which are the third type, are for the operator's domains.
const (
	ChallengeHTTP ChallengeType = "http-01"     // asked by HTTP, at port 80
	ChallengeALPN ChallengeType = "tls-alpn-01" // asked by TLS, at port 443
)

// check returns why names cannot be shown by t alone.
func (t ChallengeType) check(names []string) error {
	if t == "" {
		return nil
	}
	if t != ChallengeHTTP && t != ChallengeALPN {
		return Errorf(Invalid, "weir.challenge is %.40q, want %s or %s, or leave it out", t, ChallengeHTTP, ChallengeALPN)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "*.") {
			return Errorf(Invalid, "dns_names has %.255q, and weir.challenge is %q: names with * take a record in the DNS, leave weir.challenge out", name, t)
		}
	}
	return nil
}

// CertificateState says whether a certificate can be used.
type CertificateState string

// The states of a certificate, in DigitalOcean's words.
const (
	CertificatePending  CertificateState = "pending"  // it is on its way
	CertificateVerified CertificateState = "verified" // it is there
	CertificateErrored  CertificateState = "error"    // it could not be got yet, or has expired and could not be renewed
)

// State returns whether c can be used at a moment.
func (c *Certificate) State(now time.Time) CertificateState {
	switch i := c.Issuance; {
	case i == nil || !i.Issued.IsZero() && (now.Before(c.NotAfter) || i.Err == ""):
		return CertificateVerified
	case i.Err != "":
		return CertificateErrored
	default:
		return CertificatePending
	}
}

// Placeholder reports whether c stands for one that is on its way.
func (c *Certificate) Placeholder() bool { return c.Issuance != nil && c.Issuance.Issued.IsZero() }

// mostDNSNames is how many names a certificate has at most, as Let's Encrypt has it.
const mostDNSNames = 100

// NewIssued returns a certificate for names that an authority is to issue, which is shown by challenge who has them. Until it
// has, one that has signed itself stands in its place, with the key (PEM) that is returned.
func NewIssued(name string, names []string, challenge ChallengeType, now time.Time) (cert Certificate, key []byte, err error) {
	if err := CheckLabel(name); err != nil {
		return cert, nil, err
	}
	if names, err = checkDNSNames(names); err != nil {
		return cert, nil, err
	}
	if err := challenge.check(names); err != nil {
		return cert, nil, err
	}
	signer, key, err := NewPrivateKey()
	if err != nil {
		return cert, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Weir placeholder"}, DNSNames: names,
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return cert, nil, err
	}
	leaf := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if cert, err = NewCertificate(name, leaf, "", string(key), now); err != nil {
		return cert, nil, err
	}
	cert.DNSNames, cert.Issuance = names, &Issuance{Challenge: challenge}
	return cert, key, nil
}

// NewPrivateKey makes a key for a certificate, and returns it in PEM (PKCS #8) too.
func NewPrivateKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParsePrivateKey returns a private key in PEM. Its errors say nothing of what is in it.
func ParsePrivateKey(text []byte) (crypto.Signer, error) { return parsePrivateKey(string(text)) }

// checkDNSNames returns names in lower case, and why no certificate can be for them.
func checkDNSNames(names []string) (lower []string, err error) {
	if len(names) == 0 || len(names) > mostDNSNames {
		return nil, Errorf(Invalid, "dns_names has %d names, want 1 to %d", len(names), mostDNSNames)
	}
	for _, name := range names {
		name = strings.ToLower(name)
		if slices.Contains(lower, name) {
			return nil, Errorf(Invalid, "dns_names has %.255q twice", name)
		}
		if !isDomain(strings.TrimPrefix(name, "*.")) {
			return nil, Errorf(Invalid, "dns_names has %.255q, want domain names such as shop.example or *.shop.example", name)
		}
		lower = append(lower, name)
	}
	return lower, nil
}

// isDomain reports whether name is one that is in the public DNS: two labels at least, and no address.
func isDomain(name string) bool {
	labels := strings.Split(name, ".")
	if _, err := netip.ParseAddr(name); err == nil || len(name) > 253 || len(labels) < 2 {
		return false
	}
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
	}
	last := labels[len(labels)-1]
	return strings.Trim(last, "0123456789") != ""
}

// Life returns how long c is good in all, and when it begins to be.
func (c *Certificate) Life() (from time.Time, life time.Duration) {
	certs, err := parseCertificates("leaf", c.Leaf)
	if err != nil || len(certs) == 0 {
		return time.Time{}, 0
	}
	return certs[0].NotBefore, certs[0].NotAfter.Sub(certs[0].NotBefore)
}
