package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"weir/cloud"
	"weir/weir"
)

// machine is one machine of the region.
type machine struct {
	// busy holds a token while the machine is created, powered on or off, or deleted.
	busy chan struct{}

	// writing is held while the record changes, first on disk and then here.
	writing sync.Mutex
	gone    bool // deleted; changed under writing and Cloud.mu

	record record // under Cloud.mu
	run    *run   // under Cloud.mu; nil if nothing of it is in the kernel
	wounds wounds // under Cloud.mu; what is cut of its network when it is on
}

// run is a machine from its powering on until nothing of that is left.
type run struct {
	init   *process
	since  time.Time     // when it was powered on
	died   bool          // init has ended; under Cloud.mu
	frozen bool          // under Cloud.mu
	ended  chan struct{} // closed when all is cleaned up
}

// on reports whether the machine is powered on. The caller holds Cloud.mu.
func (m *machine) on() bool { return m.run != nil && !m.run.died }

// has reports whether addr is one of the machine's.
func (r *record) has(addr netip.Addr) bool {
	return slices.Contains(r.addresses(), addr)
}

// machineID is what can be a directory, a container, and a chain of nftables.
var machineID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$`)

// Machines keeps the promise of [cloud.Machines].
func (c *Cloud) Machines(ctx context.Context) ([]cloud.Machine, error) {
	_, done, err := c.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	defer done()
	c.mu.Lock()
	all := make([]cloud.Machine, 0, len(c.machines))
	for _, m := range c.machines {
		all = append(all, c.show(m))
	}
	c.mu.Unlock()
	for i := range all {
		all[i].Boot = readBoot(c.paths.bootOf(all[i].ID))
	}
	slices.SortFunc(all, func(a, b cloud.Machine) int { return compareIDs(a.ID, b.ID) })
	return all, nil
}

// compareIDs compares decimal IDs by their numbers.
func compareIDs(a, b weir.ID) int { return cmp.Or(len(a)-len(b), cmp.Compare(a, b)) }

// show returns what the cloud shows of m, all but its boot. The caller holds Cloud.mu.
func (c *Cloud) show(m *machine) cloud.Machine {
	r := &m.record
	return cloud.Machine{ID: r.ID, Name: r.Name, On: m.on(), Host: r.Host, HostDown: c.down[r.Host], Public: r.Public, Anchor: r.Anchor, Private: r.Private,
		Public6: r.Public6, Anchor6: r.Anchor6, Firewall: r.Firewall.Clone()}
}

// CreateMachine keeps the promise of [cloud.Machines].
func (c *Cloud) CreateMachine(ctx context.Context, spec cloud.Spec) (cloud.Machine, error) {
	made, err := c.create(ctx, spec)
	if err != nil {
		return cloud.Machine{}, fmt.Errorf("create machine %s: %w", spec.ID, err)
	}
	return made, nil
}

func (c *Cloud) create(ctx context.Context, spec cloud.Spec) (cloud.Machine, error) {
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return cloud.Machine{}, err
	}
	defer done()
	if err := c.checkSpec(spec); err != nil {
		return cloud.Machine{}, err
	}
	script, err := c.script(spec.Template)
	if err != nil {
		return cloud.Machine{}, err
	}
	m, found, err := c.admit(ctx, spec)
	if err != nil {
		return cloud.Machine{}, err
	}
	defer m.release()
	if !found {
		if err := c.make(ctx, m, script); err != nil {
			// Nothing of it stays, so that asking again begins anew.
			c.mu.Lock()
			delete(c.machines, spec.ID)
			m.gone = true
			c.mu.Unlock()
			err = errors.Join(err, c.scrap(spec.ID))
			if errors.Is(err, unix.ENOSPC) {
				return cloud.Machine{}, weir.Errorf(weir.Exhausted, "the disk of %s is full: %w", c.paths, err)
			}
			return cloud.Machine{}, err
		}
	}
	c.mu.Lock()
	shown := c.show(m)
	c.mu.Unlock()
	if !found {
		c.log.Info("machine created", "machine", shown.ID, "name", shown.Name, "public", shown.Public)
	}
	shown.Boot = readBoot(c.paths.bootOf(spec.ID))
	return shown, nil
}

func (c *Cloud) checkSpec(spec cloud.Spec) error {
	if !machineID.MatchString(string(spec.ID)) {
		return weir.Errorf(weir.Invalid, "ID %.80q: 1 to 64 letters, digits, _ and - are allowed", spec.ID)
	}
	return weir.CheckName(spec.Name)
}

// script returns what machines like t run at their first boot, nil for nothing, or why
// there can be none like it.
func (c *Cloud) script(t weir.Template) ([]byte, error) {
	if err := t.Check(c.region); err != nil {
		return nil, err
	}
	if t.IPv6 {
		if err := c.checkIPv6(); err != nil {
			return nil, err
		}
	}
	return compileUserData([]byte(t.UserData))
}

// admit finds the machine of spec, or makes room for a new one with that record. Its
// token is the caller's, to release.
func (c *Cloud) admit(ctx context.Context, spec cloud.Spec) (m *machine, found bool, err error) {
	for {
		c.mu.Lock()
		m, found = c.machines[spec.ID]
		if !found {
			m, err = c.newMachine(spec)
			if err == nil {
				m.busy <- struct{}{}
				c.machines[spec.ID] = m
			}
			c.mu.Unlock()
			return m, false, err
		}
		c.mu.Unlock()
		if err := m.take(ctx); err != nil {
			return nil, false, err
		}
		if c.machine(spec.ID) == m {
			return m, true, nil
		}
		m.release() // it could not be made, or was deleted, while we waited
	}
}

// newMachine returns a machine that gets what is left of memory, disk and addresses. The
// caller holds mu.
func (c *Cloud) newMachine(spec cloud.Spec) (*machine, error) {
	if err := c.room(spec.Template, 1); err != nil {
		return nil, err
	}
	host, err := c.pick(spec.Size, spec.Apart)
	if err != nil {
		return nil, err
	}
	r := record{ID: spec.ID, Name: spec.Name, Template: spec.Template, Host: host, Apart: spec.Apart, On: true, Created: time.Now().UTC()}
	r.SSHKeys, r.Tags = slices.Clone(r.SSHKeys), slices.Clone(r.Tags)
	// The first address of each of these ranges is the gateway's.
	if r.Public, err = vacant(c.networks.Public, 1, c.taken); err != nil {
		return nil, err
	}
	if r.Anchor, err = vacant(c.networks.Anchor, 1, c.taken); err != nil {
		return nil, err
	}
	if r.Private, err = vacant(c.networks.Private, 1, c.taken); err != nil {
		return nil, err
	}
	if r.IPv6 {
		r.enableIPv6(c.networks)
	}
	return &machine{busy: make(chan struct{}, 1), record: r}, nil
}

// EnableIPv6 keeps the promise of [cloud.Machines].
func (c *Cloud) EnableIPv6(ctx context.Context, id weir.ID) error {
	err := c.operate(ctx, id, func(_ context.Context, m *machine) error {
		if err := c.checkIPv6(); err != nil {
			return err
		}
		return c.change(m, func(r *record) { r.enableIPv6(c.networks) }, func(r *record) error {
			if err := c.gateway.setFirewall(r, r.Firewall); err != nil { // before there is what to keep
				return err
			}
			c.mu.Lock()
			run, on := m.run, m.on()
			c.mu.Unlock()
			if !on {
				return nil
			}
			ns, err := run.init.network()
			if err != nil {
				return err
			}
			defer ns.Close()
			return c.gateway.extend(r, ns)
		})
	})
	if err != nil {
		return fmt.Errorf("enable IPv6 of machine %s: %w", id, err)
	}
	return nil
}

// checkIPv6 returns why machines cannot have IPv6.
func (c *Cloud) checkIPv6() error {
	if !c.networks.hasIPv6() {
		return weir.Errorf(weir.Invalid, "the kernel of this host has no IPv6: boot it without ipv6.disable=1, or leave IPv6 out")
	}
	return nil
}

// make makes a new machine's directory and powers it on. Until the directory has its name,
// which is done last, a crash leaves no machine; from then on, the next Open powers it on.
func (c *Cloud) make(ctx context.Context, m *machine, script []byte) error {
	r := &m.record // nobody changes it before the directory is there
	dir := c.paths.scratch(r.ID)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, d := range []string{dir, filepath.Join(dir, "work"), filepath.Join(dir, "root"), filepath.Join(dir, "boot")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for name, file := range bootFiles(script) {
		if err := renameio.WriteFile(filepath.Join(dir, "boot", name), file.content, file.mode, renameio.IgnoreUmask()); err != nil {
			return err
		}
	}
	if err := newDisk(filepath.Join(dir, "upper"), r, c.networks, c.hide); err != nil {
		return err
	}
	m.writing.Lock()
	err := writeJSON(filepath.Join(dir, "machine.json"), r)
	if err == nil {
		err = os.Rename(dir, c.paths.machine(r.ID))
	}
	m.writing.Unlock()
	if err != nil {
		return err
	}
	return c.start(ctx, m)
}

// start powers a machine on that is off. The caller has its token.
func (c *Cloud) start(ctx context.Context, m *machine) error {
	select {
	case c.starts <- struct{}{}:
		defer func() { <-c.starts }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.up(m); err != nil {
		return err
	}
	c.mu.Lock()
	r, cut := m.record, m.wounds
	c.mu.Unlock()
	dir := c.paths.machine(r.ID)
	net, err := c.gateway.plug(&r)
	if err != nil {
		return err
	}
	defer net.Close() // from now on the container keeps it
	if err := c.gateway.wound(&r, cut); err != nil {
		c.gateway.unplug(&r)
		return err
	}
	since := time.Now()
	init, err := c.containers.start(ctx, dir, &r, net)
	if err != nil {
		c.gateway.unplug(&r)
		return errors.Join(err, c.removeContainer(r.ID))
	}
	running := &run{init: init, since: since, ended: make(chan struct{})}
	c.mu.Lock()
	m.run = running
	c.mu.Unlock()
	c.work.Go(func() { c.attend(m, running) })
	c.work.Go(func() { c.witness(m, running) })
	return c.point()
}

// attend waits for the end of a machine's init, whatever its reason, and then takes away
// what is left of it.
func (c *Cloud) attend(m *machine, r *run) {
	defer r.init.close()
	if err := r.init.wait(c.watching); err != nil {
		return // we are closed: it runs on
	}
	c.judge(m)
	c.mu.Lock()
	r.died = true
	rec := m.record
	c.mu.Unlock()
	if err := c.point(); err != nil { // nobody is led to it any more
		c.log.Warn("reserved IPs still lead to a machine that is off", "machine", rec.ID, "err", err)
	}
	if err := c.removeContainer(rec.ID); err != nil {
		c.log.Warn("container not removed", "machine", rec.ID, "err", err)
	}
	c.gateway.unplug(&rec)
	c.mu.Lock()
	m.run = nil
	c.mu.Unlock()
	close(r.ended)
	c.log.Info("machine off", "machine", rec.ID)
}

// patience is how long the kernel may take to be rid of what was killed.
const patience = 30 * time.Second

// removeContainer removes what is left of a machine's container, also when whoever asked
// for it has gone.
func (c *Cloud) removeContainer(id weir.ID) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.containers.remove(ctx, id)
}

// stop ends a machine's init, frozen or not, by sig, and by SIGKILL when grace is over, and waits until
// nothing of it is left.
func (c *Cloud) stop(ctx context.Context, m *machine, sig syscall.Signal, grace time.Duration) error {
	c.mu.Lock()
	r, id := m.run, m.record.ID
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	enough := time.After(grace)
	for {
		if err := r.init.signal(sig); err != nil {
			return err
		}
		// The frozen do not listen, and those of cgroup 1 do not even die. Told first, they
		// do nothing else when they go on.
		if err := c.containers.thaw(id); err != nil {
			return err
		}
		select {
		case <-r.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-enough:
			sig = syscall.SIGKILL
		case <-time.After(resend):
			// The kernel keeps from an init what it does not listen to yet.
		}
	}
}

// resend is when an init that has not ended is told again.
const resend = 200 * time.Millisecond

// PowerOff keeps the promise of [cloud.Machines].
func (c *Cloud) PowerOff(ctx context.Context, id weir.ID) error {
	err := c.operate(ctx, id, func(ctx context.Context, m *machine) error {
		if err := c.change(m, func(r *record) { r.On = false }, nil); err != nil {
			return err
		}
		return c.stop(ctx, m, syscall.SIGTERM, initGrace)
	})
	if err != nil {
		return fmt.Errorf("power off machine %s: %w", id, err)
	}
	return nil
}

// PowerOn keeps the promise of [cloud.Machines].
func (c *Cloud) PowerOn(ctx context.Context, id weir.ID) error {
	err := c.operate(ctx, id, func(ctx context.Context, m *machine) error {
		if err := c.up(m); err != nil {
			return err
		}
		if err := c.change(m, func(r *record) { r.On = true }, nil); err != nil {
			return err
		}
		c.mu.Lock()
		r, on := m.run, m.on()
		c.mu.Unlock()
		if on {
			return nil
		}
		if r != nil {
			select {
			case <-r.ended:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := c.start(ctx, m); err != nil {
			return err
		}
		c.log.Info("machine on", "machine", id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("power on machine %s: %w", id, err)
	}
	return nil
}

// DeleteMachine keeps the promise of [cloud.Machines].
func (c *Cloud) DeleteMachine(ctx context.Context, id weir.ID) error {
	err := c.operate(ctx, id, c.delete)
	if err != nil && !errors.Is(err, weir.NotFound) {
		return fmt.Errorf("delete machine %s: %w", id, err)
	}
	return nil
}

func (c *Cloud) delete(ctx context.Context, m *machine) error {
	if err := c.up(m); err != nil {
		return err
	}
	if err := c.stop(ctx, m, syscall.SIGKILL, patience); err != nil {
		return err
	}
	c.mu.Lock()
	id := m.record.ID
	c.mu.Unlock()
	err := c.changeReserved(ctx, func(all []cloud.Address) ([]cloud.Address, error) {
		for i := range all {
			all[i].Machines = slices.DeleteFunc(all[i].Machines, func(m weir.ID) bool { return m == id })
		}
		return all, nil
	})
	if err != nil {
		return err
	}
	m.writing.Lock()
	defer m.writing.Unlock()
	if err := c.gateway.setFirewall(&m.record, nil); err != nil {
		return err
	}
	// The machine is deleted by this rename. What is left is waste, as in scrap.
	if err := os.Rename(c.paths.machine(id), c.paths.scratch(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.mu.Lock()
	delete(c.machines, id)
	m.gone = true
	c.mu.Unlock()
	c.log.Info("machine deleted", "machine", id)
	return os.RemoveAll(c.paths.scratch(id))
}

// scrap removes the directory of a machine that could not be made.
func (c *Cloud) scrap(id weir.ID) error {
	err := os.Rename(c.paths.machine(id), c.paths.scratch(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(c.paths.scratch(id))
}

// operate has do work on a machine that no other operation works on meanwhile.
func (c *Cloud) operate(ctx context.Context, id weir.ID, do func(context.Context, *machine) error) error {
	ctx, done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	m := c.machine(id)
	if m == nil {
		return weir.Errorf(weir.NotFound, "there is no machine %s", id)
	}
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.release()
	if c.machine(id) != m {
		return weir.Errorf(weir.NotFound, "there is no machine %s", id)
	}
	return do(ctx, m)
}

// take waits for the machine's token.
func (m *machine) take(ctx context.Context) error {
	select {
	case m.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *machine) release() { <-m.busy }

// machine returns the machine with that ID, or nil.
func (c *Cloud) machine(id weir.ID) *machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machines[id]
}

// change has edit change a machine's record, on disk and then here, and has apply, if
// there is one, bring the kernel to it.
func (c *Cloud) change(m *machine, edit func(*record), apply func(*record) error) error {
	m.writing.Lock()
	defer m.writing.Unlock()
	c.mu.Lock()
	r, gone := m.record, m.gone
	c.mu.Unlock()
	if gone {
		return weir.Errorf(weir.NotFound, "there is no machine %s", r.ID)
	}
	edit(&r)
	err := writeJSON(filepath.Join(c.paths.machine(r.ID), "machine.json"), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return weir.Errorf(weir.NotFound, "machine %s is not there yet", r.ID)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	m.record = r
	c.mu.Unlock()
	if apply == nil {
		return nil
	}
	return apply(&r)
}
