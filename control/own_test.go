package control

import (
	"context"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/cloud"
	"weir/store"
	"weir/weir"
)

// newCloudless returns a control plane that has no cloud, and does nothing by itself.
func newCloudless(t *testing.T) *Control {
	db := store.Memory()
	t.Cleanup(func() { db.Close() })
	return New(Options{Region: "own1", Store: db, Cloud: cloud.None{}, NodeURL: "https://192.0.2.11:7071",
		NodeCA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("authority")})})
}

func onSegment(name string) weir.LoadBalancer {
	return weir.LoadBalancer{Name: name, Region: "own1", Size: weir.DefaultNodeSize, Algorithm: weir.RoundRobin,
		Rules:  []weir.Rule{{Entry: weir.HTTP, EntryPort: 80, Target: weir.HTTP, TargetPort: 80}},
		Health: weir.DefaultCheck(), Idle: weir.DefaultIdle,
		Mode: weir.OnSegment, Addr: netip.MustParsePrefix("192.0.2.10/24"),
		Servers: []netip.Addr{netip.MustParseAddr("192.0.2.21"), netip.MustParseAddr("192.0.2.22")}}
}

func TestMachineOfOnesOwnJoinsWithItsTokenAndSaysWhereItIs(t *testing.T) {
	c, ctx := newCloudless(t), t.Context()
	m, token, err := c.AddNode(ctx, "lb-a")
	if err != nil {
		t.Fatal(err)
	}
	if want := hash([]byte("authority")); weir.PinOf(token) != want {
		t.Errorf("token %q pins %q, want the authority's %q", token, weir.PinOf(token), want)
	}
	if m.Status.Phase != weir.MachineNew || len(m.Actions) != 0 {
		t.Errorf("it begins as %q with actions %v, want new with none", m.Status.Phase, m.Actions)
	}
	node, err := c.Enrol(ctx, token, []byte("key"))
	if err != nil || node != m.ID {
		t.Fatalf("it enrols as node %q, %v, want %s", node, err, m.ID)
	}
	host := &weir.HostStatus{Name: "a.example", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/8"), netip.MustParsePrefix("192.0.2.7/24")}}
	if _, err := c.Report(ctx, weir.NodeStatus{Node: node, Agent: "v1", Host: host}); err != nil {
		t.Fatal(err)
	}
	nodes, err := c.Nodes(ctx)
	if err != nil || len(nodes) != 1 {
		t.Fatalf("nodes %v, %v, want one", nodes, err)
	}
	if n := nodes[0]; !n.Joined || n.Phase != weir.MachineActive || n.Private.String() != "10.0.0.7" || n.Host.Name != "a.example" || n.Seen.IsZero() {
		t.Errorf("node %+v, want it joined, active, at its first address", n)
	}

	// With a load balancer it is where that one's address belongs.
	lb := onSegment("web")
	if lb, err = c.CreateLoadBalancer(ctx, lb); err != nil {
		t.Fatal(err)
	}
	change(t, c, m.ID, func(m *weir.Machine) { m.LoadBalancer = lb.ID })
	if _, err := c.Report(ctx, weir.NodeStatus{Node: node, Host: host}); err != nil {
		t.Fatal(err)
	}
	m, err = c.Machine(ctx, m.ID)
	if err != nil || m.Status.Private.String() != "192.0.2.7" || m.Status.Public.String() != "192.0.2.7" {
		t.Errorf("it is at %s and %s, %v, want at 192.0.2.7, on the segment of 192.0.2.10/24", m.Status.Private, m.Status.Public, err)
	}
}

func TestTokenThatWasLostBeforeItsUseIsReplaced(t *testing.T) {
	c, ctx := newCloudless(t), t.Context()
	first, lost, err := c.AddNode(ctx, "lb-a")
	if err != nil {
		t.Fatal(err)
	}
	second, token, err := c.AddNode(ctx, "lb-a")
	if err != nil || second.ID != first.ID {
		t.Fatalf("node %s, %v, want the same as before, %s", second.ID, err, first.ID)
	}
	if _, err := c.Enrol(ctx, lost, []byte("key")); !errors.Is(err, weir.Denied) {
		t.Errorf("with the token that was lost: %v, want weir.Denied", err)
	}
	if _, err := c.Enrol(ctx, token, []byte("key")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.AddNode(ctx, "lb-a"); !errors.Is(err, weir.Conflict) {
		t.Errorf("another token for a node that has joined: %v, want weir.Conflict", err)
	}
	if _, _, err := c.AddNode(ctx, "no/name"); !errors.Is(err, weir.Invalid) {
		t.Errorf("a name with a slash: %v, want weir.Invalid", err)
	}
}

func TestNodeThatWasRemovedIsAStranger(t *testing.T) {
	c, ctx := newCloudless(t), t.Context()
	m, token, err := c.AddNode(ctx, "lb-a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Enrol(ctx, token, []byte("key")); err != nil {
		t.Fatal(err)
	}
	lb, err := c.CreateLoadBalancer(ctx, onSegment("web"))
	if err != nil {
		t.Fatal(err)
	}
	change(t, c, m.ID, func(m *weir.Machine) { m.LoadBalancer = lb.ID })
	active(t, c, lb.ID, m.ID)
	if err := c.RemoveNode(ctx, "lb-a"); !errors.Is(err, weir.Conflict) || !strings.Contains(err.Error(), "hand over first") {
		t.Errorf("the active instance: %v, want weir.Conflict that says what to do", err)
	}
	active(t, c, lb.ID, "another")
	if err := c.RemoveNode(ctx, "lb-a"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Report(ctx, weir.NodeStatus{Node: m.ID}); !errors.Is(err, weir.Denied) {
		t.Errorf("its report: %v, want weir.Denied", err)
	}
	if _, err := c.Enrol(ctx, token, []byte("key")); !errors.Is(err, weir.Denied) {
		t.Errorf("its token: %v, want weir.Denied", err)
	}
	if err := c.RemoveNode(ctx, "lb-a"); !errors.Is(err, weir.NotFound) {
		t.Errorf("once more: %v, want weir.NotFound", err)
	}
}

func TestNobodyButItsOwnerHasPowerOverAMachineOfOnesOwn(t *testing.T) {
	c, ctx := newCloudless(t), t.Context()
	m, _, err := c.AddNode(ctx, "lb-a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteMachine(ctx, m.ID); !errors.Is(err, weir.Conflict) {
		t.Errorf("delete: %v, want weir.Conflict", err)
	}
	if _, err := c.Act(ctx, m.ID, "power_off"); !errors.Is(err, weir.Conflict) {
		t.Errorf("power off: %v, want weir.Conflict", err)
	}
	run, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	c.Poll = time.Millisecond
	wg.Go(func() { c.Run(run) })
	time.Sleep(50 * time.Millisecond) // in which a controller that wanted to would create or replace it
	now, err := c.Machine(ctx, m.ID)
	if err != nil || now.Status.Phase != weir.MachineNew || now.Status.Err != "" || !now.Deleting.IsZero() {
		t.Errorf("machine %+v, %v, want it as it was", now, err)
	}
}

func TestWithoutACloudWhatNeedsOneIsRefusedInWords(t *testing.T) {
	c, ctx := newCloudless(t), t.Context()
	template := weir.Template{Region: "own1", Size: weir.DefaultNodeSize, Image: weir.DefaultImage}
	inCloud := onSegment("web")
	inCloud.Mode, inCloud.Addr = weir.InCloud, netip.Prefix{}
	pool := weir.Pool{Name: "web", Prefix: "web", Count: 1, Template: template}
	for what, do := range map[string]func() error{
		"machines":         func() error { _, _, err := c.CreateMachines(ctx, []string{"a"}, template); return err },
		"a larger pool":    func() error { _, err := c.Grow(ctx, "web", 1); return err },
		"a pool":           func() error { _, err := c.Apply(ctx, &pool, onSegment("web"), true); return err },
		"an address":       func() error { _, err := c.ReserveAddress(ctx, weir.IPv4, "", ""); return err },
		"a balancer":       func() error { _, err := c.CreateLoadBalancer(ctx, inCloud); return err },
		"one by weir.yaml": func() error { _, err := c.Apply(ctx, nil, inCloud, true); return err },
	} {
		if err := do(); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), "this Weir has no cloud") {
			t.Errorf("%s: %v, want weir.Invalid that says there is no cloud", what, err)
		}
	}
}

func TestBalancerOfServersByAddressNeedsNoPool(t *testing.T) {
	c, ctx := newCloudless(t), t.Context()
	changes, err := c.Apply(ctx, nil, onSegment("web"), false)
	if err != nil || strings.Join(changes, "; ") != "load balancer web: created" {
		t.Fatalf("changes %q, %v, want the load balancer alone created", changes, err)
	}
	lb := onSegment("web")
	lb.Servers = lb.Servers[:1]
	lb.Addr = netip.MustParsePrefix("192.0.2.11/24")
	changes, err = c.Apply(ctx, nil, lb, false)
	want := "load balancer web: servers: [192.0.2.21], was [192.0.2.21 192.0.2.22]; load balancer web: address: 192.0.2.11/24, was 192.0.2.10/24"
	if err != nil || strings.Join(changes, "; ") != want {
		t.Errorf("changes %q, %v, want %q", strings.Join(changes, "; "), err, want)
	}
	if changes, err = c.Apply(ctx, nil, lb, false); err != nil || len(changes) != 0 {
		t.Errorf("applied again it changes %q, %v, want nothing", changes, err)
	}
}

func TestTokenWorksOnEveryMemberUntilItsNameHasAnother(t *testing.T) {
	c, ctx := newCloudless(t), t.Context()
	other := New(c.Options)
	for _, sum := range []string{"aa", "aa", "bb"} {
		if err := c.SetToken(ctx, "serve 192.0.2.11", sum); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.SetToken(ctx, "serve 192.0.2.12", "cc"); err != nil {
		t.Fatal(err)
	}
	for sum, want := range map[string]bool{"aa": false, "bb": true, "cc": true, "dd": false} {
		if _, err := other.UseToken(ctx, sum); (err == nil) != want || err != nil && !errors.Is(err, weir.NotFound) {
			t.Errorf("the other member knows %s: %v, want %v", sum, err, want)
		}
	}
}

// change changes a machine's row as a controller would.
func change(t *testing.T, c *Control, id weir.ID, to func(*weir.Machine)) {
	t.Helper()
	err := c.Store.Update(t.Context(), func(tx *store.Tx) error { return changeMachine(t.Context(), tx, id, to) })
	if err != nil {
		t.Fatal(err)
	}
}

// active makes machine the active instance of a load balancer.
func active(t *testing.T, c *Control, lb, machine weir.ID) {
	t.Helper()
	err := c.Store.Update(t.Context(), func(tx *store.Tx) error {
		row, err := loadBalancers.Get(t.Context(), tx, lb)
		row.Status.Active = machine
		loadBalancers.Put(tx, lb, row)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
