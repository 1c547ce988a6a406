package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/digitalocean/godo"
	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"weir/api"
	"weir/pki"
	"weir/weir"
)

// user says which API a user's verb speaks to, and as whom.
type user struct {
	api       string
	tokenFile string
	ca        string // a file, or a fingerprint
}

func (u *user) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&u.api, "api", "", "`URL` of the API, otherwise WEIR_API, otherwise the control plane of this machine")
	f.StringVar(&u.ca, "ca", "", "`file` with the certificate of who signed its own, or that certificate's fingerprint, otherwise WEIR_CA")
	f.StringVar(&u.tokenFile, "token-file", "", "`file` with a token for it, otherwise the token is WEIR_TOKEN")
}

// client speaks to one API. Its errors are sentences for the user.
type client struct {
	godo *godo.Client
	api  string // its URL
}

// connect returns a client for the API that the flags, the environment or a control plane
// of this machine name. It sends nothing.
func (u *user) connect() (*client, error) {
	said, by := u.api, "--api"
	if said == "" {
		said, by = os.Getenv("WEIR_API"), "WEIR_API"
	}
	tokenFile, ca := u.tokenFile, cmp.Or(u.ca, os.Getenv("WEIR_CA"))
	if said == "" {
		found, err := find()
		if err != nil {
			return nil, err
		}
		said, by = found.API, found.Kind
		ca = cmp.Or(ca, found.CAFile)
		if os.Getenv("WEIR_TOKEN") == "" {
			tokenFile = cmp.Or(tokenFile, found.TokenFile)
		}
	}
	base, err := checkURL(by, said)
	if err != nil {
		return nil, err
	}
	token, err := readToken(tokenFile, base)
	if err != nil {
		return nil, err
	}
	transport, err := transportFor(base, ca)
	if err != nil {
		return nil, err
	}
	over := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: transport})
	c := oauth2.NewClient(over, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token}))
	// The token would go wherever a redirection leads, and the API has none.
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	g, err := godo.New(c, godo.SetBaseURL(base), godo.SetUserAgent("weir/"+weir.Version))
	if err != nil {
		return nil, err
	}
	return &client{g, base}, nil
}

// transportFor returns what speaks to the API at base, whose certificate is from the authority in a
// file, or with a fingerprint (SHA-256, hexadecimal), or from any that this system trusts if ca is empty.
func transportFor(base, ca string) (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if ca == "" {
		return transport, nil
	}
	if sum, err := hex.DecodeString(strings.ReplaceAll(ca, ":", "")); err == nil && len(sum) == sha256.Size {
		at, err := url.Parse(base)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = pki.Pin(hex.EncodeToString(sum), at.Hostname(), func([]byte) {})
		return transport, nil
	}
	data, err := os.ReadFile(ca)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("the certificate in %s is not for everybody to read: run this with sudo", ca)
	}
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("--ca: %s has no certificate in PEM", ca)
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return transport, nil
}

// checkURL returns the URL of an API without its trailing slash. by is who said it.
func checkURL(by, said string) (string, error) {
	u, err := url.Parse(said)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", usageErrorf("%s is %q, want a URL such as http://127.0.0.1:7070", by, said)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", usageErrorf("%s is %q, want a URL of nothing but a host and a port: all paths begin with /v2", by, said)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
		return "", usageErrorf("%s is %q: the token would travel in the clear, want https", by, said)
	}
	return u.Scheme + "://" + u.Host, nil
}

// readToken returns the token in a file, or WEIR_TOKEN if no file is named, or that of
// the control plane of this machine which has the API at base.
func readToken(file, base string) (string, error) {
	if file == "" {
		if token := strings.TrimSpace(os.Getenv("WEIR_TOKEN")); token != "" {
			return token, nil
		}
		running, err := published()
		if err != nil {
			return "", err
		}
		for _, r := range running {
			if r.API == base {
				file = r.TokenFile
			}
		}
	}
	if file == "" {
		return "", fmt.Errorf("no token for %s: set WEIR_TOKEN, or name a file with --token-file", base)
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrPermission) {
		return "", fmt.Errorf("the token in %s is for its owner alone: run this with sudo, or as its owner", file)
	}
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return "", fmt.Errorf("token: %s has no token, want one line", file)
	}
	return token, nil
}

// do sends a request, with body as JSON unless it is nil, and reads the answer into
// into: as it is if that is an io.Writer, as JSON otherwise, not at all if it is nil. One
// that comes too soon after others it sends again when it may.
func (c *client) do(ctx context.Context, method, path string, body, into any) (http.Header, error) {
	for {
		req, err := c.godo.NewRequest(ctx, method, path, body)
		if err != nil {
			return nil, err
		}
		res, err := c.godo.Do(ctx, req, into)
		if err == nil {
			return res.Header, nil
		}
		wait, soon := tooSoon(err)
		if !soon || wait > longestWait {
			return nil, c.explain(err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// longestWait is how long a verb waits for its token to have requests again. Of a minute's
// there is one within it; an hour's would be another matter.
const longestWait = time.Minute

// tooSoon reports whether a request was one too many, and when it may be sent again.
func tooSoon(err error) (wait time.Duration, soon bool) {
	var refused *godo.ErrorResponse
	if !errors.As(err, &refused) || refused.Response.StatusCode != http.StatusTooManyRequests {
		return 0, false
	}
	seconds, err := strconv.Atoi(refused.Response.Header.Get("Retry-After"))
	return time.Duration(max(1, seconds)) * time.Second, err == nil
}

// errAway is the kind of error after which asking again may help: nobody has answered.
var errAway = weir.Unavailable

// explain puts what godo says in words for a user, without URLs and requests.
func (c *client) explain(err error) error {
	var refused *godo.ErrorResponse
	var lost *url.Error
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &refused):
		return c.refusal(refused)
	case errors.As(err, &lost):
		return weir.Errorf(errAway, "the API at %s does not answer: %w", c.api, bottom(lost.Err))
	case errors.As(err, &syntax), errors.As(err, &kind), errors.Is(err, io.EOF):
		return c.stranger()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return weir.Errorf(errAway, "the API at %s broke off its answer", c.api)
	}
	return err
}

func (c *client) stranger() error {
	return fmt.Errorf("what answers at %s is not Weir's API", c.api)
}

func (c *client) refusal(e *godo.ErrorResponse) error {
	status := e.Response.StatusCode
	ours := strings.HasPrefix(e.Response.Header.Get("Content-Type"), "application/json") && e.Message != ""
	switch {
	case !ours && status != http.StatusUnauthorized:
		return fmt.Errorf("what answers at %s is not Weir's API: it says %s", c.api, e.Response.Status)
	case status == http.StatusUnauthorized:
		return weir.Errorf(weir.Denied, "the API at %s does not know this token", c.api)
	case status == http.StatusForbidden:
		return c.forbidden(e)
	case status == http.StatusNotFound:
		return weir.Errorf(weir.NotFound, "%s", e.Message)
	case status == http.StatusTooManyRequests:
		wait, _ := tooSoon(e)
		return fmt.Errorf("this token has made as many requests as it may: the next one in %s", max(wait, time.Second))
	case status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return weir.Errorf(weir.Unavailable, "%s", e.Message)
	case status >= 500:
		return fmt.Errorf("%s (request_id %s)", e.Message, e.RequestID)
	}
	return errors.New(e.Message)
}

// forbidden says which scope the token lacks.
func (c *client) forbidden(e *godo.ErrorResponse) error {
	_, scope, lacks := strings.Cut(e.Response.Header.Get("WWW-Authenticate"), `scope="`)
	if !lacks {
		return weir.Errorf(weir.Denied, "%s", e.Message)
	}
	return weir.Errorf(weir.Denied, "the token lacks the scope %s", strings.TrimSuffix(scope, `"`))
}

// bottom returns what is below a network error: "connection refused".
func bottom(err error) error {
	var number syscall.Errno
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return errors.New("its certificate is from nobody known here: --ca names a file with the authority's, which weir serve has beside its token as ca.pem, or the fingerprint that it prints")
	case errors.As(err, &number):
		return number
	case errors.As(err, &dns):
		return errors.New(dns.Err)
	case errors.Is(err, io.EOF):
		return errors.New("it closed the connection")
	}
	return err
}

// status returns the region at a glance, of all teams if the token is for that.
func (c *client) status(ctx context.Context) (weir.RegionStatus, error) {
	return c.statusAt(ctx, "/v2/weir/status")
}

// ownStatus returns what the team that the verbs act for has of the region.
func (c *client) ownStatus(ctx context.Context) (weir.RegionStatus, error) {
	return c.statusAt(ctx, "/v2/weir/status?team=own")
}

func (c *client) statusAt(ctx context.Context, path string) (s weir.RegionStatus, err error) {
	var answer struct {
		Status *weir.RegionStatus `json:"status"`
	}
	if _, err := c.do(ctx, http.MethodGet, path, nil, &answer); err != nil {
		return s, err
	}
	if answer.Status == nil {
		return s, c.stranger()
	}
	return *answer.Status, nil
}

// machines returns all machines, by ID, load balancers' instances included.
func (c *client) machines(ctx context.Context) ([]api.InventoryMachine, error) {
	return everyPage[api.InventoryMachine](ctx, c, "machines")
}

// everyPage returns all that a list of Weir's own has, which may take several pages.
func everyPage[T any](ctx context.Context, c *client, name string) (all []T, err error) {
	const size = 200
	for page, total := 1, -1; ; page++ {
		var answer map[string]json.RawMessage
		if _, err := c.do(ctx, http.MethodGet, fmt.Sprintf("/v2/weir/%s?page=%d&per_page=%d", name, page, size), nil, &answer); err != nil {
			return nil, err
		}
		var rows []T
		var meta *godo.Meta
		if json.Unmarshal(answer[name], &rows) != nil || json.Unmarshal(answer["meta"], &meta) != nil || meta == nil {
			return nil, c.stranger()
		}
		if total >= 0 && total != meta.Total {
			all, page, total = nil, 0, -1 // it has changed since the first page: begin anew
			continue
		}
		total = meta.Total
		all = append(all, rows...)
		if page*size >= total {
			return all, nil
		}
	}
}

// config returns the HAProxy configuration of a load balancer, and whether it is live.
func (c *client) config(ctx context.Context, lb weir.ID) (text []byte, live bool, err error) {
	var b bytes.Buffer
	header, err := c.do(ctx, http.MethodGet, verbOf(lb, "config"), nil, &b)
	if err != nil {
		return nil, false, err
	}
	return b.Bytes(), header.Get(api.LiveHeader) == "true", nil
}
