package api_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/digitalocean/godo"
)

// check holds an object to its shape: "name string", "droplet null or object" and so on. A
// list is judged by its elements: "tags[] string". All that the shape names must be there.
func check(t *testing.T, of string, v any, shape ...string) {
	t.Helper()
	object, ok := v.(map[string]any)
	if !ok {
		t.Errorf("%s is %T, want an object", of, v)
		return
	}
	for _, want := range shape {
		name, kinds, _ := strings.Cut(want, " ")
		list := strings.HasSuffix(name, "[]")
		name = strings.TrimSuffix(name, "[]")
		field, there := object[name]
		if !there {
			t.Errorf("%s has no %s", of, name)
			continue
		}
		if !list {
			if kind := kindOf(field); !slices.Contains(strings.Split(kinds, " or "), kind) {
				t.Errorf("%s.%s is %s, want %s", of, name, kind, kinds)
			}
			continue
		}
		elements, ok := field.([]any)
		if !ok {
			t.Errorf("%s.%s is %s, want a list", of, name, kindOf(field))
		}
		for _, e := range elements {
			if kind := kindOf(e); kind != kinds {
				t.Errorf("%s.%s has %s, want %s", of, name, kind, kinds)
			}
		}
	}
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "bool"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	case map[string]any:
		return "object"
	}
	return fmt.Sprintf("%T", v)
}

var (
	regionShape = []string{"slug string", "name string", "sizes[] string", "features[] string", "available bool"}
	sizeShape   = []string{"slug string", "memory integer", "vcpus integer", "disk integer", "transfer integer or number", "price_monthly integer or number",
		"price_hourly integer or number", "regions[] string", "available bool", "description string", "disk_info[] object"}
	imageShape = []string{"id integer", "name string", "type string", "distribution string", "slug string", "public bool", "regions[] string",
		"created_at string", "min_disk_size integer", "size_gigabytes integer or number", "description string", "tags[] string", "status string", "error_message string"}
	dropletShape = []string{"id integer", "name string", "memory integer", "vcpus integer", "disk integer", "disk_info[] object", "locked bool", "status string",
		"created_at string", "features[] string", "backup_ids[] integer", "next_backup_window null", "snapshot_ids[] integer", "kernel null",
		"image object", "volume_ids[] string", "size object", "size_slug string", "networks object", "region object", "tags[] string", "vpc_uuid string"}
	actionShape = []string{"id integer", "status string", "type string", "started_at string", "completed_at null or string", "resource_id integer",
		"resource_type string", "region object", "region_slug string"}
	balancerShape = []string{"id string", "name string", "ip string", "ipv6 string", "size_unit integer", "type string", "algorithm string", "status string", "created_at string",
		"forwarding_rules[] object", "health_check object", "sticky_sessions object", "region object", "tag string", "droplet_ids[] integer",
		"redirect_http_to_https bool", "enable_proxy_protocol bool", "enable_backend_keepalive bool", "http_idle_timeout_seconds integer", "vpc_uuid string",
		"disable_lets_encrypt_dns_records bool", "project_id string", "firewall object", "network string", "network_stack string", "tls_cipher_policy string"}
	addressShape = []string{"ip string", "droplet null or object", "region object", "locked bool", "project_id string"}
	accountShape = []string{"droplet_limit integer", "floating_ip_limit integer", "email string", "uuid string", "email_verified bool", "status string", "status_message string"}
	tagShape     = []string{"name string", "resources object"}
)

func TestAnswersHaveEveryFieldThatClientsRead(t *testing.T) {
	r := lab(t)
	droplet := r.droplets([]string{"a"}, "web")[0]
	bare := r.droplets([]string{"b"})[0]
	lb, _, err := r.do.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}})
	if err != nil {
		t.Fatal(err)
	}
	ip, _, err := r.do.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	act, _, err := r.do.ReservedIPActions.Assign(t.Context(), ip.IP, droplet.ID)
	if err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		path, root string
		shape      []string
		inside     map[string][]string
	}{
		{"/v2/account", "account", accountShape, nil},
		{fmt.Sprintf("/v2/droplets/%d", droplet.ID), "droplet", dropletShape, map[string][]string{"region": regionShape, "size": sizeShape, "image": imageShape, "networks": {"v4[] object", "v6[] object"}}},
		{fmt.Sprintf("/v2/droplets/%d", bare.ID), "droplet", dropletShape, nil},
		{fmt.Sprintf("/v2/actions/%d", act.ID), "action", actionShape, map[string][]string{"region": regionShape}},
		{"/v2/load_balancers/" + lb.ID, "load_balancer", balancerShape, map[string][]string{"region": regionShape, "firewall": {"allow[] string", "deny[] string"}, "sticky_sessions": {"type string"},
			"health_check": {"protocol string", "port integer", "path string", "check_interval_seconds integer", "response_timeout_seconds integer", "unhealthy_threshold integer", "healthy_threshold integer"}}},
		{"/v2/reserved_ips/" + ip.IP, "reserved_ip", addressShape, map[string][]string{"region": regionShape}},
		{"/v2/floating_ips/" + ip.IP, "floating_ip", addressShape, nil},
		{"/v2/tags/web", "tag", tagShape, map[string][]string{"resources": {"count integer", "droplets object", "images object", "volumes object", "volume_snapshots object", "databases object"}}},
		{"/v2/images/debian-12-x64", "image", imageShape, nil},
	} {
		a := r.ask("GET", c.path, "")
		if a.status != 200 {
			t.Errorf("%s: %d %s", c.path, a.status, a.text)
			continue
		}
		check(t, c.path, a.body[c.root], c.shape...)
		for field, shape := range c.inside {
			check(t, c.path+" "+field, a.body[c.root].(map[string]any)[field], shape...)
		}
	}

	for path, shape := range map[string][]string{
		"/v2/regions": regionShape, "/v2/sizes": sizeShape, "/v2/images": imageShape, "/v2/droplets": dropletShape, "/v2/actions": actionShape,
		"/v2/load_balancers": balancerShape, "/v2/projects": projectShape, "/v2/vpcs": {"id string", "urn string", "ip_range string"}, "/v2/tags": tagShape, "/v2/reserved_ips": addressShape, "/v2/floating_ips": addressShape,
		fmt.Sprintf("/v2/droplets/%d/actions", droplet.ID): actionShape, "/v2/reserved_ips/" + ip.IP + "/actions": actionShape,
		"/v2/weir/pools":    nil,
		"/v2/weir/machines": {"line integer", "id integer", "name string", "status string", "tags[] string", "boot object"},
	} {
		a := r.ask("GET", path, "")
		check(t, path, a.body, "links object", "meta object")
		check(t, path, a.body["meta"], "total integer")
		root := path[strings.LastIndex(path, "/")+1:]
		elements, ok := a.body[root].([]any)
		if !ok || shape != nil && len(elements) == 0 {
			t.Errorf("%s: %s is %v, want a list with something in it", path, root, a.body[root])
		}
		for _, e := range elements {
			check(t, path, e, shape...)
		}
	}

	if a := lab(t).ask("GET", "/v2/droplets", ""); !strings.Contains(a.text, `"droplets":[]`) || !strings.Contains(a.text, `"links":{}`) || !strings.Contains(a.text, `"meta":{"total":0}`) {
		t.Errorf("a list of nothing is %s, want an empty list with links and meta", a.text)
	}
}
