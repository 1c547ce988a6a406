package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// board shows how far several things are. On a terminal it is a line for each, painted
// anew in its place; elsewhere it is a line for each change.
type board struct {
	w       io.Writer
	size    func() (width, height int) // of the terminal; nil if there is none
	rows    []*row
	painted int // lines that the next painting replaces
}

type row struct{ key, name, text string }

func newBoard(w io.Writer) *board {
	b := &board{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		b.size = func() (width, height int) {
			width, height, err := term.GetSize(int(f.Fd()))
			if err != nil || width < 20 || height < 5 {
				return 80, 24
			}
			return width, height
		}
	}
	return b
}

// set says how far the thing with that key is. A terminal shows it at the next paint.
func (b *board) set(key, name, text string) {
	name, text = oneLine(name), oneLine(text)
	var r *row
	for _, have := range b.rows {
		if have.key == key {
			r = have
		}
	}
	if r == nil {
		r = &row{key: key}
		b.rows = append(b.rows, r)
	}
	if r.name == name && r.text == text {
		return
	}
	r.name, r.text = name, text
	if b.size == nil {
		fmt.Fprintf(b.w, "%s\n", b.line(r))
	}
}

// say writes text that stays.
func (b *board) say(text string) {
	b.wipe()
	fmt.Fprintf(b.w, "%s\n", strings.TrimRight(printable(text), "\n"))
	b.paint()
}

// paint brings a terminal up to date. What does not fit is counted: a line that has
// scrolled away cannot be painted again.
func (b *board) paint() {
	if b.size == nil {
		return
	}
	width, height := b.size()
	var lines []string
	for _, r := range b.rows {
		lines = append(lines, cut(b.line(r), width-1))
	}
	if room := height - 2; len(lines) > room {
		lines = append(lines[:room-1], fmt.Sprintf("… and %d more", len(b.rows)-room+1))
	}
	var out strings.Builder
	b.wipeTo(&out)
	for _, line := range lines {
		out.WriteString(line + "\n")
	}
	b.painted = len(lines)
	io.WriteString(b.w, out.String())
}

func (b *board) wipe() {
	var out strings.Builder
	b.wipeTo(&out)
	io.WriteString(b.w, out.String())
}

func (b *board) wipeTo(out *strings.Builder) {
	if b.painted > 0 {
		fmt.Fprintf(out, "\x1b[%dA\x1b[J", b.painted) // up, and clear from there
		b.painted = 0
	}
}

func (b *board) line(r *row) string {
	width := 0
	for _, r := range b.rows {
		width = max(width, utf8.RuneCountInString(r.name))
	}
	return fmt.Sprintf("%-*s  %s", width, r.name, r.text)
}

// cut returns s in at most width characters, with … at its end if some are missing.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width-1, 0)]) + "…"
}
