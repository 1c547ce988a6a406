package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"weir/weir"
)

var topNoon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// topRegion returns a region of a pair and two servers at a time after noon, in which each
// server has had so many requests.
func topRegion(after time.Duration, pid int, requests int64) weir.RegionStatus {
	now := topNoon.Add(after)
	servers := []weir.ServerStatus{
		{Backend: "http-80", ID: "3", State: weir.ServerUp, Sessions: 2, Requests: requests},
		{Backend: "http-80", ID: "4", State: weir.ServerDown, Why: "L4CON: Connection refused", Requests: requests},
	}
	health := func(id weir.ID) weir.Health {
		return weir.Health{Machine: id, State: weir.InstanceWell, Since: topNoon.Add(-time.Minute)}
	}
	return weir.RegionStatus{Region: "local1", Taken: now, Quorum: true, Counts: weir.MachineCounts{Active: 4},
		Members:  []weir.MemberOverview{{Name: "cp-1", Up: true, Leads: true, Since: topNoon.Add(-time.Hour)}},
		Problems: []string{"Server web-2 of load balancer front is down: L4CON: Connection refused."},
		LoadBalancers: []weir.LoadBalancerOverview{{ID: "a", Name: "front", Phase: weir.LoadBalancerActive, Address: netip.MustParseAddr("203.0.113.7"), Since: topNoon.Add(-time.Hour),
			Instances: []weir.InstanceOverview{
				{Machine: "1", Active: true, Health: health("1"), Wants: 13, Node: weir.NodeStatus{Revision: 12, Seen: now, HAProxy: weir.HAProxyStatus{PID: pid}, Servers: servers}},
				{Machine: "2", Health: health("2"), Wants: 13, Node: weir.NodeStatus{Revision: 13, Seen: now}}}}},
		Machines: []weir.MachineOverview{{ID: "1", Name: "front-lb-1"}, {ID: "2", Name: "front-lb-2"}, {ID: "3", Name: "web-1"}, {ID: "4", Name: "web-2"}}}
}

// press sends keys to t and returns what the last one asks for.
func press(t *top, keys ...string) (cmd tea.Cmd) {
	for _, key := range keys {
		k := tea.Key{Code: []rune(key)[0], Text: key}
		switch key {
		case "up":
			k = tea.Key{Code: tea.KeyUp}
		case "down":
			k = tea.Key{Code: tea.KeyDown}
		case "ctrl+c":
			k = tea.Key{Code: 'c', Mod: tea.ModCtrl}
		}
		_, cmd = t.Update(tea.KeyPressMsg(k))
	}
	return cmd
}

func topAt(ctx context.Context, s weir.RegionStatus) *top {
	t := newTop(ctx, &client{api: "http://127.0.0.1:1"})
	t.Update(polledMsg{status: s, events: []weir.Event{{ID: "e", At: topNoon, Kind: weir.EventDecision, Name: "front", Text: "front-lb-1 takes over"}}})
	return t
}

func screen(t *top) string { return ansi.Strip(strings.Join(t.draw(), "\n")) }

func TestTopFitsATerminalOf80x24(t *testing.T) {
	m := topAt(t.Context(), topRegion(0, 7, 100))
	m.Update(polledMsg{status: topRegion(2*time.Second, 7, 125)})
	got := strings.ReplaceAll(screen(m), topNoon.Local().Format("15:04:05")+"  front", "12:00:00  front") + "\n"
	const golden = "testdata/top.txt"
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the screen is not as in %s (- want, + got):\n%s", golden, diff)
	}
}

func TestTopIsNeverLargerThanItsTerminal(t *testing.T) {
	m := topAt(t.Context(), topRegion(0, 7, 100))
	press(m, "down", "down", "down", "down")
	for _, size := range [][2]int{{80, 24}, {60, 15}, {200, 60}, {20, 5}, {3, 2}, {1, 1}} {
		m.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		lines := m.draw()
		if len(lines) > size[1] {
			t.Errorf("%d lines on a terminal of %d", len(lines), size[1])
		}
		for _, line := range lines {
			if ansi.StringWidth(line) > size[0] {
				t.Errorf("%q is wider than %d", line, size[0])
			}
		}
		if size[1] > 10 && !strings.Contains(screen(m), ">   web-2") {
			t.Errorf("the selected row is not on a screen of %v:\n%s", size, screen(m))
		}
	}
}

func TestTopCountsNoRequestsAcrossARestartOfHAProxy(t *testing.T) {
	for _, test := range []struct {
		name  string
		after time.Duration
		pid   int
		count int64
		want  string
	}{
		{"two seconds", 2 * time.Second, 7, 150, "25.0"},
		{"no new report", 0, 7, 100, "-"},
		{"another worker", 2 * time.Second, 8, 150, "-"},
		{"a counter that fell", 2 * time.Second, 7, 5, "-"},
	} {
		r := rates{}
		before, now := topRegion(0, 7, 100), topRegion(test.after, test.pid, test.count)
		r.see(&before)
		r.see(&now)
		if got := r.of(now.LoadBalancers[0].Instances[:1], "3"); got != test.want {
			t.Errorf("%s: %s requests a second, want %s", test.name, got, test.want)
		}
	}
}

func TestTopActsOnlyAfterAYes(t *testing.T) {
	for _, test := range []struct {
		keys, footer string
		acts         bool
	}{
		{"f", "Fail over front? y/n", false},
		{"f n", "up/down select", false},
		{"f x", "Fail over front? y/n", false},
		{"f y", "handing front over …", true},
		{"d", "select an instance or a server", false},
		{"down d", "Drain front-lb-1? y/n", false},
		{"j j j j u", "Undrain web-2? y/n", false},
		{"j j k d y", "draining front-lb-1 …", true},
		{"f y d", "one thing at a time: handing front over …", false},
	} {
		m := topAt(t.Context(), topRegion(0, 7, 100))
		cmd := press(m, strings.Fields(test.keys)...)
		if got := ansi.Strip(m.paint(m.footer())); !strings.HasPrefix(got, test.footer) && m.said != test.footer {
			t.Errorf("%s: the footer is %q, want %q", test.keys, got, test.footer)
		}
		if (cmd != nil) != test.acts {
			t.Errorf("%s: acts %t, want %t", test.keys, cmd != nil, test.acts)
		}
	}
}

func TestTopSaysWhatFailed(t *testing.T) {
	m := topAt(t.Context(), topRegion(0, 7, 100))
	m.Update(doneMsg{err: errors.New("front has no standby")})
	m.Update(polledMsg{err: errors.New("the API does not answer")})
	for _, want := range []string{"! front has no standby", "! as of 12:00:00 UTC: the API does not answer; trying again", "front-lb-1"} {
		if got := screen(m); !strings.Contains(got, want) {
			t.Errorf("the screen does not say %q:\n%s", want, got)
		}
	}
	m.Update(polledMsg{status: topRegion(time.Second, 7, 100)})
	if got := screen(m); strings.Contains(got, "trying again") {
		t.Errorf("the API answers, and the screen still says:\n%s", got)
	}
}

func TestTopKeepsSelectedWhatItHasDrained(t *testing.T) {
	m := topAt(t.Context(), topRegion(0, 7, 100))
	press(m, "down", "down", "down")
	s := topRegion(time.Second, 7, 100)
	s.LoadBalancers[0].Instances[0].Node.Servers = s.LoadBalancers[0].Instances[0].Node.Servers[1:]
	s.Machines[2].Drained = true
	m.Update(polledMsg{status: s})
	press(m, "u")
	if got, want := m.footer().text, "Undrain web-1? y/n"; got != want {
		t.Errorf("the footer is %q, want %q", got, want)
	}
}

func TestTopQuits(t *testing.T) {
	for _, keys := range []string{"q", "ctrl+c", "f ctrl+c", "? ctrl+c"} {
		cmd := press(topAt(t.Context(), topRegion(0, 7, 100)), strings.Fields(keys)...)
		if cmd == nil {
			t.Errorf("%s: goes on", keys)
		} else if _, ok := cmd().(tea.QuitMsg); !ok {
			t.Errorf("%s: does something else", keys)
		}
	}
}

func TestTopThatIsPausedDoesNotAsk(t *testing.T) {
	m := topAt(t.Context(), topRegion(0, 7, 100))
	press(m, "p")
	if m.Update(tickMsg{}); m.polling || !strings.Contains(screen(m), "paused") {
		t.Errorf("polling %t, want false, and the word paused:\n%s", m.polling, screen(m))
	}
	if press(m, "p") == nil || !m.polling {
		t.Error("after the pause it does not ask")
	}
}
