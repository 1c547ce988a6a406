package store_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	etcdembed "go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"weir/store"
	"weir/store/storetest"
	"weir/weir"
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

func TestDialled(t *testing.T) {
	endpoint := server(t, func(c *etcdembed.Config) { c.MaxTxnOps = 1 << 13 })
	storetest.Run(t, func(t *testing.T) *store.Store {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Delete(t.Context(), "weir/", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		return dial(t, endpoint)
	})
}

// server starts an etcd server on a port of 127.0.0.1 that the kernel picks, and returns
// its endpoint.
func server(t *testing.T, set func(*etcdembed.Config)) (endpoint string) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	config := etcdembed.NewConfig()
	config.Dir = t.TempDir()
	config.ZapLoggerBuilder = etcdembed.NewZapLoggerBuilder(zap.NewNop())
	config.ListenPeerUrls = nil
	config.ListenClientUrls = []url.URL{{Scheme: "http", Host: free.Addr().String()}}
	config.AdvertiseClientUrls = config.ListenClientUrls
	set(config)
	server, err := etcdembed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	return server.Clients[0].Addr().String()
}

func dial(t *testing.T, endpoint string) *store.Store {
	s, err := store.Dial(t.Context(), []string{endpoint}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestDialSpeaksTLS(t *testing.T) {
	endpoint := server(t, func(c *etcdembed.Config) {
		c.ClientAutoTLS = true
		c.ListenClientUrls[0].Scheme = "https"
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if s, err := store.Dial(ctx, []string{endpoint}, &tls.Config{}); err == nil {
		s.Close()
		t.Error("it trusts a certificate that it cannot verify")
	}
	s, err := store.Dial(t.Context(), []string{endpoint}, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	things := store.NewTable[string]("things")
	if all, err := things.All(t.Context(), s); err != nil || len(all) != 0 {
		t.Errorf("got %v and error %v, want an empty table", all, err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s, err := store.Dial(ctx, []string{"127.0.0.1:1"}, nil)
	if err == nil {
		s.Close()
		t.Fatal("it connected to a port where nobody listens")
	}
	if want := "etcd at 127.0.0.1:1 does not answer"; !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got error %q, want %q and that its time was over", err, want)
	}
}

func TestTransactionTooLargeForItsClusterIsInvalid(t *testing.T) {
	endpoint := server(t, func(c *etcdembed.Config) { c.MaxTxnOps = 8 })
	s, things := dial(t, endpoint), store.NewTable[string]("things")
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		for key := range strings.SplitSeq("a b c d e f g h i", " ") {
			things.Put(tx, weir.ID(key), key)
		}
		return nil
	})
	if !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "--max-txn-ops") {
		t.Errorf("got error %q, want invalid, and the setting to change", err)
	}
	if all, err := things.All(t.Context(), s); err != nil || len(all) != 0 {
		t.Errorf("got %v and error %v, want nothing stored", all, err)
	}
}

func TestLeaderWhoseLeaseEndsIsDeposed(t *testing.T) {
	ctx, s, things := t.Context(), embed(t), store.NewTable[string]("things")
	err := s.Lead(ctx, "weir", func(working context.Context, led *store.Store) error {
		if err := store.EndLeases(ctx, s); err != nil {
			t.Error(err)
		}
		err := led.Update(ctx, func(tx *store.Tx) error { things.Put(tx, "a", "after"); return nil })
		if !errors.Is(err, weir.Denied) {
			t.Errorf("got error %v for a write without a lease, want denied", err)
		}
		<-working.Done()
		return nil
	})
	if !errors.Is(err, weir.Denied) {
		t.Errorf("got error %v, want denied", err)
	}
	if err := s.Lead(ctx, "weir", func(context.Context, *store.Store) error { return nil }); err != nil {
		t.Errorf("the next leader: %v", err)
	}
}

// TestFollowerThatWasAwayListsAnew has a follower pause while its table changes and the
// store forgets how.
func TestFollowerThatWasAwayListsAnew(t *testing.T) {
	ctx, things := t.Context(), store.NewTable[string]("things")
	s := embed(t)
	put := func(key weir.ID, row string) {
		t.Helper()
		err := s.Update(ctx, func(tx *store.Tx) error {
			if things.Put(tx, key, row); row == "" {
				things.Delete(tx, key)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put("stays", "1")
	put("goes", "1")
	put("changes", "1")

	var heard []string
	for change, err := range things.Follow(ctx, s) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case change.Synced:
			heard = append(heard, "synced")
			put("goes", "")
			put("changes", "2")
			put("comes", "1")
			put("came and went", "1")
			put("came and went", "")
			if err := store.Compact(ctx, s); err != nil {
				t.Fatal(err)
			}
		case change.Deleted:
			heard = append(heard, "-"+string(change.Key))
		default:
			heard = append(heard, string(change.Key)+"="+change.Row)
		}
		if change.Key == "goes" && change.Deleted {
			put("end", "1")
		}
		if change.Key == "end" {
			break
		}
	}
	got, want := strings.Join(heard, " "), "changes=1 goes=1 stays=1 synced changes=2 comes=1 -goes end=1"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
