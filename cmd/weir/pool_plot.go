package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"weir/replay"
)

// plotRows is how high a plot in the terminal is.
const plotRows = 12

// column is what was so in the time that one column of a plot stands for, at most. In a time in which
// machines were missing, as many are missing of those that served as did at the worst moment.
type column struct{ needed, serving float64 }

// columns puts minutes into at most n columns.
func columns(all []replay.Minute, n int) (cols []column) {
	n = min(n, len(all))
	for i := range n {
		part := all[i*len(all)/n : (i+1)*len(all)/n]
		var c column
		missing := 0.0
		for _, m := range part {
			c.needed, c.serving, missing = max(c.needed, m.Needed), max(c.serving, m.Serving), max(missing, m.Needed-m.Serving)
		}
		if missing > 1e-9 {
			c.serving = c.needed - missing
		}
		cols = append(cols, c)
	}
	return cols
}

// highest returns how high a plot must be.
func highest(cols []column) int {
	top := 1.0
	for _, c := range cols {
		top = max(top, c.needed, c.serving)
	}
	return int(math.Ceil(top))
}

// drawText draws the machines that were needed and those that served, over time. What they are counted in is said below.
func drawText(w io.Writer, all []replay.Minute, width int, counted string) error {
	cols := columns(all, max(10, width-8))
	if len(cols) == 0 {
		return nil
	}
	top := highest(cols)
	out := bufio.NewWriter(w)
	for row := plotRows; row > 0; row-- {
		label := ""
		if row == plotRows || row == plotRows/2 {
			label = fmt.Sprint(top * row / plotRows)
		}
		var line strings.Builder
		for _, c := range cols {
			at := float64(top) * (float64(row) - 0.5) / plotRows
			needs, has := c.needed > at, c.serving > at
			switch {
			case needs && has:
				line.WriteRune('█')
			case needs:
				line.WriteRune('!')
			case has:
				line.WriteRune('░')
			default:
				line.WriteRune(' ')
			}
		}
		fmt.Fprintf(out, "%5s │%s\n", label, strings.TrimRight(line.String(), " "))
	}
	fmt.Fprintf(out, "%5s └%s\n", "0", strings.Repeat("─", len(cols)))
	first, last := timeWords(all)
	fmt.Fprintf(out, "       %s%*s\n", first, max(len(cols)-len(first), len(last)+1), last)
	fmt.Fprintf(out, "       %s: █ needed, ░ more than that, ! missing\n", counted)
	return out.Flush()
}

// timeWords says when a plot begins and ends.
func timeWords(all []replay.Minute) (first, last string) {
	a, b := all[0].At, all[len(all)-1].At
	layout := "15:04"
	if b.Sub(a) > 20*time.Hour {
		layout = "Jan 2 15:04"
	}
	return a.Format(layout), b.Format(layout)
}

// drawSVG draws the same into an image.
func drawSVG(w io.Writer, all []replay.Minute, counted string) error {
	const width, height, left, bottom = 1000, 320, 48, 28
	cols := columns(all, width-left)
	top := highest(cols)
	x := func(i int) float64 { return left + float64(width-left)*float64(i)/float64(max(1, len(cols))) }
	y := func(n float64) float64 { return 8 + (height-bottom-8)*(1-n/float64(top)) }
	steps := func(of func(column) float64) string {
		var b strings.Builder
		for i, c := range cols {
			fmt.Fprintf(&b, " %.1f,%.1f %.1f,%.1f", x(i), y(of(c)), x(i+1), y(of(c)))
		}
		return strings.TrimSpace(b.String())
	}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(out, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	for _, n := range []int{0, top / 2, top} {
		fmt.Fprintf(out, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end" fill="#444">%d</text>`+"\n", left, y(float64(n)), width, left-6, y(float64(n))+4, n)
	}
	fmt.Fprintf(out, `<polygon fill="#9cc3e6" points="%.1f,%.1f %s %.1f,%.1f"/>`+"\n", x(0), y(0), steps(func(c column) float64 { return c.needed }), x(len(cols)), y(0))
	for i, c := range cols {
		if c.needed > c.serving+1e-9 {
			fmt.Fprintf(out, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#d33"/>`+"\n", x(i), y(c.needed), x(i+1)-x(i), y(c.serving)-y(c.needed))
		}
	}
	fmt.Fprintf(out, `<polyline fill="none" stroke="#1b4f8a" stroke-width="1.5" points="%s"/>`+"\n", steps(func(c column) float64 { return c.serving }))
	if len(all) > 0 {
		first, last := timeWords(all)
		fmt.Fprintf(out, `<text x="%d" y="%d" fill="#444">%s</text><text x="%d" y="%d" text-anchor="end" fill="#444">%s</text>`+"\n", left, height-8, first, width, height-8, last)
	}
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="middle" fill="#444">%s: needed (area), serving (line), missing (red)</text>`+"\n</svg>\n", (left+width)/2, height-8, counted)
	return out.Flush()
}
