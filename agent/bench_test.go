package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"weir/weir"
)

// What a NodeConfig with 1,000 servers costs on its way to HAProxy: it is decoded and
// staged before Set is called, and kept afterwards.

func BenchmarkDecode(b *testing.B) {
	doc := bigDocument(b, 1000)
	for b.Loop() {
		var cfg weir.NodeConfig
		if err := json.Unmarshal(doc.text, &cfg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStage(b *testing.B) {
	d, doc := benchDisk(b), bigDocument(b, 1000)
	for b.Loop() {
		if err := d.stage(doc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStageAndKeep(b *testing.B) {
	d, doc := benchDisk(b), bigDocument(b, 1000)
	for b.Loop() {
		if err := d.stage(doc); err != nil {
			b.Fatal(err)
		}
		if err := d.keep(); err != nil {
			b.Fatal(err)
		}
	}
}

func benchDisk(b *testing.B) *disk {
	d, err := openDisk(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.close)
	return d
}

func bigDocument(b *testing.B, servers int) document {
	cfg := newConfig(1)
	backend := &cfg.Proxy.Backends[0]
	backend.Servers = nil
	for i := range servers {
		backend.Servers = append(backend.Servers, weir.Server{
			ID:     weir.ID(fmt.Sprint(100000 + i)),
			Name:   fmt.Sprintf("web-%d", i),
			Addr:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i / 250), byte(i%250 + 1)}), 8080),
			Weight: 1,
		})
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		b.Fatal(err)
	}
	return document{cfg, text}
}
