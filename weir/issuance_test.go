package weir

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestACertificateToBeIssuedHasAPlaceholderForItsNames(t *testing.T) {
	now := time.Now()
	c, key, err := NewIssued("shop", []string{"Shop.Example", "*.shop.example"}, "", now)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.DNSNames, []string{"shop.example", "*.shop.example"}) || !c.Placeholder() || c.State(now) != CertificatePending {
		t.Errorf("%+v, want it pending, for the names in lower case", c)
	}
	if _, err := NewCertificate("x", c.Leaf, c.Chain, string(key), now); err != nil {
		t.Errorf("the placeholder is no certificate that could be served: %v", err)
	}
}

func TestStateOfACertificateSaysWhetherItCanBeUsed(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name string
		cert Certificate
		want CertificateState
	}{
		{"uploaded", Certificate{NotAfter: now.Add(-time.Hour)}, CertificateVerified},
		{"on its way", Certificate{Issuance: &Issuance{}}, CertificatePending},
		{"refused", Certificate{Issuance: &Issuance{Err: "no"}}, CertificateErrored},
		{"issued", Certificate{NotAfter: now.Add(time.Hour), Issuance: &Issuance{Issued: now}}, CertificateVerified},
		{"not renewed yet", Certificate{NotAfter: now.Add(time.Hour), Issuance: &Issuance{Issued: now, Err: "no"}}, CertificateVerified},
		{"not renewed in time", Certificate{NotAfter: now.Add(-time.Hour), Issuance: &Issuance{Issued: now, Err: "no"}}, CertificateErrored},
	} {
		if got := c.cert.State(now); got != c.want {
			t.Errorf("one that is %s is %s, want %s", c.name, got, c.want)
		}
	}
}

func TestNamesThatNoAuthorityKnowsAreRefused(t *testing.T) {
	for _, names := range [][]string{nil, {""}, {"localhost"}, {"192.0.2.1"}, {"2001:db8::1"}, {"a..example"}, {"-a.example"}, {"a-.example"}, {"a_b.example"}, {"*.*.example"}, {"a.*.example"},
		{"shop.example."}, {"a.123"}, {"shop.example\n"}, {"a.example", "A.example"}, {strings.Repeat("a", 64) + ".example"}, {strings.Repeat("a.", 130) + "example"}, make([]string, 101)} {
		if _, _, err := NewIssued("x", names, "", time.Now()); !errors.Is(err, Invalid) {
			t.Errorf("%.60q: %v, want Invalid", names, err)
		}
	}
}

func TestAChallengeIsOneThatShowsTheNames(t *testing.T) {
	for _, c := range []struct {
		challenge ChallengeType
		name, err string
	}{
		{"", "*.shop.example", ""},
		{ChallengeHTTP, "shop.example", ""},
		{ChallengeALPN, "shop.example", ""},
		{"dns-01", "shop.example", `weir.challenge is "dns-01", want http-01 or tls-alpn-01, or leave it out`},
		{ChallengeALPN, "*.shop.example", `dns_names has "*.shop.example", and weir.challenge is "tls-alpn-01": names with * take a record in the DNS, leave weir.challenge out`},
	} {
		got, _, err := NewIssued("shop", []string{c.name}, c.challenge, time.Now())
		if c.err == "" && (err != nil || got.Issuance.Challenge != c.challenge) || c.err != "" && (!errors.Is(err, Invalid) || err.Error() != c.err) {
			t.Errorf("%q for %s: %v, want %q", c.challenge, c.name, err, c.err)
		}
	}
}
