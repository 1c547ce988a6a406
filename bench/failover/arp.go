package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing/fstest"
	"time"

	"weir/weir"
)

// weirARP is Weir on machines of one's own: the lab's balancers run weir node, and hold the service
// address by ARP; one more host runs weir serve. It is what keepalived is used for.
type weirARP struct {
	lab     *lab
	control *host
	kept    [2]fstest.MapFS // what was on each node's disk when it had joined: a power cut leaves that
}

var controlAddr = netip.MustParseAddr("198.18.0.31")

const (
	weirYAML  = "/etc/weir/weir.yaml"
	weirToken = "/etc/weir/node.token"
	weirNode  = "/var/lib/weir/node"
)

func newWeirARP() contender { return &weirARP{} }

func (w *weirARP) String() string                          { return "weir-arp" }
func (w *weirARP) period() time.Duration                   { return time.Second }
func (w *weirARP) alone() []netip.Addr                     { return nil } // HAProxy has the service address alone
func (w *weirARP) open(ctx context.Context) (trial, error) { return openPair(ctx, &weirARP{}) }

func (w *weirARP) missing() string {
	if _, err := os.Stat(weirBinary()); err != nil {
		return "bin/weir is not built (make build)"
	}
	return ""
}

// weir runs a verb on the host of the control plane, and returns what it printed.
func (w *weirARP) weir(ctx context.Context, args ...string) ([]byte, error) {
	cmd := w.control.command(ctx, append([]string{weirBinary()}, args...)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("weir %s: %s", args[0], exit.Stderr)
	}
	return out, err
}

// up starts the control plane, has both balancers join, and makes the load balancer.
func (w *weirARP) up(ctx context.Context, l *lab) (err error) {
	w.lab = l
	if w.control, err = l.plug(hostRole, "control", controlAddr); err != nil {
		return err
	}
	if err := w.control.start(weirBinary(), "serve", "--advertise", controlAddr.String()); err != nil {
		return err
	}
	up, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := until(up, func() error { _, err := w.weir(up, "status"); return err }); err != nil {
		return err
	}
	for i, h := range l.balancers {
		token, err := w.weir(ctx, "node", "token", h.name)
		if err != nil {
			return err
		}
		if err := errors.Join(h.write(weirToken, string(token), 0o600), w.start(i)); err != nil {
			return err
		}
	}
	yaml := fmt.Sprintf("name: web\nservers: [%s, %s]\nload_balancer:\n  address: %s/%d\n"+
		"  forwarding_rules:\n    - {entry_protocol: http, entry_port: 80, target_protocol: http, target_port: 80}\n",
		serverIPs[0], serverIPs[1], serviceAddr, network.Bits())
	if err := w.control.write(weirYAML, yaml, 0o644); err != nil {
		return err
	}
	_, err = w.weir(ctx, "apply", "-f", weirYAML)
	return err
}

func (w *weirARP) start(i int) error {
	return w.lab.balancers[i].start(weirBinary(), "node", "--join", "https://"+controlAddr.String()+":7071", "--token", weirToken)
}

func (w *weirARP) down() {
	if w.control != nil {
		w.control.halt()
	}
}

func (w *weirARP) ready(ctx context.Context) (int, error) {
	out, err := w.weir(ctx, "status", "-o", "json")
	if err != nil {
		return 0, err
	}
	var status weir.RegionStatus
	if err := json.Unmarshal(out, &status); err != nil {
		return 0, err
	}
	if err := pairWell(status); err != nil {
		return 0, err
	}
	for i, h := range w.lab.balancers {
		if w.kept[i] == nil {
			if w.kept[i], err = keep(os.DirFS(h.proc("root" + weirNode))); err != nil {
				return 0, err
			}
		}
	}
	at, err := w.lab.holder()
	if err != nil {
		return 0, err
	}
	in := status.LoadBalancers[0].Instances
	active := in[slices.IndexFunc(in, func(in weir.InstanceOverview) bool { return in.Active })]
	if i := slices.IndexFunc(status.Machines, func(m weir.MachineOverview) bool { return m.ID == active.Machine }); status.Machines[i].Name != w.lab.balancers[at].name {
		return 0, fmt.Errorf("%s is active, and %s has the address", status.Machines[i].Name, w.lab.balancers[at].name)
	}
	return at, nil
}

func (w *weirARP) handOver(ctx context.Context, _ int) error {
	_, err := w.weir(ctx, "lb", "failover", "web")
	return err
}

// heal starts the agent of a host that was booted again, which has its disk still.
func (w *weirARP) heal(_ context.Context, f fault, i int) error {
	if f != dies {
		return nil
	}
	if err := os.CopyFS(w.lab.balancers[i].proc("root"+weirNode), w.kept[i]); err != nil {
		return err
	}
	return w.start(i)
}

// keep returns a copy of the files of an agent.
func keep(disk fs.FS) (fstest.MapFS, error) {
	files := fstest.MapFS{}
	for _, name := range []string{"key.pem", "certificate.pem", "ca.pem", "config.json"} {
		data, err := fs.ReadFile(disk, name)
		if err != nil {
			return nil, err
		}
		files[name] = &fstest.MapFile{Data: data, Mode: 0o600}
	}
	return files, nil
}
