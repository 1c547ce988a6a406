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
			return wait, t.note(ctx, &v, func(i *weir.Issuance) { i.Plan = why })
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
