package edge

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/weir"
)

// DigitalOcean's limits, of each token.
const (
	DefaultPerHour   = 5000
	DefaultPerMinute = 250
)

// How members share a limit. What a member holds and has not used is lost to the others, so
// that there is little of it: at most twice a fiftieth of a limit, and less the less is left.
const (
	heldFor     = 30 * time.Second       // how long what a member holds is its own without its saying more
	clocksApart = 5 * time.Second        // the clocks of two members, at most
	idleAfter   = 10 * time.Second       // a member gives back what it has not used for so long
	settleEvery = time.Second            // how often it looks what to give back
	deniedFor   = 250 * time.Millisecond // how long "there is none left" is true

	storeAnswers = 2 * time.Second // a store that takes longer is away
	storeAway    = time.Second     // from one try of a store that is away to the next
)

// Quotas keeps who holds what. Package control does.
type Quotas interface {
	// ChangeQuota makes the quota of a token what change makes of it, in one transaction.
	// change may run several times.
	ChangeQuota(ctx context.Context, token weir.ID, change func(weir.Quota) weir.Quota) error
}

// LimitOptions say how often the bearer of a token may call.
type LimitOptions struct {
	PerHour, PerMinute int // 0 is as often as they like

	// Operator is a token whose bearer is not limited on this machine: the one in a file that
	// only who operates this machine can read, and with which they wait and watch.
	Operator string

	Log *slog.Logger // none if nil
}

// Limits says how often the bearer of a token may call, in any minute and in any hour,
// whichever of several members is asked.
//
// It is exact: no window has more requests than the limit, wherever it begins. Each member
// holds a part of each token's limit, has those parts in the store, where together they are
// never more than the limit, and counts the requests that it admits itself: a
// request takes a permit until it leaves the window, and then the permit is free again, at the
// same member. A member that has none left checks out a block of those that nobody holds, in
// one transaction: an eighth of them, at most a fiftieth of the limit and at least one. What it holds
// beyond two such blocks, and after ten seconds without a request all it does not need, it
// gives back. So somebody is refused, who has not used the limit up, only for what is
// with other members: two fiftieths of the limit at each, what left the window there within the last
// seconds, and all that a member held that has died, until its last request must have left
// the window. A member alone gives out the limit to the last permit.
//
// A member that dies has no more than half a minute left to use what it held. That is by its
// own clock, and the others wait five seconds longer: clocks that are further apart
// let more requests in.
//
// A member without a quorum goes on with what it holds, and then gives each token the whole
// limit by itself. Nothing can be changed through it; what it admits are reads.
type Limits struct {
	LimitOptions
	quotas   Quotas
	operator [sha256.Size]byte
	member   weir.ID
	epoch    time.Time
	windows  [2]window
	shown    int // the window that callers are told of

	mu       sync.Mutex
	accounts map[weir.ID]*account

	retry atomic.Int64 // the time since epoch when a store that is away is tried again; 0: it is not away
}

// window is how many requests there may be in any span of that length.
type window struct {
	length time.Duration
	most   int // 0: any number
}

// block returns how many permits are checked out at once if so many are left.
func (w window) block(left int) int { return max(1, min(left/8, w.most/50)) }

// spare returns how many permits a member may hold beyond those that are used.
func (w window) spare() int { return 2 * w.block(w.most) }

// NewLimits returns Limits which are shared by way of quotas.
func NewLimits(q Quotas, o LimitOptions) *Limits {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Limits{LimitOptions: o, quotas: q, operator: sha256.Sum256([]byte(o.Operator)),
		member: weir.ID(rand.Text()), epoch: time.Now(), accounts: map[weir.ID]*account{},
		windows: [2]window{{time.Minute, o.PerMinute}, {time.Hour, o.PerHour}}}
	if o.PerHour > 0 {
		l.shown = 1
	}
	return l
}

// account is what a member knows of one token.
type account struct {
	mu    sync.Mutex // never held while waiting
	uses  []time.Duration
	spans [2]span
	until time.Duration // when what is held may not be used any more
	last  time.Duration // when it was used last
	idle  bool          // it was given back since
	gone  bool          // it is not among the accounts any more

	flight  chan struct{} // of a transaction; closed when it is done
	waiting int           // requests, for it
	denied  time.Duration // until when there is none left
}

// span is an account's side of one window.
type span struct {
	from    int // the first of uses that is in the window
	share   int // how many may be
	charged int // what the store has as share
	others  int // what the others have, as last seen
	oldest  time.Time
}

// used returns how many requests are in a window.
func (a *account) used(i int) int { return len(a.uses) - a.spans[i].from }

// advance takes out of each window what has left it.
func (a *account) advance(windows *[2]window, now time.Duration) {
	drop := len(a.uses)
	for i, w := range windows {
		s := &a.spans[i]
		for s.from < len(a.uses) && a.uses[s.from] <= now-w.length {
			s.from++
		}
		drop = min(drop, s.from)
	}
	if drop > 1024 || drop == len(a.uses) {
		a.uses = append(a.uses[:0], a.uses[drop:]...)
		for i := range a.spans {
			a.spans[i].from -= drop
		}
	}
}

// use counts one request.
func (a *account) use(now time.Duration) {
	a.uses = append(a.uses, now)
	a.last, a.idle = now, false
}

// holds reports whether a permit of each window is there to be used.
func (a *account) holds(windows *[2]window, now time.Duration) bool {
	return now < a.until && a.below(windows, func(i int) int { return a.spans[i].share })
}

// below reports whether fewer requests than limit says are in each window.
func (a *account) below(windows *[2]window, limit func(i int) int) bool {
	for i, w := range windows {
		if w.most > 0 && a.used(i) >= limit(i) {
			return false
		}
	}
	return true
}

// Unused returns the allowance of somebody whose requests are not counted.
func (l *Limits) Unused() weir.Allowance {
	most := l.windows[l.shown].most
	return weir.Allowance{Limit: most, Remaining: most, Reset: time.Now()}
}

// Take counts a request of the bearer of token, unless one more would be too many: then the
// allowance says how long to wait. here says that it was made on this machine. An error
// is that of ctx.
func (l *Limits) Take(ctx context.Context, token string, c weir.Caller, here bool) (weir.Allowance, error) {
	sum := sha256.Sum256([]byte(token))
	if l.PerHour <= 0 && l.PerMinute <= 0 || here && l.Operator != "" && sum == l.operator {
		return l.Unused(), nil
	}
	key := c.Token
	if key == "" {
		key = weir.ID(hex.EncodeToString(sum[:]))
	}
	for {
		a := l.account(key)
		now := l.now()
		a.mu.Lock()
		if a.gone {
			a.mu.Unlock()
			continue
		}
		a.advance(&l.windows, now)
		alone := false
		switch {
		case a.holds(&l.windows, now):
			a.use(now)
			defer a.mu.Unlock()
			return l.allowance(a, now, true), nil
		case now < a.denied && now < a.until && a.flight == nil:
			defer a.mu.Unlock()
			return l.allowance(a, now, false), nil
		case a.flight == nil:
			alone = l.away(now)
		default:
			alone = l.retry.Load() != 0
		}
		if alone {
			defer a.mu.Unlock()
			ok := a.below(&l.windows, func(i int) int { return l.windows[i].most })
			if ok {
				a.use(now)
			}
			return l.allowance(a, now, ok), nil
		}
		if a.flight == nil {
			x := l.begin(a, now, true)
			a.mu.Unlock()
			l.exchange(ctx, key, a, x)
			continue
		}
		flight := a.flight
		a.waiting++
		a.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
		}
		a.mu.Lock()
		a.waiting--
		a.mu.Unlock()
		if ctx.Err() != nil {
			return l.Unused(), ctx.Err()
		}
	}
}

// now returns the time as it is counted here, which no one can set.
func (l *Limits) now() time.Duration { return time.Since(l.epoch) }

// account returns what is known of a token.
func (l *Limits) account(key weir.ID) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[key]
	if a == nil {
		a = &account{}
		l.accounts[key] = a
	}
	return a
}

// allowance tells a caller how things are, with a.mu held.
func (l *Limits) allowance(a *account, now time.Duration, ok bool) weir.Allowance {
	shown := l.windows[l.shown]
	s := weir.Allowance{Limit: shown.most, Reset: l.leaves(a, l.shown, now)}
	if ok {
		s.Remaining = max(0, shown.most-a.spans[l.shown].others-a.used(l.shown))
		return s
	}
	s.Wait = time.Second
	for i, w := range l.windows {
		if w.most > 0 && a.used(i) >= a.spans[i].share {
			s.Wait = max(s.Wait, time.Until(l.leaves(a, i, now)))
		}
	}
	return s
}

// leaves returns when the oldest request leaves a window.
func (l *Limits) leaves(a *account, i int, now time.Duration) time.Time {
	length := l.windows[i].length
	at := a.spans[i].oldest.Add(length)
	if a.used(i) > 0 {
		own := l.epoch.Add(a.uses[a.spans[i].from] + length)
		if a.spans[i].oldest.IsZero() || own.Before(at) || !at.After(l.epoch.Add(now)) {
			return own
		}
	}
	if here := l.epoch.Add(now); at.Before(here) {
		return here
	}
	return at
}

// away reports whether the store is not to be asked. Of those who ask, one at a time is told
// to try whether it still is away.
func (l *Limits) away(now time.Duration) bool {
	at := l.retry.Load()
	if at == 0 {
		return false
	}
	return int64(now) < at || !l.retry.CompareAndSwap(at, int64(now+storeAnswers+storeAway))
}

// claim is what a member says it holds, and wants to.
type claim struct {
	member weir.ID
	now    time.Time
	until  time.Time
	lapsed bool // it may not use what it holds any more
	sides  [2]claimSide
}

// claimSide is a claim on one window.
type claimSide struct {
	used   int
	keep   int // of what it holds, at least
	want   int // permits beside those that are used, if there are any
	oldest time.Time
}

// begin begins a transaction with a.mu held: to take more, or else to give back. What is
// given back may not be used from this moment on, whenever the store hears of it.
func (l *Limits) begin(a *account, now time.Duration, take bool) claim {
	a.flight = make(chan struct{})
	held := heldFor
	if !take && now-a.last >= idleAfter {
		held, a.until = 0, min(a.until, now)
	}
	c := claim{member: l.member, now: time.Now(), lapsed: now >= a.until}
	c.until = c.now.Add(held)
	for i, w := range l.windows {
		if w.most <= 0 {
			continue
		}
		s, used := &a.spans[i], a.used(i)
		switch {
		case c.lapsed:
			s.share = min(s.share, used)
		case !take:
			s.share = min(s.share, used+w.block(w.most-s.others-used))
		}
		side := claimSide{used: used, keep: s.share}
		if take {
			side.want = a.waiting + 1
		}
		if used > 0 {
			side.oldest = l.epoch.Add(a.uses[s.from]).UTC().Truncate(time.Second)
		}
		c.sides[i] = side
	}
	return c
}

// exchange makes a transaction that has begun.
func (l *Limits) exchange(ctx context.Context, key weir.ID, a *account, c claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeAnswers)
	defer cancel()
	var got planned
	err := l.quotas.ChangeQuota(ctx, key, func(q weir.Quota) weir.Quota {
		got = planQuota(q, l.windows, c)
		return got.quota
	})
	now := l.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.flight)
	a.flight = nil
	if err != nil {
		// The store may have more as ours than we know, and never less.
		if l.retry.Swap(int64(now+storeAway)) == 0 {
			l.Log.Warn("rate limits are not shared", "err", err)
		}
		return
	}
	if l.retry.Swap(0) != 0 {
		l.Log.Info("rate limits are shared again")
	}
	if got.renewed {
		a.until = c.until.Sub(l.epoch)
		a.idle = !c.until.After(c.now)
	}
	for i := range a.spans {
		a.spans[i].share, a.spans[i].charged = got.held[i], got.held[i]
		a.spans[i].others, a.spans[i].oldest = got.others[i], got.oldest[i]
	}
	a.denied = 0
	if !got.granted {
		a.denied = now + deniedFor
	}
}

// planned is what a claim comes to.
type planned struct {
	quota   weir.Quota
	held    [2]int
	others  [2]int
	oldest  [2]time.Time // of the others' requests
	granted bool         // there is a permit of each window to be used
	renewed bool         // the member may use what it holds until its claim says
}

// planQuota returns what becomes of a quota when a member says what it holds and wants.
// Nobody's part is touched but its own, and what of the others' nobody can need any more.
func planQuota(q weir.Quota, windows [2]window, c claim) planned {
	p := planned{granted: true, renewed: true}
	var mine weir.Holder
	for _, h := range q.Holders {
		if h.Member == c.member {
			mine = h
			continue
		}
		held := [2]weir.Held{h.Minute, h.Hour}
		for i, w := range windows {
			if c.now.After(h.Until.Add(w.length + clocksApart)) {
				held[i] = weir.Held{}
				continue
			}
			p.others[i] += held[i].Permits
			if at := held[i].Oldest; !at.IsZero() && (p.oldest[i].IsZero() || at.Before(p.oldest[i])) {
				p.oldest[i] = at
			}
		}
		if held != [2]weir.Held{} {
			h.Minute, h.Hour = held[0], held[1]
			p.quota.Holders = append(p.quota.Holders, h)
		}
	}
	for i, w := range windows {
		p.granted = p.granted && (w.most <= 0 || max(c.sides[i].keep, w.most-p.others[i]) > c.sides[i].used)
	}
	var own [2]weir.Held
	for i, w := range windows {
		if w.most <= 0 {
			continue
		}
		side, room := c.sides[i], w.most-p.others[i]
		n := 0
		if side.want > 0 {
			n = w.block(room - side.used)
		}
		if p.granted {
			n = max(n, side.want)
		}
		p.held[i] = max(side.keep, min(side.used+n, room))
		own[i] = weir.Held{Permits: p.held[i], Oldest: side.oldest}
	}
	if !p.granted && !c.lapsed && c.now.Before(mine.Until) && p.held == [2]int{mine.Minute.Permits, mine.Hour.Permits} {
		// Somebody asks again and again where there is nothing: that is not to be stored each time.
		p.quota, p.renewed = q, false
		return p
	}
	if own != [2]weir.Held{} {
		p.quota.Holders = append(p.quota.Holders, weir.Holder{Member: c.member, Until: c.until.UTC(), Minute: own[0], Hour: own[1]})
	}
	return p
}

// Run gives back what is not needed, until ctx ends.
func (l *Limits) Run(ctx context.Context) error {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			l.settle(ctx)
		}
	}
}

// settle gives back, once.
func (l *Limits) settle(ctx context.Context) {
	if l.retry.Load() != 0 {
		return
	}
	var work errgroup.Group
	work.SetLimit(16)
	defer work.Wait()
	for key, a := range l.owing() {
		a.mu.Lock()
		now := l.now()
		if a.flight != nil || !l.owes(a, now) {
			a.mu.Unlock()
			continue
		}
		x := l.begin(a, now, false)
		a.mu.Unlock()
		work.Go(func() error {
			l.exchange(ctx, key, a, x)
			return nil
		})
	}
}

// owing returns the accounts that have something to give back, and forgets those that have
// nothing at all.
func (l *Limits) owing() map[weir.ID]*account {
	l.mu.Lock()
	defer l.mu.Unlock()
	owing := map[weir.ID]*account{}
	for key, a := range l.accounts {
		a.mu.Lock()
		now := l.now()
		a.advance(&l.windows, now)
		switch {
		case l.owes(a, now):
			owing[key] = a
		case len(a.uses) == 0 && now >= a.until && a.flight == nil && now-a.last > time.Hour:
			a.gone = true
			delete(l.accounts, key)
		}
		a.mu.Unlock()
	}
	return owing
}

// owes reports whether a has more than it needs, with a.mu held.
func (l *Limits) owes(a *account, now time.Duration) bool {
	for i, w := range l.windows {
		s := a.spans[i]
		spare := s.charged - a.used(i)
		if w.most <= 0 || now > a.until+w.length+clocksApart { // the store has forgotten it
			continue
		}
		scarce := s.others+s.charged > w.most/2
		if spare > w.spare() || spare > 0 && scarce && !a.idle && now-a.last >= idleAfter {
			return true
		}
	}
	return false
}
