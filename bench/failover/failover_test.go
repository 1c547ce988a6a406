package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"strings"
	"testing"
	"time"
)

// record makes requests 5 ms apart from the start of time on: '.' succeeds, 'x' fails.
func record(pattern string) (all []request) {
	for i, c := range pattern {
		r := request{start: origin.Add(time.Duration(i) * interval), took: time.Millisecond}
		if c == 'x' {
			r.err = errors.New("refused")
		}
		all = append(all, r)
	}
	return all
}

var origin = time.Unix(1_000_000, 0)

func TestOutageLastsFromTheFaultUntilNothingFailsAnyMore(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name      string
		requests  string
		fault     time.Duration
		outage    time.Duration
		recovered bool
	}{
		{"nothing fails", "......", 10 * ms, 0, true},
		{"no requests", "", 10 * ms, 0, true},
		{"three fail", "...xxx...", 12 * ms, 18 * ms, true},
		{"a success between failures does not end it", "...x.xx.x...", 12 * ms, 33 * ms, true},
		{"one under way at the fault fails", "..x.....", 11 * ms, 4 * ms, true},
		{"a failure long before the fault is not its doing", "x.......", 20 * ms, 0, true},
		{"it never recovers", "...xxxxx", 12 * ms, 0, false},
		{"only the last fails", ".......x", 12 * ms, 0, false},
	} {
		outage, recovered := outageOf(record(test.requests), origin.Add(test.fault))
		if outage != test.outage || recovered != test.recovered {
			t.Errorf("%s: outage %s, recovered %t, want %s, %t", test.name, outage, recovered, test.outage, test.recovered)
		}
	}
}

func TestRunThatNeverRecoversCountsAsTheLimit(t *testing.T) {
	for _, requests := range []string{".xxx", ".xxxxxxxxx."} { // the second recovers after 45 ms
		r := resultOf(record(requests), origin.Add(5*time.Millisecond), 40*time.Millisecond)
		if r.Outage != 40 || r.Recovered {
			t.Errorf("%s: outage %g ms, recovered %t, want 40 ms, false", requests, r.Outage, r.Recovered)
		}
	}
}

func TestLatencyIsOfTheRequestsThatSucceeded(t *testing.T) {
	requests := record(strings.Repeat(".", 100) + "x")
	for i := range requests {
		requests[i].took = time.Duration(i+1) * time.Millisecond
	}
	r := resultOf(requests, origin, time.Minute)
	if r.Sent != 101 || r.Failed != 1 || r.P50 != 51 || r.P99 != 100 {
		t.Errorf("sent %d, failed %d, p50 %g, p99 %g, want 101, 1, 51, 100", r.Sent, r.Failed, r.P50, r.P99)
	}
	r = resultOf(record("xxx"), origin, time.Minute)
	if r.P50 != 0 || r.P99 != 0 {
		t.Errorf("p50 %g, p99 %g of no success, want 0, 0", r.P50, r.P99)
	}
}

func TestMedianIsTheMiddleOrTheMeanOfBothInTheMiddle(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 9, 2}, 3},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %g, want %g", test.values, got, test.want)
		}
	}
}

func TestRowHasMediansAndSpreadOfAllRuns(t *testing.T) {
	got := rowOf([]result{
		{Outage: 30, Recovered: true, Failed: 6, P50: 1, P99: 5},
		{Outage: 10, Recovered: true, Failed: 2, P50: 3, P99: 4},
		{Outage: 99, Recovered: false, Failed: 9, P50: 2, P99: 3},
	})
	if want := (row{runs: 3, least: 10, mid: 30, most: 99, never: 1, failed: 6, p50: 2, p99: 4}); got != want {
		t.Errorf("row %+v, want %+v", got, want)
	}
}

func TestTableSaysWhyAContenderWasNotMeasured(t *testing.T) {
	here := newKeepalived("here", keepalivedSettings{advert: time.Second})
	away := newPacemaker("away", 0)
	results := []result{
		{Contender: "here", Fault: dies, Outage: 20000, Recovered: false, Failed: 4000},
		{Contender: "here", Fault: dies, Outage: 1500, Recovered: true, Failed: 300},
		{Contender: "here", Fault: dies, Outage: 80, Recovered: true, Failed: 16},
	}
	var out bytes.Buffer
	printTables(&out, []contender{here, away}, []fault{dies}, results, map[string]string{"away": "it is not installed"}, 20*time.Second)
	for _, want := range []string{
		"| here | 3 | 80 ms | **1.50 s** | > 20 s (1 run) | 300 | 0 | 0.0 | 0.0 |\n",
		"| away | 0 | not measured: it is not installed | | | | | | |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("table has no line %q:\n%s", want, out.String())
		}
	}
}

func TestUserChoosesContendersAndFaultsByName(t *testing.T) {
	if got, err := choose("-fault", "planned,dies", allFaults); err != nil || len(got) != 2 || got[0] != planned || got[1] != dies {
		t.Errorf("chose %v, %v, want planned and dies", got, err)
	}
	if _, err := choose("-fault", "dies,fire", allFaults); err == nil || !strings.Contains(err.Error(), `no "fire"`) {
		t.Errorf("unknown fault: %v, want an error that names it", err)
	}
}

func TestClusterIsReadyWithTwoNodesAndAllStarted(t *testing.T) {
	const healthy = `<pacemaker-result>
<nodes><node name="lb-1" online="true" standby="false" pending="false"/><node name="lb-2" online="true" standby="false" pending="false"/></nodes>
<resources>
<resource id="address" role="Started" active="true" failed="false"/>
<clone id="haproxy-clone"><resource id="haproxy" role="Started" active="true" failed="false"/><resource id="haproxy" role="Started" active="true" failed="false"/></clone>
</resources></pacemaker-result>`
	for _, test := range []struct{ name, was, is, err string }{
		{"healthy", "", "", ""},
		{"a node is away", `name="lb-2" online="true"`, `name="lb-2" online="false"`, "node is not ready"},
		{"a node is on standby", `standby="false"`, `standby="true"`, "node is not ready"},
		{"the address has no place", `id="address" role="Started"`, `id="address" role="Stopped"`, "resource is not started"},
		{"a HAProxy is stopped", `<resource id="haproxy" role="Started"`, `<resource id="haproxy" role="Stopped"`, "resource is not started"},
		{"a HAProxy is still starting", `<resource id="haproxy"`, `<resource pending="Starting" id="haproxy"`, "resource is not started"},
	} {
		var s clusterStatus
		if err := xml.Unmarshal([]byte(strings.Replace(healthy, test.was, test.is, 1)), &s); err != nil {
			t.Fatal(err)
		}
		switch err := s.check(); {
		case test.err == "" && err != nil:
			t.Errorf("%s: %v, want nothing", test.name, err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: %v, want %q", test.name, err, test.err)
		}
	}
}
