package web

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
)

// NewDocs returns the page that says what an OpenAPI document says, which is YAML and has what package
// api's has. The page is made when it is first asked for.
func NewDocs(document []byte, log *slog.Logger) http.Handler {
	page := sync.OnceValues(func() ([]byte, error) { return docs(document) })
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		body, err := page()
		if err != nil {
			log.Error("page of the API not rendered", "err", err)
			http.Error(w, "the page could not be made: Weir's log has the reason", http.StatusInternalServerError)
			return
		}
		reply(w, http.StatusOK, body)
	})
}

func docs(document []byte) ([]byte, error) {
	var doc openAPI
	if err := yaml.Unmarshal(document, &doc); err != nil {
		return nil, err
	}
	page, err := template.ParseFS(sources, "docs.html", "style.html")
	if err != nil {
		return nil, err
	}
	var body bytes.Buffer
	err = page.Execute(&body, doc.view())
	return body.Bytes(), err
}

// openAPI is what the page shows of an OpenAPI document.
type openAPI struct {
	Info struct {
		Title, Description string
	}
	Tags []struct {
		Name, Description string
	}
	Paths      ordered[ordered[operation]]
	Components struct {
		Parameters map[string]parameter
		Responses  map[string]response
		Schemas    ordered[schema]
	}
}

type operation struct {
	Tags                 []string
	Summary, Description string
	Scope                string `yaml:"x-weir-scope"`
	Parameters           []parameter
	RequestBody          struct{ Content bodies } `yaml:"requestBody"`
	Responses            ordered[response]
}

type parameter struct {
	Ref                   string `yaml:"$ref"`
	Name, In, Description string
	Required              bool
	Schema                schema
}

// bodies are the schemas of a body, by their media types.
type bodies map[string]struct{ Schema schema }

type response struct {
	Ref         string `yaml:"$ref"`
	Description string
	Content     bodies
}

type schema struct {
	Ref               string `yaml:"$ref"`
	Description, Type string
	Format            string
	Nullable          bool
	Enum              []string
	Required          []string
	Properties        ordered[schema]
	Items             *schema
	Additional        *schema  `yaml:"additionalProperties"`
	AllOf             []schema `yaml:"allOf"`
	OneOf             []schema `yaml:"oneOf"`
}

// ordered is a mapping in the order in which it is written.
type ordered[T any] []entry[T]

type entry[T any] struct {
	Key   string
	Value T
}

// UnmarshalYAML reads a mapping.
func (o *ordered[T]) UnmarshalYAML(decode func(any) error) error {
	var order yaml.MapSlice
	var values map[string]T
	if err := decode(&order); err != nil {
		return err
	}
	if err := decode(&values); err != nil {
		return err
	}
	for _, item := range order {
		key := fmt.Sprint(item.Key)
		*o = append(*o, entry[T]{key, values[key]})
	}
	return nil
}

// docsView is what is on the page, in words.
type docsView struct {
	Title  string
	About  []string // paragraphs
	Groups []docsGroup

	Refusals []docsAnswer // each that a call may have, by status
	Types    []docsType
}

type docsGroup struct {
	Anchor, Name, About string
	Calls               []docsCall
}

type docsCall struct {
	Anchor, Method, Path, Summary, More, Scope string
	Parameters                                 []docsField
	Body                                       phrase
	Answers                                    []docsAnswer // successes
	Failures                                   []docsAnswer
}

type docsAnswer struct {
	Status, Says string
	Body         phrase
}

type docsType struct {
	Name   string
	About  string
	Values []string // what is said of each
	Fields []docsField
}

type docsField struct {
	Name, About string
	Type        phrase
	Must        bool
}

// phrase is what a type is called: words, of which some are names of types.
type phrase []term

type term struct {
	Text string
	Name bool // of a type on the page
}

func (d *openAPI) view() docsView {
	v := docsView{Title: d.Info.Title, About: paragraphs(d.Info.Description)}
	for _, tag := range d.Tags {
		group := docsGroup{Anchor: anchor(tag.Name), Name: tag.Name, About: tag.Description}
		for _, path := range d.Paths {
			for _, op := range path.Value {
				if slices.Contains(op.Value.Tags, tag.Name) {
					group.Calls = append(group.Calls, d.call(strings.ToUpper(op.Key), path.Key, op.Value))
				}
			}
		}
		v.Groups = append(v.Groups, group)
	}
	for _, group := range v.Groups {
		for _, call := range group.Calls {
			for _, f := range call.Failures {
				if !slices.ContainsFunc(v.Refusals, func(r docsAnswer) bool { return r.Status == f.Status }) {
					v.Refusals = append(v.Refusals, f)
				}
			}
		}
	}
	slices.SortFunc(v.Refusals, func(a, b docsAnswer) int { return cmp.Compare(a.Status, b.Status) })
	for _, s := range d.Components.Schemas {
		v.Types = append(v.Types, docsTypeOf(s.Key, s.Value))
	}
	return v
}

func (d *openAPI) call(method, path string, op operation) docsCall {
	c := docsCall{Anchor: anchor(method + " " + path), Method: method, Path: path, Summary: op.Summary, More: op.Description, Scope: op.Scope}
	for _, p := range op.Parameters {
		if p.Ref != "" {
			p = d.Components.Parameters[last(p.Ref)]
		}
		where := map[string]string{"path": " (in the path)", "header": " (a header)"}[p.In]
		c.Parameters = append(c.Parameters, docsField{p.Name + where, p.Description, p.Schema.phrase(), p.Required})
	}
	c.Body = op.RequestBody.Content.phrase()
	for _, r := range op.Responses {
		says := r.Value
		if says.Ref != "" {
			says = d.Components.Responses[last(says.Ref)]
		}
		switch {
		case strings.HasPrefix(r.Key, "2"):
			c.Answers = append(c.Answers, docsAnswer{r.Key, says.Description, says.Content.phrase()})
		case r.Key != "default":
			c.Failures = append(c.Failures, docsAnswer{Status: r.Key, Says: says.Description})
		}
	}
	return c
}

func docsTypeOf(name string, s schema) docsType {
	about := strings.Split(s.Description, "\n- ")
	t := docsType{Name: name, About: about[0]}
	for _, value := range s.Enum {
		says := value
		for _, line := range about[1:] {
			if is, why, ok := strings.Cut(line, ": "); ok && strings.Trim(is, "`") == value {
				says += ": " + why
			}
		}
		t.Values = append(t.Values, says)
	}
	for _, p := range s.Properties {
		t.Fields = append(t.Fields, docsField{p.Key, p.Value.Description, p.Value.phrase(), slices.Contains(s.Required, p.Key)})
	}
	return t
}

func (b bodies) phrase() phrase {
	for _, kind := range []string{"application/json", "text/plain"} {
		if of, ok := b[kind]; ok {
			return of.Schema.phrase()
		}
	}
	return nil
}

// phrase says what a schema is of.
func (s schema) phrase() phrase {
	p := s.plain()
	if s.Nullable {
		p = append(p, term{Text: " or null"})
	}
	return p
}

func (s schema) plain() phrase {
	switch {
	case s.Ref != "":
		return phrase{{last(s.Ref), true}}
	case len(s.AllOf) > 0:
		return s.AllOf[0].phrase()
	case len(s.OneOf) > 0:
		var p phrase
		for i, one := range s.OneOf {
			if i > 0 {
				p = append(p, term{Text: " or "})
			}
			p = append(p, one.phrase()...)
		}
		return p
	case s.Items != nil:
		return append(phrase{{Text: "list of "}}, s.Items.phrase()...)
	case len(s.Properties) > 0:
		p := phrase{{Text: "{ "}}
		for i, field := range s.Properties {
			if i > 0 {
				p = append(p, term{Text: ", "})
			}
			p = append(append(p, term{Text: field.Key + ": "}), field.Value.phrase()...)
		}
		return append(p, term{Text: " }"})
	case s.Additional != nil:
		return append(phrase{{Text: "object with values of "}}, s.Additional.phrase()...)
	case s.Format == "date-time":
		return phrase{{Text: "time"}}
	}
	return phrase{{Text: cmp.Or(s.Type, "anything")}}
}

func last(ref string) string { return ref[strings.LastIndex(ref, "/")+1:] }

// anchor is a name as it is in a link.
func anchor(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' })
	return strings.Join(words, "-")
}

func paragraphs(text string) []string { return strings.Split(strings.TrimSpace(text), "\n\n") }
