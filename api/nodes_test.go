package api_test

import (
	"context"
	"encoding/pem"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/digitalocean/godo"
	"golang.org/x/oauth2"

	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/edge"
	"weir/store"
	"weir/weir"
)

// newOwnRegion starts a region of machines of one's own, with no cloud.
func newOwnRegion(t *testing.T) *region {
	t.Helper()
	c := control.New(control.Options{Region: "lab", Store: store.Memory(), Cloud: cloud.None{},
		Members: []string{"https://192.0.2.11:7071", "https://192.0.2.12:7071"},
		NodeCA:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("authority")})})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	if err := c.SetToken(ctx, "test", weir.SecretSum(token)); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(contract(t, api.New(api.Options{Control: c, Users: edge.NewTokens(c)})))
	t.Cleanup(func() {
		server.Close()
		cancel()
		wg.Wait()
		c.Store.Close()
	})
	do, err := godo.New(oauth2.NewClient(ctx, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})), godo.SetBaseURL(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	return &region{t: t, control: c, url: server.URL, do: do}
}

func TestMachinesOfOnesOwnAreNodesAndNoDroplets(t *testing.T) {
	r := newOwnRegion(t)
	made, resp, err := call[api.NodeToken](r, "POST", "nodes", api.NewNode{Name: "lb-a"})
	if err != nil || resp.StatusCode != 201 || weir.PinOf(made.Token) == "" || !slices.Equal(made.Join, []string{"https://192.0.2.11:7071", "https://192.0.2.12:7071"}) {
		t.Fatalf("%+v (%v), want a token with a fingerprint, and where to join", made, err)
	}
	listed, _, err := call[struct{ Nodes []weir.NodeOverview }](r, "GET", "nodes", nil)
	if err != nil || len(listed.Nodes) != 1 || listed.Nodes[0].Name != "lb-a" || listed.Nodes[0].Joined {
		t.Fatalf("%+v (%v), want lb-a, which has not joined", listed, err)
	}
	droplets, _, err := r.do.Droplets.List(t.Context(), nil)
	if err != nil || len(droplets) != 0 {
		t.Errorf("droplets %v (%v), want none", droplets, err)
	}
	if _, _, err := r.do.Droplets.Get(t.Context(), int(made.ID)); err == nil {
		t.Error("it can be had as a droplet")
	}
	machines, _, err := call[struct{ Machines []api.InventoryMachine }](r, "GET", "machines", nil)
	if err != nil || len(machines.Machines) != 1 || !machines.Machines[0].Own || machines.Machines[0].Line != 0 {
		t.Errorf("the inventory is %+v (%v), want one machine of one's own, without a line", machines, err)
	}
	if a := r.ask("DELETE", "/v2/weir/nodes/lb-a", ""); a.status != 204 {
		t.Errorf("removing it: %d %s, want 204", a.status, a.text)
	}
	if a := r.ask("DELETE", "/v2/weir/nodes/lb-a", ""); a.status != 404 {
		t.Errorf("removing it again: %d %s, want 404", a.status, a.text)
	}
}

func TestWithoutACloudTheAnswerSaysSo(t *testing.T) {
	r := newOwnRegion(t)
	for what, a := range map[string]answer{
		"a droplet":       r.ask("POST", "/v2/droplets", `{"name":"a","size":"s-1vcpu-1gb","image":"debian-12-x64"}`),
		"a larger pool":   r.ask("POST", "/v2/weir/pools/web/machines", `{"count":1}`),
		"a reserved IP":   r.ask("POST", "/v2/reserved_ips", `{"region":"lab"}`),
		"a load balancer": r.ask("POST", "/v2/load_balancers", `{"name":"a","region":"lab","forwarding_rules":[{"entry_protocol":"http","entry_port":80,"target_protocol":"http","target_port":80}]}`),
		"an app":          r.ask("PUT", "/v2/weir/app", `{"name":"web","load_balancer":{"address":"192.0.2.10/24"}}`),
	} {
		if a.status != 422 || !strings.Contains(a.text, "this Weir has no cloud") {
			t.Errorf("%s: %d %s, want 422 that says there is no cloud", what, a.status, a.text)
		}
	}
}

func TestAppWithServersByAddressHasNoPool(t *testing.T) {
	r := newOwnRegion(t)
	lb := weir.LoadBalancer{Name: "web", Region: "lab", Size: weir.DefaultNodeSize, Algorithm: weir.RoundRobin, Idle: weir.DefaultIdle,
		Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}}, Health: weir.DefaultCheck(),
		Mode: weir.OnSegment, Addr: netip.MustParsePrefix("192.0.2.10/24"), Servers: []netip.Addr{netip.MustParseAddr("192.0.2.21")}}
	for _, want := range []int{1, 0} {
		did, _, err := call[api.Applied](r, "PUT", "app", api.AppOf(nil, lb, nil))
		if err != nil || len(did.Changes) != want {
			t.Fatalf("%q (%v), want %d changes", did.Changes, err, want)
		}
	}
	all, err := r.control.LoadBalancers(t.Context())
	if err != nil || len(all) != 1 || all[0].Mode != weir.OnSegment || all[0].Addr != lb.Addr || !slices.Equal(all[0].Servers, lb.Servers) || all[0].Tag != "" {
		t.Errorf("load balancers %+v (%v), want one with its address and server as given", all, err)
	}
	for body, want := range map[string]string{
		`{"name":"web","servers":["192.0.2.21"],"count":2,"load_balancer":{"address":"192.0.2.10/24"}}`: "count is about machines that Weir makes",
		`{"name":"web","servers":["app-1"],"load_balancer":{"address":"192.0.2.10/24"}}`:                `servers has \"app-1\"`,
		`{"name":"web","servers":["192.0.2.21"],"load_balancer":{"address":"192.0.2.10"}}`:              "with the length of its network's prefix",
		`{"name":"web","servers":["192.0.2.10"],"load_balancer":{"address":"192.0.2.10/24"}}`:           "own address",
	} {
		if a := r.ask("PUT", "/v2/weir/app", body); a.status != 422 || !strings.Contains(a.text, want) {
			t.Errorf("%s: %d %s, want 422 that says %q", body, a.status, a.text, want)
		}
	}
	pools, _, err := call[struct{ Pools []api.Pool }](r, "GET", "pools", nil)
	if err != nil || len(pools.Pools) != 0 {
		t.Errorf("pools %+v (%v), want none", pools, err)
	}
}

// away is a store of tokens that cannot say.
type away struct{}

func (away) UseToken(context.Context, string) (weir.Token, error) {
	return weir.Token{}, context.DeadlineExceeded
}

func TestCallerWhoCannotBeToldIsAskedToComeAgain(t *testing.T) {
	server := httptest.NewServer(contract(t, api.New(api.Options{Control: control.New(control.Options{Region: "lab1"}), Users: edge.NewTokens(away{})})))
	defer server.Close()
	r := &region{t: t, url: server.URL}
	if a := r.ask("GET", "/v2/weir/status", ""); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %s, want 503 with Retry-After", a.status, a.text)
	}
	if a := r.askWith("GET", "/v2/weir/status", "", ""); a.status != 401 {
		t.Errorf("without a token: %d, want 401", a.status)
	}
}
