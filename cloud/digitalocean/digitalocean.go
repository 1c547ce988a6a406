// Package digitalocean is one region of DigitalOcean as a [cloud.Cloud] and a [cloud.Meter].
//
// Machines are droplets, which carry two tags: that of this Weir, weir:NAME, by which they are listed, and one of their
// own, weir:NAME:ID, by which a machine is found again before another one is made with its ID. Addresses are reserved IPs
// in a project of this Weir's, and whose they are is in the names of tags that nothing has, weir:NAME:address:IP:OWNER, since
// a reserved IP itself carries nothing. A machine's firewall is a cloud firewall named weir-NAME-ID. Whatever has none of
// that is somebody else's, and is never changed.
//
// DigitalOcean's lists lag behind what was done, and an answer may be lost. So what was made is remembered for as long as lists
// may lack it; after a creation without an answer none is tried again before it would have been seen; and
// what was made twice all the same, by a process that died in between, is one machine: the younger droplet is destroyed when it is
// seen.
//
// What DigitalOcean cannot do: it does not say what became of user-data; it tells no anchor address, so that one of the
// load balancer's instances listens at all its addresses ([netip.IPv4Unspecified]); a reserved IP is at one machine at a time,
// and there are none of the private network; a firewall is there some seconds after it was set. IPv6 is not used: a reserved
// one must be configured within the droplet, which nobody does.
package digitalocean

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/digitalocean/godo"
	"golang.org/x/oauth2"
	"golang.org/x/time/rate"

	"weir/cloud"
	"weir/weir"
)

// Options of a Cloud.
type Options struct {
	Token  string // of DigitalOcean's API
	URL    string // of the API; DigitalOcean's if empty
	Name   string // of this Weir, by which its things are told from all others in the account: lower-case letters, digits and -
	Region string // such as nyc3
	VPC    string // the ID of the network that droplets are made in; the region's default one if empty

	Members int // how many processes ask for figures with this token; 1 if 0

	Log       *slog.Logger      // none if nil
	Transport http.RoundTripper // http.DefaultTransport if nil
}

// Cloud is one region of one account. It may be used by several goroutines; of several processes at a time
// only one should make things.
type Cloud struct {
	Options
	do      *godo.Client
	figures *rate.Limiter
	polite  *polite
	locks   locks

	droplets  look[godo.Droplet]
	firewalls look[godo.Firewall]
	held      look[address]
	sizes     look[godo.Size]
	project   atomic.Pointer[string] // its ID, once it is known

	mu     sync.Mutex
	known  map[weir.ID]int            // the droplets of machines, as last seen or made
	made   map[weir.ID]time.Time      // when they were made: lists may lack them for a while
	doubts map[weir.ID]time.Time      // creations whose answer was lost
	walls  map[weir.ID]*weir.Firewall // as last set
	loads  map[weir.ID]*measured

	// Of who has the lock of all addresses.
	spare    map[netip.Addr]time.Time // since when those of the project have been nobody's
	released time.Time                // when one last was
}

var (
	_ cloud.Cloud = (*Cloud)(nil)
	_ cloud.Meter = (*Cloud)(nil)
)

const (
	timeout  = 30 * time.Second // of one request
	pageSize = 200              // the most that DigitalOcean lists at once

	// fresh is how long a list is taken to be as it was, unless something was changed by us.
	fresh = 2 * time.Second

	// lag is for how long lists may lack what was made.
	lag = time.Minute
)

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	machineForm = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)
	ownerForm   = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)
)

// New returns a Cloud, and asks nobody yet.
func New(o Options) (*Cloud, error) {
	o.Token = strings.TrimSpace(o.Token)
	switch u, err := url.Parse(o.URL); {
	case o.Token == "":
		return nil, weir.Errorf(weir.Invalid, "the token of DigitalOcean's API is empty")
	case strings.ContainsFunc(o.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, weir.Errorf(weir.Invalid, "the token of DigitalOcean's API is not one word")
	case o.URL != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != ""):
		return nil, weir.Errorf(weir.Invalid, "the URL of the API is %.80q, want one without a path such as https://api.digitalocean.com", o.URL)
	case !nameForm.MatchString(o.Name):
		return nil, weir.Errorf(weir.Invalid, "the name is %.80q, want 1 to 63 lower-case letters, digits and -", o.Name)
	case weir.CheckTag(o.Region) != nil:
		return nil, weir.Errorf(weir.Invalid, "the region is %.80q, want one of DigitalOcean's such as nyc3", o.Region)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Members = max(1, o.Members)
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	c := &Cloud{Options: o, figures: figuresOf(o.Members), polite: &polite{over: o.Transport}, locks: locks{held: map[string]*lock{}},
		known: map[weir.ID]int{}, made: map[weir.ID]time.Time{}, doubts: map[weir.ID]time.Time{},
		walls: map[weir.ID]*weir.Firewall{}, spare: map[netip.Addr]time.Time{}, loads: map[weir.ID]*measured{}}
	c.droplets.init(fresh)
	c.firewalls.init(fresh)
	c.held.init(fresh)
	c.sizes.init(10 * time.Minute)
	over := &http.Client{Timeout: timeout, Transport: &oauth2.Transport{Base: c.polite, Source: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: o.Token})}}
	options := []godo.ClientOpt{godo.SetUserAgent("weir/" + weir.Version)}
	if o.URL != "" {
		options = append(options, godo.SetBaseURL(o.URL))
	}
	var err error
	c.do, err = godo.New(over, options...)
	return c, err
}

// Check asks whether the token is good and whether there is the region, which weir.Denied and weir.Invalid say that it is not.
func (c *Cloud) Check(ctx context.Context) error {
	all, err := pages(ctx, c.do.Regions.List)
	if err != nil {
		return fmt.Errorf("list the regions of DigitalOcean: %w", c.fault(err))
	}
	var slugs []string
	for _, r := range all {
		if r.Available {
			slugs = append(slugs, r.Slug)
		}
	}
	slices.Sort(slugs)
	if !slices.Contains(slugs, c.Region) {
		return weir.Errorf(weir.Invalid, "DigitalOcean has no region %q that makes droplets, want one of %s", c.Region, strings.Join(slugs, ", "))
	}
	if c.VPC == "" {
		return nil
	}
	vpc, _, err := c.do.VPCs.Get(ctx, c.VPC)
	if err = c.fault(err); errors.Is(err, weir.NotFound) {
		return weir.Errorf(weir.Invalid, "DigitalOcean has no VPC %q", c.VPC)
	}
	if err != nil {
		return fmt.Errorf("look at VPC %s: %w", c.VPC, err)
	}
	if vpc.RegionSlug != c.Region {
		return weir.Errorf(weir.Invalid, "VPC %s is in region %s, want one in %s", c.VPC, vpc.RegionSlug, c.Region)
	}
	return nil
}

// pages returns all that a list has.
func pages[T any](ctx context.Context, list func(context.Context, *godo.ListOptions) ([]T, *godo.Response, error)) (all []T, err error) {
	for page := 1; ; page++ {
		some, resp, err := list(ctx, &godo.ListOptions{Page: page, PerPage: pageSize})
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if resp.Links == nil || resp.Links.IsLastPage() {
			return all, nil
		}
	}
}

// short are words of a 422 by which DigitalOcean says that a limit is reached, and busy those by which it says that something
// else is being done.
var (
	short = regexp.MustCompile(`(?i)\b(limit|quota|exceed(s|ed)?|capacity|sold out|currently (unavailable|not available)|there is (no )?room|all are taken)\b`)
	busy  = regexp.MustCompile(`(?i)\b(pending event|locked|in progress|still being|not ready|try again|being deleted)\b`)
)

// fault gives an error of godo's its kind.
func (c *Cloud) fault(err error) error {
	if err == nil || weir.KindOf(err) != "" {
		return err
	}
	refused := (*godo.ErrorResponse)(nil)
	if !errors.As(err, &refused) {
		// There was no answer, or none that could be read. It may have taken effect.
		return weir.Errorf(weir.Unavailable, "%w", err)
	}
	kind, text := weir.Unavailable, refused.Message
	status := refused.Response.StatusCode
	if text == "" {
		text = http.StatusText(status)
	}
	switch {
	case status == http.StatusTooManyRequests:
		return weir.Later(c.polite.resting(), "DigitalOcean wants fewer requests (429): %s", text)
	case status == http.StatusUnauthorized:
		return weir.Errorf(weir.Denied, "DigitalOcean refuses the token (401): %s", text)
	case status == http.StatusForbidden:
		return weir.Errorf(weir.Denied, "the token may not do this at DigitalOcean (403): %s", text)
	case status == http.StatusNotFound:
		kind = weir.NotFound
	case status == http.StatusConflict:
		kind = weir.Conflict
	case status == http.StatusUnprocessableEntity && busy.MatchString(text):
	case status == http.StatusUnprocessableEntity && short.MatchString(text):
		kind = weir.Exhausted
	case status >= 400 && status < 500 && status != http.StatusRequestTimeout:
		kind = weir.Invalid
	}
	return weir.Errorf(kind, "DigitalOcean says %d: %s", status, text)
}

// lost reports whether what failed may have taken effect all the same.
func lost(err error) bool {
	refused := (*godo.ErrorResponse)(nil)
	if errors.As(err, &refused) {
		return refused.Response.StatusCode >= 500 || refused.Response.StatusCode == http.StatusRequestTimeout
	}
	return weir.WaitOf(err) == 0 // for then it was not asked at all
}

// gone reports whether something is not there.
func gone(err error) bool {
	refused := (*godo.ErrorResponse)(nil)
	return errors.Is(err, weir.NotFound) || errors.As(err, &refused) && refused.Response.StatusCode == http.StatusNotFound
}

// unless returns err, or nil if it is that something is not there.
func (c *Cloud) unless(err error) error {
	if gone(err) {
		return nil
	}
	return c.fault(err)
}

// errNotYet is of what was waited for long enough.
var errNotYet = errors.New("it is not so yet")

// until asks again and again, less and less often, until it is so, for as long as limit.
func until(ctx context.Context, limit time.Duration, what string, so func() (bool, error)) error {
	began := time.Now()
	for wait := 250 * time.Millisecond; ; wait = min(wait*3/2, 3*time.Second) {
		is, err := so()
		if err != nil || is {
			return err
		}
		if time.Since(began) > limit {
			return weir.Errorf(weir.Unavailable, "%w that %s, after %s", errNotYet, what, limit)
		}
		select {
		case <-ctx.Done():
			return weir.Errorf(weir.Unavailable, "it was not waited for that %s: %w", what, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// polite asks nothing for as long as DigitalOcean wants to be left alone, whoever was told so.
type polite struct {
	over  http.RoundTripper
	until atomic.Pointer[time.Time]
}

// The bounds of what is believed of a wait that DigitalOcean asks for, and what is waited if it does not say.
const (
	leastWait = time.Second
	mostWait  = time.Hour
	someWait  = time.Minute
)

func (p *polite) resting() time.Duration {
	if until := p.until.Load(); until != nil {
		return max(0, time.Until(*until))
	}
	return 0
}

// RoundTrip is that of [http.RoundTripper].
func (p *polite) RoundTrip(req *http.Request) (*http.Response, error) {
	if wait := p.resting(); wait > 0 {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, weir.Later(wait, "DigitalOcean wants fewer requests, and is asked nothing for %s", wait.Round(time.Second))
	}
	resp, err := p.over.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		until := time.Now().Add(min(max(waitIn(resp.Header), leastWait), mostWait))
		p.until.Store(&until)
	}
	return resp, err
}

// waitIn returns how long the headers of an answer say to wait.
func waitIn(h http.Header) time.Duration {
	if text := h.Get("Retry-After"); text != "" {
		if n, err := strconv.ParseUint(text, 10, 31); err == nil {
			return time.Duration(n) * time.Second
		}
		if at, err := http.ParseTime(text); err == nil {
			return time.Until(at)
		}
	}
	if n, err := strconv.ParseInt(h.Get("RateLimit-Reset"), 10, 64); err == nil && n > 0 {
		return time.Until(time.Unix(n, 0))
	}
	return someWait
}

// look is what a list last said. Who asks while it is being asked for has the same answer.
type look[T any] struct {
	fresh  time.Duration
	turn   chan struct{}
	writes atomic.Int64 // how often something was changed by us
	all    []T
	began  time.Time
	seen   int64 // of writes
}

func (l *look[T]) init(fresh time.Duration) { l.fresh, l.turn = fresh, make(chan struct{}, 1) }

// changed has what was seen before be forgotten.
func (l *look[T]) changed() { l.writes.Add(1) }

// get returns what the list says, asked for by ask if that is not known; it is not the caller's to change.
func (l *look[T]) get(ctx context.Context, ask func(context.Context) ([]T, error)) ([]T, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if !l.began.IsZero() && time.Since(l.began) < l.fresh && l.seen == l.writes.Load() {
		return l.all, nil
	}
	began, seen := time.Now(), l.writes.Load()
	all, err := ask(ctx)
	if err != nil {
		return nil, err
	}
	l.all, l.began, l.seen = all, began, seen
	return all, nil
}

// locks are as many as there are keys.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	turn  chan struct{}
	users int
}

// take waits until nobody else has a key's lock.
func (l *locks) take(ctx context.Context, key string) (release func(), err error) {
	l.mu.Lock()
	of := l.held[key]
	if of == nil {
		of = &lock{turn: make(chan struct{}, 1)}
		l.held[key] = of
	}
	of.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if of.users--; of.users == 0 {
			delete(l.held, key)
		}
	}
	select {
	case of.turn <- struct{}{}:
		return func() { <-of.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
