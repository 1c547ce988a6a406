package haproxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"

	"weir/weir"
)

// A streamer is a server of what does not end by itself: WebSockets, events, uploads; and over HTTP/2 gRPC.
type streamer struct {
	addr   netip.AddrPort
	health *health.Server // of gRPC
	next   chan struct{}  // the events have a number more for each
}

func startStreamer(t *testing.T) *streamer {
	t.Helper()
	s := &streamer{health: health.NewServer(), next: make(chan struct{})}
	rpc := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(rpc, s.health)
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("/grpc.health.v1.Health/", rpc)
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		c, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, text, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, text) != nil {
				return
			}
		}
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			select {
			case <-s.next:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%d %x %v", n, sum.Sum(nil), err)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(certificate(t, 9, "server.example"))
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	var wg sync.WaitGroup
	wg.Go(func() { server.ServeTLS(l, "", "") })
	t.Cleanup(func() { server.Close(); rpc.Stop(); wg.Wait() })
	s.addr = l.Addr().(*net.TCPAddr).AddrPort()
	return s
}

// streams returns a proxy in front of s, with where clients speak TLS to it, and what changes it by a reload and by servers
// that come and go.
func (s *streamer) streams(t *testing.T, speaks weir.Protocol) (front netip.AddrPort, shake func()) {
	t.Helper()
	p, _ := startProxy(t, Options{})
	front = freeAddr(t)
	server := weir.Server{ID: "1", Name: "streamer", Addr: s.addr, Weight: 1}
	other := weir.Server{ID: "2", Name: "other", Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), s.addr.Port()), Weight: 1}
	d := withTLS(testDocument(front, server), certificate(t, 1, "shop.example"))
	d.Backends[0].Secure, d.Backends[0].Check.Protocol = speaks, weir.HTTPS
	set(t, p, d)
	waitState(t, p, weir.ServerUp, server)
	return front, func() {
		t.Helper()
		d.Reload++
		set(t, p, d)
		set(t, p, withServers(d, server, other))
		set(t, p, d)
	}
}

func TestWebSocketsGoOnOverReloads(t *testing.T) {
	s := startStreamer(t)
	front, shake := s.streams(t, weir.HTTPS)
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, HandshakeTimeout: 10 * time.Second}
	c, _, err := dialer.Dial("wss://"+front.String()+"/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 30 {
		want := fmt.Sprintf("message %d", i)
		if err := c.WriteMessage(websocket.TextMessage, []byte(want)); err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if _, got, err := c.ReadMessage(); err != nil || string(got) != want {
			t.Fatalf("the echo of %q is %q (%v)", want, got, err)
		}
		if i%10 == 5 {
			shake()
		}
	}
}

func TestServerSentEventsComeAtOnceAndGoOnOverReloads(t *testing.T) {
	for _, speaks := range []weir.Protocol{weir.HTTPS, weir.HTTP2} {
		t.Run(string(speaks), func(t *testing.T) {
			s := startStreamer(t)
			front, shake := s.streams(t, speaks)
			c := client(true)
			c.Timeout = 0
			resp, err := c.Get("https://" + front.String() + "/events")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewScanner(resp.Body)
			for i := range 30 {
				if i > 0 {
					s.next <- struct{}{}
				}
				// The next one is not sent before this one is here: what is held back would never come.
				for lines.Scan() && lines.Text() == "" {
				}
				if want := "data: " + strconv.Itoa(i); lines.Text() != want {
					t.Fatalf("event %q (%v), want %q", lines.Text(), lines.Err(), want)
				}
				if i%10 == 5 {
					shake()
				}
			}
		})
	}
}

func TestUploadsOfAnySizeArriveWholeOverReloads(t *testing.T) {
	s := startStreamer(t)
	front, shake := s.streams(t, weir.HTTPS)
	const pieces = 128
	piece := make([]byte, 1<<20)
	rand.Read(piece)
	for _, h2 := range []bool{false, true} {
		for _, length := range []int64{-1, pieces << 20} { // chunked, and not
			body, in := io.Pipe()
			sum := sha256.New()
			var wg sync.WaitGroup
			wg.Go(func() {
				for i := range pieces {
					sum.Write(piece)
					if _, err := in.Write(piece); err != nil {
						t.Errorf("piece %d: %v", i, err)
						return
					}
					if i == pieces/2 {
						shake()
					}
				}
				in.Close()
			})
			req, err := http.NewRequest("POST", "https://"+front.String()+"/upload", body)
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = length
			c := client(h2)
			c.Timeout = time.Minute
			resp, err := c.Do(req)
			if err != nil {
				body.CloseWithError(err)
				wg.Wait()
				t.Fatal(err)
			}
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			wg.Wait()
			if want := fmt.Sprintf("%d %s <nil>", pieces<<20, hex.EncodeToString(sum.Sum(nil))); string(got) != want {
				t.Errorf("HTTP/2 %v, length %d: %s: the server got %s, want %s", h2, length, resp.Status, bytes.TrimSpace(got), want)
			}
		}
	}
}

func TestGRPCsStreamsAndTrailersPassAndGoOnOverReloads(t *testing.T) {
	s := startStreamer(t)
	front, shake := s.streams(t, weir.HTTP2)
	conn, err := grpc.NewClient(front.String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := grpc_health_v1.NewHealthClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// An error is in the trailers.
	if _, err := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "nobody"}); err == nil || grpcstatus.Code(err).String() != "NotFound" {
		t.Errorf("a service that is not there: %v, want NotFound", err)
	}
	stream, err := c.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	want := grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN
	for i := range 30 {
		got, err := stream.Recv()
		if err != nil || got.Status != want {
			t.Fatalf("message %d: %v (%v), want %v", i, got, err, want)
		}
		if i%10 == 5 {
			shake()
		}
		want = grpc_health_v1.HealthCheckResponse_ServingStatus(1 + i%2)
		s.health.SetServingStatus("shop", want)
	}
}
