package heartbeat

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestAPathsStateFollowsFromWhatIsHeard(t *testing.T) {
	const first = 1<<64 - 3 // numbers wrap
	type step struct {
		at   int // attended milliseconds
		do   string
		beat uint64 // the first, the second…
		want State
	}
	for name, steps := range map[string][]step{
		"never heard is not silence": {
			{0, "send", 0, Unknown}, {500, "look", 0, Unknown}, {5000, "look", 0, Unknown},
		},
		"silence counts from when the answered beat was sent": {
			{0, "send", 0, Unknown}, {10, "answer", 0, Up}, {49, "look", 0, Up}, {50, "look", 0, Late},
			{99, "look", 0, Late}, {100, "look", 0, Silent}, {9000, "look", 0, Silent},
		},
		"an answer ends silence": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {100, "look", 0, Silent}, {100, "send", 1, Silent},
			{101, "answer", 1, Up}, {149, "look", 0, Up}, {150, "look", 0, Late},
		},
		"an answer that is late makes the path late": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {25, "send", 1, Up}, {100, "look", 0, Silent},
			{101, "answer", 1, Late}, {125, "look", 0, Silent},
		},
		"an answer that is too late is none": {
			{0, "send", 0, Unknown}, {100, "stale", 0, Unknown},
		},
		"an answer counts once": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {2, "repeated", 0, Up}, {100, "look", 0, Silent}, {100, "repeated", 0, Silent},
		},
		"an answer to a beat that was never sent is none": {
			{0, "send", 0, Unknown}, {1, "stale", 1, Unknown},
		},
		"answers out of order": {
			{0, "send", 0, Unknown}, {25, "send", 1, Unknown}, {50, "send", 2, Unknown}, {51, "answer", 2, Up},
			{52, "answer", 0, Up}, {53, "answer", 1, Up}, {99, "look", 0, Up}, {100, "look", 0, Late}, {150, "look", 0, Silent},
		},
		"one refusal is believed": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {25, "send", 1, Up}, {26, "refuse", 1, Refused},
			{3000, "look", 0, Refused}, {4026, "look", 0, Silent},
		},
		"who refuses and was never heard, and falls silent, is unknown again": {
			{0, "send", 0, Unknown}, {1, "refuse", 0, Refused}, {4001, "look", 0, Unknown},
		},
		"an answer ends a refusal, unless it is to an older beat": {
			{0, "send", 0, Unknown}, {25, "send", 1, Unknown}, {26, "refuse", 1, Refused}, {27, "answer", 0, Refused},
			{50, "send", 2, Refused}, {51, "answer", 2, Up},
		},
		"a refusal of a beat older than one answered is stale": {
			{0, "send", 0, Unknown}, {25, "send", 1, Unknown}, {26, "answer", 1, Up}, {27, "disbelieve", 0, Up},
		},
		"a refusal of a beat that was never sent is not believed": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {2, "disbelieve", 1, Up},
		},
		"one stray error does not make a path unreachable": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {25, "send", 1, Up}, {26, "unreachable", 1, Up}, {27, "unreachable", 1, Up},
			{49, "look", 0, Up},
		},
		"two in a row do": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {25, "send", 1, Up}, {25, "unreachable", 1, Up},
			{50, "send", 2, Up}, {50, "unreachable", 2, Unreachable}, {4050, "look", 0, Silent},
		},
		"two with an answer between do not": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {25, "send", 1, Up}, {25, "unreachable", 1, Up},
			{50, "send", 2, Up}, {51, "answer", 2, Up}, {75, "send", 3, Up}, {75, "unreachable", 3, Up},
		},
		"beats that could not be sent do not count": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {25, "miss", 0, Up}, {50, "miss", 0, Up}, {1000, "look", 0, Up},
			{1000, "send", 1, Up}, {1024, "look", 0, Up}, {1025, "look", 0, Late}, {1075, "look", 0, Silent},
		},
		"after a long pause silence counts anew": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {45, "forgive", 0, Up}, {94, "look", 0, Up}, {95, "look", 0, Late},
			{144, "look", 0, Late}, {145, "look", 0, Silent},
		},
		"a pause makes nothing better": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {50, "look", 0, Late}, {60, "forgive", 0, Late}, {61, "look", 0, Late},
			{159, "look", 0, Late}, {160, "look", 0, Silent}, {170, "forgive", 0, Silent}, {171, "look", 0, Silent}, {221, "look", 0, Silent},
		},
		"errors about beats from before a pause are not believed": {
			{0, "send", 0, Unknown}, {1, "answer", 0, Up}, {25, "send", 1, Up}, {26, "forgive", 0, Up}, {26, "disbelieve", 1, Up},
			{27, "send", 2, Up}, {28, "refuse", 2, Refused},
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
					ok = p.fail(seq, Refused, now)
				case "unreachable":
					ok = p.fail(seq, Unreachable, now)
				case "disbelieve":
					ok = !p.fail(seq, Refused, now)
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
	states  []State
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
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := &world{T: t, r: r, pulse: newPulse(50*ms, 100*ms), worst: 24 * ms, alive: func(time.Time) bool { return true }}
		w.run(time.Time{}.Add(5*time.Minute), slow(r), slow(r))
		if want := []State{Unknown, Up}; !slices.Equal(w.states, want) {
			t.Fatalf("seed %d: %v, want %v", seed, w.log, want)
		}
	}
}

func TestAPeerThatDiesIsSilentHoweverSlowWeAre(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		end := time.Time{}.Add(time.Minute)
		w := &world{T: t, r: r, pulse: newPulse(50*ms, 100*ms), worst: 5 * ms, alive: end.After}
		w.run(end, slow(r), slow(r))
		attended := w.listen.now
		w.run(end.Add(5*time.Minute), slow(r), slow(r))
		if w.pulse.state != Silent {
			t.Fatalf("seed %d: %v, want it silent at the end", seed, w.log)
		}
		if w.listen.now < attended+100*ms {
			t.Fatalf("seed %d: silent after %v in which we listened", seed, w.listen.now-attended)
		}
	}
}

func TestAPeerThatDiesIsSilentInTime(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		end := time.Time{}.Add(time.Second + time.Duration(r.Int64N(int64(25*ms))))
		w := &world{T: t, r: r, pulse: newPulse(50*ms, 100*ms), worst: ms, alive: end.After}
		prompt := func() time.Duration { return 0 }
		w.run(end.Add(time.Second), prompt, prompt)
		if took := w.changed.Sub(end); w.pulse.state != Silent || took < 74*ms || took > 102*ms {
			t.Fatalf("seed %d: %v, want it silent 74 to 102 ms after %v", seed, w.log, end.Sub(time.Time{}))
		}
	}
}
