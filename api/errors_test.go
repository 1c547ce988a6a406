package api_test

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"weir/api"
	"weir/cloud"
	"weir/weir"
)

// faulty is a control plane whose Status and Machines do as it is told.
type faulty struct {
	api.Control
	err error
}

func (f *faulty) Status(context.Context) (weir.RegionStatus, error) {
	if f.err == nil {
		panic("the sky falls")
	}
	return weir.RegionStatus{}, f.err
}

func TestEachKindOfErrorHasItsStatus(t *testing.T) {
	f := &faulty{}
	r := newRegion(t, cloud.FakeOptions{}, func(c api.Control) api.Control { f.Control = c; return f })
	for _, c := range []struct {
		err    error
		status int
		id     string
		text   string
	}{
		{weir.Errorf(weir.NotFound, "there is no cat"), 404, "not_found", "The resource you were accessing could not be found."},
		{weir.Errorf(weir.Invalid, "cat is 3, want 9"), 422, "unprocessable_entity", "cat is 3, want 9"},
		{weir.Errorf(weir.Exhausted, "no cats left"), 422, "unprocessable_entity", "no cats left"},
		{weir.Errorf(weir.Conflict, "the cat is asleep"), 409, "conflict", "the cat is asleep"},
		{weir.Errorf(weir.Denied, "not your cat"), 403, "forbidden", "not your cat"},
		{weir.Errorf(weir.Unavailable, "the cat is out"), 503, "service_unavailable", "the cat is out"},
		{context.DeadlineExceeded, 504, "gateway_timeout", "it was not done in time"},
		{errors.New("disk /secret/place: I/O error"), 500, "server_error", "Weir could not do this"},
	} {
		f.err = c.err
		a := r.ask("GET", "/v2/weir/status", "")
		if a.status != c.status || a.body["id"] != c.id || !strings.HasPrefix(a.body["message"].(string), c.text) {
			t.Errorf("%v: %d %s, want %d %s %q", c.err, a.status, a.text, c.status, c.id, c.text)
		}
		if retry := a.header.Get("Retry-After"); (retry != "") != (c.status == 503) {
			t.Errorf("%v: Retry-After %q", c.err, retry)
		}
		if strings.Contains(a.text, "secret") {
			t.Errorf("what is for the log alone is in the answer: %s", a.text)
		}
		if c.status == 500 && (!strings.Contains(r.log.String(), "/secret/place") || !strings.Contains(r.log.String(), a.body["request_id"].(string))) {
			t.Errorf("the log has not the reason beside the request's ID: %s", r.log)
		}
	}
}

func TestAPanicIsAnsweredAndLogged(t *testing.T) {
	r := newRegion(t, cloud.FakeOptions{}, func(c api.Control) api.Control { return &faulty{Control: c} })
	a := r.ask("GET", "/v2/weir/status", "")
	if a.status != 500 || a.body["id"] != "server_error" {
		t.Errorf("%d %s, want 500", a.status, a.text)
	}
	if !strings.Contains(r.log.String(), "the sky falls") || !strings.Contains(r.log.String(), a.body["request_id"].(string)) {
		t.Errorf("the log has not the panic beside the request's ID: %s", r.log)
	}
	if a := r.ask("GET", "/v2/account", ""); a.status != 200 {
		t.Errorf("afterwards: %d %s, want 200", a.status, a.text)
	}
}

func TestWhoeverHasNoTokenLearnsNothing(t *testing.T) {
	r := lab(t)
	for _, authorization := range []string{"", "Bearer", "Bearer ", "Bearer sesam", "Bearer sesame2", "Basic sesame", "sesame", "Bearer sesame sesame"} {
		for _, path := range []string{"/v2/droplets", "/v2/droplets/1", "/v2/nothing", "/nothing", "/v2/weir/status"} {
			a := r.askWith("GET", path, "", authorization)
			if a.status != 401 || a.body["id"] != "unauthorized" || a.body["message"] != "Unable to authenticate you" {
				t.Errorf("%q %s: %d %s, want 401", authorization, path, a.status, a.text)
			}
		}
	}
	for _, authorization := range []string{"Bearer sesame", "bearer sesame", "Bearer  sesame"} {
		if a := r.askWith("GET", "/v2/account", "", authorization); a.status != 200 {
			t.Errorf("%q: %d %s, want 200", authorization, a.status, a.text)
		}
	}
}

func TestThePageIsForThisMachineWithoutAToken(t *testing.T) {
	r := lab(t)
	if a := r.askWith("GET", "/", "", ""); a.status != 200 || a.text != "the page" {
		t.Errorf("%d %s, want the page", a.status, a.text)
	}
	req, err := http.NewRequest("GET", r.url+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example:7070" // a name that somebody has pointed to 127.0.0.1
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("by a stranger's name: %d, want 401", resp.StatusCode)
	}
}

func TestEveryAnswerHasItsRequestID(t *testing.T) {
	r := lab(t)
	seen := map[string]bool{}
	for _, c := range [][2]string{{"GET", "/v2/droplets"}, {"GET", "/v2/droplets/1"}, {"GET", "/v2/nothing"}, {"PATCH", "/v2/droplets"}, {"GET", "/"}, {"DELETE", "/v2/droplets?tag_name=x"}} {
		a := r.ask(c[0], c[1], "")
		id := a.header.Get("X-Request-Id")
		if !regexp.MustCompile(`^[0-9a-f-]{36}$`).MatchString(id) || seen[id] {
			t.Errorf("%v: X-Request-Id %q, want a new one", c, id)
		}
		seen[id] = true
		if got, ok := a.body["request_id"]; ok && got != id {
			t.Errorf("%v: request_id %v in the body, %s in the header", c, got, id)
		}
	}
}

func TestWhatIsNotThereIs404InJSON(t *testing.T) {
	r := lab(t)
	for _, path := range []string{"/v2", "/v2/", "/v2/kubernetes/clusters", "/v3/droplets", "/v2/droplets/", "//v2/droplets", "/v2//droplets", "/v2/../v2/droplets",
		"/v2/droplets/0", "/v2/droplets/01", "/v2/droplets/-1", "/v2/droplets/x", "/v2/droplets/99999999999999999999", "/v2/droplets/7/actions", "/v2/droplets/7/actions/8",
		"/v2/actions/7", "/v2/load_balancers/x", "/v2/load_balancers/..%2F..%2Fx", "/v2/load_balancers/%00", "/v2/images/none", "/v2/images/7",
		"/v2/weir/pools/none/one", "/v2/weir/load_balancers/none/config", "/v2/weir/droplets/7/boot", "/favicon.ico"} {
		a := r.ask("GET", path, "")
		text, _ := a.body["message"].(string)
		if a.status != 404 || a.body["id"] != "not_found" || !strings.HasPrefix(text, "The resource you were accessing could not be found.") {
			t.Errorf("%s: %d %s, want 404", path, a.status, a.text)
		}
	}
}

func TestAMethodThatAResourceHasNotIs405(t *testing.T) {
	r := lab(t)
	a := r.ask("PATCH", "/v2/droplets", "{}")
	if a.status != 405 || a.body["id"] != "method_not_allowed" || a.header.Get("Allow") != "DELETE, GET, HEAD, POST" {
		t.Errorf("%d %s, Allow %q: want 405 with what is allowed", a.status, a.text, a.header.Get("Allow"))
	}
	if a := r.ask("POST", "/", "{}"); a.status != 405 {
		t.Errorf("POST /: %d %s, want 405", a.status, a.text)
	}
}

func TestHeadIsGetWithoutItsBody(t *testing.T) {
	r := lab(t)
	for path, status := range map[string]int{"/v2/droplets": 200, "/v2/load_balancers?names=x": 200, "/v2/droplets/7": 404, "/v2/nothing": 404, "/v2/tags?page=x": 422} {
		a := r.ask("HEAD", path, "")
		if a.status != status || a.text != "" || a.header.Get("X-Request-Id") == "" || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: %d %q %v, want %d with the headers of GET and no body", path, a.status, a.text, a.header, status)
		}
	}
	if a := r.askWith("HEAD", "/v2/droplets", "", "Bearer none"); a.status != 401 {
		t.Errorf("without a token: %d, want 401", a.status)
	}
}

func TestAQueryThatCannotBeReadIsRefused(t *testing.T) {
	r := lab(t)
	r.droplets([]string{"a"}, "web")
	for query, want := range map[string]string{
		"tag_name=%zz":                        `the query cannot be read: invalid URL escape "%zz"`,
		"tag_name=web;type=droplets":          "the query cannot be read: invalid semicolon separator in query",
		strings.Repeat("tag_name=none&", 2e4): "the query cannot be read: ",
	} {
		for _, method := range []string{"GET", "DELETE"} {
			a := r.ask(method, "/v2/droplets?"+query, "")
			if message, _ := a.body["message"].(string); a.status != 400 || !strings.HasPrefix(message, want) {
				t.Errorf("%s %.30s: %d %.200s, want 400 %s", method, query, a.status, a.text, want)
			}
		}
	}
	if a := r.ask("GET", "/v2/droplets?tag_name=none", ""); a.status != 200 {
		t.Errorf("%d %s, want 200", a.status, a.text)
	}
}

func TestABodyThatIsNotWhatItShouldBe(t *testing.T) {
	r := lab(t)
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{"", 400, "the body is empty, want a JSON object"},
		{"{", 400, "the body ends in the middle of its JSON"},
		{"name=x", 400, "the body is not JSON: "},
		{`{"name": "x"} {"name": "y"}`, 400, "the body is not JSON: something follows the JSON value"},
		{`[1]`, 422, "the body is a JSON array, want an object"},
		{`"x"`, 422, "the body is a JSON string, want an object"},
		{`{"name": 1}`, 422, "name is a number, want a string"},
		{`{"name": {}}`, 422, "name is an object, want a string"},
		{`{"name": []}`, 422, "name is an array, want a string"},
		{`{"name": "` + long(1<<20) + `"}`, 413, "the body is longer than 1048576 bytes"},
		{strings.Repeat(`{"name":`, 100000), 400, "the body is not JSON: "},
	} {
		a := r.ask("POST", "/v2/tags", c.body)
		if message, _ := a.body["message"].(string); a.status != c.status || !strings.HasPrefix(message, c.want) {
			t.Errorf("%.30s: %d %s, want %d %s", c.body, a.status, a.text, c.status, c.want)
		}
	}
	if a := r.ask("POST", "/v2/tags", `null`); a.status != 422 {
		t.Errorf("null: %d %s, want 422", a.status, a.text)
	}
}
