package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"weir/store"
	"weir/weir"
)

// shortFor is how long a size that a cloud had no room for is passed over, if there is another.
const shortFor = 5 * time.Minute

// passedOver reports for p which of its offers the cloud had no room for lately.
func passedOver(p *weir.Pool, now time.Time) func(weir.Placement) bool {
	return func(at weir.Placement) bool { return p.Status.Short[at.String()].After(now) }
}

// passOver has p pass over an offer for a while from now.
func passOver(p *weir.Pool, at weir.Placement, now time.Time) {
	if p.Status.Short == nil {
		p.Status.Short = map[string]time.Time{}
	}
	p.Status.Short[at.String()] = now.UTC().Add(shortFor)
}

// lostFor is how long a pool that may have machines in several regions waits for one of which the region's cloud says anything else than
// that there is no room.
const lostFor = time.Minute

// noteShort notes of which offers the cloud has no room, since it cannot make members that are to be of these, and returns
// those members, if others can be made instead of them. A region that makes none, for whatever reason, is as good as full if
// there is another.
func noteShort(p *weir.Pool, members []weir.Machine, now time.Time) (instead []weir.Machine) {
	maps.DeleteFunc(p.Status.Short, func(_ string, until time.Time) bool { return !until.After(now) })
	if len(p.Status.Short) == 0 {
		p.Status.Short = nil
	}
	if !p.Mixed() || !p.Deleting.IsZero() {
		return nil
	}
	var others, waiting []weir.Machine
	for _, m := range members {
		switch {
		case !m.Deleting.IsZero() || p.Leaves(&m):
		case m.Status.Phase == weir.MachineNew && (m.Status.Short || waitsInVain(p, &m) && now.Sub(m.Created) >= lostFor):
			waiting = append(waiting, m)
			if !passedOver(p, now)(m.Placement()) {
				passOver(p, m.Placement(), now)
			}
		default:
			others = append(others, m)
		}
	}
	x := p.Mix(others, passedOver(p, now))
	for _, m := range waiting {
		o, why := x.Next()
		if why != "" {
			break // there is nothing better than to wait
		}
		x.Add(o)
		instead = append(instead, m)
	}
	return instead
}

// tellShort tells that another size is tried.
func tellShort(tx *store.Tx, p *weir.Pool, instead []weir.Machine) {
	told := map[weir.Placement]bool{}
	for _, m := range instead {
		if at := m.Placement(); !told[at] {
			told[at] = true
			why := "which its cloud has no room for"
			if !m.Status.Short {
				why = "which its cloud does not make"
			}
			tellPool(tx, p, m.ID, weir.EventDecision, fmt.Sprintf("has another %s in place of %s, %s: %s", another(p), p.Called(at), why, m.Status.Err))
		}
	}
}

// waitsInVain reports whether a member of p is one of a region that says anything else than that it has no room for it, though there are
// others.
func waitsInVain(p *weir.Pool, m *weir.Machine) bool {
	return p.Spans() && m.Status.Phase == weir.MachineNew && !m.Status.Short && m.Status.Err != "" && m.Deleting.IsZero()
}

// another is what a pool has in place of what there is no room for.
func another(p *weir.Pool) string {
	if p.Spans() {
		return "machine"
	}
	return "size"
}

// tellPool tells of a pool, and one of its machines if any is meant.
func tellPool(tx *store.Tx, p *weir.Pool, machine weir.ID, kind weir.EventKind, text string) {
	tellEvent(tx, weir.Event{Team: p.Team, Kind: kind, Name: p.Name, Machine: machine, Text: text})
}

// supply is which machines a pool can get.
type supply struct {
	units float64          // that it has with them
	short []weir.Placement // what the cloud has no room for at all
	err   error            // why that is less than was asked for
}

// supply asks the cloud for room for machines that bring a pool with those members to be worth so much. If what is
// missing is room, supply says how far it gets.
func (c *Control) supply(ctx context.Context, p *weir.Pool, members []weir.Machine, units float64) (s supply, err error) {
	stay := slices.DeleteFunc(slices.Clone(members), func(m weir.Machine) bool { return !m.Deleting.IsZero() || p.Leaves(&m) })
	most := map[weir.Placement]int{} // that there is room for, where there is less than was wanted
	for again := true; again; {
		again = false
		wanted := map[weir.Placement]int{}
		x := p.Mix(stay, func(at weir.Placement) bool {
			n, limited := most[at]
			return limited && wanted[at] >= n
		})
		for !x.Has(units) {
			o, why := x.Next()
			if why != "" {
				s.err = cmp.Or(s.err, error(weir.Errorf(weir.Exhausted, "%s", why)))
				break
			}
			x.Add(o)
			wanted[o.Placement()]++
		}
		if s.units = x.Units; x.Has(units) {
			s.err = nil
		}
		for _, o := range p.Offers() {
			at := o.Placement()
			if _, limited := most[at]; limited || wanted[at] == 0 {
				continue
			}
			fits, err := c.fits(ctx, p, at, wanted[at])
			if err != nil && !errors.Is(err, weir.Exhausted) {
				return s, err
			}
			if fits < wanted[at] {
				most[at], again = fits, true
				s.err = cmp.Or(s.err, err)
				if fits == 0 {
					s.short = append(s.short, at)
				}
			}
		}
	}
	return s, nil
}

// fits returns how many of n machines there is room for in a placement beside those that are coming, as far as that is worth
// finding out, and why not for all.
func (c *Control) fits(ctx context.Context, p *weir.Pool, at weir.Placement, n int) (int, error) {
	t := p.Template
	t.Region, t.Size = at.Region, at.Size
	var why error
	for ; n > 0; n /= 2 {
		err := c.room(ctx, t, n)
		if err == nil {
			break
		}
		if lost := p.Spans() && errors.Is(err, weir.Unavailable); lost {
			return 0, weir.Errorf(weir.Exhausted, "region %s makes no machines: %w", at.Region, err)
		}
		if !errors.Is(err, weir.Exhausted) {
			return 0, err
		}
		if why == nil {
			why = err
		}
	}
	return n, why
}

// admit returns why a pool with those members cannot become as large as its Count, or its machines what its template and its
// sizes say.
func (c *Control) admit(ctx context.Context, p *weir.Pool, members []weir.Machine) error {
	for _, o := range p.Offers() {
		t := p.Template
		t.Region, t.Size = o.Region, o.Size
		in, err := c.in(t.Region)
		if err == nil {
			err = in.Room(ctx, t, 0) // can such a machine be made at all?
		}
		if err != nil && !(p.Spans() && errors.Is(err, weir.Unavailable)) {
			return err
		}
	}
	s, err := c.supply(ctx, p, members, float64(p.Count))
	if err != nil {
		return err
	}
	return s.err
}

// admitChange returns why a pool cannot become what it would be.
func (c *Control) admitChange(ctx context.Context, was *weir.Pool, is weir.Pool) error {
	var members []weir.Machine
	if is.Count <= was.Count {
		is.Count = 0 // it needs no room
	} else if err := c.Store.View(ctx, func(tx *store.Tx) (err error) {
		if _, err := pools.Get(ctx, tx, was.ID); err != nil {
			return ignoreGone(err)
		}
		members, err = c.membersOf(ctx, tx, was.ID)
		return err
	}); err != nil {
		return err
	}
	return c.admit(ctx, &is, members)
}

// evenWeights returns the weight of each of all in one backend: in proportion to what they are worth, in small whole numbers. Who
// is no machine of a pool with several sizes is worth 1.
func evenWeights(all []*weir.Machine) []int {
	const finest = 10
	times, most := 1, 1.0
	for _, m := range all {
		w := m.Capacity()
		most = max(most, w)
		for times < finest && !whole(w*float64(times)) {
			times++
		}
	}
	scale := min(float64(times), mostWeight/most)
	weights := make([]int, len(all))
	for i, m := range all {
		weights[i] = max(1, int(math.Round(m.Capacity()*scale)))
	}
	return weights
}

func whole(v float64) bool { return math.Abs(v-math.Round(v)) < 0.01*v }
