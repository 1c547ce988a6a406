package control

import (
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"weir/store"
	"weir/weir"
)

var certificates = newTeamed("certificates", func(c weir.Certificate) weir.ID { return c.Team })

// Texts that clients match.
const (
	textNameTaken        = "name is not unique"
	textCertificateInUse = "Make sure the certificate is not in use before deleting it"
)

// sealFor is what the private key of a certificate is sealed for.
func sealFor(certificate weir.ID) string { return "private key of certificate " + string(certificate) }

// Certificates returns the caller's certificates, the oldest first.
func (c *Control) Certificates(ctx context.Context) ([]weir.Certificate, error) {
	all, err := certificates.AllOwn(ctx, c.Store)
	slices.SortFunc(all, func(a, b weir.Certificate) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all, err
}

// Certificate returns one certificate of the caller's, or weir.NotFound.
func (c *Control) Certificate(ctx context.Context, id weir.ID) (weir.Certificate, error) {
	return certificates.Own(ctx, c.Store, id)
}

// AddCertificate keeps a certificate with its private key (PEM), which only the holders of
// the keys of [Options].Secrets can read.
func (c *Control) AddCertificate(ctx context.Context, cert weir.Certificate, key []byte) (weir.Certificate, error) {
	if c.Secrets == nil {
		return cert, errors.New("this control plane has no key to seal the private keys of certificates with")
	}
	cert.ID, cert.Team, cert.Created = weir.ID(uuid.NewString()), weir.CallerOf(ctx).Team, time.Now().UTC()
	cert.Sealed = c.Secrets.Seal(key, sealFor(cert.ID))
	err := c.Store.Update(ctx, func(tx *store.Tx) error {
		all, err := certificates.AllOwn(ctx, tx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(other weir.Certificate) bool { return other.Name == cert.Name }) {
			return weir.Errorf(weir.Invalid, "%s: there is a certificate named %q already", textNameTaken, cert.Name)
		}
		certificates.Put(tx, cert.ID, cert)
		return nil
	})
	return cert, err
}

// DeleteCertificate forgets a certificate and its private key. One that a load balancer uses is
// weir.Denied.
func (c *Control) DeleteCertificate(ctx context.Context, id weir.ID) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		cert, err := certificates.Own(ctx, tx, id)
		if err != nil {
			return err
		}
		lbs, err := loadBalancers.All(ctx, tx)
		if err != nil {
			return err
		}
		for _, lb := range lbs {
			if lb.Deleting.IsZero() && lb.Uses(id) {
				return weir.Errorf(weir.Denied, textCertificateInUse)
			}
		}
		certificates.Delete(tx, id)
		if i := cert.Issuance; i != nil && len(i.Records) > 0 {
			leftRecords.Put(tx, id, i.Records)
		}
		return nil
	})
}

// checkCertificates returns why the rules of a load balancer cannot have the certificates that
// they name, and whether an authority may ask by HTTP for one of these. What it has read keeps them from being deleted at the same time.
func checkCertificates(ctx context.Context, tx *store.Tx, lb weir.LoadBalancer) (issued bool, err error) {
	for i, r := range lb.Rules {
		if r.Certificate == "" {
			continue
		}
		cert, err := certificates.Own(ctx, tx, r.Certificate)
		if errors.Is(err, weir.NotFound) {
			return false, weir.Errorf(weir.Invalid, "load balancer %q: forwarding_rules[%d].certificate_id: there is no certificate %q", lb.Name, i, r.Certificate)
		}
		if err != nil {
			return false, err
		}
		// No authority asks an internal one.
		issued = issued || cert.Issuance != nil && cert.Issuance.Challenge != weir.ChallengeALPN && !lb.Internal
	}
	return issued, nil
}

// withKeys adds to the configuration of a node the certificates that it names, with their private keys. If this member
// cannot read one, that is the error, and another member may have what it takes.
func (c *Control) withKeys(ctx context.Context, config weir.NodeConfig) (weir.NodeConfig, error) {
	pems := map[weir.ID]string{}
	for _, f := range config.Proxy.Frontends {
		if f.TLS == nil {
			continue
		}
		for _, ref := range f.TLS.Certificates {
			cert, err := certificates.Get(ctx, c.Store, ref.ID)
			if errors.Is(err, weir.NotFound) {
				continue // a newer configuration is on its way
			}
			if err != nil {
				return config, err
			}
			key, err := c.openKey(cert)
			if err != nil {
				return config, fmt.Errorf("the private key of certificate %s cannot be read: %w", cert.Name, err)
			}
			pems[ref.ID] = plainPEM(cert.Leaf + cert.Chain + string(key))
		}
	}
	if err := c.withAnswers(ctx, &config.Proxy, pems); err != nil {
		return config, err
	}
	if len(pems) > 0 {
		config.Proxy.PEM = pems
	}
	return config, nil
}

// plainPEM returns the certificates and private keys in text, without what a user has written around them.
func plainPEM(text string) string {
	var plain []byte
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" || strings.HasSuffix(block.Type, "PRIVATE KEY") {
			block.Headers = nil
			plain = append(plain, pem.EncodeToMemory(block)...)
		}
	}
	return string(plain)
}

// openKey returns the private key of a certificate.
func (c *Control) openKey(cert weir.Certificate) ([]byte, error) {
	if c.Secrets == nil {
		return nil, errors.New("this control plane has no key to read it with")
	}
	return c.Secrets.Open(cert.Sealed, sealFor(cert.ID))
}

// resealCertificates seals anew, with the first key, what another key has sealed, and returns how many
// private keys that were.
func (c *Control) resealCertificates(ctx context.Context, tx *store.Tx) (n int, err error) {
	all, err := certificates.All(ctx, tx)
	if err != nil {
		return 0, err
	}
	for _, cert := range all {
		sealed := []*[]byte{&cert.Sealed}
		if cert.Issuance != nil {
			cert.Issuance.Sealed = slices.Clone(cert.Issuance.Sealed)
			sealed = append(sealed, &cert.Issuance.Sealed)
			cert.Issuance.Answers = slices.Clone(cert.Issuance.Answers)
			for i := range cert.Issuance.Answers {
				sealed = append(sealed, &cert.Issuance.Answers[i].Sealed)
			}
		}
		changed, err := c.resealEach(sealed, sealFor(cert.ID))
		if err != nil {
			return 0, fmt.Errorf("certificate %s: %w", cert.Name, err)
		}
		if changed > 0 {
			certificates.Put(tx, cert.ID, cert)
		}
		n += changed
	}
	return n, nil
}

// resealEach seals those anew that another key than the first has sealed, and returns how many those were.
func (c *Control) resealEach(all []*[]byte, purpose string) (n int, err error) {
	for _, sealed := range all {
		if len(*sealed) == 0 || !c.Secrets.Stale(*sealed) {
			continue
		}
		secret, err := c.Secrets.Open(*sealed, purpose)
		if err != nil {
			return n, err
		}
		*sealed = c.Secrets.Seal(secret, purpose)
		n++
	}
	return n, nil
}

// reseal has all secrets sealed with the first key.
func (t *term) reseal(ctx context.Context) {
	if t.Secrets == nil {
		return
	}
	n := 0
	err := t.db.Update(ctx, func(tx *store.Tx) (err error) {
		if n, err = t.resealCertificates(ctx, tx); err != nil {
			return err
		}
		accounts, err := t.resealAccounts(ctx, tx)
		n += accounts
		return err
	})
	switch {
	case err != nil && ctx.Err() == nil:
		t.Log.Error("secrets cannot be read", "err", err)
	case n > 0:
		t.Log.Info("secrets sealed anew with the first key", "n", n)
	}
}
