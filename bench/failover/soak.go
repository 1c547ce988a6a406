package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"time"
)

// soaked is what a soak of one contender gave.
type soaked struct {
	Contender string  `json:"contender"`
	Took      float64 `json:"took_s"`
	Moves     int64   `json:"moves"` // of the service address, each a false failover or the way back from one
	Failed    int     `json:"failed"`
	Sent      int     `json:"sent"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
}

// soak lets each contender in turn serve on busy cores, with nothing broken.
func soak(ctx context.Context, o options) error {
	fmt.Printf("nothing is broken for %s, while %d processes keep %d cores busy\n\n", o.soak, 2*runtime.NumCPU(), runtime.NumCPU())
	fmt.Println("| contender | took s | address moved | failed requests | of sent | p50 ms | p99 ms |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
	var all []soaked
	for _, c := range o.contenders {
		if why := c.missing(); why != "" {
			fmt.Printf("| %s | not measured: %s | | | | | |\n", c, why)
			continue
		}
		s, err := soakOne(ctx, c, o.soak)
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		all = append(all, s)
		fmt.Printf("| %s | %.0f | %d | %d | %d | %.1f | %.1f |\n", c, s.Took, s.Moves, s.Failed, s.Sent, s.P50, s.P99)
	}
	if o.json != "" {
		return writeJSON(o.json, all)
	}
	return nil
}

func soakOne(ctx context.Context, c contender, d time.Duration) (s soaked, err error) {
	t, err := c.open(ctx)
	if err != nil {
		return s, err
	}
	defer t.close()
	if err := t.untilWell(ctx); err != nil {
		return s, err
	}
	moved, err := t.moves()
	if err != nil {
		return s, err
	}
	requests := startClient(ctx, t.dial)
	defer requests.stop()
	stop, err := startHogs()
	defer stop()
	if err != nil {
		return s, err
	}

	at := time.Now()
	tick := time.NewTicker(max(d/20, time.Second))
	defer tick.Stop()
	end := time.After(d)
	for running := true; running; {
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-end:
			running = false
		case <-tick.C:
			n, err := t.moves()
			if err != nil {
				return s, err
			}
			fmt.Fprintf(os.Stderr, "soak: %s: %.0f s of %.0f s: moved %d times\n", c, time.Since(at).Seconds(), d.Seconds(), n-moved)
		}
	}
	n, err := t.moves()
	if err != nil {
		return s, err
	}
	s.Moves = n - moved
	r := resultOf(requests.stop(), at, d)
	s.Contender, s.Took = c.String(), d.Seconds()
	s.Failed, s.Sent, s.P50, s.P99 = r.Failed, r.Sent, r.P50, r.P99
	return s, nil
}

// startHogs starts two processes for each core that do nothing but compute, at the priority of
// everybody else. stop ends those that were started, also after an error.
func startHogs() (stop func(), err error) {
	var hogs []*exec.Cmd
	stop = func() {
		for _, h := range hogs {
			h.Process.Kill()
			h.Wait()
		}
	}
	for range 2 * runtime.NumCPU() {
		h := exec.Command("/proc/self/exe")
		h.Args = []string{hogRole}
		if err := h.Start(); err != nil {
			return stop, fmt.Errorf("start a process to keep cores busy: %w", err)
		}
		hogs = append(hogs, h)
	}
	return stop, nil
}

// hogMain keeps one core busy until it is killed.
func hogMain() {
	numbers := []int{3, 1, 2}
	for {
		slices.Reverse(numbers)
	}
}
