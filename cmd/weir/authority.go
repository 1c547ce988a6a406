package main

import (
	"context"
	"fmt"
	"net"
	"net/mail"
	"os"

	"github.com/spf13/pflag"

	"weir/acme"
	"weir/control"
	"weir/domains"
)

// authority is what flags say of who issues certificates.
type authority struct {
	directory string
	ca        string
	email     string
	token     string
}

func (a *authority) flags(f *pflag.FlagSet) {
	f.StringVar(&a.directory, "acme-directory", "", "`URL` of the directory of an authority that certificates of the type lets_encrypt are got from, whose terms are agreed to thereby; there are none if empty")
	f.StringVar(&a.ca, "acme-ca", "", "`file` with the certificate of who signed the authority's own, instead of those whom this system trusts")
	f.StringVar(&a.email, "acme-email", "", "`address` that the authority may write to")
	f.StringVar(&a.token, "acme-digitalocean-token", "", "`file` with a token of DigitalOcean's API, by which records are set for names of the domains there: wildcards need them")
}

// open returns the authority, nil if there is to be none, and what sets records in the DNS, nil if nobody does. dial reaches the
// authority; net.Dialer's if nil.
func (a *authority) open(dial func(ctx context.Context, network, addr string) (net.Conn, error)) (control.Authority, control.Records, error) {
	if a.directory == "" {
		if a.ca != "" || a.email != "" || a.token != "" {
			return nil, nil, usageErrorf("--acme-ca, --acme-email and --acme-digitalocean-token are of no use without --acme-directory")
		}
		return nil, nil, nil
	}
	var trust []byte
	if a.ca != "" {
		var err error
		if trust, err = os.ReadFile(a.ca); err != nil {
			return nil, nil, fmt.Errorf("--acme-ca: %w", err)
		}
	}
	if a.email != "" {
		if at, err := mail.ParseAddress(a.email); err != nil || at.Address != a.email {
			return nil, nil, usageErrorf("--acme-email is %q, want an address such as ops@shop.example", a.email)
		}
	}
	client, err := acme.New(acme.Options{Directory: a.directory, Trust: trust, Dial: dial})
	if err != nil {
		return nil, nil, usageErrorf("--acme-directory, --acme-ca: %w", err)
	}
	records, err := a.records()
	return client, records, err
}

// records returns what sets records in the DNS, nil if nobody does.
func (a *authority) records() (control.Records, error) {
	if a.token == "" {
		return nil, nil
	}
	text, err := os.ReadFile(a.token)
	if err != nil {
		return nil, fmt.Errorf("--acme-digitalocean-token: %w", err)
	}
	client, err := domains.New(domains.Options{Token: string(text)})
	if err != nil {
		return nil, usageErrorf("--acme-digitalocean-token %s: %w", a.token, err)
	}
	return client, nil
}
