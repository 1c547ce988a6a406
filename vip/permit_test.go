package vip

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	testMembers = []string{"https://a", "https://b", "https://c"}
	errRefused  = fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
)

// allowed reports whether a node may hold its address, by a configuration of revision 7.
func allowed(p *Permit, peers ...Word) bool {
	return time.Since(p.At(testMembers, peers, 7, true)) < DefaultLife
}

func TestNodeHoldsWhileTheControlPlaneTakesItsReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Permit
		if allowed(&p) {
			t.Error("a node that knows nothing may hold")
		}
		p.Reported(time.Now())
		if !allowed(&p) {
			t.Error("a node whose report was taken in may not hold")
		}
		time.Sleep(DefaultLife)
		if allowed(&p) {
			t.Errorf("it may hold %v after its report", DefaultLife)
		}
		p.Reported(time.Now())
		if at := p.At(testMembers, nil, 7, false); !at.IsZero() {
			t.Errorf("what a node was not told of is allowed by its reports, at %v", at)
		}
	})
}

func TestAddressIsHeldOnlyWhileNobodyElseCanHaveBeenGivenIt(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	peer := func(w Word, heard time.Duration) Word {
		w.Heard = ago(heard)
		return w
	}
	same, newer := Word{Revision: 7}, Word{Revision: 8}
	holds := Word{Revision: 7, Holding: true}
	three := []string{"https://a", "https://b", "https://c"}
	type peers = []Word
	for _, test := range []struct {
		name     string
		accepted time.Duration // how long ago a member took in a report; 0 for never
		fromDisk bool          // the NodeConfig is that of the disk, which nobody confirmed
		peers    peers
		refused  map[string]time.Duration
		want     time.Duration // 0 for never
	}{
		{name: "nobody says anything"},
		{name: "a member took in a report", accepted: 2 * time.Second, want: 2 * time.Second},
		{name: "a member did, of another process's NodeConfig", accepted: 2 * time.Second, fromDisk: true},
		{name: "the only peer lets us", peers: peers{peer(same, time.Second)}, want: time.Second},
		{name: "a peer that lags lets us", peers: peers{peer(Word{Revision: 5}, time.Second)}, want: time.Second},
		{name: "of two peers the one heard longer ago counts", peers: peers{peer(same, time.Second), peer(same, 4*time.Second)}, want: 4 * time.Second},
		{name: "one of two peers was never heard", peers: peers{peer(same, time.Second), {}}},
		{name: "one of two peers holds the address", peers: peers{peer(same, time.Second), peer(holds, time.Second)}},
		{name: "one of two peers knows a newer revision", peers: peers{peer(newer, time.Second), peer(same, time.Second)}},
		{name: "no peer, no word of peers", peers: peers{}},
		{name: "the newest evidence counts", accepted: 2 * time.Second, peers: peers{peer(same, time.Second)}, want: time.Second},
		{name: "a peer that holds does not undo a member's word", accepted: 2 * time.Second, peers: peers{peer(holds, time.Second)}, want: 2 * time.Second},
		{name: "one of three members refuses", refused: map[string]time.Duration{three[0]: time.Second}},
		{name: "two of three members refuse", accepted: 4 * time.Second, refused: map[string]time.Duration{three[0]: time.Second, three[2]: 2 * time.Second}, want: 2 * time.Second},
		{name: "two of three members refuse, and what was allowed before them has ended", accepted: 7 * time.Second,
			refused: map[string]time.Duration{three[0]: time.Second, three[2]: 2 * time.Second}, want: 7 * time.Second},
		{name: "two of three members refuse, and a peer holds the address", accepted: 3 * time.Second, peers: peers{peer(holds, time.Minute)},
			refused: map[string]time.Duration{three[0]: time.Second, three[2]: 2 * time.Second}, want: 3 * time.Second},
		{name: "a stranger refuses", accepted: 2 * time.Second, refused: map[string]time.Duration{three[0]: time.Second, "https://d": time.Second}, want: 2 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := Permit{refused: map[string]time.Time{}}
			if test.accepted > 0 {
				p.accepted = ago(test.accepted)
			}
			for url, d := range test.refused {
				p.refused[url] = ago(d)
			}
			var want time.Time
			if test.want > 0 {
				want = ago(test.want)
			}
			if got := p.At(three, test.peers, 7, !test.fromDisk); !got.Equal(want) {
				t.Errorf("allowed %v ago, want %v", now.Sub(got), test.want)
			}
		})
	}
}

func TestNodeGoesOnHoldingWhileMostMembersAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Permit
		p.Reported(time.Now())
		for range 10 {
			time.Sleep(time.Second)
			p.Failed("https://a", errRefused)
			p.Failed("https://b", errRefused)
			p.Failed("https://c", errors.New("i/o timeout"))
			if !allowed(&p) {
				t.Fatal("it may not hold, though two of three members' hosts refuse connections")
			}
		}
		if allowed(&p, Word{Heard: time.Now(), Holding: true}) && time.Since(p.accepted) > DefaultLife {
			t.Error("it may hold against the word of a peer")
		}
		time.Sleep(DefaultLife)
		p.Failed("https://a", errRefused)
		p.Failed("https://b", errRefused)
		if allowed(&p) {
			t.Error("what had ended is allowed again: the address may have been given away before most members died")
		}
	})
}

func TestNodeDoesNotHoldWhileMembersMayLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Permit
		p.Reported(time.Now())
		for range 10 {
			time.Sleep(time.Second)
			p.Failed("https://a", errRefused)
			p.Failed("https://b", errors.New("i/o timeout"))
			p.Failed("https://c", errors.New("i/o timeout"))
		}
		if allowed(&p) {
			t.Error("it may hold, though two of three members may have given the address away")
		}
	})
}
