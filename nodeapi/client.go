package nodeapi

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"weir/pki"
	"weir/weir"
)

// Options are where the control plane is, and who asks.
type Options struct {
	URL      string           // https://HOST:PORT
	Roots    *x509.CertPool   // who may have signed the control plane's certificate
	Identity *tls.Certificate // the node's own; nil to enrol

	// Dial opens connections; nil is the network's usual way.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client is a node's end. It keeps a connection or two, and may be used by several
// goroutines. Errors that are not the control plane's own answer are weir.Unavailable.
type Client struct {
	base *url.URL
	http *http.Client
}

// NewClient returns a client of the control plane at o.URL. It does not connect yet.
func NewClient(o Options) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, weir.Errorf(weir.Invalid, "control plane %q is not a URL such as https://10.0.0.2:7071", o.URL)
	}
	conf := &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS13}
	if o.Identity != nil {
		conf.Certificates = []tls.Certificate{*o.Identity}
	}
	if o.Dial == nil {
		// A control plane that has vanished without a word is noticed within 20 s, also
		// while a long poll waits.
		dialer := net.Dialer{Timeout: answerTime, KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 2}}
		o.Dial = dialer.DialContext
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &Client{base, &http.Client{
		Transport: &http.Transport{
			DialContext:         o.Dial,
			TLSClientConfig:     conf,
			TLSHandshakeTimeout: answerTime,
			Protocols:           protocols,
			IdleConnTimeout:     time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Authority returns the certificate (PEM) of the control plane's authority at o.URL, which
// has that fingerprint; of o, Roots and Identity are not looked at. It is how a node that
// was told a fingerprint alone comes by the roots for [NewClient]. Whoever answers and is
// not of that authority is weir.Denied, and has been told nothing.
func Authority(ctx context.Context, o Options, fingerprint string) (authority []byte, err error) {
	c, err := NewClient(o)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	transport := c.http.Transport.(*http.Transport)
	transport.TLSClientConfig = pki.Pin(fingerprint, c.base.Hostname(), func(pem []byte) { authority = pem })
	// Any answer will do: by then the handshake has said it all.
	_, err = c.do(ctx, answerTime, http.MethodGet, "/", nil)
	if authority != nil {
		return authority, nil
	}
	return nil, err
}

// Close gives up the connections that are idle; others end with their request.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Enrol trades a token for a certificate (PEM) of key's public half. It may be repeated
// with the same key.
func (c *Client) Enrol(ctx context.Context, token string, key crypto.Signer) ([]byte, error) {
	csr, err := pki.Request(key)
	if err != nil {
		return nil, err
	}
	return c.certificate(ctx, enrolPath, enrolment{token, csr})
}

// Renew returns a new certificate (PEM) for key and the node that c's identity names.
func (c *Client) Renew(ctx context.Context, key crypto.Signer) ([]byte, error) {
	csr, err := pki.Request(key)
	if err != nil {
		return nil, err
	}
	return c.certificate(ctx, renewPath, renewal{csr})
}

func (c *Client) certificate(ctx context.Context, path string, body any) ([]byte, error) {
	answer, err := c.do(ctx, answerTime, http.MethodPost, path, body)
	if err != nil {
		return nil, err
	}
	var got signed
	if err := c.decode(answer, &got); err != nil {
		return nil, err
	}
	return []byte(got.Certificate), nil
}

// NodeConfig waits up to a minute for a NodeConfig of another revision than after. It
// returns the text of it too, to be stored as it came: what a newer control plane says in
// it, a newer agent will understand. Without text there was none.
func (c *Client) NodeConfig(ctx context.Context, after int64) (cfg weir.NodeConfig, text []byte, err error) {
	if text, err = c.poll(ctx, configPath, after); err != nil || text == nil {
		return cfg, nil, err
	}
	return cfg, text, c.decode(text, &cfg)
}

// Report tells the control plane what the node does, and returns the revision of the newest
// NodeConfig that it has for the node, which Client.NodeConfig gets.
func (c *Client) Report(ctx context.Context, status weir.NodeStatus) (revision int64, err error) {
	answer, err := c.do(ctx, answerTime, http.MethodPost, statusPath, status)
	if err != nil {
		return 0, err
	}
	var got taken
	err = c.decode(answer, &got)
	return got.Revision, err
}

// poll waits for the answer to what the server's poll answers, nil if nothing is new.
func (c *Client) poll(ctx context.Context, path string, after int64) ([]byte, error) {
	return c.do(ctx, pollWait+answerTime, http.MethodGet, path+"?after="+strconv.FormatInt(after, 10), nil)
}

// do makes one request, and returns the body of its answer, nil if it has none.
func (c *Client) do(ctx context.Context, patience time.Duration, method, path string, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := c.exchange(ctx, method, path, body)
	if err != nil {
		return nil, fmt.Errorf("control plane %s: %w", c.base.Host, err)
	}
	return answer, nil
}

func (c *Client) exchange(ctx context.Context, method, path string, body any) ([]byte, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.base.Host+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return c.roundTrip(req)
}

// roundTrip makes a request, and returns the body of its answer, nil if it has none.
func (c *Client) roundTrip(req *http.Request) ([]byte, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		if wrapped := new(url.Error); errors.As(err, &wrapped) {
			err = wrapped.Err // without the URL, which do has said
		}
		if errors.Is(err, weir.Denied) {
			return nil, err // it is not whom the caller will speak to, and will not be
		}
		return nil, weir.Errorf(weir.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if resp.ContentLength > 0 {
		answer.Grow(int(min(resp.ContentLength, maxDocument)) + bytes.MinRead)
	}
	// To its end, so that the connection is used again.
	n, err := answer.ReadFrom(io.LimitReader(resp.Body, maxDocument+1))
	switch {
	case err != nil:
		return nil, weir.Errorf(weir.Unavailable, "its answer: %w", err)
	case n > maxDocument:
		return nil, weir.Errorf(weir.Unavailable, "its answer has more than %d bytes", maxDocument)
	case resp.StatusCode == http.StatusNoContent:
		return nil, nil
	case resp.StatusCode == http.StatusOK:
		return answer.Bytes(), nil
	}
	return nil, refusal(resp.Status, answer.Bytes())
}

func (c *Client) decode(answer []byte, into any) error {
	if err := json.Unmarshal(answer, into); err != nil {
		return weir.Errorf(weir.Unavailable, "control plane %s: its answer: %w", c.base.Host, err)
	}
	return nil
}

// refusal makes an answer into the error that it was made of.
func refusal(status string, answer []byte) error {
	var p problem
	if err := json.Unmarshal(answer, &p); err != nil || p.Message == "" {
		return weir.Errorf(weir.Unavailable, "%s", status) // not from our server
	}
	if p.Kind == "" {
		p.Kind = weir.Unavailable
	}
	return weir.Errorf(p.Kind, "%s", p.Message)
}
