package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/edge"
	"weir/secrets"
	"weir/store"
	"weir/weir"
)

// impatient is a control plane that nobody runs: a reload in it would wait for instances
// that never come.
type impatient struct{ api.Control }

func (impatient) Reload(context.Context, weir.ID) error { return nil }

// target is a region that is fuzzed. Nobody runs it, so that what is there is what was asked.
type target struct{ http.Handler }

func newTarget(log io.Writer) target {
	c := control.New(control.Options{Region: "lab", Store: store.Memory(), Cloud: cloud.NewFake(cloud.FakeOptions{})})
	keys, err := secrets.New(secrets.NewKey())
	if err != nil {
		panic(err) // a key that was just made
	}
	c.Secrets = keys
	return target{api.New(api.Options{Control: impatient{c}, Users: edge.NewToken(token), Log: slog.New(slog.NewTextHandler(log, nil))})}
}

// ask makes a request, with the token and those headers; nil if no client can make it.
func (h target) ask(t testing.TB, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	path, query, _ := strings.Cut(path, "?")
	req, err := http.NewRequestWithContext(t.Context(), method, "http://api.example/", strings.NewReader(body))
	if err != nil {
		return nil
	}
	req.URL = &url.URL{Scheme: "http", Host: "api.example", Path: "/" + strings.TrimPrefix(path, "/"), RawQuery: query}
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// makes makes something, and returns its key.
func (h target) makes(f *testing.F, method, path, body, root, key string) string {
	w := h.ask(f, method, path, body)
	var out map[string]map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code > 299 {
		f.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	switch v := out[root][key].(type) {
	case string:
		return v
	case float64:
		text, _ := json.Marshal(int64(v))
		return string(text)
	}
	f.Fatalf("%s %s: no %s in %s", method, path, key, w.Body)
	return ""
}

// holds has an answer be no fault of ours, whatever was asked: below 500, with an ID, and JSON if it
// has a body (or the configuration, which is text).
func holds(t *testing.T, path string, w *httptest.ResponseRecorder) (out map[string]any) {
	t.Helper()
	if w.Code >= 500 || w.Code < 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if w.Header().Get("X-Request-Id") == "" {
		t.Error("the answer has no X-Request-Id")
	}
	if w.Code == http.StatusAccepted && w.Body.Len() == 0 {
		return nil // an autoscale pool that was deleted
	}
	if kind := w.Header().Get("Content-Type"); w.Code == http.StatusNoContent || strings.HasPrefix(kind, "text/plain") && strings.HasSuffix(path, "/config") {
		return nil
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatalf("%d, and the body is not JSON: %v\n%s", w.Code, err, w.Body)
	}
	if message, _ := out["message"].(string); w.Code >= 400 && (out["id"] == "" || message == "" || out["request_id"] != w.Header().Get("X-Request-Id")) {
		t.Errorf("%d, and the body is no error: %s", w.Code, w.Body)
	}
	return out
}

// FuzzRequest throws any method, path and body at a region with one thing of each kind in
// it.
func FuzzRequest(f *testing.F) {
	h := newTarget(os.Stderr)
	made := func(method, path, body, root, key string) string { return h.makes(f, method, path, body, root, key) }
	const droplet = `{"name": "a", "names": null, "region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "ssh_keys": [], "tags": ["web"], "user_data": "#!/bin/sh\n", "backups": false}`
	const balancer = `{"name": "shop", "region": "lab", "forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}], "health_check": {"protocol": "http", "port": 80, "path": "/"}, "sticky_sessions": {}, "firewall": {}, "droplet_ids": [], "tag": "", "http_idle_timeout_seconds": 60}`
	const app = `{"name": "web", "count": 1, "tags": ["blue"], "load_balancer": {"forwarding_rules": [{"entry_protocol": "tcp", "entry_port": 25, "target_protocol": "tcp", "target_port": 25}]}}`
	id := made("POST", "/v2/droplets", droplet, "droplet", "id")
	lb := made("POST", "/v2/load_balancers", balancer, "load_balancer", "id")
	ip := made("POST", "/v2/reserved_ips", `{"region": "lab"}`, "reserved_ip", "ip")
	act := made("POST", "/v2/droplets/"+id+"/actions", `{"type": "reboot"}`, "action", "id")
	made("POST", "/v2/tags", `{"name": "web"}`, "tag", "name")
	firewall := `{"name": "f", "inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": {"addresses": ["0.0.0.0/0", "::/0"], "load_balancer_uids": ["` + lb + `"]}}], "outbound_rules": [{"protocol": "icmp", "destinations": {"tags": ["web"], "droplet_ids": [` + id + `]}}], "droplet_ids": [` + id + `], "tags": null}`
	wall := made("POST", "/v2/firewalls", firewall, "firewall", "id")
	const autoscale = `{"name": "scaled", "config": {"min_instances": 1, "max_instances": 3, "target_cpu_utilization": 0.5, "cooldown_minutes": 5}, "droplet_template": {"region": "lab", "size": "s-1vcpu-1gb", "image": 7, "tags": ["web"], "ssh_keys": [], "public_networking": true}}`
	scaled := "/v2/droplets/autoscale/" + made("POST", "/v2/droplets/autoscale", strings.Replace(autoscale, "7", `"debian-12-x64"`, 1), "autoscale_pool", "id")

	for _, seed := range [][3]string{
		{"GET", "/", ""}, {"GET", "/v2/account", ""}, {"GET", "/v2/regions?page=2", ""}, {"GET", "/v2/sizes?per_page=3", ""}, {"GET", "/v2/images?type=distribution", ""}, {"GET", "/v2/images/debian-12-x64", ""},
		{"GET", "/v2/droplets?page=1&per_page=1&name=a", ""}, {"GET", "/v2/droplets?tag_name=web", ""}, {"POST", "/v2/droplets", droplet}, {"POST", "/v2/droplets", `{"names": ["a", "b"], "image": 7}`},
		{"DELETE", "/v2/droplets?tag_name=none", ""}, {"GET", "/v2/droplets/" + id, ""}, {"DELETE", "/v2/droplets/7", ""}, {"POST", "/v2/droplets/" + id + "/actions", `{"type": "power_off"}`},
		{"POST", "/v2/droplets/actions?tag_name=web", `{"type": "power_on"}`}, {"GET", "/v2/droplets/" + id + "/actions/" + act, ""}, {"GET", "/v2/actions", ""}, {"GET", "/v2/actions/" + act, ""},
		{"GET", "/v2/load_balancers?names=shop&uuids=x", ""}, {"POST", "/v2/load_balancers", balancer}, {"PUT", "/v2/load_balancers/" + lb, balancer}, {"GET", "/v2/load_balancers/" + lb, ""}, {"DELETE", "/v2/load_balancers/x", ""},
		{"POST", "/v2/load_balancers/" + lb + "/droplets", `{"droplet_ids": [` + id + `]}`}, {"DELETE", "/v2/load_balancers/" + lb + "/droplets", `{"droplet_ids": [1, -1]}`},
		{"POST", "/v2/load_balancers/" + lb + "/forwarding_rules", `{"forwarding_rules": [{"entry_protocol": "tcp", "entry_port": 25, "target_protocol": "tcp", "target_port": 25}]}`},
		{"GET", "/v2/tags", ""}, {"POST", "/v2/tags", `{"name": "x"}`}, {"DELETE", "/v2/tags/x", ""}, {"POST", "/v2/tags/web/resources", `{"resources": [{"resource_id": "` + id + `", "resource_type": "droplet"}]}`},
		{"GET", "/v2/reserved_ips", ""}, {"POST", "/v2/floating_ips", `{"droplet_id": ` + id + `}`}, {"POST", "/v2/reserved_ips/" + ip + "/actions", `{"type": "assign", "droplet_id": ` + id + `}`}, {"GET", "/v2/floating_ips/" + ip + "/actions", ""},
		{"GET", "/v2/certificates?name=x", ""}, {"POST", "/v2/certificates", `{"name": "x", "type": "custom", "leaf_certificate": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "private_key": "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"}`},
		{"GET", "/v2/projects", ""}, {"POST", "/v2/projects", `{"name": "x", "purpose": "IoT"}`}, {"PATCH", "/v2/projects/default", `{"is_default": false}`}, {"POST", "/v2/projects/default/resources", `{"resources": ["do:droplet:` + id + `", "do:reservedip:` + ip + `"]}`},
		{"GET", "/v2/vpcs", ""}, {"POST", "/v2/vpcs", "{}"}, {"PUT", "/v2/vpcs/x", `{"name": "x"}`}, {"GET", "/v2/vpc_peerings", ""}, {"POST", "/v2/reserved_ipv6", `{"region_slug": "lab"}`}, {"GET", "/v2/droplets/" + id + "/neighbors", ""},
		{"GET", "/v2/droplets/" + id + "/destroy_with_associated_resources", ""}, {"DELETE", "/v2/droplets/" + id + "/destroy_with_associated_resources/selective", `{"reserved_ips": ["` + ip + `", 7]}`}, {"GET", "/v2/droplets/" + id + "/backups/policy", ""},
		{"GET", "/v2/firewalls?per_page=1", ""}, {"POST", "/v2/firewalls", firewall}, {"PUT", "/v2/firewalls/" + wall, firewall}, {"GET", "/v2/droplets/" + id + "/firewalls", ""}, {"DELETE", "/v2/firewalls/x", ""},
		{"POST", "/v2/firewalls/" + wall + "/droplets", `{"droplet_ids": [` + id + `]}`}, {"DELETE", "/v2/firewalls/" + wall + "/tags", `{"tags": ["web"]}`}, {"POST", "/v2/firewalls/" + wall + "/rules", `{"inbound_rules": [{"protocol": "udp", "ports": 53, "sources": {"addresses": ["::1"]}}]}`},
		{"GET", "/v2/weir/status", ""}, {"PUT", "/v2/weir/app?dry_run=true", app}, {"PUT", "/v2/weir/app", app}, {"GET", "/v2/weir/pools", ""}, {"POST", "/v2/weir/pools/web/machines", `{"count": 1}`},
		{"GET", "/v2/weir/machines", ""}, {"GET", "/v2/weir/droplets/" + id + "/boot", ""}, {"GET", "/v2/weir/load_balancers/shop/config", ""}, {"POST", "/v2/weir/load_balancers/" + lb + "/reload", ""},
		{"PUT", "/v2/weir/load_balancers/shop/split", `{"split": {"green": 5}, "group": "api"}`}, {"PUT", "/v2/weir/load_balancers/shop/maintenance", `{"on": true, "page": "", "retry_after_seconds": 9e9, "allow": ["ip:::1"]}`},
		{"POST", "/v2/weir/load_balancers/shop/drain", `{"droplet_id": ` + id + `, "seconds": 0}`}, {"POST", "/v2/weir/load_balancers/shop/undrain", `{"droplet_id": ` + id + `}`},
		{"GET", "/v2/droplets/autoscale?name=scaled", ""}, {"POST", "/v2/droplets/autoscale", autoscale}, {"GET", scaled, ""}, {"PUT", scaled, autoscale}, {"GET", scaled + "/members", ""}, {"GET", scaled + "/history", ""},
		{"DELETE", scaled, ""}, {"DELETE", scaled + "/dangerous", ""}, {"GET", "/v2/droplets/autoscale/actions", ""},
		{"POST", "/v2/droplets/" + id + "/actions", `{"type": "rename", "name": "b"}`}, {"POST", "/v2/droplets/" + id + "/actions", `{"type": "resize", "size": 7}`}, {"GET", "/v2/droplets/" + id + "/snapshots", ""},
		{"DELETE", "/v2/load_balancers/" + lb + "/cache", ""},
		{"POST", "/v2/tags/web/resources", `{"resources": [{"resource_id": "` + lb + `", "resource_type": "load_balancer"}]}`}, {"HEAD", "/v2/droplets", ""}, {"OPTIONS", "/v2/droplets", ""},
		{"PATCH", "/v2/droplets", "null"}, {"POST", "/v2/tags", `{"name": "\ud800"}`}, {"POST", "/v2/tags", "{\"name\": \"\xff\"}"}, {"GET", "/v2/tags/\xff\x00", ""}, {"GET", "/v2/load_balancers/..", ""}, {"CONNECT", "/v2/droplets", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, method, path, body string) {
		if w := h.ask(t, method, path, body); w != nil {
			holds(t, path, w)
		}
	})
}

// FuzzHeader throws any header at resources of each kind. None makes an answer a fault of ours, and none
// but a token lets anybody in.
func FuzzHeader(f *testing.F) {
	h := newTarget(os.Stderr)
	for _, seed := range [][3]string{
		{"Authorization", "Bearer " + token, "/v2/account"}, {"Authorization", "bearer\t" + token, "/v2/droplets"}, {"Authorization", "Bearer", "/v2/droplets"},
		{"Authorization", "Basic c2VzYW1l", "/v2/tags"}, {"Content-Length", "-1", "/v2/droplets"}, {"Content-Type", "multipart/form-data", "/v2/tags"},
		{"Content-Encoding", "gzip", "/v2/tags"}, {"Accept", "text/xml", "/v2/sizes"}, {"Expect", "100-continue", "/v2/images"}, {"X-Request-Id", "\xff\n", "/v2/regions"},
		{"X-Forwarded-For", "127.0.0.1", "/"}, {"Host", "evil.example", "/"}, {"X-HTTP-Method-Override", "DELETE", "/v2/droplets?tag_name=a"}, {"Range", "bytes=0-", "/v2/load_balancers"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, name, value, path string) {
		for _, method := range []string{"GET", "POST", "HEAD"} {
			w := h.ask(t, method, path, `{"name": "x"}`, name, value)
			if w == nil {
				continue
			}
			holds(t, path, w)
			scheme, secret, _ := strings.Cut(value, " ")
			if http.CanonicalHeaderKey(name) == "Authorization" && (!strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(secret) != token) && w.Code != http.StatusUnauthorized {
				t.Errorf("%s %s with the authorization %q: %d, want 401", method, path, value, w.Code)
			}
		}
	})
}

// FuzzLoadBalancer throws any body at a load balancer. What is accepted can be put back as it was
// answered, and is the same then.
func FuzzLoadBalancer(f *testing.F) {
	h := newTarget(os.Stderr)
	const rule = `{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 8080}`
	id := h.makes(f, "POST", "/v2/droplets", `{"name": "a", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "tags": ["web"]}`, "droplet", "id")
	lb := "/v2/load_balancers/" + h.makes(f, "POST", "/v2/load_balancers", `{"name": "shop", "forwarding_rules": [`+rule+`]}`, "load_balancer", "id")
	for _, body := range []string{
		`{"name": "shop", "forwarding_rules": [` + rule + `]}`,
		`{"name": "shop", "region": "lab", "algorithm": "least_connections", "tag": "WEB", "tags": ["k8s:1", "k8s:1"], "forwarding_rules": [` + rule + `, {"entry_protocol": "TCP", "entry_port": 25, "target_protocol": "tcp", "target_port": 25, "certificate_id": null}]}`,
		`{"name": "shop", "droplet_ids": [` + id + `, ` + id + `], "forwarding_rules": [` + rule + `], "health_check": {"protocol": "tcp", "port": 22, "path": "/x"}, "http_idle_timeout_seconds": 600}`,
		`{"name": "shop", "tag": "web", "droplet_ids": [` + id + `], "forwarding_rules": [` + rule + `], "health_check": {}, "sticky_sessions": {"type": "none"}, "firewall": {"allow": [], "deny": null}}`,
		`{"name": "shop", "size_unit": 1, "size": "lb-small", "type": "REGIONAL", "network": "EXTERNAL", "disable_lets_encrypt_dns_records": true, "forwarding_rules": [` + rule + `]}`,
		`{"name": "shop", "size_unit": 1e99, "http_idle_timeout_seconds": -9223372036854775808, "forwarding_rules": [` + rule + `]}`,
		`{"name": "shop", "validate_only": true, "forwarding_rules": [{"entry_port": 65536}]}`,
		`{"name": "shop", "forwarding_rules": [` + rule + `], "weir": ` + fmt.Sprintf(everything, id) + `}`,
		`{"name": "shop", "forwarding_rules": [` + rule + `], "weir": {"split": null, "routes": [{"hosts": ["*.a.example"], "rewrite": {}, "request_headers": {"set": {"a": ""}, "remove": []}}], "error_pages": {"503": ""}, "basic_auth": {"users": [{"name": "ann"}]}}}`,
		`{"name": "shop", "forwarding_rules": [` + rule + `], "weir": {"maintenance": {}, "response_headers": {}, "target_groups": [{"name": "a", "health_check": {"protocol": "TCP", "path": "/x"}}, {"name": "b", "droplet_ids": [], "split": {"a": 1e9}}]}}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		out := holds(t, lb, h.ask(t, "PUT", lb, body))
		is, ok := out["load_balancer"].(map[string]any)
		if !ok {
			return
		}
		is["region"] = is["region"].(map[string]any)["slug"]
		echo, err := json.Marshal(is)
		if err != nil {
			t.Fatal(err)
		}
		w := h.ask(t, "PUT", lb, string(echo))
		again, ok := holds(t, lb, w)["load_balancer"].(map[string]any)
		if !ok {
			t.Fatalf("it cannot be put back as it was answered: %s\n%s", w.Body, echo)
		}
		again["region"] = is["region"]
		if diff := cmp.Diff(is, again); diff != "" {
			t.Errorf("put back, it is another (-was +is):\n%s", diff)
		}
	})
}
