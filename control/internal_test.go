package control

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// internal returns the view of an internal load balancer with one server and two instances.
func internal() balancerView {
	lb := balancer()
	lb.Internal = true
	v := balancerView{lb: lb, all: []weir.LoadBalancer{lb}, machines: []weir.Machine{server(1), instance(2), instance(4)},
		configs: map[weir.ID]weir.NodeConfig{}, statuses: map[weir.ID]weir.NodeStatus{},
		from: []netip.Addr{netip.MustParseAddr("10.110.0.1")}, private: netip.MustParsePrefix("10.110.0.0/20")}
	for i := range v.machines {
		m := &v.machines[i]
		m.Status.Public = netip.MustParseAddr(strings.Replace(m.Status.Private.String(), "10.110", "203.0", 1))
		v.statuses[m.ID] = weir.NodeStatus{Revision: 1}
	}
	v.address = &weir.Address{Owner: lb.ID, Private: true, Addr: netip.MustParseAddr("10.110.15.254"), Machine: "100002", Assigned: "100002"}
	return v
}

func TestAnInternalBalancerListensOnThePrivateNetworkAndIsOpenToNobodyElse(t *testing.T) {
	v := internal()
	var binds []string
	for _, c := range v.planConfigs().configs {
		for _, f := range c.Proxy.Frontends {
			binds = append(binds, f.Bind.String())
		}
	}
	if want := []string{"10.110.0.2:80", "10.110.0.4:80"}; !slices.Equal(binds, want) {
		t.Errorf("it listens at %q, want %q", binds, want)
	}
	wall := fmt.Sprint(firewalls(v.all, v.machines, v.from, v.private)["100002"].Openings)
	if want := fmt.Sprint([]weir.Opening{{Port: 80, Peers: prefixes("10.110.0.0/20")},
		{Port: weir.BeatPort, UDP: true, Peers: prefixes("10.110.0.1/32", "10.110.0.2/32", "10.110.0.4/32")},
		{Port: weir.HealthPort, Peers: prefixes("10.110.0.1/32", "10.110.0.2/32", "10.110.0.4/32")}}); wall != want {
		t.Errorf("an instance is open to %s, want %s", wall, want)
	}
}

// Its clients' link is that of its servers: what becomes of the other one is of no account.
func TestAnInternalBalancerIsAskedAndWatchedOnThePrivateNetworkAlone(t *testing.T) {
	v := internal()
	service, instances := v.targets()
	if want := "10.110.15.254:7073"; service.Health.String() != want {
		t.Errorf("its address is asked at %s, want %s", service.Health, want)
	}
	for i, want := range []string{"[10.110.0.2] 10.110.0.2:7073", "[10.110.0.4] 10.110.0.4:7073"} {
		if got := fmt.Sprint(instances[i].Agent, " ", instances[i].Health); got != want {
			t.Errorf("an instance is asked at %s, want %s", got, want)
		}
	}
	if got := fmt.Sprint(v.groupOf(v.machines[1]).Peers); got != "[{100004 [10.110.0.4]}]" {
		t.Errorf("an instance watches %s, want its peer at its private address", got)
	}
}

func TestAnInternalBalancerHasAnAddressOfThePrivateNetworkThatIsNoUsers(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		lb := balancer()
		lb.Region, lb.Internal = "lab", true
		lb, err := c.CreateLoadBalancer(ctx, lb)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		held := must(c.Cloud.Addresses(ctx))(t)
		if len(held) != 1 || !held[0].Private || held[0].Owner != lb.ID {
			t.Fatalf("the cloud has %+v, want one address of the private network", held)
		}
		now := must(c.LoadBalancer(ctx, lb.ID))(t)
		if now.Status.Address != held[0].Addr || !c.Cloud.PrivateNetwork().Contains(held[0].Addr) {
			t.Errorf("it shows the address %s, want %s, of %s", now.Status.Address, held[0].Addr, c.Cloud.PrivateNetwork())
		}
		if mine := must(c.Addresses(ctx))(t); len(mine) > 0 {
			t.Errorf("a user's reserved IPs are %v, want none", mine)
		}
		if _, err := c.Address(ctx, held[0].Addr); !errors.Is(err, weir.NotFound) {
			t.Errorf("its address as a reserved IP of a user's: %v, want that there is none", err)
		}
		if err := c.ReleaseAddress(ctx, held[0].Addr); !errors.Is(err, weir.Conflict) {
			t.Errorf("a user releases it: %v, want that it is a load balancer's", err)
		}

		// The way it was made is the way it stays.
		other := now
		other.Internal = false
		if _, err := c.Apply(ctx, nil, other, false); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), `load balancer "web": network is external, and it has internal, which stays as it was created`) {
			t.Errorf("made external: %v, want that it stays as it was created", err)
		}
		if changes, err := c.Apply(ctx, nil, now, false); err != nil || len(changes) > 0 {
			t.Errorf("applied as it is: %q, %v, want no change", changes, err)
		}
		now, err = c.UpdateLoadBalancer(ctx, lb.ID, func(lb *weir.LoadBalancer) error { lb.Internal = false; return nil })
		if err != nil || !now.Internal {
			t.Errorf("changed: internal %v (%v), want it as it was", now.Internal, err)
		}
		if err := c.DeleteLoadBalancer(ctx, lb.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if held := must(c.Cloud.Addresses(ctx))(t); len(held) > 0 {
			t.Errorf("after its deletion the cloud has %v", held)
		}
	})
}

func TestAnInternalBalancerAnswersNoAuthority(t *testing.T) {
	lb := balancer()
	if !answersChallenges(&lb) {
		t.Error("one with HTTP at port 80 answers an authority: false, want true")
	}
	lb.Internal = true
	if answersChallenges(&lb) {
		t.Error("an internal one answers an authority: true, want false: it is not reached from outside")
	}
}

// noPrivate is a cloud that reserves no address of its private network.
type noPrivate struct{ cloud.Cloud }

func (noPrivate) PrivateNetwork() netip.Prefix { return netip.Prefix{} }

func TestAnInternalBalancerIsRefusedWhereThereIsNoAddressForIt(t *testing.T) {
	lb := onSegment("web")
	lb.Internal = true
	if err := lb.Check(lb.Region); err == nil || !strings.Contains(err.Error(), "network is internal and it has the address 192.0.2.10/24 of one's own network") {
		t.Errorf("on a segment: %v, want that it is refused", err)
	}
	db := store.Memory()
	defer db.Close()
	c := New(Options{Region: "local1", Store: db, Cloud: noPrivate{cloud.NewFake(cloud.FakeOptions{})}})
	lb = balancer()
	lb.Internal = true
	if err := c.checkPlace(lb); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "network is INTERNAL: this cloud reserves no addresses of its private network, want EXTERNAL") {
		t.Errorf("in a cloud without: %v, want that it is refused", err)
	}
	lb.Internal = false
	if err := c.checkPlace(lb); err != nil {
		t.Errorf("an external one there: %v", err)
	}
}
