package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The rhythm of what is sent, for each address.
const (
	announceEvery = 10 * time.Second
	probeEvery    = 5 * time.Second
	probeAgain    = time.Second     // while a duplicate is known
	over          = 3 * time.Second // without a sign of it, a duplicate is
	lookEvery     = time.Second     // at what the kernel has, for what we were not told
)

// repeat is when the first announcements are repeated, counted from the one before. Linux
// before 4.12 ignores a change within a second of another: the last one comes after that.
var repeat = [...]time.Duration{250 * time.Millisecond, 900 * time.Millisecond}

// keeper is what Run does: one goroutine that owns all of this, and one that listens for
// each port.
type keeper struct {
	*Holder
	kernel *netlink.Handle
	held   []*holding
	until  time.Time    // the end of the newest permission
	macs   [][]byte     // of the node's own interfaces
	down   map[int]bool // interfaces that have lost their carrier

	ports  map[portKey]*openedPort
	heard  chan sighting
	done   chan struct{} // closed when run has returned
	listen sync.WaitGroup
}

// holding is an address that is wanted, and what has become of it.
type holding struct {
	want netip.Prefix
	err  string // why it is not held, as it was logged

	on       bool         // all that follows is valid
	put      netip.Prefix // as it is on the interface
	link     int
	name     string    // of the interface
	since    time.Time // when it was taken
	expires  time.Time // in the kernel
	gone     bool      // the kernel said so: tell the segment if it is there again
	told     int       // announcements since it was taken or its link came back
	announce time.Time // the next one
	probe    time.Time // the next one

	duplicate *Duplicate
}

type portKey struct {
	link int
	is4  bool
}

type openedPort struct {
	port
	mac    net.HardwareAddr // that it speaks for
	closed atomic.Bool
}

// sighting is another's use of an address.
type sighting struct {
	link int
	addr netip.Addr
	mac  net.HardwareAddr
}

func newKeeper(h *Holder) (*keeper, error) {
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("hold addresses: %w", err)
	}
	return &keeper{
		Holder: h,
		kernel: kernel,
		down:   map[int]bool{},
		ports:  map[portKey]*openedPort{},
		heard:  make(chan sighting),
		done:   make(chan struct{}),
	}, nil
}

// run keeps to what Set and Renew say until ctx ends.
func (k *keeper) run(ctx context.Context) error {
	links, stopLinks, err := followLinks()
	if err != nil {
		return fmt.Errorf("hold addresses: %w", err)
	}
	defer func() { stopLinks() }() // whichever it is by then
	addresses, stopAddresses, err := followAddresses()
	if err != nil {
		return fmt.Errorf("hold addresses: %w", err)
	}
	defer func() { stopAddresses() }()

	timer := time.NewTimer(0)
	defer timer.Stop()
	var look time.Time // the next
	for ctx.Err() == nil {
		now := time.Now()
		if !now.Before(look) {
			look = now.Add(lookEvery)
			k.reconcile()
		}
		k.speak(now)
		k.publish(k.report())
		timer.Reset(time.Until(k.next(look)))

		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-k.renewed:
			k.permit(k.newest())
			k.extend()
		case r := <-k.sets:
			err := k.set(r)
			k.publish(k.report())
			r.done <- err
		case s := <-k.heard:
			k.see(s)
		case u, ok := <-links:
			look = time.Time{}
			if !ok {
				anew, stop, err := followLinks()
				if err != nil {
					return fmt.Errorf("hold addresses: %w", err)
				}
				stopLinks()
				links, stopLinks = anew, stop
				continue
			}
			k.linked(u)
		case u, ok := <-addresses:
			if !ok {
				anew, stop, err := followAddresses()
				if err != nil {
					return fmt.Errorf("hold addresses: %w", err)
				}
				stopAddresses()
				addresses, stopAddresses = anew, stop
				look = time.Time{}
				continue
			}
			if k.readdressed(u) {
				look = time.Time{}
			}
		}
	}
	return nil
}

// close frees all but what is held, which ends with its lifetime.
func (k *keeper) close() {
	close(k.done)
	k.publish(nil)
	for key := range k.ports {
		k.closePort(key)
	}
	k.listen.Wait()
	k.kernel.Close()
}

// newest returns the newest permission.
func (k *keeper) newest() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at
}

// permit moves the end of permission to Life after at, never back. If the last one had
// ended by then, what was held is lost, though nobody had the time to remove it.
func (k *keeper) permit(at time.Time) {
	if at.After(k.until) {
		k.lapse()
	}
	if until := at.Add(k.life); until.After(k.until) {
		k.until = until
	}
}

// fresh reports whether permission is recent enough to put back what is missing. Older
// than that, what is missing has most likely ended by its lifetime.
func (k *keeper) fresh() bool {
	return time.Until(k.until) > k.life/2
}

// set does what Set says.
func (k *keeper) set(r request) error {
	k.Renew(r.at)
	k.permit(k.newest())
	if len(r.want) > 0 && !time.Now().Before(r.at.Add(k.life)) {
		return fmt.Errorf("hold addresses: %w", errLate(time.Since(r.at)))
	}
	old := k.held
	k.held = nil
	for _, p := range r.want {
		i := slices.IndexFunc(old, func(h *holding) bool { return h.want == p })
		if i < 0 {
			k.held = append(k.held, &holding{want: p})
			continue
		}
		old[i].retell()
		k.held = append(k.held, old[i])
		old = slices.Delete(old, i, i+1)
	}
	var errs []error
	// First away with what may be wanted again with another length.
	for _, h := range old {
		errs = append(errs, k.drop(h, "no longer wanted"))
	}
	errs = append(errs, k.keep())
	k.speak(time.Now())
	return errors.Join(errs...)
}

// reconcile is keep for when nobody waits for the result.
func (k *keeper) reconcile() {
	k.keep() // logs what goes wrong, and is repeated
	// Not where an address is dropped: to close a packet socket takes milliseconds.
	k.closeUnused()
}

// keep compares what is wanted with what the kernel has, takes what is missing as long as
// permission is fresh, and returns why something could not be.
func (k *keeper) keep() error {
	if len(k.held) == 0 {
		return nil
	}
	scene, err := look(k.kernel)
	if err != nil {
		k.log.Warn("addresses not looked at", "err", err)
		return fmt.Errorf("hold addresses: %w", err)
	}
	k.macs = nil
	for _, l := range scene.links {
		k.macs = append(k.macs, l.Attrs().HardwareAddr)
	}
	k.dropPortsOf(scene)
	var errs []error
	for _, h := range k.held {
		err := k.hold(scene, h)
		if text := errorText(err); text != h.err {
			if h.err = text; err != nil {
				k.log.Warn("address not held", "address", h.want, "err", err)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// hold takes h if it is not held, and extends its lifetime if that is due.
func (k *keeper) hold(scene *scene, h *holding) error {
	ours, err := scene.left(h.want.Addr(), k.life)
	if err != nil {
		k.lose(h, "it is another's now")
		return err
	}
	if h.on && scene.links[h.link] != nil && slices.ContainsFunc(ours, func(a address) bool { return a.link == h.link && a.prefix == h.put }) {
		if h.gone {
			h.gone = false
			h.retell()
		}
		if err := k.renew(h); err != nil {
			return err
		}
		if err := usable(scene.links[h.link]); err != nil {
			return fmt.Errorf("hold %s: %w", h.want.Addr(), err) // it stays there, and nobody gets to it
		}
		return nil
	}
	k.lose(h, "it is no longer on the interface")
	if !k.fresh() {
		return nil // not an error: it has ended as it should
	}
	return k.take(scene, h, ours)
}

// take puts h on its interface, or adopts it there, and announces it. ours is where an
// earlier process left it.
func (k *keeper) take(scene *scene, h *holding, ours []address) error {
	link, as, err := scene.place(h.want, k.link)
	if err != nil {
		return err
	}
	index, name := link.Attrs().Index, link.Attrs().Name
	for _, a := range ours {
		if a.link == index && a.prefix == as {
			continue
		}
		if err := remove(k.kernel, a.link, a.prefix); err != nil {
			return fmt.Errorf("hold %s: remove what an earlier process left: %w", h.want.Addr(), err)
		}
	}
	// The port comes first: what cannot be announced is of no use.
	p, err := k.port(link, h.want.Addr())
	if err != nil {
		return fmt.Errorf("hold %s: %w", h.want.Addr(), err)
	}
	expires, err := put(k.kernel, index, as, k.until)
	if err != nil {
		return fmt.Errorf("hold %s: add it to %s: %w", h.want.Addr(), name, err)
	}
	now := time.Now()
	*h = holding{want: h.want, on: true, put: as, link: index, name: name, since: now, expires: expires, probe: now}
	if err := k.tooLate(h); err != nil {
		return err
	}
	h.retell()
	if err := k.tell(h, p, now); err != nil {
		return fmt.Errorf("hold %s: %w", h.want.Addr(), err)
	}
	k.log.Info("address taken", "address", h.want, "interface", name, "adopted", len(ours) > 0)
	return nil
}

// extend renews what is due.
func (k *keeper) extend() {
	for _, h := range k.held {
		if h.on && !h.gone {
			if err := k.renew(h); err != nil {
				k.log.Warn("address not renewed", "address", h.want, "interface", h.name, "err", err)
			}
		}
	}
}

// renew extends the lifetime of h in the kernel, unless it is good for nearly all of the
// permission: each time, everybody who watches the system's addresses is told.
func (k *keeper) renew(h *holding) error {
	if k.until.Sub(h.expires) < k.life/4 || !time.Now().Before(k.until) {
		return nil
	}
	expires, err := put(k.kernel, h.link, h.put, k.until)
	if err != nil {
		return fmt.Errorf("renew %s on %s: %w", h.want.Addr(), h.name, err)
	}
	h.expires = expires
	return k.tooLate(h)
}

// tooLate removes h again if permission ended while the kernel was told to keep it: the
// process may have been stopped just then.
func (k *keeper) tooLate(h *holding) error {
	if time.Now().Before(k.until) {
		return nil
	}
	return errors.Join(errLate(time.Since(k.until.Add(-k.life))), k.drop(h, "permission ended"))
}

// drop takes h off its interface.
func (k *keeper) drop(h *holding, why string) error {
	if !h.on {
		return nil
	}
	h.on = false
	if err := remove(k.kernel, h.link, h.put); err != nil {
		return fmt.Errorf("remove %s from %s: %w", h.want.Addr(), h.name, err)
	}
	k.log.Info("address given up", "address", h.want, "interface", h.name, "why", why)
	return nil
}

// lose notes that h is not on its interface any more.
func (k *keeper) lose(h *holding, why string) {
	if h.on {
		h.on = false
		k.log.Warn("address lost", "address", h.want, "interface", h.name, "why", why)
	}
}

// lapse gives up everything: permission has ended.
func (k *keeper) lapse() {
	for _, h := range k.held {
		if err := k.drop(h, "permission ended"); err != nil {
			k.log.Warn("address not removed", "err", err) // the kernel does, soon
		}
	}
	k.held = nil
}

// linked restarts the announcements on an interface that was down: nobody heard them.
func (k *keeper) linked(u netlink.LinkUpdate) {
	if u.Family == unix.AF_BRIDGE {
		return // it is about the port of a bridge
	}
	if u.Header.Type == unix.RTM_DELLINK || !isUp(u.Flags) {
		k.down[int(u.Index)] = true
		return
	}
	if !k.down[int(u.Index)] {
		return
	}
	delete(k.down, int(u.Index))
	for _, h := range k.held {
		if h.on && h.link == int(u.Index) {
			h.retell()
		}
	}
}

// readdressed reports whether a change of an address is worth a look: one of ours is gone, or
// one has come that ours waits for.
func (k *keeper) readdressed(u netlink.AddrUpdate) bool {
	changed, ok := prefixOf(&u.LinkAddress)
	worth := false
	for _, h := range k.held {
		if !h.on {
			worth = true
			continue
		}
		if ok && h.link == u.LinkIndex && h.put.Addr() == changed.Addr() {
			h.gone = h.gone || !u.NewAddr
			worth = worth || h.gone || u.Flags&unix.IFA_F_PERMANENT != 0
		}
	}
	return worth
}

// see notes another's use of one of our addresses.
func (k *keeper) see(s sighting) {
	own := slices.ContainsFunc(k.macs, func(mac []byte) bool { return bytes.Equal(mac, s.mac) })
	if own {
		return // another interface of this node on the same segment answers too
	}
	for _, h := range k.held {
		if !h.on || h.link != s.link || h.want.Addr() != s.addr {
			continue
		}
		if h.duplicate.mac() != s.mac.String() {
			k.log.Warn("address used by another too", "address", h.want, "interface", h.name, "mac", s.mac.String())
		}
		h.duplicate = &Duplicate{MAC: s.mac, Seen: time.Now()}
		h.probe = earlier(h.probe, time.Now().Add(probeAgain))
	}
}

// speak does what is due at now.
func (k *keeper) speak(now time.Time) {
	if len(k.held) > 0 && !now.Before(k.until) {
		// Renew may have come between.
		if k.permit(k.newest()); !now.Before(k.until) {
			k.lapse()
		}
	}
	for _, h := range k.held {
		if !h.on {
			continue
		}
		p, ok := k.ports[portKey{h.link, h.want.Addr().Is4()}]
		if !ok {
			continue // its interface is gone, or changes its hardware address: a look follows
		}
		if h.duplicate != nil && now.Sub(h.duplicate.Seen) >= over {
			h.duplicate = nil
			k.log.Info("address used by nobody else any more", "address", h.want, "interface", h.name)
			h.retell() // who went to the other has nobody now
		}
		if !now.Before(h.announce) && h.duplicate != nil && h.told > len(repeat) {
			// The other may be the one that has taken over from us: do not take its clients
			// back in the time that we have left.
			h.announce = now.Add(announceEvery)
		}
		if !now.Before(h.announce) {
			if err := k.tell(h, p, now); err != nil {
				k.log.Debug("address not announced", "address", h.want, "err", err)
			}
		}
		if !now.Before(h.probe) {
			h.probe = now.Add(probeEvery)
			if h.duplicate != nil {
				h.probe = now.Add(probeAgain)
			}
			if err := p.probe(h.want.Addr()); err != nil {
				k.log.Debug("address not probed", "address", h.want, "err", err)
			}
		}
	}
}

// tell announces h and says when to do so again.
func (k *keeper) tell(h *holding, p port, now time.Time) error {
	every := announceEvery
	if h.told < len(repeat) {
		every = repeat[h.told]
	}
	h.told++
	h.announce = now.Add(every)
	return p.announce(h.want.Addr())
}

// retell makes the announcements begin anew.
func (h *holding) retell() {
	h.told, h.announce = 0, time.Time{}
}

// next returns when something is due.
func (k *keeper) next(look time.Time) time.Time {
	if len(k.held) == 0 {
		if len(k.ports) > 0 {
			return look
		}
		return time.Now().Add(time.Hour)
	}
	next := earlier(look, k.until)
	for _, h := range k.held {
		if !h.on {
			continue
		}
		next = earlier(earlier(next, h.announce), h.probe)
		if h.duplicate != nil {
			next = earlier(next, h.duplicate.Seen.Add(over))
		}
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// report returns what is held.
func (k *keeper) report() []Held {
	var held []Held
	for _, h := range k.held {
		if h.on && !h.gone {
			held = append(held, Held{h.want, h.name, h.since, h.duplicate})
		}
	}
	return held
}

// port returns the port for addr on link, and opens it if it is not.
func (k *keeper) port(link netlink.Link, addr netip.Addr) (port, error) {
	a := link.Attrs()
	key := portKey{a.Index, addr.Is4()}
	if p, ok := k.ports[key]; ok {
		return p, nil
	}
	opened, err := openPort(&net.Interface{Index: a.Index, MTU: a.MTU, Name: a.Name, HardwareAddr: a.HardwareAddr, Flags: a.Flags}, addr)
	if err != nil {
		return nil, err
	}
	p := &openedPort{port: opened, mac: a.HardwareAddr}
	k.ports[key] = p
	k.listen.Go(func() {
		err := p.listen(func(addr netip.Addr, mac net.HardwareAddr) {
			if bytes.Equal(mac, p.mac) || !k.holds(addr) {
				return
			}
			select {
			case k.heard <- sighting{key.link, addr, slices.Clone(mac)}:
			case <-k.done:
			}
		})
		if !p.closed.Load() {
			k.log.Warn("duplicates not heard any more", "err", err)
		}
	})
	return p, nil
}

// holds reports whether addr is held. Listeners ask it, so that the rest of the segment's
// talk costs us next to nothing.
func (k *keeper) holds(addr netip.Addr) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(k.status, func(h Held) bool { return h.Prefix.Addr() == addr })
}

// dropPortsOf closes the ports of interfaces that are gone or have another hardware
// address now, and opens the latter anew.
func (k *keeper) dropPortsOf(scene *scene) {
	for key, p := range k.ports {
		link := scene.links[key.link]
		if link != nil && bytes.Equal(link.Attrs().HardwareAddr, p.mac) {
			continue
		}
		k.closePort(key)
		if link == nil {
			continue
		}
		for _, h := range k.held {
			if !h.on || (portKey{h.link, h.want.Addr().Is4()}) != key {
				continue
			}
			if _, err := k.port(link, h.want.Addr()); err != nil {
				k.log.Warn("address cannot be announced", "address", h.want, "err", err)
			}
			h.retell()
		}
	}
}

// closeUnused closes the ports that no address needs.
func (k *keeper) closeUnused() {
	for key := range k.ports {
		if !slices.ContainsFunc(k.held, func(h *holding) bool {
			return h.on && h.link == key.link && h.want.Addr().Is4() == key.is4
		}) {
			k.closePort(key)
		}
	}
}

func (k *keeper) closePort(key portKey) {
	k.ports[key].closed.Store(true)
	if err := k.ports[key].close(); err != nil {
		k.log.Debug("port not closed", "err", err)
	}
	delete(k.ports, key)
}
