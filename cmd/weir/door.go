package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"weir/pki"
)

// door is where the API of weir serve is.
type door struct {
	listener net.Listener // speaks TLS unless it is on loopback
	url      string       // for those on this host
	caFile   string       // who its certificate is from; empty if it has none, or one of the user's
	address  string       // that knock dials
}

// door puts TLS around ln if it is to be there.
func (s *serve) door(plan servePlan, ca *pki.CA, ln net.Listener) (*door, error) {
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	host := at.Addr().Unmap()
	if host.IsUnspecified() {
		host = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // where one that listens everywhere is heard too
	}
	d := &door{listener: ln, address: netip.AddrPortFrom(host, at.Port()).String()}
	d.url = "http://" + d.address
	if !plan.tls {
		return d, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	name := host.String()
	if s.tlsCert != "" {
		pair := &pairFiles{certificate: s.tlsCert, key: s.tlsKey}
		cert, err := pair.get(nil)
		if err != nil {
			return nil, err
		}
		if len(cert.Leaf.DNSNames) > 0 {
			name = cert.Leaf.DNSNames[0]
		}
		conf.GetCertificate = pair.get
	} else {
		d.caFile = filepath.Join(s.data, "ca.pem")
		if err := writeAuthority(d.caFile, ca); err != nil {
			return nil, err
		}
		hosts := []string{plan.self.String(), "127.0.0.1", "::1", "localhost"}
		if host != plan.self && !host.IsLoopback() {
			hosts = append(hosts, host.String())
		}
		if own, err := os.Hostname(); err == nil {
			hosts = append(hosts, own)
		}
		conf.GetCertificate = ca.GetCertificate(hosts...)
	}
	d.listener = tls.NewListener(ln, conf)
	_, port, err := net.SplitHostPort(d.address)
	if err != nil {
		return nil, err
	}
	d.url = "https://" + net.JoinHostPort(name, port)
	return d, nil
}

// knock returns nil if the API answers.
func (d *door) knock(ctx context.Context) error {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, d.address)
		},
		// We want to know whether we answer, and know who we are.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/v2/weir/status", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusUnauthorized { // without a token
		return fmt.Errorf("the API answers with %s, want 401", resp.Status)
	}
	return nil
}

// pairFiles are a certificate and its key in files of the user's, who renews them: they
// are read again when they have changed.
type pairFiles struct {
	certificate, key string

	mu      sync.Mutex
	read    [2]time.Time // when the files that current is from were written
	current *tls.Certificate
}

// get is what tls.Config calls GetCertificate. Files that cannot be used change nothing: a
// certificate and its key are not replaced in one moment.
func (p *pairFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	written := [2]time.Time{modified(p.certificate), modified(p.key)}
	if p.current != nil && written == p.read {
		return p.current, nil
	}
	pair, err := tls.LoadX509KeyPair(p.certificate, p.key)
	switch {
	case err == nil:
		p.current, p.read = &pair, written
	case p.current == nil && errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w: they must be for the user that weir serve runs as to read", err)
	case p.current == nil:
		return nil, fmt.Errorf("--tls-cert %s, --tls-key %s: %w", p.certificate, p.key, err)
	}
	return p.current, nil
}

// modified returns when a file was written, or no time if it cannot be seen.
func modified(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
