package control

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/acme"
	"weir/acme/acmetest"
	"weir/secrets"
	"weir/store"
	"weir/weir"
)

// configured returns what instances of a load balancer do.
func configured(ctx context.Context, tx *store.Tx, lb weir.LoadBalancer, account acmeAccount) (weir.Proxy, error) {
	v := balancerView{lb: lb, account: account, certs: map[weir.ID]weir.Certificate{}}
	for _, r := range lb.Rules {
		if r.Certificate == "" {
			continue
		}
		cert, err := certificates.Get(ctx, tx, r.Certificate)
		if err != nil {
			return weir.Proxy{}, err
		}
		v.certs[cert.ID] = cert
	}
	return v.proxy(time.Minute, netip.MustParseAddr("10.17.0.9")), nil
}

// listenTLS shows who asks by TLS-ALPN-01 what the node's configuration has for that, and returns the port.
func (i *issuer) listenTLS() (port int) {
	i.t.Helper()
	show := func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		ctx := context.Background()
		config, err := nodeConfigs.Get(ctx, i.Store, "100001")
		if err == nil {
			config, err = i.withKeys(ctx, config)
		}
		if err != nil {
			return nil, err
		}
		for _, ref := range config.Proxy.Challenges {
			if strings.HasSuffix(string(ref.ID), "/"+hello.ServerName) {
				pair, err := tls.X509KeyPair([]byte(config.Proxy.PEM[ref.ID]), []byte(config.Proxy.PEM[ref.ID]))
				return &pair, err
			}
		}
		return nil, errors.New("nobody asks for that")
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: show, NextProtos: []string{"acme-tls/1"}})
	if err != nil {
		i.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	i.t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// taken are rules by which a load balancer ends TLS with a certificate, and answers no HTTP at the usual port.
func taken(cert weir.ID) []weir.Rule {
	return []weir.Rule{{Entry: weir.TCP, EntryPort: 80, Target: weir.TCP, TargetPort: 80},
		{Entry: weir.HTTPS, EntryPort: 443, Target: weir.HTTP, TargetPort: 8080, Certificate: cert}}
}

func TestACertificateIsIssuedByTLSWhereAnotherRuleHasThePortOfHTTP(t *testing.T) {
	i := newIssuer(t, acmetest.Options{})
	i.mute.Store(true)
	cert := i.issue("shop.example", "www.shop.example")
	i.rules = taken(cert.ID)
	i.answer()
	// The order is there, and nothing is told to the authority before the load balancer shows the answers.
	leader := &term{Control: i.Control, db: i.Store}
	for range 3 {
		if again, err := leader.reconcileCertificate(t.Context(), cert.ID); err != nil || again != lookAgainAtMute {
			t.Fatalf("looked at again in %s (%v), want to wait for the load balancer", again, err)
		}
		i.answerAccount()
	}
	waits := i.row(cert.ID)
	if is := waits.Issuance; len(is.Answers) != 2 || is.Order == "" || is.Plan != "wait for load balancer "+balancer().Name+" to answer for shop.example, www.shop.example" {
		t.Errorf("%+v, want two answers that wait for the load balancer", is)
	}
	i.answer()
	config, err := nodeConfigs.Get(t.Context(), i.Store, "100001")
	if err != nil || len(config.Proxy.Challenges) != 2 || !slices.ContainsFunc(config.Proxy.Frontends, func(f weir.Frontend) bool { return f.TLS != nil && f.TLS.Challenged }) {
		t.Errorf("configuration %+v (%v), want the challenges in it", config.Proxy, err)
	}
	got := i.run(cert.ID, issued)
	if is := got.Issuance; len(is.Answers) != 0 || !is.Answered || i.ca.Orders() != 1 {
		t.Errorf("%+v after %d orders, want one, and no answer left", is, i.ca.Orders())
	}
	over, err := nodeConfigs.Get(t.Context(), i.Store, "100001")
	if err != nil || len(over.Proxy.Challenges) != 0 || !over.Proxy.Frontends[1].TLS.Challenged {
		t.Errorf("configuration %+v (%v), want no challenge in it, and that there may be others", over.Proxy, err)
	}
	// What is over is left out of a configuration that still names it.
	if config, err = i.withKeys(t.Context(), config); err != nil || len(config.Proxy.Challenges) != 0 || len(config.Proxy.PEM) != 1 {
		t.Errorf("a node is given %d challenges and %d keys (%v), want none and that of the certificate", len(config.Proxy.Challenges), len(config.Proxy.PEM), err)
	}
}

// answerAccount has the load balancer be live without what answers by TLS.
func (i *issuer) answerAccount() {
	i.t.Helper()
	err := i.Store.Update(i.t.Context(), func(tx *store.Tx) error {
		config, err := nodeConfigs.Get(i.t.Context(), tx, "100001")
		config.Proxy.Challenges = nil
		nodeConfigs.Put(tx, "100001", config)
		return err
	})
	if err != nil {
		i.t.Fatal(err)
	}
}

func TestNoCrashOrdersTwiceByTLS(t *testing.T) {
	i := newIssuer(t, acmetest.Options{})
	i.mute.Store(true)
	i.crashEverywhere(func(cert weir.Certificate) {
		i.rules = taken(cert.ID)
		i.answer()
	})
}

// choosy is an authority that offers challenges of some types alone.
type choosy struct {
	Authority
	types []string
}

func (c *choosy) Look(ctx context.Context, a acme.Account, order string) (acme.Progress, error) {
	p, err := c.Authority.Look(ctx, a, order)
	p.Challenges = slices.DeleteFunc(p.Challenges, func(ch acme.Challenge) bool { return !slices.Contains(c.types, ch.Type) })
	return p, err
}

func TestTLSIsSpokenWhereTheAuthorityOffersNoHTTP(t *testing.T) {
	i := newIssuer(t, acmetest.Options{})
	c := &choosy{Authority: i.Authority, types: []string{acme.ALPN, acme.DNS}}
	i.Authority = c
	i.mute.Store(true)
	cert := i.issue("shop.example")
	i.rules = taken(cert.ID)[1:] // and port 80 is free
	i.run(cert.ID, issued)

	c.types = []string{acme.DNS}
	i.rules = nil
	waits := i.run(i.issue("mail.example").ID, func(c weir.Certificate) bool { return strings.HasPrefix(c.Issuance.Plan, "wait for an authority") })
	if got, want := waits.Issuance.Plan, "wait for an authority that asks by http-01 for mail.example: this one offers dns-01"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWhichChallengeIsAnswered(t *testing.T) {
	c, ctx := newKeeper(t, secrets.NewKey()), t.Context()
	tcp, https := taken("c")[0], taken("c")[1]
	http := weir.Rule{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}
	pass := weir.Rule{Entry: weir.HTTPS, EntryPort: 443, Target: weir.HTTPS, TargetPort: 443, Passthrough: true}
	aside := https
	aside.EntryPort = 8443
	for _, test := range []struct {
		name      string
		rules     []weir.Rule
		challenge weir.ChallengeType
		byTLS     bool
		mute      string
	}{
		{"port 80 is free", []weir.Rule{https}, "", false, ""},
		{"HTTP at port 80", []weir.Rule{http, https}, "", false, ""},
		{"TCP at port 80", []weir.Rule{tcp, https}, "", true, ""},
		{"TCP at port 80, HTTPS elsewhere", []weir.Rule{tcp, aside}, "", false, "wait for a load balancer with HTTP at port 80"},
		{"TCP at port 80, TLS passed through", []weir.Rule{tcp, pass, aside}, "", false, "wait for a load balancer with HTTP at port 80"},
		{"TLS is wanted", []weir.Rule{http, https}, weir.ChallengeALPN, true, ""},
		{"TLS is wanted, and passed through", []weir.Rule{http, pass, aside}, weir.ChallengeALPN, true, "wait for a load balancer with a rule for HTTPS at port 443 that uses it, which answers for shop.example"},
		{"HTTP is wanted", []weir.Rule{tcp, https}, weir.ChallengeHTTP, false, "wait for a load balancer with HTTP at port 80"},
	} {
		v := certificateView{account: acmeAccount{Thumbprint: "t"},
			cert: weir.Certificate{ID: "c", DNSNames: []string{"shop.example"}, Issuance: &weir.Issuance{Challenge: test.challenge}}}
		err := c.Store.Update(ctx, func(tx *store.Tx) (err error) {
			lb := weir.LoadBalancer{ID: "1", Name: "shop", Rules: test.rules, ACME: true}
			lb.Status.Active = "100001"
			loadBalancers.Put(tx, lb.ID, lb)
			nodeConfigs.Put(tx, "100001", weir.NodeConfig{Revision: 7, Proxy: weir.Proxy{Thumbprint: "t"}})
			nodeStatuses.Put(tx, "100001", weir.NodeStatus{Revision: 7})
			return nil
		})
		if err == nil {
			err = c.Store.View(ctx, func(tx *store.Tx) error { return v.lookAtBalancers(ctx, tx) })
		}
		if err != nil || v.byTLS != test.byTLS || !strings.HasPrefix(v.mute, test.mute) || (test.mute == "") != (v.mute == "") {
			t.Errorf("%s: by TLS is %v, and it waits for %q (%v), want %v and %q", test.name, v.byTLS, v.mute, err, test.byTLS, test.mute)
		}
	}
}

func TestAnswersAreShownBeforeTheAuthorityIsTold(t *testing.T) {
	ch := acme.Challenge{Name: "shop.example", Type: acme.ALPN, Value: "v"}
	answer := weir.Answer{Name: "shop.example", Value: "v"}
	for _, test := range []struct {
		name    string
		answers []weir.Answer
		mute    string
		want    certificateStep
	}{
		{"there is none", nil, "", makeAnswers},
		{"it is of another challenge", []weir.Answer{{Name: "shop.example", Value: "w"}}, "", makeAnswers},
		{"it is not shown", []weir.Answer{answer}, "wait for load balancer shop", rest},
		{"it is shown", []weir.Answer{answer}, "", respond},
	} {
		v := certificateView{at: "a", now: time.Now(), byTLS: true, mute: test.mute, muteTLS: test.mute, account: acmeAccount{Directory: "a", Thumbprint: "t", URL: "u"},
			progress: &acme.Progress{State: acme.Pending, Names: []string{"shop.example"}, Challenges: []acme.Challenge{{Name: "shop.example", Type: acme.HTTP}, ch}},
			cert:     weir.Certificate{Issuance: &weir.Issuance{Authority: "a", Order: "o", Answers: test.answers}}}
		if step, _, why := planCertificate(v); step != test.want || step == rest && why != test.mute {
			t.Errorf("%s: %q is next (%s), want %q", test.name, step, why, test.want)
		}
	}
}

func TestPort80StaysClosedWhereTLSIsWanted(t *testing.T) {
	c, ctx := newKeeper(t, secrets.NewKey()), t.Context()
	c.Authority = &limiting{}
	for challenge, want := range map[weir.ChallengeType]bool{"": true, weir.ChallengeHTTP: true, weir.ChallengeALPN: false} {
		cert, err := c.IssueCertificate(ctx, "shop"+string(challenge), []string{"shop.example"}, challenge)
		if err != nil {
			t.Fatal(err)
		}
		var open bool
		err = c.Store.View(ctx, func(tx *store.Tx) (err error) {
			open, err = checkCertificates(ctx, tx, weir.LoadBalancer{Rules: taken(cert.ID)})
			return err
		})
		if err != nil || open != want {
			t.Errorf("with %q port 80 is opened: %v (%v), want %v", challenge, open, err, want)
		}
	}
}

func TestAnswersTouchTheLoadBalancersThatShowThem(t *testing.T) {
	none := weir.Certificate{Issuance: &weir.Issuance{}}
	one := weir.Certificate{Issuance: &weir.Issuance{Answered: true, Answers: []weir.Answer{{Name: "shop.example", Value: "v"}}}}
	over := weir.Certificate{Issuance: &weir.Issuance{Answered: true}}
	got := []bool{sameAnswers(none, none), sameAnswers(one, one), sameAnswers(none, one), sameAnswers(one, over), sameAnswers(none, over), sameAnswers(weir.Certificate{}, weir.Certificate{})}
	if want := []bool{true, true, false, false, false, true}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestCertificatesForOneNameHaveTheirTurns(t *testing.T) {
	at := time.Now()
	cert := func(id weir.ID, made time.Time, names ...string) weir.Certificate {
		c := weir.Certificate{ID: id, Issuance: &weir.Issuance{Answered: true}}
		for _, name := range names {
			c.Issuance.Answers = append(c.Issuance.Answers, weir.Answer{Name: name, Made: made})
		}
		return c
	}
	v := balancerView{lb: balancer(), certs: map[weir.ID]weir.Certificate{"a": cert("a", at.Add(time.Second), "shop.example"), "b": cert("b", at, "www.shop.example", "shop.example")}}
	v.lb.Rules = append(taken("a"), taken("b")[1])
	shown := func() (ids []weir.ID) {
		for _, ref := range v.proxy(time.Minute, netip.MustParseAddr("10.17.0.9")).Challenges {
			ids = append(ids, ref.ID)
		}
		return ids
	}
	if got, want := shown(), []weir.ID{"b/shop.example", "b/www.shop.example"}; !slices.Equal(got, want) {
		t.Errorf("%q are shown, want %q: the other came later", got, want)
	}
	v.certs["b"] = cert("b", at)
	if got, want := shown(), []weir.ID{"a/shop.example"}; !slices.Equal(got, want) {
		t.Errorf("then %q are shown, want %q", got, want)
	}
	v.lb.Rules[1].EntryPort, v.lb.Rules[2].EntryPort = 8443, 8443
	p := v.proxy(time.Minute, netip.MustParseAddr("10.17.0.9"))
	if len(p.Challenges) != 0 || slices.ContainsFunc(p.Frontends, func(f weir.Frontend) bool { return f.TLS != nil && f.TLS.Challenged }) {
		t.Errorf("%+v, want nothing shown where no authority asks", p)
	}
}
