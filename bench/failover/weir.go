package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"

	"weir/api"
	"weir/weir"
)

// weirCloud is Weir in a cloud that assigns the service address: the region of weir dev, with
// what that makes without a configuration: two instances and three servers with nginx, all
// containers. Its client is in the region's gateway, where the Internet begins. The store is
// on a disk, with fsync: each decision waits for it.
type weirCloud struct{}

func (weirCloud) String() string        { return "weir-cloud" }
func (weirCloud) period() time.Duration { return time.Second } // above all of its intervals

func (weirCloud) missing() string {
	if _, err := os.Stat(weirBinary()); err != nil {
		return "bin/weir is not built (make build)"
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return "runc is not installed (scripts/deps)"
	}
	return ""
}

// weirBinary is beside this program.
func weirBinary() string {
	self, err := os.Executable()
	if err != nil {
		return "weir"
	}
	return filepath.Join(filepath.Dir(self), "weir")
}

// The lab has a loopback of its own, so that nobody else has these.
const (
	weirAPI   = "127.0.0.1:7070"
	weirFront = "127.0.0.1:8080"
)

// weirTrial is a region that runs.
type weirTrial struct {
	dir     string
	dev     *exec.Cmd
	ended   chan struct{} // closed when dev has ended
	token   string
	gateway netns.NsHandle

	status   weir.RegionStatus // when all was well
	balancer weir.LoadBalancerOverview
	active   weir.InstanceOverview
}

func (w weirCloud) open(ctx context.Context) (t trial, err error) {
	if err := loopbackUp(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, err
	}
	r := &weirTrial{dir: dir, ended: make(chan struct{}), gateway: netns.None()}
	log, err := os.Create(r.log())
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer log.Close()
	r.dev = exec.Command(weirBinary(), "dev", "--data", filepath.Join(dir, "data"), "--api", weirAPI, "--front", weirFront)
	r.dev.Env = append(os.Environ(), "WEIR_RUN_DIR="+filepath.Join(dir, "run"))
	r.dev.Stdout, r.dev.Stderr = log, log
	if err := r.dev.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() { // ends in close, which waits for it
		r.dev.Wait()
		close(r.ended)
	}()
	if err := r.untilWell(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *weirTrial) log() string { return filepath.Join(r.dir, "dev.log") }

func (r *weirTrial) close() {
	r.dev.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(time.Minute):
		r.dev.Process.Kill()
		<-r.ended
	}
	if r.gateway.IsOpen() {
		r.gateway.Close()
	}
	os.RemoveAll(r.dir)
}

// call calls the API. answer may be nil.
func (r *weirTrial) call(ctx context.Context, method, path string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+weirAPI+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(said))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(said, answer)
}

// look reads the status, and returns what is amiss.
func (r *weirTrial) look(ctx context.Context) error {
	if r.token == "" {
		token, err := os.ReadFile(filepath.Join(r.dir, "data/token"))
		if err != nil {
			return err
		}
		r.token = strings.TrimSpace(string(token))
	}
	var answer struct {
		Status weir.RegionStatus `json:"status"`
	}
	if err := r.call(ctx, http.MethodGet, "/v2/weir/status", nil, &answer); err != nil {
		return err
	}
	r.status = answer.Status
	if err := pairWell(r.status); err != nil {
		return err
	}
	r.balancer = r.status.LoadBalancers[0]
	i := slices.IndexFunc(r.balancer.Instances, func(in weir.InstanceOverview) bool { return in.Active })
	r.active = r.balancer.Instances[i]
	return nil
}

// pairWell returns what is amiss with the one load balancer of a region.
func pairWell(s weir.RegionStatus) error {
	if len(s.LoadBalancers) != 1 {
		return fmt.Errorf("%d load balancers, want one", len(s.LoadBalancers))
	}
	lb, active := s.LoadBalancers[0], false
	if n := len(lb.Instances); n != weir.MinInstances || lb.Phase != weir.LoadBalancerActive {
		return fmt.Errorf("load balancer is %s with %d instances", lb.Phase, n)
	}
	for _, in := range lb.Instances {
		if in.Health.State != weir.InstanceWell || in.Node.Revision != in.Wants {
			return fmt.Errorf("instance %s %s, at revision %d of %d", in.Machine, in.Health.State.Phrase(), in.Node.Revision, in.Wants)
		}
		active = active || in.Active
		for _, s := range in.Node.Servers {
			if s.State != weir.ServerUp {
				return fmt.Errorf("server %s is %s", s.ID, s.State)
			}
		}
	}
	if !active {
		return errors.New("no instance is active")
	}
	return nil
}

// untilWell waits until both instances are well and the address has answered.
func (r *weirTrial) untilWell(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	check := func() error {
		select {
		case <-r.ended:
			cancel()
			return fmt.Errorf("weir dev ended: %s", r.dev.ProcessState)
		default:
		}
		if err := r.look(ctx); err != nil {
			return err
		}
		if !r.gateway.IsOpen() {
			gateways, _ := filepath.Glob("/run/netns/weir-*-gw") // /run is the lab's own
			if len(gateways) != 1 {
				return fmt.Errorf("gateways %q, want one", gateways)
			}
			var err error
			if r.gateway, err = netns.GetFromPath(gateways[0]); err != nil {
				return err
			}
		}
		for range 20 {
			if err := ask(ctx, r.dial, time.Now().Add(time.Second)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := until(ctx, check); err != nil {
		log, _ := os.ReadFile(r.log())
		return fmt.Errorf("not healthy: %w\n%s", err, log[max(0, len(log)-2000):])
	}
	return nil
}

// dial connects to the load balancer's reserved IP from the gateway.
func (r *weirTrial) dial(ctx context.Context, deadline time.Time) (net.Conn, error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer home.Close()
	if err := netns.Set(r.gateway); err != nil {
		return nil, err
	}
	defer func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread() // else the thread ends with the goroutine
		}
	}()
	return dial(ctx, r.balancer.Address, deadline)
}

func (r *weirTrial) cause(ctx context.Context, f fault) error {
	switch f {
	case dies:
		return r.breakActive(ctx, api.Fault{Type: api.FaultKill})
	case cut:
		return r.breakActive(ctx, api.Fault{Type: api.FaultPartition})
	case killed:
		return r.killHAProxy()
	case planned:
		return r.call(ctx, http.MethodPost, "/v2/weir/load_balancers/"+string(r.balancer.ID)+"/failover", api.Handover{}, nil)
	}
	return fmt.Errorf("no fault %q", f)
}

// breakActive does what weir machine does, without the time that its start takes.
func (r *weirTrial) breakActive(ctx context.Context, f api.Fault) error {
	return r.call(ctx, http.MethodPost, "/v2/weir/machines/"+string(r.active.Machine)+"/faults", f, nil)
}

// killHAProxy kills HAProxy's processes in the active instance, which are those in its cgroup.
func (r *weirTrial) killHAProxy() error {
	n := 0
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if comm, err := os.ReadFile(filepath.Join(dir, "comm")); err != nil || string(comm) != "haproxy\n" {
			continue
		}
		groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil || !strings.Contains(string(groups)+"/", "/"+string(r.active.Machine)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill haproxy: %w", err)
		}
		n++
	}
	if n == 0 {
		return errors.New("no haproxy to kill in " + string(r.active.Machine))
	}
	return nil
}

func (r *weirTrial) over() bool { return true } // the call that hands over returns when it is

// heal does nothing: what is broken is replaced, which untilWell waits for.
func (r *weirTrial) heal(context.Context, fault) error { return nil }

// replaced waits until the pair is whole again after an instance was lost at that time, and
// returns how long after it the new instance was in service.
func (r *weirTrial) replaced(ctx context.Context, at time.Time) (time.Duration, error) {
	had := map[weir.ID]bool{}
	for _, in := range r.balancer.Instances {
		had[in.Machine] = true
	}
	if err := r.untilWell(ctx); err != nil {
		return 0, err
	}
	for _, in := range r.balancer.Instances {
		if !had[in.Machine] {
			return in.Health.Since.Sub(at), nil
		}
	}
	return 0, errors.New("the instance was not replaced")
}

// moves counts the events that tell of a move.
func (r *weirTrial) moves() (int64, error) {
	var answer struct {
		Events []weir.Event `json:"events"`
	}
	path := fmt.Sprintf("/v2/weir/events?limit=%d", api.MaxEvents)
	if err := r.call(context.Background(), http.MethodGet, path, nil, &answer); err != nil {
		return 0, err
	}
	var n int64
	for _, e := range answer.Events {
		if e.Kind == weir.EventDecision && strings.HasPrefix(e.Text, "moves the address") {
			n++
		}
	}
	return n, nil
}
