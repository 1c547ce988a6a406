// Package domains sets TXT records in the DNS of domains that DigitalOcean serves.
//
// [Client.Add] and [Client.Remove] can be repeated, and leave records alone that others have made. The package knows
// nothing of what records are for.
package domains

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/godo"
	"golang.org/x/oauth2"

	"weir/weir"
)

// Options of a Client.
type Options struct {
	Token string // of DigitalOcean's API, with the scopes domain:read, domain:create, domain:update and domain:delete
	URL   string // of the API; DigitalOcean's if empty
}

// Client speaks to DigitalOcean's API for one account. It may be used by several goroutines.
type Client struct {
	do *godo.Client

	mu      sync.Mutex
	domains []string
	read    time.Time // when domains were
}

const (
	timeout  = 30 * time.Second
	fresh    = time.Minute // how long the list of domains is taken to be as it was
	pageSize = 200
	ttl      = 30 // seconds, the least that there may be
)

// New returns a client, and asks nobody yet.
func New(o Options) (*Client, error) {
	if o.Token = strings.TrimSpace(o.Token); o.Token == "" || strings.ContainsAny(o.Token, " \r\n") {
		return nil, weir.Errorf(weir.Invalid, "it has no token of DigitalOcean's API")
	}
	over := &http.Client{Timeout: timeout, Transport: &oauth2.Transport{Source: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: o.Token})}}
	options := []godo.ClientOpt{godo.SetUserAgent("weir/" + weir.Version)}
	if o.URL != "" {
		options = append(options, godo.SetBaseURL(o.URL))
	}
	do, err := godo.New(over, options...)
	if err != nil {
		return nil, err
	}
	return &Client{do: do}, nil
}

// Holds reports whether a name belongs to a domain of the account's.
func (c *Client) Holds(ctx context.Context, name string) (bool, error) {
	domain, err := c.domainOf(ctx, name)
	return domain != "", err
}

// Add has a name have a TXT record with a value. If there is one already, Add does nothing.
func (c *Client) Add(ctx context.Context, name, value string) error {
	domain, records, err := c.records(ctx, name, value)
	if err != nil || len(records) > 0 {
		return err
	}
	within := cmp.Or(strings.TrimSuffix(strings.TrimSuffix(name, domain), "."), "@")
	_, _, err = c.do.Domains.CreateRecord(ctx, domain, &godo.DomainRecordEditRequest{Type: "TXT", Name: within, Data: value, TTL: ttl})
	if err != nil {
		return fmt.Errorf("add a record to domain %s: %w", domain, err)
	}
	return nil
}

// Remove removes the TXT record of a name with a value. If there is none, Remove does nothing.
func (c *Client) Remove(ctx context.Context, name, value string) error {
	domain, records, err := c.records(ctx, name, value)
	if errors.Is(err, weir.NotFound) {
		return nil // its records are gone with the domain
	}
	if err != nil {
		return err
	}
	for _, r := range records {
		resp, err := c.do.Domains.DeleteRecord(ctx, domain, r.ID)
		if err != nil && (resp == nil || resp.StatusCode != http.StatusNotFound) {
			return fmt.Errorf("remove a record of domain %s: %w", domain, err)
		}
	}
	return nil
}

// records returns the domain that a name belongs to, and its TXT records of that name and value.
func (c *Client) records(ctx context.Context, name, value string) (domain string, found []godo.DomainRecord, err error) {
	if domain, err = c.domainOf(ctx, name); err != nil {
		return "", nil, err
	}
	if domain == "" {
		return "", nil, weir.Errorf(weir.NotFound, "there is no domain at DigitalOcean that %s belongs to", name)
	}
	for page := 1; ; page++ {
		records, resp, err := c.do.Domains.RecordsByTypeAndName(ctx, domain, "TXT", name, &godo.ListOptions{Page: page, PerPage: pageSize})
		if err != nil {
			return "", nil, fmt.Errorf("list records of domain %s: %w", domain, err)
		}
		for _, r := range records {
			if r.Data == value {
				found = append(found, r)
			}
		}
		if last(resp) {
			return domain, found, nil
		}
	}
}

func last(resp *godo.Response) bool { return resp.Links == nil || resp.Links.IsLastPage() }

// domainOf returns the longest domain that a name belongs to, "" if there is none.
func (c *Client) domainOf(ctx context.Context, name string) (domain string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read.IsZero() || time.Since(c.read) > fresh {
		var all []string
		for page := 1; ; page++ {
			domains, resp, err := c.do.Domains.List(ctx, &godo.ListOptions{Page: page, PerPage: pageSize})
			if err != nil {
				return "", fmt.Errorf("list domains at DigitalOcean: %w", err)
			}
			for _, d := range domains {
				all = append(all, strings.ToLower(d.Name))
			}
			if last(resp) {
				break
			}
		}
		slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
		c.domains, c.read = all, time.Now()
	}
	for _, d := range c.domains {
		if name == d || strings.HasSuffix(name, "."+d) {
			return d, nil
		}
	}
	return "", nil
}
