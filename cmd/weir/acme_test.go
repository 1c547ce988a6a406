package main_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weir/acme/acmetest"
)

// issuedCertificate is a certificate as the API shows it.
type issuedCertificate struct {
	ID, State, Type, Error string
	SHA1Fingerprint        string `json:"sha1_fingerprint"`
	WaitsFor               string `json:"waits_for"`
}

// certificate returns one as the API shows it.
func (r *region) certificate(id string) issuedCertificate {
	r.t.Helper()
	var answer struct{ Certificate issuedCertificate }
	if status := r.ask(http.MethodGet, "/v2/certificates/"+id, "", &answer); status != http.StatusOK {
		r.t.Fatalf("GET the certificate: status %d, want 200", status)
	}
	return answer.Certificate
}

// shown returns the fingerprint of the certificate that clients are shown for a name.
func (r *region) shown(address, name string) string {
	out, _ := exec.Command("ip", "netns", "exec", r.gateway(), "sh", "-c",
		fmt.Sprintf("openssl s_client -connect %s:443 -servername %s </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha1", address, name)).Output()
	_, text, _ := strings.Cut(strings.TrimSpace(string(out)), "=")
	return strings.ToLower(strings.ReplaceAll(text, ":", ""))
}

// A load balancer serves while its certificate is on its way, answers the authority by itself, serves the certificate once it is
// there, and the next one without a reload.
func TestLoadBalancerGetsItsCertificateAndItsSuccessor(t *testing.T) {
	t.Parallel() // it waits, most of the time
	r := newRegion(t)
	ca := acmetest.New(t, acmetest.Options{Port: 14000, Life: time.Minute})
	r.start("--acme-directory", ca.Directory, "--acme-ca", writeFile(t, "authority.pem", string(ca.CA)), "--acme-email", "ops@shop.example")
	lb := r.status().LoadBalancers[0]
	address := lb.Address.String()

	var answer struct{ Certificate issuedCertificate }
	if status := r.ask(http.MethodPost, "/v2/certificates", `{"name": "shop", "type": "lets_encrypt", "dns_names": ["shop.example"]}`, &answer); status != http.StatusCreated || answer.Certificate.State != "pending" {
		t.Fatalf("POST: status %d, %+v, want 201 and pending", status, answer.Certificate)
	}
	id := answer.Certificate.ID
	body := fmt.Sprintf(`{"name": %q, "tag": %q, "redirect_http_to_https": true, "forwarding_rules": [
		{"entry_protocol": "https", "entry_port": 443, "target_protocol": "http", "target_port": 80, "certificate_id": %q},
		{"entry_protocol": "http", "entry_port": 8080, "target_protocol": "http", "target_port": 80}]}`, lb.Name, lb.Tag, id)
	if status := r.call(http.MethodPut, "/v2/load_balancers/"+string(lb.ID), body); status != http.StatusOK {
		t.Fatalf("PUT: status %d, want 200", status)
	}
	r.whole()
	if got, err := r.curl("--resolve", "shop.example:443:"+address, "-k", "-o", "/dev/null", "-w", "%{http_code}", "https://shop.example/"); err != nil || got != "200" {
		t.Errorf("with a certificate on its way HTTPS answers %s (%v), want 200 with the placeholder", got, err)
	}
	if plan := strings.Join(r.status().LoadBalancers[0].Plan, "\n"); !strings.Contains(plan, "wait for certificate shop") {
		t.Errorf("plan %q, want that it waits for the certificate", plan)
	}

	ca.Run(r.gateway(), lb.Address)
	r.within(3*time.Minute, func() string {
		if c := r.certificate(id); c.State != "verified" {
			return fmt.Sprintf("the certificate is %+v, want verified", c)
		}
		return ""
	})
	root := writeFile(t, "root.pem", string(ca.Root()))
	serves := func() string {
		got, err := r.curl("--cacert", root, "--resolve", "shop.example:443:"+address, "-o", "/dev/null", "-w", "%{http_code}", "https://shop.example/")
		if err != nil || got != "200" {
			return fmt.Sprintf("https://shop.example/: %s (%v), want 200", got, err)
		}
		return ""
	}
	r.within(time.Minute, serves)
	if got, err := r.curl("--resolve", "shop.example:80:"+address, "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "http://shop.example/a"); err != nil || got != "307 https://shop.example/a" {
		t.Errorf("http://shop.example/a: %s (%v), want 307 to https", got, err)
	}
	before := r.whole()
	reloads := func(p pair) (n []int) {
		for _, in := range p.status.Instances {
			n = append(n, in.Node.HAProxy.Reloads)
		}
		return n
	}

	first := r.certificate(id).SHA1Fingerprint
	r.within(4*time.Minute, func() string {
		second := r.certificate(id).SHA1Fingerprint
		if second == first {
			return "there is no other certificate after its life"
		}
		if shown := r.shown(address, "shop.example"); shown != second {
			return fmt.Sprintf("clients are shown %s, want %s", shown, second)
		}
		return ""
	})
	r.within(time.Minute, serves)
	if was, is := fmt.Sprint(reloads(before)), fmt.Sprint(reloads(r.whole())); was != is {
		t.Errorf("instances have reloaded %s times, and %s before the renewal: want the same", is, was)
	}
	if told := r.must("events"); !strings.Contains(told, "has a certificate for shop.example, good until ") || !strings.Contains(told, "has another certificate for shop.example") {
		t.Errorf("events tell nothing of the certificates:\n%s", told)
	}
}

// Where another rule has the port of HTTP, the authority asks by TLS. Nobody else notices, and no request fails.
func TestLoadBalancerGetsItsCertificateByTLSAlone(t *testing.T) {
	t.Parallel() // it waits, most of the time
	r := newRegion(t)
	ca := acmetest.New(t, acmetest.Options{Port: 14000, Life: time.Minute})
	r.start("--acme-directory", ca.Directory, "--acme-ca", writeFile(t, "authority.pem", string(ca.CA)))
	lb := r.status().LoadBalancers[0]
	address := lb.Address.String()

	var answer struct{ Certificate issuedCertificate }
	if status := r.ask(http.MethodPost, "/v2/certificates", `{"name": "shop", "type": "lets_encrypt", "dns_names": ["shop.example", "www.shop.example"]}`, &answer); status != http.StatusCreated {
		t.Fatalf("POST: status %d, want 201", status)
	}
	id := answer.Certificate.ID
	body := fmt.Sprintf(`{"name": %q, "tag": %q, "forwarding_rules": [
		{"entry_protocol": "http2", "entry_port": 443, "target_protocol": "http", "target_port": 80, "certificate_id": %q},
		{"entry_protocol": "tcp", "entry_port": 80, "target_protocol": "tcp", "target_port": 80}]}`, lb.Name, lb.Tag, id)
	if status := r.call(http.MethodPut, "/v2/load_balancers/"+string(lb.ID), body); status != http.StatusOK {
		t.Fatalf("PUT: status %d, want 200", status)
	}
	r.whole()
	// From here on clients are served all the time, with whatever certificate there is.
	stop, done := make(chan struct{}), make(chan []string)
	sent := 0
	go func() {
		var failed []string
		for {
			select {
			case <-stop:
				done <- failed
				return
			default:
			}
			sent++
			if got, err := r.curl("--resolve", "shop.example:443:"+address, "-k", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "https://shop.example/"); err != nil || got != "200 2" {
				failed = append(failed, fmt.Sprintf("%s (%v)", got, err))
			}
		}
	}()
	ca.Run(r.gateway(), lb.Address)
	first := ""
	r.within(3*time.Minute, func() string {
		c := r.certificate(id)
		if c.State != "verified" {
			return fmt.Sprintf("the certificate is %+v, want verified", c)
		}
		first = c.SHA1Fingerprint
		return ""
	})
	root := writeFile(t, "root.pem", string(ca.Root()))
	for _, name := range []string{"shop.example", "www.shop.example"} {
		r.within(time.Minute, func() string {
			got, err := r.curl("--cacert", root, "--resolve", name+":443:"+address, "-o", "/dev/null", "-w", "%{http_code}", "https://"+name+"/")
			if err != nil || got != "200" {
				return fmt.Sprintf("https://%s/: %s (%v), want 200", name, got, err)
			}
			return ""
		})
	}
	r.within(4*time.Minute, func() string {
		second := r.certificate(id).SHA1Fingerprint
		if second == first {
			return "there is no other certificate after its life"
		}
		if shown := r.shown(address, "shop.example"); shown != second {
			return fmt.Sprintf("clients are shown %s, want %s", shown, second)
		}
		return ""
	})
	close(stop)
	if failed := <-done; len(failed) > 0 || sent < 20 {
		t.Errorf("%d of %d requests failed, want none of many: %q", len(failed), sent, failed[:min(len(failed), 5)])
	}
	t.Logf("%d requests", sent)
	r.within(time.Minute, func() string {
		out, _ := exec.Command("ip", "netns", "exec", r.gateway(), "sh", "-c",
			fmt.Sprintf("openssl s_client -connect %s:443 -servername shop.example -alpn acme-tls/1 </dev/null 2>&1", address)).CombinedOutput()
		if strings.Contains(string(out), "ALPN protocol: acme-tls/1") {
			return "challenges are shown while nobody waits for one"
		}
		return ""
	})
}
