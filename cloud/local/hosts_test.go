package local

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"weir/cloud"
	"weir/cloud/cloudtest"
	"weir/weir"
)

func TestSpreadsMachinesOverItsHosts(t *testing.T) {
	cloudtest.RunHosts(t, func(t *testing.T) cloudtest.Hosted {
		room := cloudtest.Hosts * cloudtest.HostRoom * weir.Sizes()[0].Memory
		return open(t, Config{Hosts: cloudtest.Hosts, Memory: room})
	})
}

func TestRoomOnSeveralHostsIsSaidInWords(t *testing.T) {
	const gib = 1 << 30
	here := memory{total: 4 * gib, available: gib}
	small, _ := weir.SizeOf("s-1vcpu-1gb")
	large, _ := weir.SizeOf("s-8vcpu-16gb")
	middle, _ := weir.SizeOf("s-4vcpu-8gb")
	for _, test := range []struct {
		name  string
		of    memory
		hosts []load
		size  weir.Size
		n     int
		want  string
	}{
		{"enough", here, []load{{taken: 2 * gib}, {}, {}}, small, 7, ""},
		{"nothing wanted", here, []load{{down: true}, {down: true}}, small, 0, ""},
		{"one too many", here, []load{{taken: 2 * gib}, {}, {}}, small, 8,
			"the machines of each of 3 hosts may have 3072 MiB of memory: there is room for 7 more of size s-1vcpu-1gb, want 8"},
		{"what is left of each is not put together", here, []load{{taken: 2*gib + gib/2}, {taken: 2*gib + gib/2}}, small, 1,
			"the machines of each of 2 hosts may have 3072 MiB of memory: there is room for 0 more of size s-1vcpu-1gb, want 1"},
		{"one is down", here, []load{{}, {down: true}, {}}, small, 7,
			"the machines of each of 2 hosts that are up (of 3) may have 3072 MiB of memory: there is room for 6 more of size s-1vcpu-1gb, want 7"},
		{"all are down", here, []load{{down: true}, {down: true}}, small, 1, "all 2 hosts are down"},
		{"larger than a host", here, []load{{}, {}}, middle, 1, "size s-4vcpu-8gb has 8.0 GiB of memory, and the machines of one of 2 hosts may have 3072 MiB"},
		{"larger than this computer", memory{total: 4 * gib, available: gib}, []load{{}, {}}, large, 1, "size s-8vcpu-16gb has 16.0 GiB of memory, and the machines of one of 2 hosts may have 3072 MiB"},
		{"little memory left", memory{total: 4 * gib, available: gib / 8}, []load{{}, {}}, small, 1, "this host has 128 MiB of memory left, want 256 MiB for one more machine"},
	} {
		got := ""
		if err := test.of.roomOn(test.hosts, test.size, test.n, 3*gib); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// hostsOf returns which hosts machines are on, by ID.
func hostsOf(t *testing.T, c *Cloud) (hosts []string) {
	t.Helper()
	all, err := c.Machines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		hosts = append(hosts, strings.TrimSpace(fmt.Sprintf("%s %s", m.ID, m.Host)))
	}
	return hosts
}

func TestMachinesKeepTheirHostsOverARestartAndGetOthersIfTheirsAreGone(t *testing.T) {
	dir := t.TempDir()
	want := func(when string, c *Cloud, want ...string) {
		t.Helper()
		if got := hostsOf(t, c); !slices.Equal(got, want) {
			t.Errorf("%s: machines are on %q, want %q", when, got, want)
		}
	}
	c := open(t, Config{Dir: dir, Hosts: 3})
	for n := range 4 {
		s := spec(n+1, "")
		s.Apart = "pool"
		if _, err := c.CreateMachine(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.FailHost(t.Context(), "host-1"); err != nil {
		t.Fatal(err)
	}
	next := func(hosts int) {
		t.Helper()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = open(t, Config{Dir: dir, Hosts: hosts})
	}
	next(3)
	want("with as many hosts", c, "100001 host-1", "100002 host-2", "100003 host-3", "100004 host-1")
	all, err := c.Machines(t.Context())
	if err != nil || slices.ContainsFunc(all, func(m cloud.Machine) bool { return !m.On || m.HostDown }) {
		t.Errorf("after a restart machines are %+v, error %v, want all on: a fault ends with the region", all, err)
	}
	next(2)
	want("with two", c, "100001 host-1", "100002 host-2", "100003 host-2", "100004 host-1")
	next(1)
	want("with one", c, "100001", "100002", "100003", "100004")
	next(2)
	want("with two again", c, "100001 host-1", "100002 host-2", "100003 host-1", "100004 host-2")
}
