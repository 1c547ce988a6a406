package api_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitalocean/godo"
	"golang.org/x/oauth2"

	"weir/api"
	"weir/control"
	"weir/edge"
	"weir/store"
	"weir/weir"
)

// callers are who has which token.
type callers map[string]weir.Caller

func (callers) Lacks(weir.Caller, string) weir.Scope { return "" }

func (c callers) Authorize(_ context.Context, token string) (weir.Caller, error) {
	caller, ok := c[token]
	if !ok {
		return caller, weir.Errorf(weir.Denied, "the token is not known")
	}
	return caller, nil
}

var people = callers{
	token:   {User: "anna", Token: "t-1"},
	"other": {User: "ben", Token: "t-2", Team: "blue"},
}

// door opens another door to r, with o's limits, callers and control plane; those that it does
// not say are people, none and r's own.
func (r *region) door(o api.Options) *region {
	if o.Control == nil {
		o.Control = r.control
	}
	if o.Users == nil {
		o.Users = people
	}
	server := httptest.NewServer(contract(r.t, api.New(o)))
	r.t.Cleanup(server.Close)
	through := *r
	through.url = server.URL
	through.do = through.godo()
	return &through
}

func (r *region) godo(options ...godo.ClientOpt) *godo.Client {
	r.t.Helper()
	client := oauth2.NewClient(context.Background(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token}))
	do, err := godo.New(client, append(options, godo.SetBaseURL(r.url))...)
	if err != nil {
		r.t.Fatal(err)
	}
	return do
}

func TestEveryAnswerSaysHowOftenItsCallerMayCall(t *testing.T) {
	r := lab(t)
	r = r.door(api.Options{Limits: edge.NewLimits(r.control, edge.LimitOptions{PerHour: 5000, PerMinute: 250})})
	began := time.Now()
	for i, ask := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v2/account", "", 200},
		{"POST", "/v2/tags", `{"name": "web"}`, 201},
		{"POST", "/v2/tags", `{"name": ""}`, 422},
		{"POST", "/v2/tags", `{`, 400},
		{"GET", "/v2/droplets/7", "", 404},
		{"GET", "/v2/nothing", "", 404},
		{"PATCH", "/v2/tags", "", 405},
		{"DELETE", "/v2/tags/web", "", 204},
	} {
		a := r.ask(ask.method, ask.path, ask.body)
		if a.status != ask.status {
			t.Fatalf("%s %s: %d %s, want %d", ask.method, ask.path, a.status, a.text, ask.status)
		}
		if got, want := a.header.Get("RateLimit-Remaining"), strconv.Itoa(5000-i-1); a.header.Get("RateLimit-Limit") != "5000" || got != want {
			t.Errorf("%s %s: %s of %s remain, want %s of 5000", ask.method, ask.path, got, a.header.Get("RateLimit-Limit"), want)
		}
		reset, err := strconv.ParseInt(a.header.Get("RateLimit-Reset"), 10, 64)
		if at := time.Unix(reset, 0); err != nil || at.Before(began.Add(59*time.Minute)) || at.After(time.Now().Add(time.Hour)) {
			t.Errorf("%s %s: the oldest request leaves the hour at %q, want it an hour after the first", ask.method, ask.path, a.header.Get("RateLimit-Reset"))
		}
		if a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s %s: the answer has no ID", ask.method, ask.path)
		}
	}
	for _, authorization := range []string{"", "Basic c2VzYW1l", "Bearer wrong"} {
		a := r.askWith("GET", "/v2/account", "", authorization)
		if a.status != 401 || a.header.Get("RateLimit-Limit") != "5000" || a.header.Get("RateLimit-Remaining") != "5000" || a.header.Get("RateLimit-Reset") == "" || a.header.Get("X-Request-Id") == "" {
			t.Errorf("%q gets %d with %v, want 401 with the whole limit", authorization, a.status, a.header)
		}
	}
	_, resp, err := r.do.Account.Get(t.Context())
	if err != nil || resp.Rate.Limit != 5000 || resp.Rate.Remaining != 4991 || resp.Rate.Reset.IsZero() {
		t.Errorf("godo reads %+v (%v), want 4991 of 5000: who is not known has no part in it", resp.Rate, err)
	}
}

func TestOneRequestTooManyIsRefusedAndDoesNothing(t *testing.T) {
	r := lab(t)
	r = r.door(api.Options{Limits: edge.NewLimits(r.control, edge.LimitOptions{PerHour: 5000, PerMinute: 3})})
	for range 3 {
		if _, _, err := r.do.Account.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_, resp, err := r.do.Tags.Create(t.Context(), &godo.TagCreateRequest{Name: "late"})
	if status, text := refusal(err); status != 429 || text != "API Rate limit exceeded." {
		t.Fatalf("the fourth of three: %v, want 429", err)
	}
	wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || wait < 1 || wait > 60 {
		t.Errorf("Retry-After is %q, want seconds within a minute", resp.Header.Get("Retry-After"))
	}
	if resp.Rate.Limit != 5000 || resp.Rate.Remaining != 0 {
		t.Errorf("%d of %d remain, want none", resp.Rate.Remaining, resp.Rate.Limit)
	}
	a := r.ask("GET", "/v2/tags", "")
	if a.status != 429 || a.body["id"] != "too_many_requests" || a.body["request_id"] != a.header.Get("X-Request-Id") {
		t.Errorf("%d %s, want 429 with too_many_requests and the answer's ID", a.status, a.text)
	}
	other := r.askWith("GET", "/v2/tags", "", "Bearer other")
	if other.status != 200 || strings.Contains(other.text, "late") {
		t.Errorf("another token gets %d %s, want an answer, without the tag that was refused", other.status, other.text)
	}
}

// turnstile lets the second request in, and those after it.
type turnstile struct{ asked atomic.Int32 }

func (s *turnstile) Unused() weir.Allowance {
	return weir.Allowance{Limit: 1, Remaining: 1, Reset: time.Now()}
}

func (s *turnstile) Take(context.Context, string, weir.Caller, bool) (weir.Allowance, error) {
	if s.asked.Add(1) == 1 {
		return weir.Allowance{Limit: 1, Reset: time.Now(), Wait: time.Millisecond}, nil
	}
	return s.Unused(), nil
}

func TestGodoComesAgainWhenItMay(t *testing.T) {
	gate := &turnstile{}
	r := lab(t).door(api.Options{Limits: gate})
	do := r.godo(godo.WithRetryAndBackoffs(godo.RetryConfig{RetryMax: 2}))
	if _, _, err := do.Tags.Create(t.Context(), &godo.TagCreateRequest{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	if n := gate.asked.Load(); n != 2 {
		t.Errorf("%d requests, want one that is refused and one that is not", n)
	}
}

func TestOnlyTheOperatorOnThisMachineIsNotLimited(t *testing.T) {
	r := lab(t)
	r = r.door(api.Options{Limits: edge.NewLimits(r.control, edge.LimitOptions{PerMinute: 2, Operator: token})})
	for range 10 {
		if a := r.ask("GET", "/v2/account", ""); a.status != 200 || a.header.Get("RateLimit-Remaining") != "2" {
			t.Fatalf("the operator gets %d with %v, want an answer and the whole limit", a.status, a.header)
		}
	}
	for i, want := range []int{200, 200, 429} {
		if a := r.askWith("GET", "/v2/account", "", "Bearer other"); a.status != want {
			t.Errorf("request %d of another token gets %d, want %d", i+1, a.status, want)
		}
	}
	// Who means another machine is not on this one: a proxy is in between.
	for i, want := range []int{200, 200, 429} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.url+"/v2/account", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "api.example"
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("request %d by way of a proxy gets %d, want %d", i+1, resp.StatusCode, want)
		}
	}
}

func TestTheOperatorIsOnThisMachineAlsoByItsOtherAddresses(t *testing.T) {
	for _, test := range []struct {
		from, to, host string
		limited        bool
	}{
		{"192.0.2.11:41000", "192.0.2.11:7070", "192.0.2.11:7070", false},
		{"192.0.2.11:41000", "[::ffff:192.0.2.11]:7070", "lb.example:7070", false},
		{"192.0.2.12:41000", "192.0.2.11:7070", "192.0.2.11:7070", true},
		{"192.0.2.12:41000", "192.0.2.11:7070", "localhost", true},
		{"127.0.0.1:41000", "127.0.0.1:7070", "127.0.0.1:7070", false},
		{"127.0.0.1:41000", "127.0.0.1:7070", "lb.example", true},
	} {
		c := lab(t).control
		h := api.New(api.Options{Control: c, Users: people, Limits: edge.NewLimits(c, edge.LimitOptions{PerMinute: 1, Operator: token})})
		status := 0
		for range 2 {
			to := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(test.to))
			r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, to), "GET", "http://"+test.host+"/v2/account", nil)
			r.RemoteAddr = test.from
			r.Header.Set("Authorization", "Bearer "+token)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			status = w.Code
		}
		if (status == 429) != test.limited {
			t.Errorf("from %s to %s, which is called %s: the second request gets %d, want it limited: %t", test.from, test.to, test.host, status, test.limited)
		}
	}
}

// stalled is a store whose disk does not answer.
type stalled struct{ store.Backend }

func (stalled) Commit(ctx context.Context, _ store.Txn) (int64, bool, error) {
	<-ctx.Done()
	return 0, false, ctx.Err()
}

func TestReadsGoOnWithoutAQuorum(t *testing.T) {
	r := lab(t)
	away := control.New(control.Options{Store: store.New(stalled{store.NewMemory()})})
	r = r.door(api.Options{Limits: edge.NewLimits(away, edge.LimitOptions{PerMinute: 5})})
	for i, want := range []int{200, 200, 200, 200, 200, 429} {
		if a := r.ask("GET", "/v2/droplets", ""); a.status != want {
			t.Errorf("request %d gets %d %s, want %d: a member without a quorum limits by itself", i+1, a.status, a.text, want)
		}
	}
}
