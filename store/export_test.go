package store

import "context"

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
