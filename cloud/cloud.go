// Package cloud says what Weir asks of a cloud.
//
// A driver keeps [Machines], [Addresses] and [Firewalls] for one region. Every
// operation can be repeated: what Weir creates carries Weir's own ID before it exists,
// so that asking again, after an error or a crash at any moment, never makes a second
// one. Errors have a kind (weir.Exhausted, Unavailable, Invalid, Denied, NotFound),
// which says whether to try again; where the cloud itself says when (429 and Retry-After), it is
// weir.Later. A call ends with its context, and may or may not have
// taken effect then.
//
// Package cloudtest holds every driver to the promises made here; [Fake] is a cloud
// in memory that keeps them.
package cloud

import (
	"context"
	"net/netip"

	"weir/weir"
)

// Cloud is one region of a cloud.
type Cloud interface {
	Machines
	Addresses
	Firewalls
}

// Region is what a region has that a control plane makes machines in, and whose addresses and load balancers are in another
// one. The private networks of both lead to each other.
type Region interface {
	Machines
	Firewalls
}

// Spec is a machine to create.
type Spec struct {
	ID   weir.ID // Weir's, unique for ever; the driver keeps it with the machine
	Name string  // host name
	weir.Template

	// Apart is a word: machines with the same one should not fail together. A cloud that has a say in it
	// spreads them over its hosts, as evenly as there is room; where there is none, one is made on the next best
	// host all the same. A cloud of one host, or one that cannot choose, ignores it, and so do all if it is empty.
	Apart string
}

// Machine is a machine as its cloud shows it.
type Machine struct {
	ID       weir.ID
	Name     string
	On       bool   // powered on; a machine whose init has died is off
	Host     string // that it is on, for as long as it is there; "" in a cloud that does not say
	HostDown bool   // its host is: until it is up again the machine is off, and can be neither powered on nor deleted
	Public   netip.Addr
	Anchor   netip.Addr // where the traffic of a reserved IP arrives; unspecified if its cloud does not say, which is at any of its addresses
	Private  netip.Addr // of the private network; where the traffic of an address reserved there arrives, too
	Public6  netip.Addr // of a machine with IPv6
	Anchor6  netip.Addr // likewise
	Boot     weir.Boot
	Firewall *weir.Firewall // what SetFirewall last set; nil if the machine is open
}

// Machines creates and destroys machines.
type Machines interface {
	// Machines returns all of our machines, by ID.
	Machines(ctx context.Context) ([]Machine, error)

	// CreateMachine makes a machine and powers it on; its user-data runs afterwards.
	// If there is a machine with spec.ID, it returns that one and does nothing. A spec
	// that can make none is weir.Invalid; too little of anything is weir.Exhausted, with
	// what and how much.
	CreateMachine(ctx context.Context, spec Spec) (Machine, error)

	// Room returns nil if n more machines like t can be created now, as far as can be told,
	// and weir.Exhausted with what is there and what was wanted if not. A template that can
	// never make one, for its region, its size or user-data that cannot be run, is
	// weir.Invalid, with why.
	Room(ctx context.Context, t weir.Template, n int) error

	// EnableIPv6 gives a machine a public address of IPv6, at once if it is on. If it has one,
	// EnableIPv6 does nothing. A machine that is not there is weir.NotFound; in a cloud without IPv6 this
	// is weir.Invalid, as are specs and templates that ask for it.
	EnableIPv6(ctx context.Context, id weir.ID) error

	// DeleteMachine destroys a machine with its disk and gives back its addresses. A
	// reserved IP that pointed to it points nowhere. If there is none, it does nothing. One whose host is down is
	// weir.Unavailable: its disk is there.
	DeleteMachine(ctx context.Context, id weir.ID) error

	// PowerOn starts a machine that is off, with its disk and addresses as they were.
	// If it is on, PowerOn does nothing. A machine that is not there is weir.NotFound, and one whose host is down
	// is weir.Unavailable.
	PowerOn(ctx context.Context, id weir.ID) error

	// PowerOff stops a machine, gently if it can be (its init gets SIGTERM and a few
	// seconds). If it is off, PowerOff does nothing. A machine that is not there is
	// weir.NotFound.
	PowerOff(ctx context.Context, id weir.ID) error
}

// Address is a reserved IP as its cloud shows it.
type Address struct {
	Addr     netip.Addr
	Private  bool      // it is of the private network
	Owner    weir.ID   // who reserved it
	Machines []weir.ID // who have it, in the order in which they were assigned; none for nobody
}

// Addresses moves reserved IPs between machines.
type Addresses interface {
	// Addresses returns the reserved IPs that we hold, each with the machines that have it.
	Addresses(ctx context.Context) ([]Address, error)

	// Reserve gets an address of a family for owner, who may have one of each. If owner has one
	// already, it returns that. None left is weir.Exhausted, a family that the cloud does not have is weir.Invalid.
	Reserve(ctx context.Context, owner weir.ID, family weir.Family) (netip.Addr, error)

	// PrivateNetwork returns the region's private network, where machines' private addresses are from, or no
	// valid prefix if no address can be reserved in it.
	PrivateNetwork() netip.Prefix

	// ReservePrivate gets an address of the private network for owner, beside what Reserve has got. It is no
	// machine's, reaches the private addresses of the machines that it is assigned to, and is reached from the private
	// network and the region's own services alone. If owner has one already, it returns that. None left is
	// weir.Exhausted, and a cloud that has none at all is weir.Invalid.
	ReservePrivate(ctx context.Context, owner weir.ID) (netip.Addr, error)

	// Spread returns how many machines can have one reserved IP at the same time, at least 1.
	Spread() int

	// Assign gives addr to machines, taking it from whichever others had it, at once and
	// without breaking flows that are established. Of several each gets as many of the new flows,
	// chosen by a hash of who sends them; one that is off gets none. If they have it already, Assign
	// does nothing. Without machines nobody has it then. An address
	// or a machine that is not there is weir.NotFound; more than Spread is weir.Invalid, and so is a machine without
	// IPv6 for an address of that family.
	Assign(ctx context.Context, addr netip.Addr, machines ...weir.ID) error

	// Release gives addr back. If we do not hold it, Release does nothing.
	Release(ctx context.Context, addr netip.Addr) error
}

// Firewalls decide what reaches a machine, and what it reaches. A machine without a firewall
// is open both ways.
type Firewalls interface {
	// SetFirewall lets new flows to machine in only as f's openings say, and, if f is confined,
	// out of it only as its exits say; it opens the machine where f is nil. Each opening is for
	// a range of ports of TCP or of UDP, or for ICMP as a whole, and for peers of IPv4 and IPv6,
	// whichever of them the cloud has. Peers of an opening are where a flow comes from, a
	// reserved IP included; those of an exit are whom the machine addressed, a reserved IP
	// included. What cannot be, such as a port that is none, is weir.Invalid.
	//
	// Flows that were let through before, replies, and what the machine asks of the region's
	// own services (metadata, the control plane) always pass. It replaces the firewall that was
	// there, at once: no moment is without one. Deleting the machine deletes its firewall; a
	// machine that is not there is weir.NotFound.
	SetFirewall(ctx context.Context, machine weir.ID, f *weir.Firewall) error
}

// Faults break machines on purpose, to see what comes of it. Only a cloud of one's own can
// do that, so it is no part of [Cloud]. A machine that is frozen or cut off is shown as on.
// A fault is on no record: it ends when the region does, if nothing ends it before. Doing
// one twice is doing it once. A machine that is not there is weir.NotFound.
type Faults interface {
	HostFaults

	// Kill takes a machine's power away: all that runs in it ends at once, without a
	// word. It is off then, and PowerOn boots it again. If it is off, Kill does nothing.
	Kill(ctx context.Context, id weir.ID) error

	// Reboot is Kill, then PowerOn, which a machine whose host is down is refused.
	Reboot(ctx context.Context, id weir.ID) error

	// Freeze stops every process of a machine where it is. Its kernel lives: it answers
	// pings and completes TCP handshakes. Whatever powers the machine off thaws it. A machine
	// that is off is weir.Conflict.
	Freeze(ctx context.Context, id weir.ID) error

	// Thaw lets a frozen machine go on. If it is not frozen, Thaw does nothing.
	Thaw(ctx context.Context, id weir.ID) error

	// Partition cuts a machine's network, for flows that are established as for new ones,
	// and from the region's own services too. Cuts add up, and stay across power off and on.
	Partition(ctx context.Context, id weir.ID, cut weir.Cut) error

	// Heal undoes all cuts. Flows that have not given up go on.
	Heal(ctx context.Context, id weir.ID) error
}

// HostFaults break whole hosts, as [Faults] break machines. A host that is not there is weir.NotFound.
type HostFaults interface {
	// FailHost takes the power of a host away: all its machines are killed at once, and until RestoreHost none of them
	// can be powered on or deleted, and none is made there. If it is down, FailHost does nothing.
	FailHost(ctx context.Context, name string) error

	// RestoreHost lets a host be up again. Its machines stay off until they are powered on. If it is up, RestoreHost does
	// nothing.
	RestoreHost(ctx context.Context, name string) error
}
