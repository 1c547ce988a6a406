package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"weir/weir"
)

// topLine is one line of weir top. Colours only repeat what its words say.
type topLine struct {
	text   string
	tone   tone
	target target // what is selected with it; zero if it cannot be
}

// tone is how a line looks.
type tone int

const (
	plain tone = iota
	strong
	quiet
	busy
	bad
)

var topStyles = map[tone]ansi.Style{
	strong: ansi.NewStyle(ansi.AttrBold),
	quiet:  ansi.NewStyle(ansi.AttrFaint),
	busy:   ansi.NewStyle(ansi.AttrYellowForegroundColor),
	bad:    ansi.NewStyle(ansi.AttrRedForegroundColor),
}

// View draws everything, in exactly the lines and columns that there are.
func (t *top) View() tea.View {
	v := tea.NewView(strings.Join(t.draw(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "weir top"
	return v
}

// draw returns the lines of the screen: the header, the load balancers, the newest events
// in the room that is left, the footer.
func (t *top) draw() []string {
	head, foot := t.header(), t.footer()
	room := max(t.height-len(head)-1, 0)
	body := t.lines()
	var story []topLine
	if t.help {
		body = topHelp()
	} else {
		for _, e := range t.events {
			text := fmt.Sprintf("  %s  %-10s %s", e.At.Local().Format("15:04:05"), oneLine(e.Name), oneLine(e.Text))
			story = append(story, topLine{text: text, tone: plain})
		}
		most := max(room/3, room-len(body)) - 2 // without the empty line and the heading
		story = story[max(len(story)-max(most, 0), 0):]
		if len(story) > 0 {
			story = append([]topLine{{}, {text: "EVENTS", tone: quiet}}, story...)
		}
	}
	room -= len(story)
	body = t.window(body, room)
	for len(body) < room {
		body = append(body, topLine{})
	}
	all := slices.Concat(head, body, story)
	all = append(all[:min(len(all), max(t.height-1, 0))], foot)
	var screen []string
	for _, l := range all {
		screen = append(screen, t.paint(l))
	}
	return screen
}

// window returns at most room of the lines, the selected one among them.
func (t *top) window(lines []topLine, room int) []topLine {
	if len(lines) <= room {
		return lines
	}
	at := slices.IndexFunc(lines, func(l topLine) bool { return l.target != (target{}) && l.target == t.selected })
	from := min(max(at-room/2, 0), len(lines)-room)
	return lines[from : from+room]
}

// paint cuts a line to the screen, marks it if it is selected, and colours it.
func (t *top) paint(l topLine) string {
	text := l.text
	if l.target != (target{}) && l.target == t.selected && !t.help {
		text = ">" + strings.TrimPrefix(text, " ")
		return ansi.NewStyle(ansi.AttrReverse).Styled(ansi.Truncate(text, t.width, "…"))
	}
	text = ansi.Truncate(text, t.width, "…")
	style, ok := topStyles[l.tone]
	if !ok || text == "" {
		return text
	}
	return style.Styled(text)
}

func (t *top) header() []topLine {
	s := &t.status
	if !t.known {
		first := topLine{text: "weir top: asking " + t.api() + " …", tone: strong}
		if t.away != "" {
			first = topLine{text: "! " + oneLine(t.away) + "; trying again", tone: bad}
		}
		return []topLine{first, {}}
	}
	said := []string{"Region " + oneLine(s.Region)}
	if m := membersOf(s); m != "" {
		said = append(said, "control plane: "+oneLine(m))
	}
	first := topLine{text: strings.Join(said, " | "), tone: strong}
	second := topLine{text: fmt.Sprintf("%s UTC, all well, %s", s.Taken.UTC().Format("15:04:05"), machineCounts(s.Counts))}
	switch n := len(s.Problems); {
	case t.away != "":
		second = topLine{text: fmt.Sprintf("! as of %s UTC: %s; trying again", s.Taken.UTC().Format("15:04:05"), oneLine(t.away)), tone: bad}
	case n > 0:
		second = topLine{text: fmt.Sprintf("! %s: %s", count(n, "problem"), oneLine(s.Problems[0])), tone: bad}
	}
	if !s.Quorum && len(s.Members) > 0 {
		first.tone = bad
	}
	if t.paused {
		second.text = "paused, " + second.text
	}
	return []topLine{first, second, {}}
}

func (t *top) api() string {
	if t.client == nil {
		return "the API"
	}
	return t.client.api
}

func (t *top) footer() topLine {
	switch {
	case t.question != nil:
		return topLine{text: t.question.ask + " y/n", tone: strong}
	case t.doing != nil:
		return topLine{text: t.doing.doing, tone: busy}
	case strings.HasPrefix(t.said, "! "):
		return topLine{text: oneLine(t.said), tone: bad}
	case t.said != "":
		return topLine{text: oneLine(t.said), tone: strong}
	}
	return topLine{text: "up/down select  f failover  d drain  u undrain  p pause  ? help  q quit", tone: quiet}
}

func topHelp() (lines []topLine) {
	for _, text := range []string{
		"  up, k     select the row above",
		"  down, j   select the row below",
		"  f         fail over the selected row's load balancer",
		"  d         drain the selected instance or server",
		"  u         undrain it",
		"  p         pause, and go on",
		"  q         quit, as does Ctrl-C",
		"",
		"  Servers are shown of the load balancer that is selected.",
		"  Any key closes this.",
	} {
		lines = append(lines, topLine{text: text})
	}
	return lines
}

// lines returns each load balancer with its instances, and the servers of the selected one.
func (t *top) lines() (lines []topLine) {
	s := &t.status
	if t.known && len(s.LoadBalancers) == 0 {
		return []topLine{{text: "  There is no load balancer; weir apply -f weir.yaml makes one."}}
	}
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		lines = append(lines, t.balancerLine(lb))
		lines = append(lines, t.instanceLines(lb)...)
		if lb.ID == t.selected.balancer {
			lines = append(lines, t.serverLines(lb)...)
		}
	}
	return lines
}

func (t *top) balancerLine(lb *weir.LoadBalancerOverview) topLine {
	address := "no address yet"
	if lb.Address.IsValid() {
		address = lb.Address.String()
	}
	up, all := serversUp(lb)
	said := []string{oneLine(ofTeam(lb.Name, lb.Team)), phaseOf(lb), address, fmt.Sprintf("%d of %d servers up", up, all)}
	if f := lb.Failover; f != nil {
		said = append(said, "failover "+age(t.status.Taken, f.At)+" ago")
	}
	l := topLine{text: "  " + strings.Join(said, "  "), tone: strong, target: target{balancer: lb.ID}}
	if len(lb.Actives()) == 0 || lb.Phase == weir.LoadBalancerErrored {
		l.tone = bad
	}
	return l
}

func (t *top) instanceLines(lb *weir.LoadBalancerOverview) []topLine {
	if len(lb.Instances) == 0 {
		return nil
	}
	machines := map[weir.ID]weir.MachineOverview{}
	for _, m := range t.status.Machines {
		machines[m.ID] = m
	}
	rows := [][]string{{"INSTANCE", "ROLE", "HEALTH", "REVISION", "SINCE", "SESSIONS", "REQ/S"}}
	lines := []topLine{{tone: quiet}}
	for i := range lb.Instances {
		in := &lb.Instances[i]
		sessions := 0
		for _, server := range in.Node.Servers {
			sessions += server.Sessions
		}
		m := machines[in.Machine]
		rows = append(rows, []string{short(cmp.Or(m.Name, string(in.Machine))), roleOf(in, m), cmp.Or(string(in.Health.State), "-"),
			revisionOf(in), age(t.status.Taken, sinceOf(lb, in)), strconv.Itoa(sessions), t.rates.of([]weir.InstanceOverview{*in}, "")})
		l := topLine{target: target{lb.ID, in.Machine}}
		switch in.Health.State {
		case weir.InstanceUnwell, weir.InstanceSilent, weir.InstanceGone:
			l.tone = bad
		case weir.InstanceBoots, weir.InstanceDrained:
			l.tone = busy
		}
		lines = append(lines, l)
	}
	return inColumns(lines, rows)
}

// serverLines returns the servers of a load balancer as its active instances see them, each
// once, and the machines that are drained.
func (t *top) serverLines(lb *weir.LoadBalancerOverview) []topLine {
	active := lb.Actives()
	if len(active) == 0 {
		return nil
	}
	rows := [][]string{{"SERVER", "STATE", "SESSIONS", "REQ/S", "WHY"}}
	lines := []topLine{{tone: quiet}}
	sessions := map[weir.ID]int{}
	var order []weir.ID
	for _, server := range lb.Servers() {
		if _, ok := sessions[server.ID]; !ok {
			order = append(order, server.ID)
		}
		sessions[server.ID] += server.Sessions
	}
	for _, id := range order {
		server, _ := serverOf(lb, id)
		l := topLine{target: target{lb.ID, id}, tone: busy}
		why := server.Why
		switch server.State {
		case weir.ServerUp:
			l.tone, why = plain, ""
		case weir.ServerDown:
			l.tone = bad
		}
		rows = append(rows, []string{short(nameOf(&t.status, id)), string(server.State), strconv.Itoa(sessions[id]), t.rates.of(active, id), why})
		lines = append(lines, l)
	}
	// Who is drained leaves HAProxy, and must stay here: it could not be undrained otherwise,
	// and the selection would move to another.
	for _, m := range t.status.Machines {
		if _, ok := sessions[m.ID]; ok || !m.Drained || m.Deleting || m.LoadBalancer != "" {
			continue
		}
		rows = append(rows, []string{short(m.Name), "drained", "-", "-", "drained by an operator"})
		lines = append(lines, topLine{target: target{lb.ID, m.ID}, tone: busy})
	}
	return inColumns(lines, rows)
}

// inColumns gives each line the text of its row.
func inColumns(lines []topLine, rows [][]string) []topLine {
	var b strings.Builder
	writeTable(&b, "    ", rows) // to memory
	for i, text := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		lines[i].text = text
	}
	return lines
}
