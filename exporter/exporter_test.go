package exporter_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"weir/exporter"
)

// at returns where a server answers.
func at(s *httptest.Server) netip.AddrPort {
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// ask asks a server that answers so.
func ask(t *testing.T, answer http.HandlerFunc) (exporter.Reading, error) {
	s := httptest.NewServer(answer)
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return exporter.Ask(ctx, new(net.Dialer).DialContext, at(s), "/metrics")
}

func TestAnswerOfNodeExporterIsUnderstood(t *testing.T) {
	text, err := os.ReadFile("testdata/node_exporter.txt")
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	r, err := ask(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.URL.Path != "/metrics" || r.Header.Get("Accept") != "text/plain;version=0.0.4" {
			t.Errorf("asked %s %s for %q", r.Method, r.URL, r.Header.Get("Accept"))
		}
		w.Write(text)
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Taken.Before(before) {
		t.Errorf("taken at %v, want after %v", r.Taken, before)
	}
	r.Taken = time.Time{}
	for _, d := range []*time.Duration{&r.Up, &r.User, &r.System} {
		*d = d.Round(10 * time.Millisecond)
	}
	want := exporter.Reading{Up: 36000*time.Second + 500*time.Millisecond, CPUs: 2, User: 46735330 * time.Millisecond, System: 13114040 * time.Millisecond,
		Memory: exporter.Memory{Total: 25276510208, Available: 24609091584, Free: 17231360000, Cached: 7257149440}}
	if r != want {
		t.Errorf("it says\n\t%+v, want\n\t%+v", r, want)
	}
}

// least is an answer with no more than has to be there, in which a line is another one.
func least(instead ...string) string {
	text := "node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 100\nnode_cpu_seconds_total{cpu=\"0\",mode=\"iowait\"} 7\nnode_cpu_seconds_total{cpu=\"0\",mode=\"user\"} 20\n" +
		"node_cpu_seconds_total{cpu=\"0\",mode=\"softirq\"} 3\nnode_memory_MemTotal_bytes 1000\nnode_memory_MemAvailable_bytes 400\nnode_boot_time_seconds 1\n"
	return strings.NewReplacer(instead...).Replace(text)
}

func TestIdleAndWaitingForDisksAreNotBusy(t *testing.T) {
	r, err := ask(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, least()) })
	if err != nil || r.User != 20*time.Second || r.System != 3*time.Second || r.CPUs != 1 {
		t.Errorf("it says %+v, %v, want 20 s of programs and 3 s of the kernel on one CPU", r, err)
	}
	if r.Memory != (exporter.Memory{Total: 1000, Available: 400, Free: 400}) {
		t.Errorf("memory is %+v", r.Memory)
	}
}

func TestAnswerThatIsNoneSaysWhy(t *testing.T) {
	for want, text := range map[string]string{
		"it does not tell node_cpu_seconds_total":                                             "<html>\n<body>It works!</body>\n</html>\n",
		"it does not tell node_memory_MemTotal_bytes":                                         least("node_memory_MemTotal_bytes", "mem"),
		"it does not tell node_memory_MemAvailable_bytes":                                     least("node_memory_MemAvailable_bytes", "mem"),
		"it does not tell node_boot_time_seconds":                                             least("node_boot_time_seconds", "boot"),
		"its answer is not in Prometheus's format: ":                                          least("} 20", "} twenty"),
		"it tells that node_cpu_seconds_total is NaN":                                         least("} 20", "} NaN"),
		"it tells that node_cpu_seconds_total is -1":                                          least("} 20", "} -1"),
		"it tells that node_cpu_seconds_total is 1e+300":                                      least("} 20", "} 1e300"),
		"it tells that node_cpu_seconds_total is 1.4e+10":                                     least("} 20", "} 7e9", "} 3", "} 7e9", "softirq", "nice"),
		"it tells that node_boot_time_seconds is +Inf":                                        least("seconds 1", "seconds +Inf"),
		"it tells that node_memory_MemAvailable_bytes is 400, and node_memory_MemTotal_bytes": least("Total_bytes 1000", "Total_bytes 0"),
		"it has a line of more than 64 KiB":                                                   strings.Repeat("x", 100_000),
		"it answers more than 1 MiB of CPU and memory":                                        strings.Repeat(least(), 5000),
		"it answers more than 4 MiB":                                                          strings.Repeat("go_threads 9\n", 400_000),
	} {
		_, err := ask(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	const tooMuch = "it answers more than 4 MiB"
	for want, answer := range map[string]http.HandlerFunc{
		"it answers 404": http.NotFound,
		"it answers 302": http.RedirectHandler("http://127.0.0.1:1/metrics", http.StatusFound).ServeHTTP,
		tooMuch: func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"+least()+strings.Repeat("go_threads 9\n", 400_000))
		},
		"its answer ends too early": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "node_cpu_seconds_total")
		},
	} {
		if _, err := ask(t, answer); err == nil || err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
	_, err := ask(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range 10 {
			w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 500_000))
		}
	})
	if err == nil || err.Error() != tooMuch {
		t.Errorf("of headers alone: %v, want %q", err, tooMuch)
	}
}

func TestExporterThatIsNotThereOrSlowSaysSo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // which nobody answers
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(ln.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := exporter.Ask(ctx, new(net.Dialer).DialContext, addr, "/metrics"); err == nil || err.Error() != "no answer in time" {
		t.Errorf("one that is silent: %v, want that it did not answer in time", err)
	}
	ln.Close()
	if _, err := exporter.Ask(t.Context(), new(net.Dialer).DialContext, addr, "/metrics"); err == nil || err.Error() != "connection refused" {
		t.Errorf("one that is not there: %v, want that it refuses", err)
	}
	drips := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			io.WriteString(w, "go_threads 9\n")
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	}
	s := httptest.NewServer(http.HandlerFunc(drips))
	defer s.Close()
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := exporter.Ask(ctx, new(net.Dialer).DialContext, at(s), "/metrics"); err == nil || err.Error() != "no answer in time" {
		t.Errorf("one that drips: %v, want that it did not answer in time", err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(least())
	f.Add("node_cpu_seconds_total{cpu=\"")
	f.Fuzz(func(t *testing.T, text string) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			http.ReadRequest(bufio.NewReader(theirs))
			io.WriteString(theirs, "HTTP/1.1 200 OK\r\n\r\n"+text)
		}()
		dial := func(context.Context, string, string) (net.Conn, error) { return ours, nil }
		r, err := exporter.Ask(t.Context(), dial, netip.MustParseAddrPort("10.0.0.1:9100"), "/metrics")
		if err == nil && (r.CPUs < 1 || r.User < 0 || r.System < 0 || r.Up < 0 || r.Memory.Total <= 0 || r.Memory.Available < 0 || r.Memory.Available > r.Memory.Total) {
			t.Errorf("%q is taken for %+v", text, r)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	text, err := os.ReadFile("testdata/node_exporter.txt")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			http.ReadRequest(bufio.NewReader(theirs))
			theirs.Write(append([]byte("HTTP/1.1 200 OK\r\n\r\n"), text...))
		}()
		dial := func(context.Context, string, string) (net.Conn, error) { return ours, nil }
		if _, err := exporter.Ask(b.Context(), dial, netip.MustParseAddrPort("10.0.0.1:9100"), "/metrics"); err != nil {
			b.Fatal(err)
		}
	}
}
