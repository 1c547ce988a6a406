package store_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/store"
	"weir/weir"
)

// benchmarked returns an embedded store with a thousand rows of half a kilobyte.
func benchmarked(b *testing.B) (*store.Store, store.Table[string]) {
	s, err := store.Embed(b.Context(), b.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s, filledRows(b, s)
}

// filledRows puts a thousand rows of half a kilobyte.
func filledRows(b *testing.B, s *store.Store) store.Table[string] {
	rows := store.NewTable[string]("rows")
	err := s.Update(b.Context(), func(tx *store.Tx) error {
		for n := range 1000 {
			rows.Put(tx, row(n), strings.Repeat("x", 500))
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return rows
}

func row(n int) weir.ID { return weir.ID(fmt.Sprint(n % 1000)) }

// change reads row n and writes it anew.
func change(ctx context.Context, s *store.Store, rows store.Table[string], n int) error {
	return s.Update(ctx, func(tx *store.Tx) error {
		was, err := rows.Get(ctx, tx, row(n))
		if err != nil {
			return err
		}
		rows.Put(tx, row(n), fmt.Sprintf("%012d%s", n, was[12:]))
		return nil
	})
}

func BenchmarkGet(b *testing.B) {
	s, rows := benchmarked(b)
	for n := 0; b.Loop(); n++ {
		if _, err := rows.Get(b.Context(), s, row(n)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAll1000(b *testing.B) {
	s, rows := benchmarked(b)
	for b.Loop() {
		if _, err := rows.All(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	s, rows := benchmarked(b)
	for n := 0; b.Loop(); n++ {
		err := s.Update(b.Context(), func(tx *store.Tx) error {
			rows.Put(tx, row(n), fmt.Sprint(n))
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	s, rows := benchmarked(b)
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		began := time.Now()
		if err := change(b.Context(), s, rows, n); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "updates/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs/median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs/p99")
	b.ReportMetric(memory(b), "MiB/rss")
}

// BenchmarkUpdateInCluster is BenchmarkUpdate through one of three members on one disk.
func BenchmarkUpdateInCluster(b *testing.B) {
	r, err := newRegion(b.TempDir(), slog.New(slog.DiscardHandler), "a", "b", "c")
	if err != nil {
		b.Fatal(err)
	}
	stores, err := r.start(b.Context(), "a", "b", "c")
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range stores {
		b.Cleanup(func() { s.Close() })
	}
	rows := filledRows(b, stores[0])
	for n := 0; b.Loop(); n++ {
		if err := change(b.Context(), stores[0], rows, n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdateBy16(b *testing.B) {
	s, rows := benchmarked(b)
	b.SetParallelism(16)
	b.ResetTimer()
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := change(b.Context(), s, rows, int(n.Add(1))); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
}

// BenchmarkFollow is the time from the beginning of an update until a follower has it.
func BenchmarkFollow(b *testing.B) {
	s, rows := benchmarked(b)
	n := 0
	synced := false
	for told, err := range rows.Follow(b.Context(), s) {
		if err != nil {
			b.Fatal(err)
		}
		if synced = synced || told.Synced; !synced {
			continue
		}
		if !b.Loop() {
			break
		}
		n++
		if err := change(b.Context(), s, rows, n); err != nil {
			b.Fatal(err)
		}
	}
}

// memory returns how much memory this process has resident, in MiB.
func memory(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(status))[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / (1 << 20)
}
