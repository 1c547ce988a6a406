package haproxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/weir"
)

// recorder is a server that keeps what it was sent, byte for byte, and answers each request with 200.
type recorder struct {
	addr netip.AddrPort

	mu   sync.Mutex
	seen []string // the first line of each request
	raw  strings.Builder
}

func record(t *testing.T) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.1.3.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{addr: l.Addr().(*net.TCPAddr).AddrPort()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				in := bufio.NewReader(io.TeeReader(c, lockedWriter{r}))
				for {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					r.mu.Lock()
					r.seen = append(r.seen, req.Method+" "+req.RequestURI)
					r.mu.Unlock()
					fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return r
}

type lockedWriter struct{ r *recorder }

func (w lockedWriter) Write(b []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.raw.Write(b)
}

// take returns what was seen since the last time.
func (r *recorder) take() (seen []string, raw string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, raw = r.seen, r.raw.String()
	r.seen = nil
	r.raw.Reset()
	return seen, raw
}

// Requests that two readers could understand differently are refused, or passed on so that they mean one thing: no server
// sees a request that the client's other reader would not have seen.
func TestMalformedRequestsReachNoServer(t *testing.T) {
	p, _ := startProxy(t, Options{})
	r := record(t)
	server := weir.Server{ID: "7", Name: "app", Addr: r.addr, Weight: 1}
	front := freeAddr(t)
	d := testDocument(front, server)
	d.Backends[0].Check.Protocol = weir.TCP
	set(t, p, d)
	waitState(t, p, weir.ServerUp, server)

	send := func(request string) (status string) {
		c, err := net.DialTimeout("tcp", front.String(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(c, request)
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return "closed"
		}
		return strings.TrimSpace(line)
	}
	const host = "Host: shop.example\r\n"
	const smuggled = "GET /smuggled HTTP/1.1\r\n" + host + "\r\n"
	for name, request := range map[string]string{
		"two lengths":                       "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
		"two lengths in one":                "POST / HTTP/1.1\r\n" + host + "Content-Length: 5, 0\r\n\r\nhello",
		"a negative length":                 "POST / HTTP/1.1\r\n" + host + "Content-Length: -5\r\n\r\nhello",
		"a length with a sign":              "POST / HTTP/1.1\r\n" + host + "Content-Length: +5\r\n\r\nhello",
		"a length in hexadecimal":           "POST / HTTP/1.1\r\n" + host + "Content-Length: 0x5\r\n\r\nhello",
		"a length too long":                 "POST / HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\nhello",
		"an empty length":                   "POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\nhello",
		"a length with a space before it":   "POST / HTTP/1.1\r\n" + host + "Content-Length : 5\r\n\r\nhello",
		"an unknown coding":                 "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled,
		"a coding that is not the last":     "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + smuggled,
		"chunked twice":                     "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"a chunk of a bad size":             "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
		"a chunk of a negative size":        "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
		"a chunk too large":                 "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
		"a header without a colon":          "GET / HTTP/1.1\r\n" + host + "X-Header\r\n\r\n",
		"a header without a name":           "GET / HTTP/1.1\r\n" + host + ": value\r\n\r\n",
		"a space in a header's name":        "GET / HTTP/1.1\r\n" + host + "X Header: value\r\n\r\n",
		"a carriage return in a header":     "GET / HTTP/1.1\r\n" + host + "X-Header: a\rb: c\r\n\r\n",
		"a folded first header":             "GET / HTTP/1.1\r\n " + host + "\r\n",
		"two different hosts":               "GET / HTTP/1.1\r\n" + host + "Host: other.example\r\n\r\n",
		"another host in the target":        "GET http://other.example/ HTTP/1.1\r\n" + host + "\r\n",
		"no method":                         " / HTTP/1.1\r\n" + host + "\r\n",
		"no version's number":               "GET / HTTP/\r\n" + host + "\r\n",
		"a version of two digits":           "GET / HTTP/1.10\r\n" + host + "\r\n",
		"a space in the target":             "GET /a b HTTP/1.1\r\n" + host + "\r\n",
		"a control character in the target": "GET /a\x01b HTTP/1.1\r\n" + host + "\r\n",
		"a zero byte in the target":         "GET /a\x00b HTTP/1.1\r\n" + host + "\r\n",
		"a byte above ASCII in the target":  "GET /\xff HTTP/1.1\r\n" + host + "\r\n",
		"a target without a slash":          "GET index HTTP/1.1\r\n" + host + "\r\n",
		"TLS":                               "\x16\x03\x01\x00\x05hello\r\n\r\n",
		"a PROXY header that nobody wants":  "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n" + host + "\r\n",
		"a line that never ends":            "GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\n" + host + "\r\n",
		"a header that never ends":          "GET / HTTP/1.1\r\n" + host + "X-Header: " + strings.Repeat("a", 64<<10) + "\r\n\r\n",
		"too many headers":                  "GET / HTTP/1.1\r\n" + host + strings.Repeat("X-Header: a\r\n", 1000) + "\r\n",
	} {
		status := send(request)
		seen, raw := r.take()
		refused := strings.HasPrefix(status, "HTTP/1.1 4") || strings.HasPrefix(status, "HTTP/1.0 4") || strings.HasPrefix(status, "HTTP/1.1 501") || status == "closed"
		if !refused || len(seen) > 0 {
			t.Errorf("%s: answered %q, and the server has seen %q, want a refusal and nothing:\n%q", name, status, seen, raw)
		}
	}

	// What has one meaning left once it is passed on.
	for name, test := range map[string]struct {
		request string
		want    []string
	}{
		"both a length and chunks":                   {"POST /a HTTP/1.1\r\n" + host + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, []string{"POST /a"}},
		"the same length twice":                      {"POST /b HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", []string{"POST /b"}},
		"chunks of HTTP/1.0":                         {"POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, []string{"POST /"}},
		"a version too new":                          {"GET / HTTP/3.0\r\n" + host + "\r\n", []string{"GET /"}},
		"a length and chunks behind bare line feeds": {"POST / HTTP/1.1\n" + "Host: shop.example\n" + "Content-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n" + smuggled, []string{"POST /"}},
		"as many headers as there may be":            {"GET /d HTTP/1.1\r\n" + host + strings.Repeat("X-Header: a\r\n", 98) + "Connection: close\r\n\r\n", []string{"GET /d"}},
		"headers as long as they may be":             {"GET /e HTTP/1.1\r\n" + host + "X-Header: " + strings.Repeat("a", 14_900) + "\r\nConnection: close\r\n\r\n", []string{"GET /e"}},
		"a folded header":                            {"GET /c HTTP/1.1\r\n" + host + "X-Header: a\r\n b\r\nConnection: close\r\n\r\n", []string{"GET /c"}},
	} {
		send(test.request)
		time.Sleep(50 * time.Millisecond)
		seen, raw := r.take()
		if len(seen) > len(test.want) || len(seen) == 1 && seen[0] != test.want[0] || strings.Contains(strings.ToLower(raw), "content-length: 4\r\ntransfer-encoding") {
			t.Errorf("%s: the server has seen %q, want at most %q:\n%q", name, seen, test.want, raw)
		}
		if strings.Contains(name, "may be") && len(seen) == 0 {
			t.Errorf("%s: the server has seen nothing, want %q", name, test.want)
		}
	}
}
