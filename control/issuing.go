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

// takeStep takes one step, and returns how far the order is if it has looked.
func (t *term) takeStep(ctx context.Context, v *certificateView, step certificateStep) (*acme.Progress, error) {
	switch step {
	case makeAccount:
		return nil, t.makeAccount(ctx, v.cert.Team)
	case register:
		return nil, t.register(ctx, v)
	case leaveOrder:
		return nil, t.note(ctx, v, forgetOrder)
	case makeKey:
		_, key, err := weir.NewPrivateKey()
		if err != nil {
			return nil, err
		}
		return nil, t.note(ctx, v, func(i *weir.Issuance) { i.Sealed = t.Secrets.Seal(key, sealFor(v.cert.ID)) })
	case setRecords:
		return v.progress, t.setRecords(ctx, v)
	case dropRecords:
		if err := t.removeRecords(ctx, v.cert.Issuance.Records); err != nil {
			return nil, err
		}
		return nil, t.note(ctx, v, func(i *weir.Issuance) { i.Records, i.Set = nil, time.Time{} })
	case makeAnswers:
		challenges, _ := v.mine()
		answers, err := t.answersTo(v, challenges)
		if err != nil {
			return nil, err
		}
		return v.progress, t.note(ctx, v, func(i *weir.Issuance) { i.Answers, i.Answered = answers, true })
	case endOrder:
		return nil, &lostOrder{cmp.Or(v.progress.Err, "the authority says that there will be no certificate")}
	case askRenewal:
		return nil, t.askRenewal(ctx, v)
	}
	return t.goOn(ctx, v, step)
}

// goOn takes a step with an order for which the authority is asked by the account that it knows.
func (t *term) goOn(ctx context.Context, v *certificateView, step certificateStep) (*acme.Progress, error) {
	key, err := t.accountKeyOf(v)
	if err != nil {
		return nil, err
	}
	account, order := acme.Account{URL: v.account.URL, Orders: v.account.Orders, Key: key}, v.cert.Issuance.Order
	switch step {
	case findOrder:
		return nil, t.findOrder(ctx, v, account)
	case makeOrder:
		return nil, t.makeOrder(ctx, v, account)
	case lookAtOrder:
		p, err := t.Authority.Look(ctx, account, order)
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
		return nil, t.Authority.Finalize(ctx, account, order, *v.progress, v.cert.DNSNames, key)
	case fetch:
		leaf, chain, err := t.Authority.Fetch(ctx, account, *v.progress)
		if err != nil {
			return nil, err
		}
		return nil, t.keepIssued(ctx, v, leaf, chain)
	}
	return nil, fmt.Errorf("there is no way to %s", step)
}

// note changes how far a certificate is.
func (t *term) note(ctx context.Context, v *certificateView, change func(*weir.Issuance)) error {
	return t.changeIssuance(ctx, v.cert.ID, func(_ *store.Tx, _ *weir.Certificate, i *weir.Issuance) error {
		change(i)
		return nil
	})
}

// forgetOrder has an issuance have no order, and nothing that was for one.
func forgetOrder(i *weir.Issuance) { i.Order, i.Asked, i.Sealed, i.Answers = "", time.Time{}, nil, nil }

// findOrder finds the order that may have been made before a crash.
func (t *term) findOrder(ctx context.Context, v *certificateView, account acme.Account) error {
	taken, err := t.takenOrders(ctx, v.cert.Team, v.cert.ID)
	if err != nil {
		return err
	}
	order, err := t.Authority.Find(ctx, account, v.cert.DNSNames, taken)
	if err != nil {
		return err
	}
	// If there is none in the list, none was made, or the authority has no list: such a one gives the same order again.
	return t.note(ctx, v, func(i *weir.Issuance) { i.Order, i.Asked = order, time.Time{} })
}

func (t *term) makeOrder(ctx context.Context, v *certificateView, account acme.Account) error {
	if err := t.note(ctx, v, func(i *weir.Issuance) { i.Asked, i.Authority = v.now.UTC(), v.at }); err != nil {
		return err
	}
	replaces := ""
	if i := v.cert.Issuance; !i.Issued.IsZero() && i.Authority == v.at {
		replaces = v.cert.Leaf
	}
	order, err := t.Authority.Order(ctx, account, v.cert.DNSNames, replaces)
	if err != nil {
		return err
	}
	return t.note(ctx, v, func(i *weir.Issuance) { i.Order, i.Asked = order, time.Time{} })
}

// setRecords sets the records that answer challenges. They are noted before they are there, so that they are removed, whatever
// comes.
func (t *term) setRecords(ctx context.Context, v *certificateView) error {
	_, records := v.mine()
	if err := t.note(ctx, v, func(i *weir.Issuance) { i.Records, i.Set = union(i.Records, records), time.Time{} }); err != nil {
		return err
	}
	for _, r := range records {
		if err := t.Records.Add(ctx, r.Name, r.Value); err != nil {
			return err
		}
	}
	return t.note(ctx, v, func(i *weir.Issuance) { i.Set = time.Now().UTC() })
}

func (t *term) removeRecords(ctx context.Context, all []weir.Record) error {
	if t.Records == nil {
		return errors.New("it is not known any more how records are removed")
	}
	for _, r := range all {
		if err := t.Records.Remove(ctx, r.Name, r.Value); err != nil {
			return err
		}
	}
	return nil
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
	if err := t.removeRecords(ctx, left); err != nil {
		return err
	}
	return t.db.Update(ctx, func(tx *store.Tx) error {
		leftRecords.Delete(tx, id)
		return nil
	})
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
			forgetOrder(i)
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
