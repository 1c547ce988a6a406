package main

import (
	"fmt"
	"io"
	"os"
	"slices"
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
	painted []string // the lines on the terminal that the next painting replaces
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
	fmt.Fprintf(b.w, "%s%s\n", b.wiped(), strings.TrimRight(printable(text), "\n"))
	b.paint()
}

// paint brings a terminal up to date. What does not fit is counted: a line that has
// scrolled away cannot be painted again.
func (b *board) paint() {
	if b.size == nil || len(b.rows) == 0 {
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
	if slices.Equal(lines, b.painted) {
		return // to paint it again would flicker
	}
	io.WriteString(b.w, b.wiped()+strings.Join(lines, "\n")+"\n") // at once, or it flickers
	b.painted = lines
}

// wiped returns what takes the painted lines off the terminal.
func (b *board) wiped() string {
	if len(b.painted) == 0 {
		return ""
	}
	up := len(b.painted)
	b.painted = nil
	return fmt.Sprintf("\x1b[%dA\x1b[J", up) // up, and clear from there
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
