package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// byDataPlane is HAProxy's Data Plane API, version 3, each change in a call without a
// transaction, which is its fast way.
type byDataPlane struct {
	binary string
	hand   byReload // the HAProxy that it manages, from the same template
	daemon *exec.Cmd
}

func newDataPlane(binary string) contender { return &byDataPlane{binary: binary} }

func (c *byDataPlane) String() string { return "dataplaneapi" }

const (
	dataPlaneAddr = "127.0.0.1:18084"
	dataPlaneBase = "http://" + dataPlaneAddr + "/v3/services/haproxy/configuration/"
)

func (c *byDataPlane) start(ctx context.Context, present []netip.AddrPort) (string, error) {
	front, err := c.hand.start(ctx, present)
	if err != nil {
		return "", err
	}
	reload := fmt.Sprintf("#!/bin/sh\necho reload >>%s\nexec kill -USR2 %d\n", c.reloaded(), c.hand.master.Process.Pid)
	script := filepath.Join(c.hand.dir, "reload")
	if err := os.WriteFile(script, []byte(reload), 0o700); err != nil {
		return "", err
	}
	config := filepath.Join(c.hand.dir, "dataplaneapi.yml")
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf(`config_version: 2
dataplaneapi:
  host: 127.0.0.1
  port: 18084
  user:
    - name: bench
      password: bench
      insecure: true
haproxy:
  config_file: %s
  haproxy_bin: %s
  reload:
    reload_delay: 1
    reload_strategy: custom
    reload_cmd: %s
    restart_cmd: %[3]s
`, c.hand.config(), haproxy, script)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", err
	}
	c.daemon = exec.Command(c.binary, "-f", config)
	c.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.daemon.Start(); err != nil {
		return "", err
	}
	for range 100 {
		if _, err = c.call(ctx, http.MethodGet, "version", nil); err == nil {
			return front, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", err
}

func (c *byDataPlane) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, dataPlaneBase+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	r.SetBasicAuth("bench", "bench")
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = errors.New(resp.Status + ": " + string(out))
	}
	return out, err
}

// change makes one call on the version that is there now.
func (c *byDataPlane) change(ctx context.Context, method, path string, body any) error {
	version, err := c.call(ctx, http.MethodGet, "version", nil)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, method, path+"?version="+strings.TrimSpace(string(version)), body)
	return err
}

func (c *byDataPlane) add(ctx context.Context, server netip.AddrPort) error {
	return c.change(ctx, http.MethodPost, "backends/app/servers", map[string]any{
		"name": serverName(server), "address": server.Addr(), "port": server.Port(), "check": "enabled"})
}

func (c *byDataPlane) remove(ctx context.Context, server netip.AddrPort) error {
	return c.change(ctx, http.MethodDelete, "backends/app/servers/"+serverName(server), nil)
}

func serverName(server netip.AddrPort) string {
	return "added-" + strings.ReplaceAll(server.Addr().String(), ".", "-")
}

func (c *byDataPlane) process() int { return c.daemon.Process.Pid }

// reloaded is a file with a line for each reload.
func (c *byDataPlane) reloaded() string { return filepath.Join(c.hand.dir, "reloads") }

func (c *byDataPlane) reloads() int {
	b, _ := os.ReadFile(c.reloaded()) // not there: none
	return bytes.Count(b, []byte("\n"))
}

func (c *byDataPlane) stop() {
	if c.daemon != nil && c.daemon.Process != nil {
		c.daemon.Process.Kill()
		c.daemon.Wait()
	}
	c.hand.stop()
}
