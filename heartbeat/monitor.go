package heartbeat

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weir/weir"
)

// Options say how a Monitor works. What is zero has a default.
type Options struct {
	Self weir.ID // our own ID, which answers carry
	Port int     // UDP, the same at all ends
	Log  *slog.Logger

	Beat   time.Duration // between two beats on a path; 25 ms
	Late   time.Duration // without an answer until a path is Late; 2 beats
	Silent time.Duration // without an answer until a path is Silent; 4 beats. Must exceed the round trip by far

	// sources are the addresses to listen and ask at, in tests; all there are if empty.
	sources []netip.Addr
}

// Monitor beats, answers and judges. Its methods may be called at any time, before Run
// too, from any goroutine.
type Monitor struct {
	Options
	changed chan struct{}
	news    chan news // for the log

	mu       sync.Mutex
	key      []byte
	seal     *seal // nil without a key
	peers    map[weir.ID]*peer
	paths    map[netip.Addr][]*path
	self     Answer
	counts   Counts
	seq      uint64 // of the last beat
	seen     seen
	listened attention
}

type peer struct {
	id     weir.ID
	paths  map[netip.Addr]*path
	order  []*path // the same, as they were set
	answer Answer
	of     uint64 // the beat that answer belongs to
	heard  bool
}

type path struct {
	*pulse
	peer  *peer
	addr  netip.Addr
	to    unix.Sockaddr
	told  weir.PathState // the state that is known outside
	since time.Time
	sent  time.Time // the newest beat that was answered
	rtt   time.Duration
}

type news struct {
	peer     weir.ID
	addr     netip.Addr
	was, now weir.PathState
	heard    time.Time
	paused   time.Duration // of ourselves; then there is no peer
}

// New returns a Monitor that knows nobody yet.
func New(o Options) *Monitor {
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	o.Beat = cmp.Or(o.Beat, 25*time.Millisecond)
	o.Late = cmp.Or(o.Late, 2*o.Beat)
	o.Silent = cmp.Or(o.Silent, 4*o.Beat)
	var start [8]byte
	rand.Read(start[:])
	return &Monitor{
		Options: o,
		changed: make(chan struct{}, 1),
		news:    make(chan news, 64),
		peers:   make(map[weir.ID]*peer),
		paths:   make(map[netip.Addr][]*path),
		seq:     binary.NativeEndian.Uint64(start[:]),
	}
}

// Set makes g all that there is. Paths that stay keep their state. Without a key nothing is
// sent or answered, and when it changes, ends that have different keys do not hear each
// other. Link-local addresses cannot be paths.
func (m *Monitor) Set(g weir.Group) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seal = nil
	if len(g.Key) > 0 {
		m.seal = newSeal(g.Key)
	}
	was := m.peers
	m.peers = make(map[weir.ID]*peer)
	m.paths = make(map[netip.Addr][]*path)
	for _, p := range g.Peers {
		if p.Node == m.Self {
			continue
		}
		next := m.peers[p.Node]
		if next == nil {
			next = &peer{id: p.Node, paths: make(map[netip.Addr]*path)}
			m.peers[p.Node] = next
		}
		old := was[p.Node]
		if old != nil {
			next.answer, next.of, next.heard = old.answer, old.of, old.heard
		}
		for _, addr := range p.Addrs {
			addr = addr.Unmap().WithZone("")
			if next.paths[addr] != nil {
				continue
			}
			var way *path
			if old != nil {
				way = old.paths[addr]
			}
			if way == nil {
				way = &path{
					pulse: newPulse(m.Late, m.Silent),
					addr:  addr,
					to:    sockaddr(netip.AddrPortFrom(addr, uint16(m.Port))),
					told:  weir.PathUnknown,
					since: time.Now(),
				}
			}
			way.peer = next
			next.paths[addr] = way
			next.order = append(next.order, way)
			m.paths[addr] = append(m.paths[addr], way)
		}
	}
}

// Answer says what we answer from now on.
func (m *Monitor) Answer(a Answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.self = a
}

// Peers returns what is known of each peer, by ID.
func (m *Monitor) Peers() []PeerStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []PeerStatus
	for _, p := range m.peers {
		status := PeerStatus{Node: p.id, Answer: p.answer}
		for _, w := range p.order {
			told := weir.PathStatus{Addr: w.addr, State: w.told, Since: w.since}
			status.Paths = append(status.Paths, PathStatus{told, w.sent, w.rtt})
		}
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b PeerStatus) int { return cmp.Compare(a.Node, b.Node) })
	return all
}

// Changed returns a channel that has a value when a path's State or a peer's Answer has
// changed since the last was taken: within a millisecond, unless we lack CPU.
func (m *Monitor) Changed() <-chan struct{} { return m.changed }

// Counts returns what m did.
func (m *Monitor) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts
}

// Run beats, answers and judges until ctx ends; then it returns nil. It returns an error
// if it cannot listen.
func (m *Monitor) Run(ctx context.Context) error {
	switch {
	case len(m.Self) == 0 || len(m.Self) > maxID:
		return weir.Errorf(weir.Invalid, "heartbeat: our own ID %q has %d bytes, want 1 to %d", m.Self, len(m.Self), maxID)
	case m.Beat < time.Millisecond || m.Late <= m.Beat || m.Silent <= m.Late:
		return weir.Errorf(weir.Invalid, "heartbeat: a beat each %v, late after %v, silent after %v: want at least 1ms, and each longer than the one before", m.Beat, m.Late, m.Silent)
	case m.Silent > (remembered-2)*m.Beat:
		return weir.Errorf(weir.Invalid, "heartbeat: silent after %v, want at most %d beats of %v", m.Silent, remembered-2, m.Beat)
	}
	socks, err := m.listen()
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range socks {
			s.close()
		}
	}()
	waiter, err := newWaiter(socks)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	defer waiter.close()

	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { m.report(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		waiter.ring()
	})
	if err := m.work(ctx, socks, waiter); err != nil && ctx.Err() == nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	return nil
}

// listen opens a socket for each family that this machine has.
func (m *Monitor) listen() ([]*socket, error) {
	sources := m.sources
	if len(sources) == 0 {
		sources = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	var socks []*socket
	for _, addr := range sources {
		s, err := listen(netip.AddrPortFrom(addr, uint16(m.Port)))
		if addr == netip.IPv6Unspecified() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			continue // a machine without IPv6
		}
		if err != nil {
			for _, s := range socks {
				s.close()
			}
			return nil, fmt.Errorf("heartbeat: listen on %s, UDP port %d: %w", addr, m.Port, err)
		}
		socks = append(socks, s)
	}
	return socks, nil
}

// work is the one loop that reads, judges and sends, so that there is no other goroutine
// between a packet and its answer.
func (m *Monitor) work(ctx context.Context, socks []*socket, waiter *waiter) error {
	m.mu.Lock()
	m.listened = attention{now: m.listened.now}
	m.forgive()
	m.mu.Unlock()

	beat := time.Now()
	due := beat
	drained := true
	for ctx.Err() == nil {
		m.rest()
		if drained {
			if err := waiter.wait(due); err != nil {
				return err
			}
		} else {
			time.Sleep(flooded)
		}
		now := time.Now()

		m.mu.Lock()
		overslept := m.listened.wake(now, due)
		m.away(overslept)
		again := overslept > 0 || !drained
		drained = true
		for _, s := range socks {
			events := waiter.of(s)
			if again {
				events |= unix.EPOLLIN | unix.EPOLLERR
			}
			if events&unix.EPOLLIN != 0 {
				drained = m.read(s) && drained
			}
			if events&unix.EPOLLERR != 0 {
				m.readFailures(s)
			}
		}
		if !now.Before(due) && drained {
			m.look()
		}
		if !now.Before(beat) {
			m.beat(socks)
			if beat = beat.Add(m.Beat); beat.Before(now) {
				beat = now.Add(m.Beat)
			}
		}
		if !now.Before(due) {
			due = m.due(beat)
		}
		m.mu.Unlock()
	}
	return nil
}

// rest notes that we begin to wait.
func (m *Monitor) rest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away(m.listened.rest(time.Now()))
}

// away notes that we overslept, or were busy or stopped, for d. Beyond Late the sockets
// may not have had room for all that came.
func (m *Monitor) away(d time.Duration) {
	if d < m.Late {
		return
	}
	m.counts.Pauses++
	m.tell(news{paused: d})
	m.forgive()
}

// forgive begins all silences anew.
func (m *Monitor) forgive() {
	for _, p := range m.peers {
		for _, w := range p.paths {
			w.forgive(m.listened.now)
		}
	}
}

// A flood must not take the machine from everybody of lower priority: after most datagrams
// in one go we leave the sockets alone for a while. Until they are empty again nothing is
// judged.
const (
	most    = 256
	flooded = 5 * time.Millisecond
)

// read takes all that has arrived at s. It reports whether that was all.
func (m *Monitor) read(s *socket) bool {
	for range most {
		d, ok := s.read()
		if !ok {
			return true
		}
		m.take(s, d)
	}
	return false
}

func (m *Monitor) take(s *socket, d datagram) {
	if m.seal == nil {
		m.counts.Forged++
		return
	}
	msg, ok := m.seal.open(d.data)
	switch {
	case !ok:
		m.counts.Forged++
	case string(msg.id) == string(m.Self):
		m.counts.Foreign++
	case msg.kind == kindAnswer:
		m.takeAnswer(msg, d)
	case m.seen.again(d.data):
		m.counts.Repeated++
	default:
		m.counts.Answered++
		var buf [maxSize]byte
		// If it is lost they will ask again.
		_ = s.write(m.seal.append(buf[:0], kindAnswer, msg.seq, m.self, m.Self), d.info, d.from)
	}
}

func (m *Monitor) takeAnswer(msg message, d datagram) {
	from, _ := address(d.from)
	w := m.path(from.Addr(), msg.id)
	if w == nil || int(from.Port()) != m.Port {
		m.counts.Foreign++
		return
	}
	sent, v := w.answer(msg.seq, m.listened.now)
	switch v {
	case repeated:
		m.counts.Repeated++
		return
	case stale:
		m.counts.Stale++
		return
	}
	m.counts.Heard++
	if sent.After(w.sent) {
		w.sent, w.rtt = sent, time.Since(sent)
	}
	p := w.peer
	if !p.heard || newer(msg.seq, p.of) {
		if !p.heard || p.answer != msg.answer {
			m.notify()
		}
		p.answer, p.of, p.heard = msg.answer, msg.seq, true
	}
	m.publish(w)
}

// path returns the path that an answer by id from addr belongs to.
func (m *Monitor) path(addr netip.Addr, id []byte) *path {
	for _, w := range m.paths[addr] {
		if string(w.peer.id) == string(id) {
			return w
		}
	}
	return nil
}

func (m *Monitor) readFailures(s *socket) {
	for range most {
		f, ok := s.failed()
		if !ok {
			return
		}
		state := fault(f.errno)
		if state == "" || m.seal == nil {
			continue
		}
		// What quotes an answer of ours is of no interest: someone went away.
		seq, ok := m.seal.quoted(f.data, m.Self)
		believed := false
		for _, w := range m.paths[f.to] {
			if ok && w.fail(seq, state, m.listened.now) {
				believed = true
				m.publish(w)
			}
		}
		if !believed {
			m.counts.Disbelieved++
		}
	}
}

// look judges all paths. All that has arrived must have been read.
func (m *Monitor) look() {
	for _, p := range m.peers {
		for _, w := range p.paths {
			w.look(m.listened.now)
			m.publish(w)
		}
	}
}

// beat sends a beat on each path.
func (m *Monitor) beat(socks []*socket) {
	var buf [maxSize]byte
	for _, p := range m.peers {
		for _, w := range p.paths {
			if m.seal == nil {
				w.miss(m.listened.now)
				continue
			}
			m.seq++
			sent := time.Now()
			err := error(unix.EAFNOSUPPORT)
			for _, s := range socks {
				if s.v6 == w.addr.Is6() {
					err = s.write(m.seal.append(buf[:0], kindBeat, m.seq, Answer{}, m.Self), nil, w.to)
					break
				}
			}
			state := fault(err)
			if err == nil || state != "" {
				w.send(m.seq, m.listened.now, sent)
			} else {
				w.miss(m.listened.now)
			}
			if err == nil {
				m.counts.Sent++
				continue
			}
			m.counts.Unsent++
			if state == weir.PathUnreachable && w.fail(m.seq, state, m.listened.now) {
				m.publish(w)
			}
		}
	}
}

// due returns when to look next: at the next beat, or before if a path will change its
// state by then.
func (m *Monitor) due(beat time.Time) time.Time {
	// The clock of silence stands still until we wait again: aim a little behind.
	now := time.Now().Add(100 * time.Microsecond)
	for _, p := range m.peers {
		for _, w := range p.paths {
			if d, ok := w.deadline(); ok {
				if at := now.Add(max(d-m.listened.now, 0)); at.Before(beat) {
					beat = at
				}
			}
		}
	}
	return beat
}

// publish makes w's state known.
func (m *Monitor) publish(w *path) {
	if w.state == w.told {
		return
	}
	m.tell(news{peer: w.peer.id, addr: w.addr, was: w.told, now: w.state, heard: w.sent})
	w.told, w.since = w.state, time.Now()
	m.notify()
}

func (m *Monitor) notify() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *Monitor) tell(n news) {
	select {
	case m.news <- n:
	default: // the log is stuck; we are not
	}
}

// report writes the log, which may block.
func (m *Monitor) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-m.news:
			switch {
			case n.paused > 0:
				m.Log.Warn("heartbeats were held up: no silence counts from before", "for", n.paused)
			case n.heard.IsZero():
				m.Log.Info("path changed", "peer", n.peer, "addr", n.addr, "was", n.was, "is", n.now)
			default:
				m.Log.Info("path changed", "peer", n.peer, "addr", n.addr, "was", n.was, "is", n.now, "heard", time.Since(n.heard))
			}
		}
	}
}
