package cloud_test

import (
	"testing"

	"weir/cloud"
	"weir/cloud/cloudtest"
)

func TestFakeSpreadsMachinesOverItsHosts(t *testing.T) {
	cloudtest.RunHosts(t, func(*testing.T) cloudtest.Hosted {
		return cloud.NewFake(cloud.FakeOptions{Region: cloudtest.Region, Boots: scripts, Hosts: cloudtest.Hosts, HostRoom: cloudtest.HostRoom})
	})
}

func TestMachineGoesToTheHostThatHasFewestOfItsKindAndThenMostRoom(t *testing.T) {
	for _, test := range []struct {
		name  string
		hosts []cloud.Host
		want  int
	}{
		{"there is none", nil, -1},
		{"none has room", []cloud.Host{{0, 0}, {0, -1}}, -1},
		{"all are alike", []cloud.Host{{1, 5}, {1, 5}}, 0},
		{"one has fewer", []cloud.Host{{2, 9}, {1, 1}, {2, 9}}, 1},
		{"one has fewer and no room", []cloud.Host{{2, 1}, {0, 0}, {1, 1}}, 2},
		{"one has more room", []cloud.Host{{1, 2}, {1, 3}, {1, 1}}, 1},
	} {
		if got := cloud.PickHost(test.hosts); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}
