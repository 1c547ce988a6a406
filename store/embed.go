package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"weir/weir"
)

// The limits of an embedded store.
const (
	maxBytes    = 8 << 30  // of the database; rows of all kinds together stay far below
	maxTxnOps   = 1 << 15  // rows read or written in one transaction
	maxTxnBytes = 16 << 20 // of one transaction
	worthDefrag = 64 << 20 // bytes of the database that are free, for which to rewrite it
)

// Embed returns a store in an etcd member of its own, which lives in this process, keeps
// its files under dir and listens nowhere. It waits until the store is ready; ctx
// bounds the wait. One process at a time can have dir: for a second one the error is
// weir.Conflict.
//
// What etcd has to say goes to log, if it is a warning or an error. When the disk is
// full (weir.Exhausted) or fails, etcd stops in the middle of what it does: then the
// store is broken (see Store.Done) and its files stay open, so that only another
// process, once there is space again, can continue; it finds all that was committed.
func Embed(ctx context.Context, dir string, log *slog.Logger) (*Store, error) {
	return open(ctx, &member{dir: dir, name: hostname(), log: log})
}

// open opens the store of m, which holds where its files and its peers are.
func open(ctx context.Context, m *member) (*Store, error) {
	lock, err := lockDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := claimDir(m.dir, m.cluster); err != nil {
		lock.Close()
		return nil, fmt.Errorf("store: %w", err)
	}
	m.broken, m.closing = make(chan struct{}), make(chan struct{})
	if err := m.start(ctx); err != nil {
		if !m.isBroken() {
			lock.Close()
		}
		return nil, fmt.Errorf("store: %w", err)
	}
	m.backend.close = sync.OnceValue(func() error {
		if err := m.stop(); err != nil {
			return fmt.Errorf("close store: %w", err)
		}
		return lock.Close()
	})
	return New(m.backend).As(m.name), nil
}

// member is an etcd member in this process.
type member struct {
	dir     string
	name    string
	log     *slog.Logger
	cluster *Cluster // nil if it is alone
	server  *embed.Etcd
	backend *etcd
	peers   *peers          // nil if it is alone
	level   zap.AtomicLevel // of what etcd says that is logged

	once   sync.Once
	broken chan struct{}
	cause  error // what closed broken; set before it is closed

	closing  chan struct{}
	watching sync.WaitGroup // what waits for the end of server
}

func (m *member) isBroken() bool {
	select {
	case <-m.broken:
		return true
	default:
		return false
	}
}

// breakDown is called by etcd where it would end the process, in the goroutine that
// cannot go on. It never returns: like the end of the process, this keeps etcd from
// writing anything more, such as the second half of a record of which the disk had no
// space for the first.
func (m *member) breakDown(err error) {
	m.fail(err)
	select {}
}

// fail notes that the member is broken, because of err.
func (m *member) fail(err error) {
	m.once.Do(func() {
		m.cause = err
		close(m.broken)
		m.backend.fail(fmt.Errorf("store: %w", explainDisk(m.dir, err)))
	})
}

// start starts the member and waits until it serves.
func (m *member) start(ctx context.Context) error {
	// What it says while it starts is about settings, or comes back as an error.
	m.level = zap.NewAtomicLevelAt(zap.FatalLevel)
	m.backend = newEtcd(nil)
	m.backend.members = m.members
	config := m.config()
	if m.cluster == nil {
		m.backend.alone = true
	} else {
		err := m.cluster.configure(config)
		if err != nil {
			return err
		}
		if m.peers, err = newPeers(*m.cluster, config.PeerTLSInfo); err != nil {
			return err
		}
	}
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(m.log, m.level, m.breakDown))
	started := make(chan error, 1)
	go func() {
		defer func() {
			// Some damage to its files it meets with a panic of the runtime's.
			if r := recover(); r != nil {
				m.fail(fmt.Errorf("%v", r))
			}
		}()
		server, err := embed.StartEtcd(config)
		m.server = server
		started <- err
	}()
	select {
	case err := <-started:
		if err != nil {
			return m.explainStart(err)
		}
	case <-m.broken:
		return m.explainStart(m.cause)
	}

	m.backend.client = v3client.New(m.server.Server)
	m.backend.head = func() int64 { return m.server.Server.KV().Rev() }
	m.watching.Go(m.watch)
	if err := m.ready(ctx); err != nil {
		return errors.Join(err, m.stop())
	}
	m.level.SetLevel(zap.WarnLevel)
	return nil
}

// watch waits for the member's end. One that ends before it is to is broken.
func (m *member) watch() {
	select {
	case <-m.closing:
	case <-m.server.Server.StopNotify():
		m.fail(errors.New("etcd has stopped"))
	case err := <-m.server.Err():
		m.fail(err)
	}
}

// explainStart says what it means that etcd cannot start because of err.
func (m *member) explainStart(err error) error {
	if m.cluster != nil {
		if err := m.cluster.explainStart(err); err != nil {
			return err
		}
	}
	if err := explainDisk(m.dir, err); weir.KindOf(err) != "" {
		return err
	}
	return fmt.Errorf("%s cannot be opened: %w: if the disk is sound, its files are damaged: put a copy in their place, or move them away to begin anew", m.dir, err)
}

// config returns settings for a data directory that lives for years on a small machine.
func (m *member) config() *embed.Config {
	c := embed.NewConfig()
	c.Name = "weir"
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.Dir = m.dir
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil

	// An election of one needs no patience: a start takes a quarter of a second at most,
	// and the ticks half a percent of a core.
	c.TickMs, c.ElectionMs = 50, 250

	c.QuotaBackendBytes = maxBytes
	c.MaxTxnOps = maxTxnOps
	c.MaxRequestBytes = maxTxnBytes
	c.BackendFreelistType = "map"

	// History serves a transaction that is under way and a follower that lags, and
	// nobody needs either for long.
	c.AutoCompactionMode = embed.CompactorModePeriodic
	c.AutoCompactionRetention = "10m"

	// The log holds what the database may not have yet; a member without peers
	// needs none of it to bring others up to date.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 1_000, 100
	c.MaxWalFiles, c.MaxSnapFiles = 2, 2

	c.WarningApplyDuration, c.WarningUnaryRequestDuration = time.Second, time.Second
	return c
}

// ready waits until the member serves, and tidies up.
func (m *member) ready(ctx context.Context) error {
	if m.cluster != nil {
		if err := m.awaitQuorum(ctx); err != nil {
			return err
		}
		m.backend.quorum, m.backend.elected = m.awaitLeader, m.server.Server.LeaderChangedNotify
		return m.disarm(ctx)
	}
	select {
	case <-m.server.Server.ReadyNotify():
	case <-m.broken:
		return m.explainStart(m.cause)
	case <-ctx.Done():
		return fmt.Errorf("start etcd: %w", ctx.Err())
	}
	_, err := call(ctx, m.backend, func(ctx context.Context) (struct{}, error) { return struct{}{}, m.tidy(ctx) })
	return err
}

// tidy removes what an earlier process left. It is for a member that is alone.
func (m *member) tidy(ctx context.Context) error {
	client := m.backend.client
	leases, err := client.Leases(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases.Leases {
		// Nobody can have a lease yet: its leader is dead, and need not be waited for.
		if _, err := client.Revoke(ctx, l.ID); err != nil {
			return err
		}
	}

	// Nobody can be in the middle of anything either: forget all history.
	head, err := client.Get(ctx, marks)
	if err != nil {
		return err
	}
	if _, err := client.Compact(ctx, head.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return err
	}
	status, err := client.Status(ctx, "")
	if err != nil {
		return err
	}
	if free := status.DbSize - status.DbSizeInUse; free > worthDefrag && free > status.DbSize/2 {
		// The client's way to do this panics in process, for want of a health service.
		if err := m.server.Server.Defragment(); err != nil {
			m.log.Warn("store not defragmented", "dir", m.dir, "free", free, "err", err)
		}
	}
	if status.DbSizeInUse < maxBytes*9/10 {
		_, err = client.AlarmDisarm(ctx, &clientv3.AlarmMember{}) // of the quota
	}
	return err
}

// stop stops the member. One that is broken stays as it is: to stop it would write.
func (m *member) stop() error {
	if m.isBroken() {
		return explainDisk(m.dir, m.cause)
	}
	m.level.SetLevel(zap.FatalLevel) // it would call the end of its listeners an error
	close(m.closing)
	m.watching.Wait()
	stopped := make(chan struct{})
	go func() {
		m.backend.client.Close()
		m.server.Close()
		if m.peers != nil {
			m.peers.close()
		}
		close(stopped)
	}()
	select {
	case <-stopped:
		return nil
	case <-m.broken:
		return explainDisk(m.dir, m.cause)
	}
}

// lockDir makes dir if need be, and takes it for this process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, explainDisk(dir, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, explainDisk(dir, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := os.ReadFile(lock.Name())
			return nil, weir.Errorf(weir.Conflict, "%s is in use by process %s", dir, pid)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// Who has it is a courtesy, which a full disk need not grant.
	if lock.Truncate(0) == nil {
		_, _ = lock.WriteString(strconv.Itoa(os.Getpid()))
	}
	return lock, nil
}

// explainDisk says what err means for the files under dir, and what to do.
func explainDisk(dir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return weir.Errorf(weir.Exhausted, "no space left on the disk of %s: free some and start again; nothing that was stored is lost (%w)", dir, err)
	case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return weir.Errorf(weir.Denied, "%s cannot be written: %w", dir, err)
	default:
		return fmt.Errorf("%s cannot be used: %w", dir, err)
	}
}
