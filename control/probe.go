package control

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"weir/heartbeat"
	"weir/weir"
)

// Prober asks instances of load balancers, from where the control plane stands, whether they
// live and serve. [NewProber] returns the one that asks over the network.
type Prober interface {
	// Probe asks once, and returns as soon as it knows, within a second. It can be called
	// for many targets at once.
	Probe(ctx context.Context, t Target) Finding
}

// Target is whom to ask.
type Target struct {
	Node   weir.ID        // the instance; empty where it is an address, whoever has it
	Key    []byte         // authenticates heartbeats
	Agent  []netip.Addr   // where its agent answers heartbeats
	Health netip.AddrPort // where its HAProxy answers
}

// Finding is what came of asking.
type Finding struct {
	Alive  bool // something of it answered, be it its kernel
	Agent  bool // its agent answered
	Serves bool // its HAProxy answered

	// Outside says that its agent answered, but not at its first address, on the private network.
	Outside bool
}

// How long a probe waits: for a first sign of life, which a kernel gives, however busy its
// machine is; and then for HAProxy, which may just be starting again. Only time counts in which we would have
// heard an answer: who gets to look late, for want of a CPU, has not listened. See package heartbeat.
const (
	lifePatience  = 40 * time.Millisecond
	servePatience = 250 * time.Millisecond
	probeTick     = 4 * time.Millisecond
	probeAtMost   = 900 * time.Millisecond // whatever counts
)

// Dial opens connections to the instances' networks, as [net.Dialer.DialContext] does.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// NewProber returns a Prober that asks over the network by dial.
func NewProber(dial Dial) Prober { return &prober{dial} }

type prober struct{ dial Dial }

// asker is who the control plane is to the agents that it asks.
const asker weir.ID = "control"

func (p *prober) Probe(ctx context.Context, t Target) (f Finding) {
	ctx, cancel := context.WithTimeout(ctx, probeAtMost)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	alive, serves := make(chan struct{}, 1), make(chan struct{}, 1)
	agents := make(chan int, len(t.Agent)) // which of its addresses have answered
	wg.Go(func() { p.haproxy(ctx, t.Health, alive, serves) })
	for i, addr := range t.Agent {
		wg.Go(func() {
			if p.agent(ctx, netip.AddrPortFrom(addr, weir.BeatPort), t) {
				agents <- i
			}
		})
	}
	tick := time.NewTicker(probeTick)
	defer tick.Stop()
	silent := len(t.Agent)     // so many of its addresses
	var listened time.Duration // so far
	for last := time.Now(); ; {
		select {
		case <-alive:
			f.Alive = true
		case i := <-agents:
			f.Outside = i > 0 && (f.Outside || !f.Agent)
			f.Alive, f.Agent = true, true
			silent--
		case <-serves:
			f.Alive, f.Serves = true, true
		case <-tick.C:
			now := time.Now()
			listened += min(now.Sub(last), probeTick+probeTick/4)
			last = now
			if len(alive)+len(agents)+len(serves) > 0 {
				continue // what is there counts first
			}
		case <-ctx.Done():
			return f
		}
		// An agent that is alone in not answering gets more time: it may be waiting for a CPU, and
		// nobody waits for what is found.
		waited := listened >= lifePatience
		if f.Serves && (silent == 0 || waited && f.Agent) || waited && !f.Alive || listened >= servePatience {
			return f
		}
	}
}

// agent asks an agent until ctx ends, and reports whether it answered.
func (p *prober) agent(ctx context.Context, addr netip.AddrPort, t Target) bool {
	conn, err := p.dial(ctx, "udp", addr.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	who, _, err := heartbeat.Ask(ctx, conn, t.Key, asker)
	return err == nil && who == t.Node
}

// haproxy asks HAProxy until it answers, or ctx ends. A connection that is refused says
// nothing: somebody else may refuse it in the name of a machine that is gone.
func (p *prober) haproxy(ctx context.Context, addr netip.AddrPort, accepted, answered chan<- struct{}) {
	for ctx.Err() == nil {
		if p.healthy(ctx, addr, accepted) {
			signal(answered)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *prober) healthy(ctx context.Context, addr netip.AddrPort, accepted chan<- struct{}) bool {
	conn, err := p.dial(ctx, "tcp", addr.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	signal(accepted)
	if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
