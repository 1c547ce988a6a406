package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

// upload has the region keep a certificate for a name that has signed itself, and returns its ID and its text.
func (r *region) upload(name string) (id, text string) {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		r.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	text = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	body, _ := json.Marshal(map[string]string{"name": fmt.Sprintf("%s-%d", name, template.SerialNumber), "type": "custom", "leaf_certificate": text,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))})
	var answer struct{ Certificate struct{ ID string } }
	if status := r.ask(http.MethodPost, "/v2/certificates", string(body), &answer); status != http.StatusCreated {
		r.t.Fatalf("upload a certificate: status %d, want 201", status)
	}
	return answer.Certificate.ID, text
}

// curl asks the load balancer from the gateway, as a client of the region would, and returns what curl prints.
func (r *region) curl(args ...string) (string, error) {
	out, err := exec.Command("ip", append([]string{"netns", "exec", r.gateway(), "curl", "-sS", "--max-time", "10"}, args...)...).CombinedOutput()
	return string(out), err
}

// A load balancer ends TLS with the certificate for each name, redirects HTTP, and keeps clients with their server, also when
// it is handed over; and a certificate that takes another's place does so without a reload.
func TestLoadBalancerEndsTLS(t *testing.T) {
	r := newRegion(t)
	r.start()
	lb := r.status().LoadBalancers[0]
	address := lb.Address.String()
	put := func(certs ...string) {
		t.Helper()
		rules := []string{`{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}`}
		for _, id := range certs {
			rules = append(rules, fmt.Sprintf(`{"entry_protocol": "http2", "entry_port": 443, "target_protocol": "http", "target_port": 80, "certificate_id": %q}`, id))
		}
		body := fmt.Sprintf(`{"name": %q, "tag": %q, "redirect_http_to_https": true, "sticky_sessions": {"type": "cookies", "cookie_name": "STAY"}, "forwarding_rules": [%s]}`,
			lb.Name, lb.Tag, strings.Join(rules, ","))
		if status := r.call(http.MethodPut, "/v2/load_balancers/"+string(lb.ID), body); status != http.StatusOK {
			t.Fatalf("PUT: status %d, want 200", status)
		}
		r.whole()
	}
	shop, shopText := r.upload("shop.example")
	mail, mailText := r.upload("mail.example")
	put(shop, mail)
	for name, text := range map[string]string{"shop.example": shopText, "mail.example": mailText} {
		ca := writeFile(t, name+".pem", text)
		got, err := r.curl("--http2", "--cacert", ca, "--resolve", name+":443:"+address, "-o", filepath.Join(t.TempDir(), "page"), "-w", "%{http_version} %{http_code}", "https://"+name+"/")
		if err != nil || got != "2 200" {
			t.Errorf("https://%s/: %s (%v), want 2 200", name, got, err)
		}
	}
	got, err := r.curl("--resolve", "shop.example:80:"+address, "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "http://shop.example/a?b")
	if err != nil || got != "307 https://shop.example/a?b" {
		t.Errorf("http://shop.example/a?b: %s (%v), want 307 to https", got, err)
	}
	for _, in := range r.status().LoadBalancers[0].Instances {
		m := weir.MachineOverview{ID: in.Machine, Name: string(in.Machine)}
		listed := r.inside(pair{machines: map[string]weir.MachineOverview{m.Name: m}}, m.Name, "sh", "-c", "stat -c %a /var/lib/weir/node/haproxy/certs /var/lib/weir/node/haproxy/certs/*.pem")
		if strings.TrimSpace(listed) != "700\n600\n600" {
			t.Errorf("on %s the files of keys have modes %q, want 600 in a directory of 700", in.Machine, listed)
		}
	}

	jar, ca := filepath.Join(t.TempDir(), "cookies"), writeFile(t, "ca.pem", shopText)
	who := func() string {
		t.Helper()
		page, err := r.curl("--cacert", ca, "--resolve", "shop.example:443:"+address, "-b", jar, "-c", jar, "https://shop.example/")
		if err != nil {
			t.Fatalf("%v: %s", err, page)
		}
		return hostnameIn.FindString(page)
	}
	server := who()
	for _, when := range []string{"at once", "after a hand-over"} {
		for range 5 {
			if got := who(); got != server {
				t.Errorf("%s the client is served by %s, want %s still", when, got, server)
			}
		}
		r.must("lb", "failover")
	}

	before := r.whole()
	reloads := func(p pair) (n []int) {
		for _, in := range p.status.Instances {
			n = append(n, in.Node.HAProxy.Reloads)
		}
		return n
	}
	young, text := r.upload("shop.example")
	put(young, mail)
	ca = writeFile(t, "young.pem", text)
	if got := who(); got != server {
		t.Errorf("with another certificate the client is served by %s, want %s still", got, server)
	}
	if was, is := fmt.Sprint(reloads(before)), fmt.Sprint(reloads(r.whole())); was != is {
		t.Errorf("instances have reloaded %s times, and %s before there was another certificate: want the same", is, was)
	}
}
