package heartbeat

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/weir"
)

const ms = time.Millisecond

func TestAPathsStateFollowsFromWhatIsHeard(t *testing.T) {
	const first = 1<<64 - 3 // numbers wrap
	type step struct {
		at   int // attended milliseconds
		do   string
		beat uint64 // the first, the second…
		want weir.PathState
	}
	for name, steps := range map[string][]step{
		"never heard is not silence": {
			{0, "send", 0, weir.PathUnknown}, {500, "look", 0, weir.PathUnknown}, {5000, "look", 0, weir.PathUnknown},
		},
		"silence counts from when the answered beat was sent": {
			{0, "send", 0, weir.PathUnknown}, {10, "answer", 0, weir.PathUp}, {49, "look", 0, weir.PathUp}, {50, "look", 0, weir.PathLate},
			{99, "look", 0, weir.PathLate}, {100, "look", 0, weir.PathSilent}, {9000, "look", 0, weir.PathSilent},
		},
		"an answer ends silence": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {100, "look", 0, weir.PathSilent}, {100, "send", 1, weir.PathSilent},
			{101, "answer", 1, weir.PathUp}, {149, "look", 0, weir.PathUp}, {150, "look", 0, weir.PathLate},
		},
		"an answer that is late makes the path late": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {25, "send", 1, weir.PathUp}, {100, "look", 0, weir.PathSilent},
			{101, "answer", 1, weir.PathLate}, {125, "look", 0, weir.PathSilent},
		},
		"an answer that is too late is none": {
			{0, "send", 0, weir.PathUnknown}, {100, "stale", 0, weir.PathUnknown},
		},
		"an answer counts once": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {2, "repeated", 0, weir.PathUp}, {100, "look", 0, weir.PathSilent}, {100, "repeated", 0, weir.PathSilent},
		},
		"an answer to a beat that was never sent is none": {
			{0, "send", 0, weir.PathUnknown}, {1, "stale", 1, weir.PathUnknown},
		},
		"answers out of order": {
			{0, "send", 0, weir.PathUnknown}, {25, "send", 1, weir.PathUnknown}, {50, "send", 2, weir.PathUnknown}, {51, "answer", 2, weir.PathUp},
			{52, "answer", 0, weir.PathUp}, {53, "answer", 1, weir.PathUp}, {99, "look", 0, weir.PathUp}, {100, "look", 0, weir.PathLate}, {150, "look", 0, weir.PathSilent},
		},
		"one refusal is believed": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {25, "send", 1, weir.PathUp}, {26, "refuse", 1, weir.PathRefused},
			{3000, "look", 0, weir.PathRefused}, {4026, "look", 0, weir.PathSilent},
		},
		"who refuses and was never heard, and falls silent, is unknown again": {
			{0, "send", 0, weir.PathUnknown}, {1, "refuse", 0, weir.PathRefused}, {4001, "look", 0, weir.PathUnknown},
		},
		"an answer ends a refusal, unless it is to an older beat": {
			{0, "send", 0, weir.PathUnknown}, {25, "send", 1, weir.PathUnknown}, {26, "refuse", 1, weir.PathRefused}, {27, "answer", 0, weir.PathRefused},
			{50, "send", 2, weir.PathRefused}, {51, "answer", 2, weir.PathUp},
		},
		"a refusal of a beat older than one answered is stale": {
			{0, "send", 0, weir.PathUnknown}, {25, "send", 1, weir.PathUnknown}, {26, "answer", 1, weir.PathUp}, {27, "disbelieve", 0, weir.PathUp},
		},
		"a refusal of a beat that was never sent is not believed": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {2, "disbelieve", 1, weir.PathUp},
		},
		"one stray error does not make a path unreachable": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {25, "send", 1, weir.PathUp}, {26, "unreachable", 1, weir.PathUp}, {27, "unreachable", 1, weir.PathUp},
			{49, "look", 0, weir.PathUp},
		},
		"two in a row do": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {25, "send", 1, weir.PathUp}, {25, "unreachable", 1, weir.PathUp},
			{50, "send", 2, weir.PathUp}, {50, "unreachable", 2, weir.PathUnreachable}, {4050, "look", 0, weir.PathSilent},
		},
		"two with an answer between do not": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {25, "send", 1, weir.PathUp}, {25, "unreachable", 1, weir.PathUp},
			{50, "send", 2, weir.PathUp}, {51, "answer", 2, weir.PathUp}, {75, "send", 3, weir.PathUp}, {75, "unreachable", 3, weir.PathUp},
		},
		"beats that could not be sent do not count": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {25, "miss", 0, weir.PathUp}, {50, "miss", 0, weir.PathUp}, {1000, "look", 0, weir.PathUp},
			{1000, "send", 1, weir.PathUp}, {1024, "look", 0, weir.PathUp}, {1025, "look", 0, weir.PathLate}, {1075, "look", 0, weir.PathSilent},
		},
		"after a long pause silence counts anew": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {45, "forgive", 0, weir.PathUp}, {94, "look", 0, weir.PathUp}, {95, "look", 0, weir.PathLate},
			{144, "look", 0, weir.PathLate}, {145, "look", 0, weir.PathSilent},
		},
		"a pause makes nothing better": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {50, "look", 0, weir.PathLate}, {60, "forgive", 0, weir.PathLate}, {61, "look", 0, weir.PathLate},
			{159, "look", 0, weir.PathLate}, {160, "look", 0, weir.PathSilent}, {170, "forgive", 0, weir.PathSilent}, {171, "look", 0, weir.PathSilent}, {221, "look", 0, weir.PathSilent},
		},
		"errors about beats from before a pause are not believed": {
			{0, "send", 0, weir.PathUnknown}, {1, "answer", 0, weir.PathUp}, {25, "send", 1, weir.PathUp}, {26, "forgive", 0, weir.PathUp}, {26, "disbelieve", 1, weir.PathUp},
			{27, "send", 2, weir.PathUp}, {28, "refuse", 2, weir.PathRefused},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPulse(50*ms, 100*ms)
			for _, s := range steps {
				now, seq := attended(s.at)*ms, s.beat+first
				ok := true
				switch s.do {
				case "send":
					p.send(seq, now, time.Time{})
				case "miss":
					p.miss(now)
				case "look":
					p.look(now)
				case "forgive":
					p.forgive(now)
				case "refuse":
					ok = p.fail(seq, weir.PathRefused, now)
				case "unreachable":
					ok = p.fail(seq, weir.PathUnreachable, now)
				case "disbelieve":
					ok = !p.fail(seq, weir.PathRefused, now)
				default:
					_, v := p.answer(seq, now)
					ok = v == map[string]verdict{"answer": heard, "repeated": repeated, "stale": stale}[s.do]
				}
				if !ok || p.state != s.want {
					t.Fatalf("%s of beat %d at %d ms: believed %v, state %s, want %s", s.do, s.beat, s.at, ok, p.state, s.want)
				}
			}
		})
	}
}

func TestAttentionCountsOnlyTheTimeInWhichWeListen(t *testing.T) {
	var a attention
	now := time.Now()
	after := func(d time.Duration) time.Time { now = now.Add(d); return now }

	a.rest(now)
	due := now.Add(25 * ms)
	if over := a.wake(after(10*ms), due); over != 0 || a.now != 10*ms {
		t.Errorf("woken by a packet after 10 ms of 25: overslept %v, attended %v", over, a.now)
	}
	a.rest(after(3 * ms))
	if over := a.wake(after(12*ms), due); over != 0 || a.now != 22*ms {
		t.Errorf("woken at 25 ms, 3 ms of them busy: overslept %v, attended %v, want 0 and 22 ms", over, a.now)
	}
	a.rest(now)
	if over := a.wake(after(10*time.Second), now.Add(25*ms-10*time.Second)); over != 10*time.Second-25*ms || a.now != 47*ms {
		t.Errorf("stopped for 10 s in a wait of 25 ms: overslept %v, attended %v, want 9.975s and 47 ms", over, a.now)
	}
	if busy := a.rest(after(time.Second)); busy != time.Second || a.now != 47*ms {
		t.Errorf("stopped for 1 s at work: busy %v, attended %v, want 1s and 47 ms", busy, a.now)
	}
}

// world is one monitor's loop and a peer, in invented time, with everything that can go
// wrong on our side.
type world struct {
	*testing.T
	r       *rand.Rand
	now     time.Time
	pulse   *pulse
	listen  attention
	seq     uint64
	queue   []arrival // at our socket, or on its way there
	alive   func(time.Time) bool
	worst   time.Duration // of a round trip
	log     []string
	states  []weir.PathState
	changed time.Time
}

type arrival struct {
	at  time.Time
	seq uint64
}

// run is Monitor.work with w for a kernel.
func (w *world) run(until time.Time, overslept, busy func() time.Duration) {
	const every = 25 * ms
	beat, due := w.now, w.now
	for w.now.Before(until) {
		if w.listen.rest(w.now) >= w.pulse.late {
			w.pulse.forgive(w.listen.now)
		}
		// Wait for the first arrival, or until due, or for longer.
		wake := due
		for _, a := range w.queue {
			if a.at.Before(wake) {
				wake = a.at
			}
		}
		if wake.Before(w.now) {
			wake = w.now
		}
		w.now = wake.Add(overslept())
		if w.listen.wake(w.now, due) >= w.pulse.late {
			w.pulse.forgive(w.listen.now)
		}
		var later []arrival
		for _, a := range w.queue {
			if a.at.After(w.now) {
				later = append(later, a)
				continue
			}
			w.pulse.answer(a.seq, w.listen.now)
		}
		w.queue = later
		if !w.now.Before(due) {
			w.pulse.look(w.listen.now)
		}
		w.note()
		w.now = w.now.Add(busy())
		if !w.now.Before(beat) {
			w.seq++
			w.pulse.send(w.seq, w.listen.now, w.now)
			if back := w.now.Add(time.Duration(w.r.Int64N(int64(w.worst)))); w.alive(back) {
				w.queue = append(w.queue, arrival{back, w.seq})
				if w.r.IntN(8) == 0 {
					w.queue = append(w.queue, arrival{back.Add(every), w.seq}) // repeated
				}
			}
			if beat = beat.Add(every); beat.Before(w.now) {
				beat = w.now.Add(every)
			}
		}
		due = beat
		if d, ok := w.pulse.deadline(); ok {
			if at := w.now.Add(max(d-w.listen.now, 0) + ms/10); at.Before(due) {
				due = at
			}
		}
	}
}

func (w *world) note() {
	if n := len(w.states); n == 0 || w.states[n-1] != w.pulse.state {
		w.states, w.changed = append(w.states, w.pulse.state), w.now
		w.log = append(w.log, fmt.Sprintf("%v %s", w.now.Sub(time.Time{}), w.pulse.state))
	}
}

// slow returns delays of a process that is starved: most short, some long, few very long.
func slow(r *rand.Rand) func() time.Duration {
	return func() time.Duration {
		switch n := r.IntN(1000); {
		case n < 700:
			return time.Duration(r.Int64N(int64(ms)))
		case n < 950:
			return time.Duration(r.Int64N(int64(20 * ms)))
		case n < 995:
			return time.Duration(r.Int64N(int64(200 * ms)))
		}
		return time.Duration(r.Int64N(int64(10 * time.Second)))
	}
}

func TestAPeerThatAnswersIsNeverLateHoweverSlowWeAre(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := &world{T: t, r: r, pulse: newPulse(50*ms, 100*ms), worst: 24 * ms, alive: func(time.Time) bool { return true }}
		w.run(time.Time{}.Add(5*time.Minute), slow(r), slow(r))
		if want := []weir.PathState{weir.PathUnknown, weir.PathUp}; !slices.Equal(w.states, want) {
			t.Fatalf("seed %d: %v, want %v", seed, w.log, want)
		}
	}
}

func TestAPeerThatDiesIsSilentHoweverSlowWeAre(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		end := time.Time{}.Add(time.Minute)
		w := &world{T: t, r: r, pulse: newPulse(50*ms, 100*ms), worst: 5 * ms, alive: end.After}
		w.run(end, slow(r), slow(r))
		attended := w.listen.now
		w.run(end.Add(5*time.Minute), slow(r), slow(r))
		if w.pulse.state != weir.PathSilent {
			t.Fatalf("seed %d: %v, want it silent at the end", seed, w.log)
		}
		if w.listen.now < attended+100*ms {
			t.Fatalf("seed %d: silent after %v in which we listened", seed, w.listen.now-attended)
		}
	}
}

func TestAPeerThatDiesIsSilentInTime(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		end := time.Time{}.Add(time.Second + time.Duration(r.Int64N(int64(25*ms))))
		w := &world{T: t, r: r, pulse: newPulse(50*ms, 100*ms), worst: ms, alive: end.After}
		prompt := func() time.Duration { return 0 }
		w.run(end.Add(time.Second), prompt, prompt)
		if took := w.changed.Sub(end); w.pulse.state != weir.PathSilent || took < 74*ms || took > 102*ms {
			t.Fatalf("seed %d: %v, want it silent 74 to 102 ms after %v", seed, w.log, end.Sub(time.Time{}))
		}
	}
}
