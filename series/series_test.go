package series_test

import (
	"flag"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/series"
)

var seed = flag.Uint64("seed", 0, "the only seed to test; 0 means two hundred of them")

// noon is a time at which steps of every length that is used here begin.
var noon = time.Unix(1_800_000_000, 0)

func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

var spans = []series.Span{{Every: 10 * time.Second, Count: 30}, {Every: time.Minute, Count: 60}}

// rise tells w of a time and of what a counter rose by in it.
func rise(w *series.Window, from, to, n float64) {
	w.Known(at(from), at(to))
	w.Rise(0, at(from), at(to), n)
}

type point struct {
	at    float64 // seconds after noon
	value float64
}

func rates(w *series.Window, start, end float64) (points []point) {
	for s := range w.Steps(at(start), at(end)) {
		points = append(points, point{s.At.Sub(noon).Seconds(), s.Rate(0)})
	}
	return points
}

func TestRiseIsSpreadOverTheTimeThatItTook(t *testing.T) {
	w := series.New(1, 0, spans...)
	rise(w, 0, 25, 50) // 2 a second
	rise(w, 25, 40, 15)
	want := []point{{10, 2}, {20, 2}, {30, 1.5}, {40, 1}}
	if got := rates(w, 0, 100); !slices.Equal(got, want) {
		t.Errorf("rates %v, want %v", got, want)
	}
	if got := rates(w, 10, 30); !slices.Equal(got, want[1:3]) {
		t.Errorf("rates after 10 s and until 30 s %v, want %v", got, want[1:3])
	}
}

func TestStepIsShownWhenItIsOverAndMostlyKnown(t *testing.T) {
	w := series.New(1, 0, spans...)
	if got := rates(w, 0, 1e9); got != nil {
		t.Errorf("rates %v of a window that knows nothing, want none", got)
	}
	rise(w, 6, 19, 13)
	if got := rates(w, 0, 100); got != nil {
		t.Errorf("rates %v, want none: of the first step 4 s are known, and the second is not over", got)
	}
	rise(w, 19, 31, 12)
	if got, want := rates(w, 0, 100), []point{{20, 1}, {30, 1}}; !slices.Equal(got, want) {
		t.Errorf("rates %v, want %v", got, want)
	}
}

func TestTimeOfWhichNothingIsKnownIsAGap(t *testing.T) {
	w := series.New(1, 0, spans...)
	rise(w, 0, 20, 20)
	rise(w, 60, 80, 40)
	if got, want := rates(w, 0, 100), []point{{10, 1}, {20, 1}, {70, 2}, {80, 2}}; !slices.Equal(got, want) {
		t.Errorf("rates %v, want %v", got, want)
	}
}

func TestWhatSeveralSourcesCountInTheSameTimeAddsUp(t *testing.T) {
	w := series.New(1, 0, spans...)
	for s := 0.0; s < 40; s += 10 {
		rise(w, s, s+10, 10)
		rise(w, s+1, s+11, 20) // another one, a second later
	}
	if got, want := rates(w, 10, 40), []point{{20, 3}, {30, 3}, {40, 3}}; !slices.Equal(got, want) {
		t.Errorf("rates %v, want %v", got, want)
	}
}

func TestLongStepsGoFurtherBack(t *testing.T) {
	w := series.New(1, 0, spans...)
	for s := 0.0; s < 7200; s += 5 {
		rise(w, s, s+5, 5)
	}
	every := func(points []point) float64 { return points[1].at - points[0].at }
	fine := rates(w, 7200-290, 7200)
	if len(fine) != 29 || every(fine) != 10 {
		t.Errorf("%d steps of %v s for the last 290 s, want 29 of 10 s", len(fine), every(fine))
	}
	coarse := rates(w, 0, 7200)
	// 60 steps are kept, and the newest has just begun.
	if len(coarse) != 59 || every(coarse) != 60 || coarse[58].at != 7200 {
		t.Errorf("%d steps of %v s for all there is, want the last 59 of 60 s", len(coarse), every(coarse))
	}
	for _, p := range append(fine, coarse...) {
		if math.Abs(p.value-1) > 1e-6 {
			t.Errorf("rate %v at %v s, want 1", p.value, p.at)
		}
	}
}

func TestOldStepsAreForgotten(t *testing.T) {
	w := series.New(1, 1, spans...)
	rise(w, 0, 10, 1000)
	w.Set(1, at(5), 7)
	rise(w, 36_000, 36_010, 10) // steps have gone round several times meanwhile
	steps := slices.Collect(w.Steps(at(-1e6), at(1e6)))
	if len(steps) != 0 {
		t.Errorf("%d steps are over, want none of the last hour", len(steps))
	}
	rise(w, 36_010, 36_060, 50)
	for s := range w.Steps(at(-1e6), at(1e6)) {
		if s.Rate(0) != 1 || s.Gauge(1) != 0 || s.Total(0) != 1060 {
			t.Errorf("rate %v, gauge %v, total %v, want 1, 0 and 1060", s.Rate(0), s.Gauge(1), s.Total(0))
		}
	}
}

func TestTotalsGoOnOverSteps(t *testing.T) {
	w := series.New(2, 0, spans...)
	rise(w, 0, 40, 40)
	w.Rise(1, at(0), at(40), 8)
	var got []float64
	for s := range w.Steps(at(0), at(40)) {
		got = append(got, s.Total(0), s.Total(1))
	}
	if want := []float64{10, 2, 20, 4, 30, 6, 40, 8}; !slices.Equal(got, want) {
		t.Errorf("totals %v, want %v", got, want)
	}
}

func TestGaugeIsTheLastOfItsStep(t *testing.T) {
	w := series.New(1, 1, spans...)
	w.Known(at(0), at(30))
	w.Set(1, at(2), 5)
	w.Set(1, at(8), 3)
	w.Set(1, at(12), 4)
	w.Set(1, at(18), 0)
	var got []float64
	for s := range w.Steps(at(0), at(30)) {
		got = append(got, s.Gauge(1))
	}
	if want := []float64{3, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("gauge %v, want %v", got, want)
	}
}

// A source counts, begins anew now and then, and is asked at any times. All that it counted until
// it was last asked in each of its lives is in the rates, and nothing else.
func TestRatesAddUpToWhatWasCountedOverBeginningsAnew(t *testing.T) {
	seeds := []uint64{*seed}
	if *seed == 0 {
		seeds = nil
		for s := range uint64(200) {
			seeds = append(seeds, s+1)
		}
	}
	for _, seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 0))
		w := series.New(1, 0, series.Span{Every: 10 * time.Second, Count: 200})
		var source series.Source
		epoch, counted, asked, want, last := int64(1), 1.0, 0.0, 0.0, 0.0
		told := r.IntN(2) == 0 // whether the source says that it has begun anew
		ask := func(now float64) {
			rose := source.Rose(epoch, []float64{counted})
			w.Known(at(last), at(now))
			w.Rise(0, at(last), at(now), rose[0])
			want += counted - asked
			asked, last = counted, now
		}
		for now := 0.0; now < 1500; {
			now += 0.1 + r.Float64()*20
			counted += math.Floor(r.Float64() * 1000)
			if r.IntN(20) == 0 {
				if told {
					epoch++
					counted = math.Floor(r.Float64() * 3 * asked)
				} else { // it shows by counting less than it did
					counted = math.Floor(r.Float64() * asked)
				}
				asked = 0
			}
			ask(now)
		}
		ask(1600)
		sum := 0.0
		for s := range w.Steps(at(0), at(1600)) {
			if s.Rose(0) < 0 {
				t.Errorf("seed %d: it rose by %v until %v", seed, s.Rose(0), s.At)
			}
			sum += s.Rate(0) * s.Seconds
		}
		if math.Abs(sum-want) > 1e-4*want {
			t.Errorf("seed %d: rates add up to %v, want %v", seed, sum, want)
		}
	}
}
