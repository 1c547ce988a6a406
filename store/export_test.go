package store

import (
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// BackendOf lets a test stand between a store and its backend.
func BackendOf(s *Store) Backend { return s.backend }

// EndLeases ends all leases in etcd, as if their owners had been silent for too long.
func EndLeases(ctx context.Context, s *Store) error {
	client := s.backend.(*etcd).client
	leases, err := client.Leases(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases.Leases {
		if _, err := client.Revoke(ctx, l.ID); err != nil {
			return err
		}
	}
	return nil
}

// Compact forgets all history in etcd.
func Compact(ctx context.Context, s *Store) error {
	client := s.backend.(*etcd).client
	head, err := client.Get(ctx, marks)
	if err == nil {
		_, err = client.Compact(ctx, head.Header.Revision)
	}
	return err
}

// Clear deletes all that is in etcd.
func Clear(ctx context.Context, s *Store) error {
	_, err := s.backend.(*etcd).client.Delete(ctx, "weir/", clientv3.WithPrefix())
	return err
}

// MoveLeader has the member in this process, which must be etcd's leader, hand that over
// to another one.
func MoveLeader(ctx context.Context, s *Store, to string) error {
	client := s.backend.(*etcd).client
	list, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, m := range list.Members {
		if m.Name == to {
			_, err := client.MoveLeader(ctx, m.ID)
			return err
		}
	}
	return errors.New("there is no member " + to)
}
