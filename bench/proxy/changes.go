package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"weir/haproxy"
	"weir/weir"
)

// How much one node is given.
const (
	manyRules, manyCerts, manyServers = 500, 1000, 10_000
)

// changes measures what a node with many rules and certificates takes to apply a change, and its memory.
func changes(ctx context.Context, dir string) error {
	d := weir.Proxy{LoadBalancer: "bench", Name: "bench", Drain: time.Second, PEM: map[weir.ID]string{}, Backends: document(0, nil).Backends}
	at := netip.AddrFrom4([4]byte{127, 22, 0, 1})
	for i := range manyRules {
		f := weir.Frontend{Name: "https-" + strconv.Itoa(20000+i), Bind: netip.AddrPortFrom(at, uint16(20000+i)), Mode: weir.HTTP, Idle: weir.DefaultIdle, Backend: "servers", TLS: &weir.TLS{H2: true}}
		for n := range manyCerts / manyRules {
			id := weir.ID(fmt.Sprintf("%d-%d", i, n))
			text, err := certificate(fmt.Sprintf("host-%s.example", id))
			if err != nil {
				return err
			}
			d.PEM[id] = string(text)
			f.TLS.Certificates = append(f.TLS.Certificates, weir.CertificateRef{ID: id})
		}
		d.Frontends = append(d.Frontends, f)
	}
	p, stop := runProxy(ctx, filepath.Join(dir, "many"))
	defer stop()
	fmt.Printf("\na node with %d rules and %d certificates\n", manyRules, manyCerts)
	timed := func(what string, do func() error) error {
		began := time.Now()
		if err := do(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		fmt.Printf("  %-46s %7.1f ms\n", what, time.Since(began).Seconds()*1000)
		return nil
	}
	revision := int64(0)
	set := func() error { revision++; return p.Set(ctx, revision, d) }
	if err := timed("from nothing", set); err != nil {
		return err
	}
	for range 5 {
		text, err := certificate("host-0-0.example")
		if err != nil {
			return err
		}
		pem := map[weir.ID]string{}
		for id, text := range d.PEM {
			pem[id] = text
		}
		pem["0-0"] = string(text)
		d.PEM = pem
		if err := timed("one certificate in another's place, no reload", set); err != nil {
			return err
		}
	}
	for i := range 5 {
		d.Frontends[0].Idle = weir.DefaultIdle + time.Duration(i+1)*time.Second
		if err := timed("one rule changed, by a reload", set); err != nil {
			return err
		}
	}
	s, _, err := p.Status(ctx)
	if err != nil {
		return err
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID)); err == nil {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				fmt.Printf("  %-46s %s\n", "resident memory of the worker", strings.Join(strings.Fields(rest), " "))
			}
		}
	}

	big := document(0, nil)
	for i := range manyServers {
		big.Backends[0].Servers = append(big.Backends[0].Servers, weir.Server{ID: weir.ID(strconv.Itoa(1000 + i)), Name: fmt.Sprintf("app-%d", i),
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80), Weight: 1})
	}
	fmt.Println()
	for range 5 {
		if err := timed(fmt.Sprintf("rendering %d servers", manyServers), func() error {
			haproxy.Render(haproxy.Version{Major: 2, Minor: 6}, 1, big, haproxy.Host{})
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
