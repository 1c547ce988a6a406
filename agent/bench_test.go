package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"weir/weir"
)

func bigConfig(n int) weir.NodeConfig {
	cfg := newConfig(1)
	cfg.Proxy.Backends[0].Servers = nil
	for i := range n {
		cfg.Proxy.Backends[0].Servers = append(cfg.Proxy.Backends[0].Servers, weir.Server{ID: weir.ID(fmt.Sprint(100000 + i)), Name: fmt.Sprintf("web-%d", i),
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i / 250), byte(i%250 + 1)}), 8080), Weight: 1})
	}
	return cfg
}

func BenchmarkStage(b *testing.B) {
	d, err := openDisk(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	cfg := bigConfig(1000)
	data, _ := json.Marshal(cfg)
	for b.Loop() {
		if err := d.stage(document{cfg, data}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKeep(b *testing.B) {
	d, err := openDisk(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	cfg := bigConfig(1000)
	data, _ := json.Marshal(cfg)
	for b.Loop() {
		if err := d.stage(document{cfg, data}); err != nil {
			b.Fatal(err)
		}
		if err := d.keep(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	cfg := bigConfig(1000)
	data, _ := json.Marshal(cfg)
	b.ReportMetric(float64(len(data)), "bytes")
	for b.Loop() {
		var c weir.NodeConfig
		if err := json.Unmarshal(data, &c); err != nil {
			b.Fatal(err)
		}
	}
}
