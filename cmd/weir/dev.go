package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"gopkg.in/natefinch/lumberjack.v2"

	"weir/api"
	"weir/cloud"
	"weir/cloud/local"
	"weir/config"
	"weir/control"
	"weir/edge"
	"weir/examples"
	"weir/haproxy"
	"weir/metrics"
	"weir/nodeapi"
	"weir/pki"
	"weir/secrets"
	"weir/store"
	"weir/web"
	"weir/weir"
)

const (
	devRegion = "local1"
	maxHosts  = 16     // of a region; each has a share of one computer
	nodePort  = "7071" // where nodes reach the control plane, on the gateway's private address
)

// dev is what the flags of weir dev say.
type dev struct {
	data    string
	api     string
	front   string
	config  string
	secrets string
	fresh   bool
	hosts   int
	further []string
	acme    authority

	out io.Writer
}

func devCommand() *cobra.Command {
	var d dev
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a cloud region, a load balancer and its servers on this machine",
		Long: `Run a whole region on this machine: a control plane, a load balancer (HAProxy) and
application servers, each in a container with its own network, none of which reaches
out or can be reached but by the two addresses below.

The first start makes what --config says (an nginx example if there is no --config).
Later starts bring back what was there; change it with weir create, delete and apply.
Ctrl-C stops everything and keeps all disks.`,
		Example: `  weir dev
  weir dev --config examples/weir.yaml --data /srv/weir
  weir dev --hosts 3                  # machines are spread over three hosts
  weir dev --fresh                    # forget everything and begin anew`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.out = cmd.OutOrStdout()
			outliveReader()
			return d.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.data, "data", "/var/lib/weir/dev", "`directory` in which everything of the region lives")
	f.StringVar(&d.api, "api", "127.0.0.1:7070", "`address` of the API")
	f.StringVar(&d.front, "front", "127.0.0.1:8080", "`address` that leads to the oldest load balancer that is not internal")
	f.StringVar(&d.config, "config", "", "weir.yaml of what to make at the first start (`file`); its key haproxy, the operator's own lines, is read at each start and at SIGUSR1")
	f.StringVar(&d.secrets, "secrets", "", "`file` with the keys that seal private keys in the store; pki/secrets.key in the data directory if empty")
	f.BoolVar(&d.fresh, "fresh", false, "destroy what is in the data directory and begin anew")
	f.IntVar(&d.hosts, "hosts", 1, "`number` of hosts that the machines are spread over, of the first region; all are this computer, each with an equal share, for trying what happens when one fails (weir host fail)")
	f.StringSliceVar(&d.further, "further", nil, "further `regions` on this machine in which droplets and machines of pools can be, by name: local2,local3")
	d.acme.flags(f)
	return cmd
}

// run checks what could be in the way before it makes anything, then serves.
func (d *dev) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("dev: making machines needs root: run it with sudo")
	}
	if d.hosts < 1 || d.hosts > maxHosts {
		return usageErrorf("--hosts is %d, want 1 to %d", d.hosts, maxHosts)
	}
	app, err := d.app()
	if err != nil {
		return err
	}
	if _, _, err := d.acme.open(nil); err != nil {
		return err
	}
	if err := checkFurther(d.further); err != nil {
		return err
	}
	if _, err := haproxy.Detect(ctx, "haproxy"); err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	if _, err := d.snippets(nil, nil).read(ctx); err != nil {
		return err
	}
	if d.data, err = openData(d.data, "a region's"); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	unlock, err := lockData(d.data, "dev")
	if err != nil {
		return err
	}
	defer unlock()
	if err := endFront(d.data); err != nil {
		return err
	}
	apiListener, err := listenLoopback(ctx, "--api", d.api)
	if err != nil {
		return err
	}
	defer apiListener.Close()
	frontListener, err := listenLoopback(ctx, "--front", d.front)
	if err != nil {
		return err
	}
	defer frontListener.Close()
	if d.fresh {
		if err := d.forget(); err != nil {
			return err
		}
	}
	err = d.serve(ctx, app, apiListener, frontListener)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // it was told to stop, and did
	}
	return err
}

// openData makes a data directory and returns its whole path. One that has things in it
// which are not of its kind is refused: what has the same name as a part of ours would be
// written over, or deleted by --fresh. An authority may lie in it before all else.
func openData(dir, of string) (path string, err error) {
	if dir == "" {
		return "", errors.New("it is empty, want a directory")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	ours := func(e os.DirEntry) bool { return e.Name() == lockFile || e.Name() == "lost+found" || e.Name() == "pki" }
	if len(entries) > 0 && !slices.ContainsFunc(entries, ours) {
		return "", fmt.Errorf("%s has other things in it (%s), want a directory that is new, empty or %s", dir, entries[0].Name(), of)
	}
	return dir, nil
}

// serve runs the region until ctx or a part of it ends. What was opened is closed in
// the opposite order; but if a part of the control plane fails, by a full disk for
// example, machines and front are left as they are: traffic is not to suffer for it.
func (d *dev) serve(ctx context.Context, app *config.App, apiListener, frontListener net.Listener) (err error) {
	failed := false // a part of a region that was up
	logs := &lumberjack.Logger{Filename: filepath.Join(d.data, "weir.log"), MaxSize: 20, MaxBackups: 3}
	defer logs.Close()
	log := slog.New(slog.NewTextHandler(logs, nil))
	p := newProgress(d.out)
	p.say("weir %s, data in %s", weir.Version, d.data)

	db, err := store.Embed(ctx, filepath.Join(d.data, "store"), log)
	if err != nil {
		return err
	}
	defer db.Close()
	p.step("store", "etcd, embedded")

	regions, err := d.openRegions(ctx, log)
	if err != nil {
		return err
	}
	defer func() {
		if failed {
			p.say("the control plane has failed; machines and load balancer serve on, and the next weir dev takes over from them")
			return
		}
		p.say("stopping: machines keep their disks and come back at the next start")
		err = errors.Join(err, closeRegions(regions))
	}()
	region := regions[devRegion]
	for _, name := range append([]string{devRegion}, d.further...) {
		spread := ""
		if name == devRegion && d.hosts > 1 {
			spread = fmt.Sprintf(", %d hosts", d.hosts)
		}
		p.step("region", "%s, gateway %s%s", name, regions[name].Gateway(), spread)
	}

	parts, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer parts.Wait() // before the region and the store are closed
	defer cancel()
	parts.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-db.Done():
			return db.Err()
		}
	})
	ctl, err := d.startControl(ctx, parts, db, regions, log)
	if err != nil {
		return err
	}
	tokenFile := filepath.Join(d.data, "token")
	secret, err := admitFirst(ctx, ctl, "weir dev", tokenFile)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err) // a part that failed is why
	}
	limits, err := limitsOf(ctl, tokenFile, edge.DefaultPerHour, edge.DefaultPerMinute, log)
	if err != nil {
		return err
	}
	parts.Go(func() error { return limits.Run(ctx) })
	public, private, reserved := region.Networks()
	further := map[string]api.Further{}
	for _, name := range d.further {
		public, private, _ := regions[name].Networks()
		further[name] = api.Further{Public: public, Private: private, Public6: regions[name].PublicIPv6(), Faults: regions[name]}
	}
	handler := api.New(api.Options{Control: ctl, Users: edge.NewTokens(ctl), Limits: limits, Log: log, Faults: region, Page: web.New(ctl, log), Docs: web.NewDocs(api.OpenAPI(), log), Metrics: metrics.New(ctl, log), Public: public, Private: private, Reserved: reserved, Public6: region.PublicIPv6(), Further: further, OneHost: true})
	parts.Go(func() error { return serveHTTP(ctx, apiListener, handler, log) })
	p.step("control plane", "API http://%s/", apiListener.Addr())

	door, err := startFront(d.data, region.GatewayNamespace(), frontListener.(*net.TCPListener))
	if err != nil {
		return err
	}
	defer func() {
		if !failed {
			door.stop()
		}
	}()
	parts.Go(func() error { return door.watch(ctx, log) })
	parts.Go(func() error { return pointFront(ctx, ctl, door) })

	unpublish, err := publish("dev", record{Kind: "weir dev", API: "http://" + apiListener.Addr().String(), Data: d.data, TokenFile: tokenFile})
	if err != nil {
		return err
	}
	defer unpublish()

	own := d.snippets(ctl, log)
	if err := own.set(ctx); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	parts.Go(func() error { return own.run(ctx) })
	if err := d.begin(ctx, ctl, app, p); err != nil {
		return cmp.Or(context.Cause(ctx), err) // a part that failed is why
	}
	if d.watch(ctx, ctl, p) {
		p.say("")
		if lbs, err := ctl.LoadBalancers(ctx); err == nil && fronted(lbs) == nil {
			p.say("http://%s/   no load balancer: an internal one is reached by the region's machines alone", frontListener.Addr())
		} else {
			p.say("http://%s/   the load balancer, through its reserved IP", frontListener.Addr())
		}
		p.say("http://%s/   the API and a status page", apiListener.Addr())
		p.token(secret, tokenFile, "")
		p.say("In another terminal: weir print, weir create -n 3, weir status. Ctrl-C stops the region.")
	}
	err = parts.Wait()
	failed = err != nil
	return err
}

// startControl runs the control plane, and the door for its nodes inside the region's
// gateway, as parts.
func (d *dev) startControl(ctx context.Context, parts *errgroup.Group, db *store.Store, regions map[string]*local.Cloud, log *slog.Logger) (*control.Control, error) {
	region := regions[devRegion]
	ca, err := pki.Open(filepath.Join(d.data, "pki"))
	if err != nil {
		return nil, err
	}
	keys, err := secrets.Open(cmp.Or(d.secrets, filepath.Join(d.data, "pki", secrets.FileName)))
	if err != nil {
		return nil, err
	}
	// The region has no way out: an authority for it is inside of its gateway, and has an address for a name.
	issuer, records, err := d.acme.open(region.Dial)
	if err != nil {
		return nil, err
	}
	gateway := region.Gateway().String()
	addr := net.JoinHostPort(gateway, nodePort)
	ln, err := region.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for nodes on %s: %w", addr, err)
	}
	further := map[string]cloud.Region{}
	for _, name := range d.further {
		further[name] = regions[name]
	}
	ctl := control.New(control.Options{Region: devRegion, Store: db, Cloud: region, Further: further, Log: log,
		NodeURL: "https://" + addr, NodeCA: ca.PEM(), Poll: 250 * time.Millisecond, Secrets: keys,
		Authority: issuer, Email: d.acme.email, Records: records,
		Prober: control.NewProber(region.Dial), Dial: region.Dial, From: region.Doors()})
	parts.Go(func() error { return ctl.Run(ctx) })
	parts.Go(func() error { return nodeapi.Serve(ctx, ln, ctl, ca, []string{gateway}, log) })
	return ctl, nil
}

// serveHTTP serves h on ln until ctx ends.
func serveHTTP(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),

		// h answers OPTIONS of everything too, with the headers of all answers.
		DisableGeneralOptionsHandler: true,
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// app reads what the first start is to make.
func (d *dev) app() (*config.App, error) {
	var app *config.App
	var err error
	if d.config == "" {
		app, err = config.LoadFS(examples.FS, "weir.yaml")
	} else {
		app, err = config.Load(d.config)
	}
	if err != nil {
		return nil, err
	}
	return app, app.In(devRegion, d.further...)
}

// snippets are those of --config.
func (d *dev) snippets(ctl *control.Control, log *slog.Logger) *snippets {
	own := &snippets{ctl: ctl, log: log}
	if d.config != "" {
		own.files = []string{d.config}
	}
	return own
}

// forget removes all that the data directory has of a region.
func (d *dev) forget() error {
	dirs, err := filepath.Glob(d.furtherDir("*"))
	if err != nil {
		return fmt.Errorf("--fresh: %w", err)
	}
	for _, dir := range append(dirs, filepath.Join(d.data, "cloud")) {
		if err := local.Destroy(dir); err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	entries, err := os.ReadDir(d.data)
	if err != nil {
		return fmt.Errorf("--fresh: %w", err)
	}
	for _, e := range entries {
		if e.Name() == lockFile || e.Name() == "lost+found" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(d.data, e.Name())); err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	return nil
}

// begin makes what app says if the region is new. A region that is not new is as its
// users left it: a count that they have changed since is not changed back.
func (d *dev) begin(ctx context.Context, ctl *control.Control, app *config.App, p *progress) error {
	pools, err := ctl.Pools(ctx)
	if err != nil {
		return err
	}
	if len(pools) == 0 {
		_, err := ctl.Apply(ctx, app.Pool, app.LoadBalancer, false)
		return err
	}
	if d.config == "" {
		return nil
	}
	if login := app.LoadBalancer.Policy.Handling.Login; login != nil {
		named, _, err := ctl.LoadBalancerPage(ctx, weir.Filter{Name: app.LoadBalancer.Name}, 0, 1)
		if err != nil {
			return err
		}
		for _, lb := range named {
			login.Keep(lb.Policy.Handling.Login, app.Passwords)
		}
	}
	changes, err := ctl.Apply(ctx, app.Pool, app.LoadBalancer, true)
	if err == nil && len(changes) > 0 {
		p.say("the region is as it was left; `weir apply -f %s` would change:", d.config)
		for _, c := range changes {
			p.say("  %s", c)
		}
	}
	return err
}

// watch shows how the region comes up, until every load balancer and machine is as it
// should be or says why it cannot be. It reports whether all is well.
func (d *dev) watch(ctx context.Context, ctl *control.Control, p *progress) (well bool) {
	told := map[weir.ID]bool{}
	var first map[weir.ID]bool // the machines of this start; users may add more meanwhile
	for {
		s, err := ctl.Status(ctx)
		if err != nil {
			return false // ctx has ended, or the store: run says which
		}
		waits := first == nil
		if first == nil && !slices.ContainsFunc(s.Pools, func(p weir.PoolOverview) bool { return !p.Has() }) {
			first = map[weir.ID]bool{}
			for _, m := range s.Machines {
				first[m.ID] = true
			}
		}
		for _, lb := range s.LoadBalancers {
			switch {
			case told[lb.ID]:
			case unreported(lb) && lb.Err == "":
				waits = true
			case lb.Phase == weir.LoadBalancerActive:
				told[lb.ID] = true
				p.step("load balancer", "%s, %s, HAProxy %s", lb.Name, lb.Address, s.Versions.HAProxy)
			case lb.Err == "":
				waits = true
			}
		}
		for _, m := range s.Machines {
			switch {
			case told[m.ID] || !first[m.ID] || m.Deleting || m.LoadBalancer != "":
			case m.Boot.State == weir.BootFailed || m.Err != "":
			case m.Phase == weir.MachineOff || s.Up(m.ID) && !slices.ContainsFunc(s.LoadBalancers, unreported):
				told[m.ID] = true
				p.step("machine", "%s, %s, %s", m.Name, m.Private, m.Phase)
			default:
				waits = true
			}
		}
		if !waits {
			for _, problem := range s.Problems {
				p.say("! %s", problem)
			}
			d.showLogs(s, p)
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// unreported reports whether an instance of lb has not reported to this process yet:
// what is stored of it is from before.
func unreported(lb weir.LoadBalancerOverview) bool {
	return len(lb.Instances) == 0 || slices.ContainsFunc(lb.Instances, func(in weir.InstanceOverview) bool { return in.Node.Seen.IsZero() })
}

// showLogs shows the end of the log of each machine whose user-data failed.
func (d *dev) showLogs(s weir.RegionStatus, p *progress) {
	for _, m := range s.Machines {
		if m.Boot.State == weir.BootFailed {
			p.say("the end of %s:", m.Boot.Log)
			for line := range strings.Lines(m.Boot.End) {
				p.say("  | %s", strings.TrimRight(line, "\n"))
			}
		}
	}
}

// fronted returns the load balancer that the front leads to: the oldest one that is not internal, which nothing from
// outside reaches. It is nil if there is none.
func fronted(lbs []weir.LoadBalancer) *weir.LoadBalancer {
	for i := range lbs {
		if !lbs[i].Internal {
			return &lbs[i]
		}
	}
	return nil
}

// pointFront keeps the front at the first rule of the load balancer that it leads to, until ctx ends.
func pointFront(ctx context.Context, ctl *control.Control, f *front) error {
	for {
		lbs, err := ctl.LoadBalancers(ctx)
		if err == nil {
			to := ""
			if lb := fronted(lbs); lb != nil && lb.Status.Address.IsValid() {
				to = netip.AddrPortFrom(lb.Status.Address, uint16(lb.Rules[0].EntryPort)).String()
			}
			f.point(to)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// lockFile is what a data directory is locked by, and known by.
const lockFile = "weir.lock"

// lockData makes this process the only one on a data directory. verb is what it is started
// by, dev or serve.
func lockData(dir, verb string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		return nil, fmt.Errorf("%s: another weir (pid %s) runs on %s: stop it, or give this one another --data", verb, strings.TrimSpace(string(owner)), dir)
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintln(os.Getpid()))); err != nil {
		f.Close()
		return nil, fmt.Errorf("data directory: %w", err)
	}
	return func() { f.Close() }, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// listenLoopback listens on an address that nobody outside this machine reaches: what
// is served there is not encrypted.
func listenLoopback(ctx context.Context, flag, addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%s %q: want an address such as 127.0.0.1:7070", flag, addr)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s %q: weir dev listens on loopback addresses alone, want one such as 127.0.0.1:7070", flag, addr)
	}
	return listen(ctx, flag, addr)
}

// progress tells a person how far it is: a line for each thing, with the time since
// the beginning.
type progress struct {
	out   io.Writer
	start time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out, time.Now()} }

func (p *progress) say(format string, args ...any) {
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *progress) step(what, format string, args ...any) {
	fmt.Fprintf(p.out, "%5.1fs  %-14s %s\n", time.Since(p.start).Seconds(), what, fmt.Sprintf(format, args...))
}
