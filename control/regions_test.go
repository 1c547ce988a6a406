package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/cloud"
	"weir/weir"
)

// regional is a pool of so many machines of one size in both regions of a lab.
func regional(count int) weir.Pool {
	return mixedPool(webPool(count), weir.Offer{Size: small, Price: 0.01}, weir.Offer{Size: small, Region: "far", Price: 0.01})
}

// populations returns how many machines each region has, by what its cloud says.
func populations(t *testing.T, all ...cloud.Region) string {
	t.Helper()
	var counts []string
	for _, c := range all {
		counts = append(counts, fmt.Sprint(len(must(c.Machines(t.Context()))(t))))
	}
	return strings.Join(counts, " + ")
}

func TestPoolIsSpreadOverRegionsAndOutlivesOne(t *testing.T) {
	var home, away breaker
	far := cloud.NewFake(cloud.FakeOptions{Region: "far", Fault: away.fault})
	inLabs(t, cloud.FakeOptions{Fault: home.fault}, map[string]cloud.Region{"far": far}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		counts := func() string { return populations(t, c.Cloud, far) }
		p := must(c.CreateAutoscalePool(ctx, regional(4)))(t)
		time.Sleep(time.Minute)
		if got := counts(); got != "2 + 2" {
			t.Errorf("a pool of 4 is %s, want 2 in each region", got)
		}
		if lines, price := costing(t, c); len(lines) != 4 || price != 0.04 {
			t.Errorf("what costs money is %q (%v), want the machines of both regions", lines, price)
		}

		// The other region goes down: what is there stays on record, what is new is made here.
		down := weir.Errorf(weir.Unavailable, "the region is down")
		away.set(fails("", down, nil))
		must(c.UpdateAutoscalePool(ctx, p.ID, regional(8)))(t)
		time.Sleep(5 * time.Minute)
		report := must(c.PoolReport(ctx, "web"))(t)
		lines, _ := costing(t, c)
		kept := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return !strings.Contains(line, "kept") })
		if len(kept) != 8 || !strings.Contains(lines[len(lines)-1], "the region is down") {
			t.Errorf("with a region down %q, want 8 machines that are kept, 2 of them there, and why these are not seen", lines)
		}
		if !strings.HasPrefix(report.Pool.Status.Stuck, "region far, where it has ") || !strings.HasSuffix(report.Pool.Status.Stuck, "the region is down") {
			t.Errorf("the pool says %q, want that a region cannot be asked", report.Pool.Status.Stuck)
		}
		if said := happened(t, c, "far"); len(said) != 1 || said[0] != "does not say what it has: list machines: the region is down; its machines are kept" {
			t.Errorf("the region's events are %q, want one that says so", said)
		}
		if said := strings.Join(happened(t, c, "web"), "\n"); !strings.Contains(said, "has another machine in place of "+small+" in far") {
			t.Errorf("it says %q (%+v), want that it has others in place of those there", said, report.Pool.Status)
		}
		if _, _, err := c.CreateMachines(ctx, []string{"alone"}, weir.Template{Region: "lab", Size: small, Image: weir.DefaultImage}); err != nil {
			t.Errorf("a machine of the region that is up: %v", err)
		}
		away.set(nil)
		time.Sleep(10 * time.Minute)
		if said := happened(t, c, "far"); len(said) != 2 || !strings.HasPrefix(said[1], "says again what it has, after 5m") {
			t.Errorf("once it is up again the region's events are %q", said)
		}
		if report := must(c.PoolReport(ctx, "web"))(t); report.Pool.Status.Stuck != "" {
			t.Errorf("once it is up again the pool says %q", report.Pool.Status.Stuck)
		}
		if got := counts(); got != "7 + 2" { // with the one that is alone
			t.Errorf("when it is up again there are %s, want none doubled and none forgotten", got)
		}
		must(c.UpdateAutoscalePool(ctx, p.ID, regional(4)))(t)
		time.Sleep(5 * time.Minute)
		if got := counts(); got != "3 + 2" {
			t.Errorf("a pool that shrinks to 4 is %s, want 2 in each region beside the one alone", got)
		}
		if err := c.DeleteAutoscalePool(ctx, p.ID, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if got := counts(); got != "1 + 0" {
			t.Errorf("once it is deleted there are %s, want the one alone", got)
		}
	})
}

func TestServersOfARegionThatIsDownAreReplacedInAnother(t *testing.T) {
	var away breaker
	far := cloud.NewFake(cloud.FakeOptions{Region: "far", Fault: away.fault})
	inLabs(t, cloud.FakeOptions{}, map[string]cloud.Region{"far": far}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		a := runCheckers(t, c)
		of, yes := regional(4), true
		of.Heal = &yes
		p := must(c.CreateAutoscalePool(ctx, of))(t)
		front(t, c)
		time.Sleep(6 * time.Minute)
		var lost []weir.ID
		for _, m := range must(far.Machines(ctx))(t) {
			lost = append(lost, m.ID)
		}
		away.set(fails("", weir.Errorf(weir.Unavailable, "the region is down"), nil))
		a.ail(lost...)
		time.Sleep(30 * time.Minute)
		serving := 0
		for _, m := range must(c.PoolMembers(ctx, p.ID))(t) {
			if m.Deleting.IsZero() && m.Region == "lab" && m.Serves() {
				serving++
			}
		}
		if serving != 4 || len(lost) != 2 {
			t.Errorf("%d machines serve in the region that is up, with %d lost, want 4 with 2 lost", serving, len(lost))
		}
		if said := strings.Join(happened(t, c, "web"), "\n"); strings.Contains(said, "no room") || !strings.Contains(said, "in far, which its cloud does not make: ") {
			t.Errorf("it says\n%s\nwant that the other region makes no machines, and nothing of room", said)
		}
		away.set(nil)
		time.Sleep(10 * time.Minute)
		if got := populations(t, c.Cloud, far); got != "6 + 0" { // with the pair
			t.Errorf("when it is up again there are %s, want none forgotten there", got)
		}
	})
}

func TestMachineWithoutARowIsFoundThoughAnotherRegionIsDown(t *testing.T) {
	var near breaker
	far := cloud.NewFake(cloud.FakeOptions{Region: "far"})
	inLabs(t, cloud.FakeOptions{}, map[string]cloud.Region{"far": far, "down": cloud.NewFake(cloud.FakeOptions{Region: "down", Fault: near.fault})}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		template := weir.Template{Region: "far", Size: small, Image: weir.DefaultImage}
		made, _, err := c.CreateMachines(ctx, []string{"a"}, template)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if err := c.DeleteMachine(ctx, made[0].ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		near.set(fails("", weir.Errorf(weir.Unavailable, "the region is down"), nil))
		if _, err := far.CreateMachine(ctx, cloud.Spec{ID: made[0].ID, Name: "a", Template: template}); err != nil { // as one whose creation came late
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := populations(t, far); got != "0" {
			t.Errorf("there are %s machines that nobody wants, want none", got)
		}
	})
}

func TestMachinesOfFurtherRegionsAreAsOthers(t *testing.T) {
	var away breaker
	far := cloud.NewFake(cloud.FakeOptions{Region: "far", Fault: away.fault})
	inLabs(t, cloud.FakeOptions{}, map[string]cloud.Region{"far": far}, func(t *testing.T, c *Control) {
		ctx := t.Context()
		template := weir.Template{Region: "far", Size: small, Image: weir.DefaultImage, Tags: []string{"web"}}
		made, _, err := c.CreateMachines(ctx, []string{"there"}, template)
		if err != nil {
			t.Fatal(err)
		}
		nowhere := template
		nowhere.Region = "mars"
		if _, _, err := c.CreateMachines(ctx, []string{"there"}, nowhere); !errors.Is(err, weir.Invalid) || err.Error() != `region "mars": this Weir runs regions lab, far` {
			t.Errorf("a machine of no region: %v", err)
		}
		time.Sleep(10 * time.Second)
		id := made[0].ID
		if m := must(c.Machine(ctx, id))(t); m.Status.Phase != weir.MachineActive || populations(t, c.Cloud, far) != "0 + 1" {
			t.Errorf("it is %s, and there are %s, want it there", m.Status.Phase, populations(t, c.Cloud, far))
		}
		far.Kill(id)
		time.Sleep(10 * time.Second)
		if m := must(c.Machine(ctx, id))(t); m.Status.Phase != weir.MachineActive {
			t.Errorf("after it died it is %s, want it on again", m.Status.Phase)
		}
		if _, err := c.ReserveAddress(ctx, weir.IPv4, id, ""); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "those are of region lab") {
			t.Errorf("an address for it: %v, want that it can have none", err)
		}
		runCheckers(t, c)
		config := must(nodeConfigs.Get(ctx, c.Store, front(t, c)[0]))(t)
		if servers := config.Proxy.Backends[0].Servers; len(servers) != 1 || servers[0].ID != id {
			t.Errorf("a load balancer has the servers %+v, want the one there", servers)
		}
		if err := c.DeleteMachine(ctx, id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if got := populations(t, far); got != "0" {
			t.Errorf("once it is deleted there are %s, want none", got)
		}
	})
}

func TestSizesOfAPoolInSeveralRegionsAreToldWithTheirRegions(t *testing.T) {
	p := regional(1)
	if got := fmt.Sprint(sized(p)); got != "[s-1vcpu-1gb in lab hourly cost 0.01 s-1vcpu-1gb in far hourly cost 0.01]" {
		t.Errorf("in two regions %s", got)
	}
	p.Sizes = p.Sizes[:1]
	if got := fmt.Sprint(sized(p)); got != "[s-1vcpu-1gb hourly cost 0.01]" {
		t.Errorf("in one %s", got)
	}
}
