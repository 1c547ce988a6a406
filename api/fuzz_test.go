package api_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

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

// FuzzRequest throws any method, path and body at a region with one thing of each kind in
// it. Whatever they are, the answer is no fault of ours: below 500, with an ID, and JSON
// if it has a body (or the configuration, which is text).
func FuzzRequest(f *testing.F) {
	c := control.New(control.Options{Region: "lab", Store: store.Memory(), Cloud: cloud.NewFake(cloud.FakeOptions{})})
	keys, err := secrets.New(secrets.NewKey())
	if err != nil {
		f.Fatal(err)
	}
	c.Secrets = keys
	h := api.New(api.Options{Control: impatient{c}, Users: edge.NewToken(token), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	ask := func(t testing.TB, method, target, body string) *httptest.ResponseRecorder {
		path, query, _ := strings.Cut(target, "?")
		req, err := http.NewRequestWithContext(t.Context(), method, "http://api.example/", strings.NewReader(body))
		if err != nil {
			return nil // no client can send it
		}
		req.URL = &url.URL{Scheme: "http", Host: "api.example", Path: "/" + strings.TrimPrefix(path, "/"), RawQuery: query}
		req.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w
	}

	made := func(method, path, body, root, key string) string {
		w := ask(f, method, path, body)
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
	const droplet = `{"name": "a", "names": null, "region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "ssh_keys": [], "tags": ["web"], "user_data": "#!/bin/sh\n", "backups": false}`
	const balancer = `{"name": "shop", "region": "lab", "forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}], "health_check": {"protocol": "http", "port": 80, "path": "/"}, "sticky_sessions": {}, "firewall": {}, "droplet_ids": [], "tag": "", "http_idle_timeout_seconds": 60}`
	const app = `{"name": "web", "count": 1, "tags": ["blue"], "load_balancer": {"forwarding_rules": [{"entry_protocol": "tcp", "entry_port": 25, "target_protocol": "tcp", "target_port": 25}]}}`
	id := made("POST", "/v2/droplets", droplet, "droplet", "id")
	lb := made("POST", "/v2/load_balancers", balancer, "load_balancer", "id")
	ip := made("POST", "/v2/reserved_ips", `{"region": "lab"}`, "reserved_ip", "ip")
	act := made("POST", "/v2/droplets/"+id+"/actions", `{"type": "reboot"}`, "action", "id")
	made("POST", "/v2/tags", `{"name": "web"}`, "tag", "name")

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
		{"GET", "/v2/weir/status", ""}, {"PUT", "/v2/weir/app?dry_run=true", app}, {"PUT", "/v2/weir/app", app}, {"GET", "/v2/weir/pools", ""}, {"POST", "/v2/weir/pools/web/machines", `{"count": 1}`},
		{"GET", "/v2/weir/machines", ""}, {"GET", "/v2/weir/droplets/" + id + "/boot", ""}, {"GET", "/v2/weir/load_balancers/shop/config", ""}, {"POST", "/v2/weir/load_balancers/" + lb + "/reload", ""},
		{"PATCH", "/v2/droplets", "null"}, {"POST", "/v2/tags", `{"name": "\ud800"}`}, {"POST", "/v2/tags", "{\"name\": \"\xff\"}"}, {"GET", "/v2/tags/\xff\x00", ""}, {"GET", "/v2/load_balancers/..", ""}, {"CONNECT", "/v2/droplets", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, method, path, body string) {
		w := ask(t, method, path, body)
		if w == nil {
			return
		}
		if w.Code >= 500 || w.Code < 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Header().Get("X-Request-Id") == "" {
			t.Error("the answer has no X-Request-Id")
		}
		if kind := w.Header().Get("Content-Type"); w.Code == http.StatusNoContent || strings.HasPrefix(kind, "text/plain") && strings.HasSuffix(path, "/config") {
			return
		}
		var out map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatalf("%d, and the body is not JSON: %v\n%s", w.Code, err, w.Body)
		}
		if message, _ := out["message"].(string); w.Code >= 400 && (out["id"] == "" || message == "" || out["request_id"] != w.Header().Get("X-Request-Id")) {
			t.Errorf("%d, and the body is no error: %s", w.Code, w.Body)
		}
	})
}
