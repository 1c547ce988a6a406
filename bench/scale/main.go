// Command scale compares how pools follow their load by several policies, each on the same traces
// and the same machines, and prints a table: for how many minutes there were too few machines, how
// many machine-hours were paid for, and how often the size changed.
//
//	make bench-scale
//	make bench-scale BENCHFLAGS='-seeds 20 -first 1000 -signal requests'
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"weir/replay"
	"weir/scale"
)

func main() {
	seeds := flag.Int("seeds", 9, "how many traces of each kind")
	first := flag.Uint64("first", 1, "the first seed; 1 to 9 were looked at while tuning")
	signal := flag.String("signal", "cpu", "what the policies go by: cpu, or requests a second of the load balancer")
	only := flag.String("only", "", "only traces of this kind")
	why := flag.Bool("why", false, "tell what Weir did with the first seed")
	flag.Parse()
	by := scale.CPU
	switch *signal {
	case "cpu":
	case "requests":
		by = scale.Requests
	default:
		fmt.Fprintf(os.Stderr, "bench-scale: there is no signal %q, want cpu or requests\n", *signal)
		os.Exit(2)
	}
	fmt.Printf("Signal %s, seeds %d to %d: median (least to most)\n\n", *signal, *first, *first+uint64(*seeds)-1)
	fmt.Println("| trace | policy | bad minutes | machine-hours | resizes |\n| --- | --- | ---: | ---: | ---: |")
	var below []string
	for _, kind := range kinds {
		if *only != "" && *only != kind.name {
			continue
		}
		paid := map[string][]float64{}
		for _, c := range contenders(by) {
			var bad, hours, resizes []float64
			for i := range *seeds {
				s := kind.make(rand.New(rand.NewPCG(*first+uint64(i), 0)))
				r := replay.Run(s.trace, s.from, machines, c.make(s.trace))
				bad = append(bad, r.Bad.Minutes())
				hours = append(hours, r.Machine.Hours())
				resizes = append(resizes, float64(len(r.Changes)))
				if *why && i == 0 && c.name == "weir" {
					tell(r)
				}
			}
			paid[c.name] = slices.Clone(hours)
			fmt.Printf("| %s | %s | %s | %s | %s |\n", kind.name, c.name, spread(bad, 1), spread(hours, 1), spread(resizes, 0))
		}
		for _, c := range contenders(by) {
			n := 0
			for i, h := range paid[c.name] {
				if h < paid[bound][i] {
					n++
				}
			}
			if n > 0 {
				below = append(below, fmt.Sprintf("%s: %s takes fewer machine-hours than can serve the load well in %d of %d", kind.name, c.name, n, *seeds))
			}
		}
	}
	fmt.Println()
	for _, line := range below {
		fmt.Println(line)
	}
}

// bound is the contender that always serves the load well with as few machine-hours as can be.
const bound = "clairvoyant"

// machines serve well up to 80 % of their CPU, boot for a minute and drain for half a minute.
var machines = replay.Machines{Capacity: capacity, Boot: time.Minute, Drain: 30 * time.Second, Good: 0.8}

type contender struct {
	name string
	make func(t replay.Trace) replay.Policy
}

func contenders(by scale.Signal) []contender {
	rules := scale.Rules{Min: least, Max: most}
	rules.Targets[by] = target
	if by == scale.Requests {
		rules.Targets[by] = target * capacity
	}
	return []contender{
		{"weir", func(replay.Trace) replay.Policy { return &replay.Weir{Rules: rules} }},
		{"kubernetes hpa", func(replay.Trace) replay.Policy { return &hpa{by: by} }},
		{"step scaling", func(replay.Trace) replay.Policy { return &steps{by: by} }},
		{"digitalocean", func(replay.Trace) replay.Policy { return &digitalOcean{by: by, cooldown: 10 * time.Minute} }},
		{"digitalocean, 5 min", func(replay.Trace) replay.Policy { return &digitalOcean{by: by, cooldown: 5 * time.Minute} }},
		{bound, func(t replay.Trace) replay.Policy { return &clairvoyant{trace: t, share: machines.Good} }},
		{"clairvoyant, at the target", func(t replay.Trace) replay.Policy { return &clairvoyant{trace: t, share: target} }},
	}
}

// spread returns the median of some numbers, with the least and the most.
func spread(all []float64, digits int) string {
	slices.Sort(all)
	return fmt.Sprintf("**%.*f** (%.*f–%.*f)", digits, all[len(all)/2], digits, all[0], digits, all[len(all)-1])
}

func tell(r replay.Result) {
	for _, c := range r.Changes {
		fmt.Printf("%s %d to %d: %s\n", c.At.Format("Jan 2 15:04:05"), c.From, c.To, c.Why)
	}
}
