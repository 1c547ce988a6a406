package control

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"weir/acme"
	"weir/store"
	"weir/weir"
)

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

// register has the authority know the account that v shows.
func (t *term) register(ctx context.Context, v *certificateView) error {
	key, err := t.accountKeyOf(v)
	if err != nil {
		return err
	}
	a, err := t.Authority.Register(ctx, key, t.Email)
	if err != nil {
		return err
	}
	return t.changeAccount(ctx, v, func(row *acmeAccount) { row.URL, row.Orders = a.URL, a.Orders })
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
