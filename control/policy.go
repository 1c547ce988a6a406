package control

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"weir/weir"
)

// changedPolicy returns a sentence for each part of a policy that differs. None has a secret, or a page.
func changedPolicy(of string, was, want *weir.Policy) (changes []string) {
	w, h := &was.Handling, &want.Handling
	changes = changed(of, []field{
		{"split", shared(was.Split), shared(want.Split)},
		{"target_groups", grouped(was.Groups), grouped(want.Groups)},
		{"routes", routed(was.Routes), routed(want.Routes)},
		{"request_headers", headed(w.Headers.SetRequest, w.Headers.RemoveRequest), headed(h.Headers.SetRequest, h.Headers.RemoveRequest)},
		{"response_headers", headed(w.Headers.SetResponse, w.Headers.RemoveResponse), headed(h.Headers.SetResponse, h.Headers.RemoveResponse)},
		{"compression", w.Compress, h.Compress},
		{"error_pages", slices.Sorted(maps.Keys(w.Pages)), slices.Sorted(maps.Keys(h.Pages))},
		{"maintenance", maintained(w.Maintenance), maintained(h.Maintenance)},
		{"rate_limit", limited(w.Rate), limited(h.Rate)},
		{"connection_limit", w.Connections, h.Connections},
		{"basic_auth", entitled(w.Login), entitled(h.Login)},
		{"client_certificates", certified(w.ClientCerts), certified(h.ClientCerts)},
		{"slow_start_seconds", int(was.SlowStart / time.Second), int(want.SlowStart / time.Second)},
		{"drain_seconds", int(was.Drain / time.Second), int(want.Drain / time.Second)},
	})
	// What is changed and looks the same as a person says it: texts, and secrets.
	for _, part := range [...]struct {
		name      string
		was, want any
	}{
		{"target_groups", was.Groups, want.Groups}, {"routes", was.Routes, want.Routes}, {"request_headers", w.Headers.SetRequest, h.Headers.SetRequest},
		{"response_headers", w.Headers.SetResponse, h.Headers.SetResponse}, {"error_pages", w.Pages, h.Pages}, {"maintenance", w.Maintenance, h.Maintenance},
		{"basic_auth", w.Login, h.Login}, {"client_certificates", w.ClientCerts, h.ClientCerts},
	} {
		start := fmt.Sprintf("%s: %s: ", of, part.name)
		said := slices.ContainsFunc(changes, func(c string) bool { return strings.HasPrefix(c, start) })
		if said || reflect.DeepEqual(part.was, part.want) {
			continue
		}
		if part.name == "basic_auth" {
			changes = append(changes, start+otherPasswords(w.Login, h.Login))
			continue
		}
		changes = append(changes, start+"what it says is another")
	}
	return changes
}

// otherPasswords says whose passwords are others, of the same users.
func otherPasswords(was, want *weir.Login) string {
	var others []string
	for i, u := range want.Users {
		if was.Users[i] != u {
			others = append(others, u.Name)
		}
	}
	return "another password of " + strings.Join(others, ", ")
}

// orNone joins what is said of several things.
func orNone(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// shared says who shares requests: "blue 5 %, green 10 %".
func shared(s weir.Split) string {
	var said []string
	for _, name := range slices.Sorted(maps.Keys(s)) {
		said = append(said, fmt.Sprintf("%s %d %%", name, s[name]))
	}
	return orNone(said)
}

// grouped says what groups there are: "green by the tag green, split: none".
func grouped(all []weir.TargetGroup) string {
	var said []string
	for _, g := range all {
		words := g.Name
		switch {
		case g.Tag != "":
			words += " by the tag " + g.Tag
		case len(g.Machines) > 0:
			words += fmt.Sprintf(" of droplets %v", g.Machines)
		}
		if g.Port != 0 {
			words += fmt.Sprintf(" at port %d", g.Port)
		}
		if g.Health != nil {
			words += " checked by " + spoken(*g.Health)
		}
		if len(g.Split) > 0 {
			words += " shared with " + shared(g.Split)
		}
		said = append(said, words)
	}
	return orNone(said)
}

// routed says where routes lead: "api.shop.example/v1 to group api".
func routed(all []weir.Route) string {
	var said []string
	for _, r := range all {
		from := strings.Join(r.Hosts, "|") + r.Path
		if from == "" {
			from = "all"
		}
		switch {
		case r.Redirect != nil:
			from += " redirected"
		case r.Group != "":
			from += " to group " + r.Group
		}
		if r.Rewrite != nil {
			from += " rewritten"
		}
		said = append(said, from)
	}
	return orNone(said)
}

// headed says which headers are set and removed, without their values, of which some are secret.
func headed(set map[string]string, remove []string) string {
	var said []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		said = append(said, "set "+name)
	}
	for _, name := range remove {
		said = append(said, "remove "+name)
	}
	return orNone(said)
}

// maintained says whether a load balancer answers by itself.
func maintained(m *weir.Maintenance) string {
	switch {
	case m == nil:
		return "none"
	case m.On:
		return "on"
	}
	return "off"
}

func limited(r *weir.RateLimit) string {
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%d requests in %s", r.Requests, r.Period)
}

// entitled says who may log in.
func entitled(l *weir.Login) string {
	if l == nil {
		return "anybody"
	}
	var names []string
	for _, u := range l.Users {
		names = append(names, u.Name)
	}
	return fmt.Sprintf("%s, for %q", strings.Join(names, ", "), l.Realm)
}

func certified(c *weir.ClientCertificates) string {
	switch {
	case c == nil:
		return "none"
	case c.Optional:
		return "asked for"
	}
	return "demanded"
}
