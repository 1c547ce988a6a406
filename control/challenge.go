package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weir/acme"
	"weir/store"
	"weir/weir"
)

// touchWaiting touches the certificates that wait for a load balancer to answer the authority.
func (t *term) touchWaiting() {
	t.waiting.Range(func(id, _ any) bool {
		t.certificates.Touch(id.(weir.ID))
		return true
	})
}

// lookAtBalancers sees whether an authority would find an answer at the load balancers of the certificate's team.
func (v *certificateView) lookAtBalancers(ctx context.Context, tx *store.Tx) error {
	all, err := loadBalancers.AllOf(ctx, tx, v.cert.Team)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(lb weir.LoadBalancer) bool { return !lb.Deleting.IsZero() })
	if v.mute, err = muteFor(ctx, tx, &v.cert, all, v.account.Thumbprint); err != nil {
		return err
	}
	return v.lookAtTLS(ctx, tx, all)
}

// muteFor returns why an authority that asks for the names of a certificate would find no answer, "" if one of these load
// balancers answers. That of one that uses the certificate counts if there is one, otherwise that of any.
func muteFor(ctx context.Context, tx *store.Tx, cert *weir.Certificate, all []weir.LoadBalancer, thumbprint string) (why string, err error) {
	all = slices.DeleteFunc(slices.Clone(all), func(lb weir.LoadBalancer) bool { return !answersChallenges(&lb) })
	if using := slices.DeleteFunc(slices.Clone(all), func(lb weir.LoadBalancer) bool { return !lb.Uses(cert.ID) }); len(using) > 0 {
		all = using
	}
	if len(all) == 0 {
		return fmt.Sprintf("wait for a load balancer with HTTP at port %d, or with a rule that uses it, which is not internal and answers for %s", httpPort, strings.Join(cert.DNSNames, ", ")), nil
	}
	return muteOf(ctx, tx, cert, all, func(p *weir.Proxy) bool { return p.Thumbprint == thumbprint })
}

// muteOf returns why none of these load balancers answers for a certificate, "" if one does: all of its active instances run a
// configuration that answers.
func muteOf(ctx context.Context, tx *store.Tx, cert *weir.Certificate, all []weir.LoadBalancer, answer func(*weir.Proxy) bool) (why string, err error) {
	for _, lb := range all {
		answers := len(lb.Status.Actives()) > 0
		for _, node := range lb.Status.Actives() {
			config, err := nodeConfigs.Get(ctx, tx, node)
			if err != nil && !errors.Is(err, weir.NotFound) {
				return "", err
			}
			status, err := nodeStatuses.Get(ctx, tx, node)
			if err != nil && !errors.Is(err, weir.NotFound) {
				return "", err
			}
			answers = answers && answer(&config.Proxy) && status.Revision == config.Revision
		}
		if answers {
			return "", nil
		}
	}
	return fmt.Sprintf("wait for load balancer %s to answer for %s", all[0].Name, strings.Join(cert.DNSNames, ", ")), nil
}

// answersChallenges reports whether a load balancer speaks HTTP where an authority asks: from outside.
func answersChallenges(lb *weir.LoadBalancer) bool {
	if lb.Internal {
		return false
	}
	at := slices.IndexFunc(lb.Rules, func(r weir.Rule) bool { return r.EntryPort == httpPort })
	if at < 0 {
		return lb.ACME || redirects(lb) != 0
	}
	return lb.Rules[at].Entry == weir.HTTP
}

// An authority that asks by TLS-ALPN-01 is shown a certificate for its challenge, at port 443. Unlike what answers HTTP-01, that
// is of one order: it is made once the order is there, kept in the certificate's row with its key, which is sealed, and is in
// the configuration of the load balancers that use the certificate until the order is over. See haproxy/challenge.go for what
// these do with it.

// endsTLS reports whether a load balancer ends TLS where an authority asks by it.
func endsTLS(lb *weir.LoadBalancer) bool {
	return !lb.Internal && slices.ContainsFunc(lb.Rules, func(r weir.Rule) bool { return r.EntryPort == httpsPort && r.Certificate != "" })
}

// lookAtTLS sees how an authority that asks by TLS finds an answer at these load balancers, and whether it is to be asked to. That
// is what the user wants, or else where those that use the certificate end TLS at the port, and none of them speaks HTTP at its
// port.
func (v *certificateView) lookAtTLS(ctx context.Context, tx *store.Tx, all []weir.LoadBalancer) (err error) {
	speaks := false
	all = slices.DeleteFunc(slices.Clone(all), func(lb weir.LoadBalancer) bool {
		if !lb.Uses(v.cert.ID) {
			return true
		}
		speaks = speaks || answersChallenges(&lb)
		return !endsTLS(&lb)
	})
	v.ends = len(all) > 0
	v.byTLS = v.cert.Issuance.Challenge == weir.ChallengeALPN || v.cert.Issuance.Challenge == "" && v.ends && !speaks
	if !v.ends {
		v.muteTLS = fmt.Sprintf("wait for a load balancer with a rule for HTTPS at port %d that uses it, which answers for %s", httpsPort, strings.Join(v.cert.DNSNames, ", "))
	} else {
		refs := answerRefs(&v.cert)
		v.muteTLS, err = muteOf(ctx, tx, &v.cert, all, func(p *weir.Proxy) bool {
			return !slices.ContainsFunc(refs, func(ref weir.CertificateRef) bool { return !slices.Contains(p.Challenges, ref) })
		})
	}
	if v.byTLS {
		v.mute = v.muteTLS
	}
	return err
}

// isALPN reports whether a challenge is one that load balancers answer by a certificate.
func isALPN(ch acme.Challenge) bool { return ch.Type == acme.ALPN }

// offered returns the types of the open challenges for a name.
func (v *certificateView) offered(name string) (types []string) {
	for _, ch := range v.progress.Challenges {
		if ch.Name == name {
			types = append(types, ch.Type)
		}
	}
	return types
}

// typeFor returns the type of challenge by which the authority is shown who has a name that no record shows.
func (v *certificateView) typeFor(name string) string {
	offered := v.offered(name)
	alone := v.cert.Issuance.Challenge == "" && v.ends && !slices.Contains(offered, acme.HTTP) && slices.Contains(offered, acme.ALPN)
	if v.byTLS || alone {
		return acme.ALPN
	}
	return acme.HTTP
}

// unoffered returns that the authority offers no challenge that is answered for a name, "" if it offers one for each.
func (v *certificateView) unoffered() string {
	for _, ch := range v.progress.Challenges {
		want := acme.DNS
		if !v.held[ch.Name] {
			want = v.typeFor(ch.Name)
		}
		if offered := v.offered(ch.Name); !slices.Contains(offered, want) {
			return fmt.Sprintf("wait for an authority that asks by %s for %s: this one offers %s", want, ch.Name, strings.Join(offered, ", "))
		}
	}
	return ""
}

// unanswered reports whether there is no certificate yet for one of these challenges.
func (v *certificateView) unanswered(challenges []acme.Challenge) bool {
	return slices.ContainsFunc(challenges, func(ch acme.Challenge) bool {
		return isALPN(ch) && !slices.ContainsFunc(v.cert.Issuance.Answers, func(a weir.Answer) bool { return isFor(a, ch) })
	})
}

// isFor reports whether a is the answer to a challenge.
func isFor(a weir.Answer, ch acme.Challenge) bool { return a.Name == ch.Name && a.Value == ch.Value }

// answersTo returns the certificates that answer challenges: those that there are, and others for those that have none. What
// answers a challenge that the authority is looking at stays.
func (t *term) answersTo(v *certificateView, challenges []acme.Challenge) (answers []weir.Answer, err error) {
	for _, a := range v.cert.Issuance.Answers {
		if !slices.ContainsFunc(challenges, func(ch acme.Challenge) bool { return ch.Name == a.Name && !isFor(a, ch) }) {
			answers = append(answers, a)
		}
	}
	for _, ch := range challenges {
		if !isALPN(ch) || slices.ContainsFunc(answers, func(a weir.Answer) bool { return isFor(a, ch) }) {
			continue
		}
		leaf, key, err := ch.Certificate()
		if err != nil {
			return nil, err
		}
		cert, err := weir.NewCertificate(v.cert.Name, string(leaf), "", string(key), time.Now())
		if err != nil {
			return nil, err
		}
		answers = append(answers, weir.Answer{Name: ch.Name, Value: ch.Value, Leaf: cert.Leaf, Fingerprint: cert.Fingerprint,
			Sealed: t.Secrets.Seal(key, sealFor(v.cert.ID)), Made: v.now.UTC()})
	}
	return answers, nil
}

func sameAnswer(a, b weir.Answer) bool { return a.Value == b.Value && a.Fingerprint == b.Fingerprint }

// sameAnswers reports whether load balancers show the same for two certificates, and where.
func sameAnswers(a, b weir.Certificate) bool {
	if a.Issuance == nil || b.Issuance == nil {
		return a.Issuance == b.Issuance
	}
	return a.Issuance.Answered == b.Issuance.Answered && slices.EqualFunc(a.Issuance.Answers, b.Issuance.Answers, sameAnswer)
}

// answerRefs returns what names the answers of a certificate in the configurations of nodes: the certificate and the name.
func answerRefs(cert *weir.Certificate) (refs []weir.CertificateRef) {
	if cert.Issuance == nil {
		return nil
	}
	for _, a := range cert.Issuance.Answers {
		refs = append(refs, weir.CertificateRef{ID: cert.ID + "/" + weir.ID(a.Name), Fingerprint: a.Fingerprint})
	}
	return refs
}

// challenge has an authority answered that asks by TLS for the certificates of the load balancer. Of several certificates for a
// name, whose challenges differ, one has its turn after the other.
func (v *balancerView) challenge(p *weir.Proxy) {
	type shown struct {
		name string
		made time.Time
		ref  weir.CertificateRef
	}
	var all []shown
	answered := false
	for _, cert := range v.certs {
		if cert.Issuance == nil || !endsTLS(&v.lb) {
			continue
		}
		answered = answered || cert.Issuance.Answered
		for i, ref := range answerRefs(&cert) {
			a := cert.Issuance.Answers[i]
			all = append(all, shown{a.Name, a.Made, ref})
		}
	}
	if !answered {
		return
	}
	slices.SortFunc(all, func(a, b shown) int { return cmp.Or(a.made.Compare(b.made), cmp.Compare(a.ref.ID, b.ref.ID)) })
	taken := map[string]bool{}
	for _, s := range all {
		if !taken[s.name] {
			p.Challenges = append(p.Challenges, s.ref)
		}
		taken[s.name] = true
	}
	for i := range p.Frontends {
		if f := &p.Frontends[i]; f.TLS != nil && f.Bind.Port() == httpsPort {
			f.TLS.Challenged = true
		}
	}
}

// withAnswers adds to pems the answers that a node's configuration names, with their private keys. One that is over is left
// out: the node's next configuration has it no more.
func (c *Control) withAnswers(ctx context.Context, p *weir.Proxy, pems map[weir.ID]string) error {
	var left []weir.CertificateRef
	for _, ref := range p.Challenges {
		id, _, _ := strings.Cut(string(ref.ID), "/")
		cert, err := certificates.Get(ctx, c.Store, weir.ID(id))
		if errors.Is(err, weir.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		at := slices.Index(answerRefs(&cert), ref)
		if at < 0 {
			continue
		}
		a := cert.Issuance.Answers[at]
		if c.Secrets == nil {
			return errors.New("this control plane has no key to read those of challenges with")
		}
		key, err := c.Secrets.Open(a.Sealed, sealFor(cert.ID))
		if err != nil {
			return fmt.Errorf("the private key of a challenge for certificate %s cannot be read: %w", cert.Name, err)
		}
		pems[ref.ID] = plainPEM(a.Leaf + string(key))
		left = append(left, ref)
	}
	p.Challenges = left
	return nil
}
