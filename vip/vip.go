// Package vip holds addresses on this node's interfaces, on a segment that it shares with
// other nodes and with clients or their router: the address of a load balancer on
// machines of one's own, where no cloud says who has it.
//
// A [Holder] is told by [Holder.Set] what to hold, and by [Holder.Renew], again and
// again, that it still may. Whether it may is not for this package to know: two nodes
// that are both told to hold an address both do.
//
//	h := vip.New(vip.Options{Log: log})
//	go h.Run(ctx) // until ctx ends; the addresses do so a moment later
//	err := h.Set(ctx, []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24")}, time.Now())
//	for range time.Tick(500 * time.Millisecond) {
//		if at, ok := mayHold(); ok {
//			h.Renew(at)
//		}
//	}
//
// # Taking an address
//
// Set puts the address on the interface, tells the segment, and returns: gratuitous ARP in
// both forms for IPv4, an unsolicited neighbour advertisement with the override flag for
// IPv6 (without the kernel's own wait for duplicates, which takes a second or more). The
// announcement is repeated twice within about a second, because frames get lost and some
// systems ignore a change that follows another too closely; then every ten seconds
// for as long as the address is held; and when a link comes back.
//
// The address goes on the interface that has an address in the same subnet, as a
// host's (/32 or /128). An address that shares the subnet of the node's own could
// become the primary one, and would take the node's own with it when it goes. It is marked
// deprecated, so that connections which the node itself opens do not come from it.
//
// # Losing it
//
// Permission lasts for Life, counted from the moment that Renew is given. If it is not
// renewed the Holder removes the address at that moment. If the process cannot (it is
// stopped, starved or dead), the kernel does: the address has a lifetime there as
// well, which only a renewal extends. The kernel counts whole seconds and looks at most
// once a second, so that it may be late: see [Bound]. It is mostly early (a
// renewal in the kernel is good for a quarter of Life, to spare the system's other
// watchers of addresses) or late by a quarter of a second.
//
// Both clocks stand still while a machine is suspended or a virtual one is paused as a
// whole: a node holds, after it wakes, for what was left. Fence such a node otherwise.
//
// An address that somebody else removed is put back. One that an earlier process
// left is adopted. One without a lifetime is an administrator's: it is not touched, and to
// want it is an error. So is one that came with a lifetime beyond ours, as from DHCP.
//
// # Two holders
//
// The Holder listens for others that use an address it holds, asks the segment for
// them (an ARP probe as of RFC 5227, a neighbour solicitation) after taking it and every
// few seconds, and reports them in [Holder.Status]. It goes on holding: who has to give
// up is decided elsewhere. Meanwhile it leaves out the announcements of every ten
// seconds, so that a node that is about to lose the address does not draw clients away from
// the one that has taken it; when the other is gone, it announces as if it had taken it anew.
//
// It needs CAP_NET_ADMIN and CAP_NET_RAW in the network namespace of the process.
package vip

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weir/weir"
)

// DefaultLife is how long a permission lasts unless Options say otherwise.
const DefaultLife = 3 * time.Second

// Bound returns how long after the moment given to the last Renew an address may still
// be on an interface, whatever happens to the process: life in the kernel's whole
// seconds, one more for a permission that was not fresh when it reached the kernel, and one
// for the kernel's timer. Only a machine that is suspended as a whole exceeds it, and
// a process that is stopped within the microseconds between looking at the clock and
// telling the kernel, and is continued later: it removes the address as the next thing it
// does.
func Bound(life time.Duration) time.Duration {
	return seconds(life) + 2*time.Second
}

// seconds rounds d up to what the kernel can count, 1 s at the least.
func seconds(d time.Duration) time.Duration {
	return max((d + time.Second - 1).Truncate(time.Second), time.Second)
}

// Options say how a Holder works.
type Options struct {
	Log *slog.Logger // slog.Default() if nil

	// Life is how long an address is held after a permission. 0 means DefaultLife, and less
	// than a second is a second. Renew at least twice in it.
	Life time.Duration

	// Interface is the name of the interface that all addresses go to. If it is empty,
	// an address goes to the interface that has another one in its subnet. If the
	// interface that is named has none, the address brings its subnet along: it is set
	// with the length of its prefix.
	Interface string
}

// A Holder holds addresses. Its methods may be called at the same time.
type Holder struct {
	log     *slog.Logger
	life    time.Duration
	link    string
	sets    chan request
	renewed chan struct{} // holds one: at has changed
	changed chan struct{} // holds one: status has changed
	ended   chan struct{} // closed when Run has returned

	mu     sync.Mutex
	at     time.Time // the newest permission
	status []Held
}

// request is what Set asks of Run.
type request struct {
	want []netip.Prefix
	at   time.Time
	done chan error // holds one
}

// Held is an address that is on an interface.
type Held struct {
	Prefix    netip.Prefix // as it was wanted
	Interface string
	Since     time.Time  // when this Holder put it there, or found it
	Duplicate *Duplicate // nil if nobody else is known to use it
}

// Duplicate is another's use of an address that we hold.
type Duplicate struct {
	MAC  net.HardwareAddr
	Seen time.Time // last
}

// New returns a Holder that holds nothing. It works while Run does.
func New(o Options) *Holder {
	h := &Holder{
		log:     o.Log,
		life:    o.Life,
		link:    o.Interface,
		sets:    make(chan request),
		renewed: make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
		ended:   make(chan struct{}),
	}
	if h.log == nil {
		h.log = slog.Default()
	}
	if h.life == 0 {
		h.life = DefaultLife
	}
	h.life = max(h.life, time.Second)
	return h
}

// Set says which addresses this node holds from now on: all of them. It returns when
// they are on their interfaces and have been announced once; those no longer wanted
// have been removed. What was held before is announced anew, since somebody may have claimed
// it meanwhile. at is when the caller knew that it may, as for Renew.
//
// An address that cannot be held does not keep the others from it. It stays
// wanted, and is tried again when a link or an address changes and every second for as
// long as permission is renewed. The kinds of error: Invalid, it is no address that one can
// hold; NotFound, no interface is in its subnet; Unavailable, the interface is down, at has
// passed, or Run has ended; Conflict, the address is on this node already and is not ours.
//
// Set waits for Run to be called. If ctx ends first, what was set may be done all the same.
func (h *Holder) Set(ctx context.Context, want []netip.Prefix, at time.Time) error {
	var unique []netip.Prefix
	for _, p := range want {
		if err := check(p); err != nil {
			return err
		}
		if !slices.ContainsFunc(unique, func(u netip.Prefix) bool { return u.Addr() == p.Addr() }) {
			unique = append(unique, p)
		}
	}
	r := request{unique, at, make(chan error, 1)}
	select {
	case h.sets <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-h.ended:
		return errEnded()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func errEnded() error {
	return weir.Errorf(weir.Unavailable, "hold addresses: it has ended")
}

// check reports whether p is an address that a node can hold for others.
func check(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return weir.Errorf(weir.Invalid, "hold address: it is empty")
	case a.Is4In6(), a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.IsLinkLocalUnicast():
		return weir.Errorf(weir.Invalid, "hold %s: want an address that others on the segment can reach", a)
	case p.Bits() < a.BitLen()-1 && a == p.Masked().Addr():
		return weir.Errorf(weir.Invalid, "hold %s: that is the subnet itself, not an address in it", p)
	}
	return nil
}

// Renew says that the addresses set last may be held for Life from at, the moment at which
// the caller knew so: when it heard from its peer, say, or from the control plane. Give
// it as time.Now returned it. With a moment before the newest given it does nothing, so that
// a process that wakes up late cannot extend an old permission.
//
// It never waits. What has been lost for want of permission is not brought back: that takes a
// Set.
func (h *Holder) Renew(at time.Time) {
	if now := time.Now(); at.After(now) {
		at = now
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !at.After(h.at) {
		return
	}
	h.at = at
	select {
	case h.renewed <- struct{}{}:
	default:
	}
}

// Status returns the addresses that are held, in the order in which they were wanted. What is
// wanted and not in it could not be taken, or was lost.
func (h *Holder) Status() []Held {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.status)
}

// Changed receives when the status has changed since it received last: an address was
// taken or lost, another's use of one was seen or is over. There is one channel, for
// one reader.
func (h *Holder) Changed() <-chan struct{} {
	return h.changed
}

// publish makes status what Status returns.
func (h *Holder) publish(status []Held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	same := slices.EqualFunc(h.status, status, func(a, b Held) bool {
		return a.Prefix == b.Prefix && a.Interface == b.Interface && a.Since.Equal(b.Since) &&
			a.Duplicate.mac() == b.Duplicate.mac()
	})
	h.status = status
	if same {
		return
	}
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (d *Duplicate) mac() string {
	if d == nil {
		return ""
	}
	return d.MAC.String()
}

// Run holds what Set says until ctx ends, and returns nil. What it held ends with its lifetime, unless
// the next process adopts it: who restarts in order to be newer takes nothing from its clients. It
// returns an error if it cannot speak with the kernel. It may be called once.
func (h *Holder) Run(ctx context.Context) error {
	defer close(h.ended)
	k, err := newKeeper(h)
	if err != nil {
		return err
	}
	defer k.close()
	return k.run(ctx)
}

func errLate(age time.Duration) error {
	return weir.Errorf(weir.Unavailable, "permission ended: it is %s old", age.Round(time.Millisecond))
}
