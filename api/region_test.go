package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/godo"
	"golang.org/x/oauth2"

	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/edge"
	"weir/metrics"
	"weir/secrets"
	"weir/store"
	"weir/weir"
)

const token = "sesame"

// region is a whole region behind the API, in memory: the real control plane over a
// fake cloud, and godo to speak to it.
type region struct {
	t       *testing.T
	control *control.Control
	cloud   *cloud.Fake
	url     string
	log     *lines
	do      *godo.Client
}

// newRegion starts a region whose cloud is like o; wrap may stand between the API and
// the control plane. Its store is in memory, or with WEIR_TEST_STORE=etcd a real one.
func newRegion(t *testing.T, o cloud.FakeOptions, wrap func(api.Control) api.Control) *region {
	t.Helper()
	if os.Getenv("WEIR_TEST_STORE") == "etcd" {
		return newRegionOn(t, embed(t), o, wrap)
	}
	return newRegionOn(t, store.Memory(), o, wrap)
}

// embed starts a real store.
func embed(t *testing.T) *store.Store {
	t.Helper()
	db, err := store.Embed(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// newRegionOn is newRegion on that store, which it closes in the end.
func newRegionOn(t *testing.T, db *store.Store, o cloud.FakeOptions, wrap func(api.Control) api.Control) *region {
	t.Helper()
	r := &region{t: t, cloud: cloud.NewFake(o), log: &lines{}}
	r.control = control.New(control.Options{Region: "lab", Store: db, Cloud: r.cloud, Poll: 5 * time.Millisecond, Look: 20 * time.Millisecond, Drain: time.Millisecond})
	keys, err := secrets.New(secrets.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	r.control.Secrets = keys
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.control.Run(ctx) })

	if err := r.control.SetToken(ctx, "test", weir.SecretSum(token)); err != nil {
		t.Fatal(err)
	}
	var c api.Control = r.control
	if wrap != nil {
		c = wrap(c)
	}
	server := httptest.NewServer(contract(t, api.New(api.Options{
		Control:  c,
		Users:    edge.NewTokens(r.control),
		Log:      slog.New(slog.NewTextHandler(r.log, nil)),
		Page:     http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the page") }),
		Public:   netip.MustParsePrefix("198.18.0.0/16"),
		Private:  netip.MustParsePrefix("10.10.0.0/16"),
		Reserved: netip.MustParsePrefix("203.0.113.0/24"),
		Public6:  netip.MustParsePrefix("2001:db8:0:1::/64"),
		OneHost:  true,
		Metrics:  metrics.New(r.control, slog.New(slog.DiscardHandler)),
	})))
	t.Cleanup(func() {
		server.Close()
		cancel()
		wg.Wait()
		r.control.Store.Close()
	})
	r.url = server.URL
	r.do = r.client(token)
	return r
}

// client returns godo with a token.
func (r *region) client(token string) *godo.Client {
	r.t.Helper()
	over := oauth2.NewClient(context.Background(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token}))
	do, err := godo.New(over, godo.SetBaseURL(r.url))
	if err != nil {
		r.t.Fatal(err)
	}
	return do
}

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lab starts a region with nothing out of the ordinary.
func lab(t *testing.T) *region {
	t.Helper()
	return newRegion(t, cloud.FakeOptions{}, nil)
}

// answer is what came back from a request that godo would not make.
type answer struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// ask makes any request, with the token.
func (r *region) ask(method, path, body string) answer {
	r.t.Helper()
	return r.askWith(method, path, body, "Bearer "+token)
}

func (r *region) askWith(method, path, body, authorization string) answer {
	r.t.Helper()
	header := http.Header{}
	if authorization != "" {
		header.Set("Authorization", authorization)
	}
	return r.send(method, path, body, header)
}

// askHeader makes any request, with the token and more headers.
func (r *region) askHeader(method, path, body string, header http.Header) answer {
	r.t.Helper()
	header = header.Clone()
	header.Set("Authorization", "Bearer "+token)
	return r.send(method, path, body, header)
}

func (r *region) send(method, path, body string, header http.Header) answer {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header = header
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, text: string(text)}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") && method != http.MethodHead {
		if err := json.Unmarshal(text, &a.body); err != nil {
			r.t.Fatalf("%s %s: the answer is not JSON: %v\n%s", method, path, err, text)
		}
	}
	return a
}

// eventually waits until is says true.
func (r *region) eventually(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("after 20 s still not so: %s", what)
		}
	}
}

// droplets creates droplets and waits until they are active.
func (r *region) droplets(names []string, tags ...string) []godo.Droplet {
	r.t.Helper()
	made, _, err := r.do.Droplets.CreateMultiple(r.t.Context(), &godo.DropletMultiCreateRequest{
		Names: names, Region: "lab", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, Tags: tags})
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range made {
		r.eventually("droplet "+made[i].Name+" is active", func() bool {
			d, _, err := r.do.Droplets.Get(r.t.Context(), made[i].ID)
			if err != nil {
				r.t.Fatal(err)
			}
			made[i] = *d
			return d.Status == "active"
		})
	}
	return made
}

// serve plays the agent of every load-balancer instance until the test ends: it says of
// each configuration at once that it is live and that all servers are up.
func (r *region) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	r.t.Cleanup(func() { cancel(); wg.Wait() })
	node := func(id weir.ID) {
		for after := int64(0); ctx.Err() == nil; {
			config, err := r.control.NodeConfig(ctx, id, after)
			if err != nil {
				return
			}
			s := weir.NodeStatus{Node: id, Revision: config.Revision, Agent: "test", HAProxy: weir.HAProxyStatus{Version: "2.6.12", PID: 7}}
			for _, b := range config.Proxy.Backends {
				for _, server := range b.Servers {
					s.Servers = append(s.Servers, weir.ServerStatus{Backend: b.Name, ID: server.ID, State: weir.ServerUp})
				}
			}
			if _, err := r.control.Report(ctx, s); err != nil {
				return
			}
			after = config.Revision
		}
	}
	wg.Go(func() {
		known := map[weir.ID]bool{}
		for ctx.Err() == nil {
			s, err := r.control.Status(ctx) // of all teams
			if err != nil {
				return
			}
			for _, m := range s.Machines {
				if m.LoadBalancer != "" && !known[m.ID] {
					known[m.ID] = true
					wg.Go(func() { node(m.ID) })
				}
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

// refusal returns the status and the sentence of an error of godo's.
func refusal(err error) (int, string) {
	if e, ok := err.(*godo.ErrorResponse); ok {
		return e.Response.StatusCode, e.Message
	}
	return 0, ""
}
