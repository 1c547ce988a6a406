package control

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/cloud"
	"weir/secrets"
	"weir/store"
	"weir/weir"
)

func TestRulesBecomeFrontendsAndBackends(t *testing.T) {
	v := balancerView{lb: balancer(), machines: []weir.Machine{server(1)}, certs: map[weir.ID]weir.Certificate{"a": {Fingerprint: "fa"}, "b": {Fingerprint: "fb"}}}
	v.lb.Key = []byte("key")
	v.lb.Sticky, v.lb.Proxy, v.lb.KeepAlive, v.lb.Ciphers = weir.DefaultSticky(), true, true, weir.StrongCiphers
	v.lb.Clients = weir.Clients{Allow: []string{"ip:192.0.2.1", "cidr:198.51.100.7/24"}, Deny: []string{"ip:2001:db8::1"}}
	https := func(port int, entry, target weir.Protocol, cert weir.ID) weir.Rule {
		return weir.Rule{Entry: entry, EntryPort: port, Target: target, TargetPort: 8080, Certificate: cert}
	}
	said := func() (fronts, backs []string) {
		p := v.proxy(time.Minute, netip.MustParseAddr("10.17.0.9"))
		for _, f := range p.Frontends {
			words := fmt.Sprintf("%s %s %s to %q", f.Name, f.Bind, f.Mode, f.Backend)
			if f.TLS != nil {
				words += fmt.Sprintf(" by %v h2 %v strong %v", f.TLS.Certificates, f.TLS.H2, f.TLS.Strong)
			}
			if f.Redirect != 0 {
				words += fmt.Sprintf(" redirected to %d", f.Redirect)
			}
			fronts = append(fronts, words)
		}
		for _, b := range p.Backends {
			backs = append(backs, fmt.Sprintf("%s %s secure %q sticky %v proxy %v shared %v", b.Name, b.Mode, b.Secure, b.Sticky != nil && b.Key != "", b.Proxy, b.Shared))
		}
		return fronts, backs
	}
	v.lb.Rules = []weir.Rule{
		{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 8080},
		https(443, weir.HTTP2, weir.HTTP, "a"), https(443, weir.HTTP2, weir.HTTP, "b"),
		https(8443, weir.HTTPS, weir.HTTP2, "b"),
		{Entry: weir.HTTPS, EntryPort: 9443, Target: weir.HTTPS, TargetPort: 443, Passthrough: true},
	}
	fronts, backs := said()
	want := []string{
		`http-80 10.17.0.9:80 http to "servers-http-8080"`,
		`http2-443 10.17.0.9:443 http to "servers-http-8080" by [{a fa} {b fb}] h2 true strong true`,
		`https-8443 10.17.0.9:8443 http to "servers-http2-8080" by [{b fb}] h2 false strong true`,
		`https-9443 10.17.0.9:9443 tcp to "servers-tcp-443"`,
	}
	if !slices.Equal(fronts, want) {
		t.Errorf("frontends\n%s\nwant\n%s", strings.Join(fronts, "\n"), strings.Join(want, "\n"))
	}
	want = []string{
		`servers-http-8080 http secure "" sticky true proxy true shared true`,
		`servers-http2-8080 http secure "http2" sticky true proxy true shared true`,
		`servers-tcp-443 tcp secure "" sticky false proxy true shared false`,
	}
	if !slices.Equal(backs, want) {
		t.Errorf("backends\n%s\nwant\n%s", strings.Join(backs, "\n"), strings.Join(want, "\n"))
	}
	p := v.proxy(time.Minute, netip.MustParseAddr("10.17.0.9"))
	if got := fmt.Sprint(p.Clients, p.Denied); got != "[192.0.2.1/32 198.51.100.0/24] [2001:db8::1/128]" {
		t.Errorf("clients %s, want those of the firewall", got)
	}

	v.lb.Redirect = true
	if fronts, _ := said(); fronts[0] != `http-80 10.17.0.9:80 http to "" redirected to 443` || len(fronts) != 4 {
		t.Errorf("frontends %q, want HTTP redirected to the usual port", fronts)
	}
	v.lb.Rules = []weir.Rule{https(8443, weir.HTTPS, weir.HTTP, "a")}
	if fronts, _ := said(); len(fronts) != 2 || fronts[1] != `http-80 10.17.0.9:80 http to "" redirected to 8443` {
		t.Errorf("frontends %q, want the usual port of HTTP redirected too", fronts)
	}
	if got := entryPorts(&v.lb); !slices.Equal(got, []int{8443, 80}) {
		t.Errorf("instances are open at %v, want 8443 and 80", got)
	}
}

func TestNodesGetTheKeysThatTheyNeedAndNoRowHasThem(t *testing.T) {
	c, ctx := newKeeper(t, secrets.NewKey()), t.Context()
	block := func(kind, text string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(text)}))
	}
	leaf, chain, key := block("CERTIFICATE", "leaf"), block("CERTIFICATE", "chain"), block("PRIVATE KEY", "the private key")
	// A text that users have written around the key is no part of what HAProxy gets.
	cert, err := c.AddCertificate(ctx, weir.Certificate{Name: "shop", Leaf: leaf, Chain: chain}, []byte("my key:\n\n"+block("EC PARAMETERS", "curve")+"\n"+key))
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.AddCertificate(ctx, weir.Certificate{Name: "other"}, []byte("another's"))
	if err != nil {
		t.Fatal(err)
	}
	config := weir.NodeConfig{Node: "100001", Proxy: weir.Proxy{Frontends: []weir.Frontend{{TLS: &weir.TLS{Certificates: []weir.CertificateRef{{ID: cert.ID}, {ID: "gone"}}}}}}}
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		nodeConfigs.Put(tx, config.Node, config)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.withKeys(ctx, config)
	if err != nil || len(got.Proxy.PEM) != 1 || got.Proxy.PEM[cert.ID] != leaf+chain+key {
		t.Errorf("the node gets %q (%v), want the one certificate with its chain and key, and not that of %s", got.Proxy.PEM, err, other.ID)
	}
	if row, err := nodeConfigs.Get(ctx, c.Store, config.Node); err != nil || row.Proxy.PEM != nil {
		t.Errorf("the row has %v (%v), want no key", row.Proxy.PEM, err)
	}
	// A member with another key says so, and the node asks another one.
	if c.Secrets, err = secrets.New(secrets.NewKey()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.withKeys(ctx, config); err == nil || !strings.Contains(err.Error(), "certificate shop") {
		t.Errorf("without the key: error %v, want one that names the certificate", err)
	}
}

// A load balancer goes, though its certificate was deleted at the same time.
func TestLoadBalancerGoesAfterItsCertificate(t *testing.T) {
	for name, at := range map[string]time.Duration{"while it goes": time.Second, "before anybody has looked": 0} {
		t.Run(name, func(t *testing.T) {
			slow := func(_ context.Context, call string) (before, after error) {
				if strings.HasPrefix(call, "delete machine") {
					time.Sleep(2 * time.Second)
				}
				return nil, nil
			}
			inLab(t, cloud.FakeOptions{Fault: slow}, func(t *testing.T, c *Control) {
				cert := weir.Certificate{ID: "cert", Name: "shop"}
				if err := c.Store.Update(t.Context(), func(tx *store.Tx) error { certificates.Put(tx, cert.ID, cert); return nil }); err != nil {
					t.Fatal(err)
				}
				lb := balancer()
				lb.Name, lb.Region = "shop", "lab"
				lb.Rules = []weir.Rule{{Entry: weir.HTTPS, EntryPort: 443, Target: weir.HTTP, TargetPort: 80, Certificate: cert.ID}}
				lb = must(c.CreateLoadBalancer(t.Context(), lb))(t)
				time.Sleep(30 * time.Second)
				if err := c.DeleteLoadBalancer(t.Context(), lb.ID); err != nil {
					t.Fatal(err)
				}
				time.Sleep(at)
				if err := c.DeleteCertificate(t.Context(), cert.ID); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				left, all, ips := must(loadBalancers.All(t.Context(), c.Store))(t), must(machines.All(t.Context(), c.Store))(t), must(addresses.All(t.Context(), c.Store))(t)
				if len(left)+len(all)+len(ips) > 0 {
					t.Errorf("a minute after there are %d load balancers, %d machines and %d addresses, want none", len(left), len(all), len(ips))
				}
			})
		})
	}
}

func TestTheOrderOfRulesMattersWhereTheyShareAPort(t *testing.T) {
	web, shop, tea := weir.Rule{EntryPort: 80}, weir.Rule{EntryPort: 443, Certificate: "shop"}, weir.Rule{EntryPort: 443, Certificate: "tea"}
	was := []weir.Rule{web, shop, tea}
	for _, c := range []struct{ is, want []weir.Rule }{
		{[]weir.Rule{shop, web, tea}, was},
		{[]weir.Rule{web, tea, shop}, []weir.Rule{web, tea, shop}},
		{[]weir.Rule{shop, tea}, []weir.Rule{shop, tea}},
	} {
		if got := sameRules(was, c.is); !slices.Equal(got, c.want) {
			t.Errorf("%v after %v: %v, want %v", c.is, was, got, c.want)
		}
	}
}
