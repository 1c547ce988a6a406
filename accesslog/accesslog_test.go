package accesslog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/weir"
)

func newTestLog(t testing.TB) *Log {
	l := New(Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	l.Set(&weir.AccessLog{}, "3164501")
	return l
}

func text(n, status int) []byte {
	return fmt.Appendf(nil, `{"time":"2026-11-28T19:30:00.123Z","request_id":"r%d","status":%d,"total_ms":7}`, n, status)
}

func run(t testing.TB, l *Log) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// ids returns the request IDs of lines, with marks as they are.
func ids(t testing.TB, lines []byte) (all []string) {
	for line := range bytes.Lines(lines) {
		var l struct {
			weir.AccessLine
			weir.LogMark
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		switch {
		case l.Recent:
			all = append(all, "|")
		case l.LeftOut > 0:
			all = append(all, fmt.Sprintf("%d left out", l.LeftOut))
		default:
			if l.Instance != "3164501" {
				t.Errorf("instance %q, want the one that was set", l.Instance)
			}
			all = append(all, l.RequestID)
		}
	}
	return all
}

func TestLastLinesAreRememberedAndFiltered(t *testing.T) {
	l := newTestLog(t)
	for i := range 20 {
		l.Take(text(i, 200+100*(i%4)), 3*time.Millisecond, 7*time.Millisecond)
	}
	l.Take([]byte(`{"broken":`), -1, -1)
	for _, torn := range []string{``, `{`, `{"a":"b}`, `{"a":"b\"}`, "{\"a\":\"b\n\"}", `"a":"b"}`} {
		l.Take([]byte(torn), -1, -1)
	}
	for _, c := range []struct {
		q    weir.LogQuery
		want string
	}{
		{weir.LogQuery{Recent: 3}, "[r17 r18 r19 |]"},
		{weir.LogQuery{Recent: 100, LogFilter: weir.LogFilter{From: 500, To: 599}}, "[r3 r7 r11 r15 r19 |]"},
		{weir.LogQuery{Recent: 2, LogFilter: weir.LogFilter{From: 500, To: 599}}, "[r15 r19 |]"},
		{weir.LogQuery{Recent: 2, LogFilter: weir.LogFilter{RequestID: "r4"}}, "[r4 |]"},
		{weir.LogQuery{}, "[|]"},
	} {
		var out bytes.Buffer
		if err := l.Follow(t.Context(), c.q, new(Place), &out); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(ids(t, out.Bytes())); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.q, got, c.want)
		}
	}
	counts := l.Counts()
	if counts.Lines != 20 || counts.Malformed != 7 || counts.Response.Sum != 60*time.Millisecond || counts.Total.Counts[7] != 20 {
		t.Errorf("counted %+v, want 20 lines of 3 ms and 7 ms, and 7 that are none", counts)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	l := newTestLog(t)
	long := []byte(`{"time":"x","path":"` + strings.Repeat("x", 30<<10) + `"}`)
	for range 2 {
		for range 400 {
			l.Take(long, -1, -1)
		}
		for i := range mostLines {
			l.Take(text(i, 200), -1, -1)
		}
	}
	room := 0
	for _, line := range l.lines {
		room += cap(line)
	}
	if l.bytes > mostBytes || room > mostBytes+mostLines*roomy || l.next-l.first != mostLines {
		t.Errorf("%d bytes of %d lines in %d, want no more than %d of %d", l.bytes, l.next-l.first, room, mostBytes, mostLines)
	}
}

// lineWriter takes what is written.
type lineWriter struct {
	mu  sync.Mutex
	buf bytes.Buffer
	err error
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	return w.buf.Write(b)
}

func (w *lineWriter) taken() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.buf.Bytes())
}

func TestFollowerGetsWhatComesAndMissesWhatIsTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Log: slog.New(slog.DiscardHandler)})
		l.Set(&weir.AccessLog{}, "3164501")
		l.Take(text(0, 200), -1, -1)
		w := new(lineWriter)
		place := new(Place)
		follow := func() (stop func() error) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- l.Follow(ctx, weir.LogQuery{Recent: 10, Follow: true}, place, w) }()
			time.Sleep(time.Second)
			return func() error { cancel(); return <-done }
		}
		stop := follow()
		l.Take(text(1, 200), -1, -1)
		time.Sleep(time.Second)
		if got := fmt.Sprint(ids(t, w.taken())); got != "[r0 | r1]" {
			t.Fatalf("got %s, want r0 that was there and r1 that came", got)
		}
		// Ten times as many as may pass, for a second.
		const each = 100 * followRate / 10 / 100
		for range 10 {
			for range 10 * each {
				l.Take(text(2, 200), -1, -1)
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		passed, leftOut := 0, 0
		for _, id := range ids(t, w.taken())[3:] {
			if n, ok := strings.CutSuffix(id, " left out"); ok {
				number, _ := strconv.Atoi(n)
				leftOut += number
				continue
			}
			passed++
		}
		if passed+leftOut != 100*each || passed > 2*followRate || passed < followRate/2 {
			t.Errorf("%d lines passed and %d were left out, want %d in all and about %d a second", passed, leftOut, 100*each, followRate)
		}
		// Broken off, it goes on where it was.
		stop()
		l.Take(text(3, 200), -1, -1)
		w.buf.Reset()
		stop = follow()
		if got := fmt.Sprint(ids(t, w.taken())); got != "[r3]" {
			t.Errorf("got %s, want r3 alone", got)
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Follow ended with %v, want the context's end", err)
		}
	})
}

func eventually(t testing.TB, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for why := ok(); why != ""; why = ok() {
		if time.Now().After(deadline) {
			t.Fatal(why)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestFileIsKept(t *testing.T) {
	l := newTestLog(t)
	run(t, l)
	l.Take(text(0, 200), -1, -1)
	l.Set(&weir.AccessLog{File: true}, "3164501")
	name := l.fileName()
	eventually(t, func() string {
		l.Take(text(1, 200), -1, -1)
		got, err := os.ReadFile(name)
		if err != nil {
			return err.Error()
		}
		if all := ids(t, got); len(all) == 0 || all[0] != "r1" {
			return fmt.Sprintf("the file has %s, want r1", all)
		}
		return ""
	})
}

var message = regexp.MustCompile(`^<134>1 2026-11-28T19:30:00\.123Z \S+ weir - access - (\{.*\})$`)

// said returns the request ID of a message of syslog.
func said(t testing.TB, text string) string {
	t.Helper()
	m := message.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%q is no message of RFC 5424", text)
	}
	return ids(t, []byte(m[1]))[0]
}

func TestSyslogByUDP(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l := newTestLog(t)
	l.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if network != "udp" || addr != "192.0.2.9:514" {
			t.Errorf("dials %s %s, want udp 192.0.2.9:514", network, addr)
		}
		return net.Dial(network, server.LocalAddr().String())
	}
	run(t, l)
	l.Set(&weir.AccessLog{Syslog: "udp://192.0.2.9:514"}, "3164501")
	b := make([]byte, 64<<10)
	eventually(t, func() string {
		l.Take(text(5, 200), -1, -1)
		server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _, err := server.ReadFrom(b)
		if err != nil {
			return err.Error()
		}
		if got := said(t, string(b[:n])); got != "r5" {
			t.Errorf("got %s, want r5", got)
		}
		return ""
	})
}

// framed reads one message with its length before it.
func framed(r *bufio.Reader) (string, error) {
	length, err := r.ReadString(' ')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSpace(length))
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return string(b), err
}

func TestSyslogByTCPConnectsAgain(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l := newTestLog(t)
	l.Dial = func(_ context.Context, network, _ string) (net.Conn, error) {
		return net.Dial(network, server.Addr().String())
	}
	run(t, l)
	l.Set(&weir.AccessLog{Syslog: "tcp://192.0.2.9:514"}, "3164501")
	for range 2 {
		c, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			l.Take(text(i, 200), -1, -1)
		}
		r := bufio.NewReader(c)
		for i := range 3 {
			got, err := framed(r)
			if err != nil {
				t.Fatal(err)
			}
			if id := said(t, got); id != fmt.Sprintf("r%d", i) {
				t.Errorf("got %s, want r%d", id, i)
			}
		}
		c.Close()
	}
}

func TestLinesThatSyslogDoesNotTakeAreCounted(t *testing.T) {
	l := newTestLog(t)
	gate := make(chan struct{})
	l.Dial = func(context.Context, string, string) (net.Conn, error) {
		<-gate
		here, there := net.Pipe()
		go io.Copy(io.Discard, there)
		return here, nil
	}
	run(t, l)
	l.Set(&weir.AccessLog{Syslog: "tcp://192.0.2.9:514"}, "3164501")
	eventually(t, func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.readers) == 0 {
			return "nobody reads"
		}
		return ""
	})
	for range 3 * mostLines {
		l.Take(text(0, 200), -1, -1)
	}
	close(gate)
	eventually(t, func() string {
		if n := l.Counts().Unsent; n != 2*mostLines {
			return fmt.Sprintf("%d lines are counted as not sent, want %d", n, 2*mostLines)
		}
		return ""
	})
}

func BenchmarkTake(b *testing.B) {
	l := newTestLog(b)
	line := []byte(`{"time":"2026-11-28T19:30:00.123Z","request_id":"381f9566-2a1a-4e17-ae0c-aae5ad952939","client":"127.0.0.1","client_port":43630,"frontend":"http-80","method":"GET","host":"shop.example","path":"/a?b=1","protocol":"HTTP/1.1","status":200,"bytes_in":97,"bytes_out":111,"total_ms":1,"idle_ms":2,"request_ms":0,"queue_ms":0,"connect_ms":1,"response_ms":0,"user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0","referer":"","termination":"--","backend":"web","server":"3164494","server_name":"web-1"}`)
	b.ReportAllocs()
	for b.Loop() {
		l.Take(line, time.Millisecond, 2*time.Millisecond)
	}
}
