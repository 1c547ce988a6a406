package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"

	"weir/cloud"
	"weir/cloud/digitalocean"
	"weir/weir"
)

// provider is what flags say of the cloud that a control plane makes machines in.
type provider struct {
	cloud string
	token string
	url   string
	name  string
	vpc   string
}

// providerPoll is how often a provider's lists are looked at: each look takes some of the requests that a token has.
const providerPoll = 20 * time.Second

func (p *provider) flags(f *pflag.FlagSet) {
	f.StringVar(&p.cloud, "cloud", "", "`provider` in whose region machines are made: digitalocean; none if empty, for machines of your own")
	f.StringVar(&p.token, "digitalocean-token", "", "`file` with a token of DigitalOcean's API, for --cloud digitalocean")
	f.StringVar(&p.url, "digitalocean-url", "", "`URL` of the API of another who speaks DigitalOcean's, such as a Weir")
	f.StringVar(&p.name, "digitalocean-name", "", "`name` by which what this Weir makes is told from all else in the account; the beginning of its authority's fingerprint if empty")
	f.StringVar(&p.vpc, "digitalocean-vpc", "", "`ID` of the VPC that droplets are made in; the region's default one if empty")
}

// check returns what is wrong with the flags.
func (p *provider) check() error {
	switch {
	case p.cloud != "" && p.cloud != "digitalocean":
		return usageErrorf("--cloud is %q, want digitalocean, or leave it out for machines of your own", p.cloud)
	case p.cloud == "" && (p.token != "" || p.url != "" || p.name != "" || p.vpc != ""):
		return usageErrorf("--digitalocean-token, -url, -name and -vpc are of no use without --cloud digitalocean")
	case p.cloud == "":
		return nil
	case p.token == "":
		return usageErrorf("--digitalocean-token is missing: --cloud digitalocean needs a file with a token of its API")
	}
	return nil
}

// open returns the cloud, and how often to look at it, 0 for as often as usual. It asks it once, whether the token is good and whether
// there is the region, and goes on if nobody answers; fingerprint is that of the control plane's
// authority, which has so many members.
func (p *provider) open(ctx context.Context, region, fingerprint string, members int, log *slog.Logger) (cloud.Cloud, time.Duration, error) {
	if p.cloud == "" {
		return cloud.None{}, 0, nil
	}
	text, err := os.ReadFile(p.token)
	if err != nil {
		return nil, 0, fmt.Errorf("--digitalocean-token: %w", err)
	}
	c, err := digitalocean.New(digitalocean.Options{Token: string(text), URL: p.url, Region: region, VPC: p.vpc, Members: members, Log: log,
		Name: cmp.Or(p.name, fingerprint[:min(12, len(fingerprint))])})
	if err != nil {
		return nil, 0, usageErrorf("--cloud digitalocean: %w", err)
	}
	switch err := c.Check(ctx); {
	case errors.Is(err, weir.Unavailable) && ctx.Err() == nil:
		// What is there is served and watched meanwhile.
		log.Warn("cloud not seen, token and region are taken to be good", "err", err)
	case err != nil:
		return nil, 0, fmt.Errorf("--cloud digitalocean, --region %s: %w", region, err)
	}
	return c, providerPoll, nil
}
