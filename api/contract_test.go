package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"weir/api"
)

// described is the OpenAPI document, in which no answer has more than is written there.
var described = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI())
	if err != nil {
		return nil, err
	}
	seen := map[*openapi3.Schema]bool{}
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			for _, r := range op.Responses.Map() {
				for _, content := range r.Value.Content {
					confine(content.Schema, seen)
				}
			}
		}
	}
	return doc, nil
})

// confine has the objects of a schema be nothing but what it names.
func confine(s *openapi3.SchemaRef, seen map[*openapi3.Schema]bool) {
	if s == nil || seen[s.Value] {
		return
	}
	seen[s.Value] = true
	if s.Value.Type.Is("object") && s.Value.AdditionalProperties.Schema == nil {
		no := false
		s.Value.AdditionalProperties.Has = &no
	}
	confine(s.Value.Items, seen)
	for _, p := range s.Value.Properties {
		confine(p, seen)
	}
	for _, p := range slices.Concat(s.Value.AllOf, s.Value.OneOf) {
		confine(p, seen)
	}
}

// contract holds all that h is asked and answers to the OpenAPI document.
func contract(t testing.TB, h http.Handler) http.Handler {
	t.Helper()
	doc, err := described()
	if err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, err := io.ReadAll(r.Body)
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(asked), failing{err}), r.Body}
		heard := &echo{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(heard, r)
		if r.Method == http.MethodHead {
			return // it is GET without the body
		}
		if err := keeps(doc, r, asked, heard); err != nil {
			t.Errorf("%s %s was answered with %d, which is not as openapi.yaml has it: %v\nbody: %.300s\nanswer: %.2000s", r.Method, r.URL, heard.status, err, asked, heard.body.Bytes())
		}
	})
}

// failing fails with an error, or ends.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

// echo hears what is answered.
type echo struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (e *echo) WriteHeader(status int) {
	e.status = status
	e.ResponseWriter.WriteHeader(status)
}

func (e *echo) Write(b []byte) (int, error) {
	e.body.Write(b)
	return e.ResponseWriter.Write(b)
}

func (e *echo) Unwrap() http.ResponseWriter { return e.ResponseWriter }

// keeps returns what of a request and its answer the document does not have.
func keeps(doc *openapi3.T, r *http.Request, asked []byte, heard *echo) error {
	_, path, _ := strings.Cut(r.Pattern, " ")
	if path != "" && !strings.HasPrefix(path, "/v2/") {
		return nil // the pages
	}
	if heard.Header().Get("X-Request-Id") == "" {
		return fmt.Errorf("it has no X-Request-Id")
	}
	if path == "" { // no route
		return fits(doc.Components.Schemas["Error"], heard.body.Bytes())
	}
	op := doc.Paths.Find(path).GetOperation(r.Method)
	answer := op.Responses.Status(heard.status)
	if answer == nil {
		if heard.status < 400 {
			return fmt.Errorf("the status is not there")
		}
		answer = op.Responses.Default()
	}
	for name, h := range answer.Value.Headers {
		if h.Value.Required && heard.Header().Get(name) == "" {
			return fmt.Errorf("the header %s is missing", name)
		}
	}
	kind, _, _ := strings.Cut(heard.Header().Get("Content-Type"), ";")
	content := answer.Value.Content[kind]
	switch {
	case content == nil && len(answer.Value.Content) == 0 && heard.body.Len() > 0:
		return fmt.Errorf("it should have no body")
	case content == nil && len(answer.Value.Content) > 0:
		return fmt.Errorf("its type is %q", kind)
	case kind == "application/json":
		if err := fits(content.Schema, heard.body.Bytes()); err != nil {
			return err
		}
	}
	if heard.status < 300 && op.RequestBody != nil && len(asked) > 0 {
		var body any
		if err := json.Unmarshal(asked, &body); err != nil {
			return err
		}
		if err := op.RequestBody.Value.Content["application/json"].Schema.Value.VisitJSON(withoutNulls(body)); err != nil {
			return fmt.Errorf("the body was accepted: %w", err)
		}
	}
	return nil
}

// fits returns why JSON is not what a schema says.
func fits(s *openapi3.SchemaRef, text []byte) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	return s.Value.VisitJSON(v)
}

// withoutNulls returns what is read of a body: nulls are ignored.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		maps.DeleteFunc(v, func(_ string, e any) bool { return e == nil })
		for key, e := range v {
			v[key] = withoutNulls(e)
		}
	case []any:
		for i, e := range v {
			v[i] = withoutNulls(e)
		}
	}
	return v
}

// TestHandlersReadWhatOpenAPISays gives each field of each body that the document has a value of a wrong
// type: a handler that reads the field refuses it by its name.
func TestHandlersReadWhatOpenAPISays(t *testing.T) {
	r := lab(t)
	id := func(a answer, root, key string) string {
		t.Helper()
		thing, _ := a.body[root].(map[string]any)
		if thing == nil || thing[key] == nil {
			t.Fatalf("%d %s, want %s.%s", a.status, a.text, root, key)
		}
		if n, ok := thing[key].(float64); ok {
			return fmt.Sprint(int64(n))
		}
		return thing[key].(string)
	}
	droplet := fmt.Sprint(r.droplets([]string{"a"}, "web")[0].ID)
	vpc := r.ask("GET", "/v2/vpcs", "").body["vpcs"].([]any)[0].(map[string]any)["id"].(string)
	const rule = `{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}`
	values := []struct{ path, value string }{
		{"/v2/droplets/autoscale/{id}", id(r.ask("POST", "/v2/droplets/autoscale", `{"name": "p", "config": {"target_number_instances": 1}, "droplet_template": {"size": "s-1vcpu-1gb", "region": "lab", "image": "debian-12-x64", "ssh_keys": [], "tags": []}}`), "autoscale_pool", "id")},
		{"/v2/droplets/{id}", droplet},
		{"/v2/weir/machines/{id}", droplet},
		{"/v2/account/keys/{id}", id(r.ask("POST", "/v2/account/keys", `{"name": "k", "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl a"}`), "ssh_key", "id")},
		{"/v2/load_balancers/{id}", id(r.ask("POST", "/v2/load_balancers", `{"name": "shop", "region": "lab", "forwarding_rules": [`+rule+`]}`), "load_balancer", "id")},
		{"/v2/weir/load_balancers/{id}", "shop"},
		{"/v2/firewalls/{id}", id(r.ask("POST", "/v2/firewalls", `{"name": "f", "inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": {"addresses": ["0.0.0.0/0"]}}]}`), "firewall", "id")},
		{"/v2/vpcs/{id}", vpc},
		{"/v2/projects/{id}", "default"},
		{"/v2/tags/{name}", "web"},
		{"/v2/weir/pools/{name}", "p"},
		{"/v2/reserved_ips/{ip}", id(r.ask("POST", "/v2/reserved_ips", `{"region": "lab"}`), "reserved_ip", "ip")},
		{"/v2/floating_ips/{ip}", id(r.ask("POST", "/v2/floating_ips", `{"region": "lab"}`), "floating_ip", "ip")},
		{"/v2/reserved_ipv6/{ip}", id(r.ask("POST", "/v2/reserved_ipv6", `{"region_slug": "lab"}`), "reserved_ipv6", "ip")},
	}
	doc, err := described()
	if err != nil {
		t.Fatal(err)
	}
	fields := 0
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.RequestBody == nil {
				continue
			}
			at := path
			for _, v := range values {
				if rest, ok := strings.CutPrefix(at, v.path); ok {
					at = v.path[:strings.Index(v.path, "{")] + v.value + rest
				}
			}
			if op.Parameters.GetByInAndName("query", "tag_name") != nil {
				at += "?tag_name=web"
			}
			for field, body := range wrong(op.RequestBody.Value.Content["application/json"].Schema.Value) {
				fields++
				if a := r.ask(method, at, body); a.status != 422 || !strings.Contains(a.text, field+" is a") {
					t.Errorf("%s %s %s: %d %s, want a 422 that says of what type %s is: does the handler read it?", method, at, body, a.status, a.text, field)
				}
			}
		}
	}
	if fields < 100 {
		t.Errorf("only %d fields were tried", fields)
	}
}

// wrong returns for each field of an object, however deep, a body in which it is of a wrong type.
func wrong(s *openapi3.Schema) map[string]string {
	bodies := map[string]string{}
	for name, p := range s.Properties {
		v := p.Value
		if len(v.AllOf) == 1 {
			v = v.AllOf[0].Value
		}
		in, out := `{"`+name+`":`, "}"
		value := `"no"`
		switch {
		case len(v.OneOf) > 0, v.Type.Is("string"):
			value = `{}`
		case v.Type.Is("array"):
			for field, body := range wrong(v.Items.Value) {
				bodies[field] = in + "[" + body + "]" + out
			}
		case v.Type.Is("object"):
			for field, body := range wrong(v) {
				bodies[field] = in + body + out
			}
		case v.Type == nil: // anything goes
			continue
		}
		bodies[name] = in + value + out
	}
	return bodies
}

func TestDescriptionOfTheAPIIsForEverybody(t *testing.T) {
	r := lab(t)
	a := r.askWith("GET", "/openapi.yaml", "", "")
	if a.status != 200 || a.text != string(api.OpenAPI()) || a.header.Get("Content-Type") != "application/yaml; charset=utf-8" {
		t.Errorf("%d %s %.80q, want 200 and the document", a.status, a.header.Get("Content-Type"), a.text)
	}
	if a := r.askWith("GET", "/docs", "", ""); a.status != 401 {
		t.Errorf("without the page: %d %s, want the 401 of what is no route", a.status, a.text)
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "how to call") })
	r = r.door(api.Options{Docs: page})
	for _, host := range []string{"127.0.0.1", "weir.example"} { // from elsewhere too
		req, err := http.NewRequest("GET", r.url+"/docs", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(text) != "how to call" {
			t.Errorf("for %s: %d %q (%v), want the page", host, resp.StatusCode, text, err)
		}
	}
}
