package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/digitalocean/godo"
	"github.com/google/go-cmp/cmp"

	"weir/weir"
)

var webRule = godo.ForwardingRule{EntryProtocol: "http", EntryPort: 80, TargetProtocol: "http", TargetPort: 8080}

func TestALoadBalancerBecomesActiveWithAnAddress(t *testing.T) {
	r := lab(t)
	r.serve()
	made := r.droplets([]string{"a", "b"})
	idle := uint64(90)
	lb, resp, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{
		Name: "shop", Region: "lab", Algorithm: "least_connections", SizeUnit: 1, Type: "REGIONAL", Network: "EXTERNAL",
		ForwardingRules: []godo.ForwardingRule{webRule}, DropletIDs: []int{made[1].ID, made[0].ID, made[1].ID}, HTTPIdleTimeoutSeconds: &idle,
		HealthCheck: &godo.HealthCheck{Protocol: "http", Port: 8080, Path: "/up", CheckIntervalSeconds: 4, ResponseTimeoutSeconds: 3, HealthyThreshold: 2, UnhealthyThreshold: 4}})
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusAccepted || lb.Status != "new" {
		t.Errorf("status %d and %q, want 202 and new", resp.StatusCode, lb.Status)
	}
	id := lb.ID
	r.eventually("it is active", func() bool {
		if lb, _, err = r.do.LoadBalancers.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return lb.Status == "active"
	})
	if !strings.HasPrefix(lb.IP, "203.0.113.") {
		t.Errorf("active with the address %q, want a reserved one", lb.IP)
	}
	project, _, err := r.do.Projects.GetDefault(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	no := false
	want := &godo.LoadBalancer{ID: id, Name: "shop", IP: lb.IP, SizeUnit: 1, Type: "REGIONAL", Algorithm: "least_connections",
		Status: "active", Created: lb.Created, ForwardingRules: []godo.ForwardingRule{webRule},
		HealthCheck:    &godo.HealthCheck{Protocol: "http", Port: 8080, Path: "/up", CheckIntervalSeconds: 4, ResponseTimeoutSeconds: 3, HealthyThreshold: 2, UnhealthyThreshold: 4, ProxyProtocol: &no},
		StickySessions: &godo.StickySessions{Type: "none"}, Region: lb.Region, DropletIDs: []int{made[1].ID, made[0].ID},
		DisableLetsEncryptDNSRecords: &no, HTTPIdleTimeoutSeconds: &idle, Firewall: &godo.LBFirewall{Allow: []string{}, Deny: []string{}},
		Network: "EXTERNAL", NetworkStack: "IPV4", TLSCipherPolicy: "DEFAULT", Tags: []string{},
		VPCUUID: string(weir.NetworkID("lab")), ProjectID: project.ID}
	if diff := cmp.Diff(want, lb); diff != "" {
		t.Errorf("load balancer (-want +got):\n%s", diff)
	}
	if lb.Region.Slug != "lab" {
		t.Errorf("region %v, want lab", lb.Region)
	}
	if d, _, err := r.do.Droplets.List(t.Context(), nil); err != nil || len(d) != 2 {
		t.Errorf("%d droplets (%v), want 2: its instances are not among them", len(d), err)
	}
	if ips, _, err := r.do.ReservedIPs.List(t.Context(), nil); err != nil || len(ips) != 0 {
		t.Errorf("reserved IPs %v (%v), want none: its own is not among them", ips, err)
	}

	if _, err := r.do.LoadBalancers.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.do.LoadBalancers.Get(t.Context(), id); err == nil {
		t.Error("after its deletion it is still there, want 404")
	}
	r.eventually("its instances and address are gone", func() bool {
		all, err := r.cloud.Machines(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ips, err := r.cloud.Addresses(t.Context())
		return err == nil && len(all) == 2 && len(ips) == 0
	})
}

func TestALoadBalancerThatEndsTLSIsShownAsItWasAskedFor(t *testing.T) {
	r := lab(t)
	r.serve()
	var certs []string
	for _, name := range []string{"shop", "mail"} {
		leaf, chain, key := shopCertificate(t)
		cert, _, err := r.do.Certificates.Create(t.Context(), &godo.CertificateRequest{Name: name, Type: "custom", PrivateKey: key, LeafCertificate: leaf, CertificateChain: chain})
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert.ID)
	}
	secure := func(entry string, port int, target string, cert string) godo.ForwardingRule {
		return godo.ForwardingRule{EntryProtocol: entry, EntryPort: port, TargetProtocol: target, TargetPort: 8080, CertificateID: cert}
	}
	request := &godo.LoadBalancerRequest{Name: "shop", Region: "lab",
		ForwardingRules: []godo.ForwardingRule{webRule, secure("http2", 443, "http", certs[0]), secure("http2", 443, "http", certs[1]), secure("https", 8443, "http2", certs[0]),
			{EntryProtocol: "https", EntryPort: 9443, TargetProtocol: "https", TargetPort: 9443, TlsPassthrough: true}},
		HealthCheck:         &godo.HealthCheck{Protocol: "https", Port: 8080, Path: "/up", CheckIntervalSeconds: 4, ResponseTimeoutSeconds: 3, HealthyThreshold: 2, UnhealthyThreshold: 4, ProxyProtocol: new(true)},
		StickySessions:      &godo.StickySessions{Type: "cookies", CookieName: "SHOP", CookieTtlSeconds: 60},
		Firewall:            &godo.LBFirewall{Allow: []string{"cidr:192.0.2.7/24", "ip:2001:db8::1"}, Deny: []string{"cidr:192.0.2.8/32"}},
		RedirectHttpToHttps: true, EnableProxyProtocol: true, EnableBackendKeepalive: true, TLSCipherPolicy: "STRONG"}
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("it is active", func() bool {
		if lb, _, err = r.do.LoadBalancers.Get(t.Context(), lb.ID); err != nil {
			t.Fatal(err)
		}
		return lb.Status == "active"
	})
	shown := &godo.LoadBalancerRequest{Name: lb.Name, Region: lb.Region.Slug, ForwardingRules: lb.ForwardingRules, HealthCheck: lb.HealthCheck, StickySessions: lb.StickySessions, Firewall: lb.Firewall,
		RedirectHttpToHttps: lb.RedirectHttpToHttps, EnableProxyProtocol: lb.EnableProxyProtocol, EnableBackendKeepalive: lb.EnableBackendKeepalive, TLSCipherPolicy: lb.TLSCipherPolicy}
	if diff := cmp.Diff(request, shown); diff != "" {
		t.Errorf("load balancer (-want +got):\n%s", diff)
	}
	for _, cert := range certs {
		if _, err := r.do.Certificates.Delete(t.Context(), cert); err == nil {
			t.Errorf("certificate %s is deleted, which the load balancer uses", cert)
		}
	}
	// What is asked again is there already.
	if _, _, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, lb.AsRequest()); err != nil {
		t.Fatal(err)
	}
	if again, _, err := r.do.LoadBalancers.Get(t.Context(), lb.ID); err != nil || again.Status != "active" {
		t.Errorf("after the same was asked again it is %v (%v), want active still", again, err)
	}
}

func TestEmptyObjectsMeanDefaults(t *testing.T) {
	r := lab(t)
	for _, body := range []string{
		`{"name": "a", "forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}],
		  "health_check": {}, "sticky_sessions": {}, "firewall": {}}`,
		`{"name": "b", "region": "lab", "size": "lb-small", "size_unit": 1, "type": "regional", "network": "External", "network_stack": "ipv4", "tls_cipher_policy": "default",
		  "algorithm": "round_robin", "forwarding_rules": [{"entry_protocol": "HTTP", "entry_port": 80, "target_protocol": "http", "target_port": 80, "certificate_id": "", "tls_passthrough": false}],
		  "health_check": null, "sticky_sessions": {"type": "none", "cookie_name": "", "cookie_ttl_seconds": 0}, "firewall": {"allow": null, "deny": []}, "droplet_ids": null, "tag": "",
		  "tags": [], "redirect_http_to_https": false, "enable_proxy_protocol": false, "enable_backend_keepalive": false, "disable_lets_encrypt_dns_records": null,
		  "vpc_uuid": "", "project_id": null, "http_idle_timeout_seconds": null, "domains": [], "glb_settings": {"cdn": {"is_enabled": false}}, "target_load_balancer_ids": null, "ip": ""}`,
	} {
		a := r.ask("POST", "/v2/load_balancers", body)
		if a.status != http.StatusAccepted {
			t.Fatalf("%d %s, want 202", a.status, a.text)
		}
		lb := a.body["load_balancer"].(map[string]any)
		health := map[string]any{"protocol": "http", "port": 80.0, "path": "/", "check_interval_seconds": 10.0, "response_timeout_seconds": 5.0,
			"unhealthy_threshold": 3.0, "healthy_threshold": 5.0, "proxy_protocol": false}
		if diff := cmp.Diff(health, lb["health_check"]); diff != "" {
			t.Errorf("health check (-want +got):\n%s", diff)
		}
		if lb["http_idle_timeout_seconds"] != 60.0 || lb["algorithm"] != "round_robin" || lb["size_unit"] != 1.0 {
			t.Errorf("idle %v, algorithm %v, size %v: want 60, round_robin and 1", lb["http_idle_timeout_seconds"], lb["algorithm"], lb["size_unit"])
		}
	}
}

func TestWhatWeirCannotBalanceIsRefusedByName(t *testing.T) {
	r := lab(t)
	rule := func(fields string) string {
		return `"forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80, ` + fields + `}]`
	}
	for body, want := range map[string]string{
		`"size_unit": 9`:                      `load balancer "x": size_unit is 9, want at most 8: so many machines can have a reserved IP of this cloud at a time; for more, make several load balancers and have your DNS name their addresses`,
		`"size_unit": 201`:                    "size_unit is 201, want 1 to 200",
		`"size_unit": -1`:                     "size_unit is -1, want 1 to 200",
		`"size": "lb-tiny"`:                   `size is "lb-tiny", want lb-small, lb-medium or lb-large, or leave it out`,
		`"size": "lb-small", "size_unit": 3`:  `size is "lb-small", which is a size_unit of 1, and size_unit is 3: leave size out`,
		`"type": "REGIONAL_NETWORK"`:          `type is "REGIONAL_NETWORK": Weir does not pass packets through yet, use REGIONAL with rules of the protocol tcp`,
		`"type": "GLOBAL"`:                    `type is "GLOBAL": this Weir is one region, use REGIONAL here and name its address in your DNS`,
		`"type": "LOCAL"`:                     `type is "LOCAL", want REGIONAL`,
		`"network": "INNER"`:                  `network is "INNER", want EXTERNAL or INTERNAL`,
		`"network_stack": "IPV6"`:             `network_stack is "IPV6", want IPV4 or DUALSTACK`,
		`"tags": ["a b"]`:                     `load balancer "x": tags: tag "a b": 1 to 255 letters, digits, _, : and - are allowed`,
		`"tags": "k8s"`:                       "tags is a string, want an array",
		`"vpc_uuid": "x"`:                     `vpc_uuid is "x": a region of Weir has one private network, leave it out or use ` + string(weir.NetworkID("lab")),
		`"project_id": "x"`:                   `load balancer "x": project_id is "x": there is no such project, leave it out for the default one`,
		`"domains": [{"name": "a.example"}]`:  "domains is not empty: it is for global load balancers, and this Weir is one region; leave it out",
		`"glb_settings": {"target_port": 80}`: "glb_settings is not empty: it is for global load balancers, and this Weir is one region; leave it out",
		`"target_load_balancer_ids": ["x"]`:   "target_load_balancer_ids is not empty: it is for global load balancers, and this Weir is one region; leave it out",
		`"ip": "192.0.2.1"`:                   `ip is "192.0.2.1": Weir reserves a load balancer's address itself, leave it out`,
		rule(`"entry_protocol": "udp", "target_protocol": "udp"`):                                                     `forwarding_rules[0].entry_protocol is "udp": Weir does not balance UDP yet, use tcp or http`,
		`"tls_cipher_policy": "NONE"`:                                                                                 `load balancer "x": tls_cipher_policy is "NONE", want DEFAULT or STRONG`,
		`"network": "INTERNAL", "network_stack": "DUALSTACK"`:                                                         `load balancer "x": network_stack is DUALSTACK and network INTERNAL: the private network has IPv4 alone, want network_stack IPV4`,
		`"redirect_http_to_https": true`:                                                                              `load balancer "x": redirect_http_to_https is true, and no forwarding rule has https or http2, want one`,
		`"sticky_sessions": {"type": "ip"}`:                                                                           `sticky_sessions.type is "ip", want none or cookies`,
		`"sticky_sessions": {"type": "cookies", "cookie_name": "a b"}`:                                                `load balancer "x": sticky_sessions: cookie_name is "a b", want 2 to 40 letters, digits, - and _`,
		`"sticky_sessions": {"type": "cookies", "cookie_ttl_seconds": 34651}`:                                         `load balancer "x": sticky_sessions: cookie_ttl_seconds is 34651, want 1 to 34650`,
		`"firewall": {"allow": ["1.2.3.4"]}`:                                                                          `load balancer "x": firewall: allow: "1.2.3.4", want an address or a network, such as ip:1.2.3.4 or cidr:1.2.0.0/16`,
		`"firewall": {"deny": ["cidr:1.2.3.4/33"]}`:                                                                   `load balancer "x": firewall: deny: "cidr:1.2.3.4/33", want an address or a network, such as ip:1.2.3.4 or cidr:1.2.0.0/16`,
		rule(`"entry_protocol": "https"`):                                                                             `load balancer "x": forwarding_rules[0].entry_protocol is "https" and there is no certificate_id, want one, or tls_passthrough for droplets that have their own`,
		rule(`"entry_protocol": "https", "certificate_id": "892071a0"`):                                               `load balancer "x": forwarding_rules[0].certificate_id: there is no certificate "892071a0"`,
		rule(`"entry_protocol": "https", "tls_passthrough": true`):                                                    `load balancer "x": forwarding_rules[0].target_protocol is "http" where entry_protocol is "https" and tls_passthrough is true, want the same`,
		rule(`"entry_protocol": "https", "target_protocol": "https", "certificate_id": "a", "tls_passthrough": true`): `load balancer "x": forwarding_rules[0].certificate_id is "a" where tls_passthrough is true, want one of them: droplets have their own certificates`,
		rule(`"tls_passthrough": true`):                                                                               `load balancer "x": forwarding_rules[0].tls_passthrough is true where entry_protocol is "http", want https or http2`,
		rule(`"certificate_id": "892071a0"`):                                                                          `load balancer "x": forwarding_rules[0].certificate_id is "892071a0" where entry_protocol is "http", want https or http2`,
		rule(`"entry_protocol": "http3"`):                                                                             `forwarding_rules[0].entry_protocol is "http3": the HAProxy of Weir's instances is built without QUIC, use http2`,
		rule(`"target_protocol": "tcp"`):                                                                              `load balancer "x": forwarding_rules[0].target_protocol is "tcp" where entry_protocol is "http", want http, https or http2`,
		rule(`"entry_port": 0`):                                                                                       `load balancer "x": forwarding_rules[0].entry_port is 0, want 1 to 65535`,
		rule(`"entry_port": "80"`):                                                                                    "forwarding_rules.entry_port is a string, want an integer",
		`"forwarding_rules": []`:                                                                                      `load balancer "x": forwarding_rules is empty, want at least one rule`,
		`"health_check": {"check_interval_seconds": 2}`:                                                               `load balancer "x": health_check: check_interval_seconds is 2, want 3 to 300`,
		`"health_check": {"check_interval_seconds": 9223372036854775807}`:                                             `load balancer "x": health_check: check_interval_seconds is 9223372036, want 3 to 300`,
		`"health_check": {"check_interval_seconds": -9223372036854775808}`:                                            `load balancer "x": health_check: check_interval_seconds is -9223372036, want 3 to 300`,
		`"health_check": {"unhealthy_threshold": 11}`:                                                                 `load balancer "x": health_check: unhealthy_threshold is 11, want 2 to 10`,
		`"health_check": {"path": "/a\nuse_backend evil"}`:                                                            `load balancer "x": health_check: path is "/a\nuse_backend evil", want a path such as /health, with neither spaces nor control characters`,
		`"http_idle_timeout_seconds": 601`:                                                                            `load balancer "x": http_idle_timeout_seconds is 601, want 30 to 600`,
		`"algorithm": "random"`:                                                                                       `load balancer "x": algorithm is "random", want round_robin or least_connections`,
		`"region": "nyc3"`:                                                                                            `load balancer "x": region "nyc3": the load balancers of this Weir are in region "lab"`,
		`"tag": "web", "droplet_ids": [1]`:                                                                            `load balancer "x": it has both droplet_ids and a tag, want one of them`,
		`"droplet_ids": [7]`:                                                                                          `load balancer "x": droplet_ids: there is no droplet 7`,
		`"droplet_ids": [-7]`:                                                                                         "droplet_ids[0] is -7, want the ID of a droplet",
		`"name": "a b"`:                                                                                               `load balancer: name "a b": only letters, digits, . and - are allowed, and it begins and ends with a letter or digit`,
	} {
		a := r.ask("POST", "/v2/load_balancers", `{"name": "x", `+rule(`"certificate_id": ""`)+`, `+body+`}`)
		if a.status != 422 || a.body["message"] != want {
			t.Errorf("%s: %d %s\nwant 422 %s", body, a.status, a.text, want)
		}
	}
	if all, _, err := r.do.LoadBalancers.List(t.Context(), nil); err != nil || len(all) != 0 {
		t.Errorf("there are %d load balancers (%v), want none", len(all), err)
	}
}

func TestTwoLoadBalancersCannotHaveOneName(t *testing.T) {
	r := lab(t)
	q := &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}}
	if _, _, err := r.do.LoadBalancers.Create(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	_, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if code, text := refusal(err); code != http.StatusUnprocessableEntity || text != `name is not unique: there is a load balancer "shop" already` {
		t.Errorf("%d %q, want 422 in the words that clients know", code, text)
	}
	q.ValidateOnly = true
	_, _, err = r.do.LoadBalancers.Create(t.Context(), q)
	if code, _ := refusal(err); code != http.StatusUnprocessableEntity {
		t.Errorf("as a dry run: %d (%v), want the same 422", code, err)
	}
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	r := lab(t)
	q := &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}, ValidateOnly: true}
	if lb, resp, err := r.do.LoadBalancers.Create(t.Context(), q); err != nil || resp.StatusCode != http.StatusOK || lb.Name != "shop" {
		t.Errorf("%v (%v), want 200 with what it would be", lb, err)
	}
	if all, _, _ := r.do.LoadBalancers.List(t.Context(), nil); len(all) != 0 {
		t.Errorf("%d load balancers were made, want none", len(all))
	}
	q.ValidateOnly = false
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	q.ValidateOnly, q.Algorithm = true, "least_connections"
	if would, _, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, q); err != nil || would.Algorithm != "least_connections" {
		t.Errorf("%v (%v), want what it would be", would, err)
	}
	if is, _, err := r.do.LoadBalancers.Get(t.Context(), lb.ID); err != nil || is.Algorithm != "round_robin" {
		t.Errorf("%v (%v), want it as it was", is, err)
	}
	q.DropletIDs = []int{7}
	_, _, err = r.do.LoadBalancers.Update(t.Context(), lb.ID, q)
	if code, text := refusal(err); code != 422 || !strings.Contains(text, "there is no droplet 7") {
		t.Errorf("with a droplet that is not there: %d %q, want the 422 that it would be", code, text)
	}
	if _, _, err := r.do.LoadBalancers.Update(t.Context(), "none", q); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("of one that is not there: %v, want 404", err)
	}
	if tags, _, err := r.do.Tags.List(t.Context(), nil); err != nil || len(tags) != 0 {
		t.Errorf("tags %v (%v), want none", tags, err)
	}
}

func TestValidateOnlyKnowsTheProjects(t *testing.T) {
	r := lab(t)
	own, _, err := r.do.Projects.Create(t.Context(), &godo.CreateProjectRequest{Name: "shop", Purpose: "Web Application"})
	if err != nil {
		t.Fatal(err)
	}
	const lost = "8c3f9d1e-0000-4000-8000-000000000000"
	body := `{"name": "shop", "tag": "web", "tags": ["shop"], "project_id": %q, "validate_only": %v, "forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}]}`
	nothing := func(when string) {
		t.Helper()
		for _, path := range []string{"/v2/load_balancers", "/v2/tags", "/v2/projects/" + own.ID + "/resources", "/v2/projects/default/resources"} {
			if is := r.ask("GET", path, ""); is.status != 200 || is.body["meta"].(map[string]any)["total"] != 0.0 {
				t.Errorf("after %s %s is %d %s, want nothing there", when, path, is.status, is.text)
			}
		}
	}
	for _, dry := range []bool{true, false} {
		is := r.ask("POST", "/v2/load_balancers", fmt.Sprintf(body, lost, dry))
		if want := `load balancer "shop": project_id is "` + lost + `": there is no such project, leave it out for the default one`; is.status != 422 || is.body["message"] != want {
			t.Errorf("in an unknown project, dry %v: %d %s, want 422 %s", dry, is.status, is.text, want)
		}
		nothing(fmt.Sprintf("a project that is not there, dry %v,", dry))
	}
	is := r.ask("POST", "/v2/load_balancers", fmt.Sprintf(body, own.ID, true))
	would, _ := is.body["load_balancer"].(map[string]any)
	if is.status != 200 || would["name"] != "shop" || would["project_id"] != own.ID || would["status"] != "new" || would["id"] != "" || would["ip"] != "" {
		t.Errorf("%d %s, want 200 with what it would be", is.status, is.text)
	}
	nothing("a dry run")

	is = r.ask("POST", "/v2/load_balancers", fmt.Sprintf(body, own.ID, false))
	made, _ := is.body["load_balancer"].(map[string]any)
	if is.status != 202 {
		t.Fatalf("%d %s, want 202", is.status, is.text)
	}
	path := fmt.Sprint("/v2/load_balancers/", made["id"])
	if is := r.ask("PUT", path, fmt.Sprintf(body, lost, true)); is.status != 422 {
		t.Errorf("a change into an unknown project: %d %s, want 422", is.status, is.text)
	}
	if is := r.ask("PUT", path, fmt.Sprintf(body, r.defaultProject(), true)); is.status != 200 || is.body["load_balancer"].(map[string]any)["project_id"] != r.defaultProject() {
		t.Errorf("a change into the default project: %d %s, want 200 with that project", is.status, is.text)
	}
	if is := r.ask("GET", path, ""); is.status != 200 || is.body["load_balancer"].(map[string]any)["project_id"] != own.ID {
		t.Errorf("after dry runs it is %s, want it in %s as before", is.text, own.ID)
	}
}

// defaultProject returns the ID of the default project.
func (r *region) defaultProject() string {
	r.t.Helper()
	p, _, err := r.do.Projects.GetDefault(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return p.ID
}

func TestPuttingBackWhatWasReadChangesNothing(t *testing.T) {
	r := lab(t)
	r.serve()
	r.droplets([]string{"a", "b"}, "web")
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}, Tag: "web"})
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("it is active", func() bool {
		if lb, _, err = r.do.LoadBalancers.Get(t.Context(), lb.ID); err != nil {
			t.Fatal(err)
		}
		return lb.Status == "active"
	})
	if len(lb.DropletIDs) != 2 {
		t.Errorf("droplets %v, want the two that have the tag", lb.DropletIDs)
	}
	got, resp, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, lb.AsRequest())
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v (%v), want 200", resp, err)
	}
	if diff := cmp.Diff(lb, got); diff != "" {
		t.Errorf("it is another now (-before +after):\n%s", diff)
	}

	stranger := r.droplets([]string{"c"})[0]
	q := lb.AsRequest()
	q.DropletIDs = append(q.DropletIDs, stranger.ID)
	_, _, err = r.do.LoadBalancers.Update(t.Context(), lb.ID, q)
	if code, text := refusal(err); code != 422 || !strings.Contains(text, "both droplet_ids and a tag") {
		t.Errorf("with a droplet that has no such tag: %d %q, want 422", code, text)
	}
}

func TestPutReplacesAllThatABodyLeavesOut(t *testing.T) {
	r := lab(t)
	idle := uint64(300)
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}, Tag: "web",
		Algorithm: "least_connections", HTTPIdleTimeoutSeconds: &idle, HealthCheck: &godo.HealthCheck{Protocol: "tcp", Port: 9000}})
	if err != nil {
		t.Fatal(err)
	}
	if lb.HealthCheck.Path != "" {
		t.Errorf("a tcp check has the path %q, want none", lb.HealthCheck.Path)
	}
	tcp := godo.ForwardingRule{EntryProtocol: "tcp", EntryPort: 443, TargetProtocol: "tcp", TargetPort: 8443}
	got, _, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, &godo.LoadBalancerRequest{Name: "store", ForwardingRules: []godo.ForwardingRule{tcp}})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != lb.ID || got.Created != lb.Created || got.Name != "store" || got.Tag != "" || got.Algorithm != "round_robin" || *got.HTTPIdleTimeoutSeconds != 60 ||
		got.HealthCheck.Protocol != "http" || !slices.Equal(got.ForwardingRules, []godo.ForwardingRule{tcp}) {
		t.Errorf("got %v, want the same one with its new name and rule and defaults for the rest", got)
	}
}

func TestDropletsAndRulesComeAndGoOneByOne(t *testing.T) {
	r := lab(t)
	made := r.droplets([]string{"a", "b", "c"})
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}, DropletIDs: []int{made[0].ID}})
	if err != nil {
		t.Fatal(err)
	}
	now := func() *godo.LoadBalancer {
		t.Helper()
		lb, _, err := r.do.LoadBalancers.Get(t.Context(), lb.ID)
		if err != nil {
			t.Fatal(err)
		}
		return lb
	}
	resp, err := r.do.LoadBalancers.AddDroplets(t.Context(), lb.ID, made[0].ID, made[1].ID, made[2].ID)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("%v (%v), want 204", resp, err)
	}
	if got := now().DropletIDs; len(got) != 3 {
		t.Errorf("droplets %v, want three", got)
	}
	if _, err := r.do.LoadBalancers.RemoveDroplets(t.Context(), lb.ID, made[0].ID, 999); err != nil {
		t.Fatal(err)
	}
	if got := now().DropletIDs; !slices.Equal(got, []int{made[1].ID, made[2].ID}) {
		t.Errorf("droplets %v, want b and c", got)
	}
	tcp := godo.ForwardingRule{EntryProtocol: "tcp", EntryPort: 25, TargetProtocol: "tcp", TargetPort: 25}
	for range 2 { // once more is no harm
		if _, err := r.do.LoadBalancers.AddForwardingRules(t.Context(), lb.ID, tcp); err != nil {
			t.Fatal(err)
		}
	}
	if got := now().ForwardingRules; !slices.Equal(got, []godo.ForwardingRule{webRule, tcp}) {
		t.Errorf("rules %v, want both", got)
	}
	if _, err := r.do.LoadBalancers.RemoveForwardingRules(t.Context(), lb.ID, webRule); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		do   func() (*godo.Response, error)
		want string
	}{
		{func() (*godo.Response, error) {
			return r.do.LoadBalancers.RemoveForwardingRules(t.Context(), lb.ID, tcp)
		}, "forwarding_rules is empty, want at least one rule"},
		{func() (*godo.Response, error) {
			return r.do.LoadBalancers.AddForwardingRules(t.Context(), lb.ID, godo.ForwardingRule{EntryProtocol: "tcp", EntryPort: 25, TargetProtocol: "tcp", TargetPort: 26})
		}, "forwarding_rules[1].entry_port is 25 as in a rule before it, want another"},
		{func() (*godo.Response, error) { return r.do.LoadBalancers.AddDroplets(t.Context(), lb.ID, 999) }, "there is no droplet 999"},
		{func() (*godo.Response, error) { return r.do.LoadBalancers.AddDroplets(t.Context(), lb.ID) }, "droplet_ids is empty"},
	} {
		_, err := c.do()
		if code, text := refusal(err); code != 422 || !strings.Contains(text, c.want) {
			t.Errorf("%d %q, want 422 with %q", code, text, c.want)
		}
	}
	if got := now(); len(got.ForwardingRules) != 1 || len(got.DropletIDs) != 2 {
		t.Errorf("what was refused has changed it: %v", got)
	}
	if _, _, err := r.do.LoadBalancers.Update(t.Context(), lb.ID, &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{tcp}, Tag: "web"}); err != nil {
		t.Fatal(err)
	}
	_, err = r.do.LoadBalancers.AddDroplets(t.Context(), lb.ID, made[0].ID)
	if code, text := refusal(err); code != 422 || text != `load balancer "shop" has the droplets with the tag "web": tag or untag droplets instead` {
		t.Errorf("adding a droplet to a tagged one: %d %q, want 422", code, text)
	}
}

func TestNoConcurrentChangeOfALoadBalancerIsLost(t *testing.T) {
	r := lab(t)
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("m%d", i))
	}
	made := r.droplets(names)
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, d := range made {
		wg.Go(func() {
			if _, err := r.do.LoadBalancers.AddDroplets(t.Context(), lb.ID, d.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, _, err := r.do.LoadBalancers.Get(t.Context(), lb.ID)
	if err != nil || len(got.DropletIDs) != len(made) {
		t.Errorf("droplets %v (%v), want all %d", got.DropletIDs, err, len(made))
	}
}

func TestLoadBalancersAreFoundByNameAndID(t *testing.T) {
	r := lab(t)
	var ids []string
	for _, name := range []string{"a", "b", "c"} {
		lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: name, ForwardingRules: []godo.ForwardingRule{webRule}})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, lb.ID)
	}
	byName, _, err := r.do.LoadBalancers.ListByNames(t.Context(), []string{"c", "a", "x"}, nil)
	if err != nil || len(byName) != 2 || byName[0].Name != "a" || byName[1].Name != "c" {
		t.Errorf("by name: %v (%v), want a and c", byName, err)
	}
	byID, _, err := r.do.LoadBalancers.ListByUUIDs(t.Context(), ids[1:2], nil)
	if err != nil || len(byID) != 1 || byID[0].Name != "b" {
		t.Errorf("by ID: %v (%v), want b", byID, err)
	}
	all, resp, err := r.do.LoadBalancers.List(t.Context(), &godo.ListOptions{PerPage: 2})
	if err != nil || len(all) != 2 || resp.Meta.Total != 3 || resp.Links.IsLastPage() {
		t.Errorf("first page %v of %v (%v), want 2 of 3", all, resp.Meta, err)
	}
}

// Terraform's provider sends a region as it is written, and keeps it in lower case.
func TestARegionIsMeantInAnyCase(t *testing.T) {
	r := lab(t)
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "web", Region: "Lab",
		ForwardingRules: []godo.ForwardingRule{{EntryProtocol: "http", EntryPort: 80, TargetProtocol: "http", TargetPort: 80}}})
	if err != nil || lb.Region.Slug != "lab" {
		t.Errorf("load balancer: %v (%v), want it in lab", lb, err)
	}
	if ip, _, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "LAB"}); err != nil || ip.Region.Slug != "lab" {
		t.Errorf("reserved IP: %v (%v), want it in lab", ip, err)
	}
}
