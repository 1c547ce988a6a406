package haproxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/weir"
)

// A crash of the worker would be the loss of every connection, and of all that follow until
// the next one is up: what is done to servers is done while they answer, hang up, answer
// slowly, refuse, and while clients leave in the middle.
func TestWorkerSurvivesServersThatComeAndGoWhateverTheyDo(t *testing.T) {
	p, _ := startProxy(t, Options{})
	var moody atomic.Bool
	all := crowd(24, freeAddr(t).Port())
	startMoody(t, &moody, all)
	// Nobody listens there: checks, requests and retries end in the middle of a change.
	refuses := crowd(8, freeAddr(t).Port())
	for i := range refuses {
		refuses[i].ID = weir.ID(fmt.Sprint(i + 1))
	}
	front := freeAddr(t)
	d := testDocument(front, all[:8]...)
	d.Drain = 200 * time.Millisecond
	d.Backends[0].Check.Interval = 20 * time.Millisecond
	d.Backends[0].Check.Timeout = 100 * time.Millisecond
	set(t, p, d)
	waitState(t, p, weir.ServerUp, all[:8]...)
	before, _ := status(t, p)
	moody.Store(true)

	var clients sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer clients.Wait()
	defer cancel()
	var answers atomic.Int64
	for i := range 24 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if impatient(front, i) == nil {
					answers.Add(1)
				}
			}
		})
	}
	changes := 0
	for began := time.Now(); time.Since(began) < 10*time.Second; changes++ {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		servers := append([]weir.Server{}, all[:4+rand.IntN(len(all)-4)]...)
		servers = append(servers, refuses[:rand.IntN(len(refuses))]...)
		if err := p.Set(t.Context(), int64(changes), withServers(d, servers...)); err != nil {
			t.Fatalf("change %d: %v", changes, err)
		}
		// Some changes come while those before are under way, some later.
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
	}
	cancel()
	clients.Wait()
	after, _ := status(t, p)
	if after.PID != before.PID || after.Reloads != 0 {
		t.Errorf("worker %d with %d reloads, want worker %d with none", after.PID, after.Reloads, before.PID)
	}
	t.Logf("%d changes, %d answers", changes, answers.Load())
	if answers.Load() < 100 || changes < 50 {
		t.Errorf("%d changes and %d answers: that proves nothing", changes, answers.Load())
	}
}

// startMoody starts servers. Once they are moody they do whatever servers can do.
func startMoody(t testing.TB, moody *atomic.Bool, servers []weir.Server) {
	t.Helper()
	big := make([]byte, 256<<10)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mood := 9
		if moody.Load() {
			mood = rand.IntN(10)
		}
		switch {
		case mood == 0 || mood == 1 && r.URL.Path != "/health":
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			c.(*net.TCPConn).SetLinger(0) // a reset
			c.Close()
		case mood == 2:
			time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		case mood == 3:
			w.WriteHeader(http.StatusServiceUnavailable)
		case mood < 6:
			w.Write(big)
		case mood == 6:
			// A tunnel, as a WebSocket is, that its server ends.
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(http.StatusSwitchingProtocols)
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
				c.Close()
			}
		}
	})}
	var wg sync.WaitGroup
	var ended atomic.Bool
	for _, at := range servers {
		wg.Go(func() {
			for !ended.Load() {
				l, err := net.Listen("tcp", at.Addr.String())
				if err != nil {
					time.Sleep(10 * time.Millisecond) // the last one is not gone yet
					continue
				}
				// For a while it refuses, also those whose check has just passed.
				var pause sync.WaitGroup
				pause.Go(func() {
					for !moody.Load() && !ended.Load() {
						time.Sleep(10 * time.Millisecond)
					}
					time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
					l.Close()
				})
				s.Serve(l)
				pause.Wait()
				time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
			}
		})
	}
	t.Cleanup(func() { ended.Store(true); s.Close(); wg.Wait() })
}

// impatient makes some requests and leaves at any time.
func impatient(front netip.AddrPort, i int) error {
	c, err := net.DialTimeout("tcp", front.String(), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for range 1 + rand.IntN(20) {
		c.SetDeadline(time.Now().Add(time.Duration(1+rand.IntN(400)) * time.Millisecond))
		upgrade := ""
		if i%4 == 0 {
			upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
		}
		if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: shop.example\r\n%s\r\n", upgrade); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		slow := io.LimitReader(resp.Body, int64(rand.IntN(512<<10)))
		_, err = io.Copy(io.Discard, slow)
		resp.Body.Close()
		if err != nil || resp.Close || resp.StatusCode == http.StatusSwitchingProtocols {
			return err
		}
	}
	return nil
}
