package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"weir/weir"
)

// key is one word that a mapping may have on its left side.
//
// Keys are set in the order of their table, each on an app that is valid without it,
// and the app is checked after each: so what the check objects to is that key's fault.
type key struct {
	name string
	set  func(a *App, v value) error
}

func appKeys() []key {
	return []key{
		{"name", setName},
		{"region", setRegion},
		{"size", text(func(a *App, s string) { a.Pool.Template.Size = s })},
		{"sizes", setSizes}, // before count, whose budget they bear on
		{"image", text(func(a *App, s string) { a.Pool.Template.Image = s })},
		{"hostname_prefix", setPrefix},
		{"count", setCount},
		{"rolling", setRolling},
		{"replace_unhealthy", flag(func(a *App, on bool) { a.Pool.Heal = &on })},
		{"exporter", setExporter},
		{"user_data", setUserData},
		{"ssh_keys", setKeys},
		{"tags", setTags},
		{"servers", setServers},
		{"load_balancer", func(a *App, v value) error { return v.mapping(a, balancerKeys()) }},
		{"haproxy", func(a *App, v value) error { return v.mapping(a, snippetKeys()) }},
	}
}

func snippetKeys() []key {
	return []key{
		{"global", lines(func(a *App, s []string) { a.Snippets.Global = s })},
		{"defaults", lines(func(a *App, s []string) { a.Snippets.Defaults = s })},
		{"frontends", func(a *App, v value) error {
			var keys []key
			for _, e := range v.entries() {
				name := keyOf(e)
				keys = append(keys, key{name, lines(func(a *App, s []string) {
					if a.Snippets.Frontends == nil {
						a.Snippets.Frontends = map[string][]string{}
					}
					a.Snippets.Frontends[name] = s
				})})
			}
			if len(keys) == 0 {
				return v.errorf("frontends is %s, want names such as http-80, each with lines", v.shown())
			}
			return v.mapping(a, keys)
		}},
	}
}

// lines takes a text of several lines; those that are empty do not count.
func lines(set func(a *App, lines []string)) func(*App, value) error {
	return text(func(a *App, s string) {
		var all []string
		for line := range strings.Lines(s) {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, line)
			}
		}
		set(a, all)
	})
}

func balancerKeys() []key {
	return []key{
		{"name", text(func(a *App, s string) { a.LoadBalancer.Name = s })},
		{"size", text(func(a *App, s string) { a.LoadBalancer.Size = s })},
		{"address", setAddress},
		{"network", setNetwork},
		{"algorithm", text(func(a *App, s string) { a.LoadBalancer.Algorithm = weir.Algorithm(s) })},
		{"forwarding_rules", setRules},
		{"redirect_http_to_https", flag(func(a *App, on bool) { a.LoadBalancer.Redirect = on })},
		{"tls_cipher_policy", text(func(a *App, s string) { a.LoadBalancer.Ciphers = weir.CipherPolicy(s) })},
		{"sticky_sessions", func(a *App, v value) error {
			a.LoadBalancer.Sticky = weir.DefaultSticky()
			return v.mapping(a, stickyKeys())
		}},
		{"enable_proxy_protocol", flag(func(a *App, on bool) { a.LoadBalancer.Proxy = on })},
		{"enable_backend_keepalive", flag(func(a *App, on bool) { a.LoadBalancer.KeepAlive = on })},
		{"firewall", func(a *App, v value) error { return v.mapping(a, clientKeys()) }},
		{"health_check", func(a *App, v value) error {
			return v.mapping(a, checkKeys(func(a *App) *weir.HealthCheck { return &a.LoadBalancer.Health }))
		}},
		{"access_log", func(a *App, v value) error {
			if _, null := v.node.(*ast.NullNode); null {
				return nil
			}
			a.LoadBalancer.Policy.Log = new(weir.AccessLog)
			return v.mapping(a, accessLogKeys())
		}},
		{"http_idle_timeout_seconds", seconds(func(a *App, d time.Duration) { a.LoadBalancer.Idle = d })},

		{"target_groups", setGroups},
		{"split", split(func(a *App, s weir.Split) { a.LoadBalancer.Policy.Split = s })},
		{"routes", setRoutes},
		{"request_headers", headers(func(a *App) (*map[string]string, *[]string) {
			h := &a.LoadBalancer.Policy.Handling.Headers
			return &h.SetRequest, &h.RemoveRequest
		})},
		{"response_headers", headers(func(a *App) (*map[string]string, *[]string) {
			h := &a.LoadBalancer.Policy.Handling.Headers
			return &h.SetResponse, &h.RemoveResponse
		})},
		{"compression", flag(func(a *App, on bool) { a.LoadBalancer.Policy.Handling.Compress = on })},
		{"error_pages", setPages},
		{"maintenance", setMaintenance},
		{"rate_limit", setRate},
		{"connection_limit", whole("", func(a *App, n int) { a.LoadBalancer.Policy.Handling.Connections = n })},
		{"basic_auth", setLogin},
		{"client_certificates", setClientCertificates},
		{"slow_start_seconds", seconds(func(a *App, d time.Duration) { a.LoadBalancer.Policy.SlowStart = d })},
		{"drain_seconds", positive("of seconds, from 1 to 3600", func(a *App, n int) { a.LoadBalancer.Policy.Drain = time.Duration(n) * time.Second })},
	}
}

func accessLogKeys() []key {
	return []key{
		{"file", flag(func(a *App, on bool) { a.LoadBalancer.Policy.Log.File = on })},
		{"syslog", text(func(a *App, s string) { a.LoadBalancer.Policy.Log.Syslog = s })},
		{"sample", positive(fmt.Sprintf("from 1 to %d", weir.MaxSample), func(a *App, n int) { a.LoadBalancer.Policy.Log.Sample = n })},
	}
}

func stickyKeys() []key {
	return []key{
		{"cookie_name", text(func(a *App, s string) { a.LoadBalancer.Sticky.Cookie = s })},
		{"cookie_ttl_seconds", seconds(func(a *App, d time.Duration) { a.LoadBalancer.Sticky.TTL = d })},
	}
}

func clientKeys() []key {
	return []key{
		{"allow", texts(func(a *App, s []string) { a.LoadBalancer.Clients.Allow = s })},
		{"deny", texts(func(a *App, s []string) { a.LoadBalancer.Clients.Deny = s })},
	}
}

// checkKeys returns the keys of a health check, which of gives.
func checkKeys(of func(*App) *weir.HealthCheck) []key {
	return []key{
		{"protocol", text(func(a *App, s string) {
			h := of(a)
			h.Protocol = weir.Protocol(s)
			if h.Protocol == weir.TCP {
				h.Path = ""
			} else if h.Path == "" {
				h.Path = "/"
			}
		})},
		{"port", whole("from 1 to 65535", func(a *App, n int) { of(a).Port = n })},
		{"path", func(a *App, v value) error {
			if of(a).Protocol == weir.TCP {
				return v.errorf("path is only for a health_check with protocol http or https")
			}
			return text(func(a *App, s string) { of(a).Path = s })(a, v)
		}},
		{"check_interval_seconds", seconds(func(a *App, d time.Duration) { of(a).Interval = d })},
		{"response_timeout_seconds", seconds(func(a *App, d time.Duration) { of(a).Timeout = d })},
		{"unhealthy_threshold", whole("", func(a *App, n int) { of(a).Unhealthy = n })},
		{"healthy_threshold", whole("", func(a *App, n int) { of(a).Healthy = n })},
		{"proxy_protocol", flag(func(a *App, on bool) { of(a).Proxy = on })},
	}
}

// ruleKeys returns the keys of the rule that was appended last; targeted is whether it has a target_port, which is the
// entry_port otherwise.
func ruleKeys(targeted bool) []key {
	last := func(a *App) *weir.Rule { return &a.LoadBalancer.Rules[len(a.LoadBalancer.Rules)-1] }
	return []key{
		// Who says one of these two means HTTPS, unless entry_protocol says http2.
		{"certificate_id", text(func(a *App, s string) { last(a).Entry, last(a).Certificate = weir.HTTPS, weir.ID(s) })},
		{"tls_passthrough", flag(func(a *App, on bool) {
			if last(a).Passthrough = on; on {
				last(a).Entry, last(a).Target = weir.HTTPS, weir.HTTPS
			}
		})},
		{"entry_protocol", text(func(a *App, s string) {
			if last(a).Entry = weir.Protocol(s); last(a).Certificate == "" {
				last(a).Target = weir.Protocol(s)
			}
		})},
		{"target_protocol", text(func(a *App, s string) { last(a).Target = weir.Protocol(s) })},
		{"target_port", whole("from 1 to 65535", func(a *App, n int) { last(a).TargetPort = n })},
		{"entry_port", whole("from 1 to 65535", func(a *App, n int) {
			if last(a).EntryPort = n; !targeted {
				last(a).TargetPort = n
			}
		})},
	}
}

func text(set func(a *App, s string)) func(*App, value) error {
	return func(a *App, v value) error {
		s, err := v.text()
		if err != nil {
			return err
		}
		set(a, s)
		return nil
	}
}

func flag(set func(a *App, on bool)) func(*App, value) error {
	return func(a *App, v value) error {
		on, err := v.flag()
		if err != nil {
			return err
		}
		set(a, on)
		return nil
	}
}

func texts(set func(a *App, s []string)) func(*App, value) error {
	return func(a *App, v value) error {
		list, err := v.list("a list of texts")
		if err != nil {
			return err
		}
		var all []string
		for _, v := range list {
			s, err := v.text()
			if err != nil {
				return err
			}
			all = append(all, s)
		}
		set(a, all)
		return nil
	}
}

func whole(limits string, set func(a *App, n int)) func(*App, value) error {
	return func(a *App, v value) error {
		n, err := v.whole(strings.TrimSpace("a whole number " + limits))
		if err != nil {
			return err
		}
		set(a, n)
		return nil
	}
}

func seconds(set func(a *App, d time.Duration)) func(*App, value) error {
	return whole("of seconds", func(a *App, n int) { set(a, time.Duration(n)*time.Second) })
}

func setName(a *App, v value) error {
	name, err := v.text()
	if err != nil {
		return err
	}
	// The machines' tag is the name, and a tag has no dots.
	if weir.CheckName(name) != nil || weir.CheckTag(name) != nil {
		return v.errorf("name is %.80q, want letters, digits and -, beginning and ending with a letter or digit", name)
	}
	*a = *named(name)
	return nil
}

func setRegion(a *App, v value) error {
	region, err := v.text()
	if err != nil {
		return err
	}
	a.region = v.at()
	a.Pool.Template.Region = region
	a.LoadBalancer.Region = region
	return nil
}

func setPrefix(a *App, v value) error {
	prefix, err := v.text()
	if err != nil {
		return err
	}
	a.Pool.Prefix = prefix
	return nil
}

func setUserData(a *App, v value) error {
	file, err := v.text()
	if err != nil {
		return err
	}
	if strings.Contains(file, "\n") {
		return v.errorf("user_data has several lines, want the name of a file")
	}
	data, err := v.file.open(file, weir.MaxUserData)
	if err != nil {
		return v.errorf("user_data %s: %w", file, err)
	}
	if bytes.HasPrefix(data, []byte("\x1f\x8b")) {
		return v.errorf("user_data %s: it is gzipped, which does not survive JSON: want it plain", file)
	}
	a.Pool.Template.UserData = string(data)
	return nil
}

// maxKeys is how large a file of public keys may be, in bytes.
const maxKeys = 64 << 10

func setKeys(a *App, v value) error {
	list, err := v.list("a list of files or public keys")
	if err != nil {
		return err
	}
	for _, v := range list {
		key, err := v.text()
		if err != nil {
			return err
		}
		lines := []string{key}
		if len(strings.Fields(key)) < 2 { // a public key has at least a type and itself
			data, err := v.file.open(key, maxKeys)
			if err != nil {
				return v.errorf("ssh_keys: %s: %w", key, err)
			}
			lines = strings.Split(string(data), "\n")
		}
		for _, line := range lines {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "-----BEGIN") {
				return v.errorf("ssh_keys: %.80s is a private key, want the public one, as in a file whose name ends in .pub", key)
			}
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			a.Pool.Template.SSHKeys = append(a.Pool.Template.SSHKeys, line)
		}
		if err := a.check(); err != nil {
			return v.errorf("ssh_keys: %w", err)
		}
	}
	return nil
}

func setTags(a *App, v value) error {
	list, err := v.list("a list of tags")
	if err != nil {
		return err
	}
	tags := &a.Pool.Template.Tags
	for _, v := range list {
		tag, err := v.text()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(*tags, func(t string) bool { return strings.EqualFold(t, tag) }) {
			continue
		}
		*tags = append(*tags, tag)
		if err := a.check(); err != nil {
			return v.errorf("%w", err)
		}
	}
	return nil
}

// machineKeys are about machines that Weir makes, and there are none where servers are
// given by address.
var machineKeys = []string{"size", "image", "hostname_prefix", "count", "sizes", "rolling", "replace_unhealthy", "exporter", "user_data", "ssh_keys", "tags"}

func setServers(a *App, v value) error {
	list, err := v.list("a list of addresses")
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return v.errorf("servers is empty, want addresses such as 192.0.2.21")
	}
	a.LoadBalancer.Tag = ""
	for _, v := range list {
		text, err := v.text()
		if err != nil {
			return err
		}
		server, err := netip.ParseAddr(text)
		if err != nil {
			return v.errorf("servers has %.60q, want addresses such as 192.0.2.21", text)
		}
		a.LoadBalancer.Servers = append(a.LoadBalancer.Servers, server)
		if err := a.check(); err != nil {
			return v.errorf("%w", err)
		}
	}
	return nil
}

func setAddress(a *App, v value) error {
	text, err := v.text()
	if err != nil {
		return err
	}
	addr, err := netip.ParsePrefix(text)
	if err != nil {
		return v.errorf("address is %.60q, want one with the length of its network's prefix, such as 192.0.2.10/24", text)
	}
	a.LoadBalancer.Mode, a.LoadBalancer.Addr = weir.OnSegment, addr
	return nil
}

func setNetwork(a *App, v value) error {
	text, err := v.text()
	if err != nil {
		return err
	}
	a.LoadBalancer.Internal = strings.EqualFold(text, "internal")
	if !a.LoadBalancer.Internal && !strings.EqualFold(text, "external") {
		return v.errorf("network is %.40q, want internal or external", text)
	}
	return nil
}

func setRules(a *App, v value) error {
	list, err := v.list("a list of rules")
	if err != nil {
		return err
	}
	a.LoadBalancer.Rules = nil
	for _, v := range list {
		port := a.sparePort()
		a.LoadBalancer.Rules = append(a.LoadBalancer.Rules,
			weir.Rule{Entry: weir.HTTP, EntryPort: port, Target: weir.HTTP, TargetPort: port})
		if err := v.mapping(a, ruleKeys(v.has("target_port"))); err != nil {
			return err
		}
		if !v.has("entry_port") {
			return v.errorf("a forwarding rule has no entry_port, want 1 to 65535")
		}
	}
	if len(list) > 0 {
		first, health := a.LoadBalancer.Rules[0], &a.LoadBalancer.Health
		health.Protocol, health.Port = first.Target, first.TargetPort
		if first.Target == weir.HTTP2 {
			health.Protocol = weir.HTTPS
		}
		if first.Target == weir.TCP {
			health.Path = ""
		}
	}
	return nil
}

// sparePort returns a port that no rule has, for a rule whose own is not known yet.
func (a *App) sparePort() int {
	port := 1
	for slices.ContainsFunc(a.LoadBalancer.Rules, func(r weir.Rule) bool { return r.EntryPort == port }) {
		port++
	}
	return port
}
