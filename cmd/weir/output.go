package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// format is how a verb prints what it has found: for people, or -o json for programs.
type format struct{ json bool }

func (f *format) flags(cmd *cobra.Command) {
	cmd.Flags().VarP(f, "output", "o", "`json` for programs")
}

func (f *format) String() string { return "" }
func (f *format) Type() string   { return "format" }

func (f *format) Set(s string) error {
	if s != "json" {
		return fmt.Errorf("there is no format %q, want json", s)
	}
	f.json = true
	return nil
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeTable writes rows in columns, each line after indent.
func writeTable(w io.Writer, indent string, rows [][]string) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		var cells []string
		for _, cell := range row {
			cells = append(cells, oneLine(cell))
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	t.Flush() // to memory
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, indent+strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// wrap returns text in lines of at most width characters, the first after first and the
// others after rest.
func wrap(text string, width int, first, rest string) string {
	var out strings.Builder
	line := first
	empty := true
	for _, word := range strings.Fields(oneLine(text)) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			out.WriteString(line + "\n")
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	out.WriteString(line + "\n")
	return out.String()
}

// count returns "1 machine", "3 machines".
func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}
