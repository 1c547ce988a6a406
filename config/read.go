package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"weir/weir"
)

// The parser takes time by the square of what is nested, so that both are bounded: a
// file that a person wrote has a hundredth of either.
const (
	maxFile   = 64 << 10 // bytes
	maxTokens = 10_000   // words and punctuation
)

// file is a weir.yaml while it is read.
type file struct {
	name string
	open func(file string, most int) ([]byte, error) // reads a file that it names
}

// value is the right side of a key, or an element of a list.
type value struct {
	file *file
	key  string // its key, or the key of its list
	node ast.Node
	line int
}

func parse(name string, data []byte, open func(string, int) ([]byte, error)) (*App, error) {
	f := &file{name, open}
	root, err := f.root(data)
	if err != nil {
		return nil, err
	}
	a := named("app")
	if err := root.mapping(a, appKeys()); err != nil {
		return nil, err
	}
	if !root.has("name") {
		return nil, root.errorf("name is missing")
	}
	if !root.has("servers") {
		return a, nil
	}
	for _, e := range root.entries() {
		if name := keyOf(e); slices.Contains(machineKeys, name) {
			return nil, f.errorf(lineOf(e.Key), "%s is about machines that Weir makes, and servers says that there are others: leave one of them out", name)
		}
	}
	a.Pool = nil
	return a, nil
}

// root returns the mapping that a file is.
func (f *file) root(data []byte) (value, error) {
	if len(data) > maxFile {
		return value{}, weir.Errorf(weir.Invalid, "%s: it has more than %d bytes", f.name, maxFile)
	}
	source := strings.TrimPrefix(string(data), "\ufeff")
	lines := strings.Split(source, "\n")
	for i, line := range lines {
		if !utf8.ValidString(line) || strings.ContainsRune(line, 0) {
			return value{}, f.errorf(i+1, "it is not text in UTF-8")
		}
		if indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]; strings.Contains(indent, "\t") && strings.TrimSpace(line) != "" {
			return value{}, f.errorf(i+1, "a tab indents the line, want spaces")
		}
	}
	tokens := lexer.Tokenize(source)
	if len(tokens) > maxTokens {
		return value{}, weir.Errorf(weir.Invalid, "%s: it has more than %d words", f.name, maxTokens)
	}
	tree, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return value{}, f.syntax(err)
	}
	var docs []ast.Node
	for _, doc := range tree.Docs {
		if _, ok := doc.Body.(*ast.DirectiveNode); doc.Body != nil && !ok {
			docs = append(docs, doc.Body)
		}
	}
	switch len(docs) {
	case 0:
		return value{}, weir.Errorf(weir.Invalid, "%s: it is empty, want at least a name", f.name)
	case 1:
		return value{f, "", docs[0], lineOf(docs[0])}, nil
	}
	return value{}, f.errorf(lineOf(docs[1]), "a second document begins, want one in a file")
}

// syntax returns err, the parser's, as one line.
func (f *file) syntax(err error) error {
	var at yaml.Error
	if !errors.As(err, &at) || at.GetToken() == nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return weir.Errorf(weir.Invalid, "%s: not YAML: %s", f.name, first)
	}
	return f.errorf(at.GetToken().Position.Line, "not YAML: %s", at.GetMessage())
}

func (f *file) errorf(line int, format string, args ...any) error {
	return weir.Errorf(weir.Invalid, "%s:%d: "+format, append([]any{f.name, line}, args...)...)
}

func (v value) errorf(format string, args ...any) error {
	return v.file.errorf(v.line, format, args...)
}

// at is the place of v, for people.
func (v value) at() string { return fmt.Sprintf("%s:%d", v.file.name, v.line) }

// entries returns the pairs of a mapping in their order.
func (v value) entries() []*ast.MappingValueNode {
	switch n := v.node.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

// empty reports whether v says nothing: it is left out, or {}.
func (v value) empty() bool {
	switch n := v.node.(type) {
	case *ast.NullNode:
		return true
	case *ast.MappingNode:
		return len(n.Values) == 0
	}
	return false
}

// has reports whether v is a mapping with that key.
func (v value) has(key string) bool {
	return slices.ContainsFunc(v.entries(), func(e *ast.MappingValueNode) bool { return keyOf(e) == key })
}

// mapping sets the keys of v on a. It is an error for v to be something else, or to
// have a key that is not in keys, or one twice.
func (v value) mapping(a *App, keys []key) error {
	if _, null := v.node.(*ast.NullNode); null {
		return nil // its lines are comments: nothing is said
	}
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
	}
	in := ""
	if v.key != "" {
		in = " in " + v.key
	}
	entries := v.entries()
	if entries == nil {
		if _, empty := v.node.(*ast.MappingNode); empty {
			return nil
		}
		what := "the file"
		if v.key != "" {
			what = v.key
		}
		return v.errorf("%s is %s, want keys such as %s: …", what, v.shown(), names[0])
	}
	said := map[string]value{}
	for _, e := range entries {
		name, line := keyOf(e), lineOf(e.Key)
		if !slices.Contains(names, name) {
			return v.file.errorf(line, "unknown key %.60q%s, want one of %s", name, in, strings.Join(names, ", "))
		}
		if first, twice := said[name]; twice {
			return v.file.errorf(line, "%s is said twice, first in line %d", name, first.line)
		}
		said[name] = value{v.file, name, e.Value, line}
	}
	for _, k := range keys {
		v, ok := said[k.name]
		if !ok {
			continue
		}
		if err := k.set(a, v); err != nil {
			return err
		}
		if err := a.check(); err != nil {
			return v.errorf("%w", err)
		}
	}
	return nil
}

// list returns the elements of v. It is an error for v to be something else than
// want, "a list of files".
func (v value) list(want string) ([]value, error) {
	if _, null := v.node.(*ast.NullNode); null {
		return nil, nil
	}
	n, ok := v.node.(*ast.SequenceNode)
	if !ok {
		return nil, v.errorf("%s is %s, want %s", v.key, v.shown(), want)
	}
	var list []value
	for _, e := range n.Values {
		list = append(list, value{v.file, v.key, e, lineOf(e)})
	}
	return list, nil
}

// text returns the text that v is.
func (v value) text() (string, error) {
	switch n := v.node.(type) {
	case *ast.StringNode:
		if strings.TrimSpace(n.Value) != "" {
			return n.Value, nil
		}
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return "", v.errorf("%s is %s, want a text: put it in quotes", v.key, v.shown())
	}
	return "", v.errorf("%s is %s, want a text", v.key, v.shown())
}

// decimal is a whole number as people write it. YAML's 0x1f, 017 and 1_000 are
// left out: nobody means 15 by 017.
var decimal = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,8})$`)

// whole returns the number that v is. want says which one: "a whole number of seconds".
func (v value) whole(want string) (int, error) {
	if n, ok := v.node.(*ast.IntegerNode); ok && decimal.MatchString(n.Token.Value) {
		return strconv.Atoi(n.Token.Value)
	}
	return 0, v.errorf("%s is %s, want %s", v.key, v.shown(), want)
}

// flag is true or false.
func (v value) flag() (bool, error) {
	if n, ok := v.node.(*ast.BoolNode); ok {
		return n.Value, nil
	}
	return false, v.errorf("%s is %s, want true or false", v.key, v.shown())
}

// shown is v as an error shows it.
func (v value) shown() string {
	switch n := v.node.(type) {
	case *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor or alias"
	case *ast.TagNode:
		return "a tagged value"
	case *ast.LiteralNode:
		return "a text of several lines"
	case *ast.StringNode:
		if t := n.Token.Type; t == token.SingleQuoteType || t == token.DoubleQuoteType {
			return fmt.Sprintf("%.40q in quotes", n.Value)
		}
	}
	return fmt.Sprintf("%.40q", v.node.GetToken().Value)
}

func keyOf(e *ast.MappingValueNode) string {
	if s, ok := e.Key.(*ast.StringNode); ok {
		return s.Value
	}
	return strings.TrimSpace(e.Key.String())
}

// lineOf returns the line in which n begins.
func lineOf(n ast.Node) int {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return lineOf(n.Values[0].Key) // its own token is that of the first colon
		}
	case *ast.MappingValueNode:
		return lineOf(n.Key)
	}
	return n.GetToken().Position.Line
}
