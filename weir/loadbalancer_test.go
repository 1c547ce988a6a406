package weir

import (
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
