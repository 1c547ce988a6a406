package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"
)

// result is what one run of one fault gave.
type result struct {
	Contender string  `json:"contender"`
	Fault     fault   `json:"fault"`
	Round     int     `json:"round"`
	Outage    float64 `json:"outage_ms"` // how long was waited, if Recovered is false
	Recovered bool    `json:"recovered"`
	Failed    int     `json:"failed"`
	Refused   int     `json:"refused"` // of those that failed
	Sent      int     `json:"sent"`
	P50       float64 `json:"p50_ms"` // of the requests that succeeded
	P99       float64 `json:"p99_ms"`
	Replaced  float64 `json:"replaced_ms,omitempty"` // from the fault until a new balancer was ready to take over
}

// outageOf returns how long after at there was no reliable service: until the first
// request started after which nothing failed. 0 if nothing failed. If the last of all
// failed, there is no such request, and recovered is false. The requests are in the order
// in which they started.
func outageOf(requests []request, at time.Time) (outage time.Duration, recovered bool) {
	for i, r := range slices.Backward(requests) {
		if r.err == nil {
			continue
		}
		if i == len(requests)-1 {
			return 0, false
		}
		return max(0, requests[i+1].start.Sub(at)), true
	}
	return 0, true
}

// firstFailure returns when the first request that failed was started, the zero time if none
// failed.
func firstFailure(requests []request) time.Time {
	for _, r := range requests {
		if r.err != nil {
			return r.start
		}
	}
	return time.Time{}
}

// resultOf computes what there is to know from the requests of a run, whose client gave up
// waiting for recovery after limit.
func resultOf(requests []request, at time.Time, limit time.Duration) (r result) {
	outage, recovered := outageOf(requests, at)
	if !recovered || outage > limit {
		outage, recovered = limit, false
	}
	r.Outage, r.Recovered = milliseconds(outage), recovered
	var took []time.Duration
	for _, q := range requests {
		if q.err == nil {
			took = append(took, q.took)
		}
		if errors.Is(q.err, syscall.ECONNREFUSED) {
			r.Refused++
		}
	}
	r.Sent, r.Failed = len(requests), len(requests)-len(took)
	slices.Sort(took)
	r.P50, r.P99 = milliseconds(quantile(took, 50)), milliseconds(quantile(took, 99))
	return r
}

// quantile returns the value below which percent of the sorted values are, 0 if there are none.
func quantile(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

// median returns the middle value, of an even number the mean of both in the middle.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// row is what all runs of one contender and one fault gave together.
type row struct {
	runs             int
	least, mid, most float64 // of the outage, in ms
	never            int     // runs that did not recover
	failed, refused  float64 // requests, the medians
	p50, p99         float64 // medians
}

func rowOf(results []result) (r row) {
	column := func(value func(result) float64) (all []float64) {
		for _, one := range results {
			all = append(all, value(one))
		}
		return all
	}
	outages := column(func(r result) float64 { return r.Outage })
	for _, one := range results {
		if !one.Recovered {
			r.never++
		}
	}
	r.runs = len(results)
	r.least, r.mid, r.most = slices.Min(outages), median(outages), slices.Max(outages)
	r.failed = median(column(func(r result) float64 { return float64(r.Failed) }))
	r.refused = median(column(func(r result) float64 { return float64(r.Refused) }))
	r.p50 = median(column(func(r result) float64 { return r.P50 }))
	r.p99 = median(column(func(r result) float64 { return r.P99 }))
	return r
}

// printTables prints a table in Markdown for each fault, with a row for each contender.
// Of one that could not be measured, missing says why.
func printTables(w io.Writer, contenders []contender, faults []fault, results []result, missing map[string]string, limit time.Duration) {
	outage := func(ms float64) string {
		if ms >= milliseconds(limit) {
			return fmt.Sprintf("> %g s", limit.Seconds())
		}
		if ms >= 1000 {
			return fmt.Sprintf("%.2f s", ms/1000)
		}
		return fmt.Sprintf("%.0f ms", ms)
	}
	for _, f := range faults {
		fmt.Fprintf(w, "\n%s:\n\n", f.title())
		fmt.Fprintln(w, "| contender | runs | outage min | median | max | failed requests | refused | p50 ms | p99 ms |")
		fmt.Fprintln(w, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
		for _, c := range contenders {
			if !meets(c, f) {
				continue
			}
			of := slices.DeleteFunc(slices.Clone(results), func(r result) bool { return r.Contender != c.String() || r.Fault != f })
			if len(of) == 0 {
				fmt.Fprintf(w, "| %s | 0 | not measured: %s | | | | | | |\n", c, cmp.Or(missing[c.String()], "ended before"))
				continue
			}
			r := rowOf(of)
			most := outage(r.most)
			if r.never == 1 && r.runs > 1 {
				most += " (1 run)"
			} else if r.never > 0 && r.never < r.runs {
				most += fmt.Sprintf(" (%d runs)", r.never)
			}
			fmt.Fprintf(w, "| %s | %d | %s | **%s** | %s | %.0f | %.0f | %.1f | %.1f |\n",
				c, r.runs, outage(r.least), outage(r.mid), most, r.failed, r.refused, r.p50, r.p99)
		}
		for _, c := range contenders {
			var took []float64
			for _, r := range results {
				if r.Contender == c.String() && r.Fault == f && r.Replaced > 0 {
					took = append(took, r.Replaced)
				}
			}
			if len(took) > 0 {
				fmt.Fprintf(w, "\n%s: a new standby in service after %.2f s (%.2f to %.2f) from the fault, %d runs\n",
					c, median(took)/1000, slices.Min(took)/1000, slices.Max(took)/1000, len(took))
			}
		}
	}
}

// writeJSON writes the results of every run to a file.
func writeJSON(name string, results any) error {
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
