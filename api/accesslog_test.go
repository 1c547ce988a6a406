package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"weir/weir"
)

// logging is a region with a load balancer that runs, and its ID.
func logging(t *testing.T, accessLog string) (r *region, lb string) {
	t.Helper()
	r = lab(t)
	r.serve()
	r.droplets([]string{"web-1"}, "web")
	got := r.ask("POST", "/v2/load_balancers", `{"name": "front", "region": "lab", "tag": "web", "forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}], "weir": {`+accessLog+`}}`)
	if got.status != http.StatusAccepted {
		t.Fatalf("create: %d %s", got.status, got.text)
	}
	lb = got.body["load_balancer"].(map[string]any)["id"].(string)
	r.eventually("both instances report", func() bool { return len(r.instances(lb)) == 2 })
	return r, lb
}

// instances returns the machines of a load balancer that have reported.
func (r *region) instances(lb string) (ids []weir.ID) {
	s, err := r.control.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, b := range s.LoadBalancers {
		for _, in := range b.Instances {
			if string(b.ID) == lb && in.Node.Revision != 0 {
				ids = append(ids, in.Machine)
			}
		}
	}
	return ids
}

func logLine(second int, id string) string {
	return fmt.Sprintf(`{"time":"2026-11-28T19:30:%02d.000Z","request_id":%q,"client":"192.0.2.7","status":200,"total_ms":3,"instance":"1"}`+"\n", second, id)
}

// tell has a node answer each question about its log with what the function writes, until the test ends.
func (r *region) tell(node weir.ID, write func(weir.LogQuery, io.Writer)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	r.t.Cleanup(func() { cancel(); wg.Wait() })
	wg.Go(func() {
		told := map[weir.ID]bool{}
		for after := int64(0); ctx.Err() == nil; {
			all, err := r.control.LogQueries(ctx, node, after)
			if err != nil {
				return
			}
			after = all.Version
			for _, q := range all.Queries {
				if told[q.ID] {
					continue
				}
				told[q.ID] = true
				body, lines := io.Pipe()
				wg.Go(func() {
					r.control.TakeLog(ctx, node, q.ID, body)
					body.Close()
				})
				wg.Go(func() {
					write(q, lines)
					if !q.Follow {
						lines.Close()
					}
				})
			}
		}
	})
}

const recent = "{\"recent\":true}\n"

func TestLastLinesOfAllInstancesAreInOrder(t *testing.T) {
	r, lb := logging(t, `"access_log": {}`)
	nodes := r.instances(lb)
	r.tell(nodes[0], func(_ weir.LogQuery, w io.Writer) { io.WriteString(w, logLine(1, "a")+logLine(5, "e")+recent) })
	r.tell(nodes[1], func(_ weir.LogQuery, w io.Writer) {
		io.WriteString(w, logLine(4, "d")+logLine(2, "b")+logLine(3, "c")+recent)
	})
	got := r.ask("GET", "/v2/weir/load_balancers/front/logs?lines=4", "")
	if want := logLine(2, "b") + logLine(3, "c") + logLine(4, "d") + logLine(5, "e"); got.status != 200 || got.text != want || got.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%d %s:\n%s\nwant\n%s", got.status, got.header.Get("Content-Type"), got.text, want)
	}
}

func TestLogIsFollowedAndTellsWhatIsLeftOut(t *testing.T) {
	r, lb := logging(t, `"access_log": {}`)
	nodes := r.instances(lb)
	asked, later := make(chan weir.LogQuery, 2), make(chan string)
	for i, node := range nodes {
		r.tell(node, func(q weir.LogQuery, w io.Writer) {
			asked <- q
			io.WriteString(w, recent)
			if i == 0 {
				for text := range later {
					io.WriteString(w, text)
				}
			}
		})
	}
	defer close(later)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/v2/weir/load_balancers/"+lb+"/logs?follow=true&status=5xx&method=get&host=shop.example&path=/api&client=192.0.2.0/24&server=web-1&slower_than_ms=500&request_id=x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	q := <-asked
	if q.String() != "status 500 to 599, method get, host shop.example, path /api…, client 192.0.2.0/24, server web-1, 500ms or slower, request x" || !q.Follow || q.Recent != 100 {
		t.Errorf("nodes are asked %+v (%s)", q, &q.LogFilter)
	}
	lines := bufio.NewReader(resp.Body)
	for _, text := range []string{logLine(1, "a"), "{\"left_out\":12}\n", logLine(2, "b")} {
		later <- text
		for {
			got, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if got == "\n" {
				continue // a sign of life
			}
			if got != text {
				t.Errorf("got %q, want %q", got, text)
			}
			break
		}
	}
	cancel()
	r.eventually("nobody is asked any more", func() bool {
		all, err := r.control.LogQueries(t.Context(), nodes[0], 0)
		return err == nil && len(all.Queries) == 0
	})
}

func TestLogThatIsNotThereIsOneSentence(t *testing.T) {
	r, lb := logging(t, "")
	got := r.ask("GET", "/v2/weir/load_balancers/"+lb+"/logs", "")
	if message, _ := got.body["message"].(string); got.status != 422 || !strings.Contains(message, `load balancer "front" has no access log: `) {
		t.Errorf("%d %s, want 422 that says how to have one", got.status, got.text)
	}
	for query, want := range map[string]string{
		"lines=many":         `lines is "many", want 0 to 1000`,
		"lines=1001":         `lines is "1001", want 0 to 1000`,
		"follow=yes":         `follow is "yes", want true or false`,
		"status=6":           `status is "6", want one such as 404, 5xx, >=500 or 500-503`,
		"status=500-400":     `status is "500-400", want one such as 404, 5xx, >=500 or 500-503`,
		"path=api":           `path is "api", want what paths begin with, such as /api`,
		"client=shop":        `client is "shop", want an address or a network, such as 192.0.2.7 or 192.0.2.0/24`,
		"slower_than_ms=1.5": `slower_than_ms is "1.5", want 0 to 86400000`,
	} {
		got := r.ask("GET", "/v2/weir/load_balancers/"+lb+"/logs?"+query, "")
		if message := got.body["message"]; got.status != 422 || message != want {
			t.Errorf("%s: %d %s, want 422 and %q", query, got.status, got.text, want)
		}
	}
	if got := r.ask("GET", "/v2/weir/load_balancers/none/logs", ""); got.status != 404 {
		t.Errorf("a load balancer that is not there: %d, want 404", got.status)
	}
	other := r.newToken("of others", "others", weir.ScopeRead).Secret
	if got := r.askWith("GET", "/v2/weir/load_balancers/"+lb+"/logs", "", "Bearer "+other); got.status != 404 {
		t.Errorf("another team's: %d, want 404", got.status)
	}
}

func TestWhereLinesAreSentIsTheOperators(t *testing.T) {
	r, lb := logging(t, `"access_log": {"file": true, "sample": 10}`)
	tenant := "Bearer " + r.newToken("a tenant's", "", weir.ScopeRead, weir.ScopeWrite).Secret
	body := func(parts string) string {
		return `{"name": "front", "region": "lab", "tag": "web", "forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}]` + parts + `}`
	}
	path := "/v2/load_balancers/" + lb
	log := func(a answer) string {
		b, _ := a.body["load_balancer"].(map[string]any)
		w, _ := b["weir"].(map[string]any)
		text, _ := json.Marshal(w["access_log"])
		return string(text)
	}
	for _, c := range []struct{ who, parts, want string }{
		{"Bearer " + token, ``, `{"file":true,"sample":10}`}, // what does not know of it leaves it
		{tenant, `, "weir": {"access_log": {"syslog": "udp://192.0.2.9:514"}}`, ""},
		{"Bearer " + token, `, "weir": {"access_log": {"syslog": "udp://192.0.2.9:514"}}`, `{"syslog":"udp://192.0.2.9:514"}`},
		{tenant, `, "weir": {"access_log": {"syslog": "udp://192.0.2.9:514", "file": true}}`, `{"file":true,"syslog":"udp://192.0.2.9:514"}`},
		{tenant, `, "weir": {"access_log": {"syslog": "tcp://192.0.2.9:514"}}`, ""},
		{tenant, `, "weir": {"access_log": {}}`, `{}`},
		{tenant, `, "weir": {}`, `null`},
	} {
		got := r.askWith("PUT", path, body(c.parts), c.who)
		if message, _ := got.body["message"].(string); c.want == "" && (got.status != 422 || !strings.Contains(message, "the operator's to say")) {
			t.Errorf("a tenant's %s: %d %s, want a refusal", c.parts, got.status, got.text)
		}
		if c.want != "" && (got.status != 200 || log(got) != c.want) {
			t.Errorf("%s: %d %s, want %s", c.parts, got.status, log(got), c.want)
		}
	}
	for parts, want := range map[string]string{
		`{"syslog": "syslog.example"}`:           `syslog is "syslog.example", want udp://HOST:PORT or tcp://HOST:PORT`,
		`{"syslog": "udp://192.0.2.9"}`:          `want udp://HOST:PORT`,
		`{"syslog": "http://192.0.2.9:514"}`:     `want udp://HOST:PORT`,
		`{"syslog": "udp://a b:514"}`:            `want udp://HOST:PORT`,
		`{"syslog": "udp://127.0.0.1:514"}`:      `instances have nobody at 127.0.0.1`,
		`{"syslog": "tcp://169.254.169.254:80"}`: `instances have nobody at 169.254.169.254`,
		`{"sample": -1}`:                         `sample is -1, want 1 to 10000`,
	} {
		got := r.ask("PUT", path, body(`, "weir": {"access_log": `+parts+`}`))
		if message, _ := got.body["message"].(string); got.status != 422 || !strings.Contains(message, "access_log."+want) && !strings.Contains(message, want) {
			t.Errorf("%s: %d %s, want 422 and %q", parts, got.status, got.text, want)
		}
	}
}
