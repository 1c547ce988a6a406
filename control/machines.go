package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/store"
	"weir/weir"
)

// errLeaving says that a machine is being deleted.
var errLeaving = errors.New("it is being deleted")

// referred returns a machine that something else is to refer to: that it is not there
// is the fault of what refers to it, so weir.Invalid. Another team's is not there.
func referred(ctx context.Context, tx *store.Tx, id weir.ID) (weir.Machine, error) {
	m, err := machines.Own(ctx, tx, id)
	switch {
	case errors.Is(err, weir.NotFound):
		return m, weir.Errorf(weir.Invalid, "there is no droplet %s", id)
	case err == nil && !m.Deleting.IsZero():
		return m, weir.Errorf(weir.Invalid, "there is no droplet %s any more: %w", id, errLeaving)
	case err == nil && m.LoadBalancer != "":
		return m, weir.Errorf(weir.Invalid, "droplet %s is an instance of load balancer %s", id, m.LoadBalancer)
	case err == nil && m.Own:
		return m, weir.Errorf(weir.Invalid, "there is no droplet %s", id)
	}
	return m, err
}

// number returns a decimal ID as a number, or -1 if it is none.
func number(id weir.ID) int64 {
	n, err := strconv.ParseInt(string(id), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// byNumber sorts rows by their decimal ID.
func byNumber[T any](rows []T, id func(T) weir.ID) {
	slices.SortFunc(rows, func(a, b T) int { return cmp.Compare(number(id(a)), number(id(b))) })
}

// allMachines returns every machine, by ID.
func allMachines(ctx context.Context, r store.Reader) ([]weir.Machine, error) {
	all, err := machines.All(ctx, r)
	byNumber(all, func(m weir.Machine) weir.ID { return m.ID })
	return all, err
}

// Machines returns all machines by ID, load balancers' instances among them.
func (c *Control) Machines(ctx context.Context) ([]weir.Machine, error) {
	all, err := machines.AllOwn(ctx, c.Store)
	byNumber(all, func(m weir.Machine) weir.ID { return m.ID })
	return all, err
}

// Machine returns one machine, or weir.NotFound.
func (c *Control) Machine(ctx context.Context, id weir.ID) (weir.Machine, error) {
	m, err := c.lists.machines.get(ctx, id)
	return machines.own(ctx, id, m, err)
}

// CreateMachines adds a machine for each name, and the action of each one's creation:
// all of them or none.
func (c *Control) CreateMachines(ctx context.Context, names []string, t weir.Template) (made []weir.Machine, asked []weir.Action, err error) {
	if err := t.Check(c.Regions()...); err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if err := weir.CheckName(name); err != nil {
			return nil, nil, err
		}
	}
	if err := c.room(ctx, t, len(names)); err != nil {
		return nil, nil, err
	}
	err = c.numbered(ctx, func(tx *store.Tx) error {
		made, asked = nil, nil
		for _, name := range names {
			m, a, err := newMachine(ctx, tx, weir.Machine{Team: weir.CallerOf(ctx).Team, Name: name, Template: t})
			if err != nil {
				return err
			}
			made, asked = append(made, m), append(asked, a)
		}
		return nil
	})
	return made, asked, err
}

// room returns weir.Exhausted if the cloud cannot make n more machines like t, those
// that it is still to make counted in. It is asked before any row is written, so that
// what cannot be is refused whole.
func (c *Control) room(ctx context.Context, t weir.Template, n int) error {
	_, coming, err := c.lists.machines.page(ctx, comingList(t.Region), 0, 0)
	if err != nil {
		return err
	}
	in, err := c.in(t.Region)
	if err != nil {
		return err
	}
	return in.Room(ctx, t, n+coming)
}

// DeleteMachine has a machine drained and destroyed. A pool that counts it gets
// smaller by one, unless it is an autoscale pool, which makes another. If it is being deleted already, DeleteMachine does nothing.
func (c *Control) DeleteMachine(ctx context.Context, id weir.ID) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		m, err := machines.Own(ctx, tx, id)
		if err != nil {
			return err
		}
		return c.deleteMachine(ctx, tx, m)
	})
}

// DeleteMachinesByTag deletes every machine that has the tag; a load balancer's
// instances have none.
func (c *Control) DeleteMachinesByTag(ctx context.Context, name string) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		team := weir.CallerOf(ctx).Team
		// The tag's row gives the transaction its moment; there may be none.
		if _, err := tags.Get(ctx, tx, tagKey(team, name)); err != nil && !errors.Is(err, weir.NotFound) {
			return err
		}
		p := c.newParty(tx)
		if err := p.addListed(ctx, tagList(team, name)); err != nil {
			return err
		}
		_, all := p.rows()
		for _, m := range all {
			if m.LoadBalancer != "" || m.Own || !m.HasTag(name) {
				continue
			}
			if err := c.deleteMachine(ctx, tx, m); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *Control) deleteMachine(ctx context.Context, tx *store.Tx, m weir.Machine) error {
	if m.Own {
		return weir.Errorf(weir.Conflict, "machine %s is one of your own: `weir node remove %s` forgets it", m.Name, m.Name)
	}
	if m.LoadBalancer != "" {
		return weir.Errorf(weir.Conflict, "machine %s is an instance of load balancer %s: delete the load balancer instead", m.Name, m.LoadBalancer)
	}
	if !m.Deleting.IsZero() {
		return nil
	}
	if p, err := pools.Get(ctx, tx, m.Pool); err == nil {
		if p.Autoscale == nil {
			p.Count = max(0, p.Count-max(1, int(m.Capacity()+0.5)))
			pools.Put(tx, p.ID, p)
		}
	} else if !errors.Is(err, weir.NotFound) {
		return err
	}
	return c.leave(ctx, tx, m)
}

// leave has a machine go, and all that names it forget it.
func (c *Control) leave(ctx context.Context, tx *store.Tx, m weir.Machine) error {
	m.Deleting = time.Now().UTC()
	machines.Put(tx, m.ID, m)
	if err := changeFirewalls(ctx, tx, func(f *weir.CloudFirewall) { forgetMachine(f, m.ID) }); err != nil {
		return err
	}
	return c.unname(ctx, tx, m.ID)
}

// unname takes a machine out of the load balancers that name it. One that names it while it is asked to go is missed, and
// none does afterwards: so it is done again before the machine's row goes.
func (c *Control) unname(ctx context.Context, tx *store.Tx, machine weir.ID) error {
	var ids []weir.ID
	err := c.lists.loadBalancers.view(ctx, func(p store.Pages[weir.LoadBalancer]) {
		p.Each(namingList(machine), 0, math.MaxInt, func(lb *weir.LoadBalancer) { ids = append(ids, lb.ID) })
	})
	if err != nil {
		return err
	}
	lbs := map[weir.ID]weir.LoadBalancer{}
	if err := addRows(ctx, tx, loadBalancers.Table, lbs, ids); err != nil {
		return err
	}
	for id, lb := range lbs {
		if _, drained := lb.Policy.Drained[machine]; drained || slices.Contains(lb.TargetMachines(), machine) {
			lb.Forget(machine)
			loadBalancers.Put(tx, id, lb)
		}
	}
	return nil
}

// Act has something done to a machine: power_on, power_off, shutdown, reboot,
// power_cycle or enable_ipv6, in DigitalOcean's words. It is done once the machine is so; if something else is
// asked for before that, the action has failed.
//
// enable_private_networking and disable_backups are done at once, for no machine is otherwise.
func (c *Control) Act(ctx context.Context, machine weir.ID, kind string) (a weir.Action, err error) {
	if kind == "enable_ipv6" {
		m, err := machines.Own(ctx, c.Store, machine)
		if err != nil {
			return a, err
		}
		m.IPv6 = true
		in, err := c.in(m.Region)
		if err == nil {
			err = in.Room(ctx, m.Template, 0)
		}
		if err != nil {
			return a, err
		}
	}
	err = c.numbered(ctx, func(tx *store.Tx) error {
		m, err := mine(ctx, tx, machine)
		if err != nil {
			return err
		}
		switch kind {
		case "power_on":
			m.Off = false
		case "power_off", "shutdown":
			if m.Off {
				return weir.Errorf(weir.Invalid, "Droplet is already powered off") // a text that clients match
			}
			m.Off = true
		case "reboot", "power_cycle":
			if m.Off {
				return weir.Errorf(weir.Invalid, "machine %s is powered off: power it on instead", m.Name)
			}
		case "enable_ipv6":
			m.IPv6 = true
		case "enable_private_networking", "disable_backups":
			a, err = doneAction(ctx, tx, m, kind)
			return err
		default:
			return weir.Errorf(weir.Invalid, "action %q is not known, want power_on, power_off, shutdown, reboot, power_cycle or enable_ipv6", kind)
		}
		a, err = newAction(ctx, tx, weir.Action{Team: m.Team, Type: kind, Resource: weir.OnMachine, On: m.ID, Region: m.Region})
		if err != nil {
			return err
		}
		m.Actions = append(m.Actions, a.ID)
		machines.Put(tx, m.ID, m)
		return nil
	})
	return a, err
}

// RenameMachine gives a machine another name, which is done at once: what runs in the machine keeps
// the host name that it booted with.
func (c *Control) RenameMachine(ctx context.Context, machine weir.ID, name string) (a weir.Action, err error) {
	if err := weir.CheckName(name); err != nil {
		return a, err
	}
	err = c.numbered(ctx, func(tx *store.Tx) error {
		m, err := mine(ctx, tx, machine)
		if err != nil {
			return err
		}
		m.Name = name
		machines.Put(tx, m.ID, m)
		a, err = doneAction(ctx, tx, m, "rename")
		return err
	})
	return a, err
}

// mine returns a machine that a user may do something to.
func mine(ctx context.Context, tx *store.Tx, machine weir.ID) (weir.Machine, error) {
	m, err := machines.Own(ctx, tx, machine)
	switch {
	case err != nil:
		return m, err
	case !m.Deleting.IsZero():
		return m, weir.Errorf(weir.Conflict, "machine %s is being deleted", m.Name)
	case m.LoadBalancer != "":
		return m, weir.Errorf(weir.Conflict, "machine %s is an instance of load balancer %s, which alone decides over it", m.Name, m.LoadBalancer)
	case m.Own:
		return m, weir.Errorf(weir.Conflict, "machine %s is one of your own, which no cloud has power over", m.Name)
	}
	return m, nil
}

// DrainMachine keeps a machine from serving, or lets it serve again. A server finishes its requests
// and gets no new ones; a load balancer's instance stands by, and if it is the active one
// another takes over, if there is one that can. If it is so already, DrainMachine does nothing.
func (c *Control) DrainMachine(ctx context.Context, machine weir.ID, drained bool) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		m, err := machines.Own(ctx, tx, machine)
		if err != nil {
			return err
		}
		if !m.Deleting.IsZero() {
			return weir.Errorf(weir.Conflict, "machine %s is being deleted", m.Name)
		}
		if m.Drained == drained {
			return nil
		}
		m.Drained = drained
		machines.Put(tx, m.ID, m)
		text := "drains " + m.Name
		if !drained {
			text = "lets " + m.Name + " serve again"
		}
		e := weir.Event{Team: m.Team, Kind: weir.EventRequest, LoadBalancer: m.LoadBalancer, Machine: m.ID, Name: m.Name, Text: text}
		if lb, err := loadBalancers.Get(ctx, tx, m.LoadBalancer); err == nil {
			e.Name = lb.Name
		}
		tellEvent(tx, e)
		return nil
	})
}

// tag is a word that machines are found by.
type tag struct {
	Team    weir.ID   `json:"team,omitempty"`
	Name    string    `json:"name"` // as first written; tags are compared without case
	Created time.Time `json:"created"`
}

// tagKey is where a team's tag of that name is: no name of a tag has a slash.
func tagKey(team weir.ID, name string) weir.ID {
	key := weir.ID(strings.ToLower(name))
	if team != "" {
		key = team + "/" + key
	}
	return key
}

func addTag(ctx context.Context, tx *store.Tx, team weir.ID, name string) error {
	if err := weir.CheckTag(name); err != nil {
		return err
	}
	key := tagKey(team, name)
	if _, err := tags.Get(ctx, tx, key); !errors.Is(err, weir.NotFound) {
		return err
	}
	tags.Put(tx, key, tag{Team: team, Name: name, Created: time.Now().UTC()})
	return nil
}

// CreateTag makes a tag. If there is one of that name, it does nothing.
func (c *Control) CreateTag(ctx context.Context, name string) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error { return addTag(ctx, tx, weir.CallerOf(ctx).Team, name) })
}

// DeleteTag deletes a tag, and takes it from every machine and load balancer. A load balancer whose
// servers go by it is left without servers, until a machine has that tag again.
func (c *Control) DeleteTag(ctx context.Context, name string) error {
	team := weir.CallerOf(ctx).Team
	err := c.Store.Update(ctx, func(tx *store.Tx) error {
		if _, err := tags.Get(ctx, tx, tagKey(team, name)); err != nil {
			return err
		}
		tags.Delete(tx, tagKey(team, name))
		err := changeFirewalls(ctx, tx, func(f *weir.CloudFirewall) {
			if f.Team == team {
				forgetTag(f, name)
			}
		})
		if err != nil {
			return err
		}
		_, err = c.takeOff(ctx, tx, team, name)
		return err
	})
	// What was given the tag in that moment is not among them. Nothing is once the tag is gone, unless it is made anew.
	for left := 1; err == nil && left > 0; {
		err = c.Store.Update(ctx, func(tx *store.Tx) error {
			_, err := tags.Get(ctx, tx, tagKey(team, name))
			if errors.Is(err, weir.NotFound) {
				left, err = c.takeOff(ctx, tx, team, name)
			} else {
				left = 0
			}
			return err
		})
	}
	return err
}

// takeOff takes a tag from the machines and load balancers that have it, and returns how many did.
func (c *Control) takeOff(ctx context.Context, tx *store.Tx, team weir.ID, name string) (had int, err error) {
	var ids []weir.ID
	err = c.lists.loadBalancers.view(ctx, func(p store.Pages[weir.LoadBalancer]) {
		p.Each(tagList(team, name), 0, math.MaxInt, func(lb *weir.LoadBalancer) { ids = append(ids, lb.ID) })
	})
	if err != nil {
		return 0, err
	}
	p := c.newParty(tx)
	if err := addRows(ctx, tx, loadBalancers.Table, p.balancers, ids); err != nil {
		return 0, err
	}
	if err := p.addListed(ctx, tagList(team, name)); err != nil {
		return 0, err
	}
	lbs, all := p.rows()
	for _, m := range all {
		if m.HasTag(name) {
			had++
			m.Tags = withoutTag(m.Tags, name)
			machines.Put(tx, m.ID, m)
		}
	}
	for _, lb := range lbs {
		if lb.HasTag(name) {
			had++
			lb.Tags = withoutTag(lb.Tags, name)
			loadBalancers.Put(tx, lb.ID, lb)
		}
	}
	return had, nil
}

// Tag gives a tag to machines and load balancers, all of them or, if one is not there, none.
func (c *Control) Tag(ctx context.Context, name string, ids, lbs []weir.ID) error {
	return c.tagged(ctx, name, ids, lbs, func(tags []string) []string {
		if slices.ContainsFunc(tags, func(t string) bool { return strings.EqualFold(t, name) }) {
			return tags
		}
		return append(slices.Clone(tags), name)
	})
}

// Untag takes a tag from machines and load balancers, all of them or, if one is not there, none.
func (c *Control) Untag(ctx context.Context, name string, ids, lbs []weir.ID) error {
	return c.tagged(ctx, name, ids, lbs, func(tags []string) []string { return withoutTag(tags, name) })
}

func (c *Control) tagged(ctx context.Context, name string, ids, lbs []weir.ID, change func(tags []string) []string) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		if _, err := tags.Get(ctx, tx, tagKey(weir.CallerOf(ctx).Team, name)); err != nil {
			return err
		}
		for _, id := range ids {
			m, err := referred(ctx, tx, id)
			if err != nil {
				return fmt.Errorf("tag %q: %w", name, err)
			}
			m.Tags = change(m.Tags)
			machines.Put(tx, id, m)
		}
		for _, id := range lbs {
			lb, err := keptBalancer(ctx, tx, id)
			if errors.Is(err, weir.NotFound) {
				return weir.Errorf(weir.Invalid, "tag %q: there is no load balancer %s", name, id)
			}
			if err != nil {
				return err
			}
			lb.Tags = change(lb.Tags)
			loadBalancers.Put(tx, id, lb)
		}
		return nil
	})
}

// withoutTag returns tags without one; tags are compared without case.
func withoutTag(tags []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(tags), func(t string) bool { return strings.EqualFold(t, name) })
}
