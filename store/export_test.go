package store

// BackendOf lets a test stand between a store and its backend.
func BackendOf(s *Store) Backend { return s.backend }
