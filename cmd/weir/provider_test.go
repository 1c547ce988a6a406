package main_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/digitalocean/godo"
	"golang.org/x/oauth2"

	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/edge"
	"weir/secrets"
	"weir/store"
	"weir/weir"
)

// account is one at a provider that speaks DigitalOcean's API, in region lab1: a Weir over a cloud in memory.
type account struct {
	t     *testing.T
	cloud *cloud.Fake
	url   string
	do    *godo.Client
}

const accountToken = "sesame"

func newAccount(t *testing.T) *account {
	t.Helper()
	a := &account{t: t, cloud: cloud.NewFake(cloud.FakeOptions{Region: "lab1", Machines: 20})}
	ctl := control.New(control.Options{Region: "lab1", Store: store.Memory(), Cloud: a.cloud, Poll: 20 * time.Millisecond, Drain: time.Millisecond})
	keys, err := secrets.New(secrets.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	ctl.Secrets = keys
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { ctl.Run(ctx) })
	if err := ctl.SetToken(ctx, "account", weir.SecretSum(accountToken)); err != nil {
		t.Fatal(err)
	}
	handler := api.New(api.Options{Control: ctl, Users: edge.NewTokens(ctl), Log: slog.New(slog.DiscardHandler), OneHost: true,
		Public: netip.MustParsePrefix("198.18.0.0/16"), Private: netip.MustParsePrefix("10.10.0.0/16"), Reserved: netip.MustParsePrefix("203.0.113.0/24")})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		if r.Method == http.MethodPost {
			time.Sleep(50 * time.Millisecond) // it is done, and its answer is on the way
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		cancel()
		wg.Wait()
		ctl.Store.Close()
	})
	a.url = server.URL
	a.do = clientOf(t, server.URL, accountToken)
	return a
}

func clientOf(t *testing.T, url, token string) *godo.Client {
	t.Helper()
	do, err := godo.New(oauth2.NewClient(context.Background(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})), godo.SetBaseURL(url))
	if err != nil {
		t.Fatal(err)
	}
	return do
}

// droplets returns the account's droplets.
func (a *account) droplets() []godo.Droplet {
	a.t.Helper()
	all, _, err := a.do.Droplets.List(a.t.Context(), &godo.ListOptions{PerPage: 200})
	if err != nil {
		a.t.Fatal(err)
	}
	return all
}

// comesTo waits until the account has as many droplets of Weir's pool, each of another machine, beside the one that is not Weir's.
func (a *account) comesTo(n int) {
	a.t.Helper()
	said := ""
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		machines, others := map[string]int{}, 0
		for _, d := range a.droplets() {
			for _, tag := range d.Tags {
				if strings.HasPrefix(tag, "weir:outer:") {
					machines[tag]++
				}
			}
			if d.Name == "theirs" {
				others++
			}
		}
		twice := 0
		for _, count := range machines {
			if count > 1 {
				twice++
			}
		}
		if said = fmt.Sprintf("%d machines, %d of them twice, and %d of others", len(machines), twice, others); len(machines) == n && twice == 0 && others == 1 {
			return
		}
	}
	a.t.Fatalf("the account has %s; want %d, each once, and that of others", said, n)
}

func TestControlPlaneMakesItsMachinesAtAProvider(t *testing.T) {
	a := newAccount(t)
	if _, _, err := a.do.Droplets.Create(t.Context(), &godo.DropletCreateRequest{Name: "theirs", Region: "lab1", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, Tags: []string{"web"}}); err != nil {
		t.Fatal(err)
	}
	h := thisHost(t)
	good, wrong := h.write("good.token", accountToken+"\n"), h.write("wrong.token", "other")
	addr, nodes, data := freeAddr(t), freeAddr(t), filepath.Join(h.dir, "serve")
	base := []string{"serve", "--data", data, "--listen", addr, "--node-listen", nodes, "--advertise", "127.0.0.1"}
	with := func(more ...string) []string { return append(base[:len(base):len(base)], more...) }
	for want, args := range map[string][]string{
		"--cloud is \"aws\", want digitalocean":                              {"--cloud", "aws"},
		"are of no use without --cloud digitalocean":                         {"--digitalocean-token", good},
		"--digitalocean-token is missing":                                    {"--cloud", "digitalocean"},
		"no.token: no such file":                                             {"--cloud", "digitalocean", "--digitalocean-token", filepath.Join(h.dir, "no.token")},
		"DigitalOcean refuses the token (401)":                               {"--cloud", "digitalocean", "--digitalocean-token", wrong, "--digitalocean-url", a.url, "--region", "lab1"},
		`has no region "nyc9" that makes droplets, want one of lab1`:         {"--cloud", "digitalocean", "--digitalocean-token", good, "--digitalocean-url", a.url, "--region", "nyc9"},
		`the URL of the API is "nowhere", want one without a path`:           {"--cloud", "digitalocean", "--digitalocean-token", good, "--digitalocean-url", "nowhere", "--region", "lab1"},
		`the name is "Mine!", want 1 to 63 lower-case letters, digits and -`: {"--cloud", "digitalocean", "--digitalocean-token", good, "--digitalocean-name", "Mine!", "--region", "lab1"},
	} {
		h.fails(want, with(args...)...)
	}

	args := with("--cloud", "digitalocean", "--digitalocean-token", good, "--digitalocean-url", a.url, "--digitalocean-name", "outer", "--region", "lab1")
	p := h.start(args...)
	p.says("API http://" + addr + "/")
	token, err := os.ReadFile(filepath.Join(data, "token"))
	if err != nil {
		t.Fatal(err)
	}
	do := clientOf(t, "http://"+addr, strings.TrimSpace(string(token)))
	want := func(n uint64) *godo.DropletAutoscalePoolRequest {
		return &godo.DropletAutoscalePoolRequest{Name: "web", Config: &godo.DropletAutoscaleConfiguration{TargetNumberInstances: n},
			DropletTemplate: &godo.DropletAutoscaleResourceTemplate{Size: "s-1vcpu-1gb", Region: "lab1", Image: "debian-12-x64", UserData: "#!/bin/sh\ntrue\n"}}
	}
	pool, _, err := do.DropletAutoscale.Create(t.Context(), want(3))
	if err != nil {
		t.Fatal(err)
	}
	a.comesTo(3)
	for _, d := range a.droplets() {
		if d.Name != "theirs" && !strings.HasPrefix(d.Name, "web-") {
			t.Errorf("a droplet is named %s, want it to be named for its pool", d.Name)
		}
	}
	if out := h.must("status"); !strings.Contains(out, "lab1") {
		t.Errorf("weir status says %q", out)
	}

	// It dies while it has machines made, and goes on where it was.
	if _, _, err := do.DropletAutoscale.Update(t.Context(), pool.ID, want(9)); err != nil {
		t.Fatal(err)
	}
	for len(a.droplets()) < 6 {
		time.Sleep(5 * time.Millisecond)
	}
	p.stop(syscall.SIGKILL)
	p = h.start(args...)
	p.says("API http://" + addr + "/")
	a.comesTo(9)

	if _, _, err := do.DropletAutoscale.Update(t.Context(), pool.ID, want(1)); err != nil {
		t.Fatal(err)
	}
	a.comesTo(1)
	if resp, err := do.DropletAutoscale.DeleteDangerous(t.Context(), pool.ID); err != nil {
		body, _ := io.ReadAll(resp.Body)
		t.Fatal(err, string(body))
	}
	a.comesTo(0)
}
