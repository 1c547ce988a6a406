package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"weir/haproxy"
	"weir/weir"
)

// contender is one proxy that runs.
type contender struct {
	name          string
	plain, secure string // where it takes requests
	pids          func() []int
	stop          func()
}

// cpu returns the CPU time that it has used.
func (c *contender) cpu() (sum time.Duration) {
	for _, pid := range c.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(after)
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		sum += time.Duration(user+system) * time.Second / 100 // ticks of USER_HZ
	}
	return sum
}

// family returns a process and those that it has begun.
func family(pid int) []int {
	all := []int{pid}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return all
	}
	for _, word := range strings.Fields(string(b)) {
		if child, err := strconv.Atoi(word); err == nil {
			all = append(all, family(child)...)
		}
	}
	return all
}

// The addresses of the servers, and of the i-th contender.
var servers = []netip.AddrPort{netip.MustParseAddrPort("127.20.0.1:18090"), netip.MustParseAddrPort("127.20.0.2:18090")}

func fronts(i int) (plain, secure netip.AddrPort) {
	at := netip.AddrFrom4([4]byte{127, 21, 0, byte(i + 1)})
	return netip.AddrPortFrom(at, 18080), netip.AddrPortFrom(at, 18443)
}

// certificate returns one of ECDSA for a name, with its key.
func certificate(name string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), nil
}

// command starts a program that ends with us.
func command(ctx context.Context, log string, name string, args ...string) (pids func() []int, stop func(), err error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, nil, err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	runtime.LockOSThread() // its death is that of the thread which began it
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				cmd.Process.Kill()
				<-ended
			}
		})
	}
	return func() []int { return family(cmd.Process.Pid) }, stop, nil
}

// started waits until a contender answers; if it does not, it is stopped, and the end of its log is why.
func started(ctx context.Context, c *contender, log string) (*contender, error) {
	if err := answers(ctx, c); err != nil {
		c.stop()
		said, _ := os.ReadFile(log)
		return nil, fmt.Errorf("%s does not answer: %w: %.400s", c.name, err, said[max(0, len(said)-400):])
	}
	return c, nil
}

func startServers(ctx context.Context, dir string) (stop func(), err error) {
	var b strings.Builder
	b.WriteString("global\n    nbthread 2\ndefaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n    timeout http-keep-alive 60s\nfrontend answers\n")
	for _, s := range servers {
		fmt.Fprintf(&b, "    bind %s\n", s)
	}
	fmt.Fprintf(&b, "    http-request return status 200 content-type text/plain string %q\n", strings.Repeat("x", 512))
	file := filepath.Join(dir, "servers.cfg")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return nil, err
	}
	_, stop, err = command(ctx, filepath.Join(dir, "servers.log"), "haproxy", "-db", "-f", file)
	return stop, err
}

// document is what the control plane would have a node do.
func document(i int, text []byte) weir.Proxy {
	plain, secure := fronts(i)
	d := weir.Proxy{LoadBalancer: "bench", Name: "bench", Drain: time.Second, PEM: map[weir.ID]string{"cert": string(text)}}
	for _, f := range []weir.Frontend{{Name: "http-80", Bind: plain}, {Name: "https-443", Bind: secure, TLS: &weir.TLS{H2: true, Certificates: []weir.CertificateRef{{ID: "cert"}}}}} {
		f.Mode, f.Idle, f.Backend = weir.HTTP, weir.DefaultIdle, "servers"
		d.Frontends = append(d.Frontends, f)
	}
	check := weir.DefaultCheck()
	check.Port = int(servers[0].Port())
	b := weir.Backend{Name: "servers", Mode: weir.HTTP, Balance: weir.RoundRobin, Idle: weir.DefaultIdle, Check: check}
	for n, s := range servers {
		b.Servers = append(b.Servers, weir.Server{ID: weir.ID(strconv.Itoa(n + 1)), Name: fmt.Sprintf("app-%d", n+1), Addr: s, Weight: 1})
	}
	d.Backends = []weir.Backend{b}
	return d
}

// runProxy runs package haproxy in a directory until stop is called.
func runProxy(ctx context.Context, dir string) (p *haproxy.Proxy, stop func()) {
	p = haproxy.New(haproxy.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	return p, func() { cancel(); <-ended }
}

func startWeir(ctx context.Context, dir string, i int, text []byte) (*contender, error) {
	p, stop := runProxy(ctx, filepath.Join(dir, "weir"))
	plain, secure := fronts(i)
	c := &contender{name: "weir", plain: plain.String(), secure: secure.String(), stop: stop}
	c.pids = func() []int {
		s, _, err := p.Status(ctx)
		if err != nil {
			return nil
		}
		return []int{s.PID}
	}
	if err := p.Set(ctx, 1, document(i, text)); err != nil {
		stop()
		return nil, err
	}
	return started(ctx, c, filepath.Join(dir, "weir", "haproxy.log"))
}

// tuned is HAProxy as a person who knows it would set it up for this.
const tuned = `global
    nbthread %d
    maxconn 8000
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 30s
    timeout http-keep-alive 60s
    option redispatch 1
    http-reuse safe
frontend plain
    bind %s
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    default_backend servers
frontend secure
    bind %s ssl crt %s alpn h2,http/1.1
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    default_backend servers
backend servers
    balance roundrobin
    option httpchk
    server a %s check inter 10s
    server b %s check inter 10s
`

func startTuned(ctx context.Context, dir string, i int, text []byte) (*contender, error) {
	plain, secure := fronts(i)
	cert, file, log := filepath.Join(dir, "tuned.pem"), filepath.Join(dir, "tuned.cfg"), filepath.Join(dir, "tuned.log")
	config := fmt.Sprintf(tuned, runtime.NumCPU(), plain, secure, cert, servers[0], servers[1])
	if err := errors.Join(os.WriteFile(cert, text, 0o600), os.WriteFile(file, []byte(config), 0o600)); err != nil {
		return nil, err
	}
	pids, stop, err := command(ctx, log, "haproxy", "-db", "-f", file)
	if err != nil {
		return nil, err
	}
	return started(ctx, &contender{"tuned HAProxy", plain.String(), secure.String(), pids, stop}, log)
}

const nginx = `daemon off;
master_process on;
user root;
worker_processes %d;
error_log stderr crit;
pid %s/nginx.pid;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path %[2]s/nginx-body;
    proxy_temp_path %[2]s/nginx-proxy;
    fastcgi_temp_path %[2]s/nginx-fastcgi;
    uwsgi_temp_path %[2]s/nginx-uwsgi;
    scgi_temp_path %[2]s/nginx-scgi;
    upstream servers { server %[3]s; server %[4]s; keepalive 64; keepalive_requests 1000000000; }
    server {
        listen %[5]s reuseport;
        listen %[6]s ssl http2 reuseport;
        ssl_certificate %[7]s;
        ssl_certificate_key %[7]s;
        ssl_protocols TLSv1.2 TLSv1.3;
        location / {
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }
    }
}
`

func startNginx(ctx context.Context, dir string, i int, text []byte) (*contender, error) {
	plain, secure := fronts(i)
	cert, file, log := filepath.Join(dir, "nginx.pem"), filepath.Join(dir, "nginx.conf"), filepath.Join(dir, "nginx.log")
	config := fmt.Sprintf(nginx, runtime.NumCPU(), dir, servers[0], servers[1], plain, secure, cert)
	if err := errors.Join(os.WriteFile(cert, text, 0o600), os.WriteFile(file, []byte(config), 0o600)); err != nil {
		return nil, err
	}
	pids, stop, err := command(ctx, log, "nginx", "-c", file, "-p", dir)
	if err != nil {
		return nil, err
	}
	return started(ctx, &contender{"nginx", plain.String(), secure.String(), pids, stop}, log)
}

const caddy = `{
	admin off
	auto_https off
	log default {
		level ERROR
	}
}
http://%s:%d {
	bind %[1]s
	reverse_proxy %[4]s %[5]s
}
https://bench.example:%[3]d {
	bind %[1]s
	tls %[6]s %[7]s
	reverse_proxy %[4]s %[5]s
}
`

// startCaddy returns nil if there is none on PATH.
func startCaddy(ctx context.Context, dir string, i int, text []byte) (*contender, error) {
	binary, err := exec.LookPath("caddy")
	if err != nil {
		fmt.Println("caddy is not on PATH, and is left out")
		return nil, nil
	}
	plain, secure := fronts(i)
	cert, key, _ := strings.Cut(string(text), "-----BEGIN PRIVATE KEY")
	certFile, keyFile, file, log := filepath.Join(dir, "caddy.crt"), filepath.Join(dir, "caddy.key"), filepath.Join(dir, "Caddyfile"), filepath.Join(dir, "caddy.log")
	config := strings.ReplaceAll(fmt.Sprintf(caddy, plain.Addr(), plain.Port(), secure.Port(), servers[0], servers[1], certFile, keyFile), "http://"+plain.Addr().String(), "http://")
	err = errors.Join(os.WriteFile(certFile, []byte(cert), 0o600), os.WriteFile(keyFile, []byte("-----BEGIN PRIVATE KEY"+key), 0o600), os.WriteFile(file, []byte(config), 0o600))
	if err != nil {
		return nil, err
	}
	pids, stop, err := command(ctx, log, binary, "run", "--adapter", "caddyfile", "--config", file)
	if err != nil {
		return nil, err
	}
	return started(ctx, &contender{"Caddy", plain.String(), secure.String(), pids, stop}, log)
}
