package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

func TestADualBalancerListensAtBothAnchorsAndIsOpenToBothFamilies(t *testing.T) {
	lb := balancer()
	lb.Dual = true
	v := balancerView{lb: lb, all: []weir.LoadBalancer{lb}, machines: []weir.Machine{server(1), instance(2)},
		configs: map[weir.ID]weir.NodeConfig{}, statuses: map[weir.ID]weir.NodeStatus{}}
	if c := v.planConfigs(); len(c.configs) > 0 {
		t.Errorf("an instance without IPv6 gets %+v, want nothing yet", c.configs)
	}
	v.machines[1].Status.Anchor6 = netip.MustParseAddr("fd00::2")
	var got []string
	for _, f := range v.planConfigs().configs[0].Proxy.Frontends {
		got = append(got, fmt.Sprint(f.Name, " ", f.Bind, " ", f.Backend))
	}
	if want := []string{"http-80 10.17.0.2:80 servers-http-8080", "http-80-ipv6 [fd00::2]:80 servers-http-8080"}; !slices.Equal(got, want) {
		t.Errorf("frontends %q, want %q", got, want)
	}
	wall := firewalls(v.all, v.machines, nil, netip.Prefix{})["100002"]
	if got := fmt.Sprint(wall.Openings[0].Peers); got != "[0.0.0.0/0 ::/0]" {
		t.Errorf("port 80 is open to %s, want everybody of both families", got)
	}
}

func TestBothAddressesOfADualBalancerMoveInOneGo(t *testing.T) {
	var refuses atomic.Bool // the cloud, for a while, to move the one of IPv6
	var calls []string
	o := cloud.FakeOptions{Fault: func(_ context.Context, call string) (before, after error) {
		if !strings.HasPrefix(call, "assign") {
			return nil, nil
		}
		calls = append(calls, call) // one owner's are never at the same time
		if refuses.Load() && strings.Contains(call, ":") {
			return errors.New("not now"), nil
		}
		return nil, nil
	}}
	inLab(t, o, func(t *testing.T, c *Control) {
		ctx := t.Context()
		template := weir.Template{Region: "lab", Size: "s-1vcpu-1gb", Image: "debian-12-x64", IPv6: true}
		made, _, err := c.CreateMachines(ctx, []string{"a", "b"}, template)
		if err != nil {
			t.Fatal(err)
		}
		point := func(machine weir.ID) {
			t.Helper()
			err := c.Store.Update(ctx, func(tx *store.Tx) error {
				addresses.Put(tx, "lb", weir.Address{Owner: "lb", Dual: true, Machine: machine, Created: time.Now()})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		at := func() (row weir.Address, held string) {
			t.Helper()
			all := must(c.Cloud.Addresses(ctx))(t)
			for _, a := range all {
				held += fmt.Sprintf("%s%s ", a.Addr, a.Machines)
			}
			return must(addresses.Get(ctx, c.Store, "lb"))(t), held
		}
		first, second := made[0].ID, made[1].ID
		point(first)
		time.Sleep(time.Minute)
		synctest.Wait()
		row, held := at()
		if want := fmt.Sprintf("203.0.113.1[%s] 2001:db8:0:2::1[%s] ", first, first); held != want || row.Assigned != first || row.Addr6.String() != "2001:db8:0:2::1" {
			t.Errorf("the cloud has %s, and the row %+v, want %s", held, row, want)
		}

		// It counts as moved only when both have.
		calls = nil
		refuses.Store(true)
		row.Machine = second
		if err := c.Store.Update(ctx, func(tx *store.Tx) error { addresses.Put(tx, "lb", row); return nil }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if row, held := at(); row.Assigned != first || !strings.Contains(held, fmt.Sprintf("203.0.113.1[%s]", second)) {
			t.Errorf("the cloud has %s, and the row says that it is at %s, want it where it was until both have moved", held, row.Assigned)
		}
		refuses.Store(false)
		time.Sleep(time.Minute)
		if row, held := at(); row.Assigned != second || strings.Count(held, string(second)) != 2 {
			t.Errorf("the cloud has %s, and the row says that it is at %s, want both at %s", held, row.Assigned, second)
		}
		if len(calls) < 2 || !strings.Contains(calls[0], "203.0.113.1") || !strings.Contains(calls[1], "2001:db8:0:2::1") {
			t.Errorf("calls %q, want that of IPv4 and at once that of IPv6", calls)
		}
		if err := c.Store.Update(ctx, func(tx *store.Tx) error {
			return changeAddress(ctx, tx, "lb", func(a *weir.Address) { a.Deleting = time.Now() })
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if all := must(c.Cloud.Addresses(ctx))(t); len(all) > 0 {
			t.Errorf("the cloud still has %v", all)
		}
	})
}

func TestADualBalancerIsRefusedOnASegment(t *testing.T) {
	lb := onSegment("web")
	lb.Dual = true
	err := newCloudless(t).checkPlace(lb)
	if !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "network_stack is DUALSTACK, want IPV4") {
		t.Errorf("error %v, want that it is invalid, and what to do", err)
	}
}
