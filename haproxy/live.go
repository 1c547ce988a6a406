package haproxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

// loadTime bounds a start or a reload. HAProxy takes under a second for 10,000 servers.
const loadTime = 15 * time.Second

// start starts HAProxy with p.want, which is on disk, and returns when it serves.
func (p *Proxy) start(ctx context.Context) error {
	p.known = false
	if err := p.writeState(p.want, p.have); err != nil {
		return err
	}
	if err := p.launch(ctx); err != nil {
		// Clients that would wait for nothing are better refused.
		p.held.close()
		return err
	}
	p.sealed = true
	p.log.Info("haproxy started", "pid", p.proc.pid, "version", p.version.Full, "revision", p.want.revision)
	p.hold(ctx)
	return nil
}

// launch starts the process, gives it the sockets that we hold, and returns when it serves.
func (p *Proxy) launch(ctx context.Context) error {
	out, err := os.OpenFile(p.path(logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	args := []string{"-W", "-S", p.path(masterSocket) + ",mode,600", "-f", p.path(configFile)}
	if len(p.held.fds) > 0 {
		l, err := offer(p.path(heldSocket))
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer l.Close()
		wg.Go(func() {
			if err := p.held.serve(l); err != nil && !errors.Is(err, os.ErrClosed) {
				p.log.Warn("sockets not handed to haproxy", "err", err)
			}
		})
		args = append(args, "-x", p.path(heldSocket))
	}
	note := func(pid int) error {
		p.pulse.begins(pid)
		return writePid(p.path(pidFile), pid)
	}
	if p.proc, err = spawn(p.binary, args, out, note); err != nil {
		return err
	}
	return p.loaded(ctx, p.want.shape, func() error {
		if p.proc.alive() {
			return nil
		}
		p.bury()
		return weir.Errorf(weir.Unavailable, "haproxy does not start: %s", cmp.Or(p.logged(0), "see "+p.path(logFile)))
	})
}

// loaded returns when a worker with shape answers, or with what failed returns.
func (p *Proxy) loaded(ctx context.Context, shape string, failed func() error) error {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	defer p.pulse.loads()()
	s := socket{path: p.path(workerSocket), shape: shape}
	for wait := time.Millisecond; ; wait = min(wait+time.Millisecond, 20*time.Millisecond) {
		if t, err := s.open(ctx); err == nil {
			t.hangUp()
			return nil
		}
		if err := failed(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for haproxy to load: %w", ctx.Err())
		}
		pause(ctx, wait)
	}
}

// reload makes d, which HAProxy has found good, the configuration. Where HAProxy cannot
// load it nevertheless, it goes on with the one that it has.
func (p *Proxy) reload(ctx context.Context, d *document) error {
	have, err := (socket{path: p.path(workerSocket)}).servers(ctx)
	if err != nil {
		return err
	}
	if err := p.writeState(d, have); err != nil {
		return err
	}
	before, err := os.ReadFile(p.path(configFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	undoCerts, err := writeCerts(p.path(certsDir), d.files)
	if err != nil {
		return err
	}
	if err := replace(p.path(configFile), d.text); err != nil {
		return errors.Join(err, undoCerts())
	}
	p.countLast(ctx)
	began := time.Now()
	if err := p.ask(ctx, d); err != nil {
		if before != nil {
			err = errors.Join(err, replace(p.path(configFile), before), undoCerts())
		}
		return err
	}
	p.want, p.known, p.sealed = d, false, true
	p.reloads++
	p.log.Info("haproxy reloaded", "revision", d.revision, "took", time.Since(began))
	p.hold(ctx)
	return nil
}

// ask has the master reload until a worker with d answers. HAProxy forgets a reload that is
// asked for while it is at another: the master's count of them tells.
func (p *Proxy) ask(ctx context.Context, d *document) error {
	mark := p.logSize()
	before, err := p.idleMaster(ctx)
	if err != nil {
		return err
	}
	signal := func() error {
		if p.version.AtLeast(2, 7) {
			// What it answers when it is done, or that it is late, loaded finds out too.
			exchange(ctx, p.path(masterSocket), "reload")
			return nil
		}
		return p.proc.signal(unix.SIGUSR2)
	}
	if err := signal(); err != nil {
		return fmt.Errorf("ask haproxy to reload: %w", err)
	}
	looked := time.Now()
	err = p.loaded(ctx, d.shape, func() error {
		if !p.proc.alive() {
			p.bury()
			return weir.Errorf(weir.Unavailable, "haproxy died while it reloaded: %s", p.logged(mark))
		}
		if time.Since(looked) < 100*time.Millisecond {
			return nil
		}
		looked = time.Now()
		now, err := p.master(ctx)
		switch {
		case err != nil:
			return nil // it is at it
		case now.failed > before.failed:
			return weir.Errorf(weir.Unavailable, "haproxy cannot load it: %s", cmp.Or(p.logged(mark), "see "+p.path(logFile)))
		case now.reloads == before.reloads:
			p.log.Warn("haproxy lost a reload", "revision", d.revision)
			return signal()
		}
		return nil
	})
	if err == nil {
		p.relieved(ctx, before)
	}
	return err
}

// relieved returns when the worker that a reload has replaced accepts no connection any more: the new one answers a
// moment before the old one has been told to stop, and until then either may get a client. One that does not stop for a second
// is left to the master, and so are those that were old before.
func (p *Proxy) relieved(ctx context.Context, before master) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	now, err := p.idleMaster(ctx)
	for _, pid := range now.old {
		for !slices.Contains(before.old, pid) && ctx.Err() == nil {
			var out []byte
			out, err = exchange(ctx, p.path(masterSocket), fmt.Sprintf("@!%d show info", pid))
			if err != nil || !bytes.Contains(out, []byte("\nStopping: 0\n")) {
				break // it stops, or is gone
			}
			pause(ctx, time.Millisecond)
		}
	}
	if err := cmp.Or(ctx.Err(), err); err != nil {
		p.log.Warn("haproxy's former worker may still accept connections", "err", err)
	}
}

// master is what the master tells of its reloads.
type master struct {
	reloads, failed int
	old             []int // workers that reloads have replaced, and that are not done yet
}

var masterLine = regexp.MustCompile(`(?m)^\d+\s+master\s+(\d+)(?:\s+\[failed: (\d+)\])?`)
var workerLine = regexp.MustCompile(`(?m)^(\d+)\s+worker\s`)

// master asks the master. While it replaces itself it does not answer.
func (p *Proxy) master(ctx context.Context) (m master, err error) {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	out, err := exchange(ctx, p.path(masterSocket), "show proc")
	if err != nil {
		return m, fmt.Errorf("ask the master: %w", err)
	}
	f := masterLine.FindSubmatch(out)
	if f == nil {
		return m, fmt.Errorf("ask the master: %.60q is no list of processes", out)
	}
	m = master{reloads: atoi(string(f[1])), failed: atoi(string(f[2]))}
	_, old, _ := bytes.Cut(out, []byte("# old workers"))
	old, _, _ = bytes.Cut(old, []byte("# programs"))
	for _, w := range workerLine.FindAllSubmatch(old, -1) {
		m.old = append(m.old, atoi(string(w[1])))
	}
	return m, nil
}

// idleMaster returns when the master is done with what it was at.
func (p *Proxy) idleMaster(ctx context.Context) (m master, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	for {
		if m, err = p.master(ctx); err == nil || ctx.Err() != nil || !p.proc.alive() {
			return m, err
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func (p *Proxy) logSize() int64 {
	info, err := os.Stat(p.path(logFile))
	if err != nil {
		return 0
	}
	return info.Size()
}

// logged returns the first error that HAProxy printed after the first from bytes.
func (p *Proxy) logged(from int64) string {
	f, err := os.Open(p.path(logFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	out, err := io.ReadAll(io.NewSectionReader(f, from, 64<<10))
	if err != nil {
		return ""
	}
	return complaint(out)
}

// writeState writes what HAProxy reads of each server at its next start: those that were in
// rotation, or had failed, are again; all others wait for their first check.
func (p *Proxy) writeState(d *document, have []server) error {
	known := make(map[target]*server, len(have))
	for i := range have {
		known[have[i].key()] = &have[i]
	}
	b := []byte("1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight " +
		"srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state " +
		"bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr " +
		"srv_agent_addr srv_agent_port\n")
	for i := range d.proxy.Backends {
		backend, secure := &d.proxy.Backends[i], 0
		if backend.Secure != "" {
			secure = 1 // it counts for more than the server's line
		}
		for j, id := range serverIDs(backend.Servers) {
			s := &backend.Servers[j]
			state, admin := stateStopped, adminDrain
			h := known[target{backend: sanitize(backend.Name), name: serverName(s.ID)}]
			if h != nil && same(h.addr, s.Addr) && !h.drain && !h.maint {
				admin = 0
				if h.running {
					state = stateRunning
				}
			}
			b = fmt.Appendf(b, "0 %s %d %s %s %d %d %d %d 0 1 0 0 6 0 0 1 - %d - %d 0 - - 0\n",
				sanitize(backend.Name), id, serverName(s.ID), s.Addr.Addr().Unmap().WithZone(""),
				state, admin, weightOf(s), weightOf(s), s.Addr.Port(), secure)
		}
	}
	return replace(p.path(stateFile), b)
}

// hold keeps copies of the listening sockets. Without them only a crash is worse.
func (p *Proxy) hold(ctx context.Context) {
	all, err := p.held.fetch(ctx, p.path(workerSocket), binds(&p.want.proxy))
	if err != nil {
		p.log.Warn("listening sockets not held", "err", err)
		p.held.close() // where HAProxy no longer listens, clients would wait for nothing
	}
	p.allHeld = all
}

// steer compares all servers with what is wanted, and does what can be done now. It looks at
// the running worker, unless it has just done so: it and Run's next look soon put right what
// was not as remembered.
func (p *Proxy) steer(ctx context.Context, look bool) error {
	if look || !p.known {
		p.known = false
		p.looked = time.Now()
		have, err := p.socket().servers(ctx)
		if err != nil {
			return err
		}
		p.note(have)
	}
	steps, wait := plan(&p.want.proxy, p.have, time.Now())
	// A drain began when it was first seen, whatever happened to the server since.
	was := make(map[target]time.Time, len(p.wait))
	for _, w := range p.wait {
		was[w.target] = w.since
	}
	leaving := false
	for i := range wait {
		if since, ok := was[wait[i].target]; ok && since.Before(wait[i].since) {
			wait[i].since = since
		}
		leaving = leaving || wait[i].leaving
	}
	p.wait = wait
	if err := p.act(ctx, steps); err != nil {
		return err
	}
	if leaving {
		return p.settle(ctx)
	}
	return nil
}

// settle looks at the servers that wait only, and does what can be done now.
func (p *Proxy) settle(ctx context.Context) error {
	if len(p.wait) == 0 {
		return nil
	}
	began := time.Now()
	seen, err := p.socket().glances(ctx, p.wait)
	p.glancing = time.Since(began)
	if err != nil {
		return err
	}
	drainFor := func(server string) time.Duration { return drainOf(&p.want.proxy, server) }
	steps, still := planWaiting(p.wait, seen, drainFor, time.Now())
	p.wait = still
	if err := p.act(ctx, withKeys(&p.want.proxy, steps)); err != nil || len(p.wait) == len(still) {
		return err
	}
	return p.steer(ctx, false) // what is gone may be wanted elsewhere
}

// act takes steps. That a server cannot be removed yet is no error: it still waits.
func (p *Proxy) act(ctx context.Context, steps []step) error {
	var commands []string
	var last []int // of each step's commands
	for i := range steps {
		commands = append(commands, steps[i].commands()...)
		last = append(last, len(commands)-1)
	}
	p.known = p.known && len(steps) == 0
	complaints, err := p.socket().do(ctx, commands)
	if err != nil {
		return err
	}
	next := 0
	done := make([]step, 0, len(steps))
	gone := make(map[target]bool)
	for i, s := range steps {
		complaint := strings.TrimSpace(strings.Join(complaints[next:last[i]+1], " "))
		next = last[i] + 1
		removing := s.verb == remove || s.verb == cut
		switch {
		case complaint != "" && !removing:
			err = errors.Join(err, weir.Errorf(weir.Unavailable, "%s: haproxy refuses: %s", s, complaint))
			continue
		case complaint != "":
			continue
		case removing:
			gone[s.target] = true
		}
		done = append(done, s)
		if removing || s.verb == admit {
			signal(p.changed)
		}
	}
	if len(gone) > 0 {
		p.wait = slices.DeleteFunc(p.wait, func(w waiting) bool { return gone[w.target] })
	}
	p.have = after(p.have, done)
	p.known = err == nil
	return err
}

// note remembers what was seen, for the next start, and tells of what changed.
func (p *Proxy) note(have []server) {
	alike := func(a, b server) bool {
		return a.target == b.target && a.running == b.running && a.drain == b.drain && a.maint == b.maint
	}
	if !slices.EqualFunc(p.have, have, alike) {
		signal(p.changed)
	}
	p.have, p.known = have, true
}

const (
	lookEvery = time.Second      // at everything
	waitFirst = time.Millisecond // between looks at servers that wait, at first …
	waitLast  = 250 * time.Millisecond
	logLimit  = 1 << 20
)

// tend does what is to be done now, and returns when to come again and whom to watch.
func (p *Proxy) tend(ctx context.Context) (again time.Duration, proc *process) {
	if p.acquire(ctx) != nil {
		return lookEvery, nil
	}
	defer p.release()
	if p.proc != nil && !p.proc.alive() {
		p.log.Warn("haproxy died", "pid", p.proc.pid, "why", p.logged(0))
		p.bury()
		signal(p.changed)
	}
	if p.want == nil || p.stopped {
		return lookEvery, p.proc
	}
	if p.proc == nil {
		if wait := time.Until(p.next); wait > 0 {
			return wait, nil
		}
		if err := p.start(ctx); err != nil {
			p.log.Error("haproxy not started", "err", err)
			return max(time.Until(p.next), 0), p.proc
		}
	}
	if err := p.look(ctx); err != nil && ctx.Err() == nil {
		p.log.Warn("haproxy not as wanted", "revision", p.want.revision, "err", err)
		switch shape, err := p.running(ctx); {
		case err != nil || shape == "":
			return 0, p.proc
		case shape != p.want.shape:
			if err := p.reload(ctx, p.want); err != nil {
				p.log.Error("haproxy not reloaded", "revision", p.want.revision, "err", err)
			}
		}
		return lookEvery, p.proc
	}
	again = time.Until(p.looked.Add(lookEvery))
	if len(p.wait) > 0 {
		// Often at first, then ever less, and never so that it costs much.
		pace := max(time.Since(p.set)/8, 2*p.glancing)
		again = min(again, max(pace, waitFirst), waitLast)
	}
	return max(again, 0), p.proc
}

// look looks at the servers that wait, and once in a while at all of them.
func (p *Proxy) look(ctx context.Context) error {
	if time.Since(p.looked) < lookEvery {
		return p.settle(ctx)
	}
	if !p.allHeld {
		p.hold(ctx)
	}
	if p.logSize() > logLimit {
		if err := os.Truncate(p.path(logFile), 0); err != nil {
			return err
		}
	}
	if err := p.steer(ctx, true); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	return p.tendOld(ctx)
}
