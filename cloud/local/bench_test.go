package local

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/weir"
)

// BenchmarkCreateMachine makes ten machines one after the other, and gives the median of
// one until it is on: its user-data runs afterwards.
func BenchmarkCreateMachine(b *testing.B) {
	c := open(b, Config{})
	for b.Loop() {
		var took []time.Duration
		for n := range 10 {
			begin := time.Now()
			if _, err := c.CreateMachine(b.Context(), spec(n, "")); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms/machine")
		for n := range 10 {
			if err := c.DeleteMachine(b.Context(), spec(n, "").ID); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkFiftyMachines makes fifty machines at once: how long until all are on, and until
// all have booted, what memory an idle one takes, and how long until all are gone.
func BenchmarkFiftyMachines(b *testing.B) {
	const count = 50
	c := open(b, Config{})
	each := func(do func(id weir.ID, n int) error) time.Duration {
		begin := time.Now()
		var all sync.WaitGroup
		for n := range count {
			all.Go(func() {
				if err := do(spec(n, "").ID, n); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
		return time.Since(begin)
	}
	for b.Loop() {
		begin := time.Now()
		on := each(func(_ weir.ID, n int) error {
			_, err := c.CreateMachine(b.Context(), spec(n, ""))
			return err
		})
		for n := range count {
			booted(b, c, spec(n, "").ID)
		}
		b.ReportMetric(on.Seconds(), "s/on")
		b.ReportMetric(time.Since(begin).Seconds(), "s/booted")
		b.ReportMetric(idle(b, c)/count/(1<<20), "MiB/idle")
		gone := each(func(id weir.ID, _ int) error { return c.DeleteMachine(b.Context(), id) })
		b.ReportMetric(gone.Seconds(), "s/gone")
	}
}

// idle returns the memory that all machines take together, in bytes, the kernel's for them
// included, and the page cache, which can be had back, not.
func idle(b *testing.B, c *Cloud) (sum float64) {
	b.Helper()
	dirs, err := cgroupDirs(c.paths.cgroup())
	if err != nil {
		b.Fatal(err)
	}
	number := func(text string) float64 {
		n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	for _, dir := range dirs {
		stats, _ := filepath.Glob(filepath.Join(dir, "*", "memory.stat"))
		for _, file := range stats {
			stat, err := os.ReadFile(file)
			if err != nil {
				b.Fatal(err)
			}
			for line := range strings.Lines(string(stat)) {
				if name, value, _ := strings.Cut(line, " "); name == "active_file" || name == "inactive_file" {
					sum -= number(value)
				}
			}
			for _, all := range []string{"memory.current", "memory.usage_in_bytes"} {
				if usage, err := os.ReadFile(filepath.Join(filepath.Dir(file), all)); err == nil {
					sum += number(string(usage))
				}
			}
		}
	}
	return sum
}

// BenchmarkAssign moves a reserved IP between two machines.
func BenchmarkAssign(b *testing.B) {
	c := open(b, Config{})
	first, second := create(b, c, spec(1, "")).ID, create(b, c, spec(2, "")).ID
	addr, err := c.Reserve(b.Context(), "lb", weir.IPv4)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := c.Assign(b.Context(), addr, first); err != nil {
			b.Fatal(err)
		}
		first, second = second, first
	}
}
