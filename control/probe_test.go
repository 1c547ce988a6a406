package control

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"weir/heartbeat"
	"weir/weir"
)

// An instance with two addresses and HAProxy, as the control plane finds it: what answers is real,
// and what is cut answers nothing.
func TestProbeTellsWhatAnswers(t *testing.T) {
	private, public := netip.MustParseAddr("10.110.0.5"), netip.MustParseAddr("203.0.113.5")
	target := Target{Node: "100005", Key: []byte("the load balancer's, of its own"),
		Agent: []netip.Addr{private, public}, Health: netip.AddrPortFrom(public, weir.HealthPort)}
	haproxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer haproxy.Close()
	hole, err := net.ListenPacket("udp", "127.0.0.1:0") // nobody reads it
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	wedged, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts for it
	if err != nil {
		t.Fatal(err)
	}
	defer wedged.Close()
	agent := startAgent(t, target)

	const cut = ""
	for _, test := range []struct {
		name                     string
		private, public, haproxy string // where that leads
		want                     Finding
	}{
		{"one that is well", agent, agent, haproxy.Listener.Addr().String(), Finding{Alive: true, Agent: true, Serves: true}},
		{"one that is cut off from its servers", hole.LocalAddr().String(), agent, haproxy.Listener.Addr().String(), Finding{Alive: true, Agent: true, Serves: true, Outside: true}},
		{"one that is cut off from its clients", agent, hole.LocalAddr().String(), cut, Finding{Alive: true, Agent: true}},
		{"one without an agent", hole.LocalAddr().String(), hole.LocalAddr().String(), haproxy.Listener.Addr().String(), Finding{Alive: true, Serves: true}},
		{"one whose HAProxy hangs", agent, agent, wedged.Addr().String(), Finding{Alive: true, Agent: true}},
		{"one that is dead", hole.LocalAddr().String(), hole.LocalAddr().String(), cut, Finding{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			to := map[netip.Addr]string{private: test.private, public: test.public}
			p := NewProber(func(ctx context.Context, network, addr string) (net.Conn, error) {
				where := to[netip.MustParseAddrPort(addr).Addr()]
				if network == "tcp" {
					where = test.haproxy
				}
				if where == cut {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return (&net.Dialer{}).DialContext(ctx, network, where)
			})
			var got Finding
			for range 20 { // a busy machine may answer late
				if got = p.Probe(t.Context(), target); got == test.want {
					return
				}
			}
			t.Errorf("found %+v, want %+v", got, test.want)
		})
	}
}

// startAgent answers heartbeats as the target's agent does, and returns where.
func startAgent(t *testing.T, target Target) (addr string) {
	t.Helper()
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = free.LocalAddr().String()
	free.Close()
	m := heartbeat.New(heartbeat.Options{Self: target.Node, Port: int(netip.MustParseAddrPort(addr).Port())})
	m.Set(weir.Group{Key: target.Key})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return addr
}
