package control

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/acme"
	"weir/acme/acmetest"
	"weir/secrets"
	"weir/store"
	"weir/weir"
)

// issuer is a control plane whose certificates an authority issues, and a load balancer that answers it. It does nothing by
// itself: a test has it reconcile.
type issuer struct {
	*Control
	t    *testing.T
	ca   *acmetest.Authority
	lb   weir.ID
	mute atomic.Bool // the load balancer answers with nobody's thumbprint

	rules []weir.Rule // of the load balancer, if it is to run what these make
}

func newIssuer(t *testing.T, o acmetest.Options) *issuer {
	t.Helper()
	i := &issuer{Control: newKeeper(t, secrets.NewKey()), t: t, lb: "lb"}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, asked := strings.CutPrefix(r.URL.Path, "/.well-known/acme-challenge/")
		if a, err := accountOf(context.Background(), i.Store, ""); asked && err == nil && !i.mute.Load() {
			fmt.Fprintf(w, "%s.%s", token, a.Thumbprint)
		}
	}))
	t.Cleanup(server.Close)
	o.TLS = i.listenTLS()
	o.Addr, o.HTTP = netip.MustParseAddr("127.0.0.1"), server.Listener.Addr().(*net.TCPAddr).Port
	i.ca = acmetest.Start(t, o)
	authority, err := acme.New(acme.Options{Directory: i.ca.Directory, Trust: i.ca.CA})
	if err != nil {
		t.Fatal(err)
	}
	i.Authority, i.Retry = authority, time.Millisecond
	i.answer()
	return i
}

// answer has the load balancer run a configuration that answers for the team's account.
func (i *issuer) answer() {
	i.t.Helper()
	ctx := i.t.Context()
	err := i.Store.Update(ctx, func(tx *store.Tx) error {
		a, err := accountOf(ctx, tx, "")
		if err != nil {
			return err
		}
		lb := balancer()
		lb.ID, lb.Status = i.lb, weir.LoadBalancerStatus{Active: "100001"}
		config := weir.NodeConfig{Node: "100001", Revision: 1, Proxy: weir.Proxy{Thumbprint: a.Thumbprint}}
		if i.rules != nil {
			lb.Rules = i.rules
			config.Proxy, err = configured(ctx, tx, lb, a)
		}
		loadBalancers.Put(tx, lb.ID, lb)
		nodeConfigs.Put(tx, "100001", config)
		nodeStatuses.Put(tx, "100001", weir.NodeStatus{Node: "100001", Revision: 1})
		return err
	})
	if err != nil {
		i.t.Fatal(err)
	}
}

// issue asks for a certificate.
func (i *issuer) issue(names ...string) weir.Certificate {
	i.t.Helper()
	cert, err := i.IssueCertificate(i.t.Context(), names[0], names, "")
	if err != nil {
		i.t.Fatal(err)
	}
	return cert
}

// row returns a certificate as it is stored.
func (i *issuer) row(id weir.ID) weir.Certificate {
	i.t.Helper()
	cert, err := certificates.Get(i.t.Context(), i.Store, id)
	if err != nil {
		i.t.Fatal(err)
	}
	return cert
}

// run reconciles a certificate as a new leader would, until done, and returns its row.
func (i *issuer) run(id weir.ID, done func(weir.Certificate) bool) weir.Certificate {
	i.t.Helper()
	leader := &term{Control: i.Control, db: i.Store}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		again, err := leader.reconcileCertificate(i.t.Context(), id)
		if err != nil {
			i.t.Fatal(err)
		}
		i.answer()
		if cert := i.row(id); done(cert) {
			return cert
		}
		time.Sleep(min(again, 100*time.Millisecond))
	}
	i.t.Fatalf("it is not done within a minute: %+v", i.row(id).Issuance)
	return weir.Certificate{}
}

func issued(cert weir.Certificate) bool { return !cert.Placeholder() && cert.Issuance.Order == "" }

func TestACertificateIsIssuedAndTakesItsPlaceholdersPlace(t *testing.T) {
	i := newIssuer(t, acmetest.Options{})
	before := i.issue("shop.example", "www.shop.example")
	after := i.run(before.ID, issued)
	if after.ID != before.ID || after.Fingerprint == before.Fingerprint || after.Chain == "" || after.State(time.Now()) != weir.CertificateVerified {
		t.Errorf("%+v, want another certificate under the same ID, with its chain", after)
	}
	key, err := i.openKey(after)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := weir.NewCertificate("x", after.Leaf, after.Chain, string(key), time.Now()); err != nil {
		t.Errorf("the certificate and its key cannot be served: %v", err)
	}
	if is := after.Issuance; len(is.Sealed) != 0 || is.Err != "" || is.Plan != "" || is.Failed != 0 {
		t.Errorf("%+v, want nothing left of the order", is)
	}

	// When to renew is what the authority suggests, and a moment that was chosen stays so while the window does.
	asked := i.run(before.ID, func(c weir.Certificate) bool { return c.Issuance.Look.After(time.Now()) })
	window := asked.Issuance.From
	if window.IsZero() || asked.Issuance.Renew.Before(window) || asked.Issuance.Look.After(time.Now().Add(6*time.Hour)) {
		t.Errorf("%+v, want a moment in the window that the authority suggests, asked again in 6 h", asked.Issuance)
	}
	look := func() {
		change := func(c *weir.Certificate) { c.Issuance.Look = time.Now().Add(-time.Second) }
		changeRow(t, i.Control, before.ID, change)
		i.run(before.ID, func(c weir.Certificate) bool { return c.Issuance.Look.After(time.Now()) })
	}
	look()
	if again := i.row(before.ID).Issuance; !again.Renew.Equal(asked.Issuance.Renew) {
		t.Errorf("asked again it is to be renewed at %s, want %s still", again.Renew, asked.Issuance.Renew)
	}
	n := i.ca.Orders()
	i.ca.Suggest(after.Leaf, time.Now().Add(-time.Hour), time.Now().Add(-time.Minute))
	changeRow(t, i.Control, before.ID, func(c *weir.Certificate) { c.Issuance.Look = time.Now().Add(-time.Second) })
	renewed := i.run(before.ID, func(c weir.Certificate) bool { return issued(c) && c.Fingerprint != after.Fingerprint })
	if renewed.ID != before.ID || i.ca.Orders() != n+1 {
		t.Errorf("%d orders for a renewal, want one, and the same ID", i.ca.Orders()-n)
	}
	told, err := i.Events(t.Context(), "", "", 0)
	if err != nil || len(told) != 2 || !strings.HasPrefix(told[0].Text, "has a certificate for shop.example, www.shop.example, good until ") || !strings.HasPrefix(told[1].Text, "has another certificate for ") {
		t.Errorf("events %v (%v), want one for each", told, err)
	}
}

// changeRow changes the row of a certificate behind everybody's back.
func changeRow(t *testing.T, c *Control, id weir.ID, change func(*weir.Certificate)) {
	t.Helper()
	err := c.Store.Update(t.Context(), func(tx *store.Tx) error {
		cert, err := certificates.Get(t.Context(), tx, id)
		change(&cert)
		certificates.Put(tx, id, cert)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// crash is what a faulty authority panics with: nothing runs after it, as after kill -9.
type crash struct{}

// faulty is an authority under whose n-th call its caller dies: before it is made, or once it was answered.
type faulty struct {
	Authority
	calls, at int
	answered  bool
}

func (f *faulty) call(do func()) {
	f.calls++
	if f.calls == f.at && !f.answered {
		panic(crash{})
	}
	do()
	if f.calls == f.at {
		panic(crash{})
	}
}

func (f *faulty) Register(ctx context.Context, key crypto.Signer, email string) (a acme.Account, err error) {
	f.call(func() { a, err = f.Authority.Register(ctx, key, email) })
	return a, err
}

func (f *faulty) Order(ctx context.Context, a acme.Account, names []string, replaces string) (order string, err error) {
	f.call(func() { order, err = f.Authority.Order(ctx, a, names, replaces) })
	return order, err
}

func (f *faulty) Find(ctx context.Context, a acme.Account, names []string, except map[string]bool) (order string, err error) {
	f.call(func() { order, err = f.Authority.Find(ctx, a, names, except) })
	return order, err
}

func (f *faulty) Look(ctx context.Context, a acme.Account, order string) (p acme.Progress, err error) {
	f.call(func() { p, err = f.Authority.Look(ctx, a, order) })
	return p, err
}

func (f *faulty) Respond(ctx context.Context, a acme.Account, ch acme.Challenge) (err error) {
	f.call(func() { err = f.Authority.Respond(ctx, a, ch) })
	return err
}

func (f *faulty) Finalize(ctx context.Context, a acme.Account, order string, p acme.Progress, names []string, key crypto.Signer) (err error) {
	f.call(func() { err = f.Authority.Finalize(ctx, a, order, p, names, key) })
	return err
}

func (f *faulty) Fetch(ctx context.Context, a acme.Account, p acme.Progress) (leaf, chain string, err error) {
	f.call(func() { leaf, chain, err = f.Authority.Fetch(ctx, a, p) })
	return leaf, chain, err
}

func (f *faulty) Renewal(ctx context.Context, leaf string) (w *acme.Window, err error) {
	f.call(func() { w, err = f.Authority.Renewal(ctx, leaf) })
	return w, err
}

// A leader that dies at any moment, and the one that comes after it, order once: between two calls of the authority
// there is one change of the store, so that to die before and after each call is to die everywhere.
func TestNoCrashOrdersTwice(t *testing.T) {
	newIssuer(t, acmetest.Options{}).crashEverywhere(func(weir.Certificate) {})
}

// crashEverywhere has leaders die, each at another moment of getting a certificate of its own, which prepare is told of.
func (i *issuer) crashEverywhere(prepare func(weir.Certificate)) {
	t := i.t
	t.Helper()
	sound := i.Authority
	defer func() { i.Authority = sound }()
	crashes := 0
	for _, answered := range []bool{false, true} {
		crashed := true
		for at := 1; crashed; at++ {
			f := &faulty{Authority: sound, at: at, answered: answered}
			i.Authority = f
			crashed = false
			// The first has the account to make too.
			if err := i.Store.Update(t.Context(), func(tx *store.Tx) error { acmeAccounts.Delete(tx, accountKey("")); return nil }); err != nil {
				t.Fatal(err)
			}
			cert := i.issue(fmt.Sprintf("shop-%d-%v.example", at, answered))
			prepare(cert)
			n := i.ca.Orders()
			end := func(c weir.Certificate) bool { return issued(c) && c.Issuance.Look.After(time.Now()) }
			for done := false; !done; {
				func() {
					defer func() {
						if v := recover(); v != nil {
							if _, ok := v.(crash); !ok {
								panic(v)
							}
							crashed = true
						}
					}()
					i.run(cert.ID, end)
					done = true
				}()
			}
			if crashed {
				crashes++
			}
			if got := i.ca.Orders() - n; got != 1 {
				t.Errorf("with a crash at call %d (answered: %v) there are %d orders, want 1", at, answered, got)
			}
			i.rules = nil
			i.answer()
			if err := i.DeleteCertificate(t.Context(), cert.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	if crashes < 14 {
		t.Errorf("%d crashes, want one before and one after each of at least 7 calls", crashes)
	}
	t.Logf("%d crashes", crashes)
}

// losing is an authority whose answer to the first order is lost on its way.
type losing struct {
	Authority
	lost bool
}

func (l *losing) Order(ctx context.Context, a acme.Account, names []string, replaces string) (string, error) {
	order, err := l.Authority.Order(ctx, a, names, replaces)
	if err == nil && !l.lost {
		l.lost = true
		return "", errors.New("order: connection reset by peer")
	}
	return order, err
}

func TestAnOrderWhoseAnswerWasLostIsFoundAgain(t *testing.T) {
	i := newIssuer(t, acmetest.Options{})
	i.Authority = &losing{Authority: i.Authority}
	cert := i.issue("shop.example")
	waiting := i.run(cert.ID, func(c weir.Certificate) bool { return c.Issuance.Failed > 0 })
	if is := waiting.Issuance; waiting.State(time.Now()) != weir.CertificatePending || is.Plan != "order: connection reset by peer" || is.Asked.IsZero() || is.Order != "" {
		t.Errorf("%+v, want it pending still, with an order that may have been made", is)
	}
	i.run(cert.ID, issued)
	if n := i.ca.Orders(); n != 1 {
		t.Errorf("%d orders, want one", n)
	}
}

func TestWhatTheAuthorityRefusesIsSaidAndTriedAgainLater(t *testing.T) {
	i := newIssuer(t, acmetest.Options{})
	i.mute.Store(true)
	cert := i.issue("shop.example")
	failed := i.run(cert.ID, func(c weir.Certificate) bool { return c.Issuance.Failed > 0 })
	is := failed.Issuance
	if failed.State(time.Now()) != weir.CertificateErrored || !strings.HasPrefix(is.Err, "shop.example: ") || is.Order != "" || len(is.Sealed) != 0 || !is.Next.After(failed.Created) {
		t.Errorf("%+v, want it errored with the authority's sentence, without the order and its key", is)
	}
	i.mute.Store(false)
	i.run(cert.ID, issued)

	blocked := i.run(i.issue("blocked.example").ID, func(c weir.Certificate) bool { return c.Issuance.Err != "" })
	if is := blocked.Issuance; !strings.HasPrefix(is.Err, "order: the authority refuses: ") || !is.Asked.IsZero() {
		t.Errorf("%+v, want the refusal, and no order that may have been made", is)
	}

	// An authority that has forgotten account and order gets others.
	lost := i.issue("mail.example")
	i.run(lost.ID, func(c weir.Certificate) bool { return c.Issuance.Order != "" })
	err := i.Store.Update(t.Context(), func(tx *store.Tx) error {
		a, err := accountOf(t.Context(), tx, "")
		a.URL += "0"
		acmeAccounts.Put(tx, accountKey(""), a)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	changeRow(t, i.Control, lost.ID, func(c *weir.Certificate) { c.Issuance.Order += "0" })
	i.run(lost.ID, issued)
}

// limiting is an authority that has been asked too often.
type limiting struct {
	Authority
	orders int
}

func (l *limiting) Order(context.Context, acme.Account, []string, string) (string, error) {
	l.orders++
	return "", &acme.Refusal{What: "order", Type: "rateLimited", Detail: "too many certificates", Status: 429, After: 36 * time.Hour}
}

func TestRateLimitsAreRespected(t *testing.T) {
	i := newIssuer(t, acmetest.Options{})
	l := &limiting{Authority: i.Authority}
	i.Authority = l
	cert := i.run(i.issue("shop.example").ID, func(c weir.Certificate) bool { return c.Issuance.Failed > 0 })
	if left := time.Until(cert.Issuance.Next); left < 35*time.Hour || !cert.Issuance.Asked.IsZero() {
		t.Errorf("tried again in %s, want when the authority says", left)
	}
	leader := &term{Control: i.Control, db: i.Store}
	if again, err := leader.reconcileCertificate(t.Context(), cert.ID); err != nil || again < 35*time.Hour || l.orders != 1 {
		t.Errorf("looked at before, it has made %d orders and rests for %s (%v), want one, and a rest till then", l.orders, again, err)
	}
	var waits []time.Duration
	for n := range 8 {
		waits = append(waits, waitAfter(n, false, time.Minute))
	}
	if waits[0] > 2*time.Minute || waits[4] < 30*time.Minute || waits[7] < 9*time.Hour || waits[7] > 15*time.Hour {
		t.Errorf("waits after refusals %v, want from a minute to half a day", waits)
	}
	if w := waitAfter(100, true, time.Minute); w > 12*time.Minute {
		t.Errorf("after 100 failures on the way the next try is in %s, want within 12m", w)
	}
}

func TestNothingIsOrderedBeforeALoadBalancerAnswers(t *testing.T) {
	v := certificateView{at: "https://ca.example", now: time.Now(), mute: "wait for a load balancer",
		cert: weir.Certificate{Issuance: &weir.Issuance{}}}
	if step, _, _ := planCertificate(v); step != makeAccount {
		t.Errorf("first is to %s, want a key for load balancers to answer for", step)
	}
	v.account = acmeAccount{Directory: v.at, Thumbprint: "t"}
	if step, wait, why := planCertificate(v); step != rest || wait != lookAgainAtMute || why != v.mute {
		t.Errorf("then %q in %s (%s), want to wait for a load balancer", step, wait, why)
	}
	v.mute = ""
	for _, c := range []struct {
		now  weir.Issuance
		url  string
		p    *acme.Progress
		want certificateStep
	}{
		{weir.Issuance{}, "", nil, register},
		{weir.Issuance{}, "u", nil, makeKey},
		{weir.Issuance{Sealed: []byte("k")}, "u", nil, makeOrder},
		{weir.Issuance{Sealed: []byte("k"), Authority: v.at, Asked: v.now}, "u", nil, findOrder},
		{weir.Issuance{Sealed: []byte("k"), Authority: v.at, Order: "o"}, "u", nil, lookAtOrder},
		{weir.Issuance{Sealed: []byte("k"), Authority: "https://another.example", Order: "o"}, "u", nil, leaveOrder},
		{weir.Issuance{Sealed: []byte("k"), Authority: v.at, Order: "o"}, "u", &acme.Progress{State: acme.Pending, Challenges: []acme.Challenge{{Type: acme.DNS}, {Type: acme.HTTP}}}, respond},
		{weir.Issuance{Sealed: []byte("k"), Authority: v.at, Order: "o"}, "u", &acme.Progress{State: acme.Pending}, rest},
		{weir.Issuance{Sealed: []byte("k"), Authority: v.at, Order: "o"}, "u", &acme.Progress{State: acme.Ready}, finalize},
		{weir.Issuance{Sealed: []byte("k"), Authority: v.at, Order: "o"}, "u", &acme.Progress{State: acme.Processing}, rest},
		{weir.Issuance{Sealed: []byte("k"), Authority: v.at, Order: "o"}, "u", &acme.Progress{State: acme.Valid}, fetch},
		{weir.Issuance{Sealed: []byte("k"), Authority: v.at, Order: "o"}, "u", &acme.Progress{State: acme.Failed}, endOrder},
		{weir.Issuance{Issued: v.now, Renew: v.now.Add(time.Hour)}, "u", nil, askRenewal},
		{weir.Issuance{Issued: v.now, Renew: v.now.Add(time.Hour), Look: v.now.Add(time.Minute)}, "u", nil, rest},
		{weir.Issuance{Issued: v.now, Renew: v.now.Add(-time.Second), Look: v.now.Add(time.Minute)}, "u", nil, makeKey},
		{weir.Issuance{Sealed: []byte("k"), Next: v.now.Add(time.Hour)}, "u", nil, rest},
	} {
		v.cert.Issuance, v.account.URL, v.progress = &c.now, c.url, c.p
		if step, _, _ := planCertificate(v); step != c.want {
			t.Errorf("%+v, %+v: %q is next, want %q", c.now, c.p, step, c.want)
		}
	}
}

func TestWhetherALoadBalancerAnswersTheAuthority(t *testing.T) {
	c, ctx := newKeeper(t, secrets.NewKey()), t.Context()
	cert := weir.Certificate{ID: "c", DNSNames: []string{"shop.example"}, Issuance: &weir.Issuance{Challenge: weir.ChallengeHTTP}}
	mute := func() string {
		t.Helper()
		v := certificateView{cert: cert, account: acmeAccount{Thumbprint: "t"}}
		if err := c.Store.View(ctx, func(tx *store.Tx) error { return v.lookAtBalancers(ctx, tx) }); err != nil {
			t.Fatal(err)
		}
		return v.mute
	}
	put := func(lb weir.LoadBalancer, node weir.ID, thumbprint string, live int64) {
		t.Helper()
		lb.Status.Active = node
		err := c.Store.Update(ctx, func(tx *store.Tx) error {
			loadBalancers.Put(tx, lb.ID, lb)
			nodeConfigs.Put(tx, node, weir.NodeConfig{Revision: 7, Proxy: weir.Proxy{Thumbprint: thumbprint}})
			nodeStatuses.Put(tx, node, weir.NodeStatus{Revision: live})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	http := []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}}
	https := []weir.Rule{{Entry: weir.HTTPS, EntryPort: 443, Target: weir.HTTP, TargetPort: 80, Certificate: "c"}}
	if why := mute(); !strings.HasPrefix(why, "wait for a load balancer with HTTP at port 80") {
		t.Errorf("without one: %q", why)
	}
	put(weir.LoadBalancer{ID: "1", Name: "red", Team: "red", Rules: http}, "100001", "t", 7)
	if why := mute(); why == "" {
		t.Error("another team's load balancer answers for it")
	}
	put(weir.LoadBalancer{ID: "2", Name: "blog", Rules: http}, "100002", "t", 7)
	if why := mute(); why != "" {
		t.Errorf("with HTTP at port 80: %q, want that it answers", why)
	}
	put(weir.LoadBalancer{ID: "3", Name: "shop", Rules: https, ACME: true}, "100003", "t", 6)
	if why := mute(); why != "wait for load balancer shop to answer for shop.example" {
		t.Errorf("with one that uses it, and does not run the configuration yet: %q", why)
	}
	put(weir.LoadBalancer{ID: "3", Name: "shop", Rules: https, ACME: true}, "100003", "another", 7)
	if why := mute(); why == "" {
		t.Error("one that answers for another account is taken to answer")
	}
	put(weir.LoadBalancer{ID: "3", Name: "shop", Rules: https, ACME: true}, "100003", "t", 7)
	if why := mute(); why != "" {
		t.Errorf("with one that uses it: %q, want that it answers", why)
	}
}

func TestACertificateOnItsWayKeepsNoLoadBalancerFromServing(t *testing.T) {
	cert, _, err := weir.NewIssued("shop", []string{"shop.example"}, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert.ID, cert.Issuance.Plan = "c", "wait for a load balancer"
	v := balancerView{lb: balancer(), machines: []weir.Machine{server(1), instance(2)}, certs: map[weir.ID]weir.Certificate{"c": cert},
		account: acmeAccount{Thumbprint: "t"}, configs: map[weir.ID]weir.NodeConfig{}}
	https := weir.Rule{Entry: weir.HTTPS, EntryPort: 443, Target: weir.HTTP, TargetPort: 80, Certificate: "c"}
	v.lb.Rules = []weir.Rule{https}
	v.lb.ACME = true
	p := v.proxy(time.Minute, netip.MustParseAddr("10.17.0.9"))
	if len(p.Frontends) != 2 || p.Frontends[0].TLS.Certificates[0].Fingerprint != cert.Fingerprint || p.Frontends[1].Name != "http-80" || p.Frontends[1].Backend != "" || p.Thumbprint != "t" {
		t.Errorf("%+v, want HTTPS with the placeholder, and port 80 for the authority", p.Frontends)
	}
	if got := entryPorts(&v.lb); !reflect.DeepEqual(got, []int{443, 80}) {
		t.Errorf("instances are open at %v, want port 80 too", got)
	}
	if s := statusOf(v, nil, nil); !strings.Contains(strings.Join(s.Plan, "\n"), "wait for certificate shop: wait for a load balancer") {
		t.Errorf("plan %q, want that it waits for the certificate, and why", s.Plan)
	}
	cert.Issuance = &weir.Issuance{Issued: time.Now(), Err: "no"}
	v.certs["c"] = cert
	if s := statusOf(v, nil, nil); !strings.Contains(strings.Join(s.Plan, "\n"), "wait for certificate shop to be renewed: no") {
		t.Errorf("plan %q, want that the certificate is not renewed, and why", s.Plan)
	}
	v.lb.Rules, v.lb.ACME = []weir.Rule{{Entry: weir.TCP, EntryPort: 25, Target: weir.TCP, TargetPort: 25}}, false
	if p := v.proxy(time.Minute, netip.MustParseAddr("10.17.0.9")); p.Thumbprint != "" {
		t.Error("a load balancer without HTTP is told of the account")
	}

}

func TestSecretsOfIssuanceAreSealedAnewToo(t *testing.T) {
	old, young := secrets.NewKey(), secrets.NewKey()
	c, ctx := newKeeper(t, old), t.Context()
	c.Authority = &limiting{}
	cert, err := c.IssueCertificate(ctx, "shop", []string{"shop.example"}, "")
	if err != nil {
		t.Fatal(err)
	}
	changeRow(t, c, cert.ID, func(cert *weir.Certificate) {
		cert.Issuance.Sealed = c.Secrets.Seal([]byte("order"), sealFor(cert.ID))
		cert.Issuance.Answers = []weir.Answer{{Name: "shop.example", Sealed: c.Secrets.Seal([]byte("answer"), sealFor(cert.ID))}}
	})
	err = c.Store.Update(ctx, func(tx *store.Tx) error {
		acmeAccounts.Put(tx, accountKey("red"), acmeAccount{Team: "red", Sealed: c.Secrets.Seal([]byte("account"), sealForAccount("red"))})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		keys []string
		n    int
	}{{[]string{young, old}, 4}, {[]string{young}, 0}} {
		if c.Secrets, err = secrets.New(step.keys...); err != nil {
			t.Fatal(err)
		}
		n := 0
		err := c.Store.Update(ctx, func(tx *store.Tx) error {
			certs, err := c.resealCertificates(ctx, tx)
			accounts, err2 := c.resealAccounts(ctx, tx)
			n = certs + accounts
			return errors.Join(err, err2)
		})
		if err != nil || n != step.n {
			t.Errorf("%d sealed anew (%v), want %d", n, err, step.n)
		}
	}
}

// zone is the DNS of a domain, as the authority sees it.
type zone struct {
	ca     *acmetest.Authority
	domain string
	there  map[weir.Record]bool
	adds   int
	fail   int // so many calls fail
}

func (z *zone) Holds(_ context.Context, name string) (bool, error) {
	return name == z.domain || strings.HasSuffix(name, "."+z.domain), nil
}

func (z *zone) Add(_ context.Context, name, value string) error {
	if z.fail--; z.fail >= 0 {
		return weir.Errorf(weir.Unavailable, "no DNS")
	}
	z.adds++
	z.there[weir.Record{Name: name, Value: value}] = true
	z.show(name)
	return nil
}

func (z *zone) Remove(_ context.Context, name, value string) error {
	delete(z.there, weir.Record{Name: name, Value: value})
	z.show(name)
	return nil
}

// show has the authority see the records of a name.
func (z *zone) show(name string) {
	z.ca.SetRecord(name, "")
	for r := range z.there {
		if r.Name == name {
			z.ca.SetRecord(name, r.Value)
		}
	}
}

func TestWildcardsAreIssuedByRecordsThatAreRemovedAgain(t *testing.T) {
	i := newIssuer(t, acmetest.Options{})
	z := &zone{ca: i.ca, domain: "shop.example", there: map[weir.Record]bool{}, fail: 1}
	i.Records, i.Spread = z, time.Millisecond
	if _, err := i.IssueCertificate(weir.WithCaller(t.Context(), weir.Caller{Team: "red"}), "x", []string{"*.shop.example"}, ""); !errors.Is(err, weir.Invalid) {
		t.Errorf("for another team: %v, want weir.Invalid: the domain is not its", err)
	}
	i.mute.Store(true) // nobody is asked by HTTP
	cert := i.issue("*.shop.example", "shop.example")
	got := i.run(cert.ID, func(c weir.Certificate) bool { return issued(c) && len(c.Issuance.Records) == 0 })
	if z.adds == 0 || len(z.there) != 0 || got.State(time.Now()) != weir.CertificateVerified {
		t.Errorf("%d records were added and %v are left, want some and none: %+v", z.adds, z.there, got.Issuance)
	}
	// A name of another domain goes by HTTP, beside one that goes by a record.
	i.mute.Store(false)
	i.run(i.issue("www.shop.example", "mail.example").ID, func(c weir.Certificate) bool { return issued(c) && len(c.Issuance.Records) == 0 })
	elsewhere := i.run(i.issue("*.mail.example").ID, func(c weir.Certificate) bool { return c.Issuance.Plan != "" })
	if elsewhere.Issuance.Plan != "wait for a domain at DigitalOcean that *.mail.example belongs to" || elsewhere.Issuance.Order != "" {
		t.Errorf("%+v, want it to wait for the domain", elsewhere.Issuance)
	}

	// One that is deleted on its way leaves no record.
	gone := i.issue("*.blog.shop.example")
	i.Spread = time.Hour
	i.run(gone.ID, func(c weir.Certificate) bool { return !c.Issuance.Set.IsZero() })
	if len(z.there) != 1 {
		t.Errorf("records %v, want one", z.there)
	}
	if err := i.DeleteCertificate(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	leader := &term{Control: i.Control, db: i.Store}
	for range 2 {
		if _, err := leader.reconcileCertificate(t.Context(), gone.ID); err != nil {
			t.Fatal(err)
		}
	}
	left, err := leftRecords.All(t.Context(), i.Store)
	if err != nil || len(z.there) != 0 || len(left) != 0 {
		t.Errorf("records %v are left, and %v to be removed (%v), want none", z.there, left, err)
	}
}

func TestLeadersThatTakeTurnsOrderOnce(t *testing.T) {
	i := newIssuer(t, acmetest.Options{})
	z := &zone{ca: i.ca, domain: "shop.example", there: map[weir.Record]bool{}}
	i.Records, i.Spread = z, time.Millisecond
	err := i.Store.Update(t.Context(), func(tx *store.Tx) error { loadBalancers.Delete(tx, i.lb); return nil })
	if err != nil {
		t.Fatal(err)
	}
	cert := i.issue("*.shop.example", "shop.example")
	end := time.Now().Add(time.Minute)
	turns := 0
	for turn := 50 * time.Millisecond; !issued(i.row(cert.ID)) && time.Now().Before(end); turn += 20 * time.Millisecond {
		ctx, stop := context.WithTimeout(t.Context(), turn)
		if err := New(i.Options).Run(ctx); err != nil {
			t.Fatal(err)
		}
		stop()
		turns++
	}
	if got := i.row(cert.ID); !issued(got) || i.ca.Orders() != 1 {
		t.Errorf("after %d leaders there are %d orders, and the certificate is %s, want it verified by one order: %+v", turns, i.ca.Orders(), got.State(time.Now()), got.Issuance)
	}
	t.Logf("%d leaders", turns)
}

func TestWithoutAnAuthorityNoCertificateIsPromised(t *testing.T) {
	c := newKeeper(t, secrets.NewKey())
	if _, err := c.IssueCertificate(t.Context(), "shop", []string{"shop.example"}, ""); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "--acme-directory") {
		t.Errorf("%v, want an Invalid that names the flag", err)
	}
	c.Authority = &limiting{}
	if _, err := c.IssueCertificate(t.Context(), "shop", []string{"*.shop.example"}, ""); !errors.Is(err, weir.Invalid) {
		t.Errorf("with a wildcard: %v, want Invalid", err)
	}
}
