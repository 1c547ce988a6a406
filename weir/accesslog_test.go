package weir_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weir/weir"
)

func TestPercentileIsWithinTenPercent(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var d weir.Durations
		var all []time.Duration
		for range 1000 {
			took := time.Duration(r.ExpFloat64()*float64(1+r.IntN(3000))) * time.Millisecond
			all = append(all, took)
			d.Add(took)
		}
		slices.Sort(all)
		counts := make([]float64, len(d.Counts))
		for i, n := range d.Counts {
			counts[i] = float64(n)
		}
		for _, share := range []float64{0.5, 0.9, 0.95, 0.99} {
			want, got := all[int(share*1000)-1], weir.Percentile(counts, share)
			if diff := (got - want).Abs(); diff > want/10 {
				t.Errorf("the %v percentile is %s, want %s", share, got, want)
			}
		}
	}
	if got := weir.Percentile(nil, 0.5); got != 0 {
		t.Errorf("of nothing it is %s, want 0", got)
	}
	var d weir.Durations
	d.Add(100 * time.Hour)
	if len(d.Counts) != len(weir.DurationBounds) {
		t.Error("what takes for ever is not counted with the longest")
	}
}

func TestStatusesOfAFilter(t *testing.T) {
	for text, want := range map[string][2]int{"404": {404, 404}, "5xx": {500, 599}, "2XX": {200, 299}, ">=500": {500, 999}, "<=399": {100, 399}, "500-503": {500, 503}} {
		if from, to, err := weir.ParseStatuses(text); err != nil || from != want[0] || to != want[1] {
			t.Errorf("%s: %d to %d, %v, want %v", text, from, to, err, want)
		}
	}
	for _, text := range []string{"", "5", "xxx", "5x", ">=", ">=x", "500-", "-500", "503-500", "40 4", "+40", "099", "0xx", "5xxx"} {
		if _, _, err := weir.ParseStatuses(text); !errors.Is(err, weir.Invalid) {
			t.Errorf("%q: %v, want weir.Invalid", text, err)
		}
	}
}

func TestFilterMatches(t *testing.T) {
	line := weir.AccessLine{Method: "GET", Host: "Shop.example:8080", Path: "/api/users?x", Status: 502, Client: "192.0.2.7", Server: "17", ServerName: "web-1", Total: 500, RequestID: "r"}
	for _, f := range []weir.LogFilter{
		{}, {From: 500, To: 599}, {Method: "get"}, {Host: "shop.example"}, {Host: "shop.example:8080"}, {Path: "/api"}, {Server: "17"}, {Server: "web-1"},
		{Slower: 500 * time.Millisecond}, {RequestID: "r"}, {Client: netip.MustParsePrefix("192.0.2.0/24")}, {Client: netip.MustParsePrefix("192.0.2.7/32"), From: 502, To: 502},
	} {
		if !f.Match(&line) {
			t.Errorf("%s does not match", f.String())
		}
	}
	for _, f := range []weir.LogFilter{
		{From: 200, To: 299}, {Method: "POST"}, {Host: "shop"}, {Host: "shop.example:80"}, {Path: "/apis"}, {Server: "web"}, {Slower: 501 * time.Millisecond}, {RequestID: "R"},
		{Client: netip.MustParsePrefix("192.0.3.0/24")}, {Client: netip.MustParsePrefix("2001:db8::/32")}, {From: 502, To: 502, Method: "POST"},
	} {
		if f.Match(&line) {
			t.Errorf("%s matches", f.String())
		}
	}
}

func TestDestinationOfLines(t *testing.T) {
	for _, text := range []string{"udp://192.0.2.9:514", "tcp://logs.example:6514", "udp://[2001:db8::9]:514", "tcp://10.10.0.5:1"} {
		l := weir.AccessLog{Syslog: text}
		if err := l.Check(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"192.0.2.9:514", "udp://192.0.2.9", "udp://:514", "udp://x:0", "udp://x:65536", "tls://x:514", "udp://x:514/y", "udp://u@x:514", "udp://x:514?y", "udp://x y:514",
		"udp://127.0.0.1:514", "udp://localhost:514", "udp://[::1]:514", "udp://[::ffff:127.0.0.1]:514", "tcp://169.254.169.254:80", "udp://224.0.0.1:514", "udp://0.0.0.0:514", "udp://[fe80::1%25eth0]:514", "udp://x\n:514"} {
		l := weir.AccessLog{Syslog: text}
		if err := l.Check(); !errors.Is(err, weir.Invalid) {
			t.Errorf("%q: %v, want weir.Invalid", text, err)
		}
	}
}
