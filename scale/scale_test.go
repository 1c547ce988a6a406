package scale

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// web is a pool that follows its CPU to 60 %, with samples of the last quarter of an hour that say how many
// machines' CPUs were busy.
func web(size int, busy func(ago time.Duration) float64) *Pool {
	p := &Pool{Rules: Rules{Min: 1, Max: 50}, Size: size}
	p.Targets[CPU] = 0.6
	for ago := Recall; ago >= 0; ago -= Every {
		s := NewSample(noon.Add(-ago), float64(size))
		s.Load[CPU] = min(busy(ago), float64(size))
		p.Recent = append(p.Recent, s)
	}
	return p
}

func always(busy float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return busy }
}

// since is one load until so long ago, and another one afterwards.
func since(ago time.Duration, before, after float64) func(time.Duration) float64 {
	return func(at time.Duration) float64 {
		if at <= ago {
			return after
		}
		return before
	}
}

func TestSizeFollowsTheTarget(t *testing.T) {
	for _, c := range []struct {
		what string
		pool *Pool
		want int
		why  string
	}{
		{"steady at the target", web(5, always(3)), 5, "CPU at 60 % of 5, with a target of 60 % that needs 5.0, which 5 can bear"},
		{"within the tolerance", web(5, always(3.2)), 5, "which 5 can bear"},
		{"more than that for long", web(5, always(3.9)), 7, "CPU at 78 % of 5, with a target of 60 % that needs 6.5"},
		{"a jump half a minute ago", web(5, since(30*time.Second, 2.4, 4.4)), 8, "CPU at 88 % of 5"},
		{"as busy as can be", web(5, since(time.Minute, 3, 5)), 12, "as busy as can be"},
		{"less for long", web(10, always(3)), 6, "CPU at 30 % of 10, with a target of 60 % that needs 5.0"},
		{"less for a minute", web(10, since(time.Minute, 6, 3)), 10, "needs 5.0"},
		{"never below the minimum", web(3, always(0)), 1, "CPU at 0 % of 3"},
		{"never above the maximum", web(45, always(45)), 50, "its maximum is 50"},
	} {
		if d := Decide(c.pool, noon); d.Size != c.want || !strings.Contains(d.Why, c.why) {
			t.Errorf("%s: %d since %q, want %d since %q", c.what, d.Size, d.Why, c.want, c.why)
		}
	}
}

func TestWhoCannotShowMoreIsJudgedByWhatRequestsCost(t *testing.T) {
	p := web(5, since(time.Minute, 2, 5))
	for i := range p.Recent {
		p.Recent[i].Load[Requests] = 200 // each costs a hundredth of a machine
		if noon.Sub(p.Recent[i].At) <= time.Minute {
			p.Recent[i].Load[Requests] = 2000
		}
	}
	if d := Decide(p, noon); d.Size < 28 || d.Size > 42 {
		t.Errorf("with ten times the requests: %d since %q, want about 33 machines", d.Size, d.Why)
	}
}

func TestPoolWithoutSignalsDoesNotShrink(t *testing.T) {
	for what, spoil := range map[string]func(p *Pool){
		"nothing is known":      func(p *Pool) { p.Recent = nil },
		"the newest is old":     func(p *Pool) { p.Recent = p.Recent[:len(p.Recent)-6] },
		"one signal is missing": func(p *Pool) { p.Targets[Memory] = 0.5 },
		"it was missing for a minute": func(p *Pool) {
			for i := range 4 {
				p.Recent[len(p.Recent)-5-i].Load[CPU] = math.NaN()
			}
		},
		"there is a gap": func(p *Pool) { p.Recent = append(p.Recent[:50], p.Recent[56:]...) },
		"it is known for a short time": func(p *Pool) {
			p.Recent = p.Recent[len(p.Recent)-5:]
		},
	} {
		p := web(10, always(1))
		spoil(p)
		if d := Decide(p, noon); d.Size != 10 {
			t.Errorf("%s: %d since %q, want it to stay at 10", what, d.Size, d.Why)
		}
	}
}

func TestPoolGrowsByOneSignalWhileAnotherIsMissing(t *testing.T) {
	p := web(5, always(4.4))
	p.Targets[Memory] = 0.5
	if d := Decide(p, noon); d.Size != 7 {
		t.Errorf("%d since %q, want 7", d.Size, d.Why)
	}
}

func TestBudgetComesBeforeSchedulesAndTheyBeforeLoad(t *testing.T) {
	office := Demand{Name: "office", From: noon.Add(-time.Hour), Until: noon.Add(time.Hour), Min: 8}
	p := web(5, always(0.6))
	p.Demands = []Demand{office}
	if d := Decide(p, noon); d.Size != 8 || !strings.HasPrefix(d.Why, "office wants at least 8 until 13:00 UTC") {
		t.Errorf("in the schedule's time: %d since %q, want 8", d.Size, d.Why)
	}
	p.Most = 6
	if d := Decide(p, noon); d.Size != 6 || !strings.HasPrefix(d.Why, "its budget pays for 6") {
		t.Errorf("with a budget for 6: %d since %q", d.Size, d.Why)
	}
	p.Most, p.Demands[0].From = 0, noon.Add(time.Minute+time.Second)
	if d := Decide(p, noon); d.Size != 8 {
		t.Errorf("a minute before the schedule's time: %d since %q, want 8, since machines take as long to boot", d.Size, d.Why)
	}
	p.Demands[0].From = noon.Add(10 * time.Minute)
	if d := Decide(p, noon); d.Size != 2 || d.Next.Size != 8 || !d.Next.At.Equal(noon.Add(10*time.Minute-DefaultBoot-Every)) {
		t.Errorf("ten minutes before it: %d, then %+v, want 2, and 8 as soon before it as a machine boots", d.Size, d.Next)
	}
}

func TestSignalThatIsMissingIsToldWhereAPoolWouldShrink(t *testing.T) {
	p := web(5, always(0.6))
	p.Targets[Response] = 0.2
	if d := Decide(p, noon); d.Size != 5 || !strings.HasSuffix(d.Why, "; it does not shrink while nothing is known of its response time") {
		t.Errorf("%d since %q, want 5, and why it does not shrink", d.Size, d.Why)
	}
	p = web(5, always(2.9))
	p.Targets[Response] = 0.2
	if d := Decide(p, noon); d.Size != 5 || strings.Contains(d.Why, "shrink") {
		t.Errorf("%d since %q, want 5, which it needs", d.Size, d.Why)
	}
}

func TestEndOfAScheduleIsTold(t *testing.T) {
	office := Demand{Name: "office", From: noon.Add(-time.Hour), Until: noon.Add(time.Hour), Min: 8}
	for name, test := range map[string]struct {
		busy   float64
		more   []Demand
		lately []Change
		want   Next
	}{
		"when it ends the load says how many":   {0.6, nil, nil, Next{2, office.Until, "office ends"}},
		"but for another that goes on":          {0.6, []Demand{{"late", noon, noon.Add(2 * time.Hour), 4}}, nil, Next{4, office.Until, "office ends"}},
		"a cooldown may last longer":            {0.6, nil, []Change{{noon.Add(-time.Minute), 2, 8}}, Next{2, noon.Add(2*time.Hour - time.Minute), "it grew 1m0s ago and cools down"}},
		"a load that needs as many stays as is": {4.8, nil, nil, Next{}},
		"and what is not known says nothing":    {math.NaN(), nil, nil, Next{}},
	} {
		p := web(8, always(test.busy))
		p.Demands, p.Lately = append([]Demand{office}, test.more...), test.lately
		if test.lately != nil {
			p.Cooldown = 2 * time.Hour
		}
		if d := Decide(p, noon); d.Size != 8 || d.Next != test.want {
			t.Errorf("%s: %d, then %+v, want 8, then %+v", name, d.Size, d.Next, test.want)
		}
	}
}

func TestPoolShrinksOnlyAfterItsCooldown(t *testing.T) {
	p := web(10, always(3))
	p.Lately = []Change{{noon.Add(-4 * time.Minute), 5, 10}}
	if d := Decide(p, noon); d.Size != 10 || d.Next.Size != 6 || !d.Next.At.Equal(noon.Add(time.Minute)) {
		t.Errorf("4 minutes after a growth: %d, then %+v, want 10, and 6 in a minute", d.Size, d.Next)
	}
	p.Lately[0].At = noon.Add(-5 * time.Minute)
	if d := Decide(p, noon); d.Size != 6 {
		t.Errorf("5 minutes after a growth: %d, want 6", d.Size)
	}
	for i := range 4 { // up and down again and again
		p.Lately = append(p.Lately, Change{noon.Add(time.Duration(2*i-20) * time.Minute), 10, 6}, Change{noon.Add(time.Duration(2*i-19) * time.Minute), 6, 10})
	}
	if d := Decide(p, noon); d.Size != 10 {
		t.Errorf("after much up and down: %d since %q, want it to wait", d.Size, d.Why)
	}
}

func TestWhatIsUsualAtThisTimeIsThereBeforeItIsNeeded(t *testing.T) {
	// Every day at 12:15 the load rises from 4 to 12 machines' worth within half an hour.
	usual := func(at time.Time) float64 {
		minute := float64(at.Hour()*60 + at.Minute() - 12*60 - 15)
		return 4 + 8*min(max(minute/30, 0), 1)
	}
	p := web(4, always(2.4))
	p.Past = &Past{}
	for at := noon.AddDate(0, 0, -5); !at.After(noon); at = at.Add(Step) {
		p.Past.Note(at, usual(at.Add(-Step/2)))
	}
	p.Boot = 10 * time.Minute
	for ; noon.Sub(p.Recent[0].At) > -20*time.Minute; p.Recent = append(p.Recent, p.Recent[len(p.Recent)-1]) {
		for i := range p.Recent {
			p.Recent[i].At = p.Recent[i].At.Add(time.Minute)
		}
		now := p.Recent[len(p.Recent)-1].At
		if d := Decide(p, now); d.Size > 4 {
			if !strings.Contains(d.Why, "at this time of former days") || now.Sub(noon) > 15*time.Minute {
				t.Errorf("at %s: %d since %q", now.Format(time.TimeOnly), d.Size, d.Why)
			}
			return
		}
	}
	t.Error("it did not grow before the load did")
}

func TestPastOfAnotherLevelIsNoReasonToGrow(t *testing.T) {
	p := web(4, always(0.3))
	p.Past = &Past{}
	for at := noon.AddDate(0, 0, -5); !at.After(noon); at = at.Add(Step) {
		p.Past.Note(at, 10)
	}
	if d := Decide(p, noon); d.Size > 4 {
		t.Errorf("%d since %q, want no growth on a day that is unlike the others", d.Size, d.Why)
	}
}

// noisy is a pool under a load of so many machines' worth that is more or less by noise, for some hours; it
// returns how often the size changed, and in which direction.
func noisy(load float64, noise func() float64, boot time.Duration, hours int) (changes []int) {
	p := web(int(math.Ceil(load/0.6)), always(load))
	p.Boot = boot
	for now := noon.Add(Every); now.Before(noon.Add(time.Duration(hours) * time.Hour)); now = now.Add(Every) {
		s := NewSample(now, float64(p.Size))
		s.Load[CPU] = min(load*(1+noise()), float64(p.Size))
		p.Recent = append(p.Recent[1:], s)
		if d := Decide(p, now); d.Size != p.Size {
			changes = append(changes, d.Size-p.Size)
			p.Lately = append(p.Lately, Change{now, p.Size, d.Size})
			p.Size = d.Size
		}
	}
	return changes
}

func TestSteadyAndNoisyLoadsDoNotHaveAPoolGoUpAndDown(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 0))
		load := 0.5 + 12*r.Float64()
		if all := noisy(load, func() float64 { return 0 }, DefaultBoot, 6); len(all) > 1 {
			t.Errorf("seed %d: a load of %.2f that does not change: it was resized by %v", seed, load, all)
		}
		all := noisy(load, func() float64 { return DefaultTolerance * (2*r.Float64() - 1) }, DefaultBoot, 6)
		turns := 0
		for i := 1; i < len(all); i++ {
			if all[i]*all[i-1] < 0 {
				turns++
			}
		}
		if turns > 1 {
			t.Errorf("seed %d: a load of %.2f with noise within the tolerance: it was resized by %v", seed, load, all)
		}
	}
}

func TestNoiseIsNotTakenForARiseHoweverLongMachinesBoot(t *testing.T) {
	for _, boot := range []time.Duration{time.Minute, 4 * time.Minute, 10 * time.Minute} {
		changes, over := 0, 0
		for seed := range uint64(20) {
			r := rand.New(rand.NewPCG(seed, 4))
			lasts := 0.0 // half of it is gone after 30 s
			all := noisy(6, func() float64 {
				lasts = 0.7*lasts + math.Sqrt(1-0.7*0.7)*r.NormFloat64()
				return 0.1 * lasts
			}, boot, 6)
			size := 10
			for _, by := range all {
				size += by
				over = max(over, size-10)
			}
			changes += len(all)
		}
		if changes > 20*6 || over > 3 {
			t.Errorf("machines that boot for %s: resized %d times in 20 times six hours, and up to %d more, want less than once an hour, and by 3 at most", boot, changes, over)
		}
	}
}

// arbitrary returns a pool that may be anything.
func arbitrary(r *rand.Rand) *Pool {
	low := 1 + r.IntN(10)
	p := &Pool{Rules: Rules{Min: low, Max: low + r.IntN(40), Most: r.IntN(3) * r.IntN(40)}, Size: r.IntN(60)}
	for s := range p.Targets {
		if r.IntN(3) == 0 {
			p.Targets[s] = 0.1 + r.Float64()
		}
	}
	p.Targets[CPU] = 0.1 + 0.9*r.Float64()
	for range r.IntN(3) {
		p.Demands = append(p.Demands, Demand{"s", noon.Add(time.Duration(r.IntN(200)-100) * time.Minute), noon.Add(time.Duration(r.IntN(100)) * time.Minute), r.IntN(60)})
	}
	level, serving := 30*r.Float64(), 1+r.IntN(40)
	for ago := time.Duration(r.IntN(80)) * Every; ago >= 0; ago -= Every {
		level = max(0, level*(0.9+0.22*r.Float64()))
		s := NewSample(noon.Add(-ago), float64(serving))
		for i := range s.Load {
			if r.IntN(40) > 0 {
				s.Load[i] = level * (0.9 + 0.2*r.Float64())
			}
		}
		s.Load[CPU] = min(s.Load[CPU], float64(serving))
		if r.IntN(30) > 0 {
			p.Recent = append(p.Recent, s)
		}
	}
	if r.IntN(2) == 0 {
		p.Past = &Past{}
		for at := noon.AddDate(0, 0, -r.IntN(30)); !at.After(noon); at = at.Add(Step) {
			p.Past.Note(at, level*2*r.Float64())
		}
	}
	if r.IntN(2) == 0 {
		p.Lately = []Change{{noon.Add(-time.Duration(r.IntN(1000)) * time.Second), 1, 2}}
	}
	return p
}

// hold checks what holds for every pool.
func hold(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	p := arbitrary(r)
	d := Decide(p, noon)
	high := p.Max
	if p.Most > 0 {
		high = min(high, p.Most)
	}
	low := min(p.Min, high)
	for _, s := range p.Demands {
		if !s.From.After(noon) && s.Until.After(noon) {
			low = max(low, min(s.Min, high))
		}
	}
	if d.Size < low || d.Size > high {
		t.Errorf("seed %d: %d since %q, want %d to %d", seed, d.Size, d.Why, low, high)
	}
	if !d.Again.After(noon) || d.Why == "" {
		t.Errorf("seed %d: again at %s, since %q", seed, d.Again, d.Why)
	}
	if d.Next.Size != 0 && (d.Next.Size > high || d.Next.Size == d.Size) {
		t.Errorf("seed %d: %d, and next %+v", seed, d.Size, d.Next)
	}
	n := len(p.Recent)
	if n == 0 {
		return
	}
	last := &p.Recent[n-1]
	was := *last
	for i := range last.Load {
		if Signal(i) == CPU {
			last.Load[i] = min(last.Load[i]*(1+r.Float64()), last.Serving)
		} else {
			last.Load[i] *= 1 + 3*r.Float64()
		}
	}
	if more := Decide(p, noon); more.Size < d.Size {
		t.Errorf("seed %d: %d since %q, and with more load %d since %q", seed, d.Size, d.Why, more.Size, more.Why)
	}
	*last = was
	for i := range p.Recent { // a signal that is not known is never a reason to shrink
		p.Recent[i].Load[CPU] = math.NaN()
	}
	if blind := Decide(p, noon); blind.Size < min(max(p.Size, low), high) {
		t.Errorf("seed %d: %d since %q without a signal of its CPU, and it had %d", seed, blind.Size, blind.Why, p.Size)
	}
}

func TestBoundsHoldAndMoreLoadNeverMakesAPoolSmaller(t *testing.T) {
	for seed := range uint64(1_500) {
		hold(t, seed)
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(hold)
}

// FuzzMoreLoad compares a load with the same load times a factor, over all of its history.
func FuzzMoreLoad(f *testing.F) {
	f.Add(uint64(1), 1.5)
	f.Fuzz(func(t *testing.T, seed uint64, factor float64) {
		if !(factor >= 1 && factor < 100) {
			t.Skip()
		}
		r := rand.New(rand.NewPCG(seed, 2))
		p := arbitrary(r)
		p.Past = nil
		p.Targets[CPU], p.Targets[Response] = 0, 0
		p.Targets[Requests] = 0.5
		d := Decide(p, noon)
		for i := range p.Recent {
			for s := range p.Recent[i].Load {
				p.Recent[i].Load[s] *= factor
			}
		}
		if more := Decide(p, noon); more.Size < d.Size {
			t.Errorf("%d since %q, and with %v times the load %d since %q", d.Size, d.Why, factor, more.Size, more.Why)
		}
	})
}

func TestPastForgetsAndHasGaps(t *testing.T) {
	var p Past
	p.Note(noon, 3)
	p.Note(noon, 9)
	p.Note(noon.Add(3*Step), 5)
	if got, want := fmt.Sprint(p.Need), "[3 NaN NaN 5]"; got != want {
		t.Errorf("it has %s, want %s", got, want)
	}
	p.Note(noon.AddDate(1, 0, 0), 7)
	if len(p.Need) != Remembered || p.Need[Remembered-1] != 7 {
		t.Errorf("after a year it has %d steps, want %d, of which the last is 7", len(p.Need), Remembered)
	}
}

// BenchmarkDecide is of ten thousand pools, each with a quarter of an hour of samples and four weeks of past.
func BenchmarkDecide(b *testing.B) {
	pools := make([]*Pool, 100)
	for i := range pools {
		r := rand.New(rand.NewPCG(uint64(i), 3))
		pools[i] = web(10, func(time.Duration) float64 { return 6 * (0.9 + 0.2*r.Float64()) })
		for j := range pools[i].Recent {
			pools[i].Recent[j].Load[Requests] = 600
		}
		pools[i].Past = &Past{}
		for at := noon.AddDate(0, 0, -28); !at.After(noon); at = at.Add(Step) {
			pools[i].Past.Note(at, 6*r.Float64())
		}
	}
	for b.Loop() {
		for i := range 10_000 {
			Decide(pools[i%len(pools)], noon)
		}
	}
}
