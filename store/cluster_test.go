package store_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/store"
	"weir/store/storetest"
	"weir/weir"
)

// authority is a certificate authority of a test's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

// sign writes a certificate for an IP address or a name, with its key and the authority,
// under dir.
func (a *authority) sign(dir, host string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	write := func(name, kind string, der []byte) error {
		return os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	}
	return errors.Join(os.MkdirAll(dir, 0o700), write("cert.pem", "CERTIFICATE", der),
		write("key.pem", "PRIVATE KEY", secret), write("ca.pem", "CERTIFICATE", a.cert.Raw))
}

// with returns c with the certificate that sign wrote under dir.
func with(c store.Cluster, dir string) store.Cluster {
	c.Certificate, c.Key, c.Authority = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")
	return c
}

// region is a cluster of members on ports of 127.0.0.1.
type region struct {
	dir       string
	authority *authority
	members   map[string]store.Cluster
	log       *slog.Logger
}

func newRegion(dir string, log *slog.Logger, names ...string) (*region, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	addresses := map[string]string{}
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // not before all have one
		addresses[name] = l.Addr().String()
	}
	r := &region{dir, ca, map[string]store.Cluster{}, log}
	for _, name := range names {
		tls := filepath.Join(dir, name+".tls")
		if err := ca.sign(tls, "127.0.0.1"); err != nil {
			return nil, err
		}
		r.members[name] = with(store.Cluster{Dir: filepath.Join(dir, name), Name: name, Members: addresses}, tls)
	}
	return r, nil
}

// start starts members and returns their stores, in order.
func (r *region) start(ctx context.Context, names ...string) ([]*store.Store, error) {
	stores, errs := make([]*store.Store, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { stores[i], errs[i] = store.EmbedCluster(ctx, r.members[name], r.log.With("at", name)) })
	}
	wg.Wait()
	return stores, errors.Join(errs...)
}

// testRegion is newRegion for a test.
func testRegion(t *testing.T, names ...string) *region {
	r, err := newRegion(t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil)), names...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mustStart is start for a test, which closes what it started at its end.
func (r *region) mustStart(t *testing.T, names ...string) []*store.Store {
	t.Helper()
	stores, err := r.start(limited(t), names...)
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, s := range stores {
			if s != nil {
				wg.Go(func() { s.Close() })
			}
		}
		wg.Wait()
	})
	if err != nil {
		t.Fatal(err)
	}
	return stores
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until tries f until it returns nil.
func until(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// etcdLeader returns which member is etcd's leader.
func etcdLeader(ctx context.Context, s *store.Store) (string, error) {
	members, err := s.Members(ctx)
	if err != nil {
		return "", err
	}
	for _, m := range members {
		if m.Leads {
			return m.Name, nil
		}
	}
	return "", fmt.Errorf("etcd has no leader among %v", members)
}

// makeEtcdLeader makes a member etcd's leader. stores are those in this process, by
// name, and tell tells a leader elsewhere to hand over.
func makeEtcdLeader(ctx context.Context, stores map[string]*store.Store, name string, tell func() error) error {
	one := stores[slices.Sorted(maps.Keys(stores))[0]]
	return until(ctx, func() error {
		leader, err := etcdLeader(ctx, one)
		if err != nil || leader == name {
			return err
		}
		move := tell
		if s := stores[leader]; s != nil {
			move = func() error { return store.MoveLeader(ctx, s, name) }
		}
		return errors.Join(move(), fmt.Errorf("etcd's leader is %s", leader))
	})
}

func things() store.Table[string] { return store.NewTable[string]("things") }

func put(ctx context.Context, s *store.Store, key weir.ID, row string) error {
	return s.Update(ctx, func(tx *store.Tx) error { things().Put(tx, key, row); return nil })
}

// TestMemberOfACluster holds to the contract a member that comes and goes, while the
// other two stay.
func TestMemberOfACluster(t *testing.T) {
	r := testRegion(t, "a", "b", "c")
	stays := r.mustStart(t, "a", "b")[0]
	storetest.Run(t, func(t *testing.T) *store.Store {
		if err := store.Clear(t.Context(), stays); err != nil {
			t.Fatal(err)
		}
		return r.mustStart(t, "c")[0]
	})
}

func TestMembersStartInAnyOrder(t *testing.T) {
	r, ctx := testRegion(t, "a", "b", "c"), limited(t)
	var log buffer
	r.log = slog.New(slog.NewTextHandler(&log, nil))
	var wg sync.WaitGroup
	defer wg.Wait()
	first := make(chan *store.Store, 1)
	wg.Go(func() {
		stores, err := r.start(ctx, "c")
		if err != nil {
			t.Errorf("the first: %v", err)
		}
		first <- stores[0]
	})
	want := "msg=\"store waits for a quorum\" at=c member=c need=2 there=c missing=a,b"
	if err := until(ctx, func() error {
		if !strings.Contains(log.String(), want) {
			return fmt.Errorf("the log is %q, want %q", log.String(), want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	a := r.mustStart(t, "a")[0]
	c := <-first
	if c == nil {
		t.FailNow()
	}
	defer c.Close()
	if err := put(ctx, c, "1", "from c"); err != nil {
		t.Fatal(err)
	}
	members, err := a.Members(ctx)
	if err != nil {
		t.Fatal(err)
	}
	leads := 0
	for _, m := range members {
		if m.Leads {
			leads++
		}
		if m.Address != r.members[m.Name].Members[m.Name] || m.Self != (m.Name == "a") || m.Up != (m.Name != "b") {
			t.Errorf("got %+v, want a and c up, and a to be this process", m)
		}
	}
	if len(members) != 3 || leads != 1 {
		t.Errorf("got %+v, want three members of which one leads", members)
	}

	b := r.mustStart(t, "b")[0]
	if row, err := things().Get(ctx, b, "1"); err != nil || row != "from c" {
		t.Errorf("the last to start has %q (%v), want what was written before", row, err)
	}
	if members, err := a.Members(ctx); err != nil || !members[1].Up {
		t.Errorf("got %+v (%v), want b up", members, err)
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// leader is a child that leads "work" as the member whose settings are in dir, and says
// so. If it is etcd's leader too, it hands that over to the members that are named to it.
func leader(dir string) error {
	ctx := context.Background()
	data, err := os.ReadFile(filepath.Join(dir, "member.json"))
	if err != nil {
		return err
	}
	var c store.Cluster
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	s, err := store.EmbedCluster(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return s.Lead(ctx, "work", func(ctx context.Context, led *store.Store) error {
		if err := put(ctx, led, "1", "by the first"); err != nil {
			return err
		}
		fmt.Println("leads")
		for names := bufio.NewScanner(os.Stdin); names.Scan(); {
			// It may not be etcd's leader any more, or not yet: it is told again then.
			_ = store.MoveLeader(ctx, s, names.Text())
		}
		<-ctx.Done()
		return ctx.Err()
	})
}

func TestLeaderThatIsKilledIsFollowedByAnother(t *testing.T) {
	for _, etcdToo := range []bool{false, true} {
		t.Run(fmt.Sprintf("etcd's leader too: %v", etcdToo), func(t *testing.T) { testKill(t, etcdToo) })
	}
}

func testKill(t *testing.T, etcdToo bool) {
	r, ctx := testRegion(t, "a", "b", "c"), limited(t)
	data, err := json.Marshal(r.members["c"])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "member.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	c := child(ctx, "leader", r.dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer c.Process.Kill()
	s := r.mustStart(t, "a", "b")
	if _, err := io.ReadFull(out, make([]byte, len("leads\n"))); err != nil {
		t.Fatal(err)
	}
	leader := "a"
	if etcdToo {
		leader = "c"
	}
	tell := func() error { _, err := fmt.Fprintln(in, leader); return err }
	if err := makeEtcdLeader(ctx, map[string]*store.Store{"a": s[0], "b": s[1]}, leader, tell); err != nil {
		t.Fatal(err)
	}
	if who, _, err := s[0].Leader(ctx, "work"); err != nil || who != "c" {
		t.Errorf("%q leads (%v), want c", who, err)
	}

	var wg sync.WaitGroup
	defer wg.Wait()
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	won := make(chan string, 2)
	for i, name := range []string{"a", "b"} {
		wg.Go(func() {
			s[i].Lead(waiting, "work", func(ctx context.Context, led *store.Store) error {
				won <- name
				<-ctx.Done()
				return ctx.Err()
			})
		})
	}
	time.Sleep(300 * time.Millisecond) // they wait, as a rule, when it happens
	killed := time.Now()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := until(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return put(ctx, s[0], "2", "by a")
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("an update is made %v after the kill", time.Since(killed))
	next := <-won
	t.Logf("%s leads %v after the kill", next, time.Since(killed))
	who, since, err := s[0].Leader(ctx, "work")
	if err != nil || who != next || since.Before(killed) {
		t.Errorf("%q leads since %v (%v), want %s since the first was killed", who, since, err, next)
	}

	c.Wait()
	back := r.mustStart(t, "c")[0]
	for key, want := range map[weir.ID]string{"1": "by the first", "2": "by a"} {
		if row, err := things().Get(ctx, back, key); err != nil || row != want {
			t.Errorf("the member that was killed has %q (%v), want %q", row, err, want)
		}
	}
	if err := put(ctx, back, "3", "by c"); err != nil {
		t.Errorf("through the member that was killed: %v", err)
	}
}

func TestNothingIsDecidedWithoutAQuorum(t *testing.T) {
	r, ctx := testRegion(t, "a", "b", "c"), limited(t)
	s := r.mustStart(t, "a", "b", "c")
	a := s[0]
	if err := put(ctx, a, "1", "before"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	following, cancel := context.WithCancel(ctx)
	defer cancel()
	heard := make(chan string, 10)
	wg.Go(func() {
		for change, err := range things().Follow(following, a) {
			if err != nil {
				t.Errorf("follow: %v", err)
			} else if !change.Synced {
				heard <- change.Row
			}
		}
	})
	if got := <-heard; got != "before" {
		t.Errorf("heard %q, want what was there before", got)
	}

	err := a.Lead(ctx, "work", func(working context.Context, led *store.Store) error {
		for _, other := range s[1:] {
			if err := other.Close(); err != nil {
				t.Error(err)
			}
		}
		<-working.Done()
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := put(short, led, "1", "by the deposed"); err == nil {
			t.Error("a leader without a quorum has written")
		}
		return nil
	})
	if !errors.Is(err, weir.Denied) {
		t.Errorf("got error %v from leading without a quorum, want denied", err)
	}
	for what, f := range map[string]func() error{
		"update": func() error { return put(ctx, a, "1", "without a quorum") },
		"view": func() error {
			return a.View(ctx, func(tx *store.Tx) error { _, err := things().Get(ctx, tx, "1"); return err })
		},
		"leader": func() error { _, _, err := a.Leader(ctx, "work"); return err },
	} {
		if err := f(); !errors.Is(err, weir.Unavailable) {
			t.Errorf("%s: got error %v, want unavailable", what, err)
		}
	}
	members, err := a.Members(ctx)
	if err != nil || len(members) != 3 || !members[0].Up || members[1].Up || members[2].Up || members[0].Leads {
		t.Errorf("got members %+v (%v), want a alone to be up, and none to lead", members, err)
	}
	if err := a.Err(); err != nil {
		t.Errorf("the store is broken: %v", err)
	}

	b := r.mustStart(t, "b")[0]
	if row, err := things().Get(ctx, b, "1"); err != nil || row != "before" {
		t.Errorf("got %q (%v), want nothing to have been decided", row, err)
	}
	if err := put(ctx, b, "1", "after"); err != nil {
		t.Error(err)
	}
	if got := <-heard; got != "after" {
		t.Errorf("heard %q, want what was written after", got)
	}
	err = a.Lead(ctx, "work", func(working context.Context, led *store.Store) error { return put(working, led, "2", "led") })
	if err != nil {
		t.Errorf("lead again: %v", err)
	}
}

func TestStrangerDoesNotSpeakToTheMembers(t *testing.T) {
	r, ctx := testRegion(t, "a", "b", "c"), limited(t)
	r.mustStart(t, "a", "b")
	other, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, f := range map[string]func(dir string) error{
		"nobody":   func(string) error { return nil },
		"stranger": func(dir string) error { return other.sign(dir, "127.0.0.1") },
		"node":     func(dir string) error { return r.authority.sign(dir, "node-7") },
		"member":   func(dir string) error { return r.authority.sign(dir, "127.0.0.1") },
	} {
		if err := f(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		var certificates []tls.Certificate
		if name != "nobody" {
			of := with(store.Cluster{}, filepath.Join(dir, name))
			pair, err := tls.LoadX509KeyPair(of.Certificate, of.Key)
			if err != nil {
				t.Fatal(err)
			}
			certificates = append(certificates, pair)
		}
		roots := x509.NewCertPool()
		roots.AddCert(r.authority.cert)
		client := http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: certificates},
		}}
		answer, err := client.Get("https://" + r.members["a"].Members["a"] + "/members")
		if err == nil {
			answer.Body.Close()
		}
		if got, want := err == nil, name == "member"; got != want {
			t.Errorf("%s gets an answer: %v (%v), want %v", name, got, err, want)
		}
	}
	if answer, err := http.Get("http://" + r.members["a"].Members["a"] + "/members"); err == nil {
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			t.Error("a member answers without TLS")
		}
	}

	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := store.EmbedCluster(short, with(r.members["c"], filepath.Join(dir, "stranger")), r.log)
	if err == nil {
		s.Close()
	}
	want := "store: wait for 2 of 3 members: context deadline exceeded"
	if !errors.Is(err, context.DeadlineExceeded) || err.Error() != want {
		t.Errorf("got error %v for a member of another authority, want %q", err, want)
	}
}

func TestMemberWithUnfitSettingsIsRefused(t *testing.T) {
	r := testRegion(t, "a", "b", "c")
	other, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(a *authority, host string) string {
		dir := filepath.Join(t.TempDir(), "tls")
		if err := a.sign(dir, host); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	members := func(change func(map[string]string)) map[string]string {
		m := maps.Clone(r.members["a"].Members)
		change(m)
		return m
	}
	for _, c := range []struct {
		what   string
		change func(c *store.Cluster)
		want   string
	}{
		{"a name that is not in the list", func(c *store.Cluster) { c.Name = "d" }, `member "d" is not among the members a=`},
		{"no list", func(c *store.Cluster) { c.Members = nil }, `member "a" is not among the members`},
		{"an address without a port", func(c *store.Cluster) {
			c.Members = members(func(m map[string]string) { m["b"] = "10.0.0.1" })
		}, `member b: address "10.0.0.1", want host:port`},
		{"an address twice", func(c *store.Cluster) {
			c.Members = members(func(m map[string]string) { m["b"] = m["c"] })
		}, "members b and c have one address"},
		{"a name that etcd cannot read", func(c *store.Cluster) {
			c.Members = members(func(m map[string]string) { m["x=y"] = "10.0.0.1:1" })
		}, `member "x=y": want a name of letters`},
		{"no certificate", func(c *store.Cluster) { c.Certificate = "" }, "member a: want a certificate, its key"},
		{"no such certificate", func(c *store.Cluster) { c.Certificate += "x" }, "no such file"},
		{"an authority that is none", func(c *store.Cluster) { c.Authority = c.Key }, "holds no certificate"},
		{"a certificate for another host", func(c *store.Cluster) { *c = with(*c, sign(r.authority, "elsewhere")) }, "127.0.0.1"},
		{"a certificate of another authority", func(c *store.Cluster) {
			authority := c.Authority
			*c = with(*c, sign(other, "127.0.0.1"))
			c.Authority = authority
		}, "unknown authority"},
	} {
		config := r.members["a"]
		c.change(&config)
		s, err := store.EmbedCluster(t.Context(), config, r.log)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want invalid and %q", c.what, err, c.want)
		}
	}

	taken, err := net.Listen("tcp", r.members["a"].Members["a"])
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	want := "store: member a: peer port: listen tcp " + taken.Addr().String() + ": bind: address already in use"
	if _, err := store.EmbedCluster(t.Context(), r.members["a"], r.log); err == nil || err.Error() != want {
		t.Errorf("with a port that is taken: got error %v, want %q", err, want)
	}
}

func TestDirectoryOfAnotherMemberIsRefused(t *testing.T) {
	r, ctx := testRegion(t, "a", "b", "c"), limited(t)
	for _, s := range r.mustStart(t, "a", "b", "c") {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	a := r.members["a"]
	list := fmt.Sprintf("a=%s,b=%s,c=%s", a.Members["a"], a.Members["b"], a.Members["c"])
	const remedy = ": start it with these, or give it another directory"

	other := r.members["b"]
	other.Dir = a.Dir
	fewer := a
	fewer.Members = map[string]string{"a": a.Members["a"], "b": a.Members["b"]}
	single := a
	single.Members = map[string]string{"a": a.Members["a"]}
	alone := single
	alone.Dir = filepath.Join(r.dir, "alone")
	s, err := store.EmbedCluster(ctx, alone, r.log)
	if err != nil {
		t.Fatal(err)
	}
	if members, err := s.Members(ctx); err != nil || len(members) != 1 || members[0] != (store.Member{Name: "a", Self: true, Up: true, Leads: true}) {
		t.Errorf("got members %+v (%v), want a alone", members, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	grown := a
	grown.Dir = alone.Dir

	for _, c := range []struct {
		what   string
		config store.Cluster
		want   string
	}{
		{"another member", other, a.Dir + " is that of the member a of " + list + ", not that of the member b of " + list + remedy},
		{"another list", fewer, a.Dir + " is that of the member a of " + list + ", not that of the member a of a="},
		{"a member alone", single, a.Dir + " is that of the member a of " + list + ", not that of a member alone" + remedy},
		{"a cluster of what was alone", grown, alone.Dir + " is that of a member alone, not that of the member a of " + list + remedy},
	} {
		s, err := store.EmbedCluster(ctx, c.config, r.log)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, weir.Conflict) || !strings.HasPrefix(err.Error(), "store: "+c.want) {
			t.Errorf("%s: got error %v, want %q", c.what, err, c.want)
		}
	}

	r.mustStart(t, "a", "b")
	if err := os.RemoveAll(r.members["c"].Dir); err != nil {
		t.Fatal(err)
	}
	want := "store: the cluster knows the member c already, but " + r.members["c"].Dir + " holds no files of it"
	if _, err := r.start(ctx, "c"); !errors.Is(err, weir.Conflict) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a member that lost its files: got error %v, want %q", err, want)
	}
}
