package nodeapi

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/pki"
	"weir/weir"
)

func TestNodeEnrolsAndGetsItsConfig(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	want := newConfig("17", 3)
	s.Put(want)

	got, text, err := s.enrolled(t, "secret").NodeConfig(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, sameAddrs); diff != "" {
		t.Errorf("another configuration came over the wire (-want +got):\n%s", diff)
	}
	var stored weir.NodeConfig
	if err := json.Unmarshal(text, &stored); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, stored, sameAddrs); diff != "" {
		t.Errorf("its text says something else (-want +got):\n%s", diff)
	}
}

func TestTokenServesOneKeyAsOftenAsItComes(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	ours, theirs := newKey(t), newKey(t)
	c := s.client(t, nil)
	for range 3 {
		// The node crashed before it had stored the answer, and asks again.
		if _, err := c.Enrol(t.Context(), "secret", ours); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Enrol(t.Context(), "secret", theirs); !errors.Is(err, weir.Denied) {
		t.Errorf("another key with the same token: %v, want a weir.Denied error", err)
	}
	if _, err := c.Enrol(t.Context(), "guess", theirs); !errors.Is(err, weir.Denied) {
		t.Errorf("a token that nobody gave out: %v, want a weir.Denied error", err)
	}
}

func TestNodeOfAnotherAuthorityIsAStranger(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	s.Put(newConfig("17", 1))

	foreign := newCA(t)
	key := newKey(t)
	csr, err := pki.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := foreign.Sign(csr, "17", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := pki.Identity(key, cert)
	if err != nil {
		t.Fatal(err)
	}
	if cfg, _, err := s.client(t, &identity).NodeConfig(t.Context(), 0); err == nil {
		t.Errorf("a certificate of another authority got configuration %d", cfg.Revision)
	}

	trusting, err := NewClient(Options{URL: s.url, Roots: foreign.Pool(), Dial: s.dial})
	if err != nil {
		t.Fatal(err)
	}
	defer trusting.Close()
	if _, err := trusting.Enrol(t.Context(), "secret", key); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("error %v, want the node to refuse a control plane of another authority", err)
	}
}

func TestNodeThatKnowsAFingerprintLearnsItsAuthority(t *testing.T) {
	s := newServer(t)
	authority, err := Authority(t.Context(), Options{URL: s.url, Dial: s.dial}, s.ca.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(authority, s.ca.PEM()) {
		t.Errorf("it learned of\n%s\nwant\n%s", authority, s.ca.PEM())
	}

	authority, err = Authority(t.Context(), Options{URL: s.url, Dial: s.dial}, newCA(t).Fingerprint())
	if weir.KindOf(err) != weir.Denied || authority != nil {
		t.Errorf("of another authority: %v, want a weir.Denied error and nothing learned", err)
	}
	if want := "it is not from the authority with the fingerprint"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want it to say %q", err, want)
	}
}

func TestOnlyEnrollingGoesWithoutACertificate(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	s.Put(newConfig("17", 1))
	c := s.client(t, nil)
	if _, _, err := c.NodeConfig(t.Context(), 0); !errors.Is(err, weir.Denied) {
		t.Errorf("config: %v, want a weir.Denied error", err)
	}
	if _, err := c.Report(t.Context(), weir.NodeStatus{Node: "17"}); !errors.Is(err, weir.Denied) {
		t.Errorf("status: %v, want a weir.Denied error", err)
	}
	if _, err := c.Renew(t.Context(), newKey(t)); !errors.Is(err, weir.Denied) {
		t.Errorf("renew: %v, want a weir.Denied error", err)
	}
}

func TestProgramIsThereForMachinesThatHaveNone(t *testing.T) {
	s := newServer(t)
	want, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.ca.Pool()}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(s.url + weir.ProgramPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
		t.Errorf("%s with %d bytes, error %v, want the %d of this program", resp.Status, len(got), err, len(want))
	}
}

func TestNodeCannotActAsAnother(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	s.Admit("18", "other secret")
	s.Put(newConfig("17", 1))
	s.Put(newConfig("18", 2))
	c := s.enrolled(t, "secret")
	cfg, _, err := c.NodeConfig(t.Context(), 0)
	if err != nil || cfg.Node != "17" {
		t.Errorf("configuration of node %q (%v), want its own", cfg.Node, err)
	}
	if _, err := c.Report(t.Context(), weir.NodeStatus{Node: "18", Revision: 2}); !errors.Is(err, weir.Denied) {
		t.Errorf("a report for another node: %v, want a weir.Denied error", err)
	}
	if statuses, _ := s.Statuses("18"); len(statuses) > 0 {
		t.Errorf("the other node is said to have reported %+v", statuses)
	}
}

func TestReportArrivesWithTheTimeItCame(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	before := time.Now()
	want := weir.NodeStatus{Node: "17", Revision: 4, Agent: "v1", Seen: before.Add(-time.Hour),
		HAProxy: weir.HAProxyStatus{Version: "2.6.12", PID: 4242, Started: before.UTC(), Counts: &weir.Counts{Taken: before.UTC(), Limit: 9985, Threads: 2,
			Workers: []weir.WorkerCounts{{PID: 4242, CPU: time.Second, Frontends: []weir.FrontendCounts{{Name: "http-80", Mode: weir.HTTP, Requests: 7, Responses: weir.Responses{1: 6, 4: 1}}},
				Backends: []weir.BackendCounts{{Name: "web", Mode: weir.HTTP, Response: time.Millisecond}}}}}},
		Servers: []weir.ServerStatus{{Backend: "web", ID: "5", State: weir.ServerUp, Requests: 12}}}
	if _, err := s.enrolled(t, "secret").Report(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	statuses, _ := s.Statuses("17")
	if len(statuses) != 1 {
		t.Fatalf("%d reports, want 1", len(statuses))
	}
	got := statuses[0]
	if got.Seen.Before(before) {
		t.Errorf("seen at %v, want the time it came, not what the node says", got.Seen)
	}
	want.Seen = got.Seen
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("another status came over the wire (-want +got):\n%s", diff)
	}
}

func TestLongPollWaitsForAnotherRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBubbleServer(t)
		s.Admit("17", "secret")
		s.Put(newConfig("17", 5))
		c := s.enrolled(t, "secret")

		began := time.Now()
		if _, text, err := c.NodeConfig(t.Context(), 5); text != nil || err != nil {
			t.Errorf("configuration %q, error %v, want neither", text, err)
		}
		if took := time.Since(began); took != pollWait {
			t.Errorf("an idle answer after %v, want it after %v", took, pollWait)
		}

		// 6 is the next one; 2 is from before the control plane was restored.
		for _, next := range []int64{6, 2} {
			began = time.Now()
			time.AfterFunc(7*time.Second, func() { s.Put(newConfig("17", next)) })
			cfg, _, err := c.NodeConfig(t.Context(), []int64{6: 5, 2: 6}[next])
			if err != nil || cfg.Revision != next {
				t.Errorf("revision %d, error %v, want revision %d", cfg.Revision, err, next)
			}
			if took := time.Since(began); took != 7*time.Second {
				t.Errorf("it came after %v, want it when it was made", took)
			}
		}
	})
}

func TestRevokedNodeIsDenied(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	s.Put(newConfig("17", 1))
	c := s.enrolled(t, "secret")
	waits := make(chan error, 1)
	go func() {
		_, _, err := c.NodeConfig(t.Context(), 1)
		waits <- err
	}()
	s.Revoke("17")
	if err := <-waits; !errors.Is(err, weir.Denied) {
		t.Errorf("config: %v, want a weir.Denied error", err)
	}
	if _, err := c.Report(t.Context(), weir.NodeStatus{Node: "17"}); !errors.Is(err, weir.Denied) {
		t.Errorf("status: %v, want a weir.Denied error", err)
	}
}

func TestRenewedCertificateReplacesOneThatExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBubbleServer(t)
		s.Admit("17", "secret")
		s.Put(newConfig("17", 1))
		key := newKey(t)
		old := s.enrolledWith(t, "secret", key)

		time.Sleep(Life / 2)
		cert, err := old.Renew(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		identity, err := pki.Identity(key, cert)
		if err != nil {
			t.Fatal(err)
		}
		renewed := s.client(t, &identity)

		// The old client's connection is open from before its certificate expires.
		expiry := identity.Leaf.NotAfter.Add(-Life / 2)
		time.Sleep(time.Until(expiry) - 10*time.Minute)
		for !time.Now().After(expiry) {
			if _, _, err := old.NodeConfig(t.Context(), 0); err != nil {
				t.Fatalf("%v before the certificate expires: %v", time.Until(expiry), err)
			}
			time.Sleep(30 * time.Second)
		}
		if _, _, err := old.NodeConfig(t.Context(), 0); !errors.Is(err, weir.Denied) {
			t.Errorf("with an expired certificate: %v, want a weir.Denied error", err)
		}
		if _, _, err := renewed.NodeConfig(t.Context(), 0); err != nil {
			t.Errorf("the renewed certificate: %v", err)
		}
	})
}

func TestBadBodiesAreRefused(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	node := s.enrolled(t, "secret")
	stranger := s.client(t, nil)
	for name, c := range map[string]struct {
		from   *Client
		method string
		path   string
		body   string
		want   int
	}{
		"garbage":              {stranger, "POST", enrolPath, "hello", 400},
		"nothing":              {stranger, "POST", enrolPath, "", 400},
		"no request":           {stranger, "POST", enrolPath, `{"token":"secret"}`, 400},
		"garbage in a request": {stranger, "POST", enrolPath, `{"token":"secret","csr":"AAAA"}`, 400},
		"two values":           {node, "POST", statusPath, `{"node":"17"}{"node":"17"}`, 400},
		"another type":         {node, "POST", statusPath, `{"node":17}`, 400},
		"too large to enrol":   {stranger, "POST", enrolPath, `{"token":"` + strings.Repeat("x", maxRequest) + `"}`, 413},
		"too large a status":   {node, "POST", statusPath, `{"err":"` + strings.Repeat("x", maxDocument) + `"}`, 413},
		"revision not given":   {node, "GET", configPath, "", 400},
		"revision a word":      {node, "GET", configPath + "?after=all", "", 400},
		"other method":         {node, "PUT", statusPath, "{}", 405},
		"other path":           {node, "GET", "/node/v2/config", "", 404},
		"long header":          {node, "GET", configPath + "?after=" + strings.Repeat("1", 2*maxRequest), "", 431},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, s.url+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.from.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.want {
				t.Errorf("answer %s, want %d", resp.Status, c.want)
			}
		})
	}
	if _, err := node.Enrol(t.Context(), "secret", newKey(t)); !errors.Is(err, weir.Denied) {
		t.Errorf("after all that, another key enrols with %v, want a weir.Denied error", err)
	}
}

func TestBodyThatNeverEndsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBubbleServer(t)
		body, never := io.Pipe()
		defer never.Close()
		req, err := http.NewRequestWithContext(t.Context(), "POST", s.url+enrolPath, body)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		resp, err := s.client(t, nil).http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if took := time.Since(began); resp.StatusCode != 400 || took != answerTime {
			t.Errorf("answer %s after %v, want 400 after %v", resp.Status, took, answerTime)
		}
	})
}

func TestErrorWithoutAKindStaysInTheControlPlane(t *testing.T) {
	var logged bytes.Buffer
	s := newServerOf(t, broken{}, slog.New(slog.NewTextHandler(&logged, nil)))
	_, err := s.client(t, nil).Enrol(t.Context(), "secret", newKey(t))
	if !errors.Is(err, weir.Unavailable) || strings.Contains(err.Error(), "etcd") {
		t.Errorf("the node learns %q, want a weir.Unavailable error without details", err)
	}
	s.stop()
	if !strings.Contains(logged.String(), "etcd lost its disk") {
		t.Errorf("the log has %q, want the error", logged.String())
	}
}

type broken struct{ *Fake }

func (broken) Enrol(context.Context, string, []byte) (weir.ID, error) {
	return "", errors.New("etcd lost its disk")
}

func TestStoppingSendsWaitingNodesAway(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	s.Put(newConfig("17", 1))
	c := s.enrolled(t, "secret")
	waits := make(chan error, 1)
	go func() {
		_, _, err := c.NodeConfig(t.Context(), 1)
		waits <- err
	}()
	s.stop()
	if err := <-waits; !errors.Is(err, weir.Unavailable) {
		t.Errorf("the waiting node got %v, want a weir.Unavailable error", err)
	}
}

func TestClientWantsAnHTTPSAddress(t *testing.T) {
	for _, url := range []string{"", "10.0.0.2:7443", "http://10.0.0.2:7443", "https://", "https://a b"} {
		if _, err := NewClient(Options{URL: url}); !errors.Is(err, weir.Invalid) {
			t.Errorf("%q: %v, want a weir.Invalid error", url, err)
		}
	}
}

func TestAnswersOfOthersAreNotTaken(t *testing.T) {
	ca := newCA(t)
	for name, answer := range map[string]http.HandlerFunc{
		"a page":     func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"an error":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"no end": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"node":"`)
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: answer}
			var wg sync.WaitGroup
			wg.Go(func() {
				srv.Serve(tls.NewListener(ln, &tls.Config{GetCertificate: ca.GetCertificate("127.0.0.1")}))
			})
			defer wg.Wait()
			defer srv.Close()
			c, err := NewClient(Options{URL: "https://" + ln.Addr().String(), Roots: ca.Pool()})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, _, err := c.NodeConfig(t.Context(), 0); !errors.Is(err, weir.Unavailable) {
				t.Errorf("error %v, want a weir.Unavailable error", err)
			}
		})
	}
}

// server is a control plane's end with a Fake behind it.
type server struct {
	*Fake
	url  string
	ca   *pki.CA
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	stop func()
}

func newServer(t *testing.T) *server {
	t.Helper()
	fake := new(Fake)
	s := newServerOf(t, fake, slog.New(slog.DiscardHandler))
	s.Fake = fake
	return s
}

func newServerOf(t *testing.T, c Control, log *slog.Logger) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newServerOn(t, ln, ln.Addr().String(), c, log)
}

// newBubbleServer is newServer on a network that a synctest bubble can hold.
func newBubbleServer(t *testing.T) *server {
	t.Helper()
	fake, network := new(Fake), new(FakeNetwork)
	s := newServerOn(t, network.Listen(), "127.0.0.1", fake, slog.New(slog.DiscardHandler))
	s.Fake, s.dial = fake, network.Dial
	return s
}

func newServerOn(t *testing.T, ln net.Listener, addr string, c Control, log *slog.Logger) *server {
	t.Helper()
	ca := newCA(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, ln, c, ca, []string{"127.0.0.1"}, log); err != nil {
			t.Error(err)
		}
	})
	stop := func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return &server{url: "https://" + addr, ca: ca, stop: stop}
}

func (s *server) client(t *testing.T, identity *tls.Certificate) *Client {
	t.Helper()
	c, err := NewClient(Options{URL: s.url, Roots: s.ca.Pool(), Identity: identity, Dial: s.dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (s *server) enrolled(t *testing.T, token string) *Client {
	t.Helper()
	return s.enrolledWith(t, token, newKey(t))
}

func (s *server) enrolledWith(t *testing.T, token string, key crypto.Signer) *Client {
	t.Helper()
	cert, err := s.client(t, nil).Enrol(t.Context(), token, key)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := pki.Identity(key, cert)
	if err != nil {
		t.Fatal(err)
	}
	return s.client(t, &identity)
}

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, _, err := weir.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}
