package agent

import (
	"testing"
	"time"

	"weir/heartbeat"
)

func TestAddressIsHeldOnlyWhileNobodyElseCanHaveBeenGivenIt(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	peer := func(answer heartbeat.Answer, heard ...time.Duration) (p heartbeat.PeerStatus) {
		p.Answer = answer
		for _, d := range heard {
			p.Paths = append(p.Paths, heartbeat.PathStatus{Heard: ago(d)})
		}
		return p
	}
	same, newer := heartbeat.Answer{Revision: 7}, heartbeat.Answer{Revision: 8}
	holds := heartbeat.Answer{Revision: 7, Holding: true}
	mute := heartbeat.PeerStatus{Paths: []heartbeat.PathStatus{{}}}
	three := []string{"https://a", "https://b", "https://c"}
	type peers = []heartbeat.PeerStatus
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
		{name: "a peer that lags lets us", peers: peers{peer(heartbeat.Answer{Revision: 5}, time.Second)}, want: time.Second},
		{name: "the newest path counts", peers: peers{peer(same, 4*time.Second, time.Second)}, want: time.Second},
		{name: "of two peers the one heard longer ago counts", peers: peers{peer(same, time.Second), peer(same, 4*time.Second)}, want: 4 * time.Second},
		{name: "one of two peers was never heard", peers: peers{peer(same, time.Second), mute}},
		{name: "one of two peers holds the address", peers: peers{peer(same, time.Second), peer(holds, time.Second)}},
		{name: "one of two peers knows a newer revision", peers: peers{peer(newer, time.Second), peer(same, time.Second)}},
		{name: "no peer, no word of peers", peers: peers{}},
		{name: "the newest evidence counts", accepted: 2 * time.Second, peers: peers{peer(same, time.Second)}, want: time.Second},
		{name: "a peer that holds does not undo a member's word", accepted: 2 * time.Second, peers: peers{peer(holds, time.Second)}, want: 2 * time.Second},
		{name: "one of three members refuses", refused: map[string]time.Duration{three[0]: time.Second}},
		{name: "two of three members refuse", refused: map[string]time.Duration{three[0]: time.Second, three[2]: 2 * time.Second}, want: 2 * time.Second},
		{name: "a stranger refuses", refused: map[string]time.Duration{three[0]: time.Second, "https://d": time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := permit{refused: map[string]time.Time{}}
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
			if got := p.at(three, test.peers, 7, !test.fromDisk); !got.Equal(want) {
				t.Errorf("allowed %v ago, want %v", now.Sub(got), test.want)
			}
		})
	}
}
