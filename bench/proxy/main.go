// Command proxy measures what a request and a TLS handshake cost through a Weir load balancer, beside HAProxy as a person
// would tune it, nginx and Caddy, all in one run on this machine.
//
// Weir's is package haproxy with the document that the control plane would write: a frontend of HTTP and one of HTTPS, the
// X-Forwarded headers, health checks. Each contender has the machine's cores and the same two servers, which are a HAProxy
// that answers by itself, as cheaply as can be. Who asks is this process, on -connections connections each of which asks
// again as soon as it has its answer, at a lower priority than the proxies, which all have that of Weir's: the rates are the most that all of them reach together on the same cores, so
// that what compares is the ratio within a round, and the CPU time of the proxy for each request. Contenders take turns in each
// round, in another order each time.
//
// All addresses are in 127.0.0.0/8.
//
// Usage: go run ./bench/proxy [-runs N] [-time 3s] [-connections N]
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	runs := flag.Int("runs", 7, "how often each figure is measured")
	long := flag.Duration("time", 3*time.Second, "how long a run takes")
	connections := flag.Int("connections", 32, "connections that ask")
	flag.Parse()

	dir, err := os.MkdirTemp("", "weir-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	text, err := certificate("bench.example")
	if err != nil {
		return err
	}
	stopServers, err := startServers(ctx, dir)
	if err != nil {
		return err
	}
	defer stopServers()
	var contenders []*contender
	defer func() {
		for _, c := range contenders {
			c.stop()
		}
	}()
	for i, start := range []func(context.Context, string, int, []byte) (*contender, error){startWeir, startTuned, startNginx, startCaddy} {
		c, err := start(ctx, dir, i, text)
		if err != nil {
			return err
		}
		if c != nil {
			contenders = append(contenders, c)
		}
	}

	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, what := range []struct {
		name string
		load func(context.Context, *contender, int, time.Duration) (result, error)
	}{
		{"requests on connections that are kept", askPlain},
		{"requests over TLS on connections that are kept", askSecure},
		{"TLS handshakes, each with a request", shake},
	} {
		fmt.Printf("\n%s: %d runs of %s, %d connections; medians (least–most)\n", what.name, *runs, *long, *connections)
		fmt.Fprintln(out, "contender\ta second\tof tuned HAProxy\tp50 ms\tp99 ms\tCPU µs each\tfailed\t")
		all := map[*contender][]result{}
		for range *runs {
			for _, i := range rand.Perm(len(contenders)) {
				c := contenders[i]
				r, err := what.load(ctx, c, *connections, *long)
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				all[c] = append(all[c], r)
			}
		}
		base := all[contenders[1]]
		for _, c := range contenders {
			var rates, ratios, p50s, p99s, cpus []float64
			failed := 0
			for i, r := range all[c] {
				rates = append(rates, r.rate())
				ratios = append(ratios, r.rate()/base[i].rate())
				p50s, p99s = append(p50s, r.at(50)), append(p99s, r.at(99))
				cpus = append(cpus, r.cpuEach())
				failed += r.failed
			}
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t\n", c.name, spread("%.0f", rates), spread("%.2f", ratios), spread("%.2f", p50s), spread("%.2f", p99s), spread("%.1f", cpus), failed)
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	return changes(ctx, dir)
}

// spread returns the median of values, with the least and the most.
func spread(format string, values []float64) string {
	s := slices.Sorted(slices.Values(values))
	return fmt.Sprintf(format+" ("+format+"–"+format+")", s[len(s)/2], s[0], s[len(s)-1])
}
