package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/weir"
)

// errStale says that another configuration than the expected one answered: the worker was
// replaced, or restarted.
var errStale = errors.New("another haproxy answers")

// socket is the runtime socket of the worker.
type socket struct {
	path  string
	shape string // of the worker to talk to; empty is any
}

// What one line of commands may have, of HAProxy's 16 KiB of tune.bufsize.
const (
	lineBytes    = 12 << 10
	lineCommands = 120
)

// commandTime bounds one exchange with HAProxy. It answers in microseconds, unless it is
// overwhelmed or stopped.
const commandTime = 5 * time.Second

const askShape = "show env WEIR_SHAPE"

// dial returns a connection that ends with ctx, or after commandTime.
func dial(ctx context.Context, path string) (c *net.UnixConn, hangUp func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	var d net.Dialer
	dialed, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { dialed.SetDeadline(time.Unix(1, 0)) })
	return dialed.(*net.UnixConn), func() { stop(); cancel(); dialed.Close() }, nil
}

// exchange sends one command and returns its answer.
func exchange(ctx context.Context, path, command string) ([]byte, error) {
	c, hangUp, err := dial(ctx, path)
	if err != nil {
		return nil, err
	}
	defer hangUp()
	if _, err := c.Write([]byte(command + "\n")); err != nil {
		return nil, err
	}
	// The master answers, but does not hang up before we do.
	if err := c.CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(c)
}

// A session is a connection in HAProxy's interactive mode: it takes more than one line, and
// tells where an answer ends.
type session struct {
	c      *net.UnixConn
	hangUp func()
	buf    []byte // reused from answer to answer
}

const prompt = "\n> "

// open begins a session with the worker of that shape. Another worker is errStale.
func (s socket) open(ctx context.Context) (*session, error) {
	c, hangUp, err := dial(ctx, s.path)
	if err != nil {
		return nil, fmt.Errorf("speak to haproxy: %w", err)
	}
	t := &session{c: c, hangUp: hangUp}
	out, err := t.ask("prompt;"+askShape, 2)
	if err == nil && s.shape != "" && strings.TrimSpace(strings.ReplaceAll(string(out), prompt, "")) != "WEIR_SHAPE="+s.shape {
		err = errStale
	}
	if err != nil {
		hangUp()
		return nil, err
	}
	return t, nil
}

// ask sends one line of n commands and returns their answers, each with a prompt behind. They
// are valid until the next ask.
func (t *session) ask(line string, n int) ([]byte, error) {
	if _, err := t.c.Write([]byte(line + "\n")); err != nil {
		return nil, fmt.Errorf("speak to haproxy: %w", err)
	}
	t.buf = t.buf[:0]
	for seen := 0; n > 0; {
		t.buf = slices.Grow(t.buf, 4<<10)
		got, err := t.c.Read(t.buf[len(t.buf):cap(t.buf)])
		t.buf = t.buf[:len(t.buf)+got]
		if err != nil {
			return nil, fmt.Errorf("speak to haproxy: %w", err)
		}
		for n > 0 {
			i := bytes.Index(t.buf[seen:], []byte(prompt))
			if i < 0 {
				seen = max(seen, len(t.buf)-len(prompt)+1)
				break
			}
			seen += i + len(prompt)
			n--
		}
	}
	return t.buf, nil
}

// get runs commands that read, joined by semicolons, and gives their answers to read.
func (s socket) get(ctx context.Context, line string, read func([]byte) error) error {
	t, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer t.hangUp()
	out, err := t.ask(line, strings.Count(line, ";")+1)
	if err != nil {
		return err
	}
	return read(out)
}

// do runs commands that change something, in order, and returns HAProxy's complaint about
// each, empty where it had none. Where it returns an error, some may have been run.
func (s socket) do(ctx context.Context, commands []string) (complaints []string, err error) {
	if len(commands) == 0 {
		return nil, nil
	}
	t, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer t.hangUp()
	for len(commands) > 0 {
		n, size := 0, 0
		for n < len(commands) && n < lineCommands && size < lineBytes {
			size += len(commands[n])
			n++
		}
		out, err := t.ask(strings.Join(commands[:n], ";"), n)
		if err != nil {
			return complaints, err
		}
		for range n {
			var answer []byte
			answer, out, _ = bytes.Cut(out, []byte(prompt))
			complaint := strings.Join(strings.Fields(string(answer)), " ")
			if complaint == "New server registered." || complaint == "Server deleted." {
				complaint = ""
			}
			complaints = append(complaints, complaint)
		}
		commands = commands[n:]
	}
	return complaints, nil
}

// server is a server as the running worker has it.
type server struct {
	target
	addr         netip.AddrPort
	weight       int
	running      bool
	maint, drain bool          // as forced by us
	checked      bool          // its check is on: not in a maintenance that it has entered
	passed       bool          // its last check
	unasked      bool          // no check of it has ended yet, nor is one under way
	changed      time.Duration // since its state last did
}

// Bits and values in "show servers state".
const (
	adminMaint = 1 | 2 | 4 // forced, inherited, configured
	adminDrain = 8

	stateStopped = 0
	stateRunning = 2

	checkInProgress = 1
	checkEnabled    = 4
	checkPaused     = 8

	resultUnknown = 0
	resultPassed  = 3
)

// servers returns all servers of the worker, but for those that are its own frontends.
func (s socket) servers(ctx context.Context) ([]server, error) {
	var servers []server
	err := s.get(ctx, "show servers state", func(out []byte) (err error) {
		servers, err = parseServers(out)
		return err
	})
	return servers, err
}

// parseServers reads version 1 of "show servers state", which is also that of the file
// that HAProxy reads at a start. It is written to be fast: it is read at each change.
func parseServers(out []byte) ([]server, error) {
	servers := make([]server, 0, bytes.Count(out, []byte{'\n'}))
	var f [19]string
	for l := range strings.Lines(string(out)) {
		l = strings.TrimSpace(l)
		if len(l) < 2 || l[0] == '#' || l[0] == '>' {
			continue // the version, the heading, the prompt
		}
		n := 0
		for n < len(f) {
			var more bool
			f[n], l, more = strings.Cut(l, " ")
			n++
			if !more {
				break
			}
		}
		if n < len(f) {
			return nil, fmt.Errorf("%.60q of haproxy is no server's state", l)
		}
		if strings.HasPrefix(f[1], own) {
			continue
		}
		ip, _ := netip.ParseAddr(f[4])
		admin, check, result := atoi(f[6]), atoi(f[13]), atoi(f[11])
		servers = append(servers, server{
			target:  target{f[1], f[3], atoi(f[2])},
			addr:    netip.AddrPortFrom(ip, uint16(atoi(f[18]))),
			weight:  atoi(f[7]),
			running: atoi(f[5]) != stateStopped,
			maint:   admin&adminMaint != 0,
			drain:   admin&adminDrain != 0,
			checked: check&(checkEnabled|checkPaused) == checkEnabled,
			passed:  result == resultPassed,
			unasked: result == resultUnknown && check&checkInProgress == 0,
			changed: time.Duration(atoi(f[9])) * time.Second,
		})
	}
	return servers, nil
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func atoi64(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// stat is what HAProxy counts of a server, or of a whole backend or frontend.
type stat struct {
	backend, name string
	kind          string // one of those below; none is that of a server
	status        string // UP, DOWN, DRAIN, MAINT, with 1/3 and the like behind
	changed       int64  // since the status last did, in seconds
	check         string // L7OK, L4CON
	why           string // of the last check: Connection refused
	sessions      int
	requests      int64 // of TCP, connections

	// What is read of backends and frontends alone.
	mode              weir.Protocol
	queue             int64
	http              int64 // requests
	responses         weir.Responses
	in, out           int64
	tls               int64
	response, session int64 // how long they took, in milliseconds
}

// The kinds of lines in "show stat", and their sum, which asks for all.
const (
	frontendStat = "0"
	backendStat  = "1"
	allStats     = 1 | 2 | 4
)

// passed reports whether the last check passed.
func (s *stat) passed() bool {
	c := strings.TrimPrefix(s.check, "* ") // another is under way
	return c == "L4OK" || c == "L6OK" || c == "L7OK"
}

// glance is what it takes to know whether a server has to wait any longer.
type glance struct {
	target
	sessions int
	passed   bool // its last check
	unasked  bool // no check of it has ended yet, nor is one under way
}

// glances looks at those servers, in the cheapest way: what HAProxy counts is much to read
// for many servers, but only there are their sessions.
func (s socket) glances(ctx context.Context, wait []waiting) ([]glance, error) {
	leaving := false
	of := make([]target, len(wait))
	for i := range wait {
		of[i] = wait[i].target
		leaving = leaving || wait[i].leaving
	}
	if len(of) > statsEach && !leaving {
		servers, err := s.servers(ctx)
		glances := make([]glance, len(servers))
		for i, h := range servers {
			glances[i] = glance{target: h.target, passed: h.passed, unasked: h.unasked}
		}
		return glances, err
	}
	stats, err := s.stats(ctx, of)
	glances := make([]glance, len(stats))
	for i := range stats {
		c := &stats[i]
		glances[i] = glance{
			target:   target{backend: c.backend, name: c.name},
			sessions: c.sessions,
			passed:   c.passed(),
			unasked:  c.check == "INI",
		}
	}
	return glances, err
}

// statsEach is up to how many servers are asked for one by one: a line of commands has
// room for so many, and each answer repeats the heading.
const statsEach = 16

// stats returns what HAProxy counts of those servers, or of all where that is cheaper.
func (s socket) stats(ctx context.Context, of []target) ([]stat, error) {
	commands := "show stat -1 4 -1"
	if len(of) > 0 && len(of) <= statsEach {
		var b strings.Builder
		for i, t := range of {
			if i > 0 {
				b.WriteByte(';')
			}
			fmt.Fprintf(&b, "show stat %s 4 %d", t.backend, t.id)
		}
		commands = b.String()
	}
	var stats []stat
	err := s.get(ctx, commands, func(out []byte) (err error) {
		stats, err = parseStats(out)
		return err
	})
	return stats, err
}

// parseStats reads the CSV of "show stat": columns are found by name, for each release adds some.
func parseStats(out []byte) ([]stat, error) {
	stats := make([]stat, 0, bytes.Count(out, []byte{'\n'}))
	var columns []string
	for l := range strings.Lines(string(out)) {
		l = strings.TrimSuffix(l, "\n")
		// In interactive mode there may be a prompt before the heading.
		if heading, ok := strings.CutPrefix(strings.TrimPrefix(l, "> "), "# "); ok {
			columns = strings.Split(heading, ",")
			continue
		}
		if l == "" || l == "> " {
			continue
		}
		var s stat
		for i := 0; l != "" && i < len(columns); i++ {
			var f string
			f, l = csvField(l)
			switch columns[i] {
			case "pxname":
				s.backend = f
			case "svname":
				s.name = f
			case "type":
				s.kind = f
			case "scur":
				s.sessions = atoi(f)
			case "stot":
				s.requests = atoi64(f)
			case "status":
				s.status = f
			case "lastchg":
				s.changed = atoi64(f)
			case "check_status":
				s.check = f
			case "last_chk":
				s.why = f
			default:
				s.count(columns[i], f)
			}
		}
		if s.name == "" {
			return nil, fmt.Errorf("%.60q of haproxy is no line of statistics", l)
		}
		stats = append(stats, s)
	}
	return stats, nil
}

// count reads a column that matters of backends and frontends alone.
func (s *stat) count(column, f string) {
	if s.name != "BACKEND" && s.name != "FRONTEND" {
		return
	}
	switch column {
	case "mode":
		s.mode = weir.Protocol(f)
	case "qcur":
		s.queue = atoi64(f)
	case "req_tot":
		s.http = atoi64(f)
	case "bin":
		s.in = atoi64(f)
	case "bout":
		s.out = atoi64(f)
	case "ssl_sess":
		s.tls = atoi64(f)
	case "rtime":
		s.response = atoi64(f)
	case "ttime":
		s.session = atoi64(f)
	}
	if class, ok := strings.CutPrefix(column, "hrsp_"); ok {
		if i := slices.Index(weir.ResponseClasses[:], class); i >= 0 {
			s.responses[i] = atoi64(f)
		}
	}
}

// csvField cuts the first field off a line.
func csvField(l string) (field, rest string) {
	if !strings.HasPrefix(l, `"`) {
		field, rest, _ = strings.Cut(l, ",")
		return field, rest
	}
	for i := 1; i < len(l); i++ {
		if l[i] != '"' {
			continue
		}
		if i+1 < len(l) && l[i+1] == '"' {
			i++
			continue
		}
		return strings.ReplaceAll(l[1:i], `""`, `"`), strings.TrimPrefix(l[i+1:], ",")
	}
	return l[1:], ""
}

// state translates HAProxy's word for a server that is wanted.
func (s *stat) state() weir.ServerState {
	switch word, _, _ := strings.Cut(s.status, " "); word {
	case "UP", "DRAIN": // by weight 0
		return weir.ServerUp
	case "MAINT":
		return weir.ServerChecking
	}
	return weir.ServerDown
}
