package acme_test

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weir/acme"
	"weir/acme/acmetest"
	"weir/weir"
)

// responder answers HTTP-01 without knowing any challenge, as load balancers do.
func responder(t *testing.T, key crypto.Signer) (port int) {
	t.Helper()
	thumbprint, err := acme.Thumbprint(key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token, ok := strings.CutPrefix(r.URL.Path, "/.well-known/acme-challenge/"); ok {
			w.Write([]byte(token + "." + thumbprint))
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, _, err := weir.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// bring brings an order to where it is valid, and returns how far it is then.
func bring(t *testing.T, c *acme.Client, a acme.Account, order string, names []string, key crypto.Signer) acme.Progress {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		p, err := c.Look(t.Context(), a, order)
		if err != nil {
			t.Fatal(err)
		}
		switch p.State {
		case acme.Pending:
			for _, ch := range p.Challenges {
				if ch.Type == acme.HTTP {
					if err := c.Respond(t.Context(), a, ch); err != nil {
						t.Fatal(err)
					}
				}
			}
		case acme.Ready:
			if err := c.Finalize(t.Context(), a, order, p, names, key); err != nil {
				t.Fatal(err)
			}
		case acme.Valid, acme.Failed:
			return p
		}
	}
	t.Fatal("the order is under way for a minute")
	return acme.Progress{}
}

func TestACertificateIsIssuedStepByStepAndRenewedWhenTheAuthoritySuggests(t *testing.T) {
	account, key := newKey(t), newKey(t)
	ca := acmetest.Start(t, acmetest.Options{Addr: netip.MustParseAddr("127.0.0.1"), HTTP: responder(t, account)})
	c, err := acme.New(acme.Options{Directory: ca.Directory, Trust: ca.CA})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	a, err := c.Register(ctx, account, "ops@shop.example")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Register(ctx, account, "ops@shop.example"); err != nil || again.URL != a.URL {
		t.Errorf("registered again the account is %s (%v), want %s still", again.URL, err, a.URL)
	}

	names := []string{"www.shop.example", "shop.example"}
	order, err := c.Order(ctx, a, names, "")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := c.Find(ctx, a, []string{"shop.example", "www.shop.example"}, nil); err != nil || found != order {
		t.Errorf("the order for these names is found as %q (%v), want %q", found, err, order)
	}
	if found, err := c.Find(ctx, a, names, map[string]bool{order: true}); err != nil || found != "" {
		t.Errorf("but for that order there is %q (%v), want none", found, err)
	}
	if found, err := c.Find(ctx, a, []string{"shop.example"}, nil); err != nil || found != "" {
		t.Errorf("the order for other names is %q (%v), want none", found, err)
	}
	p := bring(t, c, a, order, names, key)
	if p.State != acme.Valid {
		t.Fatalf("the order is %s: %s, want valid", p.State, p.Err)
	}
	leaf, chain, err := c.Fetch(ctx, a, p)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(leaf))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Root())
	between.AppendCertsFromPEM([]byte(chain))
	for _, name := range names {
		if _, err := cert.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between}); err != nil {
			t.Errorf("for %s: %v", name, err)
		}
	}
	if found, err := c.Find(ctx, a, names, nil); err != nil || found != "" {
		t.Errorf("an order that is a certificate already is found: %q (%v), want none", found, err)
	}

	w, err := c.Renewal(ctx, leaf)
	if err != nil || w == nil || w.At.Before(w.From) || w.At.After(w.To) || w.To.After(cert.NotAfter) || w.After != 6*time.Hour {
		t.Errorf("the authority suggests %+v (%v), want a moment in a window before the end, for 6 h", w, err)
	}
	from := time.Now().Add(-time.Hour).Truncate(time.Second)
	ca.Suggest(leaf, from, from.Add(time.Minute))
	if w, err := c.Renewal(ctx, leaf); err != nil || !w.From.Equal(from) {
		t.Errorf("the authority suggests %+v (%v), want from %s", w, err, from)
	}
	for range 2 { // the second time the authority has another one in its place already
		order, err := c.Order(ctx, a, names, leaf)
		if err != nil {
			t.Fatal(err)
		}
		if p := bring(t, c, a, order, names, key); p.State != acme.Valid {
			t.Fatalf("the order in place of the first is %s: %s, want valid", p.State, p.Err)
		}
	}
}

func TestWhatTheAuthorityDoesNotFindIsSaidOfTheName(t *testing.T) {
	account := newKey(t)
	ca := acmetest.Start(t, acmetest.Options{Addr: netip.MustParseAddr("127.0.0.1"), HTTP: responder(t, newKey(t))})
	c, err := acme.New(acme.Options{Directory: ca.Directory, Trust: ca.CA})
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Register(t.Context(), account, "")
	if err != nil {
		t.Fatal(err)
	}
	order, err := c.Order(t.Context(), a, []string{"shop.example"}, "")
	if err != nil {
		t.Fatal(err)
	}
	p := bring(t, c, a, order, []string{"shop.example"}, newKey(t))
	if p.State != acme.Failed || !strings.HasPrefix(p.Err, "shop.example: ") {
		t.Errorf("with another account's answer the order is %s: %s, want it failed for the name", p.State, p.Err)
	}
	var r *acme.Refusal
	if _, err := c.Order(t.Context(), a, []string{"blocked.example"}, ""); !errors.As(err, &r) || r.Type != "rejectedIdentifier" || r.Passing() || r.Limited() {
		t.Errorf("a name that it issues nothing for: %v, want a Refusal of that type", err)
	}
	if _, err := c.Look(t.Context(), a, order+"x"); !errors.As(err, &r) || !r.Unknown() {
		t.Errorf("an order that is not there: %v, want a Refusal that says so", err)
	}
	a.URL += "0"
	if _, err := c.Look(t.Context(), a, order); !errors.As(err, &r) || !r.Stranger() {
		t.Errorf("an account that is not there: %v, want a Refusal that says so", err)
	}
}

func TestAnOrderWhoseAnswerIsLostIsNotSentAgain(t *testing.T) {
	var orders int
	var server *httptest.Server
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Replay-Nonce", "n")
		switch r.URL.Path {
		case "/dir":
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"newNonce": "` + server.URL + `/nonce", "newAccount": "` + server.URL + `/account", "newOrder": "` + server.URL + `/order"}`))
		case "/order":
			orders++
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	c, err := acme.New(acme.Options{Directory: server.URL + "/dir", Trust: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Order(t.Context(), acme.Account{URL: server.URL + "/account/1", Key: newKey(t)}, []string{"shop.example"}, "")
	if r := new(acme.Refusal); err == nil || errors.As(err, &r) || orders != 1 {
		t.Errorf("%d requests (%v), want one, and an error that is no refusal", orders, err)
	}
}

func TestARefusalSaysWhenToAskAgain(t *testing.T) {
	var server *httptest.Server
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Replay-Nonce", "n")
		if r.URL.Path == "/dir" {
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"newNonce": "` + server.URL + `/nonce", "newAccount": "` + server.URL + `/account", "newOrder": "` + server.URL + `/order"}`))
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
		w.Write([]byte(`{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many\ncertificates"}`))
	}))
	defer server.Close()
	c, err := acme.New(acme.Options{Directory: server.URL + "/dir", Trust: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Order(t.Context(), acme.Account{URL: server.URL + "/account/1", Key: newKey(t)}, []string{"shop.example"}, "")
	var r *acme.Refusal
	if !errors.As(err, &r) || !r.Limited() || r.After != time.Hour || err.Error() != "order: the authority refuses: too many certificates" {
		t.Errorf("%v (%+v), want a Refusal for an hour, in one line", err, r)
	}
}

func TestADirectoryIsAnHTTPSURL(t *testing.T) {
	for _, directory := range []string{"", "ca.example", "http://ca.example/dir", "https://"} {
		if _, err := acme.New(acme.Options{Directory: directory}); err == nil {
			t.Errorf("%q is taken, want a refusal", directory)
		}
	}
	if _, err := acme.New(acme.Options{Directory: "https://ca.example/dir", Trust: []byte("x")}); err == nil {
		t.Error("a file without a certificate is taken, want a refusal")
	}
}

func TestAChallengeByTLSIsAnsweredByACertificate(t *testing.T) {
	var shown atomic.Pointer[tls.Certificate]
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{NextProtos: []string{"acme-tls/1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return shown.Load(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){"acme-tls/1": func(*http.Server, *tls.Conn, http.Handler) {}}}
	go server.Serve(l)
	defer server.Close()
	ca := acmetest.Start(t, acmetest.Options{Addr: netip.MustParseAddr("127.0.0.1"), TLS: l.Addr().(*net.TCPAddr).Port})
	c, err := acme.New(acme.Options{Directory: ca.Directory, Trust: ca.CA})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	a, err := c.Register(ctx, newKey(t), "")
	if err != nil {
		t.Fatal(err)
	}
	order, err := c.Order(ctx, a, []string{"shop.example"}, "")
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Look(ctx, a, order)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.Challenges, func(ch acme.Challenge) bool { return ch.Type == acme.ALPN })
	if i < 0 {
		t.Fatalf("challenges %+v, want one of the type %s", p.Challenges, acme.ALPN)
	}
	leaf, key, err := p.Challenges[i].Certificate()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(leaf, key)
	if err != nil {
		t.Fatal(err)
	}
	shown.Store(&pair)
	// What is still critical once the rest is understood is that it is for the challenge alone.
	if got := pair.Leaf.UnhandledCriticalExtensions; !slices.Equal(pair.Leaf.DNSNames, []string{"shop.example"}) || len(got) != 1 || got[0].String() != "1.3.6.1.5.5.7.1.31" {
		t.Errorf("it is for %v, and critical is %v, want the name, and acmeIdentifier", pair.Leaf.DNSNames, got)
	}
	if err := c.Respond(ctx, a, p.Challenges[i]); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); p.State == acme.Pending && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if p, err = c.Look(ctx, a, order); err != nil {
			t.Fatal(err)
		}
		if p.State == acme.Pending && len(p.Challenges) > 0 {
			t.Errorf("challenges %+v are open while the authority looks at one, want none", p.Challenges)
		}
	}
	if p.State != acme.Ready {
		t.Errorf("the order is %s: %s, want ready", p.State, p.Err)
	}
}
