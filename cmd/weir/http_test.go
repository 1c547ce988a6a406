package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"

	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/edge"
	"weir/store"
)

func TestEveryRequestIsAnsweredByTheAPI(t *testing.T) {
	ctl := control.New(control.Options{Region: "lab", Store: store.Memory(), Cloud: cloud.None{}})
	defer ctl.Store.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	handler := api.New(api.Options{Control: ctl, Users: edge.NewTokens(ctl)})
	wg.Go(func() { serveHTTP(ctx, ln, handler, slog.New(slog.DiscardHandler)) })

	for _, line := range []string{"OPTIONS *", "OPTIONS /v2/droplets", "GET /v2/none", "CONNECT 127.0.0.1:80", "TRACE /"} {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n", line)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %s %v, want 401 with an X-Request-Id", line, resp.Status, resp.Header)
		}
		resp.Body.Close()
		conn.Close()
	}
}
