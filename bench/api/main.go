// Command api measures the control plane's API among many rows: how many reads and writes a second, how long
// each takes, how much memory the control plane has, and how soon a change reaches a thousand nodes.
//
// All of it is one machine's. The control plane is one process: the real handler on a TCP port of 127.0.0.1, the
// real tokens and the audit log, without limits for the token, over an embedded etcd whose files are on the disk
// below -dir. Rows are generated straight into the store. Who asks is a process of its own, on
// -connections connections each of which asks again as soon as it has its answer, so that the rates are the most
// that there is while both share the machine.
//
// The controllers do not run: the rows say that all is as it should be. For the fan-out a stand-in does, after the PUT
// of a load balancer, what its controller does in the end, which is to store the nodes' new configurations
// in one transaction; nodes are goroutines in the control plane's process that wait as nodeapi does for
// them, without TLS.
//
// Usage: go run ./bench/api [-sizes 1000,10000,100000] [-droplets 10] [-runs N] [-time 3s] [-connections N] [-only REGEXP]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// options are what the flags say.
type options struct {
	sizes       []int // numbers of load balancers
	droplets    int   // for each
	runs        int
	time        time.Duration // of each run
	connections int
	dir         string
	profile     string
	only        *regexp.Regexp
	load        string // what the process that asks is given; see load
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	signal.Notify(make(chan os.Signal), syscall.SIGPIPE) // which a reset connection raises as well as a closed pipe: it ends nothing
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	sizes := flag.String("sizes", "1000,10000,100000", "numbers of load balancers")
	flag.IntVar(&o.droplets, "droplets", 10, "droplets for each load balancer")
	flag.IntVar(&o.runs, "runs", 5, "how often each figure is measured")
	flag.DurationVar(&o.time, "time", 3*time.Second, "how long a run takes")
	flag.IntVar(&o.connections, "connections", 32, "connections that ask")
	flag.StringVar(&o.dir, "dir", "", "a directory on the disk that is to be measured; the system's for temporary files if empty")
	flag.StringVar(&o.profile, "profile", "", "a file for the CPU profile of the control plane while it is asked")
	only := flag.String("only", "", "a regular expression for what is measured; everything if empty")
	flag.StringVar(&o.load, "load", "", "for the process that asks, which the bench starts")
	flag.Parse()
	if o.load != "" {
		return answerLoad(ctx, o.load)
	}
	for _, word := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 1_000_000 {
			return fmt.Errorf("-sizes %q: want numbers from 1 to 1000000, by commas", *sizes)
		}
		o.sizes = append(o.sizes, n)
	}
	slices.Sort(o.sizes)
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if o.droplets < 1 || o.runs < 1 || o.time < 100*time.Millisecond || o.connections < 1 {
		return errors.New("-droplets, -runs, -time and -connections: want at least 1, and 100ms")
	}
	dir, err := os.MkdirTemp(o.dir, "bench-api-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	db, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	defer db.Close()
	fmt.Printf("%d cores; %d connections, %d runs of %s each: the median, and the least and the most\n", runtime.NumCPU(), o.connections, o.runs, o.time)
	have := 0
	for _, n := range o.sizes {
		began := time.Now()
		if err := generate(ctx, db, have, n, o.droplets); err != nil {
			return err
		}
		have = n
		fmt.Printf("\n%d load balancers, %d droplets (generated in %.0f s)\n", n, n*o.droplets, time.Since(began).Seconds())
		if err := measure(ctx, db, o, n); err != nil {
			return fmt.Errorf("with %d load balancers: %w", n, err)
		}
	}
	return nil
}

// measure prints the figures of one size.
func measure(ctx context.Context, db *store, o options, n int) error {
	began := time.Now()
	p, err := startPlane(ctx, db)
	if err != nil {
		return err
	}
	defer p.stop()
	if err := p.ready(ctx); err != nil {
		return err
	}
	ready := time.Since(began)
	heap, rss, own := memory()
	per := func(bytes int) float64 { return float64(bytes) / 1024 / float64(n*o.droplets) }
	fmt.Printf("ready after %.1f s; heap %d MiB (%.1f KiB a droplet), resident %d MiB, %d of it not of files (%.1f KiB a droplet)\n\n",
		ready.Seconds(), heap>>20, per(heap), rss>>20, own>>20, per(own))

	if o.profile != "" {
		f, err := os.Create(fmt.Sprintf("%s.%d", o.profile, n))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "what\ta second\tp50 ms\tp99 ms\tCPU µs each\tto ask\trefused\t")
	for _, kind := range kinds() {
		if !o.only.MatchString(kind.name) {
			continue
		}
		var rates, p50s, p99s, cpus, asking []float64
		failed := 0
		for run := range o.runs {
			before := cpu()
			got, err := ask(ctx, load{URL: p.url, Token: p.token, Kind: kind.name, Connections: o.connections, Time: o.time,
				Balancers: n, Droplets: n * o.droplets, Seed: uint64(run)})
			if err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			cpus = append(cpus, float64((cpu()-before).Microseconds())/float64(got.Answers))
			asking = append(asking, got.CPU)
			rates, p50s, p99s = append(rates, got.Rate), append(p50s, got.P50), append(p99s, got.P99)
			failed += got.Failed
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t\n", kind.name, spread(rates, "%.0f"), spread(p50s, "%.1f"), spread(p99s, "%.1f"), spread(cpus, "%.0f"), spread(asking, "%.0f"), failed)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if !o.only.MatchString("fan-out") {
		return nil
	}
	all, err := p.fanOut(ctx, nodes, o.runs*4)
	if err != nil {
		return fmt.Errorf("fan-out: %w", err)
	}
	fmt.Printf("\nfrom the PUT to the last of %d nodes, of %d times, ms: %s\n", nodes, len(all), spread(all, "%.0f"))
	return nil
}

// ask has another process ask, and returns what it saw.
func ask(ctx context.Context, l load) (r result, err error) {
	exe, err := os.Executable()
	if err != nil {
		return r, err
	}
	text, err := json.Marshal(l)
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, exe, "-load", string(text))
	cmd.Stderr = os.Stderr
	said, err := cmd.Output()
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(said, &r)
}

// spread puts the median in words, with the least and the most.
func spread(all []float64, format string) string {
	all = slices.Sorted(slices.Values(all))
	f := func(x float64) string { return fmt.Sprintf(format, x) }
	return f(all[len(all)/2]) + " (" + f(all[0]) + "–" + f(all[len(all)-1]) + ")"
}

// cpu returns the CPU time of this process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory returns the heap of this process once what is dead is collected and given back, which generating the rows
// left too, and how much of the process is in memory then: all, and what is not pages of files.
func memory() (heap, rss, own int) {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return int(m.HeapAlloc), 0, 0
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.Atoi(fields[1])
		switch fields[0] {
		case "VmRSS:":
			rss = kib << 10
		case "RssAnon:":
			own = kib << 10
		}
	}
	return int(m.HeapAlloc), rss, own
}
