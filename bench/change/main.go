// Command change measures how fast a server comes and goes behind a load balancer,
// and what that costs the others: Weir beside the ways that people do it by hand.
//
// All contenders run in one go on this machine, in turn, against the same
// application servers (HTTP on 127.0.0.0/8, in this process) and under the same load.
//
//   - weir: the whole of it. A user's request is a call of the API by godo; it goes
//     through the control plane on an embedded etcd, over mutual TLS, to `weir node`, a
//     process of its own, and by HAProxy's runtime socket. Only the cloud is cloud.Fake:
//     the servers are up already.
//   - reload: what DOProxy does. The whole file from a template, haproxy -c, SIGUSR2.
//   - dataplaneapi: HAProxy's own, if its binary is on PATH.
//
// Usage: go run ./bench/change [-runs N] [-sizes 1,100,1000] [-changes N] [-weir bin/weir]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// contender is one way to have HAProxy follow a set of servers.
type contender interface {
	String() string

	// start serves what is present and returns where clients connect.
	start(ctx context.Context, present []netip.AddrPort) (front string, err error)

	// add and remove ask for a change, as a user does, and return when the asking is done.
	add(ctx context.Context, server netip.AddrPort) error
	remove(ctx context.Context, server netip.AddrPort) error

	// process is the one whose memory and CPU the contender costs beside HAProxy itself, or 0.
	process() int

	// reloads is how often HAProxy was reloaded since start.
	reloads() int

	// stop ends all that start began.
	stop()
}

// churnPresent is how many servers stay while others come and go.
const churnPresent = 10

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
	sizes := flag.String("sizes", "1,100,1000", "numbers of servers that are present")
	runs := flag.Int("runs", 9, "how often each figure is measured")
	changes := flag.Int("changes", 1000, "additions and removals under load, as many of each")
	rate := flag.Int("rate", 400, "requests a second of the load")
	weir := flag.String("weir", "bin/weir", "the binary whose `weir node` is measured")
	flag.Parse()

	var present []int
	most := churnPresent
	for _, word := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 2000 {
			return fmt.Errorf("-sizes %q: want numbers from 1 to 2000, by commas", *sizes)
		}
		present = append(present, n)
		most = max(most, n)
	}
	servers, err := startServers(ctx, most+1)
	if err != nil {
		return err
	}
	defer servers.stop()

	contenders := func() []contender {
		all := []contender{newWeir(*weir), newReload()}
		if path, err := exec.LookPath("dataplaneapi"); err == nil {
			all = append(all, newDataPlane(path))
		}
		return all
	}
	fmt.Printf("from the request to the first answer of the new server, %d runs, load of %d requests/s\n", *runs, *rate)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "servers present\tcontender\tmin ms\tmedian ms\tmax ms\treloads\tfailed of sent\t")
	for _, n := range present {
		for _, c := range contenders() {
			r, err := measureAdds(ctx, c, servers, n, *runs, *rate)
			if err != nil {
				return fmt.Errorf("%s with %d servers: %w", c, n, err)
			}
			s := spreadOf(r.took)
			fmt.Fprintf(out, "%d\t%s\t%s\t%s\t%s\t%d\t%d of %d\t\n", n, c, ms(s.min), ms(s.median), ms(s.max), r.reloads, r.failed, r.sent)
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}

	fmt.Printf("\n%d additions and %d removals with %d servers present, load of %d requests/s\n", *changes/2, *changes/2, churnPresent, *rate)
	fmt.Fprintln(out, "contender\ttook s\treloads\tlost\tfailed of sent\tp50 ms\tp99 ms\tCPU s\tRSS MiB\tof it anonymous\tHAProxys left\t")
	for _, c := range contenders() {
		r, err := measureChurn(ctx, c, servers, churnPresent, *changes, *rate)
		if err != nil {
			return fmt.Errorf("%s under load: %w", c, err)
		}
		fmt.Fprintf(out, "%s\t%.1f\t%d\t%d\t%d of %d\t%s\t%s\t%.2f\t%.1f\t%.1f\t%d\t\n", c, r.took.Seconds(), r.reloads, r.lost, r.failed, r.sent,
			ms(r.p50), ms(r.p99), r.cpu.Seconds(), r.rss, r.anon, r.haproxies)
	}
	if err := out.Flush(); err != nil {
		return err
	}

	fmt.Printf("\nthe node's part: a new NodeConfig given to HAProxy, until it has the servers and checks them, %d runs\n", *runs)
	fmt.Fprintln(out, "servers present\tadded\tmin ms\tmedian ms\tmax ms\treloads\t")
	for _, n := range present {
		for _, added := range []int{1, most} {
			s, reloads, err := measureNode(ctx, servers, n, added, *runs)
			if err != nil {
				return fmt.Errorf("node with %d servers: %w", n, err)
			}
			fmt.Fprintf(out, "%d\t%d\t%s\t%s\t%s\t%d\t\n", n, added, ms(s.min), ms(s.median), ms(s.max), reloads)
		}
	}
	return out.Flush()
}

// adds is what measureAdds found.
type adds struct {
	took         []time.Duration
	failed, sent int
	reloads      int
}

// measureAdds lets c serve n servers and adds one more, runs times; the server is
// taken out again in between.
func measureAdds(ctx context.Context, c contender, servers *servers, n, runs, rate int) (r adds, err error) {
	front, err := c.start(ctx, servers.addrs[:n])
	defer c.stop()
	if err != nil {
		return r, err
	}
	if err := untilServed(ctx, front, servers.addrs[:n]); err != nil {
		return r, err
	}
	load := startLoad(ctx, front, rate)
	defer func() { load.stop(); r.failed, r.sent = load.failed, len(load.took) }()

	added := servers.addrs[n]
	for range runs {
		start := time.Now()
		err := errors.Join(c.add(ctx, added), untilAnswers(ctx, front, added))
		if err != nil && !errors.Is(err, errLost) {
			return r, fmt.Errorf("add: %w", err)
		}
		r.took = append(r.took, time.Since(start)) // a lost one takes at least limit
		err = errors.Join(c.remove(ctx, added), untilGone(ctx, front, added, n))
		if err != nil && !errors.Is(err, errLost) {
			return r, fmt.Errorf("remove: %w", err)
		}
	}
	r.reloads = c.reloads()
	return r, nil
}

// churn is what measureChurn found.
type churn struct {
	took         time.Duration
	failed, sent int
	reloads      int
	lost         int           // changes that never came
	p50, p99     time.Duration // of the load's requests
	cpu          time.Duration // of c.process()
	rss, anon    float64       // MiB, likewise, at the end
	haproxies    int           // processes at the end: old workers linger
}

// measureChurn makes changes under load, additions and removals in turn. A change begins
// when the one before is in effect.
func measureChurn(ctx context.Context, c contender, servers *servers, n, changes, rate int) (r churn, err error) {
	front, err := c.start(ctx, servers.addrs[:n])
	defer c.stop()
	if err != nil {
		return r, err
	}
	if err := untilServed(ctx, front, servers.addrs[:n]); err != nil {
		return r, err
	}
	load := startLoad(ctx, front, rate)
	defer load.stop()
	cpu := cpuOf(c.process())
	start := time.Now()
	for range changes / 2 {
		for _, err := range []error{
			errors.Join(c.add(ctx, servers.addrs[n]), untilAnswers(ctx, front, servers.addrs[n])),
			errors.Join(c.remove(ctx, servers.addrs[n]), untilGone(ctx, front, servers.addrs[n], n)),
		} {
			if errors.Is(err, errLost) {
				r.lost++
			} else if err != nil {
				return r, err
			}
		}
	}
	r.took = time.Since(start)
	r.haproxies = countHAProxies()
	load.stop()
	r.failed, r.sent = load.failed, len(load.took)
	s := sorted(load.took)
	r.p50, r.p99 = s[len(s)/2], s[len(s)*99/100]
	r.cpu = cpuOf(c.process()) - cpu
	r.rss, r.anon = rssOf(c.process())
	r.reloads = c.reloads()
	return r, nil
}
