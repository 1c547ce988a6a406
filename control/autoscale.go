package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"weir/store"
	"weir/weir"
)

// scalings are the histories of autoscale pools, by pool, the oldest entry first.
var scalings = store.NewTable[[]weir.Scaling]("scalings")

// keptScalings is how many entries of a pool's history are remembered.
const keptScalings = 100

// superseded is what is said of a scaling that another came before the end of.
const superseded = "another change came before this one was done"

// AutoscalePools returns the autoscale pools of the caller's team, the oldest first.
func (c *Control) AutoscalePools(ctx context.Context) ([]weir.Pool, error) {
	all, err := pools.AllOwn(ctx, c.Store)
	all = slices.DeleteFunc(all, func(p weir.Pool) bool { return !isAutoscale(&p) })
	slices.SortFunc(all, func(a, b weir.Pool) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all, err
}

// AutoscalePool returns one autoscale pool, or weir.NotFound.
func (c *Control) AutoscalePool(ctx context.Context, id weir.ID) (weir.Pool, error) {
	return autoscalePool(ctx, c.Store, id)
}

// autoscalePool returns an autoscale pool of the caller's team that is not being deleted.
func autoscalePool(ctx context.Context, r store.Reader, id weir.ID) (weir.Pool, error) {
	p, err := pools.Own(ctx, r, id)
	if err == nil && !isAutoscale(&p) {
		return p, weir.Errorf(weir.NotFound, "there is no autoscale pool %q", id)
	}
	return p, err
}

// isAutoscale reports whether p is an autoscale pool: one that is being deleted is none any more.
func isAutoscale(p *weir.Pool) bool { return p.Autoscale != nil && p.Deleting.IsZero() }

// CreateAutoscalePool adds an autoscale pool, with its machines; its ID, Team and times are set
// here, and its Count if it has a Scale. A name that is taken is weir.Invalid.
func (c *Control) CreateAutoscalePool(ctx context.Context, p weir.Pool) (weir.Pool, error) {
	if err := c.checkScaled(&p); err != nil {
		return p, err
	}
	p = mergeAutoscale(weir.Pool{Autoscale: &weir.Autoscale{}}, p)
	p.Edition, p.Editions, p.Former = 0, 0, nil
	p.Team = weir.CallerOf(ctx).Team
	p.Created = p.Autoscale.Updated
	if err := c.admit(ctx, &p, nil); err != nil {
		return p, fmt.Errorf("pool %q: %w", p.Name, err)
	}
	made := p
	err := c.numbered(ctx, func(tx *store.Tx) error {
		made = p
		made.ID = weir.ID(uuid.NewString())
		if err := putAutoscale(ctx, tx, &made); err != nil {
			return err
		}
		if err := beginScaling(ctx, tx, made, weir.ScaledByUser, ""); err != nil {
			return err
		}
		if _, err := c.addMembers(ctx, tx, &made, planPool(made, nil, nil, made.Created).add); err != nil {
			return err
		}
		pools.Put(tx, made.ID, made)
		return nil
	})
	return made, err
}

// UpdateAutoscalePool makes an autoscale pool what want is. Its size changes as far as it must. If it
// is so already, nothing does.
func (c *Control) UpdateAutoscalePool(ctx context.Context, id weir.ID, want weir.Pool) (p weir.Pool, err error) {
	if p, err = c.AutoscalePool(ctx, id); err != nil {
		return p, err
	}
	if err := c.checkScaled(&want); err != nil {
		return p, err
	}
	if err := c.admitChange(ctx, &p, mergeAutoscale(p, want)); err != nil {
		return p, fmt.Errorf("pool %q: %w", want.Name, err)
	}
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		was, err := autoscalePool(ctx, tx, id)
		if err != nil {
			return err
		}
		p = mergeAutoscale(was, want)
		if reflect.DeepEqual(p, was) {
			return nil
		}
		if err := putAutoscale(ctx, tx, &p); err != nil {
			return err
		}
		if p.Count == was.Count && p.Edition == was.Edition && reflect.DeepEqual(p.Former, was.Former) {
			return nil // its machines stay what they are
		}
		return beginScaling(ctx, tx, p, weir.ScaledByUser, "")
	})
	return p, err
}

// mergeAutoscale returns was with what want desires.
func mergeAutoscale(was, want weir.Pool) weir.Pool {
	p, a := was, *was.Autoscale
	p.Name, p.Prefix, p.Template, p.Count = want.Name, want.Prefix, want.Template, want.Count
	p.Autoscale = &a
	p.Scale, a.Written = want.Scale, want.Autoscale.Written
	p.Sizes, p.Rolling, p.Heal, p.Exporter = want.Sizes, want.Rolling, want.Heal, want.Exporter
	if p.Scale != nil {
		p.Count = p.Clamp(was.Count)
	}
	for _, list := range []*[]string{&p.Template.Tags, &p.Template.SSHKeys, &a.Written.SSHKeys} {
		if len(*list) == 0 {
			*list = nil // as it is read back
		}
	}
	if reflect.DeepEqual(p, was) {
		return was
	}
	a.Updated = time.Now().UTC()
	renew(&p, was)
	return p
}

// sameMachines reports whether two templates make machines that are the same but for their size.
func sameMachines(a, b weir.Template) bool {
	for _, t := range []*weir.Template{&a, &b} {
		t.Size = ""
		t.Tags, t.SSHKeys = slices.Sorted(slices.Values(t.Tags)), slices.Sorted(slices.Values(t.SSHKeys))
	}
	return reflect.DeepEqual(a, b)
}

// putAutoscale stores an autoscale pool, unless another pool has its name.
func putAutoscale(ctx context.Context, tx *store.Tx, p *weir.Pool) error {
	other, err := poolNamed(ctx, tx, p.Name)
	if err != nil {
		return err
	}
	if other != nil && other.ID != p.ID {
		return weir.Errorf(weir.Invalid, "name %q is taken by another pool, want one that no pool has", p.Name)
	}
	if err := settle(ctx, tx, p.Team, &weir.Place{Project: p.Autoscale.Written.Project}); err != nil {
		return fmt.Errorf("droplet_template: %w", err)
	}
	for _, name := range p.Template.Tags {
		if err := addTag(ctx, tx, p.Team, name); err != nil {
			return err
		}
	}
	pools.Put(tx, p.ID, *p)
	return nil
}

// DeleteAutoscalePool deletes an autoscale pool. With machines, they are drained and destroyed;
// otherwise they stay, and belong to no pool.
func (c *Control) DeleteAutoscalePool(ctx context.Context, id weir.ID, machinesToo bool) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		p, err := autoscalePool(ctx, tx, id)
		if err != nil {
			return err
		}
		if machinesToo {
			deletePool(tx, p)
			return nil
		}
		members, err := c.membersOf(ctx, tx, id)
		if err != nil {
			return err
		}
		for _, m := range members {
			m.Pool, m.Edition, m.Worth, m.Condemned, m.Metered = "", 0, 0, "", nil
			machines.Put(tx, m.ID, m)
		}
		forgetPool(tx, id)
		return nil
	})
}

// PoolMembers returns the machines of an autoscale pool by ID, those that are being deleted
// among them.
func (c *Control) PoolMembers(ctx context.Context, id weir.ID) (members []weir.Member, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		members = nil
		// First, so that the list is not newer than the view: a member that is gone in one and not in the other would be missed.
		all, err := c.membersOf(ctx, tx, id)
		if err != nil {
			return err
		}
		if _, err := autoscalePool(ctx, tx, id); err != nil {
			return err
		}
		for _, m := range all {
			members = append(members, weir.Member{Machine: m, Unwell: m.Trouble()})
		}
		found, err := c.find(ctx, tx, all, time.Now())
		judgeMembers(members, found)
		return err
	})
	byNumber(members, func(m weir.Member) weir.ID { return m.ID })
	return members, err
}

// PoolHistory returns how an autoscale pool has changed, the newest first.
func (c *Control) PoolHistory(ctx context.Context, id weir.ID) (history []weir.Scaling, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		if _, err := autoscalePool(ctx, tx, id); err != nil {
			return err
		}
		history, err = historyOf(ctx, tx, id)
		return err
	})
	slices.Reverse(history)
	return history, err
}

func historyOf(ctx context.Context, tx *store.Tx, pool weir.ID) ([]weir.Scaling, error) {
	history, err := scalings.Get(ctx, tx, pool)
	if errors.Is(err, weir.NotFound) {
		err = nil
	}
	return history, err
}

// beginScaling begins an entry in the history of a pool, in the transaction that changes it.
func beginScaling(ctx context.Context, tx *store.Tx, p weir.Pool, reason weir.ScalingReason, why string) error {
	history, err := historyOf(ctx, tx, p.ID)
	if err != nil {
		return err
	}
	scalings.Put(tx, p.ID, withScaling(history, p.Count, p.Status.Units, reason, why))
	return nil
}

// withScaling returns a history with one entry more, without the oldest if it has too many.
func withScaling(history []weir.Scaling, want, have int, reason weir.ScalingReason, why string) []weir.Scaling {
	now := time.Now().UTC()
	if s := newest(history); s != nil && s.Ended.IsZero() {
		s.Err, s.Ended, s.Updated = superseded, now, now
	}
	history = append(history, weir.Scaling{ID: weir.ID(uuid.NewString()), Reason: reason, Want: want, Have: have, Began: now, Updated: now, Why: why})
	return history[max(0, len(history)-keptScalings):]
}

func newest(history []weir.Scaling) *weir.Scaling {
	if len(history) == 0 {
		return nil
	}
	return &history[len(history)-1]
}

// powered returns those of a pool's members that are powered on and to stay.
func powered(members []weir.Machine) (on []weir.Machine) {
	for _, m := range members {
		if m.Deleting.IsZero() && m.Status.Phase == weir.MachineActive {
			on = append(on, m)
		}
	}
	return on
}

// observePool brings what there is of a pool's machines, of which so many are being added and so many dropped, into its
// status, and into the newest entry of its history. Machines that nobody has asked
// for, in the place of some that are gone, begin an entry of their own. cut says which regions cannot be asked; whatever else is wrong
// follows from that.
func observePool(ctx context.Context, tx *store.Tx, p *weir.Pool, members []weir.Machine, add, drop int, cut string) error {
	members = slices.DeleteFunc(slices.Clone(members), func(m weir.Machine) bool { return m.Buried() })
	on := powered(members)
	p.Status.Active, p.Status.Units = len(on), int(worth(on)+1e-9)
	settled := add == 0 && drop == 0 && p.Status.Stuck == "" && (p.Mixed() || len(members) == p.Count)
	for _, m := range members {
		if !m.Deleting.IsZero() || m.Status.Phase == weir.MachineNew || p.Leaves(&m) {
			settled = false
		}
		if !m.Deleting.IsZero() && m.Status.Err != "" && p.Status.Stuck == "" {
			p.Status.Stuck = fmt.Sprintf("%s cannot be deleted: %s", m.Name, m.Status.Err)
		}
		if m.Deleting.IsZero() && m.Status.Phase == weir.MachineNew && m.Status.Err != "" && p.Status.Stuck == "" {
			p.Status.Stuck = fmt.Sprintf("%s: %s", m.Name, m.Status.Err)
		}
	}
	if !settled && cut != "" {
		p.Status.Stuck = cut
	}
	history, err := historyOf(ctx, tx, p.ID)
	if err != nil {
		return err
	}
	s := newest(history)
	if add > 0 && (s == nil || !s.Ended.IsZero()) {
		history = withScaling(history, p.Count, p.Status.Units, weir.ScaledUp, "a machine is gone")
		s = newest(history)
	}
	if s == nil || !s.Ended.IsZero() {
		return nil
	}
	is := *s
	is.Have, is.Err = p.Status.Units, p.Status.Stuck
	if settled {
		is.Ended = time.Now().UTC()
	}
	if is != *s {
		is.Updated = time.Now().UTC()
		*s = is
	}
	scalings.Put(tx, p.ID, history)
	return nil
}
