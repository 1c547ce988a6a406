package control

import (
	"math"
	"testing"
	"time"

	"weir/scale"
	"weir/weir"
)

func TestPercentilesAreOfAllInstancesAndGoOnOverAnAgentsRestart(t *testing.T) {
	f, config := newFigures(), pair()
	var a, b weir.AccessCounts
	a.Since, b.Since = noon, noon
	at := noon
	for i := range 60 {
		at = at.Add(5 * time.Second)
		if i == 30 {
			a = weir.AccessCounts{Since: at} // its agent is another one
		}
		for range 45 {
			a.Response.Add(3 * time.Millisecond)
			a.Total.Add(30 * time.Millisecond)
			b.Response.Add(3 * time.Millisecond)
		}
		for range 10 {
			b.Response.Add(400 * time.Millisecond)
		}
		for _, of := range []struct {
			node   weir.ID
			counts weir.AccessCounts
		}{{"a", a}, {"b", b}} {
			s := said(of.node, at, 7, int64(i))
			s.HAProxy.Counts.Access = &of.counts
			f.hear(s, config)
		}
	}
	balancer := f.balancer("lb", false)
	for figure, want := range map[weir.Figure]float64{
		"droplets_http_response_time_50p":    0.003,
		"droplets_http_response_time_95p":    0.4, // 10 of each 100
		"droplets_http_response_time_99p":    0.4,
		"droplets_http_session_duration_95p": 0.03,
	} {
		got := points(balancer.durations, at.Add(-10*time.Minute), at, balancerReadings[figure].log)
		if len(got) < 18 {
			t.Errorf("%s: %d points of five minutes, want one each 15 s", figure, len(got))
		}
		for _, p := range got {
			if math.Abs(p.Value-want) > want/10 {
				t.Errorf("%s: %v at %v, want %v to within 10 %%", figure, p.Value, p.At, want)
			}
		}
	}
	traffic := balancer.traffic(weir.LoadBalancer{ID: "lb"}, at)
	all := 0.0
	for _, n := range traffic.Answered.Counts {
		all += n
	}
	// The first report of each only tells from where its counters go on.
	if want := 59.0*45 + 59*55; all != want || math.Abs(traffic.Answered.Seconds-(59*2*45*0.003+59*10*0.4)) > 0.001 {
		t.Errorf("%v times in %v s, want %v", all, traffic.Answered.Seconds, want)
	}
}

func TestWithoutAnAccessLogThereIsNoPercentile(t *testing.T) {
	f := newFigures()
	f.hear(said("a", noon, 7, 1), pair())
	f.hear(said("a", noon.Add(time.Minute), 7, 50), pair())
	b := f.balancer("lb", false)
	if b.durations != nil || b.traffic(weir.LoadBalancer{}, noon).Answered.Counts != nil {
		t.Error("there are times, and nobody has counted any")
	}
}

func TestAPoolsResponseTimeMayBeOfAPercentileWhereThereIsAnAccessLog(t *testing.T) {
	f, config := newFigures(), pair()
	lb := weir.LoadBalancer{ID: "lb", Machines: []weir.ID{"1"}}
	members := []weir.Machine{{ID: "1"}}
	load := func(at time.Time, percentile int) float64 {
		s, _, _ := f.loadOf(members, []weir.LoadBalancer{lb}, percentile, at)
		return s.Load[scale.Response]
	}
	hear := func(at time.Time, n int64, c *weir.AccessCounts) {
		for _, node := range []weir.ID{"a", "b"} {
			s := said(node, at, 7, n)
			s.HAProxy.Counts.Access = c
			f.hear(s, config)
		}
	}
	at := noon
	for i := range 20 {
		at = at.Add(5 * time.Second)
		hear(at, int64(i), nil)
	}
	if got := load(at, 95); !math.IsNaN(got) {
		t.Errorf("without an access log p95 is %v, want that it is not known", got)
	}
	counts := weir.AccessCounts{Since: at}
	for i := range 20 {
		at = at.Add(5 * time.Second)
		for range 90 {
			counts.Response.Add(3 * time.Millisecond)
		}
		for range 10 {
			counts.Response.Add(400 * time.Millisecond)
		}
		now := counts
		hear(at, int64(20+i), &now)
	}
	for percentile, want := range map[int]float64{50: 0.003, 95: 0.4} {
		if got := load(at, percentile); !(math.Abs(got-want) <= want/10) {
			t.Errorf("p%d is %v, want %v to within 10 %%", percentile, got, want)
		}
	}
	for i := range 20 {
		at = at.Add(5 * time.Second)
		now := counts
		hear(at, int64(40+i), &now)
	}
	if got := load(at, 95); got != 0 {
		t.Errorf("without requests p95 is %v, want 0", got)
	}
}
