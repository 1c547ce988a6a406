package haproxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"weir/weir"
)

// policed has a HAProxy before a recorder, with routes and headers as a policy has them.
func policed(t *testing.T, change func(*weir.Proxy)) (r *recorder, front netip.AddrPort) {
	t.Helper()
	p, _ := startProxy(t, Options{})
	r = record(t)
	front = freeAddr(t)
	d := testDocument(front, weir.Server{ID: "7", Name: "app", Addr: r.addr, Weight: 1})
	d.Backends[0].Check.Protocol = weir.TCP
	d.Handling.Headers = weir.Headers{SetRequest: map[string]string{"X-Shop": "1"}, RemoveRequest: []string{"X-Secret"}}
	d.Frontends[0].Routes = []weir.FrontRoute{{Backend: "web", Route: weir.Route{Hosts: []string{"shop.example"}, Path: "/api", Rewrite: &weir.Rewrite{Prefix: "/v1"}}}}
	if change != nil {
		change(&d)
	}
	set(t, p, d)
	ready(t, p)
	return r, front
}

// settled returns what the recorder has seen once it sees no more.
func settled(r *recorder) (seen []string, raw string) {
	seen, raw = r.take()
	for quiet := 0; quiet < 3; quiet++ {
		time.Sleep(10 * time.Millisecond)
		if more, text := r.take(); text != "" {
			seen, raw, quiet = append(seen, more...), raw+text, 0
		}
	}
	return seen, raw
}

// What one client means by one request is never two to a server, and what a server gets has one meaning.
func TestOneRequestIsNeverTwo(t *testing.T) {
	r, front := policed(t, nil)
	const host = "Host: shop.example\r\n"
	const hidden = "GET /hidden HTTP/1.1\r\nHost: shop.example\r\n\r\n"
	send := func(request string) string {
		c, err := net.DialTimeout("tcp", front.String(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(c, request)
		c.(*net.TCPConn).CloseWrite()
		all, _ := io.ReadAll(c)
		line, _, _ := strings.Cut(string(all), "\r\n")
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], "HTTP/") {
			return f[1]
		}
		return "closed"
	}
	slow := make(chan string, 1)
	if !testing.Short() {
		go func() { // a byte at a time, until HAProxy has enough of it
			c, err := net.DialTimeout("tcp", front.String(), 5*time.Second)
			if err != nil {
				slow <- err.Error()
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(2 * time.Minute))
			go func() {
				io.WriteString(c, "GET /slow HTTP/1.1\r\n"+host)
				for {
					if _, err := io.WriteString(c, "X: 1\r\n"); err != nil {
						return
					}
					time.Sleep(500 * time.Millisecond)
				}
			}()
			all, err := io.ReadAll(c)
			slow <- fmt.Sprintf("%.12s %v", all, err)
		}()
	}
	get := "GET /x HTTP/1.1\r\n" + host
	post := "POST /x HTTP/1.1\r\n" + host
	chunked := post + "Transfer-Encoding: chunked\r\n"
	for _, c := range []struct {
		name, request string
		status        string   // of the answer
		has           []string // in what the server gets, which is nothing if there is none
	}{
		{"nothing wrong", get + "\r\n", "200", []string{"GET /x HTTP/1.1\r\n", "x-shop: 1\r\n"}},
		{"a length and chunks", post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "200", []string{"POST /x "}},
		{"chunks and a length", chunked + "Content-Length: 100\r\n\r\n0\r\n\r\n", "200", []string{"POST /x "}},
		{"two codings", post + "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "422", nil},
		{"identity alone", post + "Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n" + hidden, "400", nil},
		{"chunked in capitals", post + "Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", "200", []string{"POST /x "}},
		{"a tab before chunked", post + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", "200", []string{"POST /x "}},
		{"a vertical tab before chunked", post + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" + hidden, "400", nil},
		{"chunked in quotes", post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" + hidden, "400", nil},
		{"a space behind the coding's name", post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hidden, "400", nil},
		{"a coding's name with an underscore", post + "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "200", []string{"content-length: 5\r\n"}},
		{"a length's name with an underscore", chunked + "Content_Length: 500\r\n\r\n0\r\n\r\n", "200", []string{"transfer-encoding: chunked\r\n"}},
		{"a zero byte in a name", get + "X\x00Y: 1\r\n\r\n", "400", nil},
		// HAProxy 2.6 passes it on, as it is. Servers that would end the value there see no other requests for that.
		{"a zero byte in a value", get + "X: a\x00b\r\n\r\n", "400|502", []string{"\r\nx: a\x00b\r\n"}},
		{"a zero byte in a length", post + "Content-Length: 5\x00\r\n\r\nhello", "400", nil},
		{"a length with spaces", post + "Content-Length: 5 5\r\n\r\nhello", "400", nil},
		{"a length with a fraction", post + "Content-Length: 5.0\r\n\r\nhello", "400", nil},
		{"lengths in a list that are the same", post + "Content-Length: 5, 5\r\n\r\nhello", "200", []string{"content-length: 5\r\n"}},
		{"a length of zeros in front", post + "Content-Length: 0005\r\n\r\nhello", "200", []string{"content-length: 0005\r\n"}},
		{"a length that overflows 64 bits", post + "Content-Length: 18446744073709551617\r\n\r\n" + hidden, "closed", nil},
		{"a length that overflows 64 bits to nothing", post + "Content-Length: 18446744073709551616\r\n\r\n" + hidden, "closed", nil},
		{"a length that overflows 64 bits by a factor", post + "Content-Length: 184467440737095516170\r\n\r\n" + hidden, "closed", nil},
		{"the longest length", post + "Content-Length: 999999999999999999\r\n\r\n" + hidden, "closed", []string{"content-length: 999999999999999999\r\n"}},
		{"a chunk's size with a sign", chunked + "\r\n+5\r\nhello\r\n0\r\n\r\n", "400", nil},
		{"a chunk's size in 0x", chunked + "\r\n0x5\r\nhello\r\n0\r\n\r\n", "400", nil},
		{"a chunk's size that overflows 64 bits", chunked + "\r\n10000000000000005\r\nhello\r\n0\r\n\r\n" + hidden, "400", nil},
		{"a chunk that is longer than it says", chunked + "\r\n3\r\nhello\r\n0\r\n\r\n", "400", nil},
		{"a chunk's extension", chunked + "\r\n5;a=b\r\nhello\r\n0\r\n\r\n", "200", []string{"hello"}},
		{"a chunk's extension of two lines", chunked + "\r\n5;a\nb\r\nhello\r\n0\r\n\r\n", "400", nil},
		{"a trailer that is a length", chunked + "\r\n5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n", "200", []string{"hello"}},
		{"a folded header", get + "X: a\r\n b\r\n\r\n", "200", []string{"x: a   b\r\n"}},
		{"a folded coding", post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "200", []string{"transfer-encoding: chunked\r\n"}},
		{"bare line feeds", "GET /x HTTP/1.1\nHost: shop.example\n\n", "200", []string{"GET /x HTTP/1.1\r\nhost: shop.example\r\n"}},
		{"bare carriage returns", "GET /x HTTP/1.1\rHost: shop.example\r\r", "400", nil},
		{"carriage return, carriage return, line feed", get + "X: a\r\r\n\r\n", "400", nil},
		{"empty lines in front", "\r\n\r\n" + get + "\r\n", "200", []string{"GET /x "}},
		{"a space in front", " " + get + "\r\n", "400", nil},
		{"a space before a colon", get + "X : 1\r\n\r\n", "400", nil},
		{"a name with brackets", get + "X(a): 1\r\n\r\n", "400", nil},
		{"an empty header", get + "\r\nX: 1\r\n\r\n", "200", []string{"GET /x "}},
		{"a removed header with an underscore", get + "X_Secret: 1\r\n\r\n", "200", []string{"x_secret: 1\r\n"}},
		{"the same host twice", get + host + "\r\n", "200", []string{"host: shop.example\r\n"}},
		{"two hosts", get + "Host: evil.example\r\n\r\n", "400", nil},
		{"a list of hosts", "GET /x HTTP/1.1\r\nHost: shop.example, evil.example\r\n\r\n", "200", []string{"host: shop.example, evil.example\r\n"}},
		{"another host in the URL", "GET http://evil.example/x HTTP/1.1\r\n" + host + "\r\n", "400", nil},
		{"another port in the URL", "GET http://shop.example:81/x HTTP/1.1\r\n" + host + "\r\n", "400", nil},
		{"the same host in the URL", "GET http://shop.example/api HTTP/1.1\r\n" + host + "\r\n", "200", []string{"GET http://shop.example/v1 "}},
		{"line feeds in the path, encoded", "GET /api/%0d%0aX:%201%0d%0a%0d%0a HTTP/1.1\r\n" + host + "\r\n", "200", []string{"GET /v1/%0d%0aX:%201%0d%0a%0d%0a HTTP/1.1\r\n"}},
		{"a hash in the path", "GET /x#/api HTTP/1.1\r\n" + host + "\r\n", "400", nil},
		{"a long path", "GET /" + strings.Repeat("a", 8000) + " HTTP/1.1\r\n" + host + "\r\n", "200", []string{"GET /aaaa"}},
		{"a path that is too long", "GET /" + strings.Repeat("a", 20000) + " HTTP/1.1\r\n" + host + "\r\n", "400", nil},
		{"a header that is too long", get + "X: " + strings.Repeat("a", 20000) + "\r\n\r\n", "400", nil},
		{"too many headers", get + strings.Repeat("X: 1\r\n", 200) + "\r\n", "400", nil},
		{"an unknown method", "SMUGGLE /x HTTP/1.1\r\n" + host + "\r\n", "200", []string{"SMUGGLE /x "}},
		{"a method with a bracket", "G(T /x HTTP/1.1\r\n" + host + "\r\n", "400", nil},
		{"HTTP/0.9", "GET /x\r\n", "400", nil},
		{"HTTP/1.0 without a host", "GET /x HTTP/1.0\r\n\r\n", "200", []string{"GET /x HTTP/1.0\r\n"}},
		{"HTTP/2.0 in words", "GET /x HTTP/2.0\r\n" + host + "\r\n", "200", []string{"GET /x HTTP/1.1\r\n"}},
		{"a version of another protocol", "GET /x RTSP/1.0\r\n" + host + "\r\n", "400", nil},
		{"two spaces", "GET  /x  HTTP/1.1\r\n" + host + "\r\n", "200", []string{"GET /x HTTP/1.1\r\n"}},
		{"an upgrade to HTTP/2", get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + hidden, "200", []string{"GET /x "}},
		{"a header that the connection is to drop", get + "Connection: close, X-Shop\r\n\r\n", "200", []string{"x-shop: 1\r\n"}},
	} {
		status := send(c.request)
		seen, raw := settled(r)
		first, _, _ := strings.Cut(raw, "\r\n\r\n")
		// Whether a server's refusal or its hanging up comes first is for the server to say.
		if !slices.Contains(strings.Split(c.status, "|"), status) || (len(c.has) == 0) != (raw == "") && !(c.status == "closed" && raw == "") {
			t.Errorf("%s: answered %s, want %s; the server was sent %.300q", c.name, status, c.status, raw)
			continue
		}
		if raw == "" {
			continue // nothing was passed on, or the client had gone before it could be
		}
		for _, has := range c.has {
			if !strings.Contains(raw, has) {
				t.Errorf("%s: the server was sent %.300q, want %q in it", c.name, raw, has)
			}
		}
		// A request that follows is its own: what hides in another's body is not.
		if len(seen) > 1 && !strings.HasSuffix(c.request, hidden) || len(seen) > 2 {
			t.Errorf("%s: the server has seen %q, want one", c.name, seen)
		}
		head := strings.ToLower(first)
		if strings.Contains(head, "\ntransfer-encoding:") && strings.Contains(head, "\ncontent-length:") || strings.Count(head, "\ncontent-length:") > 1 ||
			strings.Count(head, "\ntransfer-encoding:") > 1 || strings.Count(head, "\nhost:") > 1 || strings.Contains(strings.ReplaceAll(head, "\r\n", ""), "\n") {
			t.Errorf("%s: the server was sent what two can read differently: %.300q", c.name, first)
		}
	}
	if !testing.Short() {
		if got := <-slow; !strings.HasPrefix(got, "HTTP/1.1 408") {
			t.Errorf("who never ends a request is answered %q, want 408", got)
		}
	}
}

// field is a header of HTTP/2, as it goes over the wire.
type field = hpack.HeaderField

// speak2 makes one request by HTTP/2 with just those headers, and returns what came of it.
func speak2(t *testing.T, front netip.AddrPort, fields []field, data ...string) string {
	t.Helper()
	c, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}}).Dial("tcp", front.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, bufio.NewReader(c))
	f.AllowIllegalWrites = true
	f.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range fields {
		enc.WriteField(h)
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: len(data) == 0})
	for i, d := range data {
		f.WriteData(1, i == len(data)-1, []byte(d))
	}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "refused"
		case *http2.GoAwayFrame:
			return "refused"
		}
	}
}

func TestHTTP2IsNotAWayAroundHTTP1(t *testing.T) {
	r, front := policed(t, func(d *weir.Proxy) {
		routes := d.Frontends[0].Routes
		*d = withTLS(*d, certificate(t, 1, "shop.example"))
		d.Frontends[0].Routes = routes
	})
	base := []field{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/x"}, {Name: ":authority", Value: "shop.example"}}
	with := func(more ...field) []field { return append(slices.Clone(base), more...) }
	but := func(name, value string) []field {
		all := slices.Clone(base)
		for i := range all {
			if all[i].Name == name {
				all[i].Value = value
			}
		}
		return all
	}
	without := func(name string) []field {
		return slices.DeleteFunc(slices.Clone(base), func(f field) bool { return f.Name == name })
	}
	const hidden = "GET /hidden HTTP/1.1\r\nHost: shop.example\r\n\r\n"
	for _, c := range []struct {
		name   string
		fields []field
		data   []string
		want   string // "200", or that nothing comes to the server
	}{
		{"nothing wrong", base, nil, "200"},
		{"a body", with(field{Name: "content-length", Value: "5"}), []string{"hello"}, "200"},
		{"a body of no length", base, []string{"hel", "lo"}, "200"},
		{"capitals in a name", with(field{Name: "X-Name", Value: "1"}), nil, ""},
		{"a coding", with(field{Name: "transfer-encoding", Value: "chunked"}), []string{"0\r\n\r\n" + hidden}, ""},
		{"a connection", with(field{Name: "connection", Value: "content-length"}), nil, ""},
		{"an upgrade", with(field{Name: "upgrade", Value: "websocket"}), nil, ""},
		{"a length and no body", with(field{Name: "content-length", Value: "5"}), nil, "200"}, // which is passed on without
		{"a length that overflows 64 bits", with(field{Name: "content-length", Value: "18446744073709551617"}), []string{"h"}, ""},
		{"a body longer than its length", with(field{Name: "content-length", Value: "3"}), []string{"hello" + hidden}, "head"},
		{"a body where there is none", with(field{Name: "content-length", Value: "0"}), []string{hidden}, "head"},
		{"two lengths", with(field{Name: "content-length", Value: "5"}, field{Name: "content-length", Value: "6"}), []string{"hello"}, ""},
		{"a length with a sign", with(field{Name: "content-length", Value: "+5"}), []string{"hello"}, ""},
		{"a pseudo header late", append([]field{{Name: "x-first", Value: "1"}}, base...), nil, ""},
		{"an unknown pseudo header", append([]field{{Name: ":x", Value: "1"}}, base...), nil, ""},
		{"a status", append([]field{{Name: ":status", Value: "200"}}, base...), nil, ""},
		{"two paths", append([]field{{Name: ":path", Value: "/y"}}, base...), nil, ""},
		{"two methods", append([]field{{Name: ":method", Value: "GET"}}, base...), nil, ""},
		{"no method", without(":method"), nil, ""},
		{"no path", without(":path"), nil, ""},
		{"no scheme", without(":scheme"), nil, ""},
		{"an empty path", but(":path", ""), nil, ""},
		{"a path without a slash", but(":path", "x"), nil, ""},
		{"a request in the path", but(":path", "/x HTTP/1.1\r\nHost: shop.example\r\n\r\n"+hidden), nil, ""},
		{"a space in the path", but(":path", "/x y"), nil, ""},
		{"a request in the method", but(":method", "GET /hidden HTTP/1.1\r\nX:"), nil, ""},
		{"a space in the method", but(":method", "GET /hidden"), nil, ""},
		{"a path in the scheme", but(":scheme", "http://shop.example/hidden?"), nil, ""},
		{"a line feed in the authority", but(":authority", "shop.example\r\nX: 1"), nil, ""},
		{"a line feed in a value", with(field{Name: "x", Value: "1\r\nY: 2"}), nil, ""},
		{"a bare line feed in a value", with(field{Name: "x", Value: "1\nY: 2"}), nil, ""},
		{"a zero byte in a value", with(field{Name: "x", Value: "1\x00"}), nil, ""},
		{"a line feed in a name", with(field{Name: "x: 1\r\ny", Value: "2"}), nil, ""},
		{"a colon in a name", with(field{Name: "transfer-encoding: chunked\r\nx", Value: "1"}), nil, ""},
		{"a space in a name", with(field{Name: "content-length ", Value: "5"}), nil, ""},
		{"an empty name", with(field{Name: "", Value: "1"}), nil, ""},
		{"a host beside the authority", with(field{Name: "host", Value: "evil.example"}), nil, "200"},
	} {
		got := speak2(t, front, c.fields, c.data...)
		seen, raw := settled(r)
		switch {
		case c.want == "200" && (got != "200" || len(seen) != 1):
			t.Errorf("%s: %s, and the server has seen %q, want one: %.300q", c.name, got, seen, raw)
		// The head may be on its way, and answered, before the body turns out to be wrong.
		case c.want == "head" && (len(seen) > 1 || strings.Contains(raw, "hidden")):
			t.Errorf("%s: %s, and the server has seen %q, want no more than a head: %.300q", c.name, got, seen, raw)
		case c.want == "" && (got == "200" || len(seen) > 0):
			t.Errorf("%s: %s, and the server has seen %q, want nothing: %.300q", c.name, got, seen, raw)
		}
		if strings.Contains(raw, "evil") {
			t.Errorf("%s: the server was sent another host: %.300q", c.name, raw)
		}
	}
}
