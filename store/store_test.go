package store_test

import (
	"log/slog"
	"testing"

	"weir/store"
	"weir/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *store.Store { return store.Memory() })
}

func TestMemoryInABubble(t *testing.T) {
	storetest.RunInBubble(t, func(t *testing.T) *store.Store { return store.Memory() })
}

func TestEmbedded(t *testing.T) { storetest.Run(t, embed) }

// embed returns an embedded store of the test's own.
func embed(t *testing.T) *store.Store {
	s, err := store.Embed(t.Context(), t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}
