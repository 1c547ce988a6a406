package control

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"weir/acme"
	"weir/store"
	"weir/weir"
)

// Authority issues certificates. Each call can be repeated with what is stored, but for Order: see package acme, whose
// Client is one.
type Authority interface {
	Directory() string
	Register(ctx context.Context, key crypto.Signer, email string) (acme.Account, error)
	Order(ctx context.Context, a acme.Account, names []string, replaces string) (order string, err error)
	Find(ctx context.Context, a acme.Account, names []string, except map[string]bool) (order string, err error)
	Look(ctx context.Context, a acme.Account, order string) (acme.Progress, error)
	Respond(ctx context.Context, a acme.Account, ch acme.Challenge) error
	Finalize(ctx context.Context, a acme.Account, order string, p acme.Progress, names []string, key crypto.Signer) error
	Fetch(ctx context.Context, a acme.Account, p acme.Progress) (leaf, chain string, err error)
	Renewal(ctx context.Context, leaf string) (*acme.Window, error)
}

// Records sets TXT records in the DNS, by which an authority sees who has a name. Each call can be repeated. Package domains
// has one.
type Records interface {
	// Holds reports whether a name is one whose records it sets.
	Holds(ctx context.Context, name string) (bool, error)
	// Add has a name have a record beside those that it has.
	Add(ctx context.Context, name, value string) error
	// Remove removes that record.
	Remove(ctx context.Context, name, value string) error
}

// leftRecords are records of certificates that were deleted, by the certificate.
var leftRecords = store.NewTable[[]weir.Record]("acme_records")

// acmeAccount is a team's account with the authority. Each team has its own: load balancers answer the challenges of their
// team's account alone, so that no team gets a certificate for a name that leads to another's.
type acmeAccount struct {
	Team       weir.ID   `json:"team,omitempty"`
	Directory  string    `json:"directory"` // the authority's
	Sealed     []byte    `json:"sealed"`    // the private key, sealed
	Thumbprint string    `json:"thumbprint"`
	URL        string    `json:"url,omitempty"` // what the authority knows it by; empty until it does
	Orders     string    `json:"orders,omitempty"`
	Created    time.Time `json:"created"`
}

var acmeAccounts = store.NewTable[acmeAccount]("acme_accounts") // by accountKey

// accountKey is where the account of a team is: the first team has no name, and a key has one.
func accountKey(team weir.ID) weir.ID { return "team-" + team }

func sealForAccount(team weir.ID) string {
	return "private key of the ACME account of team " + string(team)
}

// accountOf returns a team's account, or none.
func accountOf(ctx context.Context, r store.Reader, team weir.ID) (acmeAccount, error) {
	a, err := acmeAccounts.Get(ctx, r, accountKey(team))
	if errors.Is(err, weir.NotFound) {
		err = nil
	}
	return a, err
}

// resealAccounts does as resealCertificates does.
func (c *Control) resealAccounts(ctx context.Context, tx *store.Tx) (n int, err error) {
	all, err := acmeAccounts.All(ctx, tx)
	if err != nil {
		return 0, err
	}
	for _, a := range all {
		changed, err := c.resealEach([]*[]byte{&a.Sealed}, sealForAccount(a.Team))
		if err != nil {
			return n, fmt.Errorf("ACME account: %w", err)
		}
		if changed > 0 {
			acmeAccounts.Put(tx, accountKey(a.Team), a)
		}
		n += changed
	}
	return n, nil
}

// checkIssuance returns why no certificate can be got for names.
func (c *Control) checkIssuance(team weir.ID, names []string) error {
	if c.Authority == nil {
		return weir.Errorf(weir.Invalid, "type is \"lets_encrypt\", and this Weir knows no authority to get certificates from: start it with --acme-directory, or get one elsewhere and upload it with the type custom")
	}
	for _, name := range names {
		if strings.HasPrefix(name, "*.") && !c.byRecords(team) {
			return weir.Errorf(weir.Invalid, "dns_names has %q: an authority wants a record in the DNS for it, which Weir does not make, want names without *", name)
		}
	}
	return nil
}

// byRecords reports whether certificates of a team are got by records in the DNS. The domains are those of who operates the
// region: another team, which may have nothing to do with them, gets none by them.
func (c *Control) byRecords(team weir.ID) bool { return c.Records != nil && team == "" }

// IssueCertificate has a certificate for names got from the authority, which is shown by challenge who has them, and renewed.
// It is pending at first.
func (c *Control) IssueCertificate(ctx context.Context, name string, names []string, challenge weir.ChallengeType) (weir.Certificate, error) {
	if err := c.checkIssuance(weir.CallerOf(ctx).Team, names); err != nil {
		return weir.Certificate{}, err
	}
	cert, key, err := weir.NewIssued(name, names, challenge, time.Now())
	if err != nil {
		return cert, err
	}
	return c.AddCertificate(ctx, cert, key)
}

// certificateView is all that planCertificate judges by.
type certificateView struct {
	cert     weir.Certificate
	account  acmeAccount
	at       string          // the authority's directory
	mute     string          // why a challenge would find no answer; empty if it finds one
	byTLS    bool            // challenges are to be of the type ALPN, where there is one
	ends     bool            // a load balancer could answer such
	muteTLS  string          // why such a challenge would find no answer; empty if it finds one
	progress *acme.Progress  // of the order under way, if it was looked at
	held     map[string]bool // names, without what makes them wildcards, that are shown to be ours by records
	spread   time.Duration   // how old a record must be
	now      time.Time
}

// mine returns the challenges that are to be answered, one for each name, and the records that answer some of them.
func (v *certificateView) mine() (all []acme.Challenge, records []weir.Record) {
	for _, ch := range v.progress.Challenges {
		switch {
		case ch.Type == acme.DNS && v.held[ch.Name]:
			all = append(all, ch)
			records = append(records, weir.Record{Name: "_acme-challenge." + ch.Name, Value: ch.Value})
		case !v.held[ch.Name] && ch.Type == v.typeFor(ch.Name):
			all = append(all, ch)
		}
	}
	return all, records
}

// certificateStep is one thing to do about a certificate.
type certificateStep string

const (
	makeAccount certificateStep = "make a key for an account"
	register    certificateStep = "register the account"
	leaveOrder  certificateStep = "forget the order of another authority"
	makeKey     certificateStep = "make a key"
	findOrder   certificateStep = "find the order that may have been made"
	makeOrder   certificateStep = "order"
	lookAtOrder certificateStep = "look at the order"
	setRecords  certificateStep = "set records in the DNS"
	dropRecords certificateStep = "remove the records in the DNS"
	makeAnswers certificateStep = "make certificates that answer challenges"
	respond     certificateStep = "answer challenges"
	finalize    certificateStep = "ask for the certificate"
	fetch       certificateStep = "fetch the certificate"
	endOrder    certificateStep = "give up the order"
	askRenewal  certificateStep = "ask when to renew"
	rest        certificateStep = ""
)

// How often an authority that says nothing of it is asked what has become of something.
const (
	lookAgainAtOrder = time.Second
	lookAgainAtMute  = 30 * time.Second // unless a load balancer changes
	leastRenewalInfo = time.Minute
	usualRenewalInfo = 6 * time.Hour
	mostRenewalInfo  = 24 * time.Hour
)

// planCertificate returns what is next, and if that is to rest, for how long, and why.
func planCertificate(v certificateView) (step certificateStep, wait time.Duration, why string) {
	i := v.cert.Issuance
	until := func(at time.Time) time.Duration { return max(at.Sub(v.now), time.Millisecond) }
	switch {
	case i.Next.After(v.now):
		return rest, until(i.Next), i.Plan
	case i.Order == "" && len(i.Records) > 0:
		return dropRecords, 0, ""
	case (i.Order != "" || !i.Asked.IsZero()) && i.Authority != v.at:
		return leaveOrder, 0, ""
	case !i.Issued.IsZero() && i.Order == "" && i.Asked.IsZero() && v.now.Before(i.Renew):
		if !i.Look.After(v.now) {
			return askRenewal, 0, ""
		}
		return rest, min(until(i.Renew), until(i.Look)), ""
	case v.account.Thumbprint == "" || v.account.Directory != v.at:
		return makeAccount, 0, ""
	case i.Order == "" && v.mute != "":
		return rest, lookAgainAtMute, v.mute
	case v.account.URL == "":
		return register, 0, ""
	case i.Order == "" && len(i.Sealed) == 0:
		return makeKey, 0, ""
	case i.Order == "" && !i.Asked.IsZero():
		return findOrder, 0, ""
	case i.Order == "":
		return makeOrder, 0, ""
	case v.progress == nil:
		return lookAtOrder, 0, ""
	}
	switch p := v.progress; p.State {
	case acme.Pending:
		challenges, records := v.mine()
		unset := slices.ContainsFunc(records, func(r weir.Record) bool { return !slices.Contains(i.Records, r) })
		switch {
		case len(p.Challenges) > 0 && v.mute != "":
			return rest, lookAgainAtMute, v.mute
		case unset || len(records) > 0 && i.Set.IsZero():
			return setRecords, 0, ""
		case v.unanswered(challenges):
			return makeAnswers, 0, ""
		case v.muteTLS != "" && slices.ContainsFunc(challenges, isALPN):
			return rest, lookAgainAtMute, v.muteTLS
		case len(records) > 0 && v.now.Sub(i.Set) < v.spread:
			return rest, until(i.Set.Add(v.spread)), "wait for the DNS to know the records"
		case len(challenges) > 0:
			return respond, 0, ""
		case v.unoffered() != "":
			return rest, lookAgainAtMute, v.unoffered()
		}
		return rest, max(lookAgainAtOrder, p.After), "wait for the authority to look at " + strings.Join(p.Names, ", ")
	case acme.Ready:
		return finalize, 0, ""
	case acme.Processing:
		return rest, max(lookAgainAtOrder, p.After), "wait for the authority to issue it"
	case acme.Valid:
		return fetch, 0, ""
	}
	return endOrder, 0, ""
}

// mostSteps is how many steps are taken in one run: more would be a mistake of planCertificate's.
const mostSteps = 30

// reconcileCertificate brings a certificate that Weir gets by itself on: to where there is one, and later another one.
func (t *term) reconcileCertificate(ctx context.Context, id weir.ID) (again time.Duration, err error) {
	if t.Authority == nil || t.Secrets == nil {
		return 0, t.changeIssuance(ctx, id, func(_ *store.Tx, cert *weir.Certificate, i *weir.Issuance) error {
			i.Plan = "wait for a control plane that knows an authority: start it with --acme-directory"
			t.Log.Warn("certificate is not got or renewed, since no authority is known", "certificate", cert.Name)
			return nil
		})
	}
	var progress *acme.Progress
	for range mostSteps {
		v, err := t.viewCertificate(ctx, id)
		if errors.Is(err, weir.NotFound) {
			t.waiting.Delete(id)
			return 0, t.dropLeft(ctx, id) // what the authority is doing for it ends by itself
		}
		if err != nil || v.cert.Issuance == nil {
			return 0, err
		}
		v.progress, v.spread = progress, t.Spread
		step, wait, why := planCertificate(v)
		if v.mute != "" || len(v.cert.Issuance.Answers) > 0 {
			t.waiting.Store(id, true)
		} else {
			t.waiting.Delete(id)
		}
		if step == rest {
			return wait, t.changeIssuance(ctx, id, func(_ *store.Tx, _ *weir.Certificate, i *weir.Issuance) error {
				i.Plan = why
				return nil
			})
		}
		progress, err = t.takeStep(ctx, &v, step)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			return t.certificateFailed(ctx, &v, step, err)
		}
		if step == respond {
			return lookAgainAtOrder, nil
		}
	}
	return 0, fmt.Errorf("certificate %s: it is not done after %d steps", id, mostSteps)
}

// touchWaiting touches the certificates that wait for a load balancer to answer the authority.
func (t *term) touchWaiting() {
	t.waiting.Range(func(id, _ any) bool {
		t.certificates.Touch(id.(weir.ID))
		return true
	})
}

// viewCertificate returns all there is about a certificate in one snapshot.
func (t *term) viewCertificate(ctx context.Context, id weir.ID) (v certificateView, err error) {
	v.now, v.at = time.Now(), t.Authority.Directory()
	due := false
	err = t.db.View(ctx, func(tx *store.Tx) error {
		due = false
		if v.cert, err = certificates.Get(ctx, tx, id); err != nil || v.cert.Issuance == nil {
			return err
		}
		if v.account, err = accountOf(ctx, tx, v.cert.Team); err != nil {
			return err
		}
		if i := v.cert.Issuance; i.Next.After(v.now) || i.Order == "" && i.Asked.IsZero() && v.now.Before(i.Renew) {
			return nil // there is nothing to answer for
		}
		due = true
		return v.lookAtBalancers(ctx, tx)
	})
	if err != nil || !due || !t.byRecords(v.cert.Team) || v.cert.Issuance.Challenge != "" {
		return v, err
	}
	v.held = map[string]bool{}
	for _, name := range v.cert.DNSNames {
		base := strings.TrimPrefix(name, "*.")
		if v.held[base], err = t.Records.Holds(ctx, base); err != nil {
			t.Log.Warn("it is not known who has a domain", "certificate", v.cert.Name, "err", err)
			v.mute = "wait to know who has the domain of " + name + because(err.Error())
			return v, nil
		}
		if base != name && !v.held[base] {
			v.mute = "wait for a domain at DigitalOcean that " + name + " belongs to"
			return v, nil
		}
	}
	if !slices.ContainsFunc(v.cert.DNSNames, func(name string) bool { return !v.held[strings.TrimPrefix(name, "*.")] }) {
		v.mute = "" // no load balancer is asked
	}
	return v, nil
}

// dropLeft removes the records of a certificate that was deleted.
func (t *term) dropLeft(ctx context.Context, id weir.ID) error {
	left, err := leftRecords.Get(ctx, t.db, id)
	if errors.Is(err, weir.NotFound) || err == nil && t.Records == nil {
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range left {
		if err := t.Records.Remove(ctx, r.Name, r.Value); err != nil {
			return err
		}
	}
	return t.db.Update(ctx, func(tx *store.Tx) error {
		leftRecords.Delete(tx, id)
		return nil
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

// changeIssuance changes the row of a certificate that Weir gets, if it is still there.
func (t *term) changeIssuance(ctx context.Context, id weir.ID, change func(tx *store.Tx, cert *weir.Certificate, i *weir.Issuance) error) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		cert, err := certificates.Get(ctx, tx, id)
		if errors.Is(err, weir.NotFound) || err == nil && cert.Issuance == nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := change(tx, &cert, cert.Issuance); err != nil {
			return err
		}
		certificates.Put(tx, id, cert)
		return nil
	})
}

// waitFor returns what a load balancer that uses a certificate waits for, "" if it does not wait.
func waitFor(cert weir.Certificate) string {
	switch i := cert.Issuance; {
	case i == nil:
		return ""
	case cert.Placeholder():
		return fmt.Sprintf("wait for certificate %s%s", cert.Name, because(cmp.Or(i.Err, i.Plan)))
	case i.Err != "":
		return fmt.Sprintf("wait for certificate %s to be renewed%s", cert.Name, because(i.Err))
	}
	return ""
}

// tellOfCertificate tells what became of one.
func tellOfCertificate(tx *store.Tx, cert *weir.Certificate, kind weir.EventKind, text string) {
	tellEvent(tx, weir.Event{Team: cert.Team, Kind: kind, Name: cert.Name, Text: text})
}

// takeStep takes one step, and returns how far the order is if it has looked.
func (t *term) takeStep(ctx context.Context, v *certificateView, step certificateStep) (*acme.Progress, error) {
	id, i := v.cert.ID, v.cert.Issuance
	change := func(change func(i *weir.Issuance)) error {
		return t.changeIssuance(ctx, id, func(_ *store.Tx, _ *weir.Certificate, i *weir.Issuance) error {
			change(i)
			return nil
		})
	}
	switch step {
	case makeAccount:
		return nil, t.makeAccount(ctx, v.cert.Team)
	case leaveOrder:
		return nil, change(func(i *weir.Issuance) { i.Order, i.Asked, i.Sealed, i.Answers = "", time.Time{}, nil, nil })
	case makeKey:
		_, key, err := weir.NewPrivateKey()
		if err != nil {
			return nil, err
		}
		return nil, change(func(i *weir.Issuance) { i.Sealed = t.Secrets.Seal(key, sealFor(id)) })
	case askRenewal:
		return nil, t.askRenewal(ctx, v)
	case setRecords:
		_, records := v.mine()
		err := change(func(i *weir.Issuance) { i.Records, i.Set = union(i.Records, records), time.Time{} }) // so that they are removed, whatever comes
		for _, r := range records {
			if err == nil {
				err = t.Records.Add(ctx, r.Name, r.Value)
			}
		}
		if err != nil {
			return nil, err
		}
		return v.progress, change(func(i *weir.Issuance) { i.Set = time.Now().UTC() })
	case makeAnswers:
		challenges, _ := v.mine()
		answers, err := t.answersTo(v, challenges)
		if err != nil {
			return nil, err
		}
		return v.progress, change(func(i *weir.Issuance) { i.Answers, i.Answered = answers, true })
	case dropRecords:
		if t.Records == nil {
			return nil, errors.New("it is not known any more how records are removed")
		}
		for _, r := range i.Records {
			if err := t.Records.Remove(ctx, r.Name, r.Value); err != nil {
				return nil, err
			}
		}
		return nil, change(func(i *weir.Issuance) { i.Records, i.Set = nil, time.Time{} })
	case register:
		key, err := t.accountKeyOf(v)
		if err != nil {
			return nil, err
		}
		a, err := t.Authority.Register(ctx, key, t.Email)
		if err != nil {
			return nil, err
		}
		return nil, t.changeAccount(ctx, v, func(row *acmeAccount) { row.URL, row.Orders = a.URL, a.Orders })
	}
	key, err := t.accountKeyOf(v)
	if err != nil {
		return nil, err
	}
	account := acme.Account{URL: v.account.URL, Orders: v.account.Orders, Key: key}
	switch step {
	case findOrder:
		taken, err := t.takenOrders(ctx, v.cert.Team, id)
		if err != nil {
			return nil, err
		}
		order, err := t.Authority.Find(ctx, account, v.cert.DNSNames, taken)
		if err != nil {
			return nil, err
		}
		// If there is none in the list, none was made, or the authority has no list: such a one gives the same order again.
		return nil, change(func(i *weir.Issuance) { i.Order, i.Asked = order, time.Time{} })
	case makeOrder:
		if err := change(func(i *weir.Issuance) { i.Asked, i.Authority = v.now.UTC(), v.at }); err != nil {
			return nil, err
		}
		replaces := ""
		if !i.Issued.IsZero() && i.Authority == v.at {
			replaces = v.cert.Leaf
		}
		order, err := t.Authority.Order(ctx, account, v.cert.DNSNames, replaces)
		if err != nil {
			return nil, err
		}
		return nil, change(func(i *weir.Issuance) { i.Order, i.Asked = order, time.Time{} })
	case lookAtOrder:
		p, err := t.Authority.Look(ctx, account, i.Order)
		return &p, err
	case respond:
		challenges, _ := v.mine()
		for _, ch := range challenges {
			if err := t.Authority.Respond(ctx, account, ch); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case finalize:
		key, err := t.issuanceKey(v)
		if err != nil {
			return nil, err
		}
		return nil, t.Authority.Finalize(ctx, account, i.Order, *v.progress, v.cert.DNSNames, key)
	case fetch:
		leaf, chain, err := t.Authority.Fetch(ctx, account, *v.progress)
		if err != nil {
			return nil, err
		}
		return nil, t.keepIssued(ctx, v, leaf, chain)
	case endOrder:
		return nil, &lostOrder{cmp.Or(v.progress.Err, "the authority says that there will be no certificate")}
	}
	return nil, fmt.Errorf("there is no way to %s", step)
}

// union returns those in a, and those in b that are not in a.
func union(a, b []weir.Record) []weir.Record {
	all := slices.Clone(a)
	for _, r := range b {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

// lostOrder is why an order becomes no certificate.
type lostOrder struct{ why string }

func (l *lostOrder) Error() string { return l.why }

// takenOrders returns the orders that other certificates of a team have under way.
func (t *term) takenOrders(ctx context.Context, team, but weir.ID) (map[string]bool, error) {
	all, err := certificates.AllOf(ctx, t.db, team)
	taken := map[string]bool{}
	for _, cert := range all {
		if cert.ID != but && cert.Issuance != nil && cert.Issuance.Order != "" {
			taken[cert.Issuance.Order] = true
		}
	}
	return taken, err
}

// makeAccount stores a key for a team's account, which the authority does not know yet: load balancers are to answer for it first.
func (t *term) makeAccount(ctx context.Context, team weir.ID) error {
	signer, key, err := weir.NewPrivateKey()
	if err != nil {
		return err
	}
	thumbprint, err := acme.Thumbprint(signer)
	if err != nil {
		return err
	}
	return t.db.Update(ctx, func(tx *store.Tx) error {
		there, err := accountOf(ctx, tx, team)
		if err != nil || there.Thumbprint != "" && there.Directory == t.Authority.Directory() {
			return err // another certificate of the team's came first
		}
		acmeAccounts.Put(tx, accountKey(team), acmeAccount{Team: team, Directory: t.Authority.Directory(), Sealed: t.Secrets.Seal(key, sealForAccount(team)),
			Thumbprint: thumbprint, Created: time.Now().UTC()})
		return nil
	})
}

// changeAccount changes the account that v shows, if it is still that.
func (t *term) changeAccount(ctx context.Context, v *certificateView, change func(*acmeAccount)) error {
	return t.db.Update(ctx, func(tx *store.Tx) error {
		a, err := accountOf(ctx, tx, v.cert.Team)
		if err != nil || a.Thumbprint != v.account.Thumbprint {
			return err
		}
		change(&a)
		acmeAccounts.Put(tx, accountKey(a.Team), a)
		return nil
	})
}

func (t *term) accountKeyOf(v *certificateView) (crypto.Signer, error) {
	if t.Secrets == nil {
		return nil, errors.New("this control plane has no key to read that of the account with")
	}
	key, err := t.Secrets.Open(v.account.Sealed, sealForAccount(v.account.Team))
	if err != nil {
		return nil, err
	}
	return weir.ParsePrivateKey(key)
}

// issuanceKey returns the private key that the order under way is for.
func (t *term) issuanceKey(v *certificateView) (crypto.Signer, error) {
	key, err := t.Secrets.Open(v.cert.Issuance.Sealed, sealFor(v.cert.ID))
	if err != nil {
		return nil, err
	}
	return weir.ParsePrivateKey(key)
}

// keepIssued has a certificate that was issued take the place of what was there, if nodes can serve it.
func (t *term) keepIssued(ctx context.Context, v *certificateView, leaf, chain string) error {
	key, err := t.Secrets.Open(v.cert.Issuance.Sealed, sealFor(v.cert.ID))
	if err != nil {
		return err
	}
	now := time.Now()
	got, err := weir.NewCertificate(v.cert.Name, leaf, chain, string(key), now)
	if err != nil {
		return &lostOrder{"what the authority has issued is of no use: " + err.Error()}
	}
	for _, name := range v.cert.DNSNames {
		if !slices.Contains(got.DNSNames, name) {
			return &lostOrder{"what the authority has issued is not for " + name}
		}
	}
	return t.changeIssuance(ctx, v.cert.ID, func(tx *store.Tx, cert *weir.Certificate, i *weir.Issuance) error {
		verb := "has a certificate"
		if !i.Issued.IsZero() {
			verb = "has another certificate"
		}
		cert.Leaf, cert.Chain, cert.Sealed = got.Leaf, got.Chain, i.Sealed
		cert.Fingerprint, cert.NotAfter = got.Fingerprint, got.NotAfter
		from, life := cert.Life()
		*i = weir.Issuance{Challenge: i.Challenge, Authority: i.Authority, Records: i.Records, Set: i.Set, Answered: i.Answered, Issued: now.UTC(), Renew: from.Add(life * 2 / 3).UTC(), Look: now.UTC()}
		tellOfCertificate(tx, cert, weir.EventStep, fmt.Sprintf("%s for %s, good until %s", verb, strings.Join(cert.DNSNames, ", "), cert.NotAfter.Format(time.RFC3339)))
		return nil
	})
}

// askRenewal asks the authority when to renew a certificate. What was chosen in a window stays so while the window does.
func (t *term) askRenewal(ctx context.Context, v *certificateView) error {
	w, err := t.Authority.Renewal(ctx, v.cert.Leaf)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		t.Log.Warn("the authority does not say when to renew", "certificate", v.cert.Name, "err", err)
	}
	from, life := v.cert.Life()
	return t.changeIssuance(ctx, v.cert.ID, func(tx *store.Tx, cert *weir.Certificate, i *weir.Issuance) error {
		if cert.Fingerprint != v.cert.Fingerprint {
			return nil
		}
		after := usualRenewalInfo
		switch {
		case err != nil: // as it was
		case w == nil:
			i.Renew, i.From = from.Add(life*2/3).UTC(), time.Time{}
		default:
			if w.After > 0 {
				after = w.After
			}
			if !i.From.Equal(w.From) || i.Renew.After(w.To) {
				// Not so late that a failure or two would leave clients without.
				i.From, i.Renew = w.From.UTC(), earlier(w.At, from.Add(life*9/10)).UTC()
			}
		}
		i.Look = v.now.Add(min(max(after, leastRenewalInfo), mostRenewalInfo)).UTC()
		return nil
	})
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// certificateFailed notes why a step has failed, and when the next is taken.
func (t *term) certificateFailed(ctx context.Context, v *certificateView, step certificateStep, failure error) (again time.Duration, err error) {
	var refusal *acme.Refusal
	var lost *lostOrder
	refused := errors.As(failure, &refusal)
	gone := errors.As(failure, &lost) || refused && step == lookAtOrder && refusal.Unknown()
	passing := refused && refusal.Passing() || !refused && lost == nil
	first := cmp.Or(t.Retry, time.Minute)
	err = t.changeIssuance(ctx, v.cert.ID, func(tx *store.Tx, cert *weir.Certificate, i *weir.Issuance) error {
		again = waitAfter(i.Failed, passing, first)
		if refused {
			again = max(again, refusal.After)
		}
		why := failure.Error()
		if i.Err != why && i.Plan != why {
			tellOfCertificate(tx, cert, weir.EventEvidence, fmt.Sprintf("has no new certificate yet: %s; next try in %s", why, again.Round(time.Second)))
		}
		i.Failed, i.Next, i.Plan = i.Failed+1, v.now.Add(again).UTC(), why
		if !passing {
			i.Err, i.Plan = why, ""
		}
		if gone {
			i.Order, i.Asked, i.Sealed, i.Answers = "", time.Time{}, nil, nil
		}
		if refused && step == makeOrder {
			i.Asked = time.Time{} // it has made none
		}
		return nil
	})
	if refused && refusal.Stranger() {
		// It has forgotten us: the same key makes another account.
		err = errors.Join(err, t.changeAccount(ctx, v, func(a *acmeAccount) { a.URL, a.Orders = "", "" }))
	}
	t.Log.Warn("certificate not issued yet", "certificate", v.cert.Name, "step", string(step), "err", failure, "again", again)
	return again, err
}

// waitAfter returns how long to wait after so many failures and one more. What an authority refuses it counts, and refuses more
// for an hour or a week if that is too often: there are five tries in the first hour. What never reached it, or was its own
// fault, is tried again sooner.
func waitAfter(failed int, passing bool, first time.Duration) time.Duration {
	b := &backoff.ExponentialBackOff{InitialInterval: first, Multiplier: 3, MaxInterval: 12 * time.Hour, RandomizationFactor: 0.2}
	if passing {
		b.InitialInterval, b.Multiplier, b.MaxInterval = min(first, 5*time.Second), 2, 10*time.Minute
	}
	b.Reset()
	wait := b.NextBackOff()
	for range min(failed, 30) {
		wait = b.NextBackOff()
	}
	return wait
}
