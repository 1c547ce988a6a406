package nodeapi

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"weir/weir"
)

func newConfig(node weir.ID, revision int64) weir.NodeConfig {
	servers := make([]weir.Server, 3)
	for i := range servers {
		servers[i] = weir.Server{ID: weir.ID(fmt.Sprint(i + 1)), Name: fmt.Sprintf("web-%d", i+1), Weight: 1,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 80)}
	}
	return weir.NodeConfig{Node: node, Revision: revision, Proxy: weir.Proxy{
		LoadBalancer: "lb", Name: "shop", Drain: 10 * time.Second,
		Frontends: []weir.Frontend{{Name: "http-80", Mode: weir.HTTP, Idle: time.Minute, Backend: "web",
			Bind: netip.MustParseAddrPort("10.10.0.5:80")}},
		Backends: []weir.Backend{{Name: "web", Mode: weir.HTTP, Balance: weir.RoundRobin, Idle: time.Minute,
			Check: weir.DefaultCheck(), Servers: servers}},
	}}
}

var sameAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})
