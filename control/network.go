package control

import (
	"context"
	"errors"
	"time"

	"weir/store"
	"weir/weir"
)

// networks are what teams say about the private network.
var networks = store.NewTable[weir.Network]("networks")

// networkKey is where a team's row is: the network is one, and so the first team has its ID.
func (c *Control) networkKey(team weir.ID) weir.ID {
	key := weir.NetworkID(c.Region())
	if team != "" {
		key += "." + team
	}
	return key
}

// Network returns what the caller's team says about the region's private network.
func (c *Control) Network(ctx context.Context) (weir.Network, error) {
	return c.UpdateNetwork(ctx, func(*weir.Network) error { return nil })
}

// UpdateNetwork has change change what the caller's team says about the region's private network.
func (c *Control) UpdateNetwork(ctx context.Context, change func(*weir.Network) error) (n weir.Network, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		team := weir.CallerOf(ctx).Team
		n, err = networks.Get(ctx, tx, c.networkKey(team))
		if errors.Is(err, weir.NotFound) {
			n, err = weir.Network{Team: team, Name: "default-" + c.Region(), Created: time.Now().UTC()}, nil
		}
		if err != nil {
			return err
		}
		if err := change(&n); err != nil {
			return err
		}
		networks.Put(tx, c.networkKey(team), n)
		return n.Check()
	})
	return n, err
}
