package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"text/template"
	"time"
)

// byReload is how DOProxy does it: an inventory, a template, a reload.
type byReload struct {
	dir     string
	servers []netip.AddrPort
	master  *exec.Cmd
	count   int
}

func newReload() contender { return &byReload{} }

func (c *byReload) String() string { return "reload" }

var reloadTemplate = template.Must(template.New("haproxy.cfg").Parse(`global
    maxconn 4000
defaults
    mode http
    option forwardfor
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend http-in
    bind {{.Front}}
    default_backend app
backend app
    balance roundrobin
    option httpchk GET /
{{- range $i, $s := .Servers}}
    server app-{{$i}} {{$s}} check inter 10s
{{- end}}
`))

const reloadFront = "127.0.0.1:18081"

func (c *byReload) config() string { return filepath.Join(c.dir, "haproxy.cfg") }

func (c *byReload) render() error {
	f, err := os.Create(c.config())
	if err != nil {
		return err
	}
	defer f.Close()
	return reloadTemplate.Execute(f, map[string]any{"Front": reloadFront, "Servers": c.servers})
}

func (c *byReload) start(ctx context.Context, present []netip.AddrPort) (string, error) {
	var err error
	if c.dir, err = os.MkdirTemp("", "bench-reload-"); err != nil {
		return "", err
	}
	c.servers = slices.Clone(present)
	if err := c.render(); err != nil {
		return "", err
	}
	c.master = exec.Command("haproxy", "-W", "-f", c.config())
	c.master.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return reloadFront, c.master.Start()
}

func (c *byReload) add(ctx context.Context, server netip.AddrPort) error {
	c.servers = append(c.servers, server)
	return c.reload(ctx)
}

func (c *byReload) remove(ctx context.Context, server netip.AddrPort) error {
	c.servers = slices.DeleteFunc(c.servers, func(s netip.AddrPort) bool { return s == server })
	return c.reload(ctx)
}

// reload is what Debian's unit does: check the file, then SIGUSR2.
func (c *byReload) reload(ctx context.Context) error {
	if err := c.render(); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "haproxy", "-q", "-c", "-f", c.config()).CombinedOutput(); err != nil {
		return fmt.Errorf("haproxy -c: %w: %s", err, out)
	}
	c.count++
	return c.master.Process.Signal(syscall.SIGUSR2)
}

func (c *byReload) process() int { return 0 }
func (c *byReload) reloads() int { return c.count }

func (c *byReload) stop() {
	if c.master != nil && c.master.Process != nil {
		group := -c.master.Process.Pid // the master and all workers, old ones too
		syscall.Kill(group, syscall.SIGKILL)
		c.master.Wait()
		for !errors.Is(syscall.Kill(group, 0), syscall.ESRCH) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	os.RemoveAll(c.dir)
}
