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
		return nil, weir.Errorf(weir.Invalid, "control plane %q is not a URL such as https://10.0.0.2:7443", o.URL)
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
	var got signed
	if _, err := c.do(ctx, answerTime, http.MethodPost, path, body, &got); err != nil {
		return nil, err
	}
	return []byte(got.Certificate), nil
}

// NodeConfig waits up to a minute for a NodeConfig of another revision than after, and
// reports whether there was one.
func (c *Client) NodeConfig(ctx context.Context, after int64) (cfg weir.NodeConfig, changed bool, err error) {
	path := configPath + "?after=" + strconv.FormatInt(after, 10)
	changed, err = c.do(ctx, pollWait+answerTime, http.MethodGet, path, nil, &cfg)
	return cfg, changed, err
}

// Report tells the control plane what the node does.
func (c *Client) Report(ctx context.Context, status weir.NodeStatus) error {
	_, err := c.do(ctx, answerTime, http.MethodPost, statusPath, status, nil)
	return err
}

// do makes one request, and reports whether the answer had a body, which it decodes.
func (c *Client) do(ctx context.Context, patience time.Duration, method, path string, body, into any) (bool, error) {
	answered, err := c.exchange(ctx, patience, method, path, body, into)
	if err != nil {
		return false, fmt.Errorf("control plane %s: %w", c.base.Host, err)
	}
	return answered, nil
}

func (c *Client) exchange(ctx context.Context, patience time.Duration, method, path string, body, into any) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return false, err
		}
		content = bytes.NewReader(data)
	}
	target := c.base.Scheme + "://" + c.base.Host + path
	req, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		if wrapped := new(url.Error); errors.As(err, &wrapped) {
			err = wrapped.Err // without the URL, which do has said
		}
		return false, weir.Errorf(weir.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	limited := &io.LimitedReader{R: resp.Body, N: maxDocument}
	switch resp.StatusCode {
	case http.StatusNoContent:
		return false, nil
	case http.StatusOK:
		if err := json.NewDecoder(limited).Decode(into); err != nil {
			return false, weir.Errorf(weir.Unavailable, "its answer: %w", err)
		}
		_, _ = io.Copy(io.Discard, limited) // to its end, so that the connection is used again
		return true, nil
	}
	return false, refusal(resp.Status, limited)
}

// refusal makes an answer into the error that it was made of.
func refusal(status string, body io.Reader) error {
	var p problem
	if err := json.NewDecoder(body).Decode(&p); err != nil || p.Message == "" {
		return weir.Errorf(weir.Unavailable, "%s", status) // not from our server
	}
	if p.Kind == "" {
		p.Kind = weir.Unavailable
	}
	return weir.Errorf(p.Kind, "%s", p.Message)
}
