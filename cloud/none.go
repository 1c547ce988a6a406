package cloud

import (
	"context"
	"net/netip"

	"weir/weir"
)

// None is the cloud of those who have none: it holds nothing and can make nothing. What
// asks it to make something gets a weir.Invalid that says so, in words for a user.
type None struct{}

// errNone is what everything comes to that needs a cloud.
func errNone(what string) error {
	return weir.Errorf(weir.Invalid, "this Weir has no cloud: it cannot %s; machines of your own join by `weir node token NAME`", what)
}

// Machines returns none.
func (None) Machines(context.Context) ([]Machine, error) { return nil, nil }

// CreateMachine is weir.Invalid.
func (None) CreateMachine(context.Context, Spec) (Machine, error) {
	return Machine{}, errNone("create machines")
}

// Room is weir.Invalid: no template can ever make a machine.
func (None) Room(context.Context, weir.Template, int) error { return errNone("create machines") }

// EnableIPv6 is weir.NotFound.
func (None) EnableIPv6(_ context.Context, id weir.ID) error { return notThere(id) }

// DeleteMachine does nothing, as there is none.
func (None) DeleteMachine(context.Context, weir.ID) error { return nil }

// PowerOn is weir.NotFound.
func (None) PowerOn(_ context.Context, id weir.ID) error { return notThere(id) }

// PowerOff is weir.NotFound.
func (None) PowerOff(_ context.Context, id weir.ID) error { return notThere(id) }

// Addresses returns none.
func (None) Addresses(context.Context) ([]Address, error) { return nil, nil }

// Reserve is weir.Invalid.
func (None) Reserve(context.Context, weir.ID, weir.Family) (netip.Addr, error) {
	return netip.Addr{}, errNone("reserve addresses")
}

// PrivateNetwork is none.
func (None) PrivateNetwork() netip.Prefix { return netip.Prefix{} }

// ReservePrivate is weir.Invalid.
func (None) ReservePrivate(context.Context, weir.ID) (netip.Addr, error) {
	return netip.Addr{}, errNone("reserve addresses")
}

// Spread is 1.
func (None) Spread() int { return 1 }

// Assign is weir.NotFound.
func (None) Assign(_ context.Context, addr netip.Addr, _ ...weir.ID) error {
	return weir.Errorf(weir.NotFound, "this Weir has no cloud, and no reserved IP %s", addr)
}

// Release does nothing, as we hold none.
func (None) Release(context.Context, netip.Addr) error { return nil }

// SetFirewall is weir.NotFound.
func (None) SetFirewall(_ context.Context, machine weir.ID, _ *weir.Firewall) error {
	return notThere(machine)
}

func notThere(id weir.ID) error {
	return weir.Errorf(weir.NotFound, "this Weir has no cloud, and no machine %s in it", id)
}
