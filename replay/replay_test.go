package replay

import (
	"math"
	"testing"
	"time"

	"weir/scale"
	"weir/weir"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// always is a policy that wants one size from a time on.
type always struct {
	from time.Time
	size int
}

func (a always) Size(v *View) (int, string) {
	if v.Now.Before(a.from) {
		return v.Wanted, ""
	}
	return a.size, "it wants so"
}

func TestMachinesArePaidForWhileTheyBootAndDrain(t *testing.T) {
	level := Trace{{noon, 160}, {noon.Add(time.Hour), 160}}
	machines := Machines{Capacity: 100, Boot: 5 * time.Minute, Drain: time.Minute, Good: 0.8}
	for _, c := range []struct {
		what   string
		policy Policy
		want   time.Duration
		bad    time.Duration
	}{
		{"nothing changes", always{noon, 2}, 2 * time.Hour, 0},
		{"one more from half past", always{noon.Add(30 * time.Minute), 3}, 2*time.Hour + 30*time.Minute - tick, 0},
		{"one less from half past", always{noon.Add(30 * time.Minute), 1}, time.Hour + 31*time.Minute, 30*time.Minute - tick},
	} {
		r := Run(level, noon, machines, c.policy)
		if r.Machine != c.want || r.Bad != c.bad || len(r.Minutes) != 60 {
			t.Errorf("%s: %s paid for, %s bad, %d minutes, want %s, %s and 60", c.what, r.Machine, r.Bad, len(r.Minutes), c.want, c.bad)
		}
	}
}

func TestWhatBootsDoesNotServeYet(t *testing.T) {
	crowd := Trace{{noon, 80}, {noon.Add(10 * time.Minute), 80}, {noon.Add(10*time.Minute + time.Second), 160}, {noon.Add(time.Hour), 160}}
	r := Run(crowd, noon, Machines{Capacity: 100, Boot: 5 * time.Minute, Good: 0.8}, always{noon.Add(10 * time.Minute), 2})
	if r.Bad < 4*time.Minute+50*time.Second || r.Bad > 5*time.Minute {
		t.Errorf("%s bad, want about the 5 minutes that the second machine boots", r.Bad)
	}
	if len(r.Changes) != 1 || r.Changes[0].From != 1 || r.Changes[0].To != 2 || r.Changes[0].Why != "it wants so" {
		t.Errorf("changes %+v, want one from 1 to 2", r.Changes)
	}
}

func TestWeirFollowsALoadUpAndDown(t *testing.T) {
	slope := Trace{{noon, 60}, {noon.Add(time.Hour), 60}, {noon.Add(90 * time.Minute), 600}, {noon.Add(2 * time.Hour), 600}, {noon.Add(150 * time.Minute), 60}, {noon.Add(4 * time.Hour), 60}}
	rules := scale.Rules{Min: 1, Max: 20}
	rules.Targets[scale.CPU] = 0.6
	r := Run(slope, noon, Machines{Capacity: 100, Boot: time.Minute, Drain: time.Minute, Good: 0.8}, &Weir{Rules: rules})
	if r.Bad > time.Minute { // the first machine is full sooner than a second one can boot
		t.Errorf("%s with too few machines on a slope of half an hour, want less than one boot", r.Bad)
	}
	most, last := 0, r.Minutes[len(r.Minutes)-1]
	for _, m := range r.Minutes {
		most = max(most, m.Wanted)
	}
	if most < 10 || most > 12 || last.Wanted > 2 {
		t.Errorf("at most %d machines and %d in the end, want 10 to 12 and 1 or 2", most, last.Wanted)
	}
}

func TestWhatComesBeforeCountsNot(t *testing.T) {
	level := Trace{{noon, 80}, {noon.Add(2 * time.Hour), 80}}
	r := Run(level, noon.Add(time.Hour), Machines{Capacity: 100, Good: 0.8}, always{noon.Add(30 * time.Minute), 2})
	if len(r.Changes) != 0 || r.Machine != 2*time.Hour || len(r.Minutes) != 60 {
		t.Errorf("%d changes, %s paid for and %d minutes, want those of the second hour alone", len(r.Changes), r.Machine, len(r.Minutes))
	}
	if r := Run(nil, noon, Machines{}, always{}); r.Machine != 0 {
		t.Errorf("%+v of no trace, want nothing", r)
	}
}

const one, two, four = "s-1vcpu-1gb", "s-2vcpu-4gb", "s-4vcpu-8gb"

// hill is an hour that takes one machine, one that takes eight, and another that takes one.
var hill = Trace{{noon, 60}, {noon.Add(time.Hour), 60}, {noon.Add(61 * time.Minute), 600}, {noon.Add(2 * time.Hour), 600}, {noon.Add(121 * time.Minute), 60}, {noon.Add(3 * time.Hour), 60}}

// stages is a policy that wants eight machines in the second hour and one otherwise.
type stages struct{}

func (stages) Size(v *View) (int, string) {
	if hour := v.Now.Sub(noon); hour >= time.Hour && hour < 2*time.Hour {
		return 8, "it is the second hour"
	}
	return 1, "it is not"
}

func TestMachinesOfSeveralSizesComeAndGoAsTheControlPlaneHasThem(t *testing.T) {
	dear := weir.Offer{Size: one, Price: 0.01}
	share := func(o weir.Offer, share float64) weir.Offer { o.Share = share; return o }
	for name, test := range map[string]struct {
		sizes  []weir.Offer
		max    int
		budget float64
		want   map[string]int // at most, of each size
		cost   float64        // of the second hour
		other  float64        // of each of the others
		bad    bool           // in the second
	}{
		"the cheapest for its worth":          {[]weir.Offer{dear, {Size: two, Price: 0.015}}, 20, 0, map[string]int{two: 4}, 4 * 0.015, 0.015, false},
		"or one size, if that is cheaper":     {[]weir.Offer{dear, {Size: two, Price: 0.03}}, 20, 0, map[string]int{one: 8}, 8 * 0.01, 0.01, false},
		"by the weight that was said":         {[]weir.Offer{dear, {Size: four, Price: 0.03, Weight: 3.5}}, 20, 0, map[string]int{four: 3}, 3 * 0.03, 0.03, false},
		"in proportion to their shares":       {[]weir.Offer{share(dear, 2), {Size: two, Price: 0.05, Share: 1}}, 20, 0, map[string]int{one: 4, two: 2}, 4*0.01 + 2*0.05, 0.01, false},
		"no more of a size than its max":      {[]weir.Offer{dear, {Size: two, Price: 0.015, Max: 2}}, 20, 0, map[string]int{one: 4, two: 2}, 4*0.01 + 2*0.015, 0.015, false},
		"no more than the max of all of them": {[]weir.Offer{{Size: one, Price: 0.01, Max: 2}, {Size: two, Price: 0.015, Max: 2}}, 20, 0, map[string]int{one: 2, two: 2}, 2*0.01 + 2*0.015, 0.015, true},
		"no more than the budget pays for":    {[]weir.Offer{dear, {Size: two, Price: 0.015}}, 20, 0.05, map[string]int{two: 3}, 3 * 0.015, 0.015, true},
	} {
		p := weir.Pool{Name: "web", Prefix: "web", Sizes: test.sizes, Template: weir.Template{Size: one, Image: weir.DefaultImage}, Scale: &weir.Scale{Min: 1, Max: test.max, CPU: 0.6, Budget: test.budget}}
		if err := p.Check(""); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := Run(hill, noon, Machines{Pool: p, Capacity: 100, Boot: time.Minute, Drain: 30 * time.Second, Good: 0.8}, stages{})
		cost := 0.0
		for i, used := range r.Sizes {
			if used.Size != test.sizes[i].Size || used.Most != test.want[used.Size] {
				t.Errorf("%s: at most %d of %s, want %d", name, used.Most, used.Size, test.want[used.Size])
			}
			cost += used.Cost
			if math.Abs(used.Cost-used.Machine.Hours()*test.sizes[i].Price) > closeTo {
				t.Errorf("%s: %s of %s cost %v", name, used.Machine, used.Size, used.Cost)
			}
		}
		if math.Abs(cost-r.Cost) > closeTo {
			t.Errorf("%s: it cost %v, and its sizes together %v", name, r.Cost, cost)
		}
		if want := test.cost + 2*test.other; math.Abs(r.Cost-want) > 0.02*want {
			t.Errorf("%s: it cost %v, want about %v in the second hour and %v in each of the others", name, r.Cost, test.cost, test.other)
		}
		if bad := r.Bad > 10*time.Minute; bad != test.bad {
			t.Errorf("%s: %s bad, want that to be long: %v", name, r.Bad, test.bad)
		}
	}
}

func TestSizeThatNoMachinesCanBeHadForIsNotWanted(t *testing.T) {
	p := weir.Pool{Sizes: []weir.Offer{{Size: one, Max: 2}, {Size: two, Max: 2}}, Template: weir.Template{Size: one}, Scale: &weir.Scale{Min: 1, Max: 20, CPU: 0.6}}
	r := Run(hill, noon, Machines{Pool: p, Capacity: 100, Good: 0.8}, stages{})
	if len(r.Changes) != 2 || r.Changes[0].To != 6 || r.Changes[0].Why != "there is no room for 8 machines (its sizes have as many machines as their max says)" {
		t.Errorf("changes %+v, want one to 6, since there is no room for more, and one back", r.Changes)
	}
}

func TestWhatServesStaysUntilWhatIsToTakeItsPlaceServes(t *testing.T) {
	// A machine that is worth two serves; three are wanted, and then one.
	p := weir.Pool{Sizes: []weir.Offer{{Size: one, Price: 0.01}, {Size: two, Price: 0.05, Weight: 2}}, Template: weir.Template{Size: one}, Scale: &weir.Scale{Min: 1, Max: 20, CPU: 0.6}}
	r := run{Machines: Machines{Pool: p, Boot: time.Minute}, offers: p.Offers(), have: make([]int, 2)}
	r.Pool.Count = 1
	r.members = []weir.Machine{{ID: "1", Template: weir.Template{Size: two}, Worth: 2, Created: noon.Add(-time.Hour)}}
	r.have[1], r.coming, r.serial = 1, 1, 1
	r.arrive(noon)
	if r.serving != 2 || len(r.members) != 1 {
		t.Fatalf("%v serves, want the one that is there", r.serving)
	}
	r.Pool.Count = 3
	r.settle(noon)
	r.Pool.Count = 1
	r.settle(noon.Add(time.Second))
	if r.serving != 2 || len(r.members) != 1 {
		t.Errorf("%d machines, and %v serves, want what serves to stay and what boots to go", len(r.members), r.serving)
	}
}

func TestPoolOfOneSizeHasTheSameNumbersWhateverItSays(t *testing.T) {
	machines := Machines{Capacity: 100, Boot: time.Minute, Drain: 30 * time.Second, Good: 0.8}
	alike := Run(hill, noon, machines, stages{})
	if got := int(alike.Machine / time.Second); got != 36175 || len(alike.Changes) != 2 || alike.Bad != 110*time.Second {
		t.Errorf("%d seconds paid for, %d changes and %s bad, want 36175, 2 and 110s", got, len(alike.Changes), alike.Bad)
	}
	machines.Pool = weir.Pool{Sizes: []weir.Offer{{Size: one, Price: 0.01}}, Template: weir.Template{Size: one}, Scale: &weir.Scale{Min: 1, Max: 20, CPU: 0.6}}
	said := Run(hill, noon, machines, stages{})
	if said.Machine != alike.Machine || said.Bad != alike.Bad || len(said.Changes) != len(alike.Changes) || math.Abs(said.Cost-0.01*alike.Machine.Hours()) > closeTo {
		t.Errorf("%s paid for at %v, %s bad and %d changes, want as without a list of sizes, for 0.01 an hour", said.Machine, said.Cost, said.Bad, len(said.Changes))
	}
}
