// Command failover measures how long clients are without service when a load balancer
// fails over: Weir beside the ways that people set it up by hand.
//
// Every contender but weir-cloud gets the same lab: two balancers with the same HAProxy and the same
// configuration, two application servers, one switch, and a client that starts a new
// request on a new connection every 5 ms and gives each a second. In each round all
// contenders take their turn, and each meets all faults in its turn, so that what else the
// machine does hits all alike.
//
//   - weir-cloud: a region of weir dev, from bin/weir beside this program.
//   - weir-arp: the same program on the lab's balancers, and one more host for weir serve.
//   - keepalived: Debian's, as its documentation and the tutorials set it up, and tuned.
//   - pacemaker: Pacemaker with Corosync, as DigitalOcean's tutorial on floating IPs.
//
// An outage is from the fault to the start of the first request after which none fails.
//
// The lab is made of namespaces without names, below a process namespace of its own:
// when this program ends, in whatever way, the kernel ends and removes all of it, and the
// machine's own network is never touched. It has to be root for that.
//
// Usage: failover [-runs N] [-only NAMES] [-fault NAMES] [-limit D] [-json FILE] [-soak D]
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// contender is one way to keep a service address served by one of two balancers.
type contender interface {
	String() string

	// missing says why it cannot be measured on this machine, "" if it can.
	missing() string

	// period is the longest interval at which it looks for faults. A fault is made at a
	// random moment within it.
	period() time.Duration

	// open starts it anew, with all that it needs around it.
	open(ctx context.Context) (trial, error)
}

// trial is a contender that runs.
type trial interface {
	// dial connects to the service address from where clients are.
	dial(ctx context.Context, deadline time.Time) (net.Conn, error)

	// untilWell waits until one balancer is active and the other ready to take over. It gives
	// up after some time.
	untilWell(ctx context.Context) error

	// cause makes a fault on the balancer that was active when all was well.
	cause(ctx context.Context, f fault) error

	// over says whether the balancer that was active no longer is, after a planned hand-over.
	over() bool

	// heal undoes a fault.
	heal(ctx context.Context, f fault) error

	// moves is how often the service address got to a balancer.
	moves() (int64, error)

	// close ends all of it.
	close()
}

// replacer is a trial that makes a new balancer in place of one that is lost.
type replacer interface {
	// replaced waits until it has, and returns how long that took since the loss.
	replaced(ctx context.Context, at time.Time) (time.Duration, error)
}

// fault is something that happens to the active balancer.
type fault string

const (
	dies     fault = "dies"     // its power is cut
	cut      fault = "cut"      // its link passes nothing any more, in silence
	killed   fault = "killed"   // HAProxy is killed, all else lives
	planned  fault = "planned"  // somebody wants the other one to be active
	restarts fault = "restarts" // HAProxy is killed, and systemd starts it again
)

var allFaults = []fault{dies, cut, killed, planned, restarts}

func (f fault) title() string {
	switch f {
	case dies:
		return "The active instance dies (power cut)"
	case cut:
		return "The active instance's link is silently cut"
	case killed:
		return "HAProxy is killed on the active instance, and nothing but the contender starts it again"
	case planned:
		return "Planned hand-over"
	case restarts:
		return "HAProxy is killed, and started again after 100 ms (Debian's unit: Restart=always)"
	}
	return string(f)
}

// systemdRestart is how long systemd waits before it starts a unit again (RestartSec).
const systemdRestart = 100 * time.Millisecond

// supervised is a contender whose HAProxy is a unit of systemd's, rather than the
// contender's own child or resource.
type supervised interface{ supervised() }

// meets says whether a fault can happen to a contender.
func meets(c contender, f fault) bool {
	_, ok := c.(supervised)
	return f != restarts || ok
}

// The roles that this program has when it runs as part of its lab, told by its name.
const (
	labRole    = "weir-bench-lab"
	hostRole   = "weir-bench-host"
	serverRole = "weir-bench-server"
	hogRole    = "weir-bench-hog"
)

func main() {
	switch os.Args[0] {
	case labRole:
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		signal.Notify(make(chan os.Signal), syscall.SIGPIPE) // which a reset connection raises as well as a closed pipe: it ends nothing
		err := run(ctx)
		stop()
		if err != nil && !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	case hostRole:
		initMain(os.Args[1])
	case serverRole:
		serverMain(os.Args[1])
	case hogRole:
		hogMain()
	default:
		os.Exit(enterLab())
	}
}

// enterLab runs this program again in namespaces of its own, which end with us even if we
// are killed, and returns its exit status.
func enterLab() int {
	runtime.LockOSThread() // Pdeathsig is sent when the thread ends, not the process
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = labRole
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// A group of its own: Ctrl-C would reach everything in the lab, and keepalived would say
	// goodbye. We pass it on to the lab alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: make namespaces (is this root?): %v\n", err)
		return 1
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	for {
		select {
		case <-signals:
			cmd.Process.Signal(syscall.SIGTERM)
		case <-ended:
			return cmd.ProcessState.ExitCode()
		}
	}
}

// options are what the user asked for.
type options struct {
	runs       int
	limit      time.Duration
	soak       time.Duration
	json       string
	contenders []contender
	faults     []fault
}

func parse() (o options, err error) {
	all := []contender{
		weirCloud{},
		newWeirARP(),
		newKeepalived("keepalived", keepalivedSettings{advert: time.Second}),
		newKeepalived("keepalived-check", keepalivedSettings{advert: time.Second, check: time.Second}),
		newKeepalived("keepalived-100ms", keepalivedSettings{advert: 100 * time.Millisecond, check: 100 * time.Millisecond}),
		newKeepalived("keepalived-10ms", keepalivedSettings{advert: 10 * time.Millisecond}),
		newPacemaker("pacemaker", 0),
		newPacemaker("pacemaker-token-1s", time.Second),
	}
	names := func(all []contender) (names []string) {
		for _, c := range all {
			names = append(names, c.String())
		}
		return names
	}
	flags := flag.NewFlagSet("failover", flag.ContinueOnError)
	flags.IntVar(&o.runs, "runs", 10, "how often each figure is measured")
	flags.DurationVar(&o.limit, "limit", 20*time.Second, "how long to wait for recovery")
	flags.DurationVar(&o.soak, "soak", 0, "break nothing, but keep all cores busy for so long, and count false failovers")
	flags.StringVar(&o.json, "json", "", "`file` for the result of every run")
	only := flags.String("only", "", "contenders, by commas: "+strings.Join(names(all), ","))
	fault := flags.String("fault", "", fmt.Sprintf("faults, by commas: %v", allFaults))
	if err := flags.Parse(os.Args[1:]); err != nil {
		return o, err
	}
	if o.runs < 1 || o.limit < 2*calm {
		return o, fmt.Errorf("want -runs of at least 1 and -limit of at least %s", 2*calm)
	}
	if *only == "" && o.soak > 0 {
		*only = "weir-cloud,weir-arp,keepalived-100ms,keepalived-10ms" // those that are quick enough to be wrong
	}
	if o.contenders, err = choose("-only", *only, all); err != nil {
		return o, err
	}
	o.faults, err = choose("-fault", *fault, allFaults)
	return o, err
}

// choose returns those of all that list names, all if it is empty.
func choose[T any](name, list string, all []T) (chosen []T, err error) {
	if list == "" {
		return all, nil
	}
	for _, word := range strings.Split(list, ",") {
		i := slices.IndexFunc(all, func(t T) bool { return fmt.Sprint(t) == word })
		if i < 0 {
			return nil, fmt.Errorf("%s: no %q, want of %v", name, word, all)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func run(ctx context.Context) error {
	o, err := parse()
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(labRole)); err != nil {
		return err
	}
	if err := privateMounts(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil { // for logs
		return fmt.Errorf("mount /run: %w", err)
	}
	if o.soak > 0 {
		return soak(ctx, o)
	}

	var results []result
	missing := map[string]string{}
	for round := range o.runs {
		for _, c := range o.contenders {
			if why := c.missing(); why != "" {
				if round == 0 {
					fmt.Fprintf(os.Stderr, "%s: not measured: %s\n", c, why)
				}
				missing[c.String()] = why
				continue
			}
			of, err := measure(ctx, c, o, round)
			results = append(results, of...)
			if ctx.Err() != nil {
				break
			}
			if err != nil {
				// One contender's trouble is no reason to lose the others' figures, and the next
				// round may go well.
				fmt.Fprintf(os.Stderr, "round %d: %s: %v\n", round+1, c, err)
				why, _, _ := strings.Cut(err.Error(), "\n")
				missing[c.String()] = why
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(results) == 0 && ctx.Err() != nil {
		return ctx.Err()
	}
	printTables(os.Stdout, o.contenders, o.faults, results, missing, o.limit)
	if o.json != "" {
		err = writeJSON(o.json, results)
	}
	return cmp.Or(ctx.Err(), err)
}

// measure starts a contender anew and lets it meet each fault once.
func measure(ctx context.Context, c contender, o options, round int) (results []result, err error) {
	t, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer t.close()
	for _, f := range o.faults {
		if !meets(c, f) {
			continue
		}
		r, err := measureFault(ctx, t, f, c.period(), o.limit)
		if err != nil {
			return results, fmt.Errorf("%s: %w", f, err)
		}
		r.Contender, r.Fault, r.Round = c.String(), f, round+1
		results = append(results, r)
		more := ""
		if !r.Recovered {
			more = ", not recovered"
		}
		if r.Replaced > 0 {
			more += fmt.Sprintf(", replaced after %.0f ms", r.Replaced)
		}
		fmt.Fprintf(os.Stderr, "round %d of %d: %s: %s: outage %.0f ms, %d of %d failed, %d refused%s\n",
			round+1, o.runs, c, f, r.Outage, r.Failed, r.Sent, r.Refused, more)
	}
	return results, nil
}

const (
	before = time.Second     // of service, before a fault
	calm   = 2 * time.Second // without a failure, after which the service counts as recovered
	least  = 4 * time.Second // of watching after a fault: some do harm only later
)

// measureFault makes one fault, at a random moment within period, and watches what clients
// see of it, then heals it.
func measureFault(ctx context.Context, t trial, f fault, period, limit time.Duration) (r result, err error) {
	if err := t.untilWell(ctx); err != nil {
		return r, err
	}
	if err := pause(ctx, rand.N(period)); err != nil {
		return r, err
	}
	requests := startClient(ctx, t.dial)
	defer requests.stop()
	if err := pause(ctx, before); err != nil {
		return r, err
	}

	at := time.Now()
	if err := t.cause(ctx, f); err != nil {
		return r, err
	}
	for {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return r, err
		}
		since := time.Since(at)
		moved := f != planned || t.over()
		if moved && since > least && requests.calm(calm+patience) || since > limit+calm {
			break
		}
	}
	all := requests.stop()
	from := at
	if f == planned {
		// Asking breaks nothing: what it takes until the address moves is nobody's outage.
		from = firstFailure(all)
	}
	r = resultOf(all, from, limit)

	if err := t.heal(ctx, f); err != nil {
		return r, err
	}
	if again, ok := t.(replacer); ok && (f == dies || f == cut) {
		took, err := again.replaced(ctx, at)
		if err != nil {
			return r, err
		}
		r.Replaced = milliseconds(took)
	}
	return r, nil
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// until calls check again and again until it is content, or ctx ends: then it returns check's error.
func until(ctx context.Context, check func() error) error {
	for {
		err := check()
		if err == nil || pause(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
}
