package control

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weir/weir"
)

// The ports of the web.
const (
	httpPort  = 80
	httpsPort = 443
)

// redirects returns the port of HTTPS that requests by HTTP are redirected to, 0 if they are not: the usual one, if a rule
// has it, or else the first that one has.
func redirects(lb *weir.LoadBalancer) (port int) {
	for _, r := range lb.Rules {
		if lb.Redirect && r.Entry.Secure() && (port == 0 || r.EntryPort == httpsPort) {
			port = r.EntryPort
		}
	}
	return port
}

// entryPorts returns the ports that instances of lb take requests at: those of its rules, and the usual one of HTTP
// where that is redirected, or an authority asks at it.
func entryPorts(lb *weir.LoadBalancer) (ports []int) {
	for _, r := range lb.Rules {
		if !slices.Contains(ports, r.EntryPort) {
			ports = append(ports, r.EntryPort)
		}
	}
	if (redirects(lb) != 0 || lb.ACME) && !slices.Contains(ports, httpPort) {
		ports = append(ports, httpPort)
	}
	return ports
}

// clientsOf returns the addresses that rules of Clients mean, which Check has found to be some.
func clientsOf(texts []string) (all []netip.Prefix) {
	for _, text := range texts {
		if p, err := weir.ParseClients(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// cookieKey returns what the cookies of lb are made from: the same on all instances, and nobody else's.
func cookieKey(lb *weir.LoadBalancer) string {
	mac := hmac.New(sha256.New, lb.Key)
	mac.Write([]byte("cookies"))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// proxy returns what HAProxy should do on an instance of the load balancer that listens at those addresses, of which the
// first is that of IPv4 if it has both.
func (v *balancerView) proxy(drain time.Duration, at ...netip.Addr) weir.Proxy {
	lb := &v.lb
	p := weir.Proxy{LoadBalancer: lb.ID, Name: lb.Name, Drain: cmp.Or(lb.Policy.Drain, drain), Drains: lb.Policy.Drained, Reload: lb.Reload, Health: true, Log: lb.Policy.Log,
		Clients: clientsOf(lb.Clients.Allow), Denied: clientsOf(lb.Clients.Deny), Handling: lb.Policy.Handling, Snippets: v.snippets}
	var fronts []weir.Frontend // as they are at each address
	front := func(name weir.Protocol, port int) weir.Frontend {
		return weir.Frontend{Name: fmt.Sprintf("%s-%d", name, port), Bind: netip.AddrPortFrom(at[0], uint16(port)), Mode: weir.HTTP, Idle: lb.Idle}
	}
	redirect := redirects(lb)
	for _, r := range lb.Rules {
		f := front(r.Entry, r.EntryPort)
		f.Mode = r.Mode()
		if r.Entry == weir.HTTP && redirect != 0 {
			f.Redirect = redirect
			fronts = append(fronts, f)
			continue
		}
		if r.Certificate != "" {
			ref := weir.CertificateRef{ID: r.Certificate, Fingerprint: v.certs[r.Certificate].Fingerprint}
			if i := slices.IndexFunc(fronts, func(there weir.Frontend) bool { return there.Name == f.Name }); i >= 0 {
				fronts[i].TLS.Certificates = append(fronts[i].TLS.Certificates, ref)
				continue
			}
			f.TLS = &weir.TLS{Certificates: []weir.CertificateRef{ref}, H2: r.Entry == weir.HTTP2, Strong: lb.Ciphers == weir.StrongCiphers}
		}
		f.Backend = v.addBackend(&p, r, nil)
		if f.Mode == weir.HTTP {
			for _, route := range lb.Policy.Routes {
				fr := weir.FrontRoute{Route: route}
				if route.Redirect == nil {
					fr.Backend = v.addBackend(&p, r, lb.Policy.Group(route.Group))
				}
				f.Routes = append(f.Routes, fr)
			}
		}
		fronts = append(fronts, f)
	}
	if (redirect != 0 || lb.ACME) && !slices.ContainsFunc(lb.Rules, func(r weir.Rule) bool { return r.EntryPort == httpPort }) {
		f := front(weir.HTTP, httpPort)
		f.Redirect = redirect
		fronts = append(fronts, f)
	}
	for _, f := range fronts {
		p.Frontends = append(p.Frontends, f)
		for _, addr := range at[1:] {
			f.Name, f.Bind = f.Name+"-ipv6", netip.AddrPortFrom(addr, f.Bind.Port())
			p.Frontends = append(p.Frontends, f)
		}
	}
	if slices.ContainsFunc(p.Frontends, func(f weir.Frontend) bool { return f.Mode == weir.HTTP && f.TLS == nil }) {
		p.Thumbprint = v.account.Thumbprint
	}
	v.challenge(&p)
	return p
}
