package api

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/goccy/go-yaml"

	"weir/edge"
	"weir/weir"
)

var update = flag.Bool("update", false, "write openapi.yaml anew")

// group is what belongs together for who reads the document.
type group struct {
	name, says string
	routes     []route
}

// route is what the document says of one route.
type route struct {
	at, says, more string
	query          []parameter
	header         string // that must be true
	body           any    // of the type that is read, or nil
	ok, also       answer // also: if the zero answer, there is one alone
	errs           []int  // beside those that follow from the rest
}

// parameter is one of the query. Its kind ends in ! if it must be there.
type parameter struct{ name, kind, says string }

// answer is a success: a status, and a body that is of a wire type, an object, either of some,
// text, or nil.
type answer struct {
	status int
	body   any
	paged  bool
}

type (
	object []field
	field  struct {
		name string
		of   any
	}
	either []any
	text   string
	lines  struct{ of any } // each an object, as they come
)

var (
	nothing = answer{204, nil, false}
	refused = answer{} // whatever is asked
)

func made(status int, root string, of any) answer {
	return answer{status, object{{root, of}}, false}
}
func one(root string, of any) answer { return made(200, root, of) }

func page(root string, of any) answer { return answer{200, listOf(root, of), true} }

func listOf(root string, of any) object {
	return object{{root, reflect.Zero(reflect.SliceOf(reflect.TypeOf(of))).Interface()}, {"links", links{}}, {"meta", meta{}}}
}

// generator makes the document.
type generator struct {
	comments map[string]string // of types, and of fields as Type.Field, by package: weir.Boot.End
	values   map[string][]value
	answered map[reflect.Type]bool // it is in an answer
	schemas  map[string]yaml.MapSlice
	from     map[string]reflect.Type
	silent   []string        // fields of Weir's own that nothing is said of
	used     map[string]bool // of said, usual and must
}

// value is one of the values of a type of strings.
type value struct{ is, says string }

// y is a mapping in that order, without what is nil.
func y(pairs ...any) yaml.MapSlice {
	var m yaml.MapSlice
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != nil && pairs[i+1] != "" {
			m = append(m, yaml.MapItem{Key: pairs[i], Value: pairs[i+1]})
		}
	}
	return m
}

func ref(kind, name string) yaml.MapSlice { return y("$ref", "#/components/"+kind+"/"+name) }

// read takes the comments and the values from the source of a package.
func (g *generator) read(t *testing.T, dir, pkg string) {
	files, err := fs.Glob(os.DirFS(dir), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), dir+"/"+name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if gen, ok := d.(*ast.GenDecl); ok {
				g.readDecl(pkg, gen)
			}
		}
	}
}

func (g *generator) readDecl(pkg string, gen *ast.GenDecl) {
	for _, spec := range gen.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			of := pkg + "." + spec.Name.Name
			g.comments[of] = line(cmp.Or(spec.Doc.Text(), gen.Doc.Text()))
			fields, ok := spec.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range fields.Fields.List {
				for _, name := range f.Names {
					g.comments[of+"."+name.Name] = line(f.Comment.Text())
				}
			}
		case *ast.ValueSpec:
			kind, ok := spec.Type.(*ast.Ident)
			if !ok || gen.Tok != token.CONST {
				continue
			}
			lit, ok := spec.Values[0].(*ast.BasicLit)
			if !ok {
				continue
			}
			if is, err := strconv.Unquote(lit.Value); err == nil && is != "" {
				g.values[pkg+"."+kind.Name] = append(g.values[pkg+"."+kind.Name], value{is, line(spec.Comment.Text())})
			}
		}
	}
}

var link = regexp.MustCompile(`\[([A-Za-z.]+)\]`)

// line is a comment as one line, without links.
func line(comment string) string {
	return link.ReplaceAllString(strings.Join(strings.Fields(comment), " "), "$1")
}

// goName is a type as comments are found by it.
func goName(t reflect.Type) string {
	return strings.TrimPrefix(t.PkgPath(), "weir/") + "." + t.Name()
}

// own reports whether a type is Weir's and not DigitalOcean's.
func own(t reflect.Type) bool {
	return strings.HasPrefix(goName(t), "weir.") || strings.HasSuffix(t.Name(), "Weir") || t.Name() != "" && unicode.IsUpper(rune(t.Name()[0])) && t != reflect.TypeFor[ForwardingRule]() && t != reflect.TypeFor[HealthCheck]()
}

// schema returns the schema of a Go type; of what a handler reads if in, otherwise of what it writes.
func (g *generator) schema(t reflect.Type, in bool) yaml.MapSlice {
	switch t {
	case reflect.TypeFor[time.Time]():
		return y("type", "string", "format", "date-time")
	case reflect.TypeFor[time.Duration]():
		return y("type", "integer", "format", "int64")
	case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix](), reflect.TypeFor[netip.AddrPort](), reflect.TypeFor[text]():
		return y("type", "string")
	case reflect.TypeFor[word]():
		if in {
			return y("oneOf", []any{y("type", "string"), y("type", "integer", "format", "int64")})
		}
		return y("type", "string")
	case reflect.TypeFor[anything]():
		return yaml.MapSlice{}
	case reflect.TypeFor[pointWire]():
		return y("type", "array", "minItems", 2, "maxItems", 2, "description", "A time in seconds since 1970, and a value in words.",
			"items", y("oneOf", []any{y("type", "integer", "format", "int64"), y("type", "string")}))
	}
	switch t.Kind() {
	case reflect.Pointer:
		return g.schema(t.Elem(), in)
	case reflect.Struct:
		if t.Name() == "" {
			return y("type", "object")
		}
		return ref("schemas", g.component(t, in))
	case reflect.Slice:
		return y("type", "array", "items", g.schema(t.Elem(), in))
	case reflect.Array:
		return y("type", "array", "minItems", t.Len(), "maxItems", t.Len(), "items", g.schema(t.Elem(), in))
	case reflect.Map:
		return y("type", "object", "additionalProperties", g.schema(t.Elem(), in))
	case reflect.Interface:
		return yaml.MapSlice{}
	case reflect.String:
		if t == reflect.TypeFor[weir.Scope]() || len(g.values[goName(t)]) == 0 {
			return y("type", "string")
		}
		return ref("schemas", g.enum(t))
	case reflect.Bool:
		return y("type", "boolean")
	case reflect.Int, reflect.Int64:
		return y("type", "integer", "format", "int64")
	case reflect.Float64:
		return y("type", "number")
	}
	panic("no schema of " + t.String())
}

func (g *generator) enum(t reflect.Type) string {
	var is []any
	says := sentence(g.comments[goName(t)])
	for _, v := range g.values[goName(t)] {
		is = append(is, v.is)
		if v.says != "" {
			says += "\n- `" + v.is + "`: " + v.says
		}
	}
	g.add(t.Name(), t, y("description", strings.TrimSpace(says), "type", "string", "enum", is))
	return t.Name()
}

func (g *generator) add(name string, t reflect.Type, s yaml.MapSlice) {
	if other, ok := g.from[name]; ok && other != t {
		panic(fmt.Sprintf("%s and %s are both %s in the document: give one another name in called", t, other, name))
	}
	g.schemas[name], g.from[name] = s, t
}

// title is the name of a type in the document.
func title(t reflect.Type) string {
	if name, ok := called[t]; ok {
		return name
	}
	name := strings.TrimSuffix(t.Name(), "Wire")
	return strings.ToUpper(name[:1]) + name[1:]
}

// component returns the name of the schema of a struct, which it makes.
func (g *generator) component(t reflect.Type, in bool) string {
	name := title(t)
	if !in {
		g.answered[t] = true
	} else if g.answered[t] {
		name += "Request"
	}
	if g.from[name] == t {
		return name
	}
	g.add(name, t, nil)
	var properties yaml.MapSlice
	var required []any
	for _, f := range jsonFields(t) {
		key, optional := jsonKey(f)
		s := g.schema(f.Type, in)
		null := f.Type.Kind() == reflect.Pointer && !in && !optional
		says := sentence(cmp.Or(g.take(said, title(t)+"."+key), g.take(said, title(f.owner)+"."+key), g.comments[goName(f.owner)+"."+f.Name], g.take(usual, key)))
		if says == "" && own(f.owner) {
			g.silent = append(g.silent, title(t)+"."+key)
		}
		if len(s) == 1 && s[0].Key == "$ref" && (says != "" || null) {
			s = y("allOf", []any{s})
		}
		if null {
			s = append(s, yaml.MapItem{Key: "nullable", Value: true})
		}
		if says != "" && (len(s) == 0 || s[len(s)-1].Key != "description") {
			s = append(y("description", says), s...)
		}
		properties = append(properties, yaml.MapItem{Key: key, Value: s})
		needed := in && slices.Contains(must[t.Name()], key)
		if needed {
			g.used[t.Name()+" needs "+key] = true
		}
		if !in && !optional || needed {
			required = append(required, key)
		}
	}
	s := y("description", g.about(t), "type", "object")
	if len(required) > 0 {
		s = append(s, yaml.MapItem{Key: "required", Value: required})
	}
	if len(properties) > 0 {
		s = append(s, yaml.MapItem{Key: "properties", Value: properties})
	}
	g.add(name, t, s)
	return name
}

// about is what is said of a type; nothing of DigitalOcean's.
func (g *generator) about(t reflect.Type) string {
	says := g.take(said, title(t))
	if says == "" && strings.HasPrefix(goName(t), "weir.") {
		says = g.comments[goName(t)]
	}
	return sentence(says)
}

// take returns what a table says under a key.
func (g *generator) take(table map[string]string, key string) string {
	if table[key] != "" {
		g.used[key] = true
	}
	return table[key]
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	first := []rune(s)
	if len(first) < 2 || !unicode.IsUpper(first[1]) { // not IDs
		first[0] = unicode.ToUpper(first[0])
	}
	s = string(first)
	if strings.ContainsAny(s[len(s)-1:], ".…") {
		return s
	}
	return s + "."
}

// owned is a field with the struct that declares it.
type owned struct {
	reflect.StructField
	owner reflect.Type
}

// jsonFields returns the fields of a struct that JSON has, those of what it embeds included.
func jsonFields(t reflect.Type) (all []owned) {
	for f := range t.Fields() {
		if f.Anonymous && f.Tag.Get("json") == "" {
			all = append(all, jsonFields(f.Type)...)
			continue
		}
		if f.Tag.Get("json") == "-" || !f.IsExported() {
			continue
		}
		all = append(all, owned{f, t})
	}
	return all
}

func jsonKey(f owned) (key string, optional bool) {
	key, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	return key, strings.HasPrefix(options, "omit")
}

// body returns the schema of what is answered.
func (g *generator) body(v any) yaml.MapSlice {
	switch v := v.(type) {
	case object:
		var properties yaml.MapSlice
		var required []any
		for _, f := range v {
			s := g.body(f.of)
			if t := reflect.TypeOf(f.of); t.Kind() == reflect.Pointer {
				s = append(s, yaml.MapItem{Key: "nullable", Value: true})
			}
			properties, required = append(properties, yaml.MapItem{Key: f.name, Value: s}), append(required, f.name)
		}
		if len(v) == 0 {
			return y("type", "object")
		}
		return y("type", "object", "required", required, "properties", properties)
	case either:
		var of []any
		for _, e := range v {
			of = append(of, g.body(e))
		}
		return y("oneOf", of)
	}
	return g.schema(reflect.TypeOf(v), false)
}

var statusWords = map[int]string{400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 412: "PreconditionFailed",
	413: "TooLong", 422: "Unprocessable", 429: "TooMany", 503: "Unavailable", 504: "NotYet"}

var statusSays = map[int]string{
	400: "The body is no JSON, or the query cannot be read.", 401: "There is no token, or it is not known.", 403: "The token lacks the scope that is in weir.scope; or what is asked is not done to this thing.",
	404: "There is no such thing, or it is another team's.", 409: "It cannot be done now: the message says why.", 412: "It cannot be done before something else is: the message says what.",
	413: "The body is longer than 1 MiB.", 422: "It cannot be: the message names the field, the value, the rule, and what to do instead.",
	429: "The token has asked too often. Retry-After says how many seconds to wait.", 503: "The control plane cannot decide now. Retry-After says when to try again.", 504: "It is not done yet, and may be done later."}

var pathParameter = regexp.MustCompile(`\{(\w+)\}`)

func (g *generator) operation(of group, r route) yaml.MapSlice {
	method, path, _ := strings.Cut(r.at, " ")
	need, _ := edge.Need(r.at)
	var parameters []any
	for _, m := range pathParameter.FindAllStringSubmatch(path, -1) {
		for _, p := range pathParameters {
			if p.name == m[1] && strings.HasPrefix(path, p.below) {
				parameters = append(parameters, y("name", p.name, "in", "path", "required", true, "description", p.says, "schema", y("type", p.kind)))
				break
			}
		}
	}
	for _, p := range r.query {
		kind, required := strings.CutSuffix(p.kind, "!")
		s := y("type", kind)
		if kind == "strings" {
			s = y("type", "array", "items", y("type", "string"))
		}
		q := y("name", p.name, "in", "query", "description", p.says, "schema", s)
		if required {
			q = append(q, yaml.MapItem{Key: "required", Value: true})
		}
		parameters = append(parameters, q)
	}
	if r.ok.paged {
		parameters = append(parameters, ref("parameters", "page"), ref("parameters", "per_page"))
	}
	if r.header != "" {
		parameters = append(parameters, y("name", r.header, "in", "header", "required", true, "description", "Want true, so that nobody does this by accident.", "schema", y("type", "string")))
	}
	var body any
	errs := append([]int{401, 403, 429}, r.errs...)
	if len(pathParameter.FindString(path)) > 0 {
		errs = append(errs, 404)
	}
	if r.body != nil {
		schema := g.schema(reflect.TypeOf(r.body), true)
		body = y("required", r.at != "POST /v2/weir/load_balancers/{id}/failover", "content", y("application/json", y("schema", schema)))
		errs = append(errs, 400, 413)
	}
	if len(r.query) > 0 || r.ok.paged {
		errs = append(errs, 400)
	}
	if r.body != nil || len(r.query) > 0 || r.ok.paged || r.header != "" || r.ok.status == 0 {
		errs = append(errs, 422)
	}
	slices.Sort(errs)
	var responses yaml.MapSlice
	for _, a := range []answer{r.also, r.ok} {
		if a.status != 0 {
			responses = append(responses, yaml.MapItem{Key: strconv.Itoa(a.status), Value: g.response(a)})
		}
	}
	for _, status := range slices.Compact(errs) {
		responses = append(responses, yaml.MapItem{Key: strconv.Itoa(status), Value: ref("responses", statusWords[status])})
	}
	responses = append(responses, yaml.MapItem{Key: "default", Value: ref("responses", "Error")})

	id := strings.ToLower(method) + strings.NewReplacer("/v2/", "-", "/", "-", "{", "", "}", "", "_", "-").Replace(path)
	op := y("operationId", id, "tags", []any{of.name}, "summary", r.says, "description", r.more, "x-weir-scope", string(need))
	if parameters != nil {
		op = append(op, yaml.MapItem{Key: "parameters", Value: parameters})
	}
	return append(op, y("requestBody", body, "responses", responses)...)
}

var answerHeaders = []struct{ name, kind, says string }{
	{"X-Request-Id", "string", "The ID of the answer, which is in the audit log and beside errors in Weir's log."},
	{"RateLimit-Limit", "integer", "How many requests the token has in an hour."},
	{"RateLimit-Remaining", "integer", "How many of them are left."},
	{"RateLimit-Reset", "integer", "When the oldest of them is forgotten, in seconds since 1970."},
}

func (g *generator) response(a answer) yaml.MapSlice {
	says := map[int]string{200: "Done.", 201: "Made.", 202: "Accepted: it is stored, and the work follows.", 204: "Done; there is nothing to say."}[a.status]
	var headers yaml.MapSlice
	for _, h := range answerHeaders {
		headers = append(headers, yaml.MapItem{Key: h.name, Value: ref("headers", h.name)})
	}
	r := y("description", says, "headers", headers)
	switch a.body.(type) {
	case nil:
		return r
	case lines:
		return append(r, y("content", y("application/x-ndjson", y("schema", g.body(a.body.(lines).of))))...)
	case text:
		headers = append(headers, yaml.MapItem{Key: LiveHeader, Value: y("description", "Whether the configuration is live.", "required", true, "schema", y("type", "string", "enum", []any{"true", "false"}))})
		return y("description", says, "headers", headers, "content", y("text/plain", y("schema", y("type", "string"))))
	}
	return append(r, y("content", y("application/json", y("schema", g.body(a.body))))...)
}

const aboutAPI = `DigitalOcean's API v2 for load balancing and what belongs to it, answered by a Weir on machines of your own, and Weir's own calls below /v2/weir/.

DigitalOcean's clients work here by a changed URL; what the Kubernetes cloud controller needs beside it is in docs/clients.md. What an answer says is what Weir does: a field that Weir cannot honour is refused with 422 and a sentence that says what to do instead. Unknown fields and nulls are ignored, and a field that has DigitalOcean's default is accepted. What DigitalOcean has no word for is below the key weir of an answer; that key is left out when it has nothing to say.

A token goes into the header Authorization, behind the word Bearer. x-weir-scope names the scope that it needs. A token of one team sees nothing of another's.

Lists have pages: page counts from 1, and per_page is 20, or up to 200. Links has the pages beside the one that is shown, and meta the number of all.

Errors have an id, which is the status in words, a message of one sentence, and a request_id.

A token has 5,000 requests an hour and 250 a minute, unless who runs the control plane says otherwise; the RateLimit headers say how many are left.`

// document returns the whole document.
func (g *generator) document() ([]byte, error) {
	var paths yaml.MapSlice
	for range 2 { // the second time it is known what is answered
		g.schemas, g.from, g.silent = map[string]yaml.MapSlice{}, map[string]reflect.Type{}, nil
		g.component(reflect.TypeFor[errorBody](), false)
		paths = g.paths()
	}
	var tags []any
	for _, of := range reference {
		tags = append(tags, y("name", of.name, "description", of.says))
	}
	var headers, responses, schemas yaml.MapSlice
	for _, h := range answerHeaders {
		headers = append(headers, yaml.MapItem{Key: h.name, Value: y("description", h.says, "schema", y("type", h.kind))})
	}
	failure := func(says string) yaml.MapSlice {
		return y("description", says, "content", y("application/json", y("schema", ref("schemas", "Error"))))
	}
	for _, status := range slices.Sorted(maps.Keys(statusSays)) {
		responses = append(responses, yaml.MapItem{Key: statusWords[status], Value: failure(statusSays[status])})
	}
	responses = append(responses, yaml.MapItem{Key: "Error", Value: failure("Anything else that is no success.")})
	for _, name := range slices.Sorted(maps.Keys(g.schemas)) {
		schemas = append(schemas, yaml.MapItem{Key: name, Value: g.schemas[name]})
	}
	doc := y("openapi", "3.0.3",
		"info", y("title", "Weir", "version", "2.0", "description", aboutAPI),
		"servers", []any{y("url", "/")},
		"security", []any{y("bearer", []any{})},
		"tags", tags, "paths", paths,
		"components", y(
			"securitySchemes", y("bearer", y("type", "http", "scheme", "bearer", "description", "A token, which weir token makes.")),
			"parameters", y(
				"page", y("name", "page", "in", "query", "description", "Which page, from 1.", "schema", y("type", "integer", "default", 1)),
				"per_page", y("name", "per_page", "in", "query", "description", "How many on a page: 200 at most.", "schema", y("type", "integer", "default", defaultPage))),
			"headers", headers, "responses", responses, "schemas", schemas))
	out, err := yaml.MarshalWithOptions(doc, yaml.Indent(2), yaml.UseLiteralStyleIfMultiline(true))
	return append([]byte("# Made from the routes and the wire types: go test ./api -run OpenAPI -update\n"), out...), err
}

func (g *generator) paths() (paths yaml.MapSlice) {
	for _, of := range reference {
		for _, r := range of.routes {
			method, path, _ := strings.Cut(r.at, " ")
			i := slices.IndexFunc(paths, func(p yaml.MapItem) bool { return p.Key == path })
			if i < 0 {
				paths = append(paths, yaml.MapItem{Key: path, Value: yaml.MapSlice{}})
				i = len(paths) - 1
			}
			paths[i].Value = append(paths[i].Value.(yaml.MapSlice), yaml.MapItem{Key: strings.ToLower(method), Value: g.operation(of, r)})
		}
	}
	return paths
}

func TestOpenAPIIsWhatTheRoutesAndTheWireTypesSay(t *testing.T) {
	g := &generator{comments: map[string]string{}, values: map[string][]value{}, answered: map[reflect.Type]bool{}, used: map[string]bool{}}
	g.read(t, ".", "api")
	g.read(t, "../weir", "weir")
	want, err := g.document()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range g.silent {
		t.Errorf("nothing is said of %s: say in a comment behind the field, or in said in reference_test.go, what it is", name)
	}
	keys := slices.AppendSeq(slices.Collect(maps.Keys(said)), maps.Keys(usual))
	for of, fields := range must {
		for _, f := range fields {
			keys = append(keys, of+" needs "+f)
		}
	}
	for _, key := range keys {
		if !g.used[key] {
			t.Errorf("%s is in reference_test.go, and nowhere in the document", key)
		}
	}
	if *update {
		if err := os.WriteFile("openapi.yaml", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(want) != string(document) {
		t.Error("openapi.yaml is not what the routes and the wire types say: go test ./api -run OpenAPI -update, and look at what it changes")
	}
}

func TestOpenAPIHasEveryRouteAndNoOther(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Errorf("the document is not valid: %v", err)
	}
	served := (&api{}).routes()
	for at := range served {
		method, path, _ := strings.Cut(at, " ")
		if item := doc.Paths.Find(path); item == nil || item.GetOperation(method) == nil {
			t.Errorf("%s is not in openapi.yaml: add it to reference in reference_test.go, and go test ./api -run OpenAPI -update", at)
		}
	}
	ids := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			at := method + " " + path
			if served[at] == nil {
				t.Errorf("%s is in openapi.yaml, and is not served", at)
			}
			if need, _ := edge.Need(at); op.Extensions["x-weir-scope"] != string(need) {
				t.Errorf("%s needs %v in openapi.yaml, want %s", at, op.Extensions["x-weir-scope"], need)
			}
			if ids[op.OperationID] {
				t.Errorf("%s: operationId %s is there twice", at, op.OperationID)
			}
			ids[op.OperationID] = true
			for _, m := range pathParameter.FindAllStringSubmatch(path, -1) {
				if op.Parameters.GetByInAndName("path", m[1]) == nil {
					t.Errorf("%s: nothing is said of {%s}", at, m[1])
				}
			}
		}
	}
}
