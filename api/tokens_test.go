package api_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"weir/api"
	"weir/cloud"
	"weir/edge"
	"weir/weir"
)

// newToken makes a token of a team, and returns it with its secret.
func (r *region) newToken(name, team string, scopes ...weir.Scope) api.Token {
	r.t.Helper()
	made, resp, err := call[struct{ Token api.Token }](r, "POST", "tokens", api.NewToken{Name: name, Team: team, User: "anna", Scopes: scopes})
	if err != nil || resp.StatusCode != http.StatusCreated {
		r.t.Fatalf("token %s: %v, want 201", name, err)
	}
	return made.Token
}

// tokens returns the tokens that there are, by name.
func (r *region) tokens() map[string]api.Token {
	r.t.Helper()
	all, _, err := call[struct{ Tokens []api.Token }](r, "GET", "tokens", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	named := map[string]api.Token{}
	for _, t := range all.Tokens {
		named[t.Name] = t
	}
	return named
}

func TestATokenIsShownOnceAndStoredHashed(t *testing.T) {
	r := lab(t)
	made := r.newToken("ci", "blue", "tag:write", "read", "tag:write")
	if !strings.HasPrefix(made.Secret, "weir_v1_") || len(made.Secret) < 40 {
		t.Errorf("the secret is %q, want one of weir_v1_…", made.Secret)
	}
	if made.Team != "blue" || made.User != "anna" || fmt.Sprint(made.Scopes) != "[read tag:write]" || made.Expired || !made.Expires.IsZero() {
		t.Errorf("made %+v, want what was asked", made)
	}
	a := r.ask("GET", "/v2/weir/tokens", "")
	if a.status != 200 || strings.Contains(a.text, made.Secret) || strings.Contains(a.text, weir.SecretSum(made.Secret)) {
		t.Errorf("%d %s, want the tokens without their secrets and sums", a.status, a.text)
	}
	if got := r.tokens()["ci"]; got.ID != made.ID || !got.Used.IsZero() {
		t.Errorf("listed %+v, want the token, which was never used", got)
	}
	if a := r.askWith("GET", "/v2/tags", "", "Bearer "+made.Secret); a.status != 200 {
		t.Errorf("with it: %d %s, want 200", a.status, a.text)
	}
	before := r.tokens()["ci"].Used
	if before.IsZero() {
		t.Error("it is said never to have been used")
	}
	r.askWith("GET", "/v2/tags", "", "Bearer "+made.Secret)
	if after := r.tokens()["ci"].Used; !after.Equal(before) {
		t.Errorf("used again at once it was last used %v, want %v still: a read writes nothing", after, before)
	}
}

func TestARevokedTokenOpensNothing(t *testing.T) {
	r := lab(t)
	made := r.newToken("ci", "", "write")
	with := func() answer { return r.askWith("GET", "/v2/droplets", "", "Bearer "+made.Secret) }
	if a := with(); a.status != 200 {
		t.Fatalf("%d %s, want 200", a.status, a.text)
	}
	if a := r.ask("DELETE", "/v2/weir/tokens/"+string(made.ID), ""); a.status != 204 || a.text != "" {
		t.Errorf("revoke: %d %s, want 204", a.status, a.text)
	}
	if a := with(); a.status != 401 || a.body["message"] != "Unable to authenticate you" {
		t.Errorf("afterwards: %d %s, want 401", a.status, a.text)
	}
	if _, there := r.tokens()["ci"]; there {
		t.Error("it is listed still")
	}
	for _, id := range []string{string(made.ID), "none", "a.b"} {
		if a := r.ask("DELETE", "/v2/weir/tokens/"+id, ""); a.status != 404 {
			t.Errorf("revoke %s: %d %s, want 404", id, a.status, a.text)
		}
	}
}

func TestATokenThatCannotBeIsRefused(t *testing.T) {
	r := lab(t)
	r.newToken("ci", "", "read")
	for body, want := range map[string]string{
		`{"scopes": ["read"]}`:                                                          `422 name is ""`,
		`{"name": "x"}`:                                                                 `422 scopes is empty, want at least one of read, write, admin`,
		`{"name": "x", "scopes": ["all"]}`:                                              `422 scope "all" is not known`,
		`{"name": "x", "scopes": "read"}`:                                               `422 scopes is a string, want an array`,
		`{"name": "x", "scopes": ["droplet:delete"]}`:                                   `422 scope "droplet:delete", want droplet:read or droplet:write`,
		`{"name": "x", "scopes": ["read"], "team": "A B"}`:                              `422 team is "A B"`,
		`{"name": "x", "scopes": ["read"], "expires_at": "tomorrow"}`:                   `422 expires_at is "tomorrow", want a time to come such as `,
		`{"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}`:       `422 expires_at is "2020-01-01T00:00:00Z", want a time to come`,
		`{"name": "x", "scopes": ["read"], "expires_at": "0001-01-01T00:00:00Z"}`:       `422 expires_at is "0001-01-01T00:00:00Z"`,
		`{"name": "ci", "scopes": ["read"]}`:                                            `409 token "ci": there is one of that name already`,
		`{"name": "x", "scopes": ["read"], "user": "` + strings.Repeat("u", 256) + `"}`: `422 user is "uuu`,
		`{`: `400 the body ends`,
	} {
		a := r.ask("POST", "/v2/weir/tokens", body)
		if got := fmt.Sprint(a.status, " ", a.body["message"]); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

func TestATokenSaysWhenItExpires(t *testing.T) {
	r := lab(t)
	expires := time.Now().AddDate(0, 1, 0).UTC().Truncate(time.Second)
	made, _, err := call[struct{ Token api.Token }](r, "POST", "tokens",
		api.NewToken{Name: "ci", Scopes: []weir.Scope{"read"}, Expires: expires.Format(time.RFC3339)})
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []api.Token{made.Token, r.tokens()["ci"]} {
		if got.Expired || !got.Expires.Equal(expires) {
			t.Errorf("%+v, want that it expires at %v", got, expires)
		}
	}
}

// TestEveryRouteNeedsAScope holds each route to the table: a new one whose kind edge does not
// know fails here.
func TestEveryRouteNeedsAScope(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{}, nil)
	scopes := []weir.Scope{"read", "write", "admin"}
	secrets := map[weir.Scope]string{}
	for _, route := range api.Routes() {
		need, known := edge.Need(route)
		if !known {
			t.Errorf("%s is of no known kind: add it to the table in edge/scope.go", route)
		}
		if err := need.Check(); err != nil {
			t.Errorf("%s: %v", route, err)
		}
		scopes = append(scopes, need)
	}
	for _, s := range scopes {
		if secrets[s] == "" {
			secrets[s] = r.newToken("for "+string(s), "scoped", s).Secret
		}
	}
	for _, route := range api.Routes() {
		method, path, _ := strings.Cut(route, " ")
		path = strings.TrimSuffix(path, "{$}")
		path = regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, "1")
		need, _ := edge.Need(route)
		if writes := method != "GET" && need != weir.ScopeAdmin; writes != strings.HasSuffix(string(need), "write") {
			t.Errorf("%s needs %s, want that it needs write if it is no GET", route, need)
		}
		for s, secret := range secrets {
			req, err := http.NewRequest(method, r.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "weir.example" // the page too wants a token then
			req.Header.Set("Authorization", "Bearer "+secret)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode == 401 || resp.StatusCode >= 500 {
				t.Errorf("%s with %s: %d", route, s, resp.StatusCode)
			}
			if got := resp.StatusCode != 403; got != s.Gives(need) {
				t.Errorf("%s, which needs %s, with %s: %d", route, need, s, resp.StatusCode)
			}
		}
	}
}

func TestAScopesLackIsSaidBesideTheWordsThatClientsKnow(t *testing.T) {
	r := lab(t)
	do := r.client(r.newToken("watch", "", "droplet:read").Secret)
	_, err := do.Droplets.Delete(t.Context(), 1)
	if status, text := refusal(err); status != 403 || text != "You are not authorized to perform this operation" {
		t.Errorf("%v, want 403 in DigitalOcean's words", err)
	}
	a := r.askWith("POST", "/v2/load_balancers", "", "Bearer "+r.newToken("other", "", "read").Secret)
	if a.body["id"] != "forbidden" || fmt.Sprint(a.body["weir"]) != "map[scope:load_balancer:write]" {
		t.Errorf("%s, want id forbidden, and weir.scope load_balancer:write", a.text)
	}
	if got, want := a.header.Get("WWW-Authenticate"), `Bearer error="insufficient_scope", scope="load_balancer:write"`; got != want {
		t.Errorf("WWW-Authenticate is %s, want %s", got, want)
	}
	// What is not there is not there, whatever the token is for.
	if a := r.askWith("POST", "/v2/nothing", "", "Bearer "+r.newToken("third", "", "read").Secret); a.status != 404 {
		t.Errorf("%d %s, want 404", a.status, a.text)
	}
}

func TestTheAccountIsTheCallers(t *testing.T) {
	r := lab(t)
	first, _, err := r.do.Account.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	blue, _, err := r.client(r.newToken("ci", "blue", "read").Secret).Account.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first.Team.Name != "lab" || blue.Team.Name != "blue" || blue.Name != "anna" || blue.UUID == first.UUID || blue.Team.UUID == first.Team.UUID {
		t.Errorf("accounts %+v and %+v, want that of each team", first, blue)
	}
}

func TestThePageIsThatOfTheTeamWhoseTokenIsShown(t *testing.T) {
	r := lab(t)
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := weir.CallerOf(r.Context())
		fmt.Fprintf(w, "team %s, all %v", weir.TeamName(c.Team), c.May(weir.ScopeAdmin))
	})
	server := httptest.NewServer(api.New(api.Options{Control: r.control, Users: edge.NewTokens(r.control), Page: page}))
	defer server.Close()
	read := func(host, secret string) string {
		req, err := http.NewRequest("GET", server.URL+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		if secret != "" {
			req.Header.Set("Authorization", "Bearer "+secret)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.StatusCode, " ", string(text))
	}
	for _, c := range []struct{ host, secret, want string }{
		{"localhost", "", "200 team default, all true"},
		{"weir.example", token, "200 team default, all true"},
		{"weir.example", r.newToken("blue", "blue", "read").Secret, "200 team blue, all false"},
		{"weir.example", r.newToken("few", "blue", "droplet:read").Secret, `403 {"id":"forbidden"`},
		{"weir.example", "", `401 {"id":"unauthorized"`},
	} {
		if got := read(c.host, c.secret); !strings.HasPrefix(got, c.want) {
			t.Errorf("by the name %s: %s, want %s", c.host, got, c.want)
		}
	}
}
