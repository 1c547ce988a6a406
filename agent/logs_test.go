package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/accesslog"
	"weir/weir"
)

func TestWhoeverAsksIsToldTheAccessLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.startControl()
		logged := newConfig(3)
		w.Put(logged)
		around := around(w.proxy)
		w.start(func(ctx context.Context) error { return run(ctx, w.config, around) })
		take := func(access *accesslog.Log, id string, status int) {
			access.Take(fmt.Appendf(nil, `{"time":"2026-11-28T19:30:00.123Z","request_id":%q,"status":%d}`, id, status), time.Millisecond, time.Millisecond)
		}
		w.Ask(weir.LogQuery{ID: "early", Recent: 10, Follow: true})
		time.Sleep(10 * time.Second)
		if got := w.Logged("early"); got != "" {
			t.Fatalf("there is no access log, and %q was told", got)
		}

		logged.Revision, logged.Proxy.Log = 4, &weir.AccessLog{}
		w.Put(logged)
		time.Sleep(5 * time.Second)
		take(around.access, "a", 200)
		take(around.access, "b", 502)
		w.Ask(weir.LogQuery{ID: "all", Recent: 10, Follow: true}, weir.LogQuery{ID: "bad", Recent: 10, Follow: true, LogFilter: weir.LogFilter{From: 500, To: 599}},
			weir.LogQuery{ID: "last", Recent: 1})
		time.Sleep(time.Second)
		take(around.access, "c", 503)
		time.Sleep(time.Second)
		ids := func(query weir.ID) (all string) {
			for line := range strings.Lines(w.Logged(query)) {
				if _, rest, ok := strings.Cut(line, `"request_id":"`); ok {
					all += rest[:1]
					if !strings.Contains(line, `"instance":"17"`) {
						t.Errorf("%s does not say whose it is", line)
					}
				} else {
					all += "|"
				}
			}
			return all
		}
		for query, want := range map[weir.ID]string{"all": "ab|c", "bad": "b|c", "last": "b|"} {
			if got := ids(query); got != want {
				t.Errorf("%s was told %s, want %s", query, got, want)
			}
		}

		// A member that starts anew is told again from where it was.
		w.Ask(weir.LogQuery{ID: "all", Recent: 10, Follow: true})
		time.Sleep(time.Second)
		take(around.access, "d", 200)
		time.Sleep(time.Second)
		if got := ids("all"); got != "ab|cd" || ids("bad") != "b|c" {
			t.Errorf("all was told %s and bad %s, want ab|cd, and no more for who asks no more", got, ids("bad"))
		}
	})
}
