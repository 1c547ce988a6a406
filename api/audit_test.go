package api_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"weir/api"
	"weir/edge"
	"weir/weir"
)

// audits returns what a query of the audit log finds, as another user sees it.
func (r *region) audits(query url.Values) []weir.Audit {
	r.t.Helper()
	found, resp, err := call[struct{ Audit []weir.Audit }](r, "GET", "audit?"+query.Encode(), nil)
	if err != nil || resp.StatusCode != 200 {
		r.t.Fatalf("the audit log: %v", err)
	}
	return found.Audit
}

func TestEveryChangeIsOnRecord(t *testing.T) {
	r := lab(t).door(api.Options{})
	began := time.Now()
	droplet, resp, err := r.do.Droplets.Create(t.Context(), &godo.DropletCreateRequest{Name: "web-1", Region: "lab",
		Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"}, UserData: "#!/bin/sh\necho hunter2\n"})
	if err != nil {
		t.Fatal(err)
	}
	request := resp.Header.Get("X-Request-Id")
	id := fmt.Sprint(droplet.ID)
	for _, ask := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/v2/droplets", `{"names": ["a", "b"], "region": "lab", "size": "s-1vcpu-1gb", "image": "debian-12-x64"}`, 202},
		{"GET", "/v2/droplets", "", 200},
		{"POST", "/v2/tags", `{"name": "web"}`, 201},
		{"POST", "/v2/tags", `{"name": "hunter2 and 3"}`, 422},
		{"POST", "/v2/tags/web/resources", `{"resources": [{"resource_id": "` + id + `", "resource_type": "droplet"}]}`, 204},
		{"DELETE", "/v2/droplets?tag_name=web&secret=hunter2", "", 204},
		{"POST", "/v2/reserved_ips", `{"region": "lab"}`, 202},
		{"DELETE", "/v2/load_balancers/00000000-0000-4000-8000-000000000000", "", 404},
		{"PATCH", "/v2/tags", `{"password": "hunter2"}`, 405},
		{"POST", "/v2/account/keys", `{"name": "laptop", "public_key": "` + keyA + `"}`, 201},
		{"POST", "/v2/load_balancers", `{"name": "shop", "validate_only": true, "forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 80}]}`, 200},
	} {
		if a := r.ask(ask.method, ask.path, ask.body); a.status != ask.want {
			t.Fatalf("%s %s: %d %s, want %d", ask.method, ask.path, a.status, a.text, ask.want)
		}
	}
	all := r.audits(nil)
	var told []string
	for _, a := range slices.Backward(all) {
		told = append(told, fmt.Sprintf("%s %s %s %d %d", a.Method, a.Path, a.Resource, len(a.Created), a.Status))
		if a.User != "anna" || a.Token != "t-1" || a.From != netip.MustParseAddr("127.0.0.1") || a.Request == "" || a.At.Before(began) || a.At.After(time.Now()) {
			t.Errorf("%+v, want anna with token t-1 from 127.0.0.1, just now", a)
		}
		if (a.Err == "") != (a.Status < 400) {
			t.Errorf("%+v, want a sentence if it was refused, and none if not", a)
		}
	}
	want := []string{
		"POST /v2/droplets  1 202",
		"POST /v2/droplets  2 202",
		"POST /v2/tags  1 201",
		"POST /v2/tags  0 422",
		"POST /v2/tags/web/resources web 0 204",
		"DELETE /v2/droplets?tag_name=web  0 204",
		"POST /v2/reserved_ips  1 202",
		"DELETE /v2/load_balancers/00000000-0000-4000-8000-000000000000 00000000-0000-4000-8000-000000000000 0 404",
		"PATCH /v2/tags  0 405",
		"POST /v2/account/keys  1 201",
		"POST /v2/load_balancers  0 200", // which was a dry run
	}
	if !slices.Equal(told, want) {
		t.Fatalf("the audit log has\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
	first := all[len(all)-1]
	if string(first.Request) != request || !slices.Equal(first.Created, []weir.ID{weir.ID(id)}) {
		t.Errorf("the first is %+v, want request %s and droplet %s", first, request, id)
	}
	if got := all[len(all)-3].Created; !slices.Equal(got, []weir.ID{"web"}) {
		t.Errorf("making a tag made %v, want the tag by its name", got)
	}
	if got := all[len(all)-7].Created; len(got) != 1 || net.ParseIP(string(got[0])) == nil {
		t.Errorf("reserving an IP made %v, want the IP", got)
	}
	text := r.ask("GET", "/v2/weir/audit", "").text
	if strings.Contains(strings.ReplaceAll(text, "hunter2 and 3", ""), "hunter2") || strings.Contains(text, token) || strings.Contains(text, "weir_") {
		t.Errorf("a secret is in the audit log: %s", text)
	}
}

func TestTheAuditLogIsReadByPagesAndFilters(t *testing.T) {
	r := lab(t).door(api.Options{})
	for i := range 7 {
		as := "Bearer " + token
		if i%2 == 1 {
			as = "Bearer other"
		}
		if a := r.askWith("POST", "/v2/tags", fmt.Sprintf(`{"name": "tag-%d"}`, i), as); a.status != 201 {
			t.Fatal(a.text)
		}
	}
	if a := r.ask("DELETE", "/v2/droplets/7", ""); a.status != 404 {
		t.Fatal(a.text)
	}
	made := func(query string) string {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, a := range r.audits(q) {
			ids = append(ids, string(a.Created[0]))
		}
		return strings.Join(ids, " ")
	}
	all := r.audits(nil)
	middle := all[4] // tag-3
	for query, want := range map[string]string{
		"path=/v2/tags":                                "tag-6 tag-5 tag-4 tag-3 tag-2 tag-1 tag-0",
		"path=/v2/tags&limit=2":                        "tag-6 tag-5",
		"before=" + string(middle.ID):                  "tag-2 tag-1 tag-0",
		"limit=1&before=" + string(middle.ID):          "tag-2",
		"user=ben":                                     "tag-5 tag-3 tag-1",
		"user=ben&limit=1&before=" + string(all[3].ID): "tag-3",
		"token=t-2&path=/v2/ta":                        "tag-5 tag-3 tag-1",
		"token=t-3":                                    "",
		"path=/v2/tagsy":                               "",
		"path=/v2/tags&since=" + middle.At.Format(time.RFC3339Nano): "tag-6 tag-5 tag-4 tag-3",
	} {
		if got := made(query); got != want {
			t.Errorf("%s finds %s, want %s", query, got, want)
		}
	}
	if got := all[0]; got.Method != "DELETE" || got.Resource != "7" || got.Err != "The resource you were accessing could not be found." {
		t.Errorf("the newest is %+v, want the droplet that could not be deleted", got)
	}
	if middle.Team != "blue" || middle.User != "ben" {
		t.Errorf("%+v, want it of ben of team blue", middle)
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "before=a/b", "since=yesterday"} {
		name, _, _ := strings.Cut(query, "=")
		if a := r.ask("GET", "/v2/weir/audit?"+query, ""); a.status != 422 || !strings.HasPrefix(fmt.Sprint(a.body["message"]), name+" is ") {
			t.Errorf("%s: %d %s, want 422 and a sentence about it", query, a.status, a.text)
		}
	}
}

func TestStrangersDoNotFillTheAuditLog(t *testing.T) {
	r := lab(t)
	r = r.door(api.Options{Limits: edge.NewLimits(r.control, edge.LimitOptions{PerMinute: 1})})
	for range 40 {
		if a := r.askWith("POST", "/v2/"+strings.Repeat("x", 5000), `{}`, "Bearer wrong"); a.status != 401 {
			t.Fatalf("%d, want 401", a.status)
		}
	}
	for i := range 40 {
		if a := r.askWith("POST", "/v2/tags", `{"name": "x"}`, "Bearer other"); a.status != 429 && i > 0 {
			t.Fatalf("%d, want 429", a.status)
		}
	}
	count := map[int]int{}
	for _, a := range r.audits(nil) {
		count[a.Status]++
		if a.Status == 401 && (a.User != "" || a.Token != "" || len(a.Path) > 600) {
			t.Errorf("%.700v, want nobody's, and a short path", a)
		}
	}
	if count[401] < 1 || count[401] > 12 || count[429] < 1 || count[429] > 12 || count[201] != 1 {
		t.Errorf("%v by status, want about ten of the 40 that had no token, ten of the 39 that came too soon, and the one that was good", count)
	}
}

// dying is a control plane that dies before a request is answered, as far as the audit log goes.
type dying struct{ api.Control }

func (dying) EndAudit(context.Context, weir.Audit) error {
	return weir.Errorf(weir.Unavailable, "this member has died")
}

func TestAChangeIsOnRecordAlsoIfItsAnswerIsNot(t *testing.T) {
	whole := lab(t)
	r := whole.door(api.Options{Control: dying{whole.control}})
	if a := r.ask("POST", "/v2/tags", `{"name": "web"}`); a.status != 201 {
		t.Fatalf("%d %s, want 201", a.status, a.text)
	}
	if a := r.ask("POST", "/v2/tags", `{"name": "web"}`); a.status != 201 {
		t.Fatalf("%d %s, want 201", a.status, a.text)
	}
	all := whole.audits(nil)
	if len(all) != 1 || all[0].Status != 0 || all[0].User != "anna" || all[0].Path != "/v2/tags" {
		t.Errorf("%+v, want the one request that changed something, with no result", all)
	}
}

// fragile is a control plane with a mistake in it.
type fragile struct{ api.Control }

func (fragile) CreateTag(context.Context, string) error { panic("at the disco") }

func TestARequestThatPanickedIsOnRecord(t *testing.T) {
	r := lab(t)
	r = r.door(api.Options{Control: fragile{r.control}})
	if a := r.ask("POST", "/v2/tags", `{"name": "web"}`); a.status != 500 || a.body["id"] != "server_error" {
		t.Fatalf("%d %s, want 500", a.status, a.text)
	}
	if all := r.audits(nil); len(all) != 1 || all[0].Status != 500 || all[0].Err != "the request panicked" {
		t.Errorf("%+v, want the request with status 500", all)
	}
}
