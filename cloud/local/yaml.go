package local

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth bounds how deep lists and maps are in each other, also by way of anchors, one of
// which may contain itself. A parser's work grows with the square of it.
const maxDepth = 32

// yamlReader reads a YAML document node by node. The first thing that does not fit is
// its err, with its line; what it returns afterwards means nothing.
type yamlReader struct {
	err      error
	anchors  map[string]ast.Node
	unpacked int // bytes of the files read so far
}

// field is one key of a map and what it has.
type field struct {
	key   ast.Node
	value ast.Node
}

// spelled returns the key as it was written.
func (f field) spelled() string { return f.key.GetToken().Value }

// name returns the key with _ for -: cloud-init once wrote ssh-authorized-keys.
func (f field) name() string { return strings.ReplaceAll(f.spelled(), "-", "_") }

func (r *yamlReader) fail(at ast.Node, format string, args ...any) {
	if r.err == nil {
		line := 1
		if t := at.GetToken(); t != nil && t.Position != nil {
			line = t.Position.Line
		}
		r.err = fmt.Errorf("line %d: %w", line, fmt.Errorf(format, args...))
	}
}

// document returns what the one document in b consists of; nil if it is empty.
func (r *yamlReader) document(b []byte) ast.Node {
	tokens := lexer.Tokenize(string(b))
	if line := tooDeep(tokens); line > 0 {
		r.err = fmt.Errorf("line %d: over %d lists and maps are in each other", line, maxDepth)
		return nil
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		r.err = err
		if syntax, ok := errors.AsType[*yaml.SyntaxError](err); ok {
			r.err = fmt.Errorf("line %d: %s", syntax.Token.Position.Line, syntax.Message)
		}
		return nil
	}
	if len(file.Docs) > 1 {
		r.err = fmt.Errorf("line %d: a second YAML document begins, want one", file.Docs[1].Start.Position.Line)
		return nil
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return nil
	}
	r.anchors = map[string]ast.Node{}
	ast.Walk(anchorVisitor(r.anchors), file.Docs[0].Body)
	return file.Docs[0].Body
}

// tooDeep returns the line where more than maxDepth lists and maps begin in each other,
// by brackets or by dashes; 0 if there is none. By indentation alone it takes a long
// document to be deep.
func tooDeep(tokens token.Tokens) (line int) {
	brackets, dashes := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets--
		case token.SequenceEntryType:
			if t.Position.Line != line {
				line, dashes = t.Position.Line, 0
			}
			dashes++
		}
		if brackets > maxDepth || dashes > maxDepth {
			return t.Position.Line
		}
	}
	return 0
}

type anchorVisitor map[string]ast.Node

func (v anchorVisitor) Visit(n ast.Node) ast.Visitor {
	if anchor, ok := n.(*ast.AnchorNode); ok {
		v[anchor.Name.GetToken().Value] = anchor.Value
	}
	return v
}

// plain follows aliases and drops anchors.
func (r *yamlReader) plain(n ast.Node) ast.Node {
	for range maxDepth {
		switch node := n.(type) {
		case *ast.AnchorNode:
			n = node.Value
		case *ast.AliasNode:
			to, ok := r.anchors[node.Value.GetToken().Value]
			if !ok {
				r.fail(n, "no anchor %.40q", node.Value.GetToken().Value)
				return ast.Null(n.GetToken())
			}
			n = to
		default:
			return n
		}
	}
	r.fail(n, "an alias leads to itself")
	return ast.Null(n.GetToken())
}

func (r *yamlReader) isMap(n ast.Node) bool {
	_, ok := r.plain(n).(*ast.MappingNode)
	return ok
}

// fields returns what is in the map n; a document without content has nothing.
func (r *yamlReader) fields(n ast.Node) []field {
	if n == nil {
		return nil
	}
	return r.merged(n, 0)
}

func (r *yamlReader) merged(n ast.Node, depth int) (fields []field) {
	m, ok := r.plain(n).(*ast.MappingNode)
	if !ok || depth > maxDepth {
		r.fail(n, "want keys and values here, got %s", kindOf(r.plain(n)))
		return nil
	}
	own := map[string]bool{}
	var others []field
	for _, v := range m.Values {
		f := field{v.Key, v.Value}
		if _, ok := v.Key.(*ast.MergeKeyNode); ok {
			others = append(others, r.merged(v.Value, depth+1)...)
			continue
		}
		if own[f.name()] {
			r.fail(f.key, "%q is there twice", f.spelled())
		}
		own[f.name()] = true
		fields = append(fields, f)
	}
	for _, f := range others {
		if !own[f.name()] {
			own[f.name()] = true
			fields = append(fields, f)
		}
	}
	return fields
}

// sequence returns the items of n, if it is a list.
func (r *yamlReader) sequence(n ast.Node) ([]ast.Node, bool) {
	s, ok := r.plain(n).(*ast.SequenceNode)
	if !ok {
		return nil, false
	}
	items := make([]ast.Node, len(s.Values))
	for i, item := range s.Values {
		items[i] = r.plain(item)
	}
	return items, true
}

// list returns the items of f, which has to be a list.
func (r *yamlReader) list(f field) []ast.Node {
	items, ok := r.sequence(f.value)
	if !ok {
		r.fail(f.value, "%s: want a list, got %s", f.spelled(), kindOf(r.plain(f.value)))
	}
	return items
}

// scalar returns the text of n, if it is one string, number, boolean or null, as it was
// written: 0644 stays 0644.
func (r *yamlReader) scalar(n ast.Node) (string, bool) {
	switch n := r.plain(n).(type) {
	case *ast.TagNode:
		text, ok := r.scalar(n.Value)
		if n.Start.Value == "!!binary" {
			b, err := unbase64([]byte(text))
			if err != nil {
				r.fail(n, "!!binary is not base64: %w", err)
			}
			return string(b), ok
		}
		return text, ok
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.NullNode:
		return "", true
	case *ast.StringNode:
		return n.Value, true
	case ast.ScalarNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// data is scalar where nothing else will do.
func (r *yamlReader) data(n ast.Node) string {
	s, ok := r.scalar(n)
	if !ok {
		r.fail(n, "want a string, got %s; in quotes it would be one", kindOf(r.plain(n)))
	}
	return s
}

// text is data without a NUL, which no argument of a command can hold.
func (r *yamlReader) text(n ast.Node) string {
	s := r.data(n)
	if strings.ContainsRune(s, 0) {
		r.fail(n, "a string has a NUL, which no command can be given")
	}
	return s
}

// match returns f's text if it is of the pattern.
func (r *yamlReader) match(f field, pattern *regexp.Regexp, want string) string {
	s := r.text(f.value)
	if !pattern.MatchString(s) {
		r.fail(f.value, "%s is %q, want %s", f.spelled(), s, want)
	}
	return s
}

// truth reads a boolean in any of the words of YAML 1.1, which cloud-init speaks.
func (r *yamlReader) truth(f field) bool {
	switch s, _ := r.scalar(f.value); strings.ToLower(s) {
	case "true", "yes", "on", "1":
		return true
	case "false", "no", "off", "0":
		return false
	}
	r.fail(f.value, "%s: want true or false", f.spelled())
	return false
}

// lines returns the items of f, a list of strings or one string.
func (r *yamlReader) lines(f field) (lines []string) {
	items, ok := r.sequence(f.value)
	if !ok {
		items = []ast.Node{f.value}
	}
	for _, item := range items {
		line := strings.TrimSpace(r.text(item))
		if strings.ContainsAny(line, "\r\n") {
			r.fail(item, "%s: want one line a string", f.spelled())
		}
		lines = append(lines, line)
	}
	return lines
}

// words returns names: of a list, or of one string with commas.
func (r *yamlReader) words(n ast.Node) (words []string) {
	items, ok := r.sequence(n)
	if !ok {
		items = []ast.Node{n}
	}
	for _, item := range items {
		words = append(words, strings.FieldsFunc(r.text(item), func(c rune) bool { return c == ',' || c == ' ' })...)
	}
	return words
}

func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode:
		return "keys and values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode:
		return "a number"
	}
	return "a string"
}
