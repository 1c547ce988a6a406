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
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/net/dns/dnsmessage"
)

// Options of an Authority.
type Options struct {
	Namespace string        // the network namespace that it lives in; the test's own if empty
	Addr      netip.Addr    // what all names mean at first
	HTTP      int           // the port at which it looks for answers to HTTP-01; 80 if 0
	Life      time.Duration // of certificates; 90 days if 0
	Env       []string      // of Pebble, beside what tests usually want
}

// Authority is a running Pebble.
type Authority struct {
	Directory string // the URL of its directory
	CA        []byte // PEM: whom its TLS is from

	t       testing.TB
	o       Options
	admin   string
	cmd     *exec.Cmd
	log     *lines
	mu      sync.Mutex
	records map[string][]string // TXT
}

// Start runs an authority until the test ends.
func Start(t testing.TB, o Options) *Authority {
	t.Helper()
	if o.HTTP == 0 {
		o.HTTP = 80
	}
	if o.Life == 0 {
		o.Life = 90 * 24 * time.Hour
	}
	a := &Authority{t: t, o: o, records: map[string][]string{}, log: &lines{}}
	program := filepath.Join(t.TempDir(), "pebble")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/letsencrypt/pebble/v2/cmd/pebble").CombinedOutput(); err != nil {
		t.Fatalf("build Pebble: %v\n%s", err, out)
	}
	ports := a.ports(2)
	a.Directory, a.admin = fmt.Sprintf("https://127.0.0.1:%d/dir", ports[0]), fmt.Sprintf("https://127.0.0.1:%d", ports[1])
	dns := a.serveNames()
	certFile, keyFile := a.identity()
	config, _ := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", ports[0]), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", ports[1]),
		"certificate": certFile, "privateKey": keyFile, "httpPort": o.HTTP, "tlsPort": 443, "keyAlgorithm": "ecdsa",
		"domainBlocklist": []string{"blocked.example"},
		"profiles":        map[string]any{"default": map[string]any{"description": "for tests", "validityPeriod": int(o.Life / time.Second)}},
	}})
	configFile := filepath.Join(t.TempDir(), "pebble.json")
	if err := os.WriteFile(configFile, config, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{program, "-config", configFile, "-dnsserver", dns}
	if o.Namespace != "" {
		args = append([]string{"ip", "netns", "exec", o.Namespace}, args...)
	}
	a.cmd = exec.Command(args[0], args[1:]...)
	a.cmd.Env = append(append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=20", "PEBBLE_AUTHZREUSE=50"), o.Env...)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.cmd.Process.Kill()
		a.cmd.Wait()
		if t.Failed() {
			t.Logf("Pebble says:\n%s", a.log)
		}
	})
	a.await()
	return a
}

// within calls do in the authority's namespace.
func (a *Authority) within(do func() error) {
	a.t.Helper()
	if a.o.Namespace == "" {
		if err := do(); err != nil {
			a.t.Fatal(err)
		}
		return
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromName(a.o.Namespace)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = do()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		a.t.Fatal(err)
	}
}

// ports returns ports of loopback that nobody has.
func (a *Authority) ports(n int) (ports []int) {
	a.within(func() error {
		for range n {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer l.Close()
			ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		}
		return nil
	})
	return ports
}

// identity makes what Pebble shows who asks for.
func (a *Authority) identity() (certFile, keyFile string) {
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
	dir := a.t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, text := range map[string][]byte{certFile: a.CA, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// await waits until Pebble answers.
func (a *Authority) await() {
	a.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := a.ask(http.MethodGet, a.Directory, nil)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			a.t.Fatalf("Pebble does not answer: %v\n%s", err, a.log)
		}
	}
}

// ask asks Pebble.
func (a *Authority) ask(method, at string, body []byte) (answer []byte, err error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.CA)
	a.within(func() error {
		conn, e := net.Dial("tcp", strings.Split(strings.TrimPrefix(at, "https://"), "/")[0])
		if err = e; err != nil {
			return nil
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true, Dial: func(string, string) (net.Conn, error) { return conn, nil }}
		req, e := http.NewRequest(method, at, bytes.NewReader(body))
		if err = e; err != nil {
			return nil
		}
		resp, e := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(req)
		if err = e; err != nil {
			return nil
		}
		defer resp.Body.Close()
		if answer, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, answer)
		}
		return nil
	})
	return answer, err
}

// Root returns whom its certificates are from, PEM.
func (a *Authority) Root() []byte {
	a.t.Helper()
	root, err := a.ask(http.MethodGet, a.admin+"/roots/0", nil)
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
	if _, err := a.ask(http.MethodPost, a.admin+"/set-renewal-info/", body); err != nil {
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

// SetRecord has a name have these TXT records.
func (a *Authority) SetRecord(name string, values ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.records[strings.ToLower(strings.TrimSuffix(name, "."))] = values
}

// serveNames answers what Pebble asks about names, and returns where.
func (a *Authority) serveNames() string {
	var l net.Listener
	a.within(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0") // Pebble asks by TCP
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				for a.answerOne(conn) == nil {
				}
			})
		}
	})
	a.t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// answerOne answers one question, before which its length is.
func (a *Authority) answerOne(conn net.Conn) error {
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return err
	}
	asked := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, asked); err != nil {
		return err
	}
	answer, err := a.answer(asked)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	return err
}

func (a *Authority) answer(asked []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(asked); err != nil || len(m.Questions) != 1 {
		return nil, fmt.Errorf("not a question: %w", err)
	}
	q := m.Questions[0]
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
	switch {
	case q.Type == dnsmessage.TypeA && a.o.Addr.Is4():
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.o.Addr.As4()}})
	case q.Type == dnsmessage.TypeTXT:
		a.mu.Lock()
		for _, value := range a.records[strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))] {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.TXTResource{TXT: []string{value}}})
		}
		a.mu.Unlock()
	}
	return m.Pack()
}
