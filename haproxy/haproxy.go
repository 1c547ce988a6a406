// Package haproxy keeps one HAProxy doing what a [weir.Proxy] document says.
//
// [Proxy.Set] takes the whole document, and returns when it is live. Servers come, go and
// change weight by HAProxy's runtime socket; any other change has HAProxy check the new
// configuration first and then reload, which hands the listening sockets over. Neither
// breaks a connection, and a document that HAProxy rejects changes nothing. Run compares the
// running HAProxy with the document every second, whatever was done before: what is
// remembered in between only saves Set a look.
//
// A reload leaves an old worker behind, which finishes what it has, for up to an hour: also
// a long download, or a WebSocket. Until then it takes memory.
//
// A server gets its first request only after its health check has passed once, at once
// when it does, and from then on HAProxy's thresholds rule. One that leaves finishes its
// requests, for as long as the document's Drain allows, whichever worker has them, and
// [Proxy.Status] lists it until then.
//
// [Proxy.Run] owns the process: it starts HAProxy again when it dies, keeping its listening
// sockets open meanwhile so that clients wait instead of being refused. With Options.Keep
// HAProxy outlives Run, and the next Proxy in the same directory goes on with it.
//
// Where the document wants an access log, HAProxy sends a line of JSON for each request to a socket that Run reads
// (Options.Access). Nothing waits for whoever reads it, or is not there.
//
// [Render] and [Detect] stand by themselves. The package knows nothing of the control plane.
package haproxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

// Options say how to run HAProxy.
type Options struct {
	Dir    string       // for its configuration, sockets and state; DefaultDir if empty
	Binary string       // "haproxy", from PATH, if empty
	Keep   bool         // let HAProxy go on when Run ends
	Log    *slog.Logger // slog.Default() if nil
	Access func(Access) // told of each line of the access log, in turn; nobody is if nil
}

// Proxy is one HAProxy.
type Proxy struct {
	dir, binary string
	keep        bool
	log         *slog.Logger
	access      func(Access)
	names       atomic.Value // of servers, a map[string]string by what HAProxy calls them

	pulse   pulse
	wake    chan struct{} // tells Run that there is something to look at
	changed chan struct{}

	lock chan struct{} // held by whoever uses what follows; taken with acquire
	// opened is whether a HAProxy that was left running has been looked for.
	opened   bool
	version  Version
	host     Host
	proc     *process // nil while none runs
	want     *document
	stopped  bool
	have     []server             // at the last look, and by what was done since
	known    bool                 // have is of the worker that runs
	sealed   bool                 // the worker that runs has the certificates that are on disk
	wait     []waiting            // as of the last look
	lingers  map[target]time.Time // servers that left and that old workers serve, since they were first seen
	counted  []counted            // by workers, at the last look
	looked   time.Time            // at all servers
	set      time.Time            // when Set last was
	glancing time.Duration        // what the last look at those that wait took
	held     held
	allHeld  bool
	reloads  int
	deaths   int // in a row, soon after a start
	next     time.Time
}

// document is a configuration and what it was made from.
type document struct {
	revision int64
	proxy    weir.Proxy
	shape    string
	text     []byte
	files    map[string][]byte // that it needs, by name
}

// New returns a Proxy that does nothing until Run and Set are called.
func New(o Options) *Proxy {
	log := o.Log
	if log == nil {
		log = slog.Default()
	}
	return &Proxy{
		dir:     cmp.Or(o.Dir, DefaultDir),
		binary:  cmp.Or(o.Binary, "haproxy"),
		keep:    o.Keep,
		log:     log,
		access:  o.Access,
		wake:    make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
		lock:    make(chan struct{}, 1),
	}
}

func (p *Proxy) path(name string) string { return filepath.Join(p.dir, name) }

func (p *Proxy) socket() socket {
	s := socket{path: p.path(workerSocket)}
	if p.want != nil {
		s.shape = p.want.shape
	}
	return s
}

// Changed receives after a server's state has changed: it came up, went down, is gone.
// Changes while nobody receives become one.
func (p *Proxy) Changed() <-chan struct{} { return p.changed }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// acquire takes the lock and, the first time, looks for a HAProxy that was left running.
// The caller calls release.
func (p *Proxy) acquire(ctx context.Context) error {
	select {
	case p.lock <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.opened {
		return nil
	}
	if err := p.open(ctx); err != nil {
		p.release()
		return err
	}
	p.opened = true
	return nil
}

func (p *Proxy) release() { <-p.lock }

func (p *Proxy) open(ctx context.Context) (err error) {
	// HAProxy binds a socket under a longer name first, and the kernel takes 107 bytes.
	if n := len(p.path(workerSocket)) + len(".1234567.tmp"); n > 107 {
		return weir.Errorf(weir.Invalid, "directory %s: its name is %d bytes too long for sockets in it", p.dir, n-107)
	}
	if strings.ContainsAny(p.dir, ", \n") {
		return weir.Errorf(weir.Invalid, "directory %q: haproxy takes no comma and no space in it", p.dir)
	}
	if p.dir, err = filepath.Abs(p.dir); err != nil {
		return err
	}
	if p.version, err = Detect(ctx, p.binary); err != nil {
		return err
	}
	// A reload starts the binary again from another directory.
	if p.binary, err = exec.LookPath(p.binary); err != nil {
		return err
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("limit of descriptors: %w", err)
	}
	p.host = Host{Dir: p.dir, Threads: runtime.NumCPU(), Files: int(min(files.Max, 1<<20))}
	if _, err := user.Lookup("haproxy"); err == nil && os.Geteuid() == 0 {
		p.host.User = "haproxy"
	}
	if p.host.Access, err = p.accessName(); err != nil {
		return err
	}
	p.proc, err = readPid(p.path(pidFile))
	if err != nil {
		return fmt.Errorf("look for a running haproxy: %w", err)
	}
	if err := os.RemoveAll(p.path(candidateCerts)); err != nil { // a crash may have left some
		return err
	}
	if p.sealed = false; p.proc != nil {
		p.log.Info("haproxy adopted", "pid", p.proc.pid)
		p.pulse.begins(p.proc.pid)
	}
	return nil
}

// Run keeps HAProxy running from the first Set on, until ctx ends. Then HAProxy ends too,
// unless Options.Keep is set. It returns an error only if it could not begin.
func (p *Proxy) Run(ctx context.Context) error {
	if err := p.acquire(ctx); err != nil {
		return err
	}
	host := p.host // hearAccess has no lock
	p.release()

	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer p.leave()
	watchers.Go(func() { p.feel(ctx) })
	watchers.Go(func() { p.hearAccess(ctx, host) })
	died := make(chan *process)
	var watched *process
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, proc := p.tend(ctx)
		if proc != nil && proc != watched {
			watched = proc
			watchers.Go(func() {
				proc.wait()
				select {
				case died <- proc:
				case <-ctx.Done():
				}
			})
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-timer.C:
		case <-died:
		}
	}
}

// leave is what Run does last.
func (p *Proxy) leave() {
	p.lock <- struct{}{}
	defer p.release()
	p.held.close()
	p.opened = false // whoever comes next looks anew
	if p.proc == nil {
		return
	}
	if !p.keep {
		ctx, cancel := context.WithTimeout(context.Background(), commandTime)
		defer cancel()
		p.proc.end(ctx, unix.SIGTERM)
	}
	p.bury()
}

// Stop ends HAProxy: it accepts nothing more, finishes what it has, and is gone when Stop
// returns. When ctx ends first, or after an hour, what is left is cut off. A later Set
// starts it again.
func (p *Proxy) Stop(ctx context.Context) error {
	if err := p.acquire(ctx); err != nil {
		return err
	}
	defer p.release()
	p.stopped = true
	p.held.close()
	p.pulse.begins(0)
	if p.proc != nil {
		p.proc.end(ctx, unix.SIGUSR1)
		p.bury()
	}
	return nil
}

// Set makes want live, and returns when it is: new servers wait for their first check, and
// leaving ones drain. An error of kind weir.Invalid says that want can never be; HAProxy
// then does what it did. Any other error can pass; Run goes on trying as far as want was
// taken over. Set keeps want, which is not to be changed afterwards.
func (p *Proxy) Set(ctx context.Context, revision int64, want weir.Proxy) error {
	err := check(&want)
	files, missing := filesOf(&want)
	if err = cmp.Or(err, missing); err != nil {
		return weir.Errorf(weir.Invalid, "configuration %d: %w", revision, err)
	}
	if err := p.acquire(ctx); err != nil {
		return fmt.Errorf("configuration %d: %w", revision, err)
	}
	defer p.release()
	defer signal(p.wake) // for the servers that wait
	p.names.Store(serverNames(&want))
	d := &document{
		revision: revision,
		proxy:    want,
		shape:    shapeOf(&want, p.host),
		text:     Render(p.version, revision, want, p.host),
		files:    files,
	}
	// Most changes are of servers alone, and the worker is as we left it. If it is not, we
	// look, and begin again.
	err = p.bring(ctx, d, false)
	if err != nil && weir.KindOf(err) != weir.Invalid && ctx.Err() == nil {
		err = p.bring(ctx, d, true)
	}
	p.set = time.Now()
	if err == nil || weir.KindOf(err) == weir.Invalid {
		return err
	}
	return fmt.Errorf("configuration %d: %w", revision, err)
}

// bring makes d live.
func (p *Proxy) bring(ctx context.Context, d *document, look bool) error {
	running := d.shape
	if look || !p.known || p.proc == nil || p.want.shape != d.shape || !p.proc.alive() {
		var err error
		if running, err = p.running(ctx); err != nil {
			return err
		}
	}
	if running == d.shape {
		// Where it does not take a certificate over, a reload tells why, or does it.
		if err := p.rotate(ctx, d.files); errors.Is(err, errRotation) {
			p.log.Warn("certificates not rotated, reloading", "err", err)
			p.host.generation++
			d.shape, d.text = shapeOf(&d.proxy, p.host), Render(p.version, d.revision, d.proxy, p.host)
		} else if err != nil {
			return err
		}
	}
	switch running {
	case d.shape:
		// First the file, so that a HAProxy that dies now starts with all of it.
		if err := replace(p.path(configFile), d.text); err != nil {
			return err
		}
		p.want = d
	case "":
		if err := p.test(ctx, d); err != nil {
			return err
		}
		if _, err := writeCerts(p.path(certsDir), d.files); err != nil {
			return err
		}
		if err := replace(p.path(configFile), d.text); err != nil {
			return err
		}
		p.want, p.stopped, p.deaths = d, false, 0
		if err := p.start(ctx); err != nil {
			return err
		}
	default:
		if err := p.test(ctx, d); err != nil {
			return err
		}
		if err := p.reload(ctx, d); err != nil {
			return err
		}
	}
	if err := p.sweepCerts(d.files); err != nil {
		return err
	}
	return p.steer(ctx, look)
}

// check returns why p cannot be rendered as it is.
func check(p *weir.Proxy) error {
	if err := checkHandling(p); err != nil {
		return err
	}
	backends := make(map[string]bool, len(p.Backends))
	modes := make(map[string]weir.Protocol, len(p.Backends))
	for i := range p.Backends {
		b := &p.Backends[i]
		if b.Name == "" || sanitize(b.Name) != b.Name || backends[b.Name] {
			return fmt.Errorf("backend %.60q: the name is taken, or cannot be one", b.Name)
		}
		backends[b.Name], modes[b.Name] = true, b.Mode
		servers := make(map[string]bool, len(b.Servers))
		for j := range b.Servers {
			s := &b.Servers[j]
			name := string(s.ID)
			if name == "" || sanitize(name) != name || servers[name] {
				return fmt.Errorf("backend %s: server %.60q: the ID is taken, or cannot be one", b.Name, name)
			}
			servers[name] = true
			if !s.Addr.IsValid() || s.Addr.Port() == 0 {
				return fmt.Errorf("backend %s: server %s has no address and port", b.Name, name)
			}
		}
	}
	if err := checkChallenges(p); err != nil {
		return err
	}
	frontends := make(map[string]bool, len(p.Frontends))
	bound := make(map[netip.AddrPort]string, len(p.Frontends))
	for i := range p.Frontends {
		f := &p.Frontends[i]
		if f.Name == "" || sanitize(f.Name) != f.Name || frontends[f.Name] {
			return fmt.Errorf("frontend %.60q: the name is taken, or cannot be one", f.Name)
		}
		frontends[f.Name] = true
		if f.Redirect == 0 && (f.Backend != "" || f.Mode != weir.HTTP) && !backends[f.Backend] {
			return fmt.Errorf("frontend %s: there is no backend %.60q", f.Name, f.Backend)
		}
		if err := checkRoutes(f, modes); err != nil {
			return err
		}
		if !f.Bind.IsValid() || f.Bind.Port() == 0 {
			return fmt.Errorf("frontend %s has no address and port", f.Name)
		}
		if f.TLS != nil && len(f.TLS.Certificates) == 0 {
			return fmt.Errorf("frontend %s ends TLS without a certificate", f.Name)
		}
		if p.Health && f.Bind.Port() == weir.HealthPort {
			return fmt.Errorf("frontend %s is at port %d, where HAProxy answers health checks", f.Name, f.Bind.Port())
		}
		// HAProxy would let the kernel choose between the two.
		if other, taken := bound[f.Bind]; taken {
			return fmt.Errorf("frontends %s and %s are both at %s", other, f.Name, f.Bind)
		}
		bound[f.Bind] = f.Name
	}
	return nil
}

// running returns the shape of what the worker has loaded, or none if no HAProxy runs. One
// that runs and does not answer is ended.
func (p *Proxy) running(ctx context.Context) (shape string, err error) {
	if p.proc == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		out, err := exchange(ctx, p.path(workerSocket), askShape)
		if s, ok := bytes.CutPrefix(bytes.TrimSpace(out), []byte("WEIR_SHAPE=")); err == nil && ok {
			return string(s), nil
		}
		if !p.proc.alive() {
			p.bury()
			return "", nil
		}
		if ctx.Err() != nil {
			break
		}
		pause(ctx, wait)
	}
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return "", ctx.Err()
	}
	p.log.Warn("haproxy does not answer, ending it", "pid", p.proc.pid)
	p.proc.end(ctx, unix.SIGTERM)
	p.bury()
	return "", nil
}

// bury lets go of a process that has ended.
func (p *Proxy) bury() {
	p.known = false
	p.proc.close()
	if time.Since(p.proc.began) < time.Second {
		p.deaths++
	} else {
		p.deaths = 0
	}
	p.next = time.Now()
	if p.deaths > 0 {
		p.next = p.next.Add(min(50*time.Millisecond<<min(p.deaths, 10), 5*time.Second))
	}
	p.proc = nil
}

var alert = regexp.MustCompile(`(?m)^\[ALERT\]\s+\(\d+\) : (?:config : )?(.*)$`)
var place = regexp.MustCompile(`^(?:parsing|Binding) \[[^\]]*:(\d+)\] ?:? ?(.*)$`)

var within = regexp.MustCompile(`\([^ )]*/` + regexp.QuoteMeta(configFile) + `[^ )]*:(\d+)\)`)

// complaint returns the first thing that HAProxy calls an error, with lines of the file but not its path.
func complaint(output []byte) string {
	m := alert.FindSubmatch(output)
	if m == nil {
		return ""
	}
	text := string(m[1])
	if at := place.FindSubmatch(m[1]); at != nil {
		text = fmt.Sprintf("line %s: %s", at[1], at[2])
	}
	return strings.TrimSuffix(within.ReplaceAllString(text, "(line $1)"), ".")
}

// test has HAProxy check d. An address that cannot be had is found out here: to try, HAProxy
// would have its old worker pause.
func (p *Proxy) test(ctx context.Context, d *document) error {
	for _, f := range d.proxy.Frontends {
		if f.Bind.Addr() == d.proxy.Floating {
			continue // it may not be here, or be somebody else's to have at this moment
		}
		if err := bindable(f.Bind); err != nil {
			return weir.Errorf(weir.Unavailable, "frontend %s: listen at %s: %w", f.Name, f.Bind, err)
		}
	}
	if err := p.jail(&d.proxy); err != nil {
		return err
	}
	path, on := p.path(candidateFile), p.host
	on.Certs = p.path(candidateCerts)
	defer os.RemoveAll(on.Certs)
	if _, err := writeCerts(on.Certs, d.files); err != nil {
		return err
	}
	text := Render(p.version, d.revision, d.proxy, on)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	defer os.Remove(path)
	said, err := examine(ctx, p.binary, path)
	if said != "" {
		return weir.Errorf(weir.Invalid, "haproxy rejects configuration %d: %s%s", d.revision, sectionAt(text, said), said)
	}
	return err
}

// sectionAt returns the section that an objection to a configuration is about, which has the name of a rule or of a group
// in it: "frontend https-443: "; or nothing if it names no line.
func sectionAt(text []byte, said string) string {
	m := atLine.FindStringSubmatch(said)
	if m == nil {
		return ""
	}
	lines := bytes.Split(text, []byte("\n"))
	for n := min(atoi(m[1]), len(lines)); n > 0; n-- {
		if line := lines[n-1]; len(line) > 0 && line[0] != ' ' && line[0] != '#' {
			return string(line) + ": "
		}
	}
	return ""
}

// examine has HAProxy check a configuration, and returns what it objects to, or why it could not be asked.
func examine(ctx context.Context, binary, path string) (said string, err error) {
	cmd := exec.CommandContext(ctx, binary, "-c", "-f", path)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = start(cmd); err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.As(err, &exit) && exit.Exited():
		return cmp.Or(complaint(out.Bytes()), err.Error()), nil
	}
	return "", fmt.Errorf("check: %w", err)
}

func binds(p *weir.Proxy) (addrs []netip.AddrPort) {
	for i := range p.Frontends {
		addrs = append(addrs, p.Frontends[i].Bind)
	}
	return append(addrs, healthBinds(p)...)
}
