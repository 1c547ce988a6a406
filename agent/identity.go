package agent

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"sync"
	"time"

	"weir/nodeapi"
	"weir/pki"
	"weir/weir"
)

// identity is who the node is to the control plane. It is replaced at each renewal.
type identity struct {
	node weir.ID
	cert tls.Certificate

	mu      sync.Mutex
	clients map[string]*nodeapi.Client // by the URL of a member of the control plane
}

// client returns the one that speaks to a member of the control plane as who.
func (who *identity) client(a *agent, url string) (*nodeapi.Client, error) {
	who.mu.Lock()
	defer who.mu.Unlock()
	if c := who.clients[url]; c != nil {
		return c, nil
	}
	c, err := a.newClient(url, &who.cert)
	if err == nil {
		who.clients[url] = c
	}
	return c, err
}

func (who *identity) close() {
	who.mu.Lock()
	defer who.mu.Unlock()
	for _, c := range who.clients {
		c.Close()
	}
}

// identify keeps the node's certificate valid until ctx ends. A node that is refused
// when it first enrols, and serves nothing, is an error: it was given the wrong token,
// and a person should hear of it.
func (a *agent) identify(ctx context.Context, serves bool) error {
	again := a.newRetry("", "certificate")
	for ctx.Err() == nil {
		wait, err := a.certify(ctx)
		if err == nil {
			again.done()
			// Not to sleep through it all, since a suspended machine's timers stand still.
			sleep(ctx, min(wait, time.Minute))
			continue
		}
		refused := errors.Is(err, weir.Denied) || errors.Is(err, weir.Invalid)
		if refused && !serves && a.identity.Load() == nil {
			return fmt.Errorf("enrol: %w", err)
		}
		again.wait(ctx, err)
	}
	return nil
}

// certify enrols or renews if it is time to, and returns how long it will not be.
func (a *agent) certify(ctx context.Context) (time.Duration, error) {
	if a.roots == nil {
		if err := a.learnAuthority(ctx); err != nil {
			return 0, err
		}
	}
	key, err := a.disk.key()
	if err != nil {
		return 0, err
	}
	cert, err := a.disk.certificate(key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Log.Warn("stored certificate unusable", "err", err)
	}
	valid := err == nil && time.Now().Before(cert.Leaf.NotAfter)
	if valid {
		if err := a.use(cert); err != nil {
			return 0, err
		}
		if wait := time.Until(renewal(cert.Leaf)); wait > 0 {
			return wait, nil
		}
	}

	var issued []byte
	for _, url := range a.memberURLs() {
		if valid {
			issued, err = a.renew(ctx, url, key)
		} else {
			// For the first time; or the node was off until its certificate had expired,
			// and the token is bound to its key.
			issued, err = a.enrol(ctx, url, key)
		}
		if err == nil || weir.KindOf(err) != weir.Unavailable {
			break
		}
	}
	if err != nil {
		return 0, err
	}
	if cert, err = pki.Identity(key, issued); err != nil {
		return 0, fmt.Errorf("the control plane's answer: %w", err)
	}
	if err := a.use(cert); err != nil {
		return 0, err
	}
	a.Log.Info("certificate issued", "node", a.identity.Load().node, "until", cert.Leaf.NotAfter)
	return 0, a.disk.write("certificate.pem", issued)
}

func (a *agent) renew(ctx context.Context, url string, key crypto.Signer) ([]byte, error) {
	client, err := a.identity.Load().client(a, url)
	if err != nil {
		return nil, err
	}
	return client.Renew(ctx, key)
}

func (a *agent) enrol(ctx context.Context, url string, key crypto.Signer) ([]byte, error) {
	token, err := a.token()
	if err != nil {
		return nil, err
	}
	client, err := a.newClient(url, nil)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return client.Enrol(ctx, token, key)
}

// use makes cert who we are from the next request on.
func (a *agent) use(cert tls.Certificate) error {
	old := a.identity.Load()
	if old != nil && old.cert.Leaf.Equal(cert.Leaf) {
		return nil
	}
	node, err := pki.Node(cert.Leaf)
	if err != nil {
		return err
	}
	if old == nil {
		a.beats = a.outside.beats(node)
	}
	a.identity.Store(&identity{node: node, cert: cert, clients: map[string]*nodeapi.Client{}})
	if old == nil {
		close(a.enrolled)
	} else {
		old.close()
	}
	return nil
}

func (a *agent) newClient(url string, identity *tls.Certificate) (*nodeapi.Client, error) {
	return nodeapi.NewClient(nodeapi.Options{URL: url, Roots: a.roots, Identity: identity, Dial: a.dial})
}

// renewal returns when a certificate is renewed: between half and two thirds of its
// life, at a time of its own, so that nodes made together do not come together.
func renewal(cert *x509.Certificate) time.Time {
	spread := cert.NotAfter.Sub(cert.NotBefore) / 6
	part := new(big.Int).Mod(cert.SerialNumber, big.NewInt(1000)).Int64()
	return pki.Due(cert).Add(spread * time.Duration(part) / 1000)
}
