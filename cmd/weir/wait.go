package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weir/weir"
)

// How a verb that waits asks: how often, and for how long an API that is away. A
// restart of the control plane takes less.
const (
	askEvery = 250 * time.Millisecond
	awayFor  = 20 * time.Second
	stuckFor = 10 * time.Second // how long a machine may be one that cannot be made
)

// patience is how a verb waits for what it asked for.
type patience struct {
	not     bool
	timeout time.Duration
}

func (p *patience) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.not, "no-wait", false, "return at once, while it is being done")
	cmd.Flags().DurationVar(&p.timeout, "timeout", 10*time.Minute, "how long to wait at most")
}

// wait shows the region's status to see, again and again, until see is done or returns
// an error. goesOn is what is so if the user or the timeout ends it before: "the
// machines go on being made".
func (p *patience) wait(ctx context.Context, c *client, b *board, goesOn string, see func(weir.RegionStatus) (done bool, err error)) error {
	limit, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	ticks := time.NewTicker(askEvery)
	defer ticks.Stop()
	var away time.Time // since when
	for {
		s, err := c.ownStatus(limit)
		switch {
		case err == nil:
			away = time.Time{}
			done, err := see(s)
			b.paint()
			if done || err != nil {
				return err
			}
		case limit.Err() != nil:
		case errors.Is(err, errAway):
			if away.IsZero() {
				away = time.Now()
			}
			if time.Since(away) > awayFor {
				return err
			}
		default:
			return err
		}
		select {
		case <-ticks.C:
		case <-limit.Done():
			if ctx.Err() != nil {
				return interruptedf("%s", goesOn)
			}
			return fmt.Errorf("not done after %s: %s", p.timeout, goesOn)
		}
	}
}

// far says how far a machine is on its way into the load balancer.
type far struct {
	said   string
	done   bool
	failed bool   // it will not get further by itself
	stuck  string // why it cannot be made for now; that is tried again and again
}

// howFar judges how far the machine is that has those tags.
func howFar(s *weir.RegionStatus, id weir.ID, tags []string) far {
	i := slices.IndexFunc(s.Machines, func(m weir.MachineOverview) bool { return m.ID == id })
	if i < 0 {
		return far{said: "gone: somebody has deleted it", failed: true}
	}
	m := s.Machines[i]
	switch {
	case m.Deleting:
		return far{said: "deleting: somebody has asked for that", failed: true}
	case m.Boot.State == weir.BootFailed:
		return far{said: "failed: " + m.Boot.Why, failed: true}
	case m.HostDown:
		return far{said: fmt.Sprintf("off: its host %s is down", m.OnHost), stuck: fmt.Sprintf("host %s is down", m.OnHost)}
	case m.Phase == weir.MachineOff:
		return far{said: "off: somebody has powered it off", failed: true}
	case m.Phase != weir.MachineActive && m.Err != "":
		return far{said: "created, but not there yet: " + m.Err, stuck: m.Err}
	case m.Phase != weir.MachineActive:
		return far{said: "created"}
	case m.Boot.State == weir.BootRunning:
		return far{said: "booting"}
	}
	said := "active"
	for _, lb := range s.LoadBalancers {
		if lb.Deleting || !targets(&lb, id, tags) {
			continue
		}
		server, ok := serverOf(&lb, id)
		switch {
		case slices.Contains(lb.Drained, id):
			said = "drained from load balancer " + lb.Name
			continue
		case !ok && lb.Err != "":
			return far{said: fmt.Sprintf("active, but load balancer %s is not: %s", lb.Name, lb.Err)}
		case !ok && lb.Phase != weir.LoadBalancerActive:
			return far{said: "active, and waits for load balancer " + lb.Name}
		case !ok:
			return far{said: "active"}
		case server.State == weir.ServerDown:
			return far{said: "active, but its health check fails: " + server.Why}
		case server.State != weir.ServerUp:
			return far{said: "active, its health check is under way"}
		}
		said = "in the load balancer"
	}
	return far{said: said, done: true}
}

// targets reports whether lb sends, or is to send, traffic to a machine.
func targets(lb *weir.LoadBalancerOverview, id weir.ID, tags []string) bool {
	_, there := serverOf(lb, id)
	return there || lb.Tag != "" && slices.ContainsFunc(tags, func(t string) bool { return strings.EqualFold(t, lb.Tag) })
}

// serverOf returns what the instances that have lb's address think of a machine: the
// worst, if the machine is in several backends.
func serverOf(lb *weir.LoadBalancerOverview, id weir.ID) (worst weir.ServerStatus, ok bool) {
	for _, server := range lb.Servers() {
		if server.ID == id && (!ok || worst.State == weir.ServerUp) {
			worst, ok = server, true
		}
	}
	return worst, ok
}
