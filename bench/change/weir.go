package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/digitalocean/godo"

	"weir/api"
	"weir/cloud"
	"weir/control"
	"weir/edge"
	"weir/haproxy"
	"weir/nodeapi"
	"weir/pki"
	"weir/store"
	"weir/weir"
)

const (
	weirFront = "127.19.0.1:18082"
	benchTag  = "bench"
	token     = "bench"
)

// loopback is a cloud whose machines are the application servers of this process: the
// machine s-N has the address of server N. It moves Fake's addresses to 127.0.0.0/8.
type loopback struct{ *cloud.Fake }

func (c loopback) Machines(ctx context.Context) ([]cloud.Machine, error) {
	all, err := c.Fake.Machines(ctx)
	for i := range all {
		m := &all[i]
		m.Anchor = netip.MustParseAddrPort(weirFront).Addr()
		var n int
		if _, err := fmt.Sscanf(m.Name, "s-%d", &n); err == nil {
			m.Private = serverAddr(n).Addr()
		}
	}
	return all, err
}

// byWeir is Weir: the control plane in this process, the agent in one of its own.
type byWeir struct {
	binary string
	dir    string
	client *godo.Client
	ctl    *control.Control
	lb     weir.ID
	agent  *exec.Cmd
	ids    map[netip.AddrPort]weir.ID
	undo   []func() // what stop does, last first
}

func newWeir(binary string) contender { return &byWeir{binary: binary} }

func (c *byWeir) String() string { return "weir" }

func (c *byWeir) start(ctx context.Context, present []netip.AddrPort) (string, error) {
	var err error
	if c.dir, err = os.MkdirTemp("", "bench-weir-"); err != nil {
		return "", err
	}
	c.undo = append(c.undo, func() { os.RemoveAll(c.dir) })
	db, err := store.Embed(ctx, filepath.Join(c.dir, "store"), slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	c.undo = append(c.undo, func() { db.Close() })
	ca, err := pki.Open(filepath.Join(c.dir, "pki"))
	if err != nil {
		return "", err
	}
	nodes, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	fake := cloud.NewFake(cloud.FakeOptions{Machines: 3000})
	c.ctl = control.New(control.Options{Region: "lab", Store: db, Cloud: loopback{fake},
		NodeURL: "https://" + nodes.Addr().String(), NodeCA: ca.PEM()})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.ctl.Run(ctx) })
	wg.Go(func() { nodeapi.Serve(ctx, nodes, c.ctl, ca, []string{"127.0.0.1"}, slog.New(slog.DiscardHandler)) })
	c.undo = append(c.undo, func() { cancel(); wg.Wait() })
	server := httptest.NewServer(api.New(api.Options{Control: c.ctl, Users: edge.NewToken(token), Log: slog.New(slog.DiscardHandler)}))
	c.undo = append(c.undo, server.Close)
	c.client, err = godo.New(&http.Client{Transport: bearer{}}, godo.SetBaseURL(server.URL+"/"))
	if err != nil {
		return "", err
	}
	if err := c.makeServers(ctx, present); err != nil {
		return "", err
	}
	return weirFront, c.startAgent(ctx, fake, ca)
}

// bearer adds the token to each request.
type bearer struct{}

func (bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return http.DefaultTransport.RoundTrip(r)
}

// makeServers makes a machine for each server that is present and for the next one,
// tags those that are present, and makes the load balancer.
func (c *byWeir) makeServers(ctx context.Context, present []netip.AddrPort) error {
	t := weir.Template{Region: "lab", Size: weir.DefaultNodeSize, Image: "debian-12-x64"}
	var names []string
	for i := range len(present) + 1 {
		names = append(names, "s-"+strconv.Itoa(i))
	}
	made, _, err := c.ctl.CreateMachines(ctx, names, t)
	if err != nil {
		return err
	}
	c.ids = map[netip.AddrPort]weir.ID{}
	var tagged []weir.ID
	for i, m := range made {
		c.ids[serverAddr(i)] = m.ID
		if i < len(present) {
			tagged = append(tagged, m.ID)
		}
	}
	if err := errors.Join(c.ctl.CreateTag(ctx, benchTag), c.ctl.Tag(ctx, benchTag, tagged, nil)); err != nil {
		return err
	}
	check := weir.DefaultCheck()
	check.Port = serverPort
	lb, err := c.ctl.CreateLoadBalancer(ctx, weir.LoadBalancer{Name: "bench", Region: "lab", Size: weir.DefaultNodeSize,
		Instances: 1, Algorithm: weir.RoundRobin, Health: check, Idle: weir.DefaultIdle, Tag: benchTag,
		Rules: []weir.Rule{{Entry: weir.HTTP, EntryPort: int(netip.MustParseAddrPort(weirFront).Port()), Target: weir.HTTP, TargetPort: serverPort}}})
	c.lb = lb.ID
	return err
}

var tokenOf = regexp.MustCompile(`echo '([A-Z2-7]+)'`)

// startAgent runs weir node as the load balancer's instance would, with the token
// from the instance's user-data.
func (c *byWeir) startAgent(ctx context.Context, fake *cloud.Fake, ca *pki.CA) error {
	secret, err := c.instanceToken(ctx, fake)
	if err != nil {
		return err
	}
	tokenFile, caFile := filepath.Join(c.dir, "node-token"), filepath.Join(c.dir, "ca.pem")
	if err := errors.Join(os.WriteFile(tokenFile, []byte(secret), 0o600), os.WriteFile(caFile, ca.PEM(), 0o600)); err != nil {
		return err
	}
	c.agent = exec.Command(c.binary, "node", "--join", c.ctl.NodeURL, "--token", tokenFile, "--ca", caFile, "--data", filepath.Join(c.dir, "node"))
	c.agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said bytes.Buffer
	c.agent.Stderr = &said
	if err := c.agent.Start(); err != nil {
		return fmt.Errorf("start %s (make build makes it): %w", c.binary, err)
	}
	c.undo = append(c.undo, func() {
		// HAProxy outlives its agent by design, and is in its own group or the agent's.
		pid := c.haproxy()
		c.agent.Process.Kill()
		c.agent.Wait()
		endTree(pid)
	})
	return nil
}

func (c *byWeir) instanceToken(ctx context.Context, fake *cloud.Fake) (string, error) {
	for range 1000 {
		all, err := c.ctl.Machines(ctx)
		if err != nil {
			return "", err
		}
		for _, m := range all {
			if m.LoadBalancer != c.lb {
				continue
			}
			if spec, ok := fake.Spec(m.ID); ok {
				if found := tokenOf.FindStringSubmatch(spec.UserData); found != nil {
					return found[1], nil
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", errors.New("the load balancer got no instance within 10 s")
}

func (c *byWeir) add(ctx context.Context, server netip.AddrPort) error {
	_, err := c.client.Tags.TagResources(ctx, benchTag, &godo.TagResourcesRequest{Resources: c.resource(server)})
	return err
}

func (c *byWeir) remove(ctx context.Context, server netip.AddrPort) error {
	_, err := c.client.Tags.UntagResources(ctx, benchTag, &godo.UntagResourcesRequest{Resources: c.resource(server)})
	return err
}

func (c *byWeir) resource(server netip.AddrPort) []godo.Resource {
	return []godo.Resource{{ID: string(c.ids[server]), Type: godo.DropletResourceType}}
}

func (c *byWeir) process() int { return c.agent.Process.Pid }

func (c *byWeir) reloads() int { return c.status().Reloads }

// haproxy returns the pid of the worker, 0 if there is none.
func (c *byWeir) haproxy() int { return c.status().PID }

func (c *byWeir) status() weir.HAProxyStatus {
	s, err := c.ctl.Status(context.Background())
	if err != nil || len(s.LoadBalancers) == 0 || len(s.LoadBalancers[0].Instances) == 0 {
		return weir.HAProxyStatus{}
	}
	return s.LoadBalancers[0].Instances[0].Node.HAProxy
}

func (c *byWeir) stop() {
	for len(c.undo) > 0 {
		last := len(c.undo) - 1
		c.undo[last]()
		c.undo = c.undo[:last]
	}
}

// endTree ends a HAProxy worker with its master.
func endTree(worker int) {
	if worker == 0 {
		return
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", worker))
	if err != nil {
		return
	}
	var master int
	fmt.Sscanf(string(bytes.SplitN(b, []byte(") "), 2)[1]), "%c %d", new(byte), &master)
	if master > 1 {
		syscall.Kill(master, syscall.SIGKILL)
	}
	syscall.Kill(worker, syscall.SIGKILL)
}

// measureNode measures haproxy.Set alone: with n servers present, added more at once. A
// server gets its first request later, when its health check has passed: measureAdds sees that.
func measureNode(ctx context.Context, servers *servers, n, added, runs int) (s spread, reloads int, err error) {
	dir, err := os.MkdirTemp("", "bench-node-")
	if err != nil {
		return s, 0, err
	}
	defer os.RemoveAll(dir)
	p := haproxy.New(haproxy.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { p.Run(ctx) })
	defer p.Stop(context.Background())

	var took []time.Duration
	revision := int64(0)
	set := func(count int) (time.Duration, error) {
		revision++
		want := document(count)
		start := time.Now()
		err := p.Set(ctx, revision, want)
		return time.Since(start), err
	}
	for range runs {
		if _, err := set(n); err != nil {
			return s, 0, err
		}
		for leaving := true; leaving; { // those that were added in the last run
			_, all, err := p.Status(ctx)
			if err != nil {
				return s, 0, err
			}
			leaving = len(all) > n
			time.Sleep(10 * time.Millisecond)
		}
		d, err := set(n + added)
		if err != nil {
			return s, 0, err
		}
		took = append(took, d)
	}
	status, _, err := p.Status(ctx)
	return spreadOf(took), status.Reloads, err
}

// document is what a node with count servers is to do. Servers beyond those that
// listen are there all the same: they fail their checks.
func document(count int) weir.Proxy {
	b := weir.Backend{Name: "servers-http-18080", Mode: weir.HTTP, Balance: weir.RoundRobin, Idle: weir.DefaultIdle, Check: weir.DefaultCheck()}
	b.Check.Port = serverPort
	for i := range count {
		b.Servers = append(b.Servers, weir.Server{ID: weir.ID(strconv.Itoa(100_001 + i)), Name: "s-" + strconv.Itoa(i), Addr: serverAddr(i), Weight: 1})
	}
	return weir.Proxy{Name: "bench", Drain: time.Second, Backends: []weir.Backend{b},
		Frontends: []weir.Frontend{{Name: "http", Bind: netip.MustParseAddrPort("127.19.0.2:18083"), Mode: weir.HTTP, Idle: weir.DefaultIdle, Backend: b.Name}}}
}
