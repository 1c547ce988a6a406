// Package acmetest runs an authority for tests: Pebble, with the names that tests have.
//
// It validates as a real one does, at the addresses that [Authority] gives names, and misbehaves as a real one may:
// nonces are refused, authorizations are given again or not. It is alone on the machine: loopback, or a network
// namespace that has no way out.
package acmetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Options of an Authority.
type Options struct {
	Addr netip.Addr    // what all names mean
	HTTP int           // the port at which it looks for answers to HTTP-01; 80 if 0
	TLS  int           // the port at which it looks for answers to TLS-ALPN-01; 443 if 0
	Life time.Duration // of certificates; 90 days if 0
	Port int           // of loopback, where its directory is; any if 0
	Env  []string      // of Pebble, beside what tests usually want
}

// Authority is a running Pebble.
type Authority struct {
	Directory string // the URL of its directory
	CA        []byte // PEM: whom its TLS is from

	t         testing.TB
	o         Options
	namespace string
	admin     string // the URL at which tests ask it for more than clients may …
	names     string // … and at which they tell what names mean
	trust     string // the file with CA
	key       []byte // of its TLS
	log       *lines
}

// Start runs an authority until the test ends.
func Start(t testing.TB, o Options) *Authority {
	t.Helper()
	a := New(t, o)
	a.Run("", o.Addr)
	return a
}

// New returns an authority that does not run yet: where its directory will be, and whom its TLS will be from, can be told.
func New(t testing.TB, o Options) *Authority {
	t.Helper()
	if o.HTTP == 0 {
		o.HTTP = 80
	}
	if o.TLS == 0 {
		o.TLS = 443
	}
	if o.Life == 0 {
		o.Life = 90 * 24 * time.Hour
	}
	a := &Authority{t: t, o: o, log: &lines{}}
	if a.o.Port == 0 {
		a.o.Port = a.port()
	}
	a.Directory = fmt.Sprintf("https://127.0.0.1:%d/dir", a.o.Port)
	a.identity()
	return a
}

// Run runs the authority in a network namespace, the test's own if it is "", until the test ends. All names mean addr.
func (a *Authority) Run(namespace string, addr netip.Addr) {
	t := a.t
	t.Helper()
	a.namespace = namespace
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir+"/", "github.com/letsencrypt/pebble/v2/cmd/pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv").CombinedOutput(); err != nil {
		t.Fatalf("build Pebble: %v\n%s", err, out)
	}
	admin, dns, names := a.port(), a.port(), a.port()
	a.admin, a.names, a.trust = fmt.Sprintf("https://127.0.0.1:%d", admin), fmt.Sprintf("http://127.0.0.1:%d", names), filepath.Join(dir, "cert.pem")
	config, _ := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", a.o.Port), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", admin),
		"certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"), "httpPort": a.o.HTTP, "tlsPort": a.o.TLS, "keyAlgorithm": "ecdsa",
		"domainBlocklist": []string{"blocked.example"}, "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"description": "for tests", "validityPeriod": int(a.o.Life / time.Second)}},
	}})
	for name, text := range map[string][]byte{"pebble.json": config, "cert.pem": a.CA, "key.pem": a.key} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Pebble says:\n%s", a.log)
		}
	})
	a.start(nil, filepath.Join(dir, "pebble-challtestsrv"), "-defaultIPv4", addr.String(), "-defaultIPv6", "", "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dns),
		"-management", fmt.Sprintf("127.0.0.1:%d", names), "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "")
	a.start(append([]string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=20", "PEBBLE_AUTHZREUSE=50", "PEBBLE_CHAIN_LENGTH=3", "PEBBLE_ALTERNATE_ROOTS=1"}, a.o.Env...),
		filepath.Join(dir, "pebble"), "-strict", "-config", filepath.Join(dir, "pebble.json"), "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dns))
	a.await()
}

// start starts a program in the authority's namespace, until the test ends.
func (a *Authority) start(env []string, args ...string) {
	a.t.Helper()
	cmd := a.command(args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = a.log, a.log
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// command returns what runs a program in the authority's namespace. This process does not go there itself: whoever ends
// the namespace may end all that is in it.
func (a *Authority) command(args ...string) *exec.Cmd {
	if a.namespace != "" {
		args = append([]string{"ip", "netns", "exec", a.namespace}, args...)
	}
	return exec.Command(args[0], args[1:]...)
}

// port returns a port of loopback that nobody has.
func (a *Authority) port() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// identity makes what Pebble shows who asks for.
func (a *Authority) identity() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// await waits until Pebble answers.
func (a *Authority) await() {
	a.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := a.ask(a.Directory, "")
		if err == nil {
			_, err = a.ask(a.names+"/dns-request-history", `{"host": "x."}`)
		}
		if err == nil {
			return
		}
		if time.Now().After(end) {
			a.t.Fatalf("Pebble does not answer: %v\n%s", err, a.log)
		}
	}
}

// ask asks Pebble or its names, with a body if that is not empty.
func (a *Authority) ask(at, body string) ([]byte, error) {
	args := []string{"curl", "-sS", "--fail", "--max-time", "10", "--cacert", a.trust, at}
	if body != "" {
		args = append(args, "--data", body)
	}
	cmd := a.command(args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", at, err, said.Bytes())
	}
	return out, err
}

// Root returns whom its certificates are from, PEM.
func (a *Authority) Root() []byte {
	a.t.Helper()
	root, err := a.ask(a.admin+"/roots/0", "")
	if err != nil {
		a.t.Fatal(err)
	}
	return root
}

// Suggest has it suggest to renew a certificate (PEM) between two moments.
func (a *Authority) Suggest(leaf string, from, to time.Time) {
	a.t.Helper()
	answer, _ := json.Marshal(map[string]any{"suggestedWindow": map[string]time.Time{"start": from, "end": to}})
	body, _ := json.Marshal(map[string]string{"Certificate": leaf, "ARIResponse": string(answer)})
	if _, err := a.ask(a.admin+"/set-renewal-info/", string(body)); err != nil {
		a.t.Fatal(err)
	}
}

// Orders returns how many orders it has taken.
func (a *Authority) Orders() int { return strings.Count(a.log.String(), "Added order ") }

// lines are what a process writes, while others read it.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// SetRecord has a name have a TXT record, none if value is empty.
func (a *Authority) SetRecord(name, value string) {
	a.t.Helper()
	verb, body := "/set-txt", map[string]string{"host": name + ".", "value": value}
	if value == "" {
		verb = "/clear-txt"
	}
	text, _ := json.Marshal(body)
	if _, err := a.ask(a.names+verb, string(text)); err != nil {
		a.t.Fatal(err)
	}
}
