package local

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sync/errgroup"

	"weir/cloud"
	"weir/weir"
)

var _ cloud.Faults = (*Cloud)(nil)

// Kill keeps the promise of [cloud.Faults].
func (c *Cloud) Kill(ctx context.Context, id weir.ID) error {
	if err := c.operate(ctx, id, c.kill); err != nil {
		return fmt.Errorf("kill machine %s: %w", id, err)
	}
	c.log.Info("machine killed", "machine", id)
	return nil
}

// kill ends a machine as a power cut does.
func (c *Cloud) kill(ctx context.Context, m *machine) error {
	c.mu.Lock()
	r, cut := m.record, m.wounds
	c.mu.Unlock()
	// First its cables: the kernel would say goodbye for each connection of what was
	// killed, and no power cut does. They go with the machine.
	if err := c.gateway.wound(&r, cut.with(weir.Cut{})); err != nil {
		return err
	}
	if err := c.stop(ctx, m, syscall.SIGKILL, patience); err != nil {
		return errors.Join(err, c.gateway.wound(&r, cut))
	}
	return nil
}

// Reboot keeps the promise of [cloud.Faults].
func (c *Cloud) Reboot(ctx context.Context, id weir.ID) error {
	err := c.operate(ctx, id, func(ctx context.Context, m *machine) error {
		if err := c.up(m); err != nil {
			return err
		}
		if err := c.change(m, func(r *record) { r.On = true }, nil); err != nil {
			return err
		}
		if err := c.kill(ctx, m); err != nil {
			return err
		}
		return c.start(ctx, m)
	})
	if err != nil {
		return fmt.Errorf("reboot machine %s: %w", id, err)
	}
	c.log.Info("machine rebooted", "machine", id)
	return nil
}

// Freeze keeps the promise of [cloud.Faults].
func (c *Cloud) Freeze(ctx context.Context, id weir.ID) error {
	err := c.operate(ctx, id, func(ctx context.Context, m *machine) error {
		c.mu.Lock()
		r, on := m.run, m.on()
		frozen := on && r.frozen
		c.mu.Unlock()
		if frozen {
			return nil
		}
		if !on {
			return weir.Errorf(weir.Conflict, "it is off")
		}
		if err := c.containers.freeze(ctx, id); err != nil {
			return err
		}
		c.mu.Lock()
		r.frozen = true
		c.mu.Unlock()
		c.log.Info("machine frozen", "machine", id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("freeze machine %s: %w", id, err)
	}
	return nil
}

// Thaw keeps the promise of [cloud.Faults].
func (c *Cloud) Thaw(ctx context.Context, id weir.ID) error {
	err := c.operate(ctx, id, func(_ context.Context, m *machine) error {
		if err := c.containers.thaw(id); err != nil {
			return err
		}
		c.mu.Lock()
		if m.run != nil {
			m.run.frozen = false
		}
		c.mu.Unlock()
		c.log.Info("machine thawed", "machine", id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("thaw machine %s: %w", id, err)
	}
	return nil
}

// Partition keeps the promise of [cloud.Faults].
func (c *Cloud) Partition(ctx context.Context, id weir.ID, cut weir.Cut) error {
	err := cut.Check()
	if err == nil {
		err = c.wound(ctx, id, func(w wounds) wounds { return w.with(cut) })
	}
	if err != nil {
		return fmt.Errorf("cut off machine %s: %w", id, err)
	}
	c.log.Info("machine cut off", "machine", id, "link", cut.Link, "direction", cut.Direction, "down", cut.Down)
	return nil
}

// Heal keeps the promise of [cloud.Faults].
func (c *Cloud) Heal(ctx context.Context, id weir.ID) error {
	if err := c.wound(ctx, id, func(wounds) wounds { return wounds{} }); err != nil {
		return fmt.Errorf("heal machine %s: %w", id, err)
	}
	c.log.Info("machine healed", "machine", id)
	return nil
}

// wound changes what is cut of a machine's network.
func (c *Cloud) wound(ctx context.Context, id weir.ID, change func(wounds) wounds) error {
	return c.operate(ctx, id, func(_ context.Context, m *machine) error {
		c.mu.Lock()
		m.wounds = change(m.wounds)
		r, cut := m.record, m.wounds
		c.mu.Unlock()
		return c.gateway.wound(&r, cut)
	})
}

// FailHost keeps the promise of [cloud.HostFaults].
func (c *Cloud) FailHost(ctx context.Context, name string) error {
	if err := c.failHost(ctx, name); err != nil {
		return fmt.Errorf("fail host: %w", err)
	}
	c.log.Info("host failed", "host", name)
	return nil
}

func (c *Cloud) failHost(ctx context.Context, name string) error {
	_, done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if _, err := cloud.HostNamed(c.hosts, name); err != nil {
		return err
	}
	var there []weir.ID
	c.mu.Lock()
	c.down[name] = true // from now on nothing starts there
	for id, m := range c.machines {
		if m.record.Host == name {
			there = append(there, id)
		}
	}
	c.mu.Unlock()
	var kills errgroup.Group
	for _, id := range there {
		kills.Go(func() error {
			err := c.operate(ctx, id, c.kill)
			if errors.Is(err, weir.NotFound) {
				return nil // it was about to be deleted, or could not be made
			}
			return err
		})
	}
	return kills.Wait()
}

// RestoreHost keeps the promise of [cloud.HostFaults].
func (c *Cloud) RestoreHost(ctx context.Context, name string) error {
	_, done, err := c.begin(ctx)
	if err == nil {
		defer done()
		_, err = cloud.HostNamed(c.hosts, name)
	}
	if err != nil {
		return fmt.Errorf("restore host: %w", err)
	}
	c.mu.Lock()
	delete(c.down, name)
	c.mu.Unlock()
	c.log.Info("host restored", "host", name)
	return nil
}

// up returns why nothing can be done to a machine, if its host is down.
func (c *Cloud) up(m *machine) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down[m.record.Host] {
		return weir.Errorf(weir.Unavailable, "its host %s is down", m.record.Host)
	}
	return nil
}
