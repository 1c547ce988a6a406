package control

import (
	"context"
	"strconv"
	"time"

	"weir/store"
	"weir/weir"
)

// sshKeys are the public keys that users keep, by ID.
var sshKeys = newTeamed("ssh_keys", func(k weir.SSHKey) weir.ID { return k.Team })

const firstKey = 300_001

// SSHKeys returns all keys, by ID.
func (c *Control) SSHKeys(ctx context.Context) ([]weir.SSHKey, error) {
	all, err := sshKeys.AllOwn(ctx, c.Store)
	byNumber(all, func(k weir.SSHKey) weir.ID { return k.ID })
	return all, err
}

// AddSSHKey keeps a key, and gives it an ID. The same key once more is weir.Invalid.
func (c *Control) AddSSHKey(ctx context.Context, k weir.SSHKey) (weir.SSHKey, error) {
	err := c.Store.Update(ctx, func(tx *store.Tx) error {
		all, err := sshKeys.AllOwn(ctx, tx)
		if err != nil {
			return err
		}
		for _, there := range all {
			if there.Fingerprint == k.Fingerprint {
				return weir.Errorf(weir.Invalid, "SSH Key is already in use on your account: it is there as %q", there.Name)
			}
		}
		n, err := store.Next(ctx, tx, "ssh_keys", firstKey)
		if err != nil {
			return err
		}
		k.ID, k.Team, k.Created = weir.ID(strconv.FormatInt(n, 10)), weir.CallerOf(ctx).Team, time.Now().UTC()
		sshKeys.Put(tx, k.ID, k)
		return nil
	})
	return k, err
}

// RenameSSHKey gives a key another name.
func (c *Control) RenameSSHKey(ctx context.Context, id weir.ID, name string) (k weir.SSHKey, err error) {
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		if k, err = sshKeys.Own(ctx, tx, id); err != nil {
			return err
		}
		k.Name = name
		sshKeys.Put(tx, id, k)
		return nil
	})
	return k, err
}

// DeleteSSHKey forgets a key. Machines that have it keep it.
func (c *Control) DeleteSSHKey(ctx context.Context, id weir.ID) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		if _, err := sshKeys.Own(ctx, tx, id); err != nil {
			return err
		}
		sshKeys.Delete(tx, id)
		return nil
	})
}
