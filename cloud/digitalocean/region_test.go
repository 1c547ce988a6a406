package digitalocean_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/godo"
	"golang.org/x/oauth2"

	"weir/api"
	"weir/cloud"
	"weir/cloud/cloudtest"
	"weir/cloud/digitalocean"
	"weir/control"
	"weir/edge"
	"weir/secrets"
	"weir/store"
	"weir/weir"
)

const token = "sesame"

// provider is an account at a provider that speaks DigitalOcean's API: a whole Weir over a cloud in memory. It lives in a
// bubble of time.
type provider struct {
	t       *testing.T
	control *control.Control
	cloud   *cloud.Fake
	do      *godo.Client // as another user of the account

	mu      sync.Mutex
	handler http.Handler
	fault   func(*http.Request) (before, after *http.Response) // what is answered instead, or in place of what was done
	asked   []string
}

// newProvider opens an account with nothing in it.
func newProvider(t *testing.T, o cloud.FakeOptions) *provider {
	t.Helper()
	o.Region, o.Addresses = cloudtest.Region, 14
	p := &provider{t: t, cloud: cloud.NewFake(o)}
	p.control = control.New(control.Options{Region: cloudtest.Region, Store: store.Memory(), Cloud: p.cloud, Drain: time.Second})
	keys, err := secrets.New(secrets.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	p.control.Secrets = keys
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.control.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		p.control.Store.Close()
	})
	if err := p.control.SetToken(ctx, "test", weir.SecretSum(token)); err != nil {
		t.Fatal(err)
	}
	p.handler = api.New(api.Options{Control: p.control, Users: edge.NewTokens(p.control), OneHost: true,
		Public: netip.MustParsePrefix("198.18.0.0/16"), Private: netip.MustParsePrefix("10.10.0.0/16"), Reserved: netip.MustParsePrefix("203.0.113.0/28")})
	over := &http.Client{Transport: &oauth2.Transport{Base: direct{p.handler}, Source: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})}}
	if p.do, err = godo.New(over, godo.SetBaseURL("http://provider.invalid")); err != nil {
		t.Fatal(err)
	}
	return p
}

// open opens the driver, as a process does that starts.
func (p *provider) open() *digitalocean.Cloud {
	p.t.Helper()
	c, err := digitalocean.New(digitalocean.Options{Token: token, URL: "http://provider.invalid", Name: "test", Region: cloudtest.Region, Transport: p})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// RoundTrip has the provider answer, unless a fault does.
func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.URL.RequestURI())
	fault := p.fault
	p.mu.Unlock()
	if fault == nil {
		return direct{p.handler}.RoundTrip(r)
	}
	before, after := fault(r)
	if before != nil {
		return answered(before)
	}
	resp, err := direct{p.handler}.RoundTrip(r)
	if err != nil || after == nil {
		return resp, err
	}
	return answered(after)
}

// answered returns a fault's answer. One without a status is none: the connection was lost.
func answered(resp *http.Response) (*http.Response, error) {
	if resp.StatusCode == 0 {
		return nil, errLost
	}
	return resp, nil
}

// set has faults happen from now on, and forgets what was asked.
func (p *provider) set(fault func(*http.Request) (before, after *http.Response)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.asked = fault, nil
}

// requests returns what was asked since the last set.
func (p *provider) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.asked...)
}

// direct has a handler answer without a network, which no bubble has.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	in := r.Clone(r.Context())
	in.RemoteAddr, in.RequestURI, in.Host = "192.0.2.1:4711", r.URL.RequestURI(), r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, in)
	if err := r.Context().Err(); err != nil {
		return nil, err // too late for who has left
	}
	return w.Result(), nil
}

// inBubble runs a test in a bubble of time.
func inBubble(t *testing.T, do func(t *testing.T)) { synctest.Test(t, do) }

func TestKeepsThePromisesOfACloud(t *testing.T) {
	lacks := cloudtest.Allowances{NoAnchor: true, FewFigures: true, Within: inBubble}
	cloudtest.RunWith(t, lacks, func(t *testing.T) cloud.Cloud { return newProvider(t, cloud.FakeOptions{}).open() })
}
