package main

import (
	"context"
	"fmt"
	"io"

	"weir/weir"
)

// live waits until all instances of a load balancer do what was last asked of it.
func (p *patience) live(ctx context.Context, c *client, lb weir.LoadBalancerOverview, stderr io.Writer) error {
	if p.not {
		return nil
	}
	b := newBoard(stderr)
	return p.wait(ctx, c, b, "it goes on by itself; weir lb show "+lb.Name+" shows how far", func(s weir.RegionStatus) (bool, error) {
		for _, now := range s.LoadBalancers {
			switch {
			case now.ID != lb.ID:
			case now.Err != "":
				return false, fmt.Errorf("load balancer %q: %s", lb.Name, now.Err)
			default:
				return now.Phase == weir.LoadBalancerActive && len(now.Plan) == 0, nil
			}
		}
		return false, fmt.Errorf("load balancer %q is gone", lb.Name)
	})
}
