package sim

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"weir/cloud"
	"weir/weir"
)

// directly marks the test's own calls of the cloud, which meet no faults.
type directly struct{}

func direct(ctx context.Context) context.Context { return context.WithValue(ctx, directly{}, true) }

// boots says what becomes of a machine's user-data: a server's may fail.
func (w *world) boots(s cloud.Spec) (time.Duration, weir.Boot) {
	r := w.random("boot " + string(s.ID))
	takes := upTo(r, 8*time.Second)
	if strings.Contains(s.UserData, serverScript) && chance(r, 8) {
		return takes, weir.Boot{State: weir.BootFailed, Why: "user-data exited with 1", Log: "boot.log"}
	}
	return takes, weir.Boot{State: weir.BootDone}
}

const serverScript = "#!/bin/sh\nserve"

// fault is the Fault of the cloud: what its callers meet.
func (w *world) fault(ctx context.Context, call string) (before, after error) {
	if ctx.Value(directly{}) != nil {
		return nil, nil
	}
	changes := !strings.HasPrefix(call, "list") && !strings.HasPrefix(call, "ask")
	if changes {
		w.changes.Add(1)
	}
	if w.trouble.Load() {
		r := w.roll(call)
		if chance(r, 15) {
			sleep(ctx, upTo(r, 5*time.Second))
		}
		switch dice := r.IntN(100); {
		case dice < 5:
			before = weir.Errorf(weir.Unavailable, "the cloud does not answer")
		case dice < 10:
			after = weir.Errorf(weir.Unavailable, "the cloud's answer was lost")
		}
	}
	if before == nil {
		before = ctx.Err()
	}
	if changes {
		w.tell("cloud: %s%s", call, outcome(before, after))
	}
	if before == nil {
		w.allowed(call)
	}
	return before, after
}

func outcome(before, after error) string {
	switch {
	case before != nil:
		return " fails: " + before.Error()
	case after != nil:
		return ", and fails then: " + after.Error()
	}
	return ""
}

// allowed looks at a call that is about to take effect.
func (w *world) allowed(call string) {
	id, deletes := strings.CutPrefix(call, "delete machine ")
	if _, there := w.cloud.Spec(weir.ID(id)); !deletes || !there {
		return
	}
	row, err := machines.Get(w.ctx, w.truth, weir.ID(id))
	switch {
	case err == nil && row.Deleting.IsZero():
		w.never("machine %s is destroyed, and nobody asked for it", id)
	case err != nil && !errors.Is(err, weir.NotFound):
		return // the history is over
	case err == nil && time.Since(row.Deleting) >= drain:
		return
	}
	for _, n := range w.serving(weir.ID(id)) {
		w.never("machine %s is destroyed, and node %s still sends it requests", id, n)
	}
}

// tardy is the cloud as the control plane reaches it: a call that failed may take
// effect later.
type tardy struct {
	cloud.Cloud
	w *world
}

// late reports whether a call fails and takes effect afterwards.
func (c tardy) late(what string, do func(ctx context.Context) error) error {
	r := c.w.roll("late " + what)
	if !c.w.trouble.Load() || !chance(r, 5) {
		return nil
	}
	c.w.wg.Go(func() {
		if sleep(c.w.ctx, upTo(r, late)) {
			c.w.tell("cloud: %s takes effect late", what)
			do(c.w.ctx)
		}
	})
	return weir.Errorf(weir.Unavailable, "%s: the cloud did not answer in time", what)
}

func (c tardy) CreateMachine(ctx context.Context, s cloud.Spec) (cloud.Machine, error) {
	err := c.late("create machine "+string(s.ID), func(ctx context.Context) error {
		_, err := c.Cloud.CreateMachine(ctx, s)
		return err
	})
	if err != nil {
		return cloud.Machine{}, err
	}
	return c.Cloud.CreateMachine(ctx, s)
}

func (c tardy) PowerOn(ctx context.Context, id weir.ID) error {
	do := func(ctx context.Context) error { return c.Cloud.PowerOn(ctx, id) }
	if err := c.late("power on machine "+string(id), do); err != nil {
		return err
	}
	return do(ctx)
}

func (c tardy) PowerOff(ctx context.Context, id weir.ID) error {
	do := func(ctx context.Context) error { return c.Cloud.PowerOff(ctx, id) }
	if err := c.late("power off machine "+string(id), do); err != nil {
		return err
	}
	return do(ctx)
}

func (c tardy) EnableIPv6(ctx context.Context, id weir.ID) error {
	do := func(ctx context.Context) error { return c.Cloud.EnableIPv6(ctx, id) }
	if err := c.late("enable IPv6 of machine "+string(id), do); err != nil {
		return err
	}
	return do(ctx)
}

func (c tardy) Reserve(ctx context.Context, owner weir.ID, family weir.Family) (netip.Addr, error) {
	err := c.late("reserve an address of "+family.String()+" for "+string(owner), func(ctx context.Context) error {
		_, err := c.Cloud.Reserve(ctx, owner, family)
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	return c.Cloud.Reserve(ctx, owner, family)
}

func (c tardy) ReservePrivate(ctx context.Context, owner weir.ID) (netip.Addr, error) {
	err := c.late("reserve a private address for "+string(owner), func(ctx context.Context) error {
		_, err := c.Cloud.ReservePrivate(ctx, owner)
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	return c.Cloud.ReservePrivate(ctx, owner)
}

func (c tardy) Assign(ctx context.Context, addr netip.Addr, machines ...weir.ID) error {
	do := func(ctx context.Context) error { return c.Cloud.Assign(ctx, addr, machines...) }
	if err := c.late("assign "+addr.String(), do); err != nil {
		return err
	}
	return do(ctx)
}

func (c tardy) SetFirewall(ctx context.Context, machine weir.ID, f *weir.Firewall) error {
	do := func(ctx context.Context) error { return c.Cloud.SetFirewall(ctx, machine, f) }
	if err := c.late("set the firewall of machine "+string(machine), do); err != nil {
		return err
	}
	return do(ctx)
}
