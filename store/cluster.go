package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"

	"weir/weir"
)

const (
	probeTimeout  = time.Second           // of a question to a member
	progressEvery = 3 * time.Second       // while a member waits for a quorum
	leaderless    = 2 * time.Second       // that a call waits for etcd's leader: an election takes one at most, as a rule
	leaderPoll    = 20 * time.Millisecond // meanwhile
	claimFile     = "cluster.json"        // in a member's directory: which member of which cluster has it
	peerScheme    = "https"               // of the members' addresses
	largestAnswer = 1 << 20               // bytes, of a member to a probe
	clusterTick   = 50                    // milliseconds between heartbeats of members
	clusterElect  = 500                   // milliseconds without one, after which others elect
)

// Cluster says which member of which cluster a process is to be. Members is the same on
// all hosts, and the same for as long as the members' directories live: to change it
// is to begin anew.
type Cluster struct {
	Dir  string // of this member's files
	Name string // of this member, one of Members

	// Members has the address of each member's peer port, "host:port", by name. A
	// majority of them must be up: one of 1, two of 3, three of 5.
	Members map[string]string

	// Listen is where this member's peer port listens: its address in Members if that
	// is an IP address, otherwise its port on all addresses of the host.
	Listen netip.AddrPort

	// Files in PEM by which members know each other, needed where there are several:
	// this member's certificate, for its host in Members and for servers and clients
	// alike, with its key, and the authority that signed all members'. The first two are
	// read at each handshake, so that they can be replaced while it runs.
	//
	// A certificate of that authority for another host opens nothing.
	Certificate, Key, Authority string
}

// EmbedCluster returns a store in an etcd cluster of which one member lives in this
// process, and keeps its files under c.Dir. It waits until there is a quorum, and says
// so in log every few seconds; ctx bounds the wait. Members can start in any order.
//
// Of what it listens on there is only the peer port, where the members speak mutual
// TLS: it has no port for clients. With one member in the list it is [Embed].
//
// What was said of Embed's disk holds for each member. The others go on without it, and
// it catches up when it is back. Its files must not be lost: an empty directory is not
// taken for a member that the cluster knows.
//
// A member whose disk stalls is as one that is away, until the disk goes on. Without a
// quorum, what reads or writes fails with weir.Unavailable after a few seconds, except
// for a commit that was under way: Update then waits until it knows, or ctx ends. When
// there is one again, everything goes on by itself; Done is not closed by its lack. To
// close a member without a quorum takes some seconds.
func EmbedCluster(ctx context.Context, c Cluster, log *slog.Logger) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	m := &member{dir: c.Dir, name: c.Name, log: log}
	if len(c.Members) > 1 {
		m.cluster = &c
	}
	return open(ctx, m)
}

// check returns an error if c cannot be a member.
func (c Cluster) check() error {
	if c.Members[c.Name] == "" {
		return weir.Errorf(weir.Invalid, "member %q is not among the members %s", c.Name, c.list())
	}
	if len(c.Members) == 1 {
		return nil
	}
	owners := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Members)) {
		address := c.Members[name]
		if name == "" || strings.ContainsAny(name, "=,&;+% ") {
			return weir.Errorf(weir.Invalid, "member %q: want a name of letters, digits, dots and dashes", name)
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "" || port == "0" {
			return weir.Errorf(weir.Invalid, "member %s: address %q, want host:port", name, address)
		}
		if owner := owners[address]; owner != "" {
			return weir.Errorf(weir.Invalid, "members %s and %s have one address, %s", owner, name, address)
		}
		owners[address] = name
	}
	return c.checkTLS()
}

// checkTLS returns an error if the other members would not speak with this one.
func (c Cluster) checkTLS() error {
	if c.Certificate == "" || c.Key == "" || c.Authority == "" {
		return weir.Errorf(weir.Invalid, "member %s: want a certificate, its key, and the authority of all members", c.Name)
	}
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return weir.Errorf(weir.Invalid, "certificate %s of member %s: %w", c.Certificate, c.Name, err)
	}
	authority, err := os.ReadFile(c.Authority)
	if err != nil {
		return weir.Errorf(weir.Invalid, "authority of the members: %w", err)
	}
	roots, chain := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return weir.Errorf(weir.Invalid, "authority of the members: %s holds no certificate", c.Authority)
	}
	for _, der := range pair.Certificate[1:] {
		if link, err := x509.ParseCertificate(der); err == nil {
			chain.AddCert(link)
		}
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: chain, DNSName: c.host(c.Name), KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return weir.Errorf(weir.Invalid, "certificate %s of member %s: %w", c.Certificate, c.Name, err)
		}
	}
	return nil
}

// list returns the members as a user writes them.
func (c Cluster) list() string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(c.Members)) {
		list = append(list, name+"="+c.Members[name])
	}
	return strings.Join(list, ",")
}

// host returns the host of a member.
func (c Cluster) host(name string) string {
	host, _, err := net.SplitHostPort(c.Members[name])
	if err != nil {
		return c.Members[name]
	}
	return host
}

func (c Cluster) url(name string) url.URL { return url.URL{Scheme: peerScheme, Host: c.Members[name]} }

// hostOf returns the host and port of a URL of etcd's.
func hostOf(address string) string {
	if _, host, ok := strings.Cut(address, "://"); ok {
		return host
	}
	return address
}

// listen returns where the peer port listens. etcd takes no name for it.
func (c Cluster) listen() string {
	if c.Listen.IsValid() {
		return c.Listen.String()
	}
	if net.ParseIP(c.host(c.Name)) != nil {
		return c.Members[c.Name]
	}
	_, port, _ := net.SplitHostPort(c.Members[c.Name])
	return net.JoinHostPort("::", port)
}

// configure makes of the settings of a member that is alone those of one of several.
func (c Cluster) configure(config *embed.Config) error {
	var all, hosts []string
	for _, name := range slices.Sorted(maps.Keys(c.Members)) {
		at := c.url(name)
		all = append(all, name+"="+at.String())
		hosts = append(hosts, c.host(name))
	}
	config.Name, config.InitialCluster, config.InitialClusterToken = c.Name, strings.Join(all, ","), "weir"
	config.AdvertisePeerUrls = []url.URL{c.url(c.Name)}
	config.ListenPeerUrls = []url.URL{{Scheme: peerScheme, Host: c.listen()}}
	config.TlsMinVersion = string(tlsutil.TLSVersion13)
	config.PeerTLSInfo = transport.TLSInfo{
		CertFile: c.Certificate, KeyFile: c.Key, TrustedCAFile: c.Authority,
		ClientCertAuth: true,
		// The authority may sign for others too, nodes for example: they are no members.
		AllowedHostnames: hosts,
		// Whoever has a member's key is that member, from whichever of its host's addresses.
		SkipClientSANVerify: true,
	}

	config.TickMs, config.ElectionMs = clusterTick, clusterElect
	config.PreVote = true // who comes back after a partition does not make the others elect

	// A member that was away for a while is brought up to date from the log, rather than
	// by a copy of the whole database.
	config.SnapshotCatchUpEntries = 5_000
	config.BootstrapDefragThresholdMegabytes = worthDefrag >> 20

	gate, ok := config.ServerFeatureGate.(featuregate.MutableFeatureGate)
	if !ok {
		return errors.New("etcd's features cannot be set")
	}
	// Members compare what they hold: at their start, and whenever history is compacted.
	return gate.Set("InitialCorruptCheck=true,CompactHashCheck=true")
}

// explainStart says what it means that a member cannot start because of err; nil if that
// has nothing to do with there being several.
func (c Cluster) explainStart(err error) error {
	var network *net.OpError
	switch {
	case errors.As(err, &network):
		return fmt.Errorf("member %s: peer port: %w", c.Name, err)
	case strings.Contains(err.Error(), "already been bootstrapped"):
		return weir.Errorf(weir.Conflict, "the cluster knows the member %s already, but %s holds no files of it: put them back; if they are lost, begin the cluster anew", c.Name, c.Dir)
	case strings.Contains(err.Error(), "data inconsistency"):
		return weir.Errorf(weir.Conflict, "what the member %s has under %s is not what the other members have: %w", c.Name, c.Dir, err)
	default:
		return nil
	}
}

// claim is what a member's directory says of whose it is.
type claim struct {
	Name    string            `json:"name"`
	Members map[string]string `json:"members"`
}

func (c claim) String() string {
	return fmt.Sprintf("the member %s of %s", c.Name, Cluster{Members: c.Members}.list())
}

// claimDir takes dir for a member of c, or if that is nil for one that is alone. It
// returns an error of kind weir.Conflict if it is that of another one: etcd itself
// goes by what it finds there, whatever it was told.
func claimDir(dir string, c *Cluster) error {
	const remedy = "start it with these, or give it another directory"
	file := filepath.Join(dir, claimFile)
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return explainDisk(dir, err)
	}
	if err == nil {
		var was claim
		if err := json.Unmarshal(data, &was); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if c == nil {
			return weir.Errorf(weir.Conflict, "%s is that of %s, not that of a member alone: %s", dir, was, remedy)
		}
		if is := (claim{c.Name, c.Members}); is.Name != was.Name || !maps.Equal(is.Members, was.Members) {
			return weir.Errorf(weir.Conflict, "%s is that of %s, not that of %s: %s", dir, was, is, remedy)
		}
		return nil
	}
	if c == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "member")); err == nil {
		return weir.Errorf(weir.Conflict, "%s is that of a member alone, not that of %s: %s", dir, claim{c.Name, c.Members}, remedy)
	}
	data, err = json.MarshalIndent(claim{c.Name, c.Members}, "", "\t")
	if err != nil {
		return err
	}
	if err := writeFile(file, append(data, '\n')); err != nil {
		return explainDisk(dir, err)
	}
	return nil
}

// writeFile writes a file that is there whole, or not at all, and once it returns for good.
func writeFile(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// awaitQuorum waits until a majority of the members is there, and says what it waits for.
func (m *member) awaitQuorum(ctx context.Context) error {
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	need := len(m.cluster.Members)/2 + 1
	for {
		select {
		case <-m.server.Server.ReadyNotify():
			return nil
		case <-m.broken:
			return m.explainStart(m.cause)
		case <-ctx.Done():
			return fmt.Errorf("wait for %d of %d members: %w", need, len(m.cluster.Members), ctx.Err())
		case <-ticker.C:
			there, missing, strange := m.peers.census(ctx)
			attrs := []any{"member", m.cluster.Name, "need", need, "there", strings.Join(there, ","), "missing", strings.Join(missing, ",")}
			if len(strange) > 0 {
				attrs = append(attrs, "of another cluster", strings.Join(strange, ","))
			}
			m.log.Info("store waits for a quorum", attrs...)
		}
	}
}

// awaitLeader waits, for a moment, until etcd has a leader, as far as this member knows:
// one that is cut off from the others has none after an election's time.
func (m *member) awaitLeader(ctx context.Context) error {
	for began := time.Now(); m.server.Server.Leader() == 0; {
		if time.Since(began) > leaderless {
			n := len(m.cluster.Members)
			return weir.Errorf(weir.Unavailable, "the store has no quorum: fewer than %d of its %d members reach each other", n/2+1, n)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(leaderPoll):
		}
	}
	return nil
}

// disarm takes back that this member had reached its quota, if it has room again.
func (m *member) disarm(ctx context.Context) error {
	_, err := call(ctx, m.backend, func(ctx context.Context) (struct{}, error) {
		status, err := m.backend.client.Status(ctx, "")
		if err == nil && status.DbSizeInUse < maxBytes*9/10 {
			_, err = m.backend.client.AlarmDisarm(ctx, &clientv3.AlarmMember{
				MemberID: uint64(m.server.Server.MemberID()), Alarm: etcdserverpb.AlarmType_NOSPACE,
			})
		}
		return struct{}{}, err
	})
	if err != nil && ctx.Err() == nil && m.backend.Err() == nil {
		// A quorum that was there is gone again: the store is none the worse.
		m.log.Warn("store's quota not looked at", "dir", m.dir, "err", err)
		return nil
	}
	return err
}

// Member is one of those that keep a store.
type Member struct {
	Name    string
	Address string // of its peer port; "" if it has none
	Self    bool   // it is in this process
	Up      bool   // it answered just now
	Leads   bool   // it orders the commits of all, in etcd; not to be confused with Store.Leader
}

// Members returns the members that keep the store, by name, as seen from this process,
// within a second or two. Commits are made as long as most of them are up and reach each
// other.
func (s *Store) Members(ctx context.Context) ([]Member, error) { return s.backend.Members(ctx) }

// members returns this member and its peers.
func (m *member) members(ctx context.Context) ([]Member, error) {
	if m.cluster == nil {
		return []Member{{Name: m.name, Self: true, Up: true, Leads: true}}, nil
	}
	there, _, _ := m.peers.census(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	leader := "" // of etcd
	if known := m.server.Server.Cluster().Member(m.server.Server.Leader()); known != nil {
		leader = known.Name
	}
	var members []Member
	for name, address := range m.cluster.Members {
		up := slices.Contains(there, name)
		members = append(members, Member{name, address, name == m.cluster.Name, up, up && name == leader})
	}
	return members, nil
}

// peers asks the other members of a cluster whether they are there.
type peers struct {
	cluster Cluster
	client  *http.Client
}

func newPeers(c Cluster, info transport.TLSInfo) (*peers, error) {
	config, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("certificates of member %s: %w", c.Name, err)
	}
	return &peers{c, &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: probeTimeout}}, nil
}

func (p *peers) close() { p.client.CloseIdleConnections() }

// census returns the names of the members that answer, of those that do not, and of
// those that answer but have other peers. It takes as long as the slowest.
func (p *peers) census(ctx context.Context) (there, missing, strange []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name := range p.cluster.Members {
		wg.Go(func() {
			list, err := p.ask(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				missing = append(missing, name)
			case !maps.Equal(list, p.cluster.Members):
				strange = append(strange, name)
			default:
				there = append(there, name)
			}
		})
	}
	wg.Wait()
	slices.Sort(there)
	slices.Sort(missing)
	slices.Sort(strange)
	return there, missing, strange
}

// ask asks a member for the list of members that it has.
func (p *peers) ask(ctx context.Context, name string) (map[string]string, error) {
	if name == p.cluster.Name {
		return p.cluster.Members, nil
	}
	at := p.cluster.url(name)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.JoinPath("members").String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", name, answer.Status)
	}
	var list []struct {
		Name string   `json:"name"`
		URLs []string `json:"peerURLs"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, largestAnswer)).Decode(&list); err != nil {
		return nil, fmt.Errorf("%s answers: %w", name, err)
	}
	members := map[string]string{}
	for _, m := range list {
		if len(m.URLs) == 1 {
			members[m.Name] = hostOf(m.URLs[0])
		}
	}
	return members, nil
}
