package control

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"weir/store"
	"weir/weir"
)

// failedFor is how long after its making a machine whose user-data failed is replaced, so that one template
// that fails now and then costs a machine in that time, and no more.
const failedFor = 5 * time.Minute

// How long a machine may take until its load balancers find it up, and until its user-data has ended: one of a new
// template that takes longer has failed.
const (
	joinFor = 10 * time.Minute
	bootFor = 30 * time.Minute
)

// failed returns the oldest of a pool's members that will never serve, since its user-data failed, and that is
// to be replaced now, or when one is to be. None is while no other member shows that the template can make
// machines that serve, or while a new template replaces them all. Only pools that keep their own size by
// themselves replace machines: of others users know each.
func failed(p weir.Pool, members []weir.Machine, now time.Time) (m *weir.Machine, again time.Duration) {
	serves := false
	for i := range members {
		is := &members[i]
		switch {
		case p.Leaves(is):
			return nil, 0
		case is.Deleting.IsZero() && is.Serves():
			serves = true
		case is.Deleting.IsZero() && is.Status.Boot.State == weir.BootFailed && (m == nil || is.Created.Before(m.Created)):
			m = is
		}
	}
	if !p.Told() || !p.Deleting.IsZero() || !serves || m == nil {
		return nil, 0
	}
	if age := now.Sub(m.Created); age < failedFor {
		return nil, failedFor - age
	}
	return m, 0
}

// poolPlan is what is to be done about the machines of a pool.
type poolPlan struct {
	add  []weir.Offer // a machine of each
	drop []weir.Machine
	why  string // why there are to be more, and none can be added
}

// planPool returns which machines a pool must add, and which of its members must go: those that failed first, then
// those of the size that is dearest for what it is worth, then those of the host that has most of the pool, then the newest. Members
// that are to be replaced go as soon as there is as much that serves without them as there must be.
func planPool(p weir.Pool, members []weir.Machine, found map[weir.ID]finding, now time.Time) (plan poolPlan) {
	want := float64(p.Count)
	if !p.Deleting.IsZero() {
		want = 0
	}
	var old, fresh []weir.Machine
	on := crowdOf(members)
	arrived, sick, coming := 0.0, 0.0, false
	for _, m := range members {
		switch {
		case !m.Deleting.IsZero():
		case p.Leaves(&m):
			old = append(old, m)
		default:
			fresh = append(fresh, m)
			if has(&m, found) {
				arrived += m.Capacity()
			} else {
				coming = true
				if found[m.ID].lasts() {
					sick += m.Capacity()
				}
			}
		}
	}
	paused := p.Former != nil && !p.Former.Paused.IsZero()
	fewer, more := room(&p, old)
	keep := want - arrived - fewer
	if paused {
		keep = want
	}
	if keep-sick <= 1e-9 { // none is awaited but those that are to be replaced next, once these have gone
		old = slices.DeleteFunc(old, func(m weir.Machine) bool {
			gone := m.Condemned != "" && !has(&m, found)
			if gone {
				on.leave(&m)
				plan.drop = append(plan.drop, m)
			}
			return gone
		})
	}
	drop, left := dropOld(old, keep, on)
	x := p.Mix(fresh, passedOver(&p, now))
	plan.drop = append(append(plan.drop, drop...), dropSpare(x, fresh, found, want, on)...)
	for !x.Has(want) {
		switch {
		case len(old) > 0 && left+x.Units >= want+more-1e-9: // there are as many more as there may be for that time
			return plan
		case paused && (coming || len(plan.add) > 0): // one is tried at a time
			return plan
		}
		o, why := x.Next()
		if why != "" {
			plan.why = fmt.Sprintf("it has %v of %v: %s", x.Units, want, why)
			return plan
		}
		x.Add(o)
		plan.add = append(plan.add, o)
	}
	return plan
}

// dropOld returns which members that are to be replaced can go, if the others are to be worth as much as keep, and what those are
// worth whose host is up.
func dropOld(old []weir.Machine, keep float64, on crowd) (drop []weir.Machine, left float64) {
	left = worth(old)
	stay := slices.Clone(old)
	for {
		best := -1
		for i := range stay {
			m := &stay[i]
			if left-m.Capacity() < max(0, keep)-1e-9 {
				continue
			}
			if best < 0 || cmp.Or(cmp.Compare(m.Lost(), stay[best].Lost()), on.compare(m, &stay[best])) < 0 {
				best = i
			}
		}
		if best < 0 {
			break
		}
		left -= stay[best].Capacity()
		on.leave(&stay[best])
		drop = append(drop, stay[best])
		stay = slices.Delete(stay, best, best+1)
	}
	for i := range stay {
		if stay[i].Stranded() {
			left -= stay[i].Capacity()
		}
	}
	return drop, left
}

// dropSpare returns which of the members that make up x go because a pool is to be no larger than want, and takes them from x.
func dropSpare(x *weir.Mix, all []weir.Machine, found map[weir.ID]finding, want float64, on crowd) (drop []weir.Machine) {
	for {
		i := x.Spare(all, want, func(m *weir.Machine) bool { return has(m, found) }, on.compare)
		if i < 0 {
			return drop
		}
		on.leave(&all[i])
		drop = append(drop, all[i])
		x.Remove(&all[i])
		all = slices.Delete(all, i, i+1)
	}
}

// room returns by how much less a pool may be worth, and by how much more, while old are replaced. What it says is of
// machines: if there may be one fewer or one more, that is one of theirs, whatever it is worth.
func room(p *weir.Pool, old []weir.Machine) (fewer, more float64) {
	fewer, more = float64(p.Unavailable()), float64(p.Surge())
	least, most := math.Inf(1), 0.0
	for i := range old {
		least, most = min(least, old[i].Capacity()), max(most, old[i].Capacity())
	}
	if fewer > 0 && len(old) > 0 {
		fewer = max(fewer, least)
	}
	if more > 0 {
		more = max(more, most)
	}
	return fewer, more
}

// has reports whether a member serves as far as it is to.
func has(m *weir.Machine, found map[weir.ID]finding) bool {
	return m.Serves() && !found[m.ID].waits || m.Off || m.Drained // somebody wants those to be as they are
}

// crowd is how many machines of one kind each host has that are to stay.
type crowd map[string]int

func crowdOf(all []weir.Machine) crowd {
	on := crowd{}
	for i := range all {
		if m := &all[i]; m.Deleting.IsZero() && m.Status.Host != "" {
			on[m.Status.Host]++
		}
	}
	return on
}

// leave takes a machine away.
func (on crowd) leave(m *weir.Machine) {
	if m.Status.Host != "" {
		on[m.Status.Host]--
	}
}

// compare compares which of two machines that are otherwise equal goes first: the one whose host has more of them, then the newer.
func (on crowd) compare(a, b *weir.Machine) int {
	return cmp.Or(cmp.Compare(on[b.Status.Host], on[a.Status.Host]), weir.Newer(a, b))
}

// renew has p remember what was, of which machines are to be replaced because p has another template or does not
// offer their size.
func renew(p *weir.Pool, was weir.Pool) {
	others := !sameMachines(p.Template, was.Template)
	if others || p.Template.Size != was.Template.Size || !slices.Equal(p.Sizes, was.Sizes) {
		p.Back = ""
	}
	if f := p.Former; f != nil && sameMachines(p.Template, f.Template) && p.Template.Size == f.Template.Size && slices.Equal(p.Sizes, f.Sizes) {
		p.Edition, p.Former = f.Edition, nil // who changed it has changed it back
		return
	}
	if others {
		p.Editions++
		p.Edition = p.Editions
	}
	for _, o := range was.Offers() {
		_, offered := p.Offer(o.Placement())
		others = others || !offered
	}
	if !others || !p.Rolls() {
		return
	}
	if p.Former == nil {
		p.Former = &weir.Former{Edition: was.Edition, Template: was.Template, Sizes: was.Sizes}
		if was.Autoscale != nil {
			written := was.Autoscale.Written
			p.Former.Written = &written
		}
		return
	}
	former := *p.Former // of what was to replace that there may be nothing yet that serves
	former.Paused, former.Why = time.Time{}, ""
	p.Former = &former
}

// roll goes on with replacing the machines of a pool that has a new template: it is paused when a new machine fails, until
// another one serves; if that fails too, the pool goes back to its former template. It returns what is to go because
// it failed.
func (t *term) roll(ctx context.Context, tx *store.Tx, p *weir.Pool, members []weir.Machine, found map[weir.ID]finding, now time.Time) (drop []weir.Machine, err error) {
	if p.Former == nil || !p.Deleting.IsZero() {
		return nil, nil
	}
	old, arrived := false, 0.0
	var bad *weir.Machine
	why, proven := "", false
	for i := range members {
		m := &members[i]
		switch {
		case !m.Deleting.IsZero():
		case p.Stale(m):
			old = true
		case has(m, found):
			arrived += m.Capacity()
			proven = proven || !m.Created.Before(p.Former.Paused)
		case bad == nil:
			if why = flaw(m, found[m.ID], now); why != "" {
				bad = m
			}
		}
	}
	former := *p.Former
	switch {
	case bad == nil && !old && arrived >= float64(p.Count)-1e-9:
		p.Former = nil
		return nil, nil
	case bad == nil && !former.Paused.IsZero() && proven:
		former.Paused, former.Why = time.Time{}, ""
		p.Former = &former
		tellPool(tx, p, "", weir.EventDecision, "goes on with replacing its machines: a new one serves")
		return nil, nil
	case bad == nil:
		return nil, nil
	case former.Paused.IsZero():
		former.Paused, former.Why = now.UTC(), bad.Name+": "+why
		p.Former = &former
		tellPool(tx, p, bad.ID, weir.EventDecision, fmt.Sprintf("pauses replacing its machines, and tries one more: %s", former.Why))
		return []weir.Machine{*bad}, nil
	}
	why = fmt.Sprintf("%s, after %s", bad.Name+": "+why, former.Why)
	return nil, rollBack(ctx, tx, p, why)
}

// flaw returns why a machine of a new template is no good, or "".
func flaw(m *weir.Machine, f finding, now time.Time) string {
	age := now.Sub(m.Created)
	switch {
	case m.Status.Boot.State == weir.BootFailed:
		return cmp.Or(m.Status.Boot.Why, "its user-data failed")
	case m.Serves() && f.waits && age > joinFor:
		return cmp.Or(f.down, fmt.Sprintf("no load balancer has found it up in %s", joinFor))
	case m.Status.Boot.State == weir.BootRunning && age > bootFor:
		return fmt.Sprintf("its user-data has not ended in %s", bootFor)
	}
	return ""
}

// rollBack has a pool go back to its former template.
func rollBack(ctx context.Context, tx *store.Tx, p *weir.Pool, why string) error {
	f := p.Former
	p.Edition, p.Template, p.Sizes, p.Former, p.Back = f.Edition, f.Template, f.Sizes, nil, why
	if p.Autoscale != nil && f.Written != nil {
		a := *p.Autoscale
		a.Written, a.Updated = *f.Written, time.Now().UTC()
		p.Autoscale = &a
	}
	tellPool(tx, p, "", weir.EventDecision, "goes back to its former template: "+why)
	history, err := historyOf(ctx, tx, p.ID)
	if err != nil {
		return err
	}
	if s := newest(history); s != nil && s.Ended.IsZero() {
		now := time.Now().UTC()
		s.Err, s.Ended, s.Updated = "went back to the former template: "+why, now, now
	}
	scalings.Put(tx, p.ID, withScaling(history, p.Count, p.Status.Units, weir.ScaledByUser, "back to the former template: "+why))
	return nil
}
