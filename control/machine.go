package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// machineView is all that planMachine judges by.
type machineView struct {
	row     weir.Machine
	seen    *cloud.Machine // nil if the cloud has none
	pending []weir.Action  // the row's actions in progress, oldest first
	inUse   string         // why the machine may still have requests; empty if it has none
	spent   bool           // the token in its user-data was used: made anew, it could not enrol
	now     time.Time
}

// machineStep is one thing to do about a machine.
type machineStep string

const (
	stepCreate   machineStep = "create machine"
	stepReplace  machineStep = "make way for another" // which its load balancer adds
	stepWait     machineStep = "let it finish its requests"
	stepDestroy  machineStep = "destroy machine"
	stepFirewall machineStep = "set firewall"
	stepIPv6     machineStep = "enable IPv6"
	stepPowerOn  machineStep = "power on"
	stepPowerOff machineStep = "power off"
	stepReboot   machineStep = "reboot"
)

// planMachine returns the steps that bring a machine to its row, in order.
func planMachine(v machineView) (steps []machineStep) {
	down := v.seen != nil && v.seen.HostDown
	if !v.row.Deleting.IsZero() {
		if down {
			return nil // until its host is up again
		}
		if v.seen != nil && v.inUse != "" {
			return []machineStep{stepWait}
		}
		return []machineStep{stepDestroy}
	}
	if v.seen == nil && v.spent {
		return []machineStep{stepReplace}
	}
	on := v.seen == nil || v.seen.On
	if v.seen == nil {
		steps = append(steps, stepCreate)
	}
	if wall := v.row.Wall(); v.seen == nil && wall != nil || v.seen != nil && !reflect.DeepEqual(v.seen.Firewall, wall) {
		steps = append(steps, stepFirewall)
	}
	if v.seen != nil && v.row.IPv6 && !v.seen.Public6.IsValid() {
		steps = append(steps, stepIPv6)
	}
	switch {
	case down:
		// It is off, and nobody can change that.
	case v.row.Off && on:
		steps = append(steps, stepPowerOff)
	case !v.row.Off && !on && v.row.LoadBalancer != "":
		// Its load balancer replaces it, and need not wait for what it may be when it is back.
	case !v.row.Off && !on:
		steps = append(steps, stepPowerOn)
	case !v.row.Off && slices.ContainsFunc(v.pending, reboots):
		steps = append(steps, stepReboot)
	}
	return steps
}

// reboots reports whether an action turns its machine off and on again.
func reboots(a weir.Action) bool { return a.Type == "reboot" || a.Type == "power_cycle" }

// reconcileMachine brings one machine to its row.
func (t *term) reconcileMachine(ctx context.Context, id weir.ID) (again time.Duration, err error) {
	v := machineView{now: time.Now()}
	var region string
	if v.seen, region, err = t.findMachine(ctx, id); err != nil {
		return 0, err
	}
	gone := false
	err = t.db.View(ctx, func(tx *store.Tx) (err error) {
		v.row, err = machines.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			gone = true
			return nil
		}
		if err != nil {
			return err
		}
		for _, a := range v.row.Actions {
			action, err := actions.Get(ctx, tx, a)
			if err != nil {
				return err
			}
			v.pending = append(v.pending, action)
		}
		if !v.row.Deleting.IsZero() {
			v.inUse, err = t.inUse(ctx, tx, v.row, v.now)
		} else if v.seen == nil && v.row.LoadBalancer != "" {
			v.spent, err = enrolled(ctx, tx, id)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	t.leaving.Delete(id)
	if gone {
		return 0, t.forgetMachine(ctx, id, v.seen, region)
	}
	if v.row.Own {
		return 0, nil // its agent says how it is, and its owner whether it is to stay
	}
	if v.row.Firewall != nil && v.row.LoadBalancer == "" {
		if err := t.reguard(ctx, id); err != nil {
			return 0, err
		}
	}
	for _, step := range planMachine(v) {
		switch step {
		case stepWait:
			t.leaving.Store(id, nil) // a node's report touches it
			return time.Second, nil
		case stepDestroy:
			return 0, t.destroy(ctx, v.row)
		case stepReplace:
			t.Log.Warn("instance is gone from the cloud", "machine", id, "name", v.row.Name)
			return 0, t.db.Update(ctx, func(tx *store.Tx) error {
				return changeMachine(ctx, tx, id, func(m *weir.Machine) { m.Deleting = v.now.UTC() })
			})
		}
		if err := t.act(ctx, v.row, step); err != nil {
			return 0, fmt.Errorf("machine %s: %s: %w", v.row.Name, step, err)
		}
	}
	return 0, t.observe(ctx, v.row, v.pending)
}

// act takes one step in the cloud. Each can be repeated.
func (t *term) act(ctx context.Context, m weir.Machine, step machineStep) error {
	in, err := t.in(m.Region)
	if err != nil {
		return err
	}
	switch step {
	case stepCreate:
		if m.Blob != "" {
			text, err := blobs.Get(ctx, t.db, m.Blob)
			if err != nil {
				return err
			}
			m.UserData = text
		}
		_, err := in.CreateMachine(ctx, cloud.Spec{ID: m.ID, Name: m.Name, Template: m.Template, Apart: string(cmp.Or(m.Pool, m.LoadBalancer))})
		return err
	case stepFirewall:
		return in.SetFirewall(ctx, m.ID, m.Wall())
	case stepIPv6:
		return in.EnableIPv6(ctx, m.ID)
	case stepPowerOn:
		return in.PowerOn(ctx, m.ID)
	case stepPowerOff:
		return in.PowerOff(ctx, m.ID)
	default: // stepReboot
		if err := in.PowerOff(ctx, m.ID); err != nil {
			return err
		}
		return in.PowerOn(ctx, m.ID)
	}
}

// forgetMachine destroys a machine of the cloud that has no row, if it is ours (see
// touchMachines).
func (t *term) forgetMachine(ctx context.Context, id weir.ID, seen *cloud.Machine, region string) error {
	if seen == nil {
		return nil
	}
	last, err := store.Last(ctx, t.db, "machines")
	if err != nil {
		return err
	}
	if number(id) > last {
		return nil
	}
	in, err := t.in(region)
	if err != nil {
		return err
	}
	return in.DeleteMachine(ctx, id)
}

// drainGrace is how much longer than it may take to finish requests a server is kept for a node that does not answer.
const drainGrace = 10 * time.Second

// inUse returns why a machine that is being deleted may still have requests to
// answer: a node is to send it some, or still does. After the time that its load balancers let it finish them, and a
// grace for nodes that do not answer, nothing keeps it.
func (t *term) inUse(ctx context.Context, tx *store.Tx, m weir.Machine, now time.Time) (why string, err error) {
	if m.LoadBalancer != "" {
		return "", nil
	}
	configs, err := t.mayServe(ctx, tx, m.ID)
	if err != nil {
		return "", err
	}
	drain := t.Drain
	for _, c := range configs {
		drain = max(drain, finishing(c))
	}
	if now.After(m.Deleting.Add(drain + drainGrace)) {
		return "", nil
	}
	for _, c := range configs {
		if c.Proxy.Serves(m.ID) {
			return fmt.Sprintf("node %s is still to send it requests", c.Node), nil
		}
		s, err := nodeStatuses.Get(ctx, tx, c.Node)
		if errors.Is(err, weir.NotFound) {
			has, err := enrolled(ctx, tx, c.Node)
			if err != nil {
				return "", err
			}
			if has {
				return fmt.Sprintf("node %s has not said yet what it runs", c.Node), nil
			}
			continue // it never got a configuration
		}
		if err != nil {
			return "", err
		}
		if s.Revision != c.Revision {
			return fmt.Sprintf("node %s runs revision %d, not yet %d", c.Node, s.Revision, c.Revision), nil
		}
		if s.Err != "" {
			return fmt.Sprintf("node %s may not know what it serves: %s", c.Node, s.Err), nil
		}
		if s.Has(m.ID) {
			return fmt.Sprintf("node %s lets it finish its requests", c.Node), nil
		}
	}
	return "", nil
}

// mayServe returns the configurations of the nodes that may send requests to a server.
func (t *term) mayServe(ctx context.Context, tx *store.Tx, server weir.ID) ([]weir.NodeConfig, error) {
	ids, all, err := t.nodes.mayServe(ctx, t.db, server)
	if err != nil {
		return nil, err
	}
	if !all {
		return nodeConfigs.All(ctx, tx)
	}
	configs := map[weir.ID]weir.NodeConfig{}
	err = addRows(ctx, tx, nodeConfigs, configs, ids)
	return slices.SortedFunc(maps.Values(configs), func(a, b weir.NodeConfig) int { return cmp.Compare(a.Node, b.Node) }), err
}

// destroy destroys a machine, then its row with all that only it needed.
func (t *term) destroy(ctx context.Context, m weir.Machine) error {
	in, err := t.in(m.Region)
	if err == nil {
		err = in.DeleteMachine(ctx, m.ID)
	}
	if err != nil {
		return fmt.Errorf("machine %s: %s: %w", m.Name, stepDestroy, err)
	}
	err = t.db.Update(ctx, func(tx *store.Tx) error {
		row, err := machines.Get(ctx, tx, m.ID)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, a := range row.Actions {
			if err := completeAction(ctx, tx, a, "the machine was deleted"); err != nil {
				return err
			}
		}
		if err := unassign(ctx, tx, m.ID); err != nil {
			return err
		}
		if row.LoadBalancer != "" && row.Buried() { // its host is up again
			if err := regroup(ctx, tx, row.LoadBalancer); err != nil {
				return err
			}
		}
		if err := t.unname(ctx, tx, m.ID); err != nil {
			return err
		}
		machines.Delete(tx, m.ID)
		nodeConfigs.Delete(tx, m.ID)
		nodeStatuses.Delete(tx, m.ID)
		if m.LoadBalancer == "" {
			return noteGone(ctx, tx, m.ID)
		}
		return deleteEnrolments(ctx, tx, m.ID)
	})
	if err == nil {
		t.Log.Info("machine deleted", "machine", m.ID, "name", m.Name)
	}
	return err
}

// regroup has a load balancer look whether all its instances are on one host.
func regroup(ctx context.Context, tx *store.Tx, id weir.ID) error {
	lb, err := loadBalancers.Get(ctx, tx, id)
	if err != nil {
		return ignoreGone(err)
	}
	lb.Status.Regroup = true
	loadBalancers.Put(tx, id, lb)
	return nil
}

// deleteEnrolments makes the tokens of a machine worthless.
func deleteEnrolments(ctx context.Context, tx *store.Tx, node weir.ID) error {
	all, err := enrolments.All(ctx, tx)
	for _, e := range all {
		if e.Node == node {
			enrolments.Delete(tx, e.Token)
		}
	}
	return err
}

// powers says whether a machine is on once an action is done. One that is of neither kind is not
// about power.
func powers(a weir.Action) (on, off bool) {
	switch a.Type {
	case "power_on", "reboot", "power_cycle":
		return true, false
	case "power_off", "shutdown":
		return false, true
	}
	return false, false
}

// observe brings what the cloud shows of a machine into its row, and completes the
// actions that were carried out by steps towards the row as it was then.
func (t *term) observe(ctx context.Context, was weir.Machine, acted []weir.Action) error {
	id := was.ID
	all, err := t.machinesIn(ctx, was.Region)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(m cloud.Machine) bool { return m.ID == id })
	if i < 0 {
		return weir.Errorf(weir.Unavailable, "machine %s: the cloud made it and does not show it yet", id)
	}
	return t.db.Update(ctx, func(tx *store.Tx) error {
		m, err := machines.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if is := observed(all[i]); is.Phase != m.Status.Phase {
			m.Changed = time.Now().UTC()
		}
		m.Status = observed(all[i])
		if m.Status.Wall == m.Wall().Digest() {
			m.Obeys = m.Rules.By()
		}
		for _, a := range acted {
			why := ""
			if on, _ := powers(a); on && !was.Off && all[i].HostDown {
				continue // it waits for its host
			}
			if on, off := powers(a); on && was.Off || off && !was.Off {
				why = overtaken
			}
			if err := completeAction(ctx, tx, a.ID, why); err != nil {
				return err
			}
			m.Actions = slices.DeleteFunc(m.Actions, func(id weir.ID) bool { return id == a.ID })
		}
		machines.Put(tx, id, m)
		return nil
	})
}

// observed is the status of a machine that the cloud shows as seen.
func observed(seen cloud.Machine) weir.MachineStatus {
	phase := weir.MachineOff
	if seen.On {
		phase = weir.MachineActive
	}
	return weir.MachineStatus{Phase: phase, Public: seen.Public, Anchor: seen.Anchor, Private: seen.Private,
		Public6: seen.Public6, Anchor6: seen.Anchor6, Boot: seen.Boot, Wall: seen.Firewall.Digest(), Host: seen.Host, HostDown: seen.HostDown}
}

// machineFailed shows in the row why a machine is not yet as it should be.
func (t *term) machineFailed(ctx context.Context, id weir.ID, why error) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		m, err := machines.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		m.Status.Err, m.Status.Short = why.Error(), errors.Is(why, weir.Exhausted)
		machines.Put(tx, id, m)
		return nil
	})
}
