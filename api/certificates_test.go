package api_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"weir/acme"
	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/weir"
)

// shopCertificate returns a certificate for shop.example, who issued it, and its key, all PEM.
func shopCertificate(t *testing.T) (leaf, chain, key string) {
	t.Helper()
	newKey := func() crypto.Signer {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	template := func(name string, names ...string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: names == nil, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	}
	sign := func(cert, by *x509.Certificate, key, issuer crypto.Signer) string {
		der, err := x509.CreateCertificate(rand.Reader, cert, by, key.Public(), issuer)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	rootKey, leafKey, root := newKey(), newKey(), template("Root")
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return sign(template("shop", "shop.example", "www.shop.example"), root, leafKey, rootKey), sign(root, root, rootKey, rootKey),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestACertificateIsKeptAndItsKeyNeverShown(t *testing.T) {
	r := lab(t)
	leaf, chain, key := shopCertificate(t)
	q := &godo.CertificateRequest{Name: "shop", Type: "custom", PrivateKey: key, LeafCertificate: leaf, CertificateChain: chain}
	made, resp, err := r.do.Certificates.Create(t.Context(), q)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("%v (%v), want 201", resp, err)
	}
	if made.ID == "" || made.Name != "shop" || made.State != "verified" || made.Type != "custom" || strings.Join(made.DNSNames, " ") != "shop.example www.shop.example" || len(made.SHA1Fingerprint) != 40 {
		t.Errorf("%+v, want it verified, with the names that are in it", made)
	}
	for _, at := range []string{made.NotAfter, made.Created} {
		if _, err := time.Parse(time.RFC3339, at); err != nil {
			t.Error(err)
		}
	}
	q.Name, q.CertificateChain, q.Type = "other", "", ""
	if _, _, err := r.do.Certificates.Create(t.Context(), q); err != nil {
		t.Errorf("without a chain and a type: %v", err)
	}
	q.Name = "shop"
	_, _, err = r.do.Certificates.Create(t.Context(), q)
	if code, text := refusal(err); code != 422 || !strings.HasPrefix(text, "name is not unique") {
		t.Errorf("the same name once more: %d %q, want 422", code, text)
	}

	if got, _, err := r.do.Certificates.Get(t.Context(), made.ID); err != nil || got.SHA1Fingerprint != made.SHA1Fingerprint {
		t.Errorf("%+v (%v), want the same one", got, err)
	}
	if all, resp, err := r.do.Certificates.List(t.Context(), nil); err != nil || len(all) != 2 || all[0].Name != "shop" || resp.Meta.Total != 2 {
		t.Errorf("%v (%v), want both, the oldest first", all, err)
	}
	if all, _, err := r.do.Certificates.ListByName(t.Context(), "other", nil); err != nil || len(all) != 1 || all[0].Name != "other" {
		t.Errorf("by name: %v (%v), want that one", all, err)
	}
	for _, path := range []string{"/v2/certificates", "/v2/certificates/" + made.ID} {
		if a := r.ask("GET", path, ""); strings.Contains(a.text, "PRIVATE") || strings.Contains(a.text, "sealed") || strings.Contains(a.text, strings.Split(key, "\n")[1]) {
			t.Errorf("%s shows the private key: %s", path, a.text)
		}
	}
	check(t, "certificate", r.ask("GET", "/v2/certificates/"+made.ID, "").body["certificate"], "id string", "name string", "not_after string", "sha1_fingerprint string",
		"created_at string", "dns_names[] string", "state string", "type string")

	if resp, err := r.do.Certificates.Delete(t.Context(), made.ID); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Errorf("%v (%v), want 204", resp, err)
	}
	for _, method := range []string{"GET", "DELETE"} {
		if a := r.ask(method, "/v2/certificates/"+made.ID, ""); a.status != 404 {
			t.Errorf("%s one that is gone: %d %s, want 404", method, a.status, a.text)
		}
	}
	if strings.Contains(r.log.String(), "PRIVATE") {
		t.Errorf("the log has the key: %s", r.log)
	}
}

func TestACertificateThatIsNoneIsRefused(t *testing.T) {
	r := lab(t)
	leaf, chain, key := shopCertificate(t)
	_, _, stranger := shopCertificate(t)
	for want, q := range map[string]map[string]any{
		`type is "lets_encrypt", and this Weir knows no authority to get certificates from: start it with --acme-directory, or get one elsewhere and upload it with the type custom`: {"name": "x", "type": "lets_encrypt", "dns_names": []string{"a.example"}},
		`type is "lets_encrypt", and leaf_certificate, certificate_chain or private_key is not empty: Weir gets all of these by itself, leave them out`:                              {"name": "x", "type": "lets_encrypt", "private_key": key},
		`type is "selfsigned", want custom or lets_encrypt`:                                                                     {"name": "x", "type": "selfsigned"},
		`dns_names is not empty: a certificate of the type custom is for the names that are written in it, leave dns_names out`: {"name": "x", "leaf_certificate": leaf, "private_key": key, "dns_names": []string{"a.example"}},
		`name is "", want 1 to 255 characters in one line`:                                                                      {"leaf_certificate": leaf, "private_key": key},
		`leaf_certificate is missing, want a certificate in PEM`:                                                                {"name": "x", "private_key": key},
		`private_key is missing, want the certificate's key in PEM`:                                                             {"name": "x", "leaf_certificate": leaf},
		`private_key is not the key of leaf_certificate, want the one that the certificate was made for`:                        {"name": "x", "leaf_certificate": leaf, "private_key": stranger, "certificate_chain": chain},
		`weir.challenge is not empty: no authority is asked for a certificate of the type custom, leave it out`:                 {"name": "x", "leaf_certificate": leaf, "private_key": key, "weir": map[string]any{"challenge": "http-01"}},
		`private_key is a number, want a string`:                                                                                {"name": "x", "private_key": 7},
		`certificate_chain begins with the leaf certificate itself, want it to begin with the one that issued it`:               {"name": "x", "leaf_certificate": leaf, "certificate_chain": leaf + chain, "private_key": key},
	} {
		body, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if a := r.ask("POST", "/v2/certificates", string(body)); a.status != 422 || a.body["message"] != want {
			t.Errorf("%d %s\nwant 422 %s", a.status, a.text, want)
		}
	}
	if all, _, err := r.do.Certificates.List(t.Context(), nil); err != nil || len(all) != 0 {
		t.Errorf("%v (%v), want none", all, err)
	}
}

func TestACertificateThatWeirIsToGetIsPendingAtFirst(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{}, func(c api.Control) api.Control {
		authority, err := acme.New(acme.Options{Directory: "https://127.0.0.1:1/dir"}) // which nobody is
		if err != nil {
			t.Fatal(err)
		}
		c.(*control.Control).Authority = authority
		return c
	})
	made, resp, err := r.do.Certificates.Create(t.Context(), &godo.CertificateRequest{Name: "shop", Type: "lets_encrypt", DNSNames: []string{"shop.example"}})
	if err != nil || resp.StatusCode != http.StatusCreated || made.State != "pending" || made.Type != "lets_encrypt" || made.NotAfter != "" || made.SHA1Fingerprint != "" ||
		len(made.DNSNames) != 1 || made.DNSNames[0] != "shop.example" {
		t.Fatalf("%+v (%v), want 201, pending, for its name", made, err)
	}
	_, _, err = r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{
		{EntryProtocol: "https", EntryPort: 443, TargetProtocol: "http", TargetPort: 80, CertificateID: made.ID}}})
	if err != nil {
		t.Errorf("a load balancer with it: %v, want that it may be used already", err)
	}
	if a := r.ask("GET", "/v2/certificates/"+made.ID, ""); strings.Contains(a.text, "PRIVATE") || strings.Contains(strings.ToLower(a.text), "sealed") {
		t.Errorf("shows a private key: %s", a.text)
	}
	a := r.ask("POST", "/v2/certificates", `{"name": "mail", "type": "lets_encrypt", "dns_names": ["mail.example"], "weir": {"challenge": "tls-alpn-01"}}`)
	if a.status != 201 || !strings.Contains(a.text, `"weir":{"challenge":"tls-alpn-01"}`) {
		t.Errorf("with a challenge: %d %s, want 201, and that it shows it", a.status, a.text)
	}
	for want, more := range map[string]string{
		`weir.challenge is "tls-alpn-1", want http-01 or tls-alpn-01, or leave it out`: `"dns_names": ["a.example"], "weir": {"challenge": "tls-alpn-1"}`,
		`weir.challenge is "dns-01", want http-01 or tls-alpn-01, or leave it out`:     `"dns_names": ["a.example"], "weir": {"challenge": "dns-01"}`,
		`weir.challenge is a number, want a string`:                                    `"dns_names": ["a.example"], "weir": {"challenge": 1}`,
	} {
		if a := r.ask("POST", "/v2/certificates", `{"name": "x", "type": "lets_encrypt", `+more+`}`); a.status != 422 || a.body["message"] != want {
			t.Errorf("%d %s\nwant 422 %s", a.status, a.text, want)
		}
	}
	for want, names := range map[string][]string{
		`dns_names has 0 names, want 1 to 100`: nil,
		`dns_names has "*.shop.example": an authority wants a record in the DNS for it, which Weir does not make, want names without *`: {"*.shop.example"},
		`dns_names has "localhost", want domain names such as shop.example or *.shop.example`:                                           {"localhost"},
	} {
		_, _, err := r.do.Certificates.Create(t.Context(), &godo.CertificateRequest{Name: "x", Type: "lets_encrypt", DNSNames: names})
		if code, text := refusal(err); code != 422 || text != want {
			t.Errorf("%d %q\nwant 422 %q", code, text, want)
		}
	}
}

func TestACertificateInUseIs403InTheWordsThatClientsMatch(t *testing.T) {
	var ctl *control.Control
	r := newRegion(t, cloud.FakeOptions{}, func(c api.Control) api.Control { ctl = c.(*control.Control); return c })
	leaf, chain, key := shopCertificate(t)
	cert, _, err := r.do.Certificates.Create(t.Context(), &godo.CertificateRequest{Name: "shop", Type: "custom", PrivateKey: key, LeafCertificate: leaf, CertificateChain: chain})
	if err != nil {
		t.Fatal(err)
	}
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = ctl.UpdateLoadBalancer(t.Context(), weir.ID(lb.ID), func(lb *weir.LoadBalancer) error {
		lb.Rules = []weir.Rule{{Entry: weir.HTTPS, EntryPort: 443, Target: weir.HTTP, TargetPort: 80, Certificate: weir.ID(cert.ID)}}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.do.Certificates.Delete(t.Context(), cert.ID)
	if code, text := refusal(err); code != 403 || text != "Make sure the certificate is not in use before deleting it" {
		t.Errorf("%d %q, want 403 in those words", code, text)
	}
}
