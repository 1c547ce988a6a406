package weir

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// mixed is a pool of so many machines of the smallest size, or of others of that worth.
func mixed(count int, sizes ...Offer) *Pool {
	return &Pool{Name: "web", Prefix: "web", Count: count, Sizes: sizes, Template: Template{Region: "lab", Size: sizes[0].Size, Image: DefaultImage}}
}

const one, two, four = "s-1vcpu-1gb", "s-2vcpu-4gb", "s-4vcpu-8gb"

// bought returns the sizes of the machines that a pool gets until it is as large as it should be, and what is missing then.
func bought(p *Pool, short ...string) (sizes []string, why string) {
	x := p.Mix(nil, func(at Placement) bool { return slices.Contains(short, at.Size) })
	more, why := x.Grow(float64(p.Count))
	for _, o := range more {
		sizes = append(sizes, strings.TrimPrefix(o.Size[:3], "s-"))
	}
	return sizes, why
}

func TestNextMachineIsOfTheSizeThatCostsLeastOrLagsBehindItsShare(t *testing.T) {
	dear, cheap := Offer{Size: one, Price: 0.01}, Offer{Size: two, Price: 0.015}
	follows := func(p *Pool, low, high int, budget float64) *Pool {
		p.Scale = &Scale{Min: low, Max: high, CPU: 0.6, Budget: budget}
		return p
	}
	for _, test := range []struct {
		name  string
		pool  *Pool
		short []string
		want  string
		why   string
	}{
		{"the cheapest for its worth", mixed(4, dear, cheap), nil, "2 2", ""},
		{"one that is no more than is missing", mixed(5, dear, cheap), nil, "2 2 1", ""},
		{"the next where there is no room", mixed(4, dear, cheap), []string{two}, "1 1 1 1", ""},
		{"none where no size has room", mixed(4, dear, cheap), []string{one, two}, "", "no size has room"},
		{"the first of those without prices", mixed(3, Offer{Size: one}, Offer{Size: two}), nil, "1 1 1", ""},
		{"as many of a size as it may have", mixed(7, dear, Offer{Size: two, Price: 0.015, Max: 2}), nil, "2 2 1 1 1", ""},
		{"no more than all may have", mixed(3, Offer{Size: one, Max: 1}, Offer{Size: two, Max: 0, Weight: 1}), nil, "1 2 2", ""},
		{"in proportion to their shares", mixed(9, Offer{Size: one, Share: 2}, Offer{Size: two, Share: 1, Weight: 1}), nil, "1 1 2 1 1 2 1 1 2", ""},
		{"by the weight that was said", mixed(4, dear, Offer{Size: two, Price: 0.015, Weight: 1}), nil, "1 1 1 1", ""},
		{"the smallest where all are too large", mixed(1, Offer{Size: two}, Offer{Size: four}), nil, "2", ""},
		{"up to the budget", follows(mixed(9, dear, cheap), 1, 10, 0.05), nil, "2 2 2", "max_hourly_cost pays for no more"},
		{"a cheaper one for the rest of the budget", follows(mixed(9, dear, cheap), 1, 10, 0.056), nil, "2 2 2 1", "max_hourly_cost pays for no more"},
	} {
		if err := test.pool.Check("lab"); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		sizes, why := bought(test.pool, test.short...)
		if got := strings.Join(sizes, " "); got != test.want || why != test.why {
			t.Errorf("%s: %q, then %q; want %q, then %q", test.name, got, why, test.want, test.why)
		}
	}
	if p := follows(mixed(1, dear, cheap), 1, 10, 0.056); p.Affords() != 7 || p.Top() != 7 || p.Clamp(20) != 7 {
		t.Errorf("it affords %d, and may be as large as %d, want 7", p.Affords(), p.Top())
	}
}

func TestSizesThatCannotBeAreRefused(t *testing.T) {
	follows := func(budget, price float64) func(*Pool) {
		return func(p *Pool) { p.Scale = &Scale{Min: 2, Max: 4, CPU: 0.6, Budget: budget, Price: price} }
	}
	for _, test := range []struct {
		sizes  []Offer
		change func(*Pool)
		want   string
	}{
		{[]Offer{{Size: one}, {Size: "huge"}}, nil, `sizes[1]: size "huge" is not offered`},
		{[]Offer{{Size: one}, {Size: one}}, nil, `sizes[1]: size "s-1vcpu-1gb" is there twice`},
		{[]Offer{{Size: one}, {Size: two, Region: "nyc3"}}, nil, `sizes[1]: region "nyc3": this Weir runs region "lab"`},
		{[]Offer{{Size: one, Weight: 2}}, nil, `sizes[0]: weight is 2, want 1`},
		{[]Offer{{Size: one}, {Size: two, Weight: 0.01}}, nil, `sizes[1]: weight is 0.01, want 0.1 to 100`},
		{[]Offer{{Size: one}, {Size: two, Price: -1}}, nil, `sizes[1]: hourly_cost is -1, want 0.0001 to 1e+06`},
		{[]Offer{{Size: one}, {Size: two, Price: 1}}, nil, `sizes[1]: hourly_cost is there for some sizes alone`},
		{[]Offer{{Size: one, Share: 1}, {Size: two}}, nil, `sizes[1]: share is there for some sizes alone`},
		{[]Offer{{Size: one, Max: -1}}, nil, `sizes[0]: max is -1, want 1 to 1000`},
		{[]Offer{{Size: one}}, func(p *Pool) { p.Template.Size = two }, `sizes[0]: size is "s-1vcpu-1gb", want "s-2vcpu-4gb"`},
		{slices.Repeat([]Offer{{Size: one}}, 11), nil, `there are 11 sizes, at most 10 are allowed`},
		{[]Offer{{Size: one, Price: 1}}, follows(0, 1), `machine_hourly_cost is there beside sizes`},
		{[]Offer{{Size: one}}, follows(1, 0), `max_hourly_cost is there without the hourly_cost of its sizes`},
		{[]Offer{{Size: one, Price: 1}, {Size: two, Price: 1.5}}, follows(1, 0), `max_hourly_cost is 1, which pays for what is worth 1 machines of the first size, want at least min_instances, which is 2`},
		{[]Offer{{Size: one}}, func(p *Pool) { p.Rolling = &Rolling{Unavailable: -1} }, `max_unavailable is -1, want 0 to 1000`},
		{[]Offer{{Size: one}}, func(p *Pool) { p.Rolling = &Rolling{Surge: new(int)} }, `max_unavailable and max_surge are both 0`},
	} {
		p := mixed(2, test.sizes...)
		if test.change != nil {
			test.change(p)
		}
		if err := p.Check("lab"); !errors.Is(err, Invalid) || !strings.HasPrefix(err.Error(), `pool "web": `+test.want) {
			t.Errorf("%+v: %v, want %s", test.sizes, err, test.want)
		}
	}
}

func TestPoolIsSpreadOverRegionsThatAreAsGoodAsEachOther(t *testing.T) {
	grown := func(p *Pool, short ...string) string {
		if err := p.Check("lab", "far"); err != nil {
			t.Fatal(err)
		}
		more, _ := p.Mix(nil, func(at Placement) bool { return slices.Contains(short, at.Region) }).Grow(float64(p.Count))
		var regions []string
		for _, o := range more {
			regions = append(regions, o.Region)
		}
		return strings.Join(regions, " ")
	}
	for _, test := range []struct {
		name, want string
		pool       *Pool
	}{
		{"without prices", "lab far lab far", mixed(4, Offer{Size: one}, Offer{Size: one, Region: "far"})},
		{"with the same price", "lab far lab far", mixed(4, Offer{Size: one, Price: 1}, Offer{Size: one, Region: "far", Price: 1})},
		{"with shares", "lab lab far lab", mixed(4, Offer{Size: one, Share: 3}, Offer{Size: one, Region: "far", Share: 1})},
		{"where one costs less", "far far far far", mixed(4, Offer{Size: one, Price: 1.1}, Offer{Size: one, Region: "far", Price: 1})},
	} {
		if got := grown(test.pool); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	p := mixed(4, Offer{Size: one}, Offer{Size: one, Region: "far"})
	if got := grown(p, "lab"); got != "far far far far" {
		t.Errorf("where one region has no room: %q, want all in the other", got)
	}
	var all []Machine
	for i, region := range []string{"lab", "far", "far", "far", "gone"} {
		m := Machine{ID: ID(fmt.Sprint(i))}
		m.Region, m.Size = region, one
		all = append(all, m)
	}
	p.Count = 1
	var gone []string
	for _, m := range p.Mix(all, nil).Shrink(all, 1) {
		gone = append(gone, m.Region)
	}
	if got := strings.Join(gone, " "); got != "gone far far far" {
		t.Errorf("it shrinks by %q, want first what it may have no more, then where most are", got)
	}
}
