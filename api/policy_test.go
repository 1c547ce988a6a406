package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/digitalocean/godo"
	"github.com/google/go-cmp/cmp"

	"weir/api"
	"weir/weir"
)

// everything is a policy with all there is in one, beside a droplet's ID.
const everything = `{
	"split": {"green": 5},
	"target_groups": [
		{"name": "green", "tag": "green", "target_port": 9090, "health_check": {"path": "/up", "check_interval_seconds": 4}},
		{"name": "api", "droplet_ids": [%s], "split": {"green": 50}}],
	"routes": [
		{"hosts": ["api.shop.example", "*.api.shop.example"], "path": "/v1", "group": "api", "rewrite": {"host": "api", "path_prefix": "/"},
			"request_headers": {"set": {"X-Api": "1"}}, "response_headers": {"remove": ["Server"]}},
		{"path": "/old", "redirect": {"scheme": "https", "host": "shop.example", "port": 8443, "path_prefix": "/new", "status": 301}}],
	"request_headers": {"set": {"X-Shop": "yes"}, "remove": ["X-Secret"]},
	"response_headers": {"set": {"X-Frame-Options": "DENY"}},
	"compression": true,
	"error_pages": {"503": "<h1>later</h1>"},
	"maintenance": {"on": false, "page": "<h1>closed</h1>", "retry_after_seconds": 600, "allow": ["cidr:192.0.2.0/24"]},
	"rate_limit": {"requests": 100, "period_seconds": 10},
	"connection_limit": 20,
	"basic_auth": {"realm": "Shop", "users": [{"name": "ann", "password": "correct horse"}, {"name": "bob", "password": "battery staple"}]},
	"slow_start_seconds": 30, "drain_seconds": 90}`

// balancerBody is the body of a load balancer with a policy; without one if that is empty.
func balancerBody(policy string) string {
	if policy != "" {
		policy = `, "weir": ` + policy
	}
	return `{"name": "shop", "forwarding_rules": [{"entry_protocol": "http", "entry_port": 80, "target_protocol": "http", "target_port": 8080}]` + policy + `}`
}

// policyOf returns the policy of an answer, and the ID of its load balancer.
func policyOf(t *testing.T, a answer) (policy map[string]any, id string) {
	t.Helper()
	lb, ok := a.body["load_balancer"].(map[string]any)
	if !ok {
		t.Fatalf("%d %s, want a load balancer", a.status, a.text)
	}
	policy, _ = lb["weir"].(map[string]any)
	delete(policy, "plan")
	return policy, lb["id"].(string)
}

// login returns how a load balancer has clients log in.
func (r *region) login(id string) *weir.Login {
	r.t.Helper()
	lb, err := r.control.LoadBalancer(r.t.Context(), weir.ID(id))
	if err != nil {
		r.t.Fatal(err)
	}
	return lb.Policy.Handling.Login
}

func TestAGroupsCheckIsTheLoadBalancersButForWhatItSays(t *testing.T) {
	r := lab(t)
	policy := `{"target_groups": [
		{"name": "as", "tag": "as", "health_check": {"path": "/up"}},
		{"name": "but", "tag": "but", "health_check": {"proxy_protocol": false}}]}`
	body := `{"health_check": {"protocol": "http", "port": 9090, "path": "/", "check_interval_seconds": 4, "proxy_protocol": true}, ` + balancerBody(policy)[1:]
	want := map[string]any{"protocol": "http", "port": 9090.0, "path": "/up", "check_interval_seconds": 4.0,
		"response_timeout_seconds": 5.0, "unhealthy_threshold": 3.0, "healthy_threshold": 5.0, "proxy_protocol": true}
	other := maps.Clone(want)
	other["path"], other["proxy_protocol"] = "/", false
	got, _ := policyOf(t, r.ask("POST", "/v2/load_balancers", body))
	for i, want := range []map[string]any{want, other} {
		if diff := cmp.Diff(want, got["target_groups"].([]any)[i].(map[string]any)["health_check"]); diff != "" {
			t.Errorf("target_groups[%d].health_check (-want +got):\n%s", i, diff)
		}
	}
}

func TestAPolicyIsAnsweredSoThatItCanBePutBack(t *testing.T) {
	r := lab(t)
	made := r.droplets([]string{"a"})
	said := fmt.Sprintf(everything, fmt.Sprint(made[0].ID))
	var want map[string]any
	if err := json.Unmarshal([]byte(said), &want); err != nil {
		t.Fatal(err)
	}
	// What was left out of the group's check is the load balancer's; passwords are not told.
	want["target_groups"].([]any)[0].(map[string]any)["health_check"] = map[string]any{"protocol": "http", "port": 9090.0, "path": "/up", "check_interval_seconds": 4.0,
		"response_timeout_seconds": 5.0, "unhealthy_threshold": 3.0, "healthy_threshold": 5.0, "proxy_protocol": false}
	want["basic_auth"].(map[string]any)["users"] = []any{map[string]any{"name": "ann"}, map[string]any{"name": "bob"}}

	a := r.ask("POST", "/v2/load_balancers", balancerBody(said))
	got, id := policyOf(t, a)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("policy (-want +got):\n%s", diff)
	}
	login := r.login(id)
	for _, u := range login.Users {
		if password := map[string]string{"ann": "correct horse", "bob": "battery staple"}[u.Name]; u.Hash != login.Hash(u.Name, password) {
			t.Errorf("%s has another password than was said", u.Name)
		}
	}
	if len(login.Salt) != 16 {
		t.Errorf("the salt has %d bytes, want 16", len(login.Salt))
	}

	echo, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	revision := func() any {
		lb, err := r.control.LoadBalancer(t.Context(), weir.ID(id))
		if err != nil {
			t.Fatal(err)
		}
		return lb.Policy
	}
	before := revision()
	beside := `{"plan": ["wait"], "drained": [], "error": "none", "deleting": false, ` + string(echo)[1:]
	for _, body := range []string{balancerBody(string(echo)), balancerBody(beside), balancerBody(said), balancerBody(""), balancerBody("null")} {
		again, _ := policyOf(t, r.ask("PUT", "/v2/load_balancers/"+id, body))
		if diff := cmp.Diff(want, again); diff != "" {
			t.Errorf("put back (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(before, revision()); diff != "" {
			t.Errorf("%s: stored (-before +after):\n%s", body, diff)
		}
	}
	if _, _, err := r.do.LoadBalancers.Update(t.Context(), id, &godo.LoadBalancerRequest{Name: "shop", ForwardingRules: []godo.ForwardingRule{webRule}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, revision()); diff != "" {
		t.Errorf("after godo's update (-before +after):\n%s", diff)
	}
	checked, _ := policyOf(t, r.ask("PUT", "/v2/load_balancers/"+id, `{"validate_only": true, `+balancerBody(`{"compression": true}`)[1:]))
	if diff := cmp.Diff(map[string]any{"compression": true}, checked); diff != "" {
		t.Errorf("only checked (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, revision()); diff != "" {
		t.Errorf("after a check (-before +after):\n%s", diff)
	}
	if none, _ := policyOf(t, r.ask("PUT", "/v2/load_balancers/"+id, balancerBody("{}"))); len(none) != 0 {
		t.Errorf("policy %v, want none after {}", none)
	}
	if diff := cmp.Diff(weir.Policy{}, revision()); diff != "" {
		t.Errorf("stored after {} (-want +got):\n%s", diff)
	}
}

func TestAPasswordIsKeptUntilAnotherIsSaidAndNeverShown(t *testing.T) {
	r := lab(t)
	users := func(users string) string { return balancerBody(`{"basic_auth": {"users": [` + users + `]}}`) }
	a := r.ask("POST", "/v2/load_balancers", users(`{"name": "ann", "password": "correct horse"}, {"name": "bob", "password": "battery staple"}`))
	_, id := policyOf(t, a)
	first := r.login(id)
	put := func(body string) *weir.Login {
		t.Helper()
		if a := r.ask("PUT", "/v2/load_balancers/"+id, body); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.text)
		}
		return r.login(id)
	}
	second := put(users(`{"name": "ann"}, {"name": "bob", "password": "another one"}`))
	if string(second.Salt) != string(first.Salt) || second.Users[0] != first.Users[0] {
		t.Error("ann has another password, want that she keeps hers")
	}
	if second.Users[1].Hash != second.Hash("bob", "another one") {
		t.Error("bob has not the password that was said")
	}
	third := put(users(`{"name": "ann", "password": "something else"}, {"name": "bob", "password": "something else"}`))
	if string(third.Salt) == string(second.Salt) {
		t.Error("the salt is the same, want another once nobody keeps a password")
	}
	for _, body := range []string{users(`{"name": "eve"}`), users(`{"name": "ann"}, {"name": "eve"}`)} {
		if a := r.ask("PUT", "/v2/load_balancers/"+id, body); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.text, `basic_auth: user \"eve\" has no password, want one`) {
			t.Errorf("%d %s, want 422 for a new user without a password", a.status, a.text)
		}
	}
	for _, path := range []string{"/v2/load_balancers", "/v2/load_balancers/" + id, "/v2/weir/status", "/v2/weir/audit", "/v2/weir/events"} {
		text := r.ask("GET", path, "").text
		for _, secret := range []string{"horse", "staple", "another one", "something else", third.Users[0].Hash} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %q: %s", path, secret, text)
			}
		}
	}
	if strings.Contains(r.log.String(), "something else") {
		t.Errorf("the log has a password: %s", r.log)
	}
}

func TestAWrongPolicyIsOneSentence(t *testing.T) {
	r := lab(t)
	group := `"target_groups": [{"name": "green", "tag": "green"}]`
	for policy, want := range map[string]string{
		`7`:                       `weir is a number, want an object`,
		`{"split": {"green": 5}}`: `split: \"green\", and target_groups has no such group`,
		`{"basic_auht": {}}`:      `weir has \"basic_auht\" in it, which is no field of what a load balancer does`,
		`{"haproxy": "log x"}`:    `weir has \"haproxy\" in it, which is no field`,
		`{"request_headers": {"sets": {"X": "y"}}}`: `weir has \"sets\" in it, which is no field`,
		`{"split": 5}`:                                                          `weir.split is a number, want an object`,
		`{"split": {"green": "5"}}`:                                             `weir.split is a string, want an integer`,
		`{"split": {"green": 101}, ` + group + `}`:                              `split: group \"green\" gets 101 %, want 0 to 100`,
		`{"target_groups": [{"name": "green", "droplet_ids": [0]}]}`:            `target_groups[0].droplet_ids[0] is 0, want the ID of a droplet`,
		`{"target_groups": [{"name": "green", "droplet_ids": [77]}]}`:           `target_groups[0].droplet_ids: there is no droplet 77`,
		`{"target_groups": [{"name": "a b"}]}`:                                  `target_groups[0].name is \"a b\", want 1 to 40 letters, digits, _, : and -`,
		`{"target_groups": [{"name": "a", "health_check": {"port": 70000}}]}`:   `target_groups[0].health_check: port`,
		`{"routes": [{"path": "api"}]}`:                                         `routes[0].path is \"api\"`,
		`{"routes": [{"group": "api"}]}`:                                        `routes[0].group is \"api\", and target_groups has no such group`,
		`{"routes": [{"redirect": {}}]}`:                                        `routes[0].redirect.scheme, host, port, path and path_prefix are all empty`,
		`{"request_headers": {"set": {"Host": "x"}}}`:                           `request_headers: Host is for the load balancer alone to say`,
		`{"response_headers": {"set": {"X": "a\nb"}}}`:                          `response_headers: the value of X`,
		`{"error_pages": {"soon": "x"}}`:                                        `error_pages has \"soon\", want statuses such as 503`,
		`{"error_pages": {"200": "x"}}`:                                         `error_pages has 200, want statuses among`,
		`{"maintenance": {"on": true, "allow": ["192.0.2.1"]}}`:                 `maintenance: allow:`,
		`{"rate_limit": {"requests": 5}}`:                                       `rate_limit: period_seconds is 0, want 1 to 3600`,
		`{"connection_limit": -1}`:                                              `connection_limit is -1`,
		`{"basic_auth": {}}`:                                                    `basic_auth: there are no users, want one at least`,
		`{"basic_auth": {"users": [{"name": "ann", "password": "short"}]}}`:     `basic_auth: user \"ann\": the password is not of 8 to 128 printable characters of ASCII`,
		`{"basic_auth": {"users": [{"name": "ann", "password": "dreizehn€"}]}}`: `basic_auth: user \"ann\": the password is not of 8 to 128 printable`,
		`{"basic_auth": {"users": [{"name": "ann", "password": 12345678}]}}`:    `weir.basic_auth.users.password is a number, want a string`,
		`{"client_certificates": {"ca": "x"}}`:                                  `client_certificates: ca is not all certificates in PEM`,
		`{"slow_start_seconds": 601}`:                                           `slow_start_seconds is 601, want 0 to 600`,
		`{"drain_seconds": 3601}`:                                               `drain_seconds is 3601, want 0 to 3600`,
	} {
		a := r.ask("POST", "/v2/load_balancers", balancerBody(policy))
		if a.status != http.StatusUnprocessableEntity || !strings.Contains(a.text, want) {
			t.Errorf("%s: %d %s, want 422 and %s", policy, a.status, a.text, want)
		}
		if strings.Contains(a.text, "dreizehn") || strings.Contains(a.text, "short") {
			t.Errorf("%s: the sentence has the password: %s", policy, a.text)
		}
	}
}

func TestAnAppHasAPolicyThatAppliedAgainChangesNothing(t *testing.T) {
	r := lab(t)
	app := web(1)
	app.LoadBalancer.BalancerPolicy = api.BalancerPolicy{
		Split: map[string]int{"green": 5}, TargetGroups: []api.TargetGroup{{Name: "green", Tag: "green"}}, DrainSeconds: 60,
		BasicAuth: &api.BasicAuth{Users: []api.BasicAuthUser{{Name: "ann", Password: "correct horse"}, {Name: "bob", Password: "battery staple"}}}}
	if did, _, err := call[api.Applied](r, "PUT", "app", app); err != nil || len(did.Changes) != 2 {
		t.Fatalf("%+v (%v), want a pool and a load balancer", did, err)
	}
	if same, _, err := call[api.Applied](r, "PUT", "app", app); err != nil || len(same.Changes) != 0 {
		t.Errorf("applied again: %+v (%v), want no change", same, err)
	}
	app.LoadBalancer.Split = nil
	app.LoadBalancer.BasicAuth.Users[1].Password = "another one"
	want := []string{"load balancer front: split: none, was green 5 %", "load balancer front: basic_auth: another password of bob"}
	if did, _, err := call[api.Applied](r, "PUT", "app", app); err != nil || !cmp.Equal(did.Changes, want) {
		t.Errorf("applied with changes: %q (%v), want %q", did.Changes, err, want)
	}
	if same, _, err := call[api.Applied](r, "PUT", "app", app); err != nil || len(same.Changes) != 0 {
		t.Errorf("applied again: %+v (%v), want no change", same, err)
	}
}

func TestAnAppHasNoUnknownFields(t *testing.T) {
	r := lab(t)
	text, err := json.Marshal(web(1))
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Replace(string(text), `"forwarding_rules"`, `"basic_auht": {}, "forwarding_rules"`, 1)
	if a := r.ask("PUT", "/v2/weir/app", body); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.text, `\"basic_auht\" is unknown`) {
		t.Errorf("%d %s, want 422: a slip would open the door", a.status, a.text)
	}
}

func TestADryApplyIsRefusedAsTheApplyWouldBe(t *testing.T) {
	r := lab(t)
	app := web(1)
	app.LoadBalancer.TargetGroups = []api.TargetGroup{{Name: "green", DropletIDs: []int64{77}}}
	const want = `load balancer "front": target_groups[0].droplet_ids: there is no droplet 77`
	for _, path := range []string{"app?dry_run=true", "app"} {
		if _, _, err := call[api.Applied](r, "PUT", path, app); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	app.LoadBalancer.TargetGroups[0] = api.TargetGroup{Name: "green", Tag: "green"}
	if did, _, err := call[api.Applied](r, "PUT", "app?dry_run=true", app); err != nil || len(did.Changes) != 2 {
		t.Errorf("dry: %+v (%v), want a pool and a load balancer", did, err)
	}
	for _, path := range []string{"/v2/load_balancers", "/v2/tags"} {
		if a := r.ask("GET", path, ""); strings.Contains(a.text, "front") || strings.Contains(a.text, "green") {
			t.Errorf("%s has something after a dry apply: %s", path, a.text)
		}
	}
}

func TestOneCallSplitsMaintainsAndDrains(t *testing.T) {
	r := lab(t)
	made := r.droplets([]string{"a", "b"})
	body := fmt.Sprintf(`{"drain_seconds": 45, "target_groups": [{"name": "green", "droplet_ids": [%d]}, {"name": "api", "droplet_ids": [%d]}]}`, made[1].ID, made[1].ID)
	_, id := policyOf(t, r.ask("POST", "/v2/load_balancers", strings.Replace(balancerBody(body), `"name"`, fmt.Sprintf(`"droplet_ids": [%d], "name"`, made[0].ID), 1)))
	r.eventually("both droplets are there", func() bool {
		for _, d := range made {
			if is, _, err := r.do.Droplets.Get(t.Context(), d.ID); err != nil || is.Status != "active" {
				return false
			}
		}
		return true
	})
	ask := func(method, verb, body string) (answer, map[string]any) {
		t.Helper()
		a := r.ask(method, "/v2/weir/load_balancers/shop/"+verb, body)
		if a.status != http.StatusOK {
			t.Fatalf("%s %s: %d %s", verb, body, a.status, a.text)
		}
		policy, _ := policyOf(t, a)
		return a, policy
	}
	if _, p := ask("PUT", "split", `{"split": {"green": 100}}`); !cmp.Equal(p["split"], any(map[string]any{"green": 100.0})) {
		t.Errorf("split %v, want all to green", p["split"])
	}
	if _, p := ask("PUT", "split", `{"split": {"green": 10}, "group": "api"}`); !cmp.Equal(p["target_groups"].([]any)[1].(map[string]any)["split"], any(map[string]any{"green": 10.0})) {
		t.Errorf("groups %v, want api to share with green", p["target_groups"])
	}
	if _, p := ask("PUT", "split", `{"split": {}}`); p["split"] != nil {
		t.Errorf("split %v, want none", p["split"])
	}
	ask("PUT", "maintenance", `{"on": true, "page": "<h1>closed</h1>", "retry_after_seconds": 60, "allow": ["ip:192.0.2.1"]}`)
	if _, p := ask("PUT", "maintenance", `{"on": false}`); !cmp.Equal(p["maintenance"], any(map[string]any{"on": false, "page": "<h1>closed</h1>", "retry_after_seconds": 60.0, "allow": []any{"ip:192.0.2.1"}})) {
		t.Errorf("maintenance %v, want it off, and the rest kept", p["maintenance"])
	}
	a, p := ask("POST", "drain", fmt.Sprintf(`{"droplet_id": %d}`, made[0].ID))
	if want := []any{map[string]any{"droplet_id": float64(made[0].ID), "seconds": 45.0}}; !cmp.Equal(p["drained"], any(want)) || a.body["alone"] != true {
		t.Errorf("drained %v, alone %v, want %v, and that nothing else serves", p["drained"], a.body["alone"], want)
	}
	body = strings.Replace(balancerBody("{}"), `"name"`, fmt.Sprintf(`"droplet_ids": [%d, %d], "name"`, made[0].ID, made[1].ID), 1)
	if p, _ := policyOf(t, r.ask("PUT", "/v2/load_balancers/"+id, body)); !cmp.Equal(p["drained"], any([]any{map[string]any{"droplet_id": float64(made[0].ID), "seconds": 45.0}})) {
		t.Errorf("policy %v, want none but that a is drained as before", p)
	}
	if a, p := ask("POST", "drain", fmt.Sprintf(`{"droplet_id": %d, "seconds": 5}`, made[0].ID)); len(p["drained"].([]any)) != 1 || a.body["alone"] != false {
		t.Errorf("drained %v, alone %v, want one droplet, and another that serves", p["drained"], a.body["alone"])
	}
	if _, p := ask("POST", "undrain", fmt.Sprintf(`{"droplet_id": %d}`, made[0].ID)); p["drained"] != nil {
		t.Errorf("drained %v, want none", p["drained"])
	}
	ask("POST", "undrain", fmt.Sprintf(`{"droplet_id": %d}`, made[0].ID))

	all, err := r.control.Events(t.Context(), weir.ID(id), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range all {
		if e.Kind == weir.EventRequest {
			told = append(told, e.Text)
		}
	}
	want := []string{"splits requests: green 100 %, its own machines 0 %", "splits requests of group api: green 10 %, api 90 %", "splits requests: its own machines 100 %",
		"is in maintenance: requests are answered with 503", "is no longer in maintenance", "drains a: no new requests, and 45s to finish those that it has",
		"drains a: no new requests, and 5s to finish those that it has", "lets a serve again"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}

	for _, c := range []struct{ method, verb, body, want string }{
		{"PUT", "split", `{}`, `split is missing`},
		{"PUT", "split", `{"split": {}, "grup": "api"}`, `\"grup\" is unknown, want only fields that there are`},
		{"PUT", "maintenance", `{"on": true, "alow": []}`, `\"alow\" is unknown`},
		{"POST", "drain", `{"droplet_id": 77, "deadline": 5}`, `\"deadline\" is unknown`},
		{"PUT", "split", `{"split": {"red": 5}}`, `split: \"red\", and target_groups has no such group`},
		{"PUT", "split", `{"split": {"red": 5}, "group": "red"}`, `group is \"red\", and target_groups has no such group`},
		{"PUT", "maintenance", `{"page": "x"}`, `on is missing, want true or false`},
		{"PUT", "maintenance", `{"on": true, "retry_after_seconds": -1}`, `maintenance: retry_after_seconds is -1`},
		{"POST", "drain", `{}`, `droplet_id is 0, want the ID of a droplet`},
		{"POST", "drain", `{"droplet_id": 77}`, `droplet_id is 77, which is none of its targets`},
		{"POST", "drain", fmt.Sprintf(`{"droplet_id": %d, "seconds": 3601}`, made[0].ID), fmt.Sprintf(`drained: droplet %d: 3601 seconds, want 0 to 3600`, made[0].ID)},
		{"POST", "undrain", `{"droplet_id": 77}`, `droplet_id is 77, which is none of its targets`},
	} {
		if a := r.ask(c.method, "/v2/weir/load_balancers/shop/"+c.verb, c.body); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.text, c.want) {
			t.Errorf("%s %s: %d %s, want 422 and %s", c.verb, c.body, a.status, a.text, c.want)
		}
	}
}
