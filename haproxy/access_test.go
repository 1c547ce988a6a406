package haproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/accesslog"
	"weir/weir"
)

// accessLines are the lines of an access log, as they come.
type accessLines struct {
	mu  sync.Mutex
	all []weir.AccessLine
	bad []string
}

func (l *accessLines) take(a Access) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var line weir.AccessLine
	if err := json.Unmarshal(a.Text, &line); err != nil {
		l.bad = append(l.bad, fmt.Sprintf("%v: %q", err, a.Text))
		return
	}
	l.all = append(l.all, line)
}

// next waits for n lines, and forgets them.
func (l *accessLines) next(t testing.TB, n int) (lines []weir.AccessLine) {
	t.Helper()
	eventually(t, func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.bad) > 0 {
			t.Fatalf("no JSON: %s", l.bad[0])
		}
		if len(l.all) < n {
			return fmt.Sprintf("%d lines, want %d: %+v", len(l.all), n, l.all)
		}
		lines, l.all = l.all, nil
		return ""
	})
	if len(lines) != n {
		t.Fatalf("%d lines, want %d: %+v", len(lines), n, lines)
	}
	return lines
}

// send sends bytes on a connection of its own, and returns the response, nil if there was none.
func send(t testing.TB, to netip.AddrPort, request string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp
}

// logging runs a HAProxy that logs, with one app that answers with the request ID that it was told.
func logging(t testing.TB, change func(*weir.Proxy)) (front netip.AddrPort, server weir.Server, lines *accessLines, p *Proxy) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Told", strings.Join(r.Header.Values(requestID), " and "))
	})}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() { s.Close(); wg.Wait() })
	lines = new(accessLines)
	p, _ = startProxy(t, Options{Access: lines.take})
	front = freeAddr(t)
	server = weir.Server{ID: "3164494", Name: "web-1", Addr: l.Addr().(*net.TCPAddr).AddrPort(), Weight: 1}
	doc := testDocument(front, server)
	doc.Log = &weir.AccessLog{}
	if change != nil {
		change(&doc)
	}
	set(t, p, doc)
	waitState(t, p, weir.ServerUp, server)
	return front, server, lines, p
}

func TestAccessLogTellsOfEachRequest(t *testing.T) {
	front, server, lines, _ := logging(t, nil)
	resp := send(t, front, "GET /a?b=c/d HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8\r\nReferer: http://x/\r\nConnection: close\r\n\r\n")
	got := lines.next(t, 1)[0]
	id := resp.Header.Get(requestID)
	if len(id) != 36 || got.RequestID != id || resp.Header.Get("Told") != id {
		t.Errorf("the log has the ID %q, the client %q, the server %q, want one and the same", got.RequestID, id, resp.Header.Get("Told"))
	}
	if since := time.Since(got.Time); since < 0 || since > time.Minute {
		t.Errorf("time is %s, want about now", got.Time)
	}
	if got.BytesIn == 0 || got.BytesOut == 0 || got.ClientPort == 0 || got.Total < got.Response || got.Response < 0 {
		t.Errorf("%+v: want bytes, a port, and times", got)
	}
	want := weir.AccessLine{Time: got.Time, RequestID: id, Client: "127.0.0.1", ClientPort: got.ClientPort, Frontend: "http-80", Method: "GET", Host: "shop.example", Path: "/a?b=c/d",
		Protocol: "HTTP/1.1", Status: 200, BytesIn: got.BytesIn, BytesOut: got.BytesOut, Total: got.Total, Idle: got.Idle, Request: got.Request, Queue: got.Queue, Connect: got.Connect, Response: got.Response,
		End: "--", UserAgent: "curl/8", Referer: "http://x/", Backend: "web", Server: string(server.ID), ServerName: "web-1"}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestRequestIDOfAClientIsKeptIfItIsOne(t *testing.T) {
	front, _, lines, _ := logging(t, nil)
	for header, kept := range map[string]bool{
		"X-Request-ID: abc-1.2_3\r\n":                            true,
		"X-Request-ID: " + strings.Repeat("x", 128) + "\r\n":     true,
		"X-Request-ID: " + strings.Repeat("x", 129) + "\r\n":     false,
		"X-Request-ID: a b\r\n":                                  false,
		"X-Request-ID: \"}\\\r\n":                                false,
		"X-Request-ID: \r\n":                                     false,
		"X-Request-ID: a\r\nX-Request-ID: b\r\n":                 false,
		"X-Request-ID: a,b\r\n":                                  false,
		"X-Request-ID: \x80\xff\r\n":                             false,
		"X-Request-ID: ${HOME}\r\n":                              false,
		"x-request-id: 7183c536-cf47-4fea-92de-0b788cd37561\r\n": true,
	} {
		resp := send(t, front, "GET / HTTP/1.1\r\nHost: a\r\n"+header+"Connection: close\r\n\r\n")
		if resp == nil {
			t.Errorf("%q: no answer", header)
			continue
		}
		got := lines.next(t, 1)[0]
		_, value, _ := strings.Cut(strings.TrimSpace(header), ": ")
		ids := resp.Header.Values(requestID)
		if len(ids) != 1 || ids[0] != got.RequestID || resp.Header.Get("Told") != ids[0] || (ids[0] == value) != kept {
			t.Errorf("%q: the client got %q, the server %q, the log %q; kept should be %t", header, ids, resp.Header.Get("Told"), got.RequestID, kept)
		}
	}
}

func TestNothingThatAClientSendsBreaksALine(t *testing.T) {
	front, _, lines, _ := logging(t, nil)
	long := func(s string) string { return strings.Repeat(s, 3000/len(s)) }
	for _, request := range []string{
		"GET /\"},{\"status\":200 HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /?q=\"\\\" HTTP/1.1\r\nHost: a\"b\\c\r\nUser-Agent: \\\"}\r\nReferer: \",\"server\":\"evil\"}\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: \x80\xff\"\r\nUser-Agent: \x01\x02\x7f\t\xc3\x28\xed\xa0\x80\r\nReferer: \xf0\x9f\x98\x80 \xe2\x80\xa8é\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: -\r\nUser-Agent: <NOSRV>\r\nReferer: <BADREQ>\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: \":\"-\"\r\nReferer: \"server\":\"<NOSRV>\"\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: %[src] %{+E}o %ci $HOME\r\n\r\n",
		"G'!#$%&*+-.^_`|~ET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET http://x\"y\\@z/p HTTP/1.1\r\nHost: a\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /" + long("x") + " HTTP/1.1\r\nHost: " + long("h") + "\r\nUser-Agent: " + long("\\") + "\r\nReferer: " + long("\"") + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + long("\x01") + "\r\nUser-Agent: " + long("\x01") + "\r\nReferer: " + long("\x02") + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: " + long("é") + "\r\nReferer: " + long("\xf0\x9f\x98\x80") + "\r\n\r\n",
		"G\"ET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/\"1\r\nHost: a\r\n\r\n",
		"GET /\x00\xff HTTP/1.1\r\nHost: a\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
	} {
		send(t, front, request)
		got := lines.next(t, 1)[0]
		if got.Server != "" && got.Server != "3164494" || got.Client != "127.0.0.1" || got.Backend != "web" && got.Backend != "http-80" || got.Frontend != "http-80" {
			t.Errorf("%.100q: the line has things of the client's: %+v", request, got)
		}
		if got.Status != 200 && got.Status != 400 {
			t.Errorf("%.100q: status %d", request, got.Status)
		}
	}
}

func FuzzAccessLine(f *testing.F) {
	f.Add("GET", "/", "shop.example", "curl", "3164494", "web-1")
	f.Add("\"", "\\/", "-", "<NOSRV>", "1", "\"}\n")
	f.Add("-", "\":\"-\"", "\"server\":\"x\"}", "\x00\xff", "2", "<b>")
	f.Fuzz(func(t *testing.T, method, path, host, agent, server, name string) {
		// As HAProxy's json() writes it.
		quote := func(s string) string {
			b, err := json.Marshal(s)
			if err != nil {
				t.Skip()
			}
			return strings.ReplaceAll(string(b), "/", `\/`)
		}
		server = sanitize(server)
		line := fmt.Sprintf(`{"ended":1795893803335,"method":%s,"path":%s,"host":%s,"total_ms":7,"response_ms":3,"user_agent":%s,"server":"%s"}`, quote(method), quote(path), quote(host), quote(agent), server)
		a, _ := finishAccess(nil, []byte(line), map[string]string{server: name})
		var got, raw weir.AccessLine
		if err := json.Unmarshal(a.Text, &got); err != nil {
			t.Fatalf("%v: %q became %q", err, line, a.Text)
		}
		if err := json.Unmarshal([]byte(strings.Replace(line, "ended", "x", 1)), &raw); err != nil {
			t.Skip()
		}
		same := func(got, want string) bool { return got == want || want == "-" && got == "" }
		if !same(got.Method, raw.Method) || !same(got.Path, raw.Path) || !same(got.Host, raw.Host) || !same(got.UserAgent, raw.UserAgent) || !same(got.Server, raw.Server) {
			t.Errorf("%q became %+v", line, got)
		}
		if a.Total != 7*time.Millisecond || a.Response != 3*time.Millisecond || got.Total != 7 {
			t.Errorf("times %s and %s, want 7ms and 3ms", a.Total, a.Response)
		}
	})
}

func TestAccessLogIsOfTCPToo(t *testing.T) {
	front, _, lines, _ := logging(t, func(d *weir.Proxy) {
		d.Frontends[0].Mode, d.Backends[0].Mode = weir.TCP, weir.TCP
	})
	send(t, front, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	got := lines.next(t, 1)[0]
	if got.Protocol != "TCP" || got.BytesIn == 0 || got.BytesOut == 0 || got.ServerName != "web-1" || got.Response != -1 || got.End != "--" {
		t.Errorf("got %+v, want a connection to web-1", got)
	}
}

func TestAccessLogTellsOfTLSAndRedirects(t *testing.T) {
	cert := certificate(t, 1, "shop.example")
	redirect := freeAddr(t)
	front, _, lines, _ := logging(t, func(d *weir.Proxy) {
		*d = withTLS(*d, cert)
		d.Frontends = append(d.Frontends, weir.Frontend{Name: "http-80", Bind: redirect, Mode: weir.HTTP, Idle: time.Minute, Redirect: 443})
	})
	name := "shop.example"
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: name}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(httptest.NewRequest(http.MethodGet, "https://"+front.String()+"/p?q", nil))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := lines.next(t, 1)[0]
	if got.TLSVersion != "TLSv1.3" || got.TLSCipher == "" || got.TLSName != name || got.Protocol != "HTTP/2.0" || got.Path != "/p?q" || got.Frontend != "https-443" {
		t.Errorf("got %+v, want /p?q by HTTP/2 over TLS 1.3 to %s", got, name)
	}
	resp = send(t, redirect, "GET /x HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
	got = lines.next(t, 1)[0]
	if got.Status != 307 || got.Server != "" || got.RequestID == "" || resp.Header.Get(requestID) != got.RequestID || got.Response != -1 {
		t.Errorf("got %+v, want a redirection that no server saw, with the ID that its client got", got)
	}
}

func TestAgentThatIsAwayStopsNoRequest(t *testing.T) {
	dir := t.TempDir()
	lines := new(accessLines)
	p, end := startProxy(t, Options{Dir: dir, Keep: true, Access: lines.take})
	f := new(farm)
	app := f.start(t)
	doc := testDocument(freeAddr(t), app.server())
	doc.Log = &weir.AccessLog{}
	set(t, p, doc)
	waitState(t, p, weir.ServerUp, app.server())
	request := func() {
		t.Helper()
		if _, _, err := ask(doc.Frontends[0].Bind, "/"); err != nil {
			t.Fatal(err)
		}
	}
	request()
	lines.next(t, 1)
	end()
	for range 20 {
		request()
	}
	p, _ = startProxy(t, Options{Dir: dir, Access: lines.take})
	set(t, p, doc)
	request()
	if got := lines.next(t, 1)[0]; got.ServerName != "app-1" {
		t.Errorf("the line is %+v, want one of app-1", got)
	}
	if h, _ := status(t, p); h.Reloads != 0 {
		t.Errorf("%d reloads, want none: the log is as it was", h.Reloads)
	}
}

// BenchmarkAccessLog measures what requests cost HAProxy, and how many there are, without an access log, with one, and with one
// that is kept in a file. This process is client and server of them, and reads the log as an agent does.
func BenchmarkAccessLog(b *testing.B) {
	for _, log := range []string{"off", "on", "file"} {
		b.Run("log="+log, func(b *testing.B) {
			kept := accesslog.New(accesslog.Options{Dir: b.TempDir(), Log: slog.New(slog.DiscardHandler)})
			kept.Set(&weir.AccessLog{File: log == "file"}, "1")
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			wg.Go(func() { kept.Run(ctx) })
			b.Cleanup(func() { cancel(); wg.Wait() })
			p, _ := startProxy(b, Options{Log: slog.New(slog.DiscardHandler), Access: func(a Access) { kept.Take(a.Text, a.Response, a.Total) }})
			server := weir.Server{ID: "1", Name: "app", Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), answerEverything(b)), Weight: 1}
			doc := testDocument(freeAddr(b), server)
			if log != "off" {
				doc.Log = &weir.AccessLog{}
			}
			set(b, p, doc)
			waitState(b, p, weir.ServerUp, server)
			pid := p.proc.pid
			if h, _ := status(b, p); h.PID != 0 {
				pid = h.PID
			}
			request := []byte("GET /some/path?with=query HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nReferer: https://shop.example/cart\r\n\r\n")
			before := cpuOf(pid)
			b.RunParallel(func(pb *testing.PB) {
				c, err := net.Dial("tcp", doc.Frontends[0].Bind.String())
				if err != nil {
					b.Error(err)
					return
				}
				defer c.Close()
				answer := make([]byte, 4096)
				for pb.Next() {
					if _, err := c.Write(request); err != nil {
						b.Error(err)
						return
					}
					if _, err := c.Read(answer); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
			b.ReportMetric(float64((cpuOf(pid)-before).Microseconds())/float64(b.N), "µs-haproxy/op")
			h, _ := status(b, p)
			b.ReportMetric(float64(h.Counts.Workers[0].Unlogged)/float64(b.N), "lost/op")
			b.ReportMetric(float64(kept.Counts().Unfiled)/float64(b.N), "unfiled/op")
		})
	}
}

// answerEverything answers each read with a small response, on connections that are kept.
func answerEverything(t testing.TB) uint16 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(t.Context(), func() { c.Close() })()
				request := make([]byte, 8192)
				for {
					if _, err := c.Read(request); err != nil {
						return
					}
					if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}
