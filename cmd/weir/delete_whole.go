package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"weir/weir"
)

// deletePool deletes a pool and its machines, and says which load balancer is left
// without them.
func (r *remove) deletePool(ctx context.Context, client *client, stderr io.Writer) error {
	s, err := client.ownStatus(ctx)
	if err != nil {
		return err
	}
	name, err := choosePool(&s, r.pool)
	if err != nil {
		return err
	}
	going := leaving{of: "pool " + name, board: newBoard(stderr)}
	for _, p := range s.Pools { // two, if one of that name is on its way out already
		if p.Name == name {
			going.ids = append(going.ids, p.ID)
		}
	}
	_, err = client.do(ctx, http.MethodDelete, "/v2/weir/pools/"+url.PathEscape(name), nil, nil)
	if err := r.wait(ctx, client, &going, s, err); err != nil {
		return err
	}
	for _, lb := range s.LoadBalancers {
		if !lb.Deleting && strings.EqualFold(lb.Tag, name) { // a pool's name is the tag of its machines
			going.board.say(fmt.Sprintf("load balancer %s still targets the tag %s; weir delete --lb %s deletes it", lb.Name, lb.Tag, lb.Name))
		}
	}
	return nil
}

// deleteBalancer deletes a load balancer with its instances.
func (r *remove) deleteBalancer(ctx context.Context, client *client, stderr io.Writer) error {
	s, err := client.ownStatus(ctx)
	if err != nil {
		return err
	}
	lb, err := chooseBalancer(&s, []string{r.balancer})
	if err != nil {
		return err
	}
	_, err = client.godo.LoadBalancers.Delete(ctx, string(lb.ID))
	if err != nil {
		err = client.explain(err)
	}
	return r.wait(ctx, client, &leaving{of: "load balancer " + lb.Name, ids: []weir.ID{lb.ID}, board: newBoard(stderr)}, s, err)
}

// wait waits until what was asked to go is gone. before is how the region was, err what
// the API said to the asking.
func (r *remove) wait(ctx context.Context, client *client, going *leaving, before weir.RegionStatus, err error) error {
	if ctx.Err() != nil {
		return interruptedf("%s may be going; weir status shows what is there", going.of)
	}
	if err != nil && !errors.Is(err, weir.NotFound) { // if it is not there, somebody was faster
		return err
	}
	going.see(before)
	going.board.paint()
	if r.patience.not {
		return nil
	}
	return r.patience.wait(ctx, client, going.board, going.of+" goes on being deleted; weir status shows what is left",
		func(s weir.RegionStatus) (bool, error) { return going.see(s), nil })
}

// leaving is a pool or a load balancer that is being deleted with its machines.
type leaving struct {
	of       string // "pool web"
	ids      []weir.ID
	machines []weir.MachineOverview // all that were seen of it
	board    *board
}

// see shows how far it is, and reports whether all of it is gone.
func (l *leaving) see(s weir.RegionStatus) (gone bool) {
	said, gone := "deleted", true
	for _, p := range s.Pools {
		if slices.Contains(l.ids, p.ID) {
			said, gone = "deleting", false
		}
	}
	for _, lb := range s.LoadBalancers {
		if slices.Contains(l.ids, lb.ID) {
			said, gone = "deleting", false
			if lb.Err != "" {
				said = "deleting, but it cannot be yet: " + lb.Err
			}
		}
	}
	for _, m := range s.Machines {
		mine := slices.Contains(l.ids, m.Pool) || slices.Contains(l.ids, m.LoadBalancer)
		if mine && !slices.ContainsFunc(l.machines, func(have weir.MachineOverview) bool { return have.ID == m.ID }) {
			l.machines = append(l.machines, m)
		}
	}
	l.board.set(l.of, l.of, said)
	for _, m := range l.machines {
		said, out := howGone(&s, m.ID)
		if m.LoadBalancer != "" && !out {
			said = "being destroyed" // an instance is in no load balancer
		}
		l.board.set(string(m.ID), m.Name, said)
		gone = gone && out
	}
	return gone
}
