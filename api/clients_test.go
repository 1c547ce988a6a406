package api_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// DropletKit takes one status for a success and raises an error on any other. It writes all fields of
// what it sends, those that nobody has set as null, and writes back what it has read.
func TestDropletKitGetsTheVeryStatusThatItWantsOfEachCall(t *testing.T) {
	r := lab(t)
	const machine = `"region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "volumes": null, "ssh_keys": null, "backups": null, "monitoring": true,
		"with_droplet_agent": null, "ipv6": null, "user_data": null, "private_networking": null, "vpc_uuid": null, "tags": ["web"]`
	const rules = `[{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80, "certificate_id": null, "tls_passthrough": null}]`
	const more = `[{"entry_protocol": "tcp", "entry_port": 3306, "target_protocol": "tcp", "target_port": 3306, "certificate_id": "", "tls_passthrough": false}]`
	balancer := func(droplets string) string {
		return `{"name": "lb", "algorithm": null, "tag": null, "redirect_http_to_https": null, "enable_proxy_protocol": null, "enable_backend_keepalive": null, "droplet_ids": ` + droplets + `,
			"sticky_sessions": {"type": "none", "cookie_name": null, "cookie_ttl_seconds": null}, "health_check": {"protocol": "http", "port": 80, "path": "/", "check_interval_seconds": null,
			"response_timeout_seconds": null, "healthy_threshold": null, "unhealthy_threshold": null}, "forwarding_rules": ` + rules + `, "disable_lets_encrypt_dns_records": null,
			"region": "lab", "size": null, "size_unit": 1, "vpc_uuid": null}`
	}
	const open = `"inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": {"addresses": ["0.0.0.0/0"], "droplet_ids": null, "load_balancer_uids": null, "tags": null}}], "outbound_rules": null`
	leaf, _, key := shopCertificate(t)
	pem := func(s string) string {
		quoted, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(quoted)
	}

	var of []string // the IDs of what was made, each behind what stands for it below
	for _, c := range []struct {
		call, body string
		want       int
		id, at     string // what its ID is called in further calls, and where it is in the answer
	}{
		{"GET /v2/account", "", 200, "", ""},
		{"GET /v2/regions?page=1&per_page=20", "", 200, "", ""},
		{"GET /v2/sizes", "", 200, "", ""},
		{"GET /v2/images?page=1&per_page=20&type=distribution", "", 200, "", ""},
		{"GET /v2/images/debian-12-x64", "", 200, "", ""},
		{"GET /v2/snapshots?resource_type=droplet", "", 200, "", ""},
		{"GET /v2/volumes", "", 200, "", ""},

		{"POST /v2/account/keys", `{"name": "k", "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPbx/pA7O+E++ynfh1WpUZ/FXY36/UUmJ5JZ+HY5iHy k"}`, 201, "KEY", "ssh_key"},
		{"PUT /v2/account/keys/{KEY}", `{"name": "k2"}`, 200, "", ""},
		{"POST /v2/tags", `{"name": "blue"}`, 201, "", ""},
		{"POST /v2/droplets", `{"name": "a", "names": null, ` + machine + `}`, 202, "A", "droplet"},
		{"POST /v2/droplets", `{"name": null, "names": ["b", "c"], ` + machine + `}`, 202, "", ""},
		{"GET /v2/droplets/{A}", "", 200, "", ""},
		{"GET /v2/droplets?page=1&per_page=20&tag_name=web", "", 200, "", ""},
		{"GET /v2/droplets/{A}/kernels", "", 200, "", ""},
		{"GET /v2/droplets/{A}/snapshots", "", 200, "", ""},
		{"GET /v2/droplets/{A}/backups", "", 200, "", ""},
		{"GET /v2/droplets/{A}/actions", "", 200, "", ""},
		{"POST /v2/tags/blue/resources", `{"resources": [{"resource_id": "{A}", "resource_type": "droplet"}]}`, 204, "", ""},
		{"GET /v2/tags/blue", "", 200, "", ""},
		{"POST /v2/droplets/{A}/actions", `{"type": "rename", "name": "aa"}`, 201, "ACT", "action"},
		{"GET /v2/droplets/{A}/actions/{ACT}", "", 200, "", ""},
		{"GET /v2/actions/{ACT}", "", 200, "", ""},
		{"POST /v2/droplets/actions?tag_name=blue", `{"type": "disable_backups"}`, 201, "", ""},
		{"POST /v2/droplets/{A}/actions", `{"type": "resize", "size": "s-2vcpu-4gb", "disk": null}`, 422, "", ""},

		{"POST /v2/load_balancers", balancer("[{A}]"), 202, "LB", "load_balancer"},
		{"POST /v2/load_balancers", balancer("[{A}]"), 422, "", ""},
		{"GET /v2/load_balancers/{LB}", "", 200, "", ""},
		{"GET /v2/load_balancers", "", 200, "", ""},
		{"PUT /v2/load_balancers/{LB}", balancer("[]"), 200, "", ""},
		{"POST /v2/load_balancers/{LB}/droplets", `{"droplet_ids": [{A}]}`, 204, "", ""},
		{"DELETE /v2/load_balancers/{LB}/droplets", `{"droplet_ids": [{A}]}`, 204, "", ""},
		{"POST /v2/load_balancers/{LB}/forwarding_rules", `{"forwarding_rules": ` + more + `}`, 204, "", ""},
		{"DELETE /v2/load_balancers/{LB}/forwarding_rules", `{"forwarding_rules": ` + more + `}`, 204, "", ""},
		{"DELETE /v2/load_balancers/{LB}", "", 204, "", ""},

		{"POST /v2/certificates", `{"name": "shop", "type": null, "dns_names": null, "private_key": ` + pem(key) + `, "leaf_certificate": ` + pem(leaf) + `, "certificate_chain": null}`, 201, "CERT", "certificate"},
		{"GET /v2/certificates/{CERT}", "", 200, "", ""},
		{"GET /v2/certificates", "", 200, "", ""},
		{"DELETE /v2/certificates/{CERT}", "", 204, "", ""},

		{"POST /v2/firewalls", `{"name": "fw", ` + open + `, "droplet_ids": [{A}], "tags": ["web"]}`, 202, "FW", "firewall"},
		{"PUT /v2/firewalls/{FW}", `{"name": "fw", ` + open + `, "droplet_ids": null, "tags": null}`, 200, "", ""},
		{"POST /v2/firewalls/{FW}/droplets", `{"droplet_ids": [{A}]}`, 204, "", ""},
		{"GET /v2/droplets/{A}/firewalls", "", 200, "", ""},
		{"DELETE /v2/firewalls/{FW}/droplets", `{"droplet_ids": [{A}]}`, 204, "", ""},
		{"POST /v2/firewalls/{FW}/tags", `{"tags": ["blue"]}`, 204, "", ""},
		{"DELETE /v2/firewalls/{FW}/tags", `{"tags": ["blue"]}`, 204, "", ""},
		{"POST /v2/firewalls/{FW}/rules", `{"inbound_rules": null, "outbound_rules": [{"protocol": "tcp", "ports": "all", "destinations": {"addresses": ["0.0.0.0/0"]}}]}`, 204, "", ""},
		{"DELETE /v2/firewalls/{FW}/rules", `{` + open + `}`, 204, "", ""},
		{"DELETE /v2/firewalls/{FW}", "", 204, "", ""},

		{"POST /v2/reserved_ips", `{"region": "lab", "droplet_id": null}`, 202, "IP", "reserved_ip"},
		{"POST /v2/reserved_ips/{IP}/actions", `{"type": "assign", "droplet_id": {A}}`, 201, "ASSIGN", "action"},
		{"GET /v2/reserved_ips/{IP}/actions/{ASSIGN}", "", 200, "", ""},
		{"GET /v2/reserved_ips/{IP}/actions", "", 200, "", ""},
		{"POST /v2/floating_ips/{IP}/actions", `{"type": "unassign"}`, 201, "", ""},
		{"GET /v2/floating_ips/{IP}", "", 200, "", ""},
		{"DELETE /v2/floating_ips/{IP}", "", 204, "", ""},
		{"GET /v2/reserved_ipv6", "", 200, "", ""},
		{"GET /v2/reserved_ipv6/2001:db8::1", "", 404, "", ""},
		{"POST /v2/reserved_ipv6", `{"region_slug": "lab"}`, 201, "IPV6", "reserved_ipv6"},
		{"POST /v2/reserved_ipv6/{IPV6}/actions", `{"type": "unassign"}`, 201, "", ""},
		{"DELETE /v2/reserved_ipv6/{IPV6}", "", 204, "", ""},

		{"POST /v2/projects", `{"name": "p", "description": null, "purpose": "Web Application", "environment": null}`, 201, "PROJECT", "project"},
		{"GET /v2/projects/default", "", 200, "", ""},
		{"PUT /v2/projects/{PROJECT}", `{"name": "p2", "description": "x", "purpose": "Web Application", "environment": "Production", "is_default": false}`, 200, "", ""},
		{"POST /v2/projects/{PROJECT}/resources", `{"resources": ["do:droplet:{A}"]}`, 200, "", ""},
		{"GET /v2/projects/{PROJECT}/resources", "", 200, "", ""},
		{"POST /v2/projects/default/resources", `{"resources": ["do:droplet:{A}"]}`, 200, "", ""},
		{"DELETE /v2/projects/{PROJECT}", "", 204, "", ""},

		{"GET /v2/vpcs", "", 200, "", ""},
		{"POST /v2/vpcs", `{"name": "v", "description": null, "region": "lab", "ip_range": null}`, 422, "", ""},
		{"POST /v2/volumes", `{"size_gigabytes": 10, "name": "v", "description": null, "region": "lab"}`, 422, "", ""},

		{"DELETE /v2/tags/blue/resources", `{"resources": [{"resource_id": "{A}", "resource_type": "droplet"}]}`, 204, "", ""},
		{"DELETE /v2/tags/blue", "", 204, "", ""},
		{"DELETE /v2/droplets/{A}", "", 204, "", ""},
		{"DELETE /v2/droplets?tag_name=web", "", 204, "", ""},
		{"DELETE /v2/account/keys/{KEY}", "", 204, "", ""},
	} {
		method, path, _ := strings.Cut(strings.NewReplacer(of...).Replace(c.call), " ")
		a := r.ask(method, path, strings.NewReplacer(of...).Replace(c.body))
		if a.status != c.want {
			t.Fatalf("%s: %d %s, want %d", c.call, a.status, a.text, c.want)
		}
		if empty := a.text == ""; empty != (c.want == http.StatusNoContent) {
			t.Errorf("%s: %d with %q, and DropletKit reads JSON of all but 204", c.call, a.status, a.text)
		}
		if c.id != "" {
			made, _ := a.body[c.at].(map[string]any)
			id, ok := made["id"].(string)
			if strings.HasPrefix(c.id, "IP") {
				id, ok = made["ip"].(string)
			}
			if n, isNumber := made["id"].(float64); isNumber {
				id, ok = strconv.FormatInt(int64(n), 10), true
			}
			if !ok {
				t.Fatalf("%s: %s, want an ID", c.call, a.text)
			}
			of = append(of, "{"+c.id+"}", id)
		}
		if method == "POST" && c.id == "ASSIGN" {
			r.eventually("the address is assigned", func() bool {
				ip, _, err := r.do.ReservedIPs.Get(t.Context(), strings.Split(path, "/")[3])
				return err == nil && !ip.Locked
			})
		}
	}
}
