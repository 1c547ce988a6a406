// Package acme gets certificates from an authority that speaks ACME (RFC 8555), such as Let's Encrypt, one step
// at a time.
//
// A certificate takes an account ([Client.Register]), an order ([Client.Order]), for each of its names an answer to a
// challenge ([Client.Respond]), and a request for the certificate itself ([Client.Finalize]), which is then fetched
// ([Client.Fetch]). [Client.Look] says which of these is next. Each step but one can be repeated from what its caller
// keeps: the account's key, the URL of the order and the certificate's key. The one is Order, which may make an order
// and lose the answer; [Client.Find] finds that order where the authority lists them. Nothing waits: what the authority
// is not done with is looked at again later.
//
// What the authority refuses is a [*Refusal]; any other error is one of the way there. The package keeps nothing, and
// knows nothing of stores and load balancers.
package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"weir/weir"
)

// Options of a Client.
type Options struct {
	Directory string // the URL at which the authority says what it can
	Trust     []byte // PEM: whom its TLS is from; those whom the system trusts if nil

	// Dial makes connections to it; net.Dialer's if nil.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client speaks to one authority. It may be used by several goroutines.
type Client struct {
	directory string
	acme      *acme.Client
}

// timeout bounds a request.
const timeout = 30 * time.Second

// New returns a client, and asks nobody yet.
func New(o Options) (*Client, error) {
	at, err := url.Parse(o.Directory)
	if err != nil || at.Scheme != "https" || at.Host == "" {
		return nil, weir.Errorf(weir.Invalid, "%q is not the URL of a directory, want one such as https://ca.example/directory", o.Directory)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.Trust != nil {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(o.Trust) {
			return nil, weir.Errorf(weir.Invalid, "there is no certificate in PEM among those that are to be trusted")
		}
	}
	transport := &http.Transport{DialContext: o.Dial, TLSClientConfig: conf, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: time.Minute}
	if o.Dial == nil {
		transport.Proxy = http.ProxyFromEnvironment
	}
	return &Client{directory: o.Directory, acme: &acme.Client{
		Directory:  o.Directory,
		HTTPClient: &http.Client{Transport: witness{transport}, Timeout: timeout},
		UserAgent:  "weir/" + weir.Version,
		// Finalize asks once, and does not wait for the authority.
		PollTimeout: 1,
	}}, nil
}

// Directory returns the URL of the authority's directory.
func (c *Client) Directory() string { return c.directory }

// Account is who orders.
type Account struct {
	URL    string // what the authority knows it by
	Orders string // the URL of the list of its orders, if the authority has one
	Key    crypto.Signer
}

func (a Account) wire() acme.Account { return acme.Account{Location: a.URL, PrivateKey: a.Key} }

// Thumbprint returns what an account's answers to challenges end with.
func Thumbprint(key crypto.Signer) (string, error) {
	a := acme.Account{PrivateKey: key}
	return a.Thumbprint()
}

// Register returns the account of a key, which it makes if there is none, and agrees to the authority's terms. email is
// where the authority writes to, and may be empty.
func (c *Client) Register(ctx context.Context, key crypto.Signer, email string) (Account, error) {
	ask := acme.Account{PrivateKey: key, TermsOfServiceAgreed: true}
	if email != "" {
		ask.Contact = []string{"mailto:" + email}
	}
	ctx, n := noted(ctx)
	got, err := c.acme.NewAccount(ctx, ask)
	if err != nil {
		return Account{}, n.refusal("make an account", err)
	}
	return Account{URL: got.Location, Orders: got.Orders, Key: key}, nil
}

// Order orders a certificate for names, and returns the order's URL. replaces is the certificate (PEM) in whose
// place it comes, "" if there is none. After an error that is not a [*Refusal] there may be an order: see Find.
func (c *Client) Order(ctx context.Context, a Account, names []string, replaces string) (order string, err error) {
	ask := acme.Order{Identifiers: identifiers(names)}
	if replaces != "" {
		if dir, err := c.acme.GetDirectory(ctx); err == nil && dir.RenewalInfo != "" {
			ask.Replaces = nameOf(replaces)
		}
	}
	got, err := c.order(ctx, a, ask)
	if r := new(Refusal); ask.Replaces != "" && errors.As(err, &r) && r.Status < http.StatusInternalServerError && !r.Limited() {
		// It may not know the certificate, or have another one in its place already: that is no reason to have none.
		ask.Replaces = ""
		got, err = c.order(ctx, a, ask)
	}
	return got, err
}

func (c *Client) order(ctx context.Context, a Account, ask acme.Order) (string, error) {
	ctx, n := noted(ctx)
	n.once = true
	got, err := c.acme.NewOrder(ctx, a.wire(), ask)
	if err != nil {
		return "", n.refusal("order", err)
	}
	if got.Location == "" {
		return "", errors.New("order: the authority did not say where the order is")
	}
	return got.Location, nil
}

func identifiers(names []string) (all []acme.Identifier) {
	for _, name := range names {
		all = append(all, acme.Identifier{Type: "dns", Value: name})
	}
	return all
}

// nameOf returns what an authority names a certificate (PEM) by when it is to be renewed, "" if it has no such name.
func nameOf(leaf string) string {
	cert, err := parse(leaf)
	if err != nil {
		return ""
	}
	name, err := acme.ARIUniqueIdentifier(cert)
	if err != nil {
		return ""
	}
	return name
}

func parse(leaf string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(leaf))
	if block == nil {
		return nil, errors.New("there is no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// mostPages is how many pages of a list of orders are read.
const mostPages = 100

// Find returns the URL of an account's order for exactly these names that can still become a certificate and is none
// yet, "" if there is none or the authority has no list. Those in except do not count.
func (c *Client) Find(ctx context.Context, a Account, names []string, except map[string]bool) (order string, err error) {
	want := slices.Sorted(slices.Values(names))
	next := a.Orders
	for range mostPages {
		if next == "" {
			return "", nil
		}
		var list struct {
			Orders []string `json:"orders"`
		}
		// The library has no verb for the list. That for an order asks in the same way, and what is answered is noted.
		listing, n := noted(ctx)
		n.keep = true
		if _, err := c.acme.GetOrder(listing, a.wire(), acme.Order{Location: next}); err != nil {
			return "", n.refusal("list orders", err)
		}
		if err := json.Unmarshal(n.body, &list); err != nil {
			return "", fmt.Errorf("list orders: %w", err)
		}
		for _, at := range list.Orders {
			if except[at] {
				continue
			}
			o, err := c.acme.GetOrder(ctx, a.wire(), acme.Order{Location: at})
			if err != nil {
				return "", n.refusal("list orders", err)
			}
			var has []string
			for _, id := range o.Identifiers {
				has = append(has, id.Value)
			}
			slices.Sort(has)
			if (o.Status == acme.StatusPending || o.Status == acme.StatusReady) && slices.Equal(has, want) {
				return at, nil
			}
		}
		next = n.next
	}
	return "", nil
}

// State says what is next for an order.
type State string

// The states of an order.
const (
	Pending    State = State(acme.StatusPending)    // challenges are to be answered
	Ready      State = State(acme.StatusReady)      // the certificate is to be asked for
	Processing State = State(acme.StatusProcessing) // the authority makes it
	Valid      State = State(acme.StatusValid)      // it can be fetched
	Failed     State = State(acme.StatusInvalid)    // there will be none
)

// The types of challenges that there are answers to.
const (
	HTTP = acme.ChallengeTypeHTTP01
	DNS  = acme.ChallengeTypeDNS01
	ALPN = acme.ChallengeTypeTLSALPN01
)

// Progress is how far an order is.
type Progress struct {
	State      State
	Err        string        // why it has failed
	Challenges []Challenge   // those that are open, of all types, for names none of whose challenges the authority is looking at
	Names      []string      // whose challenges are not answered, or not looked at by the authority yet
	After      time.Duration // the authority asks not to be asked before; 0 if it says nothing

	finalize    string
	certificate string
}

// Challenge is what an authority wants to see done by whoever has a name.
type Challenge struct {
	Name  string // without what makes it a wildcard
	Type  string
	Value string // what its answer is made from: for DNS, that of the record _acme-challenge below the name

	authorization string
	url           string
}

// Certificate returns what answers a challenge of the type ALPN: a certificate that is shown to who asks for the name by the
// protocol acme-tls/1, and its key, both in PEM. It is another one each time.
func (ch Challenge) Certificate() (leaf, key []byte, err error) {
	cert, err := acmez.TLSALPN01ChallengeCert(acme.Challenge{Identifier: acme.Identifier{Type: "dns", Value: ch.Name}, KeyAuthorization: ch.authorization})
	if err != nil {
		return nil, nil, fmt.Errorf("make the certificate of the challenge for %s: %w", ch.Name, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), nil
}

// Look returns how far an order is.
func (c *Client) Look(ctx context.Context, a Account, order string) (Progress, error) {
	ctx, n := noted(ctx)
	o, err := c.acme.GetOrder(ctx, a.wire(), acme.Order{Location: order})
	if err != nil {
		return Progress{}, n.refusal("look at the order", err)
	}
	p := Progress{State: State(o.Status), After: n.after, finalize: o.Finalize, certificate: o.Certificate}
	if p.State != Pending && p.State != Failed {
		return p, nil
	}
	var whys []string
	for _, at := range o.Authorizations {
		authz, err := c.acme.GetAuthorization(ctx, a.wire(), at)
		if err != nil {
			return Progress{}, n.refusal("look at an authorization", err)
		}
		p.After = max(p.After, n.after)
		if authz.Status == acme.StatusPending {
			p.Names = append(p.Names, authz.Identifier.Value)
		}
		untouched := !slices.ContainsFunc(authz.Challenges, func(ch acme.Challenge) bool { return ch.Status != acme.StatusPending })
		for _, ch := range authz.Challenges {
			switch {
			case ch.Error != nil:
				whys = append(whys, authz.Identifier.Value+": "+phrase(*ch.Error))
			case authz.Status == acme.StatusPending && untouched:
				p.Challenges = append(p.Challenges, Challenge{Name: authz.Identifier.Value, Type: ch.Type, Value: ch.DNS01KeyAuthorization(),
					authorization: ch.KeyAuthorization, url: ch.URL})
			}
		}
		if authz.Status != acme.StatusPending && authz.Status != acme.StatusValid {
			p.State = Failed
		}
	}
	if len(whys) == 0 && o.Error != nil {
		whys = []string{phrase(*o.Error)}
	}
	p.Err = strings.Join(whys, "; ")
	return p, nil
}

// Respond tells the authority that a challenge is answered.
func (c *Client) Respond(ctx context.Context, a Account, ch Challenge) error {
	ctx, n := noted(ctx)
	_, err := c.acme.InitiateChallenge(ctx, a.wire(), acme.Challenge{URL: ch.url})
	return n.refusal("answer the challenge for "+ch.Name, err)
}

// Finalize asks for the certificate of an order that is ready, for a key.
func (c *Client) Finalize(ctx context.Context, a Account, order string, p Progress, names []string, key crypto.Signer) error {
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		return err
	}
	ctx, n := noted(ctx)
	got, err := c.acme.FinalizeOrder(ctx, a.wire(), acme.Order{Location: order, Finalize: p.finalize, Status: string(p.State)}, request)
	if s := State(got.Status); s == Processing || s == Valid {
		return nil // and what it says is that it does not wait
	}
	return n.refusal("ask for the certificate", err)
}

// Fetch returns the certificate of an order that is valid, and the chain of its issuers, in PEM.
func (c *Client) Fetch(ctx context.Context, a Account, p Progress) (leaf, chain string, err error) {
	ctx, n := noted(ctx)
	chains, err := c.acme.GetCertificateChain(ctx, a.wire(), p.certificate)
	if len(chains) == 0 {
		if err == nil {
			err = errors.New("there is none")
		}
		return "", "", n.refusal("fetch the certificate", err)
	}
	block, rest := pem.Decode(chains[0].ChainPEM)
	if block == nil {
		return "", "", errors.New("fetch the certificate: it is not PEM")
	}
	return string(pem.EncodeToMemory(block)), string(bytes.TrimSpace(rest)) + "\n", nil
}

// Window is when an authority suggests to renew a certificate.
type Window struct {
	From, To time.Time
	At       time.Time     // a moment in it, by chance
	After    time.Duration // how long that holds at least; 0 if the authority says nothing
}

// Renewal returns when the authority suggests to renew a certificate (PEM), nil if it suggests nothing.
func (c *Client) Renewal(ctx context.Context, leaf string) (*Window, error) {
	cert, err := parse(leaf)
	if err != nil {
		return nil, err
	}
	ctx, n := noted(ctx)
	info, err := c.acme.GetRenewalInfo(ctx, cert)
	if errors.Is(err, acme.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, n.refusal("ask when to renew", err)
	}
	return &Window{From: info.SuggestedWindow.Start, To: info.SuggestedWindow.End, At: info.SelectedTime, After: n.after}, nil
}

// Refusal is an answer by which an authority does not do what it was asked.
type Refusal struct {
	What   string // it was asked to do
	Type   string // of the problem, without the prefix that all types have
	Detail string
	Status int
	After  time.Duration // not to be asked again before; 0 if it does not say
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s: the authority refuses: %s", r.What, r.Detail)
}

// Limited reports whether it has been asked too often.
func (r *Refusal) Limited() bool {
	return r.Type == "rateLimited" || r.Status == http.StatusTooManyRequests
}

// Unknown reports whether what it was asked about is not there, or is another account's.
func (r *Refusal) Unknown() bool { return r.Status == http.StatusNotFound || r.Type == "unauthorized" }

// Stranger reports whether it does not know the account.
func (r *Refusal) Stranger() bool { return r.Type == "accountDoesNotExist" }

// Passing reports whether the trouble is the authority's own.
func (r *Refusal) Passing() bool {
	return r.Status >= http.StatusInternalServerError || r.Type == "badNonce"
}

// phrase returns what a person is told of a problem: who wrote it may be anybody.
func phrase(p acme.Problem) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, p.Detail)
	for _, s := range p.Subproblems {
		text += "; " + s.Identifier.Value + ": " + phrase(s.Problem)
	}
	if text == "" {
		text = strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace)
	}
	const most = 500
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}

// note is what the transport notes of the last answer to a call.
type note struct {
	once bool // what has failed on its way may not be sent once more
	keep bool // the body is noted too

	lost   error
	status int
	after  time.Duration
	next   string // the URL of the next page
	body   []byte
}

type noteKey struct{}

func noted(ctx context.Context) (context.Context, *note) {
	n := &note{}
	return context.WithValue(ctx, noteKey{}, n), n
}

// refusal returns err as a Refusal if the authority has answered so.
func (n *note) refusal(what string, err error) error {
	if err == nil {
		return nil
	}
	var p acme.Problem
	if errors.As(err, &p) {
		return &Refusal{What: what, Type: strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace), Detail: phrase(p), Status: p.Status, After: n.after}
	}
	if n.status >= http.StatusBadRequest {
		return &Refusal{What: what, Detail: fmt.Sprintf("it answers %d %s", n.status, http.StatusText(n.status)), Status: n.status, After: n.after}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// witness notes what the library does not tell its caller.
type witness struct{ next http.RoundTripper }

// mostBody is how long a noted body may be.
const mostBody = 1 << 20

func (w witness) RoundTrip(req *http.Request) (*http.Response, error) {
	n, ok := req.Context().Value(noteKey{}).(*note)
	if !ok {
		return w.next.RoundTrip(req)
	}
	if n.lost != nil {
		return nil, n.lost
	}
	n.status = 0
	resp, err := w.next.RoundTrip(req)
	if err != nil {
		if n.once && req.Method == http.MethodPost {
			n.lost = err // the library would send it again, though it may have been done
		}
		return nil, err
	}
	n.status, n.after, n.next = resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), time.Now()), ""
	if n.keep && resp.StatusCode == http.StatusOK && req.Method == http.MethodPost {
		n.body, err = io.ReadAll(io.LimitReader(resp.Body, mostBody))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(n.body))
		n.keep = false
		for _, link := range resp.Header.Values("Link") {
			at, rel, _ := strings.Cut(link, ";")
			if strings.Contains(rel, `"next"`) {
				n.next = strings.Trim(strings.TrimSpace(at), "<>")
			}
		}
	}
	return resp, nil
}

// retryAfter reads a header, which has seconds or a time.
func retryAfter(text string, now time.Time) time.Duration {
	if d, err := time.ParseDuration(text + "s"); err == nil && text != "" {
		return max(d, 0)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
