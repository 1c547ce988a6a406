package replay

import (
	"testing"
	"time"

	"weir/scale"
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
	hill := Trace{{noon, 60}, {noon.Add(time.Hour), 60}, {noon.Add(90 * time.Minute), 600}, {noon.Add(2 * time.Hour), 600}, {noon.Add(150 * time.Minute), 60}, {noon.Add(4 * time.Hour), 60}}
	rules := scale.Rules{Min: 1, Max: 20}
	rules.Targets[scale.CPU] = 0.6
	r := Run(hill, noon, Machines{Capacity: 100, Boot: time.Minute, Drain: time.Minute, Good: 0.8}, &Weir{Rules: rules})
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
