package haproxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

// withChallenges returns d with certificates, each of which is given by its text, for who asks by TLS-ALPN-01.
func withChallenges(d weir.Proxy, texts ...string) weir.Proxy {
	pem := map[weir.ID]string{}
	for id, text := range d.PEM {
		pem[id] = text
	}
	d.PEM, d.Challenges = pem, nil
	for i, text := range texts {
		id := weir.ID(fmt.Sprintf("challenge-%d", i))
		d.Challenges = append(d.Challenges, weir.CertificateRef{ID: id, Fingerprint: text[30:60]})
		d.PEM[id] = text
	}
	return d
}

func TestAnAuthorityIsShownChallengesWhileAllOthersAreServed(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	quiet := withTLS(testDocument(front, a.server()), certificate(t, 1, "shop.example"))
	quiet.Frontends[0].TLS.Challenged = true
	quiet.Denied = []netip.Prefix{netip.MustParsePrefix("127.5.0.0/16")}
	quiet.Clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	asking := withChallenges(quiet, certificate(t, 71, "shop.example"), certificate(t, 72, "www.shop.example"))
	set(t, p, quiet)
	waitState(t, p, weir.ServerUp, a.server())
	dial := func(c *tls.Config, from string) (*tls.Conn, error) {
		c.InsecureSkipVerify = true
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}, Config: c}
		conn, err := d.Dial("tcp", front.String())
		if err != nil {
			return nil, err
		}
		return conn.(*tls.Conn), nil
	}
	shown := func(name string, protocols ...string) string {
		t.Helper()
		c, err := dial(&tls.Config{ServerName: name, NextProtos: protocols}, "127.0.0.1")
		if err != nil {
			return "none"
		}
		defer c.Close()
		s := c.ConnectionState()
		return fmt.Sprintf("%d by %s", s.PeerCertificates[0].SerialNumber, s.NegotiatedProtocol)
	}
	want := fmt.Sprintf("127.8.0.1 https %d", front.Port())
	served, stop := startLoadBy(t, func() (net.Conn, error) {
		c, err := dial(&tls.Config{ServerName: "shop.example", NextProtos: []string{"http/1.1"}}, "127.8.0.1")
		if err != nil {
			return nil, err // and no interface that is none
		}
		if n := c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); n != 1 {
			return nil, fmt.Errorf("certificate %d is shown, want 1", n)
		}
		return c, nil
	}, 6, want)
	const orders = 5
	for range orders {
		set(t, p, asking)
		for _, c := range []struct {
			name      string
			protocols []string
			want      string
		}{
			{"shop.example", []string{"acme-tls/1"}, "71 by acme-tls/1"},
			{"www.shop.example", []string{"acme-tls/1"}, "72 by acme-tls/1"},
			{"mail.example", []string{"acme-tls/1"}, "none"},
			{"", []string{"acme-tls/1"}, "none"},
			{"shop.example", []string{"h2", "acme-tls/1"}, "1 by h2"},
			{"shop.example", []string{"h2", "http/1.1"}, "1 by h2"},
			{"shop.example", []string{"http/1.1"}, "1 by http/1.1"},
			{"shop.example", nil, "1 by "},
			{"shop.example", []string{"acme-tls/10"}, "1 by "},
			{"shop.example", []string{"acme-tls"}, "1 by "},
			{"mail.example", []string{"h2"}, "1 by h2"},
		} {
			if got := shown(c.name, c.protocols...); got != c.want {
				t.Errorf("who asks for %q by %q is shown %s, want %s", c.name, c.protocols, got, c.want)
			}
		}
		resp, err := client(true).Get(fmt.Sprintf("https://%s/", front))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got, want := strings.TrimSpace(string(body)), fmt.Sprintf("127.0.0.1 https %d", front.Port()); resp.Proto != "HTTP/2.0" || got != want {
			t.Errorf("by %s the server is told %q, want by HTTP/2.0 %q", resp.Proto, got, want)
		}
		if c, err := dial(&tls.Config{}, "127.5.0.1"); err == nil {
			c.Close()
			t.Error("who is denied is let in while an authority asks")
		}
		// Who has not said yet what it wants is served by what comes after.
		slow, err := net.Dial("tcp", front.String())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // it is accepted
		set(t, p, quiet)
		c := tls.Client(slow, &tls.Config{ServerName: "shop.example", InsecureSkipVerify: true})
		if _, _, err := askOn(c, bufio.NewReader(c), "/", ""); err != nil {
			t.Errorf("who connected before and spoke after: %v", err)
		}
		c.Close()
		if got := shown("shop.example", "acme-tls/1"); strings.HasPrefix(got, "71") {
			t.Errorf("with nobody asking %s is shown", got)
		}
		if c, err := dial(&tls.Config{}, "127.5.0.1"); err == nil {
			c.Close()
			t.Error("who is denied is let in")
		}
	}
	stop()
	served.check(t, 0)
	h, servers := status(t, p)
	if len(servers) != 1 || h.Reloads != 2*orders {
		t.Errorf("%d reloads and servers %v, want %d and one server", h.Reloads, servers, 2*orders)
	}
	for _, w := range h.Counts.Workers {
		for _, f := range w.Frontends {
			if f.Name != "https-443" {
				t.Errorf("frontend %s is counted, want those of the document alone", f.Name)
			}
		}
	}
	// Challenges of another order come without a reload, and leave no key behind.
	set(t, p, asking)
	set(t, p, withChallenges(quiet, certificate(t, 81, "mail.example"), certificate(t, 82, "www.shop.example")))
	if got := shown("mail.example", "acme-tls/1") + ", " + shown("www.shop.example", "acme-tls/1"); got != "81 by acme-tls/1, 82 by acme-tls/1" {
		t.Errorf("after another order's challenges have come %s are shown, want 81 and 82", got)
	}
	if h, _ := status(t, p); h.Reloads != 2*orders+1 {
		t.Errorf("%d reloads, want %d", h.Reloads, 2*orders+1)
	}
	// A HAProxy that dies meanwhile comes back with all of it.
	if err := unix.Kill(masterOf(t, p), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if got := shown("mail.example", "acme-tls/1") + ", " + shown("shop.example", "h2"); got != "81 by acme-tls/1, 1 by h2" {
			return fmt.Sprintf("after its death %s are shown, want 81 and 1", got)
		}
		return ""
	})
	set(t, p, quiet)
	entries, err := os.ReadDir(p.path(certsDir))
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), own) }) {
		t.Errorf("there is %v (%v), want no key of a challenge left", entries, err)
	}
}

func TestChallengesWithoutWhatTheyTakeAreRefused(t *testing.T) {
	d := withTLS(testDocument(addr("10.10.0.2:443")), certificate(t, 1, "shop.example"))
	d.Frontends[0].TLS.Challenged = true
	twice := d
	twice.Frontends = append(slices.Clone(d.Frontends), d.Frontends[0])
	twice.Frontends[1].Name, twice.Frontends[1].Bind = "other", addr("10.10.0.3:443")
	named := d
	named.Frontends = slices.Clone(d.Frontends)
	named.Frontends[0].Name = "weir-hello-x"
	p := New(Options{Dir: t.TempDir()})
	bare := withChallenges(d, certificate(t, 2, "shop.example"))
	delete(bare.PEM, "challenge-0")
	for want, bad := range map[string]weir.Proxy{
		"configuration 7: the certificate of challenge challenge-0 is missing":                                      bare,
		"configuration 7: frontends https-443 and other both answer challenges, want one for IPv4 and one for IPv6": twice,
		"configuration 7: frontend weir-hello-x: names that begin with weir- are HAProxy's own":                     named,
	} {
		if err := p.Set(t.Context(), 7, bad); weir.KindOf(err) != weir.Invalid || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestAnAuthorityIsShownChallengesByIPv6Too(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var f farm
	a := f.start(t)
	front := freeAddr(t)
	six := netip.AddrPortFrom(netip.IPv6Loopback(), front.Port())
	d := withTLS(testDocument(front, a.server()), certificate(t, 1, "shop.example"))
	d.Frontends[0].TLS.Challenged = true
	d.Frontends = append(d.Frontends, d.Frontends[0])
	d.Frontends[1].Name, d.Frontends[1].Bind = "https-443-ipv6", six
	for _, d := range []weir.Proxy{d, withChallenges(d, certificate(t, 71, "shop.example")), d} {
		set(t, p, d)
		waitState(t, p, weir.ServerUp, a.server())
		for at, client := range map[netip.AddrPort]string{front: "127.0.0.1", six: "::1"} {
			s, err := shake(at, &tls.Config{ServerName: "shop.example", NextProtos: []string{"acme-tls/1"}})
			if got := err == nil && s.NegotiatedProtocol == "acme-tls/1"; got != (len(d.Challenges) > 0) {
				t.Errorf("with %d challenges one is shown at %s: %v (%v)", len(d.Challenges), at, got, err)
			}
			c, err := tls.Dial("tcp", at.String(), &tls.Config{ServerName: "shop.example", InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			_, body, err := askOn(c, bufio.NewReader(c), "/", "")
			if want := fmt.Sprintf("%s https %d", client, front.Port()); err != nil || strings.TrimSpace(body) != want {
				t.Errorf("with %d challenges the server is told %q (%v), want %q", len(d.Challenges), body, err, want)
			}
			c.Close()
		}
	}
}
