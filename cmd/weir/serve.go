package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"weir/api"
	"weir/control"
	"weir/edge"
	"weir/metrics"
	"weir/nodeapi"
	"weir/pki"
	"weir/secrets"
	"weir/store"
	"weir/web"
	"weir/weir"
)

// peerPort is where the members of a control plane reach one another.
const peerPort = "7074"

// maxMembers is how many members a control plane may have. With three one may fail, with
// five two; an even number adds one that can fail and none that may.
const maxMembers = 5

// serve is what the flags of weir serve say.
type serve struct {
	data       string
	region     string
	listen     string
	nodeListen string
	advertise  string
	cluster    []string
	pki        string
	secrets    string
	tlsCert    string
	tlsKey     string
	perHour    int
	perMinute  int
	acme       authority
	config     []string
	provider   provider

	out io.Writer
	log *slog.Logger
}

func serveCommand() *cobra.Command {
	var s serve
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a control plane for machines of your own, or in a cloud's region",
		Long: `Run the control plane of load balancers: alone on
one host, or as one of three or five members, each on its own host with the same
--cluster. Most of the members must be up for anything to be decided, so that one of three
or two of five may fail; what the nodes serve goes on without any.

Without --cloud there is no cloud: machines of your own join by weir node token. With --cloud digitalocean
machines are droplets, which Weir makes and destroys, and addresses are reserved IPs.
Load balancers and pools are made by weir apply -f. The API is
plain HTTP on loopback and TLS on any other address. It limits how often each token may
call, but for that of the data directory on this host itself.`,
		Example: `  weir serve
  weir serve --cluster 192.0.2.11,192.0.2.12,192.0.2.13 --listen :7070
  weir serve --cloud digitalocean --digitalocean-token /etc/weir/digitalocean.token --region nyc3
  weir install serve                  # as a service of systemd`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.out = cmd.OutOrStdout()
			s.log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			outliveReader()
			return s.run(cmd.Context())
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

func (s *serve) flags(f *pflag.FlagSet) {
	f.StringVar(&s.data, "data", "/var/lib/weir/serve", "`directory` in which everything of this member lives")
	f.StringVar(&s.region, "region", "own1", "`name` of the region; with --cloud one of the provider's, such as nyc3")
	f.StringVar(&s.listen, "listen", "127.0.0.1:7070", "`address` of the API")
	f.StringVar(&s.nodeListen, "node-listen", ":"+nodePort, "`address` where nodes connect")
	f.StringVar(&s.advertise, "advertise", "", "the `address` of this host for nodes and other members; its only one if it has one")
	f.StringSliceVar(&s.cluster, "cluster", nil, "the `addresses` of all members, this one included, separated by commas")
	f.StringVar(&s.pki, "pki", "", "`directory` of the authority that all members share; pki in the data directory if empty")
	f.StringVar(&s.secrets, "secrets", "", "`file` with the keys that seal private keys in the store, the same for all members; secrets.key beside the authority if empty")
	f.StringVar(&s.tlsCert, "tls-cert", "", "`file` with a certificate for the API, instead of one of Weir's own")
	f.StringVar(&s.tlsKey, "tls-key", "", "`file` with its key")
	f.IntVar(&s.perHour, "rate-limit-hour", edge.DefaultPerHour, "how many `requests` a token has in any hour, 0 for any number; the same at all members")
	f.IntVar(&s.perMinute, "rate-limit-minute", edge.DefaultPerMinute, "how many `requests` a token has in any minute, 0 for any number")
	f.StringSliceVar(&s.config, "config", nil, "`files` like weir.yaml, whose key haproxy has the operator's own lines for the load balancer; read at the start and at SIGUSR1")
	s.acme.flags(f)
	s.provider.flags(f)
}

// plan is what the flags come to.
type servePlan struct {
	self    netip.Addr
	members []netip.Addr // self alone, or all of the cluster
	nodes   []string     // where nodes reach the members: URLs, self's first
	tls     bool         // of the API
}

// run checks what could be in the way before it makes anything, then serves.
func (s *serve) run(ctx context.Context) error {
	plan, err := s.plan()
	if err != nil {
		return err
	}
	issuer, records, err := s.acme.open(nil)
	if err != nil {
		return err
	}
	own := snippets{files: s.config, log: s.log}
	if _, err := own.read(ctx); err != nil {
		return err
	}
	if s.data, err = openData(s.data, "a control plane's"); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	unlock, err := lockData(s.data, "serve")
	if err != nil {
		return err
	}
	defer unlock()
	ca, err := s.authority(plan)
	if err != nil {
		return err
	}
	keys, err := s.keys(plan)
	if err != nil {
		return err
	}
	region, poll, err := s.provider.open(ctx, s.region, ca.Fingerprint(), len(plan.members), s.log)
	if err != nil {
		return err
	}
	apiListener, err := listen(ctx, "--listen", s.listen)
	if err != nil {
		return err
	}
	defer apiListener.Close()
	nodeListener, err := listen(ctx, "--node-listen", s.nodeListen)
	if err != nil {
		return err
	}
	defer nodeListener.Close()
	err = s.serve(ctx, plan, control.Options{Region: s.region, Cloud: region, Poll: poll, Log: s.log, Secrets: keys,
		Authority: issuer, Email: s.acme.email, Records: records}, ca, apiListener, nodeListener)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // it was told to stop, and did
	}
	return err
}

// plan returns what the flags come to, or what is wrong with them.
func (s *serve) plan() (p servePlan, err error) {
	// A region is a label in names and in the API's words, as a machine's name is.
	if err := weir.CheckName(s.region); err != nil {
		return p, usageErrorf("--region: %w", err)
	}
	if err := s.provider.check(); err != nil {
		return p, err
	}
	if (s.tlsCert == "") != (s.tlsKey == "") {
		return p, usageErrorf("--tls-cert and --tls-key belong together, and one of them is missing")
	}
	if s.perHour < 0 {
		return p, usageErrorf("--rate-limit-hour is %d, want a number from 1, or 0 for no limit", s.perHour)
	}
	if s.perMinute < 0 {
		return p, usageErrorf("--rate-limit-minute is %d, want a number from 1, or 0 for no limit", s.perMinute)
	}
	for _, text := range s.cluster {
		addr, err := netip.ParseAddr(text)
		if err != nil || !addr.IsValid() || addr.IsUnspecified() {
			return p, usageErrorf("--cluster has %q, want the addresses of all members, such as 192.0.2.11,192.0.2.12,192.0.2.13", text)
		}
		if slices.Contains(p.members, addr) {
			return p, usageErrorf("--cluster has %s twice", addr)
		}
		p.members = append(p.members, addr)
	}
	if n := len(p.members); n > maxMembers {
		return p, usageErrorf("--cluster has %d members, want at most %d: each change is made on most of them", n, maxMembers)
	}
	if p.self, err = s.self(p.members); err != nil {
		return p, err
	}
	if len(p.members) == 0 {
		p.members = []netip.Addr{p.self}
	}
	if !slices.Contains(p.members, p.self) {
		return p, usageErrorf("--advertise %s is not among the members of --cluster %s", p.self, strings.Join(s.cluster, ","))
	}
	_, port, err := net.SplitHostPort(s.nodeListen)
	if err != nil || port == "" || port == "0" {
		return p, usageErrorf("--node-listen is %q, want an address such as :7071", s.nodeListen)
	}
	host, _, err := net.SplitHostPort(s.listen)
	if err != nil {
		return p, usageErrorf("--listen is %q, want an address such as 127.0.0.1:7070", s.listen)
	}
	ip, err := netip.ParseAddr(host)
	p.tls = s.tlsCert != "" || host != "localhost" && (err != nil || !ip.IsLoopback())
	p.nodes = []string{"https://" + net.JoinHostPort(p.self.String(), port)}
	for _, m := range p.members {
		if m != p.self {
			p.nodes = append(p.nodes, "https://"+net.JoinHostPort(m.String(), port))
		}
	}
	return p, nil
}

// self returns the address of this host as nodes and other members reach it.
func (s *serve) self(members []netip.Addr) (netip.Addr, error) {
	if s.advertise != "" {
		self, err := netip.ParseAddr(s.advertise)
		if err != nil || self.IsUnspecified() {
			return self, usageErrorf("--advertise is %q, want an address of this host such as 192.0.2.11", s.advertise)
		}
		return self, nil
	}
	ours, err := hostAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	mine := slices.DeleteFunc(slices.Clone(members), func(m netip.Addr) bool { return !slices.Contains(ours, m) })
	switch {
	case len(mine) == 1:
		return mine[0], nil
	case len(members) > 0 && len(mine) == 0:
		return netip.Addr{}, usageErrorf("none of --cluster %s is an address of this host, which has %s", strings.Join(s.cluster, ","), addrList(ours))
	case len(members) == 0 && len(ours) == 1:
		return ours[0], nil
	}
	return netip.Addr{}, usageErrorf("this host has several addresses: say with --advertise which of them nodes and other members reach it at: %s", addrList(ours))
}

// hostAddrs returns the addresses of this host that others may reach it at.
func hostAddrs() (addrs []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs, nil
}

// addrList returns addresses as a person would list them.
func addrList(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "none"
	}
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}

// authority returns the authority that nodes and members know the control plane by. One
// member alone makes it; several must have been given the same.
func (s *serve) authority(plan servePlan) (*pki.CA, error) {
	dir := s.authorityDir()
	open := pki.Open
	if len(plan.members) > 1 {
		open = pki.Load
	}
	ca, err := open(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("serve: there is no authority in %s, and all members must have the same: make it once with `weir pki create --pki %s`, and copy that directory to the other members", dir, dir)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("serve: %w: it must belong to the user that weir serve runs as", err)
	case err != nil:
		return nil, fmt.Errorf("serve: %w", err)
	}
	return ca, nil
}

// authorityDir returns where the authority is.
func (s *serve) authorityDir() string { return cmp.Or(s.pki, filepath.Join(s.data, "pki")) }

// keys returns the keys that seal private keys in the store. One member alone makes them; several
// must have been given the same.
func (s *serve) keys(plan servePlan) (*secrets.Keys, error) {
	file := cmp.Or(s.secrets, filepath.Join(s.authorityDir(), secrets.FileName))
	open := secrets.Open
	if len(plan.members) > 1 {
		open = secrets.Load
	}
	keys, err := open(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("serve: there is no %s, and all members must have the same: `weir pki create` makes one beside the authority, to be copied with it", file)
	case err != nil:
		return nil, fmt.Errorf("serve: %w", err)
	}
	return keys, nil
}

// serve runs the control plane, which o is for, until ctx or a part of it ends.
func (s *serve) serve(ctx context.Context, plan servePlan, o control.Options, ca *pki.CA, apiListener, nodeListener net.Listener) error {
	p := newProgress(s.out)
	p.say("weir %s, data in %s", weir.Version, s.data)
	watchdog := newWatchdog(s.log)
	defer watchdog.stop()
	watchdog.ready("starting")

	db, renew, err := s.openStore(ctx, plan, ca, p, watchdog)
	if err != nil {
		return err
	}
	defer db.Close()

	parts, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer parts.Wait() // before the store is closed
	defer cancel()
	parts.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-db.Done():
			return db.Err()
		}
	})
	parts.Go(func() error { return renew(ctx) })
	o.Store, o.NodeURL, o.Members, o.NodeCA = db, plan.nodes[0], plan.nodes, ca.PEM()
	o.Dial = new(net.Dialer).DialContext
	o.Prober, o.From = control.NewProber(o.Dial), plan.members
	ctl := control.New(o)
	parts.Go(func() error { return ctl.Run(ctx) })
	tokenFile := filepath.Join(s.data, "token")
	secret, err := admitFirst(ctx, ctl, "serve "+plan.self.String(), tokenFile)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err) // a part that failed is why
	}
	own := snippets{s.config, ctl, s.log}
	if err := own.set(ctx); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	parts.Go(func() error { return own.run(ctx) })
	self := plan.self.String()
	parts.Go(func() error { return nodeapi.Serve(ctx, nodeListener, ctl, ca, []string{self}, s.log) })

	door, err := s.door(plan, ca, apiListener)
	if err != nil {
		return err
	}
	limits, err := limitsOf(ctl, tokenFile, s.perHour, s.perMinute, s.log)
	if err != nil {
		return err
	}
	parts.Go(func() error { return limits.Run(ctx) })
	handler := api.New(api.Options{Control: ctl, Users: edge.NewTokens(ctl), Limits: limits, Log: s.log, Page: web.New(ctl, s.log), Docs: web.NewDocs(api.OpenAPI(), s.log), Metrics: metrics.New(ctl, s.log)})
	parts.Go(func() error { return serveHTTP(ctx, door.listener, handler, s.log) })
	watchdog.watch(func(ctx context.Context) error { return door.knock(ctx) })

	unpublish, err := publish("serve", record{Kind: "weir serve", API: door.url, Data: s.data, TokenFile: tokenFile, CAFile: door.caFile})
	if err != nil {
		s.log.Warn("verbs on this host need --api, --token-file and --ca", "err", err)
		unpublish = func() {}
	}
	defer unpublish()
	p.step("control plane", "API %s/, nodes %s", door.url, plan.nodes[0])
	p.say("")
	p.token(secret, tokenFile, beside(door.caFile))
	if door.caFile != "" {
		p.say("The fingerprint of that is %s", ca.Fingerprint())
	}
	if s.provider.cloud == "" {
		p.say("A machine joins by the token that `weir node token NAME` prints. Ctrl-C stops the control plane.")
	} else {
		p.say("Machines are made in %s's region %s. Ctrl-C stops the control plane, and no machine.", s.provider.cloud, s.region)
	}
	watchdog.ready("serving " + door.url)
	return parts.Wait()
}

func beside(caFile string) string {
	if caFile == "" {
		return ""
	}
	return ", the authority's certificate in " + caFile
}

// admitFirst makes the token in a file of the data directory good on every member, under a
// name, and returns it if it was made just now.
func admitFirst(ctx context.Context, ctl *control.Control, name, file string) (made string, err error) {
	token, isNew, err := edge.OpenToken(file)
	if err != nil {
		return "", err
	}
	if isNew {
		made = token
	}
	return made, ctl.SetToken(ctx, name, weir.SecretSum(token))
}

// token says which token opens the API. One that was just made is printed this once, unless
// what is printed goes into the system's log.
func (p *progress) token(made, file, beside string) {
	if made != "" && os.Getenv("JOURNAL_STREAM") == "" {
		p.say("The first token, printed this once: %s", made)
	}
	p.say("The token is in %s%s.", file, beside)
}

// limitsOf returns how often callers may call. Whoever can read the token in the data directory
// is not limited on this host: they wait and watch with it.
func limitsOf(ctl *control.Control, tokenFile string, perHour, perMinute int, log *slog.Logger) (*edge.Limits, error) {
	token, err := edge.ReadToken(tokenFile)
	if err != nil {
		return nil, err
	}
	return edge.NewLimits(ctl, edge.LimitOptions{PerHour: perHour, PerMinute: perMinute, Operator: token, Log: log}), nil
}

// openStore opens this member's store, and returns how its certificate is kept valid.
func (s *serve) openStore(ctx context.Context, plan servePlan, ca *pki.CA, p *progress, w *watchdog) (db *store.Store, renew func(context.Context) error, err error) {
	dir := filepath.Join(s.data, "store")
	if len(plan.members) == 1 {
		if db, err = store.Embed(ctx, dir, s.log); err != nil {
			return nil, nil, err
		}
		p.step("store", "etcd, embedded")
		return db, func(context.Context) error { return nil }, nil
	}
	files, err := openMemberFiles(s.data, ca, plan.self)
	if err != nil {
		return nil, nil, err
	}
	c := store.Cluster{Dir: dir, Name: plan.self.String(), Members: map[string]string{},
		Listen:      netip.MustParseAddrPort(net.JoinHostPort(plan.self.String(), peerPort)),
		Certificate: files.certificate, Key: files.key, Authority: files.authority}
	for _, m := range plan.members {
		c.Members[m.String()] = net.JoinHostPort(m.String(), peerPort)
	}
	p.step("store", "etcd, embedded, member %s of %s", plan.self, addrList(plan.members))
	w.ready("waiting for most of the members " + addrList(plan.members))
	if db, err = store.EmbedCluster(ctx, c, s.log); err != nil {
		return nil, nil, err
	}
	p.step("store", "most of the members are up")
	return db, func(ctx context.Context) error { return files.renew(ctx, s.log) }, nil
}

// listen listens on an address that a flag names.
func listen(ctx context.Context, flag, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s: another process has this address: stop it, or give another %s", flag, addr, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, addr, err)
	}
	return ln, nil
}
