package heartbeat

import (
	"time"

	"weir/weir"
)

// attended is a point in time on a clock that runs only while we listen (see attention).
type attended = time.Duration

// attention is that clock. It runs while we wait for packets, up to the moment when we
// wanted to wake: what we oversleep, and what we spend between two waits, is our own
// slowness, in which a peer's silence is not its own.
type attention struct {
	now     attended
	resting time.Time // since when we wait; zero before the first time
	woke    time.Time
}

// rest begins a wait. It returns how long we have been busy since the last one.
func (a *attention) rest(now time.Time) (busy time.Duration) {
	a.resting = now
	if a.woke.IsZero() {
		return 0
	}
	return now.Sub(a.woke)
}

// wake ends a wait that should have ended at due at the latest. It returns by how much it
// was longer.
func (a *attention) wake(now, due time.Time) (overslept time.Duration) {
	a.woke = now
	heeded := now
	if due.Before(now) {
		heeded = due
	}
	if d := heeded.Sub(a.resting); d > 0 {
		a.now += d
	}
	return max(now.Sub(due), 0)
}

const (
	remembered = 32              // beats of a path: more than are answered within Silent
	faultHolds = 4 * time.Second // how long an error of the kernel is good for; see Refused
	faultsMake = 2               // beats in a row that make a path Unreachable
)

// pulse judges one path. It is told what was sent and what came back, in the order in
// which we learned of it, and at each look says what state the path is in. It knows no
// clock: the times that it is given are attended ones.
//
// A path only gets better by an answer, or by an error that says more than silence.
type pulse struct {
	late, silent time.Duration

	state weir.PathState
	beats [remembered]beat
	next  int // in beats

	heard    bool
	mark     attended // silence counts from here: when the newest answered beat was sent, or later
	answered uint64   // that beat
	floor    uint64   // errors about this beat and older ones are not believed
	floored  bool

	unsent   bool // the last beat could not be sent: time stands still until one can
	unsentAt attended

	fault   weir.PathState // Refused, Unreachable or empty
	faultAt attended
	faultOf uint64 // the newest beat that had an error
	faults  int    // beats in a row that were said to be unreachable
}

type beat struct {
	seq      uint64
	at       attended
	sent     time.Time
	sure     bool // it is one: the zero beat is not
	answered bool
}

func newPulse(late, silent time.Duration) *pulse {
	return &pulse{late: late, silent: silent, state: weir.PathUnknown}
}

// newer reports whether beat a was sent after b. Numbers start anywhere and may wrap.
func newer(a, b uint64) bool { return int64(a-b) > 0 }

// send notes that beat seq was sent. Numbers rise.
func (p *pulse) send(seq uint64, now attended, sent time.Time) {
	p.resume(now)
	p.beats[p.next] = beat{seq: seq, at: now, sent: sent, sure: true}
	p.next = (p.next + 1) % remembered
}

// miss notes that a beat was due that could not be sent. Until the next one is, no
// silence counts.
func (p *pulse) miss(now attended) {
	p.resume(now)
	p.unsent, p.unsentAt = true, now
}

func (p *pulse) resume(now attended) {
	if p.unsent {
		p.mark += now - p.unsentAt
		p.unsent = false
	}
}

// verdict is what became of an answer.
type verdict int

const (
	heard verdict = iota
	repeated
	stale
)

// answer notes an answer to beat seq, and returns when that was sent.
func (p *pulse) answer(seq uint64, now attended) (sent time.Time, v verdict) {
	b := p.find(seq)
	switch {
	case b == nil:
		return time.Time{}, stale
	case b.answered:
		return time.Time{}, repeated
	}
	b.answered = true
	if now-b.at >= p.silent {
		return time.Time{}, stale
	}
	if !p.heard || newer(seq, p.answered) {
		p.answered = seq
		p.mark = max(p.mark, b.at)
	}
	p.heard = true
	if !newer(p.faultOf, p.answered) {
		p.fault, p.faults = "", 0
	}
	p.state = p.judge(now)
	return b.sent, heard
}

// fail notes that the kernel said about beat seq that it got nowhere: refused by the port,
// or not reachable at all. It reports whether that was believed.
func (p *pulse) fail(seq uint64, s weir.PathState, now attended) bool {
	b := p.find(seq)
	if b == nil || b.answered || p.heard && !newer(seq, p.answered) || p.floored && !newer(seq, p.floor) {
		return false
	}
	another := (p.faults == 0 && p.fault == "") || newer(seq, p.faultOf)
	if another {
		p.faultOf = seq
	}
	switch {
	case s == weir.PathRefused:
		p.faults = 0
	case another:
		p.faults++
	}
	if s == weir.PathRefused || p.faults >= faultsMake {
		p.fault, p.faultAt = s, now
		p.state = p.judge(now)
	}
	return true
}

// forgive begins the count of silence anew, since we were away for so long that whatever
// came may have been lost. A path that was silent before stays so until it is heard.
func (p *pulse) forgive(now attended) {
	p.resume(now)
	p.mark, p.faultAt, p.faults = now, now, 0
	if last := p.beats[(p.next+remembered-1)%remembered]; last.sure {
		p.floor, p.floored = last.seq, true
	}
}

// look judges the silence. All that had arrived by now must have been noted.
func (p *pulse) look(now attended) {
	next := p.judge(now)
	if p.fault == "" && next == weir.PathLate && p.state == weir.PathSilent || next == weir.PathUp {
		return // forgiven time; only an answer makes it better
	}
	if p.fault != "" && next != p.fault {
		p.fault = ""
	}
	p.state = next
}

func (p *pulse) judge(now attended) weir.PathState {
	if p.unsent {
		now = p.unsentAt
	}
	quiet := now - p.mark
	switch {
	case p.fault != "" && now-p.faultAt < faultHolds:
		return p.fault
	case !p.heard:
		return weir.PathUnknown
	case p.fault != "" || quiet >= p.silent:
		return weir.PathSilent
	case quiet >= p.late:
		return weir.PathLate
	}
	return weir.PathUp
}

// deadline returns when the path changes its state if nothing more is heard, and whether it
// does.
func (p *pulse) deadline() (attended, bool) {
	switch {
	case p.unsent:
		return 0, false
	case p.fault != "":
		return p.faultAt + faultHolds, true
	case p.state == weir.PathUp:
		return p.mark + p.late, true
	case p.state == weir.PathLate:
		return p.mark + p.silent, true
	}
	return 0, false
}

func (p *pulse) find(seq uint64) *beat {
	for i := range p.beats {
		if b := &p.beats[i]; b.sure && b.seq == seq {
			return b
		}
	}
	return nil
}
