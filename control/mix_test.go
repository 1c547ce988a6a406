package control

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

const (
	small  = "s-1vcpu-1gb"
	medium = "s-2vcpu-4gb"
	large  = "s-4vcpu-8gb"
)

// mixedPool is a pool whose machines may have several sizes.
func mixedPool(p weir.Pool, sizes ...weir.Offer) weir.Pool {
	p.Sizes = sizes
	p.Template.Size = sizes[0].Size
	return p
}

// sizesOf returns how many machines a pool has of each size, and what they are worth.
func sizesOf(t *testing.T, c *Control, pool weir.ID) (of map[string]int, units float64) {
	t.Helper()
	of = map[string]int{}
	for _, m := range must(c.PoolMembers(t.Context(), pool))(t) {
		if m.Deleting.IsZero() {
			of[m.Size]++
			units += m.Capacity()
		}
	}
	return of, units
}

// fulls are sizes that a cloud has no room for.
type fulls struct {
	mu  sync.Mutex
	all []string
}

func (f *fulls) set(sizes ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = sizes
}

func (f *fulls) has(size string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.all, size)
}

func TestMixedPoolFollowsItsLoadInWhatItsMachinesAreWorth(t *testing.T) {
	inLab(t, cloud.FakeOptions{Boots: slow}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		want := mixedPool(scaled(1, 10), weir.Offer{Size: small, Price: 0.01}, weir.Offer{Size: medium, Price: 0.015, Max: 2})
		want.Scale.Budget = 0.07
		p := must(c.CreateAutoscalePool(ctx, want))(t)
		time.Sleep(time.Minute)
		if of, units := sizesOf(t, c, p.ID); units != 2 || of[medium] != 1 {
			t.Errorf("at first it has %v, worth %v, want one of the cheaper size, worth 2", of, units)
		}
		work := burden(t, c) // spread evenly over machines: a larger one is as busy with more
		work.Store(4.0)
		time.Sleep(5 * time.Minute)
		of, units := sizesOf(t, c, p.ID)
		if of[medium] != 2 || of[small] != 4 || units != 8 {
			t.Errorf("under load it has %v, worth %v, want 2 of the cheaper size and 4 others, which is what the budget pays for", of, units)
		}
		r := must(c.PoolReport(ctx, "web"))(t)
		if r.Pool.Count > 8 || r.Units != 8 || r.Machines != 6 || r.Load.Serving != 6 {
			t.Errorf("it reports %+v, want 6 machines, worth 8", r)
		}
		work.Store(0.1)
		time.Sleep(time.Hour)
		if of, units := sizesOf(t, c, p.ID); units != 2 && units != 1 || of[small] > 1 {
			t.Errorf("at last it has %v, worth %v, want one machine", of, units)
		}
		if all := strings.Join(happened(t, c, "web"), "\n"); !strings.Contains(all, "creates web-1 of size s-2vcpu-4gb, worth 2, for 0.015 an hour") || !strings.Contains(all, "1 s-1vcpu-1gb → ") {
			t.Errorf("events are\n%s\nwant what was made, and what was decided", all)
		}
	})
}

func TestMixedPoolTriesAnotherSizeWhereThereIsNoRoomForOne(t *testing.T) {
	var full fulls
	inLab(t, cloud.FakeOptions{Full: full.has}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		want := mixedPool(webPool(2), weir.Offer{Size: small, Price: 0.01}, weir.Offer{Size: medium, Price: 0.015}, weir.Offer{Size: large, Price: 0.035})
		p := must(c.CreateAutoscalePool(ctx, want))(t)
		full.set(medium) // between the question and the creation
		time.Sleep(time.Minute)
		if of, units := sizesOf(t, c, p.ID); of[small] != 2 || units != 2 {
			t.Errorf("it has %v, worth %v, want two of the first size", of, units)
		}
		if all := strings.Join(happened(t, c, "web"), "\n"); !strings.Contains(all, "has another size in place of s-2vcpu-4gb, which its cloud has no room for") {
			t.Errorf("events are\n%s\nwant why", all)
		}
		alike(t, "history", told(t, c, p.ID), "CONFIGURATION_CHANGE 2 of 2 success")
		if all := must(c.Machines(ctx))(t); len(all) != 2 || c.Cloud.(*cloud.Fake).Made(all[0].ID) != 1 {
			t.Errorf("there are %d machines, want two, made once", len(all))
		}

		full.set(small, medium, large)
		want.Count = 4
		if _, err := c.UpdateAutoscalePool(ctx, p.ID, want); !errors.Is(err, weir.Exhausted) {
			t.Errorf("made larger where no size has room: %v, want that there is none", err)
		}
		full.set(small)
		time.Sleep(shortFor) // then the cheaper size is not passed over any more
		must(c.UpdateAutoscalePool(ctx, p.ID, want))(t)
		time.Sleep(10 * time.Minute)
		if of, units := sizesOf(t, c, p.ID); of[medium] != 1 || units != 4 {
			t.Errorf("it has %v, worth %v, want one of the cheaper size beside the two", of, units)
		}
		must(c.Grow(ctx, "web", 1))(t)
		time.Sleep(time.Minute)
		if of, units := sizesOf(t, c, p.ID); of[medium] != 2 || units != 5 || must(c.AutoscalePool(ctx, p.ID))(t).Count != 5 {
			t.Errorf("grown by a machine it has %v, worth %v, want two of the cheaper size", of, units)
		}
		all := must(c.PoolMembers(ctx, p.ID))(t)
		if err := c.DeleteMachine(ctx, all[0].ID); err != nil {
			t.Fatal(err)
		}
		full.set()
		time.Sleep(time.Minute)
		if _, units := sizesOf(t, c, p.ID); units < 5 {
			t.Errorf("after one was deleted it is worth %v, want 5 again", units)
		}
	})
}

func TestMixedPoolThatScalesGrowsByTheSizesThatThereIsRoomFor(t *testing.T) {
	var full fulls
	inLab(t, cloud.FakeOptions{Full: full.has}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, mixedPool(scaled(1, 10), weir.Offer{Size: small, Price: 0.01}, weir.Offer{Size: medium, Price: 0.015})))(t)
		time.Sleep(time.Minute)
		full.set(medium)
		work := burden(t, c)
		work.Store(3.0)
		time.Sleep(5 * time.Minute)
		if of, units := sizesOf(t, c, p.ID); of[medium] != 1 || of[small] < 1 || units < 3 {
			t.Errorf("it has %v, worth %v, want it to have grown by the first size", of, units)
		}
		if all := strings.Join(happened(t, c, "web"), "\n"); !strings.Contains(all, "has other sizes than s-2vcpu-4gb for now, which its cloud has no room for") {
			t.Errorf("events are\n%s\nwant why", all)
		}
	})
}

func TestSizeThatThereIsSomeRoomForIsNotPassedOver(t *testing.T) {
	inLab(t, cloud.FakeOptions{Machines: 4}, func(t *testing.T, c *Control) {
		p := must(c.CreateAutoscalePool(t.Context(), mixedPool(scaled(5, 20), weir.Offer{Size: small, Price: 0.01}, weir.Offer{Size: medium, Price: 0.015})))(t)
		time.Sleep(time.Minute)
		work := burden(t, c)
		work.Store(20.0)
		all := ""
		for i := 0; i < 150 && !strings.Contains(all, "there is no room for"); i++ { // once there is none at all, every size is passed over
			time.Sleep(time.Second)
			all = strings.Join(happened(t, c, "web"), "\n")
		}
		if !strings.Contains(all, "there is room for 1 more machines of 4") || strings.Contains(all, "has other sizes than") {
			t.Errorf("events are\n%s\nwant none of a size that there is no room for at all", all)
		}
		time.Sleep(shortFor / 2)
		if of, _ := sizesOf(t, c, p.ID); of[medium] < 3 {
			t.Errorf("where there is room for 4 machines it has %v, want what there was room for", of)
		}
	})
}

func TestSizeThatIsOfferedNoMoreIsReplacedAndSharesAreKept(t *testing.T) {
	inLab(t, cloud.FakeOptions{}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		p := must(c.CreateAutoscalePool(ctx, mixedPool(webPool(6), weir.Offer{Size: small, Share: 2}, weir.Offer{Size: medium, Share: 1, Weight: 1})))(t)
		time.Sleep(time.Minute)
		if of, _ := sizesOf(t, c, p.ID); of[small] != 4 || of[medium] != 2 {
			t.Errorf("it has %v, want 4 and 2", of)
		}
		must(c.UpdateAutoscalePool(ctx, p.ID, mixedPool(webPool(3), weir.Offer{Size: small, Share: 2}, weir.Offer{Size: medium, Share: 1, Weight: 1})))(t)
		time.Sleep(time.Minute)
		if of, _ := sizesOf(t, c, p.ID); of[small] != 2 || of[medium] != 1 {
			t.Errorf("smaller, it has %v, want 2 and 1", of)
		}
		must(c.UpdateAutoscalePool(ctx, p.ID, mixedPool(webPool(3), weir.Offer{Size: small, Share: 2}, weir.Offer{Size: large, Share: 1})))(t)
		time.Sleep(10 * time.Minute)
		if of, units := sizesOf(t, c, p.ID); of[medium] != 0 || units < 3 {
			t.Errorf("without one size it has %v, worth %v, want none of that, and 3 or more", of, units)
		}
		if p := must(c.AutoscalePool(ctx, p.ID))(t); p.Former != nil || p.Edition != 0 || len(p.Status.Plan) > 0 {
			t.Errorf("it is %+v, want nothing more to do, and the same template", p)
		}
	})
}

func TestServersGetRequestsInProportionToWhatTheyAreWorth(t *testing.T) {
	for _, test := range []struct{ worth, want []float64 }{
		{[]float64{0, 0}, []float64{1, 1}},
		{[]float64{0, 2, 4}, []float64{1, 2, 4}},
		{[]float64{0, 0.5}, []float64{2, 1}},
		{[]float64{0, 1.5, 2}, []float64{2, 3, 4}},
		{[]float64{0, 1.9}, []float64{9, 17}},
		{[]float64{0, 0.1, 100}, []float64{3, 1, 256}},
	} {
		var all []*weir.Machine
		for _, w := range test.worth {
			all = append(all, &weir.Machine{Worth: w})
		}
		for i, got := range evenWeights(all) {
			if float64(got) != test.want[i] {
				t.Errorf("%v: weight %d for the one that is worth %v, want %v", test.worth, got, test.worth[i], test.want[i])
			}
		}
	}
	v := balancerView{lb: weir.LoadBalancer{Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}}, Machines: []weir.ID{"1", "2"}}}
	for i, id := range v.lb.Machines {
		m := weir.Machine{ID: id, Worth: float64(1 + i), Status: weir.MachineStatus{Phase: weir.MachineActive, Private: netip.MustParseAddr("10.10.0.2")}}
		v.machines = append(v.machines, m)
	}
	servers := v.proxy(time.Second, netip.MustParseAddr("10.10.0.2")).Backends[0].Servers
	if len(servers) != 2 || servers[0].Weight != 1 || servers[1].Weight != 2 {
		t.Errorf("servers %+v, want the weights 1 and 2", servers)
	}
}

func TestSupplyIsWhatThereIsRoomFor(t *testing.T) {
	inLab(t, cloud.FakeOptions{Machines: 5, Full: func(size string) bool { return size == medium }}, func(t *testing.T, c *Control) {
		p := mixedPool(webPool(9), weir.Offer{Size: small, Price: 0.01}, weir.Offer{Size: medium, Price: 0.015})
		s, err := c.supply(context.Background(), &p, nil, 9)
		if err != nil || s.units != 4 || !slices.Equal(s.short, []weir.Placement{{Region: "lab", Size: medium}}) || !errors.Is(s.err, weir.Exhausted) {
			t.Errorf("supply of 9 where there is room for 5 of one size is %+v (%v), want 4 found by halving", s, err)
		}
		s, err = c.supply(context.Background(), &p, nil, 5)
		if err != nil || s.err != nil || s.units != 5 {
			t.Errorf("supply of 5 is %+v (%v), want 5", s, err)
		}
	})
}
