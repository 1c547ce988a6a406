package weir

import (
	"net/netip"
	"strings"
	"testing"
)

func TestLoadBalancerNameLeavesRoomForItsInstances(t *testing.T) {
	lb := LoadBalancer{Region: "lab", Size: DefaultNodeSize, Instances: 1, Algorithm: RoundRobin, Health: DefaultCheck(),
		Idle: DefaultIdle, Rules: []Rule{{Entry: HTTP, EntryPort: 80, Target: HTTP, TargetPort: 80}}}
	lb.Name = strings.Repeat("a", 63-len("-lb-1000000"))
	if err := lb.Check("lab"); err != nil {
		t.Errorf("a name of %d characters: %v, want none", len(lb.Name), err)
	}
	lb.Name += "a"
	if err := lb.Check("lab"); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a name of %d characters: %v, want it to be too long: its instances could not be made", len(lb.Name), err)
	}
}

func TestInternalLoadBalancerIsOfIPv4AndOfItsCloud(t *testing.T) {
	lb := LoadBalancer{Name: "in", Region: "lab", Size: DefaultNodeSize, Instances: 1, Algorithm: RoundRobin, Health: DefaultCheck(),
		Idle: DefaultIdle, Rules: []Rule{{Entry: HTTP, EntryPort: 80, Target: HTTP, TargetPort: 80}}, Internal: true}
	if err := lb.Check("lab"); err != nil {
		t.Errorf("an internal one: %v, want none", err)
	}
	both := lb
	both.Dual = true
	if err := both.Check("lab"); err == nil || !strings.HasSuffix(err.Error(), "network_stack is DUALSTACK and network INTERNAL: the private network has IPv4 alone, want network_stack IPV4") {
		t.Errorf("one of both families: %v, want that it is refused", err)
	}
	held := lb
	held.Mode, held.Addr = OnSegment, netip.MustParsePrefix("192.0.2.10/24")
	if err := held.Check("lab"); err == nil || !strings.HasSuffix(err.Error(), "network is internal and it has the address 192.0.2.10/24 of one's own network: that says where it is reached, leave network out") {
		t.Errorf("one with an address of one's own: %v, want that it is refused", err)
	}
}
